//! Signalling between hosts: ARP, neighbour discovery, group reports and DHCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_tests::{
    firewall::named,
    ledger::{allowed, decided, denied},
    packet::{
        Family, Icmp, Mac, Packet, arp_announcement, arp_reply, arp_request, group_joined,
        group_left, group_query, group_record, group_report, group_source_query, igmpv1_report,
        mldv2_report, multicast_router, neighbour_advertisement, neighbour_solicitation, redirect,
        router_advertisement, router_solicitation, udp,
    },
    world::Wiring,
};
use cofferdam_verdict::{counter::Hook, reason::Reason, verdict::Action};

use super::{
    sources::{OUT, passed, refused},
    verdicts::{DB_FROM_WEB, Scene, between, expect, leaving},
};

#[test]
fn arp_must_be_truthful() {
    // Closed for everything: ARP passes all the same.
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, &DB_FROM_WEB.replace("app: db", "app: web"));
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let theirs = db.end.ipv4.expect("both");
    let request = arp_request().from(web.end).to(db.end);
    for (packet, moved) in [
        (request.clone(), passed(Reason::Arp)),
        (arp_reply().from(web.end).to(db.end), passed(Reason::Arp)),
        (arp_announcement().from(web.end), passed(Reason::Arp)),
        (
            request.clone().sender_ip(Ipv4Addr::UNSPECIFIED),
            passed(Reason::Arp),
        ),
        (
            request.clone().sender_ip(theirs),
            refused(Reason::UntruthfulArp),
        ),
        (
            request.clone().sender_mac(db.end.mac),
            refused(Reason::UntruthfulArp),
        ),
        (
            arp_announcement().from(web.end).sender_ip(theirs),
            refused(Reason::UntruthfulArp),
        ),
        (request.clone().operation(9), refused(Reason::UntruthfulArp)),
        (
            request.clone().address_lengths(6, 16),
            refused(Reason::UntruthfulArp),
        ),
        (request.clone().vlan(0), refused(Reason::VlanTag)),
    ] {
        expect(&mut firewall, OUT, &packet, &leaving(web), moved);
    }
    let moved = allowed(Hook::ToWorkload, Reason::Arp, 1);
    expect(
        &mut firewall,
        Program::TO_WORKLOAD,
        &request,
        &between(web, db),
        moved,
    );
}

#[test]
fn neighbour_discovery_must_be_truthful() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, DB_FROM_WEB);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let (mine, theirs) = (web.end.ipv6.expect("both"), db.end.ipv6.expect("both"));
    let [a, b, c, d, e, f] = web.end.mac.0;
    let link_local = Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ]);
    let asked = neighbour_solicitation(theirs).from(web.end);
    let told = neighbour_advertisement(mine).from(web.end).to(db.end);
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let good = passed(Reason::NeighbourDiscovery);
    let lie = refused(Reason::UntruthfulNd);
    let spoof = refused(Reason::SpoofedSource);
    for (packet, moved) in [
        (asked.clone().source_link_address(web.end.mac), good),
        (asked.clone(), good),
        (asked.clone().source_ip(link_local), good),
        (told.clone().target_link_address(web.end.mac), good),
        (
            neighbour_advertisement(link_local).from(web.end).to(db.end),
            good,
        ),
        (
            router_solicitation().from(web.end).source_ip(unspecified),
            good,
        ),
        // Duplicate address detection, for an own address only.
        (
            neighbour_solicitation(mine)
                .from(web.end)
                .source_ip(unspecified),
            good,
        ),
        (
            neighbour_solicitation(theirs)
                .from(web.end)
                .source_ip(unspecified),
            spoof,
        ),
        (asked.clone().source_link_address(db.end.mac), lie),
        (told.clone().target_link_address(db.end.mac), lie),
        (
            neighbour_advertisement(theirs).from(web.end).to(db.end),
            lie,
        ),
        (
            neighbour_solicitation(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)).from(web.end),
            lie,
        ),
        (asked.clone().source_ip(theirs), spoof),
        (asked.clone().hop_limit(254), lie),
        (
            asked.clone().nd_option_bytes(&[1, 0, 0, 0, 0, 0, 0, 0]),
            lie,
        ),
        (asked.clone().fragment(5, 0, true), lie),
        (
            router_advertisement().from(web.end),
            refused(Reason::RouterAdvertisement),
        ),
        (
            redirect(theirs, theirs).from(web.end).to(db.end),
            refused(Reason::Redirect),
        ),
    ] {
        expect(&mut firewall, OUT, &packet, &leaving(web), moved);
    }
    let towards = Program::TO_WORKLOAD;
    let good = allowed(Hook::ToWorkload, Reason::NeighbourDiscovery, 1);
    expect(&mut firewall, towards, &asked, &between(web, db), good);
    let far = asked.hop_limit(254);
    let lie = denied(Hook::ToWorkload, Reason::UntruthfulNd, 1);
    expect(&mut firewall, towards, &far, &between(web, db), lie);
}

