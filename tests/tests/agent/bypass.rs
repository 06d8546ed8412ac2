//! Policy denies an endpoint nothing for a time, and then it does again.

use std::time::Duration;

use cofferdam_protocol::output::{BypassReport, RecordType, Severity};
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Conversation, Place};
use cofferdam_tests::world::Wiring;

use crate::scene::{DB_CLOSED, PORT, Scene, pause};

/// Web may send nothing.
const WEB_SILENT: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-silent, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
";

fn bypass(scene: &Scene, arguments: &[&str]) -> BypassReport {
    scene.agent.json(&[&["bypass"], arguments].concat())
}

/// Ids of the endpoints that `status` says are bypassed.
fn bypassed(scene: &Scene) -> Vec<String> {
    let endpoints = scene
        .agent
        .status()
        .endpoints
        .into_iter()
        .filter(|one| one.bypassed_until.is_some());
    endpoints.map(|one| one.called().to_owned()).collect()
}

#[test]
fn an_endpoint_is_open_until_somebody_ends_it() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let scene = Scene::enforced(wiring, DB_CLOSED);
        scene.assert_blocked("shop/web", "shop/db");
        scene.assert_blocked("shop/stranger", "shop/db");
        let report = bypass(&scene, &["shop/db"]);
        assert_eq!(report.endpoints.len(), 1);
        assert_eq!(report.endpoints[0].id, "shop/db/eth0");
        assert!(report.endpoints[0].until.is_some(), "{report:?}");
        scene.assert_reaches("shop/web", "shop/db");
        scene.assert_reaches("shop/stranger", "shop/db");
        assert_eq!(bypassed(&scene), ["shop/db/eth0"]);
        let status = scene.agent.status();
        assert!(status.enforced && status.ready, "{status:?}");
        let mut findings = status.diagnostics.iter();
        let told = findings.find(|one| one.message.contains("policy is bypassed"));
        assert_eq!(told.expect("it is said").severity, Severity::Warning);
        assert!(scene.agent.log().contains("policy is bypassed"));
        let (_, metrics) = scene.agent.http("/metrics");
        assert!(metrics.contains("\ncofferdam_endpoints_bypassed 1\n"));
        assert!(metrics.contains("reason=\"bypassed\""), "{metrics}");
        // What policy would have denied is told of.
        scene.agent.sync();
        let records = scene.agent.records();
        let would = records.iter().any(|one| {
            one.kind == RecordType::Audit && one.destination.workload.as_deref() == Some("db")
        });
        assert!(would, "{records:?}");
        // A table of another revision changes nothing; an open connection ends with it.
        scene.agent.document("more.yaml", WEB_SILENT);
        assert!(scene.agent.sync().enforced);
        scene.assert_reaches("shop/stranger", "shop/db");
        scene.assert_blocked("shop/web", "shop/db");
        scene.agent.remove_document("more.yaml");
        assert!(scene.agent.sync().enforced);
        let to = Place::from(scene.workload("shop/db")).ip(Family::V4);
        let patience = Duration::from_secs(5);
        let web = scene.workload("shop/web");
        let mut conversation = Conversation::tcp(web, to, PORT, patience).expect("it is open");
        conversation
            .exchange(b"first", patience)
            .expect("an answer");
        let report = bypass(&scene, &["shop/db/eth0", "--end"]);
        assert_eq!(report.endpoints[0].until, None);
        let short = Duration::from_millis(500);
        conversation
            .exchange(b"second", short)
            .expect_err("policy counts again");
        scene.assert_blocked("shop/web", "shop/db");
        assert!(bypassed(&scene).is_empty());
        assert_eq!(scene.agent.status().tamper_events, 0);
    }
}

/// An agent that is dead closes nothing: the time is over all the same.
#[test]
fn the_time_is_over_without_an_agent() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    bypass(&scene, &["--for", "3s"]);
    assert_eq!(bypassed(&scene).len(), 2);
    scene.agent.kill();
    scene.assert_reaches("shop/web", "shop/db");
    pause(Duration::from_secs(3));
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.start_enforced();
    scene.assert_blocked("shop/web", "shop/db");
    assert!(bypassed(&scene).is_empty());
}

#[test]
fn the_next_agent_takes_it_up_and_ends_it() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Bridge, DB_CLOSED);
    bypass(&scene, &["shop/db", "--for", "4s"]);
    scene.agent.kill();
    scene.agent.start_enforced();
    assert_eq!(bypassed(&scene), ["shop/db/eth0"]);
    // Another description in place changes nothing about it.
    scene
        .agent
        .add(scene.workload("shop/db"), &["app=db", "more=yes"]);
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.wait_until("over", |status| {
        status
            .endpoints
            .iter()
            .all(|one| one.bypassed_until.is_none())
    });
    scene.assert_blocked("shop/web", "shop/db");
    // A container that comes in its place is not open.
    bypass(&scene, &["shop/db", "--for", "1h"]);
    scene.agent.remove("shop/db");
    scene.agent.add(scene.workload("shop/db"), &["app=db"]);
    assert!(bypassed(&scene).is_empty());
    scene.assert_blocked("shop/web", "shop/db");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    for (arguments, status, said) in [
        (vec!["bypass", "shop/bd"], 1, "no endpoint shop/bd"),
        (vec!["bypass", "--for", "25h"], 1, "24h"),
        (vec!["bypass", "--for", "1h", "--end"], 2, "--end"),
        (vec!["bypass", "--for", "10"], 2, "--for"),
    ] {
        let output = scene.agent.cli(&arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {told}");
        assert!(told.contains(said), "{told}");
    }
    assert!(bypassed(&scene).is_empty());
    scene.assert_blocked("shop/web", "shop/db");
}
