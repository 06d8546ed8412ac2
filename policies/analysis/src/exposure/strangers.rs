//! Workloads that do not exist, for questions about those that might.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator, Requirement};
use cofferdam_inventory::{
    ClusterPeer, Inventory, NAMESPACE_NAME_LABEL, ObjectName, Peer, Workload,
};
use cofferdam_reach::selected;

use crate::connectivity::Outside;

/// A party beyond the documents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Any pod, whatever its labels, of a namespace that is not in the documents.
    AnyNamespace,
    /// Any pod of a namespace, whatever its labels.
    Namespace(Arc<str>),
    /// Pods with certain labels.
    Labels {
        /// The namespace that they lie in, if it must be that one.
        namespace: Option<Arc<str>>,
        /// Pods and namespaces in words.
        words: String,
    },
    /// Outside addresses.
    Outside(Outside),
}

impl Who {
    /// Returns `true` if whoever is meant by another is meant by this, too.
    pub(super) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AnyNamespace, Self::Namespace(_) | Self::Labels { .. }) => true,
            (Self::Namespace(own), Self::Labels { namespace, .. }) => {
                namespace.as_ref() == Some(own)
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyNamespace => f.write_str("every pod of namespaces that are not here"),
            Self::Namespace(name) => write!(f, "every pod of namespace {name}"),
            Self::Labels { words, .. } => f.write_str(words),
            Self::Outside(outside) => f.write_str(&outside.id()),
        }
    }
}

/// Workloads that were added.
pub(super) struct Strangers {
    added: BTreeMap<ObjectName, Who>,
    order: Vec<ObjectName>,
}

impl Strangers {
    /// Adds one of each kind, the most general first.
    pub(super) fn add(inventory: &mut Inventory) -> Self {
        let mut strangers = Self {
            added: BTreeMap::new(),
            order: Vec::new(),
        };
        let namespaces: Vec<Arc<str>> = inventory.namespaces().keys().cloned().collect();
        let peers = peers(inventory);
        let nowhere = strangers.namespace(inventory, &Labels::default());
        strangers.pod(inventory, &nowhere, Labels::default(), Who::AnyNamespace);
        for name in &namespaces {
            let who = Who::Namespace(name.clone());
            strangers.pod(inventory, name, Labels::default(), who);
        }
        for (scope, pods) in peers {
            let Some(labels) = satisfying(&pods) else {
                continue;
            };
            let (namespace, of, words) = match &scope {
                Scope::Own(name) => {
                    let named = Operator::In([(&**name).into()].into());
                    let named = Requirement::new(NAMESPACE_NAME_LABEL, named);
                    let words = selected(&[named].into_iter().collect(), &pods);
                    (name.clone(), Some(name.clone()), words)
                }
                Scope::Selected(selector) => {
                    let words = selected(selector, &pods);
                    match strangers.selected_namespace(inventory, selector, &nowhere) {
                        Some((namespace, of)) => (namespace, of, words),
                        None => continue,
                    }
                }
            };
            // Of a peer without labels enough has been said, unless its namespace has some.
            let is_said = labels.iter().len() == 0 && (of.is_some() || namespace == nowhere);
            if !is_said {
                let who = Who::Labels {
                    namespace: of,
                    words,
                };
                strangers.pod(inventory, &namespace, labels, who);
            }
        }
        strangers
    }

