//! Translation of virtual addresses to backends.
//!
//! [`Services`] translates as the proxies of Kubernetes do: an address and port of a
//! Service, or a node's port that leads to one, becomes the address and port of one of
//! the backends. Policy is asked about those; a virtual address is no peer of any rule.
//!
//! Slices of endpoints that belong to a Service name its backends: the ready ones, or,
//! where none is ready, those that still serve while they end. A Service without slices has
//! the pods that its selector matches, each by its first address of the family and by its
//! own number for the name of a port. Settings that only choose among backends (affinity,
//! zones, `internalTrafficPolicy`, `externalTrafficPolicy`) do not count: any backend may
//! be the next.
//!
//! Invariant: a connection ends at a backend given here, or nowhere.

mod follow;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_verdict::address::Family;
use foldhash::HashMap;

use crate::{
    Endpoint, EndpointSlice, Inventory, ObjectName, Owner, Protocol, Service, ServiceKind,
    ServicePort, TargetPort, Workload, family_of,
};

pub use follow::Moved;

/// Pods of a namespace by a label that a Service of it asks for.
type Labelled = HashMap<Box<str>, HashMap<Box<str>, Vec<Arc<Workload>>>>;

/// A Service, and the position of one of its ports.
type PortOfService = (Arc<Service>, usize);

/// The Services of an inventory, and who is behind them.
#[derive(Debug, Clone, Default)]
pub struct Services {
    inventory: Inventory,
    /// Slices by the Service that they say they belong to, and by their names.
    slices: HashMap<ObjectName, BTreeMap<Arc<str>, Arc<EndpointSlice>>>,
    pods: HashMap<Arc<str>, Labelled>,
    by_address: HashMap<IpAddr, Vec<Arc<Service>>>,
    by_node_port: HashMap<(Protocol, u16), Vec<PortOfService>>,
}

/// An end of connections to a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` where nothing is translated, so that it is the client's.
    pub port: Option<u16>,
    /// The pod that it is said to be.
    pub pod: Option<ObjectName>,
}

impl Services {
    /// Indexes the Services of an inventory.
    #[must_use]
    pub fn new(inventory: &Inventory) -> Self {
        let mut services = Self {
            inventory: inventory.clone(),
            ..Self::default()
        };
        for service in inventory.services().shared().values() {
            services.take(service);
        }
        if inventory.services().is_empty() {
            return services;
        }
        for (name, slice) in inventory.slices().shared().iter() {
            if let Some(service) = &slice.service {
                let service = ObjectName {
                    namespace: name.namespace.clone(),
                    name: service.clone(),
                };
                let slices = services.slices.entry(service).or_default();
                slices.insert(name.name.clone(), slice.clone());
            }
        }
        for pod in inventory.workloads().shared().values() {
            let Some(asked) = services.pods.get_mut(&pod.name.namespace) else {
                continue;
            };
            for (key, value) in pod.labels.iter() {
                let with_key = asked.get_mut(key);
                if let Some(with_label) = with_key.and_then(|values| values.get_mut(value)) {
                    with_label.push(pod.clone());
                }
            }
        }
        services
    }

    fn take(&mut self, service: &Arc<Service>) {
        let asked = self.pods.entry(service.name.namespace.clone()).or_default();
        for (key, value) in service.selector.iter() {
            let values = asked.entry(key.into()).or_default();
            values.entry(value.into()).or_default();
        }
        if service.kind != ServiceKind::Virtual {
            return;
        }
        for address in service.addresses() {
            let there = self.by_address.entry(address).or_default();
            there.push(service.clone());
        }
        for (at, port) in service.ports.iter().enumerate() {
            if let Some(number) = port.node_port {
                let there = self
                    .by_node_port
                    .entry((port.protocol, number))
                    .or_default();
                there.push((service.clone(), at));
            }
        }
    }

