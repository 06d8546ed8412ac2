//! Tests that the examples in the pages for users work as shown.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use cofferdam_documents as documents;
use cofferdam_protocol::output::FlowRecord;
use cofferdam_reach::policy_test;
use cofferdam_tests::{cofferdam, scratch::Scratch};

/// All pages for users, each by name and text.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    files.push(root.join("README.md"));
    let page = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        let text = fs::read_to_string(&path).expect("a page");
        (name.into_owned(), text)
    };
    files.into_iter().map(page).collect()
}

/// The page of this name.
fn page(name: &str) -> String {
    let named = pages().into_iter().find(|page| page.0 == name);
    named.expect("the page").1
}

/// The fenced blocks of a page, each by language and text; what a list item indents is
/// taken out of its indentation.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().take_while(|line| line.trim() != "```");
        let text: String = inside
            .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
            .collect();
        blocks.push((language.to_owned(), text));
    }
    blocks
}

/// The blocks of YAML.
fn yaml(page: &str) -> impl Iterator<Item = String> {
    let blocks = blocks(page).into_iter();
    blocks.filter_map(|(language, text)| (language == "yaml").then_some(text))
}

/// Returns the readers' findings in a block, and its numbers of documents and statements.
fn read(name: &str, block: &str) -> (Vec<String>, usize, usize) {
    let parsed = documents::parse(name, block.as_bytes());
    let tests = policy_test::read(name, block.as_bytes());
    let found = parsed.diagnostics.iter().chain(&tests.diagnostics);
    (
        found.map(|found| format!("{found:?}")).collect(),
        parsed.documents.len(),
        tests.tests.iter().map(|test| test.expect.len()).sum(),
    )
}

#[test]
fn documents_in_pages_are_read_without_a_finding_but_those_that_are_wrong() {
    let [mut policies, mut statements, mut mistakes] = [0; 3];
    for (name, text) in pages() {
        for block in yaml(&text) {
            if !block.contains("apiVersion:") || block.contains("kind: ClusterRole") {
                // Of pipelines, roles and the like, only that they are YAML.
                let read = serde_yaml::from_str::<serde_yaml::Value>(&block);
                assert!(read.is_ok(), "{name}: {read:?}\n{block}");
                continue;
            }
            let (found, documents, expected) = read(&name, &block);
            if block.starts_with("# wrong") {
                assert!(!found.is_empty(), "{name}: nothing is wrong with\n{block}");
                mistakes += 1;
                continue;
            }
            assert!(found.is_empty(), "{name}: {found:?}\n{block}");
            assert!(
                documents + expected > 0,
                "{name}: nothing is read of\n{block}"
            );
            policies += documents;
            statements += expected;
        }
    }
    assert!(
        policies >= 12 && statements >= 6 && mistakes >= 1,
        "{policies} {statements} {mistakes}"
    );
}

/// The words of a command, up to where the shell or a remark goes on.
fn words(command: &str) -> Vec<String> {
    let command = command.split(['>', '|', '&', '#']).next();
    let words = command.unwrap_or_default().split_whitespace();
    words.map(str::to_owned).collect()
}

/// The commands in a page: in blocks of their own, in pipelines, and in the text.
fn commands(page: &str) -> Vec<Vec<String>> {
    let blocks = blocks(page);
    let fenced = blocks
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| {
            let text = line.trim_start_matches([' ', '-', '$']);
            let command = text.strip_prefix("run: ").unwrap_or(text);
            command.strip_prefix("cofferdam ")
        });
    let lines = page
        .lines()
        .filter(|line| !line.trim_start().starts_with("```"));
    let inline = lines
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter_map(|code| code.strip_prefix("cofferdam "));
    fenced.chain(inline).map(words).collect()
}

/// Runs a command in a folder.
fn run(folder: &Path, command: &[String]) -> Output {
    let mut child = Command::new(cofferdam!());
    child.args(command).current_dir(folder);
    child.output().expect("the binary runs")
}

