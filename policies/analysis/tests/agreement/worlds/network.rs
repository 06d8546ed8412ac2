//! `NetworkPolicy` documents.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{annotations, list, namespace_name, namespace_selector, selector};

fn peer() -> impl Strategy<Value = String> {
    let blocks = select(vec![
        "{cidr: 0.0.0.0/0}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/24, 10.0.0.0/31, 255.255.255.255/32]}",
        "{cidr: 0.0.0.0/1, except: null}",
        "{cidr: 10.0.0.0/8, except: []}",
        "{cidr: 10.0.0.0/24, except: [10.0.0.2/32, 10.0.0.128/25]}",
        "{cidr: 10.0.0.2/31}",
        "{cidr: 10.0.0.3/24}",
        "{cidr: 192.0.2.0/24, except: [192.0.2.1/32]}",
        "{cidr: 255.255.255.255/32}",
        "{cidr: '::/0'}",
        "{cidr: '::/0', except: ['fd00::/64', 'fd00::1:0/112']}",
        "{cidr: 'fd00::/32', except: ['fd00:0:0:1::/64']}",
        "{cidr: 'fd00::2/128'}",
        "{cidr: 'ffff::/16'}",
    ]);
    prop_oneof![
        2 => selector().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        1 => selector()
            .prop_map(|pods| format!("{{podSelector: {pods}, namespaceSelector: null}}")),
        2 => namespace_selector().prop_map(|ns| format!("{{namespaceSelector: {ns}}}")),
        2 => (selector(), namespace_selector()).prop_map(|(pods, ns)| {
            format!("{{podSelector: {pods}, namespaceSelector: {ns}}}")
        }),
        4 => blocks.prop_map(|block| format!("{{ipBlock: {block}}}")),
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
        "port: 80, endPort: null",
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

fn rules(section: &'static str, peers: &'static str) -> impl Strategy<Value = String> {
    let rule = move || {
        (list(peers, peer()), list("ports", port())).prop_map(|(peers, ports)| {
            let inside = format!("{peers}{ports}");
            format!("{{{}}}", inside.trim_end_matches(", "))
        })
    };
    // More rules than one number of bits or one page of a limit would hold, of which
    // the last is alone in what it allows.
    let many = vec(port(), 26..40).prop_map(move |ports| {
        let narrow = ports.iter().map(|port| {
            format!("{{{peers}: [{{ipBlock: {{cidr: 198.51.100.0/30}}}}], ports: [{port}]}}")
        });
        let last = format!("{{{peers}: [{{podSelector: {{}}}}], ports: [{{port: 7}}]}}");
        let all: Vec<String> = narrow.chain([last]).collect();
        format!("{section}: [{}], ", all.join(", "))
    });
    prop_oneof![9 => list(section, rule()), 1 => many]
}

pub(super) fn policy() -> impl Strategy<Value = String> {
    let types = select(vec![
        "",
        "policyTypes: null, ",
        "policyTypes: [], ",
        "policyTypes: [Ingress], ",
        "policyTypes: [Egress], ",
        "policyTypes: [Ingress, Egress], ",
    ]);
    let subject = prop_oneof![
        1 => select(vec!["", "podSelector: null, "]).prop_map(str::to_owned),
        5 => selector().prop_map(|selector| format!("podSelector: {selector}, ")),
    ];
    (
        namespace_name(),
        annotations(),
        subject,
        types,
        rules("ingress", "from"),
        rules("egress", "to"),
    )
        .prop_map(
            |(namespace, annotations, subject, types, ingress, egress)| {
                let namespace = match namespace {
                    "default" => String::new(),
                    name => format!(", namespace: {name}"),
                };
                let spec = format!("{subject}{types}{ingress}{egress}");
                format!(
                    "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: \
                     {{name: n#{namespace}{annotations}}}, spec: {{{}}}}}",
                    spec.trim_end_matches(", ")
                )
            },
        )
}
