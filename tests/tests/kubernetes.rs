//! The source that follows an API server, against a server to which happens what happens to
//! real ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cofferdam_documents::Kind;
use cofferdam_sources::kubernetes::{Kubernetes, Settings};
use cofferdam_tests::api_server::{ApiServer, TOKEN};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::world::Namespace;
use serde_json::{Value, json};

/// Time that anything may take on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time to wait for what should not happen.
const SHORTLY: Duration = Duration::from_millis(300);

/// A server with a cluster of a namespace, two nodes and three pods, and what follows it.
struct Followed {
    server: ApiServer,
    folder: Scratch,
    api: Option<Kubernetes>,
    changes: Arc<AtomicUsize>,
}

fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name},
                     "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}},
    })
}

fn cluster_policy(name: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
    })
}

const NAMES: [&str; 6] = [
    "kubernetes:Namespace/shop",
    "kubernetes:Node/n1",
    "kubernetes:Node/n2",
    "kubernetes:Pod/shop/api",
    "kubernetes:Pod/shop/db",
    "kubernetes:Pod/shop/web",
];

impl Followed {
    fn server(start: fn(&Namespace) -> ApiServer) -> Self {
        let server = start(&Namespace::current().expect("a namespace"));
        server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        for node in ["n1", "n2"] {
            server.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}));
        }
        for (name, node, address) in [
            ("web", "n1", "10.0.0.1"),
            ("db", "n1", "10.0.0.2"),
            ("api", "n2", "10.0.1.1"),
        ] {
            server.put(pod(name, node, address));
        }
        Self {
            server,
            folder: Scratch::new(),
            api: None,
            changes: Arc::default(),
        }
    }

    fn settings(kubeconfig: PathBuf) -> Settings {
        Settings {
            between_looks: Duration::from_millis(100),
            longest_pause: Duration::from_millis(200),
            quiet: Duration::from_millis(1500),
            ..Settings::new(Some(kubeconfig), Duration::from_secs(1))
        }
    }

    fn follow(&mut self) -> &Kubernetes {
        let kubeconfig = self.server.write_kubeconfig(self.folder.path());
        let changes = self.changes.clone();
        let changed = move |_| _ = changes.fetch_add(1, Ordering::Relaxed);
        let api = Kubernetes::start(Self::settings(kubeconfig), changed);
        self.api.insert(api.expect("a thread can be started"))
    }

    fn complete() -> Self {
        let mut followed = Self::server(ApiServer::start);
        followed.follow();
        followed.wait_for(&NAMES);
        followed
    }

    fn api(&self) -> &Kubernetes {
        self.api.as_ref().expect("it is followed")
    }

    fn names(&self) -> BTreeSet<String> {
        let sources = self.api().read().unwrap_or_default();
        sources.keys().map(|name| name.to_string()).collect()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "not {what}: {:?}, {:?}, {:#?}",
                self.api().health(),
                self.names(),
                self.server.requests()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn wait_for(&self, names: &[&str]) {
        let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.wait_until("these objects", || self.names() == expected);
    }

    /// Number of lists of pods that were begun.
    fn lists(&self) -> usize {
        let requests = self.server.requests().into_iter();
        let is_list = |target: &String| {
            let is_first = !target.contains("watch=") && !target.contains("continue=");
            target.starts_with("/api/v1/pods") && is_first
        };
        requests.filter(is_list).count()
    }

    /// Number of watches of pods that were to begin with a list.
    fn streams(&self) -> usize {
        let requests = self.server.requests().into_iter();
        let is_stream = |target: &String| {
            target.starts_with("/api/v1/pods") && target.contains("sendInitialEvents=true")
        };
        requests.filter(is_stream).count()
    }

    fn text_of(&self, name: &str) -> String {
        let sources = self.api().read().expect("it is complete");
        String::from_utf8_lossy(&sources[name].with_text().text).into_owned()
    }

    fn ask(&self, name: &str, uid: Option<&str>) -> Result<Option<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let found = runtime.block_on(self.api().pod("shop", name, uid));
        found.map(|pod| pod.node.map(|node| node.to_string()))
    }
}

