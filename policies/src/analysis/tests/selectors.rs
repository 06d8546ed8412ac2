//! Selectors that select nothing because nothing could, or because documents end before
//! what they select.

use super::{CLOSED, WORLD, cluster, findings, found, policy, unmarked};
use crate::diagnostic::Code;

/// What is found in a text alone, as `line:column code`.
fn alone(text: &str) -> Vec<String> {
    let findings = findings(&[text]);
    let shown = findings.iter();
    shown
        .map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.code))
        .collect()
}

/// Nothing was said where there were no workloads to hold it against.
#[test]
fn a_selector_that_contradicts_itself_is_told_without_workloads() {
    let both = "{matchLabels: {§app: web}, matchExpressions: [{key: app, operator: NotIn, values: [web]}]}";
    let some =
        "{matchLabels: {app: web}, matchExpressions: [{key: app, operator: NotIn, values: [db]}]}";
    let peers = |selector: &str| {
        policy(&format!(
            "policyTypes: [Egress], egress: [{{to: [{{podSelector: {selector}}},\n\
             {{namespaceSelector: {selector}, podSelector: {{}}}}]}}]"
        ))
    };
    let cluster = |selector: &str| {
        cluster(
            "c",
            &format!(
                "tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: Deny, to: [\n\
                 {{pods: {{podSelector: {selector}}}}},\n{{nodes: {selector}}},\n\
                 {{namespaces: {selector}}}]}}]"
            ),
        )
    };
    let subject = |selector: &str| policy(&format!("podSelector: {selector}, ingress: [{{}}]"));
    for (text, code) in [
        (peers(both), Code::NeverMatches),
        (cluster(both), Code::NeverMatches),
        (subject(both), Code::SubjectEmpty),
    ] {
        let (text, places) = unmarked(&text);
        let expected: Vec<String> = (places.iter())
            .map(|place| format!("{place} {code}"))
            .collect();
        assert_eq!(alone(&text), expected, "{text}");
        assert_eq!(found(&text), expected, "{text}");
    }
    for text in [peers(some), cluster(some), subject(some)] {
        assert_eq!(alone(&text), [""; 0], "{text}");
    }
}

/// Every project's policies let it look names up, and no project has the name servers
/// among its documents.
#[test]
fn name_servers_that_documents_are_not_about_are_not_missed() {
    let system = "kubernetes.io/metadata.name: kube-system";
    let lookup = |namespaces: &str, app: &str| {
        policy(&format!(
            "policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: {{matchLabels: \
             {{{namespaces}}}}}, podSelector: {{matchLabels: {{{app}}}}}}}]}}]"
        ))
    };
    let codes = |text: &str, beside: &str| -> Vec<Code> {
        (findings(&[text, WORLD, CLOSED, beside]).iter())
            .map(|one| one.code)
            .collect()
    };
    let servers = "k8s-app: kube-dns";
    assert_eq!(codes(&lookup(system, servers), ""), []);
    assert_eq!(codes(&lookup("", servers), ""), []);
    assert_eq!(
        codes(&lookup(system, "k8s-app: kube-dsn"), ""),
        [Code::PeerEmpty]
    );
    let other = "kubernetes.io/metadata.name: kube-sytem";
    assert_eq!(codes(&lookup(other, servers), ""), [Code::PeerEmpty]);
    // Documents that are about the namespace show what is in it.
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}";
    assert_eq!(
        codes(&lookup(system, servers), namespace),
        [Code::PeerEmpty]
    );
}

/// A template was passed over, and then a selector blamed for selecting nothing.
#[test]
fn workloads_of_a_template_that_cannot_be_read_may_be_what_is_selected() {
    let deployment = |labels: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: new, namespace: x}}, \
             spec: {{template: {{metadata: {{labels: {labels}}}}}}}}}\n---\n"
        )
    };
    let text = policy("podSelector: {matchLabels: {app: new}}, ingress: [{}]");
    assert_eq!(
        found(&(deployment("{app: new, version: 2}") + &text)),
        [""; 0]
    );
    assert_eq!(
        found(&(deployment("{app: new, version: '2'}") + &text)),
        [""; 0]
    );
    assert_eq!(found(&(deployment("{app: old}") + &text)).len(), 1);
}
