//! Tests of `deploy/`: manifests, chart and container image.

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/cluster.rs"]
mod cluster;
#[path = "deploy/manifests.rs"]
mod manifests;
