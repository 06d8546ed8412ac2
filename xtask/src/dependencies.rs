//! `cargo xtask dependencies`: `deny.toml` holds for every crate in the build.
//!
//! Licences, bans and sources, as `cargo deny` reads them: from `cargo metadata` and by the
//! licence expressions of that tool's own library, because the tool itself takes longer to
//! compile than all that it looks at. Where it is installed it runs as well, with the
//! advisories that it has at hand.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

use crate::{
    outcome::Failed,
    run::{self, output},
    tools,
};

/// The parts of `deny.toml` that are looked at here.
#[derive(Deserialize)]
struct Policy {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

/// Licences that one crate may have beside those of all.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

/// A crate that must not be there, and why.
#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

impl Policy {
    fn read() -> Result<Self> {
        let path = run::root().join("deny.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let policy: Self = toml::from_str(text).context("deny.toml")?;
        // A word that is no licence would allow nothing, unnoticed.
        let exceptions = policy.licenses.exceptions.iter();
        let allowed = exceptions.flat_map(|exception| &exception.allow);
        for licence in policy.licenses.allow.iter().chain(allowed) {
            Licensee::parse(licence).with_context(|| format!("deny.toml: {licence}"))?;
        }
        Ok(policy)
    }

    /// Objections to one package of `cargo metadata`.
    fn objections(&self, package: &Value) -> Vec<String> {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        let mut objections = Vec::new();
        if let Some(ban) = self.bans.deny.iter().find(|ban| ban.name == name) {
            objections.push(format!("{name} {version} is banned: {}", ban.reason));
        }
        let is_ours = package["source"].is_null();
        if !is_ours && !text("source").starts_with("registry+") {
            objections.push(format!("{name} {version} comes from {}", text("source")));
        }
        if let Err(why) = self.licensed(name, text("license")) {
            objections.push(format!("{name} {version}: {why}"));
        }
        if is_ours {
            let wildcards = list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["req"] == "*" && dependency["path"].is_null());
            objections.extend(wildcards.map(|dependency| {
                let dependency = dependency["name"].as_str().unwrap_or_default();
                format!("{name} takes any version of {dependency}: say which")
            }));
        }
        objections
    }

    /// Returns why a crate's licence does not suffice.
    fn licensed(&self, name: &str, license: &str) -> Result<(), String> {
        if license.is_empty() {
            return Err("it names no licence".to_owned());
        }
        // Old manifests have `MIT/Apache-2.0`.
        let expression = Expression::parse_mode(license, ParseMode::LAX)
            .map_err(|error| format!("`{license}` is no licence expression: {error}"))?;
        let exceptions = (self.licenses.exceptions.iter())
            .filter(|exception| exception.name == name)
            .flat_map(|exception| &exception.allow);
        let allowed: Vec<_> = (self.licenses.allow.iter().chain(exceptions))
            .filter_map(|licence| Licensee::parse(licence).ok())
            .collect();
        let suffices =
            expression.evaluate(|wanted| allowed.iter().any(|licence| licence.satisfies(wanted)));
        if suffices {
            Ok(())
        } else {
            Err(format!("deny.toml allows no licence of `{license}`"))
        }
    }
}

/// Runs the verb.
pub(crate) fn run() -> Result<()> {
    let policy = Policy::read()?;
    let mut packages = BTreeMap::new();
    for target in &policy.graph.targets {
        for package in resolved(target)? {
            let id = package["id"].as_str().unwrap_or_default().to_owned();
            packages.insert(id, package);
        }
    }
    let objections: Vec<_> = packages
        .values()
        .flat_map(|package| policy.objections(package))
        .collect();
    if !objections.is_empty() {
        return Err(Failed::error(objections.join("\n")));
    }
    println!(
        "dependencies: {} crates are as deny.toml allows",
        packages.len()
    );
    if tools::find("cargo-deny").is_some() {
        return by_the_tool();
    }
    Ok(())
}

/// Runs `cargo deny`, without the network: with advisories if somebody has fetched them.
fn by_the_tool() -> Result<()> {
    let mut deny = run::cargo();
    deny.args(["deny", "--offline", "check", "bans", "licenses", "sources"]);
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    if home.is_some_and(|home| home.join("advisory-dbs").is_dir()) {
        deny.arg("advisories");
    }
    let status = run::status(&mut deny)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failed::program("cargo deny", status))
    }
}

