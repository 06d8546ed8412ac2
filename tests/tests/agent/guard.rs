//! The guard drops packets of veths that nobody has adopted, with and without an agent.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_tests::agent::Agent;
use cofferdam_tests::cofferdam;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Place, Server};
use cofferdam_tests::world::{Wiring, Workload};

use crate::scene::{DB_FROM_WEB, Scene, pause};

/// Workloads that come up, one after the other.
const STARTS: usize = 4;

const GUARDED: &str = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\nguard: nftables\n";

fn guarded(wiring: Wiring) -> Scene {
    let mut scene = Scene::new(wiring);
    scene.agent = Agent::new(cofferdam!(), &scene.world).settings(GUARDED);
    scene.in_force(DB_FROM_WEB)
}

/// Nothing may be sent by those that come up while the test runs.
const EARLY_CLOSED: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: early-closed, namespace: shop}
spec:
  podSelector: {matchLabels: {app: early}}
  policyTypes: [Egress]
";

/// Runs nft(8) on the node.
fn nft(scene: &Scene, arguments: &[&str]) -> String {
    let _inside = scene.world.node().namespace.enter().expect("a namespace");
    let output = Command::new("nft").args(arguments).output();
    let output = output.expect("nft is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tables(scene: &Scene) -> usize {
    let tables = nft(scene, &["list", "tables"]);
    tables
        .lines()
        .filter(|line| line.ends_with(" cofferdam_guard"))
        .count()
}

#[test]
fn what_nobody_has_adopted_sends_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut scene = guarded(wiring);
        assert_eq!(tables(&scene), 3);
        scene.assert_reaches("shop/web", "shop/db");
        scene.assert_blocked("shop/stranger", "shop/web");
        let (_, metrics) = scene.agent.http("/metrics");
        let dropped = metrics
            .lines()
            .find_map(|line| line.strip_prefix("cofferdam_guard_dropped_packets_total "));
        assert_ne!(dropped.expect("it is counted"), "0");
        let strangers = scene.agent.strangers();
        let problem = strangers[0].problem.as_deref().unwrap_or_default();
        assert!(problem.contains("guard drops"), "{problem}");
        // Without an agent as well, also for one that comes up then.
        scene.agent.kill();
        scene.world.add("shop/late").expect("a workload");
        let late = [scene.workload("shop/late")].map(Place::from);
        let _server = Server::start_all(
            late,
            &[cofferdam_tests::traffic::Probe::Tcp(crate::scene::PORT)],
        );
        scene.assert_blocked("shop/stranger", "shop/web");
        scene.assert_blocked("shop/late", "shop/web");
        scene.assert_blocked("shop/web", "shop/late");
        scene.assert_reaches("shop/web", "shop/db");
        scene.agent.start_enforced();
        scene.assert_reaches("shop/web", "shop/db");
        scene.assert_blocked("shop/late", "shop/web");
        scene.agent.add(scene.workload("shop/late"), &[]);
        scene.assert_reaches("shop/late", "shop/web");
        assert_eq!(scene.agent.status().tamper_events, 0);
    }
}

#[test]
fn an_interface_that_is_released_passes_the_guard() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = guarded(Wiring::Ptp);
    scene.agent.remove_with("shop/db", &["--release"]);
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.kill();
    scene.agent.start_enforced();
    scene.assert_reaches("shop/web", "shop/db");
    // One that is closed stays closed.
    scene.agent.remove("shop/web");
    scene.assert_blocked("shop/web", "shop/db");
}

