//! The compiler: the desired state to a decision table.
//!
//! A pure function. What it does, in order, a module each:
//!
//! 1. `signatures`: of each workload and node only what some selector or rule can
//!    tell;
//! 2. `subjects`, with `policy`: the policies that apply here, their rules numbered
//!    in the side table ([`RuleTable`]), and the subject classes;
//! 3. `peers`, with `ranges` for CIDRs and `partition` for both: the peer atoms;
//! 4. `matrix`, with `rows`: what each class may do with each atom;
//! 5. `range_tree` and `layout`: the words.
//!
//! Work is in proportion to what policies select, not to the product of policies,
//! rules and workloads: a selector is evaluated once over signatures, a class's
//! rules are joined piece by piece only where one of them speaks of an atom.
//!
//! Invariants: the same documents give the same words, whatever their order; a
//! table that would exceed a limit is refused whole, with the number that did not
//! fit.

mod layout;
mod matrix;
mod partition;
mod peers;
mod policy;
mod range_tree;
mod ranges;
mod rows;
mod rules;
mod signatures;
mod slots;
mod subjects;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use cofferdam_verdict::address::Address;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::memory::Settings;
use cofferdam_verdict::slices::SliceMemory;
use cofferdam_verdict::table::{Decision, Page, Profile, SLOTS_PER_WORD, SlotKind, Table};
use cofferdam_verdict::verdict::{Direction, MAX_RULE};
use thiserror::Error;

use crate::inventory::{Inventory, Owner, Workload};

use matrix::Matrix;
use peers::{Atoms, PeerLists};
use range_tree::RangeTrees;
use rules::RuleNumbers;
use signatures::{KnownSignatures, Signatures, number};
use subjects::{KnownClasses, Subjects};

pub use rules::{PolicyKind, RuleEntry, RuleKey, RuleMeaning, RuleTable};
pub use slots::{Slot, SlotPlan, SlotPlanError};

/// What a table is made of.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The desired state.
    pub inventory: &'a Inventory,
    /// The slot of every address in it. Slots whose owner no longer has the
    /// address are left spare.
    pub slots: &'a SlotPlan,
    /// Which workloads have an endpoint on this node, and so are subjects.
    pub is_local: &'a dyn Fn(&Workload) -> bool,
    /// The name of this node.
    pub own_node: Option<&'a str>,
    /// What there is room for.
    pub limits: Limits,
    /// The number of the table.
    pub revision: u64,
}

/// Why there is no table. What was in force before stays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// Something does not fit.
    #[error("{table}: {used} needed, and there is room for {max}")]
    Capacity {
        /// What does not fit.
        table: &'static str,
        /// How many would be needed; where counting ends early, at least as many.
        used: u64,
        /// How many there is room for.
        max: u64,
    },
    /// The slot plan does not cover the inventory.
    #[error("address {address} of {owner} has no slot")]
    NoSlot {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: Owner,
    },
}

/// How much of something is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of what.
    pub table: &'static str,
    /// How many are used.
    pub used: u64,
    /// How many there is room for; for parts of the table, as many as its pages
    /// allow.
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
    signatures: KnownSignatures,
    classes: KnownClasses,
    atoms: Atoms,
    /// The rules that verdicts name.
    pub rules: RuleTable,
    /// Sets of outside addresses; their slots count downwards from the top.
    pub outside: Vec<OutsideSet>,
    /// How much is used of what.
    pub usage: Vec<Usage>,
}

