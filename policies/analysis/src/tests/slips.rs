//! Mistakes that are made where everything is valid: each is told where it is one, and not
//! where it is meant.

use cofferdam_syntax::diagnostic::Code;

use super::{all_findings, policy};

/// Three workloads of namespace `x`.
const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: a}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: x}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: api, namespace: x}, spec: {template: {metadata: {labels: {app: api}}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: x}, spec: {template: {metadata: {labels: {app: db}}}}}
";

/// The lines of findings of a code among these texts, of which the first is line 1 of a file.
fn lines(code: Code, texts: &[&str]) -> Vec<u32> {
    let all: Vec<&str> = texts.iter().copied().chain([SHOP]).collect();
    let found = all_findings(&all);
    let of_code = found.iter().filter(|one| one.code == code);
    of_code.map(|one| one.place.line).collect()
}

/// Policies about one workload each, with these rules.
fn about(app: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {app}, namespace: x}}, spec: {{podSelector: {{matchLabels: {{app: {app}}}}},\n{spec}\n}}}}\n---\n"
    )
}

const TO_DB: &str = "{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}";

fn egress(rules: &str) -> String {
    about("web", &format!("policyTypes: [Egress], egress: [{rules}]"))
}

#[test]
fn who_may_reach_others_must_look_up_their_names() {
    let told = |rules: &str| lines(Code::NoLookups, &[&egress(rules)]).len();
    assert_eq!(told(TO_DB), 1);
    // A name server, by whatever rule it is let through.
    for dns in [
        "{ports: [{protocol: UDP, port: 53}]}",
        "{to: [{namespaceSelector: {}}], ports: [{protocol: UDP, port: 53}, {port: 53}]}",
        "{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{protocol: UDP, port: 53}]}",
        "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}",
        "{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}",
        "{ports: [{protocol: UDP}]}",
        "{ports: [{protocol: UDP, port: dns}]}",
        "{}",
    ] {
        assert_eq!(told(&format!("{TO_DB}, {dns}")), 0, "{dns}");
    }
    // Nobody is to be reached, or addresses alone.
    assert_eq!(told(""), 0);
    assert_eq!(
        told("{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 443}]}"),
        0
    );
    // Another policy lets it.
    let dns = about(
        "web",
        "policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}]}]",
    )
    .replace("name: web", "name: dns");
    assert_eq!(lines(Code::NoLookups, &[&egress(TO_DB), &dns]), [0; 0]);
}

#[test]
fn resolvers_ask_over_udp() {
    let dns = |ports: &str| {
        egress(&format!(
            "{TO_DB},\n{{to: [{{namespaceSelector: {{}}}}], ports: [{ports}]}}"
        ))
    };
    let told = |ports: &str| lines(Code::LookupsOverTcp, &[&dns(ports)]);
    assert_eq!(told("{port: 53}"), [3]);
    assert_eq!(told("{port: 53}, {protocol: UDP, port: 53}"), [0; 0]);
    assert_eq!(lines(Code::NoLookups, &[&dns("{port: 53}")]), [0; 0]);
}

#[test]
fn a_workload_that_policies_forgot_is_told_where_most_are_isolated() {
    let of = |app: &str| about(app, "ingress: [{from: [{podSelector: {}}]}]");
    let told = |texts: &[&str]| lines(Code::OpenDirection, texts);
    // The StatefulSet, on the eighth line, for ingress.
    assert_eq!(told(&[&of("web"), &of("api")]), [8]);
    assert_eq!(told(&[&of("web"), &of("api"), &of("db")]), [0; 0]);
    // Where one is isolated, that one is meant.
    assert_eq!(told(&[&of("web")]), [0; 0]);
    // All of it is opened on purpose.
    let open = about("db", "ingress: [{}]");
    assert_eq!(told(&[&of("web"), &of("api"), &open]), [0; 0]);
}

#[test]
fn a_namespace_is_selected_by_the_label_that_it_has() {
    let from = |label: &str| {
        policy(&format!(
            "ingress: [{{from: [\n{{namespaceSelector: {{matchLabels: {{{label}: x}}}}}}]}}]"
        ))
    };
    let told = |text: &str| lines(Code::NamespaceByName, &[text]);
    assert_eq!(told(&from("name")), [3]);
    assert_eq!(told(&from("kubernetes.io/metadata.name")), [0; 0]);
    // Some namespace has the label, or no namespace is called so.
    let labelled = "{apiVersion: v1, kind: Namespace, metadata: {name: y, labels: {name: y}}}";
    assert_eq!(
        lines(Code::NamespaceByName, &[&from("name"), labelled]),
        [0; 0]
    );
    assert_eq!(
        told(&from("name").replace("name: x}}}", "name: z}}}")),
        [0; 0]
    );
}

