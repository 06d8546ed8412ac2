//! `cofferdam explain`, answered by an agent about what it has in force.

use std::io::Write as _;
use std::process::{Command, Stdio};

use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::Wiring;
use cofferdam_tests::{cofferdam, skip_unless};
use serde_json::{Value, json};

use super::reports::assert_valid;
use super::scene::{DB_CLOSED, DB_FROM_WEB, Scene};

#[test]
fn the_agent_explains_what_it_has_in_force() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let explain = |from: &str, port: &str| {
        let arguments = ["explain", "--from", from, "--to", "shop/db", "--port", port];
        scene
            .agent
            .cli(&[&arguments[..], &["--format", "json"]].concat())
    };
    // Labels that only the call that added the endpoint knows.
    let allowed = explain("shop/web", "tcp/5432");
    assert!(allowed.status.success(), "{allowed:?}");
    let allowed = assert_valid("explain.json", &allowed.stdout);
    assert_eq!(allowed["verdict"], "allow");
    assert_eq!(allowed["ingress"]["rule"], allowed["walk"][0]["rule"]);
    let denied = assert_valid("explain.json", &explain("shop/web", "tcp/22").stdout);
    assert_eq!(denied["verdict"], "deny");
    assert_eq!(denied["nearest"]["missed"][0], "port");
    // The endpoint's own node is the agent's.
    let node = assert_valid("explain.json", &explain("node/n1", "tcp/22").stdout);
    assert_eq!(node["ingress"]["reason"], "own_node");
    let slip = explain("shop/webb", "tcp/22");
    assert_eq!(slip.status.code(), Some(2));
    let told = String::from_utf8_lossy(&slip.stderr);
    assert!(told.contains("did you mean `shop/web`?"), "{told}");
}

/// The shop as documents tell of it: its pods on two nodes, a Service, and who may connect.
fn shop(scene: &Scene) -> String {
    let pod = |name: &str, node: &str, addresses: &[String]| {
        let addresses: Vec<String> = addresses
            .iter()
            .map(|address| format!("{{ip: '{address}'}}"))
            .collect();
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: \
             {{app: {name}}}}}\nspec: {{nodeName: {node}}}\nstatus: {{podIPs: [{}]}}\n",
            addresses.join(", ")
        )
    };
    let own = |name: &str| {
        let end = scene.workload(name).end;
        Family::BOTH.map(|family| end.ip(family).expect("both").to_string())
    };
    let far = ["10.65.0.9".to_owned(), "fd65::9".to_owned()];
    let nodes = [("n1", "198.51.100.1"), ("n2", "198.51.100.2")].map(|(name, address)| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: \
             [{{type: InternalIP, address: {address}}}, {{type: InternalIP, address: '2001:db8::{}'}}]}}\n",
            &name[1..]
        )
    });
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec:\n  \
                   clusterIPs: [10.99.0.1, 'fd99::1']\n  selector: {app: db}\n  ports: [{port: 80, targetPort: 5432}]\n";
    let guard = "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: \
                 {name: guard, annotations: {cofferdam.dev/mode: audit}}\nspec:\n  tier: Admin\n  priority: 1\n  \
                 subject: {namespaces: {}}\n  egress:\n  - action: Deny\n    to: [{networks: [203.0.113.0/24]}]\n";
    [
        DB_FROM_WEB,
        &nodes.concat(),
        &pod("web", "n1", &own("shop/web")),
        &pod("db", "n1", &own("shop/db")),
        &pod("far", "n2", &far),
        service,
        guard,
    ]
    .concat()
}

/// Returns what a cell says, its rules by their policies and lines rather than by numbers.
fn said(cell: &Value, rules: &Value) -> Value {
    let mut said = json!({});
    for key in [
        "source",
        "destination",
        "probe",
        "verdict",
        "audit",
        "backends",
    ] {
        said[key] = cell[key].clone();
    }
    let named = |id: &Value| {
        let mut all = rules.as_array().expect("a list").iter();
        let rule = all.find(|rule| rule["id"] == *id);
        rule.map(|rule| ["name", "index", "direction", "file", "line"].map(|key| rule[key].clone()))
    };
    for side in ["egress", "ingress"] {
        let judged = &cell[side];
        let isolating = judged["isolated_by"].as_array().into_iter().flatten();
        said[side] = json!({
            "verdict": judged["verdict"],
            "reason": judged["reason"],
            "rule": named(&judged["rule"]),
            "isolated_by": isolating.map(named).collect::<Vec<_>>(),
        });
    }
    said
}

