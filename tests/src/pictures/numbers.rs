//! Numbers with their units, and the marks of an axis.

use serde::Deserialize;

/// Unit of a panel's numbers, by its id in Grafana.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Unit {
    /// Things that are counted.
    #[serde(rename = "short")]
    Short,
    /// Packets in a second.
    #[serde(rename = "pps")]
    PacketsPerSecond,
    /// Bytes in a second, by powers of 1000.
    #[serde(rename = "Bps")]
    BytesPerSecond,
    /// Bytes, by powers of 1024.
    #[serde(rename = "bytes")]
    Bytes,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// A share of a whole, from 0 to 1.
    #[serde(rename = "percentunit")]
    Share,
}

/// Sizes of a unit, largest first, with their signs.
type Scale = &'static [(f64, &'static str)];

const SHORT: Scale = &[(1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (1.0, "")];
const PACKETS: Scale = &[
    (1e9, " Gp/s"),
    (1e6, " Mp/s"),
    (1e3, " kp/s"),
    (1.0, " p/s"),
];
const RATES: Scale = &[
    (1e9, " GB/s"),
    (1e6, " MB/s"),
    (1e3, " kB/s"),
    (1.0, " B/s"),
];
const BYTES: Scale = &[
    (1_073_741_824.0, " GiB"),
    (1_048_576.0, " MiB"),
    (1024.0, " KiB"),
    (1.0, " B"),
];
const TIMES: Scale = &[
    (86400.0, " day"),
    (3600.0, " hour"),
    (60.0, " min"),
    (1.0, " s"),
    (1e-3, " ms"),
    (1e-6, " µs"),
];
const SHARES: Scale = &[(0.01, "%")];
/// Marks that an axis has at most, beside the one at its foot.
const MARKS: f64 = 4.0;
/// Distances of marks, as multiples of a power of ten.
const DISTANCES: [f64; 5] = [1.0, 2.0, 2.5, 5.0, 10.0];

impl Unit {
    fn scale(self) -> Scale {
        match self {
            Self::Short => SHORT,
            Self::PacketsPerSecond => PACKETS,
            Self::BytesPerSecond => RATES,
            Self::Bytes => BYTES,
            Self::Seconds => TIMES,
            Self::Share => SHARES,
        }
    }

    /// Returns the size by which a number is written, with its sign.
    fn size(self, value: f64) -> (f64, &'static str) {
        let scale = self.scale();
        let fitting = scale.iter().find(|(size, _)| value.abs() >= *size);
        let unscaled = || scale.iter().find(|(size, _)| *size == 1.0);
        let of_zero = || if value == 0.0 { unscaled() } else { None };
        let smallest = || scale.last();
        let chosen = fitting.or_else(of_zero).or_else(smallest);
        chosen.copied().unwrap_or((1.0, ""))
    }

    /// Returns a number with three significant digits and its unit.
    #[must_use]
    pub fn shown(self, value: f64) -> String {
        let (size, sign) = self.size(value);
        let scaled = value / size;
        let decimals = match scaled.abs() {
            0.0 | 100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        format!("{}{sign}", plain(scaled, decimals))
    }

    /// Returns the marks of an axis that has room for these values, from the lowest; the last
    /// is the top. Each comes with its label.
    #[must_use]
    pub fn marks(self, lowest: f64, highest: f64) -> Vec<(f64, String)> {
        let span = if highest > lowest {
            highest - lowest
        } else {
            1.0
        };
        let (size, sign) = self.size(lowest.abs().max(lowest + span));
        let raw = span / size / MARKS;
        let power = 10_f64.powf(raw.log10().floor());
        let fitting = DISTANCES.iter().find(|one| **one * power >= raw * 0.999);
        let distance = fitting.copied().unwrap_or(10.0) * power;
        // Digits behind the point in which neighbours differ.
        let decimals = (0..6).find(|digits| {
            let tens = 10_f64.powi(*digits);
            ((distance * tens).round() - distance * tens).abs() < 1e-6 * tens
        });
        let decimals = decimals.unwrap_or(6) as usize;
        let first = (lowest / size / distance).floor();
        let last = ((lowest + span) / size / distance - 1e-9).ceil();
        let count = (last - first) as u32;
        let marks = (0..=count).map(|number| {
            let scaled = (first + f64::from(number)) * distance;
            (scaled * size, format!("{scaled:.decimals$}{sign}"))
        });
        marks.collect()
    }
}

/// A number without zeros at its end.
fn plain(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Returns a time of day in UTC, of seconds since the epoch.
pub(super) fn clock(time: u64) -> String {
    let (hours, minutes, seconds) = (time / 3600 % 24, time / 60 % 60, time % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_their_unit() {
        for (unit, value, shown) in [
            (Unit::Short, 0.0, "0"),
            (Unit::Short, 41.37, "41.4"),
            (Unit::Short, 1234.0, "1.23 K"),
            (Unit::PacketsPerSecond, 12.0, "12 p/s"),
            (Unit::BytesPerSecond, 1500.0, "1.5 kB/s"),
            (Unit::Bytes, 1_572_864.0, "1.5 MiB"),
            (Unit::Seconds, 0.000_25, "250 µs"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, 90.0, "1.5 min"),
            (Unit::Share, 0.125, "12.5%"),
            (Unit::Share, 0.001, "0.1%"),
            (Unit::Share, 0.0, "0%"),
        ] {
            assert_eq!(unit.shown(value), shown);
        }
    }

    #[test]
    fn marks_cover_the_values_and_are_round() {
        let labels = |unit: Unit, highest: f64| {
            let marks = unit.marks(0.0, highest);
            assert!(marks.last().is_some_and(|(top, _)| *top >= highest));
            let labels: Vec<String> = marks.into_iter().map(|(_, label)| label).collect();
            labels.join(" ")
        };
        assert_eq!(labels(Unit::Short, 7.3), "0 2 4 6 8");
        assert_eq!(labels(Unit::Short, 1.0), "0.00 0.25 0.50 0.75 1.00");
        assert_eq!(
            labels(Unit::PacketsPerSecond, 90.0),
            "0 p/s 25 p/s 50 p/s 75 p/s 100 p/s"
        );
        assert_eq!(labels(Unit::Bytes, 3072.0), "0 KiB 1 KiB 2 KiB 3 KiB");
        assert_eq!(labels(Unit::Share, 0.04), "0% 1% 2% 3% 4%");
        // Nothing but zeros.
        assert_eq!(labels(Unit::Short, 0.0), "0.00 0.25 0.50 0.75 1.00");
    }

    #[test]
    fn times_are_of_a_day() {
        assert_eq!(clock(86_400 + 3_600 + 62), "01:01:02");
    }
}
