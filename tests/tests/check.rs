//! `cofferdam check`, as a user runs it.

#[path = "check/repositories.rs"]
mod repositories;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use cofferdam_tests::{cofferdam, scratch::Scratch};
use serde_json::Value;

/// A file with what is found in it, by line: code and severity.
type Found = BTreeSet<(String, u64, String)>;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn check_in(folder: &Path, arguments: &[&str]) -> Output {
    cofferdam_in(folder, &[&["check"], arguments].concat())
}

fn cofferdam_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(cofferdam!());
    command.args(arguments).current_dir(folder);
    command.output().expect("the binary runs")
}

/// Checks in the root of the repository.
fn check(arguments: &[&str]) -> Output {
    check_in(&repository(""), arguments)
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Returns the findings of a report, which is held against its schema.
fn found(report: &Value) -> Found {
    assert_valid(
        report,
        &fs::read_to_string(repository("docs/schemas/check.json")).expect("a schema"),
    );
    let diagnostics = report["diagnostics"].as_array().expect("a list");
    let one = |diagnostic: &Value| {
        let file = diagnostic["file"].as_str().expect("a file").to_owned();
        let line = diagnostic["line"].as_u64().expect("a line");
        let code = diagnostic["code"].as_str().expect("a code").to_owned();
        (file, line, code)
    };
    let found: Found = diagnostics.iter().map(one).collect();
    assert_eq!(found.len(), diagnostics.len(), "two of one kind at a line");
    found
}

fn assert_valid(value: &Value, schema: &str) {
    let schema = serde_json::from_str(schema).expect("JSON");
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema");
    let faults: Vec<String> = validator
        .iter_errors(value)
        .map(|fault| format!("{} at {}", fault, fault.instance_path))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Returns the findings that the comments in a project's files announce: `# CD0501` at the
/// end of a line.
fn expected(folder: &str) -> Found {
    let mut expected = Found::new();
    for entry in fs::read_dir(repository(folder)).expect("the project") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        let name = format!("{folder}/{name}");
        let text = fs::read_to_string(&path).expect("text");
        for (line, number) in text.lines().zip(1..) {
            if let Some((_, code)) = line.split_once("# CD") {
                expected.insert((name.clone(), number, format!("CD{code}")));
            }
        }
    }
    expected
}

#[test]
fn every_mistake_of_the_golden_project_is_found_at_its_line_and_nothing_else() {
    let folder = "tests/golden/mistakes";
    let output = check(&[folder, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = json(&output);
    let expected = expected(folder);
    assert_eq!(expected.len(), 20);
    assert_eq!(found(&report), expected);
    assert_eq!(report["errors"], 1);
    assert_eq!(report["warnings"], 19);
}

#[test]
fn the_clean_project_has_no_findings_even_where_warnings_are_denied() {
    let output = check(&["tests/golden/clean", "--deny", "warnings"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "29 documents in 6 files: nothing found\n");
}

/// But for namespaces without policies: a template's world has neighbours over whom it
/// has no say.
#[test]
fn the_library_has_no_findings() {
    let entries = fs::read_dir(repository("policies/library")).expect("the library");
    for folder in entries.map(|entry| entry.expect("a folder").path()) {
        let folder = folder.to_string_lossy().into_owned();
        let output = check(&[&folder, "--format", "json"]);
        let mut found = found(&json(&output));
        found.retain(|(_, _, code)| code != "CD0510");
        assert_eq!(found, Found::new(), "{folder}");
        assert!(output.status.success(), "{folder}");
    }
}

const WARNED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec:
  podSelector: {matchLabels: {app: wbe}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: x, labels: {app: web}}
";

#[test]
fn the_exit_status_tells_errors_warnings_and_what_cannot_be_read_apart() {
    let scratch = Scratch::new();
    let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).expect(name);
    write("warned.yaml", WARNED);
    write("wrong.yaml", "kind: [");
    write(
        "good.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: a}}",
    );
    let status = |arguments: &[&str]| check_in(scratch.path(), arguments).status.code();
    assert_eq!(status(&["good.yaml"]), Some(0));
    assert_eq!(status(&["good.yaml", "--deny", "warnings"]), Some(0));
    assert_eq!(status(&["warned.yaml"]), Some(0));
    assert_eq!(status(&["warned.yaml", "--deny", "warnings"]), Some(1));
    assert_eq!(status(&["wrong.yaml"]), Some(1));
    for format in ["json", "sarif"] {
        assert_eq!(status(&["wrong.yaml", "--format", format]), Some(1));
    }
    assert_eq!(status(&["missing.yaml"]), Some(2));
    assert_eq!(status(&[]), Some(2));
    assert_eq!(status(&["good.yaml", "--config", "good.yaml"]), Some(2));
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    assert_eq!(status(&["empty"]), Some(2));
}

#[test]
fn the_text_shows_the_line_as_compilers_do() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("a.yaml"), WARNED).expect("a file");
    let output = check_in(scratch.path(), &["a.yaml"]);
    let expected = "\
warning[CD0501]: the policy selects no workload: no workload of namespace `x` has the label `app` as `wbe`
 --> a.yaml:5:31
  |
5 |   podSelector: {matchLabels: {app: wbe}}
  |                               ^^^
  |
  = help: did you mean `app: web`?

2 documents in 1 file: 0 errors, 1 warning
";
    assert_eq!(text(&output), expected);
}

#[test]
fn what_documents_contain_cannot_take_over_the_terminal() {
    let scratch = Scratch::new();
    let text_of_it = "apiVersion: v1\nkind: Pod\nmetadata: {name: \"\\e[2J\", labels: {a: \"\u{202e}\u{1b}[31m\"}}\n";
    fs::write(scratch.path().join("a.yaml"), text_of_it).expect("a file");
    let output = check_in(scratch.path(), &["a.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = text(&output);
    assert!(text.contains("a.yaml:3:"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
}

#[test]
fn a_comment_says_that_a_warning_is_meant() {
    let scratch = Scratch::new();
    let file = scratch.path().join("a.yaml");
    let allowed = WARNED.replace("app: wbe}}", "app: wbe}}  # cofferdam: allow CD0501");
    fs::write(&file, allowed).expect("a file");
    let output = check_in(scratch.path(), &["a.yaml", "--deny", "warnings"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn standard_input_is_read_lists_of_kubectl_too() {
    let mut child = Command::new(cofferdam!())
        .args(["check", "-", "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let list = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n  {\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \"metadata\": {\"name\": \"p\"},\n   \"spec\": {\"ingress\": [{\"ports\": [{\"protocol\": \"tcp\"}]}]}}\n]}";
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(list.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let expected = ("<stdin>".to_owned(), 3, "CD0212".to_owned());
    assert_eq!(found(&json(&output)), Found::from([expected]));
}

/// The JSON Schema of SARIF 2.1.0, as the crate `serde-sarif` has it.
fn sarif_schema() -> String {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(repository("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata = json(&output);
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "serde-sarif");
    let manifest = package.expect("the crate with the schema")["manifest_path"].as_str();
    let folder = Path::new(manifest.expect("a path")).parent();
    fs::read_to_string(folder.expect("a folder").join("src/schema.json")).expect("the schema")
}

#[test]
fn sarif_is_valid_and_says_what_the_json_says() {
    let folder = "tests/golden/mistakes";
    let log = json(&check(&[folder, "--format", "sarif"]));
    assert_valid(&log, &sarif_schema());
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    let results = run["results"].as_array().expect("results");
    let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = Found::new();
    let mut fingerprints = BTreeSet::new();
    for result in results {
        let place = &result["locations"][0]["physicalLocation"];
        let file = place["artifactLocation"]["uri"].as_str().expect("a file");
        let region = &place["region"];
        let code = result["ruleId"].as_str().expect("a code");
        let index = result["ruleIndex"].as_u64().expect("an index");
        assert_eq!(rules[usize::try_from(index).expect("small")]["id"], code);
        assert!(region["endColumn"].as_u64() > region["startColumn"].as_u64());
        let line = region["startLine"].as_u64().expect("a line");
        found.insert((file.to_owned(), line, code.to_owned()));
        *levels
            .entry(result["level"].as_str().expect("a level"))
            .or_default() += 1;
        fingerprints.insert(result["partialFingerprints"].to_string());
    }
    assert_eq!(found, expected(folder));
    assert_eq!(levels, BTreeMap::from([("error", 1), ("warning", 19)]));
    assert_eq!(fingerprints.len(), results.len());
    assert!(rules.iter().all(|rule| rule["help"]["text"].is_string()));
    assert_eq!(run["invocations"][0]["exitCode"], 1);
}

#[test]
fn sarif_knows_a_finding_again_when_lines_come_before_it() {
    let scratch = Scratch::new();
    let file = scratch.path().join("a b.yaml");
    let results = |text: &str, argument: &str| {
        fs::write(&file, text).expect("a file");
        let log = json(&check_in(scratch.path(), &[argument, "--format", "sarif"]));
        log["runs"][0]["results"][0].clone()
    };
    let path = file.to_string_lossy().into_owned();
    let before = results(WARNED, "a b.yaml");
    let after = results(&format!("# a\n# b\n{WARNED}"), "a b.yaml");
    let absolute = results(WARNED, &path);
    let line = |result: &Value| {
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20b.yaml");
        assert_eq!(place["artifactLocation"]["uriBaseId"], "%SRCROOT%");
        place["region"]["startLine"].as_u64()
    };
    assert_eq!(
        (line(&before), line(&after), line(&absolute)),
        (Some(5), Some(7), Some(5))
    );
    assert_eq!(before["partialFingerprints"], after["partialFingerprints"]);
}

/// `count` pods of node `n`, all of them closed.
fn many(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let [_, _, high, low] = number.to_be_bytes();
        text += &format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}, namespace: x}}, spec: {{nodeName: n}}, status: {{podIP: 10.0.{high}.{low}}}}}\n---\n"
        );
    }
    text + "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {policyTypes: [Ingress, Egress]}}\n"
}

#[test]
fn capacity_says_what_does_not_fit_and_which_setting_raises_it() {
    let scratch = Scratch::new();
    let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).expect(name);
    write("pods.yaml", &many(300));
    write(
        "small.yaml",
        "limits: {endpoints: 200, slots: 256, table_pages: 3}\n",
    );
    let arguments = ["pods.yaml", "--capacity", "--format", "json"];
    let output = check_in(
        scratch.path(),
        &[&arguments[..], &["--config", "small.yaml"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = json(&output);
    let found: Vec<(&str, &str)> = (report["diagnostics"].as_array().expect("a list").iter())
        .map(|one| {
            assert_eq!(one["code"], "CD0402");
            let text = |key: &str| one[key].as_str().expect("text");
            (text("message"), text("hint"))
        })
        .collect();
    assert_eq!(
        found,
        [
            (
                "node n: endpoints: 300 needed, 100 more than there is room for (200)",
                "`limits.endpoints: 300` or more in the configuration raises this"
            ),
            (
                "node n: slots: 302 needed, 47 more than there is room for (255)",
                "`limits.slots: 303` or more in the configuration raises this"
            ),
        ]
    );
    assert_eq!(report["capacity"]["fits"], false);

    // With what it says everything fits, and with one less it does not.
    for (slots, fits) in [(303, true), (302, false)] {
        let config = format!("limits: {{endpoints: 300, slots: {slots}, table_pages: 3}}\n");
        write("next.yaml", &config);
        let arguments = [&arguments[..], &["--config", "next.yaml"]].concat();
        let output = check_in(scratch.path(), &arguments);
        assert_eq!(output.status.success(), fits, "{}", text(&output));
        assert_eq!(json(&output)["capacity"]["nodes"][0]["node"], "n");
    }
    let unknown = [&arguments[..], &["--node", "m"]].concat();
    assert_eq!(check_in(scratch.path(), &unknown).status.code(), Some(2));
}

/// A node, `count` pods of it, and a policy of as many rules as there are blocks.
fn node_with(number: usize, count: usize, blocks: usize) -> String {
    let mut text = String::new();
    for pod in 0..count {
        text += &format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}-{pod}, namespace: x}}, spec: {{nodeName: n{number}}}, status: {{podIP: 10.1.{number}.{pod}}}}}\n---\n"
        );
    }
    let rules: Vec<String> = (0..blocks)
        .map(|block| {
            let [_, _, high, low] = u32::try_from(block).expect("small").to_be_bytes();
            format!(
                "{{to: [{{ipBlock: {{cidr: 203.{high}.{low}.0/24}}}}], ports: [{{port: {}}}]}}",
                block + 1
            )
        })
        .collect();
    text + &format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p{number}, namespace: x}}, spec: {{policyTypes: [Egress], egress: [{}]}}}}\n---\n",
        rules.join(", ")
    )
}

