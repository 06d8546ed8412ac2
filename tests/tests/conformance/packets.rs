//! Cases with packets, several clusters side by side: a step is mostly waiting for
//! what must not come.

use cofferdam_tests::cofferdam;
use cofferdam_tests::conformance::offline::Count;
use cofferdam_tests::conformance::packets::Stand;
use cofferdam_tests::conformance::{Case, Setting, cyclonus, netpol, network_policy_api, own};
use cofferdam_tests::packet::Family;
use cofferdam_tests::world::Wiring;

use crate::checked;

/// Clusters at once.
const STANDS: usize = 4;

/// Tries cases, each step in one family, by turns; bridged and routed, by turns.
fn tried(setting: Setting, cases: &[Case]) -> Count {
    let stand = |share: usize| {
        let wiring = [Wiring::Ptp, Wiring::Bridge][share % 2];
        Stand::build(cofferdam!(), setting, wiring)
    };
    checked(cases, STANDS, stand, |stand, number, case| {
        let family = |step: usize| vec![Family::BOTH[(number + step) % 2]];
        stand.check(case, family).map_err(|surprise| surprise.words)
    })
}

#[test]
fn netpol_tables_come_out_with_packets() {
    let count = tried(Setting::Trio, &netpol::cases());
    assert_eq!(count.cases, 48);
}

#[test]
fn cyclonus_tables_come_out_with_packets() {
    let count = tried(Setting::Trio, &cyclonus::cases());
    assert_eq!((count.cases, count.steps), (230, 256));
}

#[test]
fn network_policy_api_tables_come_out_with_packets() {
    let count = tried(Setting::Quarters, &network_policy_api::cases());
    assert_eq!(count.cases, 24);
}

#[test]
fn tables_that_no_public_suite_has_come_out_with_packets() {
    tried(Setting::Trio, &own::cases());
}
