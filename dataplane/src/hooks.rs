//! The places on an interface where the programs stand, and what stands there.

use std::io;

use cofferdam_verdict::counter::Hook;

use crate::{
    attach::{AttachError, failed},
    kernel::Kernel,
    netlink::{self, Filter, Parent},
    programs::Program,
    sys::{
        self,
        tcx::{self, AttachType, Standing},
    },
};

/// Priority of our filters: before whatever another tool adds by default.
pub(crate) const FILTER_PRIORITY: u16 = 1;
/// The handles by which we know our filters. Two, because a filter that others
/// have put theirs before is followed by a new one before it is taken off.
pub(crate) const FILTER_HANDLES: [u32; 2] = [0x00c0_ffe1, 0x00c0_ffe2];

/// Programs and filters in one of our places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookState {
    /// `tcx_ingress`, `tcx_egress`, `clsact_ingress` or `clsact_egress`.
    pub hook: &'static str,
    /// The program that belongs there.
    pub program: Program,
    /// The kernel's number of the program of ours that stands there, if one does.
    pub program_id: Option<u32>,
    /// `true` if packets meet it before anything else in this place.
    pub first: bool,
    /// `true` if programs or filters of others stand there as well. Where one does,
    /// [`Endpoint::shared_hooks`](crate::Endpoint::shared_hooks) belongs set.
    pub foreign: bool,
    /// `true` if all is as it should be: our program, of this kernel side, first, and once.
    pub ok: bool,
}

/// A program or filter of others in one of our places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// As [`HookState::hook`].
    pub hook: &'static str,
    /// `true` if packets meet it before ours.
    pub before: bool,
}

/// The name of a program's place.
pub(crate) fn name(program: Program) -> &'static str {
    match (program.hook, program.filter) {
        (Hook::ToWorkload | Hook::UplinkEgress, false) => "tcx_egress",
        (Hook::ToWorkload | Hook::UplinkEgress, true) => "clsact_egress",
        (_, false) => "tcx_ingress",
        (_, true) => "clsact_ingress",
    }
}

/// Returns the place of a program's link.
pub(crate) fn attach_type(program: Program) -> AttachType {
    match program.hook {
        Hook::FromWorkload | Hook::UplinkIngress => AttachType::Ingress,
        Hook::ToWorkload | Hook::UplinkEgress => AttachType::Egress,
    }
}

/// Returns the place of a program's filter.
pub(crate) fn parent(program: Program) -> Parent {
    match program.hook {
        Hook::FromWorkload | Hook::UplinkIngress => Parent::Ingress,
        Hook::ToWorkload | Hook::UplinkEgress => Parent::Egress,
    }
}

/// Returns `true` if a filter is one of ours, by this agent or one before.
pub(crate) fn is_ours(filter: &Filter) -> bool {
    filter.priority == FILTER_PRIORITY
        && filter.program_id.is_some()
        && FILTER_HANDLES.contains(&filter.handle)
}

impl Kernel {
    /// Returns the present state of an interface's hooks, one for each of our places. A kernel
    /// without tcx has two of them.
    ///
    /// # Errors
    ///
    /// Fails if the interface is not in the caller's network namespace, and if the kernel
    /// refuses.
    pub fn hooks(&self, ifindex: u32) -> Result<Vec<HookState>, AttachError> {
        self.states(ifindex, &Program::OF_WORKLOADS)
    }

    pub(crate) fn states(
        &self,
        ifindex: u32,
        programs: &[Program],
    ) -> Result<Vec<HookState>, AttachError> {
        let states = programs.iter().map(|&program| {
            let looked = if program.filter {
                self.look_at_filters(ifindex, program).map(Some)
            } else {
                self.look_at_links(ifindex, program)
            };
            looked.map_err(failed("look at", program, ifindex))
        });
        states.filter_map(Result::transpose).collect()
    }

