//! Filters of flow records.
//!
//! A [`Filter`] is a list of clauses that must all hold. A clause is about one field and has
//! alternatives; a negated one holds if none of them does. Agent, flow log and command line
//! use the same filter.
//!
//! Invariant, pure: the answer depends on the record and the filter alone.

mod patterns;

use std::mem::discriminant;

use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::output::{FlowEnd, FlowRecord, RecordType};
use crate::words;

pub use patterns::{
    AddressPattern, EndPattern, LabelPattern, PatternError, PolicyPattern, PortPattern,
    ProtocolPattern, WorkloadPattern,
};

/// Conditions on a record, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter {
    clauses: Vec<Clause>,
}

/// Alternatives about one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    /// `true` if none of them may hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    not: bool,
    any: Vec<Criterion>,
}

/// A condition on one field of a record. Those without a side hold if either end is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// The action.
    #[serde(with = "words")]
    Verdict(Action),
    /// The reason.
    #[serde(with = "words")]
    Reason(Reason),
    /// The type.
    Type(RecordType),
    /// The direction.
    #[serde(with = "words")]
    Direction(Direction),
    /// The sender.
    #[serde(with = "patterns::text")]
    From(EndPattern),
    /// The receiver.
    #[serde(with = "patterns::text")]
    To(EndPattern),
    /// The workload of an end.
    #[serde(with = "patterns::text")]
    Workload(WorkloadPattern),
    /// The namespace of an end's workload.
    Namespace(String),
    /// A label of an end's workload.
    #[serde(with = "patterns::text")]
    Label(LabelPattern),
    /// The address of an end.
    #[serde(with = "patterns::text")]
    Ip(AddressPattern),
    /// The port of an end, or the type of ICMP.
    #[serde(with = "patterns::text")]
    Port(PortPattern),
    /// The protocol.
    #[serde(with = "patterns::text")]
    Protocol(ProtocolPattern),
    /// The policy that decided, or one that isolates.
    #[serde(with = "patterns::text")]
    Policy(PolicyPattern),
}

impl Filter {
    /// Adds a criterion: an alternative to those of its kind that are there, if they are
    /// negated as it is.
    pub fn add(&mut self, not: bool, criterion: Criterion) {
        let is_its_kind = |clause: &&mut Clause| {
            let of_kind = |other: &Criterion| discriminant(other) == discriminant(&criterion);
            clause.not == not && clause.any.iter().all(of_kind)
        };
        match self.clauses.iter_mut().find(is_its_kind) {
            Some(clause) => clause.any.push(criterion),
            None => self.clauses.push(Clause {
                not,
                any: vec![criterion],
            }),
        }
    }

    /// Returns `true` if every record is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Returns `true` if the record is asked for.
    #[must_use]
    pub fn is_for(&self, record: &FlowRecord) -> bool {
        self.clauses.iter().all(|clause| {
            let holds = clause.any.iter().any(|criterion| criterion.holds(record));
            holds != clause.not
        })
    }

    /// Returns `true` if a record of this type can be asked for. New and ended flows are
    /// reported only while somebody wants them.
    #[must_use]
    pub fn is_for_type(&self, kind: RecordType) -> bool {
        self.clauses.iter().all(|clause| {
            let mut types = clause.any.iter().map(|criterion| match criterion {
                Criterion::Type(of) => Some(*of == kind),
                _ => None,
            });
            if clause.not {
                !types.any(|is| is == Some(true))
            } else {
                types.any(|is| is != Some(false))
            }
        })
    }
}

impl Criterion {
    fn holds(&self, record: &FlowRecord) -> bool {
        let ends = [&record.source, &record.destination];
        let either = |holds: &dyn Fn(&FlowEnd) -> bool| ends.into_iter().any(holds);
        match self {
            Self::Verdict(action) => record.verdict == *action,
            Self::Reason(reason) => record.reason == *reason,
            Self::Type(kind) => record.kind == *kind,
            Self::Direction(direction) => record.direction == *direction,
            Self::From(end) => end.matches(&record.source),
            Self::To(end) => end.matches(&record.destination),
            Self::Workload(workload) => either(&|end| workload.matches(end)),
            Self::Namespace(name) => either(&|end| end.namespace.as_ref() == Some(name)),
            Self::Label(label) => either(&|end| label.matches(end)),
            Self::Ip(address) => either(&|end| address.matches(end)),
            Self::Port(port) => port.matches(record),
            Self::Protocol(protocol) => protocol.matches(&record.protocol),
            Self::Policy(policy) => {
                let mut policies = record.rule.iter().chain(&record.isolated_by);
                policies.any(|one| policy.matches(one))
            }
        }
    }
}

/// Returns `true` if an address lies in a network. An IPv4 address that is written as IPv6
/// lies where the IPv4 address does.
fn contains(net: &IpNet, address: std::net::IpAddr) -> bool {
    net.contains(&address.to_canonical())
}

#[cfg(test)]
mod tests;
