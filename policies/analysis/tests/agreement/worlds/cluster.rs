//! `ClusterNetworkPolicy` documents.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{annotations, namespace_selector, selector};

/// A rule without its name.
#[derive(Debug, Clone)]
struct Rule {
    action: &'static str,
    peers: Vec<String>,
    protocols: Option<Vec<String>>,
}

/// Pods and namespaces, as subjects and peers have them.
fn pods() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("namespaces: {}".to_owned()),
        2 => namespace_selector().prop_map(|selector| format!("namespaces: {selector}")),
        1 => selector().prop_map(|pods| format!("pods: {{podSelector: {pods}}}")),
        2 => (selector(), namespace_selector()).prop_map(|(pods, namespaces)| {
            format!("pods: {{podSelector: {pods}, namespaceSelector: {namespaces}}}")
        }),
    ]
}

fn known_peer(section: &'static str) -> BoxedStrategy<String> {
    let pods = pods().prop_map(|pods| format!("{{{pods}}}"));
    if section == "ingress" {
        return pods.boxed();
    }
    let blocks = vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.0.2/31",
        "10.0.0.3/24",
        "192.0.2.0/31",
        "255.255.255.255/32",
        "'::/0'",
        "'fd00::/64'",
        "'fd00:0:0:1::/64'",
        "'fd00::2/128'",
    ];
    let networks = subsequence(blocks, 1..4)
        .prop_map(|blocks| format!("{{networks: [{}]}}", blocks.join(", ")));
    prop_oneof![
        4 => pods,
        3 => networks,
        2 => selector().prop_map(|nodes| format!("{{nodes: {nodes}}}")),
    ]
    .boxed()
}

/// A peer of a kind that no released version has.
fn unknown_peer() -> impl Strategy<Value = String> {
    select(vec![
        "{}",
        "{namespaces: null}",
        "{serviceAccounts: {matchLabels: {app: a}}}",
        "{serviceAccounts: null}",
    ])
    .prop_map(str::to_owned)
}

fn protocol() -> impl Strategy<Value = String> {
    let ports = select(vec![
        "{}",
        "{}",
        "{destinationPort: {number: 80}}",
        "{destinationPort: {number: 81}}",
        "{destinationPort: {number: 1}}",
        "{destinationPort: {number: 65535}}",
        "{destinationPort: {range: {start: 79, end: 81}}}",
        "{destinationPort: {range: {start: 1, end: 65535}}}",
        "{destinationPort: {range: {start: 65534, end: 65535}}}",
    ]);
    prop_oneof![
        3 => (select(vec!["tcp", "tcp", "udp", "sctp"]), ports)
            .prop_map(|(protocol, ports)| format!("{{{protocol}: {ports}}}")),
        1 => select(vec!["web", "web", "dns", "none"])
            .prop_map(|name| format!("{{destinationNamedPort: {name}}}")),
    ]
}

fn rule(section: &'static str) -> impl Strategy<Value = Rule> {
    let action = select(vec!["Accept", "Deny", "Pass"]);
    let peers = prop_oneof![
        12 => vec(known_peer(section), 1..3),
        1 => vec(prop_oneof![known_peer(section), unknown_peer().boxed()], 1..3),
        1 => Just(vec!["{domainNames: [example.com, '*.example.org']}".to_owned()]),
    ];
    let protocols = prop_oneof![
        1 => Just(None),
        1 => vec(protocol(), 1..4).prop_map(Some),
    ];
    (action, peers, protocols).prop_map(move |(action, mut peers, mut protocols)| {
        let mut action = action;
        if peers[0].contains("domainNames") {
            if section == "ingress" {
                peers = vec!["{namespaces: {}}".to_owned()];
            } else {
                action = "Accept";
            }
        }
        // Only pods have ports with names.
        let nameless = ["networks", "nodes", "domainNames"];
        let is_nameless = |peer: &String| nameless.iter().any(|kind| peer.contains(kind));
        if let Some(protocols) = &mut protocols
            && peers.iter().any(is_nameless)
        {
            protocols.retain(|protocol| !protocol.contains("destinationNamedPort"));
        }
        Rule {
            action,
            peers,
            protocols: protocols.filter(|protocols| !protocols.is_empty()),
        }
    })
}

fn written(rule: &Rule, name: &str, peers: &str) -> String {
    let protocols = rule.protocols.as_ref().map_or(String::new(), |protocols| {
        format!(", protocols: [{}]", protocols.join(", "))
    });
    format!(
        "{{{name}action: {}, {peers}: [{}]{protocols}}}",
        rule.action,
        rule.peers.join(", ")
    )
}

fn rules(section: &'static str, peers: &'static str) -> impl Strategy<Value = String> {
    let name = select(vec!["", "", "name: same, ", "name: '', "]);
    let some = vec((rule(section), name), 1..4).prop_map(move |rules| {
        let rules: Vec<String> = rules
            .iter()
            .map(|(rule, name)| written(rule, name, peers))
            .collect();
        format!(", {section}: [{}]", rules.join(", "))
    });
    let none = select(vec![
        String::new(),
        format!(", {section}: null"),
        format!(", {section}: []"),
    ]);
    // As many as there may be, of which the last alone says something.
    let most = (select(vec!["Accept", "Deny", "Pass"])).prop_map(move |action| {
        let narrow = format!(
            "{{action: Pass, {peers}: [{{namespaces: {{matchLabels: {{none: none}}}}}}]}}, "
        );
        format!(
            ", {section}: [{}{{action: {action}, {peers}: [{{namespaces: {{}}}}]}}]",
            narrow.repeat(24)
        )
    });
    prop_oneof![12 => some, 4 => none, 1 => most]
}

pub(super) fn policy() -> impl Strategy<Value = String> {
    let tier = select(vec!["Admin", "Baseline"]);
    let priority = select(vec![0, 1, 1, 1, 1, 1000]);
    // Names that are not in the order of numbers.
    let name = select(vec!["c#", "z#", "a#"]);
    (
        name,
        annotations(),
        tier,
        priority,
        pods(),
        rules("ingress", "from"),
        rules("egress", "to"),
    )
        .prop_map(
            |(name, annotations, tier, priority, subject, ingress, egress)| {
                format!(
                    "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, \
                     metadata: {{name: {name}{annotations}}}, spec: {{tier: {tier}, \
                     priority: {priority}, subject: {{{subject}}}{ingress}{egress}}}}}"
                )
            },
        )
}
