//! `check`: what is wrong with documents, before anything is in force.
//!
//! Reads what an agent would read, says what it would say, and holds what policies
//! mean against the workloads of the same documents.

mod capacity;
mod excerpt;
pub(super) mod sarif;
mod text;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_agent::config::Given;
use cofferdam_policies::analysis;
use cofferdam_policies::diagnostic::{Diagnostic, Severity};
use cofferdam_policies::documents::{self, MAX_FILE, Source, SourceFile, assemble};
use cofferdam_policies::expectations;
use cofferdam_protocol::output::Schema;

use super::print;
use crate::output::CheckReport;
pub(super) use excerpt::Texts;

/// Standard input among paths.
const STDIN: &str = "-";

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Files, directories, or `-` for standard input: policies, and the Namespace, Pod,
    /// Node and Service documents that they are about.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    format: CheckFormat,
    /// What else is a reason to end with status 1.
    #[arg(long, value_enum, value_name = "WHAT")]
    deny: Option<Deny>,
    /// Also says how full the tables of a node would be, and what does not fit.
    #[arg(long)]
    capacity: bool,
    /// The configuration whose limits count for that.
    #[arg(long, value_name = "FILE", requires = "capacity")]
    config: Option<PathBuf>,
    /// The nodes that are tried; without any, those with the most workloads.
    #[arg(long, value_name = "NAME", requires = "capacity")]
    node: Vec<String>,
}

/// How `check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// For people, with the lines that findings are about.
    Text,
    /// For programs.
    Json,
    /// SARIF 2.1.0, for code hosts and editors.
    Sarif,
}

/// What ends with status 1 beside errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Warnings too.
    Warnings,
}

pub(super) fn run(args: &CheckArgs) -> Result<bool> {
    let config = super::read_config(&Given {
        file: args.config.clone(),
        ..Given::default()
    })?;
    let sources = read(&args.paths)?;
    let documents = sources.iter().flat_map(|source| &source.parsed.documents);
    let assembled = assemble(documents.cloned());
    let parsed = || sources.iter().map(|source| &source.parsed);
    let rejected =
        assembled.rejected.len() + parsed().map(|parsed| parsed.rejected.len()).sum::<usize>();
    let accepted =
        parsed().map(|parsed| parsed.documents.len()).sum::<usize>() - assembled.rejected.len();

    let mut diagnostics: Vec<Diagnostic> = parsed()
        .flat_map(|parsed| parsed.diagnostics.clone())
        .collect();
    diagnostics.extend(
        sources
            .iter()
            .flat_map(|source| expectations::read(&source.file, &source.text).diagnostics),
    );
    diagnostics.extend(analysis::analyse(&sources, &assembled));
    diagnostics.extend(assembled.diagnostics);
    let mut diagnostics = analysis::without_allowed(&sources, diagnostics);
    let capacity = args.capacity.then(|| {
        let limits = config.limits();
        capacity::check(&assembled.inventory, &limits, &args.node, &mut diagnostics)
    });
    let capacity = capacity.transpose()?;
    diagnostics.sort();

    let count = |severity| {
        let of_severity = diagnostics.iter().filter(|one| one.severity == severity);
        of_severity.count() as u64
    };
    let report = CheckReport {
        schema: Schema,
        files: sources.len() as u64,
        accepted: accepted as u64,
        rejected: rejected as u64,
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        diagnostics: diagnostics
            .iter()
            .map(cofferdam_answers::diagnostic)
            .collect(),
        capacity,
    };
    let is_good = report.errors == 0 && (report.warnings == 0 || args.deny != Some(Deny::Warnings));
    let texts = Texts::new(&sources);
    match args.format {
        CheckFormat::Text => print(&text::report(&report, &texts))?,
        CheckFormat::Json => {
            let line = serde_json::to_string(&report).context("cannot write JSON")?;
            print(&(line + "\n"))?;
        }
        CheckFormat::Sarif => {
            let log = sarif::log(&report, &texts, is_good);
            let text = serde_json::to_string_pretty(&log).context("cannot write JSON")?;
            print(&(text + "\n"))?;
        }
    }
    Ok(is_good)
}

/// Reads files, directories, and standard input where a path is `-`.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let is_stdin = |path: &&PathBuf| path.as_os_str() == STDIN;
    let files: Vec<&PathBuf> = paths.iter().filter(|path| !is_stdin(path)).collect();
    let mut files = documents::read(&files)?;
    if paths.iter().any(|path| is_stdin(&path)) {
        files.push(read_stdin()?);
    }
    if files.is_empty() {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "there is no .yaml, .yml or .json file in {}",
            paths.join(", ")
        );
    }
    let sources = files
        .into_iter()
        .map(|SourceFile { path, bytes }| Source::new(path.to_string_lossy().into(), bytes.into()));
    Ok(sources.collect())
}

fn read_stdin() -> Result<SourceFile> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_FILE)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    std::io::stdin()
        .take(most)
        .read_to_end(&mut bytes)
        .context("cannot read standard input")?;
    Ok(SourceFile {
        path: Path::new("<stdin>").to_owned(),
        bytes,
    })
}
