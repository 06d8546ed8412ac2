//! Identity and policy: packets on the two hooks of a node whose whole memory is in the test's
//! hand.

use std::net::Ipv4Addr;

use super::scene::{
    FLOW, FREE, FROM_NODE_ITSELF, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE, Way,
    Who::{self, Cache, Db, Far, Node as ThisNode, OtherNode, Outside, Web},
    denied, outcome,
    packet::{Family, Packet, Tcp, Udp, arp_announcement, arp_request, tcp, udp},
};
use cofferdam_verdict::{
    counter::Hook,
    door,
    endpoint::flags,
    judge::{Case, Context},
    packet::protocol::{TCP, UDP},
    reason::Reason,
    slices::SliceFrame,
    verdict::{
        Action::Allow,
        Direction::{Egress, Ingress},
    },
};

const OWN_NODE: Outcome = (Allow, Reason::OwnNode);
const FOREIGN: Outcome = denied(Reason::ForeignLocalAddress);

fn syn(family: Family, from: Who, to: Who) -> Packet<Tcp> {
    let packet = tcp().family(family).from(from.end()).to(to.end());
    packet.dport(5432).syn()
}

/// From the node's address: what the node sends, and what a workload sends through
/// masquerade.
fn question(family: Family, from: Who) -> Packet<Udp> {
    let packet = udp().family(family).from(from.end()).to(Db.end());
    packet.sport(4000).dport(53)
}

#[test]
fn both_ends_are_asked_before_a_packet_leaves() {
    for family in Family::BOTH {
        for receiver in [Db, Far] {
            let packet = syn(family, Web, receiver);
            let node = Node::under(&Policy::default().isolates(receiver, Ingress));
            assert_eq!(node.sends(Web, &packet), ISOLATED, "{family} {receiver:?}");
            let node = Node::under(&Policy::default().isolates(Web, Egress));
            assert_eq!(node.sends(Web, &packet), ISOLATED, "{family} {receiver:?}");
            let node = Node::under(&Policy::default().isolates(receiver, Egress));
            assert_eq!(node.sends(Web, &packet), FREE, "{family} {receiver:?}");
        }
    }
}

#[test]
fn a_local_senders_egress_is_asked_where_its_packet_arrives() {
    for family in Family::BOTH {
        let packet = syn(family, Web, Db);
        let node = Node::under(&Policy::default().isolates(Web, Egress));
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), ISOLATED);
        let node = Node::under(&Policy::default().isolates(Web, Ingress));
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FREE);
    }
}

#[test]
fn a_local_address_counts_only_with_its_workloads_stamp() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        let packet = syn(family, Web, Db);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FREE);
        for stamp in [0, Db.stamp(), Cache.stamp(), 0x7777] {
            let way = Way {
                stamp,
                ..Way::of(Web)
            };
            assert_eq!(node.receives(Db, &packet, way), FOREIGN, "{stamp}");
        }
        // An endpoint without a stamp is nobody, not everybody without one.
        for binding in &node.bindings {
            binding.stamp.store(0);
        }
        let unstamped = Way {
            stamp: 0,
            ..Way::of(Web)
        };
        let packet = packet.sport(40_001);
        assert_eq!(node.receives(Db, &packet, unstamped), FOREIGN);
    }
}

#[test]
fn a_packet_leaves_with_its_endpoints_stamp_whatever_it_brought() {
    let node = Node::under(&Policy::default());
    let case = node.sent(Web, &syn(Family::V4, Web, Db).bytes());
    assert_eq!(case.stamp, Web.stamp());
}

/// Masquerade gives a workload's packets the node's address; the stamp stays.
#[test]
fn a_masqueraded_packet_is_judged_as_its_senders() {
    for family in Family::BOTH {
        let masqueraded = question(family, ThisNode);
        let arrives = |policy: &Policy, way| Node::under(policy).receives(Db, &masqueraded, way);
        let closed = Policy::closed();
        let port = Some((UDP, 53));
        // Half of the permission does not do, from either end.
        let egress = closed.clone().allows(Web, Egress, Db, port);
        let ingress = closed.clone().allows(Db, Ingress, Web, port);
        assert_eq!(arrives(&egress, Way::of(Web)), ISOLATED);
        assert_eq!(arrives(&ingress, Way::of(Web)), ISOLATED);
        let both = closed.clone().connects(Web, Db, port);
        assert_eq!(arrives(&both, Way::of(Web)), RULE);
        assert_eq!(arrives(&both, Way::of(Cache)), ISOLATED);
        // What the node may do is not lent with its address.
        let nodes = closed.allows(Db, Ingress, ThisNode, port);
        assert_eq!(arrives(&nodes, Way::of(Web)), ISOLATED);
        let as_if_of_node = Way {
            stamp: Web.stamp(),
            ..FROM_NODE_ITSELF
        };
        assert_eq!(arrives(&nodes, as_if_of_node), ISOLATED);
    }
}

