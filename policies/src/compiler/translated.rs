//! Rows of translated addresses, put behind a table that knows none.
//!
//! The hook of a sender sees the address of a Service. What it may do there is worked out
//! by `virtuals`; here it becomes part of the table. Every virtual address, and every node
//! whose ports lead to Services, has a number, equal ones the same; for each class of this
//! node and each number there is a row: that of the address as it is, with the ports of
//! Services put over it. The words come behind those of the table, and header, profiles and
//! ranges are written again there: a table whose Services change keeps all its other words.
//!
//! Invariants: the same inventory comes to the same words, whatever was made before; a
//! table with what is put behind it says of every other address what it says without.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{
    BLOCK_WORDS, CLASS_WORDS, MAX_CLASS, MAX_PROFILES, PAGE_WORDS, PROFILE_WORDS, Profile,
    RANGE_NODE_WORDS, ROW_KEY_END, SLOTS_OFFSET, SLOTS_PER_WORD, SlotKind, header, row_key,
    slot_place,
};
use cofferdam_verdict::verdict::{Action, Direction, Verdict, row_flag};

use crate::inventory::{Holder, Inventory, Owner, Workload, family_of};
use crate::services::Services;

use super::range_tree::RangeTrees;
use super::reader::Reader;
use super::rows;
use super::signatures::number;
use super::virtuals::{Entry, Port};
use super::{
    CompileError, Compiled, InForce, Reached, SLOTS, Senders, SlotEntry, Snapshot, UnseenPort,
    Virtuals, pages_error,
};

/// Number by which a column of verdicts is known.
type ColumnNumber = u32;

/// Verdicts at one port, by class of this node: in force, and with audit policies.
type Column = Arc<[[u32; 2]]>;

/// Verdicts that are put over a row, by their keys, ascending.
type Over = Box<[(u32, [u32; 2])]>;

/// Numbers of the rows of one kind of address, by class of this node.
type RowsByClass = Arc<[u32]>;

/// All that rows of a translated address follow from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// The atom of the address as it is.
    atom: u32,
    /// Each port of a Service, in the order of protocols and ports, and its column.
    ports: Box<[(Port, ColumnNumber)]>,
}

/// Parts that tables have in common as long as nothing but Services changes.
#[derive(Debug, Default)]
struct Book {
    /// The words of the table from its blocks on, and its header.
    words: Vec<u32>,
    /// The words of its slots: the profiles that addresses were asked about by.
    slots: Vec<u32>,
    own_classes: u32,
    columns: Vec<Column>,
    column_numbers: HashMap<Column, ColumnNumber>,
    /// Columns by entries, whose places are not used again while they are known here; those
    /// of other nodes' ports apart.
    by_entry: HashMap<(usize, bool), (Weak<Entry>, ColumnNumber)>,
    rows: Vec<Arc<[u32]>>,
    row_numbers: HashMap<Arc<[u32]>, u32>,
    /// Rows by the offset of the row below and the ports put over it.
    over: HashMap<(u32, Over), u32>,
    kinds: HashMap<Kind, RowsByClass>,
}

/// Rows of translated addresses, kept from one table to the next.
#[derive(Debug, Default)]
pub(super) struct Translated {
    services: Services,
    virtuals: Virtuals,
    book: Book,
    placed: Placed,
    /// The last table is of all that is known.
    is_written: bool,
}

/// The translated addresses of an inventory, each with its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Placed {
    /// Addresses of Services alone.
    virtuals: BTreeMap<IpAddr, Kind>,
    /// Nodes' addresses whose ports lead to Services.
    nodes: BTreeMap<IpAddr, Kind>,
}

impl Translated {
    /// Puts behind a table what its workloads may do at translated addresses. `is_last`: the
    /// table is the last one, but for its revision.
    ///
    /// # Errors
    /// A limit that would be exceeded.
    pub(super) fn put_behind(
        &mut self,
        mut compiled: Compiled,
        snapshot: &Snapshot<'_>,
        is_last: bool,
    ) -> Result<Compiled, CompileError> {
        self.is_written = false;
        let others = match is_last && self.book.is_begun() {
            true => Some(Vec::new()),
            false => self.book.others_in(&compiled, snapshot),
        };
        self.follow(in_force(&compiled, snapshot, &[]), snapshot, others);
        if !self.placed.is_empty() {
            let services = Behind {
                book: &mut self.book,
                placed: &self.placed,
                snapshot,
            };
            services.write(&mut compiled)?;
        }
        self.is_written = true;
        Ok(compiled)
    }

