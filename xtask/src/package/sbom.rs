//! The bill of materials: every crate that is in the binaries, as CycloneDX.
//!
//! From `cargo metadata`, twice: the kernel programs are built by a build script for
//! another target, yet they are in the binary too. The tools there are follow one
//! package's dependencies and miss them; and they take minutes to install, for what is
//! a walk through a graph that cargo prints.
//!
//! Crates that only help to build, such as build scripts and macros, are left out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::run;

/// The version of the format.
const FORMAT: &str = "1.6";

/// Cargo's description of one package, built for one target.
pub(super) struct Source {
    metadata: Value,
    /// The package's id.
    root: String,
}

impl Source {
    /// Asks cargo about the package in a folder of the workspace.
    pub(super) fn read(folder: &str, target: &str) -> Result<Self> {
        let text = run::output(run::cargo().args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            target,
        ]))?;
        let metadata: Value = serde_json::from_str(&text).context("cannot read cargo metadata")?;
        let manifest = run::root().join(folder).join("Cargo.toml");
        let root = list(&metadata["packages"])
            .iter()
            .find(|package| {
                package["manifest_path"].as_str().map(AsRef::as_ref) == Some(&*manifest)
            })
            .and_then(|package| package["id"].as_str());
        let Some(root) = root else {
            bail!("there is no package in the folder {folder}");
        };
        let root = root.to_owned();
        Ok(Self { metadata, root })
    }

    /// The package itself.
    pub(super) fn root(&self) -> Result<&Value> {
        self.package(&self.root)
    }

    fn package(&self, id: &str) -> Result<&Value> {
        let mut packages = list(&self.metadata["packages"]).iter();
        packages
            .find(|package| package["id"] == id)
            .with_context(|| format!("cargo metadata does not describe {id}"))
    }

    /// Packages that end up in the binary, with those that each of them uses.
    fn linked(&self) -> Result<BTreeMap<&str, Vec<&str>>> {
        let nodes: BTreeMap<&str, &Value> = list(&self.metadata["resolve"]["nodes"])
            .iter()
            .filter_map(|node| Some((node["id"].as_str()?, node)))
            .collect();
        let mut linked = BTreeMap::new();
        let mut open = vec![self.root.as_str()];
        while let Some(id) = open.pop() {
            if linked.contains_key(id) {
                continue;
            }
            let node = nodes
                .get(id)
                .with_context(|| format!("cargo metadata does not resolve {id}"))?;
            let mut uses = Vec::new();
            for dependency in list(&node["deps"]) {
                // A normal dependency is of no special kind.
                let normal = list(&dependency["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"].is_null());
                let id = dependency["pkg"].as_str().context("a package id")?;
                if normal && !is_macro(self.package(id)?) {
                    uses.push(id);
                }
            }
            open.extend(&uses);
            linked.insert(id, uses);
        }
        Ok(linked)
    }
}

