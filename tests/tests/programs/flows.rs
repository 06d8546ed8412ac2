//! Flows: what follows from an allowed packet, and for how long.

use std::time::Duration;

use cofferdam_dataplane::{Behaviour, Endpoint, IdleTimes, Kernel, Program, TestContext};
use cofferdam_tests::{
    firewall::{Firewall, LIMITS, Turn, named},
    ledger::allowed,
    packet::{Body, Family, Packet, ip_protocol, ping, tcp, udp},
    shop::{CLOSED, DB},
    skip::Feature,
    skip_unless,
    traffic::{Conversation, Place, Probe, Server},
    world::{Entered, Wiring, Workload, World},
};
use cofferdam_verdict::{
    counter::Hook,
    event::EventRecord,
    flow::Idle,
    reason::Reason,
    verdict::{Action, Verdict},
};

use super::verdicts::{Scene, between, leaving, shop};

/// Nobody in the shop receives anything.
const ALL_INGRESS_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}}
";

/// The database receives nothing.
const ONLY_INGRESS_TO_DB_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
";

/// The cache receives nothing.
const ONLY_INGRESS_TO_CACHE_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: cache}}}
";

pub(crate) const FLOW: (Action, Reason) = (Action::Allow, Reason::Flow);
pub(crate) const FREE: (Action, Reason) = (Action::Allow, Reason::NotIsolated);
pub(crate) const RULE: (Action, Reason) = (Action::Allow, Reason::Rule);
pub(crate) const ISOLATED: (Action, Reason) = (Action::Deny, Reason::Isolated);
const NO_FLOW: (Action, Reason) = (Action::Deny, Reason::NoFlow);

/// The closed shop, and a way to send packets through it.
pub(crate) struct Shop {
    pub(crate) firewall: Turn,
    _inside: Entered,
}

impl Shop {
    pub(crate) fn open() -> (World, Self) {
        let Scene {
            firewall,
            world,
            inside,
        } = Scene::open(Wiring::Ptp, &[CLOSED, DB].concat());
        let shop = Self {
            firewall,
            _inside: inside,
        };
        (world, shop)
    }

    /// Runs a packet over one hook: what became of it, and why.
    pub(crate) fn meet<S: Body>(
        &mut self,
        program: Program,
        packet: &Packet<S>,
        from: &Workload,
        to: &Workload,
    ) -> (Action, Reason) {
        let context = if program == Program::FROM_WORKLOAD {
            leaving(from)
        } else {
            between(from, to)
        };
        judged(&mut self.firewall, program, &packet.bytes(), &context)
    }

    /// Runs a packet over the hooks of its sender and its receiver, as far as it
    /// gets.
    pub(crate) fn send<S: Body>(
        &mut self,
        packet: &Packet<S>,
        from: &Workload,
        to: &Workload,
    ) -> Vec<(Action, Reason)> {
        let left = self.meet(Program::FROM_WORKLOAD, packet, from, to);
        if left.0 == Action::Deny {
            return vec![left];
        }
        vec![left, self.meet(Program::TO_WORKLOAD, packet, from, to)]
    }

    /// Opens a TCP connection and shakes hands.
    pub(crate) fn connect(&mut self, web: &Workload, db: &Workload, port: u16) {
        let syn = tcp()
            .from(web.end)
            .to(db.end)
            .sport(port)
            .dport(5432)
            .seq(1000)
            .syn();
        assert_eq!(self.send(&syn, web, db), [RULE, RULE]);
        let answer = segment(db, web).dport(port).seq(5000).ack_number(1001);
        assert_eq!(self.send(&answer.syn().ack(), db, web), [FLOW, FLOW]);
        let ack = request(web, db).sport(port).seq(1001).ack_number(5001);
        assert_eq!(self.send(&ack.ack(), web, db), [FLOW, FLOW]);
    }
}

