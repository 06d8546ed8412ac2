//! Honest traffic under load: it must lose nothing.
//!
//! [`swaps`] replaces tables under flows that last, and [`growths`] lets flow tables grow;
//! [`short_flows`] opens more flows than there
//! is room for, each of which is over soon.
//!
//! Both ends are isolated in both directions, so that every answer passes by its flow alone.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cofferdam_dataplane::{Behaviour, Kernel};
use cofferdam_verdict::{capacity::Limits, flow::WAYS, verdict::Action};

use crate::{
    firewall::{Firewall, LIMITS, Pod, named},
    ledger::Moved,
    packet::Family,
    shop::{CLOSED, DB},
    traffic::{Conversation, Probe, Server},
    world::{Wiring, World},
};

/// Port of the questions.
const PORT: u16 = 53;
/// Port that answers, and that policy denies.
const DENIED_PORT: u16 = 54;
/// Time after which a denied question is asked again.
const SHORTLY: Duration = Duration::from_millis(5);
/// Port of the connections.
const TCP_PORT: u16 = 5432;
/// Conversations of each family.
const CONVERSATIONS: usize = 32;
/// Time after which an answer is lost; a loaded machine delays it for some milliseconds, and a
/// virtual one may stand still for a moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// A policy that comes and goes: with it every row, class and rule number is another.
const ANOTHER: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: another, namespace: shop}
spec:
  podSelector: {matchExpressions: [{key: app, operator: Exists}]}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: cache}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: cache}}}], ports: [{protocol: TCP, port: 80}]}]
";

/// Web and the database.
fn shop() -> io::Result<(World, [Pod; 2])> {
    let pods = [("shop/web", "app=web"), ("shop/db", "app=db")]
        .map(|(name, label)| Pod::new(name, &[label]));
    let names = pods.iter().map(|pod| pod.name.as_str());
    let world = World::plan(Wiring::Ptp).workloads(names).build();
    Ok((world.map_err(io::Error::other)?, pods))
}

/// Counts of a run of flows that last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lasted {
    /// Changes made meanwhile: tables published, or growths of flow tables.
    pub changes: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions without an answer.
    pub lost: u64,
    /// Questions that policy denies, and that were answered.
    pub leaked: u64,
}

/// Publishes that many tables, or as many as there is time for, while two threads ask and
/// are answered without a pause, each over its own conversations.
///
/// # Errors
///
/// Fails if sockets or namespaces cannot be made.
///
/// # Panics
///
/// Panics if the kernel refuses a table.
pub fn swaps(number: u64, deadline: Option<Instant>) -> io::Result<Lasted> {
    lasting(&mut Firewall::turn(), |firewall| {
        let tables = [[CLOSED, DB, ANOTHER].concat(), [CLOSED, DB].concat()];
        let mut swaps = 0;
        while swaps < number && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            firewall.replace_policies(&tables[swaps as usize % 2]);
            swaps += 1;
        }
        swaps
    })
}

/// Lets the flow tables of both ends grow to 32 times their size, by doubling, under the same
/// questions.
///
/// # Errors
///
/// As for [`swaps`].
///
/// # Panics
///
/// Panics if the kernel refuses a table.
pub fn growths() -> io::Result<Lasted> {
    let limits = Limits {
        flows_per_endpoint: 32 * Limits::DEFAULT.chunk_sets() * WAYS as u32 / 2,
        ..LIMITS
    };
    let kernel = Kernel::load(limits, &Behaviour::default());
    let mut firewall = Firewall::over(kernel.unwrap_or_else(|error| panic!("{error}")));
    lasting(&mut firewall, |firewall| {
        let mut keeper = firewall.kernel().flow_keeper().expect("memory");
        let mut growths = 0;
        for _ in 0..5 {
            keeper.grow_all(2).expect("memory");
            growths += 2;
        }
        growths
    })
}

/// Does something while two threads ask and are answered without a pause, each over its own
/// conversations, and a third asks what is denied.
fn lasting(
    firewall: &mut Firewall,
    change: impl FnOnce(&mut Firewall) -> u64,
) -> io::Result<Lasted> {
    let (world, pods) = shop()?;
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let _server = Server::start(db, &[Probe::Udp(PORT), Probe::Udp(DENIED_PORT)])?;
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    firewall.attach(&world);
    let mut talks = Vec::new();
    for family in Family::BOTH {
        let address = db.ip(family);
        let talk = || Conversation::udp(web, address, PORT);
        talks.push(
            (0..CONVERSATIONS)
                .map(|_| talk())
                .collect::<io::Result<Vec<_>>>()?,
        );
    }
    let denied = || Conversation::udp(web, db.ip(Family::V4), DENIED_PORT);
    let stop = AtomicBool::new(false);
    let [answered, lost, leaked] = [0, 0, 0].map(AtomicU64::new);
    let mut changes = 0;
    thread::scope(|scope| {
        for mut talks in talks {
            let (stop, answered, lost) = (&stop, &answered, &lost);
            scope.spawn(move || {
                let mut turn = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for talk in &mut talks {
                        turn += 1;
                        let words = format!("question {turn};");
                        match talk.exchange(words.as_bytes(), PATIENCE) {
                            Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
                            Err(_) => lost.fetch_add(1, Ordering::Relaxed),
                        };
                    }
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let asked = denied().and_then(|mut talk| talk.exchange(b"denied;", SHORTLY));
                leaked.fetch_add(asked.is_ok().into(), Ordering::Relaxed);
            }
        });
        changes = change(firewall);
        stop.store(true, Ordering::Relaxed);
    });
    firewall.ledger().assert_conserved();
    // Before the interfaces go.
    firewall.clear();
    Ok(Lasted {
        changes,
        answered: answered.into_inner(),
        lost: lost.into_inner(),
        leaked: leaked.into_inner(),
    })
}

