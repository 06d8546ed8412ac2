//! The desired state: what is there, and what the policies say of it.
//!
//! Pure data, already validated, without a trace of YAML but the places that
//! verdicts and diagnostics name. Documents become an [`Inventory`]; so may
//! workloads that no document describes, and either is what the compiler reads.
//! [`selectors`] say which labels a policy means, [`services`] where connections to
//! Services end; a [`shared_map`] makes copies of all this cheap.
//!
//! The crate must not know how an inventory comes about, nor which table follows: no
//! text, no file, no clock.
//!
//! Invariants: every namespace that a workload or policy lies in is there, with
//! its `kubernetes.io/metadata.name`; everything is in the order of its names;
//! no two workloads that still run, and no workload and node, share an address.

#![forbid(unsafe_code)]

mod cluster;
pub mod selectors;
mod service;
pub mod services;
pub mod shared_map;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_syntax::diagnostic::Place;
use cofferdam_syntax::shared_text::shared;
use ipnet::IpNet;
use thiserror::Error;

use crate::selectors::{LabelSelector, Labels};
use crate::shared_map::{Objects, SharedMap};

pub use cluster::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, MAX_PRIORITY, RuleAction, Tier,
    WorkloadSelector,
};
pub use service::{
    Endpoint, EndpointPort, EndpointSlice, Families, Service, ServiceKind, ServicePort, TargetPort,
    family_of,
};

/// The label that every namespace carries, with its own name as the value.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; "" of an object of the whole cluster.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl ObjectName {
    /// A name from its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: shared(namespace),
            name: Arc::from(name),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A protocol that ports can be given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Returns the word in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Reads the word in documents.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// A port of a workload that has a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: Box<str>,
    /// The protocol; a rule's must be the same.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
}

/// A workload: a pod, or a container that a runtime announced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: Labels,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// `true` if it shares its node's network: then no selector matches it, and its addresses
    /// are the node's.
    pub host_network: bool,
    /// `true` if it has ended, and given up its addresses.
    pub finished: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports that have names.
    pub ports: Vec<NamedPort>,
}

impl Workload {
    /// Returns a workload that runs nowhere and has no address yet, only a name and labels.
    #[must_use]
    pub fn supposed(name: ObjectName, labels: Labels) -> Self {
        Self {
            name,
            labels,
            node: None,
            host_network: false,
            finished: false,
            addresses: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// Returns `true` if selectors can match it and its addresses are its own.
    #[must_use]
    pub fn is_selectable(&self) -> bool {
        !self.host_network && !self.finished
    }

    /// The addresses that are its own; none when it ended or shares its node's.
    #[must_use]
    pub fn own_addresses(&self) -> &[IpAddr] {
        if self.is_selectable() {
            &self.addresses
        } else {
            &[]
        }
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Mode of a policy: enforced or only judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Its verdicts are in force.
    #[default]
    Enforce,
    /// `cofferdam.dev/mode: audit`: judged, counted and reported, not in force.
    Audit,
}

/// A namespace, as policies see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Its labels, that of its name among them.
    pub labels: Labels,
    /// Mode of all policies, of either kind, for the workloads in it.
    pub enforcement: Mode,
}

impl From<&Labels> for Namespace {
    /// A namespace with these labels, in which policies are enforced.
    fn from(labels: &Labels) -> Self {
        Self {
            labels: labels.clone(),
            enforcement: Mode::Enforce,
        }
    }
}

/// A `NetworkPolicy` with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its name.
    pub name: ObjectName,
    /// Place of its `spec`.
    pub place: Place,
    /// Mode: enforced or only judged.
    pub mode: Mode,
    /// The workloads of its namespace that it selects.
    pub subject: LabelSelector,
    /// Rules for traffic towards its subjects; `None` when it does not isolate them in this
    /// direction.
    pub ingress: Option<Vec<Rule>>,
    /// The same for traffic away from its subjects.
    pub egress: Option<Vec<Rule>>,
}

/// One allowing rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Place in its file.
    pub place: Place,
    /// Peers that the other end may be; `None` for anybody, never empty.
    pub peers: Option<Vec<Peer>>,
    /// Ports that it covers; `None` for every packet, never empty.
    pub ports: Option<Vec<PortRange>>,
}

