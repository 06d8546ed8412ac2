//! Endpoints: added, given other labels, removed, and found gone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_dataplane::AttachError;

use super::{Managed, Reconciler, chain};
use crate::endpoint::{Endpoint, EndpointId, EndpointLink, check, check_addresses};
use crate::names::EndpointNames;
use crate::netlink::{Inner, Interface};
use crate::output::EndpointState;
use crate::protocol::EndpointSpec;
use crate::state;

impl Reconciler {
    /// Takes in an endpoint, or what is new about one. Until it is in force nothing
    /// passes there.
    pub(super) fn add(&mut self, spec: &EndpointSpec) -> Result<EndpointId> {
        check(spec)?;
        // Listed now: the link was made before the call.
        self.look_at_links();
        let (inner, host) =
            self.netlink
                .endpoint(&spec.netns, &spec.interface, &self.interfaces)?;
        let endpoint = self.describe(spec, &inner, &host)?;
        self.check_conflicts(&endpoint)?;
        let id = endpoint.id.clone();
        match self.endpoints.get_mut(&id) {
            Some(managed) if managed.endpoint.link == endpoint.link => {
                let incarnation = managed.endpoint.incarnation;
                managed.endpoint = Arc::new(Endpoint {
                    incarnation,
                    ..endpoint
                });
                return Ok(id);
            }
            // The workload was made anew, with another link.
            Some(_) => self.take_off(&id),
            None => {}
        }
        let room = self.config.limits.endpoints as usize;
        ensure!(
            self.endpoints.len() < room,
            "there are {room} endpoints already: raise `limits.endpoints`"
        );
        self.close(endpoint)?;
        Ok(id)
    }

    fn describe(&self, spec: &EndpointSpec, inner: &Inner, host: &Interface) -> Result<Endpoint> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let given = if spec.addresses.is_empty() {
            &inner.addresses
        } else {
            &spec.addresses
        };
        for address in given {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        check_addresses(&addresses)?;
        let interface = &spec.interface;
        ensure!(
            !addresses.is_empty(),
            "{interface} has no address yet: give it one, or say which it will have"
        );
        let mac = |interface: &Interface| {
            let name = interface.name.clone();
            interface
                .mac
                .with_context(|| format!("{name} has no Ethernet address"))
        };
        Ok(Endpoint {
            id: EndpointId {
                namespace: spec.namespace.clone(),
                name: spec.name.clone(),
                interface: interface.clone(),
            },
            link: EndpointLink {
                netns: spec.netns.clone(),
                netns_inode: inner.inode,
                inner_ifindex: inner.interface.ifindex,
                mac: mac(&inner.interface)?,
                host_ifindex: host.ifindex,
                host_interface: host.name.clone(),
                host_mac: mac(host)?,
            },
            addresses,
            labels: spec.labels.clone(),
            ports: spec.ports.clone(),
            incarnation: self.next_incarnation,
        })
    }

    /// An interface, an address and a name have one endpoint each.
    fn check_conflicts(&self, endpoint: &Endpoint) -> Result<()> {
        for other in self.endpoints.values().map(|managed| &managed.endpoint) {
            if other.id == endpoint.id {
                continue;
            }
            if other.link.host_ifindex == endpoint.link.host_ifindex {
                bail!(
                    "this interface is that of {} already: remove it first",
                    other.id
                );
            }
            let shared = endpoint
                .addresses
                .iter()
                .find(|address| other.addresses.contains(address));
            if let Some(address) = shared {
                bail!("address {address} is that of {} already", other.id);
            }
        }
        let node = self.node_addresses();
        if let Some(address) = endpoint.addresses.iter().find(|one| node.contains(one)) {
            bail!("address {address} is the node's own");
        }
        Ok(())
    }

    /// Takes in an endpoint of which nothing is in force: first of all nothing passes.
    fn close(&mut self, endpoint: Endpoint) -> Result<()> {
        self.force
            .close(&endpoint.link, endpoint.incarnation)
            .context("cannot close the interface")?;
        if let Err(error) = self.force.guard(endpoint.link.host_ifindex) {
            self.remove_from_force(endpoint.link.host_ifindex);
            return Err(error.into());
        }
        self.next_incarnation = self.next_incarnation.wrapping_add(1).max(1);
        tracing::info!(
            endpoint = %endpoint.id,
            interface = %endpoint.link.host_interface,
            "endpoint closed until its verdicts are in force"
        );
        self.endpoints.insert(
            endpoint.id.clone(),
            Managed {
                endpoint: Arc::new(endpoint),
                state: EndpointState::DenyAll,
                problem: None,
                is_refused: false,
            },
        );
        Ok(())
    }

    /// Removes a workload's endpoints, or the one on one interface. Returns which
    /// there were.
    pub(super) fn remove(
        &mut self,
        namespace: &str,
        name: &str,
        interface: Option<&str>,
    ) -> Vec<String> {
        let ids: Vec<EndpointId> = (self.endpoints.keys())
            .filter(|id| {
                id.namespace == namespace
                    && id.name == name
                    && interface.is_none_or(|interface| id.interface == interface)
            })
            .cloned()
            .collect();
        for id in &ids {
            self.take_off(id);
            tracing::info!(endpoint = %id, "endpoint removed");
        }
        ids.iter().map(ToString::to_string).collect()
    }

