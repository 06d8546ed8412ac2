//! Progress in following a server.

use std::collections::BTreeMap;

use cofferdam_documents::Kind;

/// Progress in following a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Count of changes so far that let something count differently.
    pub changes: u64,
    /// The newest version that is known of each kind of policies: no policy with it or a lower
    /// one is missing. A kind of which the server has told no number is left out. An etcd has one
    /// number for all kinds, the revision of the newest text.
    pub versions: BTreeMap<Kind, u64>,
}
