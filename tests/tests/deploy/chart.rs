//! The chart as Helm's own library renders it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cofferdam_agent::config::Config;
use cofferdam_tests::docs::role;
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::{cofferdam, skip_unless};
use cofferdam_verdict::capacity::Limits;
use serde_json::{Value, json};

use super::manifests::{KUBECTL, in_repository, objects, of_kind, rendered};

/// Python with Helm's library, where `cargo xtask setup` puts it.
fn python() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    let python = cache.join("cofferdam/helm/bin/python");
    python.is_file().then_some(python)
}

const HELM: Feature = Feature::Other("helm", || match python() {
    Some(_) => Ok(()),
    None => Err("Helm's library is missing: `cargo xtask setup` installs it".to_owned()),
});

/// Renders the chart.
///
/// # Errors
/// Words of Helm about chart or values.
fn render(values: &Value) -> Result<Vec<Value>, String> {
    let mut command = Command::new(python().expect("it is there"));
    command.arg(in_repository("tests/tests/deploy/render.py"));
    command.arg(in_repository("deploy/helm/cofferdam"));
    let output = command
        .arg(values.to_string())
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    if let Some(error) = result["error"].as_str() {
        return Err(error.to_owned());
    }
    assert_eq!(result["lint"]["errors"], json!([]));
    let messages = result["lint"]["messages"].as_array().expect("a list");
    // Information has severity 1.
    let worst = messages
        .iter()
        .filter_map(|message| message["severity"].as_u64())
        .max();
    assert!(worst.unwrap_or(0) <= 1, "{messages:?}");
    let rendered = result["rendered"].as_object().expect("templates");
    let manifests = rendered
        .iter()
        .filter(|(name, _)| !name.ends_with("NOTES.txt"));
    Ok(manifests
        .flat_map(|(_, text)| objects(text.as_str().expect("text")))
        .collect())
}

/// Returns what two ways of installing must have in common: without a chart's own labels and
/// annotations, and with documents in texts as values.
fn comparable(mut object: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for own in [
                    "app.kubernetes.io/instance",
                    "app.kubernetes.io/managed-by",
                    "app.kubernetes.io/version",
                    "helm.sh/chart",
                    "checksum/config",
                ] {
                    map.remove(own);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut object);
    if let Some(Value::String(text)) = object.pointer("/data/config.yaml") {
        object["data"]["config.yaml"] = objects(text).remove(0);
    }
    object
}

fn by_name(objects: Vec<Value>) -> BTreeMap<(String, String), Value> {
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    objects
        .into_iter()
        .map(|one| {
            (
                (word(&one["kind"]), word(&one["metadata"]["name"])),
                comparable(one),
            )
        })
        .collect()
}

fn agent_of(objects: &[Value]) -> &Value {
    let containers = &of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["name"], "agent");
    &containers[0]
}

/// Reads the agent's configuration as the agent does.
#[track_caller]
fn configuration(objects: &[Value]) -> Config {
    let maps = objects
        .iter()
        .filter(|object| object["kind"] == "ConfigMap");
    let mut texts = maps.filter_map(|map| map["data"]["config.yaml"].as_str());
    let text = texts.next().expect("a configuration");
    let config = cofferdam_agent::config::parse("config.yaml", text.as_bytes());
    config.unwrap_or_else(|mistakes| panic!("{mistakes:?}\n{text}"))
}

#[test]
fn the_chart_installs_what_the_manifests_do() {
    skip_unless!(KUBECTL);
    skip_unless!(HELM);
    let mut manifests = by_name(rendered());
    // Helm makes none; `--create-namespace` does.
    let namespace = ("Namespace".to_owned(), "cofferdam-system".to_owned());
    manifests.remove(&namespace).expect("a namespace");
    // Helm installs those of `crds/` before what it renders.
    let definition = |name: &(String, String)| name.0 == "CustomResourceDefinition";
    assert_eq!(manifests.keys().filter(|name| definition(name)).count(), 1);
    manifests.retain(|name, _| !definition(name));
    let crds = fs::read_dir(in_repository("deploy/helm/cofferdam/crds")).expect("a folder");
    let crds: Vec<_> = crds
        .map(|one| one.expect("an entry").path().canonicalize())
        .collect();
    let crd = in_repository("deploy/kubernetes/crds/nodestatuses.yaml").canonicalize();
    assert_eq!(crds.len(), 1);
    assert_eq!(crds[0].as_ref().ok(), crd.as_ref().ok());
    let chart = by_name(render(&json!({})).expect("it renders"));
    let keys = |all: &BTreeMap<(String, String), Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&manifests), keys(&chart));
    for (name, manifest) in &manifests {
        assert_eq!(manifest, &chart[name], "{name:?}");
    }
}

