//! Changes for people: those with the same cause and effect together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cofferdam_answers::connectivity::{
    BackendReport, ChangeReport, ChangedBackends, DiffReport, RuleOfSet,
};
use cofferdam_protocol::output;

use super::super::list::backend_words;

/// Most ends that are named of a group of changes.
const MOST_ENDS: usize = 6;

/// Properties in common of changes that are told together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cause<'r> {
    kind: &'r str,
    /// The end whose policies make the difference, or the receiver.
    end: &'r str,
    /// It is the sender.
    is_sender: bool,
    ports: Vec<String>,
    rule: Option<u32>,
    was: Option<u32>,
    /// Some verdict makes the difference, so that it is due to policies.
    is_judged: bool,
    /// The ends behind the Service that is the receiver.
    backends: Option<&'r ChangedBackends>,
    approved: Option<&'r str>,
}

/// Changes that are told together.
struct Together<'r> {
    cause: Cause<'r>,
    /// The other ends, and over which families.
    others: BTreeMap<&'r str, BTreeSet<u8>>,
}

fn ports_of(change: &ChangeReport) -> String {
    match (change.protocol.as_str(), change.ports.as_str()) {
        ("all", _) => "all".to_owned(),
        ("other", _) => "other".to_owned(),
        (protocol, ports) => format!("{protocol}/{ports}"),
    }
}

fn together(report: &DiffReport) -> Vec<Together<'_>> {
    // The ports of one pair of ends with one cause.
    type Pair<'r> = (Cause<'r>, &'r str, u8);
    let mut pairs: BTreeMap<Pair<'_>, Vec<String>> = BTreeMap::new();
    for change in &report.changes {
        let is_sender = change.direction.as_deref() == Some("egress");
        let (end, other) = match is_sender {
            true => (&change.source, &change.destination),
            false => (&change.destination, &change.source),
        };
        let cause = Cause {
            kind: &change.kind,
            end,
            is_sender,
            ports: Vec::new(),
            rule: change.rule,
            was: change.was,
            is_judged: change.direction.is_some(),
            backends: change.backends.as_ref(),
            approved: change.approved.as_deref(),
        };
        let pair = (cause, other.as_str(), change.family);
        pairs.entry(pair).or_default().push(ports_of(change));
    }
    let mut causes: BTreeMap<Cause<'_>, BTreeMap<&str, BTreeSet<u8>>> = BTreeMap::new();
    for ((cause, other, family), ports) in pairs {
        let others = causes.entry(Cause { ports, ..cause }).or_default();
        others.entry(other).or_default().insert(family);
    }
    let together = causes.into_iter();
    together
        .map(|(cause, others)| Together { cause, others })
        .collect()
}

/// A rule by its policy and place.
fn called(rule: &RuleOfSet) -> String {
    let RuleOfSet { rule, .. } = rule;
    let namespace = rule
        .namespace
        .as_ref()
        .map(|namespace| format!("{namespace}/"));
    let (name, place) = (&rule.name, output::place(&rule.file, &[rule.line]));
    format!("{}{name} ({place})", namespace.unwrap_or_default())
}

impl Together<'_> {
    /// Sender, receiver, ports.
    fn connection(&self, report: &DiffReport) -> (String, String, String) {
        let others = self.others.keys().take(MOST_ENDS);
        let mut named = others.copied().collect::<Vec<_>>().join(", ");
        let beyond = self.others.len().saturating_sub(MOST_ENDS);
        if beyond > 0 {
            write!(named, " and {beyond} more").expect("writing to a string");
        }
        let end = self.cause.end.to_owned();
        let (from, to) = match self.cause.is_sender {
            true => (end, named),
            false => (named, end),
        };
        let mut families = self
            .others
            .values()
            .flatten()
            .collect::<BTreeSet<_>>()
            .into_iter();
        let mut ports = self.cause.ports.join(", ");
        let mut outside = report.ends.iter().filter(|end| !end.cidrs.is_empty());
        let is_outside = outside.any(|end| self.others.contains_key(end.id.as_str()));
        if let (Some(family), None, false) = (families.next(), families.next(), is_outside) {
            write!(ports, " over IPv{family}").expect("writing to a string");
        }
        (from, to, ports)
    }

    /// Returns the cause in words.
    fn cause(&self, report: &DiffReport) -> String {
        let rule = |id: Option<u32>| id.and_then(|id| report.rule(id)).map(called);
        let (now, before) = match self.cause.kind {
            "added" => ("allowed", "denied"),
            _ => ("denied", "allowed"),
        };
        let mut parts = Vec::new();
        match rule(self.cause.rule) {
            Some(rule) => parts.push(format!("{now} by {rule}")),
            None if now == "allowed" && !self.is_of_backends() => {
                parts.push("no policy denies it any more".to_owned())
            }
            None => {}
        }
        match rule(self.cause.was) {
            Some(rule) => parts.push(format!("was {before} by {rule}")),
            None if before == "allowed" && !self.is_of_backends() => {
                parts.push("no policy denied it".to_owned())
            }
            None => {}
        }
        parts.extend(self.cause.backends.map(backends));
        for (id, set) in self.absent(report) {
            parts.push(format!("{id} is only in the {set} documents"));
        }
        parts.join("; ")
    }

    /// Returns `true` if no policy makes the difference, but who is behind a Service.
    fn is_of_backends(&self) -> bool {
        self.cause.backends.is_some() && !self.cause.is_judged
    }

    /// Ends that only one set has.
    fn absent<'r>(&'r self, report: &'r DiffReport) -> Vec<(&'r str, &'r str)> {
        let named = |id: &str| self.cause.end == id || self.others.contains_key(id);
        let ends = report.ends.iter().filter(|end| named(&end.id));
        let absent = ends.filter_map(|end| Some((end.id.as_str(), end.only.as_deref()?)));
        absent.take(MOST_ENDS).collect()
    }
}

