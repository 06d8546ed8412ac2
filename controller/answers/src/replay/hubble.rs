//! Flows of Hubble as JSON: `flow.Flow` of Cilium's `api/v1/flow/flow.proto`, bare, or in the
//! object of `observer.GetFlowsResponse` and `ExportEvent`.
//!
//! JSON of protobuf leaves out what is 0, empty or false.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cofferdam_inventory::Protocol;
use cofferdam_reach::Probe;
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Direction;
use serde::Deserialize;
use serde_json::Value;

use super::observed::{
    AllowedAs, Event, Form, Missing, Observed, PassedOver, PodName, Time, ToldLabels, Who,
    family_of, is_icmp_answer,
};

/// Keys beside `flow` of which an exported event has one.
const OTHER_EVENTS: [&str; 4] = ["node_status", "lost_events", "agent_event", "debug_event"];

/// Prefix of labels that are a pod's own.
const OF_POD: &str = "k8s:";

/// Prefixes of labels that are made of something else than a pod's labels.
const NOT_OF_POD: [&str; 3] = [
    "io.cilium.k8s.policy.",
    "io.kubernetes.pod.namespace",
    OF_NAMESPACE,
];

/// Prefix of labels that are the namespace's.
const OF_NAMESPACE: &str = "io.cilium.k8s.namespace.labels.";

/// Label with the name of a pod's cluster.
const CLUSTER: &str = "k8s:io.cilium.k8s.policy.cluster=";

/// Prefix of labels of what is no pod.
const RESERVED: &str = "reserved:";

#[derive(Deserialize)]
struct Flow {
    time: Option<String>,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    drop_reason: u32,
    #[serde(default)]
    drop_reason_desc: String,
    #[serde(rename = "IP")]
    ip: Option<Ip>,
    l4: Option<Layer4>,
    l7: Option<Layer7>,
    #[serde(default)]
    source: Endpoint,
    #[serde(default)]
    destination: Endpoint,
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    traffic_direction: String,
    is_reply: Option<bool>,
}

#[derive(Deserialize)]
struct Ip {
    source: IpAddr,
    destination: IpAddr,
}

#[derive(Deserialize)]
struct Layer4 {
    #[serde(rename = "TCP")]
    tcp: Option<Tcp>,
    #[serde(rename = "UDP")]
    udp: Option<Ports>,
    #[serde(rename = "SCTP")]
    sctp: Option<Ports>,
    #[serde(rename = "ICMPv4")]
    icmp: Option<Icmp>,
    #[serde(rename = "ICMPv6")]
    icmpv6: Option<Icmp>,
}

#[derive(Deserialize)]
struct Tcp {
    #[serde(flatten)]
    ports: Ports,
    flags: Option<TcpFlags>,
}

#[derive(Deserialize)]
struct TcpFlags {
    #[serde(default, rename = "SYN")]
    syn: bool,
    #[serde(default, rename = "ACK")]
    ack: bool,
    #[serde(default, rename = "RST")]
    rst: bool,
    #[serde(default, rename = "FIN")]
    fin: bool,
}

impl TcpFlags {
    fn opens(&self) -> bool {
        self.syn && !(self.ack || self.rst || self.fin)
    }
}

#[derive(Deserialize)]
struct Ports {
    #[serde(default)]
    destination_port: u16,
}

#[derive(Deserialize)]
struct Icmp {
    #[serde(default, rename = "type")]
    kind: u8,
    #[serde(default)]
    code: u8,
}

