//! What is in force in the kernel, and how that is changed.
//!
//! Additions go from the inside out: the table with a slot's class and atom, then
//! the address that leads to the slot, then the endpoint's record, which ends
//! "nothing passes". Removal is the reverse. Whatever fails on the way leaves what
//! was in force before, or less.
//!
//! Where workloads come and nothing else changes, and the table in force knows others
//! like them, their slots' entries are written into that table: no address leads there
//! yet. A number that became free rests until a table without it has been published;
//! as every removal publishes one, what is spare in the table in force has rested.

mod read_back;
mod sweeper;
mod times;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_dataplane::{
    Adopted, AttachError, Endpoint, FlowUse, Foreign, HookState, Kernel, KernelError, Uplink,
};
use cofferdam_policies::compiler::{CompileError, Compiled, Compiler, Slot, SlotPlan, Snapshot};
use cofferdam_policies::inventory::{Inventory, ObjectName, Owner};
use cofferdam_policies::shared_map::SharedMap;
use cofferdam_telemetry::hits::{CountsByRule, Hits, Meaning, SavedHits};
use cofferdam_verdict::endpoint::MAX_LISTENERS;
use thiserror::Error;

use crate::config::Config;
use crate::desired::Desired;
use crate::links::{Link, Links};

use cofferdam_telemetry::names::{Names, SharedNames};
use read_back::FIRST_ADDRESS;
pub use read_back::{Depth, Mismatch};
use sweeper::Sweeper;

/// How often flow tables are rid of what is over.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(10);

/// So many tables make a sweep due at once: the kernel side takes no table that is 2 048
/// ahead of the last one.
const TABLES_PER_SWEEP: u64 = 500;

/// Time between two tries of a sweep that is due at once.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// How long apart epochs are ended of slots that addresses have left: no program runs
/// for so long.
const BETWEEN_EPOCHS: Duration = Duration::from_millis(100);

/// How a desired state came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It was.
    Before,
    /// With so many slots more in the table that was in force.
    Slots(usize),
    /// With a new table.
    Table,
}

