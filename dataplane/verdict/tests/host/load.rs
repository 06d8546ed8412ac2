//! Flows under load: floods, full sets, and who gives way to whom.

use super::{
    following::{NO_FLOW, answer, ask, connect, idle, pass, policy, question, request, segment},
    scene::{
        FLOW, ISOLATED, Node, Outcome, Policy, RULE, Way,
        Who::{self, Cache, Db, Web},
        denied,
        packet::{Family, Packet, Udp, udp},
    },
};
use cofferdam_verdict::{
    flow::{Idle, Size},
    packet::protocol::UDP,
    reason::Reason,
    verdict::Action::Allow,
};

const FULL: Outcome = denied(Reason::FlowTableFull);
/// Allowed both ways, and passed without an entry.
const UNTRACKED: Outcome = (Allow, Reason::FlowTableFull);

/// A node whose database has one set of flows: all lie in it.
fn crowded(policy: &Policy) -> Node {
    let node = Node::under(policy);
    node.endpoints[Db as usize].flow_size.put(Size::of(1).0);
    node
}

/// A question from a port.
fn from_port(who: Who, port: u16) -> Packet<Udp> {
    let packet = udp().from(who.end()).to(Db.end());
    packet.sport(port).dport(53)
}

fn asks(node: &Node, who: Who, port: u16) -> Outcome {
    node.receives(Db, &from_port(who, port), Way::of(who))
}

/// A question, its answer, and another question.
fn establish(node: &mut Node, who: Who, port: u16) {
    assert_eq!(asks(node, who, port), RULE, "{port}");
    assert_eq!(
        node.sends(Db, &from_port(who, port).reply()),
        FLOW,
        "{port}"
    );
    assert_eq!(asks(node, who, port), FLOW, "{port}");
    pass(node, 1);
}

/// A node whose database has a full set: two established flows of each of two openers.
fn full(policy: Policy) -> Node {
    let mut node = crowded(&policy.connects(Cache, Db, Some((UDP, 53))));
    for (who, port) in [(Web, 1), (Web, 2), (Cache, 1), (Cache, 2)] {
        establish(&mut node, who, port);
    }
    node
}

/// A server answers a SYN from a spoofed source as any other. Only the opener's
/// acknowledgement of that answer, or of a byte that followed it, makes the connection last.
#[test]
fn an_answer_alone_makes_no_connection_that_stays() {
    let lasts = |acknowledged: &[u32]| {
        let mut node = Node::under(&policy());
        assert_eq!(ask(&node, &request().seq(1000).syn()), RULE);
        let answered = segment().seq(5000).ack_number(1001).syn().ack();
        assert_eq!(answer(&node, &answered), FLOW);
        // Sent before the opener's acknowledgement (RFC 7413), four bytes.
        let early = segment().seq(5001).ack_number(1001).ack();
        assert_eq!(answer(&node, &early.payload(b"data")), FLOW);
        for &number in acknowledged {
            let ack = request().seq(1001).ack_number(number).ack();
            assert_eq!(ask(&node, &ack), FLOW);
        }
        let embryonic = idle(&node, Idle::TcpEmbryonic);
        pass(&mut node, embryonic + 1);
        answer(&node, &segment().ack()) == FLOW
    };
    assert!(!lasts(&[]), "merely answered");
    let near = [0, 4999, 5000, 5006, 5001 + (1 << 31)];
    assert!(!lasts(&near), "merely near");
    for number in 5001..=5005 {
        assert!(lasts(&[number]), "{number}");
    }
    assert!(lasts(&[7, 5001]));
}

/// A first fragment has its datagram's identification where other segments have their end; any
/// acknowledgement counted then.
#[test]
fn a_fragmented_answer_shows_no_byte_behind_its_number() {
    let mut node = Node::under(&policy());
    assert_eq!(ask(&node, &request().seq(1000).syn()), RULE);
    let answered = segment().seq(5000).ack_number(1001).syn().ack();
    let first = answered.payload(&[0; 64]).fragment(4999, 0, true);
    assert_eq!(answer(&node, &first), FLOW);
    let far = request().seq(1001).ack_number(9_000_000).ack();
    assert_eq!(ask(&node, &far), FLOW);
    let embryonic = idle(&node, Idle::TcpEmbryonic);
    pass(&mut node, embryonic + 1);
    assert_eq!(answer(&node, &segment().ack()), ISOLATED);
}

