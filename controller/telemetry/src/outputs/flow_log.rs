//! The flow log: records as lines of JSON in a file that is put aside when it is full.
//!
//! Invariant, whole lines: what could not be written whole is taken back. Half a line that an
//! agent left when it was killed is closed before the next one is written.
//!
//! Invariant, bounded: no file grows beyond its size, but by one record that is longer, and
//! no more files are kept than were asked for. If a full file cannot be put aside, records
//! are lost rather than written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_protocol::flow_log::{MAX_KEPT, put_aside};
use cofferdam_protocol::output::FlowRecord;

use super::{Lost, Sink};

/// The flow log as files.
#[derive(Debug)]
pub struct FlowLog {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    current: Option<Current>,
}

/// The file that is written to.
#[derive(Debug)]
struct Current {
    file: File,
    /// Its size in bytes, of whole lines alone.
    len: u64,
    /// Its device and inode, which show whether another process has moved it away.
    identity: (u64, u64),
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl FlowLog {
    /// A log that puts its file aside at `max_bytes` and keeps so many of those. Nothing is
    /// opened before the first record.
    #[must_use]
    pub fn new(path: &Path, max_bytes: u64, keep: u32) -> Self {
        Self {
            path: path.to_owned(),
            max_bytes,
            keep,
            current: None,
        }
    }

    /// The file, opened again if somebody has moved it away.
    fn current(&mut self) -> io::Result<&mut Current> {
        let there = fs::metadata(&self.path).map(|metadata| identity(&metadata));
        self.current = (self.current.take())
            .filter(|current| there.as_ref().is_ok_and(|there| *there == current.identity));
        match &mut self.current {
            Some(current) => Ok(current),
            none => Ok(none.insert(open(&self.path, self.keep)?)),
        }
    }

    /// Appends whole lines, all or none.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let current = self.current()?;
        let written = current.file.write_all(lines);
        match &written {
            Ok(()) => current.len += lines.len() as u64,
            Err(_) => {
                // What cannot be taken back is closed when the file is opened again.
                _ = current.file.set_len(current.len);
                self.current = None;
            }
        }
        written
    }

    /// Puts the file aside, and those that were put aside before one further.
    fn turn(&mut self) -> io::Result<()> {
        for turns in (0..self.keep).rev() {
            let (from, to) = (
                put_aside(&self.path, turns),
                put_aside(&self.path, turns + 1),
            );
            is_missing_fine(fs::rename(from, to))?;
        }
        if self.keep == 0 {
            is_missing_fine(fs::remove_file(&self.path))?;
        }
        self.current = None;
        Ok(())
    }

    /// Writes lines, putting files aside between them. Returns how many were written in
    /// front of a failure, and the failure.
    fn write(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), (usize, io::Error)> {
        let mut lines = Vec::new();
        let mut written = 0;
        let mut len = self.current().map_err(|error| (0, error))?.len;
        for (count, record) in records.iter().enumerate() {
            let before = lines.len();
            serde_json::to_writer(&mut lines, &**record)
                .map_err(|error| (written, error.into()))?;
            lines.push(b'\n');
            let is_first = len == 0 && before == 0;
            if len + lines.len() as u64 > self.max_bytes && !is_first {
                let next = lines.split_off(before);
                self.append(&lines).map_err(|error| (written, error))?;
                written = count;
                self.turn().map_err(|error| (written, error))?;
                (lines, len) = (next, 0);
            }
        }
        self.append(&lines).map_err(|error| (written, error))
    }
}

impl Sink for FlowLog {
    fn pass_on(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), Lost> {
        self.write(records).map_err(|(written, source)| Lost {
            count: (records.len() - written) as u64,
            source,
        })
    }
}

/// A file that is not there needs not be moved or removed.
fn is_missing_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Opens the file behind what it has, and removes files beyond those that are kept.
fn open(path: &Path, keep: u32) -> io::Result<Current> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        // A pipe without a reader would wait for one.
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let message = format!("{} is not a file: set `flow_log.path`", path.display());
        return Err(io::Error::other(message));
    }
    let mut current = Current {
        len: metadata.len(),
        identity: identity(&metadata),
        file,
    };
    if current.len > 0 {
        let mut last = [0];
        current.file.read_exact_at(&mut last, current.len - 1)?;
        if last != *b"\n" {
            current.file.write_all(b"\n")?;
            current.len += 1;
        }
    }
    for turns in keep + 1..=MAX_KEPT {
        if fs::remove_file(put_aside(path, turns)).is_err() {
            break;
        }
    }
    Ok(current)
}

/// Records as lines on standard output.
#[derive(Debug, Default)]
pub struct StandardOutput;

