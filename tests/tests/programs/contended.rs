//! Packets of one flow on two processors, while the flow is decided again and again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use cofferdam_dataplane::Program;
use cofferdam_tests::{firewall::named, packet::udp};
use cofferdam_verdict::{counter::Hook, verdict::Action};

use super::{
    flows::{FLOW, RULE, Shop},
    verdicts::{between, leaving},
};

/// Questions of one system call, before each of which the epoch moves.
const QUESTIONS: u32 = 4;
/// Answers of one system call.
const ANSWERS: u32 = 2_000;
/// For how long the processors contend, each time.
const LONG: Duration = Duration::from_secs(2);
/// Times that they may. A virtual processor can be stopped while it holds an entry, for longer
/// than any reader waits; that does not happen every time.
const TIMES: u32 = 3;

/// A question and its answer are judged on a thread each; before each burst of questions the
/// binding epoch of the asking end moves. The first packet afterwards renews the entry, and the
/// other packet finds it locked, or changed: an answer is no answer then, unless the entry is
/// read again.
#[test]
fn no_answer_is_lost_while_its_flow_is_renewed_on_another_processor() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let question = udp().from(web.end).to(db.end).sport(4000).dport(53);
    let meet = |shop: &mut Shop| shop.meet(Program::TO_WORKLOAD, &question, web, db);
    assert_eq!(meet(&mut shop), RULE);
    let answer = shop.meet(Program::FROM_WORKLOAD, &question.reply(), db, web);
    assert_eq!([answer, meet(&mut shop)], [FLOW, FLOW]);

    let (_, slot) = shop.firewall.endpoint(&world, "shop/web").addresses[0];
    let mut lost = Vec::new();
    for _ in 0..TIMES {
        let before = shop.firewall.ledger();
        let kernel = &*shop.firewall.kernel();
        let stop = AtomicBool::new(false);
        let renewals = thread::scope(|scope| {
            scope.spawn(|| {
                let (frame, context) = (question.reply().bytes(), leaving(db));
                let program = Program::FROM_WORKLOAD.name;
                while !stop.load(Ordering::Relaxed) {
                    let run = kernel.test_run(program, &frame, &context, ANSWERS);
                    run.expect("the kernel runs it");
                }
            });
            let bindings = kernel.memory().bindings;
            let (frame, context) = (question.bytes(), between(web, db));
            let until = Instant::now() + LONG;
            let mut renewals = 0_u64;
            while Instant::now() < until {
                bindings[slot as usize].epoch.add(1);
                bindings[0].epoch.add(2);
                renewals += 1;
                let program = Program::TO_WORKLOAD.name;
                let run = kernel.test_run(program, &frame, &context, QUESTIONS);
                run.expect("the kernel runs it");
            }
            stop.store(true, Ordering::Relaxed);
            renewals
        });
        let ledger = shop.firewall.ledger();
        ledger.assert_conserved();
        let [passed, dropped] = [Action::Allow, Action::Deny].map(|action| {
            let moved = |hook| ledger.total(hook, action) - before.total(hook, action);
            [Hook::FromWorkload, Hook::ToWorkload].map(moved)
        });
        assert!(passed.iter().all(|&passed| passed > renewals), "{passed:?}");
        if dropped == [0, 0] {
            return;
        }
        lost.push((renewals, dropped));
    }
    panic!("renewals, and what was dropped at either hook: {lost:?}");
}
