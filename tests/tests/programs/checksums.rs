//! Checksums that a packet leaves to be written, with real packets: an interface without
//! checksum offload behind the hook writes them, after the verdict.
//!
//! Each packet is sent without a firewall first, which shows that the kernel takes it and
//! what it changes; a test of a drop that no kernel would have delivered shows nothing.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use cofferdam_dataplane::{Behaviour, CASTS_SOCKET_BUFFER, Kernel, OBJECT, casts_socket_buffer};
use cofferdam_tests::{
    firewall::{Firewall, LIMITS, named},
    packet::{Body, Family, Packet, arp_request, ipip, ping, sctp, tcp, udp},
    skip::Feature,
    skip_unless,
    traffic::{FrameSocket, Unfinished, UnfinishedSocket, carrying},
    world::{Wiring, Workload, World},
};
use cofferdam_verdict::{counter::Hook, reason::Reason, verdict::Action};

use socket2::{Domain, Protocol, Socket, Type};

use super::{agents::PATIENCE, verdicts::shop};

/// Bytes of an Ethernet header.
const ETHERNET: u16 = 14;
/// Bytes of a stream that goes out in packets of many segments.
const BULK: usize = 400_000;

/// A frame, and what it leaves.
struct Crafted {
    about: &'static str,
    bytes: Vec<u8>,
    left: Unfinished,
    passes: bool,
}

/// A payload, whose beginning may be written over.
fn payload(mark: [u8; 8]) -> Vec<u8> {
    [&[7; 16], &mark[..], &[7; 40]].concat()
}

/// Packets that were dropped for what they leave, where they are sent and where they arrive.
fn dropped(firewall: &Firewall) -> [u64; 2] {
    let ledger = firewall.ledger();
    ledger.assert_conserved();
    [Hook::FromWorkload, Hook::ToWorkload]
        .map(|hook| ledger.judged(hook, Action::Deny, Reason::PartialChecksum))
}

/// The scene: web sends, the database sees.
struct Stage {
    world: World,
    family: Family,
    /// `true` if the device behind the hook writes checksums itself.
    offloads: bool,
    /// Web is a workload, with programs on its interface.
    is_managed: bool,
    sent: u32,
}

impl Stage {
    fn web(&self) -> &Workload {
        named(&self.world, "shop/web")
    }

    fn db(&self) -> &Workload {
        named(&self.world, "shop/db")
    }

    fn attach(&self, firewall: &mut Firewall) {
        let is_managed = |workload: &Workload| self.is_managed || workload.name != "shop/web";
        firewall.attach_where(&self.world, is_managed);
    }

    /// Eight bytes that no other frame has.
    fn mark(&mut self) -> [u8; 8] {
        self.sent += 1;
        let mut mark = *b"left....";
        mark[4..].copy_from_slice(&self.sent.to_be_bytes());
        mark
    }

    fn routed<S: Body>(&self, packet: Packet<S>) -> Packet<S> {
        if self.world.node().bridge.is_some() {
            packet
        } else {
            packet.via(self.web().gateway.mac)
        }
    }

