//! `cofferdam what-if`: records replayed against policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cofferdam_tests::generate;
use cofferdam_tests::shop::DB_FROM_WEB;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::{Folder, SHOP, valid};

/// A flow log's line: `from` to the database of the shop.
fn record(from: &str, address: &str, port: u16, second: u32) -> String {
    json!({
        "schema": "cofferdam/v1", "time": format!("2026-01-01T00:00:{second:02}.000000000Z"),
        "type": "new", "node": "n1", "hook": "to_workload", "direction": "ingress",
        "verdict": "allow", "reason": "rule", "revision": 7, "count": 1, "rule": null,
        "isolated_by": [],
        "source": {"namespace": "shop", "workload": from, "address": address, "port": 40000,
                   "labels": {"app": from}},
        "destination": {"namespace": "shop", "workload": "db", "address": "10.0.0.2",
                        "port": port, "labels": {"app": "db"}},
        "protocol": "tcp", "tcp_flags": "S", "icmp": null, "packets": 1, "bytes": 60,
        "duration_ms": 0,
    })
    .to_string()
        + "\n"
}

/// A shop with two files of one log, which has a line in it that is none.
fn shop() -> Folder {
    let oldest = record("web", "10.0.0.1", 80, 1) + &record("web", "10.0.0.1", 5432, 2);
    let newest = record("web", "10.0.0.1", 80, 3) + "half a li";
    Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("flows.1", &oldest),
        ("flows", &newest),
    ])
}

const COMMAND: [&str; 5] = ["what-if", "flows", "--policies", "shop.yaml", "db.yaml"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&COMMAND[..], more].concat()
}

#[test]
fn a_connection_that_would_be_denied_is_told_with_the_line_and_the_nearest_miss() {
    let folder = shop();
    let output = folder.run(&COMMAND);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(
        text,
        "\
- shop/web -> shop/db  tcp/80
    allowed 2 times, 2026-01-01T00:00:01Z to 2026-01-01T00:00:03Z
    ingress: denied, isolated by shop/db-from-web, db.yaml:4, and no rule allows it
    nearest miss: shop/db-from-web ingress[0], db.yaml:7 would allow it but for the port: it has tcp/5432

1 newly denied, 0 newly allowed, 1 as before
1 of 4 lines are no flow records
"
    );
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.starts_with("flows:2: no flow record: "), "{told}");
    let md = folder.said(0, &with(&["--format", "md"]));
    let head = "### Seen connections: 1 newly denied, 0 newly allowed, 1 as before\n";
    assert!(md.starts_with(head), "{md}");
    assert!(md.contains("| **denied** | `shop/web` | `shop/db` | `tcp/80` | allowed 2 times"));
}

#[test]
fn json_is_as_its_schema_has_it() {
    let report = shop().json(0, "what-if.json", &COMMAND);
    assert_eq!(
        (&report["denied"], &report["allowed"]),
        (&json!(1), &json!(0))
    );
    let change = &report["changes"][0];
    assert_eq!(change["source"], "shop/web");
    assert_eq!(change["nearest"]["missed"], json!(["port"]));
    let seen = json!({"allowed": 2, "denied": 0, "first": "2026-01-01T00:00:01.000000000Z",
                      "last": "2026-01-01T00:00:03.000000000Z"});
    assert_eq!(change["seen"], seen);
    let read = json!({"lines": 4, "records": 3, "forms": {"cofferdam": 3}, "connections": 2,
                      "passed_over": [], "unreadable": 1});
    assert_eq!(report["read"], read);
    assert_eq!(report["unreadable"][0]["file"], "flows");
    assert_eq!(report["unreadable"][0]["line"], 2);
}

