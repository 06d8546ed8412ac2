//! Interfaces that are no endpoint's and by which packets enter the node or leave it.
//!
//! Programs take stamps off packets that enter: only an endpoint's hook may give them. From
//! packets that leave they take them off again, and judge those whose receiver no hook has
//! known before.
//!
//! Filters come first, as soon as an interface is heard of; links follow while nobody asks
//! for anything. An interface that becomes an endpoint's has them replaced in their place.

use cofferdam_syntax::diagnostic::chain;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use cofferdam_dataplane::Uplink;

use super::{Reconciler, SETTLING};
use crate::netlink::Kind;

/// Interfaces whose filters are looked at in one look; links are looked at on all of them.
const FILTERS_AT_ONCE: usize = 8;

/// An interface with programs.
#[derive(Debug)]
struct Standing {
    uplink: Uplink,
    /// Reason, if not all programs are there.
    problem: Option<String>,
}

/// Knowledge of the interfaces that are no endpoint's.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    /// Interfaces with programs, by their indexes.
    standing: BTreeMap<u32, Standing>,
    /// Those on which links are still to be put.
    unlinked: BTreeSet<u32>,
    /// The first whose filters are looked at in the next look.
    next: u32,
    /// Sentences about others' programs that have been logged.
    told: BTreeSet<String>,
}

impl Uplinks {
    /// Returns `true` if links are still to be put.
    pub(super) fn has_unlinked(&self) -> bool {
        !self.unlinked.is_empty()
    }
}

impl Reconciler {
    /// Puts filters on interfaces that are new, and tries again where that failed.
    pub(super) fn guard_uplinks(&mut self) {
        // Where a record is in force the interface is a workload's, known or not.
        let mut managed = self.managed_interfaces();
        managed.extend(self.enforcer.interfaces());
        let others = self
            .interfaces
            .by_index
            .values()
            .filter(|interface| !managed.contains(&interface.ifindex));
        let uplinks: BTreeMap<u32, (Uplink, &str)> = others
            .filter_map(|interface| {
                let uplink = self.interfaces.uplink(interface)?;
                Some((interface.ifindex, (uplink, interface.name.as_str())))
            })
            .collect();
        let is_one = |ifindex: &u32| uplinks.contains_key(ifindex);
        self.uplinks.standing.retain(|ifindex, _| is_one(ifindex));
        self.uplinks.unlinked.retain(is_one);
        for (&ifindex, &(uplink, name)) in &uplinks {
            let before = self.uplinks.standing.get(&ifindex);
            if before.is_some_and(|one| one.problem.is_none() && one.uplink == uplink) {
                continue;
            }
            let problem = match self.enforcer.guard_uplink(ifindex, uplink) {
                Ok(()) => None,
                Err(error) => Some(format!("interface {name}: {}", chain(&error))),
            };
            if before.is_none_or(|before| before.problem != problem)
                && let Some(problem) = &problem
            {
                tracing::error!(
                    "{problem}; packets may cross this interface with forged stamps, or leave \
                     by it unjudged"
                );
            }
            if before.is_none() {
                self.link_from = self.link_from.max(Instant::now() + SETTLING);
            }
            let standing = Standing { uplink, problem };
            self.uplinks.standing.insert(ifindex, standing);
            // Also where the filter failed: the link alone does as well.
            self.uplinks.unlinked.insert(ifindex);
        }
    }

    /// Puts the links on one of the interfaces that have none.
    pub(super) fn link_uplink(&mut self) {
        let Some(ifindex) = self.uplinks.unlinked.pop_first() else {
            return;
        };
        let Some(standing) = self.uplinks.standing.get_mut(&ifindex) else {
            return;
        };
        let interface = self.interfaces.by_index.get(&ifindex);
        let name = interface.map_or("", |interface| interface.name.as_str());
        standing.problem = match self.enforcer.enforce_uplink(ifindex, standing.uplink) {
            Ok(()) => None,
            Err(error) => Some(format!("interface {name}: {}", chain(&error))),
        };
    }

    /// Repairs what others did on interfaces that are no endpoint's.
    pub(super) fn mend_uplinks(&mut self, filters: bool) {
        let all = || self.uplinks.standing.keys().copied();
        let next = self.uplinks.next;
        let by_turns = all().filter(|ifindex| *ifindex >= next).chain(all());
        let by_turns: BTreeSet<u32> = by_turns.take(FILTERS_AT_ONCE).collect();
        let standing: Vec<u32> = all().collect();
        for ifindex in standing {
            self.mend_uplink(ifindex, filters && by_turns.contains(&ifindex));
        }
        if filters {
            let last = by_turns.iter().rfind(|ifindex| **ifindex >= next);
            self.uplinks.next = last.map_or(0, |last| last + 1);
        }
    }

    /// Repairs what others did on an interface that is no endpoint's.
    pub(super) fn mend_uplink(&mut self, ifindex: u32, filters: bool) {
        let Some(standing) = self.uplinks.standing.get(&ifindex) else {
            return;
        };
        if self.uplinks.unlinked.contains(&ifindex) {
            return;
        }
        match (self.enforcer).mend_uplink(ifindex, standing.uplink, filters) {
            Ok(false) => {}
            Ok(true) => {
                self.tamper_events += 1;
                tracing::error!(
                    ifindex,
                    "somebody changed what stands on an interface that is no endpoint's; it is \
                     repaired"
                );
            }
            // An interface that has just gone will be heard of.
            Err(error) => tracing::debug!("{}", chain(&error)),
        }
    }

    /// Describes the interfaces by which packets may come in with stamps that only an
    /// endpoint's hook may give, or leave unjudged.
    pub(super) fn uncleared(&self) -> Vec<String> {
        let standing = self.uplinks.standing.values();
        standing.filter_map(|one| one.problem.clone()).collect()
    }

    /// Describes others' programs that can take a stamp off or put another one on: behind
    /// or before ours where packets come in, before ours where they leave, and both ways on
    /// what they pass on the node.
    /// Returns a sentence for each, with the index of the interface.
    pub(super) fn stamp_obstacles(&self) -> Vec<(u32, String)> {
        let mut sentences = Vec::new();
        for interface in self.interfaces.by_index.values() {
            let passes_both_ways = matches!(interface.kind, Kind::Bridge | Kind::Tunnel);
            if !passes_both_ways && interface.kind == Kind::Loopback {
                continue;
            }
            // An interface that has just gone will be heard of.
            for foreign in self.enforcer.foreign(interface.ifindex).unwrap_or_default() {
                let counts = passes_both_ways || foreign.before;
                if !counts && !foreign.hook.ends_with("ingress") {
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
        for sentence in now.difference(&self.uplinks.told) {
            tracing::warn!("{sentence}");
        }
        self.uplinks.told = now;
    }
}
