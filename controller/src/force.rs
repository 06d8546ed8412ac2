//! What is in force in the kernel, and how that is changed.
//!
//! Additions go from the inside out: the table with a slot's class and atom, then
//! the address that leads to the slot, then the endpoint's record, which ends
//! "nothing passes". Removal is the reverse. Whatever fails on the way leaves what
//! was in force before, or less.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_dataplane::{AttachError, Attachments, Endpoint, FlowUse, Kernel, KernelError};
use cofferdam_policies::compiler::{CompileError, Compiled, Input, SlotPlan, compile};
use cofferdam_verdict::address::Address;
use cofferdam_verdict::bucket::{Found, find, find_address};
use cofferdam_verdict::endpoint::{EndpointRecord, flags};
use cofferdam_verdict::memory::BucketSet;
use thiserror::Error;

use crate::config::Config;
use crate::desired::Desired;
use crate::endpoint::EndpointLink;
use crate::names::{Names, SharedNames};

/// How often flow tables are rid of what is over.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(10);

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

/// What the kernel has is not what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} in the kernel is not what was put there")]
pub struct Mismatch {
    what: String,
}

/// The kernel side of this node.
pub struct Force {
    kernel: Kernel,
    attached: HashMap<u32, Attachments>,
    endpoints: BTreeMap<u32, Endpoint>,
    bound: BTreeMap<IpAddr, u32>,
    plan: SlotPlan,
    published: Option<(Desired, Compiled)>,
    revision: u64,
    names: SharedNames,
    node: String,
    adopt_midstream: Duration,
    /// Endpoints whose connections from before are let in, and until when.
    adopting: BTreeMap<u32, Instant>,
    swept: Instant,
}

impl Force {
    /// Loads the programs. Nothing is in force yet; the next table has a number
    /// greater than `revision`.
    ///
    /// # Errors
    /// Whatever the kernel refuses.
    pub fn open(config: &Config, revision: u64, names: SharedNames) -> Result<Self, KernelError> {
        let kernel = Kernel::load(config.limits(), &config.behaviour())?;
        Ok(Self {
            kernel,
            attached: HashMap::new(),
            endpoints: BTreeMap::new(),
            bound: BTreeMap::new(),
            plan: SlotPlan::default(),
            published: None,
            revision,
            names,
            node: config.node.name.clone(),
            adopt_midstream: config.adopt_midstream,
            adopting: BTreeMap::new(),
            swept: Instant::now(),
        })
    }

