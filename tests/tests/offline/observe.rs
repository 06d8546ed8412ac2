//! `cofferdam observe` on files of a flow log.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use cofferdam_tests::shop::DB_FROM_WEB;
use serde_json::{Value, json};

use crate::Folder;

/// A record of minute `minute`, with some fields of its own.
fn record(minute: u32, fields: &[(&str, Value)]) -> String {
    let end = |namespace: &str, name: &str, address: &str, port: u16| {
        json!({"namespace": namespace, "workload": name, "address": address, "port": port,
               "labels": {"app": name}})
    };
    let mut record = json!({
        "schema": "cofferdam/v1", "time": format!("2026-01-01T00:{minute:02}:00.000000000Z"),
        "type": "denied", "node": "n1", "hook": "from_workload", "direction": "ingress",
        "verdict": "deny", "reason": "isolated", "revision": 7, "count": 1, "rule": null,
        "isolated_by": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db-from-web",
                         "index": null, "file": "/etc/cofferdam/policies/x.yaml", "line": 4}],
        "source": end("shop", "job", "10.0.0.9", 40000),
        "destination": end("shop", "db", "10.0.0.2", 5432),
        "protocol": "tcp", "tcp_flags": "S", "icmp": null, "packets": 1, "bytes": 60,
        "duration_ms": 0,
    });
    for (field, value) in fields {
        record[*field] = value.clone();
    }
    record.to_string() + "\n"
}

/// Two files of one log, in minutes 1 to 4, and half a line of an agent that was killed.
fn log() -> Folder {
    let spoofed = [
        ("reason", json!("spoofed_source")),
        ("isolated_by", json!([])),
    ];
    let audit = [("type", json!("audit")), ("verdict", json!("allow"))];
    let oldest = record(1, &[("packets", json!(5))]) + &record(2, &spoofed);
    let newest = record(3, &audit) + &record(4, &[("node", json!("n2"))]);
    Folder::new(&[
        ("flows.1", &oldest),
        ("flows", &format!("{newest}{}", &newest[..40])),
        ("db.yaml", DB_FROM_WEB),
    ])
}

/// The minutes of the records that a command shows.
#[track_caller]
fn minutes(folder: &Folder, arguments: &[&str]) -> Vec<u32> {
    let command = ["observe", "--format", "json", "--file", "flows"];
    let output = folder.run(&[&command, arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let records = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).expect("a record");
        record["time"].as_str().expect("a time")[14..16]
            .parse()
            .expect("a minute")
    });
    records.collect()
}

