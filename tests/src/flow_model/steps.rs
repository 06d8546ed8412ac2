//! Random sequences: what hosts say to each other, and what changes meanwhile.
//!
//! Steps are drawn before any of them is taken, so that a sequence can be shortened.

use std::fmt;

use fastrand::Rng;

use super::{
    region::{PODS, PORTS, Party},
    sight::{Part, Segment},
};
use crate::packet::Family;

/// Protocol of a talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Echo,
    Other(u8),
}

/// Talk between two parties, and the changes that the node makes to their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) client: Party,
    pub(super) server: Party,
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    /// Ports of the client and the server; for echo the identifier twice.
    pub(super) ports: (u16, u16),
    /// The client names a virtual address, which the node translates.
    pub(super) is_virtual: bool,
    /// The server sees the node's address.
    pub(super) is_masqueraded: bool,
}

/// Fault of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Its stamp was lost.
    NoStamp,
    /// It carries the stamp of this workload.
    StampOf(usize),
    /// It carries a stamp that no endpoint has.
    NobodysStamp,
    /// It carries the stamp that the workload had before.
    FormerStamp(usize),
    /// It goes to the interface of this workload.
    Interface(usize),
    /// It has the address of this party.
    SourceOf(Party),
    /// It appears at the receiver though the sender's hook may have dropped it.
    Bypass,
    /// The node forwards it, and has not sent it.
    Forwarded,
}

/// One step of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A packet, through all the hooks on its way.
    Send {
        talk: Talk,
        /// From the server to the client.
        back: bool,
        segment: Segment,
        part: Part,
        fault: Fault,
        /// Sequence and acknowledgement number.
        numbers: (u32, u32),
        /// Region that comes into force between the hooks.
        between: Option<usize>,
    },
    /// An ICMP error about a packet of a talk, by `reporter`.
    Report {
        talk: Talk,
        /// About a packet from the server to the client.
        back: bool,
        reporter: Party,
        long: bool,
    },
    /// This region comes into force.
    Change(usize),
    /// The table in force is published again, under another revision.
    Publish,
    /// A workload gets a new interface.
    Reincarnate(usize),
    /// So many jiffies pass.
    Wait(u32),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(region) => write!(f, "region {region} comes into force"),
            Self::Publish => write!(f, "the table is published again"),
            Self::Reincarnate(pod) => write!(f, "p{pod} gets a new interface and stamp"),
            Self::Wait(jiffies) => write!(f, "{jiffies} jiffies pass"),
            Self::Report {
                talk,
                back,
                reporter,
                ..
            } => write!(
                f,
                "{reporter:?} reports an error about {talk:?} back={back}"
            ),
            Self::Send {
                talk,
                back,
                fault,
                between,
                ..
            } => {
                let (from, to) = if *back {
                    (talk.server, talk.client)
                } else {
                    (talk.client, talk.server)
                };
                write!(f, "{from:?} sends to {to:?}")?;
                if talk.is_virtual || talk.is_masqueraded {
                    let (v, m) = (talk.is_virtual, talk.is_masqueraded);
                    write!(f, ", translated (virtual {v}, masqueraded {m})")?;
                }
                if *fault != Fault::None {
                    write!(f, ", {fault:?}")?;
                }
                if let Some(region) = between {
                    write!(
                        f,
                        ", and region {region} comes into force between the hooks"
                    )?;
                }
                Ok(())
            }
        }
    }
}

/// Draws the steps of a sequence, over so many regions.
pub(super) fn random(rng: &mut Rng, regions: usize) -> Vec<Event> {
    let mut talks: Vec<Talk> = Vec::new();
    let length = rng.usize(30..70);
    (0..length)
        .map(|_| match rng.u8(..100) {
            0..=5 => Event::Change(rng.usize(..regions)),
            6..=7 => Event::Publish,
            8 => Event::Reincarnate(rng.usize(..PODS)),
            9..=15 => Event::Wait(wait(rng)),
            16..=20 if !talks.is_empty() => Event::Report {
                talk: talks[rng.usize(..talks.len())],
                back: rng.bool(),
                reporter: any_party(rng),
                long: rng.u8(..8) == 0,
            },
            _ => send(rng, &mut talks, regions),
        })
        .collect()
}

