//! `cofferdam status --cluster`: which nodes have in force what the API server says.
//!
//! Each agent tells in its NodeStatus the newest version of the policies that it has in force.
//! Held against the policies that the server has, that says which are behind; no agent is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use cofferdam_policies::documents::{API_PREFIX, Kind};
use cofferdam_protocol::node_status::{API_VERSION, NodeState, PLURAL};
use cofferdam_protocol::output::Schema;
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

/// Asks a cluster, and prints its nodes.
pub(super) fn run(user: &UserArgs, missed_heartbeats: u32, format: Format) -> Result<bool> {
    let cluster = user.connect().context("cannot ask the cluster")?;
    let report = look(&cluster, missed_heartbeats).context("cannot ask the cluster")?;
    show(format, &report, text)?;
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
        policies: &policies,
        now: SystemTime::now(),
        missed_heartbeats,
    };
    let nodes: Vec<NodeReport> = (names.iter())
        .map(|name| asked.report(name, told.get(name)))
        .collect();
    Ok(ClusterStatus {
        schema: Schema,
        ok: nodes.iter().all(|node| node.problems.is_empty()),
        nodes,
    })
}

fn text_at<'o>(object: &'o Value, key: &str) -> &'o str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// A policy that the API server has.
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

    fn place(&self) -> String {
        let within = match self.namespace.as_str() {
            "" => String::new(),
            namespace => format!("{namespace}/"),
        };
        format!("{API_PREFIX}{}/{within}{}", self.kind, self.name)
    }

    /// Returns `true` if a node's version in force is not this one.
    fn is_behind(&self, state: &NodeState) -> bool {
        let mut read = state.policies.iter();
        let read = read.find(|read| read.kind == self.kind.as_str());
        let read = read.map(|read| read.resource_version.parse::<u64>());
        let is_newer = match (self.version, read) {
            (Some(version), Some(Ok(read))) => version > read,
            // Nothing is in force yet.
            (_, None) => true,
            (None, _) | (_, Some(Err(_))) => false,
        };
        let mut rejected = state.policies_not_in_force.iter();
        is_newer
            || rejected.any(|one| {
                one.kind == self.kind.as_str()
                    && one.namespace.as_deref().unwrap_or_default() == self.namespace
                    && one.name == self.name
            })
    }
}

/// The question that is asked about each node.
struct Asked<'p> {
    policies: &'p [Policy],
    now: SystemTime,
    missed_heartbeats: u32,
}

impl Asked<'_> {
    fn report(&self, name: &str, told: Option<&NodeState>) -> NodeReport {
        let Some(state) = told else {
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
                problems: vec!["no agent has told the state of this node".to_owned()],
            };
        };
        let behind = self
            .policies
            .iter()
            .filter(|policy| policy.is_behind(state));
        let policies_behind: Vec<String> = behind.map(Policy::place).collect();
        let mut problems = Vec::new();
        if !state.enforced {
            problems.push("the newest desired state is not in force".to_owned());
        }
        if !policies_behind.is_empty() {
            problems.push(format!(
                "{} policies are not in force as the API server has them",
                policies_behind.len()
            ));
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
fn text(report: &ClusterStatus) -> String {
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
        "{good} of {all} nodes have in force what the API server says"
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
    use cofferdam_protocol::node_status::{PoliciesRead, PolicyNotInForce};

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
            policies,
            now: humantime::parse_rfc3339_weak(NOW).unwrap(),
            missed_heartbeats: 3,
        };
        asked.report("n1", told)
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
