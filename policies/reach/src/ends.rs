//! Ends of connections: who they are, and what they are called.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::hints::nearest;
use cofferdam_documents::reader::Shown;
use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::services::{Backend, Services};
use cofferdam_inventory::{Inventory, ObjectName, Owner, Service, Workload};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::table::Profile;
use thiserror::Error;

use super::service::{behind, named, service_name};
use super::{Probe, Reach};

/// Addresses of outside hosts, by the names they are given for one question.
pub type Externals = BTreeMap<String, Vec<IpAddr>>;

/// Kind of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndKind {
    /// A pod.
    Pod,
    /// A node.
    Node,
    /// A Service, whose backends are judged in its place.
    Service,
    /// Anything else that has an address.
    External,
}

impl EndKind {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Service => "service",
            Self::External => "external",
        }
    }
}

/// Sender or receiver.
#[derive(Debug, Clone)]
pub struct End {
    pub(super) id: String,
    pub(super) kind: EndKind,
    pub(super) assumed: bool,
    pub(super) points: Vec<Point>,
    /// The Service that it is by name.
    pub(super) service: Option<Arc<Service>>,
}

/// One address of an end, and what is known of it.
#[derive(Debug, Clone)]
pub struct Point {
    pub(super) address: IpAddr,
    pub(super) profile: Profile,
    /// The workload that has the address to itself, by its position.
    pub(super) workload: Option<u32>,
    /// The node that this is, or that the workload runs on.
    pub(super) node: Option<Arc<str>>,
    /// Packets to it may go elsewhere.
    pub(super) may_be_translated: bool,
}

impl Point {
    /// Returns `true` if policies select the owner of the address.
    pub(super) fn is_subject(&self) -> bool {
        self.workload.is_some()
    }

    /// Returns its peer atom, and the subject class if policies select the owner of the address.
    #[must_use]
    pub fn atom(&self) -> (u32, Option<u32>) {
        let class = self.is_subject().then_some(self.profile.class);
        (self.profile.atom, class)
    }

    /// The workload that has the address to itself, by its position.
    #[must_use]
    pub fn position(&self) -> Option<u32> {
        self.workload
    }
}

impl End {
    /// The node whose network a pod shares: as that it is judged, and no selector
    /// matches it.
    #[must_use]
    pub fn host_of_network(&self) -> Option<&str> {
        let is_shared = self.kind == EndKind::Pod && !self.points.iter().any(Point::is_subject);
        let node = self.points.iter().find_map(|point| point.node.as_deref());
        node.filter(|_| is_shared)
    }

    /// `namespace/pod`, `node/NAME`, `service/NAMESPACE/NAME`, `external/NAME`, or an address.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> EndKind {
        self.kind
    }

    /// Its addresses, in the order of the documents.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = IpAddr> {
        self.points.iter().map(|point| point.address)
    }

    /// Returns `true` if no document gives it an address, so that others stand in.
    #[must_use]
    pub fn is_assumed(&self) -> bool {
        self.assumed
    }

    /// Returns `true` if it has an address of this family, or is a Service that will have one.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        match &self.service {
            Some(service) => service.families.has(family),
            None => self.points(family).next().is_some(),
        }
    }

    /// The Service that it is, if it was called by a Service's name.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        self.service.as_deref()
    }

    /// Returns `true` if packets to it may go elsewhere.
    #[must_use]
    pub fn may_be_translated(&self) -> bool {
        self.service.is_some() || self.points.iter().any(|point| point.may_be_translated)
    }

    /// Returns the peer atom of each of its addresses of a family, and the subject class if
    /// policies select the owner of the address.
    pub fn atoms(&self, family: Family) -> impl Iterator<Item = (u32, Option<u32>)> {
        self.points(family).map(Point::atom)
    }

    /// The workloads that have its addresses to themselves, by their positions.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        self.points.iter().filter_map(Point::position)
    }

    pub(super) fn points(&self, family: Family) -> impl Iterator<Item = &Point> {
        let wanted = family == Family::V4;
        (self.points.iter()).filter(move |point| point.address.is_ipv4() == wanted)
    }
}

