//! Endpoints: added, given other labels, removed, and found gone.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_dataplane::AttachError;
use cofferdam_inventory::Owner;
use cofferdam_protocol::output::{EndpointState, RemoveReport, Schema};
use cofferdam_protocol::{EndpointSpec, Removal};
use cofferdam_telemetry::snapshots::EndpointNames;

use super::{Looking, Managed, Reconciler};
use crate::endpoint::{Endpoint, EndpointId, EndpointLink, check_addresses};
use crate::enforcer::Enforcer;
use crate::links::{LAST_STAMP, Link, Links, REST_SECONDS};
use crate::netlink::{Inner, Interface, Kind};
use crate::state;
use crate::uptime::uptime;

/// Fate of an interface on which an endpoint was to be added.
enum Place {
    /// The endpoint there is described anew.
    Taken(Arc<Endpoint>),
    /// None is there, or one that is leaving.
    Free,
}

impl Reconciler {
    /// Takes in an endpoint, or what is new about one. Until it is in force nothing
    /// passes there. The workload's interface was looked at since the call.
    pub(super) fn add(&mut self, spec: &EndpointSpec, looked: Looking) -> Result<EndpointId> {
        let looked = looked?;
        self.check_document(spec)?;
        self.forget_removal_of(spec);
        if !self.are_links_listed {
            // Now: the link was made before the call.
            self.look_at_links();
            self.are_links_listed = true;
        }
        let (inner, host) = self.netlink.endpoint(looked?, &self.interfaces)?;
        let place = self.place(spec, &host)?;
        let endpoint = self.describe(spec, &inner, &host, &place)?;
        let id = endpoint.id.clone();
        let replaced = self.replaced_by(&endpoint);
        self.check_addresses(&endpoint, &place, &replaced)?;
        match place {
            Place::Taken(before) => self.describe_anew(&before.id, endpoint),
            Place::Free => {
                let EndpointLink {
                    host_ifindex,
                    host_mac,
                    ..
                } = endpoint.link;
                self.check_room(host_ifindex)?;
                let now = uptime().as_secs();
                (self.links).note_listeners(host_ifindex, host_mac, inner.listeners, now);
                self.close(&endpoint)?;
                for id in replaced {
                    self.leave(&id);
                }
                self.leaving.remove(&endpoint.link.host_ifindex);
                self.endpoints.insert(id.clone(), closed(endpoint));
            }
        }
        Ok(id)
    }

    /// Looks for an endpoint on the node's side of a link.
    ///
    /// # Errors
    /// When there is one of another workload.
    fn place(&self, spec: &EndpointSpec, host: &Interface) -> Result<Place> {
        let mut endpoints = self.endpoints.values().map(|managed| &managed.endpoint);
        let Some(before) = endpoints.find(|one| one.link.host_ifindex == host.ifindex) else {
            return Ok(Place::Free);
        };
        let is_same_container =
            spec.container_id.is_some() && spec.container_id == before.container_id;
        ensure!(
            before.id == named(spec) || is_same_container,
            "this interface is that of {} already: remove it first",
            before.id
        );
        Ok(Place::Taken(before.clone()))
    }

    /// Describes an endpoint as the caller does. What stands on the workload's interface
    /// is asked only the first time: the workload itself may have changed it since.
    fn describe(
        &self,
        spec: &EndpointSpec,
        inner: &Inner,
        host: &Interface,
        place: &Place,
    ) -> Result<Endpoint> {
        let mut endpoint = match place {
            Place::Taken(before) => Endpoint::clone(before),
            Place::Free => Endpoint {
                id: named(spec),
                container_id: None,
                member_of: None,
                link: link(spec, inner, host)?,
                addresses: inner.addresses.clone(),
                link_local: self.own_link_local(inner, host),
                labels: BTreeMap::new(),
                ports: Vec::new(),
                incarnation: self.next_incarnation,
            },
        };
        endpoint.id = named(spec);
        if !endpoint.may_be_of(spec.container_id.as_deref()) {
            endpoint.incarnation = self.next_incarnation;
        }
        if spec.container_id.is_some() {
            endpoint.container_id.clone_from(&spec.container_id);
        }
        if spec.member_of.is_some() {
            endpoint.member_of.clone_from(&spec.member_of);
        }
        endpoint.labels.clone_from(&spec.labels);
        endpoint.ports.clone_from(&spec.ports);
        if !spec.addresses.is_empty() {
            endpoint.addresses.clear();
            for address in &spec.addresses {
                if !endpoint.addresses.contains(address) {
                    endpoint.addresses.push(*address);
                }
            }
        }
        check_addresses(&endpoint.addresses)?;
        ensure!(
            !endpoint.addresses.is_empty(),
            "{} has no address yet: give it one, or say which it will have",
            spec.interface
        );
        Ok(endpoint)
    }

