//! Ends between which two states allow different ports, found without asking every pair.
//!
//! Ends of which policies know the same, in both states, are one *party*. Of what a class
//! allows towards all peers each state has a sum, made of the sums of the blocks that rows lie
//! in, which most classes share. Where the sums of both states are equal, nothing has changed;
//! otherwise the class is compared peer by peer.
//!
//! Invariant: of two parties that both states have, the one may not connect to the other on
//! the same ports in both states if and only if they are in a pair here.

use std::hash::{BuildHasher as _, Hash, RandomState};

use cofferdam_compiler::ATOMS_PER_BLOCK;
use cofferdam_verdict::verdict::Direction;
use foldhash::{HashMap, HashMapExt as _};

use super::changes::KnownChanges;
use super::groups::Traits;
use super::{Connectivity, FREE};

/// Facts of an end that policies know, in each state that has it.
pub(super) type Known<'s> = [Option<&'s Traits>; 2];

/// A party, by number.
pub(super) type PartyNumber = u32;

/// Parties, each once.
#[derive(Default)]
pub(super) struct Parties<'s> {
    numbers: HashMap<Known<'s>, PartyNumber>,
    all: Vec<Known<'s>>,
}

impl<'s> Parties<'s> {
    /// The party of an end; `None` if neither state has it.
    pub(super) fn number(&mut self, known: Known<'s>) -> Option<PartyNumber> {
        let known = known.map(|traits| traits.filter(|traits| !traits.atoms.is_empty()));
        if known == [None, None] {
            return None;
        }
        let next = PartyNumber::try_from(self.all.len()).expect("fewer than addresses");
        let number = *self.numbers.entry(known).or_insert(next);
        if number == next {
            self.all.push(known);
        }
        Some(number)
    }

    /// Returns `true` if both states have this party.
    pub(super) fn is_in_both(&self, party: PartyNumber) -> bool {
        self.all[party as usize].iter().all(Option::is_some)
    }

    /// The number of parties.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

/// The receivers of each party to which the two states do not allow it the same ports.
pub(super) struct Unlike {
    receivers: Vec<Vec<PartyNumber>>,
}

/// Peers by the atoms that they are in both states, with the parties that they are.
type Peers<'s> = Vec<(Known<'s>, Vec<PartyNumber>)>;

/// A peer, by position, that is one atom in either state, and these.
type Single = (usize, [u32; 2]);

/// Numbers of peers, and of the ports that a peer is allowed, at random. The sum over all
/// peers of the products of both is one of what a class allows: it is the same for two classes
/// that allow the same, and for others but once in some 2^120 times.
struct Marks {
    random: RandomState,
    of_peers: Vec<u128>,
}

impl Marks {
    fn new(peers: usize) -> Self {
        let random = RandomState::new();
        // Odd ones, so that no product loses what tells its factors apart.
        let of_peers = (0..peers).map(|peer| of(&random, ("peer", peer)) | 1);
        Self {
            of_peers: of_peers.collect(),
            random,
        }
    }

    fn of_allowed(&self, allowed: u32) -> u128 {
        of(&self.random, ("allowed", allowed))
    }
}

fn of(random: &RandomState, what: impl Hash) -> u128 {
    let [high, low] = [0, 1].map(|half: u8| random.hash_one((half, &what)));
    u128::from(high) << 64 | u128::from(low)
}

/// The rows of one state.
struct Rows<'s> {
    state: &'s Connectivity,
    set: usize,
    marks: &'s Marks,
    /// By group of atoms the peers that are one of its atoms: the atom's place in the group,
    /// and the peer.
    peers: Vec<Vec<(usize, usize)>>,
    /// By row the mark of the ports that it allows.
    allowed: HashMap<u32, u128>,
    /// By group and block.
    sums: HashMap<(usize, u32), u128>,
    /// By group the block that was asked for last, and its sum: most classes have the same.
    last: Vec<Option<(u32, u128)>>,
    /// The sum of all peers' marks.
    of_all: u128,
}

impl<'s> Rows<'s> {
    fn new(state: &'s Connectivity, set: usize, marks: &'s Marks, peers: &[Single]) -> Self {
        let mut groups: Vec<Vec<(usize, usize)>> = Vec::new();
        for (peer, atoms) in peers {
            let [group, place] = [
                (atoms[set] / ATOMS_PER_BLOCK) as usize,
                (atoms[set] % ATOMS_PER_BLOCK) as usize,
            ];
            groups.resize_with(groups.len().max(group + 1), Vec::new);
            groups[group].push((place, *peer));
        }
        Self {
            state,
            set,
            marks,
            last: vec![None; groups.len()],
            peers: groups,
            allowed: HashMap::new(),
            sums: HashMap::new(),
            of_all: sum(peers.iter().map(|(peer, _)| marks.of_peers[*peer])),
        }
    }

    /// The sum over all peers of what a class allows them; everything without a class.
    fn sum(&mut self, class: Option<u32>, direction: Direction, known: &mut KnownChanges) -> u128 {
        let Some(class) = class else {
            let allowed = known.allowed(self.state, self.set, FREE);
            return (self.of_all).wrapping_mul(self.marks.of_allowed(allowed));
        };
        let table = self.state.reach.compiled();
        let blocks = (table.blocks(class, direction)).expect("classes of ends are of their table");
        let mut whole = 0u128;
        for (group, block) in blocks.iter().enumerate().take(self.peers.len()) {
            let known_sum = match self.last[group] {
                Some((last, sum)) if last == *block => sum,
                _ => {
                    let sum = self.block_sum(group, *block, known);
                    self.last[group] = Some((*block, sum));
                    sum
                }
            };
            whole = whole.wrapping_add(known_sum);
        }
        whole
    }

