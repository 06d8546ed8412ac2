//! The oracle: a second, naive reading of the policies, to hold the first against.
//!
//! It walks the raw YAML tree for every question, with selector, CIDR and port
//! code of its own, in the order in which the meaning of `NetworkPolicy` and
//! `ClusterNetworkPolicy` is written down. It is slow, and short enough to be read
//! beside those texts.
//!
//! Must not use anything of documents, selectors, inventory or compiler, nor of the
//! verdict crate: a mistake there must show as a disagreement here. Therefore this crate
//! depends on no other of the workspace.
//!
//! It expects documents that passed validation. Invariant: what it does not
//! understand never allows, so that a rule that should have been refused does not:
//! it matches nothing, or, where a `ClusterNetworkPolicy` denies or passes by it,
//! denies everything.

mod cidr;
mod cluster_policy;
mod labels;
mod network_policy;
mod objects;
mod services;
mod tree;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;
use serde_yaml::Value;
use thiserror::Error;

pub use services::{Taker, Way};

use objects::{
    is_finished, is_host_network, is_on_audit, labels_of, name_of, namespace_of, node_name,
};
use tree::{list, string};

/// Reason for which a text could not be taken.
#[derive(Debug, Error)]
#[error("text {index} is not YAML")]
pub struct OracleError {
    /// Index of the text, from 0.
    pub index: usize,
    /// Error of the YAML reader.
    #[source]
    pub source: serde_yaml::Error,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A node itself, or a process of it.
    Node {
        /// Its name.
        name: String,
    },
    /// Any other address.
    External,
}

/// Payload of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Protocol number and destination port.
    Port(u8, u16),
    /// Protocol number, ICMP type and code.
    Icmp(u8, u8, u8),
    /// A protocol number without ports.
    Bare(u8),
}

/// May this first packet of a connection pass?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Sender.
    pub source: End,
    /// Receiver.
    pub destination: End,
    /// The sender's address in the packet.
    pub source_address: IpAddr,
    /// The receiver's address in the packet.
    pub destination_address: IpAddr,
    /// Payload of the packet.
    pub payload: Payload,
    /// `true` if a pod's own node may always open connections to it.
    pub own_node_allowed: bool,
}

impl Query {
    /// The other end of the pod whose direction this is, and its address.
    fn peer(&self, direction: Direction) -> (&End, IpAddr) {
        match direction {
            Direction::Ingress => (&self.source, self.source_address),
            Direction::Egress => (&self.destination, self.destination_address),
        }
    }
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

/// A pod's two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// Away from the pod.
    Egress,
}

impl Direction {
    fn section(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn policy_type(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    fn peers(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

/// A rule, or with index `None` its policy as a whole.
///
/// Ordered by namespace, name, direction, index: the order in which the rules of
/// `NetworkPolicy` rank.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy's namespace; a `ClusterNetworkPolicy` has none.
    pub namespace: Option<String>,
    /// The policy's name.
    pub name: String,
    /// The direction.
    pub direction: Direction,
    /// Position in the direction's list, from 0.
    pub index: Option<usize>,
}

impl RuleName {
    /// Its policy as people write it: `namespace/name`, or the bare name of a policy
    /// of the whole cluster.
    #[must_use]
    pub fn policy(&self) -> String {
        let Self {
            namespace, name, ..
        } = self;
        match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.clone(),
        }
    }
}

/// Reason of the judgement of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A pod reaches itself.
    SelfTraffic,
    /// The pod's own node opens the connection.
    OwnNode,
    /// The end is not a pod that policies select.
    NotASubject,
    /// No policy isolates the pod in this direction, and no rule decides.
    NotIsolated,
    /// A rule decides.
    Rule,
    /// Isolated, and no rule allows it.
    Isolated,
}

/// Judgement of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Action: allow if it passes.
    pub action: Action,
    /// Reason of the action.
    pub reason: Reason,
    /// The rule that decides, if one does: of a `ClusterNetworkPolicy`, or the first
    /// of those that allow.
    pub rule: Option<RuleName>,
    /// Every rule of a `NetworkPolicy` that allows it, when that tier is asked.
    pub allowing: BTreeSet<RuleName>,
    /// Every `NetworkPolicy` that isolates the pod in this direction, when that tier
    /// is asked.
    pub isolating: BTreeSet<RuleName>,
}