/// A segment of web's connection to the database.
pub(crate) fn request(web: &Workload, db: &Workload) -> Packet<cofferdam_tests::packet::Tcp> {
    tcp().from(web.end).to(db.end).dport(5432)
}

/// A segment of the database's answer.
pub(crate) fn segment(db: &Workload, web: &Workload) -> Packet<cofferdam_tests::packet::Tcp> {
    tcp().from(db.end).to(web.end).sport(5432).dport(40000)
}

pub(crate) fn judged(
    firewall: &mut Firewall,
    program: Program,
    frame: &[u8],
    context: &TestContext,
) -> (Action, Reason) {
    let before = firewall.ledger();
    let action = firewall.run(program, frame, context);
    let after = firewall.ledger();
    after.assert_conserved();
    let moved = after.since(&before);
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!(moved[0].action, action);
    (action, moved[0].reason)
}

/// Sends a packet from web, its reply before it and after it.
fn only_the_reply_passes<S: Body>(
    shop: &mut Shop,
    packet: &Packet<S>,
    web: &Workload,
    server: &Workload,
) {
    let reply = packet.reply();
    assert_eq!(shop.send(&reply, server, web), [ISOLATED], "{reply}");
    assert_eq!(shop.send(packet, web, server), [RULE, RULE], "{packet}");
    assert_eq!(shop.send(&reply, server, web), [FLOW, FLOW], "{reply}");
    assert_eq!(shop.send(packet, web, server), [FLOW, FLOW], "{packet}");
}

#[test]
fn a_reply_passes_where_its_sender_is_isolated() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    for family in Family::BOTH {
        let question = udp().family(family).from(web.end).to(db.end).dport(53);
        only_the_reply_passes(&mut shop, &question, web, db);
        let echo = ping(family).from(web.end).to(cache.end).echo(7, 1);
        only_the_reply_passes(&mut shop, &echo, web, cache);
        let tunnel = ip_protocol(47).family(family).from(web.end).to(cache.end);
        only_the_reply_passes(&mut shop, &tunnel.payload(b"gre"), web, cache);
    }
    shop.connect(web, db, 40000);
}

#[test]
fn another_port_or_peer_is_no_reply() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let question = udp().from(web.end).to(db.end).dport(53);
    shop.send(&question, web, db);
    let answer = udp().from(db.end).to(web.end).sport(53).dport(40000);
    assert_eq!(shop.send(&answer, db, web), [FLOW, FLOW]);
    for stray in [answer.clone().sport(54), answer.clone().dport(40001)] {
        assert_eq!(shop.send(&stray, db, web), [ISOLATED], "{stray}");
    }
    let other = udp().from(cache.end).to(web.end).sport(53).dport(40000);
    assert_eq!(shop.send(&other, cache, web), [ISOLATED]);
    let tcp = tcp().from(db.end).to(web.end).sport(53).dport(40000).ack();
    assert_eq!(shop.send(&tcp, db, web), [ISOLATED], "another protocol");
}

/// A later fragment shows no ports; that is not port 0.
#[test]
fn a_flow_between_ports_0_lets_no_later_fragment_pass() {
    let (world, mut shop) = Shop::open();
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    let no_first = (Action::Deny, Reason::FragmentNoFirst);
    for family in Family::BOTH {
        let zero = udp()
            .family(family)
            .from(web.end)
            .to(cache.end)
            .sport(0)
            .dport(0)
            .payload(&[0; 64]);
        only_the_reply_passes(&mut shop, &zero, web, cache);
        let later = zero.fragment(9, 24, false);
        assert_eq!(shop.send(&later, web, cache), [no_first], "{later}");
    }
}

