//! Sets of own addresses, and what rules of workloads elsewhere tell apart among them.

use std::cmp::Reverse;
use std::iter;
use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::table::BLOCK_WORDS;

use super::super::owned::OwnAddress;
use super::super::partition::Partition;
use super::super::ranges::Ranges;
use super::super::signatures::number;

/// Some of the own addresses, by position: a bit for each; no word when there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct AddressSet(Box<[u64]>);

impl AddressSet {
    pub(super) fn from_words(words: Vec<u64>) -> Self {
        if words.iter().all(|word| *word == 0) {
            return Self::default();
        }
        Self(words.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The positions, ascending.
    pub(in super::super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.0).flat_map(|(at, word)| {
            // Each time without the lowest bit.
            let rests = iter::successors(Some(*word), |rest| Some(rest & rest.wrapping_sub(1)))
                .take_while(|rest| *rest != 0);
            rests.map(move |rest| at * 64 + rest.trailing_zeros())
        })
    }

    /// Splits this set into the part that lies in another, and the rest.
    pub(super) fn split(&self, by: &Self) -> (Self, Self) {
        if by.is_empty() || self.is_empty() {
            return (Self::default(), self.clone());
        }
        let both = self.0.iter().zip(&by.0);
        (
            Self::from_words(both.clone().map(|(a, b)| a & b).collect()),
            Self::from_words(both.map(|(a, b)| a & !b).collect()),
        )
    }
}

/// Own addresses by what rules of workloads elsewhere tell apart: those of one *lot* lie
/// in exactly the same of these rules.
#[derive(Debug, Clone)]
pub(in super::super) struct Lots {
    /// For each own address its lot, in an order that most classes treat alike.
    of_own: Vec<u32>,
    /// Every block of those rules cuts these.
    ranges: Ranges,
    /// The lots of signatures in ranges; empty when no rule speaks of some workloads
    /// alone.
    known: HashMap<(u32, u32), u32>,
    /// For each lot whether so many classes treat it otherwise than the lot before that
    /// its atoms begin a block.
    begins: Vec<bool>,
}

impl Default for Lots {
    fn default() -> Self {
        Self {
            begins: Vec::new(),
            of_own: Vec::new(),
            ranges: Ranges::new([]),
            known: HashMap::new(),
        }
    }
}

/// So many of the sets that most classes tell apart count for the order of lots.
const ORDERING_SETS: usize = 64;
/// A lot begins a block where that costs all classes no more than this share of what it
/// saves those that treat the lot otherwise than the one before: a block of their own
/// each, for a word of every class.
const BLOCK_SHARE: usize = 4;

impl Lots {
    /// Finds them. Each set comes with the number of classes whose rules tell it apart,
    /// of so many in all.
    ///
    /// Lots that most classes treat alike come side by side, and at the greatest
    /// differences a block begins, so that a class has few blocks of its own: of 5 000
    /// classes and 250 own workloads all blocks took 5.0 MiB, and 11.2 MiB in the order
    /// of addresses.
    pub(super) fn new(
        own: &[OwnAddress],
        sets: &HashMap<&AddressSet, usize>,
        classes: usize,
        ranges: Ranges,
    ) -> Self {
        let mut partition = Partition::new(number(own.len()));
        // In any order: a partition does not depend on it.
        for set in sets.keys() {
            partition.refine(set.iter());
        }
        let (first_named, count) = partition.numbered();
        // By the magnitude of their numbers: one class more or less changes no order.
        let mut by_use: Vec<(Reverse<usize>, &AddressSet)> = (sets.iter())
            .map(|(set, classes)| (Reverse(magnitude(*classes)), *set))
            .collect();
        by_use.sort_unstable();
        by_use.truncate(ORDERING_SETS);
        // The sets that an address lies in, the most used the highest bit.
        let mut lies_in = vec![0u64; own.len()];
        for (bit, (_, set)) in (0..ORDERING_SETS).rev().zip(&by_use) {
            for position in set.iter() {
                lies_in[position as usize] |= 1 << bit;
            }
        }
        let mut lots: Vec<(u64, u32)> = (0..count).map(|lot| (0, lot)).collect();
        for (lot, lies_in) in first_named.iter().zip(lies_in) {
            lots[*lot as usize].0 = lies_in;
        }
        lots.sort_unstable();
        let treated_otherwise = |difference: u64| -> usize {
            let bits = (0..ORDERING_SETS).rev().zip(&by_use);
            bits.filter(|(bit, _)| difference >> bit & 1 == 1)
                .map(|(_, (classes, _))| classes.0)
                .sum()
        };
        let begins = lots.windows(2).map(|pair| {
            let otherwise = treated_otherwise(pair[0].0 ^ pair[1].0);
            otherwise * BLOCK_WORDS as usize > magnitude(classes) * BLOCK_SHARE
        });
        let begins = iter::once(false).chain(begins).collect();
        let mut numbers = vec![0; lots.len()];
        for (new, (_, lot)) in (0u32..).zip(lots) {
            numbers[lot as usize] = new;
        }
        let of_own: Vec<u32> = (first_named.iter())
            .map(|lot| numbers[*lot as usize])
            .collect();
        let known = (own.iter().zip(&of_own))
            .map(|(own, lot)| ((own.signature, ranges.of(own.address)), *lot))
            .collect();
        Self {
            of_own,
            ranges,
            known,
            begins,
        }
    }

    /// Returns `true` if the atoms of a lot begin a block.
    pub(in super::super) fn begins_block(&self, lot: u32) -> bool {
        self.begins.get(lot as usize).is_some_and(|begins| *begins)
    }

    /// The lot of an own address, by position.
    pub(in super::super) fn of_own(&self, position: usize) -> u32 {
        self.of_own.get(position).copied().unwrap_or(0)
    }

    /// The lot that an address of a workload with this signature would be in, if there
    /// is another like it.
    pub(in super::super) fn find(&self, signature: u32, address: IpAddr) -> Option<u32> {
        if self.known.is_empty() {
            return Some(0);
        }
        let range = self.ranges.of(address);
        self.known.get(&(signature, range)).copied()
    }
}

/// The greatest power of two that is not above a number.
fn magnitude(number: usize) -> usize {
    number.checked_ilog2().map_or(0, |bits| 1 << bits)
}
