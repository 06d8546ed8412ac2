//! YAML text to trees in which every key and value knows its line and column.
//!
//! Knows nothing of Kubernetes. It is a reader for text written by others, so
//! three things matter more than completeness:
//!
//! - **Bounded.** Size, nesting, number of nodes and what aliases expand to have
//!   limits, checked before memory is spent.
//! - **One bad document does not hide the others.** The text is cut at document
//!   markers first, and each piece is parsed alone.
//! - **No guessing.** A plain scalar that readers of different YAML versions take
//!   for different things (`no`, `0o17`, `1e3`) is [`Value::Ambiguous`], and the
//!   caller refuses it where it matters.
//!
//! Invariant: no input panics, and every node's mark lies in the text.

mod emit;
mod mend;
mod surrogates;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

pub use emit::emit;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

/// Largest text that is parsed, in bytes.
pub const MAX_TEXT: usize = 16 << 20;
/// Deepest nesting. Schemas in the manifests people keep beside their policies
/// reach about 60.
const MAX_DEPTH: usize = 128;
/// Most nodes in one document, some 200 MB of memory.
const MAX_NODES: usize = 4_000_000;
/// Most nodes that all anchors and aliases of one document may copy. Text that had to
/// be unescaped is copied with them, and counts as [`NODE_TEXT`] bytes a node.
const MAX_ALIASED: usize = 100_000;
/// Memory of a node beside its text, in bytes, more or less.
const NODE_TEXT: usize = 64;
/// Most documents in one text; each is some 300 bytes of memory, however short.
const MAX_DOCUMENTS: usize = 100_000;

/// Most [`flow_marks`] of one document. The parser holds every token of a flow
/// collection until it knows that the collection is not a key: some 350 bytes a
/// mark, so half a gigabyte. 16 MiB of JSON with a key and a string on each line of
/// 45 bytes stay just below.
const MAX_FLOW_MARKS: usize = 1_500_000;

/// Message of the parser about an alias without an anchor.
const UNKNOWN_ANCHOR: &str = "while parsing node, found unknown anchor";

/// A place in the text; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub struct Node<'t> {
    /// Place of its first character.
    pub mark: Mark,
    /// Its value.
    pub value: Value<'t>,
}

/// Value of a node.
#[derive(Debug, Clone)]
pub enum Value<'t> {
    /// `null`, or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A decimal integer without sign tricks or leading zeros.
    Integer(i64),
    /// A string.
    Text(Cow<'t, str>),
    /// A plain scalar that some readers take for a boolean or a number.
    Ambiguous(Cow<'t, str>),
    /// A node with a tag this reader does not know; its content is not kept.
    Tagged(String),
    /// A list.
    List(Vec<Node<'t>>),
    /// Entries in the order of the text, duplicates included.
    Map(Vec<Entry<'t>>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry<'t> {
    /// The key.
    pub key: Node<'t>,
    /// The value.
    pub value: Node<'t>,
}

/// Failure to parse a piece of text as a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Place of the failure.
    pub mark: Mark,
    /// Kind of the failure.
    pub kind: FailureKind,
}

/// The kinds of [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// It is not YAML; what the parser says, and what the line looks like.
    Syntax(String, Option<Slip>),
    /// It is nested too deeply.
    TooDeep,
    /// It has too many nodes.
    TooManyNodes,
    /// It is one document too many, and what follows it is not looked at.
    TooManyDocuments,
    /// An alias names no anchor that ended before it.
    UnknownAlias,
    /// Anchors and aliases expand to too much.
    AliasesTooLarge,
}

/// Common mistakes that make a line no YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slip {
    /// It is indented by tabs.
    Tab,
    /// It has `{{` in it, as templates do that are yet to be rendered.
    Template,
}

impl Slip {
    /// Looks at a line, from 1, and for templates at those before it: a line of
    /// theirs is a mapping in YAML, and the mistake is what follows.
    fn find(text: &str, line: usize) -> Option<Self> {
        let mut lines = text.lines().take(line).peekable();
        while let Some(content) = lines.next() {
            let trimmed = content.trim_start();
            let is_last = lines.peek().is_none();
            if is_last && content[..content.len() - trimmed.len()].contains('\t') {
                return Some(Self::Tab);
            }
            if trimmed.starts_with("{{") || is_last && content.contains("{{") {
                return Some(Self::Template);
            }
        }
        None
    }
}

impl Value<'_> {
    /// The text of a string, also of one that some readers take for another value.
    #[must_use]
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Ambiguous(text) => Some(text),
            _ => None,
        }
    }

    /// The word for this kind of value in messages.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Text(_) => "a string",
            Self::Ambiguous(_) => "a value that YAML readers disagree about",
            Self::Tagged(_) => "a tagged value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses every document of `text`: each is a tree or the reason why it is none.
