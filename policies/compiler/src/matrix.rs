//! The matrix of subject classes and peer atoms, cut into pieces that repeat.
//!
//! For every class and direction each atom has a row; 64 rows are a block, all
//! blocks of one class and direction its groups. Most rules speak of few atoms, so
//! only the blocks that some rule speaks of are worked out; all others are the
//! class's default block. Equal rows, blocks and groups are stored once.
//!
//! Invariant: rows, blocks and groups are numbered in the order of classes,
//! directions and atoms, so equal inputs give equal numbers.

mod local;
mod remote;

use std::hash::Hash;
use std::sync::Arc;

use cofferdam_inventory::{Mode, Tier};
use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{BLOCK_WORDS, MAX_CLASS, PAGE_WORDS};
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use super::CompileError;
use super::peers::Atoms;
use super::policy::{CompiledPolicy, CompiledRule};
use super::remote::Remote;
use super::rows::{self, Defaults, Keys, RowRule};
use super::rules::RuleNumbers;
use super::signatures::{PortNumbers, number};
use super::subjects::{Class, DIRECTIONS, Subjects};

use local::{Ends, LocalRows};
use remote::{RemoteRows, RemoteSide};

/// Parts that matrices had in common so far: the next one is mostly the same.
#[derive(Debug, Default)]
pub(super) struct RowBook {
    local: LocalRows,
    remote: RemoteRows,
}

impl RowBook {
    /// Keeps what the next matrix may have in common with this one.
    pub(super) fn keep(
        &mut self,
        matrix: Matrix,
        subjects: &Subjects,
        atoms: &Atoms,
        numbers: &RuleNumbers,
    ) {
        self.local.keep(matrix, subjects, atoms, numbers);
    }
}

/// Atoms per block.
const PIECE: usize = BLOCK_WORDS as usize;

/// A block: the row number of each atom of a piece.
pub(super) type BlockRows = [u32; PIECE];

/// The words of a row. Rows of workloads elsewhere are the same in many tables.
pub(super) type Row = Arc<[u32]>;

/// Values that are stored once, by number.
#[derive(Debug)]
pub(super) struct Interned<T> {
    all: Vec<T>,
    /// The numbers of values that may come again.
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Interned<T> {
    /// All values, in the order of their numbers.
    pub(super) fn all(&self) -> &[T] {
        &self.all
    }

    fn find(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// The number of a value, and whether it is a new one.
    fn insert(&mut self, value: T) -> (u32, bool) {
        match self.find(&value) {
            Some(known) => (known, false),
            None => {
                let new = self.push(value.clone());
                self.numbers.insert(value, new);
                (new, true)
            }
        }
    }

    /// Forgets every value from this number on.
    fn truncate(&mut self, end: usize) {
        self.all.truncate(end);
        self.numbers.retain(|_, number| (*number as usize) < end);
    }

    /// The number of a value that is new, and does not come again.
    fn push(&mut self, value: T) -> u32 {
        self.all.push(value);
        number(self.all.len() - 1)
    }
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

/// Everything between classes and rows.
#[derive(Debug)]
pub(super) struct Matrix {
    /// Words of each row.
    pub(super) rows: Interned<Row>,
    /// Row numbers of each block.
    pub(super) blocks: Interned<BlockRows>,
    /// Block numbers of each groups list.
    pub(super) groups: Interned<Box<[u32]>>,
    /// Groups of each class, class 0 first, by direction.
    pub(super) classes: Vec<[u32; 2]>,
    /// For each signature the class of workloads elsewhere, if some have it. Class 0
    /// for all where none is asked about.
    pub(super) remote_classes: Vec<Option<u32>>,
    /// Ends of what the classes of this node have come to.
    local: Ends,
    words: u64,
    max_words: u64,
}

/// Properties of a class in one direction: all that its rows follow from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SideKey {
    direction: u8,
    policies: Vec<u32>,
    ports: PortNumbers,
    enforcement: Mode,
}

/// One class and direction being worked out.
struct SideRows<'s> {
    direction: Direction,
    /// All rules, in the order in which they decide.
    rules: Vec<&'s CompiledRule>,
    /// The subject's named ports, which count for ingress.
    ports: &'s [(u32, u16)],
    defaults: Defaults,
    atoms: &'s Atoms,
    /// Rows by which rules match and, for egress, the atom's named ports.
    known: HashMap<Box<[u32]>, Vec<(PortNumbers, u32)>>,
}

impl Matrix {
    /// Works out the rows of every class. No more than `max_words` are collected.
    pub(super) fn new(
        subjects: &Subjects,
        remote: &Remote,
        atoms: &Atoms,
        numbers: &mut RuleNumbers,
        book: &mut RowBook,
        max_words: u64,
    ) -> Result<Self, CompileError> {
        let known = book.local.take(subjects, atoms, numbers, max_words)?;
        let remote_classes = vec![remote.namespaces.is_empty().then_some(0); atoms.signatures()];
        let mut matrix = match known {
            Some(known) => Self {
                remote_classes,
                max_words,
                ..known
            },
            None => Self::local(subjects, atoms, numbers, remote_classes, max_words)?,
        };
        matrix.remote(&mut RemoteSide {
            remote,
            first: &subjects.numbers,
            atoms,
            numbers,
            book: &mut book.remote,
        })?;
        if matrix.classes.len() as u64 > u64::from(MAX_CLASS) + 1 {
            return Err(CompileError::Capacity {
                table: "classes",
                used: matrix.classes.len() as u64,
                max: MAX_CLASS.into(),
            });
        }
        Ok(matrix)
    }

