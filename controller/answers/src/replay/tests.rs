//! Records of each form against a shop.

use cofferdam_documents::{assemble, parse};
use cofferdam_reach::{PodNetworks, add_templates};
use serde_json::{Value, json};

use super::*;

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: api}}
  template: {metadata: {labels: {app: api}}, spec: {containers: [{name: c}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kv, namespace: shop}
spec:
  selector: {matchLabels: {app: kv}}
  template: {metadata: {labels: {app: kv}}, spec: {containers: [{name: c}]}}
---
";

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [db, api, kv]}]}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

/// A Cofferdam record of `from` to `to`, which are `namespace/name address`, or an address.
fn own(kind: &str, [from, to]: [&str; 2], port: u16, fields: &[(&str, Value)]) -> String {
    let end = |text: &str, port: u16| {
        let (name, address) = text.split_once(' ').unwrap_or(("", text));
        let (namespace, name) = name.split_once('/').unzip();
        let labels = match name {
            Some(name) => json!({"app": name.split('-').next()}),
            None => json!({}),
        };
        json!({"namespace": namespace, "workload": name, "address": address, "port": port,
               "labels": labels})
    };
    let denied = kind == "denied";
    let mut record = json!({
        "schema": "cofferdam/v1", "time": "2026-01-01T00:00:01.000000000Z", "type": kind,
        "node": "n1", "hook": "to_workload", "direction": "ingress",
        "verdict": if denied { "deny" } else { "allow" },
        "reason": if denied { "isolated" } else { "rule" }, "revision": 3, "count": 1,
        "rule": null, "isolated_by": [], "source": end(from, 40000),
        "destination": end(to, port), "protocol": "tcp",
        "tcp_flags": if kind == "ended" { Value::Null } else { "S".into() }, "icmp": null,
        "packets": 1, "bytes": 74, "duration_ms": 0
    });
    for (field, value) in fields {
        record[*field] = value.clone();
    }
    record.to_string()
}

/// Returns the report on some lines against the shop with this policy.
fn replayed(lines: &[String], policy: &str) -> WhatIfReport {
    let text = format!("{SHOP}{policy}");
    let parsed = parse("shop.yaml", text.as_bytes());
    assert_eq!(parsed.rejected, []);
    let mut records = Records::default();
    for line in lines {
        assert_eq!(records.take(line.as_bytes()), Ok(()), "{line}");
    }
    let given = |asked: &[String]| {
        let mut inventory = assemble(parsed.documents.iter().cloned()).inventory;
        let asked = asked.iter().map(String::as_str);
        let stand_ins = add_templates(&mut inventory, [&*parsed.context], asked);
        (inventory, stand_ins)
    };
    let (_, stand_ins) = given(&[]);
    let (inventory, stand_ins) = given(&records.asked(&stand_ins));
    let settings = Settings {
        stand_ins: &stand_ins,
        networks: &PodNetworks::default(),
        own_node_allowed: true,
        audited: false,
    };
    replay(&records, &inventory, &settings, Vec::new()).unwrap()
}

/// Changes in short: `denied shop/web -> shop/db tcp/80 3/0`.
fn changes(report: &WhatIfReport) -> Vec<String> {
    let change = |one: &ReplayedReport| {
        let ReplayedReport {
            kind, cell, seen, ..
        } = one;
        let (from, to, probe) = (&cell.source, &cell.destination, &cell.probe);
        format!(
            "{kind} {from} -> {to} {probe} {}/{}",
            seen.allowed, seen.denied
        )
    };
    report.changes.iter().map(change).collect()
}

/// The one reason for which nothing can be judged.
fn why(report: &WhatIfReport) -> &str {
    assert_eq!(changes(report), [""; 0]);
    let [one] = &report.unjudged[..] else {
        panic!("{report:#?}");
    };
    &one.why
}

const WEB: &str = "shop/web 10.0.0.1";
const DB: &str = "shop/db 10.0.0.2";

