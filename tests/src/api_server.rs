//! An API server of Kubernetes, as far as a client that lists and watches can tell.
//!
//! It speaks HTTP/1.1, in the clear or over TLS, on the loopback of a network namespace, and
//! wants a token. Tests give it objects and let happen to it what happens to real ones: it
//! goes away, cuts connections in the middle of an event, forgets old versions, stops in the
//! middle of a list. It knows nothing of what a client makes of its answers.

use std::collections::{BTreeMap, VecDeque};
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

/// The certificate of the authority that has signed the server's own.
const AUTHORITY: &str = include_str!("api_server/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("api_server/server.pem");
const KEY: &[u8] = include_bytes!("api_server/key.pem");
/// The token that every request must have.
pub const TOKEN: &str = "sha256~the-token-of-the-agent";
/// Interval at which a connection that waits looks if it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Kinds that it has, with the paths that list them.
const KINDS: [(&str, &str, &str); 7] = [
    ("Namespace", "v1", "/api/v1/namespaces"),
    ("Node", "v1", "/api/v1/nodes"),
    ("Pod", "v1", "/api/v1/pods"),
    ("Service", "v1", "/api/v1/services"),
    (
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ),
    (
        "NetworkPolicy",
        "networking.k8s.io/v1",
        "/apis/networking.k8s.io/v1/networkpolicies",
    ),
    (
        "ClusterNetworkPolicy",
        "policy.networking.k8s.io/v1alpha2",
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
    ),
];
/// A kind that nobody lists or watches: its objects are asked for by name.
const DAEMON_SET: (&str, &str, &str) = ("DaemonSet", "apps/v1", "/apis/apps/v1/daemonsets");
/// The kind that is there by its definition alone.
const CUSTOM: &str = "ClusterNetworkPolicy";

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    is_tls: bool,
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
    /// By kind, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// The newest events, oldest first.
    events: VecDeque<Event>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// The first version of the newest bookmarks.
    bookmarked: u64,
    /// The version of the newest event that was written, by kind.
    written: BTreeMap<String, u64>,
    is_custom_served: bool,
    /// Most objects of a page; 0 for as many as are asked for.
    page: usize,
    /// Lists of this kind stop after the first page.
    half_listed: Option<String>,
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
    kind: String,
    word: &'static str,
    object: Value,
    at: Instant,
}

impl ApiServer {
    /// Starts one in a network namespace, without objects, in the clear.
    ///
    /// # Panics
    ///
    /// When it cannot listen there.
    pub fn start(namespace: &Namespace) -> Self {
        Self::start_with(namespace, None)
    }

