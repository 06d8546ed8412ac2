//! JSON's way of writing characters beyond U+FFFF.
//!
//! Writers of plain ASCII escape them as two halves, `"\\ud83d\\ude00"`, which YAML does
//! not know, although it takes JSON for a part of itself. The halves are joined to
//! YAML's `"\\U0001f600"` before the text is parsed, and marks are led back.

use super::{Entry, Mark, Node, Value};

/// Characters that an escaped pair loses when it is joined.
const LOST: u32 = 2;
/// Characters of an escaped half.
const HALF: usize = 6;

/// Places of joined pairs: the column behind each in the joined text, by line.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<Mark>);

impl Pairs {
    /// The place in the original text of one in the joined text.
    pub(super) fn in_text(&self, mark: Mark) -> Mark {
        let line = self.0.partition_point(|pair| pair.line < mark.line);
        let here = self.0.partition_point(|pair| *pair <= mark);
        let lost = u32::try_from(here - line).unwrap_or(u32::MAX);
        Mark {
            column: mark.column.saturating_add(lost.saturating_mul(LOST)),
            ..mark
        }
    }
}

/// The text with all pairs joined; `None` when there are none.
pub(super) fn join(text: &str) -> Option<(String, Pairs)> {
    // The hexadecimal digits may be of either case.
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return None;
    }
    let mut joined = String::with_capacity(text.len());
    let mut pairs = Pairs::default();
    let mut place = Mark { line: 1, column: 1 };
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\\' => match pair(rest) {
                Some(character) => {
                    joined.push_str(&format!("\\U{:08x}", u32::from(character)));
                    place.column = place.column.saturating_add(10);
                    pairs.0.push(place);
                    2 * HALF
                }
                // What is escaped begins no escape of its own.
                None => {
                    let escaped = rest[1..].chars().next().filter(|c| !c.is_control());
                    let length = 1 + escaped.map_or(0, char::len_utf8);
                    joined.push_str(&rest[..length]);
                    place.column = place
                        .column
                        .saturating_add(1 + u32::from(escaped.is_some()));
                    length
                }
            },
            _ => {
                joined.push(c);
                if c == '\n' {
                    place.line = place.line.saturating_add(1);
                    place.column = 1;
                } else {
                    place.column = place.column.saturating_add(1);
                }
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    (!pairs.0.is_empty()).then_some((joined, pairs))
}

/// The character that two escaped halves at the beginning stand for.
fn pair(text: &str) -> Option<char> {
    let half = |at: usize| {
        let digits = text.get(at..at + HALF)?.strip_prefix("\\u")?;
        let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
        all.then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let halves = [half(0)?, half(HALF)?];
    if !(0xd800..0xdc00).contains(&halves[0]) {
        return None;
    }
    char::decode_utf16(halves).next()?.ok()
}

impl Node<'_> {
    /// The tree without its text, its marks led back.
    pub(super) fn into_owned(self, moved: &impl Fn(Mark) -> Mark) -> Node<'static> {
        let value = match self.value {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Integer(value) => Value::Integer(value),
            Value::Text(text) => Value::Text(text.into_owned().into()),
            Value::Ambiguous(text) => Value::Ambiguous(text.into_owned().into()),
            Value::Tagged(tag) => Value::Tagged(tag),
            Value::List(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| item.into_owned(moved))
                    .collect(),
            ),
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|entry| Entry {
                        key: entry.key.into_owned(moved),
                        value: entry.value.into_owned(moved),
                    })
                    .collect(),
            ),
        };
        Node {
            mark: moved(self.mark),
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_joined_and_nothing_else() {
        let joined = |text| join(text).map(|(text, _)| text);
        assert_eq!(
            joined(r#"{"a": "\ud83d\ude00"}"#).as_deref(),
            Some(r#"{"a": "\U0001f600"}"#)
        );
        assert_eq!(joined(r"\uD83D\uDE00").as_deref(), Some(r"\U0001f600"));
        for other in [
            r"\ud83d",
            r"\ud83d\u0041",
            r"\ude00\ud83d",
            r"\\ud83d\ude00",
            r"\ud83d\\ude00",
            r"\ud83",
            r"\ud83d\ude0",
            r"\ud83d\u+e00",
            "\\udé",
            r"\ud",
        ] {
            assert_eq!(joined(other), None, "{other}");
        }
    }

    #[test]
    fn marks_are_those_of_the_text() {
        let text = "x\n\"\\ud83d\\ude00\", \"\\ud83d\\ude00\", y\nz";
        let (joined, pairs) = join(text).unwrap();
        for c in ['x', 'y', 'z'] {
            let mark = |text: &str| {
                let (line, column) = (1u32..)
                    .zip(text.lines())
                    .find_map(|(line, content)| Some((line, content.find(c)?)))
                    .unwrap();
                Mark {
                    line,
                    column: u32::try_from(column).unwrap() + 1,
                }
            };
            assert_eq!(pairs.in_text(mark(&joined)), mark(text), "{c}");
        }
    }
}
