//! The slots of addresses that somebody owns, in one pass over the addresses.
//!
//! Owners, slots and address ranges are all kept in the order of addresses, so that
//! everything about an address is found by going along beside it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{Holder, ObjectName};
use cofferdam_verdict::table::SlotKind;

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
    /// The ranges that are the slots', once they are known.
    ranges: Option<Ranges>,
    local_signatures: Vec<bool>,
    /// For each signature how many addresses of workloads elsewhere have it.
    remote_counts: Vec<u32>,
    own_addresses: Vec<OwnAddress>,
}

/// An address of a workload of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnAddress {
    pub(super) address: IpAddr,
    /// The workload's signature.
    pub(super) signature: u32,
}

/// Stands for the signature of a slot whose owner has another one.
const MOVED: u32 = u32::MAX;

impl Owned {
    /// Finds them, unless they are those of `last`. Their ranges are not known yet.
    pub(super) fn new(
        snapshot: &Snapshot<'_>,
        signatures: &Signatures<'_>,
        last: Option<Self>,
    ) -> Result<Self, CompileError> {
        let last = match last {
            Some(last) if last.follow_from(snapshot, signatures) => return Ok(last),
            Some(last) => last.renewed(snapshot),
            None => None,
        };
        let (slots, ranges) = match last {
            Some(mut last) => {
                if last.adapt(snapshot, signatures) {
                    return Ok(last);
                }
                for (slot, signature) in last.slots.iter_mut().zip(signatures.of_holders()) {
                    slot.signature = signature;
                }
                (last.slots, last.ranges)
            }
            None => (slots(snapshot, signatures)?, None),
        };
        let mut local_signatures = vec![false; signatures.all().len()];
        let mut remote_counts = vec![0; signatures.all().len()];
        let mut own_addresses = Vec::new();
        let local_addresses = local_addresses(snapshot);
        let mut local = local_addresses.iter();
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
                SlotKind::RemoteWorkload => remote_counts[signature as usize] += 1,
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
            ranges,
            local_signatures,
            remote_counts,
            own_addresses,
        })
    }

    /// Returns `true` if the slots for these would be the same ones. `false` says nothing.
    fn follow_from(&self, snapshot: &Snapshot<'_>, signatures: &Signatures<'_>) -> bool {
        // Signatures are the very same only where all owners are.
        Arc::ptr_eq(&self.signatures, signatures.known())
            && self.numbers.is_same(snapshot.slots.by_address())
            && self.own_node.as_deref() == snapshot.own_node
            && self.local == *snapshot.local
    }

    /// These, if the next ones differ from them in nothing but their owners' signatures:
    /// where all addresses are the same ones, and those with another owner, or another
    /// description of it, are and were of workloads elsewhere.
    fn renewed(self, snapshot: &Snapshot<'_>) -> Option<Self> {
        let is_remote = |holder: Option<&Holder>| match holder {
            Some(Holder::Workload(workload)) => !snapshot.local.contains(&workload.name),
            Some(Holder::Node(..)) | None => false,
        };
        let same = self.numbers.changes(snapshot.slots.by_address()).is_empty()
            && self.own_node.as_deref() == snapshot.own_node
            && self.local == *snapshot.local;
        let mut changes = (self.holders.changes(snapshot.inventory.holders())).into_iter();
        let is_renewed =
            same && changes.all(|change| is_remote(change.before) && is_remote(change.after));
        is_renewed.then_some(self)
    }

    /// Makes the next ones of [`Self::renewed`] ones, if it is known of each signature which
    /// it is now: only addresses whose owners have changed are looked at. Returns `false` if
    /// it is not; then these are as they were.
    fn adapt(&mut self, snapshot: &Snapshot<'_>, signatures: &Signatures<'_>) -> bool {
        let known = signatures.known().clone();
        let Some(renumbered) = known.renumbered(&self.signatures) else {
            return false;
        };
        for (position, signature) in known.changes(&self.signatures) {
            let slot = &mut self.slots[position];
            if slot.kind == SlotKind::RemoteWorkload
                && renumbered[slot.signature as usize] != Some(signature)
            {
                self.remote_counts[slot.signature as usize] -= 1;
                slot.signature = MOVED;
            }
        }
        let count = signatures.all().len();
        let mut local_signatures = vec![false; count];
        let mut remote_counts = vec![0; count];
        let before = self.local_signatures.iter().zip(&self.remote_counts);
        for (new, (is_local, remote)) in renumbered.iter().zip(before) {
            if let Some(new) = new {
                local_signatures[*new as usize] = *is_local;
                remote_counts[*new as usize] = *remote;
            }
        }
        let number = |before: u32| {
            let new = renumbered[before as usize];
            new.expect("an owner that has not changed keeps its signature")
        };
        for slot in &mut self.slots {
            if slot.signature != MOVED {
                slot.signature = number(slot.signature);
            }
        }
        for (position, signature) in known.changes(&self.signatures) {
            let slot = &mut self.slots[position];
            if slot.signature == MOVED {
                remote_counts[signature as usize] += 1;
                slot.signature = signature;
            }
        }
        for own in &mut self.own_addresses {
            own.signature = number(own.signature);
        }
        self.holders = snapshot.inventory.holders().clone();
        self.numbers = snapshot.slots.by_address().clone();
        self.local_signatures = local_signatures;
        self.remote_counts = remote_counts;
        self.signatures = known;
        true
    }

    /// For each signature whether a workload of this node has it.
    pub(super) fn local_signatures(&self) -> &[bool] {
        &self.local_signatures
    }

    /// The signatures that workloads elsewhere have, ascending.
    pub(super) fn remote_signatures(&self) -> impl Iterator<Item = u32> {
        let counts = (0u32..).zip(&self.remote_counts);
        counts.filter_map(|(signature, count)| (*count > 0).then_some(signature))
    }

    /// The addresses of workloads of this node, in order.
    pub(super) fn own_addresses(&self) -> &[OwnAddress] {
        &self.own_addresses
    }

    /// The slots, in the order of addresses, each with the one of these ranges that its
    /// address lies in.
    pub(super) fn with_ranges(&mut self, ranges: &Ranges) -> &[OwnedSlot] {
        if self.ranges.as_ref() == Some(ranges) {
            return &self.slots;
        }
        let mut along = ranges.along();
        for (slot, address) in self.slots.iter_mut().zip(self.holders.keys()) {
            slot.range = along.of(*address);
        }
        self.ranges = Some(ranges.clone());
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