/// Compiles a table.
///
/// # Errors
/// A limit that would be exceeded, or an address without a slot.
pub fn compile(input: &Input<'_>) -> Result<Compiled, CompileError> {
    let inventory = input.inventory;
    let mut signatures = Signatures::new(inventory);
    let owned = owned_slots(input, &mut signatures)?;
    let mut local = vec![false; signatures.all().len()];
    for slot in &owned {
        if slot.kind == SlotKind::LocalWorkload {
            local[slot.signature as usize] = true;
        }
    }

    let mut lists = PeerLists::default();
    let mut numbers = RuleNumbers::default();
    let subjects = Subjects::new(inventory, &mut signatures, &local, &mut lists, &mut numbers)?;
    let ranges = lists.ranges();
    let addresses: Vec<(u32, u32)> = owned
        .iter()
        .map(|slot| (ranges.of(slot.address), slot.signature))
        .collect();
    let atoms = Atoms::new(
        &lists,
        ranges,
        &mut signatures,
        &subjects.egress_names,
        addresses,
    );

    let max_words = u64::from(input.limits.table_pages) * size_of::<Page>() as u64 / 4;
    let matrix = Matrix::new(&subjects, &atoms, &mut numbers, max_words)?;
    let (outside, trees) = outside_sets(&atoms, &owned, &input.limits)?;
    let slots = slot_entries(&owned, &outside, &subjects, &atoms);
    let profiles = layout::profiles(&slots)?;
    let (words, used_words) = layout::write(
        &layout::Content {
            revision: input.revision,
            slots: &slots,
            profiles: &profiles,
            atoms: atoms.count(),
            matrix: &matrix,
            ranges: &trees,
        },
        &input.limits,
    )?;
    let rules = numbers.finish();
    let usage = usage(
        input,
        &rules,
        slots.len(),
        &atoms,
        &matrix,
        &trees,
        used_words,
    );
    Ok(Compiled {
        words,
        profiles,
        signatures: signatures.into_known(),
        classes: subjects.into_known(),
        atoms: atoms.into_known(),
        rules,
        outside,
        usage,
    })
}

/// A slot of an address that somebody owns.
struct OwnedSlot {
    number: u32,
    address: IpAddr,
    kind: SlotKind,
    /// The owner's signature.
    signature: u32,
}

/// The slots of all addresses that are owned, in the order of the inventory.
fn owned_slots<'a>(
    input: &Input<'a>,
    signatures: &mut Signatures<'a>,
) -> Result<Vec<OwnedSlot>, CompileError> {
    let plan = input.slots;
    let max = input.limits.slots.saturating_sub(1);
    let slot_of = |address: IpAddr, owner: &dyn Fn() -> Owner| match plan.of(address) {
        Some(number) if number <= max => Ok(number),
        Some(number) => Err(CompileError::Capacity {
            table: "slots",
            used: number.into(),
            max: max.into(),
        }),
        None => Err(CompileError::NoSlot {
            address,
            owner: owner(),
        }),
    };
    let mut owned = Vec::with_capacity(plan.slots().len());
    for workload in input.inventory.workloads().values() {
        if workload.own_addresses().is_empty() {
            continue;
        }
        let signature = signatures.add(workload);
        let kind = if (input.is_local)(workload) {
            SlotKind::LocalWorkload
        } else {
            SlotKind::RemoteWorkload
        };
        for &address in workload.own_addresses() {
            owned.push(OwnedSlot {
                number: slot_of(address, &|| Owner::Workload(workload.name.clone()))?,
                address,
                kind,
                signature,
            });
        }
    }
    for (name, node) in input.inventory.nodes().iter() {
        let kind = if Some(name.as_ref()) == input.own_node {
            SlotKind::OwnNode
        } else {
            SlotKind::OtherNode
        };
        let signature = signatures.add_node(node);
        for &address in &node.addresses {
            owned.push(OwnedSlot {
                number: slot_of(address, &|| Owner::Node(name.clone()))?,
                address,
                kind,
                signature,
            });
        }
    }
    Ok(owned)
}

