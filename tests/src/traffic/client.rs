//! Probes: one attempt each, many at once on one thread.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Outcome, Place, Probe, entering, not_yet, sctp, wait};
use crate::packet::{Family, chunk, ping};

/// Words of a client. Any bytes will do; these can be found in a capture.
const GREETING: &[u8] = b"who is there?";

/// Tries once to reach a destination, and says what became of it after
/// `timeout` at the latest.
///
/// An error is one of the test's making, such as no more descriptors; whatever
/// the network says is an [`Outcome`].
pub fn probe<'w>(
    source: impl Into<Place<'w>>,
    destination: IpAddr,
    probe: Probe,
    timeout: Duration,
) -> io::Result<Outcome> {
    let attempt = Attempt::start(source.into(), destination, probe, timeout)?;
    let outcomes = settle(vec![attempt])?;
    Ok(outcomes
        .into_iter()
        .next()
        .expect("one attempt has one outcome"))
}

/// A probe under way.
pub(super) struct Attempt {
    socket: Socket,
    destination: IpAddr,
    state: State,
    deadline: Instant,
}

enum State {
    /// TCP: the handshake is under way.
    Connecting,
    /// TCP: connected, this much of the name has come.
    Listening(Vec<u8>),
    /// UDP and ping: sent.
    Asked(Probe),
    /// SCTP: sent with this source port, which is also the tag.
    Initiated {
        port: u16,
        own_port: u16,
        refused: bool,
    },
    Settled(Outcome),
}

impl Attempt {
    /// Opens the socket in the source's namespace and sends.
    pub(super) fn start(
        source: Place<'_>,
        destination: IpAddr,
        probe: Probe,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = {
            let _inside = source.namespace.enter().map_err(entering)?;
            open(probe, Family::of(destination))?
        };
        let state = match send(&socket, probe, destination) {
            Ok(state) => state,
            Err(error) => State::Settled(Outcome::of(&error)),
        };
        Ok(Self {
            socket,
            destination,
            state,
            deadline: Instant::now() + timeout,
        })
    }

    /// Returns the event that it waits for; nothing once it is settled.
    fn waits_for(&self) -> Option<PollFlags> {
        match self.state {
            State::Settled(_) => None,
            State::Connecting => Some(PollFlags::POLLOUT),
            _ => Some(PollFlags::POLLIN),
        }
    }

    /// Takes what has come.
    fn advance(&mut self) {
        match self.advanced() {
            Ok(()) => {}
            Err(error) if not_yet(&error) => {}
            Err(error) => self.state = State::Settled(Outcome::of(&error)),
        }
    }

    fn advanced(&mut self) -> io::Result<()> {
        let mut buffer = [0; 2048];
        match &mut self.state {
            State::Settled(_) => {}
            State::Connecting => {
                if let Some(error) = self.socket.take_error()? {
                    return Err(error);
                }
                self.state = State::Listening(Vec::new());
            }
            State::Listening(name) => {
                let length = self.socket.read(&mut buffer)?;
                name.extend(&buffer[..length]);
                if let Some(name) = first_line(name) {
                    self.state = State::Settled(Outcome::Reached(name));
                } else if length == 0 {
                    self.state = State::Settled(Outcome::Refused);
                }
            }
            State::Asked(Probe::Ping) => {
                let length = self.socket.read(&mut buffer)?;
                // An echo reply of either family; the kernel compares the rest.
                if let Some(0 | 129) = buffer[..length].first() {
                    self.state = State::Settled(Outcome::Reached(self.destination.to_string()));
                }
            }
            State::Asked(_) => {
                let length = self.socket.read(&mut buffer)?;
                let name = first_line(&buffer[..length]).unwrap_or_default();
                self.state = State::Settled(Outcome::Reached(name));
            }
            State::Initiated {
                port,
                own_port,
                refused,
            } => {
                let family = Family::of(self.destination);
                let Some(answer) = sctp::receive(&self.socket, family)? else {
                    return Ok(());
                };
                let ours = answer.source_port == *port
                    && answer.destination_port == *own_port
                    && answer.verification_tag == u32::from(*own_port);
                match answer.chunk {
                    chunk::INIT_ACK if ours => {
                        let name = String::from_utf8_lossy(&answer.cookie).into_owned();
                        self.state = State::Settled(Outcome::Reached(name));
                    }
                    // Perhaps only the kernel's word; the server's may follow.
                    chunk::ABORT if ours => *refused = true,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Ends it for want of an answer.
    fn give_up(&mut self) {
        let outcome = match self.state {
            State::Initiated { refused: true, .. } => Outcome::Refused,
            _ => Outcome::Blocked,
        };
        self.state = State::Settled(outcome);
    }
}

/// Waits for all attempts, each until its own deadline.
pub(super) fn settle(mut attempts: Vec<Attempt>) -> io::Result<Vec<Outcome>> {
    loop {
        let now = Instant::now();
        for attempt in &mut attempts {
            if attempt.waits_for().is_some() && attempt.deadline <= now {
                // An answer may have come since the last look.
                attempt.advance();
                if attempt.waits_for().is_some() {
                    attempt.give_up();
                }
            }
        }
        let open: Vec<usize> = (0..attempts.len())
            .filter(|&at| attempts[at].waits_for().is_some())
            .collect();
        let Some(deadline) = open.iter().map(|&at| attempts[at].deadline).min() else {
            break;
        };
        let wanted: Vec<_> = open
            .iter()
            .filter_map(|&at| Some((attempts[at].socket.as_fd(), attempts[at].waits_for()?)))
            .collect();
        let ready = wait(&wanted, Some(deadline))?;
        for (at, _) in open.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            attempts[at].advance();
        }
    }
    let outcome = |attempt: Attempt| match attempt.state {
        State::Settled(outcome) => outcome,
        _ => unreachable!("the loop ends when all attempts are settled"),
    };
    Ok(attempts.into_iter().map(outcome).collect())
}

/// The text before the first line feed.
fn first_line(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// A socket in the namespace the thread is in.
fn open(probe: Probe, family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = match (probe, family) {
        (Probe::Tcp(_), _) => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
        (Probe::Udp(_), _) => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
        (Probe::Sctp(_), _) => sctp::socket(family)?,
        (Probe::Ping, Family::V4) => Socket::new(domain, Type::DGRAM, Some(Protocol::ICMPV4))?,
        (Probe::Ping, Family::V6) => Socket::new(domain, Type::DGRAM, Some(Protocol::ICMPV6))?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send(socket: &Socket, probe: Probe, destination: IpAddr) -> io::Result<State> {
    match probe {
        Probe::Tcp(port) => match socket.connect(&SocketAddr::new(destination, port).into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(State::Connecting),
        },
        Probe::Udp(port) => {
            socket.connect(&SocketAddr::new(destination, port).into())?;
            socket.send(GREETING)?;
            Ok(State::Asked(probe))
        }
        Probe::Sctp(port) => {
            // Raw sockets have no ports of their own to tell answers by.
            static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
            let own_port = 32768 + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 28000;
            socket.connect(&sctp::raw_address(destination))?;
            socket.send(&sctp::init(own_port, port, u32::from(own_port)))?;
            Ok(State::Initiated {
                port,
                own_port,
                refused: false,
            })
        }
        Probe::Ping => {
            let request = ping(Family::of(destination)).payload(GREETING);
            let to: SockAddr = SocketAddr::new(destination, 0).into();
            socket.connect(&to)?;
            // The kernel writes the identifier and the checksum.
            socket.send(&request.transport_bytes())?;
            Ok(State::Asked(probe))
        }
    }
}
