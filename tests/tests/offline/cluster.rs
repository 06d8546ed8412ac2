//! The same commands on a live cluster, which has the same objects.

use std::os::unix::fs::PermissionsExt as _;

use cofferdam_tests::api_server::{ApiServer, Role, TOKEN, USER_TOKEN};
use cofferdam_tests::docs::role;
use cofferdam_tests::world::Namespace;
use serde_json::json;

use crate::*;

const PORT: &str = "tcp/5432";
const POLICY: &str = "kubernetes:NetworkPolicy/shop/db-from-web";

/// A cluster with the shop and its policy, and a folder with a kubeconfig that is no more than
/// a reader's.
struct Live {
    server: ApiServer,
    folder: Folder,
}

impl Live {
    fn new() -> Self {
        let server = ApiServer::start_tls(&Namespace::current().expect("a namespace"));
        let list: Value = serde_yaml::from_str(SHOP).expect("YAML");
        for object in list["items"].as_array().expect("objects") {
            server.put(object.clone());
        }
        server.apply(DB_FROM_WEB);
        server.allow_only(Role::of(&role("cofferdam-reader")));
        let folder = Folder::new(&[("db.yaml", DB_FROM_WEB)]);
        server.write_kubeconfig(folder.0.path());
        Self { server, folder }
    }

