//! Durations that the agent measures.

use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Error, HistogramOpts, HistogramVec};

use super::list::{CNI_DURATION, COMPILE_DURATION, Metric, PUBLISH_DURATION, RECONCILE_DURATION};

/// Upper bounds of buckets, in seconds.
const BUCKETS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// Requests of the CNI plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CniCommand {
    /// `ADD`.
    Add,
    /// `CHECK`.
    Check,
    /// `DEL`.
    Del,
    /// `GC`.
    Gc,
}

impl CniCommand {
    const ALL: [Self; 4] = [Self::Add, Self::Check, Self::Del, Self::Gc];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Check => "check",
            Self::Del => "del",
            Self::Gc => "gc",
        }
    }
}

/// Measured durations, shared by all that measure.
#[derive(Debug, Clone)]
pub struct Timings {
    reconcile: HistogramVec,
    compile: HistogramVec,
    publish: HistogramVec,
    cni: HistogramVec,
}

impl Timings {
    /// Begins with nothing measured.
    ///
    /// # Errors
    /// Never: the names are valid.
    pub fn new() -> Result<Self, Error> {
        let made = |metric: &Metric| {
            let options = HistogramOpts::new(metric.name, metric.help()).buckets(BUCKETS.to_vec());
            HistogramVec::new(options, metric.labels)
        };
        let timings = Self {
            reconcile: made(&RECONCILE_DURATION)?,
            compile: made(&COMPILE_DURATION)?,
            publish: made(&PUBLISH_DURATION)?,
            cni: made(&CNI_DURATION)?,
        };
        // Series are there from the start.
        for one in [&timings.reconcile, &timings.compile, &timings.publish] {
            one.with_label_values::<&str>(&[]);
        }
        for command in CniCommand::ALL {
            timings.cni.with_label_values(&[command.as_str(), "ok"]);
        }
        Ok(timings)
    }

    /// Adds the time from a change of the desired state until it was in force.
    pub fn reconciled(&self, time: Duration) {
        let none: &[&str] = &[];
        self.reconcile
            .with_label_values(none)
            .observe(time.as_secs_f64());
    }

    /// Adds the time to compile a table.
    pub fn compiled(&self, time: Duration) {
        let none: &[&str] = &[];
        self.compile
            .with_label_values(none)
            .observe(time.as_secs_f64());
    }

    /// Adds the time to publish a table.
    pub fn published(&self, time: Duration) {
        let none: &[&str] = &[];
        self.publish
            .with_label_values(none)
            .observe(time.as_secs_f64());
    }

    /// Adds the time for a request of the CNI plugin, which `is_done` or failed.
    pub fn answered(&self, command: CniCommand, is_done: bool, time: Duration) {
        let result = if is_done { "ok" } else { "failed" };
        let labels = [command.as_str(), result];
        self.cni
            .with_label_values(&labels)
            .observe(time.as_secs_f64());
    }

    /// Returns all of them as families of samples.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        let all = [&self.reconcile, &self.compile, &self.publish, &self.cni];
        all.into_iter().flat_map(|one| one.collect()).collect()
    }
}
