//! The demonstration: a small shop under policy, with real packets.
//!
//! Six workloads and a host outside, network namespaces all, wired by the standard
//! CNI plugins; the agent of their node, told of each workload by `cofferdam-cni`
//! behind those; the policies of the library; every statement of the library's tests
//! tried by TCP and UDP, over IPv4 and IPv6. What must happen is read from those
//! statements, never from the agent.
//!
//! With `--runtime` the workloads are containers of a real runtime, attached by
//! `cofferdam-cni` as it does so; all else is the same.
//!
//! Exit status: 0 all as stated; 1 something was not; 2 it could not be tried.
//!
//! Invariant: nothing outlives this process but a folder, and that only when it is
//! killed outright. Namespaces and interfaces are held by descriptors, the BPF file
//! system is mounted in a mount namespace of our own, and the agent is told to die
//! with us. The machine's own network is not touched. A container of a runtime is no
//! child of ours: it is removed at the end and at an interruption, and outlives us
//! when we are killed outright.

mod agent;
mod containers;
mod drops;
mod habits;
mod pictures;
mod premises;
mod prometheus;
mod scenes;
mod shop;
mod table;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;

use containers::Engine;
use premises::{Interruption, Premises};

/// Shows a small shop under policy, with real packets.
#[derive(Debug, Parser)]
#[command(name = "cofferdam-demo", version)]
pub(crate) struct Arguments {
    /// The `cofferdam` program.
    #[arg(long, value_name = "FILE")]
    cofferdam: PathBuf,
    /// The network plugin, `cofferdam-cni`.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The documents of the shop, with the statements about it.
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    /// Run the workloads as containers of this runtime. Without it they are network
    /// namespaces alone.
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<Engine>,
    /// Leave the shop standing until this process is told to end.
    #[arg(long)]
    keep: bool,
    /// Run Prometheus on it at the end, with the rules of this folder.
    #[arg(long, value_name = "DIR")]
    prometheus: Option<PathBuf>,
    /// Draw the dashboards of this folder at the end, after some minutes of traffic.
    #[arg(long, value_name = "DIR", requires_all = ["prometheus", "pictures"])]
    dashboards: Option<PathBuf>,
    /// Folder for the pictures of dashboards.
    #[arg(long, value_name = "DIR", requires = "dashboards")]
    pictures: Option<PathBuf>,
    /// Minutes of traffic that pictures show.
    #[arg(long, value_name = "NUMBER", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
}

/// Exit status when it could not be tried.
const COULD_NOT_RUN: u8 = 2;
/// Exit status after a signal, as shells have it for an interrupt.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let started = Instant::now();
    match run(Arguments::parse(), started) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Plays all scenes on a thread of their own, while this one waits for the end of
/// them or for a signal.
fn run(arguments: Arguments, started: Instant) -> Result<ExitCode> {
    // Before there is any other thread: all of them have it from here.
    let interruption = Interruption::expect()?;
    let premises = Arc::new(Premises::new()?);
    let (ended, end) = io::pipe().context("cannot make a pipe")?;
    let keep = arguments.keep;
    let stage = {
        let premises = Arc::clone(&premises);
        thread::Builder::new()
            .name("scenes".to_owned())
            .spawn(move || {
                let outcome = scenes::play(&arguments, &premises, started);
                drop(end);
                outcome
            })
            .context("cannot start a thread")?
    };
    if interruption.or_end_of(&ended)? {
        // A scene that goes on has nothing to say of workloads that are taken from it.
        std::mem::forget(io::stdout().lock());
        premises.clear();
        // Nobody may be listening any more to what is left standing.
        let _ = writeln!(io::stderr(), "demo: cleaned up");
        return Ok(ExitCode::from(if keep { 0 } else { INTERRUPTED }));
    }
    let outcome = stage
        .join()
        .map_err(|_| anyhow!("a scene came to an unforeseen end"));
    premises.clear();
    let good = outcome??;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
