//! Ordinary memory and ordinary bytes, for user space.
//!
//! The code that `explain` and the tests run is that of the kernel programs, on these slices;
//! over the mapped memory of BPF maps, it is that code on the very same words.

use crate::{
    bucket::{AddressBlock, Bucket},
    endpoint::{Binding, EndpointRecord},
    flow::FlowSet,
    fragment::FragmentSet,
    hits::RuleCount,
    memory::{Block, BucketSet, FlowMemory, Memory, Settings},
    packet::{Frame, MAX_HEADER_BYTES},
    shared::SharedWord64,
    table::Page,
};

/// Shared memory as slices.
#[derive(Clone, Copy, Debug)]
pub struct SliceMemory<'a> {
    /// Settings that were fixed at load.
    pub settings: &'a Settings,
    /// The decision table in force.
    pub table: &'a [Page],
    /// The bucket sets, by [`BucketSet`].
    pub buckets: [&'a [Bucket]; 3],
    /// Slots of neighbouring addresses.
    pub address_blocks: &'a [AddressBlock],
    /// Endpoint records by number.
    pub endpoints: &'a [EndpointRecord],
    /// Bindings by slot.
    pub bindings: &'a [Binding],
}

impl Block for [Page] {
    fn page(&self, index: u32) -> Option<&Page> {
        self.get(index as usize)
    }
}

impl Memory for SliceMemory<'_> {
    type Block = [Page];

    fn settings(&self) -> &Settings {
        self.settings
    }

    fn table(&self) -> Option<&[Page]> {
        Some(self.table)
    }

    fn bucket(&self, set: BucketSet, index: u32) -> Option<&Bucket> {
        self.buckets[set as usize].get(index as usize)
    }

    fn address_block(&self, number: u32) -> Option<&AddressBlock> {
        self.address_blocks.get(number as usize)
    }

    fn endpoint(&self, number: u32) -> Option<&EndpointRecord> {
        self.endpoints.get(number as usize)
    }

    fn binding(&self, slot: u32) -> Option<&Binding> {
        self.bindings.get(slot as usize)
    }
}

/// A frame as a slice.
#[derive(Clone, Copy, Debug)]
pub struct SliceFrame<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// `true` if it stands for several.
    pub gso: bool,
}

impl Frame for SliceFrame<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        debug_assert!(offset <= MAX_HEADER_BYTES && offset.is_multiple_of(2));
        self.bytes.get(offset as usize..)?.first_chunk().copied()
    }

    fn byte(&self, offset: u32) -> Option<u32> {
        debug_assert!(offset <= MAX_HEADER_BYTES);
        self.bytes.get(offset as usize).map(|&byte| u32::from(byte))
    }

    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn is_gso(&self) -> bool {
        self.gso
    }
}

/// A flow table as slices, beside the memory of a decision.
#[derive(Clone, Copy, Debug)]
pub struct SliceFlows<'a> {
    /// Memory that decisions read.
    pub memory: SliceMemory<'a>,
    /// The sets of each partition.
    pub partitions: &'a [&'a [FlowSet]],
    /// The sets of remembered fragments of all endpoints.
    pub fragments: &'a [FragmentSet],
    /// Counts of rules, by [`crate::hits::place`].
    pub rule_counts: &'a [RuleCount],
    /// The time.
    pub jiffies: u32,
}

impl Memory for SliceFlows<'_> {
    type Block = [Page];

    fn settings(&self) -> &Settings {
        self.memory.settings()
    }

    fn table(&self) -> Option<&[Page]> {
        self.memory.table()
    }

    fn bucket(&self, set: BucketSet, index: u32) -> Option<&Bucket> {
        self.memory.bucket(set, index)
    }

    fn address_block(&self, number: u32) -> Option<&AddressBlock> {
        self.memory.address_block(number)
    }

    fn endpoint(&self, number: u32) -> Option<&EndpointRecord> {
        self.memory.endpoint(number)
    }

    fn binding(&self, slot: u32) -> Option<&Binding> {
        self.memory.binding(slot)
    }
}

impl FlowMemory for SliceFlows<'_> {
    fn flow_set(&self, partition: u32, set: u32) -> Option<&FlowSet> {
        self.partitions.get(partition as usize)?.get(set as usize)
    }

    fn fragment_set(&self, number: u32) -> Option<&FragmentSet> {
        self.fragments.get(number as usize)
    }

    fn rule_count(&self, place: u32) -> Option<&RuleCount> {
        self.rule_counts.get(place as usize)
    }

    fn exchange(&self, word: &SharedWord64, old: u64, new: u64) -> u64 {
        word.exchange(old, new)
    }

    fn add(&self, count: &SharedWord64, value: u64) {
        count.add(value);
    }

    fn jiffies(&self) -> u32 {
        self.jiffies
    }
}
