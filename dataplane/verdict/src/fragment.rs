//! Fragments: later ones follow the verdict of their first.
//!
//! Ports stand in the first fragment alone. When one is allowed, [`hold`] remembers its
//! datagram; [`follow`] lets the later ones pass. A later fragment without a first one
//! is the judge's, who denies it as `fragment_no_first`.
//!
//! The table is bounded: each endpoint has [`SETS`] sets of [`WAYS`] entries, and one
//! sender at most [`SHARE`] of a set, so that none can take the room of others. A
//! datagram whose last fragment has passed gives its place away.
//!
//! Invariant: an entry counts only under the table, the endpoint's incarnation and the
//! peer's binding epoch under which the first fragment was allowed, for some seconds, and
//! never for a fragment that overlaps the transport header which was judged (RFC 3128).

use crate::{
    address::Family,
    case::{Case, mark},
    endpoint::EndpointRecord,
    flow::step,
    hash::{Keys, two_choices},
    memory::FlowMemory,
    reason::Reason,
    shared::{SharedWord, SharedWord64},
    table::Table,
    verdict::Verdict,
};

/// Sets of one endpoint, a power of two.
pub const SETS: u32 = 16;
/// Entries of a set.
pub const WAYS: usize = 4;
/// Entries of a set that one sender may hold.
pub const SHARE: u32 = 2;
/// A first fragment is remembered for an eighth of the time that a one-way UDP flow may be
/// idle: 3.75 s unless configured. Fragments of one datagram follow each other within
/// milliseconds; Linux waits 30 s for missing ones.
const LIFETIME_SHIFT: u32 = 3;
/// Times that an entry is tried when other processors are quicker.
const ATTEMPTS: u32 = 2;
/// In [`Case::fragment`] of a later fragment: more of the datagram follow.
const MORE: u32 = 1;

/// One datagram whose first fragment was allowed; a cache line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct FragmentEntry {
    /// A [`FragmentWord`]; moves only by compare-and-swap on the word that was read.
    pub word: SharedWord64,
    /// Source address of the datagram.
    pub source: [SharedWord; 4],
    /// Destination address.
    pub destination: [SharedWord; 4],
    /// Its identification.
    pub datagram: SharedWord,
    /// Stamp << 16 | from the workload << 9 | IPv6 << 8 | protocol.
    pub kind: SharedWord,
    /// The peer's slot when the first fragment was allowed.
    pub peer_slot: SharedWord,
    /// The binding epoch of that slot.
    pub peer_epoch: SharedWord,
    /// Bytes of the transport header, which later fragments must not overlap.
    pub header: SharedWord,
    /// Jiffies, low word, of the first fragment.
    pub began: SharedWord,
}

/// Entries that a hash leads to; the value of the table's BPF array.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FragmentSet {
    /// The entries.
    pub ways: [FragmentEntry; WAYS],
}

const _: () = assert!(size_of::<FragmentEntry>() == 64 && size_of::<FragmentSet>() == 256);

/// The fields of an entry's word.
///
/// | bits | field |
/// |---|---|
/// | 0 | locked by a writer |
/// | 1 | in use |
/// | 2 | the last fragment has passed |
/// | 16–31 | incarnation of the endpoint, truncated |
/// | 32–47 | revision of the table, truncated |
/// | 48–63 | version of the entry |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentWord(pub u64);

impl FragmentWord {
    const LOCKED: u64 = 1 << 0;
    const IN_USE: u64 = 1 << 1;
    const DONE: u64 = 1 << 2;
    const VERSION: u64 = 1 << 48;

    #[inline(always)]
    const fn under(incarnation: u32, revision: u32) -> u64 {
        (incarnation as u64 & 0xffff) << 16 | (revision as u64 & 0xffff) << 32
    }

    /// Returns `true` if the entry counts under this incarnation and revision.
    #[inline(always)]
    pub const fn is_current(self, incarnation: u32, revision: u32) -> bool {
        self.0 & (Self::LOCKED | Self::IN_USE | 0xffff_ffff << 16)
            == Self::IN_USE | Self::under(incarnation, revision)
    }

