//! Texts that documents come from: as they were read, and as they are kept.

use std::sync::Arc;

use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_syntax::diagnostic::Place;

use super::context::Context;
use super::kept::Kept;
use super::{API_PREFIX, Content, Document, Identity, Parsed, Strictness, parse_as, parse_object};

/// A file as it was read, or an object of an API server.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in diagnostics; an object's begins with [`API_PREFIX`].
    pub file: Arc<str>,
    /// Bytes of the file or object; empty of an object [`without_text`](Source::without_text).
    pub text: Arc<[u8]>,
    /// The text is all that was read; of one larger than [`MAX_FILE`](super::MAX_FILE) a part
    /// is kept.
    pub(super) is_whole: bool,
    /// Result of reading them.
    pub parsed: Arc<Parsed>,
}

impl Source {
    /// Reads a file's text, or an object's, as it is put in force.
    #[must_use]
    pub fn new(file: Arc<str>, text: Arc<[u8]>) -> Self {
        Self::read_as(file, text, Strictness::Strict)
    }

    /// Reads a file's text strictly, or among whatever else a repository holds. An object's
    /// is always read strictly.
    #[must_use]
    pub fn read_as(file: Arc<str>, text: Arc<[u8]>, strictness: Strictness) -> Self {
        let parsed = if is_object(&file) {
            parse_object(&file, &text)
        } else {
            parse_as(&file, &text, strictness)
        };
        let parsed = Arc::new(parsed);
        let is_whole = true;
        Self {
            file,
            text,
            is_whole,
            parsed,
        }
    }

    /// The same text under another name. `None` if it is not to be had without reading it again:
    /// something was found in it, it is an object's, or only a part of it was kept.
    #[must_use]
    pub fn renamed(&self, file: &Arc<str>) -> Option<Self> {
        if !self.is_whole || is_object(&self.file) || is_object(file) {
            return None;
        }
        let Parsed {
            documents,
            rejected,
            diagnostics,
            context,
            passed_over,
        } = &*self.parsed;
        let has_findings =
            !(rejected.is_empty() && diagnostics.is_empty() && passed_over.is_empty());
        let context_without_places = Context {
            others: context.others,
            ..Context::default()
        };
        if has_findings || **context != context_without_places {
            return None;
        }
        let documents = documents
            .iter()
            .map(|document| document.renamed(&self.file, file));
        Some(Self {
            file: file.clone(),
            text: self.text.clone(),
            is_whole: true,
            parsed: Arc::new(Parsed {
                documents: documents.collect(),
                context: context_without_places.into(),
                ..Parsed::default()
            }),
        })
    }
}

impl Document {
    /// The same in a file of another name.
    fn renamed(&self, from: &Arc<str>, to: &Arc<str>) -> Self {
        let mut document = self.clone();
        let rename = |place: &mut Place| {
            // An annotation may say that it was written elsewhere.
            if place.file == *from {
                place.file = to.clone();
            }
        };
        rename(&mut document.place);
        match &mut document.content {
            Content::NetworkPolicy(policy) => {
                Arc::make_mut(policy).places_mut().for_each(rename);
            }
            Content::ClusterNetworkPolicy(policy) => {
                Arc::make_mut(policy).places_mut().for_each(rename);
            }
            Content::Namespace(_)
            | Content::Node(_)
            | Content::Pod(_)
            | Content::Service(_)
            | Content::EndpointSlice(_) => {}
        }
        document
    }
}

impl PartialEq for Source {
    /// Returns `true` for copies of one source, which is told without a look at the text.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.parsed, &other.parsed)
    }
}

/// Sources by their names. A large cluster has 200 000 objects, and few of them differ from one
/// state to the next: what is the same is shared, and not looked at.
pub type SourceMap = SharedMap<Arc<str>, Source>;

/// Kept files by their names, each with its versions.
pub type KeptFiles = SharedMap<Arc<str>, Kept>;

/// A file's text and the documents in it that are the last good ones.
#[derive(Debug, Clone)]
pub struct KeptFile {
    /// The file's name.
    pub file: Arc<str>,
    /// Its text when those documents were good.
    pub text: Arc<[u8]>,
    /// The documents.
    pub documents: Arc<[Identity]>,
}

impl KeptFile {
    /// Returns the file as a source with those documents alone: what of its text was good.
    #[must_use]
    pub fn source(&self) -> Source {
        let mut source = Source::new(self.file.clone(), self.text.clone());
        let parsed = Arc::make_mut(&mut source.parsed);
        let is_kept = |document: &Document| self.documents.contains(&document.identity);
        parsed.documents.retain(is_kept);
        parsed.rejected.clear();
        parsed.diagnostics.clear();
        source
    }
}

impl PartialEq for KeptFile {
    fn eq(&self, other: &Self) -> bool {
        // Copies of one are told at once, whatever the length of the text.
        fn is_same<T: PartialEq + ?Sized>(one: &Arc<T>, other: &Arc<T>) -> bool {
            Arc::ptr_eq(one, other) || one == other
        }
        is_same(&self.file, &other.file)
            && is_same(&self.documents, &other.documents)
            && is_same(&self.text, &other.text)
    }
}

impl Eq for KeptFile {}

impl KeptFile {
    /// A file all of whose documents are good.
    pub(super) fn of(source: &Source) -> Self {
        let documents = source.parsed.documents.iter();
        Self {
            file: source.file.clone(),
            text: source.with_text().text,
            documents: documents.map(|one| one.identity.clone()).collect(),
        }
    }
}

/// Returns `true` if a file's name is that of an API server's object.
pub(super) fn is_object(file: &str) -> bool {
    file.starts_with(API_PREFIX)
}
