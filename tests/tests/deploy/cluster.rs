//! A node of a cluster: containerd starts the pod of the DaemonSet from its image, as the
//! manifest says, and then pods that the agent in it protects.
//!
//! containerd has a mount namespace of its own, in which the host's paths of the manifest are
//! what a fresh node has.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_tests::api_server::{ApiServer, Role};
use cofferdam_tests::cni::{Attaching, Network, ptp, standard_plugins};
use cofferdam_tests::packet::Family;
use cofferdam_tests::runtimes::cri::{Cri, Sandbox, done};
use cofferdam_tests::runtimes::{Ground, PATIENCE, attached, programs};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::shop::DB_FROM_WEB;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Probe, Server, probe};
use cofferdam_tests::world::{Namespace, Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};
use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest,
    ImageSpec, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemoveContainerRequest,
    SecurityProfile, StartContainerRequest, StopContainerRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::manifests::{KUBECTL, objects, of_kind, rendered};

const PORT: u16 = 5432;
/// The DaemonSet, as its manifest names it.
const NAME: [&str; 2] = ["cofferdam-system", "cofferdam"];
/// Time that what should be blocked is given to get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(300);

const PLUGINS: Feature = Feature::Other("cni-plugins", || standard_plugins().map(drop));
const CONTAINERD: Feature = Feature::Other("containerd", || {
    programs(&[
        "containerd",
        "ctr",
        "runc",
        "busybox",
        "setpriv",
        "unshare",
        "strip",
        "ldd",
    ])
});

/// Makes a mount namespace into a fresh node's, and goes on with the words after the folders of
/// networks and plugins.
const FRESH_NODE: &str = "\
    mount -t tmpfs none /run && mount -t tmpfs none /var/lib && \
    mount -t bpf none /sys/fs/bpf && \
    mount --bind \"$1\" /etc/cni/net.d && mount --bind \"$2\" /opt/cni/bin && \
    mkdir -p /run/cofferdam /run/netns /var/lib/cofferdam && \
    shift 2 && exec \"$@\"";

/// Returns the archive of the image that is to be tried, or makes one of the binaries of this
/// build and the libraries that they ask for.
fn image(ground: &Ground, name: &str) -> PathBuf {
    if let Some(archive) = env::var_os("COFFERDAM_IMAGE") {
        return archive.into();
    }
    let root = ground.folder("agent");
    let bin = ground.folder("agent/usr/bin");
    ground.folder("agent/var");
    ground.folder("agent/run");
    symlink("../run", root.join("var/run")).expect("a link");
    let plugin = env!("CARGO_BIN_EXE_cofferdam-cni-in-tests");
    for (from, to) in [
        (cofferdam!(), "cofferdam"),
        (Path::new(plugin), "cofferdam-cni"),
    ] {
        let strip = Command::new("strip")
            .arg("-o")
            .arg(bin.join(to))
            .arg(from)
            .status();
        assert!(strip.expect("it can be run").success());
        let asked = Command::new("ldd")
            .arg(from)
            .output()
            .expect("it can be run");
        let asked = String::from_utf8(asked.stdout).expect("text");
        for library in asked
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let place = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
            fs::copy(library, place).expect("a copy");
        }
    }
    ground.image(&root, name, &["/usr/bin/cofferdam"])
}

/// A node of the cluster.
struct Node {
    cri: Cri,
    server: ApiServer,
    world: World,
    /// The DaemonSet's pod template.
    pod: Value,
    /// Folders of what is mounted beside the host's paths, and the environment of pods.
    config: PathBuf,
    account: PathBuf,
    environment: Vec<(String, String)>,
    /// The file with the node's network, and its text before anything was installed.
    network: (PathBuf, String),
    running: Option<(Sandbox, Vec<String>)>,
}

