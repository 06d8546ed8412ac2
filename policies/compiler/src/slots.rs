//! Slots: the number of each address.
//!
//! A slot belongs to an address of a workload or node for as long as it has that
//! address; policies do not move it. The plan may be kept from table to table, or
//! made anew in the order of names, which gives the same numbers for the same
//! inventory. Slots of outside addresses are not in it: every table numbers its
//! own, downwards from the top.
//!
//! Invariant: no number and no address stands in a plan twice, and number 0 never.

use std::net::IpAddr;

use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{Holder, Inventory, Owner};
use thiserror::Error;

use super::signatures::number;

/// The slot of one address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The number, from 1.
    pub number: u32,
    /// Owner of the address.
    pub owner: Owner,
    /// The address.
    pub address: IpAddr,
}

/// Reason for which slots are not a plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlotPlanError {
    /// Slot 0 does not exist.
    #[error("slot 0 is given to {address}, but slots count from 1")]
    Zero {
        /// The address.
        address: IpAddr,
    },
    /// Two addresses have one number.
    #[error("slot {number} is given to two addresses, one of them {address}")]
    NumberTaken {
        /// The number.
        number: u32,
        /// The later of the addresses.
        address: IpAddr,
    },
    /// One address has two numbers.
    #[error("{address} is given two slots, one of them {number}")]
    AddressTaken {
        /// The later of the numbers.
        number: u32,
        /// The address.
        address: IpAddr,
    },
}

/// The slots of workloads and nodes. A copy shares what neither changes.
#[derive(Debug, Clone, Default)]
pub struct SlotPlan {
    by_number: SharedMap<u32, (Owner, IpAddr)>,
    by_address: SharedMap<IpAddr, u32>,
    /// Numbers below the highest that no address has.
    free: SharedMap<u32, ()>,
    /// Numbers that addresses have left since the table in force was made, and whose they
    /// were: its entries of them stay.
    resting: SharedMap<u32, (Owner, IpAddr)>,
    /// The owners that it was made for.
    holders: SharedMap<IpAddr, Holder>,
}

impl PartialEq for SlotPlan {
    fn eq(&self, other: &Self) -> bool {
        self.by_number == other.by_number
    }
}

impl Eq for SlotPlan {}

impl SlotPlan {
    /// Numbers every address of an inventory from 1 on: workloads in the order of
    /// their names, each with its addresses in order, then nodes.
    #[must_use]
    pub fn assign(inventory: &Inventory) -> Self {
        Self::default().successor(inventory)
    }

    /// The plan for the next table: an address keeps its number, whoever owns it now, and a
    /// new address gets the lowest number that this plan does not use.
    ///
    /// A number that becomes free is therefore not given away at once, but by the
    /// plan after the next table's at the earliest: until that has been published, and a grace
    /// period has gone by, a program may still have it in hand for its former address.
    #[must_use]
    pub fn successor(&self, inventory: &Inventory) -> Self {
        let mut next = self.step(inventory, |_, _| false);
        for number in std::mem::take(&mut next.resting).keys() {
            next.free.insert(*number, ());
        }
        next
    }

    /// The plan by which the table in force serves another inventory. What becomes free rests
    /// until a table has been made without it. An address that belongs to another workload
    /// now, or to the same one with other labels or ports, gets another number: it goes from
    /// one entry to the other by one store, and flows with it are decided again.
    #[must_use]
    pub fn in_place(&self, inventory: &Inventory) -> Self {
        self.step(inventory, has_turned)
    }

    /// A plan in which numbers that rest may be given away, for the lack of others.
    #[must_use]
    pub fn rested(&self) -> Self {
        let mut next = self.clone();
        for number in std::mem::take(&mut next.resting).keys() {
            next.free.insert(*number, ());
        }
        next
    }

