//! Decides what hosts say to each other so that packets can be sent at all: ARP,
//! neighbour discovery, reports of multicast groups, DHCP.
//!
//! Such messages pass whatever policy says, if they are true: a workload speaks for
//! its own addresses and its own MAC, and for no router and no DHCP server.
//!
//! Input is the endpoint's record, the frame and its parsed headers; output is a
//! verdict, or none, and the packet is judged like any other. Decisions here need no
//! slot, table or flow, and must not: signalling passes before there is a policy.

use crate::{
    address::{Address, Family},
    endpoint::EndpointRecord,
    judge::own_slot,
    packet::{self, Frame, Packet, Part, icmpv6, protocol},
    reason::Reason,
    verdict::Verdict,
};

/// An ARP message: a workload's must be truthful; towards it, whole.
#[inline(always)]
pub(crate) fn arp<F: Frame>(record: &EndpointRecord, frame: &F, sent: bool) -> Verdict {
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

/// An IP packet. `Ok`: judge it like any other.
#[inline(always)]
pub(crate) fn ip<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    packet: &Packet,
    sent: bool,
) -> Result<(), Verdict> {
    if matches!(packet.part, Part::Later) {
        return Ok(());
    }
    if packet::is_icmpv6(packet) {
        link_scoped(frame, record, packet, sent)?;
    }
    if sent && is_dhcp_server(packet) {
        return Err(Verdict::deny(Reason::DhcpServer));
    }
    Ok(())
}

/// Neighbour discovery and multicast listener reports, which the source check
/// knows more about than a list of addresses. `Ok`: judge it like any packet.
#[inline(always)]
fn link_scoped<F: Frame>(
    frame: &F,
    record: &EndpointRecord,
    packet: &Packet,
    sent: bool,
) -> Result<(), Verdict> {
    let kind = (packet.destination_port >> 8) as u8;
    let discovery = (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind);
    if discovery && (packet.hop_limit != 255 || !matches!(packet.part, Part::Whole)) {
        // RFC 4861, 6.1 and 7.1: only from this link; RFC 6980: only whole.
        return Err(Verdict::deny(Reason::UntruthfulNd));
    }
    if !sent {
        return if discovery {
            Err(Verdict::allow(Reason::NeighbourDiscovery))
        } else {
            Ok(())
        };
    }
    match kind {
        icmpv6::ROUTER_ADVERTISEMENT => Err(Verdict::deny(Reason::RouterAdvertisement)),
        icmpv6::REDIRECT => Err(Verdict::deny(Reason::Redirect)),
        icmpv6::LISTENER_REPORT | icmpv6::LISTENER_DONE | icmpv6::LISTENER_REPORT_V2 => {
            // RFC 2710, 3: hop limit 1, from a link-local address; RFC 3590: or
            // from `::` while there is none. Groups are ff00::/8.
            if packet.hop_limit != 1 || packet.destination.words[0] >> 24 != 0xff {
                return Ok(());
            }
            if !packet.source.is_unspecified() && !is_own(record, &packet.source) {
                return Err(Verdict::deny(Reason::SpoofedSource));
            }
            Err(Verdict::allow(Reason::MulticastListener))
        }
        _ if discovery => Err(neighbour(frame, record, packet, kind)),
        _ => Ok(()),
    }
}

/// A solicitation or advertisement that a workload sends.
#[inline(always)]
fn neighbour<F: Frame>(frame: &F, record: &EndpointRecord, packet: &Packet, kind: u8) -> Verdict {
    let Some(message) = packet::neighbour(frame, packet) else {
        return Verdict::deny(Reason::UntruthfulNd);
    };
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
        return Verdict::deny(Reason::SpoofedSource);
    }
    let claims_mac = message.mac.is_some_and(|claimed| claimed != record.mac);
    if claims_mac || kind == icmpv6::NEIGHBOUR_ADVERTISEMENT && !target_is_own {
        return Verdict::deny(Reason::UntruthfulNd);
    }
    Verdict::allow(Reason::NeighbourDiscovery)
}

/// An own address for link-scoped messages: a listed one, or the link-local
/// address that follows from the MAC, which no runtime lists.
#[inline(always)]
pub(crate) fn is_own(record: &EndpointRecord, address: &Address) -> bool {
    let derived = Address::eui64_link_local(record.mac);
    let different = derived.words[0] ^ address.words[0]
        | derived.words[1] ^ address.words[1]
        | derived.words[2] ^ address.words[2]
        | derived.words[3] ^ address.words[3];
    different == 0 || own_slot(record, address) != 0
}

/// Server to client, RFC 2131, 4.1, and RFC 8415, 7.2.
#[inline(always)]
fn is_dhcp_server(packet: &Packet) -> bool {
    if packet.protocol != protocol::UDP {
        return false;
    }
    match packet.source.family {
        Family::V4 => packet.source_port == 67 && packet.destination_port == 68,
        Family::V6 => packet.source_port == 547 && packet.destination_port == 546,
    }
}
