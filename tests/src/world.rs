//! Nodes with workloads, made of network namespaces.
//!
//! ```text
//!   workload   workload            workload   workload
//!     eth0       eth0                eth0       eth0
//!      │veth0     │veth1              │veth0     │veth1
//!   ┌──┴──────────┴──┐             ┌──┴── br0 ───┴──┐
//!   │  routes: ptp   │             │     bridge     │
//!   │      node      │             │      node      │
//!   └───────┬────────┘             └───────┬────────┘
//!           │uplink0                       │uplink0
//!         eth0                           eth0
//!        outside                        outside
//! ```
//!
//! A world is wired as one of the two common CNI plugins does it, speaks IPv4
//! and IPv6, and is ready for traffic when it has been built. Its addresses are
//! always the same, so that they can stand in a test's policies:
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | workloads, in order | 10.64.0.2, 10.64.0.3 … | fd64::2, fd64::3 … |
//! | node, as their gateway | 10.64.0.1 | fd64::1 |
//! | node, on its uplink | 198.51.100.1 | fd51::1 |
//! | outside host | 198.51.100.2 | fd51::2 |
//!
//! Worlds know nothing of firewalls: nothing in one judges packets until a test
//! attaches something.
//!
//! Invariants:
//!
//! - Dropped, killed or crashed, a world leaves nothing behind: no namespace
//!   has a name, every link has an end in one, and no thread outlives a call.
//! - Worlds do not meet, whatever their number: no link joins two of them.
//! - No kernel parameter of the namespace the tests run in is written.

mod namespace;
mod netlink;
mod offloads;

use std::fmt;
use std::io::{self, ErrorKind::NotFound};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Index;
use std::time::Duration;

pub use namespace::{Entered, Namespace};
use netlink::{Netlink, VethEnd};

use crate::packet::{End, Family, Mac};

/// Reason for which a world could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A namespace refuses; making one takes CAP_SYS_ADMIN.
    #[error("cannot {what} a network namespace")]
    Namespace {
        /// Action that failed.
        what: &'static str,
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// A kernel parameter does not exist or refuses the value.
    #[error("cannot set the kernel parameter {parameter}")]
    Parameter {
        /// Its path under `/proc/sys`.
        parameter: String,
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// An interface does not exist.
    #[error("cannot find the interface {interface}")]
    Interface {
        /// Its name.
        interface: String,
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// An interface does not take other offloads.
    #[error("cannot change the offloads of {interface}")]
    Offloads {
        /// Its name.
        interface: String,
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// A netlink socket, or the runtime around it, cannot be opened.
    #[error("cannot talk netlink")]
    Runtime {
        /// Answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// A netlink request was refused.
    #[error("cannot {what} {of}")]
    Netlink {
        /// Request that was refused.
        what: &'static str,
        /// The interface or address concerned.
        of: String,
        /// Answer of the kernel.
        #[source]
        source: rtnetlink::Error,
    },
    /// A route's gateway is not of its prefix's family, or the prefix too long.
    #[error("the route to {prefix} is not of one family")]
    Families {
        /// The prefix.
        prefix: IpAddr,
    },
    /// A link did not come up in time.
    #[error("interface {ifindex} is not up after {patience:?}")]
    LinkDown {
        /// Its index.
        ifindex: u32,
        /// Time that it was given.
        patience: Duration,
    },
    /// A link did not go away in time.
    #[error("interface {ifindex} is still there after {patience:?}")]
    LinkStays {
        /// Its index.
        ifindex: u32,
        /// Time that it was given.
        patience: Duration,
    },
    /// An address did not begin to receive in time.
    #[error("the address {address} does not receive after {patience:?}")]
    AddressIdle {
        /// The address.
        address: IpAddr,
        /// Time that it was given.
        patience: Duration,
    },
    /// Two workloads would have the same name.
    #[error("there is a workload called {name} already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No workload has this name.
    #[error("there is no workload called {name}")]
    NoSuchWorkload {
        /// The name.
        name: String,
    },
}

/// Way in which workloads are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wiring {
    /// As the CNI plugin `ptp` does it: each workload has a host route to its
    /// interface, and the node is everybody's gateway.
    Ptp,
    /// As the CNI plugin `bridge` does it: workloads are neighbours on one
    /// bridge, which the node has an address on.
    Bridge,
}

impl Wiring {
    /// Both ways, for tests that must hold in either.
    pub const BOTH: [Self; 2] = [Self::Ptp, Self::Bridge];
}

impl fmt::Display for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptp => "ptp",
            Self::Bridge => "bridge",
        })
    }
}

