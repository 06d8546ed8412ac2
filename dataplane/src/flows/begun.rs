//! The number of flows that have begun on this node, by the programs' own counters.
//!
//! A flow begins in a partition when policy lets a packet pass at a hook, and that packet is
//! counted there under policy's reason. Notes of early drop alone are made by packets of flows
//! that are known.

use std::{fmt, io, os::fd::OwnedFd};

use aya::maps::{Map, MapData, PerCpuArray};
use cofferdam_verdict::{
    counter::{Counter, Hook, judged},
    reason::Reason,
    verdict::Action,
};

use crate::kernel::Shared;

/// Hooks at which flows begin.
const HOOKS: [Hook; 3] = [Hook::FromWorkload, Hook::ToWorkload, Hook::UplinkEgress];

/// Reasons under which a packet passes that may begin a flow.
const REASONS: [Reason; 6] = [
    Reason::Rule,
    Reason::NotIsolated,
    Reason::OwnNode,
    Reason::SelfTraffic,
    Reason::VirtualUndecided,
    Reason::Bypassed,
];

/// Reader of that number.
pub(crate) struct Begun {
    counters: PerCpuArray<MapData, Shared<Counter>>,
}

impl Begun {
    /// Reads it from the counters of the hooks.
    pub(crate) fn by(counters: OwnedFd) -> io::Result<Self> {
        let data = MapData::from_fd(counters).map_err(io::Error::other)?;
        let counters = Map::PerCpuArray(data).try_into();
        Ok(Self {
            counters: counters.map_err(io::Error::other)?,
        })
    }

    /// Returns how many packets have passed that may have begun a flow: no fewer than flows
    /// have begun, but for those in flight.
    pub(crate) fn count(&self) -> io::Result<u64> {
        let mut sum = 0_u64;
        for hook in HOOKS {
            for reason in REASONS {
                let index = judged(hook, Action::Allow, reason);
                let read = self.counters.get(&index, 0).map_err(io::Error::other)?;
                for Shared(Counter { packets, .. }) in read.iter() {
                    sum = sum.wrapping_add(*packets);
                }
            }
        }
        Ok(sum)
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}
