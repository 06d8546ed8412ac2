//! Packets that audit policies would have denied: let pass, counted, and reported once.

use std::net::Ipv4Addr;

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_tests::{
    firewall::{Turn, named},
    ledger::{Moved, allowed, audited, denied},
    packet::{Body, End, Family, Mac, Packet, ip_protocol, ping, tcp, udp},
    world::{Entered, Wiring, Workload, World},
};
use cofferdam_verdict::{
    counter::Hook,
    event::EventRecord,
    reason::Reason,
    verdict::{Action, Direction, Verdict},
};

use super::verdicts::{Scene, between, leaving};

/// Would isolate everybody in the shop both ways.
const TRIAL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: closed
  namespace: shop
  annotations: {cofferdam.dev/mode: audit}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
";

/// Would isolate the database for ingress.
const DB_TRIAL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop, annotations: {cofferdam.dev/mode: audit}}
spec: {podSelector: {matchLabels: {app: db}}}
---
";

/// Would deny web pods the way to port 22 of anybody, by the second rule.
const NO_SSH_TRIAL: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-ssh, annotations: {cofferdam.dev/mode: audit}}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - {action: Pass, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 21}}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0, \"::/0\"]}], protocols: [{tcp: {destinationPort: {number: 22}}}]}
---
";

/// Denies cache the way to anybody.
const CACHE_QUIET: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cache, namespace: shop}
spec: {podSelector: {matchLabels: {app: cache}}, policyTypes: [Egress]}
---
";

const FROM: Hook = Hook::FromWorkload;
const TO: Hook = Hook::ToWorkload;

/// A shop whose reports are read.
struct Shop {
    firewall: Turn,
    _inside: Entered,
}

impl Shop {
    fn open() -> (World, Self) {
        let Scene {
            mut firewall,
            world,
            inside,
        } = Scene::open(Wiring::Ptp, TRIAL);
        // What other tests had reported.
        firewall.reported();
        let shop = Self {
            firewall,
            _inside: inside,
        };
        (world, shop)
    }

    /// Runs a packet over one hook; exactly these counters move. Returns what was
    /// reported.
    #[track_caller]
    fn meet<S: Body>(
        &mut self,
        hook: Hook,
        packet: &Packet<S>,
        context: &TestContext,
        expected: &[Moved],
    ) -> Vec<EventRecord> {
        let before = self.firewall.ledger();
        let program = match hook {
            Hook::FromWorkload => Program::FROM_WORKLOAD,
            _ => Program::TO_WORKLOAD,
        };
        self.firewall.run(program, &packet.bytes(), context);
        let after = self.firewall.ledger();
        after.assert_moved(&before, expected, &packet.to_string());
        self.firewall.reported()
    }

    /// Runs a packet over both hooks of a local pair: it passes, and the second says
    /// that the audit policies of this direction would have denied it.
    #[track_caller]
    fn is_audited<S: Body>(
        &mut self,
        packet: &Packet<S>,
        (from, to): (&Workload, &Workload),
        direction: Direction,
    ) {
        let free = |hook| allowed(hook, Reason::NotIsolated, 1);
        let said = self.meet(FROM, packet, &leaving(from), &[free(FROM)]);
        assert_eq!(said, [], "{packet}");
        let expected = [free(TO), audited(TO, Reason::Isolated, 1)];
        let said = self.meet(TO, packet, &between(from, to), &expected);
        self.assert_said(&said, direction);
    }

    /// Runs a packet over both hooks of a local pair: it passes as its flow's.
    #[track_caller]
    fn passes_unsaid<S: Body>(&mut self, packet: &Packet<S>, (from, to): (&Workload, &Workload)) {
        for (hook, context) in [(FROM, leaving(from)), (TO, between(from, to))] {
            let said = self.meet(hook, packet, &context, &[allowed(hook, Reason::Flow, 1)]);
            assert_eq!(said, [], "{packet}");
        }
    }

