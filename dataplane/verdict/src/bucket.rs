//! Cache-line buckets: exact lookup in memory that user space writes while the
//! kernel programs read.
//!
//! A bucket is 16 words, one cache line: a head, then as many entries as fit, of
//! a key (one word for IPv4 addresses and interface indexes, four for IPv6) and
//! a value. Value 0 is a free entry. A key lies in one of two candidate buckets,
//! the first unless that was full; the head's lowest bit says whether any key of
//! this bucket ever moved on to its second, so that nearly all lookups, hit or
//! miss, touch one cache line.
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
//! A reader loads the head, for each entry the value before the key, and the
//! head again. An unchanged sequence proves that no entry was freed and filled
//! anew in between (a hit is then a true pair) and that none moved here from the
//! other candidate (a miss is then a true miss). A changed one means: again.

#[cfg(not(target_arch = "bpf"))]
mod writer;

#[cfg(not(target_arch = "bpf"))]
pub use writer::{Full, Writer};

use crate::{
    address::{Address, Family},
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

/// What a lookup found.
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

/// Where entry `index` starts.
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

/// The slot of an address, if a workload or the node owns it.
#[inline(always)]
pub fn find_address<M: Memory>(memory: &M, address: &Address) -> Found {
    match address.family {
        Family::V4 => find::<_, 1>(memory, BucketSet::AddressV4, &[address.words[0]]),
        Family::V6 => find::<_, 4>(memory, BucketSet::AddressV6, &address.words),
    }
}

/// The value of a key.
#[inline(always)]
pub fn find<M: Memory, const K: usize>(memory: &M, set: BucketSet, key: &[u32; K]) -> Found {
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
        let hit = scan(memory, bucket, key);
        let mut settled = bucket.words[0].load() == head;
        if hit != 0 {
            if settled {
                return Found::Value(hit);
            }
            continue;
        }
        if head & OVERFLOWED == 0 {
            if settled {
                return Found::Absent;
            }
            continue;
        }
        let Some(other) = memory.bucket(set, second) else {
            return Found::Unknown;
        };
        let other_head = other.words[0].load();
        memory.order_loads();
        let hit = scan(memory, other, key);
        settled &= other.words[0].load() == other_head && bucket.words[0].load() == head;
        if settled {
            return if hit != 0 {
                Found::Value(hit)
            } else {
                Found::Absent
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