/// Short times, and those around the idle times of flows.
fn wait(rng: &mut Rng) -> u32 {
    match rng.u8(..8) {
        0..=3 => rng.u32(1..12),
        4 => 21,
        5 => 61,
        6 => rng.u32(80..162),
        _ => 1001,
    }
}

fn any_party(rng: &mut Rng) -> Party {
    match rng.u8(..9) {
        0 => Party::Remote,
        1 => Party::Node,
        2 => Party::OtherNode,
        3 => Party::Outside,
        _ => Party::Pod(rng.usize(..PODS)),
    }
}

fn talk(rng: &mut Rng) -> Talk {
    let pod = Party::Pod(rng.usize(..PODS));
    let other = any_party(rng);
    let (client, server) = if rng.bool() {
        (pod, other)
    } else {
        (other, pod)
    };
    let port = |rng: &mut Rng| PORTS[rng.usize(..PORTS.len())];
    let protocol = match rng.u8(..10) {
        0..=4 => Protocol::Tcp,
        5..=6 => Protocol::Udp,
        7 => Protocol::Sctp,
        8 => Protocol::Echo,
        _ => Protocol::Other([47, 50][rng.usize(..2)]),
    };
    let ports = match protocol {
        Protocol::Echo => (7, 7),
        _ => (port(rng), port(rng)),
    };
    let is_pod = |party| matches!(party, Party::Pod(_));
    Talk {
        client,
        server,
        family: if rng.bool() { Family::V4 } else { Family::V6 },
        protocol,
        ports,
        is_virtual: is_pod(client) && (client == server || rng.u8(..5) == 0),
        is_masqueraded: is_pod(server) && client != Party::Node && rng.u8(..6) == 0,
    }
}

fn send(rng: &mut Rng, talks: &mut Vec<Talk>, regions: usize) -> Event {
    if talks.is_empty() || rng.u8(..4) == 0 {
        talks.push(talk(rng));
    }
    // Most is said in the last few of them.
    let last = talks.len().min(4);
    let talk = talks[talks.len() - 1 - rng.usize(..last)];
    let back = rng.u8(..5) < 2;
    let segment = match (rng.u8(..20), back) {
        (0..=6, false) | (0, true) => Segment::Syn,
        (1..=7, true) | (7, false) => Segment::SynAck,
        (8..=15, _) => Segment::Ack,
        (16..=17, _) => Segment::Fin,
        _ => Segment::Rst,
    };
    Event::Send {
        talk,
        back,
        segment,
        part: part(rng),
        fault: fault(rng),
        numbers: (rng.u32(1000..1004), rng.u32(1000..1004)),
        between: (rng.u8(..25) == 0).then(|| rng.usize(..regions)),
    }
}

fn part(rng: &mut Rng) -> Part {
    let id = rng.u16(1..3);
    match rng.u8(..10) {
        0 => Part::First { id },
        1 => Part::Later {
            id,
            offset: [8, 16, 24, 1480][rng.usize(..4)],
            more: rng.bool(),
        },
        _ => Part::Whole,
    }
}

fn fault(rng: &mut Rng) -> Fault {
    match rng.u8(..60) {
        0 | 1 => Fault::NoStamp,
        2 | 3 => Fault::StampOf(rng.usize(..PODS)),
        4 => Fault::NobodysStamp,
        5 => Fault::FormerStamp(rng.usize(..PODS)),
        6 => Fault::Interface(rng.usize(..PODS)),
        7 | 8 => Fault::SourceOf(any_party(rng)),
        9..=13 => Fault::Bypass,
        14..=16 => Fault::Forwarded,
        _ => Fault::None,
    }
}
