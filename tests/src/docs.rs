//! Objects that stand in the documentation, for tests that hold the product against them.

use serde::Deserialize as _;
use serde_json::Value;

/// The page about Kubernetes.
const KUBERNETES: &str = include_str!("../../docs/kubernetes.md");

/// Returns the ClusterRole of a name in the documentation.
///
/// # Panics
///
/// Panics if there is none.
#[must_use]
pub fn role(name: &str) -> Value {
    let blocks = KUBERNETES
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut objects = blocks.flat_map(|block| {
        let documents = serde_yaml::Deserializer::from_str(block);
        documents.filter_map(|document| Value::deserialize(document).ok())
    });
    let found = objects.find(|one| one["kind"] == "ClusterRole" && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no role {name} in docs/kubernetes.md"))
}