    /// Returns the link-local address of a workload's interface, unless the node or another
    /// workload has it on the same link.
    fn own_link_local(&self, inner: &Inner, host: &Interface) -> Option<Ipv6Addr> {
        let address = inner.link_local?;
        let mut nodes = self.interfaces.link_local.iter();
        let is_nodes = nodes.any(|(one, ifindex)| {
            *one == address && (*ifindex == host.ifindex || *ifindex == host.controller)
        });
        let is_neighbour = |other: &Endpoint| {
            let interface = self.interfaces.by_index.get(&other.link.host_ifindex);
            other.link.host_ifindex != host.ifindex
                && host.controller != 0
                && interface.is_some_and(|other| other.controller == host.controller)
        };
        let mut endpoints = self.endpoints.values().map(|managed| &managed.endpoint);
        let is_anothers =
            endpoints.any(|other| other.link_local == Some(address) && is_neighbour(other));
        if is_nodes || is_anothers {
            tracing::warn!(
                interface = %host.name,
                "the link-local address {address} of the workload is another's on its link; \
                 packets with it are dropped"
            );
            return None;
        }
        Some(address)
    }

    /// Lists the endpoints on other links whose place an endpoint takes: one of its name,
    /// and one of its container on an interface of that name.
    fn replaced_by(&self, endpoint: &Endpoint) -> Vec<EndpointId> {
        let is_replaced = |other: &Endpoint| {
            let is_same_container =
                endpoint.container_id.is_some() && endpoint.container_id == other.container_id;
            other.link.host_ifindex != endpoint.link.host_ifindex
                && (other.id == endpoint.id
                    || is_same_container && other.id.interface == endpoint.id.interface)
        };
        let endpoints = self.endpoints.values().map(|managed| &managed.endpoint);
        let replaced = endpoints.filter(|other| is_replaced(other));
        replaced.map(|other| other.id.clone()).collect()
    }

    /// An address has one owner: those are refused that another endpoint has, the node,
    /// or a document's workload or node. An address that the endpoint has had until now is
    /// its own, whatever document has come since.
    fn check_addresses(
        &self,
        endpoint: &Endpoint,
        place: &Place,
        replaced: &[EndpointId],
    ) -> Result<()> {
        let held = match place {
            Place::Taken(before) => before.addresses.as_slice(),
            Place::Free => &[],
        };
        let node = self.node_addresses();
        for address in endpoint.addresses.iter().filter(|one| !held.contains(one)) {
            let mut others = self.endpoints.values().map(|managed| &managed.endpoint);
            let other = others.find(|other| {
                other.link.host_ifindex != endpoint.link.host_ifindex
                    && !replaced.contains(&other.id)
                    && other.addresses.contains(address)
            });
            if let Some(other) = other {
                bail!("address {address} is that of {} already", other.id);
            }
            let owner = self.owner_by_document(*address);
            match owner {
                _ if node.contains(address) => bail!("address {address} is the node's own"),
                Some(Owner::Node(name)) if *name == *self.config.node.name => {
                    bail!("address {address} is the node's own, by its document")
                }
                Some(owner) if owner != Owner::Workload(endpoint.id.workload()) => {
                    bail!("address {address} is that of {owner}, by its document")
                }
                _ => {}
            }
            if let Some(interface) = self.interfaces.with_virtual_address(*address) {
                bail!(
                    "address {address} stands on the node's interface {}",
                    interface.name
                );
            }
        }
        Ok(())
    }

