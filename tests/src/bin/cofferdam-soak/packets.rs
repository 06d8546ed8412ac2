//! `soak packets`: see [`cofferdam_tests::conformance::packets`].

use std::{
    io::Write,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::{
    conformance::{self, Case, Setting, offline::Count, packets::Stand},
    packet::Family,
    soak::Tally,
    world::Wiring,
};

/// Cases between two words about how far it is.
const STRETCH: u64 = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Cases to try [default: each once].
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU64>,
    /// Stop after so many minutes, wherever it is; without a number of runs, go on
    /// until then.
    #[arg(long, value_name = "M")]
    minutes: Option<NonZeroU64>,
    /// Seed of the order of the cases.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A stand for each setting, bridged and routed.
fn stands() -> Result<Vec<(Setting, Stand)>> {
    let binary = std::env::current_exe()?.with_file_name("cofferdam-in-tests");
    ensure!(
        binary.exists(),
        "{} is missing: build it in the same profile",
        binary.display()
    );
    let mut stands = Vec::new();
    for setting in [Setting::Trio, Setting::Quarters] {
        for wiring in [Wiring::Ptp, Wiring::Bridge] {
            stands.push((setting, Stand::build(&binary, setting, wiring)));
        }
    }
    Ok(stands)
}

/// Goes through the cases in both families, and says what it finds.
pub(crate) fn run(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let cases = conformance::cases();
    let started = Instant::now();
    let deadline = (options.minutes)
        .map(|minutes| started + Duration::from_secs(minutes.get().saturating_mul(60)));
    let runs = match (options.runs, deadline) {
        (Some(runs), _) => runs.get(),
        (None, Some(_)) => u64::MAX,
        (None, None) => cases.len() as u64,
    };
    let mut stands = stands().context("cannot make the clusters, which takes root")?;
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut order: Vec<&Case> = Vec::new();
    let mut count = Count::default();
    let mut tally = Tally::new("packets", options.seed);
    while tally.runs < runs && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        if order.is_empty() {
            order.extend(&cases);
            rng.shuffle(&mut order);
        }
        let Some(case) = order.pop() else { break };
        tally.runs += 1;
        let mut fitting = stands
            .iter_mut()
            .filter(|(setting, _)| *setting == case.setting);
        let wiring = rng.usize(..2);
        let (_, stand) = fitting.nth(wiring).context("a stand for every setting")?;
        match stand.check(case, |_| Family::BOTH.to_vec()) {
            Ok(done) => count += done,
            Err(surprise) => {
                writeln!(
                    output,
                    "case {} of seed {}: {}",
                    tally.runs, options.seed, surprise.words
                )?;
                tally.leaked += surprise.leaked as u64;
                tally.lost += surprise.lost as u64;
                tally.disagreements += 1;
            }
        }
        if tally.runs.is_multiple_of(STRETCH) {
            eprintln!(
                "{count:?}, {} disagreements, {:.0?}",
                tally.disagreements,
                started.elapsed()
            );
        }
    }
    let Count {
        cases,
        steps,
        cells,
    } = count;
    writeln!(
        output,
        "{cases} cases, {steps} steps, {cells} cells as stated in {:.1} s",
        started.elapsed().as_secs_f64()
    )?;
    Ok(tally)
}