impl Node {
    /// A node with a network, and no agent.
    fn new() -> Self {
        for folder in ["/etc/cni/net.d", "/opt/cni/bin"] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let world = World::plan(Wiring::Ptp).build().expect("a node");
        let namespace = &world.node().namespace;
        let server = ApiServer::start_tls(namespace);
        let ground = Ground::new(Scratch::new(), Path::new("/nowhere"));
        // Installing brings it.
        fs::remove_file(ground.path("bin/cofferdam-cni")).expect("a link");
        let network = Network {
            name: "pods".to_owned(),
            version: "1.0.0".to_owned(),
            plugins: vec![ptp(61, &ground.folder("leases"))],
        };
        let folder = ground.network(&network);
        let file = folder.join("10-n.conflist");
        let text = fs::read_to_string(&file).expect("a file");
        let rendered = rendered();
        let pod = of_kind(&rendered, "DaemonSet")["spec"]["template"]["spec"].clone();
        let image_name = pod["containers"][0]["image"]
            .as_str()
            .expect("a name")
            .to_owned();
        let archive = image(&ground, &image_name);
        let config = ground.folder("config");
        let data = of_kind(&rendered, "ConfigMap")["data"]
            .as_object()
            .expect("texts");
        for (name, text) in data {
            fs::write(config.join(name), text.as_str().expect("text")).expect("a file");
        }
        let account = ground.folder("account");
        let environment = server
            .write_service_account(&account, NAME[0])
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec();
        let mut words = [
            "unshare",
            "--mount",
            "--propagation",
            "shared",
            "sh",
            "-c",
            FRESH_NODE,
            "sh",
        ]
        .map(str::to_owned)
        .to_vec();
        words.extend([&folder, &ground.path("bin")].map(|path| path.display().to_string()));
        let sleep = ["/bin/sleep", "600"];
        let mut cri = Cri::start_behind(namespace, ground, &network, &sleep, &words);
        cri.import(&archive, &image_name);
        // The rights of the service account, and no others.
        let mut own = of_kind(&rendered, "Role").clone();
        own["kind"] = "ClusterRole".into();
        server.allow_only(Role::of(of_kind(&rendered, "ClusterRole")).and(Role::of(&own)));
        for object in rendered {
            if object["kind"] == "DaemonSet" {
                server.put(object);
            }
        }
        server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        server.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
        server.apply(DB_FROM_WEB);
        Self {
            cri,
            server,
            world,
            pod,
            config,
            account,
            environment,
            network: (file, text),
            running: None,
        }
    }

