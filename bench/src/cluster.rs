//! A node of a large Kubernetes cluster: what its agent needs to follow the API server, and how
//! soon an event is in force.
//!
//! The agent is a real one on a node of network namespaces; the API server is the tests', over
//! TLS, with whole objects. Pods come, get an address and go on other nodes, in a namespace
//! whose policies of workloads here select them as peers, and a slice of a Service changes with
//! each. An event counts from before the server has it until the pod's address leads to a slot
//! in the kernel, or no longer does.
//!
//! Server and agent share the machine: on two cores, what the server takes for a list delays
//! the agent.

mod in_force;
mod objects;

use std::{
    net::IpAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use cofferdam_tests::{
    agent::Agent,
    api_server::{ApiServer, Traffic, documents},
    cluster::{Cluster, Size},
    world::{Wiring, World},
};
use serde_json::Value;

use crate::{
    agent::{AgentResult, beside_this, processor_ns, result},
    report::memory_kib,
};
use in_force::Addresses;

/// The cluster, and what happens in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) pods: usize,
    pub(crate) policies: usize,
    /// Changes of pods.
    pub(crate) changes_per_second: usize,
    pub(crate) time: Duration,
}

/// Pods for each Service.
const PODS_PER_SERVICE: usize = 15;
/// Applications whose pods come and go: those of the first namespace.
const APPLICATIONS: usize = 10;
/// A pod has an address so many pods after it came, and goes so many after it came.
const UNTIL_ADDRESS: usize = 10;
const UNTIL_GONE: usize = 60;
/// Changes of a pod in its life: it comes, gets an address, goes.
const CHANGES: usize = 3;
/// Longest time that a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time from one look at the addresses in force to the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// Time in which the agent does what is left after its start.
const UNTIL_QUIET: Duration = Duration::from_secs(5);

/// Measures an agent of such a cluster.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<AgentResult>> {
    let binary = beside_this("cofferdam")?;
    let size = Size {
        pods: plan.pods,
        policies: plan.policies,
        pods_per_node: plan.pods.div_ceil(plan.nodes),
    };
    let cluster = Cluster::new(size, 1).with_services(plan.pods / PODS_PER_SERVICE);
    let local = cluster.local_pods();
    let (endpoints, remote) = (local.len(), plan.pods - local.len());
    let world = World::plan(Wiring::Ptp).workloads(local).build()?;
    let server = ApiServer::start_tls(&world.node().namespace);
    server.serve_node_statuses(true);
    for file in cluster.files() {
        for object in documents(&file.text) {
            server.put(objects::complete(object));
        }
    }

    let mut agent = Agent::new(&binary, &world);
    let kubeconfig = server.write_kubeconfig(&agent.path(""));
    // Two addresses for each pod, and room for those that come.
    let slots = (plan.pods * 5 / 2 + plan.nodes + 8_192).next_power_of_two();
    agent.set(&format!(
        "limits: {{endpoints: 300, slots: {slots}, flows_per_endpoint: 1024}}\n\
         kubernetes: {{enabled: true, kubeconfig: {}}}\n",
        kubeconfig.display()
    ));
    let began = Instant::now();
    agent.start(&[]);
    await_enforced(&agent)?;
    let listed = began.elapsed().as_secs_f64();
    let listed_processor = processor_ns(agent.pid())? as f64 / 1e9;
    let listed_bytes = sum(&server).listed_bytes;
    for workload in world.workloads() {
        agent.add(workload, &[]);
    }
    ensure!(agent.sync().enforced, "{}", agent.log());
    pause(UNTIL_QUIET);
    let memory = memory_kib(&agent.pid().to_string(), "RssAnon")? / 1024.0;

    let churn = Churn::new(&cluster, &server, &agent)?.run(plan)?;
    let memory_after = memory_kib(&agent.pid().to_string(), "RssAnon")? / 1024.0;
    let status = agent.status();
    ensure!(
        status.enforced && status.tamper_events == 0,
        "{}",
        agent.log()
    );
    agent.stop();

    let seconds = churn.measured.as_secs_f64();
    let bytes = churn.traffic.watched_bytes as f64 / seconds;
    let events = churn.traffic.events as f64 / seconds;
    let of = |figure, unit, samples: &[f64]| result(figure, unit, samples).of(endpoints, remote);
    let one = |figure, unit, sample: f64| of(figure, unit, &[sample]);
    let nodes = plan.nodes as f64;
    let mut results = vec![
        one("first_list_to_in_force", "s", listed),
        one("first_list_processor", "s", listed_processor),
        one("first_list_received", "MiB", listed_bytes as f64 / MIB),
        one("rss_anon_after_list", "MiB", memory),
        one("rss_anon_after_churn", "MiB", memory_after),
    ];
    for (median, p99, samples) in [
        (
            "address_to_in_force",
            "address_to_in_force_p99",
            &churn.come,
        ),
        ("end_to_in_force", "end_to_in_force_p99", &churn.gone),
    ] {
        results.push(of(median, "ms", samples));
        results.push(one(p99, "ms", percentile(samples, 99)));
    }
    results.extend([
        one(
            "processor_under_churn",
            "% of a core",
            churn.processor_percent,
        ),
        one(
            "tables_under_churn",
            "a second",
            churn.tables as f64 / seconds,
        ),
        one("watch_events", "a second", events),
        one("watch_received", "KiB a second", bytes / 1024.0),
        one("watch_events_all_nodes", "a second", events * nodes),
        one(
            "watch_sent_to_all_nodes",
            "MiB a second",
            bytes * nodes / MIB,
        ),
        one(
            "first_list_sent_to_all_nodes",
            "GiB",
            listed_bytes as f64 * nodes / MIB / 1024.0,
        ),
    ]);
    results.iter().for_each(AgentResult::print);
    Ok(results)
}

