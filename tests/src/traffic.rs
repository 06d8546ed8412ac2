//! Real traffic between the namespaces of a world, and frames of any shape.
//!
//! [`Server`]s answer with the name of the workload they run in, so that
//! [`probe`] shows who was reached and not only that somebody was; [`Matrix`]
//! probes all pairs at once; a [`Conversation`] keeps one flow alive across
//! whatever a test does meanwhile; a [`FrameSocket`] sends and sees frames that
//! no stack would make.
//!
//! A socket belongs to the namespace it was opened in, wherever its thread goes
//! afterwards: clients enter a namespace for the moment of opening, and one
//! thread then waits for all of them.
//!
//! Invariants:
//!
//! - Every wait has a deadline; nothing waits by sleeping.
//! - A probe sends once. What arrives late or never is [`Outcome::Blocked`], not
//!   tried again until it fits.
//! - Nothing is sent in the namespace the tests run in.

mod client;
mod conversation;
mod frames;
mod matrix;
mod sctp;
mod server;
mod unfinished;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use client::probe;
pub use conversation::Conversation;
pub use frames::{FrameSocket, carrying};
pub use matrix::{Cell, Matrix, Table};
pub use server::Server;
pub use unfinished::{SEGMENTS_TCP_V4, SEGMENTS_TCP_V6, Unfinished, UnfinishedSocket};

use crate::packet::{End, Family};
use crate::world::{Namespace, Node, Outside, Workload};

/// Place at which traffic starts or ends: a namespace, its name and its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Place<'w> {
    /// Name with which a server there answers.
    pub name: &'w str,
    /// Namespace in which its sockets are opened.
    pub namespace: &'w Namespace,
    /// Its addresses.
    pub end: End,
}

impl Place<'_> {
    /// Its address in a family.
    ///
    /// # Panics
    ///
    /// Panics if it has none.
    pub fn ip(&self, family: Family) -> IpAddr {
        let ip = self.end.ip(family);
        ip.unwrap_or_else(|| panic!("{} has no {family} address", self.name))
    }
}

impl<'w> From<&'w Workload> for Place<'w> {
    fn from(workload: &'w Workload) -> Self {
        Self {
            name: &workload.name,
            namespace: &workload.namespace,
            end: workload.end,
        }
    }
}

impl<'w> From<&'w Outside> for Place<'w> {
    fn from(outside: &'w Outside) -> Self {
        Self {
            name: "outside",
            namespace: &outside.namespace,
            end: outside.end,
        }
    }
}

impl<'w> From<&'w Node> for Place<'w> {
    fn from(node: &'w Node) -> Self {
        Self {
            name: "node",
            namespace: &node.namespace,
            end: node.end,
        }
    }
}

/// Kind of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Probe {
    /// A connection, which the server greets with its name.
    Tcp(u16),
    /// A datagram, which the server sends back behind its name.
    Udp(u16),
    /// An INIT, to which the server answers an INIT ACK with its name as the
    /// state cookie. Raw sockets on both sides: few kernels have SCTP.
    Sctp(u16),
    /// An echo request, which the kernel answers.
    Ping,
}

/// Writes who tries to reach whom, and in which way.
pub(crate) fn write_attempt(
    f: &mut fmt::Formatter<'_>,
    [source, destination]: [&dyn fmt::Display; 2],
    probe: Probe,
    family: Family,
) -> fmt::Result {
    write!(f, "{source} > {destination} {probe} {family}")
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Sctp(port) => write!(f, "sctp/{port}"),
            Self::Ping => write!(f, "ping"),
        }
    }
}

/// Outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server of this name answered. A ping names nobody: it has the
    /// address that answered.
    Reached(String),
    /// The other end refused: nobody listens there.
    Refused,
    /// The sender's own stack, or a router, said that there is no way.
    Unreachable(io::ErrorKind),
    /// Nothing came back in time.
    Blocked,
}

impl Outcome {
    /// Returns `true` if a server of any name answered.
    pub fn is_reached(&self) -> bool {
        matches!(self, Self::Reached(_))
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut => Self::Blocked,
            // How a raw socket hears of "protocol unreachable".
            _ if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Self::Refused,
            kind => Self::Unreachable(kind),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached(name) => write!(f, "reached {name}"),
            Self::Refused => f.write_str("refused"),
            Self::Unreachable(kind) => write!(f, "unreachable: {kind}"),
            Self::Blocked => f.write_str("blocked"),
        }
    }
}

/// Waits until one of the descriptors is ready or the deadline has passed, and
/// says of each whether it is.
fn wait(
    wanted: &[(BorrowedFd<'_>, PollFlags)],
    deadline: Option<Instant>,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = wanted
        .iter()
        .map(|(fd, flags)| PollFd::new(*fd, *flags))
        .collect();
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                // Rounded up, else the last millisecond is spent in a loop.
                let left = deadline.saturating_duration_since(Instant::now());
                let left = left + Duration::from_micros(999);
                PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut polled, timeout) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(polled.iter().map(|one| one.any().unwrap_or(true)).collect())
}

/// Returns `true` if an error only says "not yet".
fn not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// An error of opening a namespace's sockets, as an error of the socket.
fn entering(error: crate::world::Error) -> io::Error {
    io::Error::other(error)
}
