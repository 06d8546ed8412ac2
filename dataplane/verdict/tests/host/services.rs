//! Packets to Services, before and after a proxy has chosen a backend.

use super::scene::{
    FLOW, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE, Way,
    Who::{self, Cache, Db, Far, Node as ThisNode, Outside, Service, Web},
    denied, outcome,
    packet::{Family, Packet, Tcp, Udp, tcp, udp},
};
use cofferdam_verdict::{
    endpoint::UNDECIDED,
    packet::protocol::{TCP, UDP},
    reason::Reason,
    verdict::{
        Action::{Allow, Deny},
        Direction::{Egress, Ingress},
        Verdict, row_flag,
    },
};

/// Passed on, to be judged where the address has become a backend's.
const PASSED_ON: Outcome = (Allow, Reason::VirtualUndecided);
const PORT: u16 = 80;
/// A rule that some test names.
const NUMBER: u32 = 7;

fn service_word(verdict: Verdict) -> u32 {
    verdict.to_word() | row_flag::SERVICE
}

fn undecided() -> u32 {
    service_word(Verdict::allow(Reason::VirtualUndecided))
}

fn allowed() -> u32 {
    service_word(Verdict {
        rule: NUMBER,
        ..Verdict::allow(Reason::Rule)
    })
}

/// Everything is closed, and a port leads to backends with this word for `Web`.
fn serving(at: Who, word: u32) -> Policy {
    let policy = Policy::closed().serves(Web, at, (UDP, PORT), word);
    policy.serves(Web, at, (TCP, PORT), word)
}

fn question(at: Who, family: Family) -> Packet<Udp> {
    let packet = udp().from(Web.end()).to(at.end()).family(family);
    packet.sport(4000).dport(PORT)
}

fn segment(at: Who, family: Family) -> Packet<Tcp> {
    let packet = tcp().from(Web.end()).to(at.end()).family(family);
    packet.sport(4000).dport(PORT)
}

/// Returns the verdict about a packet that `Web` sends, and the stamp it gets.
fn sent(node: &Node, bytes: &[u8]) -> (Outcome, u32) {
    let case = node.sent(Web, bytes);
    (outcome(&case), case.stamp)
}

/// An answer, translated back: it bears the Service's address and the backend's stamp.
fn answered(node: &Node, bytes: &[u8]) -> Outcome {
    outcome(&node.received(Web, bytes, Way::of(Db)))
}

/// The proxy may choose another backend for any packet of a flow.
#[test]
fn every_packet_of_an_undecided_flow_says_so() {
    for at in [Service, ThisNode] {
        for family in Family::BOTH {
            let node = Node::under(&serving(at, undecided()));
            let ask = question(at, family);
            let marked = Web.stamp() | UNDECIDED;
            assert_eq!(sent(&node, &ask.bytes()), (PASSED_ON, marked), "{at:?}");
            assert_eq!(answered(&node, &ask.reply().bytes()), FLOW);
            // The first makes it established, and the others go the short way.
            for _ in 0..4 {
                assert_eq!(sent(&node, &ask.bytes()), (FLOW, marked), "{at:?} {family}");
            }
        }
    }
}

#[test]
fn an_undecided_connection_is_established_by_its_answer_alone() {
    for family in Family::BOTH {
        let node = Node::under(&serving(Service, undecided()));
        let syn = segment(Service, family).seq(1000).syn();
        let marked = Web.stamp() | UNDECIDED;
        assert_eq!(sent(&node, &syn.bytes()), (PASSED_ON, marked));
        let answer = segment(Service, family).reply().seq(5000).ack_number(1001);
        assert_eq!(answered(&node, &answer.clone().syn().ack().bytes()), FLOW);
        let ack = segment(Service, family).seq(1001).ack_number(5001).ack();
        for _ in 0..3 {
            assert_eq!(sent(&node, &ack.bytes()), (FLOW, marked), "{family}");
        }
    }
}

/// The hook that sees the backend judges it, counts its rule, and knows the flow from then
/// on. Other packets of the flow need not be judged there.
#[test]
fn of_an_allowed_flow_the_first_packet_says_so() {
    for at in [Service, ThisNode] {
        let node = Node::under(&serving(at, allowed()));
        let ask = question(at, Family::V4);
        let marked = Web.stamp() | UNDECIDED;
        assert_eq!(sent(&node, &ask.bytes()), (RULE, marked), "{at:?}");
        assert_eq!(node.hits(NUMBER, 0), [0, 0], "the backend's hook counts");
        assert_eq!(answered(&node, &ask.reply().bytes()), FLOW);
        for _ in 0..3 {
            assert_eq!(sent(&node, &ask.bytes()), (FLOW, Web.stamp()), "{at:?}");
        }
    }
}

