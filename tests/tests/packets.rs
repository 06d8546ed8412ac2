//! The packet builder writes what it says, and lies only where it is told to.
//!
//! Whole packets are held against bytes worked out by other means, everything
//! else against the field it is about. Whether a kernel agrees is tried in
//! `worlds.rs`.

#[path = "packets/right.rs"]
mod right;
#[path = "packets/wrong.rs"]
mod wrong;

use std::net::IpAddr;

use cofferdam_tests::packet::*;

const WEB: End = End::number(1);
const DB: End = End::number(2);

/// Offsets of the parts of a frame without tags.
const IP: usize = 14;
const L4_V4: usize = IP + 20;
const L4_V6: usize = IP + 40;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sums an IPv4 header, and the transport with either family's pseudo-header, as a receiver
/// does. Returns both remainders: 0 if the checksums are right.
fn leftover(frame: &[u8]) -> (u16, u16) {
    let packet = &frame[IP..];
    let (header, source, destination, protocol, l4): (&[u8], IpAddr, IpAddr, u8, &[u8]);
    if packet[0] >> 4 == 4 {
        let ihl = usize::from(packet[0] & 0xf) * 4;
        header = &packet[..ihl];
        source = <[u8; 4]>::try_from(&packet[12..16]).unwrap().into();
        destination = <[u8; 4]>::try_from(&packet[16..20]).unwrap().into();
        protocol = packet[9];
        l4 = &packet[ihl..usize::from(u16_at(packet, 2))];
    } else {
        // All ones sum up to nothing.
        header = &[0xff, 0xff];
        source = <[u8; 16]>::try_from(&packet[8..24]).unwrap().into();
        destination = <[u8; 16]>::try_from(&packet[24..40]).unwrap().into();
        protocol = packet[6];
        l4 = &packet[40..40 + usize::from(u16_at(packet, 4))];
    }
    let pseudo = match protocol {
        protocol::ICMP => Vec::new(),
        _ => checksum::pseudo_header(source, destination, protocol, l4.len()),
    };
    (
        checksum::internet(&[header]),
        checksum::internet(&[&pseudo, l4]),
    )
}
