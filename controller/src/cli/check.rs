//! `check`: what is wrong with documents, before anything is in force.
//!
//! Reads what an agent would read, says what it would say, and holds what policies
//! mean against the workloads of the same documents.

mod allow;
mod capacity;
mod excerpt;
pub(super) mod sarif;
mod text;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use cofferdam_agent::config::Given;
use cofferdam_analysis as analysis;
use cofferdam_protocol::output::Schema;
use cofferdam_reach::policy_test;
use cofferdam_syntax::diagnostic::{Diagnostic, Severity};

use super::cluster::ClusterArgs;
use super::etcd::EtcdArgs;
use super::print;
use super::project::{Project, ReadArgs};
use crate::output::CheckReport;
use allow::{AllowArgs, Allowed};
pub(super) use excerpt::Texts;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Files, directories, or `-` for standard input: policies, and the Namespace, Pod,
    /// Node and Service documents that they are about.
    #[arg(value_name = "PATH", required_unless_present_any = ["etcd", "cluster"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    allow: AllowArgs,
    /// Print in this form.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    format: CheckFormat,
    /// End with status 1 for these findings, too.
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

/// Output format of `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// For people, with the lines that findings are about.
    Text,
    /// For programs.
    Json,
    /// SARIF 2.1.0, for code hosts and editors.
    Sarif,
}

/// Findings that end `check` with status 1, beside errors.
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
    let allowed = Allowed::read(&args.allow)?;
    let project = Project::read_with(&args.etcd.and(&args.paths), &args.reading, &args.cluster)?;
    let sources = &project.sources;
    let assembled = project.assemble();
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
            .flat_map(|source| policy_test::read(&source.file, &source.text).diagnostics),
    );
    diagnostics.extend(analysis::analyse(sources, &assembled));
    diagnostics.extend(assembled.diagnostics);
    diagnostics.extend(allowed.diagnostics.iter().cloned());
    let left = analysis::without_allowed(sources, diagnostics, &allowed.allowances);
    let mut diagnostics = left.diagnostics;
    diagnostics.extend(allowed.unused(&left.unused));
    let capacity = args
        .capacity
        .then(|| {
            let limits = config.limits();
            capacity::check(&assembled.inventory, &limits, &args.node, &mut diagnostics)
        })
        .transpose()?;
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
        looked_at: project.looked_at(),
        passed_over: project.passed_over,
        unrendered: project.unrendered.clone(),
        capacity,
    };
    let is_good = report.errors == 0 && (report.warnings == 0 || args.deny != Some(Deny::Warnings));
    let texts = Texts::new(sources);
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
