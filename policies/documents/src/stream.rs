//! Lists of whole clusters, read item by item.
//!
//! The output of `kubectl get … -A -o yaml` for a real cluster is larger than any text that is
//! parsed at once. It is cut where items of the outermost list and documents begin, in the
//! forms in which kubectl and API servers print them, and each part is parsed alone.
//!
//! Kept of the text are parts that findings may be about: items that are policies or have
//! findings; of others their line breaks, so that places stay what they are.
//!
//! Invariant: no more than one item and what is kept is in memory at a time; an item is no
//! larger than a text that is parsed at once.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::yaml::{self, Mark, Node, Value};

use super::file::Source;
use super::passed_over::{Lines, Strictness};
use super::reader::{Fields, Reader};
use super::{Content, FileParser, Kind, MAX_FILE};

/// Reads a text of any length.
///
/// # Errors
/// When it cannot be read.
pub fn read_stream(file: &str, input: impl Read, strictness: Strictness) -> io::Result<Source> {
    read_bounded(file, input, strictness, MAX_FILE)
}

/// The same with the most bytes of a part.
pub(super) fn read_bounded(
    file: &str,
    input: impl Read,
    strictness: Strictness,
    most: usize,
) -> io::Result<Source> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let file: Arc<str> = Arc::from(file);
    let mut stream = Stream {
        parser: FileParser {
            reader: Reader::new(&file),
            documents: Vec::new(),
            rejected: Vec::new(),
            context: Default::default(),
            passed_over: Vec::new(),
            lenient: (strictness == Strictness::Lenient).then(|| Lines::new("")),
        },
        kept: Vec::new(),
        most,
    };
    if starts_with_brace(&mut input)? {
        stream.json(&mut input)?;
    } else {
        stream.yaml(&mut input)?;
    }
    let parsed = Arc::new(stream.parser.into_parsed());
    Ok(Source {
        file,
        text: stream.kept.into(),
        is_whole: false,
        parsed,
    })
}

fn starts_with_brace(input: &mut impl BufRead) -> io::Result<bool> {
    let bytes = input.fill_buf()?;
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(first == Some(&b'{'))
}

struct Stream<'t> {
    parser: FileParser<'t>,
    /// The text as far as it is kept.
    kept: Vec<u8>,
    /// Most bytes of a part.
    most: usize,
}

/// A part of the text that is being collected.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    /// Line at which it begins.
    line: u32,
    column: u32,
    /// Lines that end in it.
    breaks: usize,
    is_too_large: bool,
}

impl Part {
    fn at(line: u32, column: u32) -> Self {
        Self {
            line,
            column,
            ..Self::default()
        }
    }