    /// Takes an endpoint out of force and off its interface.
    pub(super) fn take_off(&mut self, id: &EndpointId) {
        if let Some(managed) = self.endpoints.remove(id) {
            self.remove_from_force(managed.endpoint.link.host_ifindex);
        }
    }

    fn remove_from_force(&mut self, ifindex: u32) {
        if let Err(error) = self.force.remove(ifindex) {
            tracing::error!("{}; nothing passes there", chain(&error));
        }
    }

    /// Lists interfaces and addresses again, and lets go of endpoints whose interface
    /// is no more.
    ///
    /// Only the node's side counts. What a workload does to its own side, moving it to
    /// a namespace below, say, must not take the firewall off.
    pub(super) fn look_at_links(&mut self) {
        match self.netlink.interfaces() {
            Ok(interfaces) => self.interfaces = interfaces,
            Err(error) => {
                tracing::error!("{}; interfaces are taken to be as before", chain(&error));
                return;
            }
        }
        let gone: Vec<EndpointId> = (self.endpoints.values())
            .filter(|managed| !self.is_there(&managed.endpoint.link))
            .map(|managed| managed.endpoint.id.clone())
            .collect();
        for id in gone {
            self.take_off(&id);
            tracing::info!(endpoint = %id, "endpoint removed: its interface has gone");
        }
        for ifindex in self.force.interfaces() {
            if !self.interfaces.by_index.contains_key(&ifindex) {
                self.remove_from_force(ifindex);
            }
        }
        for managed in self.endpoints.values_mut() {
            let link = &managed.endpoint.link;
            let interface = self.interfaces.by_index.get(&link.host_ifindex);
            if let Some(interface) = interface
                && link.host_interface != interface.name
            {
                let link = &mut Arc::make_mut(&mut managed.endpoint).link;
                link.host_interface.clone_from(&interface.name);
            }
        }
    }

    fn is_there(&self, link: &EndpointLink) -> bool {
        (self.interfaces.by_index)
            .get(&link.host_ifindex)
            .is_some_and(|interface| {
                interface.mac == Some(link.host_mac) || interface.peer == link.inner_ifindex
            })
    }

    /// Takes up the endpoints of the last agent whose links are still what they were.
    pub(super) fn take_up(&mut self, remembered: state::Endpoints<Endpoint>) {
        let is_same_start =
            remembered.boot_id == self.boot_id && remembered.namespace == self.namespace;
        for endpoint in remembered.endpoints {
            let id = endpoint.id.clone();
            let link = &endpoint.link;
            let interface = self.interfaces.by_index.get(&link.host_ifindex);
            let is_same = interface
                .is_some_and(|interface| interface.is_veth && interface.mac == Some(link.host_mac));
            if !is_same_start || !is_same {
                tracing::info!(endpoint = %id, "endpoint forgotten: its interface has gone");
                continue;
            }
            self.endpoints.insert(
                id,
                Managed {
                    endpoint: Arc::new(endpoint),
                    state: EndpointState::DenyAll,
                    problem: None,
                    is_refused: false,
                },
            );
        }
        self.close_strangers();
    }

    /// Closes what is in force on interfaces that nobody is known to own: its labels
    /// are lost, and the next table would take its addresses for outside ones.
    fn close_strangers(&mut self) {
        for ifindex in self.force.interfaces() {
            let mut known = self.endpoints.values().map(|one| &one.endpoint.link);
            if known.any(|link| link.host_ifindex == ifindex) {
                continue;
            }
            let Some(interface) = self.interfaces.by_index.get(&ifindex) else {
                self.remove_from_force(ifindex);
                continue;
            };
            tracing::error!(
                interface = %interface.name,
                "an endpoint was in force here that is not remembered: it is closed until it \
                 is added again"
            );
            if let Err(error) = self.force.close_as_is(ifindex) {
                tracing::error!("{}", chain(&error));
            }
        }
    }

    /// With no new table: what is in force goes on, and what is not lets nothing pass.
    pub(super) fn leave_as_is(&mut self) {
        for managed in self.endpoints.values_mut() {
            let link = &managed.endpoint.link;
            if self.force.is_open(link.host_ifindex) {
                managed.state = EndpointState::Enforced;
                continue;
            }
            managed.state = EndpointState::DenyAll;
            // Programs of an agent before may stand there, and judge by what was in
            // force then.
            let stands = self.force.hooks(link.host_ifindex);
            if stands.is_ok_and(|hooks| hooks.iter().any(|hook| hook.program_id.is_some())) {
                continue;
            }
            let closed = self.force.close(link, managed.endpoint.incarnation);
            let closed = closed.map_err(AttachError::from);
            if let Err(error) = closed.and_then(|()| self.force.guard(link.host_ifindex)) {
                managed.state = EndpointState::Unmanaged;
                managed.problem = Some(error.to_string());
            }
        }
    }

