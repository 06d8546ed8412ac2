//! Interfaces and addresses, as the kernel tells of them.
//!
//! Requests are made by the thread that reconciles, and block it: what they answer
//! is the state at that moment, never one that was overtaken by an endpoint added
//! meanwhile. News come to the rest of the agent over [`watch`] and only say that it
//! is time to ask.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use cofferdam_dataplane::Uplink;
use cofferdam_verdict::endpoint::MAX_LISTENERS;
use nix::libc;
use nix::sys::socket::SockProtocol;
use rtnetlink::packet_core::{
    NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator, Parseable as _,
    ParseableParametrized as _,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use thiserror::Error;

mod inside;
pub(crate) mod socket;

pub use inside::{Looked, look_inside};
use socket::{Asks, Socket, attribute};

/// The namespace of the calling thread; `/proc/self` would be the main thread's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Reason for which the kernel could not be asked, or an interface is none to be managed.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A netlink socket cannot be opened.
    #[error("cannot talk netlink")]
    Socket {
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// There can be no more threads.
    #[error("cannot start a thread (see `TasksMax=` and `pids.max`)")]
    Thread {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A request was refused.
    #[error("cannot {what}")]
    Request {
        /// Request that was refused.
        what: &'static str,
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// A path is no network namespace.
    #[error("cannot enter the network namespace {}", path.display())]
    Namespace {
        /// The path.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The workload's namespace is the agent's own.
    #[error("{} is the network namespace of the agent itself, not of a workload", path.display())]
    OwnNamespace {
        /// The path.
        path: PathBuf,
    },
    /// There is no such interface.
    #[error("there is no interface {interface} in {}", path.display())]
    NoInterface {
        /// Its name.
        interface: String,
        /// The namespace.
        path: PathBuf,
    },
    /// An interface of a kind that is not managed.
    #[error("the interface {interface} is not one end of a veth pair: only those are managed")]
    NotVeth {
        /// Its name.
        interface: String,
    },
    /// The other end is elsewhere.
    #[error(
        "the other end of {interface} is not in the network namespace of this agent: start the agent where it is"
    )]
    ElsewherePeer {
        /// Its name.
        interface: String,
    },
}

/// Kind of an interface, as far as the agent treats it in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The loopback interface.
    Loopback,
    /// One end of a veth pair.
    Veth,
    /// A bridge.
    Bridge,
    /// A dummy device, such as `kube-ipvs0`: it carries addresses and no packets.
    Dummy,
    /// A tunnel: packets come in by it that came in by another interface before, inside
    /// others.
    Tunnel,
    /// A device over another, such as a VLAN.
    Upper,
    /// A device through which no packet enters the namespace, such as a shaper's.
    Inner,
    /// Any other Ethernet device.
    Ethernet,
    /// Any other device: its packets come from a driver or a process of this node.
    Other,
}

impl Kind {
    /// Returns `true` if addresses on the interface are those of services rather than the
    /// node's own.
    #[must_use]
    pub fn carries_virtual_addresses(self) -> bool {
        matches!(self, Self::Loopback | Self::Dummy)
    }

    /// Returns the kind of a link, by its header and its kind's name.
    fn of(link: &LinkMessage) -> Self {
        let mut infos = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => Some(infos),
                _ => None,
            })
            .into_iter()
            .flatten();
        let kind = infos.find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        });
        let by_header = if link.header.flags.contains(LinkFlags::Loopback) {
            Self::Loopback
        } else if link.header.link_layer_type == LinkLayerType::Ether {
            Self::Ethernet
        } else {
            Self::Other
        };
        match kind {
            None => by_header,
            Some(InfoKind::Veth) => Self::Veth,
            Some(InfoKind::Bridge) => Self::Bridge,
            Some(InfoKind::Dummy) => Self::Dummy,
            Some(InfoKind::Ifb | InfoKind::Nlmon | InfoKind::Vrf) => Self::Inner,
            Some(
                InfoKind::Vlan
                | InfoKind::MacVlan
                | InfoKind::MacVtap
                | InfoKind::IpVlan
                | InfoKind::IpVtap
                | InfoKind::MacSec,
            ) => Self::Upper,
            Some(
                InfoKind::Vxlan
                | InfoKind::Geneve
                | InfoKind::GreTap
                | InfoKind::GreTap6
                | InfoKind::GreTun
                | InfoKind::GreTun6
                | InfoKind::IpIp
                | InfoKind::Ip6Tnl
                | InfoKind::SitTun
                | InfoKind::Vti
                | InfoKind::Vti6
                | InfoKind::Xfrm
                | InfoKind::Gtp
                | InfoKind::Pfcp
                | InfoKind::Wireguard
                | InfoKind::Amt
                | InfoKind::BatAdv
                | InfoKind::BareUdp
                | InfoKind::ErSpan
                | InfoKind::Ip6ErSpan,
            ) => Self::Tunnel,
            Some(InfoKind::Other(name)) if name.starts_with("ovpn") || name == "l2tpeth" => {
                Self::Tunnel
            }
            Some(_) => by_header,
        }
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one of that length.
    pub mac: Option<[u8; 6]>,
    /// Its kind.
    pub kind: Kind,
    /// The bridge, or the like, that it is a port of.
    pub controller: u32,
    /// Index of the other end, or of the device below.
    pub peer: u32,
    /// Number of the namespace that `peer` is in, as this one numbers them; `None` if it
    /// is in this one.
    pub peer_namespace: Option<i32>,
}

