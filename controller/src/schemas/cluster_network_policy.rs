//! `ClusterNetworkPolicy`.

use cofferdam_documents::{MAX_ITEMS, MAX_RULE_NAME};
use cofferdam_inventory::{MAX_PRIORITY, RuleAction};
use serde_json::{Value, json};

use super::parts::{
    cidr, document, list, metadata, object, optional, port_name, port_number, selector,
};

pub(super) fn schema() -> Value {
    let spec = object(
        "Where it stands, whom it is about, and its rules.",
        json!({
            "tier": {
                "description": "Admin is asked before NetworkPolicy, Baseline where no NetworkPolicy isolates.",
                "enum": ["Admin", "Baseline"],
            },
            "priority": {
                "description": "Lower is asked earlier, within the tier.",
                "type": "integer", "minimum": 0, "maximum": MAX_PRIORITY,
            },
            "subject": one_of("The workloads it is about.", json!({
                "namespaces": namespaces(),
                "pods": pods(),
            })),
            "ingress": optional(rules("ingress")),
            "egress": optional(rules("egress")),
        }),
        &["tier", "priority", "subject"],
    );
    document(
        ["policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"],
        "What workloads of all namespaces may receive and send, before or after what namespaces say.",
        metadata(),
        json!({ "spec": spec, "status": true }),
        &["spec"],
    )
}

/// An object with exactly one of its keys.
fn one_of(description: &str, properties: Value) -> Value {
    let mut union = object(description, properties, &[]);
    union["minProperties"] = json!(1);
    union["maxProperties"] = json!(1);
    union
}

fn namespaces() -> Value {
    selector("All workloads of these namespaces; empty is all namespaces.")
}

fn pods() -> Value {
    object(
        "Workloads by their labels and their namespace's.",
        json!({
            "namespaceSelector": optional(selector("Their namespaces; empty is all.")),
            "podSelector": selector("The workloads in them; empty is all."),
        }),
        &["podSelector"],
    )
}

fn rules(direction: &str) -> Value {
    let mut peers = json!({ "namespaces": namespaces(), "pods": pods() });
    if direction == "egress" {
        let names = json!({
            "type": "string",
            "pattern": r"^(\*\.)?([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]*[a-z0-9])?\.?$",
        });
        peers["networks"] = list(
            "Whoever has an address in one of these blocks, workloads too.",
            &cidr(),
            1,
            Some(MAX_ITEMS),
        );
        peers["nodes"] = selector("Nodes, by their addresses; empty is all.");
        peers["domainNames"] = list(
            "Hosts by name, in Accept rules. Not enforced yet: such a peer matches nothing.",
            &names,
            1,
            Some(MAX_ITEMS),
        );
    }
    let key = if direction == "egress" { "to" } else { "from" };
    let peers = list(
        "Who the other end may be, one of these.",
        &one_of("Exactly one of these.", peers),
        1,
        Some(MAX_ITEMS),
    );
    let actions = [RuleAction::Accept, RuleAction::Deny, RuleAction::Pass].map(RuleAction::as_str);
    let protocols = list(
        "On which ports; without, every protocol, ICMP included.",
        &protocol(),
        1,
        Some(MAX_ITEMS),
    );
    let rule = object(
        "The first rule that matches decides.",
        json!({
            "name": { "type": ["string", "null"], "maxLength": MAX_RULE_NAME },
            "action": {
                "description": "Accept and Deny are final; Pass leaves the tier.",
                "enum": actions,
            },
            key: peers,
            "protocols": optional(protocols),
        }),
        &["action", key],
    );
    list("Asked from top to bottom.", &rule, 0, Some(MAX_ITEMS))
}

fn protocol() -> Value {
    let range = object(
        "From `start` to `end`, both included.",
        json!({ "start": port_number(), "end": port_number() }),
        &["start", "end"],
    );
    let port = one_of(
        "A number or a range.",
        json!({ "number": port_number(), "range": range }),
    );
    let of = |name: &str| {
        object(
            &format!("Ports of {name}; `{{}}` is all of them."),
            json!({ "destinationPort": optional(port.clone()) }),
            &[],
        )
    };
    one_of(
        "Exactly one of these.",
        json!({
            "tcp": of("TCP"),
            "udp": of("UDP"),
            "sctp": of("SCTP"),
            "destinationNamedPort": port_name(),
        }),
    )
}