    fn step(&self, inventory: &Inventory, moves: impl Fn(&Holder, &Holder) -> bool) -> Self {
        let holders = inventory.holders();
        let mut next = Self {
            holders: holders.clone(),
            ..self.clone()
        };
        let mut added: Vec<(Owner, IpAddr)> = Vec::new();
        let mut left: Vec<IpAddr> = Vec::new();
        if self.holders.is_empty() {
            // Given from outside, perhaps, and nothing is known of its owners.
            let gone = |address: &&IpAddr| !holders.contains_key(*address);
            left.extend(self.by_address.keys().filter(gone));
        }
        for change in self.holders.changes(holders) {
            match change.after {
                Some(holder) => {
                    if change.before.is_some_and(|before| moves(before, holder)) {
                        left.push(*change.key);
                    }
                    added.push((holder.owner(), *change.key));
                }
                None => left.push(*change.key),
            }
        }
        added.sort();
        let mut highest = number(self.by_number.len() + self.free.len() + self.resting.len());
        for address in left {
            if let Some(number) = next.by_address.remove(&address)
                && let Some(holder) = next.by_number.remove(&number)
            {
                next.resting.insert(number, holder);
            }
        }
        for (owner, address) in added {
            let number = next.of(address).unwrap_or_else(|| {
                let lowest = next.free.keys().next().copied();
                lowest
                    .inspect(|number| _ = next.free.remove(number))
                    .unwrap_or_else(|| {
                        highest += 1;
                        highest
                    })
            });
            next.by_address.insert(address, number);
            next.by_number.insert(number, (owner, address));
        }
        next
    }

    /// A plan whose numbers were given before.
    ///
    /// # Errors
    /// A number or an address that comes twice, and number 0.
    pub fn from_slots(slots: impl IntoIterator<Item = Slot>) -> Result<Self, SlotPlanError> {
        let mut slots: Vec<Slot> = slots.into_iter().collect();
        slots.sort();
        let mut plan = Self::default();
        let mut before = 0;
        for slot in slots {
            let (number, address) = (slot.number, slot.address);
            if number == 0 {
                return Err(SlotPlanError::Zero { address });
            }
            if number == before {
                return Err(SlotPlanError::NumberTaken { number, address });
            }
            if plan.by_address.insert(address, number).is_some() {
                return Err(SlotPlanError::AddressTaken { number, address });
            }
            for free in before + 1..number {
                plan.free.insert(free, ());
            }
            plan.by_number.insert(number, (slot.owner, address));
            before = number;
        }
        Ok(plan)
    }

    /// All slots, in the order of their numbers.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        (self.by_number.iter()).map(|(number, (owner, address))| Slot {
            number: *number,
            owner: owner.clone(),
            address: *address,
        })
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Returns `true` if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// The slot of an address.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }

    /// Returns the number of slots that addresses have left since the table in force was made.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// The slots of all addresses, in the order of addresses.
    #[must_use]
    pub fn by_address(&self) -> &SharedMap<IpAddr, u32> {
        &self.by_address
    }

    /// Slots that addresses of `before`, a plan in place of which this one has come, have left.
    pub fn left_since<'p>(
        &'p self,
        before: &'p Self,
    ) -> impl Iterator<Item = (u32, &'p (Owner, IpAddr))> {
        let changes = before.resting.changes(&self.resting).into_iter();
        changes.filter_map(|change| Some((*change.key, change.after?)))
    }

    /// Returns the owner and the address of a slot.
    #[must_use]
    pub fn holder(&self, number: u32) -> Option<&(Owner, IpAddr)> {
        self.by_number.get(&number)
    }

    /// The highest number; 0 when there is none.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.by_number.keys().next_back().copied().unwrap_or(0)
    }
}

