//! Runs programs in the workspace.
//!
//! Invariant: what a verb starts sees the environment in which someone would have
//! typed the command by hand. `cargo run` adds variables of its own; left in place
//! they make some builds differ from those by hand, and compile everything twice.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Longest time that output may still arrive after a program has ended. A daemon left behind by
/// a test holds the pipe open for ever.
const GRACE: Duration = Duration::from_secs(2);

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it for what it runs; the compiled-in value serves a bare start.
    let own = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map(Path::to_owned).unwrap_or(own)
}

/// Returns the folder for build products, and everything else that can be made again.
pub(crate) fn target() -> PathBuf {
    // Relative to the root, because that is where cargo is started.
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `program`, to be run at the root of the workspace.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // The nightly linker would load its compiler library from there.
    command.env_remove("LD_LIBRARY_PATH");
    for (name, _) in env::vars_os() {
        let of_this_package = name.to_str().is_some_and(|name| {
            [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_BIN_",
                "CARGO_CRATE_",
            ]
            .iter()
            .any(|start| name.starts_with(start))
        });
        if of_this_package {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.envs(linting());
    cargo
}

/// Driver of clippy, once it compiles the workspace.
static LINTER: OnceLock<PathBuf> = OnceLock::new();

/// From now on, [`cargo`] compiles the crates of the workspace by the driver of clippy: it
/// lints what it compiles, so that nothing is read and checked a second time for that.
///
/// # Errors
///
/// Fails if the toolchain has no clippy.
pub(crate) fn lint_on_the_way() -> Result<()> {
    let root = output(command("rustc").args(["--print", "sysroot"]))?;
    let driver = Path::new(root.trim()).join("bin/clippy-driver");
    if !driver.is_file() {
        bail!("the toolchain has no clippy: `rustup component add clippy`");
    }
    LINTER.get_or_init(|| driver);
    Ok(())
}

/// Variables under which another `cargo xtask` uses what was compiled with lints.
pub(crate) fn linting() -> Option<(&'static str, &'static Path)> {
    let driver = LINTER.get()?;
    Some(("RUSTC_WORKSPACE_WRAPPER", driver))
}

/// Options that choose what the workspace builds. Every build uses exactly these:
/// features are unified over the packages chosen, so a narrower choice compiles
/// the dependencies again with other features.
pub(crate) const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "cofferdam-ebpf"];

/// Runs `command` on this terminal.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| cannot_start(command))
}

/// Runs `command` and returns what it printed on standard output; its standard
/// error appears here. Failure is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command`, printing its standard output as it comes, and returns that as
/// well: for programs whose words are meant for people and for us.
pub(crate) fn tee(command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let mut running = Running::start(command)?;
    let mut lines = Vec::new();
    loop {
        match running.next(None) {
            Next::Line(line) => {
                // A reader that went away (`| head`) does not end the tests.
                let _ = writeln!(std::io::stdout(), "{line}");
                lines.push(line);
            }
            Next::Ended => return Ok((running.wait()?, lines)),
            Next::Late => {}
        }
    }
}

/// A program whose standard output we read line by line. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    ended: Option<Instant>,
}

/// Event that [`Running::next`] saw.
pub(crate) enum Next {
    /// A line, without its end.
    Line(String),
    /// No more lines will come.
    Ended,
    /// The deadline passed.
    Late,
}

impl Running {
    /// Starts `command` with its standard output piped to us.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| cannot_start(command))?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || read_lines(stdout, &sender));
        }
        Ok(Self {
            child,
            lines,
            ended: None,
        })
    }

    /// Waits for the next line, until `deadline` if there is one.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Next {
        loop {
            // First of all: a program that never stops talking is late as well.
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now > deadline) {
                return Next::Late;
            }
            // Short waits, because the end of the process wakes nobody here while
            // a grandchild still holds the pipe.
            let wait = Duration::from_millis(200);
            match self.lines.recv_timeout(wait) {
                Ok(line) => return Next::Line(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Next::Ended,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                let ended = *self.ended.get_or_insert(now);
                if now > ended + GRACE {
                    return Next::Ended;
                }
            }
        }
    }

    /// Waits for the program itself to end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("cannot wait for a child process")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends each line of `stdout`; what is not UTF-8 is shown as such.
fn read_lines(stdout: impl Read, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&bytes);
        if sender
            .send(line.trim_end_matches(['\n', '\r']).to_owned())
            .is_err()
        {
            return;
        }
    }
}

/// `command` as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!(
        "cannot start {}; is it installed and in PATH?",
        command.get_program().to_string_lossy()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_child_left_behind_does_not_hold_us() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; sleep 60 & echo last"]);
        let (status, lines) = tee(&mut command).unwrap();
        assert!(status.success());
        assert_eq!(lines, ["first", "last"]);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_deadline_is_noticed() {
        let mut running = Running::start(Command::new("sleep").arg("60")).unwrap();
        assert!(matches!(running.next(Some(Instant::now())), Next::Late));
    }

    #[test]
    fn a_missing_program_says_so() {
        let error = status(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("is it installed"), "{error}");
    }
}