    /// The word of an entry just written over one with this word.
    #[inline(always)]
    const fn published(self, incarnation: u32, revision: u32) -> Self {
        let version = (self.0 & !(Self::VERSION - 1)).wrapping_add(Self::VERSION);
        Self(version | Self::under(incarnation, revision) | Self::IN_USE)
    }
}

/// Fields that name a datagram on one hook of an endpoint.
#[derive(Clone, Copy)]
struct DatagramKey {
    words: [u32; 10],
}

impl DatagramKey {
    #[inline(always)]
    fn of(case: &Case) -> Self {
        let [a, b, c, d] = case.source;
        let [e, f, g, h] = case.destination;
        let (source, _) = case.addresses();
        let v6 = matches!(source.family, Family::V6) as u32;
        // The stamp that a workload's own packets come with is of its own choice.
        let (sent, stamp) = if case.is(mark::TO_WORKLOAD) {
            (0, case.stamp)
        } else {
            (1, 0)
        };
        let kind = stamp << 16 | sent << 9 | v6 << 8 | u32::from(case.protocol());
        Self {
            words: [a, b, c, d, e, f, g, h, case.datagram, kind],
        }
    }

    #[inline(always)]
    fn set(&self, keys: &Keys) -> u32 {
        let [first, _] = two_choices(keys, &self.words);
        first & (SETS - 1)
    }
}

impl FragmentEntry {
    /// Not zero when the entry is of another datagram.
    #[inline(always)]
    fn differs(&self, key: &DatagramKey) -> u32 {
        let mut difference = self.differs_in_source(key);
        let mut i = 0;
        while i < 4 {
            difference |= self.destination[i].load() ^ key.words[4 + i];
            i += 1;
        }
        difference | self.datagram.load() ^ key.words[8] | self.kind.load() ^ key.words[9]
    }

    #[inline(always)]
    fn differs_in_source(&self, key: &DatagramKey) -> u32 {
        let mut difference = 0;
        let mut i = 0;
        while i < 4 {
            difference |= self.source[i].load() ^ key.words[i];
            i += 1;
        }
        difference
    }
}

/// The set of a datagram, by its number in the table of all endpoints.
#[inline(always)]
fn place<M: FlowMemory>(memory: &M, record: &EndpointRecord, key: &DatagramKey) -> u32 {
    let partition = record.flow_partition.wrapping_sub(1);
    partition.wrapping_mul(SETS) | key.set(&memory.settings().keys)
}

#[inline(always)]
fn lifetime<M: FlowMemory>(memory: &M) -> u32 {
    memory.settings().idle[crate::flow::Idle::UdpOneWay as usize] >> LIFETIME_SHIFT
}

/// Settles a later fragment whose first one was allowed; leaves others alone.
#[inline(always)]
pub fn follow<M: FlowMemory>(memory: &M, case: &mut Case) {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return;
    };
    let Some(table) = Table::open(memory) else {
        return;
    };
    let revision = table.revision() as u32;
    let key = DatagramKey::of(case);
    let Some(set) = memory.fragment_set(place(memory, record, &key)) else {
        return;
    };
    case.flow_step = step::NOTHING;
    let mut way = 0;
    while way < WAYS {
        let entry = &set.ways[way];
        way += 1;
        let word = FragmentWord(entry.word.load());
        memory.order_loads();
        // It may become this datagram's, unless another one is.
        if word.0 & FragmentWord::LOCKED != 0 {
            case.flow_step = step::CONTENDED;
        }
        if !word.is_current(record.incarnation, revision) || entry.differs(&key) != 0 {
            continue;
        }
        let peer_slot = entry.peer_slot.load();
        let peer_epoch = entry.peer_epoch.load();
        let header = entry.header.load();
        let began = entry.began.load();
        memory.order_loads();
        let is_same = entry.word.load() == word.0;
        let is_old = memory.jiffies().wrapping_sub(began) > lifetime(memory);
        let Some(binding) = memory.binding(peer_slot) else {
            return;
        };
        if !is_same {
            case.flow_step = step::CONTENDED;
            return;
        }
        if is_old || binding.epoch.load() != peer_epoch {
            case.flow_step = step::NOTHING;
            return;
        }
        case.revision = revision;
        case.flow_step = step::SETTLED;
        if case.fragment & !MORE < header {
            case.settle(Verdict::deny(Reason::Malformed));
            return;
        }
        if case.fragment & MORE == 0 {
            memory.exchange(&entry.word, word.0, word.0 | FragmentWord::DONE);
        }
        case.settle(Verdict::allow(Reason::Flow));
        return;
    }
}

