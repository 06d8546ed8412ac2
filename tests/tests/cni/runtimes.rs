//! The plugin under real runtimes: containerd by `ctr`, and podman's CNI backend.
//!
//! Their configuration lies in a folder of the test; where a path is built in, it is
//! mounted there in a mount namespace of the command's own. Nothing is fetched: containers
//! run a shell that is linked statically.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cofferdam_controller::output::EndpointReport;
use cofferdam_tests::cni::{Attaching, Network, ptp, standard_plugins};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Namespace;
use serde_json::json;

use super::scene::{Container, DB_FROM_WEB, PLUGINS, Scene, plugin};

const CONTAINERD: Feature = Feature::Other("containerd", || {
    programs(&["containerd", "ctr", "runc", "busybox", "setpriv", "unshare"])
});
const PODMAN: Feature = Feature::Other("podman", || {
    programs(&["podman", "runc", "busybox", "conmon"])
});

/// Longest time that a runtime may take for anything, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Folders in which `ctr` and its library look, whatever they are told.
const BUILT_IN: [&str; 3] = ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni"];

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/lib/podman"].map(PathBuf::from));
    let mut paths = folders.into_iter().map(|folder| folder.join(program));
    paths.find(|path| path.is_file())
}

fn programs(needed: &[&str]) -> Result<(), String> {
    let missing: Vec<&str> = (needed.iter().copied())
        .filter(|program| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("missing: {}", missing.join(", ")))
}

/// A folder with plugins, a root for containers, and networks.
struct Ground {
    scratch: Scratch,
}

impl Ground {
    fn new() -> Self {
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
        for name in ["sh", "sleep"] {
            symlink("busybox", programs.join(name)).expect("a link");
        }
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// Writes a network into a folder of its own.
    fn network(&self, network: &Network) -> PathBuf {
        let folder = self.folder(&format!("net.d-{}", network.name));
        fs::write(folder.join("10-n.conflist"), network.conflist()).expect("a file");
        folder
    }
}

/// A network whose containers have these labels. Each has a range of its own, because
/// `host-local` gives out addresses by network.
fn network(scene: &Scene, app: &str) -> Network {
    let apps = ["web", "db", "stranger", "short"];
    let number = apps
        .iter()
        .position(|one| *one == app)
        .expect("one of them");
    let labels = json!({"namespace": "shop", "labels": {"app": app}});
    Network {
        name: app.to_owned(),
        version: "0.4.0".to_owned(),
        plugins: vec![
            ptp(93 + number as u8, &scene.leases()),
            scene.cofferdam(&json!({"cofferdam": labels})),
        ],
    }
}

/// A container that a runtime has started, by its process.
fn running(scene: &Scene, report: &EndpointReport, pid: u32) -> Container {
    let path = format!("/proc/{pid}/ns/net");
    let ips = report.addresses.iter();
    let ips: Vec<_> = ips
        .map(|ip| json!({"address": format!("{ip}/32")}))
        .collect();
    let attaching = Attaching {
        container_id: report.id.clone(),
        namespace: Namespace::open(Path::new(&path)).expect("a namespace"),
        interface: "eth0".to_owned(),
        args: String::new(),
        capabilities: serde_json::Map::new(),
        result: json!({"interfaces": [{"name": "eth0", "mac": report.mac}], "ips": ips}),
    };
    assert_eq!(report.state.as_str(), "enforced", "{}", scene.agent.log());
    Container::serving(attaching)
}

/// Runs a command in the node's namespace.
fn in_node(scene: &Scene, program: &str) -> Command {
    let node = scene.world.node().namespace.path();
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", node.display()))
        .arg(program);
    command
}

fn done(command: &mut Command) -> String {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Only the database's policy: web reaches it and the stranger does not.
fn assert_judged([web, db, stranger]: &[Container; 3]) {
    web.assert_reaches(db);
    stranger.assert_blocked(db);
    stranger.assert_reaches(web);
}

/// containerd with everything in a folder.
struct Containerd<'s> {
    scene: &'s Scene,
    ground: Ground,
    process: Child,
    started: Vec<String>,
}

impl<'s> Containerd<'s> {
    fn start(scene: &'s Scene) -> Self {
        let ground = Ground::new();
        let path = |name: &str| ground.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            path("root"),
            path("state"),
            path("containerd.sock"),
            path("opt"),
        );
        fs::write(ground.path("config.toml"), config).expect("a file");
        for folder in BUILT_IN {
            fs::create_dir_all(folder).expect("a folder");
        }
        let log = File::create(ground.path("log")).expect("a file");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "containerd", "--config"])
            .arg(ground.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let containerd = Self {
            scene,
            process: process.expect("it can be started"),
            ground,
            started: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        while !containerd.ctr(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "containerd does not answer");
            std::thread::yield_now();
        }
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address")
            .arg(self.ground.path("containerd.sock"));
        ctr.args(arguments).output().expect("it can be run")
    }

    /// `ctr run --cni` of a container in a network.
    fn run(&mut self, network: &Network, id: &str, words: &[&str], program: &[&str]) -> Output {
        let script = format!(
            "mount --bind \"$1\" {} && mount --bind \"$2\" {} && mount --bind \"$3\" {} && \
             shift 3 && exec \"$@\"",
            BUILT_IN[0], BUILT_IN[1], BUILT_IN[2]
        );
        self.started.push(id.to_owned());
        let mut command = in_node(self.scene, "unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]);
        command.arg(self.ground.network(network));
        command.args(["bin", "cache"].map(|name| self.ground.folder(name)));
        command.arg("ctr").arg("--address");
        command.arg(self.ground.path("containerd.sock"));
        command.args(["run", "--cni", "--rootfs"]).args(words);
        command
            .arg(self.ground.path("rootfs"))
            .arg(id)
            .args(program);
        // A shim keeps what it is given for as long as its container runs.
        let out = self.ground.path("out");
        let file = || File::create(&out).expect("a file");
        let status = command.stdout(file()).stderr(file()).status();
        Output {
            status: status.expect("it can be run"),
            stdout: Vec::new(),
            stderr: fs::read(&out).expect("a file"),
        }
    }

    fn started(&mut self, app: &str) -> Container {
        let network = network(self.scene, app);
        let run = self.run(&network, app, &["--detach"], &["/bin/sleep", "600"]);
        assert!(run.status.success(), "{run:?}");
        let list = self.ctr(&["task", "list"]);
        let list = String::from_utf8(list.stdout).expect("text");
        let mut lines = list.lines().map(|line| line.split_whitespace());
        let mut words = lines.find_map(|mut words| (words.next()? == app).then_some(words));
        let pid = words.as_mut().and_then(|words| words.next()?.parse().ok());
        let report = self.scene.endpoint(&format!("shop/default-{app}/eth0"));
        let pid = pid.unwrap_or_else(|| panic!("{list}"));
        running(self.scene, &report.expect("an endpoint"), pid)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        for id in &self.started {
            self.ctr(&["task", "delete", "--force", id]);
        }
        // What is left of it has gone with its containers.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn containers_of_containerd_are_in_force_before_they_run() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(CONTAINERD);
    let scene = Scene::enforced(DB_FROM_WEB);
    let mut containerd = Containerd::start(&scene);
    let all = ["web", "db", "stranger"].map(|app| containerd.started(app));
    assert_judged(&all);
    // One that ends by itself is attached and detached by the same command.
    let short = network(&scene, "short");
    let run = containerd.run(&short, "short", &["--rm"], &["/bin/sh", "-c", "exit 0"]);
    assert!(run.status.success(), "{run:?}");
    let ids = ["db", "stranger", "web"].map(|app| format!("shop/default-{app}/eth0"));
    assert_eq!(scene.endpoints(), ids);
    drop(all);
    drop(containerd);
    scene
        .agent
        .wait_until("all have gone", |status| status.endpoints.is_empty());
}

#[test]
fn containerd_starts_nothing_while_no_agent_answers() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(CONTAINERD);
    let scene = Scene::new();
    let mut containerd = Containerd::start(&scene);
    let network = network(&scene, "web");
    let run = containerd.run(&network, "web", &["--rm"], &["/bin/sh", "-c", "exit 0"]);
    assert!(!run.status.success(), "{run:?}");
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(told.contains("no agent answers"), "{told}");
}

