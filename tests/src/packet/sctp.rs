//! SCTP (RFC 9260): the common header and chunks.

use super::{Around, Body, Checksum, Packet, Ported, Position, Summary, checksum, protocol};

/// The chunk types the builder knows by name.
pub mod chunk {
    /// Data.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Answers [`INIT`].
    pub const INIT_ACK: u8 = 2;
    /// Path probe.
    pub const HEARTBEAT: u8 = 4;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// Ends an association in order.
    pub const SHUTDOWN: u8 = 7;
    /// Brings the state cookie back.
    pub const COOKIE_ECHO: u8 = 10;
    /// Accepts the state cookie.
    pub const COOKIE_ACK: u8 = 11;
    /// Changes addresses (RFC 5061).
    pub const ASCONF: u8 = 0xc1;
}

/// The state cookie parameter of an INIT ACK.
const STATE_COOKIE: u16 = 7;

/// An SCTP packet.
#[derive(Clone)]
pub struct Sctp {
    source_port: u16,
    destination_port: u16,
    verification_tag: u32,
    chunks: Vec<Chunk>,
}

#[derive(Clone)]
struct Chunk {
    kind: u8,
    flags: u8,
    length: u16,
    value: Vec<u8>,
}

/// An SCTP packet without chunks.
pub fn sctp() -> Packet<Sctp> {
    Packet::carrying(Sctp {
        source_port: 40000,
        destination_port: 80,
        verification_tag: 0,
        chunks: Vec::new(),
    })
}

/// The words of SCTP. Chunks add up.
impl Packet<Sctp> {
    /// Verification tag; 0 in an INIT.
    pub fn verification_tag(mut self, tag: u32) -> Self {
        self.segment.verification_tag = tag;
        self
    }

    /// Adds an INIT that asks to be addressed with `tag`.
    pub fn init(self, tag: u32) -> Self {
        self.chunk(chunk::INIT, 0, &initiation(tag))
    }

    /// Adds an INIT ACK that asks to be addressed with `tag` and hands out
    /// `cookie`.
    pub fn init_ack(self, tag: u32, cookie: &[u8]) -> Self {
        let mut value = initiation(tag);
        value.extend(STATE_COOKIE.to_be_bytes());
        value.extend((4 + cookie.len() as u16).to_be_bytes());
        value.extend(cookie);
        self.chunk(chunk::INIT_ACK, 0, &value)
    }

    /// Adds an unfragmented DATA chunk on stream 0.
    pub fn data(self, sequence: u32, bytes: &[u8]) -> Self {
        let value = [&sequence.to_be_bytes()[..], &[0; 8], bytes].concat();
        self.chunk(chunk::DATA, 0b11, &value)
    }

    /// Adds an ABORT.
    pub fn abort(self) -> Self {
        self.chunk(chunk::ABORT, 0, &[])
    }

    /// Adds any chunk.
    pub fn chunk(mut self, kind: u8, flags: u8, value: &[u8]) -> Self {
        let length = 4 + value.len() as u16;
        self.segment.chunks.push(Chunk {
            kind,
            flags,
            length,
            value: value.to_vec(),
        });
        self
    }

    /// Claims another length for the chunk added last; the bytes stay.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn chunk_length(mut self, length: u16) -> Self {
        self.segment
            .chunks
            .last_mut()
            .expect("a chunk was added before")
            .length = length;
        self
    }
}

/// The fixed part of INIT and INIT ACK: tag, window, streams, first number.
fn initiation(tag: u32) -> Vec<u8> {
    let mut value = tag.to_be_bytes().to_vec();
    value.extend(65536u32.to_be_bytes());
    value.extend([0, 1, 0, 1]);
    value.extend(1u32.to_be_bytes());
    value
}

impl Ported for Sctp {
    fn ports(&mut self) -> (&mut u16, &mut u16) {
        (&mut self.source_port, &mut self.destination_port)
    }
}

impl Body for Sctp {
    fn place(&self) -> Position {
        Position::Ip(protocol::SCTP)
    }

    fn encode(&self, around: &Around, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.verification_tag.to_be_bytes());
        bytes.extend([0; 4]);
        for Chunk {
            kind,
            flags,
            length,
            value,
        } in &self.chunks
        {
            bytes.extend([*kind, *flags]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes.extend(payload);
        let correct = checksum::crc32c(&bytes);
        let sum = match around.checksum {
            Checksum::Correct => correct,
            Checksum::Wrong => !correct,
            Checksum::Fixed(sum) => sum,
        };
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn summary(&self) -> Summary {
        let name = |chunk: &Chunk| match chunk.kind {
            chunk::DATA => "DATA".into(),
            chunk::INIT => "INIT".into(),
            chunk::INIT_ACK => "INIT_ACK".into(),
            chunk::HEARTBEAT => "HEARTBEAT".into(),
            chunk::ABORT => "ABORT".into(),
            chunk::SHUTDOWN => "SHUTDOWN".into(),
            chunk::COOKIE_ECHO => "COOKIE_ECHO".into(),
            chunk::COOKIE_ACK => "COOKIE_ACK".into(),
            chunk::ASCONF => "ASCONF".into(),
            other => format!("chunk {other}"),
        };
        let chunks: Vec<String> = self.chunks.iter().map(name).collect();
        let detail = vec![if chunks.is_empty() {
            "no chunk".into()
        } else {
            chunks.join("+")
        }];
        let ports = Some((self.source_port, self.destination_port));
        Summary {
            kind: "sctp".into(),
            ports,
            detail,
        }
    }

    fn answered(&self, _: usize) -> Self {
        // Both sides address each other with the tag the other asked for; that
        // of an INIT stands in its first four bytes.
        let asked = self.chunks.iter().find(|chunk| chunk.kind == chunk::INIT);
        let tag = asked.and_then(|init| init.value.first_chunk().copied());
        Self {
            source_port: self.destination_port,
            destination_port: self.source_port,
            verification_tag: tag.map_or(self.verification_tag, u32::from_be_bytes),
            chunks: Vec::new(),
        }
    }
}
