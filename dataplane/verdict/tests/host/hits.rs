//! Rule hits: what is counted, once, and under which table.

use super::arriving::arrived;
use super::scene::{
    FLOW, FREE, FROM_UPLINK, ISOLATED, Node, Policy, RULE, Way,
    Who::{self, Db, Far, Outside, Service, Web},
    isolation, outcome,
    packet::{Family, Packet, Tcp, Udp, tcp, udp},
};
use cofferdam_verdict::{
    counter::Hook,
    endpoint::UNDECIDED,
    flow::Aside,
    hits::dropped_direction,
    judge::{Case, Context},
    packet::protocol::{TCP, UDP},
    pipeline::{Host, Steps as _},
    reason::Reason,
    slices::SliceFrame,
    verdict::{
        Action::Deny,
        Direction::{Egress, Ingress},
        Verdict, row_flag,
    },
};
use proptest::prelude::*;

/// Numbers of the rules of [`policy`], in their order.
const EGRESS: u32 = 1;
const INGRESS: u32 = 2;

/// Web asks the database, by TCP and UDP; nothing else is allowed.
fn policy() -> Policy {
    Policy::closed()
        .connects(Web, Db, None)
        .allows(Web, Egress, Far, Some((UDP, 53)))
        .allows(Far, Ingress, Web, Some((UDP, 53)))
}

fn question(from: Who, to: Who, family: Family) -> Packet<Udp> {
    let packet = udp().family(family).from(from.end()).to(to.end());
    packet.sport(4000).dport(53)
}

fn connection() -> Packet<Tcp> {
    let packet = tcp().from(Web.end()).to(Db.end());
    packet.sport(40_000).dport(5432)
}

#[test]
fn a_new_flow_counts_once_for_the_rules_of_both_ends() {
    for family in Family::BOTH {
        let node = Node::under(&policy());
        let packet = question(Web, Db, family);
        assert_eq!(node.sends(Web, &packet), RULE);
        assert_eq!(
            [EGRESS, INGRESS].map(|rule| node.hits(rule, 0)),
            [[0, 0]; 2]
        );
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
        assert_eq!(node.passes(Db, Web, &packet.reply()), [FLOW, FLOW]);
        assert_eq!(node.passes(Web, Db, &packet), [FLOW, FLOW]);
        assert_eq!(
            [EGRESS, INGRESS].map(|rule| node.hits(rule, 0)),
            [[1, 0]; 2]
        );
        assert_eq!(node.passes(Web, Db, &packet.sport(4001)), [RULE, RULE]);
        assert_eq!(
            [EGRESS, INGRESS].map(|rule| node.hits(rule, 0)),
            [[2, 0]; 2]
        );
    }
}

#[test]
fn a_flow_counts_under_the_table_that_began_it_alone() {
    let mut node = Node::under(&policy());
    let packet = question(Web, Db, Family::V4);
    assert_eq!(node.passes(Web, Db, &packet), [RULE, RULE]);
    node.publish(&policy());
    // Decided again, at both hooks.
    assert_eq!(node.passes(Web, Db, &packet), [RULE, RULE]);
    assert_eq!(
        [node.hits(INGRESS, 0), node.hits(INGRESS, 1)],
        [[0, 0], [1, 0]]
    );
    let next = packet.sport(4001);
    assert_eq!(node.passes(Web, Db, &next), [RULE, RULE]);
    assert_eq!(
        [node.hits(INGRESS, 0), node.hits(INGRESS, 1)],
        [[1, 0], [1, 0]]
    );
}

#[test]
fn every_denied_packet_counts_where_it_is_dropped() {
    let node = Node::under(&policy());
    let packet = question(Db, Web, Family::V4);
    for sent in 1..=3 {
        assert_eq!(node.sends(Db, &packet), ISOLATED);
        assert_eq!(node.hits(isolation(Db, Egress), 0), [sent, 0]);
    }
    let packet = question(Outside, Web, Family::V4);
    assert_eq!(node.receives(Web, &packet, FROM_UPLINK), ISOLATED);
    assert_eq!(node.hits(isolation(Web, Ingress), 0), [1, 0]);
    assert_eq!(node.hits(isolation(Db, Egress), 0), [3, 0]);

    let denies = Policy::default().denies(Web, Egress, Db, None);
    let node = Node::under(&denies);
    node.sends(Web, &question(Web, Db, Family::V4));
    assert_eq!(node.hits(1, 0), [1, 0]);
}

