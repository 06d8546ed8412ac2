//! Growth of partitions, and what is given back.
//!
//! Partitions begin with one chunk. When half of its entries are in use, a partition gets more
//! chunks, the endpoint's record says so by one store, and after a grace period, when no
//! program looks by the smaller size alone, flows are moved to where they belong
//! ([`cofferdam_verdict::flow::grow`]). Each step leaves every flow where programs find it, and
//! none of them takes a lock that a program could meet.

use std::{
    io, iter,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use cofferdam_verdict::{
    endpoint::EndpointRecord,
    flow::{FlowState, Size, StateWord, WAYS, grow::Mover},
    hash::Keys,
};

use super::{Pool, partition::Partition};
use crate::array::MappedValues;

/// A partition grows to so many times its size, where there is room: it is then as far from its
/// next growth as a new one.
const GROWTH: u32 = 4;
/// Entries of a partition that are looked at to guess if it fills.
const SAMPLE: u32 = 16;
/// Of those, so many in use have all entries counted: three eighths.
const SUSPICIOUS: u32 = 6;
/// A partition of which nothing was in use is looked at every so many times: of hundreds of
/// endpoints most are idle.
const QUIET_PATIENCE: u32 = 2;
/// A partition that cannot grow is looked at every so many times.
const PATIENCE: u32 = 40;
/// Times that the flows of a partition are gone over before others have their turn.
const PASSES: u32 = 16;
/// Time for emptying places in which an agent before may have left a chunk: some kernels
/// (Linux 6.1) wait for a grace period at each, the others where there is one.
const EMPTYING: Duration = Duration::from_millis(1);

/// Lets partitions grow, shortens idle times as they fill, and gives back those of endpoints
/// that have gone, on whatever thread has the time. There is one.
#[derive(Debug)]
pub struct FlowKeeper {
    pub(super) pool: Arc<Pool>,
    pub(super) records: MappedValues<EndpointRecord>,
    pub(super) keys: Keys,
    pub(super) looks: u32,
    pub(super) random: u32,
}

impl FlowKeeper {
    /// Looks after all partitions, once; to be called some times a second.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory for a partition that should grow, or does not give one
    /// back; the others were looked after.
    pub fn look(&mut self) -> io::Result<()> {
        self.looks = self.looks.wrapping_add(1);
        let mut result = self.pool.release_all();
        let emptied = self.pool.empty(EMPTYING);
        result = result.and(emptied);
        for partition in self.pool.in_use() {
            let tended = self.tend(&partition);
            result = result.and(tended);
        }
        result.and(self.pool.make_ready())
    }

    /// Lets all partitions grow to so many times their size, a power of two, or as far as they
    /// may.
    ///
    /// # Errors
    ///
    /// As for [`FlowKeeper::look`].
    pub fn grow_all(&mut self, times: u32) -> io::Result<()> {
        for partition in self.pool.in_use() {
            let sets = partition.size().sets().saturating_mul(times);
            self.grow(&partition, sets.min(self.pool.most_sets()))?;
        }
        Ok(())
    }

    fn tend(&mut self, partition: &Partition) -> io::Result<()> {
        let size = partition.size();
        if size.growth() != 0 {
            let _working = partition.work();
            return self.settle(partition);
        }
        let most = self.pool.most_sets();
        let may_grow = size.sets() < most;
        let patience = match (may_grow, partition.quiet.load(Ordering::Relaxed)) {
            (true, false) => 1,
            (true, true) => QUIET_PATIENCE,
            (false, _) => PATIENCE,
        };
        let is_due = self.looks.is_multiple_of(patience);
        if !is_due || !self.seems_to_fill(partition, size) && size.shortening() == 0 {
            return Ok(());
        }
        let count = partition.count(partition.incarnation.load(Ordering::SeqCst));
        if may_grow {
            if count.used >= size.sets() * WAYS as u32 / 2 {
                self.grow(partition, most.min(size.sets() * GROWTH))?;
            }
            return Ok(());
        }
        // A flood of SYNs takes nobody else's time.
        let standing = count.used - count.half_open;
        partition.resize(self.records.values(), |size| {
            size.filled(standing, most * WAYS as u32)
        });
        Ok(())
    }

    /// Looks at a few entries of a partition.
    fn seems_to_fill(&mut self, partition: &Partition, size: Size) -> bool {
        let random = &mut self.random;
        let numbers = iter::repeat_with(|| {
            *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *random >> 8
        });
        let words = numbers.take(SAMPLE as usize).filter_map(|number| {
            let set = partition.set(number & size.mask())?;
            let way = (number >> 21) as usize % WAYS;
            Some(StateWord(set.ways[way].state.load()))
        });
        let used = words.filter(|word| word.state() != FlowState::Free).count();
        partition.quiet.store(used == 0, Ordering::Relaxed);
        used >= SUSPICIOUS as usize
    }

    /// Lets a partition grow to so many sets.
    fn grow(&self, partition: &Partition, sets: u32) -> io::Result<()> {
        let _working = partition.work();
        if partition.size().growth() != 0 {
            self.settle(partition)?;
        }
        let size = partition.size();
        if size.growth() != 0 || size.sets() >= sets {
            return Ok(());
        }
        self.pool.add_chunks(partition, sets)?;
        partition.resize(self.records.values(), |size| size.grown(sets));
        self.settle(partition)
    }

    /// Moves the flows of a partition that has grown, as far as they can be moved just now.
    fn settle(&self, partition: &Partition) -> io::Result<()> {
        // Programs that have begun before look by the smaller size alone.
        self.pool.wait(partition)?;
        let mover = Mover {
            keys: &self.keys,
            size: partition.size(),
            set: |number| partition.set(number),
        };
        for _ in 0..PASSES {
            if mover.run() == 0 {
                partition.resize(self.records.values(), Size::settled);
                return Ok(());
            }
            thread::yield_now();
        }
        Ok(())
    }
}
