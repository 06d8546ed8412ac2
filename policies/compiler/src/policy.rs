//! One policy that applies, of either kind, ready to be put into rows.
//!
//! Both kinds become the same thing: rules of two directions, each with who it
//! speaks of, what it covers and what it does. What sets them apart is left in three
//! places: the [`Rank`], in whose order policies are asked; whether a direction
//! isolates; and whether a rule may pass.
//!
//! Invariant: rules of one direction are in the order in which they decide, and
//! numbered in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterRule, Inventory, Mode, Namespace, NetworkPolicy, ObjectName,
    PortRange, Ports, Rule, RuleAction, Tier,
};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::row_key;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use super::peers::{PeerKey, PeerLists};
use super::rows::{Keys, Outcome};
use super::rules::{PolicyKind, RuleEntry, RuleKey};
use super::signatures::Signatures;

/// Rank of a policy among all policies; their order is that of asking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) tier: Tier,
    /// 0 for policies of namespaces, which have none.
    priority: u16,
    /// One of the whole cluster lies in the namespace "".
    name: ObjectName,
}

impl Rank {
    /// The rank of a policy of a namespace.
    pub(super) fn of_namespace(policy: &NetworkPolicy) -> Self {
        Self {
            tier: Tier::Namespace,
            priority: 0,
            name: policy.name.clone(),
        }
    }

    /// The rank of a policy of the whole cluster.
    pub(super) fn of_cluster(policy: &ClusterNetworkPolicy) -> Self {
        Self {
            tier: policy.tier,
            priority: policy.priority,
            name: ObjectName {
                namespace: Arc::from(""),
                name: policy.name.clone(),
            },
        }
    }
}

/// A rule, ready to be put into rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CompiledRule {
    /// Effect of the rule.
    pub(super) outcome: Outcome,
    /// The tier of its policy.
    pub(super) tier: Tier,
    /// Its peer list; `None` for everybody.
    pub(super) peers: Option<u32>,
    /// Keys that it covers by number.
    pub(super) keys: Vec<Keys>,
    /// Ports that it covers by name: the name's number, and the protocol.
    pub(super) names: Vec<(u32, u8)>,
    /// `true` if its policy is enforced.
    pub(super) enforced: bool,
}

/// Effect of a policy in one direction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PolicySide {
    /// The number of the policy as it isolates, if it does.
    pub(super) isolation: Option<u32>,
    /// Its rules, in order.
    pub(super) rules: Vec<CompiledRule>,
}

/// A policy that applies.
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    pub(super) rank: Rank,
    pub(super) enforced: bool,
    /// By direction; `None` where it says nothing.
    pub(super) sides: [Option<PolicySide>; 2],
    /// The signatures of local workloads that it selects.
    pub(super) subjects: Vec<u32>,
}

impl CompiledPolicy {
    /// Returns `true` if both give the same rows to whom they select.
    pub(super) fn decides_like(&self, other: &Self) -> bool {
        self.rank.tier == other.rank.tier
            && self.enforced == other.enforced
            && self.sides == other.sides
    }

    /// Returns the effect in one direction.
    pub(super) fn side(&self, direction: Direction) -> Option<&PolicySide> {
        self.sides[direction as usize].as_ref()
    }

    /// The names of ports in its rules of one direction.
    pub(super) fn port_names(&self, direction: Direction) -> BTreeSet<u32> {
        let rules = self.side(direction).into_iter();
        rules
            .flat_map(|side| &side.rules)
            .flat_map(|rule| &rule.names)
            .map(|(name, _)| *name)
            .collect()
    }
}

/// Extent to which a policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// It selects nobody.
    Nothing,
    /// It selects workloads elsewhere alone: its ingress side.
    Ingress,
    /// It selects workloads of this node.
    Whole,
}

