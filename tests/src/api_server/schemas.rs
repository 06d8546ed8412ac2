//! Rules for objects that clients write, as a server has them. Stricter in one thing: a field
//! that the definition of NodeStatus does not have is refused, not dropped in silence.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};

/// The definition of NodeStatus, as it is installed.
const NODE_STATUS: &str = include_str!("../../../deploy/kubernetes/crds/nodestatuses.yaml");

static NODE_STATUS_SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let definition: Value = serde_yaml::from_str(NODE_STATUS).expect("YAML");
    let version = &definition["spec"]["versions"][0];
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    for (key, value) in [
        ("apiVersion", json!({"const": "cofferdam.dev/v1alpha1"})),
        ("kind", json!({"const": "NodeStatus"})),
        ("metadata", json!({"type": "object"})),
    ] {
        schema["properties"][key] = value;
    }
    close(&mut schema);
    jsonschema::validator_for(&schema).expect("a schema")
});

/// Lets no object have keys that the schema does not name.
fn close(schema: &mut Value) {
    let Some(keys) = schema.as_object_mut() else {
        return;
    };
    if keys.contains_key("properties") {
        keys.insert("additionalProperties".to_owned(), json!(false));
    }
    for value in keys.values_mut() {
        close(value);
    }
}

static EVENT_SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let word = |most: usize| json!({"type": "string", "minLength": 1, "maxLength": most});
    let micro_time = json!({
        "type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
    });
    // The rules of `events.k8s.io/v1`: k8s.io/kubernetes/pkg/apis/core/validation/events.go.
    let schema = json!({
        "type": "object",
        "required": [
            "metadata", "eventTime", "reportingController", "reportingInstance", "action",
            "reason", "type", "regarding",
        ],
        "properties": {
            "metadata": {"required": ["name", "namespace"], "properties": {
                "name": {"pattern": r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$"},
            }},
            "eventTime": micro_time,
            "reportingController": word(253),
            "reportingInstance": word(128),
            "action": word(128),
            "reason": word(128),
            "type": {"enum": ["Normal", "Warning"]},
            "note": {"type": "string", "maxLength": 1024},
            "regarding": {"required": ["apiVersion", "kind", "name", "uid"]},
            "series": {
                "required": ["count", "lastObservedTime"],
                "properties": {
                    "count": {"type": "integer", "minimum": 2},
                    "lastObservedTime": micro_time,
                },
            },
        },
    });
    jsonschema::validator_for(&schema).expect("a schema")
});

/// Returns all reasons to refuse an object.
pub(super) fn problems(kind: &str, object: &Value) -> Vec<String> {
    let schema = match kind {
        "NodeStatus" => &NODE_STATUS_SCHEMA,
        "Event" => &EVENT_SCHEMA,
        _ => return Vec::new(),
    };
    let mut problems: Vec<String> = schema
        .iter_errors(object)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    if kind == "Event" {
        // An Event about an object of the whole cluster lies in the namespace `default`.
        let of = object["regarding"]["namespace"]
            .as_str()
            .unwrap_or("default");
        if object["metadata"]["namespace"] != of {
            problems.push("the Event lies in another namespace than its object".to_owned());
        }
    }
    problems
}
