//! Holds expectations against what the firewall would decide.

use std::collections::BTreeSet;

use cofferdam_compiler::{PolicyKind, RuleEntry, RuleKey};
use cofferdam_documents::hints::nearest;
use cofferdam_inventory::{Inventory, ObjectName, RuleAction};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Direction;

use crate::{Cell, End, Explanation, Externals, Reach, Side, Step};

use super::{Choice, Ends, Expectation, PolicyTest, supposed_name};

/// Most failures of one expectation that are explained. Selectors over a thousand pods
/// could have a million, and nobody reads on.
const MOST_FAILURES: usize = 20;

/// Result of checking one expectation.
#[derive(Debug, Clone)]
pub struct Outcome<'t> {
    /// The document it stands in.
    pub test: &'t PolicyTest,
    /// The expectation.
    pub expectation: &'t Expectation,
    /// Cells that were looked at.
    pub checked: usize,
    /// First of the cells that are not as expected.
    pub failures: Vec<Failure>,
    /// Number of further cells that are not as expected.
    pub unlisted: usize,
    /// Reasons for which it is about no cell.
    pub mistakes: Vec<Diagnostic>,
}

impl Outcome<'_> {
    /// Returns `true` if every cell is as expected, and there are some.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.failures.is_empty() && self.mistakes.is_empty()
    }
}

/// A cell that is not as expected.
#[derive(Debug, Clone)]
pub struct Failure {
    /// End that opens the connection.
    pub source: End,
    /// End to which it is opened.
    pub destination: End,
    /// Families over which the cell is not as expected.
    pub families: Vec<Family>,
    /// Property of a cell that is not as expected.
    pub misses: Misses,
    /// The cell and the way to it.
    pub explanation: Explanation,
    /// Of a denial, the rule that came nearest to allowing it, and its direction.
    pub nearest: Option<(Direction, Step)>,
}

/// Property of a cell that is not as expected; the first in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misses {
    /// The verdict in force.
    Verdict,
    /// The verdict with audit policies in force as well.
    Audit,
    /// The policy alone that the verdict is put down to.
    By,
}

/// Results of checking all expectations.
#[derive(Debug, Clone)]
pub struct Results<'t> {
    /// Outcome of each expectation, in order.
    pub outcomes: Vec<Outcome<'t>>,
    /// The rules that decided some cell of theirs, or passed it on, in force or in audit.
    pub exercised: BTreeSet<RuleKey>,
}

/// Checks all expectations.
#[must_use]
pub fn check<'t>(reach: &Reach, tests: &'t [PolicyTest]) -> Results<'t> {
    let mut checker = Checker {
        reach,
        policies: policies(reach.inventory()),
        exercised: BTreeSet::new(),
        unseen_passes: passes(reach.inventory()),
        supposed: supposed(tests),
    };
    let all = tests
        .iter()
        .flat_map(|test| test.expect.iter().map(move |one| (test, one)));
    Results {
        outcomes: all.map(|(test, one)| checker.outcome(test, one)).collect(),
        exercised: checker.exercised,
    }
}

/// The names of workloads that expectations suppose to be there.
fn supposed(tests: &[PolicyTest]) -> BTreeSet<String> {
    let all = tests.iter().flat_map(|test| &test.expect);
    let choices = all.flat_map(|one| [&one.from, &one.to]);
    let supposed = choices.filter_map(|choice| match &choice.ends {
        Ends::Supposed { namespace, labels } => Some(supposed_name(namespace, labels).to_string()),
        Ends::Named(_) | Ends::Selected { .. } => None,
    });
    supposed.collect()
}

/// The policies by the names that expectations have for them.
fn policies(inventory: &Inventory) -> BTreeSet<String> {
    let network = inventory.policies().keys().map(ToString::to_string);
    let cluster = inventory.cluster_policies().keys().map(ToString::to_string);
    network.chain(cluster).collect()
}

/// All rules that pass on.
fn passes(inventory: &Inventory) -> BTreeSet<RuleKey> {
    let mut passes = BTreeSet::new();
    for policy in inventory.cluster_policies().values() {
        for (direction, rules) in [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ] {
            let numbered = (0u32..).zip(rules);
            let passing = numbered.filter(|(_, rule)| rule.action == RuleAction::Pass);
            passes.extend(passing.map(|(index, _)| RuleKey {
                kind: PolicyKind::ClusterNetworkPolicy,
                policy: ObjectName::new("", &policy.name),
                direction,
                index: Some(index),
            }));
        }
    }
    passes
}

