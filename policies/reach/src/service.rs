//! Ends of connections that are others': Services, and addresses that are translated.
//!
//! A probe of a Service is judged at each of its backends, by the backend's own address and
//! port. The Service is reached if all of them are.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::hints::nearest;
use cofferdam_documents::reader::Shown;
use cofferdam_inventory::services::{Backend, Services};
use cofferdam_inventory::{ObjectName, Owner, Protocol, Service, ServiceKind, family_of};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Action;

use super::ends::{End, EndKind, Externals, Point, UnknownEnd};
use super::{Cell, Probe, Reach};

/// Prefix of the names of Services as ends.
const SERVICE: &str = "service";

/// Most ports of a Service that a message lists.
const MOST_PORTS: usize = 5;

/// Count of backends, and of those that may be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backends {
    /// Those that may.
    pub allowed: u32,
    /// All.
    pub total: u32,
}

/// One backend of what a connection is opened to.
#[derive(Debug, Clone)]
pub struct BackendCell {
    /// The pod or node that it is, or its address.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
    /// The packet that arrives there.
    pub probe: Probe,
    /// May the sender reach it?
    pub cell: Cell,
}

/// One backend of a Service.
#[derive(Debug)]
pub struct BehindService {
    /// The pod or node that it is, or its address.
    pub id: String,
    /// Its port; `None` where nothing is translated.
    pub port: Option<u16>,
    /// The address that it has; if others stand in for it, these.
    pub points: Vec<Point>,
}

/// One end of a connection.
pub(super) struct Target<'e> {
    point: Cow<'e, Point>,
    probe: Probe,
    is_backend: bool,
    is_translated: bool,
    /// The address stands in for one that is not known.
    is_assumed: bool,
    /// Others that do.
    alternatives: Vec<Point>,
    /// The pod that it is then.
    pod: Option<ObjectName>,
}

/// All ends of a connection.
#[derive(Default)]
pub(super) struct Targets<'e> {
    list: Vec<Target<'e>>,
    /// Some address leads to nobody.
    leads_nowhere: bool,
}

impl Targets<'_> {
    /// Takes the backends of one address or Service.
    fn take(&mut self, reach: &Reach, backends: Vec<Backend>, probe: Probe, family: Family) {
        self.leads_nowhere |= backends.is_empty();
        let mut known: HashSet<(IpAddr, Probe)> = (self.list.iter())
            .filter(|target| target.is_backend)
            .map(|target| (target.point.address, target.probe))
            .collect();
        for backend in backends {
            let target = reach.backend_target(&backend, probe, family);
            if known.insert((target.point.address, target.probe)) {
                self.list.push(target);
            }
        }
    }
}

