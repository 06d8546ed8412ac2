//! Finds programs on this machine.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Folders of administration tools, which an ordinary user's PATH often lacks.
const ADMINISTRATION: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The first executable called `name` in PATH or among the administration tools.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMINISTRATION.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Returns `true` if this process may install packages and mount file systems.
pub(crate) fn is_root() -> bool {
    // Real, effective, saved and file-system user id, in this order.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            == Some("0")
    })
}

/// Returns `true` if a file system of type `kind` is mounted at `point`.
pub(crate) fn is_mounted(kind: &str, point: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts")
        .is_ok_and(|mounts| mounts_have(&mounts, kind, point))
}

fn mounts_have(mounts: &str, kind: &str, point: &Path) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next().map(Path::new) == Some(point) && fields.next() == Some(kind)
    })
}

/// First two numbers of a kernel release: `6.1` of `6.1.0-56-cloud-amd64`.
pub(crate) fn series(release: &str) -> String {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(second)) if !first.is_empty() && !second.is_empty() => {
            format!("{first}.{second}")
        }
        _ => release.to_owned(),
    }
}

/// The release of the running kernel.
pub(crate) fn running_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "unknown".to_owned(),
        |release| release.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_is_two_numbers() {
        assert_eq!(series("6.1.0-56-cloud-amd64"), "6.1");
        assert_eq!(series("6.12.117+deb12-cloud-amd64"), "6.12");
        assert_eq!(series("7.2-rc1"), "7.2");
        assert_eq!(series("unknown"), "unknown");
    }

    #[test]
    fn a_mount_is_told_from_a_folder() {
        let mounts = "bpf /sys/fs/bpf bpf rw 0 0\nproc /proc proc rw 0 0\n";
        assert!(mounts_have(mounts, "bpf", Path::new("/sys/fs/bpf")));
        assert!(!mounts_have(mounts, "bpf", Path::new("/proc")));
        assert!(!mounts_have(mounts, "tmpfs", Path::new("/sys/fs/bpf")));
    }
}
