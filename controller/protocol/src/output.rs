//! The answers of an agent: a promise to scripts.
//!
//! Fields are added, never renamed or given another meaning within
//! [`SCHEMA`]. The JSON Schemas in `docs/schemas` are derived from these types.

mod record;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use cofferdam_verdict::verdict::Direction;
#[cfg(feature = "schemas")]
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::words;
pub use record::{FlowEnd, FlowRecord, IcmpKind, RecordType, RuleName, Sent};

/// The version of everything here, first field of every object.
pub const SCHEMA: &str = "cofferdam/v1";

/// The field `schema`: always [`SCHEMA`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schema;

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SCHEMA)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        if text == SCHEMA {
            Ok(Self)
        } else {
            Err(de::Error::custom(format!(
                "schema {text:?} instead of {SCHEMA:?}: command and agent differ in version"
            )))
        }
    }
}

#[cfg(feature = "schemas")]
impl JsonSchema for Schema {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Schema".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({ "const": SCHEMA })
    }
}

/// Returns `true` if something is left out because of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// An error: its subject is not in force.
    Error,
    /// It is in force, and probably not as intended.
    Warning,
}

/// Numbers of lines and columns: 0 is none, which is null in JSON.
pub mod line {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    /// Writes a number, or null.
    ///
    /// # Errors
    /// When the format refuses.
    pub fn serialize<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        Some(*number)
            .filter(|number| *number != 0)
            .serialize(serializer)
    }

    /// Reads a number, or null.
    ///
    /// # Errors
    /// When there is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(0))
    }
}

/// Returns a place as text: file, line and column, without those that there are not.
#[must_use]
pub fn place(file: &str, numbers: &[u32]) -> String {
    let numbers = numbers.iter().take_while(|number| **number != 0);
    numbers.fold(file.to_owned(), |text, number| format!("{text}:{number}"))
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct Diagnostic {
    /// The kind of mistake; keeps its meaning for ever.
    pub code: String,
    /// Returns `true` if something is left out because of it.
    pub severity: Severity,
    /// The file; empty when it is not about one.
    pub file: String,
    /// Line, from 1; null when it is not about a file.
    #[serde(with = "line")]
    #[cfg_attr(feature = "schemas", schemars(with = "Option<u32>"))]
    pub line: u32,
    /// Column, from 1; null when there is no line.
    #[serde(with = "line")]
    #[cfg_attr(feature = "schemas", schemars(with = "Option<u32>"))]
    pub column: u32,
    /// The finding.
    pub message: String,
    /// A hint: what was probably meant, or what to do.
    pub hint: Option<String>,
}

/// Answer of `sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct SyncReport {
    /// The version of this object.
    pub schema: Schema,
    /// Revision in force, 0 when there is none.
    pub revision: u64,
    /// `true` if all that the sources say is in force and has been read back.
    pub enforced: bool,
    /// Documents that count as they are.
    pub accepted: u64,
    /// Documents that do not.
    pub rejected: u64,
    /// Findings.
    pub diagnostics: Vec<Diagnostic>,
}

/// States of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Its verdicts are in force and have been read back.
    Enforced,
    /// Nothing passes.
    DenyAll,
    /// No programs judge on its interface.
    Unmanaged,
}

impl EndpointState {
    /// The word in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::DenyAll => "deny_all",
            Self::Unmanaged => "unmanaged",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Enforced, Self::DenyAll, Self::Unmanaged];
}

/// Answer of `endpoint add`, and an entry of `endpoint list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct EndpointReport {
    /// The version of this object.
    pub schema: Schema,
    /// `namespace/name/interface`; null where nobody has added the workload behind an
    /// interface, or the agent does not know it any more.
    pub id: Option<String>,
    /// The runtime's id of its container; null when it was added without one.
    #[serde(default)]
    pub container_id: Option<String>,
    /// The network that the CNI plugin added it for; null when it was added otherwise.
    #[serde(default)]
    pub network: Option<String>,
    /// Index of its interface on the node's side.
    pub host_ifindex: u32,
    /// Name of its interface on the node's side.
    #[serde(default)]
    pub host_ifname: String,
    /// MAC address of the workload's side; empty where it is not known.
    pub mac: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its state.
    pub state: EndpointState,
    /// `true` if it was removed or replaced: nothing passes until its interface has gone.
    #[serde(default)]
    pub leaving: bool,
    /// Revision in force, 0 when there is none.
    pub revision: u64,
    /// Obstacles that keep it from being enforced, or from being known after a restart of the
    /// agent, and the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl EndpointReport {
    /// Its id, or the name of its interface where it has none.
    #[must_use]
    pub fn called(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.host_ifname)
    }
}

