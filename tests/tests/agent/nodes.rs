//! An agent's NodeStatus, Events and taint, and the answers of `cofferdam status --cluster` and
//! kubectl about them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cofferdam_protocol::Reply;
use cofferdam_sources::kubernetes::{Resource, WriteError, Writer};
use cofferdam_tests::agent::Agent;
use cofferdam_tests::api_server::{Right, Role};
use cofferdam_tests::cofferdam;
use cofferdam_tests::docs::role;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::{Namespace, Wiring, World};
use serde_json::{Value, json};

use super::kubernetes::{Cluster, PATIENCE};
use super::reports::assert_valid;
use super::scene::{DB_BROKEN, DB_CLOSED, DB_FROM_WEB};

const POLICY: &str = "kubernetes:NetworkPolicy/shop/db-from-web";
/// The key of the taint.
const TAINT: &str = "cofferdam.dev/agent-not-ready";
/// Longest time in which an agent may answer whatever its writes do.
const AT_ONCE: Duration = Duration::from_secs(5);

impl Cluster {
    /// A kubeconfig of a user whom the server lets do everything, for commands that run beside
    /// the nodes.
    fn user(&self) -> PathBuf {
        (self.server).listen_in(&Namespace::current().expect("a namespace"));
        self.server
            .write_user_kubeconfig(&self.scene.agent.path(""))
    }

    /// Lets another agent run, on a node without workloads.
    fn second(&self) -> (World, Agent) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}});
        self.server.put(node);
        let world = World::plan(Wiring::Ptp).build().expect("a world");
        self.server.listen_in(&world.node().namespace);
        let mut agent = Agent::new(cofferdam!(), &world).called("n2");
        let kubeconfig = self.server.write_kubeconfig(&agent.path(""));
        agent.set(&format!(
            "limits: {{endpoints: 32, slots: 8192, table_pages: 32}}\n\
             kubernetes: {{enabled: true, kubeconfig: {}}}\n",
            kubeconfig.display()
        ));
        agent.start_enforced();
        (world, agent)
    }
}

/// `cofferdam status --cluster`: whether all is well, and the answer.
fn status(kubeconfig: &std::path::Path) -> (bool, Value) {
    let output = Command::new(cofferdam!())
        .args(["status", "--cluster", "--format", "json", "--kubeconfig"])
        .arg(kubeconfig)
        .output()
        .expect("the command can be run");
    let is_good = match output.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{output:?}"),
    };
    let report = assert_valid("cluster-status.json", &output.stdout);
    assert_eq!(report["ok"], is_good);
    (is_good, report)
}

fn node<'r>(report: &'r Value, name: &str) -> &'r Value {
    let nodes = report["nodes"].as_array().expect("nodes");
    let mut named = nodes.iter().filter(|node| node["name"] == name);
    named
        .next()
        .unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[track_caller]
fn wait_for(
    what: &str,
    kubeconfig: &std::path::Path,
    agents: &[&Agent],
    is_so: impl Fn(bool, &Value) -> bool,
) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (is_good, report) = status(kubeconfig);
        if is_so(is_good, &report) {
            return report;
        }
        let logs: Vec<String> = agents.iter().map(|agent| agent.log()).collect();
        let logs = logs.join("\n---\n");
        assert!(Instant::now() < deadline, "not {what}: {report:#}\n{logs}");
    }
}

