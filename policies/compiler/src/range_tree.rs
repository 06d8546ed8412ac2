//! The search trees for addresses that no workload or node owns.
//!
//! See the table format: nodes of 16 first values and 16 tagged words; an IPv6
//! address is walked one 32-bit word after the other.
//!
//! Invariant: from the root, every value leads to a slot, in no more nodes per
//! word than the lookup walks.

use cofferdam_verdict::table::{MAX_RANGE_DEPTH, RANGE_FAN_OUT, RANGE_NODE_WORDS, range_tag};

use super::CompileError;
use super::signatures::number;

/// Target of a range: a tagged word whose node numbers count from this forest's first node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Slot(u32),
    Node(u32),
    NextWord(u32),
}

impl Target {
    /// The tagged word, for nodes that begin at `base`, in units of a node.
    fn word(self, base: u32) -> u32 {
        let (tag, rest) = match self {
            Self::Slot(slot) => (range_tag::SLOT, slot),
            Self::Node(node) => (range_tag::NODE, base + node),
            Self::NextWord(node) => (range_tag::NEXT_WORD, base + node),
        };
        tag << range_tag::SHIFT | rest & range_tag::MASK
    }
}

/// One node before its place is known.
type Node = [(u32, Target); RANGE_FAN_OUT];

/// The trees of both families.
#[derive(Debug)]
pub(super) struct RangeTrees {
    nodes: Vec<Node>,
    v4: Target,
    v6: Target,
}

impl RangeTrees {
    /// Builds both trees. Each list is ascending, and its first value is 0.
    pub(super) fn new(v4: &[(u32, u32)], v6: &[(u128, u32)]) -> Result<Self, CompileError> {
        let mut trees = Self {
            nodes: Vec::new(),
            v4: Target::Slot(0),
            v6: Target::Slot(0),
        };
        let entries = v4
            .iter()
            .map(|(start, slot)| (*start, Target::Slot(*slot)))
            .collect();
        trees.v4 = trees.word_tree(entries)?;
        trees.v6 = trees.address_tree(v6, 96)?;
        Ok(trees)
    }

    /// Words that all nodes take.
    pub(super) fn length(&self) -> usize {
        self.nodes.len() * RANGE_NODE_WORDS as usize
    }

    /// The roots for IPv4 and IPv6 when the nodes are written at `offset`, a
    /// multiple of a node's length.
    pub(super) fn roots(&self, offset: u32) -> [u32; 2] {
        let base = offset / RANGE_NODE_WORDS;
        [self.v4.word(base), self.v6.word(base)]
    }

    /// The nodes' words when they are written at `offset`.
    pub(super) fn words(&self, offset: u32) -> impl Iterator<Item = u32> {
        let base = offset / RANGE_NODE_WORDS;
        self.nodes.iter().flat_map(move |node| {
            let firsts = node.iter().map(|(first, _)| *first);
            firsts.chain(node.iter().map(move |(_, target)| target.word(base)))
        })
    }

    /// The tree over addresses that agree above `shift` + 32 bits. The first start
    /// is the least such address.
    fn address_tree(&mut self, ranges: &[(u128, u32)], shift: u32) -> Result<Target, CompileError> {
        let word = |start: u128| (start >> shift) as u32;
        let rest = |start: u128| start & ((1 << shift) - 1);
        let mut entries: Vec<(u32, Target)> = Vec::new();
        let mut slot_before = ranges.first().map_or(0, |(_, slot)| *slot);
        for group in ranges.chunk_by(|a, b| word(a.0) == word(b.0)) {
            let (start, slot) = group[0];
            let value = word(start);
            if let ([_], 0) = (group, rest(start)) {
                push(&mut entries, value, Target::Slot(slot));
                slot_before = slot;
                continue;
            }
            let mut below = group.to_vec();
            if rest(start) != 0 {
                below.insert(0, (start - rest(start), slot_before));
            }
            let target = match self.address_tree(&below, shift - 32)? {
                Target::Node(node) => Target::NextWord(node),
                other => other,
            };
            push(&mut entries, value, target);
            slot_before = below[below.len() - 1].1;
            // What is in force at the end of this word goes on after it; a range
            // that begins right there replaces it.
            if let Some(after) = value.checked_add(1) {
                push(&mut entries, after, Target::Slot(slot_before));
            }
        }
        self.word_tree(entries)
    }

