//! The state in force, the actions that make it the desired one, and the state after them.
//!
//! Pure: nothing here knows a kernel. A plan is a list of actions in the order in which each
//! may be the last one that succeeds: whatever comes after it is missing then, and nothing is
//! wider than before or than what is desired.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_compiler::{CompileError, Compiled, Compiler, SlotEntry, SlotPlan, Snapshot};
use cofferdam_dataplane::Endpoint;
use cofferdam_inventory::shared_map::{Change, SharedMap};
use cofferdam_inventory::{ObjectName, Workload};
use cofferdam_verdict::capacity::Limits;

use super::Published;
use crate::desired::Desired;
use crate::links::Link;

/// Part of all slots that may rest in a table that addresses have left: then another is made.
const RESTING_PART: u32 = 32;
/// So many may rest in any case.
const MIN_RESTING: u32 = 16;

/// Something that is done to the kernel side, by one call.
#[derive(Debug)]
pub enum Action {
    /// Lets nothing pass under the record that an interface has.
    Deny(u32),
    /// Makes an address an outside one.
    Release(IpAddr),
    /// Writes a slot's entry, to which no address leads yet, into the table in force.
    Fill(SlotEntry),
    /// Puts another table in force.
    Publish(Box<Compiled>),
    /// Leads an address to a slot.
    Bind(IpAddr, u32),
    /// Puts an endpoint's record in force, in place of the one of its interface.
    Set(Endpoint),
    /// Puts the filters on an interface.
    Guard(u32),
    /// Puts links on an interface, before its filters.
    Attach(u32),
    /// Takes an endpoint's record out of force, and what is left of its programs off.
    Remove(u32),
}

/// State of the kernel side, as far as this agent knows.
#[derive(Debug, Default)]
pub struct InForce {
    /// The desired state behind the table, and the table; `None` while the table is that of
    /// an agent before.
    pub published: Option<(Desired, Compiled)>,
    /// Greatest number of a table so far.
    pub revision: u64,
    /// Slots by address, those of addresses that have left included.
    pub plan: SlotPlan,
    /// Slots that addresses lead to.
    pub bound: SharedMap<IpAddr, u32>,
    /// Endpoints' records by interface.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Interfaces on which at least the filters stand.
    pub guarded: BTreeSet<u32>,
    /// Interfaces on which everything stands.
    pub attached: BTreeSet<u32>,
    /// Addresses and interfaces that were changed since they were last read back.
    pub unread: (BTreeSet<IpAddr>, BTreeSet<u32>),
}

/// A plan for the table and the addresses of a desired state.
#[derive(Debug)]
pub struct TablePlan {
    /// The way in which it comes into force.
    pub how: Published,
    /// Slots by address, when it is.
    pub plan: SlotPlan,
    /// Actions before names are known that packets may be judged by from then on.
    pub first: Vec<Action>,
    /// The table, if another one is needed.
    pub table: Option<Box<Compiled>>,
}

impl InForce {
    /// Notes what an action has done.
    pub fn note(&mut self, action: Action) {
        match action {
            Action::Deny(ifindex) => {
                if let Some(endpoint) = self.endpoints.get_mut(&ifindex) {
                    endpoint.deny_all = true;
                }
            }
            Action::Release(address) => {
                self.bound.remove(&address);
                self.unread.0.insert(address);
            }
            Action::Fill(entry) => {
                if let Some((_, compiled)) = &mut self.published {
                    compiled.fill(entry);
                }
            }
            // The desired state behind it is its planner's to note.
            Action::Publish(_) => {}
            Action::Bind(address, slot) => {
                self.bound.insert(address, slot);
                self.unread.0.insert(address);
            }
            Action::Set(endpoint) => {
                self.unread.1.insert(endpoint.ifindex);
                self.endpoints.insert(endpoint.ifindex, endpoint);
            }
            Action::Guard(ifindex) => _ = self.guarded.insert(ifindex),
            Action::Attach(ifindex) => {
                self.guarded.insert(ifindex);
                self.attached.insert(ifindex);
            }
            Action::Remove(ifindex) => self.forget(ifindex),
        }
    }

    /// Forgets an interface.
    pub fn forget(&mut self, ifindex: u32) {
        self.endpoints.remove(&ifindex);
        self.attached.remove(&ifindex);
        self.guarded.remove(&ifindex);
    }

