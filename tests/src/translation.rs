//! Rules of a node that lead virtual addresses to another host.

use std::net::IpAddr;

use crate::packet::Family;

/// The virtual address of a family.
///
/// # Panics
///
/// Never: both are addresses.
pub fn virtual_address(family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => "10.99.0.1",
        Family::V6 => "fd99::1",
    };
    text.parse().expect("an address")
}

/// Rules for `nft` that lead the virtual addresses to those of a host, of IPv4 and IPv6.
pub fn to_host([v4, v6]: [IpAddr; 2], masquerades: bool) -> String {
    let masquerade = if masquerades {
        "ct status dnat masquerade"
    } else {
        ""
    };
    format!(
        "\
table inet virtual {{
    chain in {{
        type nat hook prerouting priority dstnat
        ip daddr 10.99.0.1 dnat ip to {v4}
        ip6 daddr fd99::1 dnat ip6 to {v6}
    }}
    chain out {{
        type nat hook postrouting priority srcnat
        {masquerade}
    }}
}}
"
    )
}
