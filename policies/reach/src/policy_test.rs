//! Expectations: documents of kind `PolicyTest`, and whether they hold.
//!
//! ```yaml
//! apiVersion: cofferdam.dev/v1alpha1
//! kind: PolicyTest
//! metadata: {name: shop}
//! expect:
//! - {from: shop/web, to: shop/api, port: tcp/8080, verdict: allow}
//! - {from: external/internet, to: shop/db, port: tcp/5432, verdict: deny, by: shop/db}
//! externals: {internet: [203.0.113.7]}
//! ```
//!
//! An end may be a workload that is in no document: `{namespace: shop, labels: {app: new}}`.
//! [`suppose`] adds these to the desired state before it is asked.
//!
//! An expectation is about every family in which both ends have an address, and about
//! every pair of what its selectors match, but for an end and itself. ICMP is asked of
//! its own family only.
//!
//! Invariant: an expectation that is about nothing is a mistake and never holds.

mod check;
mod read;
#[cfg(test)]
mod tests;

use cofferdam_inventory::selectors::{LabelSelector, Labels};
use cofferdam_inventory::{Inventory, ObjectName, Workload};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::verdict::Action;

use crate::{Externals, Probe};

pub use check::{Failure, Misses, Outcome, Results, check};
pub use read::{API_VERSION, KIND, Tests, read};

/// A document of expectations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// Its name.
    pub name: String,
    /// Place of its first line.
    pub place: Place,
    /// The outside hosts it speaks of.
    pub externals: Externals,
    /// Its expectations, in the order of the text.
    pub expect: Vec<Expectation>,
}

impl PolicyTest {
    /// The ends that are called by their names.
    pub fn named_ends(&self) -> impl Iterator<Item = &str> {
        let choices = self.expect.iter().flat_map(|one| [&one.from, &one.to]);
        choices.filter_map(|choice| match &choice.ends {
            Ends::Named(name) => Some(name.as_str()),
            Ends::Selected { .. } | Ends::Supposed { .. } => None,
        })
    }
}

/// Adds the workloads to a desired state that expectations suppose to be there, each once. One
/// whose namespace is not there has labels that nothing says: it is left out, and so is no end.
pub fn suppose(inventory: &mut Inventory, tests: &[PolicyTest]) {
    let choices = tests
        .iter()
        .flat_map(|test| test.expect.iter().flat_map(|one| [&one.from, &one.to]));
    for choice in choices {
        let Ends::Supposed { namespace, labels } = &choice.ends else {
            continue;
        };
        if !inventory.namespaces().contains_key(namespace.as_str()) {
            continue;
        }
        let workload = Workload::supposed(supposed_name(namespace, labels), labels.clone());
        (inventory.set_workload(workload)).expect("what has no address takes nobody's");
    }
}

/// The name of a workload that is supposed to be there, which no pod can have:
/// `shop/(app=new)`.
fn supposed_name(namespace: &str, labels: &Labels) -> ObjectName {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    ObjectName::new(namespace, &format!("({})", labels.join(",")))
}

/// Expected verdict about some connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Place in the document.
    pub place: Place,
    /// Ends that open the connections.
    pub from: Choice,
    /// Ends to which the connections are opened.
    pub to: Choice,
    /// Protocol and port, type and code of ICMP, or another protocol alone.
    pub probe: Probe,
    /// Expected verdict in force.
    pub verdict: Action,
    /// The verdict with policies in audit mode in force as well.
    pub audit: Option<Action>,
    /// The policy that the verdict must be put down to: `namespace/name`, or `name`.
    pub by: Option<By>,
}

/// The ends that an expectation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Place in the document.
    pub place: Place,
    /// Ends by name or selector.
    pub ends: Ends,
}

/// One end by name, or all that a selector matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// `namespace/pod`, `node/NAME`, `service/NAMESPACE/NAME`, `external/NAME`, or an
    /// address.
    Named(String),
    /// Pods by their labels and their namespace's.
    Selected {
        /// The namespaces.
        namespaces: LabelSelector,
        /// The pods in them.
        pods: LabelSelector,
    },
    /// A workload that is in no document; it names no ports, and its node is not known.
    Supposed {
        /// Its namespace.
        namespace: String,
        /// Its labels.
        labels: Labels,
    },
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.ends {
            Ends::Named(name) => write!(f, "{}", cofferdam_documents::reader::Shown(name)),
            Ends::Selected { namespaces, pods } => f.write_str(&crate::selected(namespaces, pods)),
            Ends::Supposed { namespace, labels } => {
                write!(f, "{}", supposed_name(namespace, labels))
            }
        }
    }
}

/// A policy that is named, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// `namespace/name`, or `name` of a policy of the whole cluster.
    pub policy: String,
    /// Place of the name in the document.
    pub place: Place,
}