/// Documents fit under a configuration that follows the hints.
#[test]
fn capacity_is_enough_when_its_hints_are_followed() {
    let scratch = Scratch::new();
    let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).expect(name);
    write("all.yaml", &node_with(1, 3, 1500));
    let mut limits = BTreeMap::from([
        ("endpoints", 2),
        ("slots", 64),
        ("table_pages", 3),
        ("rules", 64),
    ]);
    let schema = sarif_schema();
    for round in 0.. {
        assert!(round < 4, "the hints lead nowhere: {limits:?}");
        let config: Vec<String> = (limits.iter())
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        write(
            "config.yaml",
            &format!("limits: {{{}}}\n", config.join(", ")),
        );
        let arguments = [
            "all.yaml",
            "--capacity",
            "--config",
            "config.yaml",
            "--format",
        ];
        let said = |format: &str| {
            let output = check_in(scratch.path(), &[&arguments[..], &[format]].concat());
            (output.status.success(), json(&output))
        };
        let (fits, report) = said("json");
        assert_valid(&said("sarif").1, &schema);
        let hints = report["diagnostics"].as_array().expect("a list");
        assert_eq!(fits, hints.is_empty(), "{hints:#?}");
        if fits {
            assert!(round > 0);
            break;
        }
        for hint in hints {
            let hint = hint["hint"].as_str().expect("a hint");
            let setting = hint.split('`').nth(1).expect("a setting");
            let (name, value) = setting.split_once(": ").expect("a value");
            let name = name.strip_prefix("limits.").expect("a limit");
            let limit = limits.iter_mut().find(|(known, _)| **known == name);
            *limit.expect("a known one").1 = value.parse().expect("a number");
        }
    }
}

