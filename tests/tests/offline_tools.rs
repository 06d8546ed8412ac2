//! The commands that need no agent, no packets and no root, as a user runs them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use cofferdam_tests::{cofferdam, scratch::Scratch};
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    run_in(Path::new("/"), arguments)
}

fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(cofferdam!());
    command.args(arguments).current_dir(folder);
    command.output().expect("the binary runs")
}

/// Runs a command that must succeed, and returns its output.
fn said(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Returns the complaint of a command that could not run.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// All files of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder");
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("text");
        (name, fs::read(entry.path()).expect("a file"))
    };
    entries
        .map(|entry| file(entry.expect("an entry")))
        .collect()
}

/// The folders of the library, and the first lines of their READMEs.
fn library() -> BTreeMap<String, String> {
    let folders = fs::read_dir(repository("policies/library")).expect("the library");
    let folder = |entry: fs::DirEntry| {
        let readme = fs::read_to_string(entry.path().join("README.md")).expect("a README");
        let first = readme.lines().next().unwrap_or_default();
        let title = first.strip_prefix("# ").expect("it begins with a title");
        (
            entry.file_name().into_string().expect("text"),
            title.to_owned(),
        )
    };
    folders
        .map(|entry| folder(entry.expect("an entry")))
        .collect()
}

/// The JSON that a command prints, held against its schema.
fn json(arguments: &[&str], schema: &str) -> Value {
    let printed: Value = serde_json::from_str(&said(arguments)).expect("JSON");
    let schema = fs::read_to_string(repository("docs/schemas").join(schema)).expect("a schema");
    let schema = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let faults: Vec<String> = validator
        .iter_errors(&printed)
        .map(|error| error.to_string())
        .collect();
    assert!(faults.is_empty(), "{arguments:?}: {faults:?}");
    printed
}

#[test]
fn init_lists_every_folder_of_the_library() {
    let listed = json(&["init", "--format", "json"], "init-list.json");
    let entry = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().expect("text").to_owned();
        (text("name"), text("about"))
    };
    let entries = listed["templates"].as_array().expect("a list");
    let listed: BTreeMap<String, String> = entries.iter().map(entry).collect();
    assert_eq!(listed, library());
    let text = said(&["init", "--list"]);
    for (name, about) in library() {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        assert!(line.is_some_and(|line| line.ends_with(&about)), "{text}");
    }
}

#[test]
fn init_writes_what_lies_in_the_library() {
    let scratch = Scratch::new();
    for name in library().into_keys() {
        let output = run_in(scratch.path(), &["init", &name]);
        assert!(output.status.success(), "{output:?}");
        let folder = scratch.path().join(&name);
        assert!(
            files(&folder) == files(&repository("policies/library").join(&name)),
            "{name}"
        );
        let text = String::from_utf8_lossy(&output.stdout);
        for next in ["check", "test"] {
            assert!(
                text.contains(&format!("\n  cofferdam {next} {name}\n")),
                "{text}"
            );
        }
    }
}

#[test]
fn init_overwrites_nothing_that_it_was_not_told_to() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("shop");
    let path = folder.to_str().expect("text");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("own.yaml"), "mine").expect("a file");
    fs::write(folder.join("web.yaml"), "mine").expect("a file");
    let before = files(&folder);

    let refusal = complaint(&run(&["init", "three-tier", path]));
    assert!(
        refusal.contains("shop/web.yaml is there already"),
        "{refusal}"
    );
    assert!(refusal.contains("--force"), "{refusal}");
    assert!(files(&folder) == before, "nothing may be written");

    said(&["init", "three-tier", path, "--force"]);
    let mut expected = files(&repository("policies/library/three-tier"));
    expected.insert("own.yaml".to_owned(), b"mine".to_vec());
    assert!(files(&folder) == expected);
}

/// A folder in which others may write can hold a link to a file of one's own.
#[test]
fn init_follows_no_link_out_of_its_folder() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("shop");
    fs::create_dir(&folder).expect("a folder");
    let precious = scratch.path().join("precious");
    let link = folder.join("web.yaml");
    std::os::unix::fs::symlink(&precious, &link).expect("a link");
    let path = folder.to_str().expect("text");

    // It leads nowhere yet.
    assert!(complaint(&run(&["init", "three-tier", path])).contains("web.yaml"));
    assert!(!precious.exists());

    fs::write(&precious, "mine").expect("a file");
    said(&["init", "three-tier", path, "--force"]);
    assert_eq!(fs::read_to_string(&precious).expect("a file"), "mine");
    assert!(link.symlink_metadata().expect("a file").is_file());
}

#[test]
fn init_says_what_it_cannot_do() {
    let scratch = Scratch::new();
    let unknown = complaint(&run_in(scratch.path(), &["init", "three-teir"]));
    assert!(unknown.contains("'three-tier'"), "{unknown}");
    fs::write(scratch.path().join("file"), "").expect("a file");
    let file = complaint(&run_in(scratch.path(), &["init", "three-tier", "file"]));
    assert!(file.contains("cannot make the folder file"), "{file}");
    // Names of folders, not paths.
    complaint(&run_in(scratch.path(), &["init", "../library/three-tier"]));
    assert_eq!(files(scratch.path()).len(), 1);
}