    /// Bytes of the network header.
    const fn network(&self) -> u16 {
        match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// All kinds of frames; of each kind one that is changed where no verdict looks.
    fn crafted(&mut self) -> Vec<Crafted> {
        let transport = ETHERNET + self.network();
        let mut crafted = Vec::new();
        let mut add = |about, bytes, start, offset, passes| {
            let left = Unfinished {
                checksum_start: start,
                checksum_offset: offset,
                ..Unfinished::default()
            };
            crafted.push(Crafted {
                about,
                bytes,
                left,
                passes,
            });
        };
        // The kernel lets summing start in the network header, behind its length.
        let early = 10 + self.network();
        let datagram = |stage: &mut Self| {
            let mark = stage.mark();
            let packet = udp()
                .from(stage.web().end)
                .to(stage.db().end)
                .dport(80)
                .family(stage.family)
                .payload(&payload(mark));
            stage.routed(packet).bytes()
        };
        let udp_cases = [
            ("udp: its own", transport, 6, true),
            ("udp: behind the header", transport + 8, 2, true),
            ("udp: its source port", early, transport - early, false),
            ("udp: its destination port", transport, 2, false),
            (
                "udp: its destination port, from far",
                early,
                transport + 2 - early,
                false,
            ),
            ("udp: its length", transport, 4, false),
            ("udp: where TCP has it", transport, 16, false),
            (
                "udp: the last of its address",
                early,
                transport - 2 - early,
                false,
            ),
            ("udp: its own, from before", transport - 4, 10, false),
        ];
        for (about, start, offset, passes) in udp_cases {
            add(about, datagram(self), start, offset, passes);
        }
        let segment = |stage: &mut Self| {
            let mark = stage.mark();
            let packet = tcp()
                .from(stage.web().end)
                .to(stage.db().end)
                .dport(80)
                .syn()
                .family(stage.family)
                .payload(&payload(mark));
            stage.routed(packet).bytes()
        };
        let tcp_cases = [
            ("tcp: its own", transport, 16, true),
            ("tcp: behind the header", transport + 20, 0, true),
            ("tcp: its destination port", transport, 2, false),
            ("tcp: its flags", transport, 12, false),
            ("tcp: its sequence number", transport + 4, 0, false),
            ("tcp: where UDP has it", transport, 6, false),
        ];
        for (about, start, offset, passes) in tcp_cases {
            add(about, segment(self), start, offset, passes);
        }
        let chunk = |stage: &mut Self| {
            let mark = stage.mark();
            let packet = sctp()
                .from(stage.web().end)
                .to(stage.db().end)
                .dport(80)
                .family(stage.family)
                .data(1, &payload(mark));
            stage.routed(packet).bytes()
        };
        add("sctp: its own", chunk(self), transport, 8, true);
        add(
            "sctp: its destination port",
            chunk(self),
            transport,
            2,
            false,
        );
        let echo = |stage: &mut Self| {
            let mark = stage.mark();
            let packet = ping(stage.family)
                .from(stage.web().end)
                .to(stage.db().end)
                .payload(&payload(mark));
            stage.routed(packet).bytes()
        };
        add("echo: its own", echo(self), transport, 2, false);
        add("echo: its type", echo(self), transport, 0, false);
        add("echo: its body", echo(self), transport + 8, 2, false);
        if self.family == Family::V4 {
            let inner = |stage: &mut Self| {
                let mark = stage.mark();
                let inside = udp()
                    .from(stage.web().end)
                    .to(stage.db().end)
                    .dport(80)
                    .payload(&payload(mark));
                let packet = ipip(&inside).from(stage.web().end).to(stage.db().end);
                stage.routed(packet).bytes()
            };
            add(
                "ipip: the checksum inside",
                inner(self),
                transport + 20,
                6,
                true,
            );
            add(
                "ipip: the address outside",
                inner(self),
                early,
                transport - 2 - early,
                false,
            );
        }
        crafted
    }

    /// Sends a frame and then another, and returns the first as it arrives.
    fn shoot(&mut self, frame: &Crafted) -> Option<Vec<u8>> {
        let seen = FrameSocket::open(&self.db().namespace, "eth0").expect("a socket");
        let out = UnfinishedSocket::open(&self.web().namespace, "eth0").expect("a socket");
        out.send(&frame.bytes, frame.left)
            .unwrap_or_else(|error| panic!("{}: {error}", frame.about));
        let last = self.mark();
        let packet = udp().from(self.web().end).to(self.db().end).dport(9);
        let packet = self.routed(packet.family(self.family).payload(&last));
        FrameSocket::open(&self.web().namespace, "eth0")
            .and_then(|out| out.send(&packet))
            .expect("sent");
        let before = seen
            .before(PATIENCE, carrying(&last))
            .expect("frames")
            .unwrap_or_else(|| panic!("{}: the next one has not come", frame.about));
        let mark = frame
            .bytes
            .windows(8)
            .find(|bytes| bytes.starts_with(b"left"))
            .expect("frames have marks");
        before.into_iter().find(|seen| carrying(mark)(seen))
    }
}

/// Runs a test in every wiring and family, with a device behind the hook that writes
/// checksums itself and one that does not; from a workload, and from a container that is
/// none.
fn everywhere(test: impl Fn(&mut Stage, &mut Firewall)) {
    for wiring in Wiring::BOTH {
        on_stage(wiring, &mut Firewall::turn(), &test);
    }
}

/// Runs a test as [`everywhere`], in one wiring.
fn on_stage(wiring: Wiring, firewall: &mut Firewall, test: impl Fn(&mut Stage, &mut Firewall)) {
    for is_managed in [true, false] {
        on_stage_from(is_managed, wiring, firewall, &test);
        firewall.clear();
    }
}

fn on_stage_from(
    is_managed: bool,
    wiring: Wiring,
    firewall: &mut Firewall,
    test: impl Fn(&mut Stage, &mut Firewall),
) {
    let (world, mut pods) = shop(wiring);
    pods.retain(|pod| is_managed || pod.name != "shop/web");
    let mut stage = Stage {
        world,
        family: Family::V4,
        offloads: true,
        is_managed,
        sent: 0,
    };
    firewall.enforce(&stage.world, &pods, "");
    for (family, offloads) in [
        (Family::V4, true),
        (Family::V6, true),
        (Family::V4, false),
        (Family::V6, false),
    ] {
        stage.family = family;
        stage.offloads = offloads;
        let behind = &stage.db().host_interface;
        let node = &stage.world.node().namespace;
        node.set_offloads(behind, offloads)
            .expect("offloads are set");
        test(&mut stage, firewall);
        firewall.detach();
    }
}

#[test]
fn checksums_are_written_where_no_verdict_has_looked() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(|stage, firewall| {
        let place = format!("{:?}, offloads {}", stage.family, stage.offloads);
        for frame in stage.crafted() {
            let about = format!("{place}, {}", frame.about);
            let arrived = stage
                .shoot(&frame)
                .unwrap_or_else(|| panic!("{about}: not without a firewall"));
            let at = usize::from(frame.left.checksum_start + frame.left.checksum_offset);
            let is_changed = arrived[at..at + 2] != frame.bytes[at..at + 2];
            assert_eq!(is_changed, !stage.offloads, "{about}: without a firewall");
        }
        are_judged(stage, firewall);
    });
}

