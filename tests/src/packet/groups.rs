//! Membership of multicast groups: IGMP and multicast listener discovery (MLD).
//!
//! The two say the same in either family; what a message is about decides which it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::icmp::message;
use super::{Extension, Family, Icmp, Packet, option, protocol};

/// A record of a report (RFC 3376 section 4.2.4, RFC 3810 section 5.2.4).
#[derive(Clone, Debug)]
pub struct GroupRecord {
    kind: u8,
    auxiliary: Vec<u8>,
    group: IpAddr,
    sources: Vec<IpAddr>,
}

/// A record that a host listens to a group, whoever sends to it: a change to exclude
/// mode, without sources.
pub fn group_record(group: impl Into<IpAddr>) -> GroupRecord {
    GroupRecord {
        kind: 4,
        auxiliary: Vec::new(),
        group: group.into(),
        sources: Vec::new(),
    }
}

impl GroupRecord {
    /// Any kind of record.
    pub fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }

    /// Names sources.
    pub fn sources(mut self, sources: &[IpAddr]) -> Self {
        self.sources.extend(sources);
        self
    }

    /// Adds auxiliary data, which no version of either protocol defines.
    ///
    /// # Panics
    ///
    /// Panics if they are not whole words.
    pub fn auxiliary(mut self, bytes: &[u8]) -> Self {
        assert!(
            bytes.len().is_multiple_of(4),
            "auxiliary data is 32-bit words"
        );
        self.auxiliary = bytes.to_vec();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, (self.auxiliary.len() / 4) as u8];
        bytes.extend((self.sources.len() as u16).to_be_bytes());
        for address in [&self.group].into_iter().chain(&self.sources) {
            bytes.extend(octets(*address));
        }
        bytes.extend(&self.auxiliary);
        bytes
    }
}

/// A report of listening to one group, in the first form that is still spoken: IGMPv2
/// (RFC 2236) or MLDv1 (RFC 2710).
pub fn group_joined(group: impl Into<IpAddr>) -> Packet<Icmp> {
    let group = group.into();
    single(group, [0x16, 131]).usually_to(group)
}

/// A report of listening to one group in IGMPv1 (RFC 1112).
pub fn igmpv1_report(group: Ipv4Addr) -> Packet<Icmp> {
    single(group.into(), [0x12, 0]).usually_to(group)
}

/// The end of listening to one group, said to all routers.
pub fn group_left(group: impl Into<IpAddr>) -> Packet<Icmp> {
    let group = group.into();
    let routers: [IpAddr; 2] = [
        Ipv4Addr::new(224, 0, 0, 2).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).into(),
    ];
    single(group, [0x17, 132]).usually_to(routers[of(group)])
}

/// A report in records: IGMPv3 or MLDv2. Records that are added later are not counted
/// when `counted` says a number.
pub fn group_report(
    family: Family,
    records: &[GroupRecord],
    counted: impl Into<Option<u16>>,
) -> Packet<Icmp> {
    let [high, low] = counted.into().unwrap_or(records.len() as u16).to_be_bytes();
    let mut packet = match family {
        Family::V4 => igmp(0x22).usually_to(Ipv4Addr::new(224, 0, 0, 22)),
        Family::V6 => mld(143).usually_to(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16)),
    }
    .rest([0, 0, high, low]);
    for record in records {
        packet.segment.body.extend(record.bytes());
    }
    packet
}

/// A report of listening to groups, from any source (MLDv2, RFC 3810).
pub fn mldv2_report(groups: &[Ipv6Addr]) -> Packet<Icmp> {
    let records: Vec<GroupRecord> = groups.iter().copied().map(group_record).collect();
    group_report(Family::V6, &records, None)
}

/// A router's question who listens to a group, or to any (the unspecified address), in
/// the first form of each protocol.
pub fn group_query(group: impl Into<IpAddr>) -> Packet<Icmp> {
    let group: IpAddr = group.into();
    let everyone: [IpAddr; 2] = [
        Ipv4Addr::new(224, 0, 0, 1).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    ];
    let to = match group.is_unspecified() {
        true => everyone[of(group)],
        false => group,
    };
    single(group, [0x11, 130]).code(100).usually_to(to)
}

/// The same question in IGMPv3 or MLDv2, about these sources.
pub fn group_source_query(group: impl Into<IpAddr>, sources: &[IpAddr]) -> Packet<Icmp> {
    let mut packet = group_query(group);
    packet.segment.body.extend([2, 125]);
    packet
        .segment
        .body
        .extend((sources.len() as u16).to_be_bytes());
    for source in sources {
        packet.segment.body.extend(octets(*source));
    }
    packet
}

/// A router's advertisement that it is one for multicast (RFC 4286).
pub fn multicast_router(family: Family) -> Packet<Icmp> {
    match family {
        Family::V4 => igmp(0x30).usually_to(Ipv4Addr::new(224, 0, 0, 106)),
        Family::V6 => mld(151).usually_to(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x6a)),
    }
}

/// A message of one group; `kinds` are its types in IGMP and MLD.
fn single(group: IpAddr, kinds: [u8; 2]) -> Packet<Icmp> {
    match group {
        IpAddr::V4(v4) => igmp(kinds[0]).rest(v4.octets()),
        IpAddr::V6(v6) => {
            let mut packet = mld(kinds[1]);
            packet.segment.body = v6.octets().to_vec();
            packet
        }
    }
}

fn igmp(kind: u8) -> Packet<Icmp> {
    message(protocol::IGMP, kind)
        .hop_limit(1)
        .ip_options(&[option::ROUTER_ALERT, 4, 0, 0])
}

fn mld(kind: u8) -> Packet<Icmp> {
    message(protocol::ICMPV6, kind)
        .hop_limit(1)
        .extension(Extension::router_alert())
}

/// Index by family.
fn of(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
