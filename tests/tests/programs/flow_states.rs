//! The programs' flow code in user space, on the maps of the loaded programs but
//! with flows and a clock of its own: what takes seconds in the kernel is a number
//! here.

use cofferdam_tests::{
    firewall::{Turn, named},
    packet::{Body, Packet, Tcp, Udp, tcp, udp},
    world::{Entered, Wiring, Workload, World},
};
use cofferdam_verdict::{
    address::Address,
    counter::Hook,
    flow::{
        FlowEntry, FlowKey, FlowSet, FlowState, Idle, StateWord, WAYS,
        model::{Flow, Partition},
    },
    judge::Context,
    packet::protocol,
    pipeline::judge_flow,
    reason::Reason,
    slices::{SliceFlows, SliceFrame},
    verdict::Verdict,
};
use fastrand::Rng;

use super::verdicts::Scene;

/// A policy that isolates the database both ways, but for these rules.
fn db_but(rules: &str) -> String {
    let isolated = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
";
    [isolated, rules].concat()
}

/// The database takes TCP 5432 and UDP 53 from web, and may itself say nothing.
const QUIET_DB: &str = "  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 5432}, {protocol: UDP, port: 53}]
";

/// The database takes UDP 53 from web, and sends web datagrams to high ports.
const BUSY_DB: &str = "  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: UDP, port: 53}]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: UDP, port: 20000, endPort: 21000}]
";

/// Web and the database may open connections to each other.
const TALKATIVE_DB: &str = "  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]
";

/// The database's hooks, with a clock.
struct Clocked {
    firewall: Turn,
    sets: Vec<FlowSet>,
    now: u32,
    web: (u32, cofferdam_tests::packet::End),
    db: (u32, cofferdam_tests::packet::End),
    _inside: Entered,
}

impl Clocked {
    fn open() -> (World, Self) {
        Self::open_under(QUIET_DB)
    }

    /// Under a policy for the database with these rules. Time begins shortly before the clock
    /// word wraps.
    fn open_under(rules: &str) -> (World, Self) {
        let Scene {
            firewall,
            world,
            inside,
        } = Scene::open(Wiring::Ptp, &db_but(rules));
        let end = |name| {
            let workload: &Workload = named(&world, name);
            (workload.host_ifindex, workload.end)
        };
        let (web, db) = (end("shop/web"), end("shop/db"));
        let sets = (0..cofferdam_tests::firewall::LIMITS.flow_sets())
            .map(|_| FlowSet::default())
            .collect();
        let clocked = Self {
            firewall,
            sets,
            now: u32::MAX - 100,
            web,
            db,
            _inside: inside,
        };
        (world, clocked)
    }

    fn judge<S: Body>(&mut self, packet: &Packet<S>, hook: Hook) -> Reason {
        let memory = self.firewall.kernel().memory();
        let partitions: Vec<&[FlowSet]> = vec![&self.sets; memory.endpoints.len()];
        let flows = SliceFlows {
            memory,
            partitions: &partitions,
            fragments: &[],
            rule_counts: &[],
            jiffies: self.now,
        };
        let by = if hook == Hook::ToWorkload {
            self.web.0
        } else {
            self.db.0
        };
        let context = Context {
            ifindex: self.db.0,
            ingress_ifindex: by,
            stamp: by,
            has_socket: false,
            tagged: false,
        };
        let frame = SliceFrame {
            bytes: &packet.bytes(),
            gso: false,
        };
        let case = judge_flow(&flows, &frame, &context, hook);
        Verdict::from_any_word(case.enforced)
            .expect("every case has an answer")
            .reason
    }

    /// From web to the database.
    fn ask<S: Body>(&mut self, packet: &Packet<S>) -> Reason {
        self.judge(packet, Hook::ToWorkload)
    }

    /// From the database to web.
    fn answer<S: Body>(&mut self, packet: &Packet<S>) -> Reason {
        self.judge(packet, Hook::FromWorkload)
    }

    /// A datagram by which web, or from port 20000 on the database, opens a flow.
    fn question(&self, port: u16) -> Packet<Udp> {
        let packet = udp().sport(port).dport(53);
        if port >= 20_000 {
            packet.from(self.web.1).to(self.db.1).reply()
        } else {
            packet.from(self.web.1).to(self.db.1)
        }
    }