    /// The kernel side.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Number of the table in force; 0 when there is none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self.published {
            Some(_) => self.revision,
            None => 0,
        }
    }

    /// The table in force.
    #[must_use]
    pub fn compiled(&self) -> Option<&Compiled> {
        self.published.as_ref().map(|(_, compiled)| compiled)
    }

    /// Addresses that lead to slots.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound.len()
    }

    /// Puts a desired state in force, but for its endpoints' records.
    ///
    /// # Errors
    /// When it does not fit or the kernel refuses.
    pub fn publish(&mut self, desired: Desired) -> Result<(), PublishError> {
        if let Some((before, _)) = &self.published
            && before.inventory == desired.inventory
            && before.local == desired.local
        {
            return Ok(self.bind()?);
        }
        let plan = self.plan.successor(&desired.inventory);
        let revision = self.revision + 1;
        let compiled = compile(&Input {
            inventory: &desired.inventory,
            slots: &plan,
            is_local: &|workload| desired.local.contains(&workload.name),
            own_node: Some(&self.node),
            limits: *self.kernel.limits(),
            revision,
        })?;
        let gone: Vec<IpAddr> = (self.bound.keys())
            .filter(|address| plan.of(**address).is_none())
            .copied()
            .collect();
        for address in gone {
            self.kernel.release_address(address);
            self.bound.remove(&address);
        }
        // Before the first packet that is judged by it.
        self.names.add(Arc::new(Names::new(
            revision,
            &desired.inventory,
            &plan,
            &compiled,
        )));
        self.kernel.publish(compiled.pages())?;
        self.revision = revision;
        self.plan = plan;
        self.published = Some((desired, compiled));
        self.bind()?;
        Ok(())
    }

    /// Leads every address of the plan to its slot.
    fn bind(&mut self) -> Result<(), KernelError> {
        for slot in self.plan.slots() {
            if self.bound.get(&slot.address) != Some(&slot.number) {
                self.kernel.bind_address(slot.address, slot.number)?;
                self.bound.insert(slot.address, slot.number);
            }
        }
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
        for (address, slot) in &self.bound {
            self.kernel.bind_address(*address, *slot)?;
        }
        for endpoint in self.endpoints.values() {
            self.kernel.set_endpoint(endpoint)?;
        }
        Ok(())
    }

    /// Lets nothing pass on an interface, whatever runs behind it.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn close(&mut self, link: &EndpointLink, incarnation: u32) -> Result<(), KernelError> {
        let closed = Endpoint {
            ifindex: link.host_ifindex,
            mac: link.mac,
            incarnation,
            addresses: Vec::new(),
            bridge: 0,
            deny_all: true,
            shared_hooks: false,
            adopt_midstream: false,
        };
        self.set(closed)
    }

    /// Puts the programs on an interface, unless they are there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, link: &EndpointLink) -> Result<(), AttachError> {
        if !self.attached.contains_key(&link.host_ifindex) {
            let attachments = self.kernel.attach(&link.host_interface)?;
            self.attached.insert(link.host_ifindex, attachments);
        }
        Ok(())
    }

    /// Whether the programs are on an interface.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&ifindex)
    }

    /// Lets an endpoint's traffic pass as the table in force says. `false` when that
    /// table does not know one of its addresses.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn enforce(
        &mut self,
        link: &EndpointLink,
        incarnation: u32,
        addresses: &[IpAddr],
        bridge: u32,
    ) -> Result<bool, KernelError> {
        let slots = addresses
            .iter()
            .map(|address| Some((*address, *self.bound.get(address)?)));
        let Some(addresses) = slots.collect::<Option<Vec<_>>>() else {
            return Ok(false);
        };
        let is_closed = |endpoint: &Endpoint| endpoint.deny_all;
        if self.endpoints.get(&link.host_ifindex).is_none_or(is_closed)
            && self.adopt_midstream > Duration::ZERO
        {
            let end = Instant::now() + self.adopt_midstream;
            self.adopting.insert(link.host_ifindex, end);
        }
        self.set(Endpoint {
            ifindex: link.host_ifindex,
            mac: link.mac,
            incarnation,
            addresses,
            bridge,
            deny_all: false,
            shared_hooks: false,
            adopt_midstream: self.adopting.contains_key(&link.host_ifindex),
        })?;
        Ok(true)
    }

    fn set(&mut self, endpoint: Endpoint) -> Result<(), KernelError> {
        if self.endpoints.get(&endpoint.ifindex) != Some(&endpoint) {
            self.kernel.set_endpoint(&endpoint)?;
            self.endpoints.insert(endpoint.ifindex, endpoint);
        }
        Ok(())
    }

    /// Takes an endpoint out of force, then the programs off its interface.
    pub fn remove(&mut self, ifindex: u32) {
        self.kernel.remove_endpoint(ifindex);
        self.endpoints.remove(&ifindex);
        self.adopting.remove(&ifindex);
        self.attached.remove(&ifindex);
    }

    /// When [`Force::do_chores`] has something to do again.
    #[must_use]
    pub fn next_chore(&self) -> Instant {
        let sweep = self.swept + BETWEEN_SWEEPS;
        self.adopting.values().copied().fold(sweep, Instant::min)
    }

    /// Does what must be done from time to time.
    pub fn do_chores(&mut self) {
        let now = Instant::now();
        let is_over = |end: &Instant| *end <= now;
        let ended = self.adopting.extract_if(.., |_, end| is_over(end));
        for ifindex in ended.map(|(ifindex, _)| ifindex) {
            self.kernel.end_adoption(ifindex);
            if let Some(endpoint) = self.endpoints.get_mut(&ifindex) {
                endpoint.adopt_midstream = false;
            }
        }
        if self.swept + BETWEEN_SWEEPS <= now {
            self.swept = now;
            match self.kernel.sweep() {
                Ok(freed) => tracing::debug!(freed, "swept the flow tables"),
                Err(error) => tracing::error!("cannot sweep the flow tables: {error}"),
            }
        }
    }

    /// How full an endpoint's flow table is.
    #[must_use]
    pub fn flows(&self, ifindex: u32) -> Option<FlowUse> {
        self.kernel.flows(ifindex)
    }

    /// Compares what the kernel has with what it was given.
    ///
    /// # Errors
    /// The first difference.
    pub fn read_back(&self) -> Result<(), Mismatch> {
        let differs = |what: String| Err(Mismatch { what });
        let memory = self.kernel.memory();
        if let Some((_, compiled)) = &self.published {
            let pages = compiled.pages();
            let page = pages.iter().zip(memory.table).position(|(a, b)| a != b);
            if let Some(page) = page {
                return differs(format!("page {page} of the decision table"));
            }
            if pages.len() > memory.table.len() {
                return differs("the length of the decision table".to_owned());
            }
        }
        for (address, slot) in &self.bound {
            if find_address(&memory, &Address::from(*address)) != Found::Value(*slot) {
                return differs(format!("the slot of address {address}"));
            }
        }
        for endpoint in self.endpoints.values() {
            let number = match find(&memory, BucketSet::Endpoint, &[endpoint.ifindex]) {
                Found::Value(number) => number as usize - 1,
                Found::Absent | Found::Unknown => {
                    return differs(format!("the endpoint of interface {}", endpoint.ifindex));
                }
            };
            let record = memory.endpoints.get(number);
            if !record.is_some_and(|record| says(record, endpoint)) {
                return differs(format!("the record of interface {}", endpoint.ifindex));
            }
        }
        Ok(())
    }
}

/// Whether a record is an endpoint's.
fn says(record: &EndpointRecord, endpoint: &Endpoint) -> bool {
    let mac = (endpoint.mac.iter()).fold(0, |mac, &byte| mac << 8 | u64::from(byte));
    let is_closed = record.flags.load() & flags::DENY_ALL != 0;
    let slots = record.v4_slots.iter().chain(&record.v6_slots);
    let mut slots: Vec<u32> = slots.copied().filter(|slot| *slot != 0).collect();
    slots.sort_unstable();
    let mut expected: Vec<u32> = endpoint.addresses.iter().map(|(_, slot)| *slot).collect();
    expected.sort_unstable();
    let has = |address: &IpAddr| {
        let Address { family, words } = Address::from(*address);
        match family {
            cofferdam_verdict::address::Family::V4 => record.v4.contains(&words[0]),
            cofferdam_verdict::address::Family::V6 => record.v6.contains(&words),
        }
    };
    record.ifindex == endpoint.ifindex
        && record.incarnation == endpoint.incarnation
        && record.mac == mac
        && is_closed == endpoint.deny_all
        && slots == expected
        && endpoint.addresses.iter().all(|(address, _)| has(address))
}
