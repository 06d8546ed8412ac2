//! `networking.k8s.io/v1 NetworkPolicy`: isolation, and the rules that allow.

use std::collections::BTreeSet;

use serde_yaml::Value;

use super::cidr::in_cidr;
use super::labels::selects;
use super::objects::{is_audit, labels_of, name_of, namespace_of, ports_named, protocol_number};
use super::tree::{all_or_absent, any_or_empty, field, list, string};
use super::{Action, Direction, End, Oracle, Payload, Query, Reason, RuleName, Side};

impl Oracle {
    /// Asks the policies of a pod's namespace; `None` when none isolates it.
    pub(super) fn namespace_tier(
        &self,
        pod: &Value,
        direction: Direction,
        query: &Query,
        audited: bool,
    ) -> Option<Side> {
        // Isolated iff some policy of the pod's namespace selects it and has the
        // direction among its types.
        let isolating: Vec<&Value> = self
            .network_policies
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
            return None;
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
        let (action, reason) = if allowing.is_empty() {
            (Action::Deny, Reason::Isolated)
        } else {
            (Action::Allow, Reason::Rule)
        };
        Some(Side {
            action,
            reason,
            rule: allowing.first().cloned(),
            allowing,
            isolating: isolating
                .iter()
                .map(|policy| rule_name(policy, direction, None))
                .collect(),
        })
    }

    /// A rule allows a packet iff it matches `ports` and `from` or `to`.
    fn rule_allows(
        &self,
        policy: &Value,
        rule: &Value,
        direction: Direction,
        query: &Query,
    ) -> bool {
        let peer_matches = any_or_empty(rule, direction.peers(), |item| {
            self.peer_matches(policy, item, direction, query)
        });
        let port_matches = any_or_empty(rule, "ports", |item| {
            self.port_matches(item, &query.destination, query.payload)
        });
        peer_matches && port_matches
    }

    fn peer_matches(
        &self,
        policy: &Value,
        item: &Value,
        direction: Direction,
        query: &Query,
    ) -> bool {
        let (peer, address) = query.peer(direction);
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
                .is_some_and(|pod| ports_named(pod, name).contains(&(protocol, port.into()))),
            Some(_) => false,
        }
    }
}

fn rule_name(policy: &Value, direction: Direction, index: Option<usize>) -> RuleName {
    RuleName {
        namespace: Some(namespace_of(policy).to_owned()),
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
