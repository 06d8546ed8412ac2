//! JSON Schemas, of documents that people write and of what commands print: one list.
//!
//! That of the configuration comes from its types, in the agent.

mod cluster_network_policy;
mod network_policy;
mod parts;
mod policy_test;

use serde_json::{Value, json};

use crate::output;

/// A schema, and what it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name on the command line, and its file's in `docs/schemas`.
    pub name: &'static str,
    /// The kind of document it is of; `None` for what commands print.
    pub document: Option<&'static str>,
    /// Subject of the schema, in a few words.
    pub about: String,
    /// The schema as JSON.
    pub text: String,
}

impl Named {
    /// Its file in `docs/schemas`.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.json", self.name)
    }

    /// Returns `true` if this is the schema's name, or its kind of document, in any case.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let mut names = [Some(self.name), self.document].into_iter().flatten();
        names.any(|own| own.eq_ignore_ascii_case(name))
    }

    fn new(name: &'static str, document: Option<&'static str>, text: String) -> Self {
        let schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
        let about = schema["description"].as_str().unwrap_or_default();
        Self {
            name,
            document,
            about: about.lines().next().unwrap_or_default().to_owned(),
            text,
        }
    }
}

/// All schemas: of documents, then of what commands print.
#[must_use]
pub fn all() -> Vec<Named> {
    let network_policy = network_policy::schema();
    let cluster_network_policy = cluster_network_policy::schema();
    let policy_test = policy_test::schema();
    let configuration = cofferdam_agent::config::reference::schema();
    let any = any(&[&network_policy, &cluster_network_policy, &policy_test]);
    let documents = [
        ("documents", "documents", &any),
        ("network-policy", "NetworkPolicy", &network_policy),
        (
            "cluster-network-policy",
            "ClusterNetworkPolicy",
            &cluster_network_policy,
        ),
        ("policy-test", "PolicyTest", &policy_test),
        ("configuration", "configuration", &configuration),
    ]
    .map(|(name, kind, schema)| {
        let text = serde_json::to_string_pretty(schema).expect("a schema is JSON");
        Named::new(name, Some(kind), text + "\n")
    });
    let printed = output::schemas().into_iter().map(|(file, text)| {
        let name = file.strip_suffix(".json").unwrap_or(file);
        Named::new(name, None, text)
    });
    documents.into_iter().chain(printed).collect()
}

/// A schema for files in which documents of several kinds stand: each is held against
/// its own, and other kinds against none.
fn any(schemas: &[&Value]) -> Value {
    let branches: Vec<Value> = (schemas.iter())
        .map(|schema| {
            let mut schema = (*schema).clone();
            let own = schema.as_object_mut().expect("a schema is an object");
            own.remove("$schema");
            let kind = own["properties"]["kind"].clone();
            json!({ "if": { "required": ["kind"], "properties": { "kind": kind } }, "then": schema })
        })
        .collect();
    json!({
        "$schema": parts::DRAFT,
        "title": "Documents",
        "description": "Any document in a folder of policies, by its kind.",
        "type": ["object", "null"],
        "allOf": branches,
    })
}
