//! A packet on its way to a verdict, as plain words.
//!
//! [`crate::judge::inspect`] makes it from a frame, [`crate::flow`] and
//! [`crate::judge::answer`] write the answer into it. A kernel program hands it
//! from one function to the next by its address.

use crate::{
    address::{Address, Family},
    counter::Hook,
    endpoint::UNDECIDED,
    flow::{READS, is_opening, step},
    packet::{Packet, icmp, icmpv6, protocol},
    reason::Reason,
    share::NOBODY,
    table::row_key,
    verdict::{Action, Direction, Verdict, word_action, word_reason},
};

/// Bit of [`Context::ingress_ifindex`] that marks a probe: no packet has it,
/// because the kernel's interface indexes are positive numbers of 32 bits.
pub const PROBE: u32 = 1 << 31;

/// Words of the control buffer in which a program answers a probe.
pub mod probe {
    /// The verdict in force.
    pub const ENFORCED: usize = 0;
    /// The verdict with audit policies in force.
    pub const AUDITED: usize = 1;
    /// The clock of flows.
    pub const JIFFIES: usize = 2;
    /// In a question: the stamp that the packet carries.
    pub const STAMP: usize = 2;
}

/// Context of a packet: the facts that the kernel tells beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Interface of the hook.
    pub ifindex: u32,
    /// Interface the packet came in by; 0 when it began on this node, or when
    /// the kernel has forgotten (a refragmented IPv6 datagram). With [`PROBE`] set
    /// the packet is a question: it is judged by policy alone, and neither counted,
    /// remembered nor reported.
    pub ingress_ifindex: u32,
    /// Stamp of the endpoint that sent the packet on this node
    /// ([`crate::endpoint::EndpointRecord::stamp`]); 0 when none did.
    pub stamp: u32,
    /// `true` if a local socket sent it.
    pub has_socket: bool,
    /// `true` if a VLAN tag lies beside the frame.
    pub tagged: bool,
}

impl Context {
    /// Returns `true` if the packet is a question of user space.
    #[inline(always)]
    pub const fn is_probe(&self) -> bool {
        self.ingress_ifindex & PROBE != 0
    }
}

