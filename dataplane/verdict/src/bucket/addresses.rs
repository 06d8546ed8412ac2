//! From addresses to slots: buckets whose keys are *neighbourhoods*, eight
//! addresses that differ in their last three bits.
//!
//! Workloads on one node have addresses side by side, so that most neighbourhoods
//! have several. Eight slots then share one entry of the buckets, and what a
//! lookup among 100 000 addresses reads fits the second-level cache of a core.
//!
//! | the value of an entry | means |
//! |---|---|
//! | bit 31 clear | number of the [`AddressBlock`] that has the slots of all eight |
//! | bit 31 set | only one of the eight has a slot: its last bits in 28 to 30, the slot below |
//!
//! A lone address is thus found in one cache line, as if it were the key itself,
//! and there are at most half as many blocks as addresses, however these lie.
//!
//! # Readers and one writer
//!
//! A reader looks into the block before it loads the bucket's head again (see
//! [`super`]): an unchanged sequence proves that the block was this
//! neighbourhood's all the time. The writer
//!
//! 1. writes a slot into a block, or takes it out, by one store;
//! 2. fills a block before an entry leads to it;
//! 3. moves the sequence after no entry leads to a block any more, and before it
//!    writes anything else into that.
//!
//! Block 0 is no neighbourhood's: its first word is the first of the blocks that
//! were given back, linked by their first words, and its second word the number of
//! blocks ever used.

use super::{Found, find_through};
#[cfg(not(target_arch = "bpf"))]
use super::{Full, Writer};
use crate::{
    address::{Address, Family},
    memory::{BucketSet, Memory},
    shared::SharedWord,
};

/// Addresses of a neighbourhood.
pub const NEIGHBOURS: usize = 8;
/// Low bits in which they differ.
const PLACE_BITS: u32 = NEIGHBOURS.ilog2();
/// The bits of a value that are the slot of a lone address.
const SLOT_BITS: u32 = 28;
/// Bit in which the value of a lone address differs from a block number.
const LONE: u32 = 1 << 31;

const _: () = assert!(LONE >> SLOT_BITS == NEIGHBOURS as u32);

/// The slots of a neighbourhood; 0 for an address that has none.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct AddressBlock {
    /// By the last bits of the address.
    pub slots: [SharedWord; NEIGHBOURS],
}

const _: () = assert!(size_of::<AddressBlock>() == 32);

/// The last bits of a word.
#[inline(always)]
const fn place_of(word: u32) -> u32 {
    word & (NEIGHBOURS as u32 - 1)
}

/// The slot of an address, if a workload or the node owns it.
#[inline(always)]
pub fn find_address<M: Memory>(memory: &M, address: &Address) -> Found {
    let [a, b, c, d] = address.words;
    match address.family {
        Family::V4 => find_through(memory, BucketSet::AddressV4, &[a >> PLACE_BITS], |value| {
            slot_at(memory, value, place_of(a))
        }),
        Family::V6 => find_through(
            memory,
            BucketSet::AddressV6,
            &[a, b, c, d >> PLACE_BITS],
            |value| slot_at(memory, value, place_of(d)),
        ),
    }
}

/// The slot that a neighbourhood's entry gives one of its places; 0 is none.
#[inline(always)]
fn slot_at<M: Memory>(memory: &M, value: u32, place: u32) -> Option<u32> {
    if value & LONE == 0 {
        let block = memory.address_block(value)?;
        return Some(block.slots[place_of(place) as usize].load());
    }
    if place_of(value >> SLOT_BITS) == place {
        Some(value & ((1 << SLOT_BITS) - 1))
    } else {
        Some(0)
    }
}

/// The places and slots of a neighbourhood, by its value.
#[cfg(not(target_arch = "bpf"))]
fn slots(blocks: &[AddressBlock], value: u32) -> impl Iterator<Item = (u32, u32)> {
    let lone = (value & LONE != 0)
        .then_some((place_of(value >> SLOT_BITS), value & ((1 << SLOT_BITS) - 1)));
    let block = match lone {
        Some(_) => None,
        None => blocks.get(value as usize),
    };
    let block = block
        .into_iter()
        .flat_map(|block| (0..).zip(&block.slots))
        .map(|(place, slot)| (place, slot.load()));
    lone.into_iter().chain(block).filter(|&(_, slot)| slot != 0)
}

/// The one writer of addresses.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug)]
pub struct AddressWriter<'a> {
    /// Of IPv4 neighbourhoods.
    pub v4: Writer<'a>,
    /// Of IPv6 neighbourhoods.
    pub v6: Writer<'a>,
    /// Of both families.
    pub blocks: &'a [AddressBlock],
}

#[cfg(not(target_arch = "bpf"))]
impl<'a> AddressWriter<'a> {
    /// Leads an address to a slot (not 0), in place of the one before.
    ///
    /// # Errors
    ///
    /// [`Full`] when there is no room, or the slot is not below 2^28. Nothing has
    /// changed then.
    pub fn set(&self, address: &Address, slot: u32) -> Result<(), Full> {
        if slot >> SLOT_BITS != 0 {
            return Err(Full);
        }
        let [a, b, c, d] = address.words;
        match address.family {
            Family::V4 => self.set_in(self.v4, &[a >> PLACE_BITS], place_of(a), slot),
            Family::V6 => self.set_in(self.v6, &[a, b, c, d >> PLACE_BITS], place_of(d), slot),
        }
    }

