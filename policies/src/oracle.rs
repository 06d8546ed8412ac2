//! The oracle: a second, naive reading of the policies, to hold the first against.
//!
//! It walks the raw YAML tree for every question, with selector, CIDR and port
//! code of its own, in the order in which the meaning of a `NetworkPolicy` is
//! written down. It is slow, and short enough to be read beside that text.
//!
//! Must not use anything of the documents, selectors, inventory or compiler of
//! this crate, nor of the verdict crate: a mistake there must show as a
//! disagreement here.
//!
//! It expects documents that passed validation. Invariant: what it does not
//! understand matches nothing, so that a document that should have been refused
//! never allows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;
use serde_yaml::Value;
use thiserror::Error;

/// Why a text could not be taken.
#[derive(Debug, Error)]
#[error("text {index} is not YAML")]
pub struct OracleError {
    /// Which of the texts, from 0.
    pub index: usize,
    /// Why.
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

/// What a packet carries.
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
    /// Who sends.
    pub source: End,
    /// Who receives.
    pub destination: End,
    /// The sender's address in the packet.
    pub source_address: IpAddr,
    /// The receiver's address in the packet.
    pub destination_address: IpAddr,
    /// What it carries.
    pub payload: Payload,
    /// Whether a pod's own node may always open connections to it.
    pub own_node_allowed: bool,
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
/// Ordered by namespace, name, direction, index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The direction.
    pub direction: Direction,
    /// Position in the direction's list, from 0.
    pub index: Option<usize>,
}

/// Why a direction is judged as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A pod reaches itself.
    SelfTraffic,
    /// The pod's own node opens the connection.
    OwnNode,
    /// The end is not a pod that policies select.
    NotASubject,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// Some rule allows it.
    Rule,
    /// Isolated, and no rule allows it.
    Isolated,
}

/// How one direction is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Whether it passes.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Every rule that allows it.
    pub allowing: BTreeSet<RuleName>,
    /// Every policy that isolates the pod in this direction.
    pub isolating: BTreeSet<RuleName>,
}

/// Both directions, under one set of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it passes: both directions must allow it.
    pub action: Action,
    /// The sender's egress.
    pub egress: Side,
    /// The receiver's ingress.
    pub ingress: Side,
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What is in force.
    pub enforced: Judgement,
    /// What would be with audit policies in force as well.
    pub audited: Judgement,
}

