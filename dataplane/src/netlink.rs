//! Netlink messages to the kernel, in the caller's network namespace: requests of one
//! socket each, and what comes back.

pub(crate) mod nftables;
mod traffic;

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, OwnedFd},
};

use libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    socket,
};

pub(crate) use traffic::{
    Filter, Parent, Qdisc, add_clsact, add_ingress, delete_filter, filters, qdisc, set_filter,
};

/// Bytes of a `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Longest piece of a dump that the kernel sends at once (`NLMSG_GOODSIZE` and then some).
const BUFFER_BYTES: usize = 1 << 16;

/// A request in the making.
struct Request {
    protocol: SockProtocol,
    bytes: Vec<u8>,
}

impl Request {
    /// Begins a request that the kernel answers with yes or no, or with a dump.
    fn new(protocol: SockProtocol, kind: u16, flags: i32) -> Self {
        let flags = flags | NLM_F_REQUEST | if flags == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        let mut request = Self {
            protocol,
            bytes: Vec::with_capacity(128),
        };
        // The length comes last; sequence and port are 0: one request to a socket.
        request.header(kind, flags as u16, 0);
        request
    }

    fn header(&mut self, kind: u16, flags: u16, sequence: u32) {
        self.put(&0u32.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(&flags.to_ne_bytes());
        self.put(&sequence.to_ne_bytes());
        self.put(&0u32.to_ne_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |request| request.bytes.extend(value));
    }

    /// A number in network order, as netfilter has all of its.
    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        content(self);
        let length = (self.bytes.len() - start) as u16;
        for (to, from) in self.bytes[start..].iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    /// Writes the length of the message that began at some byte.
    fn close(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u32;
        for (to, from) in self.bytes[start..].iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
    }

    fn send(mut self) -> io::Result<Answer> {
        self.close(0);
        self.send_closed()
    }

    /// Sends messages whose lengths are written.
    fn send_closed(self) -> io::Result<Answer> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            self.protocol,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &self.bytes, &kernel, MsgFlags::empty())?;
        Ok(Answer { socket })
    }
}

/// Answer of the kernel to one request.
struct Answer {
    socket: OwnedFd,
}

impl Answer {
    /// Hands over each message until the last.
    fn each(self, mut take: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((message, after)) = Message::first(rest) {
                match i32::from(message.kind) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match word(message.body).map(u32::cast_signed) {
                            Some(0) => Ok(()),
                            Some(negative) => Err(io::Error::from_raw_os_error(-negative)),
                            None => Err(io::ErrorKind::UnexpectedEof.into()),
                        };
                    }
                    _ => take(message),
                }
                rest = after;
            }
        }
    }
}

impl Answer {
    /// Waits for the kernel's answer to each message of a batch, up to the one with this
    /// number; the first "no" counts.
    fn each_until(self, last: u32) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut result = Ok(());
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((message, after)) = Message::first(rest) {
                if i32::from(message.kind) == NLMSG_ERROR {
                    let code = word(message.body).map_or(0, u32::cast_signed);
                    if code != 0 && result.is_ok() {
                        result = Err(io::Error::from_raw_os_error(-code));
                    }
                    // Before the first message: the whole batch is refused.
                    if message.sequence == last || message.sequence == 0 {
                        return result;
                    }
                }
                rest = after;
            }
        }
    }
}

/// Waits for the kernel's yes or no.
fn done(answer: Answer) -> io::Result<()> {
    answer.each(|_| ())
}

/// One message of an answer.
#[derive(Clone, Copy)]
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = word(bytes)? as usize;
        let body = bytes.get(HEADER_BYTES..length)?;
        let message = Self {
            kind: half(bytes.get(4..)?)?,
            sequence: word(bytes.get(8..)?)?,
            body,
        };
        let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((message, after))
    }
}

/// Attributes in order: their kinds and values.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // The upper bits say "nested" and "network order".
    const KIND_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = half(rest)? as usize;
        let kind = half(rest.get(2..)?)? & KIND_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
fn attribute(all: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = attributes(all);
    all.find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_ne_bytes)
}

const _: () = assert!(size_of::<libc::nlmsghdr>() == HEADER_BYTES);
