//! Everything that a real container runtime needs, in a folder of the test.
//!
//! Nothing is fetched: containers run a shell that is linked statically.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cofferdam_protocol::output::EndpointReport;
use cofferdam_tests::cni::{Attaching, Network, standard_plugins};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::world::Namespace;
use serde_json::json;

use super::scene::{Container, Scene, plugin};

/// Longest time that a runtime may take for anything, on a machine that does other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/lib/podman"].map(PathBuf::from));
    let mut paths = folders.into_iter().map(|folder| folder.join(program));
    paths.find(|path| path.is_file())
}

/// Probes for programs, and says which are missing.
pub(crate) fn programs(needed: &[&str]) -> Result<(), String> {
    let missing: Vec<&str> = (needed.iter().copied())
        .filter(|program| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("missing: {}", missing.join(", ")))
}

/// A folder with plugins, a root for containers, and networks.
pub(crate) struct Ground {
    scratch: Scratch,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let ground = Self {
            scratch: Scratch::new(),
        };
        let bin = ground.folder("bin");
        let standard = standard_plugins().expect("they are there");
        for entry in fs::read_dir(&standard).expect("a folder").flatten() {
            symlink(entry.path(), bin.join(entry.file_name())).expect("a link");
        }
        symlink(plugin(), bin.join("cofferdam-cni")).expect("a link");
        let programs = ground.folder("rootfs/bin");
        let busybox = find("busybox").expect("it is there");
        fs::copy(busybox, programs.join("busybox")).expect("a copy");
        for name in ["nc", "sh", "sleep", "true"] {
            symlink("busybox", programs.join(name)).expect("a link");
        }
        ground
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// Writes a network into a folder of its own.
    pub(crate) fn network(&self, network: &Network) -> PathBuf {
        let folder = self.folder(&format!("net.d-{}", network.name));
        fs::write(folder.join("10-n.conflist"), network.conflist()).expect("a file");
        folder
    }

    /// Socket of containerd.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }
}

/// containerd in the node's network namespace, with everything in a folder.
pub(crate) struct Daemon {
    pub(crate) ground: Ground,
    process: Child,
}

impl Daemon {
    /// Starts it, with this text in its configuration before the other sections.
    pub(crate) fn start(scene: &Scene, ground: Ground, settings: &str) -> Self {
        let path = |name: &str| ground.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{settings}\
             [grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            path("root"),
            path("state"),
            ground.socket(),
            path("opt"),
        );
        fs::write(ground.path("config.toml"), config).expect("a file");
        let log = File::create(ground.path("log")).expect("a file");
        let process = in_node(scene, "setpriv")
            .args(["--pdeathsig", "KILL", "containerd", "--config"])
            .arg(ground.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let daemon = Self {
            process: process.expect("it can be started"),
            ground,
        };
        let deadline = Instant::now() + PATIENCE;
        while !daemon.ctr(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "no answer: {}", daemon.log());
            std::thread::yield_now();
        }
        daemon
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> Output {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.ground.socket());
        ctr.args(arguments).output().expect("it can be run")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.ground.path("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its shims have gone with their containers.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A container that a runtime has started, by its process.
pub(crate) fn running(scene: &Scene, report: &EndpointReport, pid: u32) -> Container {
    let path = format!("/proc/{pid}/ns/net");
    let ips = report.addresses.iter();
    let ips: Vec<_> = ips
        .map(|ip| json!({"address": format!("{ip}/32")}))
        .collect();
    let attaching = Attaching {
        container_id: report.called().to_owned(),
        namespace: Namespace::open(Path::new(&path)).expect("a namespace"),
        interface: "eth0".to_owned(),
        args: String::new(),
        capabilities: serde_json::Map::new(),
        result: json!({"interfaces": [{"name": "eth0", "mac": report.mac}], "ips": ips}),
    };
    assert_eq!(report.state.as_str(), "enforced", "{}", scene.agent.log());
    Container::serving(attaching)
}

/// Command in the node's network namespace. `ip netns exec` would mount another `/sys`, in
/// which there are no control groups.
pub(crate) fn in_node(scene: &Scene, program: &str) -> Command {
    let node = scene.world.node().namespace.path();
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", node.display()))
        .arg(program);
    command
}
