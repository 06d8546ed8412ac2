//! Templates of workloads: the pods that they will make count, and those that cannot be read
//! silence what may be about them.

use cofferdam_syntax::diagnostic::Code;

use super::{CLOSED, WORLD, cluster, errors_and_findings, findings, policy};

#[test]
fn templates_stand_for_the_pods_they_make() {
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: x}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}}}}";
    let text = policy("podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]");
    assert!(findings(&[&text, deployment]).is_empty());
    let other = text.replace("app: web", "app: wbe");
    assert_eq!(findings(&[&other, deployment]).len(), 1);
    // Their namespace is there, and has its name as a label.
    let peer = policy(
        "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: w}}}]}]",
    );
    let apart = deployment.replace("namespace: x", "namespace: w");
    let codes: Vec<Code> = (findings(&[&peer, &apart, CLOSED]).iter())
        .map(|one| one.code)
        .filter(|code| *code == Code::PeerEmpty)
        .collect();
    assert_eq!(codes, []);
    // An operator may make pods with the labels of its resource.
    let resource = "{apiVersion: web.example/v1, kind: Web, metadata: {name: a, namespace: x, labels: {app: wbe}}}";
    assert!(findings(&[&other, deployment, resource]).is_empty());
    let host = deployment
        .replace("app: web", "app: wbe")
        .replace("spec: {containers", "spec: {hostNetwork: true, containers")
        .replace("name: web", "name: host");
    assert_eq!(findings(&[&other, deployment, resource, &host]).len(), 1);
    let elsewhere = resource.replace("namespace: x", "namespace: y");
    assert_eq!(findings(&[&other, deployment, &elsewhere]).len(), 1);
}

/// Nobody knows what addresses the pods of a template will have.
#[test]
fn a_template_is_not_denied_by_addresses() {
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: new, namespace: x}, spec: {template: {metadata: {labels: {app: new}}}}}\n---\n";
    let deny = cluster(
        "deny",
        "tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]",
    );
    let allow = |app: &str| {
        let spec = format!(
            "egress: [{{to: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}], policyTypes: [Egress]"
        );
        format!("{deployment}{deny}{}", policy(&spec))
    };
    let codes = |text: &str| -> Vec<Code> {
        (findings(&[text, WORLD, CLOSED]).iter())
            .map(|one| one.code)
            .collect()
    };
    assert_eq!(codes(&allow("new")), []);
    assert_eq!(codes(&allow("web")), [Code::Overruled]);
    // One of its addresses is not among those denied.
    assert_eq!(codes(&allow("db")), []);
}

/// A Service that selects nobody is not blamed while a workload of its namespace cannot be read.
#[test]
fn an_unreadable_template_silences_its_namespace_alone() {
    let service = |namespace: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: {namespace}}}, \
             spec: {{clusterIP: 10.96.0.9, selector: {{app: gone}}, ports: [{{port: 80}}]}}}}"
        )
    };
    // Labels of a pod are words, not lists.
    let unreadable = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: new, namespace: x}, \
                      spec: {template: {metadata: {labels: [app]}}}}";
    let codes = |texts: &[&str]| -> Vec<Code> {
        let found = errors_and_findings(texts).1;
        found.iter().map(|one| one.code).collect()
    };
    let (own, others) = (service("x"), service("y"));
    assert!(codes(&[WORLD, CLOSED, &own]).contains(&Code::ServiceEmpty));
    assert!(!codes(&[WORLD, CLOSED, &own, unreadable]).contains(&Code::ServiceEmpty));
    assert!(codes(&[WORLD, CLOSED, &others, unreadable]).contains(&Code::ServiceEmpty));
}
