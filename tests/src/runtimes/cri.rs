//! containerd's CRI: pod sandboxes as a kubelet asks for them, over gRPC.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Instant;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ImageSpec, ImageStatusRequest, ListPodSandboxRequest, PodSandboxConfig, PodSandboxMetadata,
    PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};
use tower::service_fn;

use super::{Daemon, Ground, PATIENCE, image};
use crate::cni::Network;
use crate::world::Namespace;

/// Name of the image that sandboxes and their containers run. No registry has it.
const IMAGE: &str = "cofferdam.test/shell:1";

/// containerd, asked as a kubelet asks it. Sandboxes are removed when it is dropped.
#[derive(Debug)]
pub struct Cri {
    /// Waits for its answers.
    pub runtime: Runtime,
    /// Client of its pods and containers.
    pub pods: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// Pods that were asked for, the last try of each.
    asked: BTreeMap<String, PodSandboxConfig>,
    // Behind the channel to it.
    daemon: Daemon,
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Name of its pod.
    pub name: String,
}

impl Cri {
    /// Starts containerd on a node, with this network for all pods. A sandbox's own container
    /// runs `program`.
    ///
    /// # Panics
    ///
    /// Panics if it does not answer, or cannot import the image.
    pub fn start(node: &Namespace, ground: Ground, network: &Network, program: &[&str]) -> Self {
        Self::start_behind(node, ground, network, program, &[])
    }

    /// The same behind words that run it in surroundings of its own: `unshare --mount`, say.
    ///
    /// # Panics
    ///
    /// Panics if it does not answer, or cannot import the image.
    pub fn start_behind(
        node: &Namespace,
        ground: Ground,
        network: &Network,
        program: &[&str],
        words: &[String],
    ) -> Self {
        let networks = ground.network(network);
        // Namespaces lie with the rest, unless /run is its own. Nothing here may make a process
        // less likely to be killed for want of memory, and copies of the image's files need
        // no file system of the kernel's.
        let settings = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = {IMAGE:?}\nrestrict_oom_score_adj = true\n\
             disable_apparmor = true\nnetns_mounts_under_state_dir = {}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {:?}\nconf_dir = {networks:?}\n",
            words.is_empty(),
            ground.path("bin"),
        );
        let root = ground.path("rootfs");
        let image = image::archive(&root, IMAGE, program, &ground.folder("image"));
        let daemon = Daemon::start_behind(node, ground, &settings, words);
        let runtime = Builder::new_current_thread()
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
        let channel = runtime
            .block_on(endpoint.connect_with_connector(connect))
            .expect("a connection");
        let cri = Self {
            runtime,
            pods: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
            asked: BTreeMap::new(),
            daemon,
        };
        let mut cri = cri;
        cri.import(&image, IMAGE);
        cri
    }

    /// Returns the folder of what belongs to it.
    pub fn ground(&self) -> &Ground {
        &self.daemon.ground
    }

    /// Imports an archive with an image of this name, and waits until pods can run it.
    ///
    /// # Panics
    ///
    /// Panics if the archive has none of that name.
    pub fn import(&mut self, archive: &Path, name: &str) {
        let archive = archive.display().to_string();
        let import = ["images", "import", "--snapshotter", "native", &archive];
        let import = (self.daemon).ctr(&[&["--namespace", "k8s.io"], &import[..]].concat());
        assert!(import.status.success(), "{import:?}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = ImageStatusRequest {
                image: Some(ImageSpec {
                    image: name.to_owned(),
                    ..ImageSpec::default()
                }),
                verbose: false,
            };
            let status = self.runtime.block_on(self.images.image_status(request));
            if status.expect("a status").into_inner().image.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Asks for a pod of a namespace, whose labels are these in Kubernetes, with annotations.
    ///
    /// # Errors
    /// The log of containerd.
    pub fn run(
        &mut self,
        [namespace, name]: [&str; 2],
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
    ) -> Result<Sandbox, String> {
        let texts = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: namespace.to_owned(),
                attempt: 0,
            }),
            labels: texts(labels),
            annotations: texts(annotations),
            ..PodSandboxConfig::default()
        };
        self.run_pod(config)
    }

    /// Asks for a pod with everything that a kubelet may say of it, but for its place on the
    /// host.
    ///
    /// # Errors
    /// The log of containerd.
    ///
    /// # Panics
    ///
    /// Panics if it has no name.
    pub fn run_pod(&mut self, mut config: PodSandboxConfig) -> Result<Sandbox, String> {
        let metadata = config.metadata.as_mut().expect("a name");
        let name = metadata.name.clone();
        let last = self.asked.get(&name).and_then(|pod| pod.metadata.as_ref());
        metadata.attempt = last.map_or(0, |last| last.attempt + 1);
        if config.linux.is_none() {
            // In a network namespace of its own, and so with a name of its own.
            config.hostname.clone_from(&name);
        }
        config.log_directory = self.daemon.ground.folder("logs").display().to_string();
        self.asked.insert(name.clone(), config.clone());
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let run = self.runtime.block_on(self.pods.run_pod_sandbox(request));
        let id = run.map_err(message)?.into_inner().pod_sandbox_id;
        Ok(Sandbox { id, name })
    }

    /// Returns the pod as it was asked for last.
    pub fn asked(&self, name: &str) -> Option<PodSandboxConfig> {
        self.asked.get(name).cloned()
    }

    /// Returns the process of a sandbox's own container.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn pid(&mut self, sandbox: &Sandbox) -> u32 {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            verbose: true,
        };
        let status = done(self.runtime.block_on(self.pods.pod_sandbox_status(request)));
        let info: Value = serde_json::from_str(&status.info["info"]).expect("JSON");
        let pid = info["pid"].as_u64().and_then(|pid| pid.try_into().ok());
        pid.expect("a process")
    }

    /// Removes a sandbox.
    ///
    /// # Panics
    ///
    /// Panics if containerd does not.
    pub fn remove(&mut self, id: &str) {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        done(self.runtime.block_on(self.pods.remove_pod_sandbox(request)));
    }

    /// Returns the ids of the sandboxes that there are, in any state.
    pub fn sandboxes(&mut self) -> Vec<String> {
        let request = ListPodSandboxRequest { filter: None };
        let list = self
            .runtime
            .block_on(self.pods.list_pod_sandbox(request))
            .map(|list| list.into_inner().items)
            .unwrap_or_default();
        list.into_iter().map(|one| one.id).collect()
    }

    /// Returns containerd's log.
    pub fn log(&self) -> String {
        self.daemon.log()
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

/// Returns the image that sandboxes run, for containers in them.
pub fn image_spec() -> ImageSpec {
    ImageSpec {
        image: IMAGE.to_owned(),
        ..ImageSpec::default()
    }
}

/// Returns what containerd says of a failure, without the channel's words.
pub fn message(status: Status) -> String {
    status.message().to_owned()
}

/// Returns containerd's answer.
///
/// # Panics
///
/// Panics if it is a failure.
#[track_caller]
pub fn done<T>(answer: Result<Response<T>, Status>) -> T {
    answer
        .unwrap_or_else(|status| panic!("{status}"))
        .into_inner()
}
