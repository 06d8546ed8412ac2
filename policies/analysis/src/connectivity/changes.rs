//! Two states held against each other: which connections one allows and the other not.
//!
//! Ends of both are matched by name: a workload by its owner's, where all its replicas
//! are alike in either state, otherwise replica by replica. Outside addresses are cut where
//! either state cuts them, and joined again where the same is to be said of them. Services
//! are receivers by their own names: what changes of their ports and of who is behind them
//! counts as what changes of policies does.
//!
//! Invariant: a port of a pair of ends is in a change if and only if one state allows it
//! and the other does not, or has not both ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_reach::EndKind;
use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};
use foldhash::HashMap;

use super::candidates::{Candidates, alike};
use super::groups::FAMILIES;
use super::outside::{Outside, Range};
use super::spans::{Partition, PortSpan, overlay, uniform};
use super::through::{Kept, services};
use super::unlike::{Parties, Unlike};
use super::{Connectivity, Group, Member, Pair, ServiceBackend};

/// One of the two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// The first.
    Old,
    /// The second.
    New,
}

/// The fate of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// The new state allows it, the old one does not.
    Added,
    /// The old state allows it, the new one does not.
    Removed,
}

impl ChangeKind {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

/// Ports of which the same has changed for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangedSpan {
    /// Added or removed.
    pub kind: ChangeKind,
    /// The ports.
    pub ports: PortSpan,
    /// The direction whose verdict makes the difference: of a denial in both, egress.
    /// `None` where one state has not both ends.
    pub direction: Option<Direction>,
    /// The rule of the new state that allows or denies now, or the policy that isolates.
    pub rule: Option<u32>,
    /// The same of the old state.
    pub was: Option<u32>,
}

/// An end of either state, or of both.
#[derive(Debug, Clone)]
pub struct ChangedEnd {
    /// `namespace/workload`, `node/NAME`, `service/NAMESPACE/NAME`, or CIDRs.
    pub id: Arc<str>,
    /// Its kind.
    pub kind: EndKind,
    /// The ids of its members, of a Service in either state; none of outside addresses.
    pub members: Vec<Arc<str>>,
    /// The outside addresses that it is.
    pub outside: Option<Outside>,
    /// The state that alone has it.
    pub only: Option<Set>,
    /// The groups that it is of, or the Services, by position: in the old state, and the new
    /// one.
    pub(super) groups: [Option<usize>; 2],
}

/// Changes between two groups of ends over one family.
#[derive(Debug, Clone)]
pub struct Change {
    /// The sender, by position among the ends.
    pub source: usize,
    /// The receiver.
    pub destination: usize,
    /// Address family.
    pub family: Family,
    /// Ports that changed, in order; never empty.
    pub spans: Arc<[ChangedSpan]>,
}

/// Two states.
#[derive(Debug)]
pub struct Changes {
    states: [Connectivity; 2],
    ends: Vec<ChangedEnd>,
    changes: Vec<Change>,
    /// For each state the nodes of its members.
    nodes: [HashMap<Arc<str>, Arc<str>>; 2],
}

/// Behaviours in both states.
pub(super) type Both = [Option<u32>; 2];

/// The end of a change that is not outside, the direction as it has it, the family, and what
/// has changed.
type OneSided = (usize, Direction, Family, Arc<[ChangedSpan]>);

/// In each state the sides of a pair of ends, if it has both.
type Sides = [Option<(u32, u32)>; 2];

impl Changes {
    /// Compares two states.
    #[must_use]
    pub fn new(old: Connectivity, new: Connectivity) -> Self {
        let states = [old, new];
        let mut ends = ends(&states);
        ends.extend(services(&states));
        ends.extend(outside(&states));
        let nodes = [0, 1].map(|set: usize| {
            let members = states[set].groups().iter().flat_map(|group| &group.members);
            let nodes = members.filter_map(|one| Some((one.id.clone(), one.node.clone()?)));
            nodes.collect()
        });
        let mut all = Self {
            nodes,
            states,
            ends,
            changes: Vec::new(),
        };
        all.find();
        all
    }

    /// Everything that has changed: by sender and receiver, in the order of their names;
    /// outside addresses come last.
    #[must_use]
    pub fn all(&self) -> &[Change] {
        &self.changes
    }

    /// The ends of both states.
    #[must_use]
    pub fn ends(&self) -> &[ChangedEnd] {
        &self.ends
    }

    /// One of the states.
    #[must_use]
    pub fn state(&self, set: Set) -> &Connectivity {
        &self.states[set as usize]
    }

