//! The next state from the one before, where few files have changed.
//!
//! Putting the documents of a large cluster together takes half a second, and most
//! changes are of one file. Here only what stands in changed files is looked at.
//! Wherever something is not plainly right (a document is invalid, or contradicts
//! another, a file became empty) nothing comes of it, and everything is put together
//! by the rules of `last_good`.
//!
//! Invariant: what comes of it is what [`LastGood::settle`] comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_inventory::{Inventory, ObjectName};

use super::assemble::{agree, in_order, repetitions, store};
use super::file::{Source, SourceMap};
use super::kept::Kept;
use super::last_good::{LastGood, Settled};
use super::{Content, Document, Identity};

/// Material of a state without any mistake.
#[derive(Debug, Clone)]
pub(super) struct Basis {
    files: SourceMap,
    /// Names of files with findings: warnings, as there is no mistake.
    diagnosed: BTreeSet<Arc<str>>,
    repeated: SharedMap<Identity, Arc<[Document]>>,
}

/// A document that counts, and says something else than before.
struct Replaced {
    before: Option<Document>,
    after: Option<Document>,
}

impl Basis {
    /// None when files cannot be told apart by their names.
    pub(super) fn new(
        sources: &[Source],
        repeated: SharedMap<Identity, Arc<[Document]>>,
    ) -> Option<Self> {
        let named = sources.iter();
        let files: SourceMap = named
            .map(|source| (source.file.clone(), source.clone()))
            .collect();
        let diagnosed = sources
            .iter()
            .filter(|source| has_findings(source))
            .map(|source| source.file.clone())
            .collect();
        (files.len() == sources.len()).then_some(Self {
            files,
            diagnosed,
            repeated,
        })
    }

    /// Lets go of its own map of the files for one of the same.
    pub(super) fn share_files(&mut self, files: &SourceMap) {
        self.files = files.clone();
    }

    /// The state after `before`, whose basis this is; none when everything must be put
    /// together.
    pub(super) fn amend(&self, before: &Settled, sources: &SourceMap) -> Option<Settled> {
        let changes = self.files.changes(sources);
        let changed: BTreeSet<&str> = changes.iter().map(|change| &**change.key).collect();
        let mut next = Self {
            files: sources.clone(),
            ..self.clone()
        };
        let mut accepted = before.accepted;
        let mut kept = before.last_good.files.clone();
        let mut affected: BTreeMap<&Identity, Vec<&Document>> = BTreeMap::new();
        for change in &changes {
            let (name, said, says) = (
                change.key,
                documents(change.before),
                documents(change.after),
            );
            if let Some(source) = change.after {
                let became_empty = source.is_blank() && !said.is_empty();
                if became_empty || !source.parsed.rejected.is_empty() {
                    return None;
                }
            }
            match change.after.filter(|source| has_findings(source)) {
                Some(_) => _ = next.diagnosed.insert(name.clone()),
                None => _ = next.diagnosed.remove(name),
            }
            match change.after.filter(|_| !says.is_empty()) {
                Some(source) => _ = kept.insert(name.clone(), Kept::Whole(source.clone())),
                None => _ = kept.remove(name),
            }
            accepted = accepted + says.len() - said.len();
            for document in said {
                affected.entry(&document.identity).or_default();
            }
            for document in says {
                let now = affected.entry(&document.identity).or_default();
                now.push(document);
            }
        }
        let mut counting = before.last_good.documents.clone();
        let mut replaced = Vec::new();
        let mut repeated = self.repeated.clone();
        for (identity, new) in affected {
            let before = counting.get(identity).cloned();
            let everywhere = match self.repeated.get(identity) {
                Some(everywhere) => everywhere,
                None => before.as_slice(),
            };
            let elsewhere = everywhere
                .iter()
                .filter(|one| !changed.contains(&*one.place.file));
            let all = in_order(elsewhere.chain(new).cloned().collect());
            if !agree(&all) {
                return None;
            }
            let after = all.first().cloned();
            if all.len() > 1 {
                repeated.insert(identity.clone(), all.into());
            } else {
                repeated.remove(identity);
            }
            match &after {
                _ if before == after => continue,
                Some(document) => _ = counting.insert(identity.clone(), document.clone()),
                None => _ = counting.remove(identity),
            }
            let [said, says] = [&before, &after].map(|one| one.as_ref().map(|one| &one.content));
            if said != says {
                replaced.push(Replaced { before, after });
            }
        }
        let mut inventory = before.inventory.clone();
        replace(&mut inventory, &replaced, &counting)?;
        next.repeated = repeated;
        let diagnosed = next.diagnosed.iter();
        let mut diagnostics: Vec<_> = diagnosed
            .filter_map(|name| next.files.get(name))
            .flat_map(|source| source.parsed.diagnostics.iter().cloned())
            .chain(next.repeated.values().flat_map(|all| repetitions(all)))
            .collect();
        diagnostics.sort();
        diagnostics.dedup();
        Some(Settled {
            inventory,
            accepted,
            rejected: Vec::new(),
            unprecedented: 0,
            diagnostics,
            last_good: LastGood {
                documents: counting,
                files: kept,
            },
            basis: Some(next),
        })
    }
}

