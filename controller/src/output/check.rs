//! Objects that `check` prints.

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
    /// Number of findings that are errors.
    pub errors: u64,
    /// Number of findings that are warnings.
    pub warnings: u64,
    /// The findings, in the order of places.
    pub diagnostics: Vec<Diagnostic>,
    /// Count of documents by what they are, those that do not count left out.
    #[serde(default)]
    pub looked_at: LookedAt,
    /// Count of what was passed over.
    #[serde(default)]
    pub passed_over: PassedOver,
    /// Folders whose files say what is deployed only once they are rendered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrendered: Vec<Unrendered>,
    /// Use of the tables of nodes; with `--capacity` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<CapacityReport>,
}

/// Capacity that the documents need on nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityReport {
    /// `true` if everything fits on every node that was tried.
    pub fits: bool,
    /// The nodes that were tried.
    pub nodes: Vec<NodeCapacity>,
    /// Number of nodes with fewer workloads that were not tried.
    pub untried: u64,
}

/// Use of the tables of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCapacity {
    /// The node; null where no document names one, and all workloads are taken for
    /// local.
    pub node: Option<String>,
    /// Its workloads.
    pub workloads: u64,
    /// Use of its tables; where it is more than `max`, the documents do not fit.
    pub tables: Vec<Capacity>,
}

/// Count of what was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LookedAt {
    /// Policies of namespaces and of the whole cluster.
    pub policies: u64,
    /// Pods, and templates of pods.
    pub workloads: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Nodes.
    pub nodes: u64,
    /// Services, and slices of their endpoints.
    pub services: u64,
    /// Objects that say nothing about policies or workloads.
    pub others: u64,
}

/// Count of what was passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassedOver {
    /// Documents that are no Kubernetes objects.
    pub no_objects: u64,
    /// Documents that are templates, yet to be rendered.
    pub templates: u64,
    /// Files that a kustomization patches with.
    pub patches: u64,
    /// Files and directories that patterns leave out.
    pub left_out: u64,
    /// Names in directories that lead to no file that can be read.
    pub unreadable: u64,
}

/// Program that renders a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Renderer {
    /// Kustomize.
    Kustomize,
    /// Helm.
    Helm,
}

/// A folder that is yet to be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unrendered {
    /// The folder.
    pub folder: String,
    /// Program that renders it.
    pub renderer: Renderer,
    /// The command that prints what it renders.
    pub command: String,
}
