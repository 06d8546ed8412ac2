//! The flow table as one thread would keep it: the placement rules, without the
//! concurrency.
//!
//! Tests hold the kernel's flow table against this model.

use super::{FlowKey, FlowState, WAYS};
use crate::hash::Keys;

/// A flow as the model keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its key.
    pub key: FlowKey,
    /// Where it stands.
    pub state: FlowState,
    /// Jiffies of its last packet.
    pub last_seen: u32,
    /// Jiffies it may stay idle.
    pub idle: u32,
}

impl Flow {
    /// Whether it has been idle for too long. Jiffies wrap; no idle time comes
    /// near half of their range.
    pub const fn is_expired(&self, now: u32) -> bool {
        now.wrapping_sub(self.last_seen) > self.idle
    }
}

/// No room: every flow of both candidate sets is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTableFull;

/// One endpoint's partition.
#[derive(Debug)]
pub struct Partition<'a> {
    keys: &'a Keys,
    sets: &'a mut [[Option<Flow>; WAYS]],
}

impl<'a> Partition<'a> {
    /// A partition over `sets`, whose number is a power of two.
    pub fn new(keys: &'a Keys, sets: &'a mut [[Option<Flow>; WAYS]]) -> Option<Self> {
        sets.len().is_power_of_two().then_some(Self { keys, sets })
    }

    fn places(&self, key: &FlowKey) -> impl Iterator<Item = (usize, usize)> + use<> {
        let mask = (self.sets.len() - 1) as u32;
        let [first, second] = key.sets(self.keys, mask);
        let sets = if first == second {
            [Some(first), None]
        } else {
            [Some(first), Some(second)]
        };
        sets.into_iter()
            .flatten()
            .flat_map(|set| (0..WAYS).map(move |way| (set as usize, way)))
    }

    /// The live flow with this key.
    pub fn find(&mut self, key: &FlowKey, now: u32) -> Option<&mut Flow> {
        let (set, way) = self.places(key).find(|&(set, way)| {
            self.sets[set][way].is_some_and(|flow| flow.key == *key && !flow.is_expired(now))
        })?;
        self.sets[set][way].as_mut()
    }

    /// Stores a flow: where its key lies already, else in a free place of the
    /// emptier set, else in an expired flow's place, else in an embryonic one's,
    /// the longest idle first.
    ///
    /// The emptier set, not the first with room: at half load that is the
    /// difference between no refusal and some.
    ///
    /// # Errors
    ///
    /// [`FlowTableFull`] when none of those is there. Nothing has changed then.
    pub fn insert(&mut self, flow: Flow, now: u32) -> Result<(), FlowTableFull> {
        let used = |set: usize| self.sets[set].iter().flatten().count() as u32;
        let rank = |(set, way): (usize, usize)| match self.sets[set][way] {
            Some(old) if old.key == flow.key => (0, 0),
            None => (1, used(set)),
            Some(old) if old.is_expired(now) => (2, 0),
            Some(old) if old.state == FlowState::Embryonic => {
                (3, u32::MAX - now.wrapping_sub(old.last_seen))
            }
            Some(_) => (4, 0),
        };
        let (set, way) = self
            .places(&flow.key)
            .min_by_key(|&place| rank(place))
            .filter(|&place| rank(place).0 < 4)
            .ok_or(FlowTableFull)?;
        self.sets[set][way] = Some(flow);
        Ok(())
    }
}
