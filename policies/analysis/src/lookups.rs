//! Workloads that may not ask any name server.
//!
//! A policy that isolates workloads for egress and lets them reach others by name must let them
//! look names up, over UDP. Nothing is said of workloads that may reach nobody, that reach address
//! blocks alone, or for which a rule is about a port by a name or about every port of others
//! than their own namespace's: a name server may be among those. Nor is anything said in a
//! cluster that has no name server.

use std::collections::BTreeSet;

use cofferdam_inventory::{NamedPort, NetworkPolicy, PortRange, Ports, Protocol, RuleAction};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_verdict::verdict::Direction;

use super::places::PathStep;
use super::rules::{Policy, Rule};
use super::world::Group;
use super::{Findings, Project};

/// The port that names are looked up at.
const PORT: u16 = 53;

/// Statements of rules about lookups of one group.
#[derive(Clone, Copy, Default)]
struct Said {
    /// Some rule lets it look names up, or may.
    may_ask: bool,
    /// Some rule is about workloads by their labels, or about everybody.
    needs_names: bool,
    /// Some rule is about the port over TCP.
    over_tcp: bool,
}

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    if project.gaps.in_policies() || has_no_name_server(project) {
        return;
    }
    let mut said = vec![Said::default(); world.groups.len()];
    let egress = || {
        let rules = project.rules.iter();
        rules
            .filter(|rule| rule.direction == Direction::Egress && rule.action == RuleAction::Accept)
    };
    for rule in egress() {
        let may_ask = may_ask(rule);
        let needs_names = rule.peers.everybody || rule.chosen().any(|chosen| !chosen.nodes);
        let over_tcp = asks_over(rule.ports, Protocol::Tcp);
        for group in &*rule.subjects {
            let said = &mut said[*group as usize];
            said.may_ask |= may_ask;
            said.needs_names |= needs_names && matches!(rule.policy, Policy::Namespace(_));
            said.over_tcp |= over_tcp;
        }
    }
    // Policies that isolate nobody but who may ask.
    let mut told: BTreeSet<u32> = BTreeSet::new();
    for policy in world.inventory.policies().values() {
        let has_rules = policy
            .egress
            .as_ref()
            .is_some_and(|rules| !rules.is_empty());
        if has_rules {
            of_policy(project, policy, &said, &mut told, findings);
        }
    }
}

/// Returns `true` for the documents of a whole cluster in which nobody answers lookups.
fn has_no_name_server(project: &Project<'_>) -> bool {
    let mut groups = project.world.groups.iter();
    let is_server = |group: &Group<'_>| {
        let is_port = |port: &NamedPort| port.number == PORT;
        group.ports.iter().any(is_port) || group.labels().get("k8s-app") == Some("kube-dns")
    };
    !project.world.inventory.nodes().is_empty() && !groups.any(is_server)
}

fn of_policy<'a>(
    project: &Project<'a>,
    policy: &'a NetworkPolicy,
    said: &[Said],
    told: &mut BTreeSet<u32>,
    findings: &mut Findings,
) {
    let world = &project.world;
    let subjects = Policy::Namespace(policy).subjects(world);
    let silent = |group: &&u32| {
        let said = said[**group as usize];
        let serves = world.groups[**group as usize]
            .ports
            .iter()
            .any(|port| port.number == PORT);
        !said.may_ask && said.needs_names && !serves
    };
    let closed: Vec<u32> = subjects.iter().filter(silent).copied().collect();
    let Some(first) = closed.iter().find(|group| !told.contains(group)).copied() else {
        return;
    };
    told.extend(&closed);
    let workload = &world.groups[first as usize].members[0].name;
    if said[first as usize].over_tcp {
        let over_tcp = project.rules.iter().find(|rule| {
            rule.direction == Direction::Egress
                && rule.subjects.binary_search(&first).is_ok()
                && asks_over(rule.ports, Protocol::Tcp)
        });
        let place = match over_tcp {
            Some(rule) => project.place_in(rule, &[PathStep::Key("ports")]),
            None => policy.place.clone(),
        };
        findings.warn(
            place,
            Code::LookupsOverTcp,
            format!("{workload} may look names up over TCP alone, and resolvers ask over UDP"),
            "add `{protocol: UDP, port: 53}`".to_owned(),
        );
    } else {
        findings.warn(
            project
                .places
                .find(&policy.place, &[PathStep::Key("egress")]),
            Code::NoLookups,
            format!("{workload} may reach others, and no rule lets it look up their names"),
            "allow `{protocol: UDP, port: 53}` and `{protocol: TCP, port: 53}` to the name servers"
                .to_owned(),
        );
    }
}

/// Returns `true` if a rule may let its subjects ask a name server.
fn may_ask(rule: &Rule<'_>) -> bool {
    match rule.ports {
        // Where the name servers are is nobody's own namespace.
        None => {
            rule.peers.everybody
                || !rule.peers.blocks.is_empty()
                || rule
                    .chosen()
                    .any(|chosen| !chosen.nodes && chosen.namespaces.is_some())
        }
        Some(ports) => ports.iter().any(|port| match &port.ports {
            Ports::Named(_) => true,
            Ports::All | Ports::Range(..) => port.protocol == Protocol::Udp && is_asked(port),
        }),
    }
}

fn asks_over(ports: Option<&[PortRange]>, protocol: Protocol) -> bool {
    let mut ports = ports.unwrap_or_default().iter();
    ports.any(|port| port.protocol == protocol && matches!(port.ports, Ports::Range(PORT, PORT)))
}

fn is_asked(port: &PortRange) -> bool {
    match port.ports {
        Ports::All => true,
        Ports::Range(first, last) => (first..=last).contains(&PORT),
        Ports::Named(_) => false,
    }
}
