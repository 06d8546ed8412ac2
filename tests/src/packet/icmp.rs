//! ICMP and ICMPv6: echo, errors that quote a packet, neighbour discovery.

use std::net::{IpAddr, Ipv6Addr};

use super::{Around, Body, Family, Mac, Packet, Position, Summary, protocol};

/// Longest quotation an error carries: with its own headers it stays within the
/// 576 bytes of RFC 1812 section 4.3.2.3 or the 1280 of RFC 4443 section 2.4.
const LONGEST_QUOTE_V4: usize = 576 - 20 - 8;
const LONGEST_QUOTE_V6: usize = 1280 - 40 - 8;

/// Everyone, and every router, on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The options of neighbour discovery: RFC 4861 section 4.6.
mod nd_option {
    pub(super) const SOURCE_LINK_ADDRESS: u8 = 1;
    pub(super) const TARGET_LINK_ADDRESS: u8 = 2;
    pub(super) const PREFIX: u8 = 3;
}

/// A message of ICMP or ICMPv6, or of IGMP, which has the same header.
#[derive(Clone)]
pub struct Icmp {
    protocol: u8,
    kind: u8,
    code: u8,
    /// The second word of the header.
    rest: [u8; 4],
    /// Bytes that every message of its type has behind the header.
    pub(super) body: Vec<u8>,
    /// Neighbour discovery options.
    options: Vec<u8>,
    usual_destination: Option<IpAddr>,
}

pub(super) fn message(protocol: u8, kind: u8) -> Packet<Icmp> {
    let family = if protocol == protocol::ICMPV6 {
        Family::V6
    } else {
        Family::V4
    };
    Packet::carrying(Icmp {
        protocol,
        kind,
        code: 0,
        rest: [0; 4],
        body: Vec::new(),
        options: Vec::new(),
        usual_destination: None,
    })
    .family(family)
}

/// An ICMP message of any type, in IPv4.
pub fn icmp(kind: u8, code: u8) -> Packet<Icmp> {
    message(protocol::ICMP, kind).code(code)
}

/// An ICMPv6 message of any type, in IPv6.
pub fn icmpv6(kind: u8, code: u8) -> Packet<Icmp> {
    message(protocol::ICMPV6, kind).code(code)
}

/// An echo request of either family; [`Packet::reply`] answers it.
pub fn ping(family: Family) -> Packet<Icmp> {
    match family {
        Family::V4 => icmp(8, 0),
        Family::V6 => icmpv6(128, 0),
    }
    .echo(1, 1)
}

/// An error about a packet, as the receiver of that packet sends it to its
/// sender; `kinds` are the type and code in ICMP and in ICMPv6.
fn error<S: Body>(about: &Packet<S>, kinds: [(u8, u8); 2]) -> Packet<Icmp> {
    let (kind, code) = kinds[usize::from(about.ip.family() == Family::V6)];
    let mut error = match about.ip.family() {
        Family::V4 => icmp(kind, code),
        Family::V6 => icmpv6(kind, code),
    };
    error.ip = about.ip.turned();
    error.quoting(about)
}

/// Destination unreachable, port: an error by the receiver of `about`.
pub fn destination_unreachable<S: Body>(about: &Packet<S>) -> Packet<Icmp> {
    error(about, [(3, 3), (1, 4)])
}

/// Time exceeded in transit: an error about a packet, by a router (give it with
/// `.from(…)`) on its way.
pub fn time_exceeded<S: Body>(about: &Packet<S>) -> Packet<Icmp> {
    error(about, [(11, 0), (3, 0)])
}

/// Packet too big, or fragmentation needed: an error about a packet, by a router
/// (give it with `.from(…)`) whose next link carries `mtu` bytes.
pub fn packet_too_big<S: Body>(about: &Packet<S>, mtu: u16) -> Packet<Icmp> {
    // The two families keep the number in the same place: the 32 bits of
    // ICMPv6 end where the 16 bits of ICMP are.
    error(about, [(3, 4), (2, 0)]).rest(u32::from(mtu).to_be_bytes())
}

/// A question for the link address of `target`, sent to the target's group.
pub fn neighbour_solicitation(target: Ipv6Addr) -> Packet<Icmp> {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    discovery(135, &target.octets()).usually_to(group)
}

/// An announcement of the link address of `target`, solicited and overriding
/// when it goes `.to(…)` an end, else unsolicited to everyone.
pub fn neighbour_advertisement(target: Ipv6Addr) -> Packet<Icmp> {
    discovery(136, &target.octets())
        .rest([0x60, 0, 0, 0])
        .usually_to(ALL_NODES)
}

/// A question for routers.
pub fn router_solicitation() -> Packet<Icmp> {
    discovery(133, &[]).usually_to(ALL_ROUTERS)
}

/// A router's claim to be the default gateway for half an hour.
pub fn router_advertisement() -> Packet<Icmp> {
    let [high, low] = 1800u16.to_be_bytes();
    discovery(134, &[0; 8])
        .rest([64, 0, high, low])
        .usually_to(ALL_NODES)
}

/// A router's advice to reach `destination` through `target`.
pub fn redirect(target: Ipv6Addr, destination: Ipv6Addr) -> Packet<Icmp> {
    discovery(137, &[target.octets(), destination.octets()].concat())
}

fn discovery(kind: u8, body: &[u8]) -> Packet<Icmp> {
    // RFC 4861 takes nothing that could have passed a router.
    let mut packet = icmpv6(kind, 0).hop_limit(255);
    packet.segment.body = body.to_vec();
    packet
}

