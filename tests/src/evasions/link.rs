//! Tags, EtherTypes, MAC addresses and ARP.

use cofferdam_verdict::reason::Reason;

use super::{Isolation, Party, Row, Scenario, scenario};
use crate::packet::{
    Arp, Family, Mac, Packet, arp_announcement, arp_reply, arp_request, ether, ethertype, llc,
};

/// EtherTypes of protocols that a workload has no business with: RARP, LLDP, PTP,
/// Realtek's, ATA over Ethernet, and one for experiments.
const UNKNOWN: [u16; 6] = [0x8035, 0x88cc, 0x88f7, 0x8899, 0x88a2, 0x88b5];
const ROUTER: &str = "a router forwards IP alone";
const LINK: &str = "ARP stays on its link";

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "a tagged frame is dropped",
        Row::Tags,
        Isolation::ALL,
        |cast| {
            let attack = cast.attack(cast.udp().vlan(5)).dropped(Reason::VlanTag);
            Some(attack.kept_routed("the node has no interface in this VLAN"))
        },
    ),
    scenario(
        "a priority tag is dropped",
        Row::Tags,
        Isolation::ALL,
        |cast| {
            let packet = cast.udp().vlan(0);
            Some(cast.attack(packet).dropped(Reason::VlanTag))
        },
    ),
    scenario("two tags are dropped", Row::Tags, Isolation::ALL, |cast| {
        let attack = cast
            .attack(cast.udp().qinq(2, 3))
            .then(cast.udp().vlan(0).vlan(3))
            .dropped(Reason::VlanTag);
        Some(attack.kept_routed("the node has no interface in these VLANs"))
    }),
    scenario(
        "priority tags of both kinds are dropped",
        Row::Tags,
        Isolation::ALL,
        |cast| {
            // A router looks through each of them.
            let twice = cast.udp().vlan(0).vlan(0);
            let attack = cast
                .attack(twice)
                .then(cast.udp().tag(ethertype::SERVICE_VLAN, 0));
            Some(attack.dropped(Reason::VlanTag))
        },
    ),
    scenario("five tags are dropped", Row::Tags, Isolation::ALL, |cast| {
        let packet = (1..=5).fold(cast.udp(), |packet, vid| packet.vlan(vid));
        let attack = cast.attack(packet).dropped(Reason::VlanTag);
        Some(attack.kept_routed("the node has no interface in these VLANs"))
    }),
    scenario(
        "ARP under a tag is dropped",
        Row::Tags,
        Isolation::ALL,
        |cast| {
            let packet = arp(cast.family, arp_request())?
                .from(cast.end(Party::A))
                .to(cast.end(Party::B));
            let attack = cast.attack(packet.vlan(0)).dropped(Reason::VlanTag);
            Some(attack.kept_routed(LINK))
        },
    ),
    scenario(
        "a label stack or a session is dropped",
        Row::Ethertypes,
        Isolation::ALL,
        |cast| {
            let attack = cast.attack(cast.udp().mpls(16)).then(cast.udp().pppoe(9));
            Some(attack.dropped(Reason::Ethertype).kept_routed(ROUTER))
        },
    ),
    scenario(
        "an 802.3 frame is dropped",
        Row::Ethertypes,
        Isolation::ALL,
        |cast| {
            let spanning_tree = llc(0x42, 0x42, 3, &cast.mark());
            let spanning_tree = cast
                .between(spanning_tree, Party::A, Party::B)
                .padded_to(60);
            let attack = cast.attack(cast.udp().snap()).then(spanning_tree);
            Some(attack.dropped(Reason::Ethertype).kept_routed(ROUTER))
        },
    ),
    scenario(
        "encrypted frames and port authentication are dropped",
        Row::Ethertypes,
        Isolation::ALL,
        |cast| {
            let hidden = cast.udp().ethertype(ethertype::MACSEC);
            let login =
                ether(ethertype::EAPOL).payload(&[&[1, 1, 0, 0], &cast.mark()[..]].concat());
            let login = cast.between(login, Party::A, Party::B).padded_to(60);
            let attack = cast.attack(hidden).then(login);
            Some(attack.dropped(Reason::Ethertype).kept_routed(ROUTER))
        },
    ),
    scenario(
        "unknown EtherTypes are dropped",
        Row::Ethertypes,
        Isolation::ALL,
        |cast| {
            let frame = |kind| {
                let frame = ether(kind).payload(&cast.mark()).padded_to(60);
                cast.between(frame, Party::A, Party::B)
            };
            let first = cast.attack(frame(0x9100));
            let attack = UNKNOWN
                .into_iter()
                .fold(first, |attack, kind| attack.then(frame(kind)));
            Some(attack.dropped(Reason::Ethertype).kept_routed(ROUTER))
        },
    ),
    scenario(
        "a frame under another's MAC address is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let other = cast.udp().source_mac(cast.end(Party::C).mac);
            let attack = cast
                .attack(other)
                .then(cast.udp().source_mac(Mac::local(0x77, 7)));
            Some(attack.dropped(Reason::SpoofedMac))
        },
    ),
    scenario(
        "a child interface's own MAC address is dropped",
        Row::OwnInterface,
        Isolation::ALL,
        |cast| {
            let mut mac = cast.end(Party::A).mac;
            mac.0[5] ^= 1 << 7;
            Some(
                cast.attack(cast.udp().source_mac(mac))
                    .dropped(Reason::SpoofedMac),
            )
        },
    ),
    scenario(
        "a child interface's questions are dropped",
        Row::OwnInterface,
        Isolation::ALL,
        |cast| {
            let mut child = cast.end(Party::A);
            child.mac.0[5] ^= 1 << 7;
            let question = arp(
                cast.family,
                arp_request().from(child).to(cast.end(Party::B)),
            )?;
            let attack = cast
                .attack(question.padded_to(60))
                .dropped(Reason::SpoofedMac);
            Some(attack.kept_routed(LINK))
        },
    ),
    scenario(
        "ARP in another's name is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let [a, b, c, node] =
                [Party::A, Party::B, Party::C, Party::Node].map(|who| cast.end(who));
            let as_other = arp(cast.family, arp_reply().from(a).to(b).sender_ip(c.ipv4?))?;
            let as_gateway = arp_announcement().from(a).sender_ip(node.ipv4?);
            let as_receiver = arp_request().from(a).to(b).sender_ip(b.ipv4?);
            let attack = cast
                .attack(as_other.padded_to(60))
                .then(as_gateway.padded_to(60))
                .then(as_receiver.padded_to(60));
            Some(attack.dropped(Reason::UntruthfulArp).kept_routed(LINK))
        },
    ),
    scenario(
        "ARP that gives another's MAC address is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let [a, b, c] = [Party::A, Party::B, Party::C].map(|who| cast.end(who));
            let lie = arp(cast.family, arp_reply().from(a).to(b).sender_mac(c.mac))?;
            let lost = arp_announcement().from(a).sender_mac(Mac::BROADCAST);
            let attack = cast.attack(lie.padded_to(60)).then(lost.padded_to(60));
            Some(attack.dropped(Reason::UntruthfulArp).kept_routed(LINK))
        },
    ),
    scenario(
        "ARP of another form is dropped",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |cast| {
            let from_a = |arp: Packet<Arp>| arp.from(cast.end(Party::A)).to(cast.end(Party::B));
            let reverse = arp(cast.family, from_a(arp_request()).operation(3))?;
            let long = from_a(arp_request()).address_lengths(8, 16);
            let foreign = from_a(arp_reply()).kinds(6, 0x86dd);
            let attack = cast
                .attack(reverse.padded_to(60))
                .then(long.padded_to(60))
                .then(foreign.padded_to(60));
            Some(attack.dropped(Reason::UntruthfulArp).kept_routed(LINK))
        },
    ),
];

/// ARP, in the family that has it.
fn arp(family: Family, packet: Packet<Arp>) -> Option<Packet<Arp>> {
    (family == Family::V4).then_some(packet)
}
