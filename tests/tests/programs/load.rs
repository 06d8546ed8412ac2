//! Honest traffic under load: see [`cofferdam_tests::load`].

use cofferdam_tests::{load, skip::Feature, skip_unless};

/// `cargo xtask soak swaps` publishes 10 000 tables.
#[test]
fn no_answer_is_lost_while_tables_are_replaced() {
    const SWAPS: u64 = 150;
    skip_unless!(Feature::NetworkNamespaces);
    let swapped = load::swaps(SWAPS, None).expect("traffic");
    assert!(swapped.answered > SWAPS, "{swapped:?}");
    assert_eq!(swapped.lost, 0, "{swapped:?}");
}
