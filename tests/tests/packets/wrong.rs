//! Packets that are wrong in one place, and words that are refused.

use std::net::Ipv4Addr;

use cofferdam_tests::packet::*;

use crate::{DB, IP, L4_V4, L4_V6, WEB, leftover, u16_at};

#[test]
fn arp_lies_in_one_field_at_a_time() {
    let honest = arp_reply().from(WEB).to(DB);
    let other = End::number(9);
    for (lie, changed) in [
        (honest.clone().sender_mac(other.mac), 22..28),
        (honest.clone().sender_ip(other.ipv4.unwrap()), 28..32),
        (honest.clone().target_mac(other.mac), 32..38),
        (honest.clone().target_ip(other.ipv4.unwrap()), 38..42),
        (honest.clone().operation(9), 20..22),
        (honest.clone().kinds(6, 0x86dd), 14..18),
        (honest.clone().address_lengths(8, 16), 18..20),
        (honest.clone().source_mac(other.mac), 6..28),
    ] {
        let (lie_bytes, honest_bytes) = (lie.bytes(), honest.bytes());
        assert_ne!(lie_bytes, honest_bytes, "{lie}");
        for at in (0..42).filter(|at| !changed.contains(at)) {
            assert_eq!(lie_bytes[at], honest_bytes[at], "{lie}: byte {at}");
        }
    }
    // Only the frame's source is somebody else's: ARP still names the sender.
    let bytes = honest.source_mac(other.mac).sender_mac(WEB.mac).bytes();
    assert_eq!(
        (&bytes[6..12], &bytes[22..28]),
        (&other.mac.0[..], &WEB.mac.0[..])
    );
}

#[test]
fn checksums_can_be_wrong_or_absent() {
    for family in Family::BOTH {
        let wrong = udp().family(family).payload(b"x").checksum(Checksum::Wrong);
        assert_ne!(leftover(&wrong.bytes()).1, 0);
    }
    let absent = udp().checksum(Checksum::Fixed(0)).bytes();
    assert_eq!(u16_at(&absent, L4_V4 + 6), 0);
    let header = udp().header_checksum(0xbeef).bytes();
    assert_eq!(u16_at(&header, IP + 10), 0xbeef);
    let (right, wrong) = (sctp().init(1), sctp().init(1).checksum(Checksum::Wrong));
    assert_ne!(
        right.bytes()[L4_V4 + 8..][..4],
        wrong.bytes()[L4_V4 + 8..][..4]
    );
}

#[test]
fn lengths_are_what_was_claimed_and_the_bytes_stay() {
    let honest = udp().payload(&[7; 12]).bytes();
    assert_eq!(
        (u16_at(&honest, IP + 2), u16_at(&honest, L4_V4 + 4)),
        (40, 20)
    );
    // On either side of the IPv4 header, of IPv4 and UDP headers, of the whole.
    for claimed in [0, 19, 20, 27, 28, 39, 40, 41, 0xffff] {
        let lie = udp().payload(&[7; 12]).ip_length(claimed);
        assert_eq!(u16_at(&lie.bytes(), IP + 2), claimed);
        assert_eq!(lie.bytes().len(), honest.len());
        assert_eq!(checksum::internet(&[&lie.bytes()[IP..L4_V4]]), 0, "{lie}");
    }
    for claimed in [0, 7, 8, 19, 20, 21] {
        let lie = udp().payload(&[7; 12]).udp_length(claimed).bytes();
        assert_eq!(u16_at(&lie, L4_V4 + 4), claimed);
        assert_eq!(lie.len(), honest.len());
    }
    let honest = udp().family(Family::V6).payload(&[7; 12]);
    assert_eq!(u16_at(&honest.bytes(), IP + 4), 20);
    let lie = honest.clone().ip_length(7).bytes();
    assert_eq!((u16_at(&lie, IP + 4), lie.len()), (7, honest.bytes().len()));
    // Behind the packet there may be more, which no length counts.
    let trailed = honest.clone().trailer(b"more").bytes();
    assert_eq!(
        (u16_at(&trailed, IP + 4), trailed.len()),
        (20, honest.bytes().len() + 4)
    );
    assert_eq!(udp().padded_to(60).bytes().len(), 60);
    assert_eq!(honest.padded_to(60).bytes().len(), IP + 60);
}

