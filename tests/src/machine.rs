//! Machine on which a figure or a finding was got.

use std::fs;

/// The processor, and how many of them.
pub fn processors() -> String {
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!(
        "{count} x {}",
        model.map_or("unknown processor", |(_, name)| name)
    )
}

/// Returns `true` on a processor that QEMU emulates, not only lends.
pub fn is_emulated() -> bool {
    processors().contains("QEMU TCG")
}

/// The kernel's release.
pub fn kernel() -> String {
    read("/proc/sys/kernel/osrelease")
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}
