//! A sorted map whose copies share what they have in common.
//!
//! The desired state of a large cluster is copied at every change (what is in force
//! stays untouched until the next state is), and little of it differs. Entries lie in
//! chunks behind reference counts: a copy costs one count, a change copies one chunk,
//! and what two maps do not share is found without looking at the rest. Whoever works
//! something out of a whole map can keep the result by chunk, and work it out again
//! only for the chunks that are new.
//!
//! Invariants: keys ascend through all chunks, each once; no chunk is empty, and none
//! has more than [`CHUNK`] entries. How entries are cut into chunks depends on the
//! past: nothing that is compared or written may depend on it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Most entries of one chunk: copying one, and working something out of it again, costs
/// some microseconds, and 100 000 entries are a thousand chunks.
const CHUNK: usize = 128;

/// Entries for which a full chunk gets room: maps of the desired state are many, and stay.
const ROOM: usize = CHUNK / 8;

/// Entries that share their fate.
pub type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map.
pub struct SharedMap<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    length: usize,
}

/// A key and the values under it in two maps that differ there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'m, K, V> {
    /// The key.
    pub key: &'m K,
    /// The value before.
    pub before: Option<&'m V>,
    /// The value after.
    pub after: Option<&'m V>,
}

impl<K, V> SharedMap<K, V> {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns `true` if the map is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        entries.map(|(key, value)| (key, value))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Chunk<K, V>> {
        self.chunks.iter()
    }