    fn push(&mut self, bytes: &[u8], most: usize) {
        self.breaks += bytes.iter().filter(|byte| **byte == b'\n').count();
        if self.bytes.len() + bytes.len() > most {
            self.is_too_large = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

impl Stream<'_> {
    /// Reads one part: a document, or an item of a list, which `inner` finds in what was
    /// parsed. Returns `true` if its text is to be kept.
    fn part(
        &mut self,
        part: &Part,
        implied: Option<Kind>,
        inner: impl Fn(Node<'_>) -> Option<Node<'_>>,
    ) -> bool {
        let begin = Mark {
            line: part.line,
            column: part.column,
        };
        let parser = &mut self.parser;
        if part.is_too_large {
            parser.reader.error_hint(
                begin,
                Code::Bounds,
                format!(
                    "this part is larger than the {} bytes that are read at once",
                    self.most
                ),
                "split it",
            );
            parser.reject(begin, None);
            return true;
        }
        let Ok(text) = std::str::from_utf8(&part.bytes) else {
            parser
                .reader
                .error(begin, Code::File, "this part is not UTF-8 text");
            parser.reject(begin, None);
            return true;
        };
        let findings = parser.reader.state();
        let documents = parser.documents.len();
        for node in yaml::parse_from(text, begin) {
            match node {
                Ok(node) => {
                    if let Some(node) = inner(node) {
                        parser.document(&node, implied);
                    }
                }
                Err(failure) => {
                    let lenient = parser.lenient.take();
                    parser.failure(&failure);
                    parser.lenient = lenient;
                }
            }
        }
        let is_policy = |content: &Content| {
            matches!(
                content,
                Content::NetworkPolicy(_) | Content::ClusterNetworkPolicy(_)
            )
        };
        parser.reader.has_more_than(&findings)
            || parser.documents[documents..]
                .iter()
                .any(|one| is_policy(&one.content))
    }

    fn keep(&mut self, part: &Part, is_kept: bool, stands_for: &str) {
        if is_kept && !part.is_too_large {
            self.kept.extend_from_slice(&part.bytes);
        } else {
            self.kept.extend_from_slice(stands_for.as_bytes());
            self.kept.extend(std::iter::repeat_n(b'\n', part.breaks));
        }
    }

    /// YAML: documents, and lists whose items begin with a dash at the line's beginning or
    /// below the key.
    fn yaml(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        let mut number = 0u32;
        let mut line = Vec::new();
        let mut head = Part::at(1, 1);
        let mut item: Option<Part> = None;
        // The indentation of the dashes of items, while they are read.
        let mut items: Option<Option<usize>> = None;
        let mut implied = None;
        let mut continues = false;
        loop {
            line.clear();
            let most = u64::try_from(self.most)
                .unwrap_or(u64::MAX)
                .saturating_add(1);
            if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            // The rest of a line that is longer than what is read at once.
            if continues {
                continues = !line.ends_with(b"\n");
                item.as_mut().unwrap_or(&mut head).push(&line, self.most);
                continue;
            }
            continues = !line.ends_with(b"\n");
            number = number.saturating_add(1);
            let text = line.trim_ascii_end();
            if text == b"---" || text.starts_with(b"--- ") {
                self.end_item(&mut item, implied);
                items = None;
                self.document_of(&head);
                head = Part::at(number, 1);
                head.push(&line, self.most);
                continue;
            }
            let indent = line.iter().take_while(|byte| **byte == b' ').count();
            if let Some(dashes) = items {
                let is_dash = line.get(indent) == Some(&b'-')
                    && line.get(indent + 1).is_none_or(u8::is_ascii_whitespace);
                let is_blank = text.is_empty() || line.get(indent) == Some(&b'#');
                if is_dash && dashes.is_none_or(|at| at == indent) {
                    self.end_item(&mut item, implied);
                    items = Some(Some(indent));
                    let mut next = Part::at(number, 1);
                    next.push(&line, self.most);
                    item = Some(next);
                    continue;
                }
                if let (Some(part), true) =
                    (&mut item, is_blank || dashes.is_none_or(|at| indent > at))
                {
                    part.push(&line, self.most);
                    continue;
                }
                if is_blank {
                    self.kept.extend_from_slice(&line);
                    continue;
                }
                self.end_item(&mut item, implied);
                items = None;
                // What follows the list is part of what it is in.
            }
            if text == b"items:" && indent == 0 {
                // Items keep their places in what is kept; the rest is parsed without them.
                let before = std::mem::replace(&mut head, Part::at(number, 1));
                self.kept.extend_from_slice(&before.bytes);
                self.kept.extend_from_slice(&line);
                head.line = number + 1;
                implied = kind_in_yaml(&before.bytes);
                items = Some(None);
                continue;
            }
            head.push(&line, self.most);
        }
        self.end_item(&mut item, implied);
        self.document_of(&head);
        Ok(())
    }

    fn end_item(&mut self, item: &mut Option<Part>, implied: Option<Kind>) {
        let Some(part) = item.take() else { return };
        let is_kept = self.part(&part, implied, |node| match node.value {
            Value::List(items) => items.into_iter().next(),
            _ => None,
        });
        // In the place of an item stands one that is nothing.
        let breaks = Part {
            breaks: part.breaks.saturating_sub(1),
            ..Part::default()
        };
        if is_kept && !part.is_too_large {
            self.kept.extend_from_slice(&part.bytes);
        } else {
            self.kept.extend_from_slice(b"- null\n");
            self.keep(&breaks, false, "");
        }
    }

    /// A document without a list, or what is before or behind one.
    fn document_of(&mut self, head: &Part) {
        let is_rest_of_list = |node: &Node<'_>| {
            let fields = Fields::of(node);
            fields.is_none_or(|fields| {
                fields.get("metadata").is_none() || fields.get("apiVersion").is_none()
            })
        };
        let is_kept = self.part(head, None, |node| match Fields::of(&node) {
            Some(fields) => {
                let is_list = |key| match fields.get(key).map(|node| &node.value) {
                    Some(Value::Text(kind)) => kind.ends_with("List"),
                    _ => false,
                };
                (!is_list("kind") || !is_rest_of_list(&node)).then_some(node)
            }
            None => Some(node),
        });
        self.keep(head, is_kept || head.breaks < 16, "");
    }

    /// JSON: objects with lists of items.
    fn json(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        let mut scan = Scan::default();
        let mut rest = Part::at(1, 1);
        let mut item: Option<Part> = None;
        let (mut line, mut column) = (1u32, 1u32);
        loop {
            let bytes = input.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len();
            let bytes = bytes.to_vec();
            for byte in bytes {
                let step = scan.take(byte);
                if step == ByteMeaning::ItemBegins {
                    item = Some(Part::at(line, column));
                }
                let part = item.as_mut().unwrap_or(&mut rest);
                part.push(&[byte], self.most);
                if step == ByteMeaning::ItemEnds
                    && let Some(part) = item.take()
                {
                    let implied = kind_of_items(&rest.bytes);
                    let is_kept = self.part(&part, implied, whole);
                    // The same stands in what is kept, where the rest is parsed once more.
                    if is_kept && !part.is_too_large {
                        rest.bytes.extend_from_slice(&part.bytes);
                    } else {
                        rest.bytes.extend_from_slice(b"null");
                        rest.bytes.extend(std::iter::repeat_n(b'\n', part.breaks));
                    }
                }
                if byte == b'\n' {
                    line = line.saturating_add(1);
                    column = 1;
                } else if (byte & 0xc0) != 0x80 {
                    column = column.saturating_add(1);
                }
            }
            input.consume(length);
        }
        if let Some(part) = item {
            self.part(&part, None, whole);
            rest.bytes.extend_from_slice(&part.bytes);
        } else if !scan.had_items {
            self.part(&rest, None, whole);
        }
        self.kept = rest.bytes;
        Ok(())
    }
}

/// A part that is a document as it stands.
fn whole(node: Node<'_>) -> Option<Node<'_>> {
    Some(node)
}

/// The kind of items that need not say it, by what stands before them.
fn kind_of_items(head: &[u8]) -> Option<Kind> {
    let head = std::str::from_utf8(&head[..head.len().min(1 << 12)]).ok()?;
    let (_, rest) = head.split_once("\"kind\"")?;
    let (before, _) = rest.split_once("\"items\"")?;
    let kind = before
        .trim_start_matches([':', ' ', '\n', '\t'])
        .strip_prefix('"')?;
    Kind::parse(kind.split('"').next()?.strip_suffix("List")?)
}

/// The same in YAML.
fn kind_in_yaml(head: &[u8]) -> Option<Kind> {
    let head = std::str::from_utf8(head).ok()?;
    let kind = head.lines().find_map(|line| line.strip_prefix("kind: "))?;
    Kind::parse(kind.trim().strip_suffix("List")?)
}

/// Meaning of a byte of JSON to a list of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteMeaning {
    Within,
    ItemBegins,
    ItemEnds,
}

/// The place in JSON, as far as it is needed to find items.
#[derive(Debug, Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The string that was read last at the outermost level.
    key: Vec<u8>,
    in_items: bool,
    had_items: bool,
}

impl Scan {
    fn take(&mut self, byte: u8) -> ByteMeaning {
        if self.in_string {
            if self.is_escaped {
                self.is_escaped = false;
            } else if byte == b'\\' {
                self.is_escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
                return ByteMeaning::Within;
            }
            if self.depth == 1 && self.key.len() < 16 {
                self.key.push(byte);
            }
            return ByteMeaning::Within;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.key.clear();
                }
            }
            b'[' | b'{' => {
                self.depth += 1;
                if byte == b'[' && self.depth == 2 && self.key == b"items" {
                    self.in_items = true;
                    self.had_items = true;
                } else if self.in_items && self.depth == 3 {
                    return ByteMeaning::ItemBegins;
                }
            }
            b']' | b'}' => {
                self.depth = self.depth.saturating_sub(1);
                if self.in_items && self.depth == 2 {
                    return ByteMeaning::ItemEnds;
                }
                if self.depth == 1 {
                    self.in_items = false;
                }
            }
            _ => {}
        }
        ByteMeaning::Within
    }
}
