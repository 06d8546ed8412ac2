//! Documents: YAML text to the desired state.
//!
//! [`parse`] reads one file, [`assemble`] puts the documents of all files together
//! to an [`Inventory`](cofferdam_inventory::Inventory); [`read`] finds the files. A file
//! may hold many documents, and lists of them. Kinds that say nothing about policies are passed over, for
//! people keep whole manifests in one place; a policy of a kind or version that is
//! not supported is an error, because silence would look like protection.
//!
//! The crate opens files where [`read`] is asked to, and otherwise has neither clock,
//! network nor system calls. It must not know which table follows from a document: no
//! compiler, no verdicts.
//!
//! Invariants: no input panics; a document with an error is left out and reported, and
//! its neighbours stay; nothing that is wrong, missing or unknown in a document makes a
//! policy wider than it would be without it; the result does not depend on the order of
//! files or documents.

#![forbid(unsafe_code)]

mod admin;
mod amend;
mod assemble;
mod cidr;
mod classify;
mod cluster_network_policy;
pub mod context;
mod entrances;
mod file;
mod globs;
pub mod hints;
mod kept;
mod last_good;
mod metadata;
mod network_policy;
mod objects;
mod passed_over;
mod pod_text;
mod quoted;
pub mod reader;
pub mod selector;
mod services;
mod sources;
mod stream;
mod textless;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use cofferdam_inventory::{
    ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, ObjectName, Service,
    Workload,
};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place};
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{self, Failure, FailureKind, Mark, Value};

use classify::{Class, classify};
use context::{BoxedContext, Context};
use passed_over::{Lines, is_no_object};
use reader::{Fields, Reader, Shown};

pub use assemble::{Assembled, assemble, assemble_layers};
pub use cluster_network_policy::{MAX_ITEMS, MAX_RULE_NAME};
pub use file::{KeptFile, KeptFiles, Source, SourceMap};
pub use globs::Glob;
pub use kept::Kept;
pub use last_good::{LastGood, Settled};
pub use metadata::ALLOW as ALLOW_ANNOTATION;
pub use metadata::ENFORCEMENT;
pub use metadata::KEYS as METADATA_KEYS;
pub use passed_over::{PassedOver, Strictness, Why};
pub use services::{MAX_ENDPOINT_ADDRESSES, MAX_ENDPOINTS, MAX_SERVICE_PORTS};
pub use sources::{
    Found, IGNORE_FILE, ReadError, Repository, SourceFile, find, find_in_repository, read,
};

pub use pod_text::pod_text;
pub use stream::read_stream;

/// Begins the names of objects that come from an API server, in place of a file's:
/// `kubernetes:NetworkPolicy/shop/db`.
pub const API_PREFIX: &str = "kubernetes:";

/// Begins the names of texts that come from etcd, in place of a file's: the key below the
/// prefix follows, `etcd:documents/shop.yaml`.
pub const ETCD_PREFIX: &str = "etcd:";

/// Begins the names of Pod documents that nodes announce of their own endpoints:
/// `etcd:endpoints/n1/shop/web`.
pub const ANNOUNCED_PREFIX: &str = "etcd:endpoints/";

/// Largest file that is parsed, in bytes.
pub const MAX_FILE: usize = yaml::MAX_TEXT;

/// The kinds of documents that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
    ];

    /// The kind as documents spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// The `apiVersion` as documents spell it.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
        }
    }

    /// Returns `true` if documents of this kind say what may pass.
    #[must_use]
    pub fn is_policy(self) -> bool {
        match self {
            Self::NetworkPolicy | Self::ClusterNetworkPolicy => true,
            Self::Namespace | Self::Node | Self::Pod | Self::Service | Self::EndpointSlice => false,
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Identity of a document: two with the same one are the same document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for kinds that lie in none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Content of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Arc<Node>),
    /// A pod.
    Pod(Arc<Workload>),
    /// A Service.
    Service(Arc<Service>),
    /// A slice of a Service's endpoints.
    EndpointSlice(Arc<EndpointSlice>),
    /// A policy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// A policy of the whole cluster.
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
}

