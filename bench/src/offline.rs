//! The commands that read documents alone, on documents of a large cluster: time of each
//! whole command, and the most memory that one of them needs.
//!
//! Two sets of documents are written: one document in each of 40 000 files, in folders of a
//! hundred; and a cluster of 100 000 pods and 10 000 policies, two files for each namespace,
//! once as it is and once with one policy more.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use cofferdam_tests::{
    cluster::{Cluster, Size},
    scratch::Scratch,
};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use crate::agent::beside_this;

const PODS_PER_NODE: usize = 250;
/// Files in a folder of the set that has a document in each.
const FILES_PER_FOLDER: usize = 100;

/// The number of documents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Files of one document each.
    pub(crate) files: usize,
    /// Pods of the cluster; it has a tenth as many policies.
    pub(crate) pods: usize,
    /// Services of the cluster.
    pub(crate) services: usize,
    /// Runs of each command.
    pub(crate) samples: usize,
}

/// A figure.
#[derive(Debug, Serialize)]
pub(crate) struct OfflineResult {
    figure: &'static str,
    unit: &'static str,
    median: f64,
    max: f64,
    samples: usize,
    files: usize,
    pods: usize,
    policies: usize,
    services: usize,
}

/// Runs the commands of the program that lies beside this one, or of another.
pub(crate) fn run(plan: Plan, program: Option<&Path>) -> anyhow::Result<Vec<OfflineResult>> {
    let program = match program {
        Some(program) => program.to_owned(),
        None => beside_this("cofferdam")?,
    };
    let scratch = Scratch::new();
    let folder = |name: &str| -> anyhow::Result<PathBuf> {
        let path = scratch.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    let (single, old, new) = (folder("single")?, folder("old")?, folder("new")?);
    write_single(&single, plan.files)?;
    let size = Size {
        pods: plan.pods,
        policies: plan.pods / 10,
        pods_per_node: PODS_PER_NODE,
    };
    let cluster = Cluster::new(size, 1).with_services(plan.services);
    for file in cluster.files() {
        fs::write(old.join(&file.name), &file.text)?;
        fs::write(new.join(&file.name), &file.text)?;
    }
    fs::write(new.join("one-more.yaml"), cluster.one_more_policy(0))?;

    let commands: [(&'static str, Vec<&str>); 3] = [
        ("check_files", vec!["check", text(&single)?]),
        ("check_cluster", vec!["check", text(&old)?]),
        (
            "diff_of_one_policy",
            vec!["diff", text(&old)?, "--to", text(&new)?],
        ),
    ];
    let mut results = Vec::new();
    for (figure, arguments) in commands {
        let is_of_files = figure == "check_files";
        let mut took = Vec::with_capacity(plan.samples);
        for _ in 0..plan.samples {
            let began = Instant::now();
            let status = Command::new(&program)
                .args(&arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .with_context(|| format!("cannot run {}", program.display()))?;
            took.push(began.elapsed().as_secs_f64());
            // Findings are no failure here.
            ensure!(status.code().is_some_and(|code| code < 2), "{arguments:?}");
        }
        results.push(result(figure, "seconds", took, plan, is_of_files));
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("the kernel tells no usage")?;
    let peak = f64::from(u32::try_from(usage.max_rss()).unwrap_or(u32::MAX)) / 1024.0;
    results.push(result("memory_peak", "MiB", vec![peak], plan, false));
    Ok(results)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not text")
}

fn result(
    figure: &'static str,
    unit: &'static str,
    mut samples: Vec<f64>,
    plan: Plan,
    is_of_files: bool,
) -> OfflineResult {
    samples.sort_by(f64::total_cmp);
    let (median, max) = (samples[samples.len() / 2], samples[samples.len() - 1]);
    println!("{figure:20} {median:10.2} {unit} (most {max:.2})");
    let of_cluster = |number: usize| if is_of_files { 0 } else { number };
    OfflineResult {
        figure,
        unit,
        median,
        max,
        samples: samples.len(),
        files: if is_of_files { plan.files } else { 0 },
        pods: of_cluster(plan.pods),
        policies: of_cluster(plan.pods / 10),
        services: of_cluster(plan.services),
    }
}

/// Documents of a cluster, a tenth of them policies, each in a file of its own.
fn write_single(folder: &Path, files: usize) -> anyhow::Result<()> {
    let size = Size {
        pods: files,
        policies: files / 10,
        pods_per_node: PODS_PER_NODE,
    };
    let mut written = 0;
    let all = Cluster::new(size, 2).files();
    let policies = all.iter().filter(|file| file.name.contains("policies"));
    let others = all.iter().filter(|file| !file.name.contains("policies"));
    for file in policies.chain(others) {
        let documents = file
            .text
            .split("\n---\n")
            .filter(|one| !one.trim().is_empty());
        for document in documents {
            if written == files {
                return Ok(());
            }
            let folder = folder.join(format!("folder-{}", written / FILES_PER_FOLDER));
            if written % FILES_PER_FOLDER == 0 {
                fs::create_dir(&folder)?;
            }
            fs::write(folder.join(format!("{written}.yaml")), document)?;
            written += 1;
        }
    }
    Ok(())
}
