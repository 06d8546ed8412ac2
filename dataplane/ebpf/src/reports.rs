//! Records for user space: of packets that were denied, or that audit policies would have
//! denied, and of flows that begin and end.

use cofferdam_verdict::{
    counter::{self, Hook},
    event::{EndRecord, EventRecord, kind},
    flow::FlowEntry,
    judge::Case,
    memory::{FlowMemory as _, Memory as _},
};

use crate::{frame, memory::Maps};

/// Reports an allowed packet that policy was asked about: one that audit policies would have
/// denied, and one that has begun a flow.
#[inline(always)]
pub(crate) fn tell(buffer: &frame::Buffer, hook: Hook, case: &mut Case) {
    if case.is_audited() {
        report(&raw mut *case, buffer.context().ifindex, hook as u32);
    }
    if case.has_begun() {
        begin(&raw mut *case, buffer.context().ifindex, hook as u32);
    }
}

/// Reports to user space a packet that was denied, or one that was allowed and that
/// audit policies would have denied, or counts that it could not. What audit policies
/// would have denied is counted here, too.
///
/// # Safety
///
/// As for [`track`](crate::track).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report(case: *mut Case, ifindex: u32, hook: u32) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_ref() } {
        let hook = Hook::of_number(hook);
        let maps = Maps;
        let incarnation = maps
            .endpoint(case.endpoint)
            .map_or(0, |record| record.incarnation);
        let now = maps.jiffies64();
        let mut unreported = counter::unreported(hook);
        if case.is_audited() {
            maps.count(counter::audited_word(hook, case.audited), case.bytes);
            unreported = counter::unreported_audit(hook);
        }
        let record = || EventRecord::new(case, kind::JUDGED, hook, (ifindex, incarnation), now);
        if !maps.may_send(case.endpoint, hook) || !maps.send(record) {
            maps.count(unreported, case.bytes);
        }
    }
    0
}

/// Tells user space of a flow that a packet has begun, if it wants to know, or counts that it
/// could not.
///
/// # Safety
///
/// As for [`track`](crate::track).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin(case: *mut Case, ifindex: u32, hook: u32) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_ref() }
        && Maps.wants_flows()
    {
        let hook = Hook::of_number(hook);
        let endpoint = Maps.endpoint(case.endpoint);
        let incarnation = endpoint.map_or(0, |record| record.incarnation);
        let record = || {
            let now = Maps.jiffies64();
            EventRecord::new(case, kind::BEGUN, hook, (ifindex, incarnation), now)
        };
        if !Maps.send_of_flow(record) {
            Maps.count(counter::unreported_new(hook), case.bytes);
        }
    }
    0
}

/// Tells user space of a flow that has ended, or counts that it could not.
///
/// # Safety
///
/// The kernel's verifier has checked that `entry` is null or an entry.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end(entry: *const FlowEntry, ifindex: u32, incarnation: u32) -> i32 {
    // SAFETY: see above.
    if let Some(entry) = unsafe { entry.as_ref() }
        && entry.is_told_of()
    {
        let record = || EndRecord::new(entry, (ifindex, incarnation), Maps.jiffies64());
        if !Maps.send_of_flow(record) {
            Maps.count(counter::UNREPORTED_ENDED, 0);
        }
    }
    0
}
