//! Verdicts of the policy, and the reasons that stand in for it.

use std::{fs::OpenOptions, io::Write as _};

use cofferdam_dataplane::{KernelError, OBJECT, Program, TestContext};
pub(crate) use cofferdam_tests::shop::DB_FROM_WEB;
use cofferdam_tests::{
    bytecode::Object,
    firewall::{Firewall, LIMITS, Pod, Turn, named, stamp},
    ledger::{Moved, allowed, audited, decided, denied},
    packet::{Body, Family, Packet, ip_protocol, ping, sctp, tcp, udp},
    world::{Entered, Wiring, Workload, World},
};
use cofferdam_verdict::{
    counter::Hook,
    reason::Reason,
    verdict::{Action, Direction},
};

/// A shop: two web pods, a database, and somebody else's pod with a web label.
pub(crate) fn shop(wiring: Wiring) -> (World, Vec<Pod>) {
    let pods = vec![
        Pod::new("shop/web", &["app=web"]),
        Pod::new("shop/db", &["app=db"]),
        Pod::new("shop/cache", &["app=cache"]),
        Pod::new("other/web", &["app=web"]),
    ];
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let world = World::plan(wiring)
        .workloads(names)
        .outside()
        .build()
        .expect("a world");
    (world, pods)
}

/// A shop under a policy, seen from its node.
pub(crate) struct Scene {
    pub(crate) firewall: Turn,
    pub(crate) world: World,
    pub(crate) inside: Entered,
}

impl Scene {
    pub(crate) fn open(wiring: Wiring, policies: &str) -> Self {
        let (world, pods) = shop(wiring);
        let inside = world.node().namespace.enter().expect("the node");
        let mut firewall = Firewall::turn();
        firewall.enforce(&world, &pods, policies);
        Self {
            firewall,
            world,
            inside,
        }
    }
}

/// A packet from one workload as it reaches another's interface.
pub(crate) fn between(from: &Workload, to: &Workload) -> TestContext {
    TestContext {
        ifindex: to.host_ifindex,
        ingress_ifindex: from.host_ifindex,
        ..TestContext::default()
    }
    .stamped(stamp(from))
}

/// A packet on its sender's interface.
pub(crate) fn leaving(from: &Workload) -> TestContext {
    TestContext {
        ifindex: from.host_ifindex,
        ingress_ifindex: from.host_ifindex,
        ..TestContext::default()
    }
}

/// Runs a packet, and holds action, reason and every counter against `expected`;
/// the same code in user space must say the same.
pub(crate) fn expect<S: Body>(
    firewall: &mut Firewall,
    program: Program,
    packet: &Packet<S>,
    context: &TestContext,
    expected: Moved,
) {
    expect_bytes(
        firewall,
        program,
        &packet.bytes(),
        context,
        expected,
        &packet.to_string(),
    );
}

/// Like [`expect`], for bytes.
pub(crate) fn expect_bytes(
    firewall: &mut Firewall,
    program: Program,
    frame: &[u8],
    context: &TestContext,
    expected: Moved,
    about: &str,
) {
    let before = firewall.ledger();
    let action = firewall.run(program, frame, context);
    firewall.ledger().assert_moved(&before, &[expected], about);
    assert_eq!(action, expected.action, "{about}");
    let (_, verdict) = firewall.judge(program.hook, frame, context);
    assert_eq!(
        (verdict.action, verdict.reason),
        (expected.action, expected.reason),
        "{about}"
    );
}

#[test]
fn programs_load_and_their_cost_is_recorded() {
    let mut firewall = Firewall::turn();
    let kernel = firewall.kernel();
    for program in Program::LATER {
        let loaded = kernel.load_later(program);
        loaded.unwrap_or_else(|error| panic!("{error}"));
    }
    let verified = kernel
        .verified()
        .expect("the kernel tells about its programs");
    assert_eq!(verified.len(), Program::ALWAYS.len() + Program::LATER.len());
    let object = Object::parse(OBJECT);
    let mut record = std::env::var_os("COFFERDAM_VERIFIED").map(|path| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("the file can be written")
    });
    for one in verified {
        let instructions = one.instructions.expect("kernels from 5.16 on tell");
        assert!(
            instructions > 100 && instructions < 500_000,
            "{}: {instructions}",
            one.program
        );
        let stack = object.stack_bytes(one.program.name);
        assert!(
            stack <= 512,
            "{}: {stack} bytes of stack, which no verifier accepts",
            one.program
        );
        if let Some(file) = &mut record {
            writeln!(file, "{}\t{instructions}\t{stack}", one.program)
                .expect("the file can be written");
        }
    }
}