fn kubectl(kubeconfig: &std::path::Path, arguments: &[&str]) -> Output {
    let output = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        // It keeps what it knows of servers there.
        .env("HOME", kubeconfig.parent().expect("a folder"))
        .args(arguments)
        .output()
        .expect("kubectl can be run: `cargo xtask setup` installs it");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[test]
fn nodes_that_have_the_same_in_force_say_so_and_one_that_lags_is_named() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut cluster = Cluster::new();
    cluster.server.serve_node_statuses(true);
    cluster.server.apply(DB_CLOSED);
    let user = cluster.user();
    let (_world, second) = cluster.second();
    cluster.scene.agent.start_enforced();
    cluster.added("db");
    cluster.added("web");
    let agents = [&cluster.scene.agent, &second];
    let are_equal = |report: &Value| {
        let [one, other] = ["n1", "n2"].map(|name| &node(report, name)["state_hash"]);
        one.is_string() && one == other
    };
    let before = wait_for("equal", &user, &agents, |is_good, report| {
        is_good && are_equal(report)
    });
    for name in ["n1", "n2"] {
        assert_eq!(node(&before, name)["policies_behind"], json!([]));
        assert_eq!(node(&before, name)["enforced"], true);
        let written = cluster
            .server
            .get("NodeStatus", "", name)
            .expect("it is there");
        assert_eq!(written["metadata"]["ownerReferences"][0]["name"], name);
    }

    // By kubectl, as a user does; one agent does not run meanwhile.
    second.pause();
    let file = cluster.scene.agent.path("policy.yaml");
    fs::write(&file, DB_FROM_WEB).expect("a file");
    let file = file.to_str().expect("text");
    kubectl(&user, &["apply", "--validate=false", "-f", file]);
    cluster.eventually("allowed", || cluster.is_open());
    let behind = wait_for("behind", &user, &agents, |is_good, report| {
        !is_good
            && node(report, "n1")["policies_behind"] == json!([])
            && node(report, "n1")["state_hash"] != node(&before, "n1")["state_hash"]
    });
    assert_eq!(node(&behind, "n1")["problems"], json!([]));
    assert_eq!(node(&behind, "n2")["policies_behind"], json!([POLICY]));
    assert!(!are_equal(&behind), "{behind}");
    second.resume();
    let after = wait_for("equal again", &user, &agents, |is_good, report| {
        is_good && are_equal(report)
    });
    assert_ne!(
        node(&after, "n1")["state_hash"],
        node(&before, "n1")["state_hash"]
    );
    let listed = kubectl(&user, &["get", "nodestatuses"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("n1") && listed.contains("n2"), "{listed}");
    kubectl(
        &user,
        &["delete", "-n", "shop", "networkpolicy", "db-from-web"],
    );
    wait_for("equal without it", &user, &agents, |is_good, report| {
        is_good
            && are_equal(report)
            && node(report, "n1")["state_hash"] != node(&after, "n1")["state_hash"]
    });

    // A node without an agent, and one whose agent is not seen any more.
    for name in ["n3", "n4"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        cluster.server.put(node);
    }
    let mut silent = cluster
        .server
        .get("NodeStatus", "", "n1")
        .expect("it is there");
    silent["metadata"] = json!({"name": "n4"});
    silent["status"]["lastSeen"] = json!("2026-01-01T00:00:00Z");
    cluster.server.put(silent);
    let (is_good, report) = status(&user);
    assert!(!is_good);
    assert_eq!(node(&report, "n3")["last_seen"], Value::Null);
    let problem = node(&report, "n4")["problems"][0]
        .as_str()
        .expect("a problem");
    assert!(problem.contains("not seen for"), "{problem}");
    let text = Command::new(cofferdam!())
        .args(["status", "--cluster", "--kubeconfig"])
        .arg(&user)
        .output()
        .expect("the command can be run");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("n3: no agent has told") && text.contains("2 of 4 nodes"),
        "{text}"
    );

    // Nothing else was written, and nothing that the role does not allow.
    let written: BTreeSet<String> = cluster.server.writes().into_iter().collect();
    let own = |name: &str| format!("PATCH /apis/cofferdam.dev/v1alpha1/nodestatuses/{name}");
    let policies = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/db-from-web";
    let expected = [
        own("n1"),
        own("n2"),
        format!("PATCH {policies}"),
        format!("DELETE {policies}"),
    ];
    assert_eq!(written, expected.into());
    assert_eq!(cluster.server.forbidden(), Vec::<String>::new());
}

/// Of the whole cluster, and counted but for a peer.
const BY_DOMAIN: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: by-domain}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Accept, to: [{domainNames: [a.example]}]}]
";

fn taints(cluster: &Cluster) -> Value {
    let node = cluster.server.get("Node", "", "n1").expect("it is there");
    node["spec"]["taints"].clone()
}

fn events(cluster: &Cluster) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = cluster.server.all("Event").into_iter();
    events
        .map(|event| (word(&event["reason"]), word(&event["regarding"]["name"])))
        .collect()
}

