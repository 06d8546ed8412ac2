//! Around IP: tags, other EtherTypes, and ARP.

use cofferdam_verdict::reason::Reason;
use fastrand::Rng;

use super::right::{addressed, any, bytes};
use super::{Shaped, Shapes, Trial, allowed, denied};
use crate::packet::{Arp, Family, Mac, Packet, arp_reply, arp_request, ether, ethertype};

pub(super) const SHAPES: Shapes = &[
    ("VLAN tags", |rng, trial| {
        let mut packet = any(rng, trial).packet;
        for _ in 0..rng.usize(1..5) {
            let vid = rng.u16(..4096);
            packet = match rng.u8(..4) {
                0 => packet.vlan(0),
                1 => packet.qinq(vid, 5),
                2 => packet.tag(ethertype::SERVICE_VLAN, vid),
                _ => packet.vlan(vid),
            };
        }
        Some(Shaped::dropped(&packet, Reason::VlanTag))
    }),
    ("unknown EtherType", |rng, trial| {
        let packet = any(rng, trial).packet;
        let packet = match rng.u8(..6) {
            0 => packet.mpls(rng.u32(16..1 << 20)),
            1 => packet.pppoe(rng.u16(..)),
            2 => packet.snap(),
            3 => packet.ethertype(ethertype::MACSEC),
            4 => packet.tag(0x9100, rng.u16(..)),
            _ => {
                let lengths = [ethertype::EAPOL, 0x88cc, 0x0026, 0x05dc];
                let ethertype = lengths[rng.usize(..lengths.len())];
                addressed(ether(ethertype).payload(&[0; 46]).erased(), trial)
            }
        };
        Some(Shaped::dropped(&packet, Reason::Ethertype))
    }),
    ("the other family's EtherType", |rng, trial| {
        let packet = any(rng, trial).packet.padded_to(80);
        let other = match trial.family {
            Family::V4 => ethertype::IPV6,
            Family::V6 => ethertype::IPV4,
        };
        Some(Shaped::dropped(&packet.ethertype(other), Reason::Malformed))
    }),
    ("ARP", |rng, trial| {
        Some(told(
            &arp(rng, trial)?,
            allowed(Reason::Arp),
            allowed(Reason::Arp),
        ))
    }),
    ("ARP with much to say", |rng, trial| {
        let arp = arp(rng, trial)?;
        let arp = match rng.bool() {
            true => arp.padded_to(rng.usize(61..1500)),
            false => arp.payload(&vec![7; rng.usize(19..1400)]),
        };
        let denied = denied(Reason::SignallingSize);
        Some(told(&arp, denied, denied))
    }),
    ("ARP in another's name", |rng, trial| {
        let arp = arp(rng, trial)?;
        let other = trial.other_pods().next()?;
        let lie = match (rng.bool(), trial.address(other)) {
            (true, std::net::IpAddr::V4(address)) => arp.sender_ip(address),
            _ => arp.sender_mac(trial.mac(other)),
        };
        Some(told(
            &lie,
            denied(Reason::UntruthfulArp),
            allowed(Reason::Arp),
        ))
    }),
    ("ARP that is none", |rng, trial| {
        let arp = arp(rng, trial)?;
        let lie = match rng.u8(..4) {
            0 => arp.operation(rng.u16(3..)),
            1 => arp.kinds(rng.u16(2..), ethertype::IPV4),
            2 => arp.kinds(1, ethertype::IPV6),
            _ => arp.address_lengths(8, 16),
        };
        let denied = denied(Reason::UntruthfulArp);
        Some(told(&lie, denied, denied))
    }),
    ("another's MAC", |rng, trial| {
        let right = any(rng, trial);
        let mac = match rng.u8(..3) {
            0 => Mac([0xff; 6]),
            1 => trial.mac(trial.other_pods().next()?),
            _ => {
                let mut mac = trial.mac(trial.source);
                mac.0[rng.usize(..6)] ^= 1 << rng.u8(..8);
                mac
            }
        };
        Some(Shaped {
            leaving: denied(Reason::SpoofedMac),
            // Behind a bridge or a router no MAC says who sent it.
            ..Shaped::judged(&right.packet.source_mac(mac), right.payload)
        })
    }),
    ("short of its headers", |rng, trial| {
        let packet = any(rng, trial).packet;
        let frame = packet.bytes();
        // The kernel makes no packet of less than an IP header.
        let least = match trial.family {
            Family::V4 => 34,
            Family::V6 => 54,
        };
        let length = rng.usize(least..frame.len());
        Some(Shaped {
            frame: packet.truncated(length),
            text: format!("{packet}, {length} bytes of it"),
            ..Shaped::dropped(&packet, Reason::Malformed)
        })
    }),
    ("noise", |rng, trial| {
        // Whatever a sender puts behind its own MAC: no road may take another.
        let mut packet = any(rng, trial).packet.padded_to(60).bytes();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(12..packet.len());
            packet[at] = rng.u8(..);
        }
        let shaped = Shaped::unjudged(
            &any(rng, trial).packet,
            super::Expected::Anything,
            super::Expected::Anything,
        );
        Some(Shaped {
            text: format!("{packet:02x?}"),
            frame: packet,
            ..shaped
        })
    }),
];

/// A truthful message.
fn arp(rng: &mut Rng, trial: &Trial<'_>) -> Option<Packet<Arp>> {
    (trial.family == Family::V4).then_some(())?;
    let arp = match rng.bool() {
        true => arp_request(),
        false => arp_reply(),
    };
    let arp = arp
        .from(trial.end(trial.source))
        .to(trial.end(trial.destination));
    Some(match rng.bool() {
        true => arp.padded_to(60),
        false => arp.trailer(&bytes(rng, 10)),
    })
}

fn told(arp: &Packet<Arp>, leaving: super::Expected, arriving: super::Expected) -> Shaped {
    Shaped::unjudged(&arp.clone().erased(), leaving, arriving)
}
