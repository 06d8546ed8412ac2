//! A flood of connection requests from senders that do not exist.
//!
//! Policy allows them: the port is open to everybody, the server answers each, and nobody
//! acknowledges the answers. Meanwhile flows that last must lose nothing, and who really
//! connects must get through.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cofferdam_dataplane::{Behaviour, Kernel};
use cofferdam_verdict::{capacity::Limits, verdict::Action};
use fastrand::Rng;

use crate::{
    firewall::{Firewall, LIMITS, Pod, named},
    ledger::Moved,
    load::Keeping,
    packet::{End, Family, tcp},
    shop::CLOSED,
    traffic::{Conversation, FrameSocket, Place, Probe, Server},
    world::{Wiring, World},
};

/// Port of the connections, open to everybody.
const PORT: u16 = 5432;
/// Port of the questions.
const QUESTIONS: u16 = 53;
/// Flows of each kind that last.
const LASTING: usize = 8;
/// Time after which an answer is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time in which a client connects that repeats its SYN once: Linux repeats it after 1 s,
/// and again 2 s later.
const ONE_REPETITION: Duration = Duration::from_millis(2_900);
/// Time between two clients of one place: the flood is to have the processor.
const BETWEEN_CLIENTS: Duration = Duration::from_millis(20);
/// Requests that are made before the flood begins, and sent again and again: eight times as
/// many as an endpoint has room for.
const REQUESTS: usize = 1 << 16;
/// Requests that are sent without a look at the clock.
const BURST: usize = 32;

/// The database takes connections of everybody, and questions of web.
const DB_OPEN: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - ports: [{protocol: TCP, port: 5432}]
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: UDP, port: 53}]
";

/// Result of a flood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flooded {
    /// Requests sent.
    pub requests: u64,
    /// Time in which they were.
    pub took: Duration,
    /// Exchanges over flows that lasted.
    pub exchanges: u64,
    /// Exchanges that were not completed.
    pub lost: u64,
    /// Clients that connected, or tried to.
    pub clients: u64,
    /// Clients that one repetition of their request did not suffice for.
    pub refused: u64,
    /// The longest time that a client waited for its connection.
    pub slowest: Duration,
    /// Packets that the firewall dropped, by hook and reason.
    pub dropped: Vec<Moved>,
}

