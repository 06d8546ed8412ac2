//! Buckets: what is stored is found, and readers beside a writer never err.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use cofferdam_verdict::{
    bucket::{Bucket, Found, Writer, find},
    hash::Keys,
    memory::{BucketSet, Settings},
    slices::SliceMemory,
};
use proptest::prelude::*;

const KEYS: Keys = Keys {
    words: [11, 0x8000_0001, 77, 0x1357_9bdf, 5, 6, 7, 8, 9, 10],
    spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
};

fn settings(buckets: usize) -> Settings {
    let mask = u32::try_from(buckets - 1).expect("a small test");
    Settings {
        keys: KEYS,
        bucket_masks: [mask; 3],
        own_node_allowed: 0,
        ..Settings::default()
    }
}

fn memory<'a>(settings: &'a Settings, buckets: &'a [Bucket]) -> SliceMemory<'a> {
    SliceMemory {
        settings,
        table: &[],
        buckets: [buckets; 3],
        endpoints: &[],
        bindings: &[],
    }
}

fn make(buckets: usize) -> Vec<Bucket> {
    (0..buckets).map(|_| Bucket::default()).collect()
}

/// A key of four words with all of them in use.
fn wide(n: u32) -> [u32; 4] {
    [0x2001_0db8, n.rotate_left(7), 0, n]
}

/// At the load that the limits allow, nothing is refused: 4 of 7 for one-word
/// keys, 2 of 3 for four.
#[test]
fn buckets_take_as_many_keys_as_the_limits_promise() {
    let narrow = make(1024);
    let writer = Writer::new(&KEYS, &narrow).expect("a power of two");
    let wide_buckets = make(1024);
    let wide_writer = Writer::new(&KEYS, &wide_buckets).expect("a power of two");
    for n in 0..4 * 1024 {
        assert_eq!(writer.set(&[0x0a00_0000 + n], n + 1), Ok(()), "{n}");
    }
    for n in 0..2048 {
        assert_eq!(wide_writer.set(&wide(n), n + 1), Ok(()), "{n}");
    }
    let settings = settings(1024);
    for n in 0..4 * 1024 {
        let found = find(
            &memory(&settings, &narrow),
            BucketSet::AddressV4,
            &[0x0a00_0000 + n],
        );
        assert_eq!(found, Found::Value(n + 1));
    }
    for n in 0..2048 {
        let found = find(
            &memory(&settings, &wide_buckets),
            BucketSet::AddressV6,
            &wide(n),
        );
        assert_eq!(found, Found::Value(n + 1));
    }
}

proptest! {
    #[test]
    fn buckets_behave_like_a_map(steps in prop::collection::vec((0u32..40, 0u32..4), 1..200)) {
        let buckets = make(8);
        let writer = Writer::new(&KEYS, &buckets).expect("a power of two");
        let settings = settings(8);
        let mut model = BTreeMap::new();
        for (key, value) in steps {
            if value == 0 {
                prop_assert_eq!(writer.remove(&[key]), model.remove(&key).is_some());
            } else if writer.set(&[key], value).is_ok() {
                model.insert(key, value);
            }
            for key in 0..40 {
                let expected = model.get(&key).map_or(Found::Absent, |&value| Found::Value(value));
                let found = find(&memory(&settings, &buckets), BucketSet::Endpoint, &[key]);
                prop_assert_eq!(found, expected);
            }
        }
    }
}

/// One writer puts keys in and takes them out, in few buckets, so that entries
/// are reused and moved all the time; every key carries one value for ever, and
/// half of the keys always stay. A reader may see a passing key or not, but never
/// another key's value, and never miss a key that stays.
#[test]
fn readers_beside_a_writer_see_true_pairs_and_miss_nothing() {
    let buckets = make(16);
    let settings = settings(16);
    let writer = Writer::new(&KEYS, &buckets).expect("a power of two");
    let stays: Vec<u32> = (0..12).collect();
    for &n in &stays {
        writer.set(&wide(n), n + 1).expect("there is room");
    }
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..2u32 {
            let (buckets, settings, done, reads, stays) =
                (&buckets, &settings, &done, &reads, &stays);
            scope.spawn(move || {
                let memory = memory(settings, buckets);
                let mut count = 0;
                let mut n = reader;
                while !done.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let key = (n >> 8) % 64;
                    match find(&memory, BucketSet::AddressV6, &wide(key)) {
                        Found::Value(value) => assert_eq!(value, key + 1),
                        Found::Absent => assert!(!stays.contains(&key), "{key} is there"),
                        // Allowed, and denied by whoever asked; here it may
                        // happen only when the writer laps a preempted reader.
                        Found::Unknown => {}
                    }
                    count += 1;
                }
                reads.fetch_add(count, Ordering::Relaxed);
            });
        }
        let mut n = 7u32;
        for _ in 0..400_000 {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = 12 + (n >> 8) % 52;
            if n & 0x80 == 0 {
                writer.remove(&wide(key));
            } else {
                // Full buckets are part of the exercise.
                let _full = writer.set(&wide(key), key + 1);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(reads.into_inner() > 1000, "the readers ran");
}
