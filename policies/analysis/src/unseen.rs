//! Services that are denied because no hook sees one of their backends.
//!
//! Packets that a proxy translates to its own node's address meet none of the node's hooks. So a
//! sender on that node that may not reach it, and may reach another backend, is denied the
//! Service's address as a whole, and the agent there says so. Documents tell the same where
//! they name the node of the sender and the address of that node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use cofferdam_inventory::services::{Backend, Services};
use cofferdam_inventory::{Inventory, Owner, Protocol, Service, ServiceKind, Workload};
use cofferdam_reach::{End, Externals, PodNetworks, Probe, Reach};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Action;

use super::places::PathStep;
use super::services::place;
use super::together::Budget;
use super::{Findings, Project};

/// Most decisions about a sender and a backend, and looks for a backend.
const MOST_DECISIONS: u64 = 5_000_000;

/// A port of a Service, in one family, with a backend at a node's address.
struct Candidate<'a> {
    service: &'a Service,
    /// Position of the port.
    index: usize,
    protocol: Protocol,
    backends: Vec<Backend>,
    /// The nodes that are backends.
    nodes: BTreeMap<Box<str>, Vec<Backend>>,
}

/// A sender and the backend that closes the Service to it.
struct Closed<'a> {
    sender: &'a Workload,
    node: Box<str>,
    backend: Backend,
}

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    if project.gaps.in_services() || project.gaps.in_policies() {
        return;
    }
    let inventory = project.world.inventory;
    let services = Services::new(inventory);
    let budget = Budget::new(MOST_DECISIONS);
    // Parts of slices that each port of a Service is looked for in.
    let mut parts: HashMap<(&str, &str), usize> = HashMap::new();
    for (name, slice) in inventory.slices() {
        if let Some(service) = slice.service.as_deref() {
            let of_service = parts.entry((&*name.namespace, service)).or_default();
            *of_service += slice.ports.len() + slice.endpoints.len();
        }
    }
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for service in (project.services.iter()).filter(|one| one.kind == ServiceKind::Virtual) {
        let name = (&*service.name.namespace, &*service.name.name);
        for family in [Family::V4, Family::V6] {
            let parts = (parts.get(&name).copied())
                .unwrap_or_else(|| services.members(service, family).len());
            if budget.spend(service.ports.len() * (1 + parts)) {
                candidates.extend(with_nodes(&services, service, family));
            }
        }
    }
    if candidates.is_empty() {
        return;
    }
    let Some(reach) = asked(inventory, &candidates) else {
        return;
    };
    let mut told: HashSet<(*const Service, usize)> = HashSet::new();
    for candidate in &candidates {
        let key = (std::ptr::from_ref(candidate.service), candidate.index);
        if told.contains(&key) {
            continue;
        }
        let closed = closed(project, &reach, candidate, &budget);
        let Some(first) = closed.first() else {
            continue;
        };
        told.insert(key);
        tell(project, candidate, first, closed.len() - 1, findings);
    }
}

/// The ports of a Service with a node among several backends.
fn with_nodes<'a>(
    services: &Services,
    service: &'a Service,
    family: Family,
) -> impl Iterator<Item = Candidate<'a>> {
    (service.ports.iter().enumerate()).filter_map(move |(index, port)| {
        let backends = services.backends(service, port, family);
        let mut nodes: BTreeMap<Box<str>, Vec<Backend>> = BTreeMap::new();
        for backend in &backends {
            if let Some(Owner::Node(node)) = services.inventory().owner(backend.address) {
                nodes
                    .entry((*node).into())
                    .or_default()
                    .push(backend.clone());
            }
        }
        (backends.len() > 1 && !nodes.is_empty()).then_some(Candidate {
            service,
            index,
            protocol: port.protocol,
            backends,
            nodes,
        })
    })
}

