//! Warnings that the author says are meant.
//!
//! `# cofferdam: allow CD0510` at the end of the line of a warning, or on the line
//! before it with nothing else there, takes the warning away; several codes stand
//! with commas between them. What renders manifests strips comments, and JSON has none: the
//! annotation `cofferdam.dev/allow` of an object does the same for all that is found in it,
//! and an [`Allowance`] from elsewhere for whatever it names.
//!
//! Invariant: an error stays, whatever is written beside it.

use std::cell::OnceCell;
use std::collections::HashMap;

use cofferdam_documents::{ALLOW_ANNOTATION, Source};
use cofferdam_syntax::diagnostic::{Diagnostic, Severity};
use cofferdam_syntax::yaml::{Mark, Node, Value};

use super::places::{self, Parsed};

/// Beginning of the comment.
const ALLOW: &str = "cofferdam: allow ";

/// A kind of warning that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Its code.
    pub code: String,
    /// The object that it is about, `namespace/name`, or `name` of what lies in no namespace;
    /// `None` for all.
    pub object: Option<String>,
}

/// The findings but those that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unallowed {
    /// The findings.
    pub diagnostics: Vec<Diagnostic>,
    /// Positions of allowances that allow nothing.
    pub unused: Vec<usize>,
}

/// The findings but those that a comment or an annotation in their text, or an allowance,
/// allows.
#[must_use]
pub fn without_allowed(
    sources: &[Source],
    diagnostics: Vec<Diagnostic>,
    allowances: &[Allowance],
) -> Unallowed {
    let texts: HashMap<&str, File<'_>> = (sources.iter())
        .filter_map(|source| Some((&*source.file, File::new(source)?)))
        .collect();
    let mut used = vec![false; allowances.len()];
    let mut is_allowed = |diagnostic: &Diagnostic| {
        let file = texts.get(&*diagnostic.place.file);
        let mut allowed = file.is_some_and(|file| file.allows(diagnostic));
        for (allowance, used) in allowances.iter().zip(&mut used) {
            if allowance.code == diagnostic.code.as_str()
                && (allowance.object.as_ref()).is_none_or(|name| {
                    file.is_some_and(|file| {
                        file.object_at(diagnostic)
                            .is_some_and(|object| object.is(name))
                    })
                })
            {
                *used = true;
                allowed = true;
            }
        }
        allowed
    };
    let diagnostics = diagnostics
        .into_iter()
        .filter(|one| one.severity == Severity::Error || !is_allowed(one))
        .collect();
    let unused = (0..).zip(used).filter(|(_, used)| !used);
    Unallowed {
        diagnostics,
        unused: unused.map(|(index, _)| index).collect(),
    }
}

/// A text, looked through when it is first asked about.
struct File<'a> {
    text: &'a str,
    lines: OnceCell<Vec<&'a str>>,
    has_comments: bool,
    has_annotations: bool,
    objects: OnceCell<Vec<Object>>,
}

/// An object of a text.
struct Object {
    begin: Mark,
    namespace: String,
    name: String,
    /// The codes that its annotation allows.
    allowed: Vec<String>,
}

impl Object {
    fn is(&self, name: &str) -> bool {
        match name.split_once('/') {
            Some((namespace, name)) => self.namespace == namespace && self.name == name,
            None => self.name == name,
        }
    }
}

impl<'a> File<'a> {
    fn new(source: &'a Source) -> Option<Self> {
        let text = std::str::from_utf8(&source.text).ok()?;
        Some(Self {
            text,
            lines: OnceCell::new(),
            has_comments: text.contains(ALLOW),
            has_annotations: text.contains(ALLOW_ANNOTATION),
            objects: OnceCell::new(),
        })
    }

    fn allows(&self, diagnostic: &Diagnostic) -> bool {
        self.has_comments && self.has_comment(diagnostic)
            || self.has_annotations
                && self.object_at(diagnostic).is_some_and(|object| {
                    object
                        .allowed
                        .iter()
                        .any(|code| code == diagnostic.code.as_str())
                })
    }

    fn has_comment(&self, diagnostic: &Diagnostic) -> bool {
        let lines = self.lines.get_or_init(|| self.text.lines().collect());
        let line = |number: usize| number.checked_sub(1).and_then(|index| lines.get(index));
        let number = diagnostic.place.line as usize;
        let own = line(number).is_some_and(|line| allows(line, diagnostic));
        let before = line(number.saturating_sub(1))
            .is_some_and(|line| line.trim_start().starts_with('#') && allows(line, diagnostic));
        own || before
    }

    /// The object that a finding is about: the last that begins before it.
    fn object_at(&self, diagnostic: &Diagnostic) -> Option<&Object> {
        let objects = self.objects.get_or_init(|| objects(self.text));
        let mark = Mark {
            line: diagnostic.place.line,
            column: diagnostic.place.column,
        };
        let after = objects.partition_point(|object| object.begin <= mark);
        objects.get(after.checked_sub(1)?)
    }
}

/// The objects of a text, in order.
fn objects(text: &str) -> Vec<Object> {
    let parsed = Parsed::new(text);
    let mut objects: Vec<Object> = parsed.all().map(object).collect();
    objects.sort_by_key(|object| object.begin);
    objects
}

