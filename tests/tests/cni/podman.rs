//! Containers of podman: by its CNI backend, and by netavark with the plugin as a hook.

use std::fs::{self, File};
use std::process::Command;

use cofferdam_tests::runtimes::{self, Backend, Ground, programs};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use serde_json::json;

use super::runtimes::{assert_judged, network, running};
use super::scene::{Container, DB_FROM_WEB, PLUGINS, Scene, plugin};

const PODMAN: Feature = Feature::Other("podman", || {
    programs(&["podman", "runc", "busybox", "conmon"])
});
const NETAVARK: Feature = Feature::Other("netavark", || programs(&["netavark", "iptables"]));

/// Subnets of netavark's network, each with its gateway.
const SUBNETS: [(&str, &str); 2] = [("10.98.0.0/24", "10.98.0.1"), ("fd98::/64", "fd98::1")];

fn done(command: &mut Command) {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// podman on the scene's node.
struct Podman<'s> {
    scene: &'s Scene,
    backend: Backend,
    podman: runtimes::Podman,
}

impl<'s> Podman<'s> {
    fn new(scene: &'s Scene, backend: &Backend) -> Self {
        let ground = Ground::new(Scratch::new(), plugin());
        let node = &scene.world.node().namespace;
        Self {
            scene,
            backend: backend.clone(),
            podman: runtimes::Podman::new(node, ground, backend),
        }
    }

    fn run(&mut self, app: &str, program: &[&str]) -> Command {
        let name = format!("The_{app}.1");
        match self.backend {
            Backend::Cni => {
                self.podman.chain(&network(self.scene, app));
                self.podman.run(&name, app, &[], program)
            }
            Backend::Netavark(_) => {
                self.podman.bridge("all", "podman1", SUBNETS);
                let labels = format!("app={app}");
                let annotations = [("labels", &*labels), ("namespace", "shop"), ("name", &name)];
                self.podman.run(&name, "all", &annotations, program)
            }
        }
    }

    fn started(&mut self, app: &str) -> Container {
        done(&mut self.run(app, &["/bin/sleep", "600"]));
        let name = format!("The_{app}.1");
        let pid = self.podman.pid(&name);
        let report = self.scene.endpoint(&format!("shop/{name}/eth0"));
        running(self.scene, &report.expect("an endpoint"), pid)
    }

    /// Tries to start a container in the network of another.
    fn assert_none_joins(&self, app: &str) {
        let network = format!("container:The_{app}.1");
        let mut run = self
            .podman
            .command(&["run", "--rm", "--network", &network, "--rootfs"]);
        let joined = run
            .arg(self.podman.ground.path("rootfs"))
            .arg("/bin/true")
            .output()
            .expect("it can be run");
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
        let file = self.podman.ground.path("state.json");
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
}

fn containers_are_in_force_before_they_run(backend: fn(&Scene) -> Backend) {
    let mut scene = Scene::enforced(DB_FROM_WEB);
    let backend = backend(&scene);
    {
        let mut podman = Podman::new(&scene, &backend);
        let all = ["web", "db", "stranger"].map(|app| podman.started(app));
        assert_judged(&all);
        if let Backend::Netavark(_) = backend {
            podman.assert_none_joins("web");
            podman.assert_closed_by_hook("web");
        }
        drop(all);
        podman.podman.remove();
        (scene.agent).wait_until("all have gone", |status| status.endpoints.is_empty());
    }
    scene.agent.kill();
    let mut podman = Podman::new(&scene, &backend);
    let failed = podman
        .run("web", &["/bin/sleep", "600"])
        .output()
        .expect("it can be run");
    assert!(!failed.status.success(), "{failed:?}");
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(told.contains("no agent answers"), "{told}");
}

#[test]
fn containers_of_podman_are_in_force_before_they_run() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(PODMAN);
    containers_are_in_force_before_they_run(|_| Backend::Cni);
}

#[test]
fn containers_of_netavark_are_in_force_before_they_run() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(PODMAN);
    skip_unless!(NETAVARK);
    containers_are_in_force_before_they_run(|scene| Backend::Netavark(scene.agent.path("run")));
}
