//! The shared memory a decision reads, behind one trait.
//!
//! In the kernel every method is a lookup in a BPF array; in user space it is a
//! slice. Whatever is missing is `None`, and the decision that needed it denies.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    bucket::{AddressBlock, Bucket},
    endpoint::{Binding, EndpointRecord},
    flow::{FlowEntry, FlowSet, IDLE_TIMES},
    fragment::FragmentSet,
    hash::Keys,
    hits::RuleCount,
    shared::{SharedWord64, order_loads},
    table::Page,
};

/// The three sets of [`Bucket`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketSet {
    /// Neighbourhood of IPv4 addresses → block or slot.
    AddressV4,
    /// Neighbourhood of IPv6 addresses → block or slot.
    AddressV6,
    /// Interface index → endpoint number + 1.
    Endpoint,
}

/// Settings that are fixed when the programs are loaded. The kernel programs have them as
/// read-only data, so that the verifier and the JIT know the values.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Settings {
    /// Keys of all hashes.
    pub keys: Keys,
    /// Number of buckets − 1, by [`BucketSet`]; the numbers are powers of two.
    pub bucket_masks: [u32; 3],
    /// 1 if the node may always open connections to its workloads (`own_node: allow`), else 0.
    pub own_node_allowed: u32,
    /// Jiffies that a flow may be idle, by [`crate::flow::Idle`].
    pub idle: [u32; IDLE_TIMES],
    /// Binary logarithm of the number of chunks that a partition of the flow table may have.
    pub flow_chunk_bits: u32,
    /// Records that a hook of an endpoint may report in a window however full the ring is; see
    /// [`crate::share`].
    pub event_share: u32,
}

const _: () = assert!(
    size_of::<Settings>() == 120
        && core::mem::offset_of!(Settings, bucket_masks) == 64
        && core::mem::offset_of!(Settings, own_node_allowed) == 76
        && core::mem::offset_of!(Settings, idle) == 80
        && core::mem::offset_of!(Settings, flow_chunk_bits) == 112
);

/// The pages of one decision table.
pub trait Block {
    /// A page by its number.
    fn page(&self, index: u32) -> Option<&Page>;
}

/// Access to the shared memory.
pub trait Memory {
    /// Returns the settings that were fixed at load.
    fn settings(&self) -> &Settings;

    /// The same, for code that reads few of them: the kernel programs load each where it is
    /// needed, and keep none on the stack.
    #[inline(always)]
    fn settings_at_hand(&self) -> &Settings {
        self.settings()
    }

    /// One published decision table.
    type Block: Block + ?Sized;

    /// The decision table in force. Whoever asks once sees one table, whatever
    /// is published meanwhile.
    fn table(&self) -> Option<&Self::Block>;

    /// A bucket of a set; `index` has been masked by the caller.
    fn bucket(&self, set: BucketSet, index: u32) -> Option<&Bucket>;

    /// A block of slots, by its number.
    fn address_block(&self, number: u32) -> Option<&AddressBlock>;

    /// An endpoint record by its number.
    fn endpoint(&self, number: u32) -> Option<&EndpointRecord>;

    /// The binding of a slot.
    fn binding(&self, slot: u32) -> Option<&Binding>;

    /// Keeps loads before this call from being done after it.
    ///
    /// The kernel programs override it by a barrier for the compiler alone: x86
    /// keeps the order of loads by itself, and BPF had no barrier before
    /// load-acquire (Linux 6.15).
    #[inline(always)]
    fn order_loads(&self) {
        order_loads();
    }

    /// 1 when `a < b`, else 0, without a branch.
    ///
    /// A branch in the middle of a search makes the kernel's verifier follow
    /// both sides from every step: 2^14 paths for a row of 16 384 intervals. A
    /// number that it knows nothing about is one path; a mask of 0 or −1 is not,
    /// because newer verifiers follow both values of that. LLVM turns every
    /// portable spelling back into a branch, so the kernel programs override this
    /// in assembly.
    #[inline(always)]
    fn less(&self, a: u32, b: u32) -> u32 {
        u32::from(a < b)
    }

    /// The same value, of which the kernel's verifier knows nothing any more; see
    /// [`crate::packet::Frame::blur`]. `unknown` is any number that it knows nothing
    /// about.
    #[inline(always)]
    fn blur(&self, value: u32, unknown: u32) -> u32 {
        let _ = unknown;
        value
    }
}

/// The generation of all bindings: moves with every change of one, of an endpoint's record,
/// and of the programs that check entries. Odd while a change is under way; nothing counts
/// as checked then. It is the epoch of slot 0, which is no address's.
#[inline(always)]
pub(crate) fn generation<M: Memory>(memory: &M) -> u32 {
    memory.binding(0).map_or(1, |nobody| nobody.epoch.load())
}

/// Access to the flow table, which programs write.
pub trait FlowMemory: Memory {
    /// A set of an endpoint's partition.
    fn flow_set(&self, partition: u32, set: u32) -> Option<&FlowSet>;

    /// A set of remembered fragments, by its number in the table of all endpoints.
    fn fragment_set(&self, number: u32) -> Option<&FragmentSet>;

    /// Counts of a rule, by [`crate::hits::place`].
    fn rule_count(&self, place: u32) -> Option<&RuleCount>;

    /// Compare-and-swap, in order with all loads and stores around it: stores
    /// `new` if `word` is `old`. Returns what the word was.
    fn exchange(&self, word: &SharedWord64, old: u64, new: u64) -> u64;

    /// Adds, wrapping, without any order.
    fn add(&self, count: &SharedWord64, value: u64);

    /// Returns `true` if user space wants to be told of flows that begin and end.
    #[inline(always)]
    fn wants_flows(&self) -> bool {
        false
    }

    /// Tells user space of the flow in an entry of an endpoint's partition that is about to be
    /// overwritten or freed. The caller has locked the entry.
    #[inline(always)]
    fn end_flow(&self, record: &EndpointRecord, entry: &FlowEntry) {
        _ = (record, entry);
    }

    /// The clock of flows: jiffies, low word. It wraps after 50 days at 1 000 a
    /// second; no idle time comes near half of that.
    fn jiffies(&self) -> u32;
}