#[test]
fn the_agent_says_of_every_kind_of_end_what_the_matrix_of_its_documents_says() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::new(Wiring::Ptp);
    let documents = shop(&scene);
    let scene = scene.in_force(&documents);
    let external = "internet=203.0.113.7,2001:db8:7::7";
    let path = scene.agent.path("policies");
    let folder = path.to_str().expect("text");
    let from = [
        "shop/web",
        "shop/far",
        "node/n1",
        "node/n2",
        "external/internet",
    ];
    let to = [
        "shop/db",
        "shop/far",
        "service/shop/db",
        "node/n2",
        "external/internet",
    ];
    let ends = from.map(|end| ["--from", end]).concat();
    let ends = [ends, to.map(|end| ["--to", end]).concat()].concat();
    let mut verdicts = [0, 0];
    for (family, probes) in [
        ("4", ["tcp/5432", "tcp/80", "icmp/8"]),
        ("6", ["tcp/5432", "tcp/80", "icmpv6/128"]),
    ] {
        let asked = [["--family", family], ["--external", external]].concat();
        let probed = probes.map(|probe| ["--probe", probe]).concat();
        let matrix = [
            &["matrix", folder, "--format", "json"],
            &ends[..],
            &asked,
            &probed,
        ]
        .concat();
        let matrix = Command::new(cofferdam!())
            .args(matrix)
            .output()
            .expect("run");
        assert!(matrix.status.success(), "{matrix:?}");
        let matrix = assert_valid("matrix.json", &matrix.stdout);
        let cells = matrix["cells"].as_array().expect("a list");
        assert!(cells.len() >= 40, "{}", cells.len());
        for cell in cells {
            let [source, destination, probe] =
                ["source", "destination", "probe"].map(|key| cell[key].as_str().expect("text"));
            let ends = ["--from", source, "--to", destination, "--port", probe];
            let output = scene
                .agent
                .cli(&[&["explain", "--format", "json"], &ends[..], &asked].concat());
            if cell["egress"].is_null() {
                // Nobody is behind it, which the agent says in a sentence.
                assert_eq!(output.status.code(), Some(2), "{output:?}");
                continue;
            }
            assert!(output.status.success(), "{output:?}");
            let live = assert_valid("explain.json", &output.stdout);
            assert_eq!(said(&live, &live["rules"]), said(cell, &matrix["rules"]));
            let is_denied = live["verdict"] == "deny";
            verdicts[usize::from(is_denied)] += 1;
            let by_default = live["ingress"]["reason"] == "isolated";
            assert_eq!(
                live["nearest"].is_object(),
                is_denied && by_default,
                "{live}"
            );
        }
    }
    assert!(verdicts.iter().all(|count| *count > 10), "{verdicts:?}");
}

/// A denied connection's record, and the same record when policy has changed.
#[test]
fn a_record_is_explained_by_what_is_in_force_now() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let observe = [
        "observe", "--type", "denied", "--last", "1", "--format", "json",
    ];
    let line = scene.agent.cli(&observe).stdout;
    let path = scene.agent.path("record.json");
    std::fs::write(&path, &line).expect("a file");
    let path = path.to_str().expect("text").to_owned();
    let explain = |scene: &Scene, path: &str| {
        let output = scene
            .agent
            .cli(&["explain", "--record", path, "--format", "json"]);
        assert!(output.status.success(), "{output:?}");
        assert_valid("explain.json", &output.stdout)
    };
    let then = explain(&scene, &path);
    assert_eq!(
        (&then["source"], &then["destination"]),
        (&json!("shop/web"), &json!("shop/db"))
    );
    assert_eq!(
        (&then["verdict"], &then["probe"]),
        (&json!("deny"), &json!("tcp/5432"))
    );
    let record = &then["record"];
    assert_eq!(
        (&record["reason"], &record["direction"], &record["differs"]),
        (&json!("isolated"), &json!("ingress"), &json!(false))
    );
    assert_eq!(record["revision"], record["revision_in_force"]);

    scene.agent.document("policies.yaml", DB_FROM_WEB);
    assert!(scene.agent.sync().enforced);
    let now = explain(&scene, &path);
    assert_eq!(
        (&now["verdict"], &now["record"]["differs"]),
        (&json!("allow"), &json!(true))
    );
    assert!(now["record"]["revision"].as_u64() < now["record"]["revision_in_force"].as_u64());
    let text = scene.agent.cli(&["explain", "--record", &path]);
    let text = String::from_utf8(text.stdout).expect("text");
    let revision = scene.agent.status().revision;
    for part in [
        "the record: denied ingress, isolated, of revision ",
        &format!("; revision {revision} is in force now\npolicy says otherwise now\n"),
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }

    // From standard input, and of nobody but one.
    let piped = |line: &[u8]| {
        let mut command = Command::new(cofferdam!());
        command.args(["explain", "--record", "-", "--run-dir"]);
        command.arg(scene.agent.path("run"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().expect("the command can be run");
        let mut stdin = process.stdin.take().expect("a pipe");
        stdin.write_all(line).expect("it reads");
        drop(stdin);
        process.wait_with_output().expect("it ends")
    };
    assert_eq!(String::from_utf8_lossy(&piped(&line).stdout), text);
    let two = piped(&[line.clone(), line.clone()].concat());
    assert_eq!(two.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&two.stderr).contains("2 lines in -"),
        "{two:?}"
    );

    // A workload that has gone, and whose address has nobody.
    let remove = ["endpoint", "remove", "--namespace", "shop", "--name", "web"];
    assert!(scene.agent.cli(&remove).status.success());
    scene.agent.sync();
    let gone = piped(&line);
    assert_eq!(gone.status.code(), Some(2));
    let told = String::from_utf8_lossy(&gone.stderr);
    assert!(told.contains("shop/web, which had "), "{told}");
    assert!(told.contains("and nobody has the address now"), "{told}");
}
