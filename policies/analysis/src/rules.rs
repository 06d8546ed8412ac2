//! Rules of both kinds of policies in one form, and how two of them lie to each other.
//!
//! A rule is the product of three sets: subjects, peers, ports. One covers another
//! when it does in each of them.
//!
//! Invariant, sound: [`Rule::covers`] is only said when it holds for every packet of
//! the world that is there and of every address outside; [`Rule::may_meet`] is only
//! denied when no packet is in both. Where it would take more to be sure, the
//! careful answer is given.

use std::rc::Rc;

use cofferdam_inventory::selectors::{LabelSelector, Operator, Requirement};
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, Mode, NetworkPolicy, Peer, PortRange, Ports,
    Protocol, Rule as NamespaceRule, RuleAction, Tier, WorkloadSelector,
};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::verdict::Direction;

use super::ranges::Ranges;
use super::world::{Scope, Set, World};

/// A policy of either kind.
#[derive(Clone, Copy)]
pub(super) enum Policy<'a> {
    Namespace(&'a NetworkPolicy),
    Cluster(&'a ClusterNetworkPolicy),
}

impl<'a> Policy<'a> {
    pub(super) fn place(self) -> &'a Place {
        match self {
            Self::Namespace(policy) => &policy.place,
            Self::Cluster(policy) => &policy.place,
        }
    }

    pub(super) fn mode(self) -> Mode {
        match self {
            Self::Namespace(policy) => policy.mode,
            Self::Cluster(policy) => policy.mode,
        }
    }

    pub(super) fn tier(self) -> Tier {
        match self {
            Self::Namespace(_) => Tier::Namespace,
            Self::Cluster(policy) => policy.tier,
        }
    }

    /// Its name as messages have it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Namespace(policy) => policy.name.to_string(),
            Self::Cluster(policy) => policy.name.to_string(),
        }
    }

    /// Returns the groups of workloads that the policy selects.
    pub(super) fn subjects(self, world: &World<'a>) -> Set {
        match self {
            Self::Namespace(policy) => {
                world.select(Scope::Namespace(&policy.name.namespace), &policy.subject)
            }
            Self::Cluster(policy) => world.workloads(&policy.subject),
        }
    }
}

/// The rule as the desired state has it.
#[derive(Clone, Copy)]
pub(super) enum Written<'a> {
    Namespace(&'a NamespaceRule),
    Cluster(&'a ClusterRule),
}

/// Peers of a rule.
pub(super) struct Peers {
    /// Anybody.
    pub(super) everybody: bool,
    /// Workloads by their labels.
    pub(super) workloads: Set,
    /// Nodes by their labels, in order.
    pub(super) nodes: Vec<u32>,
    /// Addresses.
    pub(super) blocks: Ranges,
}

/// Selectors of a subject or peer, as they are written.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'a> {
    /// `true` if it selects nodes, rather than workloads.
    pub(super) nodes: bool,
    /// Selects the namespaces; `None` for the policy's own, and for nodes.
    pub(super) namespaces: Option<&'a LabelSelector>,
    /// Selects the objects by their own labels.
    pub(super) labels: &'a LabelSelector,
}

/// One rule.
pub(super) struct Rule<'a> {
    pub(super) policy: Policy<'a>,
    pub(super) written: Written<'a>,
    pub(super) direction: Direction,
    /// Position among the policy's rules of its direction, from 0.
    pub(super) index: usize,
    pub(super) place: &'a Place,
    pub(super) action: RuleAction,
    pub(super) subjects: Set,
    pub(super) peers: Peers,
    pub(super) ports: Option<&'a [PortRange]>,
}

