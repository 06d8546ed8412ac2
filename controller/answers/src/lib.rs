//! Turns what the crates of `policies` say into the protocol's answers.
//!
//! Agent and command line give the same answer to the same question: the agent about what
//! is in force, the command line about documents. This crate knows reach, rules and
//! findings as those crates have them. It must not know kernel, files or clock, nor how an
//! answer is printed.
//!
//! Invariant: an answer depends on its arguments alone.

#![forbid(unsafe_code)]

pub mod connectivity;
pub mod explain;
pub mod exposure;
pub mod graph;
pub mod reach;
pub mod record;
pub mod replay;

use cofferdam_protocol::output::{Diagnostic, Severity};
use cofferdam_syntax::diagnostic;

/// An answer of the agent, with the explanations that the CNI plugin does not know.
pub type Reply = cofferdam_protocol::Reply<reach::ExplainReport>;

/// Reports a finding about documents.
#[must_use]
pub fn diagnostic(found: &diagnostic::Diagnostic) -> Diagnostic {
    Diagnostic {
        code: found.code.as_str().to_owned(),
        severity: match found.severity {
            diagnostic::Severity::Error => Severity::Error,
            diagnostic::Severity::Warning => Severity::Warning,
        },
        file: found.place.file.to_string(),
        line: found.place.line,
        column: found.place.column,
        message: found.message.clone(),
        hint: found.hint.clone(),
    }
}
