//! Reading the raw tree.
//!
//! `null` is as if the field were not there; what has another form than expected
//! is never taken for something that is there.

use serde_yaml::Value;

/// A field that is there and not null.
pub(super) fn field<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    value.get(key).filter(|value| !value.is_null())
}

pub(super) fn string<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    field(value, key).and_then(Value::as_str)
}

/// The entries of a list; absent and null have none.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    field(value, key)
        .and_then(Value::as_sequence)
        .map_or(&[], Vec::as_slice)
}

/// Returns `true` if some entry holds, where an absent or empty list means everything.
pub(super) fn any_or_empty(value: &Value, key: &str, holds: impl FnMut(&Value) -> bool) -> bool {
    match field(value, key) {
        None => true,
        Some(Value::Sequence(items)) => items.is_empty() || items.iter().any(holds),
        Some(_) => false,
    }
}

/// Returns `true` if every entry holds; a list that is none does not.
pub(super) fn all_or_absent(value: &Value, key: &str, holds: impl FnMut(&Value) -> bool) -> bool {
    match field(value, key) {
        None => true,
        Some(Value::Sequence(items)) => items.iter().all(holds),
        Some(_) => false,
    }
}
