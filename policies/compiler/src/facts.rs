//! Facts that selectors and rules could tell of each owner of an address, worked out once.
//!
//! Turning the labels of 100 000 workloads into numbers is most of the work of a
//! table, and between two tables few workloads differ. The *facts* of a workload are
//! its namespace, the labels under every key that some selector has asked for so far,
//! and the ports under every name that some rule has used so far, in numbers. They
//! are kept by chunk of the inventory's addresses, and only chunks that are new are
//! looked at.
//!
//! Numbers of facts depend on the past, so nothing of a table may: a table's own
//! numbers are made of them anew, in the order of addresses (`signatures`).
//!
//! Invariant: two owners have the same facts if and only if no key, name or namespace
//! that is known tells them apart.

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator};
use cofferdam_inventory::shared_map::{Chunk, SharedMap};
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, Holder, Inventory, NetworkPolicy, Peer, PortRange, Ports,
    Protocol, Workload,
};
use foldhash::{HashMap, HashMapExt as _, HashSet};

use super::signatures::number;

/// The namespace of nodes' facts; those of workloads are numbered from 0.
pub(super) const NODES: u32 = u32::MAX;

/// Facts that nobody has any more are forgotten, with all others, when there are this
/// many times as many as are in use.
const STALE: usize = 4;
/// So many are kept in any case.
const KEPT: usize = 4_096;

/// A word of a selector or rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Word {
    /// A label's key.
    Key(Arc<str>),
    /// A value that is named under a key.
    Value(Arc<str>, Arc<str>),
    /// A port's name.
    Port(Protocol, Arc<str>),
}

/// Facts that can be told of one owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    /// Number of the namespace, or [`NODES`].
    pub(super) namespace: u32,
    /// Numbers of keys and their values, by key.
    pub(super) labels: Box<[(u32, u32)]>,
    /// Numbers of port names and the ports, by name.
    pub(super) ports: Box<[(u32, u16)]>,
}

/// Something worked out for each chunk of a map.
type ByChunk<K, V, T> = HashMap<*const Vec<(K, V)>, (Chunk<K, V>, Arc<[T]>)>;

/// All facts, and whose they are.
#[derive(Debug, Default)]
pub(super) struct FactBook {
    namespaces: HashMap<Arc<str>, u32>,
    keys: HashMap<Arc<str>, u32>,
    /// For each key its values.
    values: Vec<HashMap<Box<str>, u32>>,
    port_names: HashMap<Protocol, HashMap<Arc<str>, u32>>,
    port_name_count: u32,
    /// Counts values and namespaces that are new.
    word_count: usize,
    numbers: HashMap<Facts, u32>,
    all: Vec<Facts>,
    holders: ByChunk<IpAddr, Holder, u32>,
    policies: ByChunk<cofferdam_inventory::ObjectName, Arc<NetworkPolicy>, Word>,
    cluster_policies: ByChunk<Arc<str>, Arc<ClusterNetworkPolicy>, Word>,
}

/// The results for all chunks of a map, in order; those of chunks that are known are
/// not worked out again, those of chunks that have gone are forgotten.
fn by_chunk<K, V, T>(
    known: &mut ByChunk<K, V, T>,
    map: &SharedMap<K, V>,
    mut work_out: impl FnMut(&Chunk<K, V>) -> Arc<[T]>,
) -> Vec<Arc<[T]>> {
    let mut before = std::mem::take(known);
    let mut results = Vec::with_capacity(map.chunks().len());
    for chunk in map.chunks() {
        let result = match before.remove(&Arc::as_ptr(chunk)) {
            Some((_, result)) => result,
            None => work_out(chunk),
        };
        results.push(result.clone());
        // With the chunk itself: its place in memory is not another's meanwhile.
        known.insert(Arc::as_ptr(chunk), (chunk.clone(), result));
    }
    results
}

impl FactBook {
    /// The words of all policies, each at least once, in the order in which they
    /// first come; and whatever is new among them is asked of all owners from now on.
    pub(super) fn words(&mut self, inventory: &Inventory) -> Vec<Arc<[Word]>> {
        let mut words = by_chunk(&mut self.policies, inventory.policies().shared(), |chunk| {
            of_namespace(chunk.iter().map(|(_, policy)| &**policy))
        });
        words.extend(by_chunk(
            &mut self.cluster_policies,
            inventory.cluster_policies().shared(),
            |chunk| of_cluster(chunk.iter().map(|(_, policy)| &**policy)),
        ));
        let mut is_new = false;
        for word in words.iter().flat_map(|words| words.iter()) {
            is_new |= self.learn(word);
        }
        if is_new {
            self.holders.clear();
        }
        words
    }

    /// Returns `true` if it is a key or name that was not asked for before.
    fn learn(&mut self, word: &Word) -> bool {
        match word {
            Word::Key(key) if !self.keys.contains_key(key) => {
                self.keys.insert(key.clone(), number(self.values.len()));
                self.values.push(HashMap::new());
                true
            }
            Word::Port(protocol, name) => {
                let names = self.port_names.entry(*protocol).or_default();
                if names.contains_key(name) {
                    return false;
                }
                names.insert(name.clone(), self.port_name_count);
                self.port_name_count += 1;
                true
            }
            Word::Key(_) | Word::Value(..) => false,
        }
    }

