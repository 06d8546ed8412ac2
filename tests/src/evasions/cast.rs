//! Parties of a scenario, and the attack that it makes.

use std::net::IpAddr;

use cofferdam_verdict::{counter::Hook, reason::Reason};

use super::{Isolation, Setup};
use crate::{
    firewall::named,
    ledger::{self, Moved},
    packet::{Body, End, Family, Mac, Packet, Tcp, Udp, tcp, udp},
    traffic::Unfinished,
    world::{Namespace, World},
};

/// A host of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The workload that attacks, where nothing else is said.
    A,
    /// The workload that is attacked.
    B,
    /// A workload that `a` may reach, and `b` may not.
    C,
    /// The host outside.
    Outside,
    /// The node.
    Node,
}

impl Party {
    /// Those that frames are sent and received by.
    pub const HOSTS: [Self; 4] = [Self::A, Self::B, Self::C, Self::Outside];

    /// The workload's name, if it is one.
    pub fn workload(self) -> Option<&'static str> {
        match self {
            Self::A => Some("t/a"),
            Self::B => Some("t/b"),
            Self::C => Some("t/c"),
            Self::Outside | Self::Node => None,
        }
    }
}

/// The port that policies open.
pub(super) const OPEN_PORT: u16 = 80;
/// A port that they do not.
pub(super) const SHUT_PORT: u16 = 22;
/// Source ports of attacks: none is used twice on a stage, nor by anything else.
const FIRST_PORT: u16 = 10_000;
const PORTS: u32 = 20_000;

/// The ends of one attack, and the numbers that nothing else on its stage has.
#[derive(Clone, Copy, Debug)]
pub struct Cast<'s> {
    pub(super) world: &'s World,
    /// The stage's setup.
    pub setup: Setup,
    /// The policies, or those that would be in force.
    pub isolation: Isolation,
    /// The family of the packets.
    pub family: Family,
    pub(super) number: u32,
}

impl<'s> Cast<'s> {
    /// Addresses of a party.
    pub fn end(&self, party: Party) -> End {
        match party {
            Party::Outside => self.world.outside().end,
            Party::Node => self.world.node().end,
            workload => named(self.world, workload.workload().expect("no host")).end,
        }
    }

    /// An address of a party in the attack's family.
    pub fn ip(&self, party: Party) -> IpAddr {
        let ip = self.end(party).ip(self.family);
        ip.expect("everyone has both families")
    }

    /// The namespace of a party.
    pub fn namespace(&self, party: Party) -> &'s Namespace {
        match party {
            Party::Outside => &self.world.outside().namespace,
            Party::Node => &self.world.node().namespace,
            workload => &named(self.world, workload.workload().expect("no host")).namespace,
        }
    }

    /// The MAC address that one party's frames for another go to.
    pub fn hop(&self, from: Party, to: Party) -> Mac {
        let Some(sender) = from.workload() else {
            // The node has none of its own; nobody sends frames as the node.
            return self.world.outside().gateway.mac;
        };
        let direct = self.setup.is_bridged() && to.workload().is_some();
        if direct {
            self.end(to).mac
        } else {
            named(self.world, sender).gateway.mac
        }
    }

    /// Bytes that no other packet on the stage carries.
    pub fn mark(&self) -> Vec<u8> {
        format!("evil {:06};", self.number).into_bytes()
    }

    /// A port that no other attack on the stage talks from.
    pub fn port(&self) -> u16 {
        FIRST_PORT + (self.number % PORTS) as u16
    }

    /// A number for the fragments of one datagram.
    pub fn identification(&self) -> u32 {
        0x100 + self.number
    }

    /// A packet on its way from one party to another.
    pub fn between<S: Body>(&self, packet: Packet<S>, from: Party, to: Party) -> Packet<S> {
        packet
            .family(self.family)
            .from(self.end(from))
            .to(self.end(to))
            .via(self.hop(from, to))
    }

    /// A marked datagram from `a` to the open port of `b`.
    pub fn udp(&self) -> Packet<Udp> {
        let packet = udp()
            .sport(self.port())
            .dport(OPEN_PORT)
            .payload(&self.mark());
        self.between(packet, Party::A, Party::B)
    }

    /// A marked SYN from `a` to the open port of `b`.
    pub fn syn(&self) -> Packet<Tcp> {
        self.segment().syn()
    }

    /// A marked segment without flags from `a` to the open port of `b`.
    pub fn segment(&self) -> Packet<Tcp> {
        let packet = tcp()
            .sport(self.port())
            .dport(OPEN_PORT)
            .payload(&self.mark());
        self.between(packet, Party::A, Party::B)
    }

    /// An attack by `a` with one packet.
    pub fn attack<S: Body>(&self, packet: Packet<S>) -> Attack {
        self.attack_bytes(packet.bytes())
    }

    /// An attack by `a` with one frame.
    pub fn attack_bytes(&self, frame: Vec<u8>) -> Attack {
        let attack = Attack {
            by: Party::A,
            frames: Vec::new(),
            mark: self.mark(),
            denied: Vec::new(),
            kept: None,
            bridged: self.setup.is_bridged(),
        };
        attack.evil(frame)
    }

    /// An attack by `a` with one packet that policy does not allow.
    pub fn forbidden<S: Body>(&self, packet: Packet<S>) -> Attack {
        let attack = self.attack(packet);
        attack.denied(self.deciding_hook(), Reason::Isolated)
    }

    /// The hook that decides what one workload sends to another: the sender's, for both
    /// ends.
    pub fn deciding_hook(&self) -> Hook {
        Hook::FromWorkload
    }
}

