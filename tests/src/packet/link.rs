//! Ethernet and what can stand between it and IP: tags, LLC/SNAP, label stacks;
//! and what stands in the place of IP: ARP and arbitrary EtherTypes.

use std::net::Ipv4Addr;

use super::{Around, Body, Mac, Packet, Position, Summary};

/// The EtherTypes the builder knows by name.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q: a customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad: a service tag, the outer one of QinQ.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// MPLS unicast.
    pub const MPLS: u16 = 0x8847;
    /// PPPoE session.
    pub const PPPOE: u16 = 0x8864;
    /// Port authentication, 802.1X.
    pub const EAPOL: u16 = 0x888e;
    /// MACsec, 802.1AE.
    pub const MACSEC: u16 = 0x88e5;
    /// Transparent Ethernet bridging: a whole frame inside GRE or Geneve.
    pub const ETHERNET: u16 = 0x6558;
}

/// The Ethernet header and its relatives, as the builder remembers them.
#[derive(Clone, Default)]
pub(super) struct Link {
    pub(super) source: Option<Mac>,
    pub(super) destination: Option<Mac>,
    ethertype: Option<u16>,
    shims: Vec<Shim>,
    llc: Option<Vec<u8>>,
    trailer: Vec<u8>,
    least: usize,
}

/// Bytes between the Ethernet header and the network header.
#[derive(Clone)]
enum Shim {
    /// A tag: control information, then the next EtherType.
    Tag { tpid: u16, tci: u16 },
    /// Bytes that do not say what follows them.
    Opaque { ethertype: u16, bytes: Vec<u8> },
}

impl Link {
    /// The frame around `inner`, whose EtherType is `ethertype`.
    pub(super) fn frame(
        &self,
        source: Mac,
        destination: Mac,
        ethertype: u16,
        inner: &[u8],
    ) -> Vec<u8> {
        let mut body = inner.to_vec();
        // From the inside out: each shim names what it wraps and is then named
        // by what wraps it.
        let mut next = self.ethertype.unwrap_or(ethertype);
        if let Some(llc) = &self.llc {
            body = [llc.as_slice(), &next.to_be_bytes(), &body].concat();
            // An 802.3 frame has its length where Ethernet II has the type.
            next = body.len() as u16;
        }
        for shim in self.shims.iter().rev() {
            match shim {
                Shim::Tag { tpid, tci } => {
                    body = [&tci.to_be_bytes()[..], &next.to_be_bytes(), &body].concat();
                    next = *tpid;
                }
                Shim::Opaque { ethertype, bytes } => {
                    body = [bytes.as_slice(), &body].concat();
                    next = *ethertype;
                }
            }
        }
        let mut frame = [&destination.0[..], &source.0, &next.to_be_bytes(), &body].concat();
        frame.extend(&self.trailer);
        frame.resize(frame.len().max(self.least), 0);
        frame
    }

    /// Returns its unusual properties.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for shim in &self.shims {
            remarks.push(match shim {
                Shim::Tag {
                    tpid: ethertype::VLAN,
                    tci,
                } => format!("vlan {}", tci & 0xfff),
                Shim::Tag { tpid, tci } => format!("tag {tpid:#06x} vlan {}", tci & 0xfff),
                Shim::Opaque { ethertype, bytes } => {
                    format!("{} bytes of {ethertype:#06x}", bytes.len())
                }
            });
        }
        if self.llc.is_some() {
            remarks.push("snap".into());
        }
        if let Some(ethertype) = self.ethertype {
            remarks.push(format!("ethertype {ethertype:#06x}"));
        }
        if let Some(mac) = self.source {
            remarks.push(format!("source mac {mac}"));
        }
        if let Some(mac) = self.destination {
            remarks.push(format!("via {mac}"));
        }
        if !self.trailer.is_empty() {
            remarks.push(format!("trailer of {}", self.trailer.len()));
        }
        remarks
    }
}

/// The Ethernet header, tags and padding.
impl<S: Body> Packet<S> {
    /// Sends it from another Ethernet address than its sender's.
    pub fn source_mac(mut self, mac: Mac) -> Self {
        self.link.source = Some(mac);
        self
    }

