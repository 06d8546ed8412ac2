//! The partitions of the flow table, one for each endpoint.
//!
//! A partition is made of chunks, arrays of one size: it begins with one, and a [`FlowKeeper`]
//! lets it grow. The places of its chunks lie side by side in an array of maps, so that programs
//! find a set by its number. When its endpoint has gone it is given back.

mod begun;
mod keeper;
mod partition;
mod sweep;

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cofferdam_verdict::{
    capacity::Limits,
    endpoint::EndpointRecord,
    event::EndRecord,
    flow::{FlowState, IDLE_TIMES, Size, StateWord, TOLD_ELSEWHERE, WAYS},
    hash::Keys,
};

pub(crate) use begun::Begun;
pub use keeper::FlowKeeper;
pub use sweep::{Sweep, Swept};

use crate::{
    array::{MappedArray, MappedValues},
    sys,
};
use partition::{Chunk, Partition};
use sweep::Rule;

/// Number of revisions by which a table may fall behind before the sweep sets entries of it to
/// one that is neither current nor will be soon: half of the range of the word. No table is
/// published that is so far ahead of the last sweep.
pub(crate) const STALE_REVISIONS: u32 = 1 << 11;

/// An endpoint is refused whose incarnation is so far ahead of the last one that its
/// partition was swept under: half of what the word holds.
const STALE_INCARNATIONS: u32 = 1 << 9;

/// Partitions that are made ready for the next endpoints: as many as a runtime starts
/// containers at a time. Making some costs a grace period, some 12 ms, for which an endpoint
/// would wait that finds none.
const READY: usize = 16;
/// With fewer than so many ready, others are made before the next look at all partitions.
const FEW: usize = READY / 2 + 1;

/// Fill level of an endpoint's partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUse {
    /// Entries that are not free. Idle ones count until they are swept.
    pub used: u32,
    /// Entries there are.
    pub capacity: u32,
    /// Entries there may be, as long as somebody lets the partition grow.
    pub most: u32,
}

/// A record that leads to a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Led {
    /// The record's number.
    pub(crate) record: u32,
    /// The partition's number.
    pub(crate) partition: u32,
    /// The partition's size.
    pub(crate) size: Size,
}

/// All partitions, for those who take and give them back and for the one who keeps them.
#[derive(Debug)]
struct Pool {
    outer: OwnedFd,
    chunk_sets: u32,
    chunk_bits: u32,
    /// Bytes of a chunk as the kernel accounts for them, once one was made.
    chunk_bytes: OnceLock<u64>,
    numbers: Mutex<Numbers>,
    ends: Ends,
    /// Told whenever a thread has made partitions ready or given one back.
    done: Condvar,
}

/// Listener to flows that have ended.
pub type EndListener = Box<dyn Fn(&EndRecord) + Send + Sync>;

/// Receiver of ends of flows that user space finds.
#[derive(Clone, Default)]
pub(crate) struct Ends(Arc<OnceLock<EndListener>>);

impl Ends {
    /// Tells of a flow that has ended, if it is the hook's to tell of.
    fn tell(&self, record: &EndRecord) {
        if record.packets[0] & TOLD_ELSEWHERE == 0
            && let Some(listener) = self.0.get()
        {
            listener(record);
        }
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").finish_non_exhaustive()
    }
}

/// The numbers of partitions, each in one of the first four places.
#[derive(Debug, Default)]
struct Numbers {
    /// Those of endpoints.
    used: BTreeMap<u32, Arc<Partition>>,
    /// Those that are ready for the next ones.
    ready: Vec<Arc<Partition>>,
    /// Those whose endpoints have gone.
    leaving: Vec<Arc<Partition>>,
    /// Those that have no chunk, but for what is listed below.
    free: Vec<u32>,
    /// Number of those that some thread makes ready just now.
    making: usize,
    /// Number of those that some thread gives back just now.
    releasing: usize,
    /// Those of them that may have chunks of an agent before.
    doubtful: Vec<u32>,
    /// Number of chunks that were taken out of the last of those.
    emptied: u32,
}

