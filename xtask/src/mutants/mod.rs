//! `cargo xtask mutants`: puts deliberate faults into the code, one at a time, and sees
//! that a test catches each.
//!
//! The faults are in `tests/mutants`, see [`fault`]. They are put into a copy of the
//! tracked files, `target/mutants/tree`, which has build products of its own beside it, so
//! that the next run compiles little. The working tree is only read.
//!
//! Invariant: a fault counts as caught only if its test was built, was run and failed, and
//! passes without the fault.

mod fault;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    outcome::Failed,
    run::{self, Next, Running},
    setup::{self, Need},
    test::Tally,
};
use fault::{Catch, Fault};

/// Seconds after which a test that does not end has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// The package whose tests need nothing but a compiler.
const PLAIN: &str = "verdict";
/// Tests that are tried on what survives its own: arguments of `cargo test`.
const ALL_TESTS: [&[&str]; 4] = [
    &["--package", "cofferdam-verdict"],
    &[
        "--package",
        "cofferdam-inventory",
        "--package",
        "cofferdam-documents",
        "--package",
        "cofferdam-compiler",
        "--package",
        "cofferdam-reach",
    ],
    &["--package", "cofferdam-analysis"],
    &["--package", "cofferdam-tests", "--test", "programs"],
];
/// Lines of a compiler's words that are shown.
const SHOWN_LINES: usize = 12;

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Put in only faults with this in their names.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// List the faults and the tests that catch them, and do nothing else.
    #[arg(long)]
    list: bool,
    /// Try more tests on each fault that its own test lets pass, to see if another catches
    /// it; it counts as survived all the same.
    #[arg(long)]
    all_tests: bool,
}

/// Fate of a fault.
enum Fate {
    /// Its test failed.
    Caught,
    /// Its test passed.
    Survived,
    /// It could not be tried, for this reason.
    Invalid(String),
}

/// Runs the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut faults = fault::read_all(&run::root())?;
    // The quick ones first.
    faults.sort_by_key(|fault| fault.catch.package != PLAIN);
    if let Some(only) = &options.only {
        faults.retain(|fault| fault.name.contains(only.as_str()));
        if faults.is_empty() {
            bail!("no fault has \"{only}\" in its name; --list shows them");
        }
    }
    if options.list {
        for fault in &faults {
            println!(
                "{}\n    {}, caught by {}",
                fault.name, fault.file, fault.catch
            );
        }
        return Ok(());
    }
    let plain = faults.iter().all(|fault| fault.catch.package == PLAIN);
    if !plain || options.all_tests {
        setup::ensure(&[
            Need::KernelCompiler,
            Need::BpfFileSystem,
            Need::NetworkTools,
            Need::ProtocolCompiler,
        ])?;
    }
    let copy = Copy::make()?;
    // Before anything is tried: a stale fault is an error of the files.
    for fault in &faults {
        fault.applied(&copy.read(&fault.file)?)?;
    }
    println!("mutants: the tests without a fault");
    let mut programs = HashMap::new();
    for catch in faults.iter().map(|fault| &fault.catch) {
        let program = match programs.entry((&catch.package, &catch.binary)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let built = copy.build(catch)?;
                new.insert(built.map_err(|why| anyhow!("{catch} without a fault: {why}"))?)
            }
        };
        match program.attempt(&catch.filter)? {
            Fate::Survived => {}
            Fate::Caught => {
                return Err(Failed::error(format!("{catch} fails without a fault")));
            }
            Fate::Invalid(why) => bail!("{catch} without a fault: {why}"),
        }
    }
    let (mut caught, mut survived, mut invalid) = (0, 0, 0);
    for fault in &faults {
        let started = Instant::now();
        let fate = copy.with(fault, || match copy.build(&fault.catch)? {
            Ok(program) => program.attempt(&fault.catch.filter),
            Err(why) => Ok(Fate::Invalid(why)),
        })?;
        let (word, count) = match fate {
            Fate::Caught => ("caught", &mut caught),
            Fate::Survived => ("SURVIVED", &mut survived),
            Fate::Invalid(_) => ("INVALID", &mut invalid),
        };
        *count += 1;
        let seconds = started.elapsed().as_secs_f32();
        println!("{word:<8} {seconds:>6.1} s  {}", fault.name);
        match fate {
            Fate::Caught => {}
            Fate::Survived => {
                println!("    {} lets it pass", fault.catch);
                if options.all_tests {
                    let other = copy.with(fault, || copy.attempt_all())?;
                    println!("    {}", other.as_deref().unwrap_or("so do all others"));
                }
            }
            Fate::Invalid(why) => println!("    {}", why.replace('\n', "\n    ")),
        }
    }
    println!("mutants: {caught} caught, {survived} survived, {invalid} invalid");
    if survived + invalid == 0 {
        Ok(())
    } else {
        Err(Failed::said(1))
    }
}

/// The copy of the tracked files that faults are put into.
struct Copy {
    tree: PathBuf,
    products: PathBuf,
}