#[test]
fn files_that_were_put_aside_are_read_first_and_half_a_line_is_passed_over() {
    let folder = log();
    assert_eq!(minutes(&folder, &[]), [1, 2, 3, 4]);
    let output = folder.run(&["observe", "--file", "flows"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("1 lines are no flow records"), "{told}");
    assert_eq!(
        minutes(&folder, &["flows.1"]).len(),
        6,
        "two logs are merged"
    );
    assert_eq!(minutes(&folder, &["flows.1"]), [1, 1, 2, 2, 3, 4]);
    let missing = folder.run(&["observe", "--file", "nowhere"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn filters_and_times_choose_records_of_files() {
    let folder = log();
    for (arguments, expected) in [
        (&["--type", "denied"][..], &[1, 2, 4][..]),
        (&["--not", "--type", "denied"], &[3]),
        (
            &["--reason", "spoofed_source", "--reason", "isolated"],
            &[1, 2, 3, 4],
        ),
        (&["--policy", "db-from-web", "--verdict", "deny"], &[1, 4]),
        (
            &[
                "--label",
                "app=db",
                "--port",
                "tcp/5000-6000",
                "--last",
                "2",
            ],
            &[3, 4],
        ),
        (
            &["--from", "10.0.0.0/24", "--to", "shop/db", "--last", "1"],
            &[4],
        ),
        (&["--from", "shop/db"], &[]),
        (&["--since", "2026-01-01T00:02:00Z"], &[2, 3, 4]),
        (
            &[
                "--since",
                "2026-01-01T01:02:00+01:00",
                "--until",
                "2026-01-01T00:03:00Z",
            ],
            &[2, 3],
        ),
        (&["--since", "1m"], &[]),
        (
            &[
                "--reason", "isolated", "--not", "--type", "audit", "--last", "1",
            ],
            &[4],
        ),
    ] {
        assert_eq!(minutes(&folder, arguments), expected, "{arguments:?}");
    }
    let refused = folder.run(&["observe", "--file", "flows", "--not"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn sums_are_as_their_schema_says() {
    let folder = log();
    let top = |arguments: &[&str]| {
        let command = ["observe", "--file", "flows", "--top"];
        folder.json(0, "top.json", &[&command, arguments].concat())
    };
    let drops = top(&["drops"]);
    assert_eq!(drops["rows"][0]["policy"], "shop/db-from-web");
    assert_eq!(drops["rows"][0]["packets"], 6);
    assert_eq!(
        drops["total"],
        json!({"records": 3, "packets": 7, "bytes": 180})
    );
    let reasons = top(&[
        "drops",
        "--by",
        "reason",
        "--rows",
        "1",
        "--since",
        "2026-01-01T00:02:00Z",
    ]);
    assert_eq!(reasons["rows"][0]["reason"], "isolated");
    assert_eq!(reasons["more_rows"], 1);
    let rules = top(&["rules", "--sources", "db.yaml"]);
    assert_eq!(rules["rows"][0]["rule"]["file"], "db.yaml");
    let talkers = top(&["talkers", "--by", "workload"]);
    assert_eq!(talkers["rows"][0]["source"], "shop/job");
    assert_eq!(talkers["rows"][0]["packets"], 8);
    let table = folder.run(&["observe", "--file", "flows", "--top", "drops"]);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(
        table
            .lines()
            .nth(1)
            .expect("a row")
            .ends_with("  shop/db-from-web"),
        "{table}"
    );
}

#[test]
fn rules_are_found_in_a_checkout_by_name_index_and_direction() {
    let rule = json!({"kind": "NetworkPolicy", "namespace": "shop", "name": "db-from-web",
                      "index": 0, "file": "kubernetes:NetworkPolicy/shop/db-from-web", "line": 0});
    let mut beyond = rule.clone();
    beyond["index"] = json!(9);
    let of = |rule: &Value| [("rule", rule.clone()), ("isolated_by", json!([]))];
    let folder = Folder::new(&[
        (
            "flows",
            &(record(1, &[]) + &record(2, &of(&rule)) + &record(3, &of(&beyond))),
        ),
        ("broken.yaml", "kind: ["),
    ]);
    fs::create_dir_all(folder.0.path().join("git/shop")).expect("a folder");
    fs::write(folder.0.path().join("git/shop/db.yaml"), DB_FROM_WEB).expect("a file");
    let output = folder.run(&["observe", "--file", "flows", "--sources", "git"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |start: &str| {
        let lines = DB_FROM_WEB.lines();
        lines
            .map(str::trim_start)
            .position(|line| line.starts_with(start))
            .expect("it has it")
            + 1
    };
    let (spec, first) = (line("spec:"), line("- from"));
    for place in [
        format!("shop/db-from-web git/shop/db.yaml:{spec}\n"),
        format!("shop/db-from-web[0] git/shop/db.yaml:{first}\n"),
        "shop/db-from-web[9] kubernetes:NetworkPolicy/shop/db-from-web\n".to_owned(),
    ] {
        assert!(text.contains(&place), "{place}: {text}");
    }
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    let folder = log();
    let text = |arguments: &[&str]| {
        let output = folder.run(&[&["observe", "--file", "flows"], arguments].concat());
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(!text(&[]).contains('\x1b'));
    assert!(!text(&["--color", "never"]).contains('\x1b'));
    assert!(text(&["--color", "always"]).contains("\x1b[31mdeny\x1b[0m"));
    let wide = text(&["--format", "wide"]);
    assert!(
        wide.starts_with("TIME ") && wide.lines().count() == 5,
        "{wide}"
    );
    assert!(wide.contains(" n2 "), "{wide}");
}

/// Answers one request on an agent's socket with these lines, and returns the request.
fn answering(folder: &Folder, lines: &'static [&'static str]) -> JoinHandle<String> {
    let listener = UnixListener::bind(folder.0.path().join("control.sock")).expect("a socket");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).expect("a request");
        for line in lines {
            writeln!(stream.get_mut(), "{line}").expect("the caller reads");
        }
        request
    })
}

#[test]
fn an_agent_of_another_version_is_told_of_in_a_sentence() {
    const REFUSED: &str =
        r#"{"failed":{"message":"the request is not understood: unknown field `filter`"}}"#;
    const OLD_RECORD: &str = r#"{"record":{"schema":"cofferdam/v1","type":"denied"}}"#;
    for (line, status, told) in [
        (&[REFUSED], 1, "not understood: unknown field `filter`"),
        (&[OLD_RECORD], 2, "differ in version: restart the agent"),
    ] {
        let folder = Folder::new(&[]);
        let agent = answering(&folder, line);
        let output = folder.run(&[
            "observe",
            "--run-dir",
            ".",
            "--port",
            "53",
            "--not",
            "--ip",
            "::1",
        ]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let error = String::from_utf8(output.stderr).expect("text");
        assert!(error.contains(told), "{error}");
        let request: Value = serde_json::from_str(&agent.join().expect("a request")).expect("JSON");
        let asked = &request["request"]["observe"];
        let filter = json!([{"any": [{"port": "53"}]}, {"not": true, "any": [{"ip": "::1/128"}]}]);
        assert_eq!(asked["filter"], filter);
    }
    // What an older agent knows it is asked as before.
    let folder = Folder::new(&[]);
    let agent = answering(&folder, &[r#""end""#]);
    let output = folder.run(&["observe", "-f", "--last", "3", "--run-dir", "."]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let request: Value = serde_json::from_str(&agent.join().expect("a request")).expect("JSON");
    assert_eq!(
        request["request"]["observe"],
        json!({"last": 3, "follow": true})
    );
}