/// The entries of what applies of a policy of a namespace, in the order of their numbers.
pub(super) fn namespace_entries(policy: &NetworkPolicy, extent: Extent) -> Vec<RuleEntry> {
    let entry = |direction, index, place: &Place| RuleEntry {
        key: RuleKey {
            kind: PolicyKind::NetworkPolicy,
            policy: policy.name.clone(),
            direction,
            index,
        },
        tier: Tier::Namespace,
        place: place.clone(),
    };
    let mut entries = Vec::new();
    for (direction, rules) in [
        (Direction::Ingress, &policy.ingress),
        (Direction::Egress, &policy.egress),
    ] {
        let Some(rules) = rules.as_ref().filter(|_| extent.has(direction)) else {
            continue;
        };
        entries.push(entry(direction, None, &policy.place));
        let rules = (0u32..).zip(rules);
        entries.extend(rules.map(|(index, rule)| entry(direction, Some(index), &rule.place)));
    }
    entries
}

/// The entries of what applies of a policy of the whole cluster, in the order of their
/// numbers.
pub(super) fn cluster_entries(policy: &ClusterNetworkPolicy, extent: Extent) -> Vec<RuleEntry> {
    let name = Rank::of_cluster(policy).name;
    let mut entries = Vec::new();
    for (direction, rules) in [
        (Direction::Ingress, &policy.ingress),
        (Direction::Egress, &policy.egress),
    ] {
        if extent.has(direction) {
            let rules = (0u32..).zip(rules);
            entries.extend(rules.map(|(index, rule)| RuleEntry {
                key: RuleKey {
                    kind: PolicyKind::ClusterNetworkPolicy,
                    policy: name.clone(),
                    direction,
                    index: Some(index),
                },
                tier: policy.tier,
                place: rule.place.clone(),
            }));
        }
    }
    entries
}

impl Extent {
    fn has(self, direction: Direction) -> bool {
        match self {
            Self::Nothing => false,
            Self::Ingress => direction == Direction::Ingress,
            Self::Whole => true,
        }
    }
}

/// Compiles policies that apply as a whole, and numbers their peer lists.
pub(super) struct PolicyCompiler<'c, 'a> {
    pub(super) signatures: &'c Signatures<'a>,
    pub(super) lists: &'c mut PeerLists<'a>,
    /// The number of the next rule: entries are numbered in the same order.
    pub(super) next: u32,
}

/// Properties that all rules of a policy have in common.
struct Head {
    tier: Tier,
    enforced: bool,
}

impl<'a> PolicyCompiler<'_, 'a> {
    /// A policy of the namespace with this number.
    pub(super) fn of_namespace(
        mut self,
        policy: &'a NetworkPolicy,
        namespace: u32,
        subjects: Vec<u32>,
    ) -> CompiledPolicy {
        let head = Head {
            tier: Tier::Namespace,
            enforced: policy.mode == Mode::Enforce,
        };
        let mut side = |rules: &'a Option<Vec<Rule>>| {
            let rules = rules.as_deref()?;
            let isolation = self.number();
            let mut compiled = Vec::with_capacity(rules.len());
            for rule in rules {
                let number = self.number();
                let peers = rule.peers.as_ref().map(|peers| {
                    let keys = peers.iter().map(|peer| PeerKey::of(peer, namespace));
                    self.lists.add(keys.collect())
                });
                let outcome = decided(Action::Allow, number);
                compiled.push(self.rule(&head, outcome, peers, rule.ports.as_deref()));
            }
            Some(PolicySide {
                isolation: Some(isolation),
                rules: compiled,
            })
        };
        let sides = [side(&policy.ingress), side(&policy.egress)];
        CompiledPolicy {
            rank: Rank::of_namespace(policy),
            enforced: head.enforced,
            sides,
            subjects,
        }
    }

    /// A policy of the whole cluster.
    pub(super) fn of_cluster(
        mut self,
        policy: &'a ClusterNetworkPolicy,
        subjects: Vec<u32>,
    ) -> CompiledPolicy {
        let head = Head {
            tier: policy.tier,
            enforced: policy.mode == Mode::Enforce,
        };
        let mut side = |rules: &'a [ClusterRule]| {
            let mut compiled = Vec::with_capacity(rules.len());
            for rule in rules {
                let number = self.number();
                let peers = rule.peers.as_ref().map(|peers| {
                    let keys = peers.iter().flat_map(PeerKey::of_cluster);
                    self.lists.add(keys.collect())
                });
                let outcome = match rule.action {
                    RuleAction::Accept => decided(Action::Allow, number),
                    RuleAction::Deny => decided(Action::Deny, number),
                    RuleAction::Pass => Outcome::Pass,
                };
                compiled.push(self.rule(&head, outcome, peers, rule.ports.as_deref()));
            }
            (!compiled.is_empty()).then_some(PolicySide {
                isolation: None,
                rules: compiled,
            })
        };
        let sides = [side(&policy.ingress), side(&policy.egress)];
        CompiledPolicy {
            rank: Rank::of_cluster(policy),
            enforced: head.enforced,
            sides,
            subjects,
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn rule(
        &self,
        head: &Head,
        outcome: Outcome,
        peers: Option<u32>,
        ports: Option<&[PortRange]>,
    ) -> CompiledRule {
        let mut compiled = CompiledRule {
            outcome,
            tier: head.tier,
            peers,
            keys: port_keys(ports),
            names: Vec::new(),
            enforced: head.enforced,
        };
        for port in ports.into_iter().flatten() {
            if let Ports::Named(name) = &port.ports {
                let name = self.signatures.port_name(name, port.protocol);
                compiled.names.push((name, port.protocol.number()));
            }
        }
        compiled.names.sort_unstable();
        compiled.names.dedup();
        compiled
    }
}