    /// The sum over the peers of one group of what the rows of a block allow them.
    fn block_sum(&mut self, group: usize, block: u32, known: &mut KnownChanges) -> u128 {
        if let Some(sum) = self.sums.get(&(group, block)) {
            return *sum;
        }
        let rows = self.state.reach.compiled().rows_of(block);
        let mut whole = 0u128;
        // Most peers of a block have the row of the one before.
        let mut last = None;
        for at in 0..self.peers[group].len() {
            let (place, peer) = self.peers[group][at];
            let row = rows[place];
            let mark = match last {
                Some((before, mark)) if before == row => mark,
                _ => self.row_mark(row, known),
            };
            last = Some((row, mark));
            whole = whole.wrapping_add(mark.wrapping_mul(self.marks.of_peers[peer]));
        }
        self.sums.insert((group, block), whole);
        whole
    }

    /// The mark of the ports that a row allows.
    fn row_mark(&mut self, row: u32, known: &mut KnownChanges) -> u128 {
        *(self.allowed.entry(row)).or_insert_with(|| {
            let side = self.state.side_of_rows(&[row]);
            self.marks
                .of_allowed(known.allowed(self.state, self.set, side))
        })
    }
}

fn sum(marks: impl Iterator<Item = u128>) -> u128 {
    marks.fold(0, u128::wrapping_add)
}

impl Unlike {
    pub(super) fn new(
        states: &[Connectivity; 2],
        parties: &Parties<'_>,
        known: &mut KnownChanges,
    ) -> Self {
        let mut receivers = vec![Vec::new(); parties.len()];
        let peers = peers(parties);
        let (single, several) = singles(&peers);
        let marks = Marks::new(peers.len());
        let mut rows = [0, 1].map(|set: usize| Rows::new(&states[set], set, &marks, &single));
        for (subject, of_subject) in subjects(parties) {
            for direction in [Direction::Egress, Direction::Ingress] {
                let sums = [0, 1].map(|set: usize| {
                    let class = subject[set].and_then(|traits| traits.class);
                    rows[set].sum(class, direction, known)
                });
                let single = single.iter().filter(|_| sums[0] != sums[1]);
                let asked = several.iter().chain(single.map(|(peer, _)| peer));
                let is_unlike = |peer: &&usize| {
                    let allowed = [0, 1].map(|set: usize| {
                        let (subject, peer) = (subject[set]?, peers[**peer].0[set]?);
                        let side = states[set].side(subject, direction, peer);
                        Some(known.allowed(&states[set], set, side))
                    });
                    allowed[0] != allowed[1]
                };
                let found: Vec<&usize> = asked.filter(is_unlike).collect();
                for subject in &of_subject {
                    for peer in found.iter().flat_map(|peer| &peers[**peer].1) {
                        let (from, to) = match direction {
                            Direction::Egress => (*subject, *peer),
                            Direction::Ingress => (*peer, *subject),
                        };
                        receivers[from as usize].push(to);
                    }
                }
            }
        }
        for one in &mut receivers {
            one.sort_unstable();
            one.dedup();
        }
        Self { receivers }
    }

    /// The parties of both states that a party may not reach on the same ports in both, in
    /// order.
    pub(super) fn receivers(&self, from: PartyNumber) -> &[PartyNumber] {
        &self.receivers[from as usize]
    }
}

/// Parties that both states have.
fn in_both<'p, 's>(
    parties: &'p Parties<'s>,
) -> impl Iterator<Item = (PartyNumber, Known<'s>)> + use<'p, 's> {
    let all = (0..).zip(&parties.all).map(|(at, known)| (at, *known));
    all.filter(|(party, _)| parties.is_in_both(*party))
}

/// Parties that policies select in a state, by their classes.
fn subjects<'s>(parties: &Parties<'s>) -> Vec<(Known<'s>, Vec<PartyNumber>)> {
    let mut positions: HashMap<[Option<u32>; 2], usize> = HashMap::new();
    let mut subjects: Vec<(Known<'s>, Vec<PartyNumber>)> = Vec::new();
    for (party, known) in in_both(parties) {
        let classes = known.map(|traits| traits.and_then(|traits| traits.class));
        if classes == [None, None] {
            continue;
        }
        let at = *positions.entry(classes).or_insert(subjects.len());
        if at == subjects.len() {
            subjects.push((known, Vec::new()));
        }
        subjects[at].1.push(party);
    }
    subjects
}

/// Parties by their atoms.
fn peers<'s>(parties: &Parties<'s>) -> Peers<'s> {
    let mut positions: HashMap<[Option<&[u32]>; 2], usize> = HashMap::new();
    let mut peers: Peers<'s> = Vec::new();
    for (party, known) in in_both(parties) {
        let atoms = known.map(|traits| traits.map(|traits| &*traits.atoms));
        let at = *positions.entry(atoms).or_insert(peers.len());
        if at == peers.len() {
            peers.push((known, Vec::new()));
        }
        peers[at].1.push(party);
    }
    peers
}

/// The peers that are one atom in either state, with these, and the others.
fn singles(peers: &Peers<'_>) -> (Vec<Single>, Vec<usize>) {
    let mut single = Vec::new();
    let mut several = Vec::new();
    for (peer, (known, _)) in peers.iter().enumerate() {
        let atoms = known.map(|traits| match traits.map(|traits| &*traits.atoms) {
            Some([atom]) => Some(*atom),
            _ => None,
        });
        match atoms {
            [Some(old), Some(new)] => single.push((peer, [old, new])),
            _ => several.push(peer),
        }
    }
    (single, several)
}
