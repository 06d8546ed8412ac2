//! Decisions about virtual addresses against the oracle, and what is worked out
//! after a change against what is worked out anew.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cofferdam_policies::compiler::{
    Compiled, InForce, Input, Outcome, Reached, SlotPlan, Virtuals, compile,
};
use cofferdam_policies::inventory::{Inventory, Protocol, Workload};
use cofferdam_policies::oracle::{self, Oracle, Payload, Query, Taker, Way};
use cofferdam_policies::services::Services;
use cofferdam_verdict::address::Family;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{Profile, SlotKind};
use cofferdam_verdict::verdict::Direction;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::asking::{even, odd};
use super::reach::inventory;
use super::services::ADDRESSES;
use super::worlds;

const PORTS: [(Protocol, u16); 7] = [
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 81),
    (Protocol::Tcp, 443),
    (Protocol::Udp, 53),
    (Protocol::Udp, 80),
    (Protocol::Sctp, 80),
    (Protocol::Tcp, 53),
];

/// A node's table, and what its workloads may do at virtual addresses.
struct Node {
    inventory: Inventory,
    plan: SlotPlan,
    compiled: Compiled,
    services: Services,
    virtuals: Virtuals,
}

impl Node {
    fn new(texts: &[String], is_local: fn(&Workload) -> bool) -> Self {
        let inventory = inventory(texts);
        let plan = SlotPlan::assign(&inventory);
        let compiled = compile(&Input {
            inventory: &inventory,
            slots: &plan,
            is_local: &is_local,
            own_node: None,
            limits: Limits {
                slots: 256,
                ..Limits::default()
            },
            revision: 1,
        })
        .expect("a small world");
        let services = Services::new(&inventory);
        let in_force = InForce {
            compiled: &compiled,
            plan: &plan,
        };
        let local = inventory.workloads().values().filter(|pod| is_local(pod));
        let virtuals = Virtuals::new(&services, in_force, local);
        Self {
            inventory,
            plan,
            compiled,
            services,
            virtuals,
        }
    }

    fn profile(&self, address: IpAddr) -> Profile {
        let slot = self.compiled.slot_of(&self.plan, address);
        slot.expect("every address has one").1
    }

    /// Returns `true` if some workload has addresses of both kinds.
    fn are_one(&self, one: Profile, other: Profile) -> bool {
        self.inventory.workloads().values().any(|pod| {
            let own = || {
                pod.own_addresses()
                    .iter()
                    .map(|address| self.profile(*address))
            };
            own().any(|own| own == one) && own().any(|own| own == other)
        })
    }

    /// The outcome that is known of a port of an address.
    fn known(&self, sender: Profile, address: IpAddr, port: (Protocol, u16)) -> Option<Outcome> {
        let at_node_port = || {
            let family = if address.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            };
            let is_nodes = matches!(
                self.inventory.owner(address),
                Some(cofferdam_policies::inventory::Owner::Node(_))
            );
            (is_nodes)
                .then(|| self.virtuals.at_node_port(sender, family, port))
                .flatten()
        };
        (self.virtuals.at_address(sender, address, port)).or_else(at_node_port)
    }
}

/// How often each outcome was seen.
#[derive(Debug, Default)]
struct Seen {
    nobody: usize,
    all: usize,
    none: usize,
    some: usize,
}

fn check(node: &Node, oracle: &Oracle, seen: &mut Seen) -> Result<(), String> {
    let workloads = node.inventory.workloads().values();
    let senders = workloads.flat_map(|pod| pod.own_addresses().iter().map(move |one| (pod, *one)));
    for (pod, from) in senders {
        let sender = node.profile(from);
        if sender.kind != SlotKind::LocalWorkload {
            continue;
        }
        let end = oracle::End::Pod {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
        };
        for address in ADDRESSES {
            let address: IpAddr = address.parse().unwrap();
            for port in PORTS
                .into_iter()
                .filter(|_| address.is_ipv4() == from.is_ipv4())
            {
                let number = (port.0.number(), port.1);
                let known = node.known(sender, address, port);
                let what = || format!("{} {from} > {address} {port:?}: {known:?}", pod.name);
                let takers = match oracle.way(address, Some(number)) {
                    Way::Straight => BTreeSet::new(),
                    Way::Service(takers) => takers,
                };
                // A pod without an address takes nothing yet.
                let takers: Vec<Taker> = takers
                    .into_iter()
                    .filter(|taker| taker.address.is_some())
                    .collect();
                let Some(known) = known else {
                    if takers.is_empty() {
                        continue;
                    }
                    return Err(format!("{} instead of {takers:?}", what()));
                };
                let may_be_itself = takers.iter().any(|taker| {
                    let taken = taker.address.map(|address| node.profile(address));
                    taken.is_some_and(|taken| node.are_one(sender, taken))
                });
                let answers: Vec<oracle::Answer> = (takers.iter())
                    .map(|taker| {
                        oracle.evaluate_through_service(&Query {
                            source: end.clone(),
                            destination: taker.end.clone(),
                            source_address: from,
                            destination_address: taker.address.unwrap(),
                            payload: Payload::Port(number.0, taker.port.unwrap()),
                            own_node_allowed: true,
                        })
                    })
                    .collect();
                for (reached, of) in [
                    (
                        known.enforced,
                        (|a| &a.enforced) as fn(&oracle::Answer) -> &oracle::Judgement,
                    ),
                    (known.audited, |a| &a.audited),
                ] {
                    let judged: Vec<&oracle::Judgement> = answers.iter().map(of).collect();
                    compare(reached, &judged, may_be_itself, seen)
                        .map_err(|wanted| format!("{} instead of {wanted}", what()))?;
                }
            }
        }
    }
    Ok(())
}

