//! Which number each address has.
//!
//! A slot belongs to an address of a workload or node for as long as it has that
//! address; policies do not move it. The plan may be kept from table to table, or
//! made anew in the order of names, which gives the same numbers for the same
//! inventory. Slots of outside addresses are not in it: every table numbers its
//! own, downwards from the top.
//!
//! Invariant: no number and no address stands in a plan twice, and number 0 never.

use std::collections::HashMap;
use std::net::IpAddr;

use thiserror::Error;

use crate::inventory::{Inventory, Owner};

/// The slot of one address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The number, from 1.
    pub number: u32,
    /// Whose address it is.
    pub owner: Owner,
    /// The address.
    pub address: IpAddr,
}

/// Why slots are not a plan.
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

/// The slots of workloads and nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotPlan {
    /// In the order of numbers.
    slots: Vec<Slot>,
    by_address: HashMap<IpAddr, u32>,
}

impl SlotPlan {
    /// Numbers every address of an inventory from 1 on: workloads in the order of
    /// their names, each with its addresses in order, then nodes.
    #[must_use]
    pub fn assign(inventory: &Inventory) -> Self {
        Self::default().successor(inventory)
    }

    /// The plan that follows this one: an address keeps its number, whoever owns it
    /// now, and a new address gets the lowest number that this plan does not use.
    ///
    /// A number that becomes free is therefore not given away at once, but by the
    /// plan after the next at the earliest: until the table of the next plan has been
    /// published, and a grace period has gone by, a program may still have it in hand
    /// for its former address.
    #[must_use]
    pub fn successor(&self, inventory: &Inventory) -> Self {
        let workloads = inventory
            .workloads()
            .values()
            .map(|w| (Owner::Workload(w.name.clone()), w.own_addresses()));
        let nodes = inventory
            .nodes()
            .iter()
            .map(|(name, node)| (Owner::Node(name.clone()), node.addresses.as_slice()));
        let mut used = self.slots.iter().map(|slot| slot.number).peekable();
        let mut free = (1u32..).filter(|number| {
            while used.next_if(|used| used < number).is_some() {}
            used.peek() != Some(number)
        });
        let mut plan = Self::default();
        for (owner, addresses) in workloads.chain(nodes) {
            let mut addresses = addresses.to_vec();
            addresses.sort();
            addresses.dedup();
            for address in addresses {
                let kept = self.of(address).or_else(|| free.next());
                let number = kept.expect("there are more numbers than addresses");
                plan.by_address.insert(address, number);
                plan.slots.push(Slot {
                    number,
                    owner: owner.clone(),
                    address,
                });
            }
        }
        plan.slots.sort();
        plan
    }

    /// A plan whose numbers were given before.
    ///
    /// # Errors
    /// A number or an address that comes twice, and number 0.
    pub fn from_slots(slots: impl IntoIterator<Item = Slot>) -> Result<Self, SlotPlanError> {
        let mut plan = Self {
            slots: slots.into_iter().collect(),
            by_address: HashMap::new(),
        };
        plan.slots.sort();
        let mut before = 0;
        for slot in &plan.slots {
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
            before = number;
        }
        Ok(plan)
    }

    /// All slots, in the order of their numbers.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The slot of an address.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::ObjectName;

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
            let workload = crate::inventory::Workload {
                name: ObjectName::new("x", name),
                labels: crate::selectors::Labels::default(),
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
        let owner = third.slots().iter().find(|slot| slot.number == 1).unwrap();
        assert_eq!(owner.owner, Owner::Workload(ObjectName::new("x", "d")));
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
