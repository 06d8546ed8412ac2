//! Answer of `status --cluster`.

use cofferdam_protocol::output::Schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of enforcement on each node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterStatus {
    /// The version of this object.
    pub schema: Schema,
    /// `true` if no node has any problem.
    pub ok: bool,
    /// The nodes, in the order of their names.
    pub nodes: Vec<NodeReport>,
}

/// State of enforcement on a node, as its agent told it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeReport {
    /// The node's name.
    pub name: String,
    /// `true` if the newest desired state that the agent knows is in force and has been read
    /// back.
    pub enforced: bool,
    /// `true` if the agent's `/readyz` says yes.
    pub ready: bool,
    /// Version of the agent; null of a node whose agent has told nothing.
    pub version: Option<String>,
    /// Revision in force, 0 when there is none; null of a node whose agent has told nothing.
    pub revision: Option<u64>,
    /// Hash of all documents in force, equal on nodes of one version that have the same; null
    /// as long as none are.
    pub state_hash: Option<String>,
    /// Policies of which the version in force on the node is not that of the API server, by
    /// `kubernetes:KIND/NAMESPACE/NAME`, or not that of the etcd, by `etcd:KIND/NAMESPACE/NAME`, in
    /// order. Of an etcd also texts that cannot be read, by `etcd:KEY:LINE`, and policies of the
    /// node's own files, by `files:KIND/NAMESPACE/NAME`.
    pub policies_behind: Vec<String>,
    /// Time at which the agent told this, RFC 3339; null of a node whose agent has told
    /// nothing.
    pub last_seen: Option<String>,
    /// Reasons why the agent is not ready.
    pub obstacles: Vec<String>,
    /// Reasons for which the command ends with status 1: the node lags, is not enforced, was
    /// not seen lately, or has no status.
    pub problems: Vec<String>,
}