/// Both directions, under one set of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Action: allow if both directions allow it.
    pub action: Action,
    /// The sender's egress.
    pub egress: Side,
    /// The receiver's ingress.
    pub ingress: Side,
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Judgement in force.
    pub enforced: Judgement,
    /// Judgement if audit policies were in force as well.
    pub audited: Judgement,
}

/// All documents, as the trees they are.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    namespaces: Vec<Value>,
    pods: Vec<Value>,
    nodes: Vec<Value>,
    network_policies: Vec<Value>,
    cluster_policies: Vec<Value>,
    services: Vec<Value>,
    slices: Vec<Value>,
    audits_everything: bool,
}

impl Oracle {
    /// Takes the documents of all texts.
    ///
    /// # Errors
    /// A text that is not YAML.
    pub fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, OracleError> {
        let mut oracle = Self::default();
        for (index, text) in texts.into_iter().enumerate() {
            for document in serde_yaml::Deserializer::from_str(text.as_ref()) {
                let value =
                    Value::deserialize(document).map_err(|source| OracleError { index, source })?;
                oracle.take(value);
            }
        }
        Ok(oracle)
    }

    /// The same on a node that is configured to enforce no policy.
    #[must_use]
    pub fn on_audit(mut self) -> Self {
        self.audits_everything = true;
        self
    }

