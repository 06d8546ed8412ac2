//! `cargo xtask arrows`: only the dependencies of the layout exist.
//!
//! The layout is what lets one read a crate without the others, and what makes the
//! oracle worth comparing with. It erodes one convenient import at a time; so every
//! arrow that is not in the tables below is refused. To add one, add it here, where
//! the review sees it. Only tests may ask the oracle, which knows no other crate: one that
//! shared code with what it is compared with would share its mistakes.

mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{outcome::Failed, run};

/// Crates, by folder, and the folders of those they may depend on.
const CRATES: [(&str, &[&str]); 16] = [
    // Asks an agent or runs one, and has no kernel side of its own.
    (
        "controller",
        &[
            "controller/agent",
            "controller/answers",
            "controller/protocol",
            "controller/sources",
            "policies",
            "dataplane/verdict",
        ],
    ),
    // Knows neither its callers nor how answers are printed.
    (
        "controller/agent",
        &[
            "controller/answers",
            "controller/protocol",
            "controller/sources",
            "controller/telemetry",
            "policies",
            "dataplane",
            "dataplane/verdict",
        ],
    ),
    // Agent and command line give the same answers: no kernel, no agent in here.
    (
        "controller/answers",
        &["controller/protocol", "policies", "dataplane/verdict"],
    ),
    // What runs for each container is small: it knows how to ask the agent, and no more.
    ("controller/plugin", &["controller/protocol"]),
    // The words of reasons and hooks are the kernel side's own.
    ("controller/protocol", &["dataplane/verdict"]),
    // Yields documents from any place, and knows nothing of what follows from them.
    ("controller/sources", &["policies"]),
    // Reports what was decided elsewhere.
    (
        "controller/telemetry",
        &[
            "controller/answers",
            "controller/protocol",
            "policies",
            "dataplane",
            "dataplane/verdict",
        ],
    ),
    ("policies", &["dataplane/verdict"]),
    // It judges by code of its own, from the texts alone.
    ("policies/oracle", &[]),
    ("dataplane", &["dataplane/verdict"]),
    ("dataplane/ebpf", &["dataplane/verdict"]),
    // Compiled for the kernel and for everybody else: it knows nobody.
    ("dataplane/verdict", &[]),
    ("tests", EVERY_LIBRARY),
    ("bench", EVERY_LIBRARY),
    // Compiled anew to be watched at every branch: the less, the sooner.
    ("fuzz", &["policies", "dataplane/verdict"]),
    // Runs programs only, so that it builds where nothing else does.
    ("xtask", &[]),
];

/// Crates, by folder, and the folders of those that their tests may depend on as well.
const IN_TESTS: [(&str, &[&str]); 1] = [("policies", &["policies/oracle"])];

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
    "policies",
    "policies/oracle",
    "dataplane",
    "dataplane/verdict",
    "dataplane/ebpf",
    "tests",
    "bench",
];

/// A rule between modules. Test code is free of it.
struct ModuleRule {
    /// Module that it holds in, with its children.
    holds: &'static str,
    /// Paths that must not be named there.
    forbidden: &'static [&'static str],
    reason: &'static str,
}

const MODULES: [ModuleRule; 3] = [
    ModuleRule {
        holds: "cofferdam_answers",
        forbidden: &[
            "std::env",
            "std::fs",
            "std::io",
            "std::process",
            "std::thread",
            "std::time",
        ],
        reason: "an answer depends on its arguments alone, so that agent and command line give \
                 the same one",
    },
    ModuleRule {
        holds: "cofferdam_sources",
        forbidden: &[
            "cofferdam_policies::compiler",
            "cofferdam_policies::inventory",
            "cofferdam_policies::reach",
        ],
        reason: "a source hands documents over; what they mean and which tables follow is for \
                 the agent",
    },
    ModuleRule {
        holds: "cofferdam_telemetry",
        forbidden: &[
            "cofferdam_dataplane::Attachments",
            "cofferdam_dataplane::FlowKeeper",
            "cofferdam_dataplane::Kernel",
            "cofferdam_dataplane::*",
            "cofferdam_policies::compiler::compile",
        ],
        reason: "telemetry tells of what the programs did; it changes nothing in the kernel and \
                 decides nothing",
    },
];

