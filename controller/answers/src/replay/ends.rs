//! Ends of records among the documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use cofferdam_inventory::selectors::{LabelSelector, Labels};
use cofferdam_inventory::{
    ClusterPeer, Inventory, NAMESPACE_NAME_LABEL, ObjectName, Owner, Peer, PortRange, Ports,
    Protocol, Workload,
};
use cofferdam_reach::StandIn;

use super::observed::{PodName, ToldLabels, Who};

/// Most pods that the beginning of a name may stand for.
const MOST_PODS: usize = 64;

/// Letters and digits that Kubernetes makes names of.
const OF_NAMES: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Length of the random end of a pod's name.
const END_OF_NAME: usize = 5;

/// Longest hash of a template in a pod's name.
const LONGEST_HASH: usize = 10;

/// An end of records, as the documents or a hypothesis have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    /// Ends of the documents, of which the record may mean any.
    Known(Vec<String>),
    /// A pod of a template: the end that stands in for the template's pods.
    OfTemplate {
        /// The end.
        id: String,
        /// Its name is of this pod alone.
        is_exact: bool,
    },
    /// A workload that the documents do not know, under the name it was added by.
    Hypothetical(String),
    /// An address.
    Address(IpAddr),
    /// The documents decide nothing of it: why.
    Undecided(String),
}

/// A workload that the documents do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hypothetical {
    pub(super) id: String,
    pub(super) labels: Labels,
}

/// Ends with what was added to the documents for them.
pub(super) struct Ends {
    /// Of each end of the records, in order.
    pub(super) resolved: Vec<Resolved>,
    pub(super) hypothetical: Vec<Hypothetical>,
}

/// Finds the ends of records, and adds those that the documents do not know.
pub(super) fn resolve(ends: &[Who], inventory: &mut Inventory, stand_ins: &[StandIn]) -> Ends {
    let keys = Keys::of(inventory);
    let mut added = Added {
        by_labels: HashMap::new(),
        hypothetical: Vec::new(),
    };
    let known = inventory.clone();
    let resolved = ends.iter().map(|who| {
        let found = resolve_one(who, &known, stand_ins);
        match (found, who) {
            (
                Resolved::Undecided(why),
                Who::Workload {
                    namespace,
                    name,
                    labels,
                    namespace_labels,
                    ..
                },
            ) => {
                let unknown = Unknown {
                    namespace,
                    name,
                    labels: labels.as_ref(),
                    namespace_labels: namespace_labels.as_ref(),
                };
                let supposed = added.suppose(&unknown, inventory, &keys, why);
                supposed.unwrap_or_else(Resolved::Undecided)
            }
            (found, _) => found,
        }
    });
    Ends {
        resolved: resolved.collect(),
        hypothetical: added.hypothetical,
    }
}

/// Returns the further pods of templates that records name.
pub(super) fn asked(ends: &[Who], stand_ins: &[StandIn]) -> Vec<String> {
    let mut asked = BTreeSet::new();
    for who in ends {
        let Who::Workload {
            namespace,
            name,
            owner,
            ..
        } = who
        else {
            continue;
        };
        for (stand_in, ordinal) in made_of(namespace, name, owner.as_deref(), stand_ins) {
            let number = ordinal.map_or(2, |ordinal| ordinal.saturating_add(1));
            asked.insert(format!("{}#{}", stand_in.name, number.max(2)));
        }
    }
    asked.into_iter().collect()
}

fn resolve_one(who: &Who, inventory: &Inventory, stand_ins: &[StandIn]) -> Resolved {
    match who {
        Who::Workload {
            namespace,
            name,
            owner,
            ..
        } => pod(inventory, namespace, name, owner.as_deref(), stand_ins),
        Who::Node { name, address } => {
            let known =
                (name.as_ref()).filter(|name| inventory.nodes().contains_key(name.as_str()));
            let owner = address.and_then(|address| inventory.owner(address));
            match (known, owner) {
                (Some(name), _) => Resolved::Known(vec![format!("node/{name}")]),
                (None, Some(Owner::Node(name))) => Resolved::Known(vec![format!("node/{name}")]),
                _ => {
                    let address = address.map(|address| address.to_string());
                    let called = name.clone().or(address).unwrap_or_default();
                    Resolved::Undecided(format!("the documents do not know the node {called}"))
                }
            }
        }
        Who::Address(address) => Resolved::Address(*address),
        Who::PerhapsNode(address) => {
            let has_nodes = (inventory.nodes().values()).any(|node| !node.addresses.is_empty());
            if has_nodes || inventory.owner(*address).is_some() || !is_private(*address) {
                return Resolved::Address(*address);
            }
            Resolved::Undecided(format!(
                "{address} may be a node's, and the documents have no addresses of nodes"
            ))
        }
        Who::Unknown(called) => {
            Resolved::Undecided(format!("the record does not say who {called} is"))
        }
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.octets()[0] == 100,
        IpAddr::V6(v6) => {
            v6.segments()[0] & 0xfe00 == 0xfc00 || v6.segments()[0] & 0xffc0 == 0xfe80
        }
    }
}