    /// Sends it to this Ethernet address, whoever its IP destination is: the
    /// gateway, or, for a lie, anyone.
    pub fn via(mut self, mac: Mac) -> Self {
        self.link.destination = Some(mac);
        self
    }

    /// Claims this EtherType, whatever the frame carries.
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.link.ethertype = Some(ethertype);
        self
    }

    /// Adds an 802.1Q tag inside the tags added before; VID 0 is a priority tag.
    pub fn vlan(self, vid: u16) -> Self {
        self.tag(ethertype::VLAN, vid)
    }

    /// Adds the two tags of QinQ.
    pub fn qinq(self, outer: u16, inner: u16) -> Self {
        self.tag(ethertype::SERVICE_VLAN, outer).vlan(inner)
    }

    /// Adds a tag with any protocol identifier and any control information
    /// (priority in the upper three bits, VID in the lower twelve).
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.link.shims.push(Shim::Tag { tpid, tci });
        self
    }

    /// Puts bytes under an EtherType of their own between Ethernet and IP.
    pub fn shim(mut self, ethertype: u16, bytes: &[u8]) -> Self {
        self.link.shims.push(Shim::Opaque {
            ethertype,
            bytes: bytes.to_vec(),
        });
        self
    }

    /// Puts it under an MPLS label, the bottom of the stack.
    pub fn mpls(self, label: u32) -> Self {
        self.shim(ethertype::MPLS, &(label << 12 | 0x100 | 64).to_be_bytes())
    }

    /// Puts its network layer into a PPPoE session (PPP protocol: IPv4).
    pub fn pppoe(self, session: u16) -> Self {
        let length = (self.network_bytes().len() + 2) as u16;
        let [s0, s1] = session.to_be_bytes();
        let [l0, l1] = length.to_be_bytes();
        self.shim(ethertype::PPPOE, &[0x11, 0, s0, s1, l0, l1, 0x00, 0x21])
    }

    /// Frames it as 802.3 with an LLC/SNAP header (RFC 1042).
    pub fn snap(mut self) -> Self {
        self.link.llc = Some(vec![0xaa, 0xaa, 0x03, 0, 0, 0]);
        self
    }

    /// Bytes behind the end of the network packet, which its lengths do not
    /// count.
    pub fn trailer(mut self, bytes: &[u8]) -> Self {
        self.link.trailer = bytes.to_vec();
        self
    }

    /// Pads the frame with zeros to at least `length` bytes, as a network card
    /// does to 60.
    pub fn padded_to(mut self, length: usize) -> Self {
        self.link.least = length;
        self
    }
}

/// ARP for IPv4 over Ethernet (RFC 826), or a lie in its form.
#[derive(Clone, Default)]
pub struct Arp {
    operation: u16,
    hardware: Option<u16>,
    protocol: Option<u16>,
    lengths: Option<(u8, u8)>,
    sender_mac: Option<Mac>,
    sender_ip: Option<Ipv4Addr>,
    target_mac: Option<Mac>,
    target_ip: Option<Ipv4Addr>,
    about_itself: bool,
}

/// A broadcast question for the MAC address of the end it is sent `.to(…)`.
pub fn arp_request() -> Packet<Arp> {
    Packet::carrying(Arp {
        operation: 1,
        ..Arp::default()
    })
    .via(Mac::BROADCAST)
}

/// The answer, from its owner `.to(…)` who asked.
pub fn arp_reply() -> Packet<Arp> {
    Packet::carrying(Arp {
        operation: 2,
        ..Arp::default()
    })
}

/// An unasked broadcast "this address is here", sent `.from(…)` its owner.
pub fn arp_announcement() -> Packet<Arp> {
    Packet::carrying(Arp {
        operation: 1,
        about_itself: true,
        ..Arp::default()
    })
    .via(Mac::BROADCAST)
}

impl Packet<Arp> {
    /// Any operation number.
    pub fn operation(mut self, operation: u16) -> Self {
        self.segment.operation = operation;
        self
    }

    /// Claims another sender MAC address than the frame's.
    pub fn sender_mac(mut self, mac: Mac) -> Self {
        self.segment.sender_mac = Some(mac);
        self
    }

