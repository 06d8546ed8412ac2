//! Flow records replayed against policies: what others would be decided of what was seen.
//!
//! Records of three forms are joined while they are read ([`Records`]), so that a log may be
//! larger than memory. Then each end is looked for among the documents, and each connection is
//! asked of the table that `matrix` and `explain` ask.
//!
//! Invariant, no guess: a connection is *judged* only where the documents decide it. An end
//! that they do not know is judged by the labels of its record, unless a policy asks for
//! something that the record may lack; then the connection is told as one that cannot be
//! judged.

mod calico;
mod ends;
mod hubble;
mod judge;
mod observed;
mod own;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use cofferdam_protocol::output::FlowRecord;
use cofferdam_reach::{Probe, StandIn};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::{Action, Direction};
use serde::Deserialize as _;
use serde_json::Value;
use thiserror::Error;

pub use judge::{Settings, replay};
pub use observed::{Form, PassedOver};
pub use report::{
    HypotheticalReport, PassedOverReport, ReadReport, ReplayedReport, SeenReport, UnchangedReport,
    UnjudgedReport, UnreadableReport, WhatIfReport,
};

use observed::{AllowedAs, Event, Observed, Time, Who};

/// Most connections that are told apart; a million takes some 300 MB.
pub const MOST_CONNECTIONS: usize = 1 << 20;

/// Reason for which a line is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TakeError {
    /// It is no record.
    #[error("{0}")]
    NoRecord(String),
    /// There is no room for another connection.
    #[error(
        "the records are of more than {MOST_CONNECTIONS} different connections: replay parts of \
         them, such as those of one namespace or one day"
    )]
    TooMany,
}

/// A connection as records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    /// The opener, by position among all ends.
    source: usize,
    /// The receiver.
    destination: usize,
    probe: Probe,
    /// The family, if a record has an address: 4 or 6.
    family: Option<u8>,
}

/// All that was recorded of a connection.
#[derive(Debug, Clone)]
struct Seen {
    begun: u64,
    ended: u64,
    audited: u64,
    denied: u64,
    first: Time,
    last: Time,
    /// Newest action of either side, by the time of its record.
    egress: Option<(Time, Action)>,
    ingress: Option<(Time, Action)>,
}

impl Seen {
    fn new(observed: &Observed) -> Self {
        Self {
            begun: 0,
            ended: 0,
            audited: 0,
            denied: 0,
            first: observed.first.clone(),
            last: observed.last.clone(),
            egress: None,
            ingress: None,
        }
    }

    fn take(&mut self, observed: &Observed) {
        let Observed { first, last, .. } = observed;
        self.first = (&self.first).min(first).clone();
        self.last = (&self.last).max(last).clone();
        let count = match observed.event {
            Event::Allowed(AllowedAs::Begun, _) => &mut self.begun,
            Event::Allowed(AllowedAs::Ended, _) => &mut self.ended,
            Event::Allowed(AllowedAs::Audited, _) => &mut self.audited,
            Event::Denied(_) => &mut self.denied,
        };
        *count = count.saturating_add(observed.count);
        let action = observed.event.action();
        // What the receiver's side lets in the sender's has let out.
        let [egress, ingress] = match observed.event {
            Event::Allowed(_, Some(Direction::Egress)) => [true, false],
            Event::Allowed(..) => [true, true],
            Event::Denied(Some(Direction::Egress)) => [true, false],
            Event::Denied(_) => [false, true],
        };
        for (is_of, side) in [(egress, &mut self.egress), (ingress, &mut self.ingress)] {
            let is_newer = side.as_ref().is_none_or(|(time, known)| {
                // Of one moment, a denial counts.
                (last, action == Action::Deny) >= (time, *known == Action::Deny)
            });
            if is_of && is_newer {
                *side = Some((last.clone(), action));
            }
        }
    }

    /// Returns the fate of the newest attempt: denied if either side denied it.
    fn action(&self) -> Action {
        let mut sides = [&self.egress, &self.ingress].into_iter().flatten();
        match sides.any(|(_, action)| *action == Action::Deny) {
            true => Action::Deny,
            false => Action::Allow,
        }
    }

    /// Returns the number of connections that were let through. A log has the beginning, the
    /// end, or both of each.
    fn allowed(&self) -> u64 {
        self.begun.max(self.ended).max(self.audited)
    }
}

/// Flow records, joined.
#[derive(Debug, Default)]
pub struct Records {
    ends: Vec<Who>,
    numbers: HashMap<Who, usize>,
    connections: HashMap<Key, Seen>,
    lines: u64,
    unreadable: u64,
    forms: BTreeMap<Form, u64>,
    passed_over: BTreeMap<PassedOver, u64>,
}

impl Records {
    /// Takes a line, which may be of any of the forms.
    ///
    /// # Errors
    /// [`TakeError::NoRecord`] if it is none of them; it is counted all the same.
    pub fn take(&mut self, line: &[u8]) -> Result<(), TakeError> {
        self.lines += 1;
        match read(line) {
            Ok((form, observed)) => {
                *self.forms.entry(form).or_default() += 1;
                match observed {
                    Ok(observed) => self.join(observed),
                    Err(why) => {
                        *self.passed_over.entry(why).or_default() += 1;
                        Ok(())
                    }
                }
            }
            Err(message) => {
                self.unreadable += 1;
                Err(TakeError::NoRecord(message))
            }
        }
    }

    /// Counts a line that is too long to be read.
    pub fn pass_over_line(&mut self) {
        self.lines += 1;
        self.unreadable += 1;
    }

    /// Returns the number of lines that are records.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.forms.values().sum()
    }

    /// Returns the number of lines that are none.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Returns the ends that documents must be asked about: further pods of those that stand
    /// in for templates.
    #[must_use]
    pub fn asked<'r>(&'r self, stand_ins: &'r [StandIn]) -> Vec<String> {
        ends::asked(&self.ends, stand_ins)
    }

    fn join(&mut self, observed: Observed) -> Result<(), TakeError> {
        let key = Key {
            source: self.number(&observed.source),
            destination: self.number(&observed.destination),
            probe: observed.probe,
            family: observed.family.map(family_digit),
        };
        if self.connections.len() >= MOST_CONNECTIONS && !self.connections.contains_key(&key) {
            return Err(TakeError::TooMany);
        }
        let seen = self.connections.entry(key);
        seen.or_insert_with(|| Seen::new(&observed)).take(&observed);
        Ok(())
    }

    fn number(&mut self, who: &Who) -> usize {
        if let Some(number) = self.numbers.get(who) {
            return *number;
        }
        let number = self.ends.len();
        self.ends.push(who.clone());
        self.numbers.insert(who.clone(), number);
        number
    }
}

fn family_digit(family: Family) -> u8 {
    crate::explain::family_number(family)
}

/// Reads a line: its form, and what it says.
fn read(line: &[u8]) -> Result<(Form, Result<Observed, PassedOver>), String> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| format!("it is not JSON: {error}"))?;
    if value.get("schema").is_some() {
        let record = FlowRecord::deserialize(&value)
            .map_err(|error| format!("as a flow record of Cofferdam: {error}"))?;
        return Ok((Form::Cofferdam, own::observed(&record)?));
    }
    match hubble::flow(&value) {
        Some(Ok(flow)) => return Ok((Form::Hubble, hubble::observed(flow)?)),
        Some(Err(other)) => return Ok((Form::Hubble, Err(other))),
        None => {}
    }
    if calico::is_log(&value) {
        return Ok((Form::Calico, calico::observed(&value)?));
    }
    Err("it is no flow record of Cofferdam, Hubble or Calico".to_owned())
}