/// Bits of [`Case::marks`].
pub(crate) mod mark {
    /// The packet goes to the workload; otherwise it comes from it.
    pub(crate) const TO_WORKLOAD: u32 = 1 << 0;
    /// A local socket sent it.
    pub(crate) const SOCKET: u32 = 1 << 1;
    /// A later fragment, without ports.
    pub(crate) const LATER: u32 = 1 << 2;
    /// The addresses are IPv6.
    pub(crate) const V6: u32 = 1 << 3;
    /// The packet is a reply whose flow must be decided again: the case is turned
    /// round for that, to the flow's own direction.
    pub(crate) const TURNED: u32 = 1 << 4;
    /// The node itself opened the packet's flow.
    pub(crate) const OWN_NODE_FLOW: u32 = 1 << 5;
    /// Answer: the packet is a reply, and its flow was decided again.
    pub(crate) const REPLY: u32 = 1 << 6;
    /// Answer: with audit policies in force the ingress policy would deny, and it is
    /// this hook's to say so.
    pub(crate) const AUDIT_INGRESS: u32 = 1 << 7;
    /// Answer: the same of the egress policy. At most one of the two is set.
    pub(crate) const AUDIT_EGRESS: u32 = 1 << 8;
    /// The packet has come back to its sender, through a Service.
    pub(crate) const TO_ITSELF: u32 = 1 << 9;
    /// The frame goes to a group of link-layer addresses, or the packet to a group of IP
    /// addresses: it names no single receiver.
    pub(crate) const GROUP: u32 = 1 << 10;
    /// A first fragment: the later ones follow its verdict.
    pub(crate) const FIRST: u32 = 1 << 11;
    /// Answer: the other end has the node's address.
    pub(crate) const NODE_ADDRESS: u32 = 1 << 12;
    /// Answer: the sender is a local workload behind the node's address. With [`TURNED`]:
    /// the flow's opener was.
    pub(crate) const MASQUERADED: u32 = 1 << 13;
    /// An ICMP error: it may belong to the flow of the packet that it quotes.
    pub(crate) const ERROR: u32 = 1 << 14;
    /// The case is the other direction of a packet, and asks whether a connection could
    /// have been opened that way.
    pub(crate) const ASSUMED: u32 = 1 << 15;
    /// The sender asks for an address: its interface says who it is.
    pub(crate) const BY_INTERFACE: u32 = 1 << 16;
    /// The packet may be signalling.
    pub(crate) const SIGNALLING: u32 = 1 << 17;
    /// Answer: other filters stand on the hook.
    pub(crate) const SHARED_HOOKS: u32 = 1 << 18;
    /// Answer: a hit of the rule that decided is this hook's to count.
    pub(crate) const COUNTED: u32 = 1 << 19;
    /// Answer: the packet is one of a flow that there was before.
    pub(crate) const RENEWED: u32 = 1 << 20;
    /// Answer: policy allows the packet, and the other direction too.
    pub(crate) const BOTH_WAYS: u32 = 1 << 21;
    /// Answer: a TCP segment that opens nothing is the opener's, of a connection from before
    /// the endpoint was put in force.
    pub(crate) const ADOPTED: u32 = 1 << 22;
    /// Answer: the packet goes to a port of a Service, whose backends' addresses policy is
    /// asked about again.
    pub(crate) const SERVICE: u32 = 1 << 23;
    /// Answer: the receiver's address is a Service's too, so that a proxy may send the packet
    /// to somebody else.
    pub(crate) const SHARED_ADDRESS: u32 = 1 << 24;
    /// The packet bears [`UNDECIDED`]: nobody has asked its sender's policy about the receiver.
    pub(crate) const PASSED_ON: u32 = 1 << 25;
    /// The sender's policy is not asked: see [`crate::bypass`].
    pub(crate) const EGRESS_WAIVED: u32 = 1 << 26;
    /// The receiver's policy is not asked.
    pub(crate) const INGRESS_WAIVED: u32 = 1 << 27;
    /// One of them is not asked, and would have denied the packet.
    pub(crate) const WAIVED: u32 = EGRESS_WAIVED | INGRESS_WAIVED;
    /// Answer: the receiver is a workload of this node, whose hook judges the packet, too.
    pub(crate) const RECEIVED_HERE: u32 = 1 << 28;
    /// Answer: the packet has begun a flow that no other hook of this node tells of.
    pub(crate) const BEGUN: u32 = 1 << 29;
    /// The packet leaves the node: see [`crate::uplink`].
    pub(crate) const LEAVING: u32 = 1 << 30;
    /// Answer: policy denies the packet, and has ended the flow that it is one of.
    pub(crate) const CUT: u32 = 1 << 31;
}

