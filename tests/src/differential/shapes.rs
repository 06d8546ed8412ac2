//! Shapes of packets: right ones, and each wrong in one place.
//!
//! A shape knows what must become of its packets before any policy is asked, from
//! the threat model and the RFCs, or that policy decides, and about what. It shares
//! no code with the parser under test: what it expects follows from how it made the
//! packet, never from reading it.

mod groups;
mod ip;
mod link;
mod neighbour;
mod right;
mod source;
mod transport;

use std::net::IpAddr;

use cofferdam_oracle::Payload;
use cofferdam_verdict::{reason::Reason, verdict::Action};
use fastrand::Rng;

use super::trial::{Trial, Who};
use crate::packet::Packet;

/// Fate that is due to a packet at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The verdict of policy.
    Policy,
    /// This, whatever policy says.
    Verdict(Action, Reason),
    /// Nothing is claimed, but that the programs and user space agree.
    Anything,
}

const fn denied(reason: Reason) -> Expected {
    Expected::Verdict(Action::Deny, reason)
}

const fn allowed(reason: Reason) -> Expected {
    Expected::Verdict(Action::Allow, reason)
}

/// A packet of some shape.
pub(super) struct Shaped {
    /// The shape's name.
    pub(super) shape: &'static str,
    pub(super) frame: Vec<u8>,
    /// The packet in one line, for people.
    pub(super) text: String,
    /// Payload that policy is asked about.
    pub(super) payload: Payload,
    /// The destination address, where it is not the receiver's.
    pub(super) named: Option<IpAddr>,
    /// At the hook behind the sender.
    pub(super) leaving: Expected,
    /// At the hook before the receiver.
    pub(super) arriving: Expected,
}

impl Shaped {
    /// Policy decides.
    fn judged(packet: &Packet, payload: Payload) -> Self {
        Self {
            shape: "",
            frame: packet.bytes(),
            text: packet.to_string(),
            payload,
            named: None,
            leaving: Expected::Policy,
            arriving: Expected::Policy,
        }
    }

    /// Nobody asks policy about it.
    fn unjudged(packet: &Packet, leaving: Expected, arriving: Expected) -> Self {
        Self {
            leaving,
            arriving,
            ..Self::judged(packet, Payload::Bare(0))
        }
    }

    /// Dropped by either hook.
    fn dropped(packet: &Packet, reason: Reason) -> Self {
        Self::unjudged(packet, denied(reason), denied(reason))
    }
}

/// Makes a packet of a shape; `None` where the ends or their family have none.
type Make = fn(&mut Rng, &Trial<'_>) -> Option<Shaped>;

/// Shapes by name.
type Shapes = &'static [(&'static str, Make)];

const ALL: [Shapes; 7] = [
    right::SHAPES,
    link::SHAPES,
    ip::SHAPES,
    transport::SHAPES,
    source::SHAPES,
    neighbour::SHAPES,
    groups::SHAPES,
];

/// The names of all shapes.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().flatten().map(|(name, _)| *name)
}

/// A packet of a random shape: a plain one of five, else anything.
pub(super) fn random(rng: &mut Rng, trial: &Trial<'_>) -> Shaped {
    let number: usize = ALL.iter().map(|shapes| shapes.len()).sum();
    loop {
        let chosen = match rng.u8(..5) {
            0 => 0,
            _ => rng.usize(..number),
        };
        let (shape, make) = *(ALL.iter().copied().flatten())
            .nth(chosen)
            .expect("a number below their count");
        if let Some(shaped) = make(rng, trial) {
            return Shaped { shape, ..shaped };
        }
    }
}
