//! Flows whose peer changes: its labels, its address, its interface, or the node's name.

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_tests::{
    firewall::{named, stamp},
    packet::{Family, Packet, tcp, udp},
    shop::{CLOSED, DB},
    world::Workload,
};
use cofferdam_verdict::{reason::Reason, verdict::Action};

use super::{
    flows::{FLOW, ISOLATED, RULE, Shop, judged, request, segment},
    verdicts::{between, leaving},
};

/// The peer is another by its incarnation: its slot's epoch moved. The same endpoint set
/// again, with another flag, say, is no other.
#[test]
fn a_peer_that_changed_is_judged_anew() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let mut endpoint = shop.firewall.endpoint(&world, "shop/web");
    let next = request(web, db).ack();
    for expected in [FLOW, RULE] {
        let set = shop.firewall.kernel().set_endpoint(&endpoint);
        set.expect("there is room");
        let to = Program::TO_WORKLOAD;
        assert_eq!(shop.meet(to, &next, web, db), expected);
        assert_eq!(shop.meet(to, &next, web, db), FLOW);
        endpoint.incarnation += 1;
    }
}

/// A program that was running when an address left its slot may remember a flow with that
/// slot afterwards, under the epoch that began then.
#[test]
fn flows_with_a_slot_that_an_address_has_left_are_judged_anew_a_second_time() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    // What tests before have left.
    while shop.firewall.kernel().has_left_slots() {
        shop.firewall.kernel().end_epochs();
    }
    shop.connect(web, db, 40000);
    let (address, slot) = shop.firewall.endpoint(&world, "shop/web").addresses[0];
    let next = request(web, db).ack();
    assert_eq!(shop.send(&next, web, db), [FLOW, FLOW]);
    assert!(shop.firewall.kernel().release_address(address));
    let bound = shop.firewall.kernel().bind_address(address, slot);
    bound.expect("there is room");
    // The last call has nothing to end.
    for judged in [RULE, FLOW, RULE, FLOW] {
        assert_eq!(shop.send(&next, web, db), [FLOW, judged]);
        assert_eq!(shop.send(&next, web, db), [FLOW, FLOW]);
        shop.firewall.kernel().end_epochs();
    }
    assert!(!shop.firewall.kernel().has_left_slots());
}

/// A local workload's interface is no longer known: its address is no excuse.
#[test]
fn a_flow_does_not_outlive_its_peers_interface() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    assert!(shop.firewall.kernel().remove_endpoint(web.host_ifindex));
    let next = request(web, db).ack();
    let foreign = (Action::Deny, Reason::ForeignLocalAddress);
    for from in [cache, web] {
        let context = between(from, db);
        let to = Program::TO_WORKLOAD;
        let outcome = judged(&mut shop.firewall, to, &next.bytes(), &context);
        assert_eq!(outcome, foreign);
    }
}

#[test]
fn flows_of_an_earlier_incarnation_are_nobodys() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let mut endpoint = shop.firewall.endpoint(&world, "shop/db");
    endpoint.incarnation += 1;
    let set = shop.firewall.kernel().set_endpoint(&endpoint);
    set.expect("there is room");
    let reply = segment(db, web).ack();
    assert_eq!(shop.send(&reply, db, web), [ISOLATED]);
}

/// The partition of an endpoint that is gone is given to another.
#[test]
fn flows_of_a_removed_endpoint_are_nobodys() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let endpoint = shop.firewall.endpoint(&world, "shop/db");
    assert!(shop.firewall.kernel().remove_endpoint(endpoint.ifindex));
    // The grace period of a new table frees the partition.
    shop.firewall.replace_policies(&[CLOSED, DB].concat());
    let set = shop.firewall.kernel().set_endpoint(&endpoint);
    set.expect("there is room");
    let flows = shop.firewall.kernel().flows(endpoint.ifindex);
    assert_eq!(flows.expect("an endpoint").used, 0);
    let reply = segment(db, web).ack();
    assert_eq!(shop.send(&reply, db, web), [ISOLATED]);
}

