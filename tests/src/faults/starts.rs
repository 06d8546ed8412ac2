//! Workloads that come up with a process inside that sends before its interface is adopted.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::output::EndpointState;

use super::{SMALL, Stand, pause};
use crate::firewall::named;
use crate::packet::Family;
use crate::world::Workload;

/// Nothing may be sent by those that come up.
const EARLY_CLOSED: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: early-closed, namespace: shop}
spec:
  podSelector: {matchLabels: {app: early}}
  policyTypes: [Egress]
";
/// Port that they send to.
const PORT: u16 = 9999;
/// Time between two packets.
const BETWEEN_PACKETS: Duration = Duration::from_micros(200);
/// Time for which they send before they are adopted.
const BEFORE: Duration = Duration::from_millis(30);
/// Time for which they send afterwards.
const AFTER: Duration = Duration::from_millis(50);
/// Time in which a packet that has passed is seen.
const UNTIL_SEEN: Duration = Duration::from_millis(20);

/// Settings with the guard.
pub fn guarded() -> String {
    format!("{SMALL}guard: nftables\n")
}

/// Outcome of starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Workloads that came up.
    pub starts: u64,
    /// Packets that passed before the endpoint was added.
    pub before: u64,
    /// Packets that passed afterwards.
    pub after: u64,
    /// Longest time that adding one took.
    pub longest: Duration,
}

/// Sends datagrams from a workload's namespace until it is dropped.
struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(from: &Workload, to: IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let inside = from.namespace.enter().expect("a namespace");
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        drop(inside);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Refused while the neighbour is not known.
                _ = socket.send_to(b"early", (to, PORT));
                pause(BETWEEN_PACKETS);
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
            // It has nothing to say but that it panicked, which it has said by then.
            _ = thread.join();
        }
    }
}

/// Lets so many workloads come up, one after the other, and counts what they get through to
/// web in a family.
///
/// # Panics
///
/// Panics if one is not taken in.
pub fn starts(
    stand: &mut Stand,
    family: Family,
    number: u64,
    deadline: Option<Instant>,
) -> Started {
    let Stand { agent, world, .. } = stand;
    agent.document("early.yaml", EARLY_CLOSED);
    assert!(agent.sync().enforced);
    let web = named(world, "shop/web");
    let to = web.ip(family);
    let inside = web.namespace.enter().expect("a namespace");
    let socket = UdpSocket::bind((to, PORT)).expect("a socket");
    drop(inside);
    socket.set_read_timeout(Some(UNTIL_SEEN)).expect("a time");
    let (arrived, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut started = Started::default();
    thread::scope(|scope| {
        let stops = Stops(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut buffer = [0; 16];
                arrived.fetch_add(socket.recv(&mut buffer).is_ok().into(), Ordering::Relaxed);
            }
        });
        while started.starts < number && deadline.is_none_or(|end| Instant::now() < end) {
            let name = format!("shop/early{}", started.starts);
            world.add(name.clone()).expect("a workload");
            let early = named(world, &name);
            let before = arrived.load(Ordering::Relaxed);
            let sender = Sender::start(early, to);
            pause(BEFORE);
            let began = Instant::now();
            let report = agent.add(early, &["app=early"]);
            started.longest = started.longest.max(began.elapsed());
            assert_eq!(report.state, EndpointState::Enforced);
            // What is on its way arrives.
            pause(UNTIL_SEEN);
            let added = arrived.load(Ordering::Relaxed);
            pause(AFTER);
            drop(sender);
            let after = arrived.load(Ordering::Relaxed);
            started.starts += 1;
            started.before += added - before;
            started.after += after - added;
            agent.remove(&name);
            world.remove(&name).expect("it is there");
        }
        drop(stops);
    });
    started
}

/// Ends the thread that counts, also when something panics.
struct Stops<'s>(&'s AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
