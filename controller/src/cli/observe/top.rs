//! Counts records instead of printing them: `--top`.

use std::collections::HashMap;
use std::fmt::Write as _;

use cofferdam_protocol::output::{FlowRecord, RecordType, RuleName, Schema, place};
use cofferdam_protocol::words::ClosedList as _;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Direction;

use super::lines::{Escaped, PolicyOf, name_of};
use crate::output::{DividedBy, Ranked, Sums, TopReport, TopRow};

/// Most rows that are kept apart, whatever the traffic. Records beyond them count in the
/// total alone.
const MOST_ROWS: usize = 100_000;

/// Subject of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct RowKey {
    /// The place of the rule among those that were met.
    rule: Option<usize>,
    direction: Option<Direction>,
    source: Option<String>,
    destination: Option<String>,
    policy: Option<String>,
    workload: Option<String>,
    reason: Option<Reason>,
}

/// Counts of records so far.
#[derive(Debug)]
pub(super) struct Top {
    what: Ranked,
    by: Option<DividedBy>,
    rules: Vec<RuleName>,
    places: HashMap<(String, Option<String>, String, Option<u32>), usize>,
    rows: HashMap<RowKey, Sums>,
    total: Sums,
    first: Option<String>,
    last: Option<String>,
}

impl Sums {
    fn add(&mut self, record: &FlowRecord) {
        self.records += record.count;
        self.packets += record.packets;
        self.bytes += record.bytes;
    }
}

impl Top {
    /// Nothing has been counted yet. Drops are divided by policy unless told otherwise.
    pub(super) fn new(what: Ranked, by: Option<DividedBy>) -> Self {
        let by = match what {
            Ranked::Drops => by.or(Some(DividedBy::Policy)),
            Ranked::Rules | Ranked::Talkers => by,
        };
        Self {
            what,
            by,
            rules: Vec::new(),
            places: HashMap::new(),
            rows: HashMap::new(),
            total: Sums::default(),
            first: None,
            last: None,
        }
    }

    /// Counts a record, if it is one of those that are ranked.
    pub(super) fn count(&mut self, record: &FlowRecord) {
        let rule = record.rule.as_ref().or(record.isolated_by.first());
        let is_ranked = match self.what {
            Ranked::Drops => record.kind == RecordType::Denied,
            Ranked::Rules => rule.is_some(),
            Ranked::Talkers => true,
        };
        if !is_ranked {
            return;
        }
        self.total.add(record);
        self.first.get_or_insert_with(|| record.time.clone());
        self.last = Some(record.time.clone());
        let mut key = RowKey::default();
        match self.what {
            Ranked::Drops => {}
            Ranked::Rules => {
                key.rule = rule.map(|rule| self.place(rule));
                key.direction = Some(record.direction);
            }
            Ranked::Talkers => {
                key.source = Some(name_of(&record.source));
                key.destination = Some(name_of(&record.destination));
            }
        }
        match self.by {
            None => {}
            Some(DividedBy::Policy) => key.policy = rule.map(|rule| PolicyOf(rule).to_string()),
            Some(DividedBy::Reason) => key.reason = Some(record.reason),
            Some(DividedBy::Workload) => {
                let judged = match record.direction {
                    Direction::Ingress => &record.destination,
                    Direction::Egress => &record.source,
                };
                key.workload = Some(name_of(judged));
            }
        }
        if self.rows.len() >= MOST_ROWS && !self.rows.contains_key(&key) {
            return;
        }
        self.rows.entry(key).or_default().add(record);
    }

    /// The place of a rule in the list, wherever it has been written at the time.
    fn place(&mut self, rule: &RuleName) -> usize {
        let identity = (
            rule.kind.clone(),
            rule.namespace.clone(),
            rule.name.clone(),
            rule.index,
        );
        let next = self.rules.len();
        let place = *self.places.entry(identity).or_insert(next);
        match self.rules.get_mut(place) {
            // The newest place is the one to look at.
            Some(known) => known.clone_from(rule),
            None => self.rules.push(rule.clone()),
        }
        place
    }

    /// The rows with most packets, at most so many.
    pub(super) fn report(self, most: usize) -> TopReport {
        let rules = self.rules;
        let mut rows: Vec<TopRow> = (self.rows.into_iter())
            .map(|(key, sums)| TopRow {
                rule: key.rule.and_then(|place| rules.get(place).cloned()),
                direction: key.direction.map(|direction| direction.word().to_owned()),
                source: key.source,
                destination: key.destination,
                policy: key.policy,
                workload: key.workload,
                reason: key.reason.map(|reason| reason.name().to_owned()),
                sums,
            })
            .collect();
        // Names decide between equals, so that the same records give the same rows.
        rows.sort_by_cached_key(|row| (std::cmp::Reverse(row.sums.packets), title(row)));
        let more_rows = rows.len().saturating_sub(most) as u64;
        rows.truncate(most);
        TopReport {
            schema: Schema,
            top: self.what,
            by: self.by,
            first: self.first,
            last: self.last,
            rows,
            more_rows,
            total: self.total,
        }
    }
}

