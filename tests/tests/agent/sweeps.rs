//! Sweeps of the flow tables, and what they find.

use std::fs;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;

use super::scene::{DB_FROM_WEB, Scene};

/// Time between two sweeps of the agent.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// The time that threads of the agent with this name have run.
fn ran(scene: &Scene, name: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", scene.agent.pid())).expect("it runs");
    let named = tasks
        .map(|task| task.expect("a thread").path())
        .filter(|task| {
            let comm = fs::read_to_string(task.join("comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        });
    let nanoseconds = named.map(|task| -> u64 {
        let statistics = fs::read_to_string(task.join("schedstat")).expect("it lives");
        let first = statistics.split(' ').next().expect("three numbers");
        first.parse().expect("nanoseconds")
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Waits for what the next sweep brings about.
fn wait_until(scene: &Scene, is_so: impl Fn() -> bool) {
    let (_keep, silence) = mpsc::channel::<()>();
    let deadline = Instant::now() + 3 * BETWEEN_SWEEPS;
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", scene.agent.log());
        // Nobody sends: this only waits.
        _ = silence.recv_timeout(BETWEEN_LOOKS);
    }
}

/// Looks at all flow tables and sweeps of them take more than a millisecond in the end, which
/// the thread that answers requests does not have.
#[test]
fn another_thread_than_that_of_requests_keeps_the_flow_tables() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let before = ran(&scene, "sweep");
    wait_until(&scene, || {
        ran(&scene, "sweep") - before > Duration::from_millis(1)
    });
    scene.assert_reaches("shop/web", "shop/db");
}

/// Sends from many ports of web; each datagram begins a flow.
pub(super) fn fill(scene: &Scene, flows: std::ops::Range<u16>) {
    let to = scene
        .workload("shop/stranger")
        .end
        .ip(Family::V4)
        .expect("IPv4");
    let _inside = scene.workload("shop/web").namespace.enter().expect("web");
    for port in flows {
        let socket = UdpSocket::bind(("0.0.0.0", 20_000 + port)).expect("a free port");
        socket.send_to(b"?", (to, 9)).expect("it is sent");
    }
}

#[test]
fn a_flow_table_that_fills_is_said_before_it_is_full() {
    skip_unless!(Feature::NetworkNamespaces);
    // Where a flow table is nearly full, an eighth of the idle time holds: 15 s, longer than
    // a sweep takes to come.
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent = scene
        .agent
        .settings("limits: {flows_per_endpoint: 512}\nidle: {udp_one_way: 2m}\n");
    let scene = scene.in_force(DB_FROM_WEB);
    let fullest = || -> (u64, u64) {
        let (status, text) = scene.agent.http("/metrics");
        assert_eq!(status, 200);
        let value = |name: &str| -> u64 {
            let series = format!("{name}{{table=\"flows_of_fullest_endpoint\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&series));
            line.unwrap_or_else(|| panic!("{text}"))
                .parse()
                .expect("a number")
        };
        (
            value("cofferdam_capacity_used"),
            value("cofferdam_capacity_max"),
        )
    };
    let (used, capacity) = fullest();
    assert!(used < 100, "{used}");
    assert_eq!(capacity, 1_024);
    let alarms = || {
        let diagnostics = scene.agent.status().diagnostics.into_iter();
        let alarms = diagnostics.filter(|one| one.code == "CD0403");
        alarms.collect::<Vec<_>>()
    };
    assert!(alarms().is_empty());

    fill(&scene, 0..900);
    wait_until(&scene, || fullest().0 >= 850);
    let alarm = alarms();
    assert_eq!(alarm.len(), 1, "{alarm:?}");
    assert!(alarm[0].message.contains("shop/web/eth0"), "{alarm:?}");
    let hint = alarm[0].hint.as_deref().unwrap_or_default();
    assert!(hint.contains("limits.flows_per_endpoint"), "{hint}");
    // `status` asks as the sweep ends; the log follows when the agent has read its end.
    let said = |text: &str| scene.agent.log().matches(text).count();
    wait_until(&scene, || said("the flow table is nearly full") > 0);

    // When they are over, so is the alarm.
    wait_until(&scene, || alarms().is_empty());
    wait_until(&scene, || said("no longer nearly full") > 0);
    assert_eq!(said("the flow table is nearly full"), 1);
    assert_eq!(said("no longer nearly full"), 1);
}