/// podman with everything in a folder.
struct Podman<'s> {
    scene: &'s Scene,
    ground: Ground,
    started: Vec<String>,
}

impl<'s> Podman<'s> {
    fn new(scene: &'s Scene) -> Self {
        let ground = Ground::new();
        let path = |name: &str| ground.folder(name).display().to_string();
        // Limits that a process without CAP_SYS_RESOURCE may set.
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             log_driver = \"none\"\n\
             [network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = {:?}\n\
             cni_plugin_dirs = [{:?}]\n\
             [engine]\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\ntmp_dir = {:?}\n",
            path("networks"),
            path("bin"),
            path("tmp"),
        );
        fs::write(ground.path("containers.conf"), config).expect("a file");
        Self {
            scene,
            ground,
            started: Vec::new(),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = in_node(self.scene, "podman");
        command.env("CONTAINERS_CONF", self.ground.path("containers.conf"));
        command.arg("--root").arg(self.ground.path("root"));
        command.arg("--runroot").arg(self.ground.path("run"));
        command.args(["--storage-driver", "vfs", "--runtime", "runc"]);
        command.args(words);
        command
    }

    fn run(&mut self, app: &str, program: &[&str]) -> Command {
        let network = network(self.scene, app);
        let file = self.ground.path("networks").join(format!("{app}.conflist"));
        fs::write(file, network.conflist()).expect("a file");
        self.started.push(format!("The_{app}.1"));
        let name = format!("The_{app}.1");
        let mut run = self.command(&["run", "--detach", "--network", app, "--name", &name]);
        run.arg("--rootfs")
            .arg(self.ground.path("rootfs"))
            .args(program);
        run
    }

    fn started(&mut self, app: &str) -> Container {
        done(&mut self.run(app, &["/bin/sleep", "600"]));
        let name = format!("The_{app}.1");
        let inspect = ["inspect", "--format", "{{.State.Pid}}", &name];
        let pid = done(&mut self.command(&inspect));
        let report = self.scene.endpoint(&format!("shop/{name}/eth0"));
        let pid = pid.trim().parse().expect("a process");
        running(self.scene, &report.expect("an endpoint"), pid)
    }

    fn remove(&mut self) {
        for name in std::mem::take(&mut self.started) {
            _ = self
                .command(&["rm", "--force", "--time", "0", &name])
                .output();
        }
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn containers_of_podman_are_in_force_before_they_run() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(PODMAN);
    let mut scene = Scene::enforced(DB_FROM_WEB);
    {
        let mut podman = Podman::new(&scene);
        let all = ["web", "db", "stranger"].map(|app| podman.started(app));
        assert_judged(&all);
        drop(all);
        podman.remove();
        (scene.agent).wait_until("all have gone", |status| status.endpoints.is_empty());
    }
    scene.agent.kill();
    let mut podman = Podman::new(&scene);
    let failed = podman.run("web", &["/bin/sleep", "600"]).output();
    let failed = failed.expect("it can be run");
    assert!(!failed.status.success(), "{failed:?}");
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(told.contains("no agent answers"), "{told}");
}
