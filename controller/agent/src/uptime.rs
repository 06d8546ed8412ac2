//! The machine's uptime, for times that outlive the agent.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Returns how long the machine has run, sleep included: no clock that is set changes it.
#[must_use]
pub fn uptime() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
    now.map(Duration::from)
        .expect("every kernel that runs the programs has this clock")
}
