//! Laws that must hold whatever the input: no panic, bounded time, and a few more that need no
//! other opinion to be checked against.
//!
//! A target takes bytes and panics when something does not hold. `cargo xtask fuzz`
//! looks for such bytes with an engine that sees which code they reach; the tests of
//! this crate do the same in seconds, with bytes that are the same in every run.

mod expectations;
mod foreign_text;
mod packets;
mod world;

use std::fs;
use std::time::Duration;

/// Most time of a processor that one input may take. Inputs are a few KiB and take
/// some milliseconds.
const MOST_TIME: Duration = Duration::from_secs(2);

/// Something that bytes are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Bytes as YAML.
    Yaml,
    /// Bytes as a file of documents, from parsing to the desired state.
    Documents,
    /// Bytes as a file of documents with statements about them, and whether they hold.
    Expectations,
    /// Bytes as choices, which make valid documents; from those to a decision table.
    Compiler,
    /// Bytes as a frame, for the parser and everything that reads headers.
    Packet,
    /// Bytes as packets on both hooks of several workloads, and changes meanwhile.
    Flows,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 6] = [
        Self::Yaml,
        Self::Documents,
        Self::Expectations,
        Self::Compiler,
        Self::Packet,
        Self::Flows,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Documents => "documents",
            Self::Expectations => "expectations",
            Self::Compiler => "compiler",
            Self::Packet => "packet",
            Self::Flows => "flows",
        }
    }

    /// The target of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.as_str() == name)
    }

    /// Gives it an input.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn run(self, bytes: &[u8]) {
        let before = processor_time();
        match self {
            Self::Yaml => foreign_text::yaml(bytes),
            Self::Documents => foreign_text::documents(bytes),
            Self::Expectations => expectations::expectations(bytes),
            Self::Compiler => world::compiler(bytes),
            Self::Packet => packets::parser(bytes),
            Self::Flows => packets::flows(bytes),
        }
        let time = processor_time().saturating_sub(before);
        assert!(
            time <= MOST_TIME,
            "{} bytes took {time:?}, more than {MOST_TIME:?}",
            bytes.len()
        );
    }
}

/// Time that a processor has spent on this thread, whatever else the machine does;
/// nothing where the system does not say.
fn processor_time() -> Duration {
    let ticks = || {
        let stat = fs::read_to_string("/proc/thread-self/stat").ok()?;
        let behind_name = stat.rsplit(')').next()?;
        // In user space and in the kernel, in hundredths of a second; see proc(5).
        let mut fields = behind_name.split_whitespace().skip(11);
        let mut field = || fields.next()?.parse::<u64>().ok();
        Some(field()? + field()?)
    };
    Duration::from_millis(ticks().unwrap_or(0) * 10)
}