/// A name that stands for no end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnknownEnd {
    /// It has none of the forms.
    #[error(
        "`{text}` is not an end: write namespace/pod, node/NAME, service/NAMESPACE/NAME, external/NAME or an address{}",
        did_you_mean(.near)
    )]
    Form {
        /// The text.
        text: String,
        /// Name that was probably meant.
        near: Option<String>,
    },
    /// No such pod or node is in the documents.
    #[error("there is no {what} `{text}`{}", did_you_mean(.near))]
    Absent {
        /// The text.
        text: String,
        /// `pod`, `node` or `Service`.
        what: &'static str,
        /// Name that was probably meant.
        near: Option<String>,
    },
    /// No address was given for this outside host.
    #[error("nothing says which addresses `{text}` has{}", did_you_mean(.near))]
    External {
        /// The text.
        text: String,
        /// Name that was probably meant.
        near: Option<String>,
    },
    /// Several Services have the name.
    #[error("`{text}` is several Services: {first}, {second}")]
    Several {
        /// The text.
        text: String,
        /// The first of them.
        first: String,
        /// The second.
        second: String,
    },
    /// The Service has no address and no backends.
    #[error("`{text}` is a name for another name: it has no address and nobody behind it")]
    ExternalName {
        /// The text.
        text: String,
    },
    /// A Service cannot be who sends.
    #[error("`{text}` is a Service, which opens no connections: name a pod behind it")]
    Sends {
        /// The text.
        text: String,
    },
    /// The pod has ended, and has no address any more.
    #[error("pod `{text}` has ended, and given up its addresses")]
    Finished {
        /// The text.
        text: String,
    },
}

fn did_you_mean(near: &Option<String>) -> String {
    match near {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    }
}

/// The workloads that an end of this name is, or that what is tried there may end at.
pub(super) fn subjects(
    services: &Services,
    end: &str,
    externals: &Externals,
    probe: Probe,
) -> Vec<ObjectName> {
    let inventory = services.inventory();
    let owned = |address: &IpAddr| match inventory.owner(*address) {
        Some(Owner::Workload(name)) => Some(name),
        Some(Owner::Node(_)) | None => None,
    };
    let of_backend = |backend: Backend| owned(&backend.address).or(backend.pod);
    let at = |address: &IpAddr| {
        let translated = services.translate(*address, probe.port());
        let backends = translated.into_iter().flatten().filter_map(of_backend);
        owned(address)
            .into_iter()
            .chain(backends)
            .collect::<Vec<_>>()
    };
    let of_node = |name: &str| {
        let node = inventory.nodes().get(name);
        let addresses = node.map_or(&[][..], |node| node.addresses.as_slice());
        addresses.iter().flat_map(at).collect::<Vec<_>>()
    };
    if let Ok(address) = end.parse() {
        return at(&address);
    }
    let mut subjects = Vec::new();
    if let Some(name) = service_name(end) {
        for service in named(services, name) {
            for family in [Family::V4, Family::V6] {
                let backends = behind(services, service, probe, family);
                subjects.extend(backends.into_iter().filter_map(of_backend));
            }
        }
    }
    match end.split_once('/') {
        Some(("external", host)) => {
            let addresses = externals.get(host).into_iter().flatten();
            subjects.extend(addresses.flat_map(at));
        }
        Some((namespace, name)) => {
            if namespace == "node" {
                subjects.extend(of_node(name));
            }
            let name = ObjectName::new(namespace, name);
            if let Some(pod) = inventory
                .workloads()
                .get(&name)
                .filter(|pod| pod.host_network)
            {
                subjects.extend(pod.addresses.iter().flat_map(at));
                subjects.extend(pod.node.iter().flat_map(|node| of_node(node)));
            }
            subjects.push(name);
        }
        None => {}
    }
    subjects
}

/// Returns `true` if the node that a pod runs on is known.
pub(super) fn has_node(inventory: &Inventory, pod: &Workload) -> bool {
    (pod.node.as_ref()).is_some_and(|node| inventory.nodes().contains_key(node))
}

impl Reach {
    /// The pods and nodes of the inventory.
    pub(super) fn known_ends(&self) -> Vec<End> {
        let pods = self
            .inventory
            .workloads()
            .values()
            .filter(|pod| !pod.finished)
            .map(|pod| self.pod(pod));
        let nodes = self.inventory.nodes().keys().map(|name| self.node(name));
        pods.chain(nodes).collect()
    }

    fn pod(&self, pod: &Workload) -> End {
        let node = pod.node.as_ref();
        let (addresses, assumed_of) = if !pod.host_network {
            (pod.addresses.as_slice(), None)
        } else if let Some(node) = node.filter(|_| has_node(&self.inventory, pod)) {
            let addresses = self.inventory.nodes()[node].addresses.as_slice();
            (addresses, Some(Owner::Node(node.clone())))
        } else {
            (pod.addresses.as_slice(), None)
        };
        let assumed_of = assumed_of.unwrap_or_else(|| Owner::Workload(pod.name.clone()));
        let assumed = self.stand_ins.contains(&assumed_of);
        End {
            id: pod.name.to_string(),
            kind: EndKind::Pod,
            assumed,
            points: self.known_points(addresses, node, assumed),
            service: None,
        }
    }

