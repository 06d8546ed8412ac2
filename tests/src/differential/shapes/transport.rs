//! Transport headers that lie, and one that only a server may send.

use cofferdam_oracle::Payload;
use cofferdam_verdict::reason::Reason;

use super::right::{addressed, bytes, port};
use super::{Shaped, Shapes, denied};
use crate::packet::{Family, tcp, udp};

pub(super) const SHAPES: Shapes = &[
    ("TCP options and data", |rng, trial| {
        let port = port(rng);
        let packet = tcp()
            .dport(port)
            .syn()
            .tcp_options(&bytes(rng, 40))
            .payload(&bytes(rng, 100));
        let packet = addressed(packet.erased(), trial);
        Some(Shaped::judged(&packet, Payload::Port(6, port)))
    }),
    ("TCP header shorter than one", |rng, trial| {
        let packet = tcp().dport(port(rng)).syn().data_offset(rng.u8(..5));
        let packet = addressed(packet.erased(), trial);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("TCP header longer than the packet", |rng, trial| {
        let packet = tcp().dport(port(rng)).syn().data_offset(rng.u8(6..16));
        let packet = addressed(packet.erased(), trial);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("UDP data", |rng, trial| {
        let port = port(rng);
        let data = bytes(rng, 200);
        // A datagram may be shorter than its packet.
        let length = rng.usize(8..=8 + data.len()) as u16;
        let packet = udp().dport(port).payload(&data).udp_length(length);
        let packet = addressed(packet.erased(), trial);
        Some(Shaped::judged(&packet, Payload::Port(17, port)))
    }),
    ("UDP length shorter than a header", |rng, trial| {
        let packet = udp().dport(port(rng)).udp_length(rng.u16(..8));
        let packet = addressed(packet.erased(), trial);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("UDP length past the packet", |rng, trial| {
        let packet = udp().dport(port(rng)).udp_length(rng.u16(9..));
        let packet = addressed(packet.erased(), trial);
        Some(Shaped::dropped(&packet, Reason::Malformed))
    }),
    ("DHCP server", |rng, trial| {
        let (server, client) = match trial.family {
            Family::V4 => (67, 68),
            Family::V6 => (547, 546),
        };
        let offer = udp().sport(server).dport(client).payload(&bytes(rng, 100));
        let offer = addressed(offer.erased(), trial);
        Some(Shaped {
            leaving: denied(Reason::DhcpServer),
            ..Shaped::judged(&offer, Payload::Port(17, client))
        })
    }),
];