/// Why a desired state did not come into force. What was before still is.
#[derive(Debug, Error)]
pub enum PublishError {
    /// There is no table for it.
    #[error("the policies do not fit: {0}")]
    Compile(#[from] CompileError),
    /// The kernel refuses it.
    #[error("the kernel refuses the new table: {0}")]
    Kernel(#[from] KernelError),
}

/// The kernel side of this node.
pub struct Force {
    kernel: Kernel,
    /// Interfaces on which at least the filters stand.
    guarded: BTreeSet<u32>,
    /// Interfaces on which everything stands.
    attached: BTreeSet<u32>,
    endpoints: BTreeMap<u32, Endpoint>,
    /// Times on the clock of flows until which policy denies endpoints nothing, by their
    /// interfaces.
    bypasses: BTreeMap<u32, u32>,
    bound: SharedMap<IpAddr, u32>,
    /// What was put there since it was last read back: addresses, and interfaces.
    unread: (BTreeSet<IpAddr>, BTreeSet<u32>),
    /// What is read back the next time, of what is not new.
    next_read: (IpAddr, u32),
    plan: SlotPlan,
    compiler: Compiler,
    published: Option<(Desired, Compiled)>,
    revision: u64,
    /// When the kernel was given the table in force, if that was by this agent.
    in_force_since: Option<Instant>,
    names: SharedNames,
    hits: Hits,
    node: String,
    adopt_midstream: Duration,
    sweeper: Sweeper,
    /// Time at which a sweep was last begun.
    swept: Instant,
    ended_epochs: Instant,
    /// Whether what the next endpoint needs was made, or cannot be.
    is_prepared: bool,
}

impl Force {
    /// Takes up what an agent before has left in force, or begins anew. The next table
    /// has a number greater than `revision`, and than that of any table in force.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn open(config: &Config, revision: u64, names: SharedNames) -> Result<Self, KernelError> {
        let limits = config.limits();
        let mebibytes = |endpoints, sets| limits.memory_bytes(endpoints, sets) >> 20;
        tracing::info!(
            without_endpoints = mebibytes(0, 0),
            all_endpoints_idle = mebibytes(limits.endpoints, limits.chunk_sets()),
            all_flow_tables_full = mebibytes(limits.endpoints, limits.flow_sets()),
            another_table = limits.table_bytes() >> 20,
            "memory of the kernel's maps in MiB; while a table is replaced there is another"
        );
        let mut kernel = Kernel::open(&config.bpffs, limits, &config.behaviour())?;
        match kernel.adopted() {
            Adopted::Nothing => tracing::info!("nothing was in force"),
            Adopted::Everything => tracing::info!("took up what was in force"),
            Adopted::Maps => tracing::info!("took up what was in force, with new programs"),
            Adopted::State => tracing::info!(
                "took over addresses, endpoints and flows; what is in force judges by its own \
                 table until it is replaced"
            ),
            Adopted::Incompatible => tracing::warn!(
                "what is in force was made with other limits or by another version; it judges \
                 until it is replaced"
            ),
        }
        if matches!(cofferdam_dataplane::casts_socket_buffer(), Ok(false)) {
            tracing::info!(
                "the kernel has no bpf_cast_to_kern_ctx: programs copy from its packet buffer, \
                 which costs some 24 ns a packet; Linux 6.2 and later have it"
            );
        }
        let mut bound = SharedMap::default();
        for (address, number) in kernel.bound_addresses() {
            bound.insert(address, number);
        }
        // Nobody knows yet whose they are; the first table will.
        let nobody = Owner::Workload(ObjectName::new("", ""));
        let slots = bound.iter().map(|(address, number)| Slot {
            number: *number,
            owner: nobody.clone(),
            address: *address,
        });
        let plan = SlotPlan::from_slots(slots).unwrap_or_else(|error| {
            tracing::error!("addresses in the kernel contradict each other: {error}");
            for address in std::mem::take(&mut bound).keys() {
                kernel.release_address(*address);
            }
            SlotPlan::default()
        });
        let endpoints = kernel.endpoints().into_iter();
        let endpoints: BTreeMap<u32, Endpoint> = endpoints
            .map(|endpoint| (endpoint.ifindex, endpoint))
            .collect();
        // The next revision is of the other parity than the one in force: rules are counted
        // by that.
        let mut revision = revision.max(kernel.last_revision());
        let known = kernel.last_revision();
        if !endpoints.is_empty() && revision - known >= TABLES_PER_SWEEP {
            tracing::warn!(
                revision,
                known,
                "flows in force are of a table long before the last one that is remembered; \
                 tables are numbered from theirs on"
            );
            revision = known;
        }
        if let Some(in_force) = kernel.revision() {
            revision += (revision - in_force) & 1;
        }
        Ok(Self {
            guarded: BTreeSet::new(),
            attached: BTreeSet::new(),
            bypasses: endpoints
                .keys()
                .map(|ifindex| (*ifindex, kernel.bypassed_until(*ifindex)))
                .filter(|(_, until)| *until != 0)
                .collect(),
            endpoints,
            bound,
            unread: <_>::default(),
            next_read: (FIRST_ADDRESS, 0),
            plan,
            compiler: Compiler::default(),
            published: None,
            revision,
            in_force_since: None,
            names,
            hits: Hits::default(),
            node: config.node.name.clone(),
            adopt_midstream: config.adopt_midstream.0,
            sweeper: Sweeper::start(kernel.flow_keeper()?)?,
            swept: Instant::now(),
            ended_epochs: Instant::now(),
            is_prepared: false,
            kernel,
        })
    }

    /// The kernel side.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Returns `true` if no agent before has left any pins.
    #[must_use]
    pub fn found_nothing(&self) -> bool {
        self.kernel.adopted() == Adopted::Nothing
    }

    /// Number of the table in force, whoever published it; 0 when there is none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.kernel.revision().unwrap_or(0)
    }

    /// When the kernel was given the table in force, if that was by this agent.
    #[must_use]
    pub fn in_force_since(&self) -> Option<Instant> {
        self.in_force_since
    }

    /// Greatest incarnation in force.
    #[must_use]
    pub fn last_incarnation(&self) -> u32 {
        let incarnations = self.endpoints.values().map(|one| one.incarnation);
        incarnations.max().unwrap_or(0)
    }

