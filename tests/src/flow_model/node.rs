//! The memory of a node, as plain slices, and what an agent writes there.
//!
//! The writing side does what `dataplane` does, in the same order, without a kernel.

use std::net::IpAddr;

use cofferdam_verdict::{
    address::Address,
    bucket::{AddressBlock, AddressWriter, Bucket, Found, Writer, find_address},
    counter::Hook,
    endpoint::{Binding, EndpointRecord, STAMP_KEY, listener},
    flow::{FlowSet, IDLE_TIMES, Idle, Size},
    fragment::{self, FragmentSet},
    hash::Keys,
    judge::Context,
    memory::Settings,
    shared::SharedWord,
    slices::{SliceFlows, SliceFrame, SliceMemory},
    table::{Page, Table},
};
use fastrand::Rng;

use super::region::{LIMITS, PODS};
use crate::both_ways::{Judged, judge_both_ways};

/// Jiffies that flows may be idle, by [`Idle`].
pub(super) const IDLE: [u32; IDLE_TIMES] = {
    let mut idle = [0; IDLE_TIMES];
    idle[Idle::TcpEstablished as usize] = 1000;
    idle[Idle::TcpEmbryonic as usize] = 60;
    idle[Idle::TcpClosing as usize] = 20;
    idle[Idle::Udp as usize] = 160;
    idle[Idle::UdpOneWay as usize] = 80;
    idle[Idle::Sctp as usize] = 100;
    idle[Idle::Icmp as usize] = 30;
    idle[Idle::Other as usize] = 50;
    idle
};

/// Jiffies that a first fragment is remembered: an eighth of a one-way UDP flow's.
pub(super) const FRAGMENT_LIFETIME: u32 = IDLE[Idle::UdpOneWay as usize] / 8;

/// An endpoint as the agent puts it in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) ifindex: u32,
    pub(super) mac: u64,
    pub(super) incarnation: u32,
    pub(super) stamp: u32,
    pub(super) adopt_until: u32,
    /// Ports at which it took TCP connections of both families.
    pub(super) listeners: Vec<u16>,
    pub(super) addresses: Vec<(IpAddr, u32)>,
}

/// Shared memory.
pub(super) struct Node {
    settings: Settings,
    addresses_v4: Vec<Bucket>,
    addresses_v6: Vec<Bucket>,
    blocks: Vec<AddressBlock>,
    index: Vec<Bucket>,
    records: Vec<EndpointRecord>,
    bindings: Vec<Binding>,
    partitions: Vec<Vec<FlowSet>>,
    fragments: Vec<FragmentSet>,
    bound: Vec<(IpAddr, u32)>,
    pub(super) now: u32,
}

impl Node {
    /// A node without endpoints, whose partitions have so many sets, a power of two.
    pub(super) fn new(rng: &mut Rng, sets: usize, own_node_allowed: bool) -> Self {
        let keys = Keys {
            words: std::array::from_fn(|_| rng.u32(..)),
            spread: std::array::from_fn(|_| rng.u64(..) | 1),
            mark: 0,
            _spare: 0,
        };
        fn many<T: Default>(count: u32) -> Vec<T> {
            (0..count).map(|_| T::default()).collect()
        }
        Self {
            settings: Settings {
                keys,
                bucket_masks: [
                    LIMITS.buckets_v4() - 1,
                    LIMITS.buckets_v6() - 1,
                    LIMITS.buckets_endpoint() - 1,
                ],
                own_node_allowed: own_node_allowed.into(),
                idle: IDLE,
                ..Settings::default()
            },
            addresses_v4: many(LIMITS.buckets_v4()),
            addresses_v6: many(LIMITS.buckets_v6()),
            blocks: many(LIMITS.address_blocks()),
            index: many(LIMITS.buckets_endpoint()),
            records: many(2 * PODS as u32),
            bindings: many(LIMITS.slots),
            partitions: (0..PODS).map(|_| many(sets as u32)).collect(),
            fragments: many(PODS as u32 * fragment::SETS),
            bound: Vec::new(),
            // Shortly before the clock word wraps, every other time.
            now: if rng.bool() { u32::MAX - 300 } else { 5000 },
        }
    }

    fn memory<'a>(&'a self, table: &'a [Page]) -> SliceMemory<'a> {
        SliceMemory {
            settings: &self.settings,
            table,
            buckets: [&self.addresses_v4, &self.addresses_v6, &self.index],
            address_blocks: &self.blocks,
            endpoints: &self.records,
            bindings: &self.bindings,
        }
    }

    /// Judges a frame by the pipeline of the programs, the short way and the long way.
    pub(super) fn judge(
        &self,
        table: &[Page],
        frame: &[u8],
        context: &Context,
        hook: Hook,
    ) -> Judged {
        let partitions: [&[FlowSet]; PODS] = std::array::from_fn(|pod| &*self.partitions[pod]);
        let flows = SliceFlows {
            memory: self.memory(table),
            partitions: &partitions,
            fragments: &self.fragments,
            rule_counts: &[],
            jiffies: self.now,
        };
        let frame = SliceFrame {
            bytes: frame,
            gso: false,
        };
        judge_both_ways(&flows, &frame, context, hook)
    }

