//! Parties that may reach a workload, or that it may reach, beyond the documents.
//!
//! Policies speak of labels, and whoever may create pods chooses their labels. So workloads
//! that do not exist are asked about as if they did (`strangers`): one without labels in a
//! namespace that nobody knows, one in every namespace, and one for each peer that some rule
//! names. With them come outside addresses, and the Services and routes that lead in
//! (`doors`).
//!
//! Invariant: what is said of strangers and outside addresses is what
//! [`Connectivity`] says, as if they were there.

mod doors;
mod strangers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cofferdam_inventory::services::Services;
use cofferdam_inventory::{Inventory, Mode, ObjectName, Owner};
use cofferdam_reach::{EndKind, Reach, ReachError};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Direction;

use crate::connectivity::{Connectivity, Group, Lane, Outside, PortSpan, View, joined};

pub use doors::{Door, DoorKind, read_doors};
pub use strangers::Who;

use strangers::Strangers;

/// One party beyond the documents, and the ports that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// The party.
    pub who: Who,
    /// The ports, in order; never empty.
    pub ports: Vec<PortSpan>,
}

/// A part of a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Points {
    /// Their number.
    pub points: u32,
    /// The reason, as the page that defines the score has it.
    pub what: &'static str,
}

/// The exposure of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// The workload.
    pub id: Arc<str>,
    /// Its pods.
    pub members: Vec<Arc<str>>,
    /// A policy in force isolates its ingress.
    pub isolates_ingress: bool,
    /// A policy in force isolates its egress.
    pub isolates_egress: bool,
    /// Parties that may reach it.
    pub from: Vec<Beyond>,
    /// Parties that it may reach.
    pub to: Vec<Beyond>,
    /// Ways in from outside the cluster, by position.
    pub doors: Vec<usize>,
    /// The score, part by part.
    pub points: Vec<Points>,
}

impl Exposed {
    /// The sum of all points.
    #[must_use]
    pub fn score(&self) -> u32 {
        self.points.iter().map(|points| points.points).sum()
    }
}

/// Works out how far each workload is exposed, the most exposed first. A workload's own
/// node may always connect to it, whatever this says.
///
/// # Errors
/// When the inventory is too large for one table.
pub fn exposure(inventory: &Inventory, doors: &[Door]) -> Result<Vec<Exposed>, ReachError> {
    let mut extended = inventory.clone();
    let added = Strangers::add(&mut extended);
    let connectivity = Connectivity::new(Reach::new(&extended)?, View::Enforced);
    let groups = connectivity.groups();
    let by_member: HashMap<&str, &Group> = (groups.iter())
        .flat_map(|group| group.members.iter().map(move |member| (&*member.id, group)))
        .collect();
    let strangers: Vec<(&Who, &Group)> = (added.all())
        .filter_map(|(name, who)| Some((who, *by_member.get(name.to_string().as_str())?)))
        .collect();
    let unreal: BTreeSet<&str> = strangers.iter().map(|(_, group)| &*group.id).collect();
    let behind = behind(&connectivity, doors);
    let workloads =
        (groups.iter()).filter(|group| group.kind == EndKind::Pod && !unreal.contains(&*group.id));
    let mut all: Vec<Exposed> = workloads
        .map(|group| {
            let beyond = |direction| beyond(&connectivity, &strangers, group, direction);
            let members: Vec<Arc<str>> = group.members.iter().map(|one| one.id.clone()).collect();
            let of_doors = members
                .iter()
                .filter_map(|id| behind.get(&**id))
                .flatten()
                .copied();
            let doors: BTreeSet<usize> = of_doors.collect();
            let mut exposed = Exposed {
                id: group.id.clone(),
                isolates_ingress: is_isolated(inventory, &members, Direction::Ingress),
                isolates_egress: is_isolated(inventory, &members, Direction::Egress),
                members,
                from: beyond(Direction::Ingress),
                to: beyond(Direction::Egress),
                doors: doors.into_iter().collect(),
                points: Vec::new(),
            };
            exposed.points = points(&exposed);
            exposed
        })
        .collect();
    all.sort_by(|one, other| (other.score(), &one.id).cmp(&(one.score(), &other.id)));
    Ok(all)
}

/// Returns `true` if a policy in force isolates the pods of a workload, which have the same labels
/// as far as policies can tell.
fn is_isolated(inventory: &Inventory, members: &[Arc<str>], direction: Direction) -> bool {
    let first = members.first().and_then(|id| id.split_once('/'));
    let pod = first.and_then(|(namespace, name)| {
        let name = ObjectName::new(namespace, name);
        inventory.workloads().get(&name)
    });
    let Some(pod) = pod else {
        return false;
    };
    let first = ObjectName::new(&pod.name.namespace, "");
    (inventory.policies().shared().starting_at(&first))
        .map(|(_, policy)| policy)
        .take_while(|policy| policy.name.namespace == pod.name.namespace)
        .any(|policy| {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            policy.mode == Mode::Enforce && rules.is_some() && policy.subject.matches(&pod.labels)
        })
}

