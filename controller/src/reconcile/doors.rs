//! Interfaces that are no endpoint's and by which packets enter: the programs there take
//! stamps off that only an endpoint's hook may give.
//!
//! Filters come first, as soon as an interface is heard of; links follow while nobody asks
//! for anything. An interface that becomes an endpoint's has them replaced in their place.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reconciler, chain};
use crate::netlink::{Interface, Kind};

/// Doors whose filters are looked at in one look; links are looked at on all of them.
const FILTERS_AT_ONCE: usize = 8;

/// Knowledge of the doors.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Interfaces, and why stamps may come in there.
    standing: BTreeMap<u32, Option<String>>,
    /// Those on which links are still to be put.
    unlinked: BTreeSet<u32>,
    /// The first whose filters are looked at in the next look.
    next: u32,
    /// Sentences about others' programs that have been logged.
    told: BTreeSet<String>,
}

impl Doors {
    /// Returns `true` if links are still to be put.
    pub(super) fn has_unlinked(&self) -> bool {
        !self.unlinked.is_empty()
    }
}

impl Reconciler {
    /// Puts filters on interfaces that are new, and tries again where that failed.
    pub(super) fn clear_doors(&mut self) {
        let endpoints = self.endpoints.values().chain(self.leaving.values());
        let managed = endpoints.map(|managed| managed.endpoint.link.host_ifindex);
        let managed: BTreeSet<u32> = managed.collect();
        let is_door = |interface: &&Interface| {
            self.interfaces.is_door(interface) && !managed.contains(&interface.ifindex)
        };
        let doors = self.interfaces.by_index.values().filter(is_door);
        let doors: BTreeMap<u32, &str> = doors
            .map(|interface| (interface.ifindex, interface.name.as_str()))
            .collect();
        let is_one = |ifindex: &u32| doors.contains_key(ifindex);
        self.doors.standing.retain(|ifindex, _| is_one(ifindex));
        self.doors.unlinked.retain(is_one);
        for (&ifindex, name) in &doors {
            let before = self.doors.standing.get(&ifindex);
            if before.is_some_and(Option::is_none) {
                continue;
            }
            let problem = match self.force.guard_door(ifindex) {
                Ok(()) => None,
                Err(error) => Some(format!("interface {name}: {error}")),
            };
            if before.is_none_or(|before| *before != problem)
                && let Some(problem) = &problem
            {
                tracing::error!("{problem}; packets that come in there may bear stamps");
            }
            self.doors.standing.insert(ifindex, problem);
            // Also where the filter failed: the link alone does as well.
            self.doors.unlinked.insert(ifindex);
        }
    }

    /// Puts the link on one of the doors that have none.
    pub(super) fn attach_door(&mut self) {
        let Some(ifindex) = self.doors.unlinked.pop_first() else {
            return;
        };
        let interface = self.interfaces.by_index.get(&ifindex);
        let name = interface.map(|interface| interface.name.clone());
        let problem = match self.force.clear_on(ifindex) {
            Ok(()) => None,
            Err(error) => Some(format!("interface {}: {error}", name.unwrap_or_default())),
        };
        if let Some(standing) = self.doors.standing.get_mut(&ifindex) {
            *standing = problem;
        }
    }

    /// Repairs what others did on doors.
    pub(super) fn mend_doors(&mut self, filters: bool) {
        let all = || self.doors.standing.keys().copied();
        let next = self.doors.next;
        let by_turns = all().filter(|ifindex| *ifindex >= next).chain(all());
        let by_turns: BTreeSet<u32> = by_turns.take(FILTERS_AT_ONCE).collect();
        let is_linked = |ifindex: &u32| !self.doors.unlinked.contains(ifindex);
        let doors: Vec<u32> = all().filter(is_linked).collect();
        for ifindex in doors {
            let with_filters = filters && by_turns.contains(&ifindex);
            match self.force.mend_door(ifindex, with_filters) {
                Ok(false) => {}
                Ok(true) => {
                    self.tamper_events += 1;
                    tracing::error!(
                        ifindex,
                        "somebody changed what stands on an interface that is no endpoint's; \
                         it is repaired"
                    );
                }
                // An interface that has just gone will be heard of.
                Err(error) => tracing::debug!("{}", chain(&error)),
            }
        }
        if filters {
            let last = by_turns.iter().rfind(|ifindex| **ifindex >= next);
            self.doors.next = last.map_or(0, |last| last + 1);
        }
    }

    /// Describes the interfaces by which packets may come in with stamps that only an
    /// endpoint's hook may give.
    pub(super) fn uncleared(&self) -> Vec<String> {
        self.doors.standing.values().flatten().cloned().collect()
    }

    /// Describes others' programs that can take a stamp off or put another one on: behind
    /// or before ours where packets come in, and both ways on what they pass on the node.
    /// Returns a sentence for each, with the index of the interface.
    pub(super) fn stamp_obstacles(&self) -> Vec<(u32, String)> {
        let mut sentences = Vec::new();
        for interface in self.interfaces.by_index.values() {
            let passes_both_ways = matches!(interface.kind, Kind::Bridge | Kind::Tunnel);
            if !passes_both_ways && interface.kind == Kind::Loopback {
                continue;
            }
            // An interface that has just gone will be heard of.
            for foreign in self.force.foreign(interface.ifindex).unwrap_or_default() {
                if !passes_both_ways && !foreign.hook.ends_with("ingress") {
                    continue;
                }
                let place = if foreign.before { "before ours " } else { "" };
                let sentence = format!(
                    "others have programs {place}at {} of {}: one that answers OK or pass can \
                     take off or forge what says who sent a packet",
                    foreign.hook, interface.name
                );
                sentences.push((interface.ifindex, sentence));
            }
        }
        sentences
    }

    /// Logs sentences about others' programs, each once while it is so.
    pub(super) fn tell_stamp_obstacles(&mut self) {
        let obstacles = self.stamp_obstacles().into_iter();
        let now: BTreeSet<String> = obstacles.map(|(_, sentence)| sentence).collect();
        for sentence in now.difference(&self.doors.told) {
            tracing::warn!("{sentence}");
        }
        self.doors.told = now;
    }
}