    /// Number of this node's classes, class 0 included.
    pub(super) fn own_classes(&self) -> u32 {
        number(self.local.classes)
    }

    /// Works out the rows of this node's classes.
    fn local(
        subjects: &Subjects,
        atoms: &Atoms,
        numbers: &mut RuleNumbers,
        remote_classes: Vec<Option<u32>>,
        max_words: u64,
    ) -> Result<Self, CompileError> {
        let mut matrix = Self {
            rows: Interned::default(),
            blocks: Interned::default(),
            groups: Interned::default(),
            classes: Vec::with_capacity(subjects.classes.len() + 1),
            remote_classes,
            local: Ends::default(),
            words: 0,
            max_words,
        };
        let none = Class {
            policies: Vec::new(),
            ports: PortNumbers::default(),
            enforcement: Mode::Enforce,
        };
        let mut known: HashMap<SideKey, u32> = HashMap::new();
        for class in std::iter::once(&none).chain(subjects.classes.iter()) {
            let mut groups = [0; 2];
            for direction in DIRECTIONS {
                let policies: Vec<u32> = class
                    .policies
                    .iter()
                    .copied()
                    .filter(|p| subjects.policies[*p as usize].side(direction).is_some())
                    .collect();
                let ports = match direction {
                    Direction::Ingress => class.ports.clone(),
                    Direction::Egress => PortNumbers::default(),
                };
                let key = SideKey {
                    direction: direction as u8,
                    policies,
                    ports,
                    enforcement: class.enforcement,
                };
                groups[direction as usize] = match known.get(&key) {
                    Some(groups) => *groups,
                    None => {
                        let policies: Vec<&CompiledPolicy> = key
                            .policies
                            .iter()
                            .map(|p| &subjects.policies[*p as usize])
                            .collect();
                        let mut side = SideRows::new(direction, &policies, &key, atoms, numbers)?;
                        let groups = matrix.side(&mut side)?;
                        known.insert(key, groups);
                        groups
                    }
                };
            }
            matrix.classes.push(groups);
        }
        matrix.local = Ends {
            rows: matrix.rows.all.len(),
            blocks: matrix.blocks.all.len(),
            groups: matrix.groups.all.len(),
            classes: matrix.classes.len(),
            isolation_sets: numbers.isolation_sets().len(),
            words: matrix.words,
        };
        Ok(matrix)
    }