    /// Starts the pod of the DaemonSet, as a kubelet has it started.
    fn start_agent(&mut self) {
        let is_on_host = self.pod["hostNetwork"].as_bool().expect("a flag");
        let network = if is_on_host {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        };
        let options = NamespaceOption {
            network: network.into(),
            ..NamespaceOption::default()
        };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: NAME[1].to_owned(),
                uid: "uid-of-cofferdam".to_owned(),
                namespace: NAME[0].to_owned(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options.clone()),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let sandbox = self
            .cri
            .run_pod(config)
            .unwrap_or_else(|message| panic!("{message}: {}", self.cri.log()));
        let containers = self.pod["containers"].as_array().expect("a list").clone();
        let mut ids = Vec::new();
        for container in &containers {
            let config = self.container(container, &options);
            let create = CreateContainerRequest {
                pod_sandbox_id: sandbox.id.clone(),
                config: Some(config),
                sandbox_config: self.cri.asked(&sandbox.name),
            };
            let cri = &mut self.cri;
            let created = cri.runtime.block_on(cri.pods.create_container(create));
            let id = done(created).container_id;
            let start = StartContainerRequest {
                container_id: id.clone(),
            };
            done(cri.runtime.block_on(cri.pods.start_container(start)));
            ids.push(id);
        }
        self.running = Some((sandbox, ids));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (code, text) = self.ask("/readyz");
            if code == 200 && self.is_installed() {
                return;
            }
            assert!(Instant::now() < deadline, "{code} {text}: {}", self.logs());
            std::thread::yield_now();
        }
    }

    /// Says of a container what a kubelet says of it.
    fn container(&self, spec: &Value, options: &NamespaceOption) -> ContainerConfig {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut environment = self.environment.clone();
        if spec["name"] == "agent" {
            assert_eq!(
                spec["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
                "spec.nodeName"
            );
            environment.push((text(&spec["env"][0]["name"]), "n1".to_owned()));
        }
        let expanded = |argument: &Value| {
            let expand = |argument: String, (name, value): &(String, String)| {
                argument.replace(&format!("$({name})"), value)
            };
            environment.iter().fold(text(argument), expand)
        };
        let volumes = list(&self.pod["volumes"]);
        let mut mounts = vec![Mount {
            container_path: "/var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
            host_path: self.account.display().to_string(),
            readonly: true,
            ..Mount::default()
        }];
        for mount in list(&spec["volumeMounts"]) {
            let mut named = volumes
                .iter()
                .filter(|volume| volume["name"] == mount["name"]);
            let volume = named.next().expect("a volume");
            let host_path = match volume["hostPath"]["path"].as_str() {
                Some(path) => path.to_owned(),
                None => self.config.display().to_string(),
            };
            mounts.push(Mount {
                container_path: text(&mount["mountPath"]),
                host_path,
                readonly: mount["readOnly"] == true,
                propagation: i32::from(mount["mountPropagation"] == "HostToContainer"),
                ..Mount::default()
            });
        }
        let security = &spec["securityContext"];
        let capabilities = &security["capabilities"];
        let names = |of: &str| list(&capabilities[of]).iter().map(text).collect();
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        let memory = text(&spec["resources"]["limits"]["memory"]);
        let mebibytes = memory
            .strip_suffix("Mi")
            .and_then(|number| number.parse::<i64>().ok());
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: text(&spec["name"]),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: text(&spec["image"]),
                ..ImageSpec::default()
            }),
            args: list(&spec["args"]).iter().map(expanded).collect(),
            envs: environment
                .iter()
                .map(|(key, value)| KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
            mounts,
            log_path: format!("{}.log", text(&spec["name"])),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    memory_limit_in_bytes: mebibytes.expect("MiB") << 20,
                    ..LinuxContainerResources::default()
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    capabilities: Some(Capability {
                        add_capabilities: names("add"),
                        drop_capabilities: names("drop"),
                        ..Capability::default()
                    }),
                    privileged: security["privileged"] == true,
                    namespace_options: Some(options.clone()),
                    run_as_user: security["runAsUser"]
                        .as_i64()
                        .map(|value| Int64Value { value }),
                    readonly_rootfs: security["readOnlyRootFilesystem"] == true,
                    no_new_privs: security["allowPrivilegeEscalation"] == false,
                    seccomp: Some(SecurityProfile::default()),
                    ..LinuxContainerSecurityContext::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    /// Ends the pod of the DaemonSet, as a kubelet does.
    fn stop_agent(&mut self) {
        let (sandbox, containers) = self.running.take().expect("it runs");
        let cri = &mut self.cri;
        for container_id in containers {
            let stop = StopContainerRequest {
                container_id: container_id.clone(),
                timeout: self.pod["terminationGracePeriodSeconds"]
                    .as_i64()
                    .expect("seconds"),
            };
            done(cri.runtime.block_on(cri.pods.stop_container(stop)));
            let remove = RemoveContainerRequest { container_id };
            done(cri.runtime.block_on(cri.pods.remove_container(remove)));
        }
        cri.remove(&sandbox.id);
    }

    /// Asks the agent at the address of its probes.
    fn ask(&self, path: &str) -> (u16, String) {
        let inside = self.world.node().namespace.enter().expect("a namespace");
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9464));
        drop(inside);
        let Ok(mut stream) = stream else {
            return (0, "nobody listens".to_owned());
        };
        let mut answer = String::new();
        let asked = write!(stream, "GET {path} HTTP/1.1\r\nhost: n\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut answer));
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or(0), format!("{asked:?} {answer}"))
    }

    /// Runs `cofferdam` in the agent's container.
    fn cofferdam(&mut self, arguments: &[&str]) -> Value {
        let (_, containers) = self.running.as_ref().expect("it runs");
        let mut cmd = vec!["/usr/bin/cofferdam".to_owned()];
        cmd.extend(arguments.iter().map(|word| (*word).to_owned()));
        let request = ExecSyncRequest {
            container_id: containers[0].clone(),
            cmd,
            timeout: 30,
        };
        let cri = &mut self.cri;
        let ran = done(cri.runtime.block_on(cri.pods.exec_sync(request)));
        let told = String::from_utf8_lossy(&ran.stderr);
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{told}"))
    }

    fn logs(&self) -> String {
        let folder = self.cri.ground().folder("logs");
        let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let logs = ["agent.log", "install.log"].map(read).join("\n");
        format!("{logs}\n{}", self.cri.log())
    }

    fn network(&self) -> String {
        fs::read_to_string(&self.network.0).expect("a file")
    }

    fn is_installed(&self) -> bool {
        self.network().contains("\"cofferdam-cni\"")
    }

    /// Asks for a pod of this name and label, which the API server knows.
    fn pod(&mut self, app: &str) -> Result<Pod, String> {
        self.server.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": app, "namespace": "shop", "uid": format!("uid-of-{app}"),
                "labels": {"app": app},
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Pending"},
        }));
        let sandbox = self.cri.run(["shop", app], &[], &[])?;
        let pid = self.cri.pid(&sandbox);
        let attaching = attached(&sandbox.id, pid);
        let server = Server::start(attaching.place(), &[Probe::Tcp(PORT)]).expect("a server");
        Ok(Pod {
            attaching,
            _server: server,
        })
    }

    fn started(&mut self, app: &str) -> Pod {
        let pod = self.pod(app);
        pod.unwrap_or_else(|message| panic!("{message}: {}", self.logs()))
    }
}

