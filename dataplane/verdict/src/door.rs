//! Packets that enter the node by an interface which is no endpoint's: an uplink, or a
//! container that is not managed.
//!
//! They have no stamp, whatever their sender wrote there; the program takes it off. What
//! carries the address of a workload of this node is dropped: its fragments could join a
//! datagram of the workload's, and its ARP messages take the workload's packets.
//!
//! Absent on purpose: policy. It is asked at the workload's hooks.

use crate::{
    bucket::{Found, find_address},
    case::{Case, mark},
    memory::Memory,
    packet::{self, ETHERNET_BYTES, Frame, ethertype},
    reason::Reason,
    table::{SlotKind, Table},
    verdict::Verdict,
};

use crate::address::{Address, Family};

/// Returns `true` if a frame is to be dropped, and fills in the case for its record.
#[inline(always)]
pub fn refuses<M: Memory, F: Frame>(memory: &M, frame: &F, case: &mut Case) -> bool {
    let Ok(ethernet) = packet::ethernet(frame) else {
        return false;
    };
    let Some((source, destination)) = addresses(frame, ethernet.ethertype) else {
        return false;
    };
    let Found::Value(slot) = find_address(memory, &source) else {
        return false;
    };
    let profile = Table::open(memory).and_then(|table| table.slot(slot));
    if !profile.is_some_and(|profile| matches!(profile.kind, SlotKind::LocalWorkload)) {
        return false;
    }
    case.kind = u32::from(ethernet.ethertype) << 16;
    case.source = source.words;
    case.destination = destination.words;
    case.source_slot = slot;
    if matches!(source.family, Family::V6) {
        case.marks |= mark::V6;
    }
    case.settle(Verdict::deny(Reason::ForeignLocalAddress));
    true
}

/// Source and destination of an IP packet, or sender and target of an ARP message.
#[inline(always)]
fn addresses<F: Frame>(frame: &F, kind: u16) -> Option<(Address, Address)> {
    match kind {
        ethertype::IPV4 => {
            let b = frame.read::<20>(ETHERNET_BYTES)?;
            Some((
                Address::v4([b[12], b[13], b[14], b[15]]),
                Address::v4([b[16], b[17], b[18], b[19]]),
            ))
        }
        ethertype::ARP => {
            let b = frame.read::<28>(ETHERNET_BYTES)?;
            Some((
                Address::v4([b[14], b[15], b[16], b[17]]),
                Address::v4([b[24], b[25], b[26], b[27]]),
            ))
        }
        ethertype::IPV6 => {
            let b = frame.read::<40>(ETHERNET_BYTES)?;
            let mut words = [0; 16];
            words.copy_from_slice(&b[8..24]);
            let source = Address::v6(words);
            words.copy_from_slice(&b[24..40]);
            Some((source, Address::v6(words)))
        }
        _ => None,
    }
}