#[test]
fn a_masqueraded_flow_is_neither_another_workloads_nor_the_nodes_own() {
    for family in Family::BOTH {
        let policy = Policy::closed().connects(Web, Db, Some((UDP, 53)));
        let node = Node::under(&policy);
        let packet = question(family, ThisNode);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FLOW);
        assert_eq!(node.sends(Db, &packet.reply()), FLOW);
        // The same port of the node, another sender.
        assert_eq!(node.receives(Db, &packet, Way::of(Cache)), ISOLATED);
        assert_eq!(node.receives(Db, &packet, FROM_UPLINK), ISOLATED);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FLOW);
        assert_eq!(node.receives(Db, &packet, FROM_NODE_ITSELF), OWN_NODE);
        // The port is the node's now.
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
    }
}

#[test]
fn a_masqueraded_flow_is_decided_again_as_its_senders() {
    for family in Family::BOTH {
        let policy = Policy::closed().connects(Web, Db, Some((UDP, 53)));
        let mut node = Node::under(&policy);
        let packet = question(family, ThisNode);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
        node.publish(&policy);
        assert_eq!(node.sends(Db, &packet.reply()), RULE, "{family}");
        assert_eq!(node.sends(Db, &packet.reply()), FLOW);
        node.publish(&Policy::closed());
        assert_eq!(node.sends(Db, &packet.reply()), ISOLATED);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), ISOLATED);
    }
}

#[test]
fn a_stamp_that_names_no_endpoint_denies_with_the_nodes_address() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        for stamp in [0x7777, Cache.stamp() + 1] {
            let way = Way {
                stamp,
                ..FROM_NODE_ITSELF
            };
            let packet = question(family, ThisNode);
            assert_eq!(node.receives(Db, &packet, way), FOREIGN);
        }
        // The index leads to the endpoint still, and the endpoint has another stamp.
        let mut node = node;
        node.endpoints[Web as usize].stamp += 100;
        let packet = question(family, ThisNode);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FOREIGN);
    }
}

/// A tunnel keeps the stamp of what it carries.
#[test]
fn an_address_of_elsewhere_with_a_stamp_was_wrapped_here() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        for sender in [Far, OtherNode] {
            let packet = question(family, sender);
            assert_eq!(node.receives(Db, &packet, FROM_UPLINK), FREE);
            let packet = packet.sport(4001);
            let stamped = Way {
                stamp: Web.stamp(),
                ..FROM_UPLINK
            };
            assert_eq!(node.receives(Db, &packet, stamped), FOREIGN, "{sender:?}");
        }
    }
}

#[test]
fn a_stamp_says_nothing_of_an_outside_address() {
    for family in Family::BOTH {
        let outside = Policy::closed().allows(Db, Ingress, Outside, Some((UDP, 53)));
        let packet = question(family, Outside);
        for stamp in [0, Web.stamp(), 0x7777] {
            let way = Way {
                stamp,
                ..FROM_UPLINK
            };
            let node = Node::under(&outside);
            assert_eq!(node.receives(Db, &packet, way), RULE, "{stamp}");
            assert_eq!(node.receives(Db, &packet, way), FLOW, "{stamp}");
        }
    }
}

/// Through a Service, with masquerade, and back.
#[test]
fn a_workloads_own_stamp_behind_the_nodes_address_is_the_workload_itself() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::closed());
        let packet = question(family, ThisNode);
        let itself = (Allow, Reason::SelfTraffic);
        assert_eq!(node.receives(Db, &packet, Way::of(Db)), itself);
        // The cluster's rules hold even for that.
        let node = Node::under(&Policy::closed().denies(Db, Ingress, Db, None));
        let denied = denied(Reason::Rule);
        assert_eq!(node.receives(Db, &packet, Way::of(Db)), denied);
    }
}

