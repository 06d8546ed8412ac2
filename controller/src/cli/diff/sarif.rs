//! Changes as SARIF 2.1.0, each at the line of the new set that makes it.

use cofferdam_answers::connectivity::{ChangeReport, DiffReport, RuleOfSet};
use serde_json::{Value, json};

use super::super::check::sarif::{artifact, object, one_run};

/// Kinds of changes as rules of the log: id, level, and what it means.
const RULES: [(&str, &str, &str); 2] = [
    (
        "connection-added",
        "warning",
        "A connection is allowed that was not.",
    ),
    (
        "connection-removed",
        "note",
        "A connection is denied that was allowed.",
    ),
];

pub(super) fn log(report: &DiffReport) -> Value {
    let open = report
        .changes
        .iter()
        .filter(|change| change.approved.is_none());
    let results: Vec<Value> = open.map(|change| result(report, change)).collect();
    let rules = RULES.map(|(id, _, about)| json!({"id": id, "shortDescription": {"text": about}}));
    one_run(rules.into(), results)
}

fn result(report: &DiffReport, change: &ChangeReport) -> Value {
    let index = usize::from(change.kind != "added");
    let (id, level, _) = RULES[index];
    let ChangeReport {
        kind,
        source,
        destination,
        family,
        protocol,
        ports,
        ..
    } = change;
    let message = format!("{kind}: {source} -> {destination} {protocol}/{ports} over IPv{family}");
    let mut result = json!({
        "ruleId": id,
        "ruleIndex": index,
        "level": level,
        "message": {"text": message},
    });
    if let Some(RuleOfSet { rule, .. }) = change.rule.and_then(|rule| report.rule(rule)) {
        // A file of a revision lies where it lay.
        let file = match rule
            .file
            .strip_prefix("git:")
            .and_then(|rest| rest.split_once(':'))
        {
            Some((_, file)) => file,
            None => &rule.file,
        };
        let location = match rule.line {
            0 => object(file),
            line => json!({
                "physicalLocation": {
                    "artifactLocation": artifact(file),
                    "region": {"startLine": line},
                },
            }),
        };
        result["locations"] = json!([location]);
    }
    result
}
