//! The way to an etcd: which host, who the agent is there, and questions.
//!
//! A connection is made anew after each failure, to the next host, and reads certificates and
//! the password anew, so that those which were replaced count at the next try.
//!
//! Invariant: no error text has anything of a key, a password or a document in it.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, GetResponse, Identity, KeyValue,
    KvClient, LeaseClient, LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, WatchOptions,
    WatchStream,
};
use thiserror::Error as ThisError;
use tokio::time::timeout;

use super::announced;
use super::store::{DOCUMENTS, Event, Pair};
use super::{Credentials, Password, Settings};

/// Longest wait for a page of a list.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// Keys of a page: a page is in memory whole, a list never is.
const PAGE: i64 = 500;
/// Most bytes of one answer; pages that are larger are asked for again with fewer keys. A
/// single text is at most 1.5 MiB, unless etcd is told otherwise.
const MOST_BYTES: usize = 64 << 20;
/// Code of gRPC for a revision that was compacted, or an answer that is too large.
const OUT_OF_RANGE: i32 = 11;

/// A question that was not answered.
#[derive(Debug, ThisError)]
pub enum EtcdError {
    /// A file of credentials cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A certificate or a key is none.
    #[error("the certificates or the key for etcd are not usable: they must be PEM")]
    Credentials,
    /// The revision from which was asked is not kept any more.
    #[error("etcd has compacted the revision to go on from")]
    Compacted,
    /// An answer is larger than [`MOST_BYTES`].
    #[error("the answer of etcd is too large")]
    TooLarge,
    /// The server refuses.
    #[error("etcd says: {message}")]
    Refused {
        /// Its sentence.
        message: String,
    },
    /// No answer in time.
    #[error("etcd at {host} gives no answer")]
    Silent {
        /// The host.
        host: String,
    },
    /// The connection fails.
    #[error("cannot reach etcd at {host}: {cause}")]
    Unreachable {
        /// The host.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// The lease has ended.
    #[error("the lease of this node's endpoints has ended")]
    LeaseLost,
    /// A thread or runtime cannot be started.
    #[error("cannot start a thread")]
    System {
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A connection to one host.
pub(super) struct Connection {
    kv: KvClient,
    lease: LeaseClient,
    client: Client,
    host: String,
    patience: Duration,
    /// The prefix of all keys.
    prefix: String,
}

/// Name of a cluster, and a revision of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) cluster: u64,
    pub(super) revision: i64,
}

/// All keys at one revision.
pub(super) struct Listing {
    pub(super) pairs: Vec<Pair>,
    pub(super) moment: Moment,
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    fs::read(path).map_err(|source| EtcdError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn tls_options(credentials: &Credentials) -> Result<TlsOptions, EtcdError> {
    let mut tls = TlsOptions::new();
    if let Some(path) = &credentials.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
    }
    if let (Some(certificate), Some(key)) = (&credentials.certificate, &credentials.key) {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

fn password(credentials: &Credentials) -> Result<String, EtcdError> {
    match &credentials.password {
        None => Ok(String::new()),
        Some(Password::Text(text)) => Ok(text.clone()),
        Some(Password::File(path)) => {
            let bytes = read(path)?;
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
    }
}

impl Connection {
    /// Connects to a host. Whoever has no right to read the prefix is told so.
    pub(super) async fn open(settings: &Settings, host: &str) -> Result<Self, EtcdError> {
        let credentials = &settings.credentials;
        let is_tls = settings.address.is_tls() || credentials.ca.is_some();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(settings.patience)
            // A host that has lost the others knows nothing new, and does not say so.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if is_tls {
            options = options.with_tls(tls_options(credentials)?);
        }
        if let Some(user) = &credentials.username {
            options = options.with_user(user, password(credentials)?);
        }
        let scheme = if is_tls { "https" } else { "http" };
        let url = format!("{scheme}://{host}");
        let connecting = Client::connect([url], Some(options));
        let is_bare = is_tls && credentials.certificate.is_none();
        let host = match is_bare {
            // Servers that want a certificate often say no more than that they hang up.
            true => format!("{host}, without a certificate of the agent's own"),
            false => host.to_owned(),
        };
        let client = in_time(settings.patience, &host, connecting).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MOST_BYTES),
            lease: client.lease_client(),
            client,
            host,
            patience: settings.patience,
            prefix: settings.address.prefix().to_owned(),
        })
    }

    /// Asks for the newest revision, of which all hosts know by then.
    pub(super) async fn moment(&mut self) -> Result<Moment, EtcdError> {
        let options = GetOptions::new().with_keys_only();
        let prefix = self.prefix.clone();
        let asked = self.kv.get(prefix, Some(options));
        let answer = in_time(self.patience, &self.host, asked).await?;
        Ok(moment(&answer))
    }

    /// Lists all keys of documents and endpoints, page by page, as they are at one revision.
    pub(super) async fn list(&mut self) -> Result<Listing, EtcdError> {
        let (from, end) = self.read_as_documents();
        self.list_range(from, end, None).await
    }

    /// Lists all keys of a folder of the prefix, as they are at a moment; at the newest one
    /// without any.
    pub(super) async fn list_folder(
        &mut self,
        folder: &str,
        at: Option<Moment>,
    ) -> Result<Listing, EtcdError> {
        let from = format!("{}{folder}", self.prefix).into_bytes();
        let end = end_of(&from);
        self.list_range(from, end, at).await
    }

    async fn list_range(
        &mut self,
        mut from: Vec<u8>,
        end: Vec<u8>,
        mut at: Option<Moment>,
    ) -> Result<Listing, EtcdError> {
        let mut page = PAGE;
        let mut pairs = Vec::new();
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(page);
            if let Some(at) = at {
                options = options.with_revision(at.revision);
            }
            let asked = self.kv.get(from.clone(), Some(options));
            let mut answer = match in_time(PAGE_PATIENCE, &self.host, asked).await {
                Err(EtcdError::TooLarge) if page > 1 => {
                    page /= 2;
                    continue;
                }
                answer => answer?,
            };
            let moment = *at.get_or_insert_with(|| moment(&answer));
            let is_more = answer.more();
            let pairs_of_page = answer.take_kvs();
            if let Some(last) = pairs_of_page.last() {
                // The first key behind it.
                from = [last.key(), &[0]].concat();
            }
            let is_stuck = pairs_of_page.is_empty();
            pairs.extend(pairs_of_page.into_iter().filter_map(|one| self.pair(one)));
            if !is_more || is_stuck {
                return Ok(Listing { pairs, moment });
            }
        }
    }

    /// Lists the keys of documents and endpoints that were put after a revision. Returns them
    /// with the number of all such keys.
    pub(super) async fn put_since(&mut self, revision: i64) -> Result<(Listing, usize), EtcdError> {
        let (from, end) = self.read_as_documents();
        let options = GetOptions::new()
            .with_range(end)
            .with_min_mod_revision(revision.saturating_add(1));
        let asked = self.kv.get(from, Some(options));
        let mut answer = in_time(PAGE_PATIENCE, &self.host, asked).await?;
        let moment = moment(&answer);
        let count = usize::try_from(answer.count()).unwrap_or_default();
        let pairs = answer
            .take_kvs()
            .into_iter()
            .filter_map(|one| self.pair(one))
            .collect();
        Ok((Listing { pairs, moment }, count))
    }

    /// Lists the names of the keys of documents and endpoints at a revision.
    pub(super) async fn keys_at(&mut self, revision: i64) -> Result<BTreeSet<String>, EtcdError> {
        let (from, end) = self.read_as_documents();
        let options = GetOptions::new()
            .with_range(end)
            .with_revision(revision)
            .with_keys_only();
        let asked = self.kv.get(from, Some(options));
        let mut answer = in_time(PAGE_PATIENCE, &self.host, asked).await?;
        let pairs = answer
            .take_kvs()
            .into_iter()
            .filter_map(|one| self.pair(one));
        Ok(pairs.map(|pair| pair.key).collect())
    }

    /// Begins to watch the keys of documents and endpoints, from after a revision on.
    pub(super) async fn watch(&mut self, revision: i64) -> Result<WatchStream, EtcdError> {
        let (from, end) = self.read_as_documents();
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(revision.saturating_add(1))
            .with_fragment();
        let mut client = self.client.watch_client();
        client = client.max_decoding_message_size(MOST_BYTES);
        let asked = client.watch(from, Some(options));
        in_time(self.patience, &self.host, asked).await
    }

    /// Takes the next events of a watch.
    pub(super) async fn next(&self, watch: &mut WatchStream) -> Result<Vec<Event>, EtcdError> {
        let message = watch.message().await.map_err(|error| self.error(error))?;
        let Some(message) = message else {
            return Err(EtcdError::Unreachable {
                host: self.host.clone(),
                cause: "the watch was ended".to_owned(),
            });
        };
        if message.compact_revision() > 0 {
            return Err(EtcdError::Compacted);
        }
        if message.canceled() {
            return Err(EtcdError::Refused {
                message: message.cancel_reason().to_owned(),
            });
        }
        let pairs = message.events().iter().filter_map(etcd_client::Event::kv);
        let events = pairs.filter_map(|pair| self.event(pair));
        Ok(events.collect())
    }

    /// Takes a lease of a node's endpoints for some seconds. Returns its number.
    pub(super) async fn grant(&mut self, seconds: i64) -> Result<i64, EtcdError> {
        let asked = self.lease.grant(seconds, None);
        let answer = in_time(self.patience, &self.host, asked).await?;
        Ok(answer.id())
    }

    /// Begins to keep a lease.
    pub(super) async fn keep(
        &mut self,
        lease: i64,
    ) -> Result<(LeaseKeeper, LeaseKeepAliveStream), EtcdError> {
        let asked = self.lease.keep_alive(lease);
        match timeout(self.patience, asked).await {
            Err(_) => Err(self.silent()),
            Ok(Err(Error::LeaseKeepAliveError(_))) => Err(EtcdError::LeaseLost),
            Ok(kept) => kept.map_err(|error| self.error(error)),
        }
    }

    /// Keeps a lease for another while.
    pub(super) async fn renew(
        &self,
        keeper: &mut LeaseKeeper,
        answers: &mut LeaseKeepAliveStream,
    ) -> Result<(), EtcdError> {
        let renewed = async {
            keeper.keep_alive().await?;
            answers.message().await
        };
        let answer = in_time(self.patience, &self.host, renewed).await?;
        match answer.is_some_and(|answer| answer.ttl() > 0) {
            true => Ok(()),
            false => Err(EtcdError::LeaseLost),
        }
    }

    /// Puts a text at a key below the prefix, under a lease, or for good.
    pub(super) async fn put(
        &mut self,
        key: &str,
        text: &str,
        lease: Option<i64>,
    ) -> Result<(), EtcdError> {
        let key = format!("{}{key}", self.prefix);
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        let asked = self.kv.put(key, text, options);
        match in_time(self.patience, &self.host, asked).await {
            Err(EtcdError::Refused { message }) if message.contains("lease not found") => {
                Err(EtcdError::LeaseLost)
            }
            done => done.map(drop),
        }
    }

    /// Deletes a key below the prefix.
    pub(super) async fn delete(&mut self, key: &str) -> Result<(), EtcdError> {
        let key = format!("{}{key}", self.prefix);
        let asked = self.kv.delete(key, None);
        in_time(self.patience, &self.host, asked).await.map(drop)
    }

    /// Lists the keys below a folder of the prefix, each with its lease.
    pub(super) async fn leases_below(
        &mut self,
        folder: &str,
    ) -> Result<Vec<(String, i64)>, EtcdError> {
        let start = format!("{}{folder}", self.prefix);
        let options = GetOptions::new()
            .with_range(end_of(start.as_bytes()))
            .with_keys_only();
        let asked = self.kv.get(start, Some(options));
        let mut answer = in_time(PAGE_PATIENCE, &self.host, asked).await?;
        let keys = answer.take_kvs().into_iter().filter_map(|one| {
            let lease = one.lease();
            Some((self.pair(one)?.key, lease))
        });
        Ok(keys.collect())
    }

    /// Returns the range of the keys that documents are read from. It ends before the folder of
    /// what nodes tell of themselves: no node hears the heartbeats of all others.
    fn read_as_documents(&self) -> (Vec<u8>, Vec<u8>) {
        let from = format!("{}{DOCUMENTS}", self.prefix).into_bytes();
        let last = format!("{}{}", self.prefix, announced::FOLDER);
        (from, end_of(last.as_bytes()))
    }

    /// Returns a key without the prefix, and its text. A key that is no text is nobody's.
    fn pair(&self, pair: KeyValue) -> Option<Pair> {
        let (created, modified) = (pair.create_revision(), pair.mod_revision());
        let (key, value) = pair.into_key_value();
        let key = String::from_utf8(key).ok()?;
        Some(Pair {
            key: key.strip_prefix(&self.prefix)?.to_owned(),
            value,
            created,
            modified,
        })
    }

    fn event(&self, pair: &KeyValue) -> Option<Event> {
        // A deletion sets the version of a key to 0. The type of an event is not asked for: the
        // client panics at one that it does not know.
        let is_deleted = pair.version() == 0;
        let pair = self.pair(pair.clone())?;
        Some(match is_deleted {
            true => Event::Delete {
                key: pair.key,
                revision: pair.modified,
            },
            false => Event::Put(pair),
        })
    }

    fn error(&self, error: Error) -> EtcdError {
        told(&self.host, error)
    }

    /// Returns the error of a host that does not answer.
    pub(super) fn silent(&self) -> EtcdError {
        EtcdError::Silent {
            host: self.host.clone(),
        }
    }
}

fn moment(answer: &GetResponse) -> Moment {
    let header = answer.header();
    Moment {
        cluster: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
        revision: header.map_or(0, etcd_client::ResponseHeader::revision),
    }
}

/// Returns the first key behind all that begin with a prefix, which ends with a slash.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// Waits for an answer of a host, but not for ever.
async fn in_time<T>(
    patience: Duration,
    host: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, EtcdError> {
    match timeout(patience, answer).await {
        Err(_) => Err(EtcdError::Silent {
            host: host.to_owned(),
        }),
        Ok(answer) => answer.map_err(|error| told(host, error)),
    }
}

/// Returns an error of the client in few words.
fn told(host: &str, error: Error) -> EtcdError {
    let unreachable = |mut cause: &dyn std::error::Error| {
        while let Some(source) = cause.source() {
            cause = source;
        }
        EtcdError::Unreachable {
            host: host.to_owned(),
            cause: cause.to_string(),
        }
    };
    match &error {
        // What the server says has no cause here.
        Error::GRpcStatus(status) if std::error::Error::source(status).is_some() => {
            unreachable(status)
        }
        Error::GRpcStatus(status) if status.code() as i32 == OUT_OF_RANGE => {
            if status.message().contains("compacted") {
                EtcdError::Compacted
            } else {
                EtcdError::TooLarge
            }
        }
        Error::GRpcStatus(status) => EtcdError::Refused {
            message: status.message().to_owned(),
        },
        // Certificates and keys are looked at before anything is sent.
        Error::TransportError(_) => EtcdError::Credentials,
        other => unreachable(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_behind_everything_that_begins_with_the_prefix() {
        assert_eq!(end_of(b"/a/"), b"/a0");
        assert!(b"/a/\xff".as_slice() < end_of(b"/a/").as_slice());
        assert!(b"/a.b".as_slice() < b"/a/".as_slice());
    }
}