    /// The inventory whose Services these are.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Returns `true` if nothing is translated anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Returns `true` if connections to this address may be translated.
    #[must_use]
    pub fn may_translate(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
            || !self.by_node_port.is_empty() && self.is_nodes(address)
    }

    /// Returns `true` if the address is a Service's, and nothing else's.
    #[must_use]
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address) && self.inventory.owner(address).is_none()
    }

    /// The Services that have an address.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        let services = self.by_address.get(&address).into_iter().flatten();
        services.map(|service| &**service)
    }

    /// The addresses that Services have, each once, in no order.
    pub fn virtual_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// The ports of nodes that lead to Services, each once, in no order.
    pub fn node_ports(&self) -> impl Iterator<Item = (Protocol, u16)> {
        self.by_node_port.keys().copied()
    }

    /// The ends of connections to a port of any node, in order, each once. `None` if the
    /// port is the node's own in this family.
    #[must_use]
    pub fn behind_node_port(
        &self,
        (protocol, number): (Protocol, u16),
        family: Family,
    ) -> Option<Vec<Backend>> {
        let services = self.by_node_port.get(&(protocol, number))?;
        let serving: Vec<_> = (services.iter())
            .filter(|(service, _)| service.families.has(family))
            .collect();
        let backends = serving
            .iter()
            .flat_map(|(service, at)| self.backends(service, &service.ports[*at], family));
        (!serving.is_empty()).then(|| each_once(backends.collect()))
    }

    fn is_nodes(&self, address: IpAddr) -> bool {
        matches!(self.inventory.owner(address), Some(Owner::Node(_)))
    }

    /// The ends of connections to an address, in order, each once: none if no port of a
    /// Service's address is meant, or nobody is behind it. `None` if the address is
    /// somebody's own, so that nothing is translated. `port` is `None` for what has no
    /// ports.
    #[must_use]
    pub fn translate(
        &self,
        address: IpAddr,
        port: Option<(Protocol, u16)>,
    ) -> Option<Vec<Backend>> {
        let family = family_of(address);
        let mut found: Option<Vec<Backend>> = None;
        if let Some((protocol, number)) = port {
            let here = self.by_address.get(&address).into_iter().flatten();
            let ports = here.flat_map(|service| {
                let ports = service.ports.iter();
                let asked = ports.filter(move |one| (one.protocol, one.port) == (protocol, number));
                asked.map(move |port| (service, port))
            });
            for (service, port) in ports {
                let backends = self.backends(service, port, family);
                found.get_or_insert_default().extend(backends);
            }
            if self.is_nodes(address)
                && let Some(backends) = self.behind_node_port((protocol, number), family)
            {
                found.get_or_insert_default().extend(backends);
            }
        }
        match found {
            Some(backends) => Some(each_once(backends)),
            None => self.is_virtual(address).then(Vec::new),
        }
    }

    /// The ends of connections to a port of a Service, in order, each once.
    #[must_use]
    pub fn backends(&self, service: &Service, port: &ServicePort, family: Family) -> Vec<Backend> {
        if service.kind == ServiceKind::ExternalName || !service.families.has(family) {
            return Vec::new();
        }
        let backends = match self.slices.get(&service.name) {
            Some(slices) => {
                let ports = slices.values().flat_map(|slice| {
                    let ports = slice.ports.iter();
                    let same =
                        ports.filter(|one| one.name == port.name && one.protocol == port.protocol);
                    same.map(move |one| (slice, one.port))
                });
                in_use(
                    ports.flat_map(|(slice, number)| {
                        let endpoints = slice.endpoints.iter();
                        endpoints.map(move |endpoint| (endpoint, Some(number)))
                    }),
                    family,
                    true,
                )
            }
            None => (self.selected(service))
                .filter_map(|pod| {
                    let number = match &port.target {
                        TargetPort::Number(number) => *number,
                        TargetPort::Name(name) => {
                            let mut own = pod.ports.iter();
                            let of_name =
                                own.find(|own| own.name == *name && own.protocol == port.protocol);
                            of_name?.number
                        }
                    };
                    self.pod(pod, Some(number), family)
                })
                .collect(),
        };
        each_once(backends)
    }

    /// The ends whose addresses a headless Service's name has, in order, each once.
    #[must_use]
    pub fn members(&self, service: &Service, family: Family) -> Vec<Backend> {
        if service.kind == ServiceKind::ExternalName || !service.families.has(family) {
            return Vec::new();
        }
        let members = match self.slices.get(&service.name) {
            Some(slices) => {
                let endpoints = slices.values().flat_map(|slice| &slice.endpoints);
                in_use(endpoints.map(|endpoint| (endpoint, None)), family, false)
            }
            None => (self.selected(service))
                .filter_map(|pod| self.pod(pod, None, family))
                .collect(),
        };
        each_once(members)
    }

    /// Returns `true` if slices, not labels, say who is behind a Service.
    #[must_use]
    pub fn has_slices(&self, service: &ObjectName) -> bool {
        self.slices.contains_key(service)
    }

    /// The pods with all labels that a Service asks for, in the order of their names.
    fn selected<'s>(&'s self, service: &'s Service) -> impl Iterator<Item = &'s Workload> {
        let labelled = self.pods.get(&service.name.namespace);
        let with = |(key, value): (&str, &str)| Some(labelled?.get(key)?.get(value)?.as_slice());
        // The fewest of them: the others' labels are compared.
        let fewest = (service.selector.iter())
            .map(|pair| with(pair).unwrap_or_default())
            .min_by_key(|pods| pods.len());
        let pods = fewest.unwrap_or_default().iter().map(|pod| &**pod);
        pods.filter(move |pod| {
            let has = |(key, value)| pod.labels.get(key) == Some(value);
            !pod.finished && service.selector.iter().all(has)
        })
    }

    /// A pod as a backend: by its first address of the family, which of one on its
    /// node's network may be known of the node alone.
    fn pod(&self, pod: &Workload, port: Option<u16>, family: Family) -> Option<Backend> {
        let is_of_family = |address: &&IpAddr| family_of(**address) == family;
        let own = pod.addresses.iter().find(is_of_family);
        let nodes = || {
            let name = pod.node.as_ref().filter(|_| pod.host_network)?;
            let node = self.inventory.nodes().get(name)?;
            node.addresses.iter().find(is_of_family)
        };
        Some(Backend {
            address: *own.or_else(nodes)?,
            port,
            pod: Some(pod.name.clone()),
        })
    }
}