/// A packet that the tables must decide, and the answer. Words only, so that a
/// program can hand it to a function of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Case {
    /// Source address, host-order words.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Interface the packet came in by, 0 if unknown.
    pub ingress_ifindex: u32,
    /// Stamp that the packet carries, 0 if none, without [`UNDECIDED`]. Answer: stamp that the
    /// packet of a workload gets, with it.
    pub stamp: u32,
    /// Answer: [`Direction`] of the policy that decided.
    pub direction: u32,
    /// Protocol and port, as rows are searched by.
    pub key: u32,
    /// Answer: source slot, 0 if it was not looked up.
    pub source_slot: u32,
    /// See [`mark`].
    pub(crate) marks: u32,
    /// Answer: destination slot, 0 if it was not looked up.
    pub destination_slot: u32,
    /// Answer: the verdict in force, [`Verdict::to_word`].
    pub enforced: u32,
    /// Answer: verdict in force of the other end's direction, where a hit of its rule is
    /// this hook's to count; else 0.
    pub(crate) second: u32,
    /// Answer: the verdict with audit policies in force as well.
    pub audited: u32,
    /// Number of the endpoint's record, or [`NOBODY`].
    pub endpoint: u32,
    /// Bytes of the packet from the Ethernet header on.
    pub bytes: u32,
    /// Source port << 16 | destination port; for ICMP the identifier, and
    /// `type << 8 | code`. 0 where there are none.
    pub ports: u32,
    /// TCP: sequence number.
    pub(crate) sequence: u32,
    /// EtherType << 16 | IP protocol << 8 | TCP flags; the parts that are known.
    pub kind: u32,
    /// TCP: acknowledgement number.
    pub(crate) acknowledged: u32,
    /// Answer: revision of the table that decided, low word; 0 when none was asked.
    pub revision: u32,
    /// Answer of the flow table: the state word of the packet's entry, low and high.
    pub(crate) flow_word: [u32; 2],
    /// Answer of the flow table: one of [`step`].
    pub(crate) flow_step: u32,
    /// Answer of the flow table: set << 2 | way of the packet's entry.
    pub(crate) flow_place: u32,
    /// [`Packet::datagram`].
    pub(crate) datagram: u32,
    /// [`Packet::fragment`].
    pub(crate) fragment: u32,
    /// Offset of the transport header in the frame.
    pub(crate) transport: u32,
}

const _: () = assert!(size_of::<Case>() == 128);

impl Case {
    /// A case of which nothing is known but the hook: denied.
    #[inline(always)]
    pub fn blank(hook: Hook, bytes: u32) -> Self {
        // Known zeroes in a row become a call of `memset`, which on BPF is a loop over
        // bytes: 20 ns for this case.
        let zero = core::hint::black_box(0);
        let unanswered = Verdict::deny(Reason::TableCorrupt).to_word();
        let (direction, marks) = match hook {
            Hook::FromWorkload => (Direction::Egress, 0),
            Hook::ToWorkload | Hook::UplinkIngress => (Direction::Ingress, mark::TO_WORKLOAD),
            Hook::UplinkEgress => (Direction::Egress, mark::LEAVING),
        };
        Self {
            source: [zero; 4],
            destination: [zero; 4],
            endpoint: NOBODY,
            ingress_ifindex: zero,
            stamp: zero,
            key: zero,
            marks,
            enforced: unanswered,
            audited: unanswered,
            direction: direction as u32,
            source_slot: zero,
            destination_slot: zero,
            second: zero,
            bytes,
            ports: zero,
            sequence: zero,
            kind: zero,
            acknowledged: zero,
            revision: zero,
            flow_word: [zero; 2],
            flow_step: step::NOTHING,
            flow_place: zero,
            datagram: zero,
            fragment: zero,
            transport: zero,
        }
    }

    /// Takes over what the packet's headers say.
    #[inline(always)]
    pub(crate) const fn describe(&mut self, packet: &Packet, ethertype: u16) {
        self.source = packet.source.words;
        self.destination = packet.destination.words;
        self.key = row_key(packet.protocol, packet.destination_port);
        self.ports = (packet.source_port as u32) << 16 | packet.destination_port as u32;
        self.kind =
            (ethertype as u32) << 16 | (packet.protocol as u32) << 8 | packet.segment.flags as u32;
        self.sequence = packet.segment.sequence;
        self.acknowledged = packet.segment.acknowledged;
        self.transport = packet.transport;
        self.datagram = packet.datagram;
        self.fragment = packet.fragment;
    }

    /// The case of a whole packet towards a workload, made without a frame.
    #[inline(always)]
    pub fn to_workload(
        source: &Address,
        destination: &Address,
        endpoint: u32,
        stamp: u32,
        key: u32,
    ) -> Self {
        let mut case = Self::blank(Hook::ToWorkload, 0);
        case.source = source.words;
        case.destination = destination.words;
        case.endpoint = endpoint;
        case.stamp = stamp;
        case.key = key;
        if matches!(source.family, Family::V6) {
            case.marks |= mark::V6;
        }
        case
    }

