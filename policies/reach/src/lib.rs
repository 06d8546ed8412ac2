//! Reach: the ends that reach each other, without a packet, as the firewall would decide.
//!
//! [`Reach`] compiles an inventory as if every workload had an endpoint here, and
//! answers by the lookup that the kernel programs run. Before the table come the
//! rules that need none: a workload reaches itself, its own node may always connect
//! to it, neighbour discovery passes.
//!
//! An *end* is who sends or receives: a pod, a node, an outside host or a bare
//! address. What counts of it are its addresses, as for the kernel: a bare address
//! that a pod owns is judged as that pod, and a pod on its node's network as the node.
//! An address that is translated is judged as what it is translated to.
//!
//! Documents in a repository have no addresses yet. A pod or node without any is
//! judged as if it had one of either family, private and its own, and where blocks tell
//! private addresses apart, one of each kind: [`Cell::depends_on_address`].
//!
//! [`policy_test`] holds these answers against what documents of kind `PolicyTest` expect.
//!
//! The crate must not know what is made of its answers, nor how they are printed: no
//! findings about policies, no lists, no file, no clock.
//!
//! Invariant: a verdict comes from the table and the kernel's own lookup alone.

#![forbid(unsafe_code)]

mod ends;
pub mod policy_test;
mod probe;
mod service;
mod stand_ins;
mod templates;
#[cfg(test)]
mod tests;
mod walk;
mod words;

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_compiler::{
    CompileError, Compiled, Input, RuleEntry, RuleMeaning, RuleTable, SlotPlan, compile_subjects,
};
use cofferdam_inventory::services::Services;
use cofferdam_inventory::{ClusterPeer, Inventory, ObjectName, Owner, Peer};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{Decision, Profile, SlotKind};
use cofferdam_verdict::verdict::{Action, Direction, MAX_RULE, Verdict};
use foldhash::{HashMap, HashSet};
use thiserror::Error;

pub use ends::{End, EndKind, Externals, Point, UnknownEnd};
pub use probe::{Probe, ProbeError};
pub use service::{BackendCell, Backends, BehindService};
pub use stand_ins::{PodNetwork, PodNetworks};
pub use templates::{StandIn, add_templates};
pub use walk::{Explanation, Field, Step, Walk};
pub use words::selected;

use stand_ins::StandIns;

/// Most pages of a table that is only asked here: 512 MiB.
const TABLE_PAGES: u32 = 1 << 13;

/// Reason for which an inventory cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReachError {
    /// It is too large for one table.
    #[error("the documents do not fit into one table")]
    Compile(#[from] CompileError),
    /// Too many ends are without an address.
    #[error("no address is left to stand for that of {end}: give it one in its status")]
    NoStandIn {
        /// The end.
        end: String,
    },
    /// Too many ends are without an address for the blocks that may hold one.
    #[error(
        "address blocks of policies tell too many addresses apart that {ends} ends without one \
         may have: say which networks pods are in, with --pod-cidr"
    )]
    TooManyBlocks {
        /// The ends without an address.
        ends: usize,
    },
}

/// Judgement of one direction of one pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// The verdict in force.
    pub verdict: Verdict,
    /// The verdict with audit policies in force as well.
    pub audited: Verdict,
    /// The sender's address, of the pair that these verdicts are about.
    pub source: IpAddr,
    /// The receiver's address.
    pub destination: IpAddr,
    /// The packet that arrives there.
    pub probe: Probe,
}

/// May one end open a connection to another?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The sender's egress: the first pair of addresses that it denies, else the first
    /// pair.
    pub egress: Side,
    /// The receiver's ingress, likewise.
    pub ingress: Side,
    /// Of what is translated, how many backends may be reached; the sides are then those
    /// of the first that is denied, else of the first.
    pub backends: Option<Backends>,
    /// Some address of the receiver is translated to nobody.
    pub leads_nowhere: bool,
    /// The verdict is another by the address that an end will have, which nobody gave: it is
    /// taken for denied.
    pub depends_on_address: bool,
}

impl Cell {
    /// Returns the action in force: allow only if every pair of addresses may pass both ways.
    #[must_use]
    pub fn action(&self) -> Action {
        self.unless_nowhere(both(
            self.egress.verdict.action,
            self.ingress.verdict.action,
        ))
    }

    /// Returns the action that would be in force with audit policies in force as well.
    #[must_use]
    pub fn audited_action(&self) -> Action {
        self.unless_nowhere(both(
            self.egress.audited.action,
            self.ingress.audited.action,
        ))
    }

