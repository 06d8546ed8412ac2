//! `ClusterNetworkPolicy` documents.

use std::fmt::Write as _;

use fastrand::Rng;

use super::{PORTS, annotations, namespaces, one, selector};

/// CIDRs that rules are about.
const NETWORKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.64.0.0/15",
    "10.64.0.0/30",
    "10.65.0.3/24",
    "198.51.100.0/24",
    "198.51.100.128/25",
    "::/0",
    "fd64::/15",
    "2001:db8::/32",
];

/// A peer, and whether its ports have names.
struct Peer {
    text: String,
    has_names: bool,
}

pub(super) fn policy(rng: &mut Rng, number: usize) -> String {
    // Names that are not in the order of numbers, priorities that are often equal.
    let mut text = format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: {}{number}{}}}\nspec:\n  tier: {}\n  priority: {}\n  subject: {{{}}}\n",
        one(rng, &["a", "m", "z"]),
        annotations(rng),
        one(rng, &["Admin", "Baseline"]),
        one(rng, &["0", "1", "1", "1", "1000"]),
        pods(rng),
    );
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        rules(rng, &mut text, section, peers);
    }
    text
}

/// Pods, as subjects and peers have them.
fn pods(rng: &mut Rng) -> String {
    match rng.u8(..6) {
        0..=2 => format!("namespaces: {}", namespaces(rng)),
        3 => format!("pods: {{podSelector: {}}}", selector(rng)),
        _ => format!(
            "pods: {{namespaceSelector: {}, podSelector: {}}}",
            namespaces(rng),
            selector(rng)
        ),
    }
}

fn rules(rng: &mut Rng, text: &mut String, section: &str, peers: &str) {
    match rng.u8(..8) {
        0 => return,
        1 => {
            writeln!(text, "  {section}: {}", one(rng, &["[]", "null", ""])).expect("a string");
            return;
        }
        _ => writeln!(text, "  {section}:").expect("a string"),
    }
    if rng.u8(..8) == 0 {
        // As many as there may be, of which the last says something.
        for _ in 0..24 {
            let nobody = "{namespaces: {matchLabels: {none: none}}}";
            writeln!(text, "  - {{action: Deny, {peers}: [{nobody}]}}").expect("a string");
        }
        rule(rng, text, section, peers);
        return;
    }
    for _ in 0..rng.usize(1..4) {
        rule(rng, text, section, peers);
    }
}

fn rule(rng: &mut Rng, text: &mut String, section: &str, peers: &str) {
    let name = one(rng, &["", "", "name: same, ", "name: '', "]);
    let mut action = one(rng, &["Accept", "Deny", "Pass"]);
    let mut list: Vec<Peer> = (0..rng.usize(1..3)).map(|_| peer(rng, section)).collect();
    if section == "egress" && rng.u8(..12) == 0 {
        action = "Accept";
        list = vec![Peer {
            text: "{domainNames: [example.com, \"*.example.org\"]}".to_owned(),
            has_names: false,
        }];
    }
    let has_names = list.iter().all(|peer| peer.has_names);
    let list: Vec<String> = list.into_iter().map(|peer| peer.text).collect();
    let protocols = match rng.u8(..8) {
        0..=2 => String::new(),
        3 => ", protocols: null".to_owned(),
        _ => {
            let list: Vec<String> = (0..rng.usize(1..4))
                .map(|_| protocol(rng, has_names))
                .collect();
            format!(", protocols: [{}]", list.join(", "))
        }
    };
    let list = list.join(", ");
    writeln!(
        text,
        "  - {{{name}action: {action}, {peers}: [{list}]{protocols}}}"
    )
    .expect("a string");
}

fn peer(rng: &mut Rng, section: &str) -> Peer {
    let (text, has_names) = match rng.u8(..24) {
        0 => {
            let unknown = ["{}", "{namespaces: null}", "{serviceAccounts: {}}"];
            (one(rng, &unknown).to_owned(), true)
        }
        1..=4 if section == "egress" => {
            let mut networks = NETWORKS.to_vec();
            rng.shuffle(&mut networks);
            networks.truncate(rng.usize(1..4));
            let networks: Vec<String> = networks.iter().map(|n| format!("\"{n}\"")).collect();
            (format!("{{networks: [{}]}}", networks.join(", ")), false)
        }
        5..=7 if section == "egress" => (format!("{{nodes: {}}}", selector(rng)), false),
        _ => (format!("{{{}}}", pods(rng)), true),
    };
    Peer { text, has_names }
}

fn protocol(rng: &mut Rng, has_names: bool) -> String {
    if has_names && rng.u8(..4) == 0 {
        return format!("{{destinationNamedPort: {}}}", one(rng, &["serve", "none"]));
    }
    let protocol = one(rng, &["tcp", "tcp", "udp", "sctp"]);
    let ports = match rng.u8(..4) {
        0 => String::new(),
        1 => {
            let first = rng.usize(..PORTS.len() - 1);
            let last = rng.usize(first + 1..PORTS.len());
            let (first, last) = (PORTS[first], PORTS[last]);
            format!("destinationPort: {{range: {{start: {first}, end: {last}}}}}")
        }
        _ => format!(
            "destinationPort: {{number: {}}}",
            PORTS[rng.usize(..PORTS.len())]
        ),
    };
    format!("{{{protocol}: {{{ports}}}}}")
}
