//! `cofferdam what-if`: flow records against a set of policies.

mod text;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_answers::replay::{
    Records, Settings, TakeError, UnreadableReport, WhatIfReport, replay,
};
use cofferdam_protocol::flow_log::{self, Lines};

use super::connectivity::ConnectivityArgs;
use super::diff::revisions;
use super::observe::Escaped;
use super::offline::{Documents, OwnNodeArg};
use super::project::KnownTexts;
use super::{is_coloured, print};

/// Most lines that are no records that are told one by one.
const MOST_UNREADABLE: usize = 100;

#[derive(Debug, Args)]
#[command(mut_arg("strict", |arg| arg.help(
    "Takes files that are no Kubernetes objects for errors, as an agent does, and ends with \
     status 1 if a line is no record or a connection cannot be judged",
)))]
pub(super) struct WhatIfArgs {
    /// Files of flow records, with those that were put aside under their names; `-` is
    /// standard input. Each line is recognised by itself: Cofferdam's own, Hubble's or
    /// Calico's.
    #[arg(value_name = "RECORDS", required = true)]
    records: Vec<PathBuf>,
    /// The policies, with the documents of the workloads: files and directories, or
    /// `git:REV:PATH` for those of a revision.
    #[arg(long, value_name = "NEW", required_unless_present = "cluster", num_args = 1..)]
    policies: Vec<PathBuf>,
    /// Changes that end with status 1.
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    #[command(flatten)]
    state: ConnectivityArgs,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = WhatIfFormat::Text)]
    format: WhatIfFormat,
}

/// Changes that end with status 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Connections that would newly be denied.
    Denied,
    /// Connections that would newly be allowed.
    Allowed,
    /// Either.
    Any,
}

/// Forms in which `what-if` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhatIfFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For a pull request.
    Md,
}

pub(super) fn run(args: &WhatIfArgs) -> Result<bool> {
    let reading = &args.state.reading;
    let objects = args.state.cluster.read()?;
    let sources = revisions::read(&args.policies, reading, objects, &KnownTexts::new())
        .context("cannot read the policies")?;
    let mut records = Records::default();
    let mut unreadable = Vec::new();
    for path in &args.records {
        read(path, &mut records, &mut unreadable)?;
    }
    if records.count() == 0 {
        complain(&unreadable, records.unreadable());
        bail!("there is no flow record in what was given: nothing can be replayed");
    }
    let first = Documents::of(&sources);
    let asked = records.asked(&first.stand_ins);
    let documents = Documents::asked_about(&sources, asked.iter().map(String::as_str));
    let settings = Settings {
        stand_ins: &documents.stand_ins,
        networks: &args.state.pods.networks(),
        own_node_allowed: args.state.own_node == OwnNodeArg::Allow,
        audited: args.state.audit,
    };
    let inventory = &documents.inventory;
    let mut report = replay(&records, inventory, &settings, documents.reported())?;
    report.unreadable = unreadable;
    if args.format != WhatIfFormat::Json {
        documents.complain();
        complain(&report.unreadable, report.read.unreadable);
    }
    match args.format {
        WhatIfFormat::Text => {
            let ends = (report.changes.iter())
                .flat_map(|change| [&*change.cell.source, &*change.cell.destination]);
            let remark = documents.remark(ends);
            print(&(text::report(&report, is_coloured()) + &remark))?;
        }
        WhatIfFormat::Md => print(&text::markdown(&report))?,
        WhatIfFormat::Json => {
            let line = serde_json::to_string(&report).context("cannot write JSON")?;
            print(&(line + "\n"))?;
        }
    }
    let is_whole = report.read.unreadable == 0 && report.unjudged.is_empty();
    Ok(failed(&report, args.fail_on) == 0
        && documents.are_good()
        && (is_whole || !reading.is_strict()))
}

/// Counts the changes that are not wanted.
fn failed(report: &WhatIfReport, fail_on: Option<FailOn>) -> u64 {
    match fail_on {
        None => 0,
        Some(FailOn::Denied) => report.denied,
        Some(FailOn::Allowed) => report.allowed,
        Some(FailOn::Any) => report.denied + report.allowed,
    }
}

/// Reads the records of a path, and of files that were put aside under its name.
fn read(path: &Path, records: &mut Records, unreadable: &mut Vec<UnreadableReport>) -> Result<()> {
    let failed = || format!("cannot read {}", path.display());
    let files: Vec<(PathBuf, Box<dyn Read>)> = if path.as_os_str() == "-" {
        vec![("<stdin>".into(), Box::new(io::stdin().lock()))]
    } else {
        let boxed = |(name, file): (PathBuf, File)| (name, Box::new(file) as Box<dyn Read>);
        let files = flow_log::open(path).with_context(failed)?;
        files.into_iter().map(boxed).collect()
    };
    for (name, file) in files {
        let mut lines = Lines::new(file);
        while let Some(line) = lines.next_line().with_context(failed)? {
            let taken = match line.text {
                Some(text) => records.take(text),
                None => {
                    records.pass_over_line();
                    Err(TakeError::NoRecord("it is longer than 1 MiB".to_owned()))
                }
            };
            match taken {
                Ok(()) => {}
                Err(TakeError::NoRecord(message)) => {
                    if unreadable.len() < MOST_UNREADABLE {
                        unreadable.push(UnreadableReport {
                            file: name.display().to_string(),
                            line: line.number,
                            message,
                        });
                    }
                }
                Err(too_many @ TakeError::TooMany) => bail!(too_many),
            }
        }
    }
    Ok(())
}

/// Says which lines are no records, to standard error.
fn complain(unreadable: &[UnreadableReport], total: u64) {
    for UnreadableReport {
        file,
        line,
        message,
    } in unreadable
    {
        let (file, message) = (Escaped(file), Escaped(message));
        eprintln!("{file}:{line}: no flow record: {message}");
    }
    let beyond = total.saturating_sub(unreadable.len() as u64);
    if beyond > 0 {
        eprintln!("{beyond} more lines are no flow records");
    }
}
