//! The shop: workloads on one node, a host outside, and a server in each.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, anyhow};
use cofferdam_tests::{
    cni::{Attaching, Network, Plugins, Runtime, standard_plugins},
    expectations::{Template, external},
    packet::Family,
    scratch::Scratch,
    traffic::{Place, Probe, Server},
    world::Namespace,
};
use serde_json::{Value, json};

use crate::{
    containers::{Engine, Wiring},
    premises::{Premises, Tenants},
};

/// The bridge on the node.
const BRIDGE: &str = "cni0";
/// The version of the CNI specification that the networks are written for.
const CNI_VERSION: &str = "1.0.0";
/// The workloads' networks and, first of each, the node in them.
const NETWORKS: [(&str, &str); 2] = [("10.88.0.0/24", "10.88.0.1"), ("fd88::/64", "fd88::1")];
/// The prefix lengths of the network outside, by family.
const OUTSIDE: [u8; 2] = [24, 64];

/// The shop's node, before there is a shop.
pub(crate) struct Site {
    /// The agent belongs here.
    pub(crate) node: Namespace,
    /// The node's own addresses, once everybody is there.
    pub(crate) addresses: Vec<IpAddr>,
}

/// One end: a workload, or a host outside.
pub(crate) struct Member {
    /// `namespace/name` or `external/name`.
    pub(crate) name: String,
    /// Its attachment to the node.
    attaching: Attaching,
}

/// All of it.
pub(crate) struct Shop<'p> {
    /// Workloads, then hosts outside.
    pub(crate) members: Vec<Member>,
    /// They answer until they are dropped.
    _servers: Vec<Server>,
    /// The containers that workloads are in, where a runtime has started them.
    _tenants: Option<Tenants<'p>>,
}

impl<'s> From<&'s Member> for Place<'s> {
    fn from(member: &'s Member) -> Self {
        Self {
            name: &member.name,
            ..member.attaching.place()
        }
    }
}

impl Member {
    /// Its address in a family; it has both.
    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        Place::from(self).ip(family)
    }

    /// Its network namespace.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.attaching.namespace
    }

    /// Returns `true` if it is outside.
    pub(crate) fn is_outside(&self) -> bool {
        self.name.starts_with(&external(""))
    }
}

impl Site {
    /// A node for the workloads and hosts that a template speaks of.
    pub(crate) fn new(template: &Template) -> Result<Self> {
        let gateways = NETWORKS.iter().map(|(_, gateway)| gateway.parse());
        let mut addresses = gateways.collect::<Result<Vec<IpAddr>, _>>()?;
        let outside = template.externals.values().flatten();
        addresses.extend(outside.map(|address| neighbour(*address)));
        let node = Namespace::new()?;
        // Nobody else can have these addresses, and finding that out takes seconds.
        node.set("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(Self { node, addresses })
    }
}

impl<'p> Shop<'p> {
    /// Attaches the workloads and hosts that a template speaks of, each with a server on
    /// every port that is spoken of. The agent is told of the workloads by `plugin`. They
    /// are containers of a runtime if one is named.
    pub(crate) fn open(
        site: &Site,
        template: &Template,
        premises: &'p Premises,
        plugin: &Path,
        engine: Option<Engine>,
    ) -> Result<Self> {
        let standard = standard_plugins().map_err(|why| anyhow!("the CNI plugins: {why}"))?;
        let plugin = (plugin.canonicalize())
            .with_context(|| format!("there is no program {}", plugin.display()))?;
        let plugins = Plugins::within(Scratch::within(premises.folder()), &plugin);
        let runtime = Runtime {
            node: &site.node,
            plugins: &plugins,
        };
        let attached = |network: &Network, mut one: Attaching| {
            let added = runtime.add(network, &mut one);
            added.map_err(|error| anyhow!("{} failed: {}", error.plugin, error.message))?;
            Ok::<_, anyhow::Error>(one)
        };
        let wiring = Wiring {
            chain: inside(premises),
            bridge: BRIDGE,
            subnets: NETWORKS,
        };
        let house = |engine: Engine| {
            premises.house(|| engine.start(&site.node, &plugin, &wiring, premises))
        };
        let tenants = engine.map(house).transpose()?;
        let mut members = Vec::new();
        for name in template.inventory.workloads().keys() {
            let attaching = if let Some(tenants) = &tenants {
                tenants.with(|containers| containers.run(&name.namespace, &name.name))?
            } else {
                let container = format!("{}-{}", name.namespace, name.name);
                let one = Attaching::new(&container).named(&name.namespace, &name.name);
                attached(&wiring.chain, one)?
            };
            members.push(Member {
                name: name.to_string(),
                attaching,
            });
        }
        for (number, (name, addresses)) in template.externals.iter().enumerate() {
            let gateways: BTreeMap<IpAddr, IpAddr> = addresses
                .iter()
                .map(|&address| (address, neighbour(address)))
                .collect();
            let one = Attaching::new(&format!("external-{number}"));
            members.push(Member {
                name: external(name),
                attaching: attached(&outside(&gateways), one)?,
            });
        }
        match engine {
            Some(engine) => println!("  {}", engine.described()),
            None => println!(
                "  wired by {}/{{bridge,ptp}}; workloads are chained to cofferdam-cni",
                standard.display()
            ),
        }
        let servers =
            Server::start_all(&members, &template.probes()).context("cannot start the servers")?;
        Ok(Self {
            members,
            _servers: servers,
            _tenants: tenants,
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

/// Everything there is, as a route.
fn everywhere() -> Value {
    json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
}

/// Network of the workloads: one bridge, with addresses from `host-local`, under policy.
fn inside(premises: &Premises) -> Network {
    let ranges: Vec<Value> = NETWORKS
        .iter()
        .map(|(subnet, gateway)| json!([{"subnet": subnet, "gateway": gateway}]))
        .collect();
    let bridge = json!({
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
    });
    let cofferdam = json!({"type": "cofferdam-cni", "runDir": premises.run_dir()});
    network("shop", vec![bridge, cofferdam])
}

/// Returns the network that wires the outside: a link to the node.
fn outside(gateways: &BTreeMap<IpAddr, IpAddr>) -> Network {
    let addresses: Vec<Value> = gateways
        .iter()
        .map(|(address, gateway)| {
            let length = OUTSIDE[usize::from(address.is_ipv6())];
            json!({"address": format!("{address}/{length}"), "gateway": gateway})
        })
        .collect();
    let link = json!({
        "type": "ptp",
        "ipMasq": false,
        "ipam": {"type": "static", "addresses": addresses, "routes": everywhere()},
    });
    network("outside", vec![link])
}

fn network(name: &str, plugins: Vec<Value>) -> Network {
    Network {
        name: name.to_owned(),
        version: CNI_VERSION.to_owned(),
        plugins,
    }
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
