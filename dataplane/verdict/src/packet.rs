//! Parses a frame into what a verdict needs.
//!
//! Input is a [`Frame`]; output is a [`Packet`] or the reason to drop it. What
//! is not fully understood is dropped: a header cut short, a length that
//! contradicts another, an unknown EtherType. Ports come only from a whole
//! transport header at the place where the receiver will look for it.
//!
//! Every header is read whole, with one bounds check. Byte-wise reads let the
//! optimiser merge checks into something the kernel's verifier rejects.

use crate::{
    address::{Address, Family},
    checksum::PartialChecksum,
    reason::Reason,
};

/// Bytes of a frame that headers may take, from the Ethernet header on. RFC 8200
/// bounds the IPv6 extension chain by nothing; this bounds it the same way
/// whether or not the kernel holds the headers in one piece.
pub const MAX_HEADER_BYTES: u32 = 256;

/// Longest IPv6 extension chain walked, in headers.
pub const MAX_EXTENSION_HEADERS: u32 = 8;

/// Longest options of an IPv4 header, in bytes: its length has four bits (RFC 791, 3.1).
const MAX_OPTION_BYTES: u32 = 40;

/// Shortest frame that Ethernet carries, without its checksum (IEEE 802.3, 4.2.3.3):
/// devices pad shorter ones to it.
pub const MIN_FRAME_BYTES: u32 = 60;

/// Most options of a neighbour discovery message. Stacks send a link-layer address and a
/// nonce (RFC 3971, 5.3.2).
pub const MAX_ND_OPTIONS: u32 = 4;
/// Longest option of a neighbour discovery message, in bytes.
pub const MAX_ND_OPTION_BYTES: u32 = 32;
/// Most options of a router advertisement: link-layer address, MTU, two prefixes, a
/// route, name servers, search domains, and one more.
pub const MAX_ROUTER_OPTIONS: u32 = 8;
/// Longest option of a router advertisement, in bytes: three name servers take 56, a
/// list of search domains some more (RFC 8106, 5).
pub const MAX_ROUTER_OPTION_BYTES: u32 = 64;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_BYTES: u32 = 14;

/// Bytes of an IPv6 header without its extensions.
pub(crate) const IPV6_BYTES: u32 = 40;

/// EtherTypes that are understood.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP, RFC 826.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad.
    pub const QINQ: u16 = 0x88a8;
}

/// IP protocols whose headers are understood.
pub mod protocol {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// IGMP, RFC 3376.
    pub const IGMP: u8 = 2;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
}

/// Next-header values of the IPv6 headers that are walked (RFC 8200, 4).
mod next_header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const NONE: u8 = 59;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
    pub(super) const EXPERIMENT_1: u8 = 253;
    pub(super) const EXPERIMENT_2: u8 = 254;
}

/// IPv4 options that the walk has an opinion on (RFC 791, 3.1).
mod option {
    pub(super) const END: u32 = 0;
    pub(super) const NOTHING: u32 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u32 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u32 = 137;
}

/// ICMP types with a meaning here.
pub mod icmp {
    /// Echo reply (RFC 792).
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable, fragmentation needed among them.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// ICMPv6 types with a meaning here.
pub mod icmpv6 {
    /// Destination unreachable, the first of the errors (RFC 4443).
    pub const UNREACHABLE: u8 = 1;
    /// Parameter problem, the last of them; between lie packet too big and time exceeded.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request (RFC 4443).
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query (RFC 2710).
    pub const LISTENER_QUERY: u8 = 130;
    /// Multicast listener report.
    pub const LISTENER_REPORT: u8 = 131;
    /// Multicast listener done.
    pub const LISTENER_DONE: u8 = 132;
    /// Version 2 report (RFC 3810).
    pub const LISTENER_REPORT_V2: u8 = 143;
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Multicast router advertisement (RFC 4286).
    pub const MULTICAST_ROUTER: u8 = 151;
}

/// The bytes of a frame, from the Ethernet header on.
pub trait Frame {
    /// `N` bytes at `offset`; `None` past the end, or where the kernel does not
    /// hold them in one piece yet. `N` is a multiple of four, `offset` even and
    /// at most [`MAX_HEADER_BYTES`].
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// [`Frame::read`] at an offset that was computed from the packet, which the
    /// kernel programs must bound where the verifier sees it.
    #[inline(always)]
    fn read_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read(offset)
    }

    /// One byte at any offset up to [`MAX_HEADER_BYTES`]; else as [`Frame::read_at`].
    fn byte(&self, offset: u32) -> Option<u32>;