#[test]
fn records_of_one_connection_are_joined_and_counted_once() {
    let times = |kind, second: u8, fields: &[(&str, Value)]| {
        let time = json!(format!("2026-01-01T00:00:{second:02}.000000000Z"));
        own(kind, [WEB, DB], 80, &[fields, &[("time", time)]].concat())
    };
    let lines = [
        times("new", 5, &[("count", json!(2))]),
        times("ended", 7, &[]),
        times("denied", 2, &[("packets", json!(3))]),
        times("audit", 6, &[("packets", json!(1))]),
        own("new", [WEB, DB], 5432, &[]),
    ];
    let report = replayed(&lines, POLICY);
    assert_eq!(changes(&report), ["denied shop/web -> shop/db tcp/80 2/3"]);
    let change = &report.changes[0];
    assert_eq!(change.seen.first, "2026-01-01T00:00:02.000000000Z");
    assert_eq!(change.seen.last, "2026-01-01T00:00:07.000000000Z");
    assert_eq!(change.nearest.as_ref().unwrap().missed, ["port"]);
    assert_eq!((report.unchanged.allowed, report.unchanged.denied), (1, 0));
    assert_eq!((report.read.records, report.read.connections), (5, 2));
    // Where the newest record is a denial, it was denied.
    let lines = [lines[0].clone(), times("denied", 9, &[])];
    let report = replayed(&lines, POLICY);
    assert_eq!((changes(&report).len(), report.unchanged.denied), (0, 1));
    let report = replayed(&lines, "");
    assert_eq!(changes(&report), ["allowed shop/web -> shop/db tcp/80 2/1"]);
}

#[test]
fn what_opens_nothing_and_what_policy_did_not_decide_are_passed_over() {
    let denied = |fields: &[(&str, Value)]| own("denied", [WEB, DB], 80, fields);
    let icmp = |kind: u8| {
        let kind = json!({"type": kind, "code": 0});
        denied(&[
            ("protocol", json!("icmp")),
            ("tcp_flags", Value::Null),
            ("icmp", kind),
        ])
    };
    let lines = [
        denied(&[("tcp_flags", json!("SA"))]),
        denied(&[("tcp_flags", json!("A"))]),
        icmp(0),
        icmp(3),
        denied(&[("reason", json!("spoofed_source"))]),
        denied(&[("protocol", json!("arp")), ("tcp_flags", Value::Null)]),
        denied(&[
            ("protocol", json!("udp")),
            ("tcp_flags", Value::Null),
            ("destination", json!({"address": "10.0.0.2", "labels": {}})),
        ]),
        icmp(8),
    ];
    let report = replayed(&lines, "");
    assert_eq!(
        changes(&report),
        ["allowed shop/web -> shop/db icmp/8/0 0/1"]
    );
    let passed: Vec<_> = (report.read.passed_over.iter())
        .map(|one| (one.why, one.records))
        .collect();
    assert_eq!(
        passed,
        [
            (PassedOver::Answer, 4),
            (PassedOver::NotByPolicy, 1),
            (PassedOver::NotAsked, 2)
        ]
    );
}

#[test]
fn pods_of_templates_are_found_by_their_names() {
    let of = |from: &str, to: &str| own("new", [from, to], 5432, &[]);
    let api = |end: &str| format!("shop/api-5d9bcf7-{end} 10.9.0.1");
    let lines = [
        of(WEB, &api("bcdfg")),
        of(WEB, &api("hjklm")),
        // Two pods of one template are two, not one that reaches itself.
        of(&api("bcdfg"), &api("hjklm")),
        of(&api("bcdfg"), &api("bcdfg")),
        of("shop/kv-0 10.9.0.3", "shop/kv-2 10.9.0.4"),
        own("denied", [DB, &api("hjklm")], 5432, &[]),
    ];
    let report = replayed(&lines, POLICY);
    assert_eq!(report.unjudged, []);
    assert_eq!(
        changes(&report),
        [
            "denied shop/api -> shop/api#2 tcp/5432 1/0",
            "denied shop/kv -> shop/kv#3 tcp/5432 1/0",
        ]
    );
    assert_eq!((report.unchanged.allowed, report.unchanged.denied), (2, 1));
    assert_eq!(report.hypothetical, []);
}

