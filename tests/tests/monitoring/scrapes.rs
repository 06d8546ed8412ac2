//! One agent to which all happens that it counts, scraped by a real Prometheus: no metric of
//! the list stays at zero, no panel is empty, and alerts arrive.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cofferdam_protocol::output::UnusedRules;
use cofferdam_telemetry::metrics::list;
use cofferdam_tests::agent::Agent;
use cofferdam_tests::firewall::named;
use cofferdam_tests::packet::Family;
use cofferdam_tests::pictures::{self, Dashboard, Kind, Period};
use cofferdam_tests::prometheus::Window;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Conversation, Place, Probe, Server, probe};
use cofferdam_tests::world::{Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};
use serde_json::Value;

use super::dashboards::{files, queries};
use super::servers::{Servers, deployed, pause, promtool};

const PORT: u16 = 5432;
/// Time for what should get through, and for what should not.
const PATIENCE: Duration = Duration::from_secs(5);
const UNTIL_BLOCKED: Duration = Duration::from_millis(50);
/// Time in which everything must have been scraped.
const UNTIL_SCRAPED: Duration = Duration::from_secs(40);

const SETTINGS: &str = "\
limits: {endpoints: 32, slots: 8192, table_pages: 32, flows_per_endpoint: 16}
metrics_labels: [namespace, workload]
port_scan_limit: 5
guard: nftables
uplinks: [uplink0]
";

/// The database takes connections of the web; nobody makes connections to the web, on trial.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 5432}]
  - from: [{podSelector: {matchLabels: {app: nobody}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web-closed
  namespace: shop
  annotations: {cofferdam.dev/mode: audit}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: Namespace
metadata: {name: trial, annotations: {cofferdam.dev/enforcement: audit}}
";

/// Metrics that stay at zero here, each with the reason.
const ZERO: [(&list::Metric, &str); 12] = [
    (
        &list::FLOWS_REFUSED,
        "needs a full table of flows none of which makes room; `flow_states` has one, and the \
         renderer's own tests show it",
    ),
    (
        &list::UNREPORTED_PACKETS,
        "needs a flood; `records` has one",
    ),
    (&list::PAGE_AGE, "needs a busy agent; `http` has one"),
    (
        &list::HOOKS_OUT_OF_PLACE,
        "needs a kernel that refuses to repair",
    ),
    (
        &list::SERIES_FOLDED,
        "needs more series than there is room for; the renderer's own tests have them",
    ),
    (
        &list::HTTP_EVICTED,
        "needs too many callers; `http` has them",
    ),
    (
        &list::KUBERNETES_AWAY_SINCE,
        "needs an API server; the agent's tests of Kubernetes have one",
    ),
    (
        &list::KUBERNETES_OBJECTS,
        "needs an API server; the agent's tests of Kubernetes have one",
    ),
    (
        &list::ETCD_AWAY_SINCE,
        "needs an etcd; its own tests have one",
    ),
    (
        &list::ETCD_UNPUBLISHED_SINCE,
        "needs an etcd; its own tests have one",
    ),
    (&list::ETCD_KEYS, "needs an etcd; its own tests have one"),
    (
        &list::OUTPUT_LOST_RECORDS,
        "needs an output that fails; the agent's flow log has one",
    ),
];

/// Alerts that come at once.
const ALERTS: [&str; 3] = [
    "CofferdamTampering",
    "CofferdamPortScan",
    "CofferdamNewDenial",
];

fn connect(world: &World, from: &str, to: &str, port: u16, patience: Duration) -> bool {
    let to = Place::from(named(world, to)).ip(Family::V4);
    let outcome = probe(named(world, from), to, Probe::Tcp(port), patience);
    outcome.expect("a probe").is_reached()
}

/// More lasting connections than the flow tables of their ends have room for.
fn fill(world: &World) -> Vec<Conversation> {
    let to = Place::from(named(world, "shop/db")).ip(Family::V4);
    let web = named(world, "shop/web");
    let talks = (0..60).map(|_| {
        let mut talk = Conversation::tcp(web, to, PORT, PATIENCE).expect("it connects");
        talk.exchange(b"and more", PATIENCE).expect("an answer");
        talk
    });
    talks.collect()
}

/// Everything that is counted more than once.
fn traffic(world: &World) {
    assert!(connect(world, "shop/web", "shop/db", PORT, PATIENCE));
    assert!(connect(world, "shop/db", "shop/web", PORT, PATIENCE));
    assert!(!connect(world, "shop/web", "shop/db", 81, UNTIL_BLOCKED));
    // The guard drops what nobody has adopted.
    _ = connect(world, "shop/stranger", "shop/db", PORT, UNTIL_BLOCKED);
}

/// Values of all series of a page, by metric.
fn values(page: &str) -> Vec<(&str, f64)> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name");
        (name, value.parse().expect("a number"))
    });
    values.collect()
}

