//! Events about policies that are not in force as they are written, and about pods whose
//! policies are not enforced: which there are, who tells them, and when. Pure.
//!
//! An Event's name follows from its object, its reason and its text. So agents that find the
//! same about a policy make one Event: the others are refused, and leave it at that. Of many
//! nodes only a few tell at all, chosen by the Event's name: three at once, and seven more if
//! it has lasted a minute. A problem that stays is counted once more in its Event now and then,
//! because servers forget Events after an hour.
//!
//! Invariant: no agent makes more than [`BURST`] Events at once, and one more each
//! [`BETWEEN_EVENTS`] after that, whatever happens. What is held back comes later.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_documents::Kind;
use cofferdam_inventory::{Inventory, ObjectName};
use cofferdam_telemetry::time;
use serde_json::{Value, json};

use super::status::digest;
use crate::reconcile::Standing;

/// Group and version of the kind.
pub(super) const API_VERSION: &str = "events.k8s.io/v1";
/// The one who tells, as Events name it.
const CONTROLLER: &str = "cofferdam.dev/agent";
/// Namespace of Events about objects of the whole cluster.
const OF_CLUSTER: &str = "default";
/// Longest `note` that the API takes, in bytes.
const MAX_NOTE: usize = 1024;

/// Time that a pod's problem has to last: a pod that starts is closed for a moment.
const LASTING: Duration = Duration::from_secs(5);
/// Nodes that tell of a policy at once.
const FIRST_NODES: usize = 3;
/// Nodes that tell of a policy at all.
const MOST_NODES: usize = 10;
/// Time that the others wait.
const UNTIL_OTHERS: Duration = Duration::from_secs(60);
/// Time after which a problem that stays is counted once more.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// Events that may come at once.
const BURST: u32 = 20;
/// Time from one Event to the next after that.
const BETWEEN_EVENTS: Duration = Duration::from_secs(3);
/// Most pods that are told of as not managed at a time.
const MOST_UNMANAGED: usize = 100;

/// Reasons of Events; a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// The newest version of a policy does not count.
    PolicyRejected,
    /// A policy counts in part.
    PolicyPartlyEnforced,
    /// A pod's endpoint is closed.
    PodClosed,
    /// A pod has no endpoint.
    PodNotManaged,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::PolicyRejected => "PolicyRejected",
            Self::PolicyPartlyEnforced => "PolicyPartlyEnforced",
            Self::PodClosed => "PodClosed",
            Self::PodNotManaged => "PodNotManaged",
        }
    }

    /// The word for what was to be done.
    fn action(self) -> &'static str {
        match self {
            Self::PolicyRejected | Self::PolicyPartlyEnforced => "ReadPolicy",
            Self::PodClosed | Self::PodNotManaged => "EnforcePolicies",
        }
    }

    /// Time that it has to last before it is told.
    fn lasting(self) -> Duration {
        match self {
            Self::PolicyRejected | Self::PolicyPartlyEnforced => Duration::ZERO,
            Self::PodClosed | Self::PodNotManaged => LASTING,
        }
    }
}

/// Something to tell about an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    kind: Kind,
    namespace: Option<String>,
    name: String,
    uid: String,
    reason: Reason,
    note: String,
}

/// Returns everything that is to be told. `uid` returns the id of an object that the API server
/// has.
pub(super) fn problems(
    standing: &Standing,
    node: &str,
    uid: impl Fn(Kind, Option<&str>, &str) -> Option<String>,
) -> Vec<Problem> {
    let problem = |kind, namespace: &str, name: &str, reason, note: String| {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        Some(Problem {
            kind,
            uid: uid(kind, namespace, name)?,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            reason,
            note: shortened(note),
        })
    };
    let policies = standing.policies.iter().filter_map(|one| {
        let (reason, note) = match one.is_rejected {
            true => (
                Reason::PolicyRejected,
                format!(
                    "{}; the version before stays in force, if there was one",
                    one.message
                ),
            ),
            false => (Reason::PolicyPartlyEnforced, one.message.clone()),
        };
        let identity = &one.identity;
        problem(
            identity.kind,
            &identity.namespace,
            &identity.name,
            reason,
            note,
        )
    });
    let of_pod = |name: &ObjectName, reason, note| {
        problem(Kind::Pod, &name.namespace, &name.name, reason, note)
    };
    let closed = standing.closed.iter().filter_map(|(name, why)| {
        let note = format!("nothing passes to or from the pod on node {node}: {why}");
        of_pod(name, Reason::PodClosed, note)
    });
    let unmanaged = unmanaged(standing, node).into_iter().filter_map(|name| {
        let note = format!(
            "no policy is enforced for the pod on node {node}: it was started without \
             cofferdam-cni; delete it, so that another one is started"
        );
        of_pod(name, Reason::PodNotManaged, note)
    });
    policies.chain(closed).chain(unmanaged).collect()
}

