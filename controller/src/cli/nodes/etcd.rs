//! The nodes that share an etcd.
//!
//! They are those that have ever told of themselves there, and those that Node documents name. A
//! node whose lease has ended is missed until its keys are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anyhow::{Result, bail};
use cofferdam_documents::{Identity, Kind};
use cofferdam_protocol::node_status::NodeState;
use cofferdam_sources::etcd::{Address, Overview, Settings};

use super::{Asked, Policy, Server, UNTOLD, summary};
use crate::cli::etcd::credentials;
use crate::output::ClusterStatus;

/// Problem of a node whose lease has ended.
const GONE: &str = "gone: no agent keeps the lease of this node any more";

/// Reads documents and statuses once, at one revision.
pub(super) fn look(address: &Address, missed_heartbeats: u32) -> Result<ClusterStatus> {
    let settings = Settings::new(address.clone(), credentials());
    let overview = Overview::read(&settings)?;
    let names = names(&overview);
    if names.is_empty() {
        let prefix = address.prefix();
        bail!(
            "no node has told of itself below {prefix}nodes/: is that the prefix of the agents, \
             and do they have `etcd.publish: true` and the right to write there?"
        );
    }
    let (policies, unreadable) = policies(&overview);
    let asked = Asked {
        server: Server::Etcd,
        policies: &policies,
        unreadable: &unreadable,
        now: SystemTime::now(),
        missed_heartbeats,
    };
    let nodes = names.iter().map(|name| {
        let told = match overview.statuses.get(name) {
            None => Err(UNTOLD),
            Some(None) => Err(GONE),
            // One that cannot be read is as good as none.
            Some(Some(text)) => serde_json::from_slice::<NodeState>(text).map_err(|_| UNTOLD),
        };
        asked.report(name, told.as_ref().map_err(|reason| *reason))
    });
    Ok(summary(nodes.collect()))
}

/// Returns the names of all nodes.
fn names(overview: &Overview) -> BTreeSet<String> {
    let texts = overview.documents.iter();
    let documents = texts.flat_map(|(text, _)| &text.parsed.documents);
    let of_documents = documents
        .filter(|document| document.identity.kind == Kind::Node)
        .map(|document| document.identity.name.to_string());
    of_documents
        .chain(overview.statuses.keys().cloned())
        .collect()
}

/// Returns the policies that are there, and the places of texts that may be some and cannot be
/// read.
fn policies(overview: &Overview) -> (Vec<Policy>, Vec<String>) {
    let mut newest: BTreeMap<&Identity, u64> = BTreeMap::new();
    let mut unreadable = Vec::new();
    for (text, revision) in &overview.documents {
        let parsed = &text.parsed;
        let good = parsed.documents.iter().map(|document| &document.identity);
        let bad = parsed
            .rejected
            .iter()
            .filter_map(|one| match &one.identity {
                None => {
                    let (file, line) = (&one.place.file, one.place.line);
                    unreadable.push(format!("{file}:{line}"));
                    None
                }
                identity => identity.as_ref(),
            });
        for identity in good.chain(bad).filter(|one| one.kind.is_policy()) {
            let version = newest.entry(identity).or_default();
            *version = (*version).max(*revision);
        }
    }
    let policies = newest.into_iter().map(|(identity, version)| Policy {
        kind: identity.kind,
        namespace: identity.namespace.to_string(),
        name: identity.name.to_string(),
        version: Some(version),
    });
    (policies.collect(), unreadable)
}
