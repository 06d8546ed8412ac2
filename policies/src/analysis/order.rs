//! Rules that others leave nothing to decide, and policies of which nobody can say
//! which comes first.

use std::collections::{BTreeMap, HashSet};

use crate::diagnostic::{Code, Place};
use crate::inventory::{ClusterNetworkPolicy, RuleAction, Tier};

use super::places::Step;
use super::rules::{Policy, Rule, meets};
use super::world::World;
use super::{Findings, Project};

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    let ties = ties(project, findings);
    within_policies(project, findings);

    let mut admin: Vec<&Rule<'_>> = of_tier(project, Tier::Admin);
    let mut baseline: Vec<&Rule<'_>> = of_tier(project, Tier::Baseline);
    for tier in [&mut admin, &mut baseline] {
        tier.sort_by_key(|rule| rule.rank());
        for (position, rule) in tier.iter().enumerate() {
            if let Some(earlier) = hidden_by(rule, &tier[..position], world, &ties) {
                hidden(rule, earlier, findings);
            }
        }
    }
    let lower = (project.rules.iter())
        .filter(|rule| rule.policy.tier() != Tier::Admin && rule.action == RuleAction::Accept);
    for rule in lower {
        if let Some(deny) = overruled_by(rule, &admin, world) {
            let message = format!(
                "this never allows anything: {} denies all of it before",
                name_of(deny)
            );
            overruled(rule, deny, message, findings);
        } else if let Some(deny) = (rule.seen_from_peers()).and_then(|seen| {
            // What is let through at one end may be stopped at the other.
            overruled_by(&seen, &admin, world)
        }) {
            let message = format!(
                "what this allows is denied at the other end: {} denies all of it as {}",
                name_of(deny),
                super::rules::section(deny.direction)
            );
            overruled(rule, deny, message, findings);
        }
    }
}

fn overruled(rule: &Rule<'_>, deny: &Rule<'_>, message: String, findings: &mut Findings) {
    let hint = format!("see {}", line_of(deny.place, rule.place));
    findings.warn(rule.place.clone(), Code::Overruled, message, hint);
}

fn of_tier<'r, 'a>(project: &'r Project<'a>, tier: Tier) -> Vec<&'r Rule<'a>> {
    let rules = project.rules.iter();
    rules.filter(|rule| rule.policy.tier() == tier).collect()
}

/// The earlier rule of the tier that leaves nothing to a rule.
fn hidden_by<'r, 'a>(
    rule: &Rule<'a>,
    earlier: &[&'r Rule<'a>],
    world: &World<'a>,
    ties: &HashSet<(&str, &str)>,
) -> Option<&'r Rule<'a>> {
    if !rule.is_about_something() {
        return None;
    }
    let is_tied = |other: &Rule<'_>| match (other.policy, rule.policy) {
        (Policy::Cluster(a), Policy::Cluster(b)) => {
            ties.contains(&(a.name.as_ref(), b.name.as_ref()))
        }
        _ => false,
    };
    earlier.iter().copied().find(|other| {
        other.counts_beside(rule)
            && other.covers(rule, world)
            // Rules that agree are only said to be one too many when they are whatever
            // workloads come, not because there happen to be no others today.
            && (other.action != rule.action || other.covers_always(rule))
            && !is_tied(other)
    })
}

/// Of rules of one `NetworkPolicy`, which add up in any order.
fn within_policies(project: &Project<'_>, findings: &mut Findings) {
    let rules = &project.rules;
    let mut start = 0;
    while start < rules.len() {
        let first = &rules[start];
        let same = |rule: &Rule<'_>| {
            std::ptr::eq(rule.policy.place(), first.policy.place())
                && rule.direction == first.direction
        };
        let length = rules[start..].iter().take_while(|rule| same(rule)).count();
        if first.policy.tier() == Tier::Namespace {
            let list = &rules[start..start + length];
            for (index, rule) in list.iter().enumerate() {
                let other = list.iter().enumerate().find(|(other_index, other)| {
                    *other_index != index
                        && other.covers_always(rule)
                        // Of two that say the same, the second is too many.
                        && (*other_index < index || !rule.covers_always(other))
                });
                if let Some((_, other)) = other
                    && rule.is_about_something()
                {
                    hidden(rule, other, findings);
                }
            }
        }
        start += length;
    }
}