    fn take(&mut self, document: Value) {
        let version = string(&document, "apiVersion").unwrap_or("");
        let kind = string(&document, "kind").unwrap_or("");
        if let Some(kind_of_items) = kind.strip_suffix("List") {
            for item in list(&document, "items") {
                let mut item = item.clone();
                // The items of a list of one kind need not say it.
                if let (Value::Mapping(fields), false) = (&mut item, kind_of_items.is_empty()) {
                    for (key, value) in [("apiVersion", version), ("kind", kind_of_items)] {
                        fields.entry(key.into()).or_insert(value.into());
                    }
                }
                self.take(item);
            }
            return;
        }
        match (version, kind) {
            ("v1", "Namespace") => self.namespaces.push(document),
            ("v1", "Pod") => self.pods.push(document),
            ("v1", "Node") => self.nodes.push(document),
            ("v1", "Service") => self.services.push(document),
            ("discovery.k8s.io/v1", "EndpointSlice") => self.slices.push(document),
            ("networking.k8s.io/v1", "NetworkPolicy") => self.network_policies.push(document),
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
                self.cluster_policies.push(document);
            }
            _ => {}
        }
    }

    /// Judges the first packet of a connection.
    #[must_use]
    pub fn evaluate(&self, query: &Query) -> Answer {
        Answer {
            enforced: self.judge(query, false, false),
            audited: self.judge(query, true, false),
        }
    }

    /// The same of a connection through a Service, whose endpoint the destination is:
    /// it makes a difference to a pod that reaches itself.
    #[must_use]
    pub fn evaluate_through_service(&self, query: &Query) -> Answer {
        Answer {
            enforced: self.judge(query, false, true),
            audited: self.judge(query, true, true),
        }
    }

    fn judge(&self, query: &Query, audited: bool, by_service: bool) -> Judgement {
        let egress = self.side(query, Direction::Egress, audited, by_service);
        let ingress = self.side(query, Direction::Ingress, audited, by_service);
        // A connection passes iff egress of the sender allows it and ingress of the
        // receiver allows it.
        let action = if egress.action == Action::Allow && ingress.action == Action::Allow {
            Action::Allow
        } else {
            Action::Deny
        };
        Judgement {
            action,
            egress,
            ingress,
        }
    }

    fn side(&self, query: &Query, direction: Direction, audited: bool, by_service: bool) -> Side {
        let subject = match direction {
            Direction::Ingress => &query.destination,
            Direction::Egress => &query.source,
        };
        let (peer, _) = query.peer(direction);
        let is_to_itself = query.source == query.destination && matches!(subject, End::Pod { .. });
        // A pod cannot block access to itself.
        if is_to_itself && !by_service {
            return Side::allowed(Reason::SelfTraffic);
        }
        let Some(pod) = self.pod(subject) else {
            return Side::allowed(Reason::NotASubject);
        };
        // Its own node may always open connections to it.
        if direction == Direction::Ingress
            && query.own_node_allowed
            && self
                .node_of(peer)
                .is_some_and(|node| Some(node) == node_name(pod))
        {
            return Side::allowed(Reason::OwnNode);
        }
        let cluster_tier = |tier| self.cluster_tier(tier, pod, direction, query, audited);
        let namespace_tier = || self.namespace_tier(pod, direction, query, audited);
        let decided = cluster_tier("Admin")
            .or_else(|| {
                // Through a Service a pod's own access is subject to policies of the
                // cluster; to those of namespaces it is allowed.
                namespace_tier().map(|side| match is_to_itself {
                    true => Side::allowed(Reason::SelfTraffic),
                    false => side,
                })
            })
            .or_else(|| cluster_tier("Baseline"));
        let mut decided = decided.unwrap_or(Side::allowed(Reason::NotIsolated));
        // A denial is only reported of whoever is in a namespace on audit, whichever tier or
        // kind of policy it comes from.
        if !audited && decided.action == Action::Deny && self.only_audits(namespace_of(pod)) {
            decided = Side::allowed(Reason::NotIsolated);
        }
        if is_to_itself && decided.action == Action::Allow {
            return Side::allowed(Reason::SelfTraffic);
        }
        decided
    }

    /// The pod of an end, if selectors can match it: host-network pods are their
    /// node's address, and finished pods have none.
    fn pod(&self, end: &End) -> Option<&Value> {
        let pod = self.any_pod(end)?;
        (!is_host_network(pod) && !is_finished(pod)).then_some(pod)
    }

    fn any_pod(&self, end: &End) -> Option<&Value> {
        let End::Pod { namespace, name } = end else {
            return None;
        };
        self.pods
            .iter()
            .find(|pod| namespace_of(pod) == namespace && name_of(pod) == name)
    }

    /// The node whose process an end is.
    fn node_of<'a>(&'a self, end: &'a End) -> Option<&'a str> {
        match end {
            End::Node { name } => Some(name),
            End::External => None,
            End::Pod { .. } => {
                let pod = self.any_pod(end).filter(|pod| is_host_network(pod))?;
                node_name(pod)
            }
        }
    }

    fn only_audits(&self, namespace: &str) -> bool {
        let of_name = self.namespaces.iter().find(|one| name_of(one) == namespace);
        self.audits_everything || of_name.is_some_and(is_on_audit)
    }

    fn namespace_labels(&self, name: &str) -> Vec<(String, String)> {
        let mut labels = self
            .namespaces
            .iter()
            .find(|namespace| name_of(namespace) == name)
            .map(labels_of)
            .unwrap_or_default();
        // The control plane sets this one on every namespace.
        labels.retain(|(key, _)| key != "kubernetes.io/metadata.name");
        labels.push(("kubernetes.io/metadata.name".to_owned(), name.to_owned()));
        labels
    }
}

impl Side {
    fn allowed(reason: Reason) -> Self {
        Self {
            action: Action::Allow,
            reason,
            rule: None,
            allowing: BTreeSet::new(),
            isolating: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests;