    /// Returns `true` if the last table that this has made serves another inventory as well,
    /// with these entries added to it.
    pub(super) fn serves(
        &mut self,
        compiled: &Compiled,
        snapshot: &Snapshot<'_>,
        added: &[SlotEntry],
    ) -> bool {
        let serves = self.is_written
            && self.try_follow(in_force(compiled, snapshot, added), snapshot, &[]) == Some(false);
        self.is_written = serves;
        serves
    }

    /// Works out what holds at translated addresses, as little of it as has changed.
    /// `others`: the workloads that the table takes for others than the last one did, where
    /// that is all that they differ in.
    fn follow(
        &mut self,
        in_force: InForce<'_>,
        snapshot: &Snapshot<'_>,
        others: Option<Vec<&Workload>>,
    ) {
        if let Some(others) = others
            && self.try_follow(in_force, snapshot, &others).is_some()
        {
            self.book.slots = slot_words(in_force.compiled, snapshot.limits).to_vec();
            return;
        }
        self.services = Services::new(snapshot.inventory);
        let senders = Senders::new(in_force, local(snapshot));
        self.virtuals = Virtuals::new(&self.services, in_force, senders);
        self.book = Book::new(in_force.compiled, snapshot.limits);
        self.place_all(in_force, snapshot);
    }

    /// Does so where not everything has to be worked out again, and says if anything is
    /// different in the table; `None`, and nothing holds, where everything has.
    fn try_follow(
        &mut self,
        in_force: InForce<'_>,
        snapshot: &Snapshot<'_>,
        others: &[&Workload],
    ) -> Option<bool> {
        if *self.virtuals.senders() != Senders::new(in_force, local(snapshot)) {
            self.book = Book::default();
            return None;
        }
        let Some(mut moved) = self.services.follow(snapshot.inventory) else {
            self.book = Book::default();
            return None;
        };
        self.services.touch(others.iter().copied(), &mut moved);
        self.virtuals.follow(&self.services, in_force, &moved);
        if self.book.is_worn(&self.placed) {
            self.book = Book::new(in_force.compiled, snapshot.limits);
            self.place_all(in_force, snapshot);
            return Some(true);
        }
        let mut is_different = false;
        let nodes: Vec<IpAddr> = match moved.node_ports.is_empty() {
            true => Vec::new(),
            false => nodes(snapshot.inventory)
                .map(|(address, _)| address)
                .collect(),
        };
        for address in moved.addresses.into_iter().chain(nodes) {
            is_different |= self.place(in_force, snapshot, address);
        }
        Some(is_different)
    }

    /// Finds the kinds of all translated addresses.
    fn place_all(&mut self, in_force: InForce<'_>, snapshot: &Snapshot<'_>) {
        self.placed = Placed::default();
        let virtuals: Vec<IpAddr> = self.services.virtual_addresses().collect();
        let nodes = nodes(snapshot.inventory).map(|(address, _)| address);
        for address in virtuals.into_iter().chain(nodes) {
            self.place(in_force, snapshot, address);
        }
    }

    /// Finds the kind of an address, if it is translated; returns `true` if that is another
    /// one than before.
    fn place(&mut self, in_force: InForce<'_>, snapshot: &Snapshot<'_>, address: IpAddr) -> bool {
        let (services, virtuals) = (&self.services, &self.virtuals);
        if services.is_virtual(address) {
            let atom = in_force.compiled.atoms.of_virtual();
            let kind = self
                .book
                .kind(atom, virtuals.ports_of(address), virtuals, false);
            return self.placed.virtuals.insert(address, kind.clone()) != Some(kind);
        }
        let was_virtual = self.placed.virtuals.remove(&address).is_some();
        let Some(Holder::Node(node, _)) = snapshot.inventory.holders().get(&address) else {
            return self.placed.nodes.remove(&address).is_some() || was_virtual;
        };
        // A port of the address itself comes before the same port of every node.
        let of_all = virtuals.ports_of_nodes(family_of(address));
        let ports: BTreeMap<Port, &Arc<Entry>> = of_all.chain(virtuals.ports_of(address)).collect();
        if ports.is_empty() {
            return self.placed.nodes.remove(&address).is_some() || was_virtual;
        }
        let is_own = Some(&**node) == snapshot.own_node;
        let atom = in_force.profile(address).atom;
        let kind = self.book.kind(atom, ports, virtuals, !is_own);
        self.placed.nodes.insert(address, kind.clone()) != Some(kind) || was_virtual
    }
}

