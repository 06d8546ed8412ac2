//! The kernel programs' common body: a thin shell around `cofferdam-verdict`.
//!
//! Each hook has two programs with the same body: one for a tcx link and one for
//! the clsact filter behind it. They differ in what they return for an allowed
//! packet, and in that the filter lets pass what its tcx twin has just judged.
//!
//! Invariant: every packet that is judged leaves through [`leave`], which counts.

#![no_std]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "compare-and-swap on this target exists as an intrinsic only"
)]

mod frame;
mod memory;
mod reports;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_action, xdp_md},
    programs::{TcContext, XdpContext},
};
use cofferdam_verdict::{
    address::Address,
    arrival::{self, Arrived},
    bucket::{Found, find_address},
    bypass,
    counter::{self, Hook},
    door, flow, fragment, hits,
    judge::{self, Case, Inspected},
    memory::{FlowMemory as _, Memory as _},
    packet::{Frame as _, MAX_HEADER_BYTES},
    pipeline::{self, Steps},
    reason::Reason,
    related, uplink,
    verdict::Action,
};

use crate::{
    memory::Maps,
    reports::{report, tell},
};

/// Returned at tcx: the packet is dropped, the chain ends.
pub const DROP: i32 = 2;
/// Returned at tcx: the packet passes, the chain ends.
pub const PASS: i32 = 0;
/// Returned at tcx and by a filter: whoever stands behind decides.
const NEXT: i32 = -1;

/// Way in which a program is attached, one of two.
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
    let buffer = frame::Buffer::new(context.as_ptr().cast());
    if matches!(attachment, Attachment::Filter)
        && let Some(stamp) = buffer.take_mark(hook)
    {
        if matches!(hook, Hook::FromWorkload) {
            // Programs between the two may have written their own.
            buffer.stamp(stamp);
        }
        return NEXT;
    }
    let maps = Maps;
    let steps = Programs {
        buffer: &buffer,
        hook,
        left: match hook {
            _ if memory::casts_socket_buffer() => frame::NOTHING_LEFT,
            // What no interface has brought, sockets of this node have sent.
            Hook::ToWorkload if buffer.context().ingress_ifindex == 0 => frame::NOTHING_LEFT,
            Hook::FromWorkload | Hook::ToWorkload => left(buffer.raw()),
            Hook::UplinkIngress | Hook::UplinkEgress => frame::NOTHING_LEFT,
        },
    };
    if !buffer.is_probe() {
        maps.count(counter::seen(hook), buffer.length());
        if let Some(stamp) = steps.hurry() {
            let passed = counter::judged(hook, Action::Allow, Reason::Flow);
            maps.count(passed, buffer.length());
            if matches!(hook, Hook::FromWorkload) {
                buffer.stamp(stamp);
            }
            return match attachment {
                Attachment::Filter => NEXT,
                Attachment::Link => PASS,
            };
        }
    }
    let mut case = Case::blank(hook, buffer.length());
    // Asked again: what is kept across the short way takes room on the stack.
    let is_probe = buffer.is_probe();
    let asked = pipeline::walk(&steps, &mut case, is_probe);
    // Only where policy was asked: the packets of a flow do not pay for it.
    if asked && !is_probe {
        tell(&buffer, hook, &mut case);
    }
    if is_probe {
        buffer.answer(&case, maps.jiffies64() as u32);
        return if case.is_allowed() { PASS } else { DROP };
    }
    leave(&buffer, &maps, hook, attachment, &mut case)
}

/// Drops what carries a local workload's address by an interface that is no endpoint's,
/// and takes the stamp off the rest, which goes on.
#[inline(always)]
pub fn clear(context: &TcContext) -> i32 {
    let buffer = frame::Buffer::new(context.as_ptr().cast());
    buffer.stamp(0);
    let mut linear = buffer.linear(frame::NOTHING_LEFT);
    if linear.is_cut() {
        buffer.pull(MAX_HEADER_BYTES);
        linear = buffer.linear(frame::NOTHING_LEFT);
    }
    let hook = Hook::UplinkIngress;
    let mut case = Case::blank(hook, buffer.length());
    if !door::refuses(&Maps, &linear, &mut case) {
        return NEXT;
    }
    Maps.count(counter::seen(hook), buffer.length());
    Maps.count(counter::judged_word(hook, case.enforced), buffer.length());
    report(&raw mut case, buffer.context().ifindex, hook as u32);
    DROP
}

