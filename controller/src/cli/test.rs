//! `cofferdam test`.

mod junit;
mod mutation;
mod text;
mod watch;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_answers::explain::Rules;
use cofferdam_answers::reach::{
    CellReport, CoverageReport, ExpectationReport, FailureReport, RuleReport, TestReport, Word,
};
use cofferdam_compiler::{PolicyKind, RuleEntry, RuleKey};
use cofferdam_inventory::{Inventory, ObjectName, Tier};
use cofferdam_protocol::output::Schema;
use cofferdam_reach::policy_test::{self, Failure, Misses, Outcome, PolicyTest, Results};
use cofferdam_reach::{Backends, Reach, Side};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::verdict::{Action, Direction};

use super::check::Texts;
use super::cluster::ClusterArgs;
use super::etcd::EtcdArgs;
use super::explain::{named, reason};
use super::offline::{Documents, OwnNodeArg, family_number};
use super::print;
use super::project::{PodArgs, Project, ReadArgs};
use mutation::Original;
use watch::Watch;

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Files and directories of documents, PolicyTests among them; `-` is standard
    /// input.
    #[arg(value_name = "PATH", required_unless_present_any = ["etcd", "cluster"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    pods: PodArgs,
    /// The agents' setting for connections of a workload's own node.
    #[arg(long, value_enum, default_value_t)]
    own_node: OwnNodeArg,
    /// Print in this form.
    #[arg(long, value_enum, default_value_t = TestFormat::Text)]
    format: TestFormat,
    /// Also lists the rules that no expectation exercises.
    #[arg(long)]
    coverage: bool,
    /// Also leaves out or widens each part of each policy in turn, and lists what no
    /// expectation notices.
    #[arg(long)]
    mutate: bool,
    /// Ends with status 1 if expectations notice less than so many percent of --mutate.
    #[arg(long, value_name = "N", requires = "mutate", value_parser = clap::value_parser!(u64).range(0..=100))]
    min_score: Option<u64>,
    /// Runs again whenever a file changes, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["etcd", "cluster"])]
    watch: bool,
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
    if !args.watch {
        return run_once(args);
    }
    if args.paths.iter().any(|path| path.as_os_str() == "-") {
        bail!("standard input cannot be watched: name files and directories");
    }
    loop {
        // A new one each time: there may be new directories.
        let watch = Watch::over(&args.paths)?;
        if let Err(error) = run_once(args) {
            eprintln!("cofferdam: {error:#}");
        }
        watch.wait()?;
    }
}

fn run_once(args: &TestArgs) -> Result<bool> {
    let sources =
        Project::read_with(&args.etcd.and(&args.paths), &args.reading, &args.cluster)?.sources;
    let mut tests: Vec<PolicyTest> = Vec::new();
    let mut diagnostics = Vec::new();
    for source in &sources {
        let read = policy_test::read(&source.file, &source.text);
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
            policy_test::KIND,
            policy_test::API_VERSION
        );
    }
    policy_test::suppose(&mut documents.inventory, &tests);
    let networks = args.pods.networks();
    let reach = documents.reach_in(&networks, args.own_node)?;
    let results = policy_test::check(&reach, &tests);
    let mut report = report(&reach, &documents, &results, args.coverage);
    let holds = report.failed == 0 && documents.are_good();
    if args.mutate && !holds {
        eprintln!("cofferdam: mutants are tried when every expectation holds");
    }
    if args.mutate && holds {
        report.mutation = Some(mutation::run(&Original {
            inventory: &documents.inventory,
            reach: &reach,
            sources: &sources,
            tests: &tests,
            networks: &networks,
        })?);
    }
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
    let score = report.mutation.as_ref().and_then(|mutation| mutation.score);
    let is_enough = (args.min_score).is_none_or(|least| score.is_some_and(|score| score >= least));
    Ok(holds && is_enough)
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
        mutation: None,
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
        audit: expected.audit.map(Word::from),
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
    let expectation = outcome.expectation;
    let (got, expected) = match failure.misses {
        Misses::Audit => (cell.audited_action(), expectation.audit),
        Misses::Verdict | Misses::By => (cell.action(), Some(expectation.verdict)),
    };
    let word = |action: Action| Word::from(action).as_str();
    let expected = expected.map_or("nothing", word);
    let verdict = |side: &Side| match failure.misses {
        Misses::Audit => side.audited,
        Misses::Verdict | Misses::By => side.verdict,
    };
    let sides = [
        (Direction::Egress, verdict(&cell.egress)),
        (Direction::Ingress, verdict(&cell.ingress)),
    ];
    let sides = sides.into_iter().filter(|(_, verdict)| {
        // What allows does not matter to a denial.
        got == Action::Allow || verdict.action == Action::Deny
    });
    let sides: Vec<String> = sides
        .map(|(direction, verdict)| {
            let direction = cofferdam_answers::reach::direction_word(direction);
            let isolating: Vec<String> = (reach.isolated_by(&verdict))
                .map(|(number, entry)| named(&RuleReport::new(number, entry)))
                .collect();
            let why = match reach.rule_of(&verdict) {
                Some((number, entry)) => format!("by {}", named(&RuleReport::new(number, entry))),
                None if isolating.is_empty() => reason(verdict.reason.name()),
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
    let got = word(got);
    match (failure.misses, &expectation.by) {
        _ if cell.depends_on_address => format!(
            "expected {expected}, and it depends on the address of an end that no document \
             gives one; --pod-cidr decides: {sides}"
        ),
        (Misses::By, Some(by)) => {
            format!("{got} as expected, but not by {}: {sides}", by.policy)
        }
        (Misses::Audit, _) => {
            format!("expected {expected} with audit policies enforced, got {got}: {sides}")
        }
        _ => format!("expected {expected}, got {got}: {sides}"),
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