/// Both ends of an echo use one identifier; a request is not its own reply.
#[test]
fn an_echo_request_is_judged_even_under_the_identifier_of_an_allowed_one() {
    let (world, mut shop) = Shop::open();
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    for family in Family::BOTH {
        let allowed = ping(family).from(web.end).to(cache.end).echo(9, 1);
        assert_eq!(shop.send(&allowed, web, cache), [RULE, RULE]);
        let back = ping(family).from(cache.end).to(web.end).echo(9, 1);
        assert_eq!(shop.send(&back, cache, web), [ISOLATED]);
        assert_eq!(shop.send(&allowed.reply(), cache, web), [FLOW, FLOW]);
    }
}

#[test]
fn an_echo_reply_that_nobody_asked_for_opens_nothing() {
    let (world, mut shop) = Shop::open();
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    for family in Family::BOTH {
        let request = ping(family).from(cache.end).to(web.end).echo(5, 1);
        for _ in 0..2 {
            let unasked = request.reply();
            assert_eq!(shop.send(&unasked, web, cache), [RULE, RULE], "{unasked}");
        }
        assert_eq!(shop.send(&request, cache, web), [ISOLATED], "{request}");
    }
}

#[test]
fn a_syn_from_the_other_end_is_a_new_connection() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let syn = segment(db, web).syn();
    assert_eq!(shop.send(&syn, db, web), [ISOLATED]);
    let goes_on = request(web, db).ack();
    assert_eq!(shop.send(&goes_on, web, db), [FLOW, FLOW]);
}

#[test]
fn segments_without_a_flow_pass_only_while_they_are_adopted() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let midstream = request(web, db).ack();
    assert_eq!(shop.send(&midstream, web, db), [NO_FLOW]);
    let denied = midstream.clone().dport(80);
    assert_eq!(shop.send(&denied, web, db), [ISOLATED], "policy first");

    let adopt_until = |shop: &mut Shop, jiffies| {
        for name in ["shop/web", "shop/db"] {
            let endpoint = Endpoint {
                adopt_until: jiffies,
                ..shop.firewall.endpoint(&world, name)
            };
            let set = shop.firewall.kernel().set_endpoint(&endpoint);
            set.expect("there is room");
        }
    };
    let jiffies_after = |shop: &mut Shop, time| {
        let after = shop.firewall.kernel().jiffies_after(time);
        after.expect("the clock can be read")
    };
    let later = jiffies_after(&mut shop, Duration::from_secs(3600));
    adopt_until(&mut shop, later);
    assert_eq!(shop.send(&denied, web, db), [ISOLATED]);
    // Policy lets the web open, and the database not: the segment could be the answer
    // on a connection that policy denies.
    assert_eq!(shop.send(&midstream, web, db), [ISOLATED]);
    shop.firewall.replace_policies("");
    assert_eq!(shop.send(&midstream, web, db), [FREE, FREE]);
    let past = jiffies_after(&mut shop, Duration::ZERO).wrapping_sub(10);
    adopt_until(&mut shop, past);
    assert_eq!(shop.send(&midstream, web, db), [FLOW, FLOW], "adopted");
    let late = midstream.sport(40001);
    assert_eq!(shop.send(&late, web, db), [NO_FLOW]);
}

/// A connection that policy denies goes on in neither direction after attaching: the
/// server's next segment would be a flow of its own, and the client's data its answers.
#[test]
fn a_denied_connection_is_not_adopted_by_its_other_end() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    // The database is closed for the web, and may send what it likes.
    shop.firewall.replace_policies(ONLY_INGRESS_TO_DB_CLOSED);
    let later = Duration::from_secs(3600);
    let later = shop.firewall.kernel().jiffies_after(later);
    for name in ["shop/web", "shop/db"] {
        let endpoint = Endpoint {
            adopt_until: *later.as_ref().expect("the clock can be read"),
            ..shop.firewall.endpoint(&world, name)
        };
        let set = shop.firewall.kernel().set_endpoint(&endpoint);
        set.expect("there is room");
    }
    for _ in 0..2 {
        let answer = segment(db, web).ack();
        assert_eq!(shop.send(&answer, db, web), [ISOLATED]);
        assert_eq!(shop.send(&request(web, db).ack(), web, db), [ISOLATED]);
    }
    // What policy allows both ways goes on.
    let answer = segment(db, web).sport(443).ack();
    shop.firewall.replace_policies("");
    assert_eq!(shop.send(&answer, db, web), [FREE, FREE]);
}

