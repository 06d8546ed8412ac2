//! Evasions: what nobody may get past the firewall, and what it must not stop.
//!
//! A [`Scenario`] is a claim about one [`Row`] of the threat model. It makes frames,
//! or talks over sockets, and names the hook and the reason that stop it. A
//! [`Stage`] is a node of network namespaces in one [`Setup`]: wired, sized,
//! offloading and attached in one way. On a stage every scenario is tried
//!
//! 1. without the firewall, where each evil frame must arrive: at its receiver, or,
//!    where the kernel itself would stop it there for a stated reason, behind the
//!    hook of its sender;
//! 2. under the firewall and each [`Isolation`] the row holds for, where nothing evil
//!    arrives, exactly the named counters of drops move, and an allowed datagram sent
//!    right behind arrives.
//!
//! An [`Errand`] is honest traffic: it must succeed in both.
//!
//! | module | rows |
//! |---|---|
//! | `link` | tags, EtherTypes, MAC addresses, ARP |
//! | `source` | source addresses |
//! | `header` | IP headers, options, extension headers, lengths |
//! | `fragment` | fragments |
//! | `neighbour` | neighbour discovery, a workload that plays the router |
//! | `signalling` | signalling as a tunnel |
//! | `transport` | TCP, UDP, SCTP and ICMP without a flow, other protocols, tunnels |
//! | `receiver` | receivers that the packet does not name |
//! | `offload` | super-packets, headers outside the linear part |
//! | `partial` | checksums that the kernel is left to write |
//! | `honest` | errands |
//!
//! Invariant: a scenario cannot pass by sending nothing. What it sends must have
//! arrived in the same setup without the firewall.

mod cast;
mod fragment;
mod header;
mod honest;
mod link;
mod neighbour;
mod offload;
mod partial;
mod receiver;
mod row;
mod setup;
mod signalling;
mod source;
mod stage;
pub mod tool;
mod transport;

use std::fmt;

pub use cast::{Attack, Cast, Party};
pub use row::Row;
pub use setup::{Hooks, Isolation, Offloads, Setup};
pub use stage::{Count, Stage, firewall, run};

use crate::packet::Family;

/// A claim about packets that must not pass.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The claim.
    pub claim: &'static str,
    /// The row of the threat model that it is about.
    pub row: Row,
    /// The policies under which it holds.
    pub under: &'static [Isolation],
    /// Makes the attack; `None` where the family or the setup has none.
    pub attack: fn(&Cast<'_>) -> Option<Attack>,
}

/// Honest traffic that must succeed.
#[derive(Clone, Copy)]
pub struct Errand {
    /// The claim.
    pub claim: &'static str,
    /// The row of the threat model that it is the other side of.
    pub row: Row,
    /// The policies that allow it.
    pub under: &'static [Isolation],
    /// Does it; says what went wrong.
    pub done: fn(&Stage, &Cast<'_>) -> Result<(), String>,
}

const fn scenario(
    claim: &'static str,
    row: Row,
    under: &'static [Isolation],
    attack: fn(&Cast<'_>) -> Option<Attack>,
) -> Scenario {
    Scenario {
        claim,
        row,
        under,
        attack,
    }
}

const SCENARIOS: [&[Scenario]; 10] = [
    link::SCENARIOS,
    source::SCENARIOS,
    header::SCENARIOS,
    fragment::SCENARIOS,
    neighbour::SCENARIOS,
    transport::SCENARIOS,
    receiver::SCENARIOS,
    offload::SCENARIOS,
    signalling::SCENARIOS,
    partial::SCENARIOS,
];

/// All claims about packets that must not pass.
pub fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.into_iter().flatten()
}

/// All claims about honest traffic.
pub fn errands() -> impl Iterator<Item = &'static Errand> {
    honest::ERRANDS.iter()
}

/// Kind of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An evil packet arrived.
    Leaked,
    /// An allowed packet did not arrive.
    Lost,
    /// Other counters moved than the scenario names.
    Miscounted,
    /// Without the firewall the packet did not do what the scenario says of it, so
    /// that its drop would show nothing.
    Unshown,
}

/// A claim that does not hold.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Kind of the fault.
    pub kind: Kind,
    /// The claim.
    pub claim: &'static str,
    /// The setup it was tried in.
    pub setup: Setup,
    /// The policies in force; `None` without the firewall.
    pub isolation: Option<Isolation>,
    /// The family of its packets.
    pub family: Family,
    /// Observation that contradicts the claim.
    pub seen: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            claim,
            setup,
            isolation,
            family,
            seen,
        } = self;
        write!(f, "{kind:?}: {claim} ({setup}, {family}, ")?;
        match isolation {
            Some(isolation) => write!(f, "{isolation}): {seen}"),
            None => write!(f, "no firewall): {seen}"),
        }
    }
}
