//! Denied packets, and those that audit policies would have denied, as they are told
//! of.

use std::process::{Command, Stdio};

use cofferdam_protocol::output::{FlowRecord, RecordType};
use cofferdam_protocol::words::ClosedList as _;
use cofferdam_tests::cofferdam;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;
use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};

use super::scene::{DB_CLOSED, DB_FROM_WEB, PORT, Scene};

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
        let what = (record.kind, record.verdict, record.reason);
        let expected = (RecordType::Denied, Action::Deny, Reason::Isolated);
        assert_eq!(what, expected);
        assert_eq!(record.direction, Direction::Ingress);
        assert_eq!(record.hook, Hook::FromWorkload, "where it was dropped");
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
    assert!(
        text.contains(" deny isolated ingress shop/db-from-web "),
        "{text}"
    );
}

/// Values of a metric's series whose names and labels begin so, together.
fn sum(metrics: &str, series: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(series));
    let values = lines.map(|line| line.rsplit(' ').next().expect("a value"));
    values
        .map(|value| value.parse::<u64>().expect("a number"))
        .sum()
}

/// The records of a type cover as many packets as the counter says but for those
/// counted as unreported. Returns how many the records cover.
///
/// A packet may come at any time, of neighbour discovery, say: what is read before and
/// after the records must be the same, or it is read again.
#[track_caller]
fn assert_all_told_of(scene: &Scene, kind: RecordType, counter: &str) -> u64 {
    let word = kind.as_str();
    let unreported = format!("cofferdam_unreported_packets_total{{type=\"{word}\"}}");
    let counted = || {
        scene.agent.sync();
        let (_, metrics) = scene.agent.http("/metrics");
        (sum(&metrics, counter), sum(&metrics, &unreported))
    };
    for _ in 0..20 {
        let before = counted();
        let records = scene.agent.records();
        let of_type = records.iter().filter(|record| record.kind == kind);
        let told: u64 = of_type.map(|record| record.packets).sum();
        if counted() == before {
            assert_eq!(told + before.1, before.0, "{word}");
            return told;
        }
    }
    panic!("{word}: the counters do not come to rest");
}

const DROPPED: &str = "cofferdam_dropped_packets_total{";
const AUDITED: &str = "cofferdam_audited_packets_total{";

#[test]
fn every_dropped_packet_is_told_of_or_counted_as_not_told_of() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    scene.assert_blocked("shop/web", "shop/db");
    assert!(assert_all_told_of(&scene, RecordType::Denied, DROPPED) > 0);
    assert_eq!(assert_all_told_of(&scene, RecordType::Audit, AUDITED), 0);
}

/// A policy in audit mode, and the same one in force.
struct Trial {
    trial: String,
    in_force: String,
    /// Place that a record points to: kind, name, index, line.
    place: (&'static str, &'static str, Option<u32>, u32),
    reason: Reason,
}

/// Each kind of policy denies one thing: connections from web to the database.
fn trials() -> [Trial; 2] {
    let network_policy = |mode: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\n\
             kind: NetworkPolicy\n\
             metadata:\n  \
               name: default-deny\n  \
               namespace: shop\n{mode}\
             spec:\n  \
               podSelector: {{}}\n  \
               policyTypes: [Ingress]\n"
        )
    };
    let cluster_policy = |mode: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\n\
             kind: ClusterNetworkPolicy\n\
             metadata:\n  \
               name: no-database\n{mode}\
             spec:\n  \
               tier: Admin\n  \
               priority: 7\n  \
               subject: {{namespaces: {{}}}}\n  \
               egress:\n  \
               - action: Deny\n    \
                 to: [{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: db}}}}}}}}]\n    \
                 protocols: [{{tcp: {{destinationPort: {{number: {PORT}}}}}}}]\n"
        )
    };
    let audit = "  annotations: {cofferdam.dev/mode: audit}\n";
    [
        Trial {
            trial: network_policy(audit),
            in_force: network_policy(""),
            place: ("NetworkPolicy", "default-deny", None, 7),
            reason: Reason::Isolated,
        },
        Trial {
            trial: cluster_policy(audit),
            in_force: cluster_policy(""),
            place: ("ClusterNetworkPolicy", "no-database", Some(0), 11),
            reason: Reason::Rule,
        },
    ]
}

