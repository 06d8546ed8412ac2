//! Services in two states: connections through them that one allows and the other not.
//!
//! Of most Services nothing has changed but what policies say of the kinds of backends, and of
//! most kinds not even that: those are passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Direction;

use cofferdam_reach::EndKind;

use super::changes::{Both, ChangedEnd, ChangedSpan, KnownChanges, Set, changed};
use super::doors::ServiceEnd;
use super::groups::{FAMILIES, Traits};
use super::spans::Partition;
use super::{Connectivity, Pair};

/// A kind of backends in both states, by number.
type KindNumber = u32;

/// Services of both states.
pub(super) struct Kept<'s> {
    kinds: Vec<(&'s Traits, &'s Traits)>,
    services: Vec<KeptService<'s>>,
}

/// A Service, and what is known of it before anything is asked.
struct KeptService<'s> {
    /// Its position among the ends.
    at: usize,
    states: [Option<&'s ServiceEnd>; 2],
    /// By family, the kinds of its backends if it has changed in nothing else.
    kinds: [Option<Vec<KindNumber>>; 2],
}

impl<'s> Kept<'s> {
    pub(super) fn new(states: &'s [Connectivity; 2], ends: &[ChangedEnd]) -> Self {
        let mut numbers: HashMap<(&Traits, &Traits, Family), KindNumber> = HashMap::new();
        let mut kinds = Vec::new();
        let services = ends.iter().enumerate();
        let services = services.filter(|(_, end)| end.kind == EndKind::Service);
        let services = services.map(|(at, end)| {
            let own = [0, 1].map(|set: usize| Some(&states[set].services()[end.groups[set]?]));
            let kinds = FAMILIES.map(|family| {
                let both = ServiceEnd::kinds_of_both(own[0]?, own[1]?, family)?;
                let number = |(old, new): (&'s Traits, &'s Traits)| {
                    *numbers.entry((old, new, family)).or_insert_with(|| {
                        kinds.push((old, new));
                        KindNumber::try_from(kinds.len() - 1).expect("fewer than backends")
                    })
                };
                Some(both.into_iter().map(number).collect())
            });
            KeptService {
                at,
                states: own,
                kinds,
            }
        });
        let services = services.collect();
        Self { kinds, services }
    }

    /// Changes of connections of ends that behave like this to Services.
    pub(super) fn changed(
        &self,
        states: &[Connectivity; 2],
        from: Both,
        known: &mut KnownChanges,
    ) -> Vec<(usize, Family, Arc<[ChangedSpan]>)> {
        let own = [0, 1].map(|set: usize| {
            let workloads = from[set].map(|from| states[set].groups.workloads(from));
            workloads.unwrap_or_default()
        });
        let mut same: HashMap<KindNumber, bool> = HashMap::new();
        let mut found = Vec::new();
        for service in &self.services {
            let is_itself = [0, 1].into_iter().any(|set| {
                let service = service.states[set];
                service.is_some_and(|service| service.has(&own[set]))
            });
            for (which, family) in FAMILIES.into_iter().enumerate() {
                let kinds = service.kinds[which].as_ref().filter(|_| !is_itself);
                let is_same = kinds.is_some_and(|kinds| {
                    kinds.iter().all(|kind| {
                        *(same.entry(*kind))
                            .or_insert_with(|| self.is_same(states, from, *kind, family, known))
                    })
                });
                if is_same {
                    continue;
                }
                let pairs = [0, 1].map(|set: usize| -> Option<Partition<Pair>> {
                    let through = states[set].through(from[set]?, service.states[set]?, family)?;
                    Some(
                        through
                            .into_iter()
                            .map(|(span, one)| (span, one.pair))
                            .collect(),
                    )
                });
                let spans = changed(states, pairs[0].as_ref(), pairs[1].as_ref());
                found.extend(spans.map(|spans| (service.at, family, spans)));
            }
        }
        found
    }

    /// Returns `true` if both states allow the same ports between these and a kind.
    fn is_same(
        &self,
        states: &[Connectivity; 2],
        from: Both,
        kind: KindNumber,
        family: Family,
        known: &mut KnownChanges,
    ) -> bool {
        let (old, new) = self.kinds[kind as usize];
        let mut ports = |set: usize, kind: &Traits| {
            let behaviour = &states[set].groups.behaviours[from[set]? as usize];
            let from = &behaviour.traits[usize::from(family == Family::V6)];
            (!from.atoms.is_empty()).then(|| {
                let egress = states[set].side(from, Direction::Egress, kind);
                let ingress = states[set].side(kind, Direction::Ingress, from);
                [egress, ingress].map(|side| known.allowed(&states[set], set, side))
            })
        };
        ports(0, old) == ports(1, new)
    }
}

/// The Services of both states, matched by name.
pub(super) fn services(states: &[Connectivity; 2]) -> Vec<ChangedEnd> {
    let mut by_name: BTreeMap<&Arc<str>, [Option<usize>; 2]> = BTreeMap::new();
    for (set, state) in states.iter().enumerate() {
        for (at, service) in state.services().iter().enumerate() {
            by_name.entry(&service.id).or_default()[set] = Some(at);
        }
    }
    let end = |(id, groups): (&Arc<str>, [Option<usize>; 2])| {
        let mut members = BTreeSet::new();
        for (set, at) in groups.into_iter().enumerate() {
            let service = at.map(|at| &states[set].services()[at]);
            members.extend(
                service
                    .into_iter()
                    .flat_map(|service| service.members.clone()),
            );
        }
        ChangedEnd {
            id: id.clone(),
            kind: EndKind::Service,
            members: members.into_iter().collect(),
            outside: None,
            only: match groups {
                [Some(_), None] => Some(Set::Old),
                [None, Some(_)] => Some(Set::New),
                _ => None,
            },
            groups,
        }
    };
    by_name.into_iter().map(end).collect()
}
