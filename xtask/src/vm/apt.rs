//! Fetches Debian packages without installing them.
//!
//! They come from the mirror that this machine's apt already uses, and are checked by apt
//! against Debian's keys. Lists and packages stay below the target folder: nothing here needs
//! root, and no package is ever configured.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{architecture::Architecture, run, tools};

/// Debian's keys, from the package of that name.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns `true` if packages can be fetched and unpacked on this machine.
pub(super) fn is_here() -> bool {
    tools::find("apt-get").is_some() && tools::find("dpkg").is_some()
}

/// Addresses that this machine gets its packages from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mirrors {
    /// Mirror of the suites themselves.
    pub(super) main: String,
    /// Mirror of their security updates.
    pub(super) security: Option<String>,
}

impl Mirrors {
    /// Asks apt for its mirrors.
    pub(super) fn of_this_machine() -> Result<Self> {
        // apt's own view spares us its two file formats.
        let listing = run::output(run::command("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        Self::parse(&listing).context(
            "apt has no source of Debian's own packages: run `apt-get update`, or add such a \
             source",
        )
    }

    fn parse(listing: &str) -> Option<Self> {
        let ours = || {
            listing.lines().filter_map(|line| {
                let fields: Vec<_> = line.split('|').collect();
                let [origin, address, suite, component] = fields[..] else {
                    return None;
                };
                // The origin stands in lists that were fetched; before that, the
                // usual name of the folder has to do.
                let last = address.trim_end_matches('/').rsplit('/').next();
                let debian = origin == "Debian"
                    || (origin.is_empty() && last.is_some_and(|last| last.starts_with("debian")));
                (debian && component == "main").then_some((address, suite))
            })
        };
        let (main, _) = ours().find(|(_, suite)| !suite.contains('-'))?;
        let security = ours().find(|(_, suite)| suite.ends_with("-security"));
        Some(Self {
            main: main.to_owned(),
            security: security.map(|(address, _)| address.to_owned()),
        })
    }
}

/// apt, with lists of its own where the machine's do not serve.
pub(super) struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Returns apt as it is set up on this machine.
    pub(super) fn of_this_machine() -> Self {
        Self {
            options: Vec::new(),
        }
    }

    /// Fetches the lists of `suite` alone, for an architecture.
    pub(super) fn private(suite: &str, mirror: &str, architecture: Architecture) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("Debian's keys are missing: please install debian-archive-keyring");
        }
        let architecture = architecture.debian();
        let folder = run::target()
            .join("vm/apt")
            .join(format!("{suite}-{architecture}"));
        for needed in ["lists/partial", "cache/archives/partial"] {
            let needed = folder.join(needed);
            fs::create_dir_all(&needed)
                .with_context(|| format!("cannot create {}", needed.display()))?;
        }
        let sources = folder.join("sources.list");
        // No package is installed as far as this apt knows.
        let status = folder.join("status");
        for (file, content) in [
            (
                &sources,
                format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"),
            ),
            (&status, String::new()),
        ] {
            fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = vec![
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            set("Dir::Etc::SourceList", &sources),
            set("Dir::Etc::SourceParts", Path::new("/dev/null")),
            set("Dir::State::Lists", &folder.join("lists")),
            set("Dir::State::Status", &status),
            set("Dir::Cache", &folder.join("cache")),
            // Descriptions for software centres are half the download.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        let apt = Self { options };
        run::output(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = run::command(program);
        // Started by root, apt fetches as a user who may not write where we are.
        command.args(["-o", "APT::Sandbox::User=root"]);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Returns the names of packages that begin with `start`, one a line.
    pub(super) fn names(&self, start: &str) -> Result<String> {
        run::output(self.command("apt-cache").args(["pkgnames", start]))
    }

    /// Fetches `package` into a folder.
    pub(super) fn download(&self, package: &str, into: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        run::output(command.args(["-qq", "download", package]).current_dir(into))?;
        Ok(())
    }

    /// Fetches `packages` and all they depend on into a folder. Only with lists of its own:
    /// what is installed on this machine would be left out.
    pub(super) fn download_all(&self, packages: &[&str], into: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command
            .arg("-o")
            .arg(format!("Dir::Cache::Archives={}", into.display()))
            .args(["-qq", "install", "--download-only", "--yes"])
            .arg("--no-install-recommends")
            .args(packages);
        // apt keeps its unfinished files there.
        let partial = into.join("partial");
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        run::output(&mut command)?;
        Ok(())
    }
}

/// Lists the packages in `folder`.
pub(super) fn downloaded(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .map_err(|error| anyhow!(error))
        .with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    Ok(files)
}

/// Fetches packages by `fetch` and unpacks them as `unpacked`. Only a whole tree gets that
/// name, which `is_whole` judges.
pub(super) fn unpack(
    unpacked: &Path,
    fetch: impl FnOnce(&Path) -> Result<()>,
    is_whole: impl FnOnce(&Path) -> bool,
) -> Result<()> {
    let part = unpacked.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let tree = part.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    fetch(&part)?;
    for file in downloaded(&part)? {
        run::output(run::command("dpkg").arg("-x").arg(&file).arg(&tree))?;
    }
    if !is_whole(&tree) {
        bail!("what was fetched lacks what it was fetched for");
    }
    fs::rename(&tree, unpacked).with_context(|| format!("cannot create {}", unpacked.display()))?;
    fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_those_of_debian_itself() {
        let listing = "Other|http://example.test/apt/|bookworm|main\n\
                       Debian|http://mirror.test/debian/|bookworm-updates|main\n\
                       Debian|http://mirror.test/debian/|bookworm|main\n\
                       Debian|http://mirror.test/debian-security/|bookworm-security|main\n";
        let mirrors = Mirrors::parse(listing).unwrap();
        assert_eq!(mirrors.main, "http://mirror.test/debian/");
        assert_eq!(
            mirrors.security.as_deref(),
            Some("http://mirror.test/debian-security/")
        );
        assert_eq!(
            Mirrors::parse("Ubuntu|http://example.test/ubuntu/|noble|main\n"),
            None
        );
    }

    #[test]
    fn mirrors_are_known_before_any_list_was_fetched() {
        let mirrors = Mirrors::parse("|http://mirror.test/debian|trixie|main\n").unwrap();
        assert_eq!(mirrors.main, "http://mirror.test/debian");
        assert_eq!(mirrors.security, None);
    }
}
