//! Indentation within flow collections and quoted scalars, which YAML asks for and kubectl
//! does not.
//!
//! ```yaml
//! policyTypes: [
//!   Ingress
//! ]
//! ```
//!
//! By the letter of YAML the last line must be indented deeper than the key, and a comment
//! needs a blank before it; the parsers of kubectl never asked for either. Blanks there mean
//! nothing, so that they can be added; where a text cannot be parsed as it is, it is tried
//! with them.
//!
//! Invariant: only lines that begin within a flow collection or a quoted scalar are moved, and
//! only comments behind one, or within, get a blank.

/// A text with deeper indentation, and which of its lines have it.
pub(super) struct Mended {
    pub(super) text: String,
    /// Of each line, from the first, whether it was moved.
    moved: Vec<bool>,
    /// By how many columns.
    by: usize,
}

impl Mended {
    /// The column of a mark in the text as it was; both from 0. Lines count from 1.
    pub(super) fn column(&self, line: usize, column: usize) -> usize {
        let is_moved = line.checked_sub(1).and_then(|line| self.moved.get(line));
        if is_moved == Some(&true) {
            column.saturating_sub(self.by)
        } else {
            column
        }
    }
}

/// Deepest indentation that lines are moved behind. Deeper text is not written by people.
const DEEPEST: usize = 200;

/// Indents lines that begin within a flow collection or a quoted scalar, and puts blanks
/// before comments; `None` if there are none.
pub(super) fn indent(text: &str) -> Option<Mended> {
    let blanks = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let by = text.lines().map(blanks).max()? + 1;
    if by > DEEPEST {
        return None;
    }
    let mut lexer = Lexer::default();
    let mut has_comments = false;
    let mut mended = Mended {
        text: String::with_capacity(text.len() + text.len() / 4),
        moved: Vec::new(),
        by,
    };
    for line in text.split_inclusive('\n') {
        let is_within = lexer.is_within();
        // A blank line within a quoted scalar is a line break, with or without blanks.
        let is_moved = is_within && !line.trim().is_empty();
        if is_moved {
            mended.text.extend(std::iter::repeat_n(' ', by));
        }
        mended.moved.push(is_moved);
        lexer.line(line);
        let comment = lexer.comment.take().map(|behind| {
            let end = line.trim_end_matches(['\n', '\r']).len();
            end - behind
        });
        let (before, comment) = line.split_at(comment.unwrap_or(line.len()));
        mended.text.push_str(before);
        if !comment.is_empty() {
            has_comments = true;
            mended.text.push(' ');
            mended.text.push_str(comment);
        }
    }
    (has_comments || mended.moved.contains(&true)).then_some(mended)
}

/// The place in a text, as far as it is needed to know how its lines begin.
#[derive(Default)]
struct Lexer {
    /// Flow collections that are open.
    depth: usize,
    /// The quote of the scalar that is open.
    quote: Option<char>,
    /// Indentation of the line whose block scalar goes on.
    block: Option<usize>,
    /// The length of a comment that the line ends with and that has no blank before it.
    comment: Option<usize>,
}

impl Lexer {
    fn is_within(&self) -> bool {
        self.depth > 0 || self.quote.is_some()
    }

    fn line(&mut self, line: &str) {
        let line = line.trim_end_matches(['\n', '\r']);
        let indent = line.len() - line.trim_start_matches(' ').len();
        if let Some(block) = self.block {
            if line.trim().is_empty() || indent > block {
                return;
            }
            self.block = None;
        }
        let mut rest = line;
        if !self.is_within() {
            match value(line) {
                Some(at) => rest = &line[at..],
                None => return,
            }
            if rest.starts_with(['|', '>']) {
                self.block = Some(block_indent(line));
                return;
            }
            if !rest.starts_with(['[', '{', '"', '\'']) {
                return;
            }
        }
        self.flow(rest);
    }

    /// Reads what begins within a flow collection or a quoted scalar, or with one.
    fn flow(&mut self, text: &str) {
        let mut before = ' ';
        let mut chars = text.chars().peekable();
        let mut left = text.len();
        while let Some(c) = chars.next() {
            let from_here = left;
            left -= c.len_utf8();
            if let Some(quote) = self.quote {
                if c == '\\' && quote == '"' {
                    left -= chars.next().map_or(0, char::len_utf8);
                } else if c == quote {
                    if quote == '\'' && chars.peek() == Some(&'\'') {
                        chars.next();
                        left -= 1;
                    } else {
                        self.quote = None;
                        if self.depth == 0 {
                            // What follows is a key's value, or nothing.
                            let rest: String = chars.collect();
                            return self.behind(&rest);
                        }
                    }
                }
                before = c;
                continue;
            }
            match c {
                '[' | '{' => self.depth += 1,
                ']' | '}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        let rest: String = chars.collect();
                        return self.behind(&rest);
                    }
                }
                '"' | '\'' if is_separator(before) => self.quote = Some(c),
                '#' if before.is_whitespace() => return,
                '#' if matches!(before, '[' | '{' | ',' | ']' | '}' | '"' | '\'') => {
                    self.comment = Some(from_here);
                    return;
                }
                _ => {}
            }
            before = c;
        }
    }

    /// Reads what follows a quoted scalar or a flow collection on its line.
    fn behind(&mut self, rest: &str) {
        if rest.starts_with('#') {
            self.comment = Some(rest.len());
            return;
        }
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
        if let Some(value) = value.filter(|value| value.starts_with(['[', '{', '"', '\''])) {
            self.flow(value);
        }
    }
}

