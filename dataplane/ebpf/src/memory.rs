//! The BPF maps, as the memory that verdicts are made from.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use crate::reports::end;
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_CONS_POS},
    btf_maps::{Array, ArrayOfMaps, PerCpuArray, RingBuf},
    helpers::{bpf_jiffies64, bpf_ringbuf_query},
    macros::btf_map,
};
use cofferdam_verdict::{
    bucket::{AddressBlock, Bucket},
    capacity::CHUNK_SETS,
    checksum::Window,
    counter::{COUNTERS as COUNTER_COUNT, Counter, Hook},
    endpoint::{Binding, EndpointRecord},
    event::EventRecord,
    flow::{FlowEntry, FlowSet, IDLE_TIMES},
    fragment::FragmentSet,
    hash::Keys,
    hits::RuleCount,
    memory::{Block, BucketSet, FlowMemory, Memory, Settings},
    share,
    shared::SharedWord64,
    table::Page,
};

// The entry numbers below are place holders of the declaration: the loader makes
// the maps with the sizes of the node's limits and the programs are bound to those.

#[btf_map]
static TABLE: ArrayOfMaps<Array<Page, 1>, 1> = ArrayOfMaps::new();
#[btf_map]
static ADDRESSES_V4: Array<[u32; 16], 1> = Array::new();
#[btf_map]
static ADDRESSES_V6: Array<[u32; 16], 1> = Array::new();
#[btf_map]
static ADDRESS_BLOCKS: Array<[u32; 8], 1> = Array::new();
#[btf_map]
static ENDPOINT_INDEX: Array<[u32; 16], 1> = Array::new();
#[btf_map]
static ENDPOINTS: Array<[u64; 40], 1> = Array::new();
#[btf_map]
static BINDINGS: Array<[u32; 4], 1> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counter, { COUNTER_COUNT as usize }> = PerCpuArray::new();
/// Chunks of the partitions of the flow table: arrays of flow sets.
#[btf_map]
static FLOWS: ArrayOfMaps<Array<[u64; FLOW_SET_WORDS], 1>, 1> = ArrayOfMaps::new();
#[btf_map]
static EVENTS: RingBuf<EventRecord, 4096> = RingBuf::new();

/// Shares of that.
#[btf_map]
static EVENT_SHARES: Array<u64, 1> = Array::new();

/// Counts of rules.
#[btf_map]
static RULE_COUNTS: Array<[u64; RULE_COUNT_WORDS], 1> = Array::new();

/// Remembered fragments of all endpoints.
#[btf_map]
static FRAGMENTS: Array<[u64; FRAGMENT_SET_WORDS], 1> = Array::new();

const RULE_COUNT_WORDS: usize = size_of::<RuleCount>() / 8;
const FRAGMENT_SET_WORDS: usize = size_of::<FragmentSet>() / 8;
const FLOW_SET_WORDS: usize = size_of::<FlowSet>() / 8;

/// Written by the loader before the programs are loaded, constant from then on.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    keys: Keys {
        words: [0; 10],
        spread: [0; 2],
        mark: 0,
        _spare: 0,
    },
    bucket_masks: [0; 3],
    own_node_allowed: 0,
    idle: [0; IDLE_TIMES],
    flow_chunk_bits: 0,
    event_share: 0,
};

/// Places in the kernel's packet buffer. Written by the loader, as the settings are.
#[unsafe(no_mangle)]
static SOCKET_BUFFER: Window = Window {
    start: 0,
    ip_summed: 0,
    ip_summed_shift: 0,
    csum_start: 0,
    csum_offset: 0,
    mac_header: 0,
    network_header: 0,
};

/// 1 if the kernel lets programs read its packet buffer as it is, 0 if they copy from it.
/// Written by the loader, as the settings are.
#[unsafe(no_mangle)]
static CASTS_SOCKET_BUFFER: u32 = 0;

/// Returns `true` if the kernel lets programs read its packet buffer as it is.
#[inline(always)]
pub(crate) fn casts_socket_buffer() -> bool {
    // SAFETY: the loader's value counts, not the one above.
    unsafe { core::ptr::read_volatile(&raw const CASTS_SOCKET_BUFFER) != 0 }
}

/// 1 if packets that leave the node translated are noted. Written by the loader, as the
/// settings are.
#[unsafe(no_mangle)]
static NOTES_LEAVING: u32 = 0;

/// Returns `true` if packets that leave the node translated are noted.
#[inline(always)]
pub(crate) fn notes_leaving() -> bool {
    // SAFETY: the loader's value counts, not the one above.
    unsafe { core::ptr::read_volatile(&raw const NOTES_LEAVING) != 0 }
}