/// The ends behind a Service, and those that were.
fn backends(ChangedBackends { old, new }: &ChangedBackends) -> String {
    let words = |backends: &[BackendReport]| {
        let beyond = backends.len().saturating_sub(MOST_ENDS);
        let named = backend_words(&backends[..backends.len() - beyond], ", ");
        match (backends.is_empty(), beyond) {
            (true, _) => "none".to_owned(),
            (_, 0) => named,
            _ => format!("{named} and {beyond} more"),
        }
    };
    match old == new {
        true => format!("backends {}", words(new)),
        false => format!("backends {}, were {}", words(new), words(old)),
    }
}

/// The number of changes in words.
fn counts(report: &DiffReport) -> String {
    let approved = report
        .changes
        .iter()
        .filter(|change| change.approved.is_some())
        .count();
    let mut text = format!("{} added, {} removed", report.added, report.removed);
    if approved > 0 {
        write!(text, ", {approved} approved by exceptions").expect("writing to a string");
    }
    text
}

pub(super) fn report(report: &DiffReport, colour: bool) -> String {
    if report.changes.is_empty() {
        return format!("{}\n", nothing(report));
    }
    let mut text = String::new();
    for one in together(report) {
        let (from, to, ports) = one.connection(report);
        let (sign, paint) = match one.cause.kind {
            "added" => ('+', "\x1b[32m"),
            _ => ('-', "\x1b[31m"),
        };
        let line = format!("{sign} {from} -> {to}  {ports}");
        let line = match colour {
            true => format!("{paint}{line}\x1b[0m"),
            false => line,
        };
        writeln!(text, "{line}\n    {}", one.cause(report)).expect("writing to a string");
        if let Some(reason) = one.cause.approved {
            writeln!(text, "    approved: {reason}").expect("writing to a string");
        }
    }
    text + "\n" + &counts(report) + "\n"
}

/// Words where nothing has changed.
fn nothing(report: &DiffReport) -> &'static str {
    match report.old.pods + report.new.pods {
        // Policies without workloads allow and deny nobody.
        0 => {
            "nothing was compared: neither set has pods or templates of pods; give both the \
             documents of the workloads"
        }
        _ => "nothing has changed: both sets allow the same connections",
    }
}

/// A section of a pull request.
pub(super) fn markdown(report: &DiffReport) -> String {
    let mut text = format!("### Connections: {}\n\n", counts(report));
    if report.changes.is_empty() {
        return format!("{text}{}\n", nothing(report));
    }
    text += "| | from | to | ports | because |\n|---|---|---|---|---|\n";
    for one in together(report) {
        let (from, to, ports) = one.connection(report);
        let mut because = one.cause(report);
        if let Some(reason) = one.cause.approved {
            write!(because, "; approved: {reason}").expect("writing to a string");
        }
        let kind = match one.cause.kind {
            "added" => "**added**",
            _ => "removed",
        };
        let because = because.replace('|', "\\|");
        writeln!(
            text,
            "| {kind} | `{from}` | `{to}` | `{ports}` | {because} |"
        )
        .expect("writing to a string");
    }
    text
}