/// The number that a workload's addresses end in, by its order in the world;
/// the gateway has 1.
const FIRST_NUMBER: u16 = 2;
const GATEWAY_NUMBER: u16 = 1;
/// Third byte of the MAC addresses on either side of a workload's link.
const WORKLOAD_SIDE: u8 = 0x64;
const HOST_SIDE: u8 = 0x4e;
const UPLINK_SIDE: u8 = 0x51;
/// Parameters that make a bridge hand its packets to netfilter.
const BRIDGE_NETFILTER: [&str; 2] = [
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];
/// Prefix lengths of the workloads' network, where it is one: on a bridge.
const NETWORK_V4: u8 = 16;
const NETWORK_V6: u8 = 64;
/// Prefix lengths of the link between node and outside host.
const UPLINK_V4: u8 = 24;
const UPLINK_V6: u8 = 64;

/// The addresses with the given number in the workloads' network.
fn numbered(mac: Mac, number: u16) -> End {
    let [high, low] = number.to_be_bytes();
    End {
        mac,
        ipv4: Some(Ipv4Addr::new(10, 64, high, low)),
        ipv6: Some(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, number)),
    }
}

/// The addresses with the given number on the uplink.
fn on_uplink(number: u16) -> End {
    End {
        mac: Mac::local(UPLINK_SIDE, number),
        ipv4: Some(Ipv4Addr::new(198, 51, 100, number as u8)),
        ipv6: Some(Ipv6Addr::new(0xfd51, 0, 0, 0, 0, 0, 0, number)),
    }
}

/// The address of an end of a world, which always has both.
fn ip(end: End, family: Family) -> IpAddr {
    end.ip(family)
        .expect("ends of a world have an address of either family")
}

/// The addresses of an end of a world.
fn both(end: End) -> [IpAddr; 2] {
    Family::BOTH.map(|family| ip(end, family))
}

/// One node, its workloads, and perhaps a host outside.
#[derive(Debug)]
pub struct World {
    wiring: Wiring,
    mtu: u32,
    node: Node,
    workloads: Vec<Workload>,
    outside: Option<Outside>,
    /// Number of the first workload.
    first: u16,
    /// Number of workloads that there have been. Names of interfaces and addresses of removed
    /// ones do not come back.
    made: u16,
}

/// The machine the workloads run on.
#[derive(Debug)]
pub struct Node {
    /// The namespace of the host side; an agent belongs here.
    pub namespace: Namespace,
    /// Addresses that workloads have as their gateway. Its MAC address is the bridge's;
    /// [`Workload::gateway`] has that of the workload's own link, if routed.
    pub end: End,
    /// The bridge, when that is how workloads are wired.
    pub bridge: Option<Bridge>,
}

/// The bridge of a node.
#[derive(Debug)]
pub struct Bridge {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
}

/// A namespace with one interface, and the node's side of it.
#[derive(Debug)]
pub struct Workload {
    /// Name that the test gives it.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its interface: `eth0`.
    pub interface: &'static str,
    /// The interface's index in its namespace.
    pub ifindex: u32,
    /// Its MAC address and its addresses in both families.
    pub end: End,
    /// The node's end of its link: the interface a firewall attaches to.
    pub host_interface: String,
    /// That interface's index in the node.
    pub host_ifindex: u32,
    /// That interface's MAC address.
    pub host_mac: Mac,
    /// Its way out: the gateway's addresses, and the MAC address they are at.
    pub gateway: End,
}

/// A host that is neither node nor workload, at the other end of the uplink. The
/// node sends everything there that it knows no other way for.
#[derive(Debug)]
pub struct Outside {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its interface: `eth0`.
    pub interface: &'static str,
    /// The interface's index in its namespace.
    pub ifindex: u32,
    /// Its MAC address and its addresses in both families.
    pub end: End,
    /// The node's end of the link.
    pub uplink: &'static str,
    /// That interface's index in the node.
    pub uplink_ifindex: u32,
    /// The node's MAC address and addresses on the uplink.
    pub gateway: End,
}

/// A world to be built.
#[derive(Clone, Debug)]
#[must_use = "nothing exists before `build`"]
pub struct Plan {
    wiring: Wiring,
    mtu: u32,
    outside: bool,
    workloads: Vec<String>,
    first: u16,
}

impl Plan {
    /// Numbers the workloads from here on, so that those of several nodes differ.
    pub fn numbered_from(mut self, first: u16) -> Self {
        self.first = first;
        self
    }

    /// Gives all links this MTU; 1500 without this word.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Adds a host outside.
    pub fn outside(mut self) -> Self {
        self.outside = true;
        self
    }

