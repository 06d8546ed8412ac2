//! IP headers: options, versions, lengths, extension headers.

use cofferdam_verdict::{counter::Hook, reason::Reason};

use super::{Cast, Isolation, Party, Row, Scenario, cast::SHUT_PORT, scenario};
use crate::packet::{Extension, Family, Packet, Tcp, ethertype, no_next_header, protocol, udp};

const BAD_HEADER: &str = "IP drops what contradicts itself";

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "options that look like an allowed port do not hide the real one",
        Row::Options,
        Isolation::CLOSED,
        |cast| {
            v4(cast)?;
            let [high, low] = cast.port().to_be_bytes();
            // Where the ports of a packet without options are: one that may be ignored.
            let mimic = [high, low, 0, 80];
            let plain = shut(cast).ip_options(&[1; 4]);
            let long = shut(cast).ip_options(&[[0x9e, 40].as_slice(), &[0; 38]].concat());
            let shaped = shut(cast).ip_options(&[[0x9e, 8].as_slice(), &mimic, &[0; 2]].concat());
            Some(
                cast.attack(plain)
                    .then(long)
                    .then(shaped)
                    .denied(cast.deciding_hook(), Reason::Isolated),
            )
        },
    ),
    scenario(
        "a header length below the least is dropped",
        Row::Options,
        Isolation::ALL,
        |cast| {
            v4(cast)?;
            let attack = (0..4).fold(cast.attack(cast.udp().ihl(4)), |attack, words| {
                attack.then(cast.udp().ihl(words))
            });
            Some(attack.dropped(Reason::Malformed).kept_routed(BAD_HEADER))
        },
    ),
    scenario(
        "a header longer than the packet is dropped",
        Row::Options,
        Isolation::ALL,
        |cast| {
            v4(cast)?;
            let packet = udp().sport(cast.port());
            let packet = cast.between(packet, Party::A, Party::B).ihl(15);
            Some(
                cast.attack(packet)
                    .dropped(Reason::Malformed)
                    .kept_routed(BAD_HEADER),
            )
        },
    ),
    scenario(
        "another IP version than the EtherType's is dropped",
        Row::Versions,
        Isolation::ALL,
        |cast| {
            let (version, other) = match cast.family {
                Family::V4 => (6, ethertype::IPV6),
                Family::V6 => (4, ethertype::IPV4),
            };
            let attack = cast
                .attack(cast.udp().version(version))
                .then(cast.udp().version(0))
                .then(cast.udp().ethertype(other).padded_to(80));
            Some(attack.dropped(Reason::Malformed).kept_routed(BAD_HEADER))
        },
    ),
    scenario(
        "a policy about IPv4 blocks opens nothing in IPv6",
        Row::Versions,
        Isolation::SENDER,
        |cast| {
            v6(cast)?;
            let packet = udp().sport(cast.port()).dport(82).payload(&cast.mark());
            Some(cast.forbidden(cast.between(packet, Party::A, Party::Outside)))
        },
    ),
    scenario(
        "a length past the frame is dropped",
        Row::Lengths,
        Isolation::ALL,
        |cast| {
            let attack = cast
                .attack(cast.udp().ip_length(2000))
                .then(cast.udp().ip_length(u16::MAX));
            Some(attack.dropped(Reason::Malformed).kept_routed(BAD_HEADER))
        },
    ),
    scenario(
        "a length short of the transport header is dropped",
        Row::Lengths,
        Isolation::ALL,
        |cast| {
            let header = match cast.family {
                Family::V4 => 20,
                Family::V6 => 0,
            };
            let attack = cast
                .attack(cast.udp().ip_length(header + 7))
                .then(cast.syn().ip_length(header + 19));
            Some(
                attack
                    .dropped(Reason::Malformed)
                    .kept_routed("the cut packet loses what marks it"),
            )
        },
    ),
    scenario(
        "a length short of the IP header is dropped",
        Row::Lengths,
        Isolation::ALL,
        |cast| {
            v4(cast)?;
            let attack = cast
                .attack(cast.udp().ip_length(0))
                .then(cast.udp().ip_length(19));
            Some(attack.dropped(Reason::Malformed).kept_routed(BAD_HEADER))
        },
    ),
    scenario(
        "a frame cut inside its headers is dropped",
        Row::Lengths,
        Isolation::ALL,
        |cast| {
            let headers = cast.udp().bytes().len() - cast.mark().len();
            let attack = cast
                .attack_bytes(cast.udp().truncated(headers - 1))
                .then_bytes(cast.syn().truncated(headers + 11))
                .then_bytes(cast.udp().truncated(headers - 9));
            Some(attack.dropped(Reason::Malformed).kept_routed(BAD_HEADER))
        },
    ),
    scenario(
        "a TCP header shorter than the least or longer than the segment is dropped",
        Row::Lengths,
        Isolation::ALL,
        |cast| {
            let attack = cast
                .attack(cast.syn().data_offset(0))
                .then(cast.syn().data_offset(4));
            Some(
                attack
                    .then(cast.syn().data_offset(15))
                    .dropped(Reason::Malformed),
            )
        },
    ),
    scenario(
        "a UDP length that lies is dropped",
        Row::Lengths,
        Isolation::ALL,
        |cast| {
            let attack = cast
                .attack(cast.udp().udp_length(7))
                .then(cast.udp().udp_length(0));
            Some(
                attack
                    .then(cast.udp().udp_length(200))
                    .dropped(Reason::Malformed),
            )
        },
    ),
    scenario(
        "the port behind extension headers is the one that counts",
        Row::Chains,
        Isolation::CLOSED,
        |cast| {
            v6(cast)?;
            // Ports of an allowed packet stand where those of a plain one would.
            let mimic = [0x9c, 0x40, 0, 80, 0, 0];
            let options = |n| {
                Extension::destination_options(&[&[0x1e, n], &mimic[..usize::from(n)]].concat())
            };
            let attack = cast
                .attack(shut(cast).extension(options(4)))
                .then(
                    shut(cast)
                        .extension(Extension::hop_by_hop(&[]))
                        .extension(options(6)),
                )
                .then(shut(cast).extensions(8, Extension::destination_options(&[])));
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "ten and sixty extension headers are dropped",
        Row::Chains,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let many = |n| {
                cast.udp()
                    .extensions(n, Extension::destination_options(&[]))
            };
            Some(
                cast.attack(many(10))
                    .then(many(60))
                    .dropped(Reason::Ipv6Chain),
            )
        },
    ),
    scenario(
        "an extension header of a kilobyte is dropped",
        Row::Chains,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let long = Extension::destination_options(&[0; 1000]);
            let mut attack = cast.attack(cast.udp().extension(long));
            if cast.setup.mtu > 4000 {
                attack = attack.then(
                    cast.udp()
                        .extension(Extension::destination_options(&[0; 2038])),
                );
            }
            Some(attack.dropped(Reason::Ipv6Chain))
        },
    ),
    scenario(
        "extension headers in a forbidden place are dropped",
        Row::Chains,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let late = cast
                .udp()
                .extension(Extension::destination_options(&[]))
                .extension(Extension::hop_by_hop(&[]));
            let twice = cast.udp().extensions(2, Extension::fragment(7, 0, false));
            Some(cast.attack(late).then(twice).dropped(Reason::Ipv6Chain))
        },
    ),
    scenario(
        "an extension header past the packet is dropped",
        Row::Chains,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let long = Extension::destination_options(&[]).with_length(40);
            Some(
                cast.attack(cast.udp().extension(long))
                    .dropped(Reason::Malformed),
            )
        },
    ),
    scenario(
        "nothing behind the header, and experiments, are dropped",
        Row::OddHeaders,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let nothing = cast.between(no_next_header().payload(&cast.mark()), Party::A, Party::B);
            let attack = cast.attack(nothing);
            let kinds = [protocol::MOBILITY, protocol::HIP, protocol::SHIM6, 253, 254];
            let attack = kinds.into_iter().fold(attack, |attack, kind| {
                attack.then(cast.udp().extension(Extension::measured(kind, &[])))
            });
            Some(attack.dropped(Reason::Ipv6Chain))
        },
    ),
    scenario(
        "a jumbogram is dropped",
        Row::OddHeaders,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let jumbo = cast.udp().extension(Extension::jumbo(70_000)).ip_length(0);
            Some(
                cast.attack(jumbo)
                    .dropped(Reason::Malformed)
                    .kept_routed(BAD_HEADER),
            )
        },
    ),
    scenario(
        "an authentication header does not hide the port",
        Row::OddHeaders,
        Isolation::CLOSED,
        |cast| {
            v6(cast)?;
            let packet = shut(cast).extension(Extension::authentication(&[0; 12]));
            Some(cast.forbidden(packet))
        },
    ),
    scenario(
        "a source route is dropped",
        Row::Options,
        Isolation::ALL,
        |cast| {
            v4(cast)?;
            let [a, b, c, d] = cast.end(Party::C).ipv4?.octets();
            // One more hop; and one that is behind the packet already.
            let loose = cast.udp().ip_options(&[131, 7, 4, a, b, c, d]);
            let strict = cast.udp().ip_options(&[1, 137, 7, 8, a, b, c, d]);
            let attack = cast.attack(loose).then(strict).dropped(Reason::SourceRoute);
            Some(attack.kept_routed("no node is on that route"))
        },
    ),
    scenario(
        "an option that leads out of the header is dropped",
        Row::Options,
        Isolation::ALL,
        |cast| {
            v4(cast)?;
            let attack = cast
                .attack(cast.udp().ip_options(&[0x9e, 40, 0, 0]))
                .then(cast.udp().ip_options(&[0x9e, 0, 0, 0]));
            Some(attack.dropped(Reason::Malformed).kept_routed(BAD_HEADER))
        },
    ),
    scenario(
        "a routing header with segments left is dropped",
        Row::Chains,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let via = cast.end(Party::C).ipv6?.octets();
            let route = |kind| {
                let route = Extension::routing(kind, 1, &[&[0; 4], &via[..]].concat());
                cast.udp().extension(route)
            };
            let attack = [2, 3, 4]
                .into_iter()
                .fold(cast.attack(route(0)), |attack, kind| {
                    attack.then(route(kind))
                });
            Some(attack.dropped(Reason::SourceRoute))
        },
    ),
    scenario(
        "a source route from outside is dropped",
        Row::Chains,
        Isolation::ALL,
        |cast| {
            v6(cast)?;
            let via = cast.end(Party::C).ipv6?.octets();
            let route = Extension::routing(0, 1, &[&[0; 4], &via[..]].concat());
            let packet = cast
                .between(cast.udp(), Party::Outside, Party::B)
                .extension(route);
            let attack = cast.attack(packet).by(Party::Outside);
            Some(attack.denied(Hook::ToWorkload, Reason::SourceRoute))
        },
    ),
];

fn v4(cast: &Cast<'_>) -> Option<()> {
    (cast.family == Family::V4).then_some(())
}

fn v6(cast: &Cast<'_>) -> Option<()> {
    (cast.family == Family::V6).then_some(())
}

/// A marked SYN to a port that policy does not open.
fn shut(cast: &Cast<'_>) -> Packet<Tcp> {
    cast.syn().dport(SHUT_PORT)
}
