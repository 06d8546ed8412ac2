//! Packets by meaning.
//!
//! A test says what a packet is, `tcp().from(web).to(db).dport(5432).syn()`, and
//! gets bytes that every receiver accepts: lengths, checksums, next headers and
//! multicast MAC addresses follow from the meaning. Each of them can then be
//! made wrong by name, alone, with all others still right for the lie: that is
//! what the evasion tests send. Printed, a packet is one line of the same
//! meaning.
//!
//! ```
//! use cofferdam_tests::packet::{End, tcp};
//!
//! let (web, db) = (End::number(1), End::number(2));
//! let syn = tcp().from(web).to(db).dport(5432).syn();
//! assert_eq!(syn.to_string(), "tcp 10.0.0.1:40000 > 10.0.0.2:5432 SYN");
//! assert_eq!(syn.bytes().len(), 14 + 20 + 20);
//! let answer = syn.reply().syn().ack();
//! let inside_a_tunnel = cofferdam_tests::packet::vxlan(7, &syn).to(db);
//! # _ = (answer, inside_a_tunnel);
//! ```
//!
//! The builder knows formats, nothing of worlds, kernels or verdicts, and shares
//! no code with the parser that it tests.
//!
//! Invariant: a word that means nothing for a packet (IPv4 options on IPv6, a
//! fragment offset between multiples of eight) panics instead of being left out.

mod address;
pub mod checksum;
mod groups;
mod icmp;
mod ip;
mod link;
mod sctp;
mod transport;
mod tunnel;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

pub use address::{End, Family, Mac};
pub use groups::{
    GroupRecord, group_joined, group_left, group_query, group_record, group_report,
    group_source_query, igmpv1_report, mldv2_report, multicast_router,
};
pub use icmp::{
    Icmp, destination_unreachable, icmp, icmpv6, neighbour_advertisement, neighbour_solicitation,
    packet_too_big, ping, redirect, router_advertisement, router_solicitation, time_exceeded,
};
pub use ip::{Extension, option, protocol};
pub use link::{Arp, Ether, arp_announcement, arp_reply, arp_request, ether, ethertype, llc};
pub use sctp::{Sctp, chunk, sctp};
pub use transport::{Ported, Protocol, Tcp, Udp, flag, ip_protocol, no_next_header, tcp, udp};
pub use tunnel::{geneve, gre, gre_ethernet, ipip, vxlan};

/// A packet described by meaning; [`Packet::bytes`] writes it.
///
/// `S` is what it carries, so that `.syn()` is a word of TCP alone.
/// `Packet` without a parameter carries any of them, for lists:
/// `vec![tcp().syn().erased(), udp().erased()]`.
#[derive(Clone)]
pub struct Packet<S = Segment> {
    link: link::Link,
    ip: ip::Ip,
    segment: S,
    payload: Vec<u8>,
    checksum: Checksum,
}

/// Body of a packet.
#[derive(Clone)]
pub enum Segment {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// SCTP.
    Sctp(Sctp),
    /// ICMP, ICMPv6 or IGMP.
    Icmp(Icmp),
    /// Another IP protocol, or a later fragment of any.
    Protocol(Protocol),
    /// ARP.
    Arp(Arp),
    /// Another EtherType.
    Ether(Ether),
}

/// Way in which the checksum of an IP packet's body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// As the receiver expects it.
    #[default]
    Correct,
    /// Not as the receiver expects it.
    Wrong,
    /// This number.
    Fixed(u32),
}

/// Position of a body in a frame.
pub enum Position {
    /// Behind an IP header, under this protocol number.
    Ip(u8),
    /// Right behind the Ethernet header, under this EtherType.
    Ethertype(u16),
}

/// Parts of the headers before a body that it must know.
pub struct Around {
    source: IpAddr,
    destination: IpAddr,
    source_mac: Mac,
    destination_mac: Mac,
    arp_addresses: (Ipv4Addr, Ipv4Addr),
    checksum: Checksum,
}

/// One line about a body.
#[derive(Default)]
pub struct Summary {
    kind: String,
    ports: Option<(u16, u16)>,
    detail: Vec<String>,
}

/// Something a packet can carry: one of the kinds of [`Segment`].
pub trait Body: Clone + Into<Segment> {
    /// Returns its position.
    fn place(&self) -> Position;

    /// Its bytes, `payload` included.
    fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8>;

