//! The clock on the wall is set, and nothing that is in force changes.
//!
//! Only an emulated machine has a clock that a test may set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam_tests::firewall::named;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Conversation, Place};
use cofferdam_tests::world::Wiring;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::scene::{DB_CLOSED, DB_FROM_WEB, PORT, Scene};

/// A clock that is the test's own.
const OWN_CLOCK: Feature = Feature::Other("clock-of-its-own", || {
    match std::env::var_os("COFFERDAM_OWN_CLOCK") {
        Some(_) => Ok(()),
        None => Err("others live by this machine's clock".to_owned()),
    }
});

/// Ten years, about.
const DECADE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn set_clock(time: SystemTime) {
    let since_epoch = time.duration_since(UNIX_EPOCH).expect("a time after 1970");
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(since_epoch)).expect("it can be set");
}

#[test]
fn a_step_of_ten_years_either_way_changes_no_verdict() {
    skip_unless!(OWN_CLOCK);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let to = Place::from(scene.workload("shop/db")).ip(Family::V4);
    let web = named(&scene.world, "shop/web");
    let mut conversation = Conversation::tcp(web, to, PORT, PATIENCE).expect("web may connect");
    let is_bypassed = |scene: &Scene| {
        let endpoints = scene.agent.status().endpoints.into_iter();
        endpoints.filter(|one| one.bypassed_until.is_some()).count()
    };
    let now = SystemTime::now();
    for (step, clock) in [("on", now + DECADE), ("back", now - DECADE), ("right", now)] {
        scene.agent.cli(&["bypass", "shop/db", "--for", "10m"]);
        set_clock(clock);
        // The time of a bypass runs on neither faster nor slower.
        assert_eq!(is_bypassed(&scene), 1, "{step}");
        scene.assert_reaches("shop/stranger", "shop/db");
        scene.agent.cli(&["bypass", "shop/db", "--end"]);
        assert_eq!(is_bypassed(&scene), 0, "{step}");
        let answer = conversation.exchange(step.as_bytes(), PATIENCE);
        answer.unwrap_or_else(|error| panic!("{step}: {error}"));
        scene.assert_reaches("shop/web", "shop/db");
        scene.assert_blocked("shop/stranger", "shop/db");
        // A document that is written now has a time that was long ago, or is to come.
        scene.agent.document("policies.yaml", DB_CLOSED);
        assert!(scene.agent.sync().enforced, "{step}");
        scene.assert_blocked("shop/web", "shop/db");
        scene.agent.document("policies.yaml", DB_FROM_WEB);
        assert!(scene.agent.sync().enforced, "{step}");
        scene.assert_reaches("shop/web", "shop/db");
        conversation = Conversation::tcp(web, to, PORT, PATIENCE).expect("web may connect");
        // And one that starts now adopts what a dead one has left.
        scene.agent.kill();
        let status = scene.agent.start_enforced();
        assert!(status.ready, "{step}: {status:?}");
        let answer = conversation.exchange(step.as_bytes(), PATIENCE);
        answer.unwrap_or_else(|error| panic!("{step}, another agent: {error}"));
        scene.assert_blocked("shop/stranger", "shop/db");
        let status = scene.agent.status();
        assert_eq!(status.tamper_events, 0, "{step}: {status:?}");
    }
}
