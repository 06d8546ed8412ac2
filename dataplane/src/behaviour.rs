//! Settings that the programs are given at load, beside the sizes of their maps.

use std::time::Duration;

use cofferdam_verdict::flow::{IDLE_TIMES, Idle};
use nix::time::{ClockId, clock_getres};

/// Decisions of an operator about the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// `true` if the node may always open connections to its workloads.
    pub own_node_allowed: bool,
    /// Times for which flows may be idle.
    pub idle: IdleTimes,
    /// Frames are dropped early on some interface: packets that leave the node are
    /// then noted, so that their replies are not.
    pub early_drop: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            own_node_allowed: true,
            idle: IdleTimes::default(),
            early_drop: false,
        }
    }
}

/// Times for which flows may be idle, by [`Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimes([Duration; IDLE_TIMES]);

impl Default for IdleTimes {
    fn default() -> Self {
        Self([0; IDLE_TIMES].map(Duration::from_secs))
            .with(Idle::TcpEstablished, Duration::from_secs(6 * 3600))
            .with(Idle::TcpEmbryonic, Duration::from_secs(20))
            .with(Idle::TcpClosing, Duration::from_secs(20))
            .with(Idle::Udp, Duration::from_secs(60))
            .with(Idle::UdpOneWay, Duration::from_secs(30))
            .with(Idle::Sctp, Duration::from_secs(3600))
            .with(Idle::Icmp, Duration::from_secs(30))
            .with(Idle::Other, Duration::from_secs(60))
    }
}

impl IdleTimes {
    /// The same, but for one kind of flow.
    #[must_use]
    pub fn with(mut self, kind: Idle, time: Duration) -> Self {
        self.0[kind as usize] = time;
        self
    }

    /// The time of one kind of flow.
    pub fn get(&self, kind: Idle) -> Duration {
        self.0[kind as usize]
    }

    /// As jiffies of this kernel: at least one, at most a quarter of what the clock
    /// word holds, so that the wrapping of the clock is never taken for youth.
    pub(crate) fn jiffies(&self) -> nix::Result<[u32; IDLE_TIMES]> {
        let tick = tick()?;
        Ok(self.0.map(|time| in_jiffies(time, tick)))
    }
}

/// Returns the length of a jiffy. The coarse clock moves once a jiffy; this is how a program
/// without privileges learns it.
pub(crate) fn tick() -> nix::Result<Duration> {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from)
}

/// A time in jiffies: at least one, at most a quarter of what a clock word holds.
pub(crate) fn in_jiffies(time: Duration, tick: Duration) -> u32 {
    let jiffies = time.as_nanos().div_ceil(tick.as_nanos().max(1));
    u32::try_from(jiffies)
        .unwrap_or(u32::MAX)
        .clamp(1, u32::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_are_bounded_and_in_proportion() {
        let times = IdleTimes::default()
            .with(Idle::Udp, Duration::ZERO)
            .with(Idle::Other, Duration::MAX);
        let jiffies = times.jiffies().expect("the clock is there");
        let of = |kind: Idle| jiffies[kind as usize];
        assert_eq!(of(Idle::Udp), 1);
        assert_eq!(of(Idle::Other), u32::MAX / 4);
        assert_eq!(of(Idle::Sctp), of(Idle::TcpEmbryonic) * 180);
        // From 100 to 1 000 jiffies a second.
        assert!((2_000..=20_000).contains(&of(Idle::TcpEmbryonic)));
    }
}
