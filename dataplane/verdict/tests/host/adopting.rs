//! Connections from before their endpoints: which end opened them, by who listened.

use super::scene::{
    FLOW, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE,
    Who::{self, Cache, Db, Far, Web},
    denied,
    packet::{Family, Packet, Tcp, tcp},
};
use cofferdam_verdict::{
    endpoint::listener,
    reason::Reason,
    verdict::Direction::{Egress, Ingress},
};

const CLIENTS_PORT: u16 = 40_000;
const PORT: u16 = 5432;
/// Jiffies for which connections are adopted.
const WINDOW: u32 = 1000;

const BOTH: u32 = listener::V4 | listener::V6;

/// A node under a policy on which these took connections before.
fn node(policy: &Policy, listeners: &[(Who, u16, u32)]) -> Node {
    let mut node = Node::under(policy);
    let until = node.jiffies.wrapping_add(WINDOW);
    for who in [Web, Db, Cache] {
        node.endpoints[who as usize].adopt_until.store(until);
    }
    for &(who, port, families) in listeners {
        // Not the first of them.
        node.endpoints[who as usize].listeners[3] = u32::from(port) | families;
    }
    node
}

/// A segment between web, or another client, and the port of the database, or another
/// server.
fn segment(family: Family, from: Who, to: Who, ports: (u16, u16)) -> Packet<Tcp> {
    let packet = tcp()
        .family(family)
        .from(from.end())
        .to(to.end())
        .sport(ports.0)
        .dport(ports.1);
    packet.seq(5000).ack_number(5000).ack()
}

fn asks(node: &Node, family: Family) -> Vec<Outcome> {
    node.passes(Web, Db, &segment(family, Web, Db, (CLIENTS_PORT, PORT)))
}

fn answers(node: &Node, family: Family) -> Vec<Outcome> {
    node.passes(Db, Web, &segment(family, Db, Web, (PORT, CLIENTS_PORT)))
}

#[test]
fn an_isolated_client_goes_on_with_a_server_that_listened() {
    let policy = Policy::closed().connects(Web, Db, None);
    for family in Family::BOTH {
        let unknown = node(&policy, &[]);
        assert_eq!(asks(&unknown, family), [ISOLATED]);
        assert_eq!(answers(&unknown, family), [ISOLATED]);

        let mut node = node(&policy, &[(Db, PORT, BOTH)]);
        // Until the client is heard of there is no flow, and no hit.
        for _ in 0..2 {
            assert_eq!(answers(&node, family), [RULE, RULE]);
        }
        let (egress, ingress) = (1, 2);
        assert_eq!(node.hits(ingress, 0), [0, 0]);
        assert_eq!(asks(&node, family), [RULE, RULE]);
        assert_eq!(
            [egress, ingress].map(|rule| node.hits(rule, 0)),
            [[1, 0]; 2]
        );
        assert_eq!(answers(&node, family), [FLOW, FLOW]);
        assert_eq!(asks(&node, family), [FLOW, FLOW]);
        // It is the client's, under the next table too.
        node.publish(&policy);
        assert_eq!(answers(&node, family), [RULE, RULE]);
        assert_eq!(asks(&node, family), [FLOW, FLOW]);
        node.jiffies = node.jiffies.wrapping_add(WINDOW);
        assert_eq!(answers(&node, family), [FLOW, FLOW]);
        let other = segment(family, Db, Web, (PORT, CLIENTS_PORT + 1));
        assert_eq!(node.passes(Db, Web, &other), [ISOLATED]);
        let other = other.reply();
        assert_eq!(node.passes(Web, Db, &other), [denied(Reason::NoFlow)]);
    }
}

/// The connection that policy denies is that of its client, whoever sends first.
#[test]
fn a_server_does_not_keep_up_a_connection_that_policy_denies() {
    let policy = Policy::closed()
        .connects(Db, Web, None)
        .allows(Db, Egress, Far, None)
        .allows(Far, Ingress, Db, None);
    for family in Family::BOTH {
        for listeners in [&[][..], &[(Db, PORT, BOTH)]] {
            let node = node(&policy, listeners);
            for _ in 0..2 {
                assert_eq!(answers(&node, family), [ISOLATED], "{listeners:?}");
                assert_eq!(asks(&node, family), [ISOLATED], "{listeners:?}");
                let to_far = segment(family, Db, Far, (PORT, CLIENTS_PORT));
                assert_eq!(node.sends(Db, &to_far), ISOLATED, "{listeners:?}");
            }
        }
    }
}

/// A workload that listens at its own port does not become the answering end.
#[test]
fn a_local_servers_listener_counts_before_the_clients() {
    let policy = Policy::closed().connects(Db, Web, None);
    for family in Family::BOTH {
        let listeners = [(Db, PORT, BOTH), (Web, CLIENTS_PORT, BOTH)];
        let node = node(&policy, &listeners);
        // What begins at one hook goes no further than the other.
        for begun in [RULE, FLOW] {
            assert_eq!(asks(&node, family), [ISOLATED]);
            assert_eq!(answers(&node, family), [begun, ISOLATED]);
        }
    }
}

#[test]
fn a_listener_here_tells_who_opened_a_connection_with_elsewhere() {
    let policy = Policy::closed()
        .allows(Web, Ingress, Far, None)
        .allows(Cache, Egress, Far, None)
        .allows(Far, Ingress, Cache, None);
    for family in Family::BOTH {
        let node = node(&policy, &[(Web, PORT, BOTH), (Cache, PORT, BOTH)]);
        let question = segment(family, Far, Web, (CLIENTS_PORT, PORT));
        assert_eq!(node.sends(Web, &question.reply()), RULE);
        assert_eq!(node.receives(Web, &question, FROM_UPLINK), RULE);
        assert_eq!(node.sends(Web, &question.reply()), FLOW);
        // The cache is the client, and nothing lets the other end in.
        let to_far = segment(family, Cache, Far, (CLIENTS_PORT, PORT));
        assert_eq!(node.sends(Cache, &to_far), ISOLATED);
    }
}

#[test]
fn a_listener_counts_for_its_own_port_and_families() {
    let policy = Policy::closed().connects(Web, Db, None);
    let other = node(&policy, &[(Db, PORT + 1, BOTH), (Web, PORT, BOTH)]);
    assert_eq!(asks(&other, Family::V4), [ISOLATED]);
    let only_v4 = node(&policy, &[(Db, PORT, listener::V4)]);
    assert_eq!(asks(&only_v4, Family::V4), [RULE, RULE]);
    assert_eq!(asks(&only_v4, Family::V6), [ISOLATED]);
    let only_v6 = node(&policy, &[(Db, PORT, listener::V6)]);
    assert_eq!(asks(&only_v6, Family::V4), [ISOLATED]);
    assert_eq!(asks(&only_v6, Family::V6), [RULE, RULE]);
}
