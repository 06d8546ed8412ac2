//! `cofferdam matrix`.

use cofferdam_tests::shop::DB_FROM_WEB;
use serde_json::{Value, json};

use crate::{Folder, SHOP};

/// The cell of these ends.
fn cell<'a>(matrix: &'a Value, source: &str, destination: &str, probe: &str) -> &'a Value {
    let cells = matrix["cells"].as_array().expect("a list");
    let mut found = cells.iter().filter(|cell| {
        cell["source"] == source && cell["destination"] == destination && cell["probe"] == probe
    });
    let cell = found
        .next()
        .unwrap_or_else(|| panic!("{source} {destination} {probe}"));
    assert!(found.next().is_none(), "a cell twice");
    cell
}

fn rule(matrix: &Value, id: &Value) -> Value {
    let rules = matrix["rules"].as_array().expect("a list");
    let mut rule = rules
        .iter()
        .find(|rule| rule["id"] == *id)
        .expect("a rule")
        .clone();
    rule.as_object_mut().expect("an object").remove("id");
    rule
}

#[test]
fn cells_name_the_rule_that_decided_or_who_isolates() {
    let matrix = Folder::shop().json(
        0,
        "matrix.json",
        &[
            "matrix",
            ".",
            "--probe",
            "tcp/5432",
            "--probe",
            "icmp/8",
            "--external",
            "net=203.0.113.7",
        ],
    );
    assert_eq!(matrix["schema"], "cofferdam/v1");
    assert_eq!(matrix["family"], 4);
    let ends: Vec<(&str, &str)> = (matrix["ends"].as_array().expect("a list").iter())
        .map(|end| (end["id"].as_str().unwrap(), end["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(
        ends,
        [
            ("shop/db", "pod"),
            ("shop/web", "pod"),
            ("node/n1", "node"),
            ("external/net", "external")
        ]
    );
    assert_eq!(matrix["cells"].as_array().expect("a list").len(), 4 * 4 * 2);
    let allowed = cell(&matrix, "shop/web", "shop/db", "tcp/5432");
    assert_eq!(
        allowed["egress"],
        json!({"verdict": "allow", "reason": "not_isolated", "rule": null})
    );
    assert_eq!(
        (&allowed["verdict"], &allowed["audit"]),
        (&json!("allow"), &Value::Null)
    );
    assert_eq!(
        rule(&matrix, &allowed["ingress"]["rule"]),
        json!({"kind": "NetworkPolicy", "tier": "namespace", "namespace": "shop",
               "name": "db-from-web", "direction": "ingress", "index": 0,
               "file": "./db.yaml", "line": 7})
    );
    let denied = cell(&matrix, "external/net", "shop/db", "icmp/8");
    assert_eq!(denied["verdict"], "deny");
    assert_eq!(denied["ingress"]["reason"], "isolated");
    assert_eq!(denied["ingress"]["rule"], Value::Null);
    let isolating = denied["ingress"]["isolated_by"].as_array().expect("a list");
    assert_eq!(isolating.len(), 1);
    let isolating = rule(&matrix, &isolating[0]);
    assert_eq!(
        (&isolating["index"], &isolating["line"]),
        (&Value::Null, &json!(4))
    );
    let own_node = cell(&matrix, "node/n1", "shop/db", "icmp/8");
    assert_eq!(own_node["ingress"]["reason"], "own_node");
    let own = cell(&matrix, "shop/db", "shop/db", "tcp/5432");
    assert_eq!(own["egress"]["reason"], "self");
}

#[test]
fn the_family_is_chosen_by_the_ends_or_by_the_user() {
    let folder = Folder::shop();
    let six = folder.json(
        0,
        "matrix.json",
        &["matrix", ".", "--probe", "tcp/80", "--family", "6"],
    );
    // The node has no IPv6 address.
    assert_eq!(
        (&six["family"], six["cells"].as_array().unwrap().len()),
        (&json!(6), 4)
    );
    let chosen = folder.json(
        0,
        "matrix.json",
        &[
            "matrix",
            ".",
            "--probe",
            "tcp/80",
            "--from",
            "fd00::9",
            "--to",
            "2001:db8::1",
        ],
    );
    assert_eq!(
        (&chosen["family"], chosen["cells"].as_array().unwrap().len()),
        (&json!(6), 1)
    );
    // ICMPv6 over IPv4 is nothing that anybody asks about; beside others it has to be one
    // family for all.
    for (probes, family) in [
        (&["icmpv6/128"][..], 6),
        (&["icmpv6/128", "tcp/80"], 4),
        (&["icmp/8"], 4),
    ] {
        let mut arguments = vec!["matrix", "."];
        arguments.extend(probes.iter().flat_map(|probe| ["--probe", probe]));
        let matrix = folder.json(0, "matrix.json", &arguments);
        assert_eq!(matrix["family"], json!(family), "{probes:?}");
    }
}

#[test]
fn standard_input_is_a_path() {
    let folder = Folder::new(&[("db.yaml", DB_FROM_WEB)]);
    let output = folder.run_with(
        &[
            "matrix", "-", "db.yaml", "--probe", "tcp/5432", "--from", "shop/web", "--to",
            "shop/db", "--format", "csv",
        ],
        SHOP,
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).expect("text"),
        "source,destination,probe,family,verdict,egress,egress_reason,egress_by,ingress,\
         ingress_reason,ingress_by,audit,depends_on\n\
         shop/web,shop/db,tcp/5432,4,allow,allow,not_isolated,,allow,rule,db.yaml:7,,\n"
    );
}

#[test]
fn the_table_is_a_picture() {
    let audit = DB_FROM_WEB.replace(
        "db-from-web, namespace: shop",
        "db-from-web, namespace: shop, annotations: {cofferdam.dev/mode: audit}",
    );
    let folder = Folder::new(&[("shop.yaml", SHOP), ("db.yaml", DB_FROM_WEB)]);
    let arguments = [
        "matrix",
        ".",
        "--probe",
        "tcp/5432",
        "--external",
        "net=203.0.113.7",
    ];
    assert_eq!(
        folder.said(0, &arguments),
        "\
tcp/5432 over IPv4, from each row to the numbered ends across

                1 2 3 4
1  shop/db      ● ● ● ●
2  shop/web     ● ● ● ●
3  node/n1      ● ● ● ●
4  external/net · ● ● ●

15 of 16 allowed

● allowed
· denied
"
    );
    let folder = Folder::new(&[("shop.yaml", SHOP), ("db.yaml", &audit)]);
    assert_eq!(
        folder.said(
            0,
            &[
                "matrix", ".", "--probe", "udp/53", "--from", "shop/web", "--to", "shop/db"
            ]
        ),
        "\
udp/53 over IPv4, from each row to the numbered ends across

            2
1  shop/web ◐

1 of 1 allowed

2  shop/db
◐ allowed, and denied once audit policies are enforced
"
    );
}

#[test]
fn a_receiver_takes_two_columns_whatever_its_number() {
    let pod = |i: u32| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{i}, namespace: x}}, status: {{podIP: 10.0.0.{i}}}}}\n"
        )
    };
    let pods: String = (10..21).map(pod).collect();
    let folder = Folder::new(&[("pods.yaml", &pods)]);
    let said = folder.said(
        0,
        &[
            "matrix", ".", "--probe", "tcp/80", "--from", "x/p10", "--to", "x/p10", "--to",
            "x/p20", "--to", "x/p11", "--to", "x/p12", "--to", "x/p13", "--to", "x/p14", "--to",
            "x/p15", "--to", "x/p16", "--to", "x/p17", "--to", "x/p18",
        ],
    );
    let picture: Vec<&str> = said.lines().skip(2).take(3).collect();
    assert_eq!(
        picture,
        [
            "                            1",
            "          1 2 3 4 5 6 7 8 9 0",
            " 1  x/p10 ● ● ● ● ● ● ● ● ● ●"
        ]
    );
}

