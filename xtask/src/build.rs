//! `cargo xtask build`: compiles the workspace.
//!
//! The kernel programs are compiled on the way, by the build script of `dataplane`.

use anyhow::Result;

use crate::{
    outcome::Failed,
    run,
    setup::{self, Need},
};

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// With optimisation, as it is shipped.
    #[arg(long)]
    release: bool,
}

/// Compiles the workspace.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::KernelCompiler, Need::ProtocolCompiler])?;
    let mut command = run::cargo();
    command.arg("build").args(run::WORKSPACE);
    if options.release {
        command.arg("--release");
    }
    let status = run::status(&mut command)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failed::program("cargo build", status))
    }
}
