//! An API server of Kubernetes as a source: each object stands for its document.
//!
//! A thread of its own lists and watches all kinds that documents are read for. Objects are
//! stripped while they are read ([`object`]) and kept as documents ([`store`]), which the
//! agent reads as it reads files. What connects to the server is in [`connection`] alone,
//! and what follows it in [`follow`]. Commands of users list objects once ([`once`]), and
//! an agent tells of itself by [`writing`].
//!
//! Invariants: nothing is handed over before a whole list of every kind has been read; while
//! the server does not answer, what it said last stays. Credentials are in no message.

mod connection;
mod daemon_set;
mod follow;
mod object;
mod once;
mod store;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_documents::{Kind, SourceMap};
use tokio::sync::{mpsc, watch};

use crate::Progress;
use store::Store;

pub use connection::User;
pub use daemon_set::{DaemonSet, Unanswered};
pub use once::{Cluster, LookError, Resource};
pub use store::Pod;
pub use writing::{WriteError, Writer};

/// Time from one question about a pod to the next, while somebody waits for it.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(250);

/// The server, and how it is followed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kubeconfig; `None` takes the service account of the pod that the agent runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Longest wait for the document of a pod that is to be attached.
    pub wait: Duration,
    /// Time from one look for a kind that the server does not have to the next.
    pub between_looks: Duration,
    /// Longest wait after a failure before the next try; the first is far shorter.
    pub longest_pause: Duration,
    /// Silence after which the server is asked if it is there, and longest wait for that.
    pub quiet: Duration,
}

impl Settings {
    /// Returns the settings for a server, with the paces that suit large clusters.
    #[must_use]
    pub fn new(kubeconfig: Option<PathBuf>, wait: Duration) -> Self {
        Self {
            kubeconfig,
            wait,
            between_looks: Duration::from_secs(30),
            longest_pause: Duration::from_secs(30),
            quiet: Duration::from_secs(30),
        }
    }
}

/// The state of what an API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `true` once a whole list of every kind has been read.
    pub is_complete: bool,
    /// Time since which the server has not answered, or refused; `None` while it answers.
    pub away_since: Option<SystemTime>,
    /// Reason for that.
    pub problem: Option<String>,
    /// Number of objects of each kind.
    pub objects: BTreeMap<Kind, usize>,
}

/// An API server that is followed for as long as this value lives.
#[derive(Debug)]
pub struct Kubernetes {
    wait: Duration,
    shared: Arc<Shared>,
    awaited: mpsc::UnboundedSender<Awaited>,
}

/// A pod that somebody waits for.
#[derive(Debug)]
struct Awaited {
    namespace: String,
    name: String,
    uid: Option<String>,
    deadline: Instant,
}

/// Hears that something counts differently, with the time of it.
type Changed = Box<dyn Fn(Instant) + Send + Sync>;