/// Two ends that policy keeps from each other do not talk by sending at once: neither
/// packet opens a flow that the other would be the answer of.
#[test]
fn ends_that_are_kept_apart_do_not_answer_each_other() {
    let (world, mut shop) = Shop::open();
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&world, name));
    shop.firewall.replace_policies(ALL_INGRESS_CLOSED);
    for family in Family::BOTH {
        let there = udp()
            .family(family)
            .from(web.end)
            .to(cache.end)
            .sport(5000)
            .dport(5000);
        for _ in 0..2 {
            assert_eq!(shop.send(&there, web, cache), [ISOLATED]);
            assert_eq!(shop.send(&there.reply(), cache, web), [ISOLATED]);
        }
        let syn = tcp()
            .family(family)
            .from(web.end)
            .to(cache.end)
            .sport(6000)
            .dport(6000);
        let back = tcp()
            .family(family)
            .from(cache.end)
            .to(web.end)
            .sport(6000)
            .dport(6000);
        assert_eq!(shop.send(&syn.clone().syn(), web, cache), [ISOLATED]);
        assert_eq!(shop.send(&back.clone().syn(), cache, web), [ISOLATED]);
        assert_eq!(shop.send(&syn.ack(), web, cache), [ISOLATED]);
        assert_eq!(shop.send(&back.ack(), cache, web), [ISOLATED]);
    }
    // With one end open, what that end is sent stays what policy says.
    shop.firewall.replace_policies(ONLY_INGRESS_TO_CACHE_CLOSED);
    let there = udp().from(web.end).to(cache.end).sport(5000).dport(5000);
    assert_eq!(shop.send(&there, web, cache), [ISOLATED]);
    assert_eq!(shop.send(&there.reply(), cache, web), [FREE, FREE]);
    assert_eq!(shop.send(&there, web, cache), [FLOW, FLOW]);
}

#[test]
fn a_removed_rule_ends_its_flows_at_their_next_packet_from_either_end() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    for by_reply in [false, true] {
        shop.firewall.replace_policies(&[CLOSED, DB].concat());
        shop.connect(web, db, 40000);
        shop.firewall.replace_policies(CLOSED);
        if by_reply {
            // The database's own hook decides its ingress again.
            let reply = segment(db, web).ack();
            assert_eq!(shop.send(&reply, db, web), [ISOLATED]);
        } else {
            let next = request(web, db).ack();
            assert_eq!(shop.send(&next, web, db), [ISOLATED]);
        }
        // The rule comes back; the connection does not: one end's hook has forgotten it.
        shop.firewall.replace_policies(&[CLOSED, DB].concat());
        let next = request(web, db).ack();
        let reply = segment(db, web).ack();
        if by_reply {
            assert_eq!(shop.send(&next, web, db), [RULE, NO_FLOW]);
            assert_eq!(shop.send(&reply, db, web), [ISOLATED]);
        } else {
            assert_eq!(shop.send(&next, web, db), [NO_FLOW]);
            assert_eq!(shop.send(&reply, db, web), [RULE, ISOLATED]);
        }
    }
}

#[test]
fn another_table_that_allows_the_flow_breaks_nothing() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let echo = ping(Family::V6).from(web.end).to(cache.end).echo(3, 1);
    only_the_reply_passes(&mut shop, &echo, web, cache);
    let more = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: more, namespace: shop}\nspec: {podSelector: {matchLabels: {app: cache}}}\n";
    shop.firewall.replace_policies(&[CLOSED, DB, more].concat());
    // Decided again, each in the flow's own direction, and then known.
    let reply = segment(db, web).ack();
    let next = request(web, db).ack();
    assert_eq!(shop.send(&reply, db, web), [RULE, RULE]);
    assert_eq!(shop.send(&reply, db, web), [FLOW, FLOW]);
    assert_eq!(shop.send(&next, web, db), [FLOW, FLOW]);
    assert_eq!(shop.send(&echo.reply(), cache, web), [RULE, RULE]);
    assert_eq!(shop.send(&echo, web, cache), [FLOW, FLOW]);
}