/// A slot for every class of address ranges, downwards from the top, and the trees
/// that lead there.
fn outside_sets(
    atoms: &Atoms,
    owned: &[OwnedSlot],
    limits: &Limits,
) -> Result<(Vec<OutsideSet>, RangeTrees), CompileError> {
    let classes = atoms.class_firsts();
    let highest = owned.iter().map(|slot| slot.number).max().unwrap_or(0);
    let room = u64::from(limits.slots.saturating_sub(1).saturating_sub(highest));
    if classes.len() as u64 > room {
        return Err(CompileError::Capacity {
            table: "slots",
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
    let (v4, v6) = atoms.range_classes().split_at(ranges.v4_starts().len());
    let v4: Vec<(u32, u32)> = (ranges.v4_starts().iter().zip(v4))
        .map(|(start, class)| (*start, slot_of(*class)))
        .collect();
    let v6: Vec<(u128, u32)> = (ranges.v6_starts().iter().zip(v6))
        .map(|(start, class)| (*start, slot_of(*class)))
        .collect();
    Ok((outside, RangeTrees::new(&v4, &v6)?))
}

/// The entries of all slots in use.
fn slot_entries(
    owned: &[OwnedSlot],
    outside: &[OutsideSet],
    subjects: &Subjects,
    atoms: &Atoms,
) -> Vec<(u32, Profile)> {
    let owned = owned.iter().map(|slot| {
        let range = atoms.ranges().of(slot.address);
        let class = match slot.kind {
            SlotKind::LocalWorkload => subjects.class_of(slot.signature),
            _ => 0,
        };
        (
            slot.number,
            Profile {
                kind: slot.kind,
                class,
                atom: atoms.of_owned(range, slot.signature),
            },
        )
    });
    let outside = (0u32..).zip(outside).map(|(class, set)| {
        (
            set.slot,
            Profile {
                kind: SlotKind::Outside,
                class: 0,
                atom: atoms.of_outside(class),
            },
        )
    });
    owned.chain(outside).collect()
}

fn usage(
    input: &Input<'_>,
    rules: &RuleTable,
    slots: usize,
    atoms: &Atoms,
    matrix: &Matrix,
    trees: &RangeTrees,
    used_words: usize,
) -> Vec<Usage> {
    let rows = matrix.rows.values();
    let row_words: usize = rows.iter().map(|row| row.len()).sum();
    let blocks = matrix.blocks.values();
    let groups: usize = matrix.groups.values().iter().map(|list| list.len()).sum();
    let usage = |table, used: usize, max: Option<u64>, words: usize| Usage {
        table,
        used: used as u64,
        max,
        bytes: words as u64 * 4,
    };
    let limits = &input.limits;
    let pages = used_words.div_ceil(size_of::<Page>() / 4);
    vec![
        usage("rules", rules.len(), Some(MAX_RULE.into()), 0),
        usage(
            "slots",
            slots,
            Some(limits.slots.saturating_sub(1).into()),
            limits.slots.div_ceil(SLOTS_PER_WORD) as usize,
        ),
        usage(
            "classes",
            matrix.classes.len(),
            None,
            matrix.classes.len() * 2,
        ),
        usage("atoms", atoms.count() as usize, None, 0),
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

    /// What a subject may do with a peer.
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

    /// The profile that a workload's address would have in this very table, though
    /// the workload was not there when it was made, with its number: that may be
    /// written to a spare slot, and no new table is needed. `None` when the table
    /// has no such profile.
    ///
    /// `inventory` has the policies and namespaces that the table was made of.
    #[must_use]
    pub fn place(
        &self,
        inventory: &Inventory,
        workload: &Workload,
        address: IpAddr,
        is_local: bool,
    ) -> Option<(u16, Profile)> {
        let (signature, ports) = (self.signatures.find(workload))
            .map(|(number, signature)| (number, signature.ports))?;
        let (kind, class) = if is_local {
            let class = self.classes.find(inventory, workload, &ports)?;
            (SlotKind::LocalWorkload, class)
        } else {
            (SlotKind::RemoteWorkload, 0)
        };
        let range = self.atoms.ranges().of(address);
        let profile = Profile {
            kind,
            class,
            atom: self.atoms.find(range, signature)?,
        };
        let number = self.profiles.binary_search(&profile).ok()? + 1;
        Some((u16::try_from(number).ok()?, profile))
    }
}
