//! Ways that are open at one end alone: half a path between workloads, and what leads into a
//! cluster to workloads that are closed to it.
//!
//! A rule is told of only where none of the connections that it is about can come about, and
//! policies that are not understood, or select nobody, may be what opens the other end.

use cofferdam_documents::context::Entrance;
use cofferdam_inventory::{ObjectName, RuleAction, Service, ServicePort};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_verdict::verdict::Direction;

use super::rules::{Policy, Rule, peers_key, ports_may_meet, section};
use super::services::{behind, has_selector, holds, lists, target};
use super::together::Budget;
use super::{Findings, Project, places::PathStep};

/// Most pairs of workloads and rules that are compared.
const MOST_COMPARED: u64 = 10_000_000;

/// Statements of policies about a direction, by groups.
struct Isolation<'p, 'a> {
    /// `true` if a policy of the namespace isolates.
    isolated: Vec<bool>,
    /// The rules that accept.
    rules: Vec<Vec<&'p Rule<'a>>>,
    /// `true` if more is said than can be told here.
    is_unclear: Vec<bool>,
}

impl<'p, 'a> Isolation<'p, 'a> {
    fn new(project: &'p Project<'a>, direction: Direction) -> Self {
        let world = &project.world;
        let count = world.groups.len();
        let mut isolation = Self {
            isolated: vec![false; count],
            rules: vec![Vec::new(); count],
            is_unclear: vec![false; count],
        };
        for policy in world.inventory.policies().values() {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            // Who closes some workloads alone, without a rule, means it.
            let is_meant = !policy.subject.requirements().is_empty();
            if let Some(rules) = rules {
                for group in &*Policy::Namespace(policy).subjects(world) {
                    isolation.isolated[*group as usize] = true;
                    isolation.is_unclear[*group as usize] |= rules.is_empty() && is_meant;
                }
            }
        }
        for rule in project
            .rules
            .iter()
            .filter(|rule| rule.direction == direction)
        {
            // A peer that selects nobody here may be who is meant.
            let is_unclear = matches!(rule.policy, Policy::Cluster(_))
                || rule.action != RuleAction::Accept
                || !rule.is_about_something();
            for group in &*rule.subjects {
                isolation.is_unclear[*group as usize] |= is_unclear;
                isolation.rules[*group as usize].push(rule);
            }
        }
        isolation
    }

    /// Returns `true` if nothing lets connections of a rule through at this end.
    fn closes(&self, project: &Project<'_>, (own, other): (u32, u32), rule: &Rule<'_>) -> bool {
        let at = own as usize;
        self.isolated[at]
            && !self.is_unclear[at]
            && !self.rules[at].iter().any(|one| {
                holds(&project.world, one, other) && ports_may_meet(one.ports, rule.ports)
            })
    }
}

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    if project.gaps.in_policies() || project.gaps.in_objects() {
        return;
    }
    let budget = Budget::new(MOST_COMPARED);
    let [ingress, egress] =
        [Direction::Ingress, Direction::Egress].map(|direction| Isolation::new(project, direction));
    for rule in &project.rules {
        let other = match rule.direction {
            Direction::Ingress => &egress,
            Direction::Egress => &ingress,
        };
        half(project, rule, other, &budget, findings);
    }
    if !project.gaps.in_services() {
        entrances(project, &ingress, findings);
    }
}

/// A rule of a namespace's policy all of whose workloads at the other end are closed.
fn half(
    project: &Project<'_>,
    rule: &Rule<'_>,
    other: &Isolation<'_, '_>,
    budget: &Budget,
    findings: &mut Findings,
) {
    let world = &project.world;
    let peers = &rule.peers;
    let is_about_workloads = !peers.everybody && peers.blocks.is_empty() && peers.nodes.is_empty();
    if !matches!(rule.policy, Policy::Namespace(_)) || !is_about_workloads {
        return;
    }
    if rule.subjects.is_empty() || peers.workloads.is_empty() {
        return;
    }
    let pairs = rule.subjects.len() * peers.workloads.len();
    let each: usize = (peers.workloads.iter())
        .map(|group| other.rules[*group as usize].len())
        .max()
        .unwrap_or(0);
    if !budget.spend(pairs * (1 + each)) {
        return;
    }
    let mut closed = None;
    for subject in &*rule.subjects {
        for peer in &*peers.workloads {
            if !other.closes(project, (*peer, *subject), rule) {
                return;
            }
            closed = Some((*subject, *peer));
        }
    }
    let Some((subject, peer)) = closed else {
        return;
    };
    let name = |group: u32| &world.groups[group as usize].members[0].name;
    let (message, hint) = match rule.direction {
        Direction::Egress => (
            format!(
                "{} may connect to {}, whose policies let nothing in that this rule lets out",
                name(subject),
                name(peer)
            ),
            "add a rule for ingress there, or take this one out",
        ),
        Direction::Ingress => (
            format!(
                "{} is let in, and its policies let nothing out to {} that this rule lets in",
                name(peer),
                name(subject)
            ),
            "add a rule for egress there, or take this one out",
        ),
    };
    findings.warn(
        project.place_in(rule, &[PathStep::Key(peers_key(rule.direction))]),
        Code::HalfPath,
        message,
        hint.to_owned(),
    );
}

/// Services and routes that lead in from outside to workloads that let nobody in from there.
fn entrances(project: &Project<'_>, ingress: &Isolation<'_, '_>, findings: &mut Findings) {
    for entrance in &project.entrances {
        for (namespace, name, port) in &entrance.backends {
            let services = project.world.inventory.services();
            let service = services.get(&ObjectName::new(namespace, name));
            let Some(service) = service.filter(|service| has_selector(service)) else {
                continue;
            };
            let mut ports = service.ports.iter();
            let port = match port {
                None => ports.next().filter(|_| service.ports.len() == 1),
                Some(number) => ports.find(|port| port.port == *number),
            };
            let Some(port) = port else { continue };
            if let Some(closed) = closed_behind(project, service, port, ingress, entrance) {
                findings.warn(
                    entrance.place.clone(),
                    Code::ClosedBackend,
                    format!(
                        "{} {}/{} leads from outside to {closed}, whose policies let in nobody \
                         from there",
                        entrance.kind, entrance.namespace, entrance.name
                    ),
                    format!(
                        "add a rule for {} to let in what serves it",
                        section(Direction::Ingress)
                    ),
                );
                break;
            }
        }
    }
}

/// A workload behind a Service's port, if all of them are closed to what comes from outside.
fn closed_behind(
    project: &Project<'_>,
    service: &Service,
    port: &ServicePort,
    ingress: &Isolation<'_, '_>,
    entrance: &Entrance,
) -> Option<String> {
    let world = &project.world;
    let behind = behind(world, service);
    let mut first = None;
    for group in behind.iter() {
        let at = *group as usize;
        let members = &world.groups[at];
        if !ingress.isolated[at] || ingress.is_unclear[at] {
            return None;
        }
        let number = target(port, members)?;
        let lets_in = |rule: &&Rule<'_>| {
            let is_port = lists(rule.ports, port.protocol, number, Some(members));
            let is_outside = rule.peers.everybody || !rule.peers.blocks.is_empty();
            // A controller forwards what a route is about, from wherever it runs.
            let is_forwarder = entrance.is_forwarded
                && rule
                    .chosen()
                    .any(|chosen| !chosen.nodes && chosen.namespaces.is_some());
            is_port && (is_outside || is_forwarder)
        };
        if ingress.rules[at].iter().any(lets_in) {
            return None;
        }
        first.get_or_insert_with(|| members.members[0].name.to_string());
    }
    first
}
