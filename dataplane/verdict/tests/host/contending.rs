//! Entries that another processor is changing while they are read. On the host, where the
//! test chooses the moment at which they change.

use std::cell::Cell;

use cofferdam_verdict::{
    counter::Hook,
    flow::{FlowSet, StateWord},
    judge::Context,
    packet::protocol,
    pipeline::judge_flow,
    reason::Reason,
    slices::{SliceFlows, SliceFrame},
};

use super::{
    scene::{
        FLOW, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE, Way,
        Who::{Db, Outside, Web},
        denied, outcome,
        packet::{Family, Packet, Udp, packet_too_big, udp},
    },
    watched::Watched,
};

/// Changes the words of all entries in use.
fn change(flows: &SliceFlows<'_>, to: impl Fn(u64) -> u64) {
    let sets = flows.partitions.iter().flat_map(|sets| sets.iter());
    let entries = sets.flat_map(|set| &set.ways).map(|entry| &entry.state);
    let fragments = flows.fragments.iter().flat_map(|set| &set.ways);
    for word in entries.chain(fragments.map(|entry| &entry.word)) {
        if word.load() != 0 {
            word.put(to(word.load()));
        }
    }
}

/// The question of which web has an answer.
fn question() -> Packet<Udp> {
    let question = udp().family(Family::V4).from(Web.end()).to(Db.end());
    question.sport(4000).dport(53).payload(&[7; 64])
}

/// A node on which web may ask the database, has asked, and has sent a first fragment.
fn asked() -> Node {
    let policy = Policy::closed().connects(Web, Db, Some((protocol::UDP, 53)));
    let node = Node::under(&policy);
    assert_eq!(node.passes(Web, Db, &question()), [RULE, RULE]);
    assert_eq!(node.passes(Db, Web, &question().reply()), [FLOW, FLOW]);
    let first = question().fragment(9, 0, true);
    assert_eq!(node.receives(Db, &first, Way::of(Web)), FLOW);
    node
}

/// Packets to a workload that rest on an entry: of the flow, of the datagram, and an error.
/// Each with what becomes of it with the entry, and without.
fn resting() -> [(Vec<u8>, u32, Way, Outcome, Outcome); 3] {
    let error = packet_too_big(&question(), 1300).from(Outside.end());
    let later = question().fragment(9, 24, true);
    let answer = question().reply();
    [
        (answer.bytes(), Web.ifindex(), Way::of(Db), FLOW, ISOLATED),
        (
            later.bytes(),
            Db.ifindex(),
            Way::of(Web),
            FLOW,
            denied(Reason::FragmentNoFirst),
        ),
        (
            error.bytes(),
            Web.ifindex(),
            FROM_UPLINK,
            super::following::RELATED,
            ISOLATED,
        ),
    ]
}

/// Judges a frame to a workload while an event comes at some moment.
fn judge<'a>(
    flows: SliceFlows<'a>,
    bytes: &[u8],
    (ifindex, way): (u32, Way),
    (moment, event): (u32, &'a dyn Fn(&SliceFlows<'a>)),
) -> Outcome {
    let left = Cell::new(moment);
    let comes = |flows: &SliceFlows<'a>| {
        if left.get() == 1 {
            event(flows);
        }
        left.set(left.get().saturating_sub(1));
    };
    let memory = Watched {
        flows,
        between_loads: &comes,
        before_look: &|| {},
    };
    let context = Context {
        ifindex,
        ingress_ifindex: way.ingress_ifindex,
        stamp: way.stamp,
        has_socket: way.has_socket,
        tagged: false,
    };
    let frame = SliceFrame { bytes, gso: false };
    outcome(&judge_flow(&memory, &frame, &context, Hook::ToWorkload))
}

/// Moments at which something may happen: before, between and after all readings.
const MOMENTS: u32 = 24;

#[test]
fn an_entry_that_is_let_go_counts_for_all_that_rest_on_it() {
    for (number, (bytes, ifindex, way, with, _)) in resting().into_iter().enumerate() {
        // One reading of a locked entry takes one moment; the addresses take some before.
        for moment in 1..=8 {
            let node = asked();
            let partitions: Vec<&[FlowSet]> = node.partitions().iter().map(Vec::as_slice).collect();
            let flows = node.flows(&partitions);
            change(&flows, |word| word | 1);
            let release = |flows: &SliceFlows<'_>| change(flows, |word| word & !1);
            let event: (u32, &dyn Fn(&SliceFlows<'_>)) = (moment, &release);
            let judged = judge(flows, &bytes, (ifindex, way), event);
            assert_eq!(judged, with, "packet {number}, let go at moment {moment}");
        }
    }
}

#[test]
fn an_entry_that_changes_is_read_again_for_all_that_rest_on_it() {
    for (number, (bytes, ifindex, way, with, _)) in resting().into_iter().enumerate() {
        for moment in 1..=MOMENTS {
            let node = asked();
            let partitions: Vec<&[FlowSet]> = node.partitions().iter().map(Vec::as_slice).collect();
            let flows = node.flows(&partitions);
            // The version of a flow's word, and a bit of a datagram's that says nothing.
            let renew = |flows: &SliceFlows<'_>| {
                let next = |word| StateWord(word).next().0;
                let sets = flows.partitions.iter().flat_map(|sets| sets.iter());
                for entry in sets.flat_map(|set| &set.ways) {
                    entry.state.put(next(entry.state.load()));
                }
                for entry in flows.fragments.iter().flat_map(|set| &set.ways) {
                    entry.word.put(entry.word.load() ^ 1 << 48);
                }
            };
            let event: (u32, &dyn Fn(&SliceFlows<'_>)) = (moment, &renew);
            let judged = judge(flows, &bytes, (ifindex, way), event);
            assert_eq!(judged, with, "packet {number}, changed at moment {moment}");
        }
    }
}

#[test]
fn an_entry_that_stays_locked_lets_nothing_pass() {
    for (number, (bytes, ifindex, way, _, without)) in resting().into_iter().enumerate() {
        let node = asked();
        let partitions: Vec<&[FlowSet]> = node.partitions().iter().map(Vec::as_slice).collect();
        let flows = node.flows(&partitions);
        change(&flows, |word| word | 1);
        let nothing = |_: &SliceFlows<'_>| {};
        let event: (u32, &dyn Fn(&SliceFlows<'_>)) = (0, &nothing);
        let judged = judge(flows, &bytes, (ifindex, way), event);
        assert_eq!(judged, without, "packet {number}");
    }
}