#[test]
fn the_status_says_what_was_asked_for() {
    let folder = shop();
    for (more, status) in [
        (&[][..], 0),
        (&["--fail-on", "denied"], 1),
        (&["--fail-on", "allowed"], 0),
        (&["--fail-on", "any"], 1),
        // Half a line may have been a denial.
        (&["--strict"], 1),
    ] {
        folder.said(status, &with(more));
    }
    let piped = [
        "what-if",
        "-",
        "--policies",
        "shop.yaml",
        "db.yaml",
        "--strict",
    ];
    let whole = record("web", "10.0.0.1", 5432, 2);
    let output = folder.run_with(&piped, &whole);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let unknown =
        record("web", "10.0.0.1", 5432, 2).replace("\"labels\":{\"app\":\"web\"}", "\"labels\":{}");
    let node = unknown.replace("\"workload\":\"web\"", "\"node\":\"n7\"");
    let output = folder.run_with(&piped, &node);
    assert_eq!(
        output.status.code(),
        Some(1),
        "what cannot be judged: {output:?}"
    );
    let complaint = folder.complaint(&["what-if", "db.yaml", "--policies", "shop.yaml"]);
    assert!(complaint.contains("no flow record"), "{complaint}");
    folder.complaint(&["what-if", "nowhere", "--policies", "shop.yaml"]);
}

#[test]
fn policies_on_trial_count_if_asked_for() {
    let folder = shop();
    let trial = DB_FROM_WEB.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {cofferdam.dev/mode: audit}}",
    );
    std::fs::write(folder.0.path().join("db.yaml"), trial).expect("a file");
    folder.said(0, &with(&["--fail-on", "denied"]));
    folder.said(1, &with(&["--fail-on", "denied", "--audit"]));
}

#[test]
fn names_in_records_act_on_no_terminal_and_no_table() {
    let folder = shop();
    let hostile = "a`|\u{1b}[31m\u{202e}";
    let line = record(hostile, "10.0.0.9", 5432, 1).replace('\n', "") + "\n" + hostile;
    for format in ["text", "md"] {
        let command = [
            "what-if",
            "-",
            "--policies",
            "shop.yaml",
            "db.yaml",
            "--format",
            format,
        ];
        let output = folder.run_with(&command, &line);
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(
            said.contains("shop/a") && !said.contains('\u{1b}'),
            "{said}"
        );
        assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{1b}'));
        assert!(format == "text" || !said.contains("a`|"), "{said}");
    }
}

/// Documents of a world without its policies, and its policies.
fn world(rng: &mut Rng) -> (Vec<String>, Vec<String>) {
    let text = generate::documents(rng);
    let documents = text.split("---\n").map(str::to_owned);
    let (mut policies, mut others): (Vec<_>, Vec<_>) =
        documents.partition(|text| text.contains("NetworkPolicy"));
    for (number, pod) in (2u8..).zip(generate::pods(rng)) {
        let addresses = [format!("10.64.0.{number}"), format!("fd64::{number}")]
            .map(|text| text.parse::<IpAddr>().expect("an address"));
        others.push(pod.document(&addresses));
    }
    policies.sort();
    (others, policies)
}

/// An end of a cell, as an observer of either kind would name it.
struct Named<'w> {
    labels: &'w BTreeMap<String, Value>,
    id: &'w str,
    address: &'w str,
}

impl Named<'_> {
    fn pod(&self) -> Option<(&str, &str)> {
        let (first, second) = self.id.split_once('/')?;
        (first != "node").then_some((first, second))
    }

    fn label_texts(&self, before: &str) -> Vec<String> {
        let labels = self
            .labels
            .get(self.id)
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        labels
            .map(|(key, value)| format!("{before}{key}={}", value.as_str().unwrap_or_default()))
            .collect()
    }
}

