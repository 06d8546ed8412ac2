//! Reads messages about the multicast groups of a link: IGMP (RFC 1112, RFC 2236,
//! RFC 3376), MLD (RFC 2710, RFC 3810) and multicast router discovery (RFC 4286).
//!
//! Input is a frame and its parsed headers. The two protocols differ in their numbers
//! and in the length of an address, and are read by the same code. Nothing here knows an
//! endpoint, or who may say what: that is for `signalling`.
//!
//! Invariant, bounded: a message that [`check`] accepts has no more content than
//! [`MAX_RECORD_BYTES`] behind its first header.

use crate::{
    address::{Address, Family},
    packet::{
        ETHERNET_BYTES, Frame, IPV6_BYTES, MAX_HEADER_BYTES, MIN_FRAME_BYTES, Packet, Part, icmpv6,
        is_icmpv6, protocol,
    },
    reason::Reason,
};

/// Most bytes of the records in a report: nine groups in MLD, because an endpoint has at
/// most nine addresses, and each its solicited-node group; 22 in IGMP.
pub const MAX_RECORD_BYTES: u32 = 180;
/// Most records in so many bytes: the shortest, of IGMPv3, takes eight.
const MAX_RECORDS: u32 = MAX_RECORD_BYTES / 8;
/// Most sources that a message names, in all its records.
pub const MAX_SOURCES: u32 = 4;

/// IGMP types with a meaning here.
mod igmp {
    /// Query (RFC 1112, RFC 2236, RFC 3376).
    pub(super) const QUERY: u8 = 0x11;
    /// Version 1 report.
    pub(super) const REPORT_V1: u8 = 0x12;
    /// Version 2 report.
    pub(super) const REPORT_V2: u8 = 0x16;
    /// Leave group.
    pub(super) const LEAVE: u8 = 0x17;
    /// Version 3 report.
    pub(super) const REPORT_V3: u8 = 0x22;
    /// Multicast router advertisement (RFC 4286).
    pub(super) const MULTICAST_ROUTER: u8 = 0x30;
}

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A router asks which groups are listened to.
    Query,
    /// A router says that it is one.
    Router,
    /// A host listens to a group.
    Join,
    /// A host no longer listens to a group.
    Leave,
    /// A host reports groups in so many records.
    Records(u32),
}

/// Differences between the two protocols.
struct Form {
    /// Bytes of an address.
    address: u32,
    /// Bits of a group's first byte that all groups have in common, and those bits.
    group_mask: u32,
    group_prefix: u32,
    /// Bytes of a message about one group.
    single: u32,
    /// Bytes of the longest IP header: with a router alert, and no more.
    header: u32,
    /// Group of all routers, to which hosts say that they leave another.
    routers: Address,
    /// Group to which records are sent.
    reporters: Address,
}

impl Form {
    #[inline(always)]
    const fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                address: 4,
                group_mask: 0xf0,
                group_prefix: 0xe0,
                single: 8,
                header: 24,
                routers: Address::v4([224, 0, 0, 2]),
                reporters: Address::v4([224, 0, 0, 22]),
            },
            Family::V6 => Self {
                address: 16,
                group_mask: 0xff,
                group_prefix: 0xff,
                single: 24,
                header: IPV6_BYTES + 8,
                routers: Address::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
                reporters: Address::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]),
            },
        }
    }
}

/// Reads the kind of a message. `None` if the packet is none.
#[inline(always)]
pub fn read<F: Frame>(frame: &F, packet: &Packet) -> Option<Message> {
    if packet.transport_bytes < 8 {
        return None;
    }
    let is_v6 = is_icmpv6(packet);
    if !is_v6 && !is_igmp(packet) {
        return None;
    }
    let b = frame.read_at::<8>(packet.transport)?;
    let records = Message::Records(u32::from(u16::from_be_bytes([b[6], b[7]])));
    if is_v6 {
        match b[0] {
            icmpv6::LISTENER_QUERY => Some(Message::Query),
            icmpv6::MULTICAST_ROUTER => Some(Message::Router),
            icmpv6::LISTENER_REPORT => Some(Message::Join),
            icmpv6::LISTENER_DONE => Some(Message::Leave),
            icmpv6::LISTENER_REPORT_V2 => Some(records),
            _ => None,
        }
    } else {
        match b[0] {
            igmp::QUERY => Some(Message::Query),
            igmp::MULTICAST_ROUTER => Some(Message::Router),
            igmp::REPORT_V1 | igmp::REPORT_V2 => Some(Message::Join),
            igmp::LEAVE => Some(Message::Leave),
            igmp::REPORT_V3 => Some(records),
            _ => None,
        }
    }
}

