//! The slots of addresses that somebody owns, in one pass over the addresses.
//!
//! Owners, slots and address ranges are all kept in the order of addresses, so that
//! everything about an address is found by going along beside it.

use std::net::IpAddr;

use cofferdam_verdict::table::SlotKind;

use crate::inventory::Holder;

use super::ranges::Ranges;
use super::signatures::Signatures;
use super::{CompileError, Snapshot};

/// A slot of an address that somebody owns.
pub(super) struct OwnedSlot {
    pub(super) number: u32,
    /// The address range that the address lies in.
    pub(super) range: u32,
    /// The owner's signature.
    pub(super) signature: u32,
    pub(super) kind: SlotKind,
}

/// The addresses of workloads of this node, in order.
pub(super) fn local_addresses(snapshot: &Snapshot<'_>) -> Vec<IpAddr> {
    let workloads = snapshot.inventory.workloads();
    let local = snapshot.local.iter();
    let mut addresses: Vec<IpAddr> = local
        .filter_map(|name| workloads.get(name))
        .flat_map(|workload| workload.own_addresses().iter().copied())
        .collect();
    addresses.sort_unstable();
    addresses
}

/// For each signature whether a workload of this node has it. `local` are the
/// addresses of those.
pub(super) fn local_signatures(
    snapshot: &Snapshot<'_>,
    signatures: &Signatures<'_>,
    local: &[IpAddr],
) -> Vec<bool> {
    let mut is_local = vec![false; signatures.all().len()];
    let holders = snapshot.inventory.holders();
    for place in local.iter().filter_map(|address| holders.place_of(address)) {
        is_local[signatures.of_holder_at(place) as usize] = true;
    }
    is_local
}

/// The slots of all addresses that are owned, in the order of addresses.
pub(super) fn owned_slots(
    snapshot: &Snapshot<'_>,
    signatures: &Signatures<'_>,
    ranges: &Ranges,
    local: &[IpAddr],
) -> Result<Vec<OwnedSlot>, CompileError> {
    let holders = snapshot.inventory.holders();
    let mut owned = Vec::with_capacity(holders.len());
    let mut local = local.iter().peekable();
    let mut numbers = snapshot.slots.by_address().iter().peekable();
    let mut along = ranges.along();
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
            range: along.of(*address),
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