/// Places in the kernel's packet buffer.
#[inline(always)]
pub(crate) fn socket_buffer() -> &'static Window {
    // SAFETY: as for the settings.
    unsafe { &*core::hint::black_box(&raw const SOCKET_BUFFER) }
}

/// The maps of this object.
pub(crate) struct Maps;

impl Maps {
    /// Counts a packet.
    #[inline(always)]
    pub(crate) fn count(&self, index: u32, bytes: u32) {
        if let Some(counter) = COUNTERS.get_ptr_mut(index) {
            // SAFETY: the pointer is to this CPU's value of the map, which no
            // other program runs on at the same time: tc programs of one CPU do
            // not preempt each other.
            let counter = unsafe { &mut *counter };
            counter.packets = counter.packets.wrapping_add(1);
            counter.bytes = counter.bytes.wrapping_add(u64::from(bytes));
        }
    }
}

impl Maps {
    /// Returns `true` if an endpoint's hook may send a record to user space.
    #[inline(always)]
    pub(crate) fn may_send(&self, endpoint: u32, hook: Hook) -> bool {
        // SAFETY: shares are atomics throughout.
        let word: Option<&SharedWord64> =
            unsafe { view(EVENT_SHARES.get_ptr(share::place(endpoint, hook))) };
        let most = self.settings_at_hand().event_share;
        let read = query_ring(BPF_RB_CONS_POS);
        word.is_some_and(|word| share::take(word, most, read)) || !self.is_crowded()
    }

    /// Sends the record of a flow to user space, if the ring is less than half full: the rest
    /// is for packets that were denied. `false` when there is no room.
    #[inline(always)]
    pub(crate) fn send_of_flow<T: 'static>(&self, record: impl FnOnce() -> T) -> bool {
        !self.is_crowded() && self.send(record)
    }

    /// Returns `true` if the ring of records is so full that shares of it count.
    #[inline(always)]
    fn is_crowded(&self) -> bool {
        share::is_crowded(
            query_ring(BPF_RB_AVAIL_DATA),
            self.settings_at_hand().event_share,
        )
    }

    /// Sends a record to user space; `false` when there is no room. The record is made where
    /// it is read: the stack has no room for it.
    #[inline(always)]
    pub(crate) fn send<T: 'static>(&self, record: impl FnOnce() -> T) -> bool {
        let Some(mut place) = EVENTS.reserve_untyped::<T>(0) else {
            return false;
        };
        place.write(record());
        place.submit(0);
        true
    }

    /// The clock of flows and events.
    #[inline(always)]
    pub(crate) fn jiffies64(&self) -> u64 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_jiffies64() }
    }
}

/// Asks for a number of the ring of records, by the kernel's name for it: bytes that have not
/// been read, or all that have been.
#[inline(always)]
fn query_ring(which: u32) -> u64 {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: the ring buffer lives as long as the program runs.
    unsafe { bpf_ringbuf_query(ring, u64::from(which)) }
}

/// Views a map's value as the shared type it holds.
///
/// # Safety
///
/// `T` has the size of `V`, and only atomics, or words that are not written
/// while programs can reach them.
#[inline(always)]
unsafe fn view<V, T>(value: Option<*const V>) -> Option<&'static T> {
    const { assert!(size_of::<V>() == size_of::<T>()) };
    // SAFETY: a map's value lives as long as the program runs, and the caller
    // answers for the type.
    value.map(|value| unsafe { &*value.cast::<T>() })
}

/// A published table.
#[repr(transparent)]
pub(crate) struct Pages(Array<Page, 1>);

impl Block for Pages {
    #[inline(always)]
    fn page(&self, index: u32) -> Option<&Page> {
        self.0.get(index)
    }
}

impl Memory for Maps {
    #[inline(always)]
    fn settings(&self) -> &Settings {
        // SAFETY: read as volatile, because the value that counts is the
        // loader's, not the one above.
        unsafe { &*core::hint::black_box(&raw const SETTINGS) }
    }

    #[inline(always)]
    fn settings_at_hand(&self) -> &Settings {
        let mut settings = &raw const SETTINGS;
        // SAFETY: the assembly is empty. It hides from the compiler that it knows the
        // values: those that count are the loader's, not the ones above.
        unsafe {
            core::arch::asm!(
                "/* {s} */",
                s = inout(reg) settings,
                options(pure, nomem, nostack, preserves_flags),
            );
            &*settings
        }
    }

    type Block = Pages;

    #[inline(always)]
    fn table(&self) -> Option<&Pages> {
        TABLE.get(0).map(|pages| {
            // SAFETY: a transparent wrapper of the same type.
            unsafe { &*core::ptr::from_ref(pages).cast::<Pages>() }
        })
    }

