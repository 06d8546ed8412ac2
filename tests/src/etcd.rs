//! A real etcd between nodes, each with an agent of its own.
//!
//! ```text
//!   n1 ── 192.0.2.1 ──┐
//!   n2 ── 192.0.2.5 ──┼── hub: routes between nodes, and etcd at 203.0.113.1
//!   n3 ── 192.0.2.9 ──┘
//! ```
//!
//! Workloads of the first node are 10.64.1.2, 10.64.1.3 …, those of the second 10.64.2.2 and
//! so on, with IPv6 alike: fd64::102. The server is Debian's, asked by its own `etcdctl`.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::scratch::Scratch;
use crate::traffic::{Place, Server};
use crate::world::{Namespace, Wiring, Workload, World};

/// Address of the server.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Port of the server.
pub const PORT: u16 = 2379;
/// Prefix of all keys.
pub const PREFIX: &str = "/cofferdam";
/// Longest wait for a server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Certificates: of an authority, the server and a client, with their keys.
const PEM: [(&str, &str); 5] = [
    ("ca.pem", include_str!("etcd/ca.pem")),
    ("server.pem", include_str!("etcd/server.pem")),
    ("server-key.pem", include_str!("etcd/server-key.pem")),
    ("client.pem", include_str!("etcd/client.pem")),
    ("client-key.pem", include_str!("etcd/client-key.pem")),
];

/// A server in a namespace; it ends with this value.
#[derive(Debug)]
pub struct Etcd {
    namespace: Namespace,
    scratch: Scratch,
    is_tls: bool,
    /// User and password of `etcdctl`.
    user: Option<&'static str>,
    process: Option<Child>,
}

impl Etcd {
    /// Starts one, in the clear or with TLS that asks clients for a certificate.
    ///
    /// # Panics
    ///
    /// Panics if it does not come up.
    pub fn start(namespace: &Namespace, is_tls: bool) -> Self {
        let scratch = Scratch::new();
        for (name, text) in PEM {
            fs::write(scratch.path().join(name), text).expect("a file can be written");
        }
        let mut etcd = Self {
            namespace: namespace.try_clone().expect("a descriptor"),
            scratch,
            is_tls,
            user: None,
            process: None,
        };
        etcd.resume();
        etcd
    }

    /// Path of one of [`PEM`].
    pub fn pem(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The address as agents are given it, with the prefix.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "etcds" } else { "etcd" };
        format!("{scheme}://{ADDRESS}:{PORT}{PREFIX}")
    }

    /// Starts it again with what it knew.
    ///
    /// # Panics
    ///
    /// Panics if it runs, or does not come up.
    pub fn resume(&mut self) {
        assert!(self.process.is_none(), "the server runs");
        let scheme = if self.is_tls { "https" } else { "http" };
        let url = format!("{scheme}://{ADDRESS}:{PORT}");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.scratch.path().join("log"))
            .expect("a log file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--data-dir"]);
        command.arg(self.scratch.path().join("data"));
        command.args(["--listen-client-urls", &url]);
        command.args(["--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        // Leases of two seconds need short elections.
        command.args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
        if self.is_tls {
            for (flag, name) in [
                ("--trusted-ca-file", "ca.pem"),
                ("--cert-file", "server.pem"),
                ("--key-file", "server-key.pem"),
            ] {
                command.arg(flag).arg(self.pem(name));
            }
            command.arg("--client-cert-auth");
        }
        let inside = self.namespace.enter().expect("a namespace");
        let process = command
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        drop(inside);
        self.process = Some(process.expect("etcd can be started: `cargo xtask setup`"));
        let deadline = Instant::now() + PATIENCE;
        while !self.ask(&["endpoint", "health"]).status.success() {
            let log = || fs::read_to_string(self.pem("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "etcd is not up:\n{}", log());
        }
    }

    /// Ends it as a crash does.
    ///
    /// # Panics
    ///
    /// Panics if it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it has ended");
    }

    /// Says from now on who `etcdctl` is: `name:password`.
    pub fn be(&mut self, user: Option<&'static str>) {
        self.user = user;
    }

    /// Has `etcdctl` ask something.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be run.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.command(Path::new("etcdctl"), arguments)
            .output()
            .expect("etcdctl can be run")
    }

    /// A program in the server's namespace, with certificates and user as `etcdctl` has them.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        // The program inherits the namespace of the one that enters it.
        let mut command = Command::new("nsenter");
        let net = format!("--net={}", self.namespace.path().display());
        command.arg(net).arg(program).args(arguments);
        command.env("ETCDCTL_API", "3");
        let scheme = if self.is_tls { "https" } else { "http" };
        command.env("ETCDCTL_ENDPOINTS", format!("{scheme}://{ADDRESS}:{PORT}"));
        if self.is_tls {
            for (variable, name) in [
                ("ETCDCTL_CACERT", "ca.pem"),
                ("ETCDCTL_CERT", "client.pem"),
                ("ETCDCTL_KEY", "client-key.pem"),
            ] {
                command.env(variable, self.pem(name));
            }
        }
        if let Some(user) = self.user {
            command.env("ETCDCTL_USER", user);
        }
        command
    }

    /// Has `etcdctl` do something. Returns what it prints.
    ///
    /// # Panics
    ///
    /// Panics if it fails.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Puts a text at a key below the prefix.
    #[track_caller]
    pub fn put(&self, key: &str, text: &str) {
        self.ctl(&["put", &format!("{PREFIX}/{key}"), "--", text]);
    }

    /// Deletes a key below the prefix.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        assert_eq!(self.ctl(&["del", &format!("{PREFIX}/{key}")]).trim(), "1");
    }

    /// Returns the keys below the prefix that begin so.
    #[track_caller]
    pub fn keys(&self, start: &str) -> Vec<String> {
        let prefix = format!("{PREFIX}/");
        let listed = self.ctl(&[
            "get",
            &format!("{prefix}{start}"),
            "--prefix",
            "--keys-only",
        ]);
        let keys = listed.lines().filter_map(|key| key.strip_prefix(&prefix));
        keys.map(str::to_owned).collect()
    }

    /// Forgets all revisions but the newest.
    ///
    /// # Panics
    ///
    /// Panics if it is refused.
    pub fn compact(&self) {
        let status = self.ctl(&["endpoint", "status", "--write-out", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let revision = &status[0]["Status"]["header"]["revision"];
        self.ctl(&["compaction", &revision.to_string()]);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended.
            _ = process.kill();
            _ = process.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.pem("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the last lines of etcd's log:\n{}", lines.join("\n"));
        }
    }
}

