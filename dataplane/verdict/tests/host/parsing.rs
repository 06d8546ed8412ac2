//! The verdict crate's parser, on packets that are right, and on packets that are
//! wrong in one place.

use super::scene::packet::{
    Checksum, End, Extension, Family, Packet, arp_announcement, arp_request, ether, ethertype, gre,
    icmp, ip_protocol, ipip, neighbour_advertisement, neighbour_solicitation, no_next_header,
    option, ping, protocol, router_solicitation, sctp, tcp, udp,
};
use cofferdam_verdict::{
    packet::{self as parser, Packet as Parsed, Part},
    reason::Reason,
    slices::SliceFrame,
};

fn parse_bytes(bytes: &[u8]) -> Result<Parsed, Reason> {
    let frame = SliceFrame { bytes, gso: false };
    parser::ethernet(&frame).and_then(|ethernet| parser::parse(&frame, ethernet.ethertype))
}

fn ends() -> (End, End) {
    (End::number(1), End::number(2))
}

/// A TCP SYN to port 5432, the usual packet of these tests.
fn syn(family: Family) -> Packet<super::scene::packet::Tcp> {
    let (from, to) = ends();
    tcp()
        .family(family)
        .from(from)
        .to(to)
        .sport(40_000)
        .dport(5432)
        .syn()
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn ports_and_addresses_are_read_in_both_families() {
    for family in BOTH {
        let (from, to) = ends();
        let parsed = parse_bytes(&syn(family).bytes()).expect("a good packet");
        assert_eq!(
            std::net::IpAddr::from(parsed.source),
            from.ip(family).expect("both")
        );
        assert_eq!(
            std::net::IpAddr::from(parsed.destination),
            to.ip(family).expect("both")
        );
        assert_eq!(
            (parsed.source_port, parsed.destination_port),
            (40_000, 5432)
        );
        assert_eq!(
            (parsed.protocol, parsed.part, parsed.segment.flags),
            (6, Part::Whole, 2)
        );

        let datagram = udp()
            .family(family)
            .from(from)
            .to(to)
            .dport(53)
            .payload(b"query");
        let parsed = parse_bytes(&datagram.bytes()).expect("a good packet");
        assert_eq!((parsed.protocol, parsed.destination_port), (17, 53));

        let init = sctp().family(family).from(from).to(to).dport(9003).init(7);
        let parsed = parse_bytes(&init.bytes()).expect("a good packet");
        assert_eq!((parsed.protocol, parsed.destination_port), (132, 9003));
    }
}

#[test]
fn icmp_type_and_code_stand_for_the_port() {
    let (from, to) = ends();
    let echo = parse_bytes(&ping(Family::V4).from(from).to(to).echo(77, 1).bytes());
    assert_eq!(
        echo.map(|p| (p.destination_port, p.source_port)),
        Ok((8 << 8, 77))
    );
    let echo = parse_bytes(&ping(Family::V6).from(from).to(to).echo(77, 1).bytes());
    assert_eq!(
        echo.map(|p| (p.protocol, p.destination_port)),
        Ok((58, 128 << 8))
    );
    let other = parse_bytes(&icmp(3, 13).from(from).to(to).bytes());
    assert_eq!(other.map(|p| p.destination_port), Ok(3 << 8 | 13));
}

#[test]
fn ip_options_do_not_shift_the_ports() {
    // Bytes of the options look like a header with an allowed port.
    let mimic = [0x9c, 4, 0x00, 0x50, 0, 0, 0, 0];
    for length in [4, 8] {
        let packet = syn(Family::V4).ip_options(&mimic[..length]);
        assert_eq!(
            parse_bytes(&packet.bytes()).map(|p| p.destination_port),
            Ok(5432)
        );
    }
    let most = syn(Family::V4).ip_options(&[1; 40]);
    assert_eq!(
        parse_bytes(&most.bytes()).map(|p| p.destination_port),
        Ok(5432)
    );
}

/// Every IPv4 option is stepped over by its own length; source routes are found behind
/// any others, and never in the middle of one.
#[test]
fn ip_options_are_walked_one_by_one() {
    use option::{LOOSE_SOURCE_ROUTE as LOOSE, NOTHING, STRICT_SOURCE_ROUTE as STRICT};
    let nothing = |count: usize| vec![NOTHING; count];
    let parse = |options: &[u8]| {
        let packet = syn(Family::V4).ip_options(options);
        parse_bytes(&packet.bytes()).map(|parsed| parsed.destination_port)
    };
    // Record route, router alert, timestamp; source routes as another's data, and
    // behind the end; an option that fills the header to its last byte.
    let good = [
        vec![7, 7, 4, 0, 0, 0, 0],
        vec![148, 4, 0, 0],
        vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![7, 7, LOOSE, 3, 4, STRICT, 3],
        vec![7, 2, 7, 2, 0, LOOSE, 3, 4],
        [nothing(38), vec![7, 2]].concat(),
        [vec![7, 40], vec![STRICT; 38]].concat(),
        nothing(40),
        vec![0; 40],
    ];
    for options in good {
        assert_eq!(parse(&options), Ok(5432), "{options:02x?}");
    }
    for route in [LOOSE, STRICT] {
        for before in 0..=37 {
            let routed = [nothing(before), vec![route, 3, 4]].concat();
            assert_eq!(parse(&routed), Err(Reason::SourceRoute), "{routed:02x?}");
        }
        let routed = [vec![7, 7, 4, 0, 0, 0, 0, route, 11, 4], vec![10; 8]].concat();
        assert_eq!(parse(&routed), Err(Reason::SourceRoute));
        let later = syn(Family::V4)
            .ip_options(&[route, 3, 4])
            .fragment(7, 64, true);
        assert_eq!(parse_bytes(&later.bytes()), Err(Reason::SourceRoute));
    }
    for neighbour in [LOOSE - 1, LOOSE + 1, STRICT - 1, STRICT + 1] {
        assert_eq!(parse(&[neighbour, 3, 4]), Ok(5432));
    }
    // Lengths that do not count themselves, or lead out of the header; a type alone.
    let bad = [
        vec![7, 0, 4, 0],
        vec![7, 1, 4, 0],
        vec![7, 5, 4, 0],
        vec![7, 255, 4, 0],
        vec![1, 1, 1, 7],
        [nothing(39), vec![7]].concat(),
        [nothing(38), vec![7, 3]].concat(),
        [vec![7, 41], vec![0; 38]].concat(),
    ];
    for options in bad {
        assert_eq!(parse(&options), Err(Reason::Malformed), "{options:02x?}");
    }
}

#[test]
fn routing_headers_pass_only_at_their_last_address() {
    for kind in [0, 2, 3, 4, 253] {
        for (left, expected) in [
            (0, Ok(5432)),
            (1, Err(Reason::SourceRoute)),
            (255, Err(Reason::SourceRoute)),
        ] {
            let routed = syn(Family::V6)
                .extension(Extension::hop_by_hop(&[]))
                .extension(Extension::routing(kind, left, &[0; 20]));
            let parsed = parse_bytes(&routed.bytes()).map(|parsed| parsed.destination_port);
            assert_eq!(parsed, expected, "{routed}");
        }
    }
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    let (from, to) = ends();
    let bad = [
        syn(Family::V4).ihl(4).bytes(),
        syn(Family::V4).ihl(15).bytes(),
        syn(Family::V4).version(6).bytes(),
        syn(Family::V6).version(4).bytes(),
        syn(Family::V4).ip_length(19).bytes(),
        syn(Family::V4).ip_length(39).bytes(),
        syn(Family::V4).ip_length(41).bytes(),
        syn(Family::V4).ip_length(0).bytes(),
        syn(Family::V6).ip_length(19).bytes(),
        syn(Family::V6).ip_length(21).bytes(),
        syn(Family::V6).ip_length(0).bytes(),
        syn(Family::V4).data_offset(4).bytes(),
        syn(Family::V4).data_offset(0).bytes(),
        syn(Family::V4).data_offset(6).bytes(),
        udp().from(from).to(to).udp_length(7).bytes(),
        udp().from(from).to(to).udp_length(9).bytes(),
    ];
    for (i, bytes) in bad.into_iter().enumerate() {
        assert_eq!(parse_bytes(&bytes), Err(Reason::Malformed), "packet {i}");
    }
    // One step back from each bound.
    assert!(parse_bytes(&syn(Family::V4).ip_length(40).bytes()).is_ok());
    assert!(parse_bytes(&udp().from(from).to(to).udp_length(8).bytes()).is_ok());
    // Checksums are the receiver's to check.
    assert!(parse_bytes(&syn(Family::V4).checksum(Checksum::Wrong).bytes()).is_ok());
}

/// Whatever is cut off a packet, there is a reason and no panic; and only the
/// whole packet is good.
#[test]
fn truncated_frames_are_malformed_at_every_length() {
    let (from, to) = ends();
    let packets = [
        syn(Family::V4).erased(),
        syn(Family::V6)
            .extension(Extension::hop_by_hop(&[]))
            .erased(),
        udp().from(from).to(to).erased(),
        sctp().family(Family::V6).from(from).to(to).init(1).erased(),
        ping(Family::V6).from(from).to(to).erased(),
    ];
    for packet in packets {
        let bytes = packet.bytes();
        assert!(parse_bytes(&bytes).is_ok(), "{packet}");
        for length in 0..bytes.len() {
            assert_eq!(
                parse_bytes(&bytes[..length]),
                Err(Reason::Malformed),
                "{packet}, {length}"
            );
        }
    }
}

#[test]
fn padding_behind_a_packet_is_no_part_of_it() {
    let packet = syn(Family::V4).padded_to(100);
    assert_eq!(
        parse_bytes(&packet.bytes()).map(|p| p.transport_bytes),
        Ok(20)
    );
}

#[test]
fn extension_headers_are_walked_to_the_transport() {
    let walked = [
        syn(Family::V6).extension(Extension::hop_by_hop(&[])),
        syn(Family::V6).extension(Extension::destination_options(&[0; 30])),
        syn(Family::V6).extension(Extension::routing(4, 0, &[0; 20])),
        syn(Family::V6).extension(Extension::authentication(&[1; 12])),
        syn(Family::V6).extension(Extension::fragment(9, 0, false)),
        syn(Family::V6).extensions(8, Extension::destination_options(&[])),
    ];
    for packet in walked {
        let parsed = parse_bytes(&packet.bytes()).unwrap_or_else(|e| panic!("{packet}: {e:?}"));
        assert_eq!(
            (parsed.protocol, parsed.destination_port),
            (6, 5432),
            "{packet}"
        );
        assert_eq!(parsed.part, Part::Whole);
    }
}

#[test]
fn extension_chains_out_of_bounds_are_refused() {
    let (from, to) = ends();
    let refused = [
        syn(Family::V6)
            .extensions(9, Extension::destination_options(&[]))
            .erased(),
        syn(Family::V6)
            .extensions(60, Extension::destination_options(&[]))
            .erased(),
        syn(Family::V6)
            .extension(Extension::destination_options(&[0; 2000]))
            .erased(),
        // A hop-by-hop header anywhere but first; two fragment headers.
        syn(Family::V6)
            .extension(Extension::destination_options(&[]))
            .extension(Extension::hop_by_hop(&[]))
            .erased(),
        syn(Family::V6)
            .extensions(2, Extension::fragment(9, 0, false))
            .erased(),
        no_next_header()
            .family(Family::V6)
            .from(from)
            .to(to)
            .erased(),
        syn(Family::V6)
            .extension(Extension::measured(135, &[]))
            .erased(),
        syn(Family::V6)
            .extension(Extension::measured(139, &[]))
            .erased(),
        syn(Family::V6)
            .extension(Extension::measured(140, &[]))
            .erased(),
        syn(Family::V6)
            .extension(Extension::measured(253, &[]))
            .erased(),
    ];
    for packet in refused {
        assert_eq!(
            parse_bytes(&packet.bytes()),
            Err(Reason::Ipv6Chain),
            "{packet}"
        );
    }
    // A header that claims to be longer than the packet.
    let long = syn(Family::V6).extension(Extension::destination_options(&[]).with_length(9));
    assert_eq!(parse_bytes(&long.bytes()), Err(Reason::Malformed));
}

#[test]
fn fragments_are_told_apart_and_later_ones_have_no_ports() {
    for family in BOTH {
        let first = parse_bytes(&syn(family).fragment(77, 0, true).bytes()).expect("a first");
        assert_eq!((first.part, first.datagram), (Part::First, 77));
        assert_eq!(first.destination_port, 5432);
        for more in [false, true] {
            // Its bytes mimic a TCP header; they are data.
            let later = syn(family).fragment(77, 24, more);
            let later = parse_bytes(&later.bytes()).expect("a later fragment");
            assert_eq!((later.part, later.datagram), (Part::Later, 77));
            assert_eq!((later.source_port, later.destination_port), (0, 0));
        }
    }
}

/// RFC 1858: a first fragment too small for the transport header.
#[test]
fn tiny_first_fragments_are_malformed() {
    for family in BOTH {
        let mut pieces = syn(family).fragments(&[8]).into_iter();
        let first = pieces.next().expect("two pieces");
        assert_eq!(
            parse_bytes(&first.bytes()),
            Err(Reason::Malformed),
            "{first}"
        );
    }
}

#[test]
fn other_protocols_are_named_by_number_and_have_no_ports() {
    let (from, to) = ends();
    for (packet, number) in [
        (ip_protocol(47).from(from).to(to).payload(&[0; 30]), 47),
        (ip_protocol(50).from(from).to(to).payload(&[0; 30]), 50),
        (ipip(&syn(Family::V4)).from(from).to(to), 4),
        (gre(&syn(Family::V4)).from(from).to(to), 47),
        (ip_protocol(99).from(from).to(to), 99),
    ] {
        let parsed = parse_bytes(&packet.bytes()).expect("a good packet");
        assert_eq!(
            (parsed.protocol, parsed.destination_port),
            (number, 0),
            "{packet}"
        );
    }
}

#[test]
fn unknown_ethertypes_are_refused() {
    let (from, to) = ends();
    for kind in [0x8847, 0x8863, 0x88e5, 0x888e, 0x0026, 0x9000] {
        let packet = ether(kind).from(from).to(to).payload(&[0; 46]);
        assert_eq!(
            parse_bytes(&packet.bytes()),
            Err(Reason::Ethertype),
            "{packet}"
        );
    }
    assert_eq!(
        parse_bytes(&syn(Family::V4).snap().bytes()),
        Err(Reason::Ethertype)
    );
    // The EtherType says what the receiver will parse.
    let lie = syn(Family::V4).ethertype(ethertype::IPV6);
    assert_eq!(parse_bytes(&lie.bytes()), Err(Reason::Malformed));
}

#[test]
fn arp_is_read_whole_or_not_at_all() {
    let (from, to) = ends();
    let read = |bytes: &[u8]| parser::arp(&SliceFrame { bytes, gso: false });
    for packet in [
        arp_request().from(from).to(to),
        arp_announcement().from(from),
    ] {
        let arp = read(&packet.bytes()).unwrap_or_else(|| panic!("{packet}"));
        assert_eq!(
            std::net::IpAddr::from(arp.sender),
            from.ip(Family::V4).expect("both")
        );
        assert_eq!(arp.sender_mac.to_be_bytes()[2..], from.mac.0);
    }
    for packet in [
        arp_request().from(from).to(to).operation(3),
        arp_request().from(from).to(to).kinds(6, 0x0800),
        arp_request().from(from).to(to).kinds(1, 0x86dd),
        arp_request().from(from).to(to).address_lengths(6, 16),
    ] {
        assert_eq!(read(&packet.bytes()), None, "{packet}");
    }
    assert_eq!(read(&arp_request().from(from).to(to).truncated(41)), None);
}

#[test]
fn neighbour_messages_are_read_with_their_link_address() {
    let (from, to) = ends();
    let target = to.ipv6.expect("both");
    let read = |bytes: &[u8]| {
        let frame = SliceFrame { bytes, gso: false };
        let packet = parse_bytes(bytes).expect("a good packet");
        parser::neighbour(&frame, &packet)
    };
    let mac = u64::from_be_bytes([
        0,
        0,
        from.mac.0[0],
        from.mac.0[1],
        from.mac.0[2],
        from.mac.0[3],
        from.mac.0[4],
        from.mac.0[5],
    ]);
    let asked = neighbour_solicitation(target)
        .from(from)
        .source_link_address(from.mac);
    let message = read(&asked.bytes()).expect("a good message");
    assert_eq!(std::net::IpAddr::from(message.target), target);
    assert_eq!(message.mac, Some(mac));
    let told = neighbour_advertisement(target).from(to).to(from);
    assert_eq!(read(&told.bytes()).map(|message| message.mac), Some(None));
    assert!(read(&router_solicitation().from(from).bytes()).is_some());
    // Options without a length, past the end, or in disagreement.
    let twice = asked.clone().source_link_address(to.mac);
    for packet in [
        asked.clone().nd_option_bytes(&[1, 0, 0, 0, 0, 0, 0, 0]),
        asked.clone().nd_option_bytes(&[1, 2, 0, 0, 0, 0, 0, 0]),
        asked.clone().nd_option_bytes(&[1, 1, 0, 0]),
        twice,
    ] {
        assert_eq!(read(&packet.bytes()), None, "{packet}");
    }
    assert_eq!(protocol::ICMPV6, 58);
}
