//! Rules that others leave nothing to decide, and policies of which nobody can say
//! which comes first.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use cofferdam_inventory::{ClusterNetworkPolicy, RuleAction, Tier};
use cofferdam_syntax::diagnostic::{Code, Place};

use super::places::PathStep;
use super::rules::{Policy, Rule, meets};
use super::together::{Budget, cover_always, cover_here};
use super::world::World;
use super::{Findings, Project};

/// Most pairs of rules about the same workloads that are compared, a second or two of
/// work. Thirty thousand rules of applications and a hundred of the Admin tier come to a
/// fifth of it.
const MOST_COMPARISONS: u64 = 30_000_000;
/// Most rules that a message lists.
const MOST_LISTED: usize = 3;

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    let budget = &Budget::new(MOST_COMPARISONS);
    let ties = ties(project, budget, findings);
    within_policies(project, budget, findings);

    let admin = Ranked::of_tier(project, Tier::Admin);
    let baseline = Ranked::of_tier(project, Tier::Baseline);
    for tier in [&admin, &baseline] {
        for policy in &tier.policies {
            let Some(near) = tier.near(&tier.rules[policy.start].subjects, policy.start, budget)
            else {
                break;
            };
            for position in policy.clone() {
                let rule = tier.rules[position];
                let earlier = [&near, &tier.rules[policy.start..position]].concat();
                if !budget.spend(earlier.len()) {
                    break;
                }
                let earlier = hidden_by(rule, &earlier, world, &ties, budget);
                if !earlier.is_empty() {
                    hidden(rule, &earlier, findings);
                }
            }
        }
    }
    let lower = (project.rules.iter())
        .filter(|rule| rule.policy.tier() != Tier::Admin && rule.action == RuleAction::Accept);
    for rule in lower {
        let denying = overruled_by(rule, &admin, world, budget);
        if !denying.is_empty() {
            let (names, verb) = listed(&denying, "denies", "deny");
            let message = format!("this never allows anything: {names} {verb} all of it before");
            overruled(rule, &denying, message, findings);
            continue;
        }
        // What is let through at one end may be stopped at the other.
        let Some(seen) = rule.seen_from_peers() else {
            continue;
        };
        let denying = overruled_by(&seen, &admin, world, budget);
        if let Some(first) = denying.first() {
            let (names, verb) = listed(&denying, "denies", "deny");
            let message = format!(
                "what this allows is denied at the other end: {names} {verb} all of it as {}",
                super::rules::section(first.direction)
            );
            overruled(rule, &denying, message, findings);
        }
    }
}

fn overruled(rule: &Rule<'_>, denying: &[&Rule<'_>], message: String, findings: &mut Findings) {
    let hint = format!("see {}", line_of(denying[0].place, rule.place));
    findings.warn(rule.place.clone(), Code::Overruled, message, hint);
}

/// Rules by name, and the verb that fits their number.
fn listed(rules: &[&Rule<'_>], one: &'static str, many: &'static str) -> (String, &'static str) {
    let names = rules.iter().map(|rule| name_of(rule)).collect();
    (joined(names), if rules.len() == 1 { one } else { many })
}

/// Words with commas and a last `and`.
fn joined(mut words: Vec<String>) -> String {
    if words.len() > MOST_LISTED {
        let more = words.len() - (MOST_LISTED - 1);
        words.truncate(MOST_LISTED - 1);
        words.push(format!("{more} more"));
    }
    let last = words.pop().unwrap_or_default();
    if words.is_empty() {
        last
    } else {
        format!("{} and {last}", words.join(", "))
    }
}

/// The rules of one tier in the order in which they are asked.
struct Ranked<'r, 'a> {
    rules: Vec<&'r Rule<'a>>,
    /// Those of one policy each, which are about the same subjects.
    policies: Vec<Range<usize>>,
}

impl<'r, 'a> Ranked<'r, 'a> {
    fn of_tier(project: &'r Project<'a>, tier: Tier) -> Self {
        let rules = project.rules.iter();
        let mut rules: Vec<&Rule<'_>> = rules.filter(|rule| rule.policy.tier() == tier).collect();
        rules.sort_by_key(|rule| rule.rank());
        let mut start = 0;
        let same = |a: &&Rule<'_>, b: &&Rule<'_>| std::ptr::eq(a.policy.place(), b.policy.place());
        let policies = rules
            .chunk_by(same)
            .map(|rules| {
                let policy = start..start + rules.len();
                start = policy.end;
                policy
            })
            .collect();
        Self { rules, policies }
    }

    /// The rules before a position that are about some of these subjects; `None` when
    /// there is no room for comparing.
    fn near(&self, subjects: &[u32], before: usize, budget: &Budget) -> Option<Vec<&'r Rule<'a>>> {
        let policies = self.policies.partition_point(|policy| policy.end <= before);
        budget.spend(policies).then(|| {
            (self.policies[..policies].iter())
                .filter(|policy| meets(&self.rules[policy.start].subjects, subjects))
                .flat_map(|policy| self.rules[policy.clone()].iter().copied())
                .collect()
        })
    }
}

/// The earlier rules of the tier that leave nothing to a rule: one, or several together.
fn hidden_by<'r, 'a>(
    rule: &Rule<'a>,
    earlier: &[&'r Rule<'a>],
    world: &World<'a>,
    ties: &HashSet<(&str, &str)>,
    budget: &Budget,
) -> Vec<&'r Rule<'a>> {
    if !rule.is_about_something() {
        return Vec::new();
    }
    let is_tied = |other: &Rule<'_>| match (other.policy, rule.policy) {
        (Policy::Cluster(a), Policy::Cluster(b)) => {
            ties.contains(&(a.name.as_ref(), b.name.as_ref()))
        }
        _ => false,
    };
    let before = || {
        let counting = |other: &&Rule<'_>| other.counts_beside(rule) && !is_tied(other);
        earlier.iter().copied().filter(counting)
    };
    let alone = before().find(|other| {
        other.covers(rule, world)
            // Rules that agree are only said to be one too many when they are whatever
            // workloads come, not because there happen to be no others today.
            && (other.action != rule.action || other.covers_always(rule))
    });
    match alone {
        Some(other) => vec![other],
        None => cover_always(rule, before(), budget).unwrap_or_default(),
    }
}