/// All documents, as the trees they are.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    namespaces: Vec<Value>,
    pods: Vec<Value>,
    policies: Vec<Value>,
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

    fn take(&mut self, document: Value) {
        match string(&document, "kind") {
            Some("List") => {
                for item in list(&document, "items") {
                    self.take(item.clone());
                }
            }
            Some("Namespace") => self.namespaces.push(document),
            Some("Pod") => self.pods.push(document),
            Some("NetworkPolicy") => self.policies.push(document),
            _ => {}
        }
    }

    /// Judges the first packet of a connection.
    #[must_use]
    pub fn evaluate(&self, query: &Query) -> Answer {
        Answer {
            enforced: self.judge(query, false),
            audited: self.judge(query, true),
        }
    }

    fn judge(&self, query: &Query, audited: bool) -> Judgement {
        let egress = self.side(query, Direction::Egress, audited);
        let ingress = self.side(query, Direction::Ingress, audited);
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

    fn side(&self, query: &Query, direction: Direction, audited: bool) -> Side {
        let (subject, peer) = match direction {
            Direction::Ingress => (&query.destination, &query.source),
            Direction::Egress => (&query.source, &query.destination),
        };
        // A pod cannot block access to itself.
        if query.source == query.destination && matches!(subject, End::Pod { .. }) {
            return Side::allowed(Reason::SelfTraffic);
        }
        let Some(pod) = self.pod(subject) else {
            return Side::allowed(Reason::NotASubject);
        };
        if direction == Direction::Ingress
            && query.own_node_allowed
            && self.node_of(peer).is_some_and(|node| {
                Some(node) == field(pod, "spec").and_then(|s| string(s, "nodeName"))
            })
        {
            return Side::allowed(Reason::OwnNode);
        }
        // Isolated iff some policy of the pod's namespace selects it and has the
        // direction among its types.
        let isolating: Vec<&Value> = self
            .policies
            .iter()
            .filter(|policy| audited || !is_audit(policy))
            .filter(|policy| namespace_of(policy) == namespace_of(pod))
            .filter(|policy| {
                let selector = field(policy, "spec").and_then(|spec| field(spec, "podSelector"));
                selector.is_none_or(|selector| selects(selector, &labels_of(pod)))
            })
            .filter(|policy| has_direction(policy, direction))
            .collect();
        if isolating.is_empty() {
            return Side::allowed(Reason::NotIsolated);
        }
        let mut allowing = BTreeSet::new();
        for policy in &isolating {
            let rules = field(policy, "spec").map_or(&[][..], |s| list(s, direction.section()));
            for (index, rule) in rules.iter().enumerate() {
                if self.rule_allows(policy, rule, direction, query) {
                    allowing.insert(rule_name(policy, direction, Some(index)));
                }
            }
        }
        Side {
            action: if allowing.is_empty() {
                Action::Deny
            } else {
                Action::Allow
            },
            reason: if allowing.is_empty() {
                Reason::Isolated
            } else {
                Reason::Rule
            },
            allowing,
            isolating: isolating
                .iter()
                .map(|policy| rule_name(policy, direction, None))
                .collect(),
        }
    }

    /// A rule allows a packet iff it matches `ports` and `from` or `to`.
    fn rule_allows(
        &self,
        policy: &Value,
        rule: &Value,
        direction: Direction,
        query: &Query,
    ) -> bool {
        let (peer, peer_address) = match direction {
            Direction::Ingress => (&query.source, query.source_address),
            Direction::Egress => (&query.destination, query.destination_address),
        };
        let peer_matches = any_or_empty(rule, direction.peers(), |item| {
            self.peer_matches(policy, item, peer, peer_address)
        });
        let port_matches = any_or_empty(rule, "ports", |item| {
            self.port_matches(item, &query.destination, query.payload)
        });
        peer_matches && port_matches
    }

    fn peer_matches(&self, policy: &Value, item: &Value, peer: &End, address: IpAddr) -> bool {
        if let Some(block) = field(item, "ipBlock") {
            // Matches any address, pods' included.
            return string(block, "cidr").is_some_and(|cidr| in_cidr(cidr, address))
                && all_or_absent(block, "except", |except| {
                    except.as_str().is_some_and(|e| !in_cidr(e, address))
                });
        }
        let pod_selector = field(item, "podSelector");
        let namespace_selector = field(item, "namespaceSelector");
        if pod_selector.is_none() && namespace_selector.is_none() {
            return false;
        }
        let Some(pod) = self.pod(peer) else {
            return false;
        };
        let namespace_matches = match namespace_selector {
            None => namespace_of(pod) == namespace_of(policy),
            Some(selector) => selects(selector, &self.namespace_labels(namespace_of(pod))),
        };
        namespace_matches && pod_selector.is_none_or(|selector| selects(selector, &labels_of(pod)))
    }

    fn port_matches(&self, item: &Value, destination: &End, payload: Payload) -> bool {
        let Payload::Port(number, port) = payload else {
            return false;
        };
        let protocol = string(item, "protocol").unwrap_or("TCP");
        if protocol_number(protocol) != Some(number) {
            return false;
        }
        match field(item, "port") {
            None => true,
            Some(Value::Number(first)) => {
                let last = field(item, "endPort").map_or(first.as_u64(), Value::as_u64);
                match (first.as_u64(), last) {
                    (Some(first), Some(last)) => (first..=last).contains(&u64::from(port)),
                    _ => false,
                }
            }
            // A name is resolved on the pod that receives, and only for the rule's
            // protocol; whoever is not a pod has no names.
            Some(Value::String(name)) => self
                .pod(destination)
                .is_some_and(|pod| has_named_port(pod, name, protocol, port)),
            Some(_) => false,
        }
    }

    /// The pod of an end, if selectors can match it: host-network pods are their
    /// node's address, and finished pods have none.
    fn pod(&self, end: &End) -> Option<&Value> {
        let pod = self.any_pod(end)?;
        let phase = field(pod, "status").and_then(|status| string(status, "phase"));
        (!is_host_network(pod) && !matches!(phase, Some("Succeeded" | "Failed"))).then_some(pod)
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
                string(field(pod, "spec")?, "nodeName")
            }
        }
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
            allowing: BTreeSet::new(),
            isolating: BTreeSet::new(),
        }
    }
}

/// A field that is there and not null.
fn field<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value.get(key).filter(|value| !value.is_null())
}

fn string<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    field(value, key).and_then(Value::as_str)
}

/// The entries of a list; absent and null have none.
fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    field(value, key)
        .and_then(Value::as_sequence)
        .map_or(&[], Vec::as_slice)
}

