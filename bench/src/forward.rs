//! Cost of a packet on its way from one workload to another, over the node's routing.
//!
//! Each configuration has a node of its own: two namespaces, joined to a third that routes
//! between them. All stand at the same time and are measured in turn, some milliseconds
//! each, for a number of rounds, so that what a machine does meanwhile meets all alike.
//!
//! One thread on one processor sends datagrams. Without a second queue the kernel takes a
//! packet all the way to the receiving socket before the call that sent it returns, so that
//! the time of the calls is that of the whole way. What the sender's part of it costs is
//! known from one more node, on whose first hook a program drops everything: that is taken
//! off. The sockets are read between the bursts, unmeasured, and nothing may be missing.
//!
//! Of a configuration's bursts in a round the median counts.
//!
//! For TCP the figure is half the time in which a few bytes go there and come back, both
//! sockets' work included.
//!
//! | configuration | on the way |
//! |---|---|
//! | `none` | nothing |
//! | `empty_tcx` | two programs that do nothing, where Cofferdam has its own |
//! | `cofferdam_1`, `_100k` | Cofferdam, both ends isolated; so many workloads on other nodes |
//! | `nft_linear_N`, `ipt_linear_N` | N rules that do not match, then one that does |
//! | `nft_map_100k`, `ipset_100k` | one look-up of the source among 100 000 |
//! | `…_ct` | the same behind connection tracking: only a flow's first packet is looked up |

mod others;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, include_bytes_aligned,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use cofferdam_dataplane::{Behaviour, Kernel};
use cofferdam_tests::{
    firewall::{Firewall, Pod, named},
    packet::Family,
    shop::{CLOSED, DB},
    world::{Wiring, Workload, World},
};
use cofferdam_verdict::capacity::Limits;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use self::others::Other;

static OBJECT: &[u8] = include_bytes_aligned!(env!("COFFERDAM_PLAIN_OBJECT"));

/// Port of datagrams that the policies allow.
const PORT: u16 = 53;
/// Port of connections that they allow.
const TCP_PORT: u16 = 5432;
/// Bytes of a datagram, and of what is said over a connection.
const PAYLOAD: usize = 64;
/// Datagrams between two readings of the receiver's socket, whose buffer holds some more.
const BURST: usize = 64;
/// Exchanges over a connection that are timed together.
const EXCHANGES: usize = 16;
/// Time after which a packet is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Measured ratio that Cofferdam is to keep to an empty program on each hook.
const GOAL: f64 = 1.07;

/// A figure.
#[derive(Debug, Serialize)]
pub(crate) struct ForwardResult {
    config: String,
    case: &'static str,
    /// Median of the rounds, of one packet.
    ns: i64,
    /// Median of each round's ratio to `none` in the same round.
    vs_none: f64,
    /// The same to `empty_tcx`.
    vs_empty_tcx: f64,
    /// Half of the way from the tenth to the ninetieth percentile of the rounds, in relation
    /// to the median.
    spread: f64,
    rounds: usize,
}

/// Firewall on a node's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Config {
    /// Drops everything on the first hook, for the sender's part of the cost.
    Door,
    None,
    EmptyTcx,
    /// Workloads on other nodes.
    Cofferdam(u32),
    Other(Other),
}

impl Config {
    const ALL: [Self; 13] = [
        Self::Door,
        Self::None,
        Self::EmptyTcx,
        Self::Cofferdam(1),
        Self::Cofferdam(100_000),
        Self::Other(Other::NftLinear(1_000)),
        Self::Other(Other::NftLinear(5_000)),
        Self::Other(Other::NftMap { tracked: false }),
        Self::Other(Other::NftMap { tracked: true }),
        Self::Other(Other::IptablesLinear(1_000)),
        Self::Other(Other::IptablesLinear(5_000)),
        Self::Other(Other::Ipset { tracked: false }),
        Self::Other(Other::Ipset { tracked: true }),
    ];