#[test]
fn ipv4_header_lengths_lie_on_either_side_of_the_truth() {
    for options in [0, 4, 40] {
        let packet = tcp().syn().ip_options(&vec![1; options]);
        let truth = 5 + options / 4;
        assert_eq!(usize::from(packet.bytes()[IP] & 0xf), truth);
        assert_eq!(
            packet.bytes()[IP + 20 + options..],
            packet.transport_bytes()
        );
    }
    for ihl in [0, 4, 5, 6, 15] {
        let lie = tcp().syn().ihl(ihl).bytes();
        assert_eq!((lie[IP] & 0xf, lie.len()), (ihl, L4_V4 + 20));
        // Whoever believes it finds the checksum right.
        let believed = (usize::from(ihl) * 4).clamp(20, lie.len() - IP);
        assert_eq!(checksum::internet(&[&lie[IP..IP + believed]]), 0);
    }
}

#[test]
fn tcp_header_lengths_lie_on_either_side_of_the_truth() {
    assert_eq!(tcp().bytes()[L4_V4 + 12] >> 4, 5);
    assert_eq!(tcp().tcp_options(&[1; 3]).bytes()[L4_V4 + 12] >> 4, 6);
    assert_eq!(tcp().tcp_options(&[1; 40]).bytes()[L4_V4 + 12] >> 4, 15);
    for words in [0, 4, 5, 6, 15] {
        let lie = tcp().syn().data_offset(words).payload(b"data");
        assert_eq!(
            (lie.bytes()[L4_V4 + 12] >> 4, lie.bytes().len()),
            (words, L4_V4 + 24)
        );
        assert_eq!(leftover(&lie.bytes()), (0, 0), "{lie}");
    }
}

#[test]
fn fragments_have_offset_flag_and_identification() {
    for (offset, more, expected) in [
        (0, true, 0x2000),
        (0, false, 0),
        (8, true, 0x2001),
        (65528, false, 0x1fff),
    ] {
        let v4 = udp().fragment(0x12345, offset, more).bytes();
        assert_eq!(u16_at(&v4, IP + 4), 0x2345, "IPv4 has the lower half");
        assert_eq!(u16_at(&v4, IP + 6), expected);
        let v6 = udp()
            .family(Family::V6)
            .fragment(0x12345, offset, more)
            .bytes();
        assert_eq!((v6[IP + 6], v6[L4_V6]), (protocol::FRAGMENT, protocol::UDP));
        assert_eq!(u16_at(&v6, L4_V6 + 2), (offset as u16) | u16::from(more));
        assert_eq!(v6[L4_V6 + 4..][..4], 0x12345u32.to_be_bytes());
        assert_eq!(u16_at(&v6, IP + 4), 8 + 8, "the fragment header is payload");
    }
    assert_eq!(u16_at(&udp().dont_fragment().bytes(), IP + 6), 0x4000);
    assert_eq!(u16_at(&udp().reserved_flag().bytes(), IP + 6), 0x8000);
}

#[test]
fn a_cut_datagram_is_whole_again_when_joined() {
    for (family, l4) in [(Family::V4, L4_V4), (Family::V6, L4_V6 + 8)] {
        let whole = udp().family(family).identification(77).payload(&[9; 100]);
        let pieces = whole.fragments(&[8, 16, 104]);
        assert_eq!(pieces.len(), 4);
        let joined: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.bytes().split_off(l4))
            .collect();
        assert_eq!(joined, whole.transport_bytes());
        let lines: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        assert!(
            lines[0].ends_with("(fragment 0x4d at 0, more; +8 bytes)"),
            "{lines:?}"
        );
        assert!(
            lines[3].ends_with("(fragment 0x4d at 104, last; +4 bytes)"),
            "{lines:?}"
        );
    }
    // Headers of the unfragmentable part go before each fragment header; one
    // fragment alone can be given more of them.
    let whole = udp().family(Family::V6).payload(&[9; 16]);
    let pieces = whole.fragments(&[8]);
    let first = pieces[0]
        .clone()
        .extension(Extension::destination_options(&[]));
    assert_eq!(first.bytes()[IP + 6], protocol::DESTINATION_OPTIONS);
    assert_eq!(first.bytes()[L4_V6], protocol::FRAGMENT);
    assert_eq!(pieces[1].bytes()[IP + 6], protocol::FRAGMENT);
}

#[test]
#[should_panic(expected = "multiples of eight")]
fn a_fragment_between_multiples_of_eight_is_refused() {
    _ = udp().fragment(1, 4, true);
}

#[test]
#[should_panic(expected = "13 bits")]
fn a_fragment_beyond_the_field_is_refused() {
    _ = udp().fragment(1, 65536, true);
}

