//! Rules in the words of people.

use std::fmt::Write as _;

use cofferdam_inventory::selectors::{LabelSelector, Operator};
use cofferdam_inventory::{ClusterPeer, Peer, PortRange, Ports, Protocol};

use super::probe::protocol_word;

/// Most entries of a list that are written out.
const MOST: usize = 4;

/// The ports of a rule.
pub(super) fn ports(ports: Option<&[PortRange]>) -> String {
    let Some(ports) = ports else {
        return "every port and protocol".to_owned();
    };
    let word = |port: &PortRange| {
        let protocol = protocol_word(port.protocol);
        match &port.ports {
            Ports::All => format!("every {protocol} port"),
            Ports::Range(first, last) if first == last => format!("{protocol}/{first}"),
            Ports::Range(first, last) => format!("{protocol}/{first}-{last}"),
            Ports::Named(name) => format!("{protocol}/{name}"),
        }
    };
    // A name that goes for every protocol is said once.
    let everywhere = |port: &PortRange| {
        let others = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        matches!(port.ports, Ports::Named(_))
            && others.into_iter().all(|protocol| {
                ports.contains(&PortRange {
                    protocol,
                    ports: port.ports.clone(),
                })
            })
    };
    let mut words: Vec<String> = Vec::new();
    for port in ports {
        let text = match &port.ports {
            Ports::Named(name) if everywhere(port) => format!("the port {name}"),
            _ => word(port),
        };
        if !words.contains(&text) {
            words.push(text);
        }
    }
    listed(words.into_iter(), " or ")
}

/// The peers of a rule of a `NetworkPolicy`.
pub(super) fn peers(peers: Option<&[Peer]>) -> String {
    let Some(peers) = peers else {
        return "everybody".to_owned();
    };
    let word = |peer: &Peer| match peer {
        Peer::Workloads {
            namespaces: None,
            workloads,
        } => format!("{} of its namespace", pods(workloads)),
        Peer::Workloads {
            namespaces: Some(namespaces),
            workloads,
        } => selected(namespaces, workloads),
        Peer::Block { cidr, except } if except.is_empty() => cidr.to_string(),
        Peer::Block { cidr, except } => {
            format!(
                "{cidr} without {}",
                listed(except.iter().map(ToString::to_string), " and ")
            )
        }
    };
    listed(peers.iter().map(word), " or ")
}

/// The peers of a rule of a `ClusterNetworkPolicy`.
pub(super) fn cluster_peers(peers: Option<&[ClusterPeer]>) -> String {
    let Some(peers) = peers else {
        return "everybody".to_owned();
    };
    if peers.is_empty() {
        return "nobody".to_owned();
    }
    let word = |peer: &ClusterPeer| match peer {
        ClusterPeer::Workloads(selector) => selected(&selector.namespaces, &selector.workloads),
        ClusterPeer::Networks(networks) => listed(networks.iter().map(ToString::to_string), " or "),
        ClusterPeer::Nodes(selector) => chosen("node", selector),
    };
    listed(peers.iter().map(word), " or ")
}

/// Pods by their labels and their namespace's.
#[must_use]
pub fn selected(namespaces: &LabelSelector, workloads: &LabelSelector) -> String {
    format!("{} of {}", pods(workloads), namespaces_in_words(namespaces))
}

fn pods(selector: &LabelSelector) -> String {
    chosen("pod", selector)
}

fn namespaces_in_words(selector: &LabelSelector) -> String {
    chosen("namespace", selector)
}

/// `every pod`, or `pods with app=web,!tier`: selectors as `kubectl -l` writes them.
fn chosen(what: &str, selector: &LabelSelector) -> String {
    if selector.requirements().is_empty() {
        return format!("every {what}");
    }
    let mut text = format!("{what}s with ");
    for (index, requirement) in selector.requirements().iter().enumerate() {
        let key = requirement.key();
        let comma = if index == 0 { "" } else { "," };
        let written = match requirement.operator() {
            Operator::In(values) => match &**values {
                [value] => write!(text, "{comma}{key}={value}"),
                values => write!(text, "{comma}{key} in ({})", values.join(",")),
            },
            Operator::NotIn(values) => match &**values {
                [value] => write!(text, "{comma}{key}!={value}"),
                values => write!(text, "{comma}{key} notin ({})", values.join(",")),
            },
            Operator::Exists => write!(text, "{comma}{key}"),
            Operator::DoesNotExist => write!(text, "{comma}!{key}"),
        };
        written.expect("writing to a string");
    }
    text
}

/// The first entries of a list, and how many there are beyond.
fn listed(entries: impl ExactSizeIterator<Item = String>, between: &str) -> String {
    let beyond = entries.len().saturating_sub(MOST);
    let mut words: Vec<String> = entries.take(MOST).collect();
    if beyond > 0 {
        words.push(format!("{beyond} more"));
    }
    words.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_documents::{assemble, parse};

    #[test]
    fn rules_are_told_in_words() {
        let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: x}
spec:
  podSelector: {}
  ingress:
  - {}
  - from: [{podSelector: {matchLabels: {app: web, tier: a}}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}}]
    ports: [{port: 80, endPort: 90}, {protocol: UDP}, {protocol: SCTP, port: sig}]
  - from:
    - {namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b, c]}, {key: d, operator: DoesNotExist}]}}
    - {namespaceSelector: {}, podSelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}, {key: d, operator: Exists}]}}
  - ports: [{port: 1}, {port: 2}, {port: 3}, {port: 4}, {port: 5}, {port: 6}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to: [{networks: [10.0.0.0/8, 'fd00::/8']}, {nodes: {matchLabels: {zone: a}}}]
  - action: Deny
    to: [{namespaces: {}}]
    protocols: [{destinationNamedPort: sql}]
";
        let parsed = parse("w.yaml", text.as_bytes());
        assert!(parsed.rejected.is_empty(), "{:#?}", parsed.diagnostics);
        let inventory = assemble(parsed.documents).inventory;
        let policy = inventory.policies().values().next().unwrap();
        let told: Vec<String> = (policy.ingress.iter().flatten())
            .map(|rule| {
                let (peers, ports) = (rule.peers.as_deref(), rule.ports.as_deref());
                format!("{}: {}", super::peers(peers), super::ports(ports))
            })
            .collect();
        assert_eq!(
            told,
            [
                "everybody: every port and protocol",
                "pods with app=web,tier=a of its namespace or 10.0.0.0/8 without 10.1.0.0/16 and \
                 10.2.0.0/16: tcp/80-90 or every udp port or sctp/sig",
                "every pod of namespaces with a notin (b,c),!d or pods with a in (b,c),d of every \
                 namespace: every port and protocol",
                "everybody: tcp/1 or tcp/2 or tcp/3 or tcp/4 or 2 more",
            ]
        );
        let policy = inventory.cluster_policies().values().next().unwrap();
        assert_eq!(
            cluster_peers(policy.egress[0].peers.as_deref()),
            "10.0.0.0/8 or fd00::/8 or nodes with zone=a"
        );
        assert_eq!(ports(policy.egress[1].ports.as_deref()), "the port sql");
        assert_eq!(cluster_peers(Some(&[])), "nobody");
    }
}