    fn name(self) -> String {
        match self {
            Self::Door => "door".to_owned(),
            Self::None => "none".to_owned(),
            Self::EmptyTcx => "empty_tcx".to_owned(),
            Self::Cofferdam(1) => "cofferdam_1".to_owned(),
            Self::Cofferdam(others) => format!("cofferdam_{}k", others / 1000),
            Self::Other(other) => other.name(),
        }
    }
}

/// Measures all configurations, or those that are wanted beside the two that others are
/// related to.
pub(crate) fn run(
    rounds: usize,
    time: Duration,
    wanted: &[String],
) -> anyhow::Result<Vec<ForwardResult>> {
    for name in wanted {
        ensure!(
            Config::ALL.iter().any(|config| config.name() == *name),
            "there is no configuration {name}"
        );
    }
    let mut nodes = Vec::new();
    for config in Config::ALL {
        let is_related_to = matches!(config, Config::Door | Config::None | Config::EmptyTcx);
        if !is_related_to && !wanted.is_empty() && !wanted.contains(&config.name()) {
            continue;
        }
        if let Config::Other(other) = config
            && let Err(missing) = other.probe()
        {
            println!("skipped {}: {missing:#}", config.name());
            continue;
        }
        let node = Node::new(config);
        nodes.push(node.with_context(|| format!("configuration {}", config.name()))?);
    }
    stay_on_one_processor()?;
    // The first round is for the caches.
    let all: Vec<Round> = (0..=rounds)
        .map(|number| round(&mut nodes, number, time))
        .collect::<anyhow::Result<_>>()?;
    let results = results(&nodes, &all[1..]);
    for result in &results {
        println!(
            "{:>15} {:<15} {:>7} ns, {:.3} x none, {:.3} x empty_tcx, +-{:.1} %",
            result.config,
            result.case,
            result.ns,
            result.vs_none,
            result.vs_empty_tcx,
            100.0 * result.spread
        );
    }
    let held = |result: &&ForwardResult| {
        result.config.starts_with("cofferdam") && result.case == ESTABLISHED
    };
    for result in results.iter().filter(held) {
        let ForwardResult {
            config,
            vs_empty_tcx,
            ..
        } = result;
        println!("{config}: {vs_empty_tcx:.3} x empty_tcx, at most {GOAL} wanted");
    }
    Ok(results)
}

/// A datagram of a flow that lasts, without the sender's part.
const ESTABLISHED: &str = "established";
/// Half of an exchange over a connection that lasts.
const ESTABLISHED_TCP: &str = "established_tcp";

/// Nanoseconds by case, for each node.
type Round = Vec<BTreeMap<&'static str, f64>>;

/// Measures all nodes once; each round begins with another one.
fn round(nodes: &mut [Node], number: usize, time: Duration) -> anyhow::Result<Round> {
    let mut figures = vec![BTreeMap::new(); nodes.len()];
    let count = nodes.len();
    for at in (0..count).map(|step| (number + step) % count) {
        let Node { config, link, .. } = &mut nodes[at];
        let failed = || format!("configuration {}", config.name());
        let is_open = *config != Config::Door;
        let datagram = link.send(time, is_open).with_context(failed)?;
        figures[at].insert(ESTABLISHED, datagram);
        if is_open {
            let half = link.talk(time).with_context(failed)?;
            figures[at].insert(ESTABLISHED_TCP, half);
        }
    }
    // The door is the first of all nodes.
    let sender = figures[0][ESTABLISHED];
    for figures in &mut figures[1..] {
        figures.entry(ESTABLISHED).and_modify(|ns| *ns -= sender);
    }
    Ok(figures)
}

