//! Fragments follow their first, and ICMP errors the flow that they are about.

use cofferdam_dataplane::Program;
use cofferdam_tests::{
    firewall::{named, stamp},
    packet::{
        Family, Packet, destination_unreachable, packet_too_big, ping, tcp, time_exceeded, udp,
    },
    shop::{CLOSED, DB},
    world::Workload,
};
use cofferdam_verdict::{
    reason::Reason,
    verdict::Action::{self, Allow, Deny},
};

use super::flows::{FLOW, ISOLATED, RULE, Shop, judged};
use super::verdicts::between;

const NO_FIRST: (Action, Reason) = (Deny, Reason::FragmentNoFirst);
const RELATED: (Action, Reason) = (Allow, Reason::Related);

const TO: Program = Program::TO_WORKLOAD;
const FROM: Program = Program::FROM_WORKLOAD;

/// A datagram to the database that policy allows, long enough for fragments.
fn datagram(family: Family, web: &Workload, db: &Workload) -> Packet<cofferdam_tests::packet::Udp> {
    let packet = udp().family(family).from(web.end).to(db.end);
    packet.sport(4000).dport(53).payload(&[7; 64])
}

#[test]
fn later_fragments_follow_their_first_at_either_hook() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    for family in Family::BOTH {
        let whole = datagram(family, web, db);
        let first = whole.clone().fragment(9, 0, true);
        let middle = whole.clone().fragment(9, 24, true);
        let last = whole.clone().fragment(9, 48, false);
        for program in [FROM, TO] {
            let meet = |shop: &mut Shop, packet: &Packet<_>| shop.meet(program, packet, web, db);
            assert_eq!(meet(&mut shop, &middle), NO_FIRST, "{family:?} {program}");
            assert_eq!(meet(&mut shop, &first), RULE);
            // The last may overtake; what is left of the datagram still passes.
            for fragment in [&last, &middle, &last] {
                assert_eq!(meet(&mut shop, fragment), FLOW, "{family:?} {program}");
            }
            let other = whole.clone().fragment(10, 24, true);
            assert_eq!(meet(&mut shop, &other), NO_FIRST, "of another datagram");
        }
        // Denied firsts take nothing along.
        let denied = whole.clone().dport(54);
        let first = denied.clone().fragment(11, 0, true);
        assert_eq!(shop.meet(TO, &first, web, db), ISOLATED);
        let later = denied.fragment(11, 24, true);
        assert_eq!(shop.meet(TO, &later, web, db), NO_FIRST);
    }
}

/// A fragment behind the first one's start could write over the ports that were judged.
#[test]
fn no_fragment_overlaps_the_header_that_was_judged() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    for family in Family::BOTH {
        let whole = tcp()
            .family(family)
            .from(web.end)
            .to(db.end)
            .dport(5432)
            .syn()
            .payload(&[7; 64]);
        let first = whole.clone().fragment(9, 0, true);
        assert_eq!(shop.meet(TO, &first, web, db), RULE);
        let malformed = (Deny, Reason::Malformed);
        for (offset, expected) in [(8, malformed), (16, malformed), (24, FLOW)] {
            let later = whole.clone().fragment(9, offset, true);
            assert_eq!(shop.meet(TO, &later, web, db), expected, "{offset}");
        }
    }
}

#[test]
fn a_remembered_fragment_dies_with_table_sender_and_peer() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let whole = datagram(Family::V4, web, db);
    let first = whole.clone().fragment(9, 0, true);
    let later = whole.fragment(9, 24, true);
    let hold = |shop: &mut Shop| {
        let verdict = shop.meet(TO, &first, web, db);
        assert!([RULE, FLOW].contains(&verdict));
        assert_eq!(shop.meet(TO, &later, web, db), FLOW);
    };
    hold(&mut shop);
    // Another workload's piece does not join the datagram.
    let context = between(cache, db);
    let foreign = judged(&mut shop.firewall, TO, &later.bytes(), &context);
    assert_eq!(foreign, (Deny, Reason::ForeignLocalAddress));
    let unstamped = context.stamped(0);
    let foreign = judged(&mut shop.firewall, TO, &later.bytes(), &unstamped);
    assert_eq!(foreign, (Deny, Reason::ForeignLocalAddress));
    shop.firewall.replace_policies(&[CLOSED, DB].concat());
    assert_eq!(shop.meet(TO, &later, web, db), NO_FIRST, "another table");
    hold(&mut shop);
    let mut endpoint = shop.firewall.endpoint(&world, "shop/db");
    endpoint.incarnation += 1;
    let set = shop.firewall.kernel().set_endpoint(&endpoint);
    set.expect("there is room");
    assert_eq!(shop.meet(TO, &later, web, db), NO_FIRST, "another endpoint");
    hold(&mut shop);
    let mut peer = shop.firewall.endpoint(&world, "shop/web");
    peer.incarnation += 1;
    let set = shop.firewall.kernel().set_endpoint(&peer);
    set.expect("there is room");
    assert_eq!(shop.meet(TO, &later, web, db), NO_FIRST, "the peer changed");
}

