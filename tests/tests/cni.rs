//! The CNI plugin in chains of the standard plugins, with a real agent and real packets.

#[path = "cni/attachments.rs"]
mod attachments;
#[path = "cni/chains.rs"]
mod chains;
#[path = "cni/checks.rs"]
mod checks;
#[path = "cni/cri.rs"]
mod cri;
#[path = "cni/input.rs"]
mod input;
#[path = "cni/install.rs"]
mod install;
#[path = "cni/labels.rs"]
mod labels;
#[path = "cni/podman.rs"]
mod podman;
#[path = "cni/runtimes.rs"]
mod runtimes;
#[path = "cni/scene.rs"]
mod scene;
#[path = "cni/without_agent.rs"]
mod without_agent;
