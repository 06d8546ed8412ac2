//! Right packets of every protocol, and what they may have without being wrong.

use cofferdam_oracle::Payload;
use cofferdam_verdict::reason::Reason;
use fastrand::Rng;

use super::{Shaped, Shapes, Trial, denied};
use crate::{
    generate::PORTS,
    packet::{
        Checksum, Extension, Family, Packet, flag, geneve, gre, gre_ethernet, icmp, icmpv6,
        ip_protocol, ipip, option, protocol, sctp, tcp, udp, vxlan,
    },
};

pub(super) const SHAPES: Shapes = &[
    ("right", |rng, trial| {
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        Some(Shaped::judged(&packet, payload))
    }),
    ("padded", |rng, trial| {
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        let packet = match rng.bool() {
            true => packet.padded_to(rng.usize(60..1500)),
            false => packet.trailer(&bytes(rng, 40)),
        };
        Some(Shaped::judged(&packet, payload))
    }),
    ("unusual IP header", |rng, trial| {
        let Right {
            mut packet,
            payload,
            ..
        } = any(rng, trial);
        packet = match rng.u8(..3) {
            0 => packet.hop_limit(rng.u8(..)),
            1 => packet.traffic_class(rng.u8(..)),
            _ if trial.family == Family::V6 => packet.flow_label(rng.u32(..) & 0xf_ffff),
            _ => match rng.u8(..3) {
                0 => packet.dont_fragment(),
                1 => packet.reserved_flag(),
                _ => packet.header_checksum(rng.u16(..)),
            },
        };
        Some(Shaped::judged(&packet, payload))
    }),
    ("wrong checksum", |rng, trial| {
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        Some(Shaped::judged(&packet.checksum(Checksum::Wrong), payload))
    }),
    ("IPv4 options", |rng, trial| {
        (trial.family == Family::V4).then_some(())?;
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        let mut options = options(rng, 40);
        if rng.bool() {
            // They mimic ports.
            let [high, low] = PORTS[rng.usize(..PORTS.len())].to_be_bytes();
            options.splice(..0, [0x9c, 4, high, low]);
            if options.len() > 40 {
                options.truncate(4);
            }
        }
        Some(Shaped::judged(&packet.ip_options(&options), payload))
    }),
    ("IPv6 extension headers", |rng, trial| {
        (trial.family == Family::V6).then_some(())?;
        let Right {
            mut packet,
            payload,
            ..
        } = any(rng, trial);
        if rng.bool() {
            packet = packet.extension(Extension::hop_by_hop(&[]));
        }
        let mut fragmented = false;
        for _ in 0..rng.usize(..8) {
            packet = packet.extension(match rng.u8(..4) {
                0 if !fragmented => {
                    // An atomic fragment is whole (RFC 6946).
                    fragmented = true;
                    Extension::fragment(rng.u32(..), 0, false)
                }
                1 => Extension::routing([0, 2, 3, 4][rng.usize(..4)], 0, &[0; 4]),
                2 => Extension::authentication(&[]),
                _ => Extension::destination_options(&[]),
            });
        }
        Some(Shaped::judged(&packet, payload))
    }),
    ("first fragment", |rng, trial| {
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        let packet = packet.fragment(rng.u16(..).into(), 0, true);
        Some(Shaped::judged(&packet, payload))
    }),
    ("tunnel", |rng, trial| {
        let inner = any(rng, trial).packet;
        let (packet, payload) = match rng.u8(..5) {
            0 if trial.family == Family::V4 => (ipip(&inner).erased(), Payload::Bare(4)),
            0 => (ipip(&inner).erased(), Payload::Bare(41)),
            1 => (gre(&inner).erased(), Payload::Bare(47)),
            2 => (gre_ethernet(&inner).erased(), Payload::Bare(47)),
            3 => (vxlan(7, &inner).erased(), Payload::Port(17, 4789)),
            _ => (geneve(7, &inner).erased(), Payload::Port(17, 6081)),
        };
        Some(Shaped::judged(&addressed(packet, trial), payload))
    }),
    ("destination of a group", |rng, trial| {
        // It is judged as the receiver's, to the group and to the receiver. The node's
        // exception is about its own pods alone.
        (!trial.is_to_itself() && trial.source != super::super::trial::Who::Node).then_some(())?;
        let named = match trial.family {
            Family::V4 => ["255.255.255.255", "224.0.0.1", "239.1.2.3"],
            Family::V6 => ["ff02::1", "ff0e::1:2", "ff05::1:3"],
        };
        let named = named[rng.usize(..3)].parse().expect("an address");
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        Some(Shaped {
            named: Some(named),
            ..Shaped::judged(&packet.destination_ip(named), payload)
        })
    }),
    ("nobody's destination", |rng, trial| {
        // A single address, and none of the receiver's.
        (!trial.is_to_itself()).then_some(())?;
        let named = match trial.family {
            Family::V4 => ["10.64.255.255", "127.0.0.1", "169.254.169.254", "0.0.0.0"],
            Family::V6 => ["::1", "fe80::1", "::", "64:ff9b::1"],
        };
        let named = named[rng.usize(..4)].parse().expect("an address");
        let Right {
            packet, payload, ..
        } = any(rng, trial);
        Some(Shaped {
            named: Some(named),
            arriving: denied(Reason::NotReceiversAddress),
            ..Shaped::judged(&packet.destination_ip(named), payload)
        })
    }),
];

