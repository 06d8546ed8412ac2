//! Headers outside the linear part, and work that the kernel is left to do.

use cofferdam_verdict::reason::Reason;

use super::{Cast, Isolation, Party, Row, Scenario, cast::SHUT_PORT, scenario};
use crate::{
    packet::Family,
    traffic::{SEGMENTS_TCP_V4, SEGMENTS_TCP_V6, Unfinished},
};

/// Offsets of the checksum in the headers of UDP and TCP.
pub(super) const UDP_CHECKSUM: u16 = 6;
pub(super) const TCP_CHECKSUM: u16 = 16;

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "headers outside the linear part are read",
        Row::NotLinear,
        Isolation::CLOSED,
        |cast| {
            // Of a frame over 4 KiB from a packet socket, programs see 14 bytes at first.
            (cast.setup.mtu >= 9000).then_some(())?;
            let payload = [cast.mark(), vec![0x55; 8000]].concat();
            let syn = cast.syn().dport(SHUT_PORT).payload(&payload);
            let datagram = cast.udp().dport(SHUT_PORT).payload(&payload);
            let attack = cast.attack(syn).then(datagram);
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "a spoofed source outside the linear part is seen",
        Row::NotLinear,
        Isolation::ALL,
        |cast| {
            (cast.setup.mtu >= 9000).then_some(())?;
            let payload = [cast.mark(), vec![0x55; 8000]].concat();
            let lie = cast.udp().source_ip(cast.ip(Party::C)).payload(&payload);
            Some(cast.attack(lie).dropped(Reason::SpoofedSource))
        },
    ),
    scenario(
        "a segment of many is judged by its port",
        Row::Offloads,
        Isolation::CLOSED,
        |cast| {
            let payload = [cast.mark(), vec![0x55; 4000]].concat();
            let large = cast.segment().dport(SHUT_PORT).syn().payload(&payload);
            let attack = cast.attack(large).unfinished(segments(cast));
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
];

/// Returns the offset of the transport header of a plain packet.
pub(super) fn transport(family: Family) -> u16 {
    match family {
        Family::V4 => 14 + 20,
        Family::V6 => 14 + 40,
    }
}

/// Segments of a kilobyte, to be cut from one packet of TCP.
pub(super) fn segments(cast: &Cast<'_>) -> Unfinished {
    let checksum_start = transport(cast.family);
    let kind = match cast.family {
        Family::V4 => SEGMENTS_TCP_V4,
        Family::V6 => SEGMENTS_TCP_V6,
    };
    Unfinished {
        checksum_start,
        checksum_offset: TCP_CHECKSUM,
        segments: Some((kind, 1000)),
        headers: checksum_start + 20,
    }
}
