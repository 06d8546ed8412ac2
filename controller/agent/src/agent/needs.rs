//! What an agent cannot do without, checked before anything is touched, so that what
//! is missing has a name and not a system call's number.

use anyhow::{Context as _, Result, bail};

/// The oldest kernel that runs the programs.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities by their numbers.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// Checks kernel and privileges.
///
/// # Errors
/// What is missing, and what to do.
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
    let status = std::fs::read_to_string("/proc/thread-self/status")
        .context("cannot read /proc: mount it")?;
    let missing = missing(&status);
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

/// Capabilities that are needed and that a `status` file does not have.
fn missing(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .into_iter()
        .filter(|(_, number)| effective >> number & 1 == 0)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_name() {
        assert_eq!(version("6.1.0-42-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("Linux"), None);
        assert!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing("CapEff:\t000000ffffffefff\n"), ["CAP_NET_ADMIN"]);
        assert_eq!(missing("CapEff:\t0000000000000000\n").len(), 4);
        assert_eq!(missing("").len(), 4);
    }
}
