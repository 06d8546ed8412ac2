//! What the kernel says of interfaces and addresses.
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
use std::path::{Path, PathBuf};
use std::thread;

use cofferdam_dataplane::Uplink;
use cofferdam_verdict::endpoint::MAX_LISTENERS;
use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::listeners;

/// The namespace of the calling thread; `/proc/self` would be the main thread's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Why the kernel could not be asked, or an interface is none to be managed.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A netlink socket, or the runtime around it, cannot be opened.
    #[error("cannot talk netlink")]
    Socket {
        /// Why.
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
        /// What was asked.
        what: &'static str,
        /// What the kernel says.
        #[source]
        source: rtnetlink::Error,
    },
    /// The socket failed twice in the middle of an answer.
    #[error("netlink sockets fail before the answer is whole: is there memory?")]
    Cut,
    /// A path is no network namespace.
    #[error("cannot enter the network namespace {}", path.display())]
    Namespace {
        /// The path.
        path: PathBuf,
        /// Why.
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
        let infos = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => Some(infos),
                _ => None,
            });
        let mut infos = infos.into_iter().flatten();
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
/// The socket's task ends at the first error of a system call, and with it every answer, as if
/// that were whole. So an answer counts only if the task has not ended behind it.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
    /// Ends when the socket is of no use any more.
    task: JoinHandle<()>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self, LinkError> {
        let socket = |source| LinkError::Socket { source };
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(socket)?;
        let (handle, task) = runtime.block_on(async {
            let (connection, handle, _) = new_connection().map_err(socket)?;
            Ok((handle, tokio::spawn(connection)))
        })?;
        Ok(Self {
            runtime,
            handle,
            task,
        })
    }

    /// Asks the kernel, and once more over another socket if the first one fails. The calling
    /// thread must be in the namespace that the first was opened in.
    fn ask<T>(
        &mut self,
        question: impl AsyncFn(&Handle) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        for _ in 0..2 {
            let answer = self.runtime.block_on(question(&self.handle));
            if !self.task.is_finished() {
                return answer;
            }
            *self = Self::open()?;
        }
        Err(LinkError::Cut)
    }

    /// All interfaces and addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn interfaces(&mut self) -> Result<Interfaces, LinkError> {
        self.ask(async |handle| {
            // Counters would be most of the answer.
            let mask = vec![LinkExtentMask::SkipStats];
            let links = handle.link().get();
            let mut links = links.set_filter_mask(AddressFamily::Unspec, mask).execute();
            let mut interfaces = Interfaces::default();
            while let Some(link) = links.try_next().await.map_err(asking("list interfaces"))? {
                let interface = interface(&link);
                interfaces.by_index.insert(interface.ifindex, interface);
            }
            (interfaces.addresses, interfaces.link_local) = addresses(handle, None).await?;
            Ok(interfaces)
        })
    }

    /// How this namespace numbers another.
    fn number_of(&mut self, namespace: &File) -> Result<Option<i32>, LinkError> {
        let mut message = NsidMessage::default();
        let descriptor = namespace.as_raw_fd().unsigned_abs();
        message.attributes.push(NsidAttribute::Fd(descriptor));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let answer = self.ask(async |handle| {
            let answers = handle.clone().request(request.clone());
            let mut answers = answers.map_err(asking("ask for the number of a namespace"))?;
            Ok(answers.next().await)
        })?;
        let Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer))) =
            answer.map(|answer| answer.payload)
        else {
            return Ok(None);
        };
        Ok(answer
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NsidAttribute::Id(number) if *number >= 0 => Some(*number),
                _ => None,
            }))
    }

    /// Looks at a workload's interface, and finds the other end of its link among
    /// `interfaces`, which were listed after the link was made.
    ///
    /// # Errors
    /// When there is no such namespace or interface, or it is not a veth whose
    /// other end is here.
    pub fn endpoint(
        &mut self,
        path: &Path,
        name: &str,
        interfaces: &Interfaces,
    ) -> Result<(Inner, Interface), LinkError> {
        let entering = |source| LinkError::Namespace {
            path: path.to_owned(),
            source,
        };
        let namespace = File::open(path).map_err(entering)?;
        let inode = namespace.metadata().map_err(entering)?.ino();
        if inode == own_namespace().map_err(entering)? {
            return Err(LinkError::OwnNamespace {
                path: path.to_owned(),
            });
        }
        let inner = look_inside(&namespace, inode, path, name)?;
        if inner.interface.kind != Kind::Veth {
            return Err(LinkError::NotVeth {
                interface: name.to_owned(),
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
                interface: name.to_owned(),
            }),
        }
    }
}

/// Inode of the calling thread's network namespace.
///
/// # Errors
/// When `/proc` is not there.
pub fn own_namespace() -> io::Result<u64> {
    Ok(File::open(OWN_NAMESPACE)?.metadata()?.ino())
}

/// Looks at an interface from within its namespace, on a thread that ends there.
fn look_inside(namespace: &File, inode: u64, path: &Path, name: &str) -> Result<Inner, LinkError> {
    let look = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| LinkError::Namespace {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        let listeners = listeners::here();
        Netlink::open()?.ask(async |handle| {
            let mut found = None;
            let mut links = handle.link().get().execute();
            while let Some(link) = links.try_next().await.map_err(asking("list interfaces"))? {
                let link = interface(&link);
                if link.name == name {
                    found = Some(link);
                }
            }
            let interface = found.ok_or_else(|| LinkError::NoInterface {
                interface: name.to_owned(),
                path: path.to_owned(),
            })?;
            let (addresses, link_local) = addresses(handle, Some(interface.ifindex)).await?;
            Ok(Inner {
                inode,
                interface,
                addresses: addresses.into_iter().map(|(address, _)| address).collect(),
                link_local: link_local.first().map(|(address, _)| *address),
                listeners,
            })
        })
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, look);
        match thread
            .map_err(|source| LinkError::Thread { source })?
            .join()
        {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Addresses with the index of their interface, then link-local IPv6 addresses.
type Addresses = (Vec<(IpAddr, u32)>, Vec<(Ipv6Addr, u32)>);

/// Lists the addresses of one interface, or of all; those that another host has, too, are
/// nobody's.
async fn addresses(handle: &Handle, of: Option<u32>) -> Result<Addresses, LinkError> {
    let mut request = handle.address().get();
    if let Some(ifindex) = of {
        request = request.set_link_index_filter(ifindex);
    }
    let mut answers = request.execute();
    let (mut addresses, mut link_local) = (Vec::new(), Vec::new());
    while let Some(message) = answers.try_next().await.map_err(asking("list addresses"))? {
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
    Ok((addresses, link_local))
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

fn asking(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Request { what, source }
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
