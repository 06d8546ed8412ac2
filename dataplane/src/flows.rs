//! The partitions of the flow table, one array for each endpoint.
//!
//! A partition is made when an endpoint first needs it, and used again after its
//! endpoint is gone: by then no program refers to it, and it is cleared.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use cofferdam_verdict::{
    capacity::Limits,
    flow::{FlowEntry, FlowSet, FlowState, Idle, StateWord, WAYS},
    packet::protocol,
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
    /// The partitions of a table in which none is in use.
    pub(crate) fn over(outer: OwnedFd, limits: &Limits) -> Self {
        let count = limits.flow_partitions();
        Self {
            sets: limits.flow_sets(),
            partitions: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            resting: Vec::new(),
            outer,
        }
    }

    /// Opens the partitions that are in use; no program uses another.
    ///
    /// Those alone: some kernels (Linux 6.1) wait for a grace period before they say
    /// what an array of maps has at an index. Whatever else the agent before left in
    /// the array is replaced when its number is taken.
    pub(crate) fn resume(&mut self, used: &[u32]) -> io::Result<()> {
        self.resume_from(used, sys::inner)
    }

    /// [`Flows::resume`], by whatever says what the array has at an index.
    fn resume_from(
        &mut self,
        used: &[u32],
        mut inner: impl FnMut(BorrowedFd<'_>, u32) -> io::Result<Option<OwnedFd>>,
    ) -> io::Result<()> {
        for &number in used {
            if let Some(place) = self.partitions.get_mut(number as usize) {
                let made = inner(self.outer.as_fd(), number)?;
                *place = made.map(MappedArray::over).transpose()?;
            }
        }
        self.free.retain(|number| !used.contains(number));
        Ok(())
    }

    /// Sets of a partition − 1.
    pub(crate) fn mask(&self) -> u32 {
        self.sets - 1
    }

    /// A partition without flows, by its number; none when all are in use or
    /// resting.
    pub(crate) fn take(&mut self) -> io::Result<Option<u32>> {
        if !self.make_next()? {
            for entry in self.next().flat_map(|set| &set.ways) {
                entry.state.put(0);
            }
        }
        Ok(self.free.pop())
    }

    /// The sets of the partition that is taken next.
    fn next(&self) -> impl Iterator<Item = &FlowSet> {
        let number = self.free.last();
        let next = number.and_then(|number| self.partitions.get(*number as usize));
        next.into_iter().flatten().flat_map(|sets| sets.values())
    }

    /// Makes the partition that is taken next, which costs a grace period. `false` if
    /// there is one already, or none is free.
    pub(crate) fn make_next(&mut self) -> io::Result<bool> {
        let Some(&number) = self.free.last() else {
            return Ok(false);
        };
        let place = &mut self.partitions[number as usize];
        if place.is_some() {
            return Ok(false);
        }
        let sets = MappedArray::new("flows", self.sets)?;
        sys::set_inner(self.outer.as_fd(), number, sets.map())?;
        *place = Some(sets);
        Ok(true)
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

    /// Sweeps the partition of an endpoint of this incarnation. Returns how many
    /// entries were freed.
    pub(crate) fn sweep(&self, number: u32, incarnation: u32, by: &Sweep<'_>) -> usize {
        self.entries(number)
            .filter(|entry| by.clean(entry, incarnation))
            .count()
    }
}

/// Jiffies that an established TCP connection may be silent before a sweep removes it, long
/// before the clock comes round: 12 days at 1 000 a second. It keeps its place only until
/// another flow needs it, and policy is asked about it again.
const LONGEST_SILENCE: u32 = 1 << 30;

/// What a sweep goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep<'a> {
    /// Jiffies that a flow may be idle, by [`Idle`].
    pub(crate) idle: &'a [u32],
    /// The clock of flows.
    pub(crate) now: u32,
    /// Revision of the table in force, low word.
    pub(crate) revision: u32,
}

