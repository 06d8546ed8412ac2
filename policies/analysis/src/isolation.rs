//! Warnings about workloads that policies isolate, or leave open, probably without intent.

use std::collections::BTreeSet;

use cofferdam_documents::{Identity, Kind};
use cofferdam_inventory::{NetworkPolicy, Rule, RuleAction, Tier};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_verdict::verdict::Direction;

use super::places::{self, PathStep};
use super::rules::{Policy, section};
use super::{Findings, Project};

/// Counts of the policies and rules about a group, in one direction.
#[derive(Clone, Copy, Default)]
struct Said {
    /// Policies of namespaces that isolate it.
    isolating: u32,
    /// `true` if one of them selects everything in its namespace and has no rules: then
    /// isolation is intended.
    closed: bool,
    /// Rules of any policy that are about it.
    rules: u32,
    /// Rules among them that allow it something although it is isolated.
    allowing: u32,
}

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    let mut said =
        [Direction::Ingress, Direction::Egress].map(|_| vec![Said::default(); world.groups.len()]);
    for policy in world.inventory.policies().values() {
        let subjects = Policy::Namespace(policy).subjects(world);
        for (direction, rules) in sections(policy) {
            let Some(rules) = rules else { continue };
            let closes = rules.is_empty() && policy.subject.requirements().is_empty();
            for group in &*subjects {
                let said = &mut said[direction as usize][*group as usize];
                said.isolating += 1;
                said.closed |= closes;
            }
        }
    }
    for rule in &project.rules {
        for group in &*rule.subjects {
            let said = &mut said[rule.direction as usize][*group as usize];
            said.rules += 1;
            // The Baseline tier is not asked where a policy isolates.
            if rule.policy.tier() != Tier::Baseline && rule.action == RuleAction::Accept {
                said.allowing += 1;
            }
        }
    }
    for policy in world.inventory.policies().values() {
        if project.gaps.in_policies_of(&policy.name.namespace) {
            continue;
        }
        implied_types(project, policy, &said, findings);
        without_rule(project, policy, &said, findings);
    }
    namespaces(project, &said, findings);
}

fn sections(policy: &NetworkPolicy) -> [(Direction, Option<&[Rule]>); 2] {
    [
        (Direction::Ingress, policy.ingress.as_deref()),
        (Direction::Egress, policy.egress.as_deref()),
    ]
}

/// Presence of `policyTypes` and of a direction's rules in the text of a policy.
#[derive(Clone, Copy)]
struct WrittenTypes {
    types: bool,
    /// The key of the rules is there, with a list that may be empty.
    section: bool,
}

fn written(
    project: &Project<'_>,
    policy: &NetworkPolicy,
    direction: Direction,
) -> Option<WrittenTypes> {
    let spec = project.places.spec(&policy.place)?;
    let types = places::value(spec, "policyTypes");
    Some(WrittenTypes {
        types: types.is_some_and(|types| !places::items(types).is_empty()),
        section: places::value(spec, section(direction)).is_some(),
    })
}

/// Without `policyTypes`, a policy always isolates for ingress, and for egress only
/// where it has rules.
fn implied_types<'a>(
    project: &Project<'a>,
    policy: &'a NetworkPolicy,
    said: &[Vec<Said>; 2],
    findings: &mut Findings,
) {
    let only_egress = policy.ingress.as_ref().is_some_and(Vec::is_empty)
        && policy
            .egress
            .as_ref()
            .is_some_and(|rules| !rules.is_empty());
    if only_egress {
        let subjects = Policy::Namespace(policy).subjects(&project.world);
        let is_alone =
            |group: &u32| said[Direction::Ingress as usize][*group as usize].isolating == 1;
        let is_surprise = (written(project, policy, Direction::Ingress))
            .is_some_and(|written| !written.types && !written.section);
        if is_surprise && (subjects.is_empty() || subjects.iter().any(is_alone)) {
            findings.warn(
                project
                    .places
                    .find(&policy.place, &[PathStep::Key("egress")]),
                Code::ImpliedTypes,
                "there are only egress rules, and all ingress is denied as well".to_owned(),
                "write `policyTypes: [Egress]`; without it a policy always isolates for ingress"
                    .to_owned(),
            );
        }
    }
    // Most policies: look into the text only where it can be.
    let no_egress = policy.egress.is_none() && policy.ingress.is_some();
    if no_egress && project.places.mentions_egress(&policy.place.file) {
        let is_surprise = (written(project, policy, Direction::Egress))
            .is_some_and(|written| !written.types && written.section);
        if is_surprise {
            findings.warn(
                project
                    .places
                    .find(&policy.place, &[PathStep::Key("egress")]),
                Code::ImpliedTypes,
                "`egress` is an empty list, and egress is not denied".to_owned(),
                "write `policyTypes: [Ingress, Egress]`; without it only rules isolate for egress"
                    .to_owned(),
            );
        }
    }
}

