//! For a time policy denies an endpoint nothing, and then it does again.

use super::scene::{
    FREE, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE, Way,
    Who::{self, Cache, Db, Outside, Web},
    denied,
    packet::{Family, Packet, Tcp, Udp, tcp, udp},
};
use cofferdam_verdict::{
    bypass::{ANY_SLOT, MAX_JIFFIES},
    reason::Reason,
    verdict::{
        Action::Allow,
        Direction::{Egress, Ingress},
    },
};

const BYPASSED: Outcome = (Allow, Reason::Bypassed);
/// Jiffies for which policy is bypassed.
const TIME: u32 = 1000;

fn bypass(node: &Node, who: Who, until: u32) {
    let any = &node.bindings[ANY_SLOT as usize];
    any.bypassed_until.store(1);
    for family in Family::BOTH {
        let binding = &node.bindings[who.slot(family) as usize];
        binding.bypassed_until.store(until);
    }
}

/// A node under a policy that denies one workload nothing for a time.
fn node(policy: &Policy, who: Who) -> Node {
    let node = Node::under(policy);
    bypass(&node, who, node.jiffies.wrapping_add(TIME));
    node
}

fn question(family: Family, from: Who, to: Who) -> Packet<Udp> {
    let packet = udp().family(family).from(from.end()).to(to.end());
    packet.sport(4000).dport(53)
}

fn answer(family: Family, from: Who, to: Who) -> Packet<Udp> {
    let packet = udp().family(family).from(from.end()).to(to.end());
    packet.sport(53).dport(4000)
}

fn syn(family: Family, from: Who, to: Who) -> Packet<Tcp> {
    let packet = tcp().family(family).from(from.end()).to(to.end());
    packet.sport(4000).dport(5432).syn()
}

#[test]
fn both_directions_of_an_endpoint_are_open() {
    let policy = Policy::default()
        .isolates(Web, Ingress)
        .isolates(Web, Egress);
    for family in Family::BOTH {
        let node = node(&policy, Web);
        let sent = node.passes(Web, Db, &syn(family, Web, Db));
        assert_eq!(sent, [BYPASSED, FREE]);
        let received = node.passes(Cache, Web, &syn(family, Cache, Web));
        // The sender's own direction says nothing against it.
        assert_eq!(received, [FREE, BYPASSED]);
        let from_outside = question(family, Outside, Web);
        assert_eq!(node.receives(Web, &from_outside, FROM_UPLINK), BYPASSED);
        let to_outside = question(family, Web, Outside);
        assert_eq!(node.sends(Web, &to_outside), BYPASSED);
    }
}

#[test]
fn the_policy_of_the_other_end_counts() {
    for family in Family::BOTH {
        let node = node(&Policy::closed(), Web);
        assert_eq!(node.sends(Web, &syn(family, Web, Db)), ISOLATED);
        assert_eq!(node.sends(Db, &syn(family, Db, Web)), ISOLATED);
        let packet = syn(family, Web, Db);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), ISOLATED);
        // With its consent: at both hooks.
        let open = Policy::closed().allows(Db, Ingress, Web, None);
        let node = self::node(&open, Web);
        assert_eq!(
            node.passes(Web, Db, &syn(family, Web, Db)),
            [BYPASSED, RULE]
        );
        let open = Policy::closed().allows(Db, Egress, Web, None);
        let node = self::node(&open, Web);
        let passes = node.passes(Db, Web, &syn(family, Db, Web));
        assert_eq!(passes, [RULE, BYPASSED]);
    }
}

/// An answer comes back to a workload that nobody may open anything to, by the entry of the
/// question.
#[test]
fn answers_pass_as_those_of_allowed_flows() {
    let policy = Policy::closed().allows(Db, Ingress, Web, None);
    for family in Family::BOTH {
        let mut node = node(&policy, Web);
        let asks = |node: &Node| node.passes(Web, Db, &question(family, Web, Db));
        let answers = |node: &Node| node.passes(Db, Web, &answer(family, Db, Web));
        assert_eq!(answers(&node), [ISOLATED]);
        for _ in 0..3 {
            assert_eq!(asks(&node)[0], BYPASSED);
            let answered = answers(&node);
            // Decided again, each of them, in the direction of the question.
            assert_eq!(answered, [RULE, BYPASSED]);
        }
        // Also under another table.
        node.publish(&policy);
        assert_eq!(answers(&node).len(), 2);
        // And no longer than it may.
        node.jiffies = node.jiffies.wrapping_add(TIME);
        assert_eq!(answers(&node), [ISOLATED]);
        assert_eq!(asks(&node), [ISOLATED]);
    }
}

/// The time ends at both ends of the clock, and a time on it does not come round for good.
#[test]
fn the_time_ends_without_an_agent() {
    let policy = Policy::closed();
    let sent = |node: &Node| node.sends(Web, &question(Family::V4, Web, Outside));
    let mut node = node(&policy, Web);
    let start = node.jiffies;
    for (passed, expected) in [
        (0, BYPASSED),
        (TIME - 1, BYPASSED),
        (TIME, ISOLATED),
        (TIME + 1, ISOLATED),
        (u32::MAX / 2, ISOLATED),
        (TIME.wrapping_sub(MAX_JIFFIES + 1), ISOLATED),
    ] {
        node.jiffies = start.wrapping_add(passed);
        assert_eq!(sent(&node), expected, "after {passed}");
    }
    node.jiffies = start;
    bypass(&node, Web, 0);
    assert_eq!(sent(&node), ISOLATED);
    bypass(&node, Web, start.wrapping_add(MAX_JIFFIES + 1));
    assert_eq!(sent(&node), ISOLATED);
}

#[test]
fn only_what_policy_denies_is_let_pass() {
    for family in Family::BOTH {
        let node = node(&Policy::closed(), Web);
        let forged = question(family, Cache, Outside);
        let mac = forged.clone().source_mac(Web.end().mac);
        assert_eq!(node.sends(Web, &mac), denied(Reason::SpoofedSource));
        // Another workload's own directions stay as they are.
        assert_eq!(node.sends(Db, &question(family, Db, Outside)), ISOLATED);
    }
}

/// A denial that is not enforced is said, once on the node.
#[test]
fn the_last_hook_says_what_policy_would_have_denied() {
    let policy = Policy::default()
        .isolates(Web, Ingress)
        .isolates(Web, Egress);
    let node = node(&policy, Web);
    let packet = question(Family::V4, Web, Db).bytes();
    let sent = node.sent(Web, &packet);
    assert!(sent.is_allowed() && !sent.is_audited());
    let received = node.received(Db, &packet, Way::of(Web));
    // There policy allows by itself: the entry is the receiver's.
    assert!(received.is_allowed());
    let outside = node.sent(Web, &question(Family::V4, Web, Outside).bytes());
    assert!(outside.is_audited());
    let arrived = question(Family::V4, Outside, Web).bytes();
    assert!(node.received(Web, &arrived, FROM_UPLINK).is_audited());
}