#[test]
fn multicast_reports_pass_and_dhcp_servers_do_not() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, DB_FROM_WEB);
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let report = mldv2_report(&[group]).from(web.end);
    let passes = passed(Reason::MulticastListener);
    expect(&mut firewall, OUT, &report, &leaving(web), passes);
    let early = report.clone().source_ip(Ipv6Addr::UNSPECIFIED);
    expect(&mut firewall, OUT, &early, &leaving(web), passes);
    let theirs = report.source_ip(db.end.ipv6.expect("both"));
    expect(
        &mut firewall,
        OUT,
        &theirs,
        &leaving(web),
        refused(Reason::SpoofedSource),
    );

    for (family, server, client) in [(Family::V4, 67, 68), (Family::V6, 547, 546)] {
        let packet = udp()
            .family(family)
            .from(web.end)
            .to(db.end)
            .sport(server)
            .dport(client);
        expect(
            &mut firewall,
            OUT,
            &packet,
            &leaving(web),
            refused(Reason::DhcpServer),
        );
        let other = udp()
            .family(family)
            .from(web.end)
            .to(cache.end)
            .sport(client)
            .dport(server);
        expect(
            &mut firewall,
            OUT,
            &other,
            &leaving(web),
            passed(Reason::NotIsolated),
        );
    }
}

/// A policy that allows the shop nothing in either direction.
pub(crate) const CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// Signalling passes between workloads that may not talk at all, and carries nothing for
/// them: each bound, with a packet on either side, on both hooks.
#[test]
fn signalling_is_small_on_both_hooks() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, CLOSED);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let (mine, theirs) = (web.end.ipv6.expect("both"), db.end.ipv6.expect("both"));
    let mut small = Vec::new();
    let mut large = Vec::new();
    let request = arp_request().from(web.end).to(db.end);
    for packet in [request.clone(), arp_announcement().from(web.end)] {
        small.push((packet.clone().padded_to(60).erased(), Reason::Arp));
        large.push(packet.clone().padded_to(61).erased());
        large.push(packet.payload(&[7; 1400]).erased());
    }
    for packet in [
        neighbour_solicitation(theirs),
        neighbour_advertisement(mine),
        router_solicitation(),
    ] {
        let packet = packet.from(web.end);
        let options = |number: usize, bytes: usize| {
            (0..number).fold(packet.clone(), |packet, _| {
                packet.nd_option(14, &vec![7; bytes - 2])
            })
        };
        small.push((options(4, 32).erased(), Reason::NeighbourDiscovery));
        large.push(options(5, 8).erased());
        large.push(options(1, 40).erased());
        large.push(options(1, 1400).erased());
        large.push(packet.trailer(&[7; 1400]).erased());
    }
    for family in Family::BOTH {
        let (group, most): (IpAddr, _) = match family {
            Family::V4 => (Ipv4Addr::new(239, 1, 2, 3).into(), 22),
            Family::V6 => (Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xc).into(), 9),
        };
        let report = |number| group_report(family, &vec![group_record(group); number], None);
        for packet in [group_joined(group), group_left(group), report(most)] {
            let packet = packet.from(web.end);
            small.push((packet.clone().erased(), Reason::MulticastListener));
            large.push(packet.clone().payload(&[7; 1000]).erased());
            large.push(packet.trailer(&[7; 1000]).erased());
        }
        large.push(report(most + 1).from(web.end).erased());
    }
    let large = large
        .into_iter()
        .map(|packet| (packet, Action::Deny, Reason::SignallingSize));
    let small = small
        .into_iter()
        .map(|(packet, reason)| (packet, Action::Allow, reason));
    for (packet, action, reason) in small.chain(large) {
        for (program, context) in [
            (OUT, leaving(web)),
            (Program::TO_WORKLOAD, between(web, db)),
        ] {
            let moved = decided(program.hook, action, reason, 1);
            expect(&mut firewall, program, &packet, &context, moved);
        }
    }
}

