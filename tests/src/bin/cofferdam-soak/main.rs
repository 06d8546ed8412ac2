//! Soaks: what the tests do every time, for as long as somebody wants.
//!
//! Each says first where it runs and from which seed, then what is needed to repeat
//! a failure, and in its last line what it came to.
//!
//! Exit status: 0 all was as it must be; 1 something was not; 2 it could not be
//! tried.

mod evasions;
mod faults;
mod flood;
mod flows;
mod load;
mod packets;
mod swaps;
mod verdicts;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use cofferdam_tests::soak::{Tally, heading};

/// Does what the tests do, for as long as somebody wants.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask soak", version)]
struct Arguments {
    #[command(subcommand)]
    soak: Soak,
}

#[derive(Debug, Subcommand)]
enum Soak {
    /// Hold the loaded programs against the oracle, on random policies and packets.
    Verdicts(verdicts::Options),
    /// Try the cases of the public conformance suites with packets, in random order.
    Packets(packets::Options),
    /// Hold flows over both hooks against their model, on random sequences of packets and
    /// changes.
    Flows(flows::Options),
    /// Try evasions and honest traffic with packets, in every setup of a node.
    Evasions(evasions::Options),
    /// Open short flows, more than there is room for at a time.
    Load(load::Options),
    /// Ask for connections in the name of senders that do not exist.
    Flood(flood::Options),
    /// Ask and answer over lasting flows while all tables are replaced.
    Swaps(swaps::Options),
    /// Kill the agent under traffic.
    Kills(faults::Options),
    /// Let workloads come up with a process inside that sends before it is adopted.
    Starts(faults::Options),
    /// Change what the agent has put in force behind its back.
    Tamper(faults::Options),
    /// Let endpoints come and go by the plugin, some calls of which are killed.
    Churn(faults::Options),
    /// Damage the agent's state files.
    State(faults::Options),
    /// Have system calls of the agent fail, let it stand still, and follow it with others.
    Faults(faults::Options),
}

/// Exit status when it could not be tried.
const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    match run(&Arguments::parse().soak) {
        Ok(tally) if tally.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn run(soak: &Soak) -> Result<Tally> {
    let mut output = io::stdout().lock();
    let tally = match soak {
        Soak::Verdicts(options) => {
            writeln!(output, "{}", heading("verdicts", options.seed))?;
            verdicts::run(options, &mut output)?
        }
        Soak::Packets(options) => {
            writeln!(output, "{}", heading("packets", options.seed))?;
            packets::run(options, &mut output)?
        }
        Soak::Flows(options) => {
            writeln!(output, "{}", heading("flows", options.seed))?;
            flows::run(options, &mut output)?
        }
        Soak::Evasions(options) => {
            writeln!(output, "{}", heading("evasions", options.seed))?;
            evasions::run(options, &mut output)?
        }
        Soak::Load(options) => {
            writeln!(output, "{}", heading("load", options.seed))?;
            load::run(options, &mut output)?
        }
        Soak::Flood(options) => {
            writeln!(output, "{}", heading("flood", options.seed))?;
            flood::run(options, &mut output)?
        }
        Soak::Swaps(options) => {
            writeln!(output, "{}", heading("swaps", options.seed))?;
            swaps::run(options, &mut output)?
        }
        Soak::Kills(options) => {
            writeln!(output, "{}", heading("kills", options.seed))?;
            faults::kill(options, &mut output)?
        }
        Soak::Starts(options) => {
            writeln!(output, "{}", heading("starts", options.seed))?;
            faults::start(options, &mut output)?
        }
        Soak::Tamper(options) => {
            writeln!(output, "{}", heading("tamper", options.seed))?;
            faults::tamper(options, &mut output)?
        }
        Soak::Churn(options) => {
            writeln!(output, "{}", heading("churn", options.seed))?;
            faults::churn(options, &mut output)?
        }
        Soak::Faults(options) => {
            writeln!(output, "{}", heading("faults", options.seed))?;
            faults::fail(options, &mut output)?
        }
        Soak::State(options) => {
            writeln!(output, "{}", heading("state", options.seed))?;
            faults::state(options, &mut output)?
        }
    };
    writeln!(output, "{tally}")?;
    Ok(tally)
}