    /// All of them, the most general first.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectName, &Who)> {
        self.order.iter().map(|name| (name, &self.added[name]))
    }

    /// A namespace that a selector matches: a known one by its name, else a new one; and the
    /// known one.
    fn selected_namespace(
        &mut self,
        inventory: &mut Inventory,
        selector: &LabelSelector,
        nowhere: &Arc<str>,
    ) -> Option<(Arc<str>, Option<Arc<str>>)> {
        if selector.requirements().is_empty() {
            return Some((nowhere.clone(), None));
        }
        let labels = satisfying(selector)?;
        if let Some(name) = labels.get(NAMESPACE_NAME_LABEL) {
            let name: Arc<str> = name.into();
            let is_named = selector.requirements().iter().any(|requirement| {
                requirement.key() == NAMESPACE_NAME_LABEL
                    && matches!(requirement.operator(), Operator::In(_))
            });
            if is_named {
                match inventory.namespaces().get(&name) {
                    None => inventory.set_namespace(&name, &labels),
                    Some(own) if !selector.matches(&own.labels) => return None,
                    Some(_) => {}
                }
                return Some((name.clone(), Some(name)));
            }
        }
        let name = self.namespace(inventory, &labels);
        let own = inventory.namespaces().get(&name)?;
        selector.matches(&own.labels).then_some((name, None))
    }

    /// A new namespace with labels.
    fn namespace(&mut self, inventory: &mut Inventory, labels: &Labels) -> Arc<str> {
        let mut number = self.order.len();
        loop {
            let name = format!("cofferdam-stranger-{number}");
            if !inventory.namespaces().contains_key(name.as_str()) {
                inventory.set_namespace(&name, labels);
                return name.into();
            }
            number += 1;
        }
    }

    fn pod(&mut self, inventory: &mut Inventory, namespace: &str, labels: Labels, who: Who) {
        let mut number = self.order.len();
        let mut name = ObjectName::new(namespace, &format!("cofferdam-stranger-{number}"));
        while inventory.workloads().contains_key(&name) {
            number += 1;
            name = ObjectName::new(namespace, &format!("cofferdam-stranger-{number}"));
        }
        let pod = Workload::supposed(name.clone(), labels);
        (inventory.set_workload(pod)).expect("what has no address takes nobody's");
        self.added.insert(name.clone(), who);
        self.order.push(name);
    }
}

/// The namespaces of a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Own(Arc<str>),
    Selected(LabelSelector),
}

/// All peers that rules name by labels, each once.
fn peers(inventory: &Inventory) -> Vec<(Scope, LabelSelector)> {
    let mut peers = Vec::new();
    for policy in inventory.policies().values() {
        let rules = [&policy.ingress, &policy.egress];
        for peer in rules
            .into_iter()
            .flatten()
            .flatten()
            .flat_map(|rule| rule.peers.iter().flatten())
        {
            if let Peer::Workloads {
                namespaces,
                workloads,
            } = peer
            {
                let scope = match namespaces {
                    None => Scope::Own(policy.name.namespace.clone()),
                    Some(selector) => Scope::Selected(selector.clone()),
                };
                peers.push((scope, workloads.clone()));
            }
        }
    }
    for policy in inventory.cluster_policies().values() {
        let rules = policy.ingress.iter().chain(&policy.egress);
        for peer in rules.flat_map(|rule| rule.peers.iter().flatten()) {
            if let ClusterPeer::Workloads(selector) = peer {
                let scope = Scope::Selected(selector.namespaces.clone());
                peers.push((scope, selector.workloads.clone()));
            }
        }
    }
    peers.sort();
    peers.dedup();
    peers
}

/// The fewest labels that a selector matches; `None` if none do.
fn satisfying(selector: &LabelSelector) -> Option<Labels> {
    let mut labels = Labels::default();
    for requirement in selector.requirements() {
        let key = requirement.key();
        if labels.get(key).is_some() {
            continue;
        }
        let of_key = || {
            selector
                .requirements()
                .iter()
                .filter(|one| one.key() == key)
        };
        let holds = |value: Option<&str>| of_key().all(|one| one.holds(value));
        if holds(None) {
            continue;
        }
        let named = of_key().flat_map(|one| match one.operator() {
            Operator::In(values) => &values[..],
            _ => &[],
        });
        // A value that nobody names is none of those that are refused.
        let mut values = named.map(|value| &**value).chain(["any", "any-other"]);
        labels = labels.with(key, values.find(|value| holds(Some(*value)))?);
    }
    selector.matches(&labels).then_some(labels)
}