/// A document without errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Identity of the document.
    pub identity: Identity,
    /// Place at which it begins.
    pub place: Place,
    /// Content of the document.
    pub content: Content,
}

impl Document {
    /// Returns `true` if two documents differ in nothing but their places.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (&self.content, &other.content) {
            (Content::NetworkPolicy(a), Content::NetworkPolicy(b)) => a.says_the_same(b),
            (Content::ClusterNetworkPolicy(a), Content::ClusterNetworkPolicy(b)) => {
                a.says_the_same(b)
            }
            (a, b) => a == b,
        }
    }
}

/// A document that was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    /// Place at which it begins, or at which its text stops making sense.
    pub place: Place,
    /// Identity that it would have, where that could be read: the last good version under this
    /// identity is the one to keep.
    pub identity: Option<Identity>,
}

/// Content of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The documents without errors, in the order of the file.
    pub documents: Vec<Document>,
    /// The documents that were left out.
    pub rejected: Vec<Rejected>,
    /// All findings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// Further facts that tell what policies mean.
    pub context: BoxedContext,
    /// Parts that were passed over; none where a text is read strictly.
    pub passed_over: Vec<PassedOver>,
}

/// Reads the documents of one file, as they are put in force. `file` is only a name, for
/// diagnostics.
#[must_use]
pub fn parse(file: &str, bytes: &[u8]) -> Parsed {
    parse_as(file, bytes, Strictness::Strict)
}

/// Reads the text of an object that an API server has. `name` begins with [`API_PREFIX`];
/// its places have no line, unless the annotation `cofferdam.dev/source` says where its text
/// was written.
#[must_use]
pub fn parse_object(name: &Arc<str>, bytes: &[u8]) -> Parsed {
    read_with(Reader::of_object(name), bytes, Strictness::Strict)
}

/// Reads the documents of one file strictly, or among whatever else a repository holds.
#[must_use]
pub fn parse_as(file: &str, bytes: &[u8], strictness: Strictness) -> Parsed {
    read_with(Reader::new(&Arc::from(file)), bytes, strictness)
}

fn read_with(reader: Reader, bytes: &[u8], strictness: Strictness) -> Parsed {
    let text = text_of(bytes);
    let mut parser = FileParser {
        reader,
        documents: Vec::new(),
        rejected: Vec::new(),
        context: Context::default(),
        passed_over: Vec::new(),
        lenient: (strictness == Strictness::Lenient)
            .then(|| Lines::new(text.as_ref().map_or("", |text| text))),
    };
    match text {
        Ok(text) => {
            for document in yaml::parse(text) {
                match document {
                    Ok(node) => parser.outermost(&node),
                    Err(failure) => parser.failure(&failure),
                }
            }
        }
        // Text in other encodings is no manifest: those are read as UTF-8.
        Err((mark, _)) if parser.lenient.is_some() && !mentions_objects(bytes) => {
            parser.pass_over(mark, Why::NoObject);
        }
        Err((mark, message)) => {
            parser.reader.error(mark, Code::File, message);
            parser.reject(mark, None);
        }
    }
    parser.into_parsed()
}

/// Returns `true` if bytes may be an object of Kubernetes.
fn mentions_objects(bytes: &[u8]) -> bool {
    const WORD: &[u8] = b"apiVersion";
    bytes.windows(WORD.len()).any(|window| window == WORD)
}

/// The bytes as text, if they are that and not too many.
fn text_of(bytes: &[u8]) -> Result<&str, (Mark, String)> {
    let start = Mark { line: 1, column: 1 };
    if bytes.len() > MAX_FILE {
        return Err((
            start,
            format!("the file is larger than the {MAX_FILE} bytes that are read: split it"),
        ));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        let last_line = good.rsplit(|b| *b == b'\n').next().unwrap_or_default();
        // What came before the first bad byte is UTF-8: count its characters.
        let column = last_line.iter().filter(|b| (**b & 0xc0) != 0x80).count() + 1;
        let mark = Mark {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        };
        (mark, "the file is not UTF-8 text".to_owned())
    })
}