impl Reach {
    /// Returns all ends of connections to an end; `None` if it has no address of the
    /// family.
    pub(super) fn targets<'e>(
        &self,
        destination: &'e End,
        probe: Probe,
        family: Family,
    ) -> Option<Targets<'e>> {
        let mut targets = Targets::default();
        if let Some(service) = &destination.service {
            if !service.families.has(family) {
                return None;
            }
            let backends = behind(&self.services, service, probe, family);
            targets.take(self, backends, probe, family);
            return Some(targets);
        }
        let mut is_of_family = false;
        for point in destination.points(family) {
            is_of_family = true;
            let translated = (point.may_be_translated)
                .then(|| self.services.translate(point.address, probe.port()))
                .flatten();
            match translated {
                Some(backends) => targets.take(self, backends, probe, family),
                None => targets.list.push(Target {
                    point: Cow::Borrowed(point),
                    probe,
                    is_backend: false,
                    is_translated: false,
                    is_assumed: destination.assumed,
                    alternatives: Vec::new(),
                    pod: None,
                }),
            }
        }
        is_of_family.then_some(targets)
    }

    /// May `source` open a connection to all of these?
    pub(super) fn cell_of(
        &self,
        source: &End,
        targets: &Targets<'_>,
        family: Family,
    ) -> Option<Cell> {
        let mut found: Option<Cell> = None;
        let mut backends = Backends::default();
        let mut depends = false;
        let mut is_denied = targets.leads_nowhere;
        for target in &targets.list {
            let own = self.target(source, target, family)?;
            depends |= own.depends_on_address;
            is_denied |= !own.depends_on_address && own.action() == Action::Deny;
            if target.is_backend {
                backends.total += 1;
                backends.allowed += u32::from(own.action() == Action::Allow);
            }
            match &mut found {
                None => found = Some(own),
                Some(cell) => cell.join(&own),
            }
        }
        found.map(|cell| Cell {
            backends: Some(backends).filter(|all| all.total > 0 || targets.leads_nowhere),
            leads_nowhere: targets.leads_nowhere,
            // One that is denied whatever the address decides.
            depends_on_address: depends && !is_denied,
            ..cell
        })
    }

    fn target(&self, source: &End, target: &Target<'_>, family: Family) -> Option<Cell> {
        let points: Vec<&Point> = [&*target.point]
            .into_iter()
            .chain(&target.alternatives)
            .collect();
        let is_assumed = target.is_assumed;
        self.judge(
            source,
            (&points, is_assumed),
            target.probe,
            family,
            target.is_translated,
        )
    }

    /// The addresses that stand in for a backend's, where no document gives it; none where one
    /// does.
    fn stand_ins_of(&self, address: IpAddr, pod: Option<&ObjectName>) -> &[IpAddr] {
        // A pod on its node's network owns nothing, and of some no document names the node.
        let owner = (self.inventory.owner(address))
            .or_else(|| Some(Owner::Workload(pod?.clone())))
            .filter(|owner| self.stand_ins.contains(owner));
        let all = match &owner {
            Some(Owner::Workload(name)) => &self.inventory.workloads()[name].addresses[..],
            Some(Owner::Node(name)) => &self.inventory.nodes()[name].addresses,
            None => &[],
        };
        if all.contains(&address) { all } else { &[] }
    }

    /// The other addresses that a backend may have whose address is not known.
    fn alternatives(&self, point: &Point, pod: Option<&ObjectName>, family: Family) -> Vec<Point> {
        let mut kinds = HashSet::from([point.profile]);
        (self.stand_ins_of(point.address, pod).iter())
            .filter(|address| family_of(**address) == family)
            .map(|address| self.point(*address, None))
            .filter(|point| kinds.insert(point.profile))
            .collect()
    }

    /// Returns `true` if nobody is behind what a connection would be opened to: no port of
    /// a Service is meant, or the Service has no backend of the family.
    #[must_use]
    pub fn leads_nowhere(
        &self,
        source: &End,
        destination: &End,
        probe: Probe,
        family: Family,
    ) -> bool {
        let is_nobody = || {
            let targets = self.targets(destination, probe, family);
            targets.is_some_and(|targets| targets.list.is_empty())
        };
        destination.may_be_translated() && source.has(family) && is_nobody()
    }

    /// Says why nothing is behind what a connection would be opened to.
    #[must_use]
    pub fn why_nowhere(&self, destination: &End, probe: Probe) -> String {
        let id = Shown(destination.id());
        let by_address = (destination.addresses()).flat_map(|address| self.services.at(address));
        let services = destination.service().into_iter().chain(by_address);
        let mut ports: Vec<Probe> = services
            .flat_map(|service| &service.ports)
            .map(|port| Probe::Port(port.protocol, port.port))
            .collect();
        ports.sort();
        ports.dedup();
        if ports.is_empty() || ports.contains(&probe) {
            return format!("{id} has no backend for {probe}");
        }
        let beyond = ports.len().saturating_sub(MOST_PORTS);
        let ports = ports.iter().take(MOST_PORTS);
        let mut words: Vec<String> = ports.map(ToString::to_string).collect();
        if beyond > 0 {
            words.push(format!("{beyond} more"));
        }
        format!("{id} has no port {probe}, only {}", words.join(", "))
    }

    /// Each backend of what a connection is opened to, by itself; none where nothing is
    /// translated.
    #[must_use]
    pub fn backend_cells(
        &self,
        source: &End,
        destination: &End,
        probe: Probe,
        family: Family,
    ) -> Vec<BackendCell> {
        let targets = self.targets(destination, probe, family).unwrap_or_default();
        let backends = targets.list.iter().filter(|target| target.is_backend);
        let cells = backends.filter_map(|target| {
            Some(BackendCell {
                id: self.backend_id(target),
                address: target.point.address,
                probe: target.probe,
                cell: self.target(source, target, family)?,
            })
        });
        cells.collect()
    }

    /// The pod or node that has a backend's address, or the address.
    fn backend_id(&self, target: &Target<'_>) -> String {
        let address = target.point.address;
        match (self.inventory.owner(address), &target.pod) {
            (Some(Owner::Workload(name)), _) => name.to_string(),
            (Some(Owner::Node(name)), _) => format!("node/{name}"),
            (None, Some(pod)) => pod.to_string(),
            (None, None) => address.to_string(),
        }
    }

    /// The backends of a Service for a probe, in the order in which they are asked.
    #[must_use]
    pub fn behind_service(
        &self,
        service: &End,
        probe: Probe,
        family: Family,
    ) -> Vec<BehindService> {
        let targets = self.targets(service, probe, family).unwrap_or_default();
        let backends = targets.list.into_iter().filter(|one| one.is_backend);
        let behind = backends.map(|target| BehindService {
            id: self.backend_id(&target),
            port: match target.probe.port() {
                Some((_, port)) if target.is_translated => Some(port),
                _ => None,
            },
            points: [target.point.into_owned()]
                .into_iter()
                .chain(target.alternatives)
                .collect(),
        });
        behind.collect()
    }

    /// The Services that take connections, in the order of their names.
    pub fn service_ends(&self) -> impl Iterator<Item = End> {
        let services = self
            .inventory
            .services()
            .shared()
            .values()
            .filter(|service| service.kind != ServiceKind::ExternalName);
        services.map(|service| self.service_end(service))
    }

    fn service_end(&self, service: &Arc<Service>) -> End {
        let addresses: Vec<IpAddr> = service.addresses().collect();
        End {
            id: id(&service.name),
            kind: EndKind::Service,
            assumed: false,
            points: self.points(&addresses, None),
            service: Some(service.clone()),
        }
    }

    /// Returns the cell of a connection of `source` that is translated to this backend; `None`
    /// if `source` has no address of the family.
    #[must_use]
    pub fn backend_cell(
        &self,
        source: &End,
        backend: &Backend,
        protocol: Protocol,
    ) -> Option<Cell> {
        let family = family_of(backend.address);
        let probe = Probe::Port(protocol, backend.port?);
        self.target(source, &self.backend_target(backend, probe, family), family)
    }

    /// The target of a probe that is translated to a backend.
    fn backend_target(&self, backend: &Backend, probe: Probe, family: Family) -> Target<'static> {
        let point = self.backend(backend, family);
        let pod = backend.pod.as_ref();
        let is_assumed = !self.stand_ins_of(point.address, pod).is_empty();
        Target {
            is_assumed,
            alternatives: self.alternatives(&point, pod, family),
            pod: pod.filter(|_| is_assumed).cloned(),
            point: Cow::Owned(point),
            probe: match (probe, backend.port) {
                (Probe::Port(protocol, _), Some(port)) => Probe::Port(protocol, port),
                _ => probe,
            },
            is_backend: true,
            is_translated: backend.port.is_some(),
        }
    }

    /// A backend as an end of packets. Where the documents give a pod no address, and a
    /// slice does, the pod is meant.
    fn backend(&self, backend: &Backend, family: Family) -> Point {
        let is_unknown = self.inventory.owner(backend.address).is_none();
        let assumed = (backend.pod.as_ref())
            .filter(|pod| is_unknown && self.stand_ins.contains(&Owner::Workload((*pod).clone())))
            .and_then(|pod| self.inventory.workloads().get(pod))
            .and_then(|pod| {
                let mut own = pod.own_addresses().iter();
                own.find(|address| family_of(**address) == family)
            });
        self.point(*assumed.unwrap_or(&backend.address), None)
    }

    /// The Services that have connections, in the order of their names.
    pub(super) fn service_ids(&self) -> impl Iterator<Item = String> {
        self.inventory.services().keys().map(id)
    }

    /// The Service of a name as an end.
    pub(super) fn service(&self, name: &str) -> Result<End, UnknownEnd> {
        let text = Shown(&format!("{SERVICE}/{name}")).to_string();
        let mut named = named(&self.services, name);
        let Some(service) = named.next() else {
            return Err(UnknownEnd::Absent {
                near: self.near_service(name),
                text,
                what: "Service",
            });
        };
        if let Some(second) = named.next() {
            return Err(UnknownEnd::Several {
                text,
                first: id(&service.name),
                second: id(&second.name),
            });
        }
        if service.kind == ServiceKind::ExternalName {
            return Err(UnknownEnd::ExternalName { text });
        }
        Ok(self.service_end(service))
    }

    /// The Service whose name is nearest to this.
    fn near_service(&self, name: &str) -> Option<String> {
        let all = || self.inventory.services().keys();
        let called = |service: &ObjectName| match name.contains('/') {
            true => service.to_string(),
            false => service.name.to_string(),
        };
        let known: Vec<String> = all().map(called).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let near = nearest(name, &known)?;
        all().find(|service| called(service) == near).map(id)
    }

    /// The end of a name, as one that opens connections.
    ///
    /// # Errors
    /// A name that stands for nothing, or for a Service.
    pub fn sender(&self, text: &str, externals: &Externals) -> Result<End, UnknownEnd> {
        let end = self.end(text, externals)?;
        if end.kind() == EndKind::Service {
            return Err(UnknownEnd::Sends {
                text: Shown(text).to_string(),
            });
        }
        Ok(end)
    }
}

