//! `cargo xtask arrows`: only the dependencies of the layout exist.
//!
//! The layout is what lets one read a crate without the others, and what makes the
//! oracle worth comparing with. It erodes one convenient dependency at a time; so every
//! arrow that is not in the tables below is refused. To add one, add it here, where
//! the review sees it. Only tests may ask the oracle, which knows no other crate: one that
//! shared code with what it is compared with would share its mistakes.
//!
//! A crate that may use only a part of another, or of the standard library, has the rest in
//! a `clippy.toml` of its own: [`WITH_OWN_LINTS`].

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;
use toml::Table;

use crate::{outcome::Failed, run};

/// Crates, by folder, and the folders of those they may depend on.
const CRATES: [(&str, &[&str]); 21] = [
    // Asks an agent or runs one, and has no kernel side of its own.
    (
        "controller",
        &[
            "controller/agent",
            "controller/answers",
            "controller/protocol",
            "controller/sources",
            "policies/analysis",
            "policies/compiler",
            "policies/documents",
            "policies/inventory",
            "policies/reach",
            "policies/syntax",
            "dataplane/verdict",
        ],
    ),
    // Knows neither its callers nor how answers are printed; says nothing of policies that
    // is not in force.
    (
        "controller/agent",
        &[
            "controller/answers",
            "controller/protocol",
            "controller/sources",
            "controller/telemetry",
            "policies/compiler",
            "policies/documents",
            "policies/inventory",
            "policies/reach",
            "policies/syntax",
            "dataplane",
            "dataplane/verdict",
        ],
    ),
    // Agent and command line give the same answers: no kernel, no agent in here.
    (
        "controller/answers",
        &[
            "controller/protocol",
            "policies/analysis",
            "policies/compiler",
            "policies/documents",
            "policies/inventory",
            "policies/reach",
            "policies/syntax",
            "dataplane/verdict",
        ],
    ),
    // What runs for each container is small: it knows how to ask the agent, and no more.
    ("controller/plugin", &["controller/protocol"]),
    // The words of reasons and hooks are the kernel side's own.
    ("controller/protocol", &["dataplane/verdict"]),
    // Yields documents from any place; what they mean and which tables follow is for the agent.
    (
        "controller/sources",
        &["policies/documents", "policies/syntax"],
    ),
    // Reports what was decided elsewhere: the meaning of a table's rules, and no documents.
    (
        "controller/telemetry",
        &[
            "controller/answers",
            "controller/protocol",
            "policies/compiler",
            "policies/inventory",
            "policies/syntax",
            "dataplane",
            "dataplane/verdict",
        ],
    ),
    // Text with places, whatever it says.
    ("policies/syntax", &[]),
    // The desired state, whoever wrote it.
    (
        "policies/inventory",
        &["policies/syntax", "dataplane/verdict"],
    ),
    // Documents and compiler do not know each other: between them is the inventory.
    (
        "policies/documents",
        &["policies/inventory", "policies/syntax", "dataplane/verdict"],
    ),
    (
        "policies/compiler",
        &["policies/inventory", "policies/syntax", "dataplane/verdict"],
    ),
    (
        "policies/reach",
        &[
            "policies/compiler",
            "policies/documents",
            "policies/inventory",
            "policies/syntax",
            "dataplane/verdict",
        ],
    ),
    (
        "policies/analysis",
        &[
            "policies/compiler",
            "policies/documents",
            "policies/inventory",
            "policies/reach",
            "policies/syntax",
            "dataplane/verdict",
        ],
    ),
    // It judges by code of its own, from the texts alone.
    ("policies/oracle", &[]),
    ("dataplane", &["dataplane/verdict"]),
    ("dataplane/ebpf", &["dataplane/verdict"]),
    // Compiled for the kernel and for everybody else: it knows nobody.
    ("dataplane/verdict", &[]),
    ("tests", EVERY_LIBRARY),
    ("bench", EVERY_LIBRARY),
    // Compiled anew to be watched at every branch: the less, the sooner.
    (
        "fuzz",
        &[
            "policies/analysis",
            "policies/compiler",
            "policies/documents",
            "policies/inventory",
            "policies/reach",
            "policies/syntax",
            "dataplane/verdict",
        ],
    ),
    // Runs programs only, so that it builds where nothing else does.
    ("xtask", &[]),
];

/// Crates, by folder, and the folders of those that their tests may depend on as well.
const IN_TESTS: [(&str, &[&str]); 3] = [
    ("controller/telemetry", &["policies/documents"]),
    ("policies/analysis", &["policies/oracle"]),
    ("policies/compiler", &["policies/documents"]),
];

/// Crates that tests and benchmarks may use; the tests' own tools are shared with the
/// benchmarks.
const EVERY_LIBRARY: &[&str] = &[
    "controller",
    "controller/agent",
    "controller/answers",
    "controller/plugin",
    "controller/protocol",
    "controller/sources",
    "controller/telemetry",
    "policies/analysis",
    "policies/compiler",
    "policies/documents",
    "policies/inventory",
    "policies/oracle",
    "policies/reach",
    "policies/syntax",
    "dataplane",
    "dataplane/verdict",
    "dataplane/ebpf",
    "tests",
    "bench",
];

