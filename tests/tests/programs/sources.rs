//! Senders and their claims: source addresses, MACs, the node's name, groups, and frames
//! that are not understood.

use std::net::{Ipv4Addr, Ipv6Addr};

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_tests::{
    firewall::{named, stamp},
    ledger::{Moved, allowed, denied},
    packet::{Extension, Family, Mac, Packet, ether, ip_protocol, llc, option, ping, tcp, udp},
    world::Wiring,
};
use cofferdam_verdict::{
    counter::Hook,
    judge::{Context, judge},
    reason::Reason,
    slices::SliceFrame,
    verdict::Verdict,
};

use super::verdicts::{DB_FROM_WEB, Scene, between, expect, expect_bytes, leaving};

pub(super) const OUT: Program = Program::FROM_WORKLOAD;

pub(super) fn refused(reason: Reason) -> Moved {
    denied(Hook::FromWorkload, reason, 1)
}

pub(super) fn passed(reason: Reason) -> Moved {
    allowed(Hook::FromWorkload, reason, 1)
}

#[test]
fn a_workload_speaks_only_for_itself() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let context = leaving(web);
    let mut check = |packet: &Packet<cofferdam_tests::packet::Tcp>, moved| {
        expect(&mut firewall, OUT, packet, &context, moved);
    };
    let good = |family| {
        tcp()
            .family(family)
            .from(web.end)
            .to(cache.end)
            .dport(80)
            .syn()
    };
    for family in Family::BOTH {
        check(&good(family), passed(Reason::NotIsolated));
        check(
            &good(family).source_mac(db.end.mac),
            refused(Reason::SpoofedMac),
        );
        check(
            &good(family).source_mac(Mac([0xff; 6])),
            refused(Reason::SpoofedMac),
        );
    }
    // Another workload, the gateway, the receiver, loopback, "this network",
    // multicast, link-local, metadata.
    let v4 = [
        db.end.ipv4.expect("both"),
        web.gateway.ipv4.expect("both"),
        cache.end.ipv4.expect("both"),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(169, 254, 1, 1),
        Ipv4Addr::new(169, 254, 169, 254),
    ];
    for source in v4 {
        check(
            &good(Family::V4).source_ip(source),
            refused(Reason::SpoofedSource),
        );
    }
    // Also: `::`, v4-mapped, v4-compatible, 6to4, NAT64, another's link-local.
    let own = web.end.ipv4.expect("both");
    let [a, b, c, d] = own.octets().map(u16::from);
    let (high, low) = (a << 8 | b, c << 8 | d);
    let v6 = [
        db.end.ipv6.expect("both"),
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::UNSPECIFIED,
        own.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99),
    ];
    for source in v6 {
        check(
            &good(Family::V6).source_ip(source),
            refused(Reason::SpoofedSource),
        );
    }
}

