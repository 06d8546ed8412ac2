//! Backends of Services, by their documents.

use cofferdam_documents::{assemble, parse};
use cofferdam_inventory::services::{Backend, Services};
use cofferdam_inventory::{ObjectName, Protocol};
use cofferdam_verdict::address::Family;

const PODS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: 'fd00:2::1'}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: api, zone: east}}
spec: {containers: [{ports: [{name: http, containerPort: 9000, protocol: UDP}, {name: http, containerPort: 8080}]}, {ports: [{name: http, containerPort: 8000}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}, {ip: 10.0.0.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x, labels: {app: api}}
spec: {containers: [{ports: [{name: http, containerPort: 8081}]}]}
status: {podIP: 10.0.0.2}
---
{apiVersion: v1, kind: Pod, metadata: {name: no-name, namespace: x, labels: {app: api}}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: ended, namespace: x, labels: {app: api}}, status: {podIP: 10.0.0.4, phase: Succeeded}}
---
{apiVersion: v1, kind: Pod, metadata: {name: waiting, namespace: x, labels: {app: api}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: elsewhere, namespace: y, labels: {app: api}}, status: {podIP: 10.0.0.5}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: x, labels: {app: host}}, spec: {nodeName: n1, hostNetwork: true}}
";

fn services(text: &str) -> Services {
    let parsed = parse("s.yaml", format!("{PODS}---\n{text}").as_bytes());
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    let assembled = assemble(parsed.documents);
    assert!(assembled.rejected.is_empty());
    Services::new(&assembled.inventory)
}

fn shown(backends: Vec<Backend>) -> Vec<String> {
    let shown = backends.into_iter().map(|backend| {
        let port = backend
            .port
            .map_or("any".to_owned(), |port| port.to_string());
        format!("{} {port}", backend.address)
    });
    shown.collect()
}

/// The ends of a connection to an address and TCP port.
fn to(services: &Services, address: &str, port: u16) -> Option<Vec<String>> {
    let found = services.translate(address.parse().unwrap(), Some((Protocol::Tcp, port)));
    found.map(shown)
}

fn some(backends: &[&str]) -> Option<Vec<String>> {
    Some(backends.iter().map(|one| (*one).to_owned()).collect())
}

const API: &str = "apiVersion: v1
kind: Service
metadata: {name: api, namespace: x}
spec:
  type: NodePort
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  externalIPs: [192.0.2.1, 198.51.100.1]
  selector: {app: api}
  ports: [{name: web, port: 80, targetPort: http, nodePort: 30080}, {name: raw, port: 81, targetPort: 9999}]
";

#[test]
fn a_named_target_is_each_pods_own_number() {
    let services = services(API);
    // The container's first of that name and protocol; who has none is not behind it.
    let web = some(&["10.0.0.1 8080", "10.0.0.2 8081"]);
    assert_eq!(to(&services, "10.96.0.1", 80), web);
    assert_eq!(
        to(&services, "10.96.0.1", 81),
        some(&["10.0.0.1 9999", "10.0.0.2 9999", "10.0.0.3 9999"])
    );
    assert_eq!(to(&services, "fd00:96::1", 80), some(&["fd00::1 8080"]));
}

#[test]
fn other_addresses_lead_there_too() {
    let services = services(API);
    let web = some(&["10.0.0.1 8080", "10.0.0.2 8081"]);
    assert_eq!(to(&services, "198.51.100.1", 80), web);
    // An external address that is a node's, and the port of every node.
    assert_eq!(to(&services, "192.0.2.1", 80), web);
    assert_eq!(to(&services, "192.0.2.1", 30080), web);
    assert_eq!(to(&services, "fd00:2::1", 30080), some(&["fd00::1 8080"]));
    // Other ports of the node are the node's own, other ports of the Service nobody's.
    assert_eq!(to(&services, "192.0.2.1", 22), None);
    assert_eq!(to(&services, "fd00:2::1", 80), None);
    assert_eq!(to(&services, "10.96.0.1", 30080), some(&[]));
    assert_eq!(to(&services, "10.0.0.1", 80), None, "a pod's own address");
    let address = "10.96.0.1".parse().unwrap();
    assert_eq!(
        services.translate(address, None),
        Some(Vec::new()),
        "a ping"
    );
    let udp = services.translate(address, Some((Protocol::Udp, 80)));
    assert_eq!(udp, Some(Vec::new()));
}

#[test]
fn slices_say_who_is_behind_a_service_instead_of_labels() {
    let slice = |name: &str, rest: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, \
             namespace: x, labels: {{kubernetes.io/service-name: api}}}}\n{rest}\n"
        )
    };
    let of = |slices: &[String]| {
        to(
            &services(&(API.to_owned() + &slices.concat())),
            "10.96.0.1",
            80,
        )
    };
    let ports = "addressType: IPv4\nports: [{name: web, port: 7000}, {name: web, port: 7001, protocol: UDP}, {name: raw, port: 7002}]\n";
    let ready = slice(
        "s1",
        &format!(
            "{ports}endpoints: [{{addresses: [203.0.113.1, 203.0.113.2]}}, {{addresses: [10.0.0.1], conditions: {{ready: false}}}}]"
        ),
    );
    assert_eq!(
        of(std::slice::from_ref(&ready)),
        some(&["203.0.113.1 7000"])
    );
    let draining = slice(
        "s2",
        &format!(
            "{ports}endpoints: [{{addresses: [203.0.113.3], conditions: {{ready: false, serving: true, terminating: true}}}}, {{addresses: [203.0.113.4], conditions: {{ready: false, serving: false, terminating: true}}}}]"
        ),
    );
    assert_eq!(
        of(&[ready.clone(), draining.clone()]),
        some(&["203.0.113.1 7000"])
    );
    assert_eq!(
        of(&[draining]),
        some(&["203.0.113.3 7000"]),
        "nothing else is ready"
    );
    let again = slice(
        "s3",
        &format!("{ports}endpoints: [{{addresses: [203.0.113.1]}}]"),
    );
    assert_eq!(of(&[ready, again]), some(&["203.0.113.1 7000"]), "once");
    // Of another family alone, and of other ports: nobody is here.
    assert_eq!(
        of(&[slice(
            "s4",
            "addressType: IPv6\nports: [{name: web, port: 1}]\nendpoints: [{addresses: ['fd00::7']}]"
        )]),
        some(&[])
    );
    assert_eq!(
        of(&[slice(
            "s5",
            "addressType: IPv4\nports: [{port: 1}]\nendpoints: [{addresses: [10.0.0.1]}]"
        )]),
        some(&[])
    );
    // A Service's name in another namespace is another's.
    let foreign = slice("s6", "addressType: IPv4").replace("namespace: x", "namespace: y");
    assert_eq!(of(&[foreign]).map(|all| all.len()), Some(2));
}

