//! Ingress of workloads elsewhere, as far as it is from workloads of this node.
//!
//! A node opens no flow that policy denies at either end, so it has to know the
//! ingress policies of workloads that have no endpoint here. It asks them about its own
//! workloads alone: of such a rule's peers only the node's *own addresses* matter, and
//! a set of these is all that is kept of them. Which of a rule's peers are elsewhere
//! or outside, and the egress rules of workloads elsewhere, are never looked at.
//!
//! What is found out about a namespace follows from its policies, its remote workloads'
//! signatures, the policies of the whole cluster and the own addresses. All but one
//! namespace are mostly the same from table to table, so [`RemoteBook`] keeps it, in
//! numbers that no table changes: rules by their position within a class, addresses
//! by their position among the own ones.
//!
//! Invariant: what is kept is what would be found out anew.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet};

use ipnet::IpNet;

use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{BLOCK_WORDS, row_key};
use cofferdam_verdict::verdict::{Action, Verdict};

use crate::inventory::{
    ClusterNetworkPolicy, ClusterPeer, Inventory, Mode, NetworkPolicy, Peer, PortRange, Ports,
    Protocol, RuleAction, Tier,
};
use crate::selectors::{LabelSelector, Labels};
use crate::shared_map::SharedMap;

use super::CompileError;
use super::facts::NODES;
use super::owned::{OwnAddress, Owned};
use super::partition::Partition;
use super::peers::restrict;
use super::policy::{in_order, port_keys};
use super::ranges::Ranges;
use super::rows::{self, Defaults, Keys, Outcome, RowRule};
use super::signatures::{PortNumbers, Signatures, number};

/// Some of the own addresses, by position: a bit for each; no word when there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AddressSet(Box<[u64]>);

impl AddressSet {
    fn from_words(words: Vec<u64>) -> Self {
        if words.iter().all(|word| *word == 0) {
            return Self::default();
        }
        Self(words.into())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The positions, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.0).flat_map(|(at, word)| {
            // Each time without the lowest bit.
            let rests = iter::successors(Some(*word), |rest| Some(rest & rest.wrapping_sub(1)));
            let rests = rests.take_while(|rest| *rest != 0);
            rests.map(move |rest| at * 64 + rest.trailing_zeros())
        })
    }

    /// What of this set lies in another, and what does not.
    fn split(&self, by: &Self) -> (Self, Self) {
        if by.is_empty() || self.is_empty() {
            return (Self::default(), self.clone());
        }
        let both = self.0.iter().zip(&by.0);
        (
            Self::from_words(both.clone().map(|(a, b)| a & b).collect()),
            Self::from_words(both.map(|(a, b)| a & !b).collect()),
        )
    }
}

/// A policy's place among those that select a workload elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PolicyRef {
    /// Of the whole cluster, by its position in the order of asking.
    Cluster(u32),
    /// Of the namespace, by its position there.
    Own(u32),
}

/// A rule of an ingress policy.
#[derive(Debug)]
struct RemoteRule {
    outcome: Outcome,
    keys: Vec<Keys>,
    names: Vec<(Box<str>, Protocol)>,
    /// The own addresses that it speaks of; `None` for everybody.
    peers: Option<AddressSet>,
}

/// The ingress side of a policy.
#[derive(Debug)]
struct RemotePolicy {
    tier: Tier,
    isolates: bool,
    enforced: bool,
    rules: Vec<RemoteRule>,
    /// The blocks that its rules name.
    blocks: Vec<IpNet>,
}

/// The words of a row in which a rule is named by its position in the class, from 1.
pub(super) type ClassRow = Box<[u32]>;