#[test]
fn objects_are_listed_by_pages_and_followed_over_tls() {
    let mut followed = Followed::server(ApiServer::start_tls);
    followed.server.list_by_half(None, 2);
    followed.follow();
    followed.wait_for(&NAMES);
    let before = followed.changes.load(Ordering::Relaxed);
    followed.server.put(policy("p"));
    let with_policy = [&NAMES[..], &["kubernetes:NetworkPolicy/shop/p"]].concat();
    followed.wait_for(&with_policy);
    let mut relabelled = pod("web", "n1", "10.0.0.1");
    relabelled["metadata"]["labels"]["app"] = json!("other");
    followed.server.put(relabelled);
    followed.wait_until("relabelled", || {
        followed
            .text_of("kubernetes:Pod/shop/web")
            .contains("other")
    });
    followed.server.delete("NetworkPolicy", "shop", "p");
    followed.wait_for(&NAMES);
    assert!(followed.changes.load(Ordering::Relaxed) >= before + 3);
    let text = followed.text_of("kubernetes:Pod/shop/db");
    for unused in ["managedFields", "last-applied", "image", "uid"] {
        assert!(!text.contains(unused), "{text}");
    }
    let health = followed.api().health();
    assert_eq!(health.away_since, None);
    assert_eq!(health.objects[&Kind::Pod], 3);
}

#[test]
fn a_list_that_is_streamed_is_watched_on_and_asks_for_no_page() {
    let mut followed = Followed::server(ApiServer::start);
    followed.server.stream_lists();
    followed.follow();
    followed.wait_for(&NAMES);
    followed.server.put(policy("p"));
    followed.wait_for(&[&NAMES[..], &["kubernetes:NetworkPolicy/shop/p"]].concat());
    followed.server.delete("NetworkPolicy", "shop", "p");
    followed.wait_for(&NAMES);
    let requests = followed.server.requests();
    let of_pods = requests.iter().filter(|target| target.contains("/pods"));
    assert_eq!(of_pods.count(), 1, "{requests:#?}");
    // What was cut goes on from the last version; what was forgotten is streamed again.
    followed.server.cut();
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    let with_new = [&NAMES[..], &["kubernetes:Pod/shop/new"]].concat();
    followed.wait_for(&with_new);
    assert_eq!((followed.streams(), followed.lists()), (1, 0));
    followed.server.set_away(true);
    followed.server.delete("Pod", "shop", "new");
    followed.server.forget();
    followed.server.set_away(false);
    followed.wait_for(&NAMES);
    assert_eq!((followed.streams(), followed.lists()), (2, 0));
}

#[test]
fn a_server_that_refuses_to_stream_is_asked_once_and_listed_by_pages() {
    let followed = Followed::complete();
    assert_eq!((followed.streams(), followed.lists()), (1, 1));
    assert_eq!(followed.api().health().away_since, None, "it is no failure");
    followed.server.set_away(true);
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    followed.server.forget();
    followed.server.set_away(false);
    followed.wait_for(&[&NAMES[..], &["kubernetes:Pod/shop/new"]].concat());
    assert_eq!((followed.streams(), followed.lists()), (1, 2));
}

#[test]
fn nothing_comes_of_half_a_stream_and_nothing_is_withdrawn() {
    let mut followed = Followed::server(ApiServer::start);
    followed.server.stream_lists();
    followed.server.stream_by_half(Some(("Pod", 1)));
    followed.follow();
    followed.wait_until("half streamed", || followed.streams() == 1);
    let until = Instant::now() + SHORTLY;
    while Instant::now() < until {
        assert_eq!(followed.api().read().map(|sources| sources.len()), None);
    }
    assert_eq!(followed.changes.load(Ordering::Relaxed), 0);
    followed.server.stream_by_half(None);
    followed.wait_for(&NAMES);
    assert_eq!(followed.lists(), 0);

    // Cut in the middle, and then half of the pages that are asked for instead.
    followed.server.set_away(true);
    followed.server.delete("Pod", "shop", "db");
    followed.server.forget();
    followed.server.stream_by_half(Some(("Pod", 1)));
    followed.server.list_by_half(Some("Pod"), 1);
    followed.server.set_away(false);
    let stays = |until: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !until() {
            assert!(
                Instant::now() < deadline,
                "{:#?}",
                followed.server.requests()
            );
            assert_eq!(followed.names().len(), NAMES.len(), "all stays");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    };
    stays(&|| followed.streams() == 2);
    let shortly = Instant::now() + SHORTLY;
    stays(&|| Instant::now() > shortly);
    followed.server.cut();
    stays(&|| followed.lists() == 1);
    let shortly = Instant::now() + SHORTLY;
    stays(&|| Instant::now() > shortly);
    followed.server.list_by_half(None, 0);
    let mut left = NAMES.to_vec();
    left.retain(|name| !name.ends_with("db"));
    followed.wait_for(&left);
}

