//! Files of the flow log: their names, and the records in them.
//!
//! A record is a line of JSON. When a file is full it is put aside under its name with `.1`
//! behind it, and what was put aside before moves on to `.2`; the highest number is the
//! oldest file. An agent that is killed, or a full disk, may leave half a line: a line that
//! is no record is passed over and counted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::output::FlowRecord;

/// Most files that are put aside.
pub const MAX_KEPT: u32 = 1000;

/// Longest line that is read, in bytes: a record with all labels that a pod can have is far
/// below.
const MAX_LINE: u64 = 1 << 20;

/// Returns the name of the file that was put aside so many turns ago; 0 is the file itself.
#[must_use]
pub fn put_aside(path: &Path, turns: u32) -> PathBuf {
    if turns == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{turns}"));
    name.into()
}

/// Opens a file of the log, and those that were put aside before it; oldest first.
///
/// # Errors
/// If there is none, or one cannot be opened or is a device.
pub fn open(path: &Path) -> io::Result<Vec<(PathBuf, File)>> {
    let mut files: Vec<(PathBuf, File)> = Vec::new();
    let mut seen = Vec::new();
    let mut missing = None;
    // Newest first: a file that is put aside meanwhile is met again, and known by its inode.
    // Two names may be missing while files move on.
    let mut gap = 0;
    for turns in 0..=MAX_KEPT {
        let name = put_aside(path, turns);
        match File::open(&name) {
            Ok(file) => {
                gap = 0;
                let metadata = file.metadata()?;
                // A device may never end.
                let kind = metadata.file_type();
                if !kind.is_file() && !kind.is_fifo() {
                    return Err(io::Error::other("it is neither a file nor a pipe"));
                }
                let identity = (metadata.dev(), metadata.ino());
                if !seen.contains(&identity) {
                    seen.push(identity);
                    files.push((name, file));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing = missing.or(Some(error));
                gap += 1;
                if gap > 2 {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    files.reverse();
    match missing {
        Some(error) if files.is_empty() => Err(error),
        _ => Ok(files),
    }
}

/// The lines of a file that are not empty, one after the other.
#[derive(Debug)]
pub struct Lines<R> {
    lines: BufReader<R>,
    line: Vec<u8>,
    number: u64,
}

/// A line of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'l> {
    /// Its number, from 1.
    pub number: u64,
    /// Its text; `None` if it is longer than 1 MiB, which no record is.
    pub text: Option<&'l [u8]>,
}

impl<R: io::Read> Lines<R> {
    /// Nothing has been read yet.
    #[must_use]
    pub fn new(file: R) -> Self {
        Self {
            lines: BufReader::with_capacity(1 << 16, file),
            line: Vec::new(),
            number: 0,
        }
    }

    /// Reads the next line that has something in it, or `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            self.line.clear();
            let mut bounded = (&mut self.lines).take(MAX_LINE);
            if bounded.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if self.line.len() as u64 == MAX_LINE && self.line.last() != Some(&b'\n') {
                self.lines.skip_until(b'\n')?;
                return Ok(Some(Line { number, text: None }));
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        Ok(Some(Line {
            number: self.number,
            text: Some(&self.line),
        }))
    }
}

/// The records of a file, one after the other.
#[derive(Debug)]
pub struct Records<R> {
    lines: Lines<R>,
    passed_over: u64,
}

impl<R: io::Read> Records<R> {
    /// Nothing has been read yet.
    #[must_use]
    pub fn new(file: R) -> Self {
        Self {
            lines: Lines::new(file),
            passed_over: 0,
        }
    }

    /// Returns the number of lines so far that are no records.
    #[must_use]
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Reads the next record, or `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_record(&mut self) -> io::Result<Option<FlowRecord>> {
        while let Some(line) = self.lines.next_line()? {
            let record = line.text.map(serde_json::from_slice);
            if let Some(Ok(record)) = record {
                return Ok(Some(record));
            }
            self.passed_over += 1;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"schema":"cofferdam/v1","time":"2026-01-01T00:00:00.000000000Z","type":"denied","node":"n1","hook":"from_workload","direction":"egress","verdict":"deny","reason":"ethertype","revision":0,"count":1,"rule":null,"isolated_by":[],"source":{"labels":{}},"destination":{"labels":{}},"protocol":"arp","tcp_flags":null,"icmp":null,"packets":1,"bytes":60,"duration_ms":0}"#;

    /// Counts the records of a text, and the lines that are none.
    fn read(text: &[u8]) -> (u64, u64) {
        let mut records = Records::new(text);
        let mut count = 0;
        while records.next_record().expect("memory can be read").is_some() {
            count += 1;
        }
        (count, records.passed_over())
    }

    #[test]
    fn a_device_is_refused() {
        let error = open(Path::new("/dev/zero")).expect_err("it would never end");
        assert!(error.to_string().contains("neither a file"), "{error}");
    }

    #[test]
    fn half_a_line_costs_no_other_record() {
        let (half, _) = RECORD.split_at(RECORD.len() / 2);
        assert_eq!(
            read(format!("{RECORD}\n{half}").as_bytes()),
            (1, 1),
            "at the end"
        );
        let between = format!("{RECORD}\n{half}\n{RECORD}\n");
        assert_eq!(read(between.as_bytes()), (2, 1), "after a restart");
        assert_eq!(read(format!("{RECORD}\n\n{RECORD}").as_bytes()), (2, 0));
        assert_eq!(read(b""), (0, 0));
        assert_eq!(read(b"\xff\0\n{}\n"), (0, 2));
        let long = "x".repeat(3 << 20);
        assert_eq!(read(format!("{long}\n{RECORD}\n").as_bytes()), (1, 1));
    }
}
