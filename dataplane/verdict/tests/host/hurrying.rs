//! The short way of plain packets of established flows: which packets take it, and what sends
//! a packet the long way. [`Node::judge_frame`] holds every packet's verdict and the flow
//! table that it leaves against those of the long way.

use super::{
    following::{connect, idle, pass, policy, question, request, segment},
    scene::{
        FLOW, FROM_NODE_ITSELF, FROM_UPLINK, Node, Policy, RULE, Way,
        Who::{self, Cache, Db, Node as ThisNode, Web},
        outcome,
        packet::{Body, Family, Packet, udp},
    },
};
use cofferdam_verdict::{
    checksum::PartialChecksum,
    counter::Hook,
    endpoint::flags,
    flow::{FlowState, Idle, Size, StateWord},
    judge::Context,
    packet::{Frame, protocol::UDP},
    slices::SliceFrame,
};

/// A frame of which the kernel says more than its bytes.
struct Special<'a> {
    frame: SliceFrame<'a>,
    left: Option<PartialChecksum>,
}

impl Frame for Special<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.frame.read(offset)
    }

    fn byte(&self, offset: u32) -> Option<u32> {
        self.frame.byte(offset)
    }

    fn length(&self) -> u32 {
        self.frame.length()
    }

    fn is_gso(&self) -> bool {
        self.frame.is_gso()
    }

    fn partial_checksum(&self) -> Option<PartialChecksum> {
        self.left
    }
}

/// Context of a packet to the database.
fn to_db(way: Way) -> Context {
    Context {
        ifindex: Db.ifindex(),
        ingress_ifindex: way.ingress_ifindex,
        stamp: way.stamp,
        has_socket: way.has_socket,
        tagged: false,
    }
}

/// Context of a packet from the database.
fn from_db() -> Context {
    Context {
        stamp: Cache.stamp(),
        ..to_db(Way::of(Db))
    }
}

fn hurries(node: &Node, bytes: &[u8], context: &Context, hook: Hook) -> bool {
    let frame = SliceFrame { bytes, gso: false };
    node.judge_frame(&frame, context, hook).hurried
}

/// Returns `true` if a packet from web takes the short way to the database.
fn arrives_soon<S: Body>(node: &Node, packet: &Packet<S>) -> bool {
    hurries(
        node,
        &packet.bytes(),
        &to_db(Way::of(Web)),
        Hook::ToWorkload,
    )
}

/// Returns `true` if a packet of the database takes the short way.
fn leaves_soon<S: Body>(node: &Node, packet: &Packet<S>) -> bool {
    hurries(node, &packet.bytes(), &from_db(), Hook::FromWorkload)
}

/// Web and the database, after an exchange of datagrams, and packets each way that were
/// judged the long way.
fn exchanged(family: Family) -> Node {
    let node = Node::under(&policy());
    let packet = question(family);
    assert_eq!(node.receives(Db, &packet, Way::of(Web)), RULE);
    assert_eq!(node.sends(Db, &packet.reply()), FLOW);
    assert_eq!(node.receives(Db, &packet, Way::of(Web)), FLOW);
    for _ in 0..2 {
        assert_eq!(node.sends(Db, &packet.reply()), FLOW);
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), FLOW);
    }
    node
}

/// A connection over which both ends have sent.
fn connected() -> Node {
    let node = Node::under(&policy());
    connect(&node);
    for _ in 0..2 {
        let data = request().seq(1001).ack_number(5001).ack();
        assert_eq!(node.receives(Db, &data, Way::of(Web)), FLOW);
        let answer = segment().seq(5001).ack_number(1001).ack();
        assert_eq!(node.sends(Db, &answer), FLOW);
    }
    node
}

#[test]
fn plain_packets_of_an_established_flow_take_the_short_way() {
    for family in Family::BOTH {
        let node = exchanged(family);
        assert!(arrives_soon(&node, &question(family)), "{family:?}");
        assert!(leaves_soon(&node, &question(family).reply()), "{family:?}");
    }
    let node = connected();
    assert!(arrives_soon(
        &node,
        &request().seq(1001).ack_number(5001).ack()
    ));
    assert!(leaves_soon(
        &node,
        &segment().seq(5001).ack_number(1001).ack()
    ));
}

