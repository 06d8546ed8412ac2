//! The IPv4 header with its options, the IPv6 header with its chain, and
//! fragments of both.
//!
//! Invariant: a setting that only one family has is refused (by a panic that
//! names it) on a packet of the other, rather than silently left out; a test
//! would otherwise pass for a packet it never sent.

use std::net::IpAddr;

use super::{Body, End, Family, Packet, checksum};

/// The protocol numbers the builder knows by name.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

/// IPv4 options the builder knows by name (RFC 791 section 3.1).
pub mod option {
    /// Padding between options.
    pub const NOTHING: u8 = 1;
    /// Loose source and record route.
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    /// Both source routes.
    pub const SOURCE_ROUTES: [u8; 2] = [LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE];
    /// Router alert (RFC 2113).
    pub const ROUTER_ALERT: u8 = 148;
}

/// The network header, as the builder remembers it.
#[derive(Clone)]
pub(super) struct Ip {
    pub(super) source: End,
    pub(super) destination: Option<End>,
    pub(super) family: Option<Family>,
    source_ip: Option<IpAddr>,
    destination_ip: Option<IpAddr>,
    hop_limit: u8,
    traffic_class: u8,
    version: Option<u8>,
    protocol: Option<u8>,
    length: Option<u16>,
    identification: u32,
    fragment: Option<Fragment>,
    only_v4: OnlyV4,
    only_v6: OnlyV6,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Fragment {
    offset: usize,
    more: bool,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct OnlyV4 {
    ihl: Option<u8>,
    options: Vec<u8>,
    dont_fragment: bool,
    reserved: bool,
    checksum: Option<u16>,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct OnlyV6 {
    extensions: Vec<Extension>,
    flow_label: u32,
}

impl Default for Ip {
    fn default() -> Self {
        Self {
            source: End::number(1),
            destination: None,
            family: None,
            source_ip: None,
            destination_ip: None,
            hop_limit: 64,
            traffic_class: 0,
            version: None,
            protocol: None,
            length: None,
            identification: 1,
            fragment: None,
            only_v4: OnlyV4::default(),
            only_v6: OnlyV6::default(),
        }
    }
}

/// An IPv6 extension header.
#[derive(Clone, PartialEq, Eq)]
pub struct Extension {
    protocol: u8,
    /// Everything behind the next-header byte, the length byte included.
    rest: Vec<u8>,
}

impl Extension {
    /// Hop-by-hop options, padded to a multiple of eight bytes.
    pub fn hop_by_hop(options: &[u8]) -> Self {
        Self::of_options(protocol::HOP_BY_HOP, options)
    }

    /// Destination options, padded to a multiple of eight bytes.
    pub fn destination_options(options: &[u8]) -> Self {
        Self::of_options(protocol::DESTINATION_OPTIONS, options)
    }

    /// A router alert for multicast listener discovery (RFC 2711).
    pub fn router_alert() -> Self {
        Self::hop_by_hop(&[5, 2, 0, 0])
    }

    /// A hop-by-hop jumbo payload option (RFC 2675).
    pub fn jumbo(length: u32) -> Self {
        let [a, b, c, d] = length.to_be_bytes();
        Self::hop_by_hop(&[0xc2, 4, a, b, c, d])
    }

    /// A routing header: type 0 and 2 carry addresses, 4 is segment routing.
    pub fn routing(kind: u8, segments_left: u8, data: &[u8]) -> Self {
        let body = [&[kind, segments_left], data].concat();
        Self::measured(protocol::ROUTING, &body)
    }

    /// A fragment header with any offset (in bytes) at any place of the chain;
    /// [`Packet::fragment`] puts one at its end. At offset 0 with nothing more
    /// to come it makes an atomic fragment (RFC 6946).
    pub fn fragment(identification: u32, offset: usize, more: bool) -> Self {
        let word = fragment_word(offset) << 3 | u16::from(more);
        let mut rest = vec![0];
        rest.extend(word.to_be_bytes());
        rest.extend(identification.to_be_bytes());
        Self {
            protocol: protocol::FRAGMENT,
            rest,
        }
    }

    /// An authentication header with `icv` as its check value (RFC 4302).
    ///
    /// # Panics
    ///
    /// Panics if the check value is not a multiple of four bytes long.
    pub fn authentication(icv: &[u8]) -> Self {
        assert!(
            icv.len().is_multiple_of(4),
            "the check value is made of 32-bit words"
        );
        // The only extension header whose length counts 32-bit words, less two.
        let words = ((12 + icv.len()) / 4 - 2) as u8;
        let mut rest = vec![words, 0, 0];
        rest.extend(0x100u32.to_be_bytes());
        rest.extend(1u32.to_be_bytes());
        rest.extend(icv);
        Self {
            protocol: protocol::AUTHENTICATION,
            rest,
        }
    }

    /// Any header of the usual form (next header, length, `body`), padded to a
    /// multiple of eight bytes: mobility, HIP, shim6, experimental.
    pub fn measured(protocol: u8, body: &[u8]) -> Self {
        let length = (2 + body.len()).next_multiple_of(8);
        let mut rest = vec![(length / 8 - 1) as u8];
        rest.extend(body);
        rest.resize(length - 1, 0);
        Self { protocol, rest }
    }

    fn of_options(protocol: u8, options: &[u8]) -> Self {
        let length = (2 + options.len()).next_multiple_of(8);
        let mut body = options.to_vec();
        // One byte is padded by Pad1, more by one PadN: RFC 8200 section 4.2.
        match length - 2 - options.len() {
            0 => {}
            1 => body.push(0),
            n => {
                body.extend([1, (n - 2) as u8]);
                body.resize(length - 2, 0);
            }
        }
        Self::measured(protocol, &body)
    }

    /// Claims another length (in the header's own unit); its bytes stay.
    pub fn with_length(mut self, length: u8) -> Self {
        self.rest[0] = length;
        self
    }

    /// Its length in the packet.
    fn len(&self) -> usize {
        1 + self.rest.len()
    }
}

/// The offset field of a fragment.
fn fragment_word(offset: usize) -> u16 {
    assert!(
        offset.is_multiple_of(8),
        "fragments start at multiples of eight bytes, not {offset}"
    );
    let units = offset / 8;
    assert!(
        units < 1 << 13,
        "the offset {offset} does not fit into 13 bits"
    );
    units as u16
}

impl Ip {
    pub(super) fn family(&self) -> Family {
        let overridden = || self.source_ip.or(self.destination_ip).map(Family::of);
        let both_have_v4 =
            || self.source.ipv4.is_some() && self.destination.is_none_or(|end| end.ipv4.is_some());
        self.family.or_else(overridden).unwrap_or_else(|| {
            if both_have_v4() {
                Family::V4
            } else {
                Family::V6
            }
        })
    }

    pub(super) fn source_ip(&self) -> IpAddr {
        let family = self.family();
        self.source_ip
            .or_else(|| self.source.ip(family))
            .unwrap_or_else(|| {
                panic!("the sender of this {family} packet has no address of that family")
            })
    }

    /// `usual` is where such a packet goes when the test names no destination.
    pub(super) fn destination_ip(&self, usual: Option<IpAddr>) -> IpAddr {
        let family = self.family();
        let of_end = match (self.destination, usual) {
            (Some(end), _) => end.ip(family),
            (None, Some(usual)) => Some(usual),
            (None, None) => End::number(2).ip(family),
        };
        self.destination_ip.or(of_end).unwrap_or_else(|| {
            panic!("the receiver of this {family} packet has no address of that family")
        })
    }

    /// The header, or headers, before `inner`.
    pub(super) fn packet(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        inner: &[u8],
    ) -> Vec<u8> {
        let protocol = self.protocol.unwrap_or(protocol);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.refuse(self.only_v6 != OnlyV6::default(), "IPv6 alone", Family::V4);
                self.ipv4(source.octets(), destination.octets(), protocol, inner)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.refuse(self.only_v4 != OnlyV4::default(), "IPv4 alone", Family::V6);
                self.ipv6(source.octets(), destination.octets(), protocol, inner)
            }
            _ => panic!("{source} and {destination} are of different families"),
        }
    }

    fn refuse(&self, set: bool, what: &str, family: Family) {
        assert!(!set, "this {family} packet was given a setting of {what}");
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], protocol: u8, inner: &[u8]) -> Vec<u8> {
        let only = &self.only_v4;
        let mut options = only.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_length = 20 + options.len();
        let ihl = only.ihl.unwrap_or((header_length / 4) as u8);
        let total = self.length.unwrap_or((header_length + inner.len()) as u16);
        let mut flags_and_offset =
            u16::from(only.reserved) << 15 | u16::from(only.dont_fragment) << 14;
        if let Some(Fragment { offset, more }) = self.fragment {
            flags_and_offset |= u16::from(more) << 13 | fragment_word(offset);
        }
        let mut bytes = vec![
            self.version.unwrap_or(4) << 4 | ihl & 0xf,
            self.traffic_class,
        ];
        bytes.extend(total.to_be_bytes());
        bytes.extend((self.identification as u16).to_be_bytes());
        bytes.extend(flags_and_offset.to_be_bytes());
        bytes.extend([self.hop_limit, protocol, 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(options);
        bytes.extend(inner);
        // Correct for whoever believes the length the header claims, so that a
        // bad length is not dropped for a bad checksum.
        let claimed = (usize::from(ihl & 0xf) * 4).clamp(20, bytes.len());
        let sum = only
            .checksum
            .unwrap_or_else(|| checksum::internet(&[&bytes[..claimed]]));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], protocol: u8, inner: &[u8]) -> Vec<u8> {
        let mut chain = self.only_v6.extensions.clone();
        if let Some(Fragment { offset, more }) = self.fragment {
            chain.push(Extension::fragment(self.identification, offset, more));
        }
        let chain_length: usize = chain.iter().map(Extension::len).sum();
        let length = self.length.unwrap_or((chain_length + inner.len()) as u16);
        let first_word = u32::from(self.version.unwrap_or(6)) << 28
            | u32::from(self.traffic_class) << 20
            | self.only_v6.flow_label & 0xf_ffff;
        let nexts: Vec<u8> = chain.iter().map(|x| x.protocol).chain([protocol]).collect();
        let mut bytes = first_word.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend([nexts[0], self.hop_limit]);
        bytes.extend(source);
        bytes.extend(destination);
        for (extension, next) in chain.iter().zip(&nexts[1..]) {
            bytes.push(*next);
            bytes.extend(&extension.rest);
        }
        bytes.extend(inner);
        bytes
    }

    /// This header for the fragment at `offset`.
    pub(super) fn at_offset(&self, offset: usize, more: bool) -> Self {
        Self {
            fragment: Some(Fragment { offset, more }),
            ..self.clone()
        }
    }

    /// A header without peculiarities in the other direction.
    pub(super) fn turned(&self) -> Self {
        Self {
            source: self.destination.unwrap_or(End::number(2)),
            destination: Some(self.source),
            family: Some(self.family()),
            source_ip: self.destination_ip,
            destination_ip: self.source_ip,
            ..Self::default()
        }
    }

    /// Returns its unusual properties.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let usual = Self::default();
        if self.hop_limit != usual.hop_limit {
            remarks.push(format!("hop limit {}", self.hop_limit));
        }
        if let Some(Fragment { offset, more }) = self.fragment {
            let more = if more { ", more" } else { ", last" };
            remarks.push(format!(
                "fragment {:#x} at {offset}{more}",
                self.identification
            ));
        }
        if let Some(version) = self.version {
            remarks.push(format!("ip version {version}"));
        }
        if let Some(protocol) = self.protocol {
            remarks.push(format!("protocol {protocol}"));
        }
        if let Some(length) = self.length {
            remarks.push(format!("ip length {length}"));
        }
        if let Some(ihl) = self.only_v4.ihl {
            remarks.push(format!("ihl {ihl}"));
        }
        if !self.only_v4.options.is_empty() {
            remarks.push(format!("ip options {:02x?}", self.only_v4.options));
        }
        if self.only_v4.reserved {
            remarks.push("reserved bit".into());
        }
        if let Some(sum) = self.only_v4.checksum {
            remarks.push(format!("header checksum {sum:#06x}"));
        }
        let chain = &self.only_v6.extensions;
        if chain.len() > 8 {
            remarks.push(format!("{} extension headers", chain.len()));
        } else if !chain.is_empty() {
            let chain: Vec<u8> = chain.iter().map(|extension| extension.protocol).collect();
            remarks.push(format!("extension headers {chain:?}"));
        }
        remarks
    }
}