/// The medians, in the order of the nodes.
fn results(nodes: &[Node], rounds: &[Round]) -> Vec<ForwardResult> {
    let place = |config| nodes.iter().position(|node| node.config == config);
    let mut results = Vec::new();
    for case in [ESTABLISHED, ESTABLISHED_TCP] {
        for (at, node) in nodes.iter().enumerate() {
            if node.config == Config::Door {
                continue;
            }
            let of = |at: usize| rounds.iter().map(move |round| round[at][case]);
            let ratio = |to| {
                let to = place(to).unwrap_or(at);
                quantile(of(at).zip(of(to)).map(|(ns, other)| ns / other), 50)
            };
            let median = quantile(of(at), 50);
            let width = quantile(of(at), 90) - quantile(of(at), 10);
            results.push(ForwardResult {
                config: node.config.name(),
                case,
                ns: median.round() as i64,
                vs_none: ratio(Config::None),
                vs_empty_tcx: ratio(Config::EmptyTcx),
                spread: width / 2.0 / median,
                rounds: rounds.len(),
            });
        }
    }
    results
}

/// The value below which so many percent of the values lie.
fn quantile(values: impl Iterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get(last * percent / 100)
        .copied()
        .unwrap_or(f64::NAN)
}

/// A node, what stands on it, and the flows over it.
struct Node {
    config: Config,
    link: Link,
    _programs: Option<Ebpf>,
    /// Before the world that its programs are attached in.
    _firewall: Option<Firewall>,
    _world: World,
}

impl Node {
    fn new(config: Config) -> anyhow::Result<Self> {
        let pods = [("shop/web", "app=web"), ("shop/db", "app=db")]
            .map(|(name, label)| Pod::new(name, &[label]));
        let names = pods.iter().map(|pod| pod.name.as_str());
        let world = World::plan(Wiring::Ptp).workloads(names).build()?;
        let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
        let mut programs = None;
        let mut firewall = None;
        match config {
            Config::None => {}
            Config::EmptyTcx => {
                let both = [(web, TcAttachType::Ingress), (db, TcAttachType::Egress)];
                programs = Some(attach(&world, "empty", &both)?);
            }
            Config::Cofferdam(others) => {
                let kernel = Kernel::load(Limits::default(), &Behaviour::default())?;
                let mut over = Firewall::over(kernel);
                over.enforce(&world, &pods, &[CLOSED, DB, &elsewhere(others)].concat());
                over.attach(&world);
                firewall = Some(over);
            }
            Config::Other(other) => {
                let addresses = [web, db].map(|workload| workload.ip(Family::V4));
                other.stand(&world.node().namespace, addresses)?;
            }
            Config::Door => {}
        }
        let link = Link::open(web, db)?;
        if config == Config::Door {
            programs = Some(attach(&world, "dropping", &[(web, TcAttachType::Ingress)])?);
        }
        Ok(Self {
            config,
            link,
            _programs: programs,
            _firewall: firewall,
            _world: world,
        })
    }
}

/// Puts a program on the host's side of workloads, for as long as what is returned lives.
pub(crate) fn attach(
    world: &World,
    program: &str,
    to: &[(&Workload, TcAttachType)],
) -> anyhow::Result<Ebpf> {
    let _inside = world.node().namespace.enter()?;
    let mut object = Ebpf::load(OBJECT)?;
    let loaded = object.program_mut(program).context("no such program")?;
    let loaded: &mut SchedClassifier = loaded.try_into()?;
    loaded.load()?;
    for &(workload, side) in to {
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        loaded.attach_with_options(&workload.host_interface, side, order)?;
    }
    Ok(object)
}

/// The document of so many workloads on another node, whom the same policies are about.
fn elsewhere(number: u32) -> String {
    // A document has a bound of values.
    const LIST: u32 = 10_000;
    let mut text = String::new();
    for n in 0..number {
        if n % LIST == 0 {
            text.push_str("---\napiVersion: v1\nkind: List\nitems:\n");
        }
        let [_, high, middle, low] = n.to_be_bytes();
        let high = high + 100;
        writeln!(
            text,
            "- {{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: w{n}, labels: \
             {{app: web}}}}, spec: {{nodeName: n2}}, status: {{podIPs: [{{ip: \
             10.{high}.{middle}.{low}}}]}}}}"
        )
        .expect("writing to a string");
    }
    text
}