/// Returns the keys that a rule covers by number; without a list of ports, everything.
pub(super) fn port_keys(ports: Option<&[PortRange]>) -> Vec<Keys> {
    let Some(ports) = ports else {
        return vec![Keys::ALL];
    };
    let mut keys = Vec::new();
    for port in ports {
        let key = |number: u16| row_key(port.protocol.number(), number);
        let (first, last) = match &port.ports {
            Ports::All => (0, u16::MAX),
            Ports::Range(first, last) => (*first, *last),
            Ports::Named(_) => continue,
        };
        keys.push(Keys {
            first: key(first),
            last: key(last),
        });
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The policies of the whole cluster in the order of asking, each tier by itself.
pub(super) fn in_order(inventory: &Inventory) -> impl Iterator<Item = &ClusterNetworkPolicy> {
    let mut policies: Vec<&ClusterNetworkPolicy> = inventory.cluster_policies().values().collect();
    // Stable, so equal priorities stay in the order of names.
    policies.sort_by_key(|policy| (policy.tier, policy.priority));
    policies.into_iter()
}

fn decided(action: Action, number: u32) -> Outcome {
    Outcome::Decided(Verdict {
        action,
        reason: Reason::Rule,
        rule: number,
    })
}

/// Places of each namespace's policies among all, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct PolicyPlaces {
    policies: SharedMap<ObjectName, Arc<NetworkPolicy>>,
    namespaces: SharedMap<Arc<str>, Arc<Namespace>>,
    /// By namespace the first, and then how many there are.
    starts: Vec<usize>,
}

/// The policies of namespaces, in the order of their names.
#[derive(Debug)]
pub(super) struct NamespacePolicies<'a> {
    all: Vec<&'a Arc<NetworkPolicy>>,
    starts: Vec<usize>,
}

impl<'a> NamespacePolicies<'a> {
    /// Finds them; `places` are those of the last table.
    pub(super) fn new(inventory: &'a Inventory, places: &mut PolicyPlaces) -> Self {
        let policies = inventory.policies().shared();
        let namespaces = inventory.namespaces().shared();
        if !places.policies.is_same(policies) || !places.namespaces.is_same(namespaces) {
            let mut starts = vec![0];
            let mut names = policies.keys().peekable();
            for namespace in namespaces.keys() {
                let mut at = starts.last().copied().unwrap_or(0);
                while names.next_if(|name| name.namespace <= *namespace).is_some() {
                    at += 1;
                }
                starts.push(at);
            }
            *places = PolicyPlaces {
                policies: policies.clone(),
                namespaces: namespaces.clone(),
                starts,
            };
        }
        Self {
            all: policies.values().collect(),
            starts: places.starts.clone(),
        }
    }

    /// Those of the namespace with this number.
    pub(super) fn of(&self, namespace: u32) -> &[&'a Arc<NetworkPolicy>] {
        let at = namespace as usize;
        &self.all[self.starts[at]..self.starts[at + 1]]
    }
}
