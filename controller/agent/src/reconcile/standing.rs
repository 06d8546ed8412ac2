//! Snapshots of this node for the thread that tells the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_documents::Identity;
use cofferdam_inventory::{Inventory, ObjectName};
use cofferdam_protocol::output::EndpointState;
use cofferdam_sources::Progress;

use super::Reconciler;

/// Documents that are in force.
#[derive(Debug, Clone)]
pub struct DocumentsInForce {
    /// The documents alone, without what is known of this node beside them.
    pub documents: Inventory,
    /// Progress in following servers when they were read, at least.
    pub progress: ServersProgress,
}

/// Progress in following servers; none of a server that is not followed.
#[derive(Debug, Clone, Default)]
pub struct ServersProgress {
    /// That of the API server.
    pub kubernetes: Progress,
    /// That of the etcd.
    pub etcd: Progress,
}

/// A policy that is not in force as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFinding {
    /// The policy.
    pub identity: Identity,
    /// `true` if its newest version does not count; else it counts in part.
    pub is_rejected: bool,
    /// The reason.
    pub message: String,
}

/// The state of the node.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Revision in force, 0 when there is none.
    pub revision: u64,
    /// `true` if the newest desired state is in force and has been read back.
    pub is_enforced: bool,
    /// Reasons why the agent is not ready.
    pub obstacles: Vec<String>,
    /// Documents in force; `None` if this agent has put none in force yet.
    pub in_force: Option<DocumentsInForce>,
    /// Policies that are not in force as they are written.
    pub policies: Arc<[PolicyFinding]>,
    /// Workloads with an endpoint here, also one that is leaving.
    pub endpoints: BTreeSet<ObjectName>,
    /// Workloads whose endpoint is closed, with the reason.
    pub closed: Vec<(ObjectName, String)>,
}

impl Reconciler {
    /// Notes that the documents that were read last are in force.
    pub(super) fn note_in_force(&mut self) {
        self.in_force = Some(DocumentsInForce {
            documents: self.documents.inventory().clone(),
            progress: self.documents.progress().clone(),
        });
    }

    /// Returns a snapshot.
    pub(super) fn standing(&mut self) -> Standing {
        let policies = self.documents.policy_findings();
        let all = self.endpoints.values().chain(self.leaving.values());
        let closed = self.endpoints.values().filter_map(|managed| {
            let is_closed = managed.is_refused || managed.state != EndpointState::Enforced;
            let reason = managed
                .problem
                .as_deref()
                .or(self.problem.as_deref())
                .unwrap_or("its verdicts are not in force yet");
            is_closed.then(|| (managed.endpoint.id.workload(), reason.to_owned()))
        });
        Standing {
            revision: self.enforcer.revision(),
            is_enforced: self.is_enforced(),
            obstacles: self.obstacles(),
            in_force: self.in_force.clone(),
            policies,
            endpoints: all.map(|managed| managed.endpoint.id.workload()).collect(),
            closed: closed.collect(),
        }
    }
}
