//! Flows: the key, the entry, and the word that guards it.
//!
//! A flow lies in the partition of the endpoint whose hook judges it, under a
//! key written from that endpoint's side, so that the reply finds the same
//! entry. A partition is an array of sets of [`WAYS`] entries; a flow lies in one
//! of two candidate sets. Keys are compared in full, never by fingerprint.
//!
//! Everything a reader needs to trust an entry is in one 64-bit word,
//! [`StateWord`]: a writer locks by compare-and-swap, stores the rest, and
//! publishes with the next version; a reader reads the word, the key, and the
//! word again. What the word holds is truncated: before a value comes round
//! again, the sweep has cleared every entry that carries it.

mod account;
mod adopt;
#[cfg(test)]
mod claims;
mod crossing;
#[cfg(not(target_arch = "bpf"))]
pub mod grow;
mod hurry;
#[cfg(not(target_arch = "bpf"))]
pub mod model;
mod room;
mod size;
mod track;

use crate::{
    address::Address,
    endpoint::UNDECIDED,
    hash::{Keys, MAX_WORDS, two_choices},
    packet::protocol,
    shared::{SharedByte, SharedWord, SharedWord64},
    verdict::RULE_BITS,
};

pub use adopt::{Aside, adopt};
pub use crossing::{covers, is_placed, leaves};
pub use hurry::{Glance, Words, hurry};
pub use size::{Size, shortening};
pub use track::{ATTEMPTS, READS, choose, give_up, remember, track};
pub(crate) use track::{is_opening, look_up};

/// Entries of a set.
pub const WAYS: usize = 4;

/// Names a flow, from its endpoint's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The other end's address.
    pub peer: [u32; 4],
    /// The endpoint's address.
    pub local: [u32; 4],
    /// The endpoint's port << 16 | the other end's; for ICMP echo the identifier
    /// in both places.
    pub ports: u32,
    /// Family << 8 | protocol, and [`OPENED_BY_PEER`] for an echo that the other end
    /// asked for: both ends may use one identifier at a time.
    pub kind: u32,
}

/// In [`FlowKey::kind`]: an ICMP echo that the other end asked for.
pub const OPENED_BY_PEER: u32 = 1 << 16;

/// In [`FlowKey::kind`]: a flow as it leaves the node, behind translation; see
/// [`crate::uplink`]. No packet at a workload's hook belongs to it.
pub const TRANSLATED: u32 = 1 << 17;

impl FlowKey {
    /// The key of a packet between an endpoint's address and a peer's.
    #[inline(always)]
    pub const fn new(
        local: &Address,
        peer: &Address,
        protocol: u8,
        local_port: u16,
        peer_port: u16,
    ) -> Self {
        Self {
            peer: peer.words,
            local: local.words,
            ports: (local_port as u32) << 16 | peer_port as u32,
            kind: (local.family as u32) << 8 | protocol as u32,
        }
    }

    /// The key as words.
    #[inline(always)]
    pub const fn words(&self) -> [u32; MAX_WORDS] {
        let [a, b, c, d] = self.peer;
        let [e, f, g, h] = self.local;
        [a, b, c, d, e, f, g, h, self.ports, self.kind]
    }

    /// The key as pairs of words, the first of each low.
    #[inline(always)]
    pub const fn pairs(&self) -> [u64; KEY_PAIRS] {
        let words = self.words();
        let mut pairs = [0; KEY_PAIRS];
        let mut i = 0;
        while i < KEY_PAIRS {
            pairs[i] = pair(words[2 * i], words[2 * i + 1]);
            i += 1;
        }
        pairs
    }

    /// The places of the flow in a partition of `mask + 1` sets.
    #[inline(always)]
    pub fn places(&self, keys: &Keys, mask: u32) -> Places {
        Places::of(two_choices(keys, &self.words()), mask)
    }
}

/// Pairs of words of a key.
pub const KEY_PAIRS: usize = MAX_WORDS / 2;

