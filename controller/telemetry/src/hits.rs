//! Hits of rules, over tables.
//!
//! A program counts under the number that a rule has in the table it judges by. When a
//! table is replaced its counts are read and kept here under what identifies a rule
//! whatever the table. A rule keeps its count while it is renumbered, or absent for a while.
//!
//! An agent that is told to stop saves its counts, and what the numbers of the table in
//! force stand for: programs count on without it, and the next agent takes all of it up. An
//! agent that is killed saves nothing, and the counts begin at 0 again, as those of any
//! process do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_compiler::{PolicyKind, RuleEntry, RuleKey, RuleTable};
use cofferdam_dataplane::RuleHits;
use cofferdam_inventory::{Inventory, ObjectName, RuleAction};
use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::verdict::{Action, Direction};
use serde::{Deserialize, Serialize};

/// Rules whose counts are kept although no table has them any more.
const KEPT: usize = 16_384;

/// Subject of a count: a rule, or a policy as it isolates, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HitKey {
    /// The rule. Without an index it is the policy as it isolates.
    pub rule: RuleKey,
    /// Its action.
    pub action: Action,
}

/// Counts of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Flows that it allowed, or packets that it denied.
    pub hits: u64,
    /// Packets that it would have denied with audit policies in force.
    pub audited: u64,
    /// Packets that were dropped by it, by [`Hook`]. Those of a default denial are the first
    /// isolating policy's alone. Packets that an older agent has saved are not among them.
    #[serde(default)]
    pub denied: [u64; Hook::ALL.len()],
}

/// Counts by rule.
pub type CountsByRule = BTreeMap<HitKey, Counts>;

/// The rules of one table by their numbers.
#[derive(Debug)]
pub enum Meaning {
    /// As this agent has compiled them.
    Compiled(Rules),
    /// As the agent before has saved them.
    Saved(BTreeMap<u32, Vec<HitKey>>),
}

impl Meaning {
    /// The rules of a table that was compiled of this.
    #[must_use]
    pub fn new(rules: Arc<RuleTable>, inventory: Inventory) -> Self {
        Self::Compiled(Rules { rules, inventory })
    }

    /// The rule with this number, or all policies of a set that isolates; nothing if there
    /// is no such number.
    fn keys(&self, number: u32) -> Vec<HitKey> {
        match self {
            Self::Compiled(rules) => rules.keys(number),
            Self::Saved(numbers) => numbers.get(&number).cloned().unwrap_or_default(),
        }
    }

    /// The greatest number.
    fn last(&self) -> u32 {
        match self {
            Self::Compiled(rules) => u32::try_from(rules.rules.len()).unwrap_or(u32::MAX),
            Self::Saved(numbers) => numbers.keys().next_back().copied().unwrap_or(0),
        }
    }
}

/// The rules of a table, and what they were compiled of.
#[derive(Debug)]
pub struct Rules {
    rules: Arc<RuleTable>,
    // A copy, which shares nearly everything with what is in force.
    inventory: Inventory,
}

impl Rules {
    fn keys(&self, number: u32) -> Vec<HitKey> {
        match self.rules.rule(number) {
            Some(entry) => vec![self.key(entry)],
            None => {
                let policies = self.rules.isolated_by(number);
                policies.map(|(_, entry)| self.key(entry)).collect()
            }
        }
    }

    fn key(&self, entry: &RuleEntry) -> HitKey {
        HitKey {
            rule: entry.key.clone(),
            action: self.action(&entry.key),
        }
    }

    fn action(&self, key: &RuleKey) -> Action {
        let Some(index) = key.index else {
            return Action::Deny;
        };
        let policy = match key.namespace() {
            Some(_) => None,
            None => self.inventory.cluster_policies().get(&key.policy.name),
        };
        let rules = policy.map(|policy| match key.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        });
        match rules.and_then(|rules| rules.get(index as usize)) {
            Some(rule) if rule.action == RuleAction::Deny => Action::Deny,
            _ => Action::Allow,
        }
    }
}