    /// Length of the whole frame in bytes.
    fn length(&self) -> u32;

    /// Returns `true` if the frame stands for several (GSO): lengths in headers may then be
    /// those of one segment, or zero.
    fn is_gso(&self) -> bool;

    /// The checksum that the sender has left to be written; `None` if it is written, or
    /// the packet needs none.
    #[inline(always)]
    fn partial_checksum(&self) -> Option<PartialChecksum> {
        None
    }

    /// The same value, of which the kernel's verifier knows nothing any more.
    ///
    /// It follows every way through a loop by itself as long as the ways differ in
    /// what it knows; without this, a walk of eight headers is 700 000
    /// instructions. The kernel programs override it in assembly.
    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        value
    }
}

/// Part of a datagram that a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// A later fragment, without ports.
    Later,
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Source MAC as a number.
    pub source: u64,
    /// Destination MAC as a number.
    pub destination: u64,
    /// EtherType.
    pub ethertype: u16,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The transport protocol, behind all extension headers.
    pub protocol: u8,
    /// Source port; for ICMP the identifier. 0 where there are none.
    pub source_port: u16,
    /// Destination port; for ICMP `type << 8 | code`. 0 where there are none.
    pub destination_port: u16,
    /// Fields that only TCP has; zeroes for others.
    pub segment: Segment,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Part of its datagram that the packet is.
    pub part: Part,
    /// Identification of the datagram, for fragments. Of a whole TCP segment, the sequence
    /// number behind its last byte; SYN and FIN are a byte each (RFC 9293, 3.4).
    pub datagram: u32,
    /// Of a later fragment, where it begins in its datagram's payload, and 1 more when
    /// others follow it; of others, bytes of the transport header that is judged.
    pub fragment: u32,
    /// Offset of the transport header, from the Ethernet header on.
    pub transport: u32,
    /// Bytes from there to the end of the IP packet.
    pub transport_bytes: u32,
}

/// Fields of a TCP header that flow tracking needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// Flags, [`tcp_flag`]: from CWR down to FIN.
    pub flags: u8,
}

/// TCP flags (RFC 9293, 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1 << 0;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset the connection.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 1 << 4;
}

/// An ARP message for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// MAC that the sender says it has.
    pub sender_mac: u64,
    /// Address that the sender says it has.
    pub sender: Address,
}

/// A neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The target address; `::` for router solicitations and advertisements.
    pub target: Address,
    /// The link-layer address option, if there is one.
    pub mac: Option<u64>,
}

/// A MAC as a number, from the first six of eight bytes.
#[inline(always)]
pub(crate) const fn mac(b: [u8; 8]) -> u64 {
    u64::from_be_bytes(b) >> 16
}

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet<F: Frame>(frame: &F) -> Result<Ethernet, Reason> {
    let to = frame.read::<8>(0).ok_or(Reason::Malformed)?;
    let from = frame.read::<8>(6).ok_or(Reason::Malformed)?;
    Ok(Ethernet {
        destination: mac(to),
        source: mac(from),
        ethertype: u16::from_be_bytes([from[6], from[7]]),
    })
}

/// Reads an ARP message (RFC 826), request or reply.
#[inline(always)]
pub fn arp<F: Frame>(frame: &F) -> Option<Arp> {
    let b = frame.read::<28>(ETHERNET_BYTES)?;
    let kind = u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    // Ethernet, IPv4, their lengths; operation 1 or 2.
    const REQUEST: u64 = 0x0001_0800_0604_0001;
    if kind != REQUEST && kind != REQUEST + 1 {
        return None;
    }
    Some(Arp {
        sender_mac: mac([b[8], b[9], b[10], b[11], b[12], b[13], 0, 0]),
        sender: Address::v4([b[14], b[15], b[16], b[17]]),
    })
}

/// Parses an IP packet.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, ethertype: u16) -> Result<Packet, Reason> {
    let mut packet = match ethertype {
        ethertype::IPV4 => ipv4(frame)?,
        ethertype::IPV6 => ipv6(frame)?,
        _ => return Err(Reason::Ethertype),
    };
    packet.protocol = frame.blur(u32::from(packet.protocol)) as u8;
    packet.transport = frame.blur(packet.transport);
    packet.transport_bytes = frame.blur(packet.transport_bytes);
    if !matches!(packet.part, Part::Later) {
        transport(frame, &mut packet)?;
    }
    Ok(packet)
}