/// Two words as one, the first low.
#[inline(always)]
pub(crate) const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The places of a flow, as its key's hash chooses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Two candidate sets, never the same unless there is only one.
    pub sets: [u32; 2],
    /// Tells most keys of a set apart; see [`FlowEntry::tags`].
    pub tag: u8,
}

impl Places {
    #[inline(always)]
    pub(crate) const fn of([first, second]: [u32; 2], mask: u32) -> Self {
        let tag = (first >> 24) as u8;
        let (first, second) = (first & mask, second & mask);
        let sets = [
            first,
            if first == second {
                (second ^ 1) & mask
            } else {
                second
            },
        ];
        Self { sets, tag }
    }
}

/// State of a flow; three bits of the state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// No flow: the entry is free.
    Free = 0,
    /// The opener has sent; nothing has come back.
    Embryonic = 1,
    /// Both ends have sent, and the opener has shown that it saw the other end's answer.
    Established = 2,
    /// TCP: reset, or finished by both ends.
    Closing = 3,
    /// The other end has answered. The opener has not shown yet that it saw the answer: its
    /// address may be spoofed.
    Answered = 4,
}

/// Widths of the fields of [`StateWord`], from the lowest bit up.
mod width {
    pub(super) const LOCK: u32 = 1;
    pub(super) const VERSION: u32 = 11;
    pub(super) const REVISION: u32 = 12;
    pub(super) const INCARNATION: u32 = 10;
    pub(super) const RULE: u32 = super::RULE_BITS;
    pub(super) const STATE: u32 = 3;
    pub(super) const MARKS: u32 = 7;
}

const VERSION_SHIFT: u32 = width::LOCK;
const REVISION_SHIFT: u32 = VERSION_SHIFT + width::VERSION;
const INCARNATION_SHIFT: u32 = REVISION_SHIFT + width::REVISION;
const RULE_SHIFT: u32 = INCARNATION_SHIFT + width::INCARNATION;
const STATE_SHIFT: u32 = RULE_SHIFT + width::RULE;
const MARKS_SHIFT: u32 = STATE_SHIFT + width::STATE;
const _: () = assert!(MARKS_SHIFT + width::MARKS == 64);

/// The fields of an entry's state word.
///
/// | bits | field |
/// |---|---|
/// | 0 | locked by a writer |
/// | 1–11 | version of the entry |
/// | 12–23 | revision of the table that decided, truncated |
/// | 24–33 | incarnation of the endpoint, truncated |
/// | 34–53 | rule that allowed the flow |
/// | 54–56 | [`FlowState`] |
/// | 57–63 | [`flow_mark`] |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateWord(pub u64);

/// State and marks of a word whose free place is kept: no flow's, and no free place's
/// otherwise.
const RESERVED: u64 = ((1 << width::MARKS) - 1) << width::STATE;

const fn field(word: u64, shift: u32, width: u32) -> u32 {
    (word >> shift & ((1 << width) - 1)) as u32
}

const fn place(value: u32, shift: u32, width: u32) -> u64 {
    (value as u64 & ((1 << width) - 1)) << shift
}

impl StateWord {
    /// A word for a flow just decided, not locked. `marks` are of [`flow_mark`].
    pub const fn new(
        version: u32,
        revision: u32,
        incarnation: u32,
        rule: u32,
        state: FlowState,
        marks: u32,
    ) -> Self {
        Self(
            place(version, VERSION_SHIFT, width::VERSION)
                | place(revision, REVISION_SHIFT, width::REVISION)
                | place(incarnation, INCARNATION_SHIFT, width::INCARNATION)
                | place(rule, RULE_SHIFT, width::RULE)
                | place(state as u32, STATE_SHIFT, width::STATE)
                | place(marks, MARKS_SHIFT, width::MARKS),
        )
    }

