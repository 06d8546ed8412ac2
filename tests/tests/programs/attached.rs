//! The programs on real interfaces, and real packets.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use cofferdam_dataplane::Kernel;
use cofferdam_tests::{
    firewall::{Firewall, Pod, named},
    packet::{Family, tcp, udp},
    skip::Feature,
    skip_unless,
    traffic::{FrameSocket, Matrix, Outcome, Place, Probe, Server, carrying, probe},
    world::{Wiring, World},
};
use cofferdam_verdict::{counter::Hook, reason::Reason, table::Page, verdict::Action};

use super::verdicts::{DB_FROM_WEB, shop};

/// Longest wait for a packet that must arrive, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(10);

const PROBES: [Probe; 5] = [
    Probe::Tcp(5432),
    Probe::Tcp(80),
    Probe::Udp(5432),
    Probe::Sctp(5432),
    Probe::Ping,
];

fn servers(world: &World) -> Vec<Server> {
    let places = world.workloads().iter().map(Place::from);
    Server::start_all(places, &PROBES[..4]).expect("servers")
}

/// All of it in one picture: a label rule, and what the kernel makes of it, in
/// every wiring, family and protocol.
#[test]
fn label_rule_decides_who_reaches_whom() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let (world, pods) = shop(wiring);
        let _servers = servers(&world);
        let everyone = Matrix::among(world.workloads(), &PROBES);
        everyone.run(|_| true).expect("a run").assert_as_expected();

        let mut firewall = Firewall::turn();
        firewall.enforce(&world, &pods, DB_FROM_WEB);
        firewall.attach(&world);
        // What the database asks others is answered to it, though it is isolated.
        let table = everyone
            .run(|cell| match (cell.source, cell.destination) {
                ("shop/web", "shop/db") => cell.probe == Probe::Tcp(5432),
                (_, "shop/db") => false,
                _ => true,
            })
            .expect("a run");
        table.assert_as_expected();
        let ledger = firewall.ledger();
        ledger.assert_conserved();
        assert!(ledger.judged(Hook::ToWorkload, Action::Allow, Reason::Rule) > 0);
        // Denied where it begins, for the receiver's sake.
        assert!(ledger.judged(Hook::FromWorkload, Action::Deny, Reason::Isolated) > 0);
    }
}

/// Packets are judged once where both a link and a filter are attached, and either does the
/// work alone.
#[test]
fn filters_stay_when_links_are_gone_and_nothing_is_counted_twice() {
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let _servers = servers(&world);
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &pods, DB_FROM_WEB);
    firewall.attach(&world);
    let [web, cache, db] = ["shop/web", "shop/cache", "shop/db"].map(|name| named(&world, name));
    let to = db.end.ip(Family::V4).expect("both");
    let reaches = |from| {
        let outcome = probe(from, to, Probe::Tcp(5432), Duration::from_millis(400));
        outcome.expect("a probe").is_reached()
    };
    let judged = |firewall: &Firewall| {
        let ledger = firewall.ledger();
        ledger.assert_conserved();
        ledger.judged(Hook::FromWorkload, Action::Deny, Reason::Isolated)
    };
    assert!(
        firewall
            .attached()
            .iter()
            .all(|attachments| attachments.has_filters())
    );

    for shared in [false, true] {
        if shared {
            let mut endpoint = firewall.endpoint(&world, "shop/cache");
            endpoint.shared_hooks = true;
            firewall
                .kernel()
                .set_endpoint(&endpoint)
                .expect("there is room");
        }
        assert!(reaches(web), "shared: {shared}");
        let before = judged(&firewall);
        let datagram = udp().from(cache.end).to(db.end).dport(9).payload(b"once");
        let out = FrameSocket::open(&cache.namespace, "eth0").expect("a socket");
        out.send(&datagram.via(cache.gateway.mac)).expect("sent");
        let deadline = Instant::now() + PATIENCE;
        while judged(&firewall) == before {
            assert!(Instant::now() < deadline, "the datagram is judged");
            std::thread::yield_now();
        }
        assert_eq!(judged(&firewall), before + 1, "shared: {shared}");
    }

    for attachments in firewall.attached() {
        attachments.drop_links();
    }
    assert!(reaches(web), "the filters let pass what they should");
    assert!(!reaches(cache), "the filters deny");
    firewall.detach();
    assert!(reaches(cache), "nothing is attached any more");
}

/// A frame over 4 KiB from a packet socket shows the programs 14 bytes. It gets
/// the verdict of any other frame.
#[test]
fn headers_outside_the_linear_part_are_read() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_, pods) = shop(Wiring::Ptp);
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let world = World::plan(Wiring::Ptp)
        .mtu(9000)
        .workloads(names)
        .outside()
        .build();
    let world = world.expect("a world");
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &pods, DB_FROM_WEB);
    firewall.attach(&world);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let out = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
    let arrivals = FrameSocket::open(&db.namespace, "eth0").expect("a socket");
    for family in Family::BOTH {
        let to_db = |port, mark: &[u8]| {
            let payload = [mark, &vec![0x55; 8000]].concat();
            let packet = tcp().family(family).from(web.end).to(db.end).dport(port);
            packet.syn().payload(&payload).via(web.gateway.mac)
        };
        let before = firewall.ledger();
        out.send(&to_db(80, b"denied port")).expect("sent");
        out.send(&to_db(5432, b"allowed port")).expect("sent");
        let earlier = arrivals
            .before(PATIENCE, carrying(b"allowed port"))
            .expect("a capture")
            .expect("the allowed frame arrives");
        assert!(!earlier.iter().any(|frame| carrying(b"denied port")(frame)));
        let ledger = firewall.ledger();
        ledger.assert_conserved();
        let rule = |ledger: &cofferdam_tests::ledger::Ledger| {
            ledger.judged(Hook::ToWorkload, Action::Allow, Reason::Rule)
        };
        assert_eq!(rule(&ledger), rule(&before) + 1);
    }
}

