//! Points in time as people write them: how long ago, or RFC 3339.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in the form that records have: UTC with nanoseconds. Two such texts
/// compare as the times do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment(pub(super) String);

impl Moment {
    fn of(time: SystemTime) -> Self {
        Self(humantime::format_rfc3339_nanos(time).to_string())
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected how long ago, such as 5m, or a time such as 2026-01-31T12:00:00Z";
        if let Ok(ago) = humantime::parse_duration(text) {
            let time = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
            return Ok(Self::of(time.max(UNIX_EPOCH)));
        }
        let (local, east) = offset(text).ok_or(EXPECTED)?;
        let time = humantime::parse_rfc3339_weak(local).map_err(|_| EXPECTED)?;
        let shift = Duration::from_secs(60 * u64::from(east.unsigned_abs()));
        let time = if east < 0 {
            time.checked_add(shift)
        } else {
            time.checked_sub(shift)
        };
        time.filter(|time| *time >= UNIX_EPOCH)
            .map(Self::of)
            .ok_or(EXPECTED)
    }
}

/// Takes the offset off a time: what is left, and how many minutes it is east of UTC.
fn offset(text: &str) -> Option<(&str, i32)> {
    // Behind the date, whose hyphens look like signs.
    let clock = text.find(['T', 't', ' '])?;
    let Some(sign) = text[clock..].find(['+', '-']) else {
        return Some((text.trim_end_matches(['Z', 'z']), 0));
    };
    let (local, zone) = text.split_at(clock + sign);
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minutes = 60 * i32::from(hours) + i32::from(minutes);
    let east = if zone.starts_with('-') {
        -minutes
    } else {
        minutes
    };
    Some((local, east))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_offset() {
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000000Z"),
            ("2026-01-31 12:00:00", "2026-01-31T12:00:00.000000000Z"),
            ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500000000Z"),
            (
                "2026-02-01T00:30:00+05:30",
                "2026-01-31T19:00:00.000000000Z",
            ),
            (
                "2026-01-31T20:00:00-04:00",
                "2026-02-01T00:00:00.000000000Z",
            ),
        ] {
            assert_eq!(text.parse(), Ok(Moment(expected.to_owned())), "{text}");
        }
        for text in [
            "",
            "5",
            "noon",
            "2026-13-01T00:00:00Z",
            "2026-01-31T12:00:00+5",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_back_from_now() {
        let before = Moment::of(SystemTime::now()).0;
        let none: Moment = "0s".parse().expect("a duration");
        let hour: Moment = "1h".parse().expect("a duration");
        assert!(before <= none.0 && hour.0 < before);
        assert!(
            "9000y"
                .parse::<Moment>()
                .expect("a duration")
                .0
                .starts_with("1970")
        );
    }
}
