//! Texts that many objects have in common: the names of namespaces and nodes.
//!
//! A cluster of 100 000 pods has some thousand of either, and each stands in the memory of this
//! process once, whoever reads it. The texts that nothing has any more are forgotten whenever
//! there are twice as many as there were.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Fewest texts after which those are looked for that nothing has any more.
const FEWEST: usize = 1024;

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Known {
    texts: HashSet<Arc<str>>,
    /// Texts that were left when they were last looked through.
    left: usize,
}

/// Returns a text, in the same memory as all that this has returned for an equal one and that
/// are still there.
#[must_use]
pub fn shared(text: &str) -> Arc<str> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.get(text)
}

impl Known {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= FEWEST.max(2 * self.left) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.left = self.texts.len();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_those_that_nothing_has_are_forgotten() {
        let mut known = Known::default();
        let kept: Vec<Arc<str>> = (0..10).map(|n| known.get(&format!("n{n}"))).collect();
        for n in 0..10 * FEWEST {
            known.get(&format!("x{n}"));
            assert!(known.texts.len() <= FEWEST);
        }
        for (n, text) in kept.iter().enumerate() {
            assert!(Arc::ptr_eq(text, &known.get(&format!("n{n}"))));
        }
        assert!(Arc::ptr_eq(&shared("a"), &shared("a")));
    }
}
