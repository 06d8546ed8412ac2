//! `cofferdam test --mutate`, ends that are in no document, verdicts on trial, and `--watch`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use cofferdam_tests::cofferdam;
use cofferdam_tests::shop::DB_FROM_WEB;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::{Folder, SHOP, repository};

const HEAD: &str = "\
apiVersion: cofferdam.dev/v1alpha1
kind: PolicyTest
metadata: {name: shop}
externals: {net: [203.0.113.7]}
expect:
";

/// The shop with these statements.
fn folder(statements: &str) -> Folder {
    Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("test.yaml", &(HEAD.to_owned() + statements)),
    ])
}

const ALLOWED: &str = "- {from: shop/web, to: shop/db, port: tcp/5432, verdict: allow}\n";

#[test]
fn parts_that_no_expectation_is_about_are_listed_with_their_place() {
    let said = folder(ALLOWED).said(0, &["test", ".", "--mutate"]);
    // All that lets more in is unnoticed where nothing must be denied.
    assert_eq!(
        said,
        "\
./db.yaml:4:1: not noticed: shop/db-from-web: policy left out
./db.yaml:5:31: not noticed: shop/db-from-web: podSelector without its condition on app
./db.yaml:7:5: not noticed: shop/db-from-web: ingress[0].from left out
./db.yaml:8:5: not noticed: shop/db-from-web: ingress[0].ports left out
./db.yaml:8:13: not noticed: shop/db-from-web: ingress[0].ports[0] widened to every port
1 of 8 changes of policies are noticed, 5 are not, 2 change nothing; score 16
the 1 expectation holds
"
    );
    let report = folder(ALLOWED).json(0, "test.json", &["test", ".", "--mutate"]);
    let mutation = &report["mutation"];
    assert_eq!(mutation["score"], 16);
    let equivalent = mutation["equivalent"].as_array().expect("a list").iter();
    let equivalent: Vec<&str> = equivalent.filter_map(|one| one["what"].as_str()).collect();
    // Beside web there is the database alone, in this namespace alone.
    let expected = [
        "ingress[0].from[0].podSelector without its condition on app",
        "ingress[0].from[0] widened to every namespace",
    ];
    assert_eq!(equivalent, expected);
}

#[test]
fn the_score_grows_with_what_must_be_denied() {
    let statements = ALLOWED.to_owned()
        + "- {from: external/net, to: shop/db, port: tcp/5432, verdict: deny}\n\
           - {from: shop/web, to: shop/db, port: tcp/80, verdict: deny}\n\
           - {from: shop/web, to: shop/db, port: udp/5432, verdict: deny}\n\
           - {from: shop/db, to: shop/web, port: tcp/80, verdict: allow}\n";
    let folder = folder(&statements);
    let least = |score: &str, status: i32| {
        folder.said(status, &["test", ".", "--mutate", "--min-score", score])
    };
    let said = least("100", 0);
    let counts = "6 of 8 changes of policies are noticed, 0 are not, 2 change nothing; score 100\n";
    assert!(said.starts_with(counts), "{said}");
    let fewer = statements.replace("port: udp/5432", "port: tcp/81");
    fs::write(folder.0.path().join("test.yaml"), HEAD.to_owned() + &fewer).expect("a file");
    least("100", 0);
    let fewer = fewer
        .replace(
            "port: tcp/80, verdict: deny",
            "port: tcp/5432, verdict: allow",
        )
        .replace(
            "port: tcp/81, verdict: deny",
            "port: tcp/5432, verdict: allow",
        );
    fs::write(folder.0.path().join("test.yaml"), HEAD.to_owned() + &fewer).expect("a file");
    least("67", 1);
    least("66", 0);
    folder.complaint(&["test", ".", "--min-score", "5"]);
    folder.complaint(&["test", ".", "--mutate", "--min-score", "101"]);
    // Where something does not hold already, nothing is said of changes.
    let wrong = self::folder(&ALLOWED.replace("allow", "deny"));
    let report = wrong.json(1, "test.json", &["test", ".", "--mutate"]);
    assert_eq!(report["mutation"], Value::Null);
}

