//! State in force in the kernel, and its changes.
//!
//! Additions go from the inside out: the table with a slot's class and atom, then
//! the address that leads to the slot, then the endpoint's record, which ends
//! "nothing passes". Removal is the reverse. Whatever fails on the way leaves what
//! was in force before, or less.
//!
//! Workloads may come while nothing else changes, to a table in force that knows others like
//! them: then their slots' entries are written into that table, as no address leads there yet.
//! Those of other nodes may go as well: their addresses lead nowhere then. One that belongs to
//! another of them now, or whose owner is relabelled, goes from one slot to the other by one
//! store. A number that became free keeps its entry and rests until a table without it has been
//! published: every number that is spare in the table in force has rested.

pub mod dataplane;
mod execute;
#[cfg(test)]
mod in_memory;
pub mod plan;
mod read_back;
mod sweeper;
#[cfg(test)]
mod tests;
mod times;
mod uplinks;

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use cofferdam_compiler::{CompileError, Compiler};
use cofferdam_dataplane::{
    Adopted, AttachError, Endpoint, FlowUse, Foreign, HookState, Kernel, KernelError, Uplink,
};
use cofferdam_telemetry::hits::Hits;
use cofferdam_telemetry::metrics::Timings;
use thiserror::Error;

use crate::config::Config;
use crate::links::{Link, Links};

use cofferdam_telemetry::snapshots::Snapshots;
use dataplane::Dataplane as _;
use plan::InForce;
pub use read_back::{Depth, Mismatch};
use sweeper::Sweeper;

/// Time between two sweeps, which rid flow tables of flows that are over.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(10);

/// So many tables make a sweep due at once: the kernel side takes no table that is 2 048
/// ahead of the last one.
const TABLES_PER_SWEEP: u64 = 500;

/// Time between two tries of a sweep that is due at once.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Time between two ends of epochs of slots that addresses have left: no program runs for so
/// long.
const BETWEEN_EPOCHS: Duration = Duration::from_millis(100);

/// Way in which a desired state came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It was.
    Before,
    /// With so many slots more in the table that was in force.
    Slots(usize),
    /// With a new table.
    Table,
}

/// Share of a desired state that came into force without another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// All of it.
    All,
    /// The workloads of other nodes that the table in force has places for. The rest, and
    /// whatever has to do with their addresses, is as it was before.
    Part,
    /// None of it.
    Nothing,
}