#[inline(always)]
const fn is_igmp(packet: &Packet) -> bool {
    packet.protocol == protocol::IGMP && matches!(packet.source.family, Family::V4)
}

/// Returns `true` if a message goes one hop and to the group that such a message goes to,
/// behind no more than a router alert. Any other is a packet like the rest of its
/// protocol.
#[inline(always)]
pub fn stays_on_link<F: Frame>(frame: &F, packet: &Packet, message: Message) -> bool {
    let form = Form::of(packet.source.family);
    let to = &packet.destination;
    if packet.hop_limit != 1
        || !to.is_group()
        || !matches!(packet.part, Part::Whole)
        || packet.transport > ETHERNET_BYTES + form.header
    {
        return false;
    }
    match message {
        Message::Query => true,
        Message::Router => false,
        Message::Records(_) => to.is(&form.reporters),
        Message::Join => is_about(frame, packet, to),
        Message::Leave => to.is(&form.routers) || is_about(frame, packet, to),
    }
}

/// Returns `true` if a message about one group is about this one.
#[inline(always)]
fn is_about<F: Frame>(frame: &F, packet: &Packet, group: &Address) -> bool {
    let named = match packet.source.family {
        Family::V4 => frame
            .read_at::<8>(packet.transport)
            .map(|b| Address::v4([b[4], b[5], b[6], b[7]])),
        Family::V6 => frame
            .read_at::<16>(packet.transport.wrapping_add(8))
            .map(Address::v6),
    };
    named.is_some_and(|named| named.is(group))
}

/// Checks that a message that [stays on its link](stays_on_link) has exactly the bytes it
/// counts, and is no larger than hosts need.
#[inline(always)]
pub fn check<F: Frame>(frame: &F, packet: &Packet, message: Message) -> Result<(), Reason> {
    let form = Form::of(packet.source.family);
    let end = packet.transport.wrapping_add(packet.transport_bytes);
    if frame.length() > MIN_FRAME_BYTES && frame.length() > end {
        return Err(Reason::SignallingSize);
    }
    let bytes = packet.transport_bytes;
    let expected = match message {
        Message::Records(count) => return records(frame, packet, &form, count),
        Message::Query if bytes > form.single => {
            // The later versions add four bytes, the last two of which count sources.
            let at = packet.transport.wrapping_add(form.single);
            let b = frame.read_at::<4>(at).ok_or(Reason::Malformed)?;
            let sources = u32::from(u16::from_be_bytes([b[2], b[3]]));
            if sources > MAX_SOURCES {
                return Err(Reason::SignallingSize);
            }
            form.single + 4 + sources * form.address
        }
        _ => form.single,
    };
    if bytes < expected {
        return Err(Reason::Malformed);
    }
    if bytes > expected {
        return Err(Reason::SignallingSize);
    }
    Ok(())
}

/// Walks the records of a report.
#[inline(always)]
fn records<F: Frame>(frame: &F, packet: &Packet, form: &Form, count: u32) -> Result<(), Reason> {
    // Blurred, so that the ways of the two families become one.
    let (address, mask, prefix) = (
        frame.blur(form.address),
        frame.blur(form.group_mask),
        frame.blur(form.group_prefix),
    );
    let end = frame.blur(packet.transport.wrapping_add(packet.transport_bytes));
    let mut at = packet.transport.wrapping_add(8);
    let last = frame.blur(at.wrapping_add(MAX_RECORD_BYTES));
    let mut left = count;
    let mut sources = 0;
    let mut walked = 0;
    while walked < MAX_RECORDS {
        at = frame.blur(at);
        left = frame.blur(left);
        sources = frame.blur(sources);
        if left == 0 {
            break;
        }
        if at > MAX_HEADER_BYTES - 8 {
            return Err(Reason::SignallingSize);
        }
        // Type, length of auxiliary data, which no version defines, number of sources,
        // and the group.
        let b = frame.read_at::<8>(at).ok_or(Reason::Malformed)?;
        let (kind, auxiliary) = (u32::from(b[0]), u32::from(b[1]));
        if kind.wrapping_sub(1) > 5 || u32::from(b[4]) & mask != prefix {
            return Err(Reason::Malformed);
        }
        let named = u32::from(u16::from_be_bytes([b[2], b[3]]));
        sources += named;
        if auxiliary != 0 || sources > MAX_SOURCES {
            return Err(Reason::SignallingSize);
        }
        at += 4 + address + named * address;
        left = left.wrapping_sub(1);
        walked += 1;
    }
    if left != 0 || at > last || at < end {
        return Err(Reason::SignallingSize);
    }
    if at > end {
        return Err(Reason::Malformed);
    }
    Ok(())
}
