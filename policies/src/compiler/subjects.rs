//! Which policies apply on this node, and which workloads they treat alike.
//!
//! A policy applies when it selects a workload of this node. Two such workloads
//! that are selected by exactly the same policies, and give the port names in
//! these policies' ingress rules the same numbers, are one *subject class*. What a
//! policy says of the ingress of workloads elsewhere applies, too: its rules are
//! numbered here among the others, and are `remote`'s otherwise.
//!
//! Invariants: policies, and so the rules within a class, come in the order in which
//! they are asked: the Admin tier by priority and name, policies of namespaces by
//! name, the Baseline tier like the first; class 0 is selected by none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use cofferdam_verdict::table::MAX_CLASS;
use cofferdam_verdict::verdict::Direction;

use crate::inventory::{Inventory, NetworkPolicy, ObjectName, Tier, Workload};

use super::CompileError;
use super::partition::Partition;
use super::peers::{PeerLists, restrict};
use super::policy::{CompiledPolicy, PolicyCompiler, Rank, in_order};
use super::remote::{PolicyRef, Remote};
use super::rules::RuleNumbers;
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
}

/// The policies that apply, and the classes.
#[derive(Debug)]
pub(super) struct Subjects {
    pub(super) policies: Vec<CompiledPolicy>,
    /// Class number − 1 → class.
    pub(super) classes: Vec<Class>,
    /// The port names in egress rules.
    pub(super) egress_names: BTreeSet<u32>,
    pub(super) numbers: IngressNumbers,
    class_of: HashMap<u32, u32>,
}

/// The numbers of the first rules of what applies to workloads elsewhere.
#[derive(Debug, Default)]
pub(super) struct IngressNumbers {
    /// By namespace and position there: of the policy as it isolates; the rules follow.
    namespaces: Vec<Vec<u32>>,
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
        self.namespaces[namespace][position as usize]
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
        lists: &mut PeerLists<'a>,
        numbers: &mut RuleNumbers,
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
            lists,
            numbers,
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
        let (classes, class_of) = classes(&policies, signatures, local)?;
        Ok(Self {
            policies,
            classes,
            egress_names,
            numbers: ingress,
            class_of,
        })
    }

    /// What is needed to find classes again.
    pub(super) fn into_known(self) -> KnownClasses {
        let policies = (self.policies.into_iter())
            .map(|policy| {
                let names = policy.port_names(Direction::Ingress);
                (policy.rank, names)
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

/// Which class is which: enough to find a workload's again.
#[derive(Debug, Clone)]
pub(super) struct KnownClasses {
    /// The policies that applied, in order, with the port names in their ingress
    /// rules.
    policies: Vec<(Rank, BTreeSet<u32>)>,
    classes: Vec<Class>,
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
            .map(Rank::of_namespace);
        let namespace = inventory.namespaces().get(&workload.name.namespace)?;
        let of_cluster = (inventory.cluster_policies().values())
            .filter(|policy| {
                policy.subject.namespaces.matches(namespace)
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
        };
        Some(number(self.classes.binary_search(&class).ok()?) + 1)
    }
}

/// The policies of one namespace, in order.
fn policies_of<'i>(
    inventory: &'i Inventory,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'i NetworkPolicy> {
    let first = ObjectName {
        namespace: namespace.clone(),
        // Before every name.
        name: Arc::from(""),
    };
    inventory
        .policies()
        .starting_at(&first)
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
    lists: &'f mut PeerLists<'a>,
    numbers: &'f mut RuleNumbers,
    policies: Vec<CompiledPolicy>,
    ingress: IngressNumbers,
}

impl<'a> Finder<'_, 'a> {
    /// Those of namespaces, in the order of their names.
    fn of_namespaces(&mut self) -> Result<(), CompileError> {
        // Most namespaces of a cluster have no workload on one node.
        let by_namespace = std::mem::take(&mut self.by_namespace);
        for (namespace, name) in (0u32..).zip(self.inventory.namespaces().keys()) {
            let local = by_namespace.get(&namespace).map_or(&[][..], Vec::as_slice);
            let remote = self.remote.namespace(namespace);
            let mut ingress = Vec::new();
            if !local.is_empty() || remote.is_some() {
                for (position, policy) in policies_of(self.inventory, name).enumerate() {
                    ingress.push(self.numbers.next());
                    let subjects = match local {
                        [] => Vec::new(),
                        _ => self.signatures.select_among(local, &policy.subject),
                    };
                    if !subjects.is_empty() {
                        let policy = self.compiler().of_namespace(policy, namespace, subjects)?;
                        self.policies.push(policy);
                    } else if remote.is_some_and(|remote| remote.applies(position)) {
                        self.compiler().number_ingress(policy)?;
                    }
                }
            }
            self.ingress.namespaces.push(ingress);
        }
        self.by_namespace = by_namespace;
        Ok(())
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
            self.ingress.cluster.push(self.numbers.next());
            if !subjects.is_empty() {
                let policy = self.compiler().of_cluster(policy, subjects)?;
                self.policies.push(policy);
            } else if self.remote.cluster_applies(position) {
                self.compiler().number_cluster_ingress(policy)?;
            }
        }
        Ok(())
    }

    fn compiler(&mut self) -> PolicyCompiler<'_, 'a> {
        PolicyCompiler {
            signatures: self.signatures,
            lists: self.lists,
            numbers: self.numbers,
        }
    }
}

/// The classes in order, and the class number of each local signature.
fn classes(
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
    // By class, so that numbers follow the order of policies.
    let mut members: BTreeMap<Class, Vec<u32>> = BTreeMap::new();
    for (signature, block) in (0u32..).zip(&block_of) {
        let block = *block as usize;
        if local[signature as usize] && !selecting[block].is_empty() {
            let class = Class {
                policies: selecting[block].clone(),
                ports: restrict(&signatures.all()[signature as usize].ports, &names[block]),
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
