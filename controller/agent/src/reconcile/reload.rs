//! A configuration that is read again while the agent runs.

use std::sync::Arc;

use super::Reconciler;
use crate::config::{Config, Enforcement};

impl Reconciler {
    /// Takes from a configuration what can change while the agent runs, and names the rest.
    ///
    /// To be called before documents are read and interfaces are looked at: those follow it.
    pub(super) fn reload(&mut self, new: &Config) {
        let next = self.config.reloaded(new);
        for key in next.differences(new) {
            tracing::warn!("`{key}` takes effect at the next start");
        }
        let taken = self.config.differences(&next);
        if taken.is_empty() {
            tracing::info!("the configuration was read again; nothing to take from it");
        } else {
            let taken = taken.join("`, `");
            tracing::info!("the configuration was read again; taken: `{taken}`");
        }
        let is_switched = self.config.enforcement != next.enforcement;
        self.documents.follow(&next.files(), next.accept_partial);
        self.enforcer.set_adopt_midstream(next.adopt_midstream.0);
        self.early_drops.unsettle();
        self.config = Arc::new(next);
        if is_switched {
            self.tell_enforcement();
        }
    }

    /// Logs the mode of all policies.
    pub(super) fn tell_enforcement(&self) {
        match self.config.enforcement {
            Enforcement::Enforce => tracing::info!("enforcement: what policies deny is dropped"),
            Enforcement::Audit => tracing::warn!(
                "enforcement: audit; what policies deny passes and is only reported, until the \
                 configuration says `enforcement: enforce`"
            ),
        }
    }
}
