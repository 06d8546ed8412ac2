//! Cache-line buckets: exact lookup in memory that user space writes while the
//! kernel programs read.
//!
//! A bucket is 16 words, one cache line: a head, then as many entries as fit, of
//! a key (one word for [neighbourhoods](addresses) of IPv4 addresses and for
//! interface indexes, four for IPv6) and a value. Value 0 is a free entry. A key
//! lies in one of two candidate buckets, the first unless that was full; the head's
//! lowest bit says whether any key of this bucket ever moved on to its second, so
//! that nearly all lookups, hit or miss, touch one cache line.
//!
//! | words | V4 and endpoints | V6 |
//! |---|---|---|
//! | 0 | head: sequence << 1 \| overflowed | the same |
//! | 1.. | 7 × (key, value) | 3 × (key ×4, value) |
//!
//! # Readers and one writer
//!
//! Readers never wait, and a writer may be preempted anywhere: every
//! intermediate state gives correct answers. The writer
//!
//! 1. frees an entry by storing value 0, *then* moves the sequence;
//! 2. fills a free entry by storing the key, *then* the value;
//! 3. changes a value by one store;
//! 4. moves an entry by filling the copy, moving the copy's sequence, then
//!    freeing the original.
//!
//! A reader loads the head, for each entry the value before the key, what the
//! value leads to, and the head again. An unchanged sequence proves that no entry
//! was freed and filled anew in between (a hit is then a true pair) and that none
//! moved here from the other candidate (a miss is then a true miss). A changed one
//! means: again.

mod addresses;
#[cfg(not(target_arch = "bpf"))]
mod writer;

#[cfg(not(target_arch = "bpf"))]
pub use addresses::AddressWriter;
pub use addresses::{AddressBlock, NEIGHBOURS, find_address};
#[cfg(not(target_arch = "bpf"))]
pub use writer::{Full, Writer};

use crate::{
    hash::{Keys, two_choices},
    memory::{BucketSet, Memory},
    shared::SharedWord,
};

/// Words of a bucket: one 64-byte cache line.
pub const BUCKET_WORDS: usize = 16;

/// Times a reader tries again when a writer reused an entry under it. Each needs
/// a whole removal within some 20 ns.
const TRIES: u32 = 3;

/// The head's bit that says: look into the second candidate too.
const OVERFLOWED: u32 = 1;

/// One bucket; see the module.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bucket {
    /// Head and entries.
    pub words: [SharedWord; BUCKET_WORDS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Outcome of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The key's value, never 0.
    Value(u32),
    /// The key is not there.
    Absent,
    /// Writers reused entries at every try, or the bucket does not exist.
    Unknown,
}

/// Entries of a bucket with keys of `K` words.
#[inline(always)]
const fn entries<const K: usize>() -> usize {
    (BUCKET_WORDS - 1) / (K + 1)
}

/// Returns the place where entry `index` starts.
#[inline(always)]
const fn entry<const K: usize>(index: usize) -> usize {
    1 + index * (K + 1)
}

/// The two candidate buckets of a key.
#[inline(always)]
fn candidates<const K: usize>(keys: &Keys, mask: u32, key: &[u32; K]) -> [u32; 2] {
    let [first, second] = match K {
        1 => two_choices(keys, &[key[0], 0]),
        _ => {
            let mut words = [0; 4];
            let mut i = 0;
            while i < 4 && i < K {
                words[i] = key[i];
                i += 1;
            }
            two_choices(keys, &words)
        }
    };
    let first = first & mask;
    let second = second & mask;
    // Two equal candidates would halve the room; the neighbour is as good.
    [
        first,
        if first == second {
            (second ^ 1) & mask
        } else {
            second
        },
    ]
}

/// The value of a key.
#[inline(always)]
pub fn find<M: Memory, const K: usize>(memory: &M, set: BucketSet, key: &[u32; K]) -> Found {
    find_through(memory, set, key, Some)
}

/// The value of an interface index in its first bucket, 0 if there is none. Only for who can
/// tell by what the value leads to that it is the right one: a writer may be at work.
#[inline(always)]
pub(crate) fn guess_endpoint<M: Memory>(memory: &M, ifindex: u32) -> u32 {
    let settings = memory.settings_at_hand();
    let mask = settings.bucket_masks[BucketSet::Endpoint as usize];
    let [first, _] = candidates(&settings.keys, mask, &[ifindex]);
    memory
        .bucket(BucketSet::Endpoint, first)
        .map_or(0, |bucket| scan(memory, bucket, &[ifindex]))
}

/// Finds the thing to which the value of a key leads, by `resolve`, under the same sequence; 0
/// is absent. [`Found::Unknown`] when `resolve` fails.
#[inline(always)]
fn find_through<M: Memory, const K: usize>(
    memory: &M,
    set: BucketSet,
    key: &[u32; K],
    resolve: impl Fn(u32) -> Option<u32>,
) -> Found {
    let settings = memory.settings();
    let mask = settings.bucket_masks[set as usize];
    let [first, second] = candidates(&settings.keys, mask, key);
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        let Some(bucket) = memory.bucket(set, first) else {
            return Found::Unknown;
        };
        let head = bucket.words[0].load();
        memory.order_loads();
        let mut value = scan(memory, bucket, key);
        let (mut last, mut last_head) = (bucket, head);
        if value == 0 && head & OVERFLOWED != 0 {
            let Some(other) = memory.bucket(set, second) else {
                return Found::Unknown;
            };
            (last, last_head) = (other, other.words[0].load());
            memory.order_loads();
            value = scan(memory, other, key);
        }
        if value != 0 {
            let Some(through) = resolve(value) else {
                return Found::Unknown;
            };
            value = through;
        }
        memory.order_loads();
        if last.words[0].load() == last_head && bucket.words[0].load() == head {
            return match value {
                0 => Found::Absent,
                value => Found::Value(value),
            };
        }
    }
    Found::Unknown
}

/// The value of the entry with this key, 0 if there is none. Later loads stay
/// later.
#[inline(always)]
fn scan<M: Memory, const K: usize>(memory: &M, bucket: &Bucket, key: &[u32; K]) -> u32 {
    let mut found = 0;
    let mut i = 0;
    while i < entries::<K>() {
        let at = entry::<K>(i);
        let value = bucket.words[at + K].load();
        memory.order_loads();
        let mut different = 0;
        let mut k = 0;
        while k < K {
            different |= bucket.words[at + k].load() ^ key[k];
            k += 1;
        }
        if different == 0 && value != 0 {
            found = value;
            break;
        }
        i += 1;
    }
    memory.order_loads();
    found
}