#[test]
fn capacity_is_tried_for_the_nodes_with_the_most_workloads() {
    let scratch = Scratch::new();
    let nodes: String = (1..=10)
        .map(|number| node_with(number, number, 1))
        .collect();
    fs::write(scratch.path().join("all.yaml"), nodes).expect("a file");
    let nodes = |arguments: &[&str]| -> (Vec<String>, u64) {
        let arguments = [&["all.yaml", "--capacity", "--format", "json"], arguments].concat();
        let report = json(&check_in(scratch.path(), &arguments));
        found(&report);
        let capacity = &report["capacity"];
        let names = capacity["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|node| node["node"].as_str().expect("a name").to_owned());
        (
            names.collect(),
            capacity["untried"].as_u64().expect("a number"),
        )
    };
    let (most, untried) = nodes(&[]);
    assert_eq!(most.first().map(String::as_str), Some("n10"));
    assert_eq!((most.len(), untried), (8, 2));
    assert_eq!(nodes(&["--node", "n1"]), (vec!["n1".to_owned()], 0));
}

#[test]
fn capacity_is_tried_for_all_workloads_where_no_node_is_named() {
    let scratch = Scratch::new();
    let text = node_with(1, 5, 1).replace("spec: {nodeName: n1}", "spec: {}");
    fs::write(scratch.path().join("all.yaml"), text).expect("a file");
    let report = json(&check_in(
        scratch.path(),
        &["all.yaml", "--capacity", "--format", "json"],
    ));
    found(&report);
    let node = &report["capacity"]["nodes"][0];
    assert_eq!(node["node"], Value::Null);
    assert_eq!(node["workloads"], 5);
    let text = text_of_capacity(scratch.path());
    assert!(
        text.contains("capacity of a node with all workloads, 5 workloads:"),
        "{text}"
    );
    assert!(text.contains("  endpoints            5 of 128\n"), "{text}");
}

fn text_of_capacity(folder: &Path) -> String {
    text(&check_in(folder, &["all.yaml", "--capacity"]))
}
