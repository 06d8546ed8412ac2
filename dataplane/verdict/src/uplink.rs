//! Packets that leave the node before a policy has decided about their receiver.
//!
//! A workload's packet to a virtual address is judged where it appears translated. Where the
//! receiver is not on this node, that is at the egress hook of the interface that leads
//! there. `from_workload` marks such a packet with [`UNDECIDED`]; it has decided about all
//! others, and this hook lets them pass without counting them.
//!
//! The subject is the endpoint that the stamp names: neither the interface nor, behind
//! masquerade, the source address names it here. Its egress policy is asked about the
//! receiver, and the receiver's ingress policy if the receiver is a workload of another node.
//!
//! An allowed packet gets an entry in the endpoint's partition, under the tuple that leaves and
//! [`TRANSLATED`](crate::flow::TRANSLATED). The reply may come back without passing this
//! hook. So the opener alone moves such a flow: its second segment of TCP makes it established, and its FIN or RST
//! closes it. Every segment of TCP may begin one: `from_workload` has a flow of its own for
//! the connection, and no reply carries the mark.
//!
//! Invariant, closed: a marked packet that names no endpoint, or that has another
//! workload's or another node's address, is dropped.

use crate::{
    address::{Address, Family},
    bucket::{Found, find_address},
    case::{Case, mark},
    endpoint::{EndpointRecord, MAX_STAMP, UNDECIDED, flags},
    judge::{
        Asked, Inspected, OPEN, PolicyQuestion, QUESTIONS, any_slot, decide, denial, family_slot,
        is_tag, own_slot, stamped,
    },
    memory::Memory,
    packet::{self, Frame, Part},
    reason::Reason,
    table::{SlotKind, Table},
};

/// Returns `true` if a packet with these 16 bits is to be judged here.
#[inline(always)]
pub const fn is_undecided(carried: u32) -> bool {
    carried & UNDECIDED != 0
}

/// Reads the headers of a packet that is to be judged, and fills in a blank case. `carried`
/// is the packet's 16 bits.
#[inline(always)]
pub fn inspect<M: Memory, F: Frame>(
    memory: &M,
    frame: &F,
    ethertype: u16,
    carried: u32,
    case: &mut Case,
) -> Inspected {
    let word = match stamped(memory, carried & MAX_STAMP) {
        Some((number, record)) => {
            case.endpoint = number;
            case.stamp = record.stamp;
            read_headers(record, frame, ethertype, case)
        }
        None => denial(Reason::EndpointUnknown),
    };
    if word == OPEN {
        return Inspected::Open;
    }
    case.enforced = word;
    case.audited = word;
    Inspected::Decided
}

/// Fills in the case of a frame, and returns [`OPEN`], or the word of a verdict that needs
/// no table.
#[inline(always)]
fn read_headers<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    ethertype: u16,
    case: &mut Case,
) -> u32 {
    case.kind = u32::from(ethertype) << 16;
    if record.flags.load() & flags::DENY_ALL != 0 {
        return denial(Reason::EndpointDenyAll);
    }
    // The VLAN device below which the tag was put has a hook of its own.
    if is_tag(ethertype) {
        return denial(Reason::VlanTag);
    }
    let packet = match packet::parse(frame, ethertype) {
        Ok(packet) => packet,
        Err(reason) => return denial(reason),
    };
    case.describe(&packet, ethertype);
    case.marks |= mark::ADOPTED
        | match packet.part {
            Part::Whole => 0,
            Part::First => mark::FIRST,
            Part::Later => mark::LATER,
        }
        | if matches!(packet.source.family, Family::V6) {
            mark::V6
        } else {
            0
        };
    OPEN
}

/// Decides a case from the tables, and writes the answer into it.
#[inline(always)]
pub fn answer<M: Memory>(memory: &M, case: &mut Case) {
    decide(memory, case, questions);
}

/// The questions that policy is asked about a packet, or, where its flow finds no room,
/// about the other direction.
#[inline(always)]
fn questions<M: Memory>(memory: &M, table: &Table<'_, M>, case: &mut Case) -> Asked {
    let record = memory
        .endpoint(case.endpoint)
        .ok_or(Reason::EndpointUnknown)?;
    if case.is(mark::LATER) {
        return Err(Reason::FragmentNoFirst);
    }
    let returns = case.is(mark::TO_WORKLOAD);
    let (source, destination) = case.addresses();
    let (near, far) = if returns {
        (destination, source)
    } else {
        (source, destination)
    };
    let near_slot = memory.blur(near_slot(memory, table, record, &near)?, case.bytes);
    let far_slot = memory.blur(any_slot(memory, table, &far)?, case.bytes);
    [case.source_slot, case.destination_slot] = if returns {
        [far_slot, near_slot]
    } else {
        [near_slot, far_slot]
    };
    let near = table.slot(near_slot).ok_or(Reason::TableCorrupt)?;
    let far = table.slot(far_slot).ok_or(Reason::TableCorrupt)?;
    if matches!(far.kind, SlotKind::Virtual) {
        // Nothing has translated it, and nothing behind this hook is asked about it.
        return Err(Reason::VirtualUndecided);
    }
    let mut asked = [PolicyQuestion::UNASKED; QUESTIONS];
    if returns {
        asked[2] = PolicyQuestion::new(&near, &far, false);
        return Ok(Some(asked));
    }
    // A remote receiver's node reports for itself.
    asked[1] = PolicyQuestion::new(&near, &far, true);
    if matches!(far.kind, SlotKind::LocalWorkload | SlotKind::RemoteWorkload) {
        asked[2] = PolicyQuestion::new(&far, &near, false);
    }
    for question in &mut asked {
        question.blur(memory, case.bytes);
    }
    Ok(Some(asked))
}

/// The slot that the endpoint is judged by: that of its address, or of its first one where
/// the node's address, or one that the node translates to, stands for it.
#[inline(always)]
fn near_slot<M: Memory>(
    memory: &M,
    table: &Table<'_, M>,
    record: &EndpointRecord,
    address: &Address,
) -> Result<u32, Reason> {
    let own = own_slot(record, address);
    if own != 0 {
        return Ok(own);
    }
    match find_address(memory, address) {
        Found::Value(slot) => {
            let profile = table.slot(slot).ok_or(Reason::TableCorrupt)?;
            if !matches!(profile.kind, SlotKind::OwnNode) {
                return Err(Reason::ForeignLocalAddress);
            }
        }
        Found::Absent => {}
        Found::Unknown => return Err(Reason::AddressContended),
    }
    Ok(family_slot(record, address.family))
}
