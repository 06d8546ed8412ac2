//! Decisions about virtual addresses against the oracle, and what is worked out
//! after a change against what is worked out anew.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cofferdam_compiler::{
    Compiled, Compiler, InForce, Input, Outcome, Reached, Senders, SlotPlan, Snapshot, Virtuals,
    compile,
};
use cofferdam_inventory::services::Services;
use cofferdam_inventory::{Inventory, ObjectName, Protocol, Workload};
use cofferdam_oracle::{self as oracle, Oracle, Payload, Query, Taker, Way};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{Profile, SlotKind, row_key};
use cofferdam_verdict::verdict::{Action, Direction, Verdict, row_flag};
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

fn in_force<'a>(compiled: &'a Compiled, plan: &'a SlotPlan) -> InForce<'a> {
    InForce {
        compiled,
        plan,
        added: &[],
        here: None,
    }
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
        let local = inventory.workloads().values().filter(|pod| is_local(pod));
        let in_force = in_force(&compiled, &plan);
        let virtuals = Virtuals::new(&services, in_force, Senders::new(in_force, local));
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

    /// Returns `true` if some workload has addresses of both kinds. A Service that has one of
    /// them, too, makes no other kind of workload.
    fn are_one(&self, one: Profile, other: Profile) -> bool {
        let kind = |profile: Profile| Profile {
            is_shared: false,
            ..profile
        };
        self.inventory.workloads().values().any(|pod| {
            let own = || {
                pod.own_addresses()
                    .iter()
                    .map(|address| kind(self.profile(*address)))
            };
            own().any(|own| own == kind(one)) && own().any(|own| own == kind(other))
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
                Some(cofferdam_inventory::Owner::Node(_))
            );
            (is_nodes)
                .then(|| self.virtuals.at_node_port(sender, family, port))
                .flatten()
        };
        (self.virtuals.at_address(sender, address, port)).or_else(at_node_port)
    }

    /// Holds the table's row against what is known for all senders of a class.
    fn check_table(
        &self,
        sender: Profile,
        address: IpAddr,
        port: (Protocol, u16),
        known: Option<Outcome>,
    ) -> Result<(), String> {
        let named = self.profile(address);
        let key = row_key(port.0.number(), port.1);
        let words = self
            .compiled
            .decide_sent(sender, named, key)
            .expect("a table without contradictions");
        let verdict = Verdict::from_word(words.enforced);
        let what = format!(
            "{sender:?} > {address} {port:?}: {verdict:?} {:x}",
            words.flags
        );
        // A workload's own address is judged as that.
        let is_workloads = matches!(
            named.kind,
            SlotKind::LocalWorkload | SlotKind::RemoteWorkload
        );
        if is_workloads && named.is_shared != self.services.at(address).next().is_some() {
            return Err(format!(
                "{what}: {named:?}, and a Service has that address, or none"
            ));
        }
        if known.is_none() || is_workloads {
            // What no Service has is decided as the address itself is.
            let own = (self.compiled)
                .decide(sender, Direction::Egress, named, key)
                .expect("a table without contradictions");
            let said = [words.enforced, words.audited].map(Verdict::from_word);
            return match words.flags == 0 && said == [own.enforced, own.audited] {
                true => Ok(()),
                false => Err(format!("{what}, and no Service is there: {own:?}")),
            };
        }
        let like = (self.virtuals.kinds().iter()).filter(|kind| kind.class == sender.class);
        let of_class = like
            .filter_map(|kind| self.known(*kind, address, port))
            .map(|outcome| outcome.enforced)
            .reduce(Reached::or);
        let is_elsewhere = named.kind == SlotKind::OtherNode;
        let is_right = match of_class.expect("the sender is of its class") {
            Reached::All(egress) => verdict == egress && verdict.action == Action::Allow,
            Reached::None(direction, denial) => {
                let is_ingress = words.flags & row_flag::OF_INGRESS != 0;
                verdict == denial && is_ingress == (direction == Direction::Ingress)
            }
            Reached::Some | Reached::Nobody => {
                let action = if is_elsewhere {
                    Action::Deny
                } else {
                    Action::Allow
                };
                (verdict.action, verdict.reason) == (action, Reason::VirtualUndecided)
            }
            Reached::Unseen => verdict == Verdict::deny(Reason::VirtualUndecided),
        };
        let is_service = words.flags & row_flag::SERVICE != 0;
        match is_right && is_service != is_elsewhere {
            true => Ok(()),
            false => Err(format!("{what} instead of {of_class:?}")),
        }
    }
}

