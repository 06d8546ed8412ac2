//! Services in two states: connections through them that one allows and the other not.
//!
//! Of most Services nothing has changed but what policies say of the kinds of backends, and of
//! most kinds not even that: those are passed over. A Service whose own backend asks is
//! looked at always, because what it sends to itself is judged otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_verdict::address::Family;

use cofferdam_reach::EndKind;
use foldhash::HashMap;

use super::changes::{Both, ChangedEnd, ChangedSpan, Set, changed};
use super::doors::ServiceEnd;
use super::groups::FAMILIES;
use super::spans::Partition;
use super::unlike::{Parties, PartyNumber, Unlike};
use super::{Connectivity, Pair};

/// Services of both states.
pub(super) struct Kept<'s> {
    services: Vec<KeptService<'s>>,
    /// By family.
    asked: [Asked; 2],
    /// By state the Services, by position, that a workload is behind.
    behind: [HashMap<u32, Vec<usize>>; 2],
}

/// A Service in both states.
struct KeptService<'s> {
    /// Its position among the ends.
    at: usize,
    states: [Option<&'s ServiceEnd>; 2],
}

/// Services of a family, by position, as they have to be asked about.
#[derive(Default)]
struct Asked {
    /// By each sender: more has changed than what policies know of backends.
    always: Vec<usize>,
    /// By senders that a kind of backends takes in one state alone.
    by_kind: HashMap<PartyNumber, Vec<usize>>,
}

impl<'s> Kept<'s> {
    pub(super) fn new(
        states: &'s [Connectivity; 2],
        ends: &[ChangedEnd],
        parties: &mut Parties<'s>,
    ) -> Self {
        let mut kept = Self {
            services: Vec::new(),
            asked: Default::default(),
            behind: Default::default(),
        };
        let services = ends.iter().enumerate();
        for (at, end) in services.filter(|(_, end)| end.kind == EndKind::Service) {
            let own = [0, 1].map(|set: usize| Some(&states[set].services()[end.groups[set]?]));
            let position = kept.services.len();
            for (asked, family) in kept.asked.iter_mut().zip(FAMILIES) {
                asked.take(position, own, family, parties);
            }
            for (behind, service) in kept.behind.iter_mut().zip(own) {
                for workload in service.into_iter().flat_map(ServiceEnd::workloads) {
                    behind.entry(workload).or_default().push(position);
                }
            }
            kept.services.push(KeptService { at, states: own });
        }
        kept
    }

    /// Changes of connections of ends that behave like this, and are of these parties by family,
    /// to Services.
    pub(super) fn changed(
        &self,
        states: &[Connectivity; 2],
        from: Both,
        of: [Option<PartyNumber>; 2],
        parties: &Parties<'_>,
        unlike: &Unlike,
    ) -> Vec<(usize, Family, Arc<[ChangedSpan]>)> {
        let mut found = Vec::new();
        for (which, family) in FAMILIES.into_iter().enumerate() {
            let Some(party) = of[which] else { continue };
            let asked: BTreeSet<usize> = match parties.is_in_both(party) {
                false => (0..self.services.len()).collect(),
                true => {
                    let Asked { always, by_kind } = &self.asked[which];
                    let kinds = unlike.receivers(party).iter();
                    let by_kind = kinds.filter_map(|kind| by_kind.get(kind)).flatten();
                    let itself = self.of_itself(states, from);
                    always
                        .iter()
                        .chain(by_kind)
                        .copied()
                        .chain(itself)
                        .collect()
                }
            };
            for service in asked.into_iter().map(|position| &self.services[position]) {
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

    /// The Services that ends are behind that behave like this.
    fn of_itself(&self, states: &[Connectivity; 2], from: Both) -> BTreeSet<usize> {
        let by_state =
            states
                .iter()
                .zip(from)
                .zip(&self.behind)
                .flat_map(|((state, from), behind)| {
                    let own = from
                        .map(|from| state.groups.workloads(from))
                        .into_iter()
                        .flatten();
                    own.filter_map(|workload| behind.get(&workload))
                });
        by_state.flatten().copied().collect()
    }
}

impl Asked {
    fn take<'s>(
        &mut self,
        position: usize,
        states: [Option<&'s ServiceEnd>; 2],
        family: Family,
        parties: &mut Parties<'s>,
    ) {
        let kinds = match states {
            [Some(old), Some(new)] => ServiceEnd::kinds_of_both(old, new, family),
            _ => None,
        };
        let Some(kinds) = kinds else {
            self.always.push(position);
            return;
        };
        let numbers = kinds
            .into_iter()
            .filter_map(|(old, new)| parties.number([Some(old), Some(new)]));
        for kind in numbers.collect::<BTreeSet<_>>() {
            self.by_kind.entry(kind).or_default().push(position);
        }
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
