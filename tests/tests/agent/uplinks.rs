//! Frames that are dropped early, on uplinks.

use std::process::Command;
use std::time::Duration;

use cofferdam_protocol::output::UplinkStatus;
use cofferdam_tests::agent::Agent;
use cofferdam_tests::evasions::tool;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Conversation, Place, Probe, Server, probe};
use cofferdam_tests::translation::{to_host, virtual_address};
use cofferdam_tests::world::{Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};
use cofferdam_verdict::counter::Hook;

const PATIENCE: Duration = Duration::from_secs(10);
const UNTIL_DROPPED: Duration = Duration::from_millis(100);
const PORT: u16 = 80;
/// Connections and questions of each kind.
const TIMES: usize = 25;
const LIMITS: &str = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\nadopt_midstream: 0s\n";

/// The web reaches virtual addresses; nobody reaches the web.
const SHUT: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  egress:
  - to: [{ipBlock: {cidr: 10.99.0.0/16}}, {ipBlock: {cidr: fd99::/64}}]
";

/// A world with an uplink on which frames can be dropped early.
pub(crate) fn world(wiring: Wiring, mtu: u32) -> World {
    let world = World::plan(wiring)
        .workloads(["shop/web"])
        .outside()
        .mtu(mtu)
        .build()
        .expect("a world");
    let node = &world.node().namespace;
    node.strip_tags("uplink0", false).expect("a virtual pair");
    world
}

fn is_native(uplink: &UplinkStatus) -> bool {
    uplink.mode.as_deref() == Some("native")
}

/// Returns `true` if a program of XDP stands on the uplink.
fn stands(world: &World) -> bool {
    let shown = world
        .node()
        .namespace
        .run(|| {
            let mut command = Command::new("ip");
            command.args(["link", "show", "uplink0"]).output()
        })
        .expect("the command is there");
    String::from_utf8_lossy(&shown.stdout).contains("xdp")
}

/// The sum of a metric's series that begin so and have a label.
fn counted(metrics: &str, series: &str, label: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(series));
    let values = lines
        .filter(|line| line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

#[test]
fn no_reply_is_dropped_early_behind_translation() {
    skip_unless!(Feature::NetworkNamespaces);
    for (masquerades, wiring) in [(false, Wiring::Ptp), (true, Wiring::Bridge)] {
        let world = world(wiring, 1500);
        let node = &world.node().namespace;
        let far = Family::BOTH.map(|family| world.outside().ip(family));
        tool::run(node, "nft", &["-f", "-"], &to_host(far, masquerades));
        let probes = [Probe::Tcp(PORT), Probe::Udp(PORT)];
        let _outside = Server::start(world.outside(), &probes).expect("a server");
        let _web = Server::start(&world["shop/web"], &probes).expect("a server");
        let settings = format!("{LIMITS}uplinks: [uplink0]\n");
        let mut agent = Agent::new(cofferdam!(), &world).settings(&settings);
        agent.document("policies.yaml", SHUT);
        let status = agent.start_enforced();
        assert!(status.uplinks.iter().all(is_native), "{:?}", status.uplinks);
        assert_eq!(status.uplinks.len(), 1);
        let web = &world["shop/web"];
        agent.add(web, &["app=web"]);
        for family in Family::BOTH {
            let address = virtual_address(family);
            let mut talk = Conversation::tcp(web, address, PORT, PATIENCE).expect("it connects");
            for _ in 0..TIMES {
                for asked in probes {
                    let reached = probe(web, address, asked, PATIENCE).expect("a probe");
                    let log = || agent.http("/metrics").1;
                    assert!(reached.is_reached(), "{family} {asked:?}: {}", log());
                }
                talk.exchange(b"and again", PATIENCE).expect("an answer");
            }
        }
        // What nobody asked for ends there, and is counted and recorded there.
        let outside = Place::from(world.outside());
        for family in Family::BOTH {
            for asked in probes {
                let to = web.ip(family);
                let reached = probe(outside, to, asked, UNTIL_DROPPED).expect("a probe");
                assert!(!reached.is_reached(), "{family} {asked:?}");
            }
        }
        agent.sync();
        let (_, metrics) = agent.http("/metrics");
        let of = |what: &str, label: &str| {
            let series = format!("cofferdam_{what}_packets_total{{hook=\"uplink_ingress\"");
            counted(&metrics, &series, label)
        };
        let dropped = of("dropped", "reason=\"isolated\"");
        let passed = of("allowed", "reason=\"flow\"");
        assert!(dropped >= 4, "{metrics}");
        assert_eq!(of("seen", ""), dropped + passed, "{metrics}");
        // With masquerade the answers come to the node's own address.
        assert_eq!(passed > 0, !masquerades, "{metrics}");
        let records = agent.records();
        let to_web = records
            .iter()
            .filter(|record| record.destination.workload.as_deref() == Some("web"))
            .filter(|record| record.hook == Hook::UplinkIngress);
        let recorded: u64 = to_web.map(|record| record.packets).sum();
        assert_eq!(recorded, dropped, "{records:?}");
        assert!(metrics.contains("cofferdam_uplink_mode{interface=\"uplink0\",mode=\"native\"} 1"));
        assert!(agent.stop().success());
    }
}

#[test]
fn the_program_stands_where_the_configuration_says() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = world(Wiring::Ptp, 1500);
    let node = &world.node().namespace;
    node.strip_tags("uplink0", true).expect("a virtual pair");
    let on = format!("{LIMITS}uplinks: [uplink0, nowhere0]\n");
    let mut agent = Agent::new(cofferdam!(), &world).settings(&on);
    let status = agent.start_enforced();
    let [nowhere, uplink] = &status.uplinks[..] else {
        panic!("{status:?}");
    };
    let told = |one: &UplinkStatus, words: &str| {
        one.mode.is_none()
            && one
                .problem
                .as_ref()
                .is_some_and(|told| told.contains(words))
    };
    assert!(told(nowhere, "no such interface"), "{nowhere:?}");
    assert!(told(uplink, "rxvlan off"), "{uplink:?}");
    assert!(!stands(&world));
    node.strip_tags("uplink0", false).expect("a virtual pair");
    agent.wait_until("native", |status| is_native(&status.uplinks[1]));
    // It stays with the agent dead, and is adopted.
    agent.kill();
    assert!(stands(&world));
    let status = agent.start_enforced();
    assert!(is_native(&status.uplinks[1]), "{status:?}");
    assert_eq!(status.tamper_events, 0);
    // Tags are taken off again: it would see none.
    node.strip_tags("uplink0", true).expect("a virtual pair");
    agent.wait_until("off", |status| status.uplinks[1].mode.is_none());
    assert!(!stands(&world));
    node.strip_tags("uplink0", false).expect("a virtual pair");
    agent.wait_until("native", |status| is_native(&status.uplinks[1]));
    // It goes when it is not wanted any more, and when nothing is.
    assert!(agent.stop().success());
    let mut agent = agent.settings(LIMITS);
    assert!(agent.start_enforced().uplinks.is_empty());
    assert!(!stands(&world));
    assert!(agent.stop().success());
    let mut agent = agent.settings(&on);
    agent.start(&["--detach"]);
    agent.wait_enforced();
    agent.wait_until("native", |status| is_native(&status.uplinks[1]));
    assert!(agent.stop().success());
    assert!(!stands(&world));
}
