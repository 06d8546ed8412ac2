//! Table of members that reach each other, tried and shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, Result};
use cofferdam_tests::{
    expectations::{Question, Template},
    packet::Family,
    traffic::{Cell, Matrix, Outcome, Probe},
};

use crate::shop::{Shop, shown};

/// A member's name without its namespace.
pub(crate) fn short(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

/// Outcome of every cell.
pub(crate) struct Reachability {
    cells: BTreeMap<Question, Outcome>,
    /// Cells that are not as they should be.
    wrong: BTreeSet<Question>,
}

fn question(cell: &Cell<'_>) -> Question {
    Question {
        source: cell.source.to_owned(),
        destination: cell.destination.to_owned(),
        probe: cell.probe,
        family: cell.family,
    }
}

impl Reachability {
    /// Tries every pair of members on every port, in both families. `allowed` says
    /// what should be reached.
    pub(crate) fn tried(
        shop: &Shop<'_>,
        template: &Template,
        allowed: impl Fn(&Question) -> bool,
    ) -> Result<Self> {
        let table = Matrix::among(&shop.members, &template.probes())
            .run(|cell| allowed(&question(cell)))
            .context("cannot try who reaches whom")?;
        let mut cells = BTreeMap::new();
        let mut wrong = BTreeSet::new();
        for (cell, outcome) in table.cells() {
            let key = question(cell);
            // A refusal is an answer as well: only silence is a denial.
            let right = if allowed(&key) {
                *outcome == Outcome::Reached(cell.destination.to_owned())
            } else {
                *outcome == Outcome::Blocked
            };
            if !right {
                wrong.insert(key.clone());
            }
            cells.insert(key, outcome.clone());
        }
        Ok(Self { cells, wrong })
    }

    /// Returns the number of cells that are as they should be, and that of all.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.cells.len() - self.wrong.len(), self.cells.len())
    }

    /// Cells that did not answer, though they should not: denials that are right.
    pub(crate) fn denied(&self) -> impl Iterator<Item = &Question> {
        self.cells
            .iter()
            .filter(|(key, outcome)| **outcome == Outcome::Blocked && !self.wrong.contains(key))
            .map(|(key, _)| key)
    }

    /// Returns the cells that are not as they should be, in words.
    pub(crate) fn objections(&self) -> Vec<String> {
        let shown = |key: &Question| format!("{key}: {}", self.cells[key]);
        self.wrong.iter().map(shown).collect()
    }

    /// Ports that are reached in both families, or in one alone, which it then names.
    fn reached(&self, source: &str, destination: &str, probes: &[Probe]) -> String {
        let mut open = Vec::new();
        for &probe in probes {
            let reached: Vec<Family> = Family::BOTH
                .into_iter()
                .filter(|&family| {
                    let outcome = self.cells.get(&Question {
                        source: source.to_owned(),
                        destination: destination.to_owned(),
                        probe,
                        family,
                    });
                    outcome.is_some_and(Outcome::is_reached)
                })
                .collect();
            match reached[..] {
                [] => {}
                [family] => open.push(format!("{}({family} only)", shown(probe))),
                _ => open.push(shown(probe)),
            }
        }
        match open.len() {
            _ if source == destination => "-".to_owned(),
            0 => ".".to_owned(),
            length if length == probes.len() && length > 1 => "all".to_owned(),
            _ => open.join(" "),
        }
    }

    /// The table: sources down, destinations across, open ports in the cells.
    pub(crate) fn shown(&self, shop: &Shop<'_>, template: &Template) -> String {
        let probes = template.probes();
        let names: Vec<&str> = shop.members.iter().map(|member| &*member.name).collect();
        let mut columns = vec![vec!["from \\ to".to_owned()]];
        columns[0].extend(names.iter().map(|name| short(name)));
        for destination in &names {
            let mut column = vec![short(destination)];
            for source in &names {
                column.push(self.reached(source, destination, &probes));
            }
            columns.push(column);
        }
        let mut text = String::new();
        for row in 0..=names.len() {
            let mut line = String::from("  ");
            for column in &columns {
                let width = column.iter().map(String::len).max().unwrap_or_default();
                write!(line, "{:width$}  ", column[row]).expect("writing to a string");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