    /// Returns `true` if both are copies of one map, and neither has changed since. Maps
    /// with equal entries may return `false`.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// Returns the chunk that has the key, or would have it, and the key's place in it.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let is_before = |chunk: &Chunk<K, V>| {
            let last = chunk.last().map(|(last, _)| last.borrow());
            last.is_some_and(|last: &Q| last < key)
        };
        let at = self.chunks.partition_point(is_before);
        match self.chunks.get(at) {
            Some(chunk) => (at, chunk.binary_search_by(|(one, _)| one.borrow().cmp(key))),
            None => (at, Err(0)),
        }
    }

    /// The value under a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The entry of a key.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        match self.find(key) {
            (chunk, Ok(at)) => self.chunks[chunk].get(at).map(|(key, value)| (key, value)),
            (_, Err(_)) => None,
        }
    }

    /// Returns `true` if there is a value under a key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries from a key on, in order.
    pub fn starting_at<'m, Q: Ord + ?Sized>(
        &'m self,
        key: &Q,
    ) -> impl Iterator<Item = (&'m K, &'m V)> + use<'m, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key);
        let (Ok(at) | Err(at)) = at;
        let entries = self.chunks[chunk..].iter().flat_map(|chunk| chunk.iter());
        entries.skip(at).map(|(key, value)| (key, value))
    }

    /// Returns the differences of two maps, in the order of keys.
    pub fn changes<'m>(&'m self, after: &'m Self) -> Vec<Change<'m, K, V>>
    where
        V: PartialEq,
    {
        if self.is_same(after) {
            return Vec::new();
        }
        // What lies in a chunk of both is the same in both: mostly all but a few chunks in
        // the same place.
        let is_shared = |(one, other): &(&Chunk<K, V>, &Chunk<K, V>)| Arc::ptr_eq(one, other);
        let (before, after) = (&self.chunks[..], &after.chunks[..]);
        let first = before.iter().zip(after).take_while(is_shared).count();
        let (before, after) = (&before[first..], &after[first..]);
        let backwards = before.iter().rev().zip(after.iter().rev());
        let last = backwards.take_while(is_shared).count();
        let before = &before[..before.len() - last];
        let after = &after[..after.len() - last];
        let pointers = |chunks: &[Chunk<K, V>]| -> HashSet<*const Vec<(K, V)>> {
            chunks.iter().map(Arc::as_ptr).collect()
        };
        let (in_before, in_after) = (pointers(before), pointers(after));
        let rest = |chunks: &'m [Chunk<K, V>], other: HashSet<*const Vec<(K, V)>>| {
            let chunks = chunks.iter();
            let own = chunks.filter(move |chunk| !other.contains(&Arc::as_ptr(chunk)));
            own.flat_map(|chunk| chunk.iter()).peekable()
        };
        let mut before = rest(before, in_after);
        let mut after = rest(after, in_before);
        let mut changes = Vec::new();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let left = (order != Ordering::Greater)
                .then(|| before.next())
                .flatten();
            let right = (order != Ordering::Less).then(|| after.next()).flatten();
            let values = (left.map(|(_, value)| value), right.map(|(_, value)| value));
            if let Some((key, _)) = left.or(right)
                && values.0 != values.1
            {
                changes.push(Change {
                    key,
                    before: values.0,
                    after: values.1,
                });
            }
        }
    }
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// Lets go of chunks that say what a chunk of another map says, for those. For
    /// maps that were made apart from each other and are nearly the same.
    pub fn share_with(&mut self, other: &Self) {
        if self.is_same(other) {
            return;
        }
        let mut chunks: Vec<Chunk<K, V>> = Vec::with_capacity(self.chunks.len());
        for chunk in self.chunks.iter() {
            let twin = chunk
                .first()
                .and_then(|(first, _)| match other.find(first) {
                    (at, Ok(0)) => other.chunks.get(at),
                    _ => None,
                });
            let twin = twin.filter(|twin| Arc::ptr_eq(twin, chunk) || twin == &chunk);
            chunks.push(twin.unwrap_or(chunk).clone());
        }
        let pairs = chunks.iter().zip(other.chunks.iter());
        self.chunks = if chunks.len() == other.chunks.len()
            && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
        {
            other.chunks.clone()
        } else {
            Arc::new(chunks)
        };
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value under a key, and gives back the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, at) = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let at = match at {
            Ok(at) => {
                let entry = &mut Arc::make_mut(&mut chunks[chunk])[at];
                return Some(std::mem::replace(&mut entry.1, value));
            }
            Err(at) => at,
        };
        self.length += 1;
        if chunk == chunks.len() {
            // Behind everything: the last chunk is filled before a new one begins.
            match chunks.last_mut() {
                Some(last) if last.len() < CHUNK => {
                    let last = Arc::make_mut(last);
                    put(last, last.len(), (key, value));
                }
                _ => {
                    let mut first = Vec::new();
                    put(&mut first, 0, (key, value));
                    chunks.push(Arc::new(first));
                }
            }
            return None;
        }
        let entries = Arc::make_mut(&mut chunks[chunk]);
        if entries.len() < CHUNK {
            put(entries, at, (key, value));
            return None;
        }
        let mut upper = entries.split_off(CHUNK / 2);
        entries.shrink_to_fit();
        match at.checked_sub(entries.len()) {
            Some(at) if at > 0 => put(&mut upper, at, (key, value)),
            _ => put(entries, at, (key, value)),
        }
        chunks.insert(chunk + 1, Arc::new(upper));
        None
    }

    /// Returns the entries of all maps, which have no key in common. Maps whose keys all come
    /// before or behind those of the others are shared: that costs no more than their chunks.
    #[must_use]
    pub fn joined<const N: usize>(maps: [&Self; N]) -> Self {
        let mut maps: Vec<&Self> = maps.into_iter().filter(|map| !map.is_empty()).collect();
        maps.sort_by(|one, other| one.keys().next().cmp(&other.keys().next()));
        let are_apart = |pair: &[&Self]| pair[0].keys().next_back() < pair[1].keys().next();
        if let [only] = maps[..] {
            return only.clone();
        }
        if maps.windows(2).all(are_apart) {
            let chunks = maps.iter().flat_map(|map| map.chunks.iter().cloned());
            return Self {
                chunks: Arc::new(chunks.collect()),
                length: maps.iter().map(|map| map.len()).sum(),
            };
        }
        maps.sort_by_key(|map| map.len());
        let mut all = maps.pop().cloned().unwrap_or_default();
        for (key, value) in maps.into_iter().flat_map(|map| map.iter()) {
            all.insert(key.clone(), value.clone());
        }
        all
    }

    /// Removes what is under a key.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(at)) = self.find(key) else {
            return None;
        };
        self.length -= 1;
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(&mut chunks[chunk]);
        let (_, value) = entries.remove(at);
        let left = entries.len();
        if left == 0 {
            chunks.remove(chunk);
        } else if left < CHUNK / 8
            && let Some(next) = chunks.get(chunk + 1)
            && left + next.len() <= CHUNK / 2
        {
            // So that a map which shrinks does not keep its chunks.
            let next = chunks.remove(chunk + 1);
            Arc::make_mut(&mut chunks[chunk]).extend(next.iter().cloned());
        }
        Some(value)
    }
}

