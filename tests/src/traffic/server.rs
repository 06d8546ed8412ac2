//! Servers that answer with a name.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use nix::poll::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Place, Probe, entering, not_yet, sctp, wait};
use crate::packet::Family;

/// Connections waiting to be accepted: those of a whole matrix at once.
const BACKLOG: i32 = 1024;
/// Longest datagram or piece of a stream that is sent back.
const LONGEST_ECHO: usize = 1 << 16;

/// A server in one namespace, on all addresses of its place, until dropped.
///
/// TCP: greets with its name and a line feed, then sends back what it gets.
/// UDP: sends each datagram back behind its name and a line feed. SCTP: answers
/// an INIT with its name as the state cookie, or, on another port, with an
/// ABORT. Pings are the kernel's to answer.
#[derive(Debug)]
pub struct Server {
    /// Closing it ends the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Starts one; it can be reached when this returns.
    pub fn start<'w>(place: impl Into<Place<'w>>, probes: &[Probe]) -> io::Result<Self> {
        let place = place.into();
        let name = place.name.to_string();
        let mut work = Work {
            name,
            listeners: vec![],
            datagrams: vec![],
            raw: vec![],
            talks: vec![],
        };
        {
            let _inside = place.namespace.enter().map_err(entering)?;
            for family in Family::BOTH {
                if place.end.ip(family).is_some() {
                    work.open(place, family, probes)?;
                }
            }
        }
        let (stopped, stop) = io::pipe()?;
        let thread = thread::Builder::new()
            .name(format!("server {}", place.name))
            .spawn(move || work.run(&stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts one in each of these places.
    pub fn start_all<'w, P: Into<Place<'w>>>(
        places: impl IntoIterator<Item = P>,
        probes: &[Probe],
    ) -> io::Result<Vec<Self>> {
        places
            .into_iter()
            .map(|place| Self::start(place, probes))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        let trouble = match ended {
            None | Some(Ok(Ok(()))) => return,
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(_)) => "it panicked".into(),
        };
        // A second panic would abort the process and hide the first.
        if thread::panicking() {
            eprintln!("a server ended early: {trouble}");
        } else {
            panic!("a server ended early: {trouble}");
        }
    }
}

/// Sockets and talks that the thread serves.
struct Work {
    name: String,
    listeners: Vec<Socket>,
    datagrams: Vec<UdpSocket>,
    raw: Vec<Raw>,
    talks: Vec<Talk>,
}

/// A raw SCTP socket and the ports that are open on it. Its packets are
/// datagrams to the standard library.
struct Raw {
    socket: UdpSocket,
    family: Family,
    ports: Vec<u16>,
}

/// A TCP connection and what is still to be said on it.
struct Talk {
    socket: Socket,
    unsaid: Vec<u8>,
}

impl Work {
    fn open(&mut self, place: Place<'_>, family: Family, probes: &[Probe]) -> io::Result<()> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let mut sctp_ports = Vec::new();
        for probe in probes {
            match *probe {
                Probe::Tcp(port) => {
                    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
                    socket.set_reuse_address(true)?;
                    socket.bind(&SocketAddr::new(place.ip(family), port).into())?;
                    socket.listen(BACKLOG)?;
                    socket.set_nonblocking(true)?;
                    self.listeners.push(socket);
                }
                Probe::Udp(port) => {
                    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
                    socket.bind(&SocketAddr::new(place.ip(family), port).into())?;
                    socket.set_nonblocking(true)?;
                    self.datagrams.push(socket.into());
                }
                Probe::Sctp(port) => sctp_ports.push(port),
                Probe::Ping => {}
            }
        }
        if !sctp_ports.is_empty() {
            let socket = sctp::socket(family)?;
            socket.bind(&sctp::raw_address(place.ip(family)))?;
            self.raw.push(Raw {
                socket: socket.into(),
                family,
                ports: sctp_ports,
            });
        }
        Ok(())
    }

    fn run(mut self, stopped: &PipeReader) -> io::Result<()> {
        loop {
            let (ready, talks_ready) = self.wait(stopped)?;
            let mut ready = ready.into_iter();
            if ready.next() == Some(true) {
                return Ok(());
            }
            // What has come in by now is looked at in the next round, as the
            // connections accepted here are not among `talks_ready`.
            let mut accepted = Vec::new();
            for (listener, _) in self
                .listeners
                .iter()
                .zip(&mut ready)
                .filter(|(_, ready)| *ready)
            {
                accepted.extend(accept(listener, &self.name)?);
            }
            for (socket, _) in self
                .datagrams
                .iter()
                .zip(&mut ready)
                .filter(|(_, ready)| *ready)
            {
                echo(socket, &self.name)?;
            }
            for (raw, _) in self.raw.iter().zip(&mut ready).filter(|(_, ready)| *ready) {
                raw.answer(&self.name)?;
            }
            let mut talks_ready = talks_ready.into_iter();
            self.talks
                .retain_mut(|talk| !talks_ready.next().unwrap_or(false) || talk.go_on());
            self.talks.extend(accepted);
        }
    }

    /// Waits for anything; says what is ready: first the end, then everything
    /// else in the order of the fields.
    fn wait(&self, stopped: &PipeReader) -> io::Result<(Vec<bool>, Vec<bool>)> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        let datagrams = self.datagrams.iter().map(AsFd::as_fd);
        let raw = self.raw.iter().map(|raw| raw.socket.as_fd());
        let sockets = listeners.chain(datagrams).chain(raw);
        let mut wanted = vec![(stopped.as_fd(), PollFlags::POLLIN)];
        wanted.extend(sockets.map(|socket| (socket, PollFlags::POLLIN)));
        let talks_at = wanted.len();
        wanted.extend(self.talks.iter().map(|talk| {
            let flag = if talk.unsaid.is_empty() {
                PollFlags::POLLIN
            } else {
                PollFlags::POLLOUT
            };
            (talk.socket.as_fd(), flag)
        }));
        let mut ready = wait(&wanted, None)?;
        let talks_ready = ready.split_off(talks_at);
        Ok((ready, talks_ready))
    }
}

