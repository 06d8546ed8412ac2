//! `cargo xtask test`: everything that can be checked without a cluster.
//!
//! Cheap checks come first, and none hides another: a wrong format does not keep
//! the tests from running. Clippy's driver compiles the workspace, so that lints take
//! no time of their own. The test runner's own words pass through unchanged; what
//! we add comes after them, and ends in one line of totals.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    arrows, dependencies,
    outcome::{self, Failed},
    records::{Comparison, Place, Reported, SKIPS, VERIFIED},
    run::{self, Next, Running},
    setup::{self, Need},
    tools, vm,
};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the lints and the older kernel.
    #[arg(long)]
    quick: bool,
    /// Put the measured sizes of the kernel programs on record.
    #[arg(long)]
    bless: bool,
    /// Seconds after which the virtual machine is stopped.
    #[arg(long, default_value_t = 1800)]
    limit: u64,
    /// Run only tests with one of these in their names.
    filters: Vec<String>,
}

/// Totals over `test result:` lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that somebody marked as not to be run.
    pub(crate) ignored: usize,
}

impl Tally {
    /// Adds up what test runners printed.
    pub(crate) fn of(lines: &[String]) -> Self {
        let mut tally = Self::default();
        for line in lines {
            // test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …
            let Some((_, result)) = line.split_once("test result: ") else {
                continue;
            };
            let words: Vec<_> = result.split_whitespace().collect();
            for pair in words.windows(2) {
                let Ok(count) = pair[0].parse::<usize>() else {
                    continue;
                };
                match pair[1] {
                    "passed;" => tally.passed += count,
                    "failed;" => tally.failed += count,
                    "ignored;" => tally.ignored += count,
                    _ => {}
                }
            }
        }
        tally
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Steps done so far, and what they came to.
#[derive(Default)]
struct Progress {
    /// Name, seconds, and the objection if there was one.
    steps: Vec<(&'static str, Duration, Option<String>)>,
    /// Exit status of the first step that failed.
    status: Option<u8>,
    tally: Tally,
    /// Tests that passed only because they skipped themselves.
    skipped: usize,
}

impl Progress {
    /// Runs one step; its failure is noted and the next step follows.
    fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<()>) -> bool {
        println!("== {name}");
        let started = Instant::now();
        let done = work(self);
        let objection = done.err().map(|error| {
            self.status.get_or_insert(outcome::exit_status(&error));
            let text = format!("{error:#}");
            eprintln!("xtask: {name}: {text}");
            text
        });
        let good = objection.is_none();
        self.steps.push((name, started.elapsed(), objection));
        good
    }

    fn count(&mut self, tally: Tally, reported: &Reported) {
        self.tally.add(tally);
        self.skipped += reported.skipped_tests();
    }

    /// The table of steps, then the line of totals.
    fn summary(&self) -> String {
        let mut text = String::new();
        for (name, took, objection) in &self.steps {
            let verdict = if objection.is_none() { "ok" } else { "FAILED" };
            text.push_str(&format!(
                "{:>8.1} s  {verdict:<6}  {name}\n",
                took.as_secs_f32()
            ));
        }
        let total: Duration = self.steps.iter().map(|(_, took, _)| *took).sum();
        text.push_str(&format!("{:>8.1} s  in all\n", total.as_secs_f32()));
        // To its runner, a test that skipped itself has passed. It has not.
        let passed = self.tally.passed.saturating_sub(self.skipped);
        let skipped = self.tally.ignored + self.skipped;
        let failed = self.tally.failed;
        text.push_str(&format!(
            "{passed} passed, {failed} failed, {skipped} skipped"
        ));
        text
    }
}

/// Runs the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.bless && !options.filters.is_empty() {
        bail!("--bless records all kernel programs: leave out the names of tests");
    }
    // Compiling puts another in its place.
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut needs = vec![
        Need::Checkers,
        Need::KernelCompiler,
        Need::BpfFileSystem,
        Need::NetworkTools,
        Need::Monitoring,
        Need::DashboardModels,
        Need::ProtocolCompiler,
        Need::ClusterTools,
        Need::Etcd,
        Need::Browser,
    ];
    if !options.quick {
        needs.push(Need::NetworkPlugins);
        needs.push(Need::VirtualMachine);
    }
    setup::ensure(&needs)?;
    // Tests that start containers skip themselves, counted, where there are no runtimes.
    if !options.quick
        && let Err(error) = setup::ensure(&[Need::ContainerRuntimes])
    {
        eprintln!("xtask: tests with container runtimes are skipped: {error:#}");
    }

