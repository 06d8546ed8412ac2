//! One endpoint's partition of the flow table, in chunks.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use cofferdam_verdict::{
    endpoint::EndpointRecord,
    flow::{FlowEntry, FlowSet, FlowState, Size, StateWord},
    packet::protocol,
};

use crate::array::{MappedArray, MappedValues};

/// The flows of one endpoint.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) number: u32,
    /// Descriptor of the first chunk.
    first: OwnedFd,
    /// Those that there are, from the first on.
    chunks: Box<[OnceLock<MappedValues<FlowSet>>]>,
    /// Bytes of the chunks, as the kernel accounts for them.
    bytes: AtomicU64,
    /// That of the endpoint, before any of its flows; 0 if the partition is nobody's.
    pub(super) incarnation: AtomicU32,
    /// Interface of the endpoint, and its incarnation, whether or not it has gone.
    pub(super) ifindex: AtomicU32,
    pub(super) last_incarnation: AtomicU32,
    /// The oldest that an entry may be of.
    pub(super) oldest: AtomicU32,
    /// Number of entries that the last sweep left.
    pub(super) left: AtomicU32,
    /// Number of flows that had begun on the node before the last sweep, less those that it
    /// left here: no more are here than have begun since it was so many.
    pub(super) since: AtomicU64,
    /// `true` if no entry that was looked at last was in use.
    pub(super) quiet: AtomicBool,
    lead: Mutex<Lead>,
    /// Held while entries are swept or moved.
    work: Mutex<()>,
}

/// Value of [`Partition::since`] before the first sweep: as if any number had begun since.
const NEVER_SWEPT: u64 = 1 << 63;

/// A partition's size, and the records that tell programs.
#[derive(Debug)]
struct Lead {
    size: Size,
    /// The last one that was written, and the one before until programs come to that alone.
    records: [Option<u32>; 2],
}

/// A chunk, and the memory that it takes.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) sets: MappedArray<FlowSet>,
    pub(super) bytes: u64,
}

/// Number of entries of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// In use.
    pub(super) used: u32,
    /// Of those, TCP connections whose opener has not shown that it saw an answer.
    pub(super) half_open: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partition {
    /// A partition of one chunk, of so many at most.
    pub(super) fn over(number: u32, first: Chunk, most: usize) -> Self {
        let Chunk { sets, bytes } = first;
        let (first, sets) = sets.into_parts();
        let size = Size::of(u32::try_from(sets.values().len()).unwrap_or(1));
        let chunks: Box<[_]> = (0..most).map(|_| OnceLock::new()).collect();
        if let Some(place) = chunks.first() {
            _ = place.set(sets);
        }
        Self {
            number,
            first,
            chunks,
            bytes: AtomicU64::new(bytes),
            incarnation: AtomicU32::new(0),
            ifindex: AtomicU32::new(0),
            last_incarnation: AtomicU32::new(0),
            oldest: AtomicU32::new(0),
            left: AtomicU32::new(0),
            since: AtomicU64::new(NEVER_SWEPT),
            quiet: AtomicBool::new(false),
            lead: Mutex::new(Lead {
                size,
                records: [None; 2],
            }),
            work: Mutex::new(()),
        }
    }

    /// The map of the first chunk.
    pub(super) fn first(&self) -> BorrowedFd<'_> {
        self.first.as_fd()
    }

    /// Number of chunks.
    pub(super) fn chunks(&self) -> u32 {
        let made = self.chunks.iter().take_while(|chunk| chunk.get().is_some());
        u32::try_from(made.count()).unwrap_or(u32::MAX)
    }

    /// Adds the next chunk. The caller works on the partition alone.
    pub(super) fn add(&self, chunk: Chunk) {
        let next = self.chunks.get(self.chunks() as usize);
        if let Some(next) = next {
            _ = next.set(chunk.sets.into_parts().1);
            self.bytes.fetch_add(chunk.bytes, Ordering::SeqCst);
        }
    }

    /// Bytes of the chunks, as the kernel accounts for them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// A set by its number.
    pub(super) fn set(&self, number: u32) -> Option<&FlowSet> {
        let sets = self.chunks.first()?.get()?.values().len() as u32;
        let chunk = self.chunks.get((number / sets) as usize)?.get()?;
        chunk.values().get((number % sets) as usize)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &FlowEntry> {
        let chunks = self.chunks.iter().map_while(OnceLock::get);
        let sets = chunks.flat_map(|chunk| chunk.values());
        sets.flat_map(|set| &set.ways)
    }

    /// Counts the entries of an incarnation.
    pub(super) fn count(&self, incarnation: u32) -> Count {
        let mut count = Count::default();
        for entry in self.entries() {
            let word = StateWord(entry.state.load());
            let state = word.state();
            if state == FlowState::Free || !word.is_of(incarnation) {
                continue;
            }
            count.used += 1;
            let waits = matches!(state, FlowState::Embryonic | FlowState::Answered);
            count.half_open += u32::from(waits && entry.protocol() == protocol::TCP);
        }
        count
    }

    /// Keeps others from sweeping or moving entries meanwhile.
    pub(super) fn work(&self) -> MutexGuard<'_, ()> {
        lock(&self.work)
    }

    pub(super) fn size(&self) -> Size {
        lock(&self.lead).size
    }

    /// Has a record written that leads to this partition and knows its size; from then on
    /// that record is told of another size.
    pub(super) fn lead(&self, record: u32, write: impl FnOnce(Size)) {
        let mut lead = lock(&self.lead);
        write(lead.size);
        lead.records = [Some(record), lead.records[0]];
    }

    /// Programs come to the last record alone from now on; those that have begun before may
    /// still read the one before.
    pub(super) fn lead_alone(&self) {
        lock(&self.lead).records[1] = None;
    }

    /// No record leads to this partition any more.
    pub(super) fn forsake(&self) {
        lock(&self.lead).records = [None; 2];
        self.incarnation.store(0, Ordering::SeqCst);
    }

    /// Changes the size, and tells the records.
    pub(super) fn resize(&self, records: &[EndpointRecord], next: impl FnOnce(Size) -> Size) {
        let mut lead = lock(&self.lead);
        lead.size = next(lead.size);
        for number in lead.records.into_iter().flatten() {
            if let Some(record) = records.get(number as usize) {
                record.flow_size.store(lead.size.0);
            }
        }
    }
}
