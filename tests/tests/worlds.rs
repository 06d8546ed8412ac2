//! Worlds carry traffic, probes can fail, and nothing is left behind.
//!
//! No firewall is attached anywhere here: what is shown is that when a later
//! test sees a packet vanish, it was not the kit that lost it. The kernel is the
//! judge of the packets the builder makes.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_tests::packet::*;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::*;
use cofferdam_tests::world::*;

/// For what must come. It comes within a millisecond; this is for a machine that
/// does other things.
const SOON: Duration = Duration::from_secs(5);
/// For what must not come.
const NEVER: Duration = Duration::from_millis(300);

const PROBES: [Probe; 4] = [
    Probe::Tcp(80),
    Probe::Udp(53),
    Probe::Sctp(3868),
    Probe::Ping,
];

/// A world of three workloads and a host outside, everyone with servers.
fn everyone_reaches_everyone(wiring: Wiring, mtu: u32) {
    let plan = World::plan(wiring)
        .mtu(mtu)
        .outside()
        .workloads(["web", "api", "db"]);
    let world = plan.build().unwrap();
    let mut places: Vec<Place> = world.workloads().iter().map(Place::from).collect();
    places.push(world.outside().into());
    places.push(world.node().into());
    let _servers = Server::start_all(places.iter().copied(), &PROBES).unwrap();
    let table = Matrix::among(places, &PROBES).run(|_| true).unwrap();
    assert_eq!(table.cells().count(), 5 * 4 * PROBES.len() * 2);
    table.assert_as_expected();
}

#[test]
fn all_pairs_reach_each_other_routed() {
    skip_unless!(Feature::NetworkNamespaces);
    everyone_reaches_everyone(Wiring::Ptp, 1500);
}

#[test]
fn all_pairs_reach_each_other_bridged() {
    skip_unless!(Feature::NetworkNamespaces);
    everyone_reaches_everyone(Wiring::Bridge, 1500);
}

#[test]
fn all_pairs_reach_each_other_routed_with_jumbo_frames() {
    skip_unless!(Feature::NetworkNamespaces);
    everyone_reaches_everyone(Wiring::Ptp, 9000);
}

#[test]
fn all_pairs_reach_each_other_bridged_with_jumbo_frames() {
    skip_unless!(Feature::NetworkNamespaces);
    everyone_reaches_everyone(Wiring::Bridge, 9000);
}

#[test]
fn a_jumbo_datagram_passes_whole() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let world = World::plan(wiring)
            .mtu(9000)
            .workloads(["web", "db"])
            .build()
            .unwrap();
        let (web, db) = (&world["web"], &world["db"]);
        let _server = Server::start(db, &[Probe::Udp(53)]).unwrap();
        let arriving = FrameSocket::open(&db.namespace, db.interface).unwrap();
        for family in Family::BOTH {
            let to = db.ip(family);
            let mut talk = Conversation::udp(web, to, 53).unwrap();
            let datagram = [family as u8 ^ 0x5a; 8900];
            talk.exchange(&datagram, SOON).unwrap();
            let frame = arriving.next(SOON, carrying(&datagram)).unwrap();
            assert!(frame.is_some(), "{wiring} {family}: it came in pieces");
        }
    }
}

#[test]
fn a_lost_packet_is_reported_as_blocked() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let world = World::plan(wiring)
            .workloads(["web", "api", "db"])
            .build()
            .unwrap();
        let _servers = Server::start_all(world.workloads(), &PROBES).unwrap();
        // Whatever db would answer to web is lost in db.
        for family in Family::BOTH {
            world["db"].namespace.lose(world["web"].ip(family)).unwrap();
        }
        let started = Instant::now();
        let lost = |cell: &Cell| (cell.source, cell.destination) == ("web", "db");
        // The other way round db itself knows that it has no way.
        let refused = |cell: &Cell| (cell.source, cell.destination) == ("db", "web");
        let matrix = Matrix::among(world.workloads(), &PROBES).patience(NEVER, SOON);
        let table = matrix.run(|cell| !lost(cell) && !refused(cell)).unwrap();
        assert!(
            started.elapsed() < SOON,
            "blocked cells are waited for side by side"
        );
        table.assert_as_expected();
        for (cell, outcome) in table.cells() {
            if lost(cell) {
                assert_eq!(*outcome, Outcome::Blocked, "{cell}");
            } else if refused(cell) {
                assert!(
                    matches!(outcome, Outcome::Unreachable(_)),
                    "{cell}: {outcome}"
                );
            }
        }
        let surprised = matrix.patience(NEVER, NEVER).run(|_| true).unwrap();
        assert_eq!(surprised.surprises().count(), 2 * 2 * PROBES.len());
        assert!(
            surprised
                .to_string()
                .contains("web > db tcp/80 ipv4: blocked"),
            "{surprised}"
        );
    }
}