/// Finds a pod by its name, then by the name of what it was made of.
fn pod(
    inventory: &Inventory,
    namespace: &str,
    name: &PodName,
    owner: Option<&str>,
    stand_ins: &[StandIn],
) -> Resolved {
    let is_stand_in = |name: &ObjectName| stand_ins.iter().any(|stand_in| stand_in.name == *name);
    match name {
        PodName::Whole(whole) => {
            let object = ObjectName::new(namespace, whole);
            match inventory.workloads().get(&object) {
                Some(pod) if pod.finished => {
                    return Resolved::Undecided(format!(
                        "{object} has ended, as the documents have it"
                    ));
                }
                // What stands in for a template has the template's name, not a pod's.
                Some(_) if !is_stand_in(&object) => {
                    return Resolved::Known(vec![object.to_string()]);
                }
                _ => {}
            }
        }
        PodName::Prefix(prefix) => {
            let begin = ObjectName::new(namespace, prefix);
            let all = inventory.workloads().starting_at(&begin);
            let named = all.take_while(|(name, _)| {
                name.namespace == begin.namespace && name.name.starts_with(prefix.as_str())
            });
            let pods: Vec<String> = named
                .filter(|(name, pod)| {
                    !pod.finished && !is_stand_in(name) && !name.name.contains('#')
                })
                .map(|(name, _)| name.to_string())
                .take(MOST_PODS + 1)
                .collect();
            if pods.len() > MOST_PODS {
                return Resolved::Undecided(format!(
                    "{namespace}/{prefix}* may be any of more than {MOST_PODS} pods"
                ));
            }
            if !pods.is_empty() {
                return Resolved::Known(pods);
            }
        }
    }
    let candidates = made_of(namespace, name, owner, stand_ins);
    let called = match name {
        PodName::Whole(name) => format!("{namespace}/{name}"),
        PodName::Prefix(prefix) => format!("{namespace}/{prefix}*"),
    };
    match candidates[..] {
        [] => Resolved::Undecided(format!("the documents do not know {called}")),
        // Each pod of a set has labels of its own.
        [(stand_in, None)] if &*stand_in.kind == "StatefulSet" => {
            let others = (2..)
                .map(|number| numbered(&stand_in.name, number))
                .take_while(|name| inventory.workloads().contains_key(name));
            let all = [stand_in.name.clone()].into_iter().chain(others);
            Resolved::Known(all.map(|name| name.to_string()).collect())
        }
        [(stand_in, ordinal)] => {
            let number = ordinal.map_or(1, |ordinal| ordinal.saturating_add(1));
            let id = match number {
                1 => stand_in.name.clone(),
                _ => numbered(&stand_in.name, number),
            };
            if !inventory.workloads().contains_key(&id) {
                return Resolved::Undecided(format!(
                    "the documents have fewer pods of {} than {called} needs",
                    stand_in.name
                ));
            }
            Resolved::OfTemplate {
                id: id.to_string(),
                is_exact: ordinal.is_some(),
            }
        }
        [(one, _), (other, _), ..] => Resolved::Undecided(format!(
            "{called} may be a pod of {} or of {}",
            one.name, other.name
        )),
    }
}

/// Returns the name of a further pod of a template.
pub(super) fn numbered(name: &ObjectName, number: u32) -> ObjectName {
    ObjectName::new(&name.namespace, &format!("{}#{number}", name.name))
}