#[test]
fn the_record_in_a_page_is_one_and_points_into_the_policy_before_it() {
    let page = page("policies.md");
    let blocks = blocks(&page);
    let shown = |language: &str, text: &str| {
        let mut found = blocks.iter().filter(|block| block.0 == language);
        let block = found.find(|block| block.1.contains(text));
        block.expect("the page shows it").1.as_str()
    };
    let policy = shown("yaml", "cofferdam.dev/mode: audit");
    let shown = shown("json", "\"type\":\"audit\"");
    let record: FlowRecord = serde_json::from_str(shown).expect("a record");
    let whole = serde_json::to_value(&record).expect("JSON");
    let shown: serde_json::Value = serde_json::from_str(shown).expect("JSON");
    assert_eq!(whole, shown, "nothing is left out, and nothing invented");
    let spec = policy.lines().position(|line| line == "spec:");
    let line = u32::try_from(spec.expect("a spec") + 1).expect("a small page");
    assert_eq!(record.isolated_by[0].line, line);
    let place = format!("{}:{line}\n", record.isolated_by[0].file);
    assert!(page.contains(&place), "the same in text");
}

#[test]
fn commands_in_pages_are_understood() {
    let scratch = Scratch::new();
    let mut tried = 0;
    for (name, text) in pages() {
        for mut command in commands(&text) {
            // Whatever stands before the last word is understood first.
            command.push("--help".to_owned());
            let output = run(scratch.path(), &command);
            assert!(
                output.status.success(),
                "{name}: {command:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            tried += 1;
        }
    }
    assert!(tried >= 25, "{tried}");
}

/// Files of a page: a block of YAML whose first line is a file's name is that file.
fn files(page: &str) -> Vec<(String, String)> {
    yaml(page)
        .filter_map(|block| {
            let name = block.lines().next()?.strip_prefix("# ")?.to_owned();
            (name.ends_with(".yaml") && !name.contains(' ')).then_some((name, block))
        })
        .collect()
}

/// Puts a file into a folder.
fn write(folder: &Scratch, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// The example of the page about testing, as files in a folder.
fn example() -> Scratch {
    let scratch = Scratch::new();
    let files = files(&page("testing-policies.md"));
    assert_eq!(files.len(), 3);
    for (name, text) in &files {
        write(&scratch, name, text);
    }
    // What a cluster would print, and the statements beside it.
    let cluster = format!("{}---\n{}", files[0].1, files[1].1);
    write(&scratch, "cluster.yaml", &cluster);
    write(&scratch, "tests/test.yaml", &files[2].1);
    scratch
}

#[test]
fn commands_about_records_answer_as_shown() {
    let page = page("what-if.md");
    let scratch = Scratch::new();
    let files = files(&page);
    assert_eq!(files.len(), 2);
    for (name, text) in &files {
        write(&scratch, name, text);
    }
    let shown = |language: &str| {
        let blocks = blocks(&page).into_iter();
        let mut texts = blocks.filter_map(|(own, text)| (own == language).then_some(text));
        texts.next().expect("the page shows it")
    };
    write(&scratch, "flows.jsonl", &shown("json"));
    let commands: Vec<Vec<String>> = commands(&page)
        .into_iter()
        .filter(|command| command[0] == "what-if" && command.len() > 1)
        .collect();
    assert_eq!(commands.len(), 3);
    let output = run(scratch.path(), &commands[0]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown("text"));
    for (command, status) in commands.iter().zip([0, 0, 0]) {
        let output = run(scratch.path(), command);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{command:?}: {output:?}"
        );
    }
}

#[test]
fn commands_about_the_example_end_with_status_0() {
    let example = example();
    let mut tried = 0;
    for command in commands(&page("testing-policies.md")) {
        let output = run(example.path(), &command);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
}

#[test]
fn a_slip_in_the_example_is_found() {
    let status = |file: &str, right: &str, slip: &str, command: &str| {
        let example = example();
        let path = example.path().join("policies").join(file);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(right), "{text}");
        fs::write(&path, text.replace(right, slip)).expect("a file");
        run(example.path(), &words(command)).status.code()
    };
    // Whoever wears the label in whatever namespace comes in.
    let (own, all) = (
        "- from: [{podSelector",
        "- from: [{namespaceSelector: {}, podSelector",
    );
    assert_eq!(status("shop.yaml", own, all, "check policies"), Some(0));
    assert_eq!(status("shop.yaml", own, all, "test policies"), Some(1));
    assert_eq!(
        status("shop.yaml", "ingress:", "ingres:", "check policies"),
        Some(1)
    );
    assert_eq!(
        status("test.yaml", "to: shop/db", "to: shop/bd", "test policies"),
        Some(1)
    );
}