/// Remembers a first fragment that was allowed; denies it where there is no room.
#[inline(always)]
pub fn hold<M: FlowMemory>(memory: &M, case: &mut Case) {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return;
    };
    let key = DatagramKey::of(case);
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        let Some(set) = memory.fragment_set(place(memory, record, &key)) else {
            break;
        };
        let Some(way) = free_way(memory, record, set, &key, case) else {
            break;
        };
        let entry = &set.ways[way as usize & (WAYS - 1)];
        let word = FragmentWord(entry.word.load());
        let locked = word.0 | FragmentWord::LOCKED;
        if word.0 == locked || memory.exchange(&entry.word, word.0, locked) != word.0 {
            continue;
        }
        let mut i = 0;
        while i < 4 {
            entry.source[i].put(key.words[i]);
            entry.destination[i].put(key.words[4 + i]);
            i += 1;
        }
        entry.datagram.put(key.words[8]);
        entry.kind.put(key.words[9]);
        let peer_slot = if case.is(mark::TO_WORKLOAD) {
            case.source_slot
        } else {
            case.destination_slot
        };
        let epoch = memory
            .binding(peer_slot)
            .map_or(0, |binding| binding.epoch.load());
        entry.peer_slot.put(peer_slot);
        entry.peer_epoch.put(epoch);
        entry.header.put(case.fragment);
        entry.began.put(memory.jiffies());
        let published = word.published(record.incarnation, case.revision);
        memory.exchange(&entry.word, locked, published.0);
        return;
    }
    case.settle(Verdict::deny(Reason::FragmentTableFull));
}

/// Rank of an entry that may not be replaced.
const TAKEN: u32 = u32::MAX;

/// The entry of a set that a datagram may have: its own, a free one, one that is over,
/// or, when its sender has its share, that sender's oldest.
#[inline(always)]
fn free_way<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    set: &FragmentSet,
    key: &DatagramKey,
    case: &Case,
) -> Option<u32> {
    let now = memory.jiffies();
    let lifetime = lifetime(memory);
    let mut best = TAKEN;
    let mut best_way = 0;
    let mut held = 0;
    let mut oldest = 0;
    let mut oldest_way = 0;
    let mut way = 0;
    while way < WAYS {
        let entry = &set.ways[way];
        let word = FragmentWord(entry.word.load());
        let age = now.wrapping_sub(entry.began.load());
        let is_live = word.is_current(record.incarnation, case.revision)
            && word.0 & FragmentWord::DONE == 0
            && age <= lifetime;
        let rank = if word.0 & FragmentWord::LOCKED != 0 {
            TAKEN
        } else if word.0 & FragmentWord::IN_USE == 0 {
            1
        } else if entry.differs(key) == 0 {
            0
        } else if !is_live {
            2
        } else {
            if entry.differs_in_source(key) == 0 {
                held += 1;
                if age >= oldest {
                    oldest = age;
                    oldest_way = way as u32;
                }
            }
            TAKEN
        };
        if rank < best {
            best = rank;
            best_way = way as u32;
        }
        best = memory.blur(best, case.bytes);
        best_way = memory.blur(best_way, case.bytes);
        held = memory.blur(held, case.bytes);
        oldest = memory.blur(oldest, case.bytes);
        oldest_way = memory.blur(oldest_way, case.bytes);
        way += 1;
    }
    if best != 0 && held >= SHARE {
        return Some(oldest_way);
    }
    (best != TAKEN).then_some(best_way)
}
