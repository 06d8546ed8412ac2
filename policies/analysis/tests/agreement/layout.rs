//! The same documents in other files.

use proptest::collection::vec;
use proptest::prelude::*;

/// Division of documents into files.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// A number for each document, whose order becomes theirs.
    order: Vec<u16>,
    /// Seam between each document and the one before.
    seams: Vec<Seam>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seam {
    /// In a file of its own.
    File,
    /// As the next document of the same file.
    Document,
    /// As the next item of the same list.
    Item,
}

/// More than any world has.
const MOST_DOCUMENTS: usize = 32;

pub(crate) fn layout() -> impl Strategy<Value = Layout> {
    let seam = prop_oneof![Just(Seam::File), Just(Seam::Document), Just(Seam::Item)];
    let (order, seams) = (vec(any::<u16>(), MOST_DOCUMENTS), vec(seam, MOST_DOCUMENTS));
    (order, seams).prop_map(|(order, seams)| Layout { order, seams })
}

impl Layout {
    /// The files.
    pub(crate) fn files(&self, documents: &[String]) -> Vec<String> {
        let mut ordered: Vec<_> = self.order.iter().zip(documents).collect();
        assert_eq!(ordered.len(), documents.len());
        ordered.sort_by_key(|(number, _)| **number);
        let mut files: Vec<Vec<Vec<&str>>> = Vec::new();
        for ((_, document), seam) in ordered.into_iter().zip(&self.seams) {
            match (seam, files.last_mut()) {
                (Seam::File, _) | (_, None) => files.push(vec![vec![document]]),
                (Seam::Document, Some(file)) => file.push(vec![document]),
                (Seam::Item, Some(file)) => {
                    let list = file.last_mut().expect("a file has a document");
                    list.push(document);
                }
            }
        }
        let write = |items: &Vec<&str>| match items.as_slice() {
            [alone] => (*alone).to_owned(),
            several => format!(
                "apiVersion: v1\nkind: List\nitems:\n- {}",
                several.join("\n- ")
            ),
        };
        files
            .iter()
            .map(|file| file.iter().map(write).collect::<Vec<_>>().join("\n---\n"))
            .collect()
    }
}