fn has_findings(source: &Source) -> bool {
    !source.parsed.diagnostics.is_empty()
}

fn documents(source: Option<&Source>) -> &[Document] {
    source.map_or(&[], |source| &source.parsed.documents)
}

/// Puts documents in place of others; none when they claim an address that somebody
/// else has.
fn replace(
    inventory: &mut Inventory,
    replaced: &[Replaced],
    counting: &SharedMap<Identity, Document>,
) -> Option<()> {
    let mut namespaces: BTreeSet<&str> = BTreeSet::new();
    // Addresses pass from one to another only when they have been given up.
    for document in replaced.iter().filter_map(|one| one.before.as_ref()) {
        let Identity {
            namespace, name, ..
        } = &document.identity;
        match &document.content {
            Content::Namespace(_) => _ = namespaces.insert(name),
            Content::Node(_) => _ = inventory.remove_node(name),
            Content::Pod(workload) => _ = inventory.remove_workload(&workload.name),
            Content::Service(service) => _ = inventory.remove_service(&service.name),
            Content::EndpointSlice(_) => {
                let name = ObjectName {
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                inventory.remove_slice(&name);
            }
            Content::NetworkPolicy(policy) => _ = inventory.remove_policy(&policy.name),
            Content::ClusterNetworkPolicy(_) => _ = inventory.remove_cluster_policy(name),
        }
        if !namespace.is_empty() {
            namespaces.insert(namespace);
        }
    }
    for document in replaced.iter().filter_map(|one| one.after.as_ref()) {
        store(inventory, document).ok()?;
    }
    for name in namespaces {
        let identity = Identity {
            kind: super::Kind::Namespace,
            namespace: Arc::from(""),
            name: Arc::from(name),
        };
        if !counting.contains_key(&identity) {
            inventory.forget_namespace(name);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Documents that now and then repeat, contradict and need each other.
    fn document() -> impl Strategy<Value = String> {
        let namespace = prop::sample::select(vec!["x", "y"]);
        let name = prop::sample::select(vec!["a", "b", "c"]);
        let label = prop::sample::select(vec!["", "l: v", "l: w"]);
        prop_oneof![
            2 => (namespace.clone(), label.clone()).prop_map(|(namespace, label)| format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: \
                 {{{label}}}}}\n"
            )),
            1 => (name.clone(), 1..9u8).prop_map(|(name, address)| format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: 10.0.0.{address}}}]}}\n"
            )),
            4 => (namespace.clone(), name.clone(), label.clone(), 1..30u8, any::<bool>())
                .prop_map(|(namespace, name, label, address, has_ended)| format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, \
                     labels: {{{label}}}}}\nstatus: {{podIP: 10.0.0.{address}, phase: {}}}\n",
                    if has_ended { "Failed" } else { "Running" }
                )),
            4 => (namespace.clone(), name.clone(), label).prop_map(|(namespace, name, label)| format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{podSelector: {{matchLabels: {{{label}}}}}}}\n"
            )),
            2 => (namespace.clone(), name.clone(), 1..30u8).prop_map(|(namespace, name, address)| {
                format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: \
                     {namespace}}}\nspec: {{clusterIP: 10.1.0.{address}}}\n"
                )
            }),
            2 => (namespace.clone(), name.clone(), 1..30u8).prop_map(|(namespace, name, address)| {
                format!(
                    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
                     {name}, namespace: {namespace}}}\naddressType: IPv4\n\
                     endpoints: [{{addresses: [10.0.0.{address}]}}]\n"
                )
            }),
            1 => (name, 0..3u8).prop_map(|(name, priority)| format!(
                "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                 metadata: {{name: {name}}}\nspec: {{tier: Admin, priority: {priority}, subject: \
                 {{namespaces: {{}}}}}}\n"
            )),
        ]
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        let documents = prop::collection::vec(document(), 0..4);
        let texts = documents.prop_map(|documents| documents.join("---\n"));
        prop_oneof![
            12 => texts.prop_map(Some),
            1 => Just(Some("apiVersion: [\n".to_owned())),
            2 => Just(None),
        ]
    }

    fn is_same(one: &Settled, other: &Settled) {
        assert_eq!(one.inventory, other.inventory);
        assert_eq!(one.last_good.documents, other.last_good.documents);
        assert_eq!(one.last_good.files, other.last_good.files);
        assert_eq!(one.rejected, other.rejected);
        assert_eq!(one.diagnostics, other.diagnostics);
        assert_eq!(
            (one.accepted, one.unprecedented, one.basis.is_some()),
            (other.accepted, other.unprecedented, other.basis.is_some())
        );
        if let (Some(one), Some(other)) = (&one.basis, &other.basis) {
            assert_eq!(one.repeated, other.repeated);
        }
    }

    proptest! {
        #[test]
        fn the_next_state_is_what_putting_everything_together_comes_to(
            changes in prop::collection::vec((0..4usize, text()), 1..24)
        ) {
            let mut files: [Option<Source>; 4] = <_>::default();
            let mut state = Settled::default();
            for (at, text) in changes {
                // The last one is a pod that its node announces, or contradicts what it is.
                let name = match at {
                    3 => "etcd:endpoints/n/x/a".to_owned(),
                    _ => format!("f{at}"),
                };
                files[at] = text.map(|text| {
                    Source::new(Arc::from(name.as_str()), Arc::from(text.as_bytes()))
                });
                let sources: Vec<Source> = files.iter().flatten().cloned().collect();
                let next = state.next(&by_name(&sources), Vec::new());
                is_same(&next, &state.last_good.settle(&sources, Vec::new()));
                state = next;
            }
        }
    }

    fn by_name(sources: &[Source]) -> SourceMap {
        let named = sources.iter();
        named
            .map(|source| (source.file.clone(), source.clone()))
            .collect()
    }

    fn source(file: &str, text: &str) -> Source {
        Source::new(Arc::from(file), Arc::from(text.as_bytes()))
    }

    fn pod(name: &str, address: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {name}}}\n\
             status: {{podIP: {address}}}\n"
        )
    }

    #[test]
    fn only_what_changed_is_looked_at_while_nothing_is_wrong() {
        let others = source("others", &pod("a", "10.0.0.1"));
        let first = [others.clone(), source("one", &pod("b", "10.0.0.2"))];
        let state = Settled::default().next(&by_name(&first), Vec::new());
        let amended = |texts: &[&str]| {
            let files = ["one", "two"].into_iter().zip(texts);
            let mut sources: Vec<Source> = files.map(|(file, text)| source(file, text)).collect();
            sources.push(others.clone());
            let basis = state.basis.as_ref().unwrap();
            basis.amend(&state, &by_name(&sources))
        };
        assert!(amended(&[&pod("b", "10.0.0.3")]).is_some());
        assert!(amended(&[]).is_some(), "a file that has gone");
        assert!(amended(&[&pod("b", "10.0.0.2"), &pod("c", "10.0.0.3")]).is_some());
        let passed_on = amended(&[&pod("c", "10.0.0.2")]).unwrap();
        assert_eq!(
            passed_on.inventory.namespaces().len(),
            2,
            "b is gone with its pod"
        );
        assert!(
            amended(&[&pod("b", "10.0.0.1")]).is_none(),
            "an address of another"
        );
        assert!(amended(&[""]).is_none(), "became empty");
        assert!(amended(&["apiVersion: ["]).is_none());
        let repeated = amended(&[&pod("b", "10.0.0.2"), &pod("a", "10.0.0.1")]).unwrap();
        assert_eq!((repeated.accepted, repeated.last_good.len()), (3, 2));
        assert!(amended(&[&pod("b", "10.0.0.2"), &pod("a", "10.0.0.4")]).is_none());
    }
}
