//! Parts that are kept from one table to the next, as long as nothing but Services changes: the
//! columns of verdicts at ports, and the rows that they are part of.
//!
//! Invariant: a number stands for the same words for as long as the book is of one table.

use std::sync::{Arc, Weak};

use cofferdam_inventory::{Owner, Workload};
use foldhash::HashMap;

use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{
    PAGE_WORDS, ROW_KEY_END, SLOTS_OFFSET, SLOTS_PER_WORD, header, row_key, slot_place,
};
use cofferdam_verdict::verdict::{Action, Direction, Verdict, row_flag};

use super::super::reader::Reader;
use super::super::rows;
use super::super::signatures::number;
use super::super::virtuals::{Entry, Port};
use super::super::{CompileError, Compiled, Reached, Snapshot, UnseenPort, Virtuals};
use super::Placed;

/// Number by which a column of verdicts is known.
type ColumnNumber = u32;

/// Verdicts at one port, by class of this node: in force, and with audit policies.
type Column = Arc<[u64]>;

/// Numbers of the rows of one kind of address, by class of this node.
pub(super) type RowsByClass = Arc<[u32]>;

/// All that rows of a translated address follow from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// The atom of the address as it is.
    pub(super) atom: u32,
    /// Each port of a Service, in the order of protocols and ports, and its column.
    pub(super) ports: Box<[(Port, ColumnNumber)]>,
}

/// Parts that tables have in common as long as nothing but Services changes.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The words of the table from its blocks on, and its header.
    words: Vec<u32>,
    /// The words of its slots: the profiles that addresses were asked about by.
    pub(super) slots: Vec<u32>,
    pub(super) own_classes: u32,
    columns: Vec<Column>,
    /// For each column: it denies some class for want of a hook.
    are_unseen: Vec<bool>,
    column_numbers: HashMap<Column, ColumnNumber>,
    /// Columns by entries, whose places are not used again while they are known here; those
    /// of other nodes' ports apart.
    by_entry: HashMap<(usize, bool), (Weak<Entry>, ColumnNumber)>,
    pub(super) rows: Vec<Arc<[u32]>>,
    row_numbers: HashMap<Arc<[u32]>, u32>,
    /// Rows by the offset of the row below and what is put over it.
    over: HashMap<Box<[u32]>, u32>,
    /// The rows below of atoms, by class.
    below: HashMap<u32, Arc<[u32]>>,
    kinds: HashMap<Kind, RowsByClass>,
}

impl Book {
    pub(super) fn new(compiled: &Compiled, limits: Limits) -> Self {
        Self {
            words: told_by(compiled, limits),
            slots: slot_words(compiled, limits).to_vec(),
            own_classes: compiled.own_classes,
            ..Self::default()
        }
    }

    /// Returns `true` if this is of some table.
    pub(super) fn is_begun(&self) -> bool {
        !self.words.is_empty()
    }