#[test]
fn a_pod_that_the_documents_do_not_know_is_judged_by_its_labels_or_not_at_all() {
    let from = |name: &str| own("new", [name, DB], 5432, &[]);
    let report = replayed(
        &[from("shop/job-1 10.0.0.9"), from("shop/web-1 10.0.0.8")],
        POLICY,
    );
    assert_eq!(
        changes(&report),
        ["denied shop/job-1 -> shop/db tcp/5432 1/0"]
    );
    assert_eq!(report.unchanged.allowed, 1, "labels of web let in");
    assert_eq!(report.hypothetical.len(), 1);
    assert_eq!(report.hypothetical[0].id, "shop/job-1");
    // Whose namespace nobody knows might be let in by its labels.
    let stranger = [from("guests/web-1 10.0.0.9")];
    assert_eq!(changes(&replayed(&stranger, POLICY)).len(), 1);
    let by_team = POLICY.replace(
        "{podSelector: {matchLabels: {app: web}}}",
        "{namespaceSelector: {matchLabels: {team: b}}}",
    );
    let report = replayed(&stranger, &by_team);
    assert!(
        why(&report).contains("label team of its namespace"),
        "{}",
        why(&report)
    );
    // Nothing says what it calls its ports.
    let named = POLICY.replace("port: 5432", "port: sql");
    let to = [own("new", [WEB, "shop/db-9 10.0.0.9"], 5432, &[])];
    assert!(why(&replayed(&to, &named)).contains("policies name ports"));
    // Two pods alike are two.
    let both = [own(
        "new",
        ["shop/kv-x 10.0.0.8", "shop/kv-y 10.0.0.9"],
        5432,
        &[],
    )];
    assert_eq!(
        changes(&replayed(&both, POLICY)),
        ["denied shop/kv-x -> shop/kv-x#2 tcp/5432 1/0"]
    );
}

#[test]
fn nodes_are_judged_where_the_documents_know_them() {
    let mut line: Value = serde_json::from_str(&own("denied", ["192.0.2.9", DB], 80, &[])).unwrap();
    line["source"]["node"] = json!("n9");
    assert_eq!(
        why(&replayed(&[line.to_string()], "")),
        "the documents do not know the node n9"
    );
    line["source"]["node"] = json!("n1");
    let report = replayed(&[line.to_string()], POLICY);
    assert_eq!(changes(&report), ["allowed node/n1 -> shop/db tcp/80 0/1"]);
    // A pod whose node nobody knows may be on it.
    let mut line: Value =
        serde_json::from_str(&own("new", ["192.0.2.1", "shop/kv-0 10.9.0.3"], 80, &[])).unwrap();
    line["source"]["node"] = json!("n1");
    let report = replayed(&[line.to_string()], POLICY);
    assert!(
        why(&report).contains("may be the node of shop/kv"),
        "{}",
        why(&report)
    );
}

#[test]
fn an_end_whose_address_decides_is_not_judged() {
    let block = POLICY.replace(
        "{podSelector: {matchLabels: {app: web}}}",
        "{ipBlock: {cidr: 10.0.0.0/9}}",
    );
    let line = [own(
        "new",
        ["shop/api-5d9bcf7-bcdfg 10.9.0.1", DB],
        5432,
        &[],
    )];
    assert!(why(&replayed(&line, &block)).contains("--pod-cidr"));
    let outside = [own("new", ["203.0.113.7", DB], 5432, &[])];
    assert_eq!(
        changes(&replayed(&outside, &block)),
        ["denied 203.0.113.7 -> shop/db tcp/5432 1/0"]
    );
}

