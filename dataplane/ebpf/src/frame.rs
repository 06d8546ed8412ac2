//! The kernel's packet buffer, as a frame.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{
        bpf_skb_pull_data,
        generated::{bpf_probe_read_kernel, bpf_xdp_get_buff_len},
    },
};
use cofferdam_verdict::{
    checksum::{CAST_CALL, PARTIAL, PartialChecksum, WINDOW_BYTES, Window},
    counter::Hook,
    flow::{Glance, Words},
    judge::{Case, Context, PROBE, probe, shares_hooks},
    memory::Memory,
    packet::{ETHERNET_BYTES, Frame, MAX_HEADER_BYTES},
};

use crate::memory::{Maps, blurred, casts_socket_buffer, socket_buffer};

/// Words of the control buffer that carry the mark from a tcx program to the
/// filter behind it on the same hook. Nothing runs between the two but other
/// programs of this hook.
const MARK_WORDS: [usize; 2] = [3, 4];

/// Not zero in the twin that tests load: every packet's stamp is then read where a
/// probe's is, because a test run cannot set the kernel's own field.
#[unsafe(no_mangle)]
static STAMP_IN_CONTROL_BUFFER: u32 = 0;

/// Answer of [`left_at`] for a packet whose checksum is written, or not looked at.
pub(crate) const NOTHING_LEFT: u64 = 0;

/// The checksum that a packet leaves to be written, in one word: [`NOTHING_LEFT`], or bit 48,
/// the start above the low 16 bits, and the offset in those. Reads the fields of the kernel's
/// structure that say so.
#[inline(always)]
fn left_at(places: &Window, byte: impl Fn(u32) -> u8, half: impl Fn(u32) -> u16) -> u64 {
    if u32::from(byte(places.ip_summed)) >> places.ip_summed_shift & 3 != PARTIAL {
        return NOTHING_LEFT;
    }
    let start = u32::from(half(places.csum_start)).wrapping_sub(half(places.mac_header).into());
    1 << 48 | u64::from(start) << 16 | u64::from(half(places.csum_offset))
}

#[inline(always)]
fn is_stamp_in_control_buffer() -> bool {
    // SAFETY: the loader's value counts, not the one above.
    unsafe { core::ptr::read_volatile(&raw const STAMP_IN_CONTROL_BUFFER) != 0 }
}

/// Loads a field of the program's context, each time anew.
macro_rules! field {
    ($skb:expr, $field:ident $($at:tt)*) => {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (&raw const (*$skb).$field $($at)*).read_volatile() }
    };
}

/// A packet buffer.
pub(crate) struct Buffer {
    skb: *mut __sk_buff,
}

/// The part of a packet that can be read directly.
pub(crate) struct Linear {
    skb: *mut __sk_buff,
    left: u64,
    data: usize,
    end: usize,
    length: u32,
    gso: bool,
}