    /// Returns `true` if user space keeps the free place for a flow that it moves there. No
    /// program looks for a flow in a free entry, nor puts one into this one.
    #[inline(always)]
    pub const fn is_reserved(self) -> bool {
        self.0 >> STATE_SHIFT == RESERVED
    }

    /// The word of a free place that user space keeps, in the place of this one.
    #[must_use]
    pub const fn reserved(self) -> Self {
        let free = self.published(0, 0, 0, FlowState::Free, 0);
        Self(free.0 | RESERVED << STATE_SHIFT)
    }

    /// The same word in another place, after the word that stands there.
    #[must_use]
    pub const fn after(self, other: Self) -> Self {
        let mask = place(u32::MAX, VERSION_SHIFT, width::VERSION);
        let version = other.version().wrapping_add(1);
        Self(self.0 & !mask | place(version, VERSION_SHIFT, width::VERSION))
    }

    /// The word of a free place, after this one.
    #[must_use]
    pub const fn freed(self) -> Self {
        self.published(0, 0, 0, FlowState::Free, 0)
    }

    /// Returns `true` if a writer holds the entry.
    pub const fn is_locked(self) -> bool {
        self.0 & 1 != 0
    }

    /// The same word, locked.
    pub const fn locked(self) -> Self {
        Self(self.0 | 1)
    }

    /// The version, 11 bits.
    pub const fn version(self) -> u32 {
        field(self.0, VERSION_SHIFT, width::VERSION)
    }

    /// Returns `true` if the entry is of this incarnation of its endpoint.
    pub const fn is_of(self, incarnation: u32) -> bool {
        let mask = place(u32::MAX, INCARNATION_SHIFT, width::INCARNATION);
        self.0 & mask == place(incarnation, INCARNATION_SHIFT, width::INCARNATION)
    }

    /// Returns `true` if two entries are of the same incarnation of their endpoint.
    #[cfg(not(target_arch = "bpf"))]
    pub(crate) const fn has_incarnation_of(self, other: Self) -> bool {
        let mask = place(u32::MAX, INCARNATION_SHIFT, width::INCARNATION);
        (self.0 ^ other.0) & mask == 0
    }

    /// Returns `true` if the entry counts under this revision and incarnation.
    pub const fn is_current(self, revision: u32, incarnation: u32) -> bool {
        let mask = place(u32::MAX, REVISION_SHIFT, width::REVISION)
            | place(u32::MAX, INCARNATION_SHIFT, width::INCARNATION);
        let wanted = place(revision, REVISION_SHIFT, width::REVISION)
            | place(incarnation, INCARNATION_SHIFT, width::INCARNATION);
        self.0 & mask == wanted
    }

    /// Returns the number of tables since the entry was decided, at most what the word can
    /// tell.
    pub const fn behind(self, revision: u32) -> u32 {
        let own = field(self.0, REVISION_SHIFT, width::REVISION);
        revision.wrapping_sub(own) & ((1 << width::REVISION) - 1)
    }

    /// The same word under another revision.
    #[must_use]
    pub const fn in_revision(self, revision: u32) -> Self {
        let mask = place(u32::MAX, REVISION_SHIFT, width::REVISION);
        Self(self.0 & !mask | place(revision, REVISION_SHIFT, width::REVISION))
    }

    /// The rule that allowed the flow.
    pub const fn rule(self) -> u32 {
        field(self.0, RULE_SHIFT, width::RULE)
    }

    /// The state; an unknown one is free.
    pub const fn state(self) -> FlowState {
        match field(self.0, STATE_SHIFT, width::STATE) {
            1 => FlowState::Embryonic,
            2 => FlowState::Established,
            3 => FlowState::Closing,
            4 => FlowState::Answered,
            _ => FlowState::Free,
        }
    }

    /// The same word in another state.
    #[must_use]
    pub const fn in_state(self, state: FlowState) -> Self {
        let mask = place(u32::MAX, STATE_SHIFT, width::STATE);
        Self(self.0 & !mask | place(state as u32, STATE_SHIFT, width::STATE))
    }