/// The agents of the tests are held to the roles of the page.
#[test]
fn the_chart_gives_the_rights_of_the_page_and_no_others() {
    skip_unless!(HELM);
    let rules = |values: &Value| {
        let rendered = render(values).expect("it renders");
        of_kind(&rendered, "ClusterRole")["rules"]
            .as_array()
            .expect("rules")
            .clone()
    };
    let of_page = |name: &str| role(name)["rules"].as_array().expect("rules").clone();
    let (agent, taint) = (of_page("cofferdam-agent"), of_page("cofferdam-agent-taint"));
    assert_eq!(rules(&json!({})), agent);
    assert_eq!(
        rules(&json!({"taint": true})),
        [agent.clone(), taint].concat()
    );
    let silent = rules(&json!({"report": false}));
    let writes = |rule: &&Value| {
        rule["verbs"]
            .as_array()
            .is_some_and(|verbs| verbs.contains(&json!("create")))
    };
    assert_eq!(silent.iter().filter(writes).count(), 0);
    assert_eq!(
        silent.len() + agent.iter().filter(writes).count(),
        agent.len()
    );
}

#[test]
fn the_chart_makes_configurations_that_the_agent_reads() {
    skip_unless!(HELM);
    let rendered = render(&json!({})).expect("it renders");
    let config = configuration(&rendered);
    assert!(config.kubernetes.enabled && config.policies.is_empty());
    assert_eq!(config.limits(), Limits::DEFAULT);
    let values = json!({
        "enforcement": "audit",
        "metrics": {"local": false, "tls": {"enabled": true, "port": 9999}},
        "config": {"guard": "nftables", "kubernetes": {"wait": "5s"}, "policies": ["/p"]},
        "limits": {"endpoints": 300},
        "api": {"host": "10.0.0.1", "port": 443},
    });
    let rendered = render(&values).expect("it renders");
    let config = configuration(&rendered);
    assert!(config.kubernetes.enabled, "merged with what is given");
    assert_eq!(config.metrics, None);
    assert_eq!(
        config.metrics_tls.address.map(|address| address.port()),
        Some(9999)
    );
    assert_eq!(config.limits().endpoints, 300);
    assert_eq!(config.policies, [PathBuf::from("/p")]);
    let agent = agent_of(&rendered);
    assert!(
        agent.get("startupProbe").is_none(),
        "nothing answers on the node itself"
    );
    let tls = &config.metrics_tls;
    let mounts = agent["volumeMounts"].as_array().expect("a list");
    let mounted = mounts.iter().any(|mount| {
        let path = mount["mountPath"].as_str().expect("a path");
        [&tls.certificate, &tls.key, &tls.client_ca]
            .iter()
            .all(|file| file.starts_with(path))
    });
    assert!(mounted, "{mounts:?}");
    let env = agent["env"].as_array().expect("a list");
    assert!(env.contains(&json!({"name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.1"})));
}

/// The kernel charges maps to the agent's control group: one with less memory than its maps
/// take is killed when flows come.
#[test]
fn the_memory_limit_has_room_for_every_flow_table() {
    skip_unless!(HELM);
    let cases = [
        json!({}),
        json!({"endpoints": 4096, "flows_per_endpoint": 16384}),
        json!({"endpoints": 1, "flows_per_endpoint": 16, "slots": 64, "table_pages": 3, "rules": 2}),
        json!({"slots": 1 << 24, "table_pages": 16384}),
        json!({"rules": 1 << 20}),
        json!({"endpoints": 100, "flows_per_endpoint": 8193}),
    ];
    for limits in cases {
        let rendered = render(&json!({ "limits": limits })).expect("it renders");
        let limit = agent_of(&rendered)["resources"]["limits"]["memory"]
            .as_str()
            .and_then(|text| text.strip_suffix("Mi"))
            .expect("MiB");
        let limit: u64 = limit.parse().expect("a number");
        let sizes = configuration(&rendered).limits();
        let maps = sizes.memory_bytes(sizes.endpoints, sizes.flow_sets());
        let needed = (maps + sizes.table_bytes()).div_ceil(1 << 20) + 160;
        println!("{limits}: {limit} MiB for {needed} MiB");
        assert!(limit >= needed, "{limits}: {limit} MiB for {needed} MiB");
        assert!(
            limit <= needed * 3 / 2 + 100,
            "{limits}: {limit} MiB for {needed} MiB"
        );
    }
}