/// Puts an entry into a chunk, and makes room for few more where there is none.
fn put<T>(entries: &mut Vec<T>, at: usize, entry: T) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(ROOM);
    }
    entries.insert(at, entry);
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            length: self.length,
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            length: 0,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.changes(other).is_empty()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("there is an entry under the key")
    }
}

/// Objects by name, each shared with whoever else has it.
pub struct Objects<K, T>(SharedMap<K, Arc<T>>);

impl<K, T> Objects<K, T> {
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if there are no objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All objects with their names, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &T)> + Clone {
        self.0.iter().map(|(name, object)| (name, object.as_ref()))
    }

    /// All names, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.0.keys()
    }

    /// All objects, in the order of their names.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.0.values().map(Arc::as_ref)
    }

    /// The map of shared objects.
    #[must_use]
    pub fn shared(&self) -> &SharedMap<K, Arc<T>> {
        &self.0
    }
}

impl<K: Ord, T> Objects<K, T> {
    /// The object of a name.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, name: &Q) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        self.0.get(name).map(Arc::as_ref)
    }

    /// The object of a name, and the name as it is kept.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, name: &Q) -> Option<(&K, &T)>
    where
        K: Borrow<Q>,
    {
        let found = self.starting_at(name).next();
        found.filter(|(one, _)| (*one).borrow() == name)
    }

    /// Returns `true` if there is an object of this name.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, name: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(name)
    }

    /// The objects from a name on, in order.
    pub fn starting_at<'m, Q: Ord + ?Sized>(
        &'m self,
        name: &Q,
    ) -> impl Iterator<Item = (&'m K, &'m T)> + use<'m, K, T, Q>
    where
        K: Borrow<Q>,
    {
        let objects = self.0.starting_at(name);
        objects.map(|(name, object)| (name, object.as_ref()))
    }
}

impl<K: Ord, T: Eq> Objects<K, T> {
    /// Lets go of what another map has as well, for that; see
    /// [`SharedMap::share_with`].
    pub fn share_with(&mut self, other: &Self) {
        self.0.share_with(&other.0);
    }
}

impl<K: Ord + Clone, T> Objects<K, T> {
    /// Puts an object under a name, and gives back the one that was there.
    pub fn insert(&mut self, name: K, object: impl Into<Arc<T>>) -> Option<Arc<T>> {
        self.0.insert(name, object.into())
    }

    /// Removes the object of a name.
    pub fn remove<Q: Ord + ?Sized>(&mut self, name: &Q) -> Option<Arc<T>>
    where
        K: Borrow<Q>,
    {
        self.0.remove(name)
    }
}

impl<'m, K, T> IntoIterator for &'m Objects<K, T> {
    type Item = (&'m K, &'m T);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'm>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<K, T> Clone for Objects<K, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, T> Default for Objects<K, T> {
    fn default() -> Self {
        Self(SharedMap::default())
    }
}

impl<K: fmt::Debug, T: fmt::Debug> fmt::Debug for Objects<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: Ord, T: Eq> PartialEq for Objects<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord, T: Eq> Eq for Objects<K, T> {}

impl<K: Ord + Borrow<Q>, T, Q: Ord + ?Sized> Index<&Q> for Objects<K, T> {
    type Output = T;

