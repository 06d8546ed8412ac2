//! The header that all results share, and where they go.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
use cofferdam_tests::machine;
use serde::Serialize;

/// All results of one run.
#[derive(Serialize)]
struct Report<'r, R> {
    schema: &'static str,
    machine: String,
    kernel: String,
    commit: String,
    seed: u64,
    results: &'r [R],
}

/// Writes results as JSON to a file, if one is named.
pub(crate) fn write<R: Serialize>(results: &[R], json: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = json else { return Ok(()) };
    let report = Report {
        schema: "cofferdam/v1",
        machine: machine::processors(),
        kernel: machine::kernel(),
        commit: commit(),
        seed: 1,
        results,
    };
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// A figure of a process's memory, in KiB: a line of its `status` in `/proc`.
pub(crate) fn memory_kib(process: &str, figure: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(Path::new("/proc").join(process).join("status"))?;
    let number = status.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == figure).then(|| value.split_whitespace().next())?
    });
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("the kernel does not tell {figure}"))
}
