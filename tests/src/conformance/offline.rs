//! Cases without a kernel: the oracle and the compiled table, asked the same.
//!
//! Three roads lead to each cell: what the case states, what the oracle finds in the
//! raw documents, and what the compiled table says. All must agree.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::AddAssign;

use cofferdam_documents as documents;
use cofferdam_inventory::{Inventory, Protocol};
use cofferdam_oracle::{self as oracle, Oracle, Payload, Query};
use cofferdam_reach::{self as reach, Externals, Reach};
use cofferdam_syntax::diagnostic::Severity;
use cofferdam_verdict::address;
use cofferdam_verdict::verdict::Action;

use super::cluster::{Cluster, End};
use super::{Case, Cell, Phase};
use crate::packet::{Family, protocol};
use crate::traffic::Probe;

/// Numbers of things that were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Cases.
    pub cases: usize,
    /// Steps of them.
    pub steps: usize,
    /// Cells of their tables, in both families.
    pub cells: usize,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.steps += other.steps;
        self.cells += other.cells;
    }
}

/// Asks a case in both families; says how much was asked, or what is not so.
///
/// # Errors
/// The cells that are not as stated, with everything that is needed to ask again.
pub fn check(case: &Case) -> Result<Count, String> {
    let mut count = Count {
        cases: 1,
        ..Count::default()
    };
    let mut cluster = case.begin();
    let mut numbers = Numbers::default();
    for (number, step) in case.steps.iter().enumerate() {
        for change in &step.changes {
            cluster.change(change);
        }
        numbers.give(&cluster);
        let addresses = |name: &str| numbers.of(name);
        let texts: Vec<String> = cluster.documents(&addresses).into_values().collect();
        let sides = Sides::new(&texts, &numbers)
            .map_err(|error| format!("{case}, step {number}: {error}"))?;
        let mut surprises = Vec::new();
        for family in Family::BOTH {
            let cells = case.table(step, &cluster, family);
            count.cells += cells.len();
            surprises.extend(
                cells
                    .iter()
                    .filter_map(|cell| sides.objection(cell, &numbers)),
            );
            surprises.extend(untrue(step, &cells));
        }
        count.steps += 1;
        if !surprises.is_empty() {
            return Err(format!(
                "{case}, step {number}:\n{}\n{}",
                surprises.join("\n"),
                texts.join("---\n")
            ));
        }
    }
    Ok(count)
}

/// Returns the cells that the public suite tries one by one and that are not so in the whole
/// table.
fn untrue(step: &Phase, cells: &[Cell]) -> Vec<String> {
    let tried = step.tried.iter().filter_map(|(text, allowed)| {
        let cell = cells.iter().find(|cell| is_written(cell, text));
        match cell {
            None => Some(format!("{text}: no such cell")),
            Some(cell) if cell.allowed != *allowed => Some(format!("{text}: stated otherwise")),
            Some(_) => None,
        }
    });
    tried.collect()
}

/// Returns `true` if a cell is the one that a text names: `x/a > y/b tcp/80`.
pub fn is_written(cell: &Cell, text: &str) -> bool {
    let Cell {
        source,
        destination,
        probe,
        ..
    } = cell;
    format!("{source} > {destination} {probe}") == text
}

/// Addresses of everything, given in the order in which it comes, as in a real world.
#[derive(Debug, Default)]
struct Numbers(Vec<String>);

impl Numbers {
    fn give(&mut self, cluster: &Cluster) {
        for pod in cluster.pods() {
            if !self.0.contains(&pod.name) {
                self.0.push(pod.name.clone());
            }
        }
    }

    fn of(&self, name: &str) -> Vec<IpAddr> {
        let (v4, v6) = match name {
            "node/n1" => ([10, 64, 0, 1], [0xfd64, 1]),
            "node/n2" | "external/outside" => ([198, 51, 100, 2], [0xfd51, 2]),
            pod => {
                let number = self
                    .0
                    .iter()
                    .position(|one| one == pod)
                    .unwrap_or_else(|| panic!("there is no {pod}"))
                    + 2;
                let number = u8::try_from(number).expect("a small cluster");
                ([10, 64, 0, number], [0xfd64, number.into()])
            }
        };
        let [prefix, number] = v6;
        vec![
            Ipv4Addr::from(v4).into(),
            Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, number).into(),
        ]
    }

    fn in_family(&self, end: &End, family: Family) -> IpAddr {
        let mut addresses = self.of(&end.to_string()).into_iter();
        let address = addresses.find(|address| Family::of(*address) == family);
        address.expect("every end has both families")
    }
}

