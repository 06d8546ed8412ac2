//! The few netlink requests a world is made of.
//!
//! Requests run on a thread and a runtime that end with the call: a world keeps
//! neither, and tests may have a runtime of their own.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, State};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup,
    RouteMessageBuilder, new_multicast_connection,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::namespace::on_own_thread;
use super::{Error, Namespace};
use crate::packet::Mac;

/// Longest time that a link or an address may take to work. It takes milliseconds; this is for
/// a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `work` to its end on a thread and a runtime made for it.
pub(super) fn run<T: Send>(
    work: impl AsyncFnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    on_own_thread(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|source| Error::Runtime { source })?;
        // The tasks end with the runtime, and with them their sockets.
        runtime.block_on(work())
    })
}

/// One end of a veth pair to be made.
pub(super) struct VethEnd<'a> {
    pub(super) interface: &'a str,
    pub(super) mac: Mac,
}

/// A netlink socket in a namespace, which hears of all links there, and of IPv6
/// addresses that are ready to receive.
pub(super) struct Netlink {
    handle: Handle,
    announced: UnboundedReceiver<Announcement>,
    heard: HashSet<Announcement>,
    expected: Vec<Announcement>,
}

/// News from the kernel about an interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Announcement {
    /// It works. Of a bridge port: the bridge forwards to it.
    Up(u32),
    /// It is no more.
    Gone(u32),
    /// It receives what is for this address.
    Receives(u32, Ipv6Addr),
}