/// Keeps this thread on the last processor that it may use: the first has more to do with
/// interrupts.
fn stay_on_one_processor() -> anyhow::Result<()> {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own)?;
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no processor is allowed")?)?;
    Ok(sched_setaffinity(own, &one)?)
}

/// A flow of datagrams, and a connection, from the sender to the receiver.
struct Link {
    sender: UdpSocket,
    receiver: UdpSocket,
    client: TcpStream,
    server: TcpStream,
}

impl Link {
    /// Opens both, and has them answered: they are established.
    fn open(web: &Workload, db: &Workload) -> anyhow::Result<Self> {
        let at = |workload: &Workload, port| SocketAddr::new(workload.ip(Family::V4), port);
        let socket = |workload: &Workload, port| {
            let _inside = workload.namespace.enter()?;
            let socket = UdpSocket::bind(at(workload, port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            anyhow::Ok(socket)
        };
        let (sender, receiver) = (socket(web, 0)?, socket(db, PORT)?);
        sender.connect(at(db, PORT))?;
        receiver.connect(sender.local_addr()?)?;
        let listener = {
            let _inside = db.namespace.enter()?;
            TcpListener::bind(at(db, TCP_PORT))?
        };
        let client = {
            let _inside = web.namespace.enter()?;
            TcpStream::connect_timeout(&at(db, TCP_PORT), PATIENCE)?
        };
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let mut buffer = [0; PAYLOAD];
        for _ in 0..2 {
            sender.send(&[1; PAYLOAD])?;
            receiver.recv(&mut buffer)?;
            receiver.send(&buffer)?;
            sender.recv(&mut buffer)?;
        }
        let mut link = Self {
            sender,
            receiver,
            client,
            server,
        };
        link.exchange()?;
        Ok(link)
    }

    /// Sends datagrams for some time, and returns the nanoseconds that one takes. All must
    /// arrive, unless they are dropped on the way.
    fn send(&self, time: Duration, arrives: bool) -> anyhow::Result<f64> {
        let mut buffer = [0; PAYLOAD];
        let each = bursts(time, || {
            let began = Instant::now();
            for _ in 0..BURST {
                self.sender.send(&[1; PAYLOAD])?;
            }
            let took = began.elapsed();
            for _ in 0..if arrives { BURST } else { 0 } {
                self.receiver
                    .recv(&mut buffer)
                    .context("a datagram is lost")?;
            }
            Ok(took)
        })?;
        Ok(each / BURST as f64)
    }

    /// Says something and has it said back for some time, and returns half of the nanoseconds
    /// that it takes once.
    fn talk(&mut self, time: Duration) -> anyhow::Result<f64> {
        let each = bursts(time, || {
            let began = Instant::now();
            for _ in 0..EXCHANGES {
                self.exchange().context("a connection broke")?;
            }
            Ok(began.elapsed())
        })?;
        Ok(each / EXCHANGES as f64 / 2.0)
    }

    fn exchange(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; PAYLOAD];
        self.client.write_all(&[1; PAYLOAD])?;
        self.server.read_exact(&mut buffer)?;
        self.server.write_all(&buffer)?;
        Ok(self.client.read_exact(&mut buffer)?)
    }
}

/// Does something again and again for some time, and returns the median of the nanoseconds
/// that it says it took: another process on the same processor stops some, and not most.
fn bursts(
    time: Duration,
    mut once: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut took = Vec::new();
    while took.is_empty() || began.elapsed() < time {
        took.push(once()?.as_nanos() as f64);
    }
    Ok(quantile(took.into_iter(), 50))
}
