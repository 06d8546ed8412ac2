//! Packets that follow from an allowed one: replies, later fragments, ICMP errors. On the host,
//! where the clock and the whole flow table are the test's.

use super::scene::{
    FLOW, FREE, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE, Way,
    Who::{self, Cache, Db, Far, OtherNode, Outside, Web},
    denied,
    packet::{
        Family, Packet, Tcp, Udp, destination_unreachable, packet_too_big, ping, sctp, tcp, udp,
    },
};
use cofferdam_verdict::{
    flow::Idle,
    packet::protocol::{SCTP, TCP, UDP},
    reason::Reason,
    verdict::Action::Allow,
};

pub(super) const NO_FLOW: Outcome = denied(Reason::NoFlow);
const NO_FIRST: Outcome = denied(Reason::FragmentNoFirst);
pub(crate) const RELATED: Outcome = (Allow, Reason::Related);

/// Web asks the database, by TCP and UDP; nothing else is allowed.
pub(super) fn policy() -> Policy {
    Policy::closed()
        .connects(Web, Db, Some((TCP, 5432)))
        .connects(Web, Db, Some((UDP, 53)))
}

pub(super) fn question(family: Family) -> Packet<Udp> {
    let packet = udp().family(family).from(Web.end()).to(Db.end());
    packet.sport(4000).dport(53)
}

pub(super) fn request() -> Packet<Tcp> {
    let packet = tcp().from(Web.end()).to(Db.end());
    packet.sport(40_000).dport(5432)
}

pub(super) fn segment() -> Packet<Tcp> {
    let packet = tcp().from(Db.end()).to(Web.end());
    packet.sport(5432).dport(40_000)
}

/// From web, on the database's hook.
pub(super) fn ask(node: &Node, packet: &Packet<Tcp>) -> Outcome {
    node.receives(Db, packet, Way::of(Web))
}

/// From the database, on its hook.
pub(super) fn answer(node: &Node, packet: &Packet<Tcp>) -> Outcome {
    node.sends(Db, packet)
}

pub(super) fn connect(node: &Node) {
    assert_eq!(ask(node, &request().seq(1000).syn()), RULE);
    let answered = segment().seq(5000).ack_number(1001).syn().ack();
    assert_eq!(answer(node, &answered), FLOW);
    let ack = request().seq(1001).ack_number(5001).ack();
    assert_eq!(ask(node, &ack), FLOW);
}

pub(super) fn idle(node: &Node, kind: Idle) -> u32 {
    node.settings.idle[kind as usize]
}

pub(super) fn pass(node: &mut Node, jiffies: u32) {
    node.jiffies = node.jiffies.wrapping_add(jiffies);
}

#[test]
fn the_reply_alone_passes_at_both_hooks() {
    for family in Family::BOTH {
        let node = Node::under(&policy());
        let packet = question(family);
        assert_eq!(node.passes(Db, Web, &packet.reply()), [ISOLATED]);
        assert_eq!(node.passes(Web, Db, &packet), [RULE, RULE]);
        assert_eq!(node.passes(Db, Web, &packet.reply()), [FLOW, FLOW]);
        assert_eq!(node.passes(Web, Db, &packet), [FLOW, FLOW]);
        let reply = packet.reply();
        for other in [
            reply.clone().sport(4000).dport(53),
            reply.clone().sport(54),
            reply.clone().dport(4001),
            reply.to(Cache.end()),
        ] {
            assert_eq!(node.sends(Db, &other), ISOLATED, "{other}");
        }
    }
}

