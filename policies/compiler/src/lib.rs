//! The compiler: the desired state to a decision table.
//!
//! A pure function. What it does, in order, a module each:
//!
//! 1. `facts`, `signatures`: of each workload and node only what some selector or
//!    rule can tell;
//! 2. `subjects`, with `policy`: the policies that apply here, their rules numbered
//!    in the side table ([`RuleTable`]), and the subject classes;
//! 3. `remote`: the ingress of workloads elsewhere from this node's;
//! 4. `peers`, with `ranges` for CIDRs and `partition` for both: the peer atoms;
//! 5. `matrix`, with `rows`: what each class may do with each atom;
//! 6. `owned`, `range_tree` and `layout`: the words;
//! 7. `virtuals` and `translated`: what this node's workloads may do at addresses of
//!    Services, behind all that.
//!
//! Work is in proportion to what policies select, not to the product of policies,
//! rules and workloads: a selector is evaluated once over signatures, a class's
//! rules are joined piece by piece only where one of them speaks of an atom.
//!
//! A [`Compiler`] that has made a table makes the next one faster: it keeps what it
//! found out about owners of addresses that are still the same. [`compile`] is one
//! that knows nothing yet. Of a table that has been made, `additions` says whether it
//! will do for more workloads.
//!
//! The crate must not know documents, nor who asks its tables: no text, no file, no
//! clock, no kernel.
//!
//! Invariants: the same documents give the same words, whatever their order, and
//! whatever the compiler has made before; a table that would exceed a limit is refused
//! whole, with the number that did not fit.

#![forbid(unsafe_code)]

mod additions;
mod facts;
mod layout;
mod matrix;
mod owned;
mod partition;
mod peers;
mod policy;
mod range_tree;
mod ranges;
mod reader;
mod remote;
mod rows;
mod rules;
mod signatures;
mod slots;
mod subjects;
mod translated;
mod virtuals;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::{Inventory, ObjectName, Owner, Workload};
use cofferdam_verdict::address::Address;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::memory::Settings;
use cofferdam_verdict::slices::SliceMemory;
use cofferdam_verdict::table::{
    Decision, DecisionWords, MAX_PROFILES, PROFILE_WORDS, Page, Profile, SLOTS_PER_WORD, SlotKind,
    Table, header,
};
use cofferdam_verdict::verdict::{Direction, MAX_RULE};
use foldhash::{HashMap, HashMapExt as _};
use thiserror::Error;

use facts::FactBook;
use matrix::{Matrix, RowBook};
use owned::{Owned, OwnedSlot};
use peers::{Atoms, PeerLists};
use policy::{NamespacePolicies, PolicyPlaces};
use range_tree::RangeTrees;
use reader::Reader;
use remote::{Remote, RemoteBook};
use rules::RuleNumbers;
use signatures::{KnownSignatures, LastSignatures, Signatures, number};
use subjects::{KnownClasses, Numbering, RuleBook, Subjects};
use translated::Translated;

pub use additions::SlotEntry;
pub use cofferdam_verdict::table::BLOCK_WORDS as ATOMS_PER_BLOCK;
pub use rules::{PolicyKind, RuleEntry, RuleKey, RuleMeaning, RuleTable};
pub use slots::{Slot, SlotPlan, SlotPlanError};
pub use virtuals::{InForce, Outcome, Port, Reached, Senders, Virtuals};

/// Input of a table.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The desired state.
    pub inventory: &'a Inventory,
    /// The slot of every address in it. Slots whose owner no longer has the
    /// address are left spare.
    pub slots: &'a SlotPlan,
    /// Returns `true` for workloads that have an endpoint on this node, and so are subjects.
    pub is_local: &'a dyn Fn(&Workload) -> bool,
    /// The name of this node.
    pub own_node: Option<&'a str>,
    /// Capacity.
    pub limits: Limits,
    /// The number of the table.
    pub revision: u64,
}

/// Reason for which there is no table. The table in force before stays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// Something does not fit.
    #[error(
        "{table}: {used} needed, and there is room for {max}; {}",
        remedy(table, *max)
    )]
    Capacity {
        /// Resource that does not fit.
        table: &'static str,
        /// Number that would be needed; where counting ends early, at least as many.
        used: u64,
        /// Number for which there is room.
        max: u64,
    },
    /// The slot plan does not cover the inventory.
    #[error("address {address} of {owner} has no slot")]
    NoSlot {
        /// The address.
        address: IpAddr,
        /// Owner of the address.
        owner: Owner,
    },
}

