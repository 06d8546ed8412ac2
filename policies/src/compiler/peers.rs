//! Who the other end of a rule may be, and what that makes alike.
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
//! Invariant: atoms are numbered by first signature, then by address, hence
//! equally for equal inventories.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt as _};

use ipnet::IpNet;

use crate::inventory::{ClusterPeer, Peer};
use crate::selectors::LabelSelector;

use super::partition::Partition;
use super::ranges::{RangeSet, Ranges};
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

    /// What a peer of a policy of the whole cluster comes to: any of these.
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

    /// Which signatures a list chooses, ascending.
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

    /// Which address ranges a list chooses.
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
    /// Each atom's block, or [`OUTSIDE`], and range class, in order.
    pairs: Vec<(u32, u32)>,
    /// Numbers of the named ports of each block's workloads.
    block_ports: Vec<PortNumbers>,
    /// For each list its atoms.
    members: Vec<AtomSet>,
}

/// Stands for the block of addresses that nobody owns.
const OUTSIDE: u32 = u32::MAX;

impl Atoms {
    /// Finds the atoms. `addresses` are those with an owner, as range and signature;
    /// `egress_names` are the port names in egress rules.
    pub(super) fn new<'a>(
        lists: &PeerLists<'a>,
        ranges: Ranges,
        signatures: &mut Signatures<'a>,
        egress_names: &BTreeSet<u32>,
        addresses: impl IntoIterator<Item = (u32, u32)>,
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
        for (range, signature) in addresses {
            let block = block_of[signature as usize];
            let class = class_of[range as usize];
            if std::mem::replace(&mut last[block as usize], class) != class {
                pairs.push((block, class));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();

        let mut atoms = Self {
            ranges,
            block_of,
            class_of,
            class_first,
            pairs,
            block_ports,
            members: Vec::new(),
        };
        atoms.members = atoms.members_of(&chosen, &sets);
        atoms
    }

    fn members_of(&self, chosen: &[Vec<u32>], sets: &[RangeSet]) -> Vec<AtomSet> {
        let by_block = group(
            self.pairs.iter().map(|(block, _)| *block),
            self.block_ports.len(),
        );
        let by_class = group(
            self.pairs.iter().map(|(_, class)| *class),
            self.class_first.len(),
        );
        // The last list that a block was seen in.
        let mut seen = vec![u32::MAX; self.block_ports.len()];
        let mut members = Vec::with_capacity(chosen.len());
        for ((list, chosen), set) in (0u32..).zip(chosen).zip(sets) {
            let mut atoms: Vec<u32> = Vec::new();
            for signature in chosen {
                let block = self.block_of[*signature as usize] as usize;
                if seen[block] != list {
                    seen[block] = list;
                    atoms.extend_from_slice(&by_block[block]);
                }
            }
            if *set != RangeSet::default() {
                for (class, first) in self.class_first.iter().enumerate() {
                    if set.contains(*first) {
                        atoms.extend_from_slice(&by_class[class]);
                    }
                }
            }
            members.push(pieces(atoms));
        }
        members
    }

    /// Without what only the making of rows needs.
    pub(super) fn into_known(mut self) -> Self {
        self.members = Vec::new();
        self
    }

    /// How many atoms there are.
    pub(super) fn count(&self) -> u32 {
        number(self.pairs.len())
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

    /// The atom of an address with an owner, which was among those given to `new`.
    pub(super) fn of_owned(&self, range: u32, signature: u32) -> u32 {
        self.find(range, signature)
            .expect("every address that was given has its atom")
    }

    /// The atom of an owner's address, if there is one.
    pub(super) fn find(&self, range: u32, signature: u32) -> Option<u32> {
        self.atom((
            *self.block_of.get(signature as usize)?,
            *self.class_of.get(range as usize)?,
        ))
    }

    /// The atom of addresses of a range class that nobody owns.
    pub(super) fn of_outside(&self, class: u32) -> u32 {
        self.atom((OUTSIDE, class))
            .expect("every class of ranges has its atom")
    }

    fn atom(&self, pair: (u32, u32)) -> Option<u32> {
        self.pairs.binary_search(&pair).ok().map(number)
    }

    /// The atoms that a peer list chooses.
    pub(super) fn members(&self, list: u32) -> &AtomSet {
        &self.members[list as usize]
    }

    /// Numbers of the named ports behind an atom, of the names in egress rules.
    pub(super) fn ports(&self, atom: u32) -> &[(u32, u16)] {
        match self.pairs.get(atom as usize) {
            Some((block, _)) if *block != OUTSIDE => &self.block_ports[*block as usize],
            _ => &[],
        }
    }
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

/// For each key below `count`, where it comes.
fn group(keys: impl Iterator<Item = u32>, count: usize) -> Vec<Vec<u32>> {
    let mut groups = vec![Vec::new(); count];
    for (index, key) in (0u32..).zip(keys) {
        if let Some(group) = groups.get_mut(key as usize) {
            group.push(index);
        }
    }
    groups
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
