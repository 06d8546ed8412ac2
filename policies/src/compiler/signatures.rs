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
//! Invariant: signatures are numbered in the order of the addresses they first appear
//! at, so equal inventories give equal numbers.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use crate::inventory::{Holder, Inventory, Protocol, Workload};
use crate::selectors::{LabelSelector, Labels, Operator};
use crate::shared_map::SharedMap;

use super::facts::{FactBook, Facts, NODES, Word};

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
    namespaces: HashMap<Arc<str>, u32>,
    keys: HashMap<Arc<str>, u32>,
    /// For each key its named values, numbered from 1.
    values: Vec<HashMap<Arc<str>, u32>>,
    port_names: HashMap<Protocol, HashMap<Arc<str>, u32>>,
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

/// The signatures of all owners of addresses, and indexes from what selectors ask to
/// who has it. Enough to find another workload's again.
#[derive(Debug)]
pub(super) struct KnownSignatures {
    vocabulary: Arc<Vocabulary>,
    numbers: HashMap<Signature, u32>,
    all: Vec<Signature>,
    /// For the facts of each address in order, chunk by chunk.
    facts: Vec<Arc<[u32]>>,
    /// For all facts the signature, if somebody has them now.
    of_facts: Vec<Option<u32>>,
    /// For each signature the facts it was first found by.
    first_facts: Vec<u32>,
    by_namespace: Vec<Vec<u32>>,
    by_key: Vec<Vec<u32>>,
    by_value: HashMap<(u32, u32), Vec<u32>>,
    nodes: Vec<u32>,
}

/// Signatures with all that they follow from: those of the next table are mostly the
/// same.
#[derive(Debug)]
pub(super) struct LastSignatures {
    words: Vec<Arc<[Word]>>,
    namespaces: SharedMap<Arc<str>, Arc<Labels>>,
    holders: SharedMap<IpAddr, Holder>,
    known: Arc<KnownSignatures>,
}

/// All signatures, and which of them selectors have chosen.
#[derive(Debug)]
pub(super) struct Signatures<'a> {
    known: Arc<KnownSignatures>,
    namespace_labels: Vec<&'a Labels>,
    selected: HashMap<(Scope<'a>, &'a LabelSelector), Rc<[u32]>>,
    scopes: HashMap<&'a LabelSelector, Rc<[bool]>>,
}

/// From the numbers of facts to those of a vocabulary.
struct Translation {
    namespaces: Vec<Option<u32>>,
    keys: HashMap<u32, TranslatedKey>,
    port_names: HashMap<u32, u32>,
}

struct TranslatedKey {
    key: u32,
    /// The values that are named.
    values: HashMap<u32, u32>,
}

impl Translation {
    fn new(book: &FactBook, vocabulary: &Vocabulary) -> Self {
        let mut namespaces = vec![None; book.namespaces()];
        for (name, new) in &vocabulary.namespaces {
            if let Some(old) = book.namespace(name) {
                namespaces[old as usize] = Some(*new);
            }
        }
        let keys = vocabulary.keys.iter().filter_map(|(key, new)| {
            let old = book.key(key)?;
            let values = (vocabulary.values[*new as usize].iter())
                .filter_map(|(value, new)| Some((book.value(old, value)?, *new)));
            let translated = TranslatedKey {
                key: *new,
                values: values.collect(),
            };
            Some((old, translated))
        });
        let keys = keys.collect();
        let names = vocabulary.port_names.iter().flat_map(|(protocol, names)| {
            let names = names.iter();
            names.filter_map(|(name, new)| Some((book.port_name(*protocol, name)?, *new)))
        });
        Self {
            namespaces,
            keys,
            port_names: names.collect(),
        }
    }

    fn signature(&self, facts: &Facts) -> Signature {
        let mut labels: Vec<(u32, u32)> = (facts.labels.iter())
            .filter_map(|(key, value)| {
                let translated = self.keys.get(key)?;
                let value = translated.values.get(value).copied();
                Some((translated.key, value.unwrap_or(OTHER_VALUE)))
            })
            .collect();
        labels.sort_unstable();
        let ports = facts.ports.iter();
        let mut ports: Vec<(u32, u16)> = ports
            .filter_map(|(name, port)| Some((*self.port_names.get(name)?, *port)))
            .collect();
        ports.sort_unstable();
        let namespace = match facts.namespace {
            NODES => NODES,
            namespace => self.namespaces[namespace as usize]
                .expect("an inventory has every namespace that it refers to"),
        };
        Signature {
            namespace,
            labels: labels.into(),
            ports: ports.into(),
        }
    }
}

