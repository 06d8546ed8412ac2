//! Finds the place of a part of a document, once there is a finding about it.
//!
//! The desired state remembers the places of policies and rules only: enforcement needs no
//! others. The place of a finding below them is looked up by its path in the text, which is
//! parsed once more for that; texts without findings are not.
//!
//! Invariant: a path that leads nowhere ends at the last place that was there.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use cofferdam_documents::Source;
use cofferdam_syntax::diagnostic::Place;
use cofferdam_syntax::yaml::{self, Entry, Mark, Node, Value};
use ipnet::IpNet;

/// A step down from a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum PathStep<'s> {
    /// To the key of a mapping.
    Key(&'s str),
    /// From a key to where its value begins.
    Value,
    /// To the item of a list.
    Item(usize),
    /// To the item of a list of peers that says who it is in a way that is known,
    /// counted from 0.
    Peer(usize),
    /// To the first item that is this CIDR.
    Cidr(IpNet),
    /// To the first item that is, or has as a value, this text.
    Text(&'s str),
    /// To the selector of namespaces of a subject or peer, however it is spelt.
    NamespaceSelector,
    /// To the selector of workloads of a subject or peer.
    WorkloadSelector,
    /// To a selector's requirement of this label.
    Requirement(&'s str),
}

/// The keys by which a peer of a policy of the whole cluster says who it is.
const CLUSTER_PEERS: [&str; 4] = ["namespaces", "pods", "networks", "nodes"];

/// A text, parsed when it is first asked about.
struct Text<'a> {
    bytes: &'a [u8],
    parsed: OnceCell<Parsed<'a>>,
    /// `true` if the text has the word `egress`, which each policy asks about.
    mentions_egress: OnceCell<bool>,
}

impl Text<'_> {
    fn mentions(&self, word: &str) -> bool {
        std::str::from_utf8(self.bytes).is_ok_and(|text| text.contains(word))
    }
}

/// The trees of a text, and the ways to its documents: the number of a tree, then of
/// items of lists in it.
#[derive(Default)]
pub(super) struct Parsed<'a> {
    trees: Vec<Node<'a>>,
    documents: Vec<Box<[usize]>>,
    /// By where they begin, and where a key of theirs stands, the numbers of documents.
    by_mark: HashMap<Mark, usize>,
}

impl<'a> Parsed<'a> {
    /// Parses a text; what is not YAML is left out.
    pub(super) fn new(text: &'a str) -> Self {
        let trees: Vec<Node<'a>> = yaml::parse(text).into_iter().flatten().collect();
        let mut documents = Vec::new();
        let mut by_mark = HashMap::new();
        for (number, tree) in trees.iter().enumerate() {
            flatten(tree, &mut vec![number], &mut |way, node| {
                for mark in (entries(node).iter()).map(|entry| entry.key.mark) {
                    by_mark.insert(mark, documents.len());
                }
                by_mark.insert(node.mark, documents.len());
                documents.push(way.into());
            });
        }
        Self {
            trees,
            documents,
            by_mark,
        }
    }

    /// All documents, those in lists too.
    pub(super) fn all(&self) -> impl Iterator<Item = &Node<'a>> {
        (0..self.documents.len()).filter_map(|number| self.document(number))
    }

    fn document(&self, number: usize) -> Option<&Node<'a>> {
        let (tree, way) = self.documents.get(number)?.split_first()?;
        way.iter().try_fold(self.trees.get(*tree)?, |node, item| {
            items(value(node, "items")?).get(*item)
        })
    }
}

/// The texts of all documents.
pub(super) struct Places<'a> {
    texts: HashMap<&'a str, Text<'a>>,
}

impl<'a> Places<'a> {
    pub(super) fn new(sources: &'a [Source]) -> Self {
        let texts = sources.iter().map(|source| {
            let text = Text {
                bytes: &source.text,
                parsed: OnceCell::new(),
                mentions_egress: OnceCell::new(),
            };
            (source.file.as_ref(), text)
        });
        Self {
            texts: texts.collect(),
        }
    }

    /// Returns `true` if a file's text contains this word. Searches all of the text.
    pub(super) fn mentions(&self, file: &str, word: &str) -> bool {
        (self.texts.get(file)).is_some_and(|text| text.mentions(word))
    }

    /// Returns `true` if a file's text contains `egress`. The text is searched once, for
    /// any number of policies.
    pub(super) fn mentions_egress(&self, file: &str) -> bool {
        self.texts
            .get(file)
            .is_some_and(|text| *(text.mentions_egress).get_or_init(|| text.mentions("egress")))
    }

