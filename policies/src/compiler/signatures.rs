//! What selectors can tell of workloads and nodes, and which of them they select.
//!
//! Of a workload's labels only those matter that some selector asks for, and of
//! their values only those that some selector names. What is left, with the
//! namespace and the named ports that some rule names, is the workload's
//! *signature*; all workloads of one signature are treated alike by every policy,
//! but for their addresses. A label that nothing selects on costs nothing. Nodes have
//! signatures too, of a namespace of their own, which no selector of workloads reaches.
//!
//! A selector is evaluated once for each namespace scope it is used in, over
//! signatures and not workloads, starting from the shortest list that one of its
//! requirements permits.
//!
//! Invariant: signatures are numbered in the order of the workloads they first
//! appear in, so equal inventories give equal numbers.

use std::collections::HashMap;
use std::rc::Rc;

use crate::inventory::{ClusterPeer, Inventory, Node, Peer, PortRange, Ports, Protocol, Workload};
use crate::selectors::{LabelSelector, Labels, Operator};

/// The namespace of nodes' signatures. Workloads' are numbered from 0, and each has an
/// entry in memory.
const NODES: u32 = u32::MAX;

/// A value of a label that no selector names.
const OTHER_VALUE: u32 = 0;

/// The numbers that named ports have, by the number of the name, in order.
pub(super) type PortNumbers = Box<[(u32, u16)]>;

/// What is left of a workload or node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    /// Number of the namespace.
    pub(super) namespace: u32,
    /// Label keys and their values, in the order of keys.
    labels: Box<[(u32, u32)]>,
    /// The named ports.
    pub(super) ports: PortNumbers,
}

/// The words that selectors and rules use, numbered.
#[derive(Debug, Clone, Default)]
struct Vocabulary {
    namespaces: HashMap<Box<str>, u32>,
    keys: HashMap<Box<str>, u32>,
    /// For each key its named values, numbered from 1.
    values: Vec<HashMap<Box<str>, u32>>,
    port_names: HashMap<Protocol, HashMap<Box<str>, u32>>,
    port_name_count: u32,
}

/// A requirement in numbers.
#[derive(Debug)]
struct Requirement {
    key: u32,
    operator: NumberedOperator,
}

#[derive(Debug)]
enum NumberedOperator {
    In(Vec<u32>),
    NotIn(Vec<u32>),
    Exists,
    DoesNotExist,
}

/// Among whom a selector chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope<'a> {
    /// Workloads of one namespace, by its number.
    Own(u32),
    /// Workloads of namespaces with certain labels.
    Selected(&'a LabelSelector),
    /// Nodes.
    Nodes,
}

/// Which signature has which number: enough to find a workload's again.
#[derive(Debug, Clone)]
pub(super) struct KnownSignatures {
    vocabulary: Vocabulary,
    numbers: HashMap<Signature, u32>,
}

impl KnownSignatures {
    /// The number of a workload's signature, and the signature, if some workload had
    /// it when the table was made.
    pub(super) fn find(&self, workload: &Workload) -> Option<(u32, Signature)> {
        let signature = self.vocabulary.signature(workload)?;
        let number = *self.numbers.get(&signature)?;
        Some((number, signature))
    }
}

/// All signatures, and indexes from what selectors ask to who has it.
#[derive(Debug)]
pub(super) struct Signatures<'a> {
    known: KnownSignatures,
    namespace_labels: Vec<&'a Labels>,
    all: Vec<Signature>,
    by_namespace: Vec<Vec<u32>>,
    by_key: Vec<Vec<u32>>,
    by_value: HashMap<(u32, u32), Vec<u32>>,
    nodes: Vec<u32>,
    selected: HashMap<(Scope<'a>, &'a LabelSelector), Rc<[u32]>>,
    scopes: HashMap<&'a LabelSelector, Rc<[bool]>>,
}

