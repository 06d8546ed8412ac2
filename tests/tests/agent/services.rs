//! Services in an agent's documents: what is known of their backends is in force at once.

use std::time::Duration;

use cofferdam_protocol::output::StatusReport;
use cofferdam_tests::evasions::tool;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Probe, probe};
use cofferdam_tests::world::Wiring;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Direction;

use super::scene::{PORT, Scene};

const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which a blocked connection is given up.
const SILENCE: Duration = Duration::from_millis(300);

/// Translates the Service's address to the database's, as a proxy of one backend does.
const TO_DB: &str = "\
table inet services {
    chain in {
        type nat hook prerouting priority dstnat
        ip daddr 10.99.0.1 tcp dport 80 dnat ip to 10.64.0.3:5432
    }
    chain out {
        type nat hook postrouting priority srcnat
        ct status dnat masquerade
    }
}
";

/// Web may connect to the database and nowhere else; nobody may connect to strangers.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{protocol: TCP, port: 5432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: stranger-in, namespace: shop}
spec:
  podSelector: {matchLabels: {app: stranger}}
  policyTypes: [Ingress]
";

fn service(selector: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec:
  clusterIP: 10.99.0.1
  {selector}
  ports: [{{protocol: TCP, port: 80, targetPort: {PORT}}}]
"
    )
}

/// Endpoints of the Service, by address.
fn slice(addresses: &[&str]) -> String {
    let endpoints: String = addresses
        .iter()
        .map(|address| format!("- {{addresses: [{address}], conditions: {{ready: true}}}}\n"))
        .collect();
    let endpoints = match endpoints.is_empty() {
        true => "endpoints: []\n".to_owned(),
        false => format!("endpoints:\n{endpoints}"),
    };
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: db-1, namespace: shop, labels: {{kubernetes.io/service-name: db}}}}
addressType: IPv4
ports: [{{protocol: TCP, port: {PORT}}}]
{endpoints}"
    )
}

/// Returns `true` if web reaches the database through the Service.
fn reaches(scene: &Scene, expected: bool) -> bool {
    let address = "10.99.0.1".parse().expect("an address");
    let patience = if expected { PATIENCE } else { SILENCE };
    let outcome = probe(
        scene.workload("shop/web"),
        address,
        Probe::Tcp(80),
        patience,
    );
    outcome.expect("a socket").is_reached()
}

/// A shop whose node translates the Service's address.
fn shop() -> Scene {
    let scene = Scene::new(Wiring::Ptp);
    let node = &scene.world.node().namespace;
    tool::run(node, "nft", &["-f", "-"], TO_DB);
    scene
}

/// Puts what has been done to the documents in force; it takes another table.
#[track_caller]
fn change(scene: &Scene, what: impl FnOnce()) {
    let before = scene.agent.status().revision;
    what();
    let report = scene.agent.sync();
    assert!(report.enforced && report.rejected == 0, "{report:?}");
    assert!(report.revision > before, "{report:?}");
}

#[test]
fn a_service_is_judged_by_its_backends() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = shop().in_force(POLICIES);
    (scene.agent).add(scene.workload("shop/stranger"), &["app=stranger"]);
    assert!(!reaches(&scene, false), "an outside address like any other");

    change(&scene, || {
        scene
            .agent
            .document("service.yaml", &service("selector: {app: db}"))
    });
    assert!(reaches(&scene, true));

    // Slices say who is behind it, whatever the selector does.
    change(&scene, || {
        scene.agent.document("slice.yaml", &slice(&["10.64.0.4"]))
    });
    assert!(!reaches(&scene, false), "the stranger alone");
    let records = scene.agent.records();
    let last = records.last().expect("a record of what was dropped");
    let address = last.destination.address.map(|address| address.to_string());
    assert_eq!(address.as_deref(), Some("10.99.0.1"), "{last:?}");
    assert_eq!(last.direction, Direction::Egress, "{last:?}");

    change(&scene, || {
        scene
            .agent
            .document("slice.yaml", &slice(&["10.64.0.4", "10.64.0.3"]))
    });
    assert!(reaches(&scene, true), "the backend's hook decides");

    // That is the same to the sender's hook: no other table is needed.
    scene.agent.document("slice.yaml", &slice(&[]));
    assert!(scene.agent.sync().enforced);
    assert!(
        reaches(&scene, true),
        "nobody is known: the backend's hook decides"
    );

    change(&scene, || {
        scene.agent.remove_document("slice.yaml");
        scene.agent.remove_document("service.yaml");
    });
    assert!(!reaches(&scene, false), "an outside address again");
}

/// Nothing sees what is translated to the node's own address, so that a Service which leads
/// there, too, is denied to workloads that may not reach the node; the status says so.
#[test]
fn a_backend_that_no_hook_sees_closes_the_service_to_some() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = shop();
    scene
        .agent
        .document("service.yaml", &service("selector: {}"));
    scene
        .agent
        .document("slice.yaml", &slice(&["10.64.0.3", "10.64.0.1"]));
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: \
                InternalIP, address: 10.64.0.1}]}\n";
    scene.agent.document("node.yaml", node);
    let scene = scene.in_force(POLICIES);
    assert!(!reaches(&scene, false), "the node would not be asked");
    let status = scene.agent.status();
    let unseen = |status: &StatusReport| {
        let all = status.diagnostics.iter();
        all.filter(|one| one.code == "CD0404" && one.message.contains("tcp/80 of 10.99.0.1"))
            .count()
    };
    assert_eq!(unseen(&status), 1, "{:?}", status.diagnostics);
    let records = scene.agent.records();
    let last = records.last().expect("a record of what was dropped");
    assert_eq!(last.reason, Reason::VirtualUndecided, "{last:?}");
    change(&scene, || {
        scene.agent.document("slice.yaml", &slice(&["10.64.0.3"]));
    });
    assert!(reaches(&scene, true));
    assert_eq!(unseen(&scene.agent.status()), 0);
}

/// A table that has room for one more workload like others knows nothing of its Services.
#[test]
fn a_late_backend_opens_its_service() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = shop();
    scene
        .agent
        .document("service.yaml", &service("selector: {behind: service}"));
    let mut scene = scene.in_force(POLICIES);
    (scene.agent).add(
        scene.workload("shop/stranger"),
        &["app=stranger", "behind=service"],
    );
    assert!(!reaches(&scene, false), "the stranger alone");
    // The database was there before; it is behind the Service from now on.
    let db = scene.workload("shop/db");
    scene.agent.add(db, &["app=db", "behind=service"]);
    assert!(reaches(&scene, true), "one of two");
    scene.agent.kill();
    assert!(reaches(&scene, true), "with the agent dead");
    let status: StatusReport = scene.agent.start_enforced();
    assert!(status.enforced);
    assert!(reaches(&scene, true), "with another agent");
}