/// Under one table: the peer's address becomes somebody else's.
#[test]
fn a_flow_is_judged_anew_when_its_peers_address_changes_hands() {
    let (world, mut shop) = Shop::open();
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    let abroad = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: abroad, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]\n";
    let question = udp().from(web.end).to(cache.end).dport(9);
    let address = cache.end.ip(Family::V4).expect("both families");
    let endpoint = shop.firewall.endpoint(&world, "shop/cache");
    let slot = |&(own, slot)| (own == address).then_some(slot);
    let slot = endpoint.addresses.iter().find_map(slot).expect("its slot");
    let leave = |shop: &mut Shop| shop.meet(Program::FROM_WORKLOAD, &question, web, cache);
    assert_eq!([leave(&mut shop), leave(&mut shop)], [RULE, FLOW]);
    assert!(shop.firewall.kernel().release_address(address));
    assert_eq!(leave(&mut shop), ISOLATED);

    shop.firewall.replace_policies(&[CLOSED, abroad].concat());
    assert!(shop.firewall.kernel().release_address(address));
    assert_eq!([leave(&mut shop), leave(&mut shop)], [RULE, FLOW]);
    for _ in 0..2 {
        // Bound where it is bound already, it changes nothing.
        let bound = shop.firewall.kernel().bind_address(address, slot);
        bound.expect("there is room");
    }
    assert_eq!([leave(&mut shop), leave(&mut shop)], [RULE, FLOW]);
    let bound = shop.firewall.kernel().bind_address(address, slot);
    bound.expect("there is room");
    assert_eq!(leave(&mut shop), FLOW);
}

/// Connections that the node opens are allowed by no rule, so that after a new table no
/// rule allows their replies. The replies pass all the same, but only for connections that
/// the node has opened.
#[test]
fn connections_of_the_node_outlive_the_table_but_not_those_in_its_name() {
    let (world, mut shop) = Shop::open();
    let db = named(&world, "shop/db");
    let node = world.node().end;
    let own_node = (Action::Allow, Reason::OwnNode);
    let named_node = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: any, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: db}}\n  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}]}]\n";
    for family in Family::BOTH {
        let arrive = |shop: &mut Shop, sport, ingress_ifindex| {
            let syn = tcp().family(family).from(node).to(db.end).sport(sport);
            let context = TestContext {
                ifindex: db.host_ifindex,
                ingress_ifindex,
                ..Default::default()
            };
            let frame = syn.dport(80).syn().bytes();
            judged(&mut shop.firewall, Program::TO_WORKLOAD, &frame, &context)
        };
        let reply = |shop: &mut Shop, dport| {
            let reply = tcp().family(family).from(db.end).to(node).sport(80);
            let frame = reply.dport(dport).ack().bytes();
            judged(
                &mut shop.firewall,
                Program::FROM_WORKLOAD,
                &frame,
                &leaving(db),
            )
        };
        shop.firewall
            .replace_policies(&[CLOSED, named_node].concat());
        let uplink = world.outside().uplink_ifindex;
        assert_eq!(arrive(&mut shop, 40000, 0), own_node);
        assert_eq!(arrive(&mut shop, 40001, uplink), RULE);
        assert_eq!(reply(&mut shop, 40000), FLOW);
        assert_eq!(reply(&mut shop, 40001), FLOW);
        shop.firewall.replace_policies(CLOSED);
        assert_eq!(reply(&mut shop, 40000), own_node);
        assert_eq!(reply(&mut shop, 40000), FLOW);
        assert_eq!(reply(&mut shop, 40001), ISOLATED);
    }
}

