//! Results for people: what does not hold, and a closing line.

use std::fmt::Write as _;

use cofferdam_answers::reach::{ExpectationReport, MutantReport, MutationReport, TestReport};
use cofferdam_protocol::output::{Diagnostic, Severity, place};

use crate::cli::check::Texts;
use crate::cli::explain::{named, nearest_miss};

pub(super) fn report(report: &TestReport, texts: &Texts<'_>) -> String {
    let mut text = String::new();
    for failed in report.expectations.iter().filter(|one| !one.holds) {
        expectation(&mut text, report, failed, texts);
    }
    if let Some(coverage) = &report.coverage {
        put(
            &mut text,
            format_args!(
                "{} of {} rules are exercised",
                coverage.exercised, coverage.rules
            ),
        );
        let rules = coverage.unexercised.iter();
        for rule in rules.filter_map(|id| report.rules.iter().find(|rule| rule.id == *id)) {
            put(&mut text, format_args!("  not exercised: {}", named(rule)));
        }
    }
    if let Some(mutation) = &report.mutation {
        mutants(&mut text, mutation);
    }
    let total = report.passed + report.failed;
    let is_wrong = |one: &Diagnostic| one.severity == Severity::Error;
    match report.failed {
        // With what was left out, what holds may hold for another reason, and not all was
        // asked.
        0 if report.diagnostics.iter().any(is_wrong) => put(
            &mut text,
            format_args!(
                "{} of {total} expectations hold, but there are errors in documents",
                report.passed
            ),
        ),
        0 if total == 0 => put(&mut text, format_args!("there is no expectation to check")),
        0 if total == 1 => put(&mut text, format_args!("the 1 expectation holds")),
        0 => put(&mut text, format_args!("all {total} expectations hold")),
        1 => put(
            &mut text,
            format_args!("1 of {total} expectations does not hold"),
        ),
        failed => put(
            &mut text,
            format_args!("{failed} of {total} expectations do not hold"),
        ),
    }
    text
}

/// Changes of policies, and those that no expectation notices.
fn mutants(text: &mut String, mutation: &MutationReport) {
    for one in &mutation.unnoticed {
        let MutantReport {
            policy,
            what,
            file,
            line,
            column,
        } = one;
        let place = place(file, &[*line, *column]);
        put(text, format_args!("{place}: not noticed: {policy}: {what}"));
    }
    let MutationReport {
        mutants,
        noticed,
        unnoticed,
        equivalent,
        ..
    } = mutation;
    let score = match mutation.score {
        Some(score) => format!("; score {score}"),
        None => String::new(),
    };
    put(
        text,
        format_args!(
            "{noticed} of {mutants} changes of policies are noticed, {} are not, {} change nothing{score}",
            unnoticed.len(),
            equivalent.len()
        ),
    );
}

/// An expectation that does not hold, and why.
fn expectation(
    text: &mut String,
    report: &TestReport,
    failed: &ExpectationReport,
    texts: &Texts<'_>,
) {
    put(
        text,
        format_args!("{}:{}: does not hold", failed.file, failed.line),
    );
    if let Some(line) = texts.line(&failed.file, failed.line) {
        put(
            text,
            format_args!("    {:>4} | {}", failed.line, line.trim_end()),
        );
    }
    for mistake in &failed.mistakes {
        put(text, format_args!("  {mistake}"));
    }
    for line in reasons(report, failed) {
        put(text, format_args!("  {line}"));
    }
    put(text, format_args!(""));
}

/// Lists the cells in which an expectation does not hold, each with its nearest rule.
pub(super) fn reasons(report: &TestReport, failed: &ExpectationReport) -> Vec<String> {
    let mut lines = Vec::new();
    for failure in &failed.failures {
        let families: Vec<String> = (failure.families.iter())
            .map(|family| format!("IPv{family}"))
            .collect();
        let cell = &failure.cell;
        lines.push(format!(
            "{} to {} {} ({}): {}",
            cell.source,
            cell.destination,
            cell.probe,
            families.join(", "),
            failure.message
        ));
        if let Some(nearest) = &failure.nearest {
            let rule = report.rules.iter().find(|rule| rule.id == nearest.rule);
            lines.push(format!("nearest miss: {}", nearest_miss(nearest, rule)));
        }
    }
    if failed.unlisted > 0 {
        let unlisted = failed.unlisted;
        lines.push(format!(
            "{unlisted} more cells are not as expected, and are not listed"
        ));
    }
    lines
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string");
}