/// The bill of all sources together.
pub(super) fn bill(version: &str, target: &str, time: u64, sources: &[Source]) -> Result<String> {
    let lock = std::fs::read_to_string(run::root().join("Cargo.lock"))
        .context("cannot read Cargo.lock")?;
    let checksums = checksums(&lock);
    let compiler = run::output(run::command("rustc").arg("--version"))?;
    let standard_library = standard_library(&compiler, target)?;
    let date =
        run::output(run::command("date").args(["--utc", &format!("--date=@{time}"), "+%FT%TZ"]))?;
    let application = format!("pkg:generic/cofferdam@{version}");

    let mut components = BTreeMap::new();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let all = uses.entry(application.clone()).or_default();
    all.insert(reference(&standard_library));
    for source in sources {
        all.insert(purl(source.root()?));
    }
    components.insert(reference(&standard_library), standard_library);
    for source in sources {
        for (id, used) in source.linked()? {
            let package = source.package(id)?;
            let entry = uses.entry(purl(package)).or_default();
            for used in used {
                entry.insert(purl(source.package(used)?));
            }
            components.insert(purl(package), component(package, &checksums));
        }
    }
    let dependencies: Vec<Value> = uses
        .iter()
        .map(|(package, uses)| json!({"ref": package, "dependsOn": uses}))
        .collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": FORMAT,
        "version": 1,
        "metadata": {
            "timestamp": date.trim(),
            "component": {
                "type": "application",
                "bom-ref": application,
                "purl": application,
                "name": "cofferdam",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            },
            "properties": [
                {"name": "cofferdam:target", "value": target},
                {"name": "cofferdam:compiler", "value": compiler.trim()},
            ],
        },
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

/// Rust's own libraries, which are linked as well and are in nobody's manifest; the C
/// library of the musl target comes with them.
fn standard_library(compiler: &str, target: &str) -> Result<Value> {
    // rustc 1.95.0 (hash date)
    let version = compiler.split_whitespace().nth(1).context("a version")?;
    let purl = format!("pkg:generic/rust-std@{version}");
    Ok(json!({
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": "rust-std",
        "version": version,
        "description": format!("Rust's standard library for {target}"),
        "licenses": [{"expression": "Apache-2.0 OR MIT"}],
    }))
}

fn component(package: &Value, checksums: &BTreeMap<(&str, &str), &str>) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let purl = purl(package);
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": text("name"),
        "version": text("version"),
        "scope": "required",
    });
    let license = text("license");
    if !license.is_empty() {
        // Older manifests write a choice with a stroke.
        let expression = license.replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    if let Some(checksum) = checksums.get(&(text("name"), text("version"))) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

fn purl(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    // A version's build metadata stands behind a plus sign, which means a space there.
    let version = text("version").replace('+', "%2B");
    format!("pkg:cargo/{}@{version}", text("name"))
}

fn reference(component: &Value) -> String {
    component["bom-ref"].as_str().unwrap_or_default().to_owned()
}

fn is_macro(package: &Value) -> bool {
    list(&package["targets"])
        .iter()
        .any(|target| list(&target["kind"]).contains(&Value::from("proc-macro")))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The checksums of packages in `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let value = |line: &'_ str, key: &str| -> Option<usize> {
        line.strip_prefix(key)?
            .strip_prefix(" = \"")
            .map(|rest| line.len() - rest.len())
    };
    let mut checksums = BTreeMap::new();
    let (mut name, mut version) = ("", "");
    for line in lock.lines() {
        let quoted = |key| value(line, key).map(|at| line[at..].trim_end_matches('"'));
        if let Some(text) = quoted("name") {
            name = text;
        } else if let Some(text) = quoted("version") {
            version = text;
        } else if let Some(text) = quoted("checksum") {
            checksums.insert((name, version), text);
        }
    }
    checksums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_belong_to_a_name_and_a_version() {
        let lock = "[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\n[[package]]\n\
                    name = \"theirs\"\nversion = \"1.2.3\"\nsource = \"registry\"\n\
                    checksum = \"c0ffee\"\n";
        let checksums = checksums(lock);
        assert_eq!(checksums.get(&("theirs", "1.2.3")), Some(&"c0ffee"));
        assert_eq!(checksums.len(), 1);
    }

    /// `a` is linked with `b`, builds with `c`, and derives with `m`.
    #[test]
    fn only_what_is_linked_is_listed() {
        let package = |name: &str, kind: &str| json!({"id": name, "name": name, "version": "1.0.0", "targets": [{"kind": [kind]}]});
        let dependency =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let source = Source {
            root: "a".to_owned(),
            metadata: json!({
                "packages": [
                    package("a", "bin"),
                    package("b", "lib"),
                    package("c", "lib"),
                    package("m", "proc-macro"),
                ],
                "resolve": {"nodes": [
                    {"id": "a", "deps": [
                        dependency("b", None),
                        dependency("c", Some("build")),
                        dependency("m", None),
                    ]},
                    {"id": "b", "deps": [dependency("a", Some("dev"))]},
                    {"id": "c", "deps": []},
                    {"id": "m", "deps": [dependency("c", None)]},
                ]},
            }),
        };
        let linked = source.linked().expect("a graph");
        assert_eq!(linked, BTreeMap::from([("a", vec!["b"]), ("b", vec![])]));
    }
}