#[test]
fn a_full_partition_keeps_what_is_established() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let question = |port| udp().from(web.end).to(db.end).sport(port).dport(53);
    let capacity = shop
        .firewall
        .kernel()
        .flows(db.host_ifindex)
        .expect("an endpoint")
        .capacity;
    assert_eq!(capacity, LIMITS.flows_per_endpoint * 2);
    // Actions alone, and the counters once: there are many packets, and they must not
    // have been idle for too long when the last one comes.
    let [there, back] = [between(web, db), leaving(db)];
    let before = shop.firewall.ledger();
    let ask = |firewall: &mut Firewall, port: u16| {
        let frame = question(port).bytes();
        firewall.run(Program::TO_WORKLOAD, &frame, &there) == Action::Allow
    };
    let answer = |firewall: &mut Firewall, port: u16| {
        let frame = question(port).reply().bytes();
        firewall.run(Program::FROM_WORKLOAD, &frame, &back) == Action::Allow
    };
    // Web has a quarter of the room for flows that last, and asks as often as there is room
    // for four times over: each of its questions is answered.
    let lasting = 1..=capacity as u16 / 4;
    for port in lasting.clone() {
        assert!(ask(&mut shop.firewall, port));
        assert!(answer(&mut shop.firewall, port), "port {port}");
        assert!(ask(&mut shop.firewall, port), "established: {port}");
    }
    let asked = lasting.len() as u16 + 1..=4 * capacity as u16;
    for port in asked.clone() {
        assert!(ask(&mut shop.firewall, port), "port {port}");
        assert!(answer(&mut shop.firewall, port), "port {port}");
    }
    // Two choices fill a table of four ways nearly to the last place.
    let used = shop
        .firewall
        .kernel()
        .flows(db.host_ifindex)
        .expect("an endpoint")
        .used;
    assert!(used > capacity * 9 / 10, "{used}");
    for port in lasting.clone() {
        assert!(answer(&mut shop.firewall, port), "port {port} goes on");
    }
    let (lasting, asked) = (lasting.len() as u64, asked.len() as u64);
    let after = shop.firewall.ledger();
    after.assert_moved(
        &before,
        &[
            allowed(Hook::ToWorkload, Reason::Rule, lasting + asked),
            allowed(Hook::ToWorkload, Reason::Flow, lasting),
            allowed(Hook::FromWorkload, Reason::Flow, 2 * lasting + asked),
        ],
        "questions and answers",
    );
    // One endpoint's crowd is not another's.
    let echo = ping(Family::V4)
        .from(web.end)
        .to(named(&world, "shop/cache").end)
        .echo(1, 1);
    only_the_reply_passes(&mut shop, &echo, web, named(&world, "shop/cache"));
    // Nor is that of an earlier incarnation.
    let mut endpoint = shop.firewall.endpoint(&world, "shop/db");
    endpoint.incarnation += 1;
    let set = shop.firewall.kernel().set_endpoint(&endpoint);
    set.expect("there is room");
    assert!(!answer(&mut shop.firewall, 1));
}

