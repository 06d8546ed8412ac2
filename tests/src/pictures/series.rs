//! Series, as Prometheus answers with them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Error;
use super::model::{Calculation, Panel, Target};

/// A series with its name in the legend.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Times in seconds since the epoch, and values that are numbers.
    pub(super) points: Vec<(u64, f64)>,
}

/// A value at a time.
type Point = (f64, String);

/// One element of an answer: with `values` over a window, with `value` at one time.
#[derive(Deserialize)]
struct Answer {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<Point>,
    value: Option<Point>,
}

impl Series {
    /// Reads an element of an answer.
    pub(super) fn read(panel: &Panel, target: &Target, answer: Value) -> Result<Self, Error> {
        let failed = |answer| Error::Answer {
            panel: panel.title.clone(),
            answer,
        };
        let read = Answer::deserialize(&answer);
        let Ok(read) = read else {
            return Err(failed(answer));
        };
        let mut points = Vec::new();
        for (time, value) in read.values.iter().chain(&read.value) {
            let Ok(value) = value.parse::<f64>() else {
                return Err(failed(answer));
            };
            if value.is_finite() {
                points.push((time.round() as u64, value));
            }
        }
        Ok(Self {
            name: named(&target.legend_format, &read.metric),
            labels: read.metric,
            points,
        })
    }

    /// Returns the value at a time; `None` if there is none.
    pub(super) fn at(&self, time: u64) -> Option<f64> {
        let found = self.points.binary_search_by_key(&time, |(time, _)| *time);
        found
            .ok()
            .and_then(|at| self.points.get(at))
            .map(|one| one.1)
    }

    /// Returns a number that stands for the series; `None` if it has no points.
    pub(super) fn calculated(&self, calculation: Calculation) -> Option<f64> {
        let mut values = self.points.iter().map(|(_, value)| *value);
        match calculation {
            Calculation::LastNotNull => values.next_back(),
            Calculation::Max => values.reduce(f64::max),
        }
    }
}

/// Returns a legend with the labels that it names in braces put in.
fn named(format: &str, labels: &BTreeMap<String, String>) -> String {
    let mut name = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once("{{") {
        name.push_str(before);
        let (label, behind) = after.split_once("}}").unwrap_or((after, ""));
        name.push_str(labels.get(label.trim()).map_or("", String::as_str));
        rest = behind;
    }
    name.push_str(rest);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legends_have_labels_put_in() {
        let labels = [("policy", "db"), ("kind", "NetworkPolicy")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = BTreeMap::from(labels);
        assert_eq!(
            named("{{kind}} {{ policy }}!", &labels),
            "NetworkPolicy db!"
        );
        assert_eq!(named("allowed", &labels), "allowed");
        assert_eq!(named("{{other}}/{{policy}}", &labels), "/db");
    }
}