/// The words of ICMP.
impl Packet<Icmp> {
    /// Any code.
    pub fn code(mut self, code: u8) -> Self {
        self.segment.code = code;
        self
    }

    /// The second word of the header.
    pub fn rest(mut self, rest: [u8; 4]) -> Self {
        self.segment.rest = rest;
        self
    }

    /// Identifier and sequence number of an echo.
    pub fn echo(self, identifier: u16, sequence: u16) -> Self {
        let [i0, i1] = identifier.to_be_bytes();
        let [s0, s1] = sequence.to_be_bytes();
        self.rest([i0, i1, s0, s1])
    }

    /// Quotes a packet from its network header on, as long as an error may be.
    pub fn quoting<S: Body>(self, quoted: &Packet<S>) -> Self {
        let longest = match self.ip.family() {
            Family::V4 => LONGEST_QUOTE_V4,
            Family::V6 => LONGEST_QUOTE_V6,
        };
        let bytes = quoted.network_bytes();
        let length = bytes.len().min(longest);
        self.payload(&bytes[..length])
    }

    /// Cuts, or fills up with zeros, the quotation to exactly `length` bytes.
    pub fn quote_length(mut self, length: usize) -> Self {
        self.payload.resize(length, 0);
        self
    }

    /// Adds the option "my link address".
    pub fn source_link_address(self, mac: Mac) -> Self {
        self.nd_option(nd_option::SOURCE_LINK_ADDRESS, &mac.0)
    }

    /// Adds the option "the target's link address".
    pub fn target_link_address(self, mac: Mac) -> Self {
        self.nd_option(nd_option::TARGET_LINK_ADDRESS, &mac.0)
    }

    /// Adds the option "this prefix is on the link, make addresses from it".
    pub fn prefix(self, prefix: Ipv6Addr, length: u8) -> Self {
        let mut value = vec![length, 0xc0];
        value.extend(86400u32.to_be_bytes());
        value.extend(86400u32.to_be_bytes());
        value.extend([0; 4]);
        value.extend(prefix.octets());
        self.nd_option(nd_option::PREFIX, &value)
    }

    /// Adds any neighbour discovery option, padded to a multiple of eight bytes.
    pub fn nd_option(mut self, kind: u8, value: &[u8]) -> Self {
        let length = (2 + value.len()).next_multiple_of(8);
        let end = self.segment.options.len() + length;
        self.segment.options.extend([kind, (length / 8) as u8]);
        self.segment.options.extend(value);
        self.segment.options.resize(end, 0);
        self
    }

    /// Adds raw bytes to the neighbour discovery options: one of length zero, or
    /// one cut short.
    pub fn nd_option_bytes(mut self, bytes: &[u8]) -> Self {
        self.segment.options.extend(bytes);
        self
    }

    pub(super) fn usually_to(mut self, destination: impl Into<IpAddr>) -> Self {
        self.segment.usual_destination = Some(destination.into());
        self
    }
}

impl Body for Icmp {
    fn place(&self) -> Position {
        Position::Ip(self.protocol)
    }

    fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(self.rest);
        bytes.extend(&self.body);
        bytes.extend(&self.options);
        bytes.extend(payload);
        // ICMP and IGMP sum themselves alone, ICMPv6 as every upper layer of IPv6.
        let pseudo = (self.protocol == protocol::ICMPV6).then_some(protocol::ICMPV6);
        around.seal(pseudo, &mut bytes, 2);
        bytes
    }

    fn summary(&self) -> Summary {
        let name = match (self.protocol, self.kind) {
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => "echo request",
            (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => "echo reply",
            (protocol::ICMP, 3) | (protocol::ICMPV6, 1) => "unreachable",
            (protocol::ICMP, 11) | (protocol::ICMPV6, 3) => "time exceeded",
            (protocol::ICMPV6, 2) => "packet too big",
            (protocol::ICMPV6, 130) | (protocol::IGMP, 0x11) => "membership query",
            (protocol::ICMPV6, 131 | 143) | (protocol::IGMP, 0x12 | 0x16 | 0x22) => {
                "membership report"
            }
            (protocol::ICMPV6, 132) | (protocol::IGMP, 0x17) => "membership ended",
            (protocol::ICMPV6, 133) => "router solicitation",
            (protocol::ICMPV6, 134) => "router advertisement",
            (protocol::ICMPV6, 135) => "neighbour solicitation",
            (protocol::ICMPV6, 136) => "neighbour advertisement",
            (protocol::ICMP, 5) | (protocol::ICMPV6, 137) => "redirect",
            _ => "",
        };
        let protocol = match self.protocol {
            protocol::ICMP => "icmp",
            protocol::IGMP => "igmp",
            _ => "icmpv6",
        };
        let kind = format!("{protocol}/{}/{} {name}", self.kind, self.code);
        let mut detail = Vec::new();
        // Neighbour messages begin with their target.
        if let (135..=137, Some(target)) = (self.kind, self.body.first_chunk::<16>()) {
            detail.push(format!("for {}", Ipv6Addr::from(*target)));
        }
        Summary {
            kind: kind.trim_end().into(),
            detail,
            ..Summary::default()
        }
    }

    fn usual_destination(&self) -> Option<IpAddr> {
        self.usual_destination
    }

    fn answered(&self, _: usize) -> Self {
        let kind = match (self.protocol, self.kind) {
            (protocol::ICMP, 8) => 0,
            (protocol::ICMPV6, 128) => 129,
            (_, other) => other,
        };
        Self {
            kind,
            ..self.clone()
        }
    }
}
