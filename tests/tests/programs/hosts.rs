//! Real stacks under policies that close everything: hosts lose none of what they say to
//! find each other, and no denial is counted for it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use cofferdam_tests::{
    firewall::{Firewall, named},
    ledger::Ledger,
    packet::{
        Family, arp_announcement, arp_request, ethertype, neighbour_advertisement,
        neighbour_solicitation, protocol,
    },
    skip::Feature,
    skip_unless,
    traffic::{FrameSocket, Probe, probe},
    world::{Wiring, Workload},
};
use cofferdam_verdict::{counter::Hook, reason::Reason, verdict::Action};

use super::{signalling::CLOSED, verdicts::shop};

/// Longest wait for a message that was sent, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages of a stack, by family, type, and whether it has an address.
type Kind = (u16, u8, bool);
const IGMP_V3_REPORT: Kind = (ethertype::IPV4, 0x22, true);
const IGMP_V2_REPORT: Kind = (ethertype::IPV4, 0x16, true);
const IGMP_LEAVE: Kind = (ethertype::IPV4, 0x17, true);
const MLD_V2_REPORT: Kind = (ethertype::IPV6, 143, true);
const MLD_V1_REPORT: Kind = (ethertype::IPV6, 131, true);
const MLD_DONE: Kind = (ethertype::IPV6, 132, true);
const DETECTION: Kind = (ethertype::IPV6, 135, false);
const SOLICITATION: Kind = (ethertype::IPV6, 133, true);
const ADVERTISEMENT: Kind = (ethertype::IPV6, 136, true);

fn kind(frame: &[u8]) -> Option<Kind> {
    let family = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let (number, at, source) = match family {
        ethertype::IPV4 => (
            *frame.get(23)?,
            14 + usize::from(frame.get(14)? & 15) * 4,
            frame.get(26..30)?,
        ),
        ethertype::IPV6 => match frame.get(20)? {
            0 => (*frame.get(54)?, 62, frame.get(22..38)?),
            number => (*number, 54, frame.get(22..38)?),
        },
        _ => return None,
    };
    let is_signalling = matches!(number, protocol::IGMP | protocol::ICMPV6);
    let has_address = source.iter().any(|byte| *byte != 0);
    is_signalling.then_some((family, *frame.get(at)?, has_address))
}

/// Waits until the workload has sent a message.
fn sees(wire: &FrameSocket, wanted: Kind) {
    let frame = wire.next(PATIENCE, |frame| kind(frame) == Some(wanted));
    assert!(frame.expect("frames").is_some(), "{wanted:?} is sent");
}

/// All denials of a hook, by reason.
fn denials(ledger: &Ledger) -> Vec<(Hook, Reason, u64)> {
    let hooks = [Hook::FromWorkload, Hook::ToWorkload];
    let all = hooks.into_iter().flat_map(|hook| {
        let reasons = Reason::ALL.iter();
        reasons.map(move |reason| (hook, *reason))
    });
    all.map(|(hook, reason)| (hook, reason, ledger.judged(hook, Action::Deny, reason)))
        .filter(|(_, _, packets)| *packets != 0)
        .collect()
}

/// Lets an interface speak IPv6 anew, as when it comes up: with a link-local address that
/// does not follow from its MAC, which it detects duplicates of, and a router to look for.
fn speak_anew(workload: &Workload) {
    let set = |name: &str, value: &str| {
        let parameter = format!("net/ipv6/conf/eth0/{name}");
        workload
            .namespace
            .set(&parameter, value)
            .expect("a parameter");
    };
    set("disable_ipv6", "1");
    set("disable_ipv6", "0");
}

fn prepare(workload: &Workload) {
    let parameters = [
        ("net/ipv6/conf/eth0/stable_secret", "fd00::c0ff:eeda"),
        ("net/ipv6/conf/eth0/accept_dad", "1"),
        ("net/ipv6/conf/eth0/dad_transmits", "1"),
        ("net/ipv6/conf/eth0/ndisc_notify", "1"),
        ("net/ipv6/conf/eth0/router_solicitations", "3"),
        ("net/ipv6/conf/eth0/router_solicitation_delay", "0"),
        (
            "net/ipv6/conf/eth0/mldv2_unsolicited_report_interval",
            "100",
        ),
        ("net/ipv6/neigh/eth0/retrans_time_ms", "100"),
    ];
    for (parameter, value) in parameters {
        workload
            .namespace
            .set(parameter, value)
            .expect("a parameter");
    }
}

