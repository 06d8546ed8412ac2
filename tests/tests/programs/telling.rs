//! Flows that begin and end, as they are told of while somebody wants to know.

use std::sync::{Arc, Mutex};

use cofferdam_dataplane::{Program, Report};
use cofferdam_tests::{
    firewall::{Firewall, named},
    shop::{CLOSED, DB},
    world::{Wiring, Workload},
};
use cofferdam_verdict::{
    counter::Hook,
    event::{EndRecord, EventRecord, flag, kind},
    flow::TOLD_ELSEWHERE,
    reason::Reason,
    verdict::{Action, Verdict},
};

use super::flows::{FLOW, RULE, judged, request, segment};
use super::verdicts::{between, leaving, shop};

/// A segment on the hooks of both ends.
fn pass(
    firewall: &mut Firewall,
    from: &Workload,
    to: &Workload,
    bytes: &[u8],
    expected: (Action, Reason),
) {
    let left = judged(firewall, Program::FROM_WORKLOAD, bytes, &leaving(from));
    let came = judged(firewall, Program::TO_WORKLOAD, bytes, &between(from, to));
    assert_eq!([left, came], [expected; 2]);
}

fn told(firewall: &mut Firewall) -> (Vec<EventRecord>, Vec<EndRecord>) {
    let (mut begun, mut ended) = (Vec::new(), Vec::new());
    for report in firewall.told() {
        match report {
            Report::Packet(record) => begun.push(record),
            Report::End(record) => ended.push(record),
        }
    }
    (begun, ended)
}

#[test]
fn a_flow_is_told_of_once_when_it_begins_and_once_when_it_ends() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::load();
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let swept = Arc::new(Mutex::new(Vec::<EndRecord>::new()));
    let listener = swept.clone();
    firewall.kernel().tell_ends(Box::new(move |end| {
        listener.lock().expect("nobody panics").push(*end);
    }));
    let syn = request(web, db).syn();
    let syn_bytes = syn.bytes();
    pass(&mut firewall, web, db, &syn_bytes, RULE);
    let (begun, ended) = told(&mut firewall);
    assert_eq!((begun, ended), (vec![], vec![]), "nobody wanted to know");

    // Another attempt, from the same port: the one before is over, and has had one packet.
    let again = syn.clone().seq(77_000).bytes();
    pass(&mut firewall, web, db, &again, RULE);
    let (begun, ended) = told(&mut firewall);
    let [record] = begun[..] else {
        panic!("{begun:?}");
    };
    let verdict = Verdict::from_any_word(record.verdict).expect("a verdict");
    assert_eq!((verdict.action, verdict.reason), RULE);
    assert_ne!(verdict.rule, 0);
    assert_eq!(
        (record.kind, record.hook),
        (kind::BEGUN, Hook::ToWorkload as u8)
    );
    assert_eq!(record.ifindex, db.host_ifindex);
    assert_eq!(record.bytes as usize, again.len());
    let [end] = ended[..] else {
        panic!("{ended:?}");
    };
    let counted = (end.ifindex, end.packets, end.bytes);
    assert_eq!(
        counted,
        (db.host_ifindex, [1, 0], [syn_bytes.len() as u64, 0])
    );

    // What goes on is not told of.
    let answer = segment(db, web).syn().ack().bytes();
    pass(&mut firewall, db, web, &answer, FLOW);
    let more = request(web, db).ack().bytes();
    pass(&mut firewall, web, db, &more, FLOW);
    assert_eq!(told(&mut firewall), (vec![], vec![]));

    // Its endpoint is replaced, which the next sweep sees.
    for name in ["shop/db", "shop/web"] {
        let mut endpoint = firewall.endpoint(&world, name);
        endpoint.incarnation += 1;
        firewall
            .kernel()
            .set_endpoint(&endpoint)
            .expect("there is room");
    }
    firewall.kernel().sweep().expect("a clock");
    assert_eq!(told(&mut firewall), (vec![], vec![]));
    let swept = swept.lock().expect("nobody panics");
    let [end] = swept[..] else {
        panic!("{swept:?}");
    };
    let sent = (again.len() + more.len()) as u64;
    assert_eq!(end.packets, [2, 1]);
    assert_eq!(end.packets[0] & TOLD_ELSEWHERE, 0);
    assert_eq!(
        (end.bytes, end.ifindex),
        ([sent, answer.len() as u64], db.host_ifindex)
    );
}

/// A change of policies that breaks something shows as that, once, among the packets that are
/// denied from then on.
#[test]
fn the_packet_at_which_policy_ends_a_flow_is_told_apart() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::load();
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let syn = request(web, db).syn().bytes();
    pass(&mut firewall, web, db, &syn, RULE);
    let answer = segment(db, web).syn().ack().bytes();
    pass(&mut firewall, db, web, &answer, FLOW);

    firewall.enforce(&world, &pods, CLOSED);
    let more = request(web, db).ack().bytes();
    let isolated = (Action::Deny, Reason::Isolated);
    let mut cut = Vec::new();
    for bytes in [&more, &more, &syn] {
        let left = judged(&mut firewall, Program::FROM_WORKLOAD, bytes, &leaving(web));
        assert_eq!(left.0, isolated.0);
        let (records, _) = told(&mut firewall);
        assert!(records.iter().all(|record| record.kind == kind::JUDGED));
        cut.extend(records.iter().map(|record| record.flags & flag::CUT != 0));
    }
    assert_eq!(cut, [true, false, false]);
    // Nor is anything newly denied to a connection that was never open.
    let other = request(web, db).sport(40_001).syn().bytes();
    judged(&mut firewall, Program::FROM_WORKLOAD, &other, &leaving(web));
    let (records, _) = told(&mut firewall);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].flags & flag::CUT, 0);
}
