//! `cofferdam`: the agent and the command line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_controller::cli::main()
}
