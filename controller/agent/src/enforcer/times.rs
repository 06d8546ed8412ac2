//! Times on the clock of flows: until when connections from before are adopted, and policy
//! denies an endpoint nothing.
//!
//! They lie in the kernel and are over without an agent. The clock comes round after some
//! weeks, and a time with it: what has passed is ended here.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::time::Duration;

use cofferdam_dataplane::{Kernel, KernelError};
use cofferdam_verdict::bypass::MAX_JIFFIES;

use super::Enforcer;
use crate::links::Links;

impl Enforcer<Kernel> {
    /// Returns the end of the time in which connections from before are adopted on an
    /// interface, if no filters have been on it: where there is a record they have, and
    /// the time is that of the record. 0 if none are adopted.
    pub fn deadline(&self, ifindex: u32) -> u32 {
        if let Some(endpoint) = self.in_force.endpoints.get(&ifindex) {
            return endpoint.adopt_until;
        }
        if self.adopt_midstream.is_zero() {
            return 0;
        }
        let deadline = self.kernel.jiffies_after(self.adopt_midstream);
        deadline.unwrap_or_else(|error| {
            tracing::error!("{}; connections from before are not adopted", chain(&error));
            0
        })
    }

    /// Ends deadlines that have passed, here and in the kernel: its clock comes round.
    pub fn end_deadlines(&mut self, links: &mut Links) {
        if !links.has_deadlines() {
            return;
        }
        match self.kernel.jiffies() {
            Ok(now) => {
                for ifindex in links.end_deadlines(now) {
                    self.kernel.end_adoption(ifindex);
                    if let Some(endpoint) = self.in_force.endpoints.get_mut(&ifindex) {
                        endpoint.adopt_until = 0;
                    }
                }
            }
            Err(error) => tracing::error!("cannot read the clock of flows: {}", chain(&error)),
        }
    }

    /// Lets policy deny an endpoint nothing for a time; no time ends that. Returns `false` if
    /// there is no endpoint.
    ///
    /// # Errors
    /// When the clock of flows cannot be read.
    pub fn bypass(&mut self, ifindex: u32, time: Duration) -> Result<bool, KernelError> {
        let until = match time.is_zero() {
            true => 0,
            false => self.kernel.jiffies_after(time)?,
        };
        let is_there = self.kernel.bypass(ifindex, until);
        match until {
            0 => _ = self.bypasses.remove(&ifindex),
            _ if is_there => _ = self.bypasses.insert(ifindex, until),
            _ => {}
        }
        Ok(is_there)
    }

    /// Times that are left in which policy denies endpoints nothing, by their interfaces; zero
    /// where it is over and has not been ended.
    ///
    /// # Errors
    /// When the clock of flows cannot be read.
    pub fn bypasses(&self) -> Result<BTreeMap<u32, Duration>, KernelError> {
        if self.bypasses.is_empty() {
            return Ok(BTreeMap::new());
        }
        let now = self.kernel.jiffies()?;
        let left = self.bypasses.iter().map(|(ifindex, until)| {
            let is_over = until.wrapping_sub(now) > MAX_JIFFIES;
            let left = match is_over {
                true => Duration::ZERO,
                false => self.kernel.time_between(now, *until)?,
            };
            Ok((*ifindex, left))
        });
        left.collect()
    }
}
