//! Source addresses that are not the sender's.

use std::net::IpAddr;

use cofferdam_verdict::reason::Reason;

use super::super::trial::{Who, one_of};
use super::right::any;
use super::{Expected, Shaped, Shapes, denied};
use crate::{
    generate::{OTHER_NODE, OUTSIDE},
    packet::Family,
};

pub(super) const SHAPES: Shapes = &[
    ("a local workload's address", |rng, trial| {
        let others: Vec<Who<'_>> = trial.other_pods().collect();
        let other = others[rng.usize(..others.len())];
        let packet = any(rng, trial).packet.source_ip(trial.address(other));
        Some(Shaped::unjudged(
            &packet,
            denied(Reason::SpoofedSource),
            denied(Reason::ForeignLocalAddress),
        ))
    }),
    ("somebody else's address", |rng, trial| {
        let other = match rng.u8(..3) {
            0 => trial.address(Who::Node),
            1 => one_of(rng, OTHER_NODE.addresses, trial.family),
            _ => one_of(rng, &OUTSIDE, trial.family),
        };
        Some(Shaped::unjudged(
            &any(rng, trial).packet.source_ip(other),
            denied(Reason::SpoofedSource),
            // Whose address it is decides there, which is another question.
            Expected::Anything,
        ))
    }),
    ("an address that nobody sends from", |rng, trial| {
        let v4 = [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "169.254.169.254",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ];
        let v6 = [
            "::",
            "::1",
            "::10.64.0.2",
            "::ffff:10.64.0.2",
            "64:ff9b::10.64.0.2",
            "2002:a40:2::1",
            "fe80::99",
            "ff02::1",
        ];
        let text = match trial.family {
            Family::V4 => v4[rng.usize(..v4.len())],
            Family::V6 => v6[rng.usize(..v6.len())],
        };
        let address: IpAddr = text.parse().expect("an address");
        Some(Shaped::unjudged(
            &any(rng, trial).packet.source_ip(address),
            denied(Reason::SpoofedSource),
            Expected::Anything,
        ))
    }),
];
