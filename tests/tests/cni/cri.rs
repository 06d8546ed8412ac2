//! The plugin under containerd's CRI: pod sandboxes as a kubelet asks for them, over gRPC.

use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use cofferdam_protocol::output::EndpointReport;
use cofferdam_tests::cni::{Network, ptp};
use cofferdam_tests::runtimes::cri::{Cri, Sandbox, done, image_spec, message};
use cofferdam_tests::runtimes::{Ground, PATIENCE, programs};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, StartContainerRequest, StopPodSandboxRequest,
};
use serde_json::json;

use super::runtimes::running;
use super::scene::{Container, DB_FROM_WEB, PLUGINS, PORT, Scene, plugin};

const CONTAINERD: Feature = Feature::Other("containerd", || {
    programs(&["containerd", "ctr", "runc", "busybox", "setpriv", "nsenter"])
});

/// Starts containerd on the scene's node.
fn start(scene: &Scene) -> Cri {
    let network = Network {
        name: "pods".to_owned(),
        version: "1.0.0".to_owned(),
        plugins: vec![ptp(97, &scene.leases()), scene.cofferdam(&json!({}))],
    };
    let node = &scene.world.node().namespace;
    Cri::start(
        node,
        Ground::new(Scratch::new(), plugin()),
        &network,
        &["/bin/sleep", "600"],
    )
}

/// Asks for a pod of namespace `shop`, whose labels are those of web in Kubernetes.
fn run(cri: &mut Cri, name: &str, annotations: &[(&str, &str)]) -> Result<Sandbox, String> {
    let labels = [("app", "web"), ("io.kubernetes.pod.name", name)];
    cri.run(["shop", name], &labels, annotations)
}

fn started(cri: &mut Cri, name: &str, annotations: &[(&str, &str)]) -> Sandbox {
    let run = run(cri, name, annotations);
    run.unwrap_or_else(|message| panic!("{message}: {}", cri.log()))
}

/// Has a sandbox answer at [`PORT`].
fn serving(cri: &mut Cri, scene: &Scene, sandbox: &Sandbox) -> Container {
    let pid = cri.pid(sandbox);
    running(scene, &endpoint(sandbox, scene), pid)
}

/// Runs a container in a sandbox, and returns its exit code.
fn run_in(cri: &mut Cri, sandbox: &Sandbox, script: &str) -> i32 {
    let create = CreateContainerRequest {
        pod_sandbox_id: sandbox.id.clone(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 0,
            }),
            image: Some(image_spec()),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{}.log", sandbox.name),
            ..ContainerConfig::default()
        }),
        sandbox_config: cri.asked(&sandbox.name),
    };
    let id = done(cri.runtime.block_on(cri.pods.create_container(create))).container_id;
    let start = StartContainerRequest {
        container_id: id.clone(),
    };
    done(cri.runtime.block_on(cri.pods.start_container(start)));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = ContainerStatusRequest {
            container_id: id.clone(),
            verbose: false,
        };
        let status = done(cri.runtime.block_on(cri.pods.container_status(request)))
            .status
            .expect("a status");
        if status.state() == ContainerState::ContainerExited {
            return status.exit_code;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::yield_now();
    }
}

fn stop(cri: &mut Cri, id: &str) -> Result<(), String> {
    let request = StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let stopped = cri.runtime.block_on(cri.pods.stop_pod_sandbox(request));
    stopped.map(drop).map_err(message)
}

fn endpoint(sandbox: &Sandbox, scene: &Scene) -> EndpointReport {
    let report = scene
        .endpoint(&format!("shop/{}/eth0", sandbox.name))
        .unwrap_or_else(|| panic!("{:?}", scene.endpoints()));
    assert_eq!(report.state.as_str(), "enforced");
    assert_eq!(report.container_id.as_deref(), Some(&*sandbox.id));
    report
}

/// Script that connects to every address once, waits for each this long, and exits with the
/// number of those that it reaches.
fn connecting(to: &[IpAddr], seconds: u32) -> String {
    let tries = to.iter();
    let tries: Vec<_> = tries
        .map(|ip| format!("nc -w {seconds} {ip} {PORT} -e /bin/true && reached=$((reached + 1))"))
        .collect();
    format!("reached=0; {}; exit $reached", tries.join("; "))
}

#[test]
fn pods_of_containerd_are_in_force_before_their_first_packet() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(CONTAINERD);
    let scene = Scene::enforced(DB_FROM_WEB);
    let mut cri = start(&scene);
    let db = started(
        &mut cri,
        "db",
        &[("cofferdam.dev/labels", "app=db,tier=back")],
    );
    let addresses = endpoint(&db, &scene).addresses;
    assert_eq!(addresses.len(), 2, "one of each family");
    let back = serving(&mut cri, &scene, &db);

    // Two containers whose first act is a connection.
    let web = started(&mut cri, "web", &[("cofferdam.dev/labels", "app=web")]);
    assert_eq!(run_in(&mut cri, &web, &connecting(&addresses, 10)), 2);
    // Runtimes pass a pod's annotations, and not its labels, which are those of web.
    let stranger = started(&mut cri, "stranger", &[("other", "app=web")]);
    assert_eq!(run_in(&mut cri, &stranger, &connecting(&addresses, 1)), 0);
    // What stood in between was the policy.
    let reached = [&web, &stranger].map(|one| serving(&mut cri, &scene, one));
    back.assert_reaches(&reached[0]);
    back.assert_reaches(&reached[1]);

    let labels = |sandbox: &Sandbox| json!(endpoint(sandbox, &scene).labels);
    assert_eq!(labels(&db), json!({"app": "db", "tier": "back"}));
    assert_eq!(labels(&web), json!({"app": "web"}));
    assert_eq!(labels(&stranger), json!({}));
}

#[test]
fn a_sandbox_that_is_removed_ends_its_endpoint() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(CONTAINERD);
    let mut scene = Scene::enforced(DB_FROM_WEB);
    let mut cri = start(&scene);
    let labels = [("cofferdam.dev/labels", "app=db")];
    let first = started(&mut cri, "db", &labels);
    endpoint(&first, &scene);
    // The plugin in front cannot give its address back, and keeps the interface.
    let leases = scene.leases().join("pods");
    let aside = scene.leases().join("aside");
    fs::rename(&leases, &aside).expect("a folder");
    fs::write(&leases, "").expect("a file");
    let stopped = stop(&mut cri, &first.id);
    let all = scene.agent.endpoints();
    fs::remove_file(&leases).expect("a file");
    fs::rename(&aside, &leases).expect("a folder");
    let failed = stopped.expect_err("no folder of leases");
    assert!(failed.contains("leases/pods"), "{failed}");
    assert!(all.len() == 1 && all[0].leaving, "{all:?}");
    cri.remove(&first.id);
    (scene.agent).wait_until("it has gone", |status| status.endpoints.is_empty());

    // A kubelet makes the sandbox of a pod anew under the same name.
    let second = started(&mut cri, "db", &labels);
    endpoint(&second, &scene);
    stop(&mut cri, &second.id).expect("it is stopped");
    assert_eq!(scene.endpoints(), Vec::<String>::new());
    cri.remove(&second.id);
    (scene.agent).wait_until("it has gone", |status| status.endpoints.is_empty());

    // Without an agent no pod starts; the next try does, once there is one.
    scene.agent.kill();
    let refused = run(&mut cri, "db", &labels).expect_err("no agent");
    assert!(refused.contains("no agent answers"), "{refused}");
    assert_eq!(cri.sandboxes(), Vec::<String>::new());
    scene.agent.start_enforced();
    endpoint(&started(&mut cri, "db", &labels), &scene);
}
