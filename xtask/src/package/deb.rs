//! The Debian package: made by cargo-deb, taken apart again, and installed on trial.
//!
//! Its contents stand in `[package.metadata.deb]` of `controller/Cargo.toml`, its scripts in
//! `xtask/shipped/debian`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{copy, create};
use crate::{architecture::Target, outcome::Failed, run, tools};

/// The crate whose manifest describes the package.
const CRATE: &str = "cofferdam-controller";
/// Folder beside the target's binaries that the manifest takes everything from that is
/// neither a binary nor in the repository.
const STAGE: &str = "package";
/// Name of the bill of materials there.
const BILL: &str = "cofferdam.cdx.json";

/// Files that the package must have, beside the binaries.
const CONTENTS: [&str; 15] = [
    "usr/bin/kubectl-cofferdam",
    "etc/cofferdam/config.yaml",
    "usr/lib/systemd/system/cofferdam.service",
    "usr/share/man/man1/cofferdam.1.gz",
    "usr/share/man/man1/cofferdam-agent.1.gz",
    "usr/share/bash-completion/completions/cofferdam",
    "usr/share/fish/vendor_completions.d/cofferdam.fish",
    "usr/share/zsh/vendor-completions/_cofferdam",
    "usr/share/doc/cofferdam/copyright",
    "usr/share/doc/cofferdam/cofferdam.cdx.json",
    "usr/share/doc/cofferdam/LICENSE",
    "usr/share/doc/cofferdam/LICENSE-GPL-2.0",
    "usr/share/doc/cofferdam/README.md",
    "usr/share/doc/cofferdam/docs/policies.md",
    "usr/share/doc/cofferdam/examples/policies/three-tier/test.yaml",
];
/// Words that its scripts must have, those for systemd among them.
const SCRIPTS: [(&str, &[&str]); 3] = [
    (
        "postinst",
        &["deb-systemd-helper enable cofferdam.service", "restart"],
    ),
    (
        "prerm",
        &[
            "cofferdam uninstall",
            "deb-systemd-invoke stop cofferdam.service",
        ],
    ),
    ("postrm", &["deb-systemd-helper purge cofferdam.service"]),
];

/// The program that installs a package on trial.
const TRIAL: &str = include_str!("install.sh");
/// Its exit status where the kernel does not let it.
const CANNOT_TRY: i32 = 77;

/// A package to make.
pub(super) struct Package<'a> {
    /// Target of its binaries.
    pub(super) target: &'a Target,
    /// Version of the binaries.
    pub(super) version: &'a str,
    /// Folder of the binaries as they are shipped.
    pub(super) binaries: &'a Path,
    /// The bill of materials.
    pub(super) bill: &'a Path,
    /// Folder with man pages and completions.
    pub(super) documents: &'a Path,
    /// Time of all its files.
    pub(super) time: u64,
}

impl Package<'_> {
    /// Makes the package in `dist` and checks it; returns its name.
    pub(super) fn make(&self, dist: &Path) -> Result<String> {
        let architecture = self.target.architecture;
        let name = format!("cofferdam_{}_{}.deb", self.version, architecture.debian());
        let package = dist.join(&name);
        self.stage()?;
        let mut cargo = run::cargo();
        cargo
            .args(["deb", "--quiet", "--locked", "--no-build", "--no-strip"])
            .args(["--package", CRATE, "--target", self.target.name.as_str()])
            .arg("--output")
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", self.time.to_string());
        run::output(&mut cargo)?;
        self.check(&package)?;
        if architecture.is_here() {
            install_on_trial(&package)?;
        }
        Ok(name)
    }

    /// Puts what is neither a binary nor in the repository where the manifest looks for it.
    fn stage(&self) -> Result<()> {
        let stage = run::target()
            .join(&self.target.name)
            .join("release")
            .join(STAGE);
        empty(&stage)?;
        copy(&self.documents.join("."), &stage)?;
        // Debian has man pages compressed, and cargo-deb leaves what it takes for built.
        let mut gzip = Command::new("gzip");
        gzip.args(["--recursive", "--no-name", "--best"]);
        run::output(gzip.arg(stage.join(super::MAN_PAGES)))?;
        copy(self.bill, &stage.join(BILL))
    }

    /// Takes the package apart: all that belongs into it is there.
    fn check(&self, package: &Path) -> Result<()> {
        let tree = run::target().join("package/deb");
        empty(&tree)?;
        run::output(
            Command::new("dpkg-deb")
                .arg("--extract")
                .args([package, &tree]),
        )?;
        let control = tree.join("DEBIAN");
        run::output(
            Command::new("dpkg-deb")
                .arg("--control")
                .args([package, &control]),
        )?;
        let mut objections: Vec<String> = CONTENTS
            .iter()
            .filter(|path| !tree.join(path).is_file())
            .map(|path| format!("{path} is missing"))
            .collect();
        for entry in fs::read_dir(self.binaries).context("cannot list the binaries")? {
            let binary = entry.context("cannot list the binaries")?;
            let packed = tree.join("usr/bin").join(binary.file_name());
            if fs::read(binary.path()).ok() != fs::read(&packed).ok() {
                objections.push(format!("{} is another one", packed.display()));
            }
        }
        objections.extend(objections_to_control(&control, self.target, self.version));
        if objections.is_empty() {
            println!("  {}: all in it", file_name(package));
            return Ok(());
        }
        Err(Failed::error(format!(
            "{} is not as it should be:\n  {}",
            package.display(),
            objections.join("\n  ")
        )))
    }
}

