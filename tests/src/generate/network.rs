//! `NetworkPolicy` documents.

use std::fmt::Write as _;

use fastrand::Rng;

use super::{NAMESPACES, PORTS, annotations, namespaces, one, selector};

/// CIDRs that rules are about, and what may be cut out of each. The pods of a world
/// are in 10.64.0.0/16 and fd64::/64, those elsewhere in 10.65.0.0/16 and fd65::/64,
/// outside addresses in the others.
const BLOCKS: [(&str, &[&str]); 11] = [
    (
        "0.0.0.0/0",
        &["10.64.0.0/16", "198.51.100.0/24", "0.0.0.0/1"],
    ),
    ("10.64.0.0/15", &["10.65.0.0/16", "10.64.0.2/31"]),
    ("10.64.0.0/16", &["10.64.0.2/32", "10.64.0.0/30"]),
    ("10.64.0.3/32", &[]),
    ("10.65.0.1/24", &["10.65.0.2/31"]),
    ("198.51.100.0/24", &["198.51.100.128/25", "198.51.100.7/32"]),
    ("198.51.100.128/25", &["198.51.100.200/32"]),
    ("::/0", &["fd64::/64", "2001:db8::/32", "::/1"]),
    ("fd64::/15", &["fd64::2/128", "fd65::/64"]),
    ("fd65::2/127", &[]),
    ("2001:db8::/32", &["2001:db8:1::/48", "2001:db8::7/128"]),
];

pub(super) fn policy(rng: &mut Rng, number: usize) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}, namespace: {}{}}}\nspec:\n",
        one(rng, &NAMESPACES),
        annotations(rng),
    );
    match rng.u8(..8) {
        0 => {}
        1 => text.push_str("  podSelector: null\n"),
        _ => writeln!(text, "  podSelector: {}", selector(rng)).expect("a string"),
    }
    let types = [
        "",
        "",
        "  policyTypes: null\n",
        "  policyTypes: []\n",
        "  policyTypes: [Ingress]\n",
        "  policyTypes: [Egress]\n",
        "  policyTypes: [Ingress, Egress]\n",
    ];
    text.push_str(one(rng, &types));
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        if rng.u8(..3) > 0 {
            rules(rng, &mut text, section, peers);
        }
    }
    text
}

fn rules(rng: &mut Rng, text: &mut String, section: &str, peers: &str) {
    let mut count = rng.usize(..4);
    if rng.u8(..8) == 0 {
        // More than one page of a limit would hold.
        count = 26 + rng.usize(..8);
    }
    if count == 0 {
        writeln!(text, "  {section}: {}", one(rng, &["[]", "null", ""])).expect("a string");
        return;
    }
    writeln!(text, "  {section}:").expect("a string");
    for _ in 0..count {
        let mut parts = Vec::new();
        // Many wide rules would leave nothing to the last of them.
        let least = usize::from(count > 3);
        match rng.u8(..8) {
            0 if least == 0 => {}
            1 if least == 0 => parts.push(format!("{peers}: null")),
            _ => {
                let list: Vec<String> = (0..rng.usize(least..3)).map(|_| peer(rng)).collect();
                parts.push(format!("{peers}: [{}]", list.join(", ")));
            }
        }
        match rng.u8(..8) {
            0 if least == 0 => {}
            1 if least == 0 => parts.push("ports: null".to_owned()),
            _ => {
                let list: Vec<String> = (0..rng.usize(least..3)).map(|_| port(rng)).collect();
                parts.push(format!("ports: [{}]", list.join(", ")));
            }
        }
        writeln!(text, "  - {{{}}}", parts.join(", ")).expect("a string");
    }
}

fn peer(rng: &mut Rng) -> String {
    match rng.u8(..5) {
        0 | 1 => format!("{{podSelector: {}}}", selector(rng)),
        2 => format!("{{namespaceSelector: {}}}", namespaces(rng)),
        3 => format!(
            "{{namespaceSelector: {}, podSelector: {}}}",
            namespaces(rng),
            selector(rng)
        ),
        _ => {
            let (cidr, excepts) = BLOCKS[rng.usize(..BLOCKS.len())];
            let except: Vec<String> = excepts
                .iter()
                .filter(|_| rng.bool())
                .map(|cidr| format!("\"{cidr}\""))
                .collect();
            format!(
                "{{ipBlock: {{cidr: \"{cidr}\", except: [{}]}}}}",
                except.join(", ")
            )
        }
    }
}

fn port(rng: &mut Rng) -> String {
    let protocol = one(
        rng,
        &["", "protocol: TCP", "protocol: UDP", "protocol: SCTP"],
    );
    let port = match rng.u8(..5) {
        0 => String::new(),
        1 => "port: serve".to_owned(),
        2 => {
            let (first, last) = (rng.usize(..PORTS.len()), rng.usize(..PORTS.len()));
            let (first, last) = (first.min(last), first.max(last));
            format!("port: {}, endPort: {}", PORTS[first], PORTS[last])
        }
        _ => format!("port: {}", PORTS[rng.usize(..PORTS.len())]),
    };
    let both = [protocol, port.as_str()];
    let both: Vec<&str> = both.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{{{}}}", both.join(", "))
}
