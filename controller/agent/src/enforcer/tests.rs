//! Plans carried out in memory: whatever the order of events, the end is the same; whatever
//! call is refused, nothing becomes wider, and the next try ends where the first would have;
//! an agent that dies between two calls is taken up by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cofferdam_dataplane::Program;
use cofferdam_documents::{assemble, parse};
use cofferdam_telemetry::snapshots::Snapshots;
use cofferdam_verdict::judge::probe;
use cofferdam_verdict::verdict::{Action as Verdict, Verdict as Word};

use super::dataplane::Dataplane;
use super::in_memory::{InMemory, Tampered};
use super::read_back::Depth;
use super::{Enforcer, Placed};
use crate::desired::desired;
use crate::endpoint::Endpoint;
use crate::links::Link;
use crate::self_check::test_packets;

const NODE: &str = "n1";

/// Policies that a state may have.
const POLICIES: [&str; 4] = [
    "\
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db-from-web, namespace: x}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
",
    "\
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: web-silent, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
",
    "\
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: all-closed, namespace: x}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
",
    "\
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db-from-block, namespace: x}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]
",
];

/// A desired state, in few words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    policies: BTreeSet<usize>,
    /// Labels of the endpoints, by the numbers of their interfaces.
    endpoints: BTreeMap<u32, &'static str>,
    /// Labels of workloads of other nodes, and the last bytes of their addresses, by their names.
    remote: BTreeMap<&'static str, (&'static str, u8)>,
}

/// A change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Policy(usize, bool),
    Endpoint(u32, Option<&'static str>),
    Remote(&'static str, Option<(&'static str, u8)>),
}

impl State {
    fn after(mut self, event: Event) -> Self {
        match event {
            Event::Policy(number, true) => _ = self.policies.insert(number),
            Event::Policy(number, false) => _ = self.policies.remove(&number),
            Event::Endpoint(ifindex, Some(label)) => {
                self.endpoints.insert(ifindex, label);
            }
            Event::Endpoint(ifindex, None) => _ = self.endpoints.remove(&ifindex),
            Event::Remote(name, Some(described)) => _ = self.remote.insert(name, described),
            Event::Remote(name, None) => _ = self.remote.remove(name),
        }
        self
    }

    fn desired(&self) -> crate::desired::Desired {
        let mut text: Vec<String> = self
            .policies
            .iter()
            .map(|number| POLICIES[*number].to_owned())
            .collect();
        for (name, (label, byte)) in &self.remote {
            text.push(format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, labels: {{app: \
                 {label}}}}}\nspec: {{nodeName: n2}}\nstatus: {{podIP: 10.9.0.{byte}}}\n"
            ));
        }
        let parsed = parse("f", text.join("---\n").as_bytes());
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.diagnostics);
        let documents = assemble(parsed.documents).inventory;
        let endpoints: Vec<Endpoint> = self.described().collect();
        desired(&documents, &endpoints, NODE, &[])
    }

    fn described(&self) -> impl Iterator<Item = Endpoint> {
        let endpoints = self.endpoints.iter();
        endpoints.map(|(ifindex, label)| described(*ifindex, label))
    }
}

fn address(ifindex: u32) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 0, 0, ifindex as u8]),
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, ifindex as u16]),
    ]
}

fn described(ifindex: u32, label: &str) -> Endpoint {
    let mut endpoint = Endpoint::example(&format!("w{ifindex}"), "eth0", "10.0.0.1");
    endpoint.link.host_ifindex = ifindex;
    endpoint.link.mac = [2, 0, 0, 0, 0, ifindex as u8];
    endpoint.addresses = address(ifindex).to_vec();
    endpoint.labels = [("app".to_owned(), label.to_owned())].into();
    endpoint.incarnation = ifindex;
    endpoint
}

fn link(ifindex: u32) -> Link {
    Link {
        host_mac: [4; 6],
        stamp: ifindex as u16,
        adopt_until: Some(0),
        listeners: <_>::default(),
    }
}

fn over(dataplane: InMemory) -> Enforcer<InMemory> {
    Enforcer::over(dataplane, 0, Snapshots::new(NODE), NODE)
}