/// A frame of an attack.
#[derive(Clone, Debug)]
pub(super) struct Shot {
    pub(super) by: Party,
    pub(super) bytes: Vec<u8>,
    /// Must not arrive.
    pub(super) evil: bool,
    /// Work that the kernel is left to do.
    pub(super) unfinished: Option<Unfinished>,
}

/// Frames, and what stops them.
#[derive(Clone, Debug)]
pub struct Attack {
    pub(super) by: Party,
    pub(super) frames: Vec<Shot>,
    /// Bytes that tell its frames from others', where they are in them.
    pub(super) mark: Vec<u8>,
    pub(super) denied: Vec<Moved>,
    /// The reason that the kernel alone lets it no further than behind the sender's
    /// hook.
    pub(super) kept: Option<&'static str>,
    bridged: bool,
}

impl Attack {
    /// Lets another party send its evil frames.
    pub fn by(mut self, party: Party) -> Self {
        self.by = party;
        for frame in self.frames.iter_mut().filter(|frame| frame.evil) {
            frame.by = party;
        }
        self
    }

    /// Tells its frames from others' by these bytes.
    pub fn marked(mut self, mark: Vec<u8>) -> Self {
        self.mark = mark;
        self
    }

    /// Another evil packet.
    pub fn then<S: Body>(self, packet: Packet<S>) -> Self {
        self.evil(packet.bytes())
    }

    /// An evil packet of another party.
    pub fn then_by<S: Body>(mut self, party: Party, packet: Packet<S>) -> Self {
        self.frames.push(Shot {
            by: party,
            bytes: packet.bytes(),
            evil: true,
            unfinished: None,
        });
        self
    }

    /// Another evil frame.
    pub fn then_bytes(self, frame: Vec<u8>) -> Self {
        self.evil(frame)
    }

    /// A harmless packet that somebody sends before the evil ones.
    pub fn after<S: Body>(mut self, by: Party, packet: Packet<S>) -> Self {
        let shot = Shot {
            by,
            bytes: packet.bytes(),
            evil: false,
            unfinished: None,
        };
        let at = self.frames.iter().position(|frame| frame.evil);
        self.frames.insert(at.unwrap_or(0), shot);
        self
    }

    /// Leaves work on every evil frame to the kernel.
    pub fn unfinished(mut self, left: Unfinished) -> Self {
        for frame in self.frames.iter_mut().filter(|frame| frame.evil) {
            frame.unfinished = Some(left);
        }
        self
    }

    fn evil(mut self, bytes: Vec<u8>) -> Self {
        self.frames.push(Shot {
            by: self.by,
            bytes,
            evil: true,
            unfinished: None,
        });
        self
    }

    /// Every evil frame is denied at a hook for a reason.
    pub fn denied(self, hook: Hook, reason: Reason) -> Self {
        let number = self.evil_frames();
        self.denied_times(hook, reason, number)
    }

    /// So many frames are denied at a hook for a reason.
    pub fn denied_times(mut self, hook: Hook, reason: Reason, times: u64) -> Self {
        self.denied.push(ledger::denied(hook, reason, times));
        self
    }

    /// Every evil frame is denied behind its sender.
    pub fn dropped(self, reason: Reason) -> Self {
        self.denied(Hook::FromWorkload, reason)
    }

    /// The kernel lets it no further than behind the sender's hook, and why.
    pub fn kept(mut self, reason: &'static str) -> Self {
        self.kept = Some(reason);
        self
    }

    /// The same where workloads are routed.
    pub fn kept_routed(self, reason: &'static str) -> Self {
        if self.bridged {
            self
        } else {
            self.kept(reason)
        }
    }

    pub(super) fn evil_frames(&self) -> u64 {
        self.frames.iter().filter(|frame| frame.evil).count() as u64
    }

    /// Returns `true` if a frame that was seen somewhere is an evil one.
    pub(super) fn is_seen_in(&self, frame: &[u8]) -> bool {
        let marked =
            || (frame.windows(self.mark.len())).any(|window| window == self.mark.as_slice());
        let same = |shot: &Shot| frame.starts_with(&shot.bytes);
        self.frames.iter().filter(|shot| shot.evil).any(same) || marked()
    }
}