    /// From the database to web, or the other way.
    fn meet<S: Body>(&mut self, packet: &Packet<S>, by_db: bool) -> Reason {
        if by_db {
            self.answer(packet)
        } else {
            self.ask(packet)
        }
    }

    fn request(&self) -> Packet<Tcp> {
        tcp().from(self.web.1).to(self.db.1).dport(5432)
    }

    fn segment(&self) -> Packet<Tcp> {
        tcp()
            .from(self.db.1)
            .to(self.web.1)
            .sport(5432)
            .dport(40000)
    }

    fn idle(&mut self, kind: Idle) -> u32 {
        self.firewall.kernel().settings().idle[kind as usize]
    }

    /// Lets the longest time pass that a flow of this kind may be idle, and more.
    fn pass(&mut self, kind: Idle, more: u32) {
        let idle = self.idle(kind);
        self.now = self.now.wrapping_add(idle + more);
    }

    /// Both ends say goodbye.
    fn finish(&mut self) {
        self.ask(&self.request().fin().ack());
        self.answer(&self.segment().fin().ack());
    }

    fn connect(&mut self) {
        assert_eq!(self.ask(&self.request().seq(1000).syn()), Reason::Rule);
        let answer = self.segment().seq(5000).ack_number(1001).syn().ack();
        assert_eq!(self.answer(&answer), Reason::Flow);
        let ack = self.request().seq(1001).ack_number(5001).ack();
        assert_eq!(self.ask(&ack), Reason::Flow);
    }
}

#[test]
fn a_connection_that_is_not_answered_is_forgotten_soon() {
    let (_world, mut clocked) = Clocked::open();
    let answer = clocked.segment().syn().ack();
    for (more, expected) in [(0, Reason::Flow), (1, Reason::Isolated)] {
        assert_eq!(clocked.ask(&clocked.request().syn()), Reason::Rule);
        clocked.pass(Idle::TcpEmbryonic, more);
        assert_eq!(clocked.answer(&answer), expected, "{more}");
        clocked.pass(Idle::TcpEstablished, 1);
    }
}

#[test]
fn an_answered_connection_may_be_idle_for_long() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    for _ in 0..3 {
        clocked.pass(Idle::TcpEstablished, 0);
        assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Flow);
    }
    clocked.pass(Idle::TcpEstablished, 1);
    // Policy is asked again about what was silent for longer.
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Rule);
    assert_eq!(clocked.ask(&clocked.request().ack()), Reason::Flow);
}

#[test]
fn a_reset_closes_only_from_within_the_window() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    for blind in [1000, 1001u32.wrapping_add(65_536), 0x8000_0000] {
        assert_eq!(
            clocked.ask(&clocked.request().seq(blind).rst()),
            Reason::Flow
        );
        clocked.pass(Idle::TcpClosing, 1);
        assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Flow);
    }
    assert_eq!(
        clocked.ask(&clocked.request().seq(1001).rst()),
        Reason::Flow
    );
    clocked.pass(Idle::TcpClosing, 1);
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Isolated);
}

#[test]
fn both_ends_must_finish() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    assert_eq!(clocked.ask(&clocked.request().fin().ack()), Reason::Flow);
    clocked.pass(Idle::TcpClosing, 1);
    assert_eq!(
        clocked.answer(&clocked.segment().ack()),
        Reason::Flow,
        "half closed"
    );
    assert_eq!(clocked.answer(&clocked.segment().fin().ack()), Reason::Flow);
    assert_eq!(
        clocked.ask(&clocked.request().ack()),
        Reason::Flow,
        "the last word"
    );
    clocked.pass(Idle::TcpClosing, 1);
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Isolated);
}

#[test]
fn ports_are_used_again_after_a_goodbye() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    clocked.finish();
    clocked.connect();
    clocked.pass(Idle::TcpClosing, 1);
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Flow);
}

