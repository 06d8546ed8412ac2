//! Containers of podman: by its CNI backend, and by netavark with the plugin as a hook.

use std::fs::{self, File};
use std::process::Command;

use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use serde_json::{Value, json};

use super::ground::{Ground, in_node, programs, running};
use super::runtimes::{assert_judged, network};
use super::scene::{Container, DB_FROM_WEB, PLUGINS, Scene, plugin};

const PODMAN: Feature = Feature::Other("podman", || {
    programs(&["podman", "runc", "busybox", "conmon"])
});
const NETAVARK: Feature = Feature::Other("netavark", || programs(&["netavark", "iptables"]));

fn done(command: &mut Command) -> String {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Maker of podman's networks.
#[derive(Clone, Copy)]
enum Backend {
    /// CNI plugins, `cofferdam-cni` among them.
    Cni,
    /// netavark, with `cofferdam-cni` as a hook of the OCI runtime.
    Netavark,
}

/// podman with everything in a folder.
struct Podman<'s> {
    scene: &'s Scene,
    backend: Backend,
    ground: Ground,
    started: Vec<String>,
}

impl<'s> Podman<'s> {
    fn new(scene: &'s Scene, backend: Backend) -> Self {
        let ground = Ground::new();
        let network_backend = match backend {
            Backend::Cni => "cni",
            Backend::Netavark => {
                write_hook(&ground, scene);
                "netavark"
            }
        };
        let path = |name: &str| ground.folder(name).display().to_string();
        // Limits that a process without CAP_SYS_RESOURCE may set.
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             log_driver = \"none\"\n\
             [network]\nnetwork_backend = {network_backend:?}\nnetwork_config_dir = {:?}\n\
             cni_plugin_dirs = [{:?}]\n\
             [engine]\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\ntmp_dir = {:?}\n\
             hooks_dir = [{:?}]\n",
            path("networks"),
            path("bin"),
            path("tmp"),
            path("hooks"),
        );
        fs::write(ground.path("containers.conf"), config).expect("a file");
        Self {
            scene,
            backend,
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
        let name = format!("The_{app}.1");
        self.started.push(name.clone());
        let networks = self.ground.path("networks");
        let mut run = self.command(&["run", "--detach", "--name", &name]);
        match self.backend {
            Backend::Cni => {
                let network = network(self.scene, app).conflist();
                fs::write(networks.join(format!("{app}.conflist")), network).expect("a file");
                run.args(["--network", app]);
            }
            Backend::Netavark => {
                fs::write(networks.join("all.json"), bridged("all")).expect("a file");
                run.args(["--network", "all"]);
                for (key, value) in [
                    ("labels", &*format!("app={app}")),
                    ("namespace", "shop"),
                    ("name", &name),
                ] {
                    run.arg("--annotation");
                    run.arg(format!("cofferdam.dev/{key}={value}"));
                }
            }
        }
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

    /// Tries to start a container in the network of another.
    fn assert_none_joins(&self, app: &str) {
        let network = format!("container:The_{app}.1");
        let mut run = self.command(&["run", "--rm", "--network", &network, "--rootfs"]);
        let joined = run
            .arg(self.ground.path("rootfs"))
            .arg("/bin/true")
            .output();
        let joined = joined.expect("it can be run");
        assert!(!joined.status.success(), "{joined:?}");
        let told = String::from_utf8_lossy(&joined.stderr);
        let expected = format!("this interface is that of shop/The_{app}.1/eth0 already");
        assert!(told.contains(&expected), "{told}");
    }

    /// Runs the hook as at the end of a container, whose interface still stands.
    fn assert_closed_by_hook(&self, app: &str) {
        let endpoint = format!("shop/The_{app}.1/eth0");
        let report = self.scene.endpoint(&endpoint).expect("an endpoint");
        let state = json!({"id": report.container_id, "status": "stopped"});
        let file = self.ground.path("state.json");
        fs::write(&file, state.to_string()).expect("a file");
        let mut hook = Command::new(plugin());
        hook.arg("oci-hook").arg(self.scene.agent.path("run"));
        done(hook.stdin(File::open(file).expect("a file")));
        let mut all = self.scene.agent.endpoints().into_iter();
        let closed = all
            .find(|one| one.called() == endpoint)
            .expect("its interface");
        assert!(closed.leaving, "{closed:?}");
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

/// Writes the hook as the page on compatibility has it, with the paths of this test.
fn write_hook(ground: &Ground, scene: &Scene) {
    let page = include_str!("../../../docs/compatibility.md");
    let example = page.split("```json").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    let mut hook: Value = serde_json::from_str(example).expect("JSON");
    hook["hook"]["path"] = json!(ground.path("bin/cofferdam-cni"));
    hook["hook"]["args"][2] = json!(scene.agent.path("run"));
    let file = ground.folder("hooks").join("cofferdam.json");
    fs::write(file, hook.to_string()).expect("a file");
}

/// A network of netavark's, as podman keeps it.
fn bridged(name: &str) -> String {
    let network = json!({
        "name": name,
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "bridge",
        "network_interface": "podman1",
        "created": "2026-01-01T00:00:00Z",
        "subnets": [
            {"subnet": "10.98.0.0/24", "gateway": "10.98.0.1"},
            {"subnet": "fd98::/64", "gateway": "fd98::1"},
        ],
        "ipv6_enabled": true,
        "internal": false,
        "dns_enabled": false,
        "ipam_options": {"driver": "host-local"},
    });
    network.to_string()
}

fn containers_are_in_force_before_they_run(backend: Backend) {
    let mut scene = Scene::enforced(DB_FROM_WEB);
    {
        let mut podman = Podman::new(&scene, backend);
        let all = ["web", "db", "stranger"].map(|app| podman.started(app));
        assert_judged(&all);
        if let Backend::Netavark = backend {
            podman.assert_none_joins("web");
            podman.assert_closed_by_hook("web");
        }
        drop(all);
        podman.remove();
        (scene.agent).wait_until("all have gone", |status| status.endpoints.is_empty());
    }
    scene.agent.kill();
    let mut podman = Podman::new(&scene, backend);
    let failed = podman.run("web", &["/bin/sleep", "600"]).output();
    let failed = failed.expect("it can be run");
    assert!(!failed.status.success(), "{failed:?}");
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(told.contains("no agent answers"), "{told}");
}

#[test]
fn containers_of_podman_are_in_force_before_they_run() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(PODMAN);
    containers_are_in_force_before_they_run(Backend::Cni);
}

#[test]
fn containers_of_netavark_are_in_force_before_they_run() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(PODMAN);
    skip_unless!(NETAVARK);
    containers_are_in_force_before_they_run(Backend::Netavark);
}
