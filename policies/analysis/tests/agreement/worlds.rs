//! Random small worlds, as the documents people write.
//!
//! Few namespaces, labels, ports and blocks, so that they meet; edges (empty lists,
//! nulls, first and last ports and addresses) more often than not. Everything is
//! valid: what must be refused is a matter of the documents' own tests.

mod cluster;
mod network;
mod services;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

/// A world, one document a string.
#[derive(Clone)]
pub(crate) struct World {
    documents: Vec<String>,
}

impl World {
    pub(crate) fn of(documents: Vec<String>) -> Self {
        Self { documents }
    }

    pub(crate) fn texts(&self) -> &[String] {
        &self.documents
    }
}

/// Printed on failure: what can be put into a file as it is.
impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}\n", self.documents.join("\n---\n"))
    }
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let kinds = [
        namespaces(0..3).boxed(),
        nodes().boxed(),
        numbered(pod(), 2..6).boxed(),
        numbered(network::policy(), 0..4).boxed(),
        numbered(cluster::policy(), 0..5).boxed(),
    ];
    kinds.prop_map(|kinds| World {
        documents: kinds.concat(),
    })
}

/// Documents of the first namespaces, some of which are on audit.
fn namespaces(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    let enforcement = prop_oneof![
        4 => Just(""),
        1 => Just(", annotations: {cofferdam.dev/enforcement: enforce}"),
        2 => Just(", annotations: {cofferdam.dev/enforcement: audit}"),
    ];
    vec((labels(), enforcement), count).prop_map(|described| {
        let named = ["x", "y"].iter().zip(described);
        named
            .map(|(name, (labels, enforcement))| {
                format!(
                    "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: \
                     {labels}{enforcement}}}}}"
                )
            })
            .collect()
    })
}

/// A world with Services, and with fewer policies, so that more is reached.
pub(crate) fn world_of_services() -> impl Strategy<Value = World> {
    let kinds = [
        namespaces(0..2).boxed(),
        nodes().boxed(),
        numbered(pod(), 4..9).boxed(),
        numbered(services::service(), 1..4).boxed(),
        numbered(services::slice(), 0..3).boxed(),
        numbered(network::policy(), 0..4).boxed(),
        numbered(cluster::policy(), 0..2).boxed(),
    ];
    // Most of them in one namespace: Services find pods in their own alone.
    kinds.prop_map(|kinds| World {
        documents: (kinds.concat().iter())
            .map(|document| document.replace("namespace: y", "namespace: x"))
            .collect(),
    })
}

/// Several documents; in each, `#` stands for its number.
fn numbered(
    document: impl Strategy<Value = String>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<String>> {
    vec(document, count).prop_map(|documents| {
        let numbered = documents.into_iter().enumerate();
        numbered
            .map(|(i, document)| document.replace('#', &i.to_string()))
            .collect()
    })
}

fn namespace_name() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "x", "y", "default"])
}

fn value() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "''"])
}

fn labels() -> impl Strategy<Value = String> {
    let some = (
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
        });
    prop_oneof![9 => some, 1 => Just("null".to_owned())]
}

fn nodes() -> impl Strategy<Value = Vec<String>> {
    const STATUS: [(&str, &str); 3] = [
        (
            "n1",
            "[{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: n1}]",
        ),
        (
            "n2",
            "[{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: 'fd00:0:0:2::2'}]",
        ),
        ("n3", "[]"),
    ];
    [labels(), labels(), labels()].prop_map(|labels| {
        let nodes = STATUS.iter().zip(labels);
        nodes
            .map(|((name, addresses), labels)| {
                format!(
                    "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {labels}}}, \
                     status: {{addresses: {addresses}}}}}"
                )
            })
            .collect()
    })
}

fn pod() -> impl Strategy<Value = String> {
    let container_port = (
        select(vec!["web", "web", "dns"]),
        select(vec![80, 81, 81, 53, 1, 65535]),
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
    let containers = vec(vec(container_port, 0..3), 1..3).prop_map(|containers| {
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
        "[{ip: 'fd00::#'}, {ip: 'fd00:0:0:1::#'}, {ip: 10.0.1.#}]",
        "[]",
    ]);
    let kind = prop_oneof![
        6 => Just(("Running", "")),
        1 => Just(("Pending", "")),
        1 => Just(("Running", ", hostNetwork: true")),
        1 => Just(("Succeeded", "")),
        1 => Just(("Failed", "")),
    ];
    let node = prop_oneof![
        9 => select(vec![", nodeName: n1", ", nodeName: n2"]),
        1 => Just(""),
    ];
    (
        namespace_name(),
        labels(),
        containers,
        addresses,
        kind,
        node,
    )
        .prop_map(
            |(namespace, labels, containers, addresses, (phase, host), node)| {
                let addresses = match (phase, host, node) {
                    // The address of somebody who may be there.
                    ("Succeeded", ..) => "[{ip: 10.0.0.1}]",
                    (_, "", _) => addresses,
                    (.., ", nodeName: n1") => "[{ip: 192.0.2.1}]",
                    (.., ", nodeName: n2") => "[{ip: 'fd00:0:0:2::2'}, {ip: 192.0.2.2}]",
                    _ => "[]",
                };
                let namespace = match namespace {
                    "default" => String::new(),
                    name => format!(", namespace: {name}"),
                };
                format!(
                    "{{apiVersion: v1, kind: Pod, metadata: {{name: p#{namespace}, labels: {labels}}}, \
                     spec: {{containers: {containers}{node}{host}}}, \
                     status: {{phase: {phase}, podIPs: {addresses}}}}}"
                )
            },
        )
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
    let everything = select(vec![
        "{}",
        "{}",
        "{matchLabels: {}}",
        "{matchLabels: null, matchExpressions: []}",
        "{matchExpressions: null}",
    ]);
    prop_oneof![
        2 => everything.prop_map(str::to_owned),
        3 => (key(), value()).prop_map(|(key, value)| format!("{{matchLabels: {{{key}: {value}}}}}")),
        1 => (value(), value()).prop_map(|(app, tier)| {
            format!("{{matchLabels: {{app: {app}, tier: {tier}}}}}")
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

/// The annotations of a policy, some of which are judged only.
fn annotations() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just(""),
        1 => Just(", annotations: {cofferdam.dev/mode: enforce}"),
        2 => Just(", annotations: {cofferdam.dev/mode: audit}"),
    ]
}