/// State that the thread of the source shares.
struct Shared {
    state: Mutex<State>,
    changed: Changed,
    /// Counts what has been found out.
    news: watch::Sender<u64>,
    /// Time at which the server last said anything. Held while it is asked if it is there, so
    /// that one question is for all kinds.
    heard: tokio::sync::Mutex<Instant>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    /// Kinds that cannot be followed just now, since when, and why.
    failing: BTreeMap<Kind, (SystemTime, String)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known. Everybody who reads is told before anybody who waits for an
    /// object finds it.
    fn change(&self, change: impl FnOnce(&mut Store) -> bool) {
        let mut state = self.state();
        if change(&mut state.store) {
            if state.store.is_complete() {
                (self.changed)(Instant::now());
            }
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Notes that a kind cannot be followed. The first reason is logged, and each other one.
    fn note_failure(&self, kind: Kind, problem: String) {
        let mut state = self.state();
        let before = state.failing.get(&kind);
        let since = before.map_or_else(SystemTime::now, |(since, _)| *since);
        if before.is_none_or(|(_, reason)| *reason != problem) {
            tracing::warn!(
                %kind,
                "cannot follow the API server: {problem}; what it said before stays in force"
            );
        }
        state.failing.insert(kind, (since, problem));
    }

    fn note_success(&self, kind: Kind) {
        if self.state().failing.remove(&kind).is_some() {
            tracing::info!(%kind, "the API server answers again");
        }
    }
}

impl Kubernetes {
    /// Begins to follow a server. `changed` hears of everything that counts differently from
    /// before, once all kinds have been listed.
    ///
    /// # Errors
    /// When no thread can be started. A server that does not answer is no error: it is tried
    /// again.
    pub fn start(
        settings: Settings,
        changed: impl Fn(Instant) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Box::new(changed),
            news: watch::Sender::new(0),
            heard: tokio::sync::Mutex::new(Instant::now()),
        });
        let (awaited, asked) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let follower = shared.clone();
        let wait = settings.wait;
        thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || runtime.block_on(follow::follow_all(settings, follower, asked)))?;
        Ok(Self {
            wait,
            shared,
            awaited,
        })
    }

    /// Returns all objects as documents, `None` before all kinds have been listed.
    #[must_use]
    pub fn read(&self) -> Option<SourceMap> {
        let state = self.shared.state();
        let is_complete = state.store.is_complete();
        is_complete.then(|| state.store.sources().clone())
    }

    /// Returns how far the objects have been followed.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.shared.state();
        let policies = Kind::ALL.into_iter().filter(|kind| kind.is_policy());
        Progress {
            // Counted under the same lock.
            changes: *self.shared.news.borrow(),
            versions: policies
                .filter_map(|kind| Some((kind, state.store.version(kind)?)))
                .collect(),
        }
    }

    /// Returns the id that the server has given an object, `None` if it is not known.
    #[must_use]
    pub fn uid(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Option<String> {
        let name = object::name_of(kind, namespace, name);
        self.shared.state().store.uid(kind, &name)
    }

    /// Returns the state of what the server says.
    #[must_use]
    pub fn health(&self) -> Health {
        let state = self.shared.state();
        let first = state.failing.values().min();
        Health {
            is_complete: state.store.is_complete(),
            away_since: first.map(|(since, _)| *since),
            problem: first.map(|(_, problem)| problem.clone()),
            objects: (Kind::ALL.into_iter())
                .map(|kind| (kind, state.store.count(kind)))
                .collect(),
        }
    }

    /// Waits until the document of a pod can be read, at most for [`Settings::wait`]. The
    /// server is asked for the pod if the watch has not brought it.
    ///
    /// # Errors
    /// When there is none in that time, with the reason.
    pub async fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Pod, String> {
        let deadline = Instant::now() + self.wait;
        let mut news = self.shared.news.subscribe();
        let mut is_asked = false;
        loop {
            {
                let state = self.shared.state();
                let pod = state.store.pod(namespace, name, uid);
                // One that is not bound yet is not what a runtime starts.
                let bound = pod.filter(|pod| pod.node.is_some());
                if let (Some(pod), true) = (bound, state.store.is_complete()) {
                    return Ok(pod);
                }
            }
            if !is_asked {
                is_asked = true;
                // Nobody answers when the thread has ended: then the time passes.
                _ = self.awaited.send(Awaited {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    uid: uid.map(str::to_owned),
                    deadline,
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !matches!(tokio::time::timeout(left, news.changed()).await, Ok(Ok(()))) {
                return Err(self.why_unknown(namespace, name));
            }
        }
    }

    fn why_unknown(&self, namespace: &str, name: &str) -> String {
        let health = self.health();
        let why = match (health.problem, health.is_complete) {
            (Some(problem), _) => format!("the API server is away: {problem}"),
            (None, false) => "the API server has not been read completely yet".to_owned(),
            (None, true) => "the API server has no such pod that is bound to a node".to_owned(),
        };
        let waited = self.wait.as_millis();
        format!("the labels of pod {namespace}/{name} are not known after {waited} ms: {why}")
    }
}