    /// The workloads that a table takes for others than the table of this did; `None` if they
    /// differ in more than that.
    pub(super) fn others_in<'s>(
        &self,
        compiled: &Compiled,
        snapshot: &Snapshot<'s>,
    ) -> Option<Vec<&'s Workload>> {
        let slots = slot_words(compiled, snapshot.limits);
        if self.own_classes != compiled.own_classes
            || self.slots.len() != slots.len()
            || self.words != told_by(compiled, snapshot.limits)
        {
            return None;
        }
        let mut others = Vec::new();
        let words = (0..).zip(self.slots.iter().zip(slots));
        for (at, (was, is)) in words.filter(|(_, (was, is))| was != is) {
            for slot in SLOTS_PER_WORD * at..SLOTS_PER_WORD * (at + 1) {
                let shift = slot_place(slot).1;
                let [was, is] = [was, is].map(|word| (word >> shift) as u16);
                if was == is {
                    continue;
                }
                match snapshot.slots.holder(slot) {
                    Some((Owner::Workload(name), _)) => {
                        others.push(snapshot.inventory.workloads().get(name)?);
                    }
                    // Whoever had it has gone, and that is heard of elsewhere.
                    None if is == 0 => {}
                    Some((Owner::Node(_), _)) | None => return None,
                }
            }
        }
        Some(others)
    }

    /// Returns `true` if most of what is kept is used no more.
    pub(super) fn is_worn(&self, placed: &Placed) -> bool {
        let is_used = |(entry, _): &&(Weak<Entry>, ColumnNumber)| entry.strong_count() > 0;
        let used = || self.by_entry.values().filter(is_used).count();
        let addresses = placed.virtuals.len() + placed.nodes.len();
        self.kinds.len() > 2 * addresses + 64
            || self.by_entry.len() > 64 && self.by_entry.len() > 2 * used()
    }

    /// The kind of an address with these ports. `is_elsewhere`: the address is another
    /// node's, and nothing here sees what it is translated to.
    pub(super) fn kind<'e>(
        &mut self,
        atom: u32,
        ports: impl IntoIterator<Item = (Port, &'e Arc<Entry>)>,
        virtuals: &Virtuals,
        is_elsewhere: bool,
    ) -> Kind {
        let ports = ports
            .into_iter()
            .map(|(port, entry)| (port, self.column(entry, virtuals, is_elsewhere)));
        let mut ports: Box<[_]> = ports.collect();
        ports.sort_unstable();
        Kind { atom, ports }
    }

    fn column(
        &mut self,
        entry: &Arc<Entry>,
        virtuals: &Virtuals,
        is_elsewhere: bool,
    ) -> ColumnNumber {
        let key = (Arc::as_ptr(entry).addr(), is_elsewhere);
        if let Some((_, known)) = self.by_entry.get(&key) {
            return *known;
        }
        let mut reached = vec![None::<[Reached; 2]>; self.own_classes as usize];
        for (sender, outcome) in virtuals.kinds().iter().zip(entry.outcomes.iter()) {
            let of_class = &mut reached[sender.class as usize];
            let [enforced, audited] = [outcome.enforced, outcome.audited];
            *of_class = Some(match of_class {
                Some([one, other]) => [one.or(enforced), other.or(audited)],
                None => [enforced, audited],
            });
        }
        // A class that no workload has asks nothing, and has the word of a broken table.
        let words = reached.into_iter().map(|both| {
            let word = |reached| word(reached, is_elsewhere);
            both.map_or(0, |both| pair(both.map(word)))
        });
        let column: Column = words.collect();
        let next = number(self.columns.len());
        let found = *self.column_numbers.entry(column.clone()).or_insert(next);
        if found == next {
            let denied = Verdict::deny(Reason::VirtualUndecided).to_word();
            let mut enforced = column.iter().map(|both| unpaired(*both)[0]);
            let is_unseen = enforced.any(|word| word & !row_flag::ALL == denied);
            self.are_unseen.push(is_unseen);
            self.columns.push(column);
        }
        self.by_entry.insert(key, (Arc::downgrade(entry), found));
        found
    }

    /// The ports of Services that some class is denied for want of a hook behind it.
    pub(super) fn unseen(&self, placed: &Placed) -> Vec<UnseenPort> {
        let all = placed.virtuals.iter().chain(&placed.nodes);
        let ports =
            all.flat_map(|(address, kind)| kind.ports.iter().map(move |port| (*address, port)));
        let unseen = ports.filter(|(_, (_, column))| self.are_unseen[*column as usize]);
        let mut unseen: Vec<UnseenPort> = unseen
            .map(|(address, (port, _))| UnseenPort {
                address,
                port: *port,
            })
            .collect();
        unseen.sort_unstable();
        unseen
    }

    /// The rows of a kind of address, by class.
    pub(super) fn rows_of(
        &mut self,
        base: &Reader<'_>,
        kind: &Kind,
    ) -> Result<RowsByClass, CompileError> {
        if let Some(known) = self.kinds.get(kind) {
            return Ok(known.clone());
        }
        let below = self.below(base, kind.atom);
        let columns = kind.ports.iter().map(|((protocol, port), column)| {
            let key = row_key(protocol.number(), *port);
            (key, self.columns[*column as usize].clone())
        });
        let columns: Vec<(u32, Column)> = columns.collect();
        let mut rows = Vec::with_capacity(below.len());
        let mut last: Option<(Vec<u32>, u32)> = None;
        for (class, below) in below.iter().enumerate() {
            let mut over = Vec::with_capacity(1 + 3 * columns.len());
            over.push(*below);
            for (key, column) in &columns {
                let [enforced, audited] = unpaired(column[class]);
                over.extend([*key, enforced, audited]);
            }
            let row = match &last {
                // Most classes are treated alike.
                Some((other, row)) if *other == over => *row,
                _ => self.row_over(base, &over)?,
            };
            last = Some((over, row));
            rows.push(row);
        }
        let rows: RowsByClass = rows.into();
        self.kinds.insert(kind.clone(), rows.clone());
        Ok(rows)
    }

    /// The rows of an atom as it is, by class.
    fn below(&mut self, base: &Reader<'_>, atom: u32) -> Arc<[u32]> {
        let below = self.below.entry(atom).or_insert_with(|| {
            let classes = 0..self.own_classes;
            let rows = classes.map(|class| base.row_at(class, Direction::Egress, atom));
            rows.collect()
        });
        below.clone()
    }

    /// The row with verdicts over another one: the offset of that, then of each port the key
    /// and both verdicts, ascending.
    fn row_over(&mut self, base: &Reader<'_>, over: &[u32]) -> Result<u32, CompileError> {
        if let Some(known) = self.over.get(over) {
            return Ok(*known);
        }
        let below = base.intervals(over[0]);
        let words: Arc<[u32]> = put_over(below, over[1..].as_chunks().0)?.into();
        let next = number(self.rows.len());
        let row = *self.row_numbers.entry(words.clone()).or_insert(next);
        if row == next {
            self.rows.push(words);
        }
        self.over.insert(over.into(), row);
        Ok(row)
    }
}

