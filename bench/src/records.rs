//! Cost of telling of drops: a real agent, workloads that are denied what they send, and somebody
//! who follows.
//!
//! | figure | what |
//! |---|---|
//! | `packet_to_line` | from a denied packet until `observe --follow` has printed its line, at 5 000 a second |
//! | `processor_at_rate` | the agent's share of a core meanwhile |
//! | `growth_under_scan` | anonymous memory that the agent takes more while a workload tries 100 000 tuples |
//! | `scrape` | an answer of `/metrics`, with 10 000 policies |
//! | `allowed_under_flood` | exchanges of two workloads while a third is denied as much as it can send, in relation to those on a node where a plain program drops all that the third sends |
//!
//! For the last, two nodes stand at the same time and are measured in turn.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use aya::{Ebpf, programs::TcAttachType};
use cofferdam_tests::{
    agent::Agent,
    firewall::named,
    flood::send_at_pace,
    packet::{Family, udp},
    shop::CLOSED,
    traffic::{Conversation, FrameSocket, Probe, Server},
    world::{Wiring, Workload, World},
};
use serde_json::Value;

use crate::{
    agent::{AgentResult, beside_this, policies, processor_ns, remote_workloads, result},
    forward::attach,
    report::memory_kib,
};

const SETTINGS: &str = "limits: {endpoints: 32, slots: 65536, table_pages: 1024}\n";
/// Reported packets each second.
const RATE: u64 = 5_000;
/// Tuples of a scan.
const TUPLES: usize = 100_000;
/// Packets of a scan each second.
const SCAN_RATE: u64 = 20_000;
const POLICIES: usize = 10_000;
const REMOTE_WORKLOADS: usize = 10_000;
/// Answers of `/metrics` that are timed.
const SCRAPES: usize = 30;
/// Time in which a flood is measured on one node, in a round.
const ROUND: Duration = Duration::from_millis(400);
/// Port that is open, and echoes.
const PORT: u16 = 53;
/// Time after which an answer is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Workloads: one that is denied, and two that may talk.
const NAMES: [&str; 3] = ["shop/noisy", "shop/client", "shop/server"];

/// The server answers the client.
const OPEN: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{protocol: UDP, port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: shop}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
";

/// Measures an agent that tells of drops for a time, and floods for some rounds.
pub(crate) fn run(time: Duration, rounds: usize) -> anyhow::Result<Vec<AgentResult>> {
    let (told, scraped, flooded) = (told(time)?, scraped()?, flooded(rounds)?);
    let of_few = told.into_iter().chain(flooded);
    let results: Vec<AgentResult> = of_few
        .map(|figure| figure.of(NAMES.len(), 0))
        .chain(scraped)
        .collect();
    results.iter().for_each(AgentResult::print);
    Ok(results)
}

/// A node with three workloads, and an agent for it.
struct Node {
    agent: Agent,
    world: World,
}

impl Node {
    /// Starts an agent with some of the workloads as endpoints.
    fn new(endpoints: &[&str], documents: &[(&str, String)]) -> anyhow::Result<Self> {
        let world = World::plan(Wiring::Ptp).workloads(NAMES).build()?;
        let mut agent = Agent::new(&beside_this("cofferdam")?, &world).settings(SETTINGS);
        for (name, text) in documents {
            agent.document(name, text);
        }
        agent.document("shop.yaml", &[CLOSED, OPEN].join("\n---\n"));
        agent.start_enforced();
        for name in endpoints {
            let label = format!("app={}", name.rsplit('/').next().unwrap_or_default());
            agent.add(named(&world, name), &[&label]);
        }
        agent.sync();
        Ok(Self { agent, world })
    }

    fn workload(&self, name: &str) -> &Workload {
        named(&self.world, name)
    }

    /// Frames of the noisy workload to the server, each with ports of its own.
    fn denied(&self, number: usize) -> Vec<Vec<u8>> {
        let (noisy, server) = (self.workload("shop/noisy"), self.workload("shop/server"));
        let frames = (0..number).map(|at| {
            let (high, low) = (at / 50_000, at % 50_000);
            udp()
                .from(noisy.end)
                .to(server.end.with_mac(noisy.gateway.mac))
                .sport(10_000 + low as u16)
                .dport(1_000 + high as u16)
                .payload(&[0; 32])
                .bytes()
        });
        frames.collect()
    }