    /// The tree over the values of one word, from its leaves to its root.
    fn word_tree(&mut self, mut level: Vec<(u32, Target)>) -> Result<Target, CompileError> {
        let mut depth = 0;
        loop {
            if let [(_, target)] = level[..]
                && (depth > 0 || matches!(target, Target::Slot(_)))
            {
                break Ok(target);
            }
            depth += 1;
            if depth > MAX_RANGE_DEPTH {
                break Err(CompileError::Capacity {
                    table: "ranges of one address word",
                    used: level.len() as u64,
                    max: (RANGE_FAN_OUT as u64).pow(MAX_RANGE_DEPTH),
                });
            }
            level = level
                .chunks(RANGE_FAN_OUT)
                .map(|entries| {
                    let last = entries[entries.len() - 1].1;
                    let node = std::array::from_fn(|i| {
                        entries.get(i).copied().unwrap_or((u32::MAX, last))
                    });
                    self.nodes.push(node);
                    (entries[0].0, Target::Node(number(self.nodes.len() - 1)))
                })
                .collect();
        }
    }
}

/// Adds an entry, unless the one before leads to the same; replaces one that begins
/// at the same value.
fn push(entries: &mut Vec<(u32, Target)>, value: u32, target: Target) {
    if entries.last().is_some_and(|(last, _)| *last == value) {
        entries.pop();
    }
    if entries.last().is_none_or(|(_, last)| *last != target) {
        entries.push((value, target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_verdict::address::Address;
    use cofferdam_verdict::memory::Settings;
    use cofferdam_verdict::slices::SliceMemory;
    use cofferdam_verdict::table::{MAGIC, PAGE_WORDS, Table, header};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The trees in a table of their own.
    fn words(v4: &[(u32, u32)], v6: &[(u128, u32)]) -> Vec<u32> {
        let trees = RangeTrees::new(v4, v6).unwrap();
        let mut words = vec![0; PAGE_WORDS];
        words[header::MAGIC] = MAGIC;
        let offset = PAGE_WORDS as u32;
        [words[header::RANGES_V4], words[header::RANGES_V6]] = trees.roots(offset);
        words.extend(trees.words(offset));
        words.resize(words.len().next_multiple_of(PAGE_WORDS), 0);
        words
    }

    fn slot_of(words: &[u32], address: Address) -> Option<u32> {
        let memory = SliceMemory {
            settings: &Settings::default(),
            table: words.as_chunks().0,
            buckets: [&[]; 3],
            address_blocks: &[],
            endpoints: &[],
            bindings: &[],
        };
        Table::open(&memory).unwrap().outside_slot(&address)
    }

    fn expected<T: PartialOrd + Copy>(ranges: &[(T, u32)], value: T) -> u32 {
        ranges
            .iter()
            .rev()
            .find(|(start, _)| *start <= value)
            .unwrap()
            .1
    }

    #[test]
    fn every_address_around_every_start_finds_its_slot() {
        let v4: Vec<(u32, u32)> = (0..1000).map(|i| (i * 4_294_967, i + 1)).collect();
        let words = words(&v4, &[(0, 7)]);
        for (start, _) in &v4 {
            for value in [start.wrapping_sub(1), *start, start + 1, u32::MAX] {
                let slot = slot_of(
                    &words,
                    Address::from(std::net::IpAddr::from(Ipv4Addr::from(value))),
                );
                assert_eq!(slot, Some(expected(&v4, value)), "{value}");
            }
        }
        assert_eq!(slot_of(&words, Address::v6([0xff; 16])), Some(7));
    }

    #[test]
    fn ranges_within_each_word_of_an_ipv6_address_are_found() {
        let base: u128 = 0x2001_0db8_0000_0001_0000_0002_0000_0003;
        let mut starts = vec![
            0,
            1,
            base,
            base + 1,
            base + 2,
            u128::MAX,
            u128::MAX - 1,
            1 << 127,
        ];
        for shift in [32, 64, 96] {
            starts.extend([
                base + (1 << shift),
                base + (1 << shift) - 1,
                (base >> shift) << shift,
            ]);
            starts.extend((1..40u128).map(|i| i << shift));
        }
        starts.sort_unstable();
        starts.dedup();
        // Few slots, so that neighbours sometimes share one.
        let v6: Vec<(u128, u32)> = starts
            .iter()
            .zip(0..)
            .map(|(s, i)| (*s, i * i % 5 + 1))
            .collect();
        let words = words(&[(0, 9)], &v6);
        for start in &starts {
            for value in [start.wrapping_sub(1), *start, start.wrapping_add(1)] {
                let address = Address::from(std::net::IpAddr::from(Ipv6Addr::from(value)));
                assert_eq!(
                    slot_of(&words, address),
                    Some(expected(&v6, value)),
                    "{value:x}"
                );
            }
        }
    }

    #[test]
    fn a_single_range_needs_no_node() {
        let trees = RangeTrees::new(&[(0, 3)], &[(0, 4)]).unwrap();
        assert_eq!((trees.length(), trees.roots(0)), (0, [3, 4]));
    }
}
