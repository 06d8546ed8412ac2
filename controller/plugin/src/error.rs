//! Errors as the CNI specification has them.

use std::fmt;

use serde::Serialize;

/// Kinds of failures, by the numbers of the specification; those from 100 on are its
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration is of a version that is not known, or older than the command.
    Version = 1,
    /// A field is not known where every field counts.
    UnsupportedField = 2,
    /// `CNI_*` in the environment is missing or invalid.
    Environment = 4,
    /// Something could not be read or written.
    Io = 5,
    /// The configuration, or a part of it, is not of its form.
    Decode = 6,
    /// The configuration says nothing that can be done.
    NetworkConfig = 7,
    /// The agent does not answer, or has nothing in force yet.
    TryAgainLater = 11,
    /// `STATUS`: no container can be added.
    NotAvailable = 50,
    /// `STATUS`: no container can be added, and some that there are have no connections.
    LimitedConnectivity = 51,
    /// The agent refuses, and says why.
    Refused = 100,
    /// `CHECK`: the attachment is not as it was added.
    NotAsAdded = 101,
}

/// A failure of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The number.
    pub code: Code,
    /// The step that failed.
    pub message: String,
    /// The cause, and what to do; empty when there is nothing to add.
    pub details: String,
}

/// A failure in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Failure {
    /// Makes a failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// Adds why, or what to do.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Returns the object that a runtime reads, in a version of the specification.
    #[must_use]
    pub fn to_json(&self, version: &str) -> String {
        let object = Object {
            cni_version: version,
            code: self.code as u32,
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&object).expect("text and a number are JSON") + "\n"
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.details)
    }
}

impl std::error::Error for Failure {}
