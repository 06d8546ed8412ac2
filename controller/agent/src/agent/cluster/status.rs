//! The status of this node: its contents, and when it is written. Knows no connection.
//!
//! An API server has it as a NodeStatus; nodes that share an etcd put the same state there.
//!
//! A change is told soon, and no change more often than [`Status::written`] says: a policy that
//! changes on 5 000 nodes at once must not become 5 000 writes in one second. In between, a
//! heartbeat says that the agent lives.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_documents::Kind;
use cofferdam_inventory::Inventory;
use cofferdam_inventory::shared_map::Change;
use cofferdam_protocol::node_status::{
    API_VERSION, KIND, MAX_NAMED, NodeState, PLURAL, PoliciesRead, PolicyNotInForce,
};
use cofferdam_sources::Progress;
use cofferdam_sources::kubernetes::Resource;
use cofferdam_telemetry::time;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use crate::reconcile::{ServersProgress, Standing};

pub(super) const RESOURCE: Resource = Resource {
    api_version: API_VERSION,
    plural: PLURAL,
};

/// Longest time from one heartbeat to the next.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Part of that after which a heartbeat may come: agents that began together do not write
/// together.
const EARLIEST: f64 = 0.6;
/// Time from one change that is told to the next, with up to [`NODES_PER_SECOND`] nodes.
const BETWEEN_CHANGES: Duration = Duration::from_secs(2);
/// The longest one.
const MOST_BETWEEN_CHANGES: Duration = Duration::from_secs(30);
/// Writes a second of all nodes together, if something changes on each.
const NODES_PER_SECOND: u32 = 500;
/// First wait after a failure; the longest one is [`HEARTBEAT`].
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Longest text of a reason, in characters.
const MAX_TEXT: usize = 500;

/// The server that is told of the node, and whose policies are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Kubernetes,
    Etcd,
}

impl Server {
    fn progress(self, of: &ServersProgress) -> &Progress {
        match self {
            Self::Kubernetes => &of.kubernetes,
            Self::Etcd => &of.etcd,
        }
    }
}

/// The status of the node, and when it is written.
#[derive(Debug)]
pub(super) struct Status {
    node: String,
    server: Server,
    hash: StateHash,
    /// The state as it was last looked at.
    state: NodeState,
    /// The state as it was last written.
    written: Option<NodeState>,
    /// Changes are not told before this time.
    not_before: Option<Instant>,
    heartbeat: Option<Instant>,
    after_failure: Duration,
    /// `true` once it was logged that the definition is not installed.
    is_missing: bool,
}

impl Status {
    pub(super) fn new(node: &str, server: Server) -> Self {
        Self {
            node: node.to_owned(),
            server,
            hash: StateHash {
                // Each node knows the endpoints of others by what they announce, and its own not.
                is_without_pods: server == Server::Etcd,
                ..StateHash::default()
            },
            state: NodeState::default(),
            written: None,
            not_before: None,
            heartbeat: None,
            after_failure: AFTER_FAILURE,
            is_missing: false,
        }
    }