/// A flow of Hubble from web to the database.
fn hubble(fields: &[(&str, Value)]) -> Value {
    let end = |name: &str| {
        json!({"ID": 423, "identity": 24753, "namespace": "shop", "pod_name": name,
               "labels": [format!("k8s:app={name}"),
                          "k8s:io.cilium.k8s.namespace.labels.team=a",
                          "k8s:io.kubernetes.pod.namespace=shop"]})
    };
    let mut flow = json!({
        "time": "2026-01-01T00:00:02.5Z", "uuid": "1", "verdict": "FORWARDED",
        "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": true}}},
        "source": end("web"), "destination": end("db"), "Type": "L3_L4", "node_name": "c/n1",
        "traffic_direction": "INGRESS", "is_reply": false, "Summary": "TCP Flags: SYN"
    });
    for (field, value) in fields {
        flow[*field] = value.clone();
    }
    flow
}

#[test]
fn flows_of_hubble_are_read_bare_and_wrapped() {
    let bare = hubble(&[]).to_string();
    let wrapped =
        json!({"flow": hubble(&[]), "node_name": "c/n1", "time": "2026-01-01T00:00:02.5Z"});
    let lost = json!({"lost_events": {"num_events_lost": 3}, "node_name": "c/n1"});
    let report = replayed(&[bare, wrapped.to_string(), lost.to_string()], POLICY);
    assert_eq!(changes(&report), ["denied shop/web -> shop/db tcp/80 2/0"]);
    assert_eq!(report.read.forms, BTreeMap::from([(Form::Hubble, 3)]));
    assert_eq!(
        report.changes[0].seen.first,
        "2026-01-01T00:00:02.500000000Z"
    );

    let udp = json!({"UDP": {"source_port": 4000, "destination_port": 53}});
    let ack = json!({"TCP": {"destination_port": 80, "flags": {"ACK": true}}});
    for (fields, expected) in [
        // Let out at the sender, and dropped at the receiver.
        (vec![("verdict", json!("DROPPED"))], None),
        (
            vec![("verdict", json!("AUDIT"))],
            Some("denied shop/web -> shop/db tcp/80 1/0"),
        ),
        (vec![("verdict", json!("TRACED"))], None),
        (vec![("is_reply", json!(true))], None),
        (
            vec![("l4", udp.clone())],
            Some("denied shop/web -> shop/db udp/53 1/0"),
        ),
        (vec![("l4", udp), ("is_reply", Value::Null)], None),
        (
            vec![("l4", ack.clone())],
            Some("denied shop/web -> shop/db tcp/80 1/0"),
        ),
        (vec![("l4", ack), ("is_reply", Value::Null)], None),
        (
            vec![("l4", json!({"ICMPv4": {"type": 8}}))],
            Some("denied shop/web -> shop/db icmp/8/0 1/0"),
        ),
        (vec![("l4", json!({"ICMPv4": {}}))], None),
        (vec![("l4", Value::Null)], None),
    ] {
        let report = replayed(&[hubble(&fields).to_string()], POLICY);
        assert_eq!(changes(&report), Vec::from_iter(expected), "{fields:?}");
    }
    let dropped = |reason: &str| {
        let fields = [
            ("verdict", json!("DROPPED")),
            ("drop_reason_desc", json!(reason)),
        ];
        changes(&replayed(&[hubble(&fields).to_string()], "")).len()
    };
    assert_eq!(
        (dropped("POLICY_DENIED"), dropped("INVALID_SOURCE_IP")),
        (1, 0)
    );
}

