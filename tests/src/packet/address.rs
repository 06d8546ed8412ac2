//! Senders and receivers: MAC addresses, families, and the two ends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One of the two families of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, for tests that must hold in either.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: impl Into<IpAddr>) -> Self {
        if address.into().is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everyone on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No address, as an ARP request carries for the address it asks for.
    pub const ZERO: Self = Self([0; 6]);

    /// A locally administered address with `n` in its last two bytes, so that
    /// it can be told from another one at a glance.
    pub const fn local(group: u8, n: u16) -> Self {
        let [high, low] = n.to_be_bytes();
        Self([0x02, group, 0, 0, high, low])
    }

    /// The group address an IP multicast address maps to: RFC 1112 section 6.4,
    /// RFC 2464 section 7. Broadcast maps to broadcast, unicast to nothing.
    pub fn of_multicast(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) if v4.is_broadcast() => Some(Self::BROADCAST),
            IpAddr::V4(v4) if v4.is_multicast() => {
                let [_, b, c, d] = v4.octets();
                Some(Self([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
            }
            IpAddr::V6(v6) if v6.is_multicast() => {
                let [.., a, b, c, d] = v6.octets();
                Some(Self([0x33, 0x33, a, b, c, d]))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One end of a conversation: where its frames come from and what it is called
/// in both families.
///
/// A bare address is an end too (`.to(Ipv4Addr::LOCALHOST)`); a multicast
/// address then brings the MAC address it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
}

impl End {
    /// The end `n` of tests that need no world: 10.0.0.n and fd00::n.
    pub const fn number(n: u8) -> Self {
        Self {
            mac: Mac::local(0, n as u16),
            ipv4: Some(Ipv4Addr::new(10, 0, 0, n)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n as u16)),
        }
    }

    /// The same end under another Ethernet address.
    pub const fn with_mac(self, mac: Mac) -> Self {
        Self { mac, ..self }
    }

    /// The same end under another IP address of that address's family.
    pub fn with_ip(mut self, address: impl Into<IpAddr>) -> Self {
        match address.into() {
            IpAddr::V4(v4) => self.ipv4 = Some(v4),
            IpAddr::V6(v6) => self.ipv6 = Some(v6),
        }
        self
    }

    /// Its address in a family.
    pub fn ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4.map(IpAddr::V4),
            Family::V6 => self.ipv6.map(IpAddr::V6),
        }
    }
}

impl From<IpAddr> for End {
    fn from(address: IpAddr) -> Self {
        let mac = Mac::of_multicast(address).unwrap_or(Mac::local(0xff, 0xffff));
        Self {
            mac,
            ipv4: None,
            ipv6: None,
        }
        .with_ip(address)
    }
}

impl From<Ipv4Addr> for End {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

impl From<Ipv6Addr> for End {
    fn from(address: Ipv6Addr) -> Self {
        IpAddr::V6(address).into()
    }
}

impl From<&End> for End {
    fn from(end: &End) -> Self {
        *end
    }
}
