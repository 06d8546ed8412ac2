//! The loaded programs against the oracle: see [`cofferdam_tests::differential`].
//!
//! `cargo xtask soak verdicts` is the same at any length, from any seed.

use cofferdam_tests::{
    differential::{self, Plan},
    firewall::Firewall,
};

/// Worlds of policies in every run, and packets in each.
const WORLDS: u64 = 200;
const PACKETS: u64 = 1000;
/// Packets in each where `COFFERDAM_WORLDS` sets another number of worlds, which is
/// where the processor is emulated.
const FEWER_PACKETS: u64 = 300;

#[test]
fn programs_user_space_and_oracle_agree() {
    let world = differential::world().expect("a world");
    let _inside = world.node().namespace.enter().expect("the node");
    let (worlds, packets) = match std::env::var("COFFERDAM_WORLDS") {
        Ok(number) => (number.parse().expect("a number of worlds"), FEWER_PACKETS),
        Err(_) => (WORLDS, PACKETS),
    };
    let mut firewall = Firewall::turn();
    let before = firewall.ledger();
    let plan = Plan {
        seed: 0,
        worlds,
        packets,
        deadline: None,
    };
    let outcome = differential::run(&mut firewall, &world, &plan);
    if let Some(first) = outcome.disagreements.first() {
        panic!("{first}");
    }
    assert_eq!(
        (outcome.worlds, outcome.packets),
        (worlds, worlds * packets)
    );
    assert_eq!(
        firewall.ledger(),
        before,
        "a question to the programs is no packet"
    );
    if worlds * packets >= WORLDS * PACKETS {
        let missing = outcome.coverage.missing();
        assert!(missing.is_empty(), "did not occur: {missing:#?}");
    }
}
