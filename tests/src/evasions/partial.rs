//! Partial checksums: bytes that the kernel writes behind the verdict.

use cofferdam_verdict::reason::Reason;

use super::{
    Isolation, Party, Row, Scenario,
    cast::SHUT_PORT,
    offload::{UDP_CHECKSUM, transport},
    scenario,
};
use crate::{
    packet::{Family, checksum, ping},
    traffic::Unfinished,
};

/// Offset of the destination port in the headers of UDP and TCP.
const PORT: u16 = 2;

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "a checksum that is written over the port is dropped",
        Row::Offloads,
        Isolation::ALL,
        |cast| {
            let start = transport(cast.family);
            let left = Unfinished {
                checksum_start: start,
                checksum_offset: PORT,
                ..Unfinished::default()
            };
            // The sum of what follows is the number of a shut port.
            let mut frame = cast
                .udp()
                .payload(&[&cast.mark()[..], &[0; 2]].concat())
                .bytes();
            let sum = checksum::internet(&[&frame[usize::from(start)..]]);
            let last = frame.len() - 2;
            frame[last..].copy_from_slice(&ones_sum(!SHUT_PORT, sum).to_be_bytes());
            let attack = cast.attack_bytes(frame).unfinished(left);
            Some(attack.dropped(Reason::PartialChecksum))
        },
    ),
    scenario(
        "a checksum that begins in the IP header is dropped",
        Row::Offloads,
        Isolation::ALL,
        |cast| {
            // Written over the destination address.
            let left = match cast.family {
                Family::V4 => Unfinished {
                    checksum_start: 24,
                    checksum_offset: 8,
                    ..Unfinished::default()
                },
                Family::V6 => Unfinished {
                    checksum_start: 40,
                    checksum_offset: 12,
                    ..Unfinished::default()
                },
            };
            Some(
                cast.attack(cast.udp())
                    .unfinished(left)
                    .dropped(Reason::PartialChecksum),
            )
        },
    ),
    scenario(
        "a checksum of another protocol's place is dropped",
        Row::Offloads,
        Isolation::ALL,
        |cast| {
            let checksum_start = transport(cast.family);
            let left = Unfinished {
                checksum_start,
                checksum_offset: UDP_CHECKSUM,
                ..Unfinished::default()
            };
            Some(
                cast.attack(cast.syn())
                    .unfinished(left)
                    .dropped(Reason::PartialChecksum),
            )
        },
    ),
    scenario(
        "a checksum of a protocol that the kernel sums itself is dropped",
        Row::Offloads,
        Isolation::ALL,
        |cast| {
            let checksum_start = transport(cast.family);
            let request = ping(cast.family).payload(&cast.mark());
            let left = Unfinished {
                checksum_start,
                checksum_offset: 2,
                ..Unfinished::default()
            };
            let attack = cast
                .attack(cast.between(request, Party::A, Party::C))
                .unfinished(left);
            Some(attack.dropped(Reason::PartialChecksum))
        },
    ),
];

/// The sum of two numbers as the Internet checksum adds.
fn ones_sum(a: u16, b: u16) -> u16 {
    let (sum, over) = a.overflowing_add(b);
    sum + u16::from(over)
}
