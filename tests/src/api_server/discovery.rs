//! Answers about the server itself: the groups and kinds that it has, which clients ask first.

use serde_json::{Value, json};

use super::State;
use super::kinds::{KINDS, Kind};

/// Returns the answer to a path about the server, `None` for other paths.
pub(super) fn answer(state: &State, path: &str) -> Option<Value> {
    let words: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let version = match words.as_slice() {
        ["api"] => {
            return Some(json!({"kind": "APIVersions", "versions": ["v1"]}));
        }
        ["apis"] => return Some(groups(state)),
        ["api", version] => (*version).to_owned(),
        ["apis", group, version] => format!("{group}/{version}"),
        _ => return None,
    };
    let kinds: Vec<Value> = served(state)
        .filter(|kind| kind.version == version)
        .map(resource)
        .collect();
    (!kinds.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": version, "resources": kinds,
        })
    })
}

fn served(state: &State) -> impl Iterator<Item = &'static Kind> {
    KINDS
        .iter()
        .filter(|kind| !state.undefined.contains(kind.name))
}

fn resource(kind: &Kind) -> Value {
    json!({
        "name": kind.plural, "singularName": kind.name.to_lowercase(), "kind": kind.name,
        "namespaced": kind.is_namespaced,
        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
    })
}

fn groups(state: &State) -> Value {
    let mut versions: Vec<&str> = served(state).map(|kind| kind.version).collect();
    versions.dedup();
    let of_groups = versions.into_iter().filter_map(|version| {
        let (group, number) = version.split_once('/')?;
        let version = json!({"groupVersion": version, "version": number});
        Some(json!({"name": group, "versions": [version], "preferredVersion": version}))
    });
    json!({
        "kind": "APIGroupList", "apiVersion": "v1", "groups": of_groups.collect::<Vec<_>>(),
    })
}
