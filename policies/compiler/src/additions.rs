//! Workloads that a table has room for although it was made before they came.
//!
//! A workload of another node that goes needs no entry: no address leads to its own any more.
//! One with other labels, or an address that is another's now, moves to another entry.
//!
//! Most workloads are like others: somebody with their labels, as far as policies
//! ask, with an address in the same blocks, is in the table already. Then their class,
//! their atom and their profile are there as well, and only the entry of their slot is
//! missing, which nobody can come to before the address leads to it. A workload of this
//! node needs another one here that rules of workloads elsewhere treat alike: with its
//! signature, and in the same of their blocks.
//!
//! Invariants: an entry is only ever written where none was; a table with the entries
//! that [`Compiled::additions`] names says of every packet what a table that is made
//! anew says. Where nothing has gone their words are the same, too, unless one more own address
//! changes the order of sets that rules of workloads elsewhere tell apart equally often: atoms of
//! own addresses are numbered by that.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cofferdam_inventory::{Holder, Inventory, ObjectName, Workload};
use cofferdam_verdict::table::{PAGE_WORDS, Profile, SlotKind, header, slot_place};

use super::slots::has_turned;
use super::{Compiled, Snapshot};

/// An entry of a table's slot section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotEntry {
    /// The slot.
    pub slot: u32,
    /// The number of its profile in that table.
    pub profile: u16,
}

impl Compiled {
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
        let profile = if is_local {
            Profile {
                kind: SlotKind::LocalWorkload,
                class: self.classes.find(inventory, workload, &ports)?,
                // Workloads elsewhere have rows for the atoms of own addresses alone.
                atom: self.atoms.find_own(address, signature)?,
                is_shared: false,
            }
        } else {
            let range = self.atoms.ranges().of(address);
            Profile {
                kind: SlotKind::RemoteWorkload,
                class: (*self.remote_classes.get(signature as usize)?)?,
                atom: self.atoms.find(range, signature)?,
                is_shared: false,
            }
        };
        let ordinary = &self.profiles[..self.ordinary_profiles];
        let number = ordinary.binary_search(&profile).ok()? + 1;
        Some((u16::try_from(number).ok()?, profile))
    }

    /// The entries by which this table, as it is for one desired state, becomes one for
    /// the next; `None` when only another table will do.
    ///
    /// The table was made of `inventory` and of the workloads `local` to this node, or
    /// has been given entries since that it is as good as made of them; `after` is of
    /// the same node, and its plan is [the one in place](super::SlotPlan::in_place) of that in
    /// use.
    #[must_use]
    pub fn additions(
        &self,
        inventory: &Inventory,
        local: &BTreeSet<ObjectName>,
        after: &Snapshot<'_>,
    ) -> Option<Vec<SlotEntry>> {
        let next = after.inventory;
        let namespaces = inventory
            .namespaces()
            .shared()
            .changes(next.namespaces().shared());
        // Nobody lies in a namespace that was not there, so no selector asked for it.
        if namespaces.iter().any(|change| change.before.is_some())
            || inventory.enforcement() != next.enforcement()
            || inventory.policies() != next.policies()
            || inventory.cluster_policies() != next.cluster_policies()
            || !local.is_subset(after.local)
        {
            return None;
        }
        // What has no address, be it a node, is in no table.
        let mut entries = Vec::new();
        let mut added = BTreeSet::new();
        for change in inventory.holders().changes(next.holders()) {
            // Rows are made for what is here, and a node's address is asked about as well.
            if let Some(before) = change.before
                && !matches!(before, Holder::Workload(one) if !local.contains(&one.name))
            {
                return None;
            }
            let Some(holder) = change.after else {
                continue;
            };
            let Holder::Workload(workload) = holder else {
                return None;
            };
            let is_local = after.local.contains(&workload.name);
            if let Some(before) = change.before {
                if is_local {
                    return None;
                }
                if !has_turned(before, holder) {
                    continue;
                }
            }
            let address = *change.key;
            let slot = after.slots.of(address)?;
            let (profile, _) = self.place(next, workload, address, is_local)?;
            if self.entry(slot)? != 0 {
                return None;
            }
            entries.push(SlotEntry { slot, profile });
            added.insert(address);
        }
        // To the slots of whoever was elsewhere until now addresses lead already.
        let mut come = after.local.difference(local);
        let is_new = come.all(|name| {
            let workload = next.workloads().get(name);
            let mut addresses = workload.iter().flat_map(|one| one.own_addresses());
            addresses.all(|address| added.contains(address))
        });
        is_new.then_some(entries)
    }

    /// Gives a spare slot its profile. `false` when it is not spare, or is none of this
    /// table's; then nothing changes.
    pub fn fill(&mut self, entry: SlotEntry) -> bool {
        if self.entry(entry.slot) != Some(0) {
            return false;
        }
        let (offset, shift) = slot_place(entry.slot);
        self.words[offset as usize] |= u32::from(entry.profile) << shift;
        let mut usage = self.usage.iter_mut();
        if let Some(slots) = usage.find(|usage| usage.table == super::SLOTS) {
            slots.used += 1;
        }
        true
    }

    /// The profile number of a slot, 0 of a spare one.
    fn entry(&self, slot: u32) -> Option<u16> {
        const _: () = assert!(header::SLOTS < PAGE_WORDS, "a table has one page at least");
        if slot == 0 || slot >= self.words[header::SLOTS] {
            return None;
        }
        let (offset, shift) = slot_place(slot);
        Some((self.words.get(offset as usize)? >> shift) as u16)
    }
}