impl NetworkPolicy {
    /// Its place, and those of its rules.
    pub fn places_mut(&mut self) -> impl Iterator<Item = &mut Place> {
        let rules = self.ingress.iter_mut().chain(&mut self.egress).flatten();
        iter::once(&mut self.place).chain(rules.map(|rule| &mut rule.place))
    }
}

impl Hash for NetworkPolicy {
    /// Feeds all but the places: policies that say the same have the same hash.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            name,
            place: _,
            mode,
            subject,
            ingress,
            egress,
        } = self;
        (name, mode, subject, ingress, egress).hash(state);
    }
}

impl Hash for Rule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            place: _,
            peers,
            ports,
        } = self;
        (peers, ports).hash(state);
    }
}

impl NetworkPolicy {
    /// Returns `true` if two policies differ in nothing but the places they stand in.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let rules = |a: &Option<Vec<Rule>>, b: &Option<Vec<Rule>>| match (a, b) {
            (Some(a), Some(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b)
                        .all(|(a, b)| a.peers == b.peers && a.ports == b.ports)
            }
            (None, None) => true,
            _ => false,
        };
        self.name == other.name
            && self.mode == other.mode
            && self.subject == other.subject
            && rules(&self.ingress, &other.ingress)
            && rules(&self.egress, &other.egress)
    }
}

/// Other end that a rule may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Workloads by their labels and their namespace's.
    Workloads {
        /// The namespaces; `None` for the policy's own.
        namespaces: Option<LabelSelector>,
        /// The workloads in them.
        workloads: LabelSelector,
    },
    /// Every end with an address in a block, workloads included.
    Block {
        /// The block, host bits cleared.
        cidr: IpNet,
        /// Networks that are cut out of it, host bits cleared, in order.
        except: Vec<IpNet>,
    },
}

/// Ports that a rule covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports of it.
    pub ports: Ports,
}

/// Ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every port.
    All,
    /// The numbers from first to last, both included.
    Range(u16, u16),
    /// The port that the destination workload calls by this name.
    Named(Box<str>),
}

/// Owner of an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A workload.
    Workload(ObjectName),
    /// A node.
    Node(Arc<str>),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => write!(f, "workload {name}"),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// An address cannot have two owners.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("address {address} of {claimant} already belongs to {owner}")]
pub struct AddressTaken {
    /// The address.
    pub address: IpAddr,
    /// Present owner.
    pub owner: Owner,
    /// Owner that claimed it too.
    pub claimant: Owner,
}

/// An address's owner, with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A workload that has the address to itself.
    Workload(Arc<Workload>),
    /// A node, by its name.
    Node(Arc<str>, Arc<Node>),
}

impl Holder {
    /// Returns the owner.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match self {
            Self::Workload(workload) => Owner::Workload(workload.name.clone()),
            Self::Node(name, _) => Owner::Node(name.clone()),
        }
    }
}

/// Everything that policies are about, and the policies.
///
/// A copy shares with the original what neither changes; see [`SharedMap`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    namespaces: Objects<Arc<str>, Namespace>,
    /// Mode of all policies, whatever their namespace.
    enforcement: Mode,
    workloads: Objects<ObjectName, Workload>,
    nodes: Objects<Arc<str>, Node>,
    policies: Objects<ObjectName, NetworkPolicy>,
    cluster_policies: Objects<Arc<str>, ClusterNetworkPolicy>,
    services: Objects<ObjectName, Service>,
    slices: Objects<ObjectName, EndpointSlice>,
    holders: SharedMap<IpAddr, Holder>,
}

