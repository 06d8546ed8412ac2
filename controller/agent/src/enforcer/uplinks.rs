//! Programs on interfaces that are no endpoint's, and the early drop of frames.

use std::collections::BTreeSet;

use cofferdam_dataplane::{AttachError, Kernel, Uplink, XdpMode};

use super::Enforcer;

impl Enforcer<Kernel> {
    /// Puts the filters on an interface that is no endpoint's, unless they are there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard_uplink(&mut self, ifindex: u32, uplink: Uplink) -> Result<(), AttachError> {
        self.kernel.guard_uplink(ifindex, uplink)
    }

    /// Puts filters and links on an interface that is no endpoint's, unless they are there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enforce_uplink(&mut self, ifindex: u32, uplink: Uplink) -> Result<(), AttachError> {
        self.kernel.enforce_uplink(ifindex, uplink)
    }

    /// Repairs what stands on an interface that is no endpoint's, where others changed it;
    /// returns `true` if it had to. Filters are looked at if a link is not as it should be, or
    /// if `filters` says so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mend_uplink(
        &mut self,
        ifindex: u32,
        uplink: Uplink,
        filters: bool,
    ) -> Result<bool, AttachError> {
        if !filters && self.kernel.uplink_links_stand(ifindex, uplink)? != Some(false) {
            return Ok(false);
        }
        let states = self.kernel.uplink_hooks(ifindex, uplink)?;
        if states.iter().all(|state| state.ok) {
            return Ok(false);
        }
        self.kernel.enforce_uplink(ifindex, uplink)?;
        Ok(true)
    }

    /// Drops frames early on an interface. Returns the mode, and whether the program did not
    /// stand there before.
    ///
    /// # Errors
    /// When a program of others stands there, and what the kernel refuses.
    pub fn drop_early_on(
        &mut self,
        ifindex: u32,
        allows_generic: bool,
    ) -> Result<(XdpMode, bool), AttachError> {
        if let Some(mode) = self.kernel.drops_early_on(ifindex) {
            return Ok((mode, false));
        }
        let mode = self.kernel.drop_early_on(ifindex, allows_generic)?;
        Ok((mode, true))
    }

    /// Stops dropping frames early on all interfaces but some.
    ///
    /// # Errors
    /// When the program does not come off.
    pub fn stop_early_drop_but(&mut self, wanted: &BTreeSet<u32>) -> Result<(), AttachError> {
        for ifindex in self.kernel.early_drops()? {
            if !wanted.contains(&ifindex) {
                self.kernel.stop_early_drop(ifindex)?;
            }
        }
        Ok(())
    }
}
