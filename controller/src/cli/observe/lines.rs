//! Records as lines: compact, wide, and JSON.
//!
//! Invariant, safe for terminals: names, labels and files come from others; whatever could
//! move a cursor or turn text around is escaped.

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result};
use cofferdam_protocol::output::{FlowEnd, FlowRecord, RecordType, RuleName, place};
use cofferdam_protocol::words::ClosedList as _;

/// Form of a printed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One line for people: time, ends, verdict, reason, policy and its place.
    #[value(alias = "compact")]
    Text,
    /// The same with all other fields, in columns.
    Wide,
    /// One object a line, for programs.
    Json,
}

/// Text of others, with what could act on a terminal escaped.
pub(in crate::cli) struct Escaped<'t>(pub(in crate::cli) &'t str);

/// Returns `true` for control characters, and for those that turn the direction of text.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{061c}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_active(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// A policy's name, with its namespace.
pub(super) struct PolicyOf<'r>(pub(super) &'r RuleName);

impl fmt::Display for PolicyOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.0.namespace {
            write!(f, "{}/", Escaped(namespace))?;
        }
        write!(f, "{}", Escaped(&self.0.name))
    }
}

/// A rule, and where it is written.
struct RuleAt<'r>(&'r RuleName);

impl fmt::Display for RuleAt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rule) = self;
        write!(f, "{}", PolicyOf(rule))?;
        if let Some(index) = rule.index {
            write!(f, "[{index}]")?;
        }
        let file = Escaped(&rule.file).to_string();
        write!(f, " {}", place(&file, &[rule.line]))
    }
}

/// The name of an end, or its address where it has none.
pub(super) fn name_of(end: &FlowEnd) -> String {
    match (&end.namespace, &end.workload, &end.node, end.address) {
        (Some(namespace), Some(workload), ..) => {
            format!("{}/{}", Escaped(namespace), Escaped(workload))
        }
        (_, _, Some(node), _) => format!("node/{}", Escaped(node)),
        (.., Some(address)) => address.to_string(),
        _ => "?".to_owned(),
    }
}

/// The name of an end with address and port.
fn end(end: &FlowEnd) -> String {
    let address = match (end.address, end.port) {
        (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => String::new(),
    };
    let is_named = end.workload.is_some() || end.node.is_some();
    match (is_named, address.is_empty()) {
        (true, false) => format!("{} {address}", name_of(end)),
        (false, false) => address,
        _ => name_of(end),
    }
}

/// Protocol, type of ICMP, flags of TCP.
fn protocol(record: &FlowRecord) -> String {
    let mut text = Escaped(&record.protocol).to_string();
    if let Some(icmp) = record.icmp {
        write!(text, " {}/{}", icmp.kind, icmp.code).expect("writing to a string");
    }
    if let Some(flags) = record.tcp_flags.as_ref().filter(|flags| !flags.is_empty()) {
        write!(text, " {}", Escaped(flags)).expect("writing to a string");
    }
    text
}

/// Returns what came of the packet, in one word.
fn outcome(record: &FlowRecord) -> &'static str {
    match record.kind {
        RecordType::Denied => record.verdict.word(),
        other => other.as_str(),
    }
}

