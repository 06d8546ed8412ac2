//! Prometheus and Alertmanager on a node, as Debian packages them.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_tests::prometheus::Prometheus;
use cofferdam_tests::world::Namespace;
use serde_json::Value;

/// Returns a path below the rules and dashboards.
pub(super) fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

/// Time for a server to come up, and for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
const PROMETHEUS: u16 = 9090;
const ALERTMANAGER: u16 = 9093;

/// Runs promtool, with something to read.
///
/// # Panics
/// When it objects.
pub(super) fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there: cargo xtask setup");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{complained}");
}

/// Both servers, and their files. They end with it.
pub(super) struct Servers {
    namespace: Namespace,
    children: Vec<Child>,
    directory: PathBuf,
}

impl Servers {
    /// Starts both on a node, where an agent is at the default address. Everything that takes
    /// minutes elsewhere takes seconds.
    pub(super) fn start(namespace: &Namespace, directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("a directory");
        let rules = deployed("prometheus/cofferdam.rules.yml");
        let config = fs::read_to_string(deployed("prometheus/prometheus.yml"))
            .expect("a file")
            .replace("15s", "500ms")
            .replace("cofferdam.rules.yml", &rules.to_string_lossy());
        let path = directory.join("prometheus.yml");
        fs::write(&path, config).expect("it is written");
        let alerts = directory.join("alertmanager.yml");
        let text = "route: {receiver: none, group_wait: 0s}\nreceivers: [{name: none}]\n";
        fs::write(&alerts, text).expect("it is written");
        let mut servers = Self {
            namespace: namespace.try_clone().expect("a descriptor"),
            children: Vec::new(),
            directory: directory.to_owned(),
        };
        let at = |path: &Path| path.to_string_lossy().into_owned();
        servers.spawn(
            "prometheus-alertmanager",
            &[
                format!("--config.file={}", at(&alerts)),
                format!("--storage.path={}", at(&directory.join("alerts"))),
                format!("--web.listen-address=127.0.0.1:{ALERTMANAGER}"),
                "--cluster.listen-address=".to_owned(),
            ],
        );
        servers.spawn(
            "prometheus",
            &[
                format!("--config.file={}", at(&path)),
                format!("--storage.tsdb.path={}", at(&directory.join("series"))),
                format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"),
            ],
        );
        servers.wait("Prometheus is up", || {
            servers.prometheus().get("/-/ready").ok()
        });
        servers
    }

    fn spawn(&mut self, program: &str, arguments: &[String]) {
        let log = fs::File::create(self.directory.join(format!("{program}.log"))).expect("a log");
        let _inside = self.namespace.enter().expect("a namespace");
        // Killed when this thread ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.children.push(child.expect("cargo xtask setup"));
    }

    /// Waits until there is something.
    pub(super) fn wait<T>(&self, what: &str, is_there: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = is_there() {
                return value;
            }
            let log = || fs::read_to_string(self.directory.join("prometheus.log"));
            assert!(Instant::now() < deadline, "not {what}: {:?}", log());
            pause(Duration::from_millis(100));
        }
    }

    /// A server of ours.
    fn at(&self, port: u16) -> Prometheus<'_> {
        Prometheus {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            namespace: Some(&self.namespace),
        }
    }

    /// The one that scrapes.
    pub(super) fn prometheus(&self) -> Prometheus<'_> {
        self.at(PROMETHEUS)
    }

    /// The results of a query now.
    pub(super) fn query(&self, query: &str) -> Vec<Value> {
        let results = self.prometheus().query(query);
        results.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The alerts that Alertmanager has been told of.
    pub(super) fn alerts(&self) -> Vec<Value> {
        let alerts = self
            .at(ALERTMANAGER)
            .get("/api/v2/alerts")
            .ok()
            .map(|text| serde_json::from_str(&text).expect("JSON"));
        alerts.unwrap_or_default()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Lets time pass between two looks.
#[expect(
    clippy::disallowed_methods,
    reason = "what is waited for tells nobody when it is there"
)]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}
