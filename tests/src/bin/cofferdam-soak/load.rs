//! `soak load`: see [`cofferdam_tests::load::short_flows`].

use std::{io::Write, num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    ledger::Moved,
    load::{self, Rates},
    skip::Feature,
    soak::Tally,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes to go on for.
    #[arg(long, value_name = "M", default_value = "10")]
    minutes: NonZeroU64,
    /// Questions a second, each from another port.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    questions: u64,
    /// TCP connections a second.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    connections: u64,
    /// Seed to print; nothing here is random.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Opens short flows, and says which were lost. A run is a flow.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    (Feature::NetworkNamespaces
        .probe()
        .map_err(anyhow::Error::msg))
    .context("cannot make network namespaces, which takes root")?;
    let rates = Rates {
        questions: options.questions,
        connections: options.connections,
    };
    let seconds = options.minutes.get().saturating_mul(60);
    let served = load::short_flows(rates, Duration::from_secs(seconds))?;
    writeln!(
        output,
        "{} questions ({} a second), {} unanswered, the slowest answer after {} ms; \
         {} connections ({} a second), {} failed",
        served.questions,
        served.questions / seconds,
        served.unanswered,
        served.slowest.as_millis(),
        served.connections,
        served.connections / seconds,
        served.failed
    )?;
    for Moved {
        hook,
        reason,
        packets,
        ..
    } in &served.dropped
    {
        let (hook, reason) = (hook.name(), reason.name());
        writeln!(output, "dropped at {hook} as {reason}: {packets}")?;
    }
    let mut tally = Tally::new("load", options.seed);
    tally.runs = served.questions + served.connections;
    tally.lost = served.unanswered + served.failed;
    Ok(tally)
}