/// Name of the limit of slots.
const SLOTS: &str = "slots";
/// Name of the limit of rules.
const RULES: &str = "rules";

/// Returns the remedy for a table that is full.
fn remedy(table: &str, max: u64) -> &'static str {
    match table {
        SLOTS => "raise `limits.slots`",
        "table pages" => "raise `limits.table_pages`",
        RULES if max < MAX_RULE.into() => "raise `limits.rules`",
        _ => "no setting raises that: have fewer different rules",
    }
}

/// Use of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of what.
    pub table: &'static str,
    /// Number in use.
    pub used: u64,
    /// Number for which there is room; for parts of the table, as many as its pages allow.
    pub max: Option<u64>,
    /// Bytes they take in the table.
    pub bytes: u64,
}

/// Addresses that no workload or node owns and that lie in the same CIDRs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideSet {
    /// Its slot.
    pub slot: u32,
    /// Its lowest address.
    pub first: IpAddr,
}

/// A decision table, and what its numbers mean.
#[derive(Debug, Clone)]
pub struct Compiled {
    words: Vec<u32>,
    profiles: Vec<Profile>,
    /// Number of the first profiles, which are in order; those of translated addresses
    /// follow.
    ordinary_profiles: usize,
    signatures: Arc<KnownSignatures>,
    classes: KnownClasses,
    remote_classes: Vec<Option<u32>>,
    /// Number of this node's classes, class 0 included.
    own_classes: u32,
    atoms: Atoms,
    /// The rules that verdicts name.
    pub rules: Arc<RuleTable>,
    /// Sets of outside addresses; their slots count downwards from the top.
    pub outside: Vec<OutsideSet>,
    /// Use of each resource.
    pub usage: Vec<Usage>,
    /// Ports of Services that some workloads here are denied as
    /// [`Reason::VirtualUndecided`](cofferdam_verdict::reason::Reason): policy allows them
    /// some backends, and no hook sees one that it does not.
    pub unseen: Vec<UnseenPort>,
}

/// A port of an address that is translated where no hook of this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnseenPort {
    /// The Service's address, or a node's.
    pub address: IpAddr,
    /// The port.
    pub port: Port,
}

/// Input of a table, when the workloads with an endpoint here are known by name.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The desired state.
    pub inventory: &'a Inventory,
    /// The slot of every address in it. Slots whose owner no longer has the
    /// address are left spare.
    pub slots: &'a SlotPlan,
    /// The workloads that have an endpoint on this node, and so are subjects.
    pub local: &'a BTreeSet<ObjectName>,
    /// The name of this node.
    pub own_node: Option<&'a str>,
    /// Capacity.
    pub limits: Limits,
    /// The number of the table.
    pub revision: u64,
}

/// Compiles a table.
///
/// # Errors
/// A limit that would be exceeded, or an address without a slot.
pub fn compile(input: &Input<'_>) -> Result<Compiled, CompileError> {
    compile_with(Compiler::default(), input)
}

/// Compiles a table that is only asked about what its subjects do: of workloads that
/// are none it knows nothing but that they are peers.
///
/// # Errors
/// A limit that would be exceeded, or an address without a slot.
pub fn compile_subjects(input: &Input<'_>) -> Result<Compiled, CompileError> {
    compile_with(Compiler::of_subjects_alone(), input)
}

fn compile_with(mut compiler: Compiler, input: &Input<'_>) -> Result<Compiled, CompileError> {
    let workloads = input.inventory.workloads().values();
    let local = workloads
        .filter(|workload| (input.is_local)(workload))
        .map(|workload| workload.name.clone())
        .collect();
    compiler.compile(&Snapshot {
        inventory: input.inventory,
        slots: input.slots,
        local: &local,
        own_node: input.own_node,
        limits: input.limits,
        revision: input.revision,
    })
}

/// Makes tables one after the other.
#[derive(Debug, Default)]
pub struct Compiler {
    book: FactBook,
    signatures: Option<LastSignatures>,
    owned: Option<Owned>,
    remote: RemoteBook,
    rows: RowBook,
    rules: RuleBook,
    places: PolicyPlaces,
    translated: Translated,
    last: Option<LastTable>,
    subjects_alone: bool,
}