/// The publication of a table is one store: under alternating tables, each of
/// which denies the way by another direction, nothing arrives.
#[test]
fn no_packet_passes_on_a_mix_of_two_tables() {
    const SWAPS: usize = 60;
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let open_ingress = policy("Egress", "app: web");
    let open_egress = policy("Ingress", "app: db");
    let mut firewall = Firewall::turn();
    let tables = tables(&mut firewall, &world, &pods, [open_ingress, open_egress]);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let arrivals = FrameSocket::open(&db.namespace, "eth0").expect("a socket");
    let stop = AtomicBool::new(false);
    let before = firewall.ledger();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let out = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
            let frame = udp()
                .from(web.end)
                .to(db.end)
                .dport(7)
                .payload(b"leaked")
                .via(web.gateway.mac)
                .bytes();
            while !stop.load(Ordering::Relaxed) {
                // A full queue is no leak.
                let _full = out.send_bytes(&frame);
            }
        });
        swap(&mut firewall, &tables, SWAPS);
        stop.store(true, Ordering::Relaxed);
    });
    let ledger = firewall.ledger();
    ledger.assert_conserved();
    let denied = ledger.total(Hook::FromWorkload, Action::Deny)
        + ledger.total(Hook::ToWorkload, Action::Deny)
        - before.total(Hook::FromWorkload, Action::Deny)
        - before.total(Hook::ToWorkload, Action::Deny);
    assert!(denied > SWAPS as u64, "{denied} packets met {SWAPS} swaps");
    let leaked = arrivals.next(Duration::from_millis(50), carrying(b"leaked"));
    assert_eq!(leaked.expect("a capture"), None);
}

/// Tables are replaced whole while packets of old and new flows are on their way: what
/// both tables allow arrives, all of it.
#[test]
fn replacing_all_policies_loses_nothing_that_both_allow() {
    const SWAPS: usize = 20;
    const BURST: u16 = 20;
    const FEWEST_BURSTS: u16 = 3;
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let mut firewall = Firewall::turn();
    // The second table has other policies, rules, classes and rows.
    let other = DB_FROM_WEB.replace("db-from-web", "another");
    let other = [
        &other.replace("5432}", "5432}, {protocol: UDP, port: 7}"),
        "---\n",
        &policy("Ingress", "app: cache"),
        "---\n",
        &policy("Egress", "app: db").replace("closed", "quiet"),
    ]
    .concat();
    let one = DB_FROM_WEB.replace("5432}", "5432}, {protocol: UDP, port: 7}");
    let tables = tables(&mut firewall, &world, &pods, [one, other]);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let arrivals = FrameSocket::open(&db.namespace, "eth0").expect("a socket");
    let stop = AtomicBool::new(false);
    let met = AtomicU16::new(0);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let out = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
            let mut bursts = 0u16;
            while !stop.load(Ordering::Relaxed) {
                for number in 0..BURST {
                    // Half belong to flows that last, the others open new ones.
                    let fresh = bursts.wrapping_mul(BURST) % 40_000;
                    let port = 10_000 + number + if number % 2 == 0 { 0 } else { fresh };
                    let mark = format!("packet {bursts} {number};");
                    let packet = udp()
                        .from(web.end)
                        .to(db.end)
                        .sport(port)
                        .dport(7)
                        .payload(mark.as_bytes())
                        .via(web.gateway.mac);
                    out.send(&packet).expect("sent");
                }
                for number in 0..BURST {
                    let mark = format!("packet {bursts} {number};");
                    let arrived = arrivals.next(PATIENCE, carrying(mark.as_bytes()));
                    assert!(arrived.expect("a capture").is_some(), "{mark} is lost");
                }
                bursts = bursts.wrapping_add(1);
                met.store(bursts, Ordering::Relaxed);
            }
        });
        swap(&mut firewall, &tables, SWAPS);
        // An emulated machine publishes tables faster than it sends packets.
        while met.load(Ordering::Relaxed) < FEWEST_BURSTS && !sender.is_finished() {
            swap(&mut firewall, &tables, 2);
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("nothing was lost");
    });
    firewall.ledger().assert_conserved();
}

/// The decision tables of two sets of policies. The programs are attached, the second in
/// force.
fn tables(
    firewall: &mut Firewall,
    world: &World,
    pods: &[Pod],
    policies: [String; 2],
) -> [Vec<Page>; 2] {
    let tables = policies.map(|policies| {
        firewall.enforce(world, pods, &policies);
        firewall.compiled().pages().to_vec()
    });
    firewall.attach(world);
    tables
}

/// Publishes one table after the other.
fn swap(firewall: &mut Firewall, tables: &[Vec<Page>; 2], times: usize) {
    for number in 0..times {
        let published = firewall.kernel().publish(&tables[number % 2]);
        published.expect("a table");
    }
}

/// A policy that isolates pods in one direction and allows nothing there.
fn policy(direction: &str, label: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: closed, namespace: shop}}\nspec: {{podSelector: {{matchLabels: {{{label}}}}}, policyTypes: [{direction}]}}\n"
    )
}

#[test]
fn an_interface_that_is_not_there_is_an_error_with_its_name() {
    let mut firewall = Firewall::turn();
    let kernel: &mut Kernel = firewall.kernel();
    let error = kernel
        .attach("nosuch0")
        .expect_err("there is no such interface");
    assert!(error.to_string().contains("nosuch0"), "{error}");
    assert_ne!(Outcome::Blocked, Outcome::Refused);
}
