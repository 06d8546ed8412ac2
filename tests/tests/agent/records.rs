//! Denied packets as they are told of.

use std::process::{Command, Stdio};

use cofferdam_controller::output::FlowRecord;
use cofferdam_tests::cofferdam;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;

use super::scene::{DB_CLOSED, PORT, Scene};

#[test]
fn a_denied_packet_is_told_of_with_names_and_the_policy_that_isolates() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let denied = |record: &&FlowRecord| record.destination.port == Some(PORT);
    let records = scene.agent.records();
    let records: Vec<&FlowRecord> = records.iter().filter(denied).collect();
    assert!(!records.is_empty(), "{}", scene.agent.log());
    let revision = scene.agent.status().revision;
    for record in &records {
        assert_eq!(record.kind, "denied");
        assert_eq!(
            (record.verdict.as_str(), record.reason.as_str()),
            ("deny", "isolated")
        );
        assert_eq!(record.direction, "ingress");
        assert_eq!(record.revision, revision);
        assert_eq!(record.rule, None);
        let [policy] = record.isolated_by.as_slice() else {
            panic!("{record:?}");
        };
        assert_eq!((policy.name.as_str(), policy.index), ("db-from-web", None));
        assert!(policy.file.ends_with("policies/policies.yaml"));
        assert_eq!(policy.line, 4);
        assert_eq!(record.source.workload.as_deref(), Some("web"));
        assert_eq!(record.source.labels["app"], "web");
        assert_eq!(record.destination.namespace.as_deref(), Some("shop"));
        assert_eq!(record.destination.workload.as_deref(), Some("db"));
        assert_eq!(
            (record.protocol.as_str(), record.tcp_flags.as_deref()),
            ("tcp", Some("S"))
        );
    }
    let last = scene
        .agent
        .cli(&["observe", "--last", "1", "--format", "json"]);
    assert_eq!(String::from_utf8_lossy(&last.stdout).lines().count(), 1);
    let none = scene.agent.cli(&["observe", "--since", "0s"]);
    assert!(none.stdout.is_empty(), "{none:?}");
    let text = scene.agent.cli(&["observe"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("deny isolated ingress shop/web "), "{text}");
}

#[test]
fn every_dropped_packet_is_told_of_or_counted_as_not_told_of() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let (_, metrics) = scene.agent.http("/metrics");
    let sum = |name: &str| -> u64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| line.rsplit(' ').next().expect("a value"))
            .map(|value| value.parse::<u64>().expect("a number"))
            .sum()
    };
    // Counters first: a record that comes in between would only be one too many.
    let dropped = sum("cofferdam_dropped_packets_total{");
    let unreported = sum("cofferdam_unreported_packets_total{type=\"denied\"}");
    let until: u64 = scene
        .agent
        .records()
        .iter()
        .map(|record| record.packets)
        .sum();
    assert!(dropped > 0);
    assert!(
        until + unreported >= dropped,
        "{until} + {unreported} < {dropped}"
    );
    let again = {
        scene.agent.sync();
        let (_, metrics) = scene.agent.http("/metrics");
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("cofferdam_dropped_packets_total{"));
        lines
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .expect("a value")
                    .parse::<u64>()
                    .expect("a number")
            })
            .sum::<u64>()
    };
    assert!(
        until + unreported <= again,
        "{until} + {unreported} > {again}"
    );
}

#[test]
fn a_follower_hears_of_what_comes_and_of_the_agents_end() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    let follower = Command::new(cofferdam!())
        .args(["observe", "-f", "--format", "json", "--run-dir"])
        .arg(scene.agent.path("run"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command can be run");
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    scene.assert_blocked("shop/web", "shop/db");
    assert!(scene.agent.stop().success());
    let output = follower.wait_with_output().expect("it ends with the agent");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let records: Result<Vec<FlowRecord>, _> = text.lines().map(serde_json::from_str).collect();
    let records = records.expect("a record a line");
    assert!(
        records
            .iter()
            .any(|record| record.destination.port == Some(PORT))
    );
}
