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

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cofferdam_dataplane::{Behaviour, IdleTimes};
use cofferdam_inventory::Mode;
use cofferdam_protocol::output::RecordType;
use cofferdam_sources::etcd::{self, Credentials, Password};
use cofferdam_syntax::patterns;
use cofferdam_telemetry::outputs::{Collector, Uri};
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::flow::Idle as FlowKind;
use cofferdam_verdict::verdict::MAX_RULE;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

pub use file::{ConfigError, Given};
pub use parse::parse;
pub use quantities::{Count, Size, Time, duration};

use setting::section;

section! {
    /// The configuration of the agent; every key has a default.
    pub struct Config {
        /// The node that the agent runs on.
        pub node: Node,
        /// Files and directories of documents: policies, and the namespaces, pods, nodes and
        /// Services that they speak of. One entry may be an etcd that documents are read from,
        /// `etcd://HOST[:PORT][,HOST[:PORT]]/PREFIX`. Read again on reload, but for the etcd.
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
        /// Second address of the HTTP server, over TLS, for callers from other machines.
        pub metrics_tls: MetricsTls,
        /// Labels of workloads in metrics: `namespace`, `workload`, or keys of labels, of which
        /// the first that a workload has counts: `app|app.kubernetes.io/name`. Each makes more
        /// series; by default there are none.
        #[schemars(length(max = 16), inner(length(min = 1)))]
        pub metrics_labels: Vec<String>,
        /// Most series of metrics that name policies or workloads; those beyond it are one
        /// series, whose labels say `overflow`.
        pub metrics_series: Count<0, 1_000_000>,
        /// Distinct ports or peers at which a workload may be denied within a minute; with more
        /// it is said to scan. 0 is for none.
        pub port_scan_limit: Count<0, 256>,
        /// Interfaces on which XDP drops frames that no workload here takes in: names, or
        /// `auto` for every device whose driver can. Read again on reload, except where it
        /// was `[]`: only a start loads the programs for it.
        pub uplinks: EarlyDrop,
        /// API server of Kubernetes whose objects count as documents.
        pub kubernetes: Kubernetes,
        /// Store of documents and endpoints that nodes share without Kubernetes.
        pub etcd: Etcd,
        /// Mode of all policies. Read again on reload. An annotation of a namespace,
        /// `cofferdam.dev/enforcement`, puts that namespace alone on audit.
        pub enforcement: Enforcement,
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
        /// File of flow records, a line of JSON each.
        pub flow_log: FlowLog,
        /// Other places that flow records are sent to: `to` is `syslog` or `otlp`, `address`
        /// is `unix:/dev/log`, `udp:HOST:PORT` or `tcp:HOST:PORT` of a syslog and
        /// `http://HOST:PORT` of an OpenTelemetry collector, and `types` are the types of
        /// records, none for all.
        pub outputs: Vec<Destination>,
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
    /// Second address of the HTTP server, over TLS, for callers from other machines. A caller
    /// needs a certificate. Files are PEM, and are read again when they have changed.
    #[derive(Default)]
    pub struct MetricsTls {
        /// Address to serve at, such as `0.0.0.0:9465`; `""` for none.
        #[serde(serialize_with = "metrics_text")]
        #[schemars(with = "String")]
        pub address: Option<SocketAddr>,
        /// Path of the server's certificate, with those between it and its authority.
        pub certificate: String,
        /// Path of the certificate's private key.
        pub key: String,
        /// Path of the authorities whose certificates callers need.
        pub client_ca: String,
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
        /// Write a NodeStatus of this node, where its definition is installed, and Events about
        /// policies and pods that are not in force as they are written.
        pub report: bool,
        /// Put the taint `cofferdam.dev/agent-not-ready` on this node if the agent is not ready
        /// when it starts, and take it off when the agent is ready.
        pub taint: bool,
    }
}

section! {
    /// Etcd that nodes share without Kubernetes. Its address is an entry of `policies`.
    pub struct Etcd {
        /// Put the endpoints of this node there, for other nodes, and its status.
        pub publish: bool,
        /// Life of the lease that they are put under, in whole seconds. Other nodes forget the
        /// endpoints of an agent that has been dead or cut off for so long.
        pub lease: Time<2>,
        /// File of the certificate authority of the servers, PEM. With one, or with `etcds://`,
        /// nothing but TLS is spoken.
        pub ca: String,
        /// File of the agent's own certificate, PEM; `""` for none.
        pub certificate: String,
        /// File of that certificate's key, PEM.
        pub key: String,
        /// User of etcd's authentication; `""` for none.
        pub username: String,
        /// File of that user's password.
        pub password_file: String,
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
    /// File of flow records, a line of JSON each.
    pub struct FlowLog {
        /// Path of the file; `""` for none, `-` for standard output.
        pub path: String,
        /// Size at which the file is put aside, with `.1` behind its name.
        pub max_bytes: Size,
        /// Number of files put aside that are kept.
        pub keep: Count<0, 1000>,
    }
}

section! {
    /// A place that flow records are sent to.
    pub struct Destination {
        /// Form of the messages.
        pub to: Form,
        /// Receiver: `unix:PATH`, `udp:HOST:PORT`, `tcp:HOST:PORT` or `http://HOST:PORT`.
        pub address: Address,
        /// Types of records; none for all.
        pub types: Vec<RecordType>,
    }
}

/// Form of messages with flow records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Syslog messages of RFC 5424 with structured data.
    Syslog,
    /// OpenTelemetry logs: OTLP over HTTP, as JSON.
    Otlp,
}

/// Place that flow records are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A syslog's.
    Syslog(Collector),
    /// An OpenTelemetry collector's.
    Http(Uri),
}

