//! Reads typed values out of a YAML tree, and reports what does not fit.
//!
//! The way of all methods: what is absent or null is `None` without a word, what
//! is there but wrong is reported and `None`. Whether a document stays is decided
//! once, at its end, by whether any error was reported.
//!
//! Invariant: a value that is not understood is never taken for an absent one
//! without an error, since absence often means "everything".

use std::collections::HashSet;
use std::sync::Arc;

use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};
use cofferdam_syntax::names::NameError;
use cofferdam_syntax::yaml::{Entry, Mark, Node, Value};

use super::hints;

/// The key by which YAML 1.1 merges mappings, and YAML 1.2 does not.
const MERGE_KEY: &str = "<<";

/// Most findings of one file that are listed. Nobody reads more, and a file of 16
/// MiB could hold millions of mistakes.
const MAX_FINDINGS: usize = 1000;

/// The findings about one file, or one object of an API server.
pub struct Reader {
    file: Arc<str>,
    origin: Origin,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    unlisted: Option<Unlisted>,
    most_items: usize,
}

/// The findings at some time.
pub struct State {
    listed: usize,
    errors: usize,
}

/// The text that places are in.
enum Origin {
    /// The file itself.
    File,
    /// An object, which has no lines.
    Object,
    /// An object that says in which file, and on which line, its text was written.
    Written(Place),
}

/// The findings beyond those that are listed.
struct Unlisted {
    count: usize,
    first: Mark,
    /// Of the gravest of them.
    severity: Severity,
}

/// The entries of a mapping, by key.
#[derive(Clone, Copy)]
pub struct Fields<'n, 't> {
    /// Place at which the mapping begins.
    pub mark: Mark,
    /// The mapping itself.
    pub node: &'n Node<'t>,
    entries: &'n [Entry<'t>],
}

impl<'n, 't> Fields<'n, 't> {
    /// The entries of a node, if it is a mapping.
    pub fn of(node: &'n Node<'t>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return None;
        };
        Some(Self {
            mark: node.mark,
            node,
            entries,
        })
    }

    /// The value under `key`, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'n Node<'t>> {
        self.entries
            .iter()
            .find(|entry| matches!(&entry.key.value, Value::Text(text) if text == key))
            .map(|entry| &entry.value)
            .filter(|node| !matches!(node.value, Value::Null))
    }

    /// Returns the place of a key.
    pub fn key_mark(&self, key: &str) -> Option<Mark> {
        self.entries
            .iter()
            .find(|entry| matches!(&entry.key.value, Value::Text(text) if text == key))
            .map(|entry| entry.key.mark)
    }
}

/// One string of a string map, with the places of both halves.
pub struct Pair<'n> {
    /// The key.
    pub key: &'n str,
    /// Place of the key.
    pub key_mark: Mark,
    /// The value.
    pub value: &'n str,
    /// Place of the value.
    pub value_mark: Mark,
}

impl Reader {
    /// No findings yet about a file of this name.
    pub fn new(file: &Arc<str>) -> Self {
        Self::of(file, Origin::File)
    }

    /// No findings yet about an object of this name, which has no lines.
    pub fn of_object(name: &Arc<str>) -> Self {
        Self::of(name, Origin::Object)
    }

    fn of(file: &Arc<str>, origin: Origin) -> Self {
        Self {
            file: file.clone(),
            origin,
            diagnostics: Vec::new(),
            errors: 0,
            unlisted: None,
            most_items: super::MAX_ITEMS,
        }
    }

    /// Sets the most entries of lists that the kind of a document bounds; returns what it
    /// was before.
    pub fn most_items(&mut self, most: usize) -> usize {
        std::mem::replace(&mut self.most_items, most)
    }

