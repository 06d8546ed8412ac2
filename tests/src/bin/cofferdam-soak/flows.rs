//! `soak flows`: see [`cofferdam_tests::flow_model`].

use std::{
    io::Write,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use cofferdam_tests::{
    flow_model::{self, Outcome, Plan},
    soak::Tally,
};

/// Sequences unless told otherwise: as many as the tests go through.
const SEQUENCES: u64 = 5_000;
/// Sequences gone through at a time.
const STRETCH: u64 = 1_000;
/// Time between two lines of progress.
const SILENCE: Duration = Duration::from_secs(10);
/// Disagreements after which the rest would tell nothing new.
const ENOUGH: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Sequences of packets and changes [default: 5000].
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU64>,
    /// Packets to judge; go on with sequences until then.
    #[arg(long, value_name = "N", conflicts_with = "runs")]
    packets: Option<NonZeroU64>,
    /// Stop after so many minutes; without a number of runs or packets, go on until then.
    #[arg(long, value_name = "M")]
    minutes: Option<NonZeroU64>,
    /// The seed of the first sequence; the next ones count on from it.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Goes through sequences, and prints every disagreement.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let started = Instant::now();
    let deadline = options
        .minutes
        .map(|minutes| started + Duration::from_secs(minutes.get().saturating_mul(60)));
    let packets = options.packets.map_or(u64::MAX, NonZeroU64::get);
    let sequences = match options.runs {
        Some(runs) => runs.get(),
        None if options.packets.is_some() || deadline.is_some() => u64::MAX,
        None => SEQUENCES,
    };
    let mut outcome = Outcome::default();
    let mut told = 0;
    let mut spoken = started;
    while outcome.sequences < sequences
        && outcome.packets < packets
        && outcome.disagreements.len() < ENOUGH
    {
        let stretch = Plan {
            seed: options.seed.wrapping_add(outcome.sequences),
            sequences: STRETCH.min(sequences - outcome.sequences),
            deadline,
        };
        let done = flow_model::run(&stretch);
        let is_over = done.sequences < stretch.sequences;
        outcome.join(done);
        for disagreement in &outcome.disagreements[told..] {
            writeln!(
                output,
                "{disagreement}\nrepeat: cargo xtask soak flows --seed {} --runs 1",
                disagreement.seed
            )?;
        }
        told = outcome.disagreements.len();
        if is_over {
            break;
        }
        if spoken.elapsed() >= SILENCE {
            spoken = Instant::now();
            eprintln!(
                "{} sequences, {} packets, {told} disagreements, {:.0?}",
                outcome.sequences,
                outcome.packets,
                started.elapsed()
            );
        }
    }
    close(options.seed, &outcome, started.elapsed(), output)
}

fn close(
    seed: u64,
    outcome: &Outcome,
    elapsed: Duration,
    output: &mut impl Write,
) -> Result<Tally> {
    writeln!(
        output,
        "{} sequences, {} packets in {:.1} s, {} passed",
        outcome.sequences,
        outcome.packets,
        elapsed.as_secs_f64(),
        outcome.passed
    )?;
    for (tolerance, times) in &outcome.tolerated {
        writeln!(
            output,
            "stricter than the model, as it may be: {times} {tolerance:?}"
        )?;
    }
    // Fewer need not have them all, but as many as the tests go through do.
    let missing = outcome.coverage.missing();
    if outcome.sequences >= SEQUENCES && !missing.is_empty() {
        bail!("what must occur did not, so that this says nothing: {missing:#?}");
    }
    let count = |leaked| {
        let all = outcome.disagreements.iter();
        all.filter(|disagreement| disagreement.leaked == leaked)
            .count() as u64
    };
    let mut tally = Tally::new("flows", seed);
    tally.runs = outcome.sequences;
    tally.leaked = count(true);
    tally.lost = count(false);
    tally.disagreements = outcome.disagreements.len() as u64;
    Ok(tally)
}
