//! The glossary names what there is: for each term the file that defines it, and a name there.

use std::fs;
use std::path::Path;

/// Keywords in front of a name that is declared.
const KEYWORDS: [&str; 7] = ["struct", "enum", "trait", "const", "fn", "mod", "type"];

/// Fewest terms of the page.
const LEAST: usize = 30;

/// A term of the page.
#[derive(Debug)]
struct Entry<'p> {
    term: &'p str,
    /// Path from the root of the repository.
    file: &'p str,
    /// A name that the file declares.
    name: &'p str,
}

impl<'p> Entry<'p> {
    /// Reads the first line of an entry: the term in bold, then file and name in backticks.
    fn read(line: &'p str) -> Option<Self> {
        let (term, rest) = line.strip_prefix("- **")?.split_once("** (`")?;
        let (file, rest) = rest.split_once("`, `")?;
        let (name, _meaning) = rest.split_once("`):")?;
        Some(Self { term, file, name })
    }
}

/// Returns `true` if a source declares a name outside of comments.
fn declares(source: &str, name: &str) -> bool {
    let mut code = (source.lines()).filter(|line| !line.trim_start().starts_with("//"));
    code.any(|line| {
        let is_of_a_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let words = line.split(|letter: char| !is_of_a_name(letter));
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let mut pairs = words.windows(2);
        pairs.any(|pair| KEYWORDS.contains(&pair[0]) && pair[1] == name)
    })
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/glossary.md");
    fs::read_to_string(path).expect("the page")
}

#[test]
fn terms_of_the_glossary_are_declared_where_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = page();
    let lines = text.lines().filter(|line| line.starts_with('-'));
    let entries: Vec<Entry<'_>> = lines
        .map(|line| Entry::read(line).unwrap_or_else(|| panic!("this is no entry: {line}")))
        .collect();
    assert!(entries.len() >= LEAST, "{entries:?}");
    for Entry { term, file, name } in &entries {
        let read = fs::read_to_string(root.join(file));
        let source = read.unwrap_or_else(|error| panic!("{term}: {file}: {error}"));
        assert!(declares(&source, name), "{term}: {file} declares no {name}");
    }
}

#[test]
fn terms_of_the_glossary_stand_once_and_in_order() {
    let text = page();
    let entries = text.lines().filter_map(Entry::read);
    let terms: Vec<String> = entries.map(|entry| entry.term.to_lowercase()).collect();
    assert!(terms.len() >= LEAST, "{terms:?}");
    let wrong = terms.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(wrong, None);
}

#[test]
fn a_name_that_stands_in_a_comment_alone_is_not_declared() {
    let source = "/// The struct Slot.\npub const fn of_ring() {}\n    pub struct Slots;\n";
    assert!(declares(source, "of_ring") && declares(source, "Slots"));
    assert!(!declares(source, "Slot"));
}