    /// The facts of all owners, in the order of their addresses.
    pub(super) fn of_holders(&mut self, inventory: &Inventory) -> Vec<Arc<[u32]>> {
        let mut known = std::mem::take(&mut self.holders);
        let facts = by_chunk(&mut known, inventory.holders(), |chunk| {
            let mut last: Option<(*const Workload, u32)> = None;
            let mut facts = Vec::with_capacity(chunk.len());
            for (_, holder) in chunk.iter() {
                facts.push(match (holder, last) {
                    (Holder::Workload(workload), Some((one, number)))
                        if one == Arc::as_ptr(workload) =>
                    {
                        number
                    }
                    (Holder::Workload(workload), _) => {
                        let number = self.of_workload(workload);
                        last = Some((Arc::as_ptr(workload), number));
                        number
                    }
                    (Holder::Node(_, node), _) => {
                        let labels = self.labels(&node.labels);
                        self.number(Facts {
                            namespace: NODES,
                            labels,
                            ports: Box::default(),
                        })
                    }
                });
            }
            facts.into()
        });
        self.holders = known;
        facts
    }

    /// Forgets everything when most of it is nobody's any more. Returns `true` if it
    /// did: numbers are given anew then.
    pub(super) fn tidy(&mut self, in_use: usize) -> bool {
        let is_stale = self.all.len() > in_use * STALE + KEPT;
        if is_stale {
            *self = Self::default();
        }
        is_stale
    }

    /// All facts by number.
    pub(super) fn all(&self) -> &[Facts] {
        &self.all
    }

    /// Returns the number of values and namespaces that have ever been numbered: while that is
    /// the same, every word of the same policies has the same number.
    pub(super) fn word_count(&self) -> usize {
        self.word_count
    }

    /// The number of a namespace, if it has a workload.
    pub(super) fn namespace(&self, name: &str) -> Option<u32> {
        self.namespaces.get(name).copied()
    }

    /// Returns the number of namespaces.
    pub(super) fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// The number of a key that a policy asks for.
    pub(super) fn key(&self, key: &str) -> Option<u32> {
        self.keys.get(key).copied()
    }

    /// The number of a value under a key, if some owner has it.
    pub(super) fn value(&self, key: u32, value: &str) -> Option<u32> {
        self.values.get(key as usize)?.get(value).copied()
    }

    /// The number of a port name that a rule uses.
    pub(super) fn port_name(&self, protocol: Protocol, name: &str) -> Option<u32> {
        self.port_names.get(&protocol)?.get(name).copied()
    }

    fn number(&mut self, facts: Facts) -> u32 {
        if let Some(known) = self.numbers.get(&facts) {
            return *known;
        }
        let new = number(self.all.len());
        self.all.push(facts.clone());
        self.numbers.insert(facts, new);
        new
    }

    fn of_workload(&mut self, workload: &Workload) -> u32 {
        let name = &workload.name.namespace;
        let namespace = match self.namespaces.get(name) {
            Some(known) => *known,
            None => {
                let new = number(self.namespaces.len());
                self.namespaces.insert(name.clone(), new);
                self.word_count += 1;
                new
            }
        };
        let mut ports: Vec<(u32, u16)> = (workload.ports.iter())
            .filter_map(|port| Some((self.port_name(port.protocol, &port.name)?, port.number)))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let labels = self.labels(&workload.labels);
        self.number(Facts {
            namespace,
            labels,
            ports: ports.into(),
        })
    }

    fn labels(&mut self, labels: &Labels) -> Box<[(u32, u32)]> {
        let mut numbered = Vec::new();
        for (key, value) in labels.iter() {
            let Some(key) = self.keys.get(key).copied() else {
                continue;
            };
            let values = &mut self.values[key as usize];
            let value = match values.get(value) {
                Some(known) => *known,
                None => {
                    let new = number(values.len());
                    values.insert(value.into(), new);
                    self.word_count += 1;
                    new
                }
            };
            numbered.push((key, value));
        }
        numbered.sort_unstable();
        numbered.into()
    }
}

/// Collects words, each once, in the order in which they first come.
#[derive(Default)]
struct Collected {
    seen: HashSet<Word>,
    words: Vec<Word>,
}

impl Collected {
    fn add(&mut self, word: Word) {
        if self.seen.insert(word.clone()) {
            self.words.push(word);
        }
    }

    fn selector(&mut self, selector: &LabelSelector) {
        for requirement in selector.requirements() {
            let key: Arc<str> = requirement.key().into();
            self.add(Word::Key(key.clone()));
            if let Operator::In(named) | Operator::NotIn(named) = requirement.operator() {
                for value in named {
                    self.add(Word::Value(key.clone(), (&**value).into()));
                }
            }
        }
    }

    fn ports(&mut self, ports: Option<&[PortRange]>) {
        for port in ports.into_iter().flatten() {
            if let Ports::Named(name) = &port.ports {
                self.add(Word::Port(port.protocol, (&**name).into()));
            }
        }
    }
}

fn of_namespace<'p>(policies: impl Iterator<Item = &'p NetworkPolicy>) -> Arc<[Word]> {
    let mut collected = Collected::default();
    for policy in policies {
        collected.selector(&policy.subject);
        for rule in policy.ingress.iter().chain(&policy.egress).flatten() {
            for peer in rule.peers.iter().flatten() {
                if let Peer::Workloads { workloads, .. } = peer {
                    collected.selector(workloads);
                }
            }
            collected.ports(rule.ports.as_deref());
        }
    }
    collected.words.into()
}

fn of_cluster<'p>(policies: impl Iterator<Item = &'p ClusterNetworkPolicy>) -> Arc<[Word]> {
    let mut collected = Collected::default();
    for policy in policies {
        collected.selector(&policy.subject.workloads);
        for rule in policy.ingress.iter().chain(&policy.egress) {
            for peer in rule.peers.iter().flatten() {
                match peer {
                    ClusterPeer::Workloads(selector) => collected.selector(&selector.workloads),
                    ClusterPeer::Nodes(selector) => collected.selector(selector),
                    ClusterPeer::Networks(_) => {}
                }
            }
            collected.ports(rule.ports.as_deref());
        }
    }
    collected.words.into()
}
