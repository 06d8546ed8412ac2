//! `cofferdam status --cluster`: which nodes have in force what the API server, or an etcd, says.
//!
//! Each agent tells in its status the newest version of the policies that it has in force. Held
//! against the policies that the server has, that says which are behind; no agent is asked.

mod etcd;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use cofferdam_documents::{API_PREFIX, ETCD_PREFIX, Kind};
use cofferdam_protocol::node_status::{API_VERSION, NodeState, PLURAL, PolicyNotInForce};
use cofferdam_protocol::output::Schema;
use cofferdam_sources::etcd::Address;
use cofferdam_sources::kubernetes::{Cluster, LookError, Resource};
use serde::Deserialize as _;
use serde_json::Value;

use super::cluster::UserArgs;
use super::{Format, show};
use crate::output::{ClusterStatus, NodeReport};

const NODE_STATUSES: Resource = Resource {
    api_version: API_VERSION,
    plural: PLURAL,
};
/// Most policies and obstacles that the text names of a node.
const MOST_NAMED: usize = 3;
/// Problem of a node of which only others have told.
const UNTOLD: &str = "no agent has told the state of this node";
/// Prefix of policies that a node has not from the server.
const FILES_PREFIX: &str = "files:";

/// A server that nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Kubernetes,
    Etcd,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "the API server",
            Self::Etcd => "etcd",
        }
    }

    /// Returns the beginning of the places of its policies.
    fn prefix(self) -> &'static str {
        match self {
            Self::Kubernetes => API_PREFIX,
            Self::Etcd => ETCD_PREFIX,
        }
    }
}

/// Asks a cluster, or the etcd that nodes share, and prints the nodes.
pub(super) fn run(
    user: &UserArgs,
    etcd: Option<&Address>,
    missed_heartbeats: u32,
    format: Format,
) -> Result<bool> {
    let (report, server) = match etcd {
        Some(address) => {
            let report = etcd::look(address, missed_heartbeats)
                .with_context(|| format!("cannot ask {address}"))?;
            (report, Server::Etcd)
        }
        None => {
            let cluster = user.connect().context("cannot ask the cluster")?;
            let report = look(&cluster, missed_heartbeats).context("cannot ask the cluster")?;
            (report, Server::Kubernetes)
        }
    };
    show(format, &report, |report| text(report, server))?;
    Ok(report.ok)
}

fn look(cluster: &Cluster, missed_heartbeats: u32) -> Result<ClusterStatus> {
    let statuses = match cluster.objects(NODE_STATUSES) {
        Err(LookError::Missing { resource }) => bail!(
            "the API server does not have `{resource}`: install \
             deploy/kubernetes/crds/nodestatuses.yaml"
        ),
        statuses => statuses?,
    };
    // Before the policies: one that comes in between is not missed.
    let nodes = cluster.metadata(Resource::of(Kind::Node))?;
    let mut policies = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_policy()) {
        match cluster.metadata(Resource::of(kind)) {
            Ok(listed) => policies.extend(listed.iter().map(|object| Policy::of(kind, object))),
            Err(LookError::Missing { .. }) if kind == Kind::ClusterNetworkPolicy => {}
            Err(error) => return Err(error.into()),
        }
    }
    policies.sort();
    let name_of = |object: &Value| text_at(object, "name").to_owned();
    let names: BTreeSet<String> = nodes.iter().map(name_of).collect();
    let mut told: BTreeMap<String, NodeState> = BTreeMap::new();
    for object in &statuses {
        // One that cannot be read is as good as none.
        if let Ok(state) = NodeState::deserialize(&object["status"]) {
            told.insert(name_of(object), state);
        }
    }
    let asked = Asked {
        server: Server::Kubernetes,
        policies: &policies,
        unreadable: &[],
        now: SystemTime::now(),
        missed_heartbeats,
    };
    let reports = (names.iter()).map(|name| asked.report(name, told.get(name).ok_or(UNTOLD)));
    Ok(summary(reports.collect()))
}

fn summary(nodes: Vec<NodeReport>) -> ClusterStatus {
    ClusterStatus {
        schema: Schema,
        ok: nodes.iter().all(|node| node.problems.is_empty()),
        nodes,
    }
}

fn text_at<'o>(object: &'o Value, key: &str) -> &'o str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// A policy that the server has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Policy {
    kind: Kind,
    namespace: String,
    name: String,
    /// `None` if versions are no numbers: then it is not known which come first.
    version: Option<u64>,
}

impl Policy {
    fn of(kind: Kind, object: &Value) -> Self {
        Self {
            kind,
            namespace: text_at(object, "namespace").to_owned(),
            name: text_at(object, "name").to_owned(),
            version: text_at(object, "resourceVersion").parse().ok(),
        }
    }

    fn place(&self, server: Server) -> String {
        let namespace = Some(&*self.namespace).filter(|namespace| !namespace.is_empty());
        let name = name_of(self.kind.as_str(), namespace, &self.name);
        format!("{}{name}", server.prefix())
    }

