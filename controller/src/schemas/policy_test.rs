//! `PolicyTest`.

use cofferdam_reach::policy_test::{API_VERSION, KIND};
use cofferdam_syntax::patterns::SUBDOMAIN;
use serde_json::{Value, json};

use super::parts::{address, document, labels, list, object, optional, selector};

/// The name of a namespace.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";

pub(super) fn schema() -> Value {
    let metadata = json!({
        "description": "Which one it is.",
        "type": "object",
        "properties": { "name": { "type": "string" } },
        "required": ["name"],
    });
    let addresses = list("Its addresses.", &address(), 1, None);
    let statement = object(
        "One statement. About selectors it holds for everything they match.",
        json!({
            "from": end("Who connects."),
            "to": end("To whom."),
            "port": {
                "description": "To what: tcp/80, udp/53, sctp/80, icmp/8, icmp/8/0, icmpv6/128, proto/47.",
                "type": "string",
                "pattern": r"^((tcp|udp|sctp)/[1-9][0-9]{0,4}|icmp(v6)?/[0-9]{1,3}(/[0-9]{1,3})?|proto/[0-9]{1,3})$",
            },
            "verdict": { "enum": ["allow", "deny"] },
            "audit": {
                "description": "The verdict with policies in audit mode in force as well.",
                "enum": ["allow", "deny", null],
            },
            "by": {
                "description": "The policy that decides: namespace/name, or the name of a ClusterNetworkPolicy.",
                "type": ["string", "null"],
                "pattern": "^[^/]+(/[^/]+)?$",
            },
        }),
        &["from", "to", "port", "verdict"],
    );
    document(
        [API_VERSION, KIND],
        "Statements about who may reach whom, for `cofferdam test`.",
        metadata,
        json!({
            "expect": list("The statements.", &statement, 1, None),
            "externals": {
                "description": "Hosts outside, by the names that statements give them: external/NAME.",
                "type": ["object", "null"],
                "propertyNames": { "pattern": SUBDOMAIN },
                "additionalProperties": addresses,
            },
        }),
        &["expect"],
    )
}

fn end(description: &str) -> Value {
    let mut chosen = object(
        "Every workload that matches, at least one.",
        json!({
            "namespaceSelector": optional(selector("Their namespaces; all without it.")),
            "podSelector": optional(selector("The workloads; all without it.")),
        }),
        &[],
    );
    let given =
        |key: &str| json!({ "required": [key], "properties": { key: { "type": "object" } } });
    chosen["anyOf"] = json!([given("namespaceSelector"), given("podSelector")]);
    let named = json!({
        "description": "namespace/pod, node/NAME, external/NAME or an address.",
        "type": "string",
        "pattern": "^([^/]+/[^/]+|[0-9A-Fa-f:.]+)$",
    });
    let supposed = object(
        "A workload that is in no document.",
        json!({
            "namespace": {
                "description": "Its namespace, in which something is.",
                "type": "string",
                "pattern": DNS_LABEL,
            },
            "labels": labels("Its labels."),
        }),
        &["namespace", "labels"],
    );
    json!({ "description": description, "anyOf": [named, chosen, supposed] })
}