    fn noise(&self) -> anyhow::Result<FrameSocket> {
        let noisy = self.workload("shop/noisy");
        Ok(FrameSocket::open(&noisy.namespace, noisy.interface)?)
    }
}

/// A line of `observe`, and the time at which it was there.
type Line = (SystemTime, String);

/// Somebody who follows records.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(agent: &Agent) -> anyhow::Result<Self> {
        let mut child = Command::new(agent.binary())
            .args(["observe", "--follow", "--format", "json", "--run-dir"])
            .arg(agent.path("run"))
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("it is piped")?);
        Ok(Self { child, lines })
    }

    /// Lines until this many packets are told of, or nothing comes any more.
    fn read(&mut self, packets: u64) -> anyhow::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut told = 0;
        while told < packets {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                break;
            }
            let now = SystemTime::now();
            let record: Value = serde_json::from_str(&line)?;
            told += packets_of(&record);
            lines.push((now, line));
        }
        Ok(lines)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn packets_of(record: &Value) -> u64 {
    record["packets"].as_u64().unwrap_or(1)
}

/// Measures the way of records, and the memory under a scan.
fn told(time: Duration) -> anyhow::Result<Vec<AgentResult>> {
    let node = Node::new(&NAMES, &[])?;
    let noise = node.noise()?;
    let process = node.agent.pid().to_string();
    let mut follower = Follower::start(&node.agent)?;
    // Until the follower is there, and every part of the way has run once.
    let first = node.denied(1_000);
    send_at_pace(&noise, &first, RATE, Duration::from_secs(2))?;
    drop(follower.read(1_000)?);

    let before = memory_kib(&process, "RssAnon")?;
    let tuples = node.denied(TUPLES);
    let long = Duration::from_secs_f64(TUPLES as f64 / SCAN_RATE as f64);
    let over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = before;
            while !over.load(Ordering::Relaxed) {
                most = memory_kib(&process, "RssAnon").unwrap_or(most).max(most);
                thread::yield_now();
            }
            most
        });
        let sent = send_at_pace(&noise, &tuples, SCAN_RATE, long);
        node.agent.sync();
        over.store(true, Ordering::Relaxed);
        let most = watch.join().unwrap_or(before);
        sent.map(|_| most)
    })?;

    drop(follower);
    let mut follower = Follower::start(&node.agent)?;
    let time = time + Duration::from_secs(1);
    let wanted = (RATE as f64 * time.as_secs_f64()) as u64;
    let began = Instant::now();
    let busy = processor_ns(node.agent.pid())?;
    let (lines, sent, took) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // What was told before the first of these counts as little as the last few, which
            // may be missing.
            follower.read(wanted * 9 / 10)
        });
        let (sent, took) = send_at_pace(&noise, &tuples, RATE, time)?;
        let lines = reader
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        anyhow::Ok((lines, sent, took))
    })?;
    let busy = (processor_ns(node.agent.pid())? - busy) as f64;
    let percent = busy / began.elapsed().as_nanos() as f64 * 100.0;
    println!(
        "{sent} packets in {:.1} s, {} lines",
        took.as_secs_f64(),
        lines.len()
    );
    let mut delays = Vec::with_capacity(lines.len());
    // In the first second the follower begins to follow.
    for (at, line) in lines.iter().skip(RATE as usize) {
        let record: Value = serde_json::from_str(line)?;
        let seen = record["time"].as_str().context("a record has its time")?;
        let delay = at.duration_since(humantime::parse_rfc3339(seen)?);
        delays.push(delay.unwrap_or_default().as_secs_f64() * 1e3);
    }
    ensure!(!delays.is_empty(), "nothing was told");
    delays.sort_by(f64::total_cmp);
    let p99 = delays[(delays.len() * 99).div_ceil(100) - 1];
    let series = "cofferdam_unreported_packets_total{type=\"denied\"}";
    let not_told = node.agent.metric(series) as f64;
    Ok(vec![
        result("packet_to_line", "ms", &delays),
        result("packet_to_line_p99", "ms", &[p99]),
        result("processor_at_rate", "% of a core", &[percent]),
        result("growth_under_scan", "KiB", &[most - before]),
        result("not_told", "packets", &[not_told]),
    ])
}