    /// [`UNDECIDED`] if packets of the flow bear it, else 0.
    #[inline(always)]
    pub(crate) const fn undecided(self) -> u32 {
        const _: () = assert!(place(flow_mark::UNDECIDED, MARKS_SHIFT, width::MARKS) == 1 << 63);
        (self.0 >> 63) as u32 * UNDECIDED
    }

    /// The bits of [`flow_mark`].
    pub const fn marks(self) -> u32 {
        field(self.0, MARKS_SHIFT, width::MARKS)
    }

    /// The same word with more bits of [`flow_mark`].
    #[must_use]
    pub const fn with_marks(self, marks: u32) -> Self {
        Self(self.0 | place(marks, MARKS_SHIFT, width::MARKS))
    }

    /// The same word with the next version.
    #[must_use]
    pub const fn next(self) -> Self {
        let mask = place(u32::MAX, VERSION_SHIFT, width::VERSION);
        let version = self.version().wrapping_add(1);
        Self(self.0 & !mask | place(version, VERSION_SHIFT, width::VERSION))
    }

    /// Returns the word that a writer publishes after it stored an entry: the next version.
    pub const fn published(
        self,
        revision: u32,
        incarnation: u32,
        rule: u32,
        state: FlowState,
        marks: u32,
    ) -> Self {
        Self::new(
            self.version().wrapping_add(1),
            revision,
            incarnation,
            rule,
            state,
            marks,
        )
    }
}

/// An entry of the flow table: two cache lines, the first for finding it, the
/// second for what is accounted.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct FlowEntry {
    /// A [`StateWord`]; moves only by compare-and-swap on the word that was read.
    pub state: SharedWord64,
    /// The [`FlowKey`], as its pairs of words.
    pub key: [SharedWord64; KEY_PAIRS],
    /// The peer's slot.
    pub peer_slot: SharedWord,
    /// The peer's binding epoch when the flow was decided.
    pub peer_epoch: SharedWord,
    /// Jiffies, low word, of the last packet; written only when it changes.
    pub last_seen: SharedWord,
    /// In the first entry of a set, a [`Places::tag`] for each way: that of the last flow
    /// there. A reader looks for a key only where its tag stands, so that a key that is not
    /// in a set costs one cache line.
    pub tags: [SharedByte; WAYS],
    /// Packets from the opener, and back; see [`FlowEntry::counted`]. The highest bit of the
    /// first is [`TOLD_ELSEWHERE`].
    pub packets: [SharedWord64; 2],
    /// Bytes from the opener, and back.
    pub bytes: [SharedWord64; 2],
    /// TCP: last acknowledgement seen from the opener, and back.
    pub acknowledged: [SharedWord; 2],
    /// TCP: initial sequence number of the opener, and of the other end as last seen; 0
    /// when it has not been seen.
    pub initial: [SharedWord; 2],
    /// TCP: sequence number behind the last byte that the other end has been seen to send
    /// while the flow was not established.
    pub answered: SharedWord,
    /// Jiffies, low word, of the first packet.
    pub opened: SharedWord,
    /// A [`Checked`]; written by whoever has checked the entry.
    pub checked: SharedWord64,
}

/// Bit of the packets from the opener: another hook of this node tells of the flow.
pub const TOLD_ELSEWHERE: u64 = 1 << 63;

/// Under which circumstances an entry was last found to count.
///
/// | bits | field |
/// |---|---|
/// | 0–31 | [`generation`](crate::memory::generation) of all bindings |
/// | 32–47 | stamp of the packet to the workload that the entry was checked for |
/// | 48–58 | version of the entry |
/// | 62 | a packet to the workload was checked |
/// | 63 | the entry was checked |
///
/// The version tells a flow from the one before in the same place: who has checked that one
/// may write this word late. Under one version an entry is of one revision at most, so that
/// all that the table says of the peer is as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked(pub u64);

