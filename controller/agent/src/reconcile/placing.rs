//! Places in the table in force for what servers say of workloads elsewhere.
//!
//! Mostly that needs no other table. It is in force within [`BETWEEN_PLACES`], and what is left to
//! do for it is done once for all that has come within [`UNTIL_FINISHED`]: a read-back of
//! everything else, and the documents for the next start. What needs a table waits for its turn;
//! what comes meanwhile does not wait for that, unless policies are among it.

use cofferdam_syntax::diagnostic::chain;
use std::time::{Duration, Instant};

use super::{BETWEEN_TABLES, Reconciler, next_table_at};
use crate::enforcer::{Depth, Placed};

/// Least time from one look at what servers say to the next when nobody asks for it.
const BETWEEN_PLACES: Duration = Duration::from_millis(40);
/// A look and what came of it are followed by so many times as long without one: where all
/// documents have to be put together, that takes a while.
const PAUSE: u32 = 4;
/// Time after which places in the table in force are read back with everything else, and the
/// documents behind them saved.
const UNTIL_FINISHED: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Gives what servers say a place in the table in force; what has none there waits for its
    /// turn. Returns `false` if it is time for another table.
    pub(super) fn place_or_wait(&mut self, last: Instant) -> bool {
        let now = Instant::now();
        let is_due = next_table_at(self.enforcer.in_force_since(), now) <= now;
        if self.needs_table && is_due {
            return false;
        }
        let is_placed = self.place_elsewhere();
        let pause = self.documents.looked().elapsed() * PAUSE;
        let least = match self.may_place() {
            true => BETWEEN_PLACES,
            false => BETWEEN_TABLES,
        };
        self.place_from = Instant::now() + pause.clamp(least, BETWEEN_TABLES);
        if is_placed {
            self.needs_table = false;
            return true;
        }
        if is_due {
            return false;
        }
        self.needs_table = true;
        self.unread = self.unread.max(Some(last));
        true
    }

    /// Returns `true` if all that was desired before is in force, and nobody's place is contested:
    /// otherwise there is more to do than to find places.
    fn may_place(&self) -> bool {
        !self.documents.is_held()
            && self.is_enforced()
            && self.made.desired.warnings.is_empty()
            && !self.endpoints.values().any(|one| one.is_refused)
    }

    /// Puts in force what servers say of workloads elsewhere, where the table in force has
    /// places for it. Returns `true` if that is all that they have said.
    fn place_elsewhere(&mut self) -> bool {
        let began = Instant::now();
        let documents = self.documents.inventory();
        if !self.may_place() || !self.made.is_same_here(documents) {
            return false;
        }
        let endpoints = self.endpoints.values().map(|one| one.endpoint.clone());
        let made = self.made.next(
            documents,
            endpoints.collect(),
            &self.config.node.name,
            self.node_addresses(),
            self.config.enforcement.into(),
        );
        self.made = made;
        if !self.made.desired.warnings.is_empty() {
            return false;
        }
        let placed = match self.enforcer.place(&self.made.desired) {
            Ok(placed) => placed,
            Err(error) => {
                // Until a table has been tried.
                self.problem = Some(chain(&error));
                self.tell_enforced();
                return false;
            }
        };
        if placed != Placed::Nothing {
            self.verify(Depth::Places);
            self.unfinished.get_or_insert(began);
            self.timings.reconciled(began.elapsed());
        }
        match &self.problem {
            None if placed == Placed::All => self.note_in_force(),
            None => {}
            Some(_) => self.tell_enforced(),
        }
        tracing::debug!(
            ?placed,
            microseconds = began.elapsed().as_micros() as u64,
            "placed in the table in force"
        );
        placed == Placed::All
    }

    /// Returns the time at which places in the table in force are to be finished, if there are
    /// any.
    pub(super) fn finish_at(&self) -> Option<Instant> {
        self.unfinished.map(|since| since + UNTIL_FINISHED)
    }

    /// Does what is left to be done for places in the table in force.
    pub(super) fn finish_places(&mut self) {
        self.unfinished = None;
        self.verify(Depth::Change);
        if self.is_enforced() && !self.needs_table {
            self.documents.save();
        }
        self.tell_enforced();
    }
}
