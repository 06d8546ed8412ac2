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
    let Some(inner) = behind_priority_tags(frame) else {
        return false;
    };
    let Some((source, destination)) = addresses(frame, &inner) else {
        return false;
    };
    let Found::Value(slot) = find_address(memory, &source) else {
        return false;
    };
    let profile = Table::open(memory).and_then(|table| table.slot(slot));
    if !profile.is_some_and(|profile| matches!(profile.kind, SlotKind::LocalWorkload)) {
        return false;
    }
    case.kind = u32::from(inner.ethertype) << 16;
    case.source = source.words;
    case.destination = destination.words;
    case.source_slot = slot;
    if matches!(source.family, Family::V6) {
        case.marks |= mark::V6;
    }
    case.settle(Verdict::deny(Reason::ForeignLocalAddress));
    true
}

/// Tags that are looked behind: Linux takes one off before tc and one after it.
const MAX_TAGS: u32 = 2;

/// Type and offset of the header behind the Ethernet header.
struct Inner {
    ethertype: u16,
    offset: u32,
}

/// Looks behind tags of VLAN 0 (IEEE 802.1Q, 9.6: a priority and no VLAN), which a host
/// takes off and goes on as if there were none. A frame of another VLAN is for a device of
/// its own, which has its own door.
#[inline(always)]
fn behind_priority_tags<F: Frame>(frame: &F) -> Option<Inner> {
    const VLAN: u16 = 0x0fff;
    let mut inner = Inner {
        ethertype: packet::ethernet(frame).ok()?.ethertype,
        offset: ETHERNET_BYTES,
    };
    let mut tags = 0;
    while tags < MAX_TAGS && matches!(inner.ethertype, ethertype::VLAN | ethertype::QINQ) {
        let b = frame.read::<4>(inner.offset)?;
        if u16::from_be_bytes([b[0], b[1]]) & VLAN != 0 {
            return None;
        }
        inner.ethertype = u16::from_be_bytes([b[2], b[3]]);
        inner.offset += 4;
        tags += 1;
    }
    Some(inner)
}

/// Source and destination of an IP packet, or sender and target of an ARP message.
#[inline(always)]
fn addresses<F: Frame>(frame: &F, inner: &Inner) -> Option<(Address, Address)> {
    let at = inner.offset;
    match inner.ethertype {
        ethertype::IPV4 => {
            let b = frame.read::<20>(at)?;
            Some((
                Address::v4([b[12], b[13], b[14], b[15]]),
                Address::v4([b[16], b[17], b[18], b[19]]),
            ))
        }
        ethertype::ARP => {
            let b = frame.read::<28>(at)?;
            Some((
                Address::v4([b[14], b[15], b[16], b[17]]),
                Address::v4([b[24], b[25], b[26], b[27]]),
            ))
        }
        ethertype::IPV6 => {
            let b = frame.read::<40>(at)?;
            let mut words = [0; 16];
            words.copy_from_slice(&b[8..24]);
            let source = Address::v6(words);
            words.copy_from_slice(&b[24..40]);
            Some((source, Address::v6(words)))
        }
        _ => None,
    }
}
