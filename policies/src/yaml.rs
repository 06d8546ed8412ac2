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

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

/// Largest text that is parsed, in bytes.
pub const MAX_TEXT: usize = 16 << 20;
/// Deepest nesting. Schemas in the manifests people keep beside their policies
/// reach about 60.
const MAX_DEPTH: usize = 128;
/// Most nodes in one document, some 200 MB of memory.
const MAX_NODES: usize = 4_000_000;
/// Most nodes that all anchors and aliases of one document may copy.
const MAX_ALIASED: usize = 100_000;

/// Most [`flow_marks`] of one document. The parser holds every token of a flow
/// collection until it knows that the collection is not a key: some 350 bytes a
/// mark, so half a gigabyte. 16 MiB of JSON with a key and a string on each line of
/// 45 bytes stay just below.
const MAX_FLOW_MARKS: usize = 1_500_000;

/// A place in the text; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub struct Node<'t> {
    /// Where it begins.
    pub mark: Mark,
    /// What it is.
    pub value: Value<'t>,
}

/// What a node is.
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

/// Why a piece of text is not a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub mark: Mark,
    /// Why.
    pub kind: FailureKind,
}

/// The kinds of [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// It is not YAML; what the parser says.
    Syntax(String),
    /// It is nested too deeply.
    TooDeep,
    /// It has too many nodes.
    TooManyNodes,
    /// An alias names no anchor that ended before it.
    UnknownAlias,
    /// Anchors and aliases expand to too much.
    AliasesTooLarge,
}

