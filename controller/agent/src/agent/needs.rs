//! Needs of an agent: a kernel of some version, and capabilities. They are checked before
//! the agent changes anything, so that an error names the need and not a system call's
//! number.

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, CapsHashSet};

use super::privileges::NEEDED;

/// The oldest kernel that runs the programs.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Checks kernel and privileges.
///
/// # Errors
/// Names the need that is missing, and a remedy.
pub(super) fn check() -> Result<()> {
    let name = nix::sys::utsname::uname().context("cannot ask the kernel for its name")?;
    let release = name.release().to_string_lossy();
    if version(&release).is_some_and(|version| version < OLDEST_KERNEL) {
        bail!(
            "Linux {release} is too old: {}.{} or later is needed",
            OLDEST_KERNEL.0,
            OLDEST_KERNEL.1
        );
    }
    let effective = caps::read(None, CapSet::Effective).context("cannot read own capabilities")?;
    let missing = missing(&effective);
    if !missing.is_empty() {
        bail!(
            "the agent lacks {}: run it as root, or give it {}",
            missing.join(", "),
            if missing.len() == 1 {
                "that capability"
            } else {
                "those capabilities"
            }
        );
    }
    Ok(())
}

/// Major and minor number of a release, `6.1.0-42-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Names of capabilities that are needed and are not among these.
fn missing(effective: &CapsHashSet) -> Vec<String> {
    let missing = NEEDED.iter().filter(|needed| !effective.contains(needed));
    missing.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use caps::Capability;

    use super::*;

    #[test]
    fn what_is_missing_has_a_name() {
        assert_eq!(version("6.1.0-42-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("Linux"), None);
        let mut had: CapsHashSet = NEEDED.into_iter().collect();
        assert!(missing(&had).is_empty());
        had.remove(&Capability::CAP_NET_ADMIN);
        assert_eq!(missing(&had), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(&CapsHashSet::new()).len(), NEEDED.len());
    }
}