#[test]
fn a_closed_port_is_refused_and_not_blocked() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = World::plan(Wiring::Ptp)
        .workloads(["web", "db"])
        .build()
        .unwrap();
    let _server = Server::start(&world["db"], &[Probe::Sctp(1)]).unwrap();
    for family in Family::BOTH {
        let to = world["db"].ip(family);
        for closed in [Probe::Tcp(81), Probe::Udp(54), Probe::Sctp(3869)] {
            // SCTP is believed to be refused only when its time is over.
            let outcome = probe(&world["web"], to, closed, NEVER).unwrap();
            assert_eq!(outcome, Outcome::Refused, "{closed} {family}");
        }
    }
}

#[test]
fn workloads_come_and_go_while_a_flow_lives() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut world = World::plan(wiring)
            .workloads(["web", "db"])
            .build()
            .unwrap();
        let _server = Server::start(&world["db"], &PROBES).unwrap();
        let to = world["db"].ip(Family::V4);
        let mut flow = Conversation::tcp(&world["web"], to, 80, SOON).unwrap();
        flow.exchange(b"before", SOON).unwrap();

        let late = world.add("late").unwrap();
        let late_interface = late.host_interface.clone();
        assert_eq!(
            probe(late, to, Probe::Tcp(80), SOON).unwrap(),
            Outcome::Reached("db".into())
        );
        assert!(matches!(world.add("web"), Err(Error::NameTaken { .. })));
        flow.exchange(b"meanwhile", SOON).unwrap();

        world.remove("late").unwrap();
        let left = world.node().namespace.interfaces().unwrap();
        assert!(!left.contains(&late_interface), "{left:?}");
        assert!(matches!(
            world.remove("late"),
            Err(Error::NoSuchWorkload { .. })
        ));
        flow.exchange(b"after", SOON).unwrap();

        let again = world.add("late").unwrap();
        assert_ne!(
            again.host_interface, late_interface,
            "names do not come back"
        );
    }
}

#[test]
fn an_interrupted_flow_is_noticed() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = World::plan(Wiring::Bridge)
        .workloads(["web", "db"])
        .build()
        .unwrap();
    let _server = Server::start(&world["db"], &PROBES).unwrap();
    let to = world["db"].ip(Family::V6);
    let mut tcp = Conversation::tcp(&world["web"], to, 80, SOON).unwrap();
    let mut udp = Conversation::udp(&world["web"], to, 53).unwrap();
    tcp.exchange(b"one", SOON).unwrap();
    udp.exchange(b"one", SOON).unwrap();
    world["db"]
        .namespace
        .lose(world["web"].ip(Family::V6))
        .unwrap();
    for flow in [&mut tcp, &mut udp] {
        let lost = flow.exchange(b"two", NEVER).unwrap_err();
        assert_eq!(lost.kind(), io::ErrorKind::TimedOut);
    }
}