impl Value<'_> {
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
    let mut documents = Vec::new();
    for piece in pieces(text) {
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
                kind: FailureKind::Syntax(error.info().to_owned()),
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

/// How many tokens text may have from its first flow collection on, more or less:
/// marks that begin or end one, quotes counting half. What is quoted or commented
/// out counts too, since only the parser could tell.
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

/// Number of nodes in a tree, and its depth.
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

/// Whether some YAML reader takes it for a number: hexadecimal, octal, binary,
/// with underscores, a float, an infinity.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node<'_> {
        let mut documents = parse(text);
        assert_eq!(documents.len(), 1, "{documents:?}");
        documents.remove(0).unwrap()
    }

    fn failure(text: &str) -> Failure {
        parse(text).into_iter().find_map(Result::err).unwrap()
    }

    fn entry<'n, 't>(node: &'n Node<'t>, key: &str) -> &'n Entry<'t> {
        let Value::Map(entries) = &node.value else {
            panic!("{node:?}")
        };
        entries
            .iter()
            .find(|e| matches!(&e.key.value, Value::Text(t) if t == key))
            .unwrap()
    }

    #[test]
    fn keys_and_values_know_line_and_column() {
        let root = one("a: 1\nb:\n  - c: x\n");
        let b = entry(&root, "b");
        assert_eq!(b.key.mark, Mark { line: 2, column: 1 });
        let Value::List(items) = &b.value.value else {
            panic!()
        };
        let c = entry(&items[0], "c");
        assert_eq!(c.key.mark, Mark { line: 3, column: 5 });
        assert_eq!(c.value.mark, Mark { line: 3, column: 8 });
    }

    #[test]
    fn marks_count_over_documents() {
        let documents = parse("a: 1\n---\nb: 2\n---\n# nothing\nc: 3\n");
        let lines: Vec<_> = documents
            .iter()
            .map(|d| d.as_ref().unwrap().mark.line)
            .collect();
        assert_eq!(lines, [1, 3, 6]);
    }

    #[test]
    fn broken_document_does_not_hide_its_neighbours() {
        let documents = parse("a: 1\n---\nb: [1\n---\nc: 3\n");
        assert!(documents[0].is_ok());
        assert!(documents[1].is_err());
        assert!(documents[2].is_ok());
    }

    #[test]
    fn directives_stay_with_their_document() {
        let documents = parse("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n");
        assert!(documents.iter().all(Result::is_ok), "{documents:?}");
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].as_ref().unwrap().mark.line, 7);
    }

    #[test]
    fn a_marker_inside_a_block_scalar_that_is_indented_does_not_cut() {
        let root = one("a: |\n  ---\n  x\n");
        assert!(matches!(&entry(&root, "a").value.value, Value::Text(t) if t == "---\nx\n"));
    }

    #[test]
    fn byte_order_mark_and_carriage_returns_are_read_over() {
        let documents = parse("\u{feff}a: 1\r\n---\r\nb: 2\r\n");
        assert_eq!(documents.len(), 2);
        assert!(documents.iter().all(Result::is_ok));
    }

    #[test]
    fn documents_after_lone_carriage_returns_are_seen() {
        assert_eq!(parse("a: 1\r---\rb: 2\r").len(), 2);
    }

    #[test]
    fn null_in_every_spelling_is_null() {
        for text in ["", "~", "null", "Null", "NULL"] {
            let text = format!("a: {text}\n");
            assert!(matches!(entry(&one(&text), "a").value.value, Value::Null));
        }
        assert!(matches!(
            entry(&one("a: ''"), "a").value.value,
            Value::Text(_)
        ));
    }

    #[test]
    fn what_readers_disagree_about_is_ambiguous() {
        for text in [
            "no",
            "On",
            "0o17",
            "017",
            "0x1F",
            "1e3",
            "+80",
            "1_000",
            "8.0",
            ".5",
            "5.",
            "-.inf",
            ".nan",
            "0b11",
            "99999999999999999999",
        ] {
            let value = plain(Cow::Borrowed(text));
            assert!(matches!(value, Value::Ambiguous(_)), "{text}: {value:?}");
        }
    }

    #[test]
    fn ordinary_words_are_text() {
        for text in [
            "y",
            "n",
            "10.0.0.0/8",
            "1.2.3.4",
            "::1",
            "e3",
            "0x",
            "_1",
            "web-1",
            "2020-01-01",
            "1:30",
            "-",
            "+",
            ".",
            "v1",
            "1e",
            "1e+",
        ] {
            let value = plain(Cow::Borrowed(text));
            assert!(matches!(value, Value::Text(_)), "{text}: {value:?}");
        }
    }

    #[test]
    fn quoted_numbers_are_text_and_tags_decide() {
        assert!(matches!(
            entry(&one("a: '80'"), "a").value.value,
            Value::Text(_)
        ));
        assert!(matches!(
            entry(&one("a: !!str 80"), "a").value.value,
            Value::Text(_)
        ));
        assert!(matches!(
            entry(&one("a: !!int 80"), "a").value.value,
            Value::Integer(80)
        ));
        assert!(matches!(
            entry(&one("a: !!int x"), "a").value.value,
            Value::Tagged(_)
        ));
        assert!(matches!(
            entry(&one("a: !x [1]"), "a").value.value,
            Value::Tagged(_)
        ));
    }

    #[test]
    fn aliases_copy_what_they_name() {
        let root = one("a: &x {k: v}\nb: *x\n");
        assert!(matches!(&entry(&root, "b").value.value, Value::Map(e) if e.len() == 1));
    }

    #[test]
    fn anchors_do_not_reach_into_the_next_document() {
        assert_eq!(parse("a: &x 1\n---\nb: *x\n").len(), 2);
        let failure = failure("a: &x 1\n---\nb: *x\n");
        assert_eq!(failure.mark.line, 3);
    }

    #[test]
    fn alias_to_itself_is_refused() {
        assert_eq!(failure("a: &x [*x]\n").kind, FailureKind::UnknownAlias);
    }

    #[test]
    fn alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let items = vec![format!("*a{}", i - 1); 9].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert_eq!(failure(&text).kind, FailureKind::AliasesTooLarge);
    }

    #[test]
    fn nesting_has_a_bound_on_either_side() {
        let block = |depth: usize| format!("{}x\n", "- ".repeat(depth));
        assert!(parse(&block(MAX_DEPTH)).iter().all(Result::is_ok));
        assert_eq!(failure(&block(MAX_DEPTH + 1)).kind, FailureKind::TooDeep);
        let flow = "[".repeat(100_000);
        assert!(matches!(
            failure(&flow).kind,
            FailureKind::TooDeep | FailureKind::Syntax(_)
        ));
    }

    #[test]
    fn aliases_cannot_nest_deeper_than_text_may() {
        // Each anchor wraps the one before it, so nesting grows without indentation.
        let mut text = "- &a0 [x]\n".to_owned();
        for i in 1..300 {
            text.push_str(&format!("- &a{i} [*a{}]\n", i - 1));
        }
        assert_eq!(failure(&text).kind, FailureKind::TooDeep);
    }

    #[test]
    fn a_flow_collection_has_a_bound_on_either_side() {
        // A bracket, then a mark for each comma.
        let list = |commas: usize| format!("[{}", "x,".repeat(commas));
        let within = failure(&list(1000));
        assert!(matches!(within.kind, FailureKind::Syntax(_)), "{within:?}");
        assert_eq!(flow_marks(&list(MAX_FLOW_MARKS - 1)), MAX_FLOW_MARKS);
        assert_eq!(
            failure(&list(MAX_FLOW_MARKS)).kind,
            FailureKind::TooManyNodes
        );
    }

    #[test]
    fn flow_marks_are_of_either_quotes_and_not_of_addresses() {
        assert_eq!(flow_marks("a: 'x', \"y\"\n"), 0);
        assert_eq!(flow_marks("[2001:db8:1:2:3:4:5:6/128]"), 2);
        assert_eq!(flow_marks("{\"a\":\"b\", c: d}"), 2 + 2 + 1 + 2);
    }

    #[test]
    fn a_tab_that_indents_is_a_failure_with_a_place() {
        let failure = failure("a:\n\tb: 1\n");
        assert!(matches!(failure.kind, FailureKind::Syntax(_)));
        assert_eq!(failure.mark.line, 2);
    }

    #[test]
    fn json_is_read() {
        let root = one("{\"a\": [1, null, \"x\"]}");
        assert!(matches!(&entry(&root, "a").value.value, Value::List(l) if l.len() == 3));
    }
}