/// By links and filters, and by filters alone.
fn are_judged(stage: &mut Stage, firewall: &mut Firewall) {
    for filters_alone in [false, true] {
        stage.attach(firewall);
        if filters_alone {
            for attachments in firewall.attached() {
                attachments.drop_links();
            }
        }
        let at = usize::from(!stage.is_managed);
        for frame in stage.crafted() {
            let about = format!(
                "{:?}, offloads {}, filters alone {filters_alone}, {}",
                stage.family, stage.offloads, frame.about
            );
            let before = dropped(firewall);
            let arrived = stage.shoot(&frame).is_some();
            let mut expected = before;
            expected[at] += u64::from(!frame.passes);
            assert_eq!(
                (arrived, dropped(firewall)),
                (frame.passes, expected),
                "{about}"
            );
        }
        firewall.detach();
    }
}

/// The programs of other tests read the kernel's packet buffer as it is, where the kernel
/// lets them; these copy from it.
#[test]
fn copies_of_the_packet_buffer_say_the_same_of_checksums() {
    skip_unless!(Feature::NetworkNamespaces);
    let variables = [(CASTS_SOCKET_BUFFER, 0)];
    let kernel = Kernel::load_object(OBJECT, LIMITS, &Behaviour::default(), &variables);
    let mut firewall = Firewall::over(kernel.expect("every kernel copies"));
    on_stage(Wiring::Bridge, &mut firewall, are_judged);
}