/// Judges a packet on its way off the node, if nobody has decided about its receiver yet.
///
/// Nothing behind this hook asks for the stamp of what it has judged, nor, where
/// `is_last`, of anything: it is taken off. The stamp stays on what a tunnel wraps, so that
/// the packet around it is known by its sender. Without the stamp, the filter behind a link
/// has nothing to judge: a link and a filter are the same program.
#[inline(always)]
pub fn leave_node(context: &TcContext, is_last: bool) -> i32 {
    let buffer = frame::Buffer::new(context.as_ptr().cast());
    let carried = buffer.carried();
    if !uplink::is_undecided(carried) {
        if carried != 0 && memory::notes_leaving() {
            note(&buffer);
        }
        if is_last {
            buffer.stamp(0);
        }
        return NEXT;
    }
    let hook = Hook::UplinkEgress;
    let maps = Maps;
    let steps = Programs {
        buffer: &buffer,
        hook,
        left: frame::NOTHING_LEFT,
    };
    maps.count(counter::seen(hook), buffer.length());
    let mut case = Case::blank(hook, buffer.length());
    let asked = pipeline::walk(&steps, &mut case, false);
    if asked {
        tell(&buffer, hook, &mut case);
    }
    maps.count(counter::judged_word(hook, case.enforced), buffer.length());
    if !case.is_allowed() {
        report(&raw mut case, buffer.context().ifindex, hook as u32);
        return DROP;
    }
    buffer.stamp(0);
    NEXT
}

/// Notes a packet that leaves the node translated, so that its reply is known where it comes
/// in. Where that fails, a reply may be dropped there.
#[inline(always)]
fn note(buffer: &frame::Buffer) {
    let mut case = Case::blank(Hook::UplinkEgress, buffer.length());
    if inspect_leaving(buffer.raw(), &raw mut case) != OPEN || leaves(&raw mut case) == 0 {
        return;
    }
    choose(&raw mut case);
    if flow::is_placed(&case) {
        remember(&raw mut case);
    }
}

/// Drops a frame that comes in by an uplink, if the workload's hook is certain to drop it.
#[inline(always)]
pub fn arrive(context: &XdpContext) -> u32 {
    const DROPPED: u32 = xdp_action::XDP_DROP;
    const PASSED: u32 = xdp_action::XDP_PASS;
    let hook = Hook::UplinkIngress;
    let maps = Maps;
    // Its length is known later.
    let mut case = Case::blank(hook, 0);
    let arrived = inspect_arriving(context.ctx, &raw mut case);
    if arrived == PASSES {
        return PASSED;
    }
    if arrived == OPEN {
        if cover_arriving(&raw mut case) == 0 {
            return PASSED;
        }
        if !case.is_settled() && answer_arriving(&raw mut case) == 0 {
            return PASSED;
        }
    }
    maps.count(counter::seen(hook), case.bytes);
    maps.count(counter::judged_word(hook, case.enforced), case.bytes);
    if case.is_allowed() {
        return PASSED;
    }
    count(&raw mut case, hook as u32);
    // SAFETY: the kernel hands the program a valid context.
    let ifindex = unsafe { (*context.ctx).ingress_ifindex };
    report(&raw mut case, ifindex, hook as u32);
    DROPPED
}

/// Answer of [`inspect_arriving`]: the frame passes up.
const PASSES: i32 = 3;

/// Reads the headers of a frame that comes in by an uplink: returns [`PASSES`], [`DECIDED`]
/// or [`OPEN`].
///
/// # Safety
///
/// The kernel's verifier has checked that `xdp` is the program's context, and `case` null or
/// a case.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_arriving(xdp: *mut xdp_md, case: *mut Case) -> i32 {
    // SAFETY: see above.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return PASSES;
    };
    let frame = frame::Arriving::new(xdp);
    if frame.is_cut() {
        return PASSES;
    }
    case.bytes = frame.length();
    match arrival::inspect(&Maps, &frame, case) {
        Arrived::Passes => PASSES,
        Arrived::Dropped => DECIDED,
        Arrived::Open => OPEN,
    }
}

/// Asks flows about a frame that comes in by an uplink. Returns 0 if it passes up.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cover_arriving(case: *mut Case) -> i32 {
    // SAFETY: see above.
    match unsafe { case.as_mut() } {
        Some(case) => i32::from(arrival::cover(&Maps, case)),
        None => 0,
    }
}

/// Asks policy about a frame that comes in by an uplink. Returns 0 if it passes up.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_arriving(case: *mut Case) -> i32 {
    // SAFETY: see above.
    match unsafe { case.as_mut() } {
        Some(case) => i32::from(arrival::answer(&Maps, case)),
        None => 0,
    }
}

/// Looks for the flow of a packet that leaves the node, and prepares it for being noted.
/// Returns 0 if it need not be.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaves(case: *mut Case) -> i32 {
    // SAFETY: see above.
    match unsafe { case.as_mut() } {
        Some(case) => i32::from(flow::leaves(&Maps, case)),
        None => 0,
    }
}

/// The steps of a verdict, each a global function: the verifier checks each once, by
/// itself, and takes no interest in how its callers came here.
struct Programs<'a> {
    buffer: &'a frame::Buffer,
    hook: Hook,
    /// The word of [`left()`], where that must be asked.
    left: u64,
}

