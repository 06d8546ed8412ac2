//! Neighbour discovery, multicast listeners, and a workload that plays the router.

use std::net::Ipv6Addr;

use cofferdam_verdict::reason::Reason;

use super::{Cast, Isolation, Party, Row, Scenario, scenario};
use crate::packet::{
    Body, Family, Icmp, Packet, icmpv6, neighbour_advertisement, neighbour_solicitation, redirect,
    router_advertisement, router_solicitation, udp,
};

const LINK: &str = "discovery stays on its link";

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "an advertisement of another's address is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let mac = cast.end(Party::A).mac;
            let lie = |target| neighbour_advertisement(target).target_link_address(mac);
            let attack = cast
                .attack(to(cast, lie(v6(cast, Party::C)?), Party::B))
                .then(everyone(cast, lie(v6(cast, Party::Node)?)))
                .then(everyone(cast, lie(v6(cast, Party::B)?)));
            Some(attack.dropped(Reason::UntruthfulNd).kept_routed(LINK))
        },
    ),
    scenario(
        "an advertisement of another's MAC address is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let own = neighbour_advertisement(v6(cast, Party::A)?);
            let lie = own.target_link_address(cast.end(Party::C).mac);
            Some(
                cast.attack(to(cast, lie, Party::B))
                    .dropped(Reason::UntruthfulNd)
                    .kept_routed(LINK),
            )
        },
    ),
    scenario(
        "a question in another's name is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let question = neighbour_solicitation(v6(cast, Party::B)?);
            let mac = cast.end(Party::A).mac;
            let lie = question
                .source_link_address(mac)
                .source_ip(cast.ip(Party::C));
            let attack = cast.attack(to(cast, lie, Party::B));
            Some(attack.dropped(Reason::SpoofedSource).kept_routed(LINK))
        },
    ),
    scenario(
        "a question that gives another's MAC address is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let question = neighbour_solicitation(v6(cast, Party::B)?);
            let lie = question.source_link_address(cast.end(Party::C).mac);
            Some(
                cast.attack(to(cast, lie, Party::B))
                    .dropped(Reason::UntruthfulNd)
                    .kept_routed(LINK),
            )
        },
    ),
    scenario(
        "no source but in duplicate address detection",
        Row::OddSources,
        Isolation::ALL,
        |cast| {
            let none = Ipv6Addr::UNSPECIFIED;
            let foreign = neighbour_solicitation(v6(cast, Party::B)?).source_ip(none);
            let named = neighbour_solicitation(v6(cast, Party::A)?)
                .source_ip(none)
                .source_link_address(cast.end(Party::A).mac);
            let attack = cast
                .attack(to(cast, foreign, Party::B))
                .then(to(cast, named, Party::B));
            Some(attack.dropped(Reason::SpoofedSource).kept_routed(LINK))
        },
    ),
    scenario(
        "discovery that has passed a router is dropped",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            let question = neighbour_solicitation(v6(cast, Party::B)?).hop_limit(254);
            let answer = neighbour_advertisement(v6(cast, Party::A)?).hop_limit(64);
            let attack = cast
                .attack(to(cast, question, Party::B))
                .then(to(cast, answer, Party::B));
            Some(attack.dropped(Reason::UntruthfulNd).kept_routed(LINK))
        },
    ),
    scenario(
        "discovery in fragments is dropped",
        Row::Signalling,
        Isolation::ALL,
        |cast| {
            let question = neighbour_solicitation(v6(cast, Party::B)?);
            let question = to(
                cast,
                question.source_link_address(cast.end(Party::A).mac),
                Party::B,
            );
            let pieces = question
                .identification(cast.identification())
                .fragments(&[24]);
            let first = cast.attack(pieces[0].clone());
            Some(first.dropped(Reason::UntruthfulNd).kept_routed(LINK))
        },
    ),
    scenario(
        "a router advertisement is dropped",
        Row::Routers,
        Isolation::ALL,
        |cast| {
            v6(cast, Party::B)?;
            let claim = router_advertisement()
                .source_link_address(cast.end(Party::A).mac)
                .prefix(Ipv6Addr::new(0xfdee, 0, 0, 0, 0, 0, 0, 0), 64);
            let attack = cast
                .attack(everyone(cast, claim.clone()))
                .then(to(cast, claim, Party::B));
            Some(
                attack
                    .dropped(Reason::RouterAdvertisement)
                    .kept_routed(LINK),
            )
        },
    ),
    scenario(
        "a redirect is dropped",
        Row::Routers,
        Isolation::ALL,
        |cast| {
            let advice = redirect(v6(cast, Party::A)?, v6(cast, Party::Outside)?);
            let attack = cast.attack(to(cast, advice, Party::B));
            Some(attack.dropped(Reason::Redirect).kept_routed(LINK))
        },
    ),
    scenario(
        "a DHCP server's answer is dropped",
        Row::Routers,
        Isolation::ALL,
        |cast| {
            let (server, client) = match cast.family {
                Family::V4 => (67, 68),
                Family::V6 => (547, 546),
            };
            let offer = udp().sport(server).dport(client).payload(&cast.mark());
            Some(
                cast.attack(cast.between(offer, Party::A, Party::B))
                    .dropped(Reason::DhcpServer),
            )
        },
    ),
    scenario(
        "messages that discovery does not know are judged like any packet",
        Row::Signalling,
        Isolation::CLOSED,
        |cast| {
            v6(cast, Party::B)?;
            let message = |kind| {
                let message = icmpv6(kind, 0).payload(&cast.mark()).hop_limit(255);
                cast.between(message, Party::A, Party::B)
            };
            let attack = [138, 139, 200, 255]
                .into_iter()
                .fold(cast.attack(message(100)), |attack, kind| {
                    attack.then(message(kind))
                });
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "a question for routers in another's name is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            v6(cast, Party::B)?;
            let question = router_solicitation().source_ip(cast.ip(Party::C));
            let question = to(
                cast,
                question.source_link_address(cast.end(Party::A).mac),
                Party::B,
            );
            Some(
                cast.attack(question)
                    .dropped(Reason::SpoofedSource)
                    .kept_routed(LINK),
            )
        },
    ),
];

/// A party's IPv6 address, in attacks of that family.
pub(super) fn v6(cast: &Cast<'_>, party: Party) -> Option<Ipv6Addr> {
    match cast.family {
        Family::V4 => None,
        Family::V6 => cast.end(party).ipv6,
    }
}

/// From `a` to a party on its link.
fn to<S: Body>(cast: &Cast<'_>, packet: Packet<S>, party: Party) -> Packet<S> {
    cast.between(packet, Party::A, party)
}

/// From `a` to everyone on its link.
fn everyone(cast: &Cast<'_>, packet: Packet<Icmp>) -> Packet<Icmp> {
    packet.from(cast.end(Party::A))
}