#[test]
fn a_flow_counts_under_its_table_endpoint_and_peer_alone() {
    for family in Family::BOTH {
        let mut node = Node::under(&policy());
        let packet = question(family);
        let receive = |node: &Node| node.receives(Db, &packet, Way::of(Web));
        assert_eq!([receive(&node), receive(&node)], [RULE, FLOW]);
        node.publish(&policy());
        assert_eq!([receive(&node), receive(&node)], [RULE, FLOW]);
        node.relabel(Web);
        assert_eq!([receive(&node), receive(&node)], [RULE, FLOW]);
        // A reply is decided again in the flow's own direction, and is no flow of its own.
        node.publish(&policy());
        assert_eq!(node.sends(Db, &packet.reply()), RULE);
        node.relabel(Web);
        assert_eq!(node.sends(Db, &packet.reply()), RULE);
        assert_eq!(node.sends(Db, &packet.reply()), FLOW);
        node.endpoints[Db as usize].incarnation += 1;
        assert_eq!(node.sends(Db, &packet.reply()), ISOLATED);
        assert_eq!([receive(&node), receive(&node)], [RULE, FLOW]);
        node.publish(&Policy::closed());
        assert_eq!(receive(&node), ISOLATED);
        // What policy has ended does not come back with the rule, to a reply.
        node.publish(&policy());
        assert_eq!(node.sends(Db, &packet.reply()), ISOLATED);
    }
}

/// Each address of a host with several is judged by itself.
#[test]
fn an_allowed_sctp_association_does_not_open_a_second_address() {
    let policy = Policy::closed().connects(Db, Far, Some((SCTP, 36_412)));
    for family in Family::BOTH {
        let node = Node::under(&policy);
        let sent = sctp()
            .family(family)
            .from(Db.end())
            .to(Far.end())
            .sport(36_412)
            .dport(36_412)
            .payload(&[0; 16]);
        assert_eq!(node.sends(Db, &sent), RULE);
        let answer = sent.reply();
        assert_eq!(node.receives(Db, &answer, FROM_UPLINK), FLOW);
        let second = answer.from(OtherNode.end());
        assert_eq!(node.receives(Db, &second, FROM_UPLINK), ISOLATED);
        assert_eq!(node.sends(Db, &second.reply()), ISOLATED);
        assert_eq!(node.sends(Db, &sent), FLOW);
    }
}

/// A packet in the opener's name that was sent by another is not of its flow.
#[test]
fn a_flow_is_its_peers_alone() {
    for family in Family::BOTH {
        let node = Node::under(&policy());
        let packet = question(family);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
        for way in [Way::of(Cache), FROM_UPLINK] {
            let judged = node.receives(Db, &packet, way);
            assert_eq!(judged, denied(Reason::ForeignLocalAddress));
        }
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FLOW);
    }
}

/// A workload that wraps packets into a tunnel to its own node may name any peer of a
/// flow; its stamp gives it away.
#[test]
fn a_flow_with_another_node_does_not_take_stamped_packets() {
    let policy = Policy::closed()
        .connects(Web, Far, None)
        .connects(OtherNode, Web, None);
    for family in Family::BOTH {
        for (peer, opens) in [(Far, true), (OtherNode, false)] {
            let mut node = Node::under(&policy);
            let sent = udp().family(family).from(Web.end()).to(peer.end());
            let answer = sent.reply();
            if opens {
                assert_eq!(node.sends(Web, &sent), RULE);
            } else {
                assert_eq!(node.receives(Web, &answer, FROM_UPLINK), RULE);
            }
            let error = destination_unreachable(&sent);
            let foreign = denied(Reason::ForeignLocalAddress);
            for _ in 0..2 {
                assert_eq!(node.receives(Web, &answer, Way::of(Cache)), foreign);
                assert_eq!(node.receives(Web, &error, Way::of(Cache)), foreign);
                assert_eq!(node.receives(Web, &error, FROM_UPLINK), RELATED);
                assert_eq!(node.receives(Web, &answer, FROM_UPLINK), FLOW);
            }
            // Nor where the flow has to be decided again.
            node.publish(&policy);
            assert_eq!(node.receives(Web, &answer, Way::of(Cache)), foreign);
        }
    }
}

#[test]
fn a_flow_is_forgotten_when_it_was_idle_for_too_long() {
    let mut node = Node::under(&policy());
    let packet = question(Family::V4);
    let reply = packet.reply();
    for (kind, answered) in [(Idle::UdpOneWay, false), (Idle::Udp, true)] {
        let longest = idle(&node, kind);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
        if answered {
            assert_eq!(node.sends(Db, &reply), FLOW);
        }
        pass(&mut node, longest);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FLOW, "{kind:?}");
        pass(&mut node, longest + 1);
        assert_eq!(node.sends(Db, &reply), ISOLATED, "{kind:?}");
    }
}