impl Sink for StandardOutput {
    fn pass_on(&mut self, records: &[Arc<FlowRecord>]) -> Result<(), Lost> {
        let lost = |source| Lost {
            count: records.len() as u64,
            source,
        };
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, &**record).map_err(|error| lost(error.into()))?;
            lines.push(b'\n');
        }
        let mut out = io::stdout().lock();
        out.write_all(&lines)
            .and_then(|()| out.flush())
            .map_err(lost)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::records::tests::record;
    use cofferdam_protocol::flow_log::{self, Records};
    use cofferdam_protocol::output::RecordType;
    use tempfile::TempDir;

    /// A folder for one test.
    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn log(&self) -> PathBuf {
            self.0.path().join("new/flows.jsonl")
        }
    }

    /// Records with these revisions.
    fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<Arc<FlowRecord>> {
        let record = record(RecordType::Denied);
        let records = numbers.into_iter().map(|revision| {
            Arc::new(FlowRecord {
                revision,
                ..(*record).clone()
            })
        });
        records.collect()
    }

    /// The revisions in the log's files, oldest first, and the number of files.
    fn read(path: &Path) -> (Vec<u64>, usize) {
        let files = flow_log::open(path).unwrap();
        let count = files.len();
        let mut revisions = Vec::new();
        for (_, file) in files {
            let mut records = Records::new(file);
            while let Some(record) = records.next_record().unwrap() {
                revisions.push(record.revision);
            }
        }
        (revisions, count)
    }

    fn line() -> u64 {
        serde_json::to_vec(&*numbered([1])[0]).unwrap().len() as u64 + 1
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = Folder::new();
        let path = folder.log();
        // Two records of one digit a file.
        let mut log = FlowLog::new(&path, 2 * line(), 2);
        log.pass_on(&numbered(1..=3)).unwrap();
        assert_eq!(read(&path), (vec![1, 2, 3], 2));
        for number in 4..=9 {
            log.pass_on(&numbered([number])).unwrap();
        }
        assert_eq!(read(&path), (vec![5, 6, 7, 8, 9], 3), "whole files go");
        for turns in 0..=2 {
            let metadata = fs::metadata(put_aside(&path, turns)).unwrap();
            assert!(metadata.len() <= 2 * line());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
        // Fewer are kept from now on.
        let mut log = FlowLog::new(&path, 2 * line(), 1);
        log.pass_on(&numbered([1])).unwrap();
        assert_eq!(read(&path), (vec![7, 8, 9, 1], 2));
        let mut log = FlowLog::new(&path, 2 * line(), 0);
        log.pass_on(&numbered([2])).unwrap();
        assert_eq!(read(&path), (vec![2], 1));
    }

    #[test]
    fn a_record_that_is_longer_than_a_file_is_written_alone() {
        let folder = Folder::new();
        let path = folder.log();
        let mut log = FlowLog::new(&path, 10, 5);
        log.pass_on(&numbered(1..=3)).unwrap();
        assert_eq!(read(&path), (vec![1, 2, 3], 3));
    }

    #[test]
    fn half_a_line_of_a_killed_agent_is_closed_and_what_was_there_stays() {
        let folder = Folder::new();
        let path = folder.log();
        FlowLog::new(&path, 1 << 20, 1)
            .pass_on(&numbered([1]))
            .unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        (&file).write_all(b"{\"schema\":\"cofferd").unwrap();
        FlowLog::new(&path, 1 << 20, 1)
            .pass_on(&numbered([2]))
            .unwrap();
        assert_eq!(read(&path).0, [1, 2]);
    }

    #[test]
    fn a_file_that_is_moved_away_is_made_anew() {
        let folder = Folder::new();
        let path = folder.log();
        let mut log = FlowLog::new(&path, 1 << 20, 1);
        log.pass_on(&numbered([1])).unwrap();
        fs::rename(&path, folder.0.path().join("elsewhere")).unwrap();
        log.pass_on(&numbered([2])).unwrap();
        assert_eq!(read(&path).0, [2]);
    }

    #[test]
    fn records_that_a_full_disk_has_no_room_for_are_lost_and_counted() {
        // Whatever is written there, the disk is full.
        let folder = Folder::new();
        let path = folder.log();
        let mut log = FlowLog::new(&path, 1 << 20, 1);
        log.pass_on(&numbered([1])).unwrap();
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut current = log.current.take().unwrap();
        let real = std::mem::replace(&mut current.file, full);
        log.current = Some(current);
        let lost = log.pass_on(&numbered([2, 3])).unwrap_err();
        assert_eq!(
            (lost.count, lost.source.kind()),
            (2, io::ErrorKind::StorageFull)
        );
        drop(real);
        log.pass_on(&numbered([4])).unwrap();
        assert_eq!(read(&path).0, [1, 4]);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let lost = FlowLog::new(Path::new("/dev/null"), 1, 1)
            .pass_on(&numbered([1]))
            .unwrap_err();
        assert_eq!(lost.count, 1);
        assert!(lost.source.to_string().contains("set `flow_log.path`"));
    }
}
