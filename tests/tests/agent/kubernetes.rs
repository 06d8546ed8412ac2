//! An agent whose documents come from an API server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cofferdam_protocol::output::{EndpointReport, EndpointState};
use cofferdam_protocol::{
    EndpointSpec, Envelope, PodSpec, Reply, Request, VERSION, for_the_agent, socket_path,
};
use cofferdam_tests::api_server::{ApiServer, Role};
use cofferdam_tests::docs::role;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Probe, probe};
use cofferdam_tests::world::Wiring;
use serde_json::{Value, json};

use super::reports::assert_valid;
use super::scene::{DB_CLOSED, DB_FROM_WEB, PORT, Scene};

/// Time that a change may take to be in force, on a machine that does other things.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Time that what should be blocked is given to get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(300);
const FILE: &str = "kubernetes:NetworkPolicy/shop/db-from-web";

/// A scene, and the API server that its agent follows.
pub(super) struct Cluster {
    pub(super) scene: Scene,
    pub(super) server: ApiServer,
}

impl Cluster {
    /// Pods `shop/web` and `shop/db` on this node; the agent does not run yet.
    pub(super) fn new() -> Self {
        let mut scene = Scene::new(Wiring::Bridge);
        let server = ApiServer::start_tls(&scene.world.node().namespace);
        // No more than the documentation says.
        server.allow_only(Role::of(&role("cofferdam-agent")));
        let kubeconfig = server.write_kubeconfig(&scene.agent.path(""));
        scene.agent.set(&format!(
            "limits: {{endpoints: 32, slots: 8192, table_pages: 32}}\n\
             kubernetes: {{enabled: true, kubeconfig: {}, wait: 500ms}}\n",
            kubeconfig.display()
        ));
        server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        server.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
        let cluster = Self { scene, server };
        cluster.put_pod("web", "web", "n1");
        cluster.put_pod("db", "db", "n1");
        cluster
    }

    /// Makes a pod of the scene's workload of that name, or relabels it.
    pub(super) fn put_pod(&self, name: &str, app: &str, node: &str) {
        let workload = self.scene.workload(&format!("shop/{name}"));
        let [v4, v6] = Family::BOTH.map(|family| workload.ip(family).to_string());
        self.server.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]},
        }));
    }

    /// Asks for what a kubelet's runtime has the plugin ask for.
    pub(super) fn add(&self, name: &str) -> Reply {
        let workload = self.scene.workload(&format!("shop/{name}"));
        let netns = for_the_agent(&workload.namespace.path()).expect("a path");
        let request = Request::EndpointAdd(Box::new(EndpointSpec {
            netns,
            interface: workload.interface.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            container_id: Some(format!("container-{name}")),
            member_of: None,
            pod: Some(PodSpec { uid: None }),
            // Not theirs: only the API server says what they are.
            labels: [("app".to_owned(), "web".to_owned())].into(),
            addresses: Family::BOTH.map(|family| workload.ip(family)).to_vec(),
            ports: Vec::new(),
        }));
        let path = socket_path(&self.scene.agent.path("run"));
        let mut stream = UnixStream::connect(path).expect("the agent listens");
        let envelope = Envelope {
            version: VERSION,
            request,
        };
        let line = serde_json::to_string(&envelope).expect("JSON");
        writeln!(stream, "{line}").expect("it can be asked");
        let mut answer = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut answer).expect("it answers");
        serde_json::from_str(&answer).expect("a reply")
    }

    #[track_caller]
    pub(super) fn added(&self, name: &str) -> EndpointReport {
        match self.add(name) {
            Reply::Endpoint(report) => {
                assert_eq!(report.state, EndpointState::Enforced);
                report
            }
            other => panic!("{other:?}\n{}", self.scene.agent.log()),
        }
    }

    #[track_caller]
    pub(super) fn eventually(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let log = || self.scene.agent.log();
            assert!(Instant::now() < deadline, "not {what}:\n{}", log());
        }
    }

    /// Returns `true` if the database can be reached. Over one family, because something may
    /// change between two.
    pub(super) fn is_open(&self) -> bool {
        let db = self.scene.workload("shop/db").ip(Family::V4);
        let web = self.scene.workload("shop/web");
        let outcome = probe(web, db, Probe::Tcp(PORT), UNTIL_BLOCKED).expect("a probe");
        outcome.is_reached()
    }
}

