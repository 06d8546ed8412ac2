//! Puts the programs on interfaces that are no endpoint's, and says what stands there.
//!
//! They stand as those of workloads do ([`crate::attach`]), in the same places: an interface
//! that becomes an endpoint's has them replaced by one store each, and so the other way
//! round. Those of the way out are whole pipelines, loaded when the first interface needs
//! them. One program serves as link and as filter: it takes off what it judges by, so that
//! the filter behind the link has nothing left to judge.

use crate::{
    attach::{AttachError, Attachments, failed, qdisc_failed},
    hooks::{HookState, attach_type},
    kernel::{Kernel, KernelError},
    netlink::{self, Qdisc},
    programs::{NOTES_LEAVING, OBJECT, Program, Programs},
    sys::tcx,
};

/// Kind of an interface that is no endpoint's, by what crosses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Uplink {
    /// Packets leave the node, and others come in with whatever another namespace wrote into
    /// their metadata.
    Door,
    /// Packets leave the node. Those that come in are made by a driver or a process of the
    /// node, without metadata.
    Exit,
    /// A tunnel: packets leave inside others, and come in out of others, whose stamp says
    /// that a workload of this node has wrapped them.
    Tunnel,
}

impl Uplink {
    /// The programs for links, then those for filters.
    const fn programs(self) -> &'static [Program] {
        match self {
            Self::Door => &[
                Program::CLEAR_STAMP,
                Program::UPLINK_EGRESS,
                Program::CLEAR_STAMP_FILTER,
                Program::UPLINK_EGRESS_FILTER,
            ],
            Self::Exit => &[Program::UPLINK_EGRESS, Program::UPLINK_EGRESS_FILTER],
            Self::Tunnel => &[Program::TUNNEL_EGRESS, Program::TUNNEL_EGRESS_FILTER],
        }
    }

    fn of_way(self, filters: bool) -> impl Iterator<Item = Program> {
        let programs = self.programs().iter().copied();
        programs.filter(move |program| program.filter == filters)
    }
}

/// Returns `true` if a filter belongs on the way out of an interface whose qdisc has none.
fn has_no_place(program: Program, qdisc: Qdisc) -> bool {
    program.filter
        && attach_type(program) == tcx::AttachType::Egress
        && qdisc == Qdisc::StoodAsIngress
}

impl Kernel {
    /// Loads a program of [`Program::LATER`], unless it is loaded.
    ///
    /// # Errors
    ///
    /// Whatever the kernel refuses. Where only the pin fails, the program is loaded.
    pub fn load_later(&mut self, program: Program) -> Result<(), KernelError> {
        if self.programs.has(program.name) {
            return Ok(());
        }
        let only = |name: &str| name == program.name;
        let variables = [(NOTES_LEAVING, u32::from(self.early_drop))];
        let more = Programs::load(OBJECT, &self.maps, &self.settings, &variables, only)?;
        let pinned = match &self.pins {
            Some(pins) => more.pin(pins.programs()),
            None => Ok(()),
        };
        self.programs.add(more);
        pinned
    }

    /// Attaches the programs to an interface that is no endpoint's, until the value that is
    /// returned is dropped: as [`Kernel::attach`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn attach_uplink(
        &mut self,
        interface: &str,
        uplink: Uplink,
    ) -> Result<Attachments, AttachError> {
        let [filters, links] = [true, false].map(|filters| uplink.of_way(filters));
        let (filters, links): (Vec<_>, Vec<_>) = (filters.collect(), links.collect());
        for program in links
            .iter()
            .filter(|program| Program::is_later(program.name))
        {
            self.load_later(*program)?;
        }
        self.attach_these(interface, &filters, &links)
    }

    /// Puts the programs on an interface that is no endpoint's, to stay: as
    /// [`Kernel::enforce_on`] does for workloads. What judged a workload there is replaced by
    /// one store.
    ///
    /// # Errors
    ///
    /// The first of what the kernel refused; the rest has been done.
    pub fn enforce_uplink(&mut self, ifindex: u32, uplink: Uplink) -> Result<(), AttachError> {
        let filters = self.guard_uplink(ifindex, uplink);
        let mut has_links = true;
        for program in uplink.of_way(false) {
            let standing = tcx::query(ifindex, attach_type(program));
            has_links &= standing
                .map_err(failed("look at", program, ifindex))?
                .is_some();
        }
        let links: Vec<_> = uplink
            .of_way(false)
            .map(|program| self.put_link(ifindex, program))
            .collect();
        // One of both is enough where others hold the place of the other.
        if !has_links || links.iter().any(Result::is_err) {
            filters?;
        }
        links.into_iter().collect::<Result<(), _>>()?;
        self.no_longer_behind(ifindex)
    }

    /// The quick half of [`Kernel::enforce_uplink`]: the filters, which do as well as the
    /// links. There is none on the way out where an ingress qdisc stands in their place.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn guard_uplink(&mut self, ifindex: u32, uplink: Uplink) -> Result<(), AttachError> {
        if self.pins.is_none() {
            return Err(AttachError::NotPinned);
        }
        let qdisc = netlink::add_ingress(ifindex).map_err(qdisc_failed(ifindex))?;
        for program in uplink.of_way(true) {
            if Program::is_later(program.name) {
                self.load_later(program)?;
            }
            if !has_no_place(program, qdisc) {
                self.put_filter(ifindex, program)
                    .map_err(failed("attach", program, ifindex))?;
            }
        }
        Ok(())
    }

    /// Programs on an interface that is no endpoint's: a state for each place there is.
    ///
    /// # Errors
    ///
    /// As for [`Kernel::hooks`].
    pub fn uplink_hooks(
        &self,
        ifindex: u32,
        uplink: Uplink,
    ) -> Result<Vec<HookState>, AttachError> {
        let mut states = self.states(ifindex, uplink.programs())?;
        if states.iter().any(|state| !state.ok) {
            let qdisc = netlink::qdisc(ifindex).map_err(qdisc_failed(ifindex))?;
            states.retain(|state| qdisc.is_none_or(|qdisc| !has_no_place(state.program, qdisc)));
        }
        Ok(states)
    }

    /// Returns `true` if the links on such an interface are as they should be; see
    /// [`Kernel::links_stand`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn uplink_links_stand(
        &self,
        ifindex: u32,
        uplink: Uplink,
    ) -> Result<Option<bool>, AttachError> {
        self.all_links_stand(ifindex, uplink.programs())
    }
}
