//! Subjects: the policies that apply on this node, and the workloads that they treat alike.
//!
//! A policy applies when it selects a workload of this node. Two such workloads
//! that are selected by exactly the same policies, give the port names in
//! these policies' ingress rules the same numbers, and whose namespaces are either both on
//! audit or both not, are one *subject class*. What a
//! policy says of the ingress of workloads elsewhere applies, too: its rules are
//! numbered here among the others, and are `remote`'s otherwise.
//!
//! Invariants: policies, and so the rules within a class, come in the order in which
//! they are asked: the Admin tier by priority and name, policies of namespaces by
//! name, the Baseline tier like the first; class 0 is selected by none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_inventory::{Inventory, Mode, NetworkPolicy, ObjectName, Tier, Workload};
use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::table::MAX_CLASS;
use cofferdam_verdict::verdict::Direction;

use super::CompileError;
use super::partition::Partition;
use super::peers::{PeerLists, restrict};
use super::policy::{
    CompiledPolicy, Extent, NamespacePolicies, PolicyCompiler, Rank, cluster_entries, in_order,
    namespace_entries,
};
use super::remote::{PolicyRef, Remote, RemoteNamespace};
use super::rules::{RuleEntry, RuleNumbers};
use super::signatures::{PortNumbers, Signatures, number};

/// Both directions, in the order of the table's class words.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A subject class other than 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    /// The policies that select it, by their index, ascending.
    pub(super) policies: Vec<u32>,
    /// The numbers that its workloads give to names in those policies' ingress
    /// rules.
    pub(super) ports: PortNumbers,
    /// Mode of all policies in its workloads' namespaces.
    pub(super) enforcement: Mode,
}

/// The policies that apply, and the classes.
#[derive(Debug)]
pub(super) struct Subjects {
    pub(super) policies: Arc<[CompiledPolicy]>,
    /// Class number − 1 → class.
    pub(super) classes: Arc<[Class]>,
    /// The port names in egress rules.
    pub(super) egress_names: BTreeSet<u32>,
    pub(super) numbers: IngressNumbers,
    class_of: HashMap<u32, u32>,
}

/// The numbers of the first rules of what applies to workloads elsewhere.
#[derive(Debug, Default)]
pub(super) struct IngressNumbers {
    /// By namespace: its first number, and by position there how many numbers come before
    /// those of the policy as it isolates; the rules follow.
    namespaces: Vec<(u32, Arc<[u32]>)>,
    /// By position in the order of asking: of the first rule.
    cluster: Vec<u32>,
}

impl IngressNumbers {
    /// The number of a policy's first rule.
    pub(super) fn first_rule(&self, namespace: usize, policy: PolicyRef) -> u32 {
        match policy {
            PolicyRef::Cluster(position) => self.cluster[position as usize],
            PolicyRef::Own(position) => self.isolation(namespace, position) + 1,
        }
    }

    /// The number of a policy of a namespace as it isolates.
    pub(super) fn isolation(&self, namespace: usize, position: u32) -> u32 {
        let (first, before) = &self.namespaces[namespace];
        first + before[position as usize]
    }
}

/// The rules of a namespace that apply, and all that they follow from.
#[derive(Debug)]
struct KnownRules {
    policies: Vec<Arc<NetworkPolicy>>,
    extents: Vec<Extent>,
    /// Facts that stand for the signatures of this node's workloads.
    local: Vec<u32>,
    /// For each policy which of them it selects, by position; none where it selects none.
    selected: Vec<Vec<u32>>,
    /// Facts that were known of its remote workloads.
    remote: Option<Arc<RemoteNamespace>>,
    entries: Arc<[RuleEntry]>,
    /// By policy how many entries come before its own.
    before: Arc<[u32]>,
}

/// Rules of the last table, by namespace.
#[derive(Debug, Default)]
pub(super) struct RuleBook {
    namespaces: HashMap<Arc<str>, KnownRules>,
}

/// Books that give rules and peer lists their numbers.
pub(super) struct Numbering<'n, 'a> {
    pub(super) lists: &'n mut PeerLists<'a>,
    pub(super) numbers: &'n mut RuleNumbers,
    pub(super) book: &'n mut RuleBook,
}

