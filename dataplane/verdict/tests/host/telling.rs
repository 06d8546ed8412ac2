//! Flows that begin: which hook tells of them, once.

use super::hits::{LOCAL, PEERS, step};
use super::scene::{
    FROM_NODE_ITSELF, FROM_UPLINK, Node, Policy, Way,
    Who::{self, Db, Far, Node as ThisNode, Outside, Web},
    packet::{Family, tcp, udp},
};
use cofferdam_verdict::{
    flow::{FlowState, StateWord},
    verdict::Direction::{Egress, Ingress},
};
use proptest::prelude::*;

/// Flows in the table that a hook has told of.
fn told_of(node: &Node) -> usize {
    let entries = node.partitions().iter().flatten().flat_map(|set| &set.ways);
    let live = entries.filter(|entry| StateWord(entry.state.load()).state() != FlowState::Free);
    live.filter(|entry| entry.is_told_of()).count()
}

#[test]
fn the_last_hook_of_the_node_tells_of_a_flow() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        let to = |from: Who, to: Who| {
            let packet = udp().family(family).from(from.end()).to(to.end());
            packet.sport(4000).dport(53).bytes()
        };
        let local = to(Web, Db);
        assert!(!node.sent(Web, &local).has_begun());
        assert_eq!(told_of(&node), 0);
        assert!(node.received(Db, &local, Way::of(Web)).has_begun());
        for other in [Far, Outside, ThisNode] {
            let packet = to(Web, other);
            assert!(node.sent(Web, &packet).has_begun(), "{other:?}");
            assert!(!node.sent(Web, &packet).has_begun(), "it goes on");
        }
        assert!(node.received(Db, &to(Outside, Db), FROM_UPLINK).has_begun());
        let by_node = node.received(Db, &to(ThisNode, Db), FROM_NODE_ITSELF);
        assert!(by_node.has_begun());
        assert_eq!(told_of(&node), 6);
    }
}

#[test]
fn what_opens_nothing_begins_nothing() {
    let node = Node::under(&Policy::default().isolates(Db, Ingress));
    let segment = || {
        tcp()
            .from(Outside.end())
            .to(Web.end())
            .sport(4000)
            .dport(80)
    };
    let receive = |bytes: &[u8]| node.received(Web, bytes, FROM_UPLINK);
    assert!(!receive(&segment().ack().bytes()).has_begun());
    let syn = segment().seq(1000).syn().bytes();
    assert!(receive(&syn).has_begun());
    assert!(!receive(&syn).has_begun(), "it was sent again");
    assert!(receive(&segment().seq(9000).syn().bytes()).has_begun());
    let denied = tcp().from(Outside.end()).to(Db.end()).syn().bytes();
    assert!(!node.received(Db, &denied, FROM_UPLINK).has_begun());
}

proptest! {
    /// Whatever passes which hooks: of each flow in the table that is a hook's to tell of, one
    /// packet has begun it.
    #[test]
    fn each_flow_that_is_told_of_has_begun_once(
        rules in proptest::collection::vec((0..3usize, any::<bool>(), 0..5usize, any::<bool>()), 0..6),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut policy = Policy::default();
        for (who, is_ingress, peer, allows) in rules {
            let direction = if is_ingress { Ingress } else { Egress };
            policy = match allows {
                true => policy.allows(LOCAL[who], direction, PEERS[peer], None),
                false => policy.denies(LOCAL[who], direction, PEERS[peer], None),
            };
        }
        let node = Node::under(&policy);
        let begun = steps.iter().filter(|step| {
            step.judged(&node).is_some_and(|case| case.has_begun())
        });
        prop_assert_eq!(begun.count(), told_of(&node));
    }
}
