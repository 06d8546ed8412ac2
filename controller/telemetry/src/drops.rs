//! Dropped packets by hook, direction, reason and policy.
//!
//! Two counters of the kernel tell of them: that of a hook and reason, and that of a rule and
//! hook. The second names the policy, for the reasons that have one. What no rule accounts
//! for is nobody's: packets of tables whose numbers this agent does not know, because an
//! agent before was killed, and of rules that have been forgotten since.
//!
//! Invariant, exact: over the policies, the series of a hook and reason sum up to the hook's
//! counter of that reason, as soon as no packet is being judged.

use std::collections::BTreeMap;

use cofferdam_compiler::PolicyKind;
use cofferdam_inventory::ObjectName;
use cofferdam_verdict::counter::{self, Counter, Hook};
use cofferdam_verdict::hits::dropped_direction;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};

use crate::hits::CountsByRule;

/// Subject of a count of dropped packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropKey {
    /// The hook that dropped them.
    pub hook: Hook,
    /// Reason of the drops.
    pub reason: Reason,
    /// Their direction, as their records have it.
    pub direction: Direction,
    /// The policy whose rule denied them, or the first of those that isolate; `None` where
    /// no policy did, or it is not known any more.
    pub policy: Option<(PolicyKind, ObjectName)>,
}

/// Reasons of drops that a rule accounts for.
const OF_POLICY: [Reason; 2] = [Reason::Rule, Reason::Isolated];

/// Remainder that no rule accounts for, as it was last seen: it never becomes less.
#[derive(Debug, Default)]
pub struct Drops {
    unaccounted: [[u64; OF_POLICY.len()]; Hook::ALL.len()],
}

impl Drops {
    /// Returns the dropped packets by the hooks' counters and the counts of rules. The
    /// counters must have been read first: a program counts a packet for its rule before it
    /// does for its hook. Counts of 0 are left out.
    pub fn count(
        &mut self,
        counters: &[Counter],
        by_rule: &CountsByRule,
    ) -> BTreeMap<DropKey, u64> {
        let mut all = BTreeMap::new();
        let mut accounted = [[0u64; OF_POLICY.len()]; Hook::ALL.len()];
        for (key, counts) in by_rule {
            let rule = &key.rule;
            // Without an index it is the policy as it isolates.
            let place = usize::from(rule.index.is_none());
            for (hook, packets) in Hook::ALL.into_iter().zip(counts.denied) {
                if packets == 0 {
                    continue;
                }
                let sum = &mut accounted[hook as usize][place];
                *sum = sum.wrapping_add(packets);
                let key = DropKey {
                    hook,
                    reason: OF_POLICY[place],
                    direction: dropped_direction(hook, OF_POLICY[place], rule.direction),
                    policy: Some((rule.kind, rule.policy.clone())),
                };
                let sum: &mut u64 = all.entry(key).or_default();
                *sum = sum.wrapping_add(packets);
            }
        }
        for hook in Hook::ALL {
            let own = dropped_direction(hook, Reason::Malformed, Direction::Ingress);
            for &reason in Reason::ALL {
                let index = counter::judged(hook, Action::Deny, reason) as usize;
                let counted = counters.get(index).map_or(0, |counter| counter.packets);
                let packets = match OF_POLICY.iter().position(|one| *one == reason) {
                    Some(place) => {
                        let rest = counted.saturating_sub(accounted[hook as usize][place]);
                        let most = &mut self.unaccounted[hook as usize][place];
                        *most = rest.max(*most);
                        *most
                    }
                    None => counted,
                };
                if packets != 0 {
                    let key = DropKey {
                        hook,
                        reason,
                        direction: own,
                        policy: None,
                    };
                    all.insert(key, packets);
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hits::{Counts, HitKey};
    use cofferdam_compiler::RuleKey;

    const HOOK: Hook = Hook::FromWorkload;

    fn counters(dropped: &[(Reason, u64)]) -> Vec<Counter> {
        let mut counters = vec![Counter::default(); counter::COUNTERS as usize];
        for (reason, packets) in dropped {
            let index = counter::judged(HOOK, Action::Deny, *reason);
            counters[index as usize].packets = *packets;
        }
        counters
    }

    fn rule(name: &str, index: Option<u32>, denied: u64) -> (HitKey, Counts) {
        let key = HitKey {
            rule: RuleKey {
                kind: PolicyKind::NetworkPolicy,
                policy: ObjectName::new("x", name),
                direction: Direction::Ingress,
                index,
            },
            action: Action::Deny,
        };
        let mut counts = Counts::default();
        counts.denied[HOOK as usize] = denied;
        (key, counts)
    }

    fn series(drops: BTreeMap<DropKey, u64>) -> Vec<(String, Reason, Direction, u64)> {
        let name = |key: &DropKey| {
            let policy = key.policy.as_ref();
            policy.map_or_else(String::new, |(_, policy)| policy.name.to_string())
        };
        let series = drops
            .into_iter()
            .inspect(|(key, _)| assert_eq!(key.hook, HOOK));
        series
            .map(|(key, packets)| (name(&key), key.reason, key.direction, packets))
            .collect()
    }

    #[test]
    fn each_dropped_packet_is_one_policys_or_nobodys() {
        let counters = counters(&[
            (Reason::Rule, 9),
            (Reason::Isolated, 7),
            (Reason::SpoofedSource, 3),
        ]);
        let rules = [
            rule("a", Some(0), 4),
            rule("a", Some(1), 5),
            rule("a", None, 2),
            rule("b", None, 3),
        ];
        let drops = Drops::default().count(&counters, &rules.into());
        let named = |name: &str| name.to_owned();
        assert_eq!(
            series(drops),
            [
                (named("a"), Reason::Rule, Direction::Ingress, 9),
                (named("a"), Reason::Isolated, Direction::Ingress, 2),
                (named("b"), Reason::Isolated, Direction::Ingress, 3),
                (named(""), Reason::Isolated, Direction::Egress, 2),
                (named(""), Reason::SpoofedSource, Direction::Egress, 3),
            ]
        );
    }

    /// A packet that is being judged is its rule's already, and not yet its hook's.
    #[test]
    fn what_is_nobodys_never_becomes_less() {
        let mut drops = Drops::default();
        let mut nobodys = |counted: u64, of_rule: u64| {
            let counters = counters(&[(Reason::Isolated, counted)]);
            let all = drops.count(&counters, &[rule("a", None, of_rule)].into());
            let nobodys = all.iter().find(|(key, _)| key.policy.is_none());
            nobodys.map_or(0, |(_, packets)| *packets)
        };
        assert_eq!(nobodys(5, 5), 0);
        assert_eq!(nobodys(5, 6), 0);
        assert_eq!(nobodys(9, 6), 3);
        assert_eq!(nobodys(9, 7), 3);
        assert_eq!(nobodys(13, 9), 4);
    }
}
