//! The documents that count, and those that are kept for when a newer one is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_policies::documents::{Identity, KeptFile, Kind, LastGood, Settled};
use cofferdam_policies::inventory::Inventory;

use super::chain;
use crate::output::Diagnostic;
use crate::sources::Sources;
use crate::state::{self, DocumentFile, Store};

pub(super) struct Documents {
    sources: Sources,
    settled: Settled,
    accept_partial: bool,
    /// Whether any state of documents has ever been in force here.
    was_in_force: bool,
    saved: Option<state::Documents>,
    /// Whether anything was read since.
    is_new: bool,
    /// Findings that have been logged.
    told: BTreeSet<String>,
}

impl Documents {
    /// Takes up again what the last agent knew to be good.
    pub(super) fn start(sources: Sources, store: &Store, accept_partial: bool) -> Self {
        let saved = match store.load::<state::Documents>(state::DOCUMENTS) {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(
                    "{}; documents that are invalid now have no last good version",
                    chain(&error)
                );
                None
            }
        };
        let mut settled = Settled::default();
        if let Some(saved) = &saved {
            let (last_good, lost) = LastGood::restore(saved.files.iter().map(kept));
            for identity in lost {
                tracing::warn!("{identity}: its last good version is not valid any more");
            }
            settled.last_good = last_good;
        }
        Self {
            sources,
            settled,
            accept_partial,
            was_in_force: saved.is_some(),
            saved,
            is_new: true,
            told: BTreeSet::new(),
        }
    }

    /// Reads all sources again.
    pub(super) fn read(&mut self) {
        let (sources, unread) = self.sources.read();
        let mut settled = self.settled.last_good.settle(&sources, unread);
        // Documents are put together anew; what comes after sees what has changed.
        settled.inventory.share_with(&self.settled.inventory);
        self.settled = settled;
        let findings: BTreeSet<String> = (self.settled.diagnostics.iter())
            .map(ToString::to_string)
            .collect();
        for finding in findings.difference(&self.told) {
            tracing::warn!("{finding}");
        }
        self.told = findings;
        self.is_new = true;
    }

    /// Whether nothing is put in force yet, because the first state that would be is
    /// known to be incomplete.
    pub(super) fn is_held(&self) -> bool {
        !self.was_in_force && self.settled.unprecedented > 0 && !self.accept_partial
    }

    pub(super) fn why_held(&self) -> String {
        format!(
            "nothing is in force yet, and documents are invalid ({}): endpoints stay closed \
             until they are mended, or the agent is started with --accept-partial",
            self.settled.unprecedented
        )
    }

    /// Invalid documents that no good version stands in for.
    pub(super) fn unprecedented(&self) -> usize {
        self.settled.unprecedented
    }

    pub(super) fn inventory(&self) -> &Inventory {
        &self.settled.inventory
    }

    pub(super) fn accepted(&self) -> u64 {
        self.settled.accepted as u64
    }

    pub(super) fn rejected(&self) -> u64 {
        self.settled.rejected.len() as u64
    }

    pub(super) fn diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        self.settled.diagnostics.iter().map(Diagnostic::from)
    }

    /// Remembers what is good now, for the next start.
    pub(super) fn save(&mut self, store: &Store) {
        self.was_in_force = true;
        if !std::mem::take(&mut self.is_new) {
            return;
        }
        let files = self.settled.last_good.files();
        let documents = state::Documents {
            files: files.iter().map(stored).collect(),
        };
        if self.saved.as_ref() == Some(&documents) {
            return;
        }
        match store.save(state::DOCUMENTS, &documents) {
            Ok(()) => self.saved = Some(documents),
            Err(error) => tracing::error!(
                "{}; after a restart, invalid documents would have no last good version",
                chain(&error)
            ),
        }
    }
}

fn stored(file: &KeptFile) -> DocumentFile {
    let names = file.documents.iter().map(|identity| {
        let Identity {
            kind,
            namespace,
            name,
        } = identity;
        (kind.to_string(), namespace.to_string(), name.to_string())
    });
    DocumentFile {
        file: file.file.to_string(),
        // A text with a good document is UTF-8.
        text: String::from_utf8_lossy(&file.text).into_owned(),
        documents: names.collect(),
    }
}

fn kept(file: &DocumentFile) -> KeptFile {
    let identities = file.documents.iter().filter_map(|(kind, namespace, name)| {
        Some(Identity {
            kind: Kind::parse(kind)?,
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
        })
    });
    KeptFile {
        file: file.file.as_str().into(),
        text: Arc::from(file.text.as_bytes()),
        documents: identities.collect(),
    }
}
