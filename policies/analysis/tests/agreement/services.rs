//! Connections to Services against the oracle: who takes them, and whether they may.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cofferdam_oracle::{self as oracle, Oracle, Payload, Query, Taker, Way};
use cofferdam_reach::{Cell, End, EndKind, Externals, Probe, Reach};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Action;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::reach::{inventory, oracle_end};
use super::worlds;

const PROBES: [(&str, Option<(u8, u16)>); 7] = [
    ("tcp/80", Some((6, 80))),
    ("tcp/81", Some((6, 81))),
    ("tcp/443", Some((6, 443))),
    ("udp/53", Some((17, 53))),
    ("udp/80", Some((17, 80))),
    ("sctp/80", Some((132, 80))),
    ("icmp/8", None),
];

/// Addresses that some Service of a world may have, beside those of nodes and pods.
pub(crate) const ADDRESSES: [&str; 13] = [
    "10.0.2.0",
    "10.0.2.1",
    "10.0.2.2",
    "10.0.2.9",
    "fd00:0:0:2::10",
    "fd00:0:0:2::11",
    "198.51.100.9",
    "fd00:0:0:3::9",
    "198.51.100.8",
    "192.0.2.1",
    "192.0.2.2",
    "fd00:0:0:2::2",
    "10.0.0.1",
];

/// Number of takers that may be reached under the policies in force, and of all takers.
type Count = (u32, u32);

struct Asked {
    oracle: Oracle,
    reach: Reach,
    /// Ends that open connections.
    senders: Vec<End>,
    /// The addresses of ends to which no document gives any.
    assumed: BTreeMap<oracle::End, Vec<IpAddr>>,
}

/// Counts of the cases that the worlds had, so that no case goes unasked.
#[derive(Debug, Default)]
struct Seen {
    nobody: usize,
    some: usize,
    all: usize,
    none: usize,
    themselves: usize,
    headless: usize,
    nodes: usize,
}

impl Asked {
    fn new(texts: &[String]) -> Self {
        let reach = Reach::new(&inventory(texts)).expect("a small world");
        let mut senders: Vec<End> = reach.ends().to_vec();
        let host = ["10.0.0.200", "fd00::200"].map(|address| address.parse().unwrap());
        senders.push(reach.external("host", &host));
        let assumed = (senders.iter())
            .filter(|end| end.is_assumed())
            .map(|end| (oracle_end(end), end.addresses().collect()))
            .collect();
        Self {
            oracle: Oracle::new(texts).unwrap(),
            reach,
            senders,
            assumed,
        }
    }

