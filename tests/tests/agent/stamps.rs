//! Stamps and deadlines of links, and interfaces where stamps are taken off.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cofferdam_agent::config;
use cofferdam_dataplane::{Endpoint, Kernel};
use cofferdam_protocol::output::StatusReport;
use cofferdam_tests::agent::Agent;
use cofferdam_tests::packet::{Family, udp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Conversation, FrameSocket, Place, carrying};
use cofferdam_tests::world::{Namespace, Wiring, Workload};
use cofferdam_tests::{cofferdam, skip_unless};

use super::scene::{DB_FROM_WEB, PORT, Scene};

const PATIENCE: Duration = Duration::from_secs(10);
/// Time in which a dropped packet must not arrive, after one that does arrive.
const UNTIL_DROPPED: Duration = Duration::from_millis(100);

/// The database takes whatever `app: web` sends.
const ALL_FROM_WEB: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
";

/// The endpoints as they are in force in the kernel; the agent does not run.
fn in_force(scene: &Scene) -> Vec<Endpoint> {
    let path = scene.agent.write_config();
    let text = std::fs::read(&path).expect("it was written");
    let config = config::parse("config.yaml", &text).expect("it is right");
    let kernel = Kernel::open(&config.bpffs, config.limits(), &config.behaviour());
    kernel.expect("it was in force").endpoints()
}

fn of(endpoints: &[Endpoint], workload: &Workload) -> Endpoint {
    let found = endpoints
        .iter()
        .find(|one| one.ifindex == workload.host_ifindex);
    found.expect("it is in force").clone()
}

#[test]
fn a_link_keeps_its_stamp_and_its_deadline_for_as_long_as_it_lives() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.agent.kill();
    let before = in_force(&scene);
    let web = of(&before, scene.workload("shop/web"));
    let db = of(&before, scene.workload("shop/db"));
    assert!(web.stamp != 0 && db.stamp != 0 && web.stamp != db.stamp);
    assert!(web.adopt_until != 0 && db.adopt_until != 0);
    scene.agent.start_enforced();
    // Relabelled, removed and added again, released and added again.
    let workload = scene.workload("shop/web");
    scene.agent.add(workload, &["app=other"]);
    scene.agent.remove("shop/web");
    scene.agent.add(workload, &["app=web"]);
    scene.agent.remove_with("shop/web", &["--release"]);
    scene.agent.add(workload, &["app=web"]);
    scene.agent.remove("shop/db");
    scene.agent.kill();
    let after = in_force(&scene);
    let again = of(&after, scene.workload("shop/web"));
    assert_eq!(
        (again.stamp, again.adopt_until),
        (web.stamp, web.adopt_until)
    );
    // Nothing has the number of an interface that is closed.
    assert_eq!(of(&after, scene.workload("shop/db")).stamp, 0);
    // Another link has another number, though the first has gone.
    scene.world.remove("shop/web").expect("it is there");
    scene.world.add("shop/next").expect("a workload");
    scene.agent.start_enforced();
    scene.agent.add(scene.workload("shop/next"), &["app=web"]);
    scene.agent.add(scene.workload("shop/db"), &["app=db"]);
    scene.assert_reaches("shop/next", "shop/db");
    scene.agent.kill();
    let last = in_force(&scene);
    let next = of(&last, scene.workload("shop/next")).stamp;
    assert!(next != web.stamp && next != db.stamp, "{last:?}");
    assert_eq!(of(&last, scene.workload("shop/db")).stamp, db.stamp);
}

#[test]
fn connections_from_before_are_adopted_until_a_deadline_that_a_dead_agent_does_not_move() {
    skip_unless!(Feature::NetworkNamespaces);
    let window = Duration::from_secs(4);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent = Agent::new(cofferdam!(), &scene.world)
        .settings("limits: {endpoints: 32, slots: 8192, table_pages: 32}\nadopt_midstream: 4s\n");
    let talk = |scene: &Scene| {
        let address = Place::from(scene.workload("shop/db")).ip(Family::V4);
        let web = scene.workload("shop/web");
        Conversation::tcp(web, address, PORT, PATIENCE).expect("nothing is attached")
    };
    let (mut early, mut late, mut later) = (talk(&scene), talk(&scene), talk(&scene));
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    scene.agent.start_enforced();
    scene.add_both();
    let added = Instant::now();
    early.exchange(b"in time", PATIENCE).expect("it is adopted");
    assert!(added.elapsed() < window, "this machine is too slow");
    scene.agent.kill();
    while added.elapsed() <= window {
        std::thread::park_timeout(window.saturating_sub(added.elapsed()));
    }
    early
        .exchange(b"and later", PATIENCE)
        .expect("it was adopted");
    let patience = Duration::from_millis(500);
    assert!(late.exchange(b"too late", patience).is_err());
    // Nor does the next agent, or a call, begin it anew.
    scene.agent.start_enforced();
    scene.add_both();
    scene.agent.remove("shop/web");
    scene.agent.add(scene.workload("shop/web"), &["app=web"]);
    assert!(later.exchange(b"too late", patience).is_err());
}

