//! Tasks for developers: `cargo xtask <verb>`.
//!
//! Every verb runs programs and reads what they print. Nothing here links to the
//! rest of the workspace, so that this builds in seconds on a machine where the
//! rest does not build yet, and can set that machine up.
//!
//! Exit status: 0 done; 1 the answer is no; 2 it could not be tried (something is
//! missing, wrong usage). Where a test runner's answer was no, its own status is
//! kept.

mod architecture;
mod arrows;
mod bench;
mod build;
mod demo;
mod dependencies;
mod fuzz;
mod mutants;
mod outcome;
mod package;
mod pictures;
mod records;
mod run;
mod setup;
mod soak;
mod test;
mod tools;
mod vm;

/// The one place that knows how to find a compiler for the kernel programs.
#[path = "../../dataplane/ebpf/toolchain.rs"]
#[expect(
    dead_code,
    reason = "written for `dataplane/build.rs` as well, which uses the rest"
)]
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks for developers of Cofferdam.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; every other verb does this first.
    Setup,
    /// Compile the workspace, kernel programs included.
    Build(build::Options),
    /// Show a small shop under policy, with real packets.
    Demo(demo::Options),
    /// Check formatting, layout and lints, then run all tests, here and on an older kernel.
    Test(test::Options),
    /// Run the kernel tests on other kernels, in a virtual machine.
    TestVm(vm::Options),
    /// Check that only the dependencies of the layout exist.
    Arrows,
    /// Check that the licences, sources and names of all dependencies are as `deny.toml` says.
    Dependencies,
    /// Build what is shipped: static binaries, checksums and a list of what is in them.
    Package(package::Options),
    /// Draw the dashboards for the documentation, after some minutes of real traffic.
    Pictures(pictures::Options),
    /// Run a benchmark; `bench --help` lists them.
    Bench(bench::Options),
    /// Look for input that documents or the compiler do not bear.
    Fuzz(fuzz::Options),
    /// Put faults into a copy of the code, one at a time: a test must catch each.
    Mutants(mutants::Options),
    /// Do what the tests do for as long as you want; `soak --help` lists the soaks.
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Setup => setup::ensure(&setup::EVERYTHING),
        Verb::Build(options) => build::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::TestVm(options) => vm::run(&options),
        Verb::Arrows => arrows::run(),
        Verb::Dependencies => dependencies::run(),
        Verb::Package(options) => package::run(&options),
        Verb::Pictures(options) => pictures::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Mutants(options) => mutants::run(&options),
        Verb::Soak(options) => soak::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            outcome::tell(&error);
            ExitCode::from(outcome::exit_status(&error))
        }
    }
}