/// Counts of all tables of this agent.
#[derive(Debug, Default)]
pub struct Hits {
    retired: CountsByRule,
    in_force: Option<Meaning>,
    /// The keys that it names, once they were asked for.
    known: Option<Arc<BTreeSet<HitKey>>>,
}

impl Hits {
    /// Takes in what was counted under the table that was in force, and says what counts
    /// are of from now on.
    pub fn retire(&mut self, counted: impl Iterator<Item = RuleHits>, next: Meaning) {
        self.known = None;
        if let Some(before) = self.in_force.replace(next) {
            add(&mut self.retired, counted, &before);
        }
        if self.retired.len() > KEPT {
            let there = self.in_force();
            self.retired.retain(|key, _| there.contains(key));
        }
    }

    /// Returns the rules and policies that the table in force knows.
    pub fn in_force(&mut self) -> Arc<BTreeSet<HitKey>> {
        let in_force = self.in_force.as_ref();
        let known = self.known.get_or_insert_with(|| {
            let keys = in_force
                .into_iter()
                .flat_map(|meaning| (1..=meaning.last()).flat_map(|number| meaning.keys(number)));
            Arc::new(keys.collect())
        });
        known.clone()
    }

    /// Returns what the next agent needs to count on, with the number of the table in
    /// force.
    #[must_use]
    pub fn saved(&self, revision: u64) -> SavedHits {
        let retired = self.retired.iter();
        let numbers = self.in_force.iter().flat_map(|meaning| {
            (1..=meaning.last()).map(|number| {
                let keys = meaning.keys(number);
                (number, keys.iter().map(SavedKey::from).collect())
            })
        });
        SavedHits {
            revision,
            retired: (retired.map(|(key, counts)| (SavedKey::from(key), *counts))).collect(),
            numbers: numbers.collect(),
        }
    }

    /// Counts on where an agent before stopped, if the table in force is the one that it
    /// left: other tables have other numbers.
    #[must_use]
    pub fn resumed(saved: SavedHits, revision: u64) -> Self {
        if saved.revision != revision {
            return Self::default();
        }
        let retired = saved.retired.into_iter();
        let numbers = saved.numbers.into_iter().map(|(number, keys)| {
            let keys = keys.into_iter().map(HitKey::from);
            (number, keys.collect())
        });
        Self {
            retired: (retired.map(|(key, counts)| (key.into(), counts))).collect(),
            in_force: Some(Meaning::Saved(numbers.collect())),
            known: None,
        }
    }

    /// Counts of all rules, with what is counted so far under the table in force.
    #[must_use]
    pub fn counts(&self, counted: impl Iterator<Item = RuleHits>) -> CountsByRule {
        let mut all = self.retired.clone();
        if let Some(meaning) = &self.in_force {
            add(&mut all, counted, meaning);
        }
        all
    }
}

/// Name of the file of [`SavedHits`].
pub const FILE: &str = "hits.json";

/// Counts that an agent saves for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHits {
    /// Number of the table in force.
    revision: u64,
    /// Counts of tables before it.
    retired: Vec<(SavedKey, Counts)>,
    /// Keys that its numbers stand for.
    numbers: Vec<(u32, Vec<SavedKey>)>,
}

/// A [`HitKey`] as it is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedKey {
    is_cluster: bool,
    namespace: String,
    name: String,
    is_egress: bool,
    index: Option<u32>,
    denies: bool,
}

impl From<&HitKey> for SavedKey {
    fn from(key: &HitKey) -> Self {
        let rule = &key.rule;
        Self {
            is_cluster: rule.kind == PolicyKind::ClusterNetworkPolicy,
            namespace: rule.policy.namespace.to_string(),
            name: rule.policy.name.to_string(),
            is_egress: rule.direction == Direction::Egress,
            index: rule.index,
            denies: key.action == Action::Deny,
        }
    }
}

