//! The partitions of the flow table, one array for each endpoint.
//!
//! A partition is made when an endpoint first needs it, and used again after its
//! endpoint is gone: by then no program refers to it, and it is cleared.
//!
//! A [`Sweep`] goes over all partitions in use on a thread of its own, while packets make
//! flows, tables are published and endpoints are replaced. It reads an entry's word first
//! and then what the word is held against: an entry is never newer than that.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
};

use cofferdam_verdict::{
    capacity::Limits,
    flow::{FlowEntry, FlowSet, FlowState, IDLE_TIMES, Idle, StateWord, WAYS},
    packet::protocol,
};

use crate::{array::MappedArray, sys};

/// How far a table's revision may fall behind before the sweep sets entries of it
/// to one that is neither current nor will be soon: half of what the word holds. No
/// table is published that is so far ahead of the last sweep.
pub(crate) const STALE_REVISIONS: u32 = 1 << 11;

/// An endpoint is refused whose incarnation is so far ahead of the last one that its
/// partition was swept under: half of what the word holds.
const STALE_INCARNATIONS: u32 = 1 << 9;

/// How full an endpoint's partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUse {
    /// Entries that are not free. Idle ones count until they are swept.
    pub used: u32,
    /// Entries there are.
    pub capacity: u32,
}

/// The flows of one endpoint.
#[derive(Debug)]
struct Partition {
    sets: MappedArray<FlowSet>,
    /// That of the endpoint, before any of its flows; 0 if the partition is nobody's.
    incarnation: AtomicU32,
    /// The oldest that an entry may be of.
    oldest: AtomicU32,
    /// Number of entries that the last sweep left.
    left: AtomicU32,
}

impl Partition {
    fn over(sets: MappedArray<FlowSet>) -> Arc<Self> {
        Arc::new(Self {
            sets,
            incarnation: AtomicU32::new(0),
            oldest: AtomicU32::new(0),
            left: AtomicU32::new(0),
        })
    }

    fn entries(&self) -> impl Iterator<Item = &FlowEntry> {
        self.sets.values().iter().flat_map(|set| &set.ways)
    }
}

/// All partitions.
#[derive(Debug)]
pub(crate) struct Flows {
    outer: OwnedFd,
    sets: u32,
    /// By number.
    partitions: Vec<Option<Arc<Partition>>>,
    /// Revision of the last table that flows may be decided under, low word.
    revision: Arc<AtomicU32>,
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
            revision: Arc::default(),
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
                let sets = made.map(MappedArray::over).transpose()?;
                *place = sets.map(Partition::over);
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
            let next = self.free.last().and_then(|number| self.partition(*number));
            for entry in next.into_iter().flat_map(|next| next.entries()) {
                entry.state.put(0);
            }
        }
        Ok(self.free.pop())
    }

    fn partition(&self, number: u32) -> Option<&Arc<Partition>> {
        self.partitions.get(number as usize)?.as_ref()
    }

    /// Gives a partition to an endpoint of this incarnation, which has had it before or
    /// finds it cleared; to be called before programs can make a flow of it. Returns
    /// `false` if the partition was not swept for so many incarnations that entries in it
    /// could be taken for this one's.
    pub(crate) fn assign(&self, number: u32, incarnation: u32) -> bool {
        let Some(partition) = self.partition(number) else {
            return true;
        };
        if partition.incarnation.load(Ordering::SeqCst) == 0 {
            partition.oldest.store(incarnation, Ordering::SeqCst);
            partition.left.store(0, Ordering::SeqCst);
        }
        let oldest = partition.oldest.load(Ordering::SeqCst);
        if incarnation.saturating_sub(oldest) >= STALE_INCARNATIONS {
            return false;
        }
        partition.incarnation.store(incarnation, Ordering::SeqCst);
        true
    }

    /// Notes the revision of the next table, before flows can be decided under it.
    pub(crate) fn note_revision(&self, revision: u64) {
        self.revision.store(revision as u32, Ordering::SeqCst);
    }

    /// Fill of a partition after the last sweep.
    pub(crate) fn left(&self, number: u32) -> FlowUse {
        let partition = self.partition(number);
        FlowUse {
            used: partition.map_or(0, |one| one.left.load(Ordering::SeqCst)),
            capacity: self.capacity(),
        }
    }

    fn capacity(&self) -> u32 {
        self.sets * WAYS as u32
    }

    /// A sweep of all partitions that are an endpoint's.
    pub(crate) fn sweep(&self, idle: [u32; IDLE_TIMES], now: u32, revision: u64) -> Sweep {
        let all = self.partitions.iter().flatten();
        let in_use = all.filter(|one| one.incarnation.load(Ordering::SeqCst) != 0);
        Sweep {
            partitions: in_use.cloned().collect(),
            by: Rule {
                idle,
                now,
                revision: self.revision.clone(),
            },
            began: revision,
        }
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
        *place = Some(Partition::over(sets));
        Ok(true)
    }

    /// Gives a partition back whose endpoint is out of force.
    pub(crate) fn rest(&mut self, number: u32) {
        if let Some(partition) = self.partition(number) {
            partition.incarnation.store(0, Ordering::SeqCst);
        }
        self.resting.push(number);
    }

    /// A grace period is over: no program uses what is resting.
    pub(crate) fn rested(&mut self) {
        self.free.append(&mut self.resting);
    }

    /// How full a partition is, for an endpoint of this incarnation.
    pub(crate) fn used(&self, number: u32, incarnation: u32) -> FlowUse {
        let entries = self.partition(number).into_iter();
        let used = entries.flat_map(|one| one.entries()).filter(|entry| {
            let word = StateWord(entry.state.load());
            word.state() != FlowState::Free && word.is_of(incarnation)
        });
        FlowUse {
            used: u32::try_from(used.count()).unwrap_or(u32::MAX),
            capacity: self.capacity(),
        }
    }
}

