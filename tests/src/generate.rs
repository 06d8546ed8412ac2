//! Small random worlds of policies, from a seed.
//!
//! Few labels, few CIDRs, few ports, so that they meet; edges preferred: nothing,
//! null, empty lists and empty selectors in every place, `except` at its bounds,
//! named ports whose numbers differ from pod to pod.

use std::fmt::Write as _;

use fastrand::Rng;

use crate::firewall::Pod;

/// Namespaces of the pods.
const NAMESPACES: [&str; 2] = ["x", "y"];
/// Pod names in each.
const PODS: [&str; 3] = ["a", "b", "c"];
/// Ports that rules and packets are about.
pub const PORTS: [u16; 6] = [79, 80, 81, 82, 443, 65535];
/// CIDRs that rules are about. The pods of a world are in 10.64.0.0/16 and
/// fd64::/64, outside addresses in the others.
const BLOCKS: [(&str, &[&str]); 8] = [
    (
        "0.0.0.0/0",
        &["10.64.0.0/16", "198.51.100.0/24", "0.0.0.0/1"],
    ),
    ("10.64.0.0/16", &["10.64.0.2/32", "10.64.0.0/30"]),
    ("10.64.0.3/32", &[]),
    ("198.51.100.0/24", &["198.51.100.128/25", "198.51.100.7/32"]),
    ("198.51.100.128/25", &[]),
    ("::/0", &["fd64::/64", "2001:db8::/32", "::/1"]),
    ("fd64::/64", &["fd64::2/128"]),
    ("2001:db8::/32", &["2001:db8:1::/48", "2001:db8::7/128"]),
];
/// Outside addresses on both sides of the bounds of [`BLOCKS`].
pub const OUTSIDE: [&str; 10] = [
    "198.51.100.7",
    "198.51.100.8",
    "198.51.100.127",
    "198.51.100.128",
    "203.0.113.1",
    "2001:db8::7",
    "2001:db8::8",
    "2001:db8:1::1",
    "2001:db9::1",
    "8000::1",
];

/// The pods of every generated world, labelled at random.
pub fn pods(rng: &mut Rng) -> Vec<Pod> {
    let mut pods = Vec::new();
    for namespace in NAMESPACES {
        for name in PODS {
            let mut labels = Vec::new();
            if rng.u8(..4) > 0 {
                labels.push(format!("app={}", one(rng, &["a", "b", "c"])));
            }
            if rng.bool() {
                labels.push(format!("tier={}", one(rng, &["1", "2"])));
            }
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let mut pod = Pod::new(&format!("{namespace}/{name}"), &labels);
            if rng.bool() {
                pod = pod.port("serve", one(rng, &["TCP", "UDP"]), PORTS[rng.usize(..4)]);
            }
            pods.push(pod);
        }
    }
    pods
}

/// Namespaces, and up to four policies over the pods.
pub fn policies(rng: &mut Rng) -> String {
    let mut text = String::new();
    for (i, namespace) in NAMESPACES.iter().enumerate() {
        write!(
            text,
            "---\nkind: Namespace\napiVersion: v1\nmetadata: {{name: {namespace}, labels: {{n: \"{i}\"}}}}\n"
        )
        .expect("writing to a string");
    }
    for i in 0..rng.usize(..5) {
        let namespace = one(rng, &NAMESPACES);
        let audit = if rng.u8(..8) == 0 {
            ", annotations: {cofferdam.dev/mode: audit}"
        } else {
            ""
        };
        write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{i}, namespace: {namespace}{audit}}}\nspec:\n  podSelector: {}\n",
            selector(rng)
        )
        .expect("writing to a string");
        let types = one(
            rng,
            &[
                "",
                "",
                "  policyTypes: [Ingress]\n",
                "  policyTypes: [Egress]\n",
                "  policyTypes: [Ingress, Egress]\n",
            ],
        );
        text.push_str(types);
        for (section, peers) in [("ingress", "from"), ("egress", "to")] {
            if rng.u8(..3) > 0 {
                rules(rng, &mut text, section, peers);
            }
        }
    }
    text
}

fn one<'a>(rng: &mut Rng, choices: &[&'a str]) -> &'a str {
    choices[rng.usize(..choices.len())]
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

fn rules(rng: &mut Rng, text: &mut String, section: &str, peers: &str) {
    let count = rng.usize(..4);
    if count == 0 {
        writeln!(text, "  {section}: {}", one(rng, &["[]", "null", ""])).expect("a string");
        return;
    }
    writeln!(text, "  {section}:").expect("a string");
    for _ in 0..count {
        let mut parts = Vec::new();
        if rng.u8(..4) > 0 {
            let list: Vec<String> = (0..rng.usize(..3)).map(|_| peer(rng)).collect();
            parts.push(format!("{peers}: [{}]", list.join(", ")));
        }
        if rng.u8(..4) > 0 {
            let list: Vec<String> = (0..rng.usize(..3)).map(|_| port(rng)).collect();
            parts.push(format!("ports: [{}]", list.join(", ")));
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

fn namespaces(rng: &mut Rng) -> String {
    match rng.u8(..4) {
        0 => "{}".to_owned(),
        1 => "{matchLabels: {kubernetes.io/metadata.name: x}}".to_owned(),
        n => format!("{{matchLabels: {{n: \"{}\"}}}}", n - 2),
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
