//! `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`: tiers, priorities,
//! and the first rule that matches.

use serde_yaml::Value;

use super::cidr::in_cidr;
use super::labels::selects;
use super::objects::{
    addresses_of_node, is_audit, labels_of, name_of, namespace_of, ports_named, protocol_number,
};
use super::tree::{field, list, string};
use super::{Action, Direction, Oracle, Payload, Query, Reason, RuleName, Side};

/// Coverage of a packet by a part of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Covers {
    Yes,
    No,
    /// Nobody here can say, as the part has a form that is not known.
    Unknown,
}

impl From<bool> for Covers {
    fn from(covers: bool) -> Self {
        if covers { Self::Yes } else { Self::No }
    }
}

/// Effect of a rule on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Accept,
    Deny,
    Pass,
}

impl Oracle {
    /// Asks the policies of a tier about a pod's packet; `None` when they leave it to the next
    /// tier.
    pub(super) fn cluster_tier(
        &self,
        tier: &str,
        pod: &Value,
        direction: Direction,
        query: &Query,
        audited: bool,
    ) -> Option<Side> {
        let mut policies: Vec<(&Value, &Value)> = self
            .cluster_policies
            .iter()
            .filter(|policy| audited || !is_audit(policy))
            .filter_map(|policy| Some((policy, field(policy, "spec")?)))
            .filter(|(_, spec)| string(spec, "tier") == Some(tier))
            .filter(|(_, spec)| {
                field(spec, "subject").is_some_and(|subject| self.is_subject(subject, pod))
            })
            .collect();
        // Lower comes first; between equals, upstream leaves the order open, and
        // here it is that of the names.
        policies.sort_by_key(|(policy, spec)| {
            let priority = field(spec, "priority").and_then(Value::as_u64);
            (priority.unwrap_or(0), name_of(policy))
        });
        for (policy, spec) in policies {
            for (index, rule) in list(spec, direction.section()).iter().enumerate() {
                let action = match self.effect(rule, direction, query) {
                    None => continue,
                    Some(Effect::Pass) => return None,
                    Some(Effect::Accept) => Action::Allow,
                    Some(Effect::Deny) => Action::Deny,
                };
                return Some(Side {
                    action,
                    rule: Some(RuleName {
                        namespace: None,
                        name: name_of(policy).to_owned(),
                        direction,
                        index: Some(index),
                    }),
                    ..Side::allowed(Reason::Rule)
                });
            }
        }
        None
    }

    fn is_subject(&self, subject: &Value, pod: &Value) -> bool {
        self.covers_pod(subject, pod) == Some(Covers::Yes)
    }

    /// `None` when the rule does not match. A rule matches iff one of its peers and
    /// one of its protocols do.
    fn effect(&self, rule: &Value, direction: Direction, query: &Query) -> Option<Effect> {
        // Both lists have entries wherever they stand; without protocols, every one.
        let peers: Vec<Covers> = match field(rule, direction.peers()) {
            Some(Value::Sequence(peers)) if !peers.is_empty() => peers
                .iter()
                .map(|peer| self.covers_peer(peer, direction, query))
                .collect(),
            _ => vec![Covers::Unknown],
        };
        let protocols: Vec<Covers> = match field(rule, "protocols") {
            None => vec![Covers::Yes],
            Some(Value::Sequence(protocols)) if !protocols.is_empty() => protocols
                .iter()
                .map(|protocol| self.covers_payload(protocol, query))
                .collect(),
            Some(_) => vec![Covers::Unknown],
        };
        let matches = peers.contains(&Covers::Yes) && protocols.contains(&Covers::Yes);
        // Fail closed: what is not known accepts nothing, and makes of a rule that
        // denies or passes one that denies everything.
        let is_known = !peers.contains(&Covers::Unknown) && !protocols.contains(&Covers::Unknown);
        match string(rule, "action") {
            Some("Accept") => matches.then_some(Effect::Accept),
            Some("Deny") if is_known => matches.then_some(Effect::Deny),
            Some("Pass") if is_known => matches.then_some(Effect::Pass),
            _ => Some(Effect::Deny),
        }
    }

    fn covers_peer(&self, peer: &Value, direction: Direction, query: &Query) -> Covers {
        let (end, address) = query.peer(direction);
        if field(peer, "namespaces").is_some() || field(peer, "pods").is_some() {
            return match self.pod(end) {
                Some(pod) => self.covers_pod(peer, pod).unwrap_or(Covers::Unknown),
                None => Covers::No,
            };
        }
        // Blocks, nodes and names are for egress only.
        if direction == Direction::Ingress {
            return Covers::Unknown;
        }
        if let Some(networks) = field(peer, "networks") {
            let Value::Sequence(networks) = networks else {
                return Covers::Unknown;
            };
            // Matches any address, pods' included.
            let contains =
                |network: &Value| network.as_str().is_some_and(|cidr| in_cidr(cidr, address));
            return networks.iter().any(contains).into();
        }
        if let Some(selector) = field(peer, "nodes") {
            // A node is the addresses of its status, whoever uses them.
            let has_it = |node: &&Value| addresses_of_node(node).contains(&address);
            return self
                .nodes
                .iter()
                .filter(has_it)
                .any(|node| selects(selector, &labels_of(node)))
                .into();
        }
        // Which addresses a name has is not known to policies yet.
        Covers::Unknown
    }

    /// `namespaces` or `pods`, of a subject or of a peer; `None` when it is neither.
    fn covers_pod(&self, selectors: &Value, pod: &Value) -> Option<Covers> {
        let namespace = self.namespace_labels(namespace_of(pod));
        if let Some(selector) = field(selectors, "namespaces") {
            return Some(selects(selector, &namespace).into());
        }
        let both = field(selectors, "pods")?;
        let pod_selector = field(both, "podSelector")?;
        let namespace_selector = field(both, "namespaceSelector");
        let matches = selects(pod_selector, &labels_of(pod))
            && namespace_selector.is_none_or(|selector| selects(selector, &namespace));
        Some(matches.into())
    }

    fn covers_payload(&self, protocol: &Value, query: &Query) -> Covers {
        if let Some(name) = string(protocol, "destinationNamedPort") {
            let Payload::Port(number, port) = query.payload else {
                return Covers::No;
            };
            // Resolved on the pod that receives, with the protocol it has there.
            let is_it = |(protocol, container_port): &(&str, u64)| {
                protocol_number(protocol) == Some(number) && *container_port == u64::from(port)
            };
            let receiver = self.pod(&query.destination);
            return receiver
                .is_some_and(|pod| ports_named(pod, name).iter().any(is_it))
                .into();
        }
        for (key, number) in [("tcp", 6), ("udp", 17), ("sctp", 132)] {
            if let Some(ports) = field(protocol, key) {
                return match (query.payload, field(ports, "destinationPort")) {
                    (Payload::Port(of, port), Some(ports)) if of == number => {
                        covers_port(ports, u64::from(port))
                    }
                    // Without ports it is every port.
                    (Payload::Port(of, _), None) => (of == number).into(),
                    _ => Covers::No,
                };
            }
        }
        Covers::Unknown
    }
}

/// One number, or the numbers from `start` to `end`, both included.
fn covers_port(ports: &Value, port: u64) -> Covers {
    if let Some(number) = field(ports, "number") {
        return match number.as_u64() {
            Some(number) => (number == port).into(),
            None => Covers::Unknown,
        };
    }
    let bound = |key| field(field(ports, "range")?, key)?.as_u64();
    match (bound("start"), bound("end")) {
        (Some(start), Some(end)) => (start..=end).contains(&port).into(),
        _ => Covers::Unknown,
    }
}
