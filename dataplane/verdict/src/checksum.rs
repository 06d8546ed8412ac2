//! Judges the checksum that a packet leaves to be written.
//!
//! A sender may leave its packet's checksum to the device: the packet then says where to
//! begin to sum and where to write the sum ([`PartialChecksum`]). A packet socket with
//! `PACKET_VNET_HDR` chooses both freely, and a device without checksum offload behind the
//! hook writes two bytes there *after* the verdict: into a port, an address, a claimed MAC.
//!
//! Both hooks of a workload judge it. Where the workload sends, because behind that hook the
//! packet may leave the node, or meet no other. Where a packet arrives, because it may come
//! from a container that is not managed, over an uplink that is a veth, or out of a tunnel:
//! what a tunnel's packet leaves behind its own headers is, once unwrapped, anywhere in the
//! packet inside, so that no check where packets enter the node replaces this one. Nothing
//! changes a packet between this hook and the device that writes the sum.
//!
//! Input is the parsed packet and what it leaves; output is the reason to drop it, or
//! none. Nothing that a verdict was made from may change afterwards.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    packet::{Packet, Part, protocol},
    reason::Reason,
};

/// Bytes of the kernel's `struct sk_buff` that the programs read in one piece.
pub const WINDOW_BYTES: u32 = 64;

/// Places in the running kernel's `struct sk_buff`, which differ from build to build. The
/// kernel programs have them as read-only data.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Window {
    /// First of the [`WINDOW_BYTES`]; the places below count from there.
    pub start: u32,
    /// Byte that has `ip_summed`.
    pub ip_summed: u32,
    /// Number of bits by which the two bits of `ip_summed` are shifted in it.
    pub ip_summed_shift: u32,
    /// `csum_start`: 16 bits, counted from the buffer's head.
    pub csum_start: u32,
    /// `csum_offset`: 16 bits.
    pub csum_offset: u32,
    /// `mac_header`: 16 bits, counted from the buffer's head.
    pub mac_header: u32,
    /// `network_header`: 16 bits, counted from the buffer's head.
    pub network_header: u32,
}

const _: () = assert!(size_of::<Window>() == 28);

/// Number of no helper. The compiled programs call it where they mean the kernel's
/// `bpf_cast_to_kern_ctx`: a call of a function of the kernel names it by its number in the
/// running kernel's type information, which the loader puts there.
pub const CAST_CALL: i32 = 0x0c0f_fe12;

/// `CHECKSUM_PARTIAL` of linux/skbuff.h.
pub const PARTIAL: u32 = 3;

/// A checksum that is still to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Offset at which summing starts, from the Ethernet header on; a huge number if before it.
    pub start: u32,
    /// Bytes from there to where the sum is written.
    pub offset: u32,
}

/// Judges what a packet from or to a workload leaves.
///
/// Two kinds are honest. The packet's own transport checksum is written into its own
/// field: of SCTP that is a CRC, and whether a device writes four bytes of CRC there or
/// two bytes of sum, it is that field. A tunnel that the workload itself has leaves the
/// checksum of the packet inside: summing starts behind everything that is read here, and
/// writing is never before the start. Of a tunnel without ports, that is behind the IP
/// header. Kernels send nothing else: ICMP, IGMP and fragments are summed before they are
/// sent.
///
/// No message of ICMP or IGMP may leave one, wherever it starts: their bodies are read.
#[inline(always)]
pub fn check(packet: &Packet, left: PartialChecksum, frame_bytes: u32) -> Result<(), Reason> {
    let (own, header) = match packet.protocol {
        protocol::TCP => (16, 20),
        protocol::UDP => (6, 8),
        protocol::SCTP => (8, 12),
        protocol::ICMP | protocol::ICMPV6 | protocol::IGMP => {
            return Err(Reason::PartialChecksum);
        }
        _ => (NOWHERE, 0),
    };
    let is_own = left.start == packet.transport && left.offset == own;
    let behind = left.start >= packet.transport.wrapping_add(header) && left.start < frame_bytes;
    let later = matches!(packet.part, Part::Later);
    if !later && (is_own || behind) {
        Ok(())
    } else {
        Err(Reason::PartialChecksum)
    }
}

/// Offset of no checksum.
const NOWHERE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::Address,
        packet::{Segment, protocol::*},
    };

    const TRANSPORT: u32 = 34;
    const FRAME: u32 = 1000;

    fn packet(protocol: u8) -> Packet {
        Packet {
            source: Address::v4([10, 0, 0, 2]),
            destination: Address::v4([10, 0, 0, 3]),
            protocol,
            source_port: 0,
            destination_port: 0,
            segment: Segment::default(),
            hop_limit: 64,
            part: Part::Whole,
            datagram: 0,
            fragment: 0,
            transport: TRANSPORT,
            transport_bytes: FRAME - TRANSPORT,
        }
    }

    fn passes(packet: &Packet, start: u32, offset: u32) -> bool {
        let left = PartialChecksum { start, offset };
        check(packet, left, FRAME).is_ok()
    }

    #[test]
    fn of_the_headers_only_the_own_field_may_be_written() {
        for (protocol, own, header) in [(TCP, 16, 20), (UDP, 6, 8), (SCTP, 8, 12)] {
            let packet = packet(protocol);
            for start in (0..TRANSPORT + header).chain([u32::MAX, u32::MAX - 9]) {
                for offset in 0..64 {
                    let is_own = (start, offset) == (TRANSPORT, own);
                    assert_eq!(
                        passes(&packet, start, offset),
                        is_own,
                        "{protocol}: {start} + {offset}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_tunnel_leaves_the_checksum_of_the_packet_inside() {
        let ipip = 4;
        for (protocol, header) in [(UDP, 8), (TCP, 20), (SCTP, 12), (ipip, 0)] {
            let packet = packet(protocol);
            assert!(passes(&packet, TRANSPORT + header, 0), "{protocol}");
            assert!(passes(&packet, FRAME - 1, 0), "{protocol}");
            assert!(!passes(&packet, FRAME, 0), "{protocol}");
            assert!(!passes(&packet, TRANSPORT + header - 1, 6), "{protocol}");
        }
    }

    #[test]
    fn messages_whose_bodies_are_read_leave_none() {
        for protocol in [ICMP, ICMPV6, IGMP] {
            let packet = packet(protocol);
            for start in [14, TRANSPORT, TRANSPORT + 8, TRANSPORT + 24] {
                assert!(!passes(&packet, start, 2), "{protocol}: {start}");
            }
        }
    }

    #[test]
    fn a_first_fragment_is_like_a_whole_packet_and_a_later_one_leaves_none() {
        let mut packet = packet(UDP);
        packet.part = Part::First;
        assert!(passes(&packet, TRANSPORT, 6));
        assert!(!passes(&packet, TRANSPORT, 2));
        packet.part = Part::Later;
        for start in [TRANSPORT, TRANSPORT + 8, TRANSPORT + 100] {
            assert!(!passes(&packet, start, 6));
        }
    }
}