/// The places for datagrams are bounded, and no sender takes another's.
#[test]
fn one_sender_cannot_take_all_places_for_fragments() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    shop.firewall.replace_policies("");
    let of = |sender: &Workload, number: u32, offset: usize| {
        let whole = datagram(Family::V4, sender, db);
        whole.fragment(number, offset, true)
    };
    let opened = shop.meet(TO, &of(cache, 7, 0), cache, db);
    assert_eq!(opened, (Allow, Reason::NotIsolated));
    // A flood of datagrams that are never finished displaces its own. Actions alone: the
    // first fragments must not be too old when the others come.
    let context = between(web, db);
    let mut passes = |number, offset| {
        let frame = of(web, number, offset).bytes();
        shop.firewall.run(TO, &frame, &context) == Allow
    };
    for number in 1000..1400 {
        assert!(passes(number, 0), "{number}");
    }
    let kept = (1000..1400).filter(|&number| passes(number, 24)).count();
    assert_eq!(shop.meet(TO, &of(cache, 7, 24), cache, db), FLOW);
    // Two places of each of sixteen sets.
    assert!((24..=32).contains(&kept), "{kept}");
}

#[test]
fn errors_about_a_live_flow_pass_and_no_others() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let outside = world.outside().end;
    let node = world.node().end;
    for family in Family::BOTH {
        let asked = udp()
            .family(family)
            .from(web.end)
            .to(db.end)
            .sport(4001)
            .dport(53);
        let uplink = between(web, web).stamped(0);
        let arrive = |shop: &mut Shop, error: &Packet<_>| {
            judged(&mut shop.firewall, TO, &error.bytes(), &uplink)
        };
        let too_big = packet_too_big(&asked, 1300).from(outside);
        assert_eq!(arrive(&mut shop, &too_big), ISOLATED, "no flow yet");
        assert_eq!(shop.send(&asked, web, db), [RULE, RULE]);
        // From a router, and from the node in a router's place, about what was sent.
        for router in [outside, node] {
            for error in [
                packet_too_big(&asked, 1300).from(router),
                time_exceeded(&asked).from(router),
                destination_unreachable(&asked).from(router),
            ] {
                assert_eq!(arrive(&mut shop, &error), RELATED, "{family:?} {error}");
            }
        }
        // About what the workload never sent.
        for other in [
            asked.clone().sport(4002),
            asked.clone().dport(54),
            asked.clone().to(cache.end),
        ] {
            let error = packet_too_big(&other, 1300).from(outside);
            assert_eq!(arrive(&mut shop, &error), ISOLATED, "{family:?} {error}");
        }
        // To somebody else than the sender of the packet that it quotes.
        let astray = packet_too_big(&asked, 1300).from(outside).to(cache.end);
        let context = between(web, cache).stamped(0);
        let arrived = judged(&mut shop.firewall, TO, &astray.bytes(), &context);
        assert_eq!(arrived, ISOLATED);
        // The receiver itself says so: both hooks let it pass.
        let refused = destination_unreachable(&asked).from(db.end);
        assert_eq!(shop.send(&refused, db, web), [RELATED, RELATED]);
        // About a packet that the database has not received.
        let never = destination_unreachable(&asked.clone().dport(54)).from(db.end);
        assert_eq!(shop.send(&never, db, web), [ISOLATED]);
        // In a local workload's name, from elsewhere.
        let context = between(db, web).stamped(stamp(cache));
        let forged = judged(&mut shop.firewall, TO, &refused.bytes(), &context);
        assert_eq!(forged, (Deny, Reason::ForeignLocalAddress));
        // No longer than the RFC allows: it is no tunnel.
        let most = match family {
            Family::V4 => 576,
            Family::V6 => 1280,
        };
        for (bytes, expected) in [(most, RELATED), (most + 4, (Deny, Reason::SignallingSize))] {
            let longer = asked.clone().payload(&[0; 1500]);
            let error = packet_too_big(&longer, 1300)
                .from(outside)
                .trailer(&vec![0; bytes - most]);
            assert_eq!(error.bytes().len(), 14 + bytes, "{family:?}");
            assert_eq!(arrive(&mut shop, &error), expected, "{family:?}");
        }
        // The flow ends with its rule, and what is said about it, too.
        shop.firewall.replace_policies(CLOSED);
        let late = packet_too_big(&asked, 1300).from(outside);
        assert_eq!(arrive(&mut shop, &late), ISOLATED);
        shop.firewall.replace_policies(&[CLOSED, DB].concat());
    }
}

/// An echo is known by its identifier, and by who asked.
#[test]
fn errors_about_echoes_are_told_from_each_other() {
    let (world, mut shop) = Shop::open();
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    let outside = world.outside().end;
    for family in Family::BOTH {
        let echo = ping(family).from(web.end).to(cache.end).echo(3, 1);
        assert_eq!(shop.send(&echo, web, cache), [RULE, RULE]);
        let arrive = |shop: &mut Shop, to: &Workload, error: &Packet<_>| {
            let context = between(to, to).stamped(0);
            judged(&mut shop.firewall, TO, &error.bytes(), &context)
        };
        let about = time_exceeded(&echo).from(outside);
        assert_eq!(arrive(&mut shop, web, &about), RELATED);
        let about = time_exceeded(&echo.clone().echo(4, 1)).from(outside);
        assert_eq!(arrive(&mut shop, web, &about), ISOLATED);
        // The cache answers; an error about its answer goes to it.
        let about = time_exceeded(&echo.reply()).from(outside);
        assert_eq!(arrive(&mut shop, cache, &about), RELATED);
        // The cache has not asked.
        let asked = ping(family).from(cache.end).to(web.end).echo(3, 1);
        let about = time_exceeded(&asked).from(outside);
        assert_eq!(arrive(&mut shop, cache, &about), ISOLATED);
    }
}