impl Vocabulary {
    /// The words of all policies, numbered as they come.
    fn of(inventory: &Inventory, words: &[Arc<[Word]>]) -> Self {
        let mut vocabulary = Self {
            namespaces: (inventory.namespaces().keys().zip(0..))
                .map(|(name, i)| (name.clone(), i))
                .collect(),
            ..Self::default()
        };
        for word in words.iter().flat_map(|words| words.iter()) {
            match word {
                Word::Key(key) => _ = vocabulary.learn_key(key),
                Word::Value(key, value) => {
                    let key = vocabulary.learn_key(key);
                    let values = &mut vocabulary.values[key as usize];
                    let next = number(values.len()) + 1;
                    if !values.contains_key(value) {
                        values.insert(value.clone(), next);
                    }
                }
                Word::Port(protocol, name) => {
                    let names = vocabulary.port_names.entry(*protocol).or_default();
                    if !names.contains_key(name) {
                        names.insert(name.clone(), vocabulary.port_name_count);
                        vocabulary.port_name_count += 1;
                    }
                }
            }
        }
        vocabulary
    }

    fn learn_key(&mut self, key: &Arc<str>) -> u32 {
        if let Some(known) = self.keys.get(key) {
            return *known;
        }
        let new = number(self.keys.len());
        self.keys.insert(key.clone(), new);
        self.values.push(HashMap::new());
        new
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

impl LastSignatures {
    /// The vocabulary, if that for these would be the same one.
    fn vocabulary(&self, inventory: &Inventory, words: &[Arc<[Word]>]) -> Option<Arc<Vocabulary>> {
        let is_same =
            self.namespaces.is_same(inventory.namespaces().shared()) && self.words == words;
        is_same.then(|| self.known.vocabulary.clone())
    }
}

impl KnownSignatures {
    /// Finds everybody's signature.
    fn new(inventory: &Inventory, book: &mut FactBook, vocabulary: Arc<Vocabulary>) -> Self {
        let facts = book.of_holders(inventory);
        let translation = Translation::new(book, &vocabulary);
        let mut known = Self {
            numbers: HashMap::with_capacity(book.all().len()),
            all: Vec::new(),
            of_facts: vec![None; book.all().len()],
            first_facts: Vec::new(),
            by_namespace: vec![Vec::new(); inventory.namespaces().len()],
            by_key: vec![Vec::new(); vocabulary.keys.len()],
            by_value: HashMap::new(),
            nodes: Vec::new(),
            vocabulary,
            facts: Vec::new(),
        };
        for one in facts.iter().flat_map(|facts| facts.iter()) {
            if known.of_facts[*one as usize].is_none() {
                let signature = translation.signature(&book.all()[*one as usize]);
                let number = known.add(signature);
                known.of_facts[*one as usize] = Some(number);
                if known.first_facts.len() < known.all.len() {
                    known.first_facts.push(*one);
                }
            }
        }
        known.facts = facts;
        known
    }

    fn add(&mut self, signature: Signature) -> u32 {
        if let Some(number) = self.numbers.get(&signature) {
            return *number;
        }
        let new = number(self.all.len());
        if signature.namespace == NODES {
            self.nodes.push(new);
        } else {
            self.by_namespace[signature.namespace as usize].push(new);
            for (key, value) in &signature.labels {
                self.by_key[*key as usize].push(new);
                self.by_value.entry((*key, *value)).or_default().push(new);
            }
        }
        self.all.push(signature.clone());
        self.numbers.insert(signature, new);
        new
    }

    /// The number of a workload's signature, and the signature, if some workload had
    /// it when the table was made.
    pub(super) fn find(&self, workload: &Workload) -> Option<(u32, Signature)> {
        let signature = self.vocabulary.signature(workload)?;
        let number = *self.numbers.get(&signature)?;
        Some((number, signature))
    }
}

impl<'a> Signatures<'a> {
    /// Learns the words of all policies, and finds everybody's signature, unless they
    /// are those of `last`; which then are these.
    pub(super) fn new(
        inventory: &'a Inventory,
        book: &mut FactBook,
        last: &mut Option<LastSignatures>,
    ) -> Self {
        let words = book.words(inventory);
        let last_vocabulary = last
            .as_ref()
            .and_then(|last| last.vocabulary(inventory, &words));
        let known = match (last.take(), last_vocabulary) {
            (Some(last), Some(_)) if last.holders.is_same(inventory.holders()) => last.known,
            (_, vocabulary) => {
                let vocabulary =
                    vocabulary.unwrap_or_else(|| Arc::new(Vocabulary::of(inventory, &words)));
                Arc::new(KnownSignatures::new(inventory, book, vocabulary))
            }
        };
        *last = Some(LastSignatures {
            words,
            namespaces: inventory.namespaces().shared().clone(),
            holders: inventory.holders().clone(),
            known: known.clone(),
        });
        Self {
            known,
            namespace_labels: inventory.namespaces().values().collect(),
            selected: HashMap::new(),
            scopes: HashMap::new(),
        }
    }

    /// How many facts somebody has.
    pub(super) fn facts_in_use(&self) -> usize {
        self.known.of_facts.iter().flatten().count()
    }

    /// The signatures of all addresses' owners, in the order of addresses.
    pub(super) fn of_holders(&self) -> impl Iterator<Item = u32> {
        let facts = self.known.facts.iter().flat_map(|facts| facts.iter());
        facts.map(|one| {
            self.known.of_facts[*one as usize].expect("facts that somebody has have a signature")
        })
    }

    /// What was found out, to be kept.
    pub(super) fn known(&self) -> &Arc<KnownSignatures> {
        &self.known
    }

    /// The number of a port name that some rule uses.
    pub(super) fn port_name(&self, name: &str, protocol: Protocol) -> u32 {
        self.known
            .vocabulary
            .port_name(name, protocol)
            .expect("names of all rules were learnt")
    }

    /// All signatures by number.
    pub(super) fn all(&self) -> &[Signature] {
        &self.known.all
    }

    /// The facts that a signature was first found by: while the book of facts is the
    /// same, their number stands for everything that a policy can ask of it.
    pub(super) fn first_facts(&self, signature: u32) -> u32 {
        self.known.first_facts[signature as usize]
    }

    /// Of some signatures those that a selector chooses.
    pub(super) fn select_among(&self, signatures: &[u32], selector: &LabelSelector) -> Vec<u32> {
        let requirements = self.known.vocabulary.requirements(selector);
        let is_chosen = |one: &u32| {
            let signature = &self.known.all[*one as usize];
            requirements.iter().all(|r| r.holds(signature))
        };
        signatures.iter().copied().filter(is_chosen).collect()
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
                let lists = vec![self.known.by_namespace[namespace as usize].as_slice()];
                (None, Candidates::new(lists))
            }
            Scope::Selected(selector) => {
                let chosen = self.chosen_namespaces(selector);
                let lists = (self.known.by_namespace.iter().zip(chosen.iter()))
                    .filter_map(|(list, chosen)| chosen.then_some(list.as_slice()))
                    .collect();
                (Some(chosen), Candidates::new(lists))
            }
            // Few, and not in the indexes.
            Scope::Nodes => {
                let is_selected = |node: &u32| {
                    (requirements.iter()).all(|r| r.holds(&self.known.all[*node as usize]))
                };
                return self
                    .known
                    .nodes
                    .iter()
                    .copied()
                    .filter(is_selected)
                    .collect();
            }
        };
        let mut complete = true;
        for requirement in &requirements {
            let lists = match &requirement.operator {
                NumberedOperator::In(values) => values
                    .iter()
                    .filter_map(|value| self.known.by_value.get(&(requirement.key, *value)))
                    .map(Vec::as_slice)
                    .collect(),
                NumberedOperator::Exists => {
                    vec![self.known.by_key[requirement.key as usize].as_slice()]
                }
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
                let signature = &self.known.all[*number as usize];
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
    pub(super) fn chosen_namespaces(&mut self, selector: &'a LabelSelector) -> Rc<[bool]> {
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
