//! Lists that are read item by item: the same as when they are read at once.

use super::manifests::{KUBECTL_JSON, KUBECTL_YAML};
use super::*;
use crate::stream::read_bounded;
use crate::{Strictness, parse_as};

/// Reads a text in parts of at most so many bytes.
fn streamed(text: &str, most: usize) -> Parsed {
    let source = read_bounded("a.yaml", text.as_bytes(), Strictness::Lenient, most);
    Arc::unwrap_or_clone(source.unwrap().parsed)
}

/// Holds both ways of reading a text against each other.
fn agrees(text: &str) {
    let whole = parse_as("a.yaml", text.as_bytes(), Strictness::Lenient);
    let parts = streamed(text, text.len());
    assert_eq!(parts.documents, whole.documents, "{text}");
    assert_eq!(parts.diagnostics, whole.diagnostics, "{text}");
    assert_eq!(parts.context.templates, whole.context.templates, "{text}");
}

const POLICY: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}}}";

#[test]
fn items_are_read_with_their_places_as_at_once() {
    agrees(KUBECTL_YAML);
    agrees(KUBECTL_JSON);
    let compact: String = KUBECTL_JSON.lines().map(str::trim_start).collect();
    agrees(&compact);
    agrees(&format!("{KUBECTL_YAML}---\n{KUBECTL_YAML}"));
    // Dashes below the key, comments and blank lines between items, documents around.
    agrees(&format!(
        "a: 1\n---\napiVersion: v1\nkind: List\nitems:\n\n  # first\n  - {POLICY}\n\n# second\n  - {POLICY}\nmetadata: {{}}\n---\n{POLICY}\n"
    ));
    agrees(&format!("# c\n{POLICY}\n---\n# d\n---\n{POLICY}\n"));
    agrees("apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n");
    agrees(
        "{\"kind\": \"PodList\", \"apiVersion\": \"v1\", \"items\": [{\"metadata\": {\"name\": \"a\"}}]}",
    );
    // Mistakes have their lines.
    agrees(&KUBECTL_YAML.replace(
        "podSelector: {}\n    policyTypes",
        "podSelektor: {}\n    policyTypes",
    ));
    agrees(&KUBECTL_JSON.replace("\"podIP\": \"10.0.0.1\"", "\"podIP\": \"10.0.0\""));
}

#[test]
fn a_part_has_a_bound_and_the_whole_has_none() {
    let pods: String = (0..200)
        .map(|n| format!("- apiVersion: v1\n  kind: Pod\n  metadata: {{name: p{n}}}\n"))
        .collect();
    let text = format!("apiVersion: v1\nitems:\n{pods}kind: List\n");
    assert!(text.len() > 4_000);
    let parsed = streamed(&text, 500);
    assert_eq!((parsed.documents.len(), parsed.diagnostics.len()), (200, 0));
    let large = format!("- {}\n", "x".repeat(600));
    let text = format!("apiVersion: v1\nitems:\n{large}{pods}kind: List\n");
    let parsed = streamed(&text, 500);
    assert_eq!(parsed.documents.len(), 200);
    assert_eq!(errors(&parsed), ["3:1 CD0103"]);
}

#[test]
fn what_is_kept_has_policies_at_their_places_and_no_more() {
    let source = read_bounded(
        "a.yaml",
        KUBECTL_YAML.as_bytes(),
        Strictness::Lenient,
        1 << 20,
    );
    let kept = source.unwrap().text;
    let kept = std::str::from_utf8(&kept).unwrap();
    let line = |text: &str, word: &str| text.lines().position(|line| line.contains(word));
    assert_eq!(line(kept, "policyTypes"), line(KUBECTL_YAML, "policyTypes"));
    assert_eq!(line(kept, "lastProbeTime"), None);
    let whole = yaml::parse(kept);
    assert!(whole.iter().all(Result::is_ok), "{whole:?}");
}