#[test]
fn a_document_in_error_is_left_out_and_told() {
    let broken = DB_FROM_WEB.replace("podSelector: {matchLabels: {app: db}}", "podSelektor: {}");
    let folder = Folder::new(&[("shop.yaml", SHOP), ("db.yaml", &broken)]);
    let arguments = ["matrix", ".", "--probe", "tcp/80", "--to", "shop/db"];
    let matrix = folder.json(1, "matrix.json", &arguments);
    assert_eq!(matrix["diagnostics"][0]["line"], 5);
    assert_eq!(
        cell(&matrix, "shop/web", "shop/db", "tcp/80")["verdict"],
        "allow"
    );
    let output = folder.run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("db.yaml:5:3: error"), "{told}");
}

#[test]
fn what_cannot_be_asked_is_refused_with_what_can() {
    let folder = Folder::shop();
    let refused = |arguments: &[&str]| folder.complaint(&[&["matrix"], arguments].concat());
    for (arguments, expected) in [
        (
            &[".", "--probe", "tcp/80", "--to", "shop/bd"][..],
            "did you mean `shop/db`?",
        ),
        (
            &[".", "--probe", "tcp/80", "--from", "shop/job"],
            "has ended",
        ),
        (&[".", "--probe", "http"], "icmpv6/128"),
        (&["."], "--probe"),
        (&["nowhere", "--probe", "tcp/80"], "cannot read nowhere"),
        (
            &[".", "--probe", "tcp/80", "--external", "a=b"],
            "not an IPv4 or IPv6 address",
        ),
        (
            &[
                ".",
                "--probe",
                "tcp/80",
                "--external",
                "a=::1",
                "--external",
                "a=::2",
            ],
            "given twice",
        ),
    ] {
        let told = refused(arguments);
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
    // An empty folder says nothing of anybody, which is no answer.
    let folder = Folder::new(&[]);
    let told = folder.complaint(&["matrix", ".", "--probe", "tcp/80"]);
    assert!(told.contains(".yaml"), "{told}");
}

#[test]
fn cells_of_many_pods_are_written_as_they_are_judged() {
    let pods: String = (0..300)
        .map(|i| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{i}, namespace: n{}, labels: {{app: a{}}}}}, \
                 status: {{podIP: 10.1.{}.{}}}}}\n",
                i % 7,
                i % 31,
                i / 200,
                i % 200
            )
        })
        .collect();
    let folder = Folder::new(&[("pods.yaml", &pods), ("db.yaml", DB_FROM_WEB)]);
    let matrix = folder.json(
        0,
        "matrix.json",
        &["matrix", ".", "--probe", "tcp/80", "--to", "n0/p0"],
    );
    assert_eq!(matrix["cells"].as_array().expect("a list").len(), 300);
    // A reader that leaves early is no failure.
    let command = format!(
        "{} matrix . --probe tcp/80 --format csv | head -n 2",
        cofferdam_tests::cofferdam!().display()
    );
    let script = format!("set -o pipefail; {command}");
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.0.path())
        .output()
        .expect("bash");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        2
    );
}

#[test]
fn the_own_node_may_be_held_to_policies() {
    let folder = Folder::shop();
    let test = "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\n\
                expect: [{from: node/n1, to: shop/db, port: tcp/22, verdict: allow}]\n";
    std::fs::write(folder.0.path().join("test.yaml"), test).expect("a file");
    let ends = ["--from", "node/n1", "--to", "shop/db"];
    for (own_node, verdict, status) in [("allow", "allow", 0), ("policy", "deny", 1)] {
        let own_node = ["--own-node", own_node];
        let matrix = [&["matrix", ".", "--probe", "tcp/22"], &ends[..], &own_node].concat();
        let matrix = folder.json(0, "matrix.json", &matrix);
        assert_eq!(matrix["cells"][0]["verdict"], verdict);
        let explain = [&["explain", ".", "--port", "tcp/22"], &ends[..], &own_node].concat();
        let explained = folder.json(0, "explain.json", &explain);
        assert_eq!(explained["verdict"], verdict);
        folder.json(
            status,
            "test.json",
            &[&["test", "."], &own_node[..]].concat(),
        );
    }
}