/// The key of a direction's rules.
pub(super) fn section(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The key of the peers of a direction's rules.
pub(super) fn peers_key(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

impl<'a> Rule<'a> {
    /// All rules of the policies, each policy's in order.
    pub(super) fn all(world: &World<'a>) -> Vec<Self> {
        let mut rules = Vec::new();
        for policy in world.inventory.policies().values() {
            let subjects = Policy::Namespace(policy).subjects(world);
            for (direction, list) in [
                (Direction::Ingress, &policy.ingress),
                (Direction::Egress, &policy.egress),
            ] {
                for (index, rule) in list.iter().flatten().enumerate() {
                    rules.push(Self {
                        policy: Policy::Namespace(policy),
                        written: Written::Namespace(rule),
                        direction,
                        index,
                        place: &rule.place,
                        action: RuleAction::Accept,
                        subjects: subjects.clone(),
                        peers: namespace_peers(world, policy, rule),
                        ports: rule.ports.as_deref(),
                    });
                }
            }
        }
        for policy in world.inventory.cluster_policies().values() {
            let subjects = Policy::Cluster(policy).subjects(world);
            for (direction, list) in [
                (Direction::Ingress, &policy.ingress),
                (Direction::Egress, &policy.egress),
            ] {
                for (index, rule) in list.iter().enumerate() {
                    rules.push(Self {
                        policy: Policy::Cluster(policy),
                        written: Written::Cluster(rule),
                        direction,
                        index,
                        place: &rule.place,
                        action: rule.action,
                        subjects: subjects.clone(),
                        peers: cluster_peers(world, rule),
                        ports: rule.ports.as_deref(),
                    });
                }
            }
        }
        rules
    }

    /// The selectors among its peers.
    pub(super) fn chosen(&self) -> impl Iterator<Item = Chosen<'a>> + use<'a> {
        let (of_namespace, of_cluster) = match self.written {
            Written::Namespace(rule) => (rule.peers.as_deref(), None),
            Written::Cluster(rule) => (None, rule.peers.as_deref()),
        };
        let of_namespace = of_namespace
            .into_iter()
            .flatten()
            .filter_map(|peer| match peer {
                Peer::Block { .. } => None,
                Peer::Workloads {
                    namespaces,
                    workloads,
                } => Some(Chosen {
                    nodes: false,
                    namespaces: namespaces.as_ref(),
                    labels: workloads,
                }),
            });
        let of_cluster = of_cluster
            .into_iter()
            .flatten()
            .filter_map(|peer| match peer {
                ClusterPeer::Networks(_) => None,
                ClusterPeer::Nodes(labels) => Some(Chosen {
                    nodes: true,
                    namespaces: None,
                    labels,
                }),
                ClusterPeer::Workloads(selector) => Some(Chosen::workloads(selector)),
            });
        of_namespace.chain(of_cluster)
    }

    /// Returns the scopes in which workloads at either end of it are looked for.
    pub(super) fn scopes(&self) -> Vec<Scope<'a>> {
        let own = match self.policy {
            Policy::Namespace(policy) => Scope::Namespace(&policy.name.namespace),
            Policy::Cluster(policy) => Scope::Namespaces(&policy.subject.namespaces),
        };
        let peers = self
            .chosen()
            .filter(|chosen| !chosen.nodes)
            .map(|chosen| chosen.namespaces.map_or(own, Scope::Namespaces));
        peers.chain([own]).collect()
    }

    /// Returns the place of the rule in the order of its tier and direction.
    pub(super) fn rank(&self) -> (u16, &'a str, usize) {
        match self.policy {
            Policy::Namespace(policy) => (0, &policy.name.name, self.index),
            Policy::Cluster(policy) => (policy.priority, &policy.name, self.index),
        }
    }

    /// The same connections as the other ends have them, if all of those are workloads.
    pub(super) fn seen_from_peers(&self) -> Option<Self> {
        let peers = &self.peers;
        if peers.everybody || !peers.nodes.is_empty() || !peers.blocks.is_empty() {
            return None;
        }
        Some(Self {
            policy: self.policy,
            written: self.written,
            direction: match self.direction {
                Direction::Ingress => Direction::Egress,
                Direction::Egress => Direction::Ingress,
            },
            index: self.index,
            place: self.place,
            action: self.action,
            subjects: peers.workloads.clone(),
            peers: Peers {
                everybody: false,
                workloads: self.subjects.clone(),
                nodes: Vec::new(),
                blocks: Ranges::default(),
            },
            ports: self.ports,
        })
    }

    /// Returns `true` if a packet could match the rule, with these workloads.
    pub(super) fn is_about_something(&self) -> bool {
        let peers = &self.peers;
        !self.subjects.is_empty()
            && (peers.everybody
                || !peers.workloads.is_empty()
                || !peers.nodes.is_empty()
                || !peers.blocks.is_empty())
    }

    /// Returns `true` if this rule counts wherever `other` does: it is enforced, or `other` is
    /// on audit.
    pub(super) fn counts_beside(&self, other: &Self) -> bool {
        self.policy.mode() == Mode::Enforce || other.policy.mode() == Mode::Audit
    }

    /// Returns `true` if this rule matches every packet that `other` matches.
    pub(super) fn covers(&self, other: &Self, world: &World<'_>) -> bool {
        self.direction == other.direction
            && is_subset(&other.subjects, &self.subjects)
            && ports_cover(self.ports, other.ports)
            && self.peers.cover(&other.peers, world)
    }

    /// Returns `true` if this rule would match every packet that `other` matches, for any
    /// workloads.
    pub(super) fn covers_always(&self, other: &Self) -> bool {
        self.direction == other.direction
            && subject_implies(other.policy, self.policy)
            && ports_cover(self.ports, other.ports)
            && peers_imply(other, self)
    }

    /// Returns `true` if a packet may match both rules.
    pub(super) fn may_meet(&self, other: &Self, world: &World<'_>) -> bool {
        self.direction == other.direction
            && meets(&self.subjects, &other.subjects)
            && ports_may_meet(self.ports, other.ports)
            && self.peers.may_meet(&other.peers, world)
    }

    /// Returns `true` if some packet certainly matches both rules, when there are the
    /// workloads that they are about.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (a, b) = (&self.peers, &other.peers);
        let peers = (a.everybody && b.is_anybody())
            || (b.everybody && a.is_anybody())
            || meets(&a.workloads, &b.workloads)
            || meets(&a.nodes, &b.nodes)
            || a.blocks.meets(&b.blocks);
        self.direction == other.direction
            && meets(&self.subjects, &other.subjects)
            && ports_meet(self.ports, other.ports)
            && peers
    }
}