    /// Returns `true` if the answer is to let the packet pass.
    #[inline(always)]
    pub const fn is_allowed(&self) -> bool {
        word_action(self.enforced) == Action::Allow as u32
    }

    /// Returns `true` if the packet passes, audit policies would have denied it, and it is this
    /// hook's to say so.
    #[inline(always)]
    pub const fn is_audited(&self) -> bool {
        self.is_allowed() && self.marks & (mark::AUDIT_INGRESS | mark::AUDIT_EGRESS) != 0
    }

    /// Returns `true` if the packet passes and has begun a flow that is this hook's to tell of:
    /// no other hook of this node judges its packets after this one.
    #[inline(always)]
    pub const fn has_begun(&self) -> bool {
        self.is_allowed() && self.is(mark::BEGUN)
    }

    /// Returns `true` if a flow that the packet begins is this hook's to tell of. What is noted
    /// of a packet that leaves the node is no flow of its own.
    #[inline(always)]
    pub(crate) const fn tells_of_flow(&self) -> bool {
        const ANOTHERS: u32 = mark::RECEIVED_HERE | mark::SERVICE | mark::SHARED_ADDRESS;
        if self.is(mark::LEAVING) {
            return word_reason(self.enforced) != Reason::Flow as u32;
        }
        self.is(mark::TO_WORKLOAD) || !self.is(ANOTHERS)
    }

    /// Returns `true` if other filters stand on the hook, so that an allowed packet must
    /// go on to them.
    #[inline(always)]
    pub const fn shares_hooks(&self) -> bool {
        self.is(mark::SHARED_HOOKS)
    }

    /// Returns `true` if the flow table has settled the case: no table need be asked.
    #[inline(always)]
    pub const fn is_settled(&self) -> bool {
        self.flow_step == step::SETTLED
    }

    /// Returns `true` if the case is a TCP segment that opens nothing, that belongs to no
    /// flow, and that policy has been asked about.
    #[inline(always)]
    pub(crate) const fn is_midstream(&self) -> bool {
        self.flow_step == step::UNKNOWN
            && (self.is_allowed() || self.is_denied_by_policy())
            && self.protocol() == protocol::TCP
            && !self.is(mark::ADOPTED)
            && !is_opening(self)
    }

    /// Returns `true` if policy has yet to be asked about the other direction of a packet
    /// whose flow finds no room.
    #[inline(always)]
    pub(crate) const fn asks_back(&self) -> bool {
        self.flow_step == step::FULL && !self.is(mark::BOTH_WAYS)
    }

    /// Returns `true` if policy denies the packet: nothing is wrong with it otherwise.
    #[inline(always)]
    pub(crate) const fn is_denied_by_policy(&self) -> bool {
        let reason = word_reason(self.enforced);
        !self.is_allowed()
            && (reason == Reason::Rule as u32
                || reason == Reason::Isolated as u32
                || reason == Reason::VirtualUndecided as u32)
    }

    /// Marks the packet of a workload to an address that may be translated as undecided, if it
    /// passes.
    #[inline(always)]
    pub(crate) const fn mark_undecided(&mut self) {
        if self.is(mark::SERVICE | mark::SHARED_ADDRESS)
            && !self.is(mark::TO_WORKLOAD)
            && self.is_allowed()
        {
            self.stamp |= UNDECIDED;
        }
    }

    /// Returns `true` if the entry that the packet rests on must be read again, or looked for
    /// elsewhere; after the last time, there is none.
    #[inline(always)]
    pub(crate) const fn reads_again(&mut self, reads: u32) -> bool {
        if self.flow_step < step::CONTENDED {
            return false;
        }
        let is_last = reads >= READS;
        if is_last {
            // A later fragment, or an error, opens no flow of its own.
            self.flow_step = if self.is(mark::LATER | mark::ERROR) {
                step::NOTHING
            } else {
                step::UNKNOWN
            };
        }
        !is_last
    }