fn object(node: &Node<'_>) -> Object {
    let text = |node: Option<&Node<'_>>| match node.map(|node| &node.value) {
        Some(Value::Text(text)) => text.to_string(),
        _ => String::new(),
    };
    let metadata = places::value(node, "metadata");
    let of_metadata = |key| text(metadata.and_then(|metadata| places::value(metadata, key)));
    let annotations = metadata.and_then(|metadata| places::value(metadata, "annotations"));
    let codes = text(annotations.and_then(|node| places::value(node, ALLOW_ANNOTATION)));
    let namespace = of_metadata("namespace");
    Object {
        begin: node.mark,
        namespace: if namespace.is_empty() {
            "default".to_owned()
        } else {
            namespace
        },
        name: of_metadata("name"),
        allowed: codes.split([',', ' ']).map(str::to_owned).collect(),
    }
}

/// Returns `true` if a line's comment lists the code of a finding.
fn allows(line: &str, diagnostic: &Diagnostic) -> bool {
    // A `#` within a value has no blank before it.
    let comment = (line.match_indices('#'))
        .filter(|(at, _)| *at == 0 || line[..*at].ends_with([' ', '\t']))
        .find_map(|(at, _)| line[at + 1..].trim_start().strip_prefix(ALLOW));
    comment
        .is_some_and(|codes| (codes.split([',', ' '])).any(|code| code == diagnostic.code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_syntax::diagnostic::{Code, Place};

    fn left(text: &str, line: u32, code: Code, severity: Severity) -> bool {
        let sources = [Source::new("a.yaml".into(), text.as_bytes().into())];
        let diagnostic = Diagnostic {
            place: Place {
                file: "a.yaml".into(),
                line,
                column: 1,
            },
            code,
            severity,
            message: String::new(),
            hint: None,
        };
        let left = without_allowed(&sources, vec![diagnostic], &[]);
        !left.diagnostics.is_empty()
    }

    const TWO: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: guests
  annotations: {cofferdam.dev/allow: 'CD0510, CD0507'}
---
{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}, {\"kind\": \"Pod\", \"metadata\": {\"name\": \"b\", \"namespace\": \"x\"}}]}
";

    #[test]
    fn an_annotation_allows_what_is_found_in_its_object() {
        let warned = |line, code| left(TWO, line, code, Severity::Warning);
        assert!(!warned(1, Code::NotIsolated));
        assert!(!warned(4, Code::BlockCoversWorkloads));
        assert!(warned(4, Code::SubjectEmpty));
        assert!(left(TWO, 1, Code::NotIsolated, Severity::Error));
    }

    #[test]
    fn an_allowance_is_about_all_or_about_one_object_and_tells_when_it_is_about_none() {
        let sources = [Source::new("a.yaml".into(), TWO.as_bytes().into())];
        let column = TWO.lines().nth(6).unwrap().find("\"b\"").unwrap() as u32;
        let found = |column| Diagnostic {
            place: Place {
                file: "a.yaml".into(),
                line: 7,
                column,
            },
            code: Code::NotIsolated,
            severity: Severity::Warning,
            message: String::new(),
            hint: None,
        };
        let asked = |allowances: &[(&str, Option<&str>)]| {
            let allowances: Vec<Allowance> = (allowances.iter())
                .map(|(code, object)| Allowance {
                    code: (*code).to_owned(),
                    object: object.map(str::to_owned),
                })
                .collect();
            let left = without_allowed(&sources, vec![found(60), found(column)], &allowances);
            (left.diagnostics.len(), left.unused)
        };
        assert_eq!(asked(&[]), (2, vec![]));
        assert_eq!(asked(&[("CD0510", None)]), (0, vec![]));
        assert_eq!(asked(&[("CD0510", Some("x/b"))]), (1, vec![]));
        assert_eq!(asked(&[("CD0510", Some("default/a"))]), (1, vec![]));
        assert_eq!(
            asked(&[("CD0501", None), ("CD0510", Some("y/b"))]),
            (2, vec![0, 1])
        );
    }

    #[test]
    fn a_comment_allows_the_codes_it_lists_at_its_place_alone() {
        let text =
            "a: 1 # cofferdam: allow CD0510, CD0507\n# cofferdam: allow CD0501\nb: 1\nc: 1\n";
        let warned = |line, code| left(text, line, code, Severity::Warning);
        assert!(!warned(1, Code::NotIsolated));
        assert!(!warned(1, Code::BlockCoversWorkloads));
        assert!(warned(1, Code::SubjectEmpty));
        // A comment behind something is about that line alone.
        assert!(warned(2, Code::NotIsolated));
        assert!(!warned(3, Code::SubjectEmpty));
        assert!(warned(4, Code::SubjectEmpty));
    }

    #[test]
    fn an_error_is_not_allowed_and_a_value_is_no_comment() {
        let text = "a: b#cofferdam: allow CD0510\nc: 1 # cofferdam: allow CD0510\n";
        assert!(left(text, 1, Code::NotIsolated, Severity::Warning));
        assert!(left(text, 2, Code::NotIsolated, Severity::Error));
        assert!(!left(text, 2, Code::NotIsolated, Severity::Warning));
    }
}