#[test]
fn a_flow_that_is_not_established_takes_the_long_way() {
    for family in Family::BOTH {
        let node = Node::under(&policy());
        let packet = question(family);
        assert!(!arrives_soon(&node, &packet), "no flow");
        assert!(!arrives_soon(&node, &packet), "not answered");
        assert!(!leaves_soon(&node, &packet.reply()), "the answer");
        assert!(!leaves_soon(&node, &packet.reply()), "answered");
        assert!(
            !arrives_soon(&node, &packet),
            "the opener has seen the answer"
        );
        assert!(arrives_soon(&node, &packet));
        assert!(leaves_soon(&node, &packet.reply()), "checked with it");
    }
}

#[test]
fn segments_that_may_end_or_begin_a_connection_take_the_long_way() {
    for packet in [request().syn(), request().fin(), request().rst()] {
        let node = connected();
        let packet = packet.seq(1001).ack_number(5001).ack();
        assert!(!arrives_soon(&node, &packet), "{packet}");
    }
}

#[test]
fn whatever_is_not_plain_takes_the_long_way() {
    let packet = question(Family::V4);
    let bytes = packet.bytes();
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        bytes
    };
    let frames = [
        (packet.clone().ip_options(&[1, 1, 1, 1]).bytes(), "options"),
        (
            packet.clone().fragment(7, 0, true).bytes(),
            "a first fragment",
        ),
        (
            packet.clone().fragment(7, 64, false).bytes(),
            "a later fragment",
        ),
        (packet.clone().vlan(5).bytes(), "a tag"),
        (changed(14, 0x46), "a longer header"),
        (changed(17, 10), "shorter than its header"),
        (changed(16, 9), "longer than its frame"),
        (changed(38, 9), "a datagram longer than its packet"),
        (changed(39, 7), "a datagram shorter than its header"),
        (changed(23, 132), "another protocol"),
        (bytes[..40].to_vec(), "cut"),
    ];
    let node = exchanged(Family::V4);
    assert!(hurries(
        &node,
        &bytes,
        &to_db(Way::of(Web)),
        Hook::ToWorkload
    ));
    for (frame, about) in frames {
        let way = to_db(Way::of(Web));
        assert!(!hurries(&node, &frame, &way, Hook::ToWorkload), "{about}");
    }
    let tagged = Context {
        tagged: true,
        ..to_db(Way::of(Web))
    };
    assert!(!hurries(&node, &bytes, &tagged, Hook::ToWorkload));
    let node = exchanged(Family::V6);
    let packet = question(Family::V6).bytes();
    for (at, to, about) in [
        (14, 0x40, "version 4"),
        (18, 9, "longer than its frame"),
        (20, 60, "options for the destination"),
    ] {
        let mut bytes = packet.clone();
        bytes[at] = to;
        let way = to_db(Way::of(Web));
        assert!(!hurries(&node, &bytes, &way, Hook::ToWorkload), "{about}");
    }
    let node = connected();
    let plain = request().seq(1001).ack_number(5001).ack().bytes();
    for (at, to, about) in [
        (46, 0x40, "a short header"),
        (46, 0xf0, "a header too long"),
    ] {
        let mut bytes = plain.clone();
        bytes[at] = to;
        let way = to_db(Way::of(Web));
        assert!(!hurries(&node, &bytes, &way, Hook::ToWorkload), "{about}");
    }
}

/// DHCP has rules of its own, also between ends that have a flow.
#[test]
fn datagrams_that_may_be_signalling_take_the_long_way() {
    for (family, ports) in [(Family::V4, (67, 68)), (Family::V6, (546, 547))] {
        for (from, to) in [ports, (ports.1, ports.0)] {
            let node = Node::under(&Policy::default());
            let packet = udp()
                .family(family)
                .from(Web.end())
                .to(Db.end())
                .sport(from)
                .dport(to);
            for _ in 0..3 {
                node.receives(Db, &packet, Way::of(Web));
                node.sends(Db, &packet.reply());
            }
            assert!(!arrives_soon(&node, &packet), "{packet}");
            assert!(!leaves_soon(&node, &packet.reply()), "{packet}");
        }
    }
}

