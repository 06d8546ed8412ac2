//! Packets that nobody sends, for the loaded programs to judge.
//!
//! Reading maps back shows the words that the agent wrote; judged packets show the verdicts
//! that the programs on the hooks derive from them.

use std::net::IpAddr;

use cofferdam_dataplane::{Endpoint, Program, TestContext};

/// A host that is nobody's, in each family: addresses for documentation (RFC 5737,
/// RFC 3849).
const STRANGERS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A packet, and where it is said to appear.
pub struct TestPacket {
    /// The program that is asked.
    pub program: Program,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
    /// The interfaces.
    pub context: TestContext,
}

/// Opening segments between each address of an endpoint and a stranger, and each of
/// some peers (their address, and the stamp of the local ones), both ways.
pub fn test_packets(endpoint: &Endpoint, peers: &[(IpAddr, u16)]) -> Vec<TestPacket> {
    let strangers = STRANGERS
        .iter()
        .filter_map(|text| text.parse().ok())
        .map(|address: IpAddr| (address, 0));
    let peers: Vec<(IpAddr, u16)> = strangers.chain(peers.iter().copied()).collect();
    let mut test_packets = Vec::new();
    for &(own, _) in &endpoint.addresses {
        for &(peer, stamp) in &peers {
            let context = TestContext {
                ifindex: endpoint.ifindex,
                ..TestContext::default()
            };
            let mut ask = |program, source, destination, context: TestContext| {
                if let Some(frame) = opening(endpoint.mac, source, destination) {
                    test_packets.push(TestPacket {
                        program,
                        frame,
                        context,
                    });
                }
            };
            ask(Program::FROM_WORKLOAD, own, peer, context);
            ask(Program::TO_WORKLOAD, peer, own, context.stamped(stamp));
        }
    }
    test_packets
}

/// An opening TCP segment to port 443, whose checksums nobody will look at; none
/// between families.
fn opening(mac: [u8; 6], source: IpAddr, destination: IpAddr) -> Option<Vec<u8>> {
    const TCP: u8 = 6;
    const TCP_BYTES: u8 = 20;
    let mut frame = [[2, 0, 0, 0, 0, 1], mac].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            frame.extend([0x45, 0, 0, 20 + TCP_BYTES, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0, 0, TCP_BYTES, TCP, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return None,
    }
    let port = |port: u16| port.to_be_bytes();
    frame.extend(port(49_152));
    frame.extend(port(443));
    // Sequence and acknowledgement, five words of header, SYN, a window.
    frame.extend([0; 8]);
    frame.extend([5 << 4, 1 << 1, 0xff, 0xff, 0, 0, 0, 0]);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_verdict::packet::{self, ethertype, protocol, tcp_flag};
    use cofferdam_verdict::slices::SliceFrame;

    #[test]
    fn test_packets_are_whole_opening_segments_both_ways() {
        let own = ["10.0.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let endpoint = Endpoint {
            ifindex: 7,
            mac: [2, 0, 0, 0, 0, 9],
            incarnation: 1,
            addresses: own.map(|address| (address, 1)).to_vec(),
            stamp: 1,
            link_local: None,
            deny_all: false,
            shared_hooks: false,
            adopt_until: 0,
            listeners: Default::default(),
        };
        let peer: IpAddr = "fd00::3".parse().unwrap();
        let test_packets = test_packets(&endpoint, &[(peer, 8)]);
        // Each family has its stranger, IPv6 the peer as well.
        assert_eq!(test_packets.len(), 2 + 4);
        for test_packet in &test_packets {
            let frame = SliceFrame {
                bytes: &test_packet.frame,
                gso: false,
            };
            let kind = packet::ethernet(&frame).unwrap().ethertype;
            assert!([ethertype::IPV4, ethertype::IPV6].contains(&kind));
            let packet = packet::parse(&frame, kind).unwrap();
            assert_eq!(packet.protocol, protocol::TCP);
            assert_eq!(packet.segment.flags, tcp_flag::SYN);
            assert_eq!(test_packet.context.ifindex, 7);
        }
    }
}