/// Questions about the senders and backends of these; `None` where the documents do
/// not fit into one table.
fn asked(inventory: &Inventory, candidates: &[Candidate<'_>]) -> Option<Reach> {
    let nodes: HashSet<&str> = (candidates.iter())
        .flat_map(|candidate| candidate.nodes.keys().map(|node| &**node))
        .collect();
    let addresses: HashSet<IpAddr> = (candidates.iter())
        .flat_map(|candidate| candidate.backends.iter().map(|backend| backend.address))
        .collect();
    let is_asked = |pod: &&Workload| {
        (pod.node.as_deref()).is_some_and(|node| nodes.contains(node))
            || pod.addresses.iter().any(|one| addresses.contains(one))
    };
    let subjects = inventory
        .workloads()
        .values()
        .filter(is_asked)
        .map(|pod| pod.name.clone())
        .collect();
    Reach::with_subjects(inventory, &PodNetworks::default(), |_| Some(subjects)).ok()
}

/// For each node with such a sender the first one; none where it would take too long to say.
fn closed<'a>(
    project: &Project<'a>,
    reach: &Reach,
    candidate: &Candidate<'_>,
    budget: &Budget,
) -> Vec<Closed<'a>> {
    let mut closed = Vec::new();
    for (node, own) in &candidate.nodes {
        let groups = project.world.groups.iter();
        let senders = groups
            .flat_map(|group| group.members.iter().copied())
            .filter(|pod| pod.node.as_deref() == Some(node) && !pod.own_addresses().is_empty());
        for sender in senders {
            let Ok(end) = reach.end(&sender.name.to_string(), &Externals::default()) else {
                continue;
            };
            if !budget.spend(own.len()) {
                return Vec::new();
            }
            let mut own = own.iter();
            let is_denied =
                |backend: &&Backend| action(reach, &end, candidate, backend) == Some(Action::Deny);
            let Some(backend) = own.find(is_denied) else {
                continue;
            };
            if !budget.spend(candidate.backends.len()) {
                return Vec::new();
            }
            let mut all = candidate.backends.iter();
            if all.any(|one| action(reach, &end, candidate, one) == Some(Action::Allow)) {
                closed.push(Closed {
                    sender,
                    node: node.clone(),
                    backend: backend.clone(),
                });
                break;
            }
        }
    }
    closed
}

/// The verdict about a sender and one backend, if the sender has an address of its family.
fn action(
    reach: &Reach,
    sender: &End,
    candidate: &Candidate<'_>,
    backend: &Backend,
) -> Option<Action> {
    let cell = reach.backend_cell(sender, backend, candidate.protocol)?;
    Some(cell.action())
}

fn tell(
    project: &Project<'_>,
    candidate: &Candidate<'_>,
    first: &Closed<'_>,
    others: usize,
    findings: &mut Findings,
) {
    let path = [
        PathStep::Key("spec"),
        PathStep::Key("ports"),
        PathStep::Item(candidate.index),
        PathStep::Key("port"),
        PathStep::Value,
    ];
    let Some(place) = place(project, &candidate.service.name, &path) else {
        return;
    };
    let Closed {
        sender,
        node,
        backend,
    } = first;
    let port = backend.port.unwrap_or_default();
    let probe = Probe::Port(candidate.protocol, port);
    let name = match &backend.pod {
        Some(pod) => format!("{pod} at {}", backend.address),
        None => backend.address.to_string(),
    };
    let others = match others {
        0 => String::new(),
        1 => ", and on 1 node more".to_owned(),
        count => format!(", and on {count} nodes more"),
    };
    findings.warn(
        place,
        Code::ServiceUndecided,
        format!(
            "workloads on {node} that policy allows some of the backends reach none, such as \
             {}{others}: it may not open {probe} to the backend {name}, which is the node \
             itself, and no hook sees what is translated to that",
            sender.name
        ),
        format!(
            "allow them {probe} of {}, or keep pods on the node's own network out of the Service",
            backend.address
        ),
    );
}