impl Buffer {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// The program's context.
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Length of the packet from the Ethernet header on.
    #[inline(always)]
    pub(crate) fn length(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.skb).len }
    }

    /// Returns `true` if the packet is a question of user space.
    #[inline(always)]
    pub(crate) fn is_probe(&self) -> bool {
        // SAFETY: as in `length`. Volatile, so that nothing is kept of it.
        unsafe { (&raw const (*self.skb).ingress_ifindex).read_volatile() & PROBE != 0 }
    }

    /// Returns the context that the kernel gives beside the packet's bytes.
    #[inline(always)]
    pub(crate) fn context(&self) -> Context {
        // SAFETY: as in `length`, for every field; `sk` is only compared.
        let skb = unsafe { &*self.skb };
        // SAFETY: the union has one member.
        let socket = unsafe { skb.__bindgen_anon_2.sk };
        // SAFETY: as in `length`. Volatile, so that both are loaded: the optimiser makes a
        // load at a chosen offset of a choice between two, which the verifier refuses.
        let carried = unsafe { core::ptr::read_volatile(&raw const skb.tc_index) };
        // SAFETY: as before.
        let asked = unsafe { core::ptr::read_volatile(&raw const skb.cb[probe::STAMP]) };
        let stamp = if is_stamp_in_control_buffer() || skb.ingress_ifindex & PROBE != 0 {
            asked
        } else {
            carried
        };
        Context {
            ifindex: skb.ifindex,
            ingress_ifindex: skb.ingress_ifindex,
            stamp,
            has_socket: !socket.is_null(),
            tagged: skb.vlan_present != 0,
        }
    }

    /// Says what checksum the packet leaves to be written, by a copy of a part of the kernel's
    /// own structure, at whose beginning the context points: what says it is in no part of
    /// the context that programs are given.
    #[inline(always)]
    pub(crate) fn left_by_copy(&self) -> u64 {
        let places = socket_buffer();
        let mut window = MaybeUninit::<[u8; WINDOW_BYTES as usize]>::uninit();
        let bytes = window.as_mut_ptr().cast::<u8>();
        let from = self.skb.cast::<u8>().wrapping_add(places.start as usize);
        // SAFETY: the helper writes the whole window, which is that long.
        let failed = unsafe { bpf_probe_read_kernel(bytes.cast(), WINDOW_BYTES, from.cast()) };
        if failed != 0 {
            // Nothing is known of the packet; a start that none has.
            return u64::MAX >> 15;
        }
        // The masks change no place; the verifier sees by them that it is in the window.
        left_at(
            places,
            |place| {
                // SAFETY: in the window, which was written.
                unsafe {
                    bytes
                        .add(place as usize & (WINDOW_BYTES as usize - 1))
                        .read()
                }
            },
            |place| {
                let at = place as usize & (WINDOW_BYTES as usize - 2);
                // SAFETY: in the window, which was written; places of half words are even.
                unsafe { bytes.add(at).cast::<u16>().read() }
            },
        )
    }

    /// The kernel's own structure, where [`casts_socket_buffer`] says that the kernel lets
    /// programs read it as it is.
    #[inline(always)]
    fn cast(&self) -> *const u8 {
        let buffer: *const u8;
        // SAFETY: what stands there when the program is loaded returns its argument, as a
        // pointer to the kernel's structure. A call keeps registers 6 to 9 alone.
        unsafe {
            core::arch::asm!(
                "call {cast}",
                cast = const CAST_CALL,
                inlateout("r1") self.skb => _,
                lateout("r0") buffer,
                lateout("r2") _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                options(nostack),
            );
        }
        buffer
    }

    /// Says the same as [`Buffer::left_by_copy`] by reading the kernel's own structure.
    #[inline(always)]
    fn left_by_cast(&self) -> u64 {
        let places = socket_buffer();
        let buffer = self.cast();
        let at = |place: u32| buffer.wrapping_add((places.start + place) as usize);
        left_at(
            places,
            // SAFETY: the loader has found the fields there; the verifier checks it again.
            |place| unsafe { at(place).read_volatile() },
            // SAFETY: as before.
            |place| unsafe { at(place).cast::<u16>().read_volatile() },
        )
    }

    /// The linear part as it is now; a view from before a pull is void. `left` is the word
    /// of [`left_at`].
    #[inline(always)]
    pub(crate) fn linear(&self, left: u64) -> Linear {
        // SAFETY: as in `length`.
        let skb = unsafe { &*self.skb };
        Linear {
            skb: self.skb,
            left,
            data: skb.data as usize,
            end: skb.data_end as usize,
            length: skb.len,
            gso: skb.gso_size != 0,
        }
    }

    /// Brings up to `bytes` of the packet into its linear part. A failure shows
    /// in the next view, which is as short as before.
    #[inline(always)]
    pub(crate) fn pull(&self, bytes: u32) {
        let length = self.length();
        let wanted = if length < bytes { length } else { bytes };
        // SAFETY: the context is valid; no view of the packet is used after.
        unsafe { bpf_skb_pull_data(self.skb, wanted) };
    }

    /// Bytes before the network header of a packet on its way out. An Ethernet header is
    /// there, with tags or not, or nothing, or what a tunnel has put before the packet.
    #[inline(always)]
    pub(crate) fn network_offset(&self) -> u32 {
        let places = socket_buffer();
        let (network, mac) = if casts_socket_buffer() {
            let buffer = self.cast();
            let half = |place: u32| {
                let at = buffer.wrapping_add((places.start + place) as usize);
                // SAFETY: as in `left_by_cast`.
                unsafe { at.cast::<u16>().read_volatile() }
            };
            (half(places.network_header), half(places.mac_header))
        } else {
            let half = |place: u32| {
                let mut value = MaybeUninit::<u16>::uninit();
                let from = self
                    .skb
                    .cast::<u8>()
                    .wrapping_add((places.start + place) as usize);
                // SAFETY: the helper writes both bytes, zeroes where it fails.
                unsafe {
                    bpf_probe_read_kernel(value.as_mut_ptr().cast(), 2, from.cast());
                    value.assume_init()
                }
            };
            (half(places.network_header), half(places.mac_header))
        };
        u32::from(network.wrapping_sub(mac))
    }

    /// The 16 bits that the packet carries on this node.
    #[inline(always)]
    pub(crate) fn carried(&self) -> u32 {
        // Both, for the reason that `Buffer::context` has.
        let carried = field!(self.skb, tc_index);
        let asked = field!(self.skb, cb[probe::STAMP]);
        if is_stamp_in_control_buffer() {
            asked
        } else {
            carried
        }
    }

    /// EtherType of the packet, as the kernel knows it.
    #[inline(always)]
    pub(crate) fn ethertype(&self) -> u16 {
        u16::from_be(field!(self.skb, protocol) as u16)
    }

    #[inline(always)]
    fn mark_value(&self, hook: Hook) -> u32 {
        // SAFETY: as in `length`.
        let ifindex = unsafe { (*self.skb).ifindex };
        ifindex << 2 | hook as u32
    }

    /// Says to the filter behind that this hook has judged the packet, and which stamp it
    /// has given it.
    #[inline(always)]
    pub(crate) fn mark(&self, hook: Hook, stamp: u32) {
        let value = self.mark_value(hook);
        // SAFETY: as in `length`; the control buffer is writable.
        let skb = unsafe { &mut *self.skb };
        skb.cb[MARK_WORDS[0]] = Maps.settings().keys.mark;
        skb.cb[MARK_WORDS[1]] = value;
        skb.cb[probe::STAMP] = stamp;
    }

    /// Writes the stamp that the packet carries on this node. Both words: the kernel copies
    /// the class id over the other when a program ends the chain (`tc_index` is set from
    /// `tc_classid` by TC_ACT_OK and TCX_PASS).
    #[inline(always)]
    pub(crate) fn stamp(&self, stamp: u32) {
        // SAFETY: as in `length`; both fields are writable.
        let skb = unsafe { &mut *self.skb };
        skb.tc_index = stamp;
        skb.tc_classid = stamp;
    }

    /// Answers a probe.
    #[inline(always)]
    pub(crate) fn answer(&self, case: &Case, jiffies: u32) {
        // SAFETY: as in `mark`.
        let skb = unsafe { &mut *self.skb };
        skb.cb[probe::ENFORCED] = case.enforced;
        skb.cb[probe::AUDITED] = case.audited;
        skb.cb[probe::JIFFIES] = jiffies;
    }

    /// Takes this hook's mark off the packet, and returns the stamp that came with it;
    /// `None` if there is no mark, or if nothing of others stands on the hook, so that
    /// none of ours can have been written.
    #[inline(always)]
    pub(crate) fn take_mark(&self, hook: Hook) -> Option<u32> {
        let value = self.mark_value(hook);
        // SAFETY: as in `mark`.
        let skb = unsafe { &mut *self.skb };
        let mark = Maps.settings().keys.mark;
        if skb.cb[MARK_WORDS[0]] != mark || skb.cb[MARK_WORDS[1]] != value {
            return None;
        }
        skb.cb[MARK_WORDS[0]] = 0;
        shares_hooks(&Maps, skb.ifindex).then_some(skb.cb[probe::STAMP])
    }
}

