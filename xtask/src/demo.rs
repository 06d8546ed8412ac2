//! `cargo xtask demo`: builds the workspace and shows a small shop under policy.
//!
//! The show itself is a program of the `tests` crate, which has the servers and
//! clients for it; this only sets the machine up, builds, and hands over.

use std::{
    io::{BufRead as _, BufReader, PipeReader, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    outcome::Failed,
    run,
    setup::{self, Need},
    tools,
};

/// The documents of the shop.
const POLICIES: &str = "policies/library/three-tier";
/// The alerting rules.
pub(crate) const RULES: &str = "deploy/prometheus";
/// Feature by which the demonstration can ask containerd for pods.
const POD_CLIENT: &str = "cofferdam-tests/cri";
/// Beginnings of the last line, and the answer that each gives.
const LAST_LINES: [(&str, bool); 2] = [("demo: ok ", true), ("demo: failed ", false)];

/// A container runtime.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Runtime {
    /// Pods by CRI, as a kubelet asks for them.
    Containerd,
    /// Containers with networks by netavark.
    Podman,
}

impl Runtime {
    /// Its name on the demonstration's command line.
    fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Podman => "podman",
        }
    }
}

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run the workloads as containers of this runtime, attached by `cofferdam-cni`. Default:
    /// network namespaces without a runtime.
    #[arg(long, value_enum, value_name = "RUNTIME")]
    runtime: Option<Runtime>,
    /// Leave the shop standing, and say how to look around and how to clean up.
    #[arg(long)]
    keep: bool,
    /// Leave Prometheus running on it as well, with the alerts of `deploy/prometheus`.
    #[arg(long, requires = "keep")]
    prometheus: bool,
    /// Use what was compiled with the tests: alone, the programs have dependencies with fewer
    /// features, which are compiled anew.
    #[arg(long, hide = true)]
    with_tests: bool,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut needs = Vec::new();
    if options.runtime.is_some() {
        needs.push(Need::ContainerRuntimes);
    }
    if options.prometheus {
        needs.push(Need::Monitoring);
    }
    let mut choice = Vec::new();
    if let Some(Runtime::Containerd) = options.runtime {
        choice.extend(["--features", POD_CLIENT]);
    }
    if options.with_tests {
        choice.push("--all-targets");
    }
    let mut command = built(&needs, &choice)?;
    if let Some(runtime) = options.runtime {
        command.args(["--runtime", runtime.name()]);
    }
    if options.prometheus {
        command.args([PathBuf::from("--prometheus"), run::root().join(RULES)]);
    }
    if options.keep {
        kept(&mut command)
    } else {
        replaced_by(&mut command)
    }
}

/// Sets the machine up and builds, with these arguments of cargo as well; the command of a
/// demonstration of the shop.
pub(crate) fn built(more_needs: &[Need], choice: &[&str]) -> Result<Command> {
    if !tools::is_root() {
        bail!("the demonstration makes network namespaces, which takes root");
    }
    let mut needs = vec![
        Need::KernelCompiler,
        Need::ProtocolCompiler,
        Need::NetworkTools,
        Need::NetworkPlugins,
    ];
    needs.extend(more_needs);
    setup::ensure(&needs)?;
    println!("== building");
    let mut build = run::cargo();
    build.arg("build").args(run::WORKSPACE).args(choice);
    let status = run::status(&mut build)?;
    if !status.success() {
        return Err(Failed::program("cargo build", status));
    }
    let built = run::target().join("debug");
    let mut command = run::command(built.join("cofferdam-demo"));
    command
        .args([PathBuf::from("--cofferdam"), built.join("cofferdam")])
        .args([PathBuf::from("--plugin"), built.join("cofferdam-cni")])
        .args([PathBuf::from("--policies"), run::root().join(POLICIES)]);
    Ok(command)
}

/// Runs it in our place: signals reach it, and its exit status is ours.
pub(crate) fn replaced_by(command: &mut Command) -> Result<()> {
    Err(command.exec()).context("cannot start the demonstration")
}

/// Runs it until all has been shown, and leaves it running.
fn kept(command: &mut Command) -> Result<()> {
    // One pipe for all that it says, and nothing of this terminal: whoever waits for
    // our output to end must not wait for what is left standing.
    let (output, input) = std::io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .arg("--keep")
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()
        .context("cannot start the demonstration")?;
    // It has the other ends of the pipe, which must be its alone.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    match last_line(output)? {
        Some(true) => Ok(()),
        Some(false) => Err(Failed::error("not everything was as the policies say")),
        None => ended(&mut child),
    }
}

/// Shows what comes, up to the last line; its answer, or `None` when it did not come.
fn last_line(output: PipeReader) -> Result<Option<bool>> {
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what the demonstration says")?;
        // A reader that went away (`| head`) does not end the demonstration.
        let _ = writeln!(std::io::stdout(), "{line}");
        let answer = LAST_LINES
            .into_iter()
            .find(|(beginning, _)| line.starts_with(beginning));
        if let Some((_, answer)) = answer {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn ended(child: &mut Child) -> Result<()> {
    let status = child.wait().context("cannot wait for the demonstration")?;
    Err(Failed::program("the demonstration", status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(said: &str) -> Option<bool> {
        let (output, mut input) = std::io::pipe().unwrap();
        input.write_all(said.as_bytes()).unwrap();
        // Whoever said it is still there and says no more, but where it says nothing.
        let _held = said.contains("demo: ").then_some(input);
        last_line(output).unwrap()
    }

    #[test]
    fn the_last_line_ends_the_wait_and_has_the_answer() {
        assert_eq!(answer("== a shop\ndemo: ok cells=2/2\n"), Some(true));
        assert_eq!(answer("demo: failed cells=1/2\n"), Some(false));
        assert_eq!(answer("== a shop\n"), None);
    }
}