    /// Returns `true` if this is what a node has read and does not have in force.
    fn is_that(&self, refused: &PolicyNotInForce) -> bool {
        refused.kind == self.kind.as_str()
            && refused.namespace.as_deref().unwrap_or_default() == self.namespace
            && refused.name == self.name
    }

    /// Returns `true` if a node's version in force is not this one.
    fn is_behind(&self, state: &NodeState) -> bool {
        let read = state
            .policies
            .iter()
            .find(|read| read.kind == self.kind.as_str())
            .map(|read| read.resource_version.parse::<u64>());
        let is_newer = match (self.version, read) {
            (Some(version), Some(Ok(read))) => version > read,
            // Nothing is in force yet.
            (_, None) => true,
            (None, _) | (_, Some(Err(_))) => false,
        };
        let mut rejected = state.policies_not_in_force.iter();
        is_newer || rejected.any(|one| self.is_that(one))
    }
}

/// Returns a policy by its kind and names.
fn name_of(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind}/{namespace}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// The question that is asked about each node.
struct Asked<'p> {
    server: Server,
    policies: &'p [Policy],
    /// Places of texts that no node can read: each may be a policy.
    unreadable: &'p [String],
    now: SystemTime,
    missed_heartbeats: u32,
}

impl Asked<'_> {
    /// Reports on a node by what its agent has told, or by the reason why it tells nothing.
    fn report(&self, name: &str, told: Result<&NodeState, &str>) -> NodeReport {
        let state = match told {
            Ok(state) => state,
            Err(problem) => {
                return NodeReport {
                    name: name.to_owned(),
                    enforced: false,
                    ready: false,
                    version: None,
                    revision: None,
                    state_hash: None,
                    policies_behind: Vec::new(),
                    last_seen: None,
                    obstacles: Vec::new(),
                    problems: vec![problem.to_owned()],
                };
            }
        };
        let policies_behind = self.behind(state);
        let mut problems = Vec::new();
        if !state.enforced {
            problems.push("the newest desired state is not in force".to_owned());
        }
        if !policies_behind.is_empty() {
            problems.push(match self.server {
                Server::Kubernetes => format!(
                    "{} policies are not in force as the API server has them",
                    policies_behind.len()
                ),
                Server::Etcd => format!(
                    "{} policies are not in force as etcd or the node's files have them",
                    policies_behind.len()
                ),
            });
        }
        problems.extend(self.silence(state));
        NodeReport {
            name: name.to_owned(),
            enforced: state.enforced,
            ready: state.ready,
            version: Some(state.version.clone()),
            revision: Some(state.revision),
            state_hash: Some(state.state_hash.clone()).filter(|hash| !hash.is_empty()),
            policies_behind,
            last_seen: Some(state.last_seen.clone()),
            obstacles: state.obstacles.clone(),
            problems,
        }
    }

    /// Returns the policies that a node has not in force as they are written.
    fn behind(&self, state: &NodeState) -> Vec<String> {
        let policies = self.policies.iter();
        let behind = policies
            .filter(|policy| policy.is_behind(state))
            .map(|policy| policy.place(self.server));
        let mut behind: Vec<String> = behind.chain(self.unreadable.iter().cloned()).collect();
        if self.server == Server::Etcd {
            let is_shared = |refused: &PolicyNotInForce| {
                let mut policies = self.policies.iter();
                policies.any(|policy| policy.is_that(refused))
            };
            let refused = state.policies_not_in_force.iter();
            behind.extend(refused.filter(|one| !is_shared(one)).map(|one| {
                let name = name_of(&one.kind, one.namespace.as_deref(), &one.name);
                format!("{FILES_PREFIX}{name}")
            }));
        }
        behind
    }

    /// Returns the problem of a node that was not seen lately.
    fn silence(&self, state: &NodeState) -> Option<String> {
        let Ok(seen) = humantime::parse_rfc3339_weak(&state.last_seen) else {
            return Some("the time at which its agent was seen cannot be read".to_owned());
        };
        // A clock that is ahead of this one has seen it now.
        let silent = self.now.duration_since(seen).unwrap_or_default();
        let heartbeat = Duration::from_secs(state.heartbeat_seconds.into());
        let longest = heartbeat.saturating_mul(self.missed_heartbeats);
        (silent > longest).then(|| {
            let seconds = Duration::from_secs(silent.as_secs());
            format!("not seen for {}", humantime::format_duration(seconds))
        })
    }
}

