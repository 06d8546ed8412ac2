//! Desired state that this node makes of the documents: local endpoints and its own addresses
//! on top of them. Pure.
//!
//! Endpoints plugged into this machine are known here better than any document knows them: an
//! address of a local endpoint, or of the node itself, is taken from whoever else claims it,
//! with a warning.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::{Inventory, Mode, Node, ObjectName, Owner, Workload};
use cofferdam_protocol::output::{Diagnostic, Severity};

use crate::endpoint::Endpoint;

/// The desired state of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Everything that policies are about, and the policies.
    pub inventory: Inventory,
    /// Workloads with an endpoint here.
    pub local: Arc<BTreeSet<ObjectName>>,
    /// Claims of documents that do not count.
    pub warnings: Vec<Diagnostic>,
}

/// The node that a desired state is of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    name: String,
    addresses: Vec<IpAddr>,
}

/// A desired state, and what it was made of: the next one is mostly the same.
#[derive(Debug, Clone, Default)]
pub struct Made {
    documents: Inventory,
    endpoints: Vec<Arc<Endpoint>>,
    /// None as long as nothing was made.
    own: Option<Own>,
    /// The desired state.
    pub desired: Desired,
}

impl Made {
    /// Returns what [`desired`] makes of these, under the node's mode of policies, sharing with
    /// this one what is the same. The endpoints are in the order of their names.
    #[must_use]
    pub fn next(
        &self,
        documents: &Inventory,
        endpoints: Vec<Arc<Endpoint>>,
        node: &str,
        node_addresses: Vec<IpAddr>,
        enforcement: Mode,
    ) -> Self {
        let own = Own {
            name: node.to_owned(),
            addresses: node_addresses,
        };
        let mut desired = self.step(documents, &endpoints, &own).unwrap_or_else(|| {
            let endpoints = endpoints.iter().map(|endpoint| &**endpoint);
            let mut desired = desired(documents, endpoints, node, &own.addresses);
            desired.inventory.share_with(&self.desired.inventory);
            desired
        });
        desired.inventory.set_enforcement(enforcement);
        Self {
            documents: documents.clone(),
            endpoints,
            own: Some(own),
            desired,
        }
    }

    /// Returns `true` if these documents say nothing else of workloads with an endpoint here, and
    /// nobody claims what is this node's.
    #[must_use]
    pub fn is_same_here(&self, documents: &Inventory) -> bool {
        let before = self.documents.workloads().shared();
        let changes = before.changes(documents.workloads().shared());
        self.desired.warnings.is_empty()
            && !(changes.iter()).any(|change| self.desired.local.contains(change.key))
    }

    /// Returns the result that [`desired`] would make of these, at the price of the
    /// differences. None where nodes differ, or where two claim one address: then it takes all
    /// of them to say whose it is.
    fn step(
        &self,
        documents: &Inventory,
        endpoints: &[Arc<Endpoint>],
        own: &Own,
    ) -> Option<Desired> {
        if self.own.as_ref() != Some(own)
            || !self.desired.warnings.is_empty()
            || self.documents.nodes() != documents.nodes()
        {
            return None;
        }
        let mut inventory = self.desired.inventory.with_policies_of(documents);
        for endpoint in endpoints {
            inventory.refer_to_namespace(&endpoint.id.namespace);
        }
        let (before, after) = (self.documents.workloads(), documents.workloads());
        let documented = before.shared().changes(after.shared()).into_iter();
        let mut changed: BTreeSet<ObjectName> =
            documented.map(|change| change.key.clone()).collect();
        changed.extend(changed_workloads(&self.endpoints, endpoints));
        // All go before anybody comes: one may have another's address now.
        for name in &changed {
            inventory.remove_workload(name);
        }
        let mut local = self.desired.local.clone();
        for name in changed {
            let document = after.shared().get(&name);
            let workload = match local_workload(endpoints, &name, &own.name) {
                Some(mut workload) => {
                    if let Some(document) = document {
                        described(&mut workload, document);
                    }
                    Arc::make_mut(&mut local).insert(name);
                    Arc::new(workload)
                }
                None => {
                    if local.contains(&name) {
                        Arc::make_mut(&mut local).remove(&name);
                    }
                    let Some(document) = document else {
                        continue;
                    };
                    document.clone()
                }
            };
            inventory.set_workload(workload).ok()?;
        }
        Some(Desired {
            inventory,
            local,
            warnings: Vec::new(),
        })
    }
}

