//! Addresses of both families, as words that compare like numbers.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The family of an address or packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// An address as host-order words, most significant first. IPv4 uses the first
/// word and leaves the others zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Family that the words mean, one of the two.
    pub family: Family,
    /// The address; see the type.
    pub words: [u32; 4],
}

impl Address {
    /// An IPv4 address from its bytes as they stand in a packet.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self {
            family: Family::V4,
            words: [u32::from_be_bytes(bytes), 0, 0, 0],
        }
    }

    /// An IPv6 address from its bytes as they stand in a packet.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self {
            family: Family::V6,
            words: [
                u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
                u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
                u32::from_be_bytes([b[8], b[9], b[10], b[11]]),
                u32::from_be_bytes([b[12], b[13], b[14], b[15]]),
            ],
        }
    }

    /// `::`, or 0.0.0.0.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        (self.words[0] | self.words[1] | self.words[2] | self.words[3]) == 0
    }

    /// Returns `true` if both are the same address of the same family. Unlike `==`, which
    /// calls `bcmp` for the words: on BPF that is a loop over bytes.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        let different = self.words[0] ^ other.words[0]
            | self.words[1] ^ other.words[1]
            | self.words[2] ^ other.words[2]
            | self.words[3] ^ other.words[3];
        different == 0 && self.family as u8 == other.family as u8
    }

    /// Returns `true` if it names a group of receivers: IPv4 multicast (224.0.0.0/4, RFC 1112)
    /// and limited broadcast, IPv6 multicast (ff00::/8, RFC 4291).
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        match self.family {
            Family::V4 => self.words[0] >> 28 == 0xe || self.words[0] == u32::MAX,
            Family::V6 => self.words[0] >> 24 == 0xff,
        }
    }

    /// An IPv6 address of fe80::/10 (RFC 4291, 2.5.6).
    #[inline(always)]
    pub fn is_link_local_v6(&self) -> bool {
        self.family as u8 == Family::V6 as u8 && self.words[0] >> 22 == 0xfe80 >> 6
    }

    /// The link-local address that an interface derives from its MAC
    /// (RFC 4291, appendix A: modified EUI-64). `mac` is the MAC as a number.
    #[inline(always)]
    pub const fn eui64_link_local(mac: u64) -> Self {
        let high = (mac >> 24) as u32 ^ 0x02_0000;
        let low = mac as u32 & 0xff_ffff;
        Self {
            family: Family::V6,
            words: [0xfe80_0000, 0, high << 8 | 0xff, 0xfe00_0000 | low],
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let [a, b, c, d] = address.words;
        match address.family {
            Family::V4 => Self::V4(Ipv4Addr::from(a)),
            Family::V6 => Self::V6(Ipv6Addr::from(
                u128::from(a) << 96 | u128::from(b) << 64 | u128::from(c) << 32 | u128::from(d),
            )),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_itself_alone() {
        let of = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let all = [
            "::", "0.0.0.0", "1.0.0.0", "100::", "0:1::", "::1:0:0", "::1",
        ]
        .map(of);
        for (i, a) in all.iter().enumerate() {
            for (k, b) in all.iter().enumerate() {
                assert_eq!(a.is(b), i == k, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn addresses_survive_the_way_to_words_and_back() {
        for text in ["10.1.2.3", "255.255.255.255", "2001:db8::1:ffff", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn link_local_of_a_mac_is_its_modified_eui64() {
        let expected: IpAddr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        assert_eq!(
            Address::eui64_link_local(0x5254_0012_3456),
            Address::from(expected)
        );
        assert!(Address::from(expected).is_link_local_v6());
        assert!(!Address::v4([254, 128, 0, 1]).is_link_local_v6());
    }
}