struct FileParser<'t> {
    reader: Reader,
    documents: Vec<Document>,
    rejected: Vec<Rejected>,
    context: Context,
    passed_over: Vec<PassedOver>,
    /// The text, where it is read leniently.
    lenient: Option<Lines<'t>>,
}

impl FileParser<'_> {
    fn into_parsed(mut self) -> Parsed {
        // Most are kept as long as the file is there.
        self.documents.shrink_to_fit();
        Parsed {
            documents: self.documents,
            rejected: self.rejected,
            diagnostics: self.reader.into_diagnostics(),
            context: self.context.into(),
            passed_over: self.passed_over,
        }
    }

    fn pass_over(&mut self, mark: Mark, why: Why) {
        let place = self.reader.place(mark);
        self.passed_over.push(PassedOver { place, why });
    }

    /// Reads one document of the text. One whose mistakes are values that something is yet
    /// to put in their places is a template.
    fn outermost(&mut self, node: &yaml::Node<'_>) {
        let rejected = self.rejected.len();
        let found = self.reader.state();
        self.document(node, None);
        let Some(lines) = &self.lenient else { return };
        let mut errors = self.reader.errors_since(&found);
        if errors.any(|place| lines.has_placeholder(place.line)) {
            drop(errors);
            self.reader.restore(found);
            self.rejected.truncate(rejected);
            self.pass_over(node.mark, Why::Template);
        }
    }

    fn reject(&mut self, mark: Mark, identity: Option<Identity>) {
        let place = self.reader.own_place(mark);
        self.rejected.push(Rejected { place, identity });
    }

    fn failure(&mut self, failure: &Failure) {
        let mark = failure.mark;
        let lines =
            (self.lenient.as_ref()).filter(|_| failure.kind != FailureKind::TooManyDocuments);
        if let Some(why) = lines.and_then(|lines| lines.why_no_document(mark)) {
            self.pass_over(mark, why);
            return;
        }
        match &failure.kind {
            FailureKind::Syntax(message, slip) => {
                let message = format!("not YAML: {}", Shown(message));
                match slip.map(hints::for_slip) {
                    Some(hint) => self.reader.error_hint(mark, Code::Syntax, message, hint),
                    None => self.reader.error(mark, Code::Syntax, message),
                }
            }
            FailureKind::TooDeep => {
                self.reader
                    .error(mark, Code::Bounds, "the document is nested too deeply");
            }
            FailureKind::TooManyNodes => {
                self.reader.error_hint(
                    mark,
                    Code::Bounds,
                    "the document has too many values",
                    "spread it over several documents",
                );
            }
            FailureKind::TooManyDocuments => {
                self.reader.error_hint(
                    mark,
                    Code::Bounds,
                    "the file has too many documents: none is read from here on",
                    "spread them over several files",
                );
            }
            FailureKind::UnknownAlias => {
                self.reader.error(
                    mark,
                    Code::Alias,
                    "the alias names nothing that ended before it in this document",
                );
            }
            FailureKind::AliasesTooLarge => {
                self.reader.error_hint(
                    mark,
                    Code::Alias,
                    "anchors and aliases of the document expand to too much",
                    "write out what they stand for",
                );
            }
        }
        self.reject(mark, None);
    }

    /// Reads one document, or one item of a list of `implied` kind.
    fn document(&mut self, node: &yaml::Node<'_>, implied: Option<Kind>) {
        if matches!(node.value, Value::Null) {
            return;
        }
        if self.lenient.is_some() && implied.is_none() && is_no_object(node, Fields::of(node)) {
            self.pass_over(node.mark, Why::NoObject);
            return;
        }
        let errors = self.reader.errors();
        let Some(fields) = self.reader.mapping(node, "a document") else {
            self.reject(node.mark, None);
            return;
        };
        let Some((api_version, kind)) = self.type_of(fields, implied) else {
            self.reject(node.mark, None);
            return;
        };
        let named = (api_version, kind);
        match classify(api_version, kind) {
            Class::Other => {
                let reader = &self.reader;
                (self.context).take(named, node, fields, |mark| reader.place(mark));
            }
            Class::Admin(kind) => self.admin(node, kind, errors),
            Class::ForeignPolicy => self.foreign(node, fields, named),
            Class::Unsupported { .. }
                if self.lenient.is_some() && classify::is_of_others(api_version) =>
            {
                self.foreign(node, fields, named);
            }
            Class::Unsupported { hint } => {
                self.reader.error_hint(
                    node.mark,
                    Code::Unsupported,
                    format!(
                        "{} `{}` is not supported, hence not in force",
                        Shown(api_version),
                        Shown(kind)
                    ),
                    hint,
                );
                self.reject(node.mark, None);
            }
            Class::List(implied) => {
                let items = match fields.get("items") {
                    None => Vec::new(),
                    Some(node) => self.reader.list(node, "`items`").unwrap_or_default(),
                };
                if self.reader.errors() != errors {
                    self.reject(node.mark, None);
                }
                for item in items {
                    self.document(item, implied);
                }
            }
            Class::Ours(kind) => self.object(node, fields, kind, errors),
        }
    }

    /// Reads a policy in the form before `ClusterNetworkPolicy`.
    fn admin(&mut self, node: &yaml::Node<'_>, kind: admin::AdminKind, errors: usize) {
        let converted = admin::convert(node, kind);
        for (mark, message) in converted.mistakes {
            self.reader.error(mark, Code::UnknownKey, message);
        }
        let Some(fields) = Fields::of(&converted.document) else {
            return;
        };
        let most = self.reader.most_items(admin::MAX_ITEMS);
        self.object(
            &converted.document,
            fields,
            Kind::ClusterNetworkPolicy,
            errors,
        );
        self.reader.most_items(most);
    }

    /// Notes another product's policy.
    fn foreign(&mut self, node: &yaml::Node<'_>, fields: Fields<'_, '_>, named: (&str, &str)) {
        let (api_version, kind) = named;
        let place = self.reader.place(node.mark);
        self.context.take_foreign(named, fields, place);
        self.reader.warning(
            node.mark,
            Code::Unsupported,
            format!(
                "{} `{}` is not judged: it is not in force here, and no answer counts what it says",
                Shown(api_version),
                Shown(kind)
            ),
            classify::READ_AS,
        );
    }

    /// `apiVersion` and `kind`; a document that does not say what it is might be a
    /// policy.
    fn type_of<'n>(
        &mut self,
        fields: Fields<'n, '_>,
        implied: Option<Kind>,
    ) -> Option<(&'n str, &'n str)> {
        let mut word = |key: &str, implied: Option<&'static str>| match fields.get(key) {
            Some(node) => self.reader.string(node, &format!("`{key}`")),
            None => {
                if implied.is_none() {
                    self.reader
                        .error(fields.mark, Code::Missing, format!("`{key}` is missing"));
                }
                implied
            }
        };
        let api_version = word("apiVersion", implied.map(Kind::api_version));
        let kind = word("kind", implied.map(Kind::as_str));
        Some((api_version?, kind?))
    }

    fn object(&mut self, node: &yaml::Node<'_>, fields: Fields<'_, '_>, kind: Kind, errors: usize) {
        let is_generated = || {
            let metadata = fields.get("metadata").and_then(Fields::of);
            metadata.is_some_and(|metadata| {
                metadata.get("name").is_none() && metadata.get("generateName").is_some()
            })
        };
        if self.lenient.is_some() && kind == Kind::Pod && is_generated() {
            let place = self.reader.place(node.mark);
            self.context.take_generated(fields, place);
            return;
        }
        let reader = &mut self.reader;
        reader.check_keys(node);
        let metadata = match fields.get("metadata") {
            None => {
                reader.error(fields.mark, Code::Missing, "`metadata` is missing");
                None
            }
            Some(node) if kind.is_policy() => {
                let known = ["apiVersion", "kind", "metadata", "spec", "status"];
                reader.strict_mapping(fields.node, &format!("a {kind}"), &known);
                reader.strict_mapping(node, "`metadata`", metadata::KEYS)
            }
            Some(node) => reader.mapping(node, "`metadata`"),
        };
        let Some(metadata) = metadata else {
            self.reject(node.mark, None);
            return;
        };
        if kind.is_policy() {
            if let Some((file, line)) = metadata::written(metadata) {
                reader.set_written(file, line);
            }
            // They mean nothing here, and are held to the rules all the same.
            metadata::labels(reader, metadata);
        }
        let rule = match kind {
            Kind::Namespace => names::dns_label,
            Kind::Node
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy => names::subdomain,
        };
        let name = metadata::name(reader, metadata, rule);
        let namespace = match kind {
            Kind::Namespace | Kind::Node => Some(""),
            Kind::ClusterNetworkPolicy => {
                metadata::no_namespace(reader, metadata, kind);
                Some("")
            }
            Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::NetworkPolicy => {
                metadata::namespace(reader, metadata)
            }
        };
        let (Some(name), Some(namespace)) = (name, namespace) else {
            self.reject(node.mark, None);
            return;
        };
        let object_name = ObjectName::new(namespace, name);
        let identity = Identity {
            kind,
            namespace: object_name.namespace.clone(),
            name: object_name.name.clone(),
        };
        let content = match kind {
            Kind::Namespace => Some(Content::Namespace(Namespace {
                labels: metadata::labels(reader, metadata),
                enforcement: metadata::enforcement(reader, metadata),
            })),
            Kind::Node => {
                let node = objects::node(reader, fields, metadata);
                Some(Content::Node(node.into()))
            }
            Kind::Pod => {
                let pod = objects::pod(reader, fields, metadata, object_name);
                Some(Content::Pod(pod.into()))
            }
            Kind::Service => {
                let place = reader.place(node.mark);
                self.context.take_service(fields, &place);
                let service = services::service(reader, fields, object_name);
                service.map(|service| Content::Service(service.into()))
            }
            Kind::EndpointSlice => {
                let slice = services::endpoint_slice(reader, fields, metadata, &object_name);
                slice.map(|slice| Content::EndpointSlice(slice.into()))
            }
            Kind::NetworkPolicy => {
                let policy = network_policy::network_policy(reader, fields, metadata, object_name);
                Some(Content::NetworkPolicy(policy.into()))
            }
            Kind::ClusterNetworkPolicy => {
                let name = object_name.name;
                let policy =
                    cluster_network_policy::cluster_network_policy(reader, fields, metadata, name);
                policy.map(|policy| Content::ClusterNetworkPolicy(policy.into()))
            }
        };
        let content = content.filter(|_| reader.errors() == errors);
        if let Some(content) = content {
            self.documents.push(Document {
                identity,
                place: reader.own_place(node.mark),
                content,
            });
        } else {
            self.reject(node.mark, Some(identity));
        }
    }
}

/// The documents of a text in the form before `ClusterNetworkPolicy`, in that form, each as
/// YAML text.
#[must_use]
pub fn converted(text: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for node in yaml::parse(text).iter().flatten() {
        convert_within(node, &mut texts);
    }
    texts
}

fn convert_within(node: &yaml::Node<'_>, texts: &mut Vec<String>) {
    let Some(fields) = Fields::of(node) else {
        return;
    };
    let text = |key| match fields.get(key).map(|node| &node.value) {
        Some(Value::Text(text)) => text.as_ref(),
        _ => "",
    };
    match classify(text("apiVersion"), text("kind")) {
        Class::Admin(kind) => texts.push(yaml::emit(&admin::convert(node, kind).document)),
        Class::List(_) => {
            if let Some(Value::List(items)) = fields.get("items").map(|node| &node.value) {
                items.iter().for_each(|item| convert_within(item, texts));
            }
        }
        _ => {}
    }
}