#[test]
fn a_reset_closes_only_from_within_the_window() {
    for (sequence, closes) in [
        (1000, false),
        (1001, true),
        (1001 + 65_535, true),
        (1001 + 65_536, false),
    ] {
        let mut node = Node::under(&policy());
        connect(&node);
        assert_eq!(ask(&node, &request().seq(sequence).rst()), FLOW);
        let closing = idle(&node, Idle::TcpClosing);
        pass(&mut node, closing + 1);
        let after = if closes { NO_FLOW } else { FLOW };
        assert_eq!(ask(&node, &request().ack()), after, "{sequence}");
    }
}

#[test]
fn a_connection_closes_when_both_ends_have_finished() {
    let is_open = |node: &mut Node| {
        let closing = idle(node, Idle::TcpClosing);
        pass(node, closing + 1);
        ask(node, &request().ack()) == FLOW
    };
    let mut node = Node::under(&policy());
    connect(&node);
    for _ in 0..2 {
        assert_eq!(ask(&node, &request().fin().ack()), FLOW);
    }
    assert!(is_open(&mut node), "one end, twice");
    assert_eq!(answer(&node, &segment().fin().ack()), FLOW);
    assert!(!is_open(&mut node));
}

/// A SYN is a question whoever sends it, also on the ports of an open connection.
#[test]
fn a_syn_is_judged_on_the_ports_of_a_connection() {
    let node = Node::under(&policy());
    connect(&node);
    assert_eq!(answer(&node, &segment().syn()), ISOLATED);
    assert_eq!(ask(&node, &request().syn()), RULE);
    assert_eq!(ask(&node, &request().ack()), FLOW, "still open");
    assert_eq!(answer(&node, &segment().ack()), FLOW);
}

/// A connection that a reset ends at once was none, whether the reset is believed or not.
#[test]
fn a_refused_connection_is_not_established() {
    for sequence in [0, 1 << 20] {
        let mut node = Node::under(&policy());
        assert_eq!(ask(&node, &request().syn()), RULE);
        let refused = segment().seq(sequence).rst().ack();
        assert_eq!(answer(&node, &refused), FLOW);
        let longest = idle(&node, Idle::TcpEmbryonic).max(idle(&node, Idle::TcpClosing));
        pass(&mut node, longest + 1);
        assert_eq!(answer(&node, &segment().ack()), ISOLATED);
    }
}

#[test]
fn segments_of_no_flow_are_adopted_until_the_deadline_if_either_end_may_open() {
    let both = || policy().connects(Db, Web, None);
    for (policy, expected) in [(policy(), ISOLATED), (both(), RULE)] {
        let mut node = Node::under(&policy);
        assert_eq!(ask(&node, &request().ack()), NO_FLOW);
        // The deadline lies behind the clock's wrap.
        let deadline = node.jiffies.wrapping_add(100);
        node.endpoints[Db as usize].adopt_until.store(deadline);
        assert_eq!(ask(&node, &request().ack()), expected);
        let late = request().sport(40_001).ack();
        pass(&mut node, 99);
        assert_eq!(ask(&node, &late), expected);
        for more in [1, 1, 1 << 30] {
            pass(&mut node, more);
            let late = request().sport(40_002).ack();
            assert_eq!(ask(&node, &late), NO_FLOW, "{more}");
        }
    }
}

/// An echo reply to a question that nobody asked opens nothing; one identifier serves both
/// ends at a time.
#[test]
fn an_echo_belongs_to_the_end_that_asked() {
    for family in Family::BOTH {
        let policy = Policy::closed().connects(Web, Db, None);
        let node = Node::under(&policy);
        let asked = ping(family).from(Web.end()).to(Db.end()).echo(7, 1);
        let back = ping(family).from(Db.end()).to(Web.end()).echo(7, 1);
        assert_eq!(node.passes(Db, Web, &asked.reply()), [ISOLATED]);
        assert_eq!(node.passes(Web, Db, &asked), [RULE, RULE]);
        assert_eq!(node.passes(Db, Web, &asked.reply()), [FLOW, FLOW]);
        assert_eq!(node.passes(Db, Web, &back), [ISOLATED]);
    }
}

