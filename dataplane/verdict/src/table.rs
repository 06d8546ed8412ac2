//! The decision table: its format, and the lookups in it.
//!
//! A table is one block of 64 KiB pages of 32-bit words, in one BPF array. Its
//! sections refer to each other by *offset*: the number of a word, counted from
//! the start of the block. It is written once, before it is published; after
//! that only slot entries to which no address refers yet may be written.
//!
//! | section | place | content |
//! |---|---|---|
//! | header | page 0 | the words named in [`header`] |
//! | slots | from page 1 on | 16 bits per slot, the even one low: its profile |
//! | profiles | `header::PROFILES` | [`PROFILE_WORDS`] words each: kind and class, atom |
//! | classes | `header::CLASSES` | [`CLASS_WORDS`] words per subject class: offset of its groups for ingress, for egress |
//! | groups | a class's | one word per 64 atoms: offset of a block |
//! | blocks | a group's, a multiple of 64 | [`BLOCK_WORDS`] words: offset of each atom's row |
//! | rows | a block's, within one page | see [`Table::row`] |
//! | ranges | `header::RANGES_V4`, `RANGES_V6` | see [`Table::outside_slot`] |
//!
//! Groups and blocks are a matrix (class × atom → row) cut into pieces of 64, so
//! that equal pieces are stored once: most classes treat most atoms alike.
//!
//! Workloads outnumber what policies tell apart, so that slots name *profiles*,
//! which are few: a slot is two bytes instead of eight. No difference in time could
//! be measured between the two.
//!
//! Classes and atoms count from 0. Class 0 selects nothing: both of its
//! directions lead to rows that allow as `not_isolated`. Slot 0 does not exist, and
//! profile 0 is that of spare slots.

use crate::{
    address::{Address, Family},
    memory::{Block as _, Memory},
    verdict::{Direction, Verdict, row_flag},
};

/// Words of a page.
pub const PAGE_WORDS: usize = 1 << PAGE_SHIFT;
/// Offset → page.
pub const PAGE_SHIFT: u32 = 14;
/// Bytes of a page.
pub const PAGE_BYTES: usize = PAGE_WORDS * 4;

/// One page, the value of the table's BPF array.
///
/// A plain array of words because on Linux 6.1 an array of maps refuses inner
/// maps whose value is a struct.
pub type Page = [u32; PAGE_WORDS];

/// First word of every table.
pub const MAGIC: u32 = 0xc0ff_e7ab;

/// The words of the header, by their offset.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`crate::LAYOUT_VERSION`].
    pub const VERSION: usize = 1;
    /// The revision: number of this table, low word.
    pub const REVISION_LOW: usize = 2;
    /// The revision, high word.
    pub const REVISION_HIGH: usize = 3;
    /// Slots the slot section has room for, spare ones and slot 0 included.
    pub const SLOTS: usize = 4;
    /// Offset of the classes.
    pub const CLASSES: usize = 5;
    /// Number of classes.
    pub const CLASS_COUNT: usize = 6;
    /// Number of atoms.
    pub const ATOM_COUNT: usize = 7;
    /// Root of the IPv4 ranges, a tagged word as in range nodes.
    pub const RANGES_V4: usize = 8;
    /// Root of the IPv6 ranges.
    pub const RANGES_V6: usize = 9;
    /// Words in use, from the start of the block.
    pub const WORDS: usize = 10;
    /// Offset of the profiles, a multiple of two.
    pub const PROFILES: usize = 11;
    /// Number of profiles, profile 0 included.
    pub const PROFILE_COUNT: usize = 12;
    /// Number by which the class of a workload of this node becomes the class of its rows
    /// for translated addresses; see [`super::Table::service_class`].
    pub const SERVICE_CLASSES: usize = 13;
    /// Number of words reserved; those not named here are zero.
    pub const LENGTH: usize = 64;
}

