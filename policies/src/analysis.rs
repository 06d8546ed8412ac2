//! What policies mean for what there is, where that is probably not what was meant.
//!
//! Everything here is a warning: the documents are valid and in force as they are.
//! The findings are held against the desired state: the workloads, namespaces and
//! nodes of the documents, and the Services and pod templates beside them.
//!
//! The modules, in order: `world` sorts workloads into groups that policies
//! tell apart; `rules` brings the rules of both kinds of policies into one form and
//! says how two of them lie to each other; then a module for each kind of question,
//! `selectors`, `ports`, `services`, `unseen`, `blocks`, `order`, `isolation` and `settings`.
//! `places` finds the line again; `gaps` knows what is missing for an error, and `allowed` what the
//! author says is meant.
//!
//! Invariants, sound: a rule is only said to be without effect when taking it out
//! would change no verdict about any packet of the workloads there are or of any
//! address outside. Quick: selectors are evaluated over groups and texts parsed again
//! only where something was found, so that the cost follows what policies tell apart
//! rather than policies times workloads.

mod allowed;
mod blocks;
mod gaps;
mod isolation;
mod nearest;
mod order;
mod places;
mod ports;
mod ranges;
mod rules;
mod selectors;
mod services;
mod settings;
mod together;
mod unseen;
mod world;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::diagnostic::{Code, Diagnostic, Place, Severity};
use crate::documents::context::Resource;
use crate::documents::{Assembled, Identity, Source};
use crate::inventory::{Service, Workload};

pub use allowed::without_allowed;

use gaps::Gaps;
use places::{Places, Step};
use rules::Rule;
use world::World;

/// What the questions are asked about.
struct Project<'a> {
    world: World<'a>,
    rules: Vec<Rule<'a>>,
    services: Vec<&'a Service>,
    resources: Vec<&'a Resource>,
    places: Places<'a>,
    /// Where documents begin, each document's first place.
    documents: BTreeMap<&'a Identity, &'a Place>,
    /// The files, in order.
    files: Vec<&'a str>,
    gaps: Gaps<'a>,
}

/// What was found.
#[derive(Default)]
struct Findings {
    list: Vec<Diagnostic>,
}

impl Findings {
    fn warn(&mut self, place: Place, code: Code, message: String, hint: String) {
        self.list.push(Diagnostic {
            place,
            code,
            severity: Severity::Warning,
            message,
            hint: Some(hint),
        });
    }
}

impl Project<'_> {
    /// The place that `path` leads to from the `spec` of a rule's policy.
    fn place_in(&self, rule: &Rule<'_>, path: &[Step<'_>]) -> Place {
        let mut full = vec![
            Step::Key(rules::section(rule.direction)),
            Step::Item(rule.index),
        ];
        full.extend(path);
        self.places.find(rule.policy.place(), &full)
    }
}

/// Holds policies against what there is. `assembled` is what the documents of
/// `sources` were put together to.
///
/// What was left out for an error is missing, and nothing is said that may only be due
/// to that.
#[must_use]
pub fn analyse(sources: &[Source], assembled: &Assembled) -> Vec<Diagnostic> {
    let inventory = &assembled.inventory;
    let contexts = || sources.iter().map(|source| &source.parsed.context);
    let services: Vec<&Service> = inventory.services().values().collect();
    let templates: Vec<&Workload> = contexts().flat_map(|context| &context.templates).collect();
    let resources: Vec<&Resource> = contexts().flat_map(|context| &context.resources).collect();
    let mut world = World::new(inventory, &templates, &services);
    for resource in &resources {
        world.mention(&resource.namespace);
    }
    let mut documents = BTreeMap::new();
    for document in sources.iter().flat_map(|source| &source.parsed.documents) {
        let place = documents
            .entry(&document.identity)
            .or_insert(&document.place);
        *place = (*place).min(&document.place);
    }
    let project = Project {
        rules: Rule::all(&world),
        world,
        services,
        resources,
        places: Places::new(sources),
        documents,
        files: sources.iter().map(|source| source.file.as_ref()).collect(),
        gaps: Gaps::new(
            (sources.iter())
                .flat_map(|source| &source.parsed.rejected)
                .chain(&assembled.rejected),
            contexts().any(|context| context.is_missing_templates),
        ),
    };
    let mut findings = Findings::default();
    if !project.gaps.in_objects() {
        selectors::check(&project, &mut findings);
        ports::check(&project, &mut findings);
        services::check(&project, &mut findings);
        unseen::check(&project, &mut findings);
    }
    blocks::check(&project, &mut findings);
    order::check(&project, &mut findings);
    isolation::check(&project, &mut findings);
    settings::check(&project, &mut findings);
    let mut list = findings.list;
    list.sort();
    list.dedup();
    list
}