/// On trial, nothing is dropped, and each connection is told of once; without the
/// annotation the same packets are dropped, by the same line.
#[test]
fn what_an_audit_policy_would_deny_passes_and_is_told_of_until_the_policy_counts() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, "");
    let mut told = 0;
    for trial in trials() {
        let change = |text: &str| {
            scene.agent.document("policies.yaml", text);
            assert!(scene.agent.sync().enforced);
        };
        change(&trial.trial);
        let direction = match trial.reason {
            Reason::Rule => Direction::Egress,
            _ => Direction::Ingress,
        };
        let assert_named = |record: &FlowRecord, lines_fewer: u32| {
            let (kind, name, index, line) = trial.place;
            let rule = record.rule.iter().chain(&record.isolated_by);
            let [rule] = rule.collect::<Vec<_>>()[..] else {
                panic!("one policy: {record:?}");
            };
            let named = (
                rule.kind.as_str(),
                rule.name.as_str(),
                rule.index,
                rule.line,
            );
            assert_eq!(named, (kind, name, index, line - lines_fewer));
            assert!(rule.file.ends_with("policies/policies.yaml"));
            assert_eq!(record.rule.is_some(), trial.reason == Reason::Rule);
            let what = (record.reason, record.direction);
            assert_eq!(what, (trial.reason, direction));
            let ends = [&record.source, &record.destination].map(|end| end.workload.as_deref());
            assert_eq!(ends, [Some("web"), Some("db")]);
            assert_eq!(record.destination.port, Some(PORT));
            assert_eq!(record.tcp_flags.as_deref(), Some("S"));
        };
        // In both families.
        scene.assert_reaches("shop/web", "shop/db");
        assert_eq!(
            assert_all_told_of(&scene, RecordType::Audit, AUDITED),
            told + 2
        );
        told += 2;
        let observe = |arguments: &[&str]| {
            let output = scene.agent.cli(&[&["observe"], arguments].concat());
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let audits = observe(&["--type", "audit", "--last", "2", "--format", "json"]);
        let records = audits.lines().map(serde_json::from_str);
        let records: Vec<FlowRecord> = records.collect::<Result<_, _>>().expect("records");
        assert_eq!(records.len(), 2);
        for record in &records {
            let what = (record.kind, record.verdict);
            assert_eq!(what, (RecordType::Audit, Action::Allow));
            assert_named(record, 0);
        }
        let text = observe(&["--type", "audit", "--last", "1"]);
        let (reason, word) = (trial.reason.name(), direction.word());
        let shown = format!(" audit {reason} {word} ");
        assert!(text.contains(&shown), "{text}");

        change(&trial.in_force);
        scene.assert_blocked("shop/web", "shop/db");
        assert!(assert_all_told_of(&scene, RecordType::Denied, DROPPED) > 0);
        assert_eq!(assert_all_told_of(&scene, RecordType::Audit, AUDITED), told);
        let last = observe(&["--type", "denied", "--last", "1", "--format", "json"]);
        let record: FlowRecord = serde_json::from_str(&last).expect("a record");
        let what = (record.kind, record.verdict);
        assert_eq!(what, (RecordType::Denied, Action::Deny));
        assert_named(&record, 1);
        let text = observe(&["--type", "audit", "--last", "1"]);
        assert!(text.contains(&shown), "however many came after it: {text}");
    }
}

