//! Messages of neighbours to each other in IPv6 (RFC 4861).

use std::net::{IpAddr, Ipv6Addr};

use cofferdam_verdict::reason::Reason;
use fastrand::Rng;

use super::{Expected, Shaped, Shapes, Trial, Who, allowed, denied};
use crate::packet::{
    Extension, Family, Icmp, Mac, Packet, neighbour_advertisement, neighbour_solicitation,
    redirect, router_advertisement, router_solicitation,
};

/// A hook before a workload lets every message through that came over this link
/// alone: who sent it was for the hook behind the sender to say.
const ARRIVES: Expected = allowed(Reason::NeighbourDiscovery);

pub(super) const SHAPES: Shapes = &[
    ("neighbour discovery", |rng, trial| {
        let message = truthful(rng, trial)?;
        Some(told(&message, allowed(Reason::NeighbourDiscovery), ARRIVES))
    }),
    ("neighbour discovery from off the link", |rng, trial| {
        let message = truthful(rng, trial)?.hop_limit(rng.u8(..255));
        let denied = denied(Reason::UntruthfulNd);
        Some(told(&message, denied, denied))
    }),
    ("neighbour discovery in pieces", |rng, trial| {
        let message = truthful(rng, trial)?.fragment(rng.u32(..), 0, true);
        let denied = denied(Reason::UntruthfulNd);
        Some(told(&message, denied, denied))
    }),
    ("neighbour discovery in another's name", |rng, trial| {
        let other = trial.other_pods().next()?;
        let message = match rng.u8(..3) {
            0 => advertised(trial, trial.address(other))?,
            1 => asked(trial)?.source_link_address(trial.mac(other)),
            _ => advertised(trial, trial.address(trial.source))?
                .target_link_address(Mac([2, 0, 0, 0, 0, 0x77])),
        };
        Some(told(&message, denied(Reason::UntruthfulNd), ARRIVES))
    }),
    (
        "neighbour discovery from another's address",
        |rng, trial| {
            let other = trial.other_pods().next()?;
            let message = truthful(rng, trial)?.source_ip(trial.address(other));
            Some(told(&message, denied(Reason::SpoofedSource), ARRIVES))
        },
    ),
    (
        "neighbour discovery with options that do not end",
        |rng, trial| {
            let bytes: &[u8] = match rng.u8(..3) {
                0 => &[1, 0, 0, 0, 0, 0, 0, 0],
                1 => &[1, 2, 0, 0, 0, 0, 0, 0],
                _ => &[14, 1, 0, 0],
            };
            let message = asked(trial)?.nd_option_bytes(bytes);
            let denied = denied(Reason::UntruthfulNd);
            Some(told(&message, denied, denied))
        },
    ),
    ("neighbour discovery behind another header", |rng, trial| {
        let message = truthful(rng, trial)?.extension(match rng.u8(..3) {
            0 => Extension::fragment(rng.u32(..), 0, false),
            1 => Extension::hop_by_hop(&[]),
            _ => Extension::destination_options(&vec![0; rng.usize(..100)]),
        });
        let denied = denied(Reason::UntruthfulNd);
        Some(told(&message, denied, denied))
    }),
    ("neighbour discovery with much to say", |rng, trial| {
        let option =
            |message: Packet<Icmp>, bytes: usize| message.nd_option(14, &vec![7; bytes - 2]);
        let message = truthful(rng, trial)?;
        let message = match rng.u8(..3) {
            0 => option(message, rng.usize(5..180) * 8),
            1 => (0..rng.usize(5..30)).fold(message, |message, _| option(message, 8)),
            _ => message.trailer(&vec![7; rng.usize(1..1400)]),
        };
        let denied = denied(Reason::SignallingSize);
        Some(told(&message, denied, denied))
    }),
    ("router advertisement", |_, trial| {
        let message = from_source(trial, router_advertisement())?
            .prefix(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 64);
        Some(told(&message, denied(Reason::RouterAdvertisement), ARRIVES))
    }),
    ("redirect", |_, trial| {
        let (IpAddr::V6(target), IpAddr::V6(to)) = (
            trial.address(trial.source),
            trial.address(trial.destination),
        ) else {
            return None;
        };
        let message = from_source(trial, redirect(target, to))?;
        Some(told(
            &message.to(trial.end(trial.destination)),
            denied(Reason::Redirect),
            ARRIVES,
        ))
    }),
];

/// Asks for the receiver.
fn asked(trial: &Trial<'_>) -> Option<Packet<Icmp>> {
    match trial.address(trial.destination) {
        IpAddr::V6(target) => from_source(trial, neighbour_solicitation(target)),
        IpAddr::V4(_) => None,
    }
}

/// Tells the receiver where an address is. A workload's neighbours are workloads.
fn advertised(trial: &Trial<'_>, target: IpAddr) -> Option<Packet<Icmp>> {
    if matches!(trial.source, Who::Pod(_)) && !matches!(trial.destination, Who::Pod(_)) {
        return None;
    }
    match target {
        IpAddr::V6(target) => {
            let message = from_source(trial, neighbour_advertisement(target))?;
            Some(message.to(trial.end(trial.destination)))
        }
        IpAddr::V4(_) => None,
    }
}

/// A message in which all is the sender's own.
fn truthful(rng: &mut Rng, trial: &Trial<'_>) -> Option<Packet<Icmp>> {
    let own = trial.mac(trial.source);
    match rng.u8(..5) {
        0 => asked(trial),
        1 => asked(trial).map(|message| message.source_link_address(own)),
        2 => advertised(trial, trial.address(trial.source)),
        3 => advertised(trial, trial.address(trial.source))
            .map(|message| message.target_link_address(own)),
        _ => from_source(trial, router_solicitation()),
    }
}

fn from_source(trial: &Trial<'_>, message: Packet<Icmp>) -> Option<Packet<Icmp>> {
    (trial.family == Family::V6).then(|| message.from(trial.end(trial.source)))
}

fn told(message: &Packet<Icmp>, leaving: Expected, arriving: Expected) -> Shaped {
    Shaped::unjudged(&message.clone().erased(), leaving, arriving)
}