    /// The same over TLS.
    ///
    /// # Panics
    ///
    /// When it cannot listen there.
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
        let inside = namespace.enter().expect("a namespace");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        drop(inside);
        let address = listener.local_addr().expect("its address");
        let state = State {
            version: 100,
            is_custom_served: true,
            ..State::default()
        };
        let server = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
            address,
            is_tls: tls.is_some(),
        };
        let shared = server.shared.clone();
        thread::spawn(move || accept(&listener, &shared, tls.as_ref()));
        server
    }

    /// Writes a kubeconfig that leads here, and returns where.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write_kubeconfig(&self, folder: &Path) -> PathBuf {
        let authority = folder.join("authority.pem");
        fs::write(&authority, AUTHORITY).expect("a file can be written");
        let cluster = if self.is_tls {
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
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        let path = folder.join("kubeconfig");
        fs::write(&path, config.to_string()).expect("a file can be written");
        path
    }

    /// Writes what a pod finds of its service account, and returns what its environment says
    /// of the server.
    ///
    /// # Panics
    ///
    /// When a file cannot be written.
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
    /// When it is of no kind that there is.
    pub fn put(&self, mut object: Value) {
        let mut state = self.state();
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        let mut kinds = KINDS.iter().chain([&DAEMON_SET]);
        assert!(kinds.any(|(known, ..)| *known == kind), "{kind}");
        let key = key(&kind, &object);
        let before = state.objects.get(&key);
        let word = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let version = state.version + 1;
        let (uid, created) = match before {
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
        state.tell(&kind, word, object.clone());
        let told = state.events.back().expect("it was told").object.clone();
        state.objects.insert(key, told);
        self.shared.changed.notify_all();
    }

    /// Makes every object of a text of YAML documents.
    ///
    /// # Panics
    ///
    /// When the text is none.
    pub fn apply(&self, text: &str) {
        use serde::Deserialize as _;
        for document in serde_yaml::Deserializer::from_str(text) {
            let object = Value::deserialize(document).expect("a document");
            if !object.is_null() {
                self.put(object);
            }
        }
    }

    /// Deletes an object.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let object = state.objects.remove(&key).expect("it is there");
        state.tell(kind, "DELETED", object);
        self.shared.changed.notify_all();
    }

    /// Tells all watches how far they have come.
    pub fn bookmark(&self) {
        let mut state = self.state();
        state.bookmarked = state.version + 1;
        for (kind, version, _) in KINDS {
            let object = json!({"kind": kind, "apiVersion": version, "metadata": {}});
            state.tell(kind, "BOOKMARK", object);
        }
        self.shared.changed.notify_all();
    }

    /// Returns `true` once a watch of each kind has been told of the newest bookmark.
    pub fn are_bookmarks_written(&self) -> bool {
        let state = self.state();
        KINDS.iter().all(|(kind, ..)| {
            let written = state.written.get(*kind);
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

    /// Has the definition of the custom kind, or has it no more; with it all its objects go.
    pub fn serve_custom(&self, is_served: bool) {
        let mut state = self.state();
        state.is_custom_served = is_served;
        if !is_served {
            let of_kind = state.objects.keys().filter(|(kind, ..)| kind == CUSTOM);
            let gone: Vec<_> = of_kind.cloned().collect();
            for key in gone {
                let object = state.objects.remove(&key).expect("it was there");
                state.tell(CUSTOM, "DELETED", object);
            }
        }
        self.shared.changed.notify_all();
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

impl State {
    fn tell(&mut self, kind: &str, word: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.events.push_back(Event {
            version: self.version,
            kind: kind.to_owned(),
            word,
            object,
            at: Instant::now(),
        });
    }

    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // It may be closed.
            _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn key(kind: &str, object: &Value) -> (String, String, String) {
    let metadata = &object["metadata"];
    let word = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
    (kind.to_owned(), word("namespace"), word("name"))
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
        let head = read_head(&mut stream)?;
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let is_known = head.lines().any(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            name.eq_ignore_ascii_case("authorization") && value == format!("Bearer {TOKEN}")
        });
        shared.state().requests.push(target.clone());
        shared.wait_to_speak();
        if !is_known {
            let refusal = status(401, "Unauthorized", "the token is wrong");
            answer(&mut stream, 401, &refusal)?;
            continue;
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query: BTreeMap<&str, &str> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        if path == "/apis" {
            let groups = shared.state().groups();
            answer(&mut stream, 200, &groups)?;
            continue;
        }
        let kinds = KINDS.iter();
        let mut listed = kinds.filter(|(_, _, listing)| *listing == path);
        match listed.next() {
            Some((kind, ..)) if *kind == CUSTOM && !shared.state().is_custom_served => {
                let refusal = status(404, "NotFound", "the server could not find the resource");
                answer(&mut stream, 404, &refusal)?;
            }
            Some((kind, ..)) if query.contains_key("watch") => {
                return watch(stream, shared, kind, &query);
            }
            Some((kind, version, _)) => {
                let (code, page) = list(shared, kind, version, &query);
                answer(&mut stream, code, &page)?;
            }
            None => {
                let found = one(&shared.state(), path);
                let missing = || status(404, "NotFound", "there is none");
                let code = if found.is_some() { 200 } else { 404 };
                answer(&mut stream, code, &found.unwrap_or_else(missing))?;
            }
        }
    }
}

fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend(&part[..length]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn answer(stream: &mut impl Write, code: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {code} \r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

impl State {
    fn groups(&self) -> Value {
        let versions = KINDS.iter().filter(|(kind, version, _)| {
            version.contains('/') && (*kind != CUSTOM || self.is_custom_served)
        });
        let groups = versions.map(|(_, version, _)| {
            let (group, number) = version.split_once('/').expect("group and version");
            json!({"name": group, "versions": [{"groupVersion": version, "version": number}]})
        });
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()})
    }
}

/// A page of a list. Its token says how many were listed before, and of which version.
fn list(shared: &Shared, kind: &str, version: &str, query: &BTreeMap<&str, &str>) -> (u16, Value) {
    let mut state = shared.state();
    let token = query
        .get("continue")
        .and_then(|token| token.split_once("of"));
    let (skipped, of) = match token {
        Some((skipped, of)) => (
            skipped.parse().unwrap_or(0),
            of.parse().unwrap_or(state.version),
        ),
        None => (0, state.version),
    };
    while skipped > 0 && state.half_listed.as_deref() == Some(kind) && !state.is_over {
        let waited = shared.changed.wait_timeout(state, LOOK);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    if of < state.oldest {
        return (410, status(410, "Expired", "the token has expired"));
    }
    let of_kind = state.objects.iter().filter(|((one, ..), _)| one == kind);
    let objects: Vec<&Value> = of_kind.map(|(_, object)| object).collect();
    let limit = query.get("limit").and_then(|limit| limit.parse().ok());
    let limit: usize = limit.unwrap_or(usize::MAX);
    let limit = if state.page == 0 {
        limit
    } else {
        limit.min(state.page)
    };
    let items: Vec<&Value> = objects.iter().skip(skipped).take(limit).copied().collect();
    let next = skipped + items.len();
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if next < objects.len() {
        metadata["continue"] = json!(format!("{next}of{of}"));
    }
    let page = json!({
        "kind": format!("{kind}List"), "apiVersion": version,
        "metadata": metadata, "items": items,
    });
    (200, page)
}

/// The object of a path such as `/api/v1/namespaces/shop/pods/db`.
fn one(state: &State, path: &str) -> Option<Value> {
    let mut parts = path.rsplit('/');
    let (name, plural, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let kinds = KINDS.iter().chain([&DAEMON_SET]);
    let mut named = kinds.filter(|(_, _, listing)| listing.ends_with(&format!("/{plural}")));
    let (kind, ..) = named.next()?;
    let key = ((*kind).to_owned(), namespace.to_owned(), name.to_owned());
    state.objects.get(&key).cloned()
}

/// Writes events of a kind as they happen.
fn watch(
    mut stream: Box<dyn Stream>,
    shared: &Shared,
    kind: &str,
    query: &BTreeMap<&str, &str>,
) -> io::Result<()> {
    let number = |key: &str| query.get(key).and_then(|value| value.parse::<u64>().ok());
    let mut seen = number("resourceVersion").unwrap_or(0);
    let wants_bookmarks = query.get("allowWatchBookmarks") == Some(&"true");
    let deadline = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300));
    write!(
        stream,
        "HTTP/1.1 200 \r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )?;
    stream.flush()?;
    if seen < shared.state().oldest {
        let gone = status(410, "Expired", "too old resource version");
        let event = json!({"type": "ERROR", "object": gone});
        chunk(&mut stream, &format!("{event}\n"))?;
        return chunk(&mut stream, "");
    }
    loop {
        let mut state = shared.state();
        let event = loop {
            if state.is_over {
                return Ok(());
            }
            if Instant::now() > deadline {
                drop(state);
                return chunk(&mut stream, "");
            }
            let new = state.events.iter().find(|event| {
                event.version > seen && event.kind == kind && event.at.elapsed() >= state.delay
            });
            if let Some(event) = new.filter(|_| !state.is_silent) {
                break event.clone();
            }
            let waited = shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        seen = event.version;
        if event.word == "BOOKMARK" && !wants_bookmarks {
            continue;
        }
        let text = json!({"type": event.word, "object": event.object}).to_string() + "\n";
        if std::mem::take(&mut state.is_torn) {
            drop(state);
            chunk(&mut stream, &text[..text.len() / 2])?;
            shared.state().cut();
            return Ok(());
        }
        drop(state);
        chunk(&mut stream, &text)?;
        shared.state().written.insert(kind.to_owned(), seen);
    }
}

/// Writes a chunk of an answer; the empty one is its end.
fn chunk(stream: &mut impl Write, text: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
    stream.flush()
}
