//! Packets that leave the node translated, on the way out of an uplink: who is judged, by
//! which policies, and what of them the flow table keeps.

use super::scene::{
    FLOW, FREE, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE, Way,
    Who::{self, Cache, Db, Far, Node as ThisNode, OtherNode, Outside, Web},
    denied, outcome,
    packet::{Body, End, Family, Packet, Tcp, tcp, udp},
};
use cofferdam_verdict::{
    counter::Hook,
    endpoint::{UNDECIDED, flags},
    flow::{FlowState, Size, StateWord, TRANSLATED},
    judge::Context,
    reason::Reason,
    uplink,
    verdict::Direction::{Egress, Ingress},
};

/// Interface that leads off the node.
const UPLINK: u32 = 77;

/// A packet on the way out of the uplink, with these 16 bits.
fn carries<S: Body>(node: &Node, packet: &Packet<S>, carried: u32) -> Outcome {
    assert!(uplink::is_undecided(carried));
    let context = Context {
        ifindex: UPLINK,
        ingress_ifindex: Web.ifindex(),
        stamp: carried,
        has_socket: false,
        tagged: false,
    };
    outcome(&node.judge(&packet.bytes(), &context, Hook::UplinkEgress))
}

/// The same of a packet that web has opened.
fn leaves<S: Body>(node: &Node, packet: &Packet<S>) -> Outcome {
    carries(node, packet, UNDECIDED | Web.stamp())
}

fn segment(family: Family, from: End, to: Who) -> Packet<Tcp> {
    let packet = tcp().family(family).from(from).to(to.end());
    packet.sport(40_000).dport(5432)
}

/// States of the flows in a workload's partition that are known as they leave.
fn states(node: &Node, who: Who) -> Vec<FlowState> {
    let entries = node.partitions()[who as usize]
        .iter()
        .flat_map(|set| &set.ways);
    entries
        .filter(|entry| entry.key[4].load() >> 32 & u64::from(TRANSLATED) != 0)
        .map(|entry| StateWord(entry.state.load()).state())
        .filter(|state| *state != FlowState::Free)
        .collect()
}

#[test]
fn the_stamps_endpoint_is_judged_whatever_address_of_the_node_stands_for_it() {
    let elsewhere = End::number(200);
    for family in Family::BOTH {
        for source in [Web.end(), ThisNode.end(), elsewhere] {
            for to in [Outside, Far, OtherNode] {
                let packet = segment(family, source, to).syn();
                let node = Node::under(&Policy::default());
                assert_eq!(leaves(&node, &packet), FREE);
                let closed = Policy::default().isolates(Web, Egress);
                assert_eq!(leaves(&Node::under(&closed), &packet), ISOLATED);
                let open = closed.allows(Web, Egress, to, Some((6, 5432)));
                assert_eq!(leaves(&Node::under(&open), &packet), RULE);
                let others = Policy::default().isolates(Db, Egress);
                assert_eq!(leaves(&Node::under(&others), &packet), FREE);
            }
        }
    }
}

#[test]
fn a_receiver_on_another_node_is_asked_too() {
    for family in Family::BOTH {
        for source in [Web.end(), ThisNode.end()] {
            let packet = segment(family, source, Far).syn();
            let shut = Policy::default().isolates(Far, Ingress);
            assert_eq!(leaves(&Node::under(&shut), &packet), ISOLATED);
            let open = shut.clone().allows(Far, Ingress, Web, None);
            assert_eq!(leaves(&Node::under(&open), &packet), FREE);
            let for_the_node = shut.allows(Far, Ingress, ThisNode, None);
            assert_eq!(leaves(&Node::under(&for_the_node), &packet), ISOLATED);
        }
    }
}

#[test]
fn a_mark_without_an_endpoint_or_with_anothers_address_is_dropped() {
    let node = Node::under(&Policy::default());
    for family in Family::BOTH {
        let packet = segment(family, Web.end(), Outside).syn();
        let unknown = denied(Reason::EndpointUnknown);
        assert_eq!(carries(&node, &packet, UNDECIDED), unknown);
        assert_eq!(carries(&node, &packet, UNDECIDED | 0x7fff), unknown);
        for source in [Db, Far, OtherNode] {
            let packet = segment(family, source.end(), Outside).syn();
            let foreign = denied(Reason::ForeignLocalAddress);
            assert_eq!(leaves(&node, &packet), foreign, "{source:?}");
        }
        node.endpoints[Web as usize].flags.put(flags::DENY_ALL);
        let closed = denied(Reason::EndpointDenyAll);
        assert_eq!(leaves(&node, &packet), closed);
        node.endpoints[Web as usize].flags.put(0);
    }
    assert!(states(&node, Web).is_empty());
}

