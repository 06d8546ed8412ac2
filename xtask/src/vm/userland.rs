//! Tools for a machine of another architecture, as Debian's packages have them.
//!
//! A machine of this one's architecture has the tools of this machine. Those of another are
//! fetched with all that they depend on, and unpacked below the target folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt, Mirrors};
use crate::architecture::Architecture;

/// The suite that the tools come from: the first to have them will do.
const SUITE: &str = "bookworm";

/// A shell and tools for the machine's first program, and those that tests start.
const PACKAGES: [&str; 6] = [
    "busybox-static",
    "dash",
    "iproute2",
    "nftables",
    "ipvsadm",
    "wireguard-tools",
];

/// Folders of the packages with programs and libraries; the rest are texts.
pub(super) const FOLDERS: [&str; 6] = ["bin", "sbin", "lib", "usr/bin", "usr/sbin", "usr/lib"];

/// Returns the folder with the tools, which are fetched if they are not there.
pub(super) fn get(architecture: Architecture, folder: &Path) -> Result<PathBuf> {
    let tools = folder.join(format!("tools-{}", architecture.debian()));
    if !tools.is_dir() {
        fetch(architecture, &tools).with_context(|| {
            format!(
                "cannot fetch the tools of a machine with {}",
                architecture.rust()
            )
        })?;
    }
    Ok(tools)
}

fn fetch(architecture: Architecture, tools: &Path) -> Result<()> {
    if !apt::is_here() {
        bail!(
            "tools come as Debian packages, and this machine has no apt: unpack {} for {} \
             into {}",
            PACKAGES.join(", "),
            architecture.debian(),
            tools.display()
        );
    }
    eprintln!("test-vm: fetching {}", PACKAGES.join(", "));
    let apt = Apt::private(SUITE, &Mirrors::of_this_machine()?.main, architecture)?;
    apt::unpack(
        tools,
        |part| apt.download_all(&PACKAGES, part),
        |tree| tree.join("bin/busybox").is_file(),
    )
}
