//! `soak load`: see [`cofferdam_tests::load::short_flows`].

use std::{io::Write, num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    ledger::Moved,
    load::{self, Attendance, Rates},
    skip::Feature,
    soak::Tally,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes to go on for.
    #[arg(long, value_name = "M", default_value = "10")]
    minutes: NonZeroU64,
    /// Questions a second, each from another port [default: 10000, or a tenth if unattended].
    #[arg(long, value_name = "N")]
    questions: Option<u64>,
    /// TCP connections a second [default: 5000, or a tenth if unattended].
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    /// Let flow tables stay as they are, as while the agent is dead.
    #[arg(long)]
    unattended: bool,
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
    let (attendance, part) = match options.unattended {
        true => (Attendance::Unattended, 10),
        false => (Attendance::Attended, 1),
    };
    let rates = Rates {
        questions: options.questions.unwrap_or(10_000 / part),
        connections: options.connections.unwrap_or(5_000 / part),
    };
    let seconds = options.minutes.get().saturating_mul(60);
    let served = load::short_flows(rates, attendance, Duration::from_secs(seconds))?;
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
