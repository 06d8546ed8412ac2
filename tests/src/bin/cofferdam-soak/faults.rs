//! `soak kills`, `starts`, `tamper`, `churn`, `state` and `faults`: see [`cofferdam_tests::faults`].

use std::{
    io::Write,
    num::NonZeroU64,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::{
    faults::{
        SMALL, Stand, calls, churn, kills, limits, stalls, starts, state, tamper, versions,
        watch::Seen,
    },
    packet::Family,
    skip::Feature,
    soak::Tally,
    world::Wiring,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Faults to cause, workloads that come up, or endpoints that come and go [default: 1000; starts: 10000; churn: 100000].
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroU64>,
    /// Stop after so many minutes; without a number of runs, go on until then.
    #[arg(long, value_name = "M")]
    minutes: Option<NonZeroU64>,
    /// Seed of moments and places.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Faults to cause unless told otherwise.
const RUNS: u64 = 1_000;

impl Options {
    /// Faults to cause, and the time to stop at.
    fn extent(&self, runs: u64) -> (u64, Option<Instant>) {
        let minutes = self.minutes.map(|minutes| minutes.get().saturating_mul(60));
        let deadline = minutes.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let runs = match (self.runs, deadline) {
            (Some(runs), _) => runs.get(),
            (None, Some(_)) => u64::MAX,
            (None, None) => runs,
        };
        (runs, deadline)
    }
}

/// A program that was built beside this one.
fn beside(name: &str) -> Result<PathBuf> {
    (Feature::NetworkNamespaces
        .probe()
        .map_err(anyhow::Error::msg))
    .context("cannot make network namespaces, which takes root")?;
    let binary = std::env::current_exe()?.with_file_name(name);
    ensure!(
        binary.exists(),
        "{} is missing: build it in the same profile",
        binary.display()
    );
    Ok(binary)
}

fn stand(wiring: Wiring) -> Result<Stand> {
    let binary = beside("cofferdam-in-tests")?;
    Ok(Stand::enforced(&binary, wiring, SMALL))
}

fn tally(soak: &'static str, options: &Options, seen: &Seen) -> Tally {
    let mut tally = Tally::new(soak, options.seed);
    (tally.leaked, tally.lost, tally.broken) = (seen.leaked, seen.lost, seen.broken);
    tally
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Kills the agent. The window is the longest time until one was ready again.
pub(crate) fn kill(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut stand = stand(Wiring::Bridge)?;
    let (runs, deadline) = options.extent(RUNS);
    let killed = kills::kills(&mut stand, runs, deadline, &mut rng);
    let longest = killed.ready.iter().max().copied().unwrap_or_default();
    let all: Duration = killed.ready.iter().sum();
    let number = u32::try_from(killed.ready.len().max(1))?;
    writeln!(
        output,
        "{} more were killed while they started; ready again after {:.0?} on average, \
         {longest:.0?} at most; {:?}",
        killed.early,
        all / number,
        killed.seen
    )?;
    let mut tally = tally("kills", options, &killed.seen);
    tally.runs = killed.ready.len() as u64;
    tally.window_ms_max = milliseconds(longest);
    Ok(tally)
}

/// Tampers. Packets that pass where nothing judges, for no longer than promised, make up the
/// window; all others have leaked.
pub(crate) fn tamper(options: &Options, output: &mut impl Write) -> Result<Tally> {
    tamper::own_file_system();
    let mut stand = stand(Wiring::Ptp)?;
    let (runs, deadline) = options.extent(RUNS);
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    let (seen, all) = tamper::tamper(&mut stand, runs, deadline);
    let mut tally = tally("tamper", options, &seen);
    for how in tamper::Tampering::ALL {
        let those = || all.iter().filter(|one| one.how == how);
        writeln!(
            output,
            "{how:?}: {} times, {} packets passed, in {:.1?} at most; alarm after {:.1?} at most",
            those().count(),
            those().map(|one| one.packets).sum::<u64>(),
            those().map(|one| one.window).max().unwrap_or_default(),
            those().map(|one| one.alarmed).max().unwrap_or_default(),
        )?;
    }
    for one in &all {
        tally.runs += 1;
        let window = milliseconds(one.window.max(one.alarmed));
        tally.window_ms_max = tally.window_ms_max.max(window);
        if !one.how.opens() || one.window > tamper::PROMISED {
            tally.leaked += one.packets;
        }
        tally.disagreements += u64::from(one.alarmed > tamper::PROMISED);
    }
    Ok(tally)
}

/// Damages state files. Connections that a closed endpoint loses are no finding.
pub(crate) fn state(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut stand = stand(Wiring::Ptp)?;
    let (runs, deadline) = options.extent(RUNS);
    let damaged = state::damage(&mut stand, runs, deadline, &mut rng);
    writeln!(output, "{damaged:?}")?;
    let mut tally = Tally::new("state", options.seed);
    tally.runs = damaged.files;
    tally.leaked = damaged.seen.leaked;
    tally.disagreements = damaged.believed;
    Ok(tally)
}

/// Endpoints that come and go unless told otherwise.
const ENDPOINTS: u64 = 100_000;

/// Lets endpoints come and go. What the agent holds afterwards and did not before is a
/// disagreement, and so is each call of the plugin that failed.
pub(crate) fn churn(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let plugin = beside("cofferdam-cni-in-tests")?;
    let binary = beside("cofferdam-in-tests")?;
    let stand = Stand::enforced(&binary, Wiring::Ptp, churn::SETTINGS);
    let (runs, deadline) = options.extent(ENDPOINTS);
    let churned = churn::churn(&stand, &plugin, runs, deadline, options.seed);
    writeln!(output, "{churned}")?;
    let mut tally = tally("churn", options, &churned.seen);
    tally.runs = churned.endpoints;
    tally.disagreements = churned.failed;
    let [before, after] = &churned.held;
    if before != after {
        tally.disagreements += 1;
        writeln!(output, "held before: {before:#?}\nand after: {after:#?}")?;
    }
    Ok(tally)
}

/// Workloads that come up unless told otherwise.
const STARTS: u64 = 10_000;

/// Lets workloads come up with a process inside that sends: half of them with the guard, half
/// without, where only what passes once they have been added has leaked.
pub(crate) fn start(options: &Options, output: &mut impl Write) -> Result<Tally> {
    let binary = beside("cofferdam-in-tests")?;
    let (runs, deadline) = options.extent(STARTS);
    let began = Instant::now();
    let time = deadline.map(|deadline| deadline - began);
    let mut tally = Tally::new("starts", options.seed);
    let guarded = starts::guarded();
    for (part, (settings, family)) in (0..).zip([
        (guarded.as_str(), Family::V4),
        (&guarded, Family::V6),
        (SMALL, Family::V4),
        (SMALL, Family::V6),
    ]) {
        let mut stand = Stand::enforced(&binary, Wiring::BOTH[part as usize % 2], settings);
        let deadline = time.map(|time| began + time * (part + 1) / 4);
        let started = starts::starts(&mut stand, family, runs.div_ceil(4), deadline);
        let with = ["without a guard", "with the guard"][usize::from(settings == guarded)];
        writeln!(output, "{with}, {family}: {started:?}")?;
        tally.runs += started.starts;
        tally.leaked += started.after;
        if settings == guarded {
            tally.leaked += started.before;
        }
        tally.window_ms_max = tally.window_ms_max.max(milliseconds(started.longest));
    }
    Ok(tally)
}

/// Time that the agent stands still: longer than a container waits for its verdicts.
const STILL: Duration = Duration::from_secs(35);
/// Agents of another make that follow each other.
const SUCCESSORS: usize = 30;

/// Has system calls fail, then lets the agent stand still, miss news, be followed by others, and
/// run out of descriptors, threads and memory.
pub(crate) fn fail(options: &Options, output: &mut impl Write) -> Result<Tally> {
    (calls::STRACE.probe().map_err(anyhow::Error::msg)).context("cannot trace an agent")?;
    (limits::GROUPS.probe().map_err(anyhow::Error::msg)).context("cannot limit an agent")?;
    let plugin = beside("cofferdam-cni-in-tests")?;
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut stand = stand(Wiring::Ptp)?;
    let (runs, deadline) = options.extent(RUNS);
    let failed = calls::fail(&mut stand, runs, deadline, &mut rng);
    writeln!(output, "{failed:#?}")?;
    let mut tally = tally("faults", options, &failed.seen);
    tally.runs = failed.changes;
    tally.disagreements = failed.wrong.len() as u64;
    let mut add = |seen: &Seen| {
        tally.runs += 1;
        tally.leaked += seen.leaked;
        tally.lost += seen.lost;
        tally.broken += seen.broken;
    };
    let (seen, attached) = stalls::stand_still(&stand, &plugin, STILL);
    writeln!(
        output,
        "stood still for {STILL:?}: a container {attached:?}"
    )?;
    add(&seen);
    let missed = stalls::overrun(&stand, &plugin);
    writeln!(output, "{missed:?}")?;
    add(&missed.seen);
    let seen = versions::cross(&mut stand, SUCCESSORS);
    writeln!(output, "{SUCCESSORS} agents of another make: {seen:?}")?;
    add(&seen);
    for limit in limits::Limit::ALL {
        let starved = limits::starve(&mut stand, limit);
        writeln!(output, "{limit:?}: {starved:?}")?;
        add(&starved.seen);
    }
    let is_in_time = attached == stalls::Attached::Failed(11);
    tally.disagreements += u64::from(!is_in_time);
    Ok(tally)
}
