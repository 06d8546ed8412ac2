//! Puts the Pods of this node's endpoints, and its status, into etcd under one lease.
//!
//! The keys live as long as the lease, which is kept while the agent runs: those of an agent
//! that was killed vanish with it. Whenever there is no certainty about a key, all are put
//! again: under a new lease, after a failure, or when somebody else has deleted one.
//!
//! Invariants: nothing is deleted before the agent has said which endpoints there are; a status
//! that the server refuses keeps no endpoint from being put there.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;

use super::announced::FOLDER;
use super::connection::{Connection, EtcdError};
use super::nodes::Keys;
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

/// All that an agent says of its node.
pub(super) struct Said {
    /// Keys of its endpoints.
    pub(super) wanted: watch::Receiver<Wanted>,
    /// Text of its status; `None` before it is known.
    pub(super) status: watch::Receiver<Option<Arc<str>>>,
    /// Number of the newest [`Wanted`] that is there.
    pub(super) done: watch::Sender<u64>,
}

/// Renewals within the life of a lease: two may fail.
const RENEWALS: u32 = 3;

/// Announces until nobody says any more what.
pub(super) async fn announce(
    settings: Arc<Settings>,
    node: String,
    shared: Arc<Shared>,
    mut said: Said,
) {
    let mut pause = Pause::new(settings.longest_pause);
    let hosts = settings.address.hosts();
    let mut turn = fastrand::usize(..hosts.len());
    // Nothing is known of this node yet.
    let first = tokio::select! {
        first = said.wanted.changed() => first,
        first = said.status.changed() => first,
    };
    if first.is_err() {
        return;
    }
    loop {
        let mut session = Session {
            settings: &settings,
            folder: format!("{FOLDER}{node}/"),
            keys: Keys::of(&node),
            node: &node,
            shared: &shared,
            there: Texts::new(),
            has_put: false,
        };
        let host = &hosts[turn % hosts.len()];
        let Err(error) = session.until_failure(host, &mut said, &mut pause).await;
        turn += 1;
        shared.note_announcing(0, Some(&chain(&error)));
        if said.wanted.has_changed().is_err() {
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
    /// Folder of this node's endpoints.
    folder: String,
    /// Keys of what it tells of itself.
    keys: Keys,
    node: &'s str,
    shared: &'s Shared,
    /// Endpoints that are there.
    there: Texts,
    /// `true` once all endpoints have been put there.
    has_put: bool,
}

impl Session<'_> {
    async fn until_failure(
        &mut self,
        host: &str,
        said: &mut Said,
        pause: &mut Pause,
    ) -> Result<Infallible, EtcdError> {
        let mut connection = Connection::open(self.settings, host).await?;
        let seconds = self.settings.lease.as_secs().max(1);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let lease = connection.grant(seconds).await?;
        let (mut keeper, mut answers) = connection.keep(lease).await?;
        self.put(&mut connection, lease, said).await?;
        self.check_status(&mut connection, lease, said).await?;
        pause.reset();
        let between = self.settings.lease / RENEWALS;
        let mut renewals = tokio::time::interval(between);
        renewals.tick().await;
        loop {
            tokio::select! {
                changed = said.wanted.changed() => match changed {
                    Ok(()) => self.put(&mut connection, lease, said).await?,
                    // The agent ends. Its endpoints stay in force, and the keys for as long as
                    // the lease: the next agent puts them again.
                    Err(_) => std::future::pending().await,
                },
                Ok(()) = said.status.changed() => {
                    let keys = &self.keys;
                    let told = put_status(&mut connection, keys, lease, said).await;
                    self.note_status(told)?;
                }
                _ = renewals.tick() => {
                    connection.renew(&mut keeper, &mut answers).await?;
                    if self.has_put {
                        self.check(&mut connection, lease).await?;
                    }
                    self.check_status(&mut connection, lease, said).await?;
                }
            }
        }
    }

    /// Puts what is new or different, and deletes what is not wanted any more.
    async fn put(
        &mut self,
        connection: &mut Connection,
        lease: i64,
        said: &mut Said,
    ) -> Result<(), EtcdError> {
        let Wanted { number, texts } = said.wanted.borrow_and_update().clone();
        if number == 0 {
            // Nothing is known of them yet.
            self.shared.note_announcing(0, None);
            return Ok(());
        }
        for (key, text) in &*texts {
            if self.there.get(key) != Some(text) {
                connection.put(key, text, Some(lease)).await?;
                self.there.insert(key.clone(), text.clone());
            }
        }
        let gone = self.there.keys().filter(|key| !texts.contains_key(*key));
        let gone: Vec<String> = gone.cloned().collect();
        for key in gone {
            connection.delete(&key).await?;
            self.there.remove(&key);
        }
        if !self.has_put {
            // Others may be there under the lease before.
            self.check(connection, lease).await?;
            self.has_put = true;
        }
        self.shared.note_announcing(self.there.len(), None);
        said.done.send_replace(number);
        Ok(())
    }

    /// Puts keys again that somebody else has deleted or taken, and deletes those of no endpoint.
    async fn check(&mut self, connection: &mut Connection, lease: i64) -> Result<(), EtcdError> {
        let keys = connection.leases_below(&self.folder).await?;
        let ours: BTreeMap<String, i64> = keys.into_iter().collect();
        for (key, text) in &self.there {
            if ours.get(key) != Some(&lease) {
                connection.put(key, text, Some(lease)).await?;
            }
        }
        for key in ours.keys().filter(|key| !self.there.contains_key(*key)) {
            connection.delete(key).await?;
        }
        Ok(())
    }

    /// Puts the status there, unless it is, and the key that says that there is such a node.
    async fn check_status(
        &mut self,
        connection: &mut Connection,
        lease: i64,
        said: &mut Said,
    ) -> Result<(), EtcdError> {
        let keys = connection.leases_below(&self.keys.folder).await?;
        let leases: BTreeMap<String, i64> = keys.into_iter().collect();
        let told = async {
            if !leases.contains_key(&self.keys.joined) {
                connection.put(&self.keys.joined, self.node, None).await?;
            }
            if leases.get(&self.keys.status) != Some(&lease) {
                put_status(connection, &self.keys, lease, said).await?;
            }
            Ok::<(), EtcdError>(())
        };
        let told = told.await;
        self.note_status(told)
    }

    /// Notes a refusal of the status. What else has failed ends the session.
    fn note_status(&self, told: Result<(), EtcdError>) -> Result<(), EtcdError> {
        match told {
            Err(EtcdError::Refused { message }) => self.shared.note_status(Some(&message)),
            told => {
                told?;
                self.shared.note_status(None);
            }
        }
        Ok(())
    }
}

/// Puts the status there, as far as it is known.
async fn put_status(
    connection: &mut Connection,
    keys: &Keys,
    lease: i64,
    said: &mut Said,
) -> Result<(), EtcdError> {
    let status = said.status.borrow_and_update().clone();
    match status {
        Some(status) => connection.put(&keys.status, &status, Some(lease)).await,
        None => Ok(()),
    }
}
