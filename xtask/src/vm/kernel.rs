//! Fetches a Debian kernel, without installing it.
//!
//! Packages come from the mirror that this machine's apt already uses, are checked
//! by apt against Debian's keys, and are unpacked below the target folder. Nothing
//! here needs root, and no package is ever configured.
//!
//! A fetched kernel stays as it is: `cargo xtask test-vm` gives the same answer
//! tomorrow. Removing its folder fetches the newest of its series.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{run, tools};

/// Debian's keys, from the package of that name.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Kernels without drivers for real hardware: a tenth of the size, and everything
/// about networking and BPF is in.
const FLAVOUR: &str = "-cloud-amd64";

/// Suites to look through, oldest kernels first, and whether the suite lies on the
/// security mirror.
const SUITES: [(&str, bool); 7] = [
    ("bookworm", false),
    ("bookworm-security", true),
    ("trixie", false),
    ("trixie-security", true),
    ("trixie-backports", false),
    ("forky", false),
    ("sid", false),
];

/// A kernel that can be started.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The compressed kernel.
    pub(crate) image: PathBuf,
    /// Its `lib/modules/RELEASE`.
    pub(crate) modules: PathBuf,
}

/// The kernel of `series` (`6.1`) kept in `folder`, fetched if it is not there.
pub(crate) fn get(series: &str, folder: &Path) -> Result<Kernel> {
    let unpacked = folder.join("kernel");
    if !unpacked.is_dir() {
        fetch(series, folder, &unpacked)
            .with_context(|| format!("cannot fetch a Debian kernel {series}"))?;
    }
    open(&unpacked).with_context(|| {
        format!(
            "there is no kernel in {}; remove that folder to fetch it again",
            unpacked.display()
        )
    })
}

/// Finds the two parts in what a package unpacks to.
fn open(unpacked: &Path) -> Option<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|folder| first_in(&unpacked.join(folder), |_| true))?;
    // Since 2025 the kernel lies beside its modules.
    let image = [unpacked.join("boot"), modules.clone()]
        .iter()
        .find_map(|folder| first_in(folder, |name| name.starts_with("vmlinuz")))?;
    Some(Kernel { image, modules })
}

fn first_in(folder: &Path, fits: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| fits(&name.to_string_lossy()))
        })
        .collect();
    paths.sort();
    paths.into_iter().next()
}

fn fetch(series: &str, folder: &Path, unpacked: &Path) -> Result<()> {
    if tools::find("apt-get").is_none() || tools::find("dpkg").is_none() {
        bail!(
            "kernels come as Debian packages, and this machine has no apt: unpack a \
             linux-image-{series}…{FLAVOUR} package into {} (boot/ and lib/modules/)",
            unpacked.display()
        );
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // What apt already knows costs nothing to ask. Its lists may be old, and name
    // packages that the mirror no longer has; then we look with lists of our own.
    let machine = Apt {
        options: Vec::new(),
    };
    if let Some(package) = machine.newest(series)? {
        match machine.unpack(&package, folder, unpacked) {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("test-vm: {error:#}; looking with fresh lists"),
        }
    }
    let mirrors = Mirrors::of_this_machine()?;
    for (suite, security) in SUITES {
        let mirror = if security {
            mirrors.security.as_ref()
        } else {
            Some(&mirrors.main)
        };
        let Some(mirror) = mirror else { continue };
        eprintln!("test-vm: looking for a kernel {series} in {suite}");
        let apt = Apt::private(suite, mirror)?;
        if let Some(package) = apt.newest(series)? {
            return apt.unpack(&package, folder, unpacked);
        }
    }
    bail!("no suite of Debian has linux-image-{series}…{FLAVOUR}; was it meant like `6.12`?")
}

/// Where this machine gets its packages.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
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
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Knows `suite` alone, and keeps everything below the target folder.
    fn private(suite: &str, mirror: &str) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("Debian's keys are missing: please install debian-archive-keyring");
        }
        let folder = run::target().join("vm/apt").join(suite);
        for needed in ["lists/partial", "cache/archives/partial"] {
            let needed = folder.join(needed);
            fs::create_dir_all(&needed)
                .with_context(|| format!("cannot create {}", needed.display()))?;
        }
        let sources = folder.join("sources.list");
        fs::write(
            &sources,
            format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"),
        )
        .with_context(|| format!("cannot write {}", sources.display()))?;
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = vec![
            set("Dir::Etc::SourceList", &sources),
            set("Dir::Etc::SourceParts", Path::new("/dev/null")),
            set("Dir::State::Lists", &folder.join("lists")),
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

    /// The newest kernel package of `series`.
    fn newest(&self, series: &str) -> Result<Option<String>> {
        let mut command = self.command("apt-cache");
        let names = run::output(command.args(["pkgnames", &format!("linux-image-{series}")]))?;
        Ok(newest(names.lines(), series).map(str::to_owned))
    }

    /// Unpacks `package`, and those its files are split over, as `unpacked`.
    fn unpack(&self, package: &str, folder: &Path, unpacked: &Path) -> Result<()> {
        eprintln!("test-vm: fetching {package}");
        let part = folder.join("kernel.part");
        if part.exists() {
            fs::remove_dir_all(&part)
                .with_context(|| format!("cannot remove {}", part.display()))?;
        }
        let tree = part.join("tree");
        fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
        self.download(package, &part)?;
        let main = downloaded(&part)?
            .into_iter()
            .next()
            .context("apt-get fetched nothing")?;
        let needed = run::output(run::command("dpkg-deb").arg("-f").arg(&main).arg("Depends"))?;
        for package in split_off(&needed) {
            self.download(package, &part)?;
        }
        for file in downloaded(&part)? {
            run::output(run::command("dpkg").arg("-x").arg(&file).arg(&tree))?;
        }
        open(&tree).with_context(|| format!("{package} unpacks to no kernel"))?;
        // Only what is whole gets the final name.
        fs::rename(&tree, unpacked)
            .with_context(|| format!("cannot create {}", unpacked.display()))?;
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))
    }

    fn download(&self, package: &str, into: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        run::output(command.args(["-qq", "download", package]).current_dir(into))?;
        Ok(())
    }
}

