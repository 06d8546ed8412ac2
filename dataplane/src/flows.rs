//! The partitions of the flow table, one array for each endpoint.
//!
//! A partition is made when an endpoint first needs it, and used again after its
//! endpoint is gone: by then no program refers to it, and it is cleared.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use cofferdam_verdict::{
    capacity::Limits,
    flow::{FlowEntry, FlowSet, FlowState, Idle, StateWord, WAYS},
};

use crate::{array::MappedArray, sys};

/// How far a table's revision may fall behind before the sweep sets entries of it
/// to one that is neither current nor will be soon: half of what the word holds.
const STALE_REVISIONS: u32 = 1 << 11;

/// How full an endpoint's partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUse {
    /// Entries that are not free. Idle ones count until they are swept.
    pub used: u32,
    /// Entries there are.
    pub capacity: u32,
}

/// All partitions.
#[derive(Debug)]
pub(crate) struct Flows {
    outer: OwnedFd,
    sets: u32,
    /// By number.
    partitions: Vec<Option<MappedArray<FlowSet>>>,
    /// Numbers that no program can be using.
    free: Vec<u32>,
    /// Numbers that were in use until a while ago.
    resting: Vec<u32>,
}

impl Flows {
    /// The partitions of a table that may have been in use before.
    pub(crate) fn over(outer: OwnedFd, limits: &Limits) -> io::Result<Self> {
        let count = limits.flow_partitions();
        let partition = |number| {
            let made = sys::inner(outer.as_fd(), number)?;
            made.map(MappedArray::over).transpose()
        };
        Ok(Self {
            sets: limits.flow_sets(),
            partitions: (0..count).map(partition).collect::<io::Result<_>>()?,
            free: (0..count).rev().collect(),
            resting: Vec::new(),
            outer,
        })
    }

    /// Says which partitions are in use; no program uses another.
    pub(crate) fn resume(&mut self, used: &[u32]) {
        self.free = (0..self.partitions.len() as u32)
            .rev()
            .filter(|number| !used.contains(number))
            .collect();
    }

    /// Sets of a partition − 1.
    pub(crate) fn mask(&self) -> u32 {
        self.sets - 1
    }

    /// A partition without flows, by its number; none when all are in use or
    /// resting.
    pub(crate) fn take(&mut self) -> io::Result<Option<u32>> {
        let Some(&number) = self.free.last() else {
            return Ok(None);
        };
        let place = &mut self.partitions[number as usize];
        match place {
            Some(sets) => {
                for entry in sets.values().iter().flat_map(|set| &set.ways) {
                    entry.state.put(0);
                }
            }
            None => {
                let sets = MappedArray::new("flows", self.sets)?;
                sys::set_inner(self.outer.as_fd(), number, sets.map())?;
                *place = Some(sets);
            }
        }
        self.free.pop();
        Ok(Some(number))
    }

    /// Gives a partition back whose endpoint is out of force.
    pub(crate) fn rest(&mut self, number: u32) {
        self.resting.push(number);
    }

    /// A grace period is over: no program uses what is resting.
    pub(crate) fn rested(&mut self) {
        self.free.append(&mut self.resting);
    }

    fn entries(&self, number: u32) -> impl Iterator<Item = &FlowEntry> {
        self.partitions
            .get(number as usize)
            .into_iter()
            .flatten()
            .flat_map(|sets| sets.values())
            .flat_map(|set| &set.ways)
    }

    /// How full a partition is, for an endpoint of this incarnation.
    pub(crate) fn used(&self, number: u32, incarnation: u32) -> FlowUse {
        let used = self.entries(number).filter(|entry| {
            let word = StateWord(entry.state.load());
            word.state() != FlowState::Free && word.is_of(incarnation)
        });
        FlowUse {
            used: u32::try_from(used.count()).unwrap_or(u32::MAX),
            capacity: self.sets * WAYS as u32,
        }
    }

    /// Frees the entries of a partition that have been idle for too long, and keeps
    /// old revisions from coming round. Returns how many were freed.
    pub(crate) fn sweep(&self, number: u32, idle: &[u32], now: u32, revision: u32) -> usize {
        let mut freed = 0;
        for entry in self.entries(number) {
            let word = StateWord(entry.state.load());
            let state = word.state();
            if state == FlowState::Free || word.is_locked() {
                continue;
            }
            let protocol = entry.key[9].load() as u8;
            let kind = Idle::of(protocol, state) as usize;
            let age = now.wrapping_sub(entry.last_seen.load());
            // A packet may have come after `now` was read.
            let is_young = age > u32::MAX / 2 || age <= idle[kind];
            let next = if !is_young {
                word.published(0, 0, 0, FlowState::Free)
            } else if word.behind(revision) >= STALE_REVISIONS {
                word.in_revision(revision.wrapping_sub(STALE_REVISIONS))
            } else {
                continue;
            };
            let moved = entry.state.exchange(word.0, next.0) == word.0;
            freed += usize::from(moved && !is_young);
        }
        freed
    }
}
