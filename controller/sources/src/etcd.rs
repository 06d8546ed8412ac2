//! An etcd as a source, and as the place where nodes tell each other of their endpoints.
//!
//! ```text
//! PREFIX/documents/ANYTHING              a text of documents, as a file has it
//! PREFIX/endpoints/NODE/NAMESPACE/NAME   the Pod of an endpoint, under its node's lease
//! PREFIX/nodes/NODE/                     what a node tells of itself ([`nodes`])
//! ```
//!
//! A thread of its own lists and watches the keys ([`follow`]) and keeps them as documents
//! ([`store`]), which the agent reads as it reads files; it puts this node's endpoints there as
//! well ([`announce`]), and its status. What connects to the server is in [`connection`] alone.
//!
//! Invariants: nothing is handed over before all keys have been read, as they are at one
//! revision; while the server does not answer, what it said last stays. Credentials are in no
//! message.

mod address;
mod announce;
mod announced;
mod connection;
mod follow;
mod nodes;
mod store;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_documents::{Kind, Source};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::Progress;
use announce::{Said, Texts, Wanted};
use follow::Barrier;
use store::Store;

pub use address::Address;
pub use announced::Announcement;
pub use connection::EtcdError;
pub use nodes::Overview;
pub use store::Counts;

/// Longest wait of a caller for what was put before it asked, and for what it has put itself.
const UNTIL_KNOWN: Duration = Duration::from_secs(2);

/// The files and names by which an agent is known to an etcd.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Certificate authority of the server, PEM; with one, only TLS will do.
    pub ca: Option<PathBuf>,
    /// The agent's own certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// Key of that, PEM.
    pub key: Option<PathBuf>,
    /// User of etcd's authentication.
    pub username: Option<String>,
    /// Password of that user.
    pub password: Option<Password>,
}

/// A password, or where it is.
#[derive(Clone)]
pub enum Password {
    /// In a file, without the end of its last line.
    File(PathBuf),
    /// The password.
    Text(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

/// The etcd, and how it is followed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Hosts and prefix.
    pub address: Address,
    /// Identity of the agent there.
    pub credentials: Credentials,
    /// The node whose endpoints are put there; `None` puts nothing.
    pub announces: Option<String>,
    /// Life of the lease that they are put under, while nobody renews it.
    pub lease: Duration,
    /// Longest wait after a failure before the next try; the first is far shorter.
    pub longest_pause: Duration,
    /// Silence after which the server is asked if it is there.
    pub quiet: Duration,
    /// Longest wait for a connection, or an answer to a short question.
    pub patience: Duration,
}

impl Settings {
    /// Returns the settings of an agent that reads and puts nothing, with the paces that suit
    /// large clusters.
    #[must_use]
    pub fn new(address: Address, credentials: Credentials) -> Self {
        Self {
            address,
            credentials,
            announces: None,
            lease: Duration::from_secs(30),
            longest_pause: Duration::from_secs(5),
            quiet: Duration::from_secs(5),
            patience: Duration::from_secs(5),
        }
    }
}

/// The state of what an etcd says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `true` once all keys have been read.
    pub is_complete: bool,
    /// Time since which no server has answered, or all refuse; `None` while one answers.
    pub away_since: Option<SystemTime>,
    /// Reason for that.
    pub problem: Option<String>,
    /// The host that answers, or did so last.
    pub host: Option<String>,
    /// Number of keys.
    pub keys: Counts,
    /// This node's endpoints there; `None` if it puts none.
    pub announcing: Option<Announcing>,
}

/// The state of this node's endpoints in an etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcing {
    /// Endpoints whose keys are there under the node's lease.
    pub endpoints: usize,
    /// Time since which they cannot be put there or kept.
    pub failing_since: Option<SystemTime>,
    /// Reason for that.
    pub problem: Option<String>,
}

/// An etcd that is followed for as long as this value lives.
#[derive(Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
    barriers: mpsc::UnboundedSender<Barrier>,
    node: Option<String>,
    wanted: watch::Sender<Wanted>,
    status: watch::Sender<Option<Arc<str>>>,
    done: watch::Receiver<u64>,
}

