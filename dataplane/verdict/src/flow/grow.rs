//! Moving flows to the places where they belong after their partition grew.
//!
//! User space does this while programs look for flows, begin, change and end them on other
//! processors. It may be stopped for any time between two steps, so that it never keeps
//! programs from a flow: it takes no lock that a program could meet.
//!
//! 1. It keeps a free place among those where the flow belongs ([`StateWord::reserved`]). No
//!    program looks for a flow there, nor puts one there.
//! 2. It writes the flow there, and publishes it. From now on programs find it there: they look
//!    there first.
//! 3. It frees the place of before by compare-and-swap on the word that it has read. If that
//!    has changed, a program was at it: the copy is taken back, and all of it begins again.
//!
//! Invariant: a flow lies in its place of before until it can be found where it belongs. A
//! program that has looked there first, and then in the place of before, and found it in
//! neither, finds it by a third look. To be begun only when every program has ended that began
//! before the partition grew: those look by the smaller size alone.
//!
//! A copy counts as long as the flow would have: it has the flow's revision, incarnation and
//! epoch. What a program does to the place of before between steps 2 and 3 is not lost; what it
//! does after step 3, with what it has read before, is: its compare-and-swap fails as it does
//! when another packet was quicker.

use core::sync::atomic::{Ordering, fence};

use super::{FlowEntry, FlowKey, FlowSet, FlowState, KEY_PAIRS, Places, Size, StateWord, WAYS};
use crate::hash::Keys;

/// Times that a flow is tried to be moved while programs change it.
const TRIES: u32 = 8;

/// Moves the flows of one partition. `set` finds a set by its number.
#[derive(Debug)]
pub struct Mover<'a, F> {
    /// Keys of the hashes.
    pub keys: &'a Keys,
    /// Size of the partition, which grows.
    pub size: Size,
    /// Finds a set by its number.
    pub set: F,
}

impl<'a, F: Fn(u32) -> Option<&'a FlowSet>> Mover<'a, F> {
    /// Tries to move every flow that does not lie where it belongs. Returns the number of those
    /// that still do not: a program was at them, or there was no free place.
    pub fn run(&self) -> usize {
        // The lowest sets are those of before.
        let earlier = 0..=self.size.mask_by(u32::MAX);
        let places = earlier.flat_map(|set| (0..WAYS).map(move |way| (set, way)));
        places.filter(|&(set, way)| !self.settle(set, way)).count()
    }

    /// Moves the flow of a place if it does not belong there. Returns `false` if that is to be
    /// tried again.
    fn settle(&self, number: u32, way: usize) -> bool {
        let Some(from) = (self.set)(number).map(|set| &set.ways[way]) else {
            return true;
        };
        (0..TRIES).any(|_| self.try_settle(number, from))
    }

    fn try_settle(&self, number: u32, from: &FlowEntry) -> bool {
        let word = StateWord(from.state.load());
        if word.is_locked() {
            return false;
        }
        if word.state() == FlowState::Free {
            return true;
        }
        fence(Ordering::Acquire);
        let key = key_of(from);
        let Places { sets, tag } = key.places(self.keys, self.size.mask());
        fence(Ordering::Acquire);
        if from.state.load() != word.0 {
            return false;
        }
        if sets.contains(&number) {
            return true;
        }
        if self.holds(sets, &key, word) {
            // A program that knew the partition as it was before has begun the flow here while
            // another began it there; or the agent before has died between two steps.
            return from.state.exchange(word.0, word.freed().0) == word.0;
        }
        let Some((set, way)) = self.free_place(sets) else {
            return false;
        };
        let to = &set.ways[way];
        let there = StateWord(to.state.load());
        let kept = there.reserved();
        let is_free = there.state() == FlowState::Free && !there.is_locked();
        if !is_free || to.state.exchange(there.0, kept.0) != there.0 {
            return false;
        }
        copy(from, to);
        set.ways[0].tags[way].put(tag);
        let copied = word.after(kept);
        to.state.exchange(kept.0, copied.0);
        if from.state.exchange(word.0, word.freed().0) == word.0 {
            return true;
        }
        // Unless a program has changed the copy, too: then that is the flow.
        to.state.exchange(copied.0, copied.freed().0);
        false
    }

    /// Returns `true` if one of two sets has a flow with this key, of the incarnation of a word.
    fn holds(&self, sets: [u32; 2], key: &FlowKey, of: StateWord) -> bool {
        let sets = sets.into_iter().filter_map(&self.set);
        sets.flat_map(|set| &set.ways).any(|entry| {
            let word = StateWord(entry.state.load());
            fence(Ordering::Acquire);
            let is_same = word.state() != FlowState::Free && key_of(entry) == *key;
            fence(Ordering::Acquire);
            let is_read = entry.state.load() == word.0 && !word.is_locked();
            is_same && is_read && word.has_incarnation_of(of)
        })
    }

    /// A free place in that of two sets which has more of them.
    fn free_place(&self, sets: [u32; 2]) -> Option<(&'a FlowSet, usize)> {
        let sets = sets.into_iter().filter_map(&self.set);
        let free = |set: &'a FlowSet| {
            (0..WAYS).filter(|&way| {
                let word = StateWord(set.ways[way].state.load());
                word.state() == FlowState::Free && !word.is_locked() && !word.is_reserved()
            })
        };
        let (set, _) =
            (sets.map(|set| (set, free(set).count()))).max_by_key(|&(_, count)| count)?;
        Some((set, free(set).next()?))
    }
}

/// The key of an entry.
fn key_of(entry: &FlowEntry) -> FlowKey {
    let pairs = entry.key.each_ref().map(|pair| pair.load());
    let [a, b, c, d, e] = pairs.map(|pair| [pair as u32, (pair >> 32) as u32]);
    const { assert!(KEY_PAIRS == 5) };
    FlowKey {
        peer: [a[0], a[1], b[0], b[1]],
        local: [c[0], c[1], d[0], d[1]],
        ports: e[0],
        kind: e[1],
    }
}

/// Copies everything but the word, the tags, and what was checked in the other place.
fn copy(from: &FlowEntry, to: &FlowEntry) {
    let FlowEntry {
        state: _,
        key,
        peer_slot,
        peer_epoch,
        last_seen,
        tags: _,
        packets,
        bytes,
        acknowledged,
        initial,
        answered,
        opened,
        checked: _,
    } = from;
    for (to, from) in to.key.iter().zip(key) {
        to.put(from.load());
    }
    to.peer_slot.put(peer_slot.load());
    to.peer_epoch.put(peer_epoch.load());
    to.last_seen.put(last_seen.load());
    for side in 0..2 {
        to.packets[side].put(packets[side].load());
        to.bytes[side].put(bytes[side].load());
        to.acknowledged[side].put(acknowledged[side].load());
        to.initial[side].put(initial[side].load());
    }
    to.answered.put(answered.load());
    to.opened.put(opened.load());
    to.checked.put(0);
}