/// A policy that closes a direction for workloads that have nothing open in it, when
/// nothing says that this is meant: a rule-less policy about everything in the
/// namespace, which is the way to begin, or an empty list in writing.
fn without_rule<'a>(
    project: &Project<'a>,
    policy: &'a NetworkPolicy,
    said: &[Vec<Said>; 2],
    findings: &mut Findings,
) {
    let world = &project.world;
    if policy.subject.requirements().is_empty() {
        return;
    }
    for (direction, rules) in sections(policy) {
        if rules.is_none_or(|rules| !rules.is_empty()) {
            continue;
        }
        let subjects = Policy::Namespace(policy).subjects(world);
        let shut = subjects.iter().find(|group| {
            let said = said[direction as usize][**group as usize];
            said.allowing == 0 && !said.closed
        });
        let Some(shut) = shut else { continue };
        let Some(written) = written(project, policy, direction) else {
            continue;
        };
        let has_rules = sections(policy)
            .iter()
            .any(|(_, rules)| rules.is_some_and(|rules| !rules.is_empty()));
        // With rules of egress alone, what is implied for ingress is told of above.
        let is_surprise = !written.section && (written.types || !has_rules);
        if !is_surprise {
            continue;
        }
        let key = section(direction);
        let path = if written.types {
            let word = match direction {
                Direction::Ingress => "Ingress",
                Direction::Egress => "Egress",
            };
            vec![PathStep::Key("policyTypes"), PathStep::Text(word)]
        } else {
            vec![PathStep::Key("podSelector")]
        };
        let example = &world.groups[*shut as usize].members[0].name;
        findings.warn(
            project.places.find(&policy.place, &path),
            Code::IsolatedWithoutRule,
            format!(
                "all {key} of {example} is denied: the policy isolates it, and no rule of any \
                 policy allows it anything"
            ),
            format!("add rules, or write `{key}: []` to say that this is meant"),
        );
    }
}

/// Namespaces whose workloads no policy is about, among others that have policies.
fn namespaces(project: &Project<'_>, said: &[Vec<Said>; 2], findings: &mut Findings) {
    let world = &project.world;
    if world.inventory.policies().is_empty() && world.inventory.cluster_policies().is_empty() {
        return;
    }
    // Of a policy that selects nothing there something else is said.
    let with_policies: BTreeSet<&str> = (world.inventory.policies().keys())
        .map(|name| name.namespace.as_ref())
        .collect();
    for (namespace, groups) in world.namespaces() {
        let is_said = |group: &u32| said.iter().any(|said| said[*group as usize].rules > 0);
        if with_policies.contains(namespace)
            || groups.iter().any(is_said)
            || project.gaps.in_policies_of(namespace)
        {
            continue;
        }
        let document = Identity {
            kind: Kind::Namespace,
            namespace: "".into(),
            name: namespace.into(),
        };
        let path = [PathStep::Key("metadata"), PathStep::Key("name")];
        let place = match project.documents.get(&document) {
            Some(place) => project.places.find_in_document(place, &path),
            None => {
                let workload = &world.groups[groups[0] as usize].members[0].name;
                let pod = Identity {
                    kind: Kind::Pod,
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                };
                let Some(place) = project.documents.get(&pod) else {
                    continue;
                };
                let path = [PathStep::Key("metadata"), PathStep::Key("namespace")];
                project.places.find_in_document(place, &path)
            }
        };
        findings.warn(
            place,
            Code::NotIsolated,
            format!(
                "no policy is about namespace `{namespace}`: anybody may reach its workloads, \
                 and they anybody"
            ),
            "begin with a policy that denies by default".to_owned(),
        );
    }
}
