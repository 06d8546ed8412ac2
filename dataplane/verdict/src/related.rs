//! ICMP errors: one passes when it is about a packet of a live flow.
//!
//! An error quotes the packet that it is about. It belongs to a flow of an endpoint when
//! it goes to the sender of the quoted packet, and that packet, in either direction, is
//! one of the flow's: an error towards a workload quotes what the workload sent, one
//! from a workload what it has received (RFC 792, RFC 4443, 3). Whoever sends it, a
//! router or the node itself, needs no permission of its own. Other errors are the
//! judge's, like any packet.
//!
//! Invariant: an error passes by this road only while its flow's entry counts, and only
//! when it is not longer than its RFC allows.

use crate::{
    address::{Address, Family},
    bucket::{Found, find_address},
    case::{Case, mark},
    flow::{FlowKey, OPENED_BY_PEER, look_up},
    judge::{agrees, own_slot},
    memory::FlowMemory,
    packet::{ETHERNET_BYTES, Frame, MAX_HEADER_BYTES, icmp, icmpv6, protocol},
    reason::Reason,
    table::Table,
    verdict::Verdict,
};

/// Bytes of an ICMP header, behind which the quoted packet begins.
const ICMP_HEADER: u32 = 8;
/// Longest ICMPv4 error, RFC 1812, 4.3.2.3: 576 bytes of IP packet.
const MAX_ERROR_V4: u32 = 576;
/// Longest ICMPv6 error, RFC 4443, 2.4: the least IPv6 MTU.
const MAX_ERROR_V6: u32 = 1280;
/// Next header of an IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// Quotation in an error of a packet whose source is the error's destination.
struct Quoted {
    destination: Address,
    protocol: u8,
    /// First four bytes of the transport header: both ports, or ICMP type, code and
    /// checksum.
    start: [u8; 4],
    /// The next four: for ICMP echo the identifier, and the sequence number.
    next: [u8; 4],
}

/// Settles an ICMP error about a live flow of the endpoint; leaves others alone.
#[inline(always)]
pub fn relate<M: FlowMemory, F: Frame>(memory: &M, frame: &F, case: &mut Case) {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return;
    };
    let (source, destination) = case.addresses();
    let sent = !case.is(mark::TO_WORKLOAD);
    if sent && own_slot(record, &source) == 0 {
        return;
    }
    let Some(quoted) = quoted(frame, case, &destination) else {
        return;
    };
    let (local, peer) = if sent {
        (quoted.destination, destination)
    } else {
        (destination, quoted.destination)
    };
    if own_slot(record, &local) == 0 {
        return;
    }
    let Some(mut key) = key(&quoted, &local, &peer, sent) else {
        return;
    };
    key.ports = memory.blur(key.ports, case.bytes);
    key.kind = memory.blur(key.kind, case.bytes);
    let Some(table) = Table::open(memory) else {
        return;
    };
    case.flow_step = look_up(memory, &table, record, &key, case);
    if !case.is_settled() {
        return;
    }
    case.revision = table.revision() as u32;
    let verdict = match is_truthful(memory, &table, case, sent) {
        Ok(()) if is_bounded(case, source.family) => Verdict::allow(Reason::Related),
        Ok(()) => Verdict::deny(Reason::SignallingSize),
        Err(reason) => Verdict::deny(reason),
    };
    case.settle(verdict);
}

/// The error's stamp must agree with its source.
#[inline(always)]
fn is_truthful<M: FlowMemory>(
    memory: &M,
    table: &Table<'_, M>,
    case: &Case,
    sent: bool,
) -> Result<(), Reason> {
    if sent {
        return Ok(());
    }
    let (source, _) = case.addresses();
    match find_address(memory, &source) {
        Found::Value(slot) => {
            let profile = table.slot(slot).ok_or(Reason::TableCorrupt)?;
            agrees(memory, profile.kind, slot, case.stamp)
        }
        Found::Absent => Ok(()),
        Found::Unknown => Err(Reason::AddressContended),
    }
}

#[inline(always)]
const fn is_bounded(case: &Case, family: Family) -> bool {
    let most = match family {
        Family::V4 => MAX_ERROR_V4,
        Family::V6 => MAX_ERROR_V6,
    };
    case.bytes <= ETHERNET_BYTES + most
}