/// Counts of each outcome.
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
                node.check_table(sender, address, port, known)?;
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
        Reached::All(_) => {
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
        Reached::Some | Reached::Unseen => {
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

fn is_policy(text: &str) -> bool {
    text.contains("NetworkPolicy")
}

/// A pod that belongs to another application; every other document as it is.
fn with_other_labels(text: &str) -> String {
    match text.contains("kind: Pod") {
        true => text.replace("app: a", "app: b"),
        false => text.to_owned(),
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
                    let is_nodes = new.inventory().owner(address).is_some();
                    let has_moved = moved.addresses.contains(&address)
                        || is_nodes && moved.node_ports.contains(&port);
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
        let in_force = in_force(&node.compiled, &node.plan);
        if let Some(moved) = node.services.follow(&anew.inventory) {
            node.virtuals.follow(&node.services, in_force, &moved);
            prop_assert!(node.virtuals == anew.virtuals, "{:?}", moved);
        }
    }

    #[test]
    fn a_table_with_services_follows_from_the_documents_alone(
        world in worlds::world_of_services(),
        before in prop::collection::vec(any::<Index>(), 0..4),
        after in prop::collection::vec(any::<Index>(), 0..3),
        relabelled in prop::option::of(any::<Index>()),
        what in prop::sample::select(vec![is_object as fn(&str) -> bool, is_policy, |_| true]),
    ) {
        let texts = |gone: &[Index]| without(world.texts(), gone, what);
        let mut texts = [texts(&before), texts(&after)];
        if let Some(at) = relabelled.filter(|_| !texts[1].is_empty()) {
            let at = at.index(texts[1].len());
            texts[1][at] = with_other_labels(&texts[1][at]);
        }
        let [before, after] = texts.map(|texts| inventory(&texts));
        let [here, here_after] = [&before, &after].map(|inventory| {
            let pods = inventory.workloads().values().filter(|pod| even(pod));
            pods.map(|pod| pod.name.clone()).collect::<BTreeSet<_>>()
        });
        let plan = SlotPlan::assign(&before);
        let plan_after = plan.in_place(&after);
        let first = snapshot(&before, &plan, &here);
        let second = snapshot(&after, &plan_after, &here_after);
        let mut compiler = Compiler::default();
        let mut table = compiler.compile(&first).expect("a small world");
        let anew = Compiler::default().compile(&second).expect("a small world");
        if let Some(entries) = compiler.additions(&table, &before, &here, &second) {
            for entry in entries {
                prop_assert!(table.fill(entry));
            }
            same_decisions(&table, &anew, &after, &plan_after)?;
        }
        let again = compiler.compile(&second).expect("a small world");
        prop_assert!(again.pages() == anew.pages());
        // And back: what was known of the first is not taken for the second's.
        let back = compiler.compile(&first).expect("a small world");
        let anew = Compiler::default().compile(&first).expect("a small world");
        prop_assert!(back.pages() == anew.pages());
        // More of the same workloads have an endpoint here.
        let all = before.workloads().values().map(|pod| pod.name.clone());
        let all: BTreeSet<ObjectName> = all.collect();
        let more = snapshot(&before, &plan, &all);
        let anew = Compiler::default().compile(&more).expect("a small world");
        let again = compiler.compile(&more).expect("a small world");
        prop_assert!(again.pages() == anew.pages());
        // And fewer, some of them still behind Services.
        let fewer = compiler.compile(&first).expect("a small world");
        prop_assert!(fewer.pages() == back.pages());
    }
}

pub(super) fn snapshot<'a>(
    inventory: &'a Inventory,
    slots: &'a SlotPlan,
    local: &'a BTreeSet<ObjectName>,
) -> Snapshot<'a> {
    Snapshot {
        inventory,
        slots,
        local,
        own_node: Some("n1"),
        limits: Limits {
            slots: 256,
            ..Limits::default()
        },
        revision: 1,
    }
}

