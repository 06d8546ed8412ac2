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

#[test]
fn no_comment_begins_with_a_question() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let list = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(&root)
        .output()
        .expect("git runs");
    let list = String::from_utf8(list.stdout).expect("text");
    let (mut all, mut found) = (0, Vec::new());
    for file in list.lines() {
        // A file that has gone is not committed yet.
        let source = fs::read_to_string(root.join(file)).unwrap_or_default();
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

#[test]
fn comments_are_counted_by_their_first_words() {
    let source = "//! What it is.\n//! How it goes on.\n//!\n//! Where.\nfn f() {}\n/// A thing.\n/// Which.\n";
    assert_eq!(count(source), (3, vec![1, 4]));
}