/// Of a policy on trial only the verdict on trial tells.
#[test]
fn a_change_of_a_policy_on_trial_is_none_that_changes_nothing() {
    let trial = DB_FROM_WEB.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {cofferdam.dev/mode: audit}}",
    );
    let folder = folder(ALLOWED);
    fs::write(folder.0.path().join("db.yaml"), trial).expect("a file");
    let mutation = |folder: &Folder| {
        let report = folder.json(0, "test.json", &["test", ".", "--mutate"]);
        report["mutation"]["unnoticed"].as_array().map(Vec::len)
    };
    let open = mutation(&folder).expect("a list");
    assert!(open > 0);
    let audited = ALLOWED.to_owned()
        + "- {from: external/net, to: shop/db, port: tcp/5432, verdict: allow, audit: deny}\n";
    fs::write(
        folder.0.path().join("test.yaml"),
        HEAD.to_owned() + &audited,
    )
    .expect("a file");
    assert!(mutation(&folder).expect("a list") < open);
    // The same verdict as in force is one, too.
    let wrong = audited.replace("audit: deny", "audit: allow");
    fs::write(folder.0.path().join("test.yaml"), HEAD.to_owned() + &wrong).expect("a file");
    let said = folder.said(1, &["test", "."]);
    let expected = "expected allow with audit policies enforced, got deny: ingress isolated by \
                    shop/db-from-web, ./db.yaml:4, and no rule allows it";
    assert!(said.contains(expected), "{said}");
}

/// Every part of the library's policies is stated, or of no effect for the workloads beside it.
#[test]
fn the_library_notices_changes_of_its_policies() {
    for (name, least) in [("three-tier", "100"), ("default-deny", "92")] {
        let path = repository("policies/library")
            .join(name)
            .to_str()
            .expect("text")
            .to_owned();
        let command = ["test", &path, "--mutate", "--min-score", least];
        let report = Folder::new(&[]).json(0, "test.json", &command);
        let noticed = report["mutation"]["noticed"].as_u64();
        assert!(noticed > Some(0), "{name}: {}", report["mutation"]);
    }
}

#[test]
fn workloads_that_are_in_no_document_are_ends() {
    let statements = "\
- {from: {namespace: shop, labels: {app: web, new: 'yes'}}, to: shop/db, port: tcp/5432, verdict: allow}
- {from: {namespace: shop, labels: {app: job}}, to: shop/db, port: tcp/5432, verdict: deny, by: shop/db-from-web}
- {from: shop/web, to: {namespace: shop, labels: {app: db}}, port: tcp/80, verdict: deny}
- {from: {podSelector: {matchLabels: {app: job}}}, to: shop/db, port: tcp/5432, verdict: deny}
";
    let report = folder(statements).json(1, "test.json", &["test", "."]);
    let holds: Vec<&Value> = (report["expectations"].as_array().expect("a list").iter())
        .map(|one| &one["holds"])
        .collect();
    // The last is about pods that there are, and there is none.
    assert_eq!(holds, [true, true, true, false]);
    assert_eq!(report["expectations"][0]["from"], "shop/(app=web,new=yes)");
    assert_eq!(report["expectations"][0]["checked"], 2);

    let unknown = "- {from: {namespace: guests, labels: {app: web}}, to: shop/db, port: tcp/5432, verdict: deny}\n";
    let said = folder(unknown).said(1, &["test", "."]);
    assert!(said.contains("a namespace `guests`"), "{said}");
    let itself = "- {from: {namespace: shop, labels: {a: b}}, to: {namespace: shop, labels: {a: b}}, port: tcp/1, verdict: allow}\n";
    let said = folder(itself).said(1, &["test", "."]);
    assert!(said.contains("nothing is tried"), "{said}");
}

/// A command that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_watch_checks_again_when_a_file_changes_and_ends_when_told() {
    let folder = folder(ALLOWED);
    // A job in the background of a shell has the signal ignored, and so would have the command.
    let mut child = Running(
        Command::new("env")
            .arg("--default-signal=INT")
            .arg(cofferdam!())
            .args(["test", ".", "--watch"])
            .current_dir(folder.0.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs"),
    );
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "the 1 expectation holds");
    let write = |name: &str, text: &str| {
        fs::write(folder.0.path().join(name), text).expect("a file");
    };
    write("db.yaml", &DB_FROM_WEB.replace("5432", "5433"));
    while next() != "1 of 1 expectations does not hold" {}
    // Also in a folder that is new.
    fs::create_dir(folder.0.path().join("more")).expect("a folder");
    while next() != "1 of 1 expectations does not hold" {}
    write(
        "more/test.yaml",
        &(HEAD.to_owned() + &ALLOWED.replace("5432", "5433")),
    );
    while next() != "1 of 2 expectations does not hold" {}
    let pid = Pid::from_raw(child.0.id().try_into().expect("a process id"));
    kill(pid, Signal::SIGINT).expect("it lives");
    let ended = child.0.wait().expect("it ends");
    assert_eq!(
        json!(ended.code()),
        Value::Null,
        "the signal ends it: {ended}"
    );
    folder.complaint(&["test", "-", "--watch"]);
}
