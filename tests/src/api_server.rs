//! An API server of Kubernetes, as far as a client that lists, watches and writes can tell.
//!
//! It speaks HTTP/1.1, in the clear or over TLS, on the loopback of network namespaces, and
//! wants a token: that of an agent, to which it allows no more than a role does, or that of a
//! user. Tests give it objects and let happen to it what happens to real ones: it goes away,
//! cuts connections in the middle of an event, forgets old versions, stops in the middle of a
//! list, refuses a write because somebody else has written. It knows nothing of what a client
//! makes of its answers.
//!
//! Objects are kept as the JSON that goes over the wire, so that it can serve a large cluster
//! faster than an agent reads it, and count the bytes.

mod discovery;
mod http;
mod kinds;
mod listing;
mod roles;
mod schemas;
mod streamed;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::world::Namespace;

use http::{Asked, answer, answer_text};
use kinds::{KINDS, Key, Kind, Target, key, owned_key};
use listing::{list, watch};
pub use roles::{Right, Role};
use streamed::Streams;

/// The certificate of the authority that has signed the server's own.
const AUTHORITY: &str = include_str!("api_server/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("api_server/server.pem");
const KEY: &[u8] = include_bytes!("api_server/key.pem");
/// The token of agents.
pub const TOKEN: &str = "sha256~the-token-of-the-agent";
/// The token of a user who may do everything.
pub const USER_TOKEN: &str = "sha256~the-token-of-a-user";
/// Interval at which a connection that waits looks if it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The newest version.
    version: u64,
    /// The JSON of each object.
    objects: BTreeMap<Key, Arc<str>>,
    /// The newest events, oldest first.
    events: VecDeque<Event>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// The first version of the newest bookmarks.
    bookmarked: u64,
    /// The version of the newest event that was written, by kind.
    written: BTreeMap<&'static str, u64>,
    traffic: BTreeMap<&'static str, Traffic>,
    /// Kinds without a definition: they are not served.
    undefined: BTreeSet<&'static str>,
    /// All that agents may do; without a role, everything.
    role: Option<Role>,
    /// The rights that agents have made use of.
    used: BTreeSet<Right>,
    /// The requests of agents that their role does not allow.
    forbidden: Vec<String>,
    /// Writes that were carried out, each with its method and path.
    written_by: Vec<String>,
    /// The next writes of objects are refused as if somebody else had written before.
    conflicts: usize,
    /// Most objects of a page; 0 for as many as are asked for.
    page: usize,
    /// Lists of this kind stop after the first page.
    half_listed: Option<String>,
    /// Lists that come as the beginning of a watch.
    streams: Streams,
    /// Connections are closed as they come.
    is_away: bool,
    /// The next event is written by half, and its connection closed.
    is_torn: bool,
    /// Nothing is written any more; connections stay.
    is_silent: bool,
    /// Events are written this long after they happened.
    delay: Duration,
    connections: Vec<TcpStream>,
    requests: Vec<String>,
    is_over: bool,
}

#[derive(Debug, Clone)]
struct Event {
    version: u64,
    kind: &'static str,
    word: &'static str,
    /// JSON of the object.
    object: Arc<str>,
    at: Instant,
}

/// Answers about the objects of a kind so far. Bytes are those of JSON, without the framing of
/// HTTP and TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of lists.
    pub listed_bytes: u64,
    /// Bytes of events.
    pub watched_bytes: u64,
    /// Number of events.
    pub events: u64,
}

/// Returns the objects of a text of YAML documents.
///
/// # Panics
///
/// Panics if the text is none.
pub fn documents(text: &str) -> impl Iterator<Item = Value> {
    use serde::Deserialize as _;
    let documents = serde_yaml::Deserializer::from_str(text);
    documents
        .map(|document| Value::deserialize(document).expect("a document"))
        .filter(|object| !object.is_null())
}

/// Returns an object from its JSON.
fn decoded(text: &str) -> Value {
    serde_json::from_str(text).expect("objects are kept as JSON")
}

impl ApiServer {
    /// Starts one in a network namespace, without objects, in the clear.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen there.
    pub fn start(namespace: &Namespace) -> Self {
        Self::start_with(namespace, None)
    }

    /// The same over TLS.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen there.
    pub fn start_tls(namespace: &Namespace) -> Self {
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a key for its certificate");
        Self::start_with(namespace, Some(Arc::new(config)))
    }