/// Returns the pods of this node that run and have no endpoint.
fn unmanaged<'s>(standing: &'s Standing, node: &str) -> Vec<&'s ObjectName> {
    let Some(in_force) = &standing.in_force else {
        return Vec::new();
    };
    let pods = in_force.documents.workloads().iter();
    let here = pods.filter(|(name, pod)| {
        pod.node.as_deref() == Some(node)
            && !pod.own_addresses().is_empty()
            && !standing.endpoints.contains(*name)
    });
    here.map(|(name, _)| name).take(MOST_UNMANAGED).collect()
}

fn shortened(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let mut end = MAX_NOTE - '…'.len_utf8();
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

/// An Event that is to be made, or counted once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Its name.
    pub(super) name: String,
    /// Number of times that it is told, with this one.
    pub(super) count: u32,
    problem: Problem,
}

impl Due {
    /// Returns the namespace that it lies in.
    pub(super) fn namespace(&self) -> &str {
        self.problem.namespace.as_deref().unwrap_or(OF_CLUSTER)
    }

    /// Returns the Event.
    pub(super) fn object(&self, node: &str, now: SystemTime) -> Value {
        let Problem {
            kind,
            namespace,
            name,
            uid,
            reason,
            note,
        } = &self.problem;
        let mut regarding = json!({
            "apiVersion": kind.api_version(), "kind": kind.as_str(), "name": name, "uid": uid,
        });
        if let Some(namespace) = namespace {
            regarding["namespace"] = json!(namespace);
        }
        json!({
            "apiVersion": API_VERSION, "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.namespace()},
            "eventTime": micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": format!("cofferdam-{node}").chars().take(128).collect::<String>(),
            "type": "Warning", "reason": reason.as_str(), "action": reason.action(),
            "regarding": regarding, "note": note,
        })
    }

    /// Returns the merge patch that counts it once more.
    pub(super) fn series(&self, now: SystemTime) -> Value {
        json!({"series": {"count": self.count, "lastObservedTime": micro_time(now)}})
    }
}

/// A time as the API writes those of Events: RFC 3339 with six digits, no more and no less.
fn micro_time(time: SystemTime) -> String {
    let text = time::rfc3339(time);
    format!("{}Z", &text[..text.len() - 4])
}

#[derive(Debug)]
struct Known {
    /// Time from which it may be told; `None` if others tell it.
    from: Option<Instant>,
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    count: u32,
    /// `true` if this agent has made the Event.
    is_own: bool,
}

/// All that is known of Events.
#[derive(Debug)]
pub(super) struct Events {
    node: String,
    known: BTreeMap<String, Known>,
    tokens: u32,
    refilled: Option<Instant>,
}