/// Measures answers of `/metrics` with many policies.
fn scraped() -> anyhow::Result<Vec<AgentResult>> {
    let documents = [
        ("remote.yaml", remote_workloads(REMOTE_WORKLOADS, POLICIES)),
        ("policies.yaml", policies(POLICIES)),
    ];
    let node = Node::new(&NAMES, &documents)?;
    let mut times = Vec::new();
    let mut series = 0;
    for _ in 0..SCRAPES {
        let began = Instant::now();
        let (status, text) = node.agent.http("/metrics");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(status == 200, "{status}: {text}");
        series = text.lines().filter(|line| !line.starts_with('#')).count();
    }
    let of = |figure: AgentResult| figure.of(NAMES.len(), REMOTE_WORKLOADS);
    Ok(vec![
        of(result("scrape", "ms", &times)),
        of(result("series", "lines", &[series as f64])),
    ])
}

/// Two workloads that talk while a third one sends as much as it can.
struct Flood<'n> {
    node: &'n Node,
    noise: FrameSocket,
    frames: Vec<Vec<u8>>,
    talk: Conversation,
    turn: u64,
}

impl<'n> Flood<'n> {
    fn new(node: &'n Node) -> anyhow::Result<Self> {
        let server = node.workload("shop/server").ip(Family::V4);
        Ok(Self {
            node,
            noise: node.noise()?,
            frames: node.denied(50_000),
            talk: Conversation::udp(node.workload("shop/client"), server, PORT)?,
            turn: 0,
        })
    }

    /// Exchanges a second, and packets of the flood a second.
    fn round(&mut self) -> anyhow::Result<[f64; 2]> {
        let over = AtomicBool::new(false);
        let exchanges = AtomicU64::new(0);
        let Self {
            noise,
            frames,
            talk,
            turn,
            ..
        } = self;
        let (sent, took) = thread::scope(|scope| {
            let talker = scope.spawn(|| -> anyhow::Result<()> {
                while !over.load(Ordering::Relaxed) {
                    *turn += 1;
                    talk.exchange(format!("question {turn};").as_bytes(), PATIENCE)?;
                    exchanges.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let sent = send_at_pace(noise, frames, u64::MAX, ROUND);
            over.store(true, Ordering::Relaxed);
            talker
                .join()
                .map_err(|_| anyhow::anyhow!("it panicked"))??;
            anyhow::Ok(sent?)
        })?;
        let took = took.as_secs_f64();
        Ok([exchanges.into_inner() as f64 / took, sent as f64 / took])
    }
}

/// Measures what a flood that policy denies costs others, beside one that a plain program drops.
fn flooded(rounds: usize) -> anyhow::Result<Vec<AgentResult>> {
    let denied = Node::new(&NAMES, &[])?;
    let dropped = Node::new(&NAMES[1..], &[])?;
    let door = (dropped.workload("shop/noisy"), TcAttachType::Ingress);
    let _program: Ebpf = attach(&dropped.world, "dropping", &[door])?;
    let probes = [Probe::Udp(PORT)];
    let _servers = [&denied, &dropped]
        .map(|node| Server::start(node.workload("shop/server"), &probes))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let mut floods = [Flood::new(&denied)?, Flood::new(&dropped)?];
    let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
    // The first round is for the caches.
    for round in 0..=rounds {
        let mut exchanges = [0.0; 2];
        for step in 0..2 {
            let at = (round + step) % 2;
            let [talked, sent] = floods[at].round()?;
            exchanges[at] = talked;
            if round > 0 {
                rates[at].push(sent);
            }
        }
        if round > 0 {
            ratios.push(exchanges[0] / exchanges[1]);
        }
    }
    let hook = "cofferdam_dropped_packets_total{hook=\"from_workload\"";
    for flood in &floods {
        let (_, text) = flood.node.agent.http("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(hook));
        lines.for_each(|line| println!("{line}"));
    }
    let [by_policy, by_program] = &rates;
    Ok(vec![
        result("allowed_under_flood", "x plain", &ratios),
        result("flood_denied", "packets/s", by_policy),
        result("flood_dropped_plainly", "packets/s", by_program),
    ])
}
