//! Names that the numbers in reported packets stood for when the packet was judged.
//!
//! A packet is reported by slots and a rule number of the table that decided. The
//! tables of the last few revisions are therefore remembered here by name, for
//! records are read a moment later, when the next table may be in force.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_compiler::{Compiled, RuleTable, SlotPlan};
use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{Inventory, ObjectName, Owner};
use cofferdam_verdict::flow::StateWord;

/// Revisions that are remembered.
const REMEMBERED: usize = 4;

/// Owner of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotName {
    /// The workload or node.
    pub owner: Owner,
    /// The workload's labels.
    pub labels: Labels,
}

/// The names of one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    // Copies, which share nearly everything with those of other revisions.
    inventory: Inventory,
    plan: SlotPlan,
    /// The last owners of slots that addresses have left since the table was made.
    left: SharedMap<u32, SlotName>,
    /// Its rules.
    pub rules: Arc<RuleTable>,
}

impl Snapshot {
    /// The names of a table that was made of these.
    #[must_use]
    pub fn new(revision: u64, inventory: &Inventory, plan: &SlotPlan, compiled: &Compiled) -> Self {
        Self {
            revision,
            inventory: inventory.clone(),
            plan: plan.clone(),
            left: SharedMap::default(),
            rules: compiled.rules.clone(),
        }
    }

    /// The same names, and those of slots that have been left since the ones before.
    fn following(mut self, before: &Self) -> Self {
        self.left = before.left.clone();
        for (number, _) in self.plan.left_since(&before.plan) {
            if let Some(name) = before.slot(number) {
                self.left.insert(number, name);
            }
        }
        self
    }

    /// Returns the owner of an address; none for outside addresses.
    #[must_use]
    pub fn address(&self, address: &IpAddr) -> Option<SlotName> {
        self.slot(*self.plan.by_address().get(address)?)
    }

    /// Returns the owner of a slot, the last one of a slot that was left; none for outside
    /// addresses.
    #[must_use]
    pub fn slot(&self, number: u32) -> Option<SlotName> {
        let Some((owner, _)) = self.plan.holder(number) else {
            return self.left.get(&number).cloned();
        };
        let workload = match owner {
            Owner::Workload(name) => self.inventory.workloads().get(name),
            Owner::Node(_) => None,
        };
        Some(SlotName {
            owner: owner.clone(),
            labels: workload.map(|one| one.labels.clone()).unwrap_or_default(),
        })
    }
}

/// An endpoint, as far as records name it.
pub trait NamedEndpoint: Debug + Send + Sync {
    /// Returns the interface's index and the endpoint's incarnation, by which the programs
    /// report it.
    fn key(&self) -> (u32, u32);

    /// Returns the workload that the interface belongs to.
    fn owner(&self) -> ObjectName;

    /// Returns the labels that the workload has where no document tells others.
    fn labels(&self) -> Labels;
}

/// Owners of interfaces. Made at every change and seldom asked, so a name is put together when
/// it is.
#[derive(Debug, Default)]
pub struct EndpointNames {
    /// By interface index and incarnation.
    endpoints: HashMap<(u32, u32), Arc<dyn NamedEndpoint>>,
    documents: Inventory,
}

impl EndpointNames {
    /// The names of endpoints; the labels of a document count, where there is one.
    #[must_use]
    pub fn new<E: NamedEndpoint + 'static>(
        documents: &Inventory,
        endpoints: impl IntoIterator<Item = Arc<E>>,
    ) -> Self {
        let endpoints = endpoints.into_iter().map(|endpoint| {
            let endpoint: Arc<dyn NamedEndpoint> = endpoint;
            (endpoint.key(), endpoint)
        });
        Self {
            endpoints: endpoints.collect(),
            documents: documents.clone(),
        }
    }

    fn of(&self, ifindex: u32, incarnation: u32) -> Option<SlotName> {
        let endpoint = self.endpoints.get(&(ifindex, incarnation))?;
        let name = endpoint.owner();
        let labels = match self.documents.workloads().get(&name) {
            Some(document) => document.labels.clone(),
            None => endpoint.labels(),
        };
        let owner = Owner::Workload(name);
        Some(SlotName { owner, labels })
    }
}

/// The names of the last revisions, shared with whoever reads records.
#[derive(Debug, Clone)]
pub struct Snapshots {
    node: Arc<str>,
    tables: Arc<Mutex<VecDeque<Arc<Snapshot>>>>,
    endpoints: Arc<Mutex<EndpointNames>>,
}

impl Snapshots {
    /// Nothing but the node of this name is known yet.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            tables: Arc::default(),
            endpoints: Arc::default(),
        }
    }

    /// Returns the name of the node that the records are of.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Adds the names of the next revision, or those that have been added to a revision
    /// since.
    pub fn add(&self, names: Snapshot) {
        let mut all = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = all.iter_mut().rev();
        if let Some(same) = last.find(|one| one.revision == names.revision) {
            *same = Arc::new(names.following(same));
            return;
        }
        all.push_back(Arc::new(names));
        while all.len() > REMEMBERED {
            all.pop_front();
        }
    }

    /// The names of the revision with this low word.
    #[must_use]
    pub fn of(&self, revision_low: u32) -> Option<Arc<Snapshot>> {
        let all = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all
            .iter()
            .rev()
            .find(|names| names.revision as u32 == revision_low);
        found.cloned()
    }

    /// The names of the newest revision that an entry of the flow table may have been decided
    /// under.
    #[must_use]
    pub fn of_entry(&self, word: StateWord) -> Option<Arc<Snapshot>> {
        let all = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = all.iter().rev();
        let found = newest.find(|names| word.behind(names.revision as u32) == 0);
        found.cloned()
    }

    /// Says whose interfaces there are.
    pub fn set_endpoints(&self, endpoints: EndpointNames) {
        let mut all = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *all = endpoints;
    }

    /// Returns the owner of an interface.
    #[must_use]
    pub fn endpoint(&self, ifindex: u32, incarnation: u32) -> Option<SlotName> {
        let all = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.of(ifindex, incarnation)
    }
}
