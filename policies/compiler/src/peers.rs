//! Peers: the other ends that a rule may have, and the owners that those make alike.
//!
//! The peers of one rule are a *peer list*; equal lists are one, whatever rules
//! they stand in. Two addresses that lie in exactly the same lists are treated
//! alike as peers by every policy: they are one *peer atom*. Outside of workloads and
//! nodes only CIDRs count, so an atom is a pair: what the labels say (a block of a
//! partition of signatures) and what the address says (a class of address ranges).
//!
//! Names of ports in egress rules belong to the other end, so they tell atoms
//! apart as well.
//!
//! The addresses of this node's own workloads are peers of workloads elsewhere as well,
//! and atoms are cut finer for them by what these tell apart (`remote`): an atom is one
//! of own addresses or of others, never of both.
//!
//! Invariant: atoms of own addresses come first, by lot; then, and all others, they are
//! numbered by first signature, then by address, hence equally for equal inventories.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::{ClusterPeer, Peer};
use foldhash::{HashMap, HashMapExt as _};

use ipnet::IpNet;

use cofferdam_verdict::table::{BLOCK_WORDS, SlotKind};

use super::owned::OwnedSlot;
use super::partition::Partition;
use super::ranges::{RangeSet, Ranges};
use super::remote::Lots;
use super::signatures::{PortNumbers, Scope, Signatures, number};

/// One peer of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PeerKey<'a> {
    /// Workloads, or nodes, by labels.
    Labels(Scope<'a>, &'a LabelSelector),
    Block(IpNet, &'a [IpNet]),
}

impl<'a> PeerKey<'a> {
    /// A peer of a policy of the namespace with this number.
    pub(super) fn of(peer: &'a Peer, namespace: u32) -> Self {
        match peer {
            Peer::Workloads {
                namespaces,
                workloads,
            } => {
                let scope = match namespaces {
                    None => Scope::Own(namespace),
                    Some(selector) => Scope::Selected(selector),
                };
                Self::Labels(scope, workloads)
            }
            Peer::Block { cidr, except } => Self::Block(*cidr, except),
        }
    }

    /// Returns the keys that a peer of a policy of the whole cluster comes to: any of these.
    pub(super) fn of_cluster(peer: &'a ClusterPeer) -> Vec<Self> {
        match peer {
            ClusterPeer::Workloads(selector) => vec![Self::Labels(
                Scope::Selected(&selector.namespaces),
                &selector.workloads,
            )],
            ClusterPeer::Networks(blocks) => {
                blocks.iter().map(|cidr| Self::Block(*cidr, &[])).collect()
            }
            ClusterPeer::Nodes(selector) => vec![Self::Labels(Scope::Nodes, selector)],
        }
    }
}

/// All distinct peer lists of the policies that apply.
#[derive(Debug, Default)]
pub(super) struct PeerLists<'a> {
    numbers: HashMap<Box<[PeerKey<'a>]>, u32>,
    lists: Vec<Box<[PeerKey<'a>]>>,
}

impl<'a> PeerLists<'a> {
    /// The number of the list of these peers; of none, it is nobody's.
    pub(super) fn add(&mut self, mut keys: Vec<PeerKey<'a>>) -> u32 {
        keys.sort();
        keys.dedup();
        let keys = keys.into_boxed_slice();
        if let Some(known) = self.numbers.get(&keys) {
            return *known;
        }
        let new = number(self.lists.len());
        self.lists.push(keys.clone());
        self.numbers.insert(keys, new);
        new
    }

    /// Cuts the address space at every CIDR of the lists.
    pub(super) fn ranges(&self) -> Ranges {
        let keys = self.lists.iter().flatten();
        Ranges::new(keys.flat_map(|key| match key {
            PeerKey::Block(cidr, except) => std::slice::from_ref(cidr).iter().chain(*except),
            PeerKey::Labels(..) => [].iter().chain(&[]),
        }))
    }

    /// Returns the signatures that a list chooses, ascending.
    fn signatures(&self, list: u32, signatures: &mut Signatures<'a>) -> Vec<u32> {
        let mut chosen = Vec::new();
        let mut selectors = 0;
        for key in &self.lists[list as usize] {
            if let PeerKey::Labels(scope, selector) = key {
                chosen.extend_from_slice(&signatures.select(*scope, selector));
                selectors += 1;
            }
        }
        if selectors > 1 {
            chosen.sort_unstable();
            chosen.dedup();
        }
        chosen
    }

    /// Returns the address ranges that a list chooses.
    fn range_set(&self, list: u32, ranges: &Ranges) -> RangeSet {
        let keys = self.lists[list as usize].iter();
        RangeSet::union(
            keys.flat_map(|key| match key {
                PeerKey::Block(cidr, except) => ranges.block(cidr, except),
                PeerKey::Labels(..) => Vec::new(),
            })
            .collect(),
        )
    }
}

/// A set of atoms, in pieces of 64: which piece, and which atoms of it. Ascending,
/// no piece empty.
pub(super) type AtomSet = Box<[(u32, u64)]>;

/// The peer atoms.
#[derive(Debug, Clone)]
pub(super) struct Atoms {
    ranges: Ranges,
    /// For each signature its block.
    block_of: Vec<u32>,
    /// For each range its class.
    class_of: Vec<u32>,
    /// First range of each class.
    class_first: Vec<u32>,
    /// For each own address its atom.
    of_own: Vec<u32>,
    lots: Lots,
    sets: Arc<AtomSets>,
}

/// Numbers of atoms, and everything by which rows tell them apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtomSets {
    /// Each atom of own addresses: its lot, its block and range class, in order.
    own: Vec<(u32, (u32, u32))>,
    /// Their numbers, ascending.
    own_numbers: Vec<u32>,
    /// Each other atom's block, or [`OUTSIDE`], and range class, in order.
    pairs: Vec<(u32, u32)>,
    /// Numbers of the named ports of each block's workloads.
    block_ports: Vec<PortNumbers>,
    /// For each list its atoms.
    members: Vec<AtomSet>,
}

