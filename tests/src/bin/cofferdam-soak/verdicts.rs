//! `soak verdicts`: see [`cofferdam_tests::differential`].

use std::{
    io::Write,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cofferdam_tests::{
    differential::{self, Coverage, Outcome, Plan},
    firewall::Firewall,
    soak::Tally,
};

/// Worlds of policies when nobody says how many, and packets in each: what the
/// tests do every time.
const WORLDS: u64 = 200;
const PACKETS: u64 = 1000;
/// Worlds gone through at a time.
const STRETCH: u64 = 10;
/// Time between two words about how far it is.
const SILENCE: Duration = Duration::from_secs(10);
/// Disagreements after which the rest would tell nothing new.
const ENOUGH: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Packets to ask about, over all worlds [default: 1000 in each].
    #[arg(long, value_name = "N")]
    packets: Option<NonZeroU64>,
    /// Worlds of policies [default: 200, or one for 1000 packets].
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU64>,
    /// Stop after so many minutes, wherever it is; without a number of packets or
    /// runs, go on until then.
    #[arg(long, value_name = "M")]
    minutes: Option<NonZeroU64>,
    /// The seed of the first world; the next ones count on from it.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Options {
    /// Worlds, and packets in each.
    fn extent(&self) -> (u64, u64) {
        let packets = self.packets.map(NonZeroU64::get);
        match (self.runs.map(NonZeroU64::get), packets) {
            (Some(worlds), Some(packets)) => (worlds, packets.div_ceil(worlds)),
            (Some(worlds), None) => (worlds, PACKETS),
            (None, Some(packets)) => (packets.div_ceil(PACKETS), packets.min(PACKETS)),
            (None, None) if self.minutes.is_some() => (u64::MAX, PACKETS),
            (None, None) => (WORLDS, PACKETS),
        }
    }
}

/// Goes through the worlds, and says what it finds.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let (worlds, packets) = options.extent();
    let started = Instant::now();
    let deadline = options
        .minutes
        .map(|minutes| started + Duration::from_secs(minutes.get().saturating_mul(60)));
    let world = differential::world().context("cannot make the world, which takes root")?;
    let _inside = world.node().namespace.enter()?;
    let mut firewall = Firewall::turn();
    let mut outcome = Outcome::default();
    let mut told = 0;
    let mut spoken = started;
    while outcome.worlds < worlds && outcome.disagreements.len() < ENOUGH {
        let stretch = Plan {
            seed: options.seed.wrapping_add(outcome.worlds),
            worlds: STRETCH.min(worlds - outcome.worlds),
            packets,
            deadline,
        };
        let done = differential::run(&mut firewall, &world, &stretch);
        let is_over = done.worlds < stretch.worlds;
        outcome.join(done);
        for disagreement in &outcome.disagreements[told..] {
            writeln!(
                output,
                "{disagreement}\nrepeat: cargo xtask soak verdicts --seed {} --runs 1 --packets {packets}",
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
                "{} worlds, {} packets, {told} disagreements, {:.0?}",
                outcome.worlds,
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
    let (required, missing) = (Coverage::required(), outcome.coverage.missing());
    writeln!(
        output,
        "{} worlds, {} packets in {:.1} s; of {} edges {} occurred",
        outcome.worlds,
        outcome.packets,
        elapsed.as_secs_f64(),
        required,
        required - missing.len(),
    )?;
    // Fewer need not have them all, but as many as the tests go through do.
    let is_long = outcome.worlds >= WORLDS && outcome.packets >= WORLDS * PACKETS;
    if is_long && !missing.is_empty() {
        bail!("what must occur did not, so that this says nothing: {missing:#?}");
    }
    let count = |found: fn(&differential::Disagreement) -> bool| {
        outcome.disagreements.iter().filter(|d| found(d)).count() as u64
    };
    let mut tally = Tally::new("verdicts", seed);
    tally.runs = outcome.worlds;
    tally.leaked = count(|disagreement| disagreement.leaked);
    tally.lost = count(|disagreement| disagreement.lost);
    tally.disagreements = count(|_| true);
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(packets: Option<u64>, runs: Option<u64>, minutes: Option<u64>) -> (u64, u64) {
        let number = |n: Option<u64>| n.and_then(NonZeroU64::new);
        Options {
            packets: number(packets),
            runs: number(runs),
            minutes: number(minutes),
            seed: 1,
        }
        .extent()
    }

    #[test]
    fn packets_are_spread_over_worlds() {
        assert_eq!(extent(None, None, None), (200, 1000));
        assert_eq!(extent(Some(20_000_000), Some(10_000), None), (10_000, 2000));
        assert_eq!(extent(Some(2500), None, None), (3, 1000));
        assert_eq!(extent(Some(10), None, None), (1, 10));
        assert_eq!(extent(None, Some(7), Some(1)), (7, 1000));
        assert_eq!(extent(None, None, Some(1)), (u64::MAX, 1000));
    }
}