#[test]
fn another_nodes_workload_is_counted_there() {
    let node = Node::under(&policy());
    assert_eq!(node.sends(Web, &question(Web, Far, Family::V6)), RULE);
    let (egress, ingress) = (3, 4);
    assert_eq!(
        [node.hits(egress, 0), node.hits(ingress, 0)],
        [[1, 0], [0, 0]]
    );
}

#[test]
fn a_syn_sent_again_is_no_hit_and_the_next_connection_is() {
    let node = Node::under(&policy());
    let receive = |packet: &Packet<Tcp>| node.receives(Db, packet, Way::of(Web));
    let syn = connection().seq(1000).syn();
    for _ in 0..3 {
        assert_eq!(receive(&syn), RULE);
    }
    assert_eq!(node.hits(INGRESS, 0), [1, 0]);
    // Another attempt from the same port.
    assert_eq!(receive(&connection().seq(9000).syn()), RULE);
    assert_eq!(node.hits(INGRESS, 0), [2, 0]);
}

#[test]
fn what_audit_policies_would_deny_counts_beside() {
    let node = Node::under(&Policy::default().audits(Db, Ingress));
    let packet = question(Web, Db, Family::V4);
    assert_eq!(node.passes(Web, Db, &packet), [FREE, FREE]);
    assert_eq!(node.passes(Web, Db, &packet), [FLOW, FLOW]);
    assert_eq!(node.hits(isolation(Db, Ingress), 0), [0, 1]);
}

/// No packet passes on the answers of two tables, or is counted under another table than
/// that which decided.
#[test]
fn a_segment_is_not_adopted_by_two_tables() {
    let open = Policy::default().allows(Web, Egress, Db, Some((TCP, 5432)));
    let under = |tables: usize| {
        let mut node = Node::under(&open);
        for _ in 1..tables {
            node.publish(&open);
        }
        let until = node.jiffies.wrapping_add(1000);
        node.endpoints[Web as usize].adopt_until.store(until);
        node
    };
    let bytes = connection().seq(7).ack_number(8).ack().bytes();
    let frame = SliceFrame {
        bytes: &bytes,
        gso: false,
    };
    let context = Context {
        ifindex: Web.ifindex(),
        ingress_ifindex: Web.ifindex(),
        stamp: 0,
        has_socket: false,
        tagged: false,
    };
    for (tables, is_adopted) in [(1, true), (2, false)] {
        let nodes = [under(1), under(tables)];
        let partitions = nodes.each_ref().map(|node| {
            let partitions = node.partitions().iter();
            partitions.map(Vec::as_slice).collect::<Vec<_>>()
        });
        let memories = [0, 1].map(|place| nodes[place].flows(&partitions[place]));
        let [first, second] = memories.each_ref().map(|memory| Host {
            memory,
            frame: &frame,
            context: &context,
            hook: Hook::FromWorkload,
        });
        let mut case = Case::blank(Hook::FromWorkload, bytes.len() as u32);
        first.inspect(&mut case);
        first.track(&mut case);
        first.answer(&mut case);
        assert!(case.is_allowed());
        let aside = Aside::of(&case);
        assert!(first.adopt(&mut case));
        second.answer(&mut case);
        aside.restore(&mut case);
        assert_eq!(case.is_allowed(), is_adopted);
    }
}

/// A packet that a workload sends, receives, or that crosses the uplink.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    hook: Hook,
    near: Who,
    far: Who,
    family: Family,
    port: u16,
    is_tcp: bool,
    opens: bool,
}

pub(super) const LOCAL: [Who; 3] = [Web, Db, Who::Cache];
pub(super) const PEERS: [Who; 5] = [Db, Far, Outside, Service, Who::OtherNode];

