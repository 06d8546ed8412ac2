//! Puts what is desired in force: asks for a plan, carries it out, notes what has been done.
//!
//! Whatever is refused ends the plan. What has been done until then is noted, so that the next
//! plan begins there; what is in force without this agent's doing is taken up.

use cofferdam_syntax::diagnostic::chain;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_compiler::{Compiled, Compiler, Slot, SlotPlan};
use cofferdam_dataplane::{AttachError, Endpoint};
use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{Inventory, ObjectName, Owner};
use cofferdam_telemetry::hits::{CountsByRule, HitKey, Hits, Meaning, SavedHits};
use cofferdam_telemetry::snapshots::{Snapshot, Snapshots};
use cofferdam_verdict::endpoint::MAX_LISTENERS;

use super::dataplane::Dataplane;
use super::plan::{Action, InForce, TablePlan};
use super::read_back::FIRST_ADDRESS;
use super::{Enforcer, Placed, PublishError, Published, TABLES_PER_SWEEP};
use crate::desired::Desired;
use crate::links::Link;

impl<D: Dataplane> Enforcer<D> {
    /// Takes up what a dataplane has in force. The next table has a number greater than
    /// `revision`, and than that of any table in force.
    pub fn over(mut kernel: D, revision: u64, names: Snapshots, node: &str) -> Self {
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
            tracing::error!(
                "addresses in the kernel contradict each other: {}",
                chain(&error)
            );
            for address in std::mem::take(&mut bound).keys() {
                if let Err(error) = kernel.carry_out(&Action::Release(*address)) {
                    tracing::error!("{}", chain(&error));
                }
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
        Self {
            in_force: InForce {
                published: None,
                revision,
                plan,
                bound,
                endpoints,
                guarded: BTreeSet::new(),
                attached: BTreeSet::new(),
                unread: <_>::default(),
            },
            bypasses: BTreeMap::new(),
            next_read: (FIRST_ADDRESS, 0),
            compiler: Compiler::default(),
            in_force_since: None,
            names,
            hits: Hits::default(),
            node: node.to_owned(),
            adopt_midstream: Duration::ZERO,
            timings: None,
            sweeper: None,
            swept: Instant::now(),
            ended_epochs: Instant::now(),
            kernel,
        }
    }

    /// Carries a plan out, up to the first action that is refused.
    fn carry_out(&mut self, plan: Vec<Action>) -> Result<(), AttachError> {
        for action in plan {
            self.kernel.carry_out(&action)?;
            self.in_force.note(action);
        }
        Ok(())
    }

    /// Number of the table in force, whoever published it; 0 when there is none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.kernel.revision().unwrap_or(0)
    }

    /// Returns the time at which the kernel was given the table in force, if that was by this
    /// agent.
    #[must_use]
    pub fn in_force_since(&self) -> Option<Instant> {
        self.in_force_since
    }

    /// Greatest incarnation in force.
    #[must_use]
    pub fn last_incarnation(&self) -> u32 {
        let incarnations = self.in_force.endpoints.values().map(|one| one.incarnation);
        incarnations.max().unwrap_or(0)
    }

    /// Interfaces that have an endpoint's record.
    #[must_use]
    pub fn interfaces(&self) -> Vec<u32> {
        self.in_force.endpoints.keys().copied().collect()
    }

    /// Returns `true` if an interface has an endpoint's record that lets something pass.
    #[must_use]
    pub fn is_open(&self, ifindex: u32) -> bool {
        let endpoint = self.in_force.endpoints.get(&ifindex);
        endpoint.is_some_and(|endpoint| !endpoint.deny_all)
    }

    /// The table in force.
    #[must_use]
    pub fn compiled(&self) -> Option<&Compiled> {
        self.in_force
            .published
            .as_ref()
            .map(|(_, compiled)| compiled)
    }

    /// Rule hits under all tables of this agent.
    #[must_use]
    pub fn hits(&self) -> CountsByRule {
        let counted = self.kernel.rule_hits(self.revision());
        self.hits.counts(counted.into_iter())
    }

    /// Returns the rules and policies that the table in force knows.
    pub fn rules_in_force(&mut self) -> Arc<BTreeSet<HitKey>> {
        self.hits.in_force()
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
        self.in_force.bound.len()
    }

    /// The inventory in force, as far as it is known: after a restart with documents that are
    /// held back it is not.
    #[must_use]
    pub fn inventory(&self) -> Option<&Inventory> {
        (self.in_force.published.as_ref()).map(|(desired, _)| &desired.inventory)
    }

    /// Puts a desired state in force, but for its endpoints' records.
    ///
    /// # Errors
    /// When it does not fit or the kernel refuses.
    pub fn publish(&mut self, desired: Desired) -> Result<Published, PublishError> {
        let began = Instant::now();
        let planned = (self.in_force).plan_table(
            &mut self.compiler,
            &desired,
            self.kernel.limits(),
            &self.node,
        )?;
        let how = planned.how;
        self.put(desired, planned, began)?;
        Ok(how)
    }

