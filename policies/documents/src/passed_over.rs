//! Documents that are no Kubernetes objects, as they lie in any repository.
//!
//! Values of charts, settings of other programs, patches and templates that are yet to be
//! rendered are passed over where documents are read to be looked at. An agent reads
//! strictly: for it, text that does not say what it is may be a policy.
//!
//! Invariant: what looks like a policy is never passed over.

use std::cell::OnceCell;

use cofferdam_syntax::diagnostic::Place;
use cofferdam_syntax::yaml::{Mark, Node, Value};

use super::Kind;
use super::context::group;
use super::hints::nearest;
use super::reader::Fields;

/// A document that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassedOver {
    /// Its place.
    pub place: Place,
    /// Reason for which it is passed over.
    pub why: Why,
}

/// Reason for which a document is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is no Kubernetes object.
    NoObject,
    /// It is a template that is yet to be rendered.
    Template,
}

/// Strictness with which a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Documents are put in force: one that does not say what it is is an error.
    Strict,
    /// Documents are looked at, among whatever else a repository holds.
    Lenient,
}

/// Beginnings of values that something is yet to put in their place.
const PLACEHOLDERS: [&str; 5] = ["{{", "${", "$(", "<%", "{%"];

/// A text, cut into lines when it is first asked about.
pub(super) struct Lines<'t> {
    text: &'t str,
    lines: OnceCell<Vec<&'t str>>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            lines: OnceCell::new(),
        }
    }

    fn lines(&self) -> &[&'t str] {
        self.lines.get_or_init(|| self.text.lines().collect())
    }

    /// Returns `true` if something is yet to be put in place on this line.
    pub(super) fn has_placeholder(&self, line: u32) -> bool {
        let index = (line as usize).checked_sub(1);
        index
            .and_then(|index| self.lines().get(index))
            .is_some_and(|line| is_placeholder(line))
    }

    /// The lines of the document that has this line.
    fn document(&self, line: u32) -> &[&'t str] {
        let lines = self.lines();
        let at = (line as usize).saturating_sub(1).min(lines.len());
        let is_marker = |line: &&str| line.starts_with("---");
        let begin = lines[..at].iter().rposition(is_marker);
        // The marker of the document itself may be the line that is asked about.
        let end = lines
            .iter()
            .skip(at + 1)
            .position(is_marker)
            .map_or(lines.len(), |length| at + 1 + length);
        &lines[begin.unwrap_or(0)..end]
    }

    /// Returns why text that is not YAML may be passed over; `None` if it may be an object.
    pub(super) fn why_no_document(&self, mark: Mark) -> Option<Why> {
        let lines = self.document(mark.line);
        // `$(` and `${` are all right in YAML.
        let is_template = |line: &&&str| ["{{", "<%", "{%"].iter().any(|word| line.contains(word));
        if lines.iter().any(|line| is_template(&line)) {
            Some(Why::Template)
        } else if lines.iter().any(|line| says_what_it_is(line)) {
            None
        } else {
            Some(Why::NoObject)
        }
    }
}

fn is_placeholder(text: &str) -> bool {
    PLACEHOLDERS.iter().any(|word| text.contains(word))
}

/// Returns `true` for a line that a document begins with to say what it is.
fn says_what_it_is(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '-', '{', '"', '\'']);
    ["apiVersion", "kind"].iter().any(|key| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
    })
}

/// Returns `true` if a document is no Kubernetes object, and no policy that lacks what
/// makes it one.
pub(super) fn is_no_object(node: &Node<'_>, fields: Option<Fields<'_, '_>>) -> bool {
    let Some(fields) = fields else {
        return !matches!(&node.value, Value::Tagged(_));
    };
    let text = |key| match fields.get(key).map(|node| &node.value) {
        Some(Value::Text(text)) => Some(text.as_ref()),
        _ => None,
    };
    match (text("apiVersion"), text("kind")) {
        (Some(_), Some(_)) => false,
        (None, Some(kind)) => !is_ours(kind) && !looks_like_policy(fields),
        (Some(api_version), None) => {
            !is_group_of_policies(api_version) && !looks_like_policy(fields)
        }
        (None, None) => !looks_like_policy(fields),
    }
}

/// Returns `true` for a kind that is read, or nearly one.
fn is_ours(kind: &str) -> bool {
    let is_near = |ours: &Kind| ours.is_policy() && nearest(kind, &[ours.as_str()]).is_some();
    Kind::parse(kind).is_some() || Kind::ALL.iter().any(is_near)
}

fn is_group_of_policies(api_version: &str) -> bool {
    Kind::ALL
        .into_iter()
        .any(|kind| kind.is_policy() && group(kind.api_version()) == group(api_version))
}

/// Returns `true` if a document has what only policies have.
fn looks_like_policy(fields: Fields<'_, '_>) -> bool {
    let Some(Node {
        value: Value::Map(entries),
        ..
    }) = fields.get("spec")
    else {
        return false;
    };
    let has = |key: &str| {
        let is_key = |node: &Node<'_>| matches!(&node.value, Value::Text(text) if text == key);
        entries.iter().any(|entry| is_key(&entry.key))
    };
    has("podSelector") || has("policyTypes") || has("subject") && (has("tier") || has("priority"))
}