/// A table without what Services put behind it, and all that it was made of.
#[derive(Debug)]
struct LastTable {
    compiled: Compiled,
    inventory: Inventory,
    slots: SlotPlan,
    local: BTreeSet<ObjectName>,
    own_node: Option<Box<str>>,
    limits: Limits,
}

impl LastTable {
    fn new(compiled: &Compiled, snapshot: &Snapshot<'_>) -> Self {
        Self {
            compiled: compiled.clone(),
            inventory: snapshot.inventory.clone(),
            slots: snapshot.slots.clone(),
            local: snapshot.local.clone(),
            own_node: snapshot.own_node.map(Box::from),
            limits: snapshot.limits,
        }
    }

    /// Returns `true` if nothing but Services, and what is behind them, is different.
    fn is_of_all_but_services(&self, snapshot: &Snapshot<'_>) -> bool {
        let (one, other) = (&self.inventory, snapshot.inventory);
        let slots = self.slots.by_address();
        self.own_node.as_deref() == snapshot.own_node
            && self.limits == snapshot.limits
            && self.local == *snapshot.local
            && one.enforcement() == other.enforcement()
            && one.namespaces() == other.namespaces()
            && one.workloads() == other.workloads()
            && one.nodes() == other.nodes()
            && one.policies() == other.policies()
            && one.cluster_policies() == other.cluster_policies()
            && slots.changes(snapshot.slots.by_address()).is_empty()
    }
}

impl Compiler {
    /// A compiler whose tables know nothing of Services, and of what workloads elsewhere take
    /// in: for questions about the subjects alone.
    fn of_subjects_alone() -> Self {
        Self {
            subjects_alone: true,
            ..Self::default()
        }
    }

    /// Compiles a table.
    ///
    /// # Errors
    /// A limit that would be exceeded, or an address without a slot.
    pub fn compile(&mut self, snapshot: &Snapshot<'_>) -> Result<Compiled, CompileError> {
        let inventory = snapshot.inventory;
        let limits = &snapshot.limits;
        if let Some(last) = &self.last
            && !inventory.services().is_empty()
            && last.is_of_all_but_services(snapshot)
        {
            let compiled = last.compiled.renumbered(snapshot.revision);
            return self.translated.put_behind(compiled, snapshot, true);
        }
        let highest = snapshot.slots.highest();
        if highest > limits.slots.saturating_sub(1) {
            return Err(CompileError::Capacity {
                table: SLOTS,
                used: highest.into(),
                max: limits.slots.saturating_sub(1).into(),
            });
        }
        let mut signatures = Signatures::new(inventory, &mut self.book, &mut self.signatures);
        let mut owned = Owned::new(snapshot, &signatures, self.owned.take())?;

        let mut lists = PeerLists::default();
        let mut numbers = RuleNumbers::new(limits);
        let policies = NamespacePolicies::new(inventory, &mut self.places);
        let mut remote = match self.subjects_alone {
            true => Remote::default(),
            false => {
                let book = &mut self.remote;
                Remote::new(inventory, &mut signatures, &owned, &policies, book)?
            }
        };
        let subjects = Subjects::new(
            inventory,
            &mut signatures,
            owned.local_signatures(),
            &remote,
            &policies,
            Numbering {
                lists: &mut lists,
                numbers: &mut numbers,
                book: &mut self.rules,
            },
        )?;
        let ranges = lists.ranges();
        let slots = owned.with_ranges(&ranges);
        let atoms = Atoms::new(
            &lists,
            ranges,
            &mut signatures,
            &subjects.egress_names,
            std::mem::take(&mut remote.lots),
            slots,
        );

        let max_words = u64::from(limits.table_pages) * size_of::<Page>() as u64 / 4;
        let mut matrix = Matrix::new(
            &subjects,
            &remote,
            &atoms,
            &mut numbers,
            &mut self.rows,
            max_words,
        )?;
        let (outside, trees) = outside_sets(&atoms, highest, limits)?;
        let (slots, profiles) = slot_profiles(slots, &outside, &subjects, &matrix, &atoms)?;
        let content = layout::Content {
            revision: snapshot.revision,
            slots: &slots,
            profiles: &profiles,
            atoms: atoms.count(),
            matrix: &matrix,
            ranges: &trees,
        };
        let (words, used_words) = layout::write(&content, limits)?;
        let used_rules = numbers.used();
        let usage = usage(limits, used_rules, &content, used_words);
        let remote_classes = std::mem::take(&mut matrix.remote_classes);
        let own_classes = matrix.own_classes();
        self.rows.keep(matrix, &subjects, &atoms, &numbers);
        let rules = numbers.finish();
        if self.book.tidy(signatures.facts_in_use()) {
            self.remote = RemoteBook::default();
            self.rules = RuleBook::default();
            self.signatures = None;
        }
        self.owned = Some(owned);
        let compiled = Compiled {
            words,
            ordinary_profiles: profiles.len(),
            profiles,
            signatures: signatures.known().clone(),
            classes: subjects.into_known(),
            remote_classes,
            atoms,
            rules: Arc::new(rules),
            own_classes,
            outside,
            usage,
            unseen: Vec::new(),
        };
        if self.subjects_alone || inventory.services().is_empty() {
            self.translated = Translated::default();
            self.last = None;
            return Ok(compiled);
        }
        self.last = Some(LastTable::new(&compiled, snapshot));
        self.translated.put_behind(compiled, snapshot, false)
    }