    /// Puts as much of a desired state in force as the table in force has places for, and
    /// publishes none. Part of it only where nothing but workloads of other nodes differs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn place(&mut self, desired: &Desired) -> Result<Placed, PublishError> {
        if self.place_whole(desired)? {
            return Ok(Placed::All);
        }
        match self.in_force.placeable(desired) {
            Some(part) if self.place_whole(&part)? => Ok(Placed::Part),
            _ => Ok(Placed::Nothing),
        }
    }

    fn place_whole(&mut self, desired: &Desired) -> Result<bool, PublishError> {
        let began = Instant::now();
        let planned = (self.in_force).plan_places(
            &mut self.compiler,
            desired,
            self.kernel.limits(),
            &self.node,
        );
        match planned {
            Some(planned) => self.put(desired.clone(), planned, began).map(|()| true),
            None => Ok(false),
        }
    }

    /// Carries the plan for a table out, or for places in the one in force.
    fn put(
        &mut self,
        desired: Desired,
        planned: TablePlan,
        began: Instant,
    ) -> Result<(), PublishError> {
        let TablePlan {
            how,
            plan,
            first,
            table,
        } = planned;
        self.carry_out(first)?;
        match (how, table) {
            (Published::Table, Some(table)) => {
                let compiled = Instant::now();
                self.publish_table(desired, plan, table)?;
                if let Some(timings) = &self.timings {
                    timings.compiled(compiled - began);
                    timings.published(compiled.elapsed());
                }
            }
            (Published::Slots(_), _) => {
                if let Some((before, compiled)) = &mut self.in_force.published {
                    // Before the first packet that is judged by them.
                    let revision = self.in_force.revision;
                    let names = Snapshot::new(revision, &desired.inventory, &plan, compiled);
                    self.names.add(names);
                    *before = desired;
                    self.in_force.plan = plan;
                }
            }
            _ => {}
        }
        self.bind()?;
        Ok(())
    }

    fn publish_table(
        &mut self,
        desired: Desired,
        plan: SlotPlan,
        table: Box<Compiled>,
    ) -> Result<(), AttachError> {
        let revision = self.in_force.revision + 1;
        // Before the first packet that is judged by it.
        let names = Snapshot::new(revision, &desired.inventory, &plan, &table);
        self.names.add(names);
        let before = self.kernel.revision().unwrap_or(0);
        let action = Action::Publish(table);
        self.in_force_since = Some(self.kernel.carry_out(&action)?);
        let Action::Publish(table) = action else {
            return Ok(());
        };
        let meaning = Meaning::new(table.rules.clone(), desired.inventory.clone());
        let counted = self.kernel.rule_hits(before).into_iter();
        self.hits.retire(counted, meaning);
        self.in_force.revision = revision;
        self.in_force.plan = plan;
        self.in_force.published = Some((desired, *table));
        Ok(())
    }

    /// Leads every address of the plan to its slot.
    fn bind(&mut self) -> Result<(), AttachError> {
        self.carry_out(self.in_force.plan_bindings())?;
        // The same; and from now on shared, so that the next change is found at once.
        self.in_force.bound = self.in_force.plan.by_address().clone();
        Ok(())
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
    ) -> Result<bool, AttachError> {
        match self.in_force.plan_open(described, link) {
            Some(plan) => self.carry_out(plan).map(|()| true),
            None => Ok(false),
        }
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
    ) -> Result<(), AttachError> {
        let ifindex = endpoint.link.host_ifindex;
        // With its addresses the time goes.
        self.bypasses.remove(&ifindex);
        self.carry_out(self.in_force.plan_close(endpoint, link))
    }

    /// Lets nothing pass any more where an endpoint is in force of which nothing else is
    /// known.
    ///
    /// # Errors
    /// When its addresses could not be taken from it.
    pub fn close_as_is(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.carry_out(self.in_force.plan_close_as_is(ifindex))
    }

    /// Lets nothing pass on an interface of which nothing is known but that programs of
    /// another set of maps judge there.
    ///
    /// # Errors
    /// When there is no room for it, or the programs are not replaced.
    pub fn close_unknown(&mut self, ifindex: u32, incarnation: u32) -> Result<(), AttachError> {
        self.carry_out(self.in_force.plan_closed(Endpoint {
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
        }))?;
        self.guard(ifindex)
    }

    /// Returns `true` if all programs are on an interface.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.in_force.attached.contains(&ifindex)
    }

    /// Returns `true` if this agent has put filters on an interface, and they judge there.
    #[must_use]
    pub fn is_guarded(&self, ifindex: u32) -> bool {
        self.in_force.guarded.contains(&ifindex)
    }

    /// Puts the filters on an interface, unless they are there: they judge as well as
    /// the links do, and cost no grace period.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.carry_out(self.in_force.plan_guard(ifindex))
    }

    /// Puts all programs on an interface, unless they are there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.carry_out(self.in_force.plan_attach(ifindex))
    }

    /// Takes an endpoint out of force whose interface has gone, and what is left of its
    /// programs.
    ///
    /// # Errors
    /// When the programs do not come off; nothing passes there then.
    pub fn remove(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.bypasses.remove(&ifindex);
        // Whatever is left of it, the record goes.
        self.in_force.forget(ifindex);
        self.kernel.carry_out(&Action::Remove(ifindex)).map(drop)
    }
}