///
/// The caller has checked [`MAX_TEXT`].
pub fn parse(text: &str) -> Vec<Result<Node<'_>, Failure>> {
    let Some((joined, pairs)) = surrogates::join(text) else {
        return parse_text(text);
    };
    let documents = parse_text(&joined).into_iter();
    let in_text = documents.map(|document| match document {
        Ok(root) => Ok(root.into_owned(&|mark| pairs.in_text(mark))),
        Err(failure) => Err(Failure {
            mark: pairs.in_text(failure.mark),
            ..failure
        }),
    });
    in_text.collect()
}

/// Parses a part of a text that begins at `begin`; marks are those in the whole.
///
/// The caller has checked [`MAX_TEXT`].
pub fn parse_from(text: &str, begin: Mark) -> Vec<Result<Node<'_>, Failure>> {
    let mut documents = parse(text);
    let moved = |mark: Mark| Mark {
        line: mark.line.saturating_add(begin.line - 1),
        column: match mark.line {
            1 => mark.column.saturating_add(begin.column - 1),
            _ => mark.column,
        },
    };
    if begin != (Mark { line: 1, column: 1 }) {
        for document in &mut documents {
            match document {
                Ok(node) => shift(node, &moved),
                Err(failure) => failure.mark = moved(failure.mark),
            }
        }
    }
    documents
}

fn shift(node: &mut Node<'_>, moved: &impl Fn(Mark) -> Mark) {
    node.mark = moved(node.mark);
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, moved)),
        Value::Map(entries) => {
            for Entry { key, value } in entries {
                shift(key, moved);
                shift(value, moved);
            }
        }
        _ => {}
    }
}

fn parse_text(text: &str) -> Vec<Result<Node<'_>, Failure>> {
    let mut documents = Vec::new();
    for piece in pieces(text) {
        if documents.len() >= MAX_DOCUMENTS {
            documents.push(Err(Failure {
                mark: Builder::new(piece.lines_before).mark(1, 0),
                kind: FailureKind::TooManyDocuments,
            }));
            break;
        }
        parse_piece(&piece, &mut documents);
    }
    documents
}

/// A stretch of text that holds one document, usually.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'t> {
    text: &'t str,
    /// Lines before it.
    lines_before: u32,
}

/// Cuts at lines that begin with `---`, which YAML permits nowhere but as a
/// document marker, and before the directives that belong to one.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut start_line = 0;
    let mut offset = 0;
    // Directives may stand at the start of the stream and after `...`; the marker
    // that follows them is theirs and does not cut again.
    let mut directives_allowed = true;
    let mut in_directives = false;
    for (line_number, line) in (0u32..).zip(text.split_inclusive('\n')) {
        let content = line.trim_end_matches(['\n', '\r']);
        let marker = |m: &str| {
            content
                .strip_prefix(m)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
        };
        let cut = if marker("---") {
            let own_directives = in_directives;
            in_directives = false;
            directives_allowed = false;
            !own_directives
        } else if marker("...") {
            directives_allowed = true;
            in_directives = false;
            false
        } else if directives_allowed && !in_directives && content.starts_with('%') {
            in_directives = true;
            true
        } else {
            let trimmed = content.trim_start();
            if !(trimmed.is_empty() || trimmed.starts_with('#') || content.starts_with('%')) {
                directives_allowed = false;
                in_directives = false;
            }
            false
        };
        if cut && offset > start {
            pieces.push(Piece {
                text: &text[start..offset],
                lines_before: start_line,
            });
            start = offset;
            start_line = line_number;
        }
        offset += line.len();
    }
    pieces.push(Piece {
        text: &text[start..],
        lines_before: start_line,
    });
    pieces
}

/// Parses one piece; a piece cut short by a lone carriage return may hold several
/// documents.
fn parse_piece<'t>(piece: &Piece<'t>, documents: &mut Vec<Result<Node<'t>, Failure>>) {
    let before = documents.len();
    parse_as_it_is(piece, documents);
    let is_syntax = |document: &Result<Node<'_>, Failure>| {
        matches!(
            document,
            Err(Failure {
                kind: FailureKind::Syntax(..),
                ..
            })
        )
    };
    if !documents[before..].iter().any(is_syntax) {
        return;
    }
    let Some(mended) = mend::indent(piece.text).filter(|mended| mended.text.len() <= MAX_TEXT)
    else {
        return;
    };
    let mut again = Vec::new();
    let as_mended = Piece {
        text: &mended.text,
        lines_before: 0,
    };
    parse_as_it_is(&as_mended, &mut again);
    if again.iter().all(Result::is_ok) {
        documents.truncate(before);
        let moved = |mark: Mark| Mark {
            line: mark.line.saturating_add(piece.lines_before),
            column: u32::try_from(mended.column(mark.line as usize, mark.column as usize - 1))
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        };
        for node in again.into_iter().flatten() {
            documents.push(Ok(node.into_owned(&moved)));
        }
    }
}