/// Hosts report their groups, by any of their addresses or without one; they ask nobody
/// for theirs, and are no multicast router. Towards a workload both pass.
#[test]
fn groups_are_reported_by_hosts_and_asked_for_by_routers() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, CLOSED);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let passes = passed(Reason::MulticastListener);
    let spoofs = refused(Reason::SpoofedSource);
    let routers = refused(Reason::RouterAdvertisement);
    for family in Family::BOTH {
        let (group, unspecified): (IpAddr, IpAddr) = match family {
            Family::V4 => (
                Ipv4Addr::new(224, 0, 0, 251).into(),
                Ipv4Addr::UNSPECIFIED.into(),
            ),
            Family::V6 => (
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
                Ipv6Addr::UNSPECIFIED.into(),
            ),
        };
        let theirs = db.end.ip(family).expect("both");
        let report = group_report(family, &[group_record(group)], None);
        for packet in [group_joined(group), group_left(group), report] {
            let packet = packet.from(web.end);
            let early = packet.clone().source_ip(unspecified);
            let foreign = packet.clone().source_ip(theirs);
            let far = packet.clone().hop_limit(2);
            for (packet, moved) in [
                (packet, passes),
                (early, passes),
                (foreign, spoofs),
                // Not on this link alone: policy decides.
                (far, refused(Reason::Isolated)),
            ] {
                expect(&mut firewall, OUT, &packet, &leaving(web), moved);
            }
        }
        for packet in [
            group_query(unspecified),
            group_query(group),
            group_source_query(group, &[theirs]),
            group_query(group).hop_limit(64),
            multicast_router(family),
        ] {
            let packet = packet.from(web.end);
            expect(&mut firewall, OUT, &packet, &leaving(web), routers);
        }
        let towards = allowed(Hook::ToWorkload, Reason::MulticastListener, 1);
        for packet in [
            group_query(unspecified),
            group_source_query(group, &[theirs]),
            group_joined(group),
            group_left(group),
        ] {
            let packet = packet.from(web.gateway);
            let context = between(web, db);
            expect(
                &mut firewall,
                Program::TO_WORKLOAD,
                &packet,
                &context,
                towards,
            );
        }
    }
    let first_version = igmpv1_report(Ipv4Addr::new(224, 0, 0, 251)).from(web.end);
    expect(&mut firewall, OUT, &first_version, &leaving(web), passes);
}

/// A link-local address that does not follow from the MAC (RFC 7217, or set by hand) is the
/// workload's own if it stood on the interface when the endpoint was added.
#[test]
fn a_link_local_address_of_any_form_is_the_workloads_own() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Bridge, CLOSED);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let stable = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x3a1f, 0x9c07, 0x55e2, 0x8b41);
    let other = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x3a1f, 0x9c07, 0x55e2, 0x8b42);
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let said = |own: Ipv6Addr| {
        let by = |packet: Packet<Icmp>| packet.from(web.end).source_ip(own);
        [
            by(neighbour_solicitation(db.end.ipv6.expect("both"))),
            by(router_solicitation()).source_link_address(web.end.mac),
            by(neighbour_advertisement(own)).target_link_address(web.end.mac),
            by(neighbour_solicitation(own)).source_ip(unspecified),
            by(mldv2_report(&[Ipv6Addr::new(
                0xff02, 0, 0, 0, 0, 1, 0xff00, 7,
            )])),
        ]
    };
    let mut endpoint = firewall.endpoint(&world, "shop/web");
    for known in [None, Some(stable)] {
        endpoint.link_local = known;
        let put = firewall.kernel().set_endpoint(&endpoint);
        put.expect("there is room");
        for (own, is_own) in [(stable, known.is_some()), (other, false)] {
            for (i, packet) in said(own).into_iter().enumerate() {
                let moved = match (is_own, i) {
                    (true, 4) => passed(Reason::MulticastListener),
                    (true, _) => passed(Reason::NeighbourDiscovery),
                    (false, _) => refused(Reason::SpoofedSource),
                };
                expect(&mut firewall, OUT, &packet, &leaving(web), moved);
            }
        }
    }
}

