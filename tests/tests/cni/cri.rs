//! The plugin under containerd's CRI: pod sandboxes as a kubelet asks for them, over gRPC.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use cofferdam_protocol::output::EndpointReport;
use cofferdam_tests::cni::{Network, ptp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ImageSpec, ImageStatusRequest, ListPodSandboxRequest, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopPodSandboxRequest,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};
use tower::service_fn;

use super::ground::{Daemon, Ground, PATIENCE, programs, running};
use super::image;
use super::scene::{Container, DB_FROM_WEB, PLUGINS, PORT, Scene};

const CONTAINERD: Feature = Feature::Other("containerd", || {
    programs(&["containerd", "ctr", "runc", "busybox", "setpriv", "nsenter"])
});

/// Name of the image that sandboxes and their containers run. No registry has it.
const IMAGE: &str = "cofferdam.test/shell:1";

/// containerd, asked as a kubelet asks it.
struct Cri {
    runtime: tokio::runtime::Runtime,
    pods: RuntimeServiceClient<Channel>,
    /// Pods that were asked for, the last try of each.
    asked: BTreeMap<String, PodSandboxConfig>,
    // Behind the channel to it.
    daemon: Daemon,
}

/// A sandbox that runs.
struct Sandbox {
    id: String,
    name: String,
}

impl Cri {
    fn start(scene: &Scene) -> Self {
        let ground = Ground::new();
        let network = Network {
            name: "pods".to_owned(),
            version: "1.0.0".to_owned(),
            plugins: vec![ptp(97, &scene.leases()), scene.cofferdam(&json!({}))],
        };
        let networks = ground.network(&network);
        // Namespaces lie with the rest, not in /run/netns. Nothing here may make a process
        // less likely to be killed for want of memory, and copies of the image's files need
        // no file system of the kernel's.
        let settings = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = {IMAGE:?}\nrestrict_oom_score_adj = true\n\
             disable_apparmor = true\nnetns_mounts_under_state_dir = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {:?}\nconf_dir = {networks:?}\n",
            ground.path("bin"),
        );
        let program = ["/bin/sleep", "600"];
        let image = image::archive(
            &ground.path("rootfs"),
            IMAGE,
            &program,
            &ground.folder("image"),
        );
        let daemon = Daemon::start(scene, ground, &settings);
        let image = image.display().to_string();
        let import = ["images", "import", "--snapshotter", "native", &image];
        let import = daemon.ctr(&[&["--namespace", "k8s.io"], &import[..]].concat());
        assert!(import.status.success(), "{import:?}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let socket = daemon.ground.socket();
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is the connector's affair; a URI has to be there.
        let endpoint = Endpoint::from_static("http://containerd").timeout(PATIENCE);
        let channel = runtime.block_on(endpoint.connect_with_connector(connect));
        let channel = channel.expect("a connection");
        let cri = Self {
            runtime,
            pods: RuntimeServiceClient::new(channel.clone()),
            asked: BTreeMap::new(),
            daemon,
        };
        cri.wait_for_image(&mut ImageServiceClient::new(channel));
        cri
    }

    /// Waits until containerd's CRI has seen what `ctr` has imported.
    fn wait_for_image(&self, images: &mut ImageServiceClient<Channel>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = ImageStatusRequest {
                image: Some(image_spec()),
                verbose: false,
            };
            let status = self.runtime.block_on(images.image_status(request));
            if status.expect("a status").into_inner().image.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", self.daemon.log());
            std::thread::yield_now();
        }
    }

    /// Asks for a pod of namespace `shop`, whose labels are these in Kubernetes, with
    /// annotations.
    fn run(&mut self, name: &str, annotations: &[(&str, &str)]) -> Result<Sandbox, String> {
        let texts = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let attempt = self.asked.get(name).and_then(|pod| pod.metadata.as_ref());
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "shop".to_owned(),
                attempt: attempt.map_or(0, |last| last.attempt + 1),
            }),
            hostname: name.to_owned(),
            log_directory: self.daemon.ground.folder("logs").display().to_string(),
            labels: texts(&[("app", "web"), ("io.kubernetes.pod.name", name)]),
            annotations: texts(annotations),
            ..PodSandboxConfig::default()
        };
        self.asked.insert(name.to_owned(), config.clone());
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let run = self.runtime.block_on(self.pods.run_pod_sandbox(request));
        let run = run.map_err(message)?;
        Ok(Sandbox {
            id: run.into_inner().pod_sandbox_id,
            name: name.to_owned(),
        })
    }

    fn started(&mut self, name: &str, annotations: &[(&str, &str)]) -> Sandbox {
        let run = self.run(name, annotations);
        run.unwrap_or_else(|message| panic!("{message}: {}", self.daemon.log()))
    }

    /// Has a sandbox answer at [`PORT`].
    fn serving(&mut self, scene: &Scene, sandbox: &Sandbox) -> Container {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            verbose: true,
        };
        let status = done(self.runtime.block_on(self.pods.pod_sandbox_status(request)));
        let info: Value = serde_json::from_str(&status.info["info"]).expect("JSON");
        let pid = info["pid"].as_u64().and_then(|pid| pid.try_into().ok());
        running(scene, &sandbox.endpoint(scene), pid.expect("a process"))
    }

    /// Runs a container in a sandbox, and returns its exit code.
    fn run_in(&mut self, sandbox: &Sandbox, script: &str) -> i32 {
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
            sandbox_config: self.asked.get(&sandbox.name).cloned(),
        };
        let id = done(self.runtime.block_on(self.pods.create_container(create))).container_id;
        let start = StartContainerRequest {
            container_id: id.clone(),
        };
        done(self.runtime.block_on(self.pods.start_container(start)));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = ContainerStatusRequest {
                container_id: id.clone(),
                verbose: false,
            };
            let status = done(self.runtime.block_on(self.pods.container_status(request)));
            let status = status.status.expect("a status");
            if status.state() == ContainerState::ContainerExited {
                return status.exit_code;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            std::thread::yield_now();
        }
    }

    fn stop(&mut self, id: &str) -> Result<(), String> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let stopped = self.runtime.block_on(self.pods.stop_pod_sandbox(request));
        stopped.map(drop).map_err(message)
    }

    fn remove(&mut self, id: &str) {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        done(self.runtime.block_on(self.pods.remove_pod_sandbox(request)));
    }

    /// Ids of the sandboxes that there are, in any state.
    fn sandboxes(&mut self) -> Vec<String> {
        let request = ListPodSandboxRequest { filter: None };
        let list = self.runtime.block_on(self.pods.list_pod_sandbox(request));
        let list = list.map(|list| list.into_inner().items).unwrap_or_default();
        list.into_iter().map(|one| one.id).collect()
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        for pod_sandbox_id in self.sandboxes() {
            let request = RemovePodSandboxRequest { pod_sandbox_id };
            _ = self.runtime.block_on(self.pods.remove_pod_sandbox(request));
        }
    }
}