    /// One record, of an allowed packet that a default denial in this direction would
    /// have stopped.
    #[track_caller]
    fn assert_said(&self, said: &[EventRecord], direction: Direction) {
        let [record] = said else {
            panic!("one record, not {said:?}");
        };
        let verdicts = [record.verdict, record.audited].map(Verdict::from_any_word);
        let [Some(enforced), Some(denial)] = verdicts else {
            panic!("{record:?}");
        };
        assert_eq!(enforced.action, Action::Allow);
        assert_eq!(
            (denial.action, denial.reason),
            (Action::Deny, Reason::Isolated)
        );
        assert_eq!(record.direction, direction as u8);
        let by = self.firewall.compiled().rules.isolated_by(denial.rule);
        assert_eq!(by.count(), 1, "the policy is named");
    }
}

fn syn(from: &Workload, to: &Workload, family: Family) -> Packet<cofferdam_tests::packet::Tcp> {
    let packet = tcp().family(family).from(from.end).to(to.end);
    packet.sport(40000).dport(80).syn()
}

/// The sender's egress policy is asked at both hooks of a local pair; what it would
/// deny is said at the second alone, and of a flow's packets at the first alone.
#[test]
fn audited_packets_pass_and_are_said_once_for_each_flow() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let other = named(&world, "other/web");
    for family in Family::BOTH {
        let open = syn(web, db, family);
        // Both ends' policies would deny; the sender's comes first.
        shop.is_audited(&open, (web, db), Direction::Egress);
        let reply = open.reply().ack();
        shop.passes_unsaid(&reply, (db, web));
        let next = tcp().family(family).from(web.end).to(db.end);
        shop.passes_unsaid(&next.sport(40000).dport(80).ack(), (web, db));
        shop.is_audited(&syn(other, db, family), (other, db), Direction::Ingress);
        shop.is_audited(&syn(web, other, family), (web, other), Direction::Egress);

        // Packets without a flow are decided each by itself.
        let unasked = ping(family).from(cache.end).to(db.end).echo(5, 1).reply();
        for _ in 0..2 {
            shop.is_audited(&unasked, (db, cache), Direction::Egress);
        }
    }
    let gre = ip_protocol(47).from(web.end).to(db.end).payload(b"gre");
    shop.is_audited(&gre, (web, db), Direction::Egress);
    shop.passes_unsaid(&gre, (web, db));
}

/// Nobody judges the other end here.
#[test]
fn packets_from_and_to_elsewhere_are_said_at_their_only_hook() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    for family in Family::BOTH {
        let outside = world.outside().end;
        let out = udp().family(family).from(web.end).to(outside).dport(53);
        let free = [
            allowed(FROM, Reason::NotIsolated, 1),
            audited(FROM, Reason::Isolated, 1),
        ];
        let said = shop.meet(FROM, &out, &leaving(web), &free);
        shop.assert_said(&said, Direction::Egress);
        let flow = [allowed(FROM, Reason::Flow, 1)];
        assert_eq!(shop.meet(FROM, &out, &leaving(web), &flow), []);

        let into = udp().family(family).from(outside).to(db.end).dport(53);
        let uplink = TestContext {
            ifindex: db.host_ifindex,
            ingress_ifindex: 77_777,
            ..TestContext::default()
        };
        let free = [
            allowed(TO, Reason::NotIsolated, 1),
            audited(TO, Reason::Isolated, 1),
        ];
        let said = shop.meet(TO, &into, &uplink, &free);
        shop.assert_said(&said, Direction::Ingress);
        assert_eq!(said[0].source_port, 40000);
        let flow = [allowed(TO, Reason::Flow, 1)];
        assert_eq!(shop.meet(TO, &into, &uplink, &flow), []);
    }
}