impl Inventory {
    /// The namespaces by name.
    #[must_use]
    pub fn namespaces(&self) -> &Objects<Arc<str>, Namespace> {
        &self.namespaces
    }

    /// The mode of all policies: with [`Mode::Audit`] none denies anything, whatever its
    /// namespace says.
    #[must_use]
    pub fn enforcement(&self) -> Mode {
        self.enforcement
    }

    /// Sets the mode of all policies.
    pub fn set_enforcement(&mut self, mode: Mode) {
        self.enforcement = mode;
    }

    /// Returns the mode of all policies for the workloads of a namespace: what they deny them
    /// is only reported where it is [`Mode::Audit`].
    #[must_use]
    pub fn enforcement_in(&self, namespace: &str) -> Mode {
        let own = self.namespaces.get(namespace);
        // The stricter setting has no say: either alone puts the namespace on audit.
        own.map_or(self.enforcement, |own| {
            self.enforcement.max(own.enforcement)
        })
    }

    /// The workloads by name.
    #[must_use]
    pub fn workloads(&self) -> &Objects<ObjectName, Workload> {
        &self.workloads
    }

    /// The nodes by name.
    #[must_use]
    pub fn nodes(&self) -> &Objects<Arc<str>, Node> {
        &self.nodes
    }

    /// The policies by name.
    #[must_use]
    pub fn policies(&self) -> &Objects<ObjectName, NetworkPolicy> {
        &self.policies
    }

    /// The policies of the whole cluster by name.
    #[must_use]
    pub fn cluster_policies(&self) -> &Objects<Arc<str>, ClusterNetworkPolicy> {
        &self.cluster_policies
    }

    /// The Services by name.
    #[must_use]
    pub fn services(&self) -> &Objects<ObjectName, Service> {
        &self.services
    }

    /// The slices of endpoints by name.
    #[must_use]
    pub fn slices(&self) -> &Objects<ObjectName, EndpointSlice> {
        &self.slices
    }

    /// All addresses that somebody owns, in order.
    #[must_use]
    pub fn holders(&self) -> &SharedMap<IpAddr, Holder> {
        &self.holders
    }