/// Brings a state into force as the reconciling thread does. Returns `true` if nothing was
/// refused.
fn settle(enforcer: &mut Enforcer<InMemory>, state: &State) -> bool {
    let mut is_settled = true;
    // What leaves is closed at once, and so is what comes.
    for ifindex in enforcer.interfaces() {
        if !state.endpoints.contains_key(&ifindex) {
            is_settled &= enforcer.close_as_is(ifindex).is_ok();
        }
    }
    for endpoint in state.described() {
        let ifindex = endpoint.link.host_ifindex;
        if !enforcer.is_guarded(ifindex) {
            let closed = enforcer.is_open(ifindex)
                || enforcer.close(&endpoint, Some(&link(ifindex))).is_ok();
            is_settled &= closed && enforcer.guard(ifindex).is_ok();
        }
    }
    // What the table in force has places for does not wait for another one.
    let desired = state.desired();
    if enforcer.place(&desired).is_err() || enforcer.publish(desired).is_err() {
        return false;
    }
    for endpoint in state.described() {
        let ifindex = endpoint.link.host_ifindex;
        is_settled &= match enforcer.enforce(&endpoint, &link(ifindex)) {
            Ok(true) => enforcer.guard(ifindex).is_ok(),
            Ok(false) | Err(_) => {
                // Refused or not, it is not as it is desired.
                _ = enforcer.close(&endpoint, Some(&link(ifindex)));
                false
            }
        };
    }
    is_settled
}

/// Interfaces of the world, and an address of another node, and an outside one.
const INTERFACES: [u32; 4] = [11, 12, 13, 14];

/// Pairs of interfaces, or of an interface and a far address, between which an opening segment
/// passes, as the hooks judge by what they have.
fn passing(enforcer: &Enforcer<InMemory>) -> BTreeSet<(String, String)> {
    let far = ["10.9.0.6", "10.9.0.7", "10.9.0.8", "10.9.0.9", "192.0.2.77"]
        .map(|text| text.parse::<IpAddr>().unwrap());
    let mut passing = BTreeSet::new();
    for from in INTERFACES {
        let own = cofferdam_dataplane::Endpoint {
            addresses: address(from).map(|address| (address, 0)).to_vec(),
            ..as_put(from)
        };
        let stamp = stamp_of(enforcer, from);
        for to in INTERFACES.iter().filter(|to| **to != from) {
            for family in 0..2 {
                let peer = address(*to)[family];
                let left = asks(enforcer, from, Program::FROM_WORKLOAD, &own, peer, 0);
                let receiver = cofferdam_dataplane::Endpoint {
                    addresses: address(*to).map(|address| (address, 0)).to_vec(),
                    ..as_put(*to)
                };
                let source = address(from)[family];
                let came = asks(
                    enforcer,
                    *to,
                    Program::TO_WORKLOAD,
                    &receiver,
                    source,
                    stamp,
                );
                if left && came {
                    passing.insert((format!("{from}/{family}"), format!("{to}/{family}")));
                }
            }
        }
        for address in far {
            if asks(enforcer, from, Program::FROM_WORKLOAD, &own, address, 0) {
                passing.insert((from.to_string(), address.to_string()));
            }
            if asks(enforcer, from, Program::TO_WORKLOAD, &own, address, 0) {
                passing.insert((address.to_string(), from.to_string()));
            }
        }
    }
    passing
}

fn as_put(ifindex: u32) -> cofferdam_dataplane::Endpoint {
    cofferdam_dataplane::Endpoint {
        ifindex,
        mac: [2, 0, 0, 0, 0, ifindex as u8],
        incarnation: ifindex,
        addresses: Vec::new(),
        stamp: ifindex as u16,
        link_local: None,
        deny_all: false,
        shared_hooks: false,
        adopt_until: 0,
        listeners: <_>::default(),
    }
}

/// The stamp that packets from an interface carry: none where nothing judges.
fn stamp_of(enforcer: &Enforcer<InMemory>, ifindex: u32) -> u16 {
    match enforcer.kernel.filters.contains(&ifindex) {
        true => ifindex as u16,
        false => 0,
    }
}

/// Returns `true` if an opening segment between an endpoint and a peer passes on an interface.
fn asks(
    enforcer: &Enforcer<InMemory>,
    ifindex: u32,
    program: Program,
    own: &cofferdam_dataplane::Endpoint,
    peer: IpAddr,
    stamp: u16,
) -> bool {
    if !enforcer.kernel.filters.contains(&ifindex) {
        return true;
    }
    let mut asked = test_packets(own, &[(peer, stamp)])
        .into_iter()
        .filter(|one| {
            // Strangers are asked about as well: the peer's are the last of each address.
            one.program == program && has(&one.frame, peer)
        });
    let question = asked.next().expect("a question about the peer");
    let mut context = question.context;
    context.cb[probe::STAMP] = stamp.into();
    let answer = enforcer.kernel.probe(program, &question.frame, &context);
    let (enforced, _): (Word, Word) = answer.expect("an answer").expect("verdicts");
    enforced.action == Verdict::Allow
}

