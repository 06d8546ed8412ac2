//! Packets as the model sees them, at one hook of one workload, and why they may pass.

use std::net::IpAddr;

use cofferdam_verdict::packet::protocol;

/// Flags of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

/// Contents of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp(Segment),
    Udp,
    Sctp,
    /// An ICMP echo request, or its reply. The identifier stands in both ports.
    Echo {
        reply: bool,
    },
    /// Another protocol by number, without ports.
    Other(u8),
    /// An ICMP error about a packet.
    Error {
        quoted: Box<Quoted>,
        long: bool,
    },
}

/// The packet that an ICMP error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) ports: (u16, u16),
    pub(super) kind: Kind,
}

/// The part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First { id: u16 },
    Later { id: u16, offset: u16, more: bool },
}

/// A packet as it appears on a hook.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// Workload whose interface it is on.
    pub(super) pod: usize,
    /// The workload sends it; otherwise it goes there.
    pub(super) sent: bool,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Source and destination port.
    pub(super) ports: (u16, u16),
    pub(super) kind: Kind,
    /// TCP: sequence and acknowledgement number.
    pub(super) numbers: (u32, u32),
    pub(super) part: Part,
    /// Stamp that it carries.
    pub(super) stamp: u32,
    /// It began on the node, with a local socket.
    pub(super) by_node: bool,
}

/// Reason for which a packet may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Policy lets its sender open a conversation, or needs none.
    ByItself,
    /// It goes on with what its sender has opened, or answers the other end.
    Conversation,
    /// A TCP segment from before the endpoint was put in force, or in a full partition.
    Adopted,
    /// The same, of the end that was connected to: its opener has not been heard of yet.
    Answer,
    /// Its first fragment has passed.
    Fragment,
    /// An ICMP error about a conversation.
    Related,
    /// The workload reaches itself.
    Itself,
}

/// A case in which the programs may let less pass than the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tolerance {
    /// No room in the flow or fragment table.
    NoRoom,
    /// In a partition of few sets, a conversation gave way to another.
    GaveWay,
    /// A segment of no connection found room in a partition of few sets, and was not adopted.
    /// In a full one it passes if policy allows both directions.
    HadRoom,
    /// Both ends, or two senders behind one address, use the same ports: one
    /// conversation is remembered, and the packet that shows its end is dropped with it.
    SharedPorts,
    /// A TCP connection that was silent for longer than the idle time of a state that it
    /// may be in: it is gone, though policy would allow it to go on. Or an ICMP error about
    /// an established one of which nothing was seen for so long.
    SilentConnection,
    /// The labels or addresses of a masqueraded opener have changed.
    MasqueradeForgotten,
    /// A workload reaches itself through a Service and the node's address: no
    /// conversation is remembered.
    Hairpin,
    /// An ICMP error about a conversation that has not been seen since the table, or its
    /// peer, changed.
    StaleRelated,
    /// An ICMP error about a conversation that is longer than its RFC allows, from a sender
    /// whom policy lets send errors.
    LongError,
    /// Other datagrams of an endpoint took the place of one.
    FragmentForgotten,
    /// The workload at the other end of a datagram got a new interface between its
    /// fragments.
    FragmentOfFormerPeer,
    /// A segment to the node from before the endpoint was put in force, where only the
    /// node's permission to open lets it: not adopted.
    AdoptionTowardsNode,
}

impl Kind {
    pub(super) fn protocol(&self, is_v4: bool) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => protocol::SCTP,
            Self::Other(number) => *number,
            Self::Echo { .. } | Self::Error { .. } if is_v4 => protocol::ICMP,
            Self::Echo { .. } | Self::Error { .. } => protocol::ICMPV6,
        }
    }

    /// Returns `true` if the protocol has ports.
    pub(super) fn has_ports(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Udp | Self::Sctp)
    }

    /// Bytes of the transport header, which later fragments must not overlap.
    pub(super) fn header(&self) -> u16 {
        match self {
            Self::Tcp(_) => 20,
            Self::Udp | Self::Echo { .. } | Self::Error { .. } => 8,
            Self::Sctp => 12,
            Self::Other(_) => 0,
        }
    }
}

impl Sight {
    /// Addresses and ports, those of the workload first.
    pub(super) fn seen_by_pod(&self) -> ((IpAddr, IpAddr), (u16, u16)) {
        if self.sent {
            ((self.source, self.destination), self.ports)
        } else {
            let (from, to) = self.ports;
            ((self.destination, self.source), (to, from))
        }
    }
}
