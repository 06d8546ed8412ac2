//! Exposures that somebody has approved of, with a reason and a last day.
//!
//! ```yaml
//! exceptions:
//! - {source: shop/web, destination: shop/db, ports: tcp/5432, reason: new reports, expires: 2027-01-31}
//! ```
//!
//! Invariant: an exception approves only of what lies in it as a whole.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cofferdam_documents::MAX_FILE;
use cofferdam_documents::reader::{Reader, Shown};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place};
use cofferdam_syntax::yaml::{self, Mark, Node, Value};
use ipnet::IpNet;

use super::{ChangeKind, Lane, PortSpan};

/// A day of the calendar. Later days are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    year: u16,
    month: u8,
    day: u8,
}

impl Day {
    /// The day, in UTC, of a time in seconds since 1970.
    #[must_use]
    pub fn of_unix(seconds: u64) -> Self {
        let mut days = seconds / 86_400;
        let mut year = 1970;
        loop {
            let length = if is_leap(year) { 366 } else { 365 };
            if days < length {
                break;
            }
            days -= length;
            year += 1;
        }
        let mut month = 1;
        while days >= u64::from(days_of(year, month)) {
            days -= u64::from(days_of(year, month));
            month += 1;
        }
        Self {
            year,
            month,
            day: u8::try_from(days + 1).unwrap_or(u8::MAX),
        }
    }
}

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut parts = text.splitn(3, '-');
            let mut part = |length: usize| {
                let digits = parts.next()?;
                let is_plain = digits.len() == length && digits.bytes().all(|b| b.is_ascii_digit());
                is_plain.then(|| digits.parse::<u16>().ok()).flatten()
            };
            let (year, month, day) = (part(4)?, part(2)?, part(2)?);
            let (month, day) = (u8::try_from(month).ok()?, u8::try_from(day).ok()?);
            let is_day = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
            is_day.then_some(Self { year, month, day })
        };
        read().ok_or_else(|| format!("`{}` is not a day such as 2027-01-31", Shown(text)))
    }
}

/// One approved exposure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Its place.
    pub place: Place,
    /// Added or removed connections.
    pub kind: ChangeKind,
    /// Senders: the name of an end, in which `*` stands for any characters, or a CIDR.
    pub source: String,
    /// Receivers, likewise.
    pub destination: String,
    /// Ports of the connections; all if `None`.
    pub ports: Option<PortSpan>,
    /// The reason for approving of it.
    pub reason: String,
    /// The last day on which it counts.
    pub expires: Day,
}

impl Exception {
    /// Returns `true` if it still counts on a day.
    #[must_use]
    pub fn counts_on(&self, day: Day) -> bool {
        day <= self.expires
    }

    /// Returns `true` if it approves of ports of a change; an end of outside addresses is
    /// given by all its CIDRs.
    #[must_use]
    pub fn covers(
        &self,
        kind: ChangeKind,
        source: (&str, &[IpNet]),
        destination: (&str, &[IpNet]),
        ports: Option<&PortSpan>,
    ) -> bool {
        let has_ports = match (&self.ports, ports) {
            (None, _) => true,
            (Some(own), Some(ports)) => own.contains(ports),
            (Some(_), None) => false,
        };
        self.kind == kind
            && has_ports
            && covers(&self.source, source)
            && covers(&self.destination, destination)
    }
}

/// Returns `true` if a pattern or CIDR is about all of an end.
fn covers(pattern: &str, (id, cidrs): (&str, &[IpNet])) -> bool {
    if let Ok(block) = pattern.parse::<IpNet>() {
        return !cidrs.is_empty() && cidrs.iter().all(|cidr| block.contains(cidr));
    }
    matches(pattern, id)
}