/// The answer that counts is the last one: the server forgot the first, and answered anew.
#[test]
fn an_acknowledgement_of_an_earlier_answer_establishes_nothing() {
    let mut node = Node::under(&policy());
    assert_eq!(ask(&node, &request().seq(1000).syn()), RULE);
    for sequence in [5000, 900_000] {
        let answered = segment().seq(sequence).ack_number(1001).syn().ack();
        assert_eq!(answer(&node, &answered), FLOW);
    }
    let late = request().seq(1001).ack_number(5001).ack();
    assert_eq!(ask(&node, &late), FLOW);
    let embryonic = idle(&node, Idle::TcpEmbryonic);
    pass(&mut node, embryonic + 1);
    assert_eq!(answer(&node, &segment().ack()), ISOLATED);
}

/// A place for a flow: a free one, an expired one, then that of the flow that gives way
/// first; never one that is in use.
#[test]
fn a_full_set_gives_up_the_oldest_unanswered_flow_first() {
    let mut node = crowded(&policy());
    let arrives = |node: &Node, port| asks(node, Web, port);
    let answers = |node: &Node, port| node.sends(Db, &from_port(Web, port).reply());
    let long = idle(&node, Idle::TcpClosing) / 10;
    for port in 1..=4 {
        assert_eq!(arrives(&node, port), RULE);
        pass(&mut node, 1);
    }
    for port in [1, 3] {
        assert_eq!(answers(&node, port), FLOW);
    }
    pass(&mut node, long);
    // Of the two that nobody answers, the older one.
    assert_eq!(arrives(&node, 5), RULE);
    assert_eq!(answers(&node, 2), ISOLATED, "it has given way");
    assert_eq!(arrives(&node, 6), RULE);
    assert_eq!(answers(&node, 4), ISOLATED, "then the other");
    // A question that was just asked waits longer than one that was answered.
    assert_eq!(arrives(&node, 7), RULE);
    assert_eq!(answers(&node, 1), ISOLATED);
    for port in [3, 5, 6, 7] {
        assert_eq!(answers(&node, port), FLOW, "{port}");
    }
}

/// Half of the set is one opener's share: what it holds beyond that gives way, the longest
/// idle first.
#[test]
fn an_established_flow_within_its_openers_share_keeps_its_place() {
    let both = Policy::closed()
        .connects(Web, Db, Some((UDP, 53)))
        .connects(Cache, Db, Some((UDP, 53)));
    let mut node = crowded(&both);
    for port in 1..=4 {
        establish(&mut node, Web, port);
    }
    for port in 5..=6 {
        establish(&mut node, Cache, port);
    }
    // Two and two now.
    for (who, port) in [(Web, 3), (Web, 4), (Cache, 5), (Cache, 6)] {
        assert_eq!(asks(&node, who, port), FLOW, "{port}");
    }
    assert_eq!(asks(&node, Cache, 7), FULL);
    assert_eq!(asks(&node, Web, 1), FULL);
    let longest = idle(&node, Idle::Udp);
    pass(&mut node, longest + 1);
    assert_eq!(asks(&node, Web, 1), RULE, "all have been idle for too long");
}

/// A node whose database has a full set: three established flows of web's, each idle for longer
/// than the next, and a question.
fn three_and_a_question(policy: &Policy, who: Who) -> Node {
    let mut node = crowded(policy);
    for port in 1..=3 {
        establish(&mut node, Web, port);
    }
    assert_eq!(asks(&node, who, 4), RULE);
    node
}

