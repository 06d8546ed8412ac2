//! The configuration of the agent: one YAML file, every key optional.
//!
//! Read by the same reader as policies, so that a mistake has its line and column
//! and all mistakes are reported at once. A key that is not known, or a value that
//! nothing here can honour, is an error: a setting that is silently without effect
//! looks like protection.
//!
//! The structs are the one place where a key is named and described ([`reference`]).

mod file;
mod parse;
mod quantities;
pub mod reference;
mod reload;
mod setting;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cofferdam_dataplane::{Behaviour, IdleTimes};
use cofferdam_policies::patterns;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::flow::Idle as FlowKind;
use cofferdam_verdict::verdict::MAX_RULE;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

pub use file::{ConfigError, Given};
pub use parse::parse;
pub use quantities::{Count, Size, Time};

use setting::section;

section! {
    /// The configuration of the agent; every key has a default.
    pub struct Config {
        /// The node that the agent runs on.
        pub node: Node,
        /// Files and directories of documents: policies, and the namespaces, pods, nodes and
        /// Services that they speak of. Read again on reload.
        #[schemars(inner(length(min = 1)))]
        pub policies: Vec<PathBuf>,
        /// Directory of the control socket.
        #[schemars(length(min = 1))]
        pub run_dir: PathBuf,
        /// Directory of the files that the agent needs after a restart.
        #[schemars(length(min = 1))]
        pub state_dir: PathBuf,
        /// Directory on a BPF file system for maps, programs and links.
        #[schemars(length(min = 1))]
        pub bpffs: PathBuf,
        /// Address of the HTTP server of metrics and health; `""` for none.
        #[serde(serialize_with = "metrics_text")]
        #[schemars(with = "String")]
        pub metrics: Option<SocketAddr>,
        /// Most series of metrics that name policies or workloads; those beyond it are one
        /// series, whose labels say `overflow`.
        pub metrics_series: Count<0, 1_000_000>,
        /// Interfaces on which XDP drops frames that no workload here takes in: names, or
        /// `auto` for every device whose driver can. Read again on reload, except where it
        /// was `[]`: only a start loads the programs for it.
        pub uplinks: EarlyDrop,
        /// API server of Kubernetes whose objects count as documents.
        pub kubernetes: Kubernetes,
        /// Capacity of the kernel's maps, which are made for it.
        pub limits: Room,
        /// Publish without an invalid document, even if no version of it was ever good and
        /// nothing is in force yet. Read again on reload.
        pub accept_partial: bool,
        /// Rule for connections that the node opens to its own workloads.
        pub own_node: OwnNode,
        /// Time after attaching in which unknown TCP flows are adopted; `0s` is never. Read
        /// again on reload, for interfaces that come after it.
        pub adopt_midstream: Time<0>,
        /// Guard that drops packets of interfaces that the agent has not adopted yet.
        pub guard: Guard,
        /// Times after which an idle flow is forgotten.
        pub idle: Idle,
        /// File of flow records; of no effect yet.
        pub flow_log: FlowLog,
    }
}

section! {
    /// The node that the agent runs on.
    pub struct Node {
        /// Name of the node in `spec.nodeName` of Pod documents and in Node documents; the
        /// host's name by default.
        #[schemars(regex(pattern = patterns::SUBDOMAIN), length(max = 253))]
        pub name: String,
        /// Addresses of the node beside those of its interfaces, such as one that a router
        /// translates to it. Read again on reload.
        #[schemars(inner(regex(pattern = patterns::address())))]
        pub addresses: Vec<IpAddr>,
    }
}

section! {
    /// API server of Kubernetes whose objects count as documents.
    pub struct Kubernetes {
        /// Follow the API server. Files beside it go on counting.
        pub enabled: bool,
        /// Path of the kubeconfig; `""` for the service account of the pod that the agent
        /// runs in. Its credentials are a token, a token's file or a client certificate: the
        /// agent runs no programs.
        pub kubeconfig: String,
        /// Longest wait of a pod that a kubelet starts for the labels that the API server has
        /// of it. Then the plugin says to try again.
        pub wait: Time<0>,
    }
}

section! {
    /// Capacity of the kernel's maps.
    #[derive(Copy)]
    pub struct Room {
        /// Endpoints on this node.
        pub endpoints: Count<1, 4096>,
        /// Addresses, and sets of outside addresses.
        pub slots: Count<64, { 1 << 24 }>,
        /// Flows of one endpoint.
        pub flows_per_endpoint: Count<16, { 1 << 22 }>,
        /// Pages of the decision table, 64 KiB each.
        pub table_pages: Count<2, 16_384>,
        /// Rules of policies, and sets of policies that isolate.
        pub rules: Count<2, { MAX_RULE + 1 }>,
    }
}

section! {
    /// Times after which an idle flow is forgotten.
    #[derive(Copy)]
    pub struct Idle {
        /// TCP, while it is open.
        pub tcp_established: Time<1>,
        /// TCP, before it is open.
        pub tcp_embryonic: Time<1>,
        /// TCP, once one end has closed it.
        pub tcp_closing: Time<1>,
        /// UDP that was answered.
        pub udp: Time<1>,
        /// UDP that was not answered.
        pub udp_one_way: Time<1>,
        /// SCTP.
        pub sctp: Time<1>,
        /// ICMP of either family.
        pub icmp: Time<1>,
        /// Other protocols.
        pub other: Time<1>,
    }
}