impl From<SavedKey> for HitKey {
    fn from(saved: SavedKey) -> Self {
        Self {
            rule: RuleKey {
                kind: match saved.is_cluster {
                    true => PolicyKind::ClusterNetworkPolicy,
                    false => PolicyKind::NetworkPolicy,
                },
                policy: ObjectName::new(&saved.namespace, &saved.name),
                direction: match saved.is_egress {
                    true => Direction::Egress,
                    false => Direction::Ingress,
                },
                index: saved.index,
            },
            action: match saved.denies {
                true => Action::Deny,
                false => Action::Allow,
            },
        }
    }
}

fn add(all: &mut CountsByRule, counted: impl Iterator<Item = RuleHits>, meaning: &Meaning) {
    for counted in counted {
        for (place, key) in meaning.keys(counted.rule).into_iter().enumerate() {
            let counts = all.entry(key).or_default();
            counts.hits = counts.hits.wrapping_add(counted.hits());
            counts.audited = counts.audited.wrapping_add(counted.audited);
            if place == 0 {
                for (sum, denied) in counts.denied.iter_mut().zip(counted.denied) {
                    *sum = sum.wrapping_add(denied);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_compiler::{Input, SlotPlan, compile};
    use cofferdam_documents::{assemble, parse};
    use cofferdam_verdict::capacity::Limits;

    const PODS: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 10.0.0.1}}
---
";
    const FIRST: &str = "\
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: x},
 spec: {podSelector: {}, ingress: [{}]}}
---
";
    const SECOND: &str = "\
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b, namespace: x},
 spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 81}]}]}}
---
";
    const CLUSTER: &str = "\
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c},
 spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [
  {action: Accept, to: [{networks: [10.0.0.0/24]}]},
  {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}}
