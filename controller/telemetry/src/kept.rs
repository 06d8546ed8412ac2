//! The newest records, of which no type and no endpoint pushes another's out.
//!
//! A new record beyond the limit drives out the oldest one of the reporter that most are of,
//! among those of the type that most are of: a policy on trial may be told of at each
//! connection, and a workload that is denied may try again at once. Neither must push out the
//! little that few records tell of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use cofferdam_protocol::Observation;
use cofferdam_protocol::output::{FlowRecord, RecordType};
use cofferdam_protocol::words::ClosedList as _;

/// Records that are kept.
pub(crate) const KEPT: usize = 4_096;

/// Reporter of a packet: the interface, and the hook there.
pub(crate) type Reporter = (u32, u8);

/// Records that are kept, oldest first.
#[derive(Debug)]
pub(crate) struct Kept {
    /// By the order in which they came.
    records: BTreeMap<u64, (SystemTime, Arc<FlowRecord>)>,
    next: u64,
    /// By their types, in the order of [`RecordType::ALL`].
    of_type: [Shares; RecordType::ALL.len()],
    /// The newest time of which a record may be missing: that of the last one which made
    /// room, at first the agent's start.
    pub(crate) missing_until: SystemTime,
}

/// Records of one type.
#[derive(Debug, Default)]
struct Shares {
    count: usize,
    of: BTreeMap<Reporter, VecDeque<u64>>,
    /// The reporters by the number of their records.
    by_count: BTreeSet<(usize, Reporter)>,
}

impl Shares {
    fn push(&mut self, reporter: Reporter, place: u64) {
        let places = self.of.entry(reporter).or_default();
        self.by_count.remove(&(places.len(), reporter));
        places.push_back(place);
        self.by_count.insert((places.len(), reporter));
        self.count += 1;
    }

    /// Takes the oldest record of the reporter that most are of.
    fn pop(&mut self) -> Option<u64> {
        let (count, reporter) = self.by_count.pop_last()?;
        let places = self.of.get_mut(&reporter)?;
        let oldest = places.pop_front()?;
        self.count -= 1;
        if count > 1 {
            self.by_count.insert((count - 1, reporter));
        } else {
            self.of.remove(&reporter);
        }
        Some(oldest)
    }
}

impl Kept {
    /// Nothing is kept yet of what comes after this time.
    pub(crate) fn new(missing_until: SystemTime) -> Self {
        Self {
            records: BTreeMap::new(),
            next: 0,
            of_type: Default::default(),
            missing_until,
        }
    }

    /// Adds a record, and forgets another one when there are enough.
    pub(crate) fn push(&mut self, time: SystemTime, reporter: Reporter, record: Arc<FlowRecord>) {
        if self.records.len() == KEPT {
            let most = self.of_type.iter_mut().max_by_key(|shares| shares.count);
            let oldest = most.and_then(Shares::pop);
            if let Some((time, _)) = oldest.and_then(|place| self.records.remove(&place)) {
                self.missing_until = self.missing_until.max(time);
            }
        }
        self.of_type[record.kind as usize].push(reporter, self.next);
        self.records.insert(self.next, (time, record));
        self.next += 1;
    }

    /// Returns the records, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(SystemTime, Arc<FlowRecord>)> {
        self.records.values()
    }

    /// The records that are asked for, oldest first, without those that are in the log.
    pub(crate) fn recent(&self, asked: &Observation) -> Vec<Arc<FlowRecord>> {
        let is_in_log = |time: SystemTime| asked.with_log && time <= self.missing_until;
        let recent = self
            .iter()
            .filter(|(time, record)| !is_in_log(*time) && asked.is_for(record))
            .map(|(_, record)| record.clone());
        let mut recent: Vec<_> = recent.collect();
        if let Some(last) = asked.last {
            let last = usize::try_from(last).unwrap_or(usize::MAX);
            recent.drain(..recent.len().saturating_sub(last));
        }
        recent
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::records::tests::record;

    fn count(kept: &Kept, kind: RecordType) -> usize {
        kept.iter().filter(|(_, one)| one.kind == kind).count()
    }

    #[test]
    fn a_flood_of_one_type_of_records_leaves_room_for_the_others() {
        let now = SystemTime::UNIX_EPOCH;
        for flood in RecordType::ALL {
            for few in RecordType::ALL.iter().filter(|few| *few != flood) {
                let [flood, few] = [*flood, *few];
                let mut kept = Kept::new(SystemTime::UNIX_EPOCH);
                for _ in 0..3 {
                    kept.push(now, (1, 0), record(few));
                    let record = record(flood);
                    for _ in 0..KEPT {
                        kept.push(now, (1, 0), record.clone());
                    }
                }
                assert_eq!((count(&kept, few), kept.iter().count()), (3, KEPT));
                // And gives way when it comes to be the flood.
                let record = record(few);
                for _ in 0..2 * KEPT {
                    kept.push(now, (1, 0), record.clone());
                }
                let left = count(&kept, flood);
                assert!(
                    (KEPT / 2 - 1..=KEPT / 2).contains(&left),
                    "{flood:?}: {left}"
                );
            }
        }
    }

    #[test]
    fn a_flood_of_one_reporter_leaves_the_records_of_others() {
        let mut kept = Kept::new(SystemTime::UNIX_EPOCH);
        let record = record(RecordType::Denied);
        let time = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(number);
        for number in 0..200 {
            for _ in 0..100 {
                kept.push(time(number), (1, 0), record.clone());
            }
            kept.push(time(1000 + number), (2, 0), record.clone());
            kept.push(time(2000 + number), (1, 1), record.clone());
        }
        assert_eq!(kept.iter().count(), KEPT);
        let times: BTreeSet<SystemTime> = kept.iter().map(|(time, _)| *time).collect();
        for number in 0..200 {
            assert!(times.contains(&time(1000 + number)), "{number}");
            assert!(times.contains(&time(2000 + number)), "{number}");
        }
        let newest = kept.iter().filter(|(one, _)| *one == time(199)).count();
        assert_eq!(newest, 100, "the oldest of the flood have gone");
    }

    #[test]
    fn what_may_be_missing_is_left_to_the_log_as_a_whole() {
        let start = SystemTime::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut kept = Kept::new(start);
        let count = |kept: &Kept, with_log| {
            let asked = Observation {
                with_log,
                ..Observation::default()
            };
            kept.recent(&asked).len()
        };
        let (few, flood) = (record(RecordType::Audit), record(RecordType::Denied));
        kept.push(at(1), (1, 0), few.clone());
        for seconds in 2..=KEPT as u64 {
            kept.push(at(seconds), (1, 0), flood.clone());
        }
        assert_eq!([count(&kept, false), count(&kept, true)], [KEPT; 2]);
        // The oldest of the flood makes room: the one before it is in the log, too.
        kept.push(at(KEPT as u64 + 1), (1, 0), flood);
        assert_eq!(kept.missing_until, at(2));
        assert_eq!([count(&kept, false), count(&kept, true)], [KEPT, KEPT - 1]);
    }
}