/// Otherwise a client whose ports come again fills its sets with flows that last, and its
/// questions take each other's places.
#[test]
fn an_openers_resting_flow_gives_way_before_its_question() {
    let node = three_and_a_question(&policy(), Web);
    let answers = |port| node.sends(Db, &from_port(Web, port).reply());
    assert_eq!(asks(&node, Web, 5), RULE);
    assert_eq!(answers(1), ISOLATED, "the longest idle of its flows");
    for port in 2..=5 {
        assert_eq!(answers(port), FLOW, "{port}");
    }
    // A flow of which a packet has come since the question is not resting.
    let mut node = three_and_a_question(&policy(), Web);
    pass(&mut node, 1);
    for port in 1..=3 {
        assert_eq!(asks(&node, Web, port), FLOW, "{port}");
    }
    assert_eq!(asks(&node, Web, 5), RULE);
    let answers = |port| node.sends(Db, &from_port(Web, port).reply());
    assert_eq!(answers(4), ISOLATED);
    for port in [1, 2, 3, 5] {
        assert_eq!(answers(port), FLOW, "{port}");
    }
}

/// A lost question is asked again; a connection is lost for good.
#[test]
fn a_question_gives_way_before_its_openers_connections() {
    let mut node = crowded(&policy());
    let from = |port| (request().sport(port), segment().dport(port));
    for port in 1..=3 {
        let (ask_by, answer_by) = from(port);
        assert_eq!(ask(&node, &ask_by.clone().seq(1000).syn()), RULE);
        let answered = answer_by.seq(5000).ack_number(1001).syn().ack();
        assert_eq!(answer(&node, &answered), FLOW);
        assert_eq!(ask(&node, &ask_by.seq(1001).ack_number(5001).ack()), FLOW);
        pass(&mut node, 1);
    }
    for port in [4, 5] {
        assert_eq!(asks(&node, Web, port), RULE);
    }
    let late = node.sends(Db, &from_port(Web, 4).reply());
    assert_eq!(late, ISOLATED, "the question has given way");
    for port in 1..=3 {
        assert_eq!(answer(&node, &from(port).1.ack()), FLOW, "{port}");
    }
}

/// A question takes no place of another opener's flow while one of its own opener's questions
/// has one, however many places the other holds.
#[test]
fn a_question_gives_way_before_another_openers_flows() {
    let node = three_and_a_question(&policy().connects(Cache, Db, Some((UDP, 53))), Cache);
    assert_eq!(asks(&node, Cache, 5), RULE);
    let answers = |who, port| node.sends(Db, &from_port(who, port).reply());
    assert_eq!(answers(Cache, 4), ISOLATED);
    for (who, port) in [(Web, 1), (Web, 2), (Web, 3), (Cache, 5)] {
        assert_eq!(answers(who, port), FLOW, "{port}");
    }
}

/// A full set denies neither end anything where policy lets both ends open, because no packet
/// needs an entry.
#[test]
fn what_policy_allows_both_ways_passes_a_full_set() {
    let talks = Policy::closed().connects(Web, Db, None);
    let node = full(talks.connects(Db, Web, None));
    let datagram = question(Family::V4);
    for _ in 0..2 {
        assert_eq!(node.receives(Db, &datagram, Way::of(Web)), UNTRACKED);
        assert_eq!(node.sends(Db, &datagram.reply()), UNTRACKED);
    }
    // A whole connection: its segments after the SYN open nothing.
    assert_eq!(ask(&node, &request().syn()), UNTRACKED);
    assert_eq!(answer(&node, &segment().syn().ack()), UNTRACKED);
    for _ in 0..2 {
        assert_eq!(ask(&node, &request().ack()), UNTRACKED);
        assert_eq!(answer(&node, &segment().ack()), UNTRACKED);
    }
    assert_eq!(asks(&node, Cache, 3), FULL, "allowed one way");
}

/// A segment that opens nothing needs room as any packet, and gets none without its own
/// direction's permission and the other's.
#[test]
fn a_segment_of_no_connection_does_not_pass_a_full_set_one_way() {
    let node = full(policy());
    assert_eq!(ask(&node, &request().syn()), FULL);
    assert_eq!(ask(&node, &request().ack()), NO_FLOW);
    assert_eq!(answer(&node, &segment().ack()), ISOLATED);
}