fn coloured(text: &str, kind: RecordType, is_coloured: bool) -> String {
    let colour = match kind {
        RecordType::Denied => "31",
        RecordType::Audit => "33",
        RecordType::New | RecordType::Ended => "32",
    };
    if is_coloured {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn rules(record: &FlowRecord) -> String {
    let rules = record.rule.iter().chain(&record.isolated_by);
    let rules: Vec<String> = rules.map(|rule| RuleAt(rule).to_string()).collect();
    rules.join(", ")
}

fn labels(end: &FlowEnd) -> String {
    let labels = end.labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{}={}", Escaped(key), Escaped(value)))
        .collect();
    if labels.is_empty() {
        "-".to_owned()
    } else {
        labels.join(",")
    }
}

/// A record on one short line.
fn compact(record: &FlowRecord, is_coloured: bool) -> String {
    let mut line = format!(
        "{} {} → {} {} {} {} {}",
        milliseconds(&record.time),
        end(&record.source),
        end(&record.destination),
        protocol(record),
        coloured(outcome(record), record.kind, is_coloured),
        record.reason.name(),
        record.direction.word(),
    );
    let rules = rules(record);
    if !rules.is_empty() {
        write!(line, " {rules}").expect("writing to a string");
    }
    if record.kind == RecordType::Ended {
        let told = format!(
            " {} packets {} bytes {} ms",
            record.packets, record.bytes, record.duration_ms
        );
        line.push_str(&told);
    } else if record.packets > 1 {
        write!(line, " ×{}", record.packets).expect("writing to a string");
    }
    if record.newly_denied {
        line.push_str(" (allowed before)");
    }
    line.push('\n');
    line
}

/// The time without what is below a millisecond.
fn milliseconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) if fraction.len() > 4 && fraction.is_ascii() => {
            format!("{}.{}Z", Escaped(seconds), Escaped(&fraction[..3]))
        }
        _ => Escaped(time).to_string(),
    }
}

/// Titles of the wide form, with the width that a value usually needs.
const COLUMNS: [(&str, usize); 17] = [
    ("TIME", 24),
    ("VERDICT", 7),
    ("REASON", 16),
    ("DIRECTION", 9),
    ("HOOK", 14),
    ("NODE", 10),
    ("REVISION", 8),
    ("COUNT", 5),
    ("PACKETS", 7),
    ("BYTES", 7),
    ("MS", 5),
    ("PROTOCOL", 10),
    ("SOURCE", 32),
    ("LABELS", 16),
    ("DESTINATION", 32),
    ("LABELS", 16),
    ("POLICY", 0),
];