/// Offset of slot 0.
pub const SLOTS_OFFSET: u32 = PAGE_WORDS as u32;
/// Slots in a word.
pub const SLOTS_PER_WORD: u32 = 2;
/// Words per profile.
pub const PROFILE_WORDS: u32 = 2;
/// Greatest number of profiles, profile 0 included.
pub const MAX_PROFILES: u32 = 1 << 16;
/// Words per class.
pub const CLASS_WORDS: u32 = 2;
/// Words per block, hence atoms per group word.
pub const BLOCK_WORDS: u32 = 64;
/// Greatest class number.
pub const MAX_CLASS: u32 = (1 << KIND_SHIFT) - 1;
const KIND_SHIFT: u32 = 28;
const KIND_MASK: u32 = 7;
const SHARED: u32 = 1 << 31;

/// Kind of a slot's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SlotKind {
    /// Nothing: a spare entry.
    Spare = 0,
    /// A workload on this node, with an endpoint.
    LocalWorkload = 1,
    /// A workload elsewhere, or one that has no endpoint here.
    RemoteWorkload = 2,
    /// A set of addresses that no workload owns.
    Outside = 3,
    /// This node.
    OwnNode = 4,
    /// Another node.
    OtherNode = 5,
    /// Virtual addresses of Services.
    Virtual = 6,
}

/// Properties of a slot by which policies judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Profile {
    /// Kind of the address.
    pub kind: SlotKind,
    /// Subject class, at most [`MAX_CLASS`]. Of a virtual address, or a node whose ports
    /// lead to Services, the atom in the rows of translated addresses instead; see
    /// [`Table::service_class`].
    pub class: u32,
    /// Peer atom.
    pub atom: u32,
    /// The address is a workload's, and a Service's too: a proxy may translate what is sent
    /// there.
    pub is_shared: bool,
}

impl Profile {
    /// Returns `true` if packets that a workload sends there may be translated to a
    /// backend's address.
    #[inline(always)]
    pub const fn is_translated(&self) -> bool {
        let may_be = matches!(
            self.kind,
            SlotKind::Virtual | SlotKind::OwnNode | SlotKind::OtherNode
        );
        may_be && self.class != 0
    }

    /// The two words of the profile.
    pub const fn to_words(self) -> [u32; 2] {
        [
            (self.is_shared as u32 * SHARED)
                | (self.kind as u32) << KIND_SHIFT
                | self.class & MAX_CLASS,
            self.atom,
        ]
    }

    /// Reads the two words. An unknown kind is none.
    #[inline(always)]
    pub const fn from_words([kind_class, atom]: [u32; 2]) -> Option<Self> {
        let kind = match kind_class >> KIND_SHIFT & KIND_MASK {
            1 => SlotKind::LocalWorkload,
            2 => SlotKind::RemoteWorkload,
            3 => SlotKind::Outside,
            4 => SlotKind::OwnNode,
            5 => SlotKind::OtherNode,
            6 => SlotKind::Virtual,
            _ => return None,
        };
        Some(Self {
            kind,
            class: kind_class & MAX_CLASS,
            atom,
            is_shared: kind_class & SHARED != 0,
        })
    }
}

/// Most intervals of one row: the row must lie within a page.
pub const MAX_ROW_INTERVALS: u32 = (PAGE_WORDS as u32 - 1) / 3;
/// Steps that a search among [`MAX_ROW_INTERVALS`] takes.
const ROW_STEPS: u32 = MAX_ROW_INTERVALS.ilog2() + 1;

/// Words of a range node: 16 first values, then what each leads to.
pub const RANGE_NODE_WORDS: u32 = 32;
/// Fan-out of a range node.
pub const RANGE_FAN_OUT: usize = 16;
/// Nodes from the root of one 32-bit level down to a leaf, at most.
pub const MAX_RANGE_DEPTH: u32 = 5;
/// Nodes on the longest way through the four levels of IPv6.
const MAX_RANGE_STEPS: u32 = 4 * MAX_RANGE_DEPTH;

/// Tag of a word that leads on from a range node, in its two highest bits.
pub mod range_tag {
    /// The rest is a slot: the answer.
    pub const SLOT: u32 = 0;
    /// The rest is an offset / 32: a node for the same word of the address.
    pub const NODE: u32 = 1;
    /// The rest is an offset / 32: a node for the next word of the address.
    pub const NEXT_WORD: u32 = 2;
    /// Number of bits by which the tag is shifted.
    pub const SHIFT: u32 = 30;
    /// The rest.
    pub const MASK: u32 = (1 << SHIFT) - 1;
}

