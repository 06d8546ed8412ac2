//! Finds several rules that together cover all of another rule, though none does alone.
//!
//! A rule is the product of three sets: subjects, peers, ports. Each is divided into
//! parts that every candidate holds whole or, as far as can be told, not at all; then
//! the rule is covered when, for every part of its subjects and ports, the candidates
//! that hold both hold all parts of its peers between them. Blocks of addresses are not
//! divided: the union of the candidates' is asked.
//!
//! Invariant, sound: as [`Rule::covers`](super::rules::Rule::covers). A division that
//! would be too fine is not made, and nothing is said.

use std::cell::Cell;
use std::collections::BTreeSet;

use cofferdam_inventory::selectors::{LabelSelector, Operator, Requirement};
use cofferdam_inventory::{NAMESPACE_NAME_LABEL, PortRange, Ports, Protocol};

use super::ranges::Ranges;
use super::rules::{Chosen, Peers, Policy, Rule, hold, numbers, ports_may_meet};
use super::world::World;

/// Most rules that are looked at together; a set of them is one word.
const MOST_CANDIDATES: usize = 64;
/// Most parts that one selector, or the ports of a rule, are divided into.
const MOST_PARTS: usize = 256;

/// Some of the candidates, one bit each.
type CandidateSet = u64;

/// Number of comparisons that may still be made: documents are bounded, and comparing each
/// rule with each takes the square of that.
pub(super) struct Budget(Cell<u64>);

impl Budget {
    pub(super) fn new(comparisons: u64) -> Self {
        Self(Cell::new(comparisons))
    }

    /// Takes off so many comparisons; returns `false` if fewer are left.
    pub(super) fn spend(&self, comparisons: usize) -> bool {
        let left = self.0.get().checked_sub(comparisons as u64);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// Candidates that cover the parts of a rule, as one set of candidates for each part.
struct Cover<'r> {
    /// For each part of its subjects.
    subjects: BTreeSet<CandidateSet>,
    /// For each part of its ports.
    ports: BTreeSet<CandidateSet>,
    /// For each workload or node among its peers, or each part of a selector of them.
    peers: BTreeSet<CandidateSet>,
    /// The candidates about anybody.
    everybody: CandidateSet,
    rule: &'r Peers,
    /// The peers of each candidate.
    candidates: Vec<&'r Peers>,
}

/// The candidates that cover all of a rule together, whatever workloads there are: of
/// those that are asked, as few as can be left out one by one.
pub(super) fn cover_always<'r, 'a>(
    rule: &Rule<'a>,
    candidates: impl Iterator<Item = &'r Rule<'a>>,
    budget: &Budget,
) -> Option<Vec<&'r Rule<'a>>> {
    let candidates = relevant(rule, candidates);
    let subjects = match rule.policy {
        // Of one and the same policy.
        Policy::Namespace(_) => BTreeSet::from([all(&candidates)]),
        Policy::Cluster(policy) => {
            let wide: Vec<_> = (candidates.iter())
                .map(|rule| match rule.policy {
                    Policy::Cluster(policy) => vec![Chosen::workloads(&policy.subject)],
                    Policy::Namespace(_) => Vec::new(),
                })
                .collect();
            holders(&Chosen::workloads(&policy.subject), &wide, budget)?
        }
    };
    let wide: Vec<Vec<Chosen<'_>>> = (candidates.iter())
        .map(|rule| rule.chosen().collect())
        .collect();
    let mut peers = BTreeSet::new();
    for chosen in rule.chosen() {
        peers.extend(holders(&chosen, &wide, budget)?);
    }
    fewest(rule, subjects, peers, candidates, budget)
}

/// The same among the workloads and nodes that there are.
pub(super) fn cover_here<'r, 'a>(
    rule: &Rule<'a>,
    candidates: impl Iterator<Item = &'r Rule<'a>>,
    world: &World<'a>,
    budget: &Budget,
) -> Option<Vec<&'r Rule<'a>>> {
    let candidates = relevant(rule, candidates);
    let asked = rule.subjects.len() + rule.peers.workloads.len() + rule.peers.nodes.len();
    if !budget.spend(asked * candidates.len()) {
        return None;
    }
    let subjects = (rule.subjects.iter())
        .map(|group| which(&candidates, |rule| has(&rule.subjects, *group)))
        .collect();
    let workloads = rule.peers.workloads.iter().map(|group| {
        which(&candidates, |rule| {
            has(&rule.peers.workloads, *group)
                || (!rule.peers.blocks.is_empty() && world.holds_all(&rule.peers.blocks, *group))
        })
    });
    let nodes = (rule.peers.nodes.iter())
        .map(|node| which(&candidates, |rule| has(&rule.peers.nodes, *node)));
    let peers = workloads.chain(nodes).collect();
    fewest(rule, subjects, peers, candidates, budget)
}

/// The first of the candidates that a packet may be in both of, by direction and ports.
fn relevant<'r, 'a>(
    rule: &Rule<'a>,
    candidates: impl Iterator<Item = &'r Rule<'a>>,
) -> Vec<&'r Rule<'a>> {
    candidates
        .filter(|other| {
            other.direction == rule.direction && ports_may_meet(other.ports, rule.ports)
        })
        .take(MOST_CANDIDATES)
        .collect()
}

fn fewest<'r, 'a>(
    rule: &Rule<'a>,
    subjects: BTreeSet<CandidateSet>,
    peers: BTreeSet<CandidateSet>,
    candidates: Vec<&'r Rule<'a>>,
    budget: &Budget,
) -> Option<Vec<&'r Rule<'a>>> {
    let cover = Cover {
        subjects,
        ports: ports(rule.ports, &candidates, budget)?,
        peers,
        everybody: which(&candidates, |rule| rule.peers.everybody),
        rule: &rule.peers,
        candidates: candidates.iter().map(|rule| &rule.peers).collect(),
    };
    let cost = cover.subjects.len() * cover.ports.len() * (cover.peers.len() + candidates.len());
    let mut left = all(&candidates);
    if !budget.spend(cost) || !cover.holds(left) {
        return None;
    }
    for at in (0..candidates.len()).rev() {
        let without = left & !(1 << at);
        if budget.spend(cost) && cover.holds(without) {
            left = without;
        }
    }
    let kept = candidates.into_iter().enumerate();
    Some(
        kept.filter(|(at, _)| left >> at & 1 == 1)
            .map(|(_, rule)| rule)
            .collect(),
    )
}

impl Cover<'_> {
    /// Returns `true` if these candidates together cover all of the rule.
    fn holds(&self, candidates: CandidateSet) -> bool {
        let both: BTreeSet<CandidateSet> = (self.subjects.iter())
            .flat_map(|subject| {
                self.ports
                    .iter()
                    .map(move |port| subject & port & candidates)
            })
            .collect();
        both.into_iter().all(|holding| self.holds_peers(holding))
    }

