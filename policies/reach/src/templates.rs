//! Templates of pods, where the documents are those of a repository.
//!
//! A Deployment in a repository has no pods yet, and yet people ask who will reach
//! them. So a template stands for its pods, under the name of what holds it. Where there are
//! several, a second one stands beside it, since a pod and another of the same workload
//! are two: `shop/db` and `shop/db#2`. Where nothing says how many there are, others are
//! there if they are asked about. In a cluster's documents templates stand for nothing:
//! there the pods themselves are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_documents::context::{Context, Replicas, Template};
use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::{Inventory, ObjectName, Workload};
use foldhash::{HashMap, HashSet};

/// Labels of the pods that documents have, by namespace and one of their labels.
type Labelled<'i> = HashMap<(&'i str, &'i str, &'i str), Vec<&'i Labels>>;

/// An end that stands for pods of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// Its name.
    pub name: ObjectName,
    /// The kind of what holds the template.
    pub kind: Box<str>,
}

/// Adds pods for each template of which the documents have none: none in its namespace that
/// carries all its labels, and is called after it where it has no labels.
///
/// Two workloads of one name and namespace are two ends: the second has its kind behind its
/// name, `shop/web@statefulset`. `asked` are ends that questions name. Returns the pods that
/// were added.
pub fn add_templates<'t, 'e>(
    inventory: &mut Inventory,
    contexts: impl IntoIterator<Item = &'t Context>,
    asked: impl IntoIterator<Item = &'e str>,
) -> Vec<StandIn> {
    let mut added = Vec::new();
    let asked = asked.into_iter().filter_map(replica);
    let mut replicas: HashMap<&str, BTreeSet<u32>> = HashMap::default();
    for (end, number) in asked {
        replicas.entry(end).or_default().insert(number);
    }
    let contexts: Vec<&Context> = contexts.into_iter().collect();
    let scaled: HashSet<&ObjectName> = contexts.iter().flat_map(|one| &one.scaled).collect();
    let mut templates: Vec<&Template> = contexts.iter().flat_map(|one| &one.templates).collect();
    // Names do not depend on the order of files.
    templates.sort_by(|a, b| {
        let key = |one: &&'t Template| (&one.workload.name, &one.kind, &one.place);
        key(a).cmp(&key(b))
    });
    let made = Made::of(inventory);
    let missing: Vec<&Template> = (templates.into_iter())
        .filter(|template| !made.has(&template.workload))
        .collect();
    drop(made);
    let mut names: BTreeSet<ObjectName> = inventory.workloads().keys().cloned().collect();
    let mut known: BTreeMap<(&ObjectName, &str), Vec<&Workload>> = BTreeMap::new();
    for template in missing {
        let of_name = known
            .entry((&template.workload.name, &template.kind))
            .or_default();
        // The same workload in another layer of a repository is no other one.
        if of_name.iter().any(|one| is_same(one, &template.workload)) {
            continue;
        }
        of_name.push(&template.workload);
        let name = free_name(&names, template);
        names.insert(name.clone());
        let is_scaled = scaled.contains(&template.workload.name);
        let own_name: Arc<str> = template.workload.name.name.clone();
        let mut numbers = BTreeSet::from([1]);
        if is_scaled || template.replicas == Replicas::Many {
            numbers.insert(2);
        }
        if is_scaled || template.replicas != Replicas::One {
            let asked = replicas.get(&*name.to_string());
            numbers.extend(asked.into_iter().flatten());
        }
        for number in numbers {
            let name = match number {
                1 => name.clone(),
                _ => ObjectName::new(&name.namespace, &format!("{}#{number}", name.name)),
            };
            added.push(StandIn {
                name: name.clone(),
                kind: template.kind.clone(),
            });
            let pod = Workload {
                name,
                labels: labels(template, &own_name, number),
                addresses: Vec::new(),
                ..template.workload.clone()
            };
            (inventory.set_workload(pod)).expect("what has no address takes nobody's");
        }
    }
    added
}

/// The end and the number of `namespace/name#number`; `None` of ends without a number, and
/// of the first, which has none.
fn replica(end: &str) -> Option<(&str, u32)> {
    let (end, number) = end.rsplit_once('#')?;
    let number: u32 = number.parse().ok()?;
    (number >= 2).then_some((end, number))
}

/// The labels of a pod, with those that its controller gives it.
fn labels(template: &Template, name: &str, number: u32) -> Labels {
    let labels = &template.workload.labels;
    match &*template.kind {
        "StatefulSet" => labels.with(
            "statefulset.kubernetes.io/pod-name",
            &format!("{name}-{}", number - 1),
        ),
        "Job" => labels
            .with("job-name", name)
            .with("batch.kubernetes.io/job-name", name),
        _ => labels.clone(),
    }
}

/// A name that no other end has.
fn free_name(names: &BTreeSet<ObjectName>, template: &Template) -> ObjectName {
    let name = &template.workload.name;
    let by_kind = format!("{}@{}", name.name, template.kind.to_lowercase());
    let numbered = (2..).map(|number| format!("{}@{number}", name.name));
    let mut others = [by_kind].into_iter().chain(numbered);
    let mut candidate = name.clone();
    while names.contains(&candidate) {
        let other = others.next().unwrap_or_default();
        candidate = ObjectName::new(&name.namespace, &other);
    }
    candidate
}

/// Returns `true` if policies cannot tell two templates apart.
fn is_same(one: &Workload, other: &Workload) -> bool {
    one.labels == other.labels && one.ports == other.ports && one.host_network == other.host_network
}

/// The pods that documents have.
struct Made<'i> {
    labelled: Labelled<'i>,
    names: BTreeSet<&'i ObjectName>,
}

impl<'i> Made<'i> {
    fn of(inventory: &'i Inventory) -> Self {
        let mut made = Self {
            labelled: HashMap::default(),
            names: BTreeSet::new(),
        };
        for (name, pod) in inventory.workloads() {
            made.names.insert(name);
            for (key, value) in pod.labels.iter() {
                let with_label = made.labelled.entry((&name.namespace, key, value));
                with_label.or_default().push(&pod.labels);
            }
        }
        made
    }

    /// Returns `true` if there is a pod of this template.
    fn has(&self, template: &Workload) -> bool {
        let namespace: &str = &template.name.namespace;
        let with = |(key, value)| self.labelled.get(&(namespace, key, value));
        let fewest = (template.labels.iter())
            .map(|label| with(label).map_or(&[][..], Vec::as_slice))
            .min_by_key(|pods| pods.len());
        let Some(fewest) = fewest else {
            let begin = ObjectName::new(
                namespace,
                &format!("{}-", template.name.name.trim_end_matches('-')),
            );
            let next = self.names.range::<&ObjectName, _>(&begin..).next();
            return next.is_some_and(|name| {
                name.namespace == begin.namespace && name.name.starts_with(&*begin.name)
            });
        };
        fewest.iter().any(|pod| carries(pod, &template.labels))
    }
}

/// Returns `true` if an object has all these labels.
fn carries(object: &Labels, labels: &Labels) -> bool {
    (labels.iter()).all(|(key, value)| object.get(key) == Some(value))
}
