//! Random small worlds, as the documents people write.
//!
//! Few namespaces, labels, ports and blocks, so that they meet; edges (empty lists,
//! nulls, first and last ports and addresses) more often than not.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

/// A world, one document a string.
#[derive(Clone)]
pub(crate) struct World {
    namespaces: Vec<String>,
    pods: Vec<String>,
    policies: Vec<String>,
}

impl World {
    pub(crate) fn texts(&self) -> Vec<String> {
        let nodes = ["n1: 192.0.2.1", "n2: 192.0.2.2"].map(|node| {
            let (name, address) = node.split_once(": ").unwrap();
            format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, status: \
                 {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"
            )
        });
        let all = self
            .namespaces
            .iter()
            .chain(&self.pods)
            .chain(&self.policies);
        all.cloned().chain(nodes).collect()
    }
}

/// Printed on failure: what can be put into a file as it is.
impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}\n", self.texts().join("\n---\n"))
    }
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let namespaces = vec(labels(), 0..3).prop_map(|labels| {
        let named = ["x", "y"].iter().zip(labels);
        named
            .map(|(name, labels)| {
                format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {labels}}}}}")
            })
            .collect()
    });
    let pods = vec(pod(), 1..6).prop_map(|pods| {
        let numbered = pods.into_iter().enumerate();
        numbered
            .map(|(i, pod)| pod.replace('#', &i.to_string()))
            .collect()
    });
    let policies = vec(policy(), 0..5).prop_map(|policies| {
        let numbered = policies.into_iter().enumerate();
        numbered
            .map(|(i, policy)| policy.replace('#', &i.to_string()))
            .collect()
    });
    (namespaces, pods, policies).prop_map(|(namespaces, pods, policies)| World {
        namespaces,
        pods,
        policies,
    })
}

fn namespace_name() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "x", "y", "default"])
}

fn value() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "''"])
}

fn labels() -> impl Strategy<Value = String> {
    (
        weighted(0.7, value()),
        weighted(0.4, value()),
        weighted(0.2, value()),
    )
        .prop_map(|(app, tier, noise)| {
            let pairs = [("app", app), ("tier", tier), ("noise", noise)];
            let pairs: Vec<String> = pairs
                .iter()
                .filter_map(|(key, value)| Some(format!("{key}: {}", (*value)?)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        })
}

/// `#` stands for the pod's number.
fn pod() -> impl Strategy<Value = String> {
    let container_port = (
        select(vec!["web", "web", "dns"]),
        select(vec![80, 81, 53, 1, 65535]),
        select(vec![
            "",
            ", protocol: TCP",
            ", protocol: UDP",
            ", protocol: SCTP",
        ]),
    )
        .prop_map(|(name, number, protocol)| {
            format!("{{name: {name}, containerPort: {number}{protocol}}}")
        });
    let containers = vec(vec(container_port, 0..3), 0..3).prop_map(|containers| {
        let containers: Vec<String> = containers
            .iter()
            .map(|ports| format!("{{ports: [{}]}}", ports.join(", ")))
            .collect();
        format!("[{}]", containers.join(", "))
    });
    let addresses = select(vec![
        "[{ip: 10.0.0.#}]",
        "[{ip: 10.0.0.#}, {ip: 'fd00::#'}]",
        "[{ip: 10.0.1.#}, {ip: 'fd00:0:0:1::#'}]",
        "[{ip: 'fd00::#'}]",
        "[{ip: 10.0.0.#}, {ip: 10.0.1.#}]",
        "[]",
    ]);
    let kind = prop_oneof![
        8 => Just(""),
        1 => Just("host"),
        1 => Just("finished"),
    ];
    let node = select(vec!["n1", "n2"]);
    (
        namespace_name(),
        labels(),
        containers,
        addresses,
        kind,
        node,
    )
        .prop_map(|(namespace, labels, containers, addresses, kind, node)| {
            let host = if kind == "host" {
                ", hostNetwork: true"
            } else {
                ""
            };
            let addresses = match (kind, node) {
                ("host", "n1") => "[{ip: 192.0.2.1}]",
                ("host", _) => "[{ip: 192.0.2.2}]",
                _ => addresses,
            };
            let phase = if kind == "finished" {
                "Succeeded"
            } else {
                "Running"
            };
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p#, namespace: {namespace}, \
                 labels: {labels}}}, spec: {{nodeName: {node}{host}, containers: {containers}}}, \
                 status: {{phase: {phase}, podIPs: {addresses}}}}}"
            )
        })
}

