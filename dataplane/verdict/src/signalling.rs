//! Decides what hosts say to each other so that packets can be sent at all: ARP,
//! neighbour discovery, membership of multicast groups, DHCP.
//!
//! Such messages pass whatever policy says, if they are true and small: a workload speaks
//! for its own addresses and its own MAC, and for no router and no DHCP server. Towards a
//! workload the same bounds of size hold: no message between two workloads carries more
//! than some hundred bytes of their choice.
//!
//! Input is the endpoint's record, the frame and its parsed headers; output is a
//! verdict, or none, and the packet is judged like any other. Decisions here need no
//! slot, table or flow, and must not: signalling passes before there is a policy.
//!
//! `docs/security-model.md` has the table of what passes.

use crate::{
    address::{Address, Family},
    case::{Case, mark},
    endpoint::{EndpointRecord, MAX_ADDRESSES_V6},
    groups,
    judge::own_slot,
    packet::{
        self, ETHERNET_BYTES, Frame, IPV6_BYTES, MIN_FRAME_BYTES, Packet, Part, Segment, icmpv6,
        protocol,
    },
    reason::Reason,
    verdict::Verdict,
};

/// An ARP message: a workload's must be truthful; towards it, whole. Neither is longer
/// than the shortest frame.
#[inline(always)]
pub(crate) fn arp<F: Frame>(record: &EndpointRecord, frame: &F, sent: bool) -> Verdict {
    if frame.length() > MIN_FRAME_BYTES {
        return Verdict::deny(Reason::SignallingSize);
    }
    let Some(arp) = packet::arp(frame) else {
        return Verdict::deny(Reason::UntruthfulArp);
    };
    // An address probe (RFC 5227) names no sender address.
    let own = arp.sender.is_unspecified() || own_slot(record, &arp.sender) != 0;
    if sent && (arp.sender_mac != record.mac || !own) {
        return Verdict::deny(Reason::UntruthfulArp);
    }
    Verdict::allow(Reason::Arp)
}

/// Evidence for the sender of a packet that policy is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Its source address, which must be one of the workload's.
    ByAddress,
    /// The interface alone: the workload asks for an address.
    ByInterface,
}

/// Returns `true` if an IP packet may be signalling: the few kinds that [`ip`] has an
/// opinion on.
#[inline(always)]
pub(crate) const fn is_possible(packet: &Packet) -> bool {
    if matches!(packet.part, Part::Later) {
        return false;
    }
    let kind = (packet.destination_port >> 8) as u8;
    match (packet.source.family, packet.protocol) {
        (Family::V4, protocol::IGMP) => true,
        (Family::V6, protocol::ICMPV6) => kind >= icmpv6::LISTENER_QUERY,
        (Family::V4, protocol::UDP) => is_pair(packet, 67, 68),
        (Family::V6, protocol::UDP) => is_pair(packet, 546, 547),
        _ => false,
    }
}

/// Returns `true` if a datagram goes between these two ports, either way.
#[inline(always)]
const fn is_pair(packet: &Packet, a: u16, b: u16) -> bool {
    let (from, to) = (packet.source_port, packet.destination_port);
    from == a && to == b || from == b && to == a
}

/// The packet of a case, with what the case does not know of it.
#[inline(always)]
fn packet_of<F: Frame>(frame: &F, case: &Case) -> Option<Packet> {
    let (source, destination) = case.addresses();
    let b = frame.read::<12>(ETHERNET_BYTES)?;
    let (hop_limit, end) = match source.family {
        Family::V4 => (b[8], u32::from(u16::from_be_bytes([b[2], b[3]]))),
        Family::V6 => (
            b[7],
            IPV6_BYTES + u32::from(u16::from_be_bytes([b[4], b[5]])),
        ),
    };
    let end = ETHERNET_BYTES + end;
    if case.transport > end {
        return None;
    }
    Some(Packet {
        source,
        destination,
        protocol: case.protocol(),
        source_port: (case.ports >> 16) as u16,
        destination_port: case.ports as u16,
        segment: Segment {
            sequence: 0,
            acknowledged: 0,
            flags: 0,
        },
        hop_limit,
        part: if case.is(mark::FIRST) {
            Part::First
        } else {
            Part::Whole
        },
        datagram: 0,
        fragment: 0,
        transport: case.transport,
        transport_bytes: end - case.transport,
    })
}

