//! The two ways a verb can end without success.
//!
//! "The answer is no" is a [`Failed`]; every other error means that the question
//! could not be put. Scripts tell them apart by the exit status, so the two are
//! never mixed: a missing tool is not a failed test.

use std::{fmt, process::ExitStatus};

/// Exit status when something could not be tried at all.
pub(crate) const COULD_NOT_RUN: u8 = 2;

/// A check ran and said no.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Exit status to leave with, never 0.
    status: u8,
    message: String,
}

impl Failed {
    /// A check of our own said no.
    pub(crate) fn error(message: impl Into<String>) -> anyhow::Error {
        Self::with_status(1, message)
    }

    /// A program ended with `status`, which becomes ours.
    pub(crate) fn with_status(status: u8, message: impl Into<String>) -> anyhow::Error {
        Self {
            status: status.max(1),
            message: message.into(),
        }
        .into()
    }

    /// A "no" with `status` that has been explained already.
    pub(crate) fn said(status: u8) -> anyhow::Error {
        Self::with_status(status, "")
    }

    /// `program` ended with `status`, which becomes ours; a program that a signal
    /// ended has none, and counts as 1.
    pub(crate) fn program(program: &str, status: ExitStatus) -> anyhow::Error {
        let code = status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1);
        Self::with_status(code, format!("{program} failed ({status})"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// The exit status that tells `error` to whoever called.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<Failed>()
        .map_or(COULD_NOT_RUN, |failed| failed.status)
}

/// Tells what went wrong, unless that has been done.
pub(crate) fn tell(error: &anyhow::Error) {
    let text = format!("{error:#}");
    if !text.is_empty() {
        eprintln!("xtask: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_keeps_the_status_of_the_runner() {
        assert_eq!(exit_status(&Failed::with_status(101, "tests failed")), 101);
        assert_eq!(exit_status(&Failed::error("no")), 1);
        assert_eq!(
            exit_status(&Failed::with_status(0, "a failure is never 0")),
            1
        );
    }

    #[test]
    fn everything_else_could_not_run() {
        assert_eq!(exit_status(&anyhow::anyhow!("no such file")), COULD_NOT_RUN);
    }

    #[test]
    fn context_does_not_hide_a_no() {
        let error = Failed::with_status(101, "tests failed").context("on Linux 6.1");
        assert_eq!(exit_status(&error), 101);
    }
}