/// The name of a Service as an end.
fn id(name: &ObjectName) -> String {
    format!("{SERVICE}/{name}")
}

/// The rest of a text that may name a Service.
pub(super) fn service_name(text: &str) -> Option<&str> {
    text.strip_prefix(SERVICE)?.strip_prefix('/')
}

/// The Services of a name: `namespace/name`, or a name alone, which several may have.
pub(super) fn named<'s>(
    services: &'s Services,
    name: &str,
) -> impl Iterator<Item = &'s Arc<Service>> {
    let all = services.inventory().services().shared();
    let (full, short) = match name.split_once('/') {
        Some((namespace, name)) => (all.get(&ObjectName::new(namespace, name)), None),
        None => (None, Some(name.to_owned())),
    };
    let of_short = move |service: &&Arc<Service>| {
        (short.as_ref()).is_some_and(|short| *short == *service.name.name)
    };
    full.into_iter().chain(all.values().filter(of_short))
}

/// The backends of a Service for what is tried.
pub(super) fn behind(
    services: &Services,
    service: &Service,
    probe: Probe,
    family: Family,
) -> Vec<Backend> {
    if service.kind == ServiceKind::Headless {
        return services.members(service, family);
    }
    let ports = service.ports.iter();
    let asked = ports.filter(|port| probe.port() == Some((port.protocol, port.port)));
    let mut all: Vec<Backend> = asked
        .flat_map(|port| services.backends(service, port, family))
        .collect();
    all.sort();
    all.dedup();
    all
}
