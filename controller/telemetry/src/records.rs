//! Flow records: the newest are kept for a while, and handed to followers.
//!
//! The ring buffer is bounded and never holds a packet up; what does not fit is
//! counted as unreported by the program itself. Here the newest records are kept in
//! memory, and handed to whoever follows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use cofferdam_dataplane::Events;
use cofferdam_protocol::Observation;
use cofferdam_protocol::output::{FlowRecord, RecordType};
use cofferdam_protocol::words::ClosedList as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::broadcast;

use crate::describe::describe;
use crate::names::SharedNames;
use crate::outputs::Outputs;
use crate::time::rfc3339;

/// Records that are kept.
const KEPT: usize = 4_096;
/// Records that a follower may fall behind.
const BEHIND: usize = 16_384;

/// Records that the following thread reads before others may.
const AT_ONCE: u32 = 256;

/// Reads the ring buffer, and keeps what it says.
#[derive(Debug)]
pub struct Recorder {
    events: Mutex<Events>,
    /// How many want to read next. A flood keeps the thread that follows the ring
    /// buffer busy for as long as it lasts; it lets others go first.
    waiting: AtomicUsize,
    names: SharedNames,
    outputs: Outputs,
    kept: Mutex<Kept>,
    feed: broadcast::Sender<Arc<FlowRecord>>,
}

/// Records for a follower.
#[derive(Debug)]
pub struct Followed {
    /// Time up to which records of the past may be missing; with
    /// [`Observation::with_log`] all are.
    pub missing_until: String,
    /// Those of the past, oldest first.
    pub recent: Vec<Arc<FlowRecord>>,
    /// Those to come.
    pub coming: broadcast::Receiver<Arc<FlowRecord>>,
}

/// The newest records, oldest first.
#[derive(Debug)]
struct Kept {
    records: VecDeque<(SystemTime, Arc<FlowRecord>)>,
    /// How many of them there are of each type, in the order of [`RecordType::ALL`].
    of_type: [usize; RecordType::ALL.len()],
    /// The newest time of which a record may be missing: that of the last one which made
    /// room, at first the agent's start.
    missing_until: SystemTime,
}

impl Kept {
    /// Nothing is kept yet of what comes after this time.
    fn new(missing_until: SystemTime) -> Self {
        Self {
            records: VecDeque::new(),
            of_type: Default::default(),
            missing_until,
        }
    }

    /// Adds a record. When there are enough, the oldest goes of the type that most are
    /// of: a policy on trial may be told of at each connection, and must not have what
    /// was denied forgotten.
    fn push(&mut self, time: SystemTime, record: Arc<FlowRecord>) {
        if self.records.len() == KEPT {
            let most = RecordType::ALL.iter().zip(self.of_type);
            let most = most.max_by_key(|(_, count)| *count);
            let most = most.map(|(kind, _)| *kind);
            let mut records = self.records.iter();
            let oldest = records.position(|(_, record)| Some(record.kind) == most);
            if let Some((time, gone)) = oldest.and_then(|place| self.records.remove(place)) {
                self.of_type[gone.kind as usize] -= 1;
                self.missing_until = self.missing_until.max(time);
            }
        }
        self.of_type[record.kind as usize] += 1;
        self.records.push_back((time, record));
    }