/// Returns the name by which an expectation calls the policy of a rule.
fn policy_name(rule: &RuleEntry) -> String {
    let name = &rule.key.policy.name;
    match rule.key.namespace() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_string(),
    }
}

struct Checker<'r> {
    reach: &'r Reach,
    policies: BTreeSet<String>,
    exercised: BTreeSet<RuleKey>,
    /// Rules that pass on, and of which no cell is known that they pass: cells are only
    /// walked for these.
    unseen_passes: BTreeSet<RuleKey>,
    supposed: BTreeSet<String>,
}

impl Checker<'_> {
    fn outcome<'t>(&mut self, test: &'t PolicyTest, expectation: &'t Expectation) -> Outcome<'t> {
        let mut outcome = Outcome {
            test,
            expectation,
            checked: 0,
            failures: Vec::new(),
            unlisted: 0,
            mistakes: Vec::new(),
        };
        if let Some(by) = &expectation.by
            && !self.policies.contains(&by.policy)
        {
            let known: Vec<&str> = self.policies.iter().map(String::as_str).collect();
            let hint = nearest(&by.policy, &known).map(|near| format!("did you mean `{near}`?"));
            let policy = cofferdam_documents::reader::Shown(&by.policy);
            let message = format!("there is no policy `{policy}`");
            outcome.mistakes.push(mistake(&by.place, message, hint));
        }
        let mut ends = |choice: &Choice, sends: bool| {
            let found = self.ends(choice, &test.externals, sends);
            found.map_err(|mistake| outcome.mistakes.push(mistake)).ok()
        };
        let sources = ends(&expectation.from, true);
        let destinations = ends(&expectation.to, false);
        let (Some(sources), Some(destinations)) = (sources, destinations) else {
            return outcome;
        };
        let by_name = |choice: &Choice| matches!(choice.ends, Ends::Named(_));
        let both_named = by_name(&expectation.from) && by_name(&expectation.to);
        for source in &sources {
            for destination in &destinations {
                // Everybody reaches himself; a selector does not mean that.
                if both_named || source.id() != destination.id() {
                    self.pair(&mut outcome, source, destination);
                }
            }
        }
        if outcome.checked == 0 {
            let nowhere = self.nowhere(expectation, &sources, &destinations);
            let why = nowhere.unwrap_or_else(|| {
                format!(
                    "{} and {} are never two ends with addresses of one family",
                    expectation.from, expectation.to
                )
            });
            let message = format!("nothing is tried: {why}");
            outcome
                .mistakes
                .push(mistake(&expectation.place, message, None));
        }
        outcome
    }

    /// Says why some pair of ends is never tried, when nobody is behind the receiver's address.
    fn nowhere(
        &self,
        expectation: &Expectation,
        sources: &[End],
        destinations: &[End],
    ) -> Option<String> {
        let probe = expectation.probe;
        let mut pairs =
            (sources.iter()).flat_map(|source| destinations.iter().map(move |to| (source, to)));
        let (_, destination) = pairs.find(|(source, destination)| {
            let mut families = [Family::V4, Family::V6].into_iter();
            families.any(|family| (self.reach).leads_nowhere(source, destination, probe, family))
        })?;
        Some(self.reach.why_nowhere(destination, probe))
    }

    fn ends(
        &self,
        choice: &Choice,
        externals: &Externals,
        sends: bool,
    ) -> Result<Vec<End>, Diagnostic> {
        let named = |name: &str| match sends {
            true => self.reach.sender(name, externals),
            false => self.reach.end(name, externals),
        };
        match &choice.ends {
            Ends::Named(name) => match named(name) {
                Ok(end) => Ok(vec![end]),
                Err(unknown) => Err(mistake(&choice.place, unknown.to_string(), None)),
            },
            Ends::Selected { namespaces, pods } => {
                let mut ends = self.reach.select(namespaces, pods);
                // Nobody means pods that are only supposed to be there.
                ends.retain(|end| !self.supposed.contains(end.id()));
                if ends.is_empty() {
                    return Err(mistake(
                        &choice.place,
                        format!("no pod is one of {choice}"),
                        None,
                    ));
                }
                Ok(ends)
            }
            Ends::Supposed { namespace, labels } => {
                let name = supposed_name(namespace, labels).to_string();
                let end = named(&name).map_err(|_| {
                    let message = format!(
                        "nothing in the documents is in a namespace `{namespace}`: its labels, \
                         which policies may ask for, are not known"
                    );
                    mistake(&choice.place, message, None)
                });
                Ok(vec![end?])
            }
        }
    }

    /// Looks at one pair of ends, over each family that both have.
    fn pair(&mut self, outcome: &mut Outcome<'_>, source: &End, destination: &End) {
        let expectation = outcome.expectation;
        let probe = expectation.probe;
        let families = [Family::V4, Family::V6].into_iter();
        for family in families.filter(|family| probe.family().is_none_or(|own| own == *family)) {
            let Some(cell) = self.reach.cell(source, destination, probe, family) else {
                continue;
            };
            outcome.checked += 1;
            for side in [&cell.egress, &cell.ingress] {
                for verdict in [&side.verdict, &side.audited] {
                    let rule = self.reach.rule_of(verdict);
                    self.exercised
                        .extend(rule.map(|(_, rule)| rule.key.clone()));
                }
            }
            if !self.unseen_passes.is_empty() {
                for key in self.reach.passed_by(&cell) {
                    self.unseen_passes.remove(&key);
                    self.exercised.insert(key);
                }
            }
            let Some(misses) = self.misses(&cell, expectation) else {
                continue;
            };
            // Families mostly fail alike, and are told of once.
            let is_full = outcome.failures.len() == MOST_FAILURES;
            let same = outcome.failures.last_mut().filter(|last| {
                last.source.id() == source.id()
                    && last.destination.id() == destination.id()
                    && last.misses == misses
                    && verdicts(&last.explanation.cell) == verdicts(&cell)
            });
            match same {
                Some(same) => same.families.push(family),
                None if is_full => outcome.unlisted += 1,
                None => {
                    let explanation = self.reach.explain(&cell);
                    outcome.failures.push(Failure {
                        source: source.clone(),
                        destination: destination.clone(),
                        families: vec![family],
                        misses,
                        nearest: self.reach.nearest(&explanation),
                        explanation,
                    });
                }
            }
        }
    }

    /// Returns what of a cell is not as expected; `None` if all of it is.
    fn misses(&self, cell: &Cell, expectation: &Expectation) -> Option<Misses> {
        if cell.action() != expectation.verdict || cell.depends_on_address {
            return Some(Misses::Verdict);
        }
        let audit = expectation.audit;
        if audit.is_some_and(|audit| audit != cell.audited_action()) {
            return Some(Misses::Audit);
        }
        (!self.is_by(cell, expectation)).then_some(Misses::By)
    }

    /// Returns `true` if the verdict is put down to the expected policy: its rule decides,
    /// or it is one of the policies that isolate.
    fn is_by(&self, cell: &Cell, expectation: &Expectation) -> bool {
        let Some(by) = &expectation.by else {
            return true;
        };
        let mut sides = [&cell.egress, &cell.ingress].into_iter();
        sides.any(|side| {
            side.verdict.action == cell.action()
                && blamed(self.reach, side).any(|rule| policy_name(rule) == by.policy)
        })
    }
}

/// The rules that a verdict is put down to.
fn blamed<'r>(reach: &'r Reach, side: &Side) -> impl Iterator<Item = &'r RuleEntry> {
    let rule = reach.rule_of(&side.verdict).map(|(_, rule)| rule);
    let isolating = reach.isolated_by(&side.verdict).map(|(_, rule)| rule);
    rule.into_iter().chain(isolating)
}

fn verdicts(cell: &Cell) -> [cofferdam_verdict::verdict::Verdict; 2] {
    [cell.egress.verdict, cell.ingress.verdict]
}

fn mistake(place: &Place, message: String, hint: Option<String>) -> Diagnostic {
    Diagnostic {
        place: place.clone(),
        code: Code::ExpectsNothing,
        severity: Severity::Error,
        message,
        hint,
    }
}