    /// Denies a connection that leads to nobody.
    fn unless_nowhere(&self, action: Action) -> Action {
        if self.leads_nowhere {
            Action::Deny
        } else {
            action
        }
    }

    /// Returns the action to which audit policies would change the verdict, if they would.
    #[must_use]
    pub fn audit(&self) -> Option<Action> {
        Some(self.audited_action()).filter(|action| *action != self.action())
    }

    /// The side of a direction.
    #[must_use]
    pub fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Takes another pair into account.
    fn join(&mut self, pair: &Self) {
        keep_denied(&mut self.egress, &pair.egress);
        keep_denied(&mut self.ingress, &pair.ingress);
    }
}

/// Verdicts that an address which is not known may lead to.
#[derive(Debug, Clone, Copy, Default)]
struct Outcomes {
    allowed: bool,
    denied: bool,
}

impl Outcomes {
    fn take(&mut self, is_allowed: bool) {
        self.allowed |= is_allowed;
        self.denied |= !is_allowed;
    }

    fn differ(self) -> bool {
        self.allowed && self.denied
    }
}

fn both(a: Action, b: Action) -> Action {
    if a == Action::Allow && b == Action::Allow {
        Action::Allow
    } else {
        Action::Deny
    }
}

/// An inventory that can be asked who reaches whom.
#[derive(Debug, Clone)]
pub struct Reach {
    inventory: Inventory,
    services: Services,
    plan: SlotPlan,
    compiled: Compiled,
    /// Positions of workloads in the inventory, which stand for their names.
    numbers: HashMap<ObjectName, u32>,
    stand_ins: StandIns,
    ends: Vec<End>,
    own_node_allowed: bool,
}

impl Reach {
    /// Compiles an inventory.
    ///
    /// # Errors
    /// When it is too large for one table.
    pub fn new(inventory: &Inventory) -> Result<Self, ReachError> {
        Self::in_networks(inventory, &PodNetworks::default())
    }

    /// Compiles an inventory whose pods without an address are in these networks.
    ///
    /// # Errors
    /// When it is too large for one table, or they are too small.
    pub fn in_networks(inventory: &Inventory, networks: &PodNetworks) -> Result<Self, ReachError> {
        Self::with_subjects(inventory, networks, |_| None)
    }

    /// Compiles an inventory for questions about these ends alone, called as in
    /// [`Reach::end`], and this probe: of a large cluster that takes a fraction of the time, and fits
    /// where a table about everybody does not. Who else is asked about is denied, as by
    /// a broken table.
    ///
    /// # Errors
    /// When it is too large for one table.
    pub fn about(
        inventory: &Inventory,
        ends: &[&str],
        externals: &Externals,
        probe: Probe,
        networks: &PodNetworks,
    ) -> Result<Self, ReachError> {
        Self::with_subjects(inventory, networks, |services| {
            let subjects = ends
                .iter()
                .flat_map(|end| ends::subjects(services, end, externals, probe));
            Some(subjects.collect())
        })
    }

    /// Compiles an inventory with these workloads as subjects, or with all for `None`.
    ///
    /// # Errors
    ///
    /// If the documents do not fit into one table, or too many ends are without an address.
    pub fn with_subjects(
        inventory: &Inventory,
        networks: &PodNetworks,
        subjects: impl FnOnce(&Services) -> Option<HashSet<ObjectName>>,
    ) -> Result<Self, ReachError> {
        let mut inventory = inventory.clone();
        let stand_ins = stand_ins::stand_in(&mut inventory, networks)?;
        let services = Services::new(&inventory);
        let subjects = subjects(&services);
        let plan = SlotPlan::assign(&inventory);
        let slots = plan.len() + outside_bound(&inventory);
        let compiled = compile_subjects(&Input {
            inventory: &inventory,
            slots: &plan,
            is_local: &|workload| {
                (subjects.as_ref()).is_none_or(|subjects| subjects.contains(&workload.name))
            },
            own_node: None,
            limits: Limits {
                slots: u32::try_from(slots).unwrap_or(u32::MAX),
                table_pages: TABLE_PAGES,
                rules: MAX_RULE + 1,
                ..Limits::DEFAULT
            },
            revision: 1,
        })?;
        let numbers = (inventory.workloads().keys().cloned()).zip(0..).collect();
        let mut reach = Self {
            inventory,
            services,
            plan,
            compiled,
            numbers,
            stand_ins,
            ends: Vec::new(),
            own_node_allowed: true,
        };
        reach.ends = reach.known_ends();
        Ok(reach)
    }

