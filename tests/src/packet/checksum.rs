//! The checksums of the protocols the builder writes.
//!
//! Written for being evidently right, not fast: what is built here is the
//! yardstick for the checks a kernel makes.

use std::net::IpAddr;

/// The Internet checksum (RFC 1071) of `parts`, read as one string of bytes.
///
/// Over data that contains its own correct checksum the result is zero.
pub fn internet(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for (at, byte) in parts.iter().copied().flatten().enumerate() {
        let byte = u64::from(*byte);
        sum += if at % 2 == 0 { byte << 8 } else { byte };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop leaves 16 bits.
    !(sum as u16)
}

/// The pseudo-header that upper layers include in their checksum: RFC 9293
/// section 3.1 (IPv4), RFC 8200 section 8.1 (IPv6).
///
/// # Panics
///
/// Panics if the two addresses are of different families.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a packet is shorter than 4 GiB");
    let mut header = Vec::with_capacity(40);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend([0, protocol]);
            header.extend(&length.to_be_bytes()[2..]);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend(length.to_be_bytes());
            header.extend([0, 0, 0, protocol]);
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
    header
}

/// CRC-32C (Castagnoli) as SCTP uses it: RFC 9260 appendix A. Its bytes go into
/// the packet in little-endian order.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const REFLECTED_POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1)
                ^ if crc & 1 == 1 {
                    REFLECTED_POLYNOMIAL
                } else {
                    0
                }
        })
    })
}