/// Returns the templates that a pod may have been made of, each with the pod's number in a set,
/// from 0.
fn made_of<'s>(
    namespace: &str,
    name: &PodName,
    owner: Option<&str>,
    stand_ins: &'s [StandIn],
) -> Vec<(&'s StandIn, Option<u32>)> {
    let of_namespace = stand_ins
        .iter()
        .filter(|one| *one.name.namespace == *namespace && !one.name.name.contains('#'));
    let all: Vec<_> = of_namespace
        .filter_map(|stand_in| {
            let base = stand_in.name.name.split('@').next().unwrap_or_default();
            let is_owned = owner == Some(base);
            let made = match name {
                PodName::Whole(name) => {
                    let made = is_made_of(name, base, &stand_in.kind);
                    made.or_else(|| is_owned.then(|| ordinal(name, base, &stand_in.kind)))
                }
                PodName::Prefix(prefix) => {
                    is_prefix_of(prefix, base, &stand_in.kind).then_some(None)
                }
            };
            made.map(|ordinal| (stand_in, ordinal, is_owned))
        })
        .collect();
    let owned = all.iter().any(|(_, _, is_owned)| *is_owned);
    let chosen = all.into_iter().filter(|(_, _, is)| *is || !owned);
    chosen.map(|(one, ordinal, _)| (one, ordinal)).collect()
}

/// The number of a pod of a StatefulSet.
fn ordinal(pod: &str, base: &str, kind: &str) -> Option<u32> {
    let number = pod.strip_prefix(base)?.strip_prefix('-')?;
    let is_plain = number == "0" || !number.starts_with(['0', '+']);
    (kind == "StatefulSet" && is_plain)
        .then(|| number.parse().ok())
        .flatten()
}

/// Returns the pod's number in a set, if it has the name of a pod that this would make.
fn is_made_of(pod: &str, base: &str, kind: &str) -> Option<Option<u32>> {
    let rest = pod.strip_prefix(base)?.strip_prefix('-')?;
    let parts: Vec<&str> = rest.split('-').collect();
    let is_of_names = |part: &str| !part.is_empty() && part.chars().all(|c| OF_NAMES.contains(c));
    let is_end = |part: &str| part.len() == END_OF_NAME && is_of_names(part);
    let is_hash = |part: &str| part.len() <= LONGEST_HASH && is_of_names(part);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match (kind, parts[..].as_ref()) {
        ("StatefulSet", [_]) => ordinal(pod, base, kind).map(Some),
        ("Deployment", [hash, end]) => (is_hash(hash) && is_end(end)).then_some(None),
        ("ReplicaSet" | "ReplicationController" | "DaemonSet" | "Job", [end]) => {
            is_end(end).then_some(None)
        }
        ("CronJob", [time, end]) => (is_number(time) && is_end(end)).then_some(None),
        _ => None,
    }
}

/// Returns `true` if names of pods that this would make begin so.
fn is_prefix_of(prefix: &str, base: &str, kind: &str) -> bool {
    let Some(rest) = prefix
        .strip_prefix(base)
        .and_then(|rest| rest.strip_prefix('-'))
    else {
        return false;
    };
    let part = rest.strip_suffix('-').unwrap_or(rest);
    let is_of = |allowed: &str| !part.is_empty() && part.chars().all(|c| allowed.contains(c));
    match kind {
        "Deployment" => rest.is_empty() || (part.len() <= LONGEST_HASH && is_of(OF_NAMES)),
        "CronJob" => rest.is_empty() || is_of("0123456789"),
        _ => rest.is_empty(),
    }
}

/// A workload of a record that the documents do not know.
struct Unknown<'r> {
    namespace: &'r str,
    name: &'r PodName,
    labels: Option<&'r ToldLabels>,
    namespace_labels: Option<&'r BTreeMap<String, String>>,
}

/// Workloads that were added, by what policies can see of them.
struct Added {
    by_labels: HashMap<(String, Labels), String>,
    hypothetical: Vec<Hypothetical>,
}

