//! The verdict crate's parser, on packets that are right, and on packets that are
//! wrong in one place.

use super::scene::packet::{
    Checksum, End, Extension, Family, GroupRecord, Icmp, Packet, arp_announcement, arp_request,
    ether, ethertype, gre, group_joined, group_left, group_query, group_record, group_report,
    group_source_query, icmp, icmpv6, igmpv1_report, ip_protocol, ipip, multicast_router,
    neighbour_advertisement, neighbour_solicitation, no_next_header, option, ping, protocol,
    redirect, router_advertisement, router_solicitation, sctp, tcp, udp,
};
use cofferdam_verdict::{
    groups::{self, Message},
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
        // Of a protocol whose header is not read.
        ip_protocol(99).from(from).to(to).ihl(4).bytes(),
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
    // The last place from which the longest transport header can be read whole.
    for (eights, expected) in [(22, Ok(5432)), (23, Err(Reason::Ipv6Chain))] {
        let options = vec![0; eights * 8 - 2];
        let far = syn(Family::V6).extension(Extension::destination_options(&options));
        let parsed = parse_bytes(&far.bytes()).map(|parsed| parsed.destination_port);
        assert_eq!(parsed, expected, "{eights}");
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
        let later = |offset| [(offset, false), (offset, true)];
        for (offset, more) in [8, 24, 32_768, 65_528].map(later).concat() {
            // Its bytes mimic a TCP header; they are data.
            let later = syn(family).fragment(77, offset, more);
            let later = parse_bytes(&later.bytes()).expect("a later fragment");
            assert_eq!((later.part, later.datagram), (Part::Later, 77));
            assert_eq!((later.source_port, later.destination_port), (0, 0));
        }
    }
}

/// Bytes behind the header of a later fragment are data, even if they begin with a number that
/// makes an extension header.
#[test]
fn no_header_is_read_in_a_later_fragment() {
    let later = syn(Family::V6)
        .extension(Extension::fragment(77, 64, true))
        .extension(Extension::destination_options(&[]));
    let parsed = parse_bytes(&later.bytes()).expect("a later fragment");
    assert_eq!((parsed.part, parsed.protocol), (Part::Later, 60));
}