/// Packages in `folder`.
fn downloaded(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| anyhow!(error));
    let entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    Ok(files)
}

/// Names of the packages in `depends` that hold the parts of a kernel: since 2025
/// image, modules and their lists are packages of their own.
fn split_off(depends: &str) -> Vec<&str> {
    depends
        .split([',', '|'])
        .filter_map(|name| name.split_whitespace().next())
        .filter(|name| {
            ["linux-base-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .collect()
}

/// The newest kernel of `series` among package `names`; one that Debian signed for
/// secure boot goes before one that it did not, being what people run.
fn newest<'a>(names: impl Iterator<Item = &'a str>, series: &str) -> Option<&'a str> {
    names
        .filter_map(|name| {
            let rest = name.strip_prefix("linux-image-")?.strip_prefix(series)?;
            let (rest, signed) = match rest.strip_suffix("-unsigned") {
                Some(rest) => (rest, false),
                None => (rest, true),
            };
            let rest = rest.strip_suffix(FLAVOUR)?;
            // 6.1 is not 6.12; and with nothing left it is a name for "the newest",
            // which has no files.
            if rest.is_empty() || rest.starts_with(|first: char| first.is_ascii_digit()) {
                return None;
            }
            let numbers: Vec<u64> = rest
                .split(|character: char| !character.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            Some((signed, numbers, name))
        })
        .max()
        .map(|(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_kernel_is_chosen() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.1.0-57-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
        ];
        let choose = |series| newest(names.into_iter(), series);
        assert_eq!(choose("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(
            choose("6.12"),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(choose("6.6"), None);
    }

    #[test]
    fn an_unsigned_kernel_is_better_than_none() {
        let names = ["linux-image-7.2.1+deb14-cloud-amd64-unsigned"];
        assert_eq!(newest(names.into_iter(), "7.2"), Some(names[0]));
    }

    #[test]
    fn parts_of_a_split_package_are_found() {
        let depends = "dracut | initramfs-tools (>= 0.120), linux-base (>= 4), \
                       linux-base-7.2-cloud-amd64 (= 1), \
                       linux-binary-7.2-cloud-amd64 (= 1), linux-modules-7.2-cloud-amd64 (= 1)";
        assert_eq!(
            split_off(depends),
            [
                "linux-base-7.2-cloud-amd64",
                "linux-binary-7.2-cloud-amd64",
                "linux-modules-7.2-cloud-amd64"
            ]
        );
    }

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
