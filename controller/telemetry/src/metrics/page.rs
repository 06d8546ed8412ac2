//! A page of metrics in the making.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};
use prometheus::{Error, TextEncoder};

use super::list::{Kind, Metric};

/// Samples by metric, in the order of names.
#[derive(Debug, Default)]
pub(super) struct Page {
    families: BTreeMap<&'static str, MetricFamily>,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

impl Page {
    /// Adds a sample; `values` are those of the metric's labels, in their order.
    pub(super) fn put<'v>(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = &'v str>,
        value: f64,
    ) {
        self.put_more(metric, values, &[], value);
    }

    /// Adds a sample with labels beside those of the list: pairs of name and value.
    pub(super) fn put_more<'v>(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = &'v str>,
        more: &[(&'v str, &'v str)],
        value: f64,
    ) {
        let own = metric.labels.iter().copied().zip(values);
        let pairs = own.chain(more.iter().copied()).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        });
        let mut sample = Sample::default();
        sample.set_label(pairs.collect());
        match metric.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
        }
        self.families.entry(metric.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help().to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge | Kind::Histogram => MetricType::GAUGE,
            });
            family
        });
        self.samples.entry(metric.name).or_default().push(sample);
    }

    /// Writes the page in the text format of Prometheus, with histograms behind it.
    ///
    /// # Errors
    /// When a sample has no name.
    pub(super) fn text(mut self, histograms: &[MetricFamily]) -> Result<String, Error> {
        let families = self.families.into_iter().map(|(name, mut family)| {
            family.set_metric(self.samples.remove(name).unwrap_or_default());
            family
        });
        let families: Vec<MetricFamily> = families.collect();
        let mut text = String::new();
        let encoder = TextEncoder::new();
        encoder.encode_utf8(&families, &mut text)?;
        encoder.encode_utf8(histograms, &mut text)?;
        Ok(text)
    }
}
