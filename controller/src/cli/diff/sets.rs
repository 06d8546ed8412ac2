//! The two sets of documents of a comparison, which `diff` tells of and `graph` draws.
//!
//! Invariant: both sets are read whole before anything is said of either.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use cofferdam_documents::Source;

use super::revisions;
use crate::cli::connectivity::ConnectivityArgs;
use crate::cli::project::KnownTexts;

/// The set that another one is compared with.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewArgs {
    /// Compares with these documents, the new set.
    #[arg(long = "to", value_name = "NEW", num_args = 1..)]
    new: Vec<PathBuf>,
    /// Reads the objects of a live cluster into the new set, by the same kubeconfig.
    #[arg(long)]
    to_cluster: bool,
    /// Context of the cluster of the new set; that of `--context` by default.
    #[arg(long, value_name = "CONTEXT", requires = "to_cluster")]
    to_context: Option<String>,
}

/// Names of the arguments that give a new set.
pub(in crate::cli) const NEW_SET: [&str; 2] = ["new", "to_cluster"];

/// Documents before and after a change.
pub(in crate::cli) struct Sets {
    pub(in crate::cli) old: Vec<Source>,
    /// `None` if nothing is to be compared.
    pub(in crate::cli) new: Option<Vec<Source>>,
}

impl NewArgs {
    /// Reads the paths of the old set, and the new set if there is one. A cluster that is in both
    /// is read once.
    ///
    /// # Errors
    /// If something cannot be read, or the cluster forbids a kind.
    pub(in crate::cli) fn read(&self, old: &[PathBuf], state: &ConnectivityArgs) -> Result<Sets> {
        let (reading, cluster) = (&state.reading, &state.cluster);
        if self.new.is_empty() && !self.to_cluster {
            let old = revisions::read(old, reading, cluster.read()?, &KnownTexts::new())?;
            return Ok(Sets { old, new: None });
        }
        let context = cluster.user.context.as_deref();
        let to_context = self.to_context.as_deref().or(context);
        let before = match self.to_cluster && !cluster.cluster {
            true => Vec::new(),
            false => cluster.read().context("cannot read the old set")?,
        };
        let after = match self.to_cluster {
            false => Vec::new(),
            true if cluster.cluster && context == to_context => before.clone(),
            true => (cluster.read_context(to_context)).context("cannot read the new set")?,
        };
        let old = revisions::read(old, reading, before, &KnownTexts::new())
            .context("cannot read the old set")?;
        // Most of a change's files are as they were.
        let known = old.iter().map(|source| (&*source.text, source)).collect();
        let new = revisions::read(&self.new, reading, after, &known)
            .context("cannot read the new set")?;
        Ok(Sets {
            old,
            new: Some(new),
        })
    }
}
