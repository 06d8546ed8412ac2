//! The chained CNI plugin: tells the agent of a node which containers a runtime attaches
//! to a network, and returns when their verdicts are in force.
//!
//! It stands behind a plugin that makes interfaces, changes none of them, and passes the
//! result of the plugins before it on as it is. The agent does the rest; nothing but its
//! control socket and a note for it ([`cofferdam_protocol::removals`]) is written.
//!
//! Runtimes that make networks without CNI plugins call it as a hook instead (`oci-hook`).
//!
//! Invariant, closed: `ADD` succeeds only with the agent's word that the verdicts of every
//! interface of the attachment are in force.
//!
//! Invariant: whatever the runtime passes, the plugin ends with a result or an error of the
//! CNI specification, on standard output.

#![forbid(unsafe_code)]

pub mod client;
mod commands;
pub mod config;
pub mod environment;
pub mod error;
mod hook;
pub mod labels;
pub mod previous;
mod sandbox;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use config::{Config, NEWEST, RUN_DIR};
use environment::{Command, Environment};
use error::{Code, Failure};

/// Longest configuration, in bytes. Annotations of a pod, the most of it, are at most
/// 256 KiB.
const MAX_INPUT: u64 = 4 << 20;

/// Runs the plugin on the environment, arguments and standard input of the process.
#[must_use]
pub fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(MAX_INPUT + 1)
        .read_to_end(&mut input);
    let read = read.map_err(|error| {
        Failure::new(Code::Io, "cannot read the input").with_details(error.to_string())
    });
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == hook::WORD) {
        let run_dir = arguments.next().unwrap_or_else(|| RUN_DIR.into());
        let done = read.and_then(|_| hook::run(Path::new(&run_dir), text(&input)?));
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // Runtimes show the hook's words where they say that it failed.
                _ = writeln!(std::io::stderr(), "{}: {failure}", hook::WORD);
                ExitCode::FAILURE
            }
        };
    }
    let done = match read {
        Ok(_) => run(&Environment::of_process(), &input),
        Err(failure) => Err((NEWEST.to_owned(), failure)),
    };
    let (text, status) = match done {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err((version, failure)) => (failure.to_json(&version), ExitCode::FAILURE),
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs the plugin. Returns what goes to standard output.
///
/// # Errors
/// The failure, with the version of the specification to say it in.
pub fn run(environment: &Environment, input: &[u8]) -> Result<String, (String, Failure)> {
    let in_newest = |failure| (NEWEST.to_owned(), failure);
    let command = environment.command().map_err(in_newest)?;
    if command == Command::Version {
        bounded(input).map_err(in_newest)?;
        return commands::version(input).map_err(in_newest);
    }
    let config = text(input).and_then(Config::parse).map_err(in_newest)?;
    let version = config.version().to_owned();
    commands::run(command, environment, &config).map_err(|failure| (version, failure))
}

fn bounded(input: &[u8]) -> Result<(), Failure> {
    if input.len() as u64 > MAX_INPUT {
        let message = format!("the input is longer than {MAX_INPUT} bytes");
        return Err(Failure::new(Code::Decode, message));
    }
    Ok(())
}

fn text(input: &[u8]) -> Result<&str, Failure> {
    bounded(input)?;
    std::str::from_utf8(input).map_err(|error| {
        Failure::new(Code::Decode, "the input is not UTF-8").with_details(error.to_string())
    })
}