/// An IP packet that [may be signalling](is_possible). `Ok`: judge it like any other.
#[inline(always)]
pub(crate) fn ip<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    case: &Case,
) -> Result<Sender, Verdict> {
    let sent = !case.is(mark::TO_WORKLOAD);
    let Some(packet) = &packet_of(frame, case) else {
        return Err(Verdict::deny(Reason::Malformed));
    };
    let kind = (packet.destination_port >> 8) as u8;
    let discovery = icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT;
    if packet::is_icmpv6(packet) && discovery.contains(&kind) {
        return neighbour(record, frame, packet, kind, sent).map_or_else(
            |reason| Err(Verdict::deny(reason)),
            |is_valid| match is_valid {
                true => Err(Verdict::allow(Reason::NeighbourDiscovery)),
                false => Ok(Sender::ByAddress),
            },
        );
    }
    if let Some(message) = groups::read(frame, packet) {
        membership(record, frame, packet, message, sent)?;
        return Ok(Sender::ByAddress);
    }
    if !sent || packet.protocol != protocol::UDP {
        return Ok(Sender::ByAddress);
    }
    if is_dhcp_server(packet) {
        return Err(Verdict::deny(Reason::DhcpServer));
    }
    if is_dhcp_client(record, frame, packet) {
        return Ok(Sender::ByInterface);
    }
    Ok(Sender::ByAddress)
}

/// Decides a neighbour discovery message: `true` if it passes, `false` if it is a packet
/// like any other.
#[inline(always)]
fn neighbour<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    packet: &Packet,
    kind: u8,
    sent: bool,
) -> Result<bool, Reason> {
    if packet.hop_limit != 255 {
        // RFC 4861, 6.1 and 7.1: only from this link.
        return Err(Reason::UntruthfulNd);
    }
    if sent && kind == icmpv6::ROUTER_ADVERTISEMENT {
        return Err(Reason::RouterAdvertisement);
    }
    if sent && kind == icmpv6::REDIRECT {
        return Err(Reason::Redirect);
    }
    let message = packet::neighbour(frame, packet)?;
    if !sent {
        return Ok(true);
    }
    let target_is_own = is_own(record, &message.target);
    let source = if packet.source.is_unspecified() {
        // Duplicate address detection asks from `::` for an own address, and
        // names no link-layer address (RFC 4861, 4.1 and 4.3).
        let detection = kind == icmpv6::NEIGHBOUR_SOLICITATION && target_is_own;
        message.mac.is_none() && (detection || kind == icmpv6::ROUTER_SOLICITATION)
    } else {
        is_own(record, &packet.source)
    };
    if !source {
        return Err(Reason::SpoofedSource);
    }
    // RFC 4861, 7.1: no target is a group.
    if message.target.is_group() {
        return Err(Reason::UntruthfulNd);
    }
    let claims_mac = message.mac.is_some_and(|claimed| claimed != record.mac);
    if claims_mac || kind == icmpv6::NEIGHBOUR_ADVERTISEMENT && !target_is_own {
        return Err(Reason::UntruthfulNd);
    }
    Ok(is_on_link(record, &packet.destination))
}

