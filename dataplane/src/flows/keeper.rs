//! Growth of partitions, and what is given back.
//!
//! Partitions begin with one chunk. When half of its entries are in use, a partition gets more
//! chunks, the endpoint's record says so by one store, and after a grace period, when no
//! program looks by the smaller size alone, flows are moved to where they belong
//! ([`cofferdam_verdict::flow::grow`]). Each step leaves every flow where programs find it, and
//! none of them takes a lock that a program could meet.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use cofferdam_verdict::{
    endpoint::EndpointRecord,
    flow::{FlowEntry, FlowState, Size, StateWord, WAYS, grow::Mover},
    hash::Keys,
};

use super::{Begun, FEW, Pool, READY, partition::Partition};
use crate::array::MappedValues;

/// A partition grows to so many times its size, where there is room: it is then as far from its
/// next growth as a new one.
const GROWTH: u32 = 4;
/// Entries of a partition that are looked at to guess if it fills.
const SAMPLE: u32 = 16;
/// Of those, so many in use have all entries counted: three eighths.
const SUSPICIOUS: u32 = 6;
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
    /// Number of partitions that were ready at the last look.
    pub(super) ready: usize,
    /// `None` where flows begin that are not counted.
    pub(super) begun: Option<Begun>,
}

impl FlowKeeper {
    /// Looks after all partitions, once; to be called some times a second.
    ///
    /// # Errors
    ///
    /// Fails if the kernel has no memory for a partition that should grow, or does not give one
    /// back; the others were looked after.
    pub fn look(&mut self) -> io::Result<()> {
        self.looks = self.looks.wrapping_add(1);
        let prepared = self.prepare();
        let mut result = prepared.and(self.pool.release_all());
        let emptied = self.pool.empty(EMPTYING);
        result = result.and(emptied);
        let begun = self.begun.as_ref().map(Begun::count).transpose();
        // Uncounted flows may begin anywhere.
        let begun = begun.unwrap_or_else(|error| {
            result = Err(error);
            None
        });
        for partition in self.pool.in_use() {
            let tended = self.tend(&partition, begun);
            result = result.and(tended);
        }
        // While endpoints come, each grace period is for several.
        let ready = self.pool.numbers().ready.len();
        let are_coming = std::mem::replace(&mut self.ready, ready) != ready;
        let least = if are_coming { FEW } else { READY };
        result.and(self.pool.make_ready(least).map(drop))
    }

    /// Makes partitions for the next endpoints if few are ready; for as soon as
    /// [`Kernel::are_few_flow_tables_ready`](crate::Kernel::are_few_flow_tables_ready) says so.
    ///
    /// # Errors
    ///
    /// Fails if the kernel has no memory for them.
    pub fn prepare(&mut self) -> io::Result<()> {
        self.pool.make_ready(FEW).map(drop)
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

    fn tend(&mut self, partition: &Partition, begun: Option<u64>) -> io::Result<()> {
        let size = partition.size();
        if size.growth() != 0 {
            let _working = partition.work();
            return self.settle(partition);
        }
        let most = self.pool.most_sets();
        let may_grow = size.sets() < most;
        let room = size.sets() * WAYS as u32 / 2;
        let since = partition.since.load(Ordering::SeqCst);
        if may_grow && begun.is_some_and(|begun| begun.wrapping_sub(since) < room.into()) {
            // No flow has begun that could fill it: there is nothing to look for.
            return Ok(());
        }
        let patience = if may_grow { 1 } else { PATIENCE };
        let is_due = self.looks.is_multiple_of(patience);
        if !is_due || !self.seems_to_fill(partition, size) && size.shortening() == 0 {
            return Ok(());
        }
        let count = partition.count(partition.incarnation.load(Ordering::SeqCst));
        if may_grow {
            if count.used >= room {
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

    /// Looks at a few entries of a partition: where none were in use at the last look, at those
    /// of one set first. Of hundreds of endpoints most are idle, and each further place costs a
    /// miss of caches; of a partition three eighths full one set in six at most has no entry
    /// in use.
    fn seems_to_fill(&mut self, partition: &Partition, size: Size) -> bool {
        if partition.quiet.load(Ordering::Relaxed) {
            let set = partition.set(self.random() & size.mask());
            let mut ways = set.into_iter().flat_map(|set| &set.ways);
            if !ways.any(is_used) {
                return false;
            }
        }
        let used = (0..SAMPLE)
            .filter(|_| {
                let number = self.random();
                let set = partition.set(number & size.mask());
                let way = (number >> 21) as usize % WAYS;
                set.is_some_and(|set| is_used(&set.ways[way]))
            })
            .count();
        partition.quiet.store(used == 0, Ordering::Relaxed);
        used >= SUSPICIOUS as usize
    }

    fn random(&mut self) -> u32 {
        self.random = (self.random)
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random >> 8
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

fn is_used(entry: &FlowEntry) -> bool {
    StateWord(entry.state.load()).state() != FlowState::Free
}
