//! podman, with networks by its CNI backend or by netavark.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Ground, within};
use crate::cni::Network;
use crate::world::Namespace;

/// Maker of podman's networks.
#[derive(Clone, Debug)]
pub enum Backend {
    /// CNI plugins, `cofferdam-cni` among them.
    Cni,
    /// netavark, with `cofferdam-cni` as a hook of the OCI runtime, which is told of the run
    /// directory of the agent.
    Netavark(PathBuf),
}

/// podman with everything in a folder. Containers are removed when it is dropped.
#[derive(Debug)]
pub struct Podman {
    /// The folder.
    pub ground: Ground,
    node: Namespace,
    started: Vec<String>,
}

impl Podman {
    /// Sets it up for a node.
    ///
    /// # Panics
    ///
    /// Panics if a file cannot be written.
    pub fn new(node: &Namespace, ground: Ground, backend: &Backend) -> Self {
        let network_backend = match backend {
            Backend::Cni => "cni",
            Backend::Netavark(run_dir) => {
                write_hook(&ground, run_dir);
                "netavark"
            }
        };
        let path = |name: &str| ground.folder(name).display().to_string();
        // Limits that a process without CAP_SYS_RESOURCE may set; and locks in the folder, not
        // in shared memory with every other podman's.
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             log_driver = \"none\"\n\
             [network]\nnetwork_backend = {network_backend:?}\nnetwork_config_dir = {:?}\n\
             cni_plugin_dirs = [{:?}]\n\
             [engine]\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\ntmp_dir = {:?}\n\
             lock_type = \"file\"\nhooks_dir = [{:?}]\n",
            path("networks"),
            path("bin"),
            path("tmp"),
            path("hooks"),
        );
        fs::write(ground.path("containers.conf"), config).expect("a file");
        Self {
            ground,
            node: node.try_clone().expect("a namespace"),
            started: Vec::new(),
        }
    }

    /// Returns a command of it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = within(&self.node, "podman");
        command.env("CONTAINERS_CONF", self.ground.path("containers.conf"));
        command.arg("--root").arg(self.ground.path("root"));
        command.arg("--runroot").arg(self.ground.path("run"));
        command.args(["--storage-driver", "vfs", "--runtime", "runc"]);
        command.args(words);
        command
    }

    /// Writes a network of its CNI backend.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn chain(&self, network: &Network) {
        self.write_network(&format!("{}.conflist", network.name), &network.conflist());
    }

    /// Writes a network of netavark's: a bridge with subnets, each with its gateway.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn bridge(&self, name: &str, bridge: &str, subnets: [(&str, &str); 2]) {
        let subnets =
            subnets.map(|(subnet, gateway)| json!({"subnet": subnet, "gateway": gateway}));
        let network = json!({
            "name": name,
            "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
            "driver": "bridge",
            "network_interface": bridge,
            "created": "2026-01-01T00:00:00Z",
            "subnets": subnets,
            "ipv6_enabled": true,
            "internal": false,
            "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        });
        self.write_network(&format!("{name}.json"), &network.to_string());
    }

    fn write_network(&self, file: &str, text: &str) {
        fs::write(self.ground.folder("networks").join(file), text).expect("a file");
    }

    /// Returns the command that runs a program in a container of a network, with annotations
    /// of `cofferdam.dev`.
    pub fn run(
        &mut self,
        container: &str,
        network: &str,
        annotations: &[(&str, &str)],
        program: &[&str],
    ) -> Command {
        self.started.push(container.to_owned());
        let mut run = self.command(&["run", "--detach", "--name", container]);
        run.args(["--network", network]);
        for (key, value) in annotations {
            run.arg("--annotation");
            run.arg(format!("cofferdam.dev/{key}={value}"));
        }
        run.arg("--rootfs")
            .arg(self.ground.path("rootfs"))
            .args(program);
        run
    }

    /// Returns the process of a container.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn pid(&self, container: &str) -> u32 {
        let mut inspect = self.command(&["inspect", "--format", "{{.State.Pid}}", container]);
        let output = inspect.output().expect("it can be run");
        assert!(output.status.success(), "{inspect:?}: {output:?}");
        let pid = String::from_utf8(output.stdout).expect("text");
        pid.trim().parse().expect("a process")
    }

    /// Removes all containers.
    pub fn remove(&mut self) {
        for container in std::mem::take(&mut self.started) {
            let mut remove = self.command(&["rm", "--force", "--time", "0", &container]);
            _ = remove.output();
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Writes the hook as the page on compatibility has it, with paths of our own.
fn write_hook(ground: &Ground, run_dir: &Path) {
    let page = include_str!("../../../docs/compatibility.md");
    let example = page
        .split("```json")
        .nth(1)
        .expect("an example")
        .split("```")
        .next()
        .expect("its end");
    let mut hook: Value = serde_json::from_str(example).expect("JSON");
    hook["hook"]["path"] = json!(ground.path("bin/cofferdam-cni"));
    hook["hook"]["args"][2] = json!(run_dir);
    let file = ground.folder("hooks").join("cofferdam.json");
    fs::write(file, hook.to_string()).expect("a file");
}