/// The workloads of endpoints that are not in both lists; these are in the order of the
/// endpoints' names.
fn changed_workloads(before: &[Arc<Endpoint>], after: &[Arc<Endpoint>]) -> Vec<ObjectName> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut changed = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return changed,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => Ordering::Equal,
            (Some(one), Some(other)) => one.id.cmp(&other.id),
        };
        let old = before.next_if(|_| order != Ordering::Greater);
        let new = after.next_if(|_| order != Ordering::Less);
        if old != new {
            changed.extend(old.or(new).map(|endpoint| endpoint.id.workload()));
        }
    }
}

/// A workload of endpoints here, as those who added them described it. Its labels are
/// those of its first interface.
fn local_workload(endpoints: &[Arc<Endpoint>], name: &ObjectName, node: &str) -> Option<Workload> {
    let key = (&*name.namespace, &*name.name);
    let key_of = |endpoint: &Arc<Endpoint>| {
        let id = &endpoint.id;
        (id.namespace.as_str(), id.name.as_str()).cmp(&key)
    };
    let first = endpoints.partition_point(|endpoint| key_of(endpoint).is_lt());
    let mut own = endpoints[first..]
        .iter()
        .take_while(|endpoint| key_of(endpoint).is_eq());
    let mut workload = own.next()?.workload(node);
    for endpoint in own {
        workload.addresses.extend(&endpoint.addresses);
    }
    Some(workload)
}

/// Takes labels and ports from the document of a workload's name, which says what the workload
/// is.
fn described(workload: &mut Workload, document: &Workload) {
    workload.labels = document.labels.clone();
    workload.ports.clone_from(&document.ports);
}

/// Puts endpoints and the node's addresses over the documents.
#[must_use]
pub fn desired<'e>(
    documents: &Inventory,
    endpoints: impl IntoIterator<Item = &'e Endpoint>,
    node: &str,
    node_addresses: &[IpAddr],
) -> Desired {
    let mut desired = Desired {
        inventory: documents.clone(),
        ..Desired::default()
    };
    let mut workloads: BTreeMap<ObjectName, Workload> = BTreeMap::new();
    for endpoint in endpoints {
        let workload = endpoint.workload(node);
        match workloads.entry(workload.name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(workload);
            }
            // A workload's second interface: its labels are those of the first.
            Entry::Occupied(mut entry) => {
                entry.get_mut().addresses.extend(workload.addresses);
            }
        }
    }
    for workload in workloads.values_mut() {
        if let Some(document) = documents.workloads().get(&workload.name) {
            described(workload, document);
        }
        desired.inventory.remove_workload(&workload.name);
    }
    // Those of others here are never taken.
    desired.local = Arc::new(workloads.keys().cloned().collect());
    for workload in workloads.into_values() {
        let owner = Owner::Workload(workload.name.clone());
        for address in &workload.addresses {
            desired.evict(*address, &owner);
        }
        if let Err(taken) = desired.inventory.set_workload(workload) {
            // Two endpoints with one address are refused when they are added.
            desired.warn(taken.to_string());
        }
    }
    desired.set_own_node(node, node_addresses);
    desired
}

impl Desired {
    fn set_own_node(&mut self, name: &str, addresses: &[IpAddr]) {
        let owner = Owner::Node(name.into());
        let documented = self.inventory.nodes().get(name);
        let mut own = documented.cloned().unwrap_or_default();
        let mut all = std::mem::take(&mut own.addresses);
        all.extend(addresses);
        all.sort();
        all.dedup();
        all.retain(|address| match self.inventory.owner(*address) {
            Some(Owner::Workload(workload)) if self.local.contains(&workload) => {
                self.warn(format!(
                    "address {address} of {owner} belongs to the endpoint of {workload} here"
                ));
                false
            }
            _ => true,
        });
        for address in &all {
            self.evict(*address, &owner);
        }
        if let Err(taken) = self.inventory.set_node(
            name,
            Node {
                addresses: all,
                ..own
            },
        ) {
            self.warn(taken.to_string());
        }
    }

