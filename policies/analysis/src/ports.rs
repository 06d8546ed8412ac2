//! Ports that the workloads a rule is about do not have: names that nobody gave, and
//! numbers that are a Service's.

use std::collections::{BTreeSet, HashMap};

use cofferdam_inventory::{
    NamedPort, PortRange, Ports, Protocol, RuleAction, Service, ServicePort, TargetPort,
};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_verdict::verdict::Direction;

use super::nearest::nearest;
use super::places::PathStep;
use super::rules::{Policy, Rule, meets};
use super::services::{self, behind, target};
use super::world::{Group, Set, World};
use super::{Findings, Project};

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let services = Services::new(project);
    for rule in &project.rules {
        let Some(ports) = rule.ports else { continue };
        let is_named = |port: &PortRange| matches!(port.ports, Ports::Named(_));
        if !project.world.groups.is_empty()
            && !project.may_miss_workloads(rule)
            && rule.is_about_something()
            && ports.iter().any(is_named)
        {
            named(project, rule, ports, findings);
        }
        let is_known = !project.gaps.in_services() && !project.may_miss_workloads(rule);
        if rule.action == RuleAction::Accept && is_known {
            services.check(project, rule, ports, findings);
        }
    }
}

/// The workloads whose ports count: those at the receiving end.
fn receivers(world: &World<'_>, rule: &Rule<'_>) -> Set {
    match rule.direction {
        Direction::Ingress => rule.subjects.clone(),
        Direction::Egress if rule.peers.everybody || rule.peers.blocks.is_everything() => {
            (0..).take(world.groups.len()).collect()
        }
        Direction::Egress if rule.peers.blocks.is_empty() => rule.peers.workloads.clone(),
        Direction::Egress => {
            let (within, _) = world.within(&rule.peers.blocks);
            let mut all: Vec<u32> = within
                .iter()
                .chain(&*rule.peers.workloads)
                .copied()
                .collect();
            all.sort_unstable();
            all.dedup();
            all.into()
        }
    }
}

fn named(project: &Project<'_>, rule: &Rule<'_>, ports: &[PortRange], findings: &mut Findings) {
    let world = &project.world;
    let receivers = receivers(world, rule);
    let groups = || receivers.iter().map(|group| &world.groups[*group as usize]);
    for (index, port) in ports.iter().enumerate() {
        let Ports::Named(name) = &port.ports else {
            continue;
        };
        // A policy of the whole cluster names a port of whatever protocol, which
        // stands here as one entry for each.
        let any_protocol = matches!(rule.policy, Policy::Cluster(_));
        let is_it = |candidate: &NamedPort| {
            candidate.name == *name && (any_protocol || candidate.protocol == port.protocol)
        };
        if groups().any(|group| group.ports.iter().any(is_it)) {
            continue;
        }
        let of_other_protocol = groups().find_map(|group| {
            let other = group.ports.iter().find(|other| other.name == *name)?;
            Some((group, other.protocol))
        });
        let names: BTreeSet<&str> = groups()
            .flat_map(|group| group.ports.iter().map(|port| port.name.as_ref()))
            .collect();
        let (message, hint) = if receivers.is_empty() {
            (
                format!("port `{name}` is never found: only workloads have ports with names"),
                "the peers are addresses of no workload: write the number".to_owned(),
            )
        } else if let Some((group, other)) = of_other_protocol {
            (
                format!(
                    "port `{name}` of {} is a port of {}, the rule is about {}",
                    group.members[0].name,
                    word(other),
                    word(port.protocol)
                ),
                format!("did you mean `protocol: {}`?", word(other)),
            )
        } else {
            let hint = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if names.is_empty() => {
                    "none of them names a port: name it there, or write the number".to_owned()
                }
                None => {
                    let names: Vec<&str> = names.iter().copied().take(5).collect();
                    format!("names there: {}", names.join(", "))
                }
            };
            (
                format!("no workload that this rule leads to has a port `{name}`"),
                hint,
            )
        };
        let path = match rule.policy {
            Policy::Namespace(_) => vec![
                PathStep::Key("ports"),
                PathStep::Item(index),
                PathStep::Key("port"),
                PathStep::Value,
            ],
            Policy::Cluster(_) => vec![PathStep::Key("protocols"), PathStep::Text(name)],
        };
        let place = project.place_in(rule, &path);
        findings.warn(place, Code::NoSuchPort, message, hint);
    }
}

