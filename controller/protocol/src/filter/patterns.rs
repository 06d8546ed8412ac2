//! Patterns of single fields, as people write them.
//!
//! Invariant: the printed form is read back as the same pattern; it is also the form in
//! JSON.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use super::contains;
use crate::output::{FlowEnd, FlowRecord, RuleName};

/// Text that is no pattern, with the form that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PatternError {
    /// An end of a connection.
    #[error(
        "expected namespace/pod, namespace/ for all of its pods, node/NAME, an address or a CIDR"
    )]
    End,
    /// An end that no record names.
    #[error("records name no external hosts: give the address or a CIDR")]
    External,
    /// A workload.
    #[error("expected namespace/pod, or the name of a pod in whatever namespace")]
    Workload,
    /// A label.
    #[error("expected key=value, or a key alone")]
    Label,
    /// An address.
    #[error("expected an address or a CIDR, such as 10.0.0.0/8")]
    Address,
    /// A port.
    #[error("expected 80, 8000-8999, tcp/80, icmp/8, icmp/8/0 or proto/47")]
    Port,
    /// A protocol.
    #[error("expected tcp, udp, sctp, icmp, icmpv6, arp, a number up to 255 or ethertype/0x88cc")]
    Protocol,
    /// A policy.
    #[error("expected namespace/name, or the name of a policy alone")]
    Policy,
}

/// Reads and writes patterns as text in JSON.
pub(super) mod text {
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(in crate::filter) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in crate::filter) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Addresses of a network, or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPattern(IpNet);

impl AddressPattern {
    pub(super) fn matches(&self, end: &FlowEnd) -> bool {
        end.address
            .is_some_and(|address| contains(&self.0, address))
    }
}

impl FromStr for AddressPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let address = text.parse::<IpAddr>();
        let net = address
            .map(|address| IpNet::from(address.to_canonical()))
            .ok()
            .or_else(|| text.parse().ok());
        net.map(Self).ok_or(PatternError::Address)
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndPattern {
    /// A workload, or without a name all of its namespace.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: Option<String>,
    },
    /// The addresses of a node.
    Node(String),
    /// Addresses, whoever has them.
    Address(AddressPattern),
}

impl EndPattern {
    pub(super) fn matches(&self, end: &FlowEnd) -> bool {
        match self {
            Self::Workload { namespace, name } => {
                end.namespace.as_ref() == Some(namespace)
                    && (name.is_none() || end.workload == *name)
            }
            Self::Node(name) => end.node.as_ref() == Some(name),
            Self::Address(address) => address.matches(end),
        }
    }
}

impl FromStr for EndPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (scope, name) = text.split_once('/').ok_or(PatternError::End)?;
        match scope {
            "external" => Err(PatternError::External),
            _ if scope.is_empty() || name.contains('/') => Err(PatternError::End),
            // `10.0.0.0/64` is a slip, and no namespace has a dot.
            _ if scope.contains(['.', ':']) => Err(PatternError::Address),
            "node" if name.is_empty() => Err(PatternError::End),
            "node" => Ok(Self::Node(name.to_owned())),
            namespace => Ok(Self::Workload {
                namespace: namespace.to_owned(),
                name: (!name.is_empty()).then(|| name.to_owned()),
            }),
        }
    }
}

impl fmt::Display for EndPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload { namespace, name } => {
                write!(f, "{namespace}/{}", name.as_deref().unwrap_or_default())
            }
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A name, in one namespace or in whatever namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scoped {
    namespace: Option<String>,
    name: String,
}

impl Scoped {
    fn read(text: &str) -> Option<Self> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let is_one = namespace != Some("") && !name.is_empty() && !name.contains('/');
        is_one.then(|| Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    fn matches(&self, namespace: Option<&String>, name: Option<&String>) -> bool {
        name == Some(&self.name)
            && (self.namespace.is_none() || namespace == self.namespace.as_ref())
    }
}

impl fmt::Display for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A workload, in one namespace or in whatever namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPattern(Scoped);

impl WorkloadPattern {
    pub(super) fn matches(&self, end: &FlowEnd) -> bool {
        self.0
            .matches(end.namespace.as_ref(), end.workload.as_ref())
    }
}

impl FromStr for WorkloadPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Scoped::read(text).map(Self).ok_or(PatternError::Workload)
    }
}

impl fmt::Display for WorkloadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A policy, in one namespace or in whatever namespace or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPattern(Scoped);

impl PolicyPattern {
    pub(super) fn matches(&self, rule: &RuleName) -> bool {
        self.0.matches(rule.namespace.as_ref(), Some(&rule.name))
    }
}

impl FromStr for PolicyPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Scoped::read(text).map(Self).ok_or(PatternError::Policy)
    }
}

impl fmt::Display for PolicyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A label with a value, or with any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelPattern {
    key: String,
    value: Option<String>,
}