#[test]
#[should_panic(expected = "this ipv6 packet was given a setting of IPv4 alone")]
fn ipv4_settings_on_ipv6_are_refused() {
    _ = udp().family(Family::V6).ihl(4).bytes();
}

#[test]
#[should_panic(expected = "this ipv4 packet was given a setting of IPv6 alone")]
fn ipv6_settings_on_ipv4_are_refused() {
    _ = udp()
        .extension(Extension::hop_by_hop(&[]))
        .family(Family::V4)
        .bytes();
}

#[test]
#[should_panic(expected = "has no address of that family")]
fn an_end_without_the_family_is_refused() {
    _ = udp()
        .from(Ipv4Addr::new(10, 0, 0, 1))
        .family(Family::V6)
        .bytes();
}

#[test]
fn a_chain_of_any_length_leads_to_the_transport() {
    for n in [0, 1, 8, 10, 60] {
        let packet = tcp()
            .family(Family::V6)
            .syn()
            .extensions(n, Extension::hop_by_hop(&[]));
        let (protocol, l4) = walk(&packet.bytes());
        assert_eq!((protocol, l4), (protocol::TCP, L4_V6 + 8 * n), "{packet}");
    }
    let mixed = udp()
        .family(Family::V6)
        .extension(Extension::router_alert())
        .extension(Extension::routing(0, 1, &[0; 20]))
        .extension(Extension::authentication(&[1; 12]))
        .extension(Extension::fragment(9, 0, false))
        .extension(Extension::destination_options(&[1, 0]))
        .extension(Extension::measured(protocol::MOBILITY, &[0; 6]));
    let (protocol, l4) = walk(&mixed.bytes());
    assert_eq!(protocol, protocol::UDP);
    assert_eq!(l4 - L4_V6, 8 + 24 + 24 + 8 + 8 + 8);
    assert_eq!(mixed.bytes()[l4..], mixed.transport_bytes());
    let long = udp()
        .family(Family::V6)
        .extension(Extension::destination_options(&[0; 2038]));
    assert_eq!(walk(&long.bytes()).1 - L4_V6, 2040);

    /// The protocol at the end of the chain and where it begins.
    fn walk(frame: &[u8]) -> (u8, usize) {
        let (mut next, mut at) = (frame[IP + 6], L4_V6);
        loop {
            let length = match next {
                protocol::AUTHENTICATION => (usize::from(frame[at + 1]) + 2) * 4,
                protocol::FRAGMENT => 8,
                0 | 43 | 60 | 135 => (usize::from(frame[at + 1]) + 1) * 8,
                other => return (other, at),
            };
            (next, at) = (frame[at], at + length);
        }
    }
}

#[test]
fn extension_headers_can_lie() {
    let header = Extension::hop_by_hop(&[]);
    for claimed in [0, 1, 255] {
        let lie = udp()
            .family(Family::V6)
            .extension(header.clone().with_length(claimed));
        assert_eq!(lie.bytes()[L4_V6 + 1], claimed);
        assert_eq!(lie.bytes().len(), L4_V6 + 8 + 8);
    }
    let mislabelled = udp()
        .family(Family::V6)
        .extension(header)
        .protocol(protocol::TCP);
    assert_eq!(mislabelled.bytes()[L4_V6], protocol::TCP);
    let jumbo = udp()
        .extension(Extension::jumbo(70000))
        .family(Family::V6)
        .ip_length(0)
        .bytes();
    assert_eq!(jumbo[L4_V6..][..8], [17, 0, 0xc2, 4, 0, 1, 0x11, 0x70]);
    assert_eq!(no_next_header().payload(b"!").bytes()[IP + 6], 59);
}

#[test]
fn options_are_padded_to_whole_headers() {
    // Nothing, one Pad1, and PadN from two bytes on: RFC 8200 section 4.2.
    for (options, padded) in [
        (&[5, 2, 0, 0, 1, 0][..], &[5, 2, 0, 0, 1, 0][..]),
        (&[5, 2, 0, 0, 0], &[5, 2, 0, 0, 0, 0]),
        (&[5, 2, 0, 0], &[5, 2, 0, 0, 1, 0]),
        (&[], &[1, 4, 0, 0, 0, 0]),
    ] {
        let packet = udp()
            .family(Family::V6)
            .extension(Extension::hop_by_hop(options))
            .bytes();
        assert_eq!(packet[L4_V6 + 2..][..6], *padded, "{options:?}");
    }
}

