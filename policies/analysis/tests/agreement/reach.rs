//! Cells against the oracle, and the way to each against its verdict, in random
//! worlds.

use cofferdam_documents as documents;
use cofferdam_inventory::Inventory;
use cofferdam_oracle::{self as oracle, Oracle, Payload, Query};
use cofferdam_reach::{Cell, End, EndKind, Probe, Reach};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::{Action, Direction};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::worlds;

pub(crate) fn inventory(texts: &[String]) -> Inventory {
    let parsed = texts
        .iter()
        .flat_map(|text| documents::parse("w.yaml", text.as_bytes()).documents);
    documents::assemble(parsed).inventory
}

/// Everything that is asked about a world: its ends, an outside host in either family,
/// and what its policies may tell apart.
struct Asked {
    oracle: Oracle,
    reach: Reach,
    ends: Vec<End>,
}

const PROBES: [(&str, Payload); 8] = [
    ("tcp/80", Payload::Port(6, 80)),
    ("tcp/81", Payload::Port(6, 81)),
    ("tcp/443", Payload::Port(6, 443)),
    ("udp/53", Payload::Port(17, 53)),
    ("sctp/80", Payload::Port(132, 80)),
    ("icmp/8", Payload::Icmp(1, 8, 0)),
    ("icmpv6/128", Payload::Icmp(58, 128, 0)),
    ("proto/47", Payload::Bare(47)),
];

impl Asked {
    fn new(texts: &[String]) -> Self {
        let reach = Reach::new(&inventory(texts)).expect("a small world");
        let host = ["10.0.0.200", "fd00::200"].map(|address| address.parse().unwrap());
        // The oracle knows no addresses that stand in; it asks for those of nodes.
        let selectable = |end: &End| {
            let mut pods = reach
                .inventory()
                .workloads()
                .values()
                .filter(|pod| !pod.host_network);
            pods.any(|pod| pod.name.to_string() == end.id())
        };
        let known = reach.ends().iter();
        let mut ends: Vec<End> = known
            .filter(|end| !end.is_assumed() || selectable(end))
            .cloned()
            .collect();
        ends.push(reach.external("host", &host));
        Self {
            oracle: Oracle::new(texts).unwrap(),
            reach,
            ends,
        }
    }

    fn check(&self) -> Result<(), String> {
        let ends = || self.ends.iter();
        for (source, destination) in ends().flat_map(|s| ends().map(move |d| (s, d))) {
            for family in [Family::V4, Family::V6] {
                for (text, payload) in PROBES {
                    let probe: Probe = text.parse().unwrap();
                    let cell = self.reach.cell(source, destination, probe, family);
                    self.compare(source, destination, family, payload, cell)
                        .map_err(|what| {
                            let (from, to) = (source.id(), destination.id());
                            format!("{from} > {to} {text} {family:?}: {what}")
                        })?;
                    if let Some(cell) = cell {
                        self.walk(&cell);
                    }
                }
            }
        }
        Ok(())
    }

    /// A debug build refuses a way that does not end at the verdict.
    fn walk(&self, cell: &Cell) {
        let explained = self.reach.explain(cell);
        let nearest = self.reach.nearest(&explained);
        let is_waived = !self.reach.waived(&explained).is_empty();
        if cell.action() == Action::Allow {
            assert!(nearest.is_none() || is_waived);
        }
        if let Some((direction, step)) = nearest {
            assert!(is_waived || cell.side(direction).verdict.action == Action::Deny);
            assert!(!step.is_match());
        }
    }

    /// Every pair of addresses as the oracle judges it, put together as a cell is
    /// promised to be.
    fn compare(
        &self,
        source: &End,
        destination: &End,
        family: Family,
        payload: Payload,
        cell: Option<Cell>,
    ) -> Result<(), String> {
        let of_family = |end: &End| {
            let addresses = end.addresses();
            addresses
                .filter(|address| address.is_ipv4() == (family == Family::V4))
                .collect::<Vec<_>>()
        };
        let (from, to) = (of_family(source), of_family(destination));
        let Some(cell) = cell else {
            return if from.is_empty() || to.is_empty() {
                Ok(())
            } else {
                Err("no cell".to_owned())
            };
        };
        let answer = |source_address, destination_address| {
            self.oracle.evaluate(&Query {
                source: oracle_end(source),
                destination: oracle_end(destination),
                source_address,
                destination_address,
                payload,
                own_node_allowed: true,
            })
        };
        let (mut enforced, mut audited) = (Action::Allow, Action::Allow);
        for from in &from {
            for to in &to {
                let answer = answer(*from, *to);
                if answer.enforced.action == oracle::Action::Deny {
                    enforced = Action::Deny;
                }
                if answer.audited.action == oracle::Action::Deny {
                    audited = Action::Deny;
                }
            }
        }
        if (cell.action(), cell.audited_action()) != (enforced, audited) {
            return Err(format!("{cell:?} instead of {enforced:?}, {audited:?}"));
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            let side = cell.side(direction);
            let judged = answer(side.source, side.destination).enforced;
            let judged = match direction {
                Direction::Egress => judged.egress,
                Direction::Ingress => judged.ingress,
            };
            let expected = match judged.reason {
                oracle::Reason::Rule => "rule",
                oracle::Reason::Isolated => "isolated",
                oracle::Reason::NotIsolated => "not_isolated",
                oracle::Reason::OwnNode => "own_node",
                oracle::Reason::SelfTraffic | oracle::Reason::NotASubject => continue,
            };
            let rule = self.reach.rule_of(&side.verdict).map(|(_, entry)| {
                let policy = &entry.key.policy;
                (
                    entry.key.namespace().map(str::to_owned),
                    policy.name.to_string(),
                    entry.key.index,
                )
            });
            let wanted = judged.rule.map(|rule| {
                let index = rule.index.map(|index| index as u32);
                (rule.namespace, rule.name, index)
            });
            if (side.verdict.reason.name(), &rule) != (expected, &wanted) {
                return Err(format!(
                    "{side:?} by {rule:?} instead of {expected} by {wanted:?}"
                ));
            }
        }
        Ok(())
    }
}

pub(crate) fn oracle_end(end: &End) -> oracle::End {
    let (first, name) = end.id().split_once('/').expect("a name");
    match end.kind() {
        EndKind::Pod => oracle::End::Pod {
            namespace: first.to_owned(),
            name: name.to_owned(),
        },
        EndKind::Node => oracle::End::Node {
            name: name.to_owned(),
        },
        EndKind::External | EndKind::Service => oracle::End::External,
    }
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn cells_are_what_the_oracle_says_and_every_way_ends_at_its_verdict(world in worlds::world()) {
        Asked::new(world.texts()).check().map_err(TestCaseError::fail)?;
    }
}
