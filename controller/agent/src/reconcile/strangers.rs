//! Interfaces of workloads that the agent cannot name: nobody has added them, or what was
//! known of them is lost.
//!
//! Nothing passes where programs of an agent before judge, until the workload is added
//! again: they would go on with a table that nobody replaces, and the next table
//! takes the workload's addresses for outside ones. Where none stand, packets pass unjudged.
//! Both are listed, so that nobody takes a node for protected that is not.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeSet;

use cofferdam_protocol::output::EndpointState;

use super::Reconciler;
use crate::config::EarlyDrop;
use crate::netlink::{Interface, Kind};

/// An interface of a workload that has no name.
pub(super) struct Stranger<'a> {
    /// The node's side.
    pub(super) interface: &'a Interface,
    /// `DenyAll` or `Unmanaged`.
    pub(super) state: EndpointState,
    /// Cause and remedy.
    pub(super) problem: &'static str,
}

const CLOSED: &str = "an endpoint was in force here that is not remembered: nothing passes until \
                      it is added again, or its interface has gone";
const UNMANAGED: &str = "nobody has added the workload behind this interface: its packets are not \
                         judged";
const DROPPED: &str = "nobody has added the workload behind this interface: the guard drops its \
                       packets";

impl Reconciler {
    /// Lists strangers, closed ones first.
    pub(super) fn strangers(&self) -> Vec<Stranger<'_>> {
        let managed = self.managed_interfaces();
        let in_force: BTreeSet<u32> = self.enforcer.interfaces().into_iter().collect();
        let of_state = |is_closed: bool| {
            let interfaces = self.interfaces.by_index.values();
            let (in_force, managed) = (&in_force, &managed);
            interfaces
                .filter(move |interface| {
                    let ifindex = interface.ifindex;
                    !managed.contains(&ifindex)
                        && in_force.contains(&ifindex) == is_closed
                        && (is_closed || self.leads_to_a_workload(interface))
                })
                .map(move |interface| match is_closed {
                    true => Stranger {
                        interface,
                        state: EndpointState::DenyAll,
                        problem: CLOSED,
                    },
                    false => Stranger {
                        interface,
                        state: EndpointState::Unmanaged,
                        problem: match self.guarding.is_on() {
                            true if !self.released.contains_key(&interface.ifindex) => DROPPED,
                            _ => UNMANAGED,
                        },
                    },
                })
        };
        of_state(true).chain(of_state(false)).collect()
    }

    /// Counts interfaces that are closed because nobody knows whose they are.
    pub(super) fn closed_strangers(&self) -> usize {
        let managed = self.managed_interfaces();
        let in_force = self.enforcer.interfaces().into_iter();
        in_force
            .filter(|ifindex| !managed.contains(ifindex))
            .count()
    }

    /// Indexes of the interfaces whose endpoints are known.
    pub(super) fn managed_interfaces(&self) -> BTreeSet<u32> {
        let endpoints = self.endpoints.values().chain(self.leaving.values());
        endpoints
            .map(|managed| managed.endpoint.link.host_ifindex)
            .collect()
    }

    /// Returns `true` for one end of a veth pair whose other end is in another namespace,
    /// unless the configuration calls it an uplink.
    fn leads_to_a_workload(&self, interface: &Interface) -> bool {
        interface.kind == Kind::Veth
            && interface.peer_namespace.is_some()
            && !self.is_named_uplink(interface)
    }

    /// Returns `true` if the configuration names an interface as an uplink.
    pub(super) fn is_named_uplink(&self, interface: &Interface) -> bool {
        match &self.config.uplinks {
            EarlyDrop::Names(names) => names.contains(&interface.name),
            EarlyDrop::Auto => false,
        }
    }

    /// Closes the interfaces on which programs judge and that nobody is known to own: those
    /// that the kernel's maps name, and those on which programs stand whose maps are lost.
    pub(super) fn close_strangers(&mut self) {
        let managed = self.managed_interfaces();
        let in_force = self.enforcer.interfaces().into_iter();
        let in_force: BTreeSet<u32> = in_force
            .filter(|ifindex| !managed.contains(ifindex))
            .collect();
        for &ifindex in &in_force {
            let Some(interface) = self.interfaces.by_index.get(&ifindex) else {
                self.remove_from_force(ifindex);
                continue;
            };
            tracing::error!(interface = %interface.name, "{CLOSED}");
            if let Err(error) = self.enforcer.close_as_is(ifindex) {
                tracing::error!("{}", chain(&error));
            }
            self.unlinked.insert(ifindex);
        }
        let others = self.interfaces.by_index.values().filter(|interface| {
            !managed.contains(&interface.ifindex) && !in_force.contains(&interface.ifindex)
        });
        let judged: Vec<(u32, String)> = others
            .filter(|interface| {
                interface.kind == Kind::Veth && self.enforcer.stands(interface.ifindex)
            })
            .map(|interface| (interface.ifindex, interface.name.clone()))
            .collect();
        for (ifindex, name) in judged {
            self.tamper_events += 1;
            tracing::error!(
                interface = %name,
                "programs of an agent before judge here by maps that are lost; {CLOSED}"
            );
            let incarnation = self.take_incarnation();
            if let Err(error) = self.enforcer.close_unknown(ifindex, incarnation) {
                tracing::error!("{}", chain(&error));
            }
            self.unlinked.insert(ifindex);
        }
    }
}