#[derive(Deserialize)]
struct Layer7 {
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Endpoint {
    namespace: String,
    labels: Option<Vec<String>>,
    pod_name: String,
    workloads: Vec<Holder>,
    cluster_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Holder {
    name: String,
}

/// Returns the flow of a line, or that it is another event of Hubble's; `None` if the line is
/// not of Hubble.
pub(super) fn flow(line: &Value) -> Option<Result<&Value, PassedOver>> {
    let object = line.as_object()?;
    if let Some(flow) = object.get("flow").filter(|flow| flow.is_object()) {
        return Some(Ok(flow));
    }
    if OTHER_EVENTS.iter().any(|event| object.contains_key(*event)) {
        return Some(Err(PassedOver::NoFlow));
    }
    let is_bare = object.get("verdict").is_some_and(Value::is_string)
        && ["IP", "l4", "event_type", "node_name"]
            .iter()
            .any(|key| object.contains_key(*key));
    is_bare.then_some(Ok(line))
}

/// Returns what a flow says of a connection, or why it says nothing of one.
///
/// # Errors
/// If a field has another type than Hubble gives it.
pub(super) fn observed(flow: &Value) -> Result<Result<Observed, PassedOver>, String> {
    let flow = Flow::deserialize(flow).map_err(|error| format!("as a flow of Hubble: {error}"))?;
    let time = flow.time.as_deref().unwrap_or_default();
    let time =
        Time::parse(time).ok_or_else(|| format!("`{time}` is no time of RFC 3339 in UTC"))?;
    let side = match &*flow.traffic_direction {
        "EGRESS" => Some(Direction::Egress),
        "INGRESS" => Some(Direction::Ingress),
        _ => None,
    };
    let is_dropped = match &*flow.verdict {
        // In audit mode what policy denies is let through.
        "FORWARDED" | "REDIRECTED" | "AUDIT" => false,
        "DROPPED" => true,
        "VERDICT_UNKNOWN" | "ERROR" | "TRACED" | "TRANSLATED" | "" => {
            return Ok(Err(PassedOver::NoVerdict));
        }
        other => return Err(format!("`{other}` is no verdict of Hubble")),
    };
    if is_dropped && !flow.is_by_policy() {
        return Ok(Err(PassedOver::NotByPolicy));
    }
    let Some(ip) = &flow.ip else {
        return Ok(Err(PassedOver::NotAsked));
    };
    let family = family_of(ip.destination);
    let Some(probe) = flow.l4.as_ref().and_then(|l4| l4.probe(family)) else {
        return Ok(Err(PassedOver::NotAsked));
    };
    if let Some(why) = flow.opens_nothing(family, is_dropped) {
        return Ok(Err(why));
    }
    let event = match is_dropped {
        true => Event::Denied(side),
        false => Event::Allowed(
            AllowedAs::Begun,
            side.filter(|side| *side == Direction::Egress),
        ),
    };
    Ok(Ok(Observed {
        form: Form::Hubble,
        first: time.clone(),
        last: time,
        source: flow.source.who(ip.source, &flow.node_name),
        destination: flow.destination.who(ip.destination, &flow.node_name),
        probe,
        family: Some(family),
        event,
        count: 1,
    }))
}

impl Flow {
    /// Returns `false` if a drop has a reason, and it is not policy.
    fn is_by_policy(&self) -> bool {
        match (&*self.drop_reason_desc, self.drop_reason) {
            ("", 0) => true,
            ("", number) => matches!(number, 133 | 181),
            (name, _) => matches!(name, "POLICY_DENIED" | "POLICY_DENY"),
        }
    }

    /// Returns the reason for which a packet is no opening, if it is none.
    fn opens_nothing(&self, family: Family, is_dropped: bool) -> Option<PassedOver> {
        let l7 = self.l7.as_ref().map(|l7| l7.kind.as_str());
        if self.is_reply == Some(true) || l7 == Some("RESPONSE") {
            return Some(PassedOver::Answer);
        }
        let l4 = self.l4.as_ref()?;
        let icmp = l4.icmp.as_ref().or(l4.icmpv6.as_ref());
        if let Some(icmp) = icmp {
            return is_icmp_answer(family, icmp.kind).then_some(PassedOver::Answer);
        }
        let flags = l4.tcp.as_ref().and_then(|tcp| tcp.flags.as_ref());
        match (flags, self.is_reply) {
            // What is dropped later on tells nothing of who has opened the connection.
            (Some(flags), _) if is_dropped && !flags.opens() => Some(PassedOver::Answer),
            (Some(flags), None) if flags.opens() => None,
            (_, Some(false)) => None,
            (_, _) if l7 == Some("REQUEST") => None,
            // The firewall would take it for an opening as well.
            (_, _) if is_dropped => None,
            (_, _) => Some(PassedOver::UnknownDirection),
        }
    }
}

impl Layer4 {
    fn probe(&self, family: Family) -> Option<Probe> {
        let port = |protocol, ports: &Ports| {
            Some(ports.destination_port)
                .filter(|port| *port != 0)
                .map(|port| Probe::Port(protocol, port))
        };
        if let Some(tcp) = &self.tcp {
            return port(Protocol::Tcp, &tcp.ports);
        }
        if let Some(udp) = &self.udp {
            return port(Protocol::Udp, udp);
        }
        if let Some(sctp) = &self.sctp {
            return port(Protocol::Sctp, sctp);
        }
        match (&self.icmp, &self.icmpv6, family) {
            (Some(icmp), None, Family::V4) => Some(Probe::Icmp(icmp.kind, Some(icmp.code))),
            (None, Some(icmp), Family::V6) => Some(Probe::Icmpv6(icmp.kind, Some(icmp.code))),
            _ => None,
        }
    }
}

impl Endpoint {
    fn who(&self, address: IpAddr, observer: &str) -> Who {
        let all = || self.labels.iter().flatten();
        // `cluster/node`, or the node alone.
        let (own_cluster, node) = observer.split_once('/').unwrap_or(("", observer));
        let cluster = self.cluster();
        if !cluster.is_empty() && !own_cluster.is_empty() && cluster != own_cluster {
            // Documents are of one cluster, and names of two may be the same.
            return Who::Unknown(format!("{address} of cluster {cluster}"));
        }
        if !self.pod_name.is_empty() && !self.namespace.is_empty() {
            return Who::Workload {
                namespace: self.namespace.clone(),
                name: PodName::Whole(self.pod_name.clone()),
                owner: (self.workloads.first()).map(|holder| holder.name.clone()),
                labels: self.labels.as_ref().map(|labels| ToldLabels {
                    labels: of_pod(labels),
                    missing: Missing::CiliumFiltered,
                }),
                namespace_labels: Some(of_namespace(self.labels.as_deref().unwrap_or_default()))
                    .filter(|labels| !labels.is_empty()),
            };
        }
        let reserved: Vec<&str> = all()
            .filter_map(|label| label.strip_prefix(RESERVED))
            .collect();
        let is = |word: &str| reserved.contains(&word);
        if is("host") {
            return Who::Node {
                name: Some(node.to_owned()).filter(|name| !name.is_empty()),
                address: None,
            };
        }
        if is("remote-node") {
            return Who::Node {
                name: None,
                address: Some(address),
            };
        }
        let is_outside = is("world")
            || is("world-ipv4")
            || is("world-ipv6")
            || all().any(|label| label.starts_with("cidr:") || label.starts_with("fqdn:"));
        match reserved.first() {
            Some(word) if !is_outside => Who::Unknown(format!("{RESERVED}{word} {address}")),
            // Pods have labels of their namespace even where Hubble does not know their names.
            None if all().any(|label| label.starts_with(OF_POD)) => {
                Who::Unknown(format!("a pod without a name, {address}"))
            }
            _ => Who::Address(address),
        }
    }
}

impl Endpoint {
    /// Returns the cluster's name, or nothing.
    fn cluster(&self) -> &str {
        let mut labels = self.labels.iter().flatten();
        let label = labels.find_map(|label| label.strip_prefix(CLUSTER));
        label.unwrap_or(&self.cluster_name)
    }
}

/// Returns key and value of labels of Kubernetes, without their source.
fn pairs(labels: &[String]) -> impl Iterator<Item = (&str, &str)> {
    let own = labels.iter().filter_map(|label| label.strip_prefix(OF_POD));
    own.map(|label| label.split_once('=').unwrap_or((label, "")))
}

fn of_pod(labels: &[String]) -> BTreeMap<String, String> {
    let own = pairs(labels).filter(|(key, _)| !NOT_OF_POD.iter().any(|not| key.starts_with(not)));
    own.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn of_namespace(labels: &[String]) -> BTreeMap<String, String> {
    pairs(labels)
        .filter_map(|(key, value)| {
            let key = key.strip_prefix(OF_NAMESPACE)?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}