/// All interfaces of the agent's namespace, and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// By index.
    pub by_index: BTreeMap<u32, Interface>,
    /// Their addresses, in order, with the index of the interface; neither link-local
    /// addresses nor those of 127.0.0.0/8 and ::1.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Their link-local IPv6 addresses, in order, with the index of the interface.
    pub link_local: Vec<(Ipv6Addr, u32)>,
}

impl Interfaces {
    /// Addresses of the node itself: those of all interfaces but the ones that carry
    /// virtual addresses.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.addresses.iter();
        own.filter(|(_, ifindex)| !self.carries_virtual_addresses(*ifindex))
            .map(|(address, _)| *address)
    }

    /// Returns the interface that has an address as a virtual one, `None` if there is no
    /// such interface.
    #[must_use]
    pub fn with_virtual_address(&self, address: IpAddr) -> Option<&Interface> {
        let mut holders = self.addresses.iter().filter(|(one, _)| *one == address);
        holders
            .find(|(_, ifindex)| self.carries_virtual_addresses(*ifindex))
            .and_then(|(_, ifindex)| self.by_index.get(ifindex))
    }

    /// Returns what crosses an interface, if it is an endpoint's no more than others':
    /// `None` if packets neither leave the node by it nor enter by it.
    #[must_use]
    pub fn uplink(&self, interface: &Interface) -> Option<Uplink> {
        match interface.kind {
            Kind::Tunnel => Some(Uplink::Tunnel),
            Kind::Other => Some(Uplink::Exit),
            _ => self.is_door(interface).then_some(Uplink::Door),
        }
    }

    /// Returns `true` if packets enter the namespace by an interface with whatever another
    /// namespace wrote into their metadata: it is no bridge, no tunnel, and not over a
    /// bridge, where they have come in by another interface.
    fn is_door(&self, interface: &Interface) -> bool {
        match interface.kind {
            Kind::Ethernet => true,
            // Of a pair within the namespace both ends are the node's.
            Kind::Veth => interface.peer_namespace.is_some(),
            Kind::Upper => {
                // A device over devices: the kernel bounds their number.
                const MAX_DEVICES: usize = 8;
                let below = |above: &&Interface| {
                    let is_here = above.kind == Kind::Upper && above.peer_namespace.is_none();
                    is_here.then(|| self.by_index.get(&above.peer)).flatten()
                };
                let mut devices = std::iter::successors(Some(interface), below).take(MAX_DEVICES);
                !devices.any(|device| device.kind == Kind::Bridge)
            }
            Kind::Loopback
            | Kind::Bridge
            | Kind::Dummy
            | Kind::Tunnel
            | Kind::Inner
            | Kind::Other => false,
        }
    }

    fn carries_virtual_addresses(&self, ifindex: u32) -> bool {
        let interface = self.by_index.get(&ifindex);
        interface.is_some_and(|interface| interface.kind.carries_virtual_addresses())
    }
}

/// The workload's side of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Inode of the namespace.
    pub inode: u64,
    /// The interface.
    pub interface: Interface,
    /// Its addresses but link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Its link-local IPv6 address, if it has one.
    pub link_local: Option<Ipv6Addr>,
    /// Ports at which its workload takes TCP connections, as the programs have it.
    pub listeners: [u32; MAX_LISTENERS],
}