    fn check(&self, seen: &mut Seen) -> Result<(), String> {
        let none = Externals::new();
        for (name, service) in self.reach.inventory().services() {
            let text = format!("service/{name}");
            let Ok(end) = self.reach.end(&text, &none) else {
                continue;
            };
            for family in [Family::V4, Family::V6] {
                for (probe, port) in PROBES {
                    let takers =
                        self.oracle
                            .takers(&name.namespace, &name.name, port, family == Family::V4);
                    let headless = format!("{:?}", service.kind) == "Headless";
                    seen.headless += usize::from(headless);
                    self.ends_at(&end, probe, family, takers.as_ref(), !headless, seen)?;
                }
            }
        }
        for address in ADDRESSES {
            let address: IpAddr = address.parse().unwrap();
            let end = self.reach.address(address);
            let family = if address.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            };
            for (probe, port) in PROBES {
                match self.oracle.way(address, port) {
                    Way::Service(takers) => {
                        seen.nodes += usize::from(end.kind() == EndKind::Node);
                        self.ends_at(&end, probe, family, Some(&takers), true, seen)?;
                    }
                    Way::Straight => self.is_straight(&end, probe, family)?,
                }
            }
        }
        Ok(())
    }

    fn is_straight(&self, end: &End, probe: &str, family: Family) -> Result<(), String> {
        for sender in &self.senders {
            let cell = self.cell(sender, end, probe, family);
            if cell.is_some_and(|cell| cell.backends.is_some()) {
                return Err(format!("{} {probe} is translated: {cell:?}", end.id()));
            }
        }
        Ok(())
    }

    fn cell(&self, from: &End, to: &End, probe: &str, family: Family) -> Option<Cell> {
        self.reach.cell(from, to, probe.parse().unwrap(), family)
    }

    /// Holds all cells to an end against who takes its connections.
    fn ends_at(
        &self,
        end: &End,
        probe: &str,
        family: Family,
        takers: Option<&BTreeSet<Taker>>,
        is_translated: bool,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let of_family = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
        for sender in &self.senders {
            let asked: Probe = probe.parse().unwrap();
            let cell = self.cell(sender, end, probe, family);
            let nobody = self.reach.leads_nowhere(sender, end, asked, family);
            let found = match (&cell, nobody) {
                (Some(cell), _) => cell.backends.map(|all| (all.allowed, all.total)),
                (None, true) => Some((0, 0)),
                (None, false) => None,
            };
            let own: Vec<IpAddr> = sender.addresses().filter(of_family).collect();
            let expected = takers
                .filter(|_| !own.is_empty())
                .map(|takers| self.count(sender, &own, takers, probe, is_translated, seen));
            let what = || format!("{} > {} {probe} {family:?}", sender.id(), end.id());
            if found != expected {
                return Err(format!("{}: {found:?} instead of {expected:?}", what()));
            }
            if let (Some(cell), Some((allowed, total))) = (&cell, expected) {
                if (cell.action() == Action::Allow) != (allowed == total) {
                    return Err(format!("{}: {cell:?} with {allowed} of {total}", what()));
                }
                // A debug build refuses a way that does not end at the verdict.
                let explanation = self.reach.explain(cell);
                let nearest = self.reach.nearest(&explanation);
                let is_waived = !self.reach.waived(&explanation).is_empty();
                if cell.action() == Action::Allow && nearest.is_some() && !is_waived {
                    return Err(format!("{}: a miss of what is allowed", what()));
                }
                let cells = self.reach.backend_cells(sender, end, asked, family);
                let reached = cells
                    .iter()
                    .filter(|one| one.cell.action() == Action::Allow);
                if (reached.count(), cells.len()) != (allowed as usize, total as usize) {
                    return Err(format!("{}: {cells:?}", what()));
                }
            }
            match expected {
                Some((_, 0)) => seen.nobody += 1,
                Some((0, _)) => seen.none += 1,
                Some((allowed, total)) if allowed == total => seen.all += 1,
                Some(_) => seen.some += 1,
                None => {}
            }
        }
        Ok(())
    }

    fn count(
        &self,
        sender: &End,
        own: &[IpAddr],
        takers: &BTreeSet<Taker>,
        probe: &str,
        is_translated: bool,
        seen: &mut Seen,
    ) -> Count {
        let mut count = (0, 0);
        for taker in takers {
            // Of those that stand in for an address, every one must let it pass.
            let to: Vec<IpAddr> = match (&taker.address, self.assumed.get(&taker.end)) {
                (Some(address), _) => vec![*address],
                (None, Some(assumed)) => {
                    let assumed = assumed.iter().copied();
                    assumed
                        .filter(|address| address.is_ipv4() == own[0].is_ipv4())
                        .collect()
                }
                (None, None) => panic!("{taker:?} has no address"),
            };
            assert!(!to.is_empty(), "both families stand in");
            let mut pairs = own
                .iter()
                .flat_map(|from| to.iter().map(move |to| (from, to)));
            let allowed = pairs.all(|(from, to)| {
                let query = Query {
                    source: oracle_end(sender),
                    destination: taker.end.clone(),
                    source_address: *from,
                    destination_address: *to,
                    payload: payload(probe, taker.port),
                    own_node_allowed: true,
                };
                seen.themselves += usize::from(query.source == query.destination);
                let answer = match is_translated {
                    true => self.oracle.evaluate_through_service(&query),
                    false => self.oracle.evaluate(&query),
                };
                answer.enforced.action == oracle::Action::Allow
            });
            count.0 += u32::from(allowed);
            count.1 += 1;
        }
        count
    }
}

/// Returns the payload that arrives: at another port, if one is given.
fn payload(probe: &str, port: Option<u16>) -> Payload {
    let (_, asked) = PROBES.into_iter().find(|(text, _)| *text == probe).unwrap();
    match asked {
        Some((protocol, own)) => Payload::Port(protocol, port.unwrap_or(own)),
        None => Payload::Icmp(1, 8, 0),
    }
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn connections_to_services_end_where_the_oracle_says_and_may(
        world in worlds::world_of_services()
    ) {
        let asked = Asked::new(world.texts());
        asked.check(&mut Seen::default()).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn worlds_of_services_have_every_case_in_them() {
    let mut seen = Seen::default();
    let mut runner = TestRunner::deterministic();
    for _ in 0..100 {
        let world = worlds::world_of_services().new_tree(&mut runner).unwrap();
        let world = proptest::strategy::ValueTree::current(&world);
        Asked::new(world.texts()).check(&mut seen).unwrap();
    }
    let counts = [
        seen.nobody,
        seen.some,
        seen.all,
        seen.none,
        seen.themselves,
        seen.headless,
        seen.nodes,
    ];
    assert!(counts.iter().all(|count| *count > 20), "{seen:?}");
}