#[test]
fn the_node_itself_has_no_stamp_no_interface_and_a_socket() {
    let others = [
        Way {
            has_socket: false,
            ..FROM_NODE_ITSELF
        },
        Way {
            ingress_ifindex: 99,
            ..FROM_NODE_ITSELF
        },
        Way {
            stamp: Web.stamp(),
            ..FROM_NODE_ITSELF
        },
    ];
    for family in Family::BOTH {
        let packet = question(family, ThisNode);
        for other in others {
            let node = Node::under(&Policy::closed());
            assert_eq!(node.receives(Db, &packet, other), ISOLATED, "{other:?}");
            // Nor does the entry of the node's own connection count for such packets.
            assert_eq!(node.receives(Db, &packet, FROM_NODE_ITSELF), OWN_NODE);
            assert_eq!(node.receives(Db, &packet, other), ISOLATED, "{other:?}");
            assert_eq!(node.receives(Db, &packet, FROM_NODE_ITSELF), FLOW);
            assert_eq!(node.sends(Db, &packet.reply()), FLOW);
        }
        let mut node = Node::under(&Policy::closed());
        node.settings.own_node_allowed = 0;
        let judged = node.receives(Db, &packet, FROM_NODE_ITSELF);
        assert_eq!(judged, ISOLATED, "unless the node is configured so");
    }
}

/// A connection that the node has opened outlives tables that allow it nothing.
#[test]
fn the_nodes_own_flow_stays_its_own_from_table_to_table() {
    for family in Family::BOTH {
        let mut node = Node::under(&Policy::closed());
        let packet = question(family, ThisNode);
        assert_eq!(node.receives(Db, &packet, FROM_NODE_ITSELF), OWN_NODE);
        for _ in 0..3 {
            node.publish(&Policy::closed());
            assert_eq!(node.sends(Db, &packet.reply()), OWN_NODE, "{family}");
            assert_eq!(node.sends(Db, &packet.reply()), FLOW);
        }
        let other = packet.clone().sport(4001);
        assert_eq!(node.sends(Db, &other.reply()), ISOLATED);
    }
}

/// A flow that goes on by the node's own permission alone lets nothing pass that the node
/// forwards.
#[test]
fn a_flow_that_goes_on_by_the_nodes_permission_is_the_nodes_alone() {
    for family in Family::BOTH {
        let mut node = Node::under(&Policy::closed().allows(Db, Ingress, ThisNode, None));
        let packet = question(family, ThisNode);
        assert_eq!(node.receives(Db, &packet, FROM_UPLINK), RULE);
        node.publish(&Policy::closed());
        assert_eq!(node.receives(Db, &packet, FROM_NODE_ITSELF), OWN_NODE);
        assert_eq!(node.receives(Db, &packet, FROM_UPLINK), ISOLATED);
        assert_eq!(node.receives(Db, &packet, FROM_NODE_ITSELF), FLOW);
    }
}

#[test]
fn a_masqueraded_flow_does_not_pass_on_to_who_else_has_the_nodes_address() {
    for family in Family::BOTH {
        for other in [FROM_UPLINK, FROM_NODE_ITSELF] {
            let node = Node::under(&Policy::default());
            let packet = syn(family, ThisNode, Db);
            assert_eq!(node.receives(Db, &packet, Way::of(Web)), FREE);
            // Web's address leaves its slot.
            let binding = &node.bindings[Web.slot(family) as usize];
            binding.stamp.store(0);
            binding.epoch.add(1);
            let segment = tcp()
                .family(family)
                .from(ThisNode.end())
                .to(Db.end())
                .dport(5432)
                .ack();
            let judged = node.receives(Db, &segment, other);
            assert_eq!(judged, denied(Reason::NoFlow), "{other:?}");
        }
    }
}

#[test]
fn a_group_needs_the_senders_egress_to_group_and_receiver() {
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let packet = udp().from(Web.end()).to(group).dport(5353);
    let only = |peers: &[Who]| {
        let isolated = Policy::default().isolates(Web, Egress);
        let allow = |policy: Policy, &peer| policy.allows(Web, Egress, peer, None);
        peers.iter().fold(isolated, allow)
    };
    for (peers, expected) in [
        (&[][..], ISOLATED),
        (&[Outside], ISOLATED),
        (&[Db], ISOLATED),
        (&[Outside, Db], FREE),
    ] {
        let node = Node::under(&only(peers));
        let judged = node.receives(Db, &packet, Way::of(Web));
        assert_eq!(judged, expected, "{peers:?}");
    }
    let node = Node::under(&Policy::default().isolates(Db, Ingress));
    assert_eq!(node.receives(Db, &packet, Way::of(Web)), ISOLATED);
}