/// The workloads with an endpoint on this node.
fn local<'s>(snapshot: &Snapshot<'s>) -> impl Iterator<Item = &'s Workload> {
    let workloads = snapshot.inventory.workloads();
    (snapshot.local.iter()).filter_map(|name| workloads.get(name))
}

impl Placed {
    fn is_empty(&self) -> bool {
        self.virtuals.is_empty() && self.nodes.is_empty()
    }
}

fn in_force<'a>(
    compiled: &'a Compiled,
    snapshot: &'a Snapshot<'_>,
    added: &'a [SlotEntry],
) -> InForce<'a> {
    InForce {
        compiled,
        plan: snapshot.slots,
        added,
        here: snapshot.own_node.map(|node| (node, snapshot.local)),
    }
}

/// The addresses of nodes, and the node's name.
fn nodes(inventory: &Inventory) -> impl Iterator<Item = (IpAddr, &str)> {
    let nodes = inventory.nodes().values();
    let addresses = nodes.flat_map(|node| node.addresses.iter().copied());
    addresses.filter_map(|address| match inventory.holders().get(&address) {
        Some(Holder::Node(name, _)) => Some((address, &**name)),
        _ => None,
    })
}

impl Book {
    fn new(compiled: &Compiled, limits: Limits) -> Self {
        Self {
            words: told_by(compiled, limits),
            slots: slot_words(compiled, limits).to_vec(),
            own_classes: compiled.own_classes,
            ..Self::default()
        }
    }

    /// Returns `true` if this is of some table.
    fn is_begun(&self) -> bool {
        !self.words.is_empty()
    }

    /// The workloads that a table takes for others than the table of this did; `None` if they
    /// differ in more than that.
    fn others_in<'s>(
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
    fn is_worn(&self, placed: &Placed) -> bool {
        let is_used = |(entry, _): &&(Weak<Entry>, ColumnNumber)| entry.strong_count() > 0;
        let used = || self.by_entry.values().filter(is_used).count();
        let addresses = placed.virtuals.len() + placed.nodes.len();
        self.kinds.len() > 2 * addresses + 64
            || self.by_entry.len() > 64 && self.by_entry.len() > 2 * used()
    }

