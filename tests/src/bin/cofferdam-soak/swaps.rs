//! `soak swaps`: see [`cofferdam_tests::load::swaps`].

use std::{
    io::Write,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    load::{self, Lasted},
    skip::Feature,
    soak::Tally,
};

/// Tables that are published.
const SWAPS: u64 = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Tables to publish [default: 10000].
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU64>,
    /// Stop after so many minutes.
    #[arg(long, value_name = "M")]
    minutes: Option<NonZeroU64>,
    /// Seed to print; nothing here is random.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Publishes tables under traffic, and says what was lost.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    (Feature::NetworkNamespaces
        .probe()
        .map_err(anyhow::Error::msg))
    .context("cannot make network namespaces, which takes root")?;
    let started = Instant::now();
    let minutes = options.minutes.map(NonZeroU64::get);
    let deadline = minutes.map(|minutes| started + Duration::from_secs(minutes * 60));
    let runs = options.runs.map_or(SWAPS, NonZeroU64::get);
    let Lasted {
        changes: swaps,
        answered,
        lost,
        leaked,
    } = load::swaps(runs, deadline)?;
    writeln!(
        output,
        "{answered} questions answered, {lost} lost, under {swaps} tables in {:.1} s",
        started.elapsed().as_secs_f64()
    )?;
    let mut tally = Tally::new("swaps", options.seed);
    (tally.runs, tally.lost, tally.leaked) = (swaps, lost, leaked);
    Ok(tally)
}