    /// Each interface that is closed takes room as well.
    fn check_room(&self, ifindex: u32) -> Result<()> {
        let room = self.config.limits.endpoints.0 as usize;
        let leaving = (self.leaving.keys())
            .filter(|other| **other != ifindex)
            .count();
        let strangers = self.closed_strangers();
        let is_stranger = self.enforcer.interfaces().contains(&ifindex)
            && !self.managed_interfaces().contains(&ifindex);
        let strangers = strangers - usize::from(is_stranger);
        ensure!(
            self.endpoints.len() + leaving + strangers < room,
            "there are {room} endpoints already, {} of them leaving: raise \
             `limits.endpoints`",
            leaving + strangers
        );
        Ok(())
    }

    /// Gives an endpoint another description in place, under another name perhaps.
    fn describe_anew(&mut self, before: &EndpointId, endpoint: Endpoint) {
        // Another endpoint may have had the name.
        for id in self.replaced_by(&endpoint) {
            self.leave(&id);
        }
        let Some(mut managed) = self.endpoints.remove(before) else {
            return;
        };
        if managed.endpoint.incarnation != endpoint.incarnation {
            _ = self.take_incarnation();
        }
        managed.endpoint = Arc::new(endpoint);
        (self.endpoints).insert(managed.endpoint.id.clone(), managed);
    }

    /// Returns a number that no endpoint has had.
    pub(super) fn take_incarnation(&mut self) -> u32 {
        let incarnation = self.next_incarnation;
        self.next_incarnation = incarnation.wrapping_add(1).max(1);
        incarnation
    }

    /// Closes the interface of an endpoint that is to be taken in.
    fn close(&mut self, endpoint: &Endpoint) -> Result<()> {
        let ifindex = endpoint.link.host_ifindex;
        close_record(&mut self.links, &mut self.enforcer, endpoint)
            .context("cannot close the interface")?;
        self.enforcer.prepare();
        _ = self.take_incarnation();
        if let Err(error) = self.enforcer.guard(ifindex) {
            // A failure opens nothing: what stands there goes on denying.
            if self.enforcer.stands(ifindex) {
                let managed = Managed {
                    state: EndpointState::Unmanaged,
                    problem: Some(chain(&error)),
                    ..closed(endpoint.clone())
                };
                self.leaving.insert(ifindex, managed);
            } else {
                self.remove_from_force(ifindex);
            }
            return Err(error.into());
        }
        tracing::info!(
            endpoint = %endpoint.id,
            interface = %endpoint.link.host_interface,
            "endpoint closed until its verdicts are in force"
        );
        Ok(())
    }

    /// Removes a workload's endpoints. Their interfaces stay closed until they have gone,
    /// unless they are to be released.
    pub(super) fn remove(&mut self, removal: &Removal) -> RemoveReport {
        let is_meant = |endpoint: &Endpoint| {
            let id = &endpoint.id;
            let interface = removal.interface.as_ref();
            id.namespace == removal.namespace
                && id.name == removal.name
                && interface.is_none_or(|interface| id.interface == *interface)
                && endpoint.may_be_of(removal.container_id.as_deref())
        };
        if !removal.release {
            return self.leave_those(is_meant);
        }
        let all = self.endpoints.values().chain(self.leaving.values());
        let meant: Vec<Arc<Endpoint>> = (all.map(|managed| &managed.endpoint))
            .filter(|endpoint| is_meant(endpoint))
            .cloned()
            .collect();
        for endpoint in &meant {
            self.release(endpoint);
        }
        RemoveReport {
            schema: Schema,
            removed: meant.iter().map(|one| one.id.to_string()).collect(),
            leaving: Vec::new(),
        }
    }