    let mut progress = Progress::default();
    progress.step("format", |_| formatted());
    progress.step("layout", |_| arrows::run());
    progress.step("dependencies", |_| dependencies::run());
    if options.quick {
        // Apart from running them, so that the table tells compiling from testing.
        let built = progress.step("compile", |_| {
            let mut tests = run::cargo();
            tests.arg("test").args(run::WORKSPACE).arg("--no-run");
            succeed(&mut tests)
        });
        if built {
            progress.step("tests", |progress| host_tests(options, progress));
        }
    } else {
        run::lint_on_the_way()?;
        let mut warnings = 0;
        let built = progress.step("compile", |_| {
            warnings = compile()?;
            Ok(())
        });
        progress.step("lints", |_| match warnings {
            0 => Ok(()),
            _ => Err(Failed::error(format!("{warnings} warnings, above"))),
        });
        everything(options, &mut progress, built, &this)?;
    }
    println!("{}", progress.summary());
    match progress.status {
        None => Ok(()),
        // Said already, by every step that failed; the totals are the last word.
        Some(status) => Err(Failed::said(status)),
    }
}

/// Compiles everything; returns the number of warnings, which are printed as they come.
fn compile() -> Result<usize> {
    let mut command = run::cargo();
    command.arg("build").args(run::WORKSPACE);
    command.args(["--all-targets", "--message-format=json"]);
    let mut running = Running::start(&mut command)?;
    let mut warnings = 0;
    loop {
        match running.next(None) {
            Next::Line(line) => {
                if let Some(text) = diagnostic(&line) {
                    eprint!("{text}");
                    warnings += 1;
                }
            }
            Next::Ended => break,
            Next::Late => {}
        }
    }
    let status = running.wait()?;
    if status.success() {
        Ok(warnings)
    } else {
        Err(Failed::program(&run::shown(&command), status))
    }
}

/// The text of a warning or an error in a line of cargo's messages. Summaries have no place.
fn diagnostic(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-message" {
        return None;
    }
    let message = &message["message"];
    let is_placed = message["spans"]
        .as_array()
        .is_some_and(|spans| !spans.is_empty());
    let text = message["rendered"].as_str()?;
    is_placed.then(|| text.to_owned())
}

/// The tests, if they were built. The emulated machine has one processor: it
/// runs beside all that this one does meanwhile, and is heard when it is the last to end.
fn everything(options: &Options, progress: &mut Progress, built: bool, this: &Path) -> Result<()> {
    let parts = if built {
        vm::Part::all(&options.filters)?
    } else {
        Vec::new()
    };
    let limit = Duration::from_secs(options.limit);
    let jobs: Vec<_> = (parts.iter())
        .map(|part| part.job(limit, options.bless))
        .collect();
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let heard = |job: &vm::Job<'_>| {
                let mut lines = Vec::new();
                let report = job.report(&mut |line| lines.push(line.to_owned()));
                (lines, report)
            };
            jobs.iter().map(heard).collect::<Vec<_>>()
        });
        if !built {
            return;
        }
        progress.step("tests", |progress| host_tests(options, progress));
        if options.filters.is_empty() {
            progress.step("demonstration", |_| demonstrated(this));
        }
        progress.step("rest of the tests on Linux 6.1", |progress| {
            let heard = beside
                .join()
                .map_err(|_| Failed::error("the machine was lost"))?;
            let mut objections = Vec::new();
            for (job, (lines, report)) in jobs.iter().zip(heard) {
                println!("{}", lines.join("\n"));
                let outcome = job.judge(report?)?;
                progress.count(outcome.tally, &outcome.reported);
                objections.extend(outcome.objections);
            }
            none_of(&objections)
        });
    });
    Ok(())
}

