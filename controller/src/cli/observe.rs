//! `cofferdam observe`: flow records of an agent, or of files of its flow log.

mod checkout;
mod files;
mod flags;
mod lines;
mod moment;
mod top;

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_answers::Reply;
use cofferdam_protocol::output::FlowRecord;
use cofferdam_protocol::{Observation, Request};

use crate::client::{self, ClientError};
use crate::output::{DividedBy, Ranked};
use checkout::Checkout;
use flags::FilterFlags;
pub(super) use lines::Escaped;
use lines::{Format, Lines};
use moment::Moment;
use top::Top;

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    #[command(flatten)]
    filter: FilterFlags,
    /// Show only the newest so many of the past, of those that the filters let through
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Show records from this time on: how long ago, such as `5m`, or RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Show records up to this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<Moment>,
    /// Go on with records to come
    #[arg(long, short, conflicts_with_all = ["file", "top"])]
    follow: bool,
    /// Read records from files of a flow log, with those that were put aside under their
    /// names, and ask no agent; `-` is standard input
    #[arg(long, value_name = "PATH", num_args = 1..)]
    file: Vec<PathBuf>,
    /// Point rules at their lines in a local checkout of the policies
    #[arg(long, value_name = "PATH")]
    sources: Vec<PathBuf>,
    /// Count records instead of printing them
    #[arg(long, value_enum, value_name = "WHAT")]
    top: Option<Ranked>,
    /// Divide what is counted; drops are by policy unless told otherwise
    #[arg(long, value_enum, requires = "top")]
    by: Option<DividedBy>,
    /// Print so many rows of --top
    #[arg(long, value_name = "N", default_value_t = 10, requires = "top")]
    rows: usize,
    /// Print in this form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Colour verdicts; `auto` does on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    color: Colour,
    /// Directory of the agent's control socket
    #[arg(long, value_name = "DIR", default_value = "/run/cofferdam")]
    run_dir: PathBuf,
}

/// Condition for coloured output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Colour {
    fn is_on(self) -> bool {
        match self {
            Self::Auto => super::is_coloured(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

pub(super) fn run(args: &ObserveArgs) -> Result<bool> {
    let asked = Observation {
        last: args.last,
        since: args.since.as_ref().map(|since| since.0.clone()),
        until: args.until.as_ref().map(|until| until.0.clone()),
        follow: args.follow,
        filter: args.filter.0.clone(),
        with_log: !args.follow,
    };
    let mut showing = Showing::new(args)?;
    if !args.file.is_empty() {
        let mut past = Past::new(args.last);
        past.read(&args.file, &asked, &mut showing)?;
        past.end(&mut showing)?;
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(ask(&args.run_dir, asked, &mut showing))?;
    }
    showing.end(args)?;
    Ok(true)
}

/// Shows what an agent tells, and what its flow log has from before.
async fn ask(run_dir: &Path, asked: Observation, showing: &mut Showing) -> Result<()> {
    let request = Request::Observe(asked.clone());
    let mut answers = client::send(run_dir, request).await?;
    let mut log = None;
    let mut kept = Vec::new();
    loop {
        match answers.next().await {
            Ok(Reply::FlowLog { path, until }) => log = Some((path, until)),
            Ok(Reply::Record(record)) if asked.follow => {
                if !showing.take(*record)? {
                    return Ok(());
                }
            }
            // An agent does not wait for long: all is taken before anything is shown.
            Ok(Reply::Record(record)) => kept.push(*record),
            Ok(Reply::End) => break,
            Ok(_) => bail!("the agent answered something else"),
            // The end of an agent is the end of what it can tell.
            Err(ClientError::BrokenOff(_)) if asked.follow => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut past = Past::new(asked.last);
    if let Some((path, until)) = log {
        let of_log = Observation {
            until: Some(match &asked.until {
                Some(earlier) if *earlier < until => earlier.clone(),
                _ => until,
            }),
            ..asked
        };
        if let Err(error) = past.read(&[path], &of_log, showing) {
            eprintln!("cofferdam: records from before the agent's start are missing: {error:#}");
        }
    }
    for record in kept {
        if !past.take(record, showing)? {
            break;
        }
    }
    past.end(showing)
}

/// Records of the past, of which perhaps only the last are shown.
struct Past {
    last: Option<usize>,
    kept: VecDeque<FlowRecord>,
}

impl Past {
    fn new(last: Option<u64>) -> Self {
        Self {
            last: last.map(|last| usize::try_from(last).unwrap_or(usize::MAX)),
            kept: VecDeque::new(),
        }
    }

    /// Takes the next record. Returns `false` if no more are wanted.
    fn take(&mut self, record: FlowRecord, showing: &mut Showing) -> Result<bool> {
        let Some(last) = self.last else {
            return showing.take(record);
        };
        self.kept.push_back(record);
        if self.kept.len() > last {
            self.kept.pop_front();
        }
        Ok(true)
    }

    /// Takes the records of files.
    fn read(
        &mut self,
        paths: &[PathBuf],
        asked: &Observation,
        showing: &mut Showing,
    ) -> Result<()> {
        let passed_over = files::read(paths, asked, &mut |record| self.take(record, showing))?;
        if passed_over > 0 {
            eprintln!("cofferdam: {passed_over} lines are no flow records and were passed over");
        }
        Ok(())
    }

    fn end(self, showing: &mut Showing) -> Result<()> {
        for record in self.kept {
            if !showing.take(record)? {
                break;
            }
        }
        Ok(())
    }
}

/// Destination of records: standard output, or sums.
struct Showing {
    lines: Lines,
    checkout: Option<Checkout>,
    top: Option<Top>,
    /// Text to print before the next record.
    head: String,
    /// Without a flush after each line.
    is_buffered: bool,
    out: std::io::BufWriter<std::io::Stdout>,
}

impl Showing {
    fn new(args: &ObserveArgs) -> Result<Self> {
        let lines = Lines::new(args.format, args.color.is_on());
        let checkout = match args.sources.as_slice() {
            [] => None,
            paths => Some(Checkout::read(paths)?),
        };
        Ok(Self {
            lines,
            checkout,
            top: args.top.map(|what| Top::new(what, args.by)),
            head: lines.head(),
            is_buffered: !args.follow,
            out: std::io::BufWriter::new(std::io::stdout()),
        })
    }

    /// Shows a record. Returns `false` if the reader of standard output has gone.
    fn take(&mut self, mut record: FlowRecord) -> Result<bool> {
        if let Some(checkout) = &self.checkout {
            checkout.resolve(&mut record);
        }
        if let Some(top) = &mut self.top {
            top.count(&record);
            return Ok(true);
        }
        let text = std::mem::take(&mut self.head) + &self.lines.line(&record)?;
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> Result<bool> {
        let mut written = self.out.write_all(text.as_bytes());
        if !self.is_buffered {
            written = written.and_then(|()| self.out.flush());
        }
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            written => {
                written.context("cannot write to standard output")?;
                Ok(true)
            }
        }
    }

    fn end(mut self, args: &ObserveArgs) -> Result<()> {
        if let Some(top) = self.top.take() {
            let report = top.report(args.rows);
            let text = match args.format {
                Format::Json => serde_json::to_string(&report).context("cannot write JSON")? + "\n",
                Format::Text | Format::Wide => top::table(&report),
            };
            self.write(&text)?;
        }
        match self.out.flush() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard output")
            }
            _ => Ok(()),
        }
    }
}