#[test]
fn a_checksum_is_left_in_the_own_field_alone() {
    for (family, start) in [(Family::V4, 34), (Family::V6, 54)] {
        let node = exchanged(family);
        let bytes = question(family).bytes();
        for (start, offset, honest) in [
            (start, 6, true),
            (start, 16, false),
            (start + 8, 6, false),
            (start - 2, 6, false),
        ] {
            let frame = Special {
                frame: SliceFrame {
                    bytes: &bytes,
                    gso: false,
                },
                left: Some(PartialChecksum { start, offset }),
            };
            let judged = node.judge_frame(&frame, &to_db(Way::of(Web)), Hook::ToWorkload);
            assert_eq!(judged.hurried, honest, "{start} + {offset}");
        }
    }
}

#[test]
fn a_workload_hurries_with_its_own_addresses_alone() {
    for family in Family::BOTH {
        let node = exchanged(family);
        let reply = question(family).reply();
        assert!(leaves_soon(&node, &reply));
        assert!(!leaves_soon(
            &node,
            &reply.clone().source_mac(Web.end().mac)
        ));
        let other = Cache.end().ip(family).expect("both families");
        assert!(!leaves_soon(&node, &reply.clone().source_ip(other)));
        assert!(!leaves_soon(&node, &reply.sport(54)), "another flow");
    }
}

/// The second address of a workload is not looked for.
#[test]
fn a_second_address_takes_the_long_way() {
    let mut node = exchanged(Family::V4);
    let record = &mut node.endpoints[Db as usize];
    record.v4.swap(0, 1);
    record.v4_slots.swap(0, 1);
    assert!(!leaves_soon(&node, &question(Family::V4).reply()));
    let bytes = question(Family::V4).reply().bytes();
    assert_eq!(outcome(&node.sent(Db, &bytes)), FLOW);
}

#[test]
fn an_endpoint_that_is_closed_or_shares_its_hooks_takes_the_long_way() {
    for flag in [flags::DENY_ALL, flags::SHARED_HOOKS] {
        let node = exchanged(Family::V4);
        node.endpoints[Db as usize].flags.put(flag);
        assert!(!arrives_soon(&node, &question(Family::V4)));
        assert!(!leaves_soon(&node, &question(Family::V4).reply()));
    }
}