impl KnownRules {
    fn new(
        policies: Vec<Arc<NetworkPolicy>>,
        remote: Option<&Arc<RemoteNamespace>>,
        local: Vec<u32>,
        selected: Vec<Vec<u32>>,
    ) -> Self {
        let mut entries = Vec::new();
        let mut before = Vec::with_capacity(policies.len());
        let mut extents = Vec::with_capacity(policies.len());
        for (position, (policy, selected)) in policies.iter().zip(&selected).enumerate() {
            let extent = match remote {
                _ if !selected.is_empty() => Extent::Whole,
                Some(remote) => remote.extent(position),
                None => Extent::Nothing,
            };
            before.push(number(entries.len()));
            entries.extend(namespace_entries(policy, extent));
            extents.push(extent);
        }
        Self {
            policies,
            extents,
            local,
            selected,
            remote: remote.cloned(),
            entries: entries.into(),
            before: before.into(),
        }
    }
}

impl Subjects {
    /// Finds them. `local` says of each signature whether a workload of this node
    /// has it.
    pub(super) fn new<'a>(
        inventory: &'a Inventory,
        signatures: &mut Signatures<'a>,
        local: &[bool],
        remote: &Remote,
        policies: &NamespacePolicies<'a>,
        numbering: Numbering<'_, 'a>,
    ) -> Result<Self, CompileError> {
        let mut by_namespace: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (signature, is_local) in (0u32..).zip(local) {
            if *is_local {
                let namespace = signatures.all()[signature as usize].namespace;
                by_namespace.entry(namespace).or_default().push(signature);
            }
        }
        let mut finder = Finder {
            inventory,
            signatures,
            by_namespace,
            remote,
            of_namespaces: policies,
            numbering,
            policies: Vec::new(),
            ingress: IngressNumbers::default(),
        };
        finder.of_cluster(Tier::Admin)?;
        finder.of_namespaces()?;
        finder.of_cluster(Tier::Baseline)?;
        let (policies, ingress) = (finder.policies, finder.ingress);
        let egress_names = (policies.iter())
            .flat_map(|policy| policy.port_names(Direction::Egress))
            .collect();
        let (classes, class_of) = classes(inventory, &policies, signatures, local)?;
        Ok(Self {
            policies: policies.into(),
            classes: classes.into(),
            egress_names,
            numbers: ingress,
            class_of,
        })
    }

    /// Keeps the part that is needed to find classes again.
    pub(super) fn into_known(self) -> KnownClasses {
        let policies = (self.policies.iter())
            .map(|policy| {
                let names = policy.port_names(Direction::Ingress);
                (policy.rank.clone(), names)
            })
            .collect();
        KnownClasses {
            policies,
            classes: self.classes,
        }
    }

    /// The class of the local workloads with a signature.
    pub(super) fn class_of(&self, signature: u32) -> u32 {
        self.class_of.get(&signature).copied().unwrap_or(0)
    }
}

/// Classes by their properties: enough to find a workload's again.
#[derive(Debug, Clone)]
pub(super) struct KnownClasses {
    /// The policies that applied, in order, with the port names in their ingress
    /// rules.
    policies: Vec<(Rank, BTreeSet<u32>)>,
    classes: Arc<[Class]>,
}

impl KnownClasses {
    /// The class of a workload with these named ports, if the table has it.
    pub(super) fn find(
        &self,
        inventory: &Inventory,
        workload: &Workload,
        ports: &[(u32, u16)],
    ) -> Option<u32> {
        let of_namespace = policies_of(inventory, &workload.name.namespace)
            .filter(|policy| policy.subject.matches(&workload.labels))
            .map(|policy| Rank::of_namespace(policy));
        let namespace = inventory.namespaces().get(&workload.name.namespace)?;
        let of_cluster = (inventory.cluster_policies().values())
            .filter(|policy| {
                policy.subject.namespaces.matches(&namespace.labels)
                    && policy.subject.workloads.matches(&workload.labels)
            })
            .map(Rank::of_cluster);
        let mut policies = Vec::new();
        let mut names = BTreeSet::new();
        for rank in of_namespace.chain(of_cluster) {
            let known = (self.policies).binary_search_by(|(known, _)| known.cmp(&rank));
            let index = known.ok()?;
            policies.push(number(index));
            names.extend(&self.policies[index].1);
        }
        policies.sort_unstable();
        if policies.is_empty() {
            return Some(0);
        }
        let class = Class {
            policies,
            ports: restrict(ports, &names),
            enforcement: inventory.enforcement_in(&workload.name.namespace),
        };
        Some(number(self.classes.binary_search(&class).ok()?) + 1)
    }
}

