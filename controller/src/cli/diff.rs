//! `cofferdam diff`.

pub(super) mod revisions;
mod sarif;
pub(super) mod sets;
mod text;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use cofferdam_analysis::connectivity::exceptions::{self, Day, Exception};
use cofferdam_analysis::connectivity::{ChangeKind, Changes, Lane, PortSpan};
use cofferdam_answers::connectivity::{
    BackendReport, ChangeReport, ChangedBackends, DiffReport, ExceptionReport,
};
use cofferdam_reach::Probe;
use cofferdam_syntax::diagnostic::Diagnostic;
use ipnet::IpNet;

use super::connectivity::ConnectivityArgs;
use super::etcd::EtcdArgs;
use super::{is_coloured, print};
use sets::{NEW_SET, NewArgs, Sets};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("new set").args(NEW_SET).multiple(true).required(true)))]
pub(super) struct DiffArgs {
    /// The old set: files and directories, or `git:REV:PATH` for those of a revision.
    #[arg(value_name = "OLD", required_unless_present_any = ["etcd", "cluster"])]
    old: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    new: NewArgs,
    /// Only changes of this: `tcp/80`, `udp/53`, `icmp/8`.
    #[arg(long = "probe", value_name = "PROBE")]
    probes: Vec<Probe>,
    /// Changes that end with status 1, unless an exception approves of them.
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    /// Exposures that are approved of, each with a reason and a last day.
    #[arg(long, value_name = "FILE")]
    except: Vec<PathBuf>,
    /// The day on which exceptions are to count; today.
    #[arg(long, value_name = "DAY", requires = "except")]
    as_of: Option<Day>,
    #[command(flatten)]
    state: ConnectivityArgs,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    format: DiffFormat,
}

/// Changes that end with status 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Connections that only the new set allows.
    Added,
    /// Connections that only the old set allows.
    Removed,
    /// Either.
    Any,
}

/// Forms in which `diff` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For a pull request.
    Md,
    /// SARIF 2.1.0, at the lines of the new set.
    Sarif,
}

pub(super) fn run(args: &DiffArgs) -> Result<bool> {
    let approved = approved(&args.except)?;
    let Sets { old, new } = args.new.read(&args.etcd.and(&args.old), &args.state)?;
    let new = new.unwrap_or_default();
    let ((old, before), (new, after)) = args.state.of_both(&old, &new)?;
    let changes = Changes::new(before, after);
    let probes: Vec<PortSpan> = args
        .probes
        .iter()
        .copied()
        .map(PortSpan::of_probe)
        .collect();
    let diagnostics = old.reported().into_iter().chain(new.reported()).collect();
    let mut report = DiffReport::new(&changes, &probes, diagnostics);
    approve(&mut report, &approved, args.as_of.unwrap_or_else(today));
    if args.format != DiffFormat::Json {
        old.complain();
        new.complain();
        complain(&report);
    }
    match args.format {
        DiffFormat::Text => print(&text::report(&report, is_coloured()))?,
        DiffFormat::Md => print(&text::markdown(&report))?,
        DiffFormat::Json => {
            let line = serde_json::to_string(&report).context("cannot write JSON")?;
            print(&(line + "\n"))?;
        }
        DiffFormat::Sarif => {
            let log = serde_json::to_string_pretty(&sarif::log(&report));
            print(&(log.context("cannot write JSON")? + "\n"))?;
        }
    }
    let failed = match args.fail_on {
        None => 0,
        Some(FailOn::Added) => report.added,
        Some(FailOn::Removed) => report.removed,
        Some(FailOn::Any) => report.added + report.removed,
    };
    let is_good = failed == 0 && old.are_good() && new.are_good();
    // Two states of a large cluster would take a quarter of a second to take apart.
    std::mem::forget((old, new, changes));
    Ok(is_good)
}

/// Today in UTC.
fn today() -> Day {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Day::of_unix(since.map_or(0, |since| since.as_secs()))
}

/// Reads files of exceptions.
fn approved(paths: &[PathBuf]) -> Result<Vec<Exception>> {
    let mut approved = Vec::new();
    let mut wrong: Vec<Diagnostic> = Vec::new();
    for path in paths {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (exceptions, diagnostics) = exceptions::read(&path.to_string_lossy(), &bytes);
        approved.extend(exceptions);
        wrong.extend(diagnostics);
    }
    for diagnostic in &wrong {
        eprintln!("{diagnostic}");
    }
    if !wrong.is_empty() {
        bail!("the exceptions have mistakes: mend them, nothing was approved of");
    }
    Ok(approved)
}