pub(super) fn step() -> impl Strategy<Value = Sent> {
    let kind = (any::<[bool; 3]>(), 0..3usize, 0..5usize, 0..2u16, 0..4u32);
    kind.prop_map(|([v6, is_tcp, opens], near, far, port, hook)| Sent {
        hook: Hook::of_number(hook),
        near: LOCAL[near],
        far: PEERS[far],
        family: if v6 { Family::V6 } else { Family::V4 },
        port: 53 + port,
        is_tcp,
        opens,
    })
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let is_sent = matches!(self.hook, Hook::FromWorkload | Hook::UplinkEgress);
        let (from, to) = match is_sent {
            true => (self.near, self.far),
            false => (self.far, self.near),
        };
        if !self.is_tcp {
            let packet = udp().family(self.family).from(from.end()).to(to.end());
            return packet.sport(4000).dport(self.port).bytes();
        }
        let packet = tcp()
            .family(self.family)
            .from(from.end())
            .to(to.end())
            .sport(4000)
            .dport(self.port)
            .seq(7);
        if self.opens {
            packet.syn().bytes()
        } else {
            packet.ack_number(8).ack().bytes()
        }
    }

    /// The packet on its hook; `None` if it is not judged there.
    pub(super) fn judged(&self, node: &Node) -> Option<Case> {
        let bytes = self.bytes();
        match self.hook {
            Hook::FromWorkload => Some(node.sent(self.near, &bytes)),
            Hook::ToWorkload if LOCAL.contains(&self.far) => {
                Some(node.received(self.near, &bytes, Way::of(self.far)))
            }
            Hook::ToWorkload => Some(node.received(self.near, &bytes, FROM_UPLINK)),
            Hook::UplinkIngress => arrived(node, &bytes),
            Hook::UplinkEgress => {
                let context = Context {
                    ifindex: 77,
                    ingress_ifindex: self.near.ifindex(),
                    stamp: UNDECIDED | self.near.stamp(),
                    has_socket: false,
                    tagged: false,
                };
                Some(node.judge(&bytes, &context, self.hook))
            }
        }
    }
}

proptest! {
    /// Over all hooks, each denied packet is one of its rule's at the hook that dropped it,
    /// and its direction is the rule's.
    #[test]
    fn what_a_hook_drops_for_a_rule_is_counted_for_that_rule_and_hook(
        isolates in proptest::collection::vec((0..3usize, any::<bool>()), 0..5),
        rules in proptest::collection::vec((0..3usize, any::<bool>(), 0..5usize, any::<bool>()), 0..6),
        unreachable in proptest::option::of(any::<bool>()),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let direction = |is_ingress| if is_ingress { Ingress } else { Egress };
        let mut policy = Policy::default();
        for (who, is_ingress) in isolates {
            policy = policy.isolates(LOCAL[who], direction(is_ingress));
        }
        // By the numbers of rules.
        let mut directions = vec![Ingress];
        for (who, is_ingress, peer, allows) in rules {
            let (subject, peer, is_ingress) = (LOCAL[who], PEERS[peer], direction(is_ingress));
            directions.push(is_ingress);
            policy = match allows {
                true => policy.allows(subject, is_ingress, peer, None),
                false => policy.denies(subject, is_ingress, peer, Some((UDP, 53))),
            };
        }
        if let Some(by_backends) = unreachable {
            // A Service whose backends' ingress denies, or none of whose hooks would see it.
            let rule = isolation(Far, Ingress);
            let denial = match by_backends {
                true => Verdict { rule, ..Verdict::deny(Reason::Isolated) },
                false => Verdict::deny(Reason::VirtualUndecided),
            };
            let word = denial.to_word() | row_flag::SERVICE | row_flag::OF_INGRESS;
            policy = policy.serves(Web, Service, (UDP, 54), word);
        }
        let node = Node::under(&policy);
        let mut expected = std::collections::BTreeMap::<u32, [u64; 4]>::new();
        for step in steps {
            let Some(case) = step.judged(&node) else {
                continue;
            };
            let (action, reason) = outcome(&case);
            if action != Deny {
                continue;
            }
            let rule = Verdict::from_any_word(case.enforced).expect("a verdict").rule;
            let is_policys = matches!(reason, Reason::Rule | Reason::Isolated);
            prop_assert_eq!(rule != 0, is_policys, "{:?}: {:?}", step, reason);
            let said = match case.direction {
                0 => Ingress,
                _ => Egress,
            };
            let own = match step.hook {
                Hook::FromWorkload | Hook::UplinkEgress => Egress,
                Hook::ToWorkload | Hook::UplinkIngress => Ingress,
            };
            let of_rule = match directions.get(rule as usize) {
                _ if !is_policys => own,
                Some(of_rule) => *of_rule,
                None => [Ingress, Egress][rule as usize % 2],
            };
            prop_assert_eq!(dropped_direction(step.hook, reason, said), of_rule, "{:?}", step);
            if is_policys {
                expected.entry(rule).or_default()[step.hook as usize] += 1;
            }
        }
        for rule in 1..128 {
            let counted = expected.get(&rule).copied().unwrap_or_default();
            prop_assert_eq!(node.denied(rule), counted, "rule {}", rule);
        }
    }
}