    /// The backends of a Service behind these ports, in one of the states.
    #[must_use]
    pub fn backends(&self, set: Set, change: &Change, ports: &PortSpan) -> Vec<ServiceBackend> {
        let end = &self.ends[change.destination];
        let service = match end.kind {
            EndKind::Service => end.groups[set as usize],
            _ => None,
        };
        let service = service.map(|at| &self.states[set as usize].services()[at]);
        service.map_or_else(Vec::new, |service| service.backends(change.family, ports))
    }

    fn find(&mut self) {
        let all = alike(&self.states, &self.ends);
        let mut parties = Parties::default();
        let candidates = Candidates::new(&self.states, &all, &mut parties);
        let services = Kept::new(&self.states, &self.ends, &mut parties);
        let mut known = KnownChanges::default();
        let unlike = Unlike::new(&self.states, &parties, &mut known);
        let mut changes: Vec<Change> = Vec::new();
        let mut outside: BTreeMap<OneSided, Vec<Range>> = BTreeMap::new();
        for (at, from) in all.iter().enumerate() {
            for (which, family) in FAMILIES.into_iter().enumerate() {
                for to in candidates.of(at, which, &parties, &unlike) {
                    let to = &all[to];
                    if from.is_outside && to.is_outside {
                        continue;
                    }
                    let spans = known.spans(&self.states, from.behaviours, to.behaviours, family);
                    let Some(spans) = spans else { continue };
                    for source in &from.ends {
                        for destination in &to.ends {
                            let (inside, direction, range) = match (from.is_outside, to.is_outside)
                            {
                                (true, _) => {
                                    (destination, Direction::Ingress, &self.ends[*source].outside)
                                }
                                (_, true) => {
                                    (source, Direction::Egress, &self.ends[*destination].outside)
                                }
                                _ => {
                                    if self.is_policys(*source, *destination) {
                                        changes.push(Change {
                                            source: *source,
                                            destination: *destination,
                                            family,
                                            spans: spans.clone(),
                                        });
                                    }
                                    continue;
                                }
                            };
                            let ranges = range.iter().flat_map(|outside| outside.ranges());
                            let key = (*inside, direction, family, spans.clone());
                            outside.entry(key).or_default().extend(ranges);
                        }
                    }
                }
            }
            let changed = services.changed(
                &self.states,
                from.behaviours,
                candidates.parties(at),
                &parties,
                &unlike,
            );
            for (at, family, spans) in changed {
                for source in &from.ends {
                    let spans = spans.clone();
                    if from.is_outside {
                        let outside_ends = self.ends[*source].outside.iter();
                        let ranges = outside_ends.flat_map(|outside| outside.ranges());
                        let key = (at, Direction::Ingress, family, spans);
                        outside.entry(key).or_default().extend(ranges);
                    } else {
                        changes.push(Change {
                            source: *source,
                            destination: at,
                            family,
                            spans,
                        });
                    }
                }
            }
        }
        let mut numbers: HashMap<Outside, usize> = HashMap::default();
        for ((inside, direction, family, spans), ranges) in outside {
            let ranges = Outside::new(family, ranges);
            let at = *numbers.entry(ranges).or_insert_with_key(|ranges| {
                self.ends.push(ChangedEnd {
                    id: ranges.id().into(),
                    kind: EndKind::External,
                    members: Vec::new(),
                    outside: Some(ranges.clone()),
                    only: None,
                    groups: [None; 2],
                });
                self.ends.len() - 1
            });
            let (source, destination) = match direction {
                Direction::Egress => (inside, at),
                Direction::Ingress => (at, inside),
            };
            changes.push(Change {
                source,
                destination,
                family,
                spans,
            });
        }
        changes.sort_by_key(|change| (change.source, change.destination, change.family));
        self.changes = changes;
    }

    /// Returns `true` if policies decide about some connection of one end to another in
    /// both states, as far as they have it.
    fn is_policys(&self, source: usize, destination: usize) -> bool {
        let ends = [&self.ends[source], &self.ends[destination]];
        // States in which the exception for a workload's own node counts for these.
        let excepted = [0, 1].map(|set| {
            let state = &self.states[set];
            let groups = ends.map(|end| end.groups[set].map(|at| &state.groups()[at]));
            match groups {
                [Some(from), Some(to)] => state.may_be_own_node(from, to),
                _ => false,
            }
        });
        let is_own_node = |from: &Arc<str>, to: &Arc<str>| {
            let mut states = excepted.iter().zip(&self.nodes);
            states.any(|(is_excepted, nodes)| {
                let node = nodes.get(from).filter(|_| *is_excepted);
                node.is_some() && node == nodes.get(to)
            })
        };
        let mut sources = ends[0].members.iter();
        sources.any(|from| {
            let mut destinations = ends[1].members.iter();
            destinations.any(|to| from != to && !is_own_node(from, to))
        })
    }
}