    /// The kind of an address with these ports. `is_elsewhere`: the address is another
    /// node's, and nothing here sees what it is translated to.
    fn kind<'e>(
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
        let mut reached = vec![[None::<Reached>; 2]; self.own_classes as usize];
        for (sender, outcome) in virtuals.kinds().iter().zip(&entry.outcomes) {
            let of_class = &mut reached[sender.class as usize];
            for (known, one) in of_class.iter_mut().zip([outcome.enforced, outcome.audited]) {
                *known = Some(known.map_or(one, |known| known.or(one)));
            }
        }
        // A class that no workload has asks nothing, and has the word of a broken table.
        let words = reached
            .into_iter()
            .map(|both| both.map(|reached| reached.map_or(0, |one| word(one, is_elsewhere))));
        let column: Column = words.collect();
        let next = number(self.columns.len());
        let found = *self.column_numbers.entry(column.clone()).or_insert(next);
        if found == next {
            self.columns.push(column);
        }
        self.by_entry.insert(key, (Arc::downgrade(entry), found));
        found
    }

    /// The ports of Services that some class is denied for want of a hook behind it.
    fn unseen(&self, placed: &Placed) -> Vec<UnseenPort> {
        let denied = Verdict::deny(Reason::VirtualUndecided).to_word();
        let is_unseen = |column: ColumnNumber| {
            let mut words = self.columns[column as usize].iter();
            words.any(|[enforced, _]| enforced & !row_flag::ALL == denied)
        };
        let all = placed.virtuals.iter().chain(&placed.nodes);
        let ports =
            all.flat_map(|(address, kind)| kind.ports.iter().map(move |port| (*address, port)));
        let unseen = ports.filter(|(_, (_, column))| is_unseen(*column));
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
    fn rows_of(&mut self, base: &Reader<'_>, kind: &Kind) -> Result<RowsByClass, CompileError> {
        if let Some(known) = self.kinds.get(kind) {
            return Ok(known.clone());
        }
        let mut rows = Vec::with_capacity(self.own_classes as usize);
        // Classes that are treated differently, each with its row.
        let mut met: Vec<(u32, u32)> = Vec::new();
        for class in 0..self.own_classes {
            let below = base.row_at(class, Direction::Egress, kind.atom);
            let columns = &self.columns;
            let words = |class: u32| {
                let ports = kind.ports.iter();
                ports.map(move |(_, column)| columns[*column as usize][class as usize])
            };
            // Most classes are treated alike.
            let like = |(other, row): &(u32, u32)| {
                (base.row_at(*other, Direction::Egress, kind.atom) == below
                    && words(*other).eq(words(class)))
                .then_some(*row)
            };
            if let Some(row) = met.iter().find_map(like) {
                rows.push(row);
                continue;
            }
            let ports = kind.ports.iter().zip(words(class));
            let over: Over = ports
                .map(|(((protocol, port), _), words)| (row_key(protocol.number(), *port), words))
                .collect();
            let row = self.row_over(base, below, over)?;
            met.push((class, row));
            rows.push(row);
        }
        let rows: RowsByClass = rows.into();
        self.kinds.insert(kind.clone(), rows.clone());
        Ok(rows)
    }

    /// The row with these verdicts over another one.
    fn row_over(&mut self, base: &Reader<'_>, below: u32, over: Over) -> Result<u32, CompileError> {
        let key = (below, over);
        if let Some(known) = self.over.get(&key) {
            return Ok(*known);
        }
        let words: Arc<[u32]> = put_over(base.intervals(below), &key.1)?.into();
        let next = number(self.rows.len());
        let row = *self.row_numbers.entry(words.clone()).or_insert(next);
        if row == next {
            self.rows.push(words);
        }
        self.over.insert(key, row);
        Ok(row)
    }
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
fn slot_words(compiled: &Compiled, limits: Limits) -> &[u32] {
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
    over: &[(u32, [u32; 2])],
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
        while let Some((key, words)) = over.next_if(|(key, _)| *key < end) {
            push(*key, *words);
            if key + 1 < end {
                push(key + 1, [*enforced, *audited]);
            }
        }
    }
    rows::bounded_words(&intervals)
}

/// Writes what is put behind a table.
struct Behind<'a> {
    book: &'a mut Book,
    placed: &'a Placed,
    snapshot: &'a Snapshot<'a>,
}

