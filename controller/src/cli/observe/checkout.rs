//! Rules in a local checkout of the policies: `--sources`.
//!
//! An agent names the place where it has a policy from, which may be another machine's or an
//! API server's. The checkout is read as `check` reads it, and a rule is found there by kind,
//! namespace, name, direction and index.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cofferdam_compiler::PolicyKind;
use cofferdam_inventory::{Inventory, ObjectName};
use cofferdam_protocol::output::{FlowRecord, RuleName};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::verdict::Direction;

use crate::cli::project::{Project, ReadArgs};

/// The policies of a checkout.
pub(super) struct Checkout {
    policies: Inventory,
}

impl Checkout {
    /// Reads files and directories. Documents with mistakes are left out: `check` tells them.
    ///
    /// # Errors
    /// If a file cannot be read, or there is none.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self> {
        let project = Project::read(paths, &ReadArgs::default())
            .context("cannot read the policies of --sources")?;
        Ok(Self {
            policies: project.assemble().inventory,
        })
    }

    /// Points a record's rules at the checkout. A rule that is not there keeps the place that
    /// the agent has named.
    pub(super) fn resolve(&self, record: &mut FlowRecord) {
        let direction = record.direction;
        for rule in record.rule.iter_mut().chain(&mut record.isolated_by) {
            if let Some(place) = self.place(rule, direction) {
                rule.file = place.file.to_string();
                rule.line = place.line;
            }
        }
    }

    fn place(&self, rule: &RuleName, direction: Direction) -> Option<&Place> {
        let index = match rule.index {
            Some(index) => Some(usize::try_from(index).ok()?),
            None => None,
        };
        if rule.kind == PolicyKind::NetworkPolicy.as_str() {
            let name = ObjectName::new(rule.namespace.as_deref()?, &rule.name);
            let policy = self.policies.policies().get(&name)?;
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            return match index {
                None => Some(&policy.place),
                Some(index) => Some(&rules.as_ref()?.get(index)?.place),
            };
        }
        let policy = self.policies.cluster_policies().get(rule.name.as_str())?;
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        match index {
            None => Some(&policy.place),
            Some(index) => Some(&rules.get(index)?.place),
        }
    }
}
