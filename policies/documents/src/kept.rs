//! The versions of a file that are kept for when a newer one is wrong.

use std::borrow::Cow;
use std::sync::Arc;

use super::file::{KeptFile, Source};

/// The versions of a file whose documents are the last good ones.
#[derive(Debug, Clone)]
pub enum Kept {
    /// The file as it was read: all documents that could be read count. It is shared with what
    /// was read, because in a large cluster nearly everything is kept as it is.
    Whole(Source),
    /// Texts of different times, or with documents that do not count.
    Parts(Arc<[KeptFile]>),
}

impl Kept {
    /// Returns the versions, at least one.
    #[must_use]
    pub fn versions(&self) -> Cow<'_, [KeptFile]> {
        match self {
            Self::Whole(source) => Cow::Owned(vec![KeptFile::of(source)]),
            Self::Parts(versions) => Cow::Borrowed(versions),
        }
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) if one == other => true,
            // Copies of one are told at once.
            (Self::Parts(one), Self::Parts(other)) if Arc::ptr_eq(one, other) => true,
            _ => self.versions() == other.versions(),
        }
    }
}

impl Eq for Kept {}

impl From<&[KeptFile]> for Kept {
    fn from(versions: &[KeptFile]) -> Self {
        Self::Parts(versions.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_whole_equals_what_was_stored_of_it() {
        let source = |text: &str| Source::new("f".into(), text.as_bytes().into());
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}}";
        let (one, other) = (source(pod), source("{}"));
        let stored = Kept::from(&[KeptFile::of(&one)][..]);
        assert_eq!(Kept::Whole(one.clone()), stored);
        assert_eq!(Kept::Whole(source(pod)), Kept::Whole(one.clone()));
        assert_ne!(Kept::Whole(other.clone()), stored);
        assert_ne!(Kept::Whole(other), Kept::Whole(one));
    }

    #[test]
    fn a_file_that_is_kept_whole_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Kept>(), size_of::<Source>());
    }
}