/// Reads the quoted packet, which must be whole or a first fragment, and come from
/// `sender`.
#[inline(always)]
fn quoted<F: Frame>(frame: &F, case: &Case, sender: &Address) -> Option<Quoted> {
    const OFFSET: u16 = 0x1fff;
    let inner = frame.blur(case.transport.wrapping_add(ICMP_HEADER));
    if inner > MAX_HEADER_BYTES - 40 {
        return None;
    }
    let (destination, protocol, at) = if case.is(mark::V6) {
        let b = frame.read_at::<40>(inner)?;
        if b[0] >> 4 != 6
            || differs(sender, 0, [b[8], b[9], b[10], b[11]])
                | differs(sender, 1, [b[12], b[13], b[14], b[15]])
                | differs(sender, 2, [b[16], b[17], b[18], b[19]])
                | differs(sender, 3, [b[20], b[21], b[22], b[23]])
                != 0
        {
            return None;
        }
        let destination = Address {
            family: Family::V6,
            words: [
                u32::from_be_bytes([b[24], b[25], b[26], b[27]]),
                u32::from_be_bytes([b[28], b[29], b[30], b[31]]),
                u32::from_be_bytes([b[32], b[33], b[34], b[35]]),
                u32::from_be_bytes([b[36], b[37], b[38], b[39]]),
            ],
        };
        let mut protocol = b[6];
        let mut at = inner + 40;
        if protocol == FRAGMENT {
            let b = frame.read_at::<8>(at)?;
            if u16::from_be_bytes([b[2], b[3]]) & 0xfff8 != 0 {
                return None;
            }
            protocol = b[0];
            at += 8;
        }
        (destination, protocol, at)
    } else {
        let b = frame.read_at::<20>(inner)?;
        let header = u32::from(b[0] & 15) * 4;
        let later = u16::from_be_bytes([b[6], b[7]]) & OFFSET != 0;
        let other = differs(sender, 0, [b[12], b[13], b[14], b[15]]) != 0;
        if b[0] >> 4 != 4 || header < 20 || later || other {
            return None;
        }
        (
            Address::v4([b[16], b[17], b[18], b[19]]),
            b[9],
            inner + header,
        )
    };
    let at = frame.blur(at);
    if at > MAX_HEADER_BYTES {
        return None;
    }
    let b = frame.read_at::<8>(at)?;
    Some(Quoted {
        destination,
        protocol,
        start: [b[0], b[1], b[2], b[3]],
        next: [b[4], b[5], b[6], b[7]],
    })
}

/// Not zero when four bytes of a packet are not this word of an address.
#[inline(always)]
const fn differs(address: &Address, word: usize, bytes: [u8; 4]) -> u32 {
    address.words[word] ^ u32::from_be_bytes(bytes)
}

/// The key of the flow that the quoted packet is one of.
#[inline(always)]
fn key(quoted: &Quoted, local: &Address, peer: &Address, sent: bool) -> Option<FlowKey> {
    let from = u16::from_be_bytes([quoted.start[0], quoted.start[1]]);
    let to = u16::from_be_bytes([quoted.start[2], quoted.start[3]]);
    let (local_port, peer_port) = if sent { (to, from) } else { (from, to) };
    let mut key = FlowKey::new(local, peer, quoted.protocol, local_port, peer_port);
    match quoted.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {}
        protocol::ICMP | protocol::ICMPV6 => {
            let (request, reply) = match (local.family, quoted.protocol) {
                (Family::V4, protocol::ICMP) => (icmp::ECHO_REQUEST, icmp::ECHO_REPLY),
                (Family::V6, protocol::ICMPV6) => (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY),
                _ => return None,
            };
            let kind = quoted.start[0];
            if kind != request && kind != reply {
                return None;
            }
            let identifier = u32::from(u16::from_be_bytes([quoted.next[0], quoted.next[1]]));
            key.ports = identifier << 16 | identifier;
            // What the workload sent as a request, it asked itself; what it has received
            // as one, the peer did.
            if sent == (kind == request) {
                key.kind |= OPENED_BY_PEER;
            }
        }
        _ => key.ports = 0,
    }
    Some(key)
}