impl<'a> Chosen<'a> {
    pub(super) fn workloads(selector: &'a WorkloadSelector) -> Self {
        Self {
            nodes: false,
            namespaces: Some(&selector.namespaces),
            labels: &selector.workloads,
        }
    }

    /// Returns `true` if `wide` selects all objects that this selects, for any labels of
    /// objects.
    pub(super) fn is_within(&self, wide: &Chosen<'_>) -> bool {
        let namespaces = match (self.namespaces, wide.namespaces) {
            (None, None) => true,
            (Some(narrow), Some(wide)) => implies(narrow, wide),
            // The policy's own namespace is one of all.
            (None, Some(wide)) => wide.requirements().is_empty(),
            (Some(_), None) => false,
        };
        self.nodes == wide.nodes && namespaces && implies(self.labels, wide.labels)
    }
}

impl Peers {
    fn is_anybody(&self) -> bool {
        self.everybody
            || !self.workloads.is_empty()
            || !self.nodes.is_empty()
            || !self.blocks.is_empty()
    }

    fn cover(&self, other: &Self, world: &World<'_>) -> bool {
        if self.everybody || self.blocks.is_everything() {
            return true;
        }
        !other.everybody
            && self.blocks.covers(&other.blocks)
            && is_subset(&other.nodes, &self.nodes)
            && other.workloads.iter().all(|group| {
                self.workloads.binary_search(group).is_ok()
                    || (!self.blocks.is_empty() && world.holds_all(&self.blocks, *group))
            })
    }

    fn may_meet(&self, other: &Self, world: &World<'_>) -> bool {
        // Somebody chosen by labels may have an address in a block.
        let by_address = |a: &Self, b: &Self| {
            !a.blocks.is_empty()
                && (!b.nodes.is_empty() || meets(&world.within(&a.blocks).0, &b.workloads))
        };
        self.everybody
            || other.everybody
            || meets(&self.workloads, &other.workloads)
            || meets(&self.nodes, &other.nodes)
            || self.blocks.meets(&other.blocks)
            || by_address(self, other)
            || by_address(other, self)
    }
}

fn namespace_peers<'a>(
    world: &World<'a>,
    policy: &'a NetworkPolicy,
    rule: &'a NamespaceRule,
) -> Peers {
    let peers = rule.peers.as_deref().unwrap_or_default();
    let workloads = (peers.iter()).filter_map(|peer| world.peer(&policy.name.namespace, peer));
    let blocks = peers.iter().filter_map(|peer| match peer {
        Peer::Block { cidr, except } => Some(Ranges::block(*cidr, except)),
        Peer::Workloads { .. } => None,
    });
    Peers {
        everybody: rule.peers.is_none(),
        workloads: union(workloads),
        nodes: Vec::new(),
        blocks: Ranges::union(blocks),
    }
}

