//! Trials: a sender and a receiver.

use std::net::IpAddr;

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_oracle::{self as oracle, Payload, Query};
use fastrand::Rng;

use crate::{
    firewall::{NODE, named, stamp},
    generate::{OTHER_NODE, OUTSIDE, REMOTE_PODS, Remote},
    packet::{End, Family, Mac},
    world::World,
};

/// Sender or receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who<'w> {
    /// A workload of the node.
    Pod(&'w str),
    /// A pod of another node, by one of its addresses.
    Remote(&'static str, IpAddr),
    /// An address of nobody.
    Outside(IpAddr),
    /// The node.
    Node,
    /// Another node.
    OtherNode(IpAddr),
}

/// A packet without its shape. One of the ends is a workload of the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial<'w> {
    pub(super) world: &'w World,
    pub(super) source: Who<'w>,
    pub(super) destination: Who<'w>,
    pub(super) family: Family,
}

impl<'w> Trial<'w> {
    pub(super) fn random(rng: &mut Rng, world: &'w World) -> Self {
        let family = if rng.bool() { Family::V4 } else { Family::V6 };
        let pod = Who::Pod(&world.workloads()[rng.usize(..world.workloads().len())].name);
        let other = match rng.u8(..10) {
            0 | 1 => Who::Outside(one_of(rng, &OUTSIDE, family)),
            2 => Who::Node,
            3 => Who::OtherNode(one_of(rng, OTHER_NODE.addresses, family)),
            4 | 5 => {
                let Remote { name, addresses } = REMOTE_PODS[rng.usize(..REMOTE_PODS.len())];
                Who::Remote(name, one_of(rng, addresses, family))
            }
            _ => Who::Pod(&world.workloads()[rng.usize(..world.workloads().len())].name),
        };
        let (source, destination) = if rng.bool() {
            (pod, other)
        } else {
            (other, pod)
        };
        Self {
            world,
            source,
            destination,
            family,
        }
    }

    pub(super) fn address(&self, who: Who<'_>) -> IpAddr {
        let end = match who {
            Who::Pod(name) => named(self.world, name).end,
            Who::Node => self.world.node().end,
            Who::Remote(_, address) | Who::Outside(address) | Who::OtherNode(address) => {
                return address;
            }
        };
        end.ip(self.family).expect("worlds have both families")
    }

    /// The MAC that its packets come from, or go to, on the side of the workload.
    pub(super) fn mac(&self, who: Who<'_>) -> Mac {
        match who {
            Who::Pod(name) => named(self.world, name).end.mac,
            _ => self.world.node().end.mac,
        }
    }

    /// An end as packets have it.
    pub(super) fn end(&self, who: Who<'_>) -> End {
        End::from(self.address(who)).with_mac(self.mac(who))
    }

    pub(super) fn is_from_here(&self) -> bool {
        matches!(self.source, Who::Pod(_))
    }

    /// Returns `true` if a workload receives it, here or on another node.
    pub(super) fn is_to_workload(&self) -> bool {
        matches!(self.destination, Who::Pod(_) | Who::Remote(..))
    }

    /// Returns `true` if a workload of another node receives it.
    pub(super) fn is_to_remote(&self) -> bool {
        matches!(self.destination, Who::Remote(..))
    }

    pub(super) fn is_to_itself(&self) -> bool {
        self.source == self.destination
    }

    /// The workloads of the node but the sender.
    pub(super) fn other_pods(&self) -> impl Iterator<Item = Who<'w>> {
        let pods = self.world.workloads().iter();
        pods.map(|workload| Who::Pod(&workload.name))
            .filter(|pod| *pod != self.source)
    }

    /// The oracle's question; `named` is the address in the packet where it is none
    /// of the receiver's, nor of anybody.
    pub(super) fn query(&self, payload: Payload, named: Option<IpAddr>) -> Query {
        let end = |who| match who {
            Who::Pod(name) | Who::Remote(name, _) => {
                let (namespace, name) = name.split_once('/').expect("namespace/name");
                oracle::End::Pod {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }
            }
            Who::Outside(_) => oracle::End::External,
            Who::Node => oracle::End::Node {
                name: NODE.to_owned(),
            },
            Who::OtherNode(_) => oracle::End::Node {
                name: OTHER_NODE.name.to_owned(),
            },
        };
        Query {
            source: end(self.source),
            destination: named.map_or(end(self.destination), |_| oracle::End::External),
            source_address: self.address(self.source),
            destination_address: named.unwrap_or(self.address(self.destination)),
            payload,
            own_node_allowed: true,
        }
    }

    /// The stamp that it carries behind the sender's hook.
    fn stamp(&self) -> u16 {
        match self.source {
            Who::Pod(name) => stamp(named(self.world, name)),
            _ => 0,
        }
    }

    /// The hook of its receiver, if it comes in by the uplink for a workload of the node; not
    /// with another one's address, which has no place there.
    pub(super) fn by_uplink(&self) -> Option<(Program, TestContext)> {
        let Who::Pod(receiver) = self.destination else {
            return None;
        };
        if self.is_from_here() {
            return None;
        }
        let context = TestContext {
            ifindex: named(self.world, receiver).host_ifindex,
            ingress_ifindex: self.world.outside().uplink_ifindex,
            ..TestContext::default()
        };
        Some((Program::TO_WORKLOAD, context))
    }

    /// The hooks that judge it.
    pub(super) fn hooks(&self) -> Vec<(Program, TestContext)> {
        let mut hooks = Vec::new();
        let ifindex = |who| match who {
            Who::Pod(name) => named(self.world, name).host_ifindex,
            Who::Remote(..) | Who::Outside(_) | Who::OtherNode(_) => {
                self.world.outside().uplink_ifindex
            }
            Who::Node => 0,
        };
        let context = |ifindex, ingress_ifindex| TestContext {
            ifindex,
            ingress_ifindex,
            ..TestContext::default()
        };
        let came_by = ifindex(self.source);
        if let Who::Pod(_) = self.source {
            hooks.push((Program::FROM_WORKLOAD, context(came_by, came_by)));
        }
        if let Who::Pod(_) = self.destination {
            let goes_by = ifindex(self.destination);
            let context = context(goes_by, came_by);
            hooks.push((Program::TO_WORKLOAD, context.stamped(self.stamp())));
        }
        hooks
    }
}

/// One of some addresses, of a family that they have.
pub(super) fn one_of(rng: &mut Rng, addresses: &[&str], family: Family) -> IpAddr {
    loop {
        let text = addresses[rng.usize(..addresses.len())];
        let address: IpAddr = text.parse().expect("an address");
        if Family::of(address) == family {
            return address;
        }
    }
}
