//! Records in files of a flow log, without an agent.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use cofferdam_protocol::Observation;
use cofferdam_protocol::flow_log::{self, Records};
use cofferdam_protocol::output::FlowRecord;

/// The files of one log, oldest first, and their next record.
struct Log {
    /// Still to be read, the next one last.
    files: Vec<(PathBuf, Box<dyn Read>)>,
    current: Option<(PathBuf, Records<Box<dyn Read>>)>,
    head: Option<FlowRecord>,
    passed_over: u64,
}

impl Log {
    /// Opens a log; `-` is standard input.
    fn open(path: &Path, asked: &Observation) -> Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let mut files: Vec<(PathBuf, Box<dyn Read>)> = Vec::new();
        if path.as_os_str() == "-" {
            files.push((path.to_owned(), Box::new(io::stdin().lock())));
        } else {
            for (name, file) in flow_log::open(path).with_context(failed)? {
                if may_have(&file, asked).with_context(failed)? {
                    files.push((name, Box::new(file)));
                }
            }
        }
        files.reverse();
        let mut log = Self {
            files,
            current: None,
            head: None,
            passed_over: 0,
        };
        log.advance(asked)?;
        Ok(log)
    }

    /// Goes on to the next record that is asked for.
    fn advance(&mut self, asked: &Observation) -> Result<()> {
        self.head = None;
        loop {
            let Some((name, records)) = &mut self.current else {
                let Some((name, file)) = self.files.pop() else {
                    return Ok(());
                };
                self.current = Some((name, Records::new(file)));
                continue;
            };
            let failed = || format!("cannot read {}", name.display());
            match records.next_record().with_context(failed)? {
                Some(record) if asked.is_for(&record) => {
                    self.head = Some(record);
                    return Ok(());
                }
                Some(_) => {}
                None => {
                    self.passed_over += records.passed_over();
                    self.current = None;
                }
            }
        }
    }
}

/// Returns `false` if a file was last written before all that is asked for.
fn may_have(file: &File, asked: &Observation) -> io::Result<bool> {
    let Some(since) = &asked.since else {
        return Ok(true);
    };
    let written: SystemTime = file.metadata()?.modified()?;
    let written = humantime::format_rfc3339_nanos(written).to_string();
    Ok(written >= *since)
}

/// Reads the records of some logs that are asked for, all in the order of time, until `take`
/// has had enough. Returns how many lines were no records.
///
/// # Errors
/// If a log cannot be read, or `take` fails.
pub(super) fn read(
    paths: &[PathBuf],
    asked: &Observation,
    take: &mut dyn FnMut(FlowRecord) -> Result<bool>,
) -> Result<u64> {
    let logs = paths.iter().map(|path| Log::open(path, asked));
    let mut logs: Vec<Log> = logs.collect::<Result<_>>()?;
    // The first of those whose record is the oldest.
    let oldest = |logs: &[Log]| {
        let heads = logs
            .iter()
            .enumerate()
            .filter_map(|(at, log)| Some((at, &log.head.as_ref()?.time)));
        let oldest = heads.reduce(|one, other| match one.1.cmp(other.1) {
            Ordering::Greater => other,
            Ordering::Less | Ordering::Equal => one,
        });
        oldest.map(|(at, _)| at)
    };
    while let Some(at) = oldest(&logs) {
        let Some(record) = logs[at].head.take() else {
            break;
        };
        logs[at].advance(asked)?;
        if !take(record)? {
            break;
        }
    }
    Ok(logs.iter().map(|log| log.passed_over).sum())
}
