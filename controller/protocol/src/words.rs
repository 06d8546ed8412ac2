//! Words of closed lists, as they stand in JSON and in flags.
//!
//! The lists themselves are types of the verdict crate, which knows no JSON: a field of such
//! a type says `#[serde(with = "words")]`.

use std::borrow::Cow;

use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};
#[cfg(feature = "schemas")]
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize as _, Deserializer, Serializer, de};

/// A type of few values, each with a word of its own.
pub trait ClosedList: Copy + 'static {
    /// All values.
    const ALL: &'static [Self];

    /// Returns the word in JSON, in flags and in labels of metrics.
    fn word(self) -> &'static str;

    /// Returns the value with this word, or `None` if there is none.
    #[must_use]
    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.word() == word)
    }
}

impl ClosedList for Reason {
    const ALL: &'static [Self] = Reason::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl ClosedList for Hook {
    const ALL: &'static [Self] = &Hook::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl ClosedList for Action {
    const ALL: &'static [Self] = &[Self::Allow, Self::Deny];

    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl ClosedList for Direction {
    const ALL: &'static [Self] = &[Self::Ingress, Self::Egress];

    fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Writes a value's word.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: ClosedList, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.word())
}

/// Reads a value by its word.
///
/// # Errors
/// If no value has the word.
pub fn deserialize<'de, T: ClosedList, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let word = Cow::<'de, str>::deserialize(deserializer)?;
    T::of_word(&word).ok_or_else(|| {
        let known: Vec<&str> = T::ALL.iter().map(|one| one.word()).collect();
        let known = known.join(", ");
        de::Error::custom(format!("{word:?} is none of: {known}"))
    })
}

/// Describes a field that holds one of the words.
#[cfg(feature = "schemas")]
#[must_use]
pub fn schema<T: ClosedList>(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<&str> = T::ALL.iter().map(|one| one.word()).collect();
    json_schema!({ "type": "string", "enum": words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_the_value_it_stands_for() {
        fn check<T: ClosedList + PartialEq + std::fmt::Debug>() {
            for value in T::ALL {
                assert_eq!(T::of_word(value.word()), Some(*value));
            }
            assert_eq!(T::of_word(""), None);
        }
        check::<Reason>();
        check::<Hook>();
        check::<Action>();
        check::<Direction>();
        check::<crate::output::RecordType>();
    }
}
