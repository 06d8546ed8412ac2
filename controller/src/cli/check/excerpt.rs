//! The lines that findings are about.

use std::collections::HashMap;

use cofferdam_documents::Source;
use cofferdam_protocol::output::Diagnostic;

/// Longest line that is shown, in bytes. Documents without line breaks are one line,
/// of which nobody wants to see all for each finding.
const LONGEST: usize = 2000;

/// Texts by the names of their files, cut into lines.
pub(in crate::cli) struct Texts<'a> {
    lines: HashMap<&'a str, Vec<&'a str>>,
}

/// A line, and the part of it that a finding is about.
pub(super) struct Excerpt<'a> {
    pub(super) line: &'a str,
    /// Range of the part in the line, in bytes.
    pub(super) part: std::ops::Range<usize>,
}

impl<'a> Texts<'a> {
    pub(in crate::cli) fn new(sources: &'a [Source]) -> Self {
        let lines = sources.iter().filter_map(|source| {
            let text = std::str::from_utf8(&source.text).ok()?;
            // Columns do not count a byte order mark.
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            Some((source.file.as_ref(), text.lines().collect()))
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// A line of a file, if it can be shown.
    pub(in crate::cli) fn line(&self, file: &str, line: u32) -> Option<&'a str> {
        let line = *self.lines.get(file)?.get(line.checked_sub(1)? as usize)?;
        (line.len() <= LONGEST).then_some(line)
    }

    /// The line of a finding, if it is about a line that can be shown.
    pub(super) fn excerpt(&self, diagnostic: &Diagnostic) -> Option<Excerpt<'a>> {
        let line = self.line(&diagnostic.file, diagnostic.line)?;
        let column = diagnostic.column.checked_sub(1)? as usize;
        let start = line
            .char_indices()
            .map(|(at, _)| at)
            .chain([line.len()])
            .nth(column)?;
        Some(Excerpt {
            line,
            part: start..start + length(&line[start..]),
        })
    }
}

/// Returns the length in bytes of the value or key at the start of a text. If it does not
/// end on the line, the rest of the line counts, without a comment.
fn length(text: &str) -> usize {
    let end = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => text[1..].find(quote).map(|at| at + 2),
        Some('{' | '[') => closing(text),
        _ => text
            .char_indices()
            .find(|(at, c)| {
                matches!(c, ',' | '}' | ']')
                    || c.is_whitespace()
                    || (*c == ':'
                        && text[at + 1..]
                            .chars()
                            .next()
                            .is_none_or(char::is_whitespace))
            })
            .map(|(at, _)| at),
    };
    let whole = text.split(" #").next().unwrap_or_default().trim_end().len();
    // A place is never nothing.
    let least = text.chars().next().map_or(0, char::len_utf8);
    end.unwrap_or(whole).max(least)
}

/// Behind the bracket that closes the one a text begins with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_protocol::output::Severity;

    fn part(text: &str, line: u32, column: u32) -> Option<String> {
        let sources = [Source::new("a.yaml".into(), text.as_bytes().into())];
        let texts = Texts::new(&sources);
        let excerpt = texts.excerpt(&Diagnostic {
            code: String::new(),
            severity: Severity::Error,
            file: "a.yaml".to_owned(),
            line,
            column,
            message: String::new(),
            hint: None,
        })?;
        Some(excerpt.line[excerpt.part].to_owned())
    }

    #[test]
    fn the_value_or_key_at_the_place_is_marked() {
        let text = "# ü\nkey: {a: 'x, y', ü: \"z\"}  # why\n- from: [{b: c}\n- d: 10.0.0.0/8, e\n";
        for (line, column, expected) in [
            (2, 1, "key"),
            (2, 6, "{a: 'x, y', ü: \"z\"}"),
            (2, 10, "'x, y'"),
            (2, 18, "ü"),
            (2, 21, "\"z\""),
            (3, 9, "[{b: c}"),
            (4, 6, "10.0.0.0/8"),
        ] {
            assert_eq!(part(text, line, column).as_deref(), Some(expected));
        }
    }

    #[test]
    fn places_beyond_the_text_have_no_excerpt() {
        assert_eq!(part("a: b", 1, 5).as_deref(), Some(""));
        assert_eq!(part("a: b", 1, 6), None);
        assert_eq!(part("a: b", 2, 1), None);
        assert_eq!(part("a: b", 0, 0), None);
        assert_eq!(part(&format!("a: {}", "b".repeat(LONGEST)), 1, 1), None);
    }

    /// Wherever a place is, what is marked are whole characters of the line.
    #[test]
    fn any_place_of_any_line_can_be_marked() {
        let text =
            "}}]],: '\"é ü\"x'ö #\n\u{feff}{[}é]{{\n\t\u{1f980}: [\u{1f980}, \u{202e}}: \n:#é'\n";
        for line in 1..6 {
            for column in 0..40 {
                _ = part(text, line, column);
            }
        }
    }
}