    /// The records that are asked for, oldest first, without those that are in the log.
    fn recent(&self, asked: &Observation) -> Vec<Arc<FlowRecord>> {
        let is_in_log = |time: SystemTime| asked.with_log && time <= self.missing_until;
        let recent = (self.records.iter())
            .filter(|(time, record)| !is_in_log(*time) && asked.is_for(record))
            .map(|(_, record)| record.clone());
        let mut recent: Vec<_> = recent.collect();
        if let Some(last) = asked.last {
            let last = usize::try_from(last).unwrap_or(usize::MAX);
            recent.drain(..recent.len().saturating_sub(last));
        }
        recent
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Nothing has been read yet. Each record is handed to the outputs as well.
    #[must_use]
    pub fn new(events: Events, names: SharedNames, outputs: Outputs) -> Self {
        Self {
            events: Mutex::new(events),
            waiting: AtomicUsize::new(0),
            names,
            outputs,
            kept: Mutex::new(Kept::new(SystemTime::now())),
            feed: broadcast::channel(BEHIND).0,
        }
    }

    /// Reads everything that has been reported by now.
    pub fn drain(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut events = locked(&self.events);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let room = events.room();
        self.read(&mut events, room);
    }

    /// Reads so many records, or all there are.
    fn read(&self, events: &mut Events, most: u32) {
        for event in std::iter::from_fn(|| events.next()).take(most as usize) {
            let now = SystemTime::now();
            let Some(record) = describe(&event, &self.names, now) else {
                continue;
            };
            let record = Arc::new(record);
            self.outputs.hand_over(&record);
            let mut kept = locked(&self.kept);
            kept.push(now, record.clone());
            // Under the lock, so that a follower misses none and sees none twice. An
            // error only says that nobody follows.
            _ = self.feed.send(record);
        }
    }

    /// The records that are kept and asked for, and all those to come.
    #[must_use]
    pub fn follow(&self, asked: &Observation) -> Followed {
        self.drain();
        let kept = locked(&self.kept);
        Followed {
            missing_until: rfc3339(kept.missing_until),
            recent: kept.recent(asked),
            coming: self.feed.subscribe(),
        }
    }

    /// Returns the outputs that records are handed to.
    #[must_use]
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Reads reports as they come, until the kernel ends it.
    ///
    /// # Errors
    /// When it does.
    pub fn run(&self) -> io::Result<()> {
        let descriptor: OwnedFd = locked(&self.events).as_fd().try_clone_to_owned()?;
        loop {
            let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) => {
                    self.read(&mut locked(&self.events), AT_ONCE);
                    while self.waiting.load(Ordering::SeqCst) > 0 {
                        thread::yield_now();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use cofferdam_verdict::event::EventRecord;
    use cofferdam_verdict::reason::Reason;
    use cofferdam_verdict::verdict::Verdict;
    use zerocopy::FromZeros as _;

    /// A record of one of the types.
    pub(crate) fn record(kind: RecordType) -> Arc<FlowRecord> {
        let mut event = EventRecord::new_zeroed();
        event.verdict = Verdict::deny(Reason::Rule).to_word();
        let names = SharedNames::new("n1");
        let described = describe(&event, &names, SystemTime::now());
        Arc::new(FlowRecord {
            kind,
            ..described.unwrap()
        })
    }

    #[test]
    fn a_flood_of_one_type_of_records_leaves_room_for_the_others() {
        let now = SystemTime::now();
        let of_type: Vec<_> = RecordType::ALL.iter().map(|kind| record(*kind)).collect();
        for flood in &of_type {
            let mut kept = Kept::new(now);
            let others = || of_type.iter().filter(|other| other.kind != flood.kind);
            for _ in 0..3 {
                for few in others() {
                    kept.push(now, few.clone());
                }
                for _ in 0..KEPT {
                    kept.push(now, flood.clone());
                }
            }
            let left = |kept: &Kept, kind: RecordType| {
                let left = kept.records.iter();
                left.filter(|(_, record)| record.kind == kind).count()
            };
            assert_eq!(kept.records.len(), KEPT, "{flood:?}");
            for few in others() {
                assert_eq!(left(&kept, few.kind), 3, "{few:?} under {flood:?}");
            }
            // And gives way when another comes to be the flood.
            for few in others() {
                for _ in 0..KEPT {
                    kept.push(now, few.clone());
                }
            }
            let share = KEPT / RecordType::ALL.len();
            let left = left(&kept, flood.kind);
            assert!((share - 1..=share + 1).contains(&left), "{flood:?}: {left}");
        }
    }

    #[test]
    fn what_may_be_missing_is_left_to_the_log_as_a_whole() {
        let start = SystemTime::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut kept = Kept::new(start);
        let count = |kept: &Kept, with_log| {
            let asked = Observation {
                with_log,
                ..Observation::default()
            };
            kept.recent(&asked).len()
        };
        let (few, flood) = (record(RecordType::Audit), record(RecordType::Denied));
        kept.push(at(1), few.clone());
        for seconds in 2..=KEPT as u64 {
            kept.push(at(seconds), flood.clone());
        }
        assert_eq!([count(&kept, false), count(&kept, true)], [KEPT; 2]);
        // The oldest of the flood makes room: the one before it is in the log, too.
        kept.push(at(KEPT as u64 + 1), flood);
        assert_eq!(kept.missing_until, at(2));
        assert_eq!([count(&kept, false), count(&kept, true)], [KEPT, KEPT - 1]);
    }
}
