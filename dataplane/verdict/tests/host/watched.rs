//! Ordinary memory in which a test acts between two steps of the code that reads it.

use cofferdam_verdict::{
    bucket::{AddressBlock, Bucket},
    endpoint::{Binding, EndpointRecord},
    flow::FlowSet,
    fragment::FragmentSet,
    hits::RuleCount,
    memory::{BucketSet, FlowMemory, Memory, Settings},
    shared::SharedWord64,
    slices::SliceFlows,
    table::Page,
};

/// Memory that tells the test before it answers.
pub(crate) struct Watched<'a, 'w> {
    /// The memory.
    pub(crate) flows: SliceFlows<'a>,
    /// Called where loads are ordered: between two readings of any entry.
    pub(crate) between_loads: &'w dyn Fn(&SliceFlows<'a>),
    /// Called before each look at the flow table.
    pub(crate) before_look: &'w dyn Fn(),
}

impl Memory for Watched<'_, '_> {
    type Block = [Page];

    fn settings(&self) -> &Settings {
        self.flows.settings()
    }

    fn table(&self) -> Option<&[Page]> {
        self.flows.table()
    }

    fn bucket(&self, set: BucketSet, index: u32) -> Option<&Bucket> {
        self.flows.bucket(set, index)
    }

    fn address_block(&self, number: u32) -> Option<&AddressBlock> {
        self.flows.address_block(number)
    }

    fn endpoint(&self, number: u32) -> Option<&EndpointRecord> {
        self.flows.endpoint(number)
    }

    fn binding(&self, slot: u32) -> Option<&Binding> {
        self.flows.binding(slot)
    }

    fn order_loads(&self) {
        (self.between_loads)(&self.flows);
    }
}

impl FlowMemory for Watched<'_, '_> {
    fn flow_set(&self, partition: u32, set: u32) -> Option<&FlowSet> {
        (self.before_look)();
        self.flows.flow_set(partition, set)
    }

    fn fragment_set(&self, number: u32) -> Option<&FragmentSet> {
        self.flows.fragment_set(number)
    }

    fn rule_count(&self, place: u32) -> Option<&RuleCount> {
        self.flows.rule_count(place)
    }

    fn exchange(&self, word: &SharedWord64, old: u64, new: u64) -> u64 {
        self.flows.exchange(word, old, new)
    }

    fn add(&self, count: &SharedWord64, value: u64) {
        self.flows.add(count, value);
    }

    fn jiffies(&self) -> u32 {
        self.flows.jiffies()
    }
}