/// The same documents for either side.
struct Sides {
    oracle: Oracle,
    reach: Reach,
    externals: Externals,
}

impl Sides {
    fn new(texts: &[String], numbers: &Numbers) -> Result<Self, String> {
        let reach = Reach::new(&inventory(texts)?).map_err(|error| error.to_string())?;
        let outside = numbers.of("external/outside");
        Ok(Self {
            oracle: Oracle::new(texts).map_err(|error| error.to_string())?,
            reach: reach.with_own_node_allowed(true),
            externals: Externals::from([("outside".to_owned(), outside)]),
        })
    }

    /// Returns the objection of one of the sides to a cell.
    fn objection(&self, cell: &Cell, numbers: &Numbers) -> Option<String> {
        let stated = if cell.allowed { "allow" } else { "deny" };
        let answer = self.oracle.evaluate(&query(cell, numbers)).enforced;
        if (answer.action == oracle::Action::Allow) != cell.allowed {
            return Some(format!("{cell}: stated {stated}, the oracle {answer:?}"));
        }
        match self.table(cell) {
            Err(words) => Some(format!("{cell}: {words}")),
            Ok(found) if (found.action() == Action::Allow) != cell.allowed => {
                Some(format!("{cell}: stated {stated}, the table {found:?}"))
            }
            Ok(_) => None,
        }
    }

    fn table(&self, cell: &Cell) -> Result<reach::Cell, String> {
        let end = |end: &End| {
            let end = self.reach.end(&end.to_string(), &self.externals);
            end.map_err(|unknown| unknown.to_string())
        };
        let (source, destination) = (end(&cell.source)?, end(&cell.destination)?);
        let (probe, family) = match (cell.probe, cell.family) {
            (Probe::Tcp(port), family) => (reach::Probe::Port(Protocol::Tcp, port), family),
            (Probe::Udp(port), family) => (reach::Probe::Port(Protocol::Udp, port), family),
            (Probe::Sctp(port), family) => (reach::Probe::Port(Protocol::Sctp, port), family),
            (Probe::Ping, Family::V4) => (reach::Probe::Icmp(8, Some(0)), Family::V4),
            (Probe::Ping, Family::V6) => (reach::Probe::Icmpv6(128, Some(0)), Family::V6),
        };
        let family = match family {
            Family::V4 => address::Family::V4,
            Family::V6 => address::Family::V6,
        };
        let found = self.reach.cell(&source, &destination, probe, family);
        found.ok_or_else(|| "an end has no address of the family".to_owned())
    }
}

fn query(cell: &Cell, numbers: &Numbers) -> Query {
    let end = |end: &End| match end {
        End::Pod(_) => oracle::End::Pod {
            namespace: end.namespace().to_owned(),
            name: end.name().to_owned(),
        },
        End::Node(name) => oracle::End::Node {
            name: (*name).to_owned(),
        },
        End::External(_) => oracle::End::External,
    };
    Query {
        source: end(&cell.source),
        destination: end(&cell.destination),
        source_address: numbers.in_family(&cell.source, cell.family),
        destination_address: numbers.in_family(&cell.destination, cell.family),
        payload: payload(cell.probe, cell.family),
        own_node_allowed: true,
    }
}

fn payload(probe: Probe, family: Family) -> Payload {
    match (probe, family) {
        (Probe::Tcp(port), _) => Payload::Port(protocol::TCP, port),
        (Probe::Udp(port), _) => Payload::Port(protocol::UDP, port),
        (Probe::Sctp(port), _) => Payload::Port(protocol::SCTP, port),
        (Probe::Ping, Family::V4) => Payload::Icmp(protocol::ICMP, 8, 0),
        (Probe::Ping, Family::V6) => Payload::Icmp(protocol::ICMPV6, 128, 0),
    }
}

/// The desired state of documents; errors are refused, warnings are not.
fn inventory(texts: &[String]) -> Result<Inventory, String> {
    let mut faults = Vec::new();
    let mut all = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let parsed = documents::parse(&format!("{number}.yaml"), text.as_bytes());
        faults.extend(parsed.diagnostics);
        all.extend(parsed.documents);
    }
    let assembled = documents::assemble(all);
    faults.extend(assembled.diagnostics);
    let errors: Vec<String> = faults
        .iter()
        .filter(|fault| fault.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    if errors.is_empty() {
        Ok(assembled.inventory)
    } else {
        Err(errors.join("; "))
    }
}
