//! Opening what an agent before has left in force, and reading it back.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    path::Path,
};

use cofferdam_verdict::{
    bucket::Writer,
    capacity::{Limits, map},
    endpoint::{EndpointRecord, STAMP_KEY, flags},
    flow::Size,
    hash::Keys,
    memory::Settings,
    table::{MAGIC, PAGE_BYTES, Page, header},
};
use zerocopy::IntoBytes as _;

use crate::{
    array::MappedArray,
    behaviour::Behaviour,
    digest::Digest,
    endpoints::Endpoint,
    flows::Led,
    kernel::{self, Kernel, KernelError, failed, writer},
    maps::{self, MapSet, Shape},
    pins::{Adopted, Pins},
    programs::{OBJECT, Programs},
    sys,
};

impl Kernel {
    /// Opens what is pinned under `root`, a directory on a BPF file system, or
    /// makes and pins it. What is attached goes on judging throughout, by what it
    /// was attached with.
    ///
    /// One root belongs to one agent: the caller holds its [`PinsLock`](crate::PinsLock). Adopting a table
    /// needs CAP_SYS_ADMIN; nothing later does.
    ///
    /// # Errors
    ///
    /// Fails if `root` is on another file system or another user's, and if the kernel refuses a
    /// call. Everything pinned and attached stays as it was.
    pub fn open(root: &Path, limits: Limits, behaviour: &Behaviour) -> Result<Self, KernelError> {
        let shape = maps::shape(&limits);
        let loaded_from = |settings: &Settings| {
            let digest = Digest::new().add(OBJECT).add(settings.as_bytes());
            digest.add(&[behaviour.early_drop.into()])
        };
        let settings = |keys| kernel::settings(keys, &limits, behaviour);
        let mut pins = Pins::prepare(root, shape)?;
        let mut last_revision = 0;
        let opening = failed("open the pinned BPF maps");
        let (maps, programs, settings) = match MapSet::open(&limits, pins.set()).map_err(opening)? {
            Some(maps) => {
                let keys: Keys = sys::value(maps.get(map::KEYS), 0)
                    .map_err(failed("read the hash keys back"))?;
                let settings = settings(keys)?;
                pins.name_programs(loaded_from(&settings));
                let programs = match Programs::open(pins.programs())? {
                    Some(programs) => {
                        pins.adopted = Adopted::Everything;
                        programs
                    }
                    None => {
                        let programs =
                            Programs::load(OBJECT, &maps, &settings, &[], Programs::are_always)?;
                        pins.pin_programs(&programs)?;
                        pins.adopted = Adopted::Maps;
                        programs
                    }
                };
                (maps, programs, settings)
            }
            None => {
                let (maps, keys) = match taken_over(&pins, shape, &limits)? {
                    Some((maps, revision)) => {
                        pins.adopted = Adopted::State;
                        last_revision = revision;
                        let keys = sys::value(maps.get(map::KEYS), 0)
                            .map_err(failed("read the hash keys back"))?;
                        (maps, keys)
                    }
                    None => kernel::make_maps(&limits)?,
                };
                pins.put_damaged_aside()?;
                if pins.adopted == Adopted::Nothing && pins.has_others()? {
                    pins.adopted = Adopted::Incompatible;
                }
                let settings = settings(keys)?;
                pins.name_programs(loaded_from(&settings));
                let programs = Programs::load(OBJECT, &maps, &settings, &[], Programs::are_always)?;
                pins.pin_set(&maps, &programs)?;
                (maps, programs, settings)
            }
        };
        pins.find_leftovers()?;
        let mut kernel = Self::over(maps, programs, limits, settings)?;
        kernel.pins = Some(pins);
        kernel.early_drop = behaviour.early_drop;
        kernel.last_revision = last_revision;
        kernel.resume()?;
        Ok(kernel)
    }

    /// Returns the finding of [`Kernel::open`]; nothing for a kernel that was loaded.
    pub fn adopted(&self) -> Adopted {
        let pins = self.pins.as_ref();
        pins.map_or(Adopted::Nothing, |pins| pins.adopted)
    }

    /// The kernel's numbers of the maps, by name.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not tell.
    pub fn map_ids(&self) -> Result<Vec<(&'static str, u32)>, KernelError> {
        let ids = self.maps.names().map(|name| {
            let info = sys::map_info(self.maps.get(name)).map_err(failed("look at a BPF map"))?;
            Ok((name, info.id))
        });
        ids.collect()
    }

