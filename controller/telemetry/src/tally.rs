//! Counts what records tell of workloads: drops by the labels that the configuration asks for,
//! and scans.
//!
//! Records are fewer than packets when there are too many at once, which the programs count as
//! unreported. Invariant: memory is bounded whatever records there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_protocol::output::{FlowEnd, FlowRecord, RecordType};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Direction;

use crate::scans::Scans;

/// Time without a packet after which a series ends.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);
/// Value of all labels where there is no room for another series.
pub(crate) const OVERFLOW: &str = "overflow";

/// A label that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadLabel {
    /// Name in metrics.
    name: String,
    source: Source,
}

/// Source of a label's value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// The workload's namespace.
    Namespace,
    /// The workload's name.
    Name,
    /// The first of these labels that the workload has.
    Labels(Vec<String>),
}

impl WorkloadLabel {
    /// Reads a label as it is configured: `namespace`, `workload`, or keys of labels with `|`
    /// between them.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let keys: Vec<String> = text.split('|').map(str::to_owned).collect();
        let first = keys.first().map_or("", String::as_str);
        let (name, source) = match text {
            "namespace" => ("workload_namespace".to_owned(), Source::Namespace),
            "workload" => ("workload".to_owned(), Source::Name),
            _ => {
                let is_word = |c: char| c.is_ascii_alphanumeric();
                let word = first.chars().map(|c| if is_word(c) { c } else { '_' });
                let word: String = word.collect();
                (format!("label_{word}"), Source::Labels(keys))
            }
        };
        Self { name, source }
    }

    /// Returns its name in metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn value(&self, end: &FlowEnd) -> String {
        let value = match &self.source {
            Source::Namespace => end.namespace.clone(),
            Source::Name => end.workload.clone(),
            Source::Labels(keys) => keys.iter().find_map(|key| end.labels.get(key)).cloned(),
        };
        value.unwrap_or_default()
    }
}

/// Subject of a count of dropped packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropKey {
    /// Direction of the workload.
    pub direction: Direction,
    /// Reason of the denial.
    pub reason: Reason,
    /// Values of the labels, in their order.
    pub values: Vec<String>,
}

#[derive(Debug)]
struct Counted {
    packets: u64,
    last: Instant,
}

/// Counts of all records so far.
#[derive(Debug)]
pub struct Tally {
    labels: Vec<WorkloadLabel>,
    room: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    drops: BTreeMap<DropKey, Counted>,
    scans: Scans,
    scans_found: u64,
}

impl Tally {
    /// Counts with these labels, in at most `room` series, and workloads that were denied at
    /// more than `scan_limit` ports or peers within a minute.
    #[must_use]
    pub fn new(labels: Vec<WorkloadLabel>, room: usize, scan_limit: usize) -> Self {
        Self {
            labels,
            room,
            kept: Mutex::new(Kept {
                drops: BTreeMap::new(),
                scans: Scans::new(scan_limit),
                scans_found: 0,
            }),
        }
    }

    /// Takes in a record.
    pub fn note(&self, record: &FlowRecord) {
        self.note_at(record, Instant::now());
    }

    fn note_at(&self, record: &FlowRecord, now: Instant) {
        if record.kind != RecordType::Denied {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.labels.is_empty() {
            self.count(&mut kept.drops, record, now);
        }
        if let Some(scan) = kept.scans.note(record, now) {
            kept.scans_found += 1;
            tracing::warn!(
                namespace = %scan.namespace,
                workload = %scan.workload,
                ports = scan.ports,
                peers = scan.peers,
                "port scan: the workload was denied at so many distinct ports and peers within a \
                 minute; `cofferdam observe` shows what it tried"
            );
        }
    }

    fn count(&self, drops: &mut BTreeMap<DropKey, Counted>, record: &FlowRecord, now: Instant) {
        let own = match record.direction {
            Direction::Ingress => &record.destination,
            Direction::Egress => &record.source,
        };
        let values = self.labels.iter().map(|label| label.value(own)).collect();
        let mut key = DropKey {
            direction: record.direction,
            reason: record.reason,
            values,
        };
        if drops.len() >= self.room && !drops.contains_key(&key) {
            key.values = vec![OVERFLOW.to_owned(); self.labels.len()];
        }
        let counted = drops.entry(key).or_insert(Counted {
            packets: 0,
            last: now,
        });
        counted.packets += record.packets;
        counted.last = now;
    }

    /// Returns the names of the labels.
    #[must_use]
    pub fn labels(&self) -> &[WorkloadLabel] {
        &self.labels
    }

    /// Returns the dropped packets, and ends series that have not moved for an hour.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropKey, u64)> {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_kept =
            |counted: &Counted| now.saturating_duration_since(counted.last) < FORGOTTEN_AFTER;
        kept.drops.retain(|_, counted| is_kept(counted));
        let drops = kept.drops.iter();
        drops
            .map(|(key, counted)| (key.clone(), counted.packets))
            .collect()
    }

    /// Returns the number of scans that were found.
    #[must_use]
    pub fn scans(&self) -> u64 {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.scans_found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scans::tests::denied;

    fn tally(labels: &[&str], room: usize) -> Tally {
        let labels = labels.iter().map(|text| WorkloadLabel::new(text));
        Tally::new(labels.collect(), room, 2)
    }

    fn drops(tally: &Tally) -> Vec<(String, u64)> {
        let drops = tally.drops().into_iter();
        drops
            .map(|(key, packets)| (key.values.join(" "), packets))
            .collect()
    }

    #[test]
    fn labels_are_the_first_that_a_workload_has() {
        let tally = tally(&["namespace", "workload", "app|app.kubernetes.io/name"], 8);
        let names: Vec<&str> = tally.labels().iter().map(WorkloadLabel::name).collect();
        assert_eq!(names, ["workload_namespace", "workload", "label_app"]);
        let mut record = denied(0, 80);
        let label = ("app.kubernetes.io/name".to_owned(), "second".to_owned());
        record.source.labels.extend([label]);
        tally.note(&record);
        let label = ("app".to_owned(), "first".to_owned());
        record.source.labels.extend([label]);
        tally.note(&record);
        record.packets = 5;
        tally.note(&record);
        // Its own direction is the other end's.
        record.direction = Direction::Ingress;
        tally.note(&record);
        record.kind = RecordType::Audit;
        tally.note(&record);
        let expected = [("  ", 5), ("x w0 first", 6), ("x w0 second", 1)]
            .map(|(values, packets)| (values.to_owned(), packets));
        assert_eq!(drops(&tally), expected);
    }

    #[test]
    fn what_finds_no_room_is_in_the_overflow() {
        let tally = tally(&["workload"], 2);
        for number in 0..5 {
            tally.note(&denied(number, 80));
        }
        let expected = [("overflow", 3), ("w0", 1), ("w1", 1)]
            .map(|(values, packets)| (values.to_owned(), packets));
        assert_eq!(drops(&tally), expected);
    }

    #[test]
    fn scans_are_counted_without_labels_too() {
        let tally = tally(&[], 2);
        for port in 0..10 {
            tally.note(&denied(0, port));
            tally.note(&denied(1, 80));
        }
        assert_eq!((tally.scans(), drops(&tally)), (1, Vec::new()));
    }
}
