//! The configuration of the agent: one YAML file, every key optional.
//!
//! Read by the same reader as policies, so that a mistake has its line and column
//! and all mistakes are reported at once. A key that is not known, or a value that
//! nothing here can honour, is an error: a setting that is silently without effect
//! looks like protection.

mod parse;
pub mod units;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cofferdam_dataplane::{Behaviour, IdleTimes};
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::flow::Idle as FlowKind;
use serde::{Serialize, Serializer};

pub use parse::{KEEP, RANGES, parse};

/// What the operator decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Files and directories with documents.
    pub policies: Vec<PathBuf>,
    /// Where the control socket is.
    pub run_dir: PathBuf,
    /// Where the agent keeps what must outlive it.
    pub state_dir: PathBuf,
    /// The directory on a BPF file system for maps, programs and links.
    pub bpffs: PathBuf,
    /// Where metrics and health are served.
    #[serde(serialize_with = "metrics_text")]
    pub metrics: Option<SocketAddr>,
    /// Interfaces for early drop.
    pub uplinks: EarlyDrop,
    /// What there is room for.
    pub limits: Room,
    /// Whether a document that is invalid and never was good is left out even at
    /// the first start.
    pub accept_partial: bool,
    /// Whether the node may always open connections to its workloads.
    pub own_node: OwnNode,
    /// How long after attaching unknown TCP flows are adopted.
    #[serde(serialize_with = "time_text")]
    pub adopt_midstream: Duration,
    /// What drops packets of interfaces that are not adopted yet.
    pub guard: Guard,
    /// How long flows may be idle.
    pub idle: Idle,
    /// The file of flow records.
    pub flow_log: FlowLog,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name in `spec.nodeName` and in Node documents.
    pub name: String,
    /// Its addresses, beside those of its interfaces.
    pub addresses: Vec<IpAddr>,
}

/// What there is room for, fixed when the maps are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Endpoints on this node.
    pub endpoints: u32,
    /// Addresses, and sets of outside addresses.
    pub slots: u32,
    /// Flows of one endpoint.
    pub flows_per_endpoint: u32,
    /// Pages of the decision table, 64 KiB each.
    pub table_pages: u32,
    /// Rules, and sets of policies that isolate.
    pub rules: u32,
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

/// Decision 3 of the semantics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnNode {
    /// The node may always open connections to its workloads.
    Allow,
    /// The node is judged by policy.
    Policy,
}

/// What drops packets of interfaces that are not adopted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Nothing.
    None,
    /// A rule of nftables: packets of veths on which no programs judge are dropped.
    Nftables,
}

/// How long flows may be idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say all there is to say")]
pub struct Idle {
    #[serde(serialize_with = "time_text")]
    pub tcp_established: Duration,
    #[serde(serialize_with = "time_text")]
    pub tcp_embryonic: Duration,
    #[serde(serialize_with = "time_text")]
    pub tcp_closing: Duration,
    #[serde(serialize_with = "time_text")]
    pub udp: Duration,
    #[serde(serialize_with = "time_text")]
    pub udp_one_way: Duration,
    #[serde(serialize_with = "time_text")]
    pub sctp: Duration,
    #[serde(serialize_with = "time_text")]
    pub icmp: Duration,
    #[serde(serialize_with = "time_text")]
    pub other: Duration,
}

/// The file of flow records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowLog {
    /// Its path; empty for none, `-` for standard output.
    pub path: String,
    /// How large it may grow before it is put aside.
    #[serde(serialize_with = "size_text")]
    pub max_bytes: u64,
    /// How many of those put aside are kept.
    pub keep: u32,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        let idle = IdleTimes::default();
        Self {
            node: Node {
                name: host_name(),
                addresses: Vec::new(),
            },
            policies: vec![PathBuf::from("/etc/cofferdam/policies")],
            run_dir: PathBuf::from("/run/cofferdam"),
            state_dir: PathBuf::from("/var/lib/cofferdam"),
            bpffs: PathBuf::from("/sys/fs/bpf/cofferdam"),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            uplinks: EarlyDrop::Names(Vec::new()),
            limits: Room {
                endpoints: limits.endpoints,
                slots: limits.slots,
                flows_per_endpoint: limits.flows_per_endpoint,
                table_pages: limits.table_pages,
                rules: limits.rules,
            },
            accept_partial: false,
            own_node: OwnNode::Allow,
            adopt_midstream: Duration::from_secs(30),
            guard: Guard::None,
            idle: Idle {
                tcp_established: idle.get(FlowKind::TcpEstablished),
                tcp_embryonic: idle.get(FlowKind::TcpEmbryonic),
                tcp_closing: idle.get(FlowKind::TcpClosing),
                udp: idle.get(FlowKind::Udp),
                udp_one_way: idle.get(FlowKind::UdpOneWay),
                sctp: idle.get(FlowKind::Sctp),
                icmp: idle.get(FlowKind::Icmp),
                other: idle.get(FlowKind::Other),
            },
            flow_log: FlowLog {
                path: String::new(),
                max_bytes: 100 << 20,
                keep: 5,
            },
        }
    }
}

/// What the machine calls itself; without a name, what Kubernetes documents cannot
/// mean.
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
            endpoints: self.limits.endpoints,
            slots: self.limits.slots,
            table_pages: self.limits.table_pages,
            rules: self.limits.rules,
            flows_per_endpoint: self.limits.flows_per_endpoint,
            ..Limits::DEFAULT
        }
    }

    /// What the programs are told when they are loaded.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        let idle = &self.idle;
        let idle = IdleTimes::default()
            .with(FlowKind::TcpEstablished, idle.tcp_established)
            .with(FlowKind::TcpEmbryonic, idle.tcp_embryonic)
            .with(FlowKind::TcpClosing, idle.tcp_closing)
            .with(FlowKind::Udp, idle.udp)
            .with(FlowKind::UdpOneWay, idle.udp_one_way)
            .with(FlowKind::Sctp, idle.sctp)
            .with(FlowKind::Icmp, idle.icmp)
            .with(FlowKind::Other, idle.other);
        Behaviour {
            own_node_allowed: self.own_node == OwnNode::Allow,
            idle,
            early_drop: !self.uplinks.is_off(),
        }
    }
}

/// The file that would give this configuration.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_yaml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

fn time_text<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&units::Time(*time))
}

fn size_text<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&units::Size(*bytes))
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