/// Asks the kernel about the namespace it was opened in.
///
/// The rest of an answer that failed would come before the next on the same socket: each question
/// is asked once more over another socket then.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self, LinkError> {
        Ok(Self {
            socket: open_socket()?,
        })
    }

    /// Asks the kernel, and once more over another socket if that fails. The calling thread
    /// must be in the namespace that the first was opened in.
    fn ask<T>(
        &mut self,
        what: &'static str,
        question: impl Fn(&mut Socket) -> io::Result<T>,
    ) -> Result<T, LinkError> {
        if let Ok(answer) = question(&mut self.socket) {
            return Ok(answer);
        }
        self.socket = open_socket()?;
        question(&mut self.socket).map_err(|source| LinkError::Request { what, source })
    }

    /// All interfaces and addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn interfaces(&mut self) -> Result<Interfaces, LinkError> {
        let by_index = self.links()?.into_iter();
        let (addresses, link_local) = self.addresses(None)?;
        Ok(Interfaces {
            by_index: by_index
                .map(|interface| (interface.ifindex, interface))
                .collect(),
            addresses,
            link_local,
        })
    }

    fn links(&mut self) -> Result<Vec<Interface>, LinkError> {
        // Counters would be most of the answer.
        let mask = attribute(libc::IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        let body = [&[0; LINK_BYTES][..], &mask].concat();
        self.ask("list interfaces", |socket| {
            list(socket, libc::RTM_GETLINK, &body, interface_of)
        })
    }

    /// Lists the addresses of one interface, or of all; those that another host has, too, are
    /// nobody's.
    fn addresses(&mut self, of: Option<u32>) -> Result<Addresses, LinkError> {
        let listed = self.ask("list addresses", |socket| {
            let take = |body: &[u8]| AddressMessage::parse(body).ok();
            list(socket, libc::RTM_GETADDR, &[0; ADDRESS_BYTES], take)
        })?;
        Ok(sort_addresses(listed, of))
    }

    /// Returns the number that this namespace has for another.
    fn number_of(&mut self, namespace: &File) -> Result<Option<i32>, LinkError> {
        let descriptor = namespace.as_raw_fd().to_ne_bytes();
        let body = [&[0; 4][..], &attribute(NETNSA_FD, &descriptor)].concat();
        self.ask("ask for the number of a namespace", |socket| {
            let mut number = None;
            let take = |_, body: &[u8]| {
                number = number.or(number_in(body));
                true
            };
            socket.ask(libc::RTM_GETNSID, Asks::One, &body, take)?;
            Ok(number)
        })
    }

    /// Finds the node's side of a workload's link among `interfaces`, which were listed after
    /// the link was made.
    ///
    /// # Errors
    /// When the interface is not a veth whose other end is here.
    pub fn endpoint(
        &mut self,
        looked: Looked,
        interfaces: &Interfaces,
    ) -> Result<(Inner, Interface), LinkError> {
        let Looked { namespace, inner } = looked;
        if inner.interface.kind != Kind::Veth {
            return Err(LinkError::NotVeth {
                interface: inner.interface.name,
            });
        }
        // Indexes alone could belong to two links that have nothing to do with each
        // other: the namespaces decide.
        let number = self.number_of(&namespace)?;
        let peer = interfaces
            .by_index
            .get(&inner.interface.peer)
            .filter(|peer| {
                peer.kind == Kind::Veth
                    && peer.peer == inner.interface.ifindex
                    && number.is_some()
                    && peer.peer_namespace == number
            });
        match peer {
            Some(peer) => Ok((inner, peer.clone())),
            None => Err(LinkError::ElsewherePeer {
                interface: inner.interface.name,
            }),
        }
    }
}

/// Bytes of a `struct ifinfomsg`.
const LINK_BYTES: usize = 16;
/// Bytes of a `struct ifaddrmsg`.
const ADDRESS_BYTES: usize = 8;
/// `RTEXT_FILTER_SKIP_STATS` (linux/rtnetlink.h).
const SKIP_STATS: u32 = 1 << 3;
/// `NETNSA_NSID` and `NETNSA_FD` (linux/net_namespace.h).
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// Tries of a list that changes while the kernel goes over it.
const TRIES: usize = 4;

fn open_socket() -> Result<Socket, LinkError> {
    Socket::open(SockProtocol::NetlinkRoute).map_err(|source| LinkError::Socket { source })
}

/// Lists what `read` makes of messages. The list of a namespace that never comes to rest is as
/// it was found: word of what changed is on its way.
fn list<T>(
    socket: &mut Socket,
    kind: u16,
    body: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut listed = Vec::new();
    for _ in 0..TRIES {
        listed.clear();
        let take = |_, body: &[u8]| {
            listed.extend(read(body));
            true
        };
        if socket.ask(kind, Asks::List, body, take)? {
            break;
        }
    }
    Ok(listed)
}