/// Workloads of one namespace that the same ingress policies select, and that give the
/// names in these the same numbers.
#[derive(Debug)]
pub(super) struct RemoteClass {
    /// Whose: positions among the signatures of the namespace's remote workloads.
    pub(super) members: Vec<u32>,
    /// The policies, in the order of asking, each with how many rules it has.
    pub(super) policies: Vec<(PolicyRef, u32)>,
    /// Those in force that isolate, as positions in the namespace.
    pub(super) isolating: Vec<u32>,
    /// Those that isolate, in force or audited.
    pub(super) isolating_audited: Vec<u32>,
    /// The row of own addresses that no rule speaks of by itself.
    pub(super) row: ClassRow,
    /// The rows of all others.
    pub(super) rows: Vec<(AddressSet, ClassRow)>,
}

/// The classes of one namespace, and all that they follow from.
#[derive(Debug)]
pub(super) struct RemoteNamespace {
    policies: Vec<Arc<NetworkPolicy>>,
    labels: Labels,
    /// The first facts of each of its remote workloads' signatures.
    facts: Vec<u32>,
    /// For each policy whether it says something of a remote workload's ingress.
    applies: Vec<bool>,
    /// Its classes, those selected by no policy left out.
    pub(super) classes: Vec<RemoteClass>,
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

/// Own addresses by what rules of workloads elsewhere tell apart: those of one *lot* lie
/// in exactly the same of these rules.
#[derive(Debug, Clone)]
pub(super) struct Lots {
    /// For each own address its lot, in an order that most classes treat alike.
    of_own: Vec<u32>,
    /// Every block of those rules cuts these.
    ranges: Ranges,
    /// The lots of signatures in ranges; empty when no rule speaks of some workloads
    /// alone.
    known: HashMap<(u32, u32), u32>,
    /// For each lot whether so many classes treat it otherwise than the lot before that
    /// its atoms begin a block.
    begins: Vec<bool>,
}

impl Default for Lots {
    fn default() -> Self {
        Self {
            begins: Vec::new(),
            of_own: Vec::new(),
            ranges: Ranges::new([]),
            known: HashMap::new(),
        }
    }
}

/// So many of the sets that most classes tell apart count for the order of lots.
const ORDERING_SETS: usize = 64;
/// A lot begins a block where that costs all classes no more than this share of what it
/// saves those that treat the lot otherwise than the one before: a block of their own
/// each, for a word of every class.
const BLOCK_SHARE: usize = 4;

impl Lots {
    /// Finds them. Each set comes with the number of classes whose rules tell it apart,
    /// of so many in all.
    ///
    /// Lots that most classes treat alike come side by side, and at the greatest
    /// differences a block begins, so that a class has few blocks of its own: of 5 000
    /// classes and 250 own workloads all blocks take 5.0 MiB, and 11.2 MiB in the order
    /// of addresses.
    fn new(
        own: &[OwnAddress],
        sets: &HashMap<&AddressSet, usize>,
        classes: usize,
        ranges: Ranges,
    ) -> Self {
        let mut partition = Partition::new(number(own.len()));
        // In any order: a partition does not depend on it.
        for set in sets.keys() {
            partition.refine(set.iter());
        }
        let (first_named, count) = partition.numbered();
        let mut by_use: Vec<(Reverse<usize>, &AddressSet)> = (sets.iter())
            .map(|(set, classes)| (Reverse(*classes), *set))
            .collect();
        by_use.sort_unstable();
        by_use.truncate(ORDERING_SETS);
        // The sets that an address lies in, the most used the highest bit.
        let mut lies_in = vec![0u64; own.len()];
        for (bit, (_, set)) in (0..ORDERING_SETS).rev().zip(&by_use) {
            for position in set.iter() {
                lies_in[position as usize] |= 1 << bit;
            }
        }
        let mut lots: Vec<(u64, u32)> = (0..count).map(|lot| (0, lot)).collect();
        for (lot, lies_in) in first_named.iter().zip(lies_in) {
            lots[*lot as usize].0 = lies_in;
        }
        lots.sort_unstable();
        let treated_otherwise = |difference: u64| -> usize {
            let bits = (0..ORDERING_SETS).rev().zip(&by_use);
            bits.filter(|(bit, _)| difference >> bit & 1 == 1)
                .map(|(_, (classes, _))| classes.0)
                .sum()
        };
        let begins = lots.windows(2).map(|pair| {
            let otherwise = treated_otherwise(pair[0].0 ^ pair[1].0);
            otherwise * BLOCK_WORDS as usize > classes * BLOCK_SHARE
        });
        let begins = iter::once(false).chain(begins).collect();
        let mut numbers = vec![0; lots.len()];
        for (new, (_, lot)) in (0u32..).zip(lots) {
            numbers[lot as usize] = new;
        }
        let of_own: Vec<u32> = (first_named.iter())
            .map(|lot| numbers[*lot as usize])
            .collect();
        let known = (own.iter().zip(&of_own))
            .map(|(own, lot)| ((own.signature, ranges.of(own.address)), *lot))
            .collect();
        Self {
            of_own,
            ranges,
            known,
            begins,
        }
    }

