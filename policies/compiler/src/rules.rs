//! The side table of rules: what the numbers in verdicts stand for.
//!
//! The kernel knows a rule by 20 bits; everything people want to hear about it is
//! here. Numbers are given in the order in which policies are asked (the Admin tier by
//! priority and name, policies of namespaces by namespace and name, the Baseline tier
//! like the first), then of direction and index, only to policies that select a
//! workload of this node, and to the ingress rules of those that select a workload
//! elsewhere. After the rules come the sets of policies that isolate,
//! named by default denials.
//!
//! Invariant: number 0 stands for nothing, and a number means one thing in one
//! table only; over tables a rule is known by its [`RuleKey`].

use std::sync::Arc;

use cofferdam_inventory::{ObjectName, Tier};
use cofferdam_syntax::diagnostic::Place;
use foldhash::HashMap;

use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::verdict::Direction;

use super::CompileError;
use super::signatures::number;

/// The kinds of policies that rules belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.
    ClusterNetworkPolicy,
}

impl PolicyKind {
    /// The kind in documents and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

/// Identity of a rule whatever the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// The policy's kind.
    pub kind: PolicyKind,
    /// The policy; one of the whole cluster lies in the namespace "".
    pub policy: ObjectName,
    /// The direction.
    pub direction: Direction,
    /// Position among the policy's rules of this direction, from 0; `None` is the
    /// policy itself, as it isolates.
    pub index: Option<u32>,
}

impl RuleKey {
    /// The policy's namespace; none of a policy of the whole cluster.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self.kind {
            PolicyKind::NetworkPolicy => Some(&self.policy.namespace),
            PolicyKind::ClusterNetworkPolicy => None,
        }
    }
}

/// A rule, or a policy as it isolates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEntry {
    /// Identity of the rule.
    pub key: RuleKey,
    /// The tier of its policy.
    pub tier: Tier,
    /// Place of the rule; for a policy, that of its `spec`.
    pub place: Place,
}

/// Meaning of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMeaning<'t> {
    /// A rule, or a policy as it isolates.
    Rule(&'t RuleEntry),
    /// Numbers of the policies, as they isolate, that a denial is due to.
    IsolationSet(&'t [u32]),
}

/// The side table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleTable {
    /// Rules and isolating policies in parts, most of which the next table shares; each
    /// part with the number of its first.
    parts: Vec<(u32, Arc<[RuleEntry]>)>,
    /// Number of entries in all parts.
    rules: u32,
    isolation_sets: Vec<Arc<[u32]>>,
}

impl RuleTable {
    /// Returns the meaning of a number in a verdict.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<RuleMeaning<'_>> {
        let index = number.checked_sub(1)?;
        if let Some(set) = index.checked_sub(self.rules) {
            let set = self.isolation_sets.get(set as usize)?;
            return Some(RuleMeaning::IsolationSet(set));
        }
        let part = self.parts.partition_point(|(first, _)| *first <= number);
        let (first, entries) = self.parts.get(part.checked_sub(1)?)?;
        let entry = entries.get((number - first) as usize)?;
        Some(RuleMeaning::Rule(entry))
    }

    /// The rule with this number.
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<&RuleEntry> {
        match self.get(number)? {
            RuleMeaning::Rule(entry) => Some(entry),
            RuleMeaning::IsolationSet(_) => None,
        }
    }

    /// The policies, as they isolate, of a default denial's number.
    pub fn isolated_by(&self, number: u32) -> impl Iterator<Item = (u32, &RuleEntry)> {
        let set = match self.get(number) {
            Some(RuleMeaning::IsolationSet(set)) => set,
            Some(RuleMeaning::Rule(_)) | None => &[],
        };
        set.iter()
            .filter_map(|number| Some((*number, self.rule(*number)?)))
    }

    /// All rules and isolating policies with their numbers, in order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = (u32, &RuleEntry)> {
        let mut parts = self
            .parts
            .iter()
            .flat_map(|(first, part)| (*first..).zip(&**part));
        (0..self.rules).map(move |_| parts.next().expect("the parts have so many rules"))
    }

    /// Numbers in use, rules and isolation sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules as usize + self.isolation_sets.len()
    }

    /// Returns `true` if no policy is in force here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Gives numbers: first to all rules, then to isolation sets as they come up.
#[derive(Debug)]
pub(super) struct RuleNumbers {
    table: RuleTable,
    sets: HashMap<Arc<[u32]>, u32>,
    max: u32,
}

impl RuleNumbers {
    /// No number is given yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            table: RuleTable::default(),
            sets: HashMap::default(),
            max: limits.max_rule(),
        }
    }

    /// Numbers the next rules, the first with what [`Self::next`] said.
    pub(super) fn add(&mut self, entries: Arc<[RuleEntry]>) -> Result<(), CompileError> {
        debug_assert!(self.table.isolation_sets.is_empty());
        if entries.is_empty() {
            return Ok(());
        }
        let first = self.next();
        self.table.rules = number(self.table.rules as usize + entries.len());
        self.table.parts.push((first, entries));
        self.last().map(|_| ())
    }

    /// The number that the next rule gets.
    pub(super) fn next(&self) -> u32 {
        number(self.table.len() + 1)
    }

    /// The number of a set of isolating policies.
    pub(super) fn isolation_set(&mut self, policies: &[u32]) -> Result<u32, CompileError> {
        if let Some(number) = self.sets.get(policies) {
            return Ok(*number);
        }
        let policies: Arc<[u32]> = policies.into();
        self.table.isolation_sets.push(policies.clone());
        let number = self.last()?;
        self.sets.insert(policies, number);
        Ok(number)
    }

    fn last(&self) -> Result<u32, CompileError> {
        let used = self.table.len();
        match u32::try_from(used) {
            Ok(number) if number <= self.max => Ok(number),
            _ => Err(CompileError::Capacity {
                table: super::RULES,
                used: used as u64,
                max: self.max.into(),
            }),
        }
    }

    /// Numbers in use, of rules and isolation sets.
    pub(super) fn used(&self) -> usize {
        self.table.len()
    }

    /// The number of the first set of isolating policies.
    pub(super) fn first_set(&self) -> u32 {
        self.table.rules + 1
    }

    /// The sets that were numbered so far, in order.
    pub(super) fn isolation_sets(&self) -> &[Arc<[u32]>] {
        &self.table.isolation_sets
    }

    pub(super) fn finish(self) -> RuleTable {
        self.table
    }
}