#[test]
fn init_tells_scripts_what_it_wrote() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("a shop");
    let path = folder.to_str().expect("text");
    let report = json(
        &["init", "three-tier", path, "--format", "json"],
        "init.json",
    );
    assert_eq!(report["directory"], path);
    let named = report["files"].as_array().expect("a list").iter();
    let named: Vec<&str> = named.map(|name| name.as_str().expect("text")).collect();
    assert!(named.into_iter().eq(files(&folder).keys()));
    let text = said(&["init", "three-tier", path, "--force"]);
    assert!(
        text.contains(&format!("cofferdam check '{path}'")),
        "{text}"
    );
}

#[test]
fn every_schema_that_is_listed_is_printed_and_is_the_file_in_docs() {
    let list = json(&["schema", "--format", "json"], "schema-list.json");
    let entries = list["schemas"].as_array().expect("a list");
    let mut printed = BTreeMap::new();
    for entry in entries {
        let name = entry["name"].as_str().expect("text");
        assert!(!entry["about"].as_str().expect("text").is_empty(), "{name}");
        let text = said(&["schema", name]);
        if let Some(kind) = entry["document"].as_str() {
            assert_eq!(said(&["schema", kind]), text);
            assert_eq!(said(&["schema", &kind.to_lowercase()]), text);
        }
        printed.insert(format!("{name}.json"), text.into_bytes());
    }
    assert!(printed == files(&repository("docs/schemas")));
    assert_eq!(said(&["schema"]), said(&["schema", "--list"]));

    let scratch = Scratch::new();
    let out = scratch.path().join("schemas");
    said(&["schema", "--out", out.to_str().expect("text")]);
    assert!(printed == files(&out));
}

#[test]
fn bash_completes_commands_flags_and_templates() {
    let script = said(&["completions", "bash"]);
    let complete = |words: &[&str]| {
        let program = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={}\n_cofferdam cofferdam '{}' '{}'\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = Command::new("bash")
            .args(["-c", &program])
            .output()
            .expect("bash runs");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(complete(&["cofferdam", "sta"]).contains("status"));
    assert!(complete(&["cofferdam", "status", "--run"]).contains("--run-dir"));
    let templates = complete(&["cofferdam", "init", "''"]);
    for name in library().into_keys() {
        assert!(templates.contains(&name), "{templates}");
    }
    assert!(complete(&["cofferdam", "completions", "z"]).contains("zsh"));
}

#[test]
fn completions_are_there_for_every_shell_and_have_every_command() {
    let unknown = complaint(&run(&["completions", "cmd.exe"]));
    assert!(unknown.contains("bash"), "{unknown}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = said(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
}

/// The commands, as the help names them.
fn commands() -> Vec<String> {
    let help = said(&["--help"]);
    let lines = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names = lines.map(|line| line.split_whitespace().next().unwrap_or_default());
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.contains(&"init".to_owned()), "{help}");
    names
}

#[test]
fn man_pages_render_without_a_complaint_and_have_every_command() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("man");
    said(&["man", folder.to_str().expect("text")]);
    let pages = files(&folder);
    assert_eq!(pages["cofferdam.1"], said(&["man"]).into_bytes());
    for command in commands() {
        let page = format!("cofferdam-{command}.1");
        assert!(pages.contains_key(&page), "{:?}", pages.keys());
    }
    for (name, page) in &pages {
        let text = rendered(&folder.join(name));
        let page = String::from_utf8_lossy(page);
        let title = page.lines().find(|line| line.starts_with(".TH "));
        let command = name.trim_end_matches(".1");
        assert!(title.is_some_and(|title| title.contains(command)), "{page}");
        assert!(text.contains("SYNOPSIS"), "{text}");
    }
    let first = rendered(&folder.join("cofferdam.1"));
    assert!(first.contains("2 it could not be run"), "{first}");
}

/// A man page as text. `groff` is the reference; where it is not installed, its syntax
/// is held against what a page may contain.
fn rendered(page: &Path) -> String {
    let groff = Command::new("groff")
        .args(["-Kutf8", "-man", "-Tutf8", "-ww", "-P-cbou"])
        .arg(page)
        .stdin(Stdio::null())
        .output();
    match groff {
        Ok(output) => {
            let complaints = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && complaints.is_empty(),
                "{}: {complaints}",
                page.display()
            );
            String::from_utf8(output.stdout).expect("text")
        }
        Err(_) => {
            let text = fs::read_to_string(page).expect("a page");
            for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split_whitespace().next().unwrap_or_default();
                let known = [
                    ".ie", ".el", ".TH", ".SH", ".SS", ".TP", ".br", ".RS", ".RE", ".PP",
                ];
                assert!(known.contains(&request), "{}: {line}", page.display());
            }
            text
        }
    }
}

/// Templates copied out of the library have no findings, and their statements hold.
#[test]
fn what_init_writes_passes_check_and_test() {
    let scratch = Scratch::new();
    for name in library().into_keys() {
        let run = |arguments: &[&str]| {
            let output = run_in(scratch.path(), arguments);
            assert!(
                output.status.success(),
                "{arguments:?}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        };
        run(&["init", &name]);
        run(&["check", "--deny", "warnings", &name]);
        run(&["test", &name]);
    }
}