/// Hears that something counts differently, with the time of it.
type Changed = Box<dyn Fn(Instant) + Send + Sync>;

/// State that the thread of the source shares.
struct Shared {
    state: Mutex<State>,
    changed: Changed,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    /// Count of changes that let something count differently.
    changes: u64,
    /// Since when it cannot be followed just now, and why.
    failing: Option<(SystemTime, String)>,
    host: Option<String>,
    announcing: Option<Announcing>,
    /// Reason for which this node's status is refused.
    untold: Option<String>,
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

    /// Changes what is known, and tells the agent if anything counts differently.
    fn change(&self, change: impl FnOnce(&mut Store) -> bool) {
        let mut state = self.state();
        if change(&mut state.store) {
            state.changes += 1;
            drop(state);
            (self.changed)(Instant::now());
        }
    }

    /// Returns the revision that is held; 0 before a whole list has been read.
    fn revision(&self) -> i64 {
        self.state().store.revision().unwrap_or_default()
    }

    /// Notes that no host can be followed. The first reason is logged, and each other one.
    fn note_failure(&self, problem: &str) {
        let mut state = self.state();
        let before = state.failing.take();
        if before.as_ref().is_none_or(|(_, reason)| reason != problem) {
            tracing::warn!("cannot follow etcd: {problem}; what it said before stays in force");
        }
        let since = before.map_or_else(SystemTime::now, |(since, _)| since);
        state.failing = Some((since, problem.to_owned()));
    }

    fn note_success(&self, host: &str) {
        let mut state = self.state();
        if state.failing.take().is_some() {
            tracing::info!(host, "etcd answers again");
        }
        state.host = Some(host.to_owned());
    }

    /// Notes how many of this node's endpoints are there, and why they cannot be put there.
    fn note_announcing(&self, endpoints: usize, problem: Option<&str>) {
        let mut state = self.state();
        let before = state.announcing.take().unwrap_or_default();
        if let Some(problem) = problem
            && before.problem.as_deref() != Some(problem)
        {
            tracing::warn!(
                "cannot put this node's endpoints into etcd: {problem}; to other nodes its \
                 workloads are outside addresses once the lease has ended"
            );
        }
        let failing_since = problem.map(|_| before.failing_since.unwrap_or_else(SystemTime::now));
        state.announcing = Some(Announcing {
            endpoints,
            failing_since,
            problem: problem.map(str::to_owned),
        });
    }

    /// Notes that this node's status is there, or why it is refused.
    fn note_status(&self, refusal: Option<&str>) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.untold, refusal.map(str::to_owned));
        match refusal {
            Some(refusal) if before.as_deref() != Some(refusal) => tracing::warn!(
                "cannot put this node's status into etcd: {refusal}; it is tried again, and what \
                 is in force does not depend on it"
            ),
            None if before.is_some() => {
                tracing::info!("this node's status can be put into etcd again");
            }
            _ => {}
        }
    }
}

fn runtime() -> Result<Runtime, EtcdError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.map_err(|source| EtcdError::System { source })
}