    /// All documents of a file, those in lists too.
    pub(super) fn documents(&self, file: &str) -> impl Iterator<Item = &Node<'a>> {
        self.parsed(file).into_iter().flat_map(Parsed::all)
    }

    fn parsed(&self, file: &str) -> Option<&Parsed<'a>> {
        let text = self.texts.get(file)?;
        Some(text.parsed.get_or_init(|| {
            let text = std::str::from_utf8(text.bytes).unwrap_or_default();
            Parsed::new(text)
        }))
    }

    /// The `spec` whose key stands at `place`.
    pub(super) fn spec(&self, place: &Place) -> Option<&Node<'a>> {
        let entry = entry(self.document(place)?, "spec")?;
        (entry.key.mark == mark(place)).then_some(&entry.value)
    }

    /// The document that begins at `place`, or has a key there.
    fn document(&self, place: &Place) -> Option<&Node<'a>> {
        let parsed = self.parsed(&place.file)?;
        parsed.document(*parsed.by_mark.get(&mark(place))?)
    }

    /// The place that `path` leads to from the `spec` at `from`.
    pub(super) fn find(&self, from: &Place, path: &[PathStep<'_>]) -> Place {
        let mark = self.spec(from).and_then(|node| walk(node, path));
        mark.map_or_else(|| from.clone(), |mark| place(&from.file, mark))
    }

    /// The place that `path` leads to from the document at `from`.
    pub(super) fn find_in_document(&self, from: &Place, path: &[PathStep<'_>]) -> Place {
        let mark = self.document(from).and_then(|node| walk(node, path));
        mark.map_or_else(|| from.clone(), |mark| place(&from.file, mark))
    }
}

/// A place without its file.
fn mark(place: &Place) -> Mark {
    Mark {
        line: place.line,
        column: place.column,
    }
}

/// A mark as a place in a file.
pub(super) fn place(file: &Arc<str>, mark: Mark) -> Place {
    Place {
        file: file.clone(),
        line: mark.line,
        column: mark.column,
    }
}

/// The entries of a mapping; none of anything else.
pub(super) fn entries<'n, 't>(node: &'n Node<'t>) -> &'n [Entry<'t>] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

/// The items of a list; none of anything else.
pub(super) fn items<'n, 't>(node: &'n Node<'t>) -> &'n [Node<'t>] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

/// The entry under a key.
pub(super) fn entry<'n, 't>(node: &'n Node<'t>, key: &str) -> Option<&'n Entry<'t>> {
    entries(node).iter().find(|entry| is_text(&entry.key, key))
}

/// Returns `true` if a node is this string.
fn is_text(node: &Node<'_>, text: &str) -> bool {
    matches!(&node.value, Value::Text(value) if value == text)
}

/// The value under a key, unless it is null.
pub(super) fn value<'n, 't>(node: &'n Node<'t>, key: &str) -> Option<&'n Node<'t>> {
    let value = &entry(node, key)?.value;
    (!matches!(value.value, Value::Null)).then_some(value)
}

/// Calls with every document of a tree, and the way to it.
fn flatten(node: &Node<'_>, way: &mut Vec<usize>, document: &mut impl FnMut(&[usize], &Node<'_>)) {
    let is_list = entry(node, "kind").is_some_and(
        |entry| matches!(&entry.value.value, Value::Text(kind) if kind.ends_with("List")),
    );
    match value(node, "items") {
        Some(list) if is_list => {
            for (number, item) in items(list).iter().enumerate() {
                way.push(number);
                flatten(item, way, document);
                way.pop();
            }
        }
        _ => document(way, node),
    }
}

/// The last place on the path, `None` when not even the first step leads anywhere.
fn walk(node: &Node<'_>, path: &[PathStep<'_>]) -> Option<Mark> {
    let mut here = node;
    let mut mark = None;
    for step in path {
        let next = match *step {
            PathStep::Key(key) => entry(here, key).map(|entry| (entry.key.mark, &entry.value)),
            PathStep::Value => Some((here.mark, here)),
            PathStep::Item(index) => items(here).get(index).map(|item| (item.mark, item)),
            PathStep::Peer(index) => items(here)
                .iter()
                .filter(|item| CLUSTER_PEERS.iter().any(|key| value(item, key).is_some()))
                .nth(index)
                .map(|item| (item.mark, item)),
            PathStep::Cidr(cidr) => {
                let is_cidr = |item: &&Node<'_>| match &item.value {
                    Value::Text(text) => text.parse().is_ok_and(|net: IpNet| net.trunc() == cidr),
                    _ => false,
                };
                (items(here).iter().find(is_cidr)).map(|item| (item.mark, item))
            }
            PathStep::Text(text) => items(here).iter().find_map(|item| {
                if is_text(item, text) {
                    return Some((item.mark, item));
                }
                let found = entries(item)
                    .iter()
                    .find(|entry| is_text(&entry.value, text))?;
                Some((found.value.mark, &found.value))
            }),
            PathStep::NamespaceSelector => either(here, ["namespaceSelector", "namespaces"]),
            PathStep::WorkloadSelector => either(here, ["podSelector", "pods"]),
            PathStep::Requirement(key) => requirement(here, key),
        };
        let Some((next_mark, next)) = next else {
            break;
        };
        mark = Some(next_mark);
        here = next;
    }
    mark
}

/// One of two keys, here or in the mapping under `pods`.
fn either<'n, 't>(peer: &'n Node<'t>, keys: [&str; 2]) -> Option<(Mark, &'n Node<'t>)> {
    let pods = value(peer, "pods");
    (pods.into_iter().chain([peer]))
        .find_map(|node| keys.iter().find_map(|key| entry(node, key)))
        .map(|entry| (entry.key.mark, &entry.value))
}

/// Returns a selector's requirement of a label: the pair, or the expression.
fn requirement<'n, 't>(selector: &'n Node<'t>, key: &str) -> Option<(Mark, &'n Node<'t>)> {
    let pair = value(selector, "matchLabels").and_then(|labels| entry(labels, key));
    if let Some(pair) = pair {
        return Some((pair.key.mark, &pair.value));
    }
    let expressions = value(selector, "matchExpressions")?;
    let expression = items(expressions)
        .iter()
        .find(|item| value(item, "key").is_some_and(|value| is_text(value, key)))?;
    Some((expression.mark, expression))
}
