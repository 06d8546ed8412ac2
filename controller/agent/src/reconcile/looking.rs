//! Looks at what is in force: whether it is still what was put there.

use cofferdam_syntax::diagnostic::chain;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_dataplane::KernelError;

use super::Reconciler;
use crate::enforcer::{Depth, Mismatch};

/// Time between two looks at the hooks: tcx tells nobody of its changes. It is as short as
/// leaves the looks [`LOOKING`] of a processor.
pub(super) const BETWEEN_LOOKS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_millis(500);
/// Time between two looks at the hooks for each moment that a look takes.
const LOOKING: u32 = 1_000;
/// Time between two looks at what is pinned.
const BETWEEN_LOOKS_AT_PINS: Duration = Duration::from_millis(500);
/// Workloads' interfaces whose filters are looked at in one look, by turns: the kernel tells
/// of changes, so that this finds only what it could not tell.
const FILTERS_AT_ONCE: usize = 4;
/// Of so many looks one is at filters as well.
const LOOKS_AT_LINKS: u32 = 4;
/// Of so many looks one is at deadlines of adoption as well.
const LOOKS_AT_DEADLINES: u32 = 20;

impl Reconciler {
    /// Pins everything again if somebody has cleaned the BPF file system.
    pub(super) fn restore_pins(&mut self, is_quick: bool) {
        let lost = match self.enforcer.restore_pins(is_quick) {
            Ok(false) => None,
            Ok(true) => {
                self.tamper_events += u64::from(self.unpinned.is_none());
                tracing::error!("pins were lost; everything is pinned again");
                None
            }
            Err(error @ KernelError::PinsUnseen { .. }) => {
                // Mostly it can be seen half a second later.
                match is_quick {
                    true => tracing::debug!("{}", chain(&error)),
                    false => tracing::warn!("{}; it is looked again", chain(&error)),
                }
                return;
            }
            Err(error) => Some(format!(
                "pins are lost: {}; what is in force stays, but without this agent only its \
                 filters do",
                chain(&error)
            )),
        };
        if let Some(lost) = &lost
            && self.unpinned.is_none()
        {
            self.tamper_events += 1;
            tracing::error!("{lost}");
        }
        self.unpinned = lost;
    }

    /// Reads back what is in force, and repairs it if somebody has changed it.
    pub(super) fn verify(&mut self, depth: Depth) {
        if let Err(mismatch) = self.enforcer.read_back(depth) {
            match mismatch {
                Mismatch::Changed { .. } => {
                    self.tamper_events += 1;
                    tracing::error!("{mismatch}: somebody has changed it; it is put there again");
                }
                Mismatch::Unanswered { .. } => {
                    tracing::error!("{mismatch}: everything is put there again");
                }
            }
            let repaired = self.enforcer.repair().map_err(|error| chain(&error));
            let again = repaired.and_then(|()| {
                let read = self.enforcer.read_back(Depth::Whole);
                read.map_err(|mismatch| mismatch.to_string())
            });
            if let Err(error) = again {
                self.problem = Some(error);
                return;
            }
        }
        if self.enforcer.revision() != 0 && depth != Depth::Places {
            self.verified_at = Some(SystemTime::now());
        }
    }

    pub(super) fn do_chores(&mut self) {
        if self.finish_at().is_some_and(|at| at <= Instant::now()) {
            self.finish_places();
        }
        if self.enforcer.do_chores() {
            self.look_at_fills();
            self.note_usage();
        }
        if self.looked_at_pins.elapsed() >= BETWEEN_LOOKS_AT_PINS {
            self.looked_at_pins = Instant::now();
            self.restore_pins(true);
            self.look_at_guard();
        }
        if self.looked_at_hooks.elapsed() >= self.between_looks {
            self.looked_at_hooks = Instant::now();
            self.looks = self.looks.wrapping_add(1);
            if self.looks.is_multiple_of(LOOKS_AT_LINKS) {
                self.look_at_filters();
            }
            self.mend_hooks(false);
            self.mend_uplinks(false);
            let taken = self.looked_at_hooks.elapsed() * LOOKING;
            self.between_looks = taken.clamp(*BETWEEN_LOOKS.start(), *BETWEEN_LOOKS.end());
            self.end_bypasses();
            if self.looks.is_multiple_of(LOOKS_AT_DEADLINES) {
                self.enforcer.end_deadlines(&mut self.links);
            }
        }
    }

    /// Looks at everything that stands on all interfaces.
    pub(super) fn look_at_hooks(&mut self) {
        self.mend_hooks(true);
        self.mend_uplinks(true);
        self.drop_early();
    }

    /// Repairs what others did to the hooks of workloads.
    pub(super) fn mend_hooks(&mut self, filters: bool) {
        for ifindex in self.enforcer.interfaces() {
            self.mend_hooks_of(ifindex, filters);
        }
    }

    /// Repairs what others did to the hooks of an interface of which word has come.
    pub(super) fn mend_interface(&mut self, ifindex: u32) {
        match self.enforcer.interfaces().contains(&ifindex) {
            true => self.mend_hooks_of(ifindex, true),
            false => self.mend_uplink(ifindex, true),
        }
    }

    pub(super) fn mend_hooks_of(&mut self, ifindex: u32, filters: bool) {
        if !self.enforcer.is_attached(ifindex) {
            return;
        }
        let mended = self.enforcer.mend_hooks(ifindex, filters);
        match &mended {
            Ok(_) => _ = self.out_of_place.remove(&ifindex),
            Err(_) => _ = self.out_of_place.insert(ifindex),
        }
        match mended {
            Ok(false) => {}
            Ok(true) => {
                self.tamper_events += 1;
                let interface = self.interfaces.by_index.get(&ifindex);
                tracing::error!(
                    interface = interface.map_or("", |one| one.name.as_str()),
                    ifindex,
                    "somebody changed what stands on the hooks of a workload; it is repaired"
                );
            }
            // An interface that has just gone will be heard of.
            Err(error) => tracing::debug!("{}", chain(&error)),
        }
    }

    /// Looks at the filters of a few interfaces.
    fn look_at_filters(&mut self) {
        let all = self.enforcer.interfaces();
        let next = all.iter().position(|ifindex| *ifindex >= self.next_filters);
        let by_turns = all.iter().cycle().skip(next.unwrap_or(0));
        let few: Vec<u32> = by_turns
            .copied()
            .take(FILTERS_AT_ONCE.min(all.len()))
            .collect();
        for ifindex in &few {
            self.mend_hooks_of(*ifindex, true);
        }
        self.next_filters = few.last().map_or(0, |last| last + 1);
        self.mend_uplinks(true);
        self.drop_early();
    }
}