    /// Runs a command on the cluster.
    fn run(&self, arguments: &[&str]) -> Output {
        let way = ["--cluster", "--kubeconfig", "kubeconfig"];
        self.folder.run(&[arguments, &way].concat())
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--format", "json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

/// Returns a text without the place of the policy.
fn without_places(value: &Value) -> Value {
    let mut value = value.clone();
    fn walk(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for key in ["file", "line", "column", "files"] {
                    fields.remove(key);
                }
                if fields.contains_key("edges") {
                    // Rules are told by their places there.
                    for edge in fields["edges"].as_array_mut().into_iter().flatten() {
                        let rules = edge["rules"].to_string();
                        assert!(!rules.contains(":0)"), "{rules}");
                        edge["rules"] = Value::Null;
                    }
                }
                fields.values_mut().for_each(walk);
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

#[test]
fn every_command_says_of_a_cluster_what_it_says_of_the_same_files() {
    let live = Live::new();
    let files = Folder::shop();
    let question = ["--from", "shop/web", "--to", "shop/db", "--port", PORT];
    for (command, more) in [
        ("check", &[][..]),
        ("matrix", &["--probe", PORT][..]),
        ("explain", &question[..]),
        ("list", &[]),
        ("graph", &[]),
        ("exposure", &[]),
    ] {
        let arguments = [&[command], more].concat();
        let of_cluster = live.json(&arguments);
        let of_files = files.run(&[&arguments[..], &[".", "--format", "json"]].concat());
        let of_files: Value = serde_json::from_slice(&of_files.stdout).expect("JSON");
        let (one, other) = (without_places(&of_cluster), without_places(&of_files));
        if command == "check" {
            // The job that has ended is no object of its own there.
            assert_eq!(one["errors"], other["errors"]);
            assert_eq!(one["accepted"], other["accepted"]);
        } else {
            assert_eq!(one, other, "{command}");
        }
    }
    let matrix = live.json(&["matrix", "--probe", PORT]);
    assert_eq!(matrix["rules"][0]["file"], POLICY);
    assert_eq!(matrix["rules"][0]["line"], Value::Null);
    // Read only, each kind once for a command, and nothing that the role does not allow.
    assert_eq!(live.server.writes(), Vec::<String>::new());
    assert_eq!(live.server.forbidden(), Vec::<String>::new());
    let requests = live.server.requests();
    assert!(requests.iter().all(|target| !target.contains("watch=")));
}

#[test]
fn statements_and_changes_of_files_are_held_against_the_cluster() {
    let live = Live::new();
    fs::write(
        live.folder.0.path().join("test.yaml"),
        "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: shop}\nexpect:\n\
         - {from: shop/web, to: shop/db, port: tcp/5432, verdict: allow}\n\
         - {from: external/internet, to: shop/db, port: tcp/5432, verdict: deny, by: shop/db-from-web}\n\
         externals: {internet: [203.0.113.7]}\n",
    )
    .expect("a file");
    let output = live.run(&["test", "test.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    // The policy of a file stands for the object of its name.
    let wider = DB_FROM_WEB.replace("port: 5432", "port: 5433");
    assert_ne!(wider, DB_FROM_WEB);
    fs::write(live.folder.0.path().join("db.yaml"), wider).expect("a file");
    let changes = live.json(&["diff", "--to", "db.yaml", "--to-cluster"]);
    let ports: Vec<&str> = (changes["changes"].as_array().expect("changes").iter())
        .filter(|change| change["family"] == 4)
        .map(|change| change["ports"].as_str().expect("ports"))
        .collect();
    assert_eq!(ports, ["5432", "5433"], "{changes}");
    let same = live.json(&["diff", "--to-cluster"]);
    assert_eq!(same["changes"], json!([]));
    // The same changes as a picture.
    let drawn = |graph: &Value| {
        let edges = graph["edges"]
            .as_array()
            .expect("edges")
            .iter()
            .map(|edge| (edge["change"].clone(), edge["ports"].clone()));
        edges.collect::<Vec<_>>()
    };
    let [removed, added] = ["removed", "added"].map(|word| json!(word));
    let [narrow, wide] = ["tcp/5432", "tcp/5433"].map(|ports| json!(ports));
    let graph = live.json(&["graph", "--to", "db.yaml", "--to-cluster"]);
    // In the order of their ports.
    let expected = [
        (removed.clone(), narrow.clone()),
        (added.clone(), wide.clone()),
    ];
    assert_eq!(drawn(&graph), expected, "{graph}");
    assert_eq!(live.json(&["graph", "--to-cluster"])["edges"], json!([]));
    let output = live.run(&[
        "graph",
        "--to-cluster",
        "--namespace",
        "shop",
        "--format",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(2), "a choice is of one set");
    // The other way round, from files to the cluster.
    fs::write(live.folder.0.path().join("shop.yaml"), SHOP).expect("a file");
    let back = |command: &str| {
        let files = [command, "db.yaml", "shop.yaml", "--to-cluster"];
        let way = ["--kubeconfig", "kubeconfig", "--format", "json"];
        let output = live.folder.run(&[&files[..], &way].concat());
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    assert!(
        back("diff")["changes"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    );
    assert_eq!(drawn(&back("graph")), [(added, narrow), (removed, wide)]);
}

#[test]
fn a_checkout_gives_files_and_lines_to_what_is_as_it_was_applied() {
    let live = Live::new();
    let arguments = ["matrix", "--probe", PORT, "--sources", "db.yaml"];
    let matrix = live.json(&arguments);
    for (rule, line) in [(0, 4), (1, 7)] {
        assert_eq!(matrix["rules"][rule]["file"], "db.yaml");
        assert_eq!(matrix["rules"][rule]["line"], line, "{}", matrix["rules"]);
    }
    live.server.apply(&DB_FROM_WEB.replace("5432", "5433"));
    let matrix = live.json(&arguments);
    assert_eq!(matrix["rules"][0]["file"], POLICY);
}

#[test]
fn a_cluster_that_refuses_or_is_away_is_told_with_verb_and_resource() {
    let live = Live::new();
    let mut role = Role::of(&role("cofferdam-reader"));
    role.rights
        .retain(|right| right.resource != "networkpolicies");
    live.server.allow_only(role);
    let output = live.run(&["matrix", "--probe", PORT]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for word in ["`list`", "`networkpolicies.networking.k8s.io`", "role"] {
        assert!(said.contains(word), "{said}");
    }
    live.server.set_away(true);
    let output = live.run(&["list"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot reach the API server"), "{said}");
    for (arguments, expected) in [
        (
            &["list", "--cluster", "--kubeconfig", "absent"][..],
            "cannot read the kubeconfig absent",
        ),
        (
            &[
                "list",
                "--cluster",
                "--kubeconfig",
                "kubeconfig",
                "--context",
                "nobody",
            ],
            "no context `nobody` in kubeconfig: it has c",
        ),
        (
            &["list", ".", "--context", "c"],
            "--context is about a cluster",
        ),
        (&["list"], "required"),
    ] {
        let output = live.folder.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_program_of_the_kubeconfig_gives_credentials_and_its_failure_tells_no_secret() {
    let live = Live::new();
    let folder = live.folder.0.path();
    let program = folder.join("credentials");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": USER_TOKEN},
    });
    fs::write(&program, format!("#!/bin/sh\necho '{credential}'\n")).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    const SECRET: &str = "of-the-kubeconfig";
    let exec = |command: &Path| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": command,
            "interactiveMode": "Never", "args": [SECRET], "env": [{"name": "S", "value": SECRET}],
        }})
    };
    live.server
        .write_config(folder, "by-program", &exec(&program));
    let output = live
        .folder
        .run(&["list", "--cluster", "--kubeconfig", "by-program"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fs::write(&program, format!("#!/bin/sh\necho {TOKEN}\nexit 3\n")).expect("a file");
    let output = live
        .folder
        .run(&["list", "--cluster", "--kubeconfig", "by-program"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("the program that the kubeconfig names"),
        "{said}"
    );
    assert!(said.contains("ended with exit status: 3"), "{said}");
    for secret in [TOKEN, SECRET] {
        assert!(!said.contains(secret), "{said}");
    }
}