    /// Returns `true` if the atoms of a lot begin a block.
    pub(super) fn begins_block(&self, lot: u32) -> bool {
        self.begins.get(lot as usize).is_some_and(|begins| *begins)
    }

    /// The lot of an own address, by position.
    pub(super) fn of_own(&self, position: usize) -> u32 {
        self.of_own.get(position).copied().unwrap_or(0)
    }

    /// The lot that an address of a workload with this signature would be in, if there
    /// is another like it.
    pub(super) fn find(&self, signature: u32, address: IpAddr) -> Option<u32> {
        if self.known.is_empty() {
            return Some(0);
        }
        let range = self.ranges.of(address);
        self.known.get(&(signature, range)).copied()
    }
}

impl RemoteNamespace {
    /// Returns `true` if the policy at this position says something of a remote
    /// workload's ingress.
    pub(super) fn applies(&self, position: usize) -> bool {
        self.applies.get(position).is_some_and(|applies| *applies)
    }
}

impl Remote {
    /// Finds out what the book does not have, and leaves there what was found out.
    pub(super) fn new<'a>(
        inventory: &'a Inventory,
        signatures: &mut Signatures<'a>,
        owned: &Owned,
        book: &mut RemoteBook,
    ) -> Result<Self, CompileError> {
        let own = owned.own_addresses();
        let names: Vec<(&Arc<str>, &Labels)> = inventory.namespaces().iter().collect();
        let mut by_namespace: Vec<Vec<u32>> = vec![Vec::new(); names.len()];
        for (signature, is_remote) in (0u32..).zip(owned.remote_signatures()) {
            if *is_remote {
                let namespace = signatures.all()[signature as usize].namespace;
                by_namespace[namespace as usize].push(signature);
            }
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
        let mut policies = inventory.policies().shared().iter().peekable();
        let mut remote = Self::default();
        let mut selected = vec![0; cluster.len()];
        for (index, (name, labels)) in names.iter().enumerate() {
            let mut here: Vec<&'a Arc<NetworkPolicy>> = Vec::new();
            while let Some((_, policy)) =
                policies.next_if(|(of, _)| of.namespace.as_ref() <= &***name)
            {
                here.push(policy);
            }
            let members = &by_namespace[index];
            if members.is_empty() {
                remote.namespaces.push(None);
                continue;
            }
            let facts: Vec<u32> = (members.iter())
                .map(|member| finder.signatures.first_facts(*member))
                .collect();
            let known = before.remove(*name).filter(|known| {
                let same = known.policies.iter().zip(&here);
                known.facts == facts
                    && known.policies.len() == here.len()
                    && same.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
                    && known.labels == **labels
            });
            let found = match known {
                Some(known) => known,
                None => {
                    let place = Place {
                        namespace: number(index),
                        labels,
                        facts,
                        members,
                        policies: &here,
                    };
                    let cluster = cluster.iter().copied().zip(&book.cluster.compiled);
                    Arc::new(finder.of_namespace(place, cluster)?)
                }
            };
            for (policy, _) in found.classes.iter().flat_map(|class| &class.policies) {
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

    /// What there is to know of the namespace with this number.
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

impl RemotePolicy {
    /// The sets of own addresses that its rules speak of and that are not empty.
    fn sets(&self) -> impl Iterator<Item = &AddressSet> {
        let peers = self.rules.iter().filter_map(|rule| rule.peers.as_ref());
        peers.filter(|set| !set.is_empty())
    }

    fn names_peers(&self) -> bool {
        self.rules.iter().any(|rule| rule.peers.is_some())
    }
}

/// The own addresses, by what peers may be chosen by.
struct OwnSets<'o> {
    own: &'o [OwnAddress],
    /// The signatures of own workloads, by namespace.
    by_namespace: HashMap<u32, Vec<u32>>,
    /// The positions of each signature's addresses.
    positions: HashMap<u32, Vec<u32>>,
}

impl<'o> OwnSets<'o> {
    fn new(own: &'o [OwnAddress], signatures: &Signatures<'_>) -> Self {
        let mut sets = Self {
            own,
            by_namespace: HashMap::new(),
            positions: HashMap::new(),
        };
        for (position, one) in (0u32..).zip(own) {
            let positions = sets.positions.entry(one.signature).or_default();
            if positions.is_empty() {
                let namespace = signatures.all()[one.signature as usize].namespace;
                debug_assert_ne!(namespace, NODES);
                let there = sets.by_namespace.entry(namespace).or_default();
                there.push(one.signature);
            }
            positions.push(position);
        }
        sets
    }

    /// An empty set, as words.
    fn words(&self) -> Vec<u64> {
        vec![0; self.own.len().div_ceil(64)]
    }

    fn add(words: &mut [u64], position: u32) {
        words[position as usize / 64] |= 1 << (position % 64);
    }
}

/// A namespace that is looked at.
struct Place<'p, 'a> {
    namespace: u32,
    labels: &'a Labels,
    facts: Vec<u32>,
    members: &'p [u32],
    policies: &'p [&'a Arc<NetworkPolicy>],
}

/// Finds out what policies say of ingress from own addresses.
struct Finder<'f, 'a> {
    signatures: &'f mut Signatures<'a>,
    own: OwnSets<'f>,
}

impl<'a> Finder<'_, 'a> {
    /// The own workloads that a selector chooses, in one namespace or in those chosen.
    fn add_selected(
        &mut self,
        words: &mut [u64],
        own_namespace: Option<u32>,
        namespaces: Option<&'a LabelSelector>,
        workloads: &LabelSelector,
    ) {
        let chosen = namespaces.map(|selector| self.signatures.chosen_namespaces(selector));
        let mut add = |there: &[u32]| {
            for signature in self.signatures.select_among(there, workloads) {
                for position in &self.own.positions[&signature] {
                    OwnSets::add(words, *position);
                }
            }
        };
        match (chosen, own_namespace) {
            (Some(chosen), _) => {
                for (namespace, there) in &self.own.by_namespace {
                    if chosen[*namespace as usize] {
                        add(there);
                    }
                }
            }
            (None, Some(namespace)) => {
                if let Some(there) = self.own.by_namespace.get(&namespace) {
                    add(there);
                }
            }
            (None, None) => {}
        }
    }

    fn add_block(&self, words: &mut [u64], cidr: &IpNet, except: &[IpNet]) {
        for (position, own) in (0u32..).zip(self.own.own) {
            let is_except = || except.iter().any(|cut| cut.contains(&own.address));
            if cidr.contains(&own.address) && !is_except() {
                OwnSets::add(words, position);
            }
        }
    }

    fn of_policy(&mut self, policy: &'a NetworkPolicy, namespace: u32) -> Option<RemotePolicy> {
        let rules = policy.ingress.as_ref()?;
        let mut blocks = Vec::new();
        let rules = rules.iter().map(|rule| {
            let peers = rule.peers.as_ref().map(|peers| {
                let mut words = self.own.words();
                for peer in peers {
                    match peer {
                        Peer::Workloads {
                            namespaces,
                            workloads,
                        } => self.add_selected(
                            &mut words,
                            Some(namespace),
                            namespaces.as_ref(),
                            workloads,
                        ),
                        Peer::Block { cidr, except } => {
                            self.add_block(&mut words, cidr, except);
                            blocks.push(*cidr);
                            blocks.extend(except);
                        }
                    }
                }
                AddressSet::from_words(words)
            });
            RemoteRule::new(decided(Action::Allow), peers, rule.ports.as_deref())
        });
        Some(RemotePolicy {
            tier: Tier::Namespace,
            isolates: true,
            enforced: policy.mode == Mode::Enforce,
            rules: rules.collect(),
            blocks,
        })
    }

    fn of_cluster(&mut self, policy: &'a ClusterNetworkPolicy) -> Option<RemotePolicy> {
        let mut blocks = Vec::new();
        let rules = policy.ingress.iter().map(|rule| {
            let peers = rule.peers.as_ref().map(|peers| {
                let mut words = self.own.words();
                for peer in peers {
                    match peer {
                        ClusterPeer::Workloads(selector) => self.add_selected(
                            &mut words,
                            None,
                            Some(&selector.namespaces),
                            &selector.workloads,
                        ),
                        ClusterPeer::Networks(networks) => {
                            for cidr in networks {
                                self.add_block(&mut words, cidr, &[]);
                            }
                            blocks.extend(networks);
                        }
                        // A node's address is no workload's.
                        ClusterPeer::Nodes(_) => {}
                    }
                }
                AddressSet::from_words(words)
            });
            let outcome = match rule.action {
                RuleAction::Accept => decided(Action::Allow),
                RuleAction::Deny => decided(Action::Deny),
                RuleAction::Pass => Outcome::Pass,
            };
            RemoteRule::new(outcome, peers, rule.ports.as_deref())
        });
        let rules: Vec<RemoteRule> = rules.collect();
        (!rules.is_empty()).then_some(RemotePolicy {
            tier: policy.tier,
            isolates: false,
            enforced: policy.mode == Mode::Enforce,
            rules,
            blocks,
        })
    }

    fn of_namespace<'c>(
        &mut self,
        place: Place<'_, 'a>,
        cluster: impl Iterator<Item = (&'a ClusterNetworkPolicy, &'c Option<RemotePolicy>)>,
    ) -> Result<RemoteNamespace, CompileError> {
        let Place {
            namespace, members, ..
        } = place;
        let position_of = |signature: &u32| {
            let found = members.binary_search(signature);
            found.expect("a selector chooses among those it is given")
        };
        // For each member the policies of either kind that select it.
        let mut own: Vec<Vec<PolicyRef>> = vec![Vec::new(); members.len()];
        let mut admin = own.clone();
        let mut baseline = own.clone();
        let mut compiled: HashMap<PolicyRef, &RemotePolicy> = HashMap::new();
        for (position, (policy, of_cluster)) in (0u32..).zip(cluster) {
            let subject = &policy.subject;
            let Some(of_cluster) = of_cluster else {
                continue;
            };
            if !self.signatures.chosen_namespaces(&subject.namespaces)[namespace as usize] {
                continue;
            }
            let one = PolicyRef::Cluster(position);
            compiled.insert(one, of_cluster);
            let selecting = match of_cluster.tier {
                Tier::Baseline => &mut baseline,
                Tier::Admin | Tier::Namespace => &mut admin,
            };
            for signature in (self.signatures).select_among(members, &subject.workloads) {
                selecting[position_of(&signature)].push(one);
            }
        }
        let mut applying: Vec<(u32, RemotePolicy)> = Vec::new();
        for (position, policy) in (0u32..).zip(place.policies) {
            if policy.ingress.is_none() {
                continue;
            }
            let selected = (self.signatures).select_among(members, &policy.subject);
            if selected.is_empty() {
                continue;
            }
            for signature in selected {
                own[position_of(&signature)].push(PolicyRef::Own(position));
            }
            let policy = self.of_policy(policy, namespace);
            applying.extend(policy.map(|policy| (position, policy)));
        }
        let of_namespace = (applying.iter()).map(|(at, policy)| (PolicyRef::Own(*at), policy));
        compiled.extend(of_namespace);

        let mut numbers: HashMap<(Vec<PolicyRef>, PortNumbers), usize> = HashMap::new();
        let mut classes: Vec<RemoteClass> = Vec::new();
        let selecting = admin.into_iter().zip(own).zip(baseline);
        for (member, ((admin, own), baseline)) in (0u32..).zip(selecting) {
            let policies = [admin, own, baseline].concat();
            if policies.is_empty() {
                continue;
            }
            let names: BTreeSet<u32> = (policies.iter())
                .flat_map(|policy| &compiled[policy].rules)
                .flat_map(|rule| &rule.names)
                .map(|(name, protocol)| self.signatures.port_name(name, *protocol))
                .collect();
            let signature = &self.signatures.all()[members[member as usize] as usize];
            let ports = restrict(&signature.ports, &names);
            match numbers.get(&(policies.clone(), ports.clone())) {
                Some(class) => classes[*class].members.push(member),
                None => {
                    let class = self.class(member, &policies, &compiled, &ports)?;
                    numbers.insert((policies, ports), classes.len());
                    classes.push(class);
                }
            }
        }
        // Sets of isolating policies are numbered in this order, which no address moves.
        classes.sort_by(|a, b| a.policies.cmp(&b.policies));
        let mut applies = vec![false; place.policies.len()];
        let mut sets = HashSet::default();
        let mut blocks = Vec::new();
        let mut names_peers = false;
        for (position, policy) in &applying {
            names_peers |= policy.names_peers();
            applies[*position as usize] = true;
            sets.extend(policy.sets().cloned());
            blocks.extend(&policy.blocks);
        }
        Ok(RemoteNamespace {
            policies: place.policies.iter().map(|one| Arc::clone(one)).collect(),
            labels: place.labels.clone(),
            facts: place.facts,
            applies,
            classes,
            sets: sets.into_iter().collect(),
            blocks,
            names_peers,
        })
    }

    /// A class of which one member is known: its rows.
    fn class(
        &self,
        member: u32,
        policies: &[PolicyRef],
        compiled: &HashMap<PolicyRef, &RemotePolicy>,
        ports: &[(u32, u16)],
    ) -> Result<RemoteClass, CompileError> {
        let isolating = |audited: bool| -> Vec<u32> {
            let isolating = policies.iter().filter_map(|policy| match policy {
                PolicyRef::Own(position) => {
                    let policy = compiled[&PolicyRef::Own(*position)];
                    (policy.isolates && (audited || policy.enforced)).then_some(*position)
                }
                PolicyRef::Cluster(_) => None,
            });
            isolating.collect()
        };
        let (enforced, all) = (isolating(false), isolating(true));
        // Whoever is isolated by policies in force never comes to the last tier.
        let last = if enforced.is_empty() {
            Tier::Baseline
        } else {
            Tier::Namespace
        };
        let default = |isolating: &[u32]| match isolating {
            [] => Verdict::allow(Reason::NotIsolated),
            _ => Verdict::deny(Reason::Isolated),
        };
        let defaults = Defaults {
            enforced: default(&enforced),
            audited: default(&all),
        };
        let mut rules: Vec<ClassRule<'_>> = Vec::new();
        let mut position = 0;
        for policy in policies {
            let policy = compiled[policy];
            for rule in &policy.rules {
                position += 1;
                if policy.tier <= last {
                    let keys = self.keys_of(rule, ports);
                    rules.push(ClassRule {
                        position,
                        rule,
                        keys,
                        policy,
                    });
                }
            }
        }
        // Own addresses by which rules speak of them.
        let everybody = (0..rules.len()).filter(|rule| rules[*rule].rule.peers.is_none());
        let everybody: Vec<usize> = everybody.collect();
        let all_own = AddressSet::from_words(vec![u64::MAX; self.own.own.len().div_ceil(64)]);
        let mut parts: Vec<(AddressSet, Vec<usize>)> = vec![(all_own, everybody.clone())];
        for (index, rule) in rules.iter().enumerate() {
            let Some(peers) = rule.rule.peers.as_ref().filter(|set| !set.is_empty()) else {
                continue;
            };
            let mut split = Vec::with_capacity(parts.len() + 1);
            for (part, spoken) in parts {
                let (with, without) = part.split(peers);
                if !with.is_empty() {
                    split.push((with, [&*spoken, &[index]].concat()));
                }
                if !without.is_empty() {
                    split.push((without, spoken));
                }
            }
            parts = split;
        }
        let mut rows = Vec::with_capacity(parts.len());
        for (part, mut spoken) in parts {
            spoken.sort_unstable();
            if spoken != everybody {
                rows.push((part, class_row(&rules, &spoken, defaults)?));
            }
        }
        let counts = policies.iter().map(|one| number(compiled[one].rules.len()));
        Ok(RemoteClass {
            members: vec![member],
            policies: policies.iter().copied().zip(counts).collect(),
            isolating: enforced,
            isolating_audited: all,
            row: class_row(&rules, &everybody, defaults)?,
            rows,
        })
    }

    fn keys_of(&self, rule: &RemoteRule, ports: &[(u32, u16)]) -> Vec<Keys> {
        let mut keys = rule.keys.clone();
        for (name, protocol) in &rule.names {
            let name = self.signatures.port_name(name, *protocol);
            let numbers = ports.iter().filter(|(candidate, _)| *candidate == name);
            keys.extend(numbers.map(|(_, number)| {
                let key = row_key(protocol.number(), *number);
                Keys {
                    first: key,
                    last: key,
                }
            }));
        }
        keys
    }
}

/// A rule in a class.
struct ClassRule<'r> {
    /// Its position among all rules of the class, from 1.
    position: u32,
    rule: &'r RemoteRule,
    keys: Vec<Keys>,
    policy: &'r RemotePolicy,
}

