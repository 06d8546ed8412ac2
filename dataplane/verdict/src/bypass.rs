//! For a time that somebody has set, policy denies an endpoint nothing.
//!
//! The time lies beside the bindings of the endpoint's slots, so that it ends without an
//! agent too, and so that the hook of the other end knows of it. Only what policy denies is
//! let pass: a forged source, a malformed header or a closed endpoint stays denied. Each
//! packet is decided by itself: an entry of the flow table says only in which direction the
//! flow began ([`kept_revision`]), and counts no more once the time is over.

use crate::{
    case::{Case, mark},
    memory::{FlowMemory, Memory},
    verdict::Direction,
};

/// Longest time, in jiffies: about 37 h at 1 000 a second, and longer at less. The clock comes
/// round after some weeks, and a time that nobody has ended with it.
pub const MAX_JIFFIES: u32 = 1 << 27;

/// Slot whose word is not 0 while policy denies any endpoint nothing, or has done so and nobody
/// has ended it: whatever is denied looks there first.
pub const ANY_SLOT: u32 = 0;

/// Returns `true` if there may be an endpoint that policy denies nothing.
#[inline(always)]
pub fn is_any<M: Memory>(memory: &M) -> bool {
    let binding = memory.binding(ANY_SLOT);
    binding.is_some_and(|binding| binding.bypassed_until.load() != 0)
}

/// Asks whether policy may deny the ends of a packet nothing just now, and marks those
/// whose policy is not to be asked. Returns `true` if there are any.
#[inline(always)]
pub fn waive<M: FlowMemory>(memory: &M, case: &mut Case) -> bool {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return false;
    };
    let received = case.is(mark::TO_WORKLOAD);
    let far_slot = if received {
        case.source_slot
    } else {
        case.destination_slot
    };
    let near = is_bypassed(memory, record.primary_slot);
    let far = is_bypassed(memory, far_slot);
    if !near && !far {
        return false;
    }
    let (receiver, sender) = if received { (near, far) } else { (far, near) };
    if sender {
        case.marks |= mark::EGRESS_WAIVED;
    }
    if receiver {
        case.marks |= mark::INGRESS_WAIVED;
    }
    // The last hook on the node that judges says what policy would have denied.
    let is_local = |slot| {
        let binding = memory.binding(slot);
        binding.is_some_and(|binding| binding.ifindex.load() != 0)
    };
    case.audited = case.enforced;
    if received || !is_local(far_slot) {
        let is_ingress = case.direction == Direction::Ingress as u32;
        case.note_audit(if is_ingress {
            Direction::Ingress
        } else {
            Direction::Egress
        });
    }
    true
}

/// Revision under which a flow is remembered: where policy was not asked, that of no table in
/// force, so that the flow's next packet is decided again.
#[inline(always)]
pub(crate) const fn kept_revision(case: &Case) -> u32 {
    case.revision.wrapping_sub(case.is(mark::WAIVED) as u32)
}

/// Returns `true` while policy denies the endpoint of a slot nothing.
#[inline(always)]
fn is_bypassed<M: FlowMemory>(memory: &M, slot: u32) -> bool {
    let Some(binding) = memory.binding(slot) else {
        return false;
    };
    let until = binding.bypassed_until.load();
    if until == 0 {
        return false;
    }
    let left = until.wrapping_sub(memory.jiffies());
    left != 0 && left <= MAX_JIFFIES
}