/// A pod that runs, with a server at [`PORT`].
struct Pod {
    attaching: Attaching,
    _server: Server,
}

impl Pod {
    /// Says if it can connect to another, in either family; both must agree.
    fn reaches(&self, other: &Self, patience: Duration) -> bool {
        let outcomes = Family::BOTH.map(|family| {
            let to = other.attaching.place().ip(family);
            let outcome = probe(self.attaching.place(), to, Probe::Tcp(PORT), patience);
            outcome.expect("a probe").is_reached()
        });
        assert_eq!(outcomes[0], outcomes[1], "families differ");
        outcomes[0]
    }
}

fn assert_judged([web, db, stranger]: [&Pod; 3]) {
    assert!(web.reaches(db, PATIENCE), "web reaches the database");
    assert!(!stranger.reaches(db, UNTIL_BLOCKED), "a stranger does not");
    assert!(stranger.reaches(web, PATIENCE), "nor is it cut off");
}

#[test]
fn a_node_is_protected_and_given_back() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    skip_unless!(CONTAINERD);
    skip_unless!(KUBECTL);
    let mut node = Node::new();
    node.start_agent();
    let [db, web] = ["db", "web"].map(|app| node.started(app));
    let stranger = node.started("stranger");
    assert_judged([&web, &db, &stranger]);
    let status = node.cofferdam(&["status", "--format", "json"]);
    assert_eq!(status["enforced"], true);
    let endpoints = status["endpoints"].as_array().expect("a list");
    assert_eq!(endpoints.len(), 3, "{status}");

    // An update ends the pod of the DaemonSet. The plugin stays, and what is in force; no pod
    // starts until the next agent is there.
    node.stop_agent();
    assert!(node.is_installed(), "{}", node.logs());
    assert_judged([&web, &db, &stranger]);
    let refused = node.pod("late").err().expect("no agent");
    assert!(refused.contains("no agent answers"), "{refused}");
    node.start_agent();
    drop(node.started("late"));
    let endpoints = node.cofferdam(&["endpoint", "list", "--format", "json"]);
    assert_eq!(endpoints["endpoints"].as_array().expect("a list").len(), 4);

    // The DaemonSet is removed: the node's network is as it was, and pods start.
    node.server.delete("DaemonSet", NAME[0], NAME[1]);
    node.stop_agent();
    assert_eq!(node.network(), node.network.1, "{}", node.logs());
    assert!(!node.cri.ground().path("bin/cofferdam-cni").exists());
    let free = node.started("free");
    assert!(free.reaches(&web, PATIENCE));
    // Pods that ran stay under the policies that were last in force.
    assert_judged([&web, &db, &stranger]);
}