/// The row where these rules of a class match.
fn class_row(
    rules: &[ClassRule<'_>],
    spoken: &[usize],
    defaults: Defaults,
) -> Result<ClassRow, CompileError> {
    let rules: Vec<RowRule<'_>> = (spoken.iter())
        .map(|index| {
            let one = &rules[*index];
            RowRule {
                keys: &one.keys,
                outcome: match one.rule.outcome {
                    Outcome::Decided(verdict) => Outcome::Decided(Verdict {
                        rule: one.position,
                        ..verdict
                    }),
                    Outcome::Pass => Outcome::Pass,
                },
                tier: one.policy.tier,
                enforced: one.policy.enforced,
            }
        })
        .collect();
    rows::bounded_words(&rows::intervals(&rules, defaults))
}

fn decided(action: Action) -> Outcome {
    Outcome::Decided(Verdict {
        action,
        reason: Reason::Rule,
        rule: 0,
    })
}

impl RemoteRule {
    fn new(outcome: Outcome, peers: Option<AddressSet>, ports: Option<&[PortRange]>) -> Self {
        let mut names: Vec<(Box<str>, Protocol)> = Vec::new();
        for port in ports.into_iter().flatten() {
            if let Ports::Named(name) = &port.ports {
                names.push(((&**name).into(), port.protocol));
            }
        }
        Self {
            outcome,
            keys: port_keys(ports),
            names,
            peers,
        }
    }
}
