//! Words that no runtime should say: the plugin answers by the specification's numbers.

use std::ffi::OsString;

use cofferdam_tests::cni::run;
use cofferdam_tests::scratch::Scratch;
use serde_json::{Value, json};

use super::scene::plugin;

/// Runs the plugin. Returns its exit status and what it says.
fn said(environment: &[(&str, &str)], input: &[u8]) -> (i32, Value) {
    let environment: Vec<(&str, OsString)> = (environment.iter())
        .map(|(name, value)| (*name, OsString::from(value)))
        .collect();
    let output = run(plugin(), &environment, input).expect("the plugin runs");
    let status = output.status.code().expect("it is not killed");
    assert!(output.stderr.is_empty(), "{output:?}");
    let said = serde_json::from_slice(&output.stdout);
    (
        status,
        said.unwrap_or_else(|error| panic!("{error}: {output:?}")),
    )
}

const ADD: [(&str, &str); 4] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/none"),
    ("CNI_IFNAME", "eth0"),
];

/// `ADD` with one variable as given, or without it.
fn add_with<'a>(name: &'a str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut environment = ADD.to_vec();
    environment.retain(|(other, _)| *other != name);
    environment.extend(value.map(|value| (name, value)));
    environment
}

fn config(more: &Value) -> Vec<u8> {
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "n", "type": "cofferdam-cni", "runDir": "/nowhere",
        "prevResult": {"ips": [{"address": "10.0.0.2/24"}]},
    });
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config.to_string().into_bytes()
}

#[test]
fn versions_are_told_in_the_version_that_asks() {
    let ask = |input: &str| said(&[("CNI_COMMAND", "VERSION")], input.as_bytes());
    let versions = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        ("", "1.1.0"),
    ] {
        let told = json!({"cniVersion": version, "supportedVersions": versions});
        assert_eq!(ask(input), (0, told));
    }
    assert_eq!(ask("{").1["code"], 6);
}

#[test]
fn a_wrong_environment_is_error_4() {
    let good = config(&json!({}));
    let long = "a".repeat(5000);
    let wrong = [
        add_with("CNI_COMMAND", None),
        add_with("CNI_COMMAND", Some("add")),
        add_with("CNI_CONTAINERID", None),
        add_with("CNI_CONTAINERID", Some("../../etc")),
        add_with("CNI_CONTAINERID", Some(&long)),
        add_with("CNI_NETNS", None),
        add_with("CNI_NETNS", Some("run/netns/a")),
        add_with("CNI_IFNAME", None),
        add_with("CNI_IFNAME", Some("../eth0")),
        add_with("CNI_IFNAME", Some("eth0eth0eth0eth0")),
        add_with("CNI_ARGS", Some("K8S_POD_NAME")),
        add_with("CNI_ARGS", Some("K8S_POD_NAME=../../a")),
        add_with("CNI_ARGS", Some("K8S_POD_NAMESPACE=Not-Valid")),
    ];
    for environment in wrong {
        let (status, told) = said(&environment, &good);
        assert_eq!((status, &told["code"]), (1, &json!(4)), "{environment:?}");
    }
}

#[test]
fn a_wrong_configuration_is_told_by_its_number() {
    let whole = config(&json!({}));
    for end in 0..whole.len() {
        let (status, told) = said(&ADD, &whole[..end]);
        assert_eq!((status, &told["code"]), (1, &json!(6)), "{end}");
        if end > 3 {
            // Each of them in one test is enough.
            break;
        }
    }
    let deep = format!(
        r#"{{"cniVersion":"1.0.0","prevResult":{}"#,
        "[".repeat(1 << 20)
    );
    let huge = vec![b' '; (4 << 20) + 1];
    let binary = b"{\"cniVersion\":\"1.0.0\",\"name\":\"\xff\"}".to_vec();
    for input in [
        deep.into_bytes(),
        huge,
        binary,
        b"[]".to_vec(),
        b"null".to_vec(),
    ] {
        assert_eq!(said(&ADD, &input).1["code"], 6);
    }
    for (more, code) in [
        (json!({"cniVersion": "0.2.0"}), 1),
        (json!({"cniVersion": null}), 1),
        (json!({"cniVersion": 1}), 6),
        (json!({"cofferdam": {"labls": {"app": "web"}}}), 2),
        (json!({"name": ""}), 7),
        (json!({"name": "../n"}), 7),
        (json!({"runDir": "here"}), 7),
        (json!({"prevResult": null}), 7),
        (json!({"prevResult": {}}), 7),
        (json!({"prevResult": []}), 6),
        (json!({"prevResult": {"ips": [{"address": "10.0.0.2"}]}}), 6),
        (json!({"cofferdam": {"labels": ["app"]}}), 6),
        (json!({"runtimeConfig": "x"}), 6),
        // As it should be, but for the agent.
        (json!({}), 11),
    ] {
        let (status, told) = said(&ADD, &config(&more));
        assert_eq!((status, &told["code"]), (1, &json!(code)), "{more}: {told}");
        let version = more.get("cniVersion").map_or("1.0.0", |_| "1.1.0");
        assert_eq!(told["cniVersion"], version, "{more}");
        assert!(told["msg"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let (_, told) = said(&ADD, &config(&json!({"prevResult": null})));
    let details = told["details"].as_str().expect("details");
    assert!(details.contains("chained"), "{details}");
    let (_, told) = said(
        &ADD,
        &config(&json!({"cofferdam": {"labls": {"app": "web"}}})),
    );
    let message = told["msg"].as_str().expect("a message");
    assert!(
        message.contains("labls") && message.contains("web"),
        "{message}"
    );
}

#[test]
fn a_removal_needs_no_namespace_and_nothing_of_the_result() {
    let scratch = Scratch::new();
    let environment = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "unknown"),
        ("CNI_IFNAME", "eth0"),
    ];
    let input = config(&json!({
        "runDir": scratch.path().join("run"),
        "prevResult": {"ips": 7},
        "cofferdam": {"labls": 7},
    }));
    for _ in 0..2 {
        let environment = environment.map(|(name, value)| (name, OsString::from(value)));
        let output = run(plugin(), &environment, &input).expect("the plugin runs");
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    let note = scratch.path().join("run/removals/unknown:eth0");
    assert!(note.is_file());
    // Where not even a note can be left, the runtime has to try again.
    let input = config(&json!({"runDir": "/proc/nowhere"}));
    assert_eq!(said(&environment, &input).1["code"], 11);
}