impl Copy {
    /// Brings the copy to what the working tree has. Files that are the same keep their
    /// times, so that they are not compiled anew.
    fn make() -> Result<Self> {
        let root = run::root();
        let folder = run::target().join("mutants");
        let copy = Self {
            tree: folder.join("tree"),
            products: folder.join("products"),
        };
        let listed = run::output(run::command("git").args(["ls-files", "-z"]))?;
        let mut names = HashSet::new();
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let from = root.join(name);
            // Deleted and not yet committed; symbolic links are none of the sources.
            if !fs::symlink_metadata(&from).is_ok_and(|found| found.is_file()) {
                continue;
            }
            let wanted = fs::read(&from).with_context(|| cannot("read", &from))?;
            copy.put(name, &wanted)?;
            names.insert(copy.tree.join(name));
        }
        remove_others(&copy.tree, &names)?;
        Ok(copy)
    }

    fn read(&self, name: &str) -> Result<String> {
        let file = self.tree.join(name);
        fs::read_to_string(&file).with_context(|| cannot("read", &file))
    }

    /// Writes a file of the copy unless that is what it has.
    fn put(&self, name: &str, wanted: &[u8]) -> Result<()> {
        let file = self.tree.join(name);
        if fs::read(&file).is_ok_and(|has| has == wanted) {
            return Ok(());
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| cannot("create", folder))?;
        }
        fs::write(&file, wanted).with_context(|| cannot("write", &file))
    }

    /// Does something while a fault is in the copy.
    fn with<T>(&self, fault: &Fault, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let right = self.read(&fault.file)?;
        self.put(&fault.file, fault.applied(&right)?.as_bytes())?;
        let done = work();
        self.put(&fault.file, right.as_bytes())?;
        done
    }

    /// A cargo that builds the copy.
    fn cargo(&self) -> Command {
        let mut cargo = run::cargo();
        cargo
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.products)
            // Nobody looks at the backtraces, and linking takes half the time.
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo
    }

    /// Builds a test binary, or says why it does not compile.
    fn build(&self, catch: &Catch) -> Result<Result<Program, String>> {
        let mut build = self.cargo();
        build
            .args(["test", "--no-run"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(["--package", &format!("cofferdam-{}", catch.package)]);
        match catch.binary.as_str() {
            "lib" => build.arg("--lib"),
            name => build.args(["--test", name]),
        };
        let output = build.output().context("cannot start cargo")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Ok(Err(format!("does not compile:\n{}", first_error(&words))));
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        match test_program(&messages) {
            Some(program) => Ok(Ok(program)),
            None => bail!("cargo does not say what it has built for {catch}"),
        }
    }

    /// Tries many tests; says which of them fail, if any do.
    fn attempt_all(&self) -> Result<Option<String>> {
        for arguments in ALL_TESTS {
            let mut command = self.cargo();
            command
                .arg("test")
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if !run::status(&mut command)?.success() {
                return Ok(Some(format!("cargo test {} fails", arguments.join(" "))));
            }
        }
        Ok(None)
    }
}

/// A test binary.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    file: PathBuf,
    /// Folder of its package, where cargo runs it.
    folder: PathBuf,
}

impl Program {
    /// Runs the tests with `filter` in their names.
    fn attempt(&self, filter: &str) -> Result<Fate> {
        let mut command = run::command(&self.file);
        command
            .arg(filter)
            .current_dir(&self.folder)
            .stderr(Stdio::null());
        let mut running = Running::start(&mut command)?;
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match running.next(Some(deadline)) {
                Next::Line(line) => lines.push(line),
                Next::Ended => break,
                Next::Late => return Ok(Fate::Caught),
            }
        }
        let status = running.wait()?;
        let tally = Tally::of(&lines);
        Ok(match (status.success(), tally.passed, tally.failed) {
            (false, _, 1..) => Fate::Caught,
            (true, 1.., 0) => Fate::Survived,
            (true, ..) => Fate::Invalid(format!("no test has {filter} in its name")),
            (false, ..) => Fate::Invalid(format!("the tests ended without a result ({status})")),
        })
    }
}

/// Removes the files of a folder that are not among `names`.
fn remove_others(folder: &Path, names: &HashSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| cannot("read", folder))? {
        let path = entry.with_context(|| cannot("read", folder))?.path();
        if path.is_dir() {
            remove_others(&path, names)?;
        } else if !names.contains(&path) {
            fs::remove_file(&path).with_context(|| cannot("remove", &path))?;
        }
    }
    Ok(())
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}

/// Finds the test binary in what cargo says that it has built.
fn test_program(messages: &str) -> Option<Program> {
    let mut built = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        if message["profile"]["test"] != true {
            return None;
        }
        let manifest = Path::new(message["manifest_path"].as_str()?);
        Some(Program {
            file: message["executable"].as_str()?.into(),
            folder: manifest.parent()?.to_owned(),
        })
    });
    built.next_back()
}

/// The first error in a compiler's words, with what stands around it.
fn first_error(words: &str) -> String {
    let lines = words.lines().skip_while(|line| !line.starts_with("error"));
    let lines: Vec<&str> = lines.take(SHOWN_LINES).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_the_tests_is_told_from_others() {
        let messages = "{\"profile\":{\"test\":false},\"executable\":\"/p/agent\",\
                        \"manifest_path\":\"/t/a/Cargo.toml\"}\n\
                        {\"profile\":{\"test\":true},\"executable\":\"/p/host-1\",\
                        \"manifest_path\":\"/t/v/Cargo.toml\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        let expected = Program {
            file: "/p/host-1".into(),
            folder: "/t/v".into(),
        };
        assert_eq!(test_program(messages), Some(expected));
        assert_eq!(test_program(""), None);
    }

    #[test]
    fn the_first_error_is_shown() {
        let words = "   Compiling a\nwarning: b\nerror[E0425]: c\n --> d\n";
        assert_eq!(first_error(words), "error[E0425]: c\n --> d");
    }
}
