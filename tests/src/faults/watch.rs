//! Traffic beside a fault: what is denied stays denied, and what is allowed goes on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{PORT, pause};
use crate::firewall::named;
use crate::packet::{Family, udp};
use crate::traffic::{Conversation, FrameSocket, carrying};
use crate::world::World;

/// Time after which an answer is lost, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two denied packets of a sender.
const BETWEEN_DENIED: Duration = Duration::from_micros(250);
/// Time between two questions over each lasting connection.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(2);
/// So many rounds of questions from one new connection to the next.
const ROUNDS: u64 = 10;
/// Time in which a packet that has passed is seen.
const UNTIL_SEEN: Duration = Duration::from_millis(20);
/// Payload of the denied packets.
const DENIED: &[u8] = b"this is denied";

/// Denied packets that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaks {
    /// Their number.
    pub packets: u64,
    between: Option<[Instant; 2]>,
}

impl Leaks {
    /// Time from the first to the last.
    pub fn window(&self) -> Duration {
        self.between
            .map_or(Duration::ZERO, |[first, last]| last - first)
    }

    fn add(&mut self) {
        let now = Instant::now();
        self.packets += 1;
        self.between = Some([self.between.map_or(now, |[first, _]| first), now]);
    }
}

/// Outcome of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Denied packets that were sent.
    pub denied: u64,
    /// Denied packets that arrived, and were not taken by [`Watch::take_leaks`].
    pub leaked: u64,
    /// Questions that were answered over lasting connections.
    pub answered: u64,
    /// Lasting connections that broke.
    pub broken: u64,
    /// New connections that came about.
    pub connected: u64,
    /// New connections that did not.
    pub lost: u64,
}

impl Seen {
    /// Panics unless nothing leaked, broke or was lost, and enough was tried to say so.
    ///
    /// # Panics
    ///
    /// As it says.
    #[track_caller]
    pub fn assert_undisturbed(&self) {
        assert_eq!((self.leaked, self.broken, self.lost), (0, 0, 0), "{self:?}");
        assert!(self.denied > 0 && self.answered > 0 && self.connected > 0);
    }
}

/// Traffic that goes on.
#[derive(Debug, Default)]
pub struct Watch {
    stop: AtomicBool,
    denied: AtomicU64,
    answered: AtomicU64,
    broken: AtomicU64,
    connected: AtomicU64,
    lost: AtomicU64,
    leaks: Mutex<Leaks>,
}

impl Watch {
    /// Takes what has leaked since it was last taken, and what is on its way.
    ///
    /// # Panics
    ///
    /// Panics if the thread that counts has.
    pub fn take_leaks(&self) -> Leaks {
        pause(UNTIL_SEEN);
        std::mem::take(&mut self.leaks.lock().expect("counted"))
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Sends what is denied from a workload to the database, in both families.
    fn send_denied(&self, world: &World, from: &str) {
        let [from, db] = [from, "shop/db"].map(|name| named(world, name));
        let out = FrameSocket::open(&from.namespace, "eth0").expect("a socket");
        let frames = Family::BOTH.map(|family| {
            let packet = udp().family(family).from(from.end).to(db.end).dport(7);
            packet.payload(DENIED).via(from.gateway.mac).bytes()
        });
        while self.goes_on() {
            for frame in &frames {
                // A full queue is no leak.
                let sent = out.send_bytes(frame).is_ok();
                self.denied.fetch_add(sent.into(), Ordering::Relaxed);
            }
            pause(BETWEEN_DENIED);
        }
    }

    fn see(&self, arrivals: &FrameSocket) {
        while self.goes_on() {
            let frame = arrivals.next(UNTIL_SEEN, carrying(DENIED));
            if frame.expect("a capture").is_some() {
                self.leaks.lock().expect("counted").add();
            }
        }
    }

    fn talk(&self, world: &World, family: Family) {
        let [web, db] = ["shop/web", "shop/db"].map(|name| named(world, name));
        let connect = || Conversation::tcp(web, db.ip(family), PORT, PATIENCE);
        let mut lasting = connect().expect("it is allowed");
        let mut round = 0_u64;
        while self.goes_on() {
            round += 1;
            let words = format!("question {round};");
            if lasting.exchange(words.as_bytes(), PATIENCE).is_ok() {
                self.answered.fetch_add(1, Ordering::Relaxed);
            } else {
                self.broken.fetch_add(1, Ordering::Relaxed);
                match connect() {
                    Ok(next) => lasting = next,
                    Err(_) => _ = self.lost.fetch_add(1, Ordering::Relaxed),
                }
            }
            if round.is_multiple_of(ROUNDS) {
                let connected = connect().and_then(|mut one| one.exchange(b"new;", PATIENCE));
                let count = match connected {
                    Ok(()) => &self.connected,
                    Err(_) => &self.lost,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
            pause(BETWEEN_QUESTIONS);
        }
    }
}

/// Ends the traffic, also when the work panics: its threads would never end.
struct Stops<'w>(&'w Watch);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Does something while web and the database talk, and while web and the stranger send the
/// database what it must not get.
///
/// The agent's process may be started by `work`: that stays on the calling thread.
///
/// # Panics
///
/// Panics if sockets cannot be opened, or nobody may talk at the beginning.
pub fn during<T>(world: &World, work: impl FnOnce(&Watch) -> T) -> (Seen, T) {
    let watch = Watch::default();
    let db = named(world, "shop/db");
    let arrivals = FrameSocket::open(&db.namespace, "eth0").expect("a socket");
    let done = std::thread::scope(|scope| {
        let stops = Stops(&watch);
        scope.spawn(|| watch.see(&arrivals));
        for from in ["shop/web", "shop/stranger"] {
            let watch = &watch;
            scope.spawn(move || watch.send_denied(world, from));
        }
        for family in Family::BOTH {
            let watch = &watch;
            scope.spawn(move || watch.talk(world, family));
        }
        let done = work(&watch);
        pause(UNTIL_SEEN);
        drop(stops);
        done
    });
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let seen = Seen {
        denied: read(&watch.denied),
        leaked: watch.take_leaks().packets,
        answered: read(&watch.answered),
        broken: read(&watch.broken),
        connected: read(&watch.connected),
        lost: read(&watch.lost),
    };
    (seen, done)
}
