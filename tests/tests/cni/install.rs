//! `cofferdam install` and `uninstall`: the plugin's entry in a runtime's configuration.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cofferdam_controller::install::GO_ROUND;
use cofferdam_tests::cofferdam;
use cofferdam_tests::scratch::Scratch;
use serde_json::Value;

use super::scene::plugin;

const LIST: &str = "{
  \"cniVersion\": \"1.0.0\",
  \"name\": \"podman\",
  \"plugins\": [
    {\"type\": \"bridge\", \"odd\": 1e400},
    {\"type\": \"portmap\"}
  ]
}
";
const SINGLE: &str = "{\"cniVersion\": \"0.4.0\", \"name\": \"one\", \"type\": \"bridge\"}\n";

struct Folders {
    scratch: Scratch,
}

impl Folders {
    fn with(files: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path().join("net.d")).expect("a folder");
        for (name, text) in files {
            let path = scratch.path().join("net.d").join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("its mode");
        }
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = Command::new(cofferdam!());
        command.arg(verb);
        command.arg("--cni-conf-dir").arg(self.path("net.d"));
        command.arg("--cni-bin-dir").arg(self.path("bin"));
        if verb == "install" {
            command.arg("--plugin").arg(plugin());
        }
        command.args(more);
        command
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        let output = self.command(verb, more).output();
        output.expect("the command can be run")
    }

    /// All files with their texts and modes.
    fn files(&self) -> BTreeMap<String, (String, u32)> {
        let entries = fs::read_dir(self.path("net.d")).expect("a folder");
        let files = entries.map(|entry| {
            let entry = entry.expect("an entry");
            let text = fs::read_to_string(entry.path()).expect("text");
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            (entry.file_name().into_string().expect("text"), (text, mode))
        });
        files.collect()
    }

    fn types(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("net.d").join(name)).expect("the file");
        let list: Value = serde_json::from_str(&text.replace("1e400", "1")).expect("JSON");
        let plugins = list["plugins"].as_array().expect("a list").iter();
        plugins
            .map(|plugin| plugin["type"].as_str().expect("a type").to_owned())
            .collect()
    }
}

#[test]
fn the_entry_stands_in_the_first_valid_network_and_leaves_no_trace() {
    for (files, name, types) in [
        (
            &[
                ("05-broken.conflist", "{"),
                ("10-a.conflist", LIST),
                ("20-b.conf", SINGLE),
            ][..],
            "10-a.conflist",
            &["bridge", "portmap", "cofferdam-cni"][..],
        ),
        (
            &[
                ("10-a.conf", SINGLE),
                ("20-b.conflist", LIST),
                ("a.txt", "no"),
            ],
            "10-a.conflist",
            &["bridge", "cofferdam-cni"],
        ),
    ] {
        let folders = Folders::with(files);
        let before = folders.files();
        let dry = folders.run("install", &["--dry-run"]);
        assert!(dry.status.success(), "{dry:?}");
        let told = String::from_utf8_lossy(&dry.stdout);
        assert!(
            told.contains("cofferdam-cni") && told.contains("+++ "),
            "{told}"
        );
        assert_eq!(folders.files(), before);
        assert!(!folders.path("bin").exists());

        let mut after = None;
        for _ in 0..2 {
            let done = folders.run("install", &[]);
            assert!(done.status.success(), "{done:?}");
            assert_eq!(folders.types(name), types);
            let files = folders.files();
            assert_eq!(files[name].1, 0o640);
            assert_eq!(after.get_or_insert(files.clone()), &files);
        }
        let binary = fs::metadata(folders.path("bin/cofferdam-cni")).expect("the plugin");
        assert_eq!(binary.permissions().mode() & 0o777, 0o755);

        for _ in 0..2 {
            let done = folders.run("uninstall", &[]);
            assert!(done.status.success(), "{done:?}");
            assert_eq!(folders.files(), before);
        }
        assert!(!folders.path("bin/cofferdam-cni").exists());
    }
}

#[test]
fn a_file_that_others_have_changed_loses_the_entry_alone() {
    let folders = Folders::with(&[("10-a.conflist", LIST)]);
    assert!(folders.run("install", &[]).status.success());
    let path = folders.path("net.d/10-a.conflist");
    let text = fs::read_to_string(&path).expect("the file");
    fs::write(&path, text.replace("podman", "renamed")).expect("a file");
    assert!(folders.run("uninstall", &[]).status.success());
    let files = folders.files();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files["10-a.conflist"].0, LIST.replace("podman", "renamed"));
}

#[test]
fn data_paths_that_go_round_are_refused_and_nothing_changes() {
    for (kind, reason) in GO_ROUND {
        let text = LIST.replace("\"bridge\"", &format!("\"{kind}\""));
        let folders = Folders::with(&[("10-a.conflist", &text)]);
        let before = folders.files();
        let refused = folders.run("install", &[]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains(kind) && told.contains(reason), "{told}");
        assert_eq!(folders.files(), before);
        assert!(!folders.path("bin").exists());
    }
    let none = Folders::with(&[]);
    assert_eq!(none.run("install", &[]).status.code(), Some(1));
    let page = include_str!("../../../docs/compatibility.md");
    for (kind, _) in GO_ROUND {
        assert!(
            page.contains(&format!("`{kind}`")),
            "{kind} is not documented"
        );
    }
}

/// A process that is ended with the test.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_watch_puts_the_entry_back() {
    let folders = Folders::with(&[]);
    let watch = folders
        .command("install", &["--watch"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _watching = Watching(watch.expect("it can be started"));
    let path = folders.path("net.d/10-a.conflist");
    for text in [LIST.to_owned(), LIST.replace("podman", "anew")] {
        let beside = folders.path("beside");
        fs::write(&beside, &text).expect("a file");
        fs::rename(&beside, &path).expect("a rename");
        let deadline = Instant::now() + Duration::from_secs(30);
        while folders.types("10-a.conflist").len() != 3 {
            assert!(Instant::now() < deadline, "{:?}", folders.files());
            std::thread::yield_now();
        }
    }
}