impl Checked {
    const TO_WORKLOAD: u64 = 1 << 62;
    const VALID: u64 = 1 << 63;
    const VERSION_AT: u32 = 48;
    const STAMP_AT: u32 = 32;
    /// Bits that tell nothing about packets from the workload.
    const RECEIVER: u64 = Self::TO_WORKLOAD | 0xffff << Self::STAMP_AT;

    #[inline(always)]
    const fn sent(generation: u32, word: StateWord) -> u64 {
        Self::VALID | (word.version() as u64) << Self::VERSION_AT | generation as u64
    }

    #[inline(always)]
    const fn received(generation: u32, word: StateWord, stamp: u32) -> u64 {
        Self::sent(generation, word) | Self::TO_WORKLOAD | (stamp as u64) << Self::STAMP_AT
    }

    /// Returns `true` if the entry with this word counts for packets from the workload.
    #[inline(always)]
    pub(crate) const fn holds_from_workload(self, generation: u32, word: StateWord) -> bool {
        self.0 & !Self::RECEIVER == Self::sent(generation, word)
    }

    /// Returns `true` if the entry with this word counts for packets to the workload with
    /// this stamp.
    #[inline(always)]
    pub(crate) const fn holds_to_workload(
        self,
        generation: u32,
        word: StateWord,
        stamp: u32,
    ) -> bool {
        stamp <= 0xffff && self.0 == Self::received(generation, word, stamp)
    }

    /// Returns what is known after the entry with this word was found to count for a packet
    /// to the workload with this stamp, or, without one, for a packet from the workload.
    #[inline(always)]
    pub(crate) const fn and(self, generation: u32, word: StateWord, stamp: Option<u32>) -> Self {
        match stamp {
            Some(stamp) if stamp <= 0xffff => Self(Self::received(generation, word, stamp)),
            None if !self.holds_from_workload(generation, word) => {
                Self(Self::sent(generation, word))
            }
            _ => self,
        }
    }
}

impl FlowEntry {
    /// Returns 0 if the entry has this key.
    #[inline(always)]
    pub(crate) fn differs(&self, key: &[u64; KEY_PAIRS]) -> u64 {
        let mut difference = 0;
        let mut i = 0;
        while i < KEY_PAIRS {
            difference |= self.key[i].load() ^ key[i];
            i += 1;
        }
        difference
    }

    /// Returns the packets from the opener, and back.
    #[inline(always)]
    pub fn counted(&self) -> [u64; 2] {
        [
            self.packets[0].load() & !TOLD_ELSEWHERE,
            self.packets[1].load(),
        ]
    }

    /// Returns `true` if the entry's flow is this hook's to tell of.
    #[inline(always)]
    pub fn is_told_of(&self) -> bool {
        self.packets[0].load() & TOLD_ELSEWHERE == 0
    }

    /// The IP protocol of the entry's key.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.key[KEY_PAIRS - 1].load() >> 32) as u8
    }
}

/// Bits of a state word that say more of a flow than its state.
pub mod flow_mark {
    /// The endpoint opened the flow, and its egress policy allowed it; otherwise the
    /// other end did, and the endpoint's ingress policy (and the other end's egress
    /// policy, if that is local).
    pub const OPENED_BY_ENDPOINT: u32 = 1 << 0;
    /// The node itself opened it, by a local socket.
    pub const OWN_NODE: u32 = 1 << 1;
    /// TCP: the opener has sent a FIN.
    pub const FIN_OPENER: u32 = 1 << 2;
    /// TCP: the other end has sent a FIN.
    pub const FIN_REPLY: u32 = 1 << 3;
    /// The other end has the node's address: the node, or a sender that the node's
    /// address stands for.
    pub const NODE_ADDRESS: u32 = 1 << 4;
    /// The opener is a local workload behind the node's address (masqueraded), known by
    /// its stamp: the entry's peer slot is that workload's.
    pub const MASQUERADED: u32 = 1 << 5;
    /// The endpoint opened it to a port of a Service of which some backends may be reached:
    /// each of its packets bears [`UNDECIDED`](crate::endpoint::UNDECIDED).
    pub const UNDECIDED: u32 = 1 << 6;
}