fn datagram(family: Family) -> Packet<Udp> {
    question(family).payload(&[7; 64])
}

#[test]
fn later_fragments_follow_their_first_until_its_last() {
    for family in Family::BOTH {
        let node = Node::under(&policy());
        let piece = |number, offset, more| datagram(family).fragment(number, offset, more);
        let arrives = |packet: &Packet<Udp>| node.receives(Db, packet, Way::of(Web));
        assert_eq!(arrives(&piece(9, 24, true)), NO_FIRST);
        assert_eq!(arrives(&piece(9, 0, true)), RULE);
        assert_eq!(arrives(&piece(9, 24, true)), FLOW);
        assert_eq!(arrives(&piece(9, 48, false)), FLOW);
        assert_eq!(arrives(&piece(10, 24, true)), NO_FIRST);
        // Leaving is another road: nothing is known there.
        assert_eq!(node.sends(Web, &piece(9, 24, true)), NO_FIRST);
        assert_eq!(node.sends(Web, &piece(9, 0, true)), RULE);
        assert_eq!(node.sends(Web, &piece(9, 24, true)), FLOW);
        // Denied firsts take nothing along.
        let denied = datagram(family).dport(54);
        let first = denied.clone().fragment(11, 0, true);
        assert_eq!(arrives(&first), ISOLATED);
        assert_eq!(arrives(&denied.fragment(11, 24, true)), NO_FIRST);
    }
}

#[test]
fn no_fragment_overlaps_the_header_that_was_judged() {
    for family in Family::BOTH {
        let node = Node::under(&policy());
        let whole = request().family(family).syn().payload(&[7; 64]);
        assert_eq!(ask(&node, &whole.clone().fragment(9, 0, true)), RULE);
        for (offset, expected) in [
            (8, denied(Reason::Malformed)),
            (16, denied(Reason::Malformed)),
            (24, FLOW),
        ] {
            let later = whole.clone().fragment(9, offset, true);
            assert_eq!(ask(&node, &later), expected, "{family} {offset}");
        }
    }
}

#[test]
fn a_remembered_fragment_dies_with_table_endpoint_peer_and_time() {
    let later = datagram(Family::V4).fragment(9, 24, true);
    let hold = || {
        let node = Node::under(&policy());
        let first = datagram(Family::V4).fragment(9, 0, true);
        assert_eq!(node.receives(Db, &first, Way::of(Web)), RULE);
        assert_eq!(node.receives(Db, &later, Way::of(Web)), FLOW);
        node
    };
    let arrives = |node: &Node| node.receives(Db, &later, Way::of(Web));
    let mut node = hold();
    node.publish(&policy());
    assert_eq!(arrives(&node), NO_FIRST, "another table");
    let mut node = hold();
    node.endpoints[Db as usize].incarnation += 1;
    assert_eq!(arrives(&node), NO_FIRST, "another endpoint");
    let node = hold();
    node.relabel(Web);
    assert_eq!(arrives(&node), NO_FIRST, "another peer");
    let mut node = hold();
    let longest = idle(&node, Idle::UdpOneWay) / 8;
    pass(&mut node, longest);
    assert_eq!(arrives(&node), FLOW, "not too late");
    pass(&mut node, 1);
    assert_eq!(arrives(&node), NO_FIRST, "too late");
    // Another sender's piece does not join the datagram.
    let node = hold();
    for way in [Way::of(Cache), FROM_UPLINK] {
        let judged = node.receives(Db, &later, way);
        assert_eq!(judged, denied(Reason::ForeignLocalAddress), "{way:?}");
    }
}

