//! `cofferdam man`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use super::{Cli, print};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Writes the pages of all commands into this folder, instead of printing the first.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> Result<bool> {
    match &args.directory {
        Some(directory) => write(directory)?,
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command())
                .render(&mut page)
                .context("cannot make the page")?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(true)
}

fn write(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the folder {}", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("cannot write pages into {}", directory.display()))
}
