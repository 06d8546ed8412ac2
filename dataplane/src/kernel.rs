//! The programs and maps of one node, in the kernel.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::{
    EbpfError, Pod,
    maps::{Map, MapData, MapError, PerCpuArray},
    programs::ProgramError,
};
use cofferdam_verdict::{
    LAYOUT_VERSION,
    bucket::{AddressBlock, Bucket, Writer},
    capacity::{Limits, map},
    counter::{COUNTERS, Counter, Hook},
    endpoint::{Binding, EndpointRecord, MAX_ADDRESSES_V4, MAX_ADDRESSES_V6},
    hash::Keys,
    hits::{self, RuleCount},
    judge::{PROBE, probe},
    memory::Settings,
    share,
    shared::SharedWord64,
    slices::SliceMemory,
    table::{MAGIC, PAGE_SHIFT, PAGE_WORDS, Page, header, slot_place},
    verdict::Verdict,
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    adopt::revision_of,
    array::MappedArray,
    attach::AttachError,
    behaviour::{Behaviour, in_jiffies, tick},
    events::Events,
    flows::{Begun, EndListener, FlowKeeper, Flows, STALE_REVISIONS, Sweep, Swept},
    maps::MapSet,
    pins::Pins,
    programs::{
        OBJECT, Program, Programs, STAMP_IN_CONTROL_BUFFER, TestContext, TestRun, VerifiedProgram,
    },
    socket_buffer::SocketBufferError,
    sys,
};

/// Reason for which the kernel side could not be set up or changed. Nothing was changed then.
#[derive(Debug, Error)]
pub enum KernelError {
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// Action that failed.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object could not be loaded.
    #[error("cannot load the kernel programs")]
    Load {
        /// Error of aya.
        #[from]
        source: EbpfError,
    },
    /// A program was refused, or could not be run.
    #[error("cannot load or run program {name}")]
    Program {
        /// The program.
        name: String,
        /// Error of aya, the verifier's log included.
        source: Box<ProgramError>,
    },
    /// The programs cannot look at the checksums that packets leave to be written.
    #[error(transparent)]
    SocketBuffer(#[from] SocketBufferError),
    /// A map could not be read.
    #[error("cannot read map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// Error of aya.
        source: MapError,
    },
    /// The pins are to be where nothing can be pinned.
    #[error(
        "{} is not on a BPF file system: mount one, `mount -t bpf -o mode=700 bpf /sys/fs/bpf`",
        root.display()
    )]
    NotBpffs {
        /// Directory that the pins were to be in.
        root: PathBuf,
    },
    /// Another process has the pins.
    #[error("another agent has its pins in {}: stop it, or give this one another `bpffs`", root.display())]
    PinsInUse {
        /// Directory that the pins were to be in.
        root: PathBuf,
    },
    /// Something is where the pins are to be, and another user's.
    #[error("{} belongs to user {uid} or is no directory: remove it", root.display())]
    PinsOfOthers {
        /// Directory that the pins were to be in.
        root: PathBuf,
        /// Owner of the directory.
        uid: u32,
    },
    /// It cannot be looked if the pins are still there.
    #[error("cannot look if the pins are still there")]
    PinsUnseen {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pins could not be read or changed.
    #[error("cannot {action} {}", path.display())]
    Pins {
        /// Action that failed.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The programs could not be taken off.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A table does not fit.
    #[error(
        "the decision table has {got} pages of 64 KiB, there is room for {room}: raise the limit of table pages"
    )]
    TableTooLarge {
        /// Pages of the table.
        got: usize,
        /// Pages there are.
        room: u32,
    },
    /// The words to be published are not a table of this version.
    #[error("these words are not a decision table of layout version {LAYOUT_VERSION}")]
    NotATable,
    /// Flows were not swept for so long that they could be taken for flows of the next
    /// table or endpoint.
    #[error(
        "the flow tables have not been swept for too many tables or endpoints; what is in \
         force goes on until they are"
    )]
    NotSwept,
    /// No room for another endpoint.
    #[error("there are {room} endpoints already: raise `limits.endpoints`")]
    EndpointsFull {
        /// Endpoints there may be.
        room: u32,
    },
    /// An endpoint has more addresses than its record holds.
    #[error(
        "an endpoint has at most {MAX_ADDRESSES_V4} IPv4 and {MAX_ADDRESSES_V6} IPv6 addresses"
    )]
    TooManyAddresses,
    /// No room for another address.
    #[error("no room for address {address}: raise `limits.slots`")]
    AddressesFull {
        /// The address.
        address: IpAddr,
    },
    /// A slot beyond the limits.
    #[error("slot {slot} is not below {room}: raise `limits.slots`")]
    NoSuchSlot {
        /// The slot.
        slot: u32,
        /// Slots there are.
        room: u32,
    },
}

