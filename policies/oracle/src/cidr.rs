//! Addresses that a block means.

use std::net::IpAddr;

/// Returns `true` if an address lies in a block of its own family; host bits of the block do
/// not matter.
pub(super) fn in_cidr(cidr: &str, address: IpAddr) -> bool {
    let Some((base, length)) = cidr.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if length <= 32 => {
            let host_bits = 32 - length;
            u64::from(u32::from(base)) >> host_bits == u64::from(u32::from(address)) >> host_bits
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if length <= 128 => {
            let different = u128::from(base) ^ u128::from(address);
            length == 0 || different >> (128 - length) == 0
        }
        _ => false,
    }
}