/// Crates, by folder, whose `clippy.toml` forbids them a part of what they depend on. Clippy
/// reads one file for a crate, so each repeats the workspace's.
const WITH_OWN_LINTS: [&str; 2] = ["controller/answers", "controller/telemetry"];

/// Runs the verb.
pub(crate) fn run() -> Result<()> {
    let root = run::root();
    let metadata =
        run::output(run::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let members = members(&metadata, &root)?;
    let mut objections = crate_objections(&members);
    let workspace = settings(&root)?;
    for folder in WITH_OWN_LINTS {
        let missing = missing_settings(&settings(&root.join(folder))?, &workspace);
        objections.extend(missing.into_iter().map(|name| {
            format!("{folder}/clippy.toml: `{name}` has not all that the workspace's has")
        }));
    }
    if objections.is_empty() {
        println!("arrows: {} crates are as laid out", members.len());
        return Ok(());
    }
    Err(Failed::error(format!(
        "arrows that the layout does not have:\n  {}",
        objections.join("\n  ")
    )))
}

/// Reads the settings of clippy in `folder`.
fn settings(folder: &Path) -> Result<Table> {
    let path = folder.join("clippy.toml");
    let context = || format!("cannot read {}", path.display());
    let text = fs::read_to_string(&path).with_context(context)?;
    text.parse().with_context(context)
}

/// Returns the names of settings of the `workspace` that `own` has not, or not whole.
fn missing_settings(own: &Table, workspace: &Table) -> Vec<String> {
    let is_missing = |(name, wanted): &(&String, &toml::Value)| match (own.get(*name), wanted) {
        (Some(toml::Value::Array(own)), toml::Value::Array(wanted)) => {
            !wanted.iter().all(|entry| own.contains(entry))
        }
        (own, wanted) => own != Some(wanted),
    };
    let missing = workspace.iter().filter(is_missing);
    missing.map(|(name, _)| name.clone()).collect()
}

/// A crate of the workspace.
#[derive(Debug)]
struct Member {
    /// Folder, relative to the root.
    folder: String,
    /// Folders of the members it depends on, for building or in its sources.
    depends_on: BTreeSet<String>,
    /// Folders of those that only its tests depend on.
    tests_depend_on: BTreeSet<String>,
}

/// Reads what `cargo metadata` says of the workspace at `root`.
fn members(metadata: &str, root: &Path) -> Result<Vec<Member>> {
    let metadata: Value = serde_json::from_str(metadata).context("cannot read cargo metadata")?;
    let relative = |path: &str| {
        let folder = Path::new(path)
            .strip_prefix(root)
            .unwrap_or(Path::new(path));
        folder.to_string_lossy().into_owned()
    };
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    packages
        .map(|package| {
            let text = |name: &str| package.get(name).and_then(Value::as_str);
            let manifest = text("manifest_path").context("a package without a manifest")?;
            let folder = manifest.strip_suffix("/Cargo.toml").unwrap_or(manifest);
            // Only those with a path are of this workspace.
            let dependencies = package.get("dependencies").and_then(Value::as_array);
            let (in_tests, depends_on): (Vec<_>, Vec<_>) = dependencies
                .into_iter()
                .flatten()
                .filter(|dependency| dependency.get("path").is_some_and(Value::is_string))
                .partition(|dependency| {
                    dependency.get("kind").and_then(Value::as_str) == Some("dev")
                });
            let folders = |dependencies: Vec<&Value>| {
                let paths = dependencies
                    .into_iter()
                    .filter_map(|dependency| dependency.get("path")?.as_str());
                paths.map(relative).collect()
            };
            Ok(Member {
                folder: relative(folder),
                depends_on: folders(depends_on),
                tests_depend_on: folders(in_tests),
            })
        })
        .collect()
}

fn crate_objections(members: &[Member]) -> Vec<String> {
    let mut objections = Vec::new();
    for member in members {
        let row = CRATES.iter().find(|(folder, _)| *folder == member.folder);
        let Some((_, allowed)) = row else {
            objections.push(format!(
                "{}: the layout does not know this crate; add what it may depend on to CRATES in \
                 xtask/src/arrows.rs",
                member.folder
            ));
            continue;
        };
        let in_tests = IN_TESTS
            .iter()
            .find(|(folder, _)| *folder == member.folder)
            .map_or(&[][..], |(_, folders)| folders);
        let mut refuse = |other: &String, allowed: &[&str]| {
            if !allowed.contains(&other.as_str()) {
                objections.push(format!(
                    "{}/Cargo.toml: {} must not depend on {other}, only on: {}",
                    member.folder,
                    member.folder,
                    if allowed.is_empty() {
                        "nothing".to_owned()
                    } else {
                        allowed.join(", ")
                    },
                ));
            }
        };
        for other in &member.depends_on {
            refuse(other, allowed);
        }
        for other in &member.tests_depend_on {
            refuse(other, &[allowed, in_tests].concat());
        }
    }
    objections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &str, depends_on: &[&str]) -> Member {
        Member {
            folder: folder.to_owned(),
            depends_on: depends_on.iter().map(|other| (*other).to_owned()).collect(),
            tests_depend_on: BTreeSet::new(),
        }
    }

    #[test]
    fn every_arrow_of_the_layout_passes() {
        for (folder, allowed) in CRATES {
            assert_eq!(
                crate_objections(&[member(folder, allowed)]),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn every_other_arrow_is_refused() {
        for (folder, allowed) in CRATES {
            for (other, _) in CRATES {
                if !allowed.contains(&other) {
                    let objections = crate_objections(&[member(folder, &[other])]);
                    assert_eq!(objections.len(), 1, "{folder} → {other}");
                }
            }
        }
    }

    #[test]
    fn policies_and_dataplane_do_not_know_each_other() {
        for (folder, _) in CRATES {
            if folder.starts_with("policies/") {
                let objections = crate_objections(&[member(folder, &["dataplane"])]);
                assert_eq!(objections.len(), 1, "{folder}");
                let objections = crate_objections(&[member("dataplane", &[folder])]);
                assert_eq!(objections.len(), 1, "{folder}");
            }
        }
    }

    #[test]
    fn the_rooms_of_policies_have_doors_one_way() {
        for (room, beyond) in [
            ("policies/syntax", "policies/inventory"),
            ("policies/inventory", "policies/documents"),
            ("policies/documents", "policies/compiler"),
            ("policies/compiler", "policies/documents"),
            ("policies/compiler", "policies/reach"),
            ("policies/reach", "policies/analysis"),
            ("controller/sources", "policies/inventory"),
            ("controller/sources", "policies/compiler"),
            ("controller/telemetry", "policies/documents"),
        ] {
            let objections = crate_objections(&[member(room, &[beyond])]);
            assert_eq!(objections.len(), 1, "{room} → {beyond}");
        }
    }

    #[test]
    fn the_rooms_of_the_controller_have_doors_one_way() {
        for (room, beyond) in [
            ("controller/agent", "controller"),
            ("controller/answers", "controller/agent"),
            ("controller/answers", "dataplane"),
            ("controller/sources", "controller/agent"),
            ("controller/sources", "dataplane"),
            ("controller/telemetry", "controller/agent"),
            ("controller", "dataplane"),
        ] {
            let objections = crate_objections(&[member(room, &[beyond])]);
            assert_eq!(objections.len(), 1, "{room} → {beyond}");
        }
    }

    #[test]
    fn an_unknown_crate_is_refused() {
        let objections = crate_objections(&[member("helpers", &[])]);
        assert!(
            objections[0].contains("does not know this crate"),
            "{objections:?}"
        );
    }

    #[test]
    fn dependencies_of_every_kind_are_read() {
        let metadata = r#"{"packages":[{"name":"cofferdam-documents",
            "manifest_path":"/w/policies/documents/Cargo.toml","dependencies":[
            {"name":"a","kind":null,"path":"/w/dataplane/verdict"},
            {"name":"b","kind":"dev","path":"/w/dataplane"},
            {"name":"c","kind":"build","path":"/w/tests"},
            {"name":"serde","kind":null}]}]}"#;
        let members = members(metadata, Path::new("/w")).unwrap();
        assert_eq!(members[0].folder, "policies/documents");
        assert_eq!(
            crate_objections(&members).len(),
            2,
            "one for the dev, one for the build"
        );
    }

    /// The oracle is asked by tests alone, and knows nobody.
    #[test]
    fn only_tests_use_the_oracle() {
        let apart = |tests: &[&str], others: &[&str]| {
            let mut analysis = member("policies/analysis", others);
            analysis.tests_depend_on = tests.iter().map(|other| (*other).to_owned()).collect();
            crate_objections(&[analysis]).len()
        };
        assert_eq!(apart(&["policies/oracle"], &[]), 0);
        assert_eq!(apart(&[], &["policies/oracle"]), 1);
        assert_eq!(apart(&["dataplane"], &[]), 1);
        for product in [
            "controller",
            "controller/agent",
            "controller/answers",
            "fuzz",
        ] {
            let objections = crate_objections(&[member(product, &["policies/oracle"])]);
            assert_eq!(objections.len(), 1, "{product}");
        }
        for other in ["policies/documents", "dataplane/verdict"] {
            let objections = crate_objections(&[member("policies/oracle", &[other])]);
            assert_eq!(objections.len(), 1, "{other}");
        }
    }
    /// A crate with settings of its own must not allow a thing that the workspace forbids.
    #[test]
    fn settings_of_a_crate_repeat_the_workspaces() {
        let workspace = "quiet = true\nbanned = ['a', 'b']".parse().unwrap();
        let missing = |own: &str| missing_settings(&own.parse().unwrap(), &workspace);
        let all = "banned = ['c', 'b', 'a']\nquiet = true\nmore = ['d']";
        assert_eq!(missing(all), Vec::<String>::new());
        assert_eq!(missing("quiet = true\nbanned = ['a', 'c']"), ["banned"]);
        assert_eq!(missing("quiet = false"), ["banned", "quiet"]);
    }
}
