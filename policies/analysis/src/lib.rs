//! Finds policies that probably do not mean what their author meant, held against the
//! workloads and Services of the documents.
//!
//! Everything here is a warning: the documents are valid and in force as they are.
//! The findings are held against the desired state: the workloads, namespaces and
//! nodes of the documents, and the Services and pod templates beside them.
//!
//! The modules, in order: `world` sorts workloads into groups that policies
//! tell apart; `rules` brings the rules of both kinds of policies into one form and
//! says how two of them lie to each other; then a module for each kind of question,
//! `selectors`, `ports`, `services`, `unseen`, `blocks`, `order`, `isolation`, `lookups`,
//! `openings`, `paths` and `settings`.
//! `mutants` leaves out or widens one part of a policy after the other, for `cofferdam test`.
//! `places` finds the line again; `gaps` knows what is missing for an error, and `allowed` what the
//! author says is meant.
//!
//! Beside the findings, [`connectivity`] lists who reaches whom on which ports, and
//! [`exposure`] who may come from beyond the documents.
//!
//! The crate must not know how findings and lists are printed, nor where documents come
//! from: no file, no clock, no kernel.
//!
//! Invariants, sound: a rule is only said to be without effect when taking it out
//! would change no verdict about any packet of the workloads there are or of any
//! address outside. Quick: selectors are evaluated over groups and texts parsed again
//! only where something was found, so that the cost follows what policies tell apart
//! rather than policies times workloads.

#![forbid(unsafe_code)]

mod allowed;
mod blocks;
pub mod connectivity;
pub mod exposure;
mod gaps;
mod isolation;
mod lookups;
mod mutants;
mod nearest;
mod openings;
mod order;
mod paths;
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

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_documents::context::{Entrance, Resource, Template, Unusable, WhyUnusable};
use cofferdam_documents::reader::Shown;
use cofferdam_documents::{Assembled, Identity, Source};
use cofferdam_inventory::{ObjectName, Service, Workload};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};

pub use allowed::{Allowance, Unallowed, without_allowed};
pub use mutants::{Mutant, mutants};

use gaps::Gaps;
use places::{PathStep, Places};
use rules::Rule;
use world::World;

/// Everything that a finding may be derived from.
struct Project<'a> {
    world: World<'a>,
    rules: Vec<Rule<'a>>,
    services: Vec<&'a Service>,
    resources: Vec<&'a Resource>,
    /// Namespaces with a resource that an operator may make pods of.
    operated: BTreeSet<&'a str>,
    entrances: Vec<&'a Entrance>,
    /// Places of what holds templates, by the names of their pods.
    templates: BTreeMap<&'a ObjectName, &'a Place>,
    places: Places<'a>,
    /// First place of each document.
    documents: BTreeMap<&'a Identity, &'a Place>,
    /// The files, in order.
    files: Vec<&'a str>,
    gaps: Gaps<'a>,
}

/// Findings so far.
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
    /// Returns `true` if workloads at either end of a rule may be missing.
    fn may_miss_workloads(&self, rule: &Rule<'_>) -> bool {
        let may_miss = |scope| {
            let mut gaps = self.gaps.namespaces();
            gaps.any(|namespace| self.world.is_in(scope, namespace))
        };
        rule.scopes().into_iter().any(may_miss)
    }

    /// The place that `path` leads to from the `spec` of a rule's policy.
    fn place_in(&self, rule: &Rule<'_>, path: &[PathStep<'_>]) -> Place {
        let mut full = vec![
            PathStep::Key(rules::section(rule.direction)),
            PathStep::Item(rule.index),
        ];
        full.extend(path);
        self.places.find(rule.policy.place(), &full)
    }
}

/// Names a workload that cannot be used.
fn unused(one: &Unusable, findings: &mut Findings) {
    let name = one.name.as_ref().map(|name| format!(" {name}"));
    let name = format!("{}{}", Shown(&one.kind), name.unwrap_or_default());
    // Repositories are full of patches, which lack nothing once they are rendered.
    if one.why == WhyUnusable::Unreadable {
        findings.warn(
            one.place.clone(),
            Code::WorkloadUnusable,
            format!("the pods of {name} are not known: its name or template cannot be read"),
            "nothing is said of selectors in its namespace that may mean them".to_owned(),
        );
    }
}

/// Holds policies against what there is. `assembled` is what the documents of
/// `sources` were put together to.
///
/// Objects that were left out for an error are missing here. There is no finding that may
/// be due to that alone.
#[must_use]
pub fn analyse(sources: &[Source], assembled: &Assembled) -> Vec<Diagnostic> {
    let inventory = &assembled.inventory;
    let contexts = || sources.iter().map(|source| &source.parsed.context);
    let services: Vec<&Service> = inventory.services().values().collect();
    let templates: Vec<&Template> = contexts().flat_map(|context| &context.templates).collect();
    let resources: Vec<&Resource> = contexts().flat_map(|context| &context.resources).collect();
    let unusable = contexts().flat_map(|context| &context.unusable);
    let missing = gaps::missing(unusable, &templates);
    let workloads: Vec<&Workload> = templates.iter().map(|one| &one.workload).collect();
    let mut world = World::new(inventory, &workloads, &services);
    for resource in &resources {
        world.mention(&resource.namespace);
    }
    for name in missing.iter().filter_map(|one| one.name.as_ref()) {
        world.mention(&name.namespace);
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
        operated: (resources.iter().copied())
            .filter(|resource| selectors::may_make_pods(resource))
            .map(|resource| &*resource.namespace)
            .collect(),
        resources,
        entrances: contexts().flat_map(|context| &context.entrances).collect(),
        templates: (templates.iter())
            .map(|one| (&one.workload.name, &one.place))
            .collect(),
        places: Places::new(sources),
        documents,
        files: sources.iter().map(|source| source.file.as_ref()).collect(),
        gaps: Gaps::new(
            (sources.iter())
                .flat_map(|source| &source.parsed.rejected)
                .chain(&assembled.rejected),
            missing.iter().copied(),
        ),
    };
    let mut findings = Findings::default();
    for one in missing {
        unused(one, &mut findings);
    }
    if !project.gaps.in_anything() {
        selectors::check(&project, &mut findings);
        ports::check(&project, &mut findings);
        services::check(&project, &mut findings);
    }
    if !project.gaps.in_objects() {
        unseen::check(&project, &mut findings);
    }
    blocks::check(&project, &mut findings);
    order::check(&project, &mut findings);
    isolation::check(&project, &mut findings);
    lookups::check(&project, &mut findings);
    openings::check(&project, &mut findings);
    paths::check(&project, &mut findings);
    settings::check(&project, &mut findings);
    let mut list = findings.list;
    list.sort();
    list.dedup();
    list
}
