//! The protocol by which processors share an entry, under a model checker.
//!
//! Two processors judge a packet each, by the code of the programs. The checker tries every
//! order of their steps, with a bound on how often one is stopped in the middle, and every
//! value that a load may yield where nothing orders it.
//!
//! Watched are the words of one entry that others tell flows apart by. All flows lie in one
//! set, whose other places are taken.

use std::{boxed::Box, vec::Vec};

use cofferdam_verdict::{
    counter::Hook,
    flow::{FlowEntry, FlowSet, FlowState, KEY_PAIRS, Size, StateWord, WAYS, flow_mark},
    judge::{Case, Context},
    packet::protocol,
    pipeline::judge_flow,
    shared::watched,
    slices::{SliceFlows, SliceFrame},
    verdict::Direction::Egress,
};
use loom::{model::Builder, thread};

#[path = "../../tests/host/scene.rs"]
#[expect(
    dead_code,
    reason = "written for the tests of the pipeline, which use the rest"
)]
mod scene;

use scene::{
    FROM_UPLINK, Node, Policy, RULE, Way,
    Who::{self, Db, Far, OtherNode, Outside},
    packet::{Packet, Udp, udp},
};

/// Times that the checker stops a processor in the middle, in one order of steps. Two are the
/// least by which two writers mix their words.
const STOPS_OF_WRITERS: usize = 2;
const STOPS_OF_READERS: usize = 4;

const DNS: Option<(u8, u16)> = Some((protocol::UDP, 53));

/// A question that the database asks.
fn question(of: Who, port: u16) -> Packet<Udp> {
    let packet = udp().from(Db.end()).to(of.end());
    packet.sport(port).dport(53)
}

/// Words of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words {
    state: u64,
    key: [u64; KEY_PAIRS],
    peer: [u32; 2],
    last_seen: u32,
    tag: u8,
}

impl Words {
    fn of(set: &FlowSet, way: usize) -> Self {
        let entry = &set.ways[way];
        Self {
            state: entry.state.load(),
            key: std::array::from_fn(|i| entry.key[i].load()),
            peer: [entry.peer_slot.load(), entry.peer_epoch.load()],
            last_seen: entry.last_seen.load(),
            tag: set.ways[0].tags[way].load(),
        }
    }

    fn write(self, set: &FlowSet, way: usize) {
        let entry = &set.ways[way];
        entry.state.put(self.state);
        for (word, value) in entry.key.iter().zip(self.key) {
            word.put(value);
        }
        entry.peer_slot.put(self.peer[0]);
        entry.peer_epoch.put(self.peer[1]);
        entry.last_seen.put(self.last_seen);
        set.ways[0].tags[way].put(self.tag);
    }
}

/// A node that outlives the threads of all models.
#[derive(Clone, Copy)]
struct Stage {
    node: &'static Node,
    partitions: &'static [&'static [FlowSet]],
    /// The entry that the processors meet at, as it is at the beginning.
    first: Words,
}

impl Stage {
    /// The first place of the set is the flow's of which the database has asked a workload of
    /// another node, unanswered for some time. Since then that workload has other labels, and
    /// no policy allows it any more. To two others the database may still speak.
    fn new() -> Self {
        let open = Policy::closed()
            .allows(Db, Egress, Outside, DNS)
            .allows(Db, Egress, OtherNode, DNS);
        let mut node = Node::under(&open.clone().allows(Db, Egress, Far, DNS));
        node.endpoints[Db as usize].flow_size.put(Size::of(1).0);
        assert_eq!(node.sends(Db, &question(Far, 4000)), RULE);
        node.publish(&open);
        node.relabel(Far);
        let set = &node.partitions()[Db as usize][0];
        let mut first = Words::of(set, 0);
        // As the next flow's in its place will be, but for the version.
        let incarnation = node.endpoints[Db as usize].incarnation;
        let word = |state, marks| StateWord::new(1, 2, incarnation, 1, state, marks).0;
        first.state = word(FlowState::Embryonic, flow_mark::OPENED_BY_ENDPOINT);
        node.jiffies += 40;
        let set = &node.partitions()[Db as usize][0];
        first.write(set, 0);
        for way in 1..WAYS {
            let mut other = first;
            other.state = word(FlowState::Established, 0);
            other.key[0] ^= 0x1_0000 << way;
            other.last_seen = node.jiffies;
            other.tag ^= 0xff;
            other.write(set, way);
        }
        let node: &'static Node = Box::leak(Box::new(node));
        let partitions: Vec<&'static [FlowSet]> =
            node.partitions().iter().map(Vec::as_slice).collect();
        Self {
            node,
            partitions: Vec::leak(partitions),
            first,
        }
    }

