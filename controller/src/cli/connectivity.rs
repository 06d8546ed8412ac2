//! Options of the commands that ask for all connections at once.

use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;
use cofferdam_analysis::connectivity::{Connectivity, View};
use cofferdam_documents::Source;

use super::cluster::ClusterArgs;
use super::offline::{Documents, OwnNodeArg};
use super::project::{PodArgs, ReadArgs};

/// Documents, and all connections that they allow.
pub(super) type State = (Documents, Connectivity);

/// Ways to read documents, and what holds beside them.
#[derive(Debug, Args)]
pub(super) struct ConnectivityArgs {
    #[command(flatten)]
    pub(super) reading: ReadArgs,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    #[command(flatten)]
    pub(super) pods: PodArgs,
    /// As if policies in audit mode were enforced.
    #[arg(long)]
    pub(super) audit: bool,
    /// Rule of the agents for connections of a workload's own node.
    #[arg(long, value_enum, default_value_t)]
    pub(super) own_node: OwnNodeArg,
}

impl ConnectivityArgs {
    /// Puts the documents of an old and a new set together, and works out all connections of
    /// either, both at a time.
    ///
    /// # Errors
    /// When one is too large for one table.
    pub(super) fn of_both(&self, old: &[Source], new: &[Source]) -> Result<(State, State)> {
        let state = |sources: &[Source]| -> Result<State> {
            let documents = Documents::of(sources);
            let connectivity = self.of(&documents)?;
            Ok((documents, connectivity))
        };
        thread::scope(|scope| {
            let old = scope.spawn(|| state(old));
            let new = state(new);
            let old = old.join().unwrap_or_else(|panic| resume_unwind(panic));
            Ok((old.context("the old set")?, new.context("the new set")?))
        })
    }

    /// Works out all connections of a set of documents.
    ///
    /// # Errors
    /// When it is too large for one table.
    pub(super) fn of(&self, documents: &Documents) -> Result<Connectivity> {
        let view = if self.audit {
            View::Audited
        } else {
            View::Enforced
        };
        let reach = documents.reach_in(&self.pods.networks(), self.own_node)?;
        Ok(Connectivity::new(reach, view))
    }
}
