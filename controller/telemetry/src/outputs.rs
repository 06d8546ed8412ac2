//! Hands records to outputs: the flow log, syslog, and collectors of OpenTelemetry.
//!
//! Each output has a thread and a bounded queue of its own. A record for which a queue has no
//! room, or that an output could not pass on, is lost to that output and counted.
//!
//! Invariant, no waiting: handing a record over never waits for an output, so that a full
//! disk or a silent peer holds up neither packets nor the other outputs.

mod flow_log;
mod otlp;
mod syslog;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::filter::Filter;
use cofferdam_protocol::output::{FlowEnd, FlowRecord, RecordType};
use cofferdam_protocol::words::ClosedList as _;

pub use flow_log::{FlowLog, StandardOutput};
pub use hyper::Uri;
pub use otlp::Otlp;
pub use syslog::{Collector, Syslog};

/// Records that an output may fall behind.
const BEHIND: usize = 8_192;

/// Records that are passed on at once.
const AT_ONCE: usize = 256;

/// Least time between two log lines about the same output.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);

/// Records that could not be passed on.
#[derive(Debug, thiserror::Error)]
#[error("{count} records are lost")]
pub struct Lost {
    /// Number of records.
    pub count: u64,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// A place that records are passed on to.
pub trait Sink: Send + 'static {
    /// Passes records on.
    ///
    /// # Errors
    /// If some could not be passed on. The next call tries again with its own records.
    fn pass_on(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), Lost>;
}

/// Progress of an output.
#[derive(Debug, Default)]
struct Progress {
    /// Records that it was handed.
    queued: AtomicU64,
    /// Of these, those that it is done with.
    done: Mutex<u64>,
    advanced: Condvar,
    /// Records that it never passed on.
    lost: AtomicU64,
}

#[derive(Debug)]
struct Output {
    name: String,
    only: Filter,
    queue: SyncSender<Arc<FlowRecord>>,
    progress: Arc<Progress>,
}

/// All outputs of an agent.
#[derive(Debug, Default)]
pub struct Outputs {
    all: Vec<Output>,
}

impl Outputs {
    /// Starts an output. It gets the records that `only` lets through; `name` is its label in
    /// metrics.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn start(&mut self, name: &str, only: Filter, sink: impl Sink) -> io::Result<()> {
        let (queue, records) = sync_channel(BEHIND);
        let progress = Arc::new(Progress::default());
        let output = Output {
            name: name.to_owned(),
            only,
            queue,
            progress: progress.clone(),
        };
        let name = name.to_owned();
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || pass_on(&name, sink, &records, &progress))?;
        self.all.push(output);
        Ok(())
    }

    /// Hands a record to all outputs that want it, without waiting for any.
    pub(crate) fn hand_over(&self, record: &Arc<FlowRecord>) {
        for output in &self.all {
            if !output.only.is_for(record) {
                continue;
            }
            let progress = &output.progress;
            // Before the record, which may be passed on at once.
            progress.queued.fetch_add(1, Ordering::SeqCst);
            if output.queue.try_send(record.clone()).is_err() {
                progress.queued.fetch_sub(1, Ordering::SeqCst);
                progress.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns `true` if an output can want records of this type.
    #[must_use]
    pub fn want(&self, kind: RecordType) -> bool {
        self.all.iter().any(|output| output.only.is_for_type(kind))
    }

    /// Returns each output's name, and how many records are lost to it.
    pub fn lost(&self) -> impl Iterator<Item = (&str, u64)> {
        let outputs = self.all.iter();
        outputs.map(|output| {
            let lost = output.progress.lost.load(Ordering::Relaxed);
            (output.name.as_str(), lost)
        })
    }

    /// Waits until everything that was handed over is passed on or lost, or the time is over.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for output in &self.all {
            let progress = &output.progress;
            let queued = progress.queued.load(Ordering::SeqCst);
            let done = progress.done.lock().unwrap_or_else(PoisonError::into_inner);
            let left = deadline.saturating_duration_since(Instant::now());
            _ = progress
                .advanced
                .wait_timeout_while(done, left, |done| *done < queued);
        }
    }
}

/// Passes records on until there can be no more.
fn pass_on(
    name: &str,
    mut sink: impl Sink,
    records: &Receiver<Arc<FlowRecord>>,
    progress: &Progress,
) {
    let mut complaints = Complaints::default();
    let mut batch = Vec::with_capacity(AT_ONCE);
    while let Ok(first) = records.recv() {
        batch.clear();
        batch.push(first);
        batch.extend(records.try_iter().take(AT_ONCE - 1));
        match sink.pass_on(&batch) {
            Ok(()) => complaints.works(name),
            Err(lost) => {
                progress.lost.fetch_add(lost.count, Ordering::Relaxed);
                complaints.fails(name, &lost.source);
            }
        }
        let mut done = progress.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += batch.len() as u64;
        progress.advanced.notify_all();
    }
}

/// Log of an output's failures, which does not repeat each of many.
#[derive(Debug, Default)]
struct Complaints {
    /// Time at which a failure was last logged; nothing since it works.
    last: Option<Instant>,
}