/// Returns `true` if a text is as a pattern has it, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// The exceptions of one file, and what is wrong with it. `file` is only a name.
#[must_use]
pub fn read(file: &str, bytes: &[u8]) -> (Vec<Exception>, Vec<Diagnostic>) {
    let mut reader = Reader::new(&Arc::from(file));
    let start = Mark { line: 1, column: 1 };
    let mut exceptions = Vec::new();
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= MAX_FILE => {
            for document in yaml::parse(text) {
                match document {
                    Ok(node) => take(&mut reader, &node, &mut exceptions),
                    Err(failure) => {
                        reader.error(failure.mark, Code::Syntax, "this is not YAML");
                    }
                }
            }
        }
        Ok(_) => reader.error(start, Code::File, "the file is too large"),
        Err(_) => reader.error(start, Code::File, "the file is not UTF-8"),
    }
    (exceptions, reader.into_diagnostics())
}

fn take(reader: &mut Reader, node: &Node<'_>, exceptions: &mut Vec<Exception>) {
    reader.check_keys(node);
    let what = "a file of exceptions";
    let Some(fields) = reader.strict_mapping(node, what, &["exceptions"]) else {
        return;
    };
    let list = reader
        .required(fields, "exceptions")
        .and_then(|node| reader.counted_list(node, "`exceptions`", 1, usize::MAX));
    for node in list.unwrap_or_default() {
        exceptions.extend(exception(reader, node));
    }
}

fn exception(reader: &mut Reader, node: &Node<'_>) -> Option<Exception> {
    let known = [
        "kind",
        "source",
        "destination",
        "ports",
        "reason",
        "expires",
    ];
    let errors = reader.errors();
    let fields = reader.strict_mapping(node, "an exception", &known)?;
    let kind = match fields.get("kind") {
        None => ChangeKind::Added,
        Some(node) => match reader.string(node, "`kind`")? {
            "added" => ChangeKind::Added,
            "removed" => ChangeKind::Removed,
            word => {
                let known = ["added", "removed"];
                reader.unknown_word(node.mark, Code::Expectation, "`kind`", word, &known);
                return None;
            }
        },
    };
    let mut text = |key: &str| {
        let node = reader.required(fields, key)?;
        let text = reader.string(node, &format!("`{key}`"))?;
        Some((text.to_owned(), node.mark))
    };
    let (source, destination) = (text("source"), text("destination"));
    let reason = text("reason");
    let expires = reader
        .required(fields, "expires")
        .and_then(|node| match &node.value {
            // Some readers take a day for a time, and all mean the same one.
            Value::Text(text) | Value::Ambiguous(text) => Some((text.to_string(), node.mark)),
            _ => {
                reader.wrong_type(node, "`expires`", "a day");
                None
            }
        });
    if let Some((reason, mark)) = &reason
        && reason.trim().is_empty()
    {
        reader.error(*mark, Code::Missing, "`reason` says nothing");
    }
    let expires = expires.and_then(|(text, mark)| match text.parse::<Day>() {
        Ok(day) => Some(day),
        Err(message) => {
            reader.error(mark, Code::Expectation, message);
            None
        }
    });
    let ports = match fields.get("ports") {
        None => None,
        Some(node) => {
            let text = reader.string(node, "`ports`")?;
            match port_span(text) {
                Ok(ports) => ports,
                Err(message) => {
                    reader.error(node.mark, Code::Expectation, message);
                    return None;
                }
            }
        }
    };
    (reader.errors() == errors).then_some(Exception {
        place: reader.place(node.mark),
        kind,
        source: source?.0,
        destination: destination?.0,
        ports,
        reason: reason?.0,
        expires: expires?,
    })
}

