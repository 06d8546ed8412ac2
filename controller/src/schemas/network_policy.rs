//! `NetworkPolicy`.

use serde_json::{Value, json};

use super::parts::{
    cidr, document, list, metadata, object, optional, port_name, port_number, selector,
};

pub(super) fn schema() -> Value {
    let subject = "The workloads of the policy's namespace that it selects; empty is all of them.";
    let types = json!({ "enum": ["Ingress", "Egress"] });
    let spec = object(
        "What it selects, and what it allows.",
        json!({
            "podSelector": optional(selector(subject)),
            "policyTypes": optional(list(
                "The directions in which it isolates. Without: Ingress, and Egress if there are egress rules.",
                &types, 0, Some(2),
            )),
            "ingress": optional(list("What may come in; no rule is nothing.", &rule("from"), 0, None)),
            "egress": optional(list("What may go out; no rule is nothing.", &rule("to"), 0, None)),
        }),
        &[],
    );
    document(
        ["networking.k8s.io/v1", "NetworkPolicy"],
        "What workloads of one namespace may receive and send.",
        metadata(),
        json!({ "spec": optional(spec), "status": true }),
        &[],
    )
}

fn rule(peers: &str) -> Value {
    let ports = list(
        "On which ports; none is every port of every protocol, ICMP included.",
        &port(),
        0,
        None,
    );
    let who = list(
        "Who the other end may be, one of these; none is everybody, outside hosts too.",
        &peer(),
        0,
        None,
    );
    object(
        "Allows what matches both lists.",
        json!({ peers: optional(who), "ports": optional(ports) }),
        &[],
    )
}

fn peer() -> Value {
    let block = object(
        "Whoever has an address in a block, of its family only.",
        json!({
            "cidr": cidr(),
            "except": optional(list("Cut out of this block alone.", &cidr(), 0, None)),
        }),
        &["cidr"],
    );
    let given =
        |key: &str| json!({ "required": [key], "properties": { key: { "type": "object" } } });
    let mut peer = object(
        "Selectors, both of which must hold, or a block.",
        json!({
            "podSelector": optional(selector("Workloads; of the policy's own namespace, unless a `namespaceSelector` stands beside it.")),
            "namespaceSelector": optional(selector("Namespaces; empty is all of them.")),
            "ipBlock": optional(block),
        }),
        &[],
    );
    peer["oneOf"] = json!([
        given("ipBlock"),
        { "anyOf": [given("podSelector"), given("namespaceSelector")] },
    ]);
    peer
}

fn port() -> Value {
    let mut port = object(
        "A port, a range or, without `port`, all of one protocol.",
        json!({
            "protocol": { "description": "TCP when it is left out.", "enum": ["TCP", "UDP", "SCTP", null] },
            "port": {
                "description": "A number, or a name that the receiving workload gives a port.",
                "anyOf": [port_number(), port_name(), { "type": "null" }],
            },
            "endPort": { "description": "The last of a range.", "anyOf": [port_number(), { "type": "null" }] },
        }),
        &[],
    );
    port["if"] =
        json!({ "required": ["endPort"], "properties": { "endPort": { "type": "integer" } } });
    port["then"] = json!({ "required": ["port"], "properties": { "port": { "type": "integer" } } });
    port
}