pub(crate) fn failed(action: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::System { action, source }
}

/// Gives a shared type to aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: the bounds refuse padding and invalid bit patterns.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Pod for Shared<T> {}

/// Counts of a rule of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleHits {
    /// The rule's number in the table, or that of a set of isolating policies.
    pub rule: u32,
    /// Flows that it allowed.
    pub allowed: u64,
    /// Packets that it would have denied with audit policies in force.
    pub audited: u64,
    /// Packets that it denied, by [`Hook`].
    pub denied: [u64; Hook::ALL.len()],
}

impl RuleHits {
    /// Flows that it allowed, and packets that it denied.
    pub fn hits(&self) -> u64 {
        let denied = self.denied.iter();
        denied.fold(self.allowed, |sum, one| sum.wrapping_add(*one))
    }
}

/// The programs, loaded, and their maps.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) programs: Programs,
    /// Programs that test runs are made with in place of those.
    stand_ins: Option<Programs>,
    pub(crate) maps: MapSet,
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    pub(crate) table: OwnedFd,
    pub(crate) published: MappedArray<Page>,
    pub(crate) addresses_v4: MappedArray<Bucket>,
    pub(crate) addresses_v6: MappedArray<Bucket>,
    pub(crate) address_blocks: MappedArray<AddressBlock>,
    pub(crate) endpoint_index: MappedArray<Bucket>,
    pub(crate) endpoints: MappedArray<EndpointRecord>,
    pub(crate) bindings: MappedArray<Binding>,
    rule_counts: MappedArray<RuleCount>,
    pub(crate) flows: Flows,
    begun: Begun,
    /// Numbers of records that no program can be reading.
    pub(crate) free: Vec<u32>,
    /// Numbers of records that were in use until a while ago.
    pub(crate) resting: Vec<u32>,
    /// Slots that addresses have left since epochs were ended, and before that.
    pub(crate) left: [BTreeSet<u32>; 2],
    events_taken: bool,
    /// Revision of the table of the set that flows were taken over from.
    pub(crate) last_revision: u64,
    /// Revision of the last table when the last sweep began, or of the first table; `None`
    /// as long as there is neither.
    swept: Option<u64>,
    /// Place of the pins of all this, if it is pinned.
    pub(crate) pins: Option<Pins>,
    /// [`Behaviour::early_drop`].
    pub(crate) early_drop: bool,
}

const MAKE_MAPS: &str = "make a BPF map (CAP_BPF and memory are needed)";
const SHARE_MAPS: &str = "share a BPF map";

/// Makes the maps, and draws their hash keys.
pub(crate) fn make_maps(limits: &Limits) -> Result<(MapSet, Keys), KernelError> {
    let maps = MapSet::make(limits).map_err(failed(MAKE_MAPS))?;
    let mut keys: Keys = sys::random().map_err(failed("draw hash keys"))?;
    for spread in &mut keys.spread {
        *spread |= 1;
    }
    sys::set_value(maps.get(map::KEYS), 0, &keys).map_err(failed("store the hash keys"))?;
    Ok((maps, keys))
}

/// Settings with which the programs are loaded.
pub(crate) fn settings(
    keys: Keys,
    limits: &Limits,
    behaviour: &Behaviour,
) -> Result<Settings, KernelError> {
    Ok(Settings {
        keys,
        bucket_masks: [
            limits.buckets_v4() - 1,
            limits.buckets_v6() - 1,
            limits.buckets_endpoint() - 1,
        ],
        own_node_allowed: behaviour.own_node_allowed.into(),
        idle: behaviour
            .idle
            .jiffies()
            .map_err(io::Error::from)
            .map_err(failed("ask how long a jiffy is"))?,
        flow_chunk_bits: limits.chunk_bits(),
        event_share: share::of_ring(limits.ring_records()),
    })
}

impl Kernel {
    /// Makes the maps and loads the programs. No table is in force yet:
    /// everything is denied.
    ///
    /// # Errors
    ///
    /// Whatever the kernel refuses: no permission, no memory, a missing feature.
    pub fn load(limits: Limits, behaviour: &Behaviour) -> Result<Self, KernelError> {
        Self::load_object(OBJECT, limits, behaviour, &[])
    }

