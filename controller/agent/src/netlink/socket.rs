//! Netlink sockets of one thread: requests one after the other, each with its whole answer.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Bytes of a `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// The kernel sends at most this much of a list at once (`NLMSG_GOODSIZE` and then some).
const BUFFER_BYTES: usize = 1 << 16;

/// Kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// For everything of a kind.
    List,
    /// For one thing.
    One,
}

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Sends a request, and hands over the kind and the body of each message of the answer as
    /// long as `take` wants more. Returns `false` if something of a list changed while the
    /// kernel went over it: parts may be missing. After an error, or where not all was taken,
    /// the rest of the answer is left in the socket.
    ///
    /// # Errors
    /// When the kernel refuses, or a system call fails.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        asks: Asks,
        body: &[u8],
        mut take: impl FnMut(u16, &[u8]) -> bool,
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(kind, asks, body)?;
        let mut is_whole = true;
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let (message, after) = Message::first(rest).ok_or(io::ErrorKind::UnexpectedEof)?;
                rest = after;
                if message.sequence != self.sequence {
                    continue;
                }
                is_whole &= i32::from(message.flags) & NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    // Both bodies begin with an error, 0 or negative.
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match message.body.first_chunk().copied() {
                            Some(code) => match i32::from_ne_bytes(code) {
                                0 => Ok(is_whole),
                                negative => Err(io::Error::from_raw_os_error(-negative)),
                            },
                            None => Err(io::ErrorKind::UnexpectedEof.into()),
                        };
                    }
                    NLMSG_OVERRUN => return Err(io::Error::other("an answer was lost")),
                    _ => {}
                }
                if !take(message.kind, message.body) {
                    return Ok(is_whole);
                }
            }
        }
    }

    fn send(&self, kind: u16, asks: Asks, body: &[u8]) -> io::Result<()> {
        let flags = NLM_F_REQUEST
            | match asks {
                Asks::List => NLM_F_DUMP,
                Asks::One => NLM_F_ACK,
            };
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let request = [
            &length.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &(flags as u16).to_ne_bytes(),
            &self.sequence.to_ne_bytes(),
            // The kernel knows whose socket it is.
            &[0; 4],
            body,
        ]
        .concat();
        let kernel = NetlinkAddr::new(0, 0);
        let sent = sendto(
            self.socket.as_raw_fd(),
            &request,
            &kernel,
            MsgFlags::empty(),
        )?;
        match sent == request.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// A message of an answer.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message of some bytes, and what follows.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let half = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let length = word(0)? as usize;
        let message = Self {
            kind: half(4)?,
            flags: half(6)?,
            sequence: word(8)?,
            body: bytes.get(HEADER_BYTES..length)?,
        };
        let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((message, after))
    }
}

/// An attribute of a message: its length, kind and value, up to the next one.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4;
    let length = (HEADER + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
