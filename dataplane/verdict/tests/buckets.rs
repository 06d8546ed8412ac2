//! Buckets: what is stored is found, and readers beside a writer never err.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use cofferdam_verdict::{
    address::Address,
    bucket::{AddressBlock, AddressWriter, Bucket, Found, Writer, find, find_address},
    capacity::Limits,
    hash::Keys,
    memory::{BucketSet, Settings},
    slices::SliceMemory,
};
use proptest::prelude::*;

const KEYS: Keys = Keys {
    words: [11, 0x8000_0001, 77, 0x1357_9bdf, 5, 6, 7, 8, 9, 10],
    spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
    mark: 0,
    _spare: 0,
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
        address_blocks: &[],
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

/// Hash keys as a loader could have drawn them.
fn drawn(seed: u32) -> Keys {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state ^ state >> 15
    };
    let words = std::array::from_fn(|_| next());
    let spread = std::array::from_fn(|_| u64::from(next()) << 32 | u64::from(next()) | 1);
    Keys {
        words,
        spread,
        ..Keys::default()
    }
}

/// The tables of addresses, as limits make them.
struct Addresses {
    settings: Settings,
    v4: Vec<Bucket>,
    v6: Vec<Bucket>,
    blocks: Vec<AddressBlock>,
}

impl Addresses {
    fn of(keys: Keys, limits: &Limits) -> Self {
        let [v4, v6] = [limits.buckets_v4(), limits.buckets_v6()];
        let blocks = limits.address_blocks();
        Self {
            settings: Settings {
                keys,
                bucket_masks: [v4 - 1, v6 - 1, 0],
                ..Settings::default()
            },
            v4: make(v4 as usize),
            v6: make(v6 as usize),
            blocks: (0..blocks).map(|_| AddressBlock::default()).collect(),
        }
    }

    fn writer(&self) -> AddressWriter<'_> {
        let writer = |buckets| Writer::new(&self.settings.keys, buckets);
        AddressWriter {
            v4: writer(&self.v4).expect("a power of two"),
            v6: writer(&self.v6).expect("a power of two"),
            blocks: &self.blocks,
        }
    }

    fn find(&self, address: &Address) -> Found {
        let memory = SliceMemory {
            settings: &self.settings,
            table: &[],
            buckets: [&self.v4, &self.v6, &[]],
            address_blocks: &self.blocks,
            endpoints: &[],
            bindings: &[],
        };
        find_address(&memory, address)
    }
}

fn v4(word: u32) -> Address {
    Address::v4(word.to_be_bytes())
}

fn v6(n: u64) -> Address {
    IpAddr::from(Ipv6Addr::from(0xfd00 << 112 | u128::from(n))).into()
}

/// Every slot that the limits promise can have an address, whatever the addresses:
/// side by side, in pairs, or each far from all others.
#[test]
fn as_many_addresses_as_slots_find_room_wherever_they_lie() {
    let limits = Limits::default();
    let scattered = |n: u32| n.wrapping_mul(0x9e37_79b1);
    let worlds: [(&str, &dyn Fn(u32) -> Address); 6] = [
        ("dense v4", &|n| v4(0x0a00_0000 + n)),
        ("paired v4", &|n| v4(0x0a00_0000 + n / 2 * 8 + n % 2)),
        ("sparse v4", &|n| v4(scattered(n))),
        ("dense v6", &|n| v6(n.into())),
        ("paired v6", &|n| v6(u64::from(n / 2 * 8 + n % 2))),
        ("sparse v6", &|n| {
            v6(u64::from(n) << 32 | u64::from(scattered(n)))
        }),
    ];
    for (seed, (world, address)) in (1..).zip(worlds) {
        let addresses = Addresses::of(drawn(seed), &limits);
        let writer = addresses.writer();
        for slot in 1..limits.slots {
            assert_eq!(writer.set(&address(slot), slot), Ok(()), "{world}, {slot}");
        }
        for slot in 1..limits.slots {
            assert_eq!(
                addresses.find(&address(slot)),
                Found::Value(slot),
                "{world}"
            );
        }
    }
}

/// Limits with room for 24 addresses and no more.
const FEW: Limits = Limits {
    slots: 25,
    ..Limits::DEFAULT
};

/// One of 64 addresses: 32 of each family, neighbours and not.
fn some_address(n: u32) -> Address {
    let scattered = n / 2 % 4 * 1000 + n / 8 * 3;
    if n.is_multiple_of(2) {
        v4(scattered)
    } else {
        v6(scattered.into())
    }
}