    fn holds_peers(&self, holding: CandidateSet) -> bool {
        if holding & self.everybody != 0 {
            return true;
        }
        let blocks = (self.candidates.iter().enumerate())
            .filter(|(at, _)| holding >> at & 1 == 1)
            .map(|(_, peers)| peers.blocks.clone());
        let blocks = Ranges::union(blocks);
        blocks.is_everything()
            || (!self.rule.everybody
                && blocks.covers(&self.rule.blocks)
                && self.peers.iter().all(|peer| peer & holding != 0))
    }
}

/// All of the candidates.
fn all(candidates: &[&Rule<'_>]) -> CandidateSet {
    which(candidates, |_| true)
}

/// The candidates of which something holds.
fn which(candidates: &[&Rule<'_>], holds: impl Fn(&Rule<'_>) -> bool) -> CandidateSet {
    mask(candidates.iter().map(|rule| holds(rule)))
}

fn mask(holds: impl Iterator<Item = bool>) -> CandidateSet {
    (0..).zip(holds).fold(0, |mask, (at, holds)| {
        mask | CandidateSet::from(holds) << at
    })
}

fn has(set: &[u32], one: u32) -> bool {
    set.binary_search(&one).is_ok()
}

/// Returns the candidates that hold each part of the ports. Parts are the stretches between
/// the ports at which some candidate begins or ends, the names, and packets without ports.
fn ports(
    asked: Option<&[PortRange]>,
    candidates: &[&Rule<'_>],
    budget: &Budget,
) -> Option<BTreeSet<CandidateSet>> {
    let Some(asked) = asked else {
        // Of other protocols nobody has a part but those without ports, who have all.
        return Some(BTreeSet::from([which(candidates, |rule| {
            rule.ports.is_none()
        })]));
    };
    let mut parts = BTreeSet::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let theirs: Vec<Option<Vec<(u16, u16)>>> = (candidates.iter())
            .map(|rule| rule.ports.map(|ports| numbers(ports, protocol)))
            .collect();
        let holding = |stretch| {
            mask(
                (theirs.iter())
                    .map(|theirs| theirs.as_ref().is_none_or(|list| hold(list, stretch))),
            )
        };
        let edges: BTreeSet<u32> = (theirs.iter().flatten().flatten())
            .flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1])
            .collect();
        let ranges: usize = theirs.iter().flatten().map(Vec::len).sum();
        for port in asked.iter().filter(|port| port.protocol == protocol) {
            let (first, last) = match &port.ports {
                Ports::All => (0, u16::MAX),
                Ports::Range(first, last) => (*first, *last),
                Ports::Named(_) => {
                    // A name stands for a port from 1 on.
                    let named = which(candidates, |rule| {
                        rule.ports.is_some_and(|ports| ports.contains(port))
                    });
                    parts.insert(named | holding((1, u16::MAX)));
                    continue;
                }
            };
            let mut from = first;
            let edges: Vec<u16> = (edges.range(u32::from(first)..=u32::from(last)))
                .filter_map(|edge| u16::try_from(*edge).ok())
                .filter(|edge| *edge > first)
                .collect();
            if edges.len() > MOST_PARTS || !budget.spend((edges.len() + 1) * (ranges + 1)) {
                return None;
            }
            for edge in edges {
                parts.insert(holding((from, edge - 1)));
                from = edge;
            }
            parts.insert(holding((from, last)));
        }
    }
    Some(parts)
}