/// Runs a command within a namespace.
fn run_in(namespace: &Namespace, command: &[&str]) -> Output {
    let output = namespace.run(|| Command::new(command[0]).args(&command[1..]).output());
    output.expect("the command is there")
}

#[track_caller]
fn tc(namespace: &Namespace, command: &str) -> String {
    let command: Vec<&str> = std::iter::once("tc").chain(command.split(' ')).collect();
    let output = run_in(namespace, &command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of our filters on the node's side of a workload's link: in, out.
fn filters(scene: &Scene, workload: &str) -> [String; 2] {
    let interface = &scene.workload(workload).host_interface;
    ["ingress", "egress"].map(|side| {
        let shown = tc(
            &scene.world.node().namespace,
            &format!("filter show dev {interface} {side}"),
        );
        let names = [
            "from_workload_f",
            "to_workload_f",
            "clear_stamp_f",
            "uplink_egress",
        ];
        let standing = names.iter().filter(|name| shown.contains(**name));
        standing.copied().collect::<Vec<_>>().join(" ")
    })
}

const CLEARED: [&str; 2] = ["clear_stamp_f", "uplink_egress"];
const JUDGED: [&str; 2] = ["from_workload_f", "to_workload_f"];

#[track_caller]
fn wait_for_filters(scene: &Scene, workload: &str, expected: [&str; 2]) {
    let deadline = Instant::now() + PATIENCE;
    while filters(scene, workload) != expected {
        assert!(Instant::now() < deadline, "{:?}", filters(scene, workload));
        std::thread::yield_now();
    }
}

#[test]
fn stamps_are_taken_off_wherever_packets_enter_that_are_no_endpoints() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Bridge, DB_FROM_WEB);
    assert_eq!(filters(&scene, "shop/stranger"), CLEARED);
    assert_eq!(filters(&scene, "shop/web"), JUDGED);
    assert!(scene.agent.status().uncleared.is_empty());
    // An interface that comes.
    scene.world.add("shop/next").expect("a workload");
    wait_for_filters(&scene, "shop/next", CLEARED);
    // One that becomes an endpoint's, is closed, and is released.
    scene.agent.add(scene.workload("shop/next"), &["app=web"]);
    assert_eq!(filters(&scene, "shop/next"), JUDGED);
    scene.assert_reaches("shop/next", "shop/db");
    scene.agent.remove("shop/next");
    assert_eq!(filters(&scene, "shop/next"), JUDGED);
    scene.agent.remove_with("shop/next", &["--release"]);
    assert_eq!(filters(&scene, "shop/next"), CLEARED);
    scene.assert_reaches("shop/next", "shop/stranger");
    scene.assert_blocked("shop/next", "shop/db");
    // They stay, are taken up, and are repaired.
    scene.agent.kill();
    assert_eq!(filters(&scene, "shop/stranger"), CLEARED);
    let status = scene.agent.start_enforced();
    assert_eq!(status.tamper_events, 0);
    let interface = scene.workload("shop/stranger").host_interface.clone();
    tc(
        &scene.world.node().namespace,
        &format!("qdisc del dev {interface} clsact"),
    );
    wait_for_filters(&scene, "shop/stranger", CLEARED);
    let bridge = tc(&scene.world.node().namespace, "filter show dev br0 ingress");
    assert!(!bridge.contains("clear_stamp"), "{bridge}");
    let bridge = tc(&scene.world.node().namespace, "filter show dev br0 egress");
    assert!(!bridge.contains("uplink_egress"), "{bridge}");
    assert!(scene.agent.stop().success());
    assert_eq!(filters(&scene, "shop/stranger"), CLEARED);
    scene.agent.start(&["--detach"]);
    scene.agent.wait_enforced();
    assert!(scene.agent.stop().success());
    for workload in ["shop/stranger", "shop/next", "shop/web"] {
        assert_eq!(filters(&scene, workload), ["", ""], "{workload}");
    }
}

#[test]
fn an_interface_with_others_filters_is_cleared_all_the_same() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::of(Wiring::Bridge, &["shop/web", "shop/db", "x/a", "x/b"]);
    let node = &scene.world.node().namespace;
    let [first, second] = ["x/a", "x/b"].map(|name| &scene.workload(name).host_interface);
    let pass = "protocol all prio 1 u32 match u32 0 0 classid 1:1";
    tc(node, &format!("qdisc add dev {first} ingress"));
    tc(node, &format!("filter add dev {first} parent ffff: {pass}"));
    tc(node, &format!("qdisc add dev {second} clsact"));
    tc(node, &format!("filter add dev {second} ingress {pass}"));
    let scene = scene.in_force(DB_FROM_WEB);
    let cleared = |status: &StatusReport| status.uncleared.is_empty();
    scene.agent.wait_until("cleared", cleared);
}

