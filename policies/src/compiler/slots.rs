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
        let workloads = inventory
            .workloads()
            .values()
            .map(|w| (Owner::Workload(w.name.clone()), w.own_addresses()));
        let nodes = inventory
            .nodes()
            .iter()
            .map(|(name, node)| (Owner::Node(name.clone()), node.addresses.as_slice()));
        let mut plan = Self::default();
        let mut number = 0;
        for (owner, addresses) in workloads.chain(nodes) {
            let mut addresses = addresses.to_vec();
            addresses.sort();
            addresses.dedup();
            for address in addresses {
                number += 1;
                plan.by_address.insert(address, number);
                plan.slots.push(Slot {
                    number,
                    owner: owner.clone(),
                    address,
                });
            }
        }
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