/// Questions and connections of [`short_flows`] that a second should bring.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Datagrams, each from another port.
    pub questions: u64,
    /// TCP connections, on which one line is sent and comes back.
    pub connections: u64,
}

/// Lets flow tables grow as they fill, on a thread of its own, as the agent does.
pub(crate) struct Keeping {
    /// `None` only while it is dropped: the thread ends when this has gone.
    until: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeping {
    /// Time between two looks, as of the agent.
    const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

    /// Starts it.
    pub(crate) fn start(firewall: &mut Firewall) -> Self {
        let mut keeper = firewall.kernel().flow_keeper().expect("memory");
        let (until, over) = mpsc::channel();
        let looks = move || {
            while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(Self::BETWEEN_LOOKS) {
                keeper.look().expect("memory");
            }
        };
        Self {
            until: Some(until),
            thread: Some(thread::spawn(looks)),
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.until = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but that it panicked, which it has said by then.
            _ = thread.join();
        }
    }
}

/// State of the node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attendance {
    /// It runs, and lets flow tables grow.
    Attended,
    /// It is dead: flow tables stay as they are.
    Unattended,
}

/// Outcome of [`short_flows`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Questions asked.
    pub questions: u64,
    /// Questions without an answer.
    pub unanswered: u64,
    /// Longest time that an answer took: while a machine stands still, flows that wait for
    /// nothing come and go on its other processors.
    pub slowest: Duration,
    /// Connections begun.
    pub connections: u64,
    /// Connections that did not come about, or did not bring their line back.
    pub failed: u64,
    /// Packets that the firewall dropped, by hook and reason.
    pub dropped: Vec<Moved>,
}

/// Threads that connect: one alone waits for answers most of the time.
const CONNECTING: u64 = 3;

/// Opens that many short flows a second, or as many as the machine can, for some time, with the
/// room for flows that an endpoint has by default; without an agent, with what it has at first.
///
/// # Errors
///
/// Fails if sockets or namespaces cannot be made.
///
/// # Panics
///
/// Panics if the kernel refuses the programs or the table.
pub fn short_flows(rates: Rates, attendance: Attendance, long: Duration) -> io::Result<Served> {
    let (world, pods) = shop()?;
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    // A client that opens 5 000 connections a second to one port needs its ports again soon.
    for (parameter, value) in [
        ("net/ipv4/ip_local_port_range", "1024 65535"),
        ("net/ipv4/tcp_tw_reuse", "1"),
    ] {
        let set = web.namespace.set(parameter, value);
        set.map_err(io::Error::other)?;
    }
    let _server = Server::start(db, &[Probe::Udp(PORT), Probe::Tcp(TCP_PORT)])?;
    let limits = Limits {
        flows_per_endpoint: Limits::DEFAULT.flows_per_endpoint,
        ..LIMITS
    };
    let kernel = Kernel::load(limits, &Behaviour::default());
    let mut firewall = Firewall::over(kernel.unwrap_or_else(|error| panic!("{error}")));
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    firewall.attach(&world);
    let _keeping = match attendance {
        Attendance::Attended => Some(Keeping::start(&mut firewall)),
        Attendance::Unattended => None,
    };
    let before = firewall.ledger();
    let address = db.ip(Family::V4);
    let slowest = AtomicU64::new(0);
    let ask = || {
        let mut talk = Conversation::udp(web, address, PORT)?;
        let began = Instant::now();
        talk.exchange(b"question;", PATIENCE)?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        slowest.fetch_max(took, Ordering::Relaxed);
        Ok(())
    };
    let connect = || {
        let mut talk = Conversation::tcp(web, address, TCP_PORT, PATIENCE)?;
        talk.exchange(b"a line;", PATIENCE)
    };
    let [asked, unanswered, connected, failed] = [0; 4].map(AtomicU64::new);
    let end = Instant::now() + long;
    thread::scope(|scope| {
        scope.spawn(|| at_rate(rates.questions, end, ask, &asked, &unanswered));
        for _ in 0..CONNECTING {
            let rate = rates.connections.div_ceil(CONNECTING);
            let (connected, failed) = (&connected, &failed);
            scope.spawn(move || at_rate(rate, end, connect, connected, failed));
        }
    });
    let ledger = firewall.ledger();
    ledger.assert_conserved();
    let mut dropped = ledger.since(&before);
    dropped.retain(|moved| moved.action == Action::Deny);
    Ok(Served {
        dropped,
        questions: asked.into_inner(),
        unanswered: unanswered.into_inner(),
        slowest: Duration::from_micros(slowest.into_inner()),
        connections: connected.into_inner(),
        failed: failed.into_inner(),
    })
}

/// Does something that often a second until the end, and counts how often it was done, and how
/// often it failed.
#[expect(
    clippy::disallowed_methods,
    reason = "the pace of the traffic; nothing is waited for"
)]
fn at_rate(
    per_second: u64,
    end: Instant,
    work: impl Fn() -> io::Result<()>,
    done: &AtomicU64,
    failed: &AtomicU64,
) {
    let pause = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
    let mut next = Instant::now();
    while next < end && Instant::now() < end {
        if work().is_err() {
            failed.fetch_add(1, Ordering::Relaxed);
        }
        done.fetch_add(1, Ordering::Relaxed);
        next += pause;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
