//! A real agent in a large cluster: how long a change takes until it is in force, and
//! what the agent needs for that.
//!
//! The node has 250 workloads, each a network namespace; all others are documents.
//! Then come some that are like these, which no document knows.
//! Times are those of whole commands, their own process included; of what the agent
//! says itself, those of the step: until a workload has its place, and from a request
//! to the moment at which the kernel is given the table (it then waits for a grace
//! period, and the state directory is written).

use std::{
    hint::black_box,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use cofferdam_documents::{assemble, parse};
use cofferdam_inventory::Workload as Pod;
use cofferdam_tests::{
    agent::Agent,
    cluster::{Cluster, Size},
    world::{Wiring, Workload, World},
};

use crate::{
    agent::{AgentResult, beside_this, result},
    report::memory_kib,
};

/// The agent's settings: two addresses for each of 100 000 pods.
const SETTINGS: &str = "limits: {endpoints: 300, slots: 262144, flows_per_endpoint: 1024}\n";
const PODS_PER_NODE: usize = 250;
/// Workloads like others, in different applications.
const TWINS: usize = 20;
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);

/// Measures an agent in a cluster of so many pods.
pub(crate) fn run(pods: usize, samples: usize) -> anyhow::Result<Vec<AgentResult>> {
    let binary = beside_this("cofferdam")?;
    let size = Size {
        pods,
        policies: pods / 10,
        pods_per_node: PODS_PER_NODE,
    };
    let cluster = Cluster::new(size, 1);
    let local = cluster.local_pods();
    let endpoints = local.len();
    let twins: Vec<Pod> = (0..TWINS)
        .filter_map(|i| twin(&cluster, i * endpoints / TWINS))
        .collect();
    let names = twins.iter().map(|twin| twin.name.to_string());
    let world = World::plan(Wiring::Ptp)
        .workloads(local.into_iter().chain(names))
        .build()?;
    let (local, late) = world.workloads().split_at(endpoints);
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
    let adds: Vec<f64> = (local.iter())
        .map(|workload| timed(&mut || drop(agent.add(workload, &[]))))
        .collect();
    let before = agent.status().revision;
    let late_adds: Vec<f64> = (late.iter().zip(&twins))
        .map(|(workload, twin)| timed(&mut || add_like(&agent, workload, twin)))
        .collect();
    let status = agent.status();
    ensure!(
        status.enforced && status.tamper_events == 0,
        "{}",
        agent.log()
    );
    ensure!(
        status.revision == before,
        "a workload like others took a new table:\n{}",
        agent.log()
    );
    let placed = placed_us(&agent.log())?;
    await_links(&agent);
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
    let given = last_given(&agent, samples)?;
    let relabelled: Vec<f64> = (0..=samples)
        .map(|i| {
            let pod = cluster.pod_elsewhere(i);
            timed(&mut || {
                agent.document("elsewhere.yaml", &pod);
                assert!(agent.sync().enforced, "{}", agent.log());
            })
        })
        .skip(1) // The pod comes.
        .collect();
    let relabels = last_given(&agent, samples)?;
    let memory = memory_kib(&agent.pid().to_string(), "RssAnon")?;
    agent.stop();

    let of = |figure, unit, samples: &[f64]| {
        result(figure, unit, samples).of(endpoints, pods - endpoints)
    };
    let results = vec![
        of("start_to_enforced", "ms", &[start]),
        of("endpoint_add", "ms", &adds),
        of("endpoint_like_others_add", "ms", &late_adds),
        of("endpoint_like_others_placed", "us", &placed),
        of("sync_unchanged", "ms", &unchanged),
        of("policy_changed_to_in_force", "ms", &given),
        of("policy_changed_and_synced", "ms", &changed),
        of("relabel_remote", "ms", &relabels),
        of("relabel_remote_synced", "ms", &relabelled),
        of("rss_anon", "KiB", &[memory]),
    ];
    results.iter().for_each(AgentResult::print);
    Ok(results)
}

/// Waits until the links stand on all interfaces: the agent puts them there while nobody
/// asks for anything, each at the price of a grace period, and whoever asks meanwhile
/// waits for one.
fn await_links(agent: &Agent) {
    let (_keep, silence) = mpsc::channel::<()>();
    let stand = || {
        let endpoints = agent.status().endpoints;
        let mut links = endpoints.iter().flat_map(|endpoint| &endpoint.links);
        links.all(|link| link.ok)
    };
    while !stand() {
        // Nobody sends: this only waits.
        _ = silence.recv_timeout(BETWEEN_QUESTIONS);
    }
}

/// A pod like one of the node's.
fn twin(cluster: &Cluster, pod: usize) -> Option<Pod> {
    let text = cluster.twin(pod, "10.64.0.1");
    let inventory = assemble(parse("twin.yaml", text.as_bytes()).documents).inventory;
    inventory.workloads().values().next().cloned()
}

/// Adds a workload with the labels and ports of a pod that no document describes.
fn add_like(agent: &Agent, workload: &Workload, pod: &Pod) {
    let labels = pod.labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let mut arguments = Agent::add_arguments(workload, &labels);
    for port in &pod.ports {
        let protocol = format!("{:?}", port.protocol).to_lowercase();
        arguments.extend([
            "--port".to_owned(),
            format!("{}={protocol}/{}", port.name, port.number),
        ]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = agent.cli(&arguments);
    assert!(output.status.success(), "{output:?}\n{}", agent.log());
}

/// Reads the agent's own measurements of the time to give workloads their place in the table in
/// force: from the desired state before to the address that leads to its slot.
fn placed_us(log: &str) -> anyhow::Result<Vec<f64>> {
    numbers(log, "added to the table in force", "microseconds=")
}

/// The milliseconds from a request until the kernel had the table for it, of the last
/// tables.
fn last_given(agent: &Agent, tables: usize) -> anyhow::Result<Vec<f64>> {
    let mut given = numbers(&agent.log(), " published ", "in_force_us=")?;
    let last = given.drain(given.len().saturating_sub(tables)..);
    Ok(last.map(|us| us / 1e3).collect())
}

/// The numbers that lines of a log give for something.
fn numbers(log: &str, line: &str, field: &str) -> anyhow::Result<Vec<f64>> {
    let lines = log.lines().filter(|one| one.contains(line));
    let numbers: Vec<f64> = lines
        .filter_map(|line| {
            let (_, rest) = line.split_once(field)?;
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .collect();
    ensure!(
        !numbers.is_empty(),
        "the agent says of nothing that it was {line}"
    );
    Ok(numbers)
}