/// Names the subject of a row, for people.
fn title(row: &TopRow) -> String {
    let rule = row.rule.as_ref().map(|rule| {
        let index = rule.index.map(|index| format!("[{index}]"));
        format!(
            "{} {}{} {}",
            PolicyOf(rule),
            row.direction.as_deref().unwrap_or_default(),
            index.unwrap_or_default(),
            place(&Escaped(&rule.file).to_string(), &[rule.line])
        )
    });
    let pair = row
        .source
        .as_ref()
        .zip(row.destination.as_ref())
        .map(|(source, destination)| format!("{source} → {destination}"));
    let by = [&row.policy, &row.workload, &row.reason]
        .into_iter()
        .flatten()
        .cloned();
    let parts: Vec<String> = rule.into_iter().chain(pair).chain(by).collect();
    if parts.is_empty() {
        "(no policy)".to_owned()
    } else {
        parts.join("  ")
    }
}

/// The rows as a table.
pub(super) fn table(report: &TopReport) -> String {
    let mut text = format!("{:>10} {:>12} {:>9}  OF\n", "PACKETS", "BYTES", "RECORDS");
    let mut put = |sums: &Sums, of: &str| {
        let Sums {
            packets,
            bytes,
            records,
        } = sums;
        writeln!(text, "{packets:>10} {bytes:>12} {records:>9}  {of}")
            .expect("writing to a string");
    };
    for row in &report.rows {
        put(&row.sums, &title(row));
    }
    put(&report.total, "all");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::observe::lines::tests::record;

    /// Packets to the database, and from it.
    fn records() -> Vec<FlowRecord> {
        let closed = record();
        let mut by_rule = record();
        by_rule.reason = Reason::Rule;
        by_rule.direction = Direction::Egress;
        by_rule.rule = by_rule.isolated_by.pop();
        by_rule.rule.as_mut().expect("a rule").index = Some(1);
        by_rule.packets = 10;
        let mut audit = record();
        audit.kind = RecordType::Audit;
        let mut spoofed = record();
        spoofed.reason = Reason::SpoofedSource;
        spoofed.isolated_by.clear();
        (spoofed.source.namespace, spoofed.source.workload) = (None, None);
        vec![closed.clone(), by_rule, audit, spoofed, closed]
    }

    fn rows(what: Ranked, by: Option<DividedBy>) -> Vec<(u64, String)> {
        let mut top = Top::new(what, by);
        records().iter().for_each(|record| top.count(record));
        let report = top.report(10);
        assert_eq!(report.more_rows, 0);
        let sum: u64 = report.rows.iter().map(|row| row.sums.packets).sum();
        assert_eq!(sum, report.total.packets, "nothing is lost");
        let rows = report.rows.iter();
        rows.map(|row| (row.sums.packets, title(row))).collect()
    }

    fn expected<const N: usize>(rows: [(u64, &str); N]) -> Vec<(u64, String)> {
        rows.map(|(packets, of)| (packets, of.to_owned())).into()
    }

    #[test]
    fn drops_are_of_denied_packets_alone() {
        let by_policy = expected([(16, "data/db"), (3, "(no policy)")]);
        assert_eq!(rows(Ranked::Drops, None), by_policy);
        let by_reason = expected([(10, "rule"), (6, "isolated"), (3, "spoofed_source")]);
        assert_eq!(rows(Ranked::Drops, Some(DividedBy::Reason)), by_reason);
        let by_workload = expected([(10, "shop/web"), (9, "data/db")]);
        assert_eq!(rows(Ranked::Drops, Some(DividedBy::Workload)), by_workload);
    }

    #[test]
    fn rules_and_talkers_are_divided_further_only_if_asked() {
        let of_rules = expected([
            (10, "data/db egress[1] /p/a.yaml:9"),
            (9, "data/db ingress /p/a.yaml:9"),
        ]);
        assert_eq!(rows(Ranked::Rules, None), of_rules);
        let of_pairs = expected([(19, "shop/web → data/db"), (3, "10.1.0.2 → data/db")]);
        assert_eq!(rows(Ranked::Talkers, None), of_pairs);
        let divided = rows(Ranked::Talkers, Some(DividedBy::Reason));
        assert_eq!(divided[0], (10, "shop/web → data/db  rule".to_owned()));
        assert_eq!(divided.len(), 3);
    }

    #[test]
    fn rows_beyond_those_asked_for_are_counted() {
        let mut top = Top::new(Ranked::Talkers, Some(DividedBy::Reason));
        records().iter().for_each(|record| top.count(record));
        let report = top.report(1);
        assert_eq!((report.rows.len(), report.more_rows), (1, 2));
        assert_eq!(report.total.packets, 22);
        assert!(
            table(&report).ends_with("22          900        10  all\n"),
            "{}",
            table(&report)
        );
    }
}