/// Reads `tcp/80`, `tcp/8000-8080`, `tcp/all`, `other` or `all`, which is `None`.
fn port_span(text: &str) -> Result<Option<PortSpan>, String> {
    if text == "all" {
        return Ok(None);
    }
    let wrong = || {
        let shown = Shown(text);
        format!("`{shown}` is not ports: write tcp/80, udp/8000-8080, sctp/all, other or all")
    };
    let (lane, ports) = text.split_once('/').unwrap_or((text, "all"));
    let lane = Lane::ALL.into_iter().find(|known| known.as_str() == lane);
    let whole = PortSpan::whole(lane.ok_or_else(wrong)?);
    if ports == "all" {
        return Ok(Some(whole));
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let span = PortSpan {
        first: port(first)?,
        last: port(last)?,
        ..whole
    };
    if span.first > span.last || !whole.contains(&span) {
        return Err(wrong());
    }
    Ok(Some(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (4_107_542_400, "2100-03-01"),
            (1_796_083_199, "2026-11-30"),
        ] {
            assert_eq!(Day::of_unix(seconds).to_string(), day);
            assert_eq!(day.parse(), Ok(Day::of_unix(seconds)));
        }
        for wrong in [
            "2027-02-29",
            "2027-13-01",
            "27-01-01",
            "2027-1-1",
            "tomorrow",
            "",
        ] {
            assert!(wrong.parse::<Day>().is_err(), "{wrong}");
        }
    }

    const TEXT: &str = "exceptions:\n- {source: 'shop/*', destination: shop/db, ports: tcp/5432-5433, reason: reports, expires: 2027-01-31}\n";

    #[test]
    fn an_exception_covers_what_lies_in_it_until_its_last_day() {
        let (exceptions, wrong) = read("e.yaml", TEXT.as_bytes());
        assert_eq!((exceptions.len(), wrong), (1, Vec::new()));
        let one = &exceptions[0];
        assert!(one.counts_on("2027-01-31".parse().unwrap()));
        assert!(!one.counts_on("2027-02-01".parse().unwrap()));
        let covers = |kind, source, destination, ports: &str| {
            let ports = port_span(ports).unwrap();
            one.covers(kind, (source, &[]), (destination, &[]), ports.as_ref())
        };
        let added = ChangeKind::Added;
        assert!(covers(added, "shop/web", "shop/db", "tcp/5432"));
        assert!(!covers(added, "shop/web", "shop/db", "tcp/5400-5432"));
        assert!(!covers(added, "shop/web", "shop/db", "all"));
        assert!(!covers(added, "other/web", "shop/db", "tcp/5432"));
        assert!(!covers(added, "shop/web", "shop/db2", "tcp/5432"));
        assert!(!covers(
            ChangeKind::Removed,
            "shop/web",
            "shop/db",
            "tcp/5432"
        ));
    }

    #[test]
    fn outside_addresses_are_covered_by_a_block_around_all_of_them() {
        let one: IpNet = "203.0.113.0/25".parse().unwrap();
        let other: IpNet = "198.51.100.0/24".parse().unwrap();
        assert!(covers("203.0.113.0/24", ("203.0.113.0/25", &[one])));
        assert!(!covers("203.0.113.0/24", ("x", &[one, other])));
        assert!(!covers("203.0.113.0/24", ("shop/web", &[])));
        assert!(covers("*", ("203.0.113.0/25", &[one])));
        assert!(matches("a*c*e", "abcde") && !matches("a*c*e", "abde"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (entry, message) in [
            (
                "{source: a/b, destination: a/c, expires: '2027-01-31'}",
                "`reason` is missing",
            ),
            (
                "{source: a/b, destination: a/c, reason: ' ', expires: '2027-01-31'}",
                "says nothing",
            ),
            (
                "{source: a/b, destination: a/c, reason: r, expires: '2027-02-31'}",
                "not a day",
            ),
            (
                "{source: a/b, destination: a/c, reason: r, expires: '2027-02-01', ports: tcp/0}",
                "not ports",
            ),
            (
                "{source: a/b, destination: a/c, reason: r, expires: '2027-02-01', kind: new}",
                "`kind`",
            ),
            (
                "{source: a/b, destination: a/c, reason: r, expires: '2027-02-01', port: tcp/1}",
                "unknown key `port`",
            ),
        ] {
            let (exceptions, wrong) =
                read("e.yaml", format!("exceptions:\n- {entry}\n").as_bytes());
            let said = wrong
                .iter()
                .any(|one| one.message.contains(message) && one.place.line == 2);
            assert!(
                said && exceptions.is_empty(),
                "{entry}: {wrong:?} {exceptions:?}"
            );
        }
    }
}