    fn node(&self, name: &Arc<str>) -> End {
        let assumed = self.stand_ins.contains(&Owner::Node(name.clone()));
        let addresses = &self.inventory.nodes()[name].addresses;
        End {
            id: format!("node/{name}"),
            kind: EndKind::Node,
            assumed,
            points: self.known_points(addresses, Some(name), assumed),
            service: None,
        }
    }

    /// An outside host with these addresses.
    #[must_use]
    pub fn external(&self, name: &str, addresses: &[IpAddr]) -> End {
        End {
            id: format!("external/{name}"),
            kind: EndKind::External,
            assumed: false,
            points: self.points(addresses, None),
            service: None,
        }
    }

    /// Whatever has an address.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> End {
        End {
            id: address.to_string(),
            kind: match self.inventory.owner(address) {
                Some(Owner::Workload(_)) => EndKind::Pod,
                Some(Owner::Node(_)) => EndKind::Node,
                None if self.services.is_virtual(address) => EndKind::Service,
                None => EndKind::External,
            },
            assumed: false,
            points: self.points(&[address], None),
            service: None,
        }
    }

    /// The addresses of an end; of those that stand in, one of each kind that policies tell
    /// apart.
    fn known_points(
        &self,
        addresses: &[IpAddr],
        node: Option<&Arc<str>>,
        assumed: bool,
    ) -> Vec<Point> {
        let mut points = self.points(addresses, node);
        if assumed {
            let mut kinds = HashSet::new();
            points.retain(|point| kinds.insert((point.address.is_ipv4(), point.profile)));
        }
        points
    }

    pub(super) fn points(&self, addresses: &[IpAddr], node: Option<&Arc<str>>) -> Vec<Point> {
        (addresses.iter())
            .map(|address| self.point(*address, node))
            .collect()
    }

    /// The end of a name: `namespace/pod`, `node/NAME`, `service/NAMESPACE/NAME`,
    /// `external/NAME`, or an address. `service/NAME` will do where one Service has the
    /// name, and no pod of a namespace that is called `service`.
    ///
    /// # Errors
    /// A name that stands for nothing, with what was probably meant.
    pub fn end(&self, text: &str, externals: &Externals) -> Result<End, UnknownEnd> {
        if let Ok(address) = text.parse() {
            return Ok(self.address(address));
        }
        let shown = Shown(text).to_string();
        let Some((first, second)) = text.split_once('/') else {
            let near = (self.ends.iter())
                .find(|end| end.id.split_once('/').is_some_and(|(_, name)| name == text))
                .map(|end| end.id.clone())
                .or_else(|| self.near(text, externals));
            return Err(UnknownEnd::Form { text: shown, near });
        };
        let near = || self.near(text, externals);
        if first == "external" {
            return match externals.get(second) {
                Some(addresses) => Ok(self.external(second, addresses)),
                None => Err(UnknownEnd::External {
                    text: shown,
                    near: near(),
                }),
            };
        }
        if let Some(name) = service_name(text)
            && !(self.inventory.workloads()).contains_key(&ObjectName::new(first, second))
        {
            return self.service(name);
        }
        // A namespace may be called `node`; then a node of that name comes first.
        if first == "node"
            && let Some((name, _)) = self.inventory.nodes().get_key_value(second)
        {
            return Ok(self.node(name));
        }
        match self
            .inventory
            .workloads()
            .get(&ObjectName::new(first, second))
        {
            Some(pod) if pod.finished => Err(UnknownEnd::Finished { text: shown }),
            Some(pod) => Ok(self.pod(pod)),
            None => Err(UnknownEnd::Absent {
                text: shown,
                what: if first == "node" { "node" } else { "pod" },
                near: near(),
            }),
        }
    }

    /// The pods that selectors match, in the order of their names: none that has ended or
    /// shares its node's network.
    #[must_use]
    pub fn select(&self, namespaces: &LabelSelector, pods: &LabelSelector) -> Vec<End> {
        let all = self.inventory.workloads().values();
        let matching = all.filter(|pod| {
            let namespace = self.inventory.namespaces().get(&pod.name.namespace);
            pod.is_selectable()
                && namespace.is_some_and(|own| namespaces.matches(&own.labels))
                && pods.matches(&pod.labels)
        });
        matching.map(|pod| self.pod(pod)).collect()
    }

    /// The end whose name is nearest to this.
    pub(super) fn near(&self, text: &str, externals: &Externals) -> Option<String> {
        let externals: Vec<String> = (externals.keys())
            .map(|name| format!("external/{name}"))
            .chain(self.service_ids())
            .collect();
        let known: Vec<&str> = (self.ends.iter().map(|end| end.id.as_str()))
            .chain(externals.iter().map(String::as_str))
            .collect();
        nearest(text, &known).map(str::to_owned)
    }
}
