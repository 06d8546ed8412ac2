//! Messages of hosts and routers about multicast groups (RFC 2236, RFC 3376, RFC 3810).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_verdict::reason::Reason;
use fastrand::Rng;

use super::{Shaped, Shapes, Trial, allowed, denied};
use crate::packet::{
    Family, Icmp, Packet, group_joined, group_left, group_query, group_record, group_report,
    group_source_query, multicast_router,
};

pub(super) const SHAPES: Shapes = &[
    ("groups reported", |rng, trial| {
        let message = from_source(trial, report(rng, trial.family));
        let passes = allowed(Reason::MulticastListener);
        Some(Shaped::unjudged(&message.erased(), passes, passes))
    }),
    ("groups reported in another's name", |rng, trial| {
        let other = trial.other_pods().next()?;
        let message = from_source(trial, report(rng, trial.family)).source_ip(trial.address(other));
        Some(Shaped::unjudged(
            &message.erased(),
            denied(Reason::SpoofedSource),
            allowed(Reason::MulticastListener),
        ))
    }),
    ("groups reported with much to say", |rng, trial| {
        let group = group(rng, trial.family);
        let message = match rng.u8(..5) {
            0 => {
                let least = match trial.family {
                    Family::V4 => 23,
                    Family::V6 => 10,
                };
                let records = vec![group_record(group); rng.usize(least..60)];
                group_report(trial.family, &records, None)
            }
            1 => {
                let sources = vec![trial.address(trial.source); rng.usize(5..40)];
                let record = group_record(group).sources(&sources);
                group_report(trial.family, &[record], None)
            }
            2 => {
                let record = group_record(group).auxiliary(&[7; 4].repeat(rng.usize(1..255)));
                group_report(trial.family, &[record], None)
            }
            3 => report(rng, trial.family).payload(&vec![7; rng.usize(1..1400)]),
            _ => report(rng, trial.family).trailer(&vec![7; rng.usize(20..1400)]),
        };
        let message = from_source(trial, message);
        Some(Shaped::dropped(&message.erased(), Reason::SignallingSize))
    }),
    ("groups asked for", |rng, trial| {
        let (family, group) = (trial.family, group(rng, trial.family));
        let sources = vec![trial.address(trial.source); rng.usize(..5)];
        let (message, arriving) = match rng.u8(..3) {
            0 => (group_query(group), allowed(Reason::MulticastListener)),
            1 => (
                group_source_query(group, &sources),
                allowed(Reason::MulticastListener),
            ),
            _ => (multicast_router(family), super::Expected::Anything),
        };
        let message = from_source(trial, message);
        let leaving = denied(Reason::RouterAdvertisement);
        Some(Shaped::unjudged(&message.erased(), leaving, arriving))
    }),
];

/// A report that a host may send.
fn report(rng: &mut Rng, family: Family) -> Packet<Icmp> {
    let group = group(rng, family);
    match rng.u8(..3) {
        0 => group_joined(group),
        1 => group_left(group),
        _ => {
            let records = vec![group_record(group).kind(rng.u8(1..7)); rng.usize(1..9)];
            group_report(family, &records, None)
        }
    }
}

fn group(rng: &mut Rng, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(rng.u8(224..240), rng.u8(..), rng.u8(..), rng.u8(..)).into(),
        Family::V6 => Ipv6Addr::new(
            0xff00 | rng.u16(..0x100),
            0,
            0,
            0,
            0,
            0,
            rng.u16(..),
            rng.u16(..),
        )
        .into(),
    }
}

fn from_source(trial: &Trial<'_>, message: Packet<Icmp>) -> Packet<Icmp> {
    message.from(trial.end(trial.source))
}
