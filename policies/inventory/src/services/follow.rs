//! From one desired state to the next, in proportion to what changed.
//!
//! Invariant: what comes of following is what indexing anew comes to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashSet;

use crate::{Inventory, ObjectName, Protocol, Service, Workload};

use super::Services;

/// Addresses and ports whose connections may end elsewhere than before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Addresses of Services.
    pub addresses: BTreeSet<IpAddr>,
    /// Ports of nodes.
    pub node_ports: BTreeSet<(Protocol, u16)>,
}

impl Moved {
    fn add(&mut self, service: &Service) {
        self.addresses.extend(service.addresses());
        let ports = service.ports.iter();
        let node_ports = ports.filter_map(|port| Some((port.protocol, port.node_port?)));
        self.node_ports.extend(node_ports);
    }
}

impl Services {
    /// Goes over to another state of the same cluster, and says what moved. `None` when
    /// all of it may have: nodes have changed, or a Service asks for labels that no other
    /// asked for.
    pub fn follow(&mut self, inventory: &Inventory) -> Option<Moved> {
        let before = std::mem::replace(&mut self.inventory, inventory.clone());
        let moved = self.changes(&before, inventory);
        if moved.is_none() {
            *self = Self::new(inventory);
        }
        moved
    }

    fn changes(&mut self, before: &Inventory, after: &Inventory) -> Option<Moved> {
        let nodes = before.nodes().shared().changes(after.nodes().shared());
        if !nodes.is_empty() || before.services().is_empty() {
            return None;
        }
        let mut moved = Moved::default();
        let services = before.services().shared();
        for change in services.changes(after.services().shared()) {
            if let Some(service) = change.before {
                moved.add(service);
                self.forget(service);
            }
            if let Some(service) = change.after {
                if !self.is_asked(service) {
                    return None;
                }
                moved.add(service);
                self.take(service);
            }
        }
        let slices = before.slices().shared();
        for change in slices.changes(after.slices().shared()) {
            for (slice, is_there) in [(change.before, false), (change.after, true)] {
                let Some(service) = slice.and_then(|slice| slice.service.clone()) else {
                    continue;
                };
                let service = ObjectName {
                    namespace: change.key.namespace.clone(),
                    name: service,
                };
                if let Some(service) = after.services().get(&service) {
                    moved.add(service);
                }
                let slices = self.slices.entry(service.clone()).or_default();
                match slice.filter(|_| is_there) {
                    Some(slice) => _ = slices.insert(change.key.name.clone(), slice.clone()),
                    None => _ = slices.remove(&change.key.name),
                }
                if slices.is_empty() {
                    self.slices.remove(&service);
                }
            }
        }
        let pods = before.workloads().shared();
        let changes = pods.changes(after.workloads().shared());
        let changed = (changes.iter())
            .flat_map(|change| [change.before, change.after])
            .flatten();
        self.touch(changed.map(|pod| &**pod), &mut moved);
        for change in changes {
            if let Some(pod) = change.before {
                self.index(pod, false);
            }
            if let Some(pod) = change.after {
                self.index(pod, true);
            }
        }
        if !moved.node_ports.is_empty() {
            // A Service may have a node's address: all ports of nodes are its ports, too.
            let addresses = self.by_address.keys().copied();
            let of_nodes = addresses.filter(|address| self.is_nodes(*address));
            moved.addresses.extend(of_nodes);
        }
        Some(moved)
    }

    /// Adds what leads to pods of which something is different, be it known here or not.
    pub fn touch<'p>(&self, pods: impl IntoIterator<Item = &'p Workload>, moved: &mut Moved) {
        let mut addresses: HashSet<IpAddr> = HashSet::default();
        for pod in pods {
            self.find(&self.inventory, pod, moved);
            addresses.extend(pod.addresses.iter().copied());
        }
        if addresses.is_empty() {
            return;
        }
        // Slices name addresses, whatever the labels behind them are.
        for (service, slices) in &self.slices {
            let mut endpoints = slices
                .values()
                .flat_map(|slice| &slice.endpoints)
                .map(|endpoint| endpoint.address);
            if endpoints.any(|address| addresses.contains(&address))
                && let Some(service) = self.inventory.services().get(service)
            {
                moved.add(service);
            }
        }
    }

    /// The Services that a pod is behind, by its labels or its address.
    fn find(&self, inventory: &Inventory, pod: &Workload, moved: &mut Moved) {
        // One that was somebody's address is a virtual one alone now, or the reverse.
        let own = pod.addresses.iter();
        let virtual_ones = own.filter(|address| self.by_address.contains_key(address));
        moved.addresses.extend(virtual_ones);
        let first = ObjectName {
            namespace: pod.name.namespace.clone(),
            name: Arc::from(""),
        };
        let services = inventory.services().starting_at(&first);
        for (name, service) in services {
            if name.namespace != first.namespace {
                break;
            }
            let mut selector = service.selector.iter();
            if selector.len() > 0 && selector.all(|(key, value)| pod.labels.get(key) == Some(value))
            {
                moved.add(service);
            }
        }
    }

    /// Returns `true` if pods are indexed by all labels that a Service asks for.
    fn is_asked(&self, service: &Service) -> bool {
        let asked = self.pods.get(&service.name.namespace);
        let mut selector = service.selector.iter();
        selector.all(|(key, value)| {
            let values = asked.and_then(|asked| asked.get(key));
            values.is_some_and(|values| values.contains_key(value))
        })
    }

    fn forget(&mut self, service: &Arc<Service>) {
        for address in service.addresses() {
            if let Some(there) = self.by_address.get_mut(&address) {
                there.retain(|one| one.name != service.name);
                if there.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for port in &service.ports {
            let Some(number) = port.node_port else {
                continue;
            };
            let key = (port.protocol, number);
            if let Some(there) = self.by_node_port.get_mut(&key) {
                there.retain(|(one, _)| one.name != service.name);
                if there.is_empty() {
                    self.by_node_port.remove(&key);
                }
            }
        }
    }

    /// Puts a pod under the labels that Services ask for, or takes it from there.
    fn index(&mut self, pod: &Arc<Workload>, is_there: bool) {
        let Some(asked) = self.pods.get_mut(&pod.name.namespace) else {
            return;
        };
        for (key, value) in pod.labels.iter() {
            let with_key = asked.get_mut(key);
            let Some(pods) = with_key.and_then(|values| values.get_mut(value)) else {
                continue;
            };
            let at = pods.binary_search_by(|one| one.name.cmp(&pod.name));
            match (at, is_there) {
                (Ok(at), true) => pods[at] = pod.clone(),
                (Err(at), true) => pods.insert(at, pod.clone()),
                (Ok(at), false) => _ = pods.remove(at),
                (Err(_), false) => {}
            }
        }
    }
}
