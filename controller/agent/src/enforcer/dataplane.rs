//! The side on which a plan is carried out: the kernel, or memory in its place.

use std::net::IpAddr;
use std::time::Instant;

use cofferdam_dataplane::{AttachError, Endpoint, Kernel, Program, RuleHits, TestContext};
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::slices::SliceMemory;
use cofferdam_verdict::verdict::Verdict;

use super::plan::Action;

/// Something that judges packets by what it is given.
pub trait Dataplane {
    /// Carries an action out, and returns when it took effect.
    ///
    /// # Errors
    /// When it is refused: nothing of it has happened then.
    fn carry_out(&mut self, action: &Action) -> Result<Instant, AttachError>;

    /// The sizes of its tables.
    fn limits(&self) -> &Limits;

    /// Number of the table in force, whoever published it.
    fn revision(&self) -> Option<u64>;

    /// Greatest number of a table that flows in force may be of.
    fn last_revision(&self) -> u64;

    /// Addresses with the slots that they lead to.
    fn bound_addresses(&self) -> Vec<(IpAddr, u32)>;

    /// Endpoints in force.
    fn endpoints(&self) -> Vec<Endpoint>;

    /// Hits of rules under a table.
    fn rule_hits(&self, revision: u64) -> Vec<RuleHits>;

    /// Memory that packets are judged by.
    fn memory(&self) -> SliceMemory<'_>;

    /// Asks a program about a packet that nobody sends; see [`Kernel::probe`].
    ///
    /// # Errors
    /// When it cannot be asked.
    fn probe(
        &self,
        program: Program,
        frame: &[u8],
        context: &TestContext,
    ) -> Result<Option<(Verdict, Verdict)>, AttachError>;
}

impl Dataplane for Kernel {
    fn carry_out(&mut self, action: &Action) -> Result<Instant, AttachError> {
        match action {
            Action::Deny(ifindex) => _ = self.deny_all(*ifindex),
            Action::Release(address) => _ = self.release_address(*address),
            Action::Fill(entry) => self.set_slot(entry.slot, entry.profile)?,
            Action::Publish(table) => return Ok(self.publish(table.pages())?),
            Action::Bind(address, slot) => self.bind_address(*address, *slot)?,
            Action::Set(endpoint) => self.set_endpoint(endpoint)?,
            Action::Guard(ifindex) => self.guard(*ifindex)?,
            Action::Attach(ifindex) => self.enforce_on(*ifindex)?,
            Action::Remove(ifindex) => {
                self.remove_endpoint(*ifindex);
                self.leave(*ifindex)?;
            }
        }
        Ok(Instant::now())
    }

    fn limits(&self) -> &Limits {
        self.limits()
    }

    fn revision(&self) -> Option<u64> {
        self.revision()
    }

    fn last_revision(&self) -> u64 {
        self.last_revision()
    }

    fn bound_addresses(&self) -> Vec<(IpAddr, u32)> {
        self.bound_addresses()
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints()
    }

    fn rule_hits(&self, revision: u64) -> Vec<RuleHits> {
        self.rule_hits(revision).collect()
    }

    fn memory(&self) -> SliceMemory<'_> {
        self.memory()
    }

    fn probe(
        &self,
        program: Program,
        frame: &[u8],
        context: &TestContext,
    ) -> Result<Option<(Verdict, Verdict)>, AttachError> {
        Ok(self.probe(program, frame, context)?)
    }
}