impl Vocabulary {
    fn of(inventory: &Inventory) -> Self {
        let mut vocabulary = Self {
            namespaces: (inventory.namespaces().keys().zip(0..))
                .map(|(name, i)| (Box::from(&**name), i))
                .collect(),
            ..Self::default()
        };
        for policy in inventory.policies().values() {
            vocabulary.learn_selector(&policy.subject);
            for rule in policy.ingress.iter().chain(&policy.egress).flatten() {
                for peer in rule.peers.iter().flatten() {
                    if let Peer::Workloads { workloads, .. } = peer {
                        vocabulary.learn_selector(workloads);
                    }
                }
                vocabulary.learn_ports(rule.ports.as_deref());
            }
        }
        for policy in inventory.cluster_policies().values() {
            vocabulary.learn_selector(&policy.subject.workloads);
            for rule in policy.ingress.iter().chain(&policy.egress) {
                for peer in rule.peers.iter().flatten() {
                    match peer {
                        ClusterPeer::Workloads(selector) => {
                            vocabulary.learn_selector(&selector.workloads);
                        }
                        ClusterPeer::Nodes(selector) => vocabulary.learn_selector(selector),
                        ClusterPeer::Networks(_) => {}
                    }
                }
                vocabulary.learn_ports(rule.ports.as_deref());
            }
        }
        vocabulary
    }

    fn learn_selector(&mut self, selector: &LabelSelector) {
        for requirement in selector.requirements() {
            let key = match self.keys.get(requirement.key()) {
                Some(key) => *key,
                None => {
                    let new = number(self.keys.len());
                    self.keys.insert(requirement.key().into(), new);
                    self.values.push(HashMap::new());
                    new
                }
            };
            let values = &mut self.values[key as usize];
            if let Operator::In(named) | Operator::NotIn(named) = requirement.operator() {
                for value in named {
                    let next = number(values.len()) + 1;
                    if !values.contains_key(value) {
                        values.insert(value.clone(), next);
                    }
                }
            }
        }
    }

    fn learn_ports(&mut self, ports: Option<&[PortRange]>) {
        for port in ports.into_iter().flatten() {
            if let Ports::Named(name) = &port.ports {
                self.learn_port_name(name, port.protocol);
            }
        }
    }

    fn learn_port_name(&mut self, name: &str, protocol: Protocol) {
        let names = self.port_names.entry(protocol).or_default();
        if !names.contains_key(name) {
            names.insert(name.into(), self.port_name_count);
            self.port_name_count += 1;
        }
    }

    fn port_name(&self, name: &str, protocol: Protocol) -> Option<u32> {
        self.port_names.get(&protocol)?.get(name).copied()
    }

    fn signature(&self, workload: &Workload) -> Option<Signature> {
        Some(Signature {
            namespace: *self.namespaces.get(&*workload.name.namespace)?,
            labels: self.labels(&workload.labels),
            ports: self.ports(workload),
        })
    }

    fn value(&self, key: u32, value: &str) -> u32 {
        let values = &self.values[key as usize];
        values.get(value).copied().unwrap_or(OTHER_VALUE)
    }

    fn labels(&self, labels: &Labels) -> Box<[(u32, u32)]> {
        let mut numbered: Vec<(u32, u32)> = labels
            .iter()
            .filter_map(|(key, value)| {
                let key = *self.keys.get(key)?;
                Some((key, self.value(key, value)))
            })
            .collect();
        numbered.sort_unstable();
        numbered.into_boxed_slice()
    }

    fn ports(&self, workload: &Workload) -> PortNumbers {
        let mut numbered: Vec<(u32, u16)> = workload
            .ports
            .iter()
            .filter_map(|port| {
                let name = self.port_name(&port.name, port.protocol)?;
                Some((name, port.number))
            })
            .collect();
        numbered.sort_unstable();
        numbered.dedup();
        numbered.into_boxed_slice()
    }