/// Holds two tables against each other: all that senders may do at every translated address.
fn same_decisions(
    one: &Compiled,
    other: &Compiled,
    inventory: &Inventory,
    plan: &SlotPlan,
) -> Result<(), TestCaseError> {
    let profile = |table: &Compiled, address| {
        let slot = table.slot_of(plan, address);
        slot.expect("every address has one").1
    };
    for pod in inventory.workloads().values() {
        for from in pod.own_addresses() {
            let [sender, sender_after] = [one, other].map(|table| profile(table, *from));
            if sender.kind != SlotKind::LocalWorkload {
                continue;
            }
            for address in ADDRESSES {
                let address: IpAddr = address.parse().unwrap();
                for (protocol, port) in PORTS {
                    let key = row_key(protocol.number(), port);
                    let says = |table: &Compiled, sender| {
                        table.decide_sent(sender, profile(table, address), key)
                    };
                    let [was, is] = [says(one, sender), says(other, sender_after)];
                    prop_assert_eq!(was, is, "{} > {} {:?}", from, address, port);
                }
            }
        }
    }
    Ok(())
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

/// Senders of one class share a row: it says no more than holds for each of them.
#[test]
fn what_no_hook_sees_is_denied_to_all_senders_of_a_class() {
    let allowed = Reached::All(Verdict::allow(Reason::Rule));
    let denied = Reached::None(Direction::Egress, Verdict::deny(Reason::Isolated));
    let all = [
        allowed,
        denied,
        Reached::Some,
        Reached::Nobody,
        Reached::Unseen,
    ];
    for one in all {
        for other in all {
            let of_both = one.or(other);
            let expected = match one == other {
                true => one,
                false if [one, other].contains(&Reached::Unseen) => Reached::Unseen,
                false => Reached::Some,
            };
            assert_eq!(of_both, expected, "{one:?}, {other:?}");
        }
    }
}

/// A Service takes the address of a workload, and gives it back.
#[test]
fn a_workloads_address_is_shared_while_a_service_has_it() {
    let world = |external: &str| {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: x}}, spec: \
             {{clusterIP: 10.0.2.1, externalIPs: [{external}], ports: [{{port: 80}}]}}}}\n"
        );
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: x}, spec: {}, \
                   status: {podIPs: [{ip: 10.0.0.1}]}}\n";
        inventory(&[service, pod.to_owned()])
    };
    let [without, with] = ["", "10.0.0.1"].map(world);
    let plan = SlotPlan::assign(&without);
    let local = BTreeSet::new();
    let mut compiler = Compiler::default();
    for (inventory, is_shared) in [(&without, false), (&with, true), (&without, false)] {
        let table = compiler
            .compile(&snapshot(inventory, &plan, &local))
            .expect("a small world");
        let profile = table.slot_of(&plan, "10.0.0.1".parse().unwrap());
        assert_eq!(profile.expect("a workload's").1.is_shared, is_shared);
    }
}

/// A backend on this node loses its endpoint, and gets one again: no hook sees a denied
/// backend meanwhile.
#[test]
fn a_backend_is_seen_while_it_has_an_endpoint() {
    let pod = |name: &str, address: u8| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x, labels: \
             {{which: {name}, app: web}}}}, spec: {{nodeName: n1}}, status: {{podIPs: [{{ip: \
             10.0.0.{address}}}]}}}}\n"
        )
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: x}, spec: \
                   {clusterIP: 10.0.2.1, selector: {app: web}, ports: [{port: 80}]}}\n";
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, \
                  namespace: x}, spec: {podSelector: {matchLabels: {which: client}}, \
                  policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {which: \
                  one}}}]}]}}\n";
    // So that it is another sender than they are.
    let own = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q, \
               namespace: x}, spec: {podSelector: {matchLabels: {which: two}}, policyTypes: \
               [Egress]}}\n";
    let inventory = inventory(&[
        pod("client", 1),
        pod("one", 2),
        pod("two", 3),
        service.to_owned(),
        policy.to_owned(),
        own.to_owned(),
    ]);
    let plan = SlotPlan::assign(&inventory);
    let [few, all] = [&["client", "one"][..], &["client", "one", "two"]].map(|names| {
        let names = names.iter().map(|name| ObjectName::new("x", name));
        names.collect::<BTreeSet<_>>()
    });
    let mut compiler = Compiler::default();
    for (local, action) in [
        (&all, Action::Allow),
        (&few, Action::Deny),
        (&all, Action::Allow),
    ] {
        let next = snapshot(&inventory, &plan, local);
        let table = compiler.compile(&next).expect("a small world");
        let profile = |address: &str| {
            let slot = table.slot_of(&plan, address.parse().unwrap());
            slot.expect("every address has one").1
        };
        let key = row_key(Protocol::Tcp.number(), 80);
        let words = table.decide_sent(profile("10.0.0.1"), profile("10.0.2.1"), key);
        let verdict = Verdict::from_word(words.expect("a table without contradictions").enforced);
        let expected = (action, Reason::VirtualUndecided);
        assert_eq!((verdict.action, verdict.reason), expected, "{local:?}");
        let anew = Compiler::default().compile(&next).expect("a small world");
        assert!(table.pages() == anew.pages(), "{local:?}");
    }
}