/// Whether some entry holds, where an absent or empty list means everything.
fn any_or_empty(value: &Value, key: &str, holds: impl FnMut(&Value) -> bool) -> bool {
    match field(value, key) {
        None => true,
        Some(Value::Sequence(items)) => items.is_empty() || items.iter().any(holds),
        Some(_) => false,
    }
}

/// Whether every entry holds; a list that is none does not.
fn all_or_absent(value: &Value, key: &str, holds: impl FnMut(&Value) -> bool) -> bool {
    match field(value, key) {
        None => true,
        Some(Value::Sequence(items)) => items.iter().all(holds),
        Some(_) => false,
    }
}

fn name_of(object: &Value) -> &str {
    field(object, "metadata")
        .and_then(|metadata| string(metadata, "name"))
        .unwrap_or("")
}

fn namespace_of(object: &Value) -> &str {
    field(object, "metadata")
        .and_then(|metadata| string(metadata, "namespace"))
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or("default")
}

fn labels_of(object: &Value) -> Vec<(String, String)> {
    let Some(Value::Mapping(labels)) =
        field(object, "metadata").and_then(|metadata| field(metadata, "labels"))
    else {
        return Vec::new();
    };
    labels
        .iter()
        .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned())))
        .collect()
}

fn is_host_network(pod: &Value) -> bool {
    field(pod, "spec")
        .and_then(|spec| field(spec, "hostNetwork"))
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

fn is_audit(policy: &Value) -> bool {
    field(policy, "metadata")
        .and_then(|metadata| field(metadata, "annotations"))
        .and_then(|annotations| string(annotations, "cofferdam.dev/mode"))
        == Some("audit")
}

fn rule_name(policy: &Value, direction: Direction, index: Option<usize>) -> RuleName {
    RuleName {
        namespace: namespace_of(policy).to_owned(),
        name: name_of(policy).to_owned(),
        direction,
        index,
    }
}

/// Types as given; without any, ingress always and egress iff there is a rule.
fn has_direction(policy: &Value, direction: Direction) -> bool {
    let Some(spec) = field(policy, "spec") else {
        return direction == Direction::Ingress;
    };
    let types = list(spec, "policyTypes");
    if types.is_empty() {
        return direction == Direction::Ingress || !list(spec, "egress").is_empty();
    }
    types
        .iter()
        .any(|listed| listed.as_str() == Some(direction.policy_type()))
}

/// `matchLabels` and all of `matchExpressions` must hold.
fn selects(selector: &Value, labels: &[(String, String)]) -> bool {
    let value_of = |key: &str| {
        labels
            .iter()
            .find(|(candidate, _)| candidate == key)
            .map(|(_, value)| value.as_str())
    };
    let pairs_hold = match field(selector, "matchLabels") {
        None => true,
        Some(Value::Mapping(pairs)) => {
            pairs
                .iter()
                .all(|(key, value)| match (key.as_str(), value.as_str()) {
                    (Some(key), Some(value)) => value_of(key) == Some(value),
                    _ => false,
                })
        }
        Some(_) => false,
    };
    let expressions_hold = all_or_absent(selector, "matchExpressions", |expression| {
        let Some(key) = string(expression, "key") else {
            return false;
        };
        let listed = |value: &str| {
            list(expression, "values")
                .iter()
                .any(|candidate| candidate.as_str() == Some(value))
        };
        match (string(expression, "operator"), value_of(key)) {
            (Some("In"), value) => value.is_some_and(listed),
            (Some("NotIn"), value) => !value.is_some_and(listed),
            (Some("Exists"), value) => value.is_some(),
            (Some("DoesNotExist"), value) => value.is_none(),
            _ => false,
        }
    });
    selector.is_mapping() && pairs_hold && expressions_hold
}

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn has_named_port(pod: &Value, name: &str, protocol: &str, number: u16) -> bool {
    let containers = field(pod, "spec").map_or(&[][..], |spec| list(spec, "containers"));
    containers
        .iter()
        .flat_map(|container| list(container, "ports"))
        .any(|port| {
            string(port, "name") == Some(name)
                && string(port, "protocol").unwrap_or("TCP") == protocol
                && field(port, "containerPort").and_then(Value::as_u64) == Some(u64::from(number))
        })
}

/// Whether an address lies in a block of its own family; host bits of the block do
/// not matter.
fn in_cidr(cidr: &str, address: IpAddr) -> bool {
    let Some((base, length)) = cidr.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if length <= 32 => {
            let host_bits = 32 - length;
            u64::from(u32::from(base)) >> host_bits == u64::from(u32::from(address)) >> host_bits
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if length <= 128 => {
            let different = u128::from(base) ^ u128::from(address);
            length == 0 || different >> (128 - length) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
