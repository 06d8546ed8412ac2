//! Keyed hashes.
//!
//! Addresses and ports are chosen by whoever sends packets, so every table that
//! is indexed by them hashes under keys drawn at random when the maps are made.
//! NH (RFC 4418, 5.2.2) is universal: whatever two inputs an attacker chooses,
//! they collide under a random key with probability 2^-32. It costs one
//! multiplication for two words; SipHash took ten times as long here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words of the widest input, a flow key.
pub const MAX_WORDS: usize = 10;

/// The secret of all hashes, random, and as long-lived as the maps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Keys {
    /// Added to the input words.
    pub words: [u32; MAX_WORDS],
    /// Odd multipliers that spread the sum, one for each of two candidates.
    pub spread: [u64; 2],
    /// No part of any hash: says in a packet's control buffer that the program before on
    /// the same hook has judged it. Secret, so that no other program writes it by chance.
    pub mark: u32,
    /// Random, unused.
    pub _spare: u32,
}

/// Hashes an even number of words, at most [`MAX_WORDS`], to two numbers that
/// choose the two candidate places of an entry.
#[inline(always)]
pub fn two_choices<const N: usize>(keys: &Keys, words: &[u32; N]) -> [u32; 2] {
    const { assert!(N.is_multiple_of(2) && N <= MAX_WORDS) };
    let mut sum = 0u64;
    let mut i = 0;
    while i + 1 < N {
        sum = sum.wrapping_add(summand(keys, i, words[i], words[i + 1]));
        i += 2;
    }
    choices(keys, sum)
}

/// The part of words `i` and `i + 1` in the sum of [`choices`]. `i` is even.
#[inline(always)]
pub(crate) const fn summand(keys: &Keys, i: usize, a: u32, b: u32) -> u64 {
    let a = a.wrapping_add(keys.words[i]) as u64;
    let b = b.wrapping_add(keys.words[i + 1]) as u64;
    a.wrapping_mul(b)
}

/// The two numbers that a wrapping sum of [`summand`]s comes to.
#[inline(always)]
pub(crate) const fn choices(keys: &Keys, mut sum: u64) -> [u32; 2] {
    // NH's strength lies in all 64 bits; the multipliers carry them upwards.
    sum ^= sum >> 32;
    [
        (sum.wrapping_mul(keys.spread[0]) >> 32) as u32,
        (sum.wrapping_mul(keys.spread[1]) >> 32) as u32,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(seed: u32) -> Keys {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state ^ state >> 15
        };
        Keys {
            words: core::array::from_fn(|_| next()),
            spread: [
                u64::from(next()) << 32 | u64::from(next()) | 1,
                u64::from(next()) << 32 | u64::from(next()) | 1,
            ],
            ..Keys::default()
        }
    }

    /// Consecutive addresses, the usual case, must not crowd any place.
    #[test]
    fn consecutive_inputs_spread_evenly() {
        for seed in 1..5 {
            let keys = keys(seed);
            for choice in 0..2 {
                let mut load = [0u32; 256];
                for address in 0..256 * 64u32 {
                    let hash = two_choices(&keys, &[0x0a00_0000 + address, 0])[choice];
                    load[(hash & 255) as usize] += 1;
                }
                let worst = load.iter().max().copied().unwrap_or(0);
                assert!(
                    worst < 64 * 3,
                    "seed {seed}, choice {choice}: {worst} of 64 expected"
                );
            }
        }
    }

    #[test]
    fn every_word_counts() {
        let keys = keys(9);
        let base = two_choices(&keys, &[7; MAX_WORDS]);
        for i in 0..MAX_WORDS {
            let mut words = [7; MAX_WORDS];
            words[i] ^= 1;
            assert_ne!(two_choices(&keys, &words), base, "word {i}");
        }
    }
}