/// The workload's link-local address.
fn link_local(workload: &Workload) -> Ipv6Addr {
    let table = workload.namespace.run(|| {
        std::fs::read_to_string("/proc/thread-self/net/if_inet6").expect("the kernel's table")
    });
    let mut addresses = table
        .lines()
        .filter_map(|line| line.get(..32))
        .map(|digits| {
            let number = u128::from_str_radix(digits, 16).expect("an address");
            Ipv6Addr::from(number)
        });
    addresses
        .find(Ipv6Addr::is_unicast_link_local)
        .expect("a link-local address")
}

#[test]
fn hosts_lose_no_signalling_and_raise_no_denial() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let (world, pods) = shop(wiring);
        let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
        prepare(web);
        speak_anew(web);
        let stable = link_local(web);
        let mut firewall = Firewall::turn();
        firewall.enforce(&world, &pods, CLOSED);
        let mut endpoint = firewall.endpoint(&world, "shop/web");
        endpoint.link_local = Some(stable);
        let put = firewall.kernel().set_endpoint(&endpoint);
        put.expect("there is room");
        firewall.attach(&world);
        let before = firewall.ledger();

        let wire =
            FrameSocket::open(&world.node().namespace, &web.host_interface).expect("a socket");
        speak_anew(web);
        for message in [DETECTION, SOLICITATION] {
            sees(&wire, message);
        }
        assert_eq!(link_local(web), stable);

        let socket = web
            .namespace
            .run(|| UdpSocket::bind("0.0.0.0:0"))
            .expect("a socket");
        let own = web.end.ipv4.expect("both");
        let group = |last| Ipv4Addr::new(239, 1, 2, last);
        socket.join_multicast_v4(&group(1), &own).expect("joined");
        sees(&wire, IGMP_V3_REPORT);
        let set = |parameter, value| web.namespace.set(parameter, value).expect("a parameter");
        set("net/ipv4/conf/eth0/force_igmp_version", "2");
        socket.join_multicast_v4(&group(2), &own).expect("joined");
        sees(&wire, IGMP_V2_REPORT);
        socket.leave_multicast_v4(&group(2), &own).expect("left");
        sees(&wire, IGMP_LEAVE);

        let socket = web
            .namespace
            .run(|| UdpSocket::bind("[::]:0"))
            .expect("a socket");
        let group = |last| Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, last);
        let join = |last| socket.join_multicast_v6(&group(last), web.ifindex);
        join(0xc).expect("joined");
        sees(&wire, MLD_V2_REPORT);
        set("net/ipv6/conf/eth0/force_mld_version", "1");
        join(0xd).expect("joined");
        sees(&wire, MLD_V1_REPORT);
        let left = socket.leave_multicast_v6(&group(0xd), web.ifindex);
        left.expect("left");
        sees(&wire, MLD_DONE);

        // After a move, and looking whether an address is free and a neighbour there.
        let speaks = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
        let mine = web.end.ipv6.expect("both");
        for packet in [
            arp_announcement().from(web.end).erased(),
            arp_request()
                .from(web.end)
                .to(web.end)
                .sender_ip(Ipv4Addr::UNSPECIFIED)
                .erased(),
            neighbour_solicitation(web.gateway.ipv6.expect("both"))
                .from(web.end)
                .to(web.gateway)
                .source_link_address(web.end.mac)
                .erased(),
            neighbour_advertisement(mine)
                .from(web.end)
                .target_link_address(web.end.mac)
                .erased(),
        ] {
            speaks.send(&packet).expect("sent");
        }
        sees(&wire, ADVERTISEMENT);
        // The node looks for a workload, which answers.
        for family in Family::BOTH {
            let to = db.end.ip(family).expect("both");
            let outcome = probe(world.node(), to, Probe::Ping, PATIENCE).expect("a probe");
            assert!(outcome.is_reached(), "{outcome:?}");
        }

        let deadline = Instant::now() + PATIENCE;
        let ledger = loop {
            let ledger = firewall.ledger();
            let passed = |reason| {
                let [before, now] = [&before, &ledger]
                    .map(|ledger| ledger.judged(Hook::FromWorkload, Action::Allow, reason));
                now - before
            };
            // Three messages of each protocol and family about groups, of which an IGMPv3
            // report may say two things; detection, looking for a router, a probe and an
            // announcement; two of ARP, and an answer.
            if passed(Reason::MulticastListener) >= 6
                && passed(Reason::NeighbourDiscovery) >= 4
                && passed(Reason::Arp) >= 3
            {
                break ledger;
            }
            assert!(
                Instant::now() < deadline,
                "all pass: {:?}",
                denials(&ledger)
            );
            std::thread::yield_now();
        };
        assert_eq!(denials(&ledger), denials(&before), "{wiring}");
        ledger.assert_conserved();
    }
}
