//! Notes the objects that are missing from the desired state because their documents are
//! wrong.
//!
//! One mistake is one finding: a selector is not blamed for selecting nothing while the
//! pods it means are left out for an error of theirs. Nothing else is left unsaid.

use std::collections::BTreeSet;

use cofferdam_documents::context::{Template, Unusable, WhyUnusable};
use cofferdam_documents::{Identity, Kind, Rejected};

/// Kinds of documents that are missing.
#[derive(Default)]
pub(super) struct Gaps<'a> {
    /// Some document is missing of which nothing is known.
    anything: bool,
    nodes: bool,
    /// Namespaces in which workloads, or the namespace's labels, are missing.
    objects: BTreeSet<&'a str>,
    services: bool,
    cluster_policies: bool,
    /// Namespaces in which policies are missing.
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Gaps<'a> {
    /// Takes what was rejected, and the workloads that cannot be used.
    pub(super) fn new(
        rejected: impl Iterator<Item = &'a Rejected>,
        unusable: impl Iterator<Item = &'a Unusable>,
    ) -> Self {
        let mut gaps = Self::default();
        for rejected in rejected {
            match &rejected.identity {
                None => gaps.take_anything(),
                Some(Identity {
                    kind,
                    namespace,
                    name,
                }) => match kind {
                    Kind::Namespace => _ = gaps.objects.insert(name),
                    Kind::Pod => _ = gaps.objects.insert(namespace),
                    Kind::Node => gaps.nodes = true,
                    Kind::Service | Kind::EndpointSlice => gaps.services = true,
                    Kind::ClusterNetworkPolicy => gaps.cluster_policies = true,
                    Kind::NetworkPolicy => _ = gaps.namespaces.insert(namespace),
                },
            }
        }
        for unusable in unusable {
            match &unusable.name {
                Some(name) => _ = gaps.objects.insert(&name.namespace),
                None => gaps.anything = true,
            }
        }
        gaps
    }

    /// It may have been anything.
    fn take_anything(&mut self) {
        self.anything = true;
        self.services = true;
        self.cluster_policies = true;
    }

    /// Returns `true` if some workload, namespace or node may be missing.
    pub(super) fn in_objects(&self) -> bool {
        self.anything || self.nodes || !self.objects.is_empty()
    }

    /// Returns `true` if objects may be missing anywhere.
    pub(super) fn in_anything(&self) -> bool {
        self.anything
    }

    /// Returns `true` if nodes may be missing.
    pub(super) fn in_nodes(&self) -> bool {
        self.anything || self.nodes
    }

    /// Returns `true` if workloads of a namespace, or its labels, may be missing.
    pub(super) fn in_objects_of(&self, namespace: &str) -> bool {
        self.anything || self.objects.contains(namespace)
    }

    /// The namespaces where workloads, or labels, may be missing.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &'a str> {
        self.objects.iter().copied()
    }

    /// Returns `true` if Services, or their backends, may be missing.
    pub(super) fn in_services(&self) -> bool {
        self.services
    }

    /// Returns `true` if policies may be missing.
    pub(super) fn in_policies(&self) -> bool {
        self.cluster_policies || !self.namespaces.is_empty()
    }

    /// Returns `true` if policies about a namespace may be missing.
    pub(super) fn in_policies_of(&self, namespace: &str) -> bool {
        self.cluster_policies || self.namespaces.contains(namespace)
    }
}

/// The workloads that are missing: those that cannot be used, but for patches of what is
/// there.
pub(super) fn missing<'a>(
    unusable: impl Iterator<Item = &'a Unusable>,
    templates: &[&'a Template],
) -> Vec<&'a Unusable> {
    let known: BTreeSet<(&str, &str)> = (templates.iter())
        .map(|template| (&*template.kind, &*template.workload.name.name))
        .collect();
    // What renders patches may put their base into another namespace.
    let is_patch_of_known = |one: &&Unusable| {
        let name = one.name.as_ref().filter(|_| one.why == WhyUnusable::Patch);
        name.is_some_and(|name| known.contains(&(&*one.kind, &*name.name)))
    };
    unusable.filter(|one| !is_patch_of_known(one)).collect()
}