    /// The entries by which a table of this compiler's, as it is for one desired state,
    /// becomes one for the next; `None` when only another table will do. See
    /// [`Compiled::additions`]. The table must be the last one that was made.
    pub fn additions(
        &mut self,
        compiled: &Compiled,
        inventory: &Inventory,
        local: &BTreeSet<ObjectName>,
        after: &Snapshot<'_>,
    ) -> Option<Vec<SlotEntry>> {
        let mut entries = compiled.additions(inventory, local, after)?;
        entries.sort_unstable();
        let no_services = inventory.services().is_empty() && after.inventory.services().is_empty();
        let serves = no_services || self.translated.serves(compiled, after, &entries);
        serves.then_some(entries)
    }
}

/// A slot for every class of address ranges, downwards from the top, and the trees
/// that lead there.
fn outside_sets(
    atoms: &Atoms,
    highest: u32,
    limits: &Limits,
) -> Result<(Vec<OutsideSet>, RangeTrees), CompileError> {
    let classes = atoms.class_firsts();
    let room = u64::from(limits.slots.saturating_sub(1).saturating_sub(highest));
    if classes.len() as u64 > room {
        return Err(CompileError::Capacity {
            table: SLOTS,
            used: u64::from(highest) + classes.len() as u64,
            max: limits.slots.saturating_sub(1).into(),
        });
    }
    let slot_of = |class: u32| limits.slots - 1 - class;
    let ranges = atoms.ranges();
    let outside = (0..number(classes.len()))
        .map(|class| OutsideSet {
            slot: slot_of(class),
            first: ranges.first_address(classes[class as usize]),
        })
        .collect();
    let (v4, v6) = range_slots(atoms, slot_of);
    Ok((outside, RangeTrees::new(&v4, &v6)?))
}

/// Ranges of a family by their first addresses, each with its slot.
type RangeSlots<T> = Vec<(T, u32)>;

/// The ranges of both families, by the slot of each class.
fn range_slots(atoms: &Atoms, slot_of: impl Fn(u32) -> u32) -> (RangeSlots<u32>, RangeSlots<u128>) {
    let ranges = atoms.ranges();
    let (v4, v6) = atoms.range_classes().split_at(ranges.v4_starts().len());
    let v4 = ranges.v4_starts().iter().zip(v4);
    let v6 = ranges.v6_starts().iter().zip(v6);
    (
        v4.map(|(start, class)| (*start, slot_of(*class))).collect(),
        v6.map(|(start, class)| (*start, slot_of(*class))).collect(),
    )
}

/// Says that a table does not fit.
fn pages_error(used: u64, limits: &Limits) -> CompileError {
    CompileError::Capacity {
        table: "table pages",
        used,
        max: limits.table_pages.into(),
    }
}

/// A slot, and the index of its profile.
type SlotProfile = (u32, u32);