    /// Returns `true` if a workload's own node may always connect to it.
    #[must_use]
    pub fn is_own_node_allowed(&self) -> bool {
        self.own_node_allowed
    }

    /// The table that is asked.
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// The Services of the inventory.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The same with or without the exception for a workload's own node.
    #[must_use]
    pub fn with_own_node_allowed(mut self, allowed: bool) -> Self {
        self.own_node_allowed = allowed;
        self
    }

    /// Returns the inventory that is asked about, addresses that stand in included.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The rules that verdicts name: all of policies that select some workload.
    #[must_use]
    pub fn rules(&self) -> &RuleTable {
        &self.compiled.rules
    }

    /// The rule that decided, with its number.
    #[must_use]
    pub fn rule_of(&self, verdict: &Verdict) -> Option<(u32, &RuleEntry)> {
        match self.compiled.rules.get(verdict.rule)? {
            RuleMeaning::Rule(entry) => Some((verdict.rule, entry)),
            RuleMeaning::IsolationSet(_) => None,
        }
    }

    /// The policies that a default denial is due to, with their numbers as they
    /// isolate.
    pub fn isolated_by(&self, verdict: &Verdict) -> impl Iterator<Item = (u32, &RuleEntry)> {
        self.compiled.rules.isolated_by(verdict.rule)
    }

    /// Pods that have not ended, then nodes, each in the order of their names.
    #[must_use]
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// May `source` open a connection of this kind to `destination`? `None` when not
    /// both have an address of the family, or nobody is behind the receiver's
    /// ([`Reach::leads_nowhere`]).
    #[must_use]
    pub fn cell(
        &self,
        source: &End,
        destination: &End,
        probe: Probe,
        family: Family,
    ) -> Option<Cell> {
        if destination.may_be_translated() {
            let targets = self.targets(destination, probe, family)?;
            return self.cell_of(source, &targets, family);
        }
        let to: Vec<&Point> = destination.points(family).collect();
        let is_assumed = destination.assumed;
        self.judge(source, (&to, is_assumed), probe, family, false)
    }

    /// Judges all pairs of addresses of a sender and these, which stand in for one that is
    /// not known where `is_assumed`.
    fn judge(
        &self,
        source: &End,
        (to, is_assumed): (&[&Point], bool),
        probe: Probe,
        family: Family,
        is_translated: bool,
    ) -> Option<Cell> {
        let mut found: Option<Cell> = None;
        // Whether all pairs allow, by the address that the sender and the receiver may have.
        let mut outcomes = Outcomes::default();
        let mut of_receivers = vec![true; to.len()];
        for from in source.points(family) {
            let mut of_sender = true;
            for (to, of_receiver) in to.iter().zip(&mut of_receivers) {
                let pair = self.pair(from, to, probe, is_translated);
                let is_allowed = pair.action() == Action::Allow;
                of_sender &= is_allowed;
                *of_receiver &= is_allowed;
                if source.assumed && is_assumed {
                    outcomes.take(is_allowed);
                }
                match &mut found {
                    None => found = Some(pair),
                    Some(cell) => cell.join(&pair),
                }
            }
            if source.assumed && !is_assumed {
                outcomes.take(of_sender);
            }
        }
        if !source.assumed && is_assumed {
            of_receivers.into_iter().for_each(|one| outcomes.take(one));
        }
        found.map(|cell| Cell {
            depends_on_address: outcomes.differ(),
            ..cell
        })
    }

