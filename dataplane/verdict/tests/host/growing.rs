//! Flows while their partition grows: before they are moved, between any two steps of the
//! move, and after it.

use super::{
    following::{answer, ask, connect, idle, pass, policy, request, segment},
    scene::{
        FLOW, FROM_UPLINK, ISOLATED, Node, Outcome, RULE, Way,
        Who::{Db, Outside, Web},
        outcome,
        packet::{Family, Packet, Udp, packet_too_big, udp},
    },
    watched::Watched,
};
use cofferdam_verdict::{
    address::Address,
    counter::Hook,
    flow::{FlowEntry, FlowKey, FlowSet, FlowState, Idle, Size, StateWord, WAYS, grow::Mover},
    judge::Context,
    pipeline::judge_flow,
    reason::Reason,
    slices::SliceFrame,
    verdict::Action::{Allow, Deny},
};
use std::cell::Cell;

/// Sets of the database's partition before and after.
const FEW: u32 = 2;
const MANY: u32 = 16;
/// Ports of the flows that are there before.
const PORTS: std::ops::Range<u16> = 4000..4006;

fn question(port: u16) -> Packet<Udp> {
    udp().from(Web.end()).to(Db.end()).sport(port).dport(53)
}

fn asks(node: &Node, port: u16) -> Outcome {
    node.receives(Db, &question(port), Way::of(Web))
}

fn answers(node: &Node, port: u16) -> Outcome {
    node.sends(Db, &question(port).reply())
}

fn size(node: &Node) -> Size {
    Size(node.endpoints[Db as usize].flow_size.load())
}

fn resize(node: &Node, size: Size) {
    node.endpoints[Db as usize].flow_size.put(size.0);
}

fn begin(node: &Node, port: u16) {
    assert_eq!(asks(node, port), RULE, "{port}");
    assert_eq!(answers(node, port), FLOW, "{port}");
    assert_eq!(asks(node, port), FLOW, "{port}");
}

/// A node whose database has a small partition with established flows.
fn small() -> Node {
    let node = Node::under(&policy());
    resize(&node, Size::of(FEW));
    PORTS.for_each(|port| begin(&node, port));
    node
}

/// One whose partition has just grown.
fn grown() -> Node {
    let node = small();
    resize(&node, size(&node).grown(MANY));
    node
}

/// Moves the database's flows; `step` is called before each look at a set, with its number in
/// the order of looks.
fn move_flows(node: &Node, step: impl Fn(u32)) -> usize {
    let looks = Cell::new(0);
    let mover = Mover {
        keys: &node.settings.keys,
        size: size(node),
        set: |set: u32| {
            step(looks.replace(looks.get() + 1));
            node.partitions()[Db as usize].get(set as usize)
        },
    };
    mover.run()
}

/// Moves all of them, and says so.
fn settle(node: &Node) {
    assert_eq!(move_flows(node, |_| ()), 0);
    resize(node, size(node).settled());
}

/// The places that flows lie in.
fn places(node: &Node) -> Vec<(u32, &FlowEntry)> {
    let sets = (0..).zip(&node.partitions()[Db as usize]);
    let entries = sets.flat_map(|(number, set)| set.ways.iter().map(move |way| (number, way)));
    let used = entries.filter(|(_, entry)| entry.state.load() != 0);
    used.filter(|(_, entry)| StateWord(entry.state.load()).state() != FlowState::Free)
        .collect()
}

/// Packets of the flows pass, and no others.
fn assert_flows_pass(node: &Node, when: &str) {
    for port in PORTS {
        assert_eq!(answers(node, port), FLOW, "{when}: {port}");
        assert_eq!(asks(node, port), FLOW, "{when}: {port}");
        let error = packet_too_big(&question(port).reply(), 1300);
        let arrived = node.receives(Db, &error.from(Outside.end()), FROM_UPLINK);
        assert_eq!(arrived, (Allow, Reason::Related), "{when}: {port}");
    }
    assert_eq!(answers(node, 5000), ISOLATED, "{when}");
    let error = packet_too_big(&question(5000).reply(), 1300);
    let arrived = node.receives(Db, &error.from(Outside.end()), FROM_UPLINK);
    assert_eq!(arrived, ISOLATED, "{when}");
}

