//! One policy, varied in one place.

use super::case;
use super::pieces::{
    Direction, PAIRS, PATHOLOGICAL, PEERS, PORTS, Peer, Policy, Port, Rule, TARGETS,
};
use crate::conformance::Case;

fn one(case: Case, policy: &Policy) -> Case {
    case.step([policy.apply()], policy.expected())
}

pub(super) fn targets() -> Vec<Case> {
    let namespaces = ["x", "y", "z"].map(|namespace| {
        let policy = Policy {
            namespace,
            ..Policy::base()
        };
        let name = format!("target: namespace {namespace}");
        one(case(name, ["target-namespace"]), &policy)
    });
    let selectors = TARGETS.map(|target| {
        let policy = Policy {
            target,
            ..Policy::base()
        };
        let name = format!("target: pods {}", target.text);
        one(case(name, ["target-pod-selector"]), &policy)
    });
    namespaces.into_iter().chain(selectors).collect()
}

pub(super) fn rules() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in Direction::BOTH {
        for (tag, rules) in [("deny-all", vec![]), ("allow-all", vec![Rule::default()])] {
            let name = format!("{}: {tag}", direction.tag());
            let policy = Policy::base().rules(direction, rules);
            cases.push(one(case(name, [direction.tag(), tag]), &policy));
        }
    }
    cases
}

pub(super) fn peers() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in Direction::BOTH {
        cases.push(with_peers(direction, vec![], "any-peer"));
        for (at, peer) in PEERS.into_iter().enumerate() {
            cases.push(with_peers(direction, vec![peer], direction.tag()));
            for other in PEERS.into_iter().skip(at + 1) {
                cases.push(with_peers(direction, vec![peer, other], "multi-peer"));
            }
        }
    }
    cases
}

fn with_peers(direction: Direction, peers: Vec<Peer>, tag: &'static str) -> Case {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    let name = format!("{}: peers: {}", direction.tag(), names.join(", "));
    let tags = peers.iter().flat_map(|peer| peer.tags.iter().copied());
    let tags: Vec<&str> = tags.chain([direction.tag(), tag]).collect();
    one(case(name, tags), &Policy::base().peers(direction, peers))
}

pub(super) fn ports() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in Direction::BOTH {
        cases.push(with_ports(direction, vec![], "any-port-protocol"));
        for port in PORTS.into_iter().chain(PATHOLOGICAL) {
            cases.push(with_ports(direction, vec![port], direction.tag()));
        }
        for pair in PAIRS {
            cases.push(with_ports(direction, pair.to_vec(), "multi-port/protocol"));
        }
    }
    cases
}

fn with_ports(direction: Direction, ports: Vec<Port>, tag: &'static str) -> Case {
    let texts: Vec<&str> = ports.iter().map(|port| port.text).collect();
    let name = format!("{}: ports: {}", direction.tag(), texts.join(", "));
    let tags = ports.iter().flat_map(|port| port.tags.iter().copied());
    let tags: Vec<&str> = tags.chain([direction.tag(), tag]).collect();
    one(case(name, tags), &Policy::base().ports(direction, ports))
}

/// A namespace by the label that it has without anybody's doing.
pub(super) fn default_labels() -> Vec<Case> {
    let peer = Peer {
        name: "namespace z by its name",
        text: "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}",
        tags: &["namespaces-by-default-label"],
        is: |_, end| end.namespace() == "z",
    };
    Direction::BOTH
        .map(|direction| with_peers(direction, vec![peer], direction.tag()))
        .into()
}
