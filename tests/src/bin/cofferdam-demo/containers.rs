//! Container runtimes that the shop's workloads can run in.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
#[cfg(feature = "cri")]
use cofferdam_tests::runtimes::cri::Cri;
use cofferdam_tests::{
    cni::{Attaching, Network},
    runtimes::{Backend, Ground, Podman, attached, programs},
    scratch::Scratch,
    world::Namespace,
};

use crate::premises::Premises;

/// Program of every container. Servers and clients enter its network namespace from outside.
const PROGRAM: [&str; 2] = ["/bin/sleep", "1d"];

/// A container runtime, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// Pods, as a kubelet asks for them.
    #[cfg(feature = "cri")]
    Containerd,
    /// Containers with networks by netavark.
    Podman,
}

/// Network of the workloads, for whichever runtime makes it.
pub(crate) struct Wiring<'w> {
    /// As a chain of CNI plugins.
    pub(crate) chain: Network,
    /// Name of its bridge.
    pub(crate) bridge: &'w str,
    /// Its subnets, each with its gateway.
    pub(crate) subnets: [(&'w str, &'w str); 2],
}

/// A runtime and its containers, which are removed when it is dropped.
pub(crate) enum Containers {
    /// containerd, with a sandbox for each.
    #[cfg(feature = "cri")]
    Containerd(Box<Cri>),
    /// podman, and the name of the network that it has made.
    Podman { podman: Podman, network: String },
}

impl Engine {
    /// Programs that it needs.
    fn needs(self) -> &'static [&'static str] {
        match self {
            #[cfg(feature = "cri")]
            Self::Containerd => &["containerd", "ctr", "runc", "busybox", "nsenter", "ip"],
            Self::Podman => &[
                "podman", "conmon", "netavark", "iptables", "runc", "busybox", "nsenter", "ip",
            ],
        }
    }

    /// Says in words what it starts and how that is wired.
    pub(crate) fn described(self) -> &'static str {
        match self {
            #[cfg(feature = "cri")]
            Self::Containerd => {
                "pods of containerd, wired by the bridge plugin with cofferdam-cni behind it"
            }
            Self::Podman => {
                "containers of podman, wired by netavark; cofferdam-cni is a hook of runc"
            }
        }
    }

    /// Starts it on a node.
    pub(crate) fn start(
        self,
        node: &Namespace,
        plugin: &Path,
        wiring: &Wiring<'_>,
        premises: &Premises,
    ) -> Result<Containers> {
        if let Err(missing) = programs(self.needs()) {
            bail!("{missing}: `cargo xtask setup` installs them");
        }
        let ground = Ground::new(Scratch::within(premises.folder()), plugin);
        match self {
            #[cfg(feature = "cri")]
            Self::Containerd => {
                let cri = Cri::start(node, ground, &wiring.chain, &PROGRAM);
                Ok(Containers::Containerd(Box::new(cri)))
            }
            Self::Podman => {
                let backend = Backend::Netavark(premises.run_dir());
                let podman = Podman::new(node, ground, &backend);
                let network = wiring.chain.name.clone();
                podman.bridge(&network, wiring.bridge, wiring.subnets);
                Ok(Containers::Podman { podman, network })
            }
        }
    }
}

impl Containers {
    /// Starts a workload's container; its verdicts are in force before its program runs.
    pub(crate) fn run(&mut self, namespace: &str, name: &str) -> Result<Attaching> {
        match self {
            #[cfg(feature = "cri")]
            Self::Containerd(cri) => {
                let sandbox = cri.run([namespace, name], &[], &[]);
                let sandbox =
                    sandbox.map_err(|why| anyhow::anyhow!("no pod {namespace}/{name}: {why}"))?;
                Ok(attached(&sandbox.id, cri.pid(&sandbox)))
            }
            Self::Podman { podman, network } => {
                let container = format!("{namespace}-{name}");
                let annotations = [("namespace", namespace), ("name", name)];
                let output = podman
                    .run(&container, network, &annotations, &PROGRAM)
                    .output()
                    .context("cannot start podman")?;
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr);
                    bail!("no container {container}: {}", said.trim());
                }
                Ok(attached(&container, podman.pid(&container)))
            }
        }
    }
}