    fn start_with(namespace: &Namespace, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = listen(namespace, 0);
        let address = listener.local_addr().expect("its address");
        let state = State {
            version: 100,
            undefined: [kinds::NODE_STATUS].into(),
            ..State::default()
        };
        let server = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
            address,
            tls,
        };
        server.accept_from(listener);
        server
    }

    /// Listens in another network namespace as well, at the same address.
    ///
    /// # Panics
    ///
    /// Panics if it cannot.
    pub fn listen_in(&self, namespace: &Namespace) {
        self.accept_from(listen(namespace, self.address.port()));
    }

    fn accept_from(&self, listener: TcpListener) {
        let (shared, tls) = (self.shared.clone(), self.tls.clone());
        thread::spawn(move || accept(&listener, &shared, tls.as_ref()));
    }

    /// Writes a kubeconfig of an agent that leads here, and returns where.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn write_kubeconfig(&self, folder: &Path) -> PathBuf {
        self.write_config(folder, "kubeconfig", &json!({"token": TOKEN}))
    }

    /// The same of a user.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn write_user_kubeconfig(&self, folder: &Path) -> PathBuf {
        self.write_config(folder, "user-kubeconfig", &json!({"token": USER_TOKEN}))
    }

    /// Writes a kubeconfig with these credentials under a name, and returns where.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn write_config(&self, folder: &Path, name: &str, credentials: &Value) -> PathBuf {
        let authority = folder.join("authority.pem");
        fs::write(&authority, AUTHORITY).expect("a file can be written");
        let cluster = if self.tls.is_some() {
            json!({
                "server": format!("https://{}", self.address),
                "certificate-authority": authority,
            })
        } else {
            json!({"server": format!("http://{}", self.address)})
        };
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": credentials}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        let path = folder.join(name);
        fs::write(&path, config.to_string()).expect("a file can be written");
        path
    }

    /// Writes what a pod finds of its service account, and returns what its environment says
    /// of the server.
    ///
    /// # Panics
    ///
    /// Panics if a file cannot be written.
    pub fn write_service_account(&self, folder: &Path, namespace: &str) -> [(&str, String); 2] {
        let files = [
            ("ca.crt", AUTHORITY),
            ("token", TOKEN),
            ("namespace", namespace),
        ];
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("a file can be written");
        }
        [
            ("KUBERNETES_SERVICE_HOST", self.address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", self.address.port().to_string()),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Makes an object, or puts it in place of the one of its name.
    ///
    /// # Panics
    ///
    /// Panics if it is of no kind that there is.
    pub fn put(&self, object: Value) {
        let kind = object["kind"].as_str().expect("a kind");
        let kind = Kind::named(kind).expect("a kind that there is");
        self.state().put(kind, object);
        self.shared.changed.notify_all();
    }

    /// Returns an object, if it is there.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().object(&owned_key(kind, namespace, name))
    }

    /// Returns all objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let state = self.state();
        let of_kind = state.objects.iter().filter(|((one, ..), _)| one == kind);
        of_kind.map(|(_, object)| decoded(object)).collect()
    }

    /// Returns the answers so far, by kind.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.state().traffic.clone()
    }

    /// Makes every object of a text of YAML documents.
    ///
    /// # Panics
    ///
    /// Panics if the text is none.
    pub fn apply(&self, text: &str) {
        for object in documents(text) {
            self.put(object);
        }
    }

    /// Deletes an object.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        let kind = Kind::named(kind).expect("a kind that there is").name;
        let object = state.objects.remove(&owned_key(kind, namespace, name));
        let object = decoded(&object.expect("it is there"));
        state.tell(kind, "DELETED", object);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Tells all watches how far they have come.
    pub fn bookmark(&self) {
        let mut state = self.state();
        state.bookmarked = state.version + 1;
        for kind in KINDS {
            let object = json!({"kind": kind.name, "apiVersion": kind.version, "metadata": {}});
            state.tell(kind.name, "BOOKMARK", object);
        }
        self.shared.changed.notify_all();
    }

    /// Returns `true` once a watch of each kind that agents follow has been told of the newest
    /// bookmark.
    pub fn are_bookmarks_written(&self) -> bool {
        let state = self.state();
        KINDS.iter().filter(|kind| kind.is_followed).all(|kind| {
            let written = state.written.get(kind.name);
            written.is_some_and(|written| *written >= state.bookmarked)
        })
    }

    /// Lets no watch begin any more before the newest bookmarks.
    pub fn forget_until_bookmarks(&self) {
        let mut state = self.state();
        state.oldest = state.bookmarked;
    }

    /// Lets no watch begin any more before the newest version, and no list go on. Watches
    /// that have begun are told everything, as by a real server.
    pub fn forget(&self) {
        let mut state = self.state();
        state.oldest = state.version;
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.state().cut();
    }

    /// Closes the next connection in the middle of an event.
    pub fn tear_next_event(&self) {
        self.state().is_torn = true;
    }

    /// Goes away, or comes back.
    pub fn set_away(&self, is_away: bool) {
        let mut state = self.state();
        state.is_away = is_away;
        if is_away {
            state.cut();
        }
    }

    /// Says nothing more, as a machine that is switched off, or speaks again.
    pub fn set_silent(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
        self.shared.changed.notify_all();
    }

    /// Stops lists of a kind after a page of so many objects, until told otherwise.
    pub fn list_by_half(&self, kind: Option<&str>, page: usize) {
        let mut state = self.state();
        state.half_listed = kind.map(str::to_owned);
        state.page = page;
        self.shared.changed.notify_all();
    }

    /// Writes events this long after they happened.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Has the definition of ClusterNetworkPolicy, or has it no more; with it all objects go.
    pub fn serve_custom(&self, is_served: bool) {
        self.define(kinds::CLUSTER_NETWORK_POLICY, is_served);
    }

    /// Has the definition of NodeStatus, or has it no more; with it all objects go.
    pub fn serve_node_statuses(&self, is_served: bool) {
        self.define(kinds::NODE_STATUS, is_served);
    }

    fn define(&self, kind: &'static str, is_served: bool) {
        let mut state = self.state();
        if is_served {
            state.undefined.remove(kind);
        } else {
            state.undefined.insert(kind);
            let of_kind = state.objects.keys().filter(|(one, ..)| one == kind);
            let gone: Vec<_> = of_kind.cloned().collect();
            for key in gone {
                let object = state.objects.remove(&key).expect("it was there");
                state.tell(kind, "DELETED", decoded(&object));
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Allows agents no more than a role does.
    pub fn allow_only(&self, role: Role) {
        self.state().role = Some(role);
    }

    /// Returns the rights that agents have made use of.
    pub fn used_rights(&self) -> BTreeSet<Right> {
        self.state().used.clone()
    }

    /// Returns the requests of agents that their role did not allow.
    pub fn forbidden(&self) -> Vec<String> {
        self.state().forbidden.clone()
    }

    /// Refuses so many of the next writes of objects as if somebody else had written before.
    pub fn refuse_writes(&self, count: usize) {
        self.state().conflicts = count;
    }

    /// Returns the writes that were carried out, each with its method and path.
    pub fn writes(&self) -> Vec<String> {
        self.state().written_by.clone()
    }

    /// Returns the requests so far, each with path and query.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let mut state = self.state();
        state.is_over = true;
        state.cut();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_to_speak(&self) {
        let mut state = self.state();
        while state.is_silent && !state.is_over {
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn listen(namespace: &Namespace, port: u16) -> TcpListener {
    let _inside = namespace.enter().expect("a namespace");
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port")
}

impl State {
    /// Makes an object, or puts it in place of the one of its name; returns it as it is now.
    fn put(&mut self, kind: &Kind, mut object: Value) -> Value {
        let key = key(kind.name, &object);
        let before = self.object(&key);
        let word = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let version = self.version + 1;
        let (uid, created) = match &before {
            Some(before) => {
                let metadata = &before["metadata"];
                (
                    metadata["uid"].clone(),
                    metadata["creationTimestamp"].clone(),
                )
            }
            None => (
                json!(format!("uid-{version}")),
                json!(format!(
                    "2026-01-01T00:{:02}:{:02}Z",
                    version / 60 % 60,
                    version % 60
                )),
            ),
        };
        let metadata = &mut object["metadata"];
        for (key, value) in [
            ("uid", uid),
            ("creationTimestamp", created),
            ("managedFields", json!([{"manager": "kubectl"}])),
        ] {
            if metadata.get(key).is_none() {
                metadata[key] = value;
            }
        }
        object["kind"] = json!(kind.name);
        object["apiVersion"] = json!(kind.version);
        let (object, text) = self.tell(kind.name, word, object);
        self.objects.insert(key, text);
        object
    }

    /// Tells an event of an object; returns the object as it is told, and its JSON.
    fn tell(
        &mut self,
        kind: &'static str,
        word: &'static str,
        mut object: Value,
    ) -> (Value, Arc<str>) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text: Arc<str> = object.to_string().into();
        self.events.push_back(Event {
            version: self.version,
            kind,
            word,
            object: text.clone(),
            at: Instant::now(),
        });
        (object, text)
    }

    fn object(&self, key: &Key) -> Option<Value> {
        self.objects.get(key).map(|text| decoded(text))
    }

    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // It may be closed.
            _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Both ways of a connection.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Arc<ServerConfig>>) {
    listener.set_nonblocking(true).expect("a flag");
    loop {
        let state = shared.state();
        if state.is_over {
            return;
        }
        match listener.accept() {
            Ok((connection, _)) => {
                let mut state = state;
                if state.is_away {
                    continue;
                }
                connection.set_nonblocking(false).expect("a flag");
                // Events are small, and each is to be there at once.
                connection.set_nodelay(true).expect("a flag");
                state
                    .connections
                    .push(connection.try_clone().expect("a descriptor"));
                let (shared, tls) = (shared.clone(), tls.cloned());
                let own = connection.try_clone().expect("a descriptor");
                thread::spawn(move || {
                    let stream: Box<dyn Stream> = match tls {
                        Some(config) => {
                            let session = ServerConnection::new(config).expect("a session");
                            Box::new(StreamOwned::new(session, connection))
                        }
                        None => Box::new(connection),
                    };
                    // A client that goes away is nothing to tell.
                    _ = converse(stream, &shared);
                    _ = own.shutdown(Shutdown::Both);
                });
            }
            Err(_) => {
                let waited = shared.changed.wait_timeout(state, Duration::from_millis(5));
                drop(waited);
            }
        }
    }
}

/// Answers requests on one connection.
fn converse(mut stream: Box<dyn Stream>, shared: &Shared) -> io::Result<()> {
    loop {
        let asked = Asked::read(&mut stream)?;
        shared.state().requests.push(asked.target.clone());
        shared.wait_to_speak();
        let is_agent = asked.token.as_deref() == Some(TOKEN);
        if !is_agent && asked.token.as_deref() != Some(USER_TOKEN) {
            let refusal = status(401, "Unauthorized", "the token is wrong");
            answer(&mut stream, 401, &refusal)?;
            continue;
        }
        if let Some(found) = discovery::answer(&shared.state(), asked.path()) {
            answer(&mut stream, 200, &found)?;
            continue;
        }
        let target = Target::parse(asked.path())
            .filter(|one| !shared.state().undefined.contains(one.kind.name));
        let Some(target) = target else {
            let refusal = status(404, "NotFound", "the server could not find the resource");
            answer(&mut stream, 404, &refusal)?;
            continue;
        };
        if is_agent && let Err(refusal) = shared.state().permit(&asked, &target) {
            answer(&mut stream, 403, &refusal)?;
            continue;
        }
        let query = asked.query();
        let (code, body) = match (asked.method.as_str(), target.name) {
            ("GET", None) if query.get("watch").is_some_and(|watch| *watch != "false") => {
                let is_list = streamed::is_asked(&query);
                let refusal = shared.state().streams.refusal(&query);
                match refusal.filter(|_| is_list) {
                    Some((code, refusal)) => (code, refusal.to_string()),
                    None => return watch(stream, shared, target.kind.name, &query),
                }
            }
            ("GET", None) => list(shared, &target, &query),
            ("GET", Some(name)) => {
                let state = shared.state();
                let found = state.objects.get(&target.key(name));
                found.map_or_else(
                    || (404, missing().to_string()),
                    |found| (200, found.to_string()),
                )
            }
            _ => {
                let (code, written) = shared.state().write(&asked, &target);
                shared.changed.notify_all();
                (code, written.to_string())
            }
        };
        answer_text(&mut stream, code, &body)?;
    }
}

fn missing() -> Value {
    status(404, "NotFound", "there is none")
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