    fn index(&self) -> Writer<'_> {
        Writer::new(&self.settings.keys, &self.index).expect("a power of two")
    }

    /// Leads addresses to their slots, and those that had one and have none any more
    /// nowhere.
    pub(super) fn bind(&mut self, table: &[Page], slots: &[(IpAddr, u32)]) {
        let left: Vec<u32> = {
            let keys = &self.settings.keys;
            let writer = AddressWriter {
                v4: Writer::new(keys, &self.addresses_v4).expect("a power of two"),
                v6: Writer::new(keys, &self.addresses_v6).expect("a power of two"),
                blocks: &self.blocks,
            };
            let mut left = Vec::new();
            for &(address, slot) in slots {
                let place = Address::from(address);
                let before = self.slot_of(table, &place);
                writer.set(&place, slot).expect("there is room");
                left.extend(before.filter(|&before| before != slot));
            }
            for &(address, slot) in &self.bound {
                if !slots.iter().any(|(other, _)| *other == address) {
                    writer.remove(&address.into());
                    left.push(slot);
                }
            }
            left
        };
        for slot in left {
            self.bindings[slot as usize].epoch.add(1);
        }
        self.end_generation();
        self.bound = slots.to_vec();
    }

    /// Says that bindings have changed: nothing that was checked before counts as checked.
    fn end_generation(&self) {
        self.bindings[0].epoch.add(2);
    }

    fn slot_of(&self, table: &[Page], address: &Address) -> Option<u32> {
        let memory = self.memory(table);
        match find_address(&memory, address) {
            Found::Value(slot) => Some(slot),
            _ => Table::open(&memory)?.outside_slot(address),
        }
    }

    /// Puts an endpoint in force, in place of the one on the same interface.
    pub(super) fn set_endpoint(&mut self, partition: usize, endpoint: &Endpoint) {
        let mut record = EndpointRecord {
            ifindex: endpoint.ifindex,
            incarnation: endpoint.incarnation,
            mac: endpoint.mac,
            flow_partition: partition as u32 + 1,
            flow_size: SharedWord::new(Size::of(self.partitions[partition].len() as u32).0),
            stamp: endpoint.stamp,
            adopt_until: SharedWord::new(endpoint.adopt_until),
            primary_slot: endpoint.addresses.first().map_or(0, |(_, slot)| *slot),
            ..EndpointRecord::default()
        };
        for (word, &port) in record.listeners.iter_mut().zip(&endpoint.listeners) {
            *word = u32::from(port) | listener::V4 | listener::V6;
        }
        let (mut v4, mut v6) = (0, 0);
        for &(address, slot) in &endpoint.addresses {
            let words = Address::from(address).words;
            if address.is_ipv4() {
                record.v4[v4] = words[0];
                record.v4_slots[v4] = slot;
                v4 += 1;
            } else {
                record.v6[v6] = words;
                record.v6_slots[v6] = slot;
                v6 += 1;
            }
        }
        let before = self.index().get(&[endpoint.ifindex]);
        // A record is never changed once an interface leads to it.
        let number = 2 * partition + usize::from(before == Some(2 * partition as u32 + 1));
        self.records[number] = record;
        let is_new = before.is_none_or(|before| {
            self.records[before as usize - 1].incarnation != endpoint.incarnation
        });
        for &(_, slot) in &endpoint.addresses {
            let binding = &self.bindings[slot as usize];
            let owner = (endpoint.stamp, endpoint.ifindex);
            if is_new || (binding.stamp.load(), binding.ifindex.load()) != owner {
                binding.stamp.store(owner.0);
                binding.ifindex.store(owner.1);
                binding.epoch.add(1);
            }
        }
        self.set_index(endpoint.ifindex, number as u32 + 1);
        if let Some(before) = before {
            let old = &self.records[before as usize - 1];
            if old.stamp != endpoint.stamp {
                self.index().remove(&[STAMP_KEY | old.stamp]);
            }
            for &slot in old.v4_slots.iter().chain(&old.v6_slots) {
                let binding = &self.bindings[slot as usize];
                let kept = endpoint.addresses.iter().any(|(_, kept)| *kept == slot);
                if slot != 0 && !kept && binding.ifindex.load() == endpoint.ifindex {
                    binding.ifindex.store(0);
                    binding.stamp.store(0);
                    binding.epoch.add(1);
                }
            }
        }
        self.end_generation();
        self.set_index(STAMP_KEY | endpoint.stamp, number as u32 + 1);
    }

    fn set_index(&self, key: u32, value: u32) {
        self.index().set(&[key], value).expect("there is room");
    }
}