impl Events {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            known: BTreeMap::new(),
            tokens: BURST,
            refilled: None,
        }
    }

    /// Returns what is to be told now. Problems that are not there any more are forgotten.
    pub(super) fn due(
        &mut self,
        problems: Vec<Problem>,
        standing: &Standing,
        now: Instant,
    ) -> Vec<Due> {
        self.refill(now);
        let named: BTreeMap<String, Problem> = problems
            .into_iter()
            .map(|problem| (name_of(&problem), problem))
            .collect();
        self.known.retain(|name, _| named.contains_key(name));
        let documents = standing.in_force.as_ref().map(|one| &one.documents);
        let mut due = Vec::new();
        for (name, problem) in named {
            if !self.known.contains_key(&name) {
                let from = self.first_time(&name, &problem, documents, now);
                self.known.insert(name.clone(), Known { from, told: None });
            }
            let Known { from, told } = &self.known[&name];
            let count = match told {
                Some(told) if told.at + AGAIN > now => continue,
                Some(told) if told.is_own => told.count.saturating_add(1),
                _ => 1,
            };
            if from.is_some_and(|from| from <= now) && self.tokens > 0 {
                self.tokens -= 1;
                due.push(Due {
                    name,
                    count,
                    problem,
                });
            }
        }
        due
    }

    /// Notes that an Event was told, by this agent or another; `None` if the write has failed.
    pub(super) fn told(&mut self, name: &str, is_own: Option<bool>, now: Instant) {
        let (Some(known), Some(is_own)) = (self.known.get_mut(name), is_own) else {
            return;
        };
        let before = known.told.as_ref().filter(|told| told.is_own && is_own);
        known.told = Some(Told {
            at: now,
            count: before.map_or(1, |told| told.count.saturating_add(1)),
            is_own,
        });
    }

    /// Returns the time from which this node tells a problem.
    fn first_time(
        &self,
        name: &str,
        problem: &Problem,
        documents: Option<&Inventory>,
        now: Instant,
    ) -> Option<Instant> {
        let others = if problem.kind.is_policy() {
            documents.map_or(0, |documents| self.rank(name, documents))
        } else {
            // No other node knows.
            0
        };
        let wait = match others {
            _ if others < FIRST_NODES => problem.reason.lasting(),
            _ if others < MOST_NODES => UNTIL_OTHERS,
            _ => return None,
        };
        Some(now + wait)
    }

    /// Returns how many nodes come before this one in telling an Event.
    fn rank(&self, name: &str, documents: &Inventory) -> usize {
        let score = |node: &str| digest(&(name, node));
        let own = score(&self.node);
        let nodes = documents.nodes().keys();
        nodes.filter(|node| score(node) < own).count()
    }

    fn refill(&mut self, now: Instant) {
        let refilled = *self.refilled.get_or_insert(now);
        let passed = now.saturating_duration_since(refilled);
        let more = u32::try_from(passed.as_secs() / BETWEEN_EVENTS.as_secs()).unwrap_or(BURST);
        if more > 0 {
            self.tokens = self.tokens.saturating_add(more).min(BURST);
            self.refilled = Some(refilled + BETWEEN_EVENTS.saturating_mul(more));
        }
    }
}

