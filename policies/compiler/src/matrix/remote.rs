//! The classes of workloads elsewhere: ingress from own addresses.
//!
//! The findings of `remote` about a namespace name rules by numbers of its own, and
//! own addresses by their positions; here both get this table's numbers. Blocks follow
//! from the atoms of own addresses alone, and are kept from table to table as long as
//! these are the same; rows, as long as all that they name has the same numbers.
//!
//! Egress of these classes is class 0's: nobody judges it here. Atoms that are not of
//! own addresses are none that these classes can be asked about; their rows deny as a
//! broken table does.
//!
//! Invariant: what is kept is what would be made anew.

use std::ops::Range;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::BLOCK_WORDS;
use cofferdam_verdict::verdict::Verdict;

use super::super::CompileError;
use super::super::peers::Atoms;
use super::super::remote::{Remote, RemoteClass, RemoteNamespace};
use super::super::rules::RuleNumbers;
use super::super::signatures::number;
use super::super::subjects::IngressNumbers;
use super::{BlockRows, Interned, Matrix, PIECE, Row};

/// All that rows of workloads elsewhere follow from.
pub(super) struct RemoteSide<'r> {
    pub(super) remote: &'r Remote,
    pub(super) first: &'r IngressNumbers,
    pub(super) atoms: &'r Atoms,
    pub(super) numbers: &'r mut RuleNumbers,
    pub(super) book: &'r mut RemoteRows,
}

/// Rows and blocks of the last table, by namespace.
#[derive(Debug, Default)]
pub(in super::super) struct RemoteRows {
    places: OwnPlaces,
    namespaces: Vec<NamespaceRows>,
}

/// Numbers of the atoms of own addresses.
#[derive(Debug, Default, PartialEq, Eq)]
struct OwnPlaces {
    /// By position among the own addresses.
    atoms: Vec<u32>,
    /// Numbers below other atoms' that no atom has.
    gaps: Vec<Range<u32>>,
    /// Pieces of 64 numbers.
    pieces: usize,
}

/// The rows and blocks of one namespace, by numbers of its own.
#[derive(Debug)]
struct NamespaceRows {
    of: Arc<RemoteNamespace>,
    /// The rows of each block.
    blocks: Vec<BlockRows>,
    /// For each class the blocks of the pieces of own atoms.
    groups: Vec<Box<[u32]>>,
    /// The numbers of everything that its rows name, in the last table.
    numbers: Vec<u32>,
    /// Its rows with these numbers.
    rows: Vec<Row>,
}

impl Matrix {
    /// Works out the classes of workloads elsewhere, after all others. Those that treat
    /// the own addresses alike in every word are one.
    pub(super) fn remote(&mut self, side: &mut RemoteSide<'_>) -> Result<(), CompileError> {
        let [nobody, egress] = self.classes[0];
        let nobody = self.groups.all()[nobody as usize].first().copied();
        let pieces = side.atoms.count().div_ceil(BLOCK_WORDS) as usize;
        let remote = side.remote;
        side.book.turn_to(OwnPlaces::new(side.atoms));
        let mut known: HashMap<_, NamespaceRows> = (side.book.namespaces.drain(..))
            .map(|known| (Arc::as_ptr(&known.of), known))
            .collect();
        let all = remote.namespaces.iter().flatten();
        let count = all.map(|found| found.classes.len()).sum();
        // Of groups that come again.
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        // Of most classes one row and two or three blocks are their own.
        self.rows.all.reserve(2 * count);
        self.blocks.all.reserve(3 * count);
        self.groups.all.reserve(count);
        let mut beyond = None;
        let found = remote.namespaces.iter().zip(&remote.signatures);
        for (namespace, (found, signatures)) in found.enumerate() {
            for signature in signatures {
                self.remote_classes[*signature as usize] = Some(0);
            }
            let Some(found) = found else {
                continue;
            };
            let known = known.remove(&Arc::as_ptr(found));
            let mut own = match known {
                Some(known) => known,
                None => NamespaceRows::new(found, &side.book.places),
            };
            own.renumber(side.first, namespace, side.numbers)?;
            let blocks = self.blocks_of(&own)?;
            for (class, groups) in found.classes.iter().zip(&own.groups) {
                let groups = groups.iter().map(|block| blocks[*block as usize]);
                if groups.clone().all(|(block, _)| Some(block) == nobody) {
                    continue;
                }
                let beyond = match beyond {
                    Some(beyond) => beyond,
                    None => *beyond.insert(self.broken_block()?),
                };
                let is_own = groups.clone().any(|(_, is_own)| is_own);
                let mut all = Vec::with_capacity(pieces);
                all.extend(groups.map(|(block, _)| block));
                all.resize(pieces, beyond);
                let all = all.into_boxed_slice();
                let (groups, is_new) = match is_own {
                    true => (self.groups.push(all), true),
                    false => self.groups.insert(all),
                };
                if is_new {
                    self.count(pieces as u64)?;
                }
                let known = numbers.get(&groups).filter(|_| !is_own);
                let class_number = match known {
                    Some(known) => *known,
                    None => {
                        self.classes.push([groups, egress]);
                        number(self.classes.len() - 1)
                    }
                };
                if !is_own {
                    numbers.insert(groups, class_number);
                }
                for member in &class.members {
                    let signature = signatures[*member as usize];
                    self.remote_classes[signature as usize] = Some(class_number);
                }
            }
            side.book.namespaces.push(own);
        }
        Ok(())
    }