fn columns<'v>(values: impl IntoIterator<Item = &'v str>) -> String {
    let mut line = String::new();
    for (value, (_, width)) in values.into_iter().zip(COLUMNS) {
        write!(line, "{value:<width$} ").expect("writing to a string");
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// The titles of the wide form.
fn titles() -> String {
    columns(COLUMNS.map(|(title, _)| title))
}

/// A record with all of its fields, in columns.
fn wide(record: &FlowRecord, is_coloured: bool) -> String {
    let verdict = format!("{:<7}", outcome(record));
    let rules = rules(record);
    let values = [
        milliseconds(&record.time),
        coloured(&verdict, record.kind, is_coloured),
        record.reason.name().to_owned(),
        record.direction.word().to_owned(),
        record.hook.name().to_owned(),
        Escaped(&record.node).to_string(),
        record.revision.to_string(),
        record.count.to_string(),
        record.packets.to_string(),
        record.bytes.to_string(),
        record.duration_ms.to_string(),
        protocol(record),
        end(&record.source),
        labels(&record.source),
        end(&record.destination),
        labels(&record.destination),
        if rules.is_empty() {
            "-".to_owned()
        } else {
            rules
        },
    ];
    columns(values.iter().map(String::as_str))
}

/// A record as JSON on one line. In a string of JSON an escape is the character.
fn json(record: &FlowRecord) -> Result<String> {
    let text = serde_json::to_string(record).context("cannot write JSON")?;
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if is_active(c) {
            write!(line, "\\u{:04x}", u32::from(c)).expect("writing to a string");
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    Ok(line)
}

/// Turns records into lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    format: Format,
    is_coloured: bool,
}

impl Lines {
    /// Lines of a format; JSON has no colours.
    pub(super) fn new(format: Format, is_coloured: bool) -> Self {
        Self {
            format,
            is_coloured,
        }
    }

    /// Returns the line above all records.
    pub(super) fn head(self) -> String {
        match self.format {
            Format::Wide => titles(),
            Format::Text | Format::Json => String::new(),
        }
    }

    /// A record on a line.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(super) fn line(self, record: &FlowRecord) -> Result<String> {
        Ok(match self.format {
            Format::Text => compact(record, self.is_coloured),
            Format::Wide => wide(record, self.is_coloured),
            Format::Json => json(record)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `shop/web` is denied a connection to the database by a policy that isolates it.
    pub(in crate::cli::observe) fn record() -> FlowRecord {
        let text = r#"{"schema":"cofferdam/v1","time":"2026-01-31T12:00:00.123456789Z",
            "type":"denied","node":"n1","hook":"from_workload","direction":"ingress",
            "verdict":"deny","reason":"isolated","revision":43,"count":2,"rule":null,
            "isolated_by":[{"kind":"NetworkPolicy","namespace":"data","name":"db","index":null,
                            "file":"/p/a.yaml","line":9}],
            "source":{"namespace":"shop","workload":"web","address":"10.1.0.2","port":40000,
                      "labels":{"app":"web"}},
            "destination":{"namespace":"data","workload":"db","address":"fd00::3","port":5432,
                           "labels":{}},
            "protocol":"tcp","tcp_flags":"S","icmp":null,"packets":3,"bytes":180,
            "duration_ms":7}"#;
        serde_json::from_str(text).expect("a record")
    }

    #[test]
    fn a_compact_line_tells_who_whom_what_and_where_it_is_written() {
        let plain = Lines::new(Format::Text, false)
            .line(&record())
            .expect("a line");
        assert_eq!(
            plain,
            "2026-01-31T12:00:00.123Z shop/web 10.1.0.2:40000 → data/db [fd00::3]:5432 tcp S \
             deny isolated ingress data/db /p/a.yaml:9 ×3\n"
        );
        let mut record = record();
        record.kind = RecordType::Audit;
        (record.source.namespace, record.source.workload) = (None, None);
        record.tcp_flags = None;
        record.packets = 1;
        let coloured = Lines::new(Format::Text, true)
            .line(&record)
            .expect("a line");
        assert!(
            coloured.contains("Z 10.1.0.2:40000 → ") && coloured.ends_with("yaml:9\n"),
            "{coloured}"
        );
        assert!(
            coloured.contains(" tcp \x1b[33maudit\x1b[0m isolated "),
            "{coloured}"
        );
    }

    #[test]
    fn a_wide_line_has_a_value_under_each_title() {
        let lines = Lines::new(Format::Wide, false);
        let line = lines.line(&record()).expect("a line");
        for word in [
            "n1",
            "from_workload",
            "43",
            "app=web",
            "180",
            "data/db /p/a.yaml:9",
        ] {
            assert!(line.contains(word), "{word}: {line}");
        }
        for (title, value) in [("REVISION", "43 "), ("SOURCE", "shop/web "), ("MS ", "7 ")] {
            let at = lines.head().find(title).expect("a title");
            assert!(line[at..].starts_with(value), "{title}: {line}");
        }
    }

    #[test]
    fn names_cannot_act_on_a_terminal() {
        let mut record = record();
        record.source.workload = Some("a\x1b[2J\u{9b}31m\nb\u{202e}".to_owned());
        record.isolated_by[0].file = "\r/p\x07".to_owned();
        record
            .source
            .labels
            .insert("k\t".to_owned(), "\u{2066}v".to_owned());
        for format in [Format::Text, Format::Wide, Format::Json] {
            let whole = Lines::new(format, false).line(&record).expect("a line");
            let line = whole.strip_suffix('\n').expect("one line");
            let acts = "\x1b\u{9b}\n\u{202e}\r\x07\t\u{2066}";
            assert!(!line.contains(|c| acts.contains(c)), "{format:?}: {line:?}");
        }
        let line = Lines::new(Format::Json, false)
            .line(&record)
            .expect("a line");
        let read: FlowRecord = serde_json::from_str(&line).expect("a record");
        assert_eq!(read, record, "an escape in JSON is the character");
    }
}
