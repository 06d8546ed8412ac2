//! The compiled table against the independent oracle.
//!
//! Random small worlds are written as YAML, read by either side in its own way, and
//! asked about every pair of ends and every port around which an answer could
//! change. Action, reason, deciding rule and isolating policies must agree, with
//! and without audit policies.

mod asking;
mod worlds;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use asking::Sides;
use worlds::World;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        // A case that fails is kept below as a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 64;
    }
    config
}

fn check(world: &World) -> Result<(), TestCaseError> {
    let sides = Sides::new(&world.texts());
    match sides.disagreement() {
        None => Ok(()),
        Some(text) => Err(TestCaseError::fail(text)),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_table_agrees_with_the_oracle(world in worlds::world()) {
        check(&world)?;
    }

    #[test]
    fn a_workload_that_comes_late_is_judged_as_if_it_had_been_there(world in worlds::world()) {
        for late in Sides::new(&world.texts()).with_late_comers() {
            if let Some(text) = late.disagreement() {
                prop_assert!(false, "{}", text);
            }
        }
    }

    #[test]
    fn the_same_documents_give_the_same_words_in_any_order(
        world in worlds::world(),
        order in any::<prop::sample::Index>(),
    ) {
        let texts = world.texts();
        let mut turned = texts.clone();
        turned.rotate_left(order.index(texts.len()));
        turned.reverse();
        let (one, other) = (Sides::new(&texts), Sides::new(&turned));
        prop_assert!(one.compiled().pages() == other.compiled().pages());
    }
}
