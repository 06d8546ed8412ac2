//! `cofferdam test`.

mod junit;
mod text;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_answers::explain::Rules;
use cofferdam_answers::reach::{
    CellReport, CoverageReport, ExpectationReport, FailureReport, RuleReport, TestReport, Word,
};
use cofferdam_policies::compiler::{PolicyKind, RuleEntry, RuleKey};
use cofferdam_policies::diagnostic::Place;
use cofferdam_policies::expectations::{self, Failure, Outcome, PolicyTest, Results};
use cofferdam_policies::inventory::{Inventory, ObjectName, Tier};
use cofferdam_policies::reach::{Backends, Reach};
use cofferdam_protocol::output::Schema;
use cofferdam_verdict::verdict::{Action, Direction};

use super::check::Texts;
use super::etcd::EtcdArgs;
use super::explain::{named, reason};
use super::offline::{Documents, OwnNodeArg, family_number};
use super::print;
use super::project::{PodArgs, Project, ReadArgs};

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Files and directories of documents, PolicyTests among them; `-` is standard
    /// input.
    #[arg(value_name = "PATH", required_unless_present = "etcd")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    pods: PodArgs,
    /// What the agents are configured to do with connections of a workload's own node.
    #[arg(long, value_enum, default_value_t)]
    own_node: OwnNodeArg,
    /// How to print.
    #[arg(long, value_enum, default_value_t = TestFormat::Text)]
    format: TestFormat,
    /// Also lists the rules that no expectation exercises.
    #[arg(long)]
    coverage: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TestFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// JUnit XML, for what shows results of tests.
    Junit,
}

pub(super) fn run(args: &TestArgs) -> Result<bool> {
    let sources = Project::read(&args.etcd.and(&args.paths), &args.reading)?.sources;
    let mut tests: Vec<PolicyTest> = Vec::new();
    let mut diagnostics = Vec::new();
    for source in &sources {
        let read = expectations::read(&source.file, &source.text);
        tests.extend(read.tests);
        diagnostics.extend(read.diagnostics);
    }
    let named = tests.iter().flat_map(PolicyTest::named_ends);
    let mut documents = Documents::asked_about(&sources, named);
    documents.diagnostics.extend(diagnostics);
    documents.diagnostics.sort();
    if tests.is_empty() && documents.are_good() {
        bail!(
            "no {} of {} is among the documents: there is nothing to check",
            expectations::KIND,
            expectations::API_VERSION
        );
    }
    let reach = documents.reach_in(&args.pods.networks(), args.own_node)?;
    let results = expectations::check(&reach, &tests);
    let report = report(&reach, &documents, &results, args.coverage);
    match args.format {
        TestFormat::Json => {
            let line = serde_json::to_string(&report).context("cannot write JSON")?;
            print(&(line + "\n"))?;
        }
        TestFormat::Junit => {
            documents.complain();
            print(&junit::report(&report).context("cannot write XML")?)?;
        }
        TestFormat::Text => {
            documents.complain();
            let ends = report
                .expectations
                .iter()
                .flat_map(|one| [&one.from, &one.to]);
            let remark = documents.remark(ends.map(String::as_str));
            print(&(text::report(&report, &Texts::new(&sources)) + &remark))?;
        }
    }
    Ok(report.failed == 0 && documents.are_good())
}

fn report(
    reach: &Reach,
    documents: &Documents,
    results: &Results<'_>,
    with_coverage: bool,
) -> TestReport {
    let mut rules = Rules::new(reach);
    let outcomes = results.outcomes.iter();
    let expectations: Vec<ExpectationReport> = outcomes
        .map(|outcome| expectation(reach, &mut rules, outcome))
        .collect();
    let coverage = with_coverage.then(|| {
        let all = all_rules(&documents.inventory);
        let unexercised = all
            .iter()
            .filter(|rule| !results.exercised.contains(&rule.key));
        let unexercised: Vec<u32> = unexercised.map(|rule| rules.number(rule)).collect();
        CoverageReport {
            rules: all.len() as u64,
            exercised: (all.len() - unexercised.len()) as u64,
            unexercised,
        }
    });
    let passed = expectations.iter().filter(|one| one.holds).count();
    TestReport {
        schema: Schema,
        passed: passed as u64,
        failed: (expectations.len() - passed) as u64,
        expectations,
        rules: rules.into_reports(),
        coverage,
        diagnostics: documents.reported(),
    }
}