/// States in which [`track`] leaves a case.
pub(crate) mod step {
    /// Packets like this one have no flow; policy decides alone.
    pub(crate) const NOTHING: u32 = 0;
    /// The case has its answer.
    pub(crate) const SETTLED: u32 = 1;
    /// The packet may open a flow.
    pub(crate) const UNKNOWN: u32 = 2;
    /// The flow must be decided again.
    pub(crate) const STALE: u32 = 3;
    /// The opener opens once more.
    pub(crate) const REOPENED: u32 = 4;
    /// The other end opens, on the same ports.
    pub(crate) const CROSSED: u32 = 5;
    /// The packet opens a flow, and has a place for it.
    pub(crate) const PLACED: u32 = 6;
    /// The packet opens a flow, and there is no place for it.
    pub(crate) const FULL: u32 = 7;
    /// Another processor was changing the entry that the packet rests on, its flow's or its
    /// datagram's: it must be read again.
    pub(crate) const CONTENDED: u32 = 8;
    /// The partition grows, and the packet has no flow where it belongs: it may lie where it
    /// belonged before.
    pub(crate) const EARLIER: u32 = 9;
    /// Nor there: it may have been moved meanwhile to where it belongs.
    pub(crate) const MOVED: u32 = 10;
}

/// A set of entries, the value of a partition's BPF array.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FlowSet {
    /// The entries.
    pub ways: [FlowEntry; WAYS],
}

const _: () = assert!(size_of::<FlowSet>() == 512);

/// Kind of a flow, on which the time that it may be idle depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Idle {
    /// TCP, the opener has acknowledged the other end's answer.
    TcpEstablished = 0,
    /// TCP, the opener has not.
    TcpEmbryonic = 1,
    /// TCP, reset or finished by both ends.
    TcpClosing = 2,
    /// UDP, both ends have sent.
    Udp = 3,
    /// UDP, only the opener has sent.
    UdpOneWay = 4,
    /// SCTP.
    Sctp = 5,
    /// ICMP echo.
    Icmp = 6,
    /// Any other protocol.
    Other = 7,
}

/// Number of idle times.
pub const IDLE_TIMES: usize = 8;

impl Idle {
    /// All of them, by number.
    pub const ALL: [Self; IDLE_TIMES] = [
        Self::TcpEstablished,
        Self::TcpEmbryonic,
        Self::TcpClosing,
        Self::Udp,
        Self::UdpOneWay,
        Self::Sctp,
        Self::Icmp,
        Self::Other,
    ];

    /// The one that holds for a flow.
    #[inline(always)]
    pub const fn of(protocol: u8, state: FlowState) -> Self {
        match (protocol, state) {
            (protocol::TCP, FlowState::Established) => Self::TcpEstablished,
            (protocol::TCP, FlowState::Closing) => Self::TcpClosing,
            (protocol::TCP, _) => Self::TcpEmbryonic,
            (protocol::UDP, FlowState::Embryonic) => Self::UdpOneWay,
            (protocol::UDP, _) => Self::Udp,
            (protocol::SCTP, _) => Self::Sctp,
            (protocol::ICMP | protocol::ICMPV6, _) => Self::Icmp,
            _ => Self::Other,
        }
    }
}

const _: () = assert!(
    size_of::<FlowEntry>() == 128
        && core::mem::offset_of!(FlowEntry, key) == 8
        && core::mem::offset_of!(FlowEntry, packets) == 64
        && core::mem::offset_of!(FlowEntry, initial) == 104
        && core::mem::offset_of!(FlowEntry, checked) == 120
);
