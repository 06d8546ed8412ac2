//! TCP, UDP, and IP protocols of which the builder knows only the number.

use super::{Around, Body, Packet, Position, Summary, protocol};

/// Port from which packets come when the test does not say.
const USUAL_SOURCE_PORT: u16 = 40000;
/// Port to which packets go when the test does not say.
const USUAL_DESTINATION_PORT: u16 = 80;

/// The TCP flags (RFC 9293 section 3.1, RFC 3540 for the ninth).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u16 = 0x001;
    /// Synchronise sequence numbers.
    pub const SYN: u16 = 0x002;
    /// Reset.
    pub const RST: u16 = 0x004;
    /// Push.
    pub const PSH: u16 = 0x008;
    /// The acknowledgment number counts.
    pub const ACK: u16 = 0x010;
    /// The urgent pointer counts.
    pub const URG: u16 = 0x020;
    /// Congestion echo.
    pub const ECE: u16 = 0x040;
    /// Congestion window reduced.
    pub const CWR: u16 = 0x080;
    /// Nonce sum, the lowest of the reserved bits.
    pub const NS: u16 = 0x100;
}

/// A body with ports.
pub trait Ported: Body {
    /// Its source and destination port.
    fn ports(&mut self) -> (&mut u16, &mut u16);
}

/// Ports.
impl<S: Ported> Packet<S> {
    /// Source port; 40000 without this word.
    pub fn sport(mut self, port: u16) -> Self {
        *self.segment.ports().0 = port;
        self
    }

    /// Destination port; 80 without this word.
    pub fn dport(mut self, port: u16) -> Self {
        *self.segment.ports().1 = port;
        self
    }
}

/// A TCP segment.
#[derive(Clone)]
pub struct Tcp {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgment: u32,
    flags: u16,
    window: u16,
    urgent: u16,
    data_offset: Option<u8>,
    options: Vec<u8>,
}

/// A TCP segment without any flag.
pub fn tcp() -> Packet<Tcp> {
    Packet::carrying(Tcp {
        source_port: USUAL_SOURCE_PORT,
        destination_port: USUAL_DESTINATION_PORT,
        sequence: 1000,
        acknowledgment: 0,
        flags: 0,
        window: 64240,
        urgent: 0,
        data_offset: None,
        options: Vec::new(),
    })
}

/// The words of TCP. Flags add up.
impl Packet<Tcp> {
    /// Adds the SYN flag.
    pub fn syn(self) -> Self {
        self.flag(flag::SYN)
    }

    /// Adds the ACK flag.
    pub fn ack(self) -> Self {
        self.flag(flag::ACK)
    }

    /// Adds the FIN flag.
    pub fn fin(self) -> Self {
        self.flag(flag::FIN)
    }

    /// Adds the RST flag.
    pub fn rst(self) -> Self {
        self.flag(flag::RST)
    }

    /// Adds the PSH flag.
    pub fn psh(self) -> Self {
        self.flag(flag::PSH)
    }

    /// Adds flags by number: those of [`flag`], and the three reserved bits up
    /// to `0xe00`.
    pub fn flag(mut self, flags: u16) -> Self {
        self.segment.flags |= flags;
        self
    }

    /// Sequence number.
    pub fn seq(mut self, number: u32) -> Self {
        self.segment.sequence = number;
        self
    }

    /// Acknowledgment number; the flag is [`Packet::ack`].
    pub fn ack_number(mut self, number: u32) -> Self {
        self.segment.acknowledgment = number;
        self
    }

    /// Receive window.
    pub fn window(mut self, window: u16) -> Self {
        self.segment.window = window;
        self
    }

    /// Urgent pointer; the flag is [`flag::URG`].
    pub fn urgent(mut self, pointer: u16) -> Self {
        self.segment.urgent = pointer;
        self
    }

    /// Options, padded with zeros (end of list) to 32-bit words.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.segment.options = options.to_vec();
        self
    }

    /// Claims another header length (in 32-bit words); the bytes stay.
    pub fn data_offset(mut self, words: u8) -> Self {
        self.segment.data_offset = Some(words);
        self
    }
}

impl Ported for Tcp {
    fn ports(&mut self) -> (&mut u16, &mut u16) {
        (&mut self.source_port, &mut self.destination_port)
    }
}

impl Body for Tcp {
    fn place(&self) -> Position {
        Position::Ip(protocol::TCP)
    }

    fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let words = self.data_offset.unwrap_or((5 + options.len() / 4) as u8);
        let mut bytes = Vec::with_capacity(20 + options.len() + payload.len());
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend((u16::from(words) << 12 | self.flags & 0xfff).to_be_bytes());
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(options);
        bytes.extend(payload);
        around.seal(Some(protocol::TCP), &mut bytes, 16);
        bytes
    }

    fn summary(&self) -> Summary {
        const NAMES: [(u16, &str); 9] = [
            (flag::SYN, "SYN"),
            (flag::FIN, "FIN"),
            (flag::RST, "RST"),
            (flag::PSH, "PSH"),
            (flag::ACK, "ACK"),
            (flag::URG, "URG"),
            (flag::ECE, "ECE"),
            (flag::CWR, "CWR"),
            (flag::NS, "NS"),
        ];
        let set = NAMES.iter().filter(|(bit, _)| self.flags & bit != 0);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        let mut detail = vec![if names.is_empty() {
            "no flags".into()
        } else {
            names.join("+")
        }];
        if self.flags & 0xe00 != 0 {
            detail.push(format!("reserved {:#x}", self.flags >> 9 & 7));
        }
        if let Some(words) = self.data_offset {
            detail.push(format!("data offset {words}"));
        }
        if !self.options.is_empty() {
            detail.push(format!("options {:02x?}", self.options));
        }
        let ports = Some((self.source_port, self.destination_port));
        Summary {
            kind: "tcp".into(),
            ports,
            detail,
        }
    }

    fn answered(&self, received: usize) -> Self {
        // SYN and FIN take a sequence number each.
        let ends = (self.flags & (flag::SYN | flag::FIN)).count_ones();
        Self {
            source_port: self.destination_port,
            destination_port: self.source_port,
            sequence: self.acknowledgment,
            acknowledgment: self
                .sequence
                .wrapping_add(received as u32)
                .wrapping_add(ends),
            flags: 0,
            urgent: 0,
            data_offset: None,
            options: Vec::new(),
            ..*self
        }
    }
}

/// A UDP datagram.
#[derive(Clone)]
pub struct Udp {
    source_port: u16,
    destination_port: u16,
    length: Option<u16>,
}

/// A UDP datagram.
pub fn udp() -> Packet<Udp> {
    Packet::carrying(Udp {
        source_port: USUAL_SOURCE_PORT,
        destination_port: USUAL_DESTINATION_PORT,
        length: None,
    })
}

impl Packet<Udp> {
    /// Claims another length, header included; the bytes stay.
    pub fn udp_length(mut self, length: u16) -> Self {
        self.segment.length = Some(length);
        self
    }
}

impl Ported for Udp {
    fn ports(&mut self) -> (&mut u16, &mut u16) {
        (&mut self.source_port, &mut self.destination_port)
    }
}

impl Body for Udp {
    fn place(&self) -> Position {
        Position::Ip(protocol::UDP)
    }

    fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8> {
        let length = self.length.unwrap_or((8 + payload.len()) as u16);
        let mut bytes = Vec::with_capacity(8 + payload.len());
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        around.seal(Some(protocol::UDP), &mut bytes, 6);
        bytes
    }

    fn summary(&self) -> Summary {
        let ports = Some((self.source_port, self.destination_port));
        let detail = self
            .length
            .map(|length| format!("length {length}"))
            .into_iter()
            .collect();
        Summary {
            kind: "udp".into(),
            ports,
            detail,
        }
    }

    fn answered(&self, _: usize) -> Self {
        Self {
            source_port: self.destination_port,
            destination_port: self.source_port,
            length: None,
        }
    }
}

/// An IP protocol known by its number alone.
#[derive(Clone)]
pub struct Protocol {
    number: u8,
}

/// A packet of any IP protocol; what it carries is its payload, without a
/// checksum.
pub fn ip_protocol(number: u8) -> Packet<Protocol> {
    Packet::carrying(Protocol { number })
}

/// An IPv6 packet that says nothing follows (RFC 8200 section 4.7); a
/// `.payload(…)` follows all the same.
pub fn no_next_header() -> Packet<Protocol> {
    ip_protocol(protocol::NO_NEXT_HEADER).family(super::Family::V6)
}

impl Body for Protocol {
    fn place(&self) -> Position {
        Position::Ip(self.number)
    }

    fn encode(&self, _: &Around, payload: &[u8]) -> Vec<u8> {
        payload.to_vec()
    }

    fn summary(&self) -> Summary {
        Summary {
            kind: format!("ip protocol {}", self.number),
            ..Summary::default()
        }
    }
}
