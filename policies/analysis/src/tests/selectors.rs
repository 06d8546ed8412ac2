//! Selectors that select nothing because nothing could, or because documents end before
//! what they select.

use cofferdam_syntax::diagnostic::Code;

use super::{CLOSED, WORLD, cluster, findings, found, policy, unmarked};

/// Returns the findings in a text alone, as `line:column code`.
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

/// A template was passed over, and then a selector blamed for selecting nothing; later one
/// that could not be read silenced everything.
#[test]
fn a_template_that_cannot_be_read_silences_what_depends_on_it_alone() {
    let deployment = |namespace: &str, labels: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: new, namespace: {namespace}}}, \
             spec: {{template: {{metadata: {{labels: {labels}}}}}}}}}\n---\n"
        )
    };
    let text = policy("podSelector: {matchLabels: {app: new}}, ingress: [{}]");
    let unusable = Code::WorkloadUnusable.as_str();
    assert_eq!(
        found(&(deployment("x", "{app: new, version: 2}") + &text)),
        [format!("1:1 {unusable}")]
    );
    assert_eq!(
        found(&(deployment("x", "{app: new, version: '2'}") + &text)),
        [""; 0]
    );
    assert_eq!(found(&(deployment("x", "{app: old}") + &text)).len(), 1);
    // In another namespace it changes nothing.
    assert_eq!(
        found(&(deployment("z", "{app: new, version: 2}") + &text)),
        [
            format!("1:1 {unusable}"),
            format!("4:29 {}", Code::SubjectEmpty)
        ]
    );
    let patch = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: x}, spec: {replicas: 2}}\n---\n";
    assert_eq!(found(&(patch.to_owned() + &text)), [""; 0]);
    let base = deployment("x", "{app: web}").replace("name: new", "name: web");
    assert_eq!(
        found(&(patch.to_owned() + &base + &text)),
        [format!("6:29 {}", Code::SubjectEmpty)]
    );
}

/// Returns the findings about texts that are no cluster's.
fn in_project(texts: &[&str]) -> Vec<Code> {
    let mut codes: Vec<Code> = findings(texts).iter().map(|one| one.code).collect();
    codes.retain(|code| [Code::SubjectEmpty, Code::PeerEmpty].contains(code));
    codes
}

const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: x}, spec: {template: {metadata: {labels: {app: web}}}}}";

/// Most such warnings were wrong: documents of one application are not a cluster.
#[test]
fn documents_of_one_application_are_not_blamed_for_what_lies_elsewhere() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: x}}";
    let subject = |labels: &str| {
        policy(&format!(
            "podSelector: {{matchLabels: {{{labels}}}}}, ingress: [{{}}]"
        ))
    };
    let peer = |peer: &str| policy(&format!("ingress: [{{from: [{{{peer}}}]}}]"));
    let project = |text: &str| in_project(&[text, DEPLOYMENT]);
    let with_namespace = |text: &str| in_project(&[text, DEPLOYMENT, namespace]);
    let blamed = |code: Code| vec![code];
    // Slips are told in any case, and so are subjects that their own project does not have.
    assert_eq!(project(&subject("app: wbe")), blamed(Code::SubjectEmpty));
    assert_eq!(project(&subject("app: other")), blamed(Code::SubjectEmpty));
    assert_eq!(
        project(&peer("podSelector: {matchLabels: {app: wbe}}")),
        blamed(Code::PeerEmpty)
    );
    // Namespaces of others.
    for other in [
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}",
        "namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: scraper}}",
        "podSelector: {matchLabels: {web-client: 'true'}}",
        "podSelector: {matchLabels: {app: ingress-controller}}",
    ] {
        assert_eq!(project(&peer(other)), [], "{other}");
    }
    assert_eq!(
        with_namespace(&peer(
            "podSelector: {matchLabels: {app: ingress-controller}}"
        )),
        blamed(Code::PeerEmpty)
    );
    // A label that workloads of other projects may have.
    assert_eq!(
        with_namespace(&peer("podSelector: {matchLabels: {web-client: 'true'}}")),
        []
    );
    // Controllers and operators.
    assert_eq!(project(&subject("job-name: web-x")), []);
    let operator =
        "{apiVersion: postgresql.cnpg.io/v1, kind: Cluster, metadata: {name: db, namespace: x}}";
    assert_eq!(
        in_project(&[&subject("cnpg.io/cluster: db"), DEPLOYMENT, operator]),
        []
    );
    let route =
        "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, metadata: {name: db, namespace: x}}";
    assert_eq!(
        in_project(&[&subject("cnpg.io/cluster: db"), DEPLOYMENT, route]),
        blamed(Code::SubjectEmpty)
    );
    // Where nodes are known, everything is.
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n}}";
    assert_eq!(
        in_project(&[
            &peer("podSelector: {matchLabels: {app: ingress-controller}}"),
            DEPLOYMENT,
            node
        ]),
        blamed(Code::PeerEmpty)
    );
}
