//! Signatures: everything that selectors can tell of workloads and nodes, and the signatures
//! that they select.
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
//! Invariant: signatures are numbered in their own order, by namespace, labels and ports,
//! so equal inventories give equal numbers, and a workload that takes another's labels
//! changes no number.

use std::iter;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator};
use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{Holder, Inventory, Namespace, Protocol, Workload};
use foldhash::{HashMap, HashMapExt as _};

use super::facts::{FactBook, Facts, NODES, Word};

/// A value of a label that no selector names.
const OTHER_VALUE: u32 = 0;

/// The numbers that named ports have, by the number of the name, in order.
pub(super) type PortNumbers = Box<[(u32, u16)]>;

/// Remainder of a workload or node: the facts by which it is told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

/// Signatures, and indexes from what selectors ask to which have it.
#[derive(Debug)]
struct SignatureSet {
    vocabulary: Arc<Vocabulary>,
    /// In order: those of one namespace stand together, and nodes' come last.
    all: Vec<Arc<Signature>>,
    /// By namespace its first signature, and then the first of nodes.
    by_namespace: Vec<u32>,
    by_key: Vec<ByValue>,
}

/// The signatures that have a key, by the number of the value.
#[derive(Debug)]
struct ByValue {
    /// By value where its signatures begin.
    starts: Vec<u32>,
    signatures: Vec<u32>,
}

impl ByValue {
    fn of(&self, value: u32) -> &[u32] {
        let at = |value: u32| self.starts[value as usize] as usize;
        &self.signatures[at(value)..at(value + 1)]
    }
}

/// The signatures of all owners of addresses. Enough to find another workload's again.
#[derive(Debug)]
pub(super) struct KnownSignatures {
    set: Arc<SignatureSet>,
    /// For the facts of each address in order, chunk by chunk.
    facts: Vec<Arc<[u32]>>,
    /// For all facts the signature, if somebody has them now.
    of_facts: Vec<Option<u32>>,
    /// For each signature the lowest facts that somebody has it by.
    first_facts: Vec<u32>,
    /// The set of the last table, if its words are the same, and for each signature there
    /// the number here, if it is still one.
    renumbered: Option<(Arc<SignatureSet>, Vec<Option<u32>>)>,
}

/// Signatures with all that they follow from: those of the next table are mostly the
/// same.
#[derive(Debug)]
pub(super) struct LastSignatures {
    words: Vec<Arc<[Word]>>,
    namespaces: SharedMap<Arc<str>, Arc<Namespace>>,
    holders: SharedMap<IpAddr, Holder>,
    translation: KnownTranslation,
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
#[derive(Debug)]
struct Translation {
    namespaces: Vec<Option<u32>>,
    keys: HashMap<u32, TranslatedKey>,
    port_names: HashMap<u32, u32>,
}

#[derive(Debug)]
struct TranslatedKey {
    key: u32,
    /// The values that are named.
    values: HashMap<u32, u32>,
}

/// The last translation, with what it follows from.
#[derive(Debug, Default)]
struct KnownTranslation(Option<(usize, Arc<Vocabulary>, Translation)>);

impl KnownTranslation {
    fn get(&mut self, book: &FactBook, vocabulary: &Arc<Vocabulary>) -> &Translation {
        let words = book.word_count();
        let known = self
            .0
            .take()
            .filter(|(before, of, _)| *before == words && Arc::ptr_eq(of, vocabulary))
            .unwrap_or_else(|| {
                (
                    words,
                    vocabulary.clone(),
                    Translation::new(book, vocabulary),
                )
            });
        &self.0.insert(known).2
    }
}

impl Translation {
    fn new(book: &FactBook, vocabulary: &Vocabulary) -> Self {
        let mut namespaces = vec![None; book.namespaces()];
        for (name, new) in &vocabulary.namespaces {
            if let Some(old) = book.namespace(name) {
                namespaces[old as usize] = Some(*new);
            }
        }
        let keys = vocabulary
            .keys
            .iter()
            .filter_map(|(key, new)| {
                let old = book.key(key)?;
                let values = (vocabulary.values[*new as usize].iter())
                    .filter_map(|(value, new)| Some((book.value(old, value)?, *new)));
                let translated = TranslatedKey {
                    key: *new,
                    values: values.collect(),
                };
                Some((old, translated))
            })
            .collect();
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
        is_same.then(|| self.known.set.vocabulary.clone())
    }
}

impl SignatureSet {
    /// The set of these, which are in order.
    fn new(vocabulary: Arc<Vocabulary>, all: Vec<Arc<Signature>>) -> Self {
        let mut by_namespace = Vec::with_capacity(vocabulary.namespaces.len() + 1);
        let mut at = 0;
        for namespace in 0..=number(vocabulary.namespaces.len()) {
            let before = all[at..].iter();
            at += before.take_while(|one| one.namespace < namespace).count();
            by_namespace.push(number(at));
        }
        let mut set = Self {
            by_namespace,
            by_key: Vec::new(),
            all,
            vocabulary,
        };
        // For each key and value first how many there are, then where they end.
        let values = set.vocabulary.values.iter();
        let mut starts: Vec<Vec<u32>> = values.map(|values| vec![0; values.len() + 2]).collect();
        let of_workloads = set.all[..at].iter();
        for (key, value) in of_workloads.flat_map(|one| &one.labels) {
            starts[*key as usize][*value as usize + 1] += 1;
        }
        set.by_key = (starts.into_iter())
            .map(|mut starts| {
                let mut sum = 0;
                for start in &mut starts {
                    sum += *start;
                    *start = sum;
                }
                let signatures = vec![0; sum as usize];
                ByValue { starts, signatures }
            })
            .collect();
        let mut next: Vec<Vec<u32>> = set.by_key.iter().map(|one| one.starts.clone()).collect();
        for (signature, one) in (0u32..).zip(&set.all[..at]) {
            for (key, value) in &one.labels {
                let next = &mut next[*key as usize][*value as usize];
                set.by_key[*key as usize].signatures[*next as usize] = signature;
                *next += 1;
            }
        }
        set
    }