/// A value that is written once, by its number.
struct Once<T> {
    all: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Once<T> {
    fn new() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    fn insert(&mut self, value: T) -> u32 {
        let next = number(self.all.len());
        let found = *self.numbers.entry(value.clone()).or_insert(next);
        if found == next {
            self.all.push(value);
        }
        found
    }
}

impl Behind<'_> {
    fn write(self, compiled: &mut Compiled) -> Result<(), CompileError> {
        let limits = &self.snapshot.limits;
        let base = compiled.reader();
        // Numbers of kinds, from 1.
        let mut kinds: Once<&Kind> = Once::new();
        let mut number_of = |kind| kinds.insert(kind) + 1;
        let virtuals: Vec<(IpAddr, u32)> = (self.placed.virtuals.iter())
            .map(|(address, kind)| (*address, number_of(kind)))
            .collect();
        let nodes: Vec<(IpAddr, u32)> = (self.placed.nodes.iter())
            .map(|(address, kind)| (*address, number_of(kind)))
            .collect();
        let mut rows = Vec::with_capacity(kinds.all.len() + 1);
        // Nothing has number 0.
        let nothing = Kind {
            atom: compiled.atoms.of_virtual(),
            ports: Box::default(),
        };
        for kind in std::iter::once(&nothing).chain(kinds.all.iter().copied()) {
            rows.push(self.book.rows_of(&base, kind)?);
        }

        // Rows are numbered in the order in which they are met.
        let mut met: Once<u32> = Once::new();
        let mut blocks: Once<[u32; BLOCK_WORDS as usize]> = Once::new();
        let mut groups: Once<Box<[u32]>> = Once::new();
        let classes: Vec<u32> = (0..self.book.own_classes as usize)
            .map(|class| {
                let of_class = rows.chunks(BLOCK_WORDS as usize).map(|kinds| {
                    let mut block = [0; BLOCK_WORDS as usize];
                    for (at, row) in block.iter_mut().enumerate() {
                        let rows = kinds.get(at).unwrap_or(&rows[0]);
                        *row = met.insert(rows[class]);
                    }
                    blocks.insert(block)
                });
                groups.insert(of_class.collect())
            })
            .collect();

        let profiles = Profiles::new(compiled, self.snapshot, &virtuals, &nodes)?;
        let trees = profiles.trees(compiled, &virtuals)?;
        let old_classes = base.header(header::CLASS_COUNT);
        let class_count = u64::from(old_classes) + classes.len() as u64;
        if class_count > u64::from(MAX_CLASS) + 1 {
            return Err(CompileError::Capacity {
                table: "classes",
                used: class_count,
                max: MAX_CLASS.into(),
            });
        }

        let mut words = Appended {
            words: compiled.words[..base.header(header::WORDS) as usize].to_vec(),
        };
        let blocks_at = words.align(BLOCK_WORDS as usize);
        words.extend(std::iter::repeat_n(
            0,
            blocks.all.len() * BLOCK_WORDS as usize,
        ));
        let ranges_at = words.align(RANGE_NODE_WORDS as usize);
        words.extend(trees.words(number(ranges_at)));
        let profiles_at = words.align(PROFILE_WORDS as usize);
        // Number 0 is that of spare slots.
        words.extend([0; PROFILE_WORDS as usize]);
        words.extend(profiles.all.iter().flat_map(|profile| profile.to_words()));
        let classes_at = words.align(1);
        let old = base.header(header::CLASSES) as usize;
        let old = old..old + (old_classes * CLASS_WORDS) as usize;
        words.extend(compiled.words[old].iter().copied());
        let mut groups_at = Vec::with_capacity(groups.all.len());
        let mut at = classes_at + class_count as usize * CLASS_WORDS as usize;
        for list in &groups.all {
            groups_at.push(number(at));
            at += list.len();
        }
        for groups in &classes {
            words.extend([groups_at[*groups as usize]; CLASS_WORDS as usize]);
        }
        for block in groups.all.iter().flatten() {
            words.extend([number(blocks_at) + block * BLOCK_WORDS]);
        }
        let mut rows_at = Vec::with_capacity(met.all.len());
        for row in &met.all {
            rows_at.push(words.row(&self.book.rows[*row as usize]));
        }
        for (at, row) in (blocks_at..).zip(blocks.all.iter().flatten()) {
            words.words[at] = rows_at[*row as usize];
        }

        let mut words = words.words;
        let used = words.len();
        let pages = used.div_ceil(PAGE_WORDS);
        if pages as u64 > limits.table_pages.into() {
            return Err(pages_error(pages as u64, limits));
        }
        words.resize(pages * PAGE_WORDS, 0);
        let [v4, v6] = trees.roots(number(ranges_at));
        let atoms = base.header(header::ATOM_COUNT).max(number(rows.len()));
        for (word, value) in [
            (header::CLASSES, number(classes_at)),
            (header::CLASS_COUNT, number(class_count as usize)),
            (header::SERVICE_CLASSES, old_classes),
            (header::ATOM_COUNT, atoms),
            (header::RANGES_V4, v4),
            (header::RANGES_V6, v6),
            (header::WORDS, number(used)),
            (header::PROFILES, number(profiles_at)),
            (header::PROFILE_COUNT, number(profiles.all.len() + 1)),
        ] {
            words[word] = value;
        }
        for (slot, profile) in &profiles.slots {
            let (at, shift) = slot_place(*slot);
            let word = &mut words[at as usize];
            *word = *word & !(0xffff << shift) | (profile + 1) << shift;
        }
        let added = used - base.header(header::WORDS) as usize;
        compiled.unseen = self.book.unseen(self.placed);
        compiled.words = words;
        compiled.count_services(virtuals.len() + nodes.len(), added, pages);
        compiled.profiles = profiles.all;
        Ok(())
    }
}

/// Words that grow at their end.
struct Appended {
    words: Vec<u32>,
}

impl Appended {
    fn align(&mut self, to: usize) -> usize {
        self.words.resize(self.words.len().next_multiple_of(to), 0);
        self.words.len()
    }

    fn extend(&mut self, words: impl IntoIterator<Item = u32>) {
        self.words.extend(words);
    }