/// Reason for which a desired state did not come into force. The state before still is.
#[derive(Debug, Error)]
pub enum PublishError {
    /// There is no table for it.
    #[error("the policies do not fit")]
    Compile(#[from] CompileError),
    /// The kernel refuses it.
    #[error("the kernel refuses the new table")]
    Kernel(#[from] AttachError),
}

/// The kernel side of this node.
pub struct Enforcer<D = Kernel> {
    kernel: D,
    in_force: InForce,
    /// Times on the clock of flows until which policy denies endpoints nothing, by their
    /// interfaces.
    bypasses: BTreeMap<u32, u32>,
    /// Address and interface at which the next read-back goes on, among those that are not new.
    next_read: (IpAddr, u32),
    compiler: Compiler,
    /// Time at which the kernel was given the table in force, if that was by this agent.
    in_force_since: Option<Instant>,
    names: Snapshots,
    hits: Hits,
    node: String,
    adopt_midstream: Duration,
    /// Durations of compiling and publishing.
    timings: Option<Timings>,
    /// The thread that keeps the flow tables, where there is a kernel.
    sweeper: Option<Sweeper>,
    /// Time at which a sweep was last begun.
    swept: Instant,
    ended_epochs: Instant,
}

impl Enforcer<Kernel> {
    /// Takes up what an agent before has left in force, or begins anew. The next table
    /// has a number greater than `revision`, and than that of any table in force.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn open(config: &Config, revision: u64, names: Snapshots) -> Result<Self, KernelError> {
        let limits = config.limits();
        let mebibytes = |endpoints, sets| limits.memory_bytes(endpoints, sets) >> 20;
        tracing::info!(
            without_endpoints = mebibytes(0, 0),
            all_endpoints_idle = mebibytes(limits.endpoints, limits.chunk_sets()),
            all_flow_tables_full = mebibytes(limits.endpoints, limits.flow_sets()),
            another_table = limits.table_bytes() >> 20,
            "memory of the kernel's maps in MiB; while a table is replaced there is another"
        );
        let kernel = Kernel::open(&config.bpffs, limits, &config.behaviour())?;
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
        let bypasses: BTreeMap<u32, u32> = (kernel.endpoints().into_iter())
            .map(|endpoint| (endpoint.ifindex, kernel.bypassed_until(endpoint.ifindex)))
            .filter(|(_, until)| *until != 0)
            .collect();
        let sweeper = Sweeper::start(kernel.flow_keeper()?)?;
        Ok(Self {
            bypasses,
            adopt_midstream: config.adopt_midstream.0,
            sweeper: Some(sweeper),
            ..Self::over(kernel, revision, names, &config.node.name)
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

    /// Measures compiling and publishing from now on.
    pub fn set_timings(&mut self, timings: Timings) {
        self.timings = Some(timings);
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
        for endpoint in self
            .in_force
            .endpoints
            .values()
            .filter(|one| one.stamp != 0)
        {
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

    /// Returns the state of an interface's hooks.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn hooks(&self, ifindex: u32) -> Result<Vec<HookState>, AttachError> {
        self.kernel.hooks(ifindex)
    }

    /// Repairs an interface's hooks, where others changed them. Whether it had to.
    ///
    /// Filters judge what no link has judged. While the links stand, and where there can be
    /// none, they are looked at only if `filters` says so: listing them is most of the cost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mend_hooks(&mut self, ifindex: u32, filters: bool) -> Result<bool, AttachError> {
        let is_shared = |one: &Endpoint| one.shared_hooks;
        if !filters
            && !self.in_force.endpoints.get(&ifindex).is_some_and(is_shared)
            && self.kernel.links_stand(ifindex)? != Some(false)
        {
            return Ok(false);
        }
        let states = self.kernel.hooks(ifindex)?;
        let is_shared = states.iter().any(|state| state.foreign);
        if let Some(endpoint) = self.in_force.endpoints.get_mut(&ifindex)
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

    /// Pins everything again where pins have been lost. Whether any had been; a quick look
    /// sees only if whole directories have.
    ///
    /// # Errors
    /// When the kernel refuses, or the file system is not back yet.
    pub fn restore_pins(&mut self, is_quick: bool) -> Result<bool, KernelError> {
        self.kernel.restore_pins(is_quick)
    }

    /// Takes everything off and out of force.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dismantle(self) -> Result<(), KernelError> {
        self.kernel.dismantle()
    }

    /// Returns the time at which [`Enforcer::do_chores`] has something to do again.
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

    /// Has made what the next endpoint needs, if that may be used up soon: it would wait for a
    /// grace period.
    pub fn prepare(&self) {
        if let Some(sweeper) = &self.sweeper
            && self.kernel.are_few_flow_tables_ready()
        {
            sweeper.prepare();
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
        let Some(sweeper) = &mut self.sweeper else {
            return;
        };
        if sweeper.is_busy() {
            tracing::warn!("the last sweep of the flow tables is not over yet");
            return;
        }
        match self.kernel.begin_sweep() {
            Ok(sweep) => sweeper.begin(sweep),
            Err(error) => tracing::error!("cannot sweep the flow tables: {}", chain(&error)),
        }
    }

    /// Notes the sweep that is over, if one is: the kernel side takes no table far ahead of the
    /// last one. Returns `true` if there was one.
    pub fn note_sweeps(&mut self) -> bool {
        let swept = self.sweeper.as_mut().and_then(Sweeper::finished);
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

    /// Returns the fill of an endpoint's flow table.
    #[must_use]
    pub fn flows(&self, ifindex: u32) -> Option<FlowUse> {
        self.kernel.flows(ifindex)
    }

    /// Puts everything there again that ought to be in the kernel.
    ///
    /// # Errors
    /// The kernel refuses the table or a record.
    pub fn repair(&mut self) -> Result<(), AttachError> {
        if let Some((_, compiled)) = &self.in_force.published {
            self.kernel.publish(compiled.pages())?;
        }
        for (address, _) in self.kernel.bound_addresses() {
            if self.in_force.bound.get(&address).is_none() {
                self.kernel.release_address(address);
            }
        }
        for endpoint in self.kernel.endpoints() {
            if !self.in_force.endpoints.contains_key(&endpoint.ifindex) {
                self.kernel.remove_endpoint(endpoint.ifindex);
            }
        }
        for action in self.in_force.plan_again() {
            self.kernel.carry_out(&action)?;
        }
        self.kernel.end_stray_bindings();
        for ifindex in self.in_force.endpoints.keys() {
            let until = self.bypasses.get(ifindex).copied().unwrap_or(0);
            self.kernel.bypass(*ifindex, until);
        }
        Ok(())
    }

    /// Takes an endpoint out of force and opens its interface: everything passes there
    /// from then on, without a stamp.
    ///
    /// # Errors
    /// When the programs are not replaced; nothing passes there then.
    pub fn release(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.kernel.remove_endpoint(ifindex);
        self.bypasses.remove(&ifindex);
        self.in_force.forget(ifindex);
        self.kernel.enforce_uplink(ifindex, Uplink::Door)
    }
}
