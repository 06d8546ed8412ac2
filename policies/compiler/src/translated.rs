//! Rows of translated addresses, put behind a table that knows none.
//!
//! The hook of a sender sees the address of a Service. What it may do there is worked out
//! by `virtuals`; here it becomes part of the table. Every virtual address, and every node
//! whose ports lead to Services, has a number, equal ones the same; for each class of this
//! node and each number there is a row: that of the address as it is, with the ports of
//! Services put over it. A workload whose address a Service has too is judged as itself, and
//! marked in its profile: what a proxy makes of a packet there is judged again. The words come
//! behind those of the table, and header, profiles and ranges are written again there: a table
//! whose Services change keeps all its other words.
//!
//! Invariants: the same inventory comes to the same words, whatever was made before; a
//! table with what is put behind it says of every other address what it says without.

mod book;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::services::{Moved, Services};
use cofferdam_inventory::{Holder, Inventory, ObjectName, Owner, Workload, family_of};
use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::table::{
    BLOCK_WORDS, CLASS_WORDS, MAX_CLASS, MAX_PROFILES, PAGE_WORDS, PROFILE_WORDS, Profile,
    RANGE_NODE_WORDS, SlotKind, header, slot_place,
};

use super::range_tree::RangeTrees;
use super::signatures::number;
use super::virtuals::{Entry, Port};
use super::{
    CompileError, Compiled, InForce, SLOTS, Senders, SlotEntry, Snapshot, Virtuals, pages_error,
};

use book::{Book, Kind, slot_words};

/// Rows of translated addresses, kept from one table to the next.
#[derive(Debug, Default)]
pub(super) struct Translated {
    services: Services,
    virtuals: Virtuals,
    book: Book,
    placed: Placed,
    /// Backends are where the Services have them.
    is_resolved: bool,
    /// The workloads that have an endpoint here.
    local: BTreeSet<ObjectName>,
    own_node: Option<Box<str>>,
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
    /// Workloads' addresses that Services have too.
    shared: BTreeSet<IpAddr>,
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
        let senders = Senders::new(in_force, local(snapshot));
        // The table is another one; who is behind Services may be as it was all the same.
        match self.moved(snapshot) {
            Some(moved) => {
                (self.virtuals).decide_anew(&self.services, in_force, senders, &moved);
            }
            None => self.virtuals = Virtuals::new(&self.services, in_force, senders),
        }
        self.is_resolved = true;
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
        let Some(mut moved) = self.moved(snapshot) else {
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

    /// Goes over to the desired state, and says what moved; `None` when all of it may have.
    fn moved(&mut self, snapshot: &Snapshot<'_>) -> Option<Moved> {
        let is_same_node = self.own_node.as_deref() == snapshot.own_node;
        let turned = self.local.symmetric_difference(snapshot.local);
        let turned: Vec<ObjectName> = turned.cloned().collect();
        self.local = snapshot.local.clone();
        self.own_node = snapshot.own_node.map(Box::from);
        let moved = self
            .services
            .follow(snapshot.inventory)
            .filter(|_| self.is_resolved && is_same_node);
        self.is_resolved = moved.is_some();
        let mut moved = moved?;
        let pods = snapshot.inventory.workloads();
        let turned = turned.iter().filter_map(|name| pods.get(name));
        self.services.touch(turned, &mut moved);
        Some(moved)
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
        let has_service = services.at(address).next().is_some();
        let is_workloads = matches!(snapshot.inventory.owner(address), Some(Owner::Workload(_)));
        let has_turned = match has_service && is_workloads {
            true => self.placed.shared.insert(address),
            false => self.placed.shared.remove(&address),
        };
        if services.is_virtual(address) {
            let atom = in_force.compiled.atoms.of_virtual();
            let kind = self
                .book
                .kind(atom, virtuals.ports_of(address), virtuals, false);
            return self.placed.virtuals.insert(address, kind.clone()) != Some(kind) || has_turned;
        }
        let was_virtual = self.placed.virtuals.remove(&address).is_some();
        let is_other = was_virtual || has_turned;
        let Some(Holder::Node(node, _)) = snapshot.inventory.holders().get(&address) else {
            return self.placed.nodes.remove(&address).is_some() || is_other;
        };
        // A port of the address itself comes before the same port of every node.
        let of_all = virtuals.ports_of_nodes(family_of(address));
        let ports: BTreeMap<Port, &Arc<Entry>> = of_all.chain(virtuals.ports_of(address)).collect();
        if ports.is_empty() {
            return self.placed.nodes.remove(&address).is_some() || is_other;
        }
        let is_own = Some(&**node) == snapshot.own_node;
        let atom = in_force.profile(address).atom;
        let kind = self.book.kind(atom, ports, virtuals, !is_own);
        self.placed.nodes.insert(address, kind.clone()) != Some(kind) || is_other
    }
}

/// The workloads with an endpoint on this node.
fn local<'s>(snapshot: &Snapshot<'s>) -> impl Iterator<Item = &'s Workload> {
    let workloads = snapshot.inventory.workloads();
    (snapshot.local.iter()).filter_map(|name| workloads.get(name))
}

impl Placed {
    fn is_empty(&self) -> bool {
        self.virtuals.is_empty() && self.nodes.is_empty() && self.shared.is_empty()
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

/// Rows that are written, numbered in the order in which they are met.
struct Met {
    all: Vec<u32>,
    /// Numbers from 1 by rows; 0 of a row that was not met.
    numbers: Vec<u32>,
}

impl Met {
    /// None of so many rows was met.
    fn new(rows: usize) -> Self {
        Self {
            all: Vec::new(),
            numbers: vec![0; rows],
        }
    }

    fn number(&mut self, row: u32) -> u32 {
        let known = &mut self.numbers[row as usize];
        if *known == 0 {
            self.all.push(row);
            *known = number(self.all.len());
        }
        *known - 1
    }
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

        let mut met = Met::new(self.book.rows.len());
        let mut blocks: Once<[u32; BLOCK_WORDS as usize]> = Once::new();
        let mut groups: Once<Box<[u32]>> = Once::new();
        let classes: Vec<u32> = (0..self.book.own_classes as usize)
            .map(|class| {
                let of_class = rows.chunks(BLOCK_WORDS as usize).map(|kinds| {
                    let mut block = [0; BLOCK_WORDS as usize];
                    for (at, row) in block.iter_mut().enumerate() {
                        let rows = kinds.get(at).unwrap_or(&rows[0]);
                        *row = met.number(rows[class]);
                    }
                    blocks.insert(block)
                });
                groups.insert(of_class.collect())
            })
            .collect();

        let shared = &self.placed.shared;
        let profiles = Profiles::new(compiled, self.snapshot, &virtuals, &nodes, shared)?;
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
        let first = base.header(header::CLASSES) as usize;
        let old = first..first + (old_classes * CLASS_WORDS) as usize;
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
        shared: &BTreeSet<IpAddr>,
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
                is_shared: false,
            });
            slots.push((*slot, profile));
        }
        for address in shared {
            let Some((slot, profile)) = compiled.slot_of(snapshot.slots, *address) else {
                continue;
            };
            let profile = add(Profile {
                is_shared: true,
                ..profile
            });
            slots.push((slot, profile));
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
