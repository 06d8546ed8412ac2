//! `cofferdam exposure`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use cofferdam_analysis::exposure::{Door, exposure, read_doors};
use cofferdam_answers::exposure::{BeyondReport, DoorReport, ExposedReport, ExposureReport};

use super::cluster::ClusterArgs;
use super::etcd::EtcdArgs;
use super::offline::Documents;
use super::project::{Project, ReadArgs};
use super::{Format, list, show};

#[derive(Debug, Args)]
pub(super) struct ExposureArgs {
    /// Files and directories of documents; `-` is standard input.
    #[arg(value_name = "PATH", required_unless_present_any = ["etcd", "cluster"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Only this workload: `namespace/workload` or `namespace/pod`.
    #[arg(long = "workload", value_name = "NAMESPACE/NAME")]
    workloads: Vec<String>,
    /// Only workloads in this namespace.
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &ExposureArgs) -> Result<bool> {
    let sources =
        Project::read_with(&args.etcd.and(&args.paths), &args.reading, &args.cluster)?.sources;
    let documents = Documents::of(&sources);
    let mut doors: Vec<Door> = sources
        .iter()
        .flat_map(|source| read_doors(&source.text))
        .collect();
    doors.sort();
    doors.dedup();
    let workloads = exposure(&documents.inventory, &doors)?;
    let mut report = ExposureReport::new(&workloads, &doors, documents.reported());
    choose(args, &mut report)?;
    if args.format == Format::Text {
        documents.complain();
    }
    show(args.format, &report, text)?;
    Ok(documents.are_good())
}

/// Leaves what is asked for.
fn choose(args: &ExposureArgs, report: &mut ExposureReport) -> Result<()> {
    let is_called =
        |one: &ExposedReport, name: &String| one.id == *name || one.members.contains(name);
    for name in &args.workloads {
        if !report.workloads.iter().any(|one| is_called(one, name)) {
            let known: Vec<&str> = report.workloads.iter().map(|one| one.id.as_str()).collect();
            bail!(
                "there is no workload `{name}`{}",
                list::did_you_mean(name, &known)
            );
        }
    }
    let namespace = |one: &ExposedReport| {
        one.id
            .split_once('/')
            .map(|(namespace, _)| namespace.to_owned())
    };
    for name in &args.namespaces {
        if !report
            .workloads
            .iter()
            .any(|one| namespace(one).as_ref() == Some(name))
        {
            bail!("there is no workload in a namespace `{name}`");
        }
    }
    if !args.workloads.is_empty() || !args.namespaces.is_empty() {
        report.workloads.retain(|one| {
            args.workloads.iter().any(|name| is_called(one, name))
                || namespace(one).is_some_and(|name| args.namespaces.contains(&name))
        });
    }
    Ok(())
}

fn text(report: &ExposureReport) -> String {
    if report.workloads.is_empty() {
        return "there are no pods or templates of pods in the documents\n".to_owned();
    }
    let mut text = String::new();
    for one in &report.workloads {
        workload(&mut text, one).expect("writing to a string");
    }
    text
}

fn workload(text: &mut String, one: &ExposedReport) -> std::fmt::Result {
    let replicas = match one.members.len() {
        1 => String::new(),
        pods => format!(" ({pods})"),
    };
    writeln!(text, "{:>4}  {}{replicas}", one.score, one.id)?;
    if !one.not_isolated.is_empty() {
        writeln!(text, "      not isolated: {}", one.not_isolated.join(", "))?;
    }
    for (sign, side) in [("<-", &one.reached_by), ("->", &one.reaches)] {
        for BeyondReport { who, ports, .. } in side {
            writeln!(text, "      {sign} {who}  {ports}")?;
        }
    }
    for DoorReport {
        kind,
        name,
        service,
    } in &one.ways_in
    {
        let kind = kind.replace('_', " ");
        match name == service {
            true => writeln!(text, "      way in: {kind} {name}")?,
            false => writeln!(text, "      way in: {kind} {name}, by Service {service}")?,
        }
    }
    Ok(())
}