/// Checks that every source is formatted; if not, names the files.
fn formatted() -> Result<()> {
    let status = run::status(run::cargo().args(["fmt", "--all", "--check", "--", "-l"]))?;
    if status.success() {
        return Ok(());
    }
    Err(Failed::error(
        "the files above are not formatted: run `cargo fmt --all`",
    ))
}

/// Runs `command` here; its failure is a "no".
fn succeed(command: &mut Command) -> Result<()> {
    let status = run::status(command)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failed::program(&run::shown(command), status))
    }
}

/// Runs the demonstration that the newcomer runs first, as they run it.
fn demonstrated(this: &Path) -> Result<()> {
    succeed(
        run::command(this)
            .args(["demo", "--with-tests"])
            .envs(run::linting()),
    )
}

/// All tests of the workspace, on the running kernel.
fn host_tests(options: &Options, progress: &mut Progress) -> Result<()> {
    let folder = run::target().join("reports");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let skips = folder.join("skips");
    let verified = folder.join("verified");
    for file in [&skips, &verified] {
        fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let mut command = run::cargo();
    command
        .arg("test")
        .args(run::WORKSPACE)
        // One failed test program must not keep the others from running.
        .arg("--no-fail-fast")
        .arg("--")
        .args(&options.filters)
        .env(SKIPS, &skips)
        .env(VERIFIED, &verified);
    let (status, lines) = run::tee(&mut command)?;
    let read = |file| fs::read_to_string(file).context("a report of the tests has gone");
    let reported = Reported::parse(&read(&skips)?, &read(&verified)?)?;
    progress.count(Tally::of(&lines), &reported);

    let root = run::root();
    let comparison = Comparison {
        root: &root,
        series: &tools::series(&tools::running_release()),
        place: Place::Host,
        complete: options.filters.is_empty(),
    };
    if options.bless && status.success() {
        comparison.bless(&reported)?;
    }
    let objections = comparison.objections(&reported)?;
    if !status.success() {
        return Err(Failed::program("cargo test", status));
    }
    none_of(&objections)
}

fn none_of(objections: &[String]) -> Result<()> {
    if objections.is_empty() {
        Ok(())
    } else {
        Err(Failed::error(objections.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn warnings_with_a_place_are_counted() {
        let warning = r#"{"reason":"compiler-message","message":{"spans":[{"line_start":1}],
            "rendered":"warning: unused\n"}}"#;
        assert_eq!(diagnostic(warning).as_deref(), Some("warning: unused\n"));
        let summary = r#"{"reason":"compiler-message","message":{"spans":[],
            "rendered":"warning: 1 warning emitted\n"}}"#;
        assert_eq!(diagnostic(summary), None);
        assert_eq!(diagnostic(r#"{"reason":"compiler-artifact"}"#), None);
        assert_eq!(diagnostic("warning: no message of cargo"), None);
    }

    #[test]
    fn results_are_added_up() {
        let tally = Tally::of(&lines(
            "running 4 tests\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out\n\
             3 passed; 3 failed; said a test, which does not count\n\
             test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
        ));
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn a_test_that_skipped_itself_has_not_passed() {
        let mut progress = Progress::default();
        let reported = Reported::parse("tcx\ta\nsctp\ta\ntcx\tb\n", "").unwrap();
        progress.count(
            Tally {
                passed: 10,
                failed: 1,
                ignored: 3,
            },
            &reported,
        );
        let summary = progress.summary();
        assert_eq!(
            summary.lines().last(),
            Some("8 passed, 1 failed, 5 skipped")
        );
    }

    #[test]
    fn the_first_failure_gives_the_status_and_the_next_step_still_runs() {
        let mut progress = Progress::default();
        let mut ran = 0;
        progress.step("one", |_| Err(Failed::with_status(101, "no")));
        progress.step("two", |_| {
            ran += 1;
            Err(Failed::error("no"))
        });
        progress.step("three", |_| {
            ran += 1;
            Ok(())
        });
        assert_eq!((ran, progress.status), (2, Some(101)));
        assert!(
            progress.summary().contains("FAILED  one"),
            "{}",
            progress.summary()
        );
        assert!(
            progress.summary().contains("ok      three"),
            "{}",
            progress.summary()
        );
    }
}
