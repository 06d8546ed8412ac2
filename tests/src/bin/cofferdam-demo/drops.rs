//! Reasons for which each attempt of the intruder was dropped, as the agent tells them.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use cofferdam_tests::{expectations::Template, packet::Family, traffic::Probe};
use serde_json::Value;

use crate::{
    shop::{Member, Shop, shown},
    table::Reachability,
};

/// Explanations of denied attempts.
pub(crate) struct Explained {
    /// Number of attempts that have one, of those that were denied.
    pub(crate) count: usize,
    /// Attempts that have none, or not the right one, in words.
    pub(crate) objections: Vec<String>,
    /// In words: what was tried, and why it was dropped.
    pub(crate) lines: Vec<String>,
}

/// Looks up the denied attempts of `source` among flow records.
pub(crate) fn explained(
    source: &str,
    shop: &Shop<'_>,
    template: &Template,
    reachability: &Reachability,
    records: &[Value],
    policies: &Path,
) -> Result<Explained> {
    let mut objections = Vec::new();
    let mut count = 0;
    // What was tried, and why it failed, by family: mostly the same in both.
    let mut reasons: BTreeMap<(&str, Probe, String), Vec<Family>> = BTreeMap::new();
    let attempts = reachability
        .denied()
        .filter(|question| question.source == source);
    for question in attempts {
        let ends = [shop.member(source)?, shop.member(&question.destination)?];
        let record = record_of(ends, question.family, question.probe, records);
        let explanation = record
            .and_then(|record| explanation(record, policies))
            .and_then(|explanation| {
                let by = template
                    .expected
                    .get(question)
                    .and_then(|said| said.by.as_ref());
                match by {
                    Some(by) if !explanation.policies.contains(by) => {
                        Err(format!("not put down to {by}: {}", explanation.text))
                    }
                    _ => Ok(explanation.text),
                }
            });
        match explanation {
            Ok(text) => {
                count += 1;
                let key = (question.destination.as_str(), question.probe, text);
                reasons.entry(key).or_default().push(question.family);
            }
            Err(objection) => objections.push(format!("{question}: {objection}")),
        }
    }
    let line = |((destination, probe, text), families): (&(&str, Probe, String), &Vec<Family>)| {
        let only = match families[..] {
            [family] => format!(" ({family} only)"),
            _ => String::new(),
        };
        format!("{destination} {}{only}: {text}", shown(*probe))
    };
    let lines = reasons.iter().map(line).collect();
    Ok(Explained {
        count,
        objections,
        lines,
    })
}

/// Explains why packets between two members were dropped, in either family.
pub(crate) fn why(
    ends: [&Member; 2],
    probe: Probe,
    records: &[Value],
    policies: &Path,
) -> Result<String, String> {
    let mut texts = Vec::new();
    for family in Family::BOTH {
        let record = record_of(ends, family, probe, records)?;
        let text = explanation(record, policies)?.text;
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    Ok(texts.join("; "))
}

/// The newest record of a denied packet from the first of two members to the second.
fn record_of<'r>(
    [from, to]: [&Member; 2],
    family: Family,
    probe: Probe,
    records: &'r [Value],
) -> Result<&'r Value, String> {
    let (protocol, port) = match probe {
        Probe::Tcp(port) => ("tcp", port),
        Probe::Udp(port) => ("udp", port),
        Probe::Sctp(port) => ("sctp", port),
        Probe::Ping => return Err("pings have no port".to_owned()),
    };
    let [source, destination] = [from, to].map(|member| member.ip(family).to_string());
    let found = records.iter().rev().find(|record| {
        record["type"] == "denied"
            && record["verdict"] == "deny"
            && record["source"]["address"] == source.as_str()
            && record["destination"]["address"] == destination.as_str()
            && record["destination"]["port"] == port
            && record["protocol"] == protocol
    });
    found.ok_or_else(|| format!("no flow record of {source} > {destination} {probe}"))
}

/// Reason for which one packet was dropped.
struct Explanation {
    text: String,
    /// All policies that are named: `namespace/name`.
    policies: Vec<String>,
}

/// Reads it from a record. What it points at must exist.
fn explanation(record: &Value, policies: &Path) -> Result<Explanation, String> {
    let isolating = record["isolated_by"].as_array().map(Vec::as_slice);
    let (verb, rules) = match &record["rule"] {
        Value::Null => ("isolated by", isolating.unwrap_or_default()),
        rule => ("denied by", std::slice::from_ref(rule)),
    };
    if rules.is_empty() {
        return Err(format!("neither a rule nor an isolating policy: {record}"));
    }
    let mut names = Vec::new();
    let mut places = Vec::new();
    for rule in rules {
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        let file = Path::new(text("file"));
        let name = file.file_name().unwrap_or_default();
        let line = rule["line"]
            .as_u64()
            .and_then(|line| usize::try_from(line).ok());
        let written = std::fs::read_to_string(policies.join(name)).unwrap_or_default();
        let there = line.and_then(|line| written.lines().nth(line.checked_sub(1)?));
        let Some((line, _)) = line.zip(there) else {
            return Err(format!("points at no line of a policy: {rule}"));
        };
        let policy = match text("namespace") {
            "" => text("name").to_owned(),
            namespace => format!("{namespace}/{}", text("name")),
        };
        places.push(format!("{policy} ({}:{line})", name.to_string_lossy()));
        names.push(policy);
    }
    let direction = record["direction"].as_str().unwrap_or_default();
    Ok(Explanation {
        text: format!("{direction} {verb} {}", places.join(", ")),
        policies: names,
    })
}