const MIB: f64 = (1 << 20) as f64;

/// Waits until an agent that starts has everything in force.
fn await_enforced(agent: &Agent) -> anyhow::Result<()> {
    let waited = agent.cli(&["status", "--wait", "enforced", "--timeout", "300s"]);
    ensure!(waited.status.success(), "{waited:?}\n{}", agent.log());
    Ok(())
}

fn pause(time: Duration) {
    let (_keep, silence) = mpsc::channel::<()>();
    // Nobody sends: this only waits.
    _ = silence.recv_timeout(time);
}

/// All that the server has sent about objects of every kind.
fn sum(server: &ApiServer) -> Traffic {
    let all = server.traffic().into_values();
    all.fold(Traffic::default(), |sum, one| Traffic {
        listed_bytes: sum.listed_bytes + one.listed_bytes,
        watched_bytes: sum.watched_bytes + one.watched_bytes,
        events: sum.events + one.events,
    })
}

/// The sample that so many percent do not exceed; 0 without any.
fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Pods that come and go.
struct Churn<'a> {
    cluster: &'a Cluster,
    server: &'a ApiServer,
    agent: &'a Agent,
    in_force: Addresses,
    /// A pod of each application.
    pods: Vec<Value>,
    waiting: Vec<Waiting>,
    churned: Churned,
}

/// An event that is not in force yet.
struct Waiting {
    address: IpAddr,
    has_come: bool,
    since: Instant,
}

/// The result.
#[derive(Default)]
struct Churned {
    /// Milliseconds until an address was in force.
    come: Vec<f64>,
    /// Milliseconds until it was not any more.
    gone: Vec<f64>,
    measured: Duration,
    processor_percent: f64,
    traffic: Traffic,
    /// Tables that were published.
    tables: u64,
}

impl<'a> Churn<'a> {
    fn new(cluster: &'a Cluster, server: &'a ApiServer, agent: &'a Agent) -> anyhow::Result<Self> {
        let pods = (0..APPLICATIONS).map(|number| {
            let text = cluster.pod_elsewhere(number);
            documents(&text).next().map(objects::complete)
        });
        Ok(Self {
            cluster,
            server,
            agent,
            in_force: Addresses::open(&agent.pins())?,
            pods: pods.collect::<Option<_>>().context("a pod is a document")?,
            waiting: Vec::new(),
            churned: Churned::default(),
        })
    }