    /// Plans the table and the slots of a desired state: additions go from the inside out,
    /// the table with a slot's class and atom before the address that leads to it; removal is
    /// the reverse.
    ///
    /// # Errors
    /// When there is no table for it.
    pub fn plan_table(
        &self,
        compiler: &mut Compiler,
        desired: &Desired,
        limits: &Limits,
        node: &str,
    ) -> Result<TablePlan, CompileError> {
        if let Some((before, _)) = &self.published
            && before.inventory == desired.inventory
            && before.local == desired.local
        {
            return Ok(TablePlan {
                how: Published::Before,
                plan: self.plan.clone(),
                first: Vec::new(),
                table: None,
            });
        }
        if let Some(places) = self.plan_places(compiler, desired, limits, node) {
            return Ok(places);
        }
        let mut plan = self.plan.successor(&desired.inventory);
        let mut table = compiler.compile(&self.snapshot(desired, &plan, limits, node));
        if matches!(table, Err(CompileError::Capacity { .. })) && self.plan.resting() > 0 {
            // Those that rest were left before anybody asked for this table.
            plan = self.plan.rested().successor(&desired.inventory);
            table = compiler.compile(&self.snapshot(desired, &plan, limits, node));
        }
        Ok(TablePlan {
            how: Published::Table,
            first: self.releases(&plan),
            plan,
            table: Some(Box::new(table?)),
        })
    }

    /// Plans the places of a desired state in the table in force: entries before the addresses
    /// that lead to them, and what goes before what comes. `None` if another table is needed.
    pub fn plan_places(
        &self,
        compiler: &mut Compiler,
        desired: &Desired,
        limits: &Limits,
        node: &str,
    ) -> Option<TablePlan> {
        let (before, compiled) = self.published.as_ref()?;
        let plan = self.plan.in_place(&desired.inventory);
        let most = (limits.slots / RESTING_PART).max(MIN_RESTING);
        if plan.resting() > most as usize {
            return None;
        }
        let next = self.snapshot(desired, &plan, limits, node);
        let entries = compiler.additions(compiled, &before.inventory, &before.local, &next)?;
        let releases = self.releases(&plan);
        let how = Published::Slots(entries.len());
        let fills = entries.into_iter().map(Action::Fill);
        Some(TablePlan {
            how,
            first: releases.into_iter().chain(fills).collect(),
            plan,
            table: None,
        })
    }