/// Answer of `endpoint list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct EndpointList {
    /// The version of this object.
    pub schema: Schema,
    /// The endpoints, in the order of their names.
    pub endpoints: Vec<EndpointReport>,
}

/// Answer of `endpoint remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct RemoveReport {
    /// The version of this object.
    pub schema: Schema,
    /// Names of the endpoints that there were; none when there was nothing to remove.
    pub removed: Vec<String>,
    /// Those of them whose interface is still there: nothing passes until it has gone.
    #[serde(default)]
    pub leaving: Vec<String>,
}

/// Answer of `bypass`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct BypassReport {
    /// The version of this object.
    pub schema: Schema,
    /// The endpoints that were meant, in the order of their names.
    pub endpoints: Vec<BypassedEndpoint>,
}

/// An endpoint that policy denies nothing, or does again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct BypassedEndpoint {
    /// `namespace/name/interface`.
    pub id: String,
    /// Time until which policy denies it nothing, RFC 3339; null when policy counts again.
    pub until: Option<String>,
}

/// A program on one hook of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct Link {
    /// The hook: `tcx_ingress`, `tcx_egress`, `clsact_ingress`, `clsact_egress`.
    pub hook: String,
    /// Our program there, 0 when there is none.
    pub program_id: u32,
    /// `true` if it is the first there.
    pub first: bool,
    /// `true` if it is as it should be.
    pub ok: bool,
}

/// Use of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct FlowUse {
    /// Entries in use.
    pub used: u64,
    /// Entries there are: room for half as many flows whatever their keys. While no agent
    /// runs, the table does not grow.
    pub capacity: u64,
    /// Entries that the agent lets the table grow to.
    #[serde(default)]
    pub capacity_max: u64,
}

/// An endpoint in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct EndpointStatus {
    /// `namespace/name/interface`; null where nobody has added the workload behind an
    /// interface, or the agent does not know it any more.
    pub id: Option<String>,
    /// Index of its interface on the node's side.
    #[serde(default)]
    pub host_ifindex: u32,
    /// Name of its interface on the node's side.
    #[serde(default)]
    pub host_ifname: String,
    /// Its state.
    pub state: EndpointState,
    /// `true` if it was removed or replaced: nothing passes until its interface has gone.
    #[serde(default)]
    pub leaving: bool,
    /// Programs on its hooks.
    pub links: Vec<Link>,
    /// Time until which policy denies it nothing, RFC 3339; missing when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypassed_until: Option<String>,
    /// Its flow table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowUse>,
    /// Obstacles that keep it from being enforced, and the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Programs of others on its interface, or on the bridge that it is a port of, that can
    /// hide who sent a packet; normally none.
    #[serde(default)]
    pub obstacles: Vec<String>,
}

impl EndpointStatus {
    /// Its id, or the name of its interface where it has none.
    #[must_use]
    pub fn called(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.host_ifname)
    }
}

/// Use of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct Capacity {
    /// Name of the table.
    pub table: String,
    /// Entries in use.
    pub used: u64,
    /// Entries there is room for, 0 where only the size of the whole counts.
    pub max: u64,
    /// Bytes they take.
    pub bytes: u64,
}

/// An interface on which frames are dropped early, or are to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct UplinkStatus {
    /// Its name.
    pub interface: String,
    /// `native` or `generic`; null when frames are not dropped early.
    pub mode: Option<String>,
    /// Reason, if frames are not dropped early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Mode of all policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Packets that they deny are dropped.
    #[default]
    Enforce,
    /// Packets that they deny pass, and are reported.
    Audit,
}

impl Enforcement {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Enforce, Self::Audit];

    /// The word in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

/// Answer of `status --unused-rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct UnusedRules {
    /// The version of this object.
    pub schema: Schema,
    /// Time since which the agent has watched, RFC 3339. A hit that was counted before has this
    /// time or the one of the first look after it.
    pub watched_since: String,
    /// The rules, in the order in which records number them.
    pub rules: Vec<UnusedRule>,
}