/// The endpoints of a family that get connections: those that are ready; if there are
/// none, and proxies choose, those that are about to end and still serve.
fn in_use<'e>(
    endpoints: impl Iterator<Item = (&'e Endpoint, Option<u16>)>,
    family: Family,
    falls_back: bool,
) -> Vec<Backend> {
    let of_family = endpoints.filter(|(endpoint, _)| family_of(endpoint.address) == family);
    let mut ready = Vec::new();
    let mut draining = Vec::new();
    for (endpoint, port) in of_family {
        let backend = || Backend {
            address: endpoint.address,
            port,
            pod: endpoint.pod.clone(),
        };
        if endpoint.ready {
            ready.push(backend());
        } else if endpoint.draining && falls_back {
            draining.push(backend());
        }
    }
    if ready.is_empty() { draining } else { ready }
}

/// One backend for each address and port, in order.
fn each_once(backends: Vec<Backend>) -> Vec<Backend> {
    let mut unique: BTreeMap<(IpAddr, Option<u16>), Option<ObjectName>> = BTreeMap::new();
    for backend in backends {
        let pod = unique.entry((backend.address, backend.port)).or_default();
        // Two that are one address are one; a pod's name tells more than none.
        if pod.is_none() {
            *pod = backend.pod;
        }
    }
    let backend = |((address, port), pod)| Backend { address, port, pod };
    unique.into_iter().map(backend).collect()
}
