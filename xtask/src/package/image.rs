//! The container image: the binaries on an empty file system.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result};

use super::oci::Image;
use crate::{architecture::Target, outcome::Failed, run};

/// Name of the image where nobody has given it another: of a registry that cannot exist
/// (RFC 2606), as in `deploy/`.
const NAME: &str = "registry.example/cofferdam";
/// Files beside the binaries, and their places.
const BESIDE: [(&str, &str); 2] = [
    ("LICENSE", "LICENSE"),
    ("dataplane/ebpf/LICENSE-GPL-2.0", "LICENSE-GPL-2.0"),
];
/// Folders that containers mount something on.
const MOUNTED: [&str; 6] = [
    "etc/cofferdam",
    "etc/cni/net.d",
    "opt/cni/bin",
    "run/cofferdam",
    "run/netns",
    "var/lib/cofferdam",
];

/// Makes an image of binaries, and tries it if it is for this machine. Returns the name of
/// its file in `dist`.
pub(super) fn make(
    version: &str,
    target: &Target,
    binaries: &Path,
    dist: &Path,
    time: u64,
) -> Result<String> {
    let architecture = target.architecture.debian();
    let folder = run::target().join("package/image").join(architecture);
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot empty the folder of the image")?;
    }
    let root = folder.join("root");
    fill(&root, binaries).context("cannot make the root of the image")?;
    let file = format!("cofferdam-{version}-{architecture}.oci.tar");
    let archive = dist.join(&file);
    let image = Image {
        root: &root,
        name: &format!("{NAME}:{version}"),
        entrypoint: &["/usr/bin/cofferdam"],
        // Go has Debian's names of both.
        architecture,
        labels: &[
            ("org.opencontainers.image.title", "cofferdam"),
            ("org.opencontainers.image.version", version),
            ("org.opencontainers.image.licenses", "Apache-2.0"),
        ],
        time,
        is_compressed: true,
    };
    image
        .write(&folder, &archive)
        .context("cannot make the image")?;
    if target.architecture.is_here() {
        println!("== trying the image");
        let mut test = run::cargo();
        test.args([
            "test",
            "--locked",
            "--package",
            "cofferdam-tests",
            "--test",
            "deploy",
        ])
        .args([
            "--",
            "--exact",
            "cluster::a_node_is_protected_and_given_back",
        ])
        .env("COFFERDAM_IMAGE", &archive);
        let status = run::status(&mut test)?;
        if !status.success() {
            return Err(Failed::program("cargo test", status));
        }
    }
    Ok(file)
}

fn fill(root: &Path, binaries: &Path) -> Result<()> {
    for folder in MOUNTED
        .iter()
        .chain(&["usr/bin", "tmp", "usr/share/doc/cofferdam"])
    {
        fs::create_dir_all(root.join(folder))?;
    }
    // Runtimes name network namespaces by either path.
    symlink("../run", root.join("var/run"))?;
    for binary in fs::read_dir(binaries)? {
        let binary = binary?;
        fs::copy(binary.path(), root.join("usr/bin").join(binary.file_name()))?;
    }
    for (from, to) in BESIDE {
        fs::copy(
            run::root().join(from),
            root.join("usr/share/doc/cofferdam").join(to),
        )?;
    }
    Ok(())
}