/// RFC 791, the options included.
#[inline(always)]
fn ipv4<F: Frame>(frame: &F) -> Result<Packet, Reason> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let b = frame.read::<20>(ETHERNET_BYTES).ok_or(Reason::Malformed)?;
    let header = u32::from(b[0] & 15) * 4;
    if b[0] >> 4 != 4 {
        return Err(Reason::Malformed);
    }
    // Here, before the ways fork: the verifier follows this walk on every way to it.
    options(frame, header)?;
    let room = frame.length().wrapping_sub(ETHERNET_BYTES);
    let mut total = u32::from(u16::from_be_bytes([b[2], b[3]]));
    if total == 0 && frame.is_gso() {
        total = room;
    }
    if total < header || total > room {
        return Err(Reason::Malformed);
    }
    let fragment = u16::from_be_bytes([b[6], b[7]]);
    let part = if fragment & OFFSET != 0 {
        Part::Later
    } else if fragment & MORE_FRAGMENTS != 0 {
        Part::First
    } else {
        Part::Whole
    };
    Ok(Packet {
        source: Address::v4([b[12], b[13], b[14], b[15]]),
        destination: Address::v4([b[16], b[17], b[18], b[19]]),
        protocol: b[9],
        source_port: 0,
        destination_port: 0,
        segment: Segment {
            sequence: 0,
            acknowledged: 0,
            flags: 0,
        },
        hop_limit: b[8],
        part,
        datagram: u32::from(u16::from_be_bytes([b[4], b[5]])),
        fragment: (u32::from(fragment & OFFSET) * 8) | u32::from(fragment & MORE_FRAGMENTS != 0),
        transport: ETHERNET_BYTES + header,
        transport_bytes: total - header,
    })
}

/// Walks the options of an IPv4 header of this many bytes. A source route names the
/// addresses that the packet goes to after the one that policy is asked about. A header of
/// fewer than twenty bytes ends before its options begin, and is malformed like one that
/// ends within an option.
#[inline(always)]
fn options<F: Frame>(frame: &F, header: u32) -> Result<(), Reason> {
    let end = ETHERNET_BYTES + header;
    let mut at = ETHERNET_BYTES + 20;
    let mut walked = 0;
    while walked < MAX_OPTION_BYTES {
        at = frame.blur(at);
        if at >= end {
            break;
        }
        let kind = frame.byte(at).ok_or(Reason::Malformed)?;
        if kind == option::LOOSE_SOURCE_ROUTE || kind == option::STRICT_SOURCE_ROUTE {
            return Err(Reason::SourceRoute);
        }
        if kind == option::END {
            return Ok(());
        }
        let mut bytes = 1;
        if kind != option::NOTHING {
            // It counts the option's type and itself. Behind the header stands none.
            bytes = frame.byte(frame.blur(at + 1)).ok_or(Reason::Malformed)?;
            if bytes < 2 || at + 1 == end {
                return Err(Reason::Malformed);
            }
        }
        at += bytes;
        walked += 1;
    }
    if at > end {
        return Err(Reason::Malformed);
    }
    Ok(())
}

/// RFC 8200, the extension headers included.
#[inline(always)]
fn ipv6<F: Frame>(frame: &F) -> Result<Packet, Reason> {
    const HEADER: u32 = IPV6_BYTES;
    let b = frame.read::<40>(ETHERNET_BYTES).ok_or(Reason::Malformed)?;
    let room = frame.length().wrapping_sub(ETHERNET_BYTES + HEADER);
    let mut payload = u32::from(u16::from_be_bytes([b[4], b[5]]));
    if payload == 0 && frame.is_gso() {
        payload = room;
    }
    if b[0] >> 4 != 6 || payload > room {
        return Err(Reason::Malformed);
    }
    let mut packet = Packet {
        source: Address::v6([
            b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15], b[16], b[17], b[18], b[19],
            b[20], b[21], b[22], b[23],
        ]),
        destination: Address::v6([
            b[24], b[25], b[26], b[27], b[28], b[29], b[30], b[31], b[32], b[33], b[34], b[35],
            b[36], b[37], b[38], b[39],
        ]),
        protocol: b[6],
        source_port: 0,
        destination_port: 0,
        segment: Segment {
            sequence: 0,
            acknowledged: 0,
            flags: 0,
        },
        hop_limit: b[7],
        part: Part::Whole,
        datagram: 0,
        fragment: 0,
        transport: ETHERNET_BYTES + HEADER,
        transport_bytes: payload,
    };
    if is_extension(packet.protocol) {
        walk(frame, &mut packet)?;
    }
    Ok(packet)
}

