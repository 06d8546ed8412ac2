//! Waits after failures, longer each time and never as long as another agent's.

use std::time::Duration;

use tokio::time::sleep;

/// Shortest wait after a failure.
const SHORTEST: Duration = Duration::from_millis(100);

/// The next wait.
pub(crate) struct Pause {
    next: Duration,
    longest: Duration,
}

impl Pause {
    /// Begins with the shortest wait; none is longer than `longest`.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            next: SHORTEST,
            longest,
        }
    }

    /// Begins again, after something went well.
    pub(crate) fn reset(&mut self) {
        self.next = SHORTEST;
    }

    /// Waits between half of the time and all of it, and the next time twice as long.
    pub(crate) async fn wait(&mut self) {
        let all = self.next.min(self.longest);
        self.next = (self.next * 2).min(self.longest);
        sleep(all.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}
