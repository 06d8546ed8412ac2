//! Puts documents of many files together to one desired state.
//!
//! Invariant: no document wins by its place in the order. Two that contradict each
//! other are both left out; two that say the same count once. A pod that its node announces
//! and a document of its name are one: the document describes the pod.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{AddressTaken, Inventory, ObjectName, Owner, Workload};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};

use super::{ANNOUNCED_PREFIX, Content, Document, Identity, Rejected};

/// Most others that are named of those who claim an address, too. Each of a thousand
/// would name a thousand.
const MAX_NAMED: usize = 3;

/// The desired state, and what was left out of it.
#[derive(Debug, Clone, Default)]
pub struct Assembled {
    /// The desired state.
    pub inventory: Inventory,
    /// The documents that count: the first of those that say the same.
    pub documents: SharedMap<Identity, Document>,
    /// Of documents that stand in several places and say the same, all, in the order
    /// of places.
    pub repeated: SharedMap<Identity, Arc<[Document]>>,
    /// The documents that contradict others.
    pub rejected: Vec<Rejected>,
    /// Mistakes between documents, in the order of places.
    pub diagnostics: Vec<Diagnostic>,
}

/// Puts documents together, in whatever order they come.
#[must_use]
pub fn assemble(documents: impl IntoIterator<Item = Document>) -> Assembled {
    put_together(documents, |_| Severity::Error)
}

/// Puts documents of a repository together. There documents of one name in different
/// directories are mostly layers of which one is deployed: they are left out, and that is
/// no mistake.
#[must_use]
pub fn assemble_layers(documents: impl IntoIterator<Item = Document>) -> Assembled {
    put_together(documents, |same| {
        let directory = |document: &Document| {
            let file = document.place.file.as_ref();
            file.rsplit_once('/')
                .map_or("", |(directory, _)| directory)
                .to_owned()
        };
        let first = directory(&same[0]);
        if same.iter().all(|document| directory(document) == first) {
            Severity::Error
        } else {
            Severity::Warning
        }
    })
}

/// The same, with the severity of documents that contradict each other.
fn put_together(
    documents: impl IntoIterator<Item = Document>,
    severity: impl Fn(&[Document]) -> Severity,
) -> Assembled {
    let mut assembled = Assembled::default();
    let mut all: Vec<Document> = documents.into_iter().collect();
    all.sort_by(|one, other| one.identity.cmp(&other.identity));
    let mut all = all.into_iter().peekable();
    let mut unique = Vec::with_capacity(all.len());
    while let Some(document) = all.next() {
        let is_same = |next: &Document| next.identity == document.identity;
        let Some(second) = all.next_if(is_same) else {
            unique.push(document);
            continue;
        };
        let mut same = vec![document.clone(), second];
        same.extend(std::iter::from_fn(|| all.next_if(is_same)));
        unique.extend(assembled.one_of(&document.identity, in_order(same), &severity));
    }
    assembled.leave_out_shared_addresses(&mut unique);
    for document in unique {
        let stored = store(&mut assembled.inventory, &document);
        stored.expect("documents that share an address were left out before");
        let identity = document.identity.clone();
        assembled.documents.insert(identity, document);
    }
    assembled.rejected.sort();
    assembled.diagnostics.sort();
    assembled
}

impl Assembled {
    /// The one document of this identity, unless several contradict each other.
    fn one_of(
        &mut self,
        identity: &Identity,
        same: Vec<Document>,
        severity: &impl Fn(&[Document]) -> Severity,
    ) -> Option<Document> {
        if let Some(described) = described(&same) {
            self.repeated.insert(identity.clone(), same.into());
            return Some(described);
        }
        let first = same[0].place.clone();
        if agree(&same) {
            self.diagnostics.extend(repetitions(&same));
            let document = same[0].clone();
            if same.len() > 1 {
                self.repeated.insert(identity.clone(), same.into());
            }
            return Some(document);
        }
        let severity = severity(&same);
        let hint = match severity {
            Severity::Error => "all of them are left out: keep one",
            Severity::Warning => {
                "all of them are left out: if only one is deployed, check its directory alone, or                  what it renders"
            }
        };
        for document in same {
            let message = if document.place == first {
                format!("{identity} stands in several places that do not agree")
            } else {
                format!("{identity} does not agree with the one at {first}")
            };
            self.report(
                &document.place,
                Code::DuplicateDocument,
                severity,
                message,
                hint,
            );
            self.rejected.push(Rejected {
                place: document.place,
                identity: Some(identity.clone()),
            });
        }
        None
    }