#[test]
fn a_flow_that_is_decided_again_is_marked_by_the_new_table() {
    let mut node = Node::under(&serving(Service, allowed()));
    let ask = question(Service, Family::V4);
    sent(&node, &ask.bytes());
    assert_eq!(answered(&node, &ask.reply().bytes()), FLOW);
    sent(&node, &ask.bytes());
    let marked = Web.stamp() | UNDECIDED;
    node.publish(&serving(Service, undecided()));
    // By the answer or by the question, whichever comes first.
    assert_eq!(answered(&node, &ask.reply().bytes()), PASSED_ON);
    for _ in 0..3 {
        assert_eq!(sent(&node, &ask.bytes()), (FLOW, marked));
    }
    node.publish(&serving(Service, allowed()));
    assert_eq!(sent(&node, &ask.bytes()), (RULE, marked));
    for _ in 0..3 {
        assert_eq!(sent(&node, &ask.bytes()), (FLOW, Web.stamp()));
    }
}

#[test]
fn backends_that_are_closed_deny_their_service_in_their_own_direction() {
    let isolated = Verdict {
        rule: NUMBER,
        ..Verdict::deny(Reason::Isolated)
    };
    for (flags, direction) in [(0, Egress), (row_flag::OF_INGRESS, Ingress)] {
        let node = Node::under(&serving(Service, service_word(isolated) | flags));
        let case = node.sent(Web, &question(Service, Family::V6).bytes());
        assert_eq!(outcome(&case), ISOLATED);
        assert_eq!(case.direction, direction as u32);
        assert_eq!(node.hits(NUMBER, 0), [1, 0], "it is dropped here");
    }
}

#[test]
fn a_flow_ends_when_nothing_would_judge_its_backend() {
    let mut node = Node::under(&serving(Service, undecided()));
    let ask = question(Service, Family::V4);
    sent(&node, &ask.bytes());
    assert_eq!(answered(&node, &ask.reply().bytes()), FLOW);
    let unseen = service_word(Verdict::deny(Reason::VirtualUndecided));
    node.publish(&serving(Service, unseen));
    assert_eq!(
        sent(&node, &ask.bytes()).0,
        denied(Reason::VirtualUndecided)
    );
    assert_eq!(answered(&node, &ask.reply().bytes()), ISOLATED);
}

#[test]
fn other_ports_of_a_service_are_judged_as_any_address() {
    for at in [Service, ThisNode] {
        let policy = serving(at, undecided()).allows(Web, Egress, at, Some((UDP, 81)));
        let node = Node::under(&policy);
        let ask = question(at, Family::V4).dport(81);
        assert_eq!(sent(&node, &ask.bytes()), (RULE, Web.stamp()), "{at:?}");
        assert_eq!(node.hits(1, 0), [1, 0], "nobody else would count it");
        let ask = question(at, Family::V4).dport(82);
        assert_eq!(sent(&node, &ask.bytes()).0, ISOLATED);
    }
}

/// A backend's hook knows the sender by its stamp, marked or not.
#[test]
fn a_marked_stamp_names_the_same_sender() {
    let way = |who: Who| Way {
        stamp: who.stamp() | UNDECIDED,
        ..Way::of(who)
    };
    for family in Family::BOTH {
        let node = Node::under(&Policy::closed().connects(Web, Db, Some((UDP, PORT))));
        let ask = question(Db, family);
        assert_eq!(node.receives(Db, &ask, way(Web)), RULE);
        assert_eq!(node.sends(Db, &ask.reply()), FLOW);
        for _ in 0..3 {
            assert_eq!(node.receives(Db, &ask, way(Web)), FLOW, "{family}");
        }
        let forged = node.receives(Db, &ask, way(Cache));
        assert_eq!(forged, denied(Reason::ForeignLocalAddress));
        // Behind the node's address the stamp alone tells.
        let masqueraded = udp()
            .from(ThisNode.end())
            .to(Db.end())
            .family(family)
            .sport(4001)
            .dport(PORT);
        assert_eq!(node.receives(Db, &masqueraded, way(Web)), RULE);
        let masqueraded = masqueraded.sport(4002);
        assert_eq!(node.receives(Db, &masqueraded, way(Cache)), ISOLATED);
    }
}

