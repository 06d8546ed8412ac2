//! A client that asks more questions than there is room for, from ports that come again: most of
//! its flows last, because it asks again from their ports.

use super::scene::{
    Node, Policy, Way,
    Who::{self, Db, Web},
    outcome,
    packet::udp,
};
use cofferdam_verdict::{
    counter::Hook,
    flow::{FlowSet, Size},
    judge::Context,
    packet::protocol::UDP,
    pipeline::judge_flow,
    slices::SliceFrame,
    verdict::Action::Allow,
};
use std::collections::VecDeque;

/// A sixty-fourth of a partition of the default size.
const SETS: u32 = 64;
/// A sixty-fourth of the ports that Linux chooses from.
const PORTS: u16 = 28_232 / 64;
/// A sixty-fourth of 10 000 questions a second.
const A_SECOND: u32 = 156;
/// Jiffies of a second.
const SECOND: u32 = 1000;
/// Questions.
const QUESTIONS: u32 = 10_000;
/// Default idle times.
const IDLE: [u32; 8] = [21_600, 20, 20, 60, 30, 3_600, 30, 60];

/// Both ends, and their partitions.
struct Ends {
    node: Node,
    tables: [Vec<FlowSet>; 3],
}

impl Ends {
    fn new() -> Self {
        let policy = Policy::closed().connects(Web, Db, Some((UDP, 53)));
        let mut node = Node::under(&policy);
        node.settings.idle = IDLE.map(|seconds| seconds * SECOND);
        // As short idle times as in a full partition.
        let size = Size::of(SETS).filled(1, 1);
        for endpoint in &node.endpoints {
            endpoint.flow_size.put(size.0);
        }
        let tables = [(); 3].map(|()| (0..SETS).map(|_| FlowSet::default()).collect());
        Self { node, tables }
    }

    /// Returns `true` if a frame passes both hooks.
    fn pass(&self, bytes: &[u8], from: Who, to: Who) -> bool {
        let partitions = self.tables.each_ref().map(Vec::as_slice);
        let memory = self.node.flows(&partitions);
        let frame = SliceFrame { bytes, gso: false };
        let passes = |who: Who, stamp, hook| {
            let context = Context {
                ifindex: who.ifindex(),
                ingress_ifindex: from.ifindex(),
                stamp,
                has_socket: false,
                tagged: false,
            };
            outcome(&judge_flow(&memory, &frame, &context, hook)).0 == Allow
        };
        passes(from, 0, Hook::FromWorkload) && passes(to, Way::of(from).stamp, Hook::ToWorkload)
    }
}

/// Asks from any port that no question without an answer has. Returns how many questions were
/// refused, and how many answers. Answers come after that many jiffies.
fn ask(answered_after: u32) -> [u32; 2] {
    let mut ends = Ends::new();
    let frames = (0..PORTS).map(|port| {
        let question = udp()
            .from(Web.end())
            .to(Db.end())
            .dport(53)
            .sport(32_768 + port);
        [question.bytes(), question.reply().bytes()]
    });
    let frames: Vec<[Vec<u8>; 2]> = frames.collect();
    let mut random = 7_u32;
    let mut open: VecDeque<(u32, usize)> = VecDeque::new();
    let [mut refused, mut lost] = [0; 2];
    for number in 0..QUESTIONS {
        let now = number * SECOND / A_SECOND;
        while let Some((_, port)) = open.pop_front_if(|(due, _)| *due <= now) {
            lost += u32::from(!ends.pass(&frames[port][1], Db, Web));
        }
        ends.node.jiffies = now;
        let is_open = |port: &usize| open.iter().any(|(_, other)| other == port);
        let port = loop {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = (random >> 8) as usize % frames.len();
            if !is_open(&port) {
                break port;
            }
        };
        if ends.pass(&frames[port][0], Web, Db) {
            open.push_back((now + answered_after, port));
        } else {
            refused += 1;
        }
    }
    [refused, lost]
}

/// 1 in 60 was lost with 20 ms between question and answer: where all other flows of both sets
/// were established, a question took the place of the one before.
#[test]
fn every_question_is_answered() {
    for answered_after in [1, 20, 200] {
        assert_eq!(ask(answered_after), [0; 2], "{answered_after}");
    }
}
