//! Labels that a selector means.

use serde_yaml::Value;

use super::tree::{all_or_absent, field, list, string};

/// `matchLabels` and all of `matchExpressions` must hold.
pub(super) fn selects(selector: &Value, labels: &[(String, String)]) -> bool {
    let value_of = |key: &str| {
        labels
            .iter()
            .find(|(candidate, _)| candidate == key)
            .map(|(_, value)| value.as_str())
    };
    let pairs_hold = match field(selector, "matchLabels") {
        None => true,
        Some(Value::Mapping(pairs)) => {
            pairs
                .iter()
                .all(|(key, value)| match (key.as_str(), value.as_str()) {
                    (Some(key), Some(value)) => value_of(key) == Some(value),
                    _ => false,
                })
        }
        Some(_) => false,
    };
    let expressions_hold = all_or_absent(selector, "matchExpressions", |expression| {
        let Some(key) = string(expression, "key") else {
            return false;
        };
        let listed = |value: &str| {
            list(expression, "values")
                .iter()
                .any(|candidate| candidate.as_str() == Some(value))
        };
        match (string(expression, "operator"), value_of(key)) {
            (Some("In"), value) => value.is_some_and(listed),
            (Some("NotIn"), value) => !value.is_some_and(listed),
            (Some("Exists"), value) => value.is_some(),
            (Some("DoesNotExist"), value) => value.is_none(),
            _ => false,
        }
    });
    selector.is_mapping() && pairs_hold && expressions_hold
}
