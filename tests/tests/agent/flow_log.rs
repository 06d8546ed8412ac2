//! The flow log, what `observe` has from it, and the other outputs of records.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use cofferdam_protocol::output::FlowRecord;
use cofferdam_tests::cofferdam;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;
use cofferdam_verdict::reason::Reason;

use super::reports::assert_valid;
use super::scene::{DB_CLOSED, PORT, Scene};

const LOST: &str = "cofferdam_output_lost_records_total{output=\"flow_log\"}";

/// A scene whose agent writes a flow log.
fn logging(more: &str) -> Scene {
    let mut scene = Scene::new(Wiring::Ptp);
    let path = scene.agent.path("flows/records");
    let limits = "limits: {endpoints: 32, slots: 8192, table_pages: 32}";
    scene.agent.set(&format!(
        "{limits}\nflow_log: {{path: {}{more}}}\n",
        path.display()
    ));
    scene.in_force(DB_CLOSED)
}

/// The records in a text.
fn records(text: &[u8]) -> Vec<FlowRecord> {
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let records = lines.map(|line| serde_json::from_slice(line).expect("a record"));
    records.collect()
}

#[test]
fn what_was_denied_before_a_kill_is_told_of_after_it() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = logging("");
    let path = scene.agent.path("flows/records");
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let observed = scene.agent.records();
    assert!(!observed.is_empty());
    // A packet may come at any time, of neighbour discovery, say. What a sync has waited for
    // is in the file.
    scene.agent.sync();
    let written = fs::read(&path).expect("a flow log");
    assert_eq!(records(&written)[..observed.len()], observed);
    let mode = |path: &str| {
        let metadata = fs::metadata(scene.agent.path(path)).expect("it is there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("flows/records"), mode("flows")), (0o600, 0o700));
    assert_eq!(scene.agent.metric(LOST), 0);
    let line = written.split(|byte| *byte == b'\n').next();
    let record = assert_valid("flow-record.json", line.expect("a line"));
    assert_eq!(record["node"], "n1");

    scene.agent.kill();
    scene.agent.start_enforced();
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let both = scene.agent.records();
    assert!(both.len() > observed.len());
    assert_eq!(both[..observed.len()], observed);
    scene.agent.sync();
    let written = records(&fs::read(&path).expect("a flow log"));
    assert_eq!(written[..both.len()], both, "each once");
    let observe = |arguments: &[&str]| {
        let output = scene
            .agent
            .cli(&[&["observe", "--format", "json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        records(&output.stdout)
    };
    // More than this agent has told of.
    let last = both.len() - 1;
    let newest = observe(&["--last", &last.to_string()]);
    assert_eq!(newest.len(), last);
    assert!(newest[0].time < both[observed.len()].time, "{newest:?}");
    let before = observe(&["--until", &observed[0].time]);
    assert_eq!(before, both[..1]);
    let port = PORT.to_string();
    let filters = ["--reason", "isolated", "--to", "shop/db", "--port", &port];
    let filtered = observe(&filters);
    assert!(!filtered.is_empty());
    assert!(
        filtered
            .iter()
            .all(|one| one.destination.port == Some(PORT))
    );
    let others = observe(&["--not", "--reason", "isolated"]);
    assert!(others.iter().all(|one| one.reason != Reason::Isolated));
    assert!(others.len() < both.len());

    // The same without an agent.
    assert!(scene.agent.stop().success());
    let output = Command::new(cofferdam!())
        .args(["observe", "--format", "json", "--file"])
        .arg(&path)
        .output()
        .expect("the command can be run");
    assert_eq!(records(&output.stdout)[..both.len()], both, "{output:?}");
}

#[test]
fn full_files_are_put_aside_and_read_as_one() {
    skip_unless!(Feature::NetworkNamespaces);
    // Room for a few records.
    let scene = logging(", max_bytes: 4KiB, keep: 100");
    for _ in 0..4 {
        scene.assert_blocked("shop/web", "shop/db");
    }
    scene.agent.sync();
    let path = scene.agent.path("flows/records.1");
    assert!(fs::metadata(&path).expect("it was put aside").len() <= 4 << 10);
    let base = scene.agent.path("flows/records");
    let output = Command::new(cofferdam!())
        .args(["observe", "--format", "json", "--file"])
        .arg(base)
        .output()
        .expect("the command can be run");
    let read = records(&output.stdout);
    let observed = scene.agent.records();
    assert!(read.len() >= 4, "{read:?}");
    assert_eq!(read, observed[..read.len()]);
}

#[test]
fn a_log_that_cannot_be_written_is_told_of_and_holds_nothing_up() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.set(
        "limits: {endpoints: 32, slots: 8192, table_pages: 32}\nflow_log: {path: /dev/full}\n",
    );
    let scene = scene.in_force(DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    scene.assert_reaches("shop/db", "shop/web");
    assert!(scene.agent.sync().enforced);
    let told = scene.agent.records().len() as u64;
    assert!(told > 0);
    assert_eq!(scene.agent.metric(LOST), told);
    let log = scene.agent.log();
    assert!(
        log.contains("flow records are lost to the output flow_log: /dev/full is not a file"),
        "{log}"
    );
}

#[test]
fn a_syslog_gets_the_types_that_it_was_to_get_and_what_is_lost_without_it_is_counted() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    let path = scene.agent.path("log.sock");
    let collector = UnixDatagram::bind(&path).expect("a socket");
    let patience = Some(Duration::from_secs(10));
    collector.set_read_timeout(patience).expect("a time");
    scene.agent.set(&format!(
        "limits: {{endpoints: 32, slots: 8192, table_pages: 32}}\noutputs:\n\
         - {{to: syslog, address: 'unix:{0}', types: [audit]}}\n\
         - {{to: syslog, address: 'unix:{0}', types: [denied]}}\n",
        path.display()
    ));
    let scene = scene.in_force(DB_CLOSED);
    let lost = |output: &str| {
        let series = format!("cofferdam_output_lost_records_total{{output=\"{output}\"}}");
        scene.agent.metric(&series)
    };
    scene.assert_blocked("shop/web", "shop/db");
    let is_of_db = |message: &str| message.contains(" destination_workload=\"db\"");
    let mut buffer = [0; 8_192];
    let message = loop {
        let length = collector.recv(&mut buffer).expect("a message");
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(
            message.starts_with("<28>1 "),
            "denied ones alone: {message}"
        );
        if is_of_db(&message) {
            break message;
        }
    };
    for part in [
        " n1 cofferdam ",
        " denied [flow@32473 verdict=\"deny\" reason=\"isolated\" direction=\"ingress\"",
        " policy=\"db-from-web\" ",
        "] \u{feff}deny isolated ingress shop/web ",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!((lost("syslog"), lost("syslog_2")), (0, 0));
    drop(collector);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    assert_eq!(lost("syslog"), 0);
    assert!(lost("syslog_2") > 0);
}

#[test]
fn a_collector_gets_logs_from_an_agent_that_has_given_up_its_privileges() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    let listener = {
        let _inside = scene.world.node().namespace.enter().expect("a namespace");
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")
    };
    let address = listener.local_addr().expect("an address");
    scene.agent.set(&format!(
        "limits: {{endpoints: 32, slots: 8192, table_pages: 32}}\n\
         outputs: [{{to: otlp, address: 'http://{address}'}}]\n"
    ));
    let scene = scene.in_force(DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    let (stream, _) = listener.accept().expect("the agent");
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a time");
    let mut read = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(read.read_line(&mut head).expect("a request") > 0, "{head}");
        }
        let mut lines = head.lines();
        let length = lines
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length")
            .parse()
            .expect("a number");
        let mut body = vec![0; length];
        read.read_exact(&mut body).expect("a body");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        read.get_mut().write_all(answer).expect("the agent reads");
        let body = String::from_utf8(body).expect("text");
        assert!(body.starts_with("{\"resourceLogs\":["), "{body}");
        if body.contains("deny isolated ingress shop/web ") {
            break;
        }
    }
    assert_eq!(scene.agent.metric(&LOST.replace("flow_log", "otlp")), 0);
}
