//! Flow records: what is told of a packet or a flow.
//!
//! Invariant, closed lists: type, hook, direction, verdict and reason are of lists that the
//! schema names word by word. The words of hooks and reasons stand in the verdict crate
//! alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

#[cfg(feature = "flags")]
use clap::ValueEnum;
use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};
#[cfg(feature = "schemas")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Schema;
use crate::words::{self, ClosedList};

/// An end of a reported packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct FlowEnd {
    /// Namespace of the workload that has the address.
    pub namespace: Option<String>,
    /// Name of the workload that has the address.
    pub workload: Option<String>,
    /// The node that has the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The address; null when the packet is not IP.
    pub address: Option<IpAddr>,
    /// The port; null where there is none.
    pub port: Option<u16>,
    /// The workload's labels.
    pub labels: BTreeMap<String, String>,
}

/// A rule, or a policy as it isolates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct RuleName {
    /// The policy's kind.
    pub kind: String,
    /// The policy's namespace; null of one of the whole cluster.
    pub namespace: Option<String>,
    /// The policy's name.
    pub name: String,
    /// Position among the policy's rules of this direction, from 0; null is the
    /// policy itself.
    pub index: Option<u32>,
    /// Its place in a file, or the object of an API server: `kubernetes:NetworkPolicy/shop/db`.
    pub file: String,
    /// The line; null of an object.
    #[serde(with = "super::line")]
    #[cfg_attr(feature = "schemas", schemars(with = "Option<u32>"))]
    pub line: u32,
}

/// Type and code of ICMP or ICMPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct IcmpKind {
    /// The type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The code.
    pub code: u8,
}

/// The types of flow records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "flags", derive(ValueEnum))]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RecordType {
    /// A flow that was allowed and has begun.
    New,
    /// Denied packets.
    Denied,
    /// Packets that were allowed and that policies in audit mode would have denied.
    Audit,
    /// A flow that has ended.
    Ended,
}

impl RecordType {
    /// Its name in JSON, in flags, and as the `type` label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Denied => "denied",
            Self::Audit => "audit",
            Self::Ended => "ended",
        }
    }
}

impl ClosedList for RecordType {
    const ALL: &'static [Self] = &[Self::New, Self::Denied, Self::Audit, Self::Ended];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// A line of `observe`, and of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct FlowRecord {
    /// The version of this object.
    pub schema: Schema,
    /// Time of the first packet, RFC 3339.
    pub time: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// Name of the node whose agent tells it.
    pub node: String,
    /// Hook that judged.
    #[serde(with = "words")]
    #[cfg_attr(feature = "schemas", schemars(schema_with = "words::schema::<Hook>"))]
    pub hook: Hook,
    /// Direction as the judged workload sees it.
    #[serde(with = "words")]
    #[cfg_attr(
        feature = "schemas",
        schemars(schema_with = "words::schema::<Direction>")
    )]
    pub direction: Direction,
    /// Action of the verdict: what happened.
    #[serde(with = "words")]
    #[cfg_attr(feature = "schemas", schemars(schema_with = "words::schema::<Action>"))]
    pub verdict: Action,
    /// Reason of the verdict, for `audit` of the denial; `docs/reasons.md` explains each.
    #[serde(with = "words")]
    #[cfg_attr(feature = "schemas", schemars(schema_with = "words::schema::<Reason>"))]
    pub reason: Reason,
    /// Revision that decided, 0 when none was asked.
    pub revision: u64,
    /// Number of equal records joined.
    pub count: u64,
    /// The rule that decided, for `audit` the one that would have denied.
    pub rule: Option<RuleName>,
    /// The policies that a default denial is due to, for `audit` would be.
    pub isolated_by: Vec<RuleName>,
    /// The sender's end.
    pub source: FlowEnd,
    /// The receiver's end.
    pub destination: FlowEnd,
    /// The protocol's name, or its number.
    pub protocol: String,
    /// TCP flags as letters; null for other protocols.
    pub tcp_flags: Option<String>,
    /// Type and code of ICMP and ICMPv6; null for other protocols.
    pub icmp: Option<IcmpKind>,
    /// Packets that the records cover.
    pub packets: u64,
    /// Bytes of those packets from the Ethernet header on.
    pub bytes: u64,
    /// From the first to the last of them.
    pub duration_ms: u64,
    /// `true` of a denied packet of a connection that an earlier table has allowed: a change of
    /// policies, labels or addresses has ended it. There is one such record for a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newly_denied: bool,
    /// Of a flow that has ended, what its opener sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opener: Option<Sent>,
    /// Of a flow that has ended, what came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Sent>,
}

/// Packets that one end of a flow has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct Sent {
    /// Their number.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
}
