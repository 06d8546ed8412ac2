//! `matrix`, `explain` and `test` on documents, as a user runs them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use cofferdam_tests::{cofferdam, scratch::Scratch, shop::DB_FROM_WEB};
use serde_json::Value;

mod offline {
    mod cluster;
    mod diff;
    mod expectations;
    mod explain;
    mod exposure;
    mod graph;
    mod list;
    mod matrix;
    mod mutation;
    mod observe;
    mod services;
    mod what_if;
}

/// A shop of two, a node, and what people forget in manifests.
const SHOP: &str = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop, labels: {app: web}}
  spec: {nodeName: n1, containers: [{name: web}]}
  status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: shop, labels: {app: db}}
  spec: {nodeName: n1, containers: [{name: db}]}
  status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: job, namespace: shop, labels: {app: web}}
  status: {phase: Succeeded, podIP: 10.0.0.1}
";

/// Files in a folder, in which the command runs.
struct Folder(Scratch);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(Scratch::new());
        for (name, text) in files {
            fs::write(folder.0.path().join(name), text).expect("a file");
        }
        folder
    }

    fn shop() -> Self {
        Self::new(&[("shop.yaml", SHOP), ("db.yaml", DB_FROM_WEB)])
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(cofferdam!())
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that does not read may have gone.
        _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }

    /// Runs a command that must end with this status, and returns its output.
    #[track_caller]
    fn said(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The JSON that it prints, held against its schema.
    #[track_caller]
    fn json(&self, status: i32, schema: &str, arguments: &[&str]) -> Value {
        let text = self.said(status, &[arguments, &["--format", "json"]].concat());
        assert_eq!(text.matches('\n').count(), 1, "one line");
        valid(schema, &text)
    }

    /// Runs a command that must fail to run, and returns its complaint.
    #[track_caller]
    fn complaint(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[track_caller]
fn valid(schema: &str, text: &str) -> Value {
    let value: Value = serde_json::from_str(text).expect("JSON");
    let schema = fs::read_to_string(repository("docs/schemas").join(schema)).expect("a schema");
    let schema = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let faults: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(faults.is_empty(), "{faults:?}\n{value}");
    value
}
