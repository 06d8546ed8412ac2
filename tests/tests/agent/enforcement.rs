//! Policies that only audit, in a namespace or on the whole node: what they deny passes and
//! is told of, and everything else is dropped as ever.

use std::time::Duration;

use cofferdam_protocol::output::{Enforcement, FlowRecord, RecordType};
use cofferdam_tests::packet::{End, Family, udp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Conversation, FrameSocket};
use cofferdam_tests::world::Wiring;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};

use super::reload::reload;
use super::scene::{DB_CLOSED, PORT, Scene};

const PATIENCE: Duration = Duration::from_secs(10);
/// Time in which an answer would have come.
const UNTIL_CUT: Duration = Duration::from_millis(300);

/// The shop's namespace with a word for how policies count there.
fn namespace(enforcement: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations:\n    \
         cofferdam.dev/enforcement: {enforcement}\n"
    )
}

/// The records of a type about the database's port.
fn records(scene: &Scene, kind: RecordType) -> Vec<FlowRecord> {
    let mut records = scene.agent.records();
    records.retain(|record| record.kind == kind && record.destination.port == Some(PORT));
    records
}

/// Waits until the agent has told of a packet that policy knows nothing of.
fn assert_spoofing_is_dropped(scene: &Scene) {
    let [web, db, stranger] =
        ["shop/web", "shop/db", "shop/stranger"].map(|name| scene.workload(name));
    let forged = End {
        mac: web.end.mac,
        ..stranger.end
    };
    let frame = udp().from(forged).to(db.end).dport(7).payload(b"forged");
    let socket = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
    socket.send(&frame.via(web.gateway.mac)).expect("sent");
    scene.agent.sync();
    let dropped = |record: &FlowRecord| {
        (record.kind, record.reason) == (RecordType::Denied, Reason::SpoofedSource)
    };
    assert!(scene.agent.records().iter().any(dropped));
}

/// Each connection that policy denies passes, and is told of once with the policy's line; a
/// forged source is dropped. Without the annotation policy cuts what it let pass.
#[test]
fn a_namespace_on_audit_denies_nothing_until_its_document_says_enforce() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::new(Wiring::Ptp);
    scene.agent.document("namespace.yaml", &namespace("audit"));
    let scene = scene.in_force(DB_CLOSED);
    let status = scene.agent.status();
    assert_eq!(status.enforcement, Enforcement::Enforce);
    assert_eq!(status.audited_namespaces, ["shop"]);

    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.sync();
    let audits = records(&scene, RecordType::Audit);
    assert_eq!(audits.len(), 2, "one in each family: {audits:#?}");
    for record in &audits {
        assert_eq!((record.count, record.packets), (1, 1));
        let what = (record.verdict, record.reason, record.direction);
        assert_eq!(what, (Action::Allow, Reason::Isolated, Direction::Ingress));
        let [policy] = &record.isolated_by[..] else {
            panic!("{record:?}");
        };
        assert_eq!((policy.name.as_str(), policy.line), ("db-from-web", 4));
        assert!(policy.file.ends_with("policies/policies.yaml"));
    }
    assert_spoofing_is_dropped(&scene);
    assert!(records(&scene, RecordType::Denied).is_empty());
    let (_, metrics) = scene.agent.http("/metrics");
    assert!(
        metrics.contains("\ncofferdam_audited_namespaces 1\n"),
        "{metrics}"
    );

    let mut open: Vec<Conversation> = Family::BOTH
        .map(|family| {
            let to = scene.workload("shop/db").end.ip(family).expect("both");
            let web = scene.workload("shop/web");
            Conversation::tcp(web, to, PORT, PATIENCE).expect("policy only audits")
        })
        .into();
    for conversation in &mut open {
        conversation.exchange(b"on audit", PATIENCE).expect("open");
    }
    scene
        .agent
        .document("namespace.yaml", &namespace("enforce"));
    assert!(scene.agent.sync().enforced);
    for conversation in &mut open {
        assert!(conversation.exchange(b"enforced", UNTIL_CUT).is_err());
    }
    scene.assert_blocked("shop/web", "shop/db");
    assert!(scene.agent.status().audited_namespaces.is_empty());

    // A word that is none enforces, and is told of at its line.
    scene.agent.document("namespace.yaml", &namespace("audti"));
    let report = scene.agent.sync();
    let [finding] = &report.diagnostics[..] else {
        panic!("{report:?}");
    };
    assert_eq!((finding.code.as_str(), finding.line), ("CD0213", 6));
    assert_eq!((report.enforced, report.rejected), (true, 0));
    scene.assert_blocked("shop/web", "shop/db");
}

#[test]
fn a_node_goes_on_audit_and_back_by_its_configuration() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene
        .agent
        .set("enforcement: audit\nlimits: {endpoints: 32, slots: 8192, table_pages: 32}\n");
    let scene = scene.in_force(DB_CLOSED);
    let mode = || {
        let (_, metrics) = scene.agent.http("/metrics");
        let is_on_audit = metrics.contains("\ncofferdam_enforcement{mode=\"audit\"} 1\n");
        (scene.agent.status().enforcement, is_on_audit)
    };
    let warning = "enforcement: audit; what policies deny passes";
    assert!(scene.agent.log().contains(warning), "{}", scene.agent.log());
    assert_eq!(mode(), (Enforcement::Audit, true));
    scene.assert_reaches("shop/web", "shop/db");
    assert_spoofing_is_dropped(&scene);
    assert_eq!(records(&scene, RecordType::Audit).len(), 2);

    let switch = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|word| format!("enforcement: {word}"));
        reload(&scene.agent, &[(&from, &to)], "taken: `enforcement`");
        assert!(scene.agent.sync().enforced);
    };
    switch("audit", "enforce");
    assert_eq!(mode(), (Enforcement::Enforce, false));
    scene.assert_blocked("shop/web", "shop/db");
    switch("enforce", "audit");
    assert_eq!(mode(), (Enforcement::Audit, true));
    scene.assert_reaches("shop/web", "shop/db");
}