/// The profiles of all slots in use, each once and in order, and for each slot which
/// of them it has.
fn slot_profiles(
    owned: &[OwnedSlot],
    outside: &[OutsideSet],
    subjects: &Subjects,
    matrix: &Matrix,
    atoms: &Atoms,
) -> Result<(Vec<SlotProfile>, Vec<Profile>), CompileError> {
    let mut numbers: HashMap<Profile, u32> = HashMap::new();
    let mut slots = Vec::with_capacity(owned.len() + outside.len());
    let mut number_of = |profile: Profile| {
        let next = number(numbers.len());
        *numbers.entry(profile).or_insert(next)
    };
    // Most addresses of one signature lie in one class of ranges.
    let signatures = owned.iter().map(|slot| slot.signature as usize + 1).max();
    let mut last = vec![[(u32::MAX, 0); 2]; signatures.unwrap_or(0)];
    let mut own = 0u32..;
    for slot in owned {
        let atom = match slot.kind {
            SlotKind::LocalWorkload => own.next().map(|position| atoms.of_own(position)),
            _ => None,
        };
        // What else an atom of an own address follows from, it says itself.
        let key = atom.unwrap_or_else(|| atoms.range_classes()[slot.range as usize]);
        // A signature is one of workloads or of nodes, of which some are here.
        let is_here = matches!(slot.kind, SlotKind::LocalWorkload | SlotKind::OwnNode);
        let last = &mut last[slot.signature as usize][usize::from(is_here)];
        let profile = match *last {
            (before, profile) if before == key => profile,
            _ => {
                let class = match slot.kind {
                    SlotKind::LocalWorkload => subjects.class_of(slot.signature),
                    SlotKind::RemoteWorkload => {
                        matrix.remote_classes[slot.signature as usize].unwrap_or(0)
                    }
                    _ => 0,
                };
                let profile = number_of(Profile {
                    kind: slot.kind,
                    class,
                    atom: atom.unwrap_or_else(|| atoms.of_other(slot.range, slot.signature)),
                    is_shared: false,
                });
                *last = (key, profile);
                profile
            }
        };
        slots.push((slot.number, profile));
    }
    for (class, set) in (0u32..).zip(outside) {
        let profile = number_of(Profile {
            kind: SlotKind::Outside,
            class: 0,
            atom: atoms.of_outside(class),
            is_shared: false,
        });
        slots.push((set.slot, profile));
    }
    let mut profiles: Vec<(Profile, u32)> = numbers.into_iter().collect();
    profiles.sort_unstable();
    let mut in_order = vec![0; profiles.len()];
    for (index, (_, found)) in (0u32..).zip(&profiles) {
        in_order[*found as usize] = index;
    }
    for (_, profile) in &mut slots {
        *profile = in_order[*profile as usize];
    }
    let profiles = profiles.into_iter().map(|(profile, _)| profile).collect();
    Ok((slots, layout::checked(profiles)?))
}

fn usage(
    limits: &Limits,
    rules: usize,
    content: &layout::Content<'_>,
    used_words: usize,
) -> Vec<Usage> {
    let (matrix, trees) = (content.matrix, content.ranges);
    let (slots, profiles) = (content.slots.len(), content.profiles.len());
    let rows = matrix.rows.all();
    let row_words: usize = rows.iter().map(|row| row.len()).sum();
    let blocks = matrix.blocks.all();
    let groups: usize = matrix.groups.all().iter().map(|list| list.len()).sum();
    let usage = |table, used: usize, max: Option<u64>, words: usize| Usage {
        table,
        used: used as u64,
        max,
        bytes: words as u64 * 4,
    };
    let pages = used_words.div_ceil(size_of::<Page>() / 4);
    vec![
        usage(RULES, rules, Some(limits.max_rule().into()), 0),
        usage(
            SLOTS,
            slots,
            Some(limits.slots.saturating_sub(1).into()),
            limits.slots.div_ceil(SLOTS_PER_WORD) as usize,
        ),
        usage(
            "profiles",
            profiles,
            Some(u64::from(MAX_PROFILES) - 1),
            (profiles + 1) * PROFILE_WORDS as usize,
        ),
        usage(
            "classes",
            matrix.classes.len(),
            None,
            matrix.classes.len() * 2,
        ),
        usage("atoms", content.atoms as usize, None, 0),
        usage("groups", groups, None, groups),
        usage("blocks", blocks.len(), None, blocks.len() * 64),
        usage("rows", rows.len(), None, row_words),
        usage("range_nodes", trees.length() / 32, None, trees.length()),
        usage(
            "table_pages",
            pages,
            Some(limits.table_pages.into()),
            pages * (size_of::<Page>() / 4),
        ),
    ]
}

impl Compiled {
    /// The table, page by page.
    #[must_use]
    pub fn pages(&self) -> &[Page] {
        self.words.as_chunks().0
    }

