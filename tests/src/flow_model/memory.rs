//! Memory of the model: conversations and datagrams.

use std::{net::IpAddr, ops::RangeInclusive};

use cofferdam_verdict::{flow::Idle, packet::protocol};

use super::{node::IDLE, region::Service, sight::Segment};

/// Sender of a packet towards a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// The owner of the source address.
    Address,
    /// The node, or who uses its address without a stamp.
    Node { own: bool },
    /// A workload behind the node's address.
    Masqueraded(usize),
    /// The node's address with a stamp that no endpoint has.
    Unknown,
}

/// Conversation that policy let one end open with the other, at one workload's interface.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub(super) pod: usize,
    pub(super) local: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) protocol: u8,
    /// The workload's port, and the other end's.
    pub(super) ports: (u16, u16),
    /// The workload opened it; otherwise `sender` did.
    pub(super) by_pod: bool,
    pub(super) sender: Sender,
    pub(super) last_seen: u32,
    pub(super) answered: bool,
    /// TCP: sequence numbers that the opener acknowledges when it has seen an answer, from
    /// the last SYN of the other end on.
    pub(super) answers: RangeInclusive<u32>,
    /// TCP: the opener has acknowledged one of them.
    pub(super) confirmed: bool,
    /// TCP: the opener, and the other end, have finished.
    pub(super) finished: [bool; 2],
    /// TCP: a reset or a second SYN leaves open what the programs make of it.
    pub(super) unsure: bool,
    /// It has had its ports in common with another conversation.
    pub(super) is_shared: bool,
    /// The masqueraded opener has other labels or addresses since.
    pub(super) sender_changed: bool,
    /// The workload at the other end has a new interface since a packet was seen.
    pub(super) peer_renewed: bool,
    /// It may have been forgotten, though packets of it have passed since.
    pub(super) is_doubtful: bool,
    /// Table under which it was last seen.
    pub(super) revision: u32,
}

impl Conversation {
    /// Returns `true` if this sender, or for `None` the workload, has opened it.
    pub(super) fn is_by(&self, sender: Option<Sender>) -> bool {
        sender.is_none_or(|sender| sender == self.sender)
    }

    pub(super) fn service(&self) -> Service {
        let port = if self.by_pod {
            self.ports.1
        } else {
            self.ports.0
        };
        let has_port = matches!(
            self.protocol,
            protocol::TCP | protocol::UDP | protocol::SCTP
        );
        Service {
            protocol: self.protocol,
            port: has_port.then_some(port),
        }
    }

    /// The other end has sent a segment without payload.
    pub(super) fn note_answer(&mut self, segment: Segment, sequence: u32) {
        let end = match segment {
            Segment::SynAck | Segment::Fin => sequence + 1,
            _ => sequence,
        };
        self.answers = match segment {
            Segment::SynAck => end..=end,
            _ if !self.answered => sequence..=end,
            _ => *self.answers.start()..=end.max(*self.answers.end()),
        };
        self.answered = true;
    }

    /// Jiffies after which nothing may pass by it: `None` where time does not end it.
    pub(super) fn most_idle(&self) -> Option<u32> {
        let idle = match self.protocol {
            protocol::TCP if !self.confirmed && !self.unsure => Idle::TcpEmbryonic,
            protocol::TCP if self.finished == [true, true] && !self.unsure => Idle::TcpClosing,
            // What policy allows goes on, however long it was silent.
            protocol::TCP => return None,
            protocol::UDP if self.answered => Idle::Udp,
            protocol::UDP => Idle::UdpOneWay,
            protocol::SCTP => Idle::Sctp,
            protocol::ICMP | protocol::ICMPV6 => Idle::Icmp,
            _ => Idle::Other,
        };
        Some(IDLE[idle as usize])
    }

    /// Jiffies within which it must be remembered.
    pub(super) fn sure_idle(&self) -> u32 {
        let tcp = self.protocol == protocol::TCP;
        if tcp && (self.unsure || self.finished != [false, false]) {
            return IDLE[Idle::TcpClosing as usize];
        }
        if tcp && self.answered && !self.confirmed {
            return IDLE[Idle::TcpEmbryonic as usize];
        }
        self.most_idle().unwrap_or(u32::MAX)
    }
}

/// A datagram whose first fragment has passed.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) pod: usize,
    pub(super) sent: bool,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) stamp: u32,
    pub(super) id: u16,
    pub(super) header: u16,
    pub(super) began: u32,
    pub(super) revision: u32,
    /// The workload of this node at the other end.
    pub(super) peer: Option<usize>,
    /// That workload has a new interface since.
    pub(super) peer_renewed: bool,
    /// Its last fragment has passed.
    pub(super) done: bool,
    /// First fragments of others that came before it at the same time.
    pub(super) beside: u32,
    /// First fragments of others that came after it.
    pub(super) since: u32,
}
