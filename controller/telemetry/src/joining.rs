//! Equal reports within a short time become one record.
//!
//! Reports are equal if nothing but their time, their sequence number and their length
//! differs: the same tuple, denied at the same hook by the same rule of the same table. A
//! client that sends a segment again has one record.
//!
//! Invariant, exact: each report is counted in one record.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_protocol::output::FlowRecord;
use cofferdam_verdict::event::{EventRecord, flag};
use zerocopy::IntoBytes as _;

use crate::kept::Reporter;

/// Time for which a record waits for equal ones: part of what passes between a packet and its
/// line, of which 200 ms are promised.
pub(crate) const WAIT: Duration = Duration::from_millis(50);

/// Records that wait, at most.
const MOST: usize = 1_024;

/// A record that waits for equal ones.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Time of the first report.
    pub(crate) time: SystemTime,
    /// Reporter of all of them.
    pub(crate) reporter: Reporter,
    /// The record of all of them.
    pub(crate) record: FlowRecord,
}

/// Contents of a report that equal ones share.
type Key = [u8; size_of::<EventRecord>()];

/// The records that wait.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    records: Vec<Joined>,
    /// Their places, by what they are equal in.
    places: HashMap<Key, usize>,
    /// Time at which the first of them began to wait.
    since: Option<Instant>,
}

impl Joining {
    /// Adds a report. `describe` says what a record says of it, and is asked only if no equal
    /// one waits; a report that it says nothing of is left out.
    pub(crate) fn add(
        &mut self,
        event: &EventRecord,
        now: SystemTime,
        describe: impl FnOnce(&EventRecord) -> Option<FlowRecord>,
    ) {
        let alike = EventRecord {
            jiffies: 0,
            sequence: 0,
            bytes: 0,
            flags: event.flags & flag::CUT,
            ..*event
        };
        let mut key: Key = [0; size_of::<EventRecord>()];
        key.copy_from_slice(alike.as_bytes());
        if let Some(joined) = self.places.get(&key).map(|place| &mut self.records[*place]) {
            let record = &mut joined.record;
            record.count += 1;
            record.packets += 1;
            record.bytes += u64::from(event.bytes);
            return;
        }
        let Some(record) = describe(event) else {
            return;
        };
        self.places.insert(key, self.records.len());
        self.records.push(Joined {
            time: now,
            reporter: (event.ifindex, event.hook),
            record,
        });
        self.since.get_or_insert_with(Instant::now);
    }

    /// Returns the time until the first record has waited long enough; `None` if none waits.
    pub(crate) fn left(&self) -> Option<Duration> {
        let since = self.since?;
        Some(match self.records.len() {
            MOST.. => Duration::ZERO,
            _ => WAIT.saturating_sub(since.elapsed()),
        })
    }

    /// Returns `true` if the first record has waited long enough.
    pub(crate) fn is_due(&self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// Takes all records, in the order of their first reports.
    pub(crate) fn take(&mut self) -> Vec<Joined> {
        self.places.clear();
        self.since = None;
        std::mem::take(&mut self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::describe;
    use crate::snapshots::Snapshots;
    use cofferdam_verdict::reason::Reason;
    use cofferdam_verdict::verdict::Verdict;
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    fn event(port: u16, reason: Reason, sequence: u32, bytes: u32) -> EventRecord {
        EventRecord {
            verdict: Verdict::deny(reason).to_word(),
            source_port: port,
            sequence,
            bytes,
            jiffies: u64::from(sequence),
            ..EventRecord::new_zeroed()
        }
    }

    fn add(joining: &mut Joining, event: &EventRecord, now: SystemTime) {
        let names = Snapshots::new("n1");
        joining.add(event, now, |event| describe(event, &names, now));
    }

    proptest! {
        /// Whatever comes in whatever order, each report is in one record of its like.
        #[test]
        fn every_report_is_counted_in_one_record(
            reports in proptest::collection::vec((0..3u16, any::<bool>(), any::<u32>(), 1..2000u32), 0..60),
        ) {
            let mut joining = Joining::default();
            let mut expected = std::collections::BTreeMap::<_, (u64, u64)>::new();
            for (port, isolated, sequence, bytes) in reports {
                let reason = if isolated { Reason::Isolated } else { Reason::Malformed };
                add(&mut joining, &event(port, reason, sequence, bytes), SystemTime::now());
                let sum = expected.entry((port, reason)).or_default();
                *sum = (sum.0 + 1, sum.1 + u64::from(bytes));
            }
            prop_assert_eq!(joining.left().is_some(), !expected.is_empty());
            let records = joining.take();
            prop_assert_eq!(records.len(), expected.len());
            let whole: u64 = records.iter().map(|joined| joined.record.packets).sum();
            prop_assert_eq!(whole, expected.values().map(|(packets, _)| packets).sum::<u64>());
            let mut sums: Vec<_> = records.iter().map(|joined| {
                let FlowRecord { count, packets, bytes, .. } = joined.record;
                assert_eq!(count, packets);
                (packets, bytes)
            }).collect();
            let mut expected: Vec<_> = expected.into_values().collect();
            sums.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(sums, expected);
            prop_assert_eq!(joining.left(), None);
        }
    }

    #[test]
    fn a_record_has_the_time_of_the_first_report_and_waits_from_then() {
        let mut joining = Joining::default();
        let first = SystemTime::UNIX_EPOCH;
        add(&mut joining, &event(1, Reason::Rule, 1, 60), first);
        let later = first + Duration::from_secs(1);
        add(&mut joining, &event(1, Reason::Rule, 2, 60), later);
        assert!(joining.left().is_some_and(|left| left <= WAIT));
        let records = joining.take();
        let times: Vec<_> = records.iter().map(|joined| joined.time).collect();
        assert_eq!(times, [first]);
        add(&mut joining, &event(1, Reason::Rule, 3, 60), later);
        assert_eq!(joining.take().len(), 1, "what was taken takes no more");
    }

    #[test]
    fn so_many_records_wait_no_longer() {
        let mut joining = Joining::default();
        for port in 0..MOST as u16 {
            add(
                &mut joining,
                &event(port, Reason::Rule, 1, 60),
                SystemTime::now(),
            );
        }
        assert_eq!(joining.left(), Some(Duration::ZERO));
    }
}