    /// The groups of one class and direction.
    fn side(&mut self, side: &mut SideRows<'_>) -> Result<u32, CompileError> {
        let everybody: Vec<u32> = (0u32..)
            .zip(&side.rules)
            .filter_map(|(index, rule)| rule.peers.is_none().then_some(index))
            .collect();
        let by_name = |rules: &[u32]| side.is_by_name(rules);
        let everybody_by_name = by_name(&everybody);
        // Which rule speaks of which atoms, piece by piece.
        let mut spoken: Vec<(u32, u32, u64)> = Vec::new();
        for (index, rule) in (0u32..).zip(&side.rules) {
            if let Some(list) = rule.peers {
                let members = side.atoms.sets().members(list);
                spoken.extend(members.iter().map(|(piece, bits)| (*piece, index, *bits)));
            }
        }
        spoken.sort_unstable();
        let mut spoken = spoken.as_slice();

        let default_row = self.row(side, &everybody, &[])?;
        let default_block = self.block([default_row; PIECE])?;
        let pieces = side.atoms.count().div_ceil(BLOCK_WORDS);
        let mut groups = vec![default_block; pieces as usize];
        for piece in 0..pieces {
            let length = spoken.iter().take_while(|(p, ..)| *p == piece).count();
            let (here, rest) = spoken.split_at(length);
            spoken = rest;
            if !here.is_empty() || everybody_by_name {
                groups[piece as usize] = self.piece(side, piece, &everybody, here)?;
            }
        }
        let (at, is_new) = self.groups.insert(groups.into_boxed_slice());
        if is_new {
            self.count(pieces.into())?;
        }
        Ok(at)
    }

    /// One block: atoms of a piece by which rules speak of them.
    fn piece(
        &mut self,
        side: &mut SideRows<'_>,
        piece: u32,
        everybody: &[u32],
        spoken: &[(u32, u32, u64)],
    ) -> Result<u32, CompileError> {
        let mut parts: Vec<(u64, Vec<u32>)> = vec![(u64::MAX, everybody.to_vec())];
        for (_, rule, bits) in spoken {
            let mut split = Vec::with_capacity(parts.len() + 1);
            for (mask, rules) in parts {
                if mask & bits != 0 {
                    let mut with = rules.clone();
                    with.push(*rule);
                    split.push((mask & bits, with));
                }
                if mask & !bits != 0 {
                    split.push((mask & !bits, rules));
                }
            }
            parts = split;
        }
        let mut block = [0; PIECE];
        for (mask, mut rules) in parts {
            rules.sort_unstable();
            let atoms = (0..BLOCK_WORDS).filter(|bit| mask >> bit & 1 == 1);
            if side.is_by_name(&rules) {
                for bit in atoms {
                    let atom = piece * BLOCK_WORDS + bit;
                    let ports = side.atoms.sets().ports(atom);
                    block[bit as usize] = self.row(side, &rules, ports)?;
                }
            } else {
                let row = self.row(side, &rules, &[])?;
                for bit in atoms {
                    block[bit as usize] = row;
                }
            }
        }
        self.block(block)
    }

    fn block(&mut self, block: BlockRows) -> Result<u32, CompileError> {
        let (at, is_new) = self.blocks.insert(block);
        if is_new {
            self.count(BLOCK_WORDS.into())?;
        }
        Ok(at)
    }

