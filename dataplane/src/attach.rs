//! Puts the programs on a workload's hooks, both ways at once.
//!
//! clsact filters first: they cost half a millisecond, and they stay when the BPF
//! file system is lost while the agent is dead. A tcx link on top, where the
//! kernel has it (6.6): the cheap hook for packets. A packet meets the link
//! first; the filter behind judges only what no link has.
//!
//! Whatever stands is repaired make-before-break: a program is replaced in its
//! place by one store; where the place is wrong because others came first, a
//! second one is put before them, and then the one behind is taken off. The same
//! program cannot stand twice on a tcx hook, so that the second is a twin: the same
//! code, loaded again.

use std::{
    collections::{BTreeSet, btree_map::Entry},
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::net::if_::{if_indextoname, if_nameindex, if_nametoindex};
use thiserror::Error;

use crate::{
    hooks::{FILTER_HANDLES, FILTER_PRIORITY, attach_type, is_ours, name, parent},
    kernel::{Kernel, KernelError},
    netlink,
    programs::{NOTES_LEAVING, OBJECT, Program, Programs},
    sys::tcx::{self, Standing},
};

/// Reason for which a program is not on its hook.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There is no such interface in the caller's network namespace.
    #[error("cannot find interface {interface}")]
    Interface {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The qdisc that carries filters could not be made.
    #[error("cannot add a clsact qdisc to {interface}")]
    Qdisc {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program could not be put in its place, found there, or taken off.
    #[error("cannot {action} {program} on {interface}")]
    Place {
        /// Action that failed.
        action: &'static str,
        /// The program.
        program: Program,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program of XDP stands on the interface that is not this agent's.
    #[error(
        "another program of XDP stands on {interface} (`ip link show {interface}`): it is not \
         replaced; this one takes the place once it has gone"
    )]
    Taken {
        /// The interface.
        interface: String,
    },
    /// The kernel side was loaded for this process alone.
    #[error("nothing is pinned: attach for as long as the process lives, or open pins")]
    NotPinned,
    /// The pins could not be changed, or a twin program could not be loaded.
    #[error(transparent)]
    Kernel(#[from] Box<KernelError>),
}

impl From<KernelError> for AttachError {
    fn from(error: KernelError) -> Self {
        Self::Kernel(Box::new(error))
    }
}

/// An interface as people know it; its number when it is gone.
pub(crate) fn interface(ifindex: u32) -> String {
    let name = if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok());
    // nix takes a failure of this call for an empty name.
    let name = name.filter(|name| !name.is_empty());
    name.unwrap_or_else(|| ifindex.to_string())
}

pub(crate) fn failed(
    action: &'static str,
    program: Program,
    ifindex: u32,
) -> impl FnOnce(io::Error) -> AttachError {
    move |source| AttachError::Place {
        action,
        program,
        interface: interface(ifindex),
        source,
    }
}

const FILTERS: [Program; 2] = [Program::FROM_WORKLOAD_FILTER, Program::TO_WORKLOAD_FILTER];
const LINKS: [Program; 2] = [Program::FROM_WORKLOAD, Program::TO_WORKLOAD];

/// The programs on one interface, for as long as this value lives. They are taken
/// off when it is dropped, which must be in the network namespace they were
/// attached in: a filter is named by its interface's index.
#[derive(Debug)]
pub struct Attachments {
    ifindex: u32,
    filters: Vec<Program>,
    links: Vec<OwnedFd>,
}

impl Attachments {
    /// Returns `true` if tcx links stand before the filters.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Returns `true` if filters stand behind the links.
    pub fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Takes the tcx links off and leaves the filters.
    pub fn drop_links(&mut self) {
        for link in self.links.drain(..) {
            // What does not come off by name does so when it is closed.
            let _closed = tcx::detach(link.as_fd());
        }
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.drop_links();
        for &filter in &self.filters {
            // An interface that is gone has taken its filters along.
            let _gone = take_filters_off(self.ifindex, filter);
        }
    }
}

impl Kernel {
    /// Attaches the programs to an interface of the caller's network namespace,
    /// until the value that is returned is dropped.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses; nothing stays attached then. A kernel without tcx is no
    /// error: the filters do all the work there.
    pub fn attach(&self, interface: &str) -> Result<Attachments, AttachError> {
        self.attach_these(interface, &FILTERS, &LINKS)
    }

    /// Attaches programs as [`Kernel::attach`] does.
    pub(crate) fn attach_these(
        &self,
        interface: &str,
        filters: &[Program],
        links: &[Program],
    ) -> Result<Attachments, AttachError> {
        let ifindex = if_nametoindex(interface).map_err(|errno| AttachError::Interface {
            interface: interface.to_owned(),
            source: errno.into(),
        })?;
        let mut attachments = Attachments {
            ifindex,
            filters: Vec::new(),
            links: Vec::new(),
        };
        add_clsact(ifindex)?;
        for &program in filters {
            attachments.filters.push(program);
            self.put_filter(ifindex, program)
                .map_err(failed("attach", program, ifindex))?;
        }
        for &program in links {
            let failed = || failed("attach", program, ifindex);
            let has_tcx = tcx::query(ifindex, attach_type(program)).map_err(failed())?;
            if has_tcx.is_some() {
                let link = put_new_link(&self.programs, ifindex, program);
                attachments.links.push(link.map_err(failed())?);
            }
        }
        Ok(attachments)
    }

    /// Puts the programs on an interface of the caller's network namespace to stay,
    /// also after this process: adopts what is ours and right, repairs the rest
    /// make-before-break. Doing it again changes nothing.
    ///
    /// A kernel without tcx has the filters only. A link costs a grace period to
    /// attach, some 12 ms; who cannot wait calls [`Kernel::guard`] first.
    ///
    /// # Errors
    ///
    /// The first of what the kernel refused; the rest has been done.
    pub fn enforce_on(&mut self, ifindex: u32) -> Result<(), AttachError> {
        let filters = self.guard(ifindex);
        let links = LINKS.map(|program| self.put_link(ifindex, program));
        filters?;
        links.into_iter().collect::<Result<(), _>>()?;
        self.no_longer_behind(ifindex)
    }

    /// The quick half of [`Kernel::enforce_on`]: the filters, which judge as well
    /// as the links do.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn guard(&mut self, ifindex: u32) -> Result<(), AttachError> {
        if self.pins.is_none() {
            return Err(AttachError::NotPinned);
        }
        add_clsact(ifindex)?;
        let filters = FILTERS.map(|program| {
            self.put_filter(ifindex, program)
                .map_err(failed("attach", program, ifindex))
        });
        filters.into_iter().collect::<Result<(), _>>()?;
        for program in LINKS {
            self.take_over_link(ifindex, program)
                .map_err(failed("attach", program, ifindex))?;
        }
        Ok(())
    }

    /// Gives the link in a place of an interface its program, if a link stands there: one
    /// that was put while the interface was no endpoint's would drop the workload's
    /// packets, and take the stamps off those towards it. Costs no grace period.
    fn take_over_link(&self, ifindex: u32, program: Program) -> io::Result<()> {
        let Some((link, id)) = self.find_link(ifindex, program) else {
            return Ok(());
        };
        let standing = tcx::query(ifindex, attach_type(program))?.unwrap_or_default();
        let behind = standing
            .iter()
            .any(|one| one.link_id == id && !self.is_current(program, one.program_id));
        if behind {
            tcx::update(link.as_fd(), self.programs.fd(program)?)?;
        }
        Ok(())
    }

    /// Takes the programs off an interface, and unpins its links. An interface that
    /// is gone is no error.
    ///
    /// # Errors
    ///
    /// The first of what the kernel refused; the rest has been done.
    pub fn leave(&mut self, ifindex: u32) -> Result<(), AttachError> {
        let links = LINKS.map(|program| self.detach_link(ifindex, program));
        let filters = FILTERS.map(|program| {
            take_filters_off(ifindex, program).map_err(failed("detach", program, ifindex))
        });
        links
            .into_iter()
            .chain([self.stop_early_drop(ifindex)])
            .chain(filters)
            .collect::<Result<(), _>>()?;
        self.no_longer_behind(ifindex)
    }

    /// Takes the link in a place of an interface off, and unpins it.
    fn detach_link(&mut self, ifindex: u32, program: Program) -> Result<(), AttachError> {
        self.detach_place(ifindex, name(program), program)
    }

    /// Takes the link in a place of this name off, and unpins it.
    pub(crate) fn detach_place(
        &mut self,
        ifindex: u32,
        hook: &'static str,
        program: Program,
    ) -> Result<(), AttachError> {
        let pins = self.pins.as_mut().ok_or(AttachError::NotPinned)?;
        let held = pins.links.remove(&(ifindex, hook));
        let pinned = pins.pinned_link(ifindex, hook);
        for link in held.into_iter().chain(pinned) {
            detach_from(&link, ifindex).map_err(failed("detach", program, ifindex))?;
        }
        Ok(pins.unpin_link(ifindex, hook)?)
    }

    /// The interfaces of the caller's network namespace on which something of ours
    /// stands, by this agent or one before.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses.
    pub fn attached_interfaces(&self) -> Result<Vec<u32>, AttachError> {
        let mut attached = Vec::new();
        for ifindex in interfaces()? {
            let states = self.hooks(ifindex)?;
            if states.iter().any(|state| state.program_id.is_some()) {
                attached.push(ifindex);
            }
        }
        Ok(attached)
    }

    /// Takes everything of ours off the interfaces of the caller's network
    /// namespace, and unpins it: nothing judges any more.
    ///
    /// # Errors
    ///
    /// Fails with the kernel's first refusal; everything before it is off.
    pub fn dismantle(mut self) -> Result<(), KernelError> {
        let mut interfaces: BTreeSet<u32> = self.attached_interfaces()?.into_iter().collect();
        if let Some(pins) = &self.pins {
            interfaces.append(&mut pins.linked_interfaces()?);
        }
        for ifindex in interfaces {
            self.leave(ifindex)?;
        }
        match self.pins.take() {
            Some(pins) => pins.remove_all(),
            None => Ok(()),
        }
    }

    /// Makes a filter of ours stand first of all filters, and no second one behind.
    pub(crate) fn put_filter(&self, ifindex: u32, program: Program) -> io::Result<()> {
        let parent = parent(program);
        let filters = netlink::filters(ifindex, parent)?;
        let first = filters.first().filter(|filter| is_ours(filter));
        let right = first.is_some_and(|filter| filter.program_id == self.programs.id(program));
        let handle = match first {
            Some(filter) => filter.handle,
            // The newest of a priority is met first.
            None => FILTER_HANDLES
                .into_iter()
                .find(|&handle| !filters.iter().any(|filter| filter.handle == handle))
                .ok_or_else(|| io::Error::other("others have filters under our handles"))?,
        };
        if !right {
            let key = (FILTER_PRIORITY, handle);
            netlink::set_filter(
                ifindex,
                parent,
                key,
                self.programs.fd(program)?,
                program.name,
            )?;
        }
        for filter in filters.iter().filter(|filter| is_ours(filter)) {
            if filter.handle != handle {
                netlink::delete_filter(ifindex, parent, (filter.priority, filter.handle))?;
            }
        }
        Ok(())
    }

    /// Makes a pinned link of ours stand first.
    pub(crate) fn put_link(&mut self, ifindex: u32, program: Program) -> Result<(), AttachError> {
        let failed = || failed("attach", program, ifindex);
        let Some(standing) = tcx::query(ifindex, attach_type(program)).map_err(failed())? else {
            return Ok(());
        };
        let hook = name(program);
        let place = self.find_link(ifindex, program).and_then(|(link, id)| {
            let place = standing.iter().position(|one| one.link_id == id)?;
            Some((link, place))
        });
        let link = match place {
            Some((link, 0)) => {
                if !self.is_current(program, standing[0].program_id) {
                    let fd = self.programs.fd(program).map_err(failed())?;
                    tcx::update(link.as_fd(), fd).map_err(failed())?;
                }
                link
            }
            Some((behind, _)) => self.put_first(ifindex, program, &standing, Some(&behind))?,
            None => self.put_first(ifindex, program, &standing, None)?,
        };
        let pins = self.pins.as_mut().ok_or(AttachError::NotPinned)?;
        let pinned = pins.pin_link(ifindex, hook, &link);
        pins.links.insert((ifindex, hook), link);
        Ok(pinned?)
    }

    /// Puts a new link before all that stands, and takes the link behind off. The
    /// program may stand already, by that link or, when its pin is lost, by one
    /// that is not known: a twin is put before it then, and gives its place to the
    /// program as soon as that is free.
    fn put_first(
        &mut self,
        ifindex: u32,
        program: Program,
        standing: &[Standing],
        behind: Option<&OwnedFd>,
    ) -> Result<OwnedFd, AttachError> {
        let failed = || failed("attach", program, ifindex);
        let id = self.programs.id(program);
        let stands = standing.iter().any(|one| Some(one.program_id) == id);
        let link = if stands {
            put_new_link(self.twin(program)?, ifindex, program)
        } else {
            put_new_link(&self.programs, ifindex, program)
        };
        let link = link.map_err(failed())?;
        if let Some(behind) = behind {
            let pins = self.pins.as_mut().ok_or(AttachError::NotPinned)?;
            // Whoever dies after the next line leaves this one pinned. Where it
            // cannot be pinned, it stands all the same; the caller tries again and
            // reports.
            let _reported = pins.pin_link(ifindex, name(program), &link);
            detach_from(behind, ifindex).map_err(failed())?;
            let fd = self.programs.fd(program).map_err(failed())?;
            tcx::update(link.as_fd(), fd).map_err(failed())?;
        }
        Ok(link)
    }

    /// The same program again, loaded when it is first needed.
    fn twin(&mut self, program: Program) -> Result<&Programs, AttachError> {
        let pins = self.pins.as_mut().ok_or(AttachError::NotPinned)?;
        Ok(match pins.twins.entry(program.name) {
            Entry::Occupied(twin) => twin.into_mut(),
            Entry::Vacant(place) => {
                let only = |name: &str| name == program.name;
                let variables = [(NOTES_LEAVING, u32::from(self.early_drop))];
                place.insert(Programs::load(
                    OBJECT,
                    &self.maps,
                    &self.settings,
                    &variables,
                    only,
                )?)
            }
        })
    }

    /// The link held or pinned for a place of an interface, with its number: by that
    /// the kernel lists it there, or does not.
    fn find_link(&self, ifindex: u32, program: Program) -> Option<(OwnedFd, u32)> {
        let pins = self.pins.as_ref()?;
        let hook = name(program);
        let held = pins
            .links
            .get(&(ifindex, hook))
            .and_then(|link| link.try_clone().ok());
        let pinned = || pins.pinned_link(ifindex, hook);
        let alive = |link: OwnedFd| {
            let info = tcx::link_info(link.as_fd()).ok()??;
            (info.ifindex != 0).then_some((link, info.id))
        };
        held.and_then(alive).or_else(|| pinned().and_then(alive))
    }

    /// The number of that link.
    pub(crate) fn link_id(&self, ifindex: u32, program: Program) -> Option<u32> {
        self.find_link(ifindex, program).map(|(_, id)| id)
    }

    /// Notes that an interface has nothing but what it should have. When none has,
    /// what was pinned for older attachments goes.
    pub(crate) fn no_longer_behind(&mut self, ifindex: u32) -> Result<(), AttachError> {
        if !self.pins.as_ref().is_some_and(|pins| pins.leftovers) {
            return Ok(());
        }
        // Programs of the agent before may have checked entries in their own way.
        self.renew_generation();
        let all = interfaces()?;
        let known = self.pins.as_mut().and_then(|pins| pins.behind.take());
        let mut behind = match known {
            Some(behind) => behind,
            None => self.look_behind(&all)?,
        };
        behind.remove(&ifindex);
        // An interface that is gone has taken its attachments along.
        behind.retain(|ifindex| all.contains(ifindex));
        let pins = self.pins.as_mut().ok_or(AttachError::NotPinned)?;
        if behind.is_empty() {
            pins.remove_leftovers()?;
        } else {
            pins.behind = Some(behind);
        }
        Ok(())
    }

    /// The interfaces on which programs of an agent before stand.
    fn look_behind(&self, all: &BTreeSet<u32>) -> Result<BTreeSet<u32>, AttachError> {
        let mut behind = BTreeSet::new();
        for &ifindex in all {
            let old = |state: &crate::hooks::HookState| {
                state.program_id.is_some_and(|id| !self.is_any_current(id))
            };
            if self.hooks(ifindex)?.iter().any(old) {
                behind.insert(ifindex);
            }
        }
        Ok(behind)
    }
}

