//! Signalling, without which hosts could send no packets: allowed whatever policy says, if it
//! is true.

use std::net::{Ipv4Addr, Ipv6Addr};

use cofferdam_verdict::{reason::Reason, verdict::Action::Allow};

use super::scene::{
    FREE, ISOLATED, Node, Outcome, Policy, Way,
    Who::{Db, Web},
    denied,
    packet::{
        Arp, Family, Icmp, Mac, Packet, arp_announcement, arp_reply, arp_request, mldv2_report,
        neighbour_advertisement, neighbour_solicitation, router_advertisement, router_solicitation,
        udp,
    },
};

const DISCOVERY: Outcome = (Allow, Reason::NeighbourDiscovery);
const SPOOFED: Outcome = denied(Reason::SpoofedSource);
const UNTRUE: Outcome = denied(Reason::UntruthfulNd);

/// A link-local address that follows from a MAC (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    Ipv6Addr::from([
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
    ])
}

#[test]
fn arp_speaks_for_its_own_address_and_mac_alone() {
    let node = Node::under(&Policy::closed());
    let sends = |packet: &Packet<Arp>| node.sends(Web, packet);
    let untrue = denied(Reason::UntruthfulArp);
    let theirs = Db.end().ipv4.expect("both");
    let asked = arp_request().from(Web.end()).to(Db.end());
    for good in [
        asked.clone(),
        arp_reply().from(Web.end()).to(Db.end()),
        arp_announcement().from(Web.end()),
        asked.clone().sender_ip(Ipv4Addr::UNSPECIFIED),
    ] {
        assert_eq!(sends(&good), (Allow, Reason::Arp), "{good}");
        assert_eq!(node.receives(Db, &good, Way::of(Web)), (Allow, Reason::Arp));
    }
    let mut nearly = Web.end().mac;
    nearly.0[5] ^= 1;
    for bad in [
        asked.clone().sender_ip(theirs),
        asked.clone().sender_mac(Db.end().mac),
        asked.clone().sender_mac(nearly),
        asked.clone().operation(3),
        asked.clone().address_lengths(6, 16),
    ] {
        assert_eq!(sends(&bad), untrue, "{bad}");
    }
}

#[test]
fn neighbour_discovery_speaks_for_its_own_addresses_and_mac_alone() {
    let node = Node::under(&Policy::closed());
    let [mine, theirs] = [Web, Db].map(|who| who.end().ipv6.expect("both"));
    let asked = neighbour_solicitation(theirs).from(Web.end());
    let told = neighbour_advertisement(mine).from(Web.end()).to(Db.end());
    let nobody = Ipv6Addr::UNSPECIFIED;
    let own = link_local(Web.end().mac);
    let detection = |target| {
        neighbour_solicitation(target)
            .from(Web.end())
            .source_ip(nobody)
    };
    let of_db = |packet: Packet<Icmp>| packet.source_link_address(Db.end().mac);
    let of_web = |packet: Packet<Icmp>| packet.source_link_address(Web.end().mac);
    for (packet, expected) in [
        (of_web(asked.clone()), DISCOVERY),
        (asked.clone().source_ip(own), DISCOVERY),
        (told.clone().target_link_address(Web.end().mac), DISCOVERY),
        (router_solicitation().from(Web.end()), DISCOVERY),
        (
            router_solicitation().from(Web.end()).source_ip(nobody),
            DISCOVERY,
        ),
        (detection(mine), DISCOVERY),
        (detection(own), DISCOVERY),
        (detection(theirs), SPOOFED),
        (of_web(detection(mine)), SPOOFED),
        (asked.clone().source_ip(theirs), SPOOFED),
        (asked.clone().source_ip(link_local(Db.end().mac)), SPOOFED),
        (of_db(asked.clone()), UNTRUE),
        (of_web(of_db(asked.clone())), UNTRUE),
        (of_db(of_web(asked.clone())), UNTRUE),
        (told.target_link_address(Db.end().mac), UNTRUE),
        (
            neighbour_advertisement(theirs).from(Web.end()).to(Db.end()),
            UNTRUE,
        ),
        (asked.clone().hop_limit(254), UNTRUE),
        (asked.nd_option_bytes(&[1, 0, 0, 0, 0, 0, 0, 0]), UNTRUE),
        (
            router_advertisement().from(Web.end()),
            denied(Reason::RouterAdvertisement),
        ),
    ] {
        assert_eq!(node.sends(Web, &packet), expected, "{packet}");
    }
    let asked = neighbour_solicitation(theirs).from(Web.end());
    assert_eq!(node.receives(Db, &asked, Way::of(Web)), DISCOVERY);
    let far = asked.hop_limit(254);
    assert_eq!(node.receives(Db, &far, Way::of(Web)), UNTRUE);
}

