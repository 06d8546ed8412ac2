//! What goes over the control socket: a JSON object a line, both ways.
//!
//! A connection carries one request. The agent answers with one line, or, to
//! [`Request::Observe`], with a line for each record and [`Reply::End`]. Command
//! line and agent are one binary; the version is there for an agent that was not
//! restarted after an upgrade.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::explain::Question;
use crate::output::reach::ExplainReport;
use crate::output::{
    EndpointList, EndpointReport, FlowRecord, RecordType, RemoveReport, StatusReport, SyncReport,
};

/// Version of the requests.
pub const VERSION: u32 = 1;

/// Longest request, in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// The control socket in a run directory.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// One request with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// What may be asked of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Read all sources again, and answer when they are in force.
    Sync,
    /// What is in force.
    Status {
        /// Answer when it is enforced, or after so many milliseconds.
        wait_enforced_ms: Option<u64>,
    },
    /// Put an endpoint in force, or give it other labels.
    EndpointAdd(EndpointSpec),
    /// Take a workload's endpoints out of force.
    EndpointRemove(Removal),
    /// All endpoints.
    EndpointList,
    /// Why one end reaches another, by what is in force.
    Explain(Question),
    /// Flow records.
    Observe(Observation),
}

/// Which flow records are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// At most so many of the past, the newest.
    pub last: Option<u64>,
    /// Of the past only those of so many milliseconds.
    pub since_ms: Option<u64>,
    /// Go on with those to come.
    pub follow: bool,
    /// Only those of this type. Left out when there is none, for an older agent.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RecordType>,
}

impl Observation {
    /// Whether a record is of the type that is asked for.
    #[must_use]
    pub fn is_for(&self, record: &FlowRecord) -> bool {
        self.kind.is_none_or(|kind| record.kind == kind.as_str())
    }
}

/// The endpoints that are to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub name: String,
    /// Only the one on this interface.
    pub interface: Option<String>,
    /// Only those of this container. Left out when there is none, for an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Open their interfaces instead of keeping them closed. Left out when it is not
    /// asked for, for an older agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release: bool,
}

/// An endpoint as the caller knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// Path of the workload's network namespace.
    pub netns: PathBuf,
    /// Its interface there.
    pub interface: String,
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub name: String,
    /// The runtime's id of the container. Left out when there is none, for an older
    /// agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Its labels, unless a Pod document has them.
    pub labels: BTreeMap<String, String>,
    /// Its addresses; empty for those it has as an endpoint already, or else those on the
    /// interface.
    pub addresses: Vec<IpAddr>,
    /// Its ports with names, unless a Pod document has them.
    pub ports: Vec<PortSpec>,
}

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub number: u16,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Sync`].
    Sync(SyncReport),
    /// To [`Request::Status`].
    Status(StatusReport),
    /// To [`Request::EndpointAdd`].
    Endpoint(EndpointReport),
    /// To [`Request::EndpointRemove`].
    Removed(RemoveReport),
    /// To [`Request::EndpointList`].
    Endpoints(EndpointList),
    /// To [`Request::Explain`].
    Explanation(Box<ExplainReport>),
    /// To [`Request::Explain`]: the question is about nothing.
    NotExplained {
        /// Why, and what was probably meant.
        message: String,
    },
    /// To [`Request::Observe`], many times.
    Record(Box<FlowRecord>),
    /// The last to [`Request::Observe`].
    End,
    /// To any: it was not done.
    Failed {
        /// Why, and what to do.
        message: String,
    },
}
