//! `cargo xtask pictures`: draws the dashboards, and a graph, for the documentation.
//!
//! The demonstration is shown, goes on for some minutes with a Prometheus over it, and has
//! Chromium take a picture of each dashboard and of the page of `cofferdam graph`. By hand, when
//! one has changed: no test draws, but tests hold the pictures that are there against the
//! dashboards.

use std::path::PathBuf;

use anyhow::Result;

use crate::{demo, run, setup::Need};

/// The dashboards.
const DASHBOARDS: &str = "deploy/grafana";
/// Folder of the pictures.
const PICTURES: &str = "docs/img";

/// Arguments of `cargo xtask pictures`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show so many minutes of traffic, from 1 to 60.
    #[arg(long, value_name = "NUMBER", default_value_t = 5,
          value_parser = clap::value_parser!(u8).range(1..=60))]
    minutes: u8,
}

/// Draws them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = demo::built(&[Need::Monitoring, Need::Browser], &[])?;
    for (flag, path) in [
        ("--prometheus", demo::RULES),
        ("--dashboards", DASHBOARDS),
        ("--pictures", PICTURES),
    ] {
        command.args([PathBuf::from(flag), run::root().join(path)]);
    }
    command.args(["--minutes", &options.minutes.to_string()]);
    demo::replaced_by(&mut command)
}