    /// The number of the table in force, if there is one.
    pub fn revision(&self) -> Option<u64> {
        self.published.values().first().and_then(revision_of)
    }

    /// The number of the last table that flows here may have been decided under: that of
    /// the table in force, or of one whose flows were taken over. The next table needs a
    /// greater one.
    pub fn last_revision(&self) -> u64 {
        self.revision().unwrap_or(0).max(self.last_revision)
    }

    /// All addresses that lead to slots, with the slots.
    pub fn bound_addresses(&self) -> Vec<(IpAddr, u32)> {
        let bound = self.addresses().bound();
        bound
            .map(|(address, slot)| (address.into(), slot))
            .collect()
    }

    /// All endpoints in force.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.records().map(|record| self.read(record)).collect()
    }

    /// Puts in order what the agent before may have been in the middle of, and
    /// finds the records that are not in use.
    fn resume(&mut self) -> Result<(), KernelError> {
        let mut led_to = vec![false; self.address_blocks.values().len()];
        self.addresses().mend(&mut led_to);
        self.index().mend::<1>();
        self.end_stray_stamps();
        if self.revision().is_some() {
            // The kernel waits for a grace period when it stores the map: whoever
            // still read a record that has gone out of use has finished.
            sys::set_inner(self.table.as_fd(), 0, self.published.map())
                .map_err(failed("wait for a grace period"))?;
        }
        let used: BTreeSet<u32> = self
            .index()
            .entries::<1>()
            .map(|(_, value)| value - 1)
            .collect();
        self.free = (0..self.limits.endpoint_records())
            .rev()
            .filter(|number| !used.contains(number))
            .collect();
        let (least, most) = (self.limits.chunk_sets(), self.limits.flow_sets());
        let led = used.iter().filter_map(|&number| {
            let record = self.endpoints.values().get(number as usize)?;
            let size = Size(record.flow_size.load());
            let is_whole = size.sets().is_power_of_two() && (least..=most).contains(&size.sets());
            let size = if is_whole { size } else { Size::of(least) };
            record.flow_size.store(size.0);
            Some(Led {
                record: number,
                partition: record.flow_partition.checked_sub(1)?,
                size,
            })
        });
        let partitions: Vec<Led> = led.collect();
        (self.flows.resume(&partitions))
            .map_err(failed("open the partitions of the flow table"))?;
        for record in self.records() {
            if let Some(partition) = record.flow_partition.checked_sub(1) {
                (self.flows).assign(partition, record.ifindex, record.incarnation);
            }
        }
        self.flows.note_revision(self.last_revision());
        if !partitions.is_empty() {
            // Nobody knows when the agent before last did.
            self.sweep()?;
        }
        self.end_stray_bindings();
        Ok(())
    }

    /// A slot that is bound to an interface without an endpoint of that slot, is
    /// bound to nobody: the agent before died between the two.
    pub fn end_stray_bindings(&self) {
        let mut ours = vec![0; self.bindings.values().len()];
        for record in self.records() {
            for slot in slots(record) {
                if let Some(ifindex) = ours.get_mut(slot as usize) {
                    *ifindex = record.ifindex;
                }
            }
        }
        for (binding, ifindex) in self.bindings.values().iter().zip(ours) {
            let bound = binding.ifindex.load();
            if bound != 0 && bound != ifindex {
                binding.ifindex.store(0);
                binding.stamp.store(0);
                binding.bypassed_until.store(0);
                binding.epoch.add(1);
            }
        }
        self.renew_generation();
    }

    /// A stamp that leads to a record which no interface leads to, or which has another
    /// stamp, leads nowhere: the agent before died between the two.
    fn end_stray_stamps(&self) {
        let entries: Vec<(u32, u32)> = self
            .index()
            .entries::<1>()
            .map(|([key], value)| (key, value))
            .collect();
        let is_led_to = |value: u32| {
            let mut entries = entries.iter();
            entries.any(|&(key, other)| key & STAMP_KEY == 0 && other == value)
        };
        for &(key, value) in entries.iter().filter(|(key, _)| key & STAMP_KEY != 0) {
            let record = self.endpoints.values().get(value as usize - 1);
            let is_its = record.is_some_and(|record| STAMP_KEY | record.stamp == key);
            if !is_its || !is_led_to(value) {
                self.index().remove(&[key]);
            }
        }
    }

    /// The records that an interface index leads to.
    fn records(&self) -> impl Iterator<Item = &EndpointRecord> {
        let records = self.endpoints.values();
        self.index()
            .entries::<1>()
            .filter(|([key], _)| key & STAMP_KEY == 0)
            .filter_map(|(_, value)| records.get(value as usize - 1))
    }

    /// An endpoint as it was put in force.
    fn read(&self, record: &EndpointRecord) -> Endpoint {
        let v4 = record
            .v4
            .iter()
            .zip(record.v4_slots)
            .map(|(word, slot)| (IpAddr::from(word.to_be_bytes()), slot));
        let v6 = record
            .v6
            .iter()
            .zip(record.v6_slots)
            .map(|(&words, slot)| (IpAddr::V6(v6_address(words)), slot));
        let mut addresses: Vec<_> = v4.chain(v6).filter(|&(_, slot)| slot != 0).collect();
        // The first is the subject's.
        addresses.sort_by_key(|&(_, slot)| slot != record.primary_slot);
        let [_, _, mac @ ..] = record.mac.to_be_bytes();
        let bits = record.flags.load();
        Endpoint {
            ifindex: record.ifindex,
            mac,
            incarnation: record.incarnation,
            stamp: record.stamp as u16,
            link_local: (record.link_local != [0; 4]).then(|| v6_address(record.link_local)),
            deny_all: bits & flags::DENY_ALL != 0,
            shared_hooks: bits & flags::SHARED_HOOKS != 0,
            adopt_until: record.adopt_until.load(),
            listeners: record.listeners,
            addresses,
        }
    }

    fn index(&self) -> Writer<'_> {
        writer(&self.settings, &self.endpoint_index)
    }

    /// Pins everything again where the pins have been lost, which is when somebody
    /// unmounted the file system or cleaned it; a quick look sees only if whole directories are
    /// missing. `false` if nothing was missing.
    ///
    /// # Errors
    ///
    /// [`KernelError::PinsUnseen`] when this process cannot look; when the file system is not
    /// back yet, and whatever the kernel refuses.
    pub fn restore_pins(&mut self, is_quick: bool) -> Result<bool, KernelError> {
        let Some(pins) = &self.pins else {
            return Ok(false);
        };
        let unseen = |source| KernelError::PinsUnseen { source };
        if is_quick && pins.seem_to_stand().map_err(unseen)?
            || pins.stand(&self.maps).map_err(unseen)?
        {
            return Ok(false);
        }
        pins.restore(&self.maps, &self.programs)?;
        Ok(true)
    }
}