/// A workload that reaches itself through a Service and masquerade has the node's address,
/// and its own stamp. It is answered, though it may not open connections to the node.
#[test]
fn a_workload_that_reaches_itself_behind_the_nodes_address_is_answered() {
    let (world, mut shop) = Shop::open();
    let db = named(&world, "shop/db");
    let node = world.node().end;
    let itself = (Action::Allow, Reason::SelfTraffic);
    for family in Family::BOTH {
        let hairpin = tcp()
            .family(family)
            .from(node)
            .to(db.end)
            .sport(30_000)
            .dport(5432);
        let answer = tcp()
            .family(family)
            .from(db.end)
            .to(node)
            .sport(5432)
            .dport(30_000)
            .ack();
        let leaves = leaving(db);
        let mut meet = |program, packet: &Packet<_>, context: &_| {
            judged(&mut shop.firewall, program, &packet.bytes(), context)
        };
        assert_eq!(meet(Program::FROM_WORKLOAD, &answer, &leaves), ISOLATED);
        let arrives = between(db, db);
        let syn = hairpin.clone().syn();
        assert_eq!(meet(Program::TO_WORKLOAD, &syn, &arrives), itself);
        assert_eq!(meet(Program::FROM_WORKLOAD, &answer, &leaves), FLOW);
        assert_eq!(meet(Program::TO_WORKLOAD, &hairpin.ack(), &arrives), FLOW);
    }
}

/// Masquerade gives a workload's packets the node's address; the stamp stays. Whoever has
/// the node's port by turns, workloads and node, gets nobody else's flow.
#[test]
fn packets_behind_the_nodes_address_are_judged_by_their_stamp() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let node = world.node().end;
    let own_node = (Action::Allow, Reason::OwnNode);
    let foreign = (Action::Deny, Reason::ForeignLocalAddress);
    let uplink = TestContext {
        ifindex: db.host_ifindex,
        ingress_ifindex: world.outside().uplink_ifindex,
        ..TestContext::default()
    };
    let node_itself = TestContext {
        ingress_ifindex: 0,
        ..uplink
    };
    for family in Family::BOTH {
        let packet = udp()
            .family(family)
            .from(node)
            .to(db.end)
            .sport(30_001)
            .dport(53);
        let mut arrive = |context: &TestContext| {
            let frame = packet.bytes();
            judged(&mut shop.firewall, Program::TO_WORKLOAD, &frame, context)
        };
        let [of_web, of_cache] = [web, cache].map(|sender| between(sender, db));
        assert_eq!([arrive(&of_web), arrive(&of_web)], [RULE, FLOW]);
        assert_eq!(arrive(&of_cache), ISOLATED, "another workload");
        assert_eq!(arrive(&uplink), ISOLATED, "somebody elsewhere");
        assert_eq!(arrive(&of_web.stamped(0x7777)), foreign, "no endpoint");
        assert_eq!(arrive(&of_web), FLOW);
        assert_eq!(
            [arrive(&node_itself), arrive(&node_itself)],
            [own_node, FLOW]
        );
        // The node's own flow needs what the node's packets have.
        assert_eq!(arrive(&uplink), ISOLATED);
        assert_eq!(arrive(&of_cache), ISOLATED);
        assert_eq!(arrive(&node_itself.stamped(stamp(cache))), ISOLATED);
        assert_eq!(arrive(&node_itself), FLOW);
        assert_eq!([arrive(&of_web), arrive(&of_web)], [RULE, FLOW]);
    }
}

/// A live flow is no passport: the packet must come from its peer's interface.
#[test]
fn a_flow_does_not_lend_its_addresses() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let forged = request(web, db).ack();
    let foreign = (Action::Deny, Reason::ForeignLocalAddress);
    let arrives_from = |shop: &mut Shop, by: &Workload| {
        let context = between(by, db);
        judged(
            &mut shop.firewall,
            Program::TO_WORKLOAD,
            &forged.bytes(),
            &context,
        )
    };
    assert_eq!(arrives_from(&mut shop, cache), foreign);
    assert_eq!(arrives_from(&mut shop, web), FLOW);
    // The same when the flow must be decided again, and the forgery ends nothing.
    shop.firewall.replace_policies(&[CLOSED, DB].concat());
    assert_eq!(arrives_from(&mut shop, cache), foreign);
    assert_eq!(arrives_from(&mut shop, web), RULE);
    shop.firewall.replace_policies(&[CLOSED, DB].concat());
    let answer = segment(db, web).ack();
    let context = between(cache, web);
    let program = Program::TO_WORKLOAD;
    assert_eq!(
        judged(&mut shop.firewall, program, &answer.bytes(), &context),
        foreign
    );
    assert_eq!(shop.send(&answer, db, web), [RULE, RULE]);
}
