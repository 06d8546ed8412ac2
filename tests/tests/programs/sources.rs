//! Who may say what: source addresses, MACs, ARP, neighbour discovery, and frames
//! that are not understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_tests::{
    firewall::{named, stamp},
    ledger::{Moved, allowed, decided, denied},
    packet::{
        Extension, Family, Icmp, Mac, Packet, arp_announcement, arp_reply, arp_request, ether,
        group_joined, group_left, group_query, group_record, group_report, group_source_query,
        igmpv1_report, ip_protocol, llc, mldv2_report, multicast_router, neighbour_advertisement,
        neighbour_solicitation, option, ping, redirect, router_advertisement, router_solicitation,
        tcp, udp,
    },
    world::Wiring,
};
use cofferdam_verdict::{
    counter::Hook,
    judge::{Context, judge},
    reason::Reason,
    slices::SliceFrame,
    verdict::{Action, Verdict},
};

use super::verdicts::{DB_FROM_WEB, Scene, between, expect, expect_bytes, leaving};

const OUT: Program = Program::FROM_WORKLOAD;

fn refused(reason: Reason) -> Moved {
    denied(Hook::FromWorkload, reason, 1)
}

fn passed(reason: Reason) -> Moved {
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
            let packet = udp().family(Family::V6).from(web.end).to(servers);
            let packet = packet.source_ip(from).sport(546).dport(547);
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
        let bridge = world.node().bridge.as_ref();
        let bridge = bridge.map_or(0, |bridge| bridge.ifindex);
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
