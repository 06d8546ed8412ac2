//! `cargo xtask soak`: runs a soak of the `tests` crate.
//!
//! The list of soaks, and of the arguments that they accept, is known to that crate alone: the
//! arguments pass through untouched.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    outcome::Failed,
    run,
    setup::{self, Need},
};

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Name of the soak, and its arguments: `verdicts --packets N --seed S`. `--help` lists
    /// them.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENT"
    )]
    arguments: Vec<OsString>,
}

/// Runs it, optimised: the programs as they are shipped, and as much of them as the
/// time allows.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[
        Need::KernelCompiler,
        Need::ProtocolCompiler,
        Need::BpfFileSystem,
        Need::NetworkTools,
    ])?;
    let of_tests = ["--release", "--package", "cofferdam-tests", "--bin"];
    // The agent and the plugin that a soak starts lie beside it.
    let mut beside = run::cargo();
    beside.arg("build").args(of_tests).arg("cofferdam-in-tests");
    beside.args(["--bin", "cofferdam-cni-in-tests"]);
    let status = run::status(&mut beside)?;
    if !status.success() {
        return Err(Failed::program("cargo build", status));
    }
    let mut command = run::cargo();
    command
        .arg("run")
        .args(of_tests)
        .arg("cofferdam-soak")
        .arg("--")
        .args(&options.arguments);
    let status = run::status(&mut command)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failed::program("the soak", status))
    }
}
