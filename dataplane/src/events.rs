//! The ring buffer of reported packets.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use aya::maps::{MapData, MapError, RingBuf};
use cofferdam_verdict::event::EventRecord;
use zerocopy::FromBytes as _;

/// The reading end of the ring buffer. Its descriptor is readable when there are
/// records.
pub struct Events {
    ring: RingBuf<MapData>,
    room: u32,
}

impl Events {
    pub(crate) fn new(map: aya::maps::Map, room: u32) -> Result<Self, MapError> {
        Ok(Self {
            ring: RingBuf::try_from(map)?,
            room,
        })
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
    pub fn next(&mut self) -> Option<EventRecord> {
        loop {
            let item = self.ring.next()?;
            // Nobody else writes there; an item of another size is no record.
            if let Ok(record) = EventRecord::read_from_bytes(&item) {
                return Some(record);
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