/// Everybody beyond the documents who may be at the other end.
fn beyond(
    connectivity: &Connectivity,
    strangers: &[(&Who, &Group)],
    group: &Group,
    direction: Direction,
) -> Vec<Beyond> {
    let ports = |other: &Group, family| {
        let pair = match direction {
            Direction::Ingress => connectivity.pair(other, group, family),
            Direction::Egress => connectivity.pair(group, other, family),
        };
        let allowed = pair
            .into_iter()
            .flat_map(|pair| pair.to_vec())
            .filter(|(_, pair)| pair.is_allowed());
        allowed.map(|(ports, _)| ports).collect::<Vec<_>>()
    };
    let mut found: Vec<Beyond> = Vec::new();
    for (who, stranger) in strangers {
        let families = [Family::V4, Family::V6].into_iter();
        let ports = joined(families.flat_map(|family| ports(stranger, family)));
        let is_said = found.iter().any(|before| {
            before.who.includes(who)
                && ports
                    .iter()
                    .all(|span| before.ports.iter().any(|b| b.contains(span)))
        });
        if !ports.is_empty() && !is_said {
            found.push(Beyond {
                who: (*who).clone(),
                ports,
            });
        }
    }
    let mut outside: BTreeMap<(Family, Vec<PortSpan>), Vec<&Outside>> = BTreeMap::new();
    for other in connectivity.groups() {
        if let Some(own) = &other.outside {
            let ports = joined(ports(other, own.family()));
            if !ports.is_empty() {
                outside.entry((own.family(), ports)).or_default().push(own);
            }
        }
    }
    found.extend(outside.into_iter().map(|((family, ports), parts)| Beyond {
        who: Who::Outside(Outside::union(family, parts)),
        ports,
    }));
    found
}

/// For each pod the doors that lead to it.
fn behind(connectivity: &Connectivity, doors: &[Door]) -> HashMap<String, Vec<usize>> {
    let services = Services::new(connectivity.inventory());
    let inventory = services.inventory();
    let mut behind: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, door) in doors.iter().enumerate() {
        let Some(service) = inventory.services().get(&door.service) else {
            continue;
        };
        for family in [Family::V4, Family::V6] {
            for port in &service.ports {
                for backend in services.backends(service, port, family) {
                    let owned = match inventory.owner(backend.address) {
                        Some(Owner::Workload(name)) => Some(name),
                        Some(Owner::Node(_)) | None => backend.pod,
                    };
                    if let Some(name) = owned {
                        behind.entry(name.to_string()).or_default().push(at);
                    }
                }
            }
        }
    }
    behind
}

/// The score; `docs/exposure.md` defines it.
fn points(exposed: &Exposed) -> Vec<Points> {
    let mut all = Vec::new();
    let mut add = |points: u32, what: &'static str| {
        if points > 0 {
            all.push(Points { points, what });
        }
    };
    let is_open = |beyond: &Beyond| beyond.ports.contains(&PortSpan::whole(Lane::ALL[0]));
    let most = |side: &[Beyond], is_meant: fn(&Who) -> bool, open: u32, some: u32| {
        let meant = side.iter().filter(|beyond| is_meant(&beyond.who));
        let points = meant.map(|beyond| if is_open(beyond) { open } else { some });
        points.max().unwrap_or(0)
    };
    let count = |side: &[Beyond], is_meant: fn(&Who) -> bool, most: u32| {
        let meant = side.iter().filter(|beyond| is_meant(&beyond.who)).count();
        u32::try_from(meant).unwrap_or(u32::MAX).min(most)
    };
    let half = |who: &Who| matches!(who, Who::Outside(outside) if outside.is_half());
    let part = |who: &Who| matches!(who, Who::Outside(outside) if !outside.is_half());
    let anywhere = |who: &Who| matches!(who, Who::AnyNamespace);
    let namespace = |who: &Who| matches!(who, Who::Namespace(_));
    let labels = |who: &Who| matches!(who, Who::Labels { .. });
    let (from, to) = (&exposed.from[..], &exposed.to[..]);
    let doors = u32::try_from(exposed.doors.len()).unwrap_or(u32::MAX);
    add(
        u32::from(!exposed.isolates_ingress) * 10,
        "ingress is not isolated",
    );
    add(most(from, half, 30, 15), "most outside addresses reach it");
    add(most(from, part, 10, 5), "some outside addresses reach it");
    add(
        most(from, anywhere, 15, 8),
        "pods of any namespace reach it",
    );
    add(
        count(from, namespace, 3) * 3,
        "all pods of a namespace reach it",
    );
    add(count(from, labels, 5), "pods with certain labels reach it");
    add(doors.min(3) * 5, "Services or routes lead in");
    add(
        u32::from(!exposed.isolates_egress) * 5,
        "egress is not isolated",
    );
    add(most(to, half, 15, 8), "it reaches most outside addresses");
    add(most(to, part, 5, 3), "it reaches some outside addresses");
    add(most(to, anywhere, 6, 3), "it reaches pods of any namespace");
    all
}

#[cfg(test)]
mod tests;