/// A right packet.
pub(super) struct Right {
    pub(super) packet: Packet,
    /// Payload that it is about.
    pub(super) payload: Payload,
    /// Bytes of the transport header that nobody can do without.
    pub(super) least: usize,
}

/// Of any protocol.
pub(super) fn any(rng: &mut Rng, trial: &Trial<'_>) -> Right {
    match rng.u8(..16) {
        0..=8 => ported(rng, trial),
        9..=12 => echo(rng, trial),
        _ => bare(rng, trial),
    }
}

/// Of a protocol with ports, nothing behind the header but what SCTP must have.
pub(super) fn ported(rng: &mut Rng, trial: &Trial<'_>) -> Right {
    let port = port(rng);
    // A reply's shape earns nothing: who speaks from an allowed port is judged alike.
    let from = [40_000, PORTS[rng.usize(..PORTS.len())]][rng.usize(..2)];
    let (packet, number, least) = match rng.u8(..4) {
        0 | 1 => {
            let flags = match rng.bool() {
                true => flag::SYN,
                false => rng.u16(..0x200),
            };
            (tcp().sport(from).dport(port).flag(flags).erased(), 6, 20)
        }
        2 => (udp().sport(from).dport(port).erased(), 17, 8),
        _ if rng.bool() => (sctp().sport(from).dport(port).init(1).erased(), 132, 12),
        _ => (
            sctp().sport(from).dport(port).data(1, b"data").erased(),
            132,
            12,
        ),
    };
    Right {
        packet: addressed(packet, trial),
        payload: Payload::Port(number, port),
        least,
    }
}

fn echo(rng: &mut Rng, trial: &Trial<'_>) -> Right {
    let is_v6 = trial.family == Family::V6;
    // One family's ICMP in the other is a protocol like any other.
    let foreign = rng.u8(..8) == 0;
    let (packet, payload) = if is_v6 != foreign {
        // Not what neighbours say to each other.
        let kinds = [1, 2, 3, 4, 100, 127, 128, 129, 138, 160, 200];
        let (kind, code) = (kinds[rng.usize(..kinds.len())], rng.u8(..3));
        (icmpv6(kind, code), Payload::Icmp(58, kind, code))
    } else {
        let kinds = [0, 3, 4, 5, 8, 11, 12, 13, 17, 40];
        let (kind, code) = (kinds[rng.usize(..kinds.len())], rng.u8(..3));
        (icmp(kind, code), Payload::Icmp(1, kind, code))
    };
    Right {
        packet: addressed(packet.echo(rng.u16(..), 1).erased(), trial),
        payload,
        least: 8,
    }
}

/// Of a protocol that has a number alone.
fn bare(rng: &mut Rng, trial: &Trial<'_>) -> Right {
    let number = loop {
        let number = match rng.bool() {
            true => [4, 41, 47, 50, 89, 103, 255][rng.usize(..7)],
            false => rng.u8(..),
        };
        // IGMP has shapes of its own.
        let with_header = [1, 2, 6, 17, 58, 132];
        // Where IPv6 has extension headers, and numbers that it gives to no
        // transport (RFC 8200, 4; RFC 4727, 3.3).
        let of_v6 = [
            protocol::HOP_BY_HOP,
            protocol::ROUTING,
            protocol::FRAGMENT,
            protocol::AUTHENTICATION,
            protocol::NO_NEXT_HEADER,
            protocol::DESTINATION_OPTIONS,
            protocol::MOBILITY,
            protocol::HIP,
            protocol::SHIM6,
            253,
            254,
        ];
        let taken = trial.family == Family::V6 && of_v6.contains(&number);
        if !with_header.contains(&number) && !taken {
            break number;
        }
    };
    Right {
        packet: addressed(ip_protocol(number).payload(&bytes(rng, 40)).erased(), trial),
        payload: Payload::Bare(number),
        least: 0,
    }
}

/// From the sender to the receiver.
pub(super) fn addressed(packet: Packet, trial: &Trial<'_>) -> Packet {
    packet
        .family(trial.family)
        .from(trial.end(trial.source))
        .to(trial.end(trial.destination))
}

/// A port that rules are about, one beside it, or any.
pub(super) fn port(rng: &mut Rng) -> u16 {
    let port = PORTS[rng.usize(..PORTS.len())];
    match rng.u8(..8) {
        0 => port.wrapping_add(1),
        1 => rng.u16(..),
        _ => port,
    }
}

/// Up to so many random bytes; at least one.
pub(super) fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.usize(1..=most);
    (0..length).map(|_| rng.u8(..)).collect()
}

/// Up to so many bytes of IPv4 options that are no source route, each as long as it
/// says; at least one.
pub(super) fn options(rng: &mut Rng, most: usize) -> Vec<u8> {
    const END: u8 = 0;
    let mut options = vec![option::NOTHING];
    while options.len() + 3 <= most && rng.u8(..8) > 0 {
        match rng.u8(..4) {
            0 => options.push(option::NOTHING),
            1 => {
                // What follows the end is no option, whatever it looks like.
                options.push(END);
                let rest = rng.usize(..=most - options.len());
                options.extend((0..rest).map(|_| rng.u8(..)));
                break;
            }
            _ => {
                let kind = loop {
                    let kind = rng.u8(2..);
                    if !option::SOURCE_ROUTES.contains(&kind) {
                        break kind;
                    }
                };
                let room = most - options.len();
                let length = rng.usize(2..=room.min(12));
                options.extend([kind, length as u8]);
                options.extend((2..length).map(|_| rng.u8(..)));
            }
        }
    }
    options
}