impl Numbers {
    /// Gives a partition that is ready to an endpoint.
    fn take_ready(&mut self) -> Option<u32> {
        let partition = self.ready.pop()?;
        let number = partition.number;
        self.used.insert(number, partition);
        Some(number)
    }

    /// Returns `true` if a partition will be ready, or a number free, without anybody else's
    /// doing.
    fn are_coming(&self) -> bool {
        self.making > 0 || self.releasing > 0 && self.free.is_empty()
    }
}

impl Pool {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn most_chunks(&self) -> u32 {
        1 << self.chunk_bits
    }

    /// Sets that a partition may grow to.
    fn most_sets(&self) -> u32 {
        self.chunk_sets << self.chunk_bits
    }

    /// Place of a partition's chunk in the array of maps.
    fn place(&self, number: u32, chunk: u32) -> u32 {
        (number << self.chunk_bits) + chunk
    }

    /// The places of the chunks of a partition of this size.
    fn places(&self, led: &Led) -> impl Iterator<Item = u32> + use<> {
        let first = self.place(led.partition, 0);
        first..first + (led.size.sets() / self.chunk_sets).clamp(1, self.most_chunks())
    }

    fn over(&self, map: OwnedFd) -> io::Result<Chunk> {
        let bytes = sys::memory_of(map.as_fd())?;
        let sets = MappedArray::over(map)?;
        Ok(Chunk { sets, bytes })
    }

    fn new_chunk(&self) -> io::Result<Chunk> {
        let sets = MappedArray::new("flows", self.chunk_sets)?;
        // All are of one size: eight calls less for each but the first.
        let bytes = match self.chunk_bytes.get() {
            Some(bytes) => *bytes,
            None => {
                let bytes = sys::memory_of(sets.map())?;
                *self.chunk_bytes.get_or_init(|| bytes)
            }
        };
        Ok(Chunk { sets, bytes })
    }

    /// Makes a chunk in its place, which costs a grace period.
    fn make_chunk(&self, place: u32) -> io::Result<Chunk> {
        let chunk = self.new_chunk()?;
        sys::set_inner(self.outer.as_fd(), place, chunk.sets.map())?;
        Ok(chunk)
    }

    /// Makes chunks in their places, which costs a grace period: one for all of them where the
    /// kernel can (Linux 6.8).
    fn make_chunks(&self, places: impl Iterator<Item = u32>) -> io::Result<Vec<Chunk>> {
        let made = places
            .map(|place| Ok((place, self.new_chunk()?)))
            .collect::<io::Result<Vec<(u32, Chunk)>>>()?;
        let inners: Vec<_> = (made.iter())
            .map(|(place, chunk)| (*place, chunk.sets.map()))
            .collect();
        sys::set_inners(self.outer.as_fd(), &inners)?;
        Ok(made.into_iter().map(|(_, chunk)| chunk).collect())
    }

    /// Makes partitions of one chunk each.
    fn make(&self, numbers: &[u32]) -> io::Result<Vec<Arc<Partition>>> {
        let places = numbers.iter().map(|&number| self.place(number, 0));
        let first = self.make_chunks(places)?.into_iter();
        let most = self.most_chunks() as usize;
        let made = numbers.iter().zip(first);
        Ok(made
            .map(|(&number, first)| Arc::new(Partition::over(number, first, most)))
            .collect())
    }

    /// Gives a partition chunks for so many sets. Programs do not look at them yet.
    fn add_chunks(&self, partition: &Partition, sets: u32) -> io::Result<()> {
        let chunks = partition.chunks()..sets / self.chunk_sets;
        if chunks.is_empty() {
            return Ok(());
        }
        let places = chunks.map(|chunk| self.place(partition.number, chunk));
        for chunk in self.make_chunks(places)? {
            partition.add(chunk);
        }
        Ok(())
    }

    /// Waits for a grace period: programs that have begun before have ended.
    fn wait(&self, partition: &Partition) -> io::Result<()> {
        let place = self.place(partition.number, 0);
        sys::set_inner(self.outer.as_fd(), place, partition.first())
    }

