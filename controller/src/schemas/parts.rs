//! Parts that the schemas of several kinds of documents share.
//!
//! Draft 7, which editors know best, and nothing by reference, so that a schema can be
//! put into another.

use cofferdam_documents::METADATA_KEYS;
use cofferdam_syntax::patterns::{self, IPV4, IPV6, SUBDOMAIN};
use serde_json::{Map, Value, json};

/// The version of JSON Schema that documents' schemas are written in.
pub(super) const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
const PORT_NAME: &str = r"^(?!.*--)(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// An object with these keys and no others.
pub(super) fn object(description: &str, properties: Value, required: &[&str]) -> Value {
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The same, or nothing: in documents null is as good as absent.
pub(super) fn optional(mut schema: Value) -> Value {
    let kind = schema["type"].take();
    schema["type"] = json!([kind, "null"]);
    schema
}

/// A list of such items.
pub(super) fn list(description: &str, items: &Value, least: usize, most: Option<usize>) -> Value {
    let mut list = json!({
        "description": description,
        "type": "array",
        "items": items,
        "minItems": least,
    });
    if let Some(most) = most {
        list["maxItems"] = json!(most);
    }
    list
}

/// A document: what it is, and the keys it has beside `apiVersion`, `kind`, `metadata`.
pub(super) fn document(
    [api_version, kind]: [&str; 2],
    description: &str,
    metadata: Value,
    others: Value,
    required: &[&str],
) -> Value {
    let mut properties = Map::new();
    properties.insert("apiVersion".to_owned(), json!({ "const": api_version }));
    properties.insert("kind".to_owned(), json!({ "const": kind }));
    properties.insert("metadata".to_owned(), metadata);
    if let Value::Object(others) = others {
        properties.extend(others);
    }
    let required: Vec<&str> = ["apiVersion", "kind", "metadata"]
        .iter()
        .chain(required)
        .copied()
        .collect();
    let mut schema = object(description, Value::Object(properties), &required);
    schema["$schema"] = json!(DRAFT);
    schema["title"] = json!(kind);
    schema
}

/// `metadata` of a policy. One of the cluster has no namespace, and one of it that is
/// given is an error for the reader, not here: tools add it.
pub(super) fn metadata() -> Value {
    let mut properties: Map<String, Value> = (METADATA_KEYS.iter())
        .map(|key| ((*key).to_owned(), json!(true)))
        .collect();
    properties.insert(
        "name".to_owned(),
        json!({ "type": "string", "pattern": SUBDOMAIN, "maxLength": 253 }),
    );
    properties.insert(
        "namespace".to_owned(),
        json!({ "description": "`default` when it is left out.", "type": ["string", "null"] }),
    );
    properties.insert("labels".to_owned(), optional(labels("Labels.")));
    properties.insert(
        "annotations".to_owned(),
        json!({
            "description": "`cofferdam.dev/mode: audit` has the policy judged and reported, not enforced.",
            "type": ["object", "null"],
            "properties": { "cofferdam.dev/mode": { "enum": ["enforce", "audit"] } },
            "patternProperties": { r"^cofferdam\.dev/(?!(mode|allow)$)": false },
            "additionalProperties": { "type": ["string", "null"] },
        }),
    );
    object("Which one it is.", Value::Object(properties), &["name"])
}

/// Labels.
pub(super) fn labels(description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "propertyNames": { "pattern": LABEL_KEY },
        "additionalProperties": { "type": "string", "pattern": LABEL_VALUE },
    })
}

/// A label selector; an empty one selects everything.
pub(super) fn selector(description: &str) -> Value {
    let requirement = json!({
        "description": "One requirement. `NotIn` and `DoesNotExist` hold without the key, too.",
        "type": "object",
        "properties": {
            "key": { "type": "string", "pattern": LABEL_KEY },
            "operator": { "enum": ["In", "NotIn", "Exists", "DoesNotExist"] },
            "values": {
                "type": ["array", "null"],
                "items": { "type": "string", "pattern": LABEL_VALUE },
            },
        },
        "required": ["key", "operator"],
        "additionalProperties": false,
        "if": { "properties": { "operator": { "enum": ["In", "NotIn"] } } },
        "then": {
            "required": ["values"],
            "properties": { "values": { "type": "array", "minItems": 1 } },
        },
        "else": { "properties": { "values": { "maxItems": 0 } } },
    });
    let expressions = list("All of these must hold.", &requirement, 0, None);
    object(
        description,
        json!({
            "matchLabels": optional(labels("All of these labels must be there.")),
            "matchExpressions": optional(expressions),
        }),
        &[],
    )
}

/// The number of a port.
pub(super) fn port_number() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": 65535 })
}

/// The name of a port.
pub(super) fn port_name() -> Value {
    json!({ "type": "string", "pattern": PORT_NAME, "maxLength": 15 })
}

/// A block of addresses.
pub(super) fn cidr() -> Value {
    let pattern = format!("^({IPV4}/(3[0-2]|[12]?[0-9])|{IPV6}/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$");
    json!({ "type": "string", "pattern": pattern })
}

/// An address.
pub(super) fn address() -> Value {
    json!({ "type": "string", "pattern": patterns::address() })
}
