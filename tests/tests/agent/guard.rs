//! The guard drops packets of veths that nobody has adopted, with and without an agent.

use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_tests::agent::Agent;
use cofferdam_tests::cofferdam;
use cofferdam_tests::faults::{SMALL, Stand, starts};
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Place, Probe, Server, probe};
use cofferdam_tests::world::Wiring;

use crate::scene::{DB_FROM_WEB, PORT, Scene, pause};

/// Workloads that come up, one after the other.
const STARTS: u64 = 4;

const GUARDED: &str = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\nguard: nftables\n";

fn guarded(wiring: Wiring) -> Scene {
    let mut scene = Scene::new(wiring);
    scene.agent = Agent::new(cofferdam!(), &scene.world).settings(GUARDED);
    scene.in_force(DB_FROM_WEB)
}

/// Runs nft(8) on the node.
fn nft(scene: &Scene, arguments: &[&str]) -> String {
    let _inside = scene.world.node().namespace.enter().expect("a namespace");
    let output = Command::new("nft")
        .args(arguments)
        .output()
        .expect("nft is there");
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
        let _server = Server::start_all(late, &[Probe::Tcp(PORT)]);
        scene.assert_blocked("shop/stranger", "shop/web");
        scene.assert_blocked("shop/late", "shop/web");
        scene.assert_blocked("shop/web", "shop/late");
        scene.assert_reaches("shop/web", "shop/db");
        scene.agent.start_enforced();
        scene.assert_reaches("shop/web", "shop/db");
        scene.assert_blocked("shop/late", "shop/web");
        scene.agent.add(scene.workload("shop/late"), &[]);
        let to = Place::from(scene.workload("shop/web")).ip(Family::V4);
        let late = scene.workload("shop/late");
        let outcome = probe(late, to, Probe::Tcp(PORT), Duration::from_secs(5));
        assert!(outcome.expect("a probe").is_reached(), "at once");
        // Neighbour discovery that began before asks three times, a second apart, and fails with
        // all connections that wait for it when the guard has dropped each of them.
        pause(Duration::from_secs(3));
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

/// Short form of `cargo xtask soak starts`.
#[test]
fn a_process_that_sends_before_its_start_gets_nothing_through_the_guard() {
    skip_unless!(Feature::NetworkNamespaces);
    for (number, family) in Family::BOTH.into_iter().enumerate() {
        let wiring = Wiring::BOTH[number];
        let starts = |settings: &str| {
            let mut stand = Stand::enforced(cofferdam!(), wiring, settings);
            starts::starts(&mut stand, family, STARTS, None)
        };
        let guarded = starts(&starts::guarded());
        assert_eq!(
            (guarded.before, guarded.after),
            (0, 0),
            "{family} {wiring:?}"
        );
        let open = starts(SMALL);
        println!("without a guard: {open:?}");
        assert!(open.before > 0, "the test sends nothing");
        assert_eq!(open.after, 0, "{family} {wiring:?}");
    }
}