    /// Returns `true` if the links on an interface are as they should be and nobody else's
    /// stand beside them; a few microseconds, where [`Kernel::hooks`] lists filters as well.
    /// `None` on a kernel without tcx.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn links_stand(&self, ifindex: u32) -> Result<Option<bool>, AttachError> {
        self.all_links_stand(ifindex, &Program::OF_WORKLOADS)
    }

    /// Returns `true` if programs that judge a workload stand on an interface, those of an
    /// agent before included.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn judges_on(&self, ifindex: u32) -> Result<bool, AttachError> {
        // Of a program that has just gone nothing is known: it may have judged.
        let clears = |id| {
            let name = sys::program_name(id);
            let mut uplinks = Program::OF_UPLINKS.into_iter();
            name.is_ok_and(|name| uplinks.any(|program| program.name == name))
        };
        let states = self.hooks(ifindex)?;
        let mut ids = states.iter().filter_map(|state| state.program_id);
        Ok(ids.any(|id| !clears(id)))
    }

    /// Programs and filters of others on an interface.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn foreign(&self, ifindex: u32) -> Result<Vec<Foreign>, AttachError> {
        let mut foreign = Vec::new();
        for state in self.hooks(ifindex)? {
            if state.foreign {
                foreign.push(Foreign {
                    hook: state.hook,
                    before: !state.first && state.program_id.is_some(),
                });
            }
        }
        Ok(foreign)
    }

    pub(crate) fn all_links_stand(
        &self,
        ifindex: u32,
        programs: &[Program],
    ) -> Result<Option<bool>, AttachError> {
        for &program in programs.iter().filter(|program| !program.filter) {
            let standing = tcx::query(ifindex, attach_type(program))
                .map_err(failed("look at", program, ifindex))?;
            let Some(standing) = standing else {
                return Ok(None);
            };
            // As nearly always: asked of hundreds of interfaces some times a second.
            if let [only] = standing.as_slice()
                && self.programs.id(program) == Some(only.program_id)
            {
                continue;
            }
            let state = self.state_of_links(ifindex, program, &standing);
            if !state.ok || state.foreign {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    fn look_at_links(&self, ifindex: u32, program: Program) -> io::Result<Option<HookState>> {
        let standing = tcx::query(ifindex, attach_type(program))?;
        Ok(standing.map(|standing| self.state_of_links(ifindex, program, &standing)))
    }

    fn state_of_links(&self, ifindex: u32, program: Program, standing: &[Standing]) -> HookState {
        // Asked only about a program that is not of this kernel side: it takes four calls.
        let ours = |one: &Standing| {
            self.is_any_current(one.program_id)
                || one.link_id != 0 && self.link_id(ifindex, program) == Some(one.link_id)
        };
        let ids = standing.iter().map(|one| (one.program_id, ours(one)));
        self.state(program, ids)
    }

    fn look_at_filters(&self, ifindex: u32, program: Program) -> io::Result<HookState> {
        let filters = netlink::filters(ifindex, parent(program))?;
        let ids = filters
            .iter()
            .map(|filter| (filter.program_id.unwrap_or(0), is_ours(filter)));
        Ok(self.state(program, ids))
    }

    /// Sums up what stands in a place: programs' numbers in order, and whether each
    /// is ours.
    fn state(&self, program: Program, standing: impl Iterator<Item = (u32, bool)>) -> HookState {
        let mut state = HookState {
            hook: name(program),
            program,
            program_id: None,
            first: false,
            foreign: false,
            ok: false,
        };
        for (place, (id, ours)) in standing.enumerate() {
            if !ours {
                state.foreign = true;
            } else if state.program_id.is_none() {
                state.program_id = Some(id);
                state.first = place == 0;
                state.ok = state.first && self.is_current(program, id);
            } else {
                state.ok = false;
            }
        }
        state
    }

    /// Returns `true` if a number is that of any program of this kernel side.
    pub(crate) fn is_any_current(&self, id: u32) -> bool {
        let mut programs = Program::ALWAYS.into_iter().chain(Program::LATER);
        programs.any(|program| self.is_current(program, id))
    }

    /// Returns `true` if a number is that of this kernel side's program, or its twin's.
    pub(crate) fn is_current(&self, program: Program, id: u32) -> bool {
        let twins = self.pins.as_ref().map(|pins| &pins.twins);
        let twin = twins.and_then(|twins| twins.get(program.name));
        self.programs.id(program) == Some(id)
            || twin.is_some_and(|twin| twin.id(program) == Some(id))
    }
}