#[test]
fn filters_of_others_that_can_hide_a_sender_are_told() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Bridge, DB_FROM_WEB);
    assert!(scene.agent.status().obstacles.is_empty());
    let node = &scene.world.node().namespace;
    let web = &scene.workload("shop/web").host_interface;
    let pass = "protocol all prio 50 u32 match u32 0 0 classid 1:1";
    tc(node, &format!("filter add dev {web} ingress {pass}"));
    tc(node, "qdisc add dev br0 clsact");
    tc(node, &format!("filter add dev br0 egress {pass}"));
    let obstacles = scene.agent.status().obstacles;
    assert_eq!(obstacles.len(), 2, "{obstacles:?}");
    let told = |place: &str| obstacles.iter().any(|one| one.contains(place));
    assert!(told(&format!("clsact_ingress of {web}")), "{obstacles:?}");
    assert!(told("clsact_egress of br0"), "{obstacles:?}");
    // Each endpoint is told of those on its own way.
    let status = scene.agent.status();
    let of = |id: &str| {
        let endpoint = status.endpoints.iter().find(|one| one.called() == id);
        &endpoint.expect("it was added").obstacles
    };
    assert_eq!(*of("shop/web/eth0"), obstacles);
    let [of_db] = &of("shop/db/eth0")[..] else {
        panic!("{status:?}");
    };
    assert!(of_db.contains("clsact_egress of br0"), "{of_db}");
    // And once in the log, at the latest by the next agent.
    scene.agent.kill();
    scene.agent.start_enforced();
    let log = scene.agent.log();
    assert_eq!(log.matches("clsact_egress of br0").count(), 1, "{log}");
}

/// Sends a datagram of the web's to the database from a socket, twenty times.
fn forge(scene: &Scene, socket: &FrameSocket, mac: &Workload, words: &'static [u8]) {
    let (web, db) = (scene.workload("shop/web"), scene.workload("shop/db"));
    let frame = udp()
        .from(web.end.with_mac(mac.end.mac))
        .to(db.end)
        .dport(7)
        .payload(words)
        .bytes();
    for _ in 0..20 {
        socket.send_bytes(&frame).expect("sent");
    }
}

/// Counts forged datagrams that arrived, once an honest one has.
#[track_caller]
fn leaked(socket: &FrameSocket) -> usize {
    let before = socket.before(PATIENCE, carrying(b"honest"));
    let mut frames = before.expect("a capture").expect("the web's own arrive");
    let late = socket.next(UNTIL_DROPPED, carrying(b"forged"));
    frames.extend(late.expect("a capture"));
    let is_forged = carrying(b"forged");
    frames.iter().filter(|frame| is_forged(frame)).count()
}

#[test]
fn a_port_that_is_nobodys_cannot_speak_for_a_workload_of_its_bridge() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Bridge, ALL_FROM_WEB);
    let web = FrameSocket::open(&scene.workload("shop/web").namespace, "eth0").expect("a socket");
    let db = FrameSocket::open(&scene.workload("shop/db").namespace, "eth0").expect("a socket");
    for is_alive in [true, false] {
        if !is_alive {
            scene.agent.kill();
        }
        let name = if is_alive { "shop/evil" } else { "shop/worse" };
        scene.world.add(name).expect("a workload");
        let evil = scene.workload(name);
        let socket = FrameSocket::open(&evil.namespace, "eth0").expect("a socket");
        forge(&scene, &socket, evil, b"forged");
        forge(&scene, &web, scene.workload("shop/web"), b"honest");
        assert_eq!(leaked(&db), 0, "alive: {is_alive}");
    }
}

#[test]
fn a_container_that_writes_the_number_of_another_on_its_packets_is_not_that() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Bridge, ALL_FROM_WEB);
    scene.agent.kill();
    let stamp = of(&in_force(&scene), scene.workload("shop/web")).stamp;
    scene.agent.start_enforced();
    let stranger = scene.workload("shop/stranger");
    // CAP_NET_ADMIN in its namespace is enough for that.
    tc(&stranger.namespace, "qdisc add dev eth0 clsact");
    let forged = format!("protocol all prio 1 u32 match u32 0 0 classid 1:{stamp:x}");
    tc(
        &stranger.namespace,
        &format!("filter add dev eth0 egress {forged}"),
    );
    let socket = FrameSocket::open(&stranger.namespace, "eth0").expect("a socket");
    let web = FrameSocket::open(&scene.workload("shop/web").namespace, "eth0").expect("a socket");
    let db = FrameSocket::open(&scene.workload("shop/db").namespace, "eth0").expect("a socket");
    forge(&scene, &socket, stranger, b"forged");
    forge(&scene, &web, scene.workload("shop/web"), b"honest");
    assert_eq!(leaked(&db), 0);
}
