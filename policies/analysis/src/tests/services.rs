//! Blocks that are Services' addresses, and Services that lead to nobody.

use super::*;

fn codes(texts: &[&str]) -> Vec<Code> {
    findings(texts).iter().map(|one| one.code).collect()
}

/// A policy for egress of the database.
fn egress(rules: &str) -> String {
    policy(&format!(
        "podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Egress], egress: [{rules}]"
    ))
}

const BLOCK: &str = "{to: [{ipBlock: {cidr: 10.96.0.7/32}}], ports: [{port: 80}]}";

#[test]
fn a_block_of_a_service_is_told_only_where_the_pods_behind_it_are_not_allowed() {
    let found = |rules: &str| codes(&[&egress(rules), WORLD, CLOSED]);
    assert_eq!(found(BLOCK), [Code::ServiceAddress]);
    let beside = |rule: &str| found(&format!("{BLOCK}, {rule}"));
    let pods = "to: [{podSelector: {matchLabels: {app: web}}}]";
    assert_eq!(beside(&format!("{{{pods}}}")), []);
    assert_eq!(beside(&format!("{{{pods}, ports: [{{port: 8080}}]}}")), []);
    assert_eq!(beside(&format!("{{{pods}, ports: [{{port: http}}]}}")), []);
    // Their port, not the Service's, is what counts; that is told of by itself.
    let other = beside(&format!("{{{pods}, ports: [{{port: 80}}]}}"));
    assert_eq!(other, [Code::ServiceAddress, Code::ServicePort]);
    let other = beside(&format!("{{{pods}, ports: [{{port: 81}}]}}"));
    assert_eq!(other, [Code::ServiceAddress]);
    // Blocks of their addresses are as good.
    let block = beside("{to: [{ipBlock: {cidr: 10.0.0.0/31}}]}");
    assert_eq!(block, [Code::BlockCoversWorkloads]);
}

#[test]
fn a_range_of_services_addresses_is_no_mistake() {
    let range = "{to: [{ipBlock: {cidr: 10.96.0.0/12}}], ports: [{port: 80}]}";
    assert_eq!(codes(&[&egress(range), WORLD, CLOSED]), []);
}

#[test]
fn nothing_is_told_of_who_is_not_known() {
    let slices = "---
{apiVersion: v1, kind: Service, metadata: {name: out, namespace: x}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}
";
    let world = format!("{WORLD}{slices}");
    let block = BLOCK.replace("10.96.0.7", "10.96.0.9");
    assert_eq!(codes(&[&egress(&block), &world, CLOSED]), []);
    // A Service that cannot be read may be who is behind it.
    let broken =
        "{apiVersion: v1, kind: Service, metadata: {name: b, namespace: x}, spec: {clusterIP: x}}";
    let (errors, found) = errors_and_findings(&[&egress(BLOCK), WORLD, CLOSED, broken]);
    assert_eq!((errors.len(), found.len()), (1, 0));
}

#[test]
fn a_service_that_selects_nobody_is_told_where_there_are_workloads() {
    let with = |rest: &str| codes(&[rest, WORLD, CLOSED]);
    let nobody = service("selector: {app: wbe}");
    assert_eq!(with(&nobody), [Code::ServiceEmpty]);
    let elsewhere = nobody.replace("namespace: x", "namespace: z");
    assert_eq!(with(&elsewhere), []);
    let slice = "\n---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, namespace: x, labels: {kubernetes.io/service-name: s}}, addressType: IPv4}";
    assert_eq!(with(&format!("{nobody}{slice}")), []);
    let host = service("selector: {app: proxy}").replace("namespace: x", "namespace: y");
    assert_eq!(with(&host), [], "its node's network is its own");
    let made = "\n---\n{apiVersion: a.example/v1, kind: Web, metadata: {name: w, namespace: x, labels: {app: wbe}}}";
    assert_eq!(with(&format!("{nobody}{made}")), []);
    assert_eq!(
        with(&service("type: ExternalName, selector: {app: wbe}")),
        []
    );
    assert_eq!(with(&service("clusterIP: 10.96.0.1")), []);
}

/// A Service leads to those of its workloads that have the port.
#[test]
fn a_port_that_some_workload_has_is_no_mistake() {
    let more = "---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: x, labels: {app: web, also: bare}}, spec: {containers: [{name: c}]}}
";
    let world = format!("{WORLD}{more}");
    let found = |name: &str| {
        let spec = format!("selector: {{app: web}}, ports: [{{port: 1, targetPort: {name}}}]");
        codes(&[&service(&spec), &world, CLOSED])
    };
    assert_eq!(found("http"), []);
    assert_eq!(found("htpt"), [Code::ServiceTarget]);
}

#[test]
fn the_hint_names_what_was_probably_meant() {
    let hint = |spec: &str| {
        let found = findings(&[&service(spec), WORLD, CLOSED]);
        found[0].hint.clone().unwrap_or_default()
    };
    assert_eq!(hint("selector: {app: wbe}"), "did you mean `app: web`?");
    let ports = "selector: {app: web}, ports: [{port: 1, targetPort: ";
    assert_eq!(hint(&format!("{ports}htpt}}]")), "did you mean `http`?");
    assert_eq!(
        hint(&format!("{ports}dns}}]")),
        "it is one of UDP: did you mean that?"
    );
}

/// Hooks cannot tell whom a packet to such an address is for.
#[test]
fn a_service_with_a_workloads_address_is_told() {
    let found = |spec: &str| {
        let found = findings(&[&service(spec), WORLD, CLOSED]);
        let places = found.iter().map(|one| {
            let place = (one.place.line, one.place.column);
            (place, one.code)
        });
        places.collect::<Vec<_>>()
    };
    let told = |column| [((1, column), Code::AddressConflict)];
    assert_eq!(found("externalIPs: [10.0.0.2]"), told(75));
    assert_eq!(found("clusterIP: 10.0.0.2"), told(75));
    // A node's address, nobody's, or a family that is not served.
    assert_eq!(found("externalIPs: [192.168.0.1, 192.0.2.1]"), []);
    assert_eq!(found("clusterIP: 10.96.0.1, externalIPs: ['fd00::2']"), []);
    assert_eq!(found("clusterIP: None, externalIPs: [10.0.0.2]"), []);
}