#[test]
fn a_headless_service_is_the_addresses_behind_it() {
    let text = API
        .replace("clusterIPs: [10.96.0.1, 'fd00:96::1']", "clusterIP: None")
        .replace("  type: NodePort\n", "");
    let services = services(&text);
    assert!(services.is_empty(), "nothing is translated");
    assert_eq!(to(&services, "192.0.2.1", 30080), None);
    let name = ObjectName::new("x", "api");
    let api = &services.inventory().services()[&name];
    assert_eq!(
        shown(services.members(api, Family::V4)),
        ["10.0.0.1 any", "10.0.0.2 any", "10.0.0.3 any"]
    );
    assert_eq!(shown(services.members(api, Family::V6)), ["fd00::1 any"]);
}

#[test]
fn some_services_have_nobody_behind_them() {
    let services = services(
        "
{apiVersion: v1, kind: Service, metadata: {name: none, namespace: x}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: named, namespace: x}, spec: {type: ExternalName, externalIPs: [198.51.100.9], selector: {app: api}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: both, namespace: x}, spec: {clusterIP: 10.96.0.3, selector: {app: api, zone: west}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: far, namespace: z}, spec: {clusterIP: 10.96.0.4, selector: {app: api}, ports: [{port: 80}]}}
",
    );
    for address in ["10.96.0.2", "10.96.0.3", "10.96.0.4"] {
        assert_eq!(to(&services, address, 80), some(&[]), "{address}");
    }
    assert_eq!(to(&services, "198.51.100.9", 80), None);
}

#[test]
fn a_pod_on_its_nodes_network_is_behind_a_service_by_the_nodes_address() {
    let services = services(
        "{apiVersion: v1, kind: Service, metadata: {name: h, namespace: x}, spec: {clusterIP: 10.96.0.2, selector: {app: host}, ports: [{port: 80}]}}\n",
    );
    assert_eq!(to(&services, "10.96.0.2", 80), some(&["192.0.2.1 80"]));
}

#[test]
fn two_services_at_one_address_are_both_meant() {
    let other = |port: u16| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: other, namespace: y}}, spec: {{clusterIP: 10.96.0.9, externalIPs: [198.51.100.1], selector: {{app: api}}, ports: [{{port: {port}}}]}}}}\n"
        )
    };
    let services = |port| services(&(API.to_owned() + &other(port)));
    assert_eq!(
        to(&services(443), "198.51.100.1", 443),
        some(&["10.0.0.5 443"])
    );
    assert_eq!(
        to(&services(443), "198.51.100.1", 80).map(|all| all.len()),
        Some(2)
    );
    assert_eq!(
        to(&services(80), "198.51.100.1", 80).map(|all| all.len()),
        Some(3)
    );
}