#[test]
fn ends_of_hubble_that_are_no_pods_are_told_apart() {
    let from = |labels: Value, address: &str| {
        let ip = json!({"source": address, "destination": "10.0.0.2"});
        let fields = [
            ("source", json!({"identity": 1, "labels": labels})),
            ("IP", ip),
        ];
        replayed(&[hubble(&fields).to_string()], POLICY)
    };
    let world = from(json!(["reserved:world"]), "203.0.113.7");
    assert_eq!(
        changes(&world),
        ["denied 203.0.113.7 -> shop/db tcp/80 1/0"]
    );
    // The node that observes is the pod's own.
    let host = from(json!(["reserved:host"]), "10.200.0.1");
    assert_eq!((changes(&host).len(), host.unchanged.allowed), (0, 1));
    let abroad = from(
        json!(["k8s:io.cilium.k8s.policy.cluster=d", "k8s:app=web"]),
        "10.0.0.1",
    );
    assert!(why(&abroad).contains("of cluster d"));
    let remote = from(json!(["reserved:remote-node"]), "192.0.2.7");
    assert!(why(&remote).contains("the node 192.0.2.7"));
    assert!(why(&from(json!(["reserved:health"]), "10.200.0.2")).contains("reserved:health"));
    assert!(why(&from(json!(["k8s:app=x"]), "10.200.0.2")).contains("without a name"));
}

#[test]
fn labels_that_hubble_leaves_out_are_not_taken_for_absent() {
    let unknown = json!({"namespace": "shop", "pod_name": "job-1", "labels": ["k8s:app=job"]});
    let line = [hubble(&[("source", unknown)]).to_string()];
    assert_eq!(changes(&replayed(&line, POLICY)).len(), 1);
    let by_zone = POLICY.replace(
        "{matchLabels: {app: web}}",
        "{matchLabels: {kubernetes.io/x: y}}",
    );
    assert!(why(&replayed(&line, &by_zone)).contains("label kubernetes.io/x"));
    // With its namespace's labels even a namespace that the documents lack is known.
    let guest = json!({"namespace": "guests", "pod_name": "a", "labels": [
        "k8s:app=a", "k8s:io.cilium.k8s.namespace.labels.team=b"]});
    let by_team = POLICY
        .replace(
            "{podSelector: {matchLabels: {app: web}}}",
            "{namespaceSelector: {matchLabels: {team: b}}}",
        )
        .replace("port: 5432", "port: 80");
    let report = replayed(&[hubble(&[("source", guest)]).to_string()], &by_team);
    assert_eq!(
        (changes(&report).len(), report.unchanged.allowed),
        (0, 1),
        "{report:#?}"
    );
}

/// A flow log of Calico from web to the database.
fn calico(fields: &[(&str, Value)]) -> String {
    let mut log = json!({
        "start_time": 1_767_225_600, "end_time": 1_767_225_900, "action": "allow",
        "reporter": "dst", "proto": "tcp", "num_flows": 4, "num_flows_started": 2,
        "source_ip": "10.0.0.1", "source_port": 40000, "source_name": "web",
        "source_name_aggr": "web-*", "source_namespace": "shop", "source_type": "wep",
        "source_labels": {"labels": ["app=web", "projectcalico.org/namespace=shop"]},
        "dest_ip": "10.0.0.2", "dest_port": 80, "dest_name": "db", "dest_name_aggr": "db",
        "dest_namespace": "shop", "dest_type": "wep", "dest_labels": {"labels": ["app=db"]},
        "packets_in": 9, "packets_out": 8
    });
    for (field, value) in fields {
        log[*field] = value.clone();
    }
    log.to_string()
}