#[test]
fn rules_that_others_take_away_are_back_within_a_second() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = guarded(Wiring::Bridge);
    let takings: [&[&str]; 4] = [
        &["flush", "ruleset"],
        &["delete", "table", "bridge", "cofferdam_guard"],
        &["flush", "chain", "bridge", "cofferdam_guard", "guard"],
        &["flush", "set", "inet", "cofferdam_guard", "adopted"],
    ];
    for (number, taking) in takings.into_iter().enumerate() {
        nft(&scene, taking);
        let before = Instant::now();
        let alarmed = |status: &cofferdam_protocol::output::StatusReport| {
            status.tamper_events as usize > number
        };
        scene.agent.wait_until("alarmed", alarmed);
        assert!(before.elapsed() < Duration::from_secs(2), "{taking:?}");
        assert_eq!(tables(&scene), 3);
        scene.assert_blocked("shop/stranger", "shop/web");
        scene.assert_reaches("shop/web", "shop/db");
    }
    // Rules of others are none of its business.
    nft(&scene, &["add", "table", "inet", "of_others"]);
    pause(Duration::from_millis(700));
    assert_eq!(scene.agent.status().tamper_events, 4);
}

#[test]
fn an_agent_without_a_guard_leaves_no_rules() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = guarded(Wiring::Ptp);
    assert_eq!(tables(&scene), 3);
    scene.agent.kill();
    scene.agent = scene.agent.settings("");
    scene.agent.start_enforced();
    assert_eq!(tables(&scene), 0);
    scene.assert_reaches("shop/stranger", "shop/web");
}

/// Sends datagrams to an address from a workload's namespace until it is dropped.
struct Sender {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(from: &Workload, to: std::net::IpAddr) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let inside = from.namespace.enter().expect("a namespace");
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        drop(inside);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Refused while the neighbour is not known.
                _ = socket.send_to(b"early", (to, 9999));
                pause(Duration::from_micros(200));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends");
        }
    }
}

/// Datagrams that a process, which runs in the namespace before its interface is adopted,
/// gets through to another workload: before the endpoint is added, and after.
fn leaked(scene: &mut Scene, family: Family, starts: usize) -> [u64; 2] {
    scene.agent.document("early.yaml", EARLY_CLOSED);
    assert!(scene.agent.sync().enforced);
    let web = Place::from(scene.workload("shop/web"));
    let to = web.ip(family);
    let inside = web.namespace.enter().expect("a namespace");
    let socket = UdpSocket::bind((to, 9999)).expect("a socket");
    drop(inside);
    let patience = Some(Duration::from_millis(20));
    socket.set_read_timeout(patience).expect("a time");
    let (arrived, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut leaked = [0; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut buffer = [0; 16];
                arrived.fetch_add(socket.recv(&mut buffer).is_ok().into(), Ordering::Relaxed);
            }
        });
        for start in 0..starts {
            let name = format!("shop/early{start}");
            scene.world.add(name.clone()).expect("a workload");
            let early = scene.workload(&name);
            let before = arrived.load(Ordering::Relaxed);
            let sender = Sender::start(early, to);
            pause(Duration::from_millis(30));
            let report = scene.agent.add(early, &["app=early"]);
            assert_eq!(report.state.as_str(), "enforced");
            // What is on its way arrives.
            pause(Duration::from_millis(20));
            let added = arrived.load(Ordering::Relaxed);
            pause(Duration::from_millis(50));
            drop(sender);
            let after = arrived.load(Ordering::Relaxed);
            leaked[0] += added - before;
            leaked[1] += after - added;
            scene.agent.remove(&name);
            scene.world.remove(&name).expect("it is there");
        }
        stop.store(true, Ordering::Relaxed);
    });
    leaked
}

/// Short form of the start window: a process that sends from before its interface is adopted.
#[test]
fn a_process_that_sends_before_its_start_gets_nothing_through_the_guard() {
    skip_unless!(Feature::NetworkNamespaces);
    for (number, family) in Family::BOTH.into_iter().enumerate() {
        let wiring = Wiring::BOTH[number];
        let mut scene = guarded(wiring);
        assert_eq!(
            leaked(&mut scene, family, STARTS),
            [0, 0],
            "{family} {wiring:?}"
        );
        let mut scene = Scene::enforced(wiring, DB_FROM_WEB);
        let [before, after] = leaked(&mut scene, family, STARTS);
        println!("without a guard: {before} packets of {STARTS} starts before they were adopted");
        assert!(before > 0, "the test sends nothing");
        assert_eq!(after, 0, "{family} {wiring:?}");
    }
}