/// A packet for the short way, which asks for each part where it needs it: what is asked for
/// beforehand takes room on the stack.
pub(crate) struct Plain {
    skb: *mut __sk_buff,
    left: u64,
    data: usize,
    end: usize,
}

impl Plain {
    /// `left` is the word of [`left_at`].
    #[inline(always)]
    pub(crate) fn new(buffer: &Buffer, left: u64) -> Self {
        // SAFETY: as in `Buffer::length`.
        let skb = unsafe { &*buffer.skb };
        Self {
            skb: buffer.skb,
            left,
            data: skb.data as usize,
            end: skb.data_end as usize,
        }
    }
}

/// Words of a packet, from an address on.
pub(crate) struct Here(usize);

impl Words for Here {
    #[inline(always)]
    fn word(&self, number: usize) -> u32 {
        // SAFETY: `Plain::words` has compared the end of the words with that of the data; for
        // the alignment see `Linear::read`. Volatile, so that a word is loaded again where it
        // is needed again.
        u32::from_be(unsafe { ((self.0 + 4 * number) as *const u32).read_volatile() })
    }
}

impl Glance for Plain {
    type Words = Here;

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<Here> {
        let start = self.data + offset as usize;
        (start + 4 * N <= self.end).then_some(Here(start))
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        field!(self.skb, len)
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        field!(self.skb, gso_size) != 0
    }

