//! Probe: a protocol, and a port or an ICMP type.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use cofferdam_inventory::Protocol;
use cofferdam_verdict::address::Family;
use cofferdam_verdict::packet::{icmpv6, protocol};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::row_key;
use cofferdam_verdict::verdict::{Direction, Verdict};
use thiserror::Error;

/// The first packet of a connection, as far as policies look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// To a port of a protocol that has ports.
    Port(Protocol, u16),
    /// ICMP of IPv4: type, and code unless any is meant.
    Icmp(u8, Option<u8>),
    /// ICMP of IPv6: type, and code unless any is meant.
    Icmpv6(u8, Option<u8>),
    /// A protocol by its number.
    Other(u8),
}

/// Correct form that a wrong probe should have had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProbeError {
    /// It has another form.
    #[error(
        "`{text}` is not what can be tried: tcp/80, udp/53, sctp/80, icmp/8, icmp/8/0, icmpv6/128 or proto/47"
    )]
    Form {
        /// The text.
        text: String,
    },
    /// A port is not one.
    #[error("`{text}` has no port between 1 and 65535")]
    Port {
        /// The text.
        text: String,
    },
    /// A type, code or protocol is too large.
    #[error("`{text}` has a number that is not between 0 and 255")]
    Number {
        /// The text.
        text: String,
    },
    /// A protocol that has ports or types is given by its number.
    #[error("`{text}` is not enough to say: write {instead}")]
    NeedsMore {
        /// The text.
        text: String,
        /// The form to use.
        instead: &'static str,
    },
}

impl Probe {
    /// The key by which rows are searched.
    ///
    /// Without a code, code 0 stands for all: a row changes only where a port of
    /// TCP, UDP or SCTP begins or ends, since policies cannot name ICMP.
    #[must_use]
    pub fn key(self) -> u32 {
        let icmp = |kind: u8, code: Option<u8>| u16::from_be_bytes([kind, code.unwrap_or(0)]);
        match self {
            Self::Port(protocol, port) => row_key(protocol.number(), port),
            Self::Icmp(kind, code) => row_key(protocol::ICMP, icmp(kind, code)),
            Self::Icmpv6(kind, code) => row_key(protocol::ICMPV6, icmp(kind, code)),
            Self::Other(number) => row_key(number, 0),
        }
    }

    /// The protocol and port, of protocols that have ports.
    #[must_use]
    pub fn port(self) -> Option<(Protocol, u16)> {
        match self {
            Self::Port(protocol, port) => Some((protocol, port)),
            Self::Icmp(..) | Self::Icmpv6(..) | Self::Other(_) => None,
        }
    }

    /// The only family in which such packets exist.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Icmp(..) => Some(Family::V4),
            Self::Icmpv6(..) => Some(Family::V6),
            Self::Port(..) | Self::Other(_) => None,
        }
    }

    /// The verdict on neighbour discovery, which is not policy's to decide; valid
    /// messages are meant.
    pub(super) fn settled(self, source: IpAddr, direction: Direction) -> Option<Verdict> {
        let Self::Icmpv6(kind, _) = self else {
            return None;
        };
        if source.is_ipv4() || !(icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind) {
            return None;
        }
        Some(match (direction, kind) {
            (Direction::Egress, icmpv6::ROUTER_ADVERTISEMENT) => {
                Verdict::deny(Reason::RouterAdvertisement)
            }
            (Direction::Egress, icmpv6::REDIRECT) => Verdict::deny(Reason::Redirect),
            _ => Verdict::allow(Reason::NeighbourDiscovery),
        })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut icmp = |name: &str, kind: u8, code: Option<u8>| match code {
            Some(code) => write!(f, "{name}/{kind}/{code}"),
            None => write!(f, "{name}/{kind}"),
        };
        match *self {
            Self::Icmp(kind, code) => icmp("icmp", kind, code),
            Self::Icmpv6(kind, code) => icmp("icmpv6", kind, code),
            Self::Port(protocol, port) => write!(f, "{}/{port}", protocol_word(protocol)),
            Self::Other(number) => write!(f, "proto/{number}"),
        }
    }
}

/// The word for a protocol in probes.
pub(super) fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let shown = || cofferdam_documents::reader::Shown(text).to_string();
        let form = || ProbeError::Form { text: shown() };
        let byte = |digits: &str| {
            plain(digits)
                .ok_or_else(form)?
                .try_into()
                .map_err(|_| ProbeError::Number { text: shown() })
        };
        let parts: Vec<&str> = text.split('/').collect();
        let port = |protocol, digits: &str| {
            let number = plain(digits).ok_or_else(form)?;
            match u16::try_from(number) {
                Ok(port) if port != 0 => Ok(Self::Port(protocol, port)),
                _ => Err(ProbeError::Port { text: shown() }),
            }
        };
        match *parts.as_slice() {
            ["tcp", digits] => port(Protocol::Tcp, digits),
            ["udp", digits] => port(Protocol::Udp, digits),
            ["sctp", digits] => port(Protocol::Sctp, digits),
            ["icmp", kind] => Ok(Self::Icmp(byte(kind)?, None)),
            ["icmp", kind, code] => Ok(Self::Icmp(byte(kind)?, Some(byte(code)?))),
            ["icmpv6", kind] => Ok(Self::Icmpv6(byte(kind)?, None)),
            ["icmpv6", kind, code] => Ok(Self::Icmpv6(byte(kind)?, Some(byte(code)?))),
            ["proto", number] => {
                let number = byte(number)?;
                let instead = match number {
                    protocol::TCP => "tcp/PORT",
                    protocol::UDP => "udp/PORT",
                    protocol::SCTP => "sctp/PORT",
                    protocol::ICMP => "icmp/TYPE",
                    protocol::ICMPV6 => "icmpv6/TYPE",
                    _ => return Ok(Self::Other(number)),
                };
                Err(ProbeError::NeedsMore {
                    text: shown(),
                    instead,
                })
            }
            _ => Err(form()),
        }
    }
}

/// A number in plain decimal.
fn plain(digits: &str) -> Option<u32> {
    let is_plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_is_printed_as_it_was_read() {
        for text in [
            "tcp/80",
            "udp/53",
            "sctp/65535",
            "icmp/8",
            "icmp/8/0",
            "icmpv6/128",
            "icmpv6/1/4",
            "proto/47",
        ] {
            let probe: Probe = text.parse().unwrap();
            assert_eq!(probe.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_tried_is_refused_with_what_can() {
        let refused = |text: &str| text.parse::<Probe>().unwrap_err().to_string();
        for text in [
            "", "80", "tcp", "tcp/", "TCP/80", "tcp/+1", "tcp/80/1", "icmp", "tcp/http",
        ] {
            assert!(refused(text).contains("icmpv6/128"), "{text}");
        }
        assert_eq!(refused("tcp/0"), "`tcp/0` has no port between 1 and 65535");
        assert_eq!(
            refused("udp/65536"),
            "`udp/65536` has no port between 1 and 65535"
        );
        assert!(refused("icmp/256").contains("255"));
        assert!(refused("proto/6").contains("write tcp/PORT"));
        assert!(refused(&"9".repeat(5000)).len() < 300);
    }
}