/// A record of a cell in one of the forms.
fn observed(rng: &mut Rng, cell: &Value, [from, to]: [&Named<'_>; 2]) -> Value {
    let (protocol, port) = cell["probe"]
        .as_str()
        .and_then(|probe| probe.split_once('/'))
        .expect("a probe");
    let port: u16 = port.parse().expect("a port");
    let is_allowed = cell["verdict"] == "allow";
    match rng.u8(..3) {
        0 => {
            let end = |named: &Named<'_>, port: u16| {
                let (namespace, workload) = named.pod().unzip();
                let labels = named.labels.get(named.id).cloned().unwrap_or(json!({}));
                let mut end = json!({"namespace": namespace, "workload": workload,
                                     "address": named.address, "port": port, "labels": labels});
                if let Some(node) = named.id.strip_prefix("node/") {
                    end["node"] = json!(node);
                }
                end
            };
            json!({
                "schema": "cofferdam/v1", "time": "2026-01-01T00:00:00.000000000Z",
                "type": if is_allowed { "new" } else { "denied" }, "node": "n1",
                "hook": "from_workload", "direction": if rng.bool() { "egress" } else { "ingress" },
                "verdict": cell["verdict"], "reason": if is_allowed { "rule" } else { "isolated" },
                "revision": 1, "count": 1, "rule": null, "isolated_by": [],
                "source": end(from, 40000), "destination": end(to, port), "protocol": protocol,
                "tcp_flags": if protocol == "tcp" { json!("S") } else { Value::Null },
                "icmp": null, "packets": 1, "bytes": 60, "duration_ms": 0
            })
        }
        1 => {
            let end = |named: &Named<'_>| match named.pod() {
                Some((namespace, name)) => json!({"namespace": namespace, "pod_name": name,
                                                  "labels": named.label_texts("k8s:")}),
                None => json!({"labels": ["reserved:remote-node"]}),
            };
            let ports = json!({"source_port": 40000, "destination_port": port});
            let mut l4 = json!({protocol.to_uppercase(): ports});
            if protocol == "tcp" {
                l4["TCP"]["flags"] = json!({"SYN": true});
            }
            let flow = json!({
                "time": "2026-01-01T00:00:00Z",
                "verdict": if is_allowed { "FORWARDED" } else { "DROPPED" },
                "drop_reason_desc": if is_allowed { "" } else { "POLICY_DENIED" },
                "IP": {"source": from.address, "destination": to.address}, "l4": l4,
                "source": end(from), "destination": end(to), "is_reply": false,
                "traffic_direction": if rng.bool() { "EGRESS" } else { "INGRESS" }
            });
            match rng.bool() {
                true => flow,
                false => json!({"flow": flow, "node_name": "n1"}),
            }
        }
        _ => {
            let mut log = json!({
                "start_time": 1, "end_time": 2, "action": if is_allowed { "allow" } else { "deny" },
                "reporter": if rng.bool() { "src" } else { "dst" }, "proto": protocol,
                "dest_port": port, "num_flows": 1
            });
            for (side, named) in [("source", from), ("dest", to)] {
                let (namespace, name) = named.pod().unwrap_or(("-", "-"));
                let node = named.id.strip_prefix("node/");
                let kind = if node.is_some() { "hep" } else { "wep" };
                for (key, value) in [
                    ("type", json!(kind)),
                    ("ip", json!(named.address)),
                    ("name", json!(name)),
                    ("name_aggr", json!(node.unwrap_or(name))),
                    ("namespace", json!(namespace)),
                    ("labels", json!({"labels": named.label_texts("")})),
                ] {
                    log[format!("{side}_{key}")] = value;
                }
            }
            log
        }
    }
}

const PROBES: [&str; 8] = [
    "--probe", "tcp/80", "--probe", "tcp/443", "--probe", "udp/81", "--probe", "sctp/79",
];