#[test]
fn writes_that_are_refused_disturb_nobody_and_those_that_are_allowed_are_the_roles() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut cluster = Cluster::new();
    let whole = Role::of(&role("cofferdam-agent")).and(Role::of(&role("cofferdam-agent-taint")));
    cluster.server.allow_only(whole.clone());
    cluster.scene.agent.set(&format!(
        "limits: {{endpoints: 32, slots: 8192, table_pages: 32}}\n\
         kubernetes: {{enabled: true, kubeconfig: {}, wait: 500ms, taint: true}}\n",
        cluster.scene.agent.path("kubeconfig").display()
    ));
    let other = json!({"key": "other", "effect": "NoExecute"});
    cluster.server.put(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "spec": {"taints": [other]},
    }));
    // Others write to the node in the same moment.
    cluster.server.refuse_writes(2);
    cluster.server.list_by_half(Some("Pod"), 1);
    cluster.scene.agent.start(&[]);
    let own = json!({"key": TAINT, "effect": "NoSchedule"});
    cluster.eventually("tainted", || taints(&cluster) == json!([other, own]));
    cluster.server.list_by_half(None, 0);
    cluster.eventually("free", || taints(&cluster) == json!([other]));

    // A server that refuses to be told, or says nothing, changes nothing about policies.
    let mut silent = whole.clone();
    silent.rights.retain(|right| right.verb != "create");
    cluster.server.allow_only(silent);
    cluster.server.serve_node_statuses(true);
    cluster.server.apply(DB_FROM_WEB);
    cluster.added("db");
    cluster.added("web");
    cluster.server.apply(DB_BROKEN);
    cluster.server.apply(BY_DOMAIN);
    cluster.eventually("refused", || {
        let refused = cluster.server.forbidden().into_iter();
        let words: BTreeSet<bool> = refused.map(|target| target.contains("events")).collect();
        words.len() == 2
    });
    assert!(cluster.is_open(), "the version before stays");
    cluster.server.set_silent(true);
    let asked = Instant::now();
    assert!(cluster.scene.agent.sync().enforced);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    cluster.server.set_silent(false);
    cluster.server.allow_only(whole.clone());

    // `stranger` is asked for, and then runs here although no plugin has told of it.
    assert!(matches!(cluster.add("stranger"), Reply::TryAgain { .. }));
    cluster.put_pod("stranger", "stranger", "n1");
    let expected = [
        ("PodNotManaged", "stranger"),
        ("PolicyPartlyEnforced", "by-domain"),
        ("PolicyRejected", "db-from-web"),
    ]
    .map(|(reason, name)| (reason.to_owned(), name.to_owned()));
    cluster.eventually("told", || {
        let mut told = events(&cluster);
        told.sort();
        told == expected
    });
    let told = cluster.server.all("Event");
    let rejected = told
        .iter()
        .find(|event| event["reason"] == "PolicyRejected")
        .expect("it was told");
    let note = rejected["note"].as_str().expect("a note");
    assert!(note.contains("podSelektor"), "{note}");
    let policy = cluster
        .server
        .get("NetworkPolicy", "shop", "db-from-web")
        .expect("a policy");
    assert_eq!(rejected["regarding"]["uid"], policy["metadata"]["uid"]);
    let user = cluster.user();
    let report = wait_for("told", &user, &[&cluster.scene.agent], |_, report| {
        node(report, "n1")["policies_behind"] == json!([POLICY])
    });
    assert_eq!(node(&report, "n1")["enforced"], true);
    assert_eq!(taints(&cluster), json!([other]), "never again");

    // Another agent that finds the same, and this one half an hour later.
    let kubeconfig = cluster
        .server
        .write_kubeconfig(&cluster.scene.agent.path(""));
    let mut writer = Writer::new(Some(kubeconfig));
    let events = Resource {
        api_version: "events.k8s.io/v1",
        plural: "events",
    };
    let name = rejected["metadata"]["name"].as_str().expect("a name");
    let series = json!({"series": {
        "count": 2, "lastObservedTime": rejected["eventTime"],
    }});
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let again = writer.create(events, Some("shop"), rejected).await;
        assert!(matches!(again, Err(WriteError::Exists)), "{again:?}");
        let merged = writer.merge(events, Some("shop"), name, &series).await;
        assert!(merged.is_ok(), "{merged:?}");
    });
    // The role has what is used, and nothing else.
    let unused: Vec<&Right> = (whole.rights.iter())
        .filter(|right| !cluster.server.used_rights().contains(right))
        .collect();
    assert_eq!(unused, Vec::<&Right>::new());
}
