//! An agent that runs out of descriptors, threads or memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Stand;
use super::churn::wired;
use super::watch::{self, Seen};
use crate::agent::Agent;
use crate::cni::Attaching;
use crate::skip::Feature;

/// Most endpoints that are tried until one finds no room.
const MOST: u64 = 24;
/// Descriptors beyond those in use.
const DESCRIPTORS: usize = 16;
/// Bytes beyond what the agent has: less than the flow tables of [`MOST`] endpoints take.
const BYTES: u64 = 8 << 20;

/// Something there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Descriptors, by a resource limit.
    Descriptors,
    /// Threads, by a control group.
    Threads,
    /// Memory of the agent and of the kernel's maps, by a control group.
    Memory,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Descriptors, Self::Threads, Self::Memory];
}

/// Control groups that limit threads and memory.
pub const GROUPS: Feature = Feature::Other("control-groups", || {
    for controller in ["pids", "memory"] {
        Group::new(controller).map_err(|error| format!("{controller}: {error}"))?;
    }
    Ok(())
});

/// Outcome of a limit.
#[derive(Clone, Debug)]
pub struct Starved {
    /// Endpoints that were added under the limit.
    pub added: usize,
    /// Reason for which the next one was refused.
    pub refused: Option<String>,
    /// `true` if the agent had ended.
    pub ended: bool,
    /// Counts of the traffic.
    pub seen: Seen,
}

/// A control group of one controller, of either version of the kernel's interface.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// Group that its processes go to when it ends.
    parent: PathBuf,
    controller: &'static str,
}

impl Group {
    fn new(controller: &'static str) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = Path::new("/sys/fs/cgroup");
        let alone = root.join(controller);
        let parent = match alone.join("cgroup.procs").exists() {
            true => alone,
            false => {
                fs::write(
                    root.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                )?;
                root.to_owned()
            }
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cofferdam-test-{}-{count}", std::process::id());
        let path = parent.join(name);
        fs::create_dir(&path)?;
        Ok(Self {
            path,
            parent,
            controller,
        })
    }

    /// Takes a process in, with a limit on what it has from now on.
    fn hold(&self, pid: u32, limit: u64) -> io::Result<()> {
        let files = match self.controller {
            "memory" => ["memory.max", "memory.limit_in_bytes"],
            _ => ["pids.max"; 2],
        };
        let there = files.iter().find(|file| self.path.join(file).exists());
        let file = there.ok_or(io::ErrorKind::NotFound)?;
        fs::write(self.path.join("cgroup.procs"), pid.to_string())?;
        fs::write(self.path.join(file), limit.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let held = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for process in held.lines() {
            // It may have ended.
            _ = fs::write(self.parent.join("cgroup.procs"), process);
        }
        _ = fs::remove_dir(&self.path);
    }
}

/// Adds endpoints to an agent that has hardly anything left of something, until one is
/// refused, and lets an agent without the limit follow. That one must have all endpoints that
/// were added, and take in the one that was refused.
///
/// # Panics
///
/// Panics if no endpoint was refused, or the next agent does not have what it should.
pub fn starve(stand: &mut Stand, limit: Limit) -> Starved {
    let Stand { agent, world, .. } = stand;
    let node = &world.node().namespace;
    let (seen, mut starved) = watch::during(world, |_| {
        let held = impose(agent, limit);
        let mut added: Vec<Attaching> = Vec::new();
        let mut refused = None;
        while refused.is_none() && (added.len() as u64) < MOST {
            let one = wired(node, added.len() as u64);
            match add(agent, &one) {
                Ok(()) => added.push(one),
                Err(reason) => refused = Some((one, reason)),
            }
        }
        let (one, reason) = refused.unwrap_or_else(|| panic!("{limit:?}: room for all"));
        // It may answer nobody, and live.
        let ended = match limit {
            Limit::Memory => !agent.answers(),
            Limit::Descriptors | Limit::Threads => false,
        };
        match ended {
            true => _ = agent.ended(),
            false => agent.kill(),
        }
        drop(held);
        let status = agent.start_enforced();
        for one in &added {
            let id = one.container_id.split('-').next().expect("a name");
            let id = format!("shop/{id}/eth0");
            let is_there = status.endpoints.iter().any(|other| other.called() == id);
            assert!(is_there, "{limit:?}: {id} in {status:?}");
        }
        add(agent, &one).unwrap_or_else(|error| panic!("{limit:?}: {error}"));
        Starved {
            added: added.len(),
            refused: Some(reason),
            ended,
            seen: Seen::default(),
        }
    });
    starved.seen = seen;
    agent.wait_until("all forgotten", |status| status.endpoints.len() == 2);
    starved
}

/// Imposes a limit. What is returned goes with it.
fn impose(agent: &Agent, limit: Limit) -> Option<Group> {
    let pid = agent.pid();
    let entries = |of: &str| {
        let entries = fs::read_dir(format!("/proc/{pid}/{of}"));
        entries.expect("the agent runs").count()
    };
    let group = |controller, most| {
        let group = Group::new(controller).expect("a control group");
        group.hold(pid, most).expect("a limit");
        Some(group)
    };
    match limit {
        Limit::Descriptors => {
            let most = entries("fd") + DESCRIPTORS;
            let status = Command::new("prlimit")
                .args([
                    "--pid",
                    &pid.to_string(),
                    &format!("--nofile={most}:{most}"),
                ])
                .status();
            assert!(status.expect("prlimit is there").success());
            None
        }
        Limit::Threads => group("pids", entries("task") as u64),
        Limit::Memory => group("memory", BYTES),
    }
}

/// Adds an endpoint for a container; an error has what the command said.
fn add(agent: &Agent, one: &Attaching) -> Result<(), String> {
    let path = one.namespace.path();
    let netns = path.to_str().expect("a path of digits");
    let name = one.container_id.split('-').next().expect("a name");
    let mut arguments = vec!["endpoint", "add", "--netns", netns, "--ifname", "eth0"];
    arguments.extend(["--namespace", "shop", "--name", name, "--timeout", "5s"]);
    for ip in one.result["ips"].as_array().expect("addresses") {
        let address = ip["address"].as_str().and_then(|ip| ip.split('/').next());
        arguments.extend(["--address", address.expect("an address")]);
    }
    let output = agent.cli(&arguments);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
