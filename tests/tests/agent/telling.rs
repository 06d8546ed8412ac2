//! Flows that begin and end, as a follower hears of them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use cofferdam_protocol::output::{FlowRecord, RecordType};
use cofferdam_tests::cofferdam;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::Conversation;
use cofferdam_tests::world::Wiring;
use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};

use super::scene::{DB_CLOSED, DB_FROM_WEB, PORT, Scene};

/// Longest time until a closed connection is told of: a second, and the time between sweeps.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a record.
#[track_caller]
fn wait_for(
    records: &Receiver<FlowRecord>,
    heard: &mut Vec<FlowRecord>,
    patience: Duration,
    is_it: impl Fn(&FlowRecord) -> bool,
) -> Option<FlowRecord> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let record = records.recv_timeout(left).ok()?;
        heard.push(record.clone());
        if is_it(&record) {
            return Some(record);
        }
    }
}

#[test]
fn a_follower_hears_when_a_connection_begins_and_ends() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent = (scene.agent).settings("limits: {endpoints: 8}\nidle: {tcp_closing: 1s}\n");
    let mut scene = scene.in_force(DB_FROM_WEB);
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.sync();
    let of_flows =
        |record: &&FlowRecord| matches!(record.kind, RecordType::New | RecordType::Ended);
    let records = scene.agent.records();
    assert_eq!(records.iter().find(of_flows), None, "nobody wanted them");

    let mut command = Command::new(cofferdam!());
    command.args(["observe", "-f", "--format", "json", "--run-dir"]);
    let command = command.arg(scene.agent.path("run")).stdout(Stdio::piped());
    let mut follower = command.spawn().expect("the command can be run");
    let lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let (sender, records) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let record = serde_json::from_str(&line).expect("a record a line");
            if sender.send(record).is_err() {
                return;
            }
        }
    });
    let to_db = |record: &FlowRecord| record.destination.port == Some(PORT);
    let mut heard = Vec::new();
    let begins = Instant::now();
    let new = loop {
        // Until the follower is there, nobody hears of it.
        scene.assert_reaches("shop/web", "shop/db");
        let is_it = |record: &FlowRecord| record.kind == RecordType::New && to_db(record);
        let second = Duration::from_secs(1);
        if let Some(record) = wait_for(&records, &mut heard, second, is_it) {
            break record;
        }
        assert!(begins.elapsed() < PATIENCE, "{heard:?}");
    };
    let is_it = |record: &FlowRecord| {
        record.kind == RecordType::Ended && record.source.port == new.source.port
    };
    let ended = wait_for(&records, &mut heard, PATIENCE, is_it).expect("it ends");
    for record in [&new, &ended] {
        let what = (record.verdict, record.reason, record.direction, record.hook);
        let expected = (
            Action::Allow,
            Reason::Rule,
            Direction::Ingress,
            Hook::ToWorkload,
        );
        assert_eq!(what, expected, "{record:?}");
        let rule = record.rule.as_ref().expect("a rule allowed it");
        assert_eq!((rule.name.as_str(), rule.index), ("db-from-web", Some(0)));
        assert_eq!(record.source.workload.as_deref(), Some("web"));
        assert_eq!(record.destination.workload.as_deref(), Some("db"));
        assert_eq!(record.source.address, new.source.address);
    }
    assert_eq!((new.packets, new.tcp_flags.as_deref()), (1, Some("S")));
    let [opener, reply] = [ended.opener, ended.reply].map(|side| side.expect("both"));
    assert!(opener.packets >= 3 && reply.packets >= 2, "{ended:?}");
    assert_eq!(ended.packets, opener.packets + reply.packets);
    assert_eq!(ended.bytes, opener.bytes + reply.bytes);
    assert!(ended.duration_ms < 10_000, "{ended:?}");

    // Of each connection once.
    assert!(scene.agent.stop().success());
    follower.wait().expect("it ends with the agent");
    reader.join().expect("it ends");
    heard.extend(records.try_iter());
    for kind in [RecordType::New, RecordType::Ended] {
        let of_kind = heard
            .iter()
            .filter(|record| record.kind == kind && to_db(record));
        let ends: Vec<_> = of_kind
            .map(|record| (record.source.address, record.source.port))
            .collect();
        let distinct: BTreeSet<_> = ends.iter().collect();
        assert_eq!(ends.len(), distinct.len(), "{kind:?}: {ends:?}");
    }
}

/// Somebody changes a policy, and a connection of an application ends: its owner hears of that
/// once, with the line that did it.
#[test]
fn a_connection_that_a_change_of_policies_ends_is_told_of_once() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Bridge, DB_FROM_WEB);
    let patience = Duration::from_secs(5);
    let web = scene.workload("shop/web");
    let to = scene.workload("shop/db").ip(Family::V4);
    let mut conversation = Conversation::tcp(web, to, PORT, patience).expect("it is allowed");
    conversation
        .exchange(b"before", patience)
        .expect("an answer");
    let port = conversation.local_address().expect("an address").port();
    scene.agent.document("policies.yaml", DB_CLOSED);
    assert!(scene.agent.sync().enforced);
    let short = Duration::from_millis(700);
    conversation
        .exchange(b"after", short)
        .expect_err("it is denied");
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let records = scene.agent.records();
    let denied: Vec<_> = (records.iter())
        .filter(|record| record.kind == RecordType::Denied && record.reason == Reason::Isolated)
        .collect();
    let newly: Vec<_> = denied.iter().filter(|record| record.newly_denied).collect();
    let [record] = newly[..] else {
        panic!("{denied:?}");
    };
    assert_eq!(record.source.port.or(record.destination.port), Some(port));
    let policy = &record.isolated_by[0];
    assert_eq!(policy.name, "db-from-web");
    assert!(policy.file.ends_with("policies.yaml"), "{policy:?}");
    assert!(
        denied.len() >= 2,
        "attempts afterwards are denied, and not newly: {denied:?}"
    );
    let lines = scene.agent.cli(&["observe"]).stdout;
    let lines = String::from_utf8(lines).expect("text");
    let told = lines
        .lines()
        .filter(|line| line.ends_with("(allowed before)"));
    assert_eq!(told.count(), 1, "{lines}");
}