    /// A block that denies as a broken table does.
    fn broken_block(&mut self) -> Result<u32, CompileError> {
        let broken = Verdict::deny(Reason::TableCorrupt).to_word();
        let row = self.row_words(Row::from([1, 0, broken, broken]))?;
        self.block([row; PIECE])
    }

    /// The numbers of a namespace's blocks in this table, each with whether nothing else
    /// in the table can have it.
    ///
    /// A row that names a rule or an isolation of the namespace is no other namespace's. If
    /// no workload of this node has it, either, it is new, and so is a block with it; of
    /// those each is there once, and none is looked for.
    fn blocks_of(&mut self, own: &NamespaceRows) -> Result<Vec<(u32, bool)>, CompileError> {
        let mut rows = Vec::with_capacity(own.rows.len());
        for (row, names_own) in own.rows.iter().zip(&own.of.names_own) {
            rows.push(match *names_own && self.rows.find(row).is_none() {
                true => {
                    self.count(row.len() as u64)?;
                    (self.rows.push(row.clone()), true)
                }
                false => (self.row_words(row.clone())?, false),
            });
        }
        let mut blocks = Vec::with_capacity(own.blocks.len());
        for block in &own.blocks {
            let mut is_own = false;
            let block = block.map(|row| {
                let (row, is_new) = rows[row as usize];
                is_own |= is_new;
                row
            });
            blocks.push(match is_own {
                true => {
                    self.count(BLOCK_WORDS.into())?;
                    (self.blocks.push(block), true)
                }
                false => (self.block(block)?, false),
            });
        }
        Ok(blocks)
    }
}

impl RemoteRows {
    /// Forgets everything that was made for other places.
    fn turn_to(&mut self, places: OwnPlaces) {
        if self.places != places {
            *self = Self {
                places,
                namespaces: Vec::new(),
            };
        }
    }
}

impl OwnPlaces {
    fn new(atoms: &Atoms) -> Self {
        Self {
            atoms: atoms.of_own_addresses().to_vec(),
            gaps: atoms.gaps(),
            pieces: atoms.own_count().div_ceil(BLOCK_WORDS) as usize,
        }
    }

    /// The rows of a class for the atoms of own addresses, piece by piece; `None` where
    /// it has the row of everybody alone.
    fn pieces_of(&self, class: &RemoteClass) -> Vec<Option<BlockRows>> {
        let mut rows: Vec<BlockRows> = vec![[class.row; PIECE]; self.pieces];
        let mut is_spoken = vec![false; self.pieces];
        for (part, row) in &class.rows {
            for position in part.iter() {
                let atom = self.atoms[position as usize] as usize;
                rows[atom / PIECE][atom % PIECE] = *row;
                is_spoken[atom / PIECE] = true;
            }
        }
        // Where no atom is, the row of the one before makes blocks the same.
        for gap in &self.gaps {
            let (piece, first) = (gap.start as usize / PIECE, gap.start as usize % PIECE);
            let before = rows[piece][first - 1];
            rows[piece][first..].fill(before);
        }
        let rows = rows.into_iter().zip(is_spoken);
        rows.map(|(rows, is_spoken)| is_spoken.then_some(rows))
            .collect()
    }
}

impl NamespaceRows {
    fn new(of: &Arc<RemoteNamespace>, places: &OwnPlaces) -> Self {
        let mut blocks = Interned::default();
        let groups = of.classes.iter().map(|class| {
            let default = blocks.insert([class.row; PIECE]).0;
            let pieces = places.pieces_of(class).into_iter();
            let groups = pieces.map(|rows| match rows {
                Some(rows) => blocks.insert(rows).0,
                None => default,
            });
            groups.collect()
        });
        Self {
            groups: groups.collect(),
            blocks: blocks.all,
            numbers: Vec::new(),
            rows: Vec::new(),
            of: Arc::clone(of),
        }
    }

    /// Gives rows the numbers that everything they name has in this table.
    fn renumber(
        &mut self,
        first: &IngressNumbers,
        namespace: usize,
        numbers: &mut RuleNumbers,
    ) -> Result<(), CompileError> {
        let names = &self.of.names;
        let mut named = Vec::with_capacity(self.numbers.len().max(1));
        named.push(0);
        for (policy, count) in &names.policies {
            let first = first.first_rule(namespace, *policy);
            named.extend(first..first + count);
        }
        for isolating in &names.isolating {
            let policies = isolating
                .iter()
                .map(|position| first.isolation(namespace, *position));
            named.push(numbers.isolation_set(&policies.collect::<Vec<u32>>())?);
        }
        if named != self.numbers {
            self.rows = (self.of.rows.iter())
                .map(|row| with_numbers(row, &named))
                .collect();
            self.numbers = named;
        }
        Ok(())
    }
}

/// A row whose verdicts name rules by these numbers.
fn with_numbers(row: &[u32], numbers: &[u32]) -> Row {
    let keys = 1 + row[0] as usize;
    let renamed = row[keys..].iter().map(|word| {
        let verdict = Verdict::from_word(*word);
        let rule = numbers[verdict.rule as usize];
        Verdict { rule, ..verdict }.to_word()
    });
    row[..keys].iter().copied().chain(renamed).collect()
}
