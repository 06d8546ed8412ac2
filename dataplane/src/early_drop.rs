//! Puts the program on uplinks that drops frames before the node's stack sees them (XDP).
//!
//! The workload's hooks decide alone; this saves what it costs to bring a packet to them. So
//! nothing here is done twice, or first: an interface with a program of others keeps that.
//!
//! A link holds the program, pinned like those of workloads under the name of its mode. The
//! next agent adopts it, and puts its own program on it by one store.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use crate::{
    attach::{AttachError, failed, interface},
    kernel::Kernel,
    programs::Program,
    sys::{ethtool, tcx},
};

/// Place in the driver's way of a frame where the program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// In the driver: frames that are dropped cost nearly nothing.
    Native,
    /// Behind the driver, where the kernel has made a buffer for the packet.
    Generic,
}

impl XdpMode {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The name in JSON and as the `mode` label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// The name of the place, for the link's pin.
    const fn hook(self) -> &'static str {
        match self {
            Self::Native => "xdp_native",
            Self::Generic => "xdp_generic",
        }
    }

    /// `XDP_FLAGS_DRV_MODE` or `XDP_FLAGS_SKB_MODE`.
    const fn flags(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
        }
    }
}

/// Returns `true` if the device takes VLAN tags off frames before a program sees them: then
/// no program can tell a frame of a VLAN from others.
///
/// # Errors
///
/// Fails if the interface is not in the caller's network namespace.
pub fn strips_tags(interface: &str) -> io::Result<bool> {
    ethtool::strips_tags(interface)
}

impl Kernel {
    /// Puts the program on an interface, to stay, or adopts the one that stands. In generic
    /// mode only if the driver has no other and the caller `allows_generic`.
    ///
    /// # Errors
    ///
    /// Fails if a program of others stands there, and if the kernel refuses.
    pub fn drop_early_on(
        &mut self,
        ifindex: u32,
        allows_generic: bool,
    ) -> Result<XdpMode, AttachError> {
        let program = Program::UPLINK_INGRESS;
        if self.pins.is_none() {
            return Err(AttachError::NotPinned);
        }
        self.load_later(program)?;
        if let Some(mode) = self.drops_early_on(ifindex) {
            return Ok(mode);
        }
        let refused = || {
            move |error: io::Error| match error.raw_os_error() {
                // A program stands in this mode, or in the other.
                Some(libc::EBUSY | libc::EEXIST) => AttachError::Taken {
                    interface: interface(ifindex),
                },
                _ => failed("attach", program, ifindex)(error),
            }
        };
        let fd = self.programs.fd(program).map_err(refused())?;
        for mode in XdpMode::ALL {
            if let Some((link, _)) = self.early_link(ifindex, mode) {
                // An agent's before: its program is another.
                tcx::update(link.as_fd(), fd).map_err(refused())?;
                self.keep_early_link(ifindex, mode, link)?;
                return Ok(mode);
            }
        }
        let attached = tcx::link_xdp(fd, ifindex, XdpMode::Native.flags());
        let (mode, link) = match attached {
            Ok(link) => (XdpMode::Native, link),
            Err(error) if allows_generic && error.raw_os_error() != Some(libc::EBUSY) => {
                let link = tcx::link_xdp(fd, ifindex, XdpMode::Generic.flags());
                (XdpMode::Generic, link.map_err(refused())?)
            }
            Err(error) => return Err(refused()(error)),
        };
        self.keep_early_link(ifindex, mode, link)?;
        Ok(mode)
    }

    fn keep_early_link(
        &mut self,
        ifindex: u32,
        mode: XdpMode,
        link: OwnedFd,
    ) -> Result<(), AttachError> {
        let pins = self.pins.as_mut().ok_or(AttachError::NotPinned)?;
        let pinned = pins.pin_link(ifindex, mode.hook(), &link);
        pins.links.insert((ifindex, mode.hook()), link);
        Ok(pinned?)
    }

    /// The link held or pinned for a mode, with its program's number, if it is on the interface.
    fn early_link(&self, ifindex: u32, mode: XdpMode) -> Option<(OwnedFd, u32)> {
        let pins = self.pins.as_ref()?;
        let held = pins
            .links
            .get(&(ifindex, mode.hook()))
            .and_then(|link| link.try_clone().ok());
        let link = held.or_else(|| pins.pinned_link(ifindex, mode.hook()))?;
        let info = tcx::link_info(link.as_fd()).ok()??;
        (info.ifindex == ifindex).then_some((link, info.program_id))
    }

    /// The mode in which this agent's program stands on an interface, if it does.
    pub fn drops_early_on(&self, ifindex: u32) -> Option<XdpMode> {
        let id = self.programs.id(Program::UPLINK_INGRESS)?;
        let stands = |mode: &XdpMode| {
            let link = self.early_link(ifindex, *mode);
            link.is_some_and(|(_, program_id)| program_id == id)
        };
        XdpMode::ALL.into_iter().find(stands)
    }

    /// Takes the program off an interface, by this agent or one before.
    ///
    /// # Errors
    ///
    /// The first of what the kernel refused; the rest has been done.
    pub fn stop_early_drop(&mut self, ifindex: u32) -> Result<(), AttachError> {
        let off = XdpMode::ALL
            .map(|mode| self.detach_place(ifindex, mode.hook(), Program::UPLINK_INGRESS));
        off.into_iter().collect()
    }

    /// The interfaces for which links of this program are pinned.
    ///
    /// # Errors
    ///
    /// Fails if the pins cannot be listed.
    pub fn early_drops(&self) -> Result<BTreeSet<u32>, AttachError> {
        let pins = self.pins.as_ref().ok_or(AttachError::NotPinned)?;
        let mut linked = BTreeSet::new();
        for mode in XdpMode::ALL {
            linked.append(&mut pins.linked_at(mode.hook())?);
        }
        Ok(linked)
    }
}