#[test]
fn flow_logs_of_calico_are_read_whole_and_aggregated() {
    let report = replayed(&[calico(&[])], POLICY);
    assert_eq!(changes(&report), ["denied shop/web -> shop/db tcp/80 4/0"]);
    let seen = &report.changes[0].seen;
    let times = (
        "2026-01-01T00:00:00.000000000Z",
        "2026-01-01T00:05:00.000000000Z",
    );
    assert_eq!((&*seen.first, &*seen.last), times);
    // The sender let it out, and the receiver did not let it in.
    let src = calico(&[("reporter", json!("src"))]);
    let dst = calico(&[("action", json!("deny"))]);
    let report = replayed(&[dst, src], POLICY);
    assert_eq!((changes(&report).len(), report.unchanged.denied), (0, 1));
    let aggregated = |from: &str, labels: Value| {
        calico(&[
            ("source_name", json!("-")),
            ("source_name_aggr", json!(from)),
            ("source_ip", Value::Null),
            ("dest_ip", Value::Null),
            ("source_labels", labels),
            ("dest_port", json!(5432)),
        ])
    };
    let report = replayed(&[aggregated("api-5d9bcf7-*", Value::Null)], POLICY);
    assert_eq!(
        changes(&report),
        ["denied shop/api -> shop/db tcp/5432 4/0"]
    );
    let unknown = replayed(&[aggregated("job-*", Value::Null)], POLICY);
    assert!(why(&unknown).contains("the record has no labels"));
    // Of several pods a record has the labels that they share.
    let labels = |label: &str| json!({"labels": [label]});
    let report = replayed(&[aggregated("job-*", labels("app=job"))], POLICY);
    assert_eq!(
        changes(&report),
        ["denied shop/job-* -> shop/db tcp/5432 4/0"]
    );
    let unknown = replayed(&[aggregated("job-*", labels("x=y"))], POLICY);
    assert!(why(&unknown).contains("label app"));
}

#[test]
fn ends_of_calico_that_are_no_pods_are_told_apart() {
    let from = |kind: &str, name: &str, ip: Value| {
        let fields = [
            ("source_type", json!(kind)),
            ("source_name", json!("-")),
            ("source_name_aggr", json!(name)),
            ("source_namespace", json!("-")),
            ("source_labels", Value::Null),
            ("source_ip", ip),
        ];
        replayed(&[calico(&fields)], POLICY)
    };
    let public = from("net", "pub", json!("203.0.113.7"));
    assert_eq!(
        changes(&public),
        ["denied 203.0.113.7 -> shop/db tcp/80 4/0"]
    );
    assert!(why(&from("net", "pub", Value::Null)).contains("net pub"));
    let host = from("hep", "n1", Value::Null);
    assert_eq!((changes(&host).len(), host.unchanged.allowed), (0, 1));
    // Whisker names no types, and writes labels as one text.
    let mut log: Value = serde_json::from_str(&calico(&[])).unwrap();
    let fields = log.as_object_mut().unwrap();
    for gone in [
        "source_type",
        "dest_type",
        "source_ip",
        "dest_ip",
        "num_flows",
        "proto",
    ] {
        fields.remove(gone);
    }
    for (key, value) in [
        ("action", "Deny"),
        ("reporter", "Dst"),
        ("protocol", "tcp"),
        ("start_time", "2026-01-01T00:00:00Z"),
        ("end_time", "2026-01-01T00:05:00Z"),
        ("source_labels", "app=web | x=y"),
        ("dest_labels", "app=db"),
    ] {
        fields.insert(key.to_owned(), json!(value));
    }
    let report = replayed(&[log.to_string()], "");
    assert_eq!(changes(&report), ["allowed shop/web -> shop/db tcp/80 0/1"]);
}

#[test]
fn lines_that_are_no_records_are_refused_with_a_reason() {
    let mut records = Records::default();
    let half = own("new", [WEB, DB], 80, &[]);
    for (line, part) in [
        (&half[..40], "not JSON"),
        ("[]", "no flow record"),
        ("{}", "no flow record"),
        (r#"{"schema":"cofferdam/v2"}"#, "of Cofferdam"),
        (
            r#"{"verdict":"MAYBE","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"time":"2026-01-01T00:00:00Z"}"#,
            "no verdict",
        ),
        (
            &own("new", [WEB, DB], 80, &[("time", json!("today"))]),
            "no time",
        ),
        (
            &own("new", [WEB, DB], 80, &[("protocol", json!("tpc"))]),
            "no protocol",
        ),
        (&calico(&[("action", json!("pass?"))]), "no action"),
        (&calico(&[("source_ip", json!("10.0.0"))]), "no address"),
        (&calico(&[("dest_port", json!(-1))]), "of Calico"),
    ] {
        let refused = records.take(line.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(part), "{refused} of {line}");
    }
    assert_eq!((records.count(), records.unreadable()), (0, 10));
}