#[test]
fn tags_stand_between_the_addresses_and_the_packet() {
    let plain = udp().bytes();
    let tagged = udp().vlan(5).bytes();
    assert_eq!(tagged[12..18], [0x81, 0, 0, 5, 8, 0]);
    assert_eq!(tagged[18..], plain[14..]);
    assert_eq!(udp().vlan(0).bytes()[12..18], [0x81, 0, 0, 0, 8, 0]);
    let qinq = udp().family(Family::V6).qinq(2, 3).bytes();
    assert_eq!(qinq[12..22], [0x88, 0xa8, 0, 2, 0x81, 0, 0, 3, 0x86, 0xdd]);
    let five = (1..=5).fold(udp(), |packet, vid| packet.vlan(vid)).bytes();
    assert_eq!((five.len(), five[15], five[31]), (plain.len() + 20, 1, 5));
    let lie = udp().vlan(5).ethertype(ethertype::IPV6).bytes();
    assert_eq!(
        lie[12..18],
        [0x81, 0, 0, 5, 0x86, 0xdd],
        "the innermost type"
    );
    assert_eq!(arp_request().vlan(0).bytes()[16..18], [0x08, 0x06]);
}

#[test]
fn other_framings_hide_the_packet() {
    let plain = udp().bytes();
    let snap = udp().snap().bytes();
    assert_eq!(usize::from(u16_at(&snap, 12)), plain.len() - 14 + 8);
    assert_eq!(snap[14..22], [0xaa, 0xaa, 3, 0, 0, 0, 8, 0]);
    assert_eq!(snap[22..], plain[14..]);
    let mpls = udp().mpls(16).bytes();
    assert_eq!(
        (u16_at(&mpls, 12), &mpls[14..18]),
        (0x8847, &[0, 1, 1, 64][..])
    );
    let pppoe = udp().pppoe(9).bytes();
    assert_eq!(u16_at(&pppoe, 18), (plain.len() - 14 + 2) as u16);
    assert_eq!(pppoe[22..], plain[14..]);
    let stp = llc(0x42, 0x42, 3, &[0; 35]).bytes();
    assert_eq!((u16_at(&stp, 12), stp.len()), (38, 14 + 38));
    let eapol = ether(ethertype::EAPOL).payload(&[1, 1, 0, 0]).bytes();
    assert_eq!(
        (u16_at(&eapol, 12), &eapol[14..]),
        (0x888e, &[1, 1, 0, 0][..])
    );
}

#[test]
fn a_version_can_contradict_the_ethertype() {
    assert_eq!(udp().version(6).bytes()[12..15], [0x08, 0, 0x65]);
    let six_as_four = udp().family(Family::V6).ethertype(ethertype::IPV4).bytes();
    assert_eq!(six_as_four[12..15], [0x08, 0, 0x60]);
    assert_eq!(udp().hop_limit(1).bytes()[IP + 8], 1);
    assert_eq!(udp().family(Family::V6).hop_limit(1).bytes()[IP + 7], 1);
    assert_eq!(udp().traffic_class(0xb8).bytes()[IP + 1], 0xb8);
    let labelled = udp()
        .family(Family::V6)
        .traffic_class(0xb8)
        .flow_label(0xabcde)
        .bytes();
    assert_eq!(labelled[IP..IP + 4], [0x6b, 0x8a, 0xbc, 0xde]);
}

#[test]
fn a_spoofed_source_changes_the_source_alone() {
    let honest = udp().from(WEB).to(DB).bytes();
    let spoofed = udp().from(WEB).to(DB).source_ip(Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(spoofed.bytes()[..12], honest[..12]);
    assert_eq!(spoofed.bytes()[IP + 12..][..8], [10, 0, 0, 9, 10, 0, 0, 2]);
    assert_eq!(leftover(&spoofed.bytes()), (0, 0));
    let gateway = Mac::local(1, 1);
    let routed = udp().from(WEB).to(DB).via(gateway).bytes();
    assert_eq!((&routed[..6], &routed[6..]), (&gateway.0[..], &honest[6..]));
    let other_mac = udp().from(WEB).to(DB).source_mac(gateway).bytes();
    assert_eq!(
        (&other_mac[6..12], &other_mac[12..]),
        (&gateway.0[..], &honest[12..])
    );
}

#[test]
fn a_truncated_frame_is_a_prefix() {
    let whole = tcp().syn().payload(b"data");
    for length in [0, 13, 14, 33, 34, 53, 54, 58] {
        assert_eq!(whole.truncated(length), whole.bytes()[..length]);
    }
}

#[test]
#[should_panic(expected = "has only 54 bytes")]
fn cutting_nothing_off_is_refused() {
    _ = tcp().truncated(55);
}
