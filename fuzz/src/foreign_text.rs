//! Text of others: YAML, and documents.

use std::sync::Arc;

use cofferdam_analysis::analyse;
use cofferdam_documents::{LastGood, Source, assemble, parse};
use cofferdam_syntax::diagnostic::{Diagnostic, Severity};
use cofferdam_syntax::yaml::{self, Mark, Node, Value};

/// Every mark lies in the text, of failures too.
pub(crate) fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let lines = lines(text);
    for document in yaml::parse(text) {
        match document {
            Ok(root) => marks(&root, &mut |mark| {
                lies_within(mark.line, mark.column, lines)
            }),
            Err(failure) => lies_within(failure.mark.line, failure.mark.column, lines),
        }
    }
}

fn marks(node: &Node<'_>, check: &mut impl FnMut(Mark)) {
    check(node.mark);
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| marks(item, check)),
        Value::Map(entries) => entries.iter().for_each(|entry| {
            marks(&entry.key, check);
            marks(&entry.value, check);
        }),
        _ => {}
    }
}

/// One more than there are: what is missing at the end is missed behind it.
pub(crate) fn lines(text: &str) -> usize {
    text.split(['\n', '\r']).count() + 1
}

fn lies_within(line: u32, column: u32, lines: usize) {
    assert!(
        (1..=lines).contains(&(line as usize)) && column >= 1,
        "{line}:{column} of {lines} lines"
    );
}

/// Documents are left out for errors and for nothing else; findings have a place and
/// can be printed, those about what policies mean too; neither the order of documents nor a second reading changes what
/// they come to.
pub(crate) fn documents(bytes: &[u8]) {
    let source = Source::new(Arc::from("a.yaml"), Arc::from(bytes));
    let parsed = &source.parsed;
    assert_eq!(**parsed, parse("a.yaml", bytes), "read twice");
    let lines = std::str::from_utf8(bytes).map_or(usize::MAX, lines);
    printable(&parsed.diagnostics, lines);
    assert_eq!(
        has_errors(&parsed.diagnostics),
        !parsed.rejected.is_empty(),
        "{parsed:#?}"
    );

    let forwards = assemble(parsed.documents.clone());
    let backwards = assemble(parsed.documents.iter().rev().cloned());
    assert_eq!(forwards.inventory, backwards.inventory, "backwards");
    assert_eq!(forwards.diagnostics, backwards.diagnostics, "backwards");
    printable(&forwards.diagnostics, lines);
    assert_eq!(
        has_errors(&forwards.diagnostics),
        !forwards.rejected.is_empty()
    );

    let sources = [source];
    printable(&analyse(&sources, &forwards), lines);
    let settled = LastGood::default().settle(&sources, Vec::new());
    assert_eq!(settled.inventory, forwards.inventory, "settled");
    let again = settled.last_good.settle(&sources, Vec::new());
    assert_eq!(settled.inventory, again.inventory, "settled twice");
    let named = sources
        .iter()
        .map(|source| (source.file.clone(), source.clone()));
    let amended = settled.next(&named.collect(), Vec::new());
    assert_eq!(settled.inventory, amended.inventory, "amended");
    let (restored, lost) = LastGood::restore(settled.last_good.files().clone());
    assert_eq!(
        (restored.len(), lost.len()),
        (settled.last_good.len(), 0),
        "stored"
    );
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Findings have a place in a text of so many lines, and nothing in them that a terminal
/// would act on.
pub(crate) fn printable(diagnostics: &[Diagnostic], lines: usize) {
    for diagnostic in diagnostics {
        lies_within(diagnostic.place.line, diagnostic.place.column, lines);
        let hint = diagnostic.hint.as_deref().unwrap_or_default();
        assert!(
            !diagnostic.message.is_empty()
                && !format!("{}{hint}", diagnostic.message).contains(char::is_control),
            "{diagnostic:?}"
        );
    }
}
