//! The list for people: each sender, and below it whom it reaches on which ports.

use std::io::{self, Write};

use cofferdam_analysis::connectivity::{Connection, ListedEnd, words};
use cofferdam_answers::connectivity::BackendReport;
use cofferdam_compiler::RuleEntry;
use cofferdam_protocol::output;

use super::super::offline::family_number;
use super::super::text::count;
use super::{List, LookedAt, backend_words};

/// Width of the column of receivers, in characters.
const RECEIVER: usize = 32;
/// Width of the column of ports.
const PORTS: usize = 20;
/// Most ends behind a Service that are named.
const MOST_BACKENDS: usize = 4;

/// A line of the list: both families of which the same is to be said.
struct Line<'c> {
    connection: Connection<'c>,
    /// It is of both families.
    is_both: bool,
}

impl Line<'_> {
    fn family(&self) -> String {
        let has_cidrs = [&self.connection.source, &self.connection.destination]
            .iter()
            .any(|end| matches!(end, ListedEnd::Outside(_)));
        if self.is_both || has_cidrs {
            return String::new();
        }
        format!("IPv{}", family_number(self.connection.family))
    }

    /// The ends behind a Service.
    fn backends(&self) -> String {
        let spans = self.connection.allowed.iter();
        let backends = spans.flat_map(|span| &span.backends).cloned();
        let mut backends: Vec<BackendReport> = backends.map(Into::into).collect();
        backends.sort_unstable();
        backends.dedup();
        let beyond = backends.len().saturating_sub(MOST_BACKENDS);
        backends.truncate(MOST_BACKENDS);
        let words = backend_words(&backends, ", ");
        match (words.is_empty(), beyond) {
            (true, _) => String::new(),
            (_, 0) => format!("(backends {words})"),
            _ => format!("(backends {words} and {beyond} more)"),
        }
    }

    fn ports(&self) -> String {
        let spans: Vec<_> = self
            .connection
            .allowed
            .iter()
            .map(|span| span.ports)
            .collect();
        words(&spans)
    }
}

/// Calls `put` with all lines.
fn lines<'a>(
    list: &List<'a>,
    mut put: impl FnMut(&Line<'a>) -> io::Result<()>,
) -> io::Result<usize> {
    let mut kept: Option<Line<'_>> = None;
    let mut count = 0;
    list.connectivity.connections(&list.focus, |connection| {
        if let Some(before) = &mut kept {
            let is_same = !before.is_both
                && before.connection.source == connection.source
                && before.connection.destination == connection.destination
                && before.connection.allowed == connection.allowed;
            if is_same {
                before.is_both = true;
                return Ok(());
            }
        }
        let next = Line {
            connection,
            is_both: false,
        };
        match kept.replace(next) {
            Some(line) => {
                count += 1;
                put(&line)
            }
            None => Ok(()),
        }
    })?;
    if let Some(line) = kept {
        count += 1;
        put(&line)?;
    }
    Ok(count)
}

pub(super) fn write(list: &List<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut sender = None;
    let count = lines(list, |line| {
        let source = line.connection.source.id();
        if sender.as_ref() != Some(&source) {
            let gap = if sender.is_some() { "\n" } else { "" };
            writeln!(out, "{gap}{source}{}", replicas(&line.connection.source))?;
            sender = Some(source);
        }
        let to = line.connection.destination.id();
        let about = format!("{} {} {}", line.family(), line.backends(), by(list, line))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let ports = line.ports();
        let words = format!("  -> {to:RECEIVER$} {ports:PORTS$} {}", about.trim());
        writeln!(out, "{}", words.trim_end())
    })?;
    let gap = if count > 0 { "\n" } else { "" };
    let looked_at = looked_at(list);
    match count {
        0 => writeln!(out, "{}", nothing(list)),
        1 => writeln!(out, "{gap}1 connection; {looked_at}"),
        _ => writeln!(out, "{gap}{count} connections; {looked_at}"),
    }
}

pub(super) fn write_md(list: &List<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut is_begun = false;
    let count = lines(list, |line| {
        if !is_begun {
            writeln!(
                out,
                "| from | to | ports | family | by |\n|---|---|---|---|---|"
            )?;
            is_begun = true;
        }
        let (from, to) = (
            line.connection.source.id(),
            line.connection.destination.id(),
        );
        let (ports, family) = (line.ports(), line.family());
        let padded = format!("{} {}", line.backends(), by(list, line));
        let by = padded.trim();
        writeln!(out, "| `{from}` | `{to}` | `{ports}` | {family} | {by} |")
    })?;
    if count == 0 {
        return writeln!(out, "{}", nothing(list));
    }
    writeln!(out, "\n{}.", looked_at(list))
}

/// The number of pods that a sender stands for.
fn replicas(end: &ListedEnd<'_>) -> String {
    match end {
        ListedEnd::Group(group) if group.members.len() > 1 => {
            format!(" ({})", group.members.len())
        }
        _ => String::new(),
    }
}

/// The rules that allow.
fn by(list: &List<'_>, line: &Line<'_>) -> String {
    let allowed = line.connection.allowed.iter();
    let rules = allowed.flat_map(|span| span.egress.iter().chain(&span.ingress));
    let mut named: Vec<String> = Vec::new();
    for entry in rules.filter_map(|rule| list.connectivity.rules().rule(*rule)) {
        let name = called(entry);
        if !named.contains(&name) {
            named.push(name);
        }
    }
    named.join(", ")
}

/// A rule by its policy, and where it stands.
fn called(entry: &RuleEntry) -> String {
    let place = &entry.place;
    format!(
        "{} ({})",
        entry.key.policy,
        output::place(&place.file, &[place.line])
    )
}

fn looked_at(list: &List<'_>) -> String {
    let LookedAt {
        pods,
        workloads,
        nodes,
        outside,
        policies,
    } = LookedAt::new(list.connectivity);
    format!(
        "looked at {} of {}, {} and {} of outside addresses, under {}",
        count(pods, "pod"),
        count(workloads, "workload"),
        count(nodes, "node"),
        count(outside, "set"),
        count(policies, "policy"),
    )
}

/// Words where nothing is to be listed.
fn nothing(list: &List<'_>) -> String {
    let looked_at = looked_at(list);
    if LookedAt::new(list.connectivity).pods == 0 {
        return format!("there are no pods or templates of pods in the documents; {looked_at}");
    }
    let asked = if list.focus.groups.is_some() || list.focus.port.is_some() {
        "nothing of what was asked for is allowed"
    } else {
        "nothing is allowed"
    };
    format!("{asked}; {looked_at}")
}
