//! Rows: what the rules that match a peer say of each protocol and port.
//!
//! Input is a list of rules in the order in which they are asked, each with the keys
//! (`protocol << 16 | port`) it covers; output is the words of a row. A rule covers
//! more than another only by its keys, so the row is a sweep over the keys at which
//! some rule begins or ends.
//!
//! Invariant: of the rules that cover a key the first decides, but that one which
//! passes leads to the first of the next tier; where none decides, the default. The
//! Baseline tier is not asked where a policy of a namespace isolates. Where the subject's
//! namespace is on audit, the verdict in force never denies.

use std::collections::BTreeSet;

use cofferdam_inventory::{Mode, Tier};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{MAX_ROW_INTERVALS, ROW_KEY_END};
use cofferdam_verdict::verdict::{Action, Verdict};

use super::CompileError;

/// Keys from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Keys {
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Keys {
    /// Every packet.
    pub(super) const ALL: Self = Self {
        first: 0,
        last: ROW_KEY_END - 1,
    };
}

/// Effect of a rule where it covers a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing further is asked.
    Decided(Verdict),
    /// The next tier is asked.
    Pass,
}

/// A rule in a row.
#[derive(Debug, Clone)]
pub(super) struct RowRule<'r> {
    /// Keys that it covers, in any order.
    pub(super) keys: &'r [Keys],
    /// Effect on those keys.
    pub(super) outcome: Outcome,
    /// The tier it belongs to; rules come in the order of tiers.
    pub(super) tier: Tier,
    /// `true` if its policy is in force, and not only audited.
    pub(super) enforced: bool,
}

/// Verdicts where no rule decides. A denial is that of isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Defaults {
    pub(super) enforced: Verdict,
    pub(super) audited: Verdict,
    /// Mode of all policies for the subject, whatever their own is.
    pub(super) enforcement: Mode,
}

impl Defaults {
    /// The verdict in force where policies that are enforced come to this one.
    fn in_force(&self, verdict: Verdict) -> Verdict {
        match (self.enforcement, verdict.action) {
            (Mode::Audit, Action::Deny) => Verdict::allow(Reason::NotIsolated),
            _ => verdict,
        }
    }
}

/// The intervals of a row: first key, verdict in force, audited verdict.
pub(super) fn intervals(rules: &[RowRule<'_>], defaults: Defaults) -> Vec<[u32; 3]> {
    // Where a rule begins or ends, by key.
    let mut events: Vec<(u32, usize, bool)> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for keys in rule.keys {
            events.push((keys.first, index, true));
            events.push((keys.last + 1, index, false));
        }
    }
    events.sort_unstable();
    let mut covering = vec![0u32; rules.len()];
    let mut enforced = BTreeSet::new();
    let mut all = BTreeSet::new();
    let mut intervals: Vec<[u32; 3]> = Vec::new();
    let mut events = events.into_iter().peekable();
    let mut key = 0;
    while key < ROW_KEY_END {
        while let Some((_, index, begins)) = events.next_if(|(at, ..)| *at == key) {
            if begins {
                covering[index] += 1;
            } else {
                covering[index] -= 1;
            }
            if covering[index] == 0 {
                enforced.remove(&index);
                all.remove(&index);
            } else {
                all.insert(index);
                if rules[index].enforced {
                    enforced.insert(index);
                }
            }
        }
        let in_force = first_decision(rules, &enforced, defaults.enforced);
        let words = [
            defaults.in_force(in_force).to_word(),
            first_decision(rules, &all, defaults.audited).to_word(),
        ];
        if intervals.last().is_none_or(|last| last[1..] != words) {
            intervals.push([key, words[0], words[1]]);
        }
        key = events.peek().map_or(ROW_KEY_END, |(at, ..)| *at);
    }
    intervals
}