#[test]
fn a_peer_that_means_everybody_is_told_beside_others() {
    let told = |rule: &str| {
        lines(
            Code::EverybodyMeant,
            &[&policy(&format!("ingress: [\n{{{rule}}}]"))],
        )
    };
    assert_eq!(told("from: []"), [3]);
    assert_eq!(told("ports: [{port: 80}]"), [0; 0]);
    assert_eq!(
        told("from: [{namespaceSelector: {}}, {podSelector: {matchLabels: {app: web}}}]"),
        [3]
    );
    assert_eq!(told("from: [{namespaceSelector: {}}]"), [0; 0]);
    assert_eq!(
        told("from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: 203.0.113.0/24}}]"),
        [3]
    );
    assert_eq!(
        told("from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}]"),
        [0; 0]
    );
    assert_eq!(
        told("from: [{namespaceSelector: {}}, {ipBlock: {cidr: 203.0.113.0/24}}]"),
        [0; 0]
    );
}

#[test]
fn what_leads_in_leads_to_workloads_that_let_it_in() {
    const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: x}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}}\n---\n";
    const INGRESS: &str = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: x}, spec: {rules: [{http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}}]}}";
    const ROUTE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: x}, spec: {rules: [{backendRefs: [{name: web, port: 80}]}]}}";
    let balancer = SERVICE.replace("{selector", "{type: LoadBalancer, selector");
    let closed = "{podSelector: {matchLabels: {app: api}}}";
    let told = |peers: &str, texts: &[&str]| {
        let policy = about(
            "web",
            &format!("ingress: [{{from: [{peers}], ports: [{{port: http}}]}}]"),
        );
        let texts: Vec<&str> = [policy.as_str()]
            .into_iter()
            .chain(texts.iter().copied())
            .collect();
        lines(Code::ClosedBackend, &texts).len()
    };
    for entrance in [[SERVICE, INGRESS], [SERVICE, ROUTE], [&balancer, ""]] {
        assert_eq!(told(closed, &entrance), 1, "{entrance:?}");
        let open = format!("{closed}, {{ipBlock: {{cidr: 0.0.0.0/0}}}}");
        assert_eq!(told(&open, &entrance), 0, "{entrance:?}");
    }
    // Whatever serves an Ingress runs in some namespace; a balancer has an address outside.
    let forwarder =
        "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}";
    assert_eq!(told(forwarder, &[SERVICE, INGRESS]), 0);
    assert_eq!(told(closed, &[SERVICE]), 0);
}

#[test]
fn a_path_is_open_at_both_ends() {
    let web = about(
        "web",
        &format!(
            "policyTypes: [Egress],\negress: [{TO_DB}, {{ports: [{{protocol: UDP, port: 53}}]}}]"
        ),
    );
    let db = |from: &str, port: u16| {
        about(
            "db",
            &format!(
                "ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}], ports: [{{port: {port}}}]}}]"
            ),
        )
    };
    let told = |texts: &[&str]| lines(Code::HalfPath, texts);
    assert_eq!(told(&[&web, &db("api", 5432)]), [3]);
    assert_eq!(
        told(&[&web, &db("web", 80)]).len(),
        2,
        "each rule lets out what the other keeps"
    );
    assert_eq!(told(&[&web, &db("web", 5432)]), [0; 0]);
    // Nobody isolates the database, or who is let in is not known.
    assert_eq!(told(&[&web]), [0; 0]);
    assert_eq!(told(&[&web, &db("client", 5432)]), [0; 0]);
    let all = about("db", "ingress: [{ports: [{port: 5432}]}]");
    assert_eq!(told(&[&web, &all]), [0; 0]);
}

#[test]
fn blocks_that_nobody_can_mean_are_told() {
    let told = |direction: &str, peers: &str, cidr: &str| {
        let text = policy(&format!(
            "policyTypes: [Ingress, Egress], {direction}: [{{{peers}: [\n{{ipBlock: {{cidr: '{cidr}'}}}}]}}]"
        ));
        lines(Code::SenselessBlock, &[&text])
    };
    for cidr in [
        "0.0.0.0/32",
        "127.0.0.1/32",
        "127.0.0.0/8",
        "::1/128",
        "255.255.255.255/32",
    ] {
        assert_eq!(told("egress", "to", cidr), [3], "{cidr}");
    }
    for cidr in [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "169.254.169.254/32",
        "224.0.0.251/32",
        "ff02::fb/128",
        "::/0",
    ] {
        assert_eq!(told("egress", "to", cidr), [0; 0], "{cidr}");
    }
    assert_eq!(told("ingress", "from", "224.0.0.251/32"), [3]);
}
