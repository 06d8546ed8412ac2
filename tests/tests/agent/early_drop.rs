//! Early drop on devices of other kinds than a plain virtual pair: without XDP in the
//! driver, with a program of others, with frames of many pieces.

use std::fs;
use std::time::Duration;

use cofferdam_dataplane::{Behaviour, Kernel};
use cofferdam_protocol::output::{StatusReport, UplinkStatus};
use cofferdam_tests::agent::Agent;
use cofferdam_tests::evasions::tool;
use cofferdam_tests::firewall::LIMITS;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Conversation, Place, Probe, Server, probe};
use cofferdam_tests::world::{Namespace, Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};

use super::uplinks::world;

const PATIENCE: Duration = Duration::from_secs(10);
const UNTIL_DROPPED: Duration = Duration::from_millis(100);
/// Ports of the server in the workload.
const OPEN: u16 = 80;
const SHUT: u16 = 22;
const SETTINGS: &str = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\n";
/// Everybody reaches one port of the web.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 80}]
";

fn ip(namespace: &Namespace, line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    tool::run(namespace, "ip", &words, "");
}

/// Starts an agent with `uplinks` in its configuration, the web its endpoint.
fn agent(world: &World, uplinks: &str) -> Agent {
    let settings = format!("{SETTINGS}uplinks: {uplinks}\n");
    let mut agent = Agent::new(cofferdam!(), world).settings(&settings);
    agent.document("policy.yaml", POLICY);
    agent.start_enforced();
    agent.add(&world["shop/web"], &["app=web"]);
    agent
}

fn serve(world: &World) -> Server {
    let probes = [OPEN, SHUT].map(|port| [Probe::Tcp(port), Probe::Udp(port)]);
    Server::start(&world["shop/web"], &probes.concat()).expect("a server")
}

/// Asks the web from outside: the open port answers, the shut one does not.
#[track_caller]
fn holds(world: &World, agent: &Agent) {
    let outside = Place::from(world.outside());
    for family in Family::BOTH {
        let to = world["shop/web"].ip(family);
        for open in [Probe::Tcp(OPEN), Probe::Udp(OPEN)] {
            let reached = probe(outside, to, open, PATIENCE).expect("a probe");
            assert!(reached.is_reached(), "{family} {open:?}: {}", agent.log());
        }
        for shut in [Probe::Tcp(SHUT), Probe::Udp(SHUT)] {
            let reached = probe(outside, to, shut, UNTIL_DROPPED).expect("a probe");
            assert!(!reached.is_reached(), "{family} {shut:?}: {}", agent.log());
        }
    }
}

/// Packets that were dropped early, after what is under way has been counted.
fn dropped_early(agent: &Agent) -> u64 {
    agent.sync();
    let (_, metrics) = agent.http("/metrics");
    let of_uplinks = "cofferdam_dropped_packets_total{hook=\"uplink_ingress\"";
    let lines = metrics.lines().filter(|line| line.starts_with(of_uplinks));
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

fn mode(uplink: &UplinkStatus) -> Option<&str> {
    uplink.mode.as_deref()
}

/// Waits until the program of the first uplink stands.
#[track_caller]
fn in_some_mode(agent: &Agent) -> StatusReport {
    agent.wait_until("a mode", |status| {
        let first = status.uplinks.first();
        first.is_some_and(|one| mode(one).is_some())
    })
}

/// A bridge has no driver: the program stands behind the making of buffers.
#[test]
fn a_device_without_a_driver_for_it_drops_early_in_generic_mode() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = world(Wiring::Ptp, 1500);
    let node = &world.node().namespace;
    ip(node, "link add over0 type bridge");
    for address in ["198.51.100.1/24", "fd51::1/64"] {
        ip(node, &format!("addr del {address} dev uplink0"));
    }
    ip(node, "link set uplink0 master over0");
    ip(node, "link set over0 up");
    for address in ["198.51.100.1/24", "fd51::1/64"] {
        ip(node, &format!("addr add {address} dev over0"));
    }
    let outside = &world.outside().namespace;
    ip(outside, "neigh flush dev eth0");
    let _web = serve(&world);
    let mut agent = agent(&world, "[over0]");
    let status = in_some_mode(&agent);
    assert_eq!(mode(&status.uplinks[0]), Some("generic"), "{status:?}");
    holds(&world, &agent);
    assert!(dropped_early(&agent) >= 4, "{}", agent.http("/metrics").1);
    // It stays with the agent dead, and is adopted.
    agent.kill();
    let status = agent.start_enforced();
    assert_eq!(mode(&status.uplinks[0]), Some("generic"), "{status:?}");
    assert_eq!(status.tamper_events, 0);
    holds(&world, &agent);
    // Only devices with a driver for it are chosen where none is named.
    assert!(agent.stop().success());
    let mut agent = agent.settings(&format!("{SETTINGS}uplinks: auto\n"));
    let status = agent.start_enforced();
    let generic = |one: &UplinkStatus| mode(one) == Some("generic");
    assert!(!status.uplinks.iter().any(generic), "{status:?}");
    holds(&world, &agent);
    assert!(agent.stop().success());
}

