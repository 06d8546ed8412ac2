//! Fetches a Debian kernel, without installing it.
//!
//! A fetched kernel stays as it is: `cargo xtask test-vm` gives the same answer
//! tomorrow. Removing its folder fetches the newest of its series.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt, Mirrors};
use crate::{architecture::Architecture, run};

/// Kernels without drivers for real hardware: a tenth of the size, and everything
/// about networking and BPF is in.
const FLAVOUR: &str = "-cloud-";

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
pub(crate) fn get(series: &str, architecture: Architecture, folder: &Path) -> Result<Kernel> {
    let unpacked = folder.join("kernel");
    if !unpacked.is_dir() {
        fetch(series, architecture, folder, &unpacked)
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

fn fetch(series: &str, architecture: Architecture, folder: &Path, unpacked: &Path) -> Result<()> {
    let flavour = flavour(architecture);
    if !apt::is_here() {
        bail!(
            "kernels come as Debian packages, and this machine has no apt: unpack a \
             linux-image-{series}…{flavour} package into {} (boot/ and lib/modules/)",
            unpacked.display()
        );
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // What apt already knows costs nothing to ask. Its lists may be old, and name
    // packages that the mirror no longer has; then we look with lists of our own.
    if architecture.is_here() {
        let machine = Apt::of_this_machine();
        if let Some(package) = newest_known(&machine, series, &flavour)? {
            match unpack(&machine, &package, unpacked) {
                Ok(()) => return Ok(()),
                Err(error) => eprintln!("test-vm: {error:#}; looking with fresh lists"),
            }
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
        let apt = Apt::private(suite, mirror, architecture)?;
        if let Some(package) = newest_known(&apt, series, &flavour)? {
            return unpack(&apt, &package, unpacked);
        }
    }
    bail!("no suite of Debian has linux-image-{series}…{flavour}; was it meant like `6.12`?")
}

/// Ending of a kernel package's name.
fn flavour(architecture: Architecture) -> String {
    format!("{FLAVOUR}{}", architecture.debian())
}

/// The newest kernel package of `series` that apt knows.
fn newest_known(apt: &Apt, series: &str, flavour: &str) -> Result<Option<String>> {
    let names = apt.names(&format!("linux-image-{series}"))?;
    Ok(newest(names.lines(), series, flavour).map(str::to_owned))
}

/// Unpacks `package`, and those its files are split over, as `unpacked`.
fn unpack(apt: &Apt, package: &str, unpacked: &Path) -> Result<()> {
    eprintln!("test-vm: fetching {package}");
    let fetch = |part: &Path| {
        apt.download(package, part)?;
        let main = apt::downloaded(part)?
            .into_iter()
            .next()
            .context("apt-get fetched nothing")?;
        let needed = run::output(run::command("dpkg-deb").arg("-f").arg(&main).arg("Depends"))?;
        split_off(&needed)
            .into_iter()
            .try_for_each(|package| apt.download(package, part))
    };
    apt::unpack(unpacked, fetch, |tree| open(tree).is_some())
        .with_context(|| format!("cannot unpack {package}"))
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
fn newest<'a>(
    names: impl Iterator<Item = &'a str>,
    series: &str,
    flavour: &str,
) -> Option<&'a str> {
    names
        .filter_map(|name| {
            let rest = name.strip_prefix("linux-image-")?.strip_prefix(series)?;
            let (rest, signed) = match rest.strip_suffix("-unsigned") {
                Some(rest) => (rest, false),
                None => (rest, true),
            };
            let rest = rest.strip_suffix(flavour)?;
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
        let choose = |series| newest(names.into_iter(), series, "-cloud-amd64");
        assert_eq!(choose("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(
            choose("6.12"),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(choose("6.6"), None);
    }

    #[test]
    fn each_architecture_has_kernels_of_its_own() {
        let names = [
            "linux-image-6.12.1+deb13-cloud-amd64",
            "linux-image-6.12.1+deb13-cloud-arm64",
        ];
        let choose = |architecture| newest(names.into_iter(), "6.12", &flavour(architecture));
        assert_eq!(Architecture::ALL.map(choose), names.map(Some));
    }

    #[test]
    fn an_unsigned_kernel_is_better_than_none() {
        let names = ["linux-image-7.2.1+deb14-cloud-amd64-unsigned"];
        assert_eq!(
            newest(names.into_iter(), "7.2", "-cloud-amd64"),
            Some(names[0])
        );
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
}
