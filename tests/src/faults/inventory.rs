//! Inventory of an agent's kernel objects: the same before and after, or something has leaked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::agent::Agent;

/// Objects of the kernel that an agent holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Its endpoints, those that are leaving and those without a name among them.
    pub endpoints: Vec<String>,
    /// Used entries of each table.
    pub tables: Vec<(String, u64)>,
    /// Bytes of the kernel's maps.
    pub map_bytes: u64,
    /// Kinds of BPF objects that it has descriptors of, with the number of different ones.
    pub objects: Vec<(&'static str, usize)>,
    /// Its descriptors.
    pub descriptors: usize,
    /// Its threads.
    pub threads: usize,
    /// Files and directories among its pins.
    pub pins: BTreeSet<String>,
    /// Files in its run directory, notes about removals among them.
    pub run: BTreeSet<String>,
}

impl Inventory {
    /// Takes stock of an agent that runs.
    ///
    /// # Panics
    ///
    /// Panics if it has ended.
    pub fn of(agent: &Agent) -> Self {
        let status = agent.status();
        let mut endpoints: Vec<String> = (status.endpoints.iter())
            .map(|one| one.called().to_owned())
            .collect();
        endpoints.sort();
        let process = format!("/proc/{}", agent.pid());
        let kinds = ["map_id:", "prog_id:", "link_id:"];
        let mut ids = kinds.map(|_| BTreeSet::new());
        let descriptors = names(&format!("{process}/fdinfo"));
        for descriptor in &descriptors {
            // One may have been closed meanwhile.
            let text = fs::read_to_string(format!("{process}/fdinfo/{descriptor}"));
            for line in text.unwrap_or_default().lines() {
                for (kind, ids) in kinds.iter().zip(&mut ids) {
                    // The program of a link stands there as well.
                    ids.extend(line.strip_prefix(kind).map(|id| id.trim().to_owned()));
                }
            }
        }
        let objects = kinds.into_iter().zip(ids.map(|ids| ids.len()));
        let (mut pins, mut run) = (BTreeSet::new(), BTreeSet::new());
        walk(&agent.pins(), "", &mut pins);
        walk(&agent.path("run"), "", &mut run);
        Self {
            endpoints,
            tables: (status.capacity.into_iter())
                .map(|table| (table.table, table.used))
                .collect(),
            map_bytes: status.memory_bytes,
            objects: objects.collect(),
            descriptors: descriptors.len(),
            threads: names(&format!("{process}/task")).len(),
            pins,
            run,
        }
    }
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the agent runs");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn walk(directory: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{name}/"), found);
        }
        found.insert(name);
    }
}
