//! Flow logs of Calico as JSON: the object that Felix writes to its files and Elasticsearch
//! keeps, and that of Whisker's API, whose keys are the same but for `protocol`.

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
    family_of,
};

/// Text of fields that were aggregated away, or do not apply.
const NOTHING: &str = "-";

#[derive(Deserialize)]
struct FlowLog {
    start_time: Moment,
    end_time: Option<Moment>,
    action: String,
    #[serde(default)]
    reporter: String,
    #[serde(alias = "protocol")]
    proto: String,
    dest_port: Option<u16>,
    num_flows: Option<u64>,
    source_type: Option<String>,
    source_ip: Option<String>,
    #[serde(default)]
    source_name: String,
    #[serde(default)]
    source_name_aggr: String,
    #[serde(default)]
    source_namespace: String,
    source_labels: Option<Labels>,
    dest_type: Option<String>,
    dest_ip: Option<String>,
    #[serde(default)]
    dest_name: String,
    #[serde(default)]
    dest_name_aggr: String,
    #[serde(default)]
    dest_namespace: String,
    dest_labels: Option<Labels>,
}

/// Seconds since 1970, or RFC 3339.
#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    Unix(u64),
    Text(String),
}

impl Moment {
    fn time(&self) -> Result<Time, String> {
        match self {
            Self::Unix(seconds) => Time::of_unix(*seconds)
                .ok_or_else(|| format!("{seconds} is no time in seconds since 1970")),
            Self::Text(text) => {
                Time::parse(text).ok_or_else(|| format!("`{text}` is no time of RFC 3339 in UTC"))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Labels {
    /// Felix: `key=value`.
    Nested { labels: Option<Vec<String>> },
    /// Whisker: `key=value | key=value`.
    Text(String),
}

/// One end of a log.
struct LogEnd<'l> {
    kind: Option<&'l str>,
    address: Option<&'l str>,
    name: &'l str,
    aggregated: &'l str,
    namespace: &'l str,
    labels: Option<&'l Labels>,
}

/// Returns `true` of a flow log of Calico.
pub(super) fn is_log(line: &Value) -> bool {
    let has = |key: &str| line.get(key).is_some();
    has("action")
        && has("start_time")
        && has("reporter")
        && (has("source_name") || has("source_name_aggr"))
        && (has("dest_name") || has("dest_name_aggr"))
}

/// Returns what a log says of connections, or why it says nothing of any.
///
/// # Errors
/// If a field has another type than Calico gives it.
pub(super) fn observed(line: &Value) -> Result<Result<Observed, PassedOver>, String> {
    let log =
        FlowLog::deserialize(line).map_err(|error| format!("as a flow log of Calico: {error}"))?;
    let first = log.start_time.time()?;
    let last = log.end_time.as_ref().map(Moment::time).transpose()?;
    let side = match &*log.reporter.to_ascii_lowercase() {
        "src" => Some(Direction::Egress),
        "dst" => Some(Direction::Ingress),
        _ => None,
    };
    let event = match &*log.action.to_ascii_lowercase() {
        "allow" => Event::Allowed(
            AllowedAs::Begun,
            side.filter(|side| *side == Direction::Egress),
        ),
        "deny" => Event::Denied(side),
        other => return Err(format!("`{other}` is no action of Calico")),
    };
    let [from, to] = log.ends();
    let address = |end: &LogEnd<'_>| match end.address {
        None | Some("" | NOTHING) => Ok(None),
        Some(text) => text
            .parse::<IpAddr>()
            .map(Some)
            .map_err(|_| format!("`{text}` is no address")),
    };
    let (from_address, to_address) = (address(&from)?, address(&to)?);
    let family = to_address.or(from_address).map(family_of);
    let (probe, family) = match log.probe() {
        Some(Probe::Icmp(..)) if family == Some(Family::V6) => {
            return Ok(Err(PassedOver::NotAsked));
        }
        Some(probe) => (probe, probe.family().or(family)),
        None => return Ok(Err(PassedOver::NotAsked)),
    };
    Ok(Ok(Observed {
        form: Form::Calico,
        last: last.unwrap_or_else(|| first.clone()),
        first,
        source: from.who(from_address),
        destination: to.who(to_address),
        probe,
        family,
        event,
        count: log.num_flows.unwrap_or(1).max(1),
    }))
}

impl FlowLog {
    fn ends(&self) -> [LogEnd<'_>; 2] {
        [
            LogEnd {
                kind: self.source_type.as_deref(),
                address: self.source_ip.as_deref(),
                name: &self.source_name,
                aggregated: &self.source_name_aggr,
                namespace: &self.source_namespace,
                labels: self.source_labels.as_ref(),
            },
            LogEnd {
                kind: self.dest_type.as_deref(),
                address: self.dest_ip.as_deref(),
                name: &self.dest_name,
                aggregated: &self.dest_name_aggr,
                namespace: &self.dest_namespace,
                labels: self.dest_labels.as_ref(),
            },
        ]
    }

    /// Returns the attempt. No policy tells types of ICMP apart, so that an echo stands for
    /// all of them; of ICMPv6 without its type neighbour discovery cannot be told.
    fn probe(&self) -> Option<Probe> {
        let port = |protocol| {
            let port = self.dest_port.filter(|port| *port != 0);
            port.map(|port| Probe::Port(protocol, port))
        };
        match &*self.proto {
            "tcp" => port(Protocol::Tcp),
            "udp" => port(Protocol::Udp),
            "sctp" => port(Protocol::Sctp),
            "icmp" => Some(Probe::Icmp(8, None)),
            "ipip" => Some(Probe::Other(4)),
            "esp" => Some(Probe::Other(50)),
            number => format!("proto/{number}").parse().ok(),
        }
    }
}

impl LogEnd<'_> {
    fn who(&self, address: Option<IpAddr>) -> Who {
        let is_given = |text: &str| !text.is_empty() && text != NOTHING;
        let named = if is_given(self.name) {
            self.name
        } else {
            self.aggregated
        };
        // Whisker's API gives no type: what has a namespace is a workload there.
        let kind = self.kind.unwrap_or(match is_given(self.namespace) {
            true => "wep",
            false => "net",
        });
        match (kind, address) {
            ("wep", _) if is_given(self.namespace) && is_given(named) => {
                let name = match named.strip_suffix('*') {
                    Some(prefix) => PodName::Prefix(prefix.to_owned()),
                    None => PodName::Whole(named.to_owned()),
                };
                let missing = match name {
                    PodName::Whole(_) => Missing::None,
                    PodName::Prefix(_) => Missing::Any,
                };
                Who::Workload {
                    namespace: self.namespace.to_owned(),
                    name,
                    owner: None,
                    labels: self.labels().map(|labels| ToldLabels { labels, missing }),
                    namespace_labels: None,
                }
            }
            ("hep", _) => Who::Node {
                name: [self.aggregated, self.name]
                    .into_iter()
                    .find(|name| is_given(name))
                    .map(str::to_owned),
                address,
            },
            ("net" | "ns", Some(address)) => Who::PerhapsNode(address),
            _ => Who::Unknown(format!("{kind} {named}")),
        }
    }

    /// Returns the labels; `None` where they were aggregated away.
    fn labels(&self) -> Option<BTreeMap<String, String>> {
        let texts: Vec<&str> = match self.labels? {
            Labels::Nested { labels } => labels.as_ref()?.iter().map(String::as_str).collect(),
            Labels::Text(text) => text.split('|').map(str::trim).collect(),
        };
        if texts.contains(&NOTHING) {
            return None;
        }
        let pairs = texts.iter().filter_map(|text| text.split_once('='));
        // Calico's own labels say what the record says elsewhere.
        let own = pairs.filter(|(key, _)| !key.starts_with("projectcalico.org/"));
        Some(
            own.map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        )
    }
}