/// Answer of a row for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict in force.
    pub enforced: Verdict,
    /// The verdict with audit policies in force as well.
    pub audited: Verdict,
}

/// A [`Decision`] as the words of its verdicts, which is all that a program needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionWords {
    /// The verdict in force, [`Verdict::row_word`].
    pub enforced: u32,
    /// The verdict with audit policies in force as well.
    pub audited: u32,
    /// The [`row_flag`]s of the verdict in force.
    pub flags: u32,
}

impl From<DecisionWords> for Decision {
    fn from(words: DecisionWords) -> Self {
        Self {
            enforced: Verdict::from_word(words.enforced),
            audited: Verdict::from_word(words.audited),
        }
    }
}

/// Place of a slot's profile number: the offset of its word, and the bits by which it is
/// shifted in that word.
#[inline(always)]
pub const fn slot_place(slot: u32) -> (u32, u32) {
    let offset = SLOTS_OFFSET.wrapping_add(slot / SLOTS_PER_WORD);
    (offset, slot % SLOTS_PER_WORD * 16)
}

/// The port number that rows are searched by: `protocol << 16 | port`, for ICMP
/// `type << 8 | code` as the port.
#[inline(always)]
pub const fn row_key(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// First row key above all: keys have 24 bits.
pub const ROW_KEY_END: u32 = 1 << 24;

/// Lookups in the table in force.
///
/// Every method is `None` where the table contradicts itself; the caller denies
/// as `table_corrupt`.
pub struct Table<'a, M: Memory> {
    memory: &'a M,
    block: &'a M::Block,
    header: &'a Page,
}

impl<'a, M: Memory> Table<'a, M> {
    /// The table in force.
    #[inline(always)]
    pub fn open(memory: &'a M) -> Option<Self> {
        let block = memory.table()?;
        let header = block.page(0)?;
        (header[header::MAGIC] == MAGIC).then_some(Self {
            memory,
            block,
            header,
        })
    }

