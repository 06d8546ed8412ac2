//! Documents: YAML text to the desired state.
//!
//! [`parse`] reads one file, [`assemble`] puts the documents of all files together
//! to an [`Inventory`](crate::inventory::Inventory); [`read`] finds the files. A file may hold many documents,
//! and lists of them. Kinds that say nothing about policies are passed over, for
//! people keep whole manifests in one place; a policy of a kind or version that is
//! not supported is an error, because silence would look like protection.
//!
//! Invariants: a document with an error is left out and reported, and its
//! neighbours stay; the result does not depend on the order of files or documents.

mod amend;
mod assemble;
mod cidr;
mod classify;
mod cluster_network_policy;
pub mod context;
pub mod hints;
mod last_good;
mod metadata;
mod network_policy;
mod objects;
pub mod reader;
pub(crate) mod selector;
mod services;
mod sources;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::inventory::{
    ClusterNetworkPolicy, EndpointSlice, NetworkPolicy, Node, ObjectName, Service, Workload,
};
use crate::names;
use crate::selectors::Labels;
use crate::yaml::{self, Failure, FailureKind, Mark, Value};

use classify::{Class, classify};
use context::Context;
use reader::{Fields, Reader, Shown};

pub use assemble::{Assembled, assemble};
pub use cluster_network_policy::{MAX_ITEMS, MAX_RULE_NAME};
pub use last_good::{KeptFile, LastGood, Settled, Source};
pub use metadata::KEYS as METADATA_KEYS;
pub use services::{MAX_ENDPOINT_ADDRESSES, MAX_ENDPOINTS, MAX_SERVICE_PORTS};
pub use sources::{Found, ReadError, SourceFile, find, read};

/// Begins the names of objects that come from an API server, in place of a file's:
/// `kubernetes:NetworkPolicy/shop/db`.
pub const API_PREFIX: &str = "kubernetes:";

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

    /// Whether documents of this kind say what may pass.
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

/// What makes two documents the same one.
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

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A namespace's labels.
    Namespace(Labels),
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
    /// Which one it is.
    pub identity: Identity,
    /// Where it begins.
    pub place: Place,
    /// What it says.
    pub content: Content,
}

/// A document that was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    /// Where it begins, or where its text stops making sense.
    pub place: Place,
    /// Which one it would be, where that could be read: the last good version under
    /// this identity is the one to keep.
    pub identity: Option<Identity>,
}

/// What one file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The documents without errors, in the order of the file.
    pub documents: Vec<Document>,
    /// The documents that were left out.
    pub rejected: Vec<Rejected>,
    /// All findings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// What else tells what policies mean.
    pub context: Context,
}

/// Reads the documents of one file. `file` is only a name, for diagnostics.
#[must_use]
pub fn parse(file: &str, bytes: &[u8]) -> Parsed {
    read_with(Reader::new(&Arc::from(file)), bytes)
}

/// Reads the text of an object that an API server has. `name` begins with [`API_PREFIX`];
/// its places have no line, unless the annotation `cofferdam.dev/source` says where its text
/// was written.
#[must_use]
pub fn parse_object(name: &str, bytes: &[u8]) -> Parsed {
    read_with(Reader::of_object(&Arc::from(name)), bytes)
}

fn read_with(reader: Reader, bytes: &[u8]) -> Parsed {
    let mut parser = FileParser {
        reader,
        documents: Vec::new(),
        rejected: Vec::new(),
        context: Context::default(),
    };
    match text_of(bytes) {
        Ok(text) => {
            for document in yaml::parse(text) {
                match document {
                    Ok(node) => parser.document(&node, None),
                    Err(failure) => parser.failure(&failure),
                }
            }
        }
        Err((mark, message)) => {
            parser.reader.error(mark, Code::File, message);
            parser.reject(mark, None);
        }
    }
    Parsed {
        documents: parser.documents,
        rejected: parser.rejected,
        diagnostics: parser.reader.into_diagnostics(),
        context: parser.context,
    }
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

struct FileParser {
    reader: Reader,
    documents: Vec<Document>,
    rejected: Vec<Rejected>,
    context: Context,
}

impl FileParser {
    fn reject(&mut self, mark: Mark, identity: Option<Identity>) {
        let place = self.reader.own_place(mark);
        self.rejected.push(Rejected { place, identity });
    }

    fn failure(&mut self, failure: &Failure) {
        let mark = failure.mark;
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
        let errors = self.reader.errors();
        let Some(fields) = self.reader.mapping(node, "a document") else {
            self.reject(node.mark, None);
            return;
        };
        let Some((api_version, kind)) = self.type_of(fields, implied) else {
            self.reject(node.mark, None);
            return;
        };
        match classify(api_version, kind) {
            Class::Other => self.context.take(api_version, kind, fields),
            Class::ForeignPolicy => self.reader.warning(
                node.mark,
                Code::Unsupported,
                format!("{} `{}` is not in force", Shown(api_version), Shown(kind)),
                classify::READ_AS,
            ),
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
            Kind::Namespace => Some(Content::Namespace(metadata::labels(reader, metadata))),
            Kind::Node => {
                let node = objects::node(reader, fields, metadata);
                Some(Content::Node(node.into()))
            }
            Kind::Pod => {
                let pod = objects::pod(reader, fields, metadata, object_name);
                Some(Content::Pod(pod.into()))
            }
            Kind::Service => {
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
