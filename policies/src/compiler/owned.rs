//! The slots of addresses that somebody owns, in one pass over the addresses.
//!
//! Owners, slots and address ranges are all kept in the order of addresses, so that
//! everything about an address is found by going along beside it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_verdict::table::SlotKind;

use crate::inventory::{Holder, ObjectName};
use crate::shared_map::SharedMap;

use super::ranges::Ranges;
use super::signatures::{KnownSignatures, Signatures};
use super::{CompileError, Snapshot};

/// A slot of an address that somebody owns.
#[derive(Debug)]
pub(super) struct OwnedSlot {
    pub(super) number: u32,
    /// The address range that the address lies in.
    pub(super) range: u32,
    /// The owner's signature.
    pub(super) signature: u32,
    pub(super) kind: SlotKind,
}

/// The slots of all addresses that are owned, with all that they follow from: those of
/// the next table are mostly the same, but for their ranges.
#[derive(Debug)]
pub(super) struct Owned {
    holders: SharedMap<IpAddr, Holder>,
    numbers: SharedMap<IpAddr, u32>,
    local: BTreeSet<ObjectName>,
    own_node: Option<Box<str>>,
    signatures: Arc<KnownSignatures>,
    slots: Vec<OwnedSlot>,
    local_signatures: Vec<bool>,
    remote_signatures: Vec<bool>,
    own_addresses: Vec<OwnAddress>,
}

/// An address of a workload of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnAddress {
    pub(super) address: IpAddr,
    /// The workload's signature.
    pub(super) signature: u32,
}

impl Owned {
    /// Finds them, unless they are those of `last`. Their ranges are not known yet.
    pub(super) fn new(
        snapshot: &Snapshot<'_>,
        signatures: &Signatures<'_>,
        last: Option<Self>,
    ) -> Result<Self, CompileError> {
        let known = match last {
            Some(last) if last.follow_from(snapshot, signatures) => return Ok(last),
            Some(last) => last.renewed(snapshot, signatures),
            None => None,
        };
        let slots = match known {
            Some(known) => known,
            None => slots(snapshot, signatures)?,
        };
        let mut local_signatures = vec![false; signatures.all().len()];
        let mut remote_signatures = local_signatures.clone();
        let mut own_addresses = Vec::new();
        let local = local_addresses(snapshot);
        let mut local = local.iter();
        for slot in &slots {
            let signature = slot.signature;
            match slot.kind {
                SlotKind::LocalWorkload => {
                    local_signatures[signature as usize] = true;
                    own_addresses.extend(local.next().map(|address| OwnAddress {
                        address: *address,
                        signature,
                    }));
                }
                SlotKind::RemoteWorkload => remote_signatures[signature as usize] = true,
                _ => {}
            }
        }
        Ok(Self {
            holders: snapshot.inventory.holders().clone(),
            numbers: snapshot.slots.by_address().clone(),
            local: snapshot.local.clone(),
            own_node: snapshot.own_node.map(Box::from),
            signatures: signatures.known().clone(),
            slots,
            local_signatures,
            remote_signatures,
            own_addresses,
        })
    }

    /// Whether the slots for these would be the same ones. `false` says nothing.
    fn follow_from(&self, snapshot: &Snapshot<'_>, signatures: &Signatures<'_>) -> bool {
        // Signatures are the very same only where all owners are.
        Arc::ptr_eq(&self.signatures, signatures.known())
            && self.numbers.is_same(snapshot.slots.by_address())
            && self.own_node.as_deref() == snapshot.own_node
            && self.local == *snapshot.local
    }

    /// The slots for these, if they differ from the last ones in nothing but their
    /// owners' signatures: where all addresses are the same ones, and those with another
    /// owner, or another description of it, are and were of workloads elsewhere.
    fn renewed(
        self,
        snapshot: &Snapshot<'_>,
        signatures: &Signatures<'_>,
    ) -> Option<Vec<OwnedSlot>> {
        let is_remote = |holder: Option<&Holder>| match holder {
            Some(Holder::Workload(workload)) => !snapshot.local.contains(&workload.name),
            Some(Holder::Node(..)) | None => false,
        };
        let same = self.numbers.changes(snapshot.slots.by_address()).is_empty()
            && self.own_node.as_deref() == snapshot.own_node
            && self.local == *snapshot.local;
        let mut changes = (self.holders.changes(snapshot.inventory.holders())).into_iter();
        if !same || !changes.all(|change| is_remote(change.before) && is_remote(change.after)) {
            return None;
        }
        let mut slots = self.slots;
        for (slot, signature) in slots.iter_mut().zip(signatures.of_holders()) {
            slot.signature = signature;
        }
        Some(slots)
    }

    /// For each signature whether a workload of this node has it.
    pub(super) fn local_signatures(&self) -> &[bool] {
        &self.local_signatures
    }

    /// For each signature whether a workload elsewhere has it.
    pub(super) fn remote_signatures(&self) -> &[bool] {
        &self.remote_signatures
    }

    /// The addresses of workloads of this node, in order.
    pub(super) fn own_addresses(&self) -> &[OwnAddress] {
        &self.own_addresses
    }

    /// The slots, in the order of addresses, each with the one of these ranges that its
    /// address lies in.
    pub(super) fn with_ranges(&mut self, ranges: &Ranges) -> &[OwnedSlot] {
        let mut along = ranges.along();
        for (slot, address) in self.slots.iter_mut().zip(self.holders.keys()) {
            slot.range = along.of(*address);
        }
        &self.slots
    }
}

/// The addresses of workloads of this node, in order.
fn local_addresses(snapshot: &Snapshot<'_>) -> Vec<IpAddr> {
    let workloads = snapshot.inventory.workloads();
    let local = snapshot.local.iter();
    let mut addresses: Vec<IpAddr> = local
        .filter_map(|name| workloads.get(name))
        .flat_map(|workload| workload.own_addresses().iter().copied())
        .collect();
    addresses.sort_unstable();
    addresses
}

fn slots(
    snapshot: &Snapshot<'_>,
    signatures: &Signatures<'_>,
) -> Result<Vec<OwnedSlot>, CompileError> {
    let holders = snapshot.inventory.holders();
    let local = local_addresses(snapshot);
    let mut owned = Vec::with_capacity(holders.len());
    let mut local = local.iter().peekable();
    let mut numbers = snapshot.slots.by_address().iter().peekable();
    for ((address, holder), signature) in holders.iter().zip(signatures.of_holders()) {
        while numbers.next_if(|(one, _)| *one < address).is_some() {}
        let number = match numbers.peek() {
            Some((one, number)) if *one == address => **number,
            _ => {
                return Err(CompileError::NoSlot {
                    address: *address,
                    owner: holder.owner(),
                });
            }
        };
        let mut is_local = false;
        while local.next_if(|one| *one == address).is_some() {
            is_local = true;
        }
        owned.push(OwnedSlot {
            number,
            range: 0,
            signature,
            kind: match holder {
                Holder::Workload(_) if is_local => SlotKind::LocalWorkload,
                Holder::Workload(_) => SlotKind::RemoteWorkload,
                Holder::Node(name, _) if Some(&**name) == snapshot.own_node => SlotKind::OwnNode,
                Holder::Node(..) => SlotKind::OtherNode,
            },
        });
    }
    Ok(owned)
}