/// Returns `true` if a quote after this begins a scalar.
fn is_separator(before: char) -> bool {
    before.is_whitespace() || matches!(before, '[' | '{' | ',' | ':')
}

/// Returns the start of the value of a line in block context, behind its dashes and its key; `None`
/// if there is none.
fn value(line: &str) -> Option<usize> {
    let mut at = line.len() - line.trim_start().len();
    while let Some(rest) = line[at..].strip_prefix("- ") {
        at = line.len() - rest.trim_start().len();
    }
    let rest = &line[at..];
    if rest.is_empty() || rest.starts_with(['#', '%']) {
        return None;
    }
    if rest.starts_with(['[', '{', '"', '\'']) {
        return Some(at);
    }
    // Behind a plain key; a colon within it has no blank behind.
    let colon = rest.match_indices(':').find(|(colon, _)| {
        rest[colon + 1..]
            .chars()
            .next()
            .is_none_or(char::is_whitespace)
    });
    let behind = colon.map_or(at, |(colon, _)| {
        let value = &rest[colon + 1..];
        line.len() - value.trim_start().len()
    });
    // A value may have an anchor or a tag before it.
    let mut behind = behind;
    while line[behind..].starts_with(['&', '!']) {
        let rest = &line[behind..];
        let end = rest.find(char::is_whitespace)?;
        behind = line.len() - rest[end..].trim_start().len();
    }
    (behind < line.len()).then_some(behind)
}

/// Indentation behind which lines belong to a line's block scalar: that of its innermost key
/// or dash.
fn block_indent(line: &str) -> usize {
    let mut at = line.len() - line.trim_start_matches(' ').len();
    let mut parent = at;
    while let Some(rest) = line[at..].strip_prefix("- ") {
        parent = at;
        at = line.len() - rest.trim_start().len();
    }
    if line[at..].contains(": ") || line[at..].contains(":\t") {
        at
    } else {
        parent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are moved, from 1.
    fn moved(text: &str) -> Vec<usize> {
        let mended = indent(text);
        let lines = mended.map(|mended| mended.moved).unwrap_or_default();
        (1..)
            .zip(lines)
            .filter(|(_, moved)| *moved)
            .map(|(line, _)| line)
            .collect()
    }

    #[test]
    fn comments_without_a_blank_get_one() {
        for (text, expected) in [
            ("a: \"b\"#c\n", "a: \"b\" #c\n"),
            ("a: 'é''x'#c\n", "a: 'é''x' #c\n"),
            ("a: [b,#c\n b, c#d]#e", "a: [b, #c\n   b, c#d] #e"),
        ] {
            assert_eq!(
                indent(text).map(|mended| mended.text).as_deref(),
                Some(expected)
            );
        }
        assert!(indent("a: b#c\nd: \"e#f\" # g\n").is_none());
    }

    #[test]
    fn lines_within_collections_and_quotes_are_moved_and_no_others() {
        assert_eq!(moved("a: [\n  b\n]\nc: d\n"), [2, 3]);
        assert_eq!(moved("a: {\nb: \"x]\n\ny\",\n}\nc: d\n"), [2, 4, 5]);
        assert_eq!(moved("- - a: 'it''s [\n b'\n- c\n"), [2]);
        assert_eq!(moved("a: |\n  [\n  b\nc: d\n"), []);
        assert_eq!(moved("a: it's [\nb: c\n"), []);
        assert_eq!(moved("a: b # [\nb: [c # ]\n]\nd: e\n"), [3]);
        assert_eq!(moved("\"a\": [\n]\n'b': c\n"), [2]);
        assert_eq!(moved("a: &x [\n1\n]\n"), [2, 3]);
        assert_eq!(moved("a: [it's]\nb: [x, 'y\nz']\n"), [3]);
        assert_eq!(moved("- |\n  [\n- a: >-\n    [\n  b: 1\n"), []);
        assert_eq!(moved("http://x:80: [\na]\n"), [2]);
    }
}
