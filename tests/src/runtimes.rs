//! Real container runtimes in a node's network namespace, with everything in a folder.
//!
//! Nothing is fetched: containers run a shell that is linked statically. Servers and clients
//! do not run in the containers; they enter a container's network namespace from outside.

mod containerd;
#[cfg(feature = "cri")]
pub mod cri;
#[cfg(feature = "cri")]
mod image;
mod podman;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

pub use containerd::Daemon;
pub use podman::{Backend, Podman};

use crate::cni::{Attaching, Network, standard_plugins};
use crate::scratch::Scratch;
use crate::world::Namespace;

/// Longest time that a runtime may take for anything, on a machine that does other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Name of the interface that runtimes give to a container.
const INTERFACE: &str = "eth0";

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/lib/podman", "/usr/libexec/podman"].map(PathBuf::from));
    let mut paths = folders.into_iter().map(|folder| folder.join(program));
    paths.find(|path| path.is_file())
}

/// Probes for programs, and says which are missing.
///
/// # Errors
/// When one is missing.
pub fn programs(needed: &[&str]) -> Result<(), String> {
    let missing: Vec<&str> = (needed.iter().copied())
        .filter(|program| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("missing: {}", missing.join(", ")))
}

/// A folder with plugins, a root for containers, and networks.
#[derive(Debug)]
pub struct Ground {
    scratch: Scratch,
}

impl Ground {
    /// Fills an empty folder, with this `cofferdam-cni` beside the standard plugins.
    ///
    /// # Panics
    ///
    /// Panics if a file cannot be made, or there are no standard plugins.
    pub fn new(scratch: Scratch, plugin: &Path) -> Self {
        let ground = Self { scratch };
        let bin = ground.folder("bin");
        let standard = standard_plugins().expect("they are there");
        for entry in fs::read_dir(&standard).expect("a folder").flatten() {
            symlink(entry.path(), bin.join(entry.file_name())).expect("a link");
        }
        symlink(plugin, bin.join("cofferdam-cni")).expect("a link");
        let programs = ground.folder("rootfs/bin");
        let busybox = find("busybox").expect("it is there");
        fs::copy(busybox, programs.join("busybox")).expect("a copy");
        for name in ["nc", "sh", "sleep", "true"] {
            symlink("busybox", programs.join(name)).expect("a link");
        }
        ground
    }

    /// Returns the path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Makes a folder in it, unless it is there.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be made.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// Writes a network into a folder of its own.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn network(&self, network: &Network) -> PathBuf {
        let folder = self.folder(&format!("net.d-{}", network.name));
        fs::write(folder.join("10-n.conflist"), network.conflist()).expect("a file");
        folder
    }

    /// Writes an archive of an image of this name whose root is a folder.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    #[cfg(feature = "cri")]
    pub fn image(&self, root: &Path, name: &str, entrypoint: &[&str]) -> PathBuf {
        let folder = self.folder(&format!("image-{}", name.replace(['/', ':'], "-")));
        image::archive(root, name, entrypoint, &folder)
    }

    /// Returns the socket of containerd.
    pub fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }
}

/// Returns a command in a network namespace. `ip netns exec` would mount another `/sys`, in
/// which there are no control groups. A terminal's interrupt does not reach it: its work is
/// not left half done, and a daemon is there until its containers are removed.
pub fn within(namespace: &Namespace, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.path().display()))
        .arg(program)
        .process_group(0);
    command
}

/// Returns the attachment of a container that a runtime has started, by its process.
///
/// Addresses are those on its interface, once the kernel has found nobody else to have them.
///
/// # Panics
///
/// Panics if the process is gone, or has no such interface.
pub fn attached(container_id: &str, pid: u32) -> Attaching {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = Namespace::open(Path::new(&path)).expect("a namespace");
    let deadline = Instant::now() + PATIENCE;
    let result = loop {
        let mut show = within(&namespace, "ip");
        show.args(["-json", "address", "show", "dev", INTERFACE]);
        let output = show.output().expect("it can be run");
        assert!(output.status.success(), "{show:?}: {output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        if let Some(result) = wired(&shown[0]) {
            break result;
        }
        assert!(Instant::now() < deadline, "{shown}");
        std::thread::yield_now();
    };
    Attaching {
        container_id: container_id.to_owned(),
        namespace,
        interface: INTERFACE.to_owned(),
        args: String::new(),
        capabilities: Map::new(),
        result,
    }
}

/// Writes an interface with addresses as a plugin would; `None` while one is tentative.
fn wired(interface: &Value) -> Option<Value> {
    let all = interface["addr_info"].as_array()?;
    if all.iter().any(|one| one["tentative"] == true) {
        return None;
    }
    let global = all.iter().filter(|one| one["scope"] == "global");
    let ips: Option<Vec<Value>> = global
        .map(|one| {
            let ip: IpAddr = one["local"].as_str()?.parse().ok()?;
            Some(json!({"address": format!("{ip}/{}", one["prefixlen"])}))
        })
        .collect();
    let link = json!({"name": INTERFACE, "mac": interface["address"]});
    Some(json!({"interfaces": [link], "ips": ips?}))
}
