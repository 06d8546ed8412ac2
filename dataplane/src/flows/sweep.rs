//! Sweeps of the flow table.
//!
//! A [`Sweep`] goes over all partitions in use on a thread of its own, while packets make
//! flows, tables are published and endpoints are replaced. It reads an entry's word first
//! and then what the word is held against: an entry is never newer than that.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering, fence},
};

use cofferdam_verdict::{
    event::EndRecord,
    flow::{FlowEntry, FlowState, IDLE_TIMES, Idle, Size, StateWord},
    packet::protocol,
};

use super::{Ends, STALE_REVISIONS, partition::Partition};

/// Jiffies that an established TCP connection may be silent before a sweep removes it, long
/// before the clock comes round: 12 days at 1 000 a second. It keeps its place only until
/// another flow needs it, and policy is asked about it again.
const LONGEST_SILENCE: u32 = 1 << 30;

/// A look at every flow of this node, on whatever thread has the time.
#[derive(Debug)]
pub struct Sweep {
    pub(super) partitions: Vec<Arc<Partition>>,
    pub(super) ends: Ends,
    pub(super) by: Rule,
    /// Revision of the last table when it began.
    pub(super) began: u64,
    /// Number of flows that had begun on the node before.
    pub(super) begun: u64,
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
            let _working = partition.work();
            let size = partition.size();
            let incarnation = partition.incarnation.load(Ordering::SeqCst);
            let ifindex = partition.ifindex.load(Ordering::SeqCst);
            let (mut freed, mut left) = (0, 0);
            for entry in partition.entries() {
                match self.by.clean(entry, ifindex, &partition.incarnation, size) {
                    Fate::Free => {}
                    Fate::Freed(record) => {
                        freed += 1;
                        self.ends.tell(&record);
                    }
                    Fate::Left => left += 1,
                }
            }
            partition.oldest.store(incarnation, Ordering::SeqCst);
            partition.left.store(left, Ordering::SeqCst);
            let since = self.begun.wrapping_sub(left.into());
            partition.since.store(since, Ordering::SeqCst);
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
    /// Its flow is over, and was so.
    Freed(EndRecord),
    /// Its flow goes on, or a packet has changed it meanwhile.
    Left,
}

/// Circumstances that a sweep goes by.
#[derive(Debug)]
pub(super) struct Rule {
    /// Jiffies that a flow may be idle, by [`Idle`].
    pub(super) idle: [u32; IDLE_TIMES],
    /// The clock of flows when the sweep began.
    pub(super) now: u32,
    /// Revision of the last table, low word.
    pub(super) revision: Arc<AtomicU32>,
}

impl Rule {
    /// Frees an entry that has been idle for too long or is of another incarnation,
    /// and keeps its revision from coming round.
    fn clean(&self, entry: &FlowEntry, ifindex: u32, incarnation: &AtomicU32, size: Size) -> Fate {
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
            if word.is_reserved() {
                // Of an agent that died: flows are moved and swept in turn.
                entry.state.exchange(word.0, word.freed().0);
            }
            return Fate::Free;
        }
        if word.is_locked() {
            return Fate::Left;
        }
        let protocol = entry.protocol();
        let kind = Idle::of(protocol, state);
        let idle = size.shortened(self.idle[kind as usize], kind);
        let age = self.now.wrapping_sub(entry.last_seen.load());
        let longest = match (protocol, state) {
            (protocol::TCP, FlowState::Established) => idle.max(LONGEST_SILENCE),
            _ => idle,
        };
        // A packet may have come after `now` was read.
        let is_young = age > u32::MAX / 2 || age <= longest;
        let stays = is_young && word.is_of(incarnation);
        let next = if !stays {
            word.freed()
        } else if word.behind(revision) >= STALE_REVISIONS {
            word.in_revision(revision.wrapping_sub(STALE_REVISIONS))
        } else {
            return Fate::Left;
        };
        // What packets add from here on is lost.
        let record =
            (!stays).then(|| EndRecord::new(entry, (ifindex, incarnation), self.now.into()));
        let is_done = entry.state.exchange(word.0, next.0) == word.0;
        record.filter(|_| is_done).map_or(Fate::Left, Fate::Freed)
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
        let fate = rule.clean(entry, 2, &AtomicU32::new(incarnation), Size::of(1));
        matches!(fate, Fate::Freed(_))
    }

    fn word(entry: &FlowEntry) -> StateWord {
        StateWord(entry.state.load())
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

    /// A place that the agent before kept for a flow is free again.
    #[test]
    fn what_was_kept_for_a_flow_is_freed() {
        let entry = FlowEntry::default();
        entry.state.put(StateWord::default().reserved().0);
        assert!(!clean(&entry, 0, 1, INCARNATION), "no flow was there");
        assert!(!word(&entry).is_reserved());
    }

    #[test]
    fn a_flow_is_freed_earlier_in_a_full_partition() {
        let rule = Rule {
            idle: [80; IDLE_TIMES],
            now: 11,
            revision: Arc::new(AtomicU32::new(1)),
        };
        for (used, is_freed) in [(8, false), (16, true)] {
            let entry = entry(1, 0);
            let size = Size::of(4).filled(used, 16);
            let fate = rule.clean(&entry, 2, &AtomicU32::new(INCARNATION), size);
            assert_eq!(matches!(fate, Fate::Freed(_)), is_freed);
        }
    }
}