    /// Asks the table by the code that the kernel runs. `None` when it contradicts
    /// itself.
    fn table<T>(&self, ask: impl FnOnce(&Table<'_, SliceMemory<'_>>) -> Option<T>) -> Option<T> {
        let settings = Settings::default();
        let memory = SliceMemory {
            settings: &settings,
            table: self.pages(),
            buckets: [&[]; 3],
            address_blocks: &[],
            endpoints: &[],
            bindings: &[],
        };
        ask(&Table::open(&memory)?)
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.words)
    }

    /// The row of a subject class towards a peer atom; `None` if the table has not both.
    #[must_use]
    pub fn row(&self, class: u32, direction: Direction, atom: u32) -> Option<u32> {
        self.reader().row(class, direction, atom)
    }

    /// The blocks of a class's rows, one for each [`ATOMS_PER_BLOCK`] atoms in their order:
    /// where classes have the same block, they have the same rows.
    pub fn blocks(&self, class: u32, direction: Direction) -> Option<&[u32]> {
        self.reader().blocks(class, direction)
    }

    /// The rows of a block that [`Self::blocks`] has, one for each of its atoms.
    ///
    /// # Panics
    /// When the table has no such block.
    #[must_use]
    pub fn rows_of(&self, block: u32) -> &[u32] {
        self.reader().rows_of(block)
    }

    /// The intervals of a row: first key, verdict in force, audited verdict.
    pub fn row_intervals(&self, row: u32) -> impl Iterator<Item = [u32; 3]> + use<'_> {
        self.reader().intervals(row)
    }

    /// The ranges of addresses that CIDRs of policies tell apart, in the order of their
    /// first addresses, IPv4 before IPv6: the first address, and the peer atom of what
    /// nobody owns there.
    pub fn outside_ranges(&self) -> impl Iterator<Item = (IpAddr, u32)> + use<'_> {
        let classes = self.atoms.range_classes().iter();
        (0u32..).zip(classes).map(|(range, class)| {
            let first = self.atoms.ranges().first_address(range);
            (first, self.atoms.of_outside(*class))
        })
    }

    /// The same table under another revision.
    fn renumbered(&self, revision: u64) -> Self {
        let mut table = self.clone();
        table.words[header::REVISION_LOW] = revision as u32;
        table.words[header::REVISION_HIGH] = (revision >> 32) as u32;
        table
    }

    /// The profile with this number.
    fn profile_numbered(&self, number: u16) -> Option<Profile> {
        self.profiles
            .get(usize::from(number).checked_sub(1)?)
            .copied()
    }

    /// Counts what has been put behind the table for translated addresses.
    fn count_services(&mut self, addresses: usize, words: usize, pages: usize) {
        for usage in &mut self.usage {
            if usage.table == "table_pages" {
                usage.used = pages as u64;
                usage.bytes = (pages * size_of::<Page>()) as u64;
            }
        }
        self.usage.push(Usage {
            table: "translated_addresses",
            used: addresses as u64,
            max: None,
            bytes: words as u64 * 4,
        });
    }

    /// The profile of a slot.
    #[must_use]
    pub fn profile(&self, slot: u32) -> Option<Profile> {
        self.table(|table| table.slot(slot))
    }

    /// The slot of an address and its profile: the owner's, else of the outside set
    /// that the address lies in.
    #[must_use]
    pub fn slot_of(&self, plan: &SlotPlan, address: IpAddr) -> Option<(u32, Profile)> {
        let owned = plan
            .of(address)
            .and_then(|slot| Some((slot, self.profile(slot)?)));
        owned.or_else(|| {
            self.table(|table| {
                let slot = table.outside_slot(&Address::from(address))?;
                Some((slot, table.slot(slot)?))
            })
        })
    }

    /// Reads what the hook of a sender reads about the address that a packet names, which may
    /// be translated: the sender's egress, or what is known of a Service's backends.
    #[must_use]
    pub fn decide_sent(&self, sender: Profile, named: Profile, key: u32) -> Option<DecisionWords> {
        self.table(|table| {
            let (class, atom) = match named.is_translated() {
                true => (table.service_class(sender.class), named.class),
                false => (sender.class, named.atom),
            };
            table.decide_words(class, Direction::Egress, atom, key)
        })
    }

    /// Returns the decision for a subject and a peer.
    #[must_use]
    pub fn decide(
        &self,
        subject: Profile,
        direction: Direction,
        peer: Profile,
        key: u32,
    ) -> Option<Decision> {
        self.table(|table| table.decide(subject.class, direction, peer.atom, key))
    }
}
