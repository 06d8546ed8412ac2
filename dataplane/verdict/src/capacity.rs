//! Names and sizes of the BPF maps, and the limits they follow from.

use crate::{
    bucket::{AddressBlock, BUCKET_WORDS},
    counter::{COUNTERS, Counter},
    endpoint::{Binding, EndpointRecord},
    flow::{FlowSet, WAYS},
    fragment::{self, FragmentSet},
    hits::{self, RuleCount},
    share,
    shared::SharedWord64,
    table::{PAGE_BYTES, SLOTS_PER_WORD},
    verdict::MAX_RULE,
};

/// Names of the maps, in the object and as pins.
pub mod map {
    /// Array of maps with one entry: the decision table in force.
    pub const TABLE: &str = "TABLE";
    /// Buckets: neighbourhood of IPv4 addresses → block or slot.
    pub const ADDRESSES_V4: &str = "ADDRESSES_V4";
    /// Buckets: neighbourhood of IPv6 addresses → block or slot.
    pub const ADDRESSES_V6: &str = "ADDRESSES_V6";
    /// Slots of neighbouring addresses of both families.
    pub const ADDRESS_BLOCKS: &str = "ADDRESS_BLOCKS";
    /// Buckets: interface index → endpoint number + 1.
    pub const ENDPOINT_INDEX: &str = "ENDPOINT_INDEX";
    /// Endpoint records by number.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Bindings by slot.
    pub const BINDINGS: &str = "BINDINGS";
    /// Counters, one set per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Array of maps: the chunks of the partitions of the flow table.
    pub const FLOWS: &str = "FLOWS";
    /// Sets of remembered fragments, of all endpoints.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Ring buffer of event records.
    pub const EVENTS: &str = "EVENTS";
    /// The hash keys, as user space finds them again; no program reads it.
    pub const KEYS: &str = "KEYS";
    /// Counts of rules, under tables of both parities.
    pub const RULE_COUNTS: &str = "RULE_COUNTS";
    /// Shares of the ring buffer, of each endpoint's hooks.
    pub const EVENT_SHARES: &str = "EVENT_SHARES";
}

/// Most sets of a chunk: entries for 1 024 flows at half load, in 256 KiB. The programs know
/// the number, so that finding a set costs them a shift.
pub const CHUNK_SETS: u32 = 512;

/// Capacity of a node. Fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Endpoints on this node.
    pub endpoints: u32,
    /// Slots: addresses of workloads, local and remote, and of nodes, and sets of
    /// outside addresses. At most 2^28.
    pub slots: u32,
    /// Pages of the decision table, 64 KiB each.
    pub table_pages: u32,
    /// Numbers of rules and of sets of isolating policies, and one that is not used. At
    /// most 2^20.
    pub rules: u32,
    /// Flows of one endpoint for which there is room whatever their keys. Its
    /// partition grows to twice as many entries, because at half load no key is refused.
    pub flows_per_endpoint: u32,
    /// Bytes of the ring buffer of events; rounded up to a power of two.
    pub event_bytes: u32,
}

impl Limits {
    /// Capacity of a node unless it is told otherwise.
    pub const DEFAULT: Self = Self {
        endpoints: 128,
        slots: 131_072,
        table_pages: 128,
        rules: 65_536,
        flows_per_endpoint: 8_192,
        event_bytes: 1 << 20,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A map's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSize {
    /// The map's name.
    pub name: &'static str,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Number of entries.
    pub entries: u32,
}

impl Limits {
    /// Pages of the table that the slot section takes, the header's included.
    pub const fn slot_pages(&self) -> u32 {
        1 + self.slots.div_ceil(SLOTS_PER_WORD * PAGE_BYTES as u32 / 4)
    }

    /// The greatest number that a rule can have.
    pub const fn max_rule(&self) -> u32 {
        let max = self.rules.saturating_sub(1);
        if max < MAX_RULE { max } else { MAX_RULE }
    }

    /// Buckets of IPv4 addresses: at most 4 of 7 entries are used, with each address
    /// in a neighbourhood of its own, so that a key seldom leaves its first bucket and
    /// an insertion always finds room.
    pub const fn buckets_v4(&self) -> u32 {
        self.slots.div_ceil(4).next_power_of_two()
    }

    /// Buckets of IPv6 addresses: at most 2 of 3 entries are used.
    pub const fn buckets_v6(&self) -> u32 {
        self.slots.div_ceil(2).next_power_of_two()
    }

    /// Blocks of neighbouring addresses: a block has two addresses at least, and
    /// block 0 is not used, as slot 0 is not.
    pub const fn address_blocks(&self) -> u32 {
        self.slots.div_ceil(2)
    }

    /// Buckets of interface indexes and stamps.
    pub const fn buckets_endpoint(&self) -> u32 {
        self.endpoints.next_power_of_two()
    }