    /// Lets every endpoint's traffic pass as the table in force says.
    pub(super) fn enforce(&mut self) {
        if self.problem.is_some() && self.force.compiled().is_none() {
            return self.leave_as_is();
        }
        let closed = self.closed_bridges();
        let ids: Vec<EndpointId> = self.endpoints.keys().cloned().collect();
        for id in ids {
            let Some(managed) = self.endpoints.get_mut(&id) else {
                continue;
            };
            if managed.is_refused {
                managed.state = EndpointState::DenyAll;
                continue;
            }
            let endpoint = &managed.endpoint;
            let interface = self.interfaces.by_index.get(&endpoint.link.host_ifindex);
            let bridge = interface
                .map(|interface| interface.controller)
                .filter(|bridge| closed.contains(bridge))
                .unwrap_or(0);
            // The record first: programs of an agent before are replaced by ours, which
            // must not find the interface unknown.
            let in_force = self.force.enforce(
                &endpoint.link,
                endpoint.incarnation,
                &endpoint.addresses,
                bridge,
            );
            let guarded = self.force.guard(endpoint.link.host_ifindex);
            (managed.state, managed.problem) = match (guarded, in_force) {
                (Err(error), _) => (EndpointState::Unmanaged, Some(error.to_string())),
                (Ok(()), Ok(true)) => {
                    if !self.force.is_attached(endpoint.link.host_ifindex) {
                        self.unlinked.insert(id);
                    }
                    (EndpointState::Enforced, None)
                }
                (Ok(()), Ok(false)) => (
                    EndpointState::DenyAll,
                    Some("the table in force does not know its addresses".to_owned()),
                ),
                (Ok(()), Err(error)) => (EndpointState::DenyAll, Some(error.to_string())),
            };
        }
    }

    /// Puts the links of an endpoint before its filters.
    pub(super) fn attach(&mut self, id: &EndpointId) {
        let Some(managed) = self.endpoints.get(id) else {
            return;
        };
        if let Err(error) = self.force.attach(managed.endpoint.link.host_ifindex) {
            tracing::error!(endpoint = %id, "{}; the filters behind judge", chain(&error));
        }
    }

    /// Repairs what others did to the hooks.
    pub(super) fn mend_hooks(&mut self, filters: bool) {
        for managed in self.endpoints.values() {
            let link = &managed.endpoint.link;
            if !self.force.is_attached(link.host_ifindex) {
                continue;
            }
            match self.force.mend_hooks(link.host_ifindex, filters) {
                Ok(false) => {}
                Ok(true) => {
                    self.tamper_events += 1;
                    tracing::error!(
                        endpoint = %managed.endpoint.id,
                        interface = %link.host_interface,
                        "somebody changed what stands on the hooks; it is repaired"
                    );
                }
                // An interface that has just gone will be heard of.
                Err(error) => tracing::debug!("{}", chain(&error)),
            }
        }
    }

    /// Says whose interfaces there are, to those who read records.
    pub(super) fn name_endpoints(&self) {
        let endpoints = self.endpoints.values();
        let endpoints = endpoints.map(|managed| managed.endpoint.clone());
        let names = EndpointNames::new(self.documents.inventory(), endpoints);
        self.names.set_endpoints(names);
    }

    /// The bridges that may route endpoints' packets up: none of their other ports
    /// could lend them an address.
    fn closed_bridges(&self) -> BTreeSet<u32> {
        let by_index = &self.interfaces.by_index;
        let endpoints = self.endpoints.values();
        let managed: BTreeSet<u32> = endpoints
            .map(|managed| managed.endpoint.link.host_ifindex)
            .collect();
        let open: BTreeSet<u32> = (by_index.values())
            .filter(|port| !managed.contains(&port.ifindex))
            .map(|port| port.controller)
            .collect();
        (by_index.values())
            .filter(|one| one.is_bridge && !open.contains(&one.ifindex))
            .map(|bridge| bridge.ifindex)
            .collect()
    }

    /// Remembers the endpoints for the next start.
    pub(super) fn save_endpoints(&mut self) {
        let endpoints = self.endpoints.values();
        let endpoints: Vec<Arc<Endpoint>> =
            endpoints.map(|managed| managed.endpoint.clone()).collect();
        let saved = (self.next_incarnation, endpoints);
        if self.saved_endpoints.as_ref() == Some(&saved) {
            return;
        }
        let state = state::Endpoints {
            boot_id: self.boot_id.clone(),
            namespace: self.namespace,
            next_incarnation: self.next_incarnation,
            revision: self.force.revision(),
            endpoints: saved.1.iter().map(|endpoint| &**endpoint).collect(),
        };
        match self.store.save(state::ENDPOINTS, &state) {
            Ok(()) => self.saved_endpoints = Some(saved),
            Err(error) => tracing::error!(
                "{}; after a restart, endpoints must be added again",
                chain(&error)
            ),
        }
    }
}