#[test]
fn idle_flows_are_gone_and_swept() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let behaviour = Behaviour {
        idle: IdleTimes::default().with(Idle::UdpOneWay, Duration::ZERO),
        ..Behaviour::default()
    };
    let mut firewall = Firewall::load_with(&behaviour);
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let question = udp().from(web.end).to(db.end).dport(53);
    let (program, context) = (Program::TO_WORKLOAD, between(web, db));
    let ask = |firewall: &mut Firewall| judged(firewall, program, &question.bytes(), &context);
    let connection = request(web, db);
    let shake = |firewall: &mut Firewall| {
        let syn = connection.clone().syn().bytes();
        assert_eq!(judged(firewall, program, &syn, &context), RULE);
        let answer = segment(db, web).syn().ack().bytes();
        let back = judged(firewall, Program::FROM_WORKLOAD, &answer, &leaving(db));
        assert_eq!(back, FLOW);
    };
    shake(&mut firewall);
    assert_eq!(ask(&mut firewall), RULE);
    // Idle for more than a jiffy: policy is asked again.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut swept = 0;
    while swept == 0 {
        swept = firewall.kernel().sweep().expect("a clock");
        assert!(std::time::Instant::now() < deadline, "a jiffy passes");
    }
    let used = |firewall: &mut Firewall| {
        let flows = firewall.kernel().flows(db.host_ifindex);
        flows.expect("an endpoint").used
    };
    assert_eq!(
        (swept, used(&mut firewall)),
        (1, 1),
        "the answered one stays"
    );
    assert_eq!(ask(&mut firewall), RULE);
    let next = connection.clone().ack().bytes();
    assert_eq!(judged(&mut firewall, program, &next, &context), FLOW);

    // An earlier incarnation's go at once, idle or not.
    let mut endpoint = firewall.endpoint(&world, "shop/db");
    endpoint.incarnation += 1;
    let set = firewall.kernel().set_endpoint(&endpoint);
    set.expect("there is room");
    assert_eq!(firewall.kernel().sweep().expect("a clock"), 2);
    // Its record may still be read, but no longer says whose the partition is.
    shake(&mut firewall);
    assert_eq!(firewall.kernel().sweep().expect("a clock"), 0);
    assert_eq!(judged(&mut firewall, program, &next, &context), FLOW);
}

/// Every denied packet is reported, or counted as unreported.
#[test]
fn denied_packets_are_reported_with_their_verdict() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::turn();
    // Of earlier turns.
    firewall.reported();
    assert!(firewall.kernel().events().is_err(), "there is one reader");
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let packet = request(web, db).dport(80).seq(77).syn();
    let frame = packet.bytes();
    firewall.run(Program::TO_WORKLOAD, &frame, &between(web, db));
    firewall.run(
        Program::FROM_WORKLOAD,
        &request(web, db).syn().bytes(),
        &leaving(web),
    );
    let one = |firewall: &mut Firewall| -> EventRecord {
        let records = firewall.reported();
        assert_eq!(records.len(), 1, "what is allowed is no event: {records:?}");
        records[0]
    };
    let record = one(&mut firewall);
    let (case, verdict) = firewall.judge(Program::TO_WORKLOAD.hook, &frame, &between(web, db));
    assert_eq!(Verdict::from_any_word(record.verdict), Some(verdict));
    assert_eq!(verdict.reason, Reason::Isolated);
    assert_eq!(
        (
            record.source,
            record.destination,
            record.source_slot,
            record.destination_slot
        ),
        (
            case.source,
            case.destination,
            case.source_slot,
            case.destination_slot
        )
    );
    assert_eq!((record.source_port, record.destination_port), (40000, 80));
    assert_eq!(
        (record.protocol, record.tcp_flags, record.sequence),
        (6, 2, 77)
    );
    assert_eq!(
        (record.ifindex, record.bytes),
        (db.host_ifindex, frame.len() as u32)
    );
    assert_eq!(record.direction, case.direction as u8);
    assert_eq!(record.revision, case.revision);
    // A live flow says no under a table, too.
    let [syn, forged] = [request(web, db).syn(), request(web, db).ack()].map(|p| p.bytes());
    firewall.run(Program::TO_WORKLOAD, &syn, &between(web, db));
    let cache = named(&world, "shop/cache");
    firewall.run(Program::TO_WORKLOAD, &forged, &between(cache, db));
    let record = one(&mut firewall);
    let verdict = Verdict::from_any_word(record.verdict).expect("a verdict");
    assert_eq!(verdict.reason, Reason::ForeignLocalAddress);
    assert_eq!(record.revision, case.revision);

    let counted = |firewall: &Firewall| {
        let ledger = firewall.ledger();
        let hooks = Hook::ALL;
        let denied: u64 = hooks
            .map(|hook| ledger.total(hook, Action::Deny))
            .iter()
            .sum();
        let unreported: u64 = hooks.map(|hook| ledger.unreported(hook)).iter().sum();
        (denied, unreported)
    };
    let before = counted(&firewall);
    let kernel: &mut Kernel = firewall.kernel();
    kernel
        .test_run(Program::TO_WORKLOAD.name, &frame, &between(web, db), 5000)
        .expect("a run");
    let after = counted(&firewall);
    let reported = firewall.reported().len() as u64;
    assert!(after.1 > before.1, "the ring is smaller than that");
    assert_eq!(after.0 - before.0, reported + after.1 - before.1);
    assert_eq!(after.0 - before.0, 5000);
}

