//! The manifests as `kubectl kustomize` renders them.

use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_tests::runtimes::programs;
use cofferdam_tests::skip::Feature;
use serde::Deserialize as _;
use serde_json::Value;

pub(crate) const KUBECTL: Feature = Feature::Other("kubectl", || programs(&["kubectl"]));

/// Returns the path of something in the repository.
pub(crate) fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Reads the objects of a text of YAML documents.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("a document"))
        .filter(|object| !object.is_null())
        .collect()
}

/// Renders `deploy/kubernetes`.
pub(crate) fn rendered() -> Vec<Value> {
    let mut kubectl = Command::new("kubectl");
    kubectl
        .arg("kustomize")
        .arg(in_repository("deploy/kubernetes"));
    let output = kubectl.output().expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    objects(std::str::from_utf8(&output.stdout).expect("text"))
}

/// Returns the object of a kind; there is one.
#[track_caller]
pub(crate) fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}