    /// Removes endpoints, whose interfaces stay closed until they have gone.
    pub(super) fn leave_those(&mut self, is_meant: impl Fn(&Endpoint) -> bool) -> RemoveReport {
        let endpoints = self.endpoints.values().map(|managed| &managed.endpoint);
        let in_force: Vec<Arc<Endpoint>> = endpoints
            .filter(|endpoint| is_meant(endpoint))
            .cloned()
            .collect();
        let mut report = RemoveReport {
            schema: Schema,
            removed: in_force.iter().map(|one| one.id.to_string()).collect(),
            leaving: Vec::new(),
        };
        for endpoint in &in_force {
            self.leave(&endpoint.id);
            tracing::info!(
                endpoint = %endpoint.id,
                interface = %endpoint.link.host_interface,
                "endpoint removed; nothing passes there until its interface has gone"
            );
        }
        // Mostly the interface goes at the same time.
        self.look_at_links();
        let is_leaving = |one: &&Arc<Endpoint>| self.leaving.contains_key(&one.link.host_ifindex);
        let leaving = in_force.iter().filter(is_leaving);
        report.leaving = leaving.map(|one| one.id.to_string()).collect();
        report
    }

    /// Ends an endpoint whose interface may still be there: nothing passes there from now
    /// on, and its addresses are anybody's.
    fn leave(&mut self, id: &EndpointId) {
        let Some(mut managed) = self.endpoints.remove(id) else {
            return;
        };
        managed.is_refused = false;
        Arc::make_mut(&mut managed.endpoint).addresses.clear();
        managed.keep_closed(&mut self.links, &mut self.enforcer);
        let ifindex = managed.endpoint.link.host_ifindex;
        self.leaving.insert(ifindex, managed);
    }

    /// Opens an endpoint's interface, as its owner asked for: nothing judges there any
    /// more.
    fn release(&mut self, endpoint: &Endpoint) {
        self.drop_endpoint(endpoint);
        let ifindex = endpoint.link.host_ifindex;
        if let Err(error) = self.enforcer.release(ifindex) {
            tracing::error!("{}; nothing passes there", chain(&error));
            return;
        }
        self.released.insert(ifindex, endpoint.link.host_mac);
        tracing::warn!(
            endpoint = %endpoint.id,
            interface = %endpoint.link.host_interface,
            "endpoint released; everything passes there from now on"
        );
    }

    /// Lets go of an endpoint whose interface has gone.
    fn forget(&mut self, endpoint: &Endpoint) {
        self.drop_endpoint(endpoint);
        self.remove_from_force(endpoint.link.host_ifindex);
    }

    fn drop_endpoint(&mut self, endpoint: &Endpoint) {
        let ifindex = endpoint.link.host_ifindex;
        self.unlinked.remove(&ifindex);
        self.leaving.remove(&ifindex);
        let managed = self.endpoints.get(&endpoint.id);
        if managed.is_some_and(|one| one.endpoint.link.host_ifindex == ifindex) {
            self.endpoints.remove(&endpoint.id);
        }
    }

    pub(super) fn remove_from_force(&mut self, ifindex: u32) {
        self.unlinked.remove(&ifindex);
        if let Err(error) = self.enforcer.remove(ifindex) {
            tracing::error!("{}; nothing passes there", chain(&error));
        }
    }

