//! The report of `what-if` for people: connections with the same cause together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cofferdam_answers::reach::{SideReport, Word};
use cofferdam_answers::replay::{ReplayedReport, SeenReport, WhatIfReport};

use crate::cli::explain::{named, nearest_miss, reason};
use crate::cli::observe::Escaped;

/// Most ends that are named of connections with one cause.
const MOST_ENDS: usize = 6;

/// Most connections that cannot be judged that are named for one reason.
const MOST_UNJUDGED: usize = 5;

/// Properties in common of changes that are told together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cause<'r> {
    /// Denials first.
    is_allowed: bool,
    /// The end whose policies decide, or the receiver.
    end: &'r str,
    is_sender: bool,
    probe: &'r str,
    because: Vec<String>,
}

/// Changes that are told together.
struct Together<'r> {
    cause: Cause<'r>,
    others: BTreeSet<&'r str>,
    families: BTreeSet<u8>,
    seen: SeenReport,
}

fn together(report: &WhatIfReport) -> Vec<Together<'_>> {
    let mut all: BTreeMap<Cause<'_>, Together<'_>> = BTreeMap::new();
    for change in &report.changes {
        let cell = &change.cell;
        let denies = |side: &Option<SideReport>| {
            side.as_ref().is_some_and(|side| side.verdict == Word::Deny)
        };
        let is_sender = denies(&cell.egress);
        let (end, other) = match is_sender {
            true => (&*cell.source, &*cell.destination),
            false => (&*cell.destination, &*cell.source),
        };
        let cause = || Cause {
            is_allowed: cell.verdict == Word::Allow,
            end,
            is_sender,
            probe: &cell.probe,
            because: because(report, change),
        };
        let one = all.entry(cause()).or_insert_with(|| Together {
            cause: cause(),
            others: BTreeSet::new(),
            families: BTreeSet::new(),
            seen: SeenReport {
                allowed: 0,
                denied: 0,
                ..change.seen.clone()
            },
        });
        one.others.insert(other);
        one.families.insert(change.family);
        let (seen, more) = (&mut one.seen, &change.seen);
        seen.allowed = seen.allowed.saturating_add(more.allowed);
        seen.denied = seen.denied.saturating_add(more.denied);
        seen.first = (&seen.first).min(&more.first).clone();
        seen.last = (&seen.last).max(&more.last).clone();
    }
    all.into_values().collect()
}

/// Says what decides, one thing a line.
fn because(report: &WhatIfReport, change: &ReplayedReport) -> Vec<String> {
    let cell = &change.cell;
    let sides = [("egress", &cell.egress), ("ingress", &cell.ingress)]
        .into_iter()
        .filter_map(|(direction, side)| {
            let side = side.as_ref()?;
            // What allows does not matter to a denial.
            (side.verdict == cell.verdict).then_some((direction, side))
        });
    let mut lines: Vec<String> = sides
        .map(|(direction, side)| {
            let word = match side.verdict {
                Word::Allow => "allowed",
                Word::Deny => "denied",
            };
            let isolating = side.isolated_by.iter();
            let isolating: Vec<String> = isolating
                .filter_map(|id| report.rule(*id))
                .map(named)
                .collect();
            match side.rule.and_then(|rule| report.rule(rule)) {
                Some(rule) => format!("{direction}: {word} by {}", named(rule)),
                None if isolating.is_empty() => {
                    format!("{direction}: {word}, {}", reason(&side.reason))
                }
                None => format!(
                    "{direction}: {word}, isolated by {}, and no rule allows it",
                    isolating.join("; ")
                ),
            }
        })
        .collect();
    if let Some(backends) = cell.backends {
        lines.push(format!(
            "{} of {} backends may be reached",
            backends.allowed, backends.total
        ));
    }
    if let Some(nearest) = &change.nearest {
        let miss = nearest_miss(nearest, report.rule(nearest.rule));
        lines.push(format!("nearest miss: {miss}"));
    }
    let escaped = lines.iter().map(|line| Escaped(line).to_string());
    escaped.collect()
}

impl Together<'_> {
    /// Sender, receiver, port.
    fn connection(&self) -> (String, String, String) {
        let named: Vec<&str> = self.others.iter().take(MOST_ENDS).copied().collect();
        let mut named = named.join(", ");
        let beyond = self.others.len().saturating_sub(MOST_ENDS);
        if beyond > 0 {
            write!(named, " and {beyond} more").expect("writing to a string");
        }
        // Records are somebody else's, and so are the names in them.
        let named = Escaped(&named).to_string();
        let end = Escaped(self.cause.end).to_string();
        let (from, to) = match self.cause.is_sender {
            true => (end, named),
            false => (named, end),
        };
        let mut probe = self.cause.probe.to_owned();
        if let (1, Some(6)) = (self.families.len(), self.families.first()) {
            probe += " over IPv6";
        }
        (from, to, probe)
    }
}

