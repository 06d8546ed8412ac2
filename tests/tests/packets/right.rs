//! Packets that every receiver accepts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_tests::packet::*;

use crate::{DB, IP, L4_V4, L4_V6, WEB, hex, leftover, u16_at};

#[test]
fn checksums_agree_with_published_examples() {
    // RFC 1071 section 3.
    let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum::internet(&[&example]), !0xddf2);
    // An odd byte counts as the upper half of a word, wherever parts are cut.
    assert_eq!(checksum::internet(&[&[0x12]]), !0x1200);
    assert_eq!(checksum::internet(&[&example[..3], &example[3..]]), !0xddf2);
    // RFC 3720 section B.4, and the check value of the CRC catalogues.
    assert_eq!(checksum::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(checksum::crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(checksum::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn whole_frames_agree_with_bytes_worked_out_by_other_means() {
    let syn = tcp().from(WEB).to(DB).dport(5432).syn();
    assert_eq!(
        hex(&syn.bytes()),
        "0200000000020200000000010800\
         4500002800010000400666cd0a0000010a000002\
         9c401538000003e8000000005002faf0eb8e0000"
    );
    let query = udp()
        .family(Family::V6)
        .from(WEB)
        .to(DB)
        .dport(53)
        .payload(b"hello");
    assert_eq!(
        hex(&query.bytes()),
        "02000000000202000000000186dd\
         60000000000d1140fd000000000000000000000000000001fd000000000000000000000000000002\
         9c400035000d258868656c6c6f"
    );
    let echo = ping(Family::V4).payload(b"abc");
    assert_eq!(
        hex(&echo.bytes()),
        "0200000000020200000000010800\
         4500001f00010000400166db0a0000010a000002\
         0800339b00010001616263"
    );
    let init = sctp().dport(3868).init(7);
    assert_eq!(
        hex(&init.bytes()),
        "0200000000020200000000010800\
         4500003400010000408466430a0000010a000002\
         9c400f1c000000002476834401000014000000070001000000010001\
         00000001"
    );
    let target = "fd00::abcd".parse().unwrap();
    let solicitation = neighbour_solicitation(target)
        .from(WEB)
        .source_link_address(WEB.mac);
    assert_eq!(
        hex(&solicitation.bytes()),
        "3333ff00abcd02000000000186dd\
         6000000000203afffd000000000000000000000000000001ff0200000000000000000001ff00abcd\
         8700260000000000fd00000000000000000000000000abcd0101020000000001"
    );
}

#[test]
fn arp_says_who_has_what() {
    let question = arp_request().from(WEB).to(DB).bytes();
    assert_eq!(
        hex(&question),
        "ffffffffffff0200000000010806\
         0001080006040001\
         0200000000010a000001\
         0000000000000a000002"
    );
    let answer = arp_request().from(WEB).to(DB).reply().bytes();
    assert_eq!(
        hex(&answer),
        "0200000000010200000000020806\
         0001080006040002\
         0200000000020a000002\
         0200000000010a000001"
    );
    let announcement = arp_announcement().from(WEB).bytes();
    assert_eq!(announcement[28..32], announcement[38..42], "about itself");
    assert_eq!(announcement[..6], [0xff; 6]);
}

#[test]
fn every_packet_is_right_by_default() {
    for family in Family::BOTH {
        for payload in [&b""[..], b"a", b"ab", &[0xff; 1400]] {
            let probes: [Packet; 5] = [
                tcp().syn().tcp_options(&[2, 4, 5, 0xb4]).erased(),
                tcp().ack().psh().erased(),
                udp().erased(),
                ping(family).erased(),
                ping(family).reply().erased(),
            ];
            for packet in probes {
                let packet = packet.family(family).payload(payload);
                assert_eq!(leftover(&packet.bytes()), (0, 0), "{packet}");
            }
        }
    }
    let with_options = udp().ip_options(&[0x94, 4, 0, 0, 7, 3, 4]).payload(b"x");
    assert_eq!(leftover(&with_options.bytes()), (0, 0));
    let discovery = [
        router_solicitation(),
        router_advertisement().prefix("fd00::".parse().unwrap(), 64),
        neighbour_advertisement(DB.ipv6.unwrap()).target_link_address(DB.mac),
        redirect(DB.ipv6.unwrap(), DB.ipv6.unwrap()),
    ];
    for packet in discovery {
        assert_eq!(leftover(&packet.bytes()), (0, 0), "{packet}");
        assert_eq!(
            packet.bytes()[IP + 7],
            255,
            "{packet} has not passed a router"
        );
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_all_ones() {
    let zero = (0..=u16::MAX)
        .map(|word| udp().payload(&word.to_be_bytes()).bytes())
        .find(|bytes| checksum::internet(&[&sum_input(bytes)]) == 0)
        .expect("one word of 65536 makes the sum zero");
    assert_eq!(u16_at(&zero, L4_V4 + 6), 0xffff);

    /// Returns the bytes that the checksum is made of, with its own field zero.
    fn sum_input(bytes: &[u8]) -> Vec<u8> {
        let mut l4 = bytes[L4_V4..].to_vec();
        l4[6..8].fill(0);
        let (source, destination) = (WEB.ipv4.unwrap().into(), DB.ipv4.unwrap().into());
        [
            checksum::pseudo_header(source, destination, protocol::UDP, l4.len()),
            l4,
        ]
        .concat()
    }
}

#[test]
fn tcp_flags_add_up_and_have_their_bits() {
    for (packet, bits) in [
        (tcp(), 0),
        (tcp().fin(), 0x001),
        (tcp().syn(), 0x002),
        (tcp().rst(), 0x004),
        (tcp().psh(), 0x008),
        (tcp().ack(), 0x010),
        (tcp().syn().ack(), 0x012),
        (
            tcp().flag(flag::URG | flag::ECE | flag::CWR | flag::NS),
            0x1e0,
        ),
        (tcp().flag(0xfff), 0xfff),
    ] {
        assert_eq!(
            u16_at(&packet.bytes(), L4_V4 + 12) & 0xfff,
            bits,
            "{packet}"
        );
    }
    let numbers = tcp().seq(1).ack_number(2).window(3).urgent(4).bytes();
    assert_eq!(numbers[L4_V4 + 4..][..8], [0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(
        (u16_at(&numbers, L4_V4 + 14), u16_at(&numbers, L4_V4 + 18)),
        (3, 4)
    );
}

#[test]
fn a_reply_answers_number_by_number() {
    let syn = tcp().from(WEB).to(DB).sport(1234).dport(5432).seq(99).syn();
    let answer = syn.reply().syn().ack();
    assert_eq!(
        answer.to_string(),
        "tcp 10.0.0.2:5432 > 10.0.0.1:1234 SYN+ACK"
    );
    assert_eq!(
        answer.bytes()[L4_V4 + 8..][..4],
        100u32.to_be_bytes(),
        "SYN takes a number"
    );
    assert_eq!(answer.bytes()[..12], [WEB.mac.0, DB.mac.0].concat());
    let data = tcp().seq(u32::MAX).ack().payload(b"abc").reply().ack();
    assert_eq!(
        data.bytes()[L4_V4 + 8..][..4],
        2u32.to_be_bytes(),
        "numbers wrap"
    );

    let echo = ping(Family::V6).from(WEB).to(DB).echo(7, 8);
    assert_eq!(echo.reply().bytes()[L4_V6], 129);
    assert_eq!(echo.reply().bytes()[L4_V6 + 4..], [0, 7, 0, 8]);
    let init = sctp().init(0xabcd).reply().abort();
    assert_eq!(init.bytes()[L4_V4 + 4..][..4], 0xabcdu32.to_be_bytes());
    // Peculiarities of a packet are not those of its answer.
    let odd = udp()
        .ihl(4)
        .hop_limit(1)
        .vlan(3)
        .fragment(1, 8, true)
        .payload(b"x");
    assert_eq!(
        odd.reply().bytes(),
        udp().from(DB).to(WEB).sport(80).dport(40000).bytes()
    );
}

#[test]
fn multicast_goes_to_the_group_s_mac_address() {
    let groups: [(IpAddr, [u8; 6]); 4] = [
        (
            "224.129.2.3".parse().unwrap(),
            [0x01, 0x00, 0x5e, 0x01, 2, 3],
        ),
        ("255.255.255.255".parse().unwrap(), [0xff; 6]),
        ("ff02::1".parse().unwrap(), [0x33, 0x33, 0, 0, 0, 1]),
        (
            "ff02::1:ff12:3456".parse().unwrap(),
            [0x33, 0x33, 0xff, 0x12, 0x34, 0x56],
        ),
    ];
    for (group, mac) in groups {
        assert_eq!(udp().from(WEB).to(group).bytes()[..6], mac, "{group}");
    }
    for packet in [
        router_solicitation(),
        mldv2_report(&[]),
        group_joined("ff02::1:ff00:7".parse::<IpAddr>().unwrap()),
    ] {
        let frame = packet.bytes();
        assert_eq!(frame[2..6], frame[IP + 36..IP + 40], "{packet}");
    }
    assert_eq!(Mac::of_multicast(WEB.ip(Family::V4).unwrap()), None);
}

#[test]
fn listener_reports_have_a_router_alert_and_one_hop() {
    let group = "ff02::1:ff00:7".parse().unwrap();
    let report = mldv2_report(&[group]).from(WEB).bytes();
    assert_eq!((report[IP + 6], report[IP + 7]), (protocol::HOP_BY_HOP, 1));
    assert_eq!(report[L4_V6..][..8], [58, 0, 5, 2, 0, 0, 1, 0]);
    assert_eq!(report[L4_V6 + 8], 143);
    assert_eq!(u16_at(&report, L4_V6 + 8 + 6), 1);
    assert_eq!(report[L4_V6 + 16 + 4..], group.octets());
}

/// The bytes of RFC 3376, 4.1 and 4.2, and RFC 2236, 2, around a router alert (RFC 2113).
#[test]
fn igmp_says_the_same_in_ipv4() {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let source = IpAddr::from([10, 0, 0, 9]);
    let start = L4_V4 + 4;
    let joined = group_joined(group).bytes();
    assert_eq!((joined[IP], joined[IP + 8], joined[IP + 9]), (0x46, 1, 2));
    assert_eq!(joined[L4_V4..start], [148, 4, 0, 0]);
    assert_eq!(joined[start..], [0x16, 0, 0xf8, 0xfa, 239, 1, 2, 3]);
    assert_eq!(joined[IP + 16..L4_V4], group.octets());
    assert_eq!(joined[..6], [1, 0, 0x5e, 1, 2, 3]);
    assert_eq!(leftover_of(&joined[start..]), 0);
    let left = group_left(group).bytes();
    assert_eq!(
        (left[start], &left[IP + 16..L4_V4]),
        (0x17, &[224, 0, 0, 2][..])
    );
    let record = group_record(group).kind(3).sources(&[source]);
    let report = group_report(Family::V4, &[record, group_record(group)], None).bytes();
    assert_eq!(report[IP + 16..L4_V4], [224, 0, 0, 22]);
    assert_eq!(report[start], 0x22);
    assert_eq!(report[start + 4..start + 8], [0, 0, 0, 2]);
    assert_eq!(
        report[start + 8..],
        [
            3, 0, 0, 1, 239, 1, 2, 3, 10, 0, 0, 9, 4, 0, 0, 0, 239, 1, 2, 3
        ]
    );
    let query = group_source_query(group, &[source]).bytes();
    assert_eq!(query[start..start + 2], [0x11, 100]);
    assert_eq!(
        query[start + 4..],
        [239, 1, 2, 3, 2, 125, 0, 1, 10, 0, 0, 9]
    );
    let anything = group_query(Ipv4Addr::UNSPECIFIED).bytes();
    assert_eq!(anything[IP + 16..L4_V4], [224, 0, 0, 1]);

    fn leftover_of(igmp: &[u8]) -> u16 {
        checksum::internet(&[igmp])
    }
}

#[test]
fn nd_options_are_counted_in_eights_and_can_lie() {
    let target = DB.ipv6.unwrap();
    let options = |packet: &Packet<Icmp>| packet.bytes().split_off(L4_V6 + 24);
    let plain = neighbour_advertisement(target);
    assert!(options(&plain).is_empty());
    let one = plain.clone().target_link_address(DB.mac);
    assert_eq!(options(&one), [2, 1, 2, 0, 0, 0, 0, 2]);
    assert_eq!(
        options(&one.clone().nd_option(14, b"nonce!!")).len(),
        8 + 16
    );
    assert_eq!(options(&one.nd_option_bytes(&[1, 0]))[8..], [1, 0]);
    let prefix = router_advertisement()
        .prefix("fd00:1::".parse().unwrap(), 64)
        .bytes();
    assert_eq!(prefix[L4_V6 + 16..][..3], [3, 4, 64]);
}

#[test]
fn errors_quote_what_they_are_about() {
    for family in Family::BOTH {
        let sent = udp().family(family).from(WEB).to(DB).payload(b"payload");
        let error = destination_unreachable(&sent);
        let frame = error.bytes();
        let l4 = if family == Family::V4 { L4_V4 } else { L4_V6 };
        assert_eq!(frame[l4 + 8..], sent.network_bytes(), "{error}");
        assert_eq!(leftover(&frame), (0, 0), "{error}");
        assert_eq!(frame[..12], [WEB.mac.0, DB.mac.0].concat(), "it goes back");
        let router = End::number(7);
        let exceeded = time_exceeded(&sent).from(router);
        assert_eq!(exceeded.bytes()[l4 + 8..], sent.network_bytes());
        assert_eq!(exceeded.bytes()[6..12], router.mac.0);
        assert_eq!(u16_at(&packet_too_big(&sent, 1400).bytes(), l4 + 6), 1400);
    }
    let long = udp().payload(&[0; 1400]);
    assert_eq!(destination_unreachable(&long).bytes().len(), IP + 576);
    let long = long.family(Family::V6);
    assert_eq!(destination_unreachable(&long).bytes().len(), IP + 1280);
    for length in [0, 27, 28, 600] {
        let cut = destination_unreachable(&udp()).quote_length(length).bytes();
        assert_eq!(cut.len(), L4_V4 + 8 + length);
    }
}

#[test]
fn tunnels_carry_whole_packets() {
    let inner = tcp().from(WEB).to(DB).syn();
    let inner_v6 = inner.clone().family(Family::V6);
    let outer = |packet: Packet| packet.from(End::number(3)).to(End::number(4)).bytes();
    let ipip4 = outer(ipip(&inner).erased());
    assert_eq!(
        (ipip4[IP + 9], &ipip4[L4_V4..]),
        (4, &inner.network_bytes()[..])
    );
    let sixin4 = outer(ipip(&inner_v6).erased());
    assert_eq!(
        (sixin4[IP + 9], &sixin4[L4_V4..]),
        (41, &inner_v6.network_bytes()[..])
    );
    let gre4 = outer(gre(&inner).erased());
    assert_eq!(
        (gre4[IP + 9], &gre4[L4_V4..L4_V4 + 4]),
        (47, &[0, 0, 8, 0][..])
    );
    assert_eq!(gre4[L4_V4 + 4..], inner.network_bytes());
    let bridged = outer(gre_ethernet(&inner).erased());
    assert_eq!(bridged[L4_V4 + 4..], inner.bytes());
    for (tunnel, port) in [(vxlan(7, &inner), 4789), (geneve(7, &inner), 6081)] {
        let frame = outer(tunnel.erased());
        assert_eq!(u16_at(&frame, L4_V4 + 2), port);
        assert_eq!(frame[L4_V4 + 8 + 4..][..4], [0, 0, 7, 0]);
        assert_eq!(frame[L4_V4 + 16..], inner.bytes());
        assert_eq!(leftover(&frame), (0, 0));
    }
    let nested = outer(ipip(&ipip(&inner)).erased());
    assert_eq!(nested[L4_V4 + 20..], inner.network_bytes());
}

#[test]
fn sctp_chunks_are_counted_and_padded() {
    let data = sctp().verification_tag(9).data(1, b"abc");
    let frame = data.bytes();
    assert_eq!(frame[L4_V4 + 4..][..4], 9u32.to_be_bytes());
    assert_eq!(frame[L4_V4 + 12..][..4], [0, 3, 0, 19]);
    assert_eq!(frame.len(), L4_V4 + 12 + 20, "padded to whole words");
    let both = sctp().init(1).abort().bytes();
    assert_eq!(both[L4_V4 + 12 + 20..], [6, 0, 0, 4]);
    assert_eq!(
        sctp().init(1).chunk_length(3).bytes()[L4_V4 + 14..][..2],
        [0, 3]
    );
    let other = sctp().chunk(chunk::ASCONF, 0, &[0; 8]);
    assert_eq!(
        other.to_string(),
        "sctp 10.0.0.1:40000 > 10.0.0.2:80 ASCONF"
    );
    let named = sctp().init_ack(5, b"name").bytes();
    assert_eq!(named[L4_V4 + 12 + 20..], *b"\0\x07\0\x08name");
}

#[test]
fn the_family_follows_from_the_ends() {
    let v4_only = End::from(Ipv4Addr::new(192, 0, 2, 1));
    let v6_only = End::from("2001:db8::1".parse::<Ipv6Addr>().unwrap());
    assert_eq!(udp().from(WEB).to(v4_only).bytes()[IP] >> 4, 4);
    assert_eq!(udp().from(WEB).to(v6_only).bytes()[IP] >> 4, 6);
    assert_eq!(udp().from(WEB).to(DB).bytes()[IP] >> 4, 4);
    assert_eq!(
        udp()
            .source_ip("fd00::9".parse::<Ipv6Addr>().unwrap())
            .bytes()[IP]
            >> 4,
        6
    );
    assert_eq!(icmpv6(200, 0).bytes()[IP] >> 4, 6);
    // The protocol of one family can be sent in the other.
    let strange = icmpv6(128, 0).family(Family::V4).bytes();
    assert_eq!((strange[IP] >> 4, strange[IP + 9]), (4, protocol::ICMPV6));
}

#[test]
fn a_packet_prints_as_one_line_of_meaning() {
    let lines = [
        (
            tcp().from(WEB).to(DB).dport(5432).syn().erased(),
            "tcp 10.0.0.1:40000 > 10.0.0.2:5432 SYN",
        ),
        (tcp().erased(), "tcp 10.0.0.1:40000 > 10.0.0.2:80 no flags"),
        (
            udp()
                .family(Family::V6)
                .hop_limit(1)
                .vlan(5)
                .payload(b"abc")
                .erased(),
            "udp [fd00::1]:40000 > [fd00::2]:80 (hop limit 1; vlan 5; +3 bytes)",
        ),
        (
            udp().ihl(4).ip_length(9).checksum(Checksum::Wrong).erased(),
            "udp 10.0.0.1:40000 > 10.0.0.2:80 (ip length 9; ihl 4; checksum wrong)",
        ),
        (
            ping(Family::V4).erased(),
            "icmp/8/0 echo request 10.0.0.1 > 10.0.0.2",
        ),
        (
            neighbour_solicitation(DB.ipv6.unwrap()).erased(),
            "icmpv6/135/0 neighbour solicitation fd00::1 > ff02::1:ff00:2 for fd00::2 \
             (hop limit 255)",
        ),
        (
            arp_reply().sender_ip(Ipv4Addr::new(10, 0, 0, 9)).erased(),
            "arp reply 02:00:00:00:00:01 > 02:00:00:00:00:02 sender ip 10.0.0.9",
        ),
        (
            ip_protocol(99).erased(),
            "ip protocol 99 10.0.0.1 > 10.0.0.2",
        ),
        (
            ether(ethertype::MACSEC).payload(&[0; 9]).erased(),
            "ethertype 0x88e5 02:00:00:00:00:01 > 02:00:00:00:00:02 (+9 bytes)",
        ),
        (
            tcp()
                .family(Family::V6)
                .extensions(60, Extension::hop_by_hop(&[]))
                .syn()
                .erased(),
            "tcp [fd00::1]:40000 > [fd00::2]:80 SYN (60 extension headers)",
        ),
    ];
    for (packet, line) in lines {
        assert_eq!(packet.to_string(), line);
        assert_eq!(format!("{packet:?}"), line);
        assert_eq!(packet.clone().erased().bytes(), packet.bytes());
    }
}
