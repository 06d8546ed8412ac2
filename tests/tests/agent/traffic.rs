//! Changes under traffic, by way of files and the agent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cofferdam_tests::packet::{Family, udp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Conversation, FrameSocket, carrying};
use cofferdam_tests::world::Wiring;

use super::scene::{DB_FROM_WEB, PORT, Scene};

const PATIENCE: Duration = Duration::from_secs(10);

/// After so many exchanges over open connections a new one is opened.
const CONNECT_AFTER: u32 = 16;

/// Other names, selectors and rules that come to the same for web and the database.
const ANOTHER_SET: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: everything-closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}
  policyTypes: [Egress]
  egress: [{ports: [{protocol: TCP, port: 5432}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-in, namespace: shop}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [db]}]}
  ingress: [{ports: [{protocol: TCP, port: 5432}]}]
";

/// A policy that closes one direction of one workload, and opens the other.
fn closed(direction: &str, app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: closed, \
         namespace: shop}}\nspec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: \
         [{direction}]}}\n"
    )
}

/// Ends the other thread's work, also when this one panics.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_whole_set_is_replaced_under_open_connections_and_new_ones() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Bridge, DB_FROM_WEB);
    let mut open: Vec<Conversation> = Family::BOTH
        .into_iter()
        .map(|family| {
            let to = scene.workload("shop/db").end.ip(family).expect("both");
            let web = scene.workload("shop/web");
            Conversation::tcp(web, to, PORT, PATIENCE).expect("allowed")
        })
        .collect();
    let stop = AtomicBool::new(false);
    let exchanges = std::thread::scope(|scope| {
        let talks = scope.spawn(|| {
            let mut exchanges = 0;
            while !stop.load(Ordering::Relaxed) {
                for conversation in &mut open {
                    let words = format!("exchange {exchanges};");
                    let answered = conversation.exchange(words.as_bytes(), PATIENCE);
                    answered.expect("allowed before and after");
                    exchanges += 1;
                }
                // Not after every exchange: a closed connection has its place in the flow
                // table for a while, and on a slow machine they would fill it.
                if exchanges % CONNECT_AFTER == 0 {
                    scene.assert_reaches("shop/web", "shop/db");
                }
            }
            exchanges
        });
        let stops = Stops(&stop);
        for round in 0..10 {
            let set = [ANOTHER_SET, DB_FROM_WEB][round % 2];
            scene.agent.document("policies.yaml", set);
            assert!(scene.agent.sync().enforced);
        }
        drop(stops);
        talks.join().expect("nothing was lost")
    });
    assert!(exchanges > CONNECT_AFTER, "{exchanges}");
    scene.agent.document("policies.yaml", ANOTHER_SET);
    assert!(scene.agent.sync().enforced);
    scene.assert_blocked("shop/db", "shop/web");
}

/// Each set closes the way by another direction; no packet finds both open, and a flood
/// of denied packets keeps nobody from changing policy: each of them is reported, and
/// an agent once read reports for as long as there were more.
#[test]
fn nothing_passes_between_two_sets_that_both_deny() {
    skip_unless!(Feature::NetworkNamespaces);
    let ingress_open = closed("Egress", "web");
    let egress_open = closed("Ingress", "db");
    let scene = Scene::enforced(Wiring::Ptp, &ingress_open);
    let [web, db] = ["shop/web", "shop/db"].map(|name| scene.workload(name));
    let arrivals = FrameSocket::open(&db.namespace, "eth0").expect("a socket");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let out = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
            let frame = udp()
                .from(web.end)
                .to(db.end)
                .dport(7)
                .payload(b"leaked")
                .via(web.gateway.mac)
                .bytes();
            while !stop.load(Ordering::Relaxed) {
                // A full queue is no leak.
                _ = out.send_bytes(&frame);
            }
        });
        let stops = Stops(&stop);
        for round in 0..10 {
            let set = [&egress_open, &ingress_open][round % 2];
            scene.agent.document("policies.yaml", set);
            assert!(scene.agent.sync().enforced);
        }
        drop(stops);
    });
    let leaked = arrivals.next(Duration::from_millis(50), carrying(b"leaked"));
    assert_eq!(leaked.expect("a capture"), None);
    // The same packet does arrive once neither closes its way.
    scene
        .agent
        .document("policies.yaml", &closed("Ingress", "web"));
    assert!(scene.agent.sync().enforced);
    let out = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
    let frame = udp().from(web.end).to(db.end).dport(7).payload(b"allowed");
    out.send(&frame.via(web.gateway.mac)).expect("sent");
    let arrived = arrivals.next(PATIENCE, carrying(b"allowed"));
    assert!(arrived.expect("a capture").is_some());
}

/// With a thousand remote workloads. `bench agent` has ten endpoints beside them, and
/// the time at rest.
#[test]
fn the_agent_is_small() {
    const MOST_KIB: u64 = 48 * 1024;
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let remote = (0..1_000).map(|i| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: r{i}, labels: \
             {{app: app{}, instance: i{i}}}}}\nspec: {{nodeName: n2}}\nstatus: {{podIPs: [{{ip: \
             10.200.{}.{}}}]}}\n",
            i % 20,
            i / 250,
            i % 250 + 1
        )
    });
    scene
        .agent
        .document("remote.yaml", &remote.collect::<String>());
    for _ in 0..5 {
        let report = scene.agent.sync();
        assert_eq!((report.enforced, report.rejected), (true, 0));
        assert!(report.accepted > 1_000, "{}", report.accepted);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.agent.pid()))
        .expect("the agent runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .expect("the kernel tells");
    assert!(kib <= MOST_KIB, "{kib} KiB");
}
