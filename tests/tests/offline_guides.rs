//! What the guides show works as shown.

use std::{fs, path::Path, process::Command};

use cofferdam_policies::{documents, expectations};
use cofferdam_tests::cofferdam;

/// The guides with examples, each by name and text.
fn guides() -> [(&'static str, String); 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name| {
        let text = fs::read_to_string(folder.join(name)).expect("a guide");
        (name, text)
    };
    ["policies.md", "testing-policies.md"].map(read)
}

/// The fenced blocks of YAML: every other part between fences.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix("yaml\n"))
}

#[test]
fn documents_in_the_guides_are_read_without_a_finding() {
    let mut policies = 0;
    let mut statements = 0;
    for (name, text) in guides() {
        for block in blocks(&text) {
            // Of pipelines, only that they are YAML.
            let _: serde_yaml::Value = serde_yaml::from_str(block).expect("YAML");
            if !block.contains("apiVersion:") {
                continue;
            }
            let parsed = documents::parse(name, block.as_bytes());
            assert!(
                parsed.diagnostics.is_empty(),
                "{:?}\n{block}",
                parsed.diagnostics
            );
            let tests = expectations::read(name, block.as_bytes());
            assert!(
                tests.diagnostics.is_empty(),
                "{:?}\n{block}",
                tests.diagnostics
            );
            policies += parsed.documents.len();
            statements += (tests.tests.iter())
                .map(|test| test.expect.len())
                .sum::<usize>();
        }
    }
    assert!(policies >= 3 && statements >= 3, "{policies} {statements}");
}

/// The commands in a guide: in blocks of their own, in pipelines, and in the text.
fn commands(text: &str) -> Vec<Vec<String>> {
    let fenced = text.lines().filter_map(|line| {
        let line = line.trim_start_matches([' ', '-']);
        let line = line.strip_prefix("run: ").unwrap_or(line);
        line.strip_prefix("cofferdam ")
    });
    let inline = text
        .split('`')
        .filter(|code| !code.contains('\n'))
        .filter_map(|code| code.strip_prefix("cofferdam "));
    let words = |command: &str| {
        let command = command.split(['>', '|']).next().unwrap_or_default();
        command.split_whitespace().map(str::to_owned).collect()
    };
    fenced.chain(inline).map(words).collect()
}

#[test]
fn commands_in_the_guides_are_understood() {
    let mut tried = 0;
    for (name, text) in guides() {
        for command in commands(&text) {
            // Whatever stands before the last word is understood first.
            let output = Command::new(cofferdam!())
                .args(&command)
                .arg("--help")
                .output()
                .expect("the binary runs");
            assert!(
                output.status.success(),
                "{name}: {command:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            tried += 1;
        }
    }
    assert!(tried >= 10, "{tried}");
}