proptest! {
    /// Whatever comes and goes, in whichever order: what is bound is found, nothing
    /// else is, and there is always room for as many as the limits promise.
    #[test]
    fn addresses_behave_like_a_map(
        seed: u32,
        steps in prop::collection::vec((0u32..64, 0u32..6), 1..300),
    ) {
        let addresses = Addresses::of(drawn(seed), &FEW);
        let writer = addresses.writer();
        let mut model = BTreeMap::new();
        for (n, slot) in steps {
            let address = some_address(n);
            if slot < 2 {
                prop_assert_eq!(writer.remove(&address), model.remove(&n).is_some());
            } else if model.contains_key(&n) || model.len() < FEW.slots as usize - 1 {
                prop_assert_eq!(writer.set(&address, slot), Ok(()));
                model.insert(n, slot);
            }
            for n in 0..64 {
                let expected = model.get(&n).map_or(Found::Absent, |&slot| Found::Value(slot));
                prop_assert_eq!(addresses.find(&some_address(n)), expected);
            }
            prop_assert_eq!(writer.bound().count(), model.len());
        }
    }

    /// More keys than places, so that keys lie in their second buckets, and find none.
    #[test]
    fn buckets_behave_like_a_map(steps in prop::collection::vec((0u32..40, 0u32..4), 1..200)) {
        let buckets = make(4);
        let writer = Writer::new(&KEYS, &buckets).expect("a power of two");
        let settings = settings(4);
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

/// Ends the readers, also when the writer panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
        let _ends = Ends(&done);
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
    });
    assert!(reads.into_inner() > 1000, "the readers ran");
}

/// The same of addresses: neighbourhoods gain and lose them, so that blocks are
/// taken, given back and taken by others all the time.
#[test]
fn readers_beside_a_writer_see_true_slots_and_miss_no_address() {
    let addresses = Addresses::of(KEYS, &FEW);
    // 13 neighbourhoods of eight; the first address of the even ones stays.
    let address = |n: u32| v6(u64::from(n));
    let slot = |n: u32| 1000 + n;
    let stays = |n: u32| n.is_multiple_of(16);
    let writer = addresses.writer();
    for n in (0..104).filter(|&n| stays(n)) {
        writer.set(&address(n), slot(n)).expect("there is room");
    }
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..2u32 {
            let (addresses, done, reads) = (&addresses, &done, &reads);
            scope.spawn(move || {
                let mut count = 0;
                let mut state = reader;
                while !done.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let n = (state >> 8) % 104;
                    match addresses.find(&address(n)) {
                        Found::Value(found) => assert_eq!(found, slot(n)),
                        Found::Absent => assert!(!stays(n), "{n} is there"),
                        Found::Unknown => {}
                    }
                    count += 1;
                }
                reads.fetch_add(count, Ordering::Relaxed);
            });
        }
        let _ends = Ends(&done);
        let mut state = 7u32;
        let mut bound = BTreeSet::new();
        for _ in 0..1_000_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Few of each neighbourhood, so that most blocks do not last.
            let n = (state >> 8) % 52 * 2;
            if stays(n) {
                continue;
            }
            if bound.remove(&n) {
                writer.remove(&address(n));
            } else if bound.len() < 16 {
                writer.set(&address(n), slot(n)).expect("there is room");
                bound.insert(n);
            }
        }
    });
    assert!(reads.into_inner() > 1000, "the readers ran");
}

/// Whatever a writer was doing when it died: addresses it had not touched keep their
/// slots, and there is room for as many as before.
#[test]
fn a_dead_writers_blocks_are_found_again() {
    let addresses = Addresses::of(KEYS, &FEW);
    let writer = addresses.writer();
    // Two in each of twelve neighbourhoods, which is a block each, and all there are.
    let pair = |n: u32| v4(n / 2 * 8 + n % 2);
    for n in 0..24 {
        writer.set(&pair(n), 100 + n).expect("there is room");
    }
    let block = |n: u32| {
        let of = |block: &&AddressBlock| block.slots[0].load() == 100 + n;
        addresses.blocks.iter().find(of).expect("a block")
    };
    // Of the first neighbourhood one address has gone, and still has its block.
    block(0).slots[1].store(0);
    // Of the second both.
    block(2).slots[1].store(0);
    block(2).slots[0].store(0);
    // Nothing leads to the block of the third, the fourth, and the last.
    for n in [4, 6, 22] {
        assert!(writer.v4.remove(&[n / 2]));
    }
    writer.mend(&mut vec![false; addresses.blocks.len()]);
    let gone = [1, 2, 3, 4, 5, 6, 7, 22, 23];
    let kept = (0..24).filter(|n| !gone.contains(n));
    let mut expected: Vec<_> = kept.map(|n| (pair(n), 100 + n)).collect();
    let mut bound: Vec<_> = writer.bound().collect();
    bound.sort_unstable();
    expected.sort_unstable();
    assert_eq!(bound, expected);
    for n in gone {
        assert_eq!(addresses.find(&pair(n)), Found::Absent);
        assert_eq!(writer.set(&pair(n), 200 + n), Ok(()));
    }
    for n in 0..24 {
        let slot = if gone.contains(&n) { 200 + n } else { 100 + n };
        assert_eq!(addresses.find(&pair(n)), Found::Value(slot));
    }
}