    /// Takes a new look. `progress` is how far the server has been followed by now. Policies that
    /// `is_told` refuses are not told of.
    pub(super) fn look(
        &mut self,
        standing: &Standing,
        progress: &Progress,
        is_told: impl Fn(Kind, Option<&str>, &str) -> bool,
    ) {
        let in_force = standing.in_force.as_ref();
        // Without a change since, what was told meanwhile changes nothing either.
        let known = in_force.map(|one| {
            let read = self.server.progress(&one.progress);
            match read.changes == progress.changes {
                true => progress,
                false => read,
            }
        });
        let policies = known.map(|known| {
            let of_kind = |kind: &Kind| PoliciesRead {
                kind: kind.to_string(),
                resource_version: known.versions.get(kind).copied().unwrap_or(0).to_string(),
            };
            let kinds = Kind::ALL.iter().filter(|kind| kind.is_policy());
            kinds.map(of_kind).collect()
        });
        let rejected = standing
            .policies
            .iter()
            .filter(|one| one.is_rejected)
            .filter_map(|one| {
                let identity = &one.identity;
                let namespace =
                    Some(&*identity.namespace).filter(|namespace| !namespace.is_empty());
                is_told(identity.kind, namespace, &identity.name).then(|| PolicyNotInForce {
                    kind: identity.kind.to_string(),
                    namespace: namespace.map(str::to_owned),
                    name: identity.name.to_string(),
                    reason: shortened(&one.message),
                })
            });
        let mut rejected: Vec<PolicyNotInForce> = rejected.take(MAX_NAMED).collect();
        rejected.sort();
        let obstacles = standing.obstacles.iter().take(MAX_NAMED);
        self.state = NodeState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: standing.revision,
            enforced: standing.is_enforced,
            ready: standing.obstacles.is_empty(),
            state_hash: in_force.map_or_else(String::new, |one| self.hash.of(&one.documents)),
            policies: policies.unwrap_or_default(),
            policies_not_in_force: rejected,
            obstacles: obstacles.map(|text| shortened(text)).collect(),
            last_seen: String::new(),
            heartbeat_seconds: u32::try_from(HEARTBEAT.as_secs()).unwrap_or(u32::MAX),
        };
    }

    /// Returns `true` if the state is to be written now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_past = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        let is_changed = self.written.as_ref() != Some(&self.state);
        is_past(self.heartbeat) || is_changed && is_past(self.not_before)
    }

    /// Returns the state to write.
    pub(super) fn state(&self, now: SystemTime) -> NodeState {
        NodeState {
            last_seen: time::rfc3339(now),
            ..self.state.clone()
        }
    }

    /// Returns the object to write.
    pub(super) fn object(&self, uid_of_node: Option<&str>, now: SystemTime) -> Value {
        let state = self.state(now);
        let mut metadata = json!({"name": self.node});
        if let Some(uid) = uid_of_node {
            // With the node goes what is said of it.
            metadata["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid,
            }]);
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": state})
    }

    /// Notes that the state has been written, or not, in a cluster of so many nodes.
    pub(super) fn written(&mut self, is_done: bool, nodes: usize, now: Instant) {
        self.is_missing = false;
        let some_of =
            |time: Duration, least: f64| time.mul_f64(least + (1.0 - least) * fastrand::f64());
        if is_done {
            self.written = Some(self.state.clone());
            self.after_failure = AFTER_FAILURE;
            let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
            let spread = Duration::from_secs(u64::from(nodes / NODES_PER_SECOND));
            let between = (BETWEEN_CHANGES + spread).min(MOST_BETWEEN_CHANGES);
            self.not_before = Some(now + some_of(between, 0.5).max(BETWEEN_CHANGES));
            self.heartbeat = Some(now + some_of(HEARTBEAT, EARLIEST));
        } else {
            let again = now + some_of(self.after_failure, 0.5);
            self.after_failure = (self.after_failure * 2).min(HEARTBEAT);
            self.not_before = Some(again);
            self.heartbeat = Some(again);
        }
    }

    /// Notes that the server does not serve the kind: it is looked for now and then.
    pub(super) fn not_installed(&mut self, now: Instant) {
        if !self.is_missing {
            tracing::info!(
                "the API server has no {KIND}: the cluster is not told what is in force here; \
                 install deploy/kubernetes/crds/nodestatuses.yaml, or set `kubernetes.report: false`"
            );
        }
        self.written(false, 0, now);
        self.is_missing = true;
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A hash of documents, whatever their order. It is told from the one before at the price of
/// what differs.
///
/// Each document has a hash of its own (SHA-256), and that of all is their sum: 100 000 pods
/// are not hashed again for one that comes. Places in files do not count. The hashes are those
/// that Rust derives: they are comparable between agents of one version.
#[derive(Debug, Default)]
struct StateHash {
    /// `true` if pods do not count.
    is_without_pods: bool,
    documents: Inventory,
    sum: [u128; 2],
}

impl StateHash {
    /// Returns the hash of these documents as text.
    fn of(&mut self, documents: &Inventory) -> String {
        let before = std::mem::replace(&mut self.documents, documents.clone());
        self.take(
            "namespace",
            before
                .namespaces()
                .shared()
                .changes(documents.namespaces().shared()),
        );
        self.take(
            "node",
            before.nodes().shared().changes(documents.nodes().shared()),
        );
        if !self.is_without_pods {
            self.take(
                "pod",
                before
                    .workloads()
                    .shared()
                    .changes(documents.workloads().shared()),
            );
        }
        self.take(
            "service",
            before
                .services()
                .shared()
                .changes(documents.services().shared()),
        );
        self.take(
            "slice",
            before
                .slices()
                .shared()
                .changes(documents.slices().shared()),
        );
        self.take(
            "policy",
            before
                .policies()
                .shared()
                .changes(documents.policies().shared()),
        );
        self.take(
            "cluster policy",
            before
                .cluster_policies()
                .shared()
                .changes(documents.cluster_policies().shared()),
        );
        format!("{:032x}{:032x}", self.sum[0], self.sum[1])
    }

    fn take<K: Hash, T: Hash>(&mut self, kind: &str, changes: Vec<Change<'_, K, Arc<T>>>) {
        for Change { key, before, after } in changes {
            if let Some(before) = before {
                let gone = digest(&(kind, key, before));
                self.add(gone, u128::wrapping_sub);
            }
            if let Some(after) = after {
                let come = digest(&(kind, key, after));
                self.add(come, u128::wrapping_add);
            }
        }
    }

    fn add(&mut self, digest: [u128; 2], with: fn(u128, u128) -> u128) {
        for (sum, part) in self.sum.iter_mut().zip(digest) {
            *sum = with(*sum, part);
        }
    }
}

/// Returns the SHA-256 of what a value feeds into a hasher.
pub(super) fn digest(value: &impl Hash) -> [u128; 2] {
    struct Fed(Context);
    impl Hasher for Fed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            // Only the whole digest is asked for.
            0
        }
    }
    let mut fed = Fed(Context::new(&SHA256));
    value.hash(&mut fed);
    let digest = fed.0.finish();
    let (halves, _) = digest.as_ref().as_chunks::<16>();
    [0, 1].map(|half| {
        halves
            .get(half)
            .map_or(0, |half| u128::from_be_bytes(*half))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_documents::{assemble, parse};

    const DOCUMENTS: [&str; 4] = [
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {a: b}}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\nstatus: {podIP: 10.0.0.1}\n",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: p, namespace: x}\nspec: {podSelector: {}}\n",
    ];

    fn inventory(texts: &[&str]) -> Inventory {
        let text = texts.join("---\n");
        let parsed = parse("f", text.as_bytes());
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.diagnostics);
        assemble(parsed.documents).inventory
    }

    fn hash(texts: &[&str]) -> String {
        StateHash::default().of(&inventory(texts))
    }

    #[test]
    fn the_hash_depends_on_documents_and_neither_on_their_order_nor_on_their_places() {
        let all = hash(&DOCUMENTS);
        let mut reversed = DOCUMENTS;
        reversed.reverse();
        assert_eq!(hash(&reversed), all);
        let commented = DOCUMENTS.map(|text| format!("# a comment\n{text}"));
        let commented: Vec<&str> = commented.iter().map(String::as_str).collect();
        assert_eq!(hash(&commented), all);
        for (index, change) in [
            ("a: b", "a: c"),
            ("10.0.0.1", "10.0.0.2"),
            ("name: n", "name: m"),
            ("podSelector: {}", "podSelector: {matchLabels: {a: b}}"),
        ]
        .into_iter()
        .enumerate()
        {
            let mut texts = DOCUMENTS;
            let changed = texts[index].replace(change.0, change.1);
            assert_ne!(changed, texts[index]);
            texts[index] = &changed;
            assert_ne!(hash(&texts), all, "{changed}");
        }
    }

    #[test]
    fn a_hash_that_is_told_from_another_is_that_of_the_documents() {
        let mut told = StateHash::default();
        for texts in [
            &DOCUMENTS[..],
            &DOCUMENTS[..1],
            &[],
            &DOCUMENTS[2..],
            &DOCUMENTS,
        ] {
            assert_eq!(told.of(&inventory(texts)), hash(texts));
        }
        assert_eq!(told.of(&Inventory::default()), hash(&[]));
        let mut told = StateHash {
            is_without_pods: true,
            ..StateHash::default()
        };
        let [namespace, _, node, policy] = DOCUMENTS;
        let without = hash(&[namespace, node, policy]);
        assert_eq!(told.of(&inventory(&DOCUMENTS)), without);
    }

    fn standing(revision: u64) -> Standing {
        Standing {
            revision,
            is_enforced: true,
            obstacles: Vec::new(),
            in_force: None,
            policies: Arc::new([]),
            endpoints: Default::default(),
            closed: Vec::new(),
        }
    }

    #[test]
    fn changes_are_told_at_a_bounded_rate_and_heartbeats_without_any() {
        let look = |status: &mut Status, revision| {
            status.look(&standing(revision), &Progress::default(), |_, _, _| true);
        };
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut status = Status::new("n1", Server::Kubernetes);
        look(&mut status, 1);
        assert!(status.is_due(start), "the first at once");
        status.written(true, 10, start);
        look(&mut status, 2);
        assert!(
            !status.is_due(at(1.9)) && status.is_due(at(2.1)),
            "a change"
        );
        look(&mut status, 1);
        assert!(!status.is_due(at(30.0)), "nothing has changed");
        assert!(status.is_due(at(60.0)), "a heartbeat");
        // On 5 000 nodes 500 a second and no more.
        status.written(true, 5_000, start);
        look(&mut status, 2);
        assert!(!status.is_due(at(5.9)) && status.is_due(at(12.1)));
        // Failures are not told in haste, nor forgotten.
        for _ in 0..10 {
            status.written(false, 10, start);
        }
        assert!(!status.is_due(at(29.0)) && status.is_due(at(60.1)));
    }

    #[test]
    fn versions_go_on_while_nothing_changes_and_stay_while_something_waits() {
        let progress = |changes, version| Progress {
            changes,
            versions: [(Kind::NetworkPolicy, version)].into(),
        };
        let mut standing = standing(1);
        standing.in_force = Some(crate::reconcile::DocumentsInForce {
            documents: inventory(&DOCUMENTS),
            progress: ServersProgress {
                kubernetes: progress(3, 7),
                etcd: progress(2, 5),
            },
        });
        for (server, now, expected) in [
            (Server::Kubernetes, progress(3, 9), "9"),
            (Server::Kubernetes, progress(4, 9), "7"),
            (Server::Etcd, progress(2, 6), "6"),
            (Server::Etcd, progress(3, 6), "5"),
        ] {
            let mut status = Status::new("n1", server);
            status.look(&standing, &now, |_, _, _| true);
            assert_eq!(status.state.policies[0].resource_version, expected);
            assert_eq!(status.state.policies[1].resource_version, "0");
        }
    }
}