    #[inline(always)]
    fn partial_checksum(&self) -> Option<PartialChecksum> {
        partial_checksum(self.skb, self.left)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        field!(self.skb, ifindex)
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        field!(self.skb, ingress_ifindex)
    }

    #[inline(always)]
    fn stamp(&self) -> u32 {
        // Both, for the reason that `Buffer::context` has.
        let carried = field!(self.skb, tc_index);
        let asked = field!(self.skb, cb[probe::STAMP]);
        if is_stamp_in_control_buffer() {
            asked
        } else {
            carried
        }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        field!(self.skb, vlan_present) != 0
    }

    #[inline(always)]
    fn has_socket(&self) -> bool {
        // SAFETY: the union has one member, which is only compared.
        let socket = unsafe { (*self.skb).__bindgen_anon_2.sk };
        !socket.is_null()
    }
}

/// The checksum that a packet leaves. `left` is the word of [`left_at`], where the kernel does
/// not let programs read its packet buffer.
#[inline(always)]
fn partial_checksum(skb: *mut __sk_buff, left: u64) -> Option<PartialChecksum> {
    let left = if casts_socket_buffer() {
        Buffer::new(skb).left_by_cast()
    } else {
        left
    };
    (left != NOTHING_LEFT).then_some(PartialChecksum {
        start: (left >> 16) as u32,
        offset: left as u32 & 0xffff,
    })
}

/// Bytes that are loaded four at a time. Byte by byte, the optimiser merges the
/// loads of neighbouring fields into something the verifier rejects.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Aligned<const N: usize>([u8; N]);

impl Linear {
    /// Returns `true` if headers may lie behind the part that can be read.
    #[inline(always)]
    pub(crate) fn is_cut(&self) -> bool {
        let here = (self.end - self.data) as u32;
        here < self.length && here < MAX_HEADER_BYTES
    }
}

/// An offset that was computed from the packet, bounded where the verifier sees it.
#[inline(always)]
fn masked(offset: u32) -> usize {
    let mut offset = u64::from(offset);
    // SAFETY: arithmetic on a register. No offset that is asked for notices the mask; in
    // Rust the compiler would know that, and leave it out.
    unsafe {
        core::arch::asm!(
            "{o} &= 511",
            o = inout(reg) offset,
            options(pure, nomem, nostack),
        );
    }
    offset as usize
}

