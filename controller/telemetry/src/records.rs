//! Flow records: the newest are kept for a while, and handed to followers.
//!
//! The ring buffer is bounded and never holds a packet up; what does not fit is
//! counted as unreported by the program itself. Here equal reports are joined, the newest
//! records are kept in memory, and handed to whoever follows.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use cofferdam_dataplane::Events;
use cofferdam_protocol::Observation;
use cofferdam_protocol::output::FlowRecord;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::broadcast;

use crate::describe::describe;
use crate::joining::{Joined, Joining};
use crate::kept::Kept;
use crate::names::SharedNames;
use crate::outputs::Outputs;
use crate::time::rfc3339;

/// Records that a follower may fall behind.
const BEHIND: usize = 16_384;

/// Reports that the following thread reads before others may.
const AT_ONCE: u32 = 256;

/// Time that the following thread leaves reports alone after it has read all: the program
/// that reports the first one after each look has to wake it.
const BETWEEN_READS: Duration = Duration::from_millis(5);

/// Reads the ring buffer, and keeps what it says.
#[derive(Debug)]
pub struct Recorder {
    reader: Mutex<Reader>,
    /// How many want to read next. A flood keeps the thread that follows the ring
    /// buffer busy for as long as it lasts; it lets others go first.
    waiting: AtomicUsize,
    names: SharedNames,
    outputs: Outputs,
    kept: Mutex<Kept>,
    feed: broadcast::Sender<Arc<FlowRecord>>,
}

<<<<<<< HEAD
/// The ring buffer, and the records of what was read that wait for equal ones.
#[derive(Debug)]
struct Reader {
    events: Events,
    joining: Joining,
=======
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
>>>>>>> 0fb5e32
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Nothing has been read yet. Each record is handed to the outputs as well.
    #[must_use]
    pub fn new(events: Events, names: SharedNames, outputs: Outputs) -> Self {
        Self {
            reader: Mutex::new(Reader {
                events,
                joining: Joining::default(),
            }),
            waiting: AtomicUsize::new(0),
            names,
            outputs,
            kept: Mutex::new(Kept::new(SystemTime::now())),
            feed: broadcast::channel(BEHIND).0,
        }
    }

    /// Reads everything that has been reported by now, and hands it on.
    pub fn drain(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut reader = locked(&self.reader);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let room = reader.events.room();
        self.read(&mut reader, room);
        self.tell(&mut reader.joining);
    }

    /// Reads so many reports, or all there are. Hands records on that have waited long enough,
    /// and returns the number of reports.
    fn read(&self, reader: &mut Reader, most: u32) -> u32 {
        let Reader { events, joining } = reader;
        let mut read = 0;
        while read < most
            && let Some(event) = events.next()
        {
            read += 1;
            let now = SystemTime::now();
            joining.add(&event, now, |event| describe(event, &self.names, now));
            if joining.is_due() {
                self.tell(joining);
            }
        }
        if joining.is_due() {
            self.tell(joining);
        }
        read
    }

    /// Hands on what has waited for equal reports.
    fn tell(&self, joining: &mut Joining) {
        for Joined {
            time,
            reporter,
            record,
        } in joining.take()
        {
            let record = Arc::new(record);
            self.outputs.hand_over(&record);
            let mut kept = locked(&self.kept);
            kept.push(time, reporter, record.clone());
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
<<<<<<< HEAD
        let recent = (kept.iter())
            .filter(|(time, record)| {
                since.is_none_or(|since| *time >= since) && asked.is_for(record)
            })
=======
        let missing_until = kept.missing_until;
        let is_in_log = |time: SystemTime| asked.with_log && time <= missing_until;
        let recent = (kept.records.iter())
            .filter(|(time, record)| !is_in_log(*time) && asked.is_for(record))
>>>>>>> 0fb5e32
            .map(|(_, record)| record.clone());
        let mut recent: Vec<_> = recent.collect();
        if let Some(last) = asked.last {
            let last = usize::try_from(last).unwrap_or(usize::MAX);
            recent.drain(..recent.len().saturating_sub(last));
        }
        Followed {
            missing_until: rfc3339(missing_until),
            recent,
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
        let descriptor: OwnedFd = locked(&self.reader).events.as_fd().try_clone_to_owned()?;
        loop {
            let left = locked(&self.reader).joining.left();
            let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, left.map_or(PollTimeout::NONE, timeout)) {
                Ok(_) => {
                    let read = self.read(&mut locked(&self.reader), AT_ONCE);
                    while self.waiting.load(Ordering::SeqCst) > 0 {
                        thread::yield_now();
                    }
                    if (1..AT_ONCE).contains(&read) {
                        // Interrupted, it is shorter.
                        _ = poll(&mut [], timeout(BETWEEN_READS));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

<<<<<<< HEAD
/// Returns a time to wait, in whole milliseconds, that is not shorter.
fn timeout(time: Duration) -> PollTimeout {
    let milliseconds = time.as_micros().div_ceil(1000);
    u16::try_from(milliseconds).map_or(PollTimeout::MAX, PollTimeout::from)
=======
#[cfg(test)]
pub(crate) mod tests {
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
>>>>>>> 0fb5e32
}