#[test]
fn frames_that_are_not_understood_are_dropped_on_both_hooks() {
    // Nothing is isolated: what is dropped here is dropped for its shape.
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, "");
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    let good = tcp().from(web.end).to(cache.end).dport(80).syn();
    let six = good.clone().family(Family::V6);
    let mut cases = vec![
        (good.clone().vlan(5).bytes(), Reason::VlanTag),
        (good.clone().vlan(0).bytes(), Reason::VlanTag),
        (good.clone().qinq(5, 6).bytes(), Reason::VlanTag),
        (good.clone().mpls(16).bytes(), Reason::Ethertype),
        (good.clone().pppoe(1).bytes(), Reason::Ethertype),
        (good.clone().snap().bytes(), Reason::Ethertype),
        (good.clone().ihl(4).bytes(), Reason::Malformed),
        (good.clone().version(6).bytes(), Reason::Malformed),
        (six.clone().version(4).bytes(), Reason::Malformed),
        (good.clone().ip_length(2000).bytes(), Reason::Malformed),
        (six.clone().ip_length(2000).bytes(), Reason::Malformed),
        (good.clone().data_offset(0).bytes(), Reason::Malformed),
        (good.truncated(53), Reason::Malformed),
        (six.truncated(73), Reason::Malformed),
        (
            six.clone()
                .extensions(9, Extension::destination_options(&[]))
                .bytes(),
            Reason::Ipv6Chain,
        ),
        (
            six.clone()
                .extension(Extension::destination_options(&[0; 2000]))
                .bytes(),
            Reason::Ipv6Chain,
        ),
    ];
    // Ways to an address that policy is not asked about, and what is only like them.
    for route in option::SOURCE_ROUTES {
        let routed = good.clone().ip_options(&[route, 7, 4, 10, 64, 0, 3]);
        cases.push((routed.bytes(), Reason::SourceRoute));
    }
    let cut = good.clone().ip_options(&[option::NOTHING, 7, 4, 0]);
    cases.push((cut.bytes(), Reason::Malformed));
    let routing = |left| six.clone().extension(Extension::routing(0, left, &[0; 20]));
    cases.push((routing(1).bytes(), Reason::SourceRoute));
    for kind in [0x88e5, 0x888e, 0x0600, 0xffff] {
        let frame = ether(kind).from(web.end).to(cache.end).payload(&[0; 46]);
        cases.push((frame.bytes(), Reason::Ethertype));
    }
    cases.push((
        llc(0x42, 0x42, 3, &[0; 40])
            .from(web.end)
            .to(cache.end)
            .bytes(),
        Reason::Ethertype,
    ));
    for (frame, reason) in cases {
        let about = format!("{reason:?} {:02x?}", &frame[..frame.len().min(60)]);
        expect_bytes(
            &mut firewall,
            OUT,
            &frame,
            &leaving(web),
            refused(reason),
            &about,
        );
        let moved = denied(Hook::ToWorkload, reason, 1);
        let context = between(web, cache);
        expect_bytes(
            &mut firewall,
            Program::TO_WORKLOAD,
            &frame,
            &context,
            moved,
            &about,
        );
    }
    // The same chain, one header shorter, options that are whole, a routing header at its
    // last address, and what IP carries by number, pass.
    let alert = [option::ROUTER_ALERT, 4, 0, 0];
    for packet in [
        good.clone().ip_options(&alert),
        six.clone()
            .extensions(8, Extension::destination_options(&[])),
        routing(0),
    ] {
        let moved = passed(Reason::NotIsolated);
        expect(&mut firewall, OUT, &packet, &leaving(web), moved);
    }
    let other = ip_protocol(99)
        .from(web.end)
        .to(cache.end)
        .payload(&[0; 20]);
    expect(
        &mut firewall,
        OUT,
        &other,
        &leaving(web),
        passed(Reason::NotIsolated),
    );
}

/// A local workload's address counts only where that workload's packets come in:
/// by its own interface, or up from its bridge.
#[test]
fn a_local_address_counts_only_from_its_own_interface() {
    for wiring in Wiring::BOTH {
        let Scene {
            mut firewall,
            world,
            inside: _inside,
        } = Scene::open(wiring, DB_FROM_WEB);
        let [web, db, cache] =
            ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
        let packet = tcp().from(web.end).to(db.end).dport(5432).syn();
        let from = |ingress_ifindex, stamp| {
            let context = TestContext {
                ifindex: db.host_ifindex,
                ingress_ifindex,
                ..TestContext::default()
            };
            context.stamped(stamp)
        };
        let allow = allowed(Hook::ToWorkload, Reason::Rule, 1);
        let foreign = denied(Hook::ToWorkload, Reason::ForeignLocalAddress, 1);
        let uplink = world.outside().uplink_ifindex;
        let bridge = world
            .node()
            .bridge
            .as_ref()
            .map_or(0, |bridge| bridge.ifindex);
        let program = Program::TO_WORKLOAD;
        // The stamp counts, whatever way the packet came; the interface does not.
        for by in [web.host_ifindex, bridge, uplink, 0] {
            let own = from(by, stamp(web));
            expect(&mut firewall, program, &packet, &own, allow);
            for other in [0, stamp(cache), stamp(db), 0x7777] {
                let forged = from(by, other);
                expect(&mut firewall, program, &packet, &forged, foreign);
            }
        }
    }
}

