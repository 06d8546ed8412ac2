//! Ingress of workloads elsewhere, as far as it is from workloads of this node.
//!
//! A node opens no flow that policy denies at either end, so it has to know the
//! ingress policies of workloads that have no endpoint here. It asks them about its own
//! workloads alone: of such a rule's peers only the node's *own addresses* matter, and
//! a set of these is all that is kept of them. Which of a rule's peers are elsewhere
//! or outside, and the egress rules of workloads elsewhere, are never looked at.
//!
//! The findings about a namespace follow from its policies and their mode, its remote
//! workloads' signatures, the policies of the whole cluster and the own addresses. All but one
//! namespace are mostly the same from table to table, so [`RemoteBook`] keeps it, in
//! numbers that no table changes: rules by their position within a namespace, addresses
//! by their position among the own ones.
//!
//! Invariant: what is kept is what would be found out anew.

mod finder;
mod lots;

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{ClusterNetworkPolicy, Inventory, Mode, NetworkPolicy};
use foldhash::{HashMap, HashMapExt as _};

use ipnet::IpNet;

use super::CompileError;
use super::owned::{OwnAddress, Owned};
use super::policy::{Extent, NamespacePolicies, in_order};
use super::ranges::Ranges;
use super::signatures::{Signatures, number};

use finder::{Finder, OwnSets, Place, RemotePolicy};

pub(super) use lots::{AddressSet, Lots};

/// A policy's place among those that select a workload elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PolicyRef {
    /// Of the whole cluster, by its position in the order of asking.
    Cluster(u32),
    /// Of the namespace, by its position there.
    Own(u32),
}

/// The words of a row in which a rule, or a set of isolating policies, is named by its
/// position among [`RowNames`], from 1.
pub(super) type NamedRow = Box<[u32]>;

/// Everything that rows of one namespace name: rules, and then sets of policies that
/// isolate.
#[derive(Debug, Default)]
pub(super) struct RowNames {
    /// The policies whose rules follow each other, each with how many it has.
    pub(super) policies: Vec<(PolicyRef, u32)>,
    /// The sets, of positions in the namespace, in the order in which classes name them.
    pub(super) isolating: Vec<Box<[u32]>>,
}

/// Workloads of one namespace that the same ingress policies select, and that give the
/// names in these the same numbers.
#[derive(Debug)]
pub(super) struct RemoteClass {
    /// Members: positions among the signatures of the namespace's remote workloads.
    pub(super) members: Vec<u32>,
    /// The policies, in the order of asking.
    policies: Vec<PolicyRef>,
    /// The row of own addresses that no rule speaks of by itself, by its position in the
    /// namespace.
    pub(super) row: u32,
    /// The rows of all others.
    pub(super) rows: Vec<(AddressSet, u32)>,
}

/// The classes of one namespace, and all that they follow from.
#[derive(Debug)]
pub(super) struct RemoteNamespace {
    policies: Vec<Arc<NetworkPolicy>>,
    labels: Labels,
    /// Mode of all policies for its workloads.
    enforcement: Mode,
    /// Facts that stand for each of its remote workloads' signatures.
    facts: Vec<u32>,
    /// For each policy whether it says something of a remote workload's ingress.
    applies: Vec<bool>,
    /// Its classes, those selected by no policy left out.
    pub(super) classes: Vec<RemoteClass>,
    /// Their rows, each once, in the order in which they first come.
    pub(super) rows: Vec<NamedRow>,
    /// For each row whether it names a rule of the namespace, or a set of its policies.
    pub(super) names_own: Vec<bool>,
    pub(super) names: RowNames,
    /// Sets of own addresses that its rules tell from all others, each once.
    sets: Vec<AddressSet>,
    blocks: Vec<IpNet>,
    /// `true` if one of its rules speaks of some peers alone.
    names_peers: bool,
}

/// The ingress rules of the policies of the whole cluster.
#[derive(Debug, Default)]
struct RemoteCluster {
    policies: SharedMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// In the order of asking; `None` where it says nothing of ingress.
    compiled: Vec<Option<RemotePolicy>>,
}

/// Findings of the last table.
#[derive(Debug, Default)]
pub(super) struct RemoteBook {
    /// The own addresses, with the facts of their owners.
    own: Vec<(IpAddr, u32)>,
    /// The labels of the namespaces of own workloads.
    own_namespaces: Vec<(Arc<str>, Labels)>,
    cluster: RemoteCluster,
    namespaces: HashMap<Arc<str>, Arc<RemoteNamespace>>,
}

/// The ingress of workloads elsewhere, as far as it is from own addresses.
#[derive(Debug, Default)]
pub(super) struct Remote {
    /// By number; `None` where no workload is elsewhere.
    pub(super) namespaces: Vec<Option<Arc<RemoteNamespace>>>,
    /// The signatures of each namespace's remote workloads, ascending.
    pub(super) signatures: Vec<Vec<u32>>,
    /// For each policy of the whole cluster, in the order of asking, whether it says
    /// something of a remote workload's ingress.
    cluster_applies: Vec<bool>,
    pub(super) lots: Lots,
}

impl RemoteNamespace {
    /// Extent to which the policy at this position applies to remote workloads.
    pub(super) fn extent(&self, position: usize) -> Extent {
        match self.applies.get(position) {
            Some(true) => Extent::Ingress,
            _ => Extent::Nothing,
        }
    }
}