/// Each cell of one set of policies, as a record, says under another set what that set's
/// own cell says.
#[test]
fn replayed_cells_differ_where_the_matrices_differ() {
    let (mut denied, mut allowed, mut same) = (0, 0, 0);
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        let (others, before) = world(&mut rng);
        let (_, after) = world(&mut rng);
        let folder = Folder::new(&[
            ("others.yaml", &others.join("---\n")),
            (
                "before.yaml",
                &("# policies\n".to_owned() + &before.join("---\n")),
            ),
            (
                "after.yaml",
                &("# policies\n".to_owned() + &after.join("---\n")),
            ),
        ]);
        let matrix = |policies: &str| {
            let command = [
                "matrix",
                "others.yaml",
                policies,
                "--family",
                "4",
                "--format",
                "json",
            ];
            let output = folder.run(&[&command[..], &PROBES].concat());
            assert!(output.stderr.is_empty(), "{output:?}");
            valid(
                "matrix.json",
                &String::from_utf8(output.stdout).expect("text"),
            )
        };
        let [old, new] = ["before.yaml", "after.yaml"].map(matrix);
        let key =
            |cell: &Value| ["source", "destination", "probe"].map(|key| cell[key].to_string());
        let verdicts: BTreeMap<_, _> = (new["cells"].as_array().expect("cells").iter())
            .map(|cell| (key(cell), cell["verdict"].clone()))
            .collect();
        let addresses: BTreeMap<&str, &str> = (old["ends"].as_array().expect("ends").iter())
            .filter_map(|end| {
                let mut own = end["addresses"]
                    .as_array()?
                    .iter()
                    .filter_map(Value::as_str);
                Some((end["id"].as_str()?, own.find(|one| !one.contains(':'))?))
            })
            .collect();
        let labels = labels(&others);
        let mut lines = String::new();
        let mut expected: BTreeSet<(String, [String; 3])> = BTreeSet::new();
        for cell in old["cells"].as_array().expect("cells") {
            let end = |side: &str| {
                let id = cell[side].as_str().expect("an end");
                Named {
                    labels: &labels,
                    id,
                    address: addresses[id],
                }
            };
            let [from, to] = [end("source"), end("destination")];
            let is_to_itself = from.id == to.id;
            // A pod on its node's network is that node to every observer.
            if is_to_itself || [&from, &to].iter().any(|end| end.id == "y/h") {
                continue;
            }
            let record = observed(&mut rng, cell, [&from, &to]);
            lines += &format!("{record}\n");
            let now = &verdicts[&key(cell)];
            if *now != cell["verdict"] {
                expected.insert((
                    if now == "deny" { "denied" } else { "allowed" }.to_owned(),
                    key(cell),
                ));
            } else {
                same += 1;
            }
        }
        std::fs::write(folder.0.path().join("flows"), lines).expect("a file");
        let command = [
            "what-if",
            "flows",
            "--policies",
            "others.yaml",
            "after.yaml",
        ];
        let report = folder.json(0, "what-if.json", &command);
        assert_eq!(report["unjudged"], json!([]), "seed {seed}");
        let changes = report["changes"].as_array().expect("changes");
        let found: BTreeSet<(String, [String; 3])> = (changes.iter())
            .map(|change| {
                (
                    change["kind"].as_str().expect("a kind").to_owned(),
                    key(change),
                )
            })
            .collect();
        assert_eq!(found, expected, "seed {seed}");
        let count = |kind: &str| expected.iter().filter(|(own, _)| own == kind).count();
        denied += count("denied");
        allowed += count("allowed");
    }
    assert!(
        denied > 100 && allowed > 100 && same > 1000,
        "{denied} {allowed} {same}"
    );
}

/// The labels of pods by their names.
fn labels(documents: &[String]) -> BTreeMap<String, Value> {
    let all = documents.iter().map(|text| {
        let text = text.trim_start_matches("---\n");
        serde_yaml::from_str::<Value>(text).expect("YAML")
    });
    let pods = all.filter(|document| document["kind"] == "Pod");
    pods.map(|pod| {
        let of = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        (
            format!("{}/{}", of("namespace"), of("name")),
            pod["metadata"]["labels"].clone(),
        )
    })
    .collect()
}