    /// Interfaces that have an endpoint's record.
    #[must_use]
    pub fn interfaces(&self) -> Vec<u32> {
        self.endpoints.keys().copied().collect()
    }

    /// Whether an interface has an endpoint's record, and that lets something pass.
    #[must_use]
    pub fn is_open(&self, ifindex: u32) -> bool {
        let endpoint = self.endpoints.get(&ifindex);
        endpoint.is_some_and(|endpoint| !endpoint.deny_all)
    }

    /// The table in force.
    #[must_use]
    pub fn compiled(&self) -> Option<&Compiled> {
        self.published.as_ref().map(|(_, compiled)| compiled)
    }

    /// Rule hits under all tables of this agent.
    #[must_use]
    pub fn hits(&self) -> CountsByRule {
        self.hits.counts(self.kernel.rule_hits(self.revision()))
    }

    /// Returns what the next agent needs to count rules on.
    #[must_use]
    pub fn saved_hits(&self) -> SavedHits {
        self.hits.saved(self.revision())
    }

    /// Counts rules on where an agent before stopped. To be called before anything is
    /// published.
    pub fn resume_hits(&mut self, saved: SavedHits) {
        self.hits = Hits::resumed(saved, self.revision());
    }

    /// Addresses that lead to slots.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound.len()
    }

    /// What is in force, as far as it is known: after a restart with documents that are
    /// held back it is not.
    #[must_use]
    pub fn inventory(&self) -> Option<&Inventory> {
        (self.published.as_ref()).map(|(desired, _)| &desired.inventory)
    }

    /// Puts a desired state in force, but for its endpoints' records.
    ///
    /// # Errors
    /// When it does not fit or the kernel refuses.
    pub fn publish(&mut self, desired: Desired) -> Result<Published, PublishError> {
        if let Some((before, _)) = &self.published
            && before.inventory == desired.inventory
            && before.local == desired.local
        {
            self.bind()?;
            return Ok(Published::Before);
        }
        let plan = self.plan.successor(&desired.inventory);
        let revision = self.revision + 1;
        let next = Snapshot {
            inventory: &desired.inventory,
            slots: &plan,
            local: &desired.local,
            own_node: Some(&self.node),
            limits: *self.kernel.limits(),
            revision,
        };
        if let Some((before, compiled)) = &mut self.published
            && let Some(entries) =
                (self.compiler).additions(compiled, &before.inventory, &before.local, &next)
        {
            for entry in &entries {
                self.kernel.set_slot(entry.slot, entry.profile)?;
                compiled.fill(*entry);
            }
            // Before the first packet that is judged by them.
            let names = Names::new(self.revision, &desired.inventory, &plan, compiled);
            self.names.add(Arc::new(names));
            *before = desired;
            self.plan = plan;
            self.bind()?;
            return Ok(Published::Slots(entries.len()));
        }
        let compiled = self.compiler.compile(&next)?;
        let before = self.bound.clone();
        let changes = before.changes(plan.by_address());
        for change in changes.iter().filter(|change| change.after.is_none()) {
            self.kernel.release_address(*change.key);
            self.bound.remove(change.key);
        }
        // Before the first packet that is judged by it.
        let names = Names::new(revision, &desired.inventory, &plan, &compiled);
        self.names.add(Arc::new(names));
        self.note_sweeps();
        let before = self.kernel.revision().unwrap_or(0);
        self.in_force_since = Some(self.kernel.publish(compiled.pages())?);
        let meaning = Meaning::new(compiled.rules.clone(), desired.inventory.clone());
        self.hits.retire(self.kernel.rule_hits(before), meaning);
        self.revision = revision;
        self.plan = plan;
        self.published = Some((desired, compiled));
        self.bind()?;
        Ok(Published::Table)
    }

    /// Leads every address of the plan to its slot.
    fn bind(&mut self) -> Result<(), KernelError> {
        let before = self.bound.clone();
        for change in before.changes(self.plan.by_address()) {
            if let Some(slot) = change.after {
                self.kernel.bind_address(*change.key, *slot)?;
                self.bound.insert(*change.key, *slot);
                self.unread.0.insert(*change.key);
            }
        }
        // The same; and from now on shared, so that the next change is found at once.
        self.bound = self.plan.by_address().clone();
        Ok(())
    }

    /// Puts everything there again that ought to be in the kernel.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn repair(&mut self) -> Result<(), KernelError> {
        if let Some((_, compiled)) = &self.published {
            self.kernel.publish(compiled.pages())?;
        }
        for (address, slot) in self.bound.iter() {
            self.kernel.bind_address(*address, *slot)?;
        }
        for endpoint in self.endpoints.values() {
            self.kernel.set_endpoint(endpoint)?;
        }
        Ok(())
    }

    /// Lets nothing pass on an interface, whatever runs behind it. Where something did,
    /// that ends at once, whatever fails later.
    ///
    /// # Errors
    /// When there is no room for it, or its addresses could not be taken from it.
    pub fn close(
        &mut self,
        endpoint: &crate::endpoint::Endpoint,
        link: Option<&Link>,
    ) -> Result<(), KernelError> {
        let before = self.deny_all(endpoint.link.host_ifindex);
        self.is_prepared &= before.is_some();
        // With its addresses the time goes.
        self.bypasses.remove(&endpoint.link.host_ifindex);
        self.set(Endpoint {
            ifindex: endpoint.link.host_ifindex,
            mac: endpoint.link.mac,
            incarnation: endpoint.incarnation,
            addresses: Vec::new(),
            stamp: 0,
            link_local: None,
            deny_all: true,
            shared_hooks: before.is_some_and(|before| before.shared_hooks),
            adopt_until: link.and_then(|link| link.adopt_until).unwrap_or(0),
            listeners: link.map(|link| link.listeners).unwrap_or_default(),
        })
    }

    /// Sets the time in which connections from before are adopted on interfaces to come.
    pub fn set_adopt_midstream(&mut self, time: Duration) {
        self.adopt_midstream = time;
    }

    /// Puts the links that are in force among those that are remembered.
    pub fn tell_links(&self, links: &mut Links, mac: impl Fn(u32) -> Option<[u8; 6]>) {
        if matches!(
            self.kernel.adopted(),
            Adopted::Nothing | Adopted::Incompatible
        ) {
            // Flows are not known any more.
            links.forget_deadlines();
        }
        for endpoint in self.endpoints.values().filter(|one| one.stamp != 0) {
            let Some(host_mac) = mac(endpoint.ifindex) else {
                continue;
            };
            let link = Link {
                host_mac,
                stamp: endpoint.stamp,
                adopt_until: Some(endpoint.adopt_until),
                listeners: endpoint.listeners,
            };
            links.adopt(endpoint.ifindex, link);
        }
    }

    /// Lets nothing pass any more where an endpoint is in force of which nothing else is
    /// known.
    ///
    /// # Errors
    /// When its addresses could not be taken from it.
    pub fn close_as_is(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let Some(endpoint) = self.deny_all(ifindex) else {
            return Ok(());
        };
        self.set(Endpoint {
            addresses: Vec::new(),
            ..endpoint
        })
    }

    /// Lets nothing pass on an interface of which nothing is known but that programs of
    /// another set of maps judge there.
    ///
    /// # Errors
    /// When there is no room for it, or the programs are not replaced.
    pub fn close_unknown(&mut self, ifindex: u32, incarnation: u32) -> Result<(), AttachError> {
        self.set(Endpoint {
            ifindex,
            mac: [0; 6],
            incarnation,
            addresses: Vec::new(),
            stamp: 0,
            link_local: None,
            deny_all: true,
            shared_hooks: false,
            adopt_until: 0,
            listeners: [0; MAX_LISTENERS],
        })?;
        self.guard(ifindex)
    }

    /// Lets nothing pass under the record that an interface has; returns what it says
    /// then, `None` if there is no record.
    fn deny_all(&mut self, ifindex: u32) -> Option<Endpoint> {
        let endpoint = self.endpoints.get_mut(&ifindex)?;
        self.kernel.deny_all(ifindex);
        endpoint.deny_all = true;
        Some(endpoint.clone())
    }

    /// Returns `true` if programs of ours judge on an interface: those of an agent before
    /// count as well.
    #[must_use]
    pub fn stands(&self, ifindex: u32) -> bool {
        self.kernel.judges_on(ifindex).unwrap_or(false)
    }

    /// Lists programs and filters of others on an interface.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn foreign(&self, ifindex: u32) -> Result<Vec<Foreign>, AttachError> {
        self.kernel.foreign(ifindex)
    }

    /// Whether all programs are on an interface.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains(&ifindex)
    }

    /// Puts the filters on an interface, unless they are there: they judge as well as
    /// the links do, and cost no grace period.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard(&mut self, ifindex: u32) -> Result<(), AttachError> {
        if !self.guarded.contains(&ifindex) {
            self.kernel.guard(ifindex)?;
            self.guarded.insert(ifindex);
        }
        Ok(())
    }

    /// Returns `true` if this agent has put filters on an interface, and they judge there.
    #[must_use]
    pub fn is_guarded(&self, ifindex: u32) -> bool {
        self.guarded.contains(&ifindex)
    }

    /// Puts all programs on an interface, unless they are there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        if !self.attached.contains(&ifindex) {
            self.kernel.enforce_on(ifindex)?;
            self.guarded.insert(ifindex);
            self.attached.insert(ifindex);
        }
        Ok(())
    }

    /// What stands on an interface's hooks.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn hooks(&self, ifindex: u32) -> Result<Vec<HookState>, AttachError> {
        self.kernel.hooks(ifindex)
    }

    /// Repairs an interface's hooks, where others changed them. Whether it had to.
    ///
    /// Filters judge what no link has judged. While the links stand they are looked at
    /// only if `filters` says so: listing them is most of the cost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mend_hooks(&mut self, ifindex: u32, filters: bool) -> Result<bool, AttachError> {
        let is_shared = |one: &Endpoint| one.shared_hooks;
        if !filters
            && !self.endpoints.get(&ifindex).is_some_and(is_shared)
            && self.kernel.links_stand(ifindex)?
        {
            return Ok(false);
        }
        let states = self.kernel.hooks(ifindex)?;
        let is_shared = states.iter().any(|state| state.foreign);
        if let Some(endpoint) = self.endpoints.get_mut(&ifindex)
            && endpoint.shared_hooks != is_shared
        {
            // Before the order is changed: whoever comes behind us must be reached.
            endpoint.shared_hooks = is_shared;
            let endpoint = endpoint.clone();
            self.kernel.set_endpoint(&endpoint)?;
        }
        if states.iter().all(|state| state.ok) {
            return Ok(false);
        }
        self.kernel.enforce_on(ifindex)?;
        Ok(true)
    }

    /// Pins everything again where pins have been lost. Whether any had been.
    ///
    /// # Errors
    /// When the kernel refuses, or the file system is not back yet.
    pub fn restore_pins(&mut self) -> Result<bool, KernelError> {
        self.kernel.restore_pins()
    }

    /// Takes everything off and out of force.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dismantle(self) -> Result<(), KernelError> {
        self.kernel.dismantle()
    }

    /// Lets an endpoint's traffic pass as the table in force says. `false` when that
    /// table does not know one of its addresses.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn enforce(
        &mut self,
        described: &crate::endpoint::Endpoint,
        link: &Link,
    ) -> Result<bool, KernelError> {
        let addresses = &described.addresses;
        let ifindex = described.link.host_ifindex;
        // As the kernel gives them back: the first, then those of one family after the
        // other.
        let mut ordered = addresses.clone();
        ordered.sort_by_key(|address| (Some(address) != addresses.first(), address.is_ipv6()));
        let slots = ordered
            .into_iter()
            .map(|address| Some((address, *self.bound.get(&address)?)));
        let Some(addresses) = slots.collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        let before = self.endpoints.get(&ifindex);
        let shared_hooks = before.is_some_and(|endpoint| endpoint.shared_hooks);
        self.set(Endpoint {
            ifindex,
            mac: described.link.mac,
            incarnation: described.incarnation,
            addresses,
            stamp: link.stamp,
            link_local: described.link_local,
            deny_all: false,
            shared_hooks,
            adopt_until: link.adopt_until.unwrap_or(0),
            listeners: link.listeners,
        })?;
        Ok(true)
    }

    fn set(&mut self, endpoint: Endpoint) -> Result<(), KernelError> {
        if self.endpoints.get(&endpoint.ifindex) != Some(&endpoint) {
            self.kernel.set_endpoint(&endpoint)?;
            self.unread.1.insert(endpoint.ifindex);
            self.endpoints.insert(endpoint.ifindex, endpoint);
        }
        Ok(())
    }

    /// Takes an endpoint out of force whose interface has gone, and what is left of its
    /// programs.
    ///
    /// # Errors
    /// When the programs do not come off; nothing passes there then.
    pub fn remove(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.forget(ifindex);
        self.kernel.leave(ifindex)
    }

    /// Takes an endpoint out of force and opens its interface: everything passes there
    /// from then on, without a stamp.
    ///
    /// # Errors
    /// When the programs are not replaced; nothing passes there then.
    pub fn release(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.forget(ifindex);
        self.kernel.enforce_uplink(ifindex, Uplink::Door)
    }

    fn forget(&mut self, ifindex: u32) {
        self.kernel.remove_endpoint(ifindex);
        self.bypasses.remove(&ifindex);
        self.endpoints.remove(&ifindex);
        self.attached.remove(&ifindex);
        self.guarded.remove(&ifindex);
    }

    /// When [`Force::do_chores`] has something to do again.
    #[must_use]
    pub fn next_chore(&self) -> Instant {
        let mut next = self.next_sweep();
        if self.kernel.has_left_slots() {
            next = next.min(self.ended_epochs + BETWEEN_EPOCHS);
        }
        next
    }

    fn next_sweep(&self) -> Instant {
        let is_behind = self.kernel.tables_since_sweep() >= TABLES_PER_SWEEP;
        self.swept
            + match is_behind {
                true => BETWEEN_TRIES,
                false => BETWEEN_SWEEPS,
            }
    }

    /// Whether [`Force::prepare`] has nothing to do.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.is_prepared
    }

    /// Makes what the next endpoint needs, when nobody waits.
    pub fn prepare(&mut self) {
        self.is_prepared = true;
        if let Err(error) = self.kernel.prepare_endpoint() {
            tracing::warn!("the next endpoint may find no room: {error}");
        }
    }

    /// Does what must be done from time to time. Returns `true` if a sweep of the flow
    /// tables is over.
    pub fn do_chores(&mut self) -> bool {
        let now = Instant::now();
        if self.kernel.has_left_slots() && self.ended_epochs + BETWEEN_EPOCHS <= now {
            self.ended_epochs = now;
            self.kernel.end_epochs();
        }
        let is_swept = self.note_sweeps();
        if self.next_sweep() <= now {
            self.swept = now;
            self.begin_sweep();
        }
        is_swept
    }

    /// Lets the other thread sweep the flow tables, unless it is at it.
    fn begin_sweep(&mut self) {
        if self.sweeper.is_busy() {
            tracing::warn!("the last sweep of the flow tables is not over yet");
            return;
        }
        match self.kernel.begin_sweep() {
            Ok(sweep) => self.sweeper.begin(sweep),
            Err(error) => tracing::error!("cannot sweep the flow tables: {error}"),
        }
    }

    fn note_sweeps(&mut self) -> bool {
        let swept = self.sweeper.finished();
        if let Some(swept) = swept {
            self.kernel.end_sweep(swept);
            tracing::debug!(freed = swept.freed, "swept the flow tables");
        }
        swept.is_some()
    }

    /// Bytes of the kernel's maps, as the kernel accounts for them.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn map_bytes(&self) -> Result<u64, KernelError> {
        self.kernel.map_bytes()
    }

    /// Fill of an endpoint's flow table after the last sweep.
    #[must_use]
    pub fn flows_left(&self, ifindex: u32) -> Option<FlowUse> {
        self.kernel.flows_left(ifindex)
    }

    /// How full an endpoint's flow table is.
    #[must_use]
    pub fn flows(&self, ifindex: u32) -> Option<FlowUse> {
        self.kernel.flows(ifindex)
    }
}