    fn run(mut self, plan: &Plan) -> anyhow::Result<Churned> {
        // Until pods go as fast as they come.
        let before = UNTIL_GONE * CHANGES;
        let per_second = plan.changes_per_second as f64;
        let all = before + (per_second * plan.time.as_secs_f64()) as usize;
        let began = Instant::now();
        let mut start = None;
        let mut done = 0;
        while done < all {
            let due = (began.elapsed().as_secs_f64() * per_second) as usize;
            while done < due.min(all) {
                if done == before {
                    self.churned.come.clear();
                    self.churned.gone.clear();
                    start = Some(self.reading()?);
                }
                self.change(done);
                done += 1;
            }
            self.look()?;
            pause(BETWEEN_LOOKS);
        }
        let (end, start) = (self.reading()?, start.context("nothing was measured")?);
        while !self.waiting.is_empty() {
            self.look()?;
            pause(BETWEEN_LOOKS);
        }
        ensure!(
            !self.churned.come.is_empty() && !self.churned.gone.is_empty(),
            "no change was measured: more changes or seconds are needed"
        );
        let measured = end.at - start.at;
        let busy = (end.processor_ns - start.processor_ns) as f64;
        Ok(Churned {
            measured,
            processor_percent: busy / measured.as_nanos() as f64 * 100.0,
            traffic: Traffic {
                listed_bytes: end.traffic.listed_bytes - start.traffic.listed_bytes,
                watched_bytes: end.traffic.watched_bytes - start.traffic.watched_bytes,
                events: end.traffic.events - start.traffic.events,
            },
            tables: end.revision - start.revision,
            ..self.churned
        })
    }

    fn reading(&self) -> anyhow::Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            processor_ns: processor_ns(self.agent.pid())?,
            traffic: sum(self.server),
            revision: self.agent.status().revision,
        })
    }

    /// Makes one change: of three, one pod comes, one has an address, one goes.
    fn change(&mut self, number: usize) {
        let newest = number / CHANGES;
        match number % CHANGES {
            0 => self.server.put(self.pod(newest, false)),
            1 => {
                if let Some(pod) = newest.checked_sub(UNTIL_ADDRESS) {
                    self.wait_for(pod, true);
                    self.server.put(self.pod(pod, true));
                    self.change_slice(pod, true);
                }
            }
            _ => {
                if let Some(pod) = newest.checked_sub(UNTIL_GONE) {
                    self.wait_for(pod, false);
                    let namespace = self.pods[0]["metadata"]["namespace"]
                        .as_str()
                        .unwrap_or_default();
                    self.server.delete("Pod", namespace, &name(pod));
                    self.change_slice(pod, false);
                }
            }
        }
    }

    fn pod(&self, number: usize, has_address: bool) -> Value {
        let addresses = match has_address {
            true => addresses(number)
                .map(|address| address.to_string())
                .to_vec(),
            false => Vec::new(),
        };
        objects::renamed(&self.pods[number % APPLICATIONS], &name(number), &addresses)
    }

    /// A slice of a Service of the pod's application has one endpoint more, or less.
    fn change_slice(&self, pod: usize, is_more: bool) {
        let endpoints = if is_more { 5 } else { 4 };
        let text = self.cluster.slice_of(pod % APPLICATIONS, endpoints);
        for slice in documents(&text) {
            self.server.put(objects::complete(slice));
        }
    }

    fn wait_for(&mut self, pod: usize, has_come: bool) {
        self.waiting.push(Waiting {
            address: addresses(pod)[0],
            has_come,
            since: Instant::now(),
        });
    }

    /// Notes which changes are in force.
    fn look(&mut self) -> anyhow::Result<()> {
        let Self {
            waiting,
            in_force,
            churned,
            agent,
            ..
        } = self;
        waiting.retain(|one| {
            let is_in_force = in_force.has(one.address) == one.has_come;
            if is_in_force {
                let samples = match one.has_come {
                    true => &mut churned.come,
                    false => &mut churned.gone,
                };
                samples.push(one.since.elapsed().as_secs_f64() * 1e3);
            }
            !is_in_force
        });
        let late = waiting.iter().filter(|one| one.since.elapsed() > PATIENCE);
        ensure!(
            late.count() == 0,
            "changes are not in force after {PATIENCE:?}:\n{}",
            agent.log()
        );
        Ok(())
    }
}

/// A moment of the agent's and the server's.
struct Reading {
    at: Instant,
    processor_ns: u64,
    traffic: Traffic,
    revision: u64,
}

fn name(pod: usize) -> String {
    format!("coming-and-going-{pod}")
}

/// Addresses that no other pod has.
fn addresses(pod: usize) -> [IpAddr; 2] {
    let [.., high, low] = (pod as u32).to_be_bytes();
    [
        IpAddr::from([10, 250, high, low]),
        IpAddr::from([0xfd00, 0x10, 0xffff, 0, 0, 0, 0, pod as u16]),
    ]
}
