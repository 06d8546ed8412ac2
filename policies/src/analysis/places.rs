//! Where something of a document stands, found again when there is a finding.
//!
//! The desired state remembers the places of policies and rules only: nothing that
//! is in force asks for more. What is found wrong below them is looked up by its path
//! in the text, which is parsed once more for that; texts without findings are not.
//!
//! Invariant: a path that leads nowhere ends at the last place that was there.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::diagnostic::Place;
use crate::documents::Source;
use crate::yaml::{self, Entry, Mark, Node, Value};

/// A step down from a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'s> {
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
    /// To what a selector says of this label.
    Requirement(&'s str),
}

/// The keys by which a peer of a policy of the whole cluster says who it is.
const CLUSTER_PEERS: [&str; 4] = ["namespaces", "pods", "networks", "nodes"];

/// A text, parsed when it is first asked about.
struct Text<'a> {
    bytes: &'a [u8],
    trees: OnceCell<Vec<Node<'a>>>,
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
                trees: OnceCell::new(),
            };
            (source.file.as_ref(), text)
        });
        Self {
            texts: texts.collect(),
        }
    }

    /// Whether a file's text has this in it.
    pub(super) fn mentions(&self, file: &str, word: &str) -> bool {
        self.texts.get(file).is_some_and(|text| {
            std::str::from_utf8(text.bytes).is_ok_and(|text| text.contains(word))
        })
    }

    /// All documents of a file, those in lists too.
    pub(super) fn documents(&self, file: &str) -> Vec<&Node<'a>> {
        let mut documents = Vec::new();
        for tree in self.trees(file) {
            flatten(tree, &mut documents);
        }
        documents
    }

    fn trees(&self, file: &str) -> &[Node<'a>] {
        let Some(text) = self.texts.get(file) else {
            return &[];
        };
        text.trees.get_or_init(|| {
            let text = std::str::from_utf8(text.bytes).unwrap_or_default();
            yaml::parse(text).into_iter().flatten().collect()
        })
    }

    /// The value of the key that stands at `place`, or the document that begins there.
    pub(super) fn node(&self, place: &Place) -> Option<&Node<'a>> {
        let at = |mark: Mark| (mark.line, mark.column) == (place.line, place.column);
        self.documents(&place.file).into_iter().find_map(|node| {
            if at(node.mark) {
                return Some(node);
            }
            let entry = entries(node).iter().find(|entry| at(entry.key.mark))?;
            Some(&entry.value)
        })
    }

    /// The place that `path` leads to from what stands at `from`.
    pub(super) fn find(&self, from: &Place, path: &[Step<'_>]) -> Place {
        let mark = self.node(from).and_then(|node| walk(node, path));
        mark.map_or_else(|| from.clone(), |mark| place(&from.file, mark))
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

/// Whether a node is this string.
fn is_text(node: &Node<'_>, text: &str) -> bool {
    matches!(&node.value, Value::Text(value) if value == text)
}

/// The value under a key, unless it is null.
pub(super) fn value<'n, 't>(node: &'n Node<'t>, key: &str) -> Option<&'n Node<'t>> {
    let value = &entry(node, key)?.value;
    (!matches!(value.value, Value::Null)).then_some(value)
}

fn flatten<'n, 't>(node: &'n Node<'t>, documents: &mut Vec<&'n Node<'t>>) {
    let is_list = entry(node, "kind").is_some_and(
        |entry| matches!(&entry.value.value, Value::Text(kind) if kind.ends_with("List")),
    );
    match value(node, "items") {
        Some(list) if is_list => {
            for item in items(list) {
                flatten(item, documents);
            }
        }
        _ => documents.push(node),
    }
}

/// The last place on the path, `None` when not even the first step leads anywhere.
fn walk(node: &Node<'_>, path: &[Step<'_>]) -> Option<Mark> {
    let mut here = node;
    let mut mark = None;
    for step in path {
        let next = match *step {
            Step::Key(key) => entry(here, key).map(|entry| (entry.key.mark, &entry.value)),
            Step::Value => Some((here.mark, here)),
            Step::Item(index) => items(here).get(index).map(|item| (item.mark, item)),
            Step::Peer(index) => items(here)
                .iter()
                .filter(|item| CLUSTER_PEERS.iter().any(|key| value(item, key).is_some()))
                .nth(index)
                .map(|item| (item.mark, item)),
            Step::Cidr(cidr) => {
                let is_cidr = |item: &&Node<'_>| match &item.value {
                    Value::Text(text) => text.parse().is_ok_and(|net: IpNet| net.trunc() == cidr),
                    _ => false,
                };
                (items(here).iter().find(is_cidr)).map(|item| (item.mark, item))
            }
            Step::Text(text) => items(here).iter().find_map(|item| {
                if is_text(item, text) {
                    return Some((item.mark, item));
                }
                let found = entries(item)
                    .iter()
                    .find(|entry| is_text(&entry.value, text))?;
                Some((found.value.mark, &found.value))
            }),
            Step::NamespaceSelector => either(here, ["namespaceSelector", "namespaces"]),
            Step::WorkloadSelector => either(here, ["podSelector", "pods"]),
            Step::Requirement(key) => requirement(here, key),
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

/// What a selector says of a label: the pair, or the expression.
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
