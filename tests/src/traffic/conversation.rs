//! One flow that lasts.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Place, entering, not_yet, wait};
use crate::packet::Family;

/// A TCP connection or a pair of UDP ports that a test talks to a
/// [`Server`](super::Server) over, again and again.
#[derive(Debug)]
pub struct Conversation {
    socket: Socket,
    /// Bytes that have come and belong to no exchange yet.
    heard: Vec<u8>,
}

impl Conversation {
    /// Connects; fails like a connection fails, with
    /// [`TimedOut`](io::ErrorKind::TimedOut) when nothing came back in time.
    pub fn tcp<'w>(
        source: impl Into<Place<'w>>,
        destination: IpAddr,
        port: u16,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = open(source.into(), destination, Type::STREAM, Protocol::TCP)?;
        socket.connect_timeout(&SocketAddr::new(destination, port).into(), timeout)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            heard: Vec::new(),
        })
    }

    /// Makes ready to talk from one port to one port; nothing is sent yet.
    pub fn udp<'w>(
        source: impl Into<Place<'w>>,
        destination: IpAddr,
        port: u16,
    ) -> io::Result<Self> {
        let socket = open(source.into(), destination, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&SocketAddr::new(destination, port).into())?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            heard: Vec::new(),
        })
    }

    /// Says something and waits until it has come back;
    /// [`TimedOut`](io::ErrorKind::TimedOut) when it has not in time.
    ///
    /// Words must differ each time: an echo that comes late must not pass for the next one.
    pub fn exchange(&mut self, words: &[u8], timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let mut unsaid = words;
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(at) = self
                .heard
                .windows(words.len())
                .position(|heard| heard == words)
            {
                self.heard.drain(..at + words.len());
                return Ok(());
            }
            let mut flags = PollFlags::POLLIN;
            if !unsaid.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            wait(&[(self.socket.as_fd(), flags)], Some(deadline))?;
            if !unsaid.is_empty() {
                match self.socket.write(unsaid) {
                    Ok(length) => unsaid = &unsaid[length..],
                    Err(error) if not_yet(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.heard.extend(&buffer[..length]),
                Err(error) if not_yet(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The address and port it talks from.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

fn open(
    source: Place<'_>,
    destination: IpAddr,
    kind: Type,
    protocol: Protocol,
) -> io::Result<Socket> {
    let _inside = source.namespace.enter().map_err(entering)?;
    let domain = match Family::of(destination) {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    Socket::new(domain, kind, Some(protocol))
}
