//! `cofferdam convert`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use cofferdam_documents::converted;
use cofferdam_syntax::diagnostic::Severity;

use super::print;
use super::project::{Project, ReadArgs};

#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// Files and directories with AdminNetworkPolicy and BaselineAdminNetworkPolicy documents;
    /// `-` is standard input.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadArgs,
}

pub(super) fn run(args: &ConvertArgs) -> Result<bool> {
    let project = Project::read(&args.paths, &args.reading)?;
    let mut is_good = true;
    let mut texts = Vec::new();
    for source in &project.sources {
        let Ok(text) = std::str::from_utf8(&source.text) else {
            continue;
        };
        let of_file = converted(text);
        // Mistakes of other documents are not in what is printed.
        if !of_file.is_empty() {
            for diagnostic in &source.parsed.diagnostics {
                is_good &= diagnostic.severity != Severity::Error;
                eprintln!("{diagnostic}");
            }
        }
        texts.extend(of_file);
    }
    if texts.is_empty() {
        bail!(
            "no policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy or \
             BaselineAdminNetworkPolicy is among the documents: there is nothing to convert"
        );
    }
    print(&texts.join("---\n"))?;
    Ok(is_good)
}
