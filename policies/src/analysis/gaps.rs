//! What is missing from the desired state because its documents are wrong.
//!
//! One mistake is one finding: a selector is not blamed for selecting nothing while the
//! pods it means are left out for an error of theirs.

use std::collections::BTreeSet;

use crate::documents::{Identity, Kind, Rejected};

/// Which kinds of documents are missing.
pub(super) struct Gaps<'a> {
    objects: bool,
    services: bool,
    cluster_policies: bool,
    /// Where policies are missing.
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Gaps<'a> {
    /// What was rejected, and whether templates of workloads cannot be read.
    pub(super) fn new(rejected: impl Iterator<Item = &'a Rejected>, templates: bool) -> Self {
        let mut gaps = Self {
            objects: templates,
            services: false,
            cluster_policies: false,
            namespaces: BTreeSet::new(),
        };
        for rejected in rejected {
            match &rejected.identity {
                // It may have been anything.
                None => {
                    gaps.objects = true;
                    gaps.services = true;
                    gaps.cluster_policies = true;
                }
                Some(Identity {
                    kind, namespace, ..
                }) => match kind {
                    Kind::Namespace | Kind::Node | Kind::Pod => gaps.objects = true,
                    Kind::Service | Kind::EndpointSlice => gaps.services = true,
                    Kind::ClusterNetworkPolicy => gaps.cluster_policies = true,
                    Kind::NetworkPolicy => _ = gaps.namespaces.insert(namespace),
                },
            }
        }
        gaps
    }

    /// Whether workloads, namespaces or nodes may be missing.
    pub(super) fn in_objects(&self) -> bool {
        self.objects
    }

    /// Returns `true` if Services, or their backends, may be missing.
    pub(super) fn in_services(&self) -> bool {
        self.services
    }

    /// Returns `true` if policies may be missing.
    pub(super) fn in_policies(&self) -> bool {
        self.cluster_policies || !self.namespaces.is_empty()
    }

    /// Whether policies about a namespace may be missing.
    pub(super) fn in_policies_of(&self, namespace: &str) -> bool {
        self.cluster_policies || self.namespaces.contains(namespace)
    }
}