/// A workload that asks for an address is judged as the workload that it is, by its own
/// hook and by every receiver's.
#[test]
fn dhcp_clients_are_judged_as_their_workload() {
    const WEB_NOT_TO_CACHE: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - action: Deny
    to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: cache}}}}]
";
    let closed = refused(Reason::Isolated);
    for (documents, sent) in [
        (WEB_NOT_TO_CACHE, passed(Reason::NotIsolated)),
        (CLOSED, closed),
    ] {
        let Scene {
            mut firewall,
            world,
            inside: _inside,
        } = Scene::open(Wiring::Bridge, documents);
        let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
        let mut endpoint = firewall.endpoint(&world, "shop/web");
        endpoint.link_local = Some(link_local);
        let put = firewall.kernel().set_endpoint(&endpoint);
        put.expect("there is room");
        let asks = |start: [u8; 4], mac: Mac| {
            let message = [&start[..], &[0; 24], &mac.0, &[0; 210]].concat();
            udp()
                .from(web.end)
                .to(Ipv4Addr::BROADCAST)
                .source_ip(Ipv4Addr::UNSPECIFIED)
                .sport(68)
                .dport(67)
                .payload(&message)
        };
        let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
        let asks_v6 = |from: Ipv6Addr| {
            let packet = udp()
                .family(Family::V6)
                .from(web.end)
                .to(servers)
                .source_ip(from)
                .sport(546)
                .dport(547);
            packet.payload(&[1, 0, 0, 7])
        };
        let request = [1, 1, 6, 0];
        let discover = asks(request, web.end.mac);
        let solicit = asks_v6(link_local);
        for packet in [&discover, &solicit] {
            expect(&mut firewall, OUT, packet, &leaving(web), sent);
        }
        let spoofs = refused(Reason::SpoofedSource);
        for packet in [
            asks([2, 1, 6, 0], web.end.mac),
            asks([1, 6, 6, 0], web.end.mac),
            asks([1, 1, 8, 0], web.end.mac),
            asks(request, cache.end.mac),
            discover.clone().sport(67),
            discover.clone().dport(53),
            discover
                .clone()
                .destination_ip(cache.end.ipv4.expect("both")),
            discover.clone().fragment(7, 0, true),
            discover.clone().payload(&[1, 1, 6, 0]),
            asks_v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x78)),
            solicit.clone().dport(53),
            solicit.clone().sport(53),
            solicit
                .clone()
                .destination_ip(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        ] {
            expect(&mut firewall, OUT, &packet, &leaving(web), spoofs);
        }
        if sent == closed {
            continue;
        }
        let towards = Program::TO_WORKLOAD;
        for packet in [&discover, &solicit] {
            let moved = denied(Hook::ToWorkload, Reason::Rule, 1);
            expect(&mut firewall, towards, packet, &between(web, cache), moved);
            let from_elsewhere = TestContext {
                ifindex: cache.host_ifindex,
                ingress_ifindex: world.outside().uplink_ifindex,
                ..TestContext::default()
            };
            let moved = allowed(Hook::ToWorkload, Reason::NotIsolated, 1);
            expect(&mut firewall, towards, packet, &from_elsewhere, moved);
        }
    }
}

/// Neighbour discovery goes to neighbours. To an address that a router would forward it
/// to, it is a packet like any other.
#[test]
fn neighbour_discovery_passes_no_router() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, CLOSED);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let (mine, theirs) = (web.end.ipv6.expect("both"), db.end.ipv6.expect("both"));
    let good = passed(Reason::NeighbourDiscovery);
    let isolated = refused(Reason::Isolated);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let site = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1);
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let outside = world.outside().end.ipv6.expect("both");
    for (to, moved) in [
        // A probe of a neighbour that is known (RFC 4861, 7.3.1), and its answer.
        (theirs, good),
        (web.gateway.ipv6.expect("both"), good),
        (router, good),
        (all_nodes, good),
        (site, isolated),
        (outside, isolated),
    ] {
        for packet in [
            neighbour_solicitation(theirs),
            neighbour_advertisement(mine),
        ] {
            let packet = packet.from(web.end).destination_ip(to).via(web.gateway.mac);
            expect(&mut firewall, OUT, &packet, &leaving(web), moved);
        }
    }
}
