//! Signalling as a tunnel: what passes whatever policy says is true and small.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_verdict::reason::Reason;

use super::{Cast, Isolation, Party, Row, Scenario, neighbour::v6, scenario};
use crate::packet::{
    Body, Extension, Family, Mac, Packet, arp_reply, arp_request, group_query, group_record,
    group_report, neighbour_advertisement, neighbour_solicitation, router_solicitation,
};

const LINK: &str = "signalling stays on its link";

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "discovery in an atomic fragment is dropped",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            let question = neighbour_solicitation(v6(cast, Party::B)?);
            let question = cast
                .between(
                    question.source_link_address(cast.end(Party::A).mac),
                    Party::A,
                    Party::B,
                )
                .extension(Extension::fragment(cast.identification(), 0, false));
            Some(
                cast.attack(question)
                    .dropped(Reason::UntruthfulNd)
                    .kept_routed(LINK),
            )
        },
    ),
    scenario(
        "ARP carries nothing behind itself",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            (cast.family == Family::V4).then_some(())?;
            let (b, c) = (cast.end(Party::B), cast.end(Party::C));
            let long = arp_reply().from(b).to(c).trailer(&padding(cast, 1400));
            let longer = arp_request().from(b).to(c).trailer(&padding(cast, 61 - 42));
            let attack = cast.attack(long).then(longer).by(Party::B);
            Some(attack.dropped(Reason::SignallingSize).kept_routed(LINK))
        },
    ),
    scenario(
        "discovery carries no large option and not many",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            let target = v6(cast, Party::C)?;
            let question = || between_closed(cast, neighbour_solicitation(target));
            let answer = between_closed(cast, neighbour_advertisement(v6(cast, Party::B)?));
            let large = padding(cast, 1400);
            let many = (0..5).fold(question(), |packet, _| {
                packet.nd_option(200, &padding(cast, 14))
            });
            let attack = cast
                .attack(question().nd_option(200, &large))
                .then(many)
                .then(answer.nd_option(200, &large));
            Some(attack.by(Party::B).dropped(Reason::SignallingSize))
        },
    ),
    scenario(
        "a question for routers carries no large option",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            v6(cast, Party::B)?;
            let question = router_solicitation().from(cast.end(Party::B));
            let attack = cast
                .attack(question.nd_option(200, &padding(cast, 38)))
                .by(Party::B);
            // A bridge shows it to routers alone.
            Some(attack.dropped(Reason::SignallingSize).kept_routed(LINK))
        },
    ),
    scenario(
        "discovery carries nothing behind itself",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            let question = between_closed(cast, neighbour_solicitation(v6(cast, Party::C)?));
            let attack = cast
                .attack(question.trailer(&padding(cast, 1400)))
                .by(Party::B);
            Some(
                attack
                    .dropped(Reason::SignallingSize)
                    .kept_routed("a router cuts off what is behind"),
            )
        },
    ),
    scenario(
        "reports of groups carry no more than their records",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            let b = cast.end(Party::B);
            let many: Vec<_> = (0..50)
                .map(|number| group_record(group(cast.family, number)))
                .collect();
            let many = group_report(cast.family, &many, None).from(b);
            let long = group_report(cast.family, &[group_record(group(cast.family, 1))], None)
                .payload(&padding(cast, 1000))
                .from(b);
            let attack = cast.attack(many).then(long).by(Party::B);
            Some(attack.dropped(Reason::SignallingSize).kept_routed(LINK))
        },
    ),
    scenario(
        "a question about groups is a router's",
        Row::Routers,
        Isolation::ALL,
        |cast| {
            let b = cast.end(Party::B);
            let everything: IpAddr = match cast.family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            let mut query = group_query(everything).from(b);
            if cast.family == Family::V6 {
                query = query.source_ip(link_local(b.mac));
            }
            let attack = cast
                .attack(query)
                .by(Party::B)
                .dropped(Reason::RouterAdvertisement);
            Some(attack.kept_routed("the node is the only router on the link"))
        },
    ),
];

/// From `b` to `c`, which may not talk at all.
fn between_closed<S: Body>(cast: &Cast<'_>, packet: Packet<S>) -> Packet<S> {
    cast.between(packet, Party::B, Party::C)
}

/// So many bytes that begin with the mark.
fn padding(cast: &Cast<'_>, length: usize) -> Vec<u8> {
    let mut bytes = cast.mark();
    bytes.resize(length, 0x2e);
    bytes
}

/// A group of this link.
pub(super) fn group(family: Family, number: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(239, 1, 1, number as u8).into(),
        Family::V6 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, number).into(),
    }
}

/// The link-local address that follows from a MAC address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        (a ^ 2) << 8 | b,
        c << 8 | 0xff,
        0xfe00 | d,
        e << 8 | f,
    )
}