impl Complaints {
    fn fails(&mut self, name: &str, error: &dyn fmt::Display) {
        let is_due = |last: Instant| last.elapsed() >= BETWEEN_COMPLAINTS;
        if self.last.is_none_or(is_due) {
            self.last = Some(Instant::now());
            tracing::error!(
                "flow records are lost to the output {name}: {error}; they are counted in \
                 cofferdam_output_lost_records_total"
            );
        }
    }

    fn works(&mut self, name: &str) {
        if self.last.take().is_some() {
            tracing::info!("flow records reach the output {name} again");
        }
    }
}

/// A record as one sentence for people who read logs, without what could act on a terminal.
fn sentence(record: &FlowRecord) -> String {
    let end = |end: &FlowEnd| {
        let name = match (&end.namespace, &end.workload, &end.node) {
            (Some(namespace), Some(workload), _) => format!("{namespace}/{workload} "),
            (_, _, Some(node)) => format!("node/{node} "),
            _ => String::new(),
        };
        let address = match (end.address, end.port) {
            (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            (Some(address), None) => address.to_string(),
            (None, _) => "?".to_owned(),
        };
        name + &address
    };
    let policy = record
        .rule
        .as_ref()
        .or(record.isolated_by.first())
        .map_or_else(String::new, |rule| {
            let namespace = rule
                .namespace
                .as_ref()
                .map(|name| format!("{name}/"))
                .unwrap_or_default();
            format!(" by {namespace}{}", rule.name)
        });
    let verdict = match record.kind {
        RecordType::Denied => record.verdict.word(),
        kind => kind.as_str(),
    };
    let text = format!(
        "{verdict} {} {} {} > {} {}{policy}",
        record.reason.name(),
        record.direction.word(),
        end(&record.source),
        end(&record.destination),
        record.protocol,
    );
    let mut told = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            told.extend(c.escape_default());
        } else {
            told.push(c);
        }
    }
    told
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::records::tests::record;

    /// A sink that passes records on only when it is let.
    struct Gated {
        gate: Receiver<Result<(), ()>>,
    }

    impl Sink for Gated {
        fn pass_on(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), Lost> {
            let outcome = self.gate.recv().unwrap_or(Ok(()));
            outcome.map_err(|()| Lost {
                count: records.len() as u64,
                source: io::ErrorKind::StorageFull.into(),
            })
        }
    }

    fn lost(outputs: &Outputs) -> Vec<(&str, u64)> {
        outputs.lost().collect()
    }

    #[test]
    fn an_output_that_does_not_move_loses_records_and_holds_nothing_up() {
        let mut outputs = Outputs::default();
        let (open, gate) = channel();
        outputs
            .start("stuck", Filter::default(), Gated { gate })
            .unwrap();
        let (_moving, gate) = channel();
        drop(_moving);
        outputs
            .start("moving", Filter::default(), Gated { gate })
            .unwrap();
        let record = record(RecordType::Denied);
        const MORE: usize = 1_000;
        for _ in 0..BEHIND + AT_ONCE + MORE {
            outputs.hand_over(&record);
        }
        let begun = Instant::now();
        outputs.flush(Duration::from_millis(20));
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "a flush is bounded"
        );
        let [(_, stuck), _] = lost(&outputs)[..] else {
            panic!("{outputs:?}");
        };
        // One batch may have been taken out of the queue.
        assert!(
            (MORE..=MORE + AT_ONCE).contains(&(stuck as usize)),
            "{stuck}"
        );
        drop(open);
        outputs.flush(Duration::from_secs(10));
        assert_eq!(
            lost(&outputs)[0],
            ("stuck", stuck),
            "the rest was passed on"
        );
    }

    #[test]
    fn what_a_sink_cannot_pass_on_is_counted() {
        let mut outputs = Outputs::default();
        let (open, gate) = channel();
        outputs
            .start("full", Filter::default(), Gated { gate })
            .unwrap();
        let record = record(RecordType::Denied);
        for outcome in [Err(()), Ok(()), Err(())] {
            outputs.hand_over(&record);
            open.send(outcome).unwrap();
            outputs.flush(Duration::from_secs(10));
        }
        assert_eq!(lost(&outputs), [("full", 2)]);
    }

    #[test]
    fn an_output_gets_and_wants_what_its_filter_lets_through() {
        let mut only = Filter::default();
        only.add(
            false,
            cofferdam_protocol::filter::Criterion::Type(RecordType::Audit),
        );
        let mut outputs = Outputs::default();
        let (open, gate) = channel();
        outputs.start("audits", only, Gated { gate }).unwrap();
        let wanted = [RecordType::Audit, RecordType::New].map(|kind| outputs.want(kind));
        assert_eq!(wanted, [true, false]);
        // Each record that it gets is counted.
        for kind in [RecordType::Denied, RecordType::Audit] {
            open.send(Err(())).unwrap();
            outputs.hand_over(&record(kind));
            outputs.flush(Duration::from_secs(10));
        }
        assert_eq!(lost(&outputs), [("audits", 1)]);
    }
}