    /// Nobody can say whose traffic a shared address is, so no owner has it.
    fn leave_out_shared_addresses(&mut self, documents: &mut Vec<Document>) {
        let mut claims: Vec<(IpAddr, usize)> = Vec::new();
        for (at, document) in documents.iter().enumerate() {
            let addresses = match &document.content {
                Content::Pod(pod) => pod.own_addresses(),
                Content::Node(node) => node.addresses.as_slice(),
                Content::Namespace(_)
                | Content::Service(_)
                | Content::EndpointSlice(_)
                | Content::NetworkPolicy(_)
                | Content::ClusterNetworkPolicy(_) => continue,
            };
            claims.extend(addresses.iter().map(|address| (*address, at)));
        }
        claims.sort_unstable();
        let owner = |document: &Document| match &document.content {
            Content::Pod(pod) => Owner::Workload(pod.name.clone()),
            _ => Owner::Node(document.identity.name.clone()),
        };
        let mut left_out: BTreeSet<usize> = BTreeSet::new();
        for claimants in claims.chunk_by(|(one, _), (other, _)| one == other) {
            for (address, at) in claimants.iter().filter(|_| claimants.len() > 1) {
                let others = claimants.iter().filter(|(_, other)| other != at);
                let mut others: Vec<String> = others
                    .take(MAX_NAMED)
                    .map(|(_, other)| owner(&documents[*other]).to_string())
                    .collect();
                let unnamed = claimants.len() - 1 - others.len();
                if unnamed > 0 {
                    others.push(format!("{unnamed} more"));
                }
                self.report(
                    &documents[*at].place,
                    Code::AddressConflict,
                    Severity::Error,
                    format!("address {address} is also that of {}", others.join(", ")),
                    "all of them are left out: a pod that has ended needs `status.phase`",
                );
                left_out.insert(*at);
            }
        }
        if left_out.is_empty() {
            return;
        }
        let all = std::mem::take(documents).into_iter().enumerate();
        for (at, document) in all {
            if left_out.contains(&at) {
                self.rejected.push(Rejected {
                    place: document.place,
                    identity: Some(document.identity),
                });
            } else {
                documents.push(document);
            }
        }
    }

    fn report(
        &mut self,
        place: &Place,
        code: Code,
        severity: Severity,
        message: String,
        hint: &str,
    ) {
        let found = finding(place, code, severity, message, hint);
        self.diagnostics.push(found);
    }
}

fn finding(
    place: &Place,
    code: Code,
    severity: Severity,
    message: String,
    hint: &str,
) -> Diagnostic {
    Diagnostic {
        place: place.clone(),
        code,
        severity,
        message,
        hint: Some(hint.to_owned()),
    }
}

/// Returns the pod that its node announces, with the labels and ports that documents of its
/// name give it; `None` if it is not a matter of those two.
///
/// The same holds of a node's own endpoints: a document says what they are, and the node where
/// they are. A document that puts the pod on another node contradicts the announcement.
fn described(same: &[Document]) -> Option<Document> {
    let is_announced = |document: &&Document| document.place.file.starts_with(ANNOUNCED_PREFIX);
    let (announced, written): (Vec<&Document>, Vec<&Document>) =
        same.iter().partition(is_announced);
    let ([announced], [first, others @ ..]) = (&announced[..], &written[..]) else {
        return None;
    };
    let (Content::Pod(running), Content::Pod(described)) = (&announced.content, &first.content)
    else {
        return None;
    };
    let is_here = described.node.is_none() || described.node == running.node;
    if !is_here || !others.iter().all(|other| says_the_same(first, other)) {
        return None;
    }
    let workload = Workload {
        labels: described.labels.clone(),
        ports: described.ports.clone(),
        ..(**running).clone()
    };
    Some(Document {
        content: Content::Pod(Arc::new(workload)),
        ..(*first).clone()
    })
}

/// Documents in the order of their places.
pub(super) fn in_order(mut documents: Vec<Document>) -> Vec<Document> {
    documents.sort_by(|a, b| a.place.cmp(&b.place));
    documents
}

/// Returns `true` if documents of one identity all say the same.
pub(super) fn agree(same: &[Document]) -> bool {
    same.windows(2).all(|pair| pair[0].says_the_same(&pair[1]))
}

/// Returns the findings about documents that repeat the first of them.
pub(super) fn repetitions(same: &[Document]) -> Vec<Diagnostic> {
    let Some((first, others)) = same.split_first() else {
        return Vec::new();
    };
    let Document {
        identity, place, ..
    } = first;
    // Namespaces and pods are commonly repeated beside what belongs to them.
    if !identity.kind.is_policy() {
        return Vec::new();
    }
    let said = |document: &Document| {
        finding(
            &document.place,
            Code::DuplicateDocument,
            Severity::Warning,
            format!("{identity} stands here a second time, the same as at {place}"),
            "remove one of them",
        )
    };
    others.iter().map(said).collect()
}

/// Puts what a document says into a desired state.
pub(super) fn store(inventory: &mut Inventory, document: &Document) -> Result<(), AddressTaken> {
    let Identity {
        namespace, name, ..
    } = &document.identity;
    match &document.content {
        Content::Namespace(namespace) => inventory.set_namespace(name, namespace.clone()),
        Content::Node(node) => inventory.set_node(name, node.clone())?,
        Content::Pod(workload) => inventory.set_workload(workload.clone())?,
        Content::Service(service) => inventory.set_service(service.clone()),
        Content::EndpointSlice(slice) => {
            let name = ObjectName {
                namespace: namespace.clone(),
                name: name.clone(),
            };
            inventory.set_slice(name, slice.clone());
        }
        Content::NetworkPolicy(policy) => inventory.set_policy(policy.clone()),
        Content::ClusterNetworkPolicy(policy) => inventory.set_cluster_policy(policy.clone()),
    }
    Ok(())
}

/// Returns `true` if two documents differ in nothing but their places.
fn says_the_same(a: &Document, b: &Document) -> bool {
    match (&a.content, &b.content) {
        (Content::NetworkPolicy(a), Content::NetworkPolicy(b)) => a.says_the_same(b),
        (Content::ClusterNetworkPolicy(a), Content::ClusterNetworkPolicy(b)) => a.says_the_same(b),
        (a, b) => a == b,
    }
}