/// Returns `true` if a frame bears an address.
fn has(frame: &[u8], address: IpAddr) -> bool {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    frame.windows(bytes.len()).any(|window| window == bytes)
}

/// Returns what passes when a state has been settled from nothing.
fn anew(state: &State) -> BTreeSet<(String, String)> {
    let mut enforcer = over(InMemory::new());
    assert!(settle(&mut enforcer, state));
    passing(&enforcer)
}

fn start() -> State {
    State {
        policies: [0].into(),
        endpoints: [(11, "web"), (12, "db")].into(),
        remote: [("far", ("web", 7)), ("other", ("db", 6))].into(),
    }
}

const EVENTS: [Event; 9] = [
    Event::Policy(1, true),
    Event::Policy(2, true),
    Event::Policy(3, true),
    Event::Policy(0, false),
    Event::Endpoint(13, Some("web")),
    Event::Endpoint(11, Some("db")),
    Event::Endpoint(12, None),
    Event::Remote("far", Some(("web", 8))),
    Event::Remote("new", Some(("db", 9))),
];

/// Changes of workloads of other nodes alone, each in a step of its own: they come, are
/// relabelled, go, leave an address to another one, take two places at once, and one of a kind
/// that no table knows comes beside another one of a known kind.
fn far_away() -> Vec<(State, State)> {
    let remote = |workloads: &[(&'static str, (&'static str, u8))]| State {
        remote: workloads.iter().copied().collect(),
        ..start()
    };
    let (far, other) = (("far", ("web", 7)), ("other", ("db", 6)));
    vec![
        (
            remote(&[far, other]),
            remote(&[far, other, ("new", ("web", 8))]),
        ),
        (remote(&[far, other]), remote(&[other])),
        (remote(&[far, other]), remote(&[("far", ("db", 7)), other])),
        (remote(&[far, other]), remote(&[("new", ("db", 7)), other])),
        (
            remote(&[far, other]),
            remote(&[("far", ("web", 6)), ("other", ("db", 7))]),
        ),
        (
            remote(&[far, other]),
            remote(&[("far", ("db", 8)), ("new", ("web", 9))]),
        ),
        (
            remote(&[far]),
            remote(&[("new", ("web", 8)), ("strange", ("db", 9))]),
        ),
        (
            remote(&[far]),
            remote(&[("new", ("db", 7)), ("more", ("web", 9))]),
        ),
    ]
}

#[test]
fn the_worlds_differ() {
    let before = anew(&start());
    assert!(before.contains(&("11/0".to_owned(), "12/0".to_owned())));
    assert!(before.contains(&("10.9.0.7".to_owned(), "12".to_owned())));
    assert!(!before.contains(&("10.9.0.8".to_owned(), "12".to_owned())));
    // An interface that nobody has added passes what others' hooks let pass.
    assert!(before.contains(&("14".to_owned(), "192.0.2.77".to_owned())));
    assert!(!before.contains(&("14/0".to_owned(), "12/0".to_owned())));
    let sets: BTreeSet<_> = EVENTS.map(|event| anew(&start().after(event))).into();
    assert!(sets.len() >= 6, "{}", sets.len());
}

#[test]
fn every_order_of_the_same_events_ends_in_the_same_state() {
    let end = EVENTS.into_iter().fold(start(), State::after);
    let expected = anew(&end);
    let mut order = EVENTS.to_vec();
    for turn in 0..60 {
        // Each event is of another subject: any order ends in one state.
        order.rotate_left(1 + turn % 3);
        let at = turn % (order.len() - 1);
        order.swap(at, at + 1);
        let mut enforcer = over(InMemory::new());
        let mut state = start();
        assert!(settle(&mut enforcer, &state));
        for event in &order {
            state = state.after(*event);
            // Sometimes several arrive at once.
            if turn % 4 != 0 {
                assert!(settle(&mut enforcer, &state), "{order:?}");
            }
        }
        assert!(settle(&mut enforcer, &state), "{order:?}");
        // The interface of the one that left stays closed while it is there.
        let left = |set: BTreeSet<(String, String)>| -> BTreeSet<(String, String)> {
            let is_of = |end: &String| end.split('/').next() == Some("12");
            let others = set.into_iter().filter(|(a, b)| !is_of(a) && !is_of(b));
            others.collect()
        };
        assert_eq!(
            left(passing(&enforcer)),
            left(expected.clone()),
            "{order:?}"
        );
        assert!(!enforcer.is_open(12));
        enforcer
            .read_back(Depth::Whole)
            .expect("it is what was put there");
    }
}

