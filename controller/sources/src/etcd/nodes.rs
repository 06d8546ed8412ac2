//! Nodes that share an etcd, as they tell of themselves beside their endpoints.
//!
//! ```text
//! PREFIX/nodes/NODE/joined   the node has told of itself once; nobody's lease
//! PREFIX/nodes/NODE/status   its status, under the lease of its endpoints
//! ```
//!
//! A node whose lease has ended leaves `joined` behind: it is missed, not forgotten. Texts of
//! statuses are the agents' and their readers'; this module knows keys.
//!
//! Invariant: no key here is ever read as a document. Agents neither list nor watch this folder.

use std::collections::BTreeMap;

use cofferdam_documents::{ETCD_PREFIX, Source};

use super::store::Pair;
use super::{EtcdError, Settings, follow};

/// Folder of the keys.
pub(super) const FOLDER: &str = "nodes/";
/// Last part of the key that stays.
const JOINED: &str = "joined";
/// Last part of the key under the lease.
const STATUS: &str = "status";

/// Keys by which a node tells of itself.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Folder of both.
    pub(super) folder: String,
    /// Key that stays.
    pub(super) joined: String,
    /// Key under the lease.
    pub(super) status: String,
}

impl Keys {
    /// Returns the keys of a node.
    pub(super) fn of(node: &str) -> Self {
        let folder = format!("{FOLDER}{node}/");
        Self {
            joined: format!("{folder}{JOINED}"),
            status: format!("{folder}{STATUS}"),
            folder,
        }
    }
}

/// Documents and nodes under a prefix, as they are at one revision.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// Texts of documents, each with the revision at which it was put there.
    pub documents: Vec<(Source, u64)>,
    /// Statuses of the nodes that have ever told of themselves, by their names; `None` if no lease
    /// keeps it any more.
    pub statuses: BTreeMap<String, Option<Vec<u8>>>,
}

impl Overview {
    /// Reads documents and nodes once.
    ///
    /// # Errors
    /// When no host answers, or all refuse.
    pub fn read(settings: &Settings) -> Result<Self, EtcdError> {
        let runtime = super::runtime()?;
        let (documents, nodes) = runtime.block_on(follow::look_once(settings))?;
        let documents = documents.into_iter().map(|pair| {
            let file = format!("{ETCD_PREFIX}{}", pair.key).into();
            let revision = u64::try_from(pair.modified).unwrap_or_default();
            (Source::new(file, pair.value.into()), revision)
        });
        Ok(Self {
            documents: documents.collect(),
            statuses: statuses(nodes),
        })
    }
}

/// Returns the statuses by the names of their nodes.
fn statuses(pairs: Vec<Pair>) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut statuses: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for Pair { key, value, .. } in pairs {
        let parts = key.strip_prefix(FOLDER).and_then(|key| key.split_once('/'));
        match parts {
            Some((node, STATUS)) => _ = statuses.insert(node.to_owned(), Some(value)),
            Some((node, JOINED)) => _ = statuses.entry(node.to_owned()).or_default(),
            _ => {}
        }
    }
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_either_key_and_by_no_other() {
        let keys = Keys::of("n1");
        let pair = |key: &str| Pair {
            key: key.to_owned(),
            value: key.into(),
            created: 1,
            modified: 1,
        };
        let all = [&*keys.joined, &keys.status, "nodes/n2/joined"];
        let others = [
            "nodes/n3",
            "nodes/n3/",
            "nodes/n3/other",
            "nodes/n3/x/joined",
        ];
        for reversed in [false, true] {
            let mut pairs: Vec<Pair> = all.into_iter().chain(others).map(pair).collect();
            if reversed {
                pairs.reverse();
            }
            let told = Some(keys.status.clone().into_bytes());
            let expected = [("n1".to_owned(), told), ("n2".to_owned(), None)];
            assert_eq!(statuses(pairs), expected.into());
        }
    }
}
