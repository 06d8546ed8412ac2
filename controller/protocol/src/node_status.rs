//! `NodeStatus`, the object by which an agent tells a cluster what is in force on its node.
//!
//! The agent writes it and `cofferdam status --cluster` reads it. Its definition for API
//! servers is `deploy/kubernetes/crds/nodestatuses.yaml`; a test holds the two together. In an
//! etcd that nodes share, the state stands as JSON below `nodes/`.
//!
//! Invariant: it is small, however many policies there are: the policies in force are told by
//! the newest version that was read of each kind, and by the few that are not in force.

use serde::{Deserialize, Serialize};

/// Group and version of the kind.
pub const API_VERSION: &str = "cofferdam.dev/v1alpha1";
/// The kind.
pub const KIND: &str = "NodeStatus";
/// Its word in paths and roles.
pub const PLURAL: &str = "nodestatuses";

/// Most policies that are named as not in force, and most obstacles.
pub const MAX_NAMED: usize = 50;

/// State of enforcement on a node, as its agent told it last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Version of the agent.
    pub version: String,
    /// Revision in force, 0 when there is none.
    pub revision: u64,
    /// `true` if the newest desired state is in force and has been read back.
    pub enforced: bool,
    /// `true` if `/readyz` says yes.
    pub ready: bool,
    /// Hash of all documents that are in force; empty as long as none are. Equal on nodes of
    /// one version of the agent that have the same documents in force.
    #[serde(default)]
    pub state_hash: String,
    /// Newest version that was read of each kind of policies, before what is in force.
    #[serde(default)]
    pub policies: Vec<PoliciesRead>,
    /// Policies whose newest version is not in force although it was read, at most
    /// [`MAX_NAMED`].
    #[serde(default)]
    pub policies_not_in_force: Vec<PolicyNotInForce>,
    /// Reasons why the agent is not ready, at most [`MAX_NAMED`].
    #[serde(default)]
    pub obstacles: Vec<String>,
    /// Time at which the agent wrote this, RFC 3339.
    pub last_seen: String,
    /// Longest time until the agent writes again, in seconds, whether anything changes or not.
    pub heartbeat_seconds: u32,
}

/// Policies of a kind, as far as an agent has read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoliciesRead {
    /// The kind.
    pub kind: String,
    /// The version: policies with a greater one are not in force. In an etcd, that at which
    /// the text with the policy was put there.
    pub resource_version: String,
}

/// A policy that an agent has read and that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyNotInForce {
    /// The kind.
    pub kind: String,
    /// The namespace; absent of a policy of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The reason.
    pub reason: String,
}