    /// Takes an address from whoever has it by a document.
    fn evict(&mut self, address: IpAddr, by: &Owner) {
        let Some(owner) = self.inventory.owner(address).filter(|owner| owner != by) else {
            return;
        };
        let message = format!("address {address} of {owner} is that of {by} here");
        let set = match &owner {
            Owner::Workload(name) if self.local.contains(name) => return,
            Owner::Workload(name) => self.inventory.remove_workload(name).map(|workload| {
                let mut workload = Arc::unwrap_or_clone(workload);
                workload.addresses.retain(|one| *one != address);
                self.inventory.set_workload(workload)
            }),
            Owner::Node(name) => self.inventory.remove_node(name).map(|node| {
                let mut node = Arc::unwrap_or_clone(node);
                node.addresses.retain(|one| *one != address);
                self.inventory.set_node(name, node)
            }),
        };
        if let Some(Err(taken)) = set {
            self.warn(taken.to_string());
        }
        self.warn(message);
    }

    fn warn(&mut self, message: String) {
        let code = cofferdam_syntax::diagnostic::Code::AddressConflict;
        self.warnings.push(Diagnostic {
            code: code.as_str().to_owned(),
            severity: Severity::Warning,
            file: String::new(),
            line: 0,
            column: 0,
            message,
            hint: Some("what is on this node counts".to_owned()),
        });
    }
}

#[cfg(test)]
mod steps;

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_documents::{assemble, parse};

    fn documents(text: &str) -> Inventory {
        let parsed = parse("f", text.as_bytes());
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.diagnostics);
        assemble(parsed.documents).inventory
    }

    const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {from: document}}
spec: {containers: [{ports: [{name: serve, containerPort: 80}]}]}
status: {podIP: 10.0.0.9, phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: stale, namespace: x}
status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.7}]}
---
apiVersion: v1
kind: Node
metadata: {name: other}
status: {addresses: [{type: InternalIP, address: 10.0.0.5}]}
";

    #[test]
    fn a_document_gives_labels_and_ports_and_the_call_gives_addresses() {
        let documents = documents(PODS);
        let endpoints = [
            Endpoint::example("a", "eth0", "10.0.0.1"),
            Endpoint::example("b", "eth0", "10.0.0.2"),
        ];
        let desired = desired(&documents, &endpoints, "n1", &[]);
        let workload = |name: &str| &desired.inventory.workloads()[&ObjectName::new("x", name)];
        let a = workload("a");
        assert_eq!(a.labels.get("from"), Some("document"));
        assert_eq!(a.ports.len(), 1);
        assert_eq!(a.own_addresses(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(workload("b").labels.get("from"), Some("call"));
        assert_eq!(
            workload("stale").addresses,
            ["10.0.0.7".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(desired.warnings.len(), 1);
        assert_eq!(desired.local.len(), 2);
    }

    #[test]
    fn interfaces_of_one_workload_are_one_workload() {
        let endpoints = [
            Endpoint::example("a", "eth0", "10.0.0.1"),
            Endpoint::example("a", "net1", "10.9.0.1"),
        ];
        let desired = desired(&Inventory::default(), &endpoints, "n1", &[]);
        let workload = &desired.inventory.workloads()[&ObjectName::new("x", "a")];
        assert_eq!(workload.addresses.len(), 2);
        assert!(desired.warnings.is_empty());
    }

    #[test]
    fn the_node_has_its_own_addresses_but_never_an_endpoints() {
        let documents = documents(PODS);
        let addresses = ["10.0.0.2", "10.0.0.5", "10.0.0.6"].map(|a| a.parse().unwrap());
        let endpoints = [Endpoint::example("b", "eth0", "10.0.0.2")];
        let desired = desired(&documents, &endpoints, "n1", &addresses);
        let node = &desired.inventory.nodes()["n1"];
        assert_eq!(node.addresses, addresses[1..]);
        assert!(desired.inventory.nodes()["other"].addresses.is_empty());
        assert_eq!(desired.warnings.len(), 2);
    }
}