fn parse_as_it_is<'t>(piece: &Piece<'t>, documents: &mut Vec<Result<Node<'t>, Failure>>) {
    let mut builder = Builder::new(piece.lines_before);
    if flow_marks(piece.text) > MAX_FLOW_MARKS {
        documents.push(Err(Failure {
            mark: builder.mark(1, 0),
            kind: FailureKind::TooManyNodes,
        }));
        return;
    }
    let mut parser = Parser::new_from_str(piece.text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(Failure {
                mark: builder.mark(error.marker().line(), error.marker().col()),
                kind: match error.info() {
                    UNKNOWN_ANCHOR => FailureKind::UnknownAlias,
                    message => FailureKind::Syntax(
                        message.to_owned(),
                        Slip::find(piece.text, error.marker().line()),
                    ),
                },
            }),
        };
        match step {
            Ok(None) => {}
            Ok(Some(root)) => documents.push(Ok(root)),
            Err(failure) => {
                documents.push(Err(failure));
                return;
            }
        }
    }
}

/// Estimates the tokens of a text from its first flow collection on: each mark that begins
/// or ends a token is one, each quote a half. Marks in quotes and comments count too, since
/// only the parser could tell them apart.
fn flow_marks(text: &str) -> usize {
    let bytes = text.as_bytes();
    let first = bytes.iter().position(|b| matches!(b, b'[' | b'{'));
    let flow = &bytes[first.unwrap_or(bytes.len())..];
    let mut quotes = 0;
    let mut marks = 0;
    for (index, byte) in flow.iter().enumerate() {
        match byte {
            b',' | b'[' | b']' | b'{' | b'}' | b'&' | b'*' | b'!' | b'?' => marks += 1,
            b'\'' | b'"' => quotes += 1,
            // Not the colons of addresses.
            b':' if flow
                .get(index + 1)
                .is_none_or(|next| !next.is_ascii_alphanumeric()) =>
            {
                marks += 1;
            }
            _ => {}
        }
    }
    marks + quotes / 2
}

/// A collection that has been opened and not closed.
struct Frame<'t> {
    anchor: usize,
    mark: Mark,
    content: Content<'t>,
}

enum Content<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<Entry<'t>>,
        key: Option<Node<'t>>,
    },
    /// Under a tag we do not know: swallowed.
    Tagged(String),
}

/// Puts events together to a tree.
struct Builder<'t> {
    lines_before: u32,
    stack: Vec<Frame<'t>>,
    root: Option<Node<'t>>,
    nodes: usize,
    aliased: usize,
    /// Finished anchored nodes with the number of nodes in them.
    anchors: HashMap<usize, (Node<'t>, usize)>,
}

impl<'t> Builder<'t> {
    fn new(lines_before: u32) -> Self {
        Self {
            lines_before,
            stack: Vec::new(),
            root: None,
            nodes: 0,
            aliased: 0,
            anchors: HashMap::new(),
        }
    }

    /// A mark in the whole text from one in the piece, whose columns count from 0.
    fn mark(&self, line: usize, column: usize) -> Mark {
        Mark {
            line: u32::try_from(line)
                .unwrap_or(u32::MAX)
                .saturating_add(self.lines_before)
                .max(1),
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
        }
    }