/// The number of a namespace in a message about it.
fn number_in(body: &[u8]) -> Option<i32> {
    let attributes = NlasIterator::new(body.get(4..)?);
    let mut numbers = attributes.flatten().filter_map(|one| {
        let value = one.value().first_chunk().copied()?;
        (one.kind() == NETNSA_NSID).then(|| i32::from_ne_bytes(value))
    });
    numbers.find(|number| *number >= 0)
}

/// Inode of the calling thread's network namespace.
///
/// # Errors
/// When `/proc` is not there.
pub fn own_namespace() -> io::Result<u64> {
    Ok(File::open(OWN_NAMESPACE)?.metadata()?.ino())
}

/// Addresses with the index of their interface, then link-local IPv6 addresses.
type Addresses = (Vec<(IpAddr, u32)>, Vec<(Ipv6Addr, u32)>);

/// Takes those of one interface, or of all, from what the kernel lists.
fn sort_addresses(listed: Vec<AddressMessage>, of: Option<u32>) -> Addresses {
    let (mut addresses, mut link_local) = (Vec::new(), Vec::new());
    for message in listed {
        if of.is_some_and(|ifindex| message.header.index != ifindex) {
            continue;
        }
        // The local address is the interface's own where both are there: on a
        // point-to-point link the other is the neighbour's.
        let local = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
        let address = local.or_else(|| {
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
        });
        let ifindex = message.header.index;
        match address {
            Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() => {
                let has_failed = message.header.flags.contains(AddressHeaderFlags::Dadfailed);
                link_local.extend((!has_failed).then_some((v6, ifindex)));
            }
            Some(IpAddr::V4(v4)) if v4.is_link_local() => {}
            Some(address) if !address.is_loopback() => addresses.push((address, ifindex)),
            _ => {}
        }
    }
    addresses.sort();
    addresses.dedup();
    link_local.sort();
    (addresses, link_local)
}

/// Reads a message about an interface. Of its attributes, which take up a kilobyte, few are
/// looked at.
fn interface_of(body: &[u8]) -> Option<Interface> {
    let mut link = LinkMessage::default();
    link.header = LinkHeader::parse(body).ok()?;
    let attributes = NlasIterator::new(body.get(LINK_BYTES..)?);
    for one in attributes.flatten() {
        if matches!(
            one.kind(),
            libc::IFLA_IFNAME
                | libc::IFLA_ADDRESS
                | libc::IFLA_MASTER
                | libc::IFLA_LINK
                | libc::IFLA_LINK_NETNSID
                | libc::IFLA_LINKINFO
        ) {
            let one: NlaBuffer<&[u8]> = one;
            let read = LinkAttribute::parse_with_param(&one, AddressFamily::Unspec);
            link.attributes.extend(read.ok());
        }
    }
    Some(interface(&link))
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        ifindex: link.header.index,
        name: String::new(),
        mac: None,
        kind: Kind::of(link),
        controller: 0,
        peer: 0,
        peer_namespace: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(mac) => interface.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => interface.controller = *index,
            LinkAttribute::Link(index) => interface.peer = *index,
            LinkAttribute::LinkNetNsId(number) => interface.peer_namespace = Some(*number),
            _ => {}
        }
    }
    interface
}

/// Something that has changed in the calling thread's namespace, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Interfaces or addresses.
    Links,
    /// Filters of the interface with this index, or where they stand.
    Filters(u32),
}

impl News {
    fn of(message: &NetlinkMessage<RouteNetlinkMessage>) -> Self {
        let NetlinkPayload::InnerMessage(message) = &message.payload else {
            return Self::Links;
        };
        match message {
            RouteNetlinkMessage::NewTrafficFilter(traffic)
            | RouteNetlinkMessage::DelTrafficFilter(traffic)
            | RouteNetlinkMessage::NewQueueDiscipline(traffic)
            | RouteNetlinkMessage::DelQueueDiscipline(traffic)
            | RouteNetlinkMessage::NewTrafficClass(traffic)
            | RouteNetlinkMessage::DelTrafficClass(traffic)
            | RouteNetlinkMessage::NewTrafficChain(traffic)
            | RouteNetlinkMessage::DelTrafficChain(traffic) => {
                Self::Filters(traffic.header.index.unsigned_abs())
            }
            _ => Self::Links,
        }
    }
}