/// Returns the candidates that hold each part of a selector's choice; `wide` has the
/// choices of each candidate.
fn holders(
    narrow: &Chosen<'_>,
    wide: &[Vec<Chosen<'_>>],
    budget: &Budget,
) -> Option<BTreeSet<CandidateSet>> {
    let alike = || (wide.iter().flatten()).filter(|wide| wide.nodes == narrow.nodes);
    let theirs: Vec<_> = alike().filter_map(|wide| wide.namespaces).collect();
    let namespaces: Vec<Option<LabelSelector>> = match narrow.namespaces {
        None => vec![None],
        Some(selector) => (parts(selector, &theirs, true).into_iter())
            .map(Some)
            .collect(),
    };
    let theirs: Vec<_> = alike().map(|wide| wide.labels).collect();
    let labels = parts(narrow.labels, &theirs, false);
    if !budget.spend(namespaces.len() * labels.len() * (theirs.len() + 1)) {
        return None;
    }
    let mut masks = BTreeSet::new();
    for namespaces in &namespaces {
        for labels in &labels {
            let part = Chosen {
                nodes: narrow.nodes,
                namespaces: namespaces.as_ref(),
                labels,
            };
            let holds = |theirs: &Vec<Chosen<'_>>| theirs.iter().any(|wide| part.is_within(wide));
            masks.insert(mask(wide.iter().map(holds)));
        }
    }
    Some(masks)
}

/// The key of which a selector asks what no value fulfils, nor its absence.
pub(super) fn contradiction(selector: &LabelSelector, of_namespaces: bool) -> Option<&str> {
    let requirements = selector.requirements();
    requirements.iter().map(Requirement::key).find(|key| {
        let of_key = requirements.iter().filter(|other| other.key() == *key);
        let of_key: LabelSelector = of_key.cloned().collect();
        of_key.requirements().len() > 1 && parts(&of_key, &[&of_key], of_namespaces).is_empty()
    })
}

/// A selector in parts, each of which others hold whole or not at all: by each value
/// that one of them lists under a key, any other value, and none.
fn parts(
    selector: &LabelSelector,
    others: &[&LabelSelector],
    of_namespaces: bool,
) -> Vec<LabelSelector> {
    let keys: BTreeSet<&str> = (others.iter())
        .flat_map(|other| other.requirements().iter().map(Requirement::key))
        .collect();
    let whole = || vec![selector.clone()];
    let mut parts: Vec<Vec<Requirement>> = vec![
        (selector.requirements().iter())
            .filter(|own| !keys.contains(own.key()))
            .cloned()
            .collect(),
    ];
    for key in keys {
        let of_key = |requirement: &&Requirement| requirement.key() == key;
        let own: Vec<&Requirement> = selector.requirements().iter().filter(of_key).collect();
        let theirs = others
            .iter()
            .flat_map(|other| other.requirements().iter().filter(of_key));
        let mut values: BTreeSet<&str> = BTreeSet::new();
        for requirement in own.iter().copied().chain(theirs) {
            if let Operator::In(listed) | Operator::NotIn(listed) = requirement.operator() {
                values.extend(listed.iter().map(AsRef::as_ref));
            }
        }
        if values.len() > MOST_PARTS {
            return whole();
        }
        let listed = || {
            values
                .iter()
                .map(|value| Box::from(*value))
                .collect::<Box<[Box<str>]>>()
        };
        let mut choices: Vec<Vec<Requirement>> = Vec::new();
        for value in &values {
            if own.iter().all(|own| own.holds(Some(value))) {
                let is = Operator::In(Box::from([Box::from(*value)]));
                choices.push(vec![Requirement::new(key, is)]);
            }
        }
        // Every value that somebody lists is among `values`, so that all others are alike.
        let admits_others = own
            .iter()
            .all(|own| matches!(own.operator(), Operator::NotIn(_) | Operator::Exists));
        if admits_others {
            let mut other = vec![Requirement::new(key, Operator::Exists)];
            if !values.is_empty() {
                other.push(Requirement::new(key, Operator::NotIn(listed())));
            }
            choices.push(other);
        }
        // Every namespace has its name.
        let is_always_there = of_namespaces && key == NAMESPACE_NAME_LABEL;
        if !is_always_there && own.iter().all(|own| own.holds(None)) {
            choices.push(vec![Requirement::new(key, Operator::DoesNotExist)]);
        }
        if parts.len() * choices.len() > MOST_PARTS {
            return whole();
        }
        parts = (parts.iter())
            .flat_map(|part| {
                choices
                    .iter()
                    .map(move |choice| [&part[..], choice].concat())
            })
            .collect();
    }
    parts.into_iter().map(LabelSelector::from_iter).collect()
}