/// A connection is not lost by silence: policy is asked about it again, in the opener's
/// direction, whichever end goes on.
#[test]
fn a_silent_connection_goes_on_if_policy_still_allows_it() {
    for by_opener in [true, false] {
        let mut node = Node::under(&policy());
        let next = |node: &Node| {
            if by_opener {
                ask(node, &request().ack())
            } else {
                answer(node, &segment().ack())
            }
        };
        connect(&node);
        let silence = idle(&node, Idle::TcpEstablished) + 1;
        pass(&mut node, silence);
        assert_eq!([next(&node), next(&node)], [RULE, FLOW]);
        pass(&mut node, silence);
        node.publish(&Policy::closed());
        assert_eq!(next(&node), ISOLATED);
        node.publish(&policy());
        assert_eq!(answer(&node, &segment().ack()), ISOLATED, "forgotten");
    }
}

/// The place of a silent connection is the first to be given away.
#[test]
fn a_silent_connection_gives_way() {
    let mut node = crowded(&policy());
    connect(&node);
    let silence = idle(&node, Idle::TcpEstablished) + 1;
    pass(&mut node, silence);
    for port in 1..=4 {
        assert_eq!(asks(&node, Web, port), RULE);
    }
    assert_eq!(ask(&node, &request().ack()), NO_FLOW);
}

/// A connection between its server's answer and its client's acknowledgement is not over, as an
/// answered question is: a busy server lost one in 20 000 that way.
#[test]
fn a_connection_that_is_being_opened_outlasts_answered_questions() {
    let node = crowded(&policy());
    assert_eq!(ask(&node, &request().seq(1000).syn()), RULE);
    let answered = segment().seq(5000).ack_number(1001).syn().ack();
    assert_eq!(answer(&node, &answered), FLOW);
    let answers = |node: &Node, port| node.sends(Db, &from_port(Web, port).reply());
    for port in 1..=3 {
        assert_eq!(asks(&node, Web, port), RULE);
        assert_eq!(answers(&node, port), FLOW);
    }
    assert_eq!(asks(&node, Web, 4), RULE);
    let ack = request().seq(1001).ack_number(5001).ack();
    assert_eq!(ask(&node, &ack), FLOW);
    // Nobody acknowledges what a spoofed source was answered.
    let mut node = crowded(&policy());
    assert_eq!(ask(&node, &request().seq(1000).syn()), RULE);
    assert_eq!(answer(&node, &answered), FLOW);
    let moment = idle(&node, Idle::TcpClosing) / 200;
    pass(&mut node, moment);
    for port in 1..=4 {
        assert_eq!(asks(&node, Web, port), RULE);
    }
    assert_eq!(ask(&node, &ack), NO_FLOW);
}

/// A connection that has just ended keeps its place for a moment, and then only as long as no
/// new flow would be refused for it: a busy server refused one in 5 000.
#[test]
fn what_is_closing_gives_way_rather_than_that_a_flow_is_refused() {
    let close = |node: &Node, port: u16| {
        let (ask_by, answer_by) = (request().sport(port), segment().dport(port));
        let opened = ask(node, &ask_by.clone().seq(1000).syn());
        if opened != RULE {
            return opened;
        }
        let answered = answer_by.clone().seq(5000).ack_number(1001);
        assert_eq!(answer(node, &answered.syn().ack()), FLOW);
        let end = ask_by.seq(1001).ack_number(5001).fin().ack();
        assert_eq!(ask(node, &end), FLOW);
        let end = answer_by.seq(5001).ack_number(1002).fin().ack();
        assert_eq!(answer(node, &end), FLOW);
        opened
    };
    let mut node = crowded(&policy());
    for port in 1..=4 {
        assert_eq!(close(&node, port), RULE, "{port}");
    }
    assert_eq!(close(&node, 5), FULL, "each has ended this moment");
    let moment = idle(&node, Idle::TcpClosing) / 200;
    pass(&mut node, moment);
    assert_eq!(close(&node, 5), RULE);
}
