//! Sorted pairs of texts in one piece of memory.
//!
//! A large cluster has 100 000 pods with some five labels each. A text of its own for every key
//! and value takes 500 bytes a pod, most of them the allocator's; one piece takes 130.
//!
//! Invariant: pairs that are equal are packed into equal texts.

use std::sync::Arc;

/// Bits that a digit of a number stands for: each is one ASCII character.
const DIGIT_BITS: usize = 6;
/// Digits of a number where all texts together are shorter than 4096 bytes.
const SHORT: usize = 2;
/// Digits of a number elsewhere: enough for a GiB.
const LONG: usize = 5;
/// Marks digits, so that none is a control character.
const DIGIT: u8 = 0x40;

/// Pairs of texts, in the order of the first ones.
///
/// First comes the number of pairs, then the end of each first and second text, then all texts
/// without anything between. The first number tells how many digits numbers have: two begin
/// with `@`, five with `A`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Pairs {
    /// Empty if there is no pair.
    packed: Arc<str>,
}

impl Pairs {
    /// Packs pairs that are in order, each first text once.
    pub(super) fn new<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Self {
        if pairs.is_empty() {
            return Self::default();
        }
        let texts = || pairs.iter().flat_map(|(a, b)| [a.as_ref(), b.as_ref()]);
        let length: usize = texts().map(str::len).sum();
        let is_short = length.max(pairs.len()) < 1 << (DIGIT_BITS * SHORT);
        let (begin, digits) = if is_short { ('@', SHORT) } else { ('A', LONG) };
        let mut packed = String::with_capacity(1 + digits * (1 + 2 * pairs.len()) + length);
        packed.push(begin);
        let mut number = |number: usize| {
            for place in (0..digits).rev() {
                let digit = number >> (DIGIT_BITS * place) & ((1 << DIGIT_BITS) - 1);
                packed.push(char::from(DIGIT | u8::try_from(digit).unwrap_or(0)));
            }
        };
        number(pairs.len());
        let mut end = 0;
        for text in texts() {
            end += text.len();
            number(end);
        }
        packed.extend(texts());
        Self {
            packed: packed.into(),
        }
    }

    /// Returns the number of pairs.
    pub(super) fn len(&self) -> usize {
        if self.packed.is_empty() {
            return 0;
        }
        self.number(0)
    }

    /// Returns the pair at a place.
    pub(super) fn pair(&self, at: usize) -> (&str, &str) {
        let [begin, middle, end] = [0, 1, 2].map(|next| self.end(2 * at + next));
        let texts = self.texts();
        (&texts[begin..middle], &texts[middle..end])
    }

    /// Returns the second text of the pair with this first one.
    pub(super) fn get(&self, first: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let (candidate, second) = self.pair(middle);
            match candidate.cmp(first) {
                std::cmp::Ordering::Equal => return Some(second),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn digits(&self) -> usize {
        if self.packed.starts_with('@') {
            SHORT
        } else {
            LONG
        }
    }

    /// The number at a place, of those that stand before the texts.
    fn number(&self, at: usize) -> usize {
        let digits = self.digits();
        let begin = 1 + digits * at;
        let digits = &self.packed.as_bytes()[begin..begin + digits];
        digits.iter().fold(0, |number, digit| {
            number << DIGIT_BITS | usize::from(digit & !DIGIT)
        })
    }

    /// The end of so many texts.
    fn end(&self, texts: usize) -> usize {
        match texts {
            0 => 0,
            _ => self.number(texts),
        }
    }

    fn texts(&self) -> &str {
        &self.packed[1 + self.digits() * (1 + 2 * self.len())..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_out_as_they_went_in_whatever_their_lengths() {
        for length in [0, 1, 63, 64, 4_000, 5_000, 70_000] {
            for count in [1_usize, 2, 300] {
                let pairs: Vec<(String, String)> = (0..count)
                    .map(|at| (format!("{at:03}\0ä"), "v".repeat(length / (at + 1))))
                    .collect();
                let packed = Pairs::new(&pairs);
                assert_eq!(packed.len(), count);
                for (at, (first, second)) in pairs.iter().enumerate() {
                    assert_eq!(packed.pair(at), (&**first, &**second));
                    assert_eq!(packed.get(first), Some(&**second));
                }
                assert_eq!(packed.get("003"), None);
                assert_eq!(packed.get("~"), None);
            }
        }
        assert_eq!(Pairs::default().len(), 0);
        assert_eq!(Pairs::default().get(""), None);
    }

    #[test]
    fn five_labels_take_less_memory_than_two_cache_lines_and_a_half() {
        let pairs = [
            ("app.kubernetes.io/instance", "shop-web"),
            ("app.kubernetes.io/name", "web"),
            ("pod-template-hash", "7d4f9c8b6"),
            ("stage", "prod"),
            ("tier", "web"),
        ];
        let packed = Pairs::new(&pairs);
        let counts = 2 * size_of::<usize>();
        assert!(packed.packed.len() + counts <= 160, "{packed:?}");
    }
}
