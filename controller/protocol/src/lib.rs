//! The lines that go over an agent's control socket: a JSON object each, both ways.
//!
//! A connection carries one request. The agent answers with one line, or, to
//! [`Request::Observe`], with a line for each record and [`Reply::End`]. Agent and
//! command line are one binary, the CNI plugin is another; the version is there for an
//! agent that was not restarted after an upgrade.
//!
//! Invariant: a program that only talks to an agent needs nothing but this crate and the
//! verdict crate's words, neither the compiler nor the kernel side.

#![forbid(unsafe_code)]

pub mod filter;
pub mod flow_log;
pub mod names;
pub mod node_status;
pub mod output;
pub mod removals;
pub mod words;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use filter::Filter;
use output::{
    BypassReport, EndpointList, EndpointReport, FlowRecord, RemoveReport, StatusReport, SyncReport,
    UnusedRules,
};

/// Version of the requests.
pub const VERSION: u32 = 1;

/// Versions of the CNI specification that the plugin knows, oldest first.
pub const CNI_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

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
    /// The question.
    pub request: Request,
}

/// Questions and orders to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Read all sources again, and answer when they are in force.
    Sync,
    /// The state in force.
    Status {
        /// Answer when it is enforced, or after so many milliseconds.
        wait_enforced_ms: Option<u64>,
    },
    /// Put an endpoint in force, or give it other labels.
    EndpointAdd(Box<EndpointSpec>),
    /// Take a workload's endpoints out of force.
    EndpointRemove(Removal),
    /// Take the endpoints of an attachment out of force.
    Detach(Attachment),
    /// Take the endpoints of a network out of force, but for those of valid attachments.
    Collect(Collection),
    /// All endpoints.
    EndpointList,
    /// Rules that have decided nothing.
    UnusedRules {
        /// For so many milliseconds; never, if left out.
        since_ms: Option<u64>,
    },
    /// The verdict in force between two ends, and the way to it.
    Explain(Question),
    /// The verdict in force for the ends, the port and the direction of a flow record.
    ExplainRecord(Box<FlowRecord>),
    /// Flow records.
    Observe(Observation),
    /// Let policy deny endpoints nothing for a time, or let it count again.
    Bypass(Bypass),
}

/// Endpoints that policy is to deny nothing, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bypass {
    /// `namespace/name` of a workload, or the whole id of an endpoint; none for all.
    pub endpoint: Option<String>,
    /// Milliseconds from now; 0 ends it.
    pub for_ms: u64,
}

/// Longest time of [`Request::Bypass`], in milliseconds: a day.
pub const MAX_BYPASS_MS: u64 = 24 * 60 * 60 * 1000;

/// A question about two ends, for [`Request::Explain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// Protocol and port: `tcp/443`.
    pub port: String,
    /// Address family, 4 or 6; `None` for that of an ICMP probe, else the first that both ends
    /// have.
    pub family: Option<u8>,
    /// Addresses of outside hosts.
    pub externals: BTreeMap<String, Vec<IpAddr>>,
}

/// The flow records that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// At most so many of the past, the newest.
    pub last: Option<u64>,
    /// Only those from this time on: UTC with nanoseconds, as records have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only those up to this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Go on with those to come.
    pub follow: bool,
    /// Only those that it lets through.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// Leave out what the flow log has, and answer with [`Reply::FlowLog`] first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_log: bool,
}

impl Observation {
    /// Returns `true` if a record is asked for.
    #[must_use]
    pub fn is_for(&self, record: &FlowRecord) -> bool {
        // Times of records are all written alike: their texts compare as they do.
        self.since
            .as_ref()
            .is_none_or(|since| record.time >= *since)
            && self
                .until
                .as_ref()
                .is_none_or(|until| record.time <= *until)
            && self.filter.is_for(record)
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

/// An attachment of a container to a network, as the CNI specification identifies it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The runtime's id of the container.
    pub container_id: String,
    /// The interface that the runtime asked for.
    pub interface: String,
}

/// The attachments of a network that a runtime still knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
    /// The network.
    pub network: String,
    /// Its valid attachments.
    pub valid: Vec<Attachment>,
}

/// The network that an endpoint was added for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The network's name.
    pub network: String,
    /// The interface of the attachment. Other interfaces of the endpoint's container may
    /// belong to the same attachment.
    pub interface: String,
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
    /// The network that it is added for. Left out when there is none, for an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_of: Option<Membership>,
    /// The pod that a kubelet starts: its labels are those that an API server has, and nobody
    /// else's. Left out when there is none, for an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSpec>,
    /// Its labels, unless a Pod document has them.
    pub labels: BTreeMap<String, String>,
    /// Its addresses; empty for those it has as an endpoint already, or else those on the
    /// interface.
    pub addresses: Vec<IpAddr>,
    /// Its ports with names, unless a Pod document has them.
    pub ports: Vec<PortSpec>,
}

/// A pod that a kubelet starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// Its id, where the runtime tells it: another pod may have had the name before.
    pub uid: Option<String>,
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

/// Returns a path as the agent can open it: `/proc/self` is another process there.
///
/// # Errors
/// If the path is relative and there is no current directory.
pub fn for_the_agent(path: &Path) -> io::Result<PathBuf> {
    let own = format!("/proc/{}", std::process::id());
    for prefix in ["/proc/self", "/proc/thread-self"] {
        if let Ok(rest) = path.strip_prefix(prefix) {
            return Ok(Path::new(&own).join(rest));
        }
    }
    std::path::absolute(path)
}

/// An answer. `Explanation` is what [`Request::Explain`] is answered with, which only the
/// agent and the command line know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<Explanation = serde::de::IgnoredAny> {
    /// To [`Request::Sync`].
    Sync(SyncReport),
    /// To [`Request::Status`].
    Status(StatusReport),
    /// To [`Request::EndpointAdd`].
    Endpoint(EndpointReport),
    /// To [`Request::EndpointRemove`], [`Request::Detach`] and [`Request::Collect`].
    Removed(RemoveReport),
    /// To [`Request::EndpointList`].
    Endpoints(EndpointList),
    /// To [`Request::UnusedRules`].
    UnusedRules(UnusedRules),
    /// To [`Request::Bypass`].
    Bypassed(BypassReport),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Request::Explain`]: the question is about nothing.
    NotExplained {
        /// The cause, and what was probably meant.
        message: String,
    },
    /// To [`Request::Observe`], first of all if it was asked for and there is a flow log.
    FlowLog {
        /// Its file.
        path: PathBuf,
        /// Time up to which records are in its files alone: the agent does not send them.
        until: String,
    },
    /// To [`Request::Observe`], many times.
    Record(Box<FlowRecord>),
    /// The last to [`Request::Observe`].
    End,
    /// To [`Request::EndpointAdd`]: something is not known yet that will be.
    TryAgain {
        /// The cause.
        message: String,
    },
    /// To any: it was not done.
    Failed {
        /// The cause, and what to do.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_caller_becomes_one_that_the_agent_can_open() {
        let own = for_the_agent(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(
            own,
            PathBuf::from(format!("/proc/{}/ns/net", std::process::id()))
        );
        assert!(for_the_agent(Path::new("n")).unwrap().is_absolute());
        let other = Path::new("/run/netns/a");
        assert_eq!(for_the_agent(other).unwrap(), other);
    }
}