/// The verdict of the rules that cover a key, by their indexes.
fn first_decision(rules: &[RowRule<'_>], covering: &BTreeSet<usize>, default: Verdict) -> Verdict {
    let end_of = |tier: Tier| rules.partition_point(|rule| rule.tier <= tier);
    let end = match default.action {
        Action::Deny => end_of(Tier::Namespace),
        Action::Allow => rules.len(),
    };
    let mut from = 0;
    while from < end
        && let Some(first) = covering.range(from..end).next()
    {
        let rule = &rules[*first];
        match rule.outcome {
            Outcome::Decided(verdict) => return verdict,
            Outcome::Pass => from = end_of(rule.tier),
        }
    }
    default
}

/// The words of a row, if it is not too long.
pub(super) fn bounded_words(intervals: &[[u32; 3]]) -> Result<Box<[u32]>, CompileError> {
    if intervals.len() as u64 > MAX_ROW_INTERVALS.into() {
        return Err(CompileError::Capacity {
            table: "intervals of one row",
            used: intervals.len() as u64,
            max: MAX_ROW_INTERVALS.into(),
        });
    }
    Ok(words(intervals).into_boxed_slice())
}

/// The words of a row; see the table format.
fn words(intervals: &[[u32; 3]]) -> Vec<u32> {
    let mut words = Vec::with_capacity(1 + 3 * intervals.len());
    words.push(super::signatures::number(intervals.len()));
    for part in 0..3 {
        words.extend(intervals.iter().map(|interval| interval[part]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_verdict::reason::Reason;

    fn rule(number: u32) -> Verdict {
        Verdict {
            action: Action::Allow,
            reason: Reason::Rule,
            rule: number,
        }
    }

    const DENY: Verdict = Verdict::deny(Reason::Isolated);

    fn sweep(rules: &[(&[(u32, u32)], bool)]) -> Vec<(u32, u32, u32)> {
        sweep_in(Mode::Enforce, rules)
    }

    fn sweep_in(enforcement: Mode, rules: &[(&[(u32, u32)], bool)]) -> Vec<(u32, u32, u32)> {
        let keys: Vec<Vec<Keys>> = rules
            .iter()
            .map(|(keys, _)| {
                keys.iter()
                    .map(|(first, last)| Keys {
                        first: *first,
                        last: *last,
                    })
                    .collect()
            })
            .collect();
        let rules: Vec<RowRule<'_>> = keys
            .iter()
            .zip(rules)
            .zip(1..)
            .map(|((keys, (_, enforced)), number)| RowRule {
                keys,
                outcome: Outcome::Decided(rule(number)),
                tier: Tier::Namespace,
                enforced: *enforced,
            })
            .collect();
        let defaults = Defaults {
            enforced: DENY,
            audited: DENY,
            enforcement,
        };
        intervals(&rules, defaults)
            .into_iter()
            .map(|[key, a, b]| (key, Verdict::from_word(a).rule, Verdict::from_word(b).rule))
            .collect()
    }

    #[test]
    fn without_rules_the_default_covers_every_key() {
        assert_eq!(sweep(&[]), [(0, 0, 0)]);
    }

    #[test]
    fn the_first_rule_decides_where_several_cover() {
        let rules: [(&[_], bool); 3] = [
            (&[(20, 29)], true),
            (&[(10, 24), (40, 49)], true),
            (&[(45, 45)], true),
        ];
        assert_eq!(
            sweep(&rules),
            [
                (0, 0, 0),
                (10, 2, 2),
                (20, 1, 1),
                (30, 0, 0),
                (40, 2, 2),
                (50, 0, 0)
            ]
        );
    }

    #[test]
    fn overlapping_and_adjacent_keys_of_one_rule_are_one_interval() {
        let rules: [(&[_], bool); 1] = [(&[(10, 20), (15, 30), (31, 31)], true)];
        assert_eq!(sweep(&rules), [(0, 0, 0), (10, 1, 1), (32, 0, 0)]);
    }

    #[test]
    fn both_ends_of_the_keys_can_be_covered() {
        let last = ROW_KEY_END - 1;
        assert_eq!(sweep(&[(&[(0, last)], true)]), [(0, 1, 1)]);
        assert_eq!(sweep(&[(&[(last, last)], true)]), [(0, 0, 0), (last, 1, 1)]);
    }

    #[test]
    fn audited_rules_decide_only_in_the_audited_verdict() {
        let rules: [(&[_], bool); 2] = [(&[(10, 19)], false), (&[(15, 24)], true)];
        assert_eq!(
            sweep(&rules),
            [(0, 0, 0), (10, 0, 1), (15, 2, 1), (20, 2, 2), (25, 0, 0)]
        );
    }

    #[test]
    fn on_audit_nothing_is_denied_and_the_audited_verdict_stands() {
        let enforced: [(&[_], bool); 1] = [(&[(10, 19)], true)];
        let found = sweep_in(Mode::Audit, &enforced);
        assert_eq!(found, [(0, 0, 0), (10, 1, 1), (20, 0, 0)]);
        let defaults = Defaults {
            enforced: DENY,
            audited: DENY,
            enforcement: Mode::Audit,
        };
        let not_isolated = Verdict::allow(Reason::NotIsolated).to_word();
        assert_eq!(
            intervals(&[], defaults),
            [[0, not_isolated, DENY.to_word()]]
        );
    }
}
