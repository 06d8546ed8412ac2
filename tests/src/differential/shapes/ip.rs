//! IP headers that contradict themselves, chains out of bounds, and fragments.

use cofferdam_verdict::reason::Reason;

use super::right::{Right, any, bytes, ported};
use super::{Shaped, Shapes};
use crate::packet::{Extension, Family, no_next_header, option, protocol};

pub(super) const SHAPES: Shapes = &[
    ("another IP version", |rng, trial| {
        let packet = any(rng, trial).packet;
        let right = match trial.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let wrong = (rng.u8(1..16) + right) % 16;
        Some(Shaped::dropped(&packet.version(wrong), Reason::Malformed))
    }),
    ("IPv4 header shorter than one", |rng, trial| {
        (trial.family == Family::V4).then_some(())?;
        let packet = any(rng, trial).packet.ihl(rng.u8(..5));
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("IPv4 header longer than the packet", |rng, trial| {
        (trial.family == Family::V4).then_some(())?;
        let packet = ported(rng, trial).packet;
        let words = packet.network_bytes().len().div_ceil(4);
        // What follows is read as options, which must not be a source route by chance.
        let route = |byte| option::SOURCE_ROUTES.contains(byte);
        (!packet.network_bytes().iter().skip(20).any(route)).then_some(())?;
        let packet = packet.ihl(rng.u8(words.min(15) as u8..16));
        // With fifteen words it may still be there, and its transport is not.
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("a source route", |rng, trial| {
        let packet = any(rng, trial).packet;
        let packet = match trial.family {
            Family::V4 => {
                let before = vec![option::NOTHING; rng.usize(..20)];
                let addresses = 4 * rng.usize(..4);
                let kind = option::SOURCE_ROUTES[rng.usize(..2)];
                let route = [&[kind, 3 + addresses as u8, 4][..], &vec![10; addresses]].concat();
                packet.ip_options(&[before, route].concat())
            }
            Family::V6 => {
                let header = Extension::routing(rng.u8(..), rng.u8(1..), &[0; 20]);
                packet
                    .extensions(rng.usize(..8), Extension::destination_options(&[]))
                    .extension(header)
            }
        };
        Some(Shaped::dropped(&packet, Reason::SourceRoute))
    }),
    ("IPv4 options past their header", |rng, trial| {
        (trial.family == Family::V4).then_some(())?;
        let mut bytes = vec![option::NOTHING; 4 * rng.usize(..10)];
        let kind = rng.u8(2..131);
        bytes.extend(match rng.u8(..3) {
            // A type without a length; a length that does not count itself; one too long.
            0 => [option::NOTHING, option::NOTHING, option::NOTHING, kind],
            1 => [kind, rng.u8(..2), 0, 0],
            _ => [kind, rng.u8(5..), 0, 0],
        });
        let packet = any(rng, trial).packet.ip_options(&bytes);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("IP length past the frame", |rng, trial| {
        let packet = any(rng, trial).packet;
        let claimed = ip_length(&packet, trial.family) + rng.usize(1..2000);
        let packet = packet.ip_length(claimed as u16);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("IP length short of the headers", |rng, trial| {
        let Right { packet, least, .. } = any(rng, trial);
        let before = match trial.family {
            Family::V4 => 20,
            Family::V6 => 0,
        };
        (before + least > 0).then_some(())?;
        let packet = packet.ip_length(rng.usize(..before + least) as u16);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("IP length short of what follows", |rng, trial| {
        let Right {
            packet,
            payload,
            least,
        } = any(rng, trial);
        let before = match trial.family {
            Family::V4 => 20,
            Family::V6 => 0,
        };
        let whole = ip_length(&packet, trial.family);
        let packet = packet.ip_length(rng.usize(before + least..=whole) as u16);
        Some(Shaped::judged(&packet, payload))
    }),
    ("too many extension headers", |rng, trial| {
        (trial.family == Family::V6).then_some(())?;
        let packet = any(rng, trial)
            .packet
            .extensions(rng.usize(9..60), Extension::destination_options(&[]));
        Some(Shaped::dropped(&packet, Reason::Ipv6Chain))
    }),
    ("an extension header too long", |rng, trial| {
        (trial.family == Family::V6).then_some(())?;
        let options = vec![0; rng.usize(200..2000)];
        let packet = any(rng, trial)
            .packet
            .extension(Extension::destination_options(&options));
        Some(Shaped::dropped(&packet, Reason::Ipv6Chain))
    }),
    ("an extension header past the packet", |rng, trial| {
        (trial.family == Family::V6).then_some(())?;
        let packet = any(rng, trial).packet;
        let header = Extension::destination_options(&[]).with_length(rng.u8(12..));
        Some(Shaped::dropped(
            &packet.extension(header),
            Reason::Malformed,
        ))
    }),
    ("an extension header in a forbidden place", |rng, trial| {
        (trial.family == Family::V6).then_some(())?;
        let packet = any(rng, trial).packet;
        let packet = match rng.bool() {
            true => packet
                .extension(Extension::destination_options(&[]))
                .extension(Extension::hop_by_hop(&[])),
            false => packet.extensions(2, Extension::fragment(rng.u32(..), 0, false)),
        };
        Some(Shaped::dropped(&packet, Reason::Ipv6Chain))
    }),
    ("an extension header without ports behind", |rng, trial| {
        (trial.family == Family::V6).then_some(())?;
        let kinds = [
            protocol::MOBILITY,
            protocol::HIP,
            protocol::SHIM6,
            protocol::NO_NEXT_HEADER,
            253,
            254,
        ];
        let kind = kinds[rng.usize(..kinds.len())];
        let packet = match kind {
            protocol::NO_NEXT_HEADER => no_next_header()
                .payload(&bytes(rng, 40))
                .from(trial.end(trial.source))
                .to(trial.end(trial.destination))
                .erased(),
            kind => {
                let header = Extension::measured(kind, &[]);
                any(rng, trial).packet.extension(header)
            }
        };
        Some(Shaped::dropped(&packet, Reason::Ipv6Chain))
    }),
    ("a later fragment", |rng, trial| {
        let packet = any(rng, trial).packet;
        // Whatever stands at its beginning is data, be it like a header.
        let offset = rng.usize(1..0x1fff) * 8;
        let packet = packet.fragment(rng.u16(..).into(), offset, rng.bool());
        Some(Shaped::dropped(&packet, Reason::FragmentNoFirst))
    }),
    ("a first fragment short of its header", |rng, trial| {
        let right = ported(rng, trial);
        // Eight bytes hold the ports, and UDP's whole header.
        (right.least > 8).then_some(())?;
        let first = right.packet.fragments(&[8]).swap_remove(0);
        Some(Shaped::dropped(&first.erased(), Reason::Malformed))
    }),
];

/// Returns the value of the length field of a right packet.
fn ip_length(packet: &crate::packet::Packet, family: Family) -> usize {
    let whole = packet.network_bytes().len();
    match family {
        Family::V4 => whole,
        Family::V6 => whole - 40,
    }
}
