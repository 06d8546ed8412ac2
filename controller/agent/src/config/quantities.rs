//! Quantities of the configuration, as people write them: `6h`, `100MiB`, and numbers
//! within bounds.
//!
//! Invariant: the printed form is read back as the same quantity.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::{ByteSize, GIB, KIB, MIB};
use humantime::DurationError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A whole number from `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count<const LEAST: u32, const MOST: u32>(pub u32);

impl<const LEAST: u32, const MOST: u32> JsonSchema for Count<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Count_{LEAST}_{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}

/// A duration of at least so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time<const LEAST: u64>(pub Duration);

impl<const LEAST: u64> Serialize for Time<LEAST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<const LEAST: u64> JsonSchema for Time<LEAST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Time_{LEAST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The units of humantime.
        let units = "nanos|nsec|ns|usec|us|millis|msec|ms|sec(ond)?s?|s|min(ute)?s?|m|\
                     hours?|hrs?|h|days?|d|weeks?|wks?|w|months?|M|years?|yrs?|y";
        let pattern = format!(r"^(\s*[0-9]+(\.[0-9]+)?\s*({units}))+\s*$");
        json_schema!({ "type": "string", "pattern": pattern })
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    /// A form to write instead.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<ByteSize>() {
            // To bytesize a number alone is one of bytes.
            Ok(size) if text.parse::<u64>().is_err() => Ok(Self(size.as_u64())),
            _ => Err("a number and a unit, such as 100MiB"),
        }
    }
}

/// By the largest unit that makes a whole number: bytesize rounds.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "B")];
        let mut fitting = units
            .into_iter()
            .filter(|(unit, _)| self.0.is_multiple_of(*unit));
        let (unit, name) = fitting.next().expect("1 divides every number");
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = r"^[0-9]+(\.[0-9]+)?\s*([bB]|[kKmMgGtTpPeE][iI]?[bB]?)$";
        json_schema!({ "type": "string", "pattern": pattern })
    }
}

/// Reads a duration, such as `30s` or `1h30m`.
///
/// # Errors
/// When it is none, with what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| match error {
        DurationError::UnknownUnit { .. } => error.to_string(),
        _ => "a number and a unit, such as 30s or 1h30m".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_they_are_shown() {
        for text in ["0s", "250ms", "20s", "5m", "6h", "1h 30m", "1day"] {
            let time = humantime::parse_duration(text).unwrap();
            assert_eq!(humantime::format_duration(time).to_string(), text);
        }
        for text in ["512B", "64KiB", "100MiB", "1GiB", "1500KiB", "104857601B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("1.5 gib".parse(), Ok(Size(3 << 29)));
        assert_eq!("100MB".parse(), Ok(Size(100_000_000)));
    }

    #[test]
    fn a_number_without_a_known_unit_is_none() {
        for text in ["", "30", "s", "-1s", "1H", "99999999999999999999s"] {
            assert!(humantime::parse_duration(text).is_err(), "{text:?}");
        }
        for text in ["", "100", "100MxB", "-1MiB", "MiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