#[test]
fn outside_addresses_and_second_interfaces_can_be_added() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = World::plan(Wiring::Ptp)
        .outside()
        .workloads(["web"])
        .build()
        .unwrap();
    let internet: IpAddr = "203.0.113.7".parse().unwrap();
    let outside = world.outside();
    outside
        .namespace
        .add_address(outside.interface, internet, 32)
        .unwrap();
    let reached = probe(&world["web"], internet, Probe::Ping, SOON).unwrap();
    assert_eq!(reached, Outcome::Reached("203.0.113.7".into()));

    let web = &world["web"].namespace;
    world.node().namespace.join("second0", web, "eth1").unwrap();
    assert_eq!(web.interfaces().unwrap(), ["lo", "eth0", "eth1"]);
    let sending = FrameSocket::open(web, "eth1").unwrap();
    let seeing = FrameSocket::open(&world.node().namespace, "second0").unwrap();
    sending
        .send(&udp().payload(b"by the second interface"))
        .unwrap();
    let seen = seeing
        .next(SOON, carrying(b"by the second interface"))
        .unwrap();
    assert!(seen.is_some());
}

/// Frames from web, and what the real stack of db has to say to them.
struct FrameWorld {
    world: World,
    web: FrameSocket,
    _server: Server,
}

impl FrameWorld {
    fn new(wiring: Wiring, mtu: u32) -> Self {
        let world = World::plan(wiring)
            .mtu(mtu)
            .workloads(["web", "db"])
            .build()
            .unwrap();
        let web = FrameSocket::open(&world["web"].namespace, "eth0").unwrap();
        let server = Server::start(&world["db"], &PROBES).unwrap();
        Self {
            world,
            web,
            _server: server,
        }
    }

    /// The MAC address that frames from web to db go to.
    fn next_hop(&self, wiring: Wiring) -> Mac {
        match wiring {
            Wiring::Ptp => self.world["web"].gateway.mac,
            Wiring::Bridge => self.world["db"].end.mac,
        }
    }

    /// Sends a packet from web to db and waits for the answer that `wanted`
    /// accepts.
    fn answered<S: Body>(&self, wiring: Wiring, packet: Packet<S>, wanted: impl Fn(&[u8]) -> bool) {
        let (web, db) = (&self.world["web"], &self.world["db"]);
        let packet = packet.from(web).to(db).via(self.next_hop(wiring));
        self.web.send(&packet).unwrap();
        let answer = self.web.next(SOON, |frame| wanted(frame)).unwrap();
        assert!(answer.is_some(), "{wiring}: no answer to {packet}");
    }
}

/// The protocol of a frame without options, and what follows its IP header; of a
/// frame that is not IP, a protocol that nobody asks for.
fn l4(frame: &[u8]) -> (u8, &[u8]) {
    match u16::from_be_bytes([frame[12], frame[13]]) {
        ethertype::IPV4 => (frame[14 + 9], &frame[14 + 20..]),
        ethertype::IPV6 => (frame[14 + 6], &frame[14 + 40..]),
        _ => (protocol::NO_NEXT_HEADER, &frame[14..]),
    }
}

#[test]
fn the_kernel_answers_built_packets() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let frames = FrameWorld::new(wiring, 1500);
        for family in Family::BOTH {
            frames.answered(wiring, tcp().family(family).sport(1001).syn(), |answer| {
                let (protocol, tcp) = l4(answer);
                protocol == 6 && tcp[2..4] == 1001u16.to_be_bytes() && tcp[13] == 0x12
            });
            let query = udp().family(family).dport(53).sport(1002).payload(b"?");
            let echoed = |answer: &[u8]| {
                let (protocol, udp) = l4(answer);
                protocol == 17 && udp[2..4] == 1002u16.to_be_bytes() && udp[8..] == *b"db\n?"
            };
            frames.answered(wiring, query, echoed);
            frames.answered(wiring, ping(family).echo(1003, 1), |answer| {
                let (protocol, icmp) = l4(answer);
                let reply = [(1, 0), (58, 129)].contains(&(protocol, icmp[0]));
                reply && icmp[4..6] == 1003u16.to_be_bytes()
            });
            let init = sctp().family(family).dport(3868).sport(1004).init(1004);
            frames.answered(wiring, init, |answer| {
                let (protocol, sctp) = l4(answer);
                protocol == 132 && sctp[4..8] == 1004u32.to_be_bytes() && sctp[12] == 2
            });
            let closed = udp().family(family).dport(9).sport(1005);
            frames.answered(wiring, closed, |answer| {
                let (protocol, icmp) = l4(answer);
                [(1, [3, 3]), (58, [1, 4])].contains(&(protocol, [icmp[0], icmp[1]]))
            });
        }
    }
}

