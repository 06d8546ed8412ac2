//! Labels, and the selectors that choose by them.
//!
//! A selector is a list of requirements that must all hold; the empty one matches
//! everything. Selectors are kept in one canonical form, so that two ways to write
//! the same one compare equal and are evaluated once.
//!
//! Invariant: `NotIn` and `DoesNotExist` match an object without the key, as
//! Kubernetes' own selectors do.

mod packed;

use std::cmp::Ordering;
use std::fmt;

/// The labels of one object: keys in order, each once. A copy shares them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    packed: packed::Pairs,
}

impl Labels {
    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.packed.get(key)
    }

    /// All pairs, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        (0..self.packed.len()).map(|at| self.packed.pair(at))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// The same labels with `key` set to `value`.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Self {
        self.iter()
            .filter(|(k, _)| *k != key)
            .chain([(key, value)])
            .collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    /// Compares the first pairs that differ.
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

/// Makes labels of pairs. If a key comes twice, the last value counts.
impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut pairs: Vec<(K, V)> = pairs.into_iter().collect();
        // Stable, so among equal keys the last stays last.
        pairs.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        pairs.reverse();
        pairs.dedup_by(|a, b| a.0.as_ref() == b.0.as_ref());
        pairs.reverse();
        Self {
            packed: packed::Pairs::new(&pairs),
        }
    }
}

/// Condition of a requirement on its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The key is there with one of these values, in order, each once, at least one.
    In(Box<[Box<str>]>),
    /// The key is absent, or has none of these values.
    NotIn(Box<[Box<str>]>),
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// One condition on one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
}

impl Requirement {
    /// A requirement in canonical form.
    #[must_use]
    pub fn new(key: &str, operator: Operator) -> Self {
        let canonical = |values: Box<[Box<str>]>| {
            let mut values = values.into_vec();
            values.sort();
            values.dedup();
            values.into_boxed_slice()
        };
        Self {
            key: Box::from(key),
            operator: match operator {
                Operator::In(values) => Operator::In(canonical(values)),
                Operator::NotIn(values) => Operator::NotIn(canonical(values)),
                other => other,
            },
        }
    }

    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the condition on the key.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Returns `true` if the requirement holds for an object with this value under its key,
    /// or none.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let listed = |values: &[Box<str>]| {
            value.is_some_and(|value| values.binary_search_by(|v| v.as_ref().cmp(value)).is_ok())
        };
        match &self.operator {
            Operator::In(values) => listed(values),
            Operator::NotIn(values) => !listed(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector; all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    requirements: Box<[Requirement]>,
}

impl LabelSelector {
    /// The conditions, in canonical order.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Returns `true` if an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels.get(&requirement.key)))
    }
}

impl FromIterator<Requirement> for LabelSelector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        let mut requirements: Vec<_> = requirements.into_iter().collect();
        requirements.sort();
        requirements.dedup();
        Self {
            requirements: requirements.into_boxed_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[&str]) -> Box<[Box<str>]> {
        values.iter().map(|v| Box::from(*v)).collect()
    }

    fn selector(key: &str, operator: Operator) -> LabelSelector {
        LabelSelector::from_iter([Requirement::new(key, operator)])
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn empty_selector_matches_everything() {
        assert!(LabelSelector::default().matches(&labels(&[])));
        assert!(LabelSelector::default().matches(&labels(&[("a", "1")])));
    }

    #[test]
    fn in_needs_the_key_and_a_listed_value() {
        let selector = selector("a", Operator::In(values(&["2", "1"])));
        assert!(selector.matches(&labels(&[("a", "1")])));
        assert!(selector.matches(&labels(&[("a", "2")])));
        assert!(!selector.matches(&labels(&[("a", "3")])));
        assert!(!selector.matches(&labels(&[("b", "1")])));
    }

    #[test]
    fn not_in_matches_an_absent_key() {
        let selector = selector("a", Operator::NotIn(values(&["1"])));
        assert!(selector.matches(&labels(&[])));
        assert!(selector.matches(&labels(&[("a", "2")])));
        assert!(!selector.matches(&labels(&[("a", "1")])));
    }

    #[test]
    fn exists_takes_an_empty_value_too() {
        let exists = selector("a", Operator::Exists);
        let absent = selector("a", Operator::DoesNotExist);
        for (labels, there) in [(labels(&[("a", "")]), true), (labels(&[("b", "")]), false)] {
            assert_eq!(exists.matches(&labels), there);
            assert_eq!(absent.matches(&labels), !there);
        }
    }

    #[test]
    fn empty_value_is_not_an_absent_key() {
        assert!(!selector("a", Operator::In(values(&[""]))).matches(&labels(&[])));
        assert!(!selector("a", Operator::NotIn(values(&[""]))).matches(&labels(&[("a", "")])));
    }

    #[test]
    fn all_requirements_must_hold() {
        let both = LabelSelector::from_iter([
            Requirement::new("a", Operator::Exists),
            Requirement::new("b", Operator::In(values(&["1"]))),
        ]);
        assert!(both.matches(&labels(&[("a", "x"), ("b", "1")])));
        assert!(!both.matches(&labels(&[("a", "x")])));
        assert!(!both.matches(&labels(&[("b", "1")])));
    }

    #[test]
    fn two_spellings_of_one_selector_are_equal() {
        let one = LabelSelector::from_iter([
            Requirement::new("a", Operator::In(values(&["2", "1", "1"]))),
            Requirement::new("b", Operator::Exists),
        ]);
        let other = LabelSelector::from_iter([
            Requirement::new("b", Operator::Exists),
            Requirement::new("a", Operator::In(values(&["1", "2"]))),
        ]);
        assert_eq!(one, other);
    }

    #[test]
    fn a_later_label_replaces_an_earlier_one() {
        let labels = labels(&[("a", "1"), ("b", "x"), ("a", "2")]);
        assert_eq!(labels.get("a"), Some("2"));
        assert_eq!(labels.iter().len(), 2);
        assert_eq!(labels.with("a", "3").get("a"), Some("3"));
    }
}
