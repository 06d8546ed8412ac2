//! The plugin under containerd, by `ctr`.
//!
//! Its configuration lies in a folder of the test; where a path is built in, it is mounted
//! there in a mount namespace of the command's own.

use std::fs::{self, File};
use std::process::Output;

use cofferdam_protocol::output::EndpointReport;
use cofferdam_tests::cni::{Network, ptp};
use cofferdam_tests::packet::Family;
use cofferdam_tests::runtimes::{Daemon, Ground, attached, programs, within};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use serde_json::json;

use super::scene::{Container, DB_FROM_WEB, PLUGINS, Scene, plugin};

const CONTAINERD: Feature = Feature::Other("containerd", || {
    programs(&["containerd", "ctr", "runc", "busybox", "setpriv", "unshare"])
});

/// Folders in which `ctr` and its library look, whatever they are told.
const BUILT_IN: [&str; 3] = ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni"];

/// A network whose containers have these labels. Each has a range of its own, because
/// `host-local` gives out addresses by network.
pub(crate) fn network(scene: &Scene, app: &str) -> Network {
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

/// Only the database's policy: web reaches it and the stranger does not.
pub(crate) fn assert_judged([web, db, stranger]: &[Container; 3]) {
    web.assert_reaches(db);
    stranger.assert_blocked(db);
    stranger.assert_reaches(web);
}

/// Has a container that a runtime has started answer. The agent must have its addresses right.
pub(crate) fn running(scene: &Scene, report: &EndpointReport, pid: u32) -> Container {
    let attaching = attached(report.called(), pid);
    let end = attaching.end();
    for family in Family::BOTH {
        let found = end.ip(family).expect("an address");
        assert!(report.addresses.contains(&found), "{found}: {report:?}");
    }
    assert_eq!(report.state.as_str(), "enforced", "{}", scene.agent.log());
    Container::serving(attaching)
}

/// containerd, with containers that `ctr` starts.
struct Containerd<'s> {
    scene: &'s Scene,
    daemon: Daemon,
    started: Vec<String>,
}

impl<'s> Containerd<'s> {
    fn start(scene: &'s Scene) -> Self {
        for folder in BUILT_IN {
            fs::create_dir_all(folder).expect("a folder");
        }
        let without_cri = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        Self {
            scene,
            daemon: Daemon::start(
                &scene.world.node().namespace,
                Ground::new(Scratch::new(), plugin()),
                without_cri,
            ),
            started: Vec::new(),
        }
    }

    /// `ctr run --cni` of a container in a network.
    fn run(&mut self, network: &Network, id: &str, words: &[&str], program: &[&str]) -> Output {
        let script = format!(
            "mount --bind \"$1\" {} && mount --bind \"$2\" {} && mount --bind \"$3\" {} && \
             shift 3 && exec \"$@\"",
            BUILT_IN[0], BUILT_IN[1], BUILT_IN[2]
        );
        self.started.push(id.to_owned());
        let mut command = within(&self.scene.world.node().namespace, "unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]);
        let ground = &self.daemon.ground;
        command.arg(ground.network(network));
        command.args(["bin", "cache"].map(|name| ground.folder(name)));
        command.arg("ctr").arg("--address").arg(ground.socket());
        command.args(["run", "--cni", "--rootfs"]).args(words);
        command.arg(ground.path("rootfs")).arg(id).args(program);
        // A shim keeps what it is given for as long as its container runs.
        let out = ground.path("out");
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
        let list = self.daemon.ctr(&["task", "list"]);
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
            self.daemon.ctr(&["task", "delete", "--force", id]);
        }
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
