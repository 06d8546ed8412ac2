//! The kernel's packet buffer, as a frame.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_pull_data};
use cofferdam_verdict::{
    counter::Hook,
    judge::{Case, Context, probe},
    packet::{Frame, MAX_HEADER_BYTES},
};

use crate::memory::blurred;

/// Words of the control buffer that carry the mark from a tcx program to the
/// filter behind it on the same hook. Nothing runs between the two but other
/// programs of this hook.
const MARK_WORDS: [usize; 2] = [3, 4];
/// Makes a mark that other users of the control buffer do not write by chance.
const MARK: u32 = 0xc0ff_e7da;

/// A packet buffer.
pub(crate) struct Buffer {
    skb: *mut __sk_buff,
}

/// The part of a packet that can be read directly.
pub(crate) struct Linear {
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

    /// What the kernel says about the packet.
    #[inline(always)]
    pub(crate) fn context(&self) -> Context {
        // SAFETY: as in `length`, for every field; `sk` is only compared.
        let skb = unsafe { &*self.skb };
        // SAFETY: the union has one member.
        let socket = unsafe { skb.__bindgen_anon_2.sk };
        Context {
            ifindex: skb.ifindex,
            ingress_ifindex: skb.ingress_ifindex,
            has_socket: !socket.is_null(),
            tagged: skb.vlan_present != 0,
        }
    }

    /// The linear part as it is now; a view from before a pull is void.
    #[inline(always)]
    pub(crate) fn linear(&self) -> Linear {
        // SAFETY: as in `length`.
        let skb = unsafe { &*self.skb };
        Linear {
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

    #[inline(always)]
    fn mark_value(&self, hook: Hook) -> u32 {
        // SAFETY: as in `length`.
        let ifindex = unsafe { (*self.skb).ifindex };
        ifindex << 2 | hook as u32
    }

    /// Says to the filter behind that this hook has judged the packet.
    #[inline(always)]
    pub(crate) fn mark(&self, hook: Hook) {
        let value = self.mark_value(hook);
        // SAFETY: as in `length`; the control buffer is writable.
        let skb = unsafe { &mut *self.skb };
        skb.cb[MARK_WORDS[0]] = MARK;
        skb.cb[MARK_WORDS[1]] = value;
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

    /// Whether the packet carries this hook's mark, which is taken off.
    #[inline(always)]
    pub(crate) fn take_mark(&self, hook: Hook) -> bool {
        let value = self.mark_value(hook);
        // SAFETY: as in `mark`.
        let skb = unsafe { &mut *self.skb };
        let marked = skb.cb[MARK_WORDS[0]] == MARK && skb.cb[MARK_WORDS[1]] == value;
        if marked {
            skb.cb[MARK_WORDS[0]] = 0;
        }
        marked
    }
}

/// Bytes that are loaded four at a time. Byte by byte, the optimiser merges the
/// loads of neighbouring fields into something the verifier rejects.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Words<const N: usize>([u8; N]);

impl Linear {
    /// Whether headers may lie behind what can be read.
    #[inline(always)]
    pub(crate) fn is_cut(&self) -> bool {
        let here = (self.end - self.data) as u32;
        here < self.length && here < MAX_HEADER_BYTES
    }
}

impl Frame for Linear {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        const { assert!(N.is_multiple_of(4)) };
        let start = self.data + offset as usize;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `N` bytes from `start` on lie before the end of the data. The
        // claim of alignment only chooses the width of the loads; the kernels we
        // support allow packet loads of any alignment on x86-64 and arm64.
        Some(unsafe { *(start as *const Words<N>) }.0)
    }

    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut offset = u64::from(offset);
        // SAFETY: arithmetic on a register. No offset that is asked for notices
        // the mask; in Rust the compiler would know that, and leave it out.
        unsafe {
            core::arch::asm!(
                "{o} &= 511",
                o = inout(reg) offset,
                options(pure, nomem, nostack),
            );
        }
        self.read(offset as u32)
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
    fn blur(&self, value: u32) -> u32 {
        blurred(value, self.length)
    }
}