    fn position(&self, signature: &Signature) -> Option<u32> {
        let found = self.all.binary_search_by(|one| (**one).cmp(signature));
        found.ok().map(number)
    }

    /// The signatures of a namespace's workloads.
    fn of_namespace(&self, namespace: u32) -> Range<u32> {
        let at = namespace as usize;
        self.by_namespace[at]..self.by_namespace[at + 1]
    }

    /// Those of nodes.
    fn nodes(&self) -> Range<u32> {
        let first = self.by_namespace.last().copied().unwrap_or(0);
        first..number(self.all.len())
    }
}

impl KnownSignatures {
    /// Finds everybody's signature. Facts that had one in the `last` table have the same
    /// one, if the words are the same.
    fn new(
        inventory: &Inventory,
        book: &mut FactBook,
        vocabulary: Arc<Vocabulary>,
        translation: &mut KnownTranslation,
        last: Option<&Self>,
    ) -> Self {
        let facts = book.of_holders(inventory);
        let mut in_use = vec![false; book.all().len()];
        for one in facts.iter().flat_map(|facts| facts.iter()) {
            in_use[*one as usize] = true;
        }
        let last = last.filter(|last| Arc::ptr_eq(&last.set.vocabulary, &vocabulary));
        let before = |one: usize| *last?.of_facts.get(one)?;
        let in_use: Vec<usize> = (0..in_use.len()).filter(|one| in_use[*one]).collect();
        // Those of the last table that somebody still has, and signatures of new facts.
        let last_set = last.map(|last| &last.set);
        let mut is_kept = vec![false; last_set.map_or(0, |set| set.all.len())];
        let mut new: Vec<(usize, Arc<Signature>)> = Vec::new();
        for one in &in_use {
            match before(*one) {
                Some(number) => is_kept[number as usize] = true,
                None => {
                    let translation = translation.get(book, &vocabulary);
                    let signature = translation.signature(&book.all()[*one]);
                    new.push((*one, Arc::new(signature)));
                }
            }
        }
        let position = |signature: &Signature| last_set.and_then(|set| set.position(signature));
        let mut added = Vec::new();
        for (_, signature) in &new {
            match position(signature) {
                Some(number) => is_kept[number as usize] = true,
                None => added.push(signature.clone()),
            }
        }
        added.sort_unstable();
        added.dedup();
        let (set, renumbered) = match last_set {
            Some(set) if added.is_empty() && is_kept.iter().all(|kept| *kept) => {
                let same = (0..number(set.all.len())).map(Some);
                (set.clone(), same.collect())
            }
            _ => {
                let mut all = Vec::with_capacity(is_kept.len() + added.len());
                let mut renumbered = Vec::with_capacity(is_kept.len());
                let mut added = added.into_iter().peekable();
                let last = last_set.iter().flat_map(|set| &set.all);
                for (signature, is_kept) in last.zip(is_kept) {
                    while let Some(one) = added.next_if(|one| one < signature) {
                        all.push(one);
                    }
                    renumbered.push(is_kept.then_some(number(all.len())));
                    all.extend(is_kept.then(|| signature.clone()));
                }
                all.extend(added);
                (Arc::new(SignatureSet::new(vocabulary, all)), renumbered)
            }
        };
        let mut new = new.iter();
        let mut of_facts = vec![None; book.all().len()];
        let mut first_facts = vec![u32::MAX; set.all.len()];
        for one in in_use {
            let found = match before(one) {
                Some(before) => renumbered[before as usize],
                None => new
                    .next()
                    .and_then(|(_, signature)| set.position(signature)),
            };
            let signature = found.expect("the set has everybody's signature");
            of_facts[one] = Some(signature);
            let first = &mut first_facts[signature as usize];
            *first = number(one).min(*first);
        }
        Self {
            renumbered: last_set.map(|set| (set.clone(), renumbered)),
            set,
            facts,
            of_facts,
            first_facts,
        }
    }

