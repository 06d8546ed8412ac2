//! Puts the Pods of this node's endpoints into etcd, under one lease.
//!
//! The keys live as long as the lease, which is kept while the agent runs: those of an agent
//! that was killed vanish with it. Whenever there is no certainty about a key, all are put
//! again: under a new lease, after a failure, or when somebody else has deleted one.
//!
//! Invariant: nothing is deleted before the agent has said which endpoints there are.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;

use super::announced::FOLDER;
use super::connection::{Connection, EtcdError};
use super::{Settings, Shared};
use crate::pause::Pause;

/// Texts by the keys below the prefix.
pub(super) type Texts = BTreeMap<String, Arc<str>>;

/// Keys that are to be there, and the number of times that it was said.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) texts: Arc<Texts>,
}

/// Renewals within the life of a lease: two may fail.
const RENEWALS: u32 = 3;

/// Announces until nobody says any more what.
pub(super) async fn announce(
    settings: Arc<Settings>,
    node: String,
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<Wanted>,
    done: watch::Sender<u64>,
) {
    let mut pause = Pause::new(settings.longest_pause);
    let hosts = settings.address.hosts();
    let mut turn = fastrand::usize(..hosts.len());
    // Nothing is known of this node's endpoints yet.
    if wanted.changed().await.is_err() {
        return;
    }
    loop {
        let mut session = Session {
            settings: &settings,
            folder: format!("{FOLDER}{node}/"),
            shared: &shared,
            there: Texts::new(),
        };
        let host = &hosts[turn % hosts.len()];
        let Err(error) = (session.until_failure(host, &mut wanted, &done, &mut pause)).await;
        turn += 1;
        shared.note_announcing(0, Some(&error.to_string()));
        if wanted.has_changed().is_err() {
            return;
        }
        if turn.is_multiple_of(hosts.len()) {
            pause.wait().await;
        }
    }
}

/// Keys that this node has put there under one lease.
struct Session<'s> {
    settings: &'s Settings,
    /// Folder of this node's keys.
    folder: String,
    shared: &'s Shared,
    there: Texts,
}

impl Session<'_> {
    async fn until_failure(
        &mut self,
        host: &str,
        wanted: &mut watch::Receiver<Wanted>,
        done: &watch::Sender<u64>,
        pause: &mut Pause,
    ) -> Result<Infallible, EtcdError> {
        let mut connection = Connection::open(self.settings, host).await?;
        let seconds = self.settings.lease.as_secs().max(1);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let lease = connection.grant(seconds).await?;
        let (mut keeper, mut answers) = connection.keep(lease).await?;
        let stale = connection.leases_below(&self.folder).await?;
        // Until these are put again or deleted they are of the lease before.
        let stale: Vec<String> = stale.into_iter().map(|(key, _)| key).collect();
        self.put(&mut connection, lease, wanted, done).await?;
        for key in stale.iter().filter(|key| !self.there.contains_key(*key)) {
            connection.delete(key).await?;
        }
        pause.reset();
        let between = self.settings.lease / RENEWALS;
        let mut renewals = tokio::time::interval(between);
        renewals.tick().await;
        loop {
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => self.put(&mut connection, lease, wanted, done).await?,
                    // The agent ends. Its endpoints stay in force, and the keys for as long as
                    // the lease: the next agent puts them again.
                    Err(_) => std::future::pending().await,
                },
                _ = renewals.tick() => {
                    connection.renew(&mut keeper, &mut answers).await?;
                    self.check(&mut connection, lease).await?;
                }
            }
        }
    }

    /// Puts what is new or different, and deletes what is not wanted any more.
    async fn put(
        &mut self,
        connection: &mut Connection,
        lease: i64,
        wanted: &mut watch::Receiver<Wanted>,
        done: &watch::Sender<u64>,
    ) -> Result<(), EtcdError> {
        let Wanted { number, texts } = wanted.borrow_and_update().clone();
        for (key, text) in &*texts {
            if self.there.get(key) != Some(text) {
                connection.put(key, text, lease).await?;
                self.there.insert(key.clone(), text.clone());
            }
        }
        let gone = self.there.keys().filter(|key| !texts.contains_key(*key));
        let gone: Vec<String> = gone.cloned().collect();
        for key in gone {
            connection.delete(&key).await?;
            self.there.remove(&key);
        }
        self.shared.note_announcing(self.there.len(), None);
        done.send_replace(number);
        Ok(())
    }

    /// Puts keys again that somebody else has deleted or taken.
    async fn check(&mut self, connection: &mut Connection, lease: i64) -> Result<(), EtcdError> {
        let keys = connection.leases_below(&self.folder).await?;
        let ours: BTreeMap<String, i64> = keys.into_iter().collect();
        for (key, text) in &self.there {
            if ours.get(key) != Some(&lease) {
                connection.put(key, text, lease).await?;
            }
        }
        for key in ours.keys().filter(|key| !self.there.contains_key(*key)) {
            connection.delete(key).await?;
        }
        Ok(())
    }
}