/// Holds what is known against each backend's own judgement.
fn compare(
    reached: Reached,
    judged: &[&oracle::Judgement],
    may_be_itself: bool,
    seen: &mut Seen,
) -> Result<(), &'static str> {
    let allowed = (judged.iter())
        .filter(|one| one.action == oracle::Action::Allow)
        .count();
    let is = match reached {
        Reached::Nobody => {
            seen.nobody += 1;
            judged.is_empty()
        }
        Reached::All => {
            seen.all += 1;
            !judged.is_empty() && allowed == judged.len()
        }
        Reached::None(direction, verdict) => {
            seen.none += 1;
            // Some backend is denied in this direction, for this reason.
            let is_said = judged.iter().any(|one| {
                let side = match direction {
                    Direction::Egress => &one.egress,
                    Direction::Ingress => &one.ingress,
                };
                let reason = match side.reason {
                    oracle::Reason::Rule => Reason::Rule,
                    _ => Reason::Isolated,
                };
                side.action == oracle::Action::Deny && verdict.reason == reason
            });
            allowed == 0 && is_said
        }
        Reached::Some => {
            seen.some += 1;
            (0 < allowed && allowed < judged.len()) || (may_be_itself && !judged.is_empty())
        }
    };
    match is {
        true => Ok(()),
        false if judged.is_empty() => Err("nobody"),
        false if allowed == judged.len() => Err("all"),
        false if allowed == 0 => Err("none"),
        false => Err("some"),
    }
}

/// Everything that is translated, at every address that may be.
fn translated(services: &Services) -> Vec<Option<Vec<String>>> {
    let asked = ADDRESSES
        .iter()
        .flat_map(|address| PORTS.map(|port| (address.parse().unwrap(), port)));
    asked
        .map(|(address, port)| {
            let found = services.translate(address, Some(port));
            found.map(|all| all.iter().map(|one| format!("{one:?}")).collect())
        })
        .collect()
}

/// The world without some of its documents.
fn without(texts: &[String], gone: &[Index], of: fn(&str) -> bool) -> Vec<String> {
    let may_go: Vec<usize> = (0..texts.len()).filter(|at| of(&texts[*at])).collect();
    if may_go.is_empty() {
        return texts.to_vec();
    }
    let gone: BTreeSet<usize> = gone
        .iter()
        .map(|index| may_go[index.index(may_go.len())])
        .collect();
    let kept = texts
        .iter()
        .enumerate()
        .filter(|(at, _)| !gone.contains(at));
    kept.map(|(_, text)| text.clone()).collect()
}

fn is_slice(text: &str) -> bool {
    text.contains("kind: EndpointSlice")
}

fn is_of_services(text: &str) -> bool {
    is_slice(text) || text.contains("kind: Service")
}

fn is_object(text: &str) -> bool {
    is_of_services(text) || text.contains("kind: Pod")
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn what_is_known_of_virtual_addresses_is_what_the_oracle_says(
        world in worlds::world_of_services()
    ) {
        let oracle = Oracle::new(world.texts()).unwrap();
        for is_local in [|_: &Workload| true, even, odd] {
            let node = Node::new(world.texts(), is_local);
            check(&node, &oracle, &mut Seen::default()).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn following_a_change_comes_to_what_indexing_anew_does(
        world in worlds::world_of_services(),
        before in prop::collection::vec(any::<Index>(), 0..3),
        after in prop::collection::vec(any::<Index>(), 0..3),
    ) {
        let texts = |gone: &[Index]| without(world.texts(), gone, is_object);
        let [before, after] = [texts(&before), texts(&after)].map(|texts| inventory(&texts));
        let mut followed = Services::new(&before);
        let old = followed.clone();
        let moved = followed.follow(&after);
        let new = Services::new(&after);
        prop_assert_eq!(translated(&followed), translated(&new));
        // What did not move leads where it led.
        if let Some(moved) = moved {
            for address in ADDRESSES {
                let address: IpAddr = address.parse().unwrap();
                for port in PORTS {
                    let [was, is] = [&old, &new].map(|all| all.translate(address, Some(port)));
                    let has_moved =
                        moved.addresses.contains(&address) || moved.node_ports.contains(&port);
                    prop_assert!(was == is || has_moved, "{} {:?}: {:?}", address, port, moved);
                }
            }
        }
    }

    #[test]
    fn what_is_worked_out_after_a_change_is_what_is_worked_out_anew(
        world in worlds::world_of_services(),
        before in prop::collection::vec(any::<Index>(), 0..3),
        after in prop::collection::vec(any::<Index>(), 0..3),
    ) {
        let texts = |gone: &[Index]| without(world.texts(), gone, is_of_services);
        let mut node = Node::new(&texts(&before), even);
        let anew = Node::new(&texts(&after), even);
        let in_force = InForce { compiled: &node.compiled, plan: &node.plan };
        if let Some(moved) = node.services.follow(&anew.inventory) {
            node.virtuals.follow(&node.services, in_force, &moved);
            prop_assert!(node.virtuals == anew.virtuals, "{:?}", moved);
        }
    }
}

#[test]
fn worlds_have_every_outcome_in_them() {
    let mut seen = Seen::default();
    let mut runner = TestRunner::deterministic();
    for _ in 0..150 {
        let world = worlds::world_of_services().new_tree(&mut runner).unwrap();
        let world = proptest::strategy::ValueTree::current(&world);
        let oracle = Oracle::new(world.texts()).unwrap();
        check(&Node::new(world.texts(), even), &oracle, &mut seen).unwrap();
    }
    let counts = [seen.nobody, seen.all, seen.none, seen.some];
    assert!(counts.iter().all(|count| *count > 20), "{seen:?}");
}
