//! Services as receivers: who may connect to all that is behind one.
//!
//! A Service has *doors*: each of its ports, or, if it is headless, everything. Behind a door
//! are backends, of which policies tell some *kinds* apart. A connection is allowed if every
//! kind takes it.
//!
//! Invariant: a probe is allowed here if and only if the cell of [`Reach::cell`] towards
//! `service/NAMESPACE/NAME` allows it; the exception for a workload's own node does not
//! count.

use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use cofferdam_inventory::{Service, ServiceKind};
use cofferdam_reach::{End, Probe, Reach, excused};
use foldhash::{HashMap, HashSet};

use super::groups::{FAMILIES, Traits};
use super::spans::{Partition, overlay, push, uniform};
use super::{Connectivity, Lane, Pair, PortSpan};

/// A backend of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceBackend {
    /// The group that it is a member of, or its address.
    pub id: Arc<str>,
    /// The port at which it takes connections; `None` if that is the client's.
    pub port: Option<u16>,
}

/// A Service as the receiver of connections.
#[derive(Debug)]
pub struct ServiceEnd {
    /// `service/NAMESPACE/NAME`.
    pub id: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The pods and nodes behind it, and addresses that are nobody's.
    pub members: BTreeSet<Arc<str>>,
    /// By family; `None` of one that it is not in.
    doors: [Option<Vec<Door>>; 2],
    /// Workloads behind it, by position.
    workloads: HashSet<u32>,
}

/// One thing that can be asked of a Service.
#[derive(Debug)]
struct Door {
    ports: PortSpan,
    /// Those of backends, in the order in which backends are asked.
    kinds: Vec<Kind>,
    backends: BTreeSet<ServiceBackend>,
}

/// Backends that policies cannot tell apart.
#[derive(Debug)]
struct Kind {
    traits: Traits,
    /// The port that packets arrive at; `None` if it is the client's.
    port: Option<u16>,
    /// The workloads that they are, by position.
    workloads: HashSet<Option<u32>>,
}

/// The verdicts about all backends, and the rules by which one or another decides: egress and
/// ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Through {
    pub(super) pair: Pair,
    /// The door, by position; `None` where there is none.
    door: Option<usize>,
    pub(super) rules: [Vec<u32>; 2],
}

impl Door {
    fn take(&mut self, traits: Traits, port: Option<u16>, workload: Option<u32>) {
        let mut kinds = self.kinds.iter_mut();
        match kinds.find(|kind| (&kind.traits, kind.port) == (&traits, port)) {
            Some(kind) => _ = kind.workloads.insert(workload),
            None => self.kinds.push(Kind {
                traits,
                port,
                workloads: HashSet::from_iter([workload]),
            }),
        }
    }
}

impl ServiceEnd {
    fn new(reach: &Reach, end: &End, groups: &HashMap<&str, &Arc<str>>) -> Option<Self> {
        let service = end.service()?;
        let mut members = BTreeSet::new();
        let mut workloads = HashSet::default();
        let doors = FAMILIES.map(|family| {
            let spans = service.families.has(family).then(|| spans(service))?;
            let door = |(ports, probe)| {
                let mut door = Door {
                    ports,
                    kinds: Vec::new(),
                    backends: BTreeSet::new(),
                };
                for backend in reach.behind_service(end, probe, family) {
                    let port = backend.port;
                    let id = match groups.get(backend.id.as_str()) {
                        Some(group) => Arc::clone(group),
                        None => backend.id.as_str().into(),
                    };
                    door.backends.insert(ServiceBackend { id, port });
                    members.insert(backend.id.as_str().into());
                    for point in &backend.points {
                        workloads.extend(point.position());
                        door.take(Traits::of_point(point), port, point.position());
                    }
                }
                door
            };
            Some(spans.into_iter().map(door).collect())
        });
        Some(Self {
            id: end.id().into(),
            namespace: service.name.namespace.clone(),
            members,
            doors,
            workloads,
        })
    }

    fn doors(&self, family: Family) -> Option<&[Door]> {
        self.doors[usize::from(family == Family::V6)].as_deref()
    }

