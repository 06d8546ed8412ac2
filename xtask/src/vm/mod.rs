//! `cargo xtask test-vm`: the kernel tests, on other kernels than this one.
//!
//! Kernels are those of Debian, emulated: no KVM is needed, so this runs in any
//! container, and costs seconds. The machine has no disk and no network of its own;
//! a test program that talks to the kernel is packed into its first file system, the
//! very file that `cargo test` built.
//!
//! A machine of another architecture gets a static test program, built for it here, and
//! Debian's tools for it.

mod apt;
mod hardware;
mod initramfs;
mod kernel;
mod machine;
mod modules;
mod userland;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub(crate) use machine::Report;

use crate::{
    architecture::{Architecture, Target},
    outcome::Failed,
    records::{Comparison, Place, Reported},
    run,
    setup::{self, Need},
    test::Tally,
    tools,
};

/// The oldest kernel supported, and so the default.
pub(crate) const OLDEST: &str = "6.1";

/// The integration test of `tests/` that loads programs into the kernel.
const TARGET: &str = "programs";

/// One that sends real packets through a node, with the node's own tools about it.
const EVASIONS: &str = "evasions";

/// The tests of the agent: those of its clock need a machine whose clock may be set.
const AGENT: &str = "agent";

/// Programs that the agent's tests start, by their names beside the test program's folder.
const BESIDE_AGENT: [&str; 2] = ["cofferdam-in-tests", "cofferdam-cni-in-tests"];

/// Tests that `cargo xtask test` leaves to the machine's own command: those of load, which
/// are about time that a machine beside others does not have, and those of what is alike on
/// all kernels, each with programs of its own to verify. On this kernel all of them run.
const ALIKE: [&str; 10] = [
    "audit::",
    "flow_states::",
    "flows::",
    "growing::",
    "load::",
    "order::",
    "peers::",
    "rule_hits::",
    "signalling::",
    "sweeps::",
];

/// Arguments of `cargo xtask test-vm`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel series of Debian, for example `6.12`.
    #[arg(default_value = OLDEST)]
    kernels: Vec<String>,
    /// Emulate a machine with this processor instead of one like this machine's.
    #[arg(long, value_name = "ARCH")]
    arch: Option<Architecture>,
    /// Run this integration test: `evasions -- stamp::` sends packets through bridges,
    /// translation and tunnels, `agent -- clock::` sets the machine's clock under an agent.
    #[arg(long, value_name = "TEST", default_value = TARGET, value_parser = [TARGET, EVASIONS, AGENT])]
    suite: String,
    /// Put the measured sizes of the kernel programs on record.
    #[arg(long)]
    bless: bool,
    /// Run this program instead of the kernel tests.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["bless", "suite"])]
    program: Option<PathBuf>,
    /// Seconds after which a machine is stopped.
    #[arg(long, default_value_t = 1200)]
    limit: u64,
    /// Arguments of the program, for example part of a test's name.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Result of the tests on one kernel.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Totals of its `test result:` lines.
    pub(crate) tally: Tally,
    /// Skips and sizes.
    pub(crate) reported: Reported,
    /// Reasons for which it is no success; none for a success.
    pub(crate) objections: Vec<String>,
}

/// A run of the tests on one kernel.
pub(crate) struct Job<'a> {
    /// The machine's processor.
    pub(crate) architecture: Architecture,
    /// The kernel series.
    pub(crate) series: &'a str,
    /// The program to run.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: &'a [String],
    /// Files for it, by their paths in the machine.
    pub(crate) beside: &'a [(String, PathBuf)],
    /// Time after which the machine is stopped.
    pub(crate) limit: Duration,
    /// Record the sizes instead of comparing them.
    pub(crate) bless: bool,
    /// `true` if the program is the kernel tests, all of them.
    pub(crate) complete: bool,
}

