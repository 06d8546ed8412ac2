//! The wait of containers for their verdicts, and the cost of a full node: a real agent with
//! hundreds of endpoints, told of them by the network plugin, as a runtime calls it.
//!
//! Times of `ADD` are those of the whole plugin, its process included, and of all that go at
//! the same time.

use std::{
    ffi::OsString,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use cofferdam_tests::{
    agent::Agent,
    cni,
    packet::Family,
    traffic::Place,
    world::{Wiring, Workload, World},
};
use serde_json::json;

use crate::{
    agent::{AgentResult, beside_this, idle_processor, policies, remote_workloads, result},
    report::memory_kib,
};

const SETTINGS: &str = "limits: {endpoints: 600, slots: 65536, flows_per_endpoint: 1024}\n";
/// Endpoints of an ordinary full node.
const ENDPOINTS: usize = 250;
/// Endpoints among which the agent is killed.
const MANY: usize = 500;
const REMOTE_WORKLOADS: usize = 10_000;
const POLICIES: usize = 1_000;
/// Containers that are added at the same time.
const AT_A_TIME: usize = 16;
/// Of each kind, so many are measured.
const ADDED: usize = 96;
/// So many are added one after the other.
const ALONE: usize = 32;
/// Times that the agent is killed.
const KILLS: usize = 5;

/// Measures the agent of a full node, watching it at rest for a time.
pub(crate) fn run(rest: Duration) -> anyhow::Result<Vec<AgentResult>> {
    let binary = beside_this("cofferdam")?;
    let plugin = beside_this("cofferdam-cni")?;
    let names: Vec<String> = (0..MANY).map(|i| format!("shop/w{i}")).collect();
    let world = World::plan(Wiring::Ptp).workloads(names).build()?;
    let mut agent = Agent::new(&binary, &world).settings(SETTINGS);
    agent.document("remote.yaml", &remote_workloads(REMOTE_WORKLOADS, POLICIES));
    agent.document("policies.yaml", &policies(POLICIES));
    agent.start_enforced();

    let workloads = world.workloads();
    let (full, more) = workloads.split_at(ENDPOINTS);
    let runtime = Runtime {
        agent: &agent,
        world: &world,
        plugin: &plugin,
    };
    // Applications that some policies select.
    let like_others = |i: usize| i % 50;
    runtime.add_all(full, AT_A_TIME, like_others)?;
    agent.sync();
    // Links follow the filters one by one.
    agent.wait_until("attached", |status| {
        let links = status.endpoints.iter().flat_map(|one| &one.links);
        links.into_iter().all(|link| link.ok)
    });
    let memory = memory_kib(&agent.pid().to_string(), "RssAnon")?;
    let idle = idle_processor(&agent, rest)?;
    let (twins, rest_of_them) = more.split_at(ADDED);
    let adds = runtime.add_all(twins, AT_A_TIME, like_others)?;
    let (one_by_one, rest_of_them) = rest_of_them.split_at(ALONE);
    let alone = runtime.add_all(one_by_one, 1, like_others)?;
    let (singles, rest_of_them) = rest_of_them.split_at(ADDED);
    let unlike = |i: usize| 100 + i;
    let with_tables = runtime.add_all(singles, AT_A_TIME, unlike)?;
    runtime.add_all(rest_of_them, AT_A_TIME, like_others)?;
    agent.sync();

    let mut ready = Vec::new();
    for _ in 0..KILLS {
        agent.kill();
        let began = Instant::now();
        agent.start_enforced();
        ready.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let mut results = vec![
        result("rss_anon", "KiB", &[memory]).of(ENDPOINTS, REMOTE_WORKLOADS),
        result("idle_processor", "% of a core", &[idle]).of(ENDPOINTS, REMOTE_WORKLOADS),
    ];
    for (figure, at_a_time, samples) in [
        ("cni_add", AT_A_TIME, &adds),
        ("cni_add_alone", 1, &alone),
        ("cni_add_with_table", AT_A_TIME, &with_tables),
    ] {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
        println!("{figure:>28} p99 {p99:.2} ms, {at_a_time} at a time");
        results.push(result(figure, "ms", samples).of(ENDPOINTS, REMOTE_WORKLOADS));
    }
    results.push(result("ready_after_kill", "ms", &ready).of(MANY, REMOTE_WORKLOADS));
    agent.stop();
    results.iter().for_each(AgentResult::print);
    Ok(results)
}

/// A runtime that calls the plugin alone.
struct Runtime<'a> {
    agent: &'a Agent,
    world: &'a World,
    plugin: &'a Path,
}

impl Runtime<'_> {
    /// Adds workloads, some at a time; returns how long each took, in milliseconds.
    fn add_all(
        &self,
        workloads: &[Workload],
        at_a_time: usize,
        app: impl Fn(usize) -> usize + Sync,
    ) -> anyhow::Result<Vec<f64>> {
        let next = AtomicUsize::new(0);
        let times = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let threads: Vec<_> = (0..at_a_time)
                .map(|_| {
                    scope.spawn(|| -> anyhow::Result<()> {
                        loop {
                            let i = next.fetch_add(1, Ordering::Relaxed);
                            let Some(workload) = workloads.get(i) else {
                                return Ok(());
                            };
                            let began = Instant::now();
                            self.add(workload, app(i))?;
                            let took = began.elapsed().as_secs_f64() * 1e3;
                            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                            times.push(took);
                        }
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| {
                let result = thread.join();
                result.map_err(|_| anyhow::anyhow!("a thread has panicked"))?
            });
            joined.collect::<anyhow::Result<()>>()
        })?;
        Ok(times.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, workload: &Workload, app: usize) -> anyhow::Result<()> {
        let place = Place::from(workload);
        let name = workload.name.rsplit('/').next().unwrap_or_default();
        let ips = Family::BOTH.map(|family| {
            let bits = if family == Family::V4 { 32 } else { 128 };
            json!({"interface": 1, "address": format!("{}/{bits}", place.ip(family))})
        });
        let input = json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "cofferdam-cni",
            "runDir": self.agent.path("run"),
            "cofferdam": {"namespace": "shop", "labels": {"app": format!("app{app}")}},
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": workload.host_interface},
                    {"name": workload.interface, "sandbox": workload.namespace.path()},
                ],
                "ips": ips,
            },
        });
        let environment = [
            ("CNI_COMMAND", OsString::from("ADD")),
            ("CNI_PATH", OsString::from("/nowhere")),
            ("CNI_CONTAINERID", OsString::from(name)),
            ("CNI_NETNS", workload.namespace.path().into_os_string()),
            ("CNI_IFNAME", OsString::from(workload.interface)),
        ];
        let _inside = self.world.node().namespace.enter()?;
        let output = cni::run(self.plugin, &environment, input.to_string().as_bytes())?;
        ensure!(output.status.success(), "{output:?}\n{}", self.agent.log());
        Ok(())
    }
}