#[test]
fn a_single_address_that_is_not_the_receivers_reaches_nobody() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        let astray = denied(Reason::NotReceiversAddress);
        for (sender, way) in [
            (Web, Way::of(Web)),
            (Outside, FROM_UPLINK),
            (ThisNode, FROM_NODE_ITSELF),
        ] {
            let packet = syn(family, sender, Cache);
            assert_eq!(node.receives(Db, &packet, way), astray, "{sender:?}");
            // To everyone on the link it is for every receiver.
            let mut frame = packet.bytes();
            frame[..6].fill(0xff);
            assert_eq!(outcome(&node.received(Db, &frame, way)), FREE, "{sender:?}");
        }
    }
}

#[test]
fn what_a_workload_sends_to_itself_stays_off_the_wire() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        let packet = syn(family, Web, Web);
        assert_eq!(node.sends(Web, &packet), denied(Reason::SelfOnWire));
    }
    // From one of its addresses to another.
    let mut node = Node::under(&Policy::default());
    let second = Outside.end().ipv4.expect("both");
    let record = &mut node.endpoints[Web as usize];
    record.v4[1] = second.to_bits();
    record.v4_slots[1] = 15;
    let packet = syn(Family::V4, Web, Web).destination_ip(second);
    assert_eq!(node.sends(Web, &packet), denied(Reason::SelfOnWire));
}

#[test]
fn a_workload_sends_from_its_own_addresses_and_mac_alone() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default());
        for other in [Db, Far, ThisNode, Outside] {
            let packet = syn(family, Web, Cache).source_ip(other.end().ip(family).expect("both"));
            let spoofed = denied(Reason::SpoofedSource);
            assert_eq!(node.sends(Web, &packet), spoofed, "{other:?}");
            let packet = syn(family, Web, Cache).source_mac(other.end().mac);
            assert_eq!(node.sends(Web, &packet), denied(Reason::SpoofedMac));
        }
        assert_eq!(node.sends(Web, &syn(family, Web, Cache)), FREE);
    }
}

#[test]
fn nothing_passes_an_endpoint_that_is_not_in_force() {
    let node = Node::under(&Policy::default());
    let closed = denied(Reason::EndpointDenyAll);
    // Beside others' filters, too.
    for flags in [flags::DENY_ALL, flags::DENY_ALL | flags::SHARED_HOOKS] {
        node.endpoints[Db as usize].flags.store(flags);
        assert_eq!(node.sends(Db, &arp_announcement().from(Db.end())), closed);
        for family in Family::BOTH {
            assert_eq!(node.sends(Db, &syn(family, Db, Web)), closed);
            let arrives = syn(family, Web, Db);
            assert_eq!(node.receives(Db, &arrives, Way::of(Web)), closed);
        }
    }
}

#[test]
fn an_interface_is_known_by_its_full_index() {
    let mut node = Node::under(&Policy::default());
    node.endpoints[Web as usize].ifindex += 1 << 16;
    let packet = syn(Family::V4, Web, Db);
    assert_eq!(node.sends(Web, &packet), denied(Reason::EndpointUnknown));
}

#[test]
fn the_first_denial_in_order_says_whose_policy_it_was() {
    let both = Policy::default()
        .isolates(Web, Egress)
        .isolates(Db, Ingress);
    let direction = |policy: &Policy| {
        let case = Node::under(policy).sent(Web, &syn(Family::V4, Web, Db).bytes());
        case.direction
    };
    assert_eq!(direction(&both), Egress as u32);
    let ingress = Policy::default().isolates(Db, Ingress);
    assert_eq!(direction(&ingress), Ingress as u32);
}

/// Audit policies are asked where the packet is judged for both ends: at the receiver's
/// hook if that is local, else at the sender's.
#[test]
fn audit_is_said_once_and_at_the_right_hook() {
    let is_said = |node: &Node, to: Who| {
        let packet = syn(Family::V4, Web, to);
        let sent = node.sent(Web, &packet.bytes()).is_audited();
        let received = (to == Db).then(|| {
            let arrived = node.received(Db, &packet.bytes(), Way::of(Web));
            assert_eq!(outcome(&arrived), FREE);
            arrived.is_audited()
        });
        (sent, received)
    };
    for (subject, direction) in [(Web, Egress), (Db, Ingress)] {
        let node = Node::under(&Policy::default().audits(subject, direction));
        assert_eq!(is_said(&node, Db), (false, Some(true)), "{subject:?}");
    }
    let node = Node::under(&Policy::default().audits(Web, Egress));
    assert_eq!(is_said(&node, Far), (true, None));
    assert_eq!(is_said(&node, Outside), (true, None));
    let node = Node::under(&Policy::default().audits(Far, Ingress));
    assert_eq!(is_said(&node, Far), (false, None), "that node says it");
    let node = Node::under(&Policy::default());
    assert_eq!(is_said(&node, Db), (false, Some(false)));
}