fn hidden(rule: &Rule<'_>, other: &Rule<'_>, findings: &mut Findings) {
    let message = match rule.policy {
        Policy::Namespace(_) => format!(
            "rule {} of `{}` allows nothing that rule {} does not allow",
            rule.index,
            super::rules::section(rule.direction),
            other.index
        ),
        Policy::Cluster(_) => format!(
            "this rule never decides: {} ({}) covers all of it before",
            name_of(other),
            other.action.as_str()
        ),
    };
    let hint = format!(
        "remove one of them, or narrow the one at {}",
        line_of(other.place, rule.place)
    );
    findings.warn(rule.place.clone(), Code::Hidden, message, hint);
}

/// The Admin rule that denies all of a rule of a lower tier, when nothing before it
/// lets any of that through.
fn overruled_by<'r, 'a>(
    rule: &Rule<'a>,
    admin: &[&'r Rule<'a>],
    world: &World<'a>,
) -> Option<&'r Rule<'a>> {
    if !rule.is_about_something() {
        return None;
    }
    for (position, other) in admin.iter().enumerate() {
        let denies = other.action == RuleAction::Deny
            && other.counts_beside(rule)
            && other.covers(rule, world);
        if !denies {
            continue;
        }
        let lets_through =
            |before: &&Rule<'_>| before.action != RuleAction::Deny && before.may_meet(rule, world);
        return (!admin[..position].iter().any(lets_through)).then_some(*other);
    }
    None
}

/// Pairs of policies of one tier and priority that decide differently about the same
/// packets, the earlier by name first.
fn ties<'a>(project: &Project<'a>, findings: &mut Findings) -> HashSet<(&'a str, &'a str)> {
    let mut by_rank: BTreeMap<_, Vec<(&'a ClusterNetworkPolicy, Vec<&Rule<'a>>)>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, Vec<&Rule<'a>>> = BTreeMap::new();
    for rule in &project.rules {
        if let Policy::Cluster(policy) = rule.policy {
            by_name.entry(&policy.name).or_default().push(rule);
        }
    }
    for (name, policy) in project.world.inventory.cluster_policies() {
        if let Some(rules) = by_name.remove(name.as_ref()) {
            let rank = (policy.tier, policy.priority, policy.mode);
            by_rank.entry(rank).or_default().push((policy, rules));
        }
    }
    let mut pairs = HashSet::new();
    for equals in by_rank.values() {
        for (position, (policy, rules)) in equals.iter().enumerate() {
            let disagreeing = equals[..position].iter().filter_map(|(other, others)| {
                // The subjects of a policy's rules are one and the same set.
                if !meets(&others[0].subjects, &rules[0].subjects) {
                    return None;
                }
                let differ = |a: &Rule<'_>, b: &Rule<'_>| a.action != b.action && a.meets(b);
                let rule = rules.iter().find_map(|rule| {
                    let theirs = others.iter().find(|theirs| differ(theirs, rule))?;
                    Some((rule, theirs))
                })?;
                Some((*other, rule))
            });
            let mut disagreeing = disagreeing.peekable();
            if let Some((other, (rule, theirs))) = disagreeing.peek() {
                let place = (project.places).find(&policy.place, &[Step::Key("priority")]);
                findings.warn(
                    place,
                    Code::PriorityTie,
                    format!(
                        "`{}` has the priority {} too, and its rule {} ({}) disagrees with rule \
                         {} here ({})",
                        other.name,
                        policy.priority,
                        theirs.index,
                        theirs.action.as_str(),
                        rule.index,
                        rule.action.as_str()
                    ),
                    "which of the two comes first is not defined: give them different priorities"
                        .to_owned(),
                );
            }
            pairs.extend(disagreeing.map(|(other, _)| (other.name.as_ref(), policy.name.as_ref())));
        }
    }
    pairs
}

/// A rule by its policy's name and its position.
fn name_of(rule: &Rule<'_>) -> String {
    format!("rule {} of `{}`", rule.index, rule.policy.name())
}

/// A line, with its file where that is another than the reader's.
fn line_of(place: &Place, reader: &Place) -> String {
    if place.file == reader.file {
        format!("line {}", place.line)
    } else {
        format!("{}:{}", place.file, place.line)
    }
}