/// The network header. What only one family has is refused in the other.
impl<S: Body> Packet<S> {
    /// Builds it in this family; otherwise IPv4 when both ends have an IPv4
    /// address, else IPv6.
    pub fn family(mut self, family: Family) -> Self {
        self.ip.family = Some(family);
        self
    }

    /// Claims this source address, whoever sends it.
    pub fn source_ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.ip.source_ip = Some(address.into());
        self
    }

    /// Claims this destination address, whoever's MAC address it goes to.
    pub fn destination_ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.ip.destination_ip = Some(address.into());
        self
    }

    /// Time to live, or hop limit.
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.ip.hop_limit = hops;
        self
    }

    /// Type of service, or traffic class.
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.ip.traffic_class = class;
        self
    }

    /// Claims another IP version; the header keeps its form.
    pub fn version(mut self, version: u8) -> Self {
        self.ip.version = Some(version);
        self
    }

    /// Claims another protocol (in IPv6, behind the whole chain) than what
    /// follows.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.ip.protocol = Some(protocol);
        self
    }

    /// Claims another length: IPv4's total length, IPv6's payload length.
    pub fn ip_length(mut self, length: u16) -> Self {
        self.ip.length = Some(length);
        self
    }

    /// The identification its fragments have in common. IPv4 has 16 bits of it.
    pub fn identification(mut self, identification: u32) -> Self {
        self.ip.identification = identification;
        self
    }

    /// Declares what it carries to be the fragment at `offset` bytes. The
    /// header of its transport protocol is written all the same, so that later
    /// fragments can mimic one; [`Packet::fragments`] cuts a datagram truly.
    pub fn fragment(mut self, identification: u32, offset: usize, more: bool) -> Self {
        fragment_word(offset);
        self.ip.identification = identification;
        self.ip.fragment = Some(Fragment { offset, more });
        self
    }

    /// IPv4: claims another header length (in 32-bit words); the bytes stay.
    pub fn ihl(mut self, words: u8) -> Self {
        self.ip.only_v4.ihl = Some(words);
        self
    }

    /// IPv4: options, padded with zeros (end of list) to 32-bit words.
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip.only_v4.options = options.to_vec();
        self
    }

    /// IPv4: sets the don't-fragment flag.
    pub fn dont_fragment(mut self) -> Self {
        self.ip.only_v4.dont_fragment = true;
        self
    }

    /// IPv4: sets the flag that must be zero.
    pub fn reserved_flag(mut self) -> Self {
        self.ip.only_v4.reserved = true;
        self
    }

    /// IPv4: writes this header checksum.
    pub fn header_checksum(mut self, sum: u16) -> Self {
        self.ip.only_v4.checksum = Some(sum);
        self
    }

    /// IPv6: adds a header at the end of the chain.
    pub fn extension(self, extension: Extension) -> Self {
        self.extensions(1, extension)
    }

    /// IPv6: adds the same header `n` times.
    pub fn extensions(mut self, n: usize, extension: Extension) -> Self {
        self.ip.only_v6.extensions.extend(vec![extension; n]);
        self
    }

    /// IPv6: the flow label.
    pub fn flow_label(mut self, label: u32) -> Self {
        self.ip.only_v6.flow_label = label;
        self
    }
}
