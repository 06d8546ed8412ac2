//! Labels of local pods, as an API server has them.
//!
//! Invariant: what a pod's document said last goes on counting until its interface has gone.
//! A pod that is deleted by force has no document any more and may still run; without its
//! labels no policy would select it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use cofferdam_inventory::{ObjectName, Owner, Workload};
use cofferdam_protocol::{EndpointSpec, PortSpec};

use super::Reconciler;

impl Reconciler {
    /// Lets the endpoints of pods have the labels and ports of their documents as their own.
    pub(super) fn remember_pods(&mut self) {
        if !self.documents.are_of_cluster() {
            return;
        }
        let workloads = self.documents.inventory().workloads();
        for managed in self.endpoints.values_mut() {
            let document = workloads.get(&managed.endpoint.id.workload());
            if let Some((labels, ports)) = document.map(description)
                && (managed.endpoint.labels != labels || managed.endpoint.ports != ports)
            {
                let endpoint = Arc::make_mut(&mut managed.endpoint);
                endpoint.labels = labels;
                endpoint.ports = ports;
            }
        }
    }

    /// Refuses a pod whose document does not count: nobody else says what its labels are.
    pub(super) fn check_document(&self, spec: &EndpointSpec) -> Result<()> {
        if spec.pod.is_none() || !self.documents.are_of_cluster() {
            return Ok(());
        }
        let name = ObjectName::new(&spec.namespace, &spec.name);
        let document = self.documents.inventory().workloads().get(&name);
        ensure!(
            document.is_some(),
            "the document of pod {name} is not valid: `cofferdam status` says why"
        );
        Ok(())
    }

    /// Returns who has an address by the documents. A pod of this node that only the API
    /// server still knows has none: its address was given away when its container ended,
    /// which the server is told later.
    pub(super) fn owner_by_document(&self, address: IpAddr) -> Option<Owner> {
        let owner = self.documents.inventory().owner(address);
        owner.filter(|owner| !matches!(owner, Owner::Workload(name) if self.is_departed(name)))
    }

    fn is_departed(&self, name: &ObjectName) -> bool {
        let workloads = self.documents.inventory().workloads();
        let node = workloads.get(name).and_then(|one| one.node.as_deref());
        let mut endpoints = self.endpoints.values().map(|managed| &managed.endpoint);
        self.documents.are_of_cluster()
            && node == Some(&*self.config.node.name)
            && endpoints.all(|endpoint| endpoint.id.workload() != *name)
    }
}

fn description(document: &Workload) -> (BTreeMap<String, String>, Vec<PortSpec>) {
    let labels = document.labels.iter();
    let ports = document.ports.iter().map(|port| PortSpec {
        name: port.name.to_string(),
        protocol: port.protocol.name().to_owned(),
        number: port.number,
    });
    (
        labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        ports.collect(),
    )
}