/// Changes that were worked out, each once.
#[derive(Default)]
pub(super) struct KnownChanges {
    /// Allowed ports by their number.
    ports: HashMap<Vec<PortSpan>, u32>,
    /// For each side of each state the number of the ports that it allows.
    sides: [Vec<Option<u32>>; 2],
    spans: HashMap<Sides, Option<Arc<[ChangedSpan]>>>,
}

impl KnownChanges {
    /// Returns the changes between ends that behave like this; `None` if there are none.
    fn spans(
        &mut self,
        states: &[Connectivity; 2],
        from: Both,
        to: Both,
        family: Family,
    ) -> Option<Arc<[ChangedSpan]>> {
        let behaviours = |set: usize| Some((from[set]?, to[set]?));
        let is_translated = |set: usize| {
            let to = to[set].map(|to| &states[set].groups.behaviours[to as usize]);
            to.is_some_and(|to| to.is_translated)
        };
        if is_translated(0) || is_translated(1) {
            let pair = |set: usize| {
                let (from, to) = behaviours(set)?;
                states[set].of_behaviours(from, to, family)
            };
            return changed(states, pair(0).as_deref(), pair(1).as_deref());
        }
        let sides: Sides = [0, 1].map(|set| {
            let (from, to) = behaviours(set)?;
            states[set].sides(from, to, family)
        });
        let [old, new] = sides;
        match (old, new) {
            (None, None) => return None,
            (Some(old), Some(new)) => {
                let mut ports = |set: usize, side: u32| self.allowed(&states[set], set, side);
                if ports(0, old.0) == ports(1, new.0) && ports(0, old.1) == ports(1, new.1) {
                    return None;
                }
            }
            _ => {}
        }
        let found = self.spans.entry(sides).or_insert_with(|| {
            let [old, new] = [0, 1].map(|set| sides[set].map(|sides| states[set].of_sides(sides)));
            changed(states, old.as_deref(), new.as_deref())
        });
        found.clone()
    }

    /// The number of the ports that a side allows.
    pub(super) fn allowed(&mut self, state: &Connectivity, set: usize, side: u32) -> u32 {
        let sides = &mut self.sides[set];
        let at = side as usize;
        if sides.len() <= at {
            sides.resize(at + 1, None);
        }
        *sides[at].get_or_insert_with(|| {
            let side = state.known.borrow().sides[at].clone();
            let allowed = side
                .iter()
                .filter(|(_, verdict)| verdict.action == Action::Allow);
            let allowed = super::joined(allowed.map(|(ports, _)| *ports));
            let next = u32::try_from(self.ports.len()).expect("fewer than words of a table");
            *self.ports.entry(allowed).or_insert(next)
        })
    }
}

/// Spans that one allows and the other does not.
pub(super) fn changed(
    states: &[Connectivity; 2],
    old: Option<&Partition<Pair>>,
    new: Option<&Partition<Pair>>,
) -> Option<Arc<[ChangedSpan]>> {
    let some = |pair: Option<&Partition<Pair>>| match pair {
        Some(pair) => (pair.iter())
            .map(|(ports, pair)| (*ports, Some(*pair)))
            .collect(),
        None => uniform(&None),
    };
    let both = overlay(&some(old), &some(new), |old, new| {
        change(states, *old, *new)
    });
    let spans = both.into_iter().filter_map(|(ports, change)| {
        change.map(|(kind, direction, rule, was)| ChangedSpan {
            kind,
            ports,
            direction,
            rule,
            was,
        })
    });
    let spans: Vec<ChangedSpan> = spans.collect();
    (!spans.is_empty()).then(|| spans.into())
}

type Changed = (ChangeKind, Option<Direction>, Option<u32>, Option<u32>);

fn change(states: &[Connectivity; 2], old: Option<Pair>, new: Option<Pair>) -> Option<Changed> {
    let is_allowed = |pair: Option<Pair>| pair.is_some_and(|pair| pair.is_allowed());
    let (kind, denied) = match (is_allowed(old), is_allowed(new)) {
        (false, true) => (ChangeKind::Added, old),
        (true, false) => (ChangeKind::Removed, new),
        _ => return None,
    };
    let directions = [Direction::Egress, Direction::Ingress];
    let direction = denied.and_then(|pair| {
        let mut denied = directions.into_iter();
        denied.find(|direction| pair.side(*direction).action == Action::Deny)
    });
    let rule = |set: Set, pair: Option<Pair>| {
        let of = |direction| reason(&states[set as usize], pair?.side(direction));
        match direction {
            Some(direction) => of(direction),
            None => of(Direction::Ingress).or_else(|| of(Direction::Egress)),
        }
    };
    Some((kind, direction, rule(Set::New, new), rule(Set::Old, old)))
}

