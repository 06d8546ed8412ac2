//! Report that every soak makes: its machine, its outcome, the way to do it again.
//!
//! A soak is a test of the kind that runs every time, for as long as somebody
//! wants. Its last line is for programs to read, and the same for all of them.

use std::fmt;

use serde::Serialize;

use crate::machine;

/// The last line of a soak.
///
/// A figure that a soak cannot come to is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    schema: &'static str,
    soak: &'static str,
    /// Number of times that the act of the soak was done.
    pub runs: u64,
    /// Packets that passed though they must not.
    pub leaked: u64,
    /// Packets that did not pass though they must.
    pub lost: u64,
    /// Established flows that ended for no good reason.
    pub broken: u64,
    /// Verdicts that were not the expected ones.
    pub disagreements: u64,
    /// The longest time in which something was not as it must be.
    pub window_ms_max: u64,
    /// The seed that it began with.
    pub seed: u64,
}

impl Tally {
    /// Nothing has happened yet.
    pub fn new(soak: &'static str, seed: u64) -> Self {
        Self {
            schema: "cofferdam/v1",
            soak,
            seed,
            ..Self::default()
        }
    }

    /// Returns `true` if all was as it must be.
    pub fn is_clean(&self) -> bool {
        (self.leaked, self.lost, self.broken, self.disagreements) == (0, 0, 0, 0)
    }
}

/// As one line of JSON.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&line)
    }
}

/// The first line of a soak: what it is, where, and from which seed.
pub fn heading(soak: &str, seed: u64) -> String {
    format!(
        "soak {soak}: {}, Linux {}, seed {seed}",
        machine::processors(),
        machine::kernel()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_promised_one() {
        assert_eq!(
            Tally {
                runs: 200,
                ..Tally::new("verdicts", 1)
            }
            .to_string(),
            r#"{"schema":"cofferdam/v1","soak":"verdicts","runs":200,"leaked":0,"lost":0,"broken":0,"disagreements":0,"window_ms_max":0,"seed":1}"#
        );
    }

    #[test]
    fn whatever_went_wrong_is_not_clean() {
        let clean = Tally::new("verdicts", 1);
        assert!(clean.is_clean());
        for wrong in [
            Tally {
                leaked: 1,
                ..clean.clone()
            },
            Tally {
                lost: 1,
                ..clean.clone()
            },
            Tally {
                broken: 1,
                ..clean.clone()
            },
            Tally {
                disagreements: 1,
                ..clean.clone()
            },
        ] {
            assert!(!wrong.is_clean(), "{wrong}");
        }
    }
}