/// A rule in force that has decided nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct UnusedRule {
    /// The policy's kind.
    pub kind: String,
    /// The policy's namespace; null of one of the whole cluster.
    pub namespace: Option<String>,
    /// The policy's name.
    pub name: String,
    /// Direction of the rule.
    #[serde(with = "words")]
    #[cfg_attr(
        feature = "schemas",
        schemars(schema_with = "words::schema::<Direction>")
    )]
    pub direction: Direction,
    /// Position among the policy's rules of this direction, from 0.
    pub index: u32,
    /// Its place in a file, or the object of an API server.
    pub file: String,
    /// The line; null of an object.
    #[serde(with = "line")]
    #[cfg_attr(feature = "schemas", schemars(with = "Option<u32>"))]
    pub line: u32,
    /// Time of its last hit, RFC 3339, to ten seconds; null if it never had one.
    pub last_hit: Option<String>,
}

/// Answer of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct StatusReport {
    /// The version of this object.
    pub schema: Schema,
    /// Version of the agent.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Revision in force, 0 when there is none.
    pub revision: u64,
    /// `true` if the newest desired state is in force and has been read back.
    pub enforced: bool,
    /// `true` if `/readyz` says yes.
    pub ready: bool,
    /// Time at which the state in force was last read back, RFC 3339.
    pub verified_at: Option<String>,
    /// Mode of all policies on this node.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Namespaces whose own annotation puts them on audit, in the order of their names.
    #[serde(default)]
    pub audited_namespaces: Vec<String>,
    /// Documents that count as they are.
    pub accepted: u64,
    /// Documents that do not.
    pub rejected: u64,
    /// The endpoints, in the order of their names.
    pub endpoints: Vec<EndpointStatus>,
    /// Interfaces of workloads that nobody has added: packets pass there unjudged.
    #[serde(default)]
    pub unmanaged: Vec<String>,
    /// Use of all tables.
    pub capacity: Vec<Capacity>,
    /// Bytes of the kernel's maps, as the kernel accounts for them.
    pub memory_bytes: u64,
    /// Changes by others that were found and repaired.
    pub tamper_events: u64,
    /// Interfaces by which packets may come in that claim to be a workload's, or leave
    /// unjudged, with the reason; normally none.
    #[serde(default)]
    pub uncleared: Vec<String>,
    /// Interfaces on which frames are dropped early, or are to be.
    #[serde(default)]
    pub uplinks: Vec<UplinkStatus>,
    /// The API server whose objects count as documents; null without one.
    #[serde(default)]
    pub kubernetes: Option<ApiStatus>,
    /// The etcd whose texts count as documents; null without one.
    #[serde(default)]
    pub etcd: Option<Box<EtcdStatus>>,
    /// Programs of others that can hide who sent a packet, with their place; normally none.
    #[serde(default)]
    pub obstacles: Vec<String>,
    /// Mistakes in documents, and what keeps the newest desired state from
    /// being in force.
    pub diagnostics: Vec<Diagnostic>,
}

/// The state of an API server whose objects count as documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct ApiStatus {
    /// `true` once all of its objects have been read since the agent started. Before that
    /// those count that the agent before knew.
    pub complete: bool,
    /// Time since which it has not answered or refuses, RFC 3339; null while it answers.
    pub away_since: Option<String>,
    /// Reason for that.
    pub problem: Option<String>,
    /// Number of objects of each kind.
    pub objects: BTreeMap<String, u64>,
}

/// The state of an etcd whose texts count as documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemas", derive(JsonSchema))]
pub struct EtcdStatus {
    /// `true` once all keys have been read since the agent started. Before that those count that
    /// the agent before knew.
    pub complete: bool,
    /// Host that answers, or did so last, with its port; null before any has.
    pub host: Option<String>,
    /// Time since which no host has answered, or all refuse, RFC 3339; null while one answers.
    pub away_since: Option<String>,
    /// Reason for that.
    pub problem: Option<String>,
    /// Number of keys below `documents/`.
    pub documents: u64,
    /// Number of keys below `endpoints/`, of all nodes.
    pub endpoints: u64,
    /// Number of this node's endpoints whose keys are there under its lease; null if it
    /// publishes none.
    pub published: Option<u64>,
    /// Time since which they cannot be put there or kept, RFC 3339; null while they can.
    pub unpublished_since: Option<String>,
    /// Reason for that.
    pub publish_problem: Option<String>,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.is_empty() {
            let place = place(&self.file, &[self.line, self.column]);
            write!(f, "{place}: ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.code, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