    /// Judges one pair of addresses; `is_translated` if the receiver's was another.
    fn pair(&self, from: &Point, to: &Point, probe: Probe, is_translated: bool) -> Cell {
        let side = |decision: Decision| Side {
            verdict: decision.enforced,
            audited: decision.audited,
            source: from.address,
            destination: to.address,
            probe,
        };
        let cell = |egress, ingress| Cell {
            egress,
            ingress,
            backends: None,
            leads_nowhere: false,
            depends_on_address: false,
        };
        let settled = |verdict: Verdict| {
            side(Decision {
                enforced: verdict,
                audited: verdict,
            })
        };
        let is_to_itself = from.workload.is_some() && from.workload == to.workload;
        if is_to_itself && !is_translated {
            let own = settled(Verdict::allow(Reason::SelfTraffic));
            return cell(own, own);
        }
        let discovery = |direction| probe.settled(from.address, direction).map(settled);
        let not_isolated = || settled(Verdict::allow(Reason::NotIsolated));
        let decide = |subject: &Profile, direction, peer: &Profile| {
            let broken = Verdict::deny(Reason::TableCorrupt);
            // A table that was made without the subject knows nothing of its policies.
            let decision = (subject.kind == SlotKind::LocalWorkload)
                .then(|| (self.compiled).decide(*subject, direction, *peer, probe.key()))
                .flatten();
            side(decision.unwrap_or(Decision {
                enforced: broken,
                audited: broken,
            }))
        };
        if is_to_itself {
            let [egress, ingress] = [Direction::Egress, Direction::Ingress].map(|direction| {
                let side = decide(&from.profile, direction, &to.profile);
                Side {
                    verdict: excused(side.verdict),
                    audited: excused(side.audited),
                    ..side
                }
            });
            return cell(egress, ingress);
        }
        let egress = if from.is_subject() {
            discovery(Direction::Egress)
                .unwrap_or_else(|| decide(&from.profile, Direction::Egress, &to.profile))
        } else {
            not_isolated()
        };
        let ingress = if !to.is_subject() {
            not_isolated()
        } else if let Some(settled) = discovery(Direction::Ingress) {
            settled
        } else if self.own_node_allowed && is_own_node(from, to) {
            settled(Verdict::allow(Reason::OwnNode))
        } else {
            decide(&to.profile, Direction::Ingress, &from.profile)
        };
        cell(egress, ingress)
    }

    /// Looks an address up in the table.
    fn point(&self, address: IpAddr, node: Option<&Arc<str>>) -> Point {
        let profile = match self.compiled.slot_of(&self.plan, address) {
            Some((_, profile)) => profile,
            // A broken table; deciding by an atom it does not have denies.
            None => Profile {
                kind: SlotKind::Spare,
                class: u32::MAX,
                atom: u32::MAX,
                is_shared: false,
            },
        };
        let owner = self.inventory.owner(address);
        let (workload, owner_node) = match &owner {
            Some(Owner::Workload(name)) => {
                let workload = &self.inventory.workloads()[name];
                (self.numbers.get(name).copied(), workload.node.as_ref())
            }
            Some(Owner::Node(name)) => (None, Some(name)),
            None => (None, None),
        };
        Point {
            address,
            profile,
            workload,
            node: node.or(owner_node).cloned(),
            may_be_translated: self.services.may_translate(address),
        }
    }
}

/// The verdict about a workload that reaches itself through a Service. Policies of its
/// namespace cannot keep it from itself, those of the cluster can; and only those have
/// rules that deny.
#[must_use]
pub fn excused(verdict: Verdict) -> Verdict {
    match (verdict.action, verdict.reason) {
        (Action::Deny, Reason::Rule | Reason::TableCorrupt) => verdict,
        _ => Verdict::allow(Reason::SelfTraffic),
    }
}

/// Returns `true` if a node, or a pod on its network, connects to a workload that runs on it.
fn is_own_node(from: &Point, to: &Point) -> bool {
    from.workload.is_none() && from.node.is_some() && from.node == to.node
}

/// In one direction, the verdict of the first pair that is denied counts; for the
/// verdict in force and the audited one each.
fn keep_denied(kept: &mut Side, other: &Side) {
    let denied = |verdict: &Verdict| verdict.action == Action::Deny;
    if !denied(&kept.audited) && denied(&other.audited) {
        kept.audited = other.audited;
    }
    if !denied(&kept.verdict) && denied(&other.verdict) {
        *kept = Side {
            audited: kept.audited,
            ..*other
        };
    }
}

/// Most sets of outside addresses that the CIDRs of an inventory can tell apart, and
/// slot 0: each block ends one range of addresses and begins another.
fn outside_bound(inventory: &Inventory) -> usize {
    let mut blocks = 0;
    for policy in inventory.policies().values() {
        let rules = [&policy.ingress, &policy.egress];
        for rule in rules.into_iter().flatten().flatten() {
            for peer in rule.peers.iter().flatten() {
                if let Peer::Block { except, .. } = peer {
                    blocks += 1 + except.len();
                }
            }
        }
    }
    for policy in inventory.cluster_policies().values() {
        for rule in policy.ingress.iter().chain(&policy.egress) {
            for peer in rule.peers.iter().flatten() {
                if let ClusterPeer::Networks(networks) = peer {
                    blocks += networks.len();
                }
            }
        }
    }
    2 * blocks + 3
}