impl Remote {
    /// Finds out what the book does not have, and leaves there what was found out.
    pub(super) fn new<'a>(
        inventory: &'a Inventory,
        signatures: &mut Signatures<'a>,
        owned: &Owned,
        policies: &NamespacePolicies<'a>,
        book: &mut RemoteBook,
    ) -> Result<Self, CompileError> {
        let own = owned.own_addresses();
        let names: Vec<(&Arc<str>, &Labels)> = (inventory.namespaces().iter())
            .map(|(name, namespace)| (name, &namespace.labels))
            .collect();
        let mut by_namespace: Vec<Vec<u32>> = vec![Vec::new(); names.len()];
        for signature in owned.remote_signatures() {
            let namespace = signatures.all()[signature as usize].namespace;
            by_namespace[namespace as usize].push(signature);
        }
        if own.is_empty() || by_namespace.iter().all(Vec::is_empty) {
            *book = RemoteBook::default();
            return Ok(Self::default());
        }
        let mut finder = Finder {
            own: OwnSets::new(own, signatures),
            signatures,
        };
        book.turn_to(&finder, own, &names);
        if !(book.cluster.policies).is_same(inventory.cluster_policies().shared()) {
            let policies = in_order(inventory).map(|policy| finder.of_cluster(policy));
            book.cluster = RemoteCluster {
                compiled: policies.collect(),
                policies: inventory.cluster_policies().shared().clone(),
            };
            book.namespaces.clear();
        }
        let cluster: Vec<&'a ClusterNetworkPolicy> = in_order(inventory).collect();
        let mut before = std::mem::take(&mut book.namespaces);
        let mut remote = Self::default();
        let mut selected = vec![0; cluster.len()];
        for (index, (name, labels)) in names.iter().enumerate() {
            let members = &by_namespace[index];
            if members.is_empty() {
                remote.namespaces.push(None);
                continue;
            }
            let here = policies.of(number(index));
            let enforcement = inventory.enforcement_in(name);
            let facts: Vec<u32> = (members.iter())
                .map(|member| finder.signatures.first_facts(*member))
                .collect();
            let known = before.remove(*name).filter(|known| {
                let same = known.policies.iter().zip(here);
                known.facts == facts
                    && known.policies.len() == here.len()
                    && same.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
                    && known.labels == **labels
                    && known.enforcement == enforcement
            });
            let found = match known {
                Some(known) => known,
                None => {
                    let place = Place {
                        namespace: number(index),
                        labels,
                        enforcement,
                        facts,
                        members,
                        policies: here,
                    };
                    let cluster = cluster.iter().copied().zip(&book.cluster.compiled);
                    Arc::new(finder.of_namespace(place, cluster)?)
                }
            };
            for policy in found.classes.iter().flat_map(|class| &class.policies) {
                if let PolicyRef::Cluster(policy) = policy {
                    selected[*policy as usize] += 1;
                }
            }
            book.namespaces.insert(Arc::clone(name), found.clone());
            remote.namespaces.push(Some(found));
        }
        remote.cluster_applies = selected.iter().map(|classes| *classes > 0).collect();
        let mut sets: HashMap<&AddressSet, usize> = HashMap::new();
        let mut blocks = Vec::new();
        let mut names_peers = false;
        let mut classes = 0;
        for found in remote.namespaces.iter().flatten() {
            classes += found.classes.len();
            names_peers |= found.names_peers;
            blocks.extend(&found.blocks);
            for set in &found.sets {
                *sets.entry(set).or_default() += found.classes.len();
            }
        }
        for (policy, selected) in book.cluster.compiled.iter().zip(selected) {
            if let Some(policy) = policy.as_ref().filter(|_| selected > 0) {
                names_peers |= policy.names_peers();
                blocks.extend(&policy.blocks);
                for set in policy.sets() {
                    *sets.entry(set).or_default() += selected;
                }
            }
        }
        if names_peers {
            remote.lots = Lots::new(own, &sets, classes, Ranges::new(blocks));
        }
        remote.signatures = by_namespace;
        Ok(remote)
    }

    /// Returns everything that is known of the namespace with this number.
    pub(super) fn namespace(&self, number: u32) -> Option<&Arc<RemoteNamespace>> {
        self.namespaces.get(number as usize)?.as_ref()
    }

    /// Returns `true` if the policy of the whole cluster at this position of the order of
    /// asking says something of a remote workload's ingress.
    pub(super) fn cluster_applies(&self, position: usize) -> bool {
        (self.cluster_applies.get(position)).is_some_and(|applies| *applies)
    }
}

impl RemoteBook {
    /// Forgets everything that was about other own addresses.
    fn turn_to(
        &mut self,
        finder: &Finder<'_, '_>,
        own: &[OwnAddress],
        names: &[(&Arc<str>, &Labels)],
    ) {
        let own: Vec<(IpAddr, u32)> = (own.iter())
            .map(|own| (own.address, finder.signatures.first_facts(own.signature)))
            .collect();
        let own_namespaces: Vec<(Arc<str>, Labels)> = (finder.own.by_namespace.keys())
            .map(|number| names[*number as usize])
            .map(|(name, labels)| (name.clone(), labels.clone()))
            .collect();
        let mut own_namespaces = own_namespaces;
        own_namespaces.sort();
        if self.own != own || self.own_namespaces != own_namespaces {
            *self = Self {
                own,
                own_namespaces,
                ..Self::default()
            };
        }
    }
}