    /// Like [`Kernel::load`], with another object of the same maps, and numbers for
    /// its own read-only variables.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load_object(
        object: &[u8],
        limits: Limits,
        behaviour: &Behaviour,
        variables: &[(&str, u32)],
    ) -> Result<Self, KernelError> {
        let (maps, keys) = make_maps(&limits)?;
        let settings = settings(keys, &limits, behaviour)?;
        let programs = Programs::load(object, &maps, &settings, variables, Programs::are_always)?;
        let mut kernel = Self::over(maps, programs, limits, settings)?;
        kernel.early_drop = behaviour.early_drop;
        Ok(kernel)
    }

    /// The maps and the programs that are bound to them.
    pub(crate) fn over(
        maps: MapSet,
        programs: Programs,
        limits: Limits,
        settings: Settings,
    ) -> Result<Self, KernelError> {
        let share = |name| maps.share(name).map_err(failed(SHARE_MAPS));
        let map_failed = || failed("map the memory of a BPF map");
        let table = share(map::TABLE)?;
        let in_force = sys::inner(table.as_fd(), 0).map_err(failed(
            "open the decision table in force (CAP_SYS_ADMIN is needed)",
        ))?;
        let published = match in_force {
            Some(inner) => MappedArray::over(inner).map_err(map_failed())?,
            None => MappedArray::new("table", limits.table_pages).map_err(failed(MAKE_MAPS))?,
        };
        let flows = Flows::over(share(map::FLOWS)?, &limits);
        Ok(Self {
            programs,
            stand_ins: None,
            settings,
            table,
            published,
            addresses_v4: MappedArray::over(share(map::ADDRESSES_V4)?).map_err(map_failed())?,
            addresses_v6: MappedArray::over(share(map::ADDRESSES_V6)?).map_err(map_failed())?,
            address_blocks: MappedArray::over(share(map::ADDRESS_BLOCKS)?).map_err(map_failed())?,
            endpoint_index: MappedArray::over(share(map::ENDPOINT_INDEX)?).map_err(map_failed())?,
            endpoints: MappedArray::over(share(map::ENDPOINTS)?).map_err(map_failed())?,
            bindings: MappedArray::over(share(map::BINDINGS)?).map_err(map_failed())?,
            rule_counts: MappedArray::over(share(map::RULE_COUNTS)?).map_err(map_failed())?,
            flows,
            begun: begun(&maps)?,
            free: (0..limits.endpoint_records()).rev().collect(),
            resting: Vec::new(),
            left: <_>::default(),
            maps,
            limits,
            events_taken: false,
            last_revision: 0,
            swept: None,
            pins: None,
            early_drop: false,
        })
    }

    /// Returns the limits with which the maps were made.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the settings that were fixed at load.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Puts a table in force, whole, by one store; returns when no program can be
    /// reading the one before, and tells when it gave the kernel the new one: from
    /// then on packets are judged by it.
    ///
    /// Counts of rules begin at 0 under it, and those of the table before can be read
    /// until the next one is published ([`Kernel::rule_hits`]). Under a revision of the
    /// same parity as that in force they go on instead: it must have the same rules.
    ///
    /// # Errors
    ///
    /// Fails if the table does not fit, is none, or is too far ahead of the last sweep, and if
    /// the kernel refuses; the table before stays in force.
    pub fn publish(&mut self, table: &[Page]) -> Result<Instant, KernelError> {
        let room = self.limits.table_pages;
        if table.len() > room as usize {
            return Err(KernelError::TableTooLarge {
                got: table.len(),
                room,
            });
        }
        if table.first().is_none_or(|page| {
            page[header::MAGIC] != MAGIC || page[header::VERSION] != LAYOUT_VERSION
        }) {
            return Err(KernelError::NotATable);
        }
        let mut next = MappedArray::<Page>::new("table", room)
            .map_err(failed("make a BPF map for the decision table"))?;
        for (to, from) in next.values_mut().iter_mut().zip(table) {
            to.copy_from_slice(from);
        }
        let revision = table.first().and_then(revision_of);
        if let Some(next) = revision {
            let swept = *self.swept.get_or_insert(next);
            if next.saturating_sub(swept) >= STALE_REVISIONS.into() {
                return Err(KernelError::NotSwept);
            }
            self.flows.note_revision(next);
        }
        if let Some((next, now)) = revision.zip(self.revision())
            && (next ^ now) & 1 == 1
        {
            self.reset_rule_counts(next);
        }
        let given = Instant::now();
        sys::set_inner(self.table.as_fd(), 0, next.map())
            .map_err(failed("publish the decision table"))?;
        self.published = next;
        self.after_grace_period();
        Ok(given)
    }

    /// Sets the counts of rules to 0 that tables of a revision's parity use. No program
    /// can be counting there: the last such table was replaced by the one in force, and
    /// the store that did it has returned, which it does when every program that had begun
    /// before has ended.
    fn reset_rule_counts(&self, revision: u64) {
        for count in self.counts_of(revision) {
            let RuleCount {
                allowed,
                audited,
                denied,
            } = count;
            for word in [allowed, audited].into_iter().chain(denied) {
                if word.load() != 0 {
                    word.put(0);
                }
            }
        }
    }

    fn counts_of(&self, revision: u64) -> impl Iterator<Item = &RuleCount> {
        let first = hits::place(0, revision as u32) as usize;
        let counts = self.rule_counts.values().iter();
        counts.skip(first).step_by(hits::SETS as usize)
    }

    /// Returns how often rules have decided under a table: that in force, or the one
    /// before it, whose counts do not move any more. Rules that have not are left out.
    pub fn rule_hits(&self, revision: u64) -> impl Iterator<Item = RuleHits> {
        let hits = (0..).zip(self.counts_of(revision));
        hits.map(|(rule, count)| RuleHits {
            rule,
            allowed: count.allowed.load(),
            audited: count.audited.load(),
            denied: count.denied.each_ref().map(SharedWord64::load),
        })
        .filter(|counted| counted.hits() != 0 || counted.audited != 0)
    }

    /// Numbers that have been retired are free: no program that runs has seen them in use.
    pub(crate) fn after_grace_period(&mut self) {
        self.free.append(&mut self.resting);
    }

    /// Gives a spare slot of the table in force a profile, so that a workload like
    /// others needs no new table. No address may lead to the slot yet: bind it
    /// afterwards. The next table must know the slot as well.
    ///
    /// # Errors
    ///
    /// Fails if there is no such slot.
    pub fn set_slot(&mut self, slot: u32, profile: u16) -> Result<(), KernelError> {
        let no_such_slot = KernelError::NoSuchSlot {
            slot,
            room: self.limits.slots,
        };
        if slot == 0 || slot >= self.limits.slots {
            return Err(no_such_slot);
        }
        let (offset, shift) = slot_place(slot);
        let place = (offset >> PAGE_SHIFT, offset as usize % PAGE_WORDS);
        let pages = self.published.values_mut();
        let Some(word) = (pages.get_mut(place.0 as usize)).map(|page| &mut page[place.1]) else {
            return Err(no_such_slot);
        };
        let next = *word & !(0xffff << shift) | u32::from(profile) << shift;
        // SAFETY: the word is borrowed alone and aligned. Programs read it whole,
        // and find the slot beside this one as it was.
        unsafe { std::ptr::write_volatile(word, next) };
        Ok(())
    }

    /// The memory of the maps, for running the programs' code on it in user space.
    pub fn memory(&self) -> SliceMemory<'_> {
        SliceMemory {
            settings: &self.settings,
            table: self.published.values(),
            buckets: [
                self.addresses_v4.values(),
                self.addresses_v6.values(),
                self.endpoint_index.values(),
            ],
            address_blocks: self.address_blocks.values(),
            endpoints: self.endpoints.values(),
            bindings: self.bindings.values(),
        }
    }

    /// Sweeps the flow table, here and now ([`Sweep::run`]). Returns how many entries were
    /// freed.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not say what time it is.
    pub fn sweep(&mut self) -> Result<usize, KernelError> {
        let swept = self.begin_sweep()?.run();
        self.end_sweep(swept);
        Ok(swept.freed)
    }

    /// Begins a sweep of the flow table, which another thread may run; one at a time. Flows
    /// must be swept at least once for every thousand published tables and for some hundred
    /// incarnations of an endpoint: then no other is put in force.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not say what time it is.
    pub fn begin_sweep(&self) -> Result<Sweep, KernelError> {
        // Before any entry is looked at.
        let begun = (self.begun.count()).map_err(failed("read the counters of the hooks"))?;
        let now = self.jiffies()?;
        let revision = self.last_revision();
        Ok(self.flows.sweep(self.settings.idle, now, revision, begun))
    }

    /// Notes that a sweep is over.
    pub fn end_sweep(&mut self, swept: Swept) {
        self.swept = Some(swept.began);
    }

    /// The one who lets flow tables grow as they fill, and gives back those of endpoints that
    /// have gone; for a thread of its own. There is to be one.
    ///
    /// # Errors
    ///
    /// Fails if the records of endpoints cannot be mapped once more.
    pub fn flow_keeper(&self) -> Result<FlowKeeper, KernelError> {
        let records = self
            .maps
            .share(map::ENDPOINTS)
            .map_err(failed(SHARE_MAPS))?;
        let records = MappedArray::over(records).map_err(failed("map the memory of a BPF map"))?;
        let (_, records) = records.into_parts();
        // Notes of what leaves are entries that no verdict counts.
        let begun = (!self.early_drop).then(|| begun(&self.maps)).transpose()?;
        Ok(self.flows.keeper(records, self.settings.keys, begun))
    }

    /// Bytes of memory that the maps take, as the kernel accounts for them. While a table is
    /// replaced there are two of it.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not say.
    pub fn map_bytes(&self) -> Result<u64, KernelError> {
        let asking = || failed("ask how much memory a BPF map takes");
        let named = self
            .maps
            .names()
            .map(|name| sys::memory_of(self.maps.get(name)));
        let named: io::Result<u64> = named.sum();
        let table = sys::memory_of(self.published.map()).map_err(asking())?;
        Ok(named.map_err(asking())? + table + self.flows.bytes())
    }

    /// Number of tables that were published since the last sweep began.
    pub fn tables_since_sweep(&self) -> u64 {
        let swept = self.swept.unwrap_or(u64::MAX);
        self.last_revision().saturating_sub(swept)
    }

    /// The clock of flows and events: jiffies, low word.
    ///
    /// # Errors
    ///
    /// Fails if the programs cannot be run.
    pub fn jiffies(&self) -> Result<u32, KernelError> {
        let probe = TestContext {
            ingress_ifindex: PROBE,
            ..TestContext::default()
        };
        let name = Program::TO_WORKLOAD.name;
        let run = self.test_run(name, &[0; 64], &probe, 1)?;
        Ok(run.cb[probe::JIFFIES])
    }

    /// The clock of flows after this time, for [`Endpoint::adopt_until`](crate::Endpoint::adopt_until); never 0.
    ///
    /// # Errors
    ///
    /// As for [`Kernel::jiffies`].
    pub fn jiffies_after(&self, time: Duration) -> Result<u32, KernelError> {
        let tick = tick()
            .map_err(io::Error::from)
            .map_err(failed("ask how long a jiffy is"))?;
        let then = self.jiffies()?.wrapping_add(in_jiffies(time, tick));
        Ok(then.max(1))
    }

    /// Time that is left from one moment on the clock of flows to a later one.
    ///
    /// # Errors
    ///
    /// Fails if the system does not say how long a jiffy is.
    pub fn time_between(&self, from: u32, to: u32) -> Result<Duration, KernelError> {
        let tick = tick()
            .map_err(io::Error::from)
            .map_err(failed("ask how long a jiffy is"))?;
        Ok(tick.saturating_mul(to.wrapping_sub(from)))
    }

    /// Asks the loaded program what policy says about a packet: its verdicts in force
    /// and with audit policies. Nothing is counted, remembered or reported.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses the packet or the context.
    pub fn probe(
        &self,
        program: Program,
        packet: &[u8],
        context: &TestContext,
    ) -> Result<Option<(Verdict, Verdict)>, KernelError> {
        let context = TestContext {
            ingress_ifindex: context.ingress_ifindex | PROBE,
            ..*context
        };
        let run = self.test_run(program.name, packet, &context, 1)?;
        let verdict = |place: usize| Verdict::from_any_word(run.cb[place]);
        Ok(verdict(probe::ENFORCED).zip(verdict(probe::AUDITED)))
    }

    /// Tells a listener from now on of flows whose end user space finds: of those that were
    /// idle for too long, and those of endpoints that have gone. There is one listener.
    pub fn tell_ends(&self, listener: EndListener) {
        self.flows.tell_ends(listener);
    }

    /// The reading end of the ring buffer of reported packets; there is one.
    ///
    /// # Errors
    ///
    /// Fails if it was taken before.
    pub fn events(&mut self) -> Result<Events, KernelError> {
        let name = map::EVENTS;
        if std::mem::replace(&mut self.events_taken, true) {
            let source = MapError::InvalidName { name: name.into() };
            return Err(KernelError::Map { name, source });
        }
        let ring = self.maps.share(name).map_err(failed(SHARE_MAPS))?;
        let tick = tick()
            .map_err(io::Error::from)
            .map_err(failed("ask how long a jiffy is"))?;
        let shares = self
            .maps
            .share(map::EVENT_SHARES)
            .and_then(MappedArray::over);
        let shares = shares.map_err(failed("map the shares of the ring of records"))?;
        MapData::from_fd(ring)
            .and_then(|data| {
                Events::new(Map::RingBuf(data), self.limits.ring_records(), shares, tick)
            })
            .map_err(|source| KernelError::Map { name, source })
    }

    /// All counters, summed over the CPUs, by their index.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not let them be read.
    pub fn counters(&self) -> Result<Vec<Counter>, KernelError> {
        let read = |source| KernelError::Map {
            name: map::COUNTERS,
            source,
        };
        let share = self.maps.share(map::COUNTERS);
        let data = MapData::from_fd(share.map_err(failed(SHARE_MAPS))?);
        let counters = data
            .and_then(|data| PerCpuArray::<_, Shared<Counter>>::try_from(Map::PerCpuArray(data)))
            .map_err(read)?;
        (0..COUNTERS)
            .map(|index| {
                let per_cpu = counters.get(&index, 0).map_err(read)?;
                Ok(per_cpu
                    .iter()
                    .fold(Counter::default(), |sum, Shared(one)| Counter {
                        packets: sum.packets.wrapping_add(one.packets),
                        bytes: sum.bytes.wrapping_add(one.bytes),
                    }))
            })
            .collect()
    }

    /// Costs of the loaded programs to the verifier.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not tell about a program.
    pub fn verified(&self) -> Result<Vec<VerifiedProgram>, KernelError> {
        let later = Program::LATER
            .into_iter()
            .filter(|program| self.programs.has(program.name));
        Program::ALWAYS
            .into_iter()
            .chain(later)
            .map(|program| {
                let verified = self.programs.verified(program);
                verified.map_err(|source| KernelError::Program {
                    name: program.name.to_owned(),
                    source: Box::new(source),
                })
            })
            .collect()
    }

    /// Loads stand-ins for the programs of workloads' links, over the same maps, for
    /// [`Kernel::test_run`]: the same code, but the stamp of a packet is that of
    /// [`TestContext::stamped`]. They are never attached.
    ///
    /// # Errors
    ///
    /// As for [`Kernel::load`].
    pub fn load_stand_ins(&mut self) -> Result<(), KernelError> {
        if self.stand_ins.is_none() {
            let variables = [(STAMP_IN_CONTROL_BUFFER, 1)];
            let judges = [Program::FROM_WORKLOAD, Program::TO_WORKLOAD];
            let judges = |name: &str| judges.iter().any(|program| program.name == name);
            let programs = Programs::load(OBJECT, &self.maps, &self.settings, &variables, judges)?;
            self.stand_ins = Some(programs);
        }
        Ok(())
    }

    /// Runs the program of XDP on a frame, which comes in by the caller's loopback. Returns
    /// `true` if it passes.
    ///
    /// # Errors
    ///
    /// Fails if the program is not loaded, or the kernel refuses the frame.
    pub fn test_run_xdp(&self, frame: &[u8]) -> Result<bool, KernelError> {
        let run = self.programs.test_run_xdp(frame);
        run.map_err(|source| KernelError::Program {
            name: Program::UPLINK_INGRESS.name.to_owned(),
            source: Box::new(source),
        })
    }

    /// Runs a program on a packet, `repeat` times.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses the packet or the context.
    pub fn test_run(
        &self,
        name: &str,
        packet: &[u8],
        context: &TestContext,
        repeat: u32,
    ) -> Result<TestRun, KernelError> {
        let stand_ins = self.stand_ins.as_ref();
        let programs = stand_ins.filter(|programs| programs.has(name));
        let run = programs
            .unwrap_or(&self.programs)
            .test_run(name, packet, context, repeat);
        run.map_err(|source| KernelError::Program {
            name: name.to_owned(),
            source: Box::new(source),
        })
    }
}

fn begun(maps: &MapSet) -> Result<Begun, KernelError> {
    let counters = maps.share(map::COUNTERS);
    counters
        .and_then(Begun::by)
        .map_err(failed("read the counters of the hooks"))
}

pub(crate) fn writer<'a>(settings: &'a Settings, buckets: &'a MappedArray<Bucket>) -> Writer<'a> {
    Writer::new(&settings.keys, buckets.values())
        .expect("bucket numbers are made powers of two by `Limits`")
}
