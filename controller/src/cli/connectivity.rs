//! Options of the commands that ask for all connections at once.

use anyhow::Result;
use clap::Args;
use cofferdam_analysis::connectivity::{Connectivity, View};

use super::cluster::ClusterArgs;
use super::offline::{Documents, OwnNodeArg};
use super::project::{PodArgs, ReadArgs};

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