/// Linux 6.1 does not load a program with another loop; newer kernels do, and would not show
/// it.
#[test]
fn loops_go_back_by_a_jump() {
    let object = Object::parse(OBJECT);
    let edges = object.plain_back_edges();
    assert!(edges.is_empty(), "{edges:?}");
}

#[test]
fn without_a_table_everything_is_denied() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut ready = Firewall::turn();
    ready.enforce(&world, &pods, "");
    let mut firewall = Firewall::load();
    let web = named(&world, "shop/web");
    let mut endpoint = ready.endpoint(&world, "shop/web");
    let packet = tcp().from(web.end).to(web.gateway).dport(80).syn();
    let about = leaving(web);
    let to = Program::FROM_WORKLOAD;
    let expected = denied(Hook::FromWorkload, Reason::EndpointUnknown, 1);
    expect(&mut firewall, to, &packet, &about, expected);

    for (deny_all, reason) in [
        (true, Reason::EndpointDenyAll),
        (false, Reason::TableCorrupt),
    ] {
        endpoint.deny_all = deny_all;
        let set = firewall.kernel().set_endpoint(&endpoint);
        set.expect("there is room");
        let expected = denied(Hook::FromWorkload, reason, 1);
        expect(&mut firewall, to, &packet, &about, expected);
    }

    assert!(firewall.kernel().remove_endpoint(endpoint.ifindex));
    let expected = denied(Hook::FromWorkload, Reason::EndpointUnknown, 1);
    expect(&mut firewall, to, &packet, &about, expected);
}

#[test]
fn one_label_rule_allows_its_port_and_peer_alone() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let [web, db, cache, stranger] =
        ["shop/web", "shop/db", "shop/cache", "other/web"].map(|name| named(&world, name));
    let hook = Hook::ToWorkload;
    let isolated = denied(hook, Reason::Isolated, 1);
    for family in Family::BOTH {
        let to_db = |from: &Workload| tcp().family(family).from(from.end).to(db.end).syn();
        for (from, port, expected) in [
            (web, 5432, allowed(hook, Reason::Rule, 1)),
            (web, 5431, isolated),
            (web, 5433, isolated),
            (cache, 5432, isolated),
            // The label counts in the policy's own namespace only.
            (stranger, 5432, isolated),
        ] {
            let packet = to_db(from).dport(port);
            expect(
                &mut firewall,
                Program::TO_WORKLOAD,
                &packet,
                &between(from, db),
                expected,
            );
        }
        // A rule with ports covers nothing else: no other protocol, no ping.
        let others = [
            udp()
                .family(family)
                .from(web.end)
                .to(db.end)
                .dport(5432)
                .erased(),
            sctp()
                .family(family)
                .from(web.end)
                .to(db.end)
                .dport(5432)
                .init(1)
                .erased(),
            ping(family).from(web.end).to(db.end).erased(),
            ip_protocol(47)
                .family(family)
                .from(web.end)
                .to(db.end)
                .payload(&[0; 20])
                .erased(),
        ];
        for packet in others {
            expect(
                &mut firewall,
                Program::TO_WORKLOAD,
                &packet,
                &between(web, db),
                isolated,
            );
        }
        // Nobody isolates the cache.
        let packet = udp().family(family).from(db.end).to(cache.end).dport(53);
        let free = allowed(hook, Reason::NotIsolated, 1);
        expect(
            &mut firewall,
            Program::TO_WORKLOAD,
            &packet,
            &between(db, cache),
            free,
        );
    }
}