/// Stands for the block of addresses that nobody owns.
const OUTSIDE: u32 = u32::MAX;

impl Atoms {
    /// Finds the atoms. `slots` are those of addresses with an owner, in order; `lots`
    /// are the own ones' by what rules of workloads elsewhere tell apart; `egress_names`
    /// are the port names in egress rules.
    pub(super) fn new<'a>(
        lists: &PeerLists<'a>,
        ranges: Ranges,
        signatures: &mut Signatures<'a>,
        egress_names: &BTreeSet<u32>,
        lots: Lots,
        slots: &[OwnedSlot],
    ) -> Self {
        let all_lists = 0..number(lists.lists.len());
        let chosen: Vec<Vec<u32>> = all_lists
            .clone()
            .map(|list| lists.signatures(list, signatures))
            .collect();
        let sets: Vec<RangeSet> = all_lists
            .map(|list| lists.range_set(list, &ranges))
            .collect();
        let (block_of, block_ports) = blocks(signatures, &chosen, egress_names);
        let (class_of, class_first) = range_classes(&ranges, &sets);

        let outside = (0..number(class_first.len())).map(|class| (OUTSIDE, class));
        let mut pairs: Vec<(u32, u32)> = outside.collect();
        // Most addresses of one block lie in one class of ranges.
        let mut last = vec![u32::MAX; block_ports.len()];
        let mut own_pairs = Vec::new();
        for slot in slots {
            let block = block_of[slot.signature as usize];
            let class = class_of[slot.range as usize];
            if slot.kind == SlotKind::LocalWorkload {
                own_pairs.push((lots.of_own(own_pairs.len()), (block, class)));
            } else if std::mem::replace(&mut last[block as usize], class) != class {
                pairs.push((block, class));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut own = own_pairs.clone();
        own.sort_unstable();
        own.dedup();
        let own_numbers = own_numbers(&own, &lots);
        let of_own = (own_pairs.iter())
            .map(|one| own_numbers[own.partition_point(|other| other < one)])
            .collect();

        let mut numbered = AtomSets {
            own,
            own_numbers,
            pairs,
            block_ports,
            members: Vec::new(),
        };
        numbered.members = numbered.members_of(&block_of, &class_first, &chosen, &sets);
        Self {
            ranges,
            block_of,
            class_of,
            class_first,
            of_own,
            lots,
            sets: Arc::new(numbered),
        }
    }
    /// Numbers of atoms, and everything by which rows tell them apart.
    pub(super) fn sets(&self) -> &Arc<AtomSets> {
        &self.sets
    }

    /// Number of atoms, with numbers that none has.
    pub(super) fn count(&self) -> u32 {
        self.sets.count()
    }

    /// The atom of addresses that Services alone have.
    pub(super) fn of_virtual(&self) -> u32 {
        self.count() - 1
    }

    /// Number of the first numbers, which are for atoms of own addresses.
    pub(super) fn own_count(&self) -> u32 {
        self.sets.own_count()
    }

    /// The numbers below those of other addresses that no atom has, each time to the
    /// end of a block.
    pub(super) fn gaps(&self) -> Vec<Range<u32>> {
        let next = (self.sets.own_numbers.iter().skip(1).copied()).chain([self.sets.first_other()]);
        let gaps = self.sets.own_numbers.iter().zip(next);
        gaps.filter_map(|(atom, next)| (atom + 1 < next).then_some(atom + 1..next))
            .collect()
    }

    /// Returns the number of signatures that were told apart.
    pub(super) fn signatures(&self) -> usize {
        self.block_of.len()
    }

    /// The address ranges.
    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The class of each range.
    pub(super) fn range_classes(&self) -> &[u32] {
        &self.class_of
    }

    /// First range of each range class.
    pub(super) fn class_firsts(&self) -> &[u32] {
        &self.class_first
    }

    /// The atom of an own address, by position.
    pub(super) fn of_own(&self, position: u32) -> u32 {
        self.of_own[position as usize]
    }

    /// The atoms of all own addresses, by position.
    pub(super) fn of_own_addresses(&self) -> &[u32] {
        &self.of_own
    }

    /// The atom of an address that another than the own workloads owns, and that was
    /// among those given to `new`.
    pub(super) fn of_other(&self, range: u32, signature: u32) -> u32 {
        self.find(range, signature)
            .expect("every address that was given has its atom")
    }

    /// The atom of an owner's address that is not an own one, if there is one.
    pub(super) fn find(&self, range: u32, signature: u32) -> Option<u32> {
        self.atom(self.pair(range, signature)?)
    }

    /// The atom that one more own address would have, if there is one.
    pub(super) fn find_own(&self, address: IpAddr, signature: u32) -> Option<u32> {
        let pair = self.pair(self.ranges.of(address), signature)?;
        let lot = self.lots.find(signature, address)?;
        let found = self.sets.own.binary_search(&(lot, pair)).ok()?;
        Some(self.sets.own_numbers[found])
    }

    fn pair(&self, range: u32, signature: u32) -> Option<(u32, u32)> {
        Some((
            *self.block_of.get(signature as usize)?,
            *self.class_of.get(range as usize)?,
        ))
    }

    /// The atom of addresses of a range class that nobody owns.
    pub(super) fn of_outside(&self, class: u32) -> u32 {
        self.atom((OUTSIDE, class))
            .expect("every class of ranges has its atom")
    }

    /// The atom of an address as if nothing owned it.
    pub(super) fn of_outside_address(&self, address: IpAddr) -> u32 {
        let range = self.ranges.of(address);
        self.of_outside(self.class_of[range as usize])
    }

    fn atom(&self, pair: (u32, u32)) -> Option<u32> {
        let found = self.sets.pairs.binary_search(&pair).ok()?;
        Some(self.sets.first_other() + number(found))
    }
}

impl AtomSets {
    fn members_of(
        &self,
        block_of: &[u32],
        class_first: &[u32],
        chosen: &[Vec<u32>],
        sets: &[RangeSet],
    ) -> Vec<AtomSet> {
        let mut by_block = vec![Vec::new(); self.block_ports.len()];
        let mut by_class = vec![Vec::new(); class_first.len()];
        let own = self
            .own_numbers
            .iter()
            .copied()
            .zip(self.own.iter().map(|(_, pair)| pair));
        for (atom, (block, class)) in own.chain((self.first_other()..).zip(&self.pairs)) {
            by_class[*class as usize].push(atom);
            if *block != OUTSIDE {
                by_block[*block as usize].push(atom);
            }
        }
        // The last list that a block was seen in.
        let mut seen = vec![u32::MAX; self.block_ports.len()];
        let mut members = Vec::with_capacity(chosen.len());
        for ((list, chosen), set) in (0u32..).zip(chosen).zip(sets) {
            let mut atoms: Vec<u32> = Vec::new();
            for signature in chosen {
                let block = block_of[*signature as usize] as usize;
                if seen[block] != list {
                    seen[block] = list;
                    atoms.extend_from_slice(&by_block[block]);
                }
            }
            if *set != RangeSet::default() {
                for (class, first) in class_first.iter().enumerate() {
                    if set.contains(*first) {
                        atoms.extend_from_slice(&by_class[class]);
                    }
                }
            }
            members.push(pieces(atoms));
        }
        members
    }

    /// Number of atoms, with numbers that none has. The last is of virtual addresses, of
    /// which no peer list speaks.
    pub(super) fn count(&self) -> u32 {
        self.first_other() + number(self.pairs.len()) + 1
    }

    /// Number of the first numbers, which are for atoms of own addresses.
    pub(super) fn own_count(&self) -> u32 {
        self.own_numbers.last().map_or(0, |last| last + 1)
    }

    /// The first atom that is of no own address. It begins a block, so that one block
    /// serves a class for all atoms that its rules do not speak of.
    fn first_other(&self) -> u32 {
        self.own_count().next_multiple_of(BLOCK_WORDS)
    }

    /// The atoms that a peer list chooses.
    pub(super) fn members(&self, list: u32) -> &AtomSet {
        &self.members[list as usize]
    }

    /// Numbers of the named ports behind an atom, of the names in egress rules.
    pub(super) fn ports(&self, atom: u32) -> &[(u32, u16)] {
        let pair = match atom.checked_sub(self.first_other()) {
            Some(other) => self.pairs.get(other as usize),
            None => (self.own_numbers.binary_search(&atom).ok()).map(|found| &self.own[found].1),
        };
        match pair {
            Some((block, _)) if *block != OUTSIDE => &self.block_ports[*block as usize],
            _ => &[],
        }
    }
}

/// The numbers of the atoms of own addresses: one after the other, but that some lots
/// begin a block.
fn own_numbers(own: &[(u32, (u32, u32))], lots: &Lots) -> Vec<u32> {
    let mut next = 0u32;
    let mut last = None;
    let numbers = own.iter().map(|(lot, _)| {
        if last.replace(*lot) != Some(*lot) && lots.begins_block(*lot) {
            next = next.next_multiple_of(BLOCK_WORDS);
        }
        next += 1;
        next - 1
    });
    numbers.collect()
}

/// Splits signatures by lists and by their named ports: each one's block, and the
/// ports of each block.
fn blocks(
    signatures: &Signatures<'_>,
    chosen: &[Vec<u32>],
    egress_names: &BTreeSet<u32>,
) -> (Vec<u32>, Vec<PortNumbers>) {
    let mut partition = Partition::new(number(signatures.all().len()));
    for list in chosen {
        partition.refine(list.iter().copied());
    }
    let mut by_ports: HashMap<PortNumbers, Vec<u32>> = HashMap::new();
    for (index, signature) in (0u32..).zip(signatures.all()) {
        let ports = restrict(&signature.ports, egress_names);
        if !ports.is_empty() {
            by_ports.entry(ports).or_default().push(index);
        }
    }
    // In any order: a partition does not depend on it.
    for with_ports in by_ports.values() {
        partition.refine(with_ports.iter().copied());
    }
    let (block_of, count) = partition.numbered();
    let mut ports: Vec<PortNumbers> = vec![Box::default(); count as usize];
    for (block, signature) in block_of.iter().zip(signatures.all()) {
        ports[*block as usize] = restrict(&signature.ports, egress_names);
    }
    (block_of, ports)
}

/// Splits ranges by lists: each one's class, and the first range of each class.
fn range_classes(ranges: &Ranges, sets: &[RangeSet]) -> (Vec<u32>, Vec<u32>) {
    let mut partition = Partition::new(ranges.count());
    partition.refine(ranges.family_of(0));
    for set in sets {
        partition.refine(set.distinguishing(ranges));
    }
    let (class_of, count) = partition.numbered();
    let mut firsts = vec![u32::MAX; count as usize];
    for (range, class) in (0u32..).zip(&class_of) {
        let first = &mut firsts[*class as usize];
        *first = range.min(*first);
    }
    (class_of, firsts)
}

/// Of named ports those with certain names.
pub(super) fn restrict(ports: &[(u32, u16)], names: &BTreeSet<u32>) -> PortNumbers {
    ports
        .iter()
        .filter(|(name, _)| names.contains(name))
        .copied()
        .collect()
}

/// A set of numbers as pieces of 64.
fn pieces(mut atoms: Vec<u32>) -> AtomSet {
    atoms.sort_unstable();
    let mut pieces: Vec<(u32, u64)> = Vec::new();
    for atom in atoms {
        let bit = 1 << (atom % 64);
        match pieces.last_mut() {
            Some((piece, bits)) if *piece == atom / 64 => *bits |= bit,
            _ => pieces.push((atom / 64, bit)),
        }
    }
    pieces.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_each_number_once() {
        let pieces = pieces(vec![64, 0, 63, 64, 200]);
        assert_eq!(*pieces, [(0, 1 << 63 | 1), (1, 1), (3, 1 << 8)]);
    }
}