/// Returns the name of a problem's Event: the same on every node.
fn name_of(problem: &Problem) -> String {
    let [half, _] = digest(problem);
    format!("cofferdam-{half:032x}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use cofferdam_documents::Identity;
    use cofferdam_inventory::Node;

    use crate::reconcile::{DocumentsInForce, PolicyFinding};

    fn standing(nodes: usize, policies: usize) -> Standing {
        let mut documents = Inventory::default();
        for node in 0..nodes {
            documents
                .set_node(&format!("n{node}"), Node::default())
                .unwrap();
        }
        let finding = |number| PolicyFinding {
            identity: Identity {
                kind: Kind::NetworkPolicy,
                namespace: Arc::from("shop"),
                name: Arc::from(format!("p{number}")),
            },
            is_rejected: true,
            message: "a mistake".to_owned(),
        };
        Standing {
            revision: 1,
            is_enforced: true,
            obstacles: Vec::new(),
            in_force: Some(DocumentsInForce {
                documents,
                progress: Default::default(),
            }),
            policies: (0..policies).map(finding).collect(),
            endpoints: Default::default(),
            closed: Vec::new(),
        }
    }

    fn found(standing: &Standing) -> Vec<Problem> {
        problems(standing, "n0", |_, _, name| Some(format!("uid-{name}")))
    }

    fn due(events: &mut Events, standing: &Standing, now: Instant) -> Vec<Due> {
        events.due(found(standing), standing, now)
    }

    #[test]
    fn of_many_nodes_three_tell_at_once_and_ten_at_all() {
        let standing = standing(500, 1);
        let start = Instant::now();
        let mut all: Vec<Events> = (0..500)
            .map(|node| Events::new(&format!("n{node}")))
            .collect();
        let mut tell = |at| {
            let told = all.iter_mut().flat_map(|one| due(one, &standing, at));
            told.map(|due| due.name).collect::<Vec<String>>()
        };
        let at_once = tell(start);
        assert_eq!(at_once.len(), FIRST_NODES);
        assert!(at_once.iter().all(|name| *name == at_once[0]), "one Event");
        assert_eq!(tell(start + UNTIL_OTHERS).len(), MOST_NODES);
    }

    #[test]
    fn a_problem_that_stays_is_counted_now_and_then_and_one_that_ends_is_forgotten() {
        let (some, none) = (standing(1, 1), standing(1, 0));
        let mut events = Events::new("n0");
        let mut now = Instant::now();
        let first = due(&mut events, &some, now);
        assert_eq!(first[0].count, 1);
        assert_eq!(due(&mut events, &some, now).len(), 1, "not told yet");
        events.told(&first[0].name, Some(true), now);
        assert_eq!(due(&mut events, &some, now + AGAIN / 2), []);
        for count in [2, 3] {
            now += AGAIN;
            let again = due(&mut events, &some, now);
            assert_eq!(again[0].count, count);
            events.told(&again[0].name, Some(true), now);
        }
        // Another agent's: it is only seen to that there is one.
        events.told(&first[0].name, Some(false), now);
        now += AGAIN;
        assert_eq!(due(&mut events, &some, now)[0].count, 1);
        assert_eq!(due(&mut events, &none, now), []);
        assert_eq!(due(&mut events, &some, now)[0].count, 1, "a new one");
    }

    #[test]
    fn many_problems_become_a_bounded_number_of_events() {
        let standing = standing(1, 100);
        let mut events = Events::new("n0");
        let start = Instant::now();
        let mut tell = |at| {
            let due = due(&mut events, &standing, at);
            for one in &due {
                events.told(&one.name, Some(true), at);
            }
            due.len()
        };
        assert_eq!(tell(start), BURST as usize);
        assert_eq!(tell(start), 0);
        assert_eq!(tell(start + BETWEEN_EVENTS), 1);
        assert_eq!(tell(start + 3 * BETWEEN_EVENTS), 2);
    }

    #[test]
    fn pods_without_an_endpoint_are_told_if_that_lasts() {
        let mut standing = standing(1, 0);
        let in_force = standing.in_force.as_mut().unwrap();
        let pod = |name: &str, node: &str, address: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x}}\n\
                 spec: {{nodeName: {node}}}\nstatus: {{podIP: {address}}}\n"
            );
            let parsed = cofferdam_documents::parse("f", text.as_bytes());
            let assembled = cofferdam_documents::assemble(parsed.documents);
            let workload = assembled.inventory.workloads().shared().values().next();
            workload.unwrap().clone()
        };
        for (name, node, address) in [
            ("here", "n0", "10.0.0.1"),
            ("managed", "n0", "10.0.0.2"),
            ("elsewhere", "n1", "10.0.0.3"),
            ("starting", "n0", "''"),
        ] {
            in_force
                .documents
                .set_workload(pod(name, node, address))
                .unwrap();
        }
        standing.endpoints.insert(ObjectName::new("x", "managed"));
        let mut events = Events::new("n0");
        let start = Instant::now();
        assert_eq!(due(&mut events, &standing, start), []);
        let told = due(&mut events, &standing, start + LASTING);
        let names: Vec<&str> = told.iter().map(|due| due.problem.name.as_str()).collect();
        assert_eq!(names, ["here"]);
        assert_eq!(told[0].problem.reason, Reason::PodNotManaged);
    }

    #[test]
    fn notes_are_as_long_as_the_api_takes_them() {
        let long = shortened("ä".repeat(MAX_NOTE));
        assert!(long.len() <= MAX_NOTE && long.ends_with('…'));
        assert_eq!(shortened("short".to_owned()), "short");
        assert_eq!(
            micro_time(SystemTime::UNIX_EPOCH),
            "1970-01-01T00:00:00.000000Z"
        );
    }
}