#[test]
fn flows_of_before_pass_in_a_partition_that_has_grown() {
    let node = grown();
    assert_flows_pass(&node, "where they lay");
    let outside = places(&node).iter().all(|&(set, _)| set < FEW);
    assert!(outside, "nobody has moved them");
    settle(&node);
    assert_flows_pass(&node, "where they belong");
    let entries = places(&node);
    assert_eq!(entries.len(), PORTS.len());
    assert!(entries.iter().any(|&(set, _)| set >= FEW), "{entries:?}");
    let context = Context {
        ifindex: Db.ifindex(),
        ingress_ifindex: Web.ifindex(),
        stamp: Web.stamp(),
        has_socket: false,
        tagged: false,
    };
    for port in PORTS {
        let bytes = question(port).bytes();
        let frame = SliceFrame {
            bytes: &bytes,
            gso: false,
        };
        let judged = node.judge_frame(&frame, &context, Hook::ToWorkload);
        assert!(judged.hurried, "{port}: the short way finds it");
    }
}

/// Packets come between any two looks of the mover, and new flows begin.
#[test]
fn flows_pass_between_any_two_steps_of_their_move() {
    let steps = Cell::new(0);
    move_flows(&grown(), |step| steps.set(step));
    assert!(steps.get() > 10, "{steps:?}");
    for at in 0..=steps.get() {
        let node = grown();
        move_flows(&node, |step| {
            if step == at {
                assert_flows_pass(&node, &format!("at step {at}"));
                begin(&node, 6000);
            }
        });
        settle(&node);
        assert_flows_pass(&node, "in the end");
        assert_eq!(answers(&node, 6000), FLOW, "at step {at}");
        assert_eq!(places(&node).len(), PORTS.len() + 1, "each once");
    }
}

/// A server's answer comes between any two looks of the mover, and the client's next segment.
#[test]
fn a_connection_is_established_while_it_is_moved() {
    let mut moved = 0;
    for port in 40_000..40_008 {
        let request = || request().sport(port);
        let segment = || segment().dport(port);
        let asked = || {
            let node = Node::under(&policy());
            resize(&node, Size::of(FEW));
            assert_eq!(ask(&node, &request().seq(1000).syn()), RULE);
            resize(&node, size(&node).grown(MANY));
            node
        };
        let steps = Cell::new(0);
        move_flows(&asked(), |step| steps.set(step));
        for at in 0..=steps.get() {
            for ends_before in [false, true] {
                let mut node = asked();
                let acknowledge = |node: &Node| {
                    let ack = request().seq(1001).ack_number(5001).ack();
                    assert_eq!(ask(node, &ack), FLOW, "at step {at}");
                };
                move_flows(&node, |step| {
                    if step == at {
                        let answered = segment().seq(5000).ack_number(1001).syn().ack();
                        assert_eq!(answer(&node, &answered), FLOW, "at step {at}");
                        if ends_before {
                            acknowledge(&node);
                        }
                    }
                });
                settle(&node);
                acknowledge(&node);
                let entries = places(&node);
                assert_eq!(entries.len(), 1);
                moved += u32::from(entries[0].0 >= FEW);
                let embryonic = idle(&node, Idle::TcpEmbryonic);
                pass(&mut node, embryonic + 1);
                assert_eq!(answer(&node, &segment().ack()), FLOW, "at step {at}");
            }
        }
    }
    assert!(moved > 0, "some do not stay where they were");
}

/// Judges a packet on the database's hook while all flows are moved before its look `at`.
/// Returns `false` if it had fewer looks.
fn judge_interrupted(node: &Node, hook: Hook, bytes: &[u8], at: u32) -> (Outcome, bool) {
    let partitions: Vec<&[FlowSet]> = node.partitions().iter().map(Vec::as_slice).collect();
    let looks = Cell::new(0);
    let settle = || {
        if looks.replace(looks.get() + 1) == at {
            settle(node);
        }
    };
    let memory = Watched {
        flows: node.flows(&partitions),
        between_loads: &|_| {},
        before_look: &settle,
    };
    let by = match hook {
        Hook::ToWorkload => Web,
        _ => Db,
    };
    let context = Context {
        ifindex: Db.ifindex(),
        ingress_ifindex: by.ifindex(),
        stamp: by.stamp(),
        has_socket: false,
        tagged: false,
    };
    let frame = SliceFrame { bytes, gso: false };
    let case = judge_flow(&memory, &frame, &context, hook);
    (outcome(&case), looks.get() > at)
}

/// A program looks where the flow belongs, then where it lay. When it was moved in between, it
/// is in neither.
#[test]
fn no_flow_is_hidden_by_a_move_between_two_looks() {
    let error = |port| packet_too_big(&question(port).reply(), 1300).from(Outside.end());
    let mut looks = 0;
    for port in PORTS {
        let packets = [
            (Hook::FromWorkload, question(port).reply().bytes(), FLOW),
            (Hook::ToWorkload, question(port).bytes(), FLOW),
            (
                Hook::ToWorkload,
                error(port).bytes(),
                (Allow, Reason::Related),
            ),
        ];
        for (hook, bytes, expected) in packets {
            let mut at = 0;
            loop {
                let (outcome, happened) = judge_interrupted(&grown(), hook, &bytes, at);
                assert_eq!(outcome, expected, "{port}, moved before look {at}");
                if !happened {
                    break;
                }
                at += 1;
            }
            looks += at;
        }
    }
    assert!(looks > 50, "some looked where they lay: {looks}");
}