/// Returns `true` if flows with an address must not go on as they are: it is another
/// workload's now, or policies may see the same one as another.
pub(super) fn has_turned(before: &Holder, after: &Holder) -> bool {
    match (before, after) {
        (Holder::Workload(before), Holder::Workload(after)) => {
            before.name != after.name
                || before.labels != after.labels
                || before.ports != after.ports
        }
        _ => before != after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_inventory::ObjectName;

    fn slot(number: u32, address: &str) -> Slot {
        Slot {
            number,
            owner: Owner::Workload(ObjectName::new("x", "a")),
            address: address.parse().unwrap(),
        }
    }

    fn inventory(pods: &[(&str, &[&str])]) -> Inventory {
        let mut inventory = Inventory::default();
        for (name, addresses) in pods {
            let workload = cofferdam_inventory::Workload {
                name: ObjectName::new("x", name),
                labels: cofferdam_inventory::selectors::Labels::default(),
                node: None,
                host_network: false,
                finished: false,
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                ports: Vec::new(),
            };
            inventory.set_workload(workload).unwrap();
        }
        inventory
    }

    #[test]
    fn an_address_keeps_its_number_and_a_freed_one_rests_for_a_table() {
        let of = |plan: &SlotPlan, address: &str| plan.of(address.parse().unwrap());
        let first = SlotPlan::assign(&inventory(&[
            ("a", &["10.0.0.1"]),
            ("b", &["10.0.0.2"]),
            ("c", &["10.0.0.3"]),
        ]));
        // `b` is gone, and `0` comes before all others in the order of names.
        let second = first.successor(&inventory(&[
            ("0", &["10.0.0.4"]),
            ("a", &["10.0.0.1"]),
            ("c", &["10.0.0.3"]),
        ]));
        assert_eq!(of(&second, "10.0.0.1"), Some(1));
        assert_eq!(of(&second, "10.0.0.2"), None);
        assert_eq!(of(&second, "10.0.0.3"), Some(3));
        assert_eq!(of(&second, "10.0.0.4"), Some(4), "2 rests");
        let third = second.successor(&inventory(&[
            ("0", &["10.0.0.4"]),
            ("d", &["10.0.0.1"]),
            ("e", &["10.0.0.5"]),
        ]));
        assert_eq!(of(&third, "10.0.0.1"), Some(1), "whoever owns it");
        assert_eq!(of(&third, "10.0.0.5"), Some(2));
        let (owner, _) = third.holder(1).unwrap();
        assert_eq!(*owner, Owner::Workload(ObjectName::new("x", "d")));
    }

    #[test]
    fn in_place_a_freed_number_rests_until_a_table_and_an_address_that_turns_moves() {
        let of = |plan: &SlotPlan, address: &str| plan.of(address.parse().unwrap());
        let first = SlotPlan::assign(&inventory(&[
            ("a", &["10.0.0.1"]),
            ("b", &["10.0.0.2"]),
            ("c", &["10.0.0.3"]),
        ]));
        // `b` goes, and its namesake of another address comes; `c`'s address is `d`'s now.
        let second = first.in_place(&inventory(&[
            ("a", &["10.0.0.1"]),
            ("b", &["10.0.0.5"]),
            ("d", &["10.0.0.3"]),
        ]));
        assert_eq!(of(&second, "10.0.0.1"), Some(1));
        assert_eq!(of(&second, "10.0.0.5"), Some(4));
        assert_eq!(of(&second, "10.0.0.3"), Some(5));
        assert_eq!(second.resting(), 2);
        let left: Vec<u32> = second
            .left_since(&first)
            .map(|(number, _)| number)
            .collect();
        assert_eq!(left, [2, 3]);
        let more = inventory(&[
            ("a", &["10.0.0.1"]),
            ("b", &["10.0.0.5"]),
            ("d", &["10.0.0.3"]),
            ("e", &["10.0.0.6"]),
        ]);
        // Neither in place nor by the next table, but after it.
        let third = second.in_place(&more);
        assert_eq!(of(&third, "10.0.0.6"), Some(6));
        let table = second.successor(&more);
        assert_eq!((of(&table, "10.0.0.6"), table.resting()), (Some(6), 0));
        let after = table.in_place(&inventory(&[
            ("a", &["10.0.0.1"]),
            ("b", &["10.0.0.5"]),
            ("d", &["10.0.0.3"]),
            ("e", &["10.0.0.6", "10.0.0.7"]),
        ]));
        assert_eq!(of(&after, "10.0.0.7"), Some(2));
        // For the lack of others.
        let rested = second.rested().successor(&more);
        assert_eq!(of(&rested, "10.0.0.6"), Some(2));
    }

    #[test]
    fn a_plan_has_each_number_and_address_once() {
        let plan = |slots: &[Slot]| SlotPlan::from_slots(slots.iter().cloned());
        assert!(plan(&[slot(2, "10.0.0.1"), slot(1, "10.0.0.2")]).is_ok());
        for bad in [
            [slot(0, "10.0.0.1"), slot(1, "10.0.0.2")],
            [slot(1, "10.0.0.1"), slot(1, "10.0.0.2")],
            [slot(1, "10.0.0.1"), slot(2, "10.0.0.1")],
        ] {
            assert!(plan(&bad).is_err());
        }
    }
}
