//! The documents that count, and those that are kept for when a newer one is wrong.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cofferdam_answers::diagnostic;
use cofferdam_documents::{
    API_PREFIX, ETCD_PREFIX, Identity, KeptFiles, Kind, LastGood, Settled, Source, SourceMap,
};
use cofferdam_inventory::{Inventory, ObjectName};
use cofferdam_protocol::output::Diagnostic;
use cofferdam_sources::etcd::{self, Announcement, Etcd};
use cofferdam_sources::files::Sources;
use cofferdam_sources::kubernetes::{Health, Kubernetes};
use cofferdam_syntax::diagnostic::{Code, Diagnostic as Finding, Place};

use super::standing::{PolicyFinding, ServersProgress};
use crate::config::Config;
use crate::state::Store;
use crate::state::saved_documents::StoredDocuments;

/// Most policies that are named as not in force as they are written.
const MAX_FINDINGS: usize = 200;

pub(super) struct Documents {
    sources: Sources,
    /// Everything that was last read.
    collected: Collected,
    /// Findings about files that could not be read.
    unread: Vec<Finding>,
    followed: Servers,
    /// Objects of the API server.
    objects: Listed,
    /// Progress in following servers when they were last read, at least.
    progress: ServersProgress,
    /// Texts of the etcd.
    texts: Listed,
    node: String,
    /// Workloads with an endpoint here: others' announcements of them do not count.
    local: BTreeSet<ObjectName>,
    /// Workloads that other nodes announce.
    announced: BTreeSet<ObjectName>,
    settled: Settled,
    /// Policies that are not in force as they are written; `None` until somebody asks.
    policy_findings: Option<Arc<[PolicyFinding]>>,
    accept_partial: bool,
    /// `true` once any state of documents has been in force here.
    was_in_force: bool,
    stored: StoredDocuments,
    /// `true` if sources were read since the good documents were last saved.
    is_new: bool,
    /// Start of the last look at the sources.
    looked: Instant,
    /// Findings that have been logged.
    told: BTreeSet<String>,
    /// Reason, if what is good could not be remembered for the next start.
    unsaved: Option<String>,
}

/// Servers that are followed.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    /// The API server whose objects count as documents.
    pub kubernetes: Option<Arc<Kubernetes>>,
    /// The etcd whose texts count as documents.
    pub etcd: Option<Arc<Etcd>>,
}

/// Origin of documents.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Files,
    Kubernetes,
    Etcd,
}

/// Documents of all origins, put together at the price of what has changed. No two origins have
/// one name.
#[derive(Debug, Default)]
struct Collected {
    /// By [`Origin`].
    parts: [SourceMap; 3],
    all: SourceMap,
}

impl Collected {
    /// Puts the documents of an origin in place of those before.
    fn set(&mut self, origin: Origin, now: SourceMap) {
        self.parts[origin as usize] = now;
        self.all = SourceMap::joined(self.parts.each_ref());
    }
}

/// Returns sources by their names.
fn by_name(sources: impl IntoIterator<Item = Source>) -> SourceMap {
    let named = sources.into_iter();
    named.map(|source| (source.file.clone(), source)).collect()
}

/// The documents of a server that is followed.
#[derive(Debug, Default)]
struct Listed {
    /// Documents that the previous agent knew to be good. They count until all have been read
    /// again.
    restored: SourceMap,
    /// `true` if nothing is known yet of what the server has.
    is_unlisted: bool,
}

impl Listed {
    /// Takes up the documents of a prefix that the previous agent knew to be good.
    fn restore(saved: &KeptFiles, prefix: &str) -> Self {
        let of_server = saved
            .starting_at(prefix)
            .take_while(|(name, _)| name.starts_with(prefix));
        let versions = of_server.flat_map(|(name, versions)| {
            let numbered = versions.versions().into_owned().into_iter().enumerate();
            numbered.map(move |(number, kept)| {
                // Versions of one text are two sources of one file.
                let name = match number {
                    0 => name.clone(),
                    _ => format!("{name}#{number}").into(),
                };
                (name, kept.source())
            })
        });
        Self {
            restored: versions.collect(),
            is_unlisted: true,
        }
    }

