//! The ring buffer of reported packets and flows.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use aya::maps::{MapData, MapError, RingBuf};
use cofferdam_verdict::{
    event::{EndRecord, EventRecord},
    share::WANTS_FLOWS,
    shared::SharedWord64,
};
use zerocopy::FromBytes as _;

use crate::array::MappedArray;

/// A record of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A packet.
    Packet(EventRecord),
    /// A flow that has ended because another one needed its place, or policy denies it now.
    End(EndRecord),
}

/// The reading end of the ring buffer. Its descriptor is readable when there are
/// records.
pub struct Events {
    ring: RingBuf<MapData>,
    room: u32,
    flows: FlowSwitch,
    tick: Duration,
}

/// Says to programs if user space wants to be told of flows that begin and end. They are not
/// told of at first.
#[derive(Clone, Debug)]
pub struct FlowSwitch(Arc<MappedArray<SharedWord64>>);

impl FlowSwitch {
    /// Has flows told of from now on, or no longer.
    pub fn set(&self, is_wanted: bool) {
        if let Some(word) = self.0.values().get(WANTS_FLOWS as usize) {
            word.put(is_wanted.into());
        }
    }
}

impl Events {
    pub(crate) fn new(
        map: aya::maps::Map,
        room: u32,
        shares: MappedArray<SharedWord64>,
        tick: Duration,
    ) -> Result<Self, MapError> {
        let events = Self {
            ring: RingBuf::try_from(map)?,
            room,
            flows: FlowSwitch(Arc::new(shares)),
            tick,
        };
        // Whatever an agent before has wanted.
        events.flows.set(false);
        Ok(events)
    }

    /// Returns what says if flows are told of.
    pub fn flows(&self) -> FlowSwitch {
        self.flows.clone()
    }

    /// Returns the length of a jiffy, which records have their times in.
    pub fn tick(&self) -> Duration {
        self.tick
    }

    /// Records for which there is room. Whoever has read so many has read all that
    /// were there before, however fast others come.
    pub fn room(&self) -> u32 {
        self.room
    }

    /// The next record; none when all have been read.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that ends and goes on later would surprise"
    )]
    pub fn next(&mut self) -> Option<Report> {
        loop {
            let item = self.ring.next()?;
            // Nobody else writes there; an item of another size is no record.
            if let Ok(record) = EventRecord::read_from_bytes(&item) {
                return Some(Report::Packet(record));
            }
            if let Ok(record) = EndRecord::read_from_bytes(&item) {
                return Some(Report::End(record));
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the map's, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