#[test]
fn nothing_comes_of_half_a_list() {
    let mut followed = Followed::server(ApiServer::start);
    followed.server.list_by_half(Some("Pod"), 1);
    followed.follow();
    let is_begun = |followed: &Followed| {
        let requests = followed.server.requests();
        (requests.iter()).any(|target| target.contains("/pods") && target.contains("continue"))
    };
    followed.wait_until("half listed", || is_begun(&followed));
    // All other kinds are there by then, or soon.
    let until = Instant::now() + SHORTLY;
    while Instant::now() < until {
        assert_eq!(followed.api().read().map(|sources| sources.len()), None);
    }
    assert_eq!(followed.changes.load(Ordering::Relaxed), 0);
    assert!(!followed.api().health().is_complete);
    followed.server.list_by_half(None, 0);
    followed.wait_for(&NAMES);
}

#[test]
fn a_list_whose_token_expires_begins_again() {
    let mut followed = Followed::server(ApiServer::start);
    followed.server.list_by_half(Some("Pod"), 1);
    followed.follow();
    followed.wait_until("half listed", || {
        let requests = followed.server.requests();
        (requests.iter()).any(|target| target.contains("/pods") && target.contains("continue"))
    });
    followed.server.put(policy("p"));
    followed.server.delete("NetworkPolicy", "shop", "p");
    followed.server.forget();
    followed.server.list_by_half(None, 0);
    followed.wait_for(&NAMES);
    assert!(followed.lists() >= 2);
}

#[test]
fn a_watch_that_is_cut_goes_on_from_its_last_version() {
    let followed = Followed::complete();
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    let with_new = [&NAMES[..], &["kubernetes:Pod/shop/new"]].concat();
    followed.wait_for(&with_new);
    followed.server.cut();
    followed.server.put(policy("q"));
    followed.server.delete("Pod", "shop", "new");
    let expected = [&NAMES[..], &["kubernetes:NetworkPolicy/shop/q"]].concat();
    followed.wait_for(&expected);
    followed.server.tear_next_event();
    followed.server.delete("NetworkPolicy", "shop", "q");
    followed.wait_for(&NAMES);
    assert_eq!(followed.lists(), 1, "{:#?}", followed.server.requests());
    followed.wait_until("answered again", || {
        followed.api().health().away_since.is_none()
    });
}

#[test]
fn versions_before_a_bookmark_are_not_needed_any_more() {
    let followed = Followed::complete();
    // Pods have not changed since they were listed.
    followed.server.put(policy("p"));
    followed.server.delete("NetworkPolicy", "shop", "p");
    followed.server.bookmark();
    followed.wait_until("told", || followed.server.are_bookmarks_written());
    followed.server.forget_until_bookmarks();
    followed.server.cut();
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    followed.wait_for(&[&NAMES[..], &["kubernetes:Pod/shop/new"]].concat());
    assert_eq!(followed.lists(), 1, "{:#?}", followed.server.requests());
}

#[test]
fn a_forgotten_version_is_listed_again_and_what_has_gone_meanwhile_goes() {
    let followed = Followed::complete();
    let before = followed.api().health();
    assert_eq!(before.away_since, None);
    followed.server.set_away(true);
    followed.wait_until("away", || followed.api().health().away_since.is_some());
    let since = followed.api().health().away_since;
    followed.server.delete("Pod", "shop", "api");
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    followed.server.forget();
    let until = Instant::now() + SHORTLY;
    while Instant::now() < until {
        assert_eq!(followed.names().len(), NAMES.len(), "all stays");
    }
    let health = followed.api().health();
    assert_eq!(health.away_since, since, "the first moment counts");
    assert!(health.is_complete && health.problem.is_some());
    followed.server.set_away(false);
    let mut expected: Vec<&str> = NAMES.to_vec();
    expected.retain(|name| !name.ends_with("api"));
    expected.push("kubernetes:Pod/shop/new");
    followed.wait_for(&expected);
    assert!(followed.lists() >= 2);
    followed.wait_until("answered again", || {
        followed.api().health().away_since.is_none()
    });
}