    /// The row where these rules match. `ports` are the atom's named ports, which
    /// count for egress.
    fn row(
        &mut self,
        side: &mut SideRows<'_>,
        rules: &[u32],
        ports: &[(u32, u16)],
    ) -> Result<u32, CompileError> {
        let known = side.known.get(rules).into_iter().flatten();
        if let Some((_, row)) = known.into_iter().find(|(known, _)| **known == *ports) {
            return Ok(*row);
        }
        let named: PortNumbers = ports.into();
        let ports = match side.direction {
            Direction::Ingress => side.ports,
            Direction::Egress => ports,
        };
        let keys: Vec<Vec<Keys>> = rules
            .iter()
            .map(|rule| side.rules[*rule as usize].keys_with(ports))
            .collect();
        let row_rules: Vec<RowRule<'_>> = rules
            .iter()
            .zip(&keys)
            .map(|(rule, keys)| {
                let rule = side.rules[*rule as usize];
                RowRule {
                    keys,
                    outcome: rule.outcome,
                    tier: rule.tier,
                    enforced: rule.enforced,
                }
            })
            .collect();
        let intervals = rows::intervals(&row_rules, side.defaults);
        let at = self.row_words(rows::bounded_words(&intervals)?.into())?;
        let with_ports = side.known.entry(rules.into()).or_default();
        with_ports.push((named, at));
        Ok(at)
    }

    fn row_words(&mut self, words: Row) -> Result<u32, CompileError> {
        let length = words.len() as u64;
        let (at, is_new) = self.rows.insert(words);
        if is_new {
            self.count(length)?;
        }
        Ok(at)
    }

    /// Keeps memory bounded before the whole table is measured.
    fn count(&mut self, words: u64) -> Result<(), CompileError> {
        self.words += words;
        if self.words > self.max_words {
            let pages = |words: u64| words.div_ceil(PAGE_WORDS as u64);
            return Err(CompileError::Capacity {
                table: "table pages",
                used: pages(self.words),
                max: pages(self.max_words),
            });
        }
        Ok(())
    }
}

impl<'s> SideRows<'s> {
    fn new(
        direction: Direction,
        policies: &[&'s CompiledPolicy],
        key: &'s SideKey,
        atoms: &'s Atoms,
        numbers: &mut RuleNumbers,
    ) -> Result<Self, CompileError> {
        let mut enforced = Vec::new();
        let mut all = Vec::new();
        for policy in policies {
            let isolation = policy.side(direction).and_then(|side| side.isolation);
            all.extend(isolation);
            if policy.enforced {
                enforced.extend(isolation);
            }
        }
        // Whoever is isolated by policies in force never comes to the last tier.
        let last = if enforced.is_empty() {
            Tier::Baseline
        } else {
            Tier::Namespace
        };
        let rules = (policies.iter())
            .filter(|policy| policy.rank.tier <= last)
            .filter_map(|policy| policy.side(direction))
            .flat_map(|side| &side.rules)
            .collect();
        let mut default = |isolating: &[u32]| {
            Ok(if isolating.is_empty() {
                Verdict::allow(Reason::NotIsolated)
            } else {
                Verdict {
                    action: Action::Deny,
                    reason: Reason::Isolated,
                    rule: numbers.isolation_set(isolating)?,
                }
            })
        };
        Ok(Self {
            direction,
            rules,
            ports: &key.ports,
            defaults: Defaults {
                enforced: default(&enforced)?,
                audited: default(&all)?,
                enforcement: key.enforcement,
            },
            atoms,
            known: HashMap::new(),
        })
    }

    /// Returns `true` if the keys that these rules cover depend on the atom's named ports.
    fn is_by_name(&self, rules: &[u32]) -> bool {
        self.direction == Direction::Egress
            && rules
                .iter()
                .any(|rule| !self.rules[*rule as usize].names.is_empty())
    }
}

impl CompiledRule {
    /// Returns the keys that the rule covers where names have these numbers.
    fn keys_with(&self, ports: &[(u32, u16)]) -> Vec<Keys> {
        let mut keys = self.keys.clone();
        for (name, protocol) in &self.names {
            let numbers = ports.iter().filter(|(candidate, _)| candidate == name);
            keys.extend(numbers.map(|(_, number)| {
                let key = cofferdam_verdict::table::row_key(*protocol, *number);
                Keys {
                    first: key,
                    last: key,
                }
            }));
        }
        keys
    }
}