/// The maps of another set that flows rest on, with new ones beside, and the revision of
/// its table: the newest, should there be several.
fn taken_over(
    pins: &Pins,
    shape: Shape,
    limits: &Limits,
) -> Result<Option<(MapSet, u64)>, KernelError> {
    let mut newest = None;
    for set in pins.sets_of_state(shape)? {
        if let Some(revision) = pinned_revision(&set).map_err(failed("read a table back"))? {
            newest = newest.max(Some((revision, set)));
        }
    }
    let Some((revision, set)) = newest else {
        return Ok(None);
    };
    let maps = MapSet::take_over(limits, &set).map_err(failed("open the pinned BPF maps"))?;
    Ok(maps.map(|maps| (maps, revision)))
}

/// The revision of the table in force of a pinned set; none when there is no table that
/// this version can read.
fn pinned_revision(set: &Path) -> io::Result<Option<u64>> {
    let outer = sys::pinned(&set.join(map::TABLE))?;
    let Some(inner) = sys::inner(outer.as_fd(), 0)? else {
        return Ok(None);
    };
    if sys::map_info(inner.as_fd())?.value_bytes as usize != PAGE_BYTES {
        return Ok(None);
    }
    let table = MappedArray::<Page>::over(inner)?;
    Ok(table.values().first().and_then(revision_of))
}

/// The revision of a table, by its first page.
pub(crate) fn revision_of(page: &Page) -> Option<u64> {
    (page[header::MAGIC] == MAGIC).then(|| {
        u64::from(page[header::REVISION_HIGH]) << 32 | u64::from(page[header::REVISION_LOW])
    })
}

fn v6_address(words: [u32; 4]) -> Ipv6Addr {
    let [a, b, c, d] = words.map(u128::from);
    Ipv6Addr::from((a << 96 | b << 64 | c << 32 | d).to_be_bytes())
}

/// The slots of an endpoint's addresses.
fn slots(record: &EndpointRecord) -> impl Iterator<Item = u32> {
    let slots = record.v4_slots.iter().chain(&record.v6_slots).copied();
    slots.filter(|&slot| slot != 0)
}
