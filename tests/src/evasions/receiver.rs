//! Frames whose receiver is not the one that the packet names.

use std::net::IpAddr;

use cofferdam_verdict::reason::Reason;

use super::{Cast, Isolation, Row, Scenario, scenario};
use crate::packet::{Family, Mac, Packet, Udp};

pub(super) const SCENARIOS: &[Scenario] = &[scenario(
    "an isolated sender reaches nobody through a group address",
    Row::Receivers,
    Isolation::SENDER,
    |cast| {
        let attack = cast.attack(to_group(cast)).dropped(Reason::Isolated);
        Some(attack.kept_routed("only the node is on the link"))
    },
)];

/// A marked datagram to everyone on the link.
fn to_group(cast: &Cast<'_>) -> Packet<Udp> {
    let group = match cast.family {
        Family::V4 => "255.255.255.255",
        Family::V6 => "ff02::1",
    };
    let group: IpAddr = group.parse().expect("an address");
    let mac = Mac::of_multicast(group).expect("a group has one");
    cast.udp().destination_ip(group).via(mac)
}
