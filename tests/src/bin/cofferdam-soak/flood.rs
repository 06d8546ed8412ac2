//! `soak flood`: see [`cofferdam_tests::flood::flood`].

use std::{io::Write, num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result};
use cofferdam_tests::{flood::flood, ledger::Moved, skip::Feature, soak::Tally};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes to go on for.
    #[arg(long, value_name = "M", default_value = "1")]
    minutes: NonZeroU64,
    /// Requests a second.
    #[arg(long, value_name = "N", default_value = "100000")]
    requests: NonZeroU64,
    /// Seed of the senders' addresses.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Floods, and says what was lost meanwhile. A run is a request.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    (Feature::NetworkNamespaces
        .probe()
        .map_err(anyhow::Error::msg))
    .context("cannot make network namespaces, which takes root")?;
    let long = Duration::from_secs(options.minutes.get().saturating_mul(60));
    let flooded = flood(options.requests.get(), long, options.seed)?;
    writeln!(
        output,
        "{} requests ({:.0} a second); {} exchanges over lasting flows, {} lost; {} clients, {} \
         refused, the slowest connected after {:.3} s",
        flooded.requests,
        flooded.requests as f64 / flooded.took.as_secs_f64(),
        flooded.exchanges,
        flooded.lost,
        flooded.clients,
        flooded.refused,
        flooded.slowest.as_secs_f64(),
    )?;
    for Moved {
        hook,
        reason,
        packets,
        ..
    } in &flooded.dropped
    {
        let (hook, reason) = (hook.name(), reason.name());
        writeln!(output, "dropped at {hook} as {reason}: {packets}")?;
    }
    let mut tally = Tally::new("flood", options.seed);
    tally.runs = flooded.requests;
    tally.lost = flooded.lost + flooded.refused;
    Ok(tally)
}
