//! `ClusterNetworkPolicy`, with its defaults filled in.
//!
//! The meaning is that of `policy.networking.k8s.io/v1alpha2`: per direction, the
//! Admin tier by priority, then `NetworkPolicy` where one isolates, then the
//! Baseline tier, then allow.
//!
//! Invariant: what a document says and this version cannot act on has become
//! narrower here, never wider: an Accept rule of such peers matches nobody, a Deny
//! or Pass rule denies everything.

use std::hash::{Hash, Hasher};
use std::iter;
use std::sync::Arc;

use cofferdam_syntax::diagnostic::Place;
use ipnet::IpNet;

use crate::selectors::LabelSelector;

use super::{Mode, PortRange};

/// Highest `priority` there is; 0 comes first.
pub const MAX_PRIORITY: u16 = 1000;

/// Tier of policies, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// `ClusterNetworkPolicy` before those of namespaces.
    Admin,
    /// `NetworkPolicy`.
    Namespace,
    /// `ClusterNetworkPolicy` for what no `NetworkPolicy` isolates.
    Baseline,
}

impl Tier {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Namespace => "namespace",
            Self::Baseline => "baseline",
        }
    }
}

/// Action of a rule on the packets that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// Allows it, and no later policy is asked.
    Accept,
    /// Denies it, and no later policy is asked.
    Deny,
    /// Leaves the tier.
    Pass,
}

impl RuleAction {
    /// The word in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}

/// A policy of the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// Place of its `spec`.
    pub place: Place,
    /// Mode: enforced or only judged.
    pub mode: Mode,
    /// [`Tier::Admin`] or [`Tier::Baseline`].
    pub tier: Tier,
    /// Lower comes first within the tier, 0 to [`MAX_PRIORITY`]; equal ones in the
    /// order of names.
    pub priority: u16,
    /// The workloads it is about.
    pub subject: WorkloadSelector,
    /// Its rules for traffic towards its subjects, in order.
    pub ingress: Vec<ClusterRule>,
    /// Its rules for traffic away from its subjects, in order.
    pub egress: Vec<ClusterRule>,
}

impl ClusterNetworkPolicy {
    /// Its place, and those of its rules.
    pub fn places_mut(&mut self) -> impl Iterator<Item = &mut Place> {
        let rules = self.ingress.iter_mut().chain(&mut self.egress);
        iter::once(&mut self.place).chain(rules.map(|rule| &mut rule.place))
    }
}

/// Workloads by their labels and their namespace's.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadSelector {
    /// The namespaces.
    pub namespaces: LabelSelector,
    /// The workloads in them.
    pub workloads: LabelSelector,
}

/// One rule of a [`ClusterNetworkPolicy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRule {
    /// Place in its file.
    pub place: Place,
    /// Its name, for people.
    pub name: Option<Box<str>>,
    /// Action of the rule.
    pub action: RuleAction,
    /// Peers, one of which the other end must be. Empty is nobody; `None` is everybody, outside
    /// hosts too, which only a rule that fails closed has.
    pub peers: Option<Vec<ClusterPeer>>,
    /// Ports that it covers; `None` for every packet, never empty.
    pub ports: Option<Vec<PortRange>>,
}

/// Other end that a [`ClusterRule`] may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterPeer {
    /// Workloads by their labels and their namespace's.
    Workloads(WorkloadSelector),
    /// Every end with an address in one of these blocks, workloads included; host bits cleared,
    /// in order. Egress only.
    Networks(Vec<IpNet>),
    /// Nodes, by their addresses. Egress only.
    Nodes(LabelSelector),
}

impl Hash for ClusterNetworkPolicy {
    /// Feeds all but the places: policies that say the same have the same hash.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            name,
            place: _,
            mode,
            tier,
            priority,
            subject,
            ingress,
            egress,
        } = self;
        (name, mode, tier, priority, subject, ingress, egress).hash(state);
    }
}

impl Hash for ClusterRule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            place: _,
            name,
            action,
            peers,
            ports,
        } = self;
        (name, action, peers, ports).hash(state);
    }
}

impl ClusterNetworkPolicy {
    /// Returns `true` if two policies differ in nothing but the places they stand in.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let rules = |a: &[ClusterRule], b: &[ClusterRule]| {
            let meaning = |rule: &ClusterRule| {
                let ClusterRule {
                    place: _,
                    name,
                    action,
                    peers,
                    ports,
                } = rule.clone();
                (name, action, peers, ports)
            };
            a.iter().map(meaning).eq(b.iter().map(meaning))
        };
        self.name == other.name
            && self.mode == other.mode
            && (self.tier, self.priority) == (other.tier, other.priority)
            && self.subject == other.subject
            && rules(&self.ingress, &other.ingress)
            && rules(&self.egress, &other.egress)
    }
}
