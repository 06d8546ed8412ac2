//! Holds counters by policies and workloads to a budget of series.
//!
//! Series that find no room are counted together in few series, whose labels of policies and
//! workloads say `overflow`.
//! Series are taken in as they come, and keep their place until what they count has gone:
//! otherwise a policy with a name early in the alphabet would push others out, and their
//! counters would seem to begin anew.
//!
//! Invariant: the sum of a metric's series is the sum of all that was counted, and the overflow
//! never shrinks while the agent runs.

use std::collections::{BTreeMap, HashMap};

use super::list::{Extent, Metric};

/// Separator of label values in a key; YAML documents cannot have it in a name.
const BETWEEN: char = '\u{1f}';

/// Place of one series.
#[derive(Debug)]
enum Place {
    /// Its own.
    Own,
    /// In the overflow, which has so much of it.
    Folded(u64),
}

#[derive(Debug)]
struct Entry {
    place: Place,
    /// Page on which it was last.
    page: u64,
}

/// Series of all pages so far.
#[derive(Debug)]
pub(super) struct Ledger {
    budget: usize,
    page: u64,
    own: usize,
    series: BTreeMap<&'static str, HashMap<String, Entry>>,
    /// By metric, and the values that are kept.
    overflow: BTreeMap<(&'static str, Vec<String>), u64>,
    key: String,
}

impl Ledger {
    /// Makes room for a number of series.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            page: 0,
            own: 0,
            series: BTreeMap::new(),
            overflow: BTreeMap::new(),
            key: String::new(),
        }
    }

    /// Notes the value of a series; returns `true` if it has a place of its own.
    pub(super) fn note(&mut self, metric: &Metric, values: &[&str], value: u64) -> bool {
        self.key.clear();
        for value in values {
            self.key.push_str(value);
            self.key.push(BETWEEN);
        }
        let series = self.series.entry(metric.name).or_default();
        if !series.contains_key(&self.key) {
            let has_room = self.own < self.budget;
            self.own += usize::from(has_room);
            let place = if has_room {
                Place::Own
            } else {
                Place::Folded(0)
            };
            let entry = Entry { place, page: 0 };
            series.insert(self.key.clone(), entry);
        }
        let Some(entry) = series.get_mut(&self.key) else {
            return false;
        };
        entry.page = self.page;
        match &mut entry.place {
            Place::Own => true,
            Place::Folded(counted) => {
                // A count that is smaller began anew.
                let more = value.checked_sub(*counted).unwrap_or(value);
                let kept = match metric.extent {
                    Extent::Fixed => values.len(),
                    Extent::Budgeted(kept) => kept,
                };
                let kept = values.iter().take(kept).map(|value| (*value).to_owned());
                let overflow = (metric.name, kept.collect());
                *self.overflow.entry(overflow).or_default() += more;
                *counted = value;
                false
            }
        }
    }

    /// Ends a page: series that were not on it have gone, and leave their place to others.
    pub(super) fn end_page(&mut self) {
        let page = self.page;
        for series in self.series.values_mut() {
            series.retain(|_, entry| {
                let is_there = entry.page == page;
                let had_place = matches!(entry.place, Place::Own);
                self.own -= usize::from(!is_there && had_place);
                is_there
            });
        }
        self.page += 1;
    }

    /// Returns the overflow of a metric, by the values that are kept.
    pub(super) fn overflow(&self, metric: &Metric) -> impl Iterator<Item = (&[String], u64)> {
        let all = self.overflow.iter();
        all.filter(|((name, _), _)| *name == metric.name)
            .map(|((_, kept), value)| (kept.as_slice(), *value))
    }

    /// Returns the number of series that are in an overflow.
    pub(super) fn folded(&self) -> usize {
        self.series.values().map(HashMap::len).sum::<usize>() - self.own
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::{RULE_AUDIT_HITS, RULE_HITS};
    use super::*;

    /// Notes a page of values; returns those that have a place of their own.
    fn page<'v>(ledger: &mut Ledger, values: &[(&'v str, u64)]) -> Vec<&'v str> {
        let own = values
            .iter()
            .filter(|(name, value)| ledger.note(&RULE_HITS, &["ingress", "deny", name], *value))
            .map(|(name, _)| *name)
            .collect();
        ledger.end_page();
        own
    }

    fn overflow(ledger: &Ledger) -> Vec<(String, u64)> {
        let overflow = ledger.overflow(&RULE_HITS);
        overflow
            .map(|(kept, value)| (kept.join(" "), value))
            .collect()
    }

    fn of_denials(value: u64) -> [(String, u64); 1] {
        [("ingress deny".to_owned(), value)]
    }

    #[test]
    fn series_keep_their_place_and_the_overflow_only_grows() {
        let mut ledger = Ledger::new(2);
        assert_eq!(page(&mut ledger, &[("b", 1), ("c", 2)]), ["b", "c"]);
        assert!(overflow(&ledger).is_empty());
        let all = [("a", 10), ("b", 2), ("c", 3), ("d", 5)];
        assert_eq!(page(&mut ledger, &all), ["b", "c"]);
        assert_eq!(overflow(&ledger), of_denials(15));
        assert_eq!(ledger.folded(), 2);
        let all = [("a", 11), ("b", 2), ("d", 6)];
        assert_eq!(page(&mut ledger, &all), ["b"]);
        assert_eq!(overflow(&ledger), of_denials(17));
        // What came late has the place of what has gone; what was folded stays so.
        let all = [("a", 11), ("b", 2), ("e", 1)];
        assert_eq!(page(&mut ledger, &all), ["b", "e"]);
        assert_eq!(overflow(&ledger), of_denials(17));
        assert_eq!(ledger.folded(), 1);
    }

    #[test]
    fn a_folded_count_that_begins_anew_is_added_whole() {
        let mut ledger = Ledger::new(0);
        page(&mut ledger, &[("a", 10)]);
        page(&mut ledger, &[("a", 4)]);
        assert_eq!(overflow(&ledger), of_denials(14));
        assert_eq!(ledger.overflow(&RULE_AUDIT_HITS).count(), 0);
    }
}