impl Etcd {
    /// Begins to follow an etcd. `changed` hears of everything that counts differently from
    /// before, once all keys have been listed.
    ///
    /// # Errors
    /// When no thread can be started. A server that does not answer is no error: it is tried
    /// again.
    pub fn start(
        settings: Settings,
        changed: impl Fn(Instant) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let announces = settings.announces.clone();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                announcing: announces.as_ref().map(|_| Announcing::default()),
                ..State::default()
            }),
            changed: Box::new(changed),
        });
        let (barriers, asked) = mpsc::unbounded_channel();
        let (wanted, wants) = watch::channel(Wanted::default());
        let (status, statuses) = watch::channel(None);
        let (tells, done) = watch::channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let settings = Arc::new(settings);
        let follower = shared.clone();
        let node = announces.clone();
        thread::Builder::new()
            .name("etcd".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    if let Some(node) = announces {
                        let (settings, shared) = (settings.clone(), follower.clone());
                        let said = Said {
                            wanted: wants,
                            status: statuses,
                            done: tells,
                        };
                        tokio::spawn(announce::announce(settings, node, shared, said));
                    }
                    follow::follow(settings, follower, asked).await;
                });
            })?;
        Ok(Self {
            shared,
            barriers,
            node,
            wanted,
            status,
            done,
        })
    }

    /// Returns all texts that documents are read from, `None` before all keys have been listed.
    #[must_use]
    pub fn read(&self) -> Option<Vec<Source>> {
        let state = self.shared.state();
        state.store.revision().map(|_| state.store.sources())
    }

    /// Returns how far the keys have been followed.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.shared.state();
        let told = u64::try_from(state.store.told()).unwrap_or_default();
        let policies = Kind::ALL.into_iter().filter(|kind| kind.is_policy());
        Progress {
            changes: state.changes,
            versions: policies.map(|kind| (kind, told)).collect(),
        }
    }

    /// Returns the state of what the servers say.
    #[must_use]
    pub fn health(&self) -> Health {
        let state = self.shared.state();
        let failing = state.failing.clone();
        let (away_since, problem) = failing.unzip();
        Health {
            is_complete: state.store.revision().is_some(),
            away_since,
            problem,
            host: state.host.clone(),
            keys: state.store.counts(),
            announcing: state.announcing.clone(),
        }
    }

    /// Waits until everything is known that was put before this call. Returns at once while no
    /// server answers, and after two seconds in any case.
    pub async fn catch_up(&self) {
        if self.shared.state().failing.is_some() {
            return;
        }
        let (barrier, passed) = oneshot::channel();
        // Nobody answers when the thread has ended: then nothing more becomes known.
        _ = self.barriers.send(barrier);
        if timeout(UNTIL_KNOWN, passed).await.is_err() {
            tracing::warn!("etcd has not said in time what was put there last");
        }
    }

    /// Says which endpoints this node has: the texts of their Pods by namespace and name.
    pub fn announce(&self, pods: impl IntoIterator<Item = ((String, String), Arc<str>)>) {
        let Some(node) = &self.node else {
            return;
        };
        let texts = pods.into_iter().map(|((namespace, name), text)| {
            let node = node.clone();
            let announcement = Announcement {
                node,
                namespace,
                name,
            };
            (announcement.key(), text)
        });
        let texts: Texts = texts.collect();
        self.wanted.send_if_modified(|wanted| {
            let is_new = wanted.number == 0 || *wanted.texts != texts;
            if is_new {
                wanted.number += 1;
                wanted.texts = Arc::new(texts);
            }
            is_new
        });
    }

    /// Says what is to be told of this node beside its endpoints. The newest text is put there as
    /// soon as a server takes it, and again under each new lease. Without `publish` it is nobody's.
    pub fn tell(&self, status: String) {
        self.status.send_replace(Some(status.into()));
    }

    /// Waits until this node's endpoints are there as they were last said. Returns at once while
    /// they cannot be put there, and after two seconds in any case.
    pub async fn announced(&self) {
        let number = self.wanted.borrow().number;
        let is_failing = || {
            let state = self.shared.state();
            let announcing = state.announcing.as_ref();
            announcing.is_some_and(|announcing| announcing.problem.is_some())
        };
        if self.node.is_none() || is_failing() {
            return;
        }
        let mut done = self.done.clone();
        let put = done.wait_for(|done| *done >= number);
        if !matches!(timeout(UNTIL_KNOWN, put).await, Ok(Ok(_))) {
            tracing::warn!("this node's endpoints are not in etcd yet");
        }
    }
}

/// Reads all texts once, as they are at one revision.
///
/// # Errors
/// When no host answers, or all refuse.
pub fn read_once(settings: &Settings) -> Result<Vec<Source>, EtcdError> {
    let listing = runtime()?.block_on(follow::list_once(settings))?;
    let mut store = Store::default();
    store.replace(listing.pairs, listing.moment.revision);
    Ok(store.sources())
}
