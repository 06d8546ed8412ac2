//! The flow table as one thread would keep it: the placement rules, without the
//! concurrency.
//!
//! Tests hold the kernel's flow table against this model.

use super::{FlowKey, FlowState, WAYS};
use crate::{hash::Keys, packet::protocol};

/// A flow as the model keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its key.
    pub key: FlowKey,
    /// State of the flow.
    pub state: FlowState,
    /// Jiffies of its last packet.
    pub last_seen: u32,
    /// Jiffies it may stay idle.
    pub idle: u32,
    /// Jiffies for which a closing flow keeps its place.
    pub rest: u32,
    /// Opener: the other end's address, or zeroes for the endpoint.
    pub opener: [u32; 4],
}

impl Flow {
    /// Returns `true` if it has been idle for too long. Jiffies wrap; no idle time comes near
    /// half of their range.
    pub const fn is_expired(&self, now: u32) -> bool {
        now.wrapping_sub(self.last_seen) > self.idle
    }
}

/// No room: no flow of both candidate sets gives way.
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
        let [first, second] = key.places(self.keys, mask).sets;
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

    /// Stores a flow: where its key lies already, else in a free place, else in the place of a
    /// flow that gives way, in this order: expired, not answered for a while, closing for a
    /// while, TCP not answered for a moment, answered once, closing for a moment, others not
    /// answered, established of an opener with more than half of the set. Among equals the
    /// longest idle. Of the last, flows of the new one's opener rank with those not answered,
    /// but for TCP.
    ///
    /// Of the two sets the one is taken in which fewer flows stay, not the first with room: at
    /// half load that is the difference between no refusal and some.
    ///
    /// # Errors
    ///
    /// [`FlowTableFull`] when none of those is there. Nothing has changed then.
    pub fn insert(&mut self, flow: Flow, now: u32) -> Result<(), FlowTableFull> {
        let holds = |set: usize, opener: [u32; 4]| {
            let flows = self.sets[set].iter().flatten();
            flows.filter(|flow| flow.opener == opener).count()
        };
        let is_tcp = |old: &Flow| old.key.kind as u8 == protocol::TCP;
        // The order within a set; none of established flows.
        let order = |old: &Flow| {
            let idle = now.wrapping_sub(old.last_seen);
            let is_young = idle < old.rest / 20;
            match old.state {
                FlowState::Embryonic if idle >= old.rest => Some(1),
                FlowState::Closing if idle >= old.rest => Some(2),
                FlowState::Embryonic if is_tcp(old) && !is_young => Some(3),
                FlowState::Answered if is_tcp(old) && is_young => Some(6),
                FlowState::Answered => Some(4),
                FlowState::Closing if !is_young => Some(5),
                FlowState::Embryonic => Some(6),
                _ => None,
            }
        };
        let stay = |set: usize| {
            let flows = self.sets[set].iter().flatten();
            let others = flows.filter(|old| old.key != flow.key && !old.is_expired(now));
            others
                .filter(|old| order(old).is_none_or(|order| order >= 5))
                .count() as u32
        };
        let rank = |(set, way): (usize, usize)| {
            let Some(old) = self.sets[set][way] else {
                return Some((1, stay(set), 0, 0, 0));
            };
            let idle = u32::MAX - now.wrapping_sub(old.last_seen);
            if old.key == flow.key {
                return Some((0, 0, 0, 0, 0));
            }
            if old.is_expired(now) {
                return Some((2, stay(set), 0, 0, 0));
            }
            match order(&old) {
                Some(order @ ..5) => Some((3, stay(set), order, idle, 0)),
                Some(order) => Some((4, 0, order, idle, 0)),
                None if old.state != FlowState::Established => None,
                None if holds(set, old.opener) <= WAYS / 2 => None,
                None if old.opener == flow.opener && !is_tcp(&old) => Some((4, 0, 6, idle, 1)),
                None => Some((5, 0, 0, idle, 0)),
            }
        };
        let places = self
            .places(&flow.key)
            .filter_map(|place| Some((rank(place)?, place)));
        // The first of equals.
        let (_, (set, way)) = places.min_by_key(|&(rank, _)| rank).ok_or(FlowTableFull)?;
        self.sets[set][way] = Some(flow);
        Ok(())
    }
}