/// The policies of one namespace, in order.
fn policies_of<'i>(
    inventory: &'i Inventory,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'i Arc<NetworkPolicy>> {
    let first = ObjectName {
        namespace: namespace.clone(),
        // Before every name.
        name: Arc::from(""),
    };
    (inventory.policies().shared().starting_at(&first))
        .map(|(_, policy)| policy)
        .take_while(move |policy| policy.name.namespace == *namespace)
}

/// Finds the policies that apply, tier by tier.
struct Finder<'f, 'a> {
    inventory: &'a Inventory,
    signatures: &'f mut Signatures<'a>,
    /// The signatures of workloads of this node.
    by_namespace: BTreeMap<u32, Vec<u32>>,
    remote: &'f Remote,
    of_namespaces: &'f NamespacePolicies<'a>,
    numbering: Numbering<'f, 'a>,
    policies: Vec<CompiledPolicy>,
    ingress: IngressNumbers,
}

impl<'a> Finder<'_, 'a> {
    /// Those of namespaces, in the order of their names.
    fn of_namespaces(&mut self) -> Result<(), CompileError> {
        let by_namespace = std::mem::take(&mut self.by_namespace);
        let mut before = std::mem::take(&mut self.numbering.book.namespaces);
        for (namespace, name) in (0u32..).zip(self.inventory.namespaces().keys()) {
            let local = by_namespace.get(&namespace).map_or(&[][..], Vec::as_slice);
            let remote = self.remote.namespace(namespace);
            let first = self.numbering.numbers.next();
            // Most namespaces of a cluster have no workload on one node.
            if local.is_empty() && remote.is_none() {
                self.ingress.namespaces.push((first, Arc::default()));
                continue;
            }
            let policies = self.of_namespaces.of(namespace);
            let rules = self.rules_of(policies, local, remote, before.remove(name));
            for (position, selected) in rules.selected.iter().enumerate() {
                if !selected.is_empty() {
                    let subjects = selected.iter().map(|one| local[*one as usize]).collect();
                    let compiler = self.compiler(first + rules.before[position]);
                    let policy = compiler.of_namespace(policies[position], namespace, subjects);
                    self.policies.push(policy);
                }
            }
            self.numbering.numbers.add(rules.entries.clone())?;
            self.ingress.namespaces.push((first, rules.before.clone()));
            self.numbering.book.namespaces.insert(name.clone(), rules);
        }
        self.by_namespace = by_namespace;
        Ok(())
    }

    /// The rules of a namespace that apply; they are those of the last table if all that
    /// they follow from is the same.
    fn rules_of(
        &self,
        policies: &[&Arc<NetworkPolicy>],
        local: &[u32],
        remote: Option<&Arc<RemoteNamespace>>,
        known: Option<KnownRules>,
    ) -> KnownRules {
        let local_facts: Vec<u32> = (local.iter())
            .map(|signature| self.signatures.first_facts(*signature))
            .collect();
        let known = known.filter(|known| {
            let mut both = known.policies.iter().zip(policies);
            known.local == local_facts
                && known.policies.len() == policies.len()
                && both.all(|(one, other)| Arc::ptr_eq(one, other))
        });
        let is_same = |one: &Option<Arc<RemoteNamespace>>| match (one, remote) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        match known {
            Some(known) if is_same(&known.remote) => known,
            // Mostly all its policies apply to the same extent nevertheless.
            Some(known) => {
                let mut extents = (0..)
                    .zip(&known.extents)
                    .zip(&known.selected)
                    .filter(|(_, selected)| selected.is_empty());
                let of = |position| match remote {
                    Some(remote) => remote.extent(position),
                    None => Extent::Nothing,
                };
                if extents.all(|((position, extent), _)| of(position) == *extent) {
                    return KnownRules {
                        remote: remote.cloned(),
                        ..known
                    };
                }
                KnownRules::new(known.policies, remote, known.local, known.selected)
            }
            None => {
                let selected = policies.iter().map(|policy| match local {
                    [] => Vec::new(),
                    _ => self.signatures.select_among(local, &policy.subject),
                });
                let positions = |selected: Vec<u32>| {
                    let found = selected.iter().map(|one| local.binary_search(one));
                    found.flatten().map(number).collect()
                };
                let selected = selected.map(positions).collect();
                let policies = policies.iter().map(|one| Arc::clone(one)).collect();
                KnownRules::new(policies, remote, local_facts, selected)
            }
        }
    }

    /// Those of the whole cluster in one tier, in the order in which they are asked.
    fn of_cluster(&mut self, tier: Tier) -> Result<(), CompileError> {
        for (position, policy) in in_order(self.inventory).enumerate() {
            if policy.tier != tier {
                continue;
            }
            let subject = &policy.subject;
            let chosen = self.signatures.chosen_namespaces(&subject.namespaces);
            let mut local: Vec<u32> = (self.by_namespace.iter())
                .filter(|(namespace, _)| chosen[**namespace as usize])
                .flat_map(|(_, signatures)| signatures.iter().copied())
                .collect();
            local.sort_unstable();
            let subjects = self.signatures.select_among(&local, &subject.workloads);
            let first = self.numbering.numbers.next();
            self.ingress.cluster.push(first);
            let extent = match subjects[..] {
                [] if self.remote.cluster_applies(position) => Extent::Ingress,
                [] => Extent::Nothing,
                _ => Extent::Whole,
            };
            self.numbering
                .numbers
                .add(cluster_entries(policy, extent).into())?;
            if extent == Extent::Whole {
                let policy = self.compiler(first).of_cluster(policy, subjects);
                self.policies.push(policy);
            }
        }
        Ok(())
    }

    fn compiler(&mut self, next: u32) -> PolicyCompiler<'_, 'a> {
        PolicyCompiler {
            signatures: self.signatures,
            lists: self.numbering.lists,
            next,
        }
    }
}