/// Transitions of which every call is refused once, or the last that the agent makes.
fn transitions() -> impl Iterator<Item = (State, State)> {
    let several = |events: &[Event]| events.iter().copied().fold(start(), State::after);
    let mut all: Vec<(State, State)> = EVENTS
        .into_iter()
        .map(|event| (start(), start().after(event)))
        .collect();
    all.extend(far_away());
    all.push((State::default(), start()));
    all.push((start(), several(&EVENTS)));
    all.push((several(&EVENTS), start()));
    all.into_iter()
}

/// Number of calls that a transition takes.
fn calls(before: &State, after: &State) -> usize {
    let mut enforcer = over(InMemory::new());
    assert!(settle(&mut enforcer, before));
    let so_far = enforcer.kernel.calls;
    assert!(settle(&mut enforcer, after));
    enforcer.kernel.calls - so_far
}

/// Returns `true` if an end is an endpoint of a state.
fn is_in(state: &State, end: &str) -> bool {
    let name = end.split('/').next().unwrap_or_default();
    let ifindex: Option<u32> = name.parse().ok();
    ifindex.is_some_and(|ifindex| state.endpoints.contains_key(&ifindex))
}

/// Returns `true` if an end is an endpoint that comes or leaves: it is closed until then, and
/// from then on.
fn moves(before: &State, after: &State, end: &str) -> bool {
    is_in(before, end) != is_in(after, end)
}

/// Fails if more passes than before or than is desired, or less than both before and as
/// desired. What comes to an interface that is open to everybody before it is added counts as
/// before.
fn assert_between(enforcer: &Enforcer<InMemory>, before: &State, after: &State, what: &str) {
    let allowed = &anew(before) | &anew(after);
    let now = passing(enforcer);
    let wider: Vec<_> = now.difference(&allowed).collect();
    assert!(
        wider.is_empty(),
        "{what}: {before:?} to {after:?}: {wider:?}"
    );
    let always = &anew(before) & &anew(after);
    let lost = always.difference(&now);
    let lost: Vec<_> = lost
        .filter(|(from, to)| !moves(before, after, from) && !moves(before, after, to))
        .collect();
    assert!(lost.is_empty(), "{what}: {before:?} to {after:?}: {lost:?}");
}