/// Returns `true` if a next-header value is one that the walk has an opinion on.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    use next_header::{
        AUTHENTICATION, DESTINATION, EXPERIMENT_1, EXPERIMENT_2, FRAGMENT, HOP_BY_HOP,
        HOST_IDENTITY, MOBILITY, NONE, ROUTING, SHIM6,
    };
    matches!(
        next,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION
            | NONE
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
            | EXPERIMENT_1
            | EXPERIMENT_2
    )
}

/// Walks the extension headers, and leaves protocol, part and transport at what
/// lies behind them.
#[inline(always)]
fn walk<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Reason> {
    const FRAGMENTED: u32 = 1;
    const FIRST: u32 = 2;
    const LATER: u32 = 4;
    let mut next = u32::from(packet.protocol);
    let mut offset = packet.transport;
    let mut left = packet.transport_bytes;
    let mut marks = 0;
    let mut walked = 0;
    while walked <= MAX_EXTENSION_HEADERS {
        next &= 0xff;
        let header = next as u8;
        // What follows a later fragment's header is data, whatever its bytes
        // look like.
        if marks & LATER != 0 || !is_extension(header) {
            break;
        }
        // No next header, mobility, HIP, shim6 and experiments have no ports
        // that a policy could name; a hop-by-hop header elsewhere than first and
        // a second fragment header are forbidden.
        let allowed = match header {
            next_header::HOP_BY_HOP => walked == 0,
            next_header::FRAGMENT => marks & FRAGMENTED == 0,
            next_header::ROUTING | next_header::DESTINATION | next_header::AUTHENTICATION => true,
            _ => false,
        };
        if !allowed || walked == MAX_EXTENSION_HEADERS || offset > MAX_HEADER_BYTES - 8 {
            return Err(Reason::Ipv6Chain);
        }
        let b = frame.read_at::<8>(offset).ok_or(Reason::Malformed)?;
        if header == next_header::ROUTING && b[3] != 0 {
            // Segments left: the packet goes on to an address that policy is not asked
            // about.
            return Err(Reason::SourceRoute);
        }
        let mut bytes = (u32::from(b[1]) + 1) * 8;
        if header == next_header::AUTHENTICATION {
            bytes = (u32::from(b[1]) + 2) * 4;
        }
        if header == next_header::FRAGMENT {
            bytes = 8;
            let piece = u16::from_be_bytes([b[2], b[3]]);
            packet.datagram = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
            marks |= FRAGMENTED;
            packet.fragment = u32::from(piece & 0xfff9);
            if piece & 0xfff8 != 0 {
                marks |= LATER;
            } else if piece & 1 != 0 {
                marks |= FIRST;
            }
        }
        if bytes > left {
            return Err(Reason::Malformed);
        }
        next = frame.blur(u32::from(b[0]));
        offset = frame.blur(offset + bytes);
        left = frame.blur(left - bytes);
        marks = frame.blur(marks);
        walked += 1;
    }
    if marks & LATER != 0 {
        packet.part = Part::Later;
    } else if marks & FIRST != 0 {
        packet.part = Part::First;
    }
    packet.protocol = next as u8;
    packet.transport = offset;
    packet.transport_bytes = left;
    Ok(())
}

/// Reads ports, or ICMP type and code.
#[inline(always)]
fn transport<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Reason> {
    let at = packet.transport;
    let left = packet.transport_bytes;
    if at > MAX_HEADER_BYTES - 20 {
        return Err(Reason::Ipv6Chain);
    }
    let (ports, needed) = match packet.protocol {
        protocol::TCP => {
            let b = frame.read_at::<20>(at).ok_or(Reason::Malformed)?;
            let header = u32::from(b[12] >> 4) * 4;
            let sequence = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
            // SYN and FIN.
            let counted = u32::from(b[13] & 1) + u32::from(b[13] >> 1 & 1);
            packet.segment = Segment {
                sequence,
                acknowledged: u32::from_be_bytes([b[8], b[9], b[10], b[11]]),
                flags: b[13],
            };
            if matches!(packet.part, Part::Whole) {
                packet.datagram = sequence
                    .wrapping_add(left.wrapping_sub(header))
                    .wrapping_add(counted);
            }
            if header < 20 {
                return Err(Reason::Malformed);
            }
            ([b[0], b[1], b[2], b[3]], header)
        }
        protocol::UDP => {
            let b = frame.read_at::<8>(at).ok_or(Reason::Malformed)?;
            let length = u32::from(u16::from_be_bytes([b[4], b[5]]));
            let whole = matches!(packet.part, Part::Whole) && !frame.is_gso();
            if whole && (length < 8 || length > left) {
                return Err(Reason::Malformed);
            }
            ([b[0], b[1], b[2], b[3]], 8)
        }
        protocol::SCTP => {
            let b = frame.read_at::<12>(at).ok_or(Reason::Malformed)?;
            ([b[0], b[1], b[2], b[3]], 12)
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let b = frame.read_at::<8>(at).ok_or(Reason::Malformed)?;
            ([b[4], b[5], b[0], b[1]], 8)
        }
        _ => {
            packet.fragment = 0;
            return Ok(());
        }
    };
    if needed > left {
        return Err(Reason::Malformed);
    }
    packet.fragment = needed;
    packet.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    packet.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    Ok(())
}