/// The entry of a connection that has ended allows no new one on the same ports.
#[test]
fn ports_are_not_used_again_after_policy_has_changed() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    clocked.finish();
    clocked.firewall.replace_policies(&db_but(""));
    let syn = clocked.request().seq(9000).syn();
    assert_eq!(clocked.ask(&syn), Reason::Isolated);
    let answer = clocked.segment().syn().ack();
    assert_eq!(clocked.answer(&answer), Reason::Isolated);
    clocked.firewall.replace_policies(&db_but(QUIET_DB));
    assert_eq!(clocked.answer(&answer), Reason::Isolated, "forgotten");
}

/// A restarted opener sends a SYN on the ports of a connection that the other end still has.
/// That end's answer, an acknowledgement of the old connection, and the opener's reset pass;
/// the next SYN opens the connection again.
#[test]
fn a_half_open_connection_is_reset_and_opened_again() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    let syn = clocked.request().seq(70_000).syn();
    assert_eq!(clocked.ask(&syn), Reason::Rule);
    let old = clocked.segment().seq(5001).ack_number(1001).ack();
    assert_eq!(clocked.answer(&old), Reason::Flow);
    assert_eq!(
        clocked.ask(&clocked.request().seq(1001).rst()),
        Reason::Flow
    );
    assert_eq!(clocked.ask(&syn), Reason::Rule);
    let accepted = clocked.segment().seq(90_000).ack_number(70_001).syn().ack();
    assert_eq!(clocked.answer(&accepted), Reason::Flow);
    let ack = clocked.request().ack_number(90_001).ack();
    assert_eq!(clocked.ask(&ack), Reason::Flow);
    clocked.pass(Idle::TcpEstablished, 0);
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Flow);
}

#[test]
fn a_syn_that_is_sent_again_leaves_the_connection_established() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    assert_eq!(clocked.ask(&clocked.request().syn()), Reason::Rule);
    clocked.pass(Idle::TcpEstablished, 0);
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Flow);
}

/// Both ends may open, on the same ports: the first one's flow stays, until it is
/// closing.
#[test]
fn a_connection_the_other_way_takes_the_place_of_a_closing_one_only() {
    let (_world, mut clocked) = Clocked::open_under(TALKATIVE_DB);
    clocked.connect();
    let back = clocked.segment().syn();
    assert_eq!(clocked.answer(&back), Reason::Rule);
    clocked.pass(Idle::TcpEstablished, 0);
    assert_eq!(clocked.ask(&clocked.request().fin().ack()), Reason::Flow);
    assert_eq!(clocked.answer(&clocked.segment().fin().ack()), Reason::Flow);
    assert_eq!(clocked.answer(&back), Reason::Rule);
    let accepted = clocked.request().seq(70_000).syn().ack();
    assert_eq!(clocked.ask(&accepted), Reason::Flow);
    let ack = clocked.segment().ack_number(70_001).ack();
    assert_eq!(clocked.answer(&ack), Reason::Flow);
    clocked.pass(Idle::TcpEstablished, 0);
    assert_eq!(clocked.answer(&clocked.segment().ack()), Reason::Flow);
}

/// The packet that makes policy decide again is a packet of the flow like others.
#[test]
fn a_flow_that_is_decided_again_moves_on_by_the_same_packet() {
    let (_world, mut clocked) = Clocked::open();
    assert_eq!(clocked.ask(&clocked.request().syn()), Reason::Rule);
    clocked.firewall.replace_policies(&db_but(QUIET_DB));
    let answer = clocked.segment().seq(5000).syn().ack();
    assert_eq!(clocked.answer(&answer), Reason::Rule);
    clocked.firewall.replace_policies(&db_but(QUIET_DB));
    let ack = clocked.request().ack_number(5001).ack();
    assert_eq!(clocked.ask(&ack), Reason::Rule);
    clocked.pass(Idle::TcpEstablished, 0);
    assert_eq!(clocked.answer(&answer), Reason::Flow);
}

#[test]
fn what_goes_to_nobodys_address_opens_no_flow() {
    let (_world, mut clocked) = Clocked::open();
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let question = udp().from(clocked.web.1).to(group).dport(53);
    for _ in 0..2 {
        assert_eq!(clocked.ask(&question), Reason::Rule);
    }
    let entries = clocked.sets.iter().flat_map(|set| &set.ways);
    let mut words = entries.map(|entry| StateWord(entry.state.load()));
    assert!(words.all(|word| word.state() == FlowState::Free));
}

