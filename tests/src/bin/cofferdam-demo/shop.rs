//! The shop: workloads on one node, a host outside, and a server in each.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    expectations::{Template, external},
    packet::{End, Family},
    traffic::{Place, Probe, Server},
    world::Namespace,
};
use serde_json::{Value, json};

use crate::{cni::Plugins, premises::Premises};

/// The plugins it is wired by, those they call included.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "ptp", "static"];
/// The bridge on the node.
const BRIDGE: &str = "cni0";
/// The workloads' networks and, first of each, the node in them.
const NETWORKS: [(&str, &str); 2] = [("10.88.0.0/24", "10.88.0.1"), ("fd88::/64", "fd88::1")];
/// The prefix lengths of the network outside, by family.
const OUTSIDE: [u8; 2] = [24, 64];

/// One end: a workload, or a host outside.
pub(crate) struct Member {
    /// `namespace/name` or `external/name`.
    pub(crate) name: String,
    /// Where it lives.
    pub(crate) namespace: Namespace,
    /// Its addresses.
    pub(crate) end: End,
}

/// All of it.
pub(crate) struct Shop {
    /// The node: the agent belongs here.
    pub(crate) node: Namespace,
    /// The node's own addresses.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// Workloads, then hosts outside.
    pub(crate) members: Vec<Member>,
    /// They answer until they are dropped.
    _servers: Vec<Server>,
}

impl<'s> From<&'s Member> for Place<'s> {
    fn from(member: &'s Member) -> Self {
        Self {
            name: &member.name,
            namespace: &member.namespace,
            end: member.end,
        }
    }
}

impl Member {
    /// Its address in a family; it has both.
    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        Place::from(self).ip(family)
    }

    /// Whether it is outside.
    pub(crate) fn is_outside(&self) -> bool {
        self.name.starts_with(&external(""))
    }
}

impl Shop {
    /// Makes the workloads and hosts that a template speaks of, each with a server on
    /// every port that is spoken of.
    pub(crate) fn open(template: &Template, premises: &Premises) -> Result<Self> {
        let plugins = Plugins::find(&PLUGINS)?;
        let node = quiet()?;
        let mut members = Vec::new();
        for name in template.inventory.workloads().keys() {
            let namespace = quiet()?;
            let container = format!("{}-{}", name.namespace, name.name);
            let end = plugins.add(&node, &container, &namespace, &bridge(premises))?;
            members.push(Member {
                name: name.to_string(),
                namespace,
                end,
            });
        }
        let mut node_addresses: Vec<IpAddr> = Vec::new();
        for (_, gateway) in NETWORKS {
            node_addresses.push(gateway.parse()?);
        }
        for (number, (name, addresses)) in template.externals.iter().enumerate() {
            let namespace = quiet()?;
            let gateways: BTreeMap<IpAddr, IpAddr> = addresses
                .iter()
                .map(|&address| (address, neighbour(address)))
                .collect();
            node_addresses.extend(gateways.values());
            let end = plugins.add(
                &node,
                &format!("external-{number}"),
                &namespace,
                &link(&gateways),
            )?;
            members.push(Member {
                name: external(name),
                namespace,
                end,
            });
        }
        println!(
            "  wired by {}/{{{}}}",
            plugins.folder().display(),
            PLUGINS.join(",")
        );
        let servers =
            Server::start_all(&members, &template.probes()).context("cannot start the servers")?;
        Ok(Self {
            node,
            node_addresses,
            members,
            _servers: servers,
        })
    }

    /// A member by its name.
    pub(crate) fn member(&self, name: &str) -> Result<&Member> {
        let mut members = self.members.iter();
        members
            .find(|member| member.name == name)
            .with_context(|| format!("the shop has no {name}"))
    }

    /// The workloads: what policies are for.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_outside())
    }
}

/// A namespace in which IPv6 addresses work at once.
fn quiet() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    // Nobody else can have these addresses, and finding that out takes seconds.
    namespace.set("net/ipv6/conf/default/accept_dad", "0")?;
    Ok(namespace)
}

/// Everything there is, as a route.
fn everywhere() -> Value {
    json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
}

/// How workloads are wired: on one bridge, with addresses from `host-local`.
fn bridge(premises: &Premises) -> Value {
    let ranges: Vec<Value> = NETWORKS
        .iter()
        .map(|(subnet, gateway)| json!([{"subnet": subnet, "gateway": gateway}]))
        .collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "shop",
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": true,
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "dataDir": premises.leases(),
            "ranges": ranges,
            "routes": everywhere(),
        },
    })
}

/// How the outside is wired: a link to the node.
fn link(gateways: &BTreeMap<IpAddr, IpAddr>) -> Value {
    let addresses: Vec<Value> = gateways
        .iter()
        .map(|(address, gateway)| {
            let length = OUTSIDE[usize::from(address.is_ipv6())];
            json!({"address": format!("{address}/{length}"), "gateway": gateway})
        })
        .collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "outside",
        "type": "ptp",
        "ipMasq": false,
        "ipam": {"type": "static", "addresses": addresses, "routes": everywhere()},
    })
}

/// The address in the same network that ends in 1: the node's.
fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [first, second, third, _] = address.octets();
            [first, second, third, 1].into()
        }
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].copy_from_slice(&[0, 0, 0, 1]);
            segments.into()
        }
    }
}

/// The ways in which everything is tried, for people.
pub(crate) fn shown(probe: Probe) -> String {
    match probe {
        Probe::Tcp(port) => port.to_string(),
        Probe::Udp(port) => format!("{port}/udp"),
        Probe::Sctp(port) => format!("{port}/sctp"),
        Probe::Ping => "ping".to_owned(),
    }
}
