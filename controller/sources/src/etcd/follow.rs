//! Follows an etcd: lists the keys, watches them from there, and begins again where that is not
//! possible.
//!
//! A watch that is cut goes on from the revision that is held, at the next host. One whose
//! revision was compacted begins with a list, during which what was known stays; so does one of
//! another cluster, or of one that was put back to an earlier revision.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connection::{Connection, EtcdError, Listing, Moment};
use super::store::{DOCUMENTS, Pair};
use super::{Settings, Shared, nodes};
use crate::pause::Pause;

/// A caller who waits until everything is known that was put before it asked.
pub(super) type Barrier = oneshot::Sender<()>;

/// The etcd that is followed, and the progress in that.
struct Follower<'f> {
    settings: &'f Settings,
    shared: &'f Shared,
    /// Cluster of the keys that are held.
    cluster: Option<u64>,
    /// `true` if what is held is nothing to go on from.
    is_lost: bool,
}

/// Follows until nobody asks any more.
pub(super) async fn follow(
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    mut asked: mpsc::UnboundedReceiver<Barrier>,
) {
    let mut follower = Follower {
        settings: &settings,
        shared: &shared,
        cluster: None,
        is_lost: true,
    };
    let mut pause = Pause::new(settings.longest_pause);
    let hosts = settings.address.hosts();
    // Agents that begin together do not ask the same host.
    let mut turn = fastrand::usize(..hosts.len());
    loop {
        let host = &hosts[turn % hosts.len()];
        let Err(error) = follower.until_failure(host, &mut asked, &mut pause).await;
        turn += 1;
        if matches!(error, EtcdError::Compacted) {
            follower.is_lost = true;
            tracing::info!("etcd has compacted what was to be read: all keys are listed again");
            continue;
        }
        if asked.is_closed() {
            return;
        }
        shared.note_failure(&chain(&error));
        // Whoever waits is told that there is no answer: its sender is dropped.
        while asked.try_recv().is_ok() {}
        // All hosts have been tried.
        if turn.is_multiple_of(hosts.len()) {
            pause.wait().await;
        }
    }
}

impl Follower<'_> {
    /// Follows one host.
    async fn until_failure(
        &mut self,
        host: &str,
        asked: &mut mpsc::UnboundedReceiver<Barrier>,
        pause: &mut Pause,
    ) -> Result<Infallible, EtcdError> {
        let mut connection = Connection::open(self.settings, host).await?;
        let moment = connection.moment().await?;
        if self.is_lost || !self.goes_on_at(moment) {
            let Listing { pairs, moment } = connection.list().await?;
            self.cluster = Some(moment.cluster);
            (self.shared).change(|store| store.replace(pairs, moment.revision));
            self.is_lost = false;
        }
        let revision = self.shared.revision();
        let mut watch = connection.watch(revision).await?;
        self.shared.note_success(host);
        pause.reset();
        let mut heard = Instant::now();
        loop {
            let quiet = self.settings.quiet.saturating_sub(heard.elapsed());
            tokio::select! {
                events = connection.next(&mut watch) => {
                    let events = events?;
                    self.shared.change(|store| store.apply(events));
                    heard = Instant::now();
                }
                barrier = asked.recv() => {
                    // Nobody follows any more.
                    let barrier = barrier.ok_or_else(|| connection.silent())?;
                    self.catch_up(&mut connection).await?;
                    // Whoever asked may have gone.
                    _ = barrier.send(());
                }
                () = tokio::time::sleep(quiet) => {
                    // A machine that is switched off closes no connection.
                    let moment = connection.moment().await?;
                    if !self.goes_on_at(moment) {
                        self.is_lost = true;
                        return Err(EtcdError::Compacted);
                    }
                    heard = Instant::now();
                }
            }
        }
    }

    /// Returns `true` if what is held comes before a moment of the same cluster.
    fn goes_on_at(&self, moment: Moment) -> bool {
        self.cluster == Some(moment.cluster) && self.shared.revision() <= moment.revision
    }

    /// Takes what has happened until now. The watch tells it as well, later; what servers before
    /// 3.4.25 say of how far a watch has come is not true.
    async fn catch_up(&mut self, connection: &mut Connection) -> Result<(), EtcdError> {
        let revision = self.shared.revision();
        let now = connection.moment().await?;
        if !self.goes_on_at(now) {
            self.is_lost = true;
            return Err(EtcdError::Compacted);
        }
        if now.revision == revision {
            return Ok(());
        }
        let put = connection.put_since(revision).await;
        let (Listing { pairs, moment }, count) = match put {
            Err(EtcdError::TooLarge) => {
                let Listing { pairs, moment } = connection.list().await?;
                (self.shared).change(|store| store.replace(pairs, moment.revision));
                return Ok(());
            }
            put => put?,
        };
        let (mut is_changed, mut has_deleted) = (false, false);
        self.shared.change(|store| {
            is_changed = store.catch_up(pairs, moment.revision);
            // With all that was put, anything more was deleted.
            has_deleted = store.len() != count;
            // Told together with what was deleted.
            is_changed && !has_deleted
        });
        if has_deleted {
            let keys = connection.keys_at(moment.revision).await?;
            let keys: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
            (self.shared).change(|store| store.retain(&keys) || is_changed);
        }
        Ok(())
    }
}

/// Lists all keys of documents and endpoints once.
pub(super) async fn list_once(settings: &Settings) -> Result<Listing, EtcdError> {
    ask_once(settings, async |connection| connection.list().await).await
}

/// Lists the keys of documents, and those of nodes, once and at one revision.
pub(super) async fn look_once(settings: &Settings) -> Result<(Vec<Pair>, Vec<Pair>), EtcdError> {
    ask_once(settings, async |connection| {
        let Listing { pairs, moment } = connection.list_folder(DOCUMENTS, None).await?;
        let nodes = connection.list_folder(nodes::FOLDER, Some(moment)).await?;
        Ok((pairs, nodes.pairs))
    })
    .await
}

/// Asks the first host that answers.
async fn ask_once<T>(
    settings: &Settings,
    ask: impl AsyncFn(&mut Connection) -> Result<T, EtcdError>,
) -> Result<T, EtcdError> {
    let mut failed = None;
    for host in settings.address.hosts() {
        let answered = async {
            let mut connection = Connection::open(settings, host).await?;
            ask(&mut connection).await
        };
        match timeout(settings.patience * 4, answered).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => failed = Some(EtcdError::Silent { host: host.clone() }),
        }
    }
    // An address has a host.
    Err(failed.unwrap_or(EtcdError::Silent {
        host: String::new(),
    }))
}
