//! Comments say what they are about: they begin with a thing or an act, not with a question.

use std::fs;
use std::path::Path;
use std::process::Command;

const QUESTIONS: [&str; 9] = [
    "What", "Whether", "How", "Where", "Which", "Who", "Whose", "When", "Why",
];

/// Counts documentation comments of a source, and those that begin with a question word.
fn count(source: &str) -> (usize, Vec<usize>) {
    let (mut all, mut questions) = (0, Vec::new());
    let mut is_inside = false;
    for (number, line) in source.lines().enumerate() {
        let line = line.trim_start();
        let comment = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        let text = comment.map(|text| text.strip_prefix(' ').unwrap_or(text));
        let begins = text.is_some_and(|text| !text.is_empty());
        if begins && !is_inside {
            all += 1;
            let word = text
                .unwrap_or_default()
                .split(|letter: char| !letter.is_alphanumeric());
            if QUESTIONS.contains(&word.clone().next().unwrap_or_default()) {
                questions.push(number + 1);
            }
        }
        is_inside = begins;
    }
    (all, questions)
}

/// The sources of the repository, by name.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let list = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(&root)
        .output()
        .expect("git runs");
    let list = String::from_utf8(list.stdout).expect("text");
    // A file that has gone is not committed yet.
    let text = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    list.lines()
        .map(|file| (file.to_owned(), text(file)))
        .collect()
}

#[test]
fn no_comment_begins_with_a_question() {
    let (mut all, mut found) = (0, Vec::new());
    for (file, source) in sources() {
        let (comments, questions) = count(&source);
        all += comments;
        found.extend(questions.iter().map(|line| format!("{file}:{line}")));
    }
    assert!(all > 5_000, "{all}");
    assert!(
        found.is_empty(),
        "they begin with a question word: {found:#?}"
    );
}

/// Lines that give a name again to what the line before gave it, only to call something on it.
fn shadows(source: &str) -> Vec<usize> {
    let name = |line: &str| {
        let bound = line.trim_start().strip_prefix("let ")?;
        let (name, value) = bound
            .strip_prefix("mut ")
            .unwrap_or(bound)
            .split_once(" = ")?;
        Some((name.to_owned(), value.to_owned()))
    };
    let lines: Vec<&str> = source.lines().collect();
    let is_shadow = |pair: &[&str]| {
        let (Some((first, _)), Some((second, value))) = (name(pair[0]), name(pair[1])) else {
            return false;
        };
        let rest = value.strip_prefix(&*first);
        let goes_on = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '?']));
        first == second && pair[0].ends_with(';') && goes_on
    };
    let pairs = (2..).zip(lines.windows(2));
    pairs
        .filter(|(_, pair)| is_shadow(pair))
        .map(|(line, _)| line)
        .collect()
}

#[test]
fn no_name_is_given_twice_to_keep_a_chain_short() {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|(file, source)| {
            let lines = shadows(source).into_iter();
            lines.map(move |line| format!("{file}:{line}"))
        })
        .collect();
    assert!(
        found.is_empty(),
        "write the chain, or a name of its own: {found:#?}"
    );
}

#[test]
fn a_name_given_twice_is_found() {
    let source = "let a = b;\nlet mut a = a.c();\nlet b = a;\nlet b = a.b();\nlet c = d;\nlet c = cat.e();\nlet d = f(\nlet d = d.g();\n";
    assert_eq!(shadows(source), [2]);
}

#[test]
fn comments_are_counted_by_their_first_words() {
    let source = "//! What it is.\n//! How it goes on.\n//!\n//! Where.\nfn f() {}\n/// A thing.\n/// Which.\n";
    assert_eq!(count(source), (3, vec![1, 4]));
}