    /// Takes one event; gives the tree when a document ends.
    fn event(&mut self, event: Event<'t>, span: Span) -> Result<Option<Node<'t>>, Failure> {
        let mark = self.mark(span.start.line(), span.start.col());
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
            Event::DocumentStart(_) => {
                self.stack.clear();
                self.root = None;
                self.nodes = 0;
                self.aliased = 0;
                // Anchors do not reach over a document's end.
                self.anchors.clear();
            }
            Event::DocumentEnd => return Ok(self.root.take()),
            Event::Alias(id) => {
                let (node, size) = self.anchors.get(&id).cloned().ok_or(Failure {
                    mark,
                    kind: FailureKind::UnknownAlias,
                })?;
                self.count_aliased(size, mark)?;
                self.check_depth(&node, mark)?;
                self.add(node, 0, mark)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(text, style, tag.as_deref());
                self.add(Node { mark, value }, anchor, mark)?;
            }
            Event::SequenceStart(anchor, tag) => {
                let content = match unknown_tag(tag.as_deref(), "seq") {
                    Some(tag) => Content::Tagged(tag),
                    None => Content::List(Vec::new()),
                };
                self.open(anchor, mark, content)?;
            }
            Event::MappingStart(anchor, tag) => {
                let content = match unknown_tag(tag.as_deref(), "map") {
                    Some(tag) => Content::Tagged(tag),
                    None => Content::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                };
                self.open(anchor, mark, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.stack.pop() {
                    let value = match frame.content {
                        Content::List(items) => Value::List(items),
                        Content::Map { entries, .. } => Value::Map(entries),
                        Content::Tagged(tag) => Value::Tagged(tag),
                    };
                    let mark = frame.mark;
                    self.add(Node { mark, value }, frame.anchor, mark)?;
                }
            }
        }
        Ok(None)
    }

    fn open(&mut self, anchor: usize, mark: Mark, content: Content<'t>) -> Result<(), Failure> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(Failure {
                mark,
                kind: FailureKind::TooDeep,
            });
        }
        self.stack.push(Frame {
            anchor,
            mark,
            content,
        });
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node<'t>, anchor: usize, mark: Mark) -> Result<(), Failure> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Failure {
                mark,
                kind: FailureKind::TooManyNodes,
            });
        }
        if anchor != 0 {
            let (size, _) = extent(&node);
            self.count_aliased(size, mark)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push(Entry { key, value: node }),
            },
            Some(Content::Tagged(_)) => {}
        }
        Ok(())
    }

    /// An alias may not lift nesting over what text may have.
    fn check_depth(&self, node: &Node<'t>, mark: Mark) -> Result<(), Failure> {
        let (_, depth) = extent(node);
        if self.stack.len() + depth > MAX_DEPTH {
            return Err(Failure {
                mark,
                kind: FailureKind::TooDeep,
            });
        }
        Ok(())
    }

    fn count_aliased(&mut self, size: usize, mark: Mark) -> Result<(), Failure> {
        self.aliased = self.aliased.saturating_add(size);
        if self.aliased > MAX_ALIASED {
            return Err(Failure {
                mark,
                kind: FailureKind::AliasesTooLarge,
            });
        }
        Ok(())
    }
}

/// Returns the memory of a tree, in nodes, and its depth.
fn extent(node: &Node<'_>) -> (usize, usize) {
    let mut size = 1;
    let mut depth = 0;
    let mut child = |node: &Node<'_>| {
        let (nodes, levels) = extent(node);
        size += nodes;
        depth = depth.max(levels);
    };
    match &node.value {
        Value::List(items) => items.iter().for_each(&mut child),
        Value::Map(entries) => entries.iter().for_each(|entry| {
            child(&entry.key);
            child(&entry.value);
        }),
        Value::Text(Cow::Owned(text)) | Value::Ambiguous(Cow::Owned(text)) => {
            return (1 + text.len() / NODE_TEXT, 0);
        }
        Value::Tagged(tag) => return (1 + tag.len() / NODE_TEXT, 0),
        _ => return (1, 0),
    }
    (size, depth + 1)
}

/// The tag as text, if it is not the core schema's `name`.
fn unknown_tag(tag: Option<&Tag>, name: &str) -> Option<String> {
    let tag = tag?;
    (!(tag.is_yaml_core_schema() && tag.suffix == name)).then(|| tag.to_string())
}

fn scalar<'t>(text: Cow<'t, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'t> {
    match tag {
        None if style == ScalarStyle::Plain => plain(text),
        None => Value::Text(text),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::Text(text),
        Some(tag)
            if tag.is_yaml_core_schema()
                && matches!(tag.suffix.as_str(), "null" | "bool" | "int" | "float") =>
        {
            let value = plain(text);
            let fits = matches!(
                (&value, tag.suffix.as_str()),
                (Value::Null, "null") | (Value::Bool(_), "bool") | (Value::Integer(_), "int")
            );
            if fits {
                value
            } else {
                Value::Tagged(tag.to_string())
            }
        }
        Some(tag) => Value::Tagged(tag.to_string()),
    }
}

/// Resolves a plain scalar.
fn plain(text: Cow<'_, str>) -> Value<'_> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        // Booleans to readers of YAML 1.1, strings to readers of 1.2.
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => {
            return Value::Ambiguous(text);
        }
        _ => {}
    }
    if is_decimal(&text) {
        return match text.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Ambiguous(text),
        };
    }
    if looks_like_number(&text) {
        Value::Ambiguous(text)
    } else {
        Value::Text(text)
    }
}

/// `0`, or digits without a leading zero, with at most a minus in front.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c)))
}

/// Returns `true` if some YAML reader takes the text for a number: hexadecimal, octal,
/// binary, with underscores, a float, an infinity.
fn looks_like_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return true;
    }
    for prefix in ["0x", "0X", "0o", "0O", "0b", "0B"] {
        if let Some(rest) = unsigned.strip_prefix(prefix) {
            return !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_');
        }
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let some_digit = mantissa.bytes().any(|b| b.is_ascii_digit());
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    // Underscores in front make a word, not a number.
    some_digit && !mantissa.starts_with('_') && digits(whole) && digits(fraction) && exponent_fits
}