/// A proxy gives the sender an address that is neither its own nor the node's: its policy is
/// still the one that is asked.
#[test]
fn a_sender_behind_a_foreign_address_is_judged_by_its_marked_stamp() {
    let marked = |who: Who| Way {
        stamp: who.stamp() | UNDECIDED,
        ..Way::of(who)
    };
    for family in Family::BOTH {
        let node = Node::under(&Policy::closed().connects(Web, Db, Some((UDP, PORT))));
        let ask = udp()
            .from(Outside.end())
            .to(Db.end())
            .family(family)
            .sport(4000)
            .dport(PORT);
        assert_eq!(node.receives(Db, &ask, marked(Web)), RULE);
        assert_eq!(node.sends(Db, &ask.reply()), FLOW);
        for _ in 0..3 {
            assert_eq!(node.receives(Db, &ask, marked(Web)), FLOW, "{family}");
        }
        let ask = ask.sport(4001);
        assert_eq!(node.receives(Db, &ask, marked(Cache)), ISOLATED);
        let open = Policy::default().isolates(Cache, Egress);
        let node = Node::under(&open.allows(Db, Ingress, Outside, None));
        assert_eq!(node.receives(Db, &ask, marked(Cache)), ISOLATED);
        // Not marked, it has been judged where it was sent.
        assert_eq!(node.receives(Db, &ask, Way::of(Cache)), RULE);
    }
}

/// A Service can have a workload's address (`externalIPs`). The sender may reach the
/// workload; where a proxy sends the packet is judged behind it, each time.
#[test]
fn what_goes_to_an_address_that_a_service_shares_is_undecided() {
    for (at, way) in [(Db, Way::of(Db)), (Far, FROM_UPLINK)] {
        for family in Family::BOTH {
            let policy = Policy::closed().connects(Web, at, Some((UDP, PORT)));
            let node = Node::under(&policy.clone().shares(at));
            let ask = question(at, family);
            let marked = Web.stamp() | UNDECIDED;
            assert_eq!(sent(&node, &ask.bytes()), (RULE, marked), "{at:?}");
            assert_eq!(node.hits(1, 0), [0, 0], "the hook behind the proxy counts");
            let answer = node.received(Web, &ask.reply().bytes(), way);
            assert_eq!(outcome(&answer), FLOW);
            for _ in 0..4 {
                assert_eq!(sent(&node, &ask.bytes()), (FLOW, marked), "{at:?} {family}");
            }
            // A local backend answers by that address, too.
            let answer = node.received(Web, &ask.reply().bytes(), Way::of(Cache));
            assert_eq!(outcome(&answer), FLOW, "{at:?} {family}");
            let other = ask.dport(PORT + 1);
            assert_eq!(sent(&node, &other.bytes()), (ISOLATED, Web.stamp()));
            let node = Node::under(&policy);
            let ask = question(at, family);
            assert_eq!(sent(&node, &ask.bytes()), (RULE, Web.stamp()), "{at:?}");
            let forged = node.received(Web, &ask.reply().bytes(), Way::of(Cache));
            assert_eq!(outcome(&forged), denied(Reason::ForeignLocalAddress));
        }
    }
}

/// Its own connections and their answers go to its own address.
#[test]
fn what_a_workload_with_a_shared_address_opens_is_answered_without_a_mark() {
    let policy = Policy::closed().connects(Far, Web, Some((UDP, PORT)));
    let mut node = Node::under(&policy.clone().shares(Far));
    let ask = udp().from(Far.end()).to(Web.end()).sport(4000).dport(PORT);
    assert_eq!(node.receives(Web, &ask, FROM_UPLINK), RULE);
    for _ in 0..3 {
        assert_eq!(sent(&node, &ask.reply().bytes()), (FLOW, Web.stamp()));
    }
    node.publish(&policy.shares(Far));
    let answer = sent(&node, &ask.reply().bytes());
    assert_eq!(answer, (RULE, Web.stamp()), "decided again");
}

#[test]
fn what_is_not_allowed_bears_no_mark() {
    let isolated = service_word(Verdict::deny(Reason::Isolated));
    let node = Node::under(&serving(Service, isolated));
    let (verdict, stamp) = sent(&node, &question(Service, Family::V4).bytes());
    assert_eq!((verdict.0, stamp), (Deny, Web.stamp()));
}