/// Under a new table: by the next packet, whichever end sends it, and as the flow
/// was opened.
#[test]
fn a_flow_that_is_decided_again_is_said_again() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let opener = |family| {
        let open = syn(web, db, family);
        let echo = ping(family).from(web.end).to(db.end).echo(7, 1);
        (open, echo)
    };
    for family in Family::BOTH {
        let (open, echo) = opener(family);
        shop.is_audited(&open, (web, db), Direction::Egress);
        shop.passes_unsaid(&open.reply().ack(), (db, web));
        shop.is_audited(&echo, (web, db), Direction::Egress);
        shop.passes_unsaid(&echo.reply(), (db, web));
    }
    shop.firewall.replace_policies(DB_TRIAL);
    for family in Family::BOTH {
        let (open, echo) = opener(family);
        let next = tcp()
            .family(family)
            .from(web.end)
            .to(db.end)
            .sport(40000)
            .dport(80)
            .ack();
        shop.is_audited(&next, (web, db), Direction::Ingress);
        shop.passes_unsaid(&open.reply().ack(), (db, web));
        shop.is_audited(&echo, (web, db), Direction::Ingress);
    }
    shop.firewall.replace_policies(&[TRIAL, DB_TRIAL].concat());
    for family in Family::BOTH {
        let (open, echo) = opener(family);
        // The hook of the flow's receiver decides for both ends: here the first.
        for (reply, ports) in [
            (open.reply().ack().erased(), (40000, 80)),
            (
                echo.reply().erased(),
                (
                    7,
                    if family == Family::V4 {
                        8 << 8
                    } else {
                        128 << 8
                    },
                ),
            ),
        ] {
            let free = |hook| allowed(hook, Reason::NotIsolated, 1);
            let expected = [free(FROM), audited(FROM, Reason::Isolated, 1)];
            let said = shop.meet(FROM, &reply, &leaving(db), &expected);
            shop.assert_said(&said, Direction::Egress);
            let record = said[0];
            assert_eq!((record.source_port, record.destination_port), ports);
            let slots = (record.source_slot, record.destination_slot);
            let slot_of = |pod| {
                let endpoint = shop.firewall.endpoint(&world, pod);
                let own =
                    |&(address, slot): &(_, u32)| (Family::of(address) == family).then_some(slot);
                endpoint.addresses.iter().find_map(own).expect("a slot")
            };
            assert_eq!(slots, (slot_of("shop/web"), slot_of("shop/db")));
            let (case, _) = shop.firewall.judge(TO, &open.bytes(), &between(web, db));
            assert_eq!(
                (record.source, record.destination, record.reversed),
                (case.source, case.destination, 1)
            );
            let said = shop.meet(TO, &reply, &between(db, web), &[free(TO)]);
            assert_eq!(said, []);
            shop.passes_unsaid(&reply, (db, web));
        }
    }
    // Nothing is said where nothing would be denied.
    shop.firewall.replace_policies("");
    let next = tcp().from(web.end).to(db.end).sport(40000).dport(80).ack();
    for (hook, context) in [(FROM, leaving(web)), (TO, between(web, db))] {
        let free = [allowed(hook, Reason::NotIsolated, 1)];
        assert_eq!(shop.meet(hook, &next, &context, &free), []);
    }
}

