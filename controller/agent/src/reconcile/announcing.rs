//! Tells other nodes of this node's endpoints.
//!
//! Announced is what the desired state makes of an endpoint: with the labels and ports of its
//! document, where there is one, and all addresses of its interfaces. An endpoint that is
//! leaving, or that there is no table with, is not announced.

use std::collections::BTreeSet;

use cofferdam_documents::pod_text;

use super::Reconciler;

impl Reconciler {
    /// Lets the documents know which workloads are here.
    pub(super) fn tell_local(&mut self) {
        if self.documents.etcd().is_some() {
            let names = self.endpoints.keys().map(|id| id.workload());
            let local: BTreeSet<_> = names.collect();
            self.documents.set_local(local);
        }
    }

    /// Announces the endpoints that are in the desired state.
    pub(super) fn announce(&self) {
        let Some(etcd) = self.documents.etcd() else {
            return;
        };
        let desired = &self.made.desired;
        let workloads = desired.inventory.workloads();
        let local = desired.local.iter().filter_map(|name| workloads.get(name));
        etcd.announce(local.map(|workload| {
            let name = &workload.name;
            let name = (name.namespace.to_string(), name.name.to_string());
            (name, pod_text(workload).into())
        }));
    }
}