    /// Returns the owner of an address: the workload that has it to itself, or a node.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.holders.get(&address).map(Holder::owner)
    }

    /// Adds a namespace or replaces it.
    pub fn set_namespace(&mut self, name: &str, namespace: impl Into<Namespace>) {
        let namespace = namespace.into();
        // The label is the system's: what a document says there does not count.
        let namespace = Namespace {
            labels: namespace.labels.with(NAMESPACE_NAME_LABEL, name),
            ..namespace
        };
        self.namespaces.insert(Arc::from(name), namespace);
    }

    /// Takes back what was said of a namespace: it goes, unless something lies in it;
    /// then it has its name's label alone.
    pub fn forget_namespace(&mut self, name: &str) {
        let first = ObjectName::new(name, "");
        let lies_there = |other: Option<&ObjectName>| {
            other.is_some_and(|other| other.namespace == first.namespace)
        };
        let workload = self.workloads.starting_at(&first).next();
        let policy = self.policies.starting_at(&first).next();
        let is_used =
            lies_there(workload.map(|(name, _)| name)) || lies_there(policy.map(|(name, _)| name));
        if !is_used {
            self.namespaces.remove(name);
            return;
        }
        let bare = Namespace {
            labels: Labels::default().with(NAMESPACE_NAME_LABEL, name),
            ..Namespace::default()
        };
        if self.namespaces.get(name) != Some(&bare) {
            self.namespaces.insert(first.namespace, bare);
        }
    }

    /// Adds a workload or replaces the one of that name.
    ///
    /// # Errors
    /// [`AddressTaken`] when somebody else has one of its addresses; then nothing
    /// changes.
    pub fn set_workload(&mut self, workload: impl Into<Arc<Workload>>) -> Result<(), AddressTaken> {
        let workload = workload.into();
        let owner = Owner::Workload(workload.name.clone());
        self.check(&owner, workload.own_addresses())?;
        self.remove_workload(&workload.name);
        self.refer_to_namespace(&workload.name.namespace);
        for &address in workload.own_addresses() {
            let holder = Holder::Workload(workload.clone());
            self.holders.insert(address, holder);
        }
        self.workloads.insert(workload.name.clone(), workload);
        Ok(())
    }

    /// Removes a workload, if it is there.
    pub fn remove_workload(&mut self, name: &ObjectName) -> Option<Arc<Workload>> {
        let workload = self.workloads.remove(name)?;
        for address in workload.own_addresses() {
            self.holders.remove(address);
        }
        Some(workload)
    }

    /// Adds a node or replaces the one of that name.
    ///
    /// # Errors
    /// [`AddressTaken`] when somebody else has one of its addresses; then nothing
    /// changes.
    pub fn set_node(&mut self, name: &str, node: impl Into<Arc<Node>>) -> Result<(), AddressTaken> {
        let node = node.into();
        let name: Arc<str> = Arc::from(name);
        let owner = Owner::Node(name.clone());
        self.check(&owner, &node.addresses)?;
        self.remove_node(&name);
        for &address in &node.addresses {
            let holder = Holder::Node(name.clone(), node.clone());
            self.holders.insert(address, holder);
        }
        self.nodes.insert(name, node);
        Ok(())
    }

    /// Removes a node, if it is there.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let node = self.nodes.remove(name)?;
        for address in &node.addresses {
            self.holders.remove(address);
        }
        Some(node)
    }

    /// Adds a policy or replaces the one of that name.
    pub fn set_policy(&mut self, policy: impl Into<Arc<NetworkPolicy>>) {
        let policy = policy.into();
        self.refer_to_namespace(&policy.name.namespace);
        self.policies.insert(policy.name.clone(), policy);
    }

    /// Removes a policy, if it is there.
    pub fn remove_policy(&mut self, name: &ObjectName) -> Option<Arc<NetworkPolicy>> {
        self.policies.remove(name)
    }

    /// Adds a policy of the whole cluster or replaces the one of that name.
    pub fn set_cluster_policy(&mut self, policy: impl Into<Arc<ClusterNetworkPolicy>>) {
        let policy = policy.into();
        self.cluster_policies.insert(policy.name.clone(), policy);
    }

    /// Removes a policy of the whole cluster, if it is there.
    pub fn remove_cluster_policy(&mut self, name: &str) -> Option<Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.remove(name)
    }

    /// Adds a Service or replaces the one of that name.
    ///
    /// Its addresses have no owner here: who owns an address is there under it, and what
    /// is sent to a Service's arrives somewhere else.
    pub fn set_service(&mut self, service: impl Into<Arc<Service>>) {
        let service = service.into();
        self.services.insert(service.name.clone(), service);
    }

    /// Removes a Service, if it is there.
    pub fn remove_service(&mut self, name: &ObjectName) -> Option<Arc<Service>> {
        self.services.remove(name)
    }

    /// Adds a slice of endpoints or replaces the one of that name.
    pub fn set_slice(&mut self, name: ObjectName, slice: impl Into<Arc<EndpointSlice>>) {
        self.slices.insert(name, slice.into());
    }

    /// Removes a slice of endpoints, if it is there.
    pub fn remove_slice(&mut self, name: &ObjectName) -> Option<Arc<EndpointSlice>> {
        self.slices.remove(name)
    }

    /// The same workloads and nodes under another's policies, and with its namespaces and
    /// Services alone: whoever lies in one that the other does not know has to be set again, or
    /// [`Inventory::refer_to_namespace`] be called for it.
    #[must_use]
    pub fn with_policies_of(&self, other: &Self) -> Self {
        Self {
            namespaces: other.namespaces.clone(),
            enforcement: other.enforcement,
            policies: other.policies.clone(),
            cluster_policies: other.cluster_policies.clone(),
            services: other.services.clone(),
            slices: other.slices.clone(),
            ..self.clone()
        }
    }

    /// The same, but for who is behind Services: as in another inventory.
    #[must_use]
    pub fn with_slices_of(&self, other: &Self) -> Self {
        Self {
            slices: other.slices.clone(),
            ..self.clone()
        }
    }

    /// Shares what is the same with a state that was made apart from it; see
    /// [`SharedMap::share_with`].
    pub fn share_with(&mut self, other: &Self) {
        self.namespaces.share_with(&other.namespaces);
        self.workloads.share_with(&other.workloads);
        self.nodes.share_with(&other.nodes);
        self.policies.share_with(&other.policies);
        self.cluster_policies.share_with(&other.cluster_policies);
        self.services.share_with(&other.services);
        self.slices.share_with(&other.slices);
        self.holders.share_with(&other.holders);
    }

    /// Makes sure that there is a namespace: one that is only referred to has its name's
    /// label alone.
    pub fn refer_to_namespace(&mut self, name: &str) {
        if !self.namespaces.contains_key(name) {
            self.set_namespace(name, Namespace::default());
        }
    }

    fn check(&self, claimant: &Owner, addresses: &[IpAddr]) -> Result<(), AddressTaken> {
        for &address in addresses {
            if let Some(owner) = self.owner(address).filter(|owner| owner != claimant) {
                return Err(AddressTaken {
                    address,
                    owner,
                    claimant: claimant.clone(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, addresses: &[&str]) -> Workload {
        Workload {
            name: ObjectName::new("x", name),
            labels: Labels::default(),
            node: None,
            host_network: false,
            finished: false,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_namespace_that_is_only_referred_to_exists() {
        let mut inventory = Inventory::default();
        inventory.set_workload(workload("a", &[])).unwrap();
        assert_eq!(
            inventory.namespaces()["x"].labels.get(NAMESPACE_NAME_LABEL),
            Some("x")
        );
    }

    #[test]
    fn a_document_cannot_give_a_namespace_another_name() {
        let mut inventory = Inventory::default();
        let forged = Labels::from_iter([(NAMESPACE_NAME_LABEL, "kube-system"), ("a", "1")]);
        inventory.set_namespace("x", &forged);
        assert_eq!(
            inventory.namespaces()["x"].labels.get(NAMESPACE_NAME_LABEL),
            Some("x")
        );
        assert_eq!(inventory.namespaces()["x"].labels.get("a"), Some("1"));
    }

    #[test]
    fn an_address_has_one_owner() {
        let mut inventory = Inventory::default();
        inventory
            .set_workload(workload("a", &["10.0.0.1"]))
            .unwrap();
        assert!(
            inventory
                .set_workload(workload("b", &["10.0.0.1"]))
                .is_err()
        );
        let node = Node {
            labels: Labels::default(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
        };
        assert!(inventory.set_node("n", node.clone()).is_err());
        inventory
            .set_workload(workload("a", &["10.0.0.2"]))
            .unwrap();
        inventory.set_node("n", node).unwrap();
        assert_eq!(
            inventory.owner("10.0.0.1".parse().unwrap()),
            Some(Owner::Node(Arc::from("n")))
        );
    }

    #[test]
    fn a_finished_workload_gives_up_its_address() {
        let mut inventory = Inventory::default();
        let mut finished = workload("a", &["10.0.0.1"]);
        finished.finished = true;
        inventory.set_workload(finished).unwrap();
        inventory
            .set_workload(workload("b", &["10.0.0.1"]))
            .unwrap();
        inventory.remove_workload(&ObjectName::new("x", "a"));
        assert_eq!(
            inventory.owner("10.0.0.1".parse().unwrap()),
            Some(Owner::Workload(ObjectName::new("x", "b")))
        );
    }
}