section! {
    /// File of flow records.
    pub struct FlowLog {
        /// Path of the file; `""` for none, `-` for standard output.
        pub path: String,
        /// Size at which the file is put aside.
        pub max_bytes: Size,
        /// Number of files put aside that are kept.
        pub keep: Count<0, 1000>,
    }
}

/// Interfaces on which frames are dropped early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlyDrop {
    /// Every device whose driver can.
    Auto,
    /// Those of these names, behind the driver where that cannot.
    Names(Vec<String>),
}

impl EarlyDrop {
    /// Returns `true` if there is none.
    #[must_use]
    pub fn is_off(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }
}

impl Serialize for EarlyDrop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

impl JsonSchema for EarlyDrop {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EarlyDrop".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let name = json_schema!({ "type": "string", "minLength": 1, "maxLength": 15 });
        json_schema!({ "oneOf": [{ "const": "auto" }, { "type": "array", "items": name }] })
    }
}

/// Decision 3 of the semantics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OwnNode {
    /// They are always allowed.
    Allow,
    /// Policy decides.
    Policy,
}

/// Guard that drops packets of interfaces that the agent has not adopted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Nothing drops them.
    None,
    /// A rule of nftables: packets of veths on which no programs judge are dropped.
    Nftables,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: Node::default(),
            policies: vec![PathBuf::from("/etc/cofferdam/policies")],
            run_dir: PathBuf::from("/run/cofferdam"),
            state_dir: PathBuf::from("/var/lib/cofferdam"),
            bpffs: PathBuf::from("/sys/fs/bpf/cofferdam"),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            metrics_series: Count(10_000),
            uplinks: EarlyDrop::Names(Vec::new()),
            kubernetes: Kubernetes::default(),
            limits: Room::default(),
            accept_partial: false,
            own_node: OwnNode::Allow,
            adopt_midstream: Time(Duration::from_secs(30)),
            guard: Guard::None,
            idle: Idle::default(),
            flow_log: FlowLog::default(),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: host_name(),
            addresses: Vec::new(),
        }
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            enabled: false,
            kubeconfig: String::new(),
            wait: Time(Duration::from_secs(2)),
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            endpoints: Count(limits.endpoints),
            slots: Count(limits.slots),
            flows_per_endpoint: Count(limits.flows_per_endpoint),
            table_pages: Count(limits.table_pages),
            rules: Count(limits.rules),
        }
    }
}

impl Default for Idle {
    fn default() -> Self {
        let idle = IdleTimes::default();
        let of = |kind| Time(idle.get(kind));
        Self {
            tcp_established: of(FlowKind::TcpEstablished),
            tcp_embryonic: of(FlowKind::TcpEmbryonic),
            tcp_closing: of(FlowKind::TcpClosing),
            udp: of(FlowKind::Udp),
            udp_one_way: of(FlowKind::UdpOneWay),
            sctp: of(FlowKind::Sctp),
            icmp: of(FlowKind::Icmp),
            other: of(FlowKind::Other),
        }
    }
}

impl Default for FlowLog {
    fn default() -> Self {
        Self {
            path: String::new(),
            max_bytes: Size(100 << 20),
            keep: Count(5),
        }
    }
}

/// Returns the host's name if Kubernetes documents can name a node so; else `localhost`.
fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .map(|name| name.to_lowercase())
        .filter(|name| cofferdam_policies::names::subdomain(name).is_ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

impl Config {
    /// The sizes of the kernel's maps.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            endpoints: self.limits.endpoints.0,
            slots: self.limits.slots.0,
            table_pages: self.limits.table_pages.0,
            rules: self.limits.rules.0,
            flows_per_endpoint: self.limits.flows_per_endpoint.0,
            ..Limits::DEFAULT
        }
    }

    /// Settings that the programs are loaded with.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        let idle = &self.idle;
        let idle = IdleTimes::default()
            .with(FlowKind::TcpEstablished, idle.tcp_established.0)
            .with(FlowKind::TcpEmbryonic, idle.tcp_embryonic.0)
            .with(FlowKind::TcpClosing, idle.tcp_closing.0)
            .with(FlowKind::Udp, idle.udp.0)
            .with(FlowKind::UdpOneWay, idle.udp_one_way.0)
            .with(FlowKind::Sctp, idle.sctp.0)
            .with(FlowKind::Icmp, idle.icmp.0)
            .with(FlowKind::Other, idle.other.0);
        Behaviour {
            own_node_allowed: self.own_node == OwnNode::Allow,
            idle,
            early_drop: !self.uplinks.is_off(),
        }
    }
}

fn metrics_text<S: Serializer>(
    address: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(""),
    }
}

/// A configuration in which every key that can be changed has another value than by default.
#[cfg(test)]
const OTHERS: &str = r#"
node: {name: n1, addresses: [10.0.0.1, "fd00::1"]}
policies: [/a, b.yaml]
run_dir: /r
state_dir: /s
bpffs: /b
metrics: 127.0.0.1:1
metrics_series: 2
uplinks: [eth0]
kubernetes: {enabled: true, kubeconfig: /k, wait: 1s}
limits: {endpoints: 8, slots: 4096, flows_per_endpoint: 512, table_pages: 16, rules: 9}
accept_partial: true
own_node: policy
adopt_midstream: 0s
idle: {tcp_established: 1h, tcp_embryonic: 2s, tcp_closing: 3s, udp: 4s, udp_one_way: 5s, sctp: 6m, icmp: 7s, other: 1500ms}
flow_log: {max_bytes: 1MiB, keep: 2}
"#;