/// The rule that a verdict is due to, or the first policy that isolates.
fn reason(state: &Connectivity, verdict: Verdict) -> Option<u32> {
    match verdict.reason {
        Reason::Rule => Some(verdict.rule),
        _ => (state.rules().isolated_by(verdict.rule).next()).map(|(number, _)| number),
    }
}

/// Workloads and nodes of both states, matched by name.
fn ends(states: &[Connectivity; 2]) -> Vec<ChangedEnd> {
    type Owned = [Vec<usize>; 2];
    let mut owners: BTreeMap<(EndKind, Arc<str>), Owned> = BTreeMap::new();
    for (set, state) in states.iter().enumerate() {
        for (at, group) in state.groups().iter().enumerate() {
            if group.outside.is_none() {
                let owned = owners.entry((group.kind, group.owner.clone())).or_default();
                owned[set].push(at);
            }
        }
    }
    let group = |set: usize, at: usize| -> &Group { &states[set].groups()[at] };
    let mut ends = Vec::new();
    for ((kind, _), owned) in owners {
        let is_whole = owned.iter().all(|groups| groups.len() <= 1) && kind != EndKind::Node;
        let mut parts: BTreeMap<[Option<usize>; 2], BTreeSet<Arc<str>>> = BTreeMap::new();
        if is_whole {
            let groups = [0, 1].map(|set| owned[set].first().copied());
            let members = parts.entry(groups).or_default();
            for (set, at) in groups.iter().enumerate() {
                let of = at.map(|at| &group(set, at).members);
                members.extend(of.into_iter().flatten().map(|member| member.id.clone()));
            }
        } else {
            let mut found: BTreeMap<Arc<str>, [Option<usize>; 2]> = BTreeMap::new();
            for (set, groups) in owned.iter().enumerate() {
                for at in groups {
                    for Member { id, .. } in &group(set, *at).members {
                        found.entry(id.clone()).or_default()[set] = Some(*at);
                    }
                }
            }
            for (id, groups) in found {
                parts.entry(groups).or_default().insert(id);
            }
        }
        for (groups, members) in parts {
            let first = members.first().expect("a group has members").clone();
            let mut whole = groups
                .into_iter()
                .enumerate()
                .rev()
                .filter_map(|(set, at)| Some(group(set, at?)));
            let is_all = |of: &&Group| of.members.len() == members.len();
            let id = match whole.find(is_all) {
                Some(group) if members.len() > 1 || is_whole => group.id.clone(),
                _ => first,
            };
            ends.push(ChangedEnd {
                id,
                kind,
                members: members.into_iter().collect(),
                outside: None,
                only: match groups {
                    [Some(_), None] => Some(Set::Old),
                    [None, Some(_)] => Some(Set::New),
                    _ => None,
                },
                groups,
            });
        }
    }
    ends
}

/// Outside addresses, cut where either state cuts them.
fn outside(states: &[Connectivity; 2]) -> Vec<ChangedEnd> {
    let mut ends = Vec::new();
    for family in FAMILIES {
        // The first address of each range, and the group it is of.
        let cut = |state: &Connectivity| {
            let groups = state.groups().iter().enumerate();
            let outside = groups.filter_map(|(at, group)| Some((at, group.outside.as_ref()?)));
            let of_family = outside.filter(|(_, outside)| outside.family() == family);
            let mut ranges: Vec<(Range, usize)> = of_family
                .flat_map(|(at, outside)| outside.ranges().iter().map(move |range| (*range, at)))
                .collect();
            ranges.sort_unstable();
            ranges
        };
        let [old, new] = [cut(&states[0]), cut(&states[1])];
        let mut joint: BTreeMap<[Option<usize>; 2], Vec<Range>> = BTreeMap::new();
        let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
        while let (Some((a, old)), Some((b, new))) = (olds.peek(), news.peek()) {
            let both = (a.0.max(b.0), a.1.min(b.1));
            joint
                .entry([Some(*old), Some(*new)])
                .or_default()
                .push(both);
            let (a, b) = (a.1, b.1);
            if a <= b {
                olds.next();
            }
            if b <= a {
                news.next();
            }
        }
        ends.extend(joint.into_iter().map(|(groups, ranges)| {
            let outside = Outside::new(family, ranges);
            ChangedEnd {
                id: outside.id().into(),
                kind: EndKind::External,
                members: Vec::new(),
                outside: Some(outside),
                only: None,
                groups,
            }
        }));
    }
    ends
}
