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
//! An expectation is about every family in which both ends have an address, and about
//! every pair of what its selectors match, but for an end and itself. ICMP is asked of
//! its own family only.
//!
//! Invariant: an expectation that is about nothing is a mistake and never holds.

mod check;
mod read;
#[cfg(test)]
mod tests;

use cofferdam_verdict::verdict::Action;

use crate::diagnostic::Place;
use crate::reach::{Externals, Probe};
use crate::selectors::LabelSelector;

pub use check::{Failure, Outcome, Results, check};
pub use read::{API_VERSION, KIND, Tests, read};

/// A document of expectations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// The outside hosts it speaks of.
    pub externals: Externals,
    /// What is expected.
    pub expect: Vec<Expectation>,
}

impl PolicyTest {
    /// The ends that are called by their names.
    pub fn named_ends(&self) -> impl Iterator<Item = &str> {
        let choices = self.expect.iter().flat_map(|one| [&one.from, &one.to]);
        choices.filter_map(|choice| match &choice.ends {
            Ends::Named(name) => Some(name.as_str()),
            Ends::Selected { .. } => None,
        })
    }
}

/// What is expected of some connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Where it stands.
    pub place: Place,
    /// Who connects.
    pub from: Choice,
    /// To whom.
    pub to: Choice,
    /// To what.
    pub probe: Probe,
    /// Whether they may.
    pub verdict: Action,
    /// The policy that the verdict must be put down to: `namespace/name`, or `name`.
    pub by: Option<By>,
}

/// The ends that an expectation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where it stands.
    pub place: Place,
    /// Which.
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
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.ends {
            Ends::Named(name) => write!(f, "{}", crate::documents::reader::Shown(name)),
            Ends::Selected { namespaces, pods } => {
                f.write_str(&crate::reach::selected(namespaces, pods))
            }
        }
    }
}

/// A policy that is named, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// `namespace/name`, or `name` of a policy of the whole cluster.
    pub policy: String,
    /// Where it is named.
    pub place: Place,
}
