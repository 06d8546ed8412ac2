//! The matrix for people: a picture for each probe, senders down, receivers across.
//!
//! Receivers are numbered, for fifty names across fit on no screen; the numbers are
//! those of the rows where both are the same ends.

use std::io::{self, Write};

use cofferdam_verdict::verdict::Action;

use super::{Matrix, Outcome, family_number};

/// Mark of a cell in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Allowed,
    Denied,
    /// Allowed, and audit policies would deny it.
    WouldBeDenied,
    /// Denied, and audit policies would allow it.
    WouldBeAllowed,
    /// Allowed or denied by an address that nobody gave.
    Depends,
    /// Not both have an address of the family.
    None,
}

impl Mark {
    const DRAWN: [Self; 5] = [
        Self::Allowed,
        Self::Denied,
        Self::WouldBeDenied,
        Self::WouldBeAllowed,
        Self::Depends,
    ];

    fn of(cell: Option<&Outcome>) -> Self {
        let Some(cell) = cell else {
            return Self::None;
        };
        if cell.depends_on_address() {
            return Self::Depends;
        }
        match (cell.action(), cell.audit()) {
            (Action::Allow, None | Some(Action::Allow)) => Self::Allowed,
            (Action::Deny, None | Some(Action::Deny)) => Self::Denied,
            (Action::Allow, Some(Action::Deny)) => Self::WouldBeDenied,
            (Action::Deny, Some(Action::Allow)) => Self::WouldBeAllowed,
        }
    }

    fn symbol(self) -> char {
        match self {
            Self::Allowed => '●',
            Self::Denied => '·',
            Self::WouldBeDenied => '◐',
            Self::WouldBeAllowed => '○',
            Self::Depends => '?',
            Self::None => ' ',
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldBeDenied => "allowed, and denied once audit policies are enforced",
            Self::WouldBeAllowed => "denied, and allowed once audit policies are enforced",
            Self::Depends => {
                "by an address that no document gives: taken for denied, --pod-cidr decides"
            }
            Self::None => "no address of the family",
        }
    }

    /// The colour of the symbol as a terminal is told it.
    fn colour(self) -> &'static str {
        match self {
            Self::Allowed => "\x1b[32m",
            Self::Denied => "\x1b[31m",
            Self::WouldBeDenied | Self::WouldBeAllowed | Self::Depends => "\x1b[33m",
            Self::None => "",
        }
    }

    fn draw(self, colour: bool, out: &mut impl Write) -> io::Result<()> {
        if colour && self != Self::None {
            write!(out, "{}{}\x1b[0m", self.colour(), self.symbol())
        } else {
            write!(out, "{}", self.symbol())
        }
    }
}

/// Draws one picture after the other.
pub(super) fn write(matrix: &Matrix<'_>, colour: bool, out: &mut impl Write) -> io::Result<()> {
    // Ends are numbered from 1, in the order of rows.
    let number = |end: usize| end + 1;
    let digits = matrix.ends.len().to_string().len();
    let names = matrix.sources.iter().map(|end| matrix.ends[*end].id());
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
    let mut counts = [0usize; Mark::DRAWN.len()];
    for probe in matrix.probes {
        writeln!(
            out,
            "{probe} over IPv{}, from each row to the numbered ends across\n",
            family_number(matrix.family)
        )?;
        // Numbers stand upright, so that a receiver takes two columns whatever its number.
        for digit in 0..digits {
            write!(out, "{:digits$}  {:width$}", "", "")?;
            for end in &matrix.destinations {
                let written = format!("{:>digits$}", number(*end));
                write!(out, " {}", &written[digit..=digit])?;
            }
            writeln!(out)?;
        }
        let mut allowed = 0;
        let mut cells = 0;
        for source in &matrix.sources {
            let end = &matrix.ends[*source];
            write!(out, "{:>digits$}  {:width$}", number(*source), end.id())?;
            for destination in &matrix.destinations {
                let cell = matrix.cell(*probe, end, &matrix.ends[*destination]);
                let mark = Mark::of(cell.as_ref());
                write!(out, " ")?;
                mark.draw(colour, out)?;
                cells += usize::from(mark != Mark::None);
                allowed += usize::from(matches!(mark, Mark::Allowed | Mark::WouldBeDenied));
                if let Some(at) = Mark::DRAWN.iter().position(|drawn| *drawn == mark) {
                    counts[at] += 1;
                }
            }
            writeln!(out)?;
        }
        writeln!(out, "\n{allowed} of {cells} allowed\n")?;
    }
    let across = (matrix.destinations.iter()).filter(|end| !matrix.sources.contains(end));
    for end in across {
        writeln!(out, "{:>digits$}  {}", number(*end), matrix.ends[*end].id())?;
    }
    for (mark, _) in Mark::DRAWN
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
    {
        mark.draw(colour, out)?;
        writeln!(out, " {}", mark.meaning())?;
    }
    if matrix.ends.iter().any(|end| end.is_assumed()) {
        writeln!(
            out,
            "\nEnds without an address in the documents are judged as if they had a private one."
        )?;
    }
    Ok(())
}