    /// Claims another sender IP address than the sender's.
    pub fn sender_ip(mut self, address: Ipv4Addr) -> Self {
        self.segment.sender_ip = Some(address);
        self
    }

    /// Names another target MAC address.
    pub fn target_mac(mut self, mac: Mac) -> Self {
        self.segment.target_mac = Some(mac);
        self
    }

    /// Names another target IP address.
    pub fn target_ip(mut self, address: Ipv4Addr) -> Self {
        self.segment.target_ip = Some(address);
        self
    }

    /// Claims another kind of hardware or protocol than Ethernet and IPv4.
    pub fn kinds(mut self, hardware: u16, protocol: u16) -> Self {
        self.segment.hardware = Some(hardware);
        self.segment.protocol = Some(protocol);
        self
    }

    /// Claims other address lengths than 6 and 4; the bytes stay.
    pub fn address_lengths(mut self, hardware: u8, protocol: u8) -> Self {
        self.segment.lengths = Some((hardware, protocol));
        self
    }
}

impl Body for Arp {
    fn place(&self) -> Position {
        Position::Ethertype(ethertype::ARP)
    }

    fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8> {
        let sender_mac = self.sender_mac.unwrap_or(around.source_mac);
        let sender_ip = self.sender_ip.unwrap_or(around.arp_addresses.0);
        let asked = if self.operation == 1 {
            Mac::ZERO
        } else {
            around.destination_mac
        };
        let target_ip = if self.about_itself {
            sender_ip
        } else {
            around.arp_addresses.1
        };
        let (hardware_length, protocol_length) = self.lengths.unwrap_or((6, 4));
        let mut bytes = Vec::with_capacity(28 + payload.len());
        bytes.extend(self.hardware.unwrap_or(1).to_be_bytes());
        bytes.extend(self.protocol.unwrap_or(ethertype::IPV4).to_be_bytes());
        bytes.extend([hardware_length, protocol_length]);
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(sender_mac.0);
        bytes.extend(sender_ip.octets());
        bytes.extend(self.target_mac.unwrap_or(asked).0);
        bytes.extend(self.target_ip.unwrap_or(target_ip).octets());
        bytes.extend(payload);
        bytes
    }

    fn summary(&self) -> Summary {
        let mut detail = Vec::new();
        if let Some(mac) = self.sender_mac {
            detail.push(format!("sender mac {mac}"));
        }
        if let Some(ip) = self.sender_ip {
            detail.push(format!("sender ip {ip}"));
        }
        if let Some(mac) = self.target_mac {
            detail.push(format!("target mac {mac}"));
        }
        if let Some(ip) = self.target_ip {
            detail.push(format!("target ip {ip}"));
        }
        let kind = match self.operation {
            1 if self.about_itself => "arp announcement".into(),
            1 => "arp request".into(),
            2 => "arp reply".into(),
            other => format!("arp operation {other}"),
        };
        Summary {
            kind,
            detail,
            ..Summary::default()
        }
    }

    fn answered(&self, _: usize) -> Self {
        Self {
            operation: 2,
            ..Self::default()
        }
    }
}

/// A frame of any EtherType; what it carries is its payload.
#[derive(Clone)]
pub struct Ether {
    ethertype: u16,
}

/// A frame of the given EtherType that carries its `.payload(…)` and nothing
/// else: neither IP nor ARP.
pub fn ether(ethertype: u16) -> Packet<Ether> {
    Packet::carrying(Ether { ethertype })
}

/// An 802.3 frame with an LLC header of its own, such as spanning tree's
/// (`0x42, 0x42, 0x03`), before its `.payload(…)`.
pub fn llc(destination: u8, source: u8, control: u8, payload: &[u8]) -> Packet<Ether> {
    let body = [&[destination, source, control], payload].concat();
    ether(body.len() as u16).payload(&body)
}

impl Body for Ether {
    fn place(&self) -> Position {
        Position::Ethertype(self.ethertype)
    }

    fn encode(&self, _: &Around, payload: &[u8]) -> Vec<u8> {
        payload.to_vec()
    }

    fn summary(&self) -> Summary {
        Summary {
            kind: format!("ethertype {:#06x}", self.ethertype),
            ..Summary::default()
        }
    }
}