#[test]
fn packets_are_counted_for_the_end_that_sent_them() {
    let (_world, mut clocked) = Clocked::open();
    clocked.connect();
    let long = clocked.request().ack().payload(b"a question");
    assert_eq!(clocked.ask(&long), Reason::Flow);
    let entries = clocked.sets.iter().flat_map(|set| &set.ways);
    let live = |entry: &&FlowEntry| StateWord(entry.state.load()).state() != FlowState::Free;
    let [entry] = entries.filter(live).collect::<Vec<_>>()[..] else {
        panic!("one flow");
    };
    let short = clocked.request().ack().bytes().len() as u64;
    let packets = entry.counted();
    let sides = [0, 1].map(|side| (packets[side], entry.bytes[side].load()));
    let long = long.bytes().len() as u64;
    assert_eq!(sides, [(3, 2 * short + long), (1, short)]);
}

#[test]
fn datagrams_keep_their_flow_alive_from_both_ends() {
    let (_world, mut clocked) = Clocked::open();
    let question = udp().from(clocked.web.1).to(clocked.db.1).dport(53);
    let answer = udp()
        .from(clocked.db.1)
        .to(clocked.web.1)
        .sport(53)
        .dport(40000);
    assert_eq!(clocked.ask(&question), Reason::Rule);
    clocked.pass(Idle::UdpOneWay, 0);
    assert_eq!(clocked.ask(&question), Reason::Flow);
    clocked.pass(Idle::UdpOneWay, 0);
    assert_eq!(clocked.answer(&answer), Reason::Flow);
    for _ in 0..3 {
        clocked.pass(Idle::Udp, 0);
        assert_eq!(clocked.answer(&answer), Reason::Flow);
    }
    clocked.pass(Idle::Udp, 0);
    assert_eq!(clocked.ask(&question), Reason::Flow);
    clocked.pass(Idle::Udp, 1);
    assert_eq!(clocked.answer(&answer), Reason::Isolated);
    assert_eq!(clocked.ask(&question), Reason::Rule);
    clocked.pass(Idle::UdpOneWay, 1);
    assert_eq!(
        clocked.answer(&answer),
        Reason::Isolated,
        "never answered in time"
    );
}

/// On another processor, a packet may come one tick after this one's.
#[test]
fn a_full_table_gives_up_no_flow_that_was_seen_a_tick_ahead() {
    let (_world, mut clocked) = Clocked::open_under(BUSY_DB);
    // Half of each full set is web's, and half the database's.
    let mut refused = Vec::new();
    for port in (1..1000).flat_map(|port| [port, 20_000 + port]) {
        let (question, by_db) = (clocked.question(port), port >= 20_000);
        if clocked.meet(&question, by_db) == Reason::FlowTableFull {
            refused.push((question, by_db));
            continue;
        }
        clocked.meet(&question.reply(), !by_db);
        clocked.meet(&question, by_db);
    }
    assert!(refused.len() > 500, "{}", refused.len());
    clocked.now -= 1;
    for (question, by_db) in refused {
        let again = clocked.meet(&question, by_db);
        assert_eq!(again, Reason::FlowTableFull, "{question}");
    }
}

