//! One target, under an engine that prefers inputs which reach new code.
//!
//! `cargo xtask fuzz` builds and runs this; the target's name is in the environment,
//! because the engine takes all arguments for itself.

#![no_main]

use std::sync::LazyLock;

use cofferdam_fuzz::Target;

/// Names the target.
const VARIABLE: &str = "COFFERDAM_FUZZ_TARGET";

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    Target::parse(&name).unwrap_or_else(|| panic!("{VARIABLE} must name a target, not {name:?}"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.run(bytes));