/// Bytes of a packet from an address on; `None` past the end of what can be read.
#[inline(always)]
fn read<const N: usize>(start: usize, end: usize) -> Option<[u8; N]> {
    const { assert!(N.is_multiple_of(4)) };
    if start + N > end {
        return None;
    }
    // SAFETY: `N` bytes from `start` on lie before the end of the data. The
    // claim of alignment only chooses the width of the loads; the kernels we
    // support allow packet loads of any alignment on x86-64 and arm64.
    Some(unsafe { *(start as *const Aligned<N>) }.0)
}

/// The byte of a packet at an address; `None` past the end of what can be read.
#[inline(always)]
fn byte(at: usize, end: usize) -> Option<u32> {
    if at + 1 > end {
        return None;
    }
    // SAFETY: the byte lies before the end of the data.
    Some(u32::from(unsafe { *(at as *const u8) }))
}

impl Frame for Linear {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        read(self.data + offset as usize, self.end)
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read(masked(offset) as u32)
    }

    #[inline(always)]
    fn byte(&self, offset: u32) -> Option<u32> {
        byte(self.data + masked(offset), self.end)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        self.gso
    }

    #[inline(always)]
    fn partial_checksum(&self) -> Option<PartialChecksum> {
        // Not before it is needed: the verifier would follow the headers once for packets
        // that leave a checksum and once for others.
        partial_checksum(self.skb, self.left)
    }

    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        blurred(value, self.length)
    }
}

/// A packet on its way off the node, as if an Ethernet header without tags stood before its
/// network header, whatever is there.
pub(crate) struct Leaving {
    linear: Linear,
    /// Bytes before the network header.
    before: u32,
}

impl Leaving {
    /// A view of a packet as it is now. `before` is [`Buffer::network_offset`].
    #[inline(always)]
    pub(crate) fn new(buffer: &Buffer, before: u32) -> Self {
        Self {
            linear: buffer.linear(NOTHING_LEFT),
            before,
        }
    }

    /// Returns `true` if headers may lie behind what can be read.
    #[inline(always)]
    pub(crate) fn is_cut(&self) -> bool {
        self.linear.is_cut()
    }

    /// The place of an offset, which is one behind the Ethernet header.
    #[inline(always)]
    fn place(&self, offset: u32) -> u32 {
        offset
            .wrapping_sub(ETHERNET_BYTES)
            .wrapping_add(self.before)
    }
}

impl Frame for Leaving {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.linear.read_at(self.place(offset))
    }

    #[inline(always)]
    fn byte(&self, offset: u32) -> Option<u32> {
        self.linear.byte(self.place(offset))
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        let before = self.linear.length.wrapping_sub(self.before);
        before.wrapping_add(ETHERNET_BYTES)
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        self.linear.is_gso()
    }

    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        self.linear.blur(value)
    }
}

/// A frame as the driver hands it over, of which the first buffer can be read.
pub(crate) struct Arriving {
    data: usize,
    end: usize,
    length: u32,
}

impl Arriving {
    /// A view of the frame of a program's context.
    #[inline(always)]
    pub(crate) fn new(xdp: *mut xdp_md) -> Self {
        // SAFETY: the kernel hands the program a valid context.
        let (data, end) = unsafe { ((*xdp).data as usize, (*xdp).data_end as usize) };
        // SAFETY: the helper only reads the context.
        let length = unsafe { bpf_xdp_get_buff_len(xdp) } as u32;
        Self { data, end, length }
    }

    /// Returns `true` if headers may lie behind what can be read.
    #[inline(always)]
    pub(crate) fn is_cut(&self) -> bool {
        let here = (self.end - self.data) as u32;
        here < self.length && here < MAX_HEADER_BYTES
    }
}

impl Frame for Arriving {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        read(self.data + offset as usize, self.end)
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read(masked(offset) as u32)
    }

    #[inline(always)]
    fn byte(&self, offset: u32) -> Option<u32> {
        byte(self.data + masked(offset), self.end)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        false
    }

    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        blurred(value, self.length)
    }
}