    /// Returns `true` if the flow table wants to know the answer.
    #[inline(always)]
    pub const fn is_tracked(&self) -> bool {
        self.flow_step > step::SETTLED
    }

    /// Records that audit policies of a direction would deny, and that this hook reports
    /// it.
    #[inline(always)]
    pub(crate) const fn note_audit(&mut self, direction: Direction) {
        self.marks |= match direction {
            Direction::Ingress => mark::AUDIT_INGRESS,
            Direction::Egress => mark::AUDIT_EGRESS,
        };
    }

    /// Returns `true` if a policy's verdict keeps the packet from passing. Policies of its
    /// namespace cannot keep a workload from itself, those of the cluster can; and only those
    /// have rules that deny.
    #[inline(always)]
    pub(crate) const fn denies(&self, verdict: u32) -> bool {
        word_action(verdict) == Action::Deny as u32
            && (!self.is(mark::TO_ITSELF) || word_reason(verdict) == Reason::Rule as u32)
    }

    /// Says of what does not keep a workload from itself that it reaches itself.
    #[inline(always)]
    pub(crate) const fn excuse(&mut self) {
        let itself = Verdict::allow(Reason::SelfTraffic).to_word();
        self.second = 0;
        if !self.denies(self.enforced) {
            self.enforced = itself;
        }
        if !self.denies(self.audited) {
            self.audited = itself;
        }
    }

    /// Returns `true` if a process of this node sent the packet: it came in by no
    /// interface, has a local socket, and carries no endpoint's stamp.
    #[inline(always)]
    pub(crate) const fn is_from_node_itself(&self) -> bool {
        self.ingress_ifindex == 0 && self.stamp == 0 && self.is(mark::SOCKET)
    }

    #[inline(always)]
    pub(crate) const fn is(&self, mark: u32) -> bool {
        self.marks & mark != 0
    }

    /// The IP protocol, 0 when the packet is not IP.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.kind >> 8) as u8
    }

    /// TCP flags, 0 when it is not TCP.
    #[inline(always)]
    pub const fn tcp_flags(&self) -> u8 {
        self.kind as u8
    }

    /// Source and destination port of the packet that opens the flow which this one
    /// answers.
    #[inline(always)]
    pub(crate) const fn opener_ports(&self) -> (u16, u16) {
        let (from, to) = ((self.ports >> 16) as u16, self.ports as u16);
        match self.protocol() {
            protocol::ICMP => (from, (icmp::ECHO_REQUEST as u16) << 8),
            protocol::ICMPV6 => (from, (icmpv6::ECHO_REQUEST as u16) << 8),
            _ => (to, from),
        }
    }

    /// Source and destination.
    #[inline(always)]
    pub(crate) const fn addresses(&self) -> (Address, Address) {
        let family = if self.is(mark::V6) {
            Family::V6
        } else {
            Family::V4
        };
        (
            Address {
                family,
                words: self.source,
            },
            Address {
                family,
                words: self.destination,
            },
        )
    }

    /// Takes over what [`crate::flow::hurry`] has said.
    pub(crate) const fn pass_hurried(&mut self, stamp: u32) {
        self.settle(Verdict::allow(Reason::Flow));
        self.flow_step = step::SETTLED;
        self.stamp = stamp;
    }

    /// Denies the packet.
    #[inline(always)]
    pub const fn deny(&mut self, reason: Reason) {
        self.settle(Verdict::deny(reason));
    }

    #[inline(always)]
    pub(crate) const fn settle(&mut self, verdict: Verdict) {
        self.enforced = verdict.to_word();
        self.audited = verdict.to_word();
    }
}
