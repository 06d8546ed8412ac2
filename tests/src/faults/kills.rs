//! The agent is killed at any moment, and comes again.

use std::time::{Duration, Instant};

use super::watch::{self, Seen};
use super::{Stand, WEB_CLOSED, pause};

/// Longest life of an agent that is killed while it starts, or while it changes policy.
const SOON: u64 = 200;
/// Longest time without an agent, in milliseconds.
const DEAD: u64 = 50;

/// Outcome of kills.
#[derive(Clone, Debug, Default)]
pub struct Killed {
    /// Time from each start until everything was in force.
    pub ready: Vec<Duration>,
    /// Agents that were killed before they were ready.
    pub early: u64,
    /// Counts of the traffic.
    pub seen: Seen,
}

/// Kills the agent so often, or until the deadline: at rest, in the middle of a change of
/// policy, or while it starts.
///
/// # Panics
///
/// Panics if it does not come up again, or forgets an endpoint.
pub fn kills(
    stand: &mut Stand,
    number: u64,
    deadline: Option<Instant>,
    rng: &mut fastrand::Rng,
) -> Killed {
    let Stand { agent, world, .. } = stand;
    let mut killed = Killed::default();
    let mut is_closed = false;
    let (seen, ()) = watch::during(world, |_| {
        for _ in 0..number {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            let soon = Duration::from_millis(rng.u64(..SOON));
            match rng.u8(..3) {
                0 => {
                    if is_closed {
                        agent.remove_document("web.yaml");
                    } else {
                        agent.document("web.yaml", WEB_CLOSED);
                    }
                    is_closed = !is_closed;
                    pause(soon);
                }
                1 => {
                    agent.kill();
                    agent.start(&[]);
                    killed.early += 1;
                    pause(soon);
                }
                _ => {}
            }
            agent.kill();
            pause(Duration::from_millis(rng.u64(..DEAD)));
            let started = Instant::now();
            let status = agent.start_enforced();
            killed.ready.push(started.elapsed());
            assert_eq!(status.endpoints.len(), 2, "{status:?}");
            assert_eq!(status.tamper_events, 0, "{}", agent.log());
        }
    });
    killed.seen = seen;
    killed
}