#[test]
fn a_connection_is_asked_about_once_for_each_table() {
    let open =
        Policy::default()
            .isolates(Web, Egress)
            .allows(Web, Egress, Outside, Some((6, 5432)));
    for family in Family::BOTH {
        for source in [Web.end(), ThisNode.end()] {
            let mut node = Node::under(&open);
            let packet = || segment(family, source, Outside);
            assert_eq!(leaves(&node, &packet().syn()), RULE);
            assert_eq!(states(&node, Web), [FlowState::Embryonic]);
            assert_eq!(leaves(&node, &packet().ack()), FLOW);
            assert_eq!(states(&node, Web), [FlowState::Established]);
            assert_eq!(leaves(&node, &packet().ack()), FLOW);
            node.publish(&open);
            assert_eq!(leaves(&node, &packet().ack()), RULE);
            assert_eq!(leaves(&node, &packet().ack()), FLOW);
            node.publish(&Policy::default().isolates(Web, Egress));
            assert_eq!(leaves(&node, &packet().ack()), ISOLATED);
            assert!(states(&node, Web).is_empty());
        }
    }
}

#[test]
fn a_segment_in_the_middle_of_a_connection_begins_a_flow_here() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default().isolates(Web, Ingress));
        let packet = segment(family, Web.end(), Outside).ack();
        assert_eq!(leaves(&node, &packet), FREE);
        assert_eq!(leaves(&node, &packet), FLOW);
        let shut = Node::under(&Policy::default().isolates(Web, Egress));
        assert_eq!(leaves(&shut, &packet), ISOLATED);
    }
}

#[test]
fn the_opener_alone_ends_a_connection() {
    for ends in [Packet::<Tcp>::fin, Packet::<Tcp>::rst] {
        let node = Node::under(&Policy::default());
        let packet = || segment(Family::V4, ThisNode.end(), Outside);
        assert_eq!(leaves(&node, &packet().syn()), FREE);
        assert_eq!(leaves(&node, &packet().ack()), FLOW);
        assert_eq!(leaves(&node, &ends(packet().ack().seq(9))), FLOW);
        assert_eq!(states(&node, Web), [FlowState::Closing]);
    }
}

#[test]
fn a_flow_that_leaves_is_none_at_the_workloads_hooks() {
    let policy = Policy::default().isolates(Web, Ingress);
    for family in Family::BOTH {
        let node = Node::under(&policy);
        let there = udp()
            .family(family)
            .from(Web.end())
            .to(Outside.end())
            .sport(4000)
            .dport(53);
        assert_eq!(leaves(&node, &there), FREE);
        assert_eq!(states(&node, Web), [FlowState::Embryonic]);
        let back = udp()
            .family(family)
            .from(Outside.end())
            .to(Web.end())
            .sport(53)
            .dport(4000);
        let received = node.receives(Web, &back, FROM_UPLINK);
        assert_eq!(received, ISOLATED);
    }
}

/// A node whose web has one set of flows, with an established flow in each place: two that it
/// has opened, and two that the cache has.
fn full(policy: &Policy) -> Node {
    let node = Node::under(policy);
    node.endpoints[Web as usize].flow_size.put(Size::of(1).0);
    for port in [1, 2] {
        let packet = || tcp().from(Web.end()).to(Outside.end()).sport(port);
        assert_eq!(leaves(&node, &packet().syn()), FREE);
        assert_eq!(leaves(&node, &packet().ack()), FLOW);
        let asked = udp().from(Cache.end()).to(Web.end()).sport(port).dport(53);
        assert_eq!(node.receives(Web, &asked, Way::of(Cache)), RULE);
        assert_eq!(node.sends(Web, &asked.reply()), FLOW);
        assert_eq!(node.receives(Web, &asked, Way::of(Cache)), FLOW);
    }
    node
}

#[test]
fn without_room_a_packet_leaves_only_if_its_answer_would_pass() {
    let policy = Policy::default()
        .isolates(Web, Ingress)
        .connects(Cache, Web, Some((17, 53)));
    let segments = || {
        let packet = || segment(Family::V4, ThisNode.end(), Far);
        [packet().syn(), packet().ack()]
    };
    let shut = full(&policy);
    let open = full(&policy.allows(Web, Ingress, Far, Some((6, 40_000))));
    for packet in segments() {
        let untracked = (FREE.0, Reason::FlowTableFull);
        assert_eq!(leaves(&open, &packet), untracked);
        assert_eq!(leaves(&shut, &packet), denied(Reason::FlowTableFull));
    }
}