    /// Returns the slot of an address, 0 if it has none. The answer may be of the past at once
    /// where another writer is at work.
    pub fn get(&self, address: &Address) -> u32 {
        let [a, b, c, d] = address.words;
        let (value, place) = match address.family {
            Family::V4 => (self.v4.get(&[a >> PLACE_BITS]), place_of(a)),
            Family::V6 => (self.v6.get(&[a, b, c, d >> PLACE_BITS]), place_of(d)),
        };
        let mut found = slots(self.blocks, value.unwrap_or(0));
        found
            .find(|(of, _)| value.is_some() && *of == place)
            .map_or(0, |(_, slot)| slot)
    }

    /// Takes an address from its slot; `false` if it had none.
    pub fn remove(&self, address: &Address) -> bool {
        let [a, b, c, d] = address.words;
        match address.family {
            Family::V4 => self.remove_in(self.v4, &[a >> PLACE_BITS], place_of(a)),
            Family::V6 => self.remove_in(self.v6, &[a, b, c, d >> PLACE_BITS], place_of(d)),
        }
    }

    /// All addresses that have slots, with these.
    pub fn bound(&self) -> impl Iterator<Item = (Address, u32)> + use<'a> {
        let blocks = self.blocks;
        let v4 = self.v4.entries::<1>().flat_map(move |([a], value)| {
            slots(blocks, value).map(move |(place, slot)| {
                let words = [a << PLACE_BITS | place, 0, 0, 0];
                (Family::V4, words, slot)
            })
        });
        let v6 = self
            .v6
            .entries::<4>()
            .flat_map(move |([a, b, c, d], value)| {
                slots(blocks, value).map(move |(place, slot)| {
                    let words = [a, b, c, d << PLACE_BITS | place];
                    (Family::V6, words, slot)
                })
            });
        v4.chain(v6)
            .map(|(family, words, slot)| (Address { family, words }, slot))
    }

    /// Ends what a writer that died was in the middle of, and finds the blocks to
    /// which no entry leads. No reader may be left from that writer's time.
    ///
    /// `led_to` is false for every block, and says afterwards whether an entry leads
    /// to it.
    pub fn mend(&self, led_to: &mut [bool]) {
        self.mend_in::<1>(self.v4, led_to);
        self.mend_in::<4>(self.v6, led_to);
        let Some(free) = self.blocks.first() else {
            return;
        };
        let last = led_to.iter().rposition(|&led_to| led_to).unwrap_or(0);
        free.slots[0].store(0);
        free.slots[1].store(last as u32);
        for (number, led_to) in (0..).zip(led_to).take(last).skip(1) {
            if !*led_to {
                self.give_back(number);
            }
        }
    }

    fn mend_in<const K: usize>(&self, index: Writer<'_>, led_to: &mut [bool]) {
        index.mend::<K>();
        for (key, value) in index.entries::<K>() {
            if value & LONE == 0 {
                let kept = self.settle(index, &key, value);
                if let Some(led_to) = led_to.get_mut(value as usize) {
                    *led_to = kept;
                }
            }
        }
    }

    fn set_in<const K: usize>(
        &self,
        index: Writer<'_>,
        key: &[u32; K],
        place: u32,
        slot: u32,
    ) -> Result<(), Full> {
        // A change of the entry's value to a block's number is one store, and the
        // lone slot is in the block by then; nothing that readers reach is reused.
        let lone = LONE | place << SLOT_BITS | slot;
        let Some(value) = index.get(key) else {
            return index.set(key, lone);
        };
        if value & LONE == 0 {
            self.slot(value, place)?.store(slot);
            return Ok(());
        }
        let other = place_of(value >> SLOT_BITS);
        if other == place {
            return index.set(key, lone);
        }
        let number = self.take()?;
        self.slot(number, other)?
            .store(value & ((1 << SLOT_BITS) - 1));
        self.slot(number, place)?.store(slot);
        index.set(key, number)
    }

    fn remove_in<const K: usize>(&self, index: Writer<'_>, key: &[u32; K], place: u32) -> bool {
        let Some(value) = index.get(key) else {
            return false;
        };
        if value & LONE != 0 {
            return place_of(value >> SLOT_BITS) == place && index.remove(key);
        }
        let Some(block) = self.blocks.get(value as usize) else {
            return false;
        };
        let removed = block.slots[place as usize].swap(0) != 0;
        if !self.settle(index, key, value) {
            self.give_back(value);
        }
        removed
    }

    /// Leads a neighbourhood elsewhere that has less than two addresses left in its
    /// block, or has no block; `false` then: the block may be used anew.
    fn settle<const K: usize>(&self, index: Writer<'_>, key: &[u32; K], number: u32) -> bool {
        let mut left = slots(self.blocks, number);
        match (left.next(), left.next()) {
            (Some(_), Some(_)) => return true,
            (Some((place, slot)), None) => {
                index.replace(key, LONE | place << SLOT_BITS | slot);
            }
            (None, _) => {
                index.remove(key);
            }
        }
        false
    }

    fn slot(&self, number: u32, place: u32) -> Result<&SharedWord, Full> {
        let block = self.blocks.get(number as usize).ok_or(Full)?;
        Ok(&block.slots[place_of(place) as usize])
    }

    /// A block of zeroes to which no entry leads.
    fn take(&self) -> Result<u32, Full> {
        let [first, used, ..] = &self.blocks.first().ok_or(Full)?.slots;
        let number = match first.load() {
            0 => used.load() + 1,
            number => number,
        };
        let block = self.blocks.get(number as usize).ok_or(Full)?;
        if first.load() == 0 {
            used.store(number);
        } else {
            first.store(block.slots[0].load());
        }
        for slot in &block.slots {
            slot.store(0);
        }
        Ok(number)
    }

    /// Keeps a block for [`Self::take`].
    fn give_back(&self, number: u32) {
        if let (Some(free), Some(block)) = (self.blocks.first(), self.blocks.get(number as usize)) {
            block.slots[0].store(free.slots[0].load());
            free.slots[0].store(number);
        }
    }
}