#[test]
fn a_question_is_answered_by_policy_alone_and_leaves_no_trace() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    // Of earlier turns.
    firewall.reported();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let (program, context) = (Program::TO_WORKLOAD, between(web, db));
    let allowed = request(web, db).syn().bytes();
    let denied = request(web, db).dport(80).syn().bytes();
    let before = firewall.ledger();
    let ask = |firewall: &mut Firewall, frame: &[u8]| {
        let reason = firewall.ask(program, frame, &context)[0].reason;
        assert_eq!(firewall.reported(), []);
        let flows = firewall.kernel().flows(db.host_ifindex);
        (reason, flows.expect("an endpoint").used)
    };
    assert_eq!(ask(&mut firewall, &allowed), (Reason::Rule, 0));
    assert_eq!(ask(&mut firewall, &denied), (Reason::Isolated, 0));
    let moved = firewall.ledger().since(&before);
    assert!(moved.is_empty(), "{moved:?}");

    // A live flow is not policy's answer.
    let question = udp().from(web.end).to(db.end).dport(53).bytes();
    assert_eq!(judged(&mut firewall, program, &question, &context), RULE);
    assert_eq!(judged(&mut firewall, program, &question, &context), FLOW);
    assert_eq!(ask(&mut firewall, &question), (Reason::Rule, 1));
}

/// Under real connections: a rule goes, and its connection hangs at once; others,
/// and those of rules that stay, do not notice.
#[test]
fn a_rule_is_removed_under_open_connections() {
    skip_unless!(Feature::NetworkNamespaces);
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let _servers = Server::start_all(
        [db, cache].map(Place::from),
        &[Probe::Tcp(5432), Probe::Udp(53)],
    )
    .expect("servers");
    shop.firewall.attach(&world);
    let patience = Duration::from_secs(10);
    let brief = Duration::from_millis(300);
    for family in Family::BOTH {
        let address = |pod: &Workload| pod.end.ip(family).expect("both families");
        shop.firewall.replace_policies(&[CLOSED, DB].concat());
        let open = |pod| Conversation::tcp(web, address(pod), 5432, patience).expect("allowed");
        let (mut cut, mut kept) = (open(db), open(cache));
        cut.exchange(b"before", patience).expect("an answer");
        kept.exchange(b"before", patience).expect("an answer");
        shop.firewall.replace_policies(&[DB, CLOSED].concat());
        cut.exchange(b"again", patience)
            .expect("nothing has changed");
        shop.firewall.replace_policies(CLOSED);
        let hangs = cut.exchange(b"after", brief).expect_err("the rule is gone");
        assert_eq!(hangs.kind(), std::io::ErrorKind::TimedOut);
        kept.exchange(b"after", patience).expect("its rule stays");
    }
    shop.firewall.detach();
}
