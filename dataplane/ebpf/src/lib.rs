//! The kernel programs' common body: a thin shell around `cofferdam-verdict`.
//!
//! Each hook has two programs with the same body: one for a tcx link and one for
//! the clsact filter behind it. They differ in what they return for an allowed
//! packet, and in that the filter lets pass what its tcx twin has just judged.
//!
//! Invariant: every packet that is judged leaves through [`leave`], which counts.

#![no_std]
#![feature(asm_experimental_arch)]

mod frame;
mod memory;

use aya_ebpf::programs::TcContext;
use cofferdam_verdict::{
    counter::{self, Hook},
    judge::{self, Case, Inspected},
    packet::MAX_HEADER_BYTES,
};

use crate::memory::Maps;

/// Returned at tcx: the packet is dropped, the chain ends.
pub const DROP: i32 = 2;
/// Returned at tcx: the packet passes, the chain ends.
pub const PASS: i32 = 0;
/// Returned at tcx and by a filter: whoever stands behind decides.
const NEXT: i32 = -1;

/// Which of the two ways a program is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// By a tcx link.
    Link,
    /// As a filter of a clsact qdisc, behind tcx.
    Filter,
}

/// Judges a packet and says what becomes of it.
#[inline(always)]
pub fn run(context: &TcContext, hook: Hook, attachment: Attachment) -> i32 {
    let buffer = frame::Buffer::new(context);
    if matches!(attachment, Attachment::Filter) && buffer.take_mark(hook) {
        return NEXT;
    }
    let maps = Maps;
    maps.count(counter::seen(hook), buffer.length());
    let about = buffer.context();
    let linear = buffer.linear();
    let mut inspected = judge::inspect(&maps, &linear, &about, hook);
    if linear.is_cut() && matches!(inspected, Inspected::Decided(case) if !case.is_allowed()) {
        // Headers outside the linear part are ordinary input: a frame over 4 KiB
        // from a packet socket shows 14 bytes.
        buffer.pull(MAX_HEADER_BYTES);
        inspected = judge::inspect(&maps, &buffer.linear(), &about, hook);
    }
    let case = match inspected {
        Inspected::Decided(case) => case,
        Inspected::Open(mut case) => {
            answer(&raw mut case);
            case
        }
    };
    leave(&buffer, &maps, hook, attachment, &case)
}

/// Decides a case. A global function: the verifier checks it once, by itself,
/// and takes no interest in how its callers came here.
///
/// # Safety
///
/// The kernel's verifier has checked that `case` is null or a case.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        judge::answer(&Maps, case);
    }
    0
}

/// The only way out of a program that has judged.
#[inline(always)]
fn leave(
    buffer: &frame::Buffer,
    maps: &Maps,
    hook: Hook,
    attachment: Attachment,
    case: &Case,
) -> i32 {
    maps.count(counter::judged_word(hook, case.enforced), buffer.length());
    if !case.is_allowed() {
        return DROP;
    }
    match attachment {
        Attachment::Filter => NEXT,
        Attachment::Link if case.shared_hooks != 0 => {
            buffer.mark(hook);
            NEXT
        }
        Attachment::Link => PASS,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in these programs can panic; the linker refuses one that could
    // reach this, because the verifier would refuse its endless loop.
    loop {}
}

/// The half of the dual licence that the kernel knows by name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