#[test]
fn a_server_that_says_nothing_is_away_though_its_connections_stand() {
    let followed = Followed::complete();
    let is_asked = |followed: &Followed| {
        let requests = followed.server.requests();
        (requests.iter()).any(|target| target.starts_with("/version"))
    };
    followed.wait_until("asked", || is_asked(&followed));
    assert_eq!(
        followed.api().health().away_since,
        None,
        "it refuses, hence is there"
    );
    followed.server.set_silent(true);
    followed.wait_until("away", || followed.api().health().away_since.is_some());
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    followed.server.set_silent(false);
    followed.wait_for(&[&NAMES[..], &["kubernetes:Pod/shop/new"]].concat());
    followed.wait_until("answered again", || {
        followed.api().health().away_since.is_none()
    });
}

#[test]
fn a_kind_that_comes_and_goes_is_followed_while_it_is_there() {
    let mut followed = Followed::server(ApiServer::start);
    followed.server.serve_custom(false);
    followed.follow();
    followed.wait_for(&NAMES);
    assert_eq!(followed.api().health().away_since, None, "it is not missed");
    followed.server.serve_custom(true);
    followed.server.put(cluster_policy("c"));
    let name = "kubernetes:ClusterNetworkPolicy/c";
    followed.wait_for(&[&NAMES[..], &[name]].concat());
    followed.server.serve_custom(false);
    followed.server.cut();
    followed.wait_for(&NAMES);
    followed.server.serve_custom(true);
    followed.server.put(cluster_policy("c"));
    followed.wait_for(&[&NAMES[..], &[name]].concat());
}

#[test]
fn a_pod_is_asked_for_when_the_watch_is_slow_and_no_other_of_its_name_is_taken() {
    let followed = Followed::complete();
    followed.server.set_delay(Duration::from_secs(60));
    followed.server.put(pod("new", "n1", "10.0.0.3"));
    let began = Instant::now();
    assert_eq!(followed.ask("new", None), Ok(Some("n1".to_owned())));
    assert!(began.elapsed() < Duration::from_secs(1), "by a question");
    assert!(followed.names().contains("kubernetes:Pod/shop/new"));
    // Deleted and made again: the old one is still what is known.
    let before = followed.text_of("kubernetes:Pod/shop/db");
    followed.server.delete("Pod", "shop", "db");
    let mut again = pod("db", "n2", "10.0.1.2");
    again["metadata"]["uid"] = json!("the-second");
    followed.server.put(again);
    assert_eq!(followed.text_of("kubernetes:Pod/shop/db"), before);
    let found = followed.ask("db", Some("the-second"));
    assert_eq!(found, Ok(Some("n2".to_owned())));
    // One that is not there is waited for, and not longer than that.
    let began = Instant::now();
    let missing = followed.ask("nobody", None).expect_err("it is not there");
    assert!(missing.contains("no such pod"), "{missing}");
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(3));
}

#[test]
fn what_keeps_the_agent_from_the_server_is_told_without_secrets() {
    let mut followed = Followed::server(ApiServer::start);
    let good = followed.server.write_kubeconfig(followed.folder.path());
    let good = fs::read_to_string(good).expect("it can be read");
    let mut program: Value = serde_json::from_str(&good).expect("JSON");
    program["users"][0]["user"] = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false",
        "interactiveMode": "Never",
    }});
    for (name, text, expected) in [
        (
            "wrong-token",
            good.replace(TOKEN, "another-secret"),
            "401 Unauthorized",
        ),
        (
            "torn",
            good[..good.len() - 7].to_owned(),
            "not a valid kubeconfig",
        ),
        ("program", program.to_string(), "the agent runs none"),
    ] {
        let path = followed.folder.path().join(name);
        fs::write(&path, text).expect("it can be written");
        let api = Kubernetes::start(Followed::settings(path), |_| ());
        followed.api = Some(api.expect("a thread can be started"));
        followed.wait_until(expected, || {
            let problem = followed.api().health().problem.unwrap_or_default();
            assert!(
                !problem.contains("secret") && !problem.contains(TOKEN),
                "{problem}"
            );
            problem.contains(expected)
        });
        assert!(followed.api().read().is_none());
    }
    let absent = followed.folder.path().join("absent");
    let api = Kubernetes::start(Followed::settings(absent.clone()), |_| ());
    followed.api = Some(api.expect("a thread can be started"));
    followed.wait_until("told", || {
        let problem = followed.api().health().problem.unwrap_or_default();
        problem.contains("set `kubernetes.kubeconfig`")
    });
    // A file that comes later counts.
    fs::write(absent, good).expect("it can be written");
    followed.wait_for(&NAMES);
}