    /// Returns what counts now that the server has listed this, or nothing yet.
    fn take(&mut self, listed: Option<SourceMap>) -> SourceMap {
        if let Some(listed) = listed {
            *self = Self::default();
            return listed;
        }
        // A cluster without any object is none: its namespaces are some. An etcd may be empty,
        // but nobody knows if this one was.
        self.is_unlisted = self.restored.is_empty();
        self.restored.clone()
    }
}

impl Documents {
    /// Takes up again what the last agent of the node knew to be good.
    pub(super) fn start(
        sources: Sources,
        followed: Servers,
        store: &Store,
        config: &Config,
    ) -> Self {
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
        let mut objects = Listed::default();
        let mut texts = Listed::default();
        if let Some(saved) = saved {
            if followed.kubernetes.is_some() {
                objects = Listed::restore(&saved, API_PREFIX);
            }
            if followed.etcd.is_some() {
                texts = Listed::restore(&saved, ETCD_PREFIX);
            }
            let (last_good, lost) = LastGood::restore(saved);
            for identity in lost {
                tracing::warn!("{identity}: its last good version is not valid any more");
            }
            settled.last_good = last_good;
        }
        Self {
            sources,
            collected: Collected::default(),
            unread: Vec::new(),
            followed,
            objects,
            progress: ServersProgress::default(),
            texts,
            node: config.node.name.clone(),
            local: BTreeSet::new(),
            announced: BTreeSet::new(),
            settled,
            policy_findings: None,
            accept_partial: config.accept_partial,
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

    /// Returns `true` if a look at the sources began at this time or later.
    pub(super) fn have_seen(&self, time: Instant) -> bool {
        time <= self.looked
    }

    /// Returns the time at which the last look at the sources began.
    pub(super) fn looked(&self) -> Instant {
        self.looked
    }

    /// Looks at all sources again.
    pub(super) fn read(&mut self) {
        self.looked = Instant::now();
        let (files, unread) = self.sources.read();
        self.collected.set(Origin::Files, by_name(files));
        self.unread = unread;
        self.settle();
    }

    /// Looks again at what servers say, and not at files.
    pub(super) fn read_objects(&mut self) {
        self.looked = Instant::now();
        self.settle();
    }

    fn settle(&mut self) {
        if let Some(api) = &self.followed.kubernetes {
            // Before they are read: what comes in between counts as not read.
            let progress = api.progress();
            let listed = api.read();
            if listed.is_some() {
                self.progress.kubernetes = progress;
            }
            let objects = self.objects.take(listed);
            self.collected.set(Origin::Kubernetes, objects);
        }
        if let Some(etcd) = &self.followed.etcd {
            let progress = etcd.progress();
            let listed = etcd.read();
            if listed.is_some() {
                self.progress.etcd = progress;
            }
            let texts = self.texts.take(listed.map(by_name));
            self.announced.clear();
            let mut counting = SourceMap::default();
            for (name, text) in texts.iter() {
                if let Some(announcement) = Announcement::of_file(&text.file) {
                    // What runs here is known better than anybody announces it.
                    if announcement.node == self.node {
                        continue;
                    }
                    let workload = ObjectName::new(&announcement.namespace, &announcement.name);
                    let is_local = self.local.contains(&workload);
                    self.announced.insert(workload);
                    if is_local {
                        continue;
                    }
                }
                counting.insert(name.clone(), text.clone());
            }
            self.collected.set(Origin::Etcd, counting);
        }
        let unread = self.unread.clone();
        self.settled = self.settled.next(&self.collected.all, unread);
        self.policy_findings = None;
        let findings: BTreeSet<String> = (self.settled.diagnostics.iter())
            .map(ToString::to_string)
            .collect();
        for finding in findings.difference(&self.told) {
            tracing::warn!("{finding}");
        }
        self.told = findings;
        self.is_new = true;
    }

    /// Returns `true` if no state is put in force yet, because the first one would be
    /// incomplete.
    pub(super) fn is_held(&self) -> bool {
        self.objects.is_unlisted
            || self.texts.is_unlisted
            || !self.was_in_force && self.settled.unprecedented > 0 && !self.accept_partial
    }

    pub(super) fn why_held(&self) -> String {
        let unlisted = if self.objects.is_unlisted {
            let health = self.health();
            Some((
                "the API server's objects",
                health.and_then(|one| one.problem),
            ))
        } else if self.texts.is_unlisted {
            let health = self.etcd_health();
            Some(("the keys of etcd", health.and_then(|one| one.problem)))
        } else {
            None
        };
        if let Some((what, problem)) = unlisted {
            let problem = problem.map(|problem| format!(": {problem}"));
            return format!(
                "{what} have not been read completely yet{}; what is in force stays, and \
                 endpoints that are new stay closed",
                problem.unwrap_or_default()
            );
        }
        format!(
            "nothing is in force yet, and documents are invalid ({}): endpoints stay closed \
             until they are mended, or the agent is started with --accept-partial",
            self.settled.unprecedented
        )
    }

    /// Returns the state of the API server, `None` without one.
    pub(super) fn health(&self) -> Option<Health> {
        self.followed.kubernetes.as_ref().map(|api| api.health())
    }

    /// Returns the state of the etcd, `None` without one.
    pub(super) fn etcd_health(&self) -> Option<etcd::Health> {
        self.followed.etcd.as_ref().map(|etcd| etcd.health())
    }

    /// Returns the etcd, `None` without one.
    pub(super) fn etcd(&self) -> Option<&Etcd> {
        self.followed.etcd.as_deref()
    }

    /// Notes which workloads have an endpoint here. What other nodes announce of them stops
    /// counting, or begins to.
    pub(super) fn set_local(&mut self, local: BTreeSet<ObjectName>) {
        let mut changed = self.local.symmetric_difference(&local);
        let is_concerned = changed.any(|name| self.announced.contains(name));
        self.local = local;
        if is_concerned {
            self.settle();
        }
    }

    /// Returns `true` if an API server says what pods there are.
    pub(super) fn are_of_cluster(&self) -> bool {
        self.followed.kubernetes.is_some()
    }

    /// Returns the progress in following servers when they were last read, at least.
    pub(super) fn progress(&self) -> &ServersProgress {
        &self.progress
    }

    /// Returns the policies that are not in force as they are written, not more than
    /// [`MAX_FINDINGS`].
    pub(super) fn policy_findings(&mut self) -> Arc<[PolicyFinding]> {
        if let Some(found) = &self.policy_findings {
            return found.clone();
        }
        let found = self.find_policies();
        self.policy_findings.insert(found).clone()
    }

    fn find_policies(&self) -> Arc<[PolicyFinding]> {
        let settled = &self.settled;
        let rejected = settled.rejected.iter().filter_map(|rejected| {
            let identity = rejected
                .identity
                .clone()
                .or_else(|| of_object(&rejected.place.file))?;
            if !identity.kind.is_policy() {
                return None;
            }
            let mut about = (settled.diagnostics.iter())
                .filter(|finding| is_there(&finding.place, &rejected.place));
            let message = about
                .next()
                .map_or("it is not valid", |first| &*first.message);
            Some(PolicyFinding {
                identity,
                is_rejected: true,
                message: message.to_owned(),
            })
        });
        let partly = [Code::DomainNamesIdle, Code::UnknownPeer];
        let partly = settled.diagnostics.iter().filter_map(|finding| {
            if !partly.contains(&finding.code) {
                return None;
            }
            let identity =
                of_object(&finding.place.file).or_else(|| self.policy_at(&finding.place));
            Some(PolicyFinding {
                identity: identity?,
                is_rejected: false,
                message: finding.message.clone(),
            })
        });
        rejected.chain(partly).take(MAX_FINDINGS).collect()
    }

    /// Returns the policy of the whole cluster that stands at a place: no other can be in force
    /// in part.
    fn policy_at(&self, place: &Place) -> Option<Identity> {
        let mut policies = self.inventory().cluster_policies().iter();
        let (name, _) = policies.find(|(_, policy)| is_there(&policy.place, place))?;
        Some(Identity {
            kind: Kind::ClusterNetworkPolicy,
            namespace: Arc::from(""),
            name: name.clone(),
        })
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

/// Returns the object that a name stands for: `kubernetes:NetworkPolicy/shop/db`.
fn of_object(file: &str) -> Option<Identity> {
    let mut words = file.strip_prefix(API_PREFIX)?.split('/');
    let kind = Kind::parse(words.next()?)?;
    let (first, second) = (words.next()?, words.next());
    let (namespace, name) = second.map_or(("", first), |second| (first, second));
    Some(Identity {
        kind,
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    })
}

/// Returns `true` if a finding's place is a document's: that of an object has neither line nor
/// other documents.
fn is_there(finding: &Place, document: &Place) -> bool {
    finding.file == document.file && finding.line == document.line
}