/// A tunnel keeps the stamp of what it carries: what has a stamp and an address of another
/// node was wrapped here. With an address of outside a stamp says nothing.
#[test]
fn a_stamp_counts_only_with_an_address_of_this_node() {
    let [v4, v6] = ["10.77.0.9", "fd77::9"];
    let far = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: far, namespace: shop, labels: \
         {{app: web}}}}\nspec: {{nodeName: elsewhere, containers: [{{name: c}}]}}\n\
         status: {{podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}\n"
    );
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, &format!("{DB_FROM_WEB}{far}"));
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let outside = world.outside().end;
    let remote = outside
        .with_ip(v4.parse::<Ipv4Addr>().expect("an address"))
        .with_ip(v6.parse::<Ipv6Addr>().expect("an address"));
    let arrives = TestContext {
        ifindex: db.host_ifindex,
        ingress_ifindex: world.outside().uplink_ifindex,
        ..TestContext::default()
    };
    let foreign = denied(Hook::ToWorkload, Reason::ForeignLocalAddress, 1);
    let program = Program::TO_WORKLOAD;
    for family in Family::BOTH {
        let packet = tcp().family(family).to(db.end).dport(5432).syn();
        let elsewhere = packet.clone().from(remote);
        let unknown = packet.from(outside);
        for stamp in [stamp(web), stamp(db), 0x7777] {
            let stamped = arrives.stamped(stamp);
            expect(&mut firewall, program, &elsewhere, &stamped, foreign);
            let isolated = denied(Hook::ToWorkload, Reason::Isolated, 1);
            expect(&mut firewall, program, &unknown, &stamped, isolated);
        }
        let allow = allowed(Hook::ToWorkload, Reason::Rule, 1);
        expect(&mut firewall, program, &elsewhere, &arrives, allow);
    }
}

/// An endpoint that is put in force again with fewer addresses speaks no longer
/// for the others, on either hook.
#[test]
fn an_address_that_was_taken_away_is_nobodys() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, "");
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    let mut endpoint = firewall.endpoint(&world, "shop/web");
    endpoint.addresses.retain(|(address, _)| address.is_ipv6());
    firewall
        .kernel()
        .set_endpoint(&endpoint)
        .expect("there is room");
    for (family, sent, received) in [
        (
            Family::V6,
            passed(Reason::NotIsolated),
            allowed(Hook::ToWorkload, Reason::NotIsolated, 1),
        ),
        (
            Family::V4,
            refused(Reason::SpoofedSource),
            denied(Hook::ToWorkload, Reason::ForeignLocalAddress, 1),
        ),
    ] {
        let packet = udp().family(family).from(web.end).to(cache.end).dport(53);
        expect(&mut firewall, OUT, &packet, &leaving(web), sent);
        expect(
            &mut firewall,
            Program::TO_WORKLOAD,
            &packet,
            &between(web, cache),
            received,
        );
    }
}

#[test]
fn the_node_reaches_its_workloads_but_nobody_in_its_name() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let db = named(&world, "shop/db");
    let node = world.node().end;
    for family in Family::BOTH {
        let probe = tcp().family(family).from(node).to(db.end).dport(80).syn();
        let from = |ingress_ifindex| TestContext {
            ifindex: db.host_ifindex,
            ingress_ifindex,
            ..TestContext::default()
        };
        let allow = allowed(Hook::ToWorkload, Reason::OwnNode, 1);
        expect(&mut firewall, Program::TO_WORKLOAD, &probe, &from(0), allow);
        // What came in by an interface is not the node's own, whatever it says:
        // masquerade lends the node's address.
        let deny = denied(Hook::ToWorkload, Reason::Isolated, 1);
        let uplink = from(world.outside().uplink_ifindex);
        expect(&mut firewall, Program::TO_WORKLOAD, &probe, &uplink, deny);
        // Nor is what has lost its interface on the way, as refragmented datagrams
        // do: no local socket sent it.
        for (has_socket, reason) in [(true, Reason::OwnNode), (false, Reason::Isolated)] {
            let context = Context {
                ifindex: db.host_ifindex,
                has_socket,
                ..Context::default()
            };
            let frame = SliceFrame {
                bytes: &probe.bytes(),
                gso: false,
            };
            let memory = firewall.kernel().memory();
            let case = judge(&memory, &frame, &context, Hook::ToWorkload);
            let verdict = Verdict::from_any_word(case.enforced).expect("an answer");
            assert_eq!(verdict.reason, reason);
        }
    }
}

