//! A dataplane in ordinary memory: the code of the programs over what it is given, and a call
//! that can be refused.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use cofferdam_dataplane::{AttachError, Endpoint, KernelError, Program, RuleHits, TestContext};
use cofferdam_verdict::address::{Address, Family};
use cofferdam_verdict::bucket::{AddressBlock, AddressWriter, Bucket, Writer};
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::endpoint::{Binding, EndpointRecord, STAMP_KEY, flags};
use cofferdam_verdict::hash::Keys;
use cofferdam_verdict::memory::Settings;
use cofferdam_verdict::shared::SharedWord;
use cofferdam_verdict::slices::SliceMemory;
use cofferdam_verdict::table::{MAGIC, PAGE_WORDS, Page, header, slot_place};
use cofferdam_verdict::verdict::Verdict;

use super::dataplane::Dataplane;
use super::plan::Action;
use super::read_back::judged;

const BUCKETS: usize = 64;

/// Something that nobody of ours has changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tampered {
    /// An address leads to a slot.
    Address(IpAddr, u32),
    /// The sender that a slot of an endpoint is bound to.
    Binding(u32),
    /// A slot that is no endpoint's is bound to one.
    StrayBinding(u32),
    /// The time for which policy denies a slot's endpoint nothing.
    Bypass(u32),
    /// The bit of an interface's record that says that others stand on its hooks.
    Flags(u32),
}

/// The dataplane.
pub(super) struct InMemory {
    limits: Limits,
    settings: Settings,
    table: Vec<Page>,
    v4: Vec<Bucket>,
    v6: Vec<Bucket>,
    index: Vec<Bucket>,
    blocks: Vec<AddressBlock>,
    /// All records that there ever were, by their numbers.
    records: Vec<EndpointRecord>,
    bindings: Vec<Binding>,
    /// Interfaces on which filters stand.
    pub(super) filters: BTreeSet<u32>,
    /// Calls so far.
    pub(super) calls: usize,
    /// Number of the only call that is refused.
    pub(super) refused: Option<usize>,
    /// Number of the call from which on all are refused: the agent is dead then.
    pub(super) dead_from: Option<usize>,
}

impl InMemory {
    pub(super) fn new() -> Self {
        let limits = Limits {
            endpoints: 8,
            slots: 64,
            table_pages: 16,
            ..Limits::DEFAULT
        };
        let buckets = || (0..BUCKETS).map(|_| Bucket::default()).collect();
        Self {
            limits,
            settings: Settings {
                keys: Keys {
                    words: std::array::from_fn(|at| 0x9e37_79b9 ^ (at as u32).rotate_left(7)),
                    spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
                    ..Keys::default()
                },
                bucket_masks: [BUCKETS as u32 - 1; 3],
                own_node_allowed: 1,
                ..Settings::default()
            },
            table: Vec::new(),
            v4: buckets(),
            v6: buckets(),
            index: buckets(),
            blocks: (0..BUCKETS).map(|_| AddressBlock::default()).collect(),
            records: Vec::new(),
            bindings: (0..limits.slots).map(|_| Binding::new()).collect(),
            filters: BTreeSet::new(),
            calls: 0,
            refused: None,
            dead_from: None,
        }
    }

    fn writer<'a>(&'a self, buckets: &'a [Bucket]) -> Writer<'a> {
        Writer::new(&self.settings.keys, buckets).expect("a power of two")
    }