/// Crates whose sources are tests: their `src/` is free of the module rules.
const TEST_CRATES: [&str; 2] = ["tests", "bench"];

/// Runs the verb.
pub(crate) fn run() -> Result<()> {
    let root = run::root();
    let metadata =
        run::output(run::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let members = members(&metadata, &root)?;
    let mut objections = crate_objections(&members);
    let mut files = Vec::new();
    for member in members
        .iter()
        .filter(|member| !TEST_CRATES.contains(&member.folder.as_str()))
    {
        read_crate(member, &root, &mut files)?;
    }
    objections.extend(module_objections(&files, &MODULES));
    if objections.is_empty() {
        println!(
            "arrows: {} crates and {} sources are as laid out",
            members.len(),
            files.len()
        );
        return Ok(());
    }
    Err(Failed::error(format!(
        "arrows that the layout does not have:\n  {}",
        objections.join("\n  ")
    )))
}

/// A crate of the workspace.
#[derive(Debug)]
struct Member {
    /// Name as written in sources.
    name: String,
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
                let paths = dependencies.into_iter();
                let paths = paths.filter_map(|dependency| dependency.get("path")?.as_str());
                paths.map(relative).collect()
            };
            Ok(Member {
                name: text("name")
                    .context("a package without a name")?
                    .replace('-', "_"),
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
                 xtask/src/arrows/mod.rs",
                member.folder
            ));
            continue;
        };
        let in_tests = IN_TESTS.iter().find(|(folder, _)| *folder == member.folder);
        let in_tests = in_tests.map_or(&[][..], |(_, folders)| folders);
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

/// A source file of a crate.
struct File {
    /// Path, relative to the root.
    path: String,
    /// The crate's name, then the module's path.
    module: Vec<String>,
    source: source::Source,
}

impl File {
    fn new(path: &str, module: Vec<String>, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            source: source::read(text, &module),
            module,
        }
    }
}

