//! The writing side of [buckets](super), for user space.

use super::{Bucket, OVERFLOWED, candidates, entries, entry};
use crate::hash::Keys;

/// Refusal of an entry that could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Full buckets looked at for one that can be relieved. At the loads that the limits
/// allow less than half of the buckets are full, and each leads to several others.
const MAX_STEPS: usize = 64;

/// A full bucket on the way to a free entry.
#[derive(Clone, Copy, Default)]
struct Hop {
    bucket: u32,
    /// The step before, whose entry at `at` could move here.
    from: usize,
    at: usize,
}

/// The one writer of a set of buckets. See the module for what makes its steps
/// safe beside readers.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    keys: &'a Keys,
    buckets: &'a [Bucket],
}

impl<'a> Writer<'a> {
    /// Writes `buckets`, whose number is a power of two.
    pub fn new(keys: &'a Keys, buckets: &'a [Bucket]) -> Option<Self> {
        buckets
            .len()
            .is_power_of_two()
            .then_some(Self { keys, buckets })
    }

    fn mask(&self) -> u32 {
        // A set of more than 2^32 buckets is refused when its map is made.
        (self.buckets.len() - 1) as u32
    }

    fn bucket(&self, index: u32) -> &'a Bucket {
        &self.buckets[index as usize & (self.buckets.len() - 1)]
    }

    /// Stores `value` (not 0) for `key`, replacing what was there by one store.
    ///
    /// # Errors
    ///
    /// [`Full`] when both candidates are full and no chain of moves, each of an entry
    /// to its other candidate, was found to end at a free entry. Nothing has changed
    /// then.
    pub fn set<const K: usize>(&self, key: &[u32; K], value: u32) -> Result<(), Full> {
        let [first, second] = candidates(self.keys, self.mask(), key);
        for index in [first, second] {
            if let Some(at) = self.position(index, key) {
                self.bucket(index).words[at + K].store(value);
                return Ok(());
            }
        }
        let (index, at) = if let Some(at) = self.free::<K>(first) {
            (first, at)
        } else if let Some(at) = self.free::<K>(second) {
            (second, at)
        } else {
            self.make_room::<K>([first, second]).ok_or(Full)?
        };
        if index != first {
            self.overflow(first);
        }
        self.fill(index, at, key, value);
        Ok(())
    }

    /// Changes the value of a key, if it is there, by one store, and moves the
    /// sequence: what the value before led to may be used anew.
    pub fn replace<const K: usize>(&self, key: &[u32; K], value: u32) {
        for index in candidates(self.keys, self.mask(), key) {
            if let Some(at) = self.position(index, key) {
                self.bucket(index).words[at + K].store(value);
                self.advance(index);
            }
        }
    }

    /// Removes a key; `false` if it was not there.
    pub fn remove<const K: usize>(&self, key: &[u32; K]) -> bool {
        let mut removed = false;
        for index in candidates(self.keys, self.mask(), key) {
            while let Some(at) = self.position(index, key) {
                self.free_entry::<K>(index, at);
                removed = true;
            }
        }
        removed
    }

    /// The value of a key, as the writer sees it.
    pub fn get<const K: usize>(&self, key: &[u32; K]) -> Option<u32> {
        candidates(self.keys, self.mask(), key)
            .into_iter()
            .find_map(|index| {
                let at = self.position(index, key)?;
                Some(self.bucket(index).words[at + K].load())
            })
    }

    /// All keys with their values, in no order.
    pub fn entries<const K: usize>(&self) -> impl Iterator<Item = ([u32; K], u32)> + use<'a, K> {
        self.buckets.iter().flat_map(|bucket| {
            (0..entries::<K>()).map(entry::<K>).filter_map(move |at| {
                let value = bucket.words[at + K].load();
                let key = core::array::from_fn(|k| bucket.words[at + k].load());
                (value != 0).then_some((key, value))
            })
        })
    }

    /// Ends what a writer that died was in the middle of: of an entry on the move
    /// there are two copies, and a later change would reach one. Readers find the
    /// one in the first candidate, so that the other goes.
    pub fn mend<const K: usize>(&self) {
        for index in 0..=self.mask() {
            for at in (0..entries::<K>()).map(entry::<K>) {
                let bucket = self.bucket(index);
                if bucket.words[at + K].load() == 0 {
                    continue;
                }
                let key: [u32; K] = core::array::from_fn(|k| bucket.words[at + k].load());
                let [first, second] = candidates(self.keys, self.mask(), &key);
                if index == second && first != second && self.position(first, &key).is_some() {
                    self.free_entry::<K>(index, at);
                }
            }
        }
    }

    fn position<const K: usize>(&self, index: u32, key: &[u32; K]) -> Option<usize> {
        let bucket = self.bucket(index);
        (0..entries::<K>()).map(entry::<K>).find(|&at| {
            bucket.words[at + K].load() != 0
                && (0..K).all(|k| bucket.words[at + k].load() == key[k])
        })
    }

    fn free<const K: usize>(&self, index: u32) -> Option<usize> {
        let bucket = self.bucket(index);
        (0..entries::<K>())
            .map(entry::<K>)
            .find(|&at| bucket.words[at + K].load() == 0)
    }

    /// Frees an entry in one of two full buckets, and says where: an entry moves to
    /// its other candidate, after an entry of that has moved on if it is full too,
    /// and so on along the shortest such way.
    fn make_room<const K: usize>(&self, full: [u32; 2]) -> Option<(u32, usize)> {
        let mut steps = [Hop::default(); MAX_STEPS];
        steps[0].bucket = full[0];
        steps[1].bucket = full[1];
        let mut known = 2;
        let mut from = 0;
        while from < known {
            let index = steps[from].bucket;
            for at in (0..entries::<K>()).map(entry::<K>) {
                let to = self.other::<K>(index, at);
                if let Some(free) = self.free::<K>(to) {
                    return Some(self.shift::<K>(&steps, from, at, (to, free)));
                }
                // A bucket twice on one way would have an entry moved twice.
                let new = steps[..known].iter().all(|step| step.bucket != to);
                if new && known < MAX_STEPS {
                    steps[known] = Hop {
                        bucket: to,
                        from,
                        at,
                    };
                    known += 1;
                }
            }
            from += 1;
        }
        None
    }

    /// Moves entries along a way, its last one first: that of `steps[step]` at `at`
    /// to the free entry `to`. Says which entry is free in the end.
    fn shift<const K: usize>(
        &self,
        steps: &[Hop; MAX_STEPS],
        mut step: usize,
        mut at: usize,
        mut to: (u32, usize),
    ) -> (u32, usize) {
        loop {
            let index = steps[step].bucket;
            self.relocate::<K>(index, at, to);
            to = (index, at);
            if step < 2 {
                return to;
            }
            (at, step) = (steps[step].at, steps[step].from);
        }
    }

    /// The other candidate of an entry's key.
    fn other<const K: usize>(&self, index: u32, at: usize) -> u32 {
        let [first, second] = candidates(self.keys, self.mask(), &self.key::<K>(index, at));
        if first == index { second } else { first }
    }

    fn key<const K: usize>(&self, index: u32, at: usize) -> [u32; K] {
        core::array::from_fn(|k| self.bucket(index).words[at + k].load())
    }

    fn relocate<const K: usize>(&self, index: u32, at: usize, to: (u32, usize)) {
        let key = self.key::<K>(index, at);
        let [first, _] = candidates(self.keys, self.mask(), &key);
        self.overflow(first);
        self.fill(to.0, to.1, &key, self.bucket(index).words[at + K].load());
        self.advance(to.0);
        self.free_entry::<K>(index, at);
    }

    fn fill<const K: usize>(&self, index: u32, at: usize, key: &[u32; K], value: u32) {
        let bucket = self.bucket(index);
        for (word, part) in bucket.words[at..].iter().zip(key) {
            word.store(*part);
        }
        bucket.words[at + K].store(value);
    }

    fn free_entry<const K: usize>(&self, index: u32, at: usize) {
        self.bucket(index).words[at + K].store(0);
        self.advance(index);
    }

    fn overflow(&self, index: u32) {
        self.bucket(index).words[0].set_bits(OVERFLOWED);
    }

    /// Moves the sequence: what was free before may be filled after.
    fn advance(&self, index: u32) {
        self.bucket(index).words[0].add(OVERFLOWED << 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_copies_the_one_that_readers_find_stays() {
        let buckets: [Bucket; 64] = core::array::from_fn(|_| Bucket::default());
        let keys = Keys {
            words: core::array::from_fn(|i| 0x9e37_79b9u32.wrapping_mul(i as u32 + 1)),
            spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
            mark: 0,
            _spare: 0,
        };
        let writer = Writer::new(&keys, &buckets).expect("a power of two");
        for key in 1..100 {
            writer.set(&[key], key).expect("room");
        }
        // What a move leaves when it is cut short after its first half.
        let [first, second] = candidates(&keys, writer.mask(), &[500]);
        let free = |index| writer.free::<1>(index).expect("room");
        writer.fill(second, free(second), &[500], 2);
        writer.fill(first, free(first), &[500], 1);
        assert_eq!(writer.entries::<1>().count(), 101);
        writer.mend::<1>();
        assert_eq!(writer.get(&[500]), Some(1));
        assert_eq!(writer.entries::<1>().count(), 100);
        for key in 1..100 {
            assert_eq!(writer.get(&[key]), Some(key));
        }
        // One that lies in its second candidate alone is where it belongs.
        writer.remove(&[500]);
        writer.overflow(first);
        writer.fill(second, free(second), &[500], 3);
        writer.mend::<1>();
        assert_eq!(writer.get(&[500]), Some(3));
    }
}
