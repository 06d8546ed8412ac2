//! Report of `observe --top`.

use cofferdam_protocol::output::{RuleName, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Subject of the counts of `observe --top`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Ranked {
    /// Denied packets.
    Drops,
    /// Packets by the rule that decided, or the first policy that isolates.
    Rules,
    /// Packets by sender and receiver.
    Talkers,
}

/// Division of the counts of `observe --top`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum DividedBy {
    /// By policy: that of the rule, or the first that isolates.
    Policy,
    /// By the judged workload.
    Workload,
    /// By reason.
    Reason,
}

/// Sums over records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sums {
    /// Records, joined ones included.
    pub records: u64,
    /// Packets that they cover.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// A row of `observe --top`. What it is not divided by is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopRow {
    /// The rule, of `rules`; null for packets that no policy decided.
    pub rule: Option<RuleName>,
    /// `ingress` or `egress`, of a rule.
    pub direction: Option<String>,
    /// The sender, of `talkers`: `namespace/pod`, `node/NAME` or an address.
    pub source: Option<String>,
    /// The receiver, of `talkers`.
    pub destination: Option<String>,
    /// The policy; null also where none decided.
    pub policy: Option<String>,
    /// The judged workload.
    pub workload: Option<String>,
    /// The reason.
    pub reason: Option<String>,
    /// Its sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Answer of `observe --top`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopReport {
    /// The version of this object.
    pub schema: Schema,
    /// Subject of the counts.
    pub top: Ranked,
    /// Division of each row, beside that.
    pub by: Option<DividedBy>,
    /// Time of the first record that counts; null if there is none.
    pub first: Option<String>,
    /// Time of the last one.
    pub last: Option<String>,
    /// The rows, most packets first.
    pub rows: Vec<TopRow>,
    /// Rows that are left out. At most 100 000 are told apart; records beyond them are in the
    /// total alone.
    pub more_rows: u64,
    /// Sums over all rows, also those that are left out.
    pub total: Sums,
}