/// Objections to the control files of a package, which lie in a folder.
fn objections_to_control(control: &Path, target: &Target, version: &str) -> Vec<String> {
    let text = |name: &str| fs::read_to_string(control.join(name)).unwrap_or_default();
    let mut wanted = vec![
        ("control", "Package: cofferdam".to_owned()),
        ("control", format!("Version: {version}")),
        (
            "control",
            format!("Architecture: {}", target.architecture.debian()),
        ),
        ("conffiles", "/etc/cofferdam/config.yaml".to_owned()),
    ];
    for (script, words) in SCRIPTS {
        wanted.extend(words.iter().map(|words| (script, (*words).to_owned())));
    }
    wanted
        .into_iter()
        .filter(|(name, words)| !text(name).contains(words.as_str()))
        .map(|(name, words)| format!("{name} does not say `{words}`"))
        .collect()
}

/// Installs, upgrades, removes and purges a package on a copy of this system.
fn install_on_trial(package: &Path) -> Result<()> {
    let name = file_name(package);
    if !tools::is_root() || tools::find("deb-systemd-helper").is_none() {
        println!("  {name}: not installed on trial, which needs root and Debian");
        return Ok(());
    }
    let folder = run::target().join("package/system");
    empty(&folder)?;
    let script = run::target().join("package/install.sh");
    fs::write(&script, TRIAL).with_context(|| format!("cannot write {}", script.display()))?;
    let mut trial = Command::new("unshare");
    trial
        .args(["--mount", "sh"])
        .args([&script, package, &folder]);
    let output = trial
        .output()
        .context("cannot start unshare (Debian package util-linux)")?;
    if output.status.code() == Some(CANNOT_TRY) {
        println!("  {name}: not installed on trial, since layers of file systems do not work here");
        return Ok(());
    }
    if !output.status.success() {
        return Err(Failed::error(format!(
            "{name} does not install as it should ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    println!("  {name}: installed, upgraded, removed and purged on a copy of this system");
    Ok(())
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Makes an empty folder.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot empty the folder {}", folder.display()))?;
    }
    create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;

    #[test]
    fn control_files_say_what_is_in_the_package() {
        let scratch = tempfile::tempdir().unwrap();
        let control = scratch.path();
        let write = |name: &str, text: &str| fs::write(control.join(name), text).unwrap();
        write(
            "control",
            "Package: cofferdam\nVersion: 1.2.3\nArchitecture: arm64\n",
        );
        write("conffiles", "/etc/cofferdam/config.yaml\n");
        for (script, words) in SCRIPTS {
            write(script, &words.join("\n"));
        }
        let target = |architecture| Target {
            architecture,
            name: String::new(),
        };
        let aarch64 = target(Architecture::Aarch64);
        let objections = objections_to_control(control, &aarch64, "1.2.3");
        assert_eq!(objections, Vec::<String>::new());

        write("postinst", "#!/bin/sh\n");
        fs::remove_file(control.join("conffiles")).unwrap();
        let x86_64 = target(Architecture::X86_64);
        let objections = objections_to_control(control, &x86_64, "1.2.3");
        assert_eq!(
            objections,
            [
                "control does not say `Architecture: amd64`",
                "conffiles does not say `/etc/cofferdam/config.yaml`",
                "postinst does not say `deb-systemd-helper enable cofferdam.service`",
                "postinst does not say `restart`",
            ]
        );
    }

    /// The manifest takes the files that the checks ask for, and the scripts that lie there.
    #[test]
    fn the_manifest_names_what_is_shipped() {
        let manifest = fs::read_to_string(run::root().join("controller/Cargo.toml")).unwrap();
        let scripts = run::root().join("xtask/shipped/debian");
        assert!(manifest.contains("maintainer-scripts = \"../xtask/shipped/debian\""));
        for (script, _) in SCRIPTS {
            let text = fs::read_to_string(scripts.join(script)).unwrap();
            // There cargo-deb puts what systemd needs.
            assert!(text.contains("#DEBHELPER#"), "{script}");
        }
    }
}