/// The classes in order, and the class number of each local signature.
fn classes(
    inventory: &Inventory,
    policies: &[CompiledPolicy],
    signatures: &Signatures<'_>,
    local: &[bool],
) -> Result<(Vec<Class>, HashMap<u32, u32>), CompileError> {
    let mut partition = Partition::new(number(local.len()));
    for policy in policies {
        partition.refine(policy.subjects.iter().copied());
    }
    let (block_of, count) = partition.numbered();
    let mut selecting: Vec<Vec<u32>> = vec![Vec::new(); count as usize];
    for (index, policy) in (0u32..).zip(policies) {
        for signature in &policy.subjects {
            let list = &mut selecting[block_of[*signature as usize] as usize];
            if list.last() != Some(&index) {
                list.push(index);
            }
        }
    }
    let ingress_names: Vec<BTreeSet<u32>> = (policies.iter())
        .map(|policy| policy.port_names(Direction::Ingress))
        .collect();
    let names: Vec<BTreeSet<u32>> = selecting
        .iter()
        .map(|list| {
            let names = list.iter().map(|p| &ingress_names[*p as usize]);
            names.flatten().copied().collect()
        })
        .collect();
    let namespaces = inventory.namespaces().keys();
    let enforcement: Vec<Mode> = namespaces
        .map(|name| inventory.enforcement_in(name))
        .collect();
    // By class, so that numbers follow the order of policies.
    let mut members: BTreeMap<Class, Vec<u32>> = BTreeMap::new();
    for (signature, block) in (0u32..).zip(&block_of) {
        let block = *block as usize;
        if local[signature as usize] && !selecting[block].is_empty() {
            let of = &signatures.all()[signature as usize];
            let class = Class {
                policies: selecting[block].clone(),
                ports: restrict(&of.ports, &names[block]),
                enforcement: enforcement[of.namespace as usize],
            };
            members.entry(class).or_default().push(signature);
        }
    }
    let mut classes = Vec::with_capacity(members.len());
    let mut class_of = HashMap::new();
    for (class, signatures) in members {
        classes.push(class);
        let number = number(classes.len());
        class_of.extend(signatures.into_iter().map(|s| (s, number)));
    }
    if classes.len() as u64 > u64::from(MAX_CLASS) {
        return Err(CompileError::Capacity {
            table: "classes",
            used: classes.len() as u64,
            max: MAX_CLASS.into(),
        });
    }
    Ok((classes, class_of))
}