/// The program of another set of pins, which is not this agent's.
#[test]
fn a_program_of_others_is_left_alone_and_said() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = world(Wiring::Ptp, 1500);
    let node = &world.node().namespace;
    let _web = serve(&world);
    let others = Agent::new(cofferdam!(), &world);
    let inside = node.enter().expect("the node");
    let mut other = Kernel::open(&others.pins(), LIMITS, &Behaviour::default()).expect("pins");
    let ifindex = world.outside().uplink_ifindex;
    other
        .drop_early_on(ifindex, false)
        .expect("its place is free");
    drop(inside);
    let stands = || {
        let shown = tool::run(node, "ip", &["link", "show", "uplink0"], "");
        let id = shown
            .split_once("prog/xdp id ")
            .and_then(|(_, rest)| rest.split(' ').next().map(str::to_owned));
        id.unwrap_or_else(|| panic!("no program: {shown}"))
    };
    let theirs = stands();

    let mut agent = agent(&world, "[uplink0]");
    let status = agent.status();
    let uplink = &status.uplinks[0];
    assert_eq!(mode(uplink), None, "{uplink:?}");
    let problem = uplink.problem.as_deref().unwrap_or_default();
    assert!(problem.contains("another program"), "{problem}");
    assert!(status.enforced, "{status:?}");
    assert_eq!(stands(), theirs);
    let told = agent.log();
    assert!(told.contains("frames are not dropped early"), "{told}");

    // It goes, and the agent takes the place.
    let inside = node.enter().expect("the node");
    other.stop_early_drop(ifindex).expect("it is its own");
    drop((other, inside));
    fs::remove_dir_all(others.pins()).expect("they are pinned here");
    agent.wait_until("native", |status| {
        mode(&status.uplinks[0]) == Some("native")
    });
    holds(&world, &agent);
    assert!(dropped_early(&agent) >= 4, "{}", agent.http("/metrics").1);
    assert!(agent.stop().success());
}

/// Frames of 9 000 bytes reach the driver in pieces.
#[test]
fn frames_of_many_pieces_are_judged_in_the_driver() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = world(Wiring::Ptp, 9000);
    let _web = serve(&world);
    let mut agent = agent(&world, "[uplink0]");
    let status = in_some_mode(&agent);
    assert_eq!(mode(&status.uplinks[0]), Some("native"), "{status:?}");
    holds(&world, &agent);
    assert!(dropped_early(&agent) >= 4, "{}", agent.http("/metrics").1);
    let outside = Place::from(world.outside());
    let web = &world["shop/web"];
    for family in Family::BOTH {
        let mut talk = Conversation::tcp(outside, web.ip(family), OPEN, PATIENCE).expect("open");
        for (mark, bytes) in [100, 4_000, 8_000, 8_900, 60_000].into_iter().enumerate() {
            let words = vec![mark as u8; bytes];
            let answered = talk.exchange(&words, PATIENCE);
            answered.unwrap_or_else(|error| panic!("{family} {bytes}: {error}: {}", agent.log()));
        }
    }
    // One frame of many pieces, denied.
    for family in Family::BOTH {
        let before = dropped_early(&agent);
        let from = world.outside().ip(family);
        let socket = (outside.namespace)
            .run(|| std::net::UdpSocket::bind((from, 0)))
            .expect("a socket");
        let to = (web.ip(family), SHUT);
        socket.send_to(&vec![7; 8_000], to).expect("sent");
        let deadline = std::time::Instant::now() + PATIENCE;
        while dropped_early(&agent) == before {
            assert!(
                std::time::Instant::now() < deadline,
                "{family}: not dropped"
            );
        }
    }
    assert!(agent.stop().success());
}