/// `12 times from 2026-01-01T00:00:00Z to …`.
fn times(seen: &SeenReport) -> String {
    let often = |count: u64| match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    let count = match (seen.allowed, seen.denied) {
        (0, denied) => format!("denied {}", often(denied)),
        (allowed, 0) => format!("allowed {}", often(allowed)),
        (allowed, denied) => format!("allowed {}, denied {}", often(allowed), often(denied)),
    };
    // Seconds will do for people.
    let short = |time: &str| match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    };
    let (first, last) = (short(&seen.first), short(&seen.last));
    match first == last {
        true => format!("{count}, {first}"),
        false => format!("{count}, {first} to {last}"),
    }
}

fn counts(report: &WhatIfReport) -> String {
    let same = report.unchanged.allowed + report.unchanged.denied;
    let mut text = format!(
        "{} newly denied, {} newly allowed, {same} as before",
        report.denied, report.allowed
    );
    if !report.unjudged.is_empty() {
        let count = report.unjudged.len();
        write!(text, ", {count} cannot be judged").expect("writing to a string");
    }
    text
}

/// Says what of the records is not among the connections.
fn aside(report: &WhatIfReport) -> Vec<String> {
    let mut lines: Vec<String> = (report.read.passed_over.iter())
        .map(|one| format!("{} records: {}", one.records, one.why.about()))
        .collect();
    let unreadable = report.read.unreadable;
    if unreadable > 0 {
        lines.push(format!(
            "{unreadable} of {} lines are no flow records",
            report.read.lines
        ));
    }
    lines
}

/// Connections that cannot be judged, by reason.
fn unjudged(report: &WhatIfReport) -> Vec<(String, Vec<String>)> {
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in &report.unjudged {
        let connection = format!("{} -> {}  {}", one.source, one.destination, one.probe);
        let why = Escaped(&one.why).to_string();
        let connection = Escaped(&connection).to_string();
        by_reason.entry(why).or_default().push(connection);
    }
    by_reason.into_iter().collect()
}

pub(super) fn report(report: &WhatIfReport, colour: bool) -> String {
    let mut text = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        writeln!(text, "{line}").expect("writing to a string");
    };
    for one in together(report) {
        let (from, to, probe) = one.connection();
        let (sign, paint) = match one.cause.is_allowed {
            true => ('+', "\x1b[32m"),
            false => ('-', "\x1b[31m"),
        };
        let line = format!("{sign} {from} -> {to}  {probe}");
        match colour {
            true => put(format_args!("{paint}{line}\x1b[0m")),
            false => put(format_args!("{line}")),
        }
        put(format_args!("    {}", times(&one.seen)));
        for because in &one.cause.because {
            put(format_args!("    {because}"));
        }
    }
    for (why, connections) in unjudged(report) {
        put(format_args!("? {why}"));
        for connection in connections.iter().take(MOST_UNJUDGED) {
            put(format_args!("    {connection}"));
        }
        let beyond = connections.len().saturating_sub(MOST_UNJUDGED);
        if beyond > 0 {
            put(format_args!("    and {beyond} more"));
        }
    }
    if !report.changes.is_empty() || !report.unjudged.is_empty() {
        put(format_args!(""));
    }
    put(format_args!("{}", counts(report)));
    for line in aside(report) {
        put(format_args!("{line}"));
    }
    text
}

/// Text that ends neither a cell of a table nor a piece of code.
fn in_table(text: &str) -> String {
    text.replace('|', "\\|").replace('`', "'")
}

/// A section of a pull request.
pub(super) fn markdown(report: &WhatIfReport) -> String {
    let mut text = format!("### Seen connections: {}\n", counts(report));
    let mut put = |line: std::fmt::Arguments<'_>| {
        writeln!(text, "{line}").expect("writing to a string");
    };
    if !report.changes.is_empty() {
        put(format_args!(
            "\n| | from | to | port | seen | because |\n|---|---|---|---|---|---|"
        ));
    }
    for one in together(report) {
        let (from, to, probe) = one.connection();
        let kind = match one.cause.is_allowed {
            true => "allowed",
            false => "**denied**",
        };
        let because = in_table(&one.cause.because.join("; "));
        let [from, to, probe] = [from, to, probe].map(|text| in_table(&text));
        let seen = times(&one.seen);
        put(format_args!(
            "| {kind} | `{from}` | `{to}` | `{probe}` | {seen} | {because} |"
        ));
    }
    let unjudged = unjudged(report);
    if !unjudged.is_empty() {
        put(format_args!("\nCannot be judged:\n"));
    }
    for (why, connections) in unjudged {
        let why = in_table(&why);
        put(format_args!("- {}: {why}", connections.len()));
    }
    let aside = aside(report);
    if !aside.is_empty() {
        put(format_args!("\n{}", aside.join("; ")));
    }
    text
}
