//! Brings the desired state into force, and says whether all of it is.

use cofferdam_syntax::diagnostic::chain;
use std::time::{Duration, Instant};

use cofferdam_dataplane::give_memory_back;
use cofferdam_protocol::output::EndpointState;

use super::{Managed, Reconciler};
use crate::desired::Desired;
use crate::endpoint::EndpointId;
use crate::enforcer::{PublishError, Published};

/// Time from which on bringing the desired state into force counts as having put everything
/// together, and left memory behind that nothing uses.
const LONG: Duration = Duration::from_millis(500);

impl Reconciler {
    /// Makes the kernel what the desired state says, as far as it can be, for messages
    /// that have arrived at some time.
    pub(super) fn converge(&mut self, added: &[EndpointId], arrived: Instant) {
        let began = Instant::now();
        let before = self.enforcer.revision();
        self.problem = None;
        self.needs_table = false;
        self.tell_local();
        if self.documents.is_held() {
            self.problem = Some(self.documents.why_held());
            self.leave_as_is();
        } else {
            self.remember_pods();
            self.publish(added);
            self.announce();
            self.enforce();
            if self.problem.is_none() {
                self.note_in_force();
                self.documents.save();
            }
        }
        self.keep_guard();
        self.name_endpoints();
        self.unfinished = None;
        self.verify(self.depth);
        self.save_endpoints();
        self.tell_enforced();
        self.timings.reconciled(began.elapsed());
        if arrived.elapsed() > LONG {
            give_memory_back();
        }
        let after = self.enforcer.revision();
        if after != before {
            tracing::info!(
                revision = after,
                endpoints = self.endpoints.len(),
                accepted = self.documents.accepted(),
                rejected = self.documents.rejected(),
                in_force_us = (self.enforcer.in_force_since())
                    .map(|given| given.saturating_duration_since(arrived).as_micros() as u64),
                milliseconds = arrived.elapsed().as_millis() as u64,
                "published"
            );
        }
        if let Some(problem) = &self.problem {
            tracing::error!("not in force: {problem}");
        }
    }

    /// Publishes a table with all endpoints; if there is none with those that are new,
    /// without those that it fails for.
    fn publish(&mut self, added: &[EndpointId]) {
        let all: Vec<EndpointId> = self.endpoints.keys().cloned().collect();
        let Err(error) = self.publish_with(|_| true) else {
            self.refuse(&all, None);
            return;
        };
        let refused = |one: &Managed| one.is_refused || added.contains(&one.endpoint.id);
        if !self.endpoints.values().any(refused) {
            self.problem = Some(chain(&error));
            return;
        }
        self.refuse(added, Some(&error));
        if let Err(error) = self.publish_with(|one| !one.is_refused) {
            self.problem = Some(chain(&error));
            return;
        }
        for id in added {
            if let Err(error) = self.publish_with(|one| !one.is_refused || one.endpoint.id == *id) {
                self.refuse(std::slice::from_ref(id), Some(&error));
            } else {
                self.refuse(std::slice::from_ref(id), None);
            }
        }
    }

    fn refuse(&mut self, ids: &[EndpointId], why: Option<&PublishError>) {
        for id in ids {
            if let Some(managed) = self.endpoints.get_mut(id) {
                managed.is_refused = why.is_some();
                managed.problem = why.map(|why| chain(why));
            }
        }
    }

    fn publish_with(&mut self, wanted: impl Fn(&Managed) -> bool) -> Result<(), PublishError> {
        let began = Instant::now();
        let endpoints = self.endpoints.values().filter(|one| wanted(one));
        let made = self.made.next(
            self.documents.inventory(),
            endpoints.map(|one| one.endpoint.clone()).collect(),
            &self.config.node.name,
            self.node_addresses(),
            self.config.enforcement.into(),
        );
        let desired = made.desired.clone();
        self.made = made;
        let Desired { warnings, .. } = &desired;
        let warnings = warnings.clone();
        self.enforcer.note_sweeps();
        if let Published::Slots(slots) = self.enforcer.publish(desired)? {
            tracing::info!(
                revision = self.enforcer.revision(),
                slots,
                microseconds = began.elapsed().as_micros() as u64,
                "added to the table in force"
            );
        }
        for warning in &warnings {
            if !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.warnings = warnings;
        Ok(())
    }

    /// Returns `true` if the newest desired state is in force, for every endpoint.
    pub(super) fn is_enforced(&self) -> bool {
        self.problem.is_none()
            && self.guarding.problem().is_none()
            && self.enforcer.revision() != 0
            && (self.endpoints.values())
                .all(|one| one.state == EndpointState::Enforced || one.is_refused)
            && (self.leaving.values()).all(|one| one.state == EndpointState::DenyAll)
    }

    pub(super) fn tell_enforced(&self) {
        self.enforced.send_replace(self.is_enforced());
    }
}