    fn snapshot<'s>(
        &self,
        desired: &'s Desired,
        slots: &'s SlotPlan,
        limits: &Limits,
        node: &'s str,
    ) -> Snapshot<'s> {
        Snapshot {
            inventory: &desired.inventory,
            slots,
            local: &desired.local,
            own_node: Some(node),
            limits: *limits,
            revision: self.revision + 1,
        }
    }

    /// Addresses that have no slot any more become outside ones.
    fn releases(&self, plan: &SlotPlan) -> Vec<Action> {
        let changes = self.bound.changes(plan.by_address()).into_iter();
        let gone = changes.filter(|change| change.after.is_none());
        gone.map(|change| Action::Release(*change.key)).collect()
    }

    /// Returns the part of a desired state that the table in force has places for, over what is
    /// in force. `None` where there is none, and where more than workloads elsewhere differs: a
    /// policy that is not in force yet may deny what comes.
    ///
    /// A policy judges two workloads by these two alone. So those that come or go now are as
    /// desired, and those that wait for a table as before, together with all who have, or had,
    /// one of their addresses.
    #[must_use]
    pub fn placeable(&self, desired: &Desired) -> Option<Desired> {
        let (before, compiled) = self.published.as_ref()?;
        let (was, is) = (&before.inventory, &desired.inventory);
        let namespaces = was.namespaces().shared().changes(is.namespaces().shared());
        if namespaces.iter().any(|change| change.before.is_some())
            || was.policies() != is.policies()
            || was.cluster_policies() != is.cluster_policies()
            || was.enforcement() != is.enforcement()
            || was.nodes() != is.nodes()
            || was.services() != is.services()
            || before.local != desired.local
        {
            return None;
        }
        let changes = was.workloads().shared().changes(is.workloads().shared());
        if changes.iter().any(|one| before.local.contains(one.key)) {
            return None;
        }
        let addresses = |one: &Change<'_, ObjectName, Arc<Workload>>| -> Vec<IpAddr> {
            let both = one.before.into_iter().chain(one.after);
            both.flat_map(|workload| workload.own_addresses().to_vec())
                .collect()
        };
        let has_place = |workload: &Workload| {
            let mut own = workload.own_addresses().iter();
            own.all(|address| compiled.place(is, workload, *address, false).is_some())
        };
        let (mut ready, mut waiting): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| change.after.is_none_or(|workload| has_place(workload)));
        let mut contested: BTreeSet<IpAddr> = BTreeSet::new();
        while let Some(change) = waiting.pop() {
            contested.extend(addresses(&change));
            let is_free =
                |one: &Change<'_, _, _>| !addresses(one).iter().any(|at| contested.contains(at));
            let free;
            (free, ready) = ready.into_iter().partition(is_free);
            waiting.append(&mut ready);
            ready = free;
        }
        if ready.is_empty() {
            return None;
        }
        let mut inventory = was.with_slices_of(is);
        // All go before anybody comes: one may have another's address now.
        for change in &ready {
            inventory.remove_workload(change.key);
        }
        for workload in ready.iter().filter_map(|change| change.after) {
            inventory.set_workload(workload.clone()).ok()?;
        }
        Some(Desired {
            inventory,
            local: before.local.clone(),
            warnings: before.warnings.clone(),
        })
    }

    /// Plans that every address leads to its slot.
    #[must_use]
    pub fn plan_bindings(&self) -> Vec<Action> {
        let changes = self.bound.changes(self.plan.by_address()).into_iter();
        let bound = changes.filter_map(|change| Some(Action::Bind(*change.key, *change.after?)));
        bound.collect()
    }

    /// Plans that everything is put there again that ought to be there.
    #[must_use]
    pub fn plan_again(&self) -> Vec<Action> {
        let bindings = self
            .bound
            .iter()
            .map(|(address, slot)| Action::Bind(*address, *slot));
        let records = self.endpoints.values().cloned().map(Action::Set);
        bindings.chain(records).collect()
    }

    /// Plans that an endpoint's traffic passes as the table in force says; `None` when that
    /// table does not know one of its addresses.
    #[must_use]
    pub fn plan_open(
        &self,
        described: &crate::endpoint::Endpoint,
        link: &Link,
    ) -> Option<Vec<Action>> {
        let addresses = &described.addresses;
        let ifindex = described.link.host_ifindex;
        // As the kernel gives them back: the first, then those of one family after the
        // other.
        let mut ordered = addresses.clone();
        ordered.sort_by_key(|address| (Some(address) != addresses.first(), address.is_ipv6()));
        let slots = ordered
            .into_iter()
            .map(|address| Some((address, *self.bound.get(&address)?)));
        let addresses = slots.collect::<Option<Vec<_>>>()?;
        let before = self.endpoints.get(&ifindex);
        let shared_hooks = before.is_some_and(|endpoint| endpoint.shared_hooks);
        Some(self.plan_record(Endpoint {
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
        }))
    }

    /// Plans that nothing passes on an interface, whatever runs behind it. Where something
    /// did, that ends first.
    #[must_use]
    pub fn plan_close(
        &self,
        described: &crate::endpoint::Endpoint,
        link: Option<&Link>,
    ) -> Vec<Action> {
        let ifindex = described.link.host_ifindex;
        let before = self.endpoints.get(&ifindex);
        let shared_hooks = before.is_some_and(|before| before.shared_hooks);
        self.plan_closed(Endpoint {
            ifindex,
            mac: described.link.mac,
            incarnation: described.incarnation,
            addresses: Vec::new(),
            stamp: 0,
            link_local: None,
            deny_all: true,
            shared_hooks,
            adopt_until: link.and_then(|link| link.adopt_until).unwrap_or(0),
            listeners: link.map(|link| link.listeners).unwrap_or_default(),
        })
    }

    /// Plans that nothing passes under the record that an interface has, of whose endpoint
    /// nothing else is known.
    #[must_use]
    pub fn plan_close_as_is(&self, ifindex: u32) -> Vec<Action> {
        let before = self.endpoints.get(&ifindex);
        before.map_or_else(Vec::new, |endpoint| {
            self.plan_closed(Endpoint {
                addresses: Vec::new(),
                deny_all: true,
                ..endpoint.clone()
            })
        })
    }

    /// Plans a record under which nothing passes. A record that is there denies at once: a new
    /// one needs room.
    #[must_use]
    pub fn plan_closed(&self, closed: Endpoint) -> Vec<Action> {
        let deny = (self.endpoints.get(&closed.ifindex)).map(|_| Action::Deny(closed.ifindex));
        let set =
            (self.endpoints.get(&closed.ifindex) != Some(&closed)).then_some(Action::Set(closed));
        deny.into_iter().chain(set).collect()
    }

    fn plan_record(&self, record: Endpoint) -> Vec<Action> {
        let is_there = self.endpoints.get(&record.ifindex) == Some(&record);
        (!is_there)
            .then_some(Action::Set(record))
            .into_iter()
            .collect()
    }

    /// Plans that filters stand on an interface.
    #[must_use]
    pub fn plan_guard(&self, ifindex: u32) -> Vec<Action> {
        let stand = self.guarded.contains(&ifindex);
        (!stand)
            .then_some(Action::Guard(ifindex))
            .into_iter()
            .collect()
    }

    /// Plans that all programs stand on an interface.
    #[must_use]
    pub fn plan_attach(&self, ifindex: u32) -> Vec<Action> {
        let stand = self.attached.contains(&ifindex);
        (!stand)
            .then_some(Action::Attach(ifindex))
            .into_iter()
            .collect()
    }
}
