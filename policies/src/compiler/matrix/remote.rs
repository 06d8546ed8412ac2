//! The classes of workloads elsewhere: ingress from own addresses.
//!
//! What `remote` has found out says rules by their position in a class, and own
//! addresses by theirs; here both get this table's numbers.
//!
//! Egress of these classes is class 0's: nobody judges it here. Atoms that are not of
//! own addresses are none that these classes can be asked about; their rows deny as a
//! broken table does.

use std::ops::Range;

use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::BLOCK_WORDS;
use cofferdam_verdict::verdict::Verdict;

use super::super::CompileError;
use super::super::peers::Atoms;
use super::super::remote::{ClassRow, Remote, RemoteClass};
use super::super::rules::RuleNumbers;
use super::super::signatures::number;
use super::super::subjects::IngressNumbers;
use super::{BlockRows, Matrix, PIECE};

/// All that rows of workloads elsewhere follow from.
pub(super) struct RemoteSide<'r> {
    pub(super) remote: &'r Remote,
    pub(super) first: &'r IngressNumbers,
    pub(super) atoms: &'r Atoms,
    pub(super) numbers: &'r mut RuleNumbers,
    /// Numbers below other atoms' that no atom has.
    pub(super) gaps: Vec<Range<u32>>,
}

impl Matrix {
    /// Works out the classes of workloads elsewhere, after all others. Those that treat
    /// the own addresses alike in every word are one.
    pub(super) fn remote(&mut self, side: &mut RemoteSide<'_>) -> Result<(), CompileError> {
        let [nobody, egress] = self.classes[0];
        let nobody = self.groups[nobody as usize].first().copied();
        let own_pieces = side.atoms.own_count().div_ceil(BLOCK_WORDS) as usize;
        let pieces = side.atoms.count().div_ceil(BLOCK_WORDS) as usize;
        let remote = side.remote;
        let all = remote.namespaces.iter().flatten();
        let count = all.map(|found| found.classes.len()).sum();
        let mut numbers: HashMap<u32, u32> = HashMap::with_capacity(count);
        // Of most classes one row and two or three blocks are their own.
        self.rows.reserve(2 * count);
        self.blocks.reserve(3 * count);
        self.groups.reserve(count);
        let mut beyond = None;
        let found = remote.namespaces.iter().zip(&remote.signatures);
        for (namespace, (found, signatures)) in found.enumerate() {
            for signature in signatures {
                self.remote_classes[*signature as usize] = Some(0);
            }
            for class in found.iter().flat_map(|found| &found.classes) {
                let mut groups = self.own_blocks(side, namespace, class, own_pieces)?;
                if groups.iter().all(|block| Some(*block) == nobody) {
                    continue;
                }
                let beyond = match beyond {
                    Some(beyond) => beyond,
                    None => *beyond.insert(self.broken_block()?),
                };
                groups.resize(pieces, beyond);
                let (groups, is_new) = self.groups.insert_full(groups.into_boxed_slice());
                if is_new {
                    self.count(pieces as u64)?;
                }
                let classes = &mut self.classes;
                let class_number = *numbers.entry(number(groups)).or_insert_with(|| {
                    classes.push([number(groups), egress]);
                    number(classes.len() - 1)
                });
                for member in &class.members {
                    let signature = signatures[*member as usize];
                    self.remote_classes[signature as usize] = Some(class_number);
                }
            }
        }
        Ok(())
    }

    /// A block that denies as a broken table does.
    fn broken_block(&mut self) -> Result<u32, CompileError> {
        let broken = Verdict::deny(Reason::TableCorrupt).to_word();
        let row = self.row_words(Box::from([1, 0, broken, broken]))?;
        self.block([row; PIECE])
    }

    /// The blocks of a class for the atoms of own addresses.
    fn own_blocks(
        &mut self,
        side: &mut RemoteSide<'_>,
        namespace: usize,
        class: &RemoteClass,
        pieces: usize,
    ) -> Result<Vec<u32>, CompileError> {
        let named = Named::new(side, namespace, class)?;
        let row = self.row_words(named.words(&class.row))?;
        let mut rows: Vec<BlockRows> = vec![[row; PIECE]; pieces];
        let mut is_spoken = vec![false; pieces];
        for (part, row) in &class.rows {
            let row = self.row_words(named.words(row))?;
            for position in part.iter() {
                let atom = side.atoms.of_own(position) as usize;
                rows[atom / PIECE][atom % PIECE] = row;
                is_spoken[atom / PIECE] = true;
            }
        }
        // Where no atom is, the row of the one before makes blocks the same.
        for gap in &side.gaps {
            let (piece, first) = (gap.start as usize / PIECE, gap.start as usize % PIECE);
            let before = rows[piece][first - 1];
            rows[piece][first..].fill(before);
        }
        let default_block = self.block([row; PIECE])?;
        let blocks = rows.into_iter().zip(is_spoken);
        let blocks = blocks.map(|(block, is_spoken)| match is_spoken {
            true => self.block(block),
            false => Ok(default_block),
        });
        blocks.collect()
    }
}

/// What the rules of a class are called in this table.
struct Named {
    /// By position in the class, from 1.
    rules: Vec<u32>,
    /// The sets of policies that isolate, in force and with audited ones.
    isolated: [u32; 2],
}

impl Named {
    fn new(
        side: &mut RemoteSide<'_>,
        namespace: usize,
        class: &RemoteClass,
    ) -> Result<Self, CompileError> {
        let mut rules = vec![0];
        for (policy, count) in &class.policies {
            let first = side.first.first_rule(namespace, *policy);
            rules.extend(first..first + count);
        }
        let mut set = |isolating: &[u32]| {
            if isolating.is_empty() {
                return Ok(0);
            }
            let policies = isolating.iter();
            let policies = policies.map(|position| side.first.isolation(namespace, *position));
            side.numbers.isolation_set(&policies.collect::<Vec<u32>>())
        };
        let isolated = [set(&class.isolating)?, set(&class.isolating_audited)?];
        Ok(Self { rules, isolated })
    }

    /// The words of a row, with the numbers of rules.
    fn words(&self, row: &ClassRow) -> Box<[u32]> {
        let mut words = row.clone();
        let count = words[0] as usize;
        let (enforced, audited) = words[1 + count..].split_at_mut(count);
        for (part, isolated) in [enforced, audited].into_iter().zip(self.isolated) {
            for word in part {
                let verdict = Verdict::from_word(*word);
                let rule = match verdict.reason {
                    Reason::Isolated => isolated,
                    _ => self.rules[verdict.rule as usize],
                };
                *word = Verdict { rule, ..verdict }.to_word();
            }
        }
        words
    }
}