/// Interfaces of the caller's network namespace.
fn interfaces() -> Result<BTreeSet<u32>, AttachError> {
    let all = if_nameindex().map_err(|errno| AttachError::Interface {
        interface: "by listing all".to_owned(),
        source: errno.into(),
    })?;
    Ok(all.iter().map(|interface| interface.index()).collect())
}

fn add_clsact(ifindex: u32) -> Result<(), AttachError> {
    netlink::add_clsact(ifindex).map_err(qdisc_failed(ifindex))
}

pub(crate) fn qdisc_failed(ifindex: u32) -> impl FnOnce(io::Error) -> AttachError {
    move |source| AttachError::Qdisc {
        interface: interface(ifindex),
        source,
    }
}

/// A new link, first in order.
fn put_new_link(programs: &Programs, ifindex: u32, program: Program) -> io::Result<OwnedFd> {
    tcx::link(programs.fd(program)?, ifindex, attach_type(program))
}

/// Takes a link off an interface, unless it is not on it any more.
fn detach_from(link: &OwnedFd, ifindex: u32) -> io::Result<()> {
    match tcx::link_info(link.as_fd())? {
        Some(info) if info.ifindex == ifindex => tcx::detach(link.as_fd()),
        _ => Ok(()),
    }
}

/// Takes our filters in one place off an interface, whoever put them there.
fn take_filters_off(ifindex: u32, program: Program) -> io::Result<()> {
    let parent = parent(program);
    for filter in netlink::filters(ifindex, parent)? {
        if is_ours(&filter) {
            netlink::delete_filter(ifindex, parent, (filter.priority, filter.handle))?;
        }
    }
    Ok(())
}