    fn set(&self) -> &'static FlowSet {
        &self.partitions[Db as usize][0]
    }

    /// Puts the entry back, and lets the checker watch it: the words that readers rest on, or
    /// those of them that tell two writers apart.
    fn begin(&self, for_readers: bool) {
        let set = self.set();
        self.first.write(set, 0);
        let FlowEntry {
            state,
            key,
            peer_slot,
            peer_epoch,
            ..
        } = &set.ways[0];
        watched::watch(state, state.load());
        watched::watch(&key[0], key[0].load());
        watched::watch(peer_slot, peer_slot.load().into());
        if for_readers {
            let ports = &key[KEY_PAIRS - 1];
            watched::watch(ports, ports.load());
            watched::watch(peer_epoch, peer_epoch.load().into());
        }
    }

    /// The entry after all.
    fn end(&self) -> Words {
        let words = Words::of(self.set(), 0);
        watched::forget();
        words
    }

    fn judge(&self, packet: &Packet<Udp>, hook: Hook, way: Way) -> Case {
        let flows: SliceFlows<'_> = self.node.flows(self.partitions);
        let context = Context {
            ifindex: Db.ifindex(),
            ingress_ifindex: way.ingress_ifindex,
            stamp: way.stamp,
            has_socket: way.has_socket,
            tagged: false,
        };
        let bytes = packet.bytes();
        let frame = SliceFrame {
            bytes: &bytes,
            gso: false,
        };
        judge_flow(&flows, &frame, &context, hook)
    }

    /// The database asks.
    fn ask(&self, of: Who, port: u16) -> Case {
        self.judge(&question(of, port), Hook::FromWorkload, Way::of(Db))
    }

    /// The entry of a question in the place, when nobody else does anything.
    fn alone(&self, of: Who, port: u16) -> Words {
        self.first.write(self.set(), 0);
        assert!(self.ask(of, port).is_allowed());
        Words::of(self.set(), 0)
    }
}

/// Returns `true` if two entries are of one flow, and both whole.
fn is_same(one: Words, other: Words) -> bool {
    let state = |words: Words| {
        (
            StateWord(words.state).state(),
            StateWord(words.state).marks(),
        )
    };
    (one.key, one.peer) == (other.key, other.peer)
        && state(one) == state(other)
        && !StateWord(one.state).is_locked()
}

fn check(stops: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(stops);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// An answer of the flow that is no longer allowed finds its entry, which becomes another
/// flow's while it is read. With that flow's peer it would pass.
#[test]
fn no_reader_takes_one_flows_entry_for_anothers() {
    let stage = Stage::new();
    let next = stage.alone(Outside, 4001);
    assert_eq!(
        StateWord(stage.first.state).next().0,
        next.state,
        "the words differ in nothing else"
    );
    check(STOPS_OF_READERS, move || {
        stage.begin(true);
        let writer = thread::spawn(move || stage.ask(Outside, 4001));
        let answer = question(Far, 4000).reply();
        let read = stage.judge(&answer, Hook::ToWorkload, FROM_UPLINK);
        let written = writer.join().expect("the writer ends");
        let end = stage.end();
        assert!(!read.is_allowed(), "{read:?}");
        assert!(written.is_allowed(), "{written:?}");
        assert!(is_same(end, next), "{end:?}");
    });
}

/// An answer that belongs to neither flow, with the peer of one and the port of the other.
#[test]
fn no_reader_finds_a_key_of_two_flows() {
    let stage = Stage::new();
    check(STOPS_OF_READERS, move || {
        stage.begin(true);
        let writer = thread::spawn(move || stage.ask(Outside, 4001));
        for (peer, port) in [(Far, 4001), (Outside, 4000)] {
            let answer = question(peer, port).reply();
            let read = stage.judge(&answer, Hook::ToWorkload, FROM_UPLINK);
            assert!(!read.is_allowed(), "{read:?}");
        }
        writer.join().expect("the writer ends");
        stage.end();
    });
}

/// Both find the same place; one of them has it afterwards, whole.
#[test]
fn of_two_writers_one_has_the_place() {
    let stage = Stage::new();
    let both = [stage.alone(Outside, 4001), stage.alone(OtherNode, 4002)];
    check(STOPS_OF_WRITERS, move || {
        stage.begin(false);
        let other = thread::spawn(move || stage.ask(OtherNode, 4002));
        stage.ask(Outside, 4001);
        other.join().expect("the other writer ends");
        let end = stage.end();
        assert!(both.iter().any(|&one| is_same(end, one)), "{end:?}");
    });
}