    /// The backends behind these ports, in order, each once.
    #[must_use]
    pub fn backends(&self, family: Family, ports: &PortSpan) -> Vec<ServiceBackend> {
        let doors = self.doors(family).unwrap_or_default().iter();
        let asked = doors.filter(|door| door.ports.within(ports).is_some());
        let backends: BTreeSet<_> = asked.flat_map(|door| &door.backends).cloned().collect();
        backends.into_iter().collect()
    }

    /// The workloads behind it, by position.
    pub(super) fn workloads(&self) -> impl Iterator<Item = u32> {
        self.workloads.iter().copied()
    }

    /// The kinds of backends in two states of a Service, by pairs, if it has the same doors in
    /// both, and the kinds differ in nothing but in what policies know of them.
    pub(super) fn kinds_of_both<'s>(
        old: &'s Self,
        new: &'s Self,
        family: Family,
    ) -> Option<Vec<(&'s Traits, &'s Traits)>> {
        let (old, new) = (old.doors(family)?, new.doors(family)?);
        let mut kinds: Vec<(&Traits, &Traits)> = Vec::new();
        if old.len() != new.len() {
            return None;
        }
        for (old, new) in old.iter().zip(new) {
            if (old.ports, old.kinds.len()) != (new.ports, new.kinds.len()) {
                return None;
            }
            for (old, new) in old.kinds.iter().zip(&new.kinds) {
                if old.port != new.port {
                    return None;
                }
                let pair = (&old.traits, &new.traits);
                if !kinds.contains(&pair) {
                    kinds.push(pair);
                }
            }
        }
        Some(kinds)
    }
}

/// Ports that are asked of a Service, each with a probe of it.
fn spans(service: &Service) -> Vec<(PortSpan, Probe)> {
    if service.kind == ServiceKind::Headless {
        let probe = |lane| match lane {
            Lane::Ports(protocol) => Probe::Port(protocol, 1),
            Lane::Portless => Probe::Other(0),
        };
        let lanes = Lane::ALL.into_iter();
        return lanes
            .map(|lane| (PortSpan::whole(lane), probe(lane)))
            .collect();
    }
    let ports = service.ports.iter().filter(|port| port.port != 0);
    let mut spans: Vec<_> = ports
        .map(|port| Probe::Port(port.protocol, port.port))
        .map(|probe| (PortSpan::of_probe(probe), probe))
        .collect();
    spans.sort_unstable();
    spans.dedup();
    spans
}

/// The Services that take connections, in the order of their names.
pub(super) fn all(connectivity: &Connectivity) -> Vec<ServiceEnd> {
    let reach = &connectivity.reach;
    let mut groups: HashMap<&str, &Arc<str>> = HashMap::default();
    for group in connectivity.groups() {
        groups.extend(group.members.iter().map(|member| (&*member.id, &group.id)));
    }
    let ends = reach.service_ends();
    ends.filter_map(|end| ServiceEnd::new(reach, &end, &groups))
        .collect()
}

impl Connectivity {
    /// The verdicts about connections of ends that behave like this to a Service. `None` if not
    /// both have an address of the family.
    pub(super) fn through(
        &self,
        source: u32,
        service: &ServiceEnd,
        family: Family,
    ) -> Option<Partition<Through>> {
        let doors = service.doors(family)?;
        let behaviour = &self.groups.behaviours[source as usize];
        let from = &behaviour.traits[usize::from(family == Family::V6)];
        if from.atoms.is_empty() {
            return None;
        }
        let own = self.groups.workloads(source);
        let mut found: Partition<Through> = Vec::new();
        for (at, door) in doors.iter().enumerate() {
            let mut through: Option<Partition<Through>> = None;
            for kind in &door.kinds {
                for pair in self.towards(from, &own, kind) {
                    let arrives = self.arriving(&pair, (at, door.ports), kind.port);
                    through = Some(match through {
                        None => arrives,
                        Some(before) => overlay(&before, &arrives, join),
                    });
                }
            }
            found.extend(through.into_iter().flatten());
        }
        Some(with_nowhere(found))
    }