/// Returns the nodes as a table, the ones with problems explained below it.
fn text(report: &ClusterStatus, server: Server) -> String {
    let mut rows =
        vec![["NODE", "ENFORCED", "REVISION", "BEHIND", "STATE", "SEEN"].map(String::from)];
    for node in &report.nodes {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let hash = node.state_hash.as_ref();
        rows.push([
            node.name.clone(),
            if node.enforced { "yes" } else { "no" }.to_owned(),
            or_none(node.revision.map(|revision| revision.to_string())),
            node.policies_behind.len().to_string(),
            or_none(hash.map(|hash| hash.chars().take(12).collect())),
            or_none(
                node.last_seen
                    .as_ref()
                    .map(|seen| seen.chars().take(19).collect()),
            ),
        ]);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = (row.iter().zip(&widths))
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(text, "{}", cells.join("  ").trim_end()).expect("writing to a string");
    }
    for node in report.nodes.iter().filter(|node| !node.problems.is_empty()) {
        let mut all = node.problems.clone();
        all.extend(named(&node.policies_behind));
        all.extend(named(&node.obstacles));
        writeln!(text, "{}: {}", node.name, all.join("; ")).expect("writing to a string");
    }
    let good = report
        .nodes
        .iter()
        .filter(|node| node.problems.is_empty())
        .count();
    let all = report.nodes.len();
    writeln!(
        text,
        "{good} of {all} nodes have in force what {} says",
        server.name()
    )
    .expect("writing to a string");
    text
}

/// Returns the first of some texts, and how many more there are.
fn named(texts: &[String]) -> Vec<String> {
    let mut all: Vec<String> = texts.iter().take(MOST_NAMED).cloned().collect();
    if texts.len() > MOST_NAMED {
        all.push(format!("{} more", texts.len() - MOST_NAMED));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_protocol::node_status::PoliciesRead;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn state() -> NodeState {
        NodeState {
            version: "1".to_owned(),
            revision: 3,
            enforced: true,
            ready: true,
            state_hash: "ab".to_owned(),
            policies: vec![PoliciesRead {
                kind: "NetworkPolicy".to_owned(),
                resource_version: "7".to_owned(),
            }],
            last_seen: "2026-01-01T00:09:00.5Z".to_owned(),
            heartbeat_seconds: 60,
            ..NodeState::default()
        }
    }

    fn policy(name: &str, version: u64) -> Policy {
        Policy {
            kind: Kind::NetworkPolicy,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            version: Some(version),
        }
    }

    fn report(policies: &[Policy], told: Option<&NodeState>) -> NodeReport {
        let asked = Asked {
            server: Server::Kubernetes,
            policies,
            unreadable: &[],
            now: humantime::parse_rfc3339_weak(NOW).unwrap(),
            missed_heartbeats: 3,
        };
        asked.report("n1", told.ok_or(UNTOLD))
    }

    #[test]
    fn a_policy_of_a_nodes_own_files_is_named_beside_those_that_are_shared() {
        let refused = |name: &str| PolicyNotInForce {
            kind: "NetworkPolicy".to_owned(),
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
            reason: "wrong".to_owned(),
        };
        let state = NodeState {
            policies_not_in_force: vec![refused("own"), refused("read")],
            ..state()
        };
        let asked = Asked {
            server: Server::Etcd,
            policies: &[policy("old", 5), policy("read", 7)],
            unreadable: &["etcd:documents/x:3".to_owned()],
            now: humantime::parse_rfc3339_weak(NOW).unwrap(),
            missed_heartbeats: 3,
        };
        let expected = [
            "etcd:NetworkPolicy/shop/read",
            "etcd:documents/x:3",
            "files:NetworkPolicy/shop/own",
        ];
        let node = asked.report("n1", Ok(&state));
        assert_eq!(node.policies_behind, expected);
        assert_eq!(node.problems.len(), 1);
    }

    #[test]
    fn a_policy_is_behind_if_it_is_newer_than_what_was_read_or_was_refused() {
        let policies = [policy("old", 5), policy("read", 7), policy("new", 8)];
        let node = report(&policies, Some(&state()));
        assert_eq!(node.policies_behind, ["kubernetes:NetworkPolicy/shop/new"]);
        assert_eq!(node.problems.len(), 1);
        let mut refused = state();
        refused.policies_not_in_force.push(PolicyNotInForce {
            kind: "NetworkPolicy".to_owned(),
            namespace: Some("shop".to_owned()),
            name: "old".to_owned(),
            reason: "wrong".to_owned(),
        });
        let node = report(&policies[..2], Some(&refused));
        assert_eq!(node.policies_behind, ["kubernetes:NetworkPolicy/shop/old"]);
        assert!(report(&policies[..2], Some(&state())).problems.is_empty());
        let nothing = NodeState {
            policies: Vec::new(),
            ..state()
        };
        assert_eq!(report(&policies, Some(&nothing)).policies_behind.len(), 3);
    }

    #[test]
    fn a_node_that_is_silent_not_enforced_or_unknown_is_a_problem() {
        for (seen, is_problem) in [
            ("2026-01-01T00:07:00Z", false),
            ("2026-01-01T00:06:59Z", true),
            ("2026-01-01T00:20:00Z", false),
            ("yesterday", true),
        ] {
            let state = NodeState {
                last_seen: seen.to_owned(),
                ..state()
            };
            assert_eq!(
                !report(&[], Some(&state)).problems.is_empty(),
                is_problem,
                "{seen}"
            );
        }
        let closed = NodeState {
            enforced: false,
            ..state()
        };
        assert_eq!(report(&[], Some(&closed)).problems.len(), 1);
        let unknown = report(&[], None);
        assert!(!unknown.enforced && unknown.last_seen.is_none());
        assert_eq!(unknown.problems.len(), 1);
    }
}