    /// Returns the text to print.
    fn summary(&self) -> Summary;

    /// Returns the destination of such a packet when the test does not say.
    fn usual_destination(&self) -> Option<IpAddr> {
        None
    }

    /// Returns the answer of its receiver, which has got `received` bytes of payload.
    fn answered(&self, received: usize) -> Self {
        _ = received;
        self.clone()
    }
}

impl Around {
    /// Writes the Internet checksum of `segment` over the two bytes at `at`,
    /// with a pseudo-header when `protocol` has one.
    fn seal(&self, pseudo: Option<u8>, segment: &mut [u8], at: usize) {
        let field = at..at + 2;
        segment[field.clone()].fill(0);
        let header = pseudo.map_or(Vec::new(), |protocol| {
            checksum::pseudo_header(self.source, self.destination, protocol, segment.len())
        });
        let correct = match checksum::internet(&[&header, segment]) {
            // UDP alone gives zero the meaning "none", and writes the other
            // zero of this arithmetic in its place (RFC 768).
            0 if pseudo == Some(protocol::UDP) => 0xffff,
            sum => sum,
        };
        let sum = match self.checksum {
            Checksum::Correct => correct,
            // Neither the complement nor zero, which may mean something.
            Checksum::Wrong => correct ^ 0x0101,
            Checksum::Fixed(sum) => sum as u16,
        };
        segment[field].copy_from_slice(&sum.to_be_bytes());
    }
}

impl<S: Body> Packet<S> {
    fn carrying(segment: S) -> Self {
        Self {
            link: link::Link::default(),
            ip: ip::Ip::default(),
            segment,
            payload: Vec::new(),
            checksum: Checksum::Correct,
        }
    }

    /// Sets its sender. Without this word it is [`End::number`]`(1)`.
    pub fn from(mut self, source: impl Into<End>) -> Self {
        self.ip.source = source.into();
        self
    }

    /// Sets its receiver. Without this word it is [`End::number`]`(2)`, or whom such a packet
    /// concerns: a neighbour solicitation goes to its target's group.
    pub fn to(mut self, destination: impl Into<End>) -> Self {
        self.ip.destination = Some(destination.into());
        self
    }

    /// The bytes behind its last header.
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// Sets the way in which its transport checksum is written.
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// The same packet without its type's words.
    pub fn erased(self) -> Packet {
        Packet {
            link: self.link,
            ip: self.ip,
            segment: self.segment.into(),
            payload: self.payload,
            checksum: self.checksum,
        }
    }

    /// The frame.
    ///
    /// # Panics
    ///
    /// Panics if a setting contradicts the packet's family, or an end lacks an address of it.
    pub fn bytes(&self) -> Vec<u8> {
        let around = self.around();
        let ethertype = match self.segment.place() {
            Position::Ethertype(ethertype) => ethertype,
            Position::Ip(_) => match self.ip.family() {
                Family::V4 => ethertype::IPV4,
                Family::V6 => ethertype::IPV6,
            },
        };
        let inner = self.network_bytes();
        self.link
            .frame(around.source_mac, around.destination_mac, ethertype, &inner)
    }

    /// The first `length` bytes of the frame, all lengths in it unchanged.
    ///
    /// # Panics
    ///
    /// Panics if the frame is shorter: nothing would have been cut.
    pub fn truncated(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        assert!(
            length <= bytes.len(),
            "{self} has only {} bytes",
            bytes.len()
        );
        bytes.truncate(length);
        bytes
    }

    /// The packet from its network header on, as a tunnel or an ICMP error
    /// carries it.
    pub fn network_bytes(&self) -> Vec<u8> {
        let around = self.around();
        let body = self.segment.encode(&around, &self.payload);
        match self.segment.place() {
            Position::Ethertype(_) => body,
            Position::Ip(protocol) => {
                self.ip
                    .packet(around.source, around.destination, protocol, &body)
            }
        }
    }

    /// Returns the body of the IP packet: the transport header and the payload, as a raw socket
    /// takes it.
    pub fn transport_bytes(&self) -> Vec<u8> {
        self.segment.encode(&self.around(), &self.payload)
    }