fn cluster_peers<'a>(world: &World<'a>, rule: &'a ClusterRule) -> Peers {
    let peers = rule.peers.as_deref().unwrap_or_default();
    let blocks = peers.iter().flat_map(|peer| match peer {
        ClusterPeer::Networks(networks) => networks.as_slice(),
        ClusterPeer::Workloads(_) | ClusterPeer::Nodes(_) => &[],
    });
    let mut nodes: Vec<u32> = (peers.iter())
        .flat_map(|peer| match peer {
            ClusterPeer::Nodes(selector) => world.nodes(selector),
            ClusterPeer::Workloads(_) | ClusterPeer::Networks(_) => Vec::new(),
        })
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    Peers {
        everybody: rule.peers.is_none(),
        workloads: union(peers.iter().filter_map(|peer| world.cluster_peer(peer))),
        nodes,
        blocks: Ranges::union(blocks.map(|block| Ranges::block(*block, &[]))),
    }
}

/// Everything in any of these.
fn union(sets: impl Iterator<Item = Set>) -> Set {
    let mut sets: Vec<Set> = sets.collect();
    match sets.len() {
        0 => Rc::from([]),
        1 => sets.swap_remove(0),
        _ => {
            let mut all: Vec<u32> = sets.iter().flat_map(|set| set.iter().copied()).collect();
            all.sort_unstable();
            all.dedup();
            all.into()
        }
    }
}

/// Returns `true` if all of `a` is in `b`; both are sorted.
fn is_subset(a: &[u32], b: &[u32]) -> bool {
    a.len() <= b.len()
        && (a.as_ptr() == b.as_ptr() || a.iter().all(|one| b.binary_search(one).is_ok()))
}

/// Returns `true` if some element is in both; both are sorted.
pub(super) fn meets(a: &[u32], b: &[u32]) -> bool {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().any(|one| many.binary_search(one).is_ok())
}

/// Ranges of one protocol's numbers, names left out.
pub(super) fn numbers(ports: &[PortRange], protocol: Protocol) -> Vec<(u16, u16)> {
    let of_protocol = ports.iter().filter(|port| port.protocol == protocol);
    let mut ranges: Vec<(u16, u16)> = of_protocol
        .filter_map(|port| match port.ports {
            Ports::All => Some((0, u16::MAX)),
            Ports::Range(first, last) => Some((first, last)),
            Ports::Named(_) => None,
        })
        .collect();
    ranges.sort_unstable();
    ranges
}

/// Returns `true` if these ranges, sorted, hold every number from `first` to `last`.
pub(super) fn hold(ranges: &[(u16, u16)], (first, last): (u16, u16)) -> bool {
    let mut next = u32::from(first);
    for (from, to) in ranges {
        if u32::from(*from) > next {
            break;
        }
        next = next.max(u32::from(*to) + 1);
    }
    next > u32::from(last)
}

fn ports_cover(wide: Option<&[PortRange]>, narrow: Option<&[PortRange]>) -> bool {
    let Some(wide) = wide else { return true };
    let Some(narrow) = narrow else { return false };
    narrow.iter().all(|port| match &port.ports {
        Ports::All => hold(&numbers(wide, port.protocol), (0, u16::MAX)),
        Ports::Range(first, last) => hold(&numbers(wide, port.protocol), (*first, *last)),
        Ports::Named(_) => {
            wide.contains(port)
                // A name stands for a port from 1 on.
                || hold(&numbers(wide, port.protocol), (1, u16::MAX))
        }
    })
}

pub(super) fn ports_may_meet(a: Option<&[PortRange]>, b: Option<&[PortRange]>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return true;
    };
    let numbers = |ports: &Ports| match ports {
        Ports::All | Ports::Named(_) => (0, u16::MAX),
        Ports::Range(first, last) => (*first, *last),
    };
    a.iter().any(|a| {
        b.iter().any(|b| {
            let ((a_first, a_last), (b_first, b_last)) = (numbers(&a.ports), numbers(&b.ports));
            a.protocol == b.protocol && a_first <= b_last && b_first <= a_last
        })
    })
}