#[test]
fn the_kernel_takes_fragments_options_and_chains() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let frames = FrameWorld::new(wiring, 1500);
        let (web, db) = (&frames.world["web"], &frames.world["db"]);
        let query = |family, port, payload: &[u8]| {
            let query = udp()
                .family(family)
                .from(web)
                .to(db)
                .via(frames.next_hop(wiring));
            query.sport(port).dport(53).payload(payload)
        };
        let echo_to = |port: u16| {
            move |answer: &[u8]| {
                let (protocol, udp) = l4(answer);
                protocol == 17 && udp[2..4] == port.to_be_bytes()
            }
        };
        for family in Family::BOTH {
            // A fragment may be lost where two processors share the way; the
            // sender's next try passes.
            let answer = (0..5).find_map(|attempt| {
                let datagram = query(family, 2001, &[b'f'; 1000]).identification(4711 + attempt);
                for fragment in datagram.fragments(&[8, 512]) {
                    frames.web.send(&fragment).unwrap();
                }
                frames
                    .web
                    .next(SOON / 5, |frame| echo_to(2001)(frame))
                    .unwrap()
            });
            assert!(answer.is_some(), "{wiring} {family}: not joined");
        }
        // No operation, end of list.
        let options = query(Family::V4, 2002, b"?").ip_options(&[1, 1, 1, 0]);
        frames.answered(wiring, options, echo_to(2002));
        let atomic = query(Family::V6, 2003, b"?").extension(Extension::fragment(1, 0, false));
        frames.answered(wiring, atomic, echo_to(2003));
        let chain = query(Family::V6, 2004, b"?")
            .extension(Extension::hop_by_hop(&[]))
            .extensions(8, Extension::destination_options(&[]))
            // No segments left: the header is passed over.
            .extension(Extension::routing(0, 0, &[0; 20]));
        frames.answered(wiring, chain, echo_to(2004));
    }
}

#[test]
fn the_kernel_resolves_built_neighbour_messages() {
    skip_unless!(Feature::NetworkNamespaces);
    let frames = FrameWorld::new(Wiring::Bridge, 1500);
    let (web, db) = (&frames.world["web"], &frames.world["db"]);
    frames.web.send(&arp_request().from(web).to(db)).unwrap();
    let answer = frames
        .web
        .next(SOON, |frame| frame[12..14] == [8, 6])
        .unwrap();
    let expected = arp_reply().from(db).to(web).bytes();
    assert_eq!(answer.unwrap(), expected);

    let target = db.end.ipv6.unwrap();
    let question = neighbour_solicitation(target)
        .from(web)
        .source_link_address(web.end.mac);
    frames.web.send(&question).unwrap();
    let answer = frames
        .web
        .next(SOON, |frame| frame.get(54) == Some(&136))
        .unwrap();
    let expected = neighbour_advertisement(target)
        .from(db)
        .to(web)
        .target_link_address(db.end.mac);
    assert_eq!(answer.unwrap(), expected.bytes());
}