impl Steps for Programs<'_> {
    #[inline(always)]
    fn hurry(&self) -> Option<u32> {
        match self.hook {
            Hook::UplinkEgress => None,
            hook => flow::hurry(&Maps, &frame::Plain::new(self.buffer, self.left), hook),
        }
    }

    #[inline(always)]
    fn inspect(&self, case: &mut Case) -> Inspected {
        let raw = self.buffer.raw();
        let look = |case: &mut Case| match self.hook {
            Hook::UplinkEgress => inspect_leaving(raw, &raw mut *case),
            hook => inspect(raw, &raw mut *case, hook as u32, self.left),
        };
        let mut inspected = look(case);
        if inspected == CUT {
            // Headers outside the linear part are ordinary input: a frame over 4 KiB
            // from a packet socket shows 14 bytes.
            self.buffer.pull(MAX_HEADER_BYTES);
            inspected = look(case);
        }
        if inspected == OPEN {
            Inspected::Open
        } else {
            Inspected::Decided
        }
    }

    #[inline(always)]
    fn signal(&self, case: &mut Case) -> Inspected {
        if self.buffer.linear(self.left).is_cut() {
            self.buffer.pull(MAX_HEADER_BYTES);
        }
        if signal(self.buffer.raw(), &raw mut *case) == OPEN {
            Inspected::Open
        } else {
            Inspected::Decided
        }
    }

    #[inline(always)]
    fn follow(&self, case: &mut Case) {
        follow(&raw mut *case);
    }

    #[inline(always)]
    fn track(&self, case: &mut Case) {
        track(&raw mut *case);
    }

    #[inline(always)]
    fn relate(&self, case: &mut Case) {
        if self.buffer.linear(self.left).is_cut() {
            self.buffer.pull(MAX_HEADER_BYTES);
        }
        relate(self.buffer.raw(), &raw mut *case);
    }

    #[inline(always)]
    fn answer(&self, case: &mut Case) {
        match self.hook {
            Hook::UplinkEgress => answer_leaving(&raw mut *case),
            _ => answer(&raw mut *case),
        };
    }

    #[inline(always)]
    fn waive(&self, case: &mut Case) -> bool {
        bypass::is_any(&Maps) && waive(&raw mut *case) != 0
    }

    #[inline(always)]
    fn adopt(&self, case: &mut Case) -> bool {
        adopt(&raw mut *case) != 0
    }

    #[inline(always)]
    fn choose(&self, case: &mut Case) {
        choose(&raw mut *case);
    }

    #[inline(always)]
    fn remember(&self, case: &mut Case) {
        remember(&raw mut *case);
    }

    #[inline(always)]
    fn hold(&self, case: &mut Case) {
        hold(&raw mut *case);
    }

    #[inline(always)]
    fn count(&self, case: &mut Case) {
        count(&raw mut *case, self.hook as u32);
    }
}

/// Returned by [`inspect`]: the headers decide.
const DECIDED: i32 = 0;
/// Returned by [`inspect`]: the tables must be asked.
const OPEN: i32 = 1;
/// Returned by [`inspect`]: the headers deny, but there may be more of them than could be read.
const CUT: i32 = 2;

/// Says what checksum a packet leaves to be written, in one word, on kernels where it takes a
/// copy: the room for that is in a frame of its own on the stack.
///
/// # Safety
///
/// The kernel's verifier has checked that `skb` is the program's context.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn left(skb: *mut __sk_buff) -> u64 {
    if memory::casts_socket_buffer() {
        return frame::NOTHING_LEFT;
    }
    frame::Buffer::new(skb).left_by_copy()
}

/// Reads the packet's headers, and returns one of the three numbers above. `left` is the
/// word of [`left()`], if that was asked.
///
/// # Safety
///
/// The kernel's verifier has checked that `skb` is the program's context, and `case`
/// null or a case.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect(skb: *mut __sk_buff, case: *mut Case, hook: u32, left: u64) -> i32 {
    // SAFETY: see above.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return DECIDED;
    };
    let buffer = frame::Buffer::new(skb);
    let linear = buffer.linear(left);
    match judge::inspect(
        &Maps,
        &linear,
        &buffer.context(),
        Hook::of_number(hook),
        case,
    ) {
        Inspected::Open => OPEN,
        Inspected::Decided if linear.is_cut() && !case.is_allowed() => CUT,
        Inspected::Decided => DECIDED,
    }
}

/// Most bytes before the network header of a packet that leaves the node: those of tags, or
/// of what a tunnel has put there.
const MAX_BYTES_BEFORE: u32 = 128;