impl LabelPattern {
    pub(super) fn matches(&self, end: &FlowEnd) -> bool {
        let value = end.labels.get(&self.key);
        match &self.value {
            Some(expected) => value == Some(expected),
            None => value.is_some(),
        }
    }
}

impl FromStr for LabelPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(PatternError::Label);
        }
        let key = key.to_owned();
        Ok(Self { key, value })
    }
}

impl fmt::Display for LabelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// A protocol, by its name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolPattern(String);

/// Protocols that records name, with their numbers.
const NAMED: [(&str, u8); 5] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("icmpv6", 58),
    ("sctp", 132),
];

impl ProtocolPattern {
    pub(super) fn matches(&self, protocol: &str) -> bool {
        self.0 == protocol
    }
}

impl FromStr for ProtocolPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let word = text.to_ascii_lowercase();
        let is_name = word == "arp" || NAMED.iter().any(|(name, _)| *name == word);
        let is_ethertype = word.strip_prefix("ethertype/0x").is_some_and(|digits| {
            digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_name || is_ethertype {
            return Ok(Self(word));
        }
        let number = word.strip_prefix("proto/").unwrap_or(&word);
        let number: u8 = number.parse().map_err(|_| PatternError::Protocol)?;
        let name = NAMED.iter().find(|(_, of)| *of == number);
        Ok(Self(name.map_or_else(
            || number.to_string(),
            |(name, _)| (*name).to_owned(),
        )))
    }
}

impl fmt::Display for ProtocolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A port of either end, of one protocol or of any that has ports; or a type of ICMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortPattern {
    /// Ports.
    Ports {
        /// `tcp`, `udp` or `sctp`.
        protocol: Option<ProtocolPattern>,
        /// From the first to the last.
        ports: RangeInclusive<u16>,
    },
    /// A type of ICMP, with a code or any.
    Icmp {
        /// `icmp` or `icmpv6`.
        protocol: ProtocolPattern,
        /// The type.
        kind: u8,
        /// The code.
        code: Option<u8>,
    },
    /// A whole protocol.
    Whole(ProtocolPattern),
}

impl PortPattern {
    pub(super) fn matches(&self, record: &FlowRecord) -> bool {
        match self {
            Self::Ports { protocol, ports } => {
                let of = protocol.as_ref();
                let mut ends = [&record.source, &record.destination].into_iter();
                of.is_none_or(|protocol| protocol.matches(&record.protocol))
                    && ends.any(|end| end.port.is_some_and(|port| ports.contains(&port)))
            }
            Self::Icmp {
                protocol,
                kind,
                code,
            } => {
                protocol.matches(&record.protocol)
                    && record.icmp.is_some_and(|icmp| {
                        icmp.kind == *kind && code.is_none_or(|code| icmp.code == code)
                    })
            }
            Self::Whole(protocol) => protocol.matches(&record.protocol),
        }
    }
}

impl FromStr for PortPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |_| PatternError::Port;
        let (protocol, rest) = match text.split_once('/') {
            Some((protocol, rest)) => (Some(protocol.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let named = || {
            protocol
                .as_deref()
                .map(|name| ProtocolPattern(name.to_owned()))
        };
        match protocol.as_deref() {
            Some("proto") => text.parse().map(Self::Whole).map_err(wrong),
            Some(name @ ("icmp" | "icmpv6")) => {
                let (kind, code) = match rest.split_once('/') {
                    Some((kind, code)) => (kind, Some(code)),
                    None => (rest, None),
                };
                Ok(Self::Icmp {
                    protocol: ProtocolPattern(name.to_owned()),
                    kind: kind.parse().map_err(|_| PatternError::Port)?,
                    code: code
                        .map(str::parse)
                        .transpose()
                        .map_err(|_| PatternError::Port)?,
                })
            }
            None | Some("tcp" | "udp" | "sctp") => {
                let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
                let number = |text: &str| text.parse::<u16>().map_err(|_| PatternError::Port);
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(PatternError::Port);
                }
                Ok(Self::Ports {
                    protocol: named(),
                    ports: first..=last,
                })
            }
            Some(_) => Err(PatternError::Port),
        }
    }
}

impl fmt::Display for PortPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { protocol, ports } => {
                if let Some(protocol) = protocol {
                    write!(f, "{protocol}/")?;
                }
                match (ports.start(), ports.end()) {
                    (first, last) if first == last => first.fmt(f),
                    (first, last) => write!(f, "{first}-{last}"),
                }
            }
            Self::Icmp {
                protocol,
                kind,
                code,
            } => {
                write!(f, "{protocol}/{kind}")?;
                code.map_or(Ok(()), |code| write!(f, "/{code}"))
            }
            Self::Whole(protocol) => match NAMED.iter().find(|(name, _)| protocol.matches(name)) {
                Some((_, number)) => write!(f, "proto/{number}"),
                None => write!(f, "proto/{protocol}"),
            },
        }
    }
}
