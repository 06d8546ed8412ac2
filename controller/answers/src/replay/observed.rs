//! A connection in the words that all forms of flow records share.
//!
//! Invariant: nothing here is filled in. A field that a record does not have is `None`, so
//! that the judge can tell an unknown label from one that is not there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use cofferdam_analysis::connectivity::exceptions::Day;
use cofferdam_reach::Probe;
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::{Action, Direction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format of a flow record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Cofferdam's own: `observe --format json` and the flow log.
    Cofferdam,
    /// Hubble's: `hubble observe -o json` and its exporter.
    Hubble,
    /// Calico's flow logs.
    Calico,
}

impl Form {
    /// Returns the product's name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cofferdam => "Cofferdam",
            Self::Hubble => "Hubble",
            Self::Calico => "Calico",
        }
    }
}

/// Reason for which a record says nothing about an opening that policy decides.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PassedOver {
    /// A packet that opens nothing: a reply, an ICMP error, or a later segment that was
    /// denied.
    Answer,
    /// A denial that no policy decided, such as one of a forged source.
    NotByPolicy,
    /// An event without a verdict, such as a translation.
    NoVerdict,
    /// A packet that policy cannot be asked about: not IP, or without its ports.
    NotAsked,
    /// A packet of which nothing tells if it opens a connection or answers one.
    UnknownDirection,
    /// An event of the observer itself, such as lost records.
    NoFlow,
}

impl PassedOver {
    /// Returns what the records are, for people.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Answer => "replies, and other packets that open nothing",
            Self::NotByPolicy => "denied for a reason that no policy can change",
            Self::NoVerdict => "without a verdict",
            Self::NotAsked => "of packets that policy says nothing about",
            Self::UnknownDirection => "do not tell if they open a connection or answer one",
            Self::NoFlow => "events of the observer itself",
        }
    }
}

/// Point in time: RFC 3339, UTC, nine digits of a second, so that texts compare as times do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(String);

impl Time {
    /// Reads a time of RFC 3339 in UTC; `None` if it is another text.
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.strip_suffix(['Z', 'z'])?.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (text.get(..text.len() - 1)?, ""),
        };
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let shape: String = whole
            .chars()
            .map(|one| if one.is_ascii_digit() { '0' } else { one })
            .collect();
        let is_time = shape.eq_ignore_ascii_case("0000-00-00T00:00:00")
            && is_digits(fraction)
            && fraction.len() <= 9
            && !(text.contains('.') && fraction.is_empty());
        is_time.then(|| Self(format!("{}.{fraction:0<9}Z", whole.to_ascii_uppercase())))
    }

    /// Returns the time of this many seconds since 1970.
    #[must_use]
    pub(super) fn of_unix(seconds: u64) -> Option<Self> {
        // Year 9999 has four digits, and days are counted one year at a time.
        const LAST: u64 = 253_402_300_799;
        if seconds > LAST {
            return None;
        }
        let of_day = seconds % 86_400;
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let day = Day::of_unix(seconds);
        Some(Self(format!(
            "{day}T{hour:02}:{minute:02}:{second:02}.000000000Z"
        )))
    }

    /// Returns the text.
    #[must_use]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Labels as a record has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ToldLabels {
    /// The labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Labels that may be missing in the record.
    pub(super) missing: Missing,
}

/// Labels that a record may leave out although the workload has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Missing {
    /// None: the record has all labels.
    None,
    /// Those that Cilium's default filter takes off.
    CiliumFiltered,
    /// Any: the record is about several workloads, and has what they share.
    Any,
}

impl ToldLabels {
    /// Returns `true` if the record tells the label's value, or that there is none.
    #[must_use]
    pub(super) fn tells(&self, key: &str) -> bool {
        let is_left_out = match self.missing {
            Missing::None => false,
            Missing::Any => true,
            Missing::CiliumFiltered => is_filtered_by_cilium(key),
        };
        !is_left_out || self.labels.contains_key(key)
    }
}

/// Keys that Cilium's default label filter takes off the identity of a pod, and so off
/// Hubble's records.
fn is_filtered_by_cilium(key: &str) -> bool {
    let is_kept = key.starts_with("app.kubernetes.io/");
    let is_hash = [
        "pod-template-hash",
        "pod-template-generation",
        "controller-revision-hash",
        "controller-uid",
    ];
    let is_of_kubernetes = ["kubernetes.io", "k8s.io", "io.kubernetes", "etcd_node"];
    !is_kept
        && (is_hash.contains(&key)
            || key.starts_with("annotation.")
            || is_of_kubernetes.iter().any(|part| key.contains(part)))
}