/// Two words as one, which is quickly compared.
fn pair([enforced, audited]: [u32; 2]) -> u64 {
    u64::from(enforced) << 32 | u64::from(audited)
}

/// The words of [`pair`].
const fn unpaired(both: u64) -> [u32; 2] {
    [(both >> 32) as u32, both as u32]
}

/// All words of a table that tell how it treats addresses, but for its slots.
fn told_by(compiled: &Compiled, limits: Limits) -> Vec<u32> {
    let mut words = compiled.words[..header::LENGTH].to_vec();
    words[header::REVISION_LOW] = 0;
    words[header::REVISION_HIGH] = 0;
    let blocks = limits.slot_pages() as usize * PAGE_WORDS;
    words.extend_from_slice(&compiled.words[blocks..]);
    words
}

/// The words of a table's slots. The first are those of slot 0 on.
pub(super) fn slot_words(compiled: &Compiled, limits: Limits) -> &[u32] {
    &compiled.words[SLOTS_OFFSET as usize..limits.slot_pages() as usize * PAGE_WORDS]
}

/// The word of a row at a port of a Service.
fn word(reached: Reached, is_elsewhere: bool) -> u32 {
    let undecided = |action| Verdict {
        action,
        reason: Reason::VirtualUndecided,
        rule: 0,
    };
    let (verdict, flags) = match reached {
        Reached::All(egress) => (egress, 0),
        Reached::None(Direction::Egress, denial) => (denial, 0),
        Reached::None(Direction::Ingress, denial) => (denial, row_flag::OF_INGRESS),
        Reached::Nobody | Reached::Some if !is_elsewhere => (undecided(Action::Allow), 0),
        Reached::Nobody | Reached::Some | Reached::Unseen => (undecided(Action::Deny), 0),
    };
    // What another node translates, no other hook here judges.
    let seen = if is_elsewhere { 0 } else { row_flag::SERVICE };
    verdict.to_word() | flags | seen
}

/// The words of a row with others at some keys, which are ascending.
fn put_over(
    below: impl Iterator<Item = [u32; 3]>,
    over: &[[u32; 3]],
) -> Result<Box<[u32]>, CompileError> {
    let below: Vec<[u32; 3]> = below.collect();
    let mut intervals: Vec<[u32; 3]> = Vec::with_capacity(below.len() + 2 * over.len());
    let mut push = |first: u32, words: [u32; 2]| {
        if intervals.last().is_some_and(|[last, ..]| *last == first) {
            intervals.pop();
        }
        if intervals.last().is_none_or(|last| last[1..] != words) {
            intervals.push([first, words[0], words[1]]);
        }
    };
    let mut over = over.iter().peekable();
    for (at, [first, enforced, audited]) in below.iter().enumerate() {
        let end = below.get(at + 1).map_or(ROW_KEY_END, |[next, ..]| *next);
        push(*first, [*enforced, *audited]);
        while let Some([key, words @ ..]) = over.next_if(|[key, ..]| *key < end) {
            push(*key, *words);
            if key + 1 < end {
                push(key + 1, [*enforced, *audited]);
            }
        }
    }
    rows::bounded_words(&intervals)
}
