//! `cargo xtask bench`: runs a benchmark of the `bench` crate.
//!
//! The list of benchmarks, and of the arguments that they accept, is known to that crate alone:
//! the arguments pass through untouched.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    outcome::Failed,
    run,
    setup::{self, Need},
};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Name of the benchmark, and its arguments: `packet --json FILE`. `--help` lists them.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENT"
    )]
    arguments: Vec<OsString>,
}

/// Runs it, optimised.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[
        Need::KernelCompiler,
        Need::ProtocolCompiler,
        Need::BpfFileSystem,
        Need::NetworkTools,
        Need::PacketFilters,
    ])?;
    // The agent that a benchmark starts lies beside it.
    let agent = [
        "build",
        "--release",
        "--package",
        "cofferdam-controller",
        "--package",
        "cofferdam-cni",
    ];
    let built = run::status(run::cargo().args(agent))?;
    if !built.success() {
        return Err(Failed::program("cargo build", built));
    }
    let mut command = run::cargo();
    command
        .args(["run", "--release", "--package", "cofferdam-bench", "--"])
        .args(&options.arguments);
    // A relative `--json FILE` is meant from where the caller stands.
    if let Ok(here) = std::env::current_dir() {
        command.current_dir(here);
    }
    let status = run::status(&mut command)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failed::program("the benchmark", status))
    }
}