#[test]
fn the_kernel_drops_what_is_built_wrong() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let frames = FrameWorld::new(wiring, 1500);
        let (web, db) = (&frames.world["web"], &frames.world["db"]);
        for family in Family::BOTH {
            let query = udp()
                .family(family)
                .from(web)
                .to(db)
                .via(frames.next_hop(wiring))
                .dport(53)
                .payload(b"?");
            let mut wrong: Vec<Packet> = vec![
                query.clone().checksum(Checksum::Wrong).erased(),
                query.clone().udp_length(7).erased(),
                query.clone().udp_length(400).erased(),
                query.clone().ip_length(400).erased(),
                query.clone().version(5).erased(),
                query.clone().ethertype(0x9999).erased(),
                query.clone().fragment(1, 8, false).erased(),
                query.clone().snap().erased(),
                query.clone().mpls(16).erased(),
            ];
            match family {
                Family::V4 => wrong.extend([
                    query.clone().ihl(4).erased(),
                    query.clone().header_checksum(1).erased(),
                    query.clone().ip_length(27).erased(),
                ]),
                Family::V6 => wrong.extend([
                    query.clone().checksum(Checksum::Fixed(0)).erased(),
                    query
                        .clone()
                        .extension(Extension::routing(0, 1, &[0; 20]))
                        .erased(),
                ]),
            }
            for packet in wrong {
                frames.web.send(&packet).unwrap();
                // What is right comes behind, and is answered first of all.
                frames.web.send(&query.clone().sport(3001)).unwrap();
                let answer = |frame: &[u8]| {
                    let (protocol, udp) = l4(frame);
                    (protocol == 17).then(|| u16::from_be_bytes([udp[2], udp[3]]))
                };
                let before = frames
                    .web
                    .before(SOON, |frame| answer(frame) == Some(3001))
                    .unwrap()
                    .expect("the right packet was answered");
                let taken = before.iter().any(|frame| answer(frame) == Some(40000));
                assert!(!taken, "{wiring}: the kernel took {packet}");
            }
        }
    }
}

#[test]
fn frames_of_any_shape_arrive_as_they_were_sent() {
    skip_unless!(Feature::NetworkNamespaces);
    let frames = FrameWorld::new(Wiring::Bridge, 9000);
    let (web, db) = (&frames.world["web"], &frames.world["db"]);
    let arriving = FrameSocket::open(&db.namespace, db.interface).unwrap();
    let marked = |packet: Packet| packet.from(web).to(db).payload(b"as it was sent");
    let shapes = [
        marked(udp().erased()),
        marked(udp().vlan(5).erased()),
        marked(udp().vlan(0).erased()),
        marked(udp().qinq(2, 3).erased()),
        marked((1..=5).fold(udp(), |packet, vid| packet.vlan(vid)).erased()),
        marked(udp().snap().erased()),
        marked(udp().mpls(16).erased()),
        marked(ether(ethertype::EAPOL).erased()),
        marked(udp().ihl(4).version(9).erased()),
        marked(ip_protocol(253).erased()),
        marked(
            udp()
                .family(Family::V6)
                .extensions(60, Extension::hop_by_hop(&[]))
                .erased(),
        ),
        marked(udp().trailer(&[7; 8000]).erased()),
    ];
    for packet in shapes {
        frames.web.send(&packet).unwrap();
        let arrived = arriving.next(SOON, carrying(b"as it was sent")).unwrap();
        assert_eq!(arrived, Some(packet.bytes()), "{packet}");
    }
}

#[test]
fn frames_sent_on_an_interface_are_not_seen_there() {
    skip_unless!(Feature::NetworkNamespaces);
    let frames = FrameWorld::new(Wiring::Bridge, 1500);
    let (web, db) = (&frames.world["web"], &frames.world["db"]);
    frames
        .web
        .send(&udp().from(web).to(db).dport(53).payload(b"question"))
        .unwrap();
    // The answer is behind what was sent, if that is seen at all.
    let question = arp_request().from(web).to(db);
    frames.web.send(&question).unwrap();
    let before = frames
        .web
        .before(SOON, |frame| frame[12..14] == [8, 6])
        .unwrap()
        .unwrap();
    let own: Vec<_> = before
        .iter()
        .filter(|frame| frame[6..12] == web.end.mac.0)
        .collect();
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn a_world_of_ten_workloads_is_up_within_a_second() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        // It takes 50 milliseconds when nothing else runs, but other tests do.
        // Ended worlds would slow down the next, as the kernel clears them away.
        let mut kept = Vec::new();
        let mut build = || {
            let names = (0..10).map(|n| format!("workload-{n}"));
            let started = Instant::now();
            kept.push(World::plan(wiring).workloads(names).build().unwrap());
            started.elapsed()
        };
        let best = (0..3).map(|_| build()).min().unwrap();
        assert!(best < Duration::from_secs(1), "{wiring}: {best:?}");
    }
}