    /// A selector in numbers; every word of it has been learnt.
    fn requirements(&self, selector: &LabelSelector) -> Vec<Requirement> {
        selector
            .requirements()
            .iter()
            .map(|requirement| {
                let key = self.keys[requirement.key()];
                let named = |values: &[Box<str>]| {
                    values.iter().map(|value| self.value(key, value)).collect()
                };
                Requirement {
                    key,
                    operator: match requirement.operator() {
                        Operator::In(values) => NumberedOperator::In(named(values)),
                        Operator::NotIn(values) => NumberedOperator::NotIn(named(values)),
                        Operator::Exists => NumberedOperator::Exists,
                        Operator::DoesNotExist => NumberedOperator::DoesNotExist,
                    },
                }
            })
            .collect()
    }
}

impl Requirement {
    fn holds(&self, signature: &Signature) -> bool {
        let value = signature
            .labels
            .binary_search_by_key(&self.key, |(key, _)| *key)
            .ok()
            .map(|at| signature.labels[at].1);
        match (&self.operator, value) {
            (NumberedOperator::In(values), Some(value)) => values.contains(&value),
            (NumberedOperator::NotIn(values), Some(value)) => !values.contains(&value),
            (NumberedOperator::Exists, value) => value.is_some(),
            (NumberedOperator::DoesNotExist, value) => value.is_none(),
            (NumberedOperator::In(_), None) => false,
            (NumberedOperator::NotIn(_), None) => true,
        }
    }
}