    /// Its fragments, cut at these offsets (in bytes behind the IP headers), in
    /// order. Each is a packet of its own and can be changed further. IPv6
    /// extension headers added before are in each fragment; headers of the
    /// fragmentable part are what the packet carries.
    ///
    /// # Panics
    ///
    /// Panics if the offsets do not rise in multiples of eight within the packet.
    pub fn fragments(&self, cuts: &[usize]) -> Vec<Packet<Protocol>> {
        let Position::Ip(number) = self.segment.place() else {
            panic!("only IP packets have fragments");
        };
        let whole = self.transport_bytes();
        let starts = [0].iter().chain(cuts);
        let ends = cuts
            .iter()
            .chain([whole.len()].iter())
            .copied()
            .collect::<Vec<_>>();
        starts
            .zip(ends)
            .map(|(&start, end)| {
                assert!(
                    start < end,
                    "no bytes between the offsets {start} and {end}"
                );
                let mut fragment = ip_protocol(number).payload(&whole[start..end]);
                fragment.link = self.link.clone();
                fragment.ip = self.ip.at_offset(start, end < whole.len());
                fragment
            })
            .collect()
    }

    /// Returns the packet that the receiver would send back: ends, ports and numbers exchanged,
    /// no payload, and none of this packet's peculiarities.
    pub fn reply(&self) -> Self {
        Self {
            ip: self.ip.turned(),
            ..Self::carrying(self.segment.answered(self.payload.len()))
        }
    }

    fn around(&self) -> Around {
        let ip = &self.ip;
        let usual = self.segment.usual_destination();
        let receiver = ip.destination.unwrap_or(End::number(2));
        let arp_addresses = (
            ip.source.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            receiver.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        );
        let (source, destination) = match self.segment.place() {
            Position::Ip(_) => (ip.source_ip(), ip.destination_ip(usual)),
            Position::Ethertype(_) => (arp_addresses.0.into(), arp_addresses.1.into()),
        };
        let unasked = if ip.destination.is_none() {
            usual
        } else {
            None
        };
        Around {
            source,
            destination,
            source_mac: self.link.source.unwrap_or(ip.source.mac),
            destination_mac: self
                .link
                .destination
                .or(unasked.and_then(Mac::of_multicast))
                .unwrap_or(receiver.mac),
            arp_addresses,
            checksum: self.checksum,
        }
    }
}

impl<S: Body> fmt::Display for Packet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            kind,
            ports,
            detail,
        } = self.segment.summary();
        let around = self.around();
        write!(f, "{kind} ")?;
        match (self.segment.place(), ports) {
            (Position::Ip(_), Some((source, destination))) => {
                let source = std::net::SocketAddr::new(around.source, source);
                let destination = std::net::SocketAddr::new(around.destination, destination);
                write!(f, "{source} > {destination}")?;
            }
            (Position::Ip(_), None) => write!(f, "{} > {}", around.source, around.destination)?,
            (Position::Ethertype(_), _) => {
                write!(f, "{} > {}", around.source_mac, around.destination_mac)?;
            }
        }
        for word in detail {
            write!(f, " {word}")?;
        }
        let mut remarks = self.ip.remarks();
        remarks.extend(self.link.remarks());
        if self.checksum != Checksum::Correct {
            remarks.push(format!("checksum {:?}", self.checksum).to_lowercase());
        }
        if !self.payload.is_empty() {
            remarks.push(format!("+{} bytes", self.payload.len()));
        }
        if !remarks.is_empty() {
            write!(f, " ({})", remarks.join("; "))?;
        }
        Ok(())
    }
}

impl<S: Body> fmt::Debug for Packet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Implements the conversions of each kind into [`Segment`] and the choice
/// among them.
macro_rules! kinds {
    ($($kind:ident),*) => {
        $(
            impl From<$kind> for Segment {
                fn from(kind: $kind) -> Self {
                    Self::$kind(kind)
                }
            }
        )*

        impl Body for Segment {
            fn place(&self) -> Position {
                match self { $(Self::$kind(kind) => kind.place()),* }
            }

            fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8> {
                match self { $(Self::$kind(kind) => kind.encode(around, payload)),* }
            }

            fn summary(&self) -> Summary {
                match self { $(Self::$kind(kind) => kind.summary()),* }
            }

            fn usual_destination(&self) -> Option<IpAddr> {
                match self { $(Self::$kind(kind) => kind.usual_destination()),* }
            }

            fn answered(&self, received: usize) -> Self {
                match self { $(Self::$kind(kind) => kind.answered(received).into()),* }
            }
        }
    };
}

kinds!(Tcp, Udp, Sctp, Icmp, Protocol, Arp, Ether);
