//! `cofferdam graph`.

mod html;
mod layout;
mod svg;
mod text;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args, ValueEnum};
use cofferdam_analysis::connectivity::Changes;
use cofferdam_answers::graph::GraphReport;

use super::connectivity::ConnectivityArgs;
use super::diff::sets::{NEW_SET, NewArgs, Sets};
use super::etcd::EtcdArgs;
use super::list::FocusArgs;
use super::offline::Documents;
use super::print;

/// Arguments that choose connections of one set.
const CHOICE: [&str; 6] = [
    "workloads",
    "namespaces",
    "direction",
    "port",
    "family",
    "all",
];

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("choice").args(CHOICE).multiple(true).conflicts_with_all(NEW_SET)))]
pub(super) struct GraphArgs {
    /// Files and directories of documents, or `git:REV:PATH` for those of a revision; `-` is
    /// standard input.
    #[arg(value_name = "PATH", required_unless_present_any = ["etcd", "cluster"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    new: NewArgs,
    #[command(flatten)]
    focus: FocusArgs,
    /// Also draws connections between ends that no policy isolates.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    state: ConnectivityArgs,
    /// Form of the picture.
    #[arg(long, value_enum)]
    format: GraphFormat,
}

/// Forms in which `graph` draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// For Graphviz.
    Dot,
    /// For Mermaid, in pages of code hosts.
    Mermaid,
    /// A picture.
    Svg,
    /// One page that needs no network: pan, zoom, search, hide namespaces.
    Html,
    /// A picture for Mermaid and a table of edges, in Markdown.
    Md,
    /// For programs.
    Json,
}

pub(super) fn run(args: &GraphArgs) -> Result<bool> {
    let Sets { old, new } = (args.new).read(&args.etcd.and(&args.paths), &args.state)?;
    let mut is_good = true;
    let mut diagnostics = Vec::new();
    let mut take = |documents: &Documents| {
        is_good &= documents.are_good();
        diagnostics.extend(documents.reported());
        if args.format != GraphFormat::Json {
            documents.complain();
        }
    };
    let report = if let Some(new) = new {
        let ((old, before), (new, after)) = args.state.of_both(&old, &new)?;
        take(&old);
        take(&new);
        GraphReport::of_changes(
            &Changes::new(before, after),
            args.focus.services,
            diagnostics,
        )
    } else {
        let documents = Documents::of(&old);
        let connectivity = args.state.of(&documents)?;
        take(&documents);
        let focus = args.focus.of(&connectivity)?;
        GraphReport::of_state(&connectivity, &focus, args.all, diagnostics)
    };
    if args.format != GraphFormat::Json && report.left_out > 0 {
        eprintln!(
            "{} pairs of ends that no policy isolates are not drawn: --all draws them",
            report.left_out
        );
    }
    match args.format {
        GraphFormat::Dot => print(&text::dot(&report))?,
        GraphFormat::Mermaid => print(&text::mermaid(&report))?,
        GraphFormat::Md => print(&text::markdown(&report))?,
        GraphFormat::Svg => print(&svg::picture(&report))?,
        GraphFormat::Html => print(&html::page(&report))?,
        GraphFormat::Json => {
            let line = serde_json::to_string(&report).context("cannot write JSON")?;
            print(&(line + "\n"))?;
        }
    }
    Ok(is_good)
}
