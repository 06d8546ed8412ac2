//! What `check` prints.

use cofferdam_protocol::output::{Capacity, Diagnostic, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    /// The version of this object.
    pub schema: Schema,
    /// Files that were read.
    pub files: u64,
    /// Documents that count as they are.
    pub accepted: u64,
    /// Documents that do not.
    pub rejected: u64,
    /// How many findings are errors.
    pub errors: u64,
    /// How many findings are warnings.
    pub warnings: u64,
    /// What is wrong, in the order of places.
    pub diagnostics: Vec<Diagnostic>,
    /// How full the tables of nodes would be; with `--capacity` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<CapacityReport>,
}

/// Whether everything fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityReport {
    /// Whether everything fits on every node that was tried.
    pub fits: bool,
    /// The nodes that were tried.
    pub nodes: Vec<NodeCapacity>,
    /// How many nodes with fewer workloads were not tried.
    pub untried: u64,
}

/// How full the tables of one node would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCapacity {
    /// The node; null where no document names one, and all workloads are taken for
    /// local.
    pub node: Option<String>,
    /// Its workloads.
    pub workloads: u64,
    /// How full its tables would be; more than `max` is what does not fit.
    pub tables: Vec<Capacity>,
}