/// Everything that an entry rests on, moved by itself; then one packet each way that is
/// checked, and the short way again.
#[test]
fn a_flow_hurries_only_as_long_as_nothing_has_changed() {
    type Change = (&'static str, fn(&mut Node));
    let changes: [Change; 4] = [
        ("a table", |node| node.publish(&policy())),
        ("a peer's labels", |node| node.relabel(Web)),
        ("some binding", |node| node.move_generation(2)),
        ("its own labels", |node| node.relabel(Db)),
    ];
    for family in Family::BOTH {
        for (about, change) in changes {
            let packet = question(family);
            let mut node = exchanged(family);
            change(&mut node);
            assert!(!arrives_soon(&node, &packet), "{about}");
            node.receives(Db, &packet, Way::of(Web));
            assert!(arrives_soon(&node, &packet), "{about}");
            change(&mut node);
            assert!(!leaves_soon(&node, &packet.reply()), "{about}");
            node.sends(Db, &packet.reply());
            assert!(leaves_soon(&node, &packet.reply()), "{about}");
            // Checked for packets of the workload alone.
            let unstamped = to_db(FROM_UPLINK);
            assert!(!hurries(
                &node,
                &packet.bytes(),
                &unstamped,
                Hook::ToWorkload
            ));
            assert!(!arrives_soon(&node, &packet), "{about}");
            assert!(arrives_soon(&node, &packet));
        }
        let mut node = exchanged(family);
        node.endpoints[Db as usize].incarnation += 1;
        assert!(!arrives_soon(&node, &question(family)));
    }
}

/// While a change is under way, and for good when the agent was killed in it.
#[test]
fn nothing_hurries_during_a_change() {
    let node = exchanged(Family::V4);
    let packet = question(Family::V4);
    node.move_generation(1);
    for _ in 0..3 {
        assert!(!arrives_soon(&node, &packet));
        assert!(!leaves_soon(&node, &packet.reply()));
    }
    node.move_generation(1);
    assert!(
        !arrives_soon(&node, &packet),
        "nothing was checked meanwhile"
    );
    assert!(arrives_soon(&node, &packet));
}

#[test]
fn a_flow_of_a_workload_hurries_for_its_stamp_alone() {
    for family in Family::BOTH {
        let node = exchanged(family);
        let bytes = question(family).bytes();
        for way in [Way::of(Cache), FROM_UPLINK, FROM_NODE_ITSELF] {
            for _ in 0..2 {
                assert!(!hurries(&node, &bytes, &to_db(way), Hook::ToWorkload));
            }
        }
        assert!(arrives_soon(&node, &question(family)));
    }
}

/// Packets of the node's own flows may come from its address by many ways.
#[test]
fn a_flow_of_the_node_hurries_for_the_node_alone() {
    let policy = Policy::closed().connects(ThisNode, Db, Some((UDP, 53)));
    for family in Family::BOTH {
        let node = Node::under(&policy);
        let packet = udp()
            .family(family)
            .from(ThisNode.end())
            .to(Db.end())
            .sport(4000)
            .dport(53);
        let bytes = packet.bytes();
        let arrives = |way: Way| hurries(&node, &bytes, &to_db(way), Hook::ToWorkload);
        for _ in 0..3 {
            arrives(FROM_NODE_ITSELF);
            node.sends(Db, &packet.reply());
        }
        assert!(arrives(FROM_NODE_ITSELF));
        for way in [
            FROM_UPLINK,
            Way::of(Cache),
            Way {
                has_socket: false,
                ..FROM_NODE_ITSELF
            },
            Way {
                ingress_ifindex: 9,
                ..FROM_NODE_ITSELF
            },
        ] {
            assert!(!arrives(way), "{way:?}");
        }
    }
}

#[test]
fn a_flow_that_was_idle_for_too_long_takes_the_long_way() {
    let packet = question(Family::V4);
    let mut node = exchanged(Family::V4);
    let longest = idle(&node, Idle::Udp);
    pass(&mut node, longest);
    assert!(arrives_soon(&node, &packet), "not too long");
    pass(&mut node, longest + 1);
    assert!(!arrives_soon(&node, &packet));
    let mut node = connected();
    let longest = idle(&node, Idle::TcpEstablished);
    pass(&mut node, longest + 1);
    let data = request().seq(1001).ack_number(5001).ack();
    assert!(!arrives_soon(&node, &data));
}

/// A probe leaves no trace, and is asked about policy alone.
#[test]
fn a_probe_takes_the_long_way() {
    let node = exchanged(Family::V4);
    let bytes = question(Family::V4).bytes();
    let probe = Context {
        ingress_ifindex: cofferdam_verdict::judge::PROBE,
        ..to_db(Way::of(Web))
    };
    assert!(!hurries(&node, &bytes, &probe, Hook::ToWorkload));
}

/// A processor that has checked an entry may write that late, when another flow lies there.
#[test]
fn a_check_that_is_written_late_counts_for_no_other_flow() {
    let policy = policy().connects(Cache, Db, Some((UDP, 53)));
    let node = Node::under(&policy);
    node.endpoints[Db as usize].flow_size.put(Size::of(1).0);
    let ask = |who: Who| {
        let packet = udp().from(who.end()).to(Db.end());
        packet.sport(4000).dport(53)
    };
    let establish = |node: &Node, who: Who| {
        for _ in 0..2 {
            node.receives(Db, &ask(who), Way::of(who));
            node.sends(Db, &ask(who).reply());
        }
        assert_eq!(node.receives(Db, &ask(who), Way::of(who)), FLOW);
    };
    establish(&node, Web);
    let [first, ..] = &node.partitions()[Db as usize][0].ways;
    let late = first.checked.load();
    assert_ne!(late, 0);
    // As a sweep frees it.
    let word = StateWord(first.state.load());
    let free = word.published(0, 0, 0, FlowState::Free, 0);
    first.state.put(free.0);
    establish(&node, Cache);
    let [first, second, ..] = &node.partitions()[Db as usize][0].ways;
    assert_eq!(second.state.load(), 0, "the same place");
    first.checked.put(late);
    let bytes = ask(Cache).bytes();
    let arrives = |who| hurries(&node, &bytes, &to_db(Way::of(who)), Hook::ToWorkload);
    assert!(!arrives(Web));
    assert!(!arrives(Cache));
    assert!(arrives(Cache), "checked anew");
}
