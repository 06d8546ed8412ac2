//! The documents that count, and those that are kept for when a newer one is wrong.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use cofferdam_answers::diagnostic;
use cofferdam_policies::documents::{LastGood, Settled};
use cofferdam_policies::inventory::Inventory;
use cofferdam_protocol::output::Diagnostic;
use cofferdam_sources::files::Sources;

use super::chain;
use crate::state::Store;
use crate::state::documents::StoredDocuments;

pub(super) struct Documents {
    sources: Sources,
    settled: Settled,
    accept_partial: bool,
    /// Whether any state of documents has ever been in force here.
    was_in_force: bool,
    stored: StoredDocuments,
    /// Whether anything was read since.
    is_new: bool,
    /// When the last look at the sources began.
    looked: Instant,
    /// Findings that have been logged.
    told: BTreeSet<String>,
    /// Reason, if what is good could not be remembered for the next start.
    unsaved: Option<String>,
}

impl Documents {
    /// Takes up again what the last agent knew to be good.
    pub(super) fn start(sources: Sources, store: &Store, accept_partial: bool) -> Self {
        let mut stored = StoredDocuments::new(store.clone());
        let saved = stored.load().unwrap_or_else(|error| {
            tracing::warn!(
                "{}; documents that are invalid now have no last good version",
                chain(&error)
            );
            None
        });
        let was_in_force = saved.is_some();
        let mut settled = Settled::default();
        if let Some(saved) = saved {
            let (last_good, lost) = LastGood::restore(saved);
            for identity in lost {
                tracing::warn!("{identity}: its last good version is not valid any more");
            }
            settled.last_good = last_good;
        }
        Self {
            sources,
            settled,
            accept_partial,
            was_in_force,
            stored,
            is_new: true,
            looked: Instant::now(),
            told: BTreeSet::new(),
            unsaved: None,
        }
    }

    /// Lets the next look read files of these paths, by a configuration that was read again.
    pub(super) fn follow(&mut self, paths: &[PathBuf], accept_partial: bool) {
        self.sources.set_paths(paths);
        self.accept_partial = accept_partial;
    }

    /// Lets the next look read every file, whatever its metadata says.
    pub(super) fn distrust_metadata(&mut self) {
        self.sources.distrust_metadata();
    }

    /// Whether all changes of sources until some time have been looked at.
    pub(super) fn have_seen(&self, time: Instant) -> bool {
        time <= self.looked
    }

    /// Looks at all sources again.
    pub(super) fn read(&mut self) {
        self.looked = Instant::now();
        let (sources, unread) = self.sources.read();
        self.settled = self.settled.next(&sources, unread);
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
        self.settled.diagnostics.iter().map(diagnostic)
    }

    /// Remembers what is good now, for the next start.
    pub(super) fn save(&mut self) {
        self.was_in_force = true;
        if !self.is_new {
            return;
        }
        self.unsaved = match self.stored.save(self.settled.last_good.files()) {
            Ok(()) => {
                self.is_new = false;
                None
            }
            Err(error) => {
                let unsaved = format!(
                    "{}; after a restart, invalid documents would have no last good version",
                    chain(&error)
                );
                tracing::error!("{unsaved}");
                Some(unsaved)
            }
        };
    }

    /// Reason, if what is good could not be remembered for the next start.
    pub(super) fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }
}