/// Runs the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.bless && !(options.arguments.is_empty() && options.suite == TARGET) {
        bail!("--bless records all kernel programs: leave out suite and arguments of the tests");
    }
    setup::ensure(&[
        Need::KernelCompiler,
        Need::NetworkTools,
        Need::ProtocolCompiler,
        Need::VirtualMachine,
    ])?;
    let architecture = match options.arch {
        Some(architecture) => architecture,
        None => own()?,
    };
    if !architecture.is_here() {
        setup::ensure(&[Need::ForeignMachine])?;
    }
    let program = match &options.program {
        Some(program) => fs::canonicalize(program)
            .with_context(|| format!("cannot find {}", program.display()))?,
        None => test_program(&options.suite, architecture)?,
    };
    let arguments = match &options.program {
        Some(_) => options.arguments.clone(),
        None => test_arguments(&options.arguments),
    };
    let beside = match (&options.program, options.suite.as_str()) {
        (None, AGENT) => beside_agent(&program)?,
        _ => Vec::new(),
    };
    let mut objections = Vec::new();
    for series in &options.kernels {
        let job = Job {
            architecture,
            series,
            program: &program,
            arguments: &arguments,
            beside: &beside,
            limit: Duration::from_secs(options.limit),
            bless: options.bless,
            complete: options.program.is_none()
                && options.arguments.is_empty()
                && options.suite == TARGET,
        };
        match job.run() {
            Ok(outcome) => objections.extend(outcome.objections),
            // The other kernels may still say something.
            Err(error) if error.is::<Failed>() => {
                objections.push(format!("Linux {series}: {error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    if objections.is_empty() {
        return Ok(());
    }
    Err(Failed::error(format!(
        "test-vm failed:\n  {}",
        objections.join("\n  ")
    )))
}

/// A part of the tests, for the machine that runs beside those of this one.
#[derive(Debug)]
pub(crate) struct Part {
    /// The machine's processor.
    architecture: Architecture,
    /// The program.
    program: PathBuf,
    /// Its arguments.
    arguments: Vec<String>,
    /// `true` of the kernel tests, all of them.
    complete: bool,
}

impl Part {
    /// Builds the parts: the kernel tests, and real packets through what this kernel may
    /// lack. With `filters`, only the tests with one of them in their names.
    pub(crate) fn all(filters: &[String]) -> Result<Vec<Self>> {
        let skipped = ALIKE
            .iter()
            .flat_map(|tests| ["--skip", tests])
            .map(str::to_owned);
        let architecture = own()?;
        Ok(vec![Self {
            architecture,
            program: test_program(TARGET, architecture)?,
            arguments: test_arguments(filters).into_iter().chain(skipped).collect(),
            complete: filters.is_empty(),
        }])
    }

    /// Returns the job that runs it on the oldest kernel.
    pub(crate) fn job(&self, limit: Duration, bless: bool) -> Job<'_> {
        Job {
            architecture: self.architecture,
            series: OLDEST,
            program: &self.program,
            arguments: &self.arguments,
            beside: &[],
            limit,
            bless: bless && self.complete,
            complete: self.complete,
        }
    }
}

/// Architecture of this machine.
fn own() -> Result<Architecture> {
    Architecture::ALL
        .into_iter()
        .find(|architecture| architecture.is_here())
        .with_context(|| {
            format!(
                "there is no virtual machine for {}: choose another by --arch",
                std::env::consts::ARCH
            )
        })
}

/// Builds an integration test of `tests/`, and says where it is.
fn test_program(name: &str, architecture: Architecture) -> Result<PathBuf> {
    let mut command = run::cargo();
    command.arg("test").args(run::WORKSPACE).args([
        "--test",
        name,
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    if !architecture.is_here() {
        let target = Target::find(architecture)?.with_context(|| {
            format!("test programs for {} cannot be built", architecture.rust())
        })?;
        target.apply(&mut command, &[]);
    }
    let messages =
        run::output(&mut command).with_context(|| format!("cannot build tests/tests/{name}.rs"))?;
    executable(&messages, name).with_context(|| format!("cargo built no test program `{name}`"))
}

/// Finds what the agent's tests start, at the paths at which they were built.
fn beside_agent(program: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = program
        .parent()
        .and_then(Path::parent)
        .context("the test program lies in no folder")?;
    let paths = BESIDE_AGENT.map(|name| folder.join(name));
    let mut found = Vec::new();
    for path in paths {
        if !path.is_file() {
            bail!("cargo built no {}", path.display());
        }
        found.push((path.display().to_string(), path));
    }
    Ok(found)
}

/// Arguments for the kernel tests to run those with one of `filters` in their names.
fn test_arguments(filters: &[String]) -> Vec<String> {
    // As many threads as the machine has processors.
    filters
        .iter()
        .cloned()
        .chain(["--test-threads=2".to_owned()])
        .collect()
}

/// The executable of integration test `target` in what cargo reports.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let built = message.get("target")?;
        let is_test = built
            .get("kind")?
            .as_array()?
            .iter()
            .any(|kind| kind == "test");
        let matches = built.get("name")? == target && is_test;
        matches
            .then(|| message.get("executable")?.as_str().map(PathBuf::from))
            .flatten()
    })
}

impl Job<'_> {
    /// Starts the kernel, runs the program, and compares what it reported.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let report = self.report(&mut |line| println!("{line}"))?;
        self.judge(report)
    }

    /// Starts the kernel and runs the program; `say` takes every line.
    pub(crate) fn report(&self, say: &mut dyn FnMut(&str)) -> Result<Report> {
        let folder = self.folder();
        let kernel = kernel::get(self.series, self.architecture, &folder)?;
        let chosen = modules::choose(&kernel.modules)?;
        let started = Instant::now();
        let task = machine::Task {
            architecture: self.architecture,
            image: &kernel.image,
            modules: &chosen.modules,
            program: self.program,
            arguments: self.arguments,
            beside: self.beside,
            folder: &folder,
            limit: self.limit,
        };
        let report = machine::run(&task, say)?;
        say(&format!(
            "test-vm: Linux {}: exit status {} after {:.1} s, of which {:.1} s to start",
            report.release,
            report.status,
            started.elapsed().as_secs_f32(),
            report.boot.as_secs_f32()
        ));
        if !chosen.absent.is_empty() {
            let absent = chosen.absent.join(", ");
            say(&format!("test-vm: not in this kernel: {absent}"));
        }
        for warning in &report.warnings {
            say(&format!("test-vm: the kernel warned: {warning}"));
        }
        Ok(report)
    }

    /// Folder of the machine's files.
    fn folder(&self) -> PathBuf {
        let name = match self.architecture {
            Architecture::X86_64 => self.series.to_owned(),
            Architecture::Aarch64 => format!("{}-{}", self.series, self.architecture.rust()),
        };
        run::target().join("vm").join(name)
    }

    /// Compares what a run reported with the record, which is that of the series on every
    /// architecture: the verifier walks the same instructions.
    pub(crate) fn judge(&self, report: Report) -> Result<Outcome> {
        let tally = Tally::of(&report.output);
        let series = tools::series(&report.release);
        let mut objections = Vec::new();
        if report.status != 0 {
            objections.push(format!(
                "Linux {series}: tests failed with status {}",
                report.status
            ));
        } else if self.complete && tally.passed == 0 {
            objections.push(format!("Linux {series}: no test ran"));
        }
        let root = run::root();
        let comparison = Comparison {
            root: &root,
            series: &series,
            place: Place::Machine,
            complete: self.complete,
        };
        if self.bless {
            comparison.bless(&report.reported)?;
        }
        objections.extend(comparison.objections(&report.reported)?);
        Ok(Outcome {
            tally,
            reported: report.reported,
            objections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_in_cargos_report() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"programs"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"other"},"executable":"/t/other-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"programs"},"executable":"/t/programs-2"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            executable(messages, "programs"),
            Some(PathBuf::from("/t/programs-2"))
        );
        assert_eq!(executable(messages, "absent"), None);
    }
}