#[test]
fn policies_of_an_api_server_are_in_force_and_stay_while_it_is_away() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut cluster = Cluster::new();
    cluster.server.apply(DB_CLOSED);
    cluster.scene.agent.start_enforced();
    let db = cluster.added("db");
    assert_eq!(db.labels["app"], "db");
    cluster.added("web");
    cluster.scene.assert_blocked("shop/web", "shop/db");
    cluster.scene.agent.sync();
    let output = cluster.scene.agent.cli(&["observe", "--format", "json"]);
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let mut records = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let record = records.next().expect("a record");
    assert_valid("flow-record.json", record.to_string().as_bytes());
    assert_eq!(record["isolated_by"][0]["file"], FILE);
    assert_eq!(record["isolated_by"][0]["line"], Value::Null);

    // The policy changes, a sender is relabelled, the policy goes.
    cluster.server.apply(DB_FROM_WEB);
    cluster.eventually("allowed", || cluster.is_open());
    cluster.put_pod("web", "other", "n1");
    cluster.eventually("denied to another", || !cluster.is_open());
    cluster
        .server
        .delete("NetworkPolicy", "shop", "db-from-web");
    cluster.eventually("allowed without policies", || cluster.is_open());
    cluster.server.apply(DB_CLOSED);
    cluster.eventually("denied again", || !cluster.is_open());
    // A pod that was deleted by force runs on, and is what it was.
    cluster.server.delete("Pod", "shop", "db");
    cluster.scene.agent.wait_until("without the pod", |status| {
        let api = status.kubernetes.as_ref().expect("it is followed");
        api.objects["Pod"] == 1
    });
    cluster.scene.agent.sync();
    assert!(!cluster.is_open());
    cluster.put_pod("db", "db", "n1");

    // Away, over a restart, and back.
    cluster.server.set_away(true);
    let away = cluster.scene.agent.wait_until("away", |status| {
        (status.kubernetes.as_ref()).is_some_and(|api| api.away_since.is_some())
    });
    assert!(away.enforced && !away.ready);
    let agent = &cluster.scene.agent;
    assert_ne!(agent.metric("cofferdam_kubernetes_away_since_seconds"), 0);
    let (code, why) = agent.http("/readyz");
    assert!(code != 200 && why.contains("away since"), "{why}");
    assert!(!cluster.is_open());
    cluster.scene.agent.stop();
    let again = cluster.scene.agent.start_enforced();
    assert!(!again.kubernetes.expect("it is followed").complete);
    assert!(!cluster.is_open());
    assert!(matches!(cluster.add("stranger"), Reply::TryAgain { .. }));
    cluster
        .server
        .delete("NetworkPolicy", "shop", "db-from-web");
    cluster.server.forget();
    cluster.server.set_away(false);
    cluster.eventually("allowed when it is back", || cluster.is_open());
    let status = cluster.scene.agent.cli(&["status", "--format", "json"]);
    let status = assert_valid("status.json", &status.stdout);
    assert_eq!(status["kubernetes"]["away_since"], Value::Null);
    assert_eq!(status["ready"], true);
    let log = cluster.scene.agent.log();
    assert!(!log.contains(cofferdam_tests::api_server::TOKEN), "{log}");
}

#[test]
fn nothing_is_in_force_by_half_a_list_and_no_pod_before_it_is_known() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut cluster = Cluster::new();
    cluster.server.apply(DB_CLOSED);
    cluster.server.list_by_half(Some("Pod"), 1);
    cluster
        .scene
        .agent
        .document("file.yaml", DB_FROM_WEB_OF_FILE);
    cluster.scene.agent.start(&[]);
    let status = cluster.scene.agent.wait_up();
    assert!(!status.enforced && status.revision == 0);
    let reply = cluster.add("db");
    let Reply::TryAgain { message } = reply else {
        panic!("{reply:?}");
    };
    assert!(message.contains("not been read completely"), "{message}");
    cluster.server.list_by_half(None, 0);
    cluster.scene.agent.wait_enforced();
    // Nobody knows the first, and the second is another node's.
    assert!(matches!(cluster.add("stranger"), Reply::TryAgain { .. }));
    cluster.put_pod("stranger", "stranger", "n2");
    let reply = cluster.add("stranger");
    let Reply::Failed { message } = reply else {
        panic!("{reply:?}");
    };
    assert!(message.contains("bound to node n2"), "{message}");
    // A pod of this node that has ended without a word gives its address to the next.
    let db = cluster
        .scene
        .workload("shop/db")
        .ip(Family::BOTH[0])
        .to_string();
    cluster.server.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "ended", "namespace": "shop",
                     "creationTimestamp": "2026-12-01T00:00:00Z"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": db},
    }));
    cluster
        .scene
        .agent
        .wait_until("with the ended pod", |status| {
            let api = status.kubernetes.as_ref().expect("it is followed");
            api.objects["Pod"] == 4
        });
    assert_eq!(cluster.added("db").labels["app"], "db");
    cluster.added("web");
    // Files count beside it.
    cluster.eventually("allowed by the file", || cluster.is_open());
    cluster.scene.agent.remove_document("file.yaml");
    cluster.eventually("denied by the object", || !cluster.is_open());
}

/// The database's policy under another name.
const DB_FROM_WEB_OF_FILE: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: of-file, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 5432}]
";
