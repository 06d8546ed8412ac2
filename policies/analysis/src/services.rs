//! Services that lead to nobody, and who is behind those that do.

use std::collections::{BTreeSet, HashSet};

use cofferdam_documents::{Identity, Kind};
use cofferdam_inventory::selectors::{LabelSelector, Operator, Requirement};
use cofferdam_inventory::{
    ObjectName, Owner, PortRange, Ports, Protocol, Service, ServiceKind, ServicePort, TargetPort,
};
use cofferdam_syntax::diagnostic::{Code, Place};

use super::nearest::nearest;
use super::places::PathStep;
use super::ports::word;
use super::rules::Rule;
use super::selectors::{labels_to_blame, may_be_made};
use super::together::Budget;
use super::world::{Group, Set, World};
use super::{Findings, Project};

/// Most names of ports that a hint lists.
const MOST_LISTED: usize = 5;

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    if project.gaps.in_services() {
        return;
    }
    let slices = world.inventory.slices();
    let with_slices: HashSet<(&str, &str)> = (slices.iter())
        .filter_map(|(name, slice)| Some((&*name.namespace, slice.service.as_deref()?)))
        .collect();
    for service in &project.services {
        shares_address(project, service, findings);
        let name = (&*service.name.namespace, &*service.name.name);
        // Without workloads of its namespace the documents are not about who is behind it.
        let is_told = has_selector(service)
            && service.kind != ServiceKind::ExternalName
            && !world.of_namespace(&service.name.namespace).is_empty()
            && !project.gaps.in_objects_of(&service.name.namespace)
            && !with_slices.contains(&name);
        if !is_told {
            continue;
        }
        let behind = behind(world, service);
        if behind.is_empty() {
            selects_nobody(project, service, findings);
        } else {
            leads_to_no_port(project, service, &behind, findings);
        }
    }
}

/// Proxies translate the address; a sender's hook judges it as the workload's, and the hook
/// behind the proxy as the backend's.
fn shares_address(project: &Project<'_>, service: &Service, findings: &mut Findings) {
    if service.kind != ServiceKind::Virtual {
        return;
    }
    for address in service.addresses() {
        let Some(Owner::Workload(owner)) = project.world.inventory.owner(address) else {
            continue;
        };
        let key = match service.cluster_addresses.contains(&address) {
            true => "clusterIP",
            false => "externalIPs",
        };
        let path = [PathStep::Key("spec"), PathStep::Key(key)];
        if let Some(place) = place(project, &service.name, &path) {
            findings.warn(
                place,
                Code::AddressConflict,
                format!(
                    "{address} is the address of {owner}, too: proxies translate the Service's \
                     ports there, and a connection needs leave to reach both the workload and \
                     the backend"
                ),
                "give the Service an address that nothing else has".to_owned(),
            );
        }
    }
}

fn selects_nobody(project: &Project<'_>, service: &Service, findings: &mut Findings) {
    let requirements = service.selector.iter().map(|(key, value)| {
        let value = Operator::In(Box::from([Box::from(value)]));
        Requirement::new(key, value)
    });
    let selector: LabelSelector = requirements.collect();
    let namespace = &service.name.namespace;
    let has_labels = |labels| selector.matches(labels);
    let world = &project.world;
    let mut others = world.unselectable.iter();
    // One that shares its node's network is behind it all the same.
    let is_somebody = others.any(|workload| {
        workload.host_network
            && !workload.finished
            && workload.name.namespace == *namespace
            && has_labels(&workload.labels)
    });
    if is_somebody || may_be_made(project, namespace, &selector) {
        return;
    }
    let (key, message, hint) = labels_to_blame(world, namespace, &selector);
    let mut path = vec![PathStep::Key("spec"), PathStep::Key("selector")];
    path.extend(key.as_deref().map(PathStep::Key));
    let Some(place) = place(project, &service.name, &path) else {
        return;
    };
    findings.warn(
        place,
        Code::ServiceEmpty,
        format!("the Service selects no workload: {message}"),
        hint,
    );
}

fn leads_to_no_port(
    project: &Project<'_>,
    service: &Service,
    behind: &Set,
    findings: &mut Findings,
) {
    let groups = || (behind.iter()).map(|group| &project.world.groups[*group as usize]);
    for (index, port) in service.ports.iter().enumerate() {
        let TargetPort::Name(name) = &port.target else {
            continue;
        };
        if groups().any(|group| target(port, group).is_some()) {
            continue;
        }
        let names: BTreeSet<&str> = groups()
            .flat_map(|group| group.ports.iter().map(|own| own.name.as_ref()))
            .collect();
        let other = groups().find_map(|group| {
            let mut own = group.ports.iter();
            own.find(|own| own.name == *name).map(|own| own.protocol)
        });
        let hint = match (other, nearest(name, names.iter().copied())) {
            (Some(other), _) => format!("it is one of {}: did you mean that?", word(other)),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) if names.is_empty() => {
                "none of them names a port: name it there, or write the number".to_owned()
            }
            (None, None) => {
                let names: Vec<&str> = names.iter().copied().take(MOST_LISTED).collect();
                format!("names there: {}", names.join(", "))
            }
        };
        let path = [
            PathStep::Key("spec"),
            PathStep::Key("ports"),
            PathStep::Item(index),
            PathStep::Key("targetPort"),
            PathStep::Value,
        ];
        let Some(place) = place(project, &service.name, &path) else {
            continue;
        };
        findings.warn(
            place,
            Code::ServiceTarget,
            format!(
                "no workload behind the Service has a port `{name}` of {}",
                word(port.protocol)
            ),
            hint,
        );
    }
}