fn ports_meet(a: Option<&[PortRange]>, b: Option<&[PortRange]>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return true;
    };
    a.iter().any(|one| {
        b.iter().any(|other| {
            one.protocol == other.protocol
                && match (&one.ports, &other.ports) {
                    (Ports::All, _) | (_, Ports::All) => true,
                    (Ports::Named(a), Ports::Named(b)) => a == b,
                    (Ports::Named(_), _) | (_, Ports::Named(_)) => false,
                    (Ports::Range(a_first, a_last), Ports::Range(b_first, b_last)) => {
                        a_first <= b_last && b_first <= a_last
                    }
                }
        })
    })
}

/// Returns `true` if `wide` selects everything that `narrow` selects, for any labels of
/// objects.
fn implies(narrow: &LabelSelector, wide: &LabelSelector) -> bool {
    wide.requirements()
        .iter()
        .all(|wide| (narrow.requirements().iter()).any(|narrow| requirement_implies(narrow, wide)))
}

fn requirement_implies(narrow: &Requirement, wide: &Requirement) -> bool {
    if narrow.key() != wide.key() {
        return false;
    }
    match (narrow.operator(), wide.operator()) {
        (Operator::In(values), _) => values.iter().all(|value| wide.holds(Some(value))),
        (Operator::NotIn(narrow), Operator::NotIn(wide)) => {
            wide.iter().all(|value| narrow.contains(value))
        }
        (Operator::Exists, Operator::Exists)
        | (Operator::DoesNotExist, Operator::DoesNotExist | Operator::NotIn(_)) => true,
        _ => false,
    }
}

fn subject_implies(narrow: Policy<'_>, wide: Policy<'_>) -> bool {
    match (narrow, wide) {
        (Policy::Namespace(narrow), Policy::Namespace(wide)) => {
            narrow.name.namespace == wide.name.namespace && implies(&narrow.subject, &wide.subject)
        }
        (Policy::Cluster(narrow), Policy::Cluster(wide)) => {
            Chosen::workloads(&narrow.subject).is_within(&Chosen::workloads(&wide.subject))
        }
        _ => false,
    }
}

/// Returns `true` if each peer of `narrow` is a peer of `wide`, by their texts alone.
fn peers_imply(narrow: &Rule<'_>, wide: &Rule<'_>) -> bool {
    wide.peers.everybody
        || (!narrow.peers.everybody
            && wide.peers.blocks.covers(&narrow.peers.blocks)
            && (narrow.chosen()).all(|narrow| wide.chosen().any(|wide| narrow.is_within(&wide))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Requirement> {
        let values = |values: &[&str]| values.iter().map(|value| Box::from(*value)).collect();
        let lists = [&["a"][..], &["b"], &["a", "b"]];
        let mut all = vec![
            Requirement::new("k", Operator::Exists),
            Requirement::new("k", Operator::DoesNotExist),
            Requirement::new("l", Operator::Exists),
        ];
        for list in lists {
            all.push(Requirement::new("k", Operator::In(values(list))));
            all.push(Requirement::new("k", Operator::NotIn(values(list))));
        }
        all
    }

    /// Each of `a`, `b`, another value and no value that fulfils the one requirement fulfils the
    /// other.
    #[test]
    fn a_requirement_implies_another_when_every_value_says_so() {
        let values = [Some("a"), Some("b"), Some("c"), None];
        for narrow in all() {
            for wide in all() {
                let truly = narrow.key() == wide.key()
                    && (values.iter()).all(|value| !narrow.holds(*value) || wide.holds(*value));
                assert_eq!(
                    requirement_implies(&narrow, &wide),
                    truly,
                    "{narrow:?} {wide:?}"
                );
            }
        }
    }

    #[test]
    fn ranges_that_touch_hold_what_spans_them() {
        assert!(hold(&[(1, 80), (81, 90)], (1, 90)));
        assert!(!hold(&[(1, 80), (82, 90)], (1, 90)));
        assert!(!hold(&[(2, 80)], (1, 2)));
        assert!(hold(&[(0, u16::MAX)], (0, u16::MAX)));
        assert!(!hold(&[(0, u16::MAX - 1)], (0, u16::MAX)));
    }
}