/// Random conversations in a small partition, against the table's model.
#[test]
fn the_table_places_flows_as_its_model_does() {
    let (_world, mut clocked) = Clocked::open_under(BUSY_DB);
    let keys = clocked.firewall.kernel().settings().keys;
    let addresses = [clocked.db.1, clocked.web.1].map(|end| {
        let ip = end.ip(cofferdam_tests::packet::Family::V4);
        Address::from(ip.expect("both families"))
    });
    let one_way = clocked.idle(Idle::UdpOneWay);
    let two_way = clocked.idle(Idle::Udp);
    let rest = clocked.idle(Idle::TcpClosing) / 10;
    let mut model = vec![[None; WAYS]; clocked.sets.len()];
    let mut model = Partition::new(&keys, &mut model).expect("a power of two");
    let mut rng = Rng::with_seed(7);
    let mut seen = [0; 4];
    // Most conversations are of three packets, and established by the last.
    let (mut port, mut by_db, mut left) = (1, false, 0);
    for _ in 0..40_000 {
        // Slow enough to fill the table, and fast enough for flows to end.
        if rng.u8(0..16) == 0 {
            clocked.now = clocked.now.wrapping_add(rng.u32(0..two_way / 3000));
        }
        let now = clocked.now;
        if left == 0 {
            left = rng.u8(1..5);
            by_db = rng.bool();
            port = if by_db {
                rng.u16(20_000..21_000)
            } else {
                rng.u16(1..1500)
            };
        }
        left -= 1;
        let from_opener = left % 2 == 0;
        let key = FlowKey::new(&addresses[0], &addresses[1], protocol::UDP, 53, port);
        let expected = match model.find(&key, now) {
            Some(flow) => {
                flow.last_seen = now;
                match flow.state {
                    FlowState::Embryonic if !from_opener => {
                        (flow.state, flow.idle) = (FlowState::Answered, two_way);
                    }
                    FlowState::Answered if from_opener => flow.state = FlowState::Established,
                    _ => {}
                }
                Reason::Flow
            }
            // To web's port it would open a flow of web's own.
            None if by_db && !from_opener => continue,
            None if !from_opener => Reason::Isolated,
            None => {
                let opener = if by_db { [0; 4] } else { addresses[1].words };
                let flow = Flow {
                    key,
                    state: FlowState::Embryonic,
                    last_seen: now,
                    idle: one_way,
                    rest,
                    opener,
                };
                match model.insert(flow, now) {
                    Ok(()) => Reason::Rule,
                    Err(_) => Reason::FlowTableFull,
                }
            }
        };
        let mut packet = clocked.question(port);
        if !from_opener {
            packet = packet.reply();
        }
        let judged = clocked.meet(&packet, by_db == from_opener);
        assert_eq!(judged, expected, "port {port}");
        match expected {
            Reason::Rule => seen[0] += 1,
            Reason::FlowTableFull if by_db => seen[1] += 1,
            Reason::FlowTableFull => seen[2] += 1,
            _ => seen[3] += 1,
        }
    }
    assert!(seen.iter().all(|&times| times > 50), "{seen:?}");
}

/// Many processors at once: every question of an open flow passes, every answer
/// finds its flow, and what is counted is what was sent.
#[test]
fn flows_hold_under_many_threads() {
    const THREADS: u16 = 4;
    const ROUNDS: u64 = 3_000;
    let (_world, mut clocked) = Clocked::open();
    let (web, db) = (clocked.web, clocked.db);
    let memory = clocked.firewall.kernel().memory();
    let wide: Vec<&[FlowSet]> = vec![&clocked.sets; memory.endpoints.len()];
    let judge = |packet: &Packet<Udp>, hook| {
        let flows = SliceFlows {
            memory,
            partitions: &wide,
            fragments: &[],
            rule_counts: &[],
            jiffies: 5,
        };
        let by = if hook == Hook::ToWorkload {
            web.0
        } else {
            db.0
        };
        let context = Context {
            ifindex: db.0,
            ingress_ifindex: by,
            stamp: by,
            ..Context::default()
        };
        let frame = SliceFrame {
            bytes: &packet.bytes(),
            gso: false,
        };
        let case = judge_flow(&flows, &frame, &context, hook);
        Verdict::from_any_word(case.enforced)
            .expect("an answer")
            .reason
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let judge = &judge;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let port = 1 + thread * 20 + (round % 20) as u16;
                    let question = udp().from(web.1).to(db.1).sport(port).dport(53);
                    let answer = udp().from(db.1).to(web.1).sport(53).dport(port);
                    let reason = judge(&question, Hook::ToWorkload);
                    assert!(matches!(reason, Reason::Rule | Reason::Flow), "{reason:?}");
                    assert_eq!(judge(&answer, Hook::FromWorkload), Reason::Flow);
                }
            });
        }
    });
    let entries = clocked.sets.iter().flat_map(|set| &set.ways);
    let live = entries.filter(|entry| StateWord(entry.state.load()).state() != FlowState::Free);
    let counted: u64 = live
        .map(|entry| entry.counted().into_iter().sum::<u64>())
        .sum();
    assert_eq!(counted, u64::from(THREADS) * ROUNDS * 2);
}