impl<'a> Signatures<'a> {
    /// Learns the words of all policies.
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let vocabulary = Vocabulary::of(inventory);
        let keys = vocabulary.keys.len();
        Self {
            known: KnownSignatures {
                vocabulary,
                numbers: HashMap::new(),
            },
            namespace_labels: inventory.namespaces().values().collect(),
            all: Vec::new(),
            by_namespace: vec![Vec::new(); inventory.namespaces().len()],
            by_key: vec![Vec::new(); keys],
            by_value: HashMap::new(),
            nodes: Vec::new(),
            selected: HashMap::new(),
            scopes: HashMap::new(),
        }
    }

    /// The number of a namespace.
    pub(super) fn namespace(&self, name: &str) -> u32 {
        *self
            .known
            .vocabulary
            .namespaces
            .get(name)
            .expect("an inventory has every namespace that it refers to")
    }

    /// The number of a port name that some rule uses.
    pub(super) fn port_name(&self, name: &str, protocol: Protocol) -> u32 {
        self.known
            .vocabulary
            .port_name(name, protocol)
            .expect("names of all rules were learnt")
    }

    /// The number of a node's signature. All nodes are added before the first
    /// selector is evaluated.
    pub(super) fn add_node(&mut self, node: &Node) -> u32 {
        debug_assert!(self.selected.is_empty());
        let signature = Signature {
            namespace: NODES,
            labels: self.known.vocabulary.labels(&node.labels),
            ports: PortNumbers::default(),
        };
        if let Some(number) = self.known.numbers.get(&signature) {
            return *number;
        }
        let new = number(self.all.len());
        self.nodes.push(new);
        self.all.push(signature.clone());
        self.known.numbers.insert(signature, new);
        new
    }

    /// The number of a workload's signature. All workloads are added before the
    /// first selector is evaluated.
    pub(super) fn add(&mut self, workload: &Workload) -> u32 {
        debug_assert!(self.selected.is_empty());
        let signature = self
            .known
            .vocabulary
            .signature(workload)
            .expect("an inventory has every namespace that it refers to");
        if let Some(number) = self.known.numbers.get(&signature) {
            return *number;
        }
        let new = number(self.all.len());
        self.by_namespace[signature.namespace as usize].push(new);
        for (key, value) in &signature.labels {
            self.by_key[*key as usize].push(new);
            self.by_value.entry((*key, *value)).or_default().push(new);
        }
        self.all.push(signature.clone());
        self.known.numbers.insert(signature, new);
        new
    }

    /// What is needed to find signatures again.
    pub(super) fn into_known(self) -> KnownSignatures {
        self.known
    }

    /// All signatures by number.
    pub(super) fn all(&self) -> &[Signature] {
        &self.all
    }

    /// The signatures that a selector chooses, ascending.
    pub(super) fn select(&mut self, scope: Scope<'a>, selector: &'a LabelSelector) -> Rc<[u32]> {
        if let Some(known) = self.selected.get(&(scope, selector)) {
            return known.clone();
        }
        let selected: Rc<[u32]> = self.evaluate(scope, selector).into();
        self.selected.insert((scope, selector), selected.clone());
        selected
    }

    fn evaluate(&mut self, scope: Scope<'a>, selector: &'a LabelSelector) -> Vec<u32> {
        let requirements = self.known.vocabulary.requirements(selector);
        let (namespaces, mut in_scope) = match scope {
            Scope::Own(namespace) => {
                let lists = vec![self.by_namespace[namespace as usize].as_slice()];
                (None, Candidates::new(lists))
            }
            Scope::Selected(selector) => {
                let chosen = self.chosen_namespaces(selector);
                let lists = (self.by_namespace.iter().zip(chosen.iter()))
                    .filter_map(|(list, chosen)| chosen.then_some(list.as_slice()))
                    .collect();
                (Some(chosen), Candidates::new(lists))
            }
            // Few, and not in the indexes.
            Scope::Nodes => {
                let is_selected =
                    |node: &u32| (requirements.iter()).all(|r| r.holds(&self.all[*node as usize]));
                return self.nodes.iter().copied().filter(is_selected).collect();
            }
        };
        let mut complete = true;
        for requirement in &requirements {
            let lists = match &requirement.operator {
                NumberedOperator::In(values) => values
                    .iter()
                    .filter_map(|value| self.by_value.get(&(requirement.key, *value)))
                    .map(Vec::as_slice)
                    .collect(),
                NumberedOperator::Exists => vec![self.by_key[requirement.key as usize].as_slice()],
                NumberedOperator::NotIn(_) | NumberedOperator::DoesNotExist => continue,
            };
            let candidates = Candidates::new(lists);
            if candidates.length < in_scope.length {
                in_scope = candidates;
                complete = false;
            }
        }
        let mut selected: Vec<u32> = in_scope
            .lists
            .iter()
            .flat_map(|list| list.iter().copied())
            .filter(|number| {
                let signature = &self.all[*number as usize];
                // Candidates of a requirement may lie in other namespaces.
                let scoped = complete
                    || match (scope, &namespaces) {
                        (Scope::Own(namespace), _) => signature.namespace == namespace,
                        (_, Some(chosen)) => chosen[signature.namespace as usize],
                        (_, None) => false,
                    };
                scoped && requirements.iter().all(|r| r.holds(signature))
            })
            .collect();
        selected.sort_unstable();
        selected
    }

    /// For each namespace whether a selector chooses it.
    fn chosen_namespaces(&mut self, selector: &'a LabelSelector) -> Rc<[bool]> {
        let labels = &self.namespace_labels;
        self.scopes
            .entry(selector)
            .or_insert_with(|| {
                labels
                    .iter()
                    .map(|labels| selector.matches(labels))
                    .collect()
            })
            .clone()
    }
}

/// Lists without common elements, among which the selected are.
struct Candidates<'l> {
    lists: Vec<&'l [u32]>,
    length: usize,
}

impl<'l> Candidates<'l> {
    fn new(lists: Vec<&'l [u32]>) -> Self {
        let length = lists.iter().map(|list| list.len()).sum();
        Self { lists, length }
    }
}

/// A count as a number. Everything counted here has an entry in memory of at least
/// four bytes, and its capacity is checked before.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 entries")
}