/// RFC 1858: a first fragment too small for the transport header, which bytes behind the
/// packet do not make longer.
#[test]
fn tiny_first_fragments_are_malformed() {
    for family in BOTH {
        let mut pieces = syn(family).fragments(&[8]).into_iter();
        let first = pieces.next().expect("two pieces");
        let rest = &syn(family).transport_bytes()[8..];
        for packet in [first.clone(), first.trailer(rest)] {
            let parsed = parse_bytes(&packet.bytes());
            assert_eq!(parsed, Err(Reason::Malformed), "{packet}");
        }
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
        // No header of it is judged, be it whole or the first fragment.
        let first = packet.fragment(7, 0, true);
        let first = parse_bytes(&first.bytes()).expect("a good fragment");
        assert_eq!([parsed.fragment, first.fragment], [0, 0]);
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

fn neighbour_message(packet: &Packet<Icmp>) -> Result<parser::Neighbour, Reason> {
    let bytes = packet.bytes();
    let frame = SliceFrame {
        bytes: &bytes,
        gso: false,
    };
    parser::neighbour(&frame, &parse_bytes(&bytes).expect("a good packet"))
}

#[test]
fn neighbour_messages_are_read_with_their_link_address() {
    let (from, to) = ends();
    let target = to.ipv6.expect("both");
    let [a, b, c, d, e, f] = from.mac.0;
    let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    let asked = neighbour_solicitation(target)
        .from(from)
        .source_link_address(from.mac);
    let message = neighbour_message(&asked).expect("a good message");
    assert_eq!(std::net::IpAddr::from(message.target), target);
    assert_eq!(message.mac, Some(mac));
    let told = neighbour_advertisement(target).from(to).to(from);
    assert_eq!(neighbour_message(&told).map(|told| told.mac), Ok(None));
    assert!(neighbour_message(&router_solicitation().from(from)).is_ok());
    // Options without a length, past the end, or in disagreement; cut short.
    for packet in [
        asked.clone().nd_option_bytes(&[1, 0, 0, 0, 0, 0, 0, 0]),
        asked.clone().nd_option_bytes(&[1, 2, 0, 0, 0, 0, 0, 0]),
        asked.clone().nd_option_bytes(&[1, 1, 0, 0]),
        asked.clone().source_link_address(to.mac),
        icmpv6(135, 0).hop_limit(255).payload(&[0; 15]),
    ] {
        assert_eq!(
            neighbour_message(&packet),
            Err(Reason::UntruthfulNd),
            "{packet}"
        );
    }
    // RFC 6980: no fragment header, not even of a whole datagram. Nor any other header.
    for header in [
        Extension::fragment(9, 0, false),
        Extension::hop_by_hop(&[]),
        Extension::destination_options(&[0; 100]),
    ] {
        let packet = asked.clone().extension(header);
        let read = neighbour_message(&packet);
        assert_eq!(read, Err(Reason::UntruthfulNd), "{packet}");
    }
}

/// Each bound of a neighbour discovery message has one on either side.
#[test]
fn neighbour_messages_are_bounded() {
    let (from, to) = ends();
    let target = to.ipv6.expect("both");
    let nonce = |packet: Packet<Icmp>, number: usize, bytes: usize| {
        (0..number).fold(packet, |packet, _| {
            packet.nd_option(14, &vec![0xab; bytes - 2])
        })
    };
    let all = [
        (neighbour_solicitation(target), 4, 32),
        (neighbour_advertisement(target), 4, 32),
        (router_solicitation(), 4, 32),
        (redirect(target, target), 4, 32),
        // Its options must end among the headers, too.
        (router_advertisement(), 8, 64),
    ];
    for (message, most, longest) in all {
        let message = message.from(from);
        let size = Err(Reason::SignallingSize);
        for (packet, fits) in [
            (message.clone(), true),
            (nonce(message.clone(), most, 8), true),
            (nonce(message.clone(), most + 1, 8), false),
            (nonce(message.clone(), 1, longest), true),
            (nonce(message.clone(), 1, longest + 8), false),
            (nonce(message.clone(), 1, 1400), false),
            (nonce(message.clone(), 2, longest), true),
            (nonce(message.clone(), most, 32), most == 4),
            (message.clone().trailer(&[0]), false),
            (message.clone().trailer(&[0; 1400]), false),
        ] {
            let read = neighbour_message(&packet).map(|_| ());
            assert_eq!(read, if fits { Ok(()) } else { size }, "{packet}");
        }
    }
}

/// A message about multicast groups, as the parser reads it: `None` if it is a packet like
/// any other.
fn group_message(packet: &Packet<Icmp>) -> Option<(Message, Result<(), Reason>)> {
    let bytes = packet.bytes();
    let frame = SliceFrame {
        bytes: &bytes,
        gso: false,
    };
    let parsed = parse_bytes(&bytes).expect("a good packet");
    let message = groups::read(&frame, &parsed)?;
    groups::stays_on_link(&frame, &parsed, message)
        .then(|| (message, groups::check(&frame, &parsed, message)))
}

/// A group, another, and a source, of a family.
fn group(family: Family) -> [std::net::IpAddr; 3] {
    match family {
        Family::V4 => ["239.1.2.3", "224.0.0.251", "10.0.0.9"],
        Family::V6 => ["ff02::1:ff00:7", "ff05::c", "fd00::9"],
    }
    .map(|address| address.parse().expect("an address"))
}

#[test]
fn group_messages_are_told_apart_in_both_families() {
    for family in BOTH {
        let [one, other, source] = group(family);
        let records = [group_record(one), group_record(other).sources(&[source])];
        for (packet, message) in [
            (group_joined(one), Message::Join),
            (group_left(one), Message::Leave),
            (group_left(one).destination_ip(one), Message::Leave),
            (group_report(family, &records, None), Message::Records(2)),
            (group_report(family, &[], None), Message::Records(0)),
            (group_query(one), Message::Query),
            (group_query(unspecified(family)), Message::Query),
            (group_source_query(one, &[source]), Message::Query),
        ] {
            assert_eq!(group_message(&packet), Some((message, Ok(()))), "{packet}");
        }
        // A router's claim is no part of it; nor what goes further than one hop, to
        // another group, to one address, in pieces, or behind other headers.
        let joined = group_joined(one);
        let long = match family {
            Family::V4 => joined.clone().ip_options(&[option::NOTHING; 8]),
            Family::V6 => joined
                .clone()
                .extension(Extension::destination_options(&[])),
        };
        for packet in [
            multicast_router(family),
            joined.clone().hop_limit(2),
            joined.clone().destination_ip(other),
            joined.clone().destination_ip(source),
            joined.clone().fragment(7, 0, true),
            long,
            group_left(one).destination_ip(other),
            group_report(family, &records, None).destination_ip(one),
        ] {
            assert_eq!(group_message(&packet), None, "{packet}");
        }
    }
    assert_eq!(
        group_message(&igmpv1_report(std::net::Ipv4Addr::new(224, 0, 0, 251))),
        Some((Message::Join, Ok(())))
    );
    // One family's protocol in the other is just another protocol.
    let [one, _, _] = group(Family::V6);
    let strange = ip_protocol(protocol::IGMP)
        .family(Family::V6)
        .destination_ip(one)
        .hop_limit(1)
        .payload(&[0x16; 8]);
    let bytes = strange.bytes();
    let frame = SliceFrame {
        bytes: &bytes,
        gso: false,
    };
    let parsed = parse_bytes(&bytes).expect("a good packet");
    assert_eq!(groups::read(&frame, &parsed), None);
}

fn unspecified(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Each bound of a message about groups has one on either side.
#[test]
fn group_messages_are_bounded() {
    for family in BOTH {
        let [one, _, source] = group(family);
        // So many records without sources take 180 bytes, or would take more.
        let most = match family {
            Family::V4 => 22,
            Family::V6 => 9,
        };
        let records = |number| vec![group_record(one); number];
        let named = |number| vec![group_record(one).sources(&vec![source; number])];
        let report = |records: &[GroupRecord]| group_report(family, records, None);
        let counted = |number| group_report(family, &records(2), number);
        let size = Err(Reason::SignallingSize);
        let malformed = Err(Reason::Malformed);
        let padding = 60 - group_joined(one).bytes().len().min(60);
        let cases = [
            (report(&records(most)), Ok(())),
            (report(&records(most + 1)), size),
            (report(&named(4)), Ok(())),
            (report(&named(5)), size),
            (report(&[named(2), named(2)].concat()), Ok(())),
            (report(&[named(2), named(3)].concat()), size),
            (report(&[group_record(one).auxiliary(&[0; 4])]), size),
            (report(&[group_record(one).auxiliary(&[0; 1000])]), size),
            (report(&[group_record(source)]), malformed),
            (report(&[group_record(one).kind(0)]), malformed),
            (report(&[group_record(one).kind(7)]), malformed),
            (report(&[group_record(one).kind(1)]), Ok(())),
            (report(&[group_record(one).kind(6)]), Ok(())),
            (counted(1), size),
            (counted(2), Ok(())),
            (counted(3), malformed),
            (counted(u16::MAX), malformed),
            (report(&records(1)).payload(&[0; 1000]), size),
            (group_joined(one).payload(&[0]), size),
            (group_joined(one).payload(&[0; 1000]), size),
            (group_left(one).payload(&[0]), size),
            (group_joined(one).trailer(&vec![0; padding]), Ok(())),
            (group_joined(one).trailer(&vec![0; padding + 1]), size),
            (group_joined(one).trailer(&[0; 1400]), size),
            (group_source_query(one, &[source; 4]), Ok(())),
            (group_source_query(one, &[source; 5]), size),
            (group_source_query(one, &[source]).payload(&[0]), size),
            (group_query(one).payload(&[0, 0, 0, 1]), malformed),
            (group_query(one).payload(&[0, 0, 0, 0]), Ok(())),
        ];
        for (packet, expected) in cases {
            let read = group_message(&packet).map(|(_, checked)| checked);
            assert_eq!(read, Some(expected), "{packet}");
        }
        // Sources take of the same 180 bytes.
        let (number, fit) = match family {
            Family::V4 => (22, 1),
            Family::V6 => (6, 3),
        };
        for (sources, expected) in [(fit, Ok(())), (fit + 1, size)] {
            let packet = report(&[records(number - 1), named(sources)].concat());
            let read = group_message(&packet).map(|(_, checked)| checked);
            assert_eq!(read, Some(expected), "{packet}");
        }
        // A record whose auxiliary data would be the next record.
        let packet = report(&records(2));
        let mut bytes = packet.bytes();
        let record = bytes.len() - packet.transport_bytes().len() + 8;
        let length = (bytes.len() - record) / 2;
        bytes[record + 1] = (length / 4) as u8;
        let frame = SliceFrame {
            bytes: &bytes,
            gso: false,
        };
        let parsed = parse_bytes(&bytes).expect("a good packet");
        assert_eq!(groups::check(&frame, &parsed, Message::Records(2)), size);
    }
}
