//! Addresses that an endpoint may have, and those that are the node's.

use std::process::Command;

use cofferdam_protocol::output::EndpointReport;
use cofferdam_tests::packet::{End, Family};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Place, Probe, Server, probe};
use cofferdam_tests::world::Wiring;

use super::scene::{DB_FROM_WEB, PORT, Scene};

/// Addresses that others have by documents: a workload here or elsewhere, another node,
/// this node.
const OTHERS: &str = "\
---
apiVersion: v1
kind: Pod
metadata: {name: remote, namespace: shop}
spec: {nodeName: n2}
status: {podIPs: [{ip: 10.77.0.1}, {ip: 'fd77::1'}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 10.77.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.77.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.77.0.4}]}
";

/// Each of those addresses, and words that say whose it is.
const TAKEN: [(&str, &str); 5] = [
    ("10.77.0.1", "workload shop/remote"),
    ("fd77::1", "workload shop/remote"),
    ("10.77.0.2", "node n2"),
    ("10.77.0.3", "node's own"),
    ("10.64.0.3", "shop/db/eth0"),
];

fn scene() -> Scene {
    Scene::enforced(Wiring::Bridge, &format!("{DB_FROM_WEB}{OTHERS}"))
}

fn endpoint(scene: &Scene, id: &str) -> EndpointReport {
    let mut all = scene.agent.endpoints().into_iter();
    all.find(|one| one.called() == id).expect("it is listed")
}

fn assert_refused(scene: &Scene, workload: &str, more: &[&str], why: &str) {
    let workload = scene.workload(workload);
    let output = scene.agent.add_as(workload, &workload.name, more);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(why), "{told}");
}

#[test]
fn a_workload_that_changes_its_addresses_has_those_it_had_when_it_was_added() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene();
    let web = scene.workload("shop/web");
    let before = endpoint(&scene, "shop/web/eth0");
    // An address of a workload elsewhere, and one that is nobody's.
    for address in ["10.77.0.1", "10.64.9.9"] {
        let address: std::net::Ipv4Addr = address.parse().expect("an address");
        let added = web.namespace.add_address("eth0", address, 16);
        added.expect("any address can be added");
    }
    let again = scene.agent.add(web, &["app=web"]);
    assert_eq!(again.addresses, before.addresses);
    // What was given counts as what was found.
    let added = scene
        .agent
        .add_as(web, "shop/web", &["--address", "10.64.0.2"]);
    assert!(added.status.success(), "{added:?}");
    let again = scene.agent.add(web, &["app=web"]);
    assert_eq!(
        again.addresses,
        ["10.64.0.2".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn a_workload_that_changes_its_mac_is_the_same_with_the_old_one() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene();
    let web = scene.workload("shop/web");
    let before = endpoint(&scene, "shop/web/eth0");
    let changed = web.namespace.run(|| {
        let ip = ["link", "set", "eth0", "address", "02:00:00:00:00:99"];
        Command::new("ip").args(ip).status()
    });
    assert!(changed.expect("ip is there").success());
    let again = scene.agent.add(web, &["app=web"]);
    assert_eq!(again.mac, before.mac);
    assert_eq!(scene.agent.endpoints().len(), 2);
}

#[test]
fn addresses_of_others_are_refused_whoever_gives_them() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene();
    for (address, why) in TAKEN {
        let given = ["--address", address];
        assert_refused(&scene, "shop/web", &given, why);
        assert_refused(&scene, "shop/stranger", &given, why);
    }
    // Its own document is no other's.
    let web = scene.workload("shop/web");
    let added = scene
        .agent
        .add_as(web, "shop/web", &["--address", "10.77.0.4"]);
    assert!(added.status.success(), "{added:?}");
    // Those that stand on an interface when it is added for the first time.
    let stranger = scene.workload("shop/stranger");
    let address: std::net::Ipv4Addr = "10.77.0.1".parse().expect("an address");
    let added = stranger.namespace.add_address("eth0", address, 16);
    added.expect("any address can be added");
    assert_refused(&scene, "shop/stranger", &[], "workload shop/remote");
    assert_eq!(scene.agent.endpoints().len(), 2);
}

#[test]
fn an_address_that_no_document_claims_any_more_is_free() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Bridge, DB_FROM_WEB);
    scene
        .agent
        .document("more.yaml", OTHERS.strip_prefix("---").expect("it has"));
    scene.agent.sync();
    assert_refused(
        &scene,
        "shop/stranger",
        &["--address", "10.77.0.1"],
        "workload shop/remote",
    );
    scene.agent.remove_document("more.yaml");
    scene.agent.sync();
    let stranger = scene.workload("shop/stranger");
    let added = scene
        .agent
        .add_as(stranger, "shop/stranger", &["--address", "10.77.0.1"]);
    assert!(added.status.success(), "{added:?}");
}

/// Everything but nodes is closed to `app: web`.
const ONLY_NODES: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: only-nodes}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - {action: Accept, to: [{nodes: {}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}
";

/// This node has the address by its document.
const NAMED: &str = "\
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.96.0.10}]}
";

#[test]
fn a_service_address_on_the_node_is_not_the_nodes_unless_it_is_named() {
    skip_unless!(Feature::NetworkNamespaces);
    let virtual_address: std::net::Ipv4Addr = "10.96.0.10".parse().expect("an address");
    for is_named in [false, true] {
        let scene = Scene::new(Wiring::Ptp);
        let node = scene.world.node();
        let namespace = node.namespace.try_clone().expect("a descriptor");
        let added = namespace.add_address("lo", virtual_address, 32);
        added.expect("the loopback interface takes any address");
        let own_address = Place::from(node).ip(Family::V4);
        let _servers = [node.end, End::from(virtual_address)].map(|end| {
            let place = Place {
                name: "node",
                namespace: &namespace,
                end,
            };
            Server::start(place, &[Probe::Tcp(PORT)]).expect("a server")
        });
        let document = if is_named { NAMED } else { "" };
        let scene = scene.in_force(&format!("{ONLY_NODES}{document}"));
        let web = scene.workload("shop/web");
        let reaches = |address| {
            let patience = std::time::Duration::from_millis(500);
            let outcome = probe(web, address, Probe::Tcp(PORT), patience);
            outcome.expect("a probe").is_reached()
        };
        assert!(reaches(own_address));
        assert_eq!(reaches(virtual_address.into()), is_named);
        let why = if is_named {
            "node's own"
        } else {
            "interface lo"
        };
        assert_refused(&scene, "shop/stranger", &["--address", "10.96.0.10"], why);
    }
}