/// Hits of a rule of the database's policy; without an index, of its isolation.
fn hits(scene: &Scene, index: &str, action: &str) -> u64 {
    let (_, metrics) = scene.agent.http("/metrics");
    let series = format!(
        "cofferdam_rule_hits_total{{direction=\"ingress\",action=\"{action}\",policy_kind=\"NetworkPolicy\",policy_namespace=\"shop\",policy=\"db-from-web\",rule=\"{index}\"}}"
    );
    sum(&metrics, &series)
}

/// Each connection of a family is one hit, whatever the table, and each packet that is
/// denied is one.
#[test]
fn hits_of_a_rule_survive_tables_and_an_agent_that_stops() {
    const SWAPS: u64 = 20;
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    // Before the other by name, so that its numbers move.
    let other = DB_CLOSED
        .replace("db-from-web", "another")
        .replace("app: db", "app: web");
    let tables = [
        DB_FROM_WEB.to_owned(),
        [&other, "---\n", DB_FROM_WEB].concat(),
    ];
    for swap in 0..SWAPS {
        scene.assert_reaches("shop/web", "shop/db");
        let next = &tables[(swap as usize + 1) % 2];
        scene.agent.document("policies.yaml", next);
        assert!(scene.agent.sync().enforced);
        assert_eq!(hits(&scene, "0", "allow"), 2 * (swap + 1));
    }
    assert_eq!(hits(&scene, "", "deny"), 0);
    let closed = DB_FROM_WEB.replace("5432", "5433");
    scene.agent.document("policies.yaml", &closed);
    assert!(scene.agent.sync().enforced);
    scene.assert_blocked("shop/web", "shop/db");
    let (_, metrics) = scene.agent.http("/metrics");
    let denied = hits(&scene, "", "deny");
    assert!(denied >= 2);
    let hook = "cofferdam_dropped_packets_total{hook=\"from_workload\"";
    let dropped = metrics.lines().filter(|line| line.starts_with(hook));
    let dropped: Vec<&str> = dropped
        .filter(|line| line.contains("\"isolated\""))
        .collect();
    assert_eq!(denied, sum(&dropped.join("\n"), hook));
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    assert!(scene.agent.sync().enforced);

    assert!(scene.agent.stop().success());
    // Programs count without the agent.
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.start_enforced();
    scene.assert_reaches("shop/web", "shop/db");
    assert_eq!(hits(&scene, "0", "allow"), 2 * (SWAPS + 2));
    assert_eq!(hits(&scene, "", "deny"), denied);

    scene.agent.document("policies.yaml", DB_CLOSED);
    assert!(scene.agent.sync().enforced);
    scene.assert_blocked("shop/web", "shop/db");
    // The rule's series has gone with it; what it counted is there when it comes again.
    assert_eq!(hits(&scene, "0", "allow"), 0);
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    assert!(scene.agent.sync().enforced);
    assert_eq!(hits(&scene, "0", "allow"), 2 * (SWAPS + 2));
}

#[test]
fn a_follower_hears_of_what_comes_and_of_the_agents_end() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    let [follower, of_audits] = [&[] as &[&str], &["--type", "audit"]].map(|only| {
        let mut command = Command::new(cofferdam!());
        command.args(["observe", "-f", "--format", "json"]);
        command.args(only).arg("--run-dir");
        let command = command.arg(scene.agent.path("run")).stdout(Stdio::piped());
        command.spawn().expect("the command can be run")
    });
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    scene.assert_blocked("shop/web", "shop/db");
    assert!(scene.agent.stop().success());
    let output = follower.wait_with_output().expect("it ends with the agent");
    assert!(output.status.success(), "{output:?}");
    let audits = of_audits.wait_with_output().expect("it ends, too");
    assert!(audits.status.success() && audits.stdout.is_empty());
    let text = String::from_utf8(output.stdout).expect("text");
    let records: Result<Vec<FlowRecord>, _> = text.lines().map(serde_json::from_str).collect();
    let records = records.expect("a record a line");
    assert!(
        records
            .iter()
            .any(|record| record.destination.port == Some(PORT))
    );
}