/// Packages that a build for a target has, those for tests and build scripts among them.
fn resolved(target: &str) -> Result<Vec<Value>> {
    let text = output(run::cargo().args([
        "metadata",
        "--locked",
        "--all-features",
        "--format-version",
        "1",
        "--filter-platform",
        target,
    ]))?;
    let metadata: Value = serde_json::from_str(&text).context("cannot read cargo metadata")?;
    let nodes: Vec<_> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| &node["id"])
        .collect();
    let packages = list(&metadata["packages"]).iter();
    Ok(packages
        .filter(|package| nodes.contains(&&package["id"]))
        .cloned()
        .collect())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let text = r#"
            [graph]
            targets = []
            [licenses]
            allow = ["Apache-2.0", "MIT"]
            exceptions = [{ crate = "odd", allow = ["NCSA"] }]
            [bans]
            deny = [{ crate = "openssl-sys", reason = "use rustls" }]
        "#;
        Policy::parse(text).expect("a policy")
    }

    fn objections(name: &str, license: &str, source: &str) -> Vec<String> {
        let package = json!({
            "name": name, "version": "1.0.0", "license": license, "source": source,
        });
        policy().objections(&package)
    }

    #[test]
    fn what_the_policy_allows_passes() {
        for license in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR ISC) AND Apache-2.0",
        ] {
            assert_eq!(
                objections("fine", license, "registry+any"),
                [""; 0],
                "{license}"
            );
        }
        assert_eq!(objections("odd", "NCSA", "registry+any"), [""; 0]);
    }

    #[test]
    fn each_objection_says_what_it_is_about() {
        let cases = [
            (
                "fine",
                "NCSA",
                "registry+any",
                "allows no licence of `NCSA`",
            ),
            (
                "fine",
                "MIT AND GPL-3.0",
                "registry+any",
                "allows no licence",
            ),
            (
                "fine",
                "Apache-2.0 WITH LLVM-exception",
                "registry+any",
                "allows no licence",
            ),
            ("fine", "", "registry+any", "names no licence"),
            ("fine", "my own", "registry+any", "no licence expression"),
            (
                "fine",
                "MIT",
                "git+https://example.org/fine",
                "comes from git+",
            ),
            ("openssl-sys", "MIT", "registry+any", "use rustls"),
        ];
        for (name, license, source, expected) in cases {
            let found = objections(name, license, source);
            assert!(
                found.len() == 1 && found[0].contains(expected),
                "{name} {license} {source}: {found:?}"
            );
        }
    }

    #[test]
    fn our_own_crates_say_which_version_they_take() {
        let dependency =
            |req: &str, path: Value| json!({"name": "other", "req": req, "path": path});
        let ours = |dependency: Value| {
            let package = json!({
                "name": "ours", "version": "1.0.0", "license": "MIT", "source": null,
                "dependencies": [dependency],
            });
            policy().objections(&package)
        };
        assert_eq!(ours(dependency("^1", Value::Null)), [""; 0]);
        assert_eq!(ours(dependency("*", json!("/ours/other"))), [""; 0]);
        assert_eq!(
            ours(dependency("*", Value::Null)),
            ["ours takes any version of other: say which"]
        );
    }

    #[test]
    fn a_policy_that_names_no_licence_is_refused() {
        let text = "[graph]\ntargets = []\n[licenses]\nallow = [\"Apache2\"]\n[bans]\ndeny = []\n";
        assert!(Policy::parse(text).is_err());
    }
}