/// Of rules of one `NetworkPolicy`, which add up in any order.
fn within_policies(project: &Project<'_>, budget: &Budget, findings: &mut Findings) {
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
            adding_up(&rules[start..start + length], budget, findings);
        }
        start += length;
    }
}

/// Of the rules of one direction of a `NetworkPolicy`.
fn adding_up(list: &[Rule<'_>], budget: &Budget, findings: &mut Findings) {
    let mut is_hidden = vec![false; list.len()];
    for (index, rule) in list.iter().enumerate() {
        if !budget.spend(list.len()) {
            return;
        }
        let other = list.iter().enumerate().find(|(other_index, other)| {
            *other_index != index
                && other.covers_always(rule)
                // Of two that say the same, the second is too many.
                && (*other_index < index || !rule.covers_always(other))
        });
        if let Some((_, other)) = other
            && rule.is_about_something()
        {
            is_hidden[index] = true;
            hidden(rule, &[other], findings);
        }
    }
    // Of several that cover each other together, the last are too many: what is left
    // allows all that there was.
    for (index, rule) in list.iter().enumerate().rev() {
        if is_hidden[index] || !rule.is_about_something() {
            continue;
        }
        let left = list
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index && !is_hidden[*other]);
        if let Some(others) = cover_always(rule, left.map(|(_, other)| other), budget) {
            is_hidden[index] = true;
            hidden(rule, &others, findings);
        }
    }
}

fn hidden(rule: &Rule<'_>, others: &[&Rule<'_>], findings: &mut Findings) {
    let together = if others.len() == 1 { "" } else { " together" };
    let message = match rule.policy {
        Policy::Namespace(_) => {
            let numbers = others.iter().map(|other| other.index.to_string()).collect();
            let (rules, verb) = match others.len() {
                1 => ("rule", "does"),
                _ => ("rules", "do"),
            };
            format!(
                "rule {} of `{}` allows nothing that {rules} {} {verb} not allow{together}",
                rule.index,
                super::rules::section(rule.direction),
                joined(numbers)
            )
        }
        Policy::Cluster(_) => {
            let names = others.iter();
            let names =
                names.map(|other| format!("{} ({})", name_of(other), other.action.as_str()));
            let verb = if others.len() == 1 { "covers" } else { "cover" };
            format!(
                "this rule never decides: {} {verb} all of it before{together}",
                joined(names.collect())
            )
        }
    };
    let line = line_of(others[0].place, rule.place);
    let hint = match others.len() {
        1 => format!("remove one of them, or narrow the one at {line}"),
        _ => format!("remove it, or narrow one of them, of which the first is at {line}"),
    };
    findings.warn(rule.place.clone(), Code::Hidden, message, hint);
}

/// The Admin rules that deny all of a rule of a lower tier, one or several together,
/// when nothing before them lets any of that through.
fn overruled_by<'r, 'a>(
    rule: &Rule<'a>,
    admin: &Ranked<'r, 'a>,
    world: &World<'a>,
    budget: &Budget,
) -> Vec<&'r Rule<'a>> {
    if !rule.is_about_something() {
        return Vec::new();
    }
    let near = admin
        .near(&rule.subjects, admin.rules.len(), budget)
        .filter(|near| budget.spend(near.len()));
    let mut denying = Vec::new();
    for other in near.unwrap_or_default() {
        if other.action != RuleAction::Deny {
            if other.may_meet(rule, world) {
                break;
            }
        } else if other.counts_beside(rule) {
            if other.covers(rule, world) {
                return vec![other];
            }
            denying.push(other);
        }
    }
    cover_here(rule, denying.into_iter(), world, budget).unwrap_or_default()
}

/// Pairs of policies of one tier and priority that decide differently about the same
/// packets, the earlier by name first.
fn ties<'a>(
    project: &Project<'a>,
    budget: &Budget,
    findings: &mut Findings,
) -> HashSet<(&'a str, &'a str)> {
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
                if !budget.spend(1 + others.len() * rules.len())
                    || !meets(&others[0].subjects, &rules[0].subjects)
                {
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
                let place = (project.places).find(&policy.place, &[PathStep::Key("priority")]);
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