    /// Adds a row, and returns its offset: it lies within a page.
    fn row(&mut self, row: &[u32]) -> u32 {
        if self.words.len() % PAGE_WORDS + row.len() > PAGE_WORDS {
            self.align(PAGE_WORDS);
        }
        let at = number(self.words.len());
        self.words.extend_from_slice(row);
        at
    }
}

/// The profiles of a table with those of translated addresses behind.
struct Profiles {
    all: Vec<Profile>,
    /// Slots, and the index of each one's profile.
    slots: Vec<(u32, u32)>,
    /// For each number of a virtual address its slot; 0 if none has it.
    slot_of: Vec<u32>,
}

impl Profiles {
    fn new(
        compiled: &Compiled,
        snapshot: &Snapshot<'_>,
        virtuals: &[(IpAddr, u32)],
        nodes: &[(IpAddr, u32)],
    ) -> Result<Self, CompileError> {
        let mut all = compiled.profiles.clone();
        let mut known: HashMap<Profile, u32> = HashMap::new();
        let mut add = |profile: Profile| {
            *known.entry(profile).or_insert_with(|| {
                all.push(profile);
                number(all.len() - 1)
            })
        };
        let highest = snapshot.slots.highest();
        // Below the slots of outside addresses, which count downwards.
        let lowest = compiled.outside.iter().map(|set| set.slot).min();
        let mut next = lowest.unwrap_or(snapshot.limits.slots) - 1;
        let numbers = virtuals.iter().chain(nodes).map(|(_, number)| *number);
        let mut slot_of = vec![0; numbers.max().map_or(0, |last| last as usize + 1)];
        let mut slots = Vec::new();
        for (_, number) in virtuals {
            let slot = &mut slot_of[*number as usize];
            if *slot != 0 {
                continue;
            }
            if next <= highest {
                return Err(CompileError::Capacity {
                    table: SLOTS,
                    used: snapshot.limits.slots.into(),
                    max: snapshot.limits.slots.saturating_sub(1).into(),
                });
            }
            *slot = next;
            next -= 1;
            let profile = add(Profile {
                kind: SlotKind::Virtual,
                class: *number,
                atom: compiled.atoms.of_virtual(),
            });
            slots.push((*slot, profile));
        }
        for (address, number) in nodes {
            let Some((slot, profile)) = compiled.slot_of(snapshot.slots, *address) else {
                continue;
            };
            let profile = add(Profile {
                class: *number,
                ..profile
            });
            slots.push((slot, profile));
        }
        if all.len() >= MAX_PROFILES as usize {
            return Err(CompileError::Capacity {
                table: "profiles",
                used: all.len() as u64,
                max: u64::from(MAX_PROFILES) - 1,
            });
        }
        Ok(Self {
            all,
            slots,
            slot_of,
        })
    }

    /// The trees of all addresses that nothing owns, virtual ones among them.
    fn trees(
        &self,
        compiled: &Compiled,
        virtuals: &[(IpAddr, u32)],
    ) -> Result<RangeTrees, CompileError> {
        let (v4, v6) = super::range_slots(&compiled.atoms, |class| {
            compiled.outside[class as usize].slot
        });
        let mut own_v4 = Vec::new();
        let mut own_v6 = Vec::new();
        for (address, number) in virtuals {
            let slot = self.slot_of[*number as usize];
            match address {
                IpAddr::V4(address) => own_v4.push((u32::from(*address), slot)),
                IpAddr::V6(address) => own_v6.push((u128::from(*address), slot)),
            }
        }
        RangeTrees::new(
            &with_points(&v4, &own_v4, |one| one.checked_add(1)),
            &with_points(&v6, &own_v6, |one| one.checked_add(1)),
        )
    }
}

/// Ranges, by their starts, with single addresses that lead elsewhere. Both are ascending,
/// and the first range starts at 0.
fn with_points<T: Copy + Ord>(
    ranges: &[(T, u32)],
    points: &[(T, u32)],
    next: impl Fn(T) -> Option<T>,
) -> Vec<(T, u32)> {
    let mut all: BTreeMap<T, u32> = ranges.iter().copied().collect();
    for (point, _) in points {
        if let Some(after) = next(*point)
            && let Some((_, slot)) = all
                .range(..=after)
                .next_back()
                .map(|(at, slot)| (*at, *slot))
        {
            all.entry(after).or_insert(slot);
        }
    }
    all.extend(points.iter().copied());
    all.into_iter().collect()
}
