//! Finds out what policies say of the ingress of workloads elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_inventory::selectors::{LabelSelector, Labels};
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, Mode, NetworkPolicy, Peer, PortRange, Ports, Protocol,
    RuleAction, Tier,
};
use foldhash::{HashMap, HashMapExt as _, HashSet};
use indexmap::IndexSet;

use ipnet::IpNet;

use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::row_key;
use cofferdam_verdict::verdict::{Action, Verdict};

use super::super::CompileError;
use super::super::facts::NODES;
use super::super::owned::OwnAddress;
use super::super::peers::restrict;
use super::super::policy::port_keys;
use super::super::rows::{self, Defaults, Keys, Outcome, RowRule};
use super::super::signatures::{PortNumbers, Signatures, number};
use super::lots::AddressSet;
use super::{NamedRow, PolicyRef, RemoteClass, RemoteNamespace, RowNames};

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
pub(super) struct RemotePolicy {
    tier: Tier,
    isolates: bool,
    enforced: bool,
    rules: Vec<RemoteRule>,
    /// The blocks that its rules name.
    pub(super) blocks: Vec<IpNet>,
}

impl RemotePolicy {
    /// The sets of own addresses that its rules speak of and that are not empty.
    pub(super) fn sets(&self) -> impl Iterator<Item = &AddressSet> {
        let peers = self.rules.iter().filter_map(|rule| rule.peers.as_ref());
        peers.filter(|set| !set.is_empty())
    }

    pub(super) fn names_peers(&self) -> bool {
        self.rules.iter().any(|rule| rule.peers.is_some())
    }
}

/// The own addresses, by what peers may be chosen by.
pub(super) struct OwnSets<'o> {
    own: &'o [OwnAddress],
    /// The signatures of own workloads, by namespace.
    pub(super) by_namespace: HashMap<u32, Vec<u32>>,
    /// The positions of each signature's addresses.
    positions: HashMap<u32, Vec<u32>>,
}

impl<'o> OwnSets<'o> {
    pub(super) fn new(own: &'o [OwnAddress], signatures: &Signatures<'_>) -> Self {
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
pub(super) struct Place<'p, 'a> {
    pub(super) namespace: u32,
    pub(super) labels: &'a Labels,
    pub(super) enforcement: Mode,
    pub(super) facts: Vec<u32>,
    pub(super) members: &'p [u32],
    pub(super) policies: &'p [&'a Arc<NetworkPolicy>],
}

/// Finds out what policies say of ingress from own addresses.
pub(super) struct Finder<'f, 'a> {
    pub(super) signatures: &'f mut Signatures<'a>,
    pub(super) own: OwnSets<'f>,
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

    pub(super) fn of_cluster(&mut self, policy: &'a ClusterNetworkPolicy) -> Option<RemotePolicy> {
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

    pub(super) fn of_namespace<'c>(
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
        let mut classes: Vec<FoundClass> = Vec::new();
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
                    let class =
                        self.class(member, &policies, &compiled, &ports, place.enforcement)?;
                    numbers.insert((policies, ports), classes.len());
                    classes.push(class);
                }
            }
        }
        // Sets of isolating policies are numbered in this order, which no address moves.
        classes.sort_by(|a, b| a.policies.cmp(&b.policies));
        let (classes, rows, names) = named(classes);
        let names_own = rows.iter().map(|row| names.has_own(row)).collect();
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
            enforcement: place.enforcement,
            facts: place.facts,
            applies,
            classes,
            rows,
            names_own,
            names,
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
        enforcement: Mode,
    ) -> Result<FoundClass, CompileError> {
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
            enforcement,
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
        Ok(FoundClass {
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

/// The words of a row in which a rule is named by its position in the class, from 1.
type ClassRow = Box<[u32]>;

/// A class by itself.
struct FoundClass {
    members: Vec<u32>,
    /// The policies, in the order of asking, each with how many rules it has.
    policies: Vec<(PolicyRef, u32)>,
    /// Those in force that isolate, as positions in the namespace.
    isolating: Vec<u32>,
    /// Those that isolate, in force or audited.
    isolating_audited: Vec<u32>,
    row: ClassRow,
    rows: Vec<(AddressSet, ClassRow)>,
}

/// The classes of a namespace, with rows that all of them share.
fn named(found: Vec<FoundClass>) -> (Vec<RemoteClass>, Vec<NamedRow>, RowNames) {
    let mut names = RowNames::default();
    // Of each policy the name of its first rule.
    let mut first_rules: HashMap<PolicyRef, u32> = HashMap::new();
    let mut next = 1;
    for (policy, count) in found.iter().flat_map(|class| &class.policies) {
        first_rules.entry(*policy).or_insert_with(|| {
            names.policies.push((*policy, *count));
            next += count;
            next - count
        });
    }
    let mut sets: IndexSet<Box<[u32]>> = IndexSet::new();
    let mut rows: IndexSet<NamedRow> = IndexSet::new();
    let mut classes = Vec::with_capacity(found.len());
    for class in found {
        let mut set = |isolating: &[u32]| match isolating {
            [] => 0,
            _ => next + number(sets.insert_full(isolating.into()).0),
        };
        let isolated = [set(&class.isolating), set(&class.isolating_audited)];
        let mut rules = vec![0];
        for (policy, count) in &class.policies {
            let first = first_rules[policy];
            rules.extend(first..first + count);
        }
        let mut row = |mut words: ClassRow| {
            let count = words[0] as usize;
            let (enforced, audited) = words[1 + count..].split_at_mut(count);
            for (part, isolated) in [enforced, audited].into_iter().zip(isolated) {
                for word in part {
                    let verdict = Verdict::from_word(*word);
                    let rule = match verdict.reason {
                        Reason::Isolated => isolated,
                        _ => rules[verdict.rule as usize],
                    };
                    *word = Verdict { rule, ..verdict }.to_word();
                }
            }
            number(rows.insert_full(words).0)
        };
        classes.push(RemoteClass {
            members: class.members,
            policies: class.policies.into_iter().map(|(one, _)| one).collect(),
            row: row(class.row),
            rows: (class.rows.into_iter())
                .map(|(part, words)| (part, row(words)))
                .collect(),
        });
    }
    names.isolating = sets.into_iter().collect();
    (classes, rows.into_iter().collect(), names)
}

impl RowNames {
    /// Returns `true` if a row names a rule of the namespace, or a set of its policies.
    fn has_own(&self, row: &[u32]) -> bool {
        let verdicts = &row[1 + row[0] as usize..];
        let mut named = verdicts.iter().map(|word| Verdict::from_word(*word).rule);
        named.any(|name| {
            let mut next = 1;
            let of = self.policies.iter().find(|(_, count)| {
                next += count;
                name < next
            });
            name != 0 && !matches!(of, Some((PolicyRef::Cluster(_), _)))
        })
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