#[test]
fn a_workload_reaches_itself() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let db = named(&world, "shop/db");
    for family in Family::BOTH {
        let packet = ping(family).from(db.end).to(db.end);
        // No stack sends that; on a bridge it reaches whose MAC the frame names.
        let refused = denied(Hook::FromWorkload, Reason::SelfOnWire, 1);
        expect(&mut firewall, OUT, &packet, &leaving(db), refused);
        // Here it has come back through a Service.
        let moved = allowed(Hook::ToWorkload, Reason::SelfTraffic, 1);
        let program = Program::TO_WORKLOAD;
        expect(&mut firewall, program, &packet, &between(db, db), moved);
    }
}

/// A packet that comes back to its sender has been through a Service: policies of the
/// cluster count, those of the namespace cannot keep a workload from itself.
#[test]
fn a_workload_reaches_itself_through_a_service_unless_the_cluster_denies_it() {
    let cluster = |tier: &str, direction: &str, peer: &str| {
        format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
             metadata: {{name: c}}\nspec:\n  tier: {tier}\n  priority: 1\n  \
             subject: {{namespaces: {{}}}}\n  \
             {direction}: [{{action: Deny, {peer}: [{{namespaces: {{}}}}]}}]\n"
        )
    };
    let isolated = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: \
                    {name: none, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Ingress, \
                    Egress]}\n";
    let directions = [("ingress", "from"), ("egress", "to")];
    let mut worlds = vec![(isolated.to_owned(), true)];
    for (direction, peer) in directions {
        let [admin, baseline] = ["Admin", "Baseline"].map(|tier| cluster(tier, direction, peer));
        worlds.extend([
            (format!("{admin}{isolated}"), false),
            (format!("{baseline}{isolated}"), true),
            (admin, false),
            (baseline, false),
        ]);
    }
    for (documents, passes) in worlds {
        let Scene {
            mut firewall,
            world,
            inside: _inside,
        } = Scene::open(Wiring::Ptp, &documents);
        let db = named(&world, "shop/db");
        for family in Family::BOTH {
            let packet = ping(family).from(db.end).to(db.end);
            let moved = match passes {
                true => allowed(Hook::ToWorkload, Reason::SelfTraffic, 1),
                false => denied(Hook::ToWorkload, Reason::Rule, 1),
            };
            let context = between(db, db);
            expect(
                &mut firewall,
                Program::TO_WORKLOAD,
                &packet,
                &context,
                moved,
            );
        }
    }
}

/// Broadcast, multicast and flooded frames name none of the receiver's addresses:
/// its own policy judges them.
#[test]
fn a_group_is_judged_by_each_receiver_and_another_ones_address_by_none() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, DB_FROM_WEB);
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let elsewhere = udp().from(web.end).to(cache.end).dport(5353);
    let nobodys = denied(Hook::ToWorkload, Reason::NotReceiversAddress, 1);
    let program = Program::TO_WORKLOAD;
    let arrives = between(web, db);
    expect(&mut firewall, program, &elsewhere, &arrives, nobodys);
    // To a group of link-layer addresses it is for everyone who receives it.
    let mut everyone = elsewhere.bytes();
    everyone[..6].copy_from_slice(&[0xff; 6]);
    let isolated = denied(Hook::ToWorkload, Reason::Isolated, 1);
    expect_bytes(
        &mut firewall,
        program,
        &everyone,
        &arrives,
        isolated,
        "broadcast",
    );
    for to in [group, Ipv4Addr::BROADCAST] {
        let packet = udp().from(web.end).to(to).dport(5353);
        let deny = denied(Hook::ToWorkload, Reason::Isolated, 1);
        expect(
            &mut firewall,
            Program::TO_WORKLOAD,
            &packet,
            &between(web, db),
            deny,
        );
        let allow = allowed(Hook::ToWorkload, Reason::NotIsolated, 1);
        expect(
            &mut firewall,
            Program::TO_WORKLOAD,
            &packet,
            &between(web, cache),
            allow,
        );
    }
}