fn expectation(reach: &Reach, rules: &mut Rules<'_>, outcome: &Outcome<'_>) -> ExpectationReport {
    let expected = outcome.expectation;
    let failures = outcome.failures.iter();
    ExpectationReport {
        test: outcome.test.name.clone(),
        file: expected.place.file.to_string(),
        line: expected.place.line,
        from: expected.from.to_string(),
        to: expected.to.to_string(),
        port: expected.probe.to_string(),
        verdict: expected.verdict.into(),
        by: expected.by.as_ref().map(|by| by.policy.clone()),
        holds: outcome.holds(),
        checked: outcome.checked as u64,
        failures: failures
            .map(|failed| failure(reach, rules, outcome, failed))
            .collect(),
        unlisted: outcome.unlisted as u64,
        mistakes: outcome
            .mistakes
            .iter()
            .map(cofferdam_answers::diagnostic)
            .collect(),
    }
}

fn failure(
    reach: &Reach,
    rules: &mut Rules<'_>,
    outcome: &Outcome<'_>,
    failure: &Failure,
) -> FailureReport {
    let cell = &failure.explanation.cell;
    rules.cell(cell);
    let nearest = failure.nearest.as_ref();
    FailureReport {
        families: failure
            .families
            .iter()
            .copied()
            .map(family_number)
            .collect(),
        message: message(reach, outcome, failure),
        cell: CellReport::new(
            reach,
            (&failure.source, &failure.destination),
            outcome.expectation.probe,
            Some(cell),
        ),
        nearest: nearest.map(|(direction, step)| rules.nearest(*direction, step)),
    }
}

/// `expected deny, got allow: egress no policy decides; ingress by …`.
fn message(reach: &Reach, outcome: &Outcome<'_>, failure: &Failure) -> String {
    let cell = &failure.explanation.cell;
    let got = Word::from(cell.action()).as_str();
    let sides = [
        (Direction::Egress, &cell.egress),
        (Direction::Ingress, &cell.ingress),
    ];
    let sides = sides.into_iter().filter(|(_, side)| {
        // What allows does not matter to a denial.
        cell.action() == Action::Allow || side.verdict.action == Action::Deny
    });
    let sides: Vec<String> = sides
        .map(|(direction, side)| {
            let direction = cofferdam_answers::reach::direction_word(direction);
            let isolating: Vec<String> = (reach.isolated_by(&side.verdict))
                .map(|(number, entry)| named(&RuleReport::new(number, entry)))
                .collect();
            let why = match reach.rule_of(&side.verdict) {
                Some((number, entry)) => format!("by {}", named(&RuleReport::new(number, entry))),
                None if isolating.is_empty() => reason(side.verdict.reason.name()),
                None => format!(
                    "isolated by {}, and no rule allows it",
                    isolating.join("; ")
                ),
            };
            format!("{direction} {why}")
        })
        .collect();
    let mut sides = sides.join("; ");
    if let Some(Backends { allowed, total }) = cell.backends {
        sides += &format!(" ({allowed} of {total} backends may be reached)");
    }
    match &outcome.expectation.by {
        _ if cell.depends_on_address => {
            let expected = Word::from(outcome.expectation.verdict).as_str();
            format!(
                "expected {expected}, and it depends on the address of an end that no document \
                 gives one; --pod-cidr decides: {sides}"
            )
        }
        Some(by) if failure.is_only_by => {
            format!("{got} as expected, but not by {}: {sides}", by.policy)
        }
        _ => {
            let expected = Word::from(outcome.expectation.verdict).as_str();
            format!("expected {expected}, got {got}: {sides}")
        }
    }
}

/// All rules of an inventory, of policies that select nobody too.
fn all_rules(inventory: &Inventory) -> Vec<RuleEntry> {
    let mut all = Vec::new();
    let mut add = |kind, policy: &ObjectName, tier: Tier, direction, places: Vec<&Place>| {
        for (index, place) in (0u32..).zip(places) {
            all.push(RuleEntry {
                key: RuleKey {
                    kind,
                    policy: policy.clone(),
                    direction,
                    index: Some(index),
                },
                tier,
                place: place.clone(),
            });
        }
    };
    for policy in inventory.policies().values() {
        let sides = [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ];
        for (direction, rules) in sides {
            let places = rules.iter().flatten().map(|rule| &rule.place).collect();
            add(
                PolicyKind::NetworkPolicy,
                &policy.name,
                Tier::Namespace,
                direction,
                places,
            );
        }
    }
    for policy in inventory.cluster_policies().values() {
        let name = ObjectName::new("", &policy.name);
        let sides = [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ];
        for (direction, rules) in sides {
            let places = rules.iter().map(|rule| &rule.place).collect();
            add(
                PolicyKind::ClusterNetworkPolicy,
                &name,
                policy.tier,
                direction,
                places,
            );
        }
    }
    all
}
