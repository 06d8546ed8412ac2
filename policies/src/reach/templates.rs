//! Templates of pods, where the documents are those of a repository.
//!
//! A Deployment in a repository has no pods yet, and yet people ask who will reach
//! them. So a template stands for its pods, as one pod under the name of what holds it.
//! In a cluster's documents it does not: there the pods themselves are.

use std::collections::{BTreeSet, HashMap};

use crate::inventory::{Inventory, ObjectName, Workload};
use crate::selectors::Labels;

/// Adds a pod for each template of which the documents have no pod: none in its
/// namespace that carries all its labels, and none of its name.
pub fn add_templates<'t>(
    inventory: &mut Inventory,
    templates: impl IntoIterator<Item = &'t Workload>,
) {
    let mut pods: HashMap<&str, Vec<&Labels>> = HashMap::new();
    for pod in inventory.workloads().values() {
        let labels = pods.entry(&pod.name.namespace).or_default();
        labels.push(&pod.labels);
    }
    let mut names: BTreeSet<&ObjectName> = inventory.workloads().keys().collect();
    let is_made = |template: &Workload| {
        let pods = pods.get(&*template.name.namespace);
        pods.is_some_and(|pods| pods.iter().any(|pod| carries(pod, &template.labels)))
    };
    let missing: Vec<Workload> = (templates.into_iter())
        .filter(|template| !is_made(template) && names.insert(&template.name))
        .map(|template| Workload {
            addresses: Vec::new(),
            ..template.clone()
        })
        .collect();
    for template in missing {
        (inventory.set_workload(template)).expect("what has no address takes nobody's");
    }
}

/// Whether an object has all these labels.
fn carries(object: &Labels, labels: &Labels) -> bool {
    (labels.iter()).all(|(key, value)| object.get(key) == Some(value))
}
