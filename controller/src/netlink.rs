//! What the kernel says of interfaces and addresses.
//!
//! Requests are made by the thread that reconciles, and block it: what they answer
//! is the state at that moment, never one that was overtaken by an endpoint added
//! meanwhile. News come to the rest of the agent over [`watch`] and only say that it
//! is time to ask.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

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
    /// A request was refused.
    #[error("cannot {what}")]
    Request {
        /// What was asked.
        what: &'static str,
        /// What the kernel says.
        #[source]
        source: rtnetlink::Error,
    },
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
    /// Any other.
    Other,
}

impl Kind {
    /// Returns `true` if addresses on the interface are those of services rather than the
    /// node's own.
    #[must_use]
    pub fn carries_virtual_addresses(self) -> bool {
        matches!(self, Self::Loopback | Self::Dummy)
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
    /// Index of the other end.
    pub peer: u32,
    /// Number of the namespace that the other end is in, as this one numbers them.
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
}

/// Asks the kernel about the namespace it was opened in.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
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
        let handle = runtime.block_on(async {
            let (connection, handle, _) = new_connection().map_err(socket)?;
            tokio::spawn(connection);
            Ok(handle)
        })?;
        Ok(Self { runtime, handle })
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// All interfaces and addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn interfaces(&self) -> Result<Interfaces, LinkError> {
        self.wait(async {
            // Counters would be most of the answer.
            let mask = vec![LinkExtentMask::SkipStats];
            let links = self.handle.link().get();
            let mut links = links.set_filter_mask(AddressFamily::Unspec, mask).execute();
            let mut interfaces = Interfaces::default();
            while let Some(link) = links.try_next().await.map_err(asking("list interfaces"))? {
                let interface = interface(&link);
                interfaces.by_index.insert(interface.ifindex, interface);
            }
            interfaces.addresses = addresses(&self.handle, None).await?;
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
        let answers = self.handle.request(request);
        let mut answers = answers.map_err(asking("ask for the number of a namespace"))?;
        let answer = self.runtime.block_on(answers.next());
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
        let netlink = Netlink::open()?;
        netlink.wait(async {
            let mut found = None;
            let mut links = netlink.handle.link().get().execute();
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
            let addresses = addresses(&netlink.handle, Some(interface.ifindex)).await?;
            let addresses = addresses.into_iter().map(|(address, _)| address).collect();
            Ok(Inner {
                inode,
                interface,
                addresses,
            })
        })
    };
    thread::scope(|scope| match scope.spawn(look).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Lists the addresses of one interface, or of all, with the index of their interface.
async fn addresses(handle: &Handle, of: Option<u32>) -> Result<Vec<(IpAddr, u32)>, LinkError> {
    let mut request = handle.address().get();
    if let Some(ifindex) = of {
        request = request.set_link_index_filter(ifindex);
    }
    let mut answers = request.execute();
    let mut addresses = Vec::new();
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
        let address = address.filter(|one| !is_link_local(one) && !one.is_loopback());
        addresses.extend(address.map(|address| (address, message.header.index)));
    }
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// Whether an address means something on one link only. The programs know the one
/// that follows from a MAC address by themselves.
fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        ifindex: link.header.index,
        name: String::new(),
        mac: None,
        kind: if link.header.flags.contains(LinkFlags::Loopback) {
            Kind::Loopback
        } else {
            Kind::Other
        },
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
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    interface.kind = match info {
                        LinkInfo::Kind(InfoKind::Veth) => Kind::Veth,
                        LinkInfo::Kind(InfoKind::Bridge) => Kind::Bridge,
                        LinkInfo::Kind(InfoKind::Dummy) => Kind::Dummy,
                        _ => continue,
                    };
                }
            }
            _ => {}
        }
    }
    interface
}

fn asking(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Request { what, source }
}

/// Calls `news` whenever interfaces or addresses of the calling thread's namespace
/// have changed, or may have: a socket that could not keep up is opened anew.
///
/// # Errors
/// When the socket cannot be opened, or the kernel ends it.
pub async fn watch(mut news: impl FnMut()) -> Result<(), LinkError> {
    loop {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, _handle, mut messages) =
            new_multicast_connection(&groups).map_err(|source| LinkError::Socket { source })?;
        let connection = tokio::spawn(connection);
        // Whatever happened while nobody listened.
        news();
        while let Ok((message, _)) = messages.recv().await {
            if matches!(message.payload, NetlinkPayload::Overrun(_)) {
                break;
            }
            news();
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
        };
        let own: Vec<IpAddr> = interfaces.own_addresses().collect();
        assert_eq!(own, [2, 3, 4, 6].map(address));
        let holder = |ifindex| interfaces.with_virtual_address(address(ifindex));
        assert_eq!(holder(5).map(|one| one.ifindex), Some(5));
        assert_eq!(holder(1).map(|one| one.ifindex), Some(1));
        assert_eq!(holder(2), None);
    }
}