fn assert_nothing_stays_zero(page: &str) {
    let values = values(page);
    let moved = |metric: &&&list::Metric| {
        // A histogram has moved if it has counted.
        let name = match metric.kind {
            list::Kind::Histogram => format!("{}_count", metric.name),
            _ => metric.name.to_owned(),
        };
        let mut of_metric = values.iter().filter(|(one, _)| *one == name);
        of_metric.any(|(_, value)| *value != 0.0)
    };
    let still: BTreeSet<&str> = (list::ALL.iter())
        .filter(|metric| !moved(metric))
        .map(|metric| metric.name)
        .collect();
    let expected = ZERO.map(|(metric, _)| metric.name).into();
    assert_eq!(still, expected, "{page}");
}

/// Draws every dashboard, as its picture is drawn, over what has been scraped. Returns the
/// first panel that shows nothing.
fn undrawn(servers: &Servers) -> Option<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let end = now.as_secs();
    let window = Window {
        start: end - 30,
        end,
        step: 1,
    };
    let period = Period { window, rate: 4 };
    let prometheus = servers.prometheus();
    for path in files() {
        let text = fs::read_to_string(&path).expect("a file");
        let dashboard = Dashboard::parse(&text).expect("a dashboard");
        let page = dashboard
            .draw(&period, |ask| {
                assert!(!ask.query.contains('$'), "{ask:?}");
                let series = if ask.is_instant {
                    prometheus.at(&ask.query, end)
                } else {
                    prometheus.range(&ask.query, window)
                };
                Ok::<_, pictures::Error>(series.unwrap_or_else(|error| panic!("{error}")))
            })
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if page.contains("No data") {
            return Some(format!("{}: {page}", path.display()));
        }
        for panel in &dashboard.panels {
            let title = format!(">{}</h", panel.title);
            let drawn = page.split_once(&title);
            let (_, drawn) = drawn.unwrap_or_else(|| panic!("{}: {title}", path.display()));
            let drawn = drawn.split("</section>").next().unwrap_or_default();
            let mark = match panel.kind {
                Kind::Row => "2>",
                Kind::Stat => "class=\"stat\"",
                Kind::Table => "<td class=\"n\">",
                Kind::TimeSeries => "<polyline",
            };
            if !drawn.contains(mark) {
                return Some(format!("{}: {title}: {drawn}", path.display()));
            }
        }
    }
    None
}

/// Returns `true` if a result has a number.
fn has_number(result: &Value) -> bool {
    result["value"][1]
        .as_str()
        .is_some_and(|value| value != "NaN")
}

#[test]
fn rules_and_configuration_are_what_prometheus_reads() {
    let at = |path: &str| deployed(path).to_string_lossy().into_owned();
    promtool(
        &["check", "rules", &at("prometheus/cofferdam.rules.yml")],
        "",
    );
    promtool(&["check", "config", &at("prometheus/prometheus.yml")], "");
    promtool(
        &["test", "rules", &at("prometheus/cofferdam.tests.yml")],
        "",
    );
    let rules = fs::read_to_string(at("prometheus/cofferdam.rules.yml")).expect("a file");
    let tests = fs::read_to_string(at("prometheus/cofferdam.tests.yml")).expect("a file");
    let alerts: Vec<&str> = (rules.lines())
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 12, "{alerts:?}");
    for alert in &alerts {
        let fires = format!("'ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",");
        assert!(tests.contains(&fires), "no test has {alert} fire");
    }
    assert_eq!(rules.matches("runbook: ").count(), alerts.len());
    // Each metric that is asked for is one of the list.
    let known = |name: &str| list::ALL.iter().any(|metric| name.starts_with(metric.name));
    for text in queries("1m", "4s").iter().map(|query| query.text.as_str()) {
        assert_known(text, known);
    }
    for line in rules.lines().filter(|line| !line.contains("runbook")) {
        assert_known(line, known);
    }
}

/// Holds the metrics in a text against the list.
fn assert_known(text: &str, known: impl Fn(&str) -> bool) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    for word in words.filter(|word| word.starts_with("cofferdam_")) {
        // Of another part of the agent, which may not be there yet.
        assert!(
            known(word) || word == "cofferdam_enforcement",
            "{word}: {text}"
        );
    }
}

