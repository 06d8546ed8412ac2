//! Cost of the agent to its node: memory, processor time at rest, and the time until a change
//! is in force.
//!
//! A real agent on a node of network namespaces, as the tests have it, with ten
//! endpoints and a thousand remote workloads.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use cofferdam_tests::{
    agent::Agent,
    world::{Wiring, World},
};
use serde::Serialize;

use crate::report::memory_kib;

const ENDPOINTS: usize = 10;
const REMOTE_WORKLOADS: usize = 1_000;
const POLICIES: usize = 20;

/// Finds a program of the product, built in the same profile as this one.
///
/// # Errors
///
/// Fails if it has not been built.
pub(crate) fn beside_this(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    ensure!(path.exists(), "{} is missing: build it", path.display());
    Ok(path)
}

/// A figure.
#[derive(Debug, Serialize)]
pub(crate) struct AgentResult {
    figure: &'static str,
    unit: &'static str,
    median: f64,
    max: f64,
    samples: usize,
    endpoints: usize,
    remote_workloads: usize,
}

/// Measures the agent, watching it at rest for a time.
pub(crate) fn run(rest: Duration) -> anyhow::Result<Vec<AgentResult>> {
    let binary = beside_this("cofferdam")?;
    let names: Vec<String> = (0..ENDPOINTS).map(|i| format!("shop/w{i}")).collect();
    let world = World::plan(Wiring::Ptp).workloads(names).build()?;
    let mut agent = Agent::new(&binary, &world).settings("");
    agent.document("remote.yaml", &remote_workloads(REMOTE_WORKLOADS, POLICIES));
    agent.document("policies.yaml", &policies(POLICIES));
    agent.start_enforced();

    // The time of the whole command, its own process included.
    let timed = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64() * 1e3
    };
    let adds: Vec<f64> = (0..)
        .zip(world.workloads())
        .map(|(i, workload)| {
            let label = format!("app=app{}", i % POLICIES);
            timed(&mut || drop(agent.add(workload, &[&label])))
        })
        .collect();
    let unchanged: Vec<f64> = (0..20).map(|_| timed(&mut || drop(agent.sync()))).collect();
    let changed: Vec<f64> = (0..20)
        .map(|i| {
            let policy = policy(i, POLICIES, 9_000 + i);
            timed(&mut || {
                agent.document("one.yaml", &policy.replace("name: p", "name: one-p"));
                assert!(agent.sync().enforced, "{}", agent.log());
            })
        })
        .collect();

    let percent = idle_processor(&agent, rest)?;

    let results = vec![
        result(
            "rss_anon",
            "KiB",
            &[memory_kib(&agent.pid().to_string(), "RssAnon")?],
        ),
        result("idle_processor", "% of a core", &[percent]),
        result("endpoint_add", "ms", &adds),
        result("sync_unchanged", "ms", &unchanged),
        result("policy_changed_and_synced", "ms", &changed),
    ];
    agent.stop();
    results.iter().for_each(AgentResult::print);
    Ok(results)
}

impl AgentResult {
    /// The same figure, of a node with so many endpoints in another cluster.
    pub(crate) fn of(self, endpoints: usize, remote_workloads: usize) -> Self {
        Self {
            endpoints,
            remote_workloads,
            ..self
        }
    }

    /// Prints it, for people.
    pub(crate) fn print(&self) {
        let (figure, unit) = (self.figure, self.unit);
        println!(
            "{figure:>28} {:>10.2} {unit} (greatest of {}: {:.2})",
            self.median, self.samples, self.max
        );
    }
}

/// A figure of the small node.
pub(crate) fn result(figure: &'static str, unit: &'static str, samples: &[f64]) -> AgentResult {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    AgentResult {
        figure,
        unit,
        median: sorted[sorted.len() / 2],
        max: sorted[sorted.len() - 1],
        samples: sorted.len(),
        endpoints: ENDPOINTS,
        remote_workloads: REMOTE_WORKLOADS,
    }
}

/// Documents of so many workloads of another node, in so many applications.
pub(crate) fn remote_workloads(count: usize, applications: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let app = i % applications;
        let (high, low) = (i / 250, i % 250 + 1);
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: remote-{i}, \
             labels: {{app: app{app}, instance: i{i}}}}}\nspec: {{nodeName: n2}}\nstatus: \
             {{podIPs: [{{ip: 10.200.{high}.{low}}}, {{ip: \"fd00:200::{i:x}\"}}]}}"
        )
        .expect("writing to a string");
    }
    text
}

/// A policy of one of so many applications: another one may connect to a port.
fn policy(i: usize, applications: usize, port: usize) -> String {
    let (app, peer) = (i % applications, (i + 1) % applications);
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, \
         name: p{i}}}\nspec:\n  podSelector: {{matchLabels: {{app: app{app}}}}}\n  ingress:\n  - \
         from: [{{podSelector: {{matchLabels: {{app: app{peer}}}}}}}]\n    ports: [{{port: {port}}}]\n"
    )
}

/// One policy for each of so many applications.
pub(crate) fn policies(applications: usize) -> String {
    let all = (0..applications).map(|i| policy(i, applications, 8_000 + i));
    all.collect()
}

/// Share of a core that an agent at rest takes, in percent.
pub(crate) fn idle_processor(agent: &Agent, rest: Duration) -> anyhow::Result<f64> {
    let before = processor_ns(agent.pid())?;
    let began = Instant::now();
    // Nobody sends: this only waits.
    let (_keep, silence) = mpsc::channel::<()>();
    _ = silence.recv_timeout(rest);
    let busy = (processor_ns(agent.pid())? - before) as f64;
    Ok(busy / began.elapsed().as_nanos() as f64 * 100.0)
}

/// Time that the threads of a process have run, in nanoseconds.
pub(crate) fn processor_ns(pid: u32) -> anyhow::Result<u64> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut sum = 0;
    for task in fs::read_dir(tasks)? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = schedstat.split_whitespace().next();
        sum += ran
            .context("an empty schedstat")?
            .parse::<u64>()
            .context("schedstat begins with a number")?;
    }
    Ok(sum)
}
