//! Answer of `what-if`.

use std::collections::BTreeMap;

use cofferdam_protocol::output::{Diagnostic, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::observed::{Form, PassedOver};
use crate::reach::{CellReport, NearestReport, RuleReport};

/// Answer of `what-if`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhatIfReport {
    /// The version of this object.
    pub schema: Schema,
    /// Number of connections that were allowed and would be denied.
    pub denied: u64,
    /// Number of connections that were denied and would be allowed.
    pub allowed: u64,
    /// Numbers of connections that stay as they were.
    pub unchanged: UnchangedReport,
    /// The connections that would change: those newly denied, then those newly allowed.
    pub changes: Vec<ReplayedReport>,
    /// The connections that the documents do not decide.
    pub unjudged: Vec<UnjudgedReport>,
    /// Workloads among the changes that the documents do not have: they are judged by the
    /// labels of their records. `#2` behind the id is another one like it.
    pub hypothetical: Vec<HypotheticalReport>,
    /// Numbers of what was read.
    pub read: ReadReport,
    /// The first lines that are no records.
    pub unreadable: Vec<UnreadableReport>,
    /// The rules that are named here.
    pub rules: Vec<RuleReport>,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

impl WhatIfReport {
    /// Returns the rule of this number.
    #[must_use]
    pub fn rule(&self, id: u32) -> Option<&RuleReport> {
        self.rules.iter().find(|rule| rule.id == id)
    }
}

/// Numbers of connections that stay as they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnchangedReport {
    /// Those that are allowed.
    pub allowed: u64,
    /// Those that are denied.
    pub denied: u64,
}

/// A connection that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayedReport {
    /// `denied` or `allowed`: what it would newly be.
    pub kind: String,
    /// The family: 4 or 6.
    pub family: u8,
    /// Numbers and times of its records.
    pub seen: SeenReport,
    /// The verdict of the documents.
    #[serde(flatten)]
    pub cell: CellReport,
    /// Of a denial, the rule that came nearest to allowing it; null when none could.
    pub nearest: Option<NearestReport>,
}

/// Numbers and times of the records of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SeenReport {
    /// Connections that were let through; of Hubble, events of them.
    pub allowed: u64,
    /// Packets that were denied; of Calico, connections.
    pub denied: u64,
    /// Time of the first record, RFC 3339.
    pub first: String,
    /// Time up to which the last record counts.
    pub last: String,
}

/// A connection that the documents do not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnjudgedReport {
    /// The opener, as its record names it.
    pub source: String,
    /// The receiver.
    pub destination: String,
    /// The attempt.
    pub probe: String,
    /// The family: 4 or 6; null where the record has no address.
    pub family: Option<u8>,
    /// Reason, for people.
    pub why: String,
    /// Numbers and times of its records.
    pub seen: SeenReport,
}

/// A workload that the documents do not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HypotheticalReport {
    /// `namespace/name` of the first such workload in the records; a name that ends in `*`
    /// is the beginning of several.
    pub id: String,
    /// The labels of its records.
    pub labels: BTreeMap<String, String>,
}

/// Numbers of what was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadReport {
    /// Lines that are not empty.
    pub lines: u64,
    /// Those that are records.
    pub records: u64,
    /// Records by their form.
    pub forms: BTreeMap<Form, u64>,
    /// Different connections among them.
    pub connections: u64,
    /// Records that say nothing about an opening that policy decides.
    pub passed_over: Vec<PassedOverReport>,
    /// Lines that are no records.
    pub unreadable: u64,
}

/// Records that say nothing about an opening that policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassedOverReport {
    /// Reason.
    pub why: PassedOver,
    /// Their number.
    pub records: u64,
}

/// A line that is no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnreadableReport {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// Reason, for people.
    pub message: String,
}