/// The first kernel with the function that saves the copy is Linux 6.2.
#[test]
fn packets_are_not_copied_where_the_kernel_saves_it() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    let [major, minor] = std::array::from_fn(|_| numbers.next().and_then(Result::ok));
    let is_new = (major, minor) >= (Some(6), Some(2));
    let casts = casts_socket_buffer().expect("the kernel tells its types");
    eprintln!("Linux {}: read as it is: {casts}", release.trim());
    assert_eq!(casts, is_new);
}

#[test]
fn an_arp_message_leaves_no_checksum() {
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Bridge);
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &pods, "");
    firewall.attach(&world);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let out = UnfinishedSocket::open(&web.namespace, "eth0").expect("a socket");
    // The sender's protocol address.
    let left = Unfinished {
        checksum_start: 24,
        checksum_offset: 4,
        ..Unfinished::default()
    };
    let before = dropped(&firewall);
    out.send(&arp_request().from(web.end).to(db.end).bytes(), left)
        .expect("sent");
    let deadline = std::time::Instant::now() + PATIENCE;
    while dropped(&firewall) == before {
        assert!(std::time::Instant::now() < deadline, "it is judged");
        thread::yield_now();
    }
}

/// Traffic of a kernel's sockets passes with the checksums that the kernel leaves: long
/// streams in both directions, datagrams, one that is sent in fragments.
#[test]
fn what_sockets_send_leaves_no_wrong_checksum() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(|stage, firewall| {
        stage.attach(firewall);
        let before = dropped(firewall);
        let (web, db) = (stage.web(), stage.db());
        let to: IpAddr = db.ip(stage.family);
        let listener = db
            .namespace
            .run(|| TcpListener::bind((to, 80)).expect("a listener"));
        let datagrams = db
            .namespace
            .run(|| UdpSocket::bind((to, 80)).expect("a socket"));
        datagrams
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a stream");
            let mut all = vec![0; BULK];
            stream.read_exact(&mut all).expect("all of it");
            stream.write_all(&all).expect("all of it");
        });
        let mut stream = web.namespace.run(|| {
            TcpStream::connect_timeout(&SocketAddr::new(to, 80), PATIENCE).expect("a stream")
        });
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(&vec![7; BULK]).expect("sent");
        let mut all = vec![0; BULK];
        stream.read_exact(&mut all).expect("all of it back");
        assert!(all.iter().all(|&byte| byte == 7));
        echo.join().expect("no panic");

        if Feature::SctpSockets.probe().is_ok() {
            associate(web, db, to);
        }
        let from: IpAddr = web.ip(stage.family);
        let socket = web
            .namespace
            .run(|| UdpSocket::bind((from, 0)).expect("a socket"));
        for size in [3000, 1, 1400] {
            // Of fragments only what becomes of their checksums is of interest here.
            socket.send_to(&vec![7; size], (to, 80)).expect("sent");
        }
        let mut datagram = [0; 4000];
        let got = std::iter::from_fn(|| datagrams.recv(&mut datagram).ok());
        assert!(got.take_while(|&size| size != 1).count() <= 1);
        assert_eq!(datagrams.recv(&mut datagram).expect("the last"), 1400);

        assert_eq!(dropped(firewall), before);
    });
}

/// Sends a message over an association of the kernels' own.
fn associate(web: &Workload, db: &Workload, to: IpAddr) {
    let to = SocketAddr::new(to, 80);
    let open = || Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::SCTP));
    let listener = db.namespace.run(open).expect("a socket");
    listener.bind(&to.into()).expect("a free port");
    listener.listen(1).expect("it listens");
    let socket = web.namespace.run(open).expect("a socket");
    socket
        .connect_timeout(&to.into(), PATIENCE)
        .expect("an association");
    socket.send(&[7; 1000]).expect("sent");
    let (accepted, _) = listener.accept().expect("the association");
    accepted
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    let mut message = [0; 2000];
    assert_eq!((&accepted).read(&mut message).expect("a message"), 1000);
}
