//! Packets that come in by an uplink, before anything else of the node sees them.
//!
//! An optimisation: what is dropped here would be dropped at the workload's own hook, which
//! decides alone. So a packet is dropped only if that is certain: it has a local workload's
//! address as its source; or it goes to a local workload and is malformed, or the workload's
//! ingress policy denies it and no flow covers it. A SYN that opens a connection needs no
//! look at flows: policy is asked about it at the workload's hook, too.
//!
//! Everything else passes up, uncounted: errors and later fragments, signalling, tags, what is
//! not whole in the readable part, packets to and from the node's own addresses, and whatever
//! has an answer that is neither policy's nor a flow's.
//!
//! Not judged here: a remote sender's egress, and what audit policies would say. The
//! workload's hook reports that.

use crate::{
    address::Address,
    bucket::{Found, find_address},
    bypass,
    case::{Case, mark},
    door,
    endpoint::flags,
    flow::{self, is_opening},
    judge::{Asked, PolicyQuestion, QUESTIONS, any_slot, decide, is_error, own_slot, stamped},
    memory::{FlowMemory, Memory},
    packet::{self, ETHERNET_BYTES, Frame, Part, ethertype, protocol},
    reason::Reason,
    signalling,
    table::{SlotKind, Table},
    verdict::Verdict,
};

/// Answer of a look at a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The packet passes up, and is not judged.
    Passes,
    /// The frame itself decides: the packet is dropped.
    Dropped,
    /// Flows and tables must be asked.
    Open,
}

/// Looks at a frame, and fills in a blank case. The first [`packet::MAX_HEADER_BYTES`] of the
/// frame can be read, or all of it.
#[inline(always)]
pub fn inspect<M: Memory, F: Frame>(memory: &M, frame: &F, case: &mut Case) -> Arrived {
    if door::refuses(memory, frame, case) {
        return Arrived::Dropped;
    }
    let Ok(ethernet) = packet::ethernet(frame) else {
        return Arrived::Passes;
    };
    let Some((destination, is_plain)) = destination(frame, ethernet.ethertype) else {
        return Arrived::Passes;
    };
    if ethernet.destination >> 40 & 1 != 0 {
        return Arrived::Passes;
    }
    let Found::Value(slot) = find_address(memory, &destination) else {
        return Arrived::Passes;
    };
    let stamp = memory
        .binding(slot)
        .map_or(0, |binding| binding.stamp.load());
    let Some((number, record)) = stamped(memory, stamp) else {
        return Arrived::Passes;
    };
    if own_slot(record, &destination) == 0 || record.flags.load() & flags::DENY_ALL != 0 {
        return Arrived::Passes;
    }
    case.endpoint = number;
    case.destination_slot = slot;
    case.destination = destination.words;
    let packet = match packet::parse(frame, ethernet.ethertype) {
        Ok(packet) => packet,
        Err(Reason::Malformed) if is_plain => {
            case.kind = u32::from(ethernet.ethertype) << 16;
            case.settle(Verdict::deny(Reason::Malformed));
            return Arrived::Dropped;
        }
        Err(_) => return Arrived::Passes,
    };
    if matches!(packet.part, Part::Later) || is_error(&packet) || signalling::is_possible(&packet) {
        return Arrived::Passes;
    }
    case.describe(&packet, ethernet.ethertype);
    if ethernet.ethertype == ethertype::IPV6 {
        case.marks |= mark::V6;
    }
    Arrived::Open
}

/// The destination of an IP packet, and whether its headers are those of a whole datagram
/// without extensions: the node may put others together before the workload's hook sees them.
#[inline(always)]
fn destination<F: Frame>(frame: &F, kind: u16) -> Option<(Address, bool)> {
    const FRAGMENT: u16 = 0x3fff;
    match kind {
        ethertype::IPV4 => {
            let b = frame.read::<20>(ETHERNET_BYTES)?;
            let is_whole = u16::from_be_bytes([b[6], b[7]]) & FRAGMENT == 0;
            Some((Address::v4([b[16], b[17], b[18], b[19]]), is_whole))
        }
        ethertype::IPV6 => {
            let b = frame.read::<40>(ETHERNET_BYTES)?;
            let mut words = [0; 16];
            words.copy_from_slice(&b[24..40]);
            let is_plain = matches!(
                b[6],
                protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMPV6
            );
            Some((Address::v6(words), is_plain))
        }
        _ => None,
    }
}

/// Settles a packet by a flow that covers it; leaves others alone. Returns `false` if the
/// packet passes up without an answer.
#[inline(always)]
pub fn cover<M: FlowMemory>(memory: &M, case: &mut Case) -> bool {
    if is_opening(case) {
        return true;
    }
    if flow::covers(memory, case) {
        case.settle(Verdict::allow(Reason::Flow));
        case.flow_step = flow::step::SETTLED;
        return true;
    }
    // The workload's hook may adopt a connection from before.
    case.protocol() != protocol::TCP || !is_adopting(memory, case)
}

/// Returns `true` while the workload's hook adopts connections from before.
#[inline(always)]
fn is_adopting<M: FlowMemory>(memory: &M, case: &Case) -> bool {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return true;
    };
    let end = record.adopt_until.load();
    let left = end.wrapping_sub(memory.jiffies());
    end != 0 && left >> 31 == 0
}

/// Asks policy about a packet that no flow covers. Returns `false` if the answer is not
/// policy's: the packet passes up then.
#[inline(always)]
pub fn answer<M: FlowMemory>(memory: &M, case: &mut Case) -> bool {
    decide(memory, case, questions);
    if case.is_denied_by_policy() {
        if bypass::is_any(memory) && bypass::waive(memory, case) {
            return false;
        }
        // This hook drops it, so that the rule's hit is this one's to count.
        case.marks |= mark::COUNTED;
        return true;
    }
    case.is_allowed()
}

#[inline(always)]
fn questions<M: Memory>(memory: &M, table: &Table<'_, M>, case: &mut Case) -> Asked {
    let (source, _) = case.addresses();
    case.source_slot = memory.blur(any_slot(memory, table, &source)?, case.bytes);
    let far = table.slot(case.source_slot).ok_or(Reason::TableCorrupt)?;
    let near = table
        .slot(case.destination_slot)
        .ok_or(Reason::TableCorrupt)?;
    if matches!(
        far.kind,
        SlotKind::OwnNode | SlotKind::LocalWorkload | SlotKind::Virtual
    ) || !matches!(near.kind, SlotKind::LocalWorkload)
    {
        return Err(Reason::ForeignLocalAddress);
    }
    let mut asked = [PolicyQuestion::UNASKED; QUESTIONS];
    asked[2] = PolicyQuestion::new(&near, &far, false);
    for question in &mut asked {
        question.blur(memory, case.bytes);
    }
    Ok(Some(asked))
}