    /// Records of endpoints: as many again rest for a grace period.
    pub const fn endpoint_records(&self) -> u32 {
        self.endpoints * 2
    }

    /// Sets that one endpoint's partition of the flow table may grow to.
    pub const fn flow_sets(&self) -> u32 {
        (self.flows_per_endpoint * 2)
            .div_ceil(WAYS as u32)
            .next_power_of_two()
    }

    /// Sets of a chunk of a partition. A partition begins with one chunk.
    pub const fn chunk_sets(&self) -> u32 {
        let sets = self.flow_sets();
        if sets < CHUNK_SETS { sets } else { CHUNK_SETS }
    }

    /// Binary logarithm of the number of chunks that a partition may grow to.
    pub const fn chunk_bits(&self) -> u32 {
        (self.flow_sets() / self.chunk_sets()).ilog2()
    }

    /// Places for chunks, of all partitions: those of a partition lie side by side.
    pub const fn flow_chunks(&self) -> u32 {
        self.flow_partitions() << self.chunk_bits()
    }

    /// Partitions of the flow table: that of an endpoint just removed rests until it is
    /// given back. One is made when the first endpoint needs it.
    pub const fn flow_partitions(&self) -> u32 {
        self.endpoint_records()
    }

    /// Sets of remembered fragments, [`fragment::SETS`] for each partition of flows.
    pub const fn fragment_sets(&self) -> u32 {
        self.flow_partitions() * fragment::SETS
    }

    /// Bytes of the ring buffer: a power of two, at least a page.
    pub const fn ring_bytes(&self) -> u32 {
        const PAGE: u32 = 4096;
        let bytes = if self.event_bytes < PAGE {
            PAGE
        } else {
            self.event_bytes
        };
        bytes.next_power_of_two()
    }

    /// Records for which the ring buffer has room.
    pub const fn ring_records(&self) -> u32 {
        self.ring_bytes() / share::RECORD_BYTES
    }

    /// All maps that are plain arrays.
    pub const fn arrays(&self) -> [MapSize; 9] {
        const BUCKET: u32 = BUCKET_WORDS as u32 * 4;
        [
            MapSize {
                name: map::ADDRESSES_V4,
                value_bytes: BUCKET,
                entries: self.buckets_v4(),
            },
            MapSize {
                name: map::ADDRESSES_V6,
                value_bytes: BUCKET,
                entries: self.buckets_v6(),
            },
            MapSize {
                name: map::ADDRESS_BLOCKS,
                value_bytes: size_of::<AddressBlock>() as u32,
                entries: self.address_blocks(),
            },
            MapSize {
                name: map::ENDPOINT_INDEX,
                value_bytes: BUCKET,
                entries: self.buckets_endpoint(),
            },
            MapSize {
                name: map::ENDPOINTS,
                value_bytes: size_of::<EndpointRecord>() as u32,
                entries: self.endpoint_records(),
            },
            MapSize {
                name: map::BINDINGS,
                value_bytes: size_of::<Binding>() as u32,
                entries: self.slots,
            },
            MapSize {
                name: map::FRAGMENTS,
                value_bytes: size_of::<FragmentSet>() as u32,
                entries: self.fragment_sets(),
            },
            MapSize {
                name: map::RULE_COUNTS,
                value_bytes: size_of::<RuleCount>() as u32,
                entries: self.rules * hits::SETS,
            },
            MapSize {
                name: map::EVENT_SHARES,
                value_bytes: size_of::<SharedWord64>() as u32,
                entries: share::words(self.endpoint_records()),
            },
        ]
    }

    /// Bytes of a decision table.
    pub const fn table_bytes(&self) -> u64 {
        self.table_pages as u64 * PAGE_BYTES as u64
    }

    /// Bytes of a partition of the flow table with so many sets.
    pub const fn partition_bytes(&self, sets: u32) -> u64 {
        sets as u64 * size_of::<FlowSet>() as u64
    }

    /// Bytes of all maps with so many endpoints, whose partitions have so many sets each, but
    /// for counters and what the kernel needs for each map. While a table is replaced there are
    /// two of it.
    pub fn memory_bytes(&self, endpoints: u32, sets: u32) -> u64 {
        let arrays = self
            .arrays()
            .into_iter()
            .map(|map| u64::from(map.value_bytes) * u64::from(map.entries));
        arrays.sum::<u64>()
            + self.table_bytes()
            + u64::from(self.ring_bytes())
            + u64::from(self.flow_chunks()) * 8
            + u64::from(endpoints) * self.partition_bytes(sets)
    }

    /// The counters' map, one set per CPU.
    pub const fn counters(&self) -> MapSize {
        MapSize {
            name: map::COUNTERS,
            value_bytes: size_of::<Counter>() as u32,
            entries: COUNTERS,
        }
    }
}
