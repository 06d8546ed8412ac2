//! Frames whose receiver is not the one that the packet names, and pairs that policy keeps
//! apart.

use std::net::IpAddr;

use cofferdam_verdict::{counter::Hook, reason::Reason};

use super::{Attack, Cast, Isolation, Party, Row, Scenario, cast::SHUT_PORT, scenario};
use crate::packet::{Body, Family, Mac, Packet, Udp, tcp, udp};

/// A MAC address that no host has.
const NOBODY: Mac = Mac::local(0x77, 0x77);

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "an isolated sender reaches nobody through a group address",
        Row::Receivers,
        Isolation::SENDER,
        |cast| {
            let attack = cast
                .attack(to_group(cast, Party::A, 0))
                .dropped(Reason::Isolated);
            Some(attack.kept_routed("only the node is on the link"))
        },
    ),
    scenario(
        "a group address opens no receiver that policy closes",
        Row::Receivers,
        &[Isolation::Ingress],
        |cast| {
            cast.setup.is_bridged().then_some(())?;
            // On the link are `a`, `c` and the node; `a` and `c` take nothing from `b`.
            let attack = cast.attack(to_group(cast, Party::B, 0)).by(Party::B);
            Some(attack.denied_times(Hook::ToWorkload, Reason::Isolated, 2))
        },
    ),
    scenario(
        "a single address in a group's frame opens no receiver",
        Row::Receivers,
        Isolation::CLOSED,
        |cast| {
            cast.setup.is_bridged().then_some(())?;
            // `b` may reach the outside, and neither `a` nor `c`.
            let packet = cast
                .between(cast.udp(), Party::B, Party::Outside)
                .via(Mac::BROADCAST);
            let attack = cast.attack(packet).by(Party::B);
            Some(attack.denied_times(Hook::ToWorkload, Reason::Isolated, 2))
        },
    ),
    scenario(
        "a frame for a neighbour under an allowed address is dropped",
        Row::Receivers,
        Isolation::ALL,
        |cast| {
            cast.setup.is_bridged().then_some(())?;
            let b = cast.end(Party::B).mac;
            let attack = cast
                .attack(cast.between(cast.udp(), Party::A, Party::C).via(b))
                .then(cast.between(cast.udp(), Party::A, Party::Outside).via(b));
            Some(attack.denied(Hook::ToWorkload, Reason::NotReceiversAddress))
        },
    ),
    scenario(
        "a flooded frame reaches nobody whose address it does not bear",
        Row::Receivers,
        Isolation::ALL,
        |cast| {
            cast.setup.is_bridged().then_some(())?;
            let packet = cast
                .between(cast.udp(), Party::A, Party::Outside)
                .via(NOBODY);
            // Both other ports of the bridge get it.
            Some(
                cast.attack(packet)
                    .denied_times(Hook::ToWorkload, Reason::NotReceiversAddress, 2),
            )
        },
    ),
    scenario(
        "a packet to its own sender's address is dropped",
        Row::Receivers,
        Isolation::ALL,
        |cast| {
            let packet = cast.udp().destination_ip(cast.ip(Party::A));
            Some(cast.attack(packet).dropped(Reason::SelfOnWire))
        },
    ),
    scenario(
        "two workloads with one port at both ends stay apart",
        Row::ReverseTuple,
        Isolation::CLOSED,
        |cast| {
            let packet = || {
                udp()
                    .sport(cast.port())
                    .dport(cast.port())
                    .payload(&cast.mark())
            };
            Some(apart(cast, [packet(), packet(), packet()]))
        },
    ),
    scenario(
        "a SYN from each of two workloads opens nothing",
        Row::ReverseTuple,
        Isolation::CLOSED,
        |cast| {
            let segment = || {
                tcp()
                    .sport(cast.port())
                    .dport(cast.port())
                    .payload(&cast.mark())
            };
            let packets = [
                segment().syn(),
                segment().syn().ack(),
                segment().ack().psh(),
            ];
            Some(apart(cast, packets))
        },
    ),
    scenario(
        "a pair that policy opens in one direction stays closed in the other",
        Row::ReverseTuple,
        Isolation::CLOSED,
        |cast| {
            // `b` may answer `a`, and open nothing to it.
            let packet = udp()
                .sport(SHUT_PORT)
                .dport(SHUT_PORT)
                .payload(&cast.mark());
            let to_b = cast.between(packet.clone(), Party::A, Party::B);
            let to_a = cast.between(packet, Party::B, Party::A);
            let attack = cast
                .attack(to_b.clone())
                .then_by(Party::B, to_a.clone())
                .then(to_b)
                .then_by(Party::B, to_a);
            Some(attack.dropped(Reason::Isolated))
        },
    ),
];

/// `b` and `c`, between which nothing is allowed, send each of these to each other.
fn apart<S: Body>(cast: &Cast<'_>, packets: [Packet<S>; 3]) -> Attack {
    let [first, rest @ ..] = packets;
    let to_c = |packet| cast.between(packet, Party::B, Party::C);
    let to_b = |packet| cast.between(packet, Party::C, Party::B);
    let attack = cast
        .attack(to_c(first.clone()))
        .by(Party::B)
        .then_by(Party::C, to_b(first));
    rest.into_iter()
        .fold(attack, |attack, packet| {
            let attack = attack.then_by(Party::B, to_c(packet.clone()));
            attack.then_by(Party::C, to_b(packet))
        })
        .dropped(Reason::Isolated)
}

/// A marked datagram of a party to everyone on its link.
fn to_group(cast: &Cast<'_>, from: Party, kind: usize) -> Packet<Udp> {
    let groups = match cast.family {
        Family::V4 => ["255.255.255.255", "224.0.0.251"],
        Family::V6 => ["ff02::1", "ff02::fb"],
    };
    let group: IpAddr = groups[kind].parse().expect("an address");
    let mac = Mac::of_multicast(group).expect("a group has one");
    cast.between(cast.udp(), from, Party::Outside)
        .destination_ip(group)
        .via(mac)
}