/// Jiffies that an established TCP connection may be silent before a sweep removes it, long
/// before the clock comes round: 12 days at 1 000 a second. It keeps its place only until
/// another flow needs it, and policy is asked about it again.
const LONGEST_SILENCE: u32 = 1 << 30;

/// A look at every flow of this node, on whatever thread has the time.
#[derive(Debug)]
pub struct Sweep {
    partitions: Vec<Arc<Partition>>,
    by: Rule,
    /// Revision of the last table when it began.
    began: u64,
}

/// Result of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Number of entries that were freed.
    pub freed: usize,
    /// Revision of the last table when it began.
    pub(crate) began: u64,
}

impl Sweep {
    /// Frees entries that have been idle for too long or are of an earlier incarnation, and
    /// keeps what entries hold truncated from coming round.
    #[must_use]
    pub fn run(self) -> Swept {
        let freed = self.partitions.iter().map(|partition| {
            let incarnation = partition.incarnation.load(Ordering::SeqCst);
            let (mut freed, mut left) = (0, 0);
            for entry in partition.entries() {
                match self.by.clean(entry, &partition.incarnation) {
                    Fate::Free => {}
                    Fate::Freed => freed += 1,
                    Fate::Left => left += 1,
                }
            }
            partition.oldest.store(incarnation, Ordering::SeqCst);
            partition.left.store(left, Ordering::SeqCst);
            freed
        });
        Swept {
            freed: freed.sum(),
            began: self.began,
        }
    }
}

/// Fate of an entry in a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No flow was there.
    Free,
    /// Its flow is over.
    Freed,
    /// Its flow goes on, or a packet has changed it meanwhile.
    Left,
}

/// What a sweep goes by.
#[derive(Debug)]
struct Rule {
    /// Jiffies that a flow may be idle, by [`Idle`].
    idle: [u32; IDLE_TIMES],
    /// The clock of flows when the sweep began.
    now: u32,
    /// Revision of the last table, low word.
    revision: Arc<AtomicU32>,
}

impl Rule {
    /// Frees an entry that has been idle for too long or is of another incarnation,
    /// and keeps its revision from coming round.
    fn clean(&self, entry: &FlowEntry, incarnation: &AtomicU32) -> Fate {
        let word = StateWord(entry.state.load());
        // A program that made the entry knew an incarnation and a table that were noted
        // before: what is read from here on is no older.
        fence(Ordering::SeqCst);
        let incarnation = incarnation.load(Ordering::SeqCst);
        let revision = self.revision.load(Ordering::SeqCst);
        if incarnation == 0 {
            return Fate::Free;
        }
        let state = word.state();
        if state == FlowState::Free {
            return Fate::Free;
        }
        if word.is_locked() {
            return Fate::Left;
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
        } else if word.behind(revision) >= STALE_REVISIONS {
            word.in_revision(revision.wrapping_sub(STALE_REVISIONS))
        } else {
            return Fate::Left;
        };
        match entry.state.exchange(word.0, next.0) == word.0 && !stays {
            true => Fate::Freed,
            false => Fate::Left,
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_verdict::flow::KEY_PAIRS;

    use super::*;

    const INCARNATION: u32 = 7;

    fn entry(revision: u32, last_seen: u32) -> FlowEntry {
        let entry = FlowEntry::default();
        let word = StateWord::new(1, revision, INCARNATION, 3, FlowState::Established, 0);
        entry.state.put(word.0);
        entry.last_seen.put(last_seen);
        entry
    }

    fn clean(entry: &FlowEntry, now: u32, revision: u32, incarnation: u32) -> bool {
        let rule = Rule {
            idle: [10; IDLE_TIMES],
            now,
            revision: Arc::new(AtomicU32::new(revision)),
        };
        rule.clean(entry, &AtomicU32::new(incarnation)) == Fate::Freed
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
            assert_eq!(clean(&entry, now, 1, INCARNATION), freed, "{passed}");
            assert_eq!(word(&entry).state() == FlowState::Free, freed);
        }
        let later = entry(1, last_seen + 1);
        let ahead = clean(&later, last_seen, 1, INCARNATION);
        assert!(!ahead, "its packet came after the clock was read");
    }

    #[test]
    fn an_established_connection_may_be_silent_for_days() {
        for (passed, freed) in [(11, false), (1 << 30, false), ((1 << 30) + 1, true)] {
            let entry = entry(1, 0);
            entry.key[KEY_PAIRS - 1].put(u64::from(protocol::TCP) << 32);
            assert_eq!(clean(&entry, passed, 1, INCARNATION), freed, "{passed}");
        }
    }

    #[test]
    fn what_a_writer_holds_is_left_alone() {
        let entry = entry(1, 0);
        entry.state.put(word(&entry).locked().0);
        assert!(!clean(&entry, 100, 1, INCARNATION));
    }

    /// The word holds ten bits of the incarnation.
    #[test]
    fn no_entry_lives_to_see_its_incarnation_come_round() {
        let entry = entry(1, 0);
        assert!(clean(&entry, 0, 1, INCARNATION + 1));
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
                assert!(!clean(&entry, 0, revision, INCARNATION));
            }
        }
        assert_eq!(word(&entry).state(), FlowState::Established);
    }
}