impl Sweep<'_> {
    /// Frees an entry that has been idle for too long or is of another incarnation,
    /// and keeps its revision from coming round. Whether it was freed.
    fn clean(&self, entry: &FlowEntry, incarnation: u32) -> bool {
        let word = StateWord(entry.state.load());
        let state = word.state();
        if state == FlowState::Free || word.is_locked() {
            return false;
        }
        let protocol = entry.protocol();
        let kind = Idle::of(protocol, state) as usize;
        let age = self.now.wrapping_sub(entry.last_seen.load());
        let longest = match (protocol, state) {
            (protocol::TCP, FlowState::Established) => self.idle[kind].max(LONGEST_SILENCE),
            _ => self.idle[kind],
        };
        // A packet may have come after `now` was read.
        let is_young = age > u32::MAX / 2 || age <= longest;
        let stays = is_young && word.is_of(incarnation);
        let next = if !stays {
            word.published(0, 0, 0, FlowState::Free, 0)
        } else if word.behind(self.revision) >= STALE_REVISIONS {
            word.in_revision(self.revision.wrapping_sub(STALE_REVISIONS))
        } else {
            return false;
        };
        entry.state.exchange(word.0, next.0) == word.0 && !stays
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_verdict::flow::KEY_PAIRS;

    use super::*;

    const IDLE: [u32; 8] = [10; 8];
    const INCARNATION: u32 = 7;

    fn entry(revision: u32, last_seen: u32) -> FlowEntry {
        let entry = FlowEntry::default();
        let word = StateWord::new(1, revision, INCARNATION, 3, FlowState::Established, 0);
        entry.state.put(word.0);
        entry.last_seen.put(last_seen);
        entry
    }

    fn sweep(now: u32, revision: u32) -> Sweep<'static> {
        let idle = &IDLE;
        Sweep {
            idle,
            now,
            revision,
        }
    }

    fn word(entry: &FlowEntry) -> StateWord {
        StateWord(entry.state.load())
    }

    /// Linux 6.1 waits for a grace period at each question, and there may be hundreds of
    /// partitions beside those of the few endpoints.
    #[test]
    fn an_adopting_agent_asks_for_the_partitions_in_use_alone() {
        let outer = std::fs::File::open("/dev/null").unwrap();
        let mut flows = Flows::over(outer.into(), &Limits::DEFAULT);
        let all = Limits::DEFAULT.flow_partitions();
        let mut asked = Vec::new();
        let resumed = flows.resume_from(&[2, 7, all], |_, number| {
            asked.push(number);
            Ok(None)
        });
        resumed.unwrap();
        assert_eq!(asked, [2, 7], "and not about one beyond the array");
        let free = flows.free.iter().copied();
        let expected = (0..all).rev().filter(|number| ![2, 7].contains(number));
        assert!(free.eq(expected), "whoever has one keeps it");
    }

    #[test]
    fn only_what_was_idle_for_too_long_is_freed() {
        let last_seen = u32::MAX - 5;
        for (passed, freed) in [(0, false), (10, false), (11, true), (1 << 30, true)] {
            let entry = entry(1, last_seen);
            let now = last_seen.wrapping_add(passed);
            assert_eq!(sweep(now, 1).clean(&entry, INCARNATION), freed, "{passed}");
            assert_eq!(word(&entry).state() == FlowState::Free, freed);
        }
        let later = entry(1, last_seen + 1);
        let ahead = sweep(last_seen, 1).clean(&later, INCARNATION);
        assert!(!ahead, "its packet came after the clock was read");
    }

    #[test]
    fn an_established_connection_may_be_silent_for_days() {
        for (passed, freed) in [(11, false), (1 << 30, false), ((1 << 30) + 1, true)] {
            let entry = entry(1, 0);
            entry.key[KEY_PAIRS - 1].put(u64::from(protocol::TCP) << 32);
            assert_eq!(
                sweep(passed, 1).clean(&entry, INCARNATION),
                freed,
                "{passed}"
            );
        }
    }

    #[test]
    fn what_a_writer_holds_is_left_alone() {
        let entry = entry(1, 0);
        entry.state.put(word(&entry).locked().0);
        assert!(!sweep(100, 1).clean(&entry, INCARNATION));
    }

    /// The word holds ten bits of the incarnation.
    #[test]
    fn no_entry_lives_to_see_its_incarnation_come_round() {
        let entry = entry(1, 0);
        assert!(sweep(0, 1).clean(&entry, INCARNATION + 1));
        assert_eq!(word(&entry).state(), FlowState::Free);
    }

    /// The word holds twelve bits of the revision.
    #[test]
    fn no_entry_lives_to_see_its_revision_come_round() {
        let first = 4000;
        let entry = entry(first, 0);
        for later in 1..3 * 4096 {
            let revision = first + later;
            let current = word(&entry).is_current(revision, INCARNATION);
            assert!(!current, "{later} tables later");
            if later % 1000 == 0 {
                assert!(!sweep(0, revision).clean(&entry, INCARNATION));
            }
        }
        assert_eq!(word(&entry).state(), FlowState::Established);
    }
}