#[test]
fn a_workload_knows_both_ends_of_its_link() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let world = World::plan(wiring)
            .workloads(["web", "db"])
            .build()
            .unwrap();
        let web = &world["web"];
        assert_eq!(web.end.ipv4.unwrap().to_string(), "10.64.0.2");
        assert_eq!(web.end.ipv6.unwrap().to_string(), "fd64::2");
        let node = &world.node().namespace;
        assert_eq!(node.ifindex(&web.host_interface).unwrap(), web.host_ifindex);
        assert_eq!(web.namespace.ifindex("eth0").unwrap(), web.ifindex);
        // What leaves web arrives at its host side, from its MAC address.
        let seeing = FrameSocket::open(node, &web.host_interface).unwrap();
        let sending = FrameSocket::open(&web.namespace, web.interface).unwrap();
        let hello = ether(0x88b5).from(web).to(web.gateway).payload(b"hello");
        sending.send(&hello).unwrap();
        assert_eq!(
            seeing.next(SOON, carrying(b"hello")).unwrap(),
            Some(hello.bytes())
        );
        // Other processes find the namespace by its path.
        let theirs = fs::metadata(web.namespace.path()).unwrap();
        let ours = web
            .namespace
            .run(|| fs::metadata("/proc/thread-self/ns/net").unwrap());
        use std::os::linux::fs::MetadataExt;
        assert_eq!(theirs.st_ino(), ours.st_ino());
    }
}

#[test]
fn a_thread_is_back_in_its_namespace_when_the_guard_is_gone() {
    skip_unless!(Feature::NetworkNamespaces);
    let here = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    let (outer, inner) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let home = here();
    {
        let _outer = outer.enter().unwrap();
        let in_outer = here();
        assert_ne!(in_outer, home);
        {
            let _inner = inner.enter().unwrap();
            assert_ne!(here(), in_outer);
        }
        assert_eq!(here(), in_outer);
    }
    assert_eq!(here(), home);
    // Also when what it ran fails.
    let panicked = std::panic::catch_unwind(|| {
        let _inside = outer.enter().unwrap();
        panic!("while inside");
    });
    assert!(panicked.is_err());
    assert_eq!(here(), home);
    // On another thread this one does not move at all.
    assert_ne!(inner.run(here), home);
    assert_eq!(here(), home);
    assert_eq!(inner.interfaces().unwrap(), ["lo"]);
}

#[test]
fn dropped_worlds_leave_nothing_in_the_process() {
    if is_a_part() {
        return counts_what_worlds_leave();
    }
    skip_unless!(Feature::NetworkNamespaces);
    let mut child = in_a_process_of_its_own("dropped_worlds_leave_nothing_in_the_process")
        .spawn()
        .unwrap();
    let mut output = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
}

/// Child process of [`dropped_worlds_leave_nothing_in_the_process`]: counts what is left.
fn counts_what_worlds_leave() {
    let count = |directory: &str| fs::read_dir(directory).unwrap().count();
    let counts = || {
        let links = Namespace::current().unwrap().interfaces().unwrap();
        (
            count("/proc/self/task"),
            count("/proc/self/fd"),
            links,
            count("/proc/self/fdinfo"),
        )
    };
    // A runtime of tokio keeps two descriptors for signals from the first on.
    drop(World::plan(Wiring::Ptp).build().unwrap());
    let before = counts();
    for wiring in Wiring::BOTH {
        let mut world = World::plan(wiring)
            .outside()
            .workloads(["web", "db"])
            .build()
            .unwrap();
        world.add("late").unwrap();
        world.remove("web").unwrap();
        let servers = Server::start_all(world.workloads(), &PROBES).unwrap();
        Matrix::among(world.workloads(), &PROBES)
            .run(|_| true)
            .unwrap()
            .assert_as_expected();
        assert!(
            count("/proc/self/task") > before.0,
            "the count sees threads"
        );
        drop(servers);
    }
    assert_eq!(counts(), before);
}