impl Netlink {
    /// Opens one. Only within [`run`].
    pub(super) fn open(namespace: &Namespace) -> Result<Self, Error> {
        let _inside = namespace.enter()?;
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv6Route];
        let (connection, handle, mut events) =
            new_multicast_connection(&groups).map_err(|source| Error::Runtime { source })?;
        tokio::spawn(connection);
        let (announce, announced) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok((event, _)) = events.recv().await {
                if let Some(news) = announcement(event) {
                    // Nobody waits for links any more.
                    _ = announce.send(news);
                }
            }
        });
        Ok(Self {
            handle,
            announced,
            heard: HashSet::new(),
            expected: Vec::new(),
        })
    }

    /// Makes a veth pair: `here` in this namespace, up, and a port of the bridge
    /// if one is given; `there` in the other, down.
    ///
    /// The far side goes up last ([`Netlink::up`]): it then has its carrier
    /// from the start, and its IPv6 addresses work at once.
    pub(super) async fn veth(
        &self,
        here: VethEnd<'_>,
        bridge: Option<u32>,
        there: VethEnd<'_>,
        namespace: &Namespace,
        mtu: u32,
    ) -> Result<(), Error> {
        let far = LinkUnspec::new_with_name(there.interface)
            .address(there.mac.0.to_vec())
            .mtu(mtu)
            .setns_by_fd(namespace.as_fd().as_raw_fd())
            .build();
        let mut near = LinkVeth::new(here.interface, there.interface)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .address(here.mac.0.to_vec())
            .mtu(mtu)
            .up();
        if let Some(bridge) = bridge {
            near = near.controller(bridge);
        }
        let made = self.handle.link().add(near.build()).execute().await;
        made.map_err(failed("make the veth pair", here.interface))
    }

    /// Makes a bridge that is up.
    pub(super) async fn bridge(&self, end: VethEnd<'_>, mtu: u32) -> Result<(), Error> {
        let bridge = LinkBridge::new(end.interface)
            .address(end.mac.0.to_vec())
            .mtu(mtu)
            .up();
        let made = self.handle.link().add(bridge.build()).execute().await;
        made.map_err(failed("make the bridge", end.interface))
    }

    /// Sets an interface up.
    pub(super) async fn up(&self, ifindex: u32) -> Result<(), Error> {
        let up = LinkUnspec::new_with_index(ifindex).up().build();
        self.handle
            .link()
            .change(up)
            .execute()
            .await
            .map_err(failed("set up interface", ifindex))
    }

    /// Changes an interface's MTU.
    pub(super) async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), Error> {
        let other = LinkUnspec::new_with_index(ifindex).mtu(mtu).build();
        let changed = self.handle.link().change(other).execute().await;
        changed.map_err(failed("change the MTU of interface", ifindex))
    }

    /// Lets [`settle`](Self::settle) wait until an interface works. It must have
    /// been made after this socket was opened.
    pub(super) fn expect_up(&mut self, ifindex: u32) {
        self.expected.push(Announcement::Up(ifindex));
    }

    /// Waits until all links and addresses work that were made here. Until then
    /// they come up side by side.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        for expected in std::mem::take(&mut self.expected) {
            if self.hear(expected, PATIENCE).await.is_none() {
                return Err(match expected {
                    Announcement::Up(ifindex) | Announcement::Gone(ifindex) => Error::LinkDown {
                        ifindex,
                        patience: PATIENCE,
                    },
                    Announcement::Receives(_, address) => Error::AddressIdle {
                        address: address.into(),
                        patience: PATIENCE,
                    },
                });
            }
        }
        Ok(())
    }

    /// Waits until the kernel has announced that an interface is gone. It must
    /// have existed when this socket was opened.
    pub(super) async fn wait_until_gone(
        &mut self,
        ifindex: u32,
        patience: Duration,
    ) -> Result<(), Error> {
        let heard = self.hear(Announcement::Gone(ifindex), patience).await;
        heard.ok_or(Error::LinkStays { ifindex, patience })
    }

    /// Waits for an announcement, unless it has been made already.
    async fn hear(&mut self, wanted: Announcement, patience: Duration) -> Option<()> {
        let listen = async {
            while !self.heard.contains(&wanted) {
                self.heard.insert(self.announced.recv().await?);
            }
            Some(())
        };
        tokio::time::timeout(patience, listen).await.ok().flatten()
    }

    /// Returns `true` if the kernel has links of this kind. One of them may be made.
    pub(super) async fn knows_kind(&self, kind: &str) -> Result<bool, Error> {
        let link =
            LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Other(kind.into()));
        match self
            .handle
            .link()
            .add(link.name("probe").build())
            .execute()
            .await
        {
            Err(rtnetlink::Error::NetlinkError(refusal)) => {
                // Any other refusal comes from the kind itself, which misses
                // parameters.
                Ok(refusal.raw_code() != -libc::EOPNOTSUPP)
            }
            made => made
                .map(|()| true)
                .map_err(failed("try the link kind", kind)),
        }
    }

    /// Deletes an interface.
    pub(super) async fn delete(&self, ifindex: u32) -> Result<(), Error> {
        let deleted = self.handle.link().del(ifindex).execute().await;
        deleted.map_err(failed("delete interface", ifindex))
    }

    /// Gives an interface an address, which works once [settled](Self::settle).
    ///
    /// IPv6 does not ask first whether somebody else uses it, but all the same
    /// leaves the last step, the route to itself, to a work queue: until then
    /// the kernel shows the address and drops what comes for it.
    pub(super) async fn address(
        &mut self,
        ifindex: u32,
        address: impl Into<IpAddr>,
        prefix: u8,
    ) -> Result<(), Error> {
        let address = address.into();
        let mut request = self.handle.address().add(ifindex, address, prefix);
        if let IpAddr::V6(v6) = address {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            self.expected.push(Announcement::Receives(ifindex, v6));
        }
        request
            .execute()
            .await
            .map_err(failed("add the address", address))
    }

    /// Adds a route to a prefix: through a gateway, or to whoever is on the link.
    pub(super) async fn route(
        &self,
        (prefix, length): (IpAddr, u8),
        ifindex: u32,
        gateway: Option<IpAddr>,
    ) -> Result<(), Error> {
        let wrong = |_| Error::Families { prefix };
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix, length)
            .map_err(wrong)?
            .output_interface(ifindex);
        route = match gateway {
            Some(gateway) => route.gateway(gateway).map_err(wrong)?,
            // IPv4 takes as gateways only what it reaches in this scope.
            None => route.scope(RouteScope::Link),
        };
        let added = self.handle.route().add(route.build()).execute().await;
        added.map_err(failed("add the route to", prefix))
    }

    /// Sends through a gateway whatever no other route is for.
    pub(super) async fn default_route(&self, ifindex: u32, gateway: IpAddr) -> Result<(), Error> {
        let everything: IpAddr = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.route((everything, 0), ifindex, Some(gateway)).await
    }

    /// Makes a permanent entry of the neighbour table.
    pub(super) async fn pin_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
        mac: Mac,
    ) -> Result<(), Error> {
        let pinned = (self.handle.neighbours().add(ifindex, address))
            .link_layer_address(&mac.0)
            .replace()
            .execute()
            .await;
        pinned.map_err(failed("pin the neighbour", address))
    }

    /// Loses whatever goes to an address, without a word to its sender.
    pub(super) async fn blackhole(&self, address: IpAddr) -> Result<(), Error> {
        let message = match address {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .kind(RouteType::BlackHole)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .kind(RouteType::BlackHole)
                .build(),
        };
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(failed("lose what goes to", address))
    }
}

/// Reads an event for its news about an interface.
fn announcement(event: NetlinkMessage<RouteNetlinkMessage>) -> Option<Announcement> {
    match event.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            let works = link
                .attributes
                .contains(&LinkAttribute::OperState(State::Up));
            works.then_some(Announcement::Up(link.header.index))
        }
        // A bridge also says so, in its own family, of ports that leave it.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
            if link.header.interface_family == AddressFamily::Unspec =>
        {
            Some(Announcement::Gone(link.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
            if route.header.kind == RouteType::Local =>
        {
            let ifindex = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(ifindex) => Some(*ifindex),
                    _ => None,
                });
            let address = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
                    _ => None,
                });
            Some(Announcement::Receives(ifindex?, address?))
        }
        _ => None,
    }
}

fn failed(what: &'static str, of: impl ToString) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Netlink {
        what,
        of: of.to_string(),
        source,
    }
}