/// A node of several, with workloads and an agent that does not run yet.
#[derive(Debug)]
pub struct Node {
    /// The agent.
    pub agent: Agent,
    /// The node and its workloads.
    pub world: World,
    _servers: Vec<Server>,
}

impl Node {
    /// One of its workloads.
    ///
    /// # Panics
    ///
    /// Panics if it has none of that name.
    pub fn workload(&self, name: &str) -> &Workload {
        crate::firewall::named(&self.world, name)
    }

    /// Stops routing its packets to the server, or begins again.
    pub fn cut(&self, is_cut: bool) {
        let route = format!("{ADDRESS}/32");
        let word = if is_cut { "add" } else { "del" };
        let blackhole = ["route", word, "blackhole", &route];
        ip(&self.world.node().namespace, &blackhole);
    }
}

/// Nodes around a server.
#[derive(Debug)]
pub struct Nodes {
    /// The server.
    pub etcd: Etcd,
    /// The nodes, `n1` and so on.
    pub nodes: Vec<Node>,
    /// Everything is routed through it.
    pub hub: Namespace,
}

impl Nodes {
    /// Joins nodes with these workloads, whose servers answer to `probe`. Agents read what is
    /// in the etcd and have these settings beside.
    ///
    /// # Panics
    ///
    /// Panics if they cannot be made.
    pub fn new(
        binary: &Path,
        workloads: &[&[&str]],
        probe: crate::traffic::Probe,
        is_tls: bool,
        settings: &str,
    ) -> Self {
        let hub = Namespace::new().expect("a namespace");
        for parameter in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            hub.set(parameter, "1").expect("a parameter");
        }
        for parameter in [
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/conf/default/rp_filter",
        ] {
            hub.set(parameter, "0").expect("a parameter");
        }
        ip(&hub, &["link", "set", "lo", "up"]);
        ip(
            &hub,
            &["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"],
        );
        let nodes = (1..).zip(workloads).map(|(number, names)| {
            let world = World::plan(Wiring::Ptp)
                .numbered_from(number * 256 + 2)
                .workloads(names.iter().copied())
                .build()
                .expect("a world");
            connect(&hub, &world, number);
            let places = world.workloads().iter().map(Place::from);
            let servers = Server::start_all(places, &[probe]).expect("servers");
            let agent = Agent::new(binary, &world).called(&format!("n{number}"));
            Node {
                agent,
                world,
                _servers: servers,
            }
        });
        let mut nodes: Vec<Node> = nodes.collect();
        let etcd = Etcd::start(&hub, is_tls);
        for node in &mut nodes {
            node.agent.read_also(&etcd.url());
            node.agent.set(settings);
        }
        Self { etcd, nodes, hub }
    }
}

/// Leads packets of a node's workloads through the hub.
fn connect(hub: &Namespace, world: &World, number: u16) {
    let node = &world.node().namespace;
    let theirs = format!("to{number}");
    node.join("up0", hub, &theirs).expect("a link");
    for (family, node_side, hub_side, workloads) in [
        (
            "-4",
            format!("192.0.2.{}/30", number * 4 - 3),
            format!("192.0.2.{}/30", number * 4 - 2),
            format!("10.64.{number}.0/24"),
        ),
        (
            "-6",
            format!("fd02::{number}:1/112"),
            format!("fd02::{number}:2/112"),
            format!("fd64::{number:x}00/120"),
        ),
    ] {
        let bare = |address: &str| -> IpAddr {
            let (address, _) = address.split_once('/').expect("a length");
            address.parse().expect("an address")
        };
        let gateway = bare(&hub_side).to_string();
        ip(
            node,
            &[family, "address", "add", &node_side, "dev", "up0", "nodad"][..length(family)],
        );
        ip(
            hub,
            &[family, "address", "add", &hub_side, "dev", &theirs, "nodad"][..length(family)],
        );
        ip(node, &[family, "route", "add", "default", "via", &gateway]);
        let back = bare(&node_side).to_string();
        ip(hub, &[family, "route", "add", &workloads, "via", &back]);
    }
}

/// Loses what the hub, and the server there, would send to a node, or ends that: TCP then sends
/// it again.
pub fn deafen(hub: &Namespace, number: u16, is_deaf: bool) {
    let word = if is_deaf { "add" } else { "del" };
    let node = format!("192.0.2.{}/32", number * 4 - 3);
    ip(hub, &["route", word, "blackhole", &node]);
}

/// Number of words of a command that only IPv6 has all of.
fn length(family: &str) -> usize {
    if family == "-6" { 7 } else { 6 }
}

/// Has `ip` do something in a namespace.
#[track_caller]
fn ip(namespace: &Namespace, arguments: &[&str]) {
    let _inside = namespace.enter().expect("a namespace");
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip can be run");
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}