fn selector() -> impl Strategy<Value = String> {
    let key = || select(vec!["app", "tier"]);
    let listed = vec(value(), 1..3).prop_map(|values| values.join(", "));
    let expression = prop_oneof![
        (key(), select(vec!["In", "NotIn"]), listed).prop_map(|(key, operator, values)| format!(
            "{{key: {key}, operator: {operator}, values: [{values}]}}"
        )),
        (key(), select(vec!["Exists", "DoesNotExist"]))
            .prop_map(|(key, operator)| format!("{{key: {key}, operator: {operator}}}")),
    ];
    prop_oneof![
        2 => Just("{}".to_owned()),
        3 => (key(), value()).prop_map(|(key, value)| format!("{{matchLabels: {{{key}: {value}}}}}")),
        1 => labels().prop_map(|labels| {
            format!("{{matchLabels: {}}}", labels.replace("noise", "other"))
        }),
        3 => vec(expression, 1..3)
            .prop_map(|e| format!("{{matchExpressions: [{}]}}", e.join(", "))),
    ]
}

fn namespace_selector() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => selector(),
        1 => select(vec!["x", "y", "default", "w"]).prop_map(|name| {
            format!("{{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}")
        }),
    ]
}

fn peer() -> impl Strategy<Value = String> {
    let blocks = select(vec![
        "{cidr: 0.0.0.0/0}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/24, 10.0.0.0/31, 255.255.255.255/32]}",
        "{cidr: 0.0.0.0/1}",
        "{cidr: 10.0.0.0/8, except: []}",
        "{cidr: 10.0.0.0/24, except: [10.0.0.2/32, 10.0.0.128/25]}",
        "{cidr: 10.0.0.2/31}",
        "{cidr: 10.0.0.3/24}",
        "{cidr: 255.255.255.255/32}",
        "{cidr: '::/0'}",
        "{cidr: '::/0', except: ['fd00::/64', 'fd00::1:0/112']}",
        "{cidr: 'fd00::/32', except: ['fd00:0:0:1::/64']}",
        "{cidr: 'fd00::2/128'}",
        "{cidr: 'ffff::/16'}",
    ]);
    prop_oneof![
        2 => selector().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        2 => namespace_selector().prop_map(|ns| format!("{{namespaceSelector: {ns}}}")),
        2 => (selector(), namespace_selector()).prop_map(|(pods, ns)| {
            format!("{{podSelector: {pods}, namespaceSelector: {ns}}}")
        }),
        3 => blocks.prop_map(|block| format!("{{ipBlock: {block}}}")),
    ]
}

fn port() -> impl Strategy<Value = String> {
    let protocol = || {
        select(vec![
            "",
            "protocol: TCP, ",
            "protocol: UDP, ",
            "protocol: SCTP, ",
            "protocol: null, ",
        ])
    };
    let port = select(vec![
        "",
        "port: null",
        "port: 80",
        "port: 81",
        "port: 1",
        "port: 65535",
        "port: 80, endPort: 80",
        "port: 79, endPort: 81",
        "port: 1, endPort: 65535",
        "port: 65534, endPort: 65535",
        "port: web",
        "port: web",
        "port: dns",
    ]);
    (protocol(), port).prop_map(|(protocol, port)| {
        let inside = format!("{protocol}{port}");
        format!("{{{}}}", inside.trim_end_matches(", "))
    })
}

/// A list, or one of the ways to leave it out.
fn list(
    name: &'static str,
    entries: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    prop_oneof![
        1 => select(vec!["".to_owned(), format!("{name}: null, "), format!("{name}: [], ")]),
        4 => vec(entries, 1..4).prop_map(move |e| format!("{name}: [{}], ", e.join(", "))),
    ]
}

fn rules(section: &'static str, peers: &'static str) -> impl Strategy<Value = String> {
    let rule = (list(peers, peer()), list("ports", port())).prop_map(|(peers, ports)| {
        let inside = format!("{peers}{ports}");
        format!("{{{}}}", inside.trim_end_matches(", "))
    });
    list(section, rule)
}

/// `#` stands for the policy's number.
fn policy() -> impl Strategy<Value = String> {
    let types = select(vec![
        "",
        "policyTypes: null, ",
        "policyTypes: [], ",
        "policyTypes: [Ingress], ",
        "policyTypes: [Egress], ",
        "policyTypes: [Ingress, Egress], ",
    ]);
    let subject = prop_oneof![
        1 => Just(String::new()),
        5 => selector().prop_map(|selector| format!("podSelector: {selector}, ")),
    ];
    let audit = prop_oneof![
        4 => Just(""),
        1 => Just(", annotations: {cofferdam.dev/mode: audit}"),
    ];
    (
        namespace_name(),
        audit,
        subject,
        types,
        rules("ingress", "from"),
        rules("egress", "to"),
    )
        .prop_map(|(namespace, audit, subject, types, ingress, egress)| {
            let spec = format!("{subject}{types}{ingress}{egress}");
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: n#, \
                 namespace: {namespace}{audit}}}, spec: {{{}}}}}",
                spec.trim_end_matches(", ")
            )
        })
}
