//! Matrix of reachability: all pairs, all probes, at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::client::{Attempt, settle};
use super::{Outcome, Place, Probe};
use crate::machine;
use crate::packet::Family;

/// Descriptors the process may need beside those of a matrix.
const OTHER_DESCRIPTORS: usize = 1024;

/// A set of probes to be run at once.
///
/// Each cell waits as long as its expectation deserves: one that should be
/// reached may take its time on a busy machine, one that should be blocked is
/// believed after a short while. A matrix of hundreds of cells takes that short
/// while, all in all.
#[derive(Clone, Debug)]
pub struct Matrix<'w> {
    sources: Vec<Place<'w>>,
    destinations: Vec<Place<'w>>,
    probes: Vec<Probe>,
    families: Vec<Family>,
    until_blocked: Duration,
    until_given_up: Duration,
}

/// One thing to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell<'w> {
    /// Name of the place that tries.
    pub source: &'w str,
    /// Name of the place that it tries to reach.
    pub destination: &'w str,
    /// Probe by which it tries.
    pub probe: Probe,
    /// Address family.
    pub family: Family,
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::write_attempt(
            f,
            [&self.source, &self.destination],
            self.probe,
            self.family,
        )
    }
}

/// Time after which what should be reached is not. An emulated machine whose host is busy takes
/// more than 5 s for a hundred connections, without any firewall.
fn given_up_after() -> Duration {
    match machine::is_emulated() {
        true => Duration::from_secs(20),
        false => Duration::from_secs(5),
    }
}

impl<'w> Matrix<'w> {
    /// From each place to each other one, in both families.
    pub fn among<P: Into<Place<'w>>>(
        places: impl IntoIterator<Item = P>,
        probes: &[Probe],
    ) -> Self {
        let places: Vec<Place<'w>> = places.into_iter().map(Into::into).collect();
        Self {
            sources: places.clone(),
            destinations: places,
            probes: probes.to_vec(),
            families: Family::BOTH.to_vec(),
            until_blocked: Duration::from_millis(300),
            until_given_up: given_up_after(),
        }
    }

    /// From these places instead.
    pub fn from<P: Into<Place<'w>>>(mut self, sources: impl IntoIterator<Item = P>) -> Self {
        self.sources = sources.into_iter().map(Into::into).collect();
        self
    }

    /// To these places instead.
    pub fn to<P: Into<Place<'w>>>(mut self, destinations: impl IntoIterator<Item = P>) -> Self {
        self.destinations = destinations.into_iter().map(Into::into).collect();
        self
    }

    /// In one family alone.
    pub fn family(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// Sets the time to wait for an answer that should not come, and for one that should;
    /// without this word 300 milliseconds and 5 seconds.
    pub fn patience(mut self, until_blocked: Duration, until_given_up: Duration) -> Self {
        self.until_blocked = until_blocked;
        self.until_given_up = until_given_up;
        self
    }

    /// Tries everything. `expected` says of each cell whether it should be
    /// reached.
    pub fn run(&self, expected: impl Fn(&Cell<'w>) -> bool) -> io::Result<Table<'w>> {
        let mut cells = Vec::new();
        for source in &self.sources {
            for destination in self.destinations.iter().filter(|to| to.name != source.name) {
                for &family in &self.families {
                    for &probe in &self.probes {
                        let (source_name, destination_name) = (source.name, destination.name);
                        let cell = Cell {
                            source: source_name,
                            destination: destination_name,
                            probe,
                            family,
                        };
                        cells.push((cell, *source, destination.ip(family)));
                    }
                }
            }
        }
        allow_descriptors(cells.len() + OTHER_DESCRIPTORS);
        let mut attempts = Vec::new();
        for (cell, source, destination) in &cells {
            let patience = if expected(cell) {
                self.until_given_up
            } else {
                self.until_blocked
            };
            attempts.push(Attempt::start(*source, *destination, cell.probe, patience)?);
        }
        let rows = cells
            .into_iter()
            .zip(settle(attempts)?)
            .map(|((cell, ..), outcome)| Row {
                cell,
                expected: expected(&cell),
                outcome,
            })
            .collect();
        Ok(Table { rows })
    }
}

/// Raises the process's limit of descriptors, as far as it may, to what one
/// matrix takes: a socket a cell.
fn allow_descriptors(wanted: usize) {
    let wanted = wanted as u64;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        // Where it may not, opening the sockets says so.
        _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

/// Outcome of a matrix.
#[derive(Clone, Debug)]
pub struct Table<'w> {
    rows: Vec<Row<'w>>,
}

#[derive(Clone, Debug)]
struct Row<'w> {
    cell: Cell<'w>,
    expected: bool,
    outcome: Outcome,
}

impl Row<'_> {
    /// The right server was reached, or nobody, as expected.
    fn is_as_expected(&self) -> bool {
        match &self.outcome {
            Outcome::Reached(name) => {
                let right = self.cell.probe == Probe::Ping || name == self.cell.destination;
                self.expected && right
            }
            _ => !self.expected,
        }
    }
}

impl<'w> Table<'w> {
    /// All cells with what became of them.
    pub fn cells(&self) -> impl Iterator<Item = (&Cell<'w>, &Outcome)> {
        self.rows.iter().map(|row| (&row.cell, &row.outcome))
    }

    /// Returns the outcome of one cell.
    ///
    /// # Panics
    ///
    /// Panics if it is not in the table.
    pub fn outcome(&self, cell: &Cell<'_>) -> &Outcome {
        let row = self.rows.iter().find(|row| row.cell == *cell);
        &row.unwrap_or_else(|| panic!("{cell} was not tried"))
            .outcome
    }

    /// The cells that are not as expected, or that another server answered.
    pub fn surprises(&self) -> impl Iterator<Item = (&Cell<'w>, &Outcome)> {
        let surprises = self.rows.iter().filter(|row| !row.is_as_expected());
        surprises.map(|row| (&row.cell, &row.outcome))
    }

    /// Fails, with the whole table, unless every cell is as expected.
    ///
    /// # Panics
    ///
    /// Panics if a cell is not as expected.
    #[track_caller]
    pub fn assert_as_expected(&self) {
        assert!(self.surprises().next().is_none(), "{self}");
    }
}

/// One grid for each probe and family, sources down and destinations across:
/// `+` reached, `-` not reached, `!` not as expected; then each surprise in
/// words.
impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut grids: BTreeMap<_, BTreeMap<_, BTreeMap<_, _>>> = BTreeMap::new();
        for row in &self.rows {
            let Cell {
                source,
                destination,
                probe,
                family,
            } = row.cell;
            let grid = grids.entry((family, probe)).or_default();
            grid.entry(source).or_default().insert(destination, row);
        }
        for ((family, probe), grid) in grids {
            let across: Vec<&str> = {
                let mut names: Vec<_> = grid.values().flat_map(BTreeMap::keys).copied().collect();
                names.sort_unstable();
                names.dedup();
                names
            };
            writeln!(f, "{probe} {family}, to {}:", across.join(", "))?;
            for (source, row) in &grid {
                let marks = across.iter().map(|destination| match row.get(destination) {
                    None => "  .",
                    Some(row) => match (row.outcome.is_reached(), row.is_as_expected()) {
                        (true, true) => "  +",
                        (false, true) => "  -",
                        (true, false) => " !+",
                        (false, false) => " !-",
                    },
                });
                writeln!(f, "{source:>12}{}", marks.collect::<String>())?;
            }
        }
        for (cell, outcome) in self.surprises() {
            writeln!(f, "{cell}: {outcome}")?;
        }
        Ok(())
    }
}