    fn index(&self, name: &Q) -> &T {
        &self.0[name]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &SharedMap<u16, u8>, model: &BTreeMap<u16, u8>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model));
        assert!(map.iter().rev().eq(model.iter().rev()));
        for chunk in map.chunks() {
            assert!((1..=CHUNK).contains(&chunk.len()));
        }
    }

    /// Many keys side by side, so that chunks fill, split, empty and merge.
    fn steps() -> impl Strategy<Value = Vec<(u16, u16, Option<u8>)>> {
        let step = (0..3000u16, 1..900u16, prop::option::of(0..2u8));
        prop::collection::vec(step, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_holds_what_a_map_of_the_library_holds(first in steps(), second in steps()) {
            let mut map = SharedMap::default();
            let mut model = BTreeMap::new();
            let mut play = |steps: Vec<(u16, u16, Option<u8>)>, map: &mut SharedMap<u16, u8>| {
                for (from, count, value) in steps {
                    for key in from..from + count {
                        match value {
                            Some(value) => assert_eq!(map.insert(key, value), model.insert(key, value)),
                            None => assert_eq!(map.remove(&key), model.remove(&key)),
                        }
                    }
                    check(map, &model);
                }
                model.clone()
            };
            let model_before = play(first, &mut map);
            let before = map.clone();
            let model = play(second, &mut map);
            check(&before, &model_before);
            for key in [0, 1, 1500, 3899, u16::MAX] {
                assert_eq!(map.get(&key), model.get(&key));
                assert!(map.starting_at(&key).eq(model.range(key..)));
            }
            let changed: Vec<u16> = before.changes(&map).iter().map(|c| *c.key).collect();
            let all = model.keys().chain(model_before.keys());
            let mut expected: Vec<u16> = all
                .filter(|key| model.get(key) != model_before.get(key))
                .copied()
                .collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(&changed, &expected);
            assert_eq!(before == map, expected.is_empty());
            for change in before.changes(&map) {
                assert_eq!(change.before, model_before.get(change.key));
                assert_eq!(change.after, model.get(change.key));
            }
        }
    }

    #[test]
    fn chunks_have_little_room_to_spare_whatever_the_order_of_entries() {
        for step in [1, 7_919] {
            let keys = (0..10_000u32).map(|at| at * step % 10_007);
            let map: SharedMap<u32, u64> = keys.map(|key| (key, 0)).collect();
            let spare = map.chunks().map(|chunk| chunk.capacity() - chunk.len());
            assert!(spare.max() <= Some(ROOM));
            assert!(map.chunks().len() < 2 * 10_000 / CHUNK);
        }
    }

    #[test]
    fn maps_that_lie_behind_each_other_are_joined_by_their_chunks() {
        let map = |keys: &mut dyn Iterator<Item = u16>| -> SharedMap<u16, u8> {
            keys.map(|key| (key, 0)).collect()
        };
        let all: BTreeMap<u16, u8> = (0..3_000).map(|key| (key, 0)).collect();
        let apart = [
            map(&mut (2_000..3_000)),
            map(&mut (0..2_000)),
            SharedMap::default(),
        ];
        let joined = SharedMap::joined(apart.each_ref());
        check(&joined, &all);
        let first = apart[1].chunks().zip(joined.chunks());
        assert!(
            first
                .into_iter()
                .all(|(one, other)| Arc::ptr_eq(one, other))
        );
        let among = [0, 1, 2].map(|rest| map(&mut (0..3_000).filter(|key| key % 3 == rest)));
        check(&SharedMap::joined(among.each_ref()), &all);
        let only = SharedMap::joined([&SharedMap::default(), &joined]);
        assert!(only.is_same(&joined));
    }

    #[test]
    fn maps_that_were_made_apart_can_share_what_is_the_same() {
        let made = |odd: u32| {
            let mut map = SharedMap::default();
            for key in 0..5_000u32 {
                map.insert(key, if key == odd { 1 } else { 0 });
            }
            map
        };
        let (one, mut same, mut other) = (made(700), made(700), made(4_000));
        same.share_with(&one);
        assert!(same.is_same(&one));
        other.share_with(&one);
        assert!(other == made(4_000));
        let shared = |chunk: &&Chunk<u32, i32>| one.chunks().any(|o| Arc::ptr_eq(o, chunk));
        assert_eq!(other.chunks().filter(|chunk| !shared(chunk)).count(), 2);
    }

    #[test]
    fn a_change_of_a_copy_leaves_all_other_chunks_shared() {
        let mut map = SharedMap::default();
        for key in 0..10_000u32 {
            map.insert(key, ());
        }
        let before = map.clone();
        assert!(before.is_same(&map));
        map.remove(&5_000);
        let shared = |chunk: &Chunk<u32, ()>| before.chunks().any(|one| Arc::ptr_eq(one, chunk));
        assert_eq!(map.chunks().filter(|chunk| !shared(chunk)).count(), 1);
        assert_eq!(before.len(), 10_000);
    }
}