#[test]
fn a_verdict_names_its_rule_and_its_isolating_policies() {
    let Scene {
        firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let packet = |port| tcp().from(web.end).to(db.end).dport(port).syn().bytes();
    let (_, verdict) = firewall.judge(Hook::ToWorkload, &packet(5432), &between(web, db));
    let rule = firewall
        .compiled()
        .rules
        .rule(verdict.rule)
        .expect("the rule that allowed");
    assert_eq!(
        (&*rule.key.policy.namespace, &*rule.key.policy.name),
        ("shop", "db-from-web")
    );
    assert_eq!((rule.key.index, rule.place.line), (Some(0), 7));
    let (case, verdict) = firewall.judge(Hook::ToWorkload, &packet(80), &between(web, db));
    assert_eq!(case.direction, Direction::Ingress as u32);
    let by: Vec<_> = firewall
        .compiled()
        .rules
        .isolated_by(verdict.rule)
        .collect();
    assert_eq!(by.len(), 1);
    assert_eq!(
        (&*by[0].1.key.policy.name, by[0].1.key.index),
        ("db-from-web", None)
    );
}

#[test]
fn egress_policy_is_judged_at_both_hooks() {
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 203.0.113.0/24}}]
";
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, policy);
    let [web, db, cache] = ["shop/web", "shop/db", "shop/cache"].map(|name| named(&world, name));
    for (to, action, reason) in [
        (db, Action::Allow, Reason::Rule),
        (cache, Action::Deny, Reason::Isolated),
    ] {
        let packet = tcp().from(web.end).to(to.end).dport(80).syn();
        let moved = decided(Hook::FromWorkload, action, reason, 1);
        expect(
            &mut firewall,
            Program::FROM_WORKLOAD,
            &packet,
            &leaving(web),
            moved,
        );
        // The receiver is not isolated; the sender's egress is judged here too.
        let reason = if action == Action::Allow {
            Reason::NotIsolated
        } else {
            reason
        };
        let moved = decided(Hook::ToWorkload, action, reason, 1);
        expect(
            &mut firewall,
            Program::TO_WORKLOAD,
            &packet,
            &between(web, to),
            moved,
        );
        let (case, _) = firewall.judge(Hook::ToWorkload, &packet.bytes(), &between(web, to));
        let direction = if action == Action::Deny {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        assert_eq!(case.direction, direction as u32);
    }
    for (address, action, reason) in [
        ("203.0.113.9", Action::Allow, Reason::Rule),
        ("203.0.114.0", Action::Deny, Reason::Isolated),
    ] {
        let address: std::net::Ipv4Addr = address.parse().expect("an address");
        let packet = udp().from(web.end).to(address).dport(53);
        let moved = decided(Hook::FromWorkload, action, reason, 1);
        expect(
            &mut firewall,
            Program::FROM_WORKLOAD,
            &packet,
            &leaving(web),
            moved,
        );
    }
}

#[test]
fn audit_policies_are_judged_beside_what_is_in_force() {
    let audit = DB_FROM_WEB.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {cofferdam.dev/mode: audit}}",
    );
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, &audit);
    let [cache, db] = ["shop/cache", "shop/db"].map(|name| named(&world, name));
    let packet = tcp().from(cache.end).to(db.end).dport(5432).syn();
    let (frame, context) = (packet.bytes(), between(cache, db));
    let before = firewall.ledger();
    let action = firewall.run(Program::TO_WORKLOAD, &frame, &context);
    assert_eq!(action, Action::Allow);
    let expected = [
        allowed(Hook::ToWorkload, Reason::NotIsolated, 1),
        audited(Hook::ToWorkload, Reason::Isolated, 1),
    ];
    let after = firewall.ledger();
    after.assert_moved(&before, &expected, "an audit policy alone isolates");
    let (case, _) = firewall.judge(Hook::ToWorkload, &frame, &context);
    let audited = cofferdam_verdict::verdict::Verdict::from_any_word(case.audited);
    assert_eq!(
        audited.map(|v| (v.action, v.reason)),
        Some((Action::Deny, Reason::Isolated))
    );
}

