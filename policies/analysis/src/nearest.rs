//! Guesses the word that an author meant, from the words that exist.

use strsim::osa_distance;

/// Longer words are not compared.
const LONGEST: usize = 64;

/// The candidate that `word` most resembles, if it resembles one: at most a third of
/// its letters are others, two that changed places counting once.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let letters = word.chars().count();
    if letters > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.chars().count() <= LONGEST)
        .map(|candidate| (osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= (letters / 3).max(1) && *distance < letters)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let known = ["frontend", "backend", "db"];
        assert_eq!(nearest("forntend", known), Some("frontend"));
        assert_eq!(nearest("backends", known), Some("backend"));
        assert_eq!(nearest("cache", known), None);
        assert_eq!(nearest("bd", known), Some("db"));
        assert_eq!(nearest("d", known), None);
    }
}