/// A place in a Service's document.
pub(super) fn place(
    project: &Project<'_>,
    name: &ObjectName,
    path: &[PathStep<'_>],
) -> Option<Place> {
    let identity = Identity {
        kind: Kind::Service,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    };
    let document = project.documents.get(&identity)?;
    Some(project.places.find_in_document(document, path))
}

/// Returns `true` if labels say who is behind a Service.
pub(super) fn has_selector(service: &Service) -> bool {
    service.selector.iter().len() > 0
}

/// The groups behind a Service, by its selector.
pub(super) fn behind(world: &World<'_>, service: &Service) -> Set {
    world.with_labels(&service.name.namespace, &service.selector)
}

/// The number that a Service's port leads to at a group.
pub(super) fn target(port: &ServicePort, group: &Group<'_>) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => (group.ports.iter())
            .find(|own| own.name == *name && own.protocol == port.protocol)
            .map(|own| own.number),
    }
}

/// A workload and one behind a Service about which no rule says what is meant.
pub(super) struct Gap<'a> {
    pub(super) subject: &'a ObjectName,
    pub(super) backend: &'a ObjectName,
}

/// Two workloads to which a rule for egress would apply if it were about who is behind a
/// Service, where no rule that does the same is about the two; none where there is
/// nobody, or it would take too long to say.
pub(super) fn gap<'a>(
    project: &Project<'a>,
    rule: &Rule<'_>,
    service: &Service,
    budget: &Budget,
) -> Option<Gap<'a>> {
    let world = &project.world;
    let is_missing = project.gaps.in_objects() || project.gaps.in_services();
    if is_missing || !has_selector(service) || !budget.spend(project.rules.len()) {
        return None;
    }
    let behind = behind(world, service);
    let same: Vec<&Rule<'_>> = (project.rules.iter())
        .filter(|one| one.direction == rule.direction && one.action == rule.action)
        .collect();
    if !budget.spend(rule.subjects.len() * behind.len() * same.len()) {
        return None;
    }
    let is_about = |port: &&ServicePort| lists(rule.ports, port.protocol, port.port, None);
    let mut ports: Vec<&ServicePort> = service.ports.iter().filter(is_about).collect();
    // Whoever writes the pods' port beside the Service's address means the Service, too.
    if ports.is_empty() {
        ports = service.ports.iter().collect();
    }
    for subject in &*rule.subjects {
        let own = &world.groups[*subject as usize];
        if project.gaps.in_policies_of(own.namespace) {
            return None;
        }
        for backend in behind.iter().filter(|backend| *backend != subject) {
            let group = &world.groups[*backend as usize];
            let is_said = |port: &&ServicePort| {
                target(port, group).is_none_or(|number| {
                    same.iter().any(|one| {
                        one.subjects.binary_search(subject).is_ok()
                            && holds(world, one, *backend)
                            && lists(one.ports, port.protocol, number, Some(group))
                    })
                })
            };
            if !ports.iter().all(is_said) {
                return Some(Gap {
                    subject: &own.members[0].name,
                    backend: &group.members[0].name,
                });
            }
        }
    }
    None
}

/// Returns `true` if a group is among a rule's peers, or may be once it has addresses.
pub(super) fn holds(world: &World<'_>, rule: &Rule<'_>, group: u32) -> bool {
    let blocks = &rule.peers.blocks;
    let mut members = world.groups[group as usize].members.iter();
    let is_waiting = members.any(|workload| workload.own_addresses().is_empty());
    let mut ranges = blocks.v4().iter().chain(blocks.v6());
    rule.peers.everybody
        || rule.peers.workloads.binary_search(&group).is_ok()
        || world.holds_all(blocks, group)
        || is_waiting && ranges.any(|(first, last)| first < last)
}

/// Returns `true` if a rule covers a port, which the group at the receiving end may have
/// a name for.
pub(super) fn lists(
    ports: Option<&[PortRange]>,
    protocol: Protocol,
    number: u16,
    group: Option<&Group<'_>>,
) -> bool {
    let Some(ports) = ports else { return true };
    let mut ports = ports.iter().filter(|port| port.protocol == protocol);
    ports.any(|port| match &port.ports {
        Ports::All => true,
        Ports::Range(first, last) => (*first..=*last).contains(&number),
        Ports::Named(name) => group.is_some_and(|group| {
            let mut own = group.ports.iter();
            own.any(|own| (own.number, own.protocol) == (number, protocol) && own.name == *name)
        }),
    })
}