/// The filter behind a tcx program lets pass, unjudged and uncounted, what that
/// program has just judged on the same hook; nothing else.
#[test]
fn a_filter_judges_only_what_its_link_has_not() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let mut endpoint = firewall.endpoint(&world, "shop/db");
    endpoint.shared_hooks = true;
    firewall
        .kernel()
        .set_endpoint(&endpoint)
        .expect("there is room");
    let frame = tcp().from(web.end).to(db.end).dport(5432).syn().bytes();
    let about = between(web, db);
    let kernel = firewall.kernel();
    let link = kernel
        .test_run("to_workload", &frame, &about, 1)
        .expect("a run");
    assert_eq!(link.returned, -1, "goes on to the other filters");
    let before = firewall.ledger();
    let marked = TestContext {
        cb: link.cb,
        ..about
    };
    let kernel = firewall.kernel();
    let filter = kernel
        .test_run("to_workload_f", &frame, &marked, 1)
        .expect("a run");
    assert_eq!(filter.returned, -1);
    assert_ne!(filter.cb, link.cb, "the mark is taken off");
    firewall
        .ledger()
        .assert_moved(&before, &[], "a marked packet");

    // The mark of another interface, and of another hook, is no mark.
    let denied_frame = tcp().from(web.end).to(db.end).dport(80).syn().bytes();
    let elsewhere = TestContext {
        ifindex: web.host_ifindex,
        ..marked
    };
    for (name, context) in [("to_workload_f", elsewhere), ("from_workload_f", marked)] {
        let before = firewall.ledger();
        let run = firewall
            .kernel()
            .test_run(name, &denied_frame, &context, 1)
            .expect("a run");
        let moved = firewall.ledger().since(&before);
        assert_eq!(
            moved.iter().map(|counter| counter.packets).sum::<u64>(),
            1,
            "{name} judged"
        );
        assert!(run.returned == 2 || moved[0].action == Action::Allow);
    }
}

#[test]
fn a_hook_that_is_not_shared_ends_the_chain() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let frame = tcp().from(web.end).to(db.end).dport(5432).syn().bytes();
    let run = firewall
        .kernel()
        .test_run("to_workload", &frame, &between(web, db), 1);
    assert_eq!(run.expect("a run").returned, 0);
}

/// A workload that the table's words already say everything of, but for its
/// addresses, comes into force in a spare slot, under the same revision.
#[test]
fn a_late_workload_needs_no_new_table() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let [late, db, _, other] = &pods[..] else {
        panic!("the shop has four pods");
    };
    // A web pod is there already, so that the table knows the kind.
    let first = [db.clone(), Pod::new("shop/cache", &["app=web"])];
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &first, DB_FROM_WEB);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let check = |firewall: &mut Firewall, port, moved| {
        for family in Family::BOTH {
            let packet = tcp()
                .family(family)
                .from(web.end)
                .to(db.end)
                .dport(port)
                .syn();
            let context = between(web, db);
            expect(firewall, Program::TO_WORKLOAD, &packet, &context, moved);
        }
    };
    let isolated = denied(Hook::ToWorkload, Reason::Isolated, 1);
    check(&mut firewall, 5432, isolated);
    assert!(firewall.add_late(&world, late));
    let rule = allowed(Hook::ToWorkload, Reason::Rule, 1);
    check(&mut firewall, 5432, rule);
    check(&mut firewall, 80, isolated);
    // The slot beside it, the node's, is as it was.
    for family in Family::BOTH {
        let packet = tcp().family(family).from(world.node().end).to(db.end).syn();
        let context = TestContext {
            ifindex: db.host_ifindex,
            ..TestContext::default()
        };
        let own = allowed(Hook::ToWorkload, Reason::OwnNode, 1);
        expect(&mut firewall, Program::TO_WORKLOAD, &packet, &context, own);
    }
    // The first workload of its kind takes a new table.
    assert!(!firewall.add_late(&world, other));
    for slot in [0, LIMITS.slots, u32::MAX] {
        let refused = firewall.kernel().set_slot(slot, 1);
        assert!(
            matches!(refused, Err(KernelError::NoSuchSlot { .. })),
            "{slot}: {refused:?}"
        );
    }
}

#[test]
fn what_is_no_table_or_does_not_fit_changes_nothing() {
    let Scene {
        mut firewall,
        world,
        inside: _inside,
    } = Scene::open(Wiring::Ptp, DB_FROM_WEB);
    let good = firewall.compiled().pages().to_vec();
    let mut other_version = good.clone();
    other_version[0][1] += 1;
    let too_large = vec![good[0]; 17];
    let kernel = firewall.kernel();
    assert!(matches!(kernel.publish(&[]), Err(KernelError::NotATable)));
    assert!(matches!(
        kernel.publish(&other_version),
        Err(KernelError::NotATable)
    ));
    let refused = kernel
        .publish(&too_large)
        .expect_err("17 pages, room for 16");
    assert!(refused.to_string().contains("17 pages"), "{refused}");
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let packet = tcp().from(web.end).to(db.end).dport(5432).syn();
    let allow = allowed(Hook::ToWorkload, Reason::Rule, 1);
    expect(
        &mut firewall,
        Program::TO_WORKLOAD,
        &packet,
        &between(web, db),
        allow,
    );
}