    fn addresses(&self) -> AddressWriter<'_> {
        AddressWriter {
            v4: self.writer(&self.v4),
            v6: self.writer(&self.v6),
            blocks: &self.blocks,
        }
    }

    /// Lets somebody else change what is there.
    pub(super) fn tamper(&self, with: Tampered) {
        match with {
            Tampered::Address(address, slot) => {
                let bound = self.addresses().set(&address.into(), slot);
                bound.expect("there is room");
            }
            Tampered::Binding(slot) => self.bindings[slot as usize].stamp.store(77),
            Tampered::StrayBinding(slot) => self.bindings[slot as usize].ifindex.store(77),
            Tampered::Bypass(slot) => self.bindings[slot as usize].bypassed_until.store(77),
            Tampered::Flags(ifindex) => {
                let record = self.record(ifindex).expect("it is there");
                record.flags.set_bits(flags::SHARED_HOOKS);
            }
        }
    }

    fn record(&self, ifindex: u32) -> Option<&EndpointRecord> {
        let number = self.writer(&self.index).get(&[ifindex])?;
        self.records.get(number as usize - 1)
    }

    fn set(&mut self, endpoint: &Endpoint) {
        let mut record = EndpointRecord {
            ifindex: endpoint.ifindex,
            incarnation: endpoint.incarnation,
            primary_slot: endpoint.addresses.first().map_or(0, |&(_, slot)| slot),
            stamp: endpoint.stamp.into(),
            flow_partition: 1,
            flags: SharedWord::new(if endpoint.deny_all {
                flags::DENY_ALL
            } else {
                0
            }),
            mac: (endpoint.mac.iter()).fold(0, |mac, &byte| mac << 8 | u64::from(byte)),
            ..EndpointRecord::default()
        };
        let (mut v4, mut v6) = (0, 0);
        for &(address, slot) in &endpoint.addresses {
            let Address { family, words } = address.into();
            match family {
                Family::V4 => {
                    (record.v4[v4], record.v4_slots[v4]) = (words[0], slot);
                    v4 += 1;
                }
                Family::V6 => {
                    (record.v6[v6], record.v6_slots[v6]) = (words, slot);
                    v6 += 1;
                }
            }
        }
        self.unbind(endpoint.ifindex);
        for &(_, slot) in &endpoint.addresses {
            let binding = &self.bindings[slot as usize];
            binding.ifindex.store(endpoint.ifindex);
            binding.stamp.store(endpoint.stamp.into());
        }
        self.records.push(record);
        let number = self.records.len() as u32;
        let index = self.writer(&self.index);
        index
            .set(&[endpoint.ifindex], number)
            .expect("there is room");
        if endpoint.stamp != 0 {
            let stamp = [STAMP_KEY | u32::from(endpoint.stamp)];
            index.set(&stamp, number).expect("there is room");
        }
    }

    /// Ends what leads to an interface's endpoint, but for its index.
    fn unbind(&self, ifindex: u32) {
        for binding in &self.bindings {
            if binding.ifindex.load() == ifindex {
                binding.ifindex.store(0);
                binding.stamp.store(0);
            }
        }
        if let Some(record) = self.record(ifindex)
            && record.stamp != 0
        {
            self.writer(&self.index).remove(&[STAMP_KEY | record.stamp]);
        }
    }

    fn do_it(&mut self, action: &Action) {
        match action {
            Action::Deny(ifindex) => {
                if let Some(record) = self.record(*ifindex) {
                    record.flags.set_bits(flags::DENY_ALL);
                }
            }
            Action::Release(address) => _ = self.addresses().remove(&(*address).into()),
            Action::Fill(entry) => {
                let (offset, shift) = slot_place(entry.slot);
                let (page, word) = (offset as usize / PAGE_WORDS, offset as usize % PAGE_WORDS);
                let word = &mut self.table[page][word];
                *word = *word & !(0xffff << shift) | u32::from(entry.profile) << shift;
            }
            Action::Publish(table) => self.table = table.pages().to_vec(),
            Action::Bind(address, slot) => {
                let bound = self.addresses().set(&(*address).into(), *slot);
                bound.expect("there is room");
            }
            Action::Set(endpoint) => self.set(endpoint),
            Action::Guard(ifindex) | Action::Attach(ifindex) => _ = self.filters.insert(*ifindex),
            Action::Remove(ifindex) => {
                self.unbind(*ifindex);
                self.writer(&self.index).remove(&[*ifindex]);
                self.filters.remove(ifindex);
            }
        }
    }
}

impl Dataplane for InMemory {
    fn carry_out(&mut self, action: &Action) -> Result<Instant, AttachError> {
        self.calls += 1;
        let is_dead = self.dead_from.is_some_and(|from| self.calls >= from);
        if self.refused == Some(self.calls) || is_dead {
            return Err(AttachError::from(KernelError::System {
                action: "do what a test refuses",
                source: io::Error::from(io::ErrorKind::OutOfMemory),
            }));
        }
        self.do_it(action);
        Ok(Instant::now())
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn revision(&self) -> Option<u64> {
        let page = self.table.first()?;
        (page[header::MAGIC] == MAGIC).then(|| page[header::REVISION_LOW].into())
    }

    fn last_revision(&self) -> u64 {
        self.revision().unwrap_or(0)
    }

    fn bound_addresses(&self) -> Vec<(IpAddr, u32)> {
        let bound = self.addresses().bound();
        bound
            .map(|(address, slot)| (address.into(), slot))
            .collect()
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let index = self.writer(&self.index);
        let numbers = index.entries::<1>();
        let records = numbers
            .filter(|([key], _)| key & STAMP_KEY == 0)
            .filter_map(|(_, number)| self.records.get(number as usize - 1));
        records.map(endpoint).collect()
    }

    fn rule_hits(&self, _revision: u64) -> Vec<RuleHits> {
        Vec::new()
    }

    fn memory(&self) -> SliceMemory<'_> {
        SliceMemory {
            settings: &self.settings,
            table: &self.table,
            buckets: [&self.v4, &self.v6, &self.index],
            address_blocks: &self.blocks,
            endpoints: &self.records,
            bindings: &self.bindings,
        }
    }

    fn probe(
        &self,
        program: Program,
        frame: &[u8],
        context: &TestContext,
    ) -> Result<Option<(Verdict, Verdict)>, AttachError> {
        Ok(judged(&self.memory(), program, frame, context))
    }
}

/// An endpoint as it was put in force.
fn endpoint(record: &EndpointRecord) -> Endpoint {
    let v4 = record
        .v4
        .iter()
        .zip(record.v4_slots)
        .map(|(word, slot)| (IpAddr::from(word.to_be_bytes()), slot));
    let v6 = record.v6.iter().zip(record.v6_slots).map(|(words, slot)| {
        let bytes = words.map(u32::to_be_bytes).concat();
        let bytes: [u8; 16] = bytes.try_into().expect("four words");
        (IpAddr::from(bytes), slot)
    });
    let mut addresses: Vec<_> = v4.chain(v6).filter(|&(_, slot)| slot != 0).collect();
    addresses.sort_by_key(|&(_, slot)| slot != record.primary_slot);
    let [_, _, mac @ ..] = record.mac.to_be_bytes();
    Endpoint {
        ifindex: record.ifindex,
        mac,
        incarnation: record.incarnation,
        addresses,
        stamp: record.stamp as u16,
        link_local: None,
        deny_all: record.flags.load() & flags::DENY_ALL != 0,
        shared_hooks: false,
        adopt_until: 0,
        listeners: record.listeners,
    }
}