#[test]
fn the_rule_that_would_have_denied_is_named_and_what_is_denied_is_not_audited() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    (shop.firewall).replace_policies(&[NO_SSH_TRIAL, DB_TRIAL, CACHE_QUIET].concat());
    let ssh = syn(web, db, Family::V4).dport(22);
    let free = |hook| allowed(hook, Reason::NotIsolated, 1);
    assert_eq!(shop.meet(FROM, &ssh, &leaving(web), &[free(FROM)]), []);
    let expected = [free(TO), audited(TO, Reason::Rule, 1)];
    let said = shop.meet(TO, &ssh, &between(web, db), &expected);
    let denial = Verdict::from_any_word(said[0].audited).expect("a verdict");
    let rule = shop.firewall.compiled().rules.rule(denial.rule);
    let key = &rule.expect("a rule").key;
    assert_eq!((&*key.policy.name, key.index), ("no-ssh", Some(1)));
    assert_eq!(said[0].direction, Direction::Egress as u8);

    let quiet = syn(cache, db, Family::V4);
    let stopped = [denied(FROM, Reason::Isolated, 1)];
    let said = shop.meet(FROM, &quiet, &leaving(cache), &stopped);
    assert_eq!(said.len(), 1);
    let stopped = [denied(TO, Reason::Isolated, 1)];
    let said = shop.meet(TO, &quiet, &between(cache, db), &stopped);
    let verdict = Verdict::from_any_word(said[0].verdict).expect("a verdict");
    assert_eq!(verdict.action, Action::Deny);

    // Allowed, but no flow comes of it.
    let stray = tcp().from(web.end).to(db.end).dport(80).ack();
    let stopped = [denied(TO, Reason::NoFlow, 1)];
    let said = shop.meet(TO, &stray, &between(web, db), &stopped);
    assert_eq!(said.len(), 1);
}

/// It names none of its receivers, and each has a hook of its own.
#[test]
fn a_broadcast_that_its_senders_policy_would_deny_is_said_at_the_senders_hook_alone() {
    let (world, mut shop) = Shop::open();
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    let everybody = End {
        mac: Mac([0xff; 6]),
        ..End::from(Ipv4Addr::BROADCAST)
    };
    let call = udp().from(web.end).to(everybody).sport(68).dport(67);
    let free = |hook| allowed(hook, Reason::NotIsolated, 1);
    let expected = [free(FROM), audited(FROM, Reason::Isolated, 1)];
    let said = shop.meet(FROM, &call, &leaving(web), &expected);
    shop.assert_said(&said, Direction::Egress);
    for to in [db, cache] {
        let said = shop.meet(TO, &call, &between(web, to), &[free(TO)]);
        assert_eq!(said, []);
    }
    // A receiver's own policy speaks for that receiver.
    shop.firewall.replace_policies(DB_TRIAL);
    let call = call.sport(69);
    assert_eq!(shop.meet(FROM, &call, &leaving(web), &[free(FROM)]), []);
    let expected = [free(TO), audited(TO, Reason::Isolated, 1)];
    let said = shop.meet(TO, &call, &between(web, db), &expected);
    shop.assert_said(&said, Direction::Ingress);
    let said = shop.meet(TO, &call, &between(web, cache), &[free(TO)]);
    assert_eq!(said, []);
}

/// The ring buffer is smaller than this, and the kernel waits for nobody.
#[test]
fn every_audited_packet_is_reported_or_counted_as_unreported() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let unasked = ping(Family::V4).from(db.end).to(web.end).reply();
    let (frame, context) = (unasked.bytes(), between(web, db));
    let before = shop.firewall.ledger();
    let question = shop.firewall.ask(Program::TO_WORKLOAD, &frame, &context);
    assert_eq!(question.map(|v| v.action), [Action::Allow, Action::Deny]);
    assert_eq!(shop.firewall.reported(), [], "a question leaves no trace");
    assert_eq!(shop.firewall.ledger(), before);
    let many = 5000;
    let run = (shop.firewall.kernel()).test_run(Program::TO_WORKLOAD.name, &frame, &context, many);
    run.expect("a run");
    let after = shop.firewall.ledger();
    after.assert_moved(
        &before,
        &[
            allowed(TO, Reason::NotIsolated, many.into()),
            audited(TO, Reason::Isolated, many.into()),
        ],
        "many",
    );
    let reported = shop.firewall.reported().len() as u64;
    let unreported = after.unreported_audit(TO) - before.unreported_audit(TO);
    assert!(reported > 0 && unreported > 0, "{reported} {unreported}");
    assert_eq!(reported + unreported, u64::from(many));
    assert_eq!(after.unreported(TO), before.unreported(TO), "no denial");
}
