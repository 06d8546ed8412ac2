//! A real agent in a large cluster: how long a change takes until it is in force, and
//! what the agent needs for that.
//!
//! The node has 250 workloads, each a network namespace; all others are documents.
//! Times are those of whole commands, their own process included.

use std::{hint::black_box, time::Instant};

use anyhow::ensure;
use cofferdam_tests::{
    agent::Agent,
    cluster::{Cluster, Size},
    world::{Wiring, World},
};

use crate::{
    agent::{AgentResult, result},
    report::memory_kib,
};

/// The agent's settings: two addresses for each of 100 000 pods.
const SETTINGS: &str = "limits: {endpoints: 256, slots: 262144, flows_per_endpoint: 1024}\n";
const PODS_PER_NODE: usize = 250;

/// Measures an agent in a cluster of so many pods.
pub(crate) fn run(pods: usize, samples: usize) -> anyhow::Result<Vec<AgentResult>> {
    let binary = std::env::current_exe()?.with_file_name("cofferdam");
    ensure!(
        binary.exists(),
        "{} is missing: build package cofferdam-controller in the same profile",
        binary.display()
    );
    let size = Size {
        pods,
        policies: pods / 10,
        pods_per_node: PODS_PER_NODE,
    };
    let cluster = Cluster::new(size, 1);
    let local = cluster.local_pods();
    let endpoints = local.len();
    let world = World::plan(Wiring::Ptp).workloads(local).build()?;
    let mut agent = Agent::new(&binary, &world).settings(SETTINGS);
    for file in cluster.files() {
        agent.document(&file.name, &file.text);
    }
    let timed = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64() * 1e3
    };
    let start = timed(&mut || drop(black_box(agent.start_enforced())));
    let adds: Vec<f64> = (world.workloads().iter())
        .map(|workload| timed(&mut || drop(agent.add(workload, &[]))))
        .collect();
    let unchanged: Vec<f64> = (0..samples)
        .map(|_| timed(&mut || drop(agent.sync())))
        .collect();
    let changed: Vec<f64> = (0..samples)
        .map(|i| {
            let policy = cluster.one_more_policy(i);
            timed(&mut || {
                agent.document("one-more.yaml", &policy);
                assert!(agent.sync().enforced, "{}", agent.log());
            })
        })
        .collect();
    let memory = memory_kib(&agent.pid().to_string(), "RssAnon")?;
    agent.stop();

    let of = |figure, unit, samples: &[f64]| {
        result(figure, unit, samples).of(endpoints, pods - endpoints)
    };
    let results = vec![
        of("start_to_enforced", "ms", &[start]),
        of("endpoint_add", "ms", &adds),
        of("sync_unchanged", "ms", &unchanged),
        of("policy_changed_to_in_force", "ms", &changed),
        of("rss_anon", "KiB", &[memory]),
    ];
    results.iter().for_each(AgentResult::print);
    Ok(results)
}