/// Sends that many requests a second, or as many as the machine can, for some time, to an
/// endpoint with the room for flows that it has by default.
///
/// # Errors
///
/// Fails if sockets or namespaces cannot be made.
///
/// # Panics
///
/// Panics if the kernel refuses the programs or the table.
pub fn flood(per_second: u64, long: Duration, seed: u64) -> io::Result<Flooded> {
    let pods = [("shop/web", "app=web"), ("shop/db", "app=db")]
        .map(|(name, label)| Pod::new(name, &[label]));
    let names = pods.iter().map(|pod| pod.name.as_str());
    let world = World::plan(Wiring::Ptp)
        .workloads(names)
        .outside()
        .build()
        .map_err(io::Error::other)?;
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let outside = world.outside();
    let limits = Limits {
        flows_per_endpoint: Limits::DEFAULT.flows_per_endpoint,
        ..LIMITS
    };
    let kernel = Kernel::load(limits, &Behaviour::default());
    let mut firewall = Firewall::over(kernel.unwrap_or_else(|error| panic!("{error}")));
    firewall.enforce(&world, &pods, &[CLOSED, DB_OPEN].concat());
    firewall.attach(&world);
    let _keeping = Keeping::start(&mut firewall);
    let _server = Server::start(db, &[Probe::Udp(QUESTIONS), Probe::Tcp(PORT)])?;

    let mut lasting = Vec::new();
    for family in Family::BOTH {
        let address = db.ip(family);
        for _ in 0..LASTING {
            lasting.push(Conversation::udp(web, address, QUESTIONS)?);
            lasting.push(Conversation::tcp(web, address, PORT, PATIENCE)?);
            lasting.push(Conversation::tcp(outside, address, PORT, PATIENCE)?);
        }
    }
    // Established once the opener has sent again.
    for turn in 0..2 {
        for talk in &mut lasting {
            talk.exchange(format!("before {turn};").as_bytes(), PATIENCE)?;
        }
    }
    let requests = requests(outside.end, db.end.with_mac(outside.gateway.mac), seed);
    let socket = FrameSocket::open(&outside.namespace, outside.interface)?;
    let before = firewall.ledger();

    let over = AtomicBool::new(false);
    let [exchanges, lost, clients, refused] = [0; 4].map(AtomicU64::new);
    let slowest = Mutex::new(Duration::ZERO);
    let is_over = || over.load(Ordering::Relaxed);
    let (sent, took) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0_u64;
            while !is_over() {
                for talk in &mut lasting {
                    turn += 1;
                    let words = format!("question {turn};");
                    let done = talk.exchange(words.as_bytes(), PATIENCE);
                    lost.fetch_add(u64::from(done.is_err()), Ordering::Relaxed);
                    exchanges.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for place in [Place::from(web), Place::from(outside)] {
            let (is_over, clients, refused, slowest) = (&is_over, &clients, &refused, &slowest);
            scope.spawn(move || {
                while !is_over() {
                    for family in Family::BOTH {
                        pause();
                        let began = Instant::now();
                        let address = db.ip(family);
                        let talk = Conversation::tcp(place, address, PORT, ONE_REPETITION);
                        let mut slowest = slowest.lock().unwrap_or_else(PoisonError::into_inner);
                        *slowest = began.elapsed().max(*slowest);
                        refused.fetch_add(u64::from(talk.is_err()), Ordering::Relaxed);
                        clients.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let done = send_at_pace(&socket, &requests, per_second, long);
        over.store(true, Ordering::Relaxed);
        done
    })?;
    let ledger = firewall.ledger();
    ledger.assert_conserved();
    let mut dropped = ledger.since(&before);
    dropped.retain(|moved| moved.action == Action::Deny);
    Ok(Flooded {
        requests: sent,
        took,
        exchanges: exchanges.into_inner(),
        lost: lost.into_inner(),
        clients: clients.into_inner(),
        refused: refused.into_inner(),
        slowest: slowest.into_inner().unwrap_or_else(PoisonError::into_inner),
        dropped,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pace of the clients; nothing is waited for"
)]
fn pause() {
    thread::sleep(BETWEEN_CLIENTS);
}

/// Frames that ask for connections, of both families, from anybody behind a host.
fn requests(host: End, to: End, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::with_seed(seed);
    let mut request = |number: usize| {
        let family = Family::BOTH[number % 2];
        let from: IpAddr = match family {
            Family::V4 => Ipv4Addr::from(0x6440_0000 | rng.u32(..1 << 22)).into(),
            Family::V6 => Ipv6Addr::from(0x2001_0db8_u128 << 96 | rng.u128(..1 << 64)).into(),
        };
        let request = tcp()
            .family(family)
            .from(host)
            .to(to)
            .source_ip(from)
            .sport(rng.u16(1024..))
            .dport(PORT);
        request.seq(rng.u32(..)).syn().bytes()
    };
    (0..REQUESTS).map(&mut request).collect()
}

/// Sends frames at a pace, again from the first when there are no more, and returns how many
/// they were and how long it took.
///
/// # Errors
///
/// Fails if the socket does for another reason than that there is no room.
pub fn send_at_pace(
    socket: &FrameSocket,
    frames: &[Vec<u8>],
    per_second: u64,
    long: Duration,
) -> io::Result<(u64, Duration)> {
    let began = Instant::now();
    let mut sent = 0_u64;
    for burst in frames.chunks(BURST).cycle() {
        let elapsed = began.elapsed();
        if elapsed >= long {
            break;
        }
        if elapsed.as_secs_f64() * per_second as f64 <= sent as f64 {
            thread::yield_now();
            continue;
        }
        for frame in burst {
            match socket.send_bytes(frame) {
                Ok(()) => sent += 1,
                // The interface takes no more for the moment.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok((sent, began.elapsed()))
}