impl FromStr for Address {
    /// A form to write instead.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "unix:PATH, udp:HOST:PORT, tcp:HOST:PORT or http://HOST:PORT";
        let is_port = |place: &str| {
            let parts = place.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let place = text.split_once(':').ok_or(EXPECTED)?;
        match place {
            ("unix", path) if path.starts_with('/') && !path.contains('\0') => {
                Ok(Self::Syslog(Collector::Unix(path.into())))
            }
            ("udp", place) if is_port(place) => Ok(Self::Syslog(Collector::Udp(place.to_owned()))),
            ("tcp", place) if is_port(place) => Ok(Self::Syslog(Collector::Tcp(place.to_owned()))),
            ("http", _) => match text.parse::<Uri>() {
                Ok(address) if address.host().is_some() => Ok(Self::Http(address)),
                _ => Err(EXPECTED),
            },
            ("https", _) => Err("http: a collector beside the agent can speak TLS to the next"),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syslog(Collector::Unix(path)) => write!(f, "unix:{}", path.display()),
            Self::Syslog(Collector::Udp(place)) => write!(f, "udp:{place}"),
            Self::Syslog(Collector::Tcp(place)) => write!(f, "tcp:{place}"),
            Self::Http(address) => address.fmt(f),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Address {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = "^(unix:/.*|(udp|tcp):.+:[0-9]{1,5}|http://.+)$";
        json_schema!({ "type": "string", "pattern": pattern })
    }
}

impl Default for Destination {
    fn default() -> Self {
        Self {
            to: Form::Syslog,
            address: Address::Syslog(Collector::Unix(PathBuf::from("/dev/log"))),
            types: Vec::new(),
        }
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

/// Mode of all policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Packets that they deny are dropped.
    Enforce,
    /// Packets that they deny pass and are reported; forged sources, malformed packets and the like
    /// are dropped all the same.
    Audit,
}

impl From<Enforcement> for Mode {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Enforce => Self::Enforce,
            Enforcement::Audit => Self::Audit,
        }
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
            metrics_tls: MetricsTls::default(),
            metrics_labels: Vec::new(),
            metrics_series: Count(10_000),
            port_scan_limit: Count(50),
            uplinks: EarlyDrop::Names(Vec::new()),
            kubernetes: Kubernetes::default(),
            etcd: Etcd::default(),
            enforcement: Enforcement::Enforce,
            limits: Room::default(),
            accept_partial: false,
            own_node: OwnNode::Allow,
            adopt_midstream: Time(Duration::from_secs(30)),
            guard: Guard::None,
            idle: Idle::default(),
            flow_log: FlowLog::default(),
            outputs: Vec::new(),
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
            report: true,
            taint: false,
        }
    }
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            publish: false,
            lease: Time(Duration::from_secs(30)),
            ca: String::new(),
            certificate: String::new(),
            key: String::new(),
            username: String::new(),
            password_file: String::new(),
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
        .filter(|name| cofferdam_syntax::names::subdomain(name).is_ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

impl Config {
    /// Returns the files and directories of documents.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.policies.iter().filter(|entry| !is_etcd(entry));
        files.cloned().collect()
    }

    /// Returns the settings of the etcd that documents are read from, `None` without one.
    #[must_use]
    pub fn etcd_source(&self) -> Option<etcd::Settings> {
        let entry = self.policies.iter().find(|entry| is_etcd(entry))?;
        // The reader of the configuration has refused others.
        let address = entry.to_str()?.parse().ok()?;
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let file = |text: &String| given(text).map(PathBuf::from);
        let section = &self.etcd;
        let credentials = Credentials {
            ca: file(&section.ca),
            certificate: file(&section.certificate),
            key: file(&section.key),
            username: given(&section.username),
            password: file(&section.password_file).map(Password::File),
        };
        Some(etcd::Settings {
            announces: section.publish.then(|| self.node.name.clone()),
            lease: section.lease.0,
            ..etcd::Settings::new(address, credentials)
        })
    }

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

/// Returns `true` if an entry of `policies` is the address of an etcd.
fn is_etcd(entry: &Path) -> bool {
    entry.to_str().is_some_and(etcd::Address::is_meant)
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
policies: [/a, b.yaml, "etcd://h:1,h/p"]
run_dir: /r
state_dir: /s
bpffs: /b
metrics: 127.0.0.1:1
metrics_tls: {address: "[::]:2", certificate: /t/c, key: /t/k, client_ca: /t/a}
metrics_labels: [namespace, app|name]
metrics_series: 2
port_scan_limit: 3
uplinks: [eth0]
kubernetes: {enabled: true, kubeconfig: /k, wait: 1s, report: false, taint: true}
etcd: {publish: true, lease: 9s, ca: /c, certificate: /d, key: /e, username: u, password_file: /f}
enforcement: audit
limits: {endpoints: 8, slots: 4096, flows_per_endpoint: 512, table_pages: 16, rules: 9}
accept_partial: true
own_node: policy
adopt_midstream: 0s
idle: {tcp_established: 1h, tcp_embryonic: 2s, tcp_closing: 3s, udp: 4s, udp_one_way: 5s, sctp: 6m, icmp: 7s, other: 1500ms}
flow_log: {path: /l, max_bytes: 1MiB, keep: 2}
outputs: [{to: syslog, types: [denied]}, {to: otlp, address: "http://[::1]:4318"}]
"#;
