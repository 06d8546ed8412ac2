//! `cargo xtask fuzz`: looks for input that the documents or the compiler do not bear.
//!
//! The engine is LLVM's libFuzzer: inputs that reach new code are changed further.
//! Options that stable Rust has ask the compiler for the code that this needs, so no other toolchain is needed. What was reached is kept in
//! `target/fuzz/corpus`, and the next run begins with it.
//!
//! Faults that can be found: a panic, a broken law, too much time for one input, too much
//! memory. The crate `fuzz` says which laws there are.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::{
    outcome::Failed,
    run,
    setup::{self, Need},
};

/// The targets of the crate `fuzz`, and whether text is a start for them.
const TARGETS: [(&str, bool); 6] = [
    ("yaml", true),
    ("documents", true),
    ("expectations", true),
    ("compiler", false),
    ("packet", false),
    ("flows", false),
];

/// Documents to begin with: short, and with everything in them that there is.
const SEEDS: &str = "fuzz/seeds";

/// Counts in the code which branches are taken, and what is compared with what.
const WATCHED: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Most memory of the engine with a target, in MiB. Both need some 200 after minutes.
const MOST_MEMORY_MIB: u32 = 1024;
/// Seconds after which an input is given up; the target's own bound comes first, unless
/// it waits for ever.
const GIVE_UP_SECONDS: u32 = 60;
/// Longest input, in bytes.
const LONGEST: u32 = 4096;

/// Lines of the engine's words that are shown when it found something.
const SHOWN_LINES: usize = 40;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Number that the choices follow from; another one in each run without it.
    #[arg(long)]
    seed: Option<u32>,
    /// Give the target this one input, and do nothing else.
    #[arg(long, value_name = "FILE")]
    repeat: Option<PathBuf>,
    /// Only these.
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(TARGETS.map(|(name, _)| name)))]
    names: Vec<String>,
}

/// Runs the targets, one after the other.
pub(crate) fn run(options: &Options) -> Result<()> {
    let targets: Vec<_> = (TARGETS.iter())
        .filter(|(name, _)| options.names.is_empty() || options.names.iter().any(|one| one == name))
        .collect();
    if options.repeat.is_some() && targets.len() != 1 {
        bail!("--repeat needs the name of the target that the input is for");
    }
    setup::ensure(&[Need::CppCompiler])?;
    let program = build()?;
    if let (Some(file), [(name, _)]) = (&options.repeat, targets.as_slice()) {
        return repeat(&program, name, file);
    }
    let seed = options.seed.unwrap_or_else(any_number).max(1);
    let mut inputs = 0;
    for (name, takes_text) in &targets {
        println!(
            "fuzz: {name} for {} s, seed {seed}, words in {}",
            options.seconds,
            shown(&log_of(name))
        );
        inputs += fuzz(&program, name, *takes_text, options.seconds, seed)?;
    }
    println!(
        "fuzz: ok targets={} inputs={inputs} seconds={} seed={seed}",
        targets.len(),
        options.seconds as usize * targets.len()
    );
    Ok(())
}

/// Returns the folder in which everything of ours lies.
fn folder() -> PathBuf {
    run::target().join("fuzz")
}

fn log_of(name: &str) -> PathBuf {
    folder().join(format!("{name}.log"))
}

/// A path as one would type it at the root of the workspace.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(run::root()).unwrap_or(path);
    path.display().to_string()
}

fn any_number() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.subsec_nanos())
}

