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
use std::time::{Duration, SystemTime};

use cofferdam_dataplane::{Events, FlowSwitch, Report};
use cofferdam_protocol::Observation;
use cofferdam_protocol::output::{FlowRecord, RecordType};
use cofferdam_verdict::event::EndRecord;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::broadcast;

use crate::describe::describe;
use crate::ended;
use crate::joining::{Joined, Joining};
use crate::kept::{Kept, Reporter};
use crate::outputs::Outputs;
use crate::snapshots::Snapshots;
use crate::tally::Tally;
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
    /// Number of threads that want to read next. A flood keeps the thread that follows the ring
    /// buffer busy for as long as it lasts; it lets others go first.
    waiting: AtomicUsize,
    names: Snapshots,
    tally: Arc<Tally>,
    outputs: Outputs,
    kept: Mutex<Kept>,
    feed: broadcast::Sender<Arc<FlowRecord>>,
    flows: Arc<Flows>,
    tick: Duration,
}

/// Number of those that want to be told of flows, and the programs' switch.
#[derive(Debug)]
struct Flows {
    wanted: Mutex<usize>,
    switch: FlowSwitch,
}

/// Has records of flows that begin and end made until it is dropped.
#[derive(Debug)]
pub struct FlowsWanted(Arc<Flows>);

impl Drop for FlowsWanted {
    fn drop(&mut self) {
        let mut wanted = locked(&self.0.wanted);
        *wanted -= 1;
        if *wanted == 0 {
            self.0.switch.set(false);
        }
    }
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

/// The ring buffer, and the records of what was read that wait for equal ones.
#[derive(Debug)]
struct Reader {
    events: Events,
    joining: Joining,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Nothing has been read yet. Each record is handed to the outputs as well.
    #[must_use]
    pub fn new(events: Events, names: Snapshots, tally: Arc<Tally>, outputs: Outputs) -> Self {
        let is_of_flows = [RecordType::New, RecordType::Ended]
            .iter()
            .any(|kind| outputs.want(*kind));
        let switch = events.flows();
        // An agent that was killed may have left it on.
        switch.set(is_of_flows);
        Self {
            tick: events.tick(),
            flows: Arc::new(Flows {
                wanted: Mutex::new(is_of_flows.into()),
                switch,
            }),
            reader: Mutex::new(Reader {
                events,
                joining: Joining::default(),
            }),
            waiting: AtomicUsize::new(0),
            names,
            tally,
            outputs,
            kept: Mutex::new(Kept::new(SystemTime::now())),
            feed: broadcast::channel(BEHIND).0,
        }
    }

    /// Has records of flows that begin and end made, at least until the answer is dropped.
    /// Otherwise no program tells of them.
    #[must_use]
    pub fn want_flows(&self) -> FlowsWanted {
        let mut wanted = locked(&self.flows.wanted);
        *wanted += 1;
        self.flows.switch.set(true);
        FlowsWanted(self.flows.clone())
    }

    /// Takes in the end of a flow that user space has found.
    pub fn end(&self, end: &EndRecord) {
        if *locked(&self.flows.wanted) == 0 {
            return;
        }
        let now = SystemTime::now();
        if let Some(record) = ended::describe(end, &self.names, self.tick, now) {
            let reporter = (end.ifindex, record.hook as u8);
            self.hand_on(now, reporter, record);
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
            match event {
                Report::Packet(event) => {
                    joining.add(&event, now, |event| describe(event, &self.names, now));
                }
                Report::End(end) => self.end(&end),
            }
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
            self.hand_on(time, reporter, record);
        }
    }

    fn hand_on(&self, time: SystemTime, reporter: Reporter, record: FlowRecord) {
        self.tally.note(&record);
        let record = Arc::new(record);
        self.outputs.hand_over(&record);
        let mut kept = locked(&self.kept);
        kept.push(time, reporter, record.clone());
        // Under the lock, so that a follower misses none and sees none twice. An error only
        // says that nobody follows.
        _ = self.feed.send(record);
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

/// Returns a time to wait, in whole milliseconds, that is not shorter.
fn timeout(time: Duration) -> PollTimeout {
    let milliseconds = time.as_micros().div_ceil(1000);
    u16::try_from(milliseconds).map_or(PollTimeout::MAX, PollTimeout::from)
}

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
        let names = Snapshots::new("n1");
        let described = describe(&event, &names, SystemTime::now());
        Arc::new(FlowRecord {
            kind,
            ..described.unwrap()
        })
    }
}