#[test]
fn a_sender_of_unfinished_datagrams_displaces_its_own_alone() {
    let node = Node::under(&Policy::default());
    let piece = |from: Who, number, offset| {
        let packet = udp().from(from.end()).to(Db.end()).payload(&[7; 64]);
        packet.fragment(number, offset, true)
    };
    let arrives =
        |from, number, offset| node.receives(Db, &piece(from, number, offset), Way::of(from));
    assert_eq!(arrives(Cache, 7, 0), FREE);
    for number in 1000..1400 {
        let judged = arrives(Web, number, 0);
        assert!([FREE, FLOW].contains(&judged), "{number}");
    }
    assert_eq!(arrives(Cache, 7, 24), FLOW);
    let kept = (1000..1400).filter(|&number| arrives(Web, number, 24) == FLOW);
    // Two places of each of sixteen sets.
    assert!((24..=32).contains(&kept.count()));
}

#[test]
fn errors_about_a_live_flow_pass_and_no_others() {
    for family in Family::BOTH {
        let mut node = Node::under(&policy());
        let asked = question(family);
        let arrives = |node: &Node, error: &Packet<_>| node.receives(Web, error, FROM_UPLINK);
        let about = |asked: &Packet<Udp>| packet_too_big(asked, 1300).from(Outside.end());
        assert_eq!(arrives(&node, &about(&asked)), ISOLATED, "no flow yet");
        assert_eq!(node.passes(Web, Db, &asked), [RULE, RULE]);
        assert_eq!(arrives(&node, &about(&asked)), RELATED, "{family}");
        // About what web has not sent, from its view and from the other.
        for other in [
            asked.clone().sport(4001),
            asked.clone().dport(54),
            asked.clone().sport(53).dport(4000),
            asked.clone().to(Cache.end()),
            asked.clone().from(Cache.end()),
        ] {
            let error = about(&other).to(Web.end());
            assert_eq!(arrives(&node, &error), ISOLATED, "{other}");
        }
        let astray = about(&asked).to(Cache.end());
        let nobodys = denied(Reason::NotReceiversAddress);
        assert_eq!(arrives(&node, &astray), nobodys, "not to its sender");
        let replied = about(&asked.reply()).to(Web.end());
        assert_eq!(arrives(&node, &replied), ISOLATED, "not to its sender");
        // The receiver says it: about what it has received, at both hooks.
        let refused = destination_unreachable(&asked).from(Db.end());
        assert_eq!(node.passes(Db, Web, &refused), [RELATED, RELATED]);
        let never = destination_unreachable(&asked.clone().dport(54)).from(Db.end());
        assert_eq!(node.sends(Db, &never), ISOLATED);
        // In its name, from elsewhere.
        let forged = node.receives(Web, &refused, Way::of(Cache));
        assert_eq!(forged, denied(Reason::ForeignLocalAddress));
        node.publish(&Policy::closed());
        assert_eq!(arrives(&node, &about(&asked)), ISOLATED, "the rule is gone");
        node.publish(&policy());
        assert_eq!(
            arrives(&node, &about(&asked)),
            ISOLATED,
            "decided by none yet"
        );
    }
}

#[test]
fn an_error_about_an_idle_flow_is_none_of_its() {
    let mut node = Node::under(&policy());
    let asked = question(Family::V4);
    assert_eq!(node.passes(Web, Db, &asked), [RULE, RULE]);
    let longest = idle(&node, Idle::UdpOneWay);
    let error = packet_too_big(&asked, 1300).from(Outside.end());
    pass(&mut node, longest);
    assert_eq!(node.receives(Web, &error, FROM_UPLINK), RELATED);
    pass(&mut node, 1);
    assert_eq!(node.receives(Web, &error, FROM_UPLINK), ISOLATED);
}

#[test]
fn an_error_is_no_longer_than_its_standard_allows() {
    for (family, most) in [(Family::V4, 576), (Family::V6, 1280)] {
        let node = Node::under(&policy());
        let asked = question(family);
        assert_eq!(node.passes(Web, Db, &asked), [RULE, RULE]);
        let longer = asked.payload(&[0; 1500]);
        let error = packet_too_big(&longer, 1300).from(Outside.end());
        assert_eq!(error.bytes().len(), 14 + most, "{family}");
        assert_eq!(node.receives(Web, &error, FROM_UPLINK), RELATED);
        let error = error.trailer(&[0; 2]);
        let too_long = denied(Reason::SignallingSize);
        assert_eq!(node.receives(Web, &error, FROM_UPLINK), too_long);
    }
}