/// An end of a recorded packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A workload.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name, or the name that stands for several: `web-5d9-*`.
        name: PodName,
        /// Name of what holds its template, if the record has it.
        owner: Option<String>,
        /// Its labels; `None` if the record has none.
        labels: Option<ToldLabels>,
        /// Its namespace's labels, if the record has them.
        namespace_labels: Option<BTreeMap<String, String>>,
    },
    /// A node; its name, if the record has it.
    Node {
        /// The name.
        name: Option<String>,
        /// The address.
        address: Option<IpAddr>,
    },
    /// Whatever has this address.
    Address(IpAddr),
    /// An address that the record calls outside without having looked for nodes.
    PerhapsNode(IpAddr),
    /// An end of which a record says too little; what it calls the end.
    Unknown(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload {
                namespace, name, ..
            } => match name {
                PodName::Whole(name) => write!(f, "{namespace}/{name}"),
                PodName::Prefix(prefix) => write!(f, "{namespace}/{prefix}*"),
            },
            Self::Node { name, address } => match (name, address) {
                (Some(name), _) => write!(f, "node/{name}"),
                (None, Some(address)) => write!(f, "{address}"),
                (None, None) => f.write_str("a node"),
            },
            Self::Address(address) | Self::PerhapsNode(address) => write!(f, "{address}"),
            Self::Unknown(called) => f.write_str(called),
        }
    }
}

/// Name of a pod in a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PodName {
    /// The pod's.
    Whole(String),
    /// Beginning of the names of several pods.
    Prefix(String),
}

/// A packet or flow that opened a connection, or would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    /// Format of the record.
    pub(super) form: Form,
    /// Time of the first packet.
    pub(super) first: Time,
    /// Time up to which the record counts.
    pub(super) last: Time,
    /// The opener.
    pub(super) source: Who,
    /// The receiver.
    pub(super) destination: Who,
    /// The attempt.
    pub(super) probe: Probe,
    /// The family; `None` if the record has no address.
    pub(super) family: Option<Family>,
    /// The event.
    pub(super) event: Event,
    /// Number of equal events.
    pub(super) count: u64,
}

/// The fate of a connection in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It was let through; by the sender's side alone if `Some(Egress)`.
    Allowed(AllowedAs, Option<Direction>),
    /// It was denied, by the side of this direction if the record has one.
    Denied(Option<Direction>),
}

/// Part of a connection's life that an event is of. Each connection has one of each at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AllowedAs {
    /// It began, or was seen.
    Begun,
    /// It ended.
    Ended,
    /// It passed, and audit policies would have denied it.
    Audited,
}

impl Event {
    /// Returns the action.
    #[must_use]
    pub(super) fn action(self) -> Action {
        match self {
            Self::Allowed(..) => Action::Allow,
            Self::Denied(_) => Action::Deny,
        }
    }
}

/// Returns the family of an address.
#[must_use]
pub(super) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

/// Returns `true` if a packet of ICMP answers something: a reply, or an error about another
/// packet.
#[must_use]
pub(super) fn is_icmp_answer(family: Family, kind: u8) -> bool {
    match family {
        // Echo, timestamp, information and mask replies; RFC 792 and 950.
        Family::V4 => matches!(kind, 0 | 3 | 4 | 5 | 11 | 12 | 14 | 16 | 18),
        // Errors are below 128; RFC 4443.
        Family::V6 => kind < 128 || kind == 129,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_forms_compare_as_texts() {
        let times = [
            Time::parse("2026-01-01T00:00:00Z"),
            Time::parse("2026-01-01T00:00:00.5Z"),
            Time::parse("2026-01-01T00:00:00.517394084Z"),
            Time::of_unix(1_767_225_601),
        ];
        assert!(
            times.is_sorted() && times.iter().all(Option::is_some),
            "{times:?}"
        );
        assert_eq!(
            Time::of_unix(1_767_225_601).unwrap().as_str(),
            "2026-01-01T00:00:01.000000000Z"
        );
        for text in [
            "",
            "Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+02:00",
            "2026-01-01T00:00:00.0000000001Z",
        ] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        assert_eq!(Time::of_unix(u64::MAX), None);
    }

    #[test]
    fn labels_that_cilium_filters_are_not_known_to_be_absent() {
        let told = |missing, key: &str| {
            let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
            ToldLabels { labels, missing }.tells(key)
        };
        assert!(told(Missing::CiliumFiltered, "team") && told(Missing::CiliumFiltered, "app"));
        assert!(told(Missing::CiliumFiltered, "app.kubernetes.io/name"));
        assert!(!told(Missing::CiliumFiltered, "pod-template-hash"));
        assert!(!told(
            Missing::CiliumFiltered,
            "topology.kubernetes.io/zone"
        ));
        assert!(told(Missing::Any, "app") && !told(Missing::Any, "team"));
        assert!(told(Missing::None, "pod-template-hash"));
    }
}
