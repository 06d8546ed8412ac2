//! Reports of agent and commands, held against their schemas and promises.

use std::fs;
use std::path::Path;

use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;
use serde_json::Value;

use super::scene::{DB_BROKEN, DB_FROM_WEB, Scene};

/// Holds JSON against a schema of `docs/schemas`.
#[track_caller]
pub(crate) fn assert_valid(schema: &str, text: &[u8]) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    let schema = fs::read(folder.join(schema)).expect("the schema is there");
    let schema: Value = serde_json::from_slice(&schema).expect("a schema is JSON");
    let value: Value = serde_json::from_slice(text).expect("output is JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(errors.is_empty(), "{errors:?}\n{value}");
    value
}

#[test]
fn every_command_prints_what_its_schema_says() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let wrong = DB_BROKEN.replace("db-from-web", "wrong");
    scene.agent.document("wrong.yaml", &wrong);
    let print = |arguments: &[&str]| {
        let output = scene
            .agent
            .cli(&[arguments, &["--format", "json"]].concat());
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            output.stdout.iter().filter(|byte| **byte == b'\n').count(),
            1
        );
        output.stdout
    };
    let sync = assert_valid("sync.json", &print(&["sync"]));
    assert_eq!(sync["diagnostics"][0]["severity"], "error");
    let status = assert_valid("status.json", &print(&["status"]));
    assert_eq!(status["endpoints"][0]["state"], "enforced");
    assert!(status["verified_at"].is_string());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let list = assert_valid("endpoint-list.json", &print(&["endpoint", "list"]));
    let endpoint = serde_json::to_vec(&list["endpoints"][0]).expect("JSON");
    let endpoint = assert_valid("endpoint.json", &endpoint);
    assert_eq!(endpoint["schema"], "cofferdam/v1");
    let remove = ["endpoint", "remove", "--namespace", "shop", "--name", "db"];
    let removed = assert_valid("endpoint-remove.json", &print(&remove));
    assert_eq!(removed["removed"][0], "shop/db/eth0");
    // What a schema refuses, the test would find.
    let mut wrong = sync;
    wrong["schema"] = "cofferdam/v2".into();
    let text = serde_json::to_vec(&wrong).expect("JSON");
    let refused = std::panic::catch_unwind(|| assert_valid("sync.json", &text));
    assert!(refused.is_err());
}

/// Reads the text format of Prometheus: a name, labels, a value.
fn sample(line: &str) -> Option<(String, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let name = series.split('{').next()?;
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let labels = &series[name.len()..];
    let is_labelled = labels.is_empty() || labels.starts_with('{') && labels.ends_with('}');
    (is_name && is_labelled).then_some(())?;
    Some((series.to_owned(), value.parse().ok()?))
}

#[test]
fn metrics_are_text_that_parses_and_packets_are_conserved() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.add(scene.workload("shop/web"), &["app=other"]);
    scene.assert_blocked("shop/web", "shop/db");
    let (status, text) = scene.agent.http("/metrics");
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples: Vec<(String, f64)> = lines
        .map(|line| sample(line).unwrap_or_else(|| panic!("{line:?}")))
        .collect();
    let sum = |name: &str, label: &str| -> f64 {
        let wanted = |series: &str| series.starts_with(name) && series.contains(label);
        let found = samples.iter().filter(|(series, _)| wanted(series));
        found.map(|(_, value)| value).sum()
    };
    for hook in [
        "from_workload",
        "to_workload",
        "uplink_ingress",
        "uplink_egress",
    ] {
        let label = format!("hook=\"{hook}\"");
        let seen = sum("cofferdam_seen_packets_total", &label);
        let allowed = sum("cofferdam_allowed_packets_total", &label);
        let dropped = sum("cofferdam_dropped_packets_total", &label);
        assert_eq!(seen, allowed + dropped, "{hook}");
        assert_eq!(seen > 0.0, hook.ends_with("workload"), "{hook}");
    }
    assert!(sum("cofferdam_dropped_packets_total", "reason=\"isolated\"") > 0.0);
    assert_eq!(sum("cofferdam_endpoints", "state=\"enforced\""), 2.0);
    assert_eq!(sum("cofferdam_documents", "state=\"accepted\""), 1.0);
    let revision = scene.agent.status().revision;
    assert_eq!(sum("cofferdam_revision", ""), revision as f64);
    assert_eq!(scene.agent.http("/nothing").0, 404);
}

#[test]
fn logs_can_be_json() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.start(&["--log-format", "json"]);
    scene.agent.wait_enforced();
    let log = scene.agent.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    assert!(lines.iter().any(|line| line["message"] == "published"));
}