    /// Lists interfaces and addresses again, and lets go of endpoints whose interface
    /// is no more.
    ///
    /// Only the node's side counts. What a workload does to its own side, moving it to
    /// a namespace below, say, must not take the firewall off.
    ///
    /// Notes if what has changed concerns what is in force.
    pub(super) fn look_at_links(&mut self) {
        let own = self.node_addresses();
        match self.netlink.interfaces() {
            Ok(interfaces) => self.interfaces = interfaces,
            Err(error) => {
                tracing::error!("{}; interfaces are taken to be as before", chain(&error));
                return;
            }
        }
        self.is_concerned |= own != self.node_addresses();
        let endpoints = self.endpoints.values().chain(self.leaving.values());
        let changed: Vec<Arc<Endpoint>> = endpoints
            .map(|managed| &managed.endpoint)
            .filter(|endpoint| !self.is_there(&endpoint.link))
            .cloned()
            .collect();
        self.is_concerned |= !changed.is_empty();
        for endpoint in changed {
            if !self.may_live(&endpoint.link) {
                self.forget(&endpoint);
                tracing::info!(
                    endpoint = %endpoint.id,
                    "endpoint removed: its interface has gone"
                );
            } else if !self.leaving.contains_key(&endpoint.link.host_ifindex) {
                self.leave(&endpoint.id);
                tracing::error!(
                    endpoint = %endpoint.id,
                    "endpoint closed: its interface may be another than it was added on; add \
                     it again"
                );
            }
        }
        for ifindex in self.enforcer.interfaces() {
            if !self.interfaces.by_index.contains_key(&ifindex) {
                self.is_concerned = true;
                self.remove_from_force(ifindex);
            }
        }
        self.retain_links();
        let endpoints = self.endpoints.values_mut();
        for managed in endpoints.chain(self.leaving.values_mut()) {
            let link = &managed.endpoint.link;
            let interface = self.interfaces.by_index.get(&link.host_ifindex);
            if let Some(interface) = interface
                && link.host_interface != interface.name
            {
                self.is_concerned = true;
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

    /// Returns `true` if an interface that is not as it was may all the same be the one
    /// that an endpoint was added on: programs of ours go with their interface.
    fn may_live(&self, link: &EndpointLink) -> bool {
        let ifindex = link.host_ifindex;
        self.interfaces.by_index.contains_key(&ifindex) && self.enforcer.stands(ifindex)
    }

    /// Takes up the endpoints of the last agent whose links are still what they were.
    pub(super) fn take_up(&mut self, remembered: state::Endpoints<Endpoint>) {
        let is_same_start =
            remembered.boot_id == self.boot_id && remembered.namespace == self.namespace;
        if is_same_start {
            self.links = remembered.links;
            self.released = remembered.released;
        }
        self.take_up_links();
        let mut leaving = remembered.leaving;
        for endpoint in remembered.endpoints {
            let interface = self.interfaces.by_index.get(&endpoint.link.host_ifindex);
            let is_same = interface.is_some_and(|interface| {
                interface.kind == Kind::Veth && interface.mac == Some(endpoint.link.host_mac)
            });
            if is_same_start && is_same {
                self.endpoints.insert(endpoint.id.clone(), closed(endpoint));
            } else {
                leaving.push(endpoint);
            }
        }
        for mut endpoint in leaving {
            endpoint.addresses.clear();
            let link = &endpoint.link;
            if is_same_start && (self.is_there(link) || self.may_live(link)) {
                self.leaving.insert(link.host_ifindex, closed(endpoint));
            } else {
                tracing::info!(
                    endpoint = %endpoint.id,
                    "endpoint forgotten: its interface has gone"
                );
            }
        }
        self.alarm_lost_pins();
        self.close_strangers();
    }

    /// Alarms if programs judge on endpoints' interfaces although nothing is pinned.
    fn alarm_lost_pins(&mut self) {
        let all = self.managed_interfaces();
        let mut managed = all.iter();
        if self.enforcer.found_nothing() && managed.any(|ifindex| self.enforcer.stands(*ifindex)) {
            self.tamper_events += 1;
            tracing::error!(
                "pins were lost while no agent ran: filters judge by what was in force, until \
                 they are replaced"
            );
        }
    }

    /// Takes up what is known of links. Where that is lost, stamps that were given out last
    /// are not known; a beginning anywhere makes it unlikely to meet one of them.
    fn take_up_links(&mut self) {
        if self.links == Links::default() {
            let anywhere = uptime().as_millis() % u128::from(LAST_STAMP);
            self.links.begin_after(anywhere as u16);
        }
        let by_index = &self.interfaces.by_index;
        let mac = |ifindex: u32| by_index.get(&ifindex)?.mac;
        self.enforcer.tell_links(&mut self.links, mac);
        self.retain_links();
    }

    /// Forgets links that have gone. One whose endpoint is known to be there is there.
    fn retain_links(&mut self) {
        let by_index = &self.interfaces.by_index;
        let managed = self.managed_interfaces();
        let is_there = |ifindex: u32, link: &Link| {
            let interface = by_index.get(&ifindex);
            managed.contains(&ifindex)
                || interface.is_some_and(|interface| interface.mac == Some(link.host_mac))
        };
        self.links.retain(is_there, uptime().as_secs());
        self.released.retain(|ifindex, mac| {
            let interface = by_index.get(ifindex);
            !managed.contains(ifindex)
                && interface.is_some_and(|interface| interface.mac == Some(*mac))
        });
    }

    /// With no new table: what is in force goes on, and what is not lets nothing pass.
    pub(super) fn leave_as_is(&mut self) {
        for managed in self.endpoints.values_mut() {
            let link = &managed.endpoint.link;
            if self.enforcer.is_open(link.host_ifindex) {
                managed.state = EndpointState::Enforced;
                continue;
            }
            // Programs of an agent before may stand there, and judge by what was in
            // force then.
            if self.enforcer.stands(link.host_ifindex) {
                managed.state = EndpointState::DenyAll;
            } else {
                managed.keep_closed(&mut self.links, &mut self.enforcer);
            }
        }
        self.keep_leaving_closed();
    }

    fn keep_leaving_closed(&mut self) {
        for (ifindex, managed) in &mut self.leaving {
            managed.keep_closed(&mut self.links, &mut self.enforcer);
            if managed.state == EndpointState::DenyAll && !self.enforcer.is_attached(*ifindex) {
                self.unlinked.insert(*ifindex);
            }
        }
    }

    /// Lets every endpoint's traffic pass as the table in force says.
    pub(super) fn enforce(&mut self) {
        if self.problem.is_some() && self.enforcer.compiled().is_none() {
            return self.leave_as_is();
        }
        // All records before the first program of ours: one that replaces an older agent's
        // must find the other ends of its packets, not only its own interface.
        for managed in self.endpoints.values_mut() {
            let endpoint = &managed.endpoint;
            if managed.is_refused {
                let why = managed.problem.take();
                managed.keep_closed(&mut self.links, &mut self.enforcer);
                managed.problem = why.or(managed.problem.take());
                continue;
            }
            let link = wire(&mut self.links, &self.enforcer, &endpoint.link);
            let in_force = link.map(|link| self.enforcer.enforce(endpoint, &link));
            let problem = match in_force {
                Some(Ok(true)) => None,
                Some(Ok(false)) => {
                    Some("the table in force does not know its addresses".to_owned())
                }
                Some(Err(error)) => Some(chain(&error)),
                None => Some(format!(
                    "all {LAST_STAMP} numbers for its packets are in use or were until less \
                     than {REST_SECONDS} s ago: it is tried again"
                )),
            };
            match problem {
                None => managed.state = EndpointState::Enforced,
                Some(problem) => {
                    managed.keep_closed(&mut self.links, &mut self.enforcer);
                    managed.problem = Some(problem);
                }
            }
        }
        for managed in self.endpoints.values_mut() {
            if managed.state != EndpointState::Enforced {
                continue;
            }
            let ifindex = managed.endpoint.link.host_ifindex;
            (managed.state, managed.problem) = match self.enforcer.guard(ifindex) {
                Ok(()) => (EndpointState::Enforced, None),
                Err(error) => (EndpointState::Unmanaged, Some(chain(&error))),
            };
            if managed.state == EndpointState::Enforced && !self.enforcer.is_attached(ifindex) {
                self.unlinked.insert(ifindex);
            }
        }
        self.keep_leaving_closed();
    }

    /// Puts the links of an endpoint before its filters.
    pub(super) fn attach(&mut self, ifindex: u32) {
        if let Err(error) = self.enforcer.attach(ifindex) {
            tracing::error!("{}; the filters behind judge", chain(&error));
        }
    }

    /// Says whose interfaces there are, to those who read records.
    pub(super) fn name_endpoints(&self) {
        let endpoints = self
            .endpoints
            .values()
            .chain(self.leaving.values())
            .map(|managed| managed.endpoint.clone());
        let names = EndpointNames::new(self.documents.inventory(), endpoints);
        self.names.set_endpoints(names);
    }

    /// Remembers the endpoints for the next start.
    pub(super) fn save_endpoints(&mut self) {
        let all = |managed: &mut dyn Iterator<Item = &Managed>| -> Vec<Arc<Endpoint>> {
            managed.map(|managed| managed.endpoint.clone()).collect()
        };
        let endpoints = all(&mut self.endpoints.values());
        let leaving = all(&mut self.leaving.values());
        let saved = (
            self.next_incarnation,
            endpoints,
            leaving,
            self.links.clone(),
            self.released.clone(),
        );
        if self.saved_endpoints.as_ref() == Some(&saved) {
            return;
        }
        let state = state::Endpoints {
            boot_id: self.boot_id.clone(),
            namespace: self.namespace,
            next_incarnation: self.next_incarnation,
            revision: self.enforcer.revision(),
            endpoints: saved.1.iter().map(|endpoint| &**endpoint).collect(),
            leaving: saved.2.iter().map(|endpoint| &**endpoint).collect(),
            links: saved.3.clone(),
            released: saved.4.clone(),
        };
        self.unsaved = match self.store.save_for_this_start(state::ENDPOINTS, &state) {
            Ok(()) => {
                self.saved_endpoints = Some(saved);
                None
            }
            Err(error) => {
                let unsaved = format!(
                    "{}; after a restart, endpoints must be added again",
                    chain(&error)
                );
                tracing::error!("{unsaved}");
                Some(unsaved)
            }
        };
    }
}

impl Managed {
    /// Lets nothing pass on its interface, and says so, or why not.
    fn keep_closed(&mut self, links: &mut Links, enforcer: &mut Enforcer) {
        let link = &self.endpoint.link;
        let closed = close_record(links, enforcer, &self.endpoint)
            .and_then(|()| enforcer.guard(link.host_ifindex));
        (self.state, self.problem) = match closed {
            Ok(()) => (EndpointState::DenyAll, None),
            Err(error) => (EndpointState::Unmanaged, Some(chain(&error))),
        };
    }
}

/// Lets nothing pass under the record of an endpoint.
fn close_record(
    links: &mut Links,
    enforcer: &mut Enforcer,
    endpoint: &Endpoint,
) -> Result<(), AttachError> {
    // Asked while there may be no record yet: then this is the time that filters first go
    // there.
    let link = wire(links, enforcer, &endpoint.link);
    enforcer.close(endpoint, link.as_ref())
}

/// Returns what packets of a link are to carry, `None` if there is no number for them.
fn wire(links: &mut Links, enforcer: &Enforcer, link: &EndpointLink) -> Option<Link> {
    let ifindex = link.host_ifindex;
    let known = links.take(ifindex, link.host_mac, uptime().as_secs())?;
    let adopt_until = known.adopt_until;
    known.adopt_until = adopt_until.or_else(|| Some(enforcer.deadline(ifindex)));
    Some(*known)
}

/// An endpoint of which nothing is in force yet.
fn closed(endpoint: Endpoint) -> Managed {
    Managed {
        endpoint: Arc::new(endpoint),
        state: EndpointState::DenyAll,
        problem: None,
        is_refused: false,
    }
}

fn named(spec: &EndpointSpec) -> EndpointId {
    EndpointId {
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        interface: spec.interface.clone(),
    }
}

fn link(spec: &EndpointSpec, inner: &Inner, host: &Interface) -> Result<EndpointLink> {
    let mac = |interface: &Interface| {
        let name = interface.name.clone();
        interface
            .mac
            .with_context(|| format!("{name} has no Ethernet address"))
    };
    Ok(EndpointLink {
        netns: spec.netns.clone(),
        netns_inode: inner.inode,
        inner_ifindex: inner.interface.ifindex,
        mac: mac(&inner.interface)?,
        host_ifindex: host.ifindex,
        host_interface: host.name.clone(),
        host_mac: mac(host)?,
    })
}