/// A flow whose sets are full stays where it was until there is room.
#[test]
fn a_flow_without_a_free_place_stays_and_passes() {
    let node = grown();
    let sets = &node.partitions()[Db as usize];
    let upper = || sets.iter().skip(FEW as usize).flat_map(|set| &set.ways);
    let foreign = StateWord::new(1, 1, 77, 1, FlowState::Established, 0);
    upper().for_each(|entry| entry.state.put(foreign.0));
    let left = move_flows(&node, |_| ());
    assert!(left > 0);
    assert_flows_pass(&node, "where they lay");
    upper().for_each(|entry| entry.state.put(foreign.freed().0));
    settle(&node);
    assert_flows_pass(&node, "where they belong");
}

/// An agent that died between two steps has left a flow in both of its places, and a place
/// kept for another.
#[test]
fn a_move_that_was_broken_off_is_ended() {
    let node = grown();
    settle(&node);
    let moved = |&&(set, _): &&(u32, &FlowEntry)| set >= FEW;
    let places_then = places(&node);
    let (_, entry) = places_then.iter().find(moved).expect("one was moved");
    let word = StateWord(entry.state.load());
    // In its place of before.
    let sets = &node.partitions()[Db as usize];
    let words = entry.key.each_ref().map(|word| word.load());
    let key = FlowKey {
        peer: Address::from(Web.end().ip(Family::V4).expect("IPv4")).words,
        local: Address::from(Db.end().ip(Family::V4).expect("IPv4")).words,
        ports: words[4] as u32,
        kind: (words[4] >> 32) as u32,
    };
    assert_eq!(key.pairs(), words);
    let before = key.places(&node.settings.keys, FEW - 1).sets[0];
    let set = &sets[before as usize];
    let is_free = |way: &usize| StateWord(set.ways[*way].state.load()).state() == FlowState::Free;
    let way = (0..WAYS).find(is_free).expect("the others were moved");
    for (to, word) in set.ways[way].key.iter().zip(words) {
        to.put(word);
    }
    set.ways[way].state.put(word.0);
    assert_eq!(places(&node).len(), PORTS.len() + 1);
    resize(&node, Size::of(FEW).grown(MANY));
    assert_flows_pass(&node, "in both");
    settle(&node);
    assert_eq!(places(&node).len(), PORTS.len());
    assert_flows_pass(&node, "where they belong");
}

/// No flow begins in a place that is kept for one that is moved.
#[test]
fn a_place_that_is_kept_is_nobodys() {
    let node = Node::under(&policy());
    resize(&node, Size::of(1));
    let set = &node.partitions()[Db as usize][0];
    let kept = StateWord::default().reserved();
    assert!(kept.is_reserved() && !kept.freed().is_reserved());
    for entry in &set.ways {
        entry.state.put(kept.0);
    }
    assert_eq!(asks(&node, 4000), (Deny, Reason::FlowTableFull));
    set.ways[2].state.put(kept.freed().0);
    assert_eq!(asks(&node, 4000), RULE);
    assert_eq!(answers(&node, 4000), FLOW);
    assert_eq!(asks(&node, 4001), RULE, "in the place of the first");
    let left = set.ways.iter().filter(|entry| entry.state.load() == kept.0);
    assert_eq!(left.count(), WAYS - 1);
}

/// In a full partition a flow may be idle for an eighth of its time; established connections
/// go on as ever.
#[test]
fn idle_times_follow_the_fill() {
    for (used, digits) in [(8, 0), (9, 1), (11, 2), (16, 3)] {
        let filled = |node: &Node| resize(node, size(node).filled(used, 16));
        let mut node = small();
        filled(&node);
        let longest = idle(&node, Idle::Udp) >> digits;
        pass(&mut node, longest);
        assert_eq!(answers(&node, 4000), FLOW, "{used} of 16");
        pass(&mut node, longest + 1);
        assert_eq!(answers(&node, 4000), ISOLATED, "{used} of 16");

        let mut node = Node::under(&policy());
        connect(&node);
        filled(&node);
        let longest = idle(&node, Idle::TcpEstablished);
        pass(&mut node, longest);
        assert_eq!(answer(&node, &segment().ack()), FLOW, "{used} of 16");
    }
}
