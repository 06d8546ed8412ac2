//! What this node makes of the documents: local endpoints and its own addresses on
//! top of them. Pure.
//!
//! What is plugged into this machine is known here better than any document knows
//! it: an address of a local endpoint, or of the node itself, is taken from whoever
//! else claims it, with a warning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_policies::inventory::{Inventory, Node, ObjectName, Owner, Workload};

use crate::endpoint::Endpoint;
use crate::output::{Diagnostic, Severity};

/// The desired state of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Everything that policies are about, and the policies.
    pub inventory: Inventory,
    /// Workloads with an endpoint here.
    pub local: BTreeSet<ObjectName>,
    /// Claims of documents that do not count.
    pub warnings: Vec<Diagnostic>,
}

/// A desired state, and what it was made of: the next one is mostly the same.
#[derive(Debug, Clone, Default)]
pub struct Made {
    documents: Inventory,
    endpoints: Vec<Endpoint>,
    node_addresses: Vec<IpAddr>,
    /// The desired state.
    pub desired: Desired,
}

impl Made {
    /// What [`desired`] makes of these, sharing with this one what is the same.
    #[must_use]
    pub fn next(
        &self,
        documents: &Inventory,
        endpoints: Vec<Endpoint>,
        node: &str,
        node_addresses: Vec<IpAddr>,
    ) -> Self {
        let desired = if documents.has_same_owners(&self.documents)
            && endpoints == self.endpoints
            && node_addresses == self.node_addresses
        {
            Desired {
                inventory: self.desired.inventory.with_policies_of(documents),
                ..self.desired.clone()
            }
        } else {
            let mut desired = desired(documents, &endpoints, node, &node_addresses);
            desired.inventory.share_with(&self.desired.inventory);
            desired
        };
        Self {
            documents: documents.clone(),
            endpoints,
            node_addresses,
            desired,
        }
    }
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
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(workload);
            }
            // A workload's second interface: its labels are those of the first.
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                entry.get_mut().addresses.extend(workload.addresses);
            }
        }
    }
    for workload in workloads.values_mut() {
        if let Some(document) = documents.workloads().get(&workload.name) {
            workload.labels = document.labels.clone();
            workload.ports.clone_from(&document.ports);
        }
        desired.inventory.remove_workload(&workload.name);
    }
    for workload in workloads.into_values() {
        let owner = Owner::Workload(workload.name.clone());
        for address in &workload.addresses {
            desired.evict(*address, &owner);
        }
        desired.local.insert(workload.name.clone());
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
        let code = cofferdam_policies::diagnostic::Code::AddressConflict;
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
mod tests {
    use super::*;
    use crate::endpoint::{EndpointId, EndpointLink};
    use cofferdam_policies::documents::{assemble, parse};

    fn documents(text: &str) -> Inventory {
        let parsed = parse("f", text.as_bytes());
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.diagnostics);
        assemble(parsed.documents).inventory
    }

    fn endpoint(name: &str, interface: &str, address: &str) -> Endpoint {
        Endpoint {
            id: EndpointId {
                namespace: "x".to_owned(),
                name: name.to_owned(),
                interface: interface.to_owned(),
            },
            link: EndpointLink {
                netns: "/n".into(),
                netns_inode: 1,
                inner_ifindex: 2,
                mac: [2; 6],
                host_ifindex: 3,
                host_interface: "v".to_owned(),
                host_mac: [4; 6],
            },
            addresses: vec![address.parse().unwrap()],
            labels: BTreeMap::from([("from".to_owned(), "call".to_owned())]),
            ports: Vec::new(),
            incarnation: 1,
        }
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
            endpoint("a", "eth0", "10.0.0.1"),
            endpoint("b", "eth0", "10.0.0.2"),
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
    fn what_was_made_before_changes_nothing() {
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, \
                      namespace: x}\nspec: {podSelector: {}}\n";
        let endpoints = ["a", "b"].map(|name| endpoint(name, "eth0", "10.0.0.1"));
        let node: Vec<IpAddr> = vec!["10.0.0.6".parse().unwrap()];
        let mut before = Made::default();
        for text in [
            PODS.to_owned(),
            format!("{PODS}---\n{policy}"),
            format!("{PODS}---\n{policy}").replace("name: p,", "name: q,"),
            policy.to_owned(),
            PODS.replace("10.0.0.7", "10.0.0.8"),
        ] {
            for (endpoints, node) in [
                (&endpoints[..0], &node[..]),
                (&endpoints[..1], &node),
                (&endpoints[1..], &node),
                (&endpoints[1..], &node[..0]),
            ] {
                let read = documents(&text);
                let made = before.next(&read, endpoints.to_vec(), "n1", node.to_vec());
                assert_eq!(made.desired, desired(&read, endpoints, "n1", node));
                // Only policies differ, if anything does.
                let mut same_owners = read.clone();
                same_owners.remove_policy(&ObjectName::new("x", "p"));
                let again = made.next(&same_owners, endpoints.to_vec(), "n1", node.to_vec());
                assert_eq!(again.desired, desired(&same_owners, endpoints, "n1", node));
                before = made;
            }
        }
    }

    #[test]
    fn interfaces_of_one_workload_are_one_workload() {
        let endpoints = [
            endpoint("a", "eth0", "10.0.0.1"),
            endpoint("a", "net1", "10.9.0.1"),
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
        let endpoints = [endpoint("b", "eth0", "10.0.0.2")];
        let desired = desired(&documents, &endpoints, "n1", &addresses);
        let node = &desired.inventory.nodes()["n1"];
        assert_eq!(node.addresses, addresses[1..]);
        assert!(desired.inventory.nodes()["other"].addresses.is_empty());
        assert_eq!(desired.warnings.len(), 2);
    }
}