/// Reads `src/` of `member`.
fn read_crate(member: &Member, root: &Path, files: &mut Vec<File>) -> Result<()> {
    let folder = root.join(&member.folder).join("src");
    let mut sources = Vec::new();
    if folder.is_dir() {
        collect(&folder, &mut sources)?;
    }
    sources.sort();
    for source in sources {
        let text = fs::read_to_string(&source)
            .with_context(|| format!("cannot read {}", source.display()))?;
        let module = module_of(
            &member.name,
            source.strip_prefix(&folder).unwrap_or(&source),
        );
        let path = source
            .strip_prefix(root)
            .unwrap_or(&source)
            .to_string_lossy()
            .into_owned();
        files.push(File::new(&path, module, &text));
    }
    Ok(())
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

/// The module whose file is `path`, relative to `src/`.
fn module_of(name: &str, path: &Path) -> Vec<String> {
    let mut module = vec![name.to_owned()];
    let without = path.with_extension("");
    module.extend(
        without
            .iter()
            .map(|part| part.to_string_lossy().into_owned()),
    );
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

fn module_objections(files: &[File], rules: &[ModuleRule]) -> Vec<String> {
    let mut objections = Vec::new();
    let test_modules: Vec<_> = files
        .iter()
        .flat_map(|file| &file.source.test_modules)
        .collect();
    for file in files {
        if test_modules
            .iter()
            .any(|module| file.module.starts_with(module))
        {
            continue;
        }
        for rule in rules {
            if !lies_in(&file.module, rule.holds) {
                continue;
            }
            for used in &file.source.uses {
                for meant in meanings(&used.path, files) {
                    if rule
                        .forbidden
                        .iter()
                        .any(|forbidden| names(&meant, forbidden))
                    {
                        objections.push(format!(
                            "{}:{}: {} must not be used here: {}",
                            file.path,
                            used.line,
                            meant.join("::"),
                            rule.reason
                        ));
                    }
                }
            }
        }
    }
    objections.dedup();
    objections
}

fn lies_in(module: &[String], outer: &str) -> bool {
    let outer: Vec<_> = outer.split("::").collect();
    module.len() >= outer.len() && module.iter().zip(outer).all(|(left, right)| left == right)
}

/// Returns `true` if `path` names `forbidden`, or something in it.
fn names(path: &[String], forbidden: &str) -> bool {
    match forbidden.strip_suffix("::*") {
        // All of a crate, be it by `*` or by another name for its root.
        Some(root) => path == [root] || (path.len() == 2 && path[0] == root && path[1] == "*"),
        None => lies_in(path, forbidden),
    }
}

/// `path`, and what it is where the root of its crate passes it on: `crate::Table`
/// may be `crate::compiler::Table`.
fn meanings(path: &[String], files: &[File]) -> Vec<Vec<String>> {
    let mut found = vec![path.to_vec()];
    let [name, first, rest @ ..] = path else {
        return found;
    };
    let Some(root) = files
        .iter()
        .find(|file| file.module.len() == 1 && file.module[0] == *name)
    else {
        return found;
    };
    if root
        .source
        .modules
        .iter()
        .any(|module| module[1..] == [first.clone()])
    {
        return found;
    }
    for export in &root.source.uses {
        let Some(exported) = &export.exported_as else {
            continue;
        };
        // Everything of a module may contain this name; the doubt counts.
        if exported == first || exported == "*" {
            let mut meant = export.path.clone();
            if exported == "*" {
                meant.pop();
                meant.push(first.clone());
            }
            meant.extend_from_slice(rest);
            found.push(meant);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &str, depends_on: &[&str]) -> Member {
        Member {
            name: format!("cofferdam_{folder}"),
            folder: folder.to_owned(),
            depends_on: depends_on.iter().map(|other| (*other).to_owned()).collect(),
            tests_depend_on: BTreeSet::new(),
        }
    }

    /// A rule as one would be for a module that is compared with the others of its crate.
    const APART: ModuleRule = ModuleRule {
        holds: "cofferdam_policies::apart",
        forbidden: &[
            "cofferdam_policies::compiler",
            "cofferdam_policies::selectors",
            "cofferdam_policies::documents",
            "cofferdam_verdict",
            // Ways to name them without naming them.
            "cofferdam_policies::*",
            "include!",
            "#[path]",
        ],
        reason: "apart",
    };

    /// Objections to a crate `policies` of these sources, by a rule for its module `apart`.
    fn objections(sources: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = sources
            .iter()
            .map(|(path, text)| {
                let module = module_of("cofferdam_policies", Path::new(path));
                File::new(path, module, text)
            })
            .collect();
        module_objections(&files, &[APART])
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
        assert_eq!(
            crate_objections(&[member("policies", &["dataplane"])]).len(),
            1
        );
        assert_eq!(
            crate_objections(&[member("dataplane", &["policies"])]).len(),
            1
        );
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
        let metadata = r#"{"packages":[{"name":"cofferdam-policies",
            "manifest_path":"/w/policies/Cargo.toml","dependencies":[
            {"name":"a","kind":null,"path":"/w/dataplane/verdict"},
            {"name":"b","kind":"dev","path":"/w/dataplane"},
            {"name":"c","kind":"build","path":"/w/tests"},
            {"name":"serde","kind":null}]}]}"#;
        let members = members(metadata, Path::new("/w")).unwrap();
        assert_eq!(members[0].name, "cofferdam_policies");
        assert_eq!(members[0].folder, "policies");
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
            let mut policies = member("policies", others);
            policies.tests_depend_on = tests.iter().map(|other| (*other).to_owned()).collect();
            crate_objections(&[policies]).len()
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
        for other in ["policies", "dataplane/verdict"] {
            let objections = crate_objections(&[member("policies/oracle", &[other])]);
            assert_eq!(objections.len(), 1, "{other}");
        }
    }

    #[test]
    fn a_module_uses_nothing_of_what_is_forbidden_there() {
        for text in [
            "use crate::compiler::Table;",
            "use crate::{documents, labels};",
            "use super::selectors::*;",
            "fn f() { crate::compiler::compile() }",
            "use cofferdam_verdict::Tuple;",
            "extern crate cofferdam_verdict as v;",
            "use crate as all;",
            "use super::*;",
            "include!(\"compiler.rs\");",
            "#[path = \"compiler.rs\"] mod copy;",
        ] {
            assert_eq!(objections(&[("apart.rs", text)]).len(), 1, "{text}");
        }
        let deeper = ("apart/cidr.rs", "use super::super::selectors::matches;");
        assert_eq!(objections(&[deeper]).len(), 1);
    }

    #[test]
    fn a_module_may_use_itself_and_others() {
        let text = "use super::apart::cidr; use serde_yaml::Value; use std::net::IpAddr;\n\
                    mod cidr { use super::*; }\n#[cfg(test)] mod tests { use crate::compiler::X; }";
        assert_eq!(objections(&[("apart.rs", text)]), Vec::<String>::new());
        let root = ("lib.rs", "pub mod apart;\n#[cfg(test)] mod compared;");
        let tests = ("apart/compared.rs", "use crate::compiler::X;");
        assert_eq!(objections(&[root, tests]).len(), 1);
        let tests = ("compared.rs", "use crate::compiler::X;");
        assert_eq!(objections(&[root, tests]).len(), 0, "of another module");
    }

    #[test]
    fn a_name_passed_on_by_the_root_is_followed() {
        let root = (
            "lib.rs",
            "pub mod compiler; pub mod apart; pub use compiler::Table as T;",
        );
        let apart = |text| objections(&[root, ("apart.rs", text)]);
        assert_eq!(apart("use crate::T;").len(), 1);
        assert_eq!(apart("use crate::Other;").len(), 0);
        let everything = ("lib.rs", "mod compiler; mod apart; pub use compiler::*;");
        assert_eq!(
            objections(&[everything, ("apart.rs", "use crate::Other;")]).len(),
            1
        );
    }

    /// A module whose declaration is for tests alone is free.
    #[test]
    fn a_file_that_exists_in_tests_only_is_free() {
        let parent = ("apart.rs", "#[cfg(test)] mod compared;");
        let tests = ("apart/compared.rs", "use crate::compiler::X;");
        assert_eq!(objections(&[parent, tests]).len(), 0);
    }

    /// Objections to a file of another crate.
    fn objections_to(name: &str, path: &str, text: &str) -> Vec<String> {
        let module = module_of(name, Path::new(path));
        module_objections(&[File::new(path, module, text)], &MODULES)
    }

    #[test]
    fn answers_know_neither_files_nor_clock() {
        let answers = |text| objections_to("cofferdam_answers", "explain.rs", text);
        for text in [
            "use std::fs;",
            "use std::{fs::File, net::IpAddr};",
            "fn f() { std::time::Instant::now(); }",
        ] {
            assert_eq!(answers(text).len(), 1, "{text}");
        }
        assert_eq!(answers("use std::net::IpAddr;"), Vec::<String>::new());
        let agent = objections_to("cofferdam_agent", "state.rs", "use std::fs;");
        assert_eq!(agent, Vec::<String>::new());
    }

    #[test]
    fn sources_know_documents_and_no_tables() {
        let sources = |text| objections_to("cofferdam_sources", "files.rs", text);
        let documents = "use cofferdam_policies::documents::Source;";
        assert_eq!(sources(documents), Vec::<String>::new());
        for text in [
            "use cofferdam_policies::compiler::compile;",
            "use cofferdam_policies::{documents::Source, inventory::Inventory};",
        ] {
            assert_eq!(sources(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn telemetry_reads_the_kernel_side_and_does_not_own_it() {
        let telemetry = |text| objections_to("cofferdam_telemetry", "records.rs", text);
        let reading = "use cofferdam_dataplane::{Events, RuleHits};";
        assert_eq!(telemetry(reading), Vec::<String>::new());
        for text in [
            "use cofferdam_dataplane::{Events, Kernel};",
            "use cofferdam_dataplane::*;",
            "fn f(kernel: &mut cofferdam_dataplane::Kernel) {}",
        ] {
            assert_eq!(telemetry(text).len(), 1, "{text}");
        }
    }
}
