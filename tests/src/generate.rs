//! Small random worlds of policies, from a seed.
//!
//! Few labels, few CIDRs, few ports, so that they meet; edges preferred: nothing,
//! null, empty lists and empty selectors in every place, `except` at its bounds,
//! named ports whose numbers differ from pod to pod, tiers that pass, peers that no
//! release knows.

mod cluster;
mod network;

use std::fmt::Write as _;

use fastrand::Rng;

use crate::firewall::Pod;

/// Namespaces of the pods.
const NAMESPACES: [&str; 2] = ["x", "y"];
/// Pod names in each.
const PODS: [&str; 3] = ["a", "b", "c"];
/// Ports that rules and packets are about.
pub const PORTS: [u16; 6] = [79, 80, 81, 82, 443, 65535];
/// Outside addresses on both sides of the bounds of the CIDRs that rules are about.
pub const OUTSIDE: [&str; 12] = [
    "198.51.100.7",
    "198.51.100.8",
    "198.51.100.127",
    "198.51.100.128",
    "203.0.113.1",
    "10.65.0.1",
    "2001:db8::7",
    "2001:db8::8",
    "2001:db8:1::1",
    "2001:db9::1",
    "8000::1",
    "fd65::1",
];
/// Another node.
pub const OTHER_NODE: Remote = Remote {
    name: "n2",
    addresses: &["198.51.100.200", "2001:db8::200"],
};
/// Pods of that node. The last shares its network.
pub const REMOTE_PODS: [Remote; 3] = [
    Remote {
        name: "x/r",
        addresses: &["10.65.0.2", "fd65::2"],
    },
    Remote {
        name: "y/s",
        addresses: &["10.65.0.3", "10.65.1.3", "fd65::3", "2001:db8:1::3"],
    },
    Remote {
        name: "y/h",
        addresses: OTHER_NODE.addresses,
    },
];

/// Pod or node that is not on the node under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Its name; a pod's is `namespace/name`.
    pub name: &'static str,
    /// Its addresses, of both families.
    pub addresses: &'static [&'static str],
}

/// The pods of every generated world on the node under test, labelled at random.
pub fn pods(rng: &mut Rng) -> Vec<Pod> {
    let mut pods = Vec::new();
    for namespace in NAMESPACES {
        for name in PODS {
            let labels = labels(rng);
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let mut pod = Pod::new(&format!("{namespace}/{name}"), &labels);
            if rng.bool() {
                pod = pod.port(
                    "serve",
                    one(rng, &["TCP", "UDP", "SCTP"]),
                    PORTS[rng.usize(..4)],
                );
            }
            pods.push(pod);
        }
    }
    pods
}

/// The other documents of such a world: namespaces, who is elsewhere, and policies.
pub fn documents(rng: &mut Rng) -> String {
    let mut documents = Vec::new();
    for (i, namespace) in NAMESPACES.iter().enumerate() {
        let enforcement = match rng.u8(..6) {
            0 => ", annotations: {cofferdam.dev/enforcement: audit}",
            1 => ", annotations: {cofferdam.dev/enforcement: enforce}",
            _ => "",
        };
        documents.push(format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{n: \"{i}\"}}{enforcement}}}\n"
        ));
    }
    documents.push(other_node(rng));
    documents.extend(REMOTE_PODS.iter().map(|pod| remote_pod(rng, pod)));
    // One that has ended, and whose addresses are nobody's now.
    documents.push(format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: f, labels: {}}}\nspec: {{nodeName: n1}}\n\
         status: {{phase: {}, podIPs: [{{ip: {}}}, {{ip: \"{}\"}}]}}\n",
        flow(&labels(rng)),
        one(rng, &["Succeeded", "Failed"]),
        OUTSIDE[0],
        OUTSIDE[6],
    ));
    documents.extend((0..rng.usize(..4)).map(|i| network::policy(rng, i)));
    documents.extend((0..rng.usize(..5)).map(|i| cluster::policy(rng, i)));
    documents.join("---\n")
}

fn other_node(rng: &mut Rng) -> String {
    let Remote { name, addresses } = OTHER_NODE;
    let labels = flow(&labels(rng));
    let mut text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {labels}}}\nstatus:\n  addresses:\n  \
         - {{type: Hostname, address: {name}}}\n"
    );
    for address in addresses {
        writeln!(text, "  - {{type: InternalIP, address: \"{address}\"}}").expect("a string");
    }
    text
}

fn remote_pod(rng: &mut Rng, pod: &Remote) -> String {
    let (namespace, name) = pod.name.split_once('/').expect("namespace/name");
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {}}}\nspec:\n  \
         nodeName: {}\n  hostNetwork: {}\n  containers:\n  - name: c\n    ports: [",
        flow(&labels(rng)),
        OTHER_NODE.name,
        pod.addresses == OTHER_NODE.addresses,
    );
    if rng.bool() {
        let port = PORTS[rng.usize(..4)];
        write!(text, "{{name: serve, containerPort: {port}}}").expect("a string");
    }
    text.push_str("]\nstatus:\n  podIPs:\n");
    for address in pod.addresses {
        writeln!(text, "  - ip: \"{address}\"").expect("a string");
    }
    text
}

/// Labels written `key=value`.
fn labels(rng: &mut Rng) -> Vec<String> {
    let mut labels = Vec::new();
    if rng.u8(..4) > 0 {
        labels.push(format!("app={}", one(rng, &["a", "b", "c"])));
    }
    if rng.bool() {
        labels.push(format!("tier={}", one(rng, &["1", "2"])));
    }
    labels
}

/// The same as a mapping in flow style.
fn flow(labels: &[String]) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .filter_map(|label| label.split_once('='))
        .map(|(key, value)| format!("{key}: \"{value}\""))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

fn one<'a>(rng: &mut Rng, choices: &[&'a str]) -> &'a str {
    choices[rng.usize(..choices.len())]
}

/// The annotations of a policy, some of which are judged only.
fn annotations(rng: &mut Rng) -> &'static str {
    match rng.u8(..6) {
        0 => ", annotations: {cofferdam.dev/mode: audit}",
        1 => ", annotations: {cofferdam.dev/mode: enforce}",
        _ => "",
    }
}

/// A label selector in flow style.
fn selector(rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => "{}".to_owned(),
        1 => "{matchLabels: {}}".to_owned(),
        2 | 3 => format!("{{matchLabels: {{app: {}}}}}", one(rng, &["a", "b", "c"])),
        4 => format!("{{matchLabels: {{tier: \"{}\"}}}}", one(rng, &["1", "2"])),
        n => {
            let key = one(rng, &["app", "tier", "none"]);
            let operator = match n {
                5 => "operator: In, values: [a, \"1\"]",
                6 => "operator: NotIn, values: [a, \"1\"]",
                _ => one(rng, &["operator: Exists", "operator: DoesNotExist"]),
            };
            format!("{{matchExpressions: [{{key: {key}, {operator}}}]}}")
        }
    }
}

/// A selector of namespaces in flow style.
fn namespaces(rng: &mut Rng) -> String {
    match rng.u8(..4) {
        0 => "{}".to_owned(),
        1 => "{matchLabels: {kubernetes.io/metadata.name: x}}".to_owned(),
        n => format!("{{matchLabels: {{n: \"{}\"}}}}", n - 2),
    }
}
