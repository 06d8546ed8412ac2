//! Services, and the slices of endpoints behind them.
//!
//! The meaning is that of `v1 Service` and `discovery.k8s.io/v1 EndpointSlice` to a
//! proxy of Kubernetes; [`services`](crate::services) works out where a connection ends.
//! Fields that a proxy does not go by, or that only choose among backends (affinity, zones,
//! traffic policies), are not here.

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_verdict::address::Family;

use crate::selectors::Labels;

use super::{ObjectName, Protocol};

/// A `v1 Service`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// The kind, by which clients find the backends.
    pub kind: ServiceKind,
    /// The labels of the pods behind it; without any, slices alone say who is.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its addresses in the cluster, as far as they are given.
    pub cluster_addresses: Vec<IpAddr>,
    /// Other addresses that proxies translate: external ones, and those of load
    /// balancers that leave packets as they are.
    pub outside_addresses: Vec<IpAddr>,
    /// The families that it serves.
    pub families: Families,
}

impl Service {
    /// The addresses that are translated.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let is_served = |address: &&IpAddr| self.families.has(family_of(**address));
        let outside = self.outside_addresses.iter().filter(is_served);
        self.cluster_addresses.iter().chain(outside).copied()
    }
}

/// Ways from the name of a [`Service`] to its backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    /// To an address of its own, which is translated to a backend's.
    Virtual,
    /// To the addresses of the backends themselves: nothing is translated.
    Headless,
    /// To another name: it has no address and no backends.
    ExternalName,
}

/// Some of the two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Families {
    /// IPv4 is one of them.
    pub v4: bool,
    /// IPv6 is one of them.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// Returns `true` if the family is one of them.
    #[must_use]
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(all: I) -> Self {
        let mut families = Self {
            v4: false,
            v6: false,
        };
        for family in all {
            match family {
                Family::V4 => families.v4 = true,
                Family::V6 => families.v6 = true,
            }
        }
        families
    }
}

/// The family of an address.
#[must_use]
pub fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// A port of a [`Service`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its name, by which slices have it; "" where it has none.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port that clients use.
    pub port: u16,
    /// The port of the pods behind it.
    pub target: TargetPort,
    /// The port of every node that leads here.
    pub node_port: Option<u16>,
}

/// The port of the pods behind a [`Service`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The port that each pod calls by this name.
    Name(Box<str>),
}

/// A `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointSlice {
    /// The Service of its namespace that it belongs to, if it says so.
    pub service: Option<Arc<str>>,
    /// Its ports, which all its endpoints have.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints; none where it lists names instead of addresses.
    pub endpoints: Vec<Endpoint>,
}

/// A port of an [`EndpointSlice`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// An endpoint of an [`EndpointSlice`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its first address: all are alike, and proxies use the first.
    pub address: IpAddr,
    /// New connections are sent there.
    pub ready: bool,
    /// They would be if it were not about to end; they are when nothing else is ready.
    pub draining: bool,
    /// The pod that it is.
    pub pod: Option<ObjectName>,
}