/// Compiles the targets with everything they use, to be watched.
fn build() -> Result<PathBuf> {
    // Only then are build scripts and macros not watched, which have no engine.
    let host = host()?;
    let folder = folder().join("build");
    let mut cargo = run::cargo();
    cargo
        .args(["build", "--release", "--package", "cofferdam-fuzz"])
        .args(["--features", "engine", "--target", &host])
        .env("CARGO_TARGET_DIR", &folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", WATCHED.join(" "))
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        // The counters of a function lie in one object, or the linker keeps too few.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    let status = run::status(&mut cargo)?;
    if !status.success() {
        // A compiler that is not there, or a mistake in the code: nothing was tried.
        bail!("cannot build the fuzzer ({status})");
    }
    Ok(folder.join(host).join("release/cofferdam-fuzz"))
}

/// The target that this toolchain builds for.
fn host() -> Result<String> {
    let version = run::output(run::command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// The engine with a target; its words go to a file.
fn engine(program: &Path, name: &str, log: &Path) -> Result<std::process::Command> {
    let words = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = run::command(program);
    command
        .env("COFFERDAM_FUZZ_TARGET", name)
        .env("RUST_BACKTRACE", "1")
        .arg(format!("-rss_limit_mb={MOST_MEMORY_MIB}"))
        .arg(format!("-timeout={GIVE_UP_SECONDS}"))
        .stderr(words);
    Ok(command)
}

/// Runs a target for a while; how many inputs it was given.
fn fuzz(program: &Path, name: &str, takes_text: bool, seconds: u32, seed: u32) -> Result<u64> {
    let (corpus, found) = (folder().join("corpus").join(name), folder().join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let prefix = found.join(format!("{name}-"));
    let log = log_of(name);
    let mut command = engine(program, name, &log)?;
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-max_len={LONGEST}"))
        // Long ones from the start: few choices make a small world.
        .arg("-len_control=0")
        .arg(format!("-artifact_prefix={}", prefix.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus);
    if takes_text {
        command.arg("-dict=fuzz/tokens.dict").arg(SEEDS);
    }
    let status = run::status(&mut command)?;
    let words = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let words = String::from_utf8_lossy(&words);
    if status.success() {
        return statistic(&words, "stat::number_of_executed_units:")
            .with_context(|| format!("{} says nothing of what was done", log.display()));
    }
    tell_end_of(&words);
    match found_input(&words) {
        Some(input) => Err(Failed::error(format!(
            "{name} does not bear an input. Again:\n  cargo xtask fuzz {name} --repeat {}",
            shown(Path::new(input))
        ))),
        None => bail!(
            "the engine of {name} ended ({status}), see {}",
            log.display()
        ),
    }
}

/// Gives a target one input.
fn repeat(program: &Path, name: &str, file: &Path) -> Result<()> {
    // Meant from where the caller stands, who may not stand at the root.
    let file = fs::canonicalize(file).with_context(|| format!("cannot read {}", file.display()))?;
    let log = log_of(name);
    let status = run::status(engine(program, name, &log)?.arg(&file))?;
    let words = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    tell_end_of(&String::from_utf8_lossy(&words));
    if status.success() {
        println!("fuzz: ok {name} bears {}", file.display());
        Ok(())
    } else {
        let said = format!("{name} does not bear {}", file.display());
        Err(Failed::error(said))
    }
}

/// The number behind a name in the engine's words.
fn statistic(words: &str, name: &str) -> Option<u64> {
    let line = words.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// The file in which the engine put the input that it found.
fn found_input(words: &str) -> Option<&str> {
    words
        .lines()
        .find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

/// Shows the engine's words from where they tell what is wrong; else the last of them.
fn tell_end_of(words: &str) {
    let lines: Vec<&str> = words.lines().collect();
    let told = lines.iter().position(|line| tells(line));
    let first = told.unwrap_or(lines.len().saturating_sub(SHOWN_LINES));
    for line in lines[first..].iter().take(SHOWN_LINES) {
        eprintln!("  {line}");
    }
}

/// Returns `true` if a line says what went wrong: a panic's, or the engine's own.
fn tells(line: &str) -> bool {
    line.contains(" panicked at ") || line.contains("ERROR: libFuzzer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_are_read() {
        let words = "#9\tNEW\nstat::number_of_executed_units: 1234\nstat::x: 1\n";
        let name = "stat::number_of_executed_units:";
        assert_eq!(statistic(words, name), Some(1234));
        assert_eq!(statistic("Done", name), None);
        assert_eq!(found_input(words), None);
        let words = "artifact_prefix='a/'; Test unit written to a/yaml-crash-1\nBase64: \n";
        assert_eq!(found_input(words), Some("a/yaml-crash-1"));
        assert!(tells("thread '<unnamed>' (1) panicked at a.rs:1:1:"));
        assert!(tells(
            "==1== ERROR: libFuzzer: out-of-memory (used: 2Mb; limit: 1Mb)"
        ));
        assert!(!tells("#9\tNEW"));
    }

    #[test]
    fn targets_are_those_that_can_be_named() {
        let crate_ = fs::read_to_string(run::root().join("fuzz/src/lib.rs")).unwrap();
        for (name, _) in TARGETS {
            assert!(crate_.contains(&format!("=> \"{name}\"")), "{name}");
        }
    }
}