/// No message is a tunnel: none has room for more than it needs.
#[test]
fn signalling_is_no_longer_than_it_needs_to_be() {
    let node = Node::under(&Policy::closed());
    let too_long = denied(Reason::SignallingSize);
    let theirs = Db.end().ipv6.expect("both");
    let arp = arp_request().from(Web.end()).to(Db.end());
    let asked = neighbour_solicitation(theirs).from(Web.end());
    for (bytes, expected) in [(18, (Allow, Reason::Arp)), (19, too_long), (1400, too_long)] {
        let arp = arp.clone().trailer(&vec![0; bytes]);
        assert_eq!(node.sends(Web, &arp), expected, "{bytes}");
        assert_eq!(node.receives(Db, &arp, Way::of(Web)), expected);
    }
    for (count, bytes, expected) in [
        (4, 30, DISCOVERY),
        (5, 30, too_long),
        (1, 38, too_long),
        (1, 1022, too_long),
    ] {
        let option = vec![0; bytes];
        let add = |packet: Packet<Icmp>, _| packet.nd_option(14, &option);
        let packet = (0..count).fold(asked.clone(), add);
        assert_eq!(node.sends(Web, &packet), expected, "{count} of {bytes}");
        assert_eq!(node.receives(Db, &packet, Way::of(Web)), expected);
    }
    let behind = asked.trailer(&[0; 1400]);
    assert_eq!(node.sends(Web, &behind), too_long);
}

/// Messages that a router would forward are policy's, whatever they look like.
#[test]
fn neighbour_discovery_stays_on_its_link() {
    let node = Node::under(&Policy::closed());
    let [mine, theirs] = [Web, Db].map(|who| who.end().ipv6.expect("both"));
    let told = neighbour_advertisement(mine).from(Web.end()).to(Db.end());
    assert_eq!(node.sends(Web, &told), DISCOVERY);
    let [a, b, c, d, ..] = theirs.segments();
    for far in [
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(a, b, c, d ^ 1, 0, 0, 0, 1),
    ] {
        let told = told.clone().destination_ip(far);
        assert_eq!(node.sends(Web, &told), ISOLATED, "{far}");
    }
}

#[test]
fn groups_are_reported_in_ones_own_name() {
    let node = Node::under(&Policy::closed());
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let report = mldv2_report(&[group]).from(Web.end());
    let passes = (Allow, Reason::MulticastListener);
    let own = link_local(Web.end().mac);
    for source in [own, Ipv6Addr::UNSPECIFIED] {
        assert_eq!(node.sends(Web, &report.clone().source_ip(source)), passes);
    }
    let theirs = report.source_ip(link_local(Db.end().mac));
    assert_eq!(node.sends(Web, &theirs), SPOOFED);
}

#[test]
fn no_workload_answers_as_a_dhcp_server() {
    for (family, server, client) in [(Family::V4, 67, 68), (Family::V6, 547, 546)] {
        let node = Node::under(&Policy::default());
        let packet = udp().family(family).from(Web.end()).to(Db.end());
        let answer = packet.clone().sport(server).dport(client);
        assert_eq!(node.sends(Web, &answer), denied(Reason::DhcpServer));
        let asked = packet.clone().sport(client).dport(server);
        assert_eq!(node.sends(Web, &asked), FREE);
        for other in [packet.clone().dport(client), packet.sport(server)] {
            assert_eq!(node.sends(Web, &other), FREE, "{other}");
        }
    }
}