    /// The number of this table.
    #[inline(always)]
    pub fn revision(&self) -> u64 {
        u64::from(self.header[header::REVISION_HIGH]) << 32
            | u64::from(self.header[header::REVISION_LOW])
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> Option<u32> {
        let page = self.block.page(offset >> PAGE_SHIFT)?;
        Some(page[(offset & (PAGE_WORDS as u32 - 1)) as usize])
    }

    /// The profile of a slot.
    #[inline(always)]
    pub fn slot(&self, slot: u32) -> Option<Profile> {
        if slot == 0 || slot >= self.header[header::SLOTS] {
            return None;
        }
        let (offset, shift) = slot_place(slot);
        let profile = self.word(offset)? >> shift & 0xffff;
        if profile == 0 || profile >= self.header[header::PROFILE_COUNT] {
            return None;
        }
        let offset = self.header[header::PROFILES].wrapping_add(profile * PROFILE_WORDS);
        let page = self.block.page(offset >> PAGE_SHIFT)?;
        // Even offset, even page size: both words lie in the page.
        let at = (offset & (PAGE_WORDS as u32 - 2)) as usize;
        Profile::from_words([page[at], page[at | 1]])
    }

    /// The class whose egress rows say what workloads of a class of this node may do at
    /// translated addresses: of virtual addresses, and of nodes whose ports lead to Services.
    /// The number of such an address stands where its profile has a class
    /// ([`Profile::is_translated`]), and is that of its atom in these rows. A row has the
    /// ports of Services, marked [`row_flag::SERVICE`]; at all other keys it is the row of
    /// the address as it is.
    #[inline(always)]
    pub fn service_class(&self, class: u32) -> u32 {
        class.wrapping_add(self.header[header::SERVICE_CLASSES])
    }

    /// Returns the decision for a subject class and a peer atom, under one row key.
    pub fn decide(
        &self,
        class: u32,
        direction: Direction,
        atom: u32,
        key: u32,
    ) -> Option<Decision> {
        self.decide_words(class, direction, atom, key)
            .map(Decision::from)
    }

    /// [`Table::decide`], as words.
    #[inline(always)]
    pub fn decide_words(
        &self,
        class: u32,
        direction: Direction,
        atom: u32,
        key: u32,
    ) -> Option<DecisionWords> {
        if class >= self.header[header::CLASS_COUNT] || atom >= self.header[header::ATOM_COUNT] {
            return None;
        }
        let class_offset = self.header[header::CLASSES]
            .wrapping_add(class.wrapping_mul(CLASS_WORDS))
            .wrapping_add(direction as u32);
        let groups = self.word(class_offset)?;
        let block = self.word(groups.wrapping_add(atom / BLOCK_WORDS))?;
        let row = self.word(block.wrapping_add(atom % BLOCK_WORDS))?;
        self.row(row, key)
    }

    /// Searches a row: a word with the number of intervals `n`, then `n` words
    /// with the first key of each interval, ascending, the first of them 0, then
    /// `n` words with the verdict in force, then `n` with the audited verdict.
    /// An interval ends where the next begins.
    #[inline(always)]
    pub fn row(&self, offset: u32, key: u32) -> Option<DecisionWords> {
        const WITHIN: u32 = PAGE_WORDS as u32 - 1;
        let page = self.block.page(offset >> PAGE_SHIFT)?;
        let start = offset & WITHIN;
        let count = page[start as usize];
        if count == 0 || count > MAX_ROW_INTERVALS {
            return None;
        }
        // `base` is the greatest known interval that begins at or before the
        // key; the answer lies in the `length` intervals from it on.
        let mut base = start.wrapping_add(1);
        let mut length = count;
        let mut step = 0;
        while step < ROW_STEPS && length > 1 {
            let half = length / 2;
            let first = page[(base.wrapping_add(half) & WITHIN) as usize];
            let beyond = self.memory.less(key, first);
            base = base.wrapping_add(half.wrapping_mul(beyond ^ 1));
            length -= half;
            step += 1;
        }
        let enforced = page[(base.wrapping_add(count) & WITHIN) as usize];
        let audited = page[(base.wrapping_add(count).wrapping_add(count) & WITHIN) as usize];
        Some(DecisionWords {
            enforced: self.memory.blur(Verdict::row_word(enforced), enforced),
            audited: self.memory.blur(Verdict::row_word(audited), audited),
            flags: self.memory.blur(enforced & row_flag::ALL, enforced),
        })
    }

    /// The slot of an address that no workload or node owns.
    ///
    /// The addresses are cut into ranges over which the set of CIDRs that
    /// contain them is the same. A node, at a multiple of its size, has 16 first
    /// values, ascending, the first of them at most every value that can arrive;
    /// then 16 words, tagged by [`range_tag`], that say where the range which
    /// starts there leads. Unused first values are the greatest word, and lead
    /// where the last used one leads. An IPv6 address is walked word by word.
    #[inline(always)]
    pub fn outside_slot(&self, address: &Address) -> Option<u32> {
        let root = match address.family {
            Family::V4 => self.header[header::RANGES_V4],
            Family::V6 => self.header[header::RANGES_V6],
        };
        let mut to = self.memory.blur(root, root);
        let mut level = 0;
        let mut step = 0;
        while step < MAX_RANGE_STEPS {
            let tag = to >> range_tag::SHIFT;
            let rest = to & range_tag::MASK;
            if tag == range_tag::SLOT {
                return Some(rest);
            }
            // Without a branch, and blurred: the verifier would follow each way through
            // the levels.
            level = self
                .memory
                .blur(level + self.memory.less(range_tag::NODE, tag), to);
            let word = address.words[level as usize & 3];
            let offset = rest.wrapping_mul(RANGE_NODE_WORDS);
            let page = self.block.page(offset >> PAGE_SHIFT)?;
            let node = offset & (PAGE_WORDS as u32 - RANGE_NODE_WORDS);
            let mut at = node;
            let mut half = RANGE_FAN_OUT as u32 / 2;
            while half > 0 {
                let first = page[((at + half) & (PAGE_WORDS as u32 - 1)) as usize];
                at += half * (self.memory.less(word, first) ^ 1);
                half /= 2;
            }
            to = page[((at + RANGE_FAN_OUT as u32) & (PAGE_WORDS as u32 - 1)) as usize];
            step += 1;
        }
        None
    }
}