/// Reads the headers of a packet that leaves the node; otherwise as [`inspect`].
///
/// # Safety
///
/// As for [`inspect`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_leaving(skb: *mut __sk_buff, case: *mut Case) -> i32 {
    // SAFETY: see above.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return DECIDED;
    };
    let buffer = frame::Buffer::new(skb);
    let before = buffer.network_offset();
    if before > MAX_BYTES_BEFORE {
        case.deny(Reason::Malformed);
        return DECIDED;
    }
    let packet = frame::Leaving::new(&buffer, before);
    match uplink::inspect(&Maps, &packet, buffer.ethertype(), buffer.carried(), case) {
        Inspected::Open => OPEN,
        Inspected::Decided if packet.is_cut() && !case.is_allowed() => CUT,
        Inspected::Decided => DECIDED,
    }
}

/// Asks policy about a packet that leaves the node.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_leaving(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        uplink::answer(&Maps, case);
    }
    0
}

/// Asks the flow table.
///
/// # Safety
///
/// The kernel's verifier has checked that `case` is null or a case.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn track(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        flow::track(&Maps, case);
    }
    0
}

/// Looks for the first fragment of a later one.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn follow(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        fragment::follow(&Maps, case);
    }
    0
}

/// Remembers an allowed first fragment.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hold(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        fragment::hold(&Maps, case);
    }
    0
}

/// Counts the rules that decided.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count(case: *mut Case, hook: u32) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_ref() } {
        hits::count(&Maps, case, Hook::of_number(hook));
    }
    0
}

/// Decides a packet that may be signalling: returns [`DECIDED`] or [`OPEN`].
///
/// # Safety
///
/// As for [`inspect`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn signal(skb: *mut __sk_buff, case: *mut Case) -> i32 {
    // SAFETY: see above.
    let Some(case) = (unsafe { case.as_mut() }) else {
        return DECIDED;
    };
    match judge::signal(
        &Maps,
        &frame::Buffer::new(skb).linear(frame::NOTHING_LEFT),
        case,
    ) {
        Inspected::Open => OPEN,
        Inspected::Decided => DECIDED,
    }
}

/// Looks for the flow of the packet that an ICMP error quotes.
///
/// # Safety
///
/// As for [`inspect`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn relate(skb: *mut __sk_buff, case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        let buffer = frame::Buffer::new(skb);
        related::relate(&Maps, &buffer.linear(frame::NOTHING_LEFT), case);
    }
    0
}

/// Marks the ends that policy may deny nothing just now. Returns 0 if there are none.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn waive(case: *mut Case) -> i32 {
    // SAFETY: see above.
    match unsafe { case.as_mut() } {
        Some(case) => i32::from(bypass::waive(&Maps, case)),
        None => 0,
    }
}

/// Turns the case of a segment that opens nothing round, so that policy is asked about the
/// other direction. Returns 0 if nothing is to be asked.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn adopt(case: *mut Case) -> i32 {
    // SAFETY: see above.
    match unsafe { case.as_mut() } {
        Some(case) => i32::from(flow::adopt(&Maps, case)),
        None => 0,
    }
}

/// Asks policy.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        judge::answer(&Maps, case);
    }
    0
}

/// Chooses a place in the flow table for an allowed packet.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        flow::choose(&Maps, case);
    }
    0
}

/// Tells the flow table what policy has said.
///
/// # Safety
///
/// As for [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember(case: *mut Case) -> i32 {
    // SAFETY: see above.
    if let Some(case) = unsafe { case.as_mut() } {
        flow::remember(&Maps, case);
    }
    0
}

/// The slot of an address, for programs that measure the lookup alone.
#[inline(always)]
pub fn find_source(address: &Address) -> Found {
    find_address(&Maps, address)
}

/// Forgets the flows of a set of the first partition, for programs that measure. `false`
/// if there is no such set.
#[inline(always)]
pub fn clear_flows(set: u32) -> bool {
    let Some(set) = Maps.flow_set(0, set) else {
        return false;
    };
    for entry in &set.ways {
        entry.state.put(0);
    }
    true
}

/// Keeps loads before this call from being done after it, for a program that shows it.
#[inline(always)]
pub fn order_loads() {
    Maps.order_loads();
}

/// The only way out of a program that has judged.
#[inline(always)]
fn leave(
    buffer: &frame::Buffer,
    maps: &Maps,
    hook: Hook,
    attachment: Attachment,
    case: &mut Case,
) -> i32 {
    maps.count(counter::judged_word(hook, case.enforced), buffer.length());
    if !case.is_allowed() {
        report(&raw mut *case, buffer.context().ifindex, hook as u32);
        return DROP;
    }
    if matches!(hook, Hook::FromWorkload) {
        buffer.stamp(case.stamp);
    }
    match attachment {
        Attachment::Filter => NEXT,
        Attachment::Link if case.shares_hooks() => {
            buffer.mark(hook, case.stamp);
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
