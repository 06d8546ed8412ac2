//! Tests of the trees that texts are parsed to, and of the texts that are refused.

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
        FailureKind::TooDeep | FailureKind::Syntax(..)
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
    assert!(matches!(within.kind, FailureKind::Syntax(..)), "{within:?}");
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
    assert!(matches!(
        failure.kind,
        FailureKind::Syntax(_, Some(Slip::Tab))
    ));
    assert_eq!(failure.mark.line, 2);
}

#[test]
fn a_template_that_is_not_rendered_is_told_from_other_mistakes() {
    for (text, slip) in [
        ("a: 1\n---\nb: {{- x }}\n", Some(Slip::Template)),
        ("{{ if x }}\na: 1\n{{ end }}\n", Some(Slip::Template)),
        ("a: [1\n", None),
    ] {
        let FailureKind::Syntax(_, found) = failure(text).kind else {
            panic!("{text}")
        };
        assert_eq!(found, slip, "{text}");
    }
}

#[test]
fn json_is_read() {
    let root = one("{\"a\": [1, null, \"x\"]}");
    assert!(matches!(&entry(&root, "a").value.value, Value::List(l) if l.len() == 3));
}

#[test]
fn characters_that_json_writes_in_two_halves_are_one() {
    let root = one(r#"{"a": ["\ud83d\ude00", b], "c": "\\ud83d\\ude00 \/"}"#);
    let Value::List(items) = &entry(&root, "a").value.value else {
        panic!("{root:?}")
    };
    assert!(matches!(&items[0].value, Value::Text(t) if t == "\u{1f600}"));
    let expected = Mark {
        line: 1,
        column: 24,
    };
    assert_eq!(items[1].mark, expected);
    let c = &entry(&root, "c").value.value;
    assert!(
        matches!(c, Value::Text(t) if t == r"\ud83d\ude00 /"),
        "{c:?}"
    );
    assert!(matches!(
        failure(r#"{"a": "\ud83d"}"#).kind,
        FailureKind::Syntax(..)
    ));
}

#[test]
fn json_may_be_indented_by_tabs() {
    let root = one("{\n\t\"a\": [\n\t\t1\n\t]\n}\n");
    assert!(matches!(&entry(&root, "a").value.value, Value::List(l) if l.len() == 1));
}

#[test]
fn aliases_of_a_long_text_are_counted_by_its_length() {
    // A line break makes the text one that is not borrowed from the file.
    let text = |length: usize, copies: usize| {
        let long = "x".repeat(length);
        format!("- &a \"{long}\\n\"\n{}", "- *a\n".repeat(copies))
    };
    assert!(parse(&text(1 << 20, 4)).iter().all(Result::is_ok));
    assert_eq!(
        failure(&text(1 << 20, 10)).kind,
        FailureKind::AliasesTooLarge
    );
}

#[test]
fn documents_in_a_text_have_a_bound() {
    let most = parse_text_of(MAX_DOCUMENTS);
    assert_eq!(most, (MAX_DOCUMENTS, None));
    let (documents, failure) = parse_text_of(MAX_DOCUMENTS + 10);
    assert_eq!(documents, MAX_DOCUMENTS);
    let failure = failure.unwrap();
    assert_eq!(failure.kind, FailureKind::TooManyDocuments);
    assert_eq!(failure.mark.line as usize, MAX_DOCUMENTS + 1);
}

/// The number of good documents of a text with so many, and the last failure.
fn parse_text_of(documents: usize) -> (usize, Option<Failure>) {
    let text = "--- a\n".repeat(documents);
    let parsed = parse(&text);
    let good = parsed.iter().filter(|document| document.is_ok()).count();
    (good, parsed.into_iter().find_map(Result::err))
}