    /// Adds workloads.
    pub fn workloads<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.workloads.extend(names.into_iter().map(Into::into));
        self
    }

    /// Makes the world.
    pub fn build(self) -> Result<World, Error> {
        let Self {
            wiring,
            mtu,
            outside,
            workloads,
            first,
        } = self;
        let mac = Mac::local(WORKLOAD_SIDE, GATEWAY_NUMBER);
        let node = Node {
            namespace: Namespace::new()?,
            end: numbered(mac, GATEWAY_NUMBER),
            bridge: None,
        };
        node.set_parameters()?;
        let mut world = World {
            wiring,
            mtu,
            node,
            workloads: Vec::new(),
            outside: None,
            first,
            made: 0,
        };
        netlink::run(async || {
            let mut netlink = Netlink::open(&world.node.namespace)?;
            if wiring == Wiring::Bridge {
                world.make_bridge(&mut netlink).await?;
            }
            let mut inner = Vec::new();
            if outside {
                inner.push(world.make_outside(&mut netlink).await?);
            }
            for name in workloads {
                inner.push(world.make_workload(&mut netlink, name).await?);
            }
            netlink.settle().await?;
            for netlink in &mut inner {
                netlink.settle().await?;
            }
            Ok(world)
        })
    }
}

impl World {
    /// Begins a world: `World::plan(Wiring::Ptp).workloads(["web", "db"]).build()`.
    pub fn plan(wiring: Wiring) -> Plan {
        Plan {
            wiring,
            mtu: 1500,
            outside: false,
            workloads: Vec::new(),
            first: FIRST_NUMBER,
        }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The host outside.
    ///
    /// # Panics
    ///
    /// Panics if it was not planned.
    pub fn outside(&self) -> &Outside {
        self.outside
            .as_ref()
            .expect("this world was planned without an outside")
    }

    /// The workloads, in the order they were made.
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// Adds a workload; its addresses follow those of the last one ever made.
    pub fn add(&mut self, name: impl Into<String>) -> Result<&Workload, Error> {
        let name = name.into();
        netlink::run(async || {
            let mut netlink = Netlink::open(&self.node.namespace)?;
            let mut inner = self.make_workload(&mut netlink, name).await?;
            netlink.settle().await?;
            inner.settle().await
        })?;
        Ok(self.workloads.last().expect("one was just added"))
    }

    /// Removes a workload: its link is gone when this returns, its namespace as
    /// soon as nothing in it runs.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        let at = self
            .workloads
            .iter()
            .position(|workload| workload.name == name)
            .ok_or_else(|| Error::NoSuchWorkload { name: name.into() })?;
        let workload = self.workloads.remove(at);
        netlink::run(async || {
            Netlink::open(&self.node.namespace)?
                .delete(workload.host_ifindex)
                .await
        })
    }

    async fn make_bridge(&mut self, netlink: &mut Netlink) -> Result<(), Error> {
        let interface = "br0";
        let end = self.node.end;
        netlink
            .bridge(
                VethEnd {
                    interface,
                    mac: end.mac,
                },
                self.mtu,
            )
            .await?;
        let ifindex = self.node.namespace.ifindex(interface)?;
        let [v4, v6] = both(end);
        netlink.address(ifindex, v4, NETWORK_V4).await?;
        netlink.address(ifindex, v6, NETWORK_V6).await?;
        self.node.bridge = Some(Bridge {
            interface: interface.into(),
            ifindex,
        });
        Ok(())
    }

    /// Makes a workload; it works when both sockets, the node's and the one that
    /// is returned, have settled.
    async fn make_workload(
        &mut self,
        netlink: &mut Netlink,
        name: String,
    ) -> Result<Netlink, Error> {
        if self.workloads.iter().any(|other| other.name == name) {
            return Err(Error::NameTaken { name });
        }
        let number = self.first + self.made;
        let end = numbered(Mac::local(WORKLOAD_SIDE, number), number);
        let host_mac = Mac::local(HOST_SIDE, number);
        let host_interface = format!("veth{}", self.made);
        self.made += 1;

        let namespace = Namespace::new()?;
        set_quiet(&namespace)?;
        let interface = "eth0";
        let here = VethEnd {
            interface: &host_interface,
            mac: host_mac,
        };
        let there = VethEnd {
            interface,
            mac: end.mac,
        };
        let bridge = self.node.bridge.as_ref().map(|bridge| bridge.ifindex);
        netlink
            .veth(here, bridge, there, &namespace, self.mtu)
            .await?;
        let host_ifindex = self.node.namespace.ifindex(&host_interface)?;
        netlink.expect_up(host_ifindex);
        if let (Some(bridge), true) = (bridge, self.workloads.is_empty()) {
            // A bridge works as soon as one of its ports does.
            netlink.expect_up(bridge);
        }
        let ifindex = namespace.ifindex(interface)?;
        let gateway = match self.wiring {
            Wiring::Ptp => self.node.end.with_mac(host_mac),
            Wiring::Bridge => self.node.end,
        };

        let mut inner = Netlink::open(&namespace)?;
        inner.up(ifindex).await?;
        for (address, gateway) in both(end).into_iter().zip(both(gateway)) {
            let (host, network) = match address {
                IpAddr::V4(_) => (32, NETWORK_V4),
                IpAddr::V6(_) => (128, NETWORK_V6),
            };
            match self.wiring {
                Wiring::Ptp => {
                    netlink.address(host_ifindex, gateway, host).await?;
                    netlink.route((address, host), host_ifindex, None).await?;
                    inner.address(ifindex, address, host).await?;
                    inner.route((gateway, host), ifindex, None).await?;
                }
                Wiring::Bridge => inner.address(ifindex, address, network).await?,
            }
            inner.default_route(ifindex, gateway).await?;
        }

        self.workloads.push(Workload {
            name,
            namespace,
            interface,
            ifindex,
            end,
            host_interface,
            host_ifindex,
            host_mac,
            gateway,
        });
        Ok(inner)
    }