/// `cofferdam install --watch` on a node's own file system.
struct Installer {
    child: Child,
    network: PathBuf,
    before: String,
    _folder: Scratch,
}

impl Installer {
    fn start(namespace: &Namespace, server: &ApiServer, token: &str) -> Self {
        let folder = Scratch::new();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("net.d")).expect("a folder");
        let network = path("net.d/10-n.conflist");
        let plugins = json!([{"type": "ptp"}]);
        let before = json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}).to_string();
        fs::write(&network, &before).expect("a file");
        let kubeconfig = server.write_kubeconfig(folder.path());
        let text = fs::read_to_string(&kubeconfig)
            .expect("a file")
            .replace(cofferdam_tests::api_server::TOKEN, token);
        fs::write(&kubeconfig, text).expect("a file");
        let inside = namespace.enter().expect("a namespace");
        let child = Command::new(cofferdam!())
            .args(["install", "--watch", "--uninstall-with", &NAME.join("/")])
            .arg("--plugin")
            .arg(env!("CARGO_BIN_EXE_cofferdam-cni-in-tests"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cni-conf-dir")
            .arg(path("net.d"))
            .arg("--cni-bin-dir")
            .arg(path("bin"))
            .stdout(Stdio::null())
            .spawn();
        drop(inside);
        let installer = Self {
            child: child.expect("it can be run"),
            network,
            before,
            _folder: folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while installer.text() == installer.before {
            assert!(Instant::now() < deadline, "it installs");
            std::thread::yield_now();
        }
        installer
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.network).expect("a file")
    }

    /// Tells it to end. Returns `true` if it has uninstalled, and its exit status.
    fn end(mut self) -> (bool, Option<i32>) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        (self.text() == self.before, status.code())
    }
}

/// Removing an agent must not leave pods that cannot start, and an API server that is away for a
/// moment must not open nodes.
#[test]
fn only_a_daemon_set_that_is_removed_takes_the_plugin_with_it() {
    skip_unless!(Feature::NetworkNamespaces);
    let namespace = Namespace::new().expect("a namespace");
    let server = ApiServer::start_tls(&namespace);
    let token = cofferdam_tests::api_server::TOKEN;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": NAME[1], "namespace": NAME[0]},
    });
    let end = |token| Installer::start(&namespace, &server, token).end();
    server.put(set.clone());
    assert_eq!(end(token), (false, Some(0)), "an update");
    // Its service account went first.
    assert_eq!(end("another"), (true, Some(0)), "no right to ask any more");
    let mut going = set;
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    server.put(going);
    assert_eq!(end(token), (true, Some(0)), "one that waits for its pods");
    server.delete("DaemonSet", NAME[0], NAME[1]);
    assert_eq!(end(token), (true, Some(0)), "one that has gone");
    server.set_away(true);
    assert_eq!(end(token), (false, Some(1)), "nobody knows");
}

/// Manifests by which a cluster refuses the pod are of no use: what is mounted exists, and
/// nothing is asked for twice.
#[test]
fn the_pod_has_what_its_containers_mount() {
    skip_unless!(KUBECTL);
    let rendered = rendered();
    let pod = &of_kind(&rendered, "DaemonSet")["spec"]["template"]["spec"];
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|one| one["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let mut mounted: Vec<String> = Vec::new();
    for container in pod["containers"].as_array().expect("a list") {
        mounted.extend(names(&container["volumeMounts"]));
        let security = &container["securityContext"];
        assert_eq!(security["privileged"], false);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    }
    let mut volumes = names(&pod["volumes"]);
    volumes.sort();
    mounted.sort();
    assert_eq!(volumes, mounted);
    assert!(objects("").is_empty());
}