impl Added {
    /// Adds a workload with the labels of its record; pods with the same labels are one.
    fn suppose(
        &mut self,
        unknown: &Unknown<'_>,
        inventory: &mut Inventory,
        keys: &Keys,
        why: String,
    ) -> Result<Resolved, String> {
        let Unknown { namespace, .. } = unknown;
        let told = unknown
            .labels
            .ok_or_else(|| format!("{why}, and the record has no labels"))?;
        let asked = keys.of_pods(namespace);
        if let Some(key) = asked.into_iter().find(|key| !told.tells(key)) {
            return Err(format!(
                "{why}, and policies ask for the label {key}, which the record may leave out"
            ));
        }
        if !inventory.namespaces().contains_key(*namespace) {
            let labels: Labels = match unknown.namespace_labels {
                Some(labels) => labels.iter().collect(),
                None => match keys.of_namespaces.first() {
                    None => Labels::default(),
                    Some(key) => {
                        return Err(format!(
                            "{why}, nor the label {key} of its namespace, which policies ask for"
                        ));
                    }
                },
            };
            inventory.set_namespace(namespace, &labels);
        }
        let labels: Labels = told.labels.iter().collect();
        let alike = ((*namespace).to_owned(), labels.clone());
        if let Some(id) = self.by_labels.get(&alike) {
            return Ok(Resolved::Hypothetical(id.clone()));
        }
        let name = match unknown.name {
            PodName::Whole(name) => ObjectName::new(namespace, name),
            PodName::Prefix(prefix) => ObjectName::new(namespace, &format!("{prefix}*")),
        };
        let workload = |name: &ObjectName| Workload::supposed(name.clone(), labels.clone());
        // The second stands for another pod like it.
        let both = [name.clone(), numbered(&name, 2)];
        if both
            .iter()
            .any(|name| inventory.workloads().contains_key(name))
        {
            return Err(why);
        }
        for name in &both {
            let added = inventory.set_workload(workload(name));
            added.expect("what has no address takes nobody's");
        }
        let id = name.to_string();
        self.by_labels.insert(alike, id.clone());
        self.hypothetical.push(Hypothetical {
            id: id.clone(),
            labels,
        });
        Ok(Resolved::Hypothetical(id))
    }
}

/// Keys of labels that policies ask for.
struct Keys {
    /// Of workloads, by the namespace to whose workloads alone the question is put.
    of_subjects: BTreeMap<String, BTreeSet<String>>,
    /// Of workloads of any namespace.
    of_peers: BTreeSet<String>,
    /// Of namespaces, but for their names.
    of_namespaces: BTreeSet<String>,
}

impl Keys {
    fn of(inventory: &Inventory) -> Self {
        let mut keys = Self {
            of_subjects: BTreeMap::new(),
            of_peers: BTreeSet::new(),
            of_namespaces: BTreeSet::new(),
        };
        for policy in inventory.policies().values() {
            let namespace = policy.name.namespace.to_string();
            let of_subjects = keys.of_subjects.entry(namespace).or_default();
            add(of_subjects, &policy.subject);
            let rules = [&policy.ingress, &policy.egress].into_iter().flatten();
            for peer in rules.flatten().flat_map(|rule| rule.peers.iter().flatten()) {
                if let Peer::Workloads {
                    namespaces,
                    workloads,
                } = peer
                {
                    add(&mut keys.of_peers, workloads);
                    (namespaces.iter()).for_each(|one| add(&mut keys.of_namespaces, one));
                }
            }
        }
        for policy in inventory.cluster_policies().values() {
            let rules = policy.ingress.iter().chain(&policy.egress);
            let peers = rules
                .flat_map(|rule| rule.peers.iter().flatten())
                .filter_map(|peer| match peer {
                    ClusterPeer::Workloads(selector) => Some(selector),
                    ClusterPeer::Networks(_) | ClusterPeer::Nodes(_) => None,
                });
            for selector in peers.chain([&policy.subject]) {
                add(&mut keys.of_peers, &selector.workloads);
                add(&mut keys.of_namespaces, &selector.namespaces);
            }
        }
        keys.of_namespaces.remove(NAMESPACE_NAME_LABEL);
        keys
    }

    fn of_pods(&self, namespace: &str) -> BTreeSet<&String> {
        let own = self.of_subjects.get(namespace).into_iter().flatten();
        own.chain(&self.of_peers).collect()
    }
}

fn add(keys: &mut BTreeSet<String>, selector: &LabelSelector) {
    let requirements = selector.requirements().iter();
    keys.extend(requirements.map(|requirement| requirement.key().to_owned()));
}

/// Returns `true` if a rule names a port of this protocol.
pub(super) fn names_ports(inventory: &Inventory, protocol: Protocol) -> bool {
    let is_named =
        |port: &PortRange| port.protocol == protocol && matches!(port.ports, Ports::Named(_));
    let of_policies = inventory.policies().values().flat_map(|policy| {
        let rules = [&policy.ingress, &policy.egress].into_iter().flatten();
        rules.flatten().flat_map(|rule| rule.ports.iter().flatten())
    });
    let of_cluster = inventory.cluster_policies().values().flat_map(|policy| {
        let rules = policy.ingress.iter().chain(&policy.egress);
        rules.flat_map(|rule| rule.ports.iter().flatten())
    });
    of_policies.chain(of_cluster).any(is_named)
}
