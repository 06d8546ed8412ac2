//! Pairs of ends that have to be compared, because something may have changed between them.
//!
//! Invariant: between the ends of any other pair both states allow the same ports.

use std::collections::BTreeMap;

use cofferdam_reach::EndKind;
use foldhash::HashMap;

use super::Connectivity;
use super::changes::{Both, ChangedEnd};
use super::groups::FAMILIES;
use super::unlike::{Parties, PartyNumber, Unlike};

/// Ends that behave alike, in each state.
pub(super) struct Alike {
    /// They are outside addresses.
    pub(super) is_outside: bool,
    /// Their behaviours.
    pub(super) behaviours: Both,
    /// By position.
    pub(super) ends: Vec<usize>,
}

/// The ends but for Services, those together that behave alike.
pub(super) fn alike(states: &[Connectivity; 2], ends: &[ChangedEnd]) -> Vec<Alike> {
    let mut by_behaviour: BTreeMap<(bool, Both), Vec<usize>> = BTreeMap::new();
    let ends = ends.iter().enumerate();
    for (at, end) in ends.filter(|(_, end)| end.kind != EndKind::Service) {
        let is_outside = end.kind == EndKind::External;
        let behaviours = [0, 1].map(|set: usize| {
            let group = end.groups[set].map(|group| &states[set].groups()[group]);
            group.map(|group| group.behaviour)
        });
        let alike = by_behaviour.entry((is_outside, behaviours)).or_default();
        alike.push(at);
    }
    let alike = by_behaviour
        .into_iter()
        .map(|((is_outside, behaviours), ends)| Alike {
            is_outside,
            behaviours,
            ends,
        });
    alike.collect()
}

/// Receivers that each sender is compared towards. Positions are those of [`Alike`].
pub(super) struct Candidates {
    by_family: [OfFamily; 2],
}

#[derive(Default)]
struct OfFamily {
    /// The party of each; `None` if it has no address of the family in either state.
    parties: Vec<Option<PartyNumber>>,
    by_party: HashMap<PartyNumber, Vec<usize>>,
    /// Compared towards by every sender: one state does not have them, or packets to them may
    /// go elsewhere.
    always: Vec<usize>,
}

impl Candidates {
    pub(super) fn new<'s>(
        states: &'s [Connectivity; 2],
        all: &[Alike],
        parties: &mut Parties<'s>,
    ) -> Self {
        let mut by_family = FAMILIES.map(|_| OfFamily::default());
        for (at, alike) in all.iter().enumerate() {
            let behaviours = [0, 1].map(|set: usize| {
                let behaviour = alike.behaviours[set]?;
                Some(&states[set].groups.behaviours[behaviour as usize])
            });
            let may_go_elsewhere = behaviours
                .into_iter()
                .flatten()
                .any(|one| one.is_translated);
            for (which, own) in by_family.iter_mut().enumerate() {
                let traits = behaviours.map(|behaviour| Some(&behaviour?.traits[which]));
                let party = parties.number(traits);
                own.parties.push(party);
                let Some(party) = party else { continue };
                if may_go_elsewhere || !parties.is_in_both(party) {
                    own.always.push(at);
                } else {
                    own.by_party.entry(party).or_default().push(at);
                }
            }
        }
        Self { by_family }
    }

    /// The party of a sender, by family.
    pub(super) fn parties(&self, from: usize) -> [Option<PartyNumber>; 2] {
        [0, 1].map(|which: usize| self.by_family[which].parties[from])
    }

    /// Receivers of a family, by its position, that a sender is compared towards.
    pub(super) fn of(
        &self,
        from: usize,
        which: usize,
        parties: &Parties<'_>,
        unlike: &Unlike,
    ) -> Vec<usize> {
        let own = &self.by_family[which];
        let Some(party) = own.parties[from] else {
            return Vec::new();
        };
        if !parties.is_in_both(party) {
            return (0..own.parties.len()).collect();
        }
        let receivers = unlike
            .receivers(party)
            .iter()
            .filter_map(|party| own.by_party.get(party));
        receivers.flatten().chain(&own.always).copied().collect()
    }
}
