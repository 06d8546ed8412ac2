//! Short forms of what `cargo xtask soak kills`, `tamper`, `churn`, `state` and `faults` do
//! for as long as you want.

use std::path::Path;
use std::time::Duration;

use cofferdam_tests::cofferdam;
use cofferdam_tests::faults::{
    SMALL, Stand, calls, churn, kills, limits, stalls, state, tamper, versions,
};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;

fn stand(wiring: Wiring) -> Stand {
    Stand::enforced(cofferdam!(), wiring, SMALL)
}

fn plugin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cofferdam-cni-in-tests"))
}

#[test]
fn an_agent_that_is_killed_under_load_disturbs_nobody() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut rng = fastrand::Rng::with_seed(1);
    let killed = kills::kills(&mut stand(Wiring::Bridge), 20, None, &mut rng);
    let longest = killed.ready.iter().max().expect("kills");
    let all: Duration = killed.ready.iter().sum();
    println!(
        "{} kills, {} more while it started: ready again after {:.0?} on average, {longest:.0?} \
         at most; {:?}",
        killed.ready.len(),
        killed.early,
        all / 20,
        killed.seen
    );
    killed.seen.assert_undisturbed();
}

/// Other tests run beside, and a busy machine may be late once; it is not late again and again.
#[test]
fn what_others_change_is_put_right_within_a_second() {
    const ROUNDS: usize = 3;
    skip_unless!(Feature::NetworkNamespaces);
    tamper::own_file_system();
    let mut late = Vec::new();
    for _ in 0..ROUNDS {
        let mut stand = stand(Wiring::Ptp);
        let (seen, all) = tamper::tamper(&mut stand, tamper::Tampering::ALL.len(), None);
        for one in &all {
            println!(
                "{:?}: {} packets leaked in {:.1?}, alarm after {:.1?}",
                one.how, one.packets, one.window, one.alarmed
            );
            assert!(one.packets == 0 || one.how.opens(), "{one:?}");
        }
        // What leaks is seen.
        let before = |one: &&tamper::Tampered| one.how == tamper::Tampering::ProgramBefore;
        assert!(all.iter().find(before).is_some_and(|one| one.packets > 0));
        seen.assert_undisturbed();
        // Twice the promise.
        late = all;
        let worst = late.iter().map(|one| one.window.max(one.alarmed)).max();
        assert!(worst < Some(4 * tamper::PROMISED), "{late:?}");
        late.retain(|one| one.window.max(one.alarmed) >= 2 * tamper::PROMISED);
        if late.is_empty() {
            return;
        }
    }
    panic!("late in each of {ROUNDS} rounds: {late:?}");
}

#[test]
fn endpoints_that_come_and_go_leave_nothing_behind() {
    skip_unless!(Feature::NetworkNamespaces);
    let stand = Stand::enforced(cofferdam!(), Wiring::Ptp, churn::SETTINGS);
    let churned = churn::churn(&stand, plugin(), 100, None, 1);
    println!("{churned}");
    let [before, after] = &churned.held;
    assert_eq!(before, after);
    assert_eq!(churned.failed, 0);
    churned.seen.assert_undisturbed();
}

#[test]
fn a_damaged_state_file_makes_nothing_wider() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut rng = fastrand::Rng::with_seed(1);
    let damaged = state::damage(&mut stand(Wiring::Ptp), 24, None, &mut rng);
    println!("{damaged:?}");
    assert_eq!((damaged.seen.leaked, damaged.believed), (0, 0));
    assert!(damaged.closed > 0);
}

#[test]
fn a_state_that_cannot_be_written_makes_nothing_wider() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut stand = Stand::new(cofferdam!(), Wiring::Ptp, SMALL);
    state::read_only(&mut stand).assert_undisturbed();
}

#[test]
fn an_agent_that_stands_still_keeps_containers_waiting() {
    skip_unless!(Feature::NetworkNamespaces);
    let stand = stand(Wiring::Bridge);
    let (seen, attached) = stalls::stand_still(&stand, plugin(), Duration::from_secs(2));
    assert_eq!(attached, stalls::Attached::Waited);
    seen.assert_undisturbed();
}

#[test]
fn news_that_are_lost_are_asked_for() {
    skip_unless!(Feature::NetworkNamespaces);
    let missed = stalls::overrun(&stand(Wiring::Ptp), plugin());
    println!("{missed:?}");
    assert!(missed.messages > 0);
    // It looks at everything after 30 s, whatever it was told.
    assert!(missed.forgotten < Duration::from_secs(10));
    missed.seen.assert_undisturbed();
}

#[test]
fn an_agent_of_another_make_disturbs_nobody() {
    skip_unless!(Feature::NetworkNamespaces);
    let seen = versions::cross(&mut stand(Wiring::Ptp), 6);
    println!("{seen:?}");
    seen.assert_undisturbed();
}

#[test]
fn a_system_call_that_fails_leaves_the_old_policy_or_the_new_one() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(calls::STRACE);
    let mut rng = fastrand::Rng::with_seed(1);
    let failed = calls::fail(&mut stand(Wiring::Ptp), calls::ONCE, None, &mut rng);
    println!("{failed:#?}");
    assert!(failed.wrong.is_empty());
    assert!(failed.injected > calls::ONCE / 2);
    failed.seen.assert_undisturbed();
}

#[test]
fn an_agent_that_runs_out_of_something_refuses_and_is_followed_by_one_that_has_it() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(limits::GROUPS);
    let mut stand = stand(Wiring::Ptp);
    for limit in limits::Limit::ALL {
        let starved = limits::starve(&mut stand, limit);
        println!("{limit:?}: {starved:?}");
        assert!(starved.refused.is_some_and(|reason| !reason.is_empty()));
        starved.seen.assert_undisturbed();
    }
}
