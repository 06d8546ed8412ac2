//! `soak evasions`: see [`cofferdam_tests::evasions`].

use std::{io::Write, num::NonZeroU64, time::Instant};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    evasions::{self, Count, Kind, Setup},
    skip::Feature,
    soak::Tally,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Setups to go through [default: each combination once].
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU64>,
    /// Seed of the order of the setups.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Try only claims that contain this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    claim: String,
}

/// Goes through setups, all of them before one comes again, and says what it finds.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let started = Instant::now();
    (Feature::NetworkNamespaces
        .probe()
        .map_err(anyhow::Error::msg))
    .context("cannot make network namespaces, which takes root")?;
    let runs = (options.runs).map_or(Setup::all().len() as u64, NonZeroU64::get);
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut firewall = evasions::firewall();
    let mut setups = Vec::new();
    let mut count = Count::default();
    let mut tally = Tally::new("evasions", options.seed);
    while tally.runs < runs {
        if setups.is_empty() {
            setups = Setup::all();
            rng.shuffle(&mut setups);
        }
        let Some(setup) = setups.pop() else { break };
        let (done, findings) = evasions::run(&mut firewall, setup, &options.claim);
        count += done;
        tally.runs += 1;
        for finding in &findings {
            writeln!(output, "{finding}")?;
            match finding.kind {
                Kind::Leaked => tally.leaked += 1,
                Kind::Lost => tally.lost += 1,
                Kind::Miscounted | Kind::Unshown => tally.disagreements += 1,
            }
        }
        eprintln!(
            "{setup}: {done}; {} setups, {:.0?}",
            tally.runs,
            started.elapsed()
        );
    }
    writeln!(
        output,
        "{count} in {:.1} s",
        started.elapsed().as_secs_f64()
    )?;
    Ok(tally)
}
