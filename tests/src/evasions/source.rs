//! Source addresses that are not the sender's.

use std::net::IpAddr;

use cofferdam_verdict::{counter::Hook, reason::Reason};

use super::{Attack, Cast, Isolation, Party, Row, Scenario, scenario};
use crate::packet::Family;

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "another host's address as the source is dropped",
        Row::SpoofedSource,
        Isolation::ALL,
        |cast| {
            let unowned = address(cast, "10.64.99.99", "fd64::9999");
            let far = address(cast, "203.0.113.9", "2001:db8::9");
            let sources = [
                cast.ip(Party::C),
                cast.ip(Party::B),
                cast.ip(Party::Outside),
                unowned,
                far,
            ];
            Some(from_each(cast, &sources))
        },
    ),
    scenario(
        "the gateway's address as the source is dropped",
        Row::SpoofedSource,
        Isolation::ALL,
        |cast| {
            let attack = from_each(cast, &[cast.ip(Party::Node)]);
            Some(match cast.family {
                Family::V4 => attack.kept_routed("the node takes nothing from its own address"),
                Family::V6 => attack,
            })
        },
    ),
    scenario(
        "a source that no host has is dropped",
        Row::SpoofedSource,
        Isolation::ALL,
        |cast| {
            let sources = match cast.family {
                Family::V4 => ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"],
                Family::V6 => ["::1", "::", "ff02::1", "fe80::99"],
            };
            let attack = from_each(cast, &sources.map(|text| text.parse().expect("an address")));
            Some(attack.kept_routed("no router forwards from such an address"))
        },
    ),
    scenario(
        "link-local, metadata and reserved sources are dropped",
        Row::SpoofedSource,
        Isolation::ALL,
        |cast| {
            (cast.family == Family::V4).then_some(())?;
            let sources = [
                "169.254.169.254",
                "169.254.1.1",
                "240.0.0.1",
                "198.18.0.1",
                "0.1.2.3",
            ];
            Some(from_each(
                cast,
                &sources.map(|text| text.parse().expect("an address")),
            ))
        },
    ),
    scenario(
        "an IPv4 address inside an IPv6 one is dropped",
        Row::OddSources,
        Isolation::ALL,
        |cast| {
            (cast.family == Family::V6).then_some(())?;
            let sources = [
                "::10.64.0.2",
                "::ffff:10.64.0.2",
                "64:ff9b::10.64.0.2",
                "2002:a40:2::1",
            ];
            Some(from_each(
                cast,
                &sources.map(|text| text.parse().expect("an address")),
            ))
        },
    ),
    scenario(
        "a new address inside the workload is dropped",
        Row::OwnInterface,
        Isolation::ALL,
        |cast| {
            // As after `ip address add` in the workload: one beside its own, and one more.
            Some(from_each(
                cast,
                &[
                    address(cast, "10.64.0.77", "fd64::77"),
                    address(cast, "192.168.7.7", "fd77::7"),
                ],
            ))
        },
    ),
    scenario(
        "the outside with a local workload's address is dropped",
        Row::LocalAddress,
        Isolation::ALL,
        |cast| {
            let from_a = cast
                .between(cast.udp(), Party::Outside, Party::B)
                .source_ip(cast.ip(Party::A));
            let from_c = cast
                .between(cast.udp(), Party::Outside, Party::B)
                .source_ip(cast.ip(Party::C));
            let attack = cast.attack(from_a).then(from_c).by(Party::Outside);
            Some(attack.denied(Hook::ToWorkload, Reason::ForeignLocalAddress))
        },
    ),
    scenario(
        "a workload with another's address is dropped",
        Row::LocalAddress,
        Isolation::ALL,
        |cast| {
            let packet = cast
                .between(cast.udp(), Party::C, Party::B)
                .source_ip(cast.ip(Party::A));
            Some(
                cast.attack(packet)
                    .by(Party::C)
                    .dropped(Reason::SpoofedSource),
            )
        },
    ),
];

/// Datagrams of `a` to `b` that claim each of these sources.
fn from_each(cast: &Cast<'_>, sources: &[IpAddr]) -> Attack {
    let packet = |source: &IpAddr| cast.udp().source_ip(*source);
    let first = cast.attack(packet(&sources[0]));
    let rest = sources[1..].iter();
    rest.fold(first, |attack, source| attack.then(packet(source)))
        .dropped(Reason::SpoofedSource)
}

/// One of two addresses, by the attack's family.
fn address(cast: &Cast<'_>, v4: &str, v6: &str) -> IpAddr {
    let text = match cast.family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    text.parse().expect("an address")
}