    fn in_use(&self) -> Vec<Arc<Partition>> {
        self.numbers().used.values().cloned().collect()
    }

    /// Makes partitions for the next endpoints, if fewer than so many are ready. Returns
    /// `true` if it made any.
    fn make_ready(&self, least: usize) -> io::Result<bool> {
        let made_of: Vec<u32> = {
            let mut numbers = self.numbers();
            let coming = numbers.ready.len() + numbers.making;
            let missing = match coming < least {
                true => READY.saturating_sub(coming),
                false => 0,
            };
            let rest = numbers.free.len().saturating_sub(missing);
            numbers.making += numbers.free.len() - rest;
            numbers.free.drain(rest..).rev().collect()
        };
        if made_of.is_empty() {
            return Ok(false);
        }
        let made = self.make(&made_of);
        let mut numbers = self.numbers();
        numbers.making -= made_of.len();
        self.done.notify_all();
        match made {
            // The next one is taken from the end.
            Ok(partitions) => _ = numbers.ready.splice(..0, partitions.into_iter().rev()),
            Err(error) => {
                numbers.free.extend(made_of.into_iter().rev());
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Gives the memory of a partition back, whose flows end with their endpoint.
    fn release(&self, partition: Arc<Partition>) -> io::Result<()> {
        let number = partition.number;
        let chunks = {
            let _working = partition.work();
            partition.chunks()
        };
        let incarnation = partition.last_incarnation.swap(0, Ordering::SeqCst);
        let endpoint = (partition.ifindex.load(Ordering::SeqCst), incarnation);
        for entry in partition.entries() {
            let last = entry.last_seen.load();
            let record = EndRecord::new(entry, endpoint, last.into());
            let word = StateWord(record.state);
            if word.state() != FlowState::Free && word.is_of(incarnation) {
                self.ends.tell(&record);
            }
        }
        let mut places = (0..chunks).map(|chunk| self.place(number, chunk));
        let removed = places.try_for_each(|place| sys::remove_inner(self.outer.as_fd(), place));
        let mut numbers = self.numbers();
        numbers.releasing -= 1;
        self.done.notify_all();
        if removed.is_err() {
            numbers.leaving.push(partition);
        } else {
            numbers.free.push(number);
        }
        removed
    }

    fn release_one(&self) -> io::Result<bool> {
        let leaving = {
            let mut numbers = self.numbers();
            let leaving = numbers.leaving.pop();
            numbers.releasing += usize::from(leaving.is_some());
            leaving
        };
        leaving.map_or(Ok(false), |partition| {
            self.release(partition).map(|()| true)
        })
    }

    /// Gives back all partitions whose endpoints have gone; the next endpoints come first.
    fn release_all(&self) -> io::Result<()> {
        while self.release_one()? {
            self.make_ready(FEW)?;
        }
        Ok(())
    }

    /// Returns `true` if a partition is ready, or will be without anybody else's doing.
    fn may_have_some(&self) -> bool {
        let numbers = self.numbers();
        !numbers.ready.is_empty() || numbers.are_coming()
    }

    /// Gives a partition that is ready to an endpoint. Waits for those that some thread makes
    /// just now, or gives back if all others are in use.
    fn take_ready(&self) -> Option<u32> {
        let mut numbers = self.numbers();
        loop {
            let taken = numbers.take_ready();
            if taken.is_some() || !numbers.are_coming() {
                return taken;
            }
            numbers = (self.done.wait(numbers)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes out chunks that an agent before may have left, for about so long:
    /// nobody takes or gives a partition back meanwhile.
    fn empty(&self, time: Duration) -> io::Result<()> {
        let began = Instant::now();
        let mut numbers = self.numbers();
        while began.elapsed() < time
            && let Some(&number) = numbers.doubtful.last()
        {
            if numbers.emptied < self.most_chunks() && numbers.free.contains(&number) {
                let place = self.place(number, numbers.emptied);
                numbers.emptied += 1;
                sys::remove_inner(self.outer.as_fd(), place)?;
            } else {
                numbers.doubtful.pop();
                numbers.emptied = 0;
            }
        }
        Ok(())
    }
}

/// All partitions, and who has them.
#[derive(Debug)]
pub(crate) struct Flows {
    pool: Arc<Pool>,
    /// Revision of the last table that flows may be decided under, low word.
    revision: Arc<AtomicU32>,
}

impl Flows {
    /// The partitions of a table in which none is in use.
    pub(crate) fn over(outer: OwnedFd, limits: &Limits) -> Self {
        let numbers = Numbers {
            free: (0..limits.flow_partitions()).rev().collect(),
            ..Numbers::default()
        };
        Self {
            pool: Arc::new(Pool {
                outer,
                chunk_sets: limits.chunk_sets(),
                chunk_bits: limits.chunk_bits(),
                chunk_bytes: OnceLock::new(),
                numbers: Mutex::new(numbers),
                ends: Ends::default(),
                done: Condvar::new(),
            }),
            revision: Arc::default(),
        }
    }

    /// Opens the partitions that are in use; no program uses another.
    ///
    /// Those alone: some kernels (Linux 6.1) wait for a grace period before they say
    /// what an array of maps has at an index. Whatever else the agent before left in
    /// the array is taken out by and by.
    pub(crate) fn resume(&mut self, used: &[Led]) -> io::Result<()> {
        let pool = &self.pool;
        for led in used {
            let mut chunks = pool.places(led).map(|place| {
                let made = sys::inner(pool.outer.as_fd(), place)?;
                made.map_or_else(|| pool.make_chunk(place), |map| pool.over(map))
            });
            let Some(first) = chunks.next() else {
                continue;
            };
            let most = pool.most_chunks() as usize;
            let partition = Partition::over(led.partition, first?, most);
            for chunk in chunks {
                partition.add(chunk?);
            }
            partition.resize(&[], |_| led.size);
            partition.lead(led.record, |_| ());
            pool.numbers()
                .used
                .insert(led.partition, Arc::new(partition));
        }
        let mut numbers = pool.numbers();
        let Numbers {
            used,
            free,
            doubtful,
            ..
        } = &mut *numbers;
        free.retain(|number| !used.contains_key(number));
        doubtful.clone_from(free);
        Ok(())
    }

    /// A partition without flows, by its number; none when all are in use.
    pub(crate) fn take(&mut self) -> io::Result<Option<u32>> {
        loop {
            let taken = self.pool.take_ready();
            if taken.is_some() {
                return Ok(taken);
            }
            let has_some = self.pool.make_ready(1)? || self.pool.release_one()?;
            if !has_some && !self.pool.may_have_some() {
                return Ok(None);
            }
        }
    }

    fn partition(&self, number: u32) -> Option<Arc<Partition>> {
        self.pool.numbers().used.get(&number).cloned()
    }

    /// Gives a partition to an endpoint of this incarnation, which has had it before or
    /// finds it empty; to be called before programs can make a flow of it. Returns
    /// `false` if the partition was not swept for so many incarnations that entries in it
    /// could be taken for this one's.
    pub(crate) fn assign(&self, number: u32, ifindex: u32, incarnation: u32) -> bool {
        let Some(partition) = self.partition(number) else {
            return true;
        };
        if partition.incarnation.load(Ordering::SeqCst) == 0 {
            partition.oldest.store(incarnation, Ordering::SeqCst);
            partition.left.store(0, Ordering::SeqCst);
        }
        let oldest = partition.oldest.load(Ordering::SeqCst);
        if incarnation.saturating_sub(oldest) >= STALE_INCARNATIONS {
            return false;
        }
        partition.ifindex.store(ifindex, Ordering::SeqCst);
        (partition.last_incarnation).store(incarnation, Ordering::SeqCst);
        partition.incarnation.store(incarnation, Ordering::SeqCst);
        true
    }

    /// Has the record of this number written, which leads to a partition of the size that
    /// is given. It is told when that changes.
    pub(crate) fn lead(&self, number: u32, record: u32, write: impl FnOnce(Size)) {
        if let Some(partition) = self.partition(number) {
            partition.lead(record, write);
        }
    }

    /// Says that programs come to the last record of a partition alone.
    pub(crate) fn lead_alone(&self, number: u32) {
        if let Some(partition) = self.partition(number) {
            partition.lead_alone();
        }
    }

    /// Tells a listener from now on of flows that end in user space; there is one.
    pub(crate) fn tell_ends(&self, listener: EndListener) {
        _ = self.pool.ends.0.set(listener);
    }

    /// Notes the revision of the next table, before flows can be decided under it.
    pub(crate) fn note_revision(&self, revision: u64) {
        self.revision.store(revision as u32, Ordering::SeqCst);
    }

    /// Fill of a partition after the last sweep.
    pub(crate) fn fill_after_sweep(&self, number: u32) -> FlowUse {
        let partition = self.partition(number);
        self.fill(partition.as_deref(), |one| one.left.load(Ordering::SeqCst))
    }

    /// Fill of a partition, for an endpoint of this incarnation.
    pub(crate) fn used(&self, number: u32, incarnation: u32) -> FlowUse {
        let partition = self.partition(number);
        self.fill(partition.as_deref(), |one| one.count(incarnation).used)
    }

    fn fill(&self, partition: Option<&Partition>, used: impl FnOnce(&Partition) -> u32) -> FlowUse {
        FlowUse {
            used: partition.map_or(0, used),
            capacity: partition.map_or(0, |one| one.size().sets() * WAYS as u32),
            most: self.pool.most_sets() * WAYS as u32,
        }
    }

    /// Bytes that the chunks take, as the kernel accounts for them.
    pub(crate) fn bytes(&self) -> u64 {
        let numbers = self.pool.numbers();
        let others = numbers.ready.iter().chain(&numbers.leaving);
        let all = numbers.used.values().chain(others);
        all.map(|partition| partition.bytes()).sum()
    }

    /// A sweep of all partitions that are an endpoint's; so many flows have begun on the node.
    pub(crate) fn sweep(
        &self,
        idle: [u32; IDLE_TIMES],
        now: u32,
        revision: u64,
        begun: u64,
    ) -> Sweep {
        Sweep {
            partitions: self.pool.in_use(),
            ends: self.pool.ends.clone(),
            by: Rule {
                idle,
                now,
                revision: self.revision.clone(),
            },
            began: revision,
            begun,
        }
    }

    /// The one who lets partitions grow and gives them back, with the memory of the records,
    /// and the number of flows that have begun, where all that begin are counted.
    pub(crate) fn keeper(
        &self,
        records: MappedValues<EndpointRecord>,
        keys: Keys,
        begun: Option<Begun>,
    ) -> FlowKeeper {
        FlowKeeper {
            pool: self.pool.clone(),
            records,
            keys,
            looks: 0,
            random: keys.mark,
            ready: 0,
            begun,
        }
    }

    /// Returns `true` if few partitions are ready for the next endpoints, and more can be made.
    pub(crate) fn are_few_ready(&self) -> bool {
        let numbers = self.pool.numbers();
        numbers.ready.len() + numbers.making < FEW && !numbers.free.is_empty()
    }

    /// Gives a partition back whose endpoint is out of force.
    pub(crate) fn retire(&mut self, number: u32) {
        let mut numbers = self.pool.numbers();
        if let Some(partition) = numbers.used.remove(&number) {
            partition.forsake();
            numbers.leaving.push(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.1 waits for a grace period at each question, and there may be hundreds of
    /// partitions beside those of the few endpoints.
    #[test]
    fn an_adopting_agent_asks_for_the_chunks_in_use_alone() {
        let outer = std::fs::File::open("/dev/null").unwrap();
        let flows = Flows::over(outer.into(), &Limits::DEFAULT);
        let places = |partition, sets| {
            let led = Led {
                record: 0,
                partition,
                size: Size::of(sets),
            };
            flows.pool.places(&led).collect::<Vec<_>>()
        };
        assert_eq!(places(2, 512), [16]);
        assert_eq!(places(7, 2048), [56, 57, 58, 59]);
        assert_eq!(places(1, 1 << 20).len(), 8, "and none of another's");
    }
}
