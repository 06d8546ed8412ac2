//! Trees to YAML text, in block style.

use std::fmt::Write as _;

use super::{Node, Value, plain};

/// The text of a document, which ends with a line break.
#[must_use]
pub fn emit(node: &Node<'_>) -> String {
    let mut text = String::new();
    block(&mut text, node, 0);
    text
}

/// Puts a node at this indentation, whose line has begun.
fn block(text: &mut String, node: &Node<'_>, indent: usize) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    put(text, format_args!("{:indent$}", ""));
                }
                put(text, format_args!("{}:", inline(&entry.key)));
                value(text, &entry.value, indent);
            }
        }
        Value::List(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    put(text, format_args!("{:indent$}", ""));
                }
                text.push_str("- ");
                block(text, item, indent + 2);
            }
        }
        _ => put(text, format_args!("{}\n", inline(node))),
    }
}

/// Puts the value behind a key.
fn value(text: &mut String, node: &Node<'_>, indent: usize) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            let indent = indent + 2;
            put(text, format_args!("\n{:indent$}", ""));
            block(text, node, indent);
        }
        Value::List(items) if !items.is_empty() => {
            put(text, format_args!("\n{:indent$}", ""));
            block(text, node, indent);
        }
        _ => put(text, format_args!(" {}\n", inline(node))),
    }
}

/// A value that fits into a line.
fn inline(node: &Node<'_>) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::List(_) => "[]".to_owned(),
        Value::Map(_) => "{}".to_owned(),
        Value::Tagged(tag) => format!("{tag} \"\""),
        Value::Ambiguous(word) => word.to_string(),
        Value::Text(word) if is_plain(word) => word.to_string(),
        Value::Text(word) => quoted(word),
    }
}

/// Returns `true` for text that every reader takes for itself without quotes.
fn is_plain(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(is_word)
        && matches!(plain(text.into()), Value::Text(_))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                put(&mut quoted, format_args!("\\U{:08x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree without its marks.
    fn shape(node: &Node<'_>) -> String {
        match &node.value {
            Value::List(items) => format!(
                "[{}]",
                items.iter().map(shape).collect::<Vec<_>>().join(",")
            ),
            Value::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|entry| shape(&entry.key) + ":" + &shape(&entry.value));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
            value => format!("{value:?}"),
        }
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        for text in [
            "a: {b: [1, {c: d, e: []}], f: {}}\ng: [[1, 2], [], [{h: i}]]",
            "- 'yes'\n- \"10\"\n- ''\n- 'a: b'\n- '# no'\n- \"l\\nm\\u0001\\\"\\\\\"\n- 'é \u{feff}'\n- null",
            "'no': true\n'1': -5\nnull: x",
            "10.0.0.0/8",
        ] {
            let parsed = crate::yaml::parse(text);
            let first = parsed[0].as_ref().unwrap();
            let printed = emit(first);
            let again = crate::yaml::parse(&printed);
            assert_eq!(again.len(), 1, "{printed}");
            assert_eq!(shape(again[0].as_ref().unwrap()), shape(first), "{printed}");
        }
    }
}