    /// The number of a workload's signature, and the signature, if some workload had
    /// it when the table was made.
    pub(super) fn find(&self, workload: &Workload) -> Option<(u32, Signature)> {
        let signature = self.set.vocabulary.signature(workload)?;
        Some((self.set.position(&signature)?, signature))
    }

    /// For each signature of `before`, if that was the last table's, the number it has
    /// here, if it is still one.
    pub(super) fn renumbered(&self, before: &Self) -> Option<&[Option<u32>]> {
        let (last, renumbered) = self.renumbered.as_ref()?;
        Arc::ptr_eq(last, &before.set).then_some(renumbered)
    }

    /// The signatures of addresses whose owners are perhaps known by other facts than in
    /// `before`, by the positions of the addresses, which are the same ones in both. All
    /// others have the facts that they had.
    pub(super) fn changes<'s>(
        &'s self,
        before: &'s Self,
    ) -> impl Iterator<Item = (usize, u32)> + 's {
        let mut at = [0, 0];
        let old = before.facts.iter().map(Some).chain(iter::repeat(None));
        let chunks = self.facts.iter().zip(old).filter_map(move |(new, old)| {
            let [first, first_before] = at;
            at = [
                first + new.len(),
                first_before + old.map_or(0, |old| old.len()),
            ];
            let is_same = first == first_before && old.is_some_and(|old| Arc::ptr_eq(new, old));
            (!is_same).then_some((first, new))
        });
        chunks.flat_map(|(first, chunk)| {
            let signatures = chunk.iter().map(|one| self.of_facts(*one));
            (first..).zip(signatures)
        })
    }

    fn of_facts(&self, facts: u32) -> u32 {
        self.of_facts[facts as usize].expect("facts that somebody has have a signature")
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
        let (known, translation) = match (last.take(), last_vocabulary) {
            (Some(last), Some(_)) if last.holders.is_same(inventory.holders()) => {
                (last.known, last.translation)
            }
            (last, vocabulary) => {
                let vocabulary =
                    vocabulary.unwrap_or_else(|| Arc::new(Vocabulary::of(inventory, &words)));
                let (last, mut translation) = match last {
                    Some(last) => (Some(last.known), last.translation),
                    None => (None, KnownTranslation::default()),
                };
                let last = last.as_deref();
                let translate = &mut translation;
                let known = KnownSignatures::new(inventory, book, vocabulary, translate, last);
                (Arc::new(known), translation)
            }
        };
        *last = Some(LastSignatures {
            words,
            namespaces: inventory.namespaces().shared().clone(),
            holders: inventory.holders().clone(),
            translation,
            known: known.clone(),
        });
        Self {
            known,
            namespace_labels: (inventory.namespaces().values())
                .map(|namespace| &namespace.labels)
                .collect(),
            selected: HashMap::new(),
            scopes: HashMap::new(),
        }
    }

    /// Returns the number of facts that some owner has.
    pub(super) fn facts_in_use(&self) -> usize {
        self.known.of_facts.iter().flatten().count()
    }

    /// The signatures of all addresses' owners, in the order of addresses.
    pub(super) fn of_holders(&self) -> impl Iterator<Item = u32> {
        let facts = self.known.facts.iter().flat_map(|facts| facts.iter());
        facts.map(|one| self.known.of_facts(*one))
    }

    /// Returns everything that was found out, to be kept.
    pub(super) fn known(&self) -> &Arc<KnownSignatures> {
        &self.known
    }

    /// The number of a port name that some rule uses.
    pub(super) fn port_name(&self, name: &str, protocol: Protocol) -> u32 {
        self.known
            .set
            .vocabulary
            .port_name(name, protocol)
            .expect("names of all rules were learnt")
    }

    /// All signatures by number.
    pub(super) fn all(&self) -> &[Arc<Signature>] {
        &self.known.set.all
    }

    /// The lowest facts that a signature is had by: while the book of facts is the same,
    /// their number stands for everything that a policy can ask of it.
    pub(super) fn first_facts(&self, signature: u32) -> u32 {
        self.known.first_facts[signature as usize]
    }

    /// Of some signatures those that a selector chooses.
    pub(super) fn select_among(&self, signatures: &[u32], selector: &LabelSelector) -> Vec<u32> {
        let requirements = self.known.set.vocabulary.requirements(selector);
        let is_chosen = |one: &u32| {
            let signature = &self.known.set.all[*one as usize];
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
        let requirements = self.known.set.vocabulary.requirements(selector);
        let chosen = match scope {
            Scope::Selected(selector) => Some(self.chosen_namespaces(selector)),
            Scope::Own(_) | Scope::Nodes => None,
        };
        let set = &self.known.set;
        let in_scope: Vec<Range<u32>> = match (scope, &chosen) {
            (Scope::Own(namespace), _) => vec![set.of_namespace(namespace)],
            (_, Some(chosen)) => (0u32..)
                .zip(chosen.iter())
                .filter(|(_, chosen)| **chosen)
                .map(|(namespace, _)| set.of_namespace(namespace))
                .collect(),
            (_, None) => vec![set.nodes()],
        };
        let holds = |one: &u32| {
            let signature = &set.all[*one as usize];
            requirements.iter().all(|r| r.holds(signature))
        };
        let mut length: usize = in_scope.iter().map(Range::len).sum();
        let mut shortest = None;
        for requirement in &requirements {
            // Indexes know of workloads alone.
            let of_key = &set.by_key[requirement.key as usize];
            let lists: Vec<&[u32]> = match &requirement.operator {
                _ if scope == Scope::Nodes => break,
                NumberedOperator::In(values) => {
                    values.iter().map(|value| of_key.of(*value)).collect()
                }
                NumberedOperator::Exists => vec![&of_key.signatures],
                NumberedOperator::NotIn(_) | NumberedOperator::DoesNotExist => continue,
            };
            let candidates = lists.iter().map(|list| list.len()).sum();
            if candidates < length {
                length = candidates;
                shortest = Some(lists);
            }
        }
        let Some(shortest) = shortest else {
            return in_scope.into_iter().flatten().filter(holds).collect();
        };
        // Candidates of a requirement may lie in other namespaces.
        let is_in_scope = |one: &u32| {
            let namespace = set.all[*one as usize].namespace;
            match (scope, &chosen) {
                (Scope::Own(own), _) => namespace == own,
                (_, Some(chosen)) => chosen[namespace as usize],
                (_, None) => false,
            }
        };
        let candidates = shortest.into_iter().flatten().copied();
        let mut selected: Vec<u32> = candidates
            .filter(|one| is_in_scope(one) && holds(one))
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

/// A count as a number. Everything counted here has an entry in memory of at least
/// four bytes, and its capacity is checked before.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 entries")
}
