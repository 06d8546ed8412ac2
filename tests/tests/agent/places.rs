//! Pods of other nodes come, go and turn into others in the table that is in force.

use std::time::Duration;

use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Conversation, Probe, probe};
use serde_json::json;

use super::kubernetes::{Cluster, PATIENCE};
use super::scene::{DB_FROM_WEB, PORT};

/// Time that what should be blocked is given to get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(300);

/// A cluster in which the table in force knows pods of other nodes like `web`, and others.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.server.apply(DB_FROM_WEB);
    put(&cluster, "first", "web", &["10.200.0.1", "fd00:200::1"]);
    put(&cluster, "second", "other", &["10.200.0.2", "fd00:200::2"]);
    cluster.scene.agent.start_enforced();
    cluster.added("db");
    cluster.added("web");
    assert!(cluster.scene.agent.sync().enforced);
    cluster
}

/// Makes a pod of another node, or changes it.
fn put(cluster: &Cluster, name: &str, app: &str, addresses: &[&str]) {
    let all: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    cluster.server.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": "n2", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": all},
    }));
}

/// Makes a pod of another node that has the addresses of a workload of nobody's.
fn put_far(cluster: &Cluster, name: &str, app: &str) {
    let far = cluster.scene.workload("shop/stranger");
    let addresses = Family::BOTH.map(|family| far.ip(family).to_string());
    put(
        cluster,
        name,
        app,
        &addresses.each_ref().map(String::as_str),
    );
}

/// Returns `true` if that workload reaches the database.
fn is_open(cluster: &Cluster) -> bool {
    let db = cluster.scene.workload("shop/db").ip(Family::V4);
    let far = cluster.scene.workload("shop/stranger");
    let outcome = probe(far, db, Probe::Tcp(PORT), UNTIL_BLOCKED).expect("a probe");
    outcome.is_reached()
}

/// A connection of that workload's to the database.
fn connected(cluster: &Cluster) -> Conversation {
    let db = cluster.scene.workload("shop/db").ip(Family::V4);
    let far = cluster.scene.workload("shop/stranger");
    let mut open = Conversation::tcp(far, db, PORT, PATIENCE).expect("allowed");
    open.exchange(b"before", PATIENCE).expect("allowed");
    open
}

/// Fails if the table in force is another one, or the kernel has not what it was given.
#[track_caller]
fn assert_same_table(cluster: &Cluster, revision: u64) {
    let agent = &cluster.scene.agent;
    for report in [agent.status(), {
        agent.sync();
        agent.status()
    }] {
        assert!(report.enforced, "{report:?}");
        assert_eq!(report.revision, revision, "{}", agent.log());
        assert_eq!(report.tamper_events, 0, "{}", agent.log());
    }
}

#[test]
fn a_pod_elsewhere_that_is_like_others_comes_and_goes_without_a_table() {
    skip_unless!(Feature::NetworkNamespaces);
    let cluster = cluster();
    let revision = cluster.scene.agent.status().revision;
    assert!(!is_open(&cluster));
    for _ in 0..2 {
        put_far(&cluster, "far", "web");
        cluster.eventually("open to the pod", || is_open(&cluster));
        let mut open = connected(&cluster);
        assert_same_table(&cluster, revision);
        cluster.server.delete("Pod", "shop", "far");
        cluster.eventually("closed behind the pod", || !is_open(&cluster));
        let answer = open.exchange(b"after", UNTIL_BLOCKED);
        assert!(answer.is_err(), "the pod has gone");
        assert_same_table(&cluster, revision);
    }
    // A kind that nobody else is waits for a table, and those beside it do not suffer.
    put(&cluster, "strange", "db", &["10.200.0.3"]);
    put_far(&cluster, "far", "web");
    cluster.eventually("open to the pod", || is_open(&cluster));
    let report = cluster.scene.agent.sync();
    assert!(report.enforced && report.revision > revision, "{report:?}");
    assert!(is_open(&cluster));
}

#[test]
fn a_pod_elsewhere_that_is_relabelled_is_judged_by_its_new_labels() {
    skip_unless!(Feature::NetworkNamespaces);
    let cluster = cluster();
    put_far(&cluster, "far", "web");
    cluster.eventually("open to the pod", || is_open(&cluster));
    let revision = cluster.scene.agent.sync().revision;
    let mut open = connected(&cluster);
    put_far(&cluster, "far", "other");
    cluster.eventually("closed to another kind", || !is_open(&cluster));
    let answer = open.exchange(b"after", UNTIL_BLOCKED);
    assert!(answer.is_err(), "it is another kind now");
    assert_same_table(&cluster, revision);
    put_far(&cluster, "far", "web");
    cluster.eventually("open again", || is_open(&cluster));
    assert_same_table(&cluster, revision);
}

#[test]
fn an_address_elsewhere_is_judged_by_the_labels_of_the_pod_that_has_it_now() {
    skip_unless!(Feature::NetworkNamespaces);
    let cluster = cluster();
    put_far(&cluster, "far", "web");
    cluster.eventually("open to the pod", || is_open(&cluster));
    let revision = cluster.scene.agent.sync().revision;
    let mut open = connected(&cluster);
    cluster.server.delete("Pod", "shop", "far");
    put_far(&cluster, "next", "other");
    assert!(cluster.scene.agent.sync().enforced);
    let answer = open.exchange(b"after", UNTIL_BLOCKED);
    assert!(answer.is_err(), "the address is another pod's");
    assert!(!is_open(&cluster));
    assert_same_table(&cluster, revision);
    let records = cluster.scene.agent.records();
    let denied = (records.iter()).filter(|one| one.destination.port == Some(PORT));
    let names: Vec<_> = denied.map(|one| one.source.workload.as_deref()).collect();
    assert!(names.contains(&Some("next")), "{names:?}");
    // And one like the first again.
    cluster.server.delete("Pod", "shop", "next");
    put_far(&cluster, "last", "web");
    cluster.eventually("open to the last", || is_open(&cluster));
    assert_same_table(&cluster, revision);
}