#[test]
fn monitoring_is_behind_switches_and_has_the_rules_and_dashboards_of_the_repository() {
    skip_unless!(HELM);
    let values = json!({
        "metrics": {"tls": {"enabled": true}},
        "serviceMonitor": {"enabled": true, "labels": {"release": "p"}},
        "prometheusRule": {"enabled": true},
        "dashboards": {"enabled": true, "datasource": "Mine"},
    });
    let rendered = render(&values).expect("it renders");
    let read = |path: &str| fs::read_to_string(in_repository(path)).expect("a file");
    let rules = objects(&read("deploy/prometheus/cofferdam.rules.yml")).remove(0);
    assert_eq!(of_kind(&rendered, "PrometheusRule")["spec"], rules);
    for board in ["overview", "drops", "audit", "agent"] {
        let name = format!("cofferdam-{board}.json");
        let mut texts = rendered
            .iter()
            .filter_map(|one| one["data"][&name].as_str());
        let text = texts.next().expect("a dashboard");
        serde_json::from_str::<Value>(text).expect("JSON");
        let of_repository = read(&format!("deploy/grafana/{board}.json"));
        assert_eq!(text, of_repository.replace("${DS_PROMETHEUS}", "Mine"));
    }
    // The monitor finds the Service, the Service the pods, and its port is the agent's.
    let service = of_kind(&rendered, "Service");
    let monitor = of_kind(&rendered, "ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "p");
    let is_part = |part: &Value, whole: &Value| {
        let mut part = part.as_object().expect("labels").iter();
        part.all(|(key, value)| whole[key] == *value)
    };
    assert!(is_part(
        &monitor["spec"]["selector"]["matchLabels"],
        &service["metadata"]["labels"]
    ));
    let pods = &of_kind(&rendered, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
    assert!(is_part(&service["spec"]["selector"], pods));
    let port = &service["spec"]["ports"][0];
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], port["name"]);
    let address = configuration(&rendered)
        .metrics_tls
        .address
        .expect("an address");
    assert_eq!(port["port"], address.port());
    let job = monitor["spec"]["jobLabel"].as_str().expect("a label");
    assert_eq!(
        service["metadata"]["labels"][job], "cofferdam",
        "alerts know the job"
    );
}

#[test]
fn values_that_cannot_be_are_refused() {
    skip_unless!(HELM);
    for (values, word) in [
        (json!({"limit": {}}), "limit"),
        (json!({"limits": {"endpoints": 0}}), "endpoints"),
        (json!({"enforcement": "off"}), "enforcement"),
        // The chart has switches for these.
        (json!({"config": {"metrics": ""}}), "metrics"),
        (json!({"image": {"digest": "latest"}}), "digest"),
        (
            json!({"serviceMonitor": {"enabled": true}}),
            "metrics.tls.enabled",
        ),
    ] {
        let error = render(&values).expect_err("it cannot be");
        assert!(error.contains(word), "{values}: {error}");
    }
}

/// A configuration with the chart's keys passes the agent's own command line too.
#[test]
fn the_agent_takes_the_arguments_of_the_manifests() {
    skip_unless!(KUBECTL);
    let rendered = rendered();
    let folder = Scratch::new();
    let file = folder.path().join("config.yaml");
    let mut maps = rendered
        .iter()
        .filter_map(|object| object["data"]["config.yaml"].as_str());
    fs::write(&file, maps.next().expect("a configuration")).expect("a file");
    let arguments = agent_of(&rendered)["args"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|argument| {
            let argument = argument
                .as_str()
                .expect("text")
                .replace("$(NODE_NAME)", "ip-10-0-0-1.example");
            argument.replace("/etc/cofferdam/config.yaml", &file.display().to_string())
        });
    let mut command = Command::new(cofferdam!());
    let output = command
        .args(arguments)
        .arg("--print-config")
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(printed.contains("name: ip-10-0-0-1.example"), "{printed}");
}