/// The protocol as documents spell it.
pub(super) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// Services by the ports that clients use.
struct Services<'a> {
    by_port: HashMap<(Protocol, u16), Vec<(&'a Service, &'a ServicePort)>>,
    /// The groups behind each Service.
    behind: HashMap<*const Service, Set>,
}

impl<'a> Services<'a> {
    fn new(project: &Project<'a>) -> Self {
        let mut services = Self {
            by_port: HashMap::new(),
            behind: HashMap::new(),
        };
        for &service in &project.services {
            if !services::has_selector(service) {
                continue;
            }
            (services.behind).insert(service, behind(&project.world, service));
            for port in &service.ports {
                let key = (port.protocol, port.port);
                services
                    .by_port
                    .entry(key)
                    .or_default()
                    .push((service, port));
            }
        }
        services
    }

    fn check(
        &self,
        project: &Project<'_>,
        rule: &Rule<'_>,
        ports: &[PortRange],
        findings: &mut Findings,
    ) {
        let world = &project.world;
        let is_listed = |protocol: Protocol, number: u16| {
            ports.iter().any(|port| {
                port.protocol == protocol
                    && match port.ports {
                        Ports::All => true,
                        Ports::Range(first, last) => (first..=last).contains(&number),
                        Ports::Named(_) => false,
                    }
            })
        };
        for (index, port) in ports.iter().enumerate() {
            let Ports::Range(number, last) = port.ports else {
                continue;
            };
            let candidates = self.by_port.get(&(port.protocol, number));
            if number != last || candidates.is_none() {
                continue;
            }
            let receivers = match rule.direction {
                Direction::Ingress => &rule.subjects,
                Direction::Egress => &rule.peers.workloads,
            };
            let only_workloads = rule.direction == Direction::Ingress
                || (!rule.peers.everybody && rule.peers.blocks.is_empty());
            if receivers.is_empty() || !only_workloads {
                continue;
            }
            let groups = || receivers.iter().map(|group| &world.groups[*group as usize]);
            // Somebody there may well listen on the number itself.
            if groups().any(|group| listens(group, port.protocol, number))
                || self.is_target(project, receivers, port.protocol, number)
            {
                continue;
            }
            for (service, service_port) in candidates.into_iter().flatten() {
                let behind = &self.behind[&std::ptr::from_ref(*service)];
                // Of others that name ports, and not this one, it is known that they are
                // not meant.
                let is_known = |group: &u32| {
                    behind.binary_search(group).is_ok()
                        || !world.groups[*group as usize].ports.is_empty()
                };
                if !meets(receivers, behind) || !receivers.iter().all(is_known) {
                    continue;
                }
                let targets: BTreeSet<u16> = (receivers.iter())
                    .filter(|group| behind.binary_search(group).is_ok())
                    .filter_map(|group| target(service_port, &world.groups[*group as usize]))
                    .collect();
                let is_meant = |target: &u16| is_listed(port.protocol, *target);
                if targets.is_empty() || targets.iter().any(is_meant) {
                    continue;
                }
                let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
                let targets = targets.join(", ");
                let path = match rule.policy {
                    Policy::Namespace(_) => vec![
                        PathStep::Key("ports"),
                        PathStep::Item(index),
                        PathStep::Key("port"),
                        PathStep::Value,
                    ],
                    Policy::Cluster(_) => vec![PathStep::Key("protocols"), PathStep::Item(index)],
                };
                findings.warn(
                    project.place_in(rule, &path),
                    Code::ServicePort,
                    format!(
                        "port {number} is that of Service {}; the workloads behind it listen on \
                         {targets}",
                        service.name
                    ),
                    format!("write {targets}: what counts is the port of the workload"),
                );
                break;
            }
        }
    }

    /// Returns `true` if a Service leads to this port, given by number, of one of these
    /// groups.
    fn is_target(
        &self,
        project: &Project<'_>,
        receivers: &Set,
        protocol: Protocol,
        number: u16,
    ) -> bool {
        project.services.iter().any(|service| {
            let Some(behind) = self.behind.get(&std::ptr::from_ref(*service)) else {
                return false;
            };
            service.ports.iter().any(|port| {
                port.protocol == protocol
                    && port.target == TargetPort::Number(number)
                    && meets(behind, receivers)
            })
        })
    }
}

/// Returns `true` if a port with a name of this group has this number.
fn listens(group: &Group<'_>, protocol: Protocol, number: u16) -> bool {
    (group.ports.iter()).any(|port| port.protocol == protocol && port.number == number)
}