#[test]
fn all_metrics_move_all_panels_show_something_and_alerts_arrive() {
    skip_unless!(Feature::NetworkNamespaces);
    let names = [
        "shop/web",
        "shop/db",
        "shop/free",
        "shop/gone",
        "shop/stranger",
    ];
    let world = World::plan(Wiring::Ptp)
        .workloads(names)
        .outside()
        .build()
        .expect("a world");
    let node = &world.node().namespace;
    node.strip_tags("uplink0", false).expect("a virtual pair");
    let places = ["shop/web", "shop/db"].map(|name| Place::from(named(&world, name)));
    let _servers = Server::start_all(places, &[Probe::Tcp(PORT)]).expect("servers");
    let mut agent = Agent::new(cofferdam!(), &world).settings(SETTINGS);
    agent.document("policies.yaml", POLICIES);
    agent.start_enforced();
    for (name, label) in [
        ("web", "app=web"),
        ("db", "app=db"),
        ("free", "app=free"),
        ("gone", "app=gone"),
    ] {
        agent.add(named(&world, &format!("shop/{name}")), &[label]);
    }
    let servers = Servers::start(node, &agent.path("monitoring"));
    let up = "up{job=\"cofferdam\"} == 1";
    servers.wait("the agent is scraped", || {
        servers.query(up).first().map(|_| ())
    });

    // What is counted once, or takes a while.
    fs::remove_dir_all(agent.pins()).expect("pins");
    agent.remove("shop/gone");
    assert!(
        agent
            .cli(&["bypass", "shop/free", "--for", "5m"])
            .status
            .success()
    );
    // Of a policy that goes.
    assert!(!connect(&world, "shop/web", "shop/db", 81, UNTIL_BLOCKED));
    let first = "cofferdam_dropped_packets_total{policy=\"db-from-web\"} > 0";
    servers.wait("a denial is scraped", || servers.query(first).pop());
    let other = POLICIES.replace("name: db-from-web", "name: db-from-the-web");
    agent.document("policies.yaml", &other);
    assert!(agent.sync().revision > 0);
    agent.endpoints();
    for port in 81..91 {
        assert!(!connect(&world, "shop/web", "shop/db", port, UNTIL_BLOCKED));
    }
    let _talks = fill(&world);

    let deadline = Instant::now() + UNTIL_SCRAPED;
    loop {
        traffic(&world);
        let mut empty: Vec<String> = Vec::new();
        for query in queries("30s", "4s") {
            if !servers.query(&query.text).iter().any(has_number) {
                empty.push(query.panel);
            }
        }
        let alerts = servers.alerts();
        let missing: Vec<&str> = (ALERTS.iter().copied())
            .filter(|name| {
                !alerts
                    .iter()
                    .any(|alert| alert["labels"]["alertname"] == *name)
            })
            .collect();
        let is_swept = servers.query("cofferdam_flows > 0").iter().any(has_number);
        if empty.is_empty() && missing.is_empty() && is_swept {
            let told = |alert: &Value| !alert["annotations"]["runbook"].is_null();
            assert!(alerts.iter().all(told), "{alerts:?}");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "empty: {empty:#?}; missing: {missing:?}\n{}",
            agent.http("/metrics").1
        );
        pause(Duration::from_millis(200));
    }

    // A line takes two points: what has been scraped once is none yet.
    while let Some(panel) = undrawn(&servers) {
        assert!(Instant::now() < deadline, "{panel}");
        traffic(&world);
        pause(Duration::from_millis(200));
    }

    agent.sync();
    let (status, page) = agent.http("/metrics");
    assert_eq!(status, 200);
    promtool(&["check", "metrics"], &page);
    assert_nothing_stays_zero(&page);
    // No address, and no port.
    for word in ["10.1.", "fd00:", "\"5432\""] {
        assert!(!page.contains(word), "{word}: {page}");
    }
    // What has gone has no series.
    assert!(!page.contains("policy=\"db-from-web\""), "{page}");
    assert!(page.contains("policy=\"db-from-the-web\""), "{page}");
    assert!(page.contains("workload=\"db\"} "), "{page}");
    let log = agent.log();
    assert!(log.contains("port scan"), "{log}");

    let unused: UnusedRules = agent.json(&["status", "--unused-rules"]);
    let rules = unused.rules.iter();
    let rules: Vec<_> = rules
        .map(|rule| (rule.name.as_str(), rule.index, rule.line))
        .collect();
    assert_eq!(rules, [("db-from-the-web", 1, 9)], "{unused:?}");
    assert!(
        unused.rules[0].file.ends_with("policies.yaml"),
        "{unused:?}"
    );
    let all: UnusedRules = agent.json(&["status", "--unused-rules", "--since", "0s"]);
    assert_eq!(all.rules.len(), 2, "{all:?}");
    assert!(
        all.rules.iter().any(|rule| rule.last_hit.is_some()),
        "{all:?}"
    );
}