    /// Makes the host outside; it works when both sockets have settled.
    async fn make_outside(&mut self, netlink: &mut Netlink) -> Result<Netlink, Error> {
        let namespace = Namespace::new()?;
        set_quiet(&namespace)?;
        let (uplink, interface) = ("uplink0", "eth0");
        let (gateway, end) = (on_uplink(1), on_uplink(2));
        let here = VethEnd {
            interface: uplink,
            mac: gateway.mac,
        };
        let there = VethEnd {
            interface,
            mac: end.mac,
        };
        netlink
            .veth(here, None, there, &namespace, self.mtu)
            .await?;
        let uplink_ifindex = self.node.namespace.ifindex(uplink)?;
        let ifindex = namespace.ifindex(interface)?;

        let mut inner = Netlink::open(&namespace)?;
        inner.up(ifindex).await?;
        for (near, far) in both(gateway).into_iter().zip(both(end)) {
            let length = if near.is_ipv4() { UPLINK_V4 } else { UPLINK_V6 };
            netlink.address(uplink_ifindex, near, length).await?;
            netlink.default_route(uplink_ifindex, far).await?;
            inner.address(ifindex, far, length).await?;
            inner.default_route(ifindex, near).await?;
        }
        netlink.expect_up(uplink_ifindex);
        self.outside = Some(Outside {
            namespace,
            interface,
            ifindex,
            end,
            uplink,
            uplink_ifindex,
            gateway,
        });
        Ok(inner)
    }
}

impl Node {
    /// Its address, as the workloads' gateway, in a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        ip(self.end, family)
    }

    fn set_parameters(&self) -> Result<(), Error> {
        set_quiet(&self.namespace)?;
        let _inside = self.namespace.enter()?;
        for (parameter, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Distributions differ. A spoofed packet must be a firewall's to
            // drop, else a test shows the kernel at work.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
        ] {
            namespace::set_here(parameter, value)?;
        }
        // Where the kernel has bridge netfilter it checks, and drops, bridged
        // packets. Tests that want it set it back.
        for parameter in BRIDGE_NETFILTER {
            match namespace::set_here(parameter, "0") {
                Err(Error::Parameter { source, .. }) if source.kind() == NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// Keeps a namespace from sending what no test asked for, where the kernel lets
/// it: what remains is one multicast listener report when a link comes up. For
/// interfaces made from now on.
fn set_quiet(namespace: &Namespace) -> Result<(), Error> {
    let _inside = namespace.enter()?;
    for (parameter, value) in [
        // No duplicate address detection: addresses work at once.
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/router_solicitations", "0"),
        // Repetitions of a report come at a random time within this many
        // milliseconds: twelve days.
        (
            "net/ipv6/conf/default/mldv1_unsolicited_report_interval",
            "1073741824",
        ),
        (
            "net/ipv6/conf/default/mldv2_unsolicited_report_interval",
            "1073741824",
        ),
        // Lets every group use echo sockets, which see no one else's replies.
        ("net/ipv4/ping_group_range", "0 2147483647"),
    ] {
        namespace::set_here(parameter, value)?;
    }
    Ok(())
}

impl Workload {
    /// Its address in a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        ip(self.end, family)
    }
}

impl Outside {
    /// Its address in a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        ip(self.end, family)
    }
}

impl Index<&str> for World {
    type Output = Workload;

    fn index(&self, name: &str) -> &Workload {
        let found = self.workloads.iter().find(|workload| workload.name == name);
        found.unwrap_or_else(|| panic!("there is no workload called {name}"))
    }
}

impl From<&Workload> for End {
    fn from(workload: &Workload) -> Self {
        workload.end
    }
}

impl From<&Outside> for End {
    fn from(outside: &Outside) -> Self {
        outside.end
    }
}

impl From<&Node> for End {
    fn from(node: &Node) -> Self {
        node.end
    }
}
