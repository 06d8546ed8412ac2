//! `Service` documents, and the slices behind some of them.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::value;

fn port() -> impl Strategy<Value = (u16, &'static str, &'static str, String)> {
    let target = select(vec![
        "",
        "",
        ", targetPort: 0",
        ", targetPort: ''",
        ", targetPort: 81",
        ", targetPort: 443",
        ", targetPort: web",
        ", targetPort: web",
        ", targetPort: dns",
        ", targetPort: none",
    ]);
    let node_port = select(vec!["", "", ", nodePort: 443", ", nodePort: 80"]);
    (
        select(vec![80, 80, 80, 81, 81, 53]),
        select(vec![
            "",
            "",
            ", protocol: TCP",
            ", protocol: TCP",
            ", protocol: UDP",
            ", protocol: SCTP",
        ]),
        select(vec!["", "", ", name: p", ", name: q"]),
        (target, node_port).prop_map(|(target, node_port)| format!("{target}{node_port}")),
    )
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "x", "x", "x", "default"])
}

/// Addresses in the cluster, and other ways to write that there are none.
fn addresses() -> impl Strategy<Value = &'static str> {
    select(vec![
        "clusterIP: 10.0.2.#, ",
        "clusterIP: 10.0.2.#, clusterIPs: [10.0.2.#], ",
        "clusterIP: 10.0.2.#, clusterIPs: [10.0.2.#, 'fd00:0:0:2::1#'], ",
        "clusterIPs: ['fd00:0:0:2::1#', 10.0.2.#], ",
        "clusterIP: 'fd00:0:0:2::1#', ",
        // One that others have, too, a node's, and a pod's.
        "clusterIP: 10.0.2.9, ",
        "clusterIP: 192.0.2.1, ",
        "clusterIP: 10.0.0.1, ",
        "clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4, IPv6], ",
        "clusterIP: None, ipFamilies: [IPv6], ",
        "clusterIP: '', ipFamilies: [IPv4], ",
        "",
    ])
}

pub(super) fn service() -> impl Strategy<Value = String> {
    let kind = select(vec![
        "",
        "type: ClusterIP, ",
        "type: NodePort, ",
        "type: NodePort, ",
        "type: NodePort, ",
        "type: LoadBalancer, ",
        "type: LoadBalancer, ",
        "type: ExternalName, externalName: example.com, ",
    ]);
    let external = select(vec![
        "",
        "",
        "externalIPs: [198.51.100.9, 'fd00:0:0:3::9'], ",
        "externalIPs: [192.0.2.1], ",
        "externalIPs: ['fd00:0:0:2::2'], ",
        // That of a pod, or of nobody.
        "externalIPs: [10.0.0.1], ",
    ]);
    let balancer = select(vec![
        "",
        "",
        ", status: {loadBalancer: {ingress: [{ip: 198.51.100.8}, {hostname: a.example}]}}",
        ", status: {loadBalancer: {ingress: [{ip: 198.51.100.8, ipMode: Proxy}]}}",
        ", status: {loadBalancer: {ingress: [{ip: 192.0.2.2, ipMode: VIP}]}}",
        ", status: {loadBalancer: null}",
    ]);
    let selector = prop_oneof![
        1 => select(vec!["", "selector: null, ", "selector: {}, "]).prop_map(str::to_owned),
        8 => select(vec!["app: a", "app: a", "app: b", "tier: a", "tier: b"])
            .prop_map(|label| format!("selector: {{{label}}}, ")),
        1 => (value(), value())
            .prop_map(|(app, tier)| format!("selector: {{app: {app}, tier: {tier}}}, ")),
    ];
    (
        namespace(),
        kind,
        addresses(),
        external,
        selector,
        vec(port(), 1..4),
        balancer,
    )
        .prop_map(|(namespace, kind, addresses, external, selector, ports, balancer)| {
            // One with ports of nodes has an address.
            let has_node_ports = kind.contains("NodePort") || kind.contains("LoadBalancer");
            let kind = match has_node_ports && addresses.contains("None") {
                true => "",
                false => kind,
            };
            let ports: Vec<String> = ports
                .iter()
                .map(|(port, protocol, name, rest)| format!("{{port: {port}{protocol}{name}{rest}}}"))
                .collect();
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s#, namespace: {namespace}}}, \
                 spec: {{{kind}{addresses}{external}{selector}ports: [{}]}}{balancer}}}",
                ports.join(", ")
            )
        })
}

pub(super) fn slice() -> impl Strategy<Value = String> {
    let condition = |key: &'static str| {
        weighted(0.5, select(vec!["true", "false", "null"]))
            .prop_map(move |value| value.map(|value| format!("{key}: {value}")))
    };
    let conditions = (
        condition("ready"),
        condition("serving"),
        condition("terminating"),
    )
        .prop_map(|(ready, serving, terminating)| {
            let all: Vec<String> = [ready, serving, terminating]
                .into_iter()
                .flatten()
                .collect();
            format!(", conditions: {{{}}}", all.join(", "))
        });
    let draining = ", conditions: {ready: false, serving: true, terminating: true}".to_owned();
    let conditions = prop_oneof![
        1 => Just(String::new()),
        2 => Just(draining),
        2 => conditions,
    ];
    let family = select(vec!["IPv4", "IPv4", "IPv6", "FQDN"]);
    let ports = vec(
        (
            select(vec!["name: p, ", "name: q, ", "name: '', ", "", ""]),
            select(vec!["", "", "protocol: TCP, ", "protocol: UDP, "]),
            select(vec!["port: 80", "port: 81", "port: 443", "port: null"]),
        ),
        1..3,
    );
    (family, ports).prop_flat_map(move |(family, ports)| {
        let addresses = match family {
            "IPv4" => vec![
                "10.0.0.0",
                "10.0.0.1",
                "10.0.1.2",
                "192.0.2.1",
                "203.0.113.5",
            ],
            "IPv6" => vec!["'fd00::1'", "'fd00::2'", "'fd00:0:0:2::2'", "'2001:db8::5'"],
            _ => vec!["a.example", "b.example"],
        };
        let endpoint = (subsequence(addresses, 1..3), conditions.clone()).prop_map(
            |(addresses, conditions)| {
                format!("{{addresses: [{}]{conditions}}}", addresses.join(", "))
            },
        );
        let ports: Vec<String> = ports
            .iter()
            .map(|(name, protocol, port)| format!("{{{name}{protocol}{port}}}"))
            .collect();
        let ports = ports.join(", ");
        (
            namespace(),
            select(vec!["s0", "s0", "s1", "s9"]),
            vec(endpoint, 0..4),
        )
            .prop_map(move |(namespace, service, endpoints)| {
                format!(
                    "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e#, \
                     namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}, \
                     addressType: {family}, ports: [{ports}], endpoints: [{}]}}",
                    endpoints.join(", ")
                )
            })
    })
}