impl Sandbox {
    fn endpoint(&self, scene: &Scene) -> EndpointReport {
        let report = scene.endpoint(&format!("shop/{}/eth0", self.name));
        let report = report.unwrap_or_else(|| panic!("{:?}", scene.endpoints()));
        assert_eq!(report.state.as_str(), "enforced");
        assert_eq!(report.container_id.as_deref(), Some(&*self.id));
        report
    }
}

fn image_spec() -> ImageSpec {
    ImageSpec {
        image: IMAGE.to_owned(),
        ..ImageSpec::default()
    }
}

/// Returns what containerd says of a failure, without the channel's words.
fn message(status: Status) -> String {
    status.message().to_owned()
}

#[track_caller]
fn done<T>(answer: Result<Response<T>, Status>) -> T {
    answer
        .unwrap_or_else(|status| panic!("{status}"))
        .into_inner()
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
    let mut cri = Cri::start(&scene);
    let db = cri.started("db", &[("cofferdam.dev/labels", "app=db,tier=back")]);
    let addresses = db.endpoint(&scene).addresses;
    assert_eq!(addresses.len(), 2, "one of each family");
    let serving = cri.serving(&scene, &db);

    // Two containers whose first act is a connection.
    let web = cri.started("web", &[("cofferdam.dev/labels", "app=web")]);
    assert_eq!(cri.run_in(&web, &connecting(&addresses, 10)), 2);
    // Runtimes pass a pod's annotations, and not its labels, which are those of web.
    let stranger = cri.started("stranger", &[("other", "app=web")]);
    assert_eq!(cri.run_in(&stranger, &connecting(&addresses, 1)), 0);
    // What stood in between was the policy.
    let reached = [&web, &stranger].map(|one| cri.serving(&scene, one));
    serving.assert_reaches(&reached[0]);
    serving.assert_reaches(&reached[1]);

    let labels = |sandbox: &Sandbox| json!(sandbox.endpoint(&scene).labels);
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
    let mut cri = Cri::start(&scene);
    let labels = [("cofferdam.dev/labels", "app=db")];
    let first = cri.started("db", &labels);
    first.endpoint(&scene);
    // The plugin in front cannot give its address back, and keeps the interface.
    let leases = scene.leases().join("pods");
    let aside = scene.leases().join("aside");
    fs::rename(&leases, &aside).expect("a folder");
    fs::write(&leases, "").expect("a file");
    let stopped = cri.stop(&first.id);
    let all = scene.agent.endpoints();
    fs::remove_file(&leases).expect("a file");
    fs::rename(&aside, &leases).expect("a folder");
    let failed = stopped.expect_err("no folder of leases");
    assert!(failed.contains("leases/pods"), "{failed}");
    assert!(all.len() == 1 && all[0].leaving, "{all:?}");
    cri.remove(&first.id);
    (scene.agent).wait_until("it has gone", |status| status.endpoints.is_empty());

    // A kubelet makes the sandbox of a pod anew under the same name.
    let second = cri.started("db", &labels);
    second.endpoint(&scene);
    cri.stop(&second.id).expect("it is stopped");
    assert_eq!(scene.endpoints(), Vec::<String>::new());
    cri.remove(&second.id);
    (scene.agent).wait_until("it has gone", |status| status.endpoints.is_empty());

    // Without an agent no pod starts; the next try does, once there is one.
    scene.agent.kill();
    let refused = cri.run("db", &labels).err().expect("no agent");
    assert!(refused.contains("no agent answers"), "{refused}");
    assert_eq!(cri.sandboxes(), Vec::<String>::new());
    scene.agent.start_enforced();
    cri.started("db", &labels).endpoint(&scene);
}
