//! Ids and times of objects, in as little memory as a hundred thousand of them are worth.
//!
//! An API server writes both in one form. What is in another form is kept as it is written.

use std::fmt;

/// Characters of a time as an API server writes it: `2026-01-01T00:00:00Z`.
const TIME: usize = 20;
/// Places of the hyphens in an id.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Characters of an id as an API server writes it.
const UUID: usize = 36;

/// An object's id.
///
/// Ordered as the texts are, as long as all of them are UUIDs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Uid {
    /// A UUID as an API server writes it: lower case, with hyphens.
    Uuid([u8; 16]),
    /// Another text.
    Other(Box<str>),
}

impl Uid {
    /// Keeps an id.
    pub(in super::super) fn new(text: &str) -> Self {
        uuid(text).map_or_else(|| Self::Other(text.into()), Self::Uuid)
    }

    /// Returns `true` if this is the id that the text says.
    pub(in super::super) fn is(&self, text: &str) -> bool {
        *self == Self::new(text)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(text) => f.write_str(text),
            Self::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != UUID {
        return None;
    }
    let mut bytes = [0; 16];
    let mut digits = 0;
    for (at, character) in text.iter().enumerate() {
        if HYPHENS.contains(&at) {
            if *character != b'-' {
                return None;
            }
            continue;
        }
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => return None,
        };
        let byte = &mut bytes[digits / 2];
        *byte = *byte << 4 | digit;
        digits += 1;
    }
    Some(bytes)
}

/// The time of an object's making. Ordered as the texts are, as long as all of them are times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Created {
    /// A text of another length, or none.
    Other(Box<str>),
    /// A time as an API server writes it.
    Time([u8; TIME]),
}

impl Created {
    /// Keeps a time.
    pub(in super::super) fn new(text: &str) -> Self {
        let time = text.as_bytes().try_into();
        time.map_or_else(|_| Self::Other(text.into()), Self::Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_it_was_read() {
        for text in [
            "0f8fad5b-d9cb-469f-a165-70867728950e",
            "0F8FAD5B-d9cb-469f-a165-70867728950e",
            "0f8fad5b+d9cb-469f-a165-70867728950e",
            "0f8fad5b-d9cb-469f-a165-70867728950-",
            "0f8fad5b-d9cb-469f-a165-70867728950",
            "0f8fad5bd-9cb-469f-a165-70867728950e",
            "u1",
            "",
        ] {
            let uid = Uid::new(text);
            assert_eq!(uid.to_string(), text);
            assert!(uid.is(text) && !uid.is("u2"));
        }
        let short = Uid::new("0f8fad5b-d9cb-469f-a165-70867728950e");
        assert!(matches!(short, Uid::Uuid(_)));
        assert!(Uid::new("1f8fad5b-d9cb-469f-a165-70867728950e") > short);
    }

    #[test]
    fn ids_and_times_take_no_memory_of_their_own() {
        assert_eq!(size_of::<Uid>(), 24);
        assert_eq!(size_of::<Created>(), 24);
        let (earlier, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        assert!(Created::new(earlier) < Created::new(later));
        assert!(matches!(Created::new(earlier), Created::Time(_)));
        assert!(Created::new("") < Created::new(earlier), "not known");
    }
}
