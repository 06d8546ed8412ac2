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

use foldhash::HashMap;

use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::verdict::Direction;

use crate::diagnostic::Place;
use crate::inventory::{ObjectName, Tier};

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

/// What identifies a rule whatever the table.
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
    /// What identifies it.
    pub key: RuleKey,
    /// The tier of its policy.
    pub tier: Tier,
    /// Where it stands; for a policy, where its `spec` does.
    pub place: Place,
}

/// What a number stands for.
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
    entries: Vec<RuleEntry>,
    isolation_sets: Vec<Box<[u32]>>,
}

impl RuleTable {
    /// What a number in a verdict stands for.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<RuleMeaning<'_>> {
        let index = (number as usize).checked_sub(1)?;
        match self.entries.get(index) {
            Some(entry) => Some(RuleMeaning::Rule(entry)),
            None => {
                let set = self.isolation_sets.get(index - self.entries.len())?;
                Some(RuleMeaning::IsolationSet(set))
            }
        }
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
        self.entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (index as u32 + 1, entry))
    }

    /// Numbers in use, rules and isolation sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() + self.isolation_sets.len()
    }

    /// Whether no policy is in force here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Gives numbers: first to all rules, then to isolation sets as they come up.
#[derive(Debug)]
pub(super) struct RuleNumbers {
    table: RuleTable,
    sets: HashMap<Box<[u32]>, u32>,
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

    /// Numbers the next rule.
    pub(super) fn add(&mut self, entry: RuleEntry) -> Result<u32, CompileError> {
        debug_assert!(self.table.isolation_sets.is_empty());
        self.table.entries.push(entry);
        self.last()
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
        self.table.isolation_sets.push(policies.into());
        let number = self.last()?;
        self.sets.insert(policies.into(), number);
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

    pub(super) fn finish(self) -> RuleTable {
        self.table
    }
}