    #[inline(always)]
    fn bucket(&self, set: BucketSet, index: u32) -> Option<&Bucket> {
        let value = match set {
            BucketSet::AddressV4 => ADDRESSES_V4.get_ptr(index),
            BucketSet::AddressV6 => ADDRESSES_V6.get_ptr(index),
            BucketSet::Endpoint => ENDPOINT_INDEX.get_ptr(index),
        };
        // SAFETY: buckets are atomics throughout.
        unsafe { view(value) }
    }

    #[inline(always)]
    fn address_block(&self, number: u32) -> Option<&AddressBlock> {
        // SAFETY: blocks are atomics throughout.
        unsafe { view(ADDRESS_BLOCKS.get_ptr(number)) }
    }

    #[inline(always)]
    fn endpoint(&self, number: u32) -> Option<&EndpointRecord> {
        // SAFETY: a record is written before an index leads to it, and rests
        // before it is used again; its flags are atomic.
        unsafe { view(ENDPOINTS.get_ptr(number)) }
    }

    #[inline(always)]
    fn binding(&self, slot: u32) -> Option<&Binding> {
        // SAFETY: bindings are atomics throughout.
        unsafe { view(BINDINGS.get_ptr(slot)) }
    }

    #[inline(always)]
    fn order_loads(&self) {
        // A fence of `core` orders atomics alone, and nothing is an atomic here: LLVM
        // moves ordinary loads across it.
        // SAFETY: no instruction at all. To the compiler it may read and write all
        // memory, so that no load or store of any kind crosses it.
        unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn less(&self, a: u32, b: u32) -> u32 {
        let mut difference = u64::from(a);
        // SAFETY: arithmetic on registers. The sign of a 64-bit difference of
        // two 32-bit numbers is that of the comparison.
        unsafe {
            core::arch::asm!(
                "{d} -= {b}",
                "{d} >>= 63",
                d = inout(reg) difference,
                b = in(reg) u64::from(b),
                options(pure, nomem, nostack),
            );
        }
        difference as u32
    }

    #[inline(always)]
    fn blur(&self, value: u32, unknown: u32) -> u32 {
        blurred(value, unknown)
    }
}

impl FlowMemory for Maps {
    #[inline(always)]
    fn flow_set(&self, partition: u32, set: u32) -> Option<&FlowSet> {
        let first = partition << self.settings_at_hand().flow_chunk_bits;
        let chunk = FLOWS.get(first.wrapping_add(set / CHUNK_SETS))?;
        let value = chunk.get_ptr(set % CHUNK_SETS);
        // SAFETY: flow sets are atomics throughout.
        unsafe { view(value) }
    }

    #[inline(always)]
    fn fragment_set(&self, number: u32) -> Option<&FragmentSet> {
        // SAFETY: fragment sets are atomics throughout.
        unsafe { view(FRAGMENTS.get_ptr(number)) }
    }

    #[inline(always)]
    fn rule_count(&self, place: u32) -> Option<&RuleCount> {
        // SAFETY: counts are atomics throughout.
        unsafe { view(RULE_COUNTS.get_ptr(place)) }
    }

    #[inline(always)]
    fn exchange(&self, word: &SharedWord64, old: u64, new: u64) -> u64 {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: the word is an atomic, and aligned.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(word.as_ptr(), old, new).0 }
    }

    #[inline(always)]
    fn add(&self, count: &SharedWord64, value: u64) {
        const ORDER: AtomicOrdering = AtomicOrdering::Relaxed;
        // SAFETY: the count is in a map, and aligned.
        unsafe { atomic_xadd::<u64, u64, ORDER>(count.as_ptr(), value) };
    }

    #[inline(always)]
    fn wants_flows(&self) -> bool {
        // SAFETY: shares are atomics throughout.
        let word: Option<&SharedWord64> = unsafe { view(EVENT_SHARES.get_ptr(share::WANTS_FLOWS)) };
        word.is_some_and(|word| word.load() != 0)
    }

    #[inline(always)]
    fn end_flow(&self, record: &EndpointRecord, entry: &FlowEntry) {
        end(
            core::ptr::from_ref(entry),
            record.ifindex,
            record.incarnation,
        );
    }

    #[inline(always)]
    fn jiffies(&self) -> u32 {
        self.jiffies64() as u32
    }
}

/// The same value, of which the verifier knows nothing any more.
///
/// In registers of 32 bits: in 64 bits the sum cannot overflow, and the verifier
/// would keep a range that still depends on the value.
#[inline(always)]
pub(crate) fn blurred(mut value: u32, unknown: u32) -> u32 {
    // SAFETY: arithmetic on registers, which wraps and comes back.
    unsafe {
        core::arch::asm!(
            "{v} += {u}",
            "{v} -= {u}",
            v = inout(wreg) value,
            u = in(wreg) unknown,
            options(nomem, nostack),
        );
    }
    value
}