    /// A list with at least so many entries and no more than the kind allows.
    pub fn bounded_list<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        what: &str,
        least: usize,
    ) -> Option<Vec<&'n Node<'t>>> {
        self.counted_list(node, what, least, self.most_items)
    }

    /// Number of errors so far; a document stays if it added none.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// The findings so far.
    pub fn state(&self) -> State {
        State {
            listed: self.diagnostics.len(),
            errors: self.errors,
        }
    }

    /// The places of errors that came since; none if some are not listed.
    pub fn errors_since(&self, state: &State) -> impl Iterator<Item = &Place> {
        let listed = if self.unlisted.is_none() {
            state.listed
        } else {
            self.diagnostics.len()
        };
        self.diagnostics[listed..]
            .iter()
            .filter(|one| one.severity == Severity::Error)
            .map(|one| &one.place)
    }

    /// Returns `true` if there are findings that came since.
    pub fn has_more_than(&self, state: &State) -> bool {
        self.diagnostics.len() > state.listed || self.errors > state.errors
    }

    /// Forgets the findings that came since.
    pub fn restore(&mut self, state: State) {
        self.diagnostics.truncate(state.listed);
        self.errors = state.errors;
    }

    /// All findings, in the order of their places, each once.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort();
        self.diagnostics.dedup();
        if let Some(unlisted) = &self.unlisted {
            let place = self.place(unlisted.first);
            self.diagnostics.push(Diagnostic {
                place,
                code: Code::Bounds,
                severity: unlisted.severity,
                message: format!(
                    "{} more findings from here on are not listed",
                    unlisted.count
                ),
                hint: Some("mend those before them first".to_owned()),
            });
        }
        self.diagnostics
    }

    /// A place in this file, or where an object was written.
    pub fn place(&self, mark: Mark) -> Place {
        match &self.origin {
            Origin::Written(place) => place.clone(),
            Origin::File | Origin::Object => self.own_place(mark),
        }
    }

    /// A place in this file or object, wherever the object was written.
    pub fn own_place(&self, mark: Mark) -> Place {
        let (line, column) = match self.origin {
            Origin::File => (mark.line, mark.column),
            Origin::Object | Origin::Written(_) => (0, 0),
        };
        Place {
            file: self.file.clone(),
            line,
            column,
        }
    }

    /// Lets all further places of an object be where its text was written. Of no effect in a
    /// file.
    pub fn set_written(&mut self, file: &str, line: u32) {
        if matches!(self.origin, Origin::Object) {
            self.origin = Origin::Written(Place {
                file: Arc::from(file),
                line,
                column: 0,
            });
        }
    }

    /// Reports an error.
    pub fn error(&mut self, mark: Mark, code: Code, message: impl Into<String>) {
        self.report(mark, code, Severity::Error, message.into(), None);
    }

    /// Reports an error, and what to do.
    pub fn error_hint(
        &mut self,
        mark: Mark,
        code: Code,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.report(
            mark,
            code,
            Severity::Error,
            message.into(),
            Some(hint.into()),
        );
    }

    /// Reports a warning, and what to do.
    pub fn warning(
        &mut self,
        mark: Mark,
        code: Code,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.report(
            mark,
            code,
            Severity::Warning,
            message.into(),
            Some(hint.into()),
        );
    }

    /// Returns `true` if further findings are only counted.
    fn is_full(&self) -> bool {
        self.diagnostics.len() == MAX_FINDINGS
    }

    fn report(
        &mut self,
        mark: Mark,
        code: Code,
        severity: Severity,
        message: String,
        hint: Option<String>,
    ) {
        if severity == Severity::Error {
            self.errors += 1;
        }
        if self.is_full() {
            let unlisted = self.unlisted.get_or_insert(Unlisted {
                count: 0,
                first: mark,
                severity,
            });
            unlisted.count += 1;
            // Errors come first in the order of severities.
            unlisted.severity = unlisted.severity.min(severity);
            return;
        }
        self.diagnostics.push(Diagnostic {
            place: self.place(mark),
            code,
            severity,
            message,
            hint,
        });
    }

    /// A mapping whose unknown keys are of no concern.
    pub fn mapping<'n, 't>(&mut self, node: &'n Node<'t>, what: &str) -> Option<Fields<'n, 't>> {
        match &node.value {
            Value::Map(_) => Fields::of(node),
            _ => {
                self.wrong_type(node, what, "a mapping");
                None
            }
        }
    }

    /// A mapping in which keys other than `known` are errors.
    pub fn strict_mapping<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        what: &str,
        known: &[&str],
    ) -> Option<Fields<'n, 't>> {
        self.strict_mapping_or(node, what, known, |_| {
            format!("known here: {}", known.join(", "))
        })
    }

    /// The same, and what to say of an unknown key of which nothing can be guessed.
    pub fn strict_mapping_or<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        what: &str,
        known: &[&str],
        hint: impl Fn(&str) -> String,
    ) -> Option<Fields<'n, 't>> {
        let fields = self.mapping(node, what)?;
        for Entry { key, .. } in fields.entries {
            match &key.value {
                Value::Text(text) if known.contains(&text.as_ref()) => {}
                // `check_keys` reports it, with what to do instead.
                Value::Text(text) if text == MERGE_KEY => {}
                Value::Text(text) => {
                    // Guessing takes some microseconds, of which there could be
                    // millions that nobody reads.
                    let guess = self
                        .is_full()
                        .then(String::new)
                        .or_else(|| hints::for_key(text, known));
                    self.error_hint(
                        key.mark,
                        Code::UnknownKey,
                        format!("unknown key `{}` in {what}", Shown(text)),
                        guess.unwrap_or_else(|| hint(text)),
                    );
                }
                _ => self.wrong_type(key, &format!("a key of {what}"), "a string"),
            }
        }
        Some(fields)
    }

    /// The value under a key that must be there.
    pub fn required<'n, 't>(&mut self, fields: Fields<'n, 't>, key: &str) -> Option<&'n Node<'t>> {
        let node = fields.get(key);
        if node.is_none() {
            match fields.key_mark(key) {
                Some(mark) => self.error(mark, Code::Missing, format!("`{key}` has no value")),
                None => self.error(fields.mark, Code::Missing, format!("`{key}` is missing")),
            }
        }
        node
    }

    /// Refuses a rule that names its peers as rules of the other direction do. Taken
    /// for a misspelling of nothing, it would stand for everybody.
    pub fn refuse_others_peers(
        &mut self,
        rule: &Node<'_>,
        what: &str,
        (section, peers): (&str, &str),
        others: &str,
    ) -> Option<()> {
        let Value::Map(entries) = &rule.value else {
            return Some(());
        };
        let other = entries
            .iter()
            .find(|entry| matches!(&entry.key.value, Value::Text(text) if text == others));
        let Some(other) = other else {
            return Some(());
        };
        self.error_hint(
            other.key.mark,
            Code::UnknownKey,
            format!("unknown key `{others}` in {what}"),
            format!("rules of `{section}` have `{peers}`"),
        );
        None
    }

    /// A list of so many entries, none of which may be null.
    pub fn counted_list<'n, 't>(
        &mut self,
        node: &'n Node<'t>,
        what: &str,
        least: usize,
        most: usize,
    ) -> Option<Vec<&'n Node<'t>>> {
        if let Value::List(items) = &node.value {
            let count = items.len();
            if count < least {
                self.error_hint(
                    node.mark,
                    Code::Count,
                    format!("{what} is empty"),
                    "here that does not mean everything",
                );
            } else if count > most {
                self.error_hint(
                    node.mark,
                    Code::Count,
                    format!("{what} has {count} entries, more than {most}"),
                    "spread them over several",
                );
            }
        }
        self.list(node, what)
    }

    /// The entries of a list, none of which may be null.
    pub fn list<'n, 't>(&mut self, node: &'n Node<'t>, what: &str) -> Option<Vec<&'n Node<'t>>> {
        let Value::List(items) = &node.value else {
            self.wrong_type(node, what, "a list");
            return None;
        };
        let (empty, items): (Vec<_>, Vec<_>) = items
            .iter()
            .partition(|item| matches!(item.value, Value::Null));
        for item in empty {
            // Elsewhere an empty entry is taken for `{}`, which may mean
            // "everything"; that must be written out.
            self.error_hint(
                item.mark,
                Code::Type,
                format!("empty entry in {what}"),
                "remove it, or write out what is meant",
            );
        }
        Some(items)
    }

    /// A string.
    pub fn string<'n>(&mut self, node: &'n Node<'_>, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong_type(node, what, "a string");
                None
            }
        }
    }

    /// A whole number.
    pub fn integer(&mut self, node: &Node<'_>, what: &str) -> Option<i64> {
        match node.value {
            Value::Integer(number) => Some(number),
            _ => {
                self.wrong_type(node, what, "a whole number");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &Node<'_>, what: &str) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong_type(node, what, "`true` or `false`");
                None
            }
        }
    }

    /// A mapping from strings to strings.
    pub fn string_map<'n>(&mut self, node: &'n Node<'_>, what: &str) -> Option<Vec<Pair<'n>>> {
        let fields = self.mapping(node, what)?;
        let mut pairs = Vec::with_capacity(fields.entries.len());
        for entry in fields.entries {
            let key = self.string(&entry.key, &format!("a key of {what}"));
            let value = self.string(&entry.value, &format!("a value of {what}"));
            if let (Some(key), Some(value)) = (key, value) {
                pairs.push(Pair {
                    key,
                    key_mark: entry.key.mark,
                    value,
                    value_mark: entry.value.mark,
                });
            }
        }
        Some(pairs)
    }

    /// Reports a name that breaks its rule.
    pub fn check_name(
        &mut self,
        mark: Mark,
        code: Code,
        what: &str,
        text: &str,
        rule: fn(&str) -> Result<(), NameError>,
    ) -> bool {
        match rule(text) {
            Ok(()) => true,
            Err(expected) => {
                self.error_hint(
                    mark,
                    code,
                    format!("{what} `{}` is not valid", Shown(text)),
                    expected.to_string(),
                );
                false
            }
        }
    }

    /// Reports a word that is none of the known ones.
    pub fn unknown_word(&mut self, mark: Mark, code: Code, what: &str, word: &str, known: &[&str]) {
        self.error_hint(
            mark,
            code,
            format!("{what} `{}` is not known", Shown(word)),
            hints::for_word(word, known),
        );
    }

    /// Reports a value of another type than expected.
    pub fn wrong_type(&mut self, node: &Node<'_>, what: &str, expected: &str) {
        let mut message = format!("{what} must be {expected}, not {}", node.value.noun());
        match &node.value {
            Value::Ambiguous(text) | Value::Text(text) if expected != "a string" => {
                message.push_str(&format!(" (`{}`)", Shown(text)));
            }
            Value::Tagged(tag) => message.push_str(&format!(" (`{}`)", Shown(tag))),
            _ => {}
        }
        let hint = hints::for_type(node, expected);
        self.report(node.mark, Code::Type, Severity::Error, message, hint);
    }

    /// Reports what YAML itself forbids, or readers disagree about, anywhere below:
    /// keys that come twice, and merge keys.
    pub fn check_keys(&mut self, node: &Node<'_>) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.check_keys(item)),
            Value::Map(entries) => {
                // Most mappings are small: to look at each pair of keys takes less than a set.
                let is_small = entries.len() <= 16;
                let mut seen = HashSet::with_capacity(if is_small { 0 } else { entries.len() });
                for (at, entry) in entries.iter().enumerate() {
                    if let Some(text) = entry.key.value.word() {
                        if text == MERGE_KEY {
                            self.error_hint(
                                entry.key.mark,
                                Code::UnknownKey,
                                "merge keys are not read",
                                "write out what is to be merged",
                            );
                        }
                        let is_second = match is_small {
                            true => {
                                let mut before = entries[..at].iter();
                                before.any(|one| one.key.value.word() == Some(text))
                            }
                            false => !seen.insert(text),
                        };
                        if is_second {
                            self.error(
                                entry.key.mark,
                                Code::DuplicateKey,
                                format!("the key `{}` stands here a second time", Shown(text)),
                            );
                        }
                    }
                    self.check_keys(&entry.value);
                }
            }
            _ => {}
        }
    }
}

/// Text of others, fit to print: control characters escaped, length bounded.
pub struct Shown<'t>(/** The text. */ pub &'t str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 80;
        for (count, c) in self.0.chars().enumerate() {
            if count == MOST {
                return f.write_str("…");
            }
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_bounded_and_has_no_control_characters() {
        let shown = Shown("a\nb\u{1b}[31m").to_string();
        assert_eq!(shown, "a\\nb\\u{1b}[31m");
        assert_eq!(Shown(&"x".repeat(1000)).to_string().chars().count(), 81);
    }
}