    /// The verdicts about connections to backends of a kind: to others, and to the sender
    /// itself.
    fn towards(&self, from: &Traits, own: &[u32], kind: &Kind) -> Vec<Arc<Partition<Pair>>> {
        let is_own = |workload: &Option<u32>| workload.is_some_and(|one| own.contains(&one));
        let pair = |from: &Traits| {
            let egress = self.side(from, Direction::Egress, &kind.traits);
            let ingress = self.side(&kind.traits, Direction::Ingress, from);
            self.of_sides((egress, ingress))
        };
        let mut pairs = Vec::new();
        if !kind.workloads.iter().all(is_own) {
            pairs.push(pair(from));
        }
        if !kind.workloads.iter().any(is_own) {
            return pairs;
        }
        if kind.port.is_none() {
            let itself = Verdict::allow(Reason::SelfTraffic);
            pairs.push(Arc::new(uniform(&Pair {
                egress: itself,
                ingress: itself,
                leads_nowhere: false,
            })));
            return pairs;
        }
        // What is excused of one address is not of another.
        for from in from.each() {
            let own = pair(&from);
            let excused = own.iter().map(|(span, pair)| {
                let pair = Pair {
                    egress: excused(pair.egress),
                    ingress: excused(pair.ingress),
                    ..*pair
                };
                (*span, pair)
            });
            pairs.push(Arc::new(excused.collect()));
        }
        pairs
    }

    /// The verdicts about what comes to a door and arrives at this port of a backend.
    fn arriving(
        &self,
        pair: &Partition<Pair>,
        (at, door): (usize, PortSpan),
        port: Option<u16>,
    ) -> Partition<Through> {
        let through = |pair: &Pair| Through {
            pair: *pair,
            door: Some(at),
            rules: [pair.egress, pair.ingress].map(|verdict| {
                let is_rule = self.rules().rule(verdict.rule).is_some();
                (is_rule.then_some(verdict.rule)).into_iter().collect()
            }),
        };
        match port {
            Some(port) => {
                let arrives = PortSpan {
                    first: port.max(1),
                    last: port.max(1),
                    ..door
                };
                let there = pair
                    .iter()
                    .find(|(span, _)| span.contains(&arrives))
                    .map(|(_, pair)| (door, through(pair)));
                there.into_iter().collect()
            }
            None => (pair.iter())
                .filter_map(|(span, pair)| Some((span.within(&door)?, through(pair))))
                .collect(),
        }
    }
}

/// Of several backends the first that is denied counts.
fn join(one: &Through, other: &Through) -> Through {
    let denied = |one: Verdict, other: Verdict| match (one.action, other.action) {
        (Action::Allow, Action::Deny) => other,
        _ => one,
    };
    let mut rules = one.rules.clone();
    for (rules, other) in rules.iter_mut().zip(&other.rules) {
        rules.extend(other);
        rules.sort_unstable();
        rules.dedup();
    }
    Through {
        pair: Pair {
            egress: denied(one.pair.egress, other.pair.egress),
            ingress: denied(one.pair.ingress, other.pair.ingress),
            leads_nowhere: false,
        },
        door: one.door,
        rules,
    }
}

/// These, in order, and that everything else leads nowhere.
fn with_nowhere(found: Partition<Through>) -> Partition<Through> {
    let free = Verdict::allow(Reason::NotIsolated);
    let nowhere = Through {
        pair: Pair {
            egress: free,
            ingress: free,
            leads_nowhere: true,
        },
        door: None,
        rules: [Vec::new(), Vec::new()],
    };
    let mut found = found.into_iter().peekable();
    let mut all = Vec::new();
    for lane in Lane::ALL {
        let whole = PortSpan::whole(lane);
        let mut next = Some(whole.first);
        while let Some((span, through)) = found.next_if(|(span, _)| span.lane == lane) {
            if let Some(first) = next.filter(|first| *first < span.first) {
                let last = span.first - 1;
                push(&mut all, PortSpan { first, last, lane }, nowhere.clone());
            }
            push(&mut all, span, through);
            next = span.last.checked_add(1);
        }
        if let Some(first) = next.filter(|first| *first <= whole.last) {
            push(&mut all, PortSpan { first, ..whole }, nowhere.clone());
        }
    }
    all
}