/// A sender's egress to a group is said at its own hook, not once for each receiver.
#[test]
fn audit_of_a_group_is_said_at_the_senders_hook() {
    let packet = udp()
        .from(Web.end())
        .to(Ipv4Addr::new(224, 0, 0, 251))
        .dport(5353)
        .bytes();
    let policy = Policy::default().audits(Web, Egress);
    let to_receiver = policy.clone().allows(Web, Egress, Outside, None);
    let to_group = policy.allows(Web, Egress, Db, None);
    for (policy, sent, received) in [(to_group, true, false), (to_receiver, false, true)] {
        let node = Node::under(&policy);
        assert_eq!(node.sent(Web, &packet).is_audited(), sent);
        let arrived = node.received(Db, &packet, Way::of(Web));
        assert_eq!((outcome(&arrived), arrived.is_audited()), (FREE, received));
    }
}

/// The kernel may hold a tag beside the frame.
#[test]
fn a_tag_denies_wherever_it_stands() {
    let node = Node::under(&Policy::default());
    let packet = syn(Family::V4, Web, Db);
    let tagged = denied(Reason::VlanTag);
    assert_eq!(node.sends(Web, &packet.clone().vlan(0)), tagged);
    let context = Context {
        ifindex: Web.ifindex(),
        tagged: true,
        ..Context::default()
    };
    let case = node.judge(&packet.bytes(), &context, Hook::FromWorkload);
    assert_eq!(outcome(&case), tagged);
}

/// A denial in force needs no word of the policies on trial.
#[test]
fn what_is_denied_is_not_audited() {
    let policy = Policy::default().audits(Web, Egress).isolates(Db, Ingress);
    let node = Node::under(&policy);
    let packet = syn(Family::V4, Web, Db).bytes();
    let arrived = node.received(Db, &packet, Way::of(Web));
    assert_eq!(outcome(&arrived), ISOLATED);
    assert!(!arrived.is_audited());
}

#[test]
fn a_rule_names_one_protocol_and_port() {
    for family in Family::BOTH {
        let policy = Policy::closed().connects(Web, Db, Some((TCP, 5432)));
        let node = Node::under(&policy);
        let packet = syn(family, Web, Db);
        assert_eq!(node.passes(Web, Db, &packet), [RULE, RULE]);
        for port in [0, 5431, 5433, 65_535] {
            assert_eq!(node.sends(Web, &packet.clone().dport(port)), ISOLATED);
        }
        let datagram = udp().family(family).from(Web.end()).to(Db.end());
        assert_eq!(node.sends(Web, &datagram.dport(5432)), ISOLATED);
    }
}

/// From a port that is not managed, or from the network.
#[test]
fn a_local_address_does_not_enter_by_a_door_of_the_node() {
    let node = Node::under(&Policy::default());
    let is_refused = |bytes: &[u8]| {
        let mut case = Case::blank(Hook::ToWorkload, bytes.len() as u32);
        let frame = SliceFrame { bytes, gso: false };
        let refused = door::refuses(&node.memory(), &frame, &mut case);
        assert!(!refused || outcome(&case) == FOREIGN);
        refused
    };
    for family in Family::BOTH {
        for (sender, expected) in [
            (Web, true),
            (Cache, true),
            (Far, false),
            (ThisNode, false),
            (Outside, false),
        ] {
            let packet = syn(family, sender, Db);
            assert_eq!(is_refused(&packet.bytes()), expected, "{family} {sender:?}");
            // A host takes up to two tags of VLAN 0 off; other VLANs have other doors.
            for (tags, vlan, expected) in [(1, 0, expected), (2, 0, expected), (1, 5, false)] {
                let mut bytes = packet.bytes();
                for _ in 0..tags {
                    bytes.splice(12..12, [0x81, 0x00, 0x20, vlan]);
                }
                assert_eq!(is_refused(&bytes), expected, "{tags} tags of VLAN {vlan}");
            }
        }
    }
    let asks = |from: Who, to: Who| arp_request().from(from.end()).to(to.end());
    assert!(is_refused(&asks(Web, Outside).bytes()));
    assert!(!is_refused(&asks(Outside, Web).bytes()));
}
