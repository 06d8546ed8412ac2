//! Flows over both hooks against their model: see [`cofferdam_tests::flow_model`].
//!
//! `cargo xtask soak flows` is the same at any length, from any seed.

use cofferdam_tests::flow_model::{self, Plan};

/// Sequences in every run.
const SEQUENCES: u64 = 5_000;

#[test]
fn no_packet_passes_that_the_model_denies_and_none_is_lost() {
    let outcome = flow_model::run(&Plan {
        seed: 0,
        sequences: SEQUENCES,
        deadline: None,
    });
    if let Some(first) = outcome.disagreements.first() {
        panic!("{} disagreements\n{first}", outcome.disagreements.len());
    }
    assert_eq!(outcome.sequences, SEQUENCES);
    let missing = outcome.coverage.missing();
    assert!(missing.is_empty(), "did not occur: {missing:#?}");
}