#[test]
fn a_call_that_is_refused_makes_nothing_wider_and_is_tried_again() {
    let mut refused = 0;
    for (before, after) in transitions() {
        for call in 1..=calls(&before, &after) {
            let mut enforcer = over(InMemory::new());
            assert!(settle(&mut enforcer, &before));
            enforcer.kernel.refused = Some(enforcer.kernel.calls + call);
            let is_settled = settle(&mut enforcer, &after);
            let what = format!("call {call} refused");
            assert!(
                !is_settled,
                "{what} goes unnoticed: {before:?} to {after:?}"
            );
            assert_between(&enforcer, &before, &after, &what);
            assert!(settle(&mut enforcer, &after), "{what}");
            assert_same_end(&enforcer, &before, &after, &what);
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn an_agent_that_dies_between_two_calls_is_taken_up_by_the_next() {
    let mut deaths = 0;
    for (before, after) in transitions() {
        for call in 1..=calls(&before, &after) {
            let mut enforcer = over(InMemory::new());
            assert!(settle(&mut enforcer, &before));
            enforcer.kernel.dead_from = Some(enforcer.kernel.calls + call);
            settle(&mut enforcer, &after);
            let what = format!("dead from call {call} on");
            assert_between(&enforcer, &before, &after, &what);
            let mut dataplane = enforcer.kernel;
            dataplane.dead_from = None;
            let mut next = over(dataplane);
            assert_between(&next, &before, &after, &what);
            assert!(settle(&mut next, &after), "{what}");
            assert_same_end(&next, &before, &after, &what);
            next.read_back(Depth::Whole).expect(&what);
            deaths += 1;
        }
    }
    assert!(deaths > 50, "{deaths}");
}

/// Fails unless what passes is what is desired, but for interfaces that were added and have
/// left: they are closed as long as they are there.
fn assert_same_end(enforcer: &Enforcer<InMemory>, before: &State, after: &State, what: &str) {
    let leaves = |end: &str| moves(before, after, end) && !is_in(after, end);
    let expected = anew(after)
        .into_iter()
        .filter(|(from, to)| !leaves(from) && !leaves(to));
    assert_eq!(
        passing(enforcer),
        expected.collect::<BTreeSet<_>>(),
        "{what}: {before:?} to {after:?}"
    );
}

#[test]
fn what_a_table_knows_others_like_takes_no_other_table() {
    use Placed::{All, Nothing, Part};
    let mut outcomes = Vec::new();
    for (before, after) in far_away() {
        let mut enforcer = over(InMemory::new());
        assert!(settle(&mut enforcer, &before));
        let revision = enforcer.revision();
        let placed = enforcer
            .place(&after.desired())
            .expect("nothing is refused");
        assert_eq!(enforcer.revision(), revision);
        enforcer.read_back(Depth::Places).expect("it is there");
        enforcer
            .read_back(Depth::Whole)
            .expect("and so is the rest");
        assert_between(&enforcer, &before, &after, "placed");
        if placed == All {
            assert_same_end(&enforcer, &before, &after, "placed");
        }
        outcomes.push(placed);
    }
    // A kind that is nobody's yet waits, and with it whoever has to do with its address.
    assert_eq!(outcomes, [All, All, All, All, All, All, Part, Part]);
    // So does everything beside a policy.
    let mut enforcer = over(InMemory::new());
    assert!(settle(&mut enforcer, &start()));
    let (_, with_more) = &far_away()[0];
    let after = with_more.clone().after(Event::Policy(2, true));
    assert_eq!(enforcer.place(&after.desired()).ok(), Some(Nothing));
    assert_eq!(passing(&enforcer), anew(&start()));
}

#[test]
fn an_address_of_one_that_waits_is_as_it_was() {
    let only_web = State {
        remote: [("far", ("web", 7))].into(),
        ..start()
    };
    let to_db = State {
        remote: [("new", ("db", 7)), ("more", ("web", 9))].into(),
        ..start()
    };
    let mut enforcer = over(InMemory::new());
    assert!(settle(&mut enforcer, &only_web));
    assert_eq!(enforcer.place(&to_db.desired()).ok(), Some(Placed::Part));
    let names = |byte: u8| {
        let address = IpAddr::from([10, 9, 0, byte]);
        let slot = *enforcer
            .in_force
            .bound
            .get(&address)
            .expect("it has a slot");
        enforcer.in_force.plan.holder(slot).cloned()
    };
    assert!(format!("{:?}", names(7)).contains("far"));
    assert!(format!("{:?}", names(9)).contains("more"));
    assert!(settle(&mut enforcer, &to_db));
}

/// Numbers that addresses have left rest, and are given away again after a table.
#[test]
fn places_that_were_left_come_round() {
    let mut enforcer = over(InMemory::new());
    let mut state = start();
    assert!(settle(&mut enforcer, &state));
    let mut tables = 0;
    let mut placed = 0;
    for turn in 0..200_u8 {
        let byte = 10 + turn;
        state.remote.insert("far", ("web", byte));
        match enforcer
            .place(&state.desired())
            .expect("nothing is refused")
        {
            Placed::All => placed += 1,
            _ => tables += 1,
        }
        assert!(settle(&mut enforcer, &state), "{turn}");
        let address = IpAddr::from([10, 9, 0, byte]);
        assert!(asks(
            &enforcer,
            12,
            Program::TO_WORKLOAD,
            &as_put_with_addresses(12),
            address,
            0
        ));
        enforcer
            .read_back(Depth::Whole)
            .expect("it is what was put there");
    }
    assert!(tables >= 5 && placed > 10 * tables, "{tables} {placed}");
    assert!(enforcer.in_force.plan.highest() < 40);
}

fn as_put_with_addresses(ifindex: u32) -> cofferdam_dataplane::Endpoint {
    cofferdam_dataplane::Endpoint {
        addresses: address(ifindex).map(|address| (address, 0)).to_vec(),
        ..as_put(ifindex)
    }
}

/// A binding, a flag or an entry too many was not read back: a sender was nobody for good.
#[test]
fn what_others_change_is_found() {
    let settled = || {
        let mut enforcer = over(InMemory::new());
        assert!(settle(&mut enforcer, &start()));
        enforcer
            .read_back(Depth::Whole)
            .expect("it is what was put there");
        enforcer
    };
    let slot = |enforcer: &Enforcer<InMemory>| enforcer.in_force.endpoints[&11].addresses[1].1;
    let own = slot(&settled());
    for with in [
        Tampered::Address([10, 0, 0, 99].into(), own),
        Tampered::Address(address(11)[0], own),
        Tampered::Binding(own),
        Tampered::StrayBinding(60),
        Tampered::Bypass(own),
        Tampered::Flags(11),
    ] {
        let mut enforcer = settled();
        enforcer.kernel.tamper(with);
        let read = enforcer.read_back(Depth::Whole);
        assert!(read.is_err(), "{with:?}");
    }
}
