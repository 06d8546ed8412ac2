//! The configuration of the agent.
//!
//! Its keys, their types and defaults are those of the default configuration itself;
//! here stand what a value may be beyond that, and a sentence for each key.

use cofferdam_agent::config::{Config, Guard, KEEP, OwnNode, RANGES};
use cofferdam_policies::patterns::SUBDOMAIN;
use serde_json::{Map, Value, json};

use super::parts::{DRAFT, address};

/// What each key is for; keys of a section follow it with a dot.
const ABOUT: [(&str, &str); 33] = [
    ("node", "This node."),
    (
        "node.name",
        "Its name in Pod and Node documents; the host's name by default.",
    ),
    (
        "node.addresses",
        "Its addresses, beside those of its interfaces.",
    ),
    ("policies", "Files and folders with documents."),
    ("run_dir", "Where the control socket is."),
    ("state_dir", "Where the agent keeps what must outlive it."),
    (
        "bpffs",
        "The folder on a BPF file system for maps, programs and links.",
    ),
    (
        "metrics",
        "Where metrics and health are served; empty for nowhere.",
    ),
    (
        "uplinks",
        "Interfaces on which frames are dropped early (XDP): names, or auto for every \
         device whose driver can.",
    ),
    (
        "limits",
        "What there is room for; fixed while the maps exist.",
    ),
    ("limits.endpoints", "Endpoints on this node."),
    ("limits.slots", "Addresses, and sets of outside addresses."),
    ("limits.flows_per_endpoint", "Flows of one endpoint."),
    (
        "limits.table_pages",
        "Pages of the decision table, 64 KiB each.",
    ),
    (
        "limits.rules",
        "Rules of policies, and sets of policies that isolate.",
    ),
    (
        "accept_partial",
        "Whether an invalid document that never was good is left out even when nothing is in force yet.",
    ),
    (
        "own_node",
        "Whether the node may always connect to its workloads, or policy decides.",
    ),
    (
        "adopt_midstream",
        "How long after attaching unknown TCP flows are adopted; 0s is never.",
    ),
    (
        "guard",
        "What drops packets of interfaces that are not adopted yet.",
    ),
    ("idle", "How long flows may be idle."),
    ("idle.tcp_established", "TCP, while it is open."),
    ("idle.tcp_embryonic", "TCP, before it is open."),
    ("idle.tcp_closing", "TCP, once one end has closed it."),
    ("idle.udp", "UDP that was answered."),
    ("idle.udp_one_way", "UDP that was not."),
    ("idle.sctp", "SCTP."),
    ("idle.icmp", "ICMP of either family."),
    ("idle.other", "Other protocols."),
    ("flow_log", "The file of flow records; of no effect yet."),
    ("flow_log.path", "Its path; empty for none."),
    (
        "flow_log.max_bytes",
        "How large it may grow before it is put aside.",
    ),
    ("flow_log.keep", "How many of those put aside are kept."),
    (
        "",
        "The configuration of the agent; every key has a default.",
    ),
];

pub(super) fn schema() -> Value {
    let defaults = serde_json::to_value(Config::default()).expect("a configuration is JSON");
    let mut schema = of("", &defaults);
    schema["$schema"] = json!(DRAFT);
    schema["title"] = json!("Configuration");
    schema
}

/// The schema of a value whose default is known.
fn of(path: &str, default: &Value) -> Value {
    let about = ABOUT.iter().find(|(of, _)| *of == path);
    let about = about.map_or_else(
        || panic!("nothing is said about `{path}`"),
        |(_, about)| about,
    );
    let mut schema = match default {
        Value::Object(entries) => {
            let properties: Map<String, Value> = (entries.iter())
                .map(|(key, default)| {
                    let prefix = if path.is_empty() {
                        String::new()
                    } else {
                        format!("{path}.")
                    };
                    (key.clone(), of(&format!("{prefix}{key}"), default))
                })
                .collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Value::Array(_) => {
            let item = match path {
                "node.addresses" => address(),
                _ => json!({ "type": "string", "minLength": 1 }),
            };
            let array = json!({ "type": "array", "items": item });
            match path {
                "uplinks" => json!({ "oneOf": [{ "const": "auto" }, array] }),
                _ => array,
            }
        }
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(_) => {
            let limit = path.strip_prefix("limits.");
            let range = limit.and_then(|limit| RANGES.into_iter().find(|(key, _)| *key == limit));
            let range = range.map_or(KEEP, |(_, range)| range);
            json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
        }
        _ => word(path),
    };
    schema["description"] = json!(about);
    // The host's name is a default on one host only.
    if !default.is_object() && path != "node.name" {
        schema["default"] = default.clone();
    }
    schema
}

/// The schema of a value that is text.
fn word(path: &str) -> Value {
    match path {
        "own_node" => json!({ "enum": [OwnNode::Allow, OwnNode::Policy] }),
        "guard" => json!({ "enum": [Guard::None] }),
        "node.name" => json!({ "type": "string", "pattern": SUBDOMAIN, "maxLength": 253 }),
        "flow_log.max_bytes" => json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" }),
        "run_dir" | "state_dir" | "bpffs" => json!({ "type": "string", "minLength": 1 }),
        "metrics" | "flow_log.path" => json!({ "type": "string" }),
        _ => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
    }
}