---
";

    #[expect(
        clippy::disallowed_methods,
        reason = "the agent's part, without an agent"
    )]
    fn meaning(policies: &[&str]) -> Meaning {
        let text = [&[PODS], policies].concat().concat();
        let inventory = assemble(parse("f.yaml", text.as_bytes()).documents).inventory;
        let compiled = compile(&Input {
            inventory: &inventory,
            slots: &SlotPlan::assign(&inventory),
            is_local: &|_| true,
            own_node: None,
            limits: Limits::DEFAULT,
            revision: 1,
        })
        .unwrap();
        Meaning::new(compiled.rules, inventory)
    }

    fn number(meaning: &Meaning, policy: &str, index: Option<u32>) -> u32 {
        let is_it = |number: &u32| match &meaning.keys(*number)[..] {
            [key] => &*key.rule.policy.name == policy && key.rule.index == index,
            _ => false,
        };
        (1..=meaning.last()).find(is_it).unwrap()
    }

    fn hit(rule: u32, allowed: u64) -> RuleHits {
        RuleHits {
            rule,
            allowed,
            audited: 0,
            denied: [0; 4],
        }
    }

    fn of(counts: &CountsByRule, policy: &str, index: Option<u32>) -> Vec<(Action, u64)> {
        (counts.iter())
            .filter(|(key, _)| &*key.rule.policy.name == policy && key.rule.index == index)
            .map(|(key, counts)| (key.action, counts.hits))
            .collect()
    }

    #[test]
    fn a_rule_keeps_its_count_under_other_numbers_and_while_it_is_absent() {
        let mut hits = Hits::default();
        let alone = meaning(&[SECOND]);
        let rule = number(&alone, "b", Some(1));
        hits.retire(std::iter::empty(), alone);
        let both = meaning(&[FIRST, SECOND]);
        let moved = number(&both, "b", Some(1));
        assert_ne!(rule, moved);
        hits.retire([hit(rule, 3)].into_iter(), both);
        hits.retire([hit(moved, 4)].into_iter(), meaning(&[FIRST]));
        hits.retire(std::iter::empty(), meaning(&[SECOND]));
        let counts = hits.counts([hit(rule, 5)].into_iter());
        assert_eq!(of(&counts, "b", Some(1)), [(Action::Allow, 12)]);
        assert_eq!(of(&counts, "b", Some(0)), []);
    }

    #[test]
    fn a_default_denial_is_a_hit_of_every_policy_that_isolates() {
        let mut hits = Hits::default();
        let both = meaning(&[FIRST, SECOND]);
        let set = (1..).find(|number| both.keys(*number).len() == 2);
        hits.retire(std::iter::empty(), both);
        let counts = hits.counts([hit(set.unwrap(), 7)].into_iter());
        for policy in ["a", "b"] {
            assert_eq!(of(&counts, policy, None), [(Action::Deny, 7)]);
        }
    }

    /// Not so what it has dropped: a packet is one policy's, the first that records name.
    #[test]
    fn a_denied_packet_is_dropped_by_the_first_policy_that_isolates() {
        let mut hits = Hits::default();
        let both = meaning(&[FIRST, SECOND]);
        let set = (1..).find(|number| both.keys(*number).len() == 2).unwrap();
        hits.retire(std::iter::empty(), both);
        let denied = |packets| RuleHits {
            denied: packets,
            ..hit(set, 0)
        };
        // The counts go on under another table.
        hits.retire(
            [denied([1, 2, 3, 4])].into_iter(),
            meaning(&[FIRST, SECOND]),
        );
        let counts = hits.counts([denied([0, 5, 0, 0])].into_iter());
        let of_isolation = counts
            .iter()
            .filter(|(key, _)| key.rule.index.is_none())
            .map(|(key, counts)| {
                let name = key.rule.policy.name.to_string();
                (name, counts.hits, counts.denied)
            });
        let expected = [("a", [1, 7, 3, 4]), ("b", [0; 4])]
            .map(|(name, denied)| (name.to_owned(), 15, denied));
        assert_eq!(of_isolation.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_an_older_agent_has_saved_is_read() {
        let key = r#"{"is_cluster":false,"namespace":"x","name":"a","is_egress":false,"index":null,"denies":true}"#;
        let saved = format!(
            r#"{{"revision":7,"retired":[[{key},{{"hits":3,"audited":1}}]],"numbers":[[1,[{key}]]]}}"#
        );
        let next = Hits::resumed(serde_json::from_str(&saved).unwrap(), 7);
        let counts = next.counts(std::iter::once(RuleHits {
            denied: [0, 2, 0, 0],
            ..hit(1, 0)
        }));
        let counts: Vec<_> = counts.values().collect();
        let expected = Counts {
            hits: 5,
            audited: 1,
            denied: [0, 2, 0, 0],
        };
        assert_eq!(counts, [&expected]);
    }

    #[test]
    fn the_next_agent_counts_on_under_the_same_table_alone() {
        let mut hits = Hits::default();
        let (alone, both) = (meaning(&[FIRST]), meaning(&[FIRST, CLUSTER]));
        let [before, rule] = [&alone, &both].map(|one| number(one, "a", Some(0)));
        hits.retire(std::iter::empty(), alone);
        hits.retire([hit(before, 2)].into_iter(), both);
        let saved = serde_json::to_string(&hits.saved(7)).unwrap();
        for (revision, expected) in [(7, vec![(Action::Allow, 5)]), (8, vec![])] {
            let saved = serde_json::from_str(&saved).unwrap();
            let mut next = Hits::resumed(saved, revision);
            let counted = || [hit(rule, 3)].into_iter();
            assert_eq!(of(&next.counts(counted()), "a", Some(0)), expected);
            next.retire(counted(), meaning(&[CLUSTER]));
            assert_eq!(of(&next.counts(std::iter::empty()), "a", Some(0)), expected);
        }
    }

    #[test]
    fn rules_of_the_cluster_have_their_own_action() {
        let mut hits = Hits::default();
        let cluster = meaning(&[CLUSTER]);
        let rules = [0, 1].map(|index| hit(number(&cluster, "c", Some(index)), 2));
        hits.retire(std::iter::empty(), cluster);
        let counts = hits.counts(rules.into_iter());
        assert_eq!(of(&counts, "c", Some(0)), [(Action::Allow, 2)]);
        assert_eq!(of(&counts, "c", Some(1)), [(Action::Deny, 2)]);
    }
}