/// Marks changes that an exception approves of, and tells what came of each exception.
fn approve(report: &mut DiffReport, exceptions: &[Exception], day: Day) {
    let mut used = vec![false; exceptions.len()];
    let cidrs: std::collections::HashMap<&str, Vec<IpNet>> = (report.ends.iter())
        .map(|end| {
            let cidrs = end.cidrs.iter().filter_map(|cidr| cidr.parse().ok());
            (end.id.as_str(), cidrs.collect())
        })
        .collect();
    for change in &mut report.changes {
        let kind = match change.kind.as_str() {
            "added" => ChangeKind::Added,
            _ => ChangeKind::Removed,
        };
        let end = |id: &str| cidrs.get(id).map_or(&[][..], Vec::as_slice);
        let source = (change.source.as_str(), end(&change.source));
        let destination = (change.destination.as_str(), end(&change.destination));
        let ports = span(&change.protocol, &change.ports);
        let covering = |destination: (&str, &[IpNet]), ports: Option<&PortSpan>| -> Vec<usize> {
            let counting = exceptions
                .iter()
                .enumerate()
                .filter(|(_, exception)| exception.counts_on(day));
            let covering = counting
                .filter(|(_, exception)| exception.covers(kind, source, destination, ports));
            covering.map(|(at, _)| at).collect()
        };
        let mut approving = covering(destination, ports.as_ref());
        if approving.is_empty() {
            let each: Vec<Vec<usize>> = (behind(change).iter())
                .map(|(id, cidrs, own)| covering((id, cidrs), own.or(ports).as_ref()))
                .collect();
            // A Service is no more than a way to what is behind it.
            if each.iter().all(|approving| !approving.is_empty()) {
                approving = each.concat();
            }
        }
        for at in approving {
            used[at] = true;
            change
                .approved
                .get_or_insert_with(|| exceptions[at].reason.clone());
        }
    }
    let reports = exceptions
        .iter()
        .zip(used)
        .map(|(exception, used)| ExceptionReport {
            file: exception.place.file.to_string(),
            line: exception.place.line,
            reason: exception.reason.clone(),
            expires: exception.expires.to_string(),
            state: match (exception.counts_on(day), used) {
                (false, _) => "expired",
                (true, true) => "used",
                (true, false) => "unused",
            }
            .to_owned(),
        });
    report.exceptions = reports.collect();
    report.count();
}

/// The ends behind a Service that a change is about, in the set that allows it, with their
/// addresses and ports if they have their own.
fn behind(change: &ChangeReport) -> Vec<(&str, Vec<IpNet>, Option<PortSpan>)> {
    let Some(ChangedBackends { old, new }) = &change.backends else {
        return Vec::new();
    };
    let backends = if change.kind == "added" { new } else { old };
    let behind = backends.iter().map(|BackendReport { id, port }| {
        let address = id.parse::<IpAddr>().map(IpNet::from);
        let ports = port.and_then(|port| span(&change.protocol, &port.to_string()));
        (id.as_str(), address.into_iter().collect(), ports)
    });
    behind.collect()
}

/// The ports of a change; `None` for all.
fn span(protocol: &str, ports: &str) -> Option<PortSpan> {
    let lane = Lane::ALL
        .into_iter()
        .find(|lane| lane.as_str() == protocol)?;
    let whole = PortSpan::whole(lane);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    Some(match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => PortSpan {
            first,
            last,
            ..whole
        },
        _ => whole,
    })
}

/// Says of exceptions what somebody should know.
fn complain(report: &DiffReport) {
    for exception in &report.exceptions {
        let ExceptionReport {
            file,
            line,
            reason,
            expires,
            ..
        } = exception;
        match exception.state.as_str() {
            "expired" => eprintln!(
                "{file}:{line}: the exception ({reason}) expired on {expires} and does not count: \
                 renew it, or take the exposure back"
            ),
            "unused" => eprintln!(
                "{file}:{line}: the exception ({reason}) approves of nothing here: remove it"
            ),
            _ => {}
        }
    }
}