#[test]
fn a_dropped_world_s_namespaces_end() {
    skip_unless!(Feature::NetworkNamespaces);
    let observer = Namespace::new().unwrap();
    let world = World::plan(Wiring::Bridge)
        .outside()
        .workloads(["web", "db"])
        .build()
        .unwrap();
    let observed = observe(&observer, &world);
    assert_eq!(observer.interfaces().unwrap().len(), 1 + observed.len());
    drop(world);
    for link in observed {
        observer.wait_until_gone(&link, SOON * 2).unwrap();
    }
}

#[test]
fn a_killed_process_s_namespaces_end() {
    if is_a_part() {
        return holds_a_world();
    }
    skip_unless!(Feature::NetworkNamespaces);
    let observer = Namespace::new().unwrap();
    let mut child = in_a_process_of_its_own("a_killed_process_s_namespaces_end")
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", observer.path().display()).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.strip_prefix("held:")?.into()));
    let observed: String = ready.expect("the child holds a world");
    assert_eq!(
        observer.interfaces().unwrap().join(","),
        format!("lo,{observed}")
    );
    child.kill().unwrap();
    child.wait().unwrap();
    for link in observed.split(',') {
        observer.wait_until_gone(link, SOON * 2).unwrap();
    }
}

/// Child process of [`a_killed_process_s_namespaces_end`]: makes a world, and waits to be
/// killed.
fn holds_a_world() {
    let mut lines = io::stdin().lines();
    let path = lines.next().unwrap().unwrap();
    let observer = Namespace::open(path.as_ref()).unwrap();
    let world = World::plan(Wiring::Ptp)
        .outside()
        .workloads(["web", "db"])
        .build()
        .unwrap();
    let _servers = Server::start_all(world.workloads(), &PROBES).unwrap();
    println!("\nheld:{}", observe(&observer, &world).join(","));
    // Until killed; or until whoever would kill it is gone itself.
    lines.next();
}

/// Links each namespace of a world to the observer, which will lose the links
/// when the namespaces end. The names of the observer's ends.
fn observe(observer: &Namespace, world: &World) -> Vec<String> {
    let workloads = world.workloads().iter().map(|workload| &workload.namespace);
    let others = [&world.node().namespace, &world.outside().namespace];
    let link = |(n, namespace): (usize, &Namespace)| {
        let name = format!("seen{n}");
        observer.join(&name, namespace, "seer0").unwrap();
        name
    };
    workloads.chain(others).enumerate().map(link).collect()
}

/// Set where a test runs again as a part of itself.
const PART: &str = "COFFERDAM_PART_OF_A_TEST";

/// Returns `true` if this process is the child of the test that is running.
fn is_a_part() -> bool {
    std::env::var_os(PART).is_some()
}

/// A test of this file again, in a process where nothing else runs.
fn in_a_process_of_its_own(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(PART, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

#[test]
fn a_skip_is_counted_by_feature_and_test() {
    if is_a_part() {
        return needs_what_no_kernel_has();
    }
    skip_unless!(Feature::NetworkNamespaces);
    let child = in_a_process_of_its_own("a_skip_is_counted_by_feature_and_test")
        .env("COFFERDAM_SKIPS", "/dev/stderr")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(child.status.success());
    let counted = String::from_utf8(child.stderr).unwrap();
    assert_eq!(
        counted,
        "link-kind-cofferdam\tworlds::needs_what_no_kernel_has\n"
    );
    assert!(
        String::from_utf8(child.stdout)
            .unwrap()
            .contains("skipped worlds::needs_what_no")
    );
    // What there is, is not skipped.
    assert_eq!(Feature::LinkKind("veth").probe(), Ok(()));
    assert_eq!(Feature::LinkKind("bridge").probe(), Ok(()));
}

/// Child process of [`a_skip_is_counted_by_feature_and_test`]: skips for a feature that no
/// kernel has.
fn needs_what_no_kernel_has() {
    skip_unless!(Feature::LinkKind("cofferdam"));
    unreachable!("the macro returns");
}
