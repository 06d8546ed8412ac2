//! Shares of the ring buffer of records.
//!
//! The ring is bounded, and its reader may be behind. So that a flood of packets at one
//! endpoint's hook leaves room for what others report, each hook of each endpoint has a share
//! of it: what is within the share is reported as long as there is room at all. Beyond it,
//! records are sent only while the ring is less than half full. What is not sent is counted
//! ([`crate::counter::unreported`]).
//!
//! A share is whole again when the reader has read another half of the ring, and not when
//! time has passed: a flood would fill the ring in the end while nobody reads.
//!
//! A share is one word: the window (the number of halves that have been read), and the records
//! in it. Two processors that take of one share at the same moment may count one record: a
//! share bounds a flood, and measures nothing.

use crate::{counter::Hook, event::EventRecord, shared::SharedWord64};

/// Number in a case of what is no endpoint's.
pub const NOBODY: u32 = u32::MAX;

/// Number of shares in a ring. Half as many hooks may be flooded, while nobody reads, before
/// another one's records find no room.
const SHARES: u32 = 16;

/// Bytes that a record takes in the ring: the kernel puts eight before each.
pub const RECORD_BYTES: u32 = size_of::<EventRecord>() as u32 + 8;

/// Place of the word that is not 0 while user space wants to be told when flows begin and
/// end.
pub const WANTS_FLOWS: u32 = 0;

/// Number of words for so many records of endpoints, for [`NOBODY`], and before them for
/// [`WANTS_FLOWS`].
pub const fn words(records: u32) -> u32 {
    (records + 2) * Hook::ALL.len() as u32
}

/// Place of the share of an endpoint's hook among the words; [`NOBODY`]'s are the first.
#[inline(always)]
pub const fn place(endpoint: u32, hook: Hook) -> u32 {
    let first = endpoint.wrapping_add(2);
    first.wrapping_mul(Hook::ALL.len() as u32) | hook as u32
}

/// Records of one share in a ring with room for so many.
pub const fn of_ring(records: u32) -> u32 {
    let share = records / SHARES;
    if share == 0 { 1 } else { share }
}

/// Bytes of half a ring of which one share is so many records.
#[inline(always)]
const fn half_of_ring(share: u32) -> u64 {
    (share * (SHARES / 2) * RECORD_BYTES) as u64
}

/// Returns `true` if a ring in which so many bytes have not been read is full enough for
/// shares to count; `share` is the number of records of one.
#[inline(always)]
pub const fn is_crowded(unread_bytes: u64, share: u32) -> bool {
    unread_bytes >= half_of_ring(share)
}

/// Takes one record of a share, if there is one left. `share` is the number of records of
/// one, `read_bytes` the number of bytes that the reader of the ring has read so far.
#[inline(always)]
pub fn take(word: &SharedWord64, share: u32, read_bytes: u64) -> bool {
    let window = read_bytes.checked_div(half_of_ring(share)).unwrap_or(0) as u32;
    let before = word.load();
    let taken = if (before >> 32) as u32 == window {
        before as u32
    } else {
        0
    };
    if taken >= share {
        return false;
    }
    word.put((window as u64) << 32 | (taken + 1) as u64);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_share_is_whole_again_when_half_of_the_ring_has_been_read() {
        let word = SharedWord64::default();
        let half = half_of_ring(7);
        for window in [0u64, 1, 2, 3, 1 << 24, (1 << 32) + 1, u64::from(u32::MAX)] {
            let first = window * half;
            let last = first + half - 1;
            let took = |read: u64| (0..20).filter(|_| take(&word, 7, read)).count();
            assert_eq!([took(first), took(last)], [7, 0], "{window}");
        }
    }

    #[test]
    fn each_hook_of_each_endpoint_has_its_own_share() {
        let endpoints = (0..100).chain([NOBODY]);
        let places = endpoints.flat_map(|endpoint| Hook::ALL.map(|hook| place(endpoint, hook)));
        let places: BTreeSet<u32> = places.collect();
        assert_eq!(places, (4..words(100)).collect());
        assert!(!places.contains(&WANTS_FLOWS));
    }

    /// Half of the ring is left for hooks within their shares.
    #[test]
    fn a_ring_is_crowded_at_half() {
        for records in [39, 630, 10_082] {
            let share = of_ring(records);
            let half = u64::from(records / 2 * RECORD_BYTES);
            assert!(is_crowded(half + u64::from(RECORD_BYTES), share));
            assert!(!is_crowded(half * 3 / 4, share), "{records}");
        }
        assert_eq!(of_ring(3), 1);
    }
}
