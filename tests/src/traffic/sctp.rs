//! As much SCTP as shows that packets get through: INIT and its answers, over
//! raw sockets, since most kernels come without SCTP.
//!
//! A kernel that has SCTP after all answers too, with an ABORT, since it knows nothing of these
//! associations. The answer with the name counts.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::packet::{self, Family, chunk, protocol};

/// Bytes before a chunk's parameters in INIT and INIT ACK: the chunk header, tag, window,
/// streams, first sequence number; then the header of the first parameter.
const PARAMETER_AT: usize = 4 + 16;
const CHUNK_AT: usize = 12;

/// An SCTP packet, as far as it matters here.
pub(super) struct Received {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) verification_tag: u32,
    pub(super) chunk: u8,
    /// The tag that an INIT or INIT ACK asks to be addressed with.
    pub(super) initiate_tag: Option<u32>,
    /// The state cookie of an INIT ACK.
    pub(super) cookie: Vec<u8>,
}

/// A raw socket for SCTP, in the namespace the thread is in.
pub(super) fn socket(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(
        domain,
        Type::RAW,
        Some(Protocol::from(i32::from(protocol::SCTP))),
    )?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The address raw sockets take: without a port.
pub(super) fn raw_address(address: IpAddr) -> SockAddr {
    SocketAddr::new(address, 0).into()
}

/// Returns the bytes to send for an INIT with this tag.
pub(super) fn init(source_port: u16, port: u16, tag: u32) -> Vec<u8> {
    packet::sctp()
        .sport(source_port)
        .dport(port)
        .init(tag)
        .transport_bytes()
}

/// Returns the answer to an INIT: with a name an INIT ACK, else an ABORT.
pub(super) fn answer(init: &Received, name: Option<&str>) -> Option<Vec<u8>> {
    let tag = init.initiate_tag.filter(|_| init.chunk == chunk::INIT)?;
    let answer = packet::sctp()
        .sport(init.destination_port)
        .dport(init.source_port)
        .verification_tag(tag);
    let answer = match name {
        // Any tag but zero will do: nobody goes on from here.
        Some(name) => answer.init_ack(1, name.as_bytes()),
        None => answer.abort(),
    };
    Some(answer.transport_bytes())
}

/// Reads one packet from a raw socket; `None` when it is none that matters.
pub(super) fn receive(socket: &Socket, family: Family) -> io::Result<Option<Received>> {
    let mut buffer = [0; 2048];
    let length = (&*socket).read(&mut buffer)?;
    Ok(parse(&buffer[..length], family))
}

/// Reads one packet and its sender from an unconnected raw socket.
pub(super) fn parse(bytes: &[u8], family: Family) -> Option<Received> {
    // Raw sockets of IPv4 show the IP header, those of IPv6 do not.
    let header = match family {
        Family::V4 => usize::from(bytes.first()? & 0xf) * 4,
        Family::V6 => 0,
    };
    let sctp = bytes.get(header..)?;
    let u16_at = |at: usize| {
        sctp.get(at..at + 2)?
            .try_into()
            .ok()
            .map(u16::from_be_bytes)
    };
    let u32_at = |at: usize| {
        sctp.get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_be_bytes)
    };
    let cookie_at = CHUNK_AT + PARAMETER_AT + 4;
    // A parameter's length counts its own header.
    let cookie_end = CHUNK_AT + PARAMETER_AT + usize::from(u16_at(cookie_at - 2).unwrap_or(4));
    Some(Received {
        source_port: u16_at(0)?,
        destination_port: u16_at(2)?,
        verification_tag: u32_at(4)?,
        chunk: *sctp.get(CHUNK_AT)?,
        initiate_tag: u32_at(CHUNK_AT + 4),
        cookie: sctp.get(cookie_at..cookie_end).unwrap_or_default().to_vec(),
    })
}