/// Reads a neighbour discovery message (RFC 4861, 4), which is no longer than such
/// messages are.
#[inline(always)]
pub fn neighbour<F: Frame>(frame: &F, packet: &Packet) -> Result<Neighbour, Reason> {
    /// Offset of the message: no extension header has a use before it, and a fragment header,
    /// be it the only one, forbids it (RFC 6980, 5).
    const START: u32 = ETHERNET_BYTES + IPV6_BYTES;
    if packet.transport != START || !matches!(packet.part, Part::Whole) {
        return Err(Reason::UntruthfulNd);
    }
    let end = START.wrapping_add(packet.transport_bytes);
    if frame.length() > end {
        return Err(Reason::SignallingSize);
    }
    // Blurred, so that the ways of the different messages become one for the options.
    let kind = frame.blur(u32::from(packet.destination_port >> 8)) as u8;
    let (body, most, longest) = match kind {
        icmpv6::ROUTER_SOLICITATION => (8, MAX_ND_OPTIONS, MAX_ND_OPTION_BYTES),
        icmpv6::ROUTER_ADVERTISEMENT => (16, MAX_ROUTER_OPTIONS, MAX_ROUTER_OPTION_BYTES),
        icmpv6::REDIRECT => (40, MAX_ND_OPTIONS, MAX_ND_OPTION_BYTES),
        _ => (24, MAX_ND_OPTIONS, MAX_ND_OPTION_BYTES),
    };
    let (body, most, longest) = (frame.blur(body), frame.blur(most), frame.blur(longest));
    if packet.transport_bytes < body {
        return Err(Reason::UntruthfulNd);
    }
    let mut target = Address::v6([0; 16]);
    if body >= 24 {
        target = Address::v6(frame.read::<16>(START + 8).ok_or(Reason::UntruthfulNd)?);
    }
    let target = target.words.map(|word| frame.blur(word));
    // Source (1) and target (2) link-layer address.
    let mut found = None;
    let mut at = START + body;
    let mut option = 0;
    while option < MAX_ROUTER_OPTIONS {
        at = frame.blur(at);
        if at >= end {
            break;
        }
        if option >= most || at > MAX_HEADER_BYTES - 8 {
            return Err(Reason::SignallingSize);
        }
        let b = frame.read_at::<8>(at).ok_or(Reason::UntruthfulNd)?;
        let bytes = u32::from(b[1]) * 8;
        if bytes == 0 || at.wrapping_add(bytes) > end {
            return Err(Reason::UntruthfulNd);
        }
        if bytes > longest {
            return Err(Reason::SignallingSize);
        }
        if b[0] == 1 || b[0] == 2 {
            let claimed = mac([b[2], b[3], b[4], b[5], b[6], b[7], 0, 0]);
            // Two options that disagree say nothing that could be checked.
            if bytes != 8 || found.is_some_and(|earlier| earlier != claimed) {
                return Err(Reason::UntruthfulNd);
            }
            found = Some(claimed);
        }
        at = at.wrapping_add(bytes);
        option += 1;
    }
    if at < end {
        return Err(Reason::SignallingSize);
    }
    Ok(Neighbour {
        target: Address {
            family: Family::V6,
            words: target,
        },
        mac: found,
    })
}

/// Returns `true` if a family has this ICMP: ICMPv6 in IPv4, or the reverse, is just another
/// protocol by number to a receiver, and to a policy.
#[inline(always)]
pub fn is_icmpv6(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMPV6 && matches!(packet.source.family, Family::V6)
}