/// Accepts whoever waits, and has the name to say.
fn accept(listener: &Socket, name: &str) -> io::Result<Vec<Talk>> {
    let mut talks = Vec::new();
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(true)?;
                talks.push(Talk {
                    socket,
                    unsaid: format!("{name}\n").into_bytes(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(talks),
            // Whoever gave up before being accepted is nobody's trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if not_yet(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends all datagrams that are there back to their senders.
fn echo(socket: &UdpSocket, name: &str) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_ECHO];
    loop {
        let (length, sender) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut answer = format!("{name}\n").into_bytes();
        answer.extend(&buffer[..length]);
        // What cannot be sent is lost, as datagrams are.
        _ = socket.send_to(&answer, sender);
    }
}

impl Raw {
    /// Answers all packets that are there.
    fn answer(&self, name: &str) -> io::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let (length, sender) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let Some(received) = sctp::parse(&buffer[..length], self.family) else {
                continue;
            };
            let open = self.ports.contains(&received.destination_port);
            if let Some(answer) = sctp::answer(&received, open.then_some(name)) {
                _ = self.socket.send_to(&answer, sender);
            }
        }
    }
}

impl Talk {
    /// Says or hears more; false when the other side has hung up.
    fn go_on(&mut self) -> bool {
        let result = if self.unsaid.is_empty() {
            self.hear()
        } else {
            self.say()
        };
        match result {
            Ok(more) => more,
            Err(error) => not_yet(&error),
        }
    }

    fn hear(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let length = self.socket.read(&mut buffer)?;
        self.unsaid.extend(&buffer[..length]);
        Ok(length > 0)
    }

    fn say(&mut self) -> io::Result<bool> {
        let length = self.socket.write(&self.unsaid)?;
        self.unsaid.drain(..length);
        Ok(true)
    }
}
