//! The compiled table against the independent oracle.
//!
//! Random small worlds are written as YAML, read by either side in its own way, and
//! asked about every pair of ends and every port around which an answer could
//! change. Action, reason, deciding rule and isolating policies must agree, with
//! and without audit policies.

mod asking;
mod connectivity;
mod followed;
mod layout;
mod misreadings;
mod reach;
mod services;
mod virtuals;
mod without_effect;
mod worlds;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestCaseError, TestRunner};

use asking::Sides;
use misreadings::MISREADINGS;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        // A case that fails is kept below as a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 128;
    }
    config
}

fn check(sides: &Sides) -> Result<(), TestCaseError> {
    match sides.disagreement() {
        None => Ok(()),
        Some(text) => Err(TestCaseError::fail(text)),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_table_agrees_with_the_oracle(world in worlds::world()) {
        check(&Sides::new(world.texts()))?;
    }

    #[test]
    fn so_does_the_table_of_a_node_that_has_half_of_the_workloads(world in worlds::world()) {
        check(&Sides::of_node(world.texts(), asking::even))?;
        check(&Sides::of_node(world.texts(), asking::odd))?;
    }

    #[test]
    fn a_node_on_audit_denies_nothing_and_says_what_it_would(world in worlds::world()) {
        check(&Sides::on_audit(world.texts()))?;
    }

    #[test]
    fn a_workload_that_comes_late_is_judged_as_if_it_had_been_there(world in worlds::world()) {
        for late in Sides::new(world.texts()).with_late_comers() {
            if let Some(text) = late.disagreement() {
                prop_assert!(false, "{}", text);
            }
        }
    }

    #[test]
    fn the_same_documents_give_the_same_words_in_any_order_and_files(
        world in worlds::world(),
        layout in layout::layout(),
    ) {
        let files = layout.files(world.texts());
        for is_local in [|_: &_| true, asking::even] {
            let [one, other] = [world.texts(), &files].map(|texts| Sides::of_node(texts, is_local));
            prop_assert!(one.compiled().pages() == other.compiled().pages(), "{:#?}", files);
        }
    }
}

/// The worlds have every edge that they are made for: whoever gets one wrong is
/// noticed. Always the same worlds, so that this says something of the generator
/// alone.
#[test]
fn every_misreading_is_noticed() {
    const MOST_WORLDS: usize = 400;
    let mut runner = TestRunner::deterministic();
    let mut unnoticed: BTreeSet<&str> = MISREADINGS.iter().map(|m| m.claim).collect();
    for number in 0..MOST_WORLDS {
        let world = worlds::world().new_tree(&mut runner).unwrap().current();
        for misreading in MISREADINGS {
            if !unnoticed.contains(misreading.claim) {
                continue;
            }
            let read: Vec<String> = (world.texts().iter())
                .filter_map(|text| (misreading.read)(text))
                .collect();
            if read == world.texts() {
                continue;
            }
            let sides = Sides::misread(world.texts(), &read, |_| true);
            if let Some(said) = sides.and_then(|sides| sides.disagreement()) {
                println!("{}: world {number}: {said}", misreading.claim);
                unnoticed.remove(misreading.claim);
            }
        }
        if unnoticed.is_empty() {
            return;
        }
    }
    panic!("not noticed in {MOST_WORLDS} worlds: {unnoticed:#?}");
}
