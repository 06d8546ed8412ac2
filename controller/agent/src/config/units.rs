//! Durations and sizes as people write them, `6h` and `100MiB`.
//!
//! A number never stands alone: `30` might be seconds or milliseconds, and a wrong
//! guess would be found out late.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write a whole number and a unit, {units}, such as {example}")]
pub struct UnitError {
    units: &'static str,
    example: &'static str,
}

const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that makes a whole number.
fn shown(value: u64, units: &[(&'static str, u64)], zero: &'static str) -> (u64, &'static str) {
    let unit = units
        .iter()
        .find(|(_, factor)| value.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) if value != 0 => (value / factor, name),
        _ => (value, zero),
    }
}

/// Reads a duration: `0s`, `250ms`, `20s`, `5m`, `6h`, `1d`.
///
/// # Errors
/// When it is anything else.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let error = UnitError {
        units: "one of ms, s, m, h, d",
        example: "30s",
    };
    quantity(text, &TIMES)
        .map(Duration::from_millis)
        .ok_or(error)
}

/// A duration in the way [`duration`] reads it.
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (number, unit) = shown(millis, &TIMES, "s");
        write!(f, "{number}{unit}")
    }
}

/// Reads a number of bytes: `512B`, `64KiB`, `100MiB`, `1GiB`.
///
/// # Errors
/// When it is anything else.
pub fn size(text: &str) -> Result<u64, UnitError> {
    let error = UnitError {
        units: "one of B, KiB, MiB, GiB",
        example: "100MiB",
    };
    quantity(text, &SIZES).ok_or(error)
}

/// A number of bytes in the way [`size`] reads it.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = shown(self.0, &SIZES, "B");
        write!(f, "{number}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_they_are_shown() {
        for text in ["0s", "250ms", "20s", "5m", "6h", "90m", "1d"] {
            assert_eq!(Time(duration(text).unwrap()).to_string(), text);
        }
        for text in ["0B", "512B", "64KiB", "100MiB", "1GiB", "1500KiB"] {
            assert_eq!(Size(size(text).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn a_number_without_a_known_unit_is_none() {
        for text in [
            "",
            "30",
            "s",
            "1.5h",
            "-1s",
            "1 h",
            "1H",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        for text in ["100", "100MB", "1mib", "1 MiB", "MiB"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }
}
