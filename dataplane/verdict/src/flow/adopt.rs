//! TCP connections from before an endpoint was put in force.
//!
//! A segment that opens nothing and belongs to no flow may be one of a connection that
//! policy would allow, or the answer on one that it denies. Which end opened it shows where
//! an end is known to have taken connections at its port when filters first went on its
//! interface ([`EndpointRecord::listeners`]): that end did not. Only the direction towards
//! it counts then. Where no end is known to, which tells nothing, both directions count.
//!
//! | listener | the segment is | allowed | denied |
//! |---|---|---|---|
//! | at its receiver | the opener's | begins a flow | dropped |
//! | at its sender | an answer | passes, and begins none: the opener's next segment does | dropped |
//! | not known | either | begins a flow if both directions are allowed | dropped |
//!
//! Both ends may have listened: of a workload's port and another local one's, the other's
//! counts. A workload cannot make itself the answering end of a connection that it opened.
//!
//! Invariant, deadline: nothing is adopted after the time in the endpoint's record.

use crate::{
    address::Family,
    bucket::{Found, find},
    case::{Case, mark},
    endpoint::{EndpointRecord, STAMP_KEY},
    flow::{
        step,
        track::{turn, turn_back},
    },
    memory::{BucketSet, FlowMemory, Memory},
};

/// End that opened the connection of a segment.
enum Opener {
    Sender,
    Receiver,
    Unknown,
}

/// Prepares the second question about a TCP segment that opens nothing, or about a packet
/// whose flow finds no room: whether policy allows the other direction. Turns the case round
/// for that and returns `true`, if the answer counts.
#[inline(always)]
pub fn adopt<M: FlowMemory>(memory: &M, case: &mut Case) -> bool {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return false;
    };
    // Jiffies wrap; no deadline comes near half of their range.
    let end = record.adopt_until.load();
    let left = end.wrapping_sub(memory.jiffies());
    let is_full = case.flow_step == step::FULL;
    if !is_full && (end == 0 || left == 0 || left >> 31 != 0) {
        return false;
    }
    let opener = if is_full {
        Opener::Unknown
    } else {
        opener(memory, record, case)
    };
    match opener {
        Opener::Sender => {
            case.marks |= mark::ADOPTED;
            return false;
        }
        // The opener's own segment begins the flow: this one needs no place.
        Opener::Receiver => case.flow_step = step::SETTLED,
        Opener::Unknown if !case.is_allowed() => return false,
        Opener::Unknown => {}
    }
    turn(case);
    case.marks |= mark::TURNED | mark::ASSUMED;
    true
}

#[inline(always)]
fn opener<M: Memory>(memory: &M, record: &EndpointRecord, case: &Case) -> Opener {
    let sent = !case.is(mark::TO_WORKLOAD);
    let (from, to) = ((case.ports >> 16) as u16, case.ports as u16);
    let (own, others, other_slot) = if sent {
        (from, to, case.destination_slot)
    } else {
        (to, from, case.source_slot)
    };
    let family = case.addresses().0.family;
    let is_other = peer_listened(memory, case, other_slot, family, others);
    if !is_other && !record.listened(family, own) {
        return Opener::Unknown;
    }
    // The workload sends, and the other end listened; or the reverse.
    if sent == is_other {
        Opener::Sender
    } else {
        Opener::Receiver
    }
}

/// Returns `true` if the other end is a workload of this node that is known to have
/// listened at a port.
#[inline(always)]
fn peer_listened<M: Memory>(memory: &M, case: &Case, slot: u32, family: Family, port: u16) -> bool {
    // Behind the node's address the port may be another than the workload's.
    let Some(binding) = memory.binding(slot).filter(|_| !case.is(mark::MASQUERADED)) else {
        return false;
    };
    let stamp = binding.stamp.load();
    if stamp == 0 {
        return false;
    }
    let Found::Value(value) = find::<_, 1>(memory, BucketSet::Endpoint, &[STAMP_KEY | stamp])
    else {
        return false;
    };
    let peer = memory.endpoint(value.wrapping_sub(1));
    peer.is_some_and(|peer| peer.stamp == stamp && peer.listened(family, port))
}

/// Answers of a case, put aside while its other direction is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Aside {
    enforced: u32,
    audited: u32,
    direction: u32,
    slots: [u32; 2],
    marks: u32,
}

impl Aside {
    /// Puts a case's answers aside.
    #[inline(always)]
    pub const fn of(case: &Case) -> Self {
        Self {
            enforced: case.enforced,
            audited: case.audited,
            direction: case.direction,
            slots: [case.source_slot, case.destination_slot],
            marks: case.marks,
        }
    }

    /// Turns the case back. Where both directions count its answers are those put aside,
    /// unless the other direction is denied: then the case is, for that reason. Where the
    /// other direction alone counts, so does its answer, and no rule is hit: the flow that
    /// the opener's segment begins will.
    #[inline(always)]
    pub fn restore(&self, case: &mut Case) {
        turn_back(case);
        case.marks = self.marks;
        [case.source_slot, case.destination_slot] = self.slots;
        if case.flow_step == step::SETTLED {
            case.marks &= !(mark::AUDIT_INGRESS | mark::AUDIT_EGRESS);
            case.marks |= mark::RENEWED;
        } else if case.is_allowed() {
            case.marks |= mark::BOTH_WAYS;
            case.enforced = self.enforced;
            case.audited = self.audited;
            case.direction = self.direction;
        }
    }
}
