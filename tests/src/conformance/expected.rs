//! Expectations of a table.
//!
//! Either in lines, as Kubernetes' own tests state it: everything passes, but; each
//! line takes back or gives, and a later one counts over an earlier one:
//!
//! ```text
//! - * > x/a                everything towards x/a is denied,
//! + y/*,z/b > x/a tcp/80   but tcp/80 from y and from z/b
//! ```
//!
//! or as a predicate, by a generator that knows what it has put in.

use std::fmt;

use super::cluster::End;
use crate::packet::Family;
use crate::traffic::Probe;

/// Question that may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// End that tries.
    pub source: &'a End,
    /// End that it tries to reach.
    pub destination: &'a End,
    /// Probe by which it tries.
    pub probe: Probe,
    /// Address family.
    pub family: Family,
}

type Predicate = Box<dyn Fn(&Question<'_>) -> bool + Send + Sync>;

/// Expectation of every cell.
pub enum Expected {
    /// Lines.
    Lines(Vec<Line>),
    /// A predicate.
    Predicate(Predicate),
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lines(lines) => f.debug_list().entries(lines).finish(),
            Self::Predicate(_) => f.write_str("a predicate"),
        }
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    allowed: bool,
    source: Pattern,
    destination: Pattern,
    /// Empty: in every way.
    ways: Vec<Way>,
}

/// Some ends: alternatives, each `*`, `namespace/*`, `*/name` or the end itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<String>);

/// Some ways: `tcp`, `tcp/80`, `icmp`, `v4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp(Option<u16>),
    Udp(Option<u16>),
    Sctp(Option<u16>),
    Ping,
    Family(Family),
}

impl Expected {
    /// A predicate.
    pub fn when(predicate: impl Fn(&Question<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self::Predicate(Box::new(predicate))
    }

    /// Returns `true` if the expectation is that this gets through.
    pub fn of(&self, question: &Question<'_>) -> bool {
        match self {
            Self::Lines(lines) => {
                let last = lines.iter().rev().find(|line| line.is_about(question));
                last.is_none_or(|line| line.allowed)
            }
            Self::Predicate(predicate) => predicate(question),
        }
    }

    /// Looks for lines about nobody.
    ///
    /// # Panics
    ///
    /// Panics if there is one.
    pub fn check(&self, ends: &[End], case: &str) {
        let Self::Lines(lines) = self else {
            return;
        };
        for line in lines {
            for pattern in [&line.source, &line.destination] {
                for alternative in &pattern.0 {
                    assert!(
                        ends.iter().any(|end| is_meant(alternative, end)),
                        "{case}: no end is {alternative}"
                    );
                }
            }
        }
    }
}

impl From<&str> for Expected {
    fn from(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Self::Lines(lines.map(Line::read).collect())
    }
}

impl From<String> for Expected {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Line {
    /// Reads `+ source > destination ways`.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be read.
    pub fn read(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("too short: {text}"));
        let allowed = match word() {
            "+" => true,
            "-" => false,
            other => panic!("{other} is neither + nor -: {text}"),
        };
        let source = Pattern::read(word());
        assert_eq!(word(), ">", "{text}");
        let destination = Pattern::read(word());
        let ways = words.next().unwrap_or_default();
        assert!(words.next().is_none(), "too long: {text}");
        let ways = ways.split(',').filter(|way| !way.is_empty());
        Self {
            allowed,
            source,
            destination,
            ways: ways.map(Way::read).collect(),
        }
    }

    fn is_about(&self, question: &Question<'_>) -> bool {
        let families = || self.ways.iter().filter(|way| way.is_family());
        let probes = || self.ways.iter().filter(|way| !way.is_family());
        let holds = |way: &Way| way.holds(question);
        self.source.means(question.source)
            && self.destination.means(question.destination)
            && (families().next().is_none() || families().any(holds))
            && (probes().next().is_none() || probes().any(holds))
    }
}

impl Pattern {
    fn read(text: &str) -> Self {
        Self(text.split(',').map(str::to_owned).collect())
    }

    fn means(&self, end: &End) -> bool {
        self.0.iter().any(|alternative| is_meant(alternative, end))
    }
}

fn is_meant(alternative: &str, end: &End) -> bool {
    let name = end.to_string();
    let (namespace, own) = name.split_once('/').expect("ends have two parts");
    match alternative.split_once('/') {
        None => alternative == "*",
        Some((first, "*")) => first == namespace,
        Some(("*", second)) => second == own && end.is_pod(),
        Some((first, second)) => (first, second) == (namespace, own),
    }
}

impl Way {
    fn read(text: &str) -> Self {
        let (kind, port) = match text.split_once('/') {
            None => (text, None),
            Some((kind, port)) => (kind, Some(port.parse().expect("a port"))),
        };
        match kind {
            "tcp" => Self::Tcp(port),
            "udp" => Self::Udp(port),
            "sctp" => Self::Sctp(port),
            "icmp" => Self::Ping,
            "v4" => Self::Family(Family::V4),
            "v6" => Self::Family(Family::V6),
            _ => panic!("{text} is no way to try anything"),
        }
    }

    fn is_family(self) -> bool {
        matches!(self, Self::Family(_))
    }

    fn holds(self, question: &Question<'_>) -> bool {
        match (self, question.probe) {
            (Self::Tcp(wanted), Probe::Tcp(port))
            | (Self::Udp(wanted), Probe::Udp(port))
            | (Self::Sctp(wanted), Probe::Sctp(port)) => wanted.is_none_or(|one| one == port),
            (Self::Ping, Probe::Ping) => true,
            (Self::Family(family), _) => family == question.family,
            _ => false,
        }
    }
}