/// Calls `news` whenever something of the calling thread's namespace has changed, or may
/// have: a socket that could not keep up is opened anew.
///
/// # Errors
/// When the socket cannot be opened, or the kernel ends it.
pub async fn watch(mut news: impl FnMut(News)) -> Result<(), LinkError> {
    loop {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Tc,
        ];
        let (connection, _handle, mut messages) =
            new_multicast_connection(&groups).map_err(|source| LinkError::Socket { source })?;
        let connection = tokio::spawn(connection);
        // Whatever happened while nobody listened; filters are looked at all the same.
        news(News::Links);
        while let Ok((message, _)) = messages.recv().await {
            if matches!(message.payload, NetlinkPayload::Overrun(_)) {
                break;
            }
            news(News::of(&message));
        }
        connection.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(ifindex: u32, flags: LinkFlags, kind: Option<InfoKind>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.flags = flags;
        message.header.link_layer_type = LinkLayerType::Ether;
        let kind = kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        message.attributes.extend(kind);
        message
    }

    #[test]
    fn addresses_of_dummies_and_of_the_loopback_interface_are_not_the_nodes() {
        let up = LinkFlags::Up;
        let links = [
            message(1, up | LinkFlags::Loopback, None),
            message(2, up, None),
            message(3, up, Some(InfoKind::Bridge)),
            message(4, up, Some(InfoKind::Vxlan)),
            message(5, up, Some(InfoKind::Dummy)),
            message(6, up, Some(InfoKind::Veth)),
        ];
        let address = |ifindex: u32| IpAddr::from([10, 0, 0, ifindex as u8]);
        let interfaces = Interfaces {
            by_index: (links.iter().map(interface))
                .map(|interface| (interface.ifindex, interface))
                .collect(),
            addresses: (1..=6).map(|ifindex| (address(ifindex), ifindex)).collect(),
            link_local: Vec::new(),
        };
        let own: Vec<IpAddr> = interfaces.own_addresses().collect();
        assert_eq!(own, [2, 3, 4, 6].map(address));
        let holder = |ifindex| interfaces.with_virtual_address(address(ifindex));
        assert_eq!(holder(5).map(|one| one.ifindex), Some(5));
        assert_eq!(holder(1).map(|one| one.ifindex), Some(1));
        assert_eq!(holder(2), None);
    }

    #[test]
    fn doors_are_where_packets_of_other_namespaces_enter_first() {
        let up = LinkFlags::Up;
        let over = |ifindex, kind, below: u32, is_here: bool| {
            let mut message = message(ifindex, up, Some(kind));
            message.attributes.push(LinkAttribute::Link(below));
            if !is_here {
                message.attributes.push(LinkAttribute::LinkNetNsId(0));
            }
            message
        };
        let mut tun = message(9, up, Some(InfoKind::Tun));
        tun.header.link_layer_type = LinkLayerType::None;
        let links = [
            message(1, up | LinkFlags::Loopback, None),
            message(2, up, None),
            message(3, up, Some(InfoKind::Bridge)),
            message(4, up, Some(InfoKind::Vxlan)),
            message(5, up, Some(InfoKind::Dummy)),
            over(6, InfoKind::Veth, 2, false),
            message(7, up, Some(InfoKind::Bond)),
            message(8, up, Some(InfoKind::Tun)),
            tun,
            message(10, up, Some(InfoKind::Ifb)),
            message(11, up, Some(InfoKind::Wireguard)),
            over(12, InfoKind::Vlan, 2, true),
            over(13, InfoKind::MacVlan, 3, true),
            over(14, InfoKind::Vlan, 13, true),
            over(15, InfoKind::MacVlan, 3, false),
            over(16, InfoKind::Veth, 17, true),
        ];
        let interfaces = Interfaces {
            by_index: (links.iter().map(interface))
                .map(|interface| (interface.ifindex, interface))
                .collect(),
            ..Interfaces::default()
        };
        let of = |uplink| {
            let all = interfaces.by_index.values();
            let those = all.filter(|interface| interfaces.uplink(interface) == Some(uplink));
            those
                .map(|interface| interface.ifindex)
                .collect::<Vec<u32>>()
        };
        assert_eq!(of(Uplink::Door), [2, 6, 7, 8, 12, 15]);
        assert_eq!(of(Uplink::Exit), [9]);
        assert_eq!(of(Uplink::Tunnel), [4, 11]);
    }
}