/// Returns `true` if a destination of neighbour discovery is one that no router forwards to: of
/// link-local scope, or in the /64 of one of the workload's addresses. A neighbour's other
/// addresses are rare; a host behind a router would be reached whatever policy says.
#[inline(always)]
fn is_on_link(record: &EndpointRecord, destination: &Address) -> bool {
    const LINK_LOCAL_GROUPS: u32 = 0xff02;
    if destination.is_link_local_v6() || destination.words[0] >> 16 == LINK_LOCAL_GROUPS {
        return true;
    }
    let mut i = 0;
    while i < MAX_ADDRESSES_V6 {
        let own = &record.v6[i];
        let different = own[0] ^ destination.words[0] | own[1] ^ destination.words[1];
        if different == 0 && record.v6_slots[i] != 0 {
            return true;
        }
        i += 1;
    }
    false
}

/// Decides a message about multicast groups. `Ok`: judge it like any other packet.
#[inline(always)]
fn membership<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    packet: &Packet,
    message: groups::Message,
    sent: bool,
) -> Result<(), Verdict> {
    if sent && matches!(message, groups::Message::Query | groups::Message::Router) {
        // A switch that believed it would send this workload every group's packets.
        return Err(Verdict::deny(Reason::RouterAdvertisement));
    }
    if !groups::stays_on_link(frame, packet, message) {
        return Ok(());
    }
    // RFC 3376, 4.2.13, and RFC 3590: without an address from the unspecified one.
    if sent && !packet.source.is_unspecified() && !is_own(record, &packet.source) {
        return Err(Verdict::deny(Reason::SpoofedSource));
    }
    Err(match groups::check(frame, packet, message) {
        Ok(()) => Verdict::allow(Reason::MulticastListener),
        Err(reason) => Verdict::deny(reason),
    })
}

/// An own address for link-scoped messages: a listed one, or a link-local one, which no
/// runtime lists: the one that follows from the MAC (RFC 4291), or the one that stood on
/// the interface when the endpoint was added (RFC 7217, or set by hand).
#[inline(always)]
pub(crate) fn is_own(record: &EndpointRecord, address: &Address) -> bool {
    let stood = Address {
        family: Family::V6,
        words: record.link_local,
    };
    address.is_link_local_v6()
        && (address.is(&Address::eui64_link_local(record.mac)) || address.is(&stood))
        || own_slot(record, address) != 0
}

/// Returns `true` if a datagram is from a server to a client, RFC 2131, 4.1, and RFC 8415, 7.2.
#[inline(always)]
const fn is_dhcp_server(packet: &Packet) -> bool {
    match packet.source.family {
        Family::V4 => packet.source_port == 67 && packet.destination_port == 68,
        Family::V6 => packet.source_port == 547 && packet.destination_port == 546,
    }
}

/// Returns `true` if a datagram is the workload's own question for an address: a broadcast of a
/// client that has none and names its MAC (RFC 2131, 2 and 4.1), or one from its link-local
/// address to the servers on the link (RFC 8415, 7.1 and 16).
#[inline(always)]
fn is_dhcp_client<F: Frame>(record: &EndpointRecord, frame: &F, packet: &Packet) -> bool {
    /// BOOTREQUEST of an Ethernet address of six bytes; the number of relays is free.
    const REQUEST: u32 = 0x0101_0600;
    const SERVERS: Address = Address::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
    if !matches!(packet.part, Part::Whole) {
        return false;
    }
    match packet.source.family {
        Family::V4 => {
            if packet.source_port != 68
                || packet.destination_port != 67
                || !packet.source.is_unspecified()
                || packet.destination.words[0] != u32::MAX
            {
                return false;
            }
            let message = packet.transport.wrapping_add(8);
            let kind = frame.read_at::<4>(message).map(u32::from_be_bytes);
            let hardware = frame.read_at::<8>(message.wrapping_add(28));
            kind.is_some_and(|kind| kind & !0xff == REQUEST)
                && hardware.is_some_and(|b| packet::mac(b) == record.mac)
        }
        Family::V6 => {
            packet.source_port == 546
                && packet.destination_port == 547
                && packet.destination.is(&SERVERS)
                && is_own(record, &packet.source)
        }
    }
}
